//! One field of a pattern item: spec, last and mask (Programmer's Guide, "Pattern item").
//!
//! Knows nothing of which field it is; the default masks of rte_flow.h are in the item table.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::field::{FieldValue, low_mask};

/// What a field of a packet is compared with.
///
/// The default matches every value. Bits of `spec` outside `mask` are allowed and have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Matched<T> {
    /// The value, or the lower bound of a range.
    pub spec: T,
    /// Bits that are compared; all zero matches every value.
    pub mask: T,
    /// Upper bound of an inclusive range. As in rte_flow, a bound of zero or equal to `spec` (both
    /// under the mask) makes no range; see [`Matched::range`].
    pub last: Option<T>,
}

impl<T: FieldValue> Default for Matched<T> {
    fn default() -> Self {
        Self {
            spec: T::from_bits(0),
            mask: T::from_bits(0),
            last: None,
        }
    }
}

impl<T: FieldValue> Matched<T> {
    /// Matches every value.
    pub fn any() -> Self {
        Self::default()
    }

    /// Matches this value only (testpmd's `is`).
    pub fn exact(spec: T) -> Self {
        Self {
            spec,
            mask: T::all_ones(),
            last: None,
        }
    }

    /// Matches values equal to `spec` in the bits of `mask`.
    pub fn masked(spec: T, mask: T) -> Self {
        Self {
            spec,
            mask,
            last: None,
        }
    }

    /// Matches values whose `length` most significant bits are those of `spec`; a length above the
    /// width counts as the width.
    pub fn prefix(spec: T, length: u32) -> Self {
        Self {
            spec,
            mask: T::from_bits(prefix_mask(T::BITS, length)),
            last: None,
        }
    }

    /// Matches values from `spec` to `last`, both included.
    pub fn between(spec: T, last: T) -> Self {
        Self {
            spec,
            mask: T::all_ones(),
            last: Some(last),
        }
    }

    /// Whether every value matches.
    pub fn is_any(&self) -> bool {
        self.mask.to_bits() == 0
    }

    /// Whether nothing is specified: matches every value and carries no spec or last either.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// Whether exactly one value matches.
    pub fn is_exact(&self) -> bool {
        self.mask == T::all_ones() && self.range().is_none()
    }

    /// Both bounds under the mask if the field is a range. A `last` that is zero or equal to `spec`
    /// under the mask makes no range.
    pub fn range(&self) -> Option<(T, T)> {
        self.erase()
            .range()
            .map(|(low, high)| (T::from_bits(low), T::from_bits(high)))
    }

    /// Whether `value` matches.
    pub fn matches(&self, value: T) -> bool {
        self.erase().matches(value.to_bits())
    }

    /// The same as numbers, for code that handles all fields alike.
    pub fn erase(&self) -> ErasedMatch {
        ErasedMatch {
            spec: self.spec.to_bits(),
            mask: self.mask.to_bits(),
            last: self.last.map(FieldValue::to_bits),
        }
    }

    /// The typed value; bits above the width of the field are ignored.
    pub fn from_erased(erased: ErasedMatch) -> Self {
        Self {
            spec: T::from_bits(erased.spec),
            mask: T::from_bits(erased.mask),
            last: erased.last.map(T::from_bits),
        }
    }
}

/// A [`Matched`] value of any width as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErasedMatch {
    /// See [`Matched::spec`].
    pub spec: u128,
    /// See [`Matched::mask`].
    pub mask: u128,
    /// See [`Matched::last`].
    pub last: Option<u128>,
}

impl ErasedMatch {
    /// See [`Matched::range`].
    pub fn range(&self) -> Option<(u128, u128)> {
        let low = self.spec & self.mask;
        let high = self.last? & self.mask;
        (high != 0 && high != low).then_some((low, high))
    }

    /// See [`Matched::matches`].
    pub fn matches(&self, value: u128) -> bool {
        let value = value & self.mask;
        match self.range() {
            Some((low, high)) => (low..=high).contains(&value),
            None => value == self.spec & self.mask,
        }
    }

    /// Length of the prefix if the mask of a field of `bits` bits is one.
    pub fn prefix_length(&self, bits: u32) -> Option<u32> {
        let length = self.mask.count_ones();
        (self.mask == prefix_mask(bits, length)).then_some(length)
    }
}

/// The `length` most significant bits of a field of `bits` bits.
pub(crate) fn prefix_mask(bits: u32, length: u32) -> u128 {
    let all = low_mask(bits);
    all & !low_mask(bits.saturating_sub(length))
}

/// JSON form: `{"is": V}` for one value, `{"spec": V, "mask": M}` and `{"spec": V, "prefix": N}`
/// for several, each with an optional `"last"`. Printed with `is` or `spec` and `mask`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<T>,
}

impl<T: FieldValue + Serialize> Serialize for Matched<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = self.mask == T::all_ones();
        Form {
            is: exact.then_some(self.spec),
            spec: (!exact).then_some(self.spec),
            mask: (!exact).then_some(self.mask),
            prefix: None,
            last: self.last,
        }
        .serialize(serializer)
    }
}

impl<'de, T: FieldValue + Deserialize<'de>> Deserialize<'de> for Matched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::<T>::deserialize(deserializer)?;
        let mut matched = match (form.is, form.spec, form.mask, form.prefix) {
            (Some(spec), None, None, None) => Self::exact(spec),
            (None, Some(spec), Some(mask), None) => Self::masked(spec, mask),
            (None, Some(spec), None, Some(length)) if length <= T::BITS => {
                Self::prefix(spec, length)
            }
            (None, Some(_), None, Some(length)) => {
                return Err(D::Error::custom(format!(
                    "`prefix` is 0 to {}, found {length}",
                    T::BITS
                )));
            }
            _ => {
                return Err(D::Error::custom(
                    "expected `is`, `spec` with `mask`, or `spec` with `prefix`",
                ));
            }
        };
        matched.last = form.last;
        Ok(matched)
    }
}

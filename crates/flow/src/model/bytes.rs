//! Byte strings: those that a pattern item compares, and those that an action carries.
//!
//! In text and in JSON they are hexadecimal digits, two a byte, without a prefix.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// At most `MAX` bytes, in the order in which they are on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ByteString<const MAX: usize>(Vec<u8>);

/// Bytes that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// Too many.
    #[error("{found} bytes, the limit is {max}")]
    TooLong {
        /// How many there are.
        found: usize,
        /// How many there can be.
        max: usize,
    },
    /// Text that is no byte string.
    #[error("bytes are written as hexadecimal digits, two each")]
    NotHexadecimal,
    /// A mask that is not as long as the value.
    #[error("the value has {spec} bytes and the mask {mask}")]
    MaskLength {
        /// Bytes of the value.
        spec: usize,
        /// Bytes of the mask.
        mask: usize,
    },
}

impl<const MAX: usize> ByteString<MAX> {
    /// The bytes, or an error if there are too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, BytesError> {
        match bytes.len() {
            found if found > MAX => Err(BytesError::TooLong { found, max: MAX }),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for ByteString<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl<const MAX: usize> Serialize for ByteString<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for ByteString<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = parse_hex(&text).ok_or(BytesError::NotHexadecimal);
        bytes.and_then(Self::new).map_err(D::Error::custom)
    }
}

/// Writes two digits a byte.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The bytes that an even number of hexadecimal digits stands for; `0x` may stand before them.
pub(crate) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

/// What a byte string of a packet is compared with. Value and mask are of one length; the default
/// has no bytes and matches everything. There are no ranges (`struct rte_flow_item_raw`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MatchedBytes<const MAX: usize> {
    spec: Vec<u8>,
    mask: Vec<u8>,
}

impl<const MAX: usize> MatchedBytes<MAX> {
    /// These bytes only.
    pub fn exact(spec: Vec<u8>) -> Result<Self, BytesError> {
        let mask = vec![0xff; spec.len()];
        Self::masked(spec, mask)
    }

    /// Bytes equal to `spec` in the bits of `mask`.
    pub fn masked(spec: Vec<u8>, mask: Vec<u8>) -> Result<Self, BytesError> {
        if spec.len() > MAX {
            return Err(BytesError::TooLong {
                found: spec.len(),
                max: MAX,
            });
        }
        if spec.len() != mask.len() {
            return Err(BytesError::MaskLength {
                spec: spec.len(),
                mask: mask.len(),
            });
        }
        Ok(Self { spec, mask })
    }

    /// The value.
    pub fn spec(&self) -> &[u8] {
        &self.spec
    }

    /// Bits that are compared; as long as the value.
    pub fn mask(&self) -> &[u8] {
        &self.mask
    }

    /// Whether nothing is specified.
    pub fn is_unset(&self) -> bool {
        self.spec.is_empty()
    }

    /// Whether `bytes` begins with what is matched.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.spec.len()
            && std::iter::zip(bytes, std::iter::zip(&self.spec, &self.mask))
                .all(|(byte, (spec, mask))| byte & mask == spec & mask)
    }
}

/// JSON form: `{"is": "0a0b"}` or `{"spec": "0a0b", "mask": "ff00"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<const MAX: usize> {
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<ByteString<MAX>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<ByteString<MAX>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<ByteString<MAX>>,
}

impl<const MAX: usize> Serialize for MatchedBytes<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = self.mask.iter().all(|byte| *byte == 0xff);
        let spec = ByteString::<MAX>(self.spec.clone());
        let (is, spec, mask) = match exact {
            true => (Some(spec), None, None),
            false => (None, Some(spec), Some(ByteString(self.mask.clone()))),
        };
        Form { is, spec, mask }.serialize(serializer)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for MatchedBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::<MAX>::deserialize(deserializer)?;
        match (form.is, form.spec, form.mask) {
            (Some(spec), None, None) => Self::exact(spec.0),
            (None, Some(spec), Some(mask)) => Self::masked(spec.0, mask.0),
            _ => return Err(D::Error::custom("expected `is`, or `spec` with `mask`")),
        }
        .map_err(D::Error::custom)
    }
}

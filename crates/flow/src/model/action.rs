//! Rows of the table of actions, and the values of their arguments.
//!
//! The table itself is in `action_table`. Nothing is carried out here.

use std::net::IpAddr;

use super::bytes::ByteString;
use super::ct::{AddressRange, PortRange};
use super::field::{FieldKind, FieldValue};
use super::port::PortRef;

pub use super::action_table::Action;

/// One action as the syntax knows it.
#[derive(Debug)]
pub struct ActionRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// Its arguments in the order in which they are printed.
    pub arguments: &'static [ArgumentRow],
    /// The action with these arguments, one place per row of `arguments`.
    pub build: fn(&[Option<Argument>]) -> Result<Action, ArgumentError>,
}

/// One argument of an action as the syntax knows it.
#[derive(Debug)]
pub struct ArgumentRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// How a value is written.
    pub kind: FieldKind,
    /// Width in bits; 0 for values that are no numbers.
    pub bits: u32,
    /// Whether the value follows the action without the argument's name.
    pub bare: bool,
    /// The value, or `None` if it has its default or the action is of another type.
    pub get: fn(&Action) -> Option<Argument>,
}

/// A value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A number or address of a fixed width as bits.
    Bits(u128),
    /// An address of either IP version.
    Ip(IpAddr),
    /// A port.
    Port(PortRef),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Numbers.
    Numbers(Vec<u16>),
    /// Value and mask.
    Masked(u128, u128),
    /// A range of addresses.
    Addresses(AddressRange),
    /// A range of ports.
    Ports(PortRange),
    /// Actions.
    Actions(Vec<Action>),
}

/// Arguments that make no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// An argument without a default is absent.
    #[error("action `{action}` needs `{argument}`")]
    Missing {
        /// The action's token.
        action: &'static str,
        /// The argument's token.
        argument: &'static str,
    },
    /// An argument that means nothing without another one.
    #[error("`{argument}` of action `{action}` needs {needs}")]
    Needs {
        /// The action's token.
        action: &'static str,
        /// The argument's token.
        argument: &'static str,
        /// What is missing.
        needs: &'static str,
    },
    /// Arguments of which there can be one, and not the one that is expected.
    #[error("action `{action}` takes exactly one of {arguments}")]
    Exclusive {
        /// The action's token.
        action: &'static str,
        /// The tokens of the arguments.
        arguments: &'static str,
    },
    /// A value that an argument cannot have.
    #[error("`{argument}` of action `{action}` is {expected}")]
    Value {
        /// The action's token.
        action: &'static str,
        /// The argument's token.
        argument: &'static str,
        /// What it can be.
        expected: &'static str,
    },
    /// Text that is not what it should be.
    #[error("expected {expected}")]
    Text {
        /// What was expected.
        expected: &'static str,
    },
    /// One outer address is of IPv4 and the other of IPv6.
    #[error("`{action}` has `ip_src` {src} and `ip_dst` {dst}; both must be of one IP version")]
    MixedAddresses {
        /// The action's token.
        action: &'static str,
        /// Outer source address.
        src: IpAddr,
        /// Outer destination address.
        dst: IpAddr,
    },
}

/// A type that an argument can have.
pub(super) trait ArgumentValue: Sized {
    const KIND: FieldKind;
    const BITS: u32;
    fn to_argument(&self) -> Argument;
    fn from_argument(argument: &Argument) -> Option<Self>;
}

impl<T: FieldValue> ArgumentValue for T {
    const KIND: FieldKind = <T as FieldValue>::KIND;
    const BITS: u32 = <T as FieldValue>::BITS;
    fn to_argument(&self) -> Argument {
        Argument::Bits(self.to_bits())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Bits(bits) => Some(T::from_bits(*bits)),
            _ => None,
        }
    }
}

impl ArgumentValue for PortRef {
    const KIND: FieldKind = FieldKind::Port;
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Port(self.clone())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Port(port) => Some(port.clone()),
            _ => None,
        }
    }
}

impl ArgumentValue for IpAddr {
    const KIND: FieldKind = FieldKind::Ip;
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Ip(*self)
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Ip(address) => Some(*address),
            _ => None,
        }
    }
}

/// The value of one place of a list of arguments, or an error naming it.
pub(super) fn required<T: ArgumentValue>(
    place: Option<&Option<Argument>>,
    action: &'static str,
    argument: &'static str,
) -> Result<T, ArgumentError> {
    take(place).ok_or(ArgumentError::Missing { action, argument })
}

/// The value of one place of a list of arguments, or its default.
pub(super) fn optional<T: ArgumentValue + Default>(place: Option<&Option<Argument>>) -> T {
    take(place).unwrap_or_default()
}

impl<const MAX: usize> ArgumentValue for ByteString<MAX> {
    const KIND: FieldKind = FieldKind::Bytes(MAX);
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Bytes(self.as_bytes().to_vec())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Bytes(bytes) => Self::new(bytes.clone()).ok(),
            _ => None,
        }
    }
}

impl ArgumentValue for Vec<u16> {
    const KIND: FieldKind = FieldKind::Numbers;
    const BITS: u32 = 16;
    fn to_argument(&self) -> Argument {
        Argument::Numbers(self.clone())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Numbers(numbers) => Some(numbers.clone()),
            _ => None,
        }
    }
}

impl ArgumentValue for Vec<Action> {
    const KIND: FieldKind = FieldKind::Actions;
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Actions(self.clone())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Actions(actions) => Some(actions.clone()),
            _ => None,
        }
    }
}

/// The arguments of an action that needs more than a list of values: a form with all of them
/// optional, which is also the JSON form and which the target is made from by `TryFrom`, and the
/// rows of the table.
macro_rules! form {
    ($variant:ident = $token:literal for $target:ty {
        $($field:ident: $ty:ty = $argument:literal $(, $flag:ident)?;)*
        $(; defined $defined:literal)?
    }) => {
        /// The action's token.
        const NAME: &str = $token;

        #[derive(Clone, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Form {
            $(
                #[serde(rename = $argument, default, skip_serializing_if = "Option::is_none")]
                $field: Option<$ty>,
            )*
        }

        impl $target {
            /// The rows; [`Self::build`] takes the arguments in this order.
            pub(in crate::model) const ARGUMENTS: &'static [$crate::model::action::ArgumentRow] =
                &[$($crate::model::action::ArgumentRow {
                    name: $argument,
                    kind: $crate::model::action::form!(@kind $ty $(, $flag)?),
                    bits: <$ty as $crate::model::action::ArgumentValue>::BITS,
                    bare: false,
                    get: |action| match action {
                        $crate::model::Action::$variant(value) => Form::from(value.clone())
                            .$field
                            .as_ref()
                            .map($crate::model::action::ArgumentValue::to_argument),
                        _ => None,
                    },
                },)*
                $($crate::model::action::ArgumentRow {
                    name: $defined,
                    kind: $crate::model::FieldKind::Defined,
                    bits: 32,
                    bare: false,
                    get: |_| None,
                },)?];

            pub(in crate::model) fn build(
                arguments: &[Option<$crate::model::Argument>],
            ) -> Result<Self, $crate::model::ArgumentError> {
                let mut arguments = arguments.iter();
                let form = Form {
                    $($field: $crate::model::action::take(arguments.next()),)*
                };
                form.try_into()
            }
        }
    };
    (@kind $ty:ty) => { <$ty as $crate::model::action::ArgumentValue>::KIND };
    (@kind $ty:ty, $flag:ident) => { $crate::model::FieldKind::$flag };
}
pub(super) use form;

/// The value of one place of a list of arguments.
pub(super) fn take<T: ArgumentValue>(place: Option<&Option<Argument>>) -> Option<T> {
    place?.as_ref().and_then(T::from_argument)
}

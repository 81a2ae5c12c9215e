//! Types of the values that pattern fields and action arguments carry.
//!
//! Values narrower than their storage have a type of their own and cannot hold a wider value.
//! Byte order is never visible here: numbers are numbers.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a field is written in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// Unsigned number: decimal, hexadecimal (`0x`) or octal (leading `0`).
    Unsigned,
    /// Unsigned number that is printed in hexadecimal (EtherType, flags).
    Hexadecimal,
    /// TCP control bits: a number, or names joined by `|`; printed as a number.
    TcpFlags,
    /// MAC address, six hexadecimal bytes with colons.
    Mac,
    /// IPv4 address in dotted notation.
    Ipv4,
    /// IPv6 address (RFC 4291, section 2.2).
    Ipv6,
    /// Address of either IP version.
    Ip,
    /// Number or name of a port, see [`PortRef`](super::PortRef).
    Port,
    /// Signed 32-bit number, kept as its two's complement.
    Signed,
    /// One of these names; the value is its place in the list.
    Named(&'static [&'static str]),
    /// Names up to `end`, each standing for bits; printed by the names that stand for one bit.
    NameSet(&'static [(&'static str, u64)]),
    /// Connection state: a number, or after `is` names as `+est-inv`; see [`CtState`](super::CtState).
    CtState,
    /// At most this many bytes, two hexadecimal digits each.
    Bytes(usize),
    /// Text without blanks of at most this many bytes.
    Text(usize),
    /// Numbers up to `end`.
    Numbers,
    /// No value: the name alone sets it.
    Flag,
    /// `VALUE` or `VALUE/MASK`, numbers of the field's width.
    Masked,
    /// `ADDRESS` or `FIRST-LAST` of one IP version.
    Addresses,
    /// `PORT` or `FIRST-LAST`.
    Ports,
    /// Actions up to `end`.
    Actions,
    /// Number of something that a `set` command defined; stands for the argument before.
    Defined,
}

/// A value that a pattern field can hold: a bit string of fixed width.
pub trait FieldValue: Copy + Eq + fmt::Debug + 'static {
    /// Width in bits, 1 to 128.
    const BITS: u32;
    /// How the value is written in text.
    const KIND: FieldKind;

    /// The value as a number, most significant bit of the field first.
    fn to_bits(self) -> u128;

    /// The value with these bits; bits above [`Self::BITS`] are ignored.
    fn from_bits(bits: u128) -> Self;

    /// All bits of the field set.
    fn all_ones() -> Self {
        Self::from_bits(u128::MAX)
    }
}

/// The lowest `bits` bits set; all of them for 128 and above.
pub(crate) const fn low_mask(bits: u32) -> u128 {
    if bits >= 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    }
}

macro_rules! unsigned_field {
    ($($ty:ty),*) => {$(
        impl FieldValue for $ty {
            const BITS: u32 = <$ty>::BITS;
            const KIND: FieldKind = FieldKind::Unsigned;
            fn to_bits(self) -> u128 {
                u128::from(self)
            }
            fn from_bits(bits: u128) -> Self {
                // Truncation is the contract of `from_bits`.
                bits as $ty
            }
        }
    )*};
}
unsigned_field!(u8, u16, u32, u64);

impl FieldValue for bool {
    const BITS: u32 = 1;
    const KIND: FieldKind = FieldKind::Unsigned;
    fn to_bits(self) -> u128 {
        u128::from(self)
    }
    fn from_bits(bits: u128) -> Self {
        bits & 1 == 1
    }
}

impl FieldValue for i32 {
    const BITS: u32 = 32;
    const KIND: FieldKind = FieldKind::Signed;
    fn to_bits(self) -> u128 {
        self.cast_unsigned().into()
    }
    fn from_bits(bits: u128) -> Self {
        (bits as u32).cast_signed()
    }
}

impl FieldValue for Ipv4Addr {
    const BITS: u32 = 32;
    const KIND: FieldKind = FieldKind::Ipv4;
    fn to_bits(self) -> u128 {
        u128::from(u32::from(self))
    }
    fn from_bits(bits: u128) -> Self {
        Self::from(bits as u32)
    }
}

impl FieldValue for Ipv6Addr {
    const BITS: u32 = 128;
    const KIND: FieldKind = FieldKind::Ipv6;
    fn to_bits(self) -> u128 {
        u128::from(self)
    }
    fn from_bits(bits: u128) -> Self {
        Self::from(bits)
    }
}

/// A number does not fit the field it is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} is 0 to {max}, found {found}")]
pub struct RangeError {
    /// The field.
    pub name: &'static str,
    /// The largest value it holds.
    pub max: u32,
    /// The value that was given.
    pub found: u32,
}

macro_rules! narrow_field {
    ($($(#[$doc:meta])* $name:ident: $storage:ty, $bits:literal, $label:literal;)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name($storage);

        impl $name {
            /// The largest value.
            pub const MAX: Self = Self(((1u32 << $bits) - 1) as $storage);

            /// The value, or an error if it needs more bits than the field has.
            pub const fn new(value: u32) -> Result<Self, RangeError> {
                if value <= Self::MAX.0 as u32 {
                    Ok(Self(value as $storage))
                } else {
                    Err(RangeError { name: $label, max: Self::MAX.0 as u32, found: value })
                }
            }

            /// The value as a number.
            pub const fn get(self) -> $storage {
                self.0
            }
        }

        impl TryFrom<u32> for $name {
            type Error = RangeError;
            fn try_from(value: u32) -> Result<Self, RangeError> {
                Self::new(value)
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> u32 {
                u32::from(value.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FieldValue for $name {
            const BITS: u32 = $bits;
            const KIND: FieldKind = FieldKind::Unsigned;
            fn to_bits(self) -> u128 {
                u128::from(self.0)
            }
            fn from_bits(bits: u128) -> Self {
                Self((bits & low_mask($bits)) as $storage)
            }
        }
    )*};
}

narrow_field! {
    /// VXLAN network identifier, 24 bits (RFC 7348, section 5).
    Vni: u32, 24, "VXLAN network identifier";
    /// VLAN identifier, 12 bits (IEEE 802.1Q, section 9.6).
    VlanId: u16, 12, "VLAN identifier";
    /// VLAN priority code point, 3 bits (IEEE 802.1Q, section 9.6).
    Pcp: u8, 3, "VLAN priority code point";
    /// IPv6 flow label, 20 bits (RFC 8200, section 3).
    FlowLabel: u32, 20, "IPv6 flow label";
    /// Differentiated services code point, 6 bits (RFC 2474, section 3).
    Dscp: u8, 6, "DSCP";
    /// MPLS label, 20 bits (RFC 3032, section 2.1).
    MplsLabel: u32, 20, "MPLS label";
    /// MPLS traffic class, 3 bits (RFC 5462).
    MplsTc: u8, 3, "MPLS traffic class";
    /// Length of all Geneve options in words of 4 bytes, 6 bits (RFC 8926, section 3.4).
    GeneveOptionsLength: u8, 6, "Geneve options length";
    /// Length of one Geneve option's data in words of 4 bytes, 5 bits (RFC 8926, section 3.5).
    GeneveOptionLength: u8, 5, "Geneve option length";
    /// QoS flow identifier, 6 bits (3GPP TS 38.415, section 5.5.3.3).
    Qfi: u8, 6, "QoS flow identifier";
    /// Type of a PDU session container, 4 bits (3GPP TS 38.415, section 5.5.3.1).
    PduType: u8, 4, "PDU type";
    /// Idle time after which a rule has aged, in seconds, 24 bits (`struct rte_flow_action_age`).
    AgeTimeout: u32, 24, "age timeout";
}

/// Colour that a meter gave a packet (RFC 2697, RFC 2698; `enum rte_color`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeterColor {
    /// Within the committed rate.
    #[default]
    Green,
    /// Above the committed rate.
    Yellow,
    /// Above the excess or peak rate.
    Red,
    /// No colour of a packet: both bits set, the mask that compares the colour.
    All,
}

impl MeterColor {
    /// Names in the order of their values.
    pub const NAMES: &'static [&'static str] = &["green", "yellow", "red", "all"];
}

impl FieldValue for MeterColor {
    const BITS: u32 = 2;
    const KIND: FieldKind = FieldKind::Named(Self::NAMES);
    fn to_bits(self) -> u128 {
        self as u128
    }
    fn from_bits(bits: u128) -> Self {
        match bits & 3 {
            0 => Self::Green,
            1 => Self::Yellow,
            2 => Self::Red,
            _ => Self::All,
        }
    }
}

/// 16 bits of flags, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags16(pub u16);

impl FieldValue for Flags16 {
    const BITS: u32 = 16;
    const KIND: FieldKind = FieldKind::Hexadecimal;
    fn to_bits(self) -> u128 {
        self.0.into()
    }
    fn from_bits(bits: u128) -> Self {
        Self(bits as u16)
    }
}

/// EtherType or tag protocol identifier, a 16-bit number written in hexadecimal.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// Transparent Ethernet bridging: an Ethernet frame follows (RFC 7637, RFC 8926).
    pub const TEB: Self = Self(0x6558);
    /// MPLS, unicast (RFC 5332).
    pub const MPLS: Self = Self(0x8847);
    /// MPLS, multicast or upstream-assigned label (RFC 5332).
    pub const MPLS_MULTICAST: Self = Self(0x8848);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// 802.1Q tag.
    pub const VLAN: Self = Self(0x8100);
    /// 802.1ad service tag.
    pub const QINQ: Self = Self(0x88a8);
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04x}", self.0)
    }
}

impl FieldValue for EtherType {
    const BITS: u32 = 16;
    const KIND: FieldKind = FieldKind::Hexadecimal;
    fn to_bits(self) -> u128 {
        u128::from(self.0)
    }
    fn from_bits(bits: u128) -> Self {
        Self(bits as u16)
    }
}

/// MAC address in the order in which its bytes are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl FieldValue for MacAddr {
    const BITS: u32 = 48;
    const KIND: FieldKind = FieldKind::Mac;
    fn to_bits(self) -> u128 {
        self.0
            .iter()
            .fold(0, |bits, byte| bits << 8 | u128::from(*byte))
    }
    fn from_bits(bits: u128) -> Self {
        let mut bytes = [0; 6];
        for (byte, shift) in bytes.iter_mut().zip((0..48).step_by(8).rev()) {
            *byte = (bits >> shift) as u8;
        }
        Self(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six two-digit hexadecimal bytes with colons, as 02:00:00:00:00:01")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(MacAddrError),
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

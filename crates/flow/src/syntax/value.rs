//! Values of fields and arguments as text, by kind.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::describe::TcpFlags;
use crate::model::{Argument, FieldKind, FieldValue, MacAddr, PortRef};

/// How a value of one field is written.
#[derive(Clone, Copy)]
pub(crate) struct ValueText {
    pub(crate) kind: FieldKind,
    pub(crate) bits: u32,
}

/// The largest number of `bits` bits; fields that are numbers have at most 32.
fn largest(bits: u32) -> u64 {
    u64::MAX.checked_shr(64 - bits.min(64)).unwrap_or(0)
}

/// What a value is, in words.
pub(crate) fn describe_value(kind: FieldKind, bits: u32) -> String {
    match kind {
        FieldKind::Unsigned => format!("a number 0 to {}", largest(bits)),
        FieldKind::Hexadecimal => format!("a number 0 to {:#x}", largest(bits)),
        FieldKind::TcpFlags => "TCP flags as `syn|ack` or a number 0 to 0xff".to_owned(),
        FieldKind::Mac => "a MAC address".to_owned(),
        FieldKind::Ipv4 => "an IPv4 address".to_owned(),
        FieldKind::Ipv6 => "an IPv6 address".to_owned(),
        FieldKind::Ip => "an IPv4 or IPv6 address".to_owned(),
        FieldKind::Port => "a port".to_owned(),
    }
}

impl ValueText {
    /// The value, or `None` if the token is none of this kind.
    pub(crate) fn read(self, token: &str) -> Option<Argument> {
        let number = |max| crate::number::parse(token).filter(|number| *number <= max);
        match self.kind {
            FieldKind::Unsigned | FieldKind::Hexadecimal => {
                number(largest(self.bits)).map(|number| Argument::Bits(number.into()))
            }
            FieldKind::TcpFlags => match number(largest(self.bits)) {
                Some(number) => Some(Argument::Bits(number.into())),
                None => TcpFlags::from_names(token).map(|flags| Argument::Bits(flags.to_bits())),
            },
            FieldKind::Mac => token
                .parse()
                .ok()
                .map(|address: MacAddr| Argument::Bits(address.to_bits())),
            // testpmd takes an IPv4 address as a number, too.
            FieldKind::Ipv4 => match token.parse::<Ipv4Addr>() {
                Ok(address) => Some(Argument::Bits(FieldValue::to_bits(address))),
                Err(_) => number(u32::MAX.into()).map(|number| Argument::Bits(number.into())),
            },
            FieldKind::Ipv6 => token
                .parse::<Ipv6Addr>()
                .ok()
                .map(|address| Argument::Bits(FieldValue::to_bits(address))),
            FieldKind::Ip => token
                .parse()
                .ok()
                .map(|address: IpAddr| Argument::Ip(address)),
            FieldKind::Port => PortRef::new(token).ok().map(Argument::Port),
        }
    }

    /// The value as [`Self::read`] takes it.
    pub(crate) fn print(self, value: &Argument, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match value {
            Argument::Ip(address) => write!(f, "{address}"),
            Argument::Port(port) => write!(f, "{port}"),
            Argument::Bits(bits) => match self.kind {
                FieldKind::Hexadecimal | FieldKind::TcpFlags => write!(f, "{bits:#x}"),
                FieldKind::Mac => write!(f, "{}", MacAddr::from_bits(*bits)),
                FieldKind::Ipv4 => write!(f, "{}", <Ipv4Addr as FieldValue>::from_bits(*bits)),
                FieldKind::Ipv6 => write!(f, "{}", <Ipv6Addr as FieldValue>::from_bits(*bits)),
                FieldKind::Unsigned | FieldKind::Ip | FieldKind::Port => write!(f, "{bits}"),
            },
        }
    }
}

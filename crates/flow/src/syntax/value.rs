//! Values of fields and arguments as text, by kind.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::describe::TcpFlags;
use crate::model::{
    AddressRange, Argument, FieldKind, FieldValue, MacAddr, PortRange, PortRef, low_mask,
    parse_hex, write_hex,
};

/// How a value of one field is written.
#[derive(Clone, Copy)]
pub(crate) struct ValueText {
    pub(crate) kind: FieldKind,
    pub(crate) bits: u32,
}

/// What a value is, in words.
pub(crate) fn describe_value(kind: FieldKind, bits: u32) -> String {
    match kind {
        FieldKind::Unsigned | FieldKind::Numbers => format!("a number 0 to {}", low_mask(bits)),
        FieldKind::Hexadecimal => format!("a number 0 to {:#x}", low_mask(bits)),
        FieldKind::Signed => format!("a number {} to {}", i32::MIN, i32::MAX),
        FieldKind::TcpFlags => "TCP flags as `syn|ack` or a number 0 to 0xff".to_owned(),
        FieldKind::Mac => "a MAC address".to_owned(),
        FieldKind::Ipv4 => "an IPv4 address".to_owned(),
        FieldKind::Ipv6 => "an IPv6 address".to_owned(),
        FieldKind::Ip => "an IPv4 or IPv6 address".to_owned(),
        FieldKind::Port => "a port".to_owned(),
        FieldKind::CtState => "`+est-inv` behind `is`, or a number 0 to 0xff".to_owned(),
        FieldKind::Bytes(max) => format!("1 to {max} bytes, two hexadecimal digits each"),
        FieldKind::Text(max) => format!("text of up to {max} bytes"),
        FieldKind::Masked => format!("VALUE or VALUE/MASK, numbers 0 to {:#x}", low_mask(bits)),
        FieldKind::Addresses => "ADDRESS or FIRST-LAST".to_owned(),
        FieldKind::Ports => "PORT or FIRST-LAST, 1 to 65535".to_owned(),
        FieldKind::Defined => "the number of a definition".to_owned(),
        FieldKind::Named(names) => names.join(", "),
        FieldKind::NameSet(_) | FieldKind::Flag | FieldKind::Actions => String::new(),
    }
}

impl ValueText {
    /// The value, or `None` if the token is none of this kind.
    pub(crate) fn read(self, token: &str) -> Option<Argument> {
        let number = |max| crate::number::parse(token).filter(|number| *number <= max);
        let all = low_mask(self.bits);
        match self.kind {
            FieldKind::Unsigned
            | FieldKind::Hexadecimal
            | FieldKind::CtState
            | FieldKind::Numbers
            | FieldKind::Defined => number(all).map(Argument::Bits),
            FieldKind::Signed => signed(token).map(|number| Argument::Bits(number.to_bits())),
            FieldKind::Bytes(max) => parse_hex(token)
                .filter(|bytes| (1..=max).contains(&bytes.len()))
                .map(Argument::Bytes),
            FieldKind::Text(max) => {
                (token.len() <= max).then(|| Argument::Bytes(token.as_bytes().to_vec()))
            }
            FieldKind::Masked => {
                let (value, mask) = match token.split_once('/') {
                    Some((value, mask)) => (value, crate::number::parse(mask)?),
                    None => (token, all),
                };
                let value = crate::number::parse(value)?;
                (value <= all && mask <= all).then_some(Argument::Masked(value, mask))
            }
            FieldKind::Addresses => {
                let range: Option<AddressRange> = token.parse().ok();
                range.map(Argument::Addresses)
            }
            FieldKind::Ports => {
                let range: Option<PortRange> = token.parse().ok();
                range.map(Argument::Ports)
            }
            FieldKind::TcpFlags => match number(all) {
                Some(number) => Some(Argument::Bits(number)),
                None => TcpFlags::from_names(token).map(|flags| Argument::Bits(flags.to_bits())),
            },
            FieldKind::Mac => token
                .parse()
                .ok()
                .map(|address: MacAddr| Argument::Bits(address.to_bits())),
            // testpmd takes an IPv4 address as a number, too.
            FieldKind::Ipv4 => match token.parse::<Ipv4Addr>() {
                Ok(address) => Some(Argument::Bits(FieldValue::to_bits(address))),
                Err(_) => number(u32::MAX.into()).map(Argument::Bits),
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
            // Of several tokens or none; read by the grammar.
            FieldKind::Named(_) | FieldKind::NameSet(_) | FieldKind::Flag | FieldKind::Actions => {
                None
            }
        }
    }

    /// The value as [`Self::read`] takes it.
    pub(crate) fn print(self, value: &Argument, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match value {
            Argument::Ip(address) => write!(f, "{address}"),
            Argument::Port(port) => write!(f, "{port}"),
            Argument::Bytes(bytes) => write_hex(bytes, f),
            Argument::Numbers(numbers) => {
                numbers
                    .iter()
                    .try_for_each(|number| write!(f, "{number} "))?;
                f.write_str("end")
            }
            Argument::Masked(value, mask) if *mask == low_mask(self.bits) => {
                write!(f, "{value:#x}")
            }
            Argument::Masked(value, mask) => write!(f, "{value:#x}/{mask:#x}"),
            Argument::Addresses(range) => write!(f, "{range}"),
            Argument::Ports(range) => write!(f, "{range}"),
            Argument::Actions(actions) => {
                actions
                    .iter()
                    .try_for_each(|action| write!(f, "{action} / "))?;
                f.write_str("end")
            }
            Argument::Bits(bits) => match self.kind {
                FieldKind::Hexadecimal | FieldKind::TcpFlags | FieldKind::CtState => {
                    write!(f, "{bits:#x}")
                }
                FieldKind::Signed => write!(f, "{}", i32::from_bits(*bits)),
                FieldKind::Named(names) => {
                    let name = usize::try_from(*bits)
                        .ok()
                        .and_then(|index| names.get(index));
                    f.write_str(name.copied().unwrap_or_default())
                }
                FieldKind::NameSet(names) => {
                    for (name, bit) in names {
                        if bit.count_ones() == 1 && bits & u128::from(*bit) != 0 {
                            write!(f, "{name} ")?;
                        }
                    }
                    f.write_str("end")
                }
                FieldKind::Flag => Ok(()),
                FieldKind::Mac => write!(f, "{}", MacAddr::from_bits(*bits)),
                FieldKind::Ipv4 => write!(f, "{}", <Ipv4Addr as FieldValue>::from_bits(*bits)),
                FieldKind::Ipv6 => write!(f, "{}", <Ipv6Addr as FieldValue>::from_bits(*bits)),
                _ => write!(f, "{bits}"),
            },
        }
    }
}

/// A signed number of 32 bits.
fn signed(token: &str) -> Option<i32> {
    let (negative, digits) = match token.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, token),
    };
    let magnitude = i128::try_from(crate::number::parse(digits)?).ok()?;
    i32::try_from(if negative { -magnitude } else { magnitude }).ok()
}

//! Connection tracking as a rule sees it: the private item `ct` and the private action `ct`.
//!
//! Neither is in rte_flow.h, whose `conntrack` belongs to hardware that is told each connection. In
//! rte_flow's terms both are private to the driver and have the type -1; private types are negative
//! (`enum rte_flow_item_type`, Programmer's Guide, "Negative types"). The bits of the state and what
//! `commit`, `force` and NAT mean are those of OpenFlow's `ct` as ovs-fields(7) and ovs-actions(7)
//! describe it. Nothing here tracks a connection.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::action::{Argument, ArgumentError, ArgumentValue, form};
use super::field::{FieldKind, FieldValue};

/// State of a packet's connection, a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CtState(pub u8);

impl CtState {
    /// Names of the bits, least significant first.
    pub const NAMES: [&'static str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];
    /// The packet would begin a connection that is not committed.
    pub const NEW: Self = Self(0x01);
    /// It belongs to a committed connection.
    pub const EST: Self = Self(0x02);
    /// It is related to one: an ICMP error about it, or a connection that it announced.
    pub const REL: Self = Self(0x04);
    /// It goes in the direction opposite to the first packet.
    pub const RPL: Self = Self(0x08);
    /// Tracking refused it.
    pub const INV: Self = Self(0x10);
    /// It went through tracking; without this bit no other is set.
    pub const TRK: Self = Self(0x20);
    /// Its source was translated.
    pub const SNAT: Self = Self(0x40);
    /// Its destination was translated.
    pub const DNAT: Self = Self(0x80);

    /// Value and mask of names joined by signs, as `+trk+est-inv`; `None` if the text is no such
    /// thing or names a bit twice.
    pub fn from_signs(text: &str) -> Option<(Self, Self)> {
        let mut rest = text;
        let (mut value, mut mask) = (0, 0);
        while !rest.is_empty() {
            let (sign, name) = rest.split_at_checked(1)?;
            let end = name.find(['+', '-']).unwrap_or(name.len());
            let (name, next) = name.split_at(end);
            let bit = 1 << Self::NAMES.iter().position(|known| *known == name)?;
            if mask & bit != 0 {
                return None;
            }
            mask |= bit;
            match sign {
                "+" => value |= bit,
                "-" => {}
                _ => return None,
            }
            rest = next;
        }
        (mask != 0).then_some((Self(value), Self(mask)))
    }

    /// The text that [`Self::from_signs`] reads.
    pub fn write_signs(value: Self, mask: Self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, name) in Self::NAMES.iter().enumerate() {
            if mask.0 >> bit & 1 == 1 {
                let sign = if value.0 >> bit & 1 == 1 { '+' } else { '-' };
                write!(f, "{sign}{name}")?;
            }
        }
        Ok(())
    }
}

impl FieldValue for CtState {
    const BITS: u32 = 8;
    const KIND: FieldKind = FieldKind::CtState;
    fn to_bits(self) -> u128 {
        self.0.into()
    }
    fn from_bits(bits: u128) -> Self {
        Self(bits as u8)
    }
}

/// Label of a connection, 128 bits. Hexadecimal text in JSON, which has no numbers of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtLabel(pub u128);

impl FieldValue for CtLabel {
    const BITS: u32 = 128;
    const KIND: FieldKind = FieldKind::Hexadecimal;
    fn to_bits(self) -> u128 {
        self.0
    }
    fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for CtLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for CtLabel {
    type Err = ArgumentError;
    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        crate::number::parse(text)
            .map(Self)
            .ok_or(ArgumentError::Text {
                expected: "a number of up to 128 bits",
            })
    }
}

/// Bits to set and their values: `VALUE/MASK` in text and JSON, or `VALUE` for all bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Masked<T> {
    /// The value; bits outside the mask have no effect.
    pub value: T,
    /// Bits that are set.
    pub mask: T,
}

impl<T: FieldValue> fmt::Display for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.value.to_bits())?;
        if self.mask == T::all_ones() {
            return Ok(());
        }
        write!(f, "/{:#x}", self.mask.to_bits())
    }
}

impl<T: FieldValue> FromStr for Masked<T> {
    type Err = ArgumentError;
    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (value, Some(mask)),
            None => (text, None),
        };
        let number = |text: &str| {
            crate::number::parse(text)
                .filter(|number| T::from_bits(*number).to_bits() == *number)
                .map(T::from_bits)
                .ok_or(ArgumentError::Text {
                    expected: "VALUE or VALUE/MASK, numbers that fit",
                })
        };
        Ok(Self {
            value: number(value)?,
            mask: mask.map_or(Ok(T::all_ones()), number)?,
        })
    }
}

impl<T: FieldValue> ArgumentValue for Masked<T> {
    const KIND: FieldKind = FieldKind::Masked;
    const BITS: u32 = T::BITS;
    fn to_argument(&self) -> Argument {
        Argument::Masked(self.value.to_bits(), self.mask.to_bits())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Masked(value, mask) => Some(Self {
                value: T::from_bits(*value),
                mask: T::from_bits(*mask),
            }),
            _ => None,
        }
    }
}

/// Addresses from `first` to `last`, both included and of one IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The range, or an error if the versions differ or `last` is below `first`.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, ArgumentError> {
        if first.is_ipv4() != last.is_ipv4() || last < first {
            return Err(ArgumentError::Text {
                expected: "addresses of one IP version, the lower one first",
            });
        }
        Ok(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = ArgumentError;
    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => Self::new(first, last),
            _ => Err(ArgumentError::Text {
                expected: "ADDRESS or FIRST-LAST",
            }),
        }
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, or an error if `first` is 0 or `last` is below it.
    pub fn new(first: u16, last: u16) -> Result<Self, ArgumentError> {
        if first == 0 || last < first {
            return Err(ArgumentError::Text {
                expected: "ports 1 to 65535, the lower one first",
            });
        }
        Ok(Self { first, last })
    }

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(&self) -> u16 {
        self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = ArgumentError;
    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port =
            |text| crate::number::parse(text).and_then(|number: u128| u16::try_from(number).ok());
        match (port(first), port(last)) {
            (Some(first), Some(last)) => Self::new(first, last),
            _ => Err(ArgumentError::Text {
                expected: "PORT or FIRST-LAST",
            }),
        }
    }
}

macro_rules! as_text {
    ($($(@ $generic:ident)? $ty:ty;)*) => {$(
        impl$(<$generic: FieldValue>)? Serialize for $ty {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de $(, $generic: FieldValue)?> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text! {
    CtLabel;
    @T Masked<T>;
    AddressRange;
    PortRange;
}

macro_rules! range_argument {
    ($($ty:ident: $kind:ident;)*) => {$(
        impl ArgumentValue for $ty {
            const KIND: FieldKind = FieldKind::$kind;
            const BITS: u32 = 0;
            fn to_argument(&self) -> Argument {
                Argument::$kind(*self)
            }
            fn from_argument(argument: &Argument) -> Option<Self> {
                match argument {
                    Argument::$kind(range) => Some(*range),
                    _ => None,
                }
            }
        }
    )*};
}
range_argument! {
    AddressRange: Addresses;
    PortRange: Ports;
}

/// What NAT may choose from. Without addresses the packet's own stays (only the port may change);
/// without ports the packet's own is kept if it is free, else any is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatRange {
    /// Addresses.
    pub addresses: Option<AddressRange>,
    /// TCP and UDP ports, ICMP echo identifiers.
    pub ports: Option<PortRange>,
}

/// Address translation of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtNat {
    /// Translate as the connection was when it was committed; changes no other connection's packets.
    Restore,
    /// Give new connections a source out of the range.
    Src(NatRange),
    /// Give new connections a destination out of the range.
    Dst(NatRange),
}

/// Track the packet: find or check its connection, and set what the item `ct` matches.
///
/// Text: `ct [commit] [force] [zone N] [mark V[/M]] [label V[/M]] [nat_restore | nat_src | nat_dst]
/// [addr A[-B]] [port P[-Q]] [timeout N] [group N]`. With `group` the packet goes on with the rules
/// of that group and the action is a fate; without, with the next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Ct {
    /// Zone: connections of different zones have nothing to do with each other.
    pub zone: u16,
    /// What to keep, if the connection is to be kept.
    pub commit: Option<CtCommit>,
    /// Address translation.
    pub nat: Option<CtNat>,
    /// Group in which processing goes on.
    pub group: Option<u32>,
}

/// What is kept of a connection that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtCommit {
    /// If the connection exists in the other direction, begin it anew in this one.
    pub force: bool,
    /// Change of the connection's mark.
    pub mark: Option<Masked<u32>>,
    /// Change of the connection's label.
    pub label: Option<Masked<CtLabel>>,
    /// Timeout policy instead of the default one.
    pub timeout: Option<u32>,
}

form! {
    Ct = "ct" for Ct {
        commit: bool = "commit", Flag;
        force: bool = "force", Flag;
        zone: u16 = "zone";
        mark: Masked<u32> = "mark";
        label: Masked<CtLabel> = "label";
        nat_restore: bool = "nat_restore", Flag;
        nat_src: bool = "nat_src", Flag;
        nat_dst: bool = "nat_dst", Flag;
        addr: AddressRange = "addr";
        port: PortRange = "port";
        timeout: u32 = "timeout";
        group: u32 = "group";
    }
}

impl TryFrom<Form> for Ct {
    type Error = ArgumentError;
    fn try_from(form: Form) -> Result<Self, ArgumentError> {
        let set = |flag: Option<bool>| flag == Some(true);
        let needs = |argument, needs| {
            Err(ArgumentError::Needs {
                action: NAME,
                argument,
                needs,
            })
        };
        let range = NatRange {
            addresses: form.addr,
            ports: form.port,
        };
        let nat = match (set(form.nat_restore), set(form.nat_src), set(form.nat_dst)) {
            (false, false, false) => None,
            (true, false, false) => Some(CtNat::Restore),
            (false, true, false) => Some(CtNat::Src(range)),
            (false, false, true) => Some(CtNat::Dst(range)),
            _ => {
                return Err(ArgumentError::Exclusive {
                    action: NAME,
                    arguments: "`nat_restore`, `nat_src`, `nat_dst`",
                });
            }
        };
        let chooses = matches!(nat, Some(CtNat::Src(_) | CtNat::Dst(_)));
        if range != NatRange::default() && !chooses {
            return needs("addr` or `port", "`nat_src` or `nat_dst`");
        }
        let commit = set(form.commit).then_some(CtCommit {
            force: set(form.force),
            mark: form.mark,
            label: form.label,
            timeout: form.timeout,
        });
        if commit.is_none() {
            for (given, argument) in [
                (set(form.force), "force"),
                (form.mark.is_some(), "mark"),
                (form.label.is_some(), "label"),
                (form.timeout.is_some(), "timeout"),
                (matches!(nat, Some(CtNat::Src(_))), "nat_src"),
                (matches!(nat, Some(CtNat::Dst(_))), "nat_dst"),
            ] {
                if given {
                    return needs(argument, "`commit`");
                }
            }
        }
        Ok(Self {
            zone: form.zone.unwrap_or(0),
            commit,
            nat,
            group: form.group,
        })
    }
}

impl From<Ct> for Form {
    fn from(ct: Ct) -> Self {
        let range = match ct.nat {
            Some(CtNat::Src(range) | CtNat::Dst(range)) => range,
            Some(CtNat::Restore) | None => NatRange::default(),
        };
        let flag = |on: bool| on.then_some(true);
        let commit = ct.commit.unwrap_or_default();
        Self {
            commit: flag(ct.commit.is_some()),
            force: flag(commit.force),
            zone: (ct.zone != 0).then_some(ct.zone),
            mark: commit.mark,
            label: commit.label,
            nat_restore: flag(ct.nat == Some(CtNat::Restore)),
            nat_src: flag(matches!(ct.nat, Some(CtNat::Src(_)))),
            nat_dst: flag(matches!(ct.nat, Some(CtNat::Dst(_)))),
            addr: range.addresses,
            port: range.ports,
            timeout: commit.timeout,
            group: ct.group,
        }
    }
}

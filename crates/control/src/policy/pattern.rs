//! Items, actions and attributes of the rte_flow model, in the few shapes that policy rules have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_flow::model::{
    Action, Attributes, CtItem, CtState, Eth, Icmp, Icmp6, Ipv4, Ipv6, Item, MacAddr as FlowMac,
    Matched, Sctp, Tag, Tcp, Udp,
};

use super::layout::TagBits;
use crate::model::Protocol;
use crate::value::{MacAddr, Prefix};

pub fn shared(group: u32, priority: u32) -> Attributes {
    Attributes {
        group,
        priority,
        transfer: true,
        ..Attributes::default()
    }
}

/// Frames that come in from the rule's port.
pub fn from_port(group: u32, priority: u32) -> Attributes {
    Attributes {
        group,
        priority,
        ingress: true,
        ..Attributes::default()
    }
}

/// Frames that leave by the rule's port.
pub fn to_port(group: u32, priority: u32) -> Attributes {
    Attributes {
        group,
        priority,
        egress: true,
        ..Attributes::default()
    }
}

pub fn flow_mac(mac: MacAddr) -> FlowMac {
    FlowMac(mac.0)
}

pub fn eth() -> Item {
    Item::Eth(Eth::default())
}

pub fn eth_src(mac: MacAddr) -> Item {
    Item::Eth(Eth {
        src: Matched::exact(flow_mac(mac)),
        ..Eth::default()
    })
}

/// Broadcast and multicast frames.
pub fn eth_many() -> Item {
    let bit = FlowMac([1, 0, 0, 0, 0, 0]);
    Item::Eth(Eth {
        dst: Matched::masked(bit, bit),
        ..Eth::default()
    })
}

fn v4(prefix: Option<Prefix>) -> Matched<Ipv4Addr> {
    match prefix.map(|prefix| (prefix.address(), prefix.length())) {
        Some((IpAddr::V4(address), length)) => Matched::prefix(address, length.into()),
        _ => Matched::any(),
    }
}

fn v6(prefix: Option<Prefix>) -> Matched<Ipv6Addr> {
    match prefix.map(|prefix| (prefix.address(), prefix.length())) {
        Some((IpAddr::V6(address), length)) => Matched::prefix(address, length.into()),
        _ => Matched::any(),
    }
}

/// An IP header; the prefixes are of the version.
pub fn ip(ipv6: bool, src: Option<Prefix>, dst: Option<Prefix>) -> Item {
    match ipv6 {
        false => Item::Ipv4(Ipv4 {
            src: v4(src),
            dst: v4(dst),
            ..Ipv4::default()
        }),
        true => Item::Ipv6(Ipv6 {
            src: v6(src),
            dst: v6(dst),
            ..Ipv6::default()
        }),
    }
}

/// Sets the protocol number of an IP header.
fn with_proto(item: Item, number: u8) -> Item {
    match item {
        Item::Ipv4(ip) => Item::Ipv4(Ipv4 {
            proto: Matched::exact(number),
            ..ip
        }),
        Item::Ipv6(ip) => Item::Ipv6(Ipv6 {
            proto: Matched::exact(number),
            ..ip
        }),
        other => other,
    }
}

fn ports(first: u16, last: u16) -> Matched<u16> {
    match (first, last) {
        (1, u16::MAX) => Matched::any(),
        _ if first == last => Matched::exact(first),
        _ => Matched::between(first, last),
    }
}

fn byte(value: Option<u8>) -> Matched<u8> {
    value.map_or(Matched::any(), Matched::exact)
}

/// An IP header and what a group's rule says of the layer above.
pub fn above(ip: Item, protocol: Protocol) -> Vec<Item> {
    let upper = match protocol {
        Protocol::Any => return vec![ip],
        Protocol::Number(number) => return vec![with_proto(ip, number)],
        Protocol::Tcp(first, last) => Item::Tcp(Tcp {
            dst: ports(first, last),
            ..Tcp::default()
        }),
        Protocol::Udp(first, last) => Item::Udp(Udp {
            dst: ports(first, last),
            ..Udp::default()
        }),
        Protocol::Sctp(first, last) => Item::Sctp(Sctp {
            dst: ports(first, last),
            ..Sctp::default()
        }),
        Protocol::Icmp(of_type, code) => Item::Icmp(Icmp {
            icmp_type: byte(of_type),
            code: byte(code),
            ..Icmp::default()
        }),
        Protocol::Icmp6(of_type, code) => icmp6_of(of_type, code),
    };
    vec![ip, upper]
}

fn icmp6_of(of_type: Option<u8>, code: Option<u8>) -> Item {
    Item::Icmp6(Icmp6 {
        icmp_type: byte(of_type),
        code: byte(code),
    })
}

pub fn icmp6(of_type: u8) -> Item {
    icmp6_of(Some(of_type), None)
}

pub fn udp(src: u16, dst: u16) -> Item {
    Item::Udp(Udp {
        src: Matched::exact(src),
        dst: Matched::exact(dst),
    })
}

pub fn tag(bits: TagBits, number: u32) -> Item {
    Item::Tag(Tag {
        data: Matched::masked(bits.of(number), bits.mask),
        index: Matched::exact(bits.index),
    })
}

/// Two numbers that share a tag.
pub fn tags(one: (TagBits, u32), other: (TagBits, u32)) -> Item {
    let mask = one.0.mask | other.0.mask;
    let data = one.0.of(one.1) | other.0.of(other.1);
    Item::Tag(Tag {
        data: Matched::masked(data, mask),
        index: Matched::exact(one.0.index),
    })
}

pub fn set_tag(bits: TagBits, number: u32) -> Action {
    Action::SetTag {
        data: bits.of(number),
        index: bits.index,
        mask: bits.mask,
    }
}

/// State of the connection: these bits set, those not.
pub fn state(set: &[CtState], clear: &[CtState]) -> Item {
    let bits = |of: &[CtState]| of.iter().fold(0, |bits, state| bits | state.0);
    let (set, clear) = (bits(set), bits(clear));
    Item::Ct(CtItem {
        state: Matched::masked(CtState(set), CtState(set | clear)),
        ..CtItem::default()
    })
}

pub fn jump(group: u32) -> Action {
    Action::Jump { group }
}

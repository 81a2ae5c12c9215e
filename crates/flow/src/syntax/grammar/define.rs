//! `set` commands: definitions for later rules.

use std::net::IpAddr;

use super::super::Cursor;
use super::super::command::Command;
use super::super::error::{SyntaxError, SyntaxErrorKind};
use super::super::rule::{actions, items};
use super::meter;
use crate::model::{
    Argument, ArgumentError, DEFAULT_ENCAP_TTL, Definition, EtherType, FieldKind, FieldValue, Item,
    L2Encap, MAX_DEFINITIONS, MAX_SAMPLE_ACTIONS, MacAddr, NvgreDefinition, TunnelAddresses,
    VXLAN_UDP_PORT, Vni, VxlanDefinition, header_bytes,
};

/// Names of what can be defined, and how each goes on.
type Rest = fn(&mut Cursor<'_>) -> Result<Definition, SyntaxError>;
const DEFINITIONS: &[(&str, Rest)] = &[
    ("raw_encap", |cursor| {
        let (index, header) = raw(cursor)?;
        Ok(Definition::RawEncap { index, header })
    }),
    ("raw_decap", |cursor| {
        let (index, header) = raw(cursor)?;
        Ok(Definition::RawDecap { index, header })
    }),
    ("sample_actions", |cursor| {
        let index = index(cursor)?;
        let actions = cursor.nest(|cursor| actions(cursor, MAX_SAMPLE_ACTIONS))?;
        Ok(Definition::SampleActions { index, actions })
    }),
    ("vxlan", |cursor| vxlan(cursor, false)),
    ("vxlan-tos-ttl", |cursor| vxlan(cursor, true)),
    ("nvgre", nvgre),
    ("l2_encap", |cursor| l2_encap(cursor, false)),
    ("l2_encap-with-vlan", |cursor| l2_encap(cursor, true)),
    ("l2_decap", |_| Ok(Definition::L2Decap { vlan: false })),
    ("l2_decap-with-vlan", |_| {
        Ok(Definition::L2Decap { vlan: true })
    }),
];

/// Behind `set`.
pub(super) fn set(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    if cursor.keyword("port") {
        return meter::set(cursor);
    }
    match cursor.choose(DEFINITIONS, |(name, _)| name) {
        Some(index) => DEFINITIONS[index].1(cursor).map(Command::Define),
        None => Err(cursor.unexpected()),
    }
}

/// The number of a definition.
fn index(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    // The bound makes the conversion exact.
    let last = u64::from(MAX_DEFINITIONS - 1);
    cursor.number(last).map(|number| number as u32)
}

/// Number and items of a header. Without a number it is 0, as in testpmd.
fn raw(cursor: &mut Cursor<'_>) -> Result<(u32, Vec<Item>), SyntaxError> {
    let index = match cursor.peek() {
        Some("eth") => 0,
        _ => index(cursor)?,
    };
    let place = cursor.place();
    let header = items(cursor, "end_set")?;
    header_bytes(&header).map_err(|error| cursor.error_at(place, error.into()))?;
    Ok((index, header))
}

/// `WORD VALUE`.
fn value(
    cursor: &mut Cursor<'_>,
    word: &'static str,
    kind: FieldKind,
    bits: u32,
) -> Result<u128, SyntaxError> {
    cursor.require(word)?;
    match cursor.value(kind, bits)? {
        Argument::Bits(bits) => Ok(bits),
        _ => Err(cursor.unexpected()),
    }
}

/// `WORD VALUE` of a type that fields have.
fn field<T: FieldValue>(cursor: &mut Cursor<'_>, word: &'static str) -> Result<T, SyntaxError> {
    value(cursor, word, T::KIND, T::BITS).map(T::from_bits)
}

/// `ip-version` and its value: whether it is `ipv4`.
fn is_ipv4(cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
    cursor.require("ip-version")?;
    if cursor.keyword("ipv4") {
        return Ok(true);
    }
    cursor.require("ipv6").map(|()| false)
}

/// `ip-src` and `ip-dst`, which must be of the version given before.
fn addresses(cursor: &mut Cursor<'_>, ipv4: bool) -> Result<TunnelAddresses, SyntaxError> {
    let mut address = |word| {
        cursor.require(word)?;
        let place = cursor.place();
        match cursor.value(FieldKind::Ip, 0)? {
            Argument::Ip(address) if address.is_ipv4() == ipv4 => Ok(address),
            _ => Err(cursor.error_at(
                place,
                SyntaxErrorKind::Argument(ArgumentError::Text {
                    expected: "an address of the IP version given before",
                }),
            )),
        }
    };
    let (src, dst): (IpAddr, IpAddr) = (address("ip-src")?, address("ip-dst")?);
    TunnelAddresses::new(src, dst).ok_or_else(|| cursor.unexpected())
}

/// `eth-src` and `eth-dst`; zero means none.
fn ethernet(cursor: &mut Cursor<'_>) -> Result<(Option<MacAddr>, Option<MacAddr>), SyntaxError> {
    let given = |address: MacAddr| (address != MacAddr::default()).then_some(address);
    let src = given(field(cursor, "eth-src")?);
    Ok((src, given(field(cursor, "eth-dst")?)))
}

fn vxlan(cursor: &mut Cursor<'_>, tos_and_ttl: bool) -> Result<Definition, SyntaxError> {
    let ipv4 = is_ipv4(cursor)?;
    let vni: Vni = field(cursor, "vni")?;
    let udp_src: u16 = field(cursor, "udp-src")?;
    let udp_dst: u16 = field(cursor, "udp-dst")?;
    let (ip_tos, ip_ttl) = match tos_and_ttl {
        true => (field(cursor, "ip-tos")?, field(cursor, "ip-ttl")?),
        false => (0, DEFAULT_ENCAP_TTL),
    };
    let addresses = addresses(cursor, ipv4)?;
    let (eth_src, eth_dst) = ethernet(cursor)?;
    Ok(Definition::Vxlan(VxlanDefinition {
        vni,
        addresses,
        // 0 means none, as in testpmd.
        udp_src: (udp_src != 0).then_some(udp_src),
        udp_dst: if udp_dst == 0 {
            VXLAN_UDP_PORT
        } else {
            udp_dst
        },
        ip_tos,
        ip_ttl,
        eth_src,
        eth_dst,
    }))
}

fn nvgre(cursor: &mut Cursor<'_>) -> Result<Definition, SyntaxError> {
    let ipv4 = is_ipv4(cursor)?;
    let tni: Vni = field(cursor, "tni")?;
    let addresses = addresses(cursor, ipv4)?;
    let (eth_src, eth_dst) = ethernet(cursor)?;
    Ok(Definition::Nvgre(NvgreDefinition {
        tni,
        flow_id: 0,
        addresses,
        ip_tos: 0,
        ip_ttl: DEFAULT_ENCAP_TTL,
        eth_src,
        eth_dst,
    }))
}

fn l2_encap(cursor: &mut Cursor<'_>, vlan: bool) -> Result<Definition, SyntaxError> {
    let ethertype = match is_ipv4(cursor)? {
        true => EtherType::IPV4,
        false => EtherType::IPV6,
    };
    let vlan_tci = match vlan {
        true => Some(field(cursor, "vlan-tci")?),
        false => None,
    };
    Ok(Definition::L2Encap(L2Encap {
        eth_src: field(cursor, "eth-src")?,
        eth_dst: field(cursor, "eth-dst")?,
        ethertype,
        vlan_tci,
    }))
}

//! Bytes of headers that pattern items describe by their `spec`: what `set raw_encap` defines.
//!
//! Fields that name the next header follow from the next item unless they are given, versions and the
//! time to live have their usual values. Length and checksum fields are zero: they depend on the
//! packet behind the header and belong to whoever puts the header there.

use super::encap::VXLAN_UDP_PORT;
use super::field::{EtherType, FieldValue};
use super::item::Item;
use super::item_table::{
    Eth, Geneve, GeneveOpt, Gre, GtpPsc, Gtpu, Ipv4, Ipv6, Mpls, Nvgre, Tcp, Udp, Vlan, Vxlan,
};
use super::matched::Matched;
use super::raw::MAX_RAW_HEADER;

/// Why items make no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// An item that has no bytes of its own, or whose bytes are not known.
    #[error("`{item}` cannot be part of a header")]
    Item {
        /// The item.
        item: &'static str,
    },
    /// No header at all.
    #[error("the header is empty")]
    Empty,
    /// Too long.
    #[error("the header has {found} bytes, the limit is {MAX_RAW_HEADER}")]
    TooLong {
        /// Length in bytes.
        found: usize,
    },
}

/// UDP port of Geneve (RFC 8926, section 3.3).
pub const GENEVE_UDP_PORT: u16 = 6081;
/// UDP port of GTP-U (3GPP TS 29.281, section 4.4.2).
pub const GTPU_UDP_PORT: u16 = 2152;
/// MPLS in UDP (RFC 7510).
const MPLS_PORT: u16 = 6635;
/// Time to live of a header that does not give one.
const DEFAULT_TTL: u8 = 64;

/// The bytes of these items, one after the other.
pub fn header_bytes(items: &[Item]) -> Result<Vec<u8>, HeaderError> {
    let mut out = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let rest = items.get(index + 1..).unwrap_or_default();
        let next = rest.iter().find(|item| !matches!(item, Item::Void));
        append(&mut out, item, next, rest)?;
        if out.len() > MAX_RAW_HEADER {
            return Err(HeaderError::TooLong { found: out.len() });
        }
    }
    match out.is_empty() {
        true => Err(HeaderError::Empty),
        false => Ok(out),
    }
}

/// The value of a field, or `otherwise` if the item says nothing about it.
fn given<T: FieldValue>(field: &Matched<T>, otherwise: T) -> T {
    match field.is_unset() {
        true => otherwise,
        false => field.spec,
    }
}

fn append(
    out: &mut Vec<u8>,
    item: &Item,
    next: Option<&Item>,
    rest: &[Item],
) -> Result<(), HeaderError> {
    match item {
        Item::Void => {}
        Item::Eth(header) => eth(out, header, next),
        Item::Vlan(header) => vlan(out, header, next),
        Item::Ipv4(header) => ipv4(out, header, next),
        Item::Ipv6(header) => ipv6(out, header, next),
        Item::Udp(header) => udp(out, header, next),
        Item::Tcp(header) => tcp(out, header),
        Item::Gre(header) => gre(out, header, next, rest),
        Item::GreKey(header) => out.extend(header.value.spec.to_be_bytes()),
        Item::Nvgre(header) => nvgre(out, header),
        Item::Vxlan(header) => vxlan(out, header),
        Item::Geneve(header) => geneve(out, header, next, rest),
        Item::GeneveOpt(option) => geneve_option(out, option),
        Item::Mpls(header) => mpls(out, header, next),
        Item::Gtpu(header) => gtpu(out, header, next),
        Item::GtpPsc(header) => gtp_psc(out, header),
        other => return Err(HeaderError::Item { item: other.name() }),
    }
    Ok(())
}

/// The EtherType of what an item begins.
fn ether_type(next: Option<&Item>) -> EtherType {
    match next {
        Some(Item::Vlan(_)) => EtherType::VLAN,
        Some(Item::Ipv4(_)) => EtherType::IPV4,
        Some(Item::Ipv6(_)) => EtherType::IPV6,
        Some(Item::Mpls(_)) => EtherType::MPLS,
        Some(Item::Eth(_)) | None => EtherType::TEB,
        Some(_) => EtherType(0),
    }
}

/// The IP protocol number of what an item begins (IANA "Assigned Internet Protocol Numbers").
fn protocol(next: Option<&Item>) -> u8 {
    match next {
        Some(Item::Ipv4(_)) => 4,
        Some(Item::Tcp(_)) => 6,
        Some(Item::Udp(_)) => 17,
        Some(Item::Ipv6(_)) => 41,
        Some(Item::Gre(_) | Item::Nvgre(_)) => 47,
        Some(Item::Mpls(_)) => 137,
        _ => 0,
    }
}

fn eth(out: &mut Vec<u8>, header: &Eth, next: Option<&Item>) {
    out.extend(header.dst.spec.0);
    out.extend(header.src.spec.0);
    let behind = match next {
        None => EtherType(0),
        next => ether_type(next),
    };
    out.extend(given(&header.ether_type, behind).0.to_be_bytes());
}

fn vlan(out: &mut Vec<u8>, header: &Vlan, next: Option<&Item>) {
    let tci = u16::from(header.pcp.spec.get()) << 13
        | u16::from(header.dei.spec) << 12
        | header.vid.spec.get();
    out.extend(tci.to_be_bytes());
    let behind = match next {
        None => EtherType(0),
        next => ether_type(next),
    };
    out.extend(given(&header.inner_type, behind).0.to_be_bytes());
}

fn ipv4(out: &mut Vec<u8>, header: &Ipv4, next: Option<&Item>) {
    out.extend([given(&header.version_ihl, 0x45), header.tos.spec]);
    out.extend(header.length.spec.to_be_bytes());
    out.extend(header.packet_id.spec.to_be_bytes());
    out.extend(header.fragment_offset.spec.to_be_bytes());
    out.push(given(&header.ttl, DEFAULT_TTL));
    out.push(given(&header.proto, protocol(next)));
    out.extend(header.hdr_checksum.spec.0.to_be_bytes());
    out.extend(header.src.spec.octets());
    out.extend(header.dst.spec.octets());
}

fn ipv6(out: &mut Vec<u8>, header: &Ipv6, next: Option<&Item>) {
    let first = 6 << 28 | u32::from(header.tc.spec) << 20 | header.flow.spec.get();
    out.extend(first.to_be_bytes());
    out.extend(header.length.spec.to_be_bytes());
    out.push(given(&header.proto, protocol(next)));
    out.push(given(&header.hop, DEFAULT_TTL));
    out.extend(header.src.spec.octets());
    out.extend(header.dst.spec.octets());
}

fn udp(out: &mut Vec<u8>, header: &Udp, next: Option<&Item>) {
    let port = match next {
        Some(Item::Vxlan(_)) => VXLAN_UDP_PORT,
        Some(Item::Geneve(_)) => GENEVE_UDP_PORT,
        Some(Item::Gtpu(_)) => GTPU_UDP_PORT,
        Some(Item::Mpls(_)) => MPLS_PORT,
        _ => 0,
    };
    out.extend(header.src.spec.to_be_bytes());
    out.extend(given(&header.dst, port).to_be_bytes());
    out.extend([0; 4]);
}

fn tcp(out: &mut Vec<u8>, header: &Tcp) {
    out.extend(header.src.spec.to_be_bytes());
    out.extend(header.dst.spec.to_be_bytes());
    out.extend([0; 8]);
    // Data offset of five words.
    out.extend([0x50, header.flags.spec]);
    out.extend([0; 6]);
}

/// The key itself comes from the `gre_key` item behind.
fn gre(out: &mut Vec<u8>, header: &Gre, next: Option<&Item>, rest: &[Item]) {
    let key = matches!(next, Some(Item::GreKey(_)));
    let flags = header.c_rsvd0_ver.spec.0 | if key { 0x2000 } else { 0 };
    out.extend(flags.to_be_bytes());
    let behind = rest
        .iter()
        .find(|item| !matches!(item, Item::Void | Item::GreKey(_)));
    out.extend(given(&header.protocol, ether_type(behind)).0.to_be_bytes());
}

fn nvgre(out: &mut Vec<u8>, header: &Nvgre) {
    out.extend([0x20, 0]);
    out.extend(EtherType::TEB.0.to_be_bytes());
    let word = header.tni.spec.get() << 8 | u32::from(header.flow_id.spec);
    out.extend(word.to_be_bytes());
}

fn vxlan(out: &mut Vec<u8>, header: &Vxlan) {
    out.extend([given(&header.flags, 0x08), 0, 0, 0]);
    let word = header.vni.spec.get() << 8 | u32::from(header.last_rsvd.spec);
    out.extend(word.to_be_bytes());
}

fn geneve(out: &mut Vec<u8>, header: &Geneve, next: Option<&Item>, rest: &[Item]) {
    let options = rest
        .iter()
        .map_while(|item| match item {
            Item::GeneveOpt(option) => Some(1 + option_words(option)),
            Item::Void => Some(0),
            _ => None,
        })
        .sum::<usize>();
    let length = match header.optlen.is_unset() {
        true => u8::try_from(options).unwrap_or(u8::MAX) & 0x3f,
        false => header.optlen.spec.get(),
    };
    let flags = u8::from(header.o_bit.spec) << 7 | u8::from(header.c_bit.spec) << 6;
    out.extend([length, flags]);
    let behind = match next {
        Some(Item::GeneveOpt(_)) => rest
            .iter()
            .find(|item| !matches!(item, Item::Void | Item::GeneveOpt(_))),
        next => next,
    };
    out.extend(given(&header.protocol, ether_type(behind)).0.to_be_bytes());
    out.extend((header.vni.spec.get() << 8).to_be_bytes());
}

/// Words of 4 bytes that the data of an option takes.
fn option_words(option: &GeneveOpt) -> usize {
    let given = usize::from(option.length.spec.get());
    given.max(option.data.spec().len().div_ceil(4))
}

fn geneve_option(out: &mut Vec<u8>, option: &GeneveOpt) {
    out.extend(option.class.spec.0.to_be_bytes());
    let words = option_words(option);
    // The data has at most 124 bytes, 31 words.
    out.extend([option.opt_type.spec, words as u8]);
    let end = out.len() + words * 4;
    out.extend(option.data.spec());
    out.resize(end, 0);
}

fn mpls(out: &mut Vec<u8>, header: &Mpls, next: Option<&Item>) {
    let last = given(&header.s, !matches!(next, Some(Item::Mpls(_))));
    let word = header.label.spec.get() << 12
        | u32::from(header.tc.spec.get()) << 9
        | u32::from(last) << 8
        | u32::from(given(&header.ttl, DEFAULT_TTL));
    out.extend(word.to_be_bytes());
}

fn gtpu(out: &mut Vec<u8>, header: &Gtpu, next: Option<&Item>) {
    let extended = matches!(next, Some(Item::GtpPsc(_)));
    let flags = given(&header.v_pt_rsv_flags, if extended { 0x34 } else { 0x30 });
    // A G-PDU.
    out.extend([flags, given(&header.msg_type, 0xff)]);
    out.extend(header.msg_len.spec.to_be_bytes());
    out.extend(header.teid.spec.to_be_bytes());
    if extended {
        // Sequence number, N-PDU number, and the type of a PDU session container.
        out.extend([0, 0, 0, 0x85]);
    }
}

fn gtp_psc(out: &mut Vec<u8>, header: &GtpPsc) {
    let kind = header.pdu_type.spec.get() << 4;
    // One word, and no further extension header.
    out.extend([1, kind, header.qfi.spec.get(), 0]);
}

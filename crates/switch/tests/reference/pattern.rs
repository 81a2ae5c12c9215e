//! Whether a packet meets a pattern: item by item, field by field, on the bytes.
//!
//! What an item means where rte_flow leaves it open is what docs/flow-reference.md says: an item demands its header, the fields of transport
//! headers are in no later fragment, `type` is the one behind all tags, `proto` of `ipv6` the one behind all extension headers.

use sumeru_flow::model::{Access, Item, PortRef};

use super::headers::{Headers, Network, u16_at};
use super::pipeline::Packet;

/// Where the pattern has come to.
struct Place<'a> {
    packet: &'a Packet,
    /// The headers of this level; nothing when the packet has no such level.
    headers: Option<&'a Headers>,
    /// The tag of the last `vlan` item, counted from 1.
    tag: usize,
    inside: bool,
}

/// Whether all items hold. `port` is where the packet came in.
pub fn holds(pattern: &[Item], packet: &Packet, port: u16) -> bool {
    let mut place = Place {
        packet,
        headers: Some(&packet.frame.outer),
        tag: 0,
        inside: false,
    };
    pattern.iter().all(|item| match item {
        Item::RepresentedPort { port: wanted } => is_port(wanted.as_ref(), port),
        _ => item_holds(item, &mut place),
    })
}

fn is_port(wanted: Option<&PortRef>, port: u16) -> bool {
    wanted.is_none_or(|wanted| wanted.number() == Some(port.into()))
}

fn item_holds(item: &Item, place: &mut Place) -> bool {
    match item {
        Item::Vxlan(_) => {
            return is_there(item, place) && fields_hold(item, place) && {
                place.headers = place.packet.frame.tunnel.as_ref().map(|(_, inner)| inner);
                place.tag = 0;
                place.inside = true;
                true
            };
        }
        Item::Vlan(_) => place.tag += 1,
        _ => {}
    }
    is_there(item, place) && fields_hold(item, place)
}

fn is_there(item: &Item, place: &Place) -> bool {
    let Some(headers) = place.headers else {
        return false;
    };
    let ip = headers.network != Network::None;
    match item {
        Item::Eth(_) | Item::Mark(_) | Item::Ct(_) => true,
        Item::Vlan(_) => headers.tags.len() >= place.tag,
        Item::Ipv4(_) => headers.network == Network::Ipv4,
        Item::Ipv6(_) => headers.network == Network::Ipv6,
        Item::Udp(_) => ip && headers.proto == 17,
        Item::Tcp(_) => ip && headers.proto == 6,
        Item::Icmp(_) => headers.network == Network::Ipv4 && headers.proto == 1,
        Item::Icmp6(_) => headers.network == Network::Ipv6 && headers.proto == 58,
        Item::Vxlan(_) => !place.inside && place.packet.frame.tunnel.is_some(),
        other => panic!("item {} is not in the reference", other.name()),
    }
}

fn fields_hold(item: &Item, place: &Place) -> bool {
    item.row().fields.iter().all(|field| {
        let Access::Field { get, .. } = &field.access else {
            return true;
        };
        let Some(wanted) = get(item).filter(|wanted| wanted.mask != 0) else {
            return true;
        };
        let Some(value) = value(item, field.name, place) else {
            return false;
        };
        let (low, value) = (wanted.spec & wanted.mask, value & wanted.mask);
        match wanted.last.map(|last| last & wanted.mask) {
            // A bound of zero or equal to the other makes no range.
            Some(high) if high != 0 && high != low => low <= value && value <= high,
            _ => value == low,
        }
    })
}

fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The value of a field; nothing when its header is not in this packet, though the packet is of its protocol.
fn value(item: &Item, field: &str, place: &Place) -> Option<u128> {
    let (bytes, headers) = (&place.packet.bytes, place.headers?);
    let take = |at: usize, len: usize| Some(number(&bytes[at..at + len]));
    let (eth, l3) = (headers.eth, headers.l3);
    let l4 = |at: usize, len: usize| match headers.later {
        true => None,
        false => take(headers.l4 + at, len),
    };
    match (item, field) {
        (Item::Eth(_), "dst") => take(eth, 6),
        (Item::Eth(_), "src") => take(eth + 6, 6),
        (Item::Eth(_), "type") | (Item::Vlan(_), "inner_type") => Some(headers.ether_type.into()),
        (Item::Eth(_), "has_vlan") => Some(u128::from(!headers.tags.is_empty())),
        (Item::Vlan(_), name) => {
            let tci = u128::from(u16_at(bytes, headers.tags[place.tag - 1]));
            match name {
                "vid" => Some(tci & 0xfff),
                "pcp" => Some(tci >> 13),
                "has_more_vlan" => Some(u128::from(headers.tags.len() > place.tag)),
                _ => panic!("field {name} of vlan is not in the reference"),
            }
        }
        (Item::Ipv4(_), "version_ihl") => take(l3, 1),
        (Item::Ipv4(_), "tos") => take(l3 + 1, 1),
        (Item::Ipv4(_), "packet_id") => take(l3 + 4, 2),
        (Item::Ipv4(_), "fragment_offset") => take(l3 + 6, 2),
        (Item::Ipv4(_), "ttl") => take(l3 + 8, 1),
        (Item::Ipv4(_), "proto") | (Item::Ipv6(_), "proto") => Some(headers.proto.into()),
        (Item::Ipv4(_), "src") => take(l3 + 12, 4),
        (Item::Ipv4(_), "dst") => take(l3 + 16, 4),
        (Item::Ipv6(_), "tc") => take(l3, 2).map(|word| word >> 4 & 0xff),
        (Item::Ipv6(_), "flow") => take(l3, 4).map(|word| word & 0xf_ffff),
        (Item::Ipv6(_), "hop") => take(l3 + 7, 1),
        (Item::Ipv6(_), "src") => take(l3 + 8, 16),
        (Item::Ipv6(_), "dst") => take(l3 + 24, 16),
        (Item::Udp(_) | Item::Tcp(_), "src") => l4(0, 2),
        (Item::Udp(_) | Item::Tcp(_), "dst") => l4(2, 2),
        (Item::Tcp(_), "flags") => l4(13, 1),
        (Item::Icmp(_) | Item::Icmp6(_), "type") => l4(0, 1),
        (Item::Icmp(_) | Item::Icmp6(_), "code") => l4(1, 1),
        (Item::Vxlan(_), "vni") => place
            .packet
            .frame
            .tunnel
            .as_ref()
            .map(|(vni, _)| (*vni).into()),
        (Item::Mark(_), "id") => Some(place.packet.mark.into()),
        (Item::Ct(_), "state") => Some(place.packet.ct_state.into()),
        (item, field) => panic!("field {field} of {} is not in the reference", item.name()),
    }
}

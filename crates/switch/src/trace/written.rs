//! A flow key in words: each field that is set as its protocol writes it. Fields that hold different things for different protocols are
//! read by what the key says the protocol is.

use std::net::Ipv6Addr;

use sumeru_packet::{Field, FlowKey, Layer, Part, TunnelKind};

use crate::translate::{ip_of, mac_of, text_of};

/// Names of the extension headers, from the lowest bit of [`Part::IPV6_EXTENSIONS`] on.
const EXTENSIONS: [&str; 9] = [
    "hop", "route", "frag", "auth", "esp", "dest", "mobil", "hip", "shim6",
];

/// The fields of a key that are set, as their protocols write them.
pub fn describe(key: &FlowKey) -> String {
    let arp = arp_layer(key).is_some();
    let fields = Field::ALL.into_iter().flat_map(|field| match field {
        Field::NdTarget if arp => [Some(Field::ArpSha), Some(Field::ArpTha)],
        field => [Some(field), None],
    });
    let set = fields.flatten().filter(|field| key.get(*field) != 0);
    let text = set.map(|field| {
        let inner = if field.layer() == Some(Layer::Inner) {
            "inner "
        } else {
            ""
        };
        format!("{inner}{} {}", field.name(), written(field, key))
    });
    text.collect::<Vec<_>>().join(", ")
}

/// The layer that carries ARP, whose hardware addresses lie where neighbour discovery's target does.
fn arp_layer(key: &FlowKey) -> Option<Layer> {
    [Layer::Outer, Layer::Inner]
        .into_iter()
        .find(|layer| key.get(Field::EthType(*layer)) == 0x0806)
}

fn written(field: Field, key: &FlowKey) -> String {
    let value = key.get(field);
    let take = |part: Part| value >> part.shift & ((1 << part.width) - 1);
    match field {
        Field::EthDst(_) | Field::EthSrc(_) | Field::ArpSha | Field::ArpTha => {
            text_of(mac_of(value))
        }
        Field::NdSourceLink | Field::NdTargetLink => text_of(mac_of(value)),
        Field::IpSrc(layer) | Field::IpDst(layer) => {
            ip_of(key.get(Field::EthType(layer)), value).to_string()
        }
        Field::NdTarget => Ipv6Addr::from(value).to_string(),
        Field::EthType(_) | Field::TcpFlags(_) | Field::Layers | Field::Fragment(_) => {
            format!("{value:#x}")
        }
        Field::VlanTci(_) | Field::InnerVlanTci(_) => {
            format!("vid {} pcp {}", value & 0xfff, value >> 13)
        }
        Field::TunnelKind(_) => kind_of(value).to_owned(),
        Field::L4Extra(layer) => match key.get(Field::IpProto(layer)) {
            1 | 58 => format!(
                "ident {} seq {}",
                take(Part::ICMP_IDENT),
                take(Part::ICMP_SEQUENCE)
            ),
            6 => format!(
                "seq {} ack {}",
                take(Part::TCP_SEQUENCE),
                take(Part::TCP_ACKNOWLEDGEMENT)
            ),
            17 => format!(
                "length {} checksum {:#06x}",
                take(Part::UDP_LENGTH),
                take(Part::UDP_CHECKSUM)
            ),
            50 => format!("seq {}", take(Part::ESP_SEQUENCE)),
            132 => format!(
                "tag {:#x} checksum {:#010x}",
                take(Part::SCTP_TAG),
                take(Part::SCTP_CHECKSUM)
            ),
            _ => format!("{value:#x}"),
        },
        Field::IpExtra(layer) if key.get(Field::EthType(layer)) == 0x86dd => format!(
            "flow {:#07x} extensions {} fragment id {:#x}",
            take(Part::IPV6_FLOW_LABEL),
            extensions(take(Part::IPV6_EXTENSIONS)),
            take(Part::IPV6_FRAGMENT_ID)
        ),
        Field::IpExtra(_) => format!(
            "version_ihl {:#04x} packet_id {:#06x} fragment_offset {:#06x}",
            take(Part::IPV4_VERSION_IHL),
            take(Part::IPV4_ID),
            take(Part::IPV4_FRAGMENT)
        ),
        Field::MplsOuter | Field::MplsSecond => format!(
            "label {} tc {} s {} ttl {}",
            take(Part::MPLS_LABEL),
            take(Part::MPLS_CLASS),
            take(Part::MPLS_BOTTOM),
            take(Part::MPLS_TTL)
        ),
        Field::GtpuSession => format!(
            "pdu_t {} qfi {}",
            take(Part::GTPU_PDU_TYPE),
            take(Part::GTPU_QFI)
        ),
        Field::TunnelHead | Field::TunnelProtocol => format!("{value:#06x}"),
        Field::CtState | Field::ConntrackItem => format!("{value:#x}"),
        Field::CtLabel => format!("{value:#x}"),
        Field::GeneveData0 | Field::GeneveData1 | Field::Raw => format!("{value:032x}"),
        _ => value.to_string(),
    }
}

fn kind_of(number: u128) -> &'static str {
    match TunnelKind::from_number(number as u8) {
        TunnelKind::None => "none",
        TunnelKind::Vxlan => "vxlan",
        TunnelKind::VxlanGpe => "vxlan-gpe",
        TunnelKind::Geneve => "geneve",
        TunnelKind::Gre => "gre",
        TunnelKind::Gtpu => "gtpu",
        TunnelKind::Esp => "esp",
        TunnelKind::Mpls => "mpls",
    }
}

fn extensions(bits: u128) -> String {
    let named = EXTENSIONS.iter().enumerate();
    let set: Vec<_> = named
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    match set.is_empty() {
        true => "none".into(),
        false => set.join("+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_their_protocol() {
        let outer = Layer::Outer;
        let mut key = FlowKey::ZERO;
        key.set(Field::EthType(outer), 0x86dd);
        key.set(Field::IpProto(outer), 6);
        key.set(Field::IpExtra(outer), 0xabcde << 44 | 0b101 << 32 | 0x77);
        key.set(Field::L4Extra(outer), 5 << 32 | 9);
        key.set(Field::TunnelKind(outer), TunnelKind::Gre as u128);
        key.set(Field::NdTarget, 0xfd00 << 112 | 2);
        assert_eq!(
            describe(&key),
            "eth_type 0x86dd, ip_proto 6, tunnel_kind gre, l4_extra seq 5 ack 9, \
             ip_extra flow 0xabcde extensions hop+frag fragment id 0x77, nd_target fd00::2"
        );
        let mut key = FlowKey::ZERO;
        key.set(Field::EthType(outer), 0x0806);
        key.set(Field::ArpSha, 0x0200_0000_0001);
        key.set(Field::ArpTha, 0x0200_0000_0002);
        key.set(Field::MplsOuter, 16001 << 12 | 5 << 9 | 63);
        key.set(Field::Raw, 1);
        assert_eq!(
            describe(&key),
            "eth_type 0x806, arp_sha 02:00:00:00:00:01, arp_tha 02:00:00:00:00:02, \
             mpls_outer label 16001 tc 5 s 0 ttl 63, raw 00000000000000000000000000000001"
        );
    }
}

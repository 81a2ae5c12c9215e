//! Where each field of each pattern item is kept in a flow key: the table that [`pattern`](super::pattern) compiles from.
//!
//! A field that is neither here nor spoken of in `pattern` is not in the key and refused by name: lengths, IP and UDP checksums, and what
//! describes the frame rather than the packet. It never looks at values.

use sumeru_packet::{Field, Layer, Part};

/// Bits of a key that hold a field of an item.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    item: &'static str,
    field: &'static str,
    of: fn(Layer) -> Field,
    /// The lowest bit in the key's field.
    pub shift: u32,
}

impl Target {
    /// The key's field, of this layer.
    pub fn field(&self, layer: Layer) -> Field {
        (self.of)(layer)
    }
}

/// Name in the table of the second `vlan` item of a layer.
pub const SECOND_VLAN: &str = "second vlan";
/// Name in the table of the second `mpls` item.
pub const SECOND_MPLS: &str = "second mpls";

const fn whole(item: &'static str, field: &'static str, of: fn(Layer) -> Field) -> Target {
    bits(item, field, of, 0)
}

const fn part(
    item: &'static str,
    field: &'static str,
    of: fn(Layer) -> Field,
    part: Part,
) -> Target {
    bits(item, field, of, part.shift)
}

const fn bits(
    item: &'static str,
    field: &'static str,
    of: fn(Layer) -> Field,
    shift: u32,
) -> Target {
    Target {
        item,
        field,
        of,
        shift,
    }
}

/// One extension header of the set that a key has.
const fn extension(field: &'static str, bit: u32) -> Target {
    bits(
        "ipv6",
        field,
        Field::IpExtra,
        Part::IPV6_EXTENSIONS.shift + bit,
    )
}

/// The bit that stands for a tag's presence.
const TAG: u32 = sumeru_packet::field::VLAN_PRESENT.trailing_zeros();

const TABLE: &[Target] = &[
    whole("eth", "dst", Field::EthDst),
    whole("eth", "src", Field::EthSrc),
    whole("eth", "type", Field::EthType),
    bits("eth", "has_vlan", Field::VlanTci, TAG),
    bits("vlan", "pcp", Field::VlanTci, 13),
    whole("vlan", "vid", Field::VlanTci),
    whole("vlan", "inner_type", Field::EthType),
    bits("vlan", "has_more_vlan", Field::InnerVlanTci, TAG),
    bits(SECOND_VLAN, "pcp", Field::InnerVlanTci, 13),
    whole(SECOND_VLAN, "vid", Field::InnerVlanTci),
    whole(SECOND_VLAN, "inner_type", Field::EthType),
    whole("arp_eth_ipv4", "op", Field::L4Dst),
    whole("arp_eth_ipv4", "sha", |_| Field::ArpSha),
    whole("arp_eth_ipv4", "spa", Field::IpSrc),
    whole("arp_eth_ipv4", "tha", |_| Field::ArpTha),
    whole("arp_eth_ipv4", "tpa", Field::IpDst),
    part(
        "ipv4",
        "version_ihl",
        Field::IpExtra,
        Part::IPV4_VERSION_IHL,
    ),
    whole("ipv4", "tos", Field::IpTos),
    part("ipv4", "packet_id", Field::IpExtra, Part::IPV4_ID),
    part(
        "ipv4",
        "fragment_offset",
        Field::IpExtra,
        Part::IPV4_FRAGMENT,
    ),
    whole("ipv4", "ttl", Field::IpTtl),
    whole("ipv4", "proto", Field::IpProto),
    whole("ipv4", "src", Field::IpSrc),
    whole("ipv4", "dst", Field::IpDst),
    whole("ipv6", "tc", Field::IpTos),
    part("ipv6", "flow", Field::IpExtra, Part::IPV6_FLOW_LABEL),
    // The last next header, behind all extension headers; `pattern` refuses the numbers of those.
    whole("ipv6", "proto", Field::IpProto),
    whole("ipv6", "hop", Field::IpTtl),
    extension("has_hop_ext", 0),
    extension("has_route_ext", 1),
    extension("has_frag_ext", 2),
    extension("has_auth_ext", 3),
    extension("has_esp_ext", 4),
    extension("has_dest_ext", 5),
    extension("has_mobil_ext", 6),
    extension("has_hip_ext", 7),
    extension("has_shim6_ext", 8),
    whole("ipv6", "src", Field::IpSrc),
    whole("ipv6", "dst", Field::IpDst),
    whole("ipv6_ext", "next_hdr", Field::IpProto),
    whole("ipv6_frag_ext", "next_hdr", Field::IpProto),
    part(
        "ipv6_frag_ext",
        "packet_id",
        Field::IpExtra,
        Part::IPV6_FRAGMENT_ID,
    ),
    whole("icmp", "type", Field::L4Src),
    whole("icmp", "code", Field::L4Dst),
    part("icmp", "ident", Field::L4Extra, Part::ICMP_IDENT),
    part("icmp", "seq", Field::L4Extra, Part::ICMP_SEQUENCE),
    whole("icmp6", "type", Field::L4Src),
    whole("icmp6", "code", Field::L4Dst),
    whole("icmp6_nd_ns", "target_addr", |_| Field::NdTarget),
    whole("icmp6_nd_na", "target_addr", |_| Field::NdTarget),
    whole("icmp6_nd_opt_sla_eth", "sla", |_| Field::NdSourceLink),
    whole("icmp6_nd_opt_tla_eth", "tla", |_| Field::NdTargetLink),
    whole("tcp", "src", Field::L4Src),
    whole("tcp", "dst", Field::L4Dst),
    whole("tcp", "flags", Field::TcpFlags),
    whole("udp", "src", Field::L4Src),
    whole("udp", "dst", Field::L4Dst),
    whole("sctp", "src", Field::L4Src),
    whole("sctp", "dst", Field::L4Dst),
    part("sctp", "tag", Field::L4Extra, Part::SCTP_TAG),
    part("sctp", "cksum", Field::L4Extra, Part::SCTP_CHECKSUM),
    part(
        "gre",
        "c_rsvd0_ver",
        |_| Field::TunnelHead,
        Part::TUNNEL_WORD,
    ),
    whole("gre", "protocol", |_| Field::TunnelProtocol),
    whole("gre_key", "value", Field::TunnelId),
    whole("gre_option", "key", Field::TunnelId),
    whole("vxlan", "vni", Field::TunnelId),
    part("vxlan", "flags", |_| Field::TunnelHead, Part::TUNNEL_FLAGS),
    whole("vxlan-gpe", "vni", Field::TunnelId),
    whole("vxlan-gpe", "protocol", |_| Field::TunnelProtocol),
    part(
        "vxlan-gpe",
        "flags",
        |_| Field::TunnelHead,
        Part::TUNNEL_FLAGS,
    ),
    // RFC 7637 section 3.2: the key is the identifier and below it the flow.
    bits("nvgre", "tni", Field::TunnelId, 8),
    whole("nvgre", "flow_id", Field::TunnelId),
    whole("geneve", "vni", Field::TunnelId),
    whole("geneve", "protocol", |_| Field::TunnelProtocol),
    // RFC 8926 section 3.4: version, length of the options, O, C, reserved.
    bits("geneve", "optlen", |_| Field::TunnelHead, 8),
    bits("geneve", "o_bit", |_| Field::TunnelHead, 7),
    bits("geneve", "c_bit", |_| Field::TunnelHead, 6),
    whole("esp", "spi", Field::TunnelId),
    part("esp", "seq", Field::L4Extra, Part::ESP_SEQUENCE),
    whole("mpls", "label", Field::TunnelId),
    part("mpls", "tc", |_| Field::MplsOuter, Part::MPLS_CLASS),
    part("mpls", "s", |_| Field::MplsOuter, Part::MPLS_BOTTOM),
    part("mpls", "ttl", |_| Field::MplsOuter, Part::MPLS_TTL),
    part(
        SECOND_MPLS,
        "label",
        |_| Field::MplsSecond,
        Part::MPLS_LABEL,
    ),
    part(SECOND_MPLS, "tc", |_| Field::MplsSecond, Part::MPLS_CLASS),
    part(SECOND_MPLS, "s", |_| Field::MplsSecond, Part::MPLS_BOTTOM),
    part(SECOND_MPLS, "ttl", |_| Field::MplsSecond, Part::MPLS_TTL),
    part(
        "gtp",
        "v_pt_rsv_flags",
        |_| Field::TunnelHead,
        Part::TUNNEL_FLAGS,
    ),
    part("gtp", "msg_type", |_| Field::TunnelHead, Part::GTPU_TYPE),
    whole("gtp", "teid", Field::TunnelId),
    part(
        "gtpu",
        "v_pt_rsv_flags",
        |_| Field::TunnelHead,
        Part::TUNNEL_FLAGS,
    ),
    part("gtpu", "msg_type", |_| Field::TunnelHead, Part::GTPU_TYPE),
    whole("gtpu", "teid", Field::TunnelId),
    part("gtp_psc", "qfi", |_| Field::GtpuSession, Part::GTPU_QFI),
    part(
        "gtp_psc",
        "pdu_t",
        |_| Field::GtpuSession,
        Part::GTPU_PDU_TYPE,
    ),
    whole("meta", "data", |_| Field::Meta),
    whole("mark", "id", |_| Field::Mark),
    whole("conntrack", "flags", |_| Field::ConntrackItem),
    whole("ct", "state", |_| Field::CtState),
    whole("ct", "zone", |_| Field::CtZone),
    whole("ct", "mark", |_| Field::CtMark),
    whole("ct", "label", |_| Field::CtLabel),
];

/// Where a field is kept; `item` is a token, [`SECOND_VLAN`] or [`SECOND_MPLS`].
pub fn find(item: &str, field: &str) -> Option<&'static Target> {
    TABLE
        .iter()
        .find(|target| target.item == item && target.field == field)
}

/// The fields of an item that are kept, for a message.
pub fn fields_of(item: &str) -> String {
    let known: Vec<_> = TABLE
        .iter()
        .filter(|target| target.item == item)
        .map(|target| target.field)
        .collect();
    match known.is_empty() {
        true => "no field, only that the item is there".into(),
        false => known.join(", "),
    }
}

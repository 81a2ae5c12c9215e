//! The table of pattern items (`enum rte_flow_item_type`, DPDK 22.11).
//!
//! The one place that names an item or a field: types, JSON names, the text syntax, printing and
//! completion all come from it. Names are testpmd's, and those of `struct rte_flow_item_*` where
//! testpmd of 22.11 has no word (marked `ours`). It never looks at a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::bytes::MatchedBytes;
use super::ct::{CtLabel, CtState};
use super::field::{
    EtherType, FieldKind, FieldValue, Flags16, FlowLabel, GeneveOptionLength, GeneveOptionsLength,
    MacAddr, MeterColor as Color, MplsLabel, MplsTc, Pcp, PduType, Qfi, VlanId, Vni,
};
use super::item::{Access, FieldRow, ItemRow, Part, Spelling, items};
use super::matched::Matched;
use super::port::PortRef;

/// All bits belong to the item's default mask.
const ALL: Option<u128> = Some(u128::MAX);
/// No bit belongs to it.
const NONE: Option<u128> = Some(0);
/// The item has none.
const ABSENT: Option<u128> = None;

const fn part(field: &'static str, alias_shift: u32, field_shift: u32, bits: u32) -> Part {
    Part {
        field,
        alias_shift,
        field_shift,
        bits,
    }
}

items! {
    headers {
        /// Any header, or several of them.
        Any = "any" {
            /// How many; 0 for any number.
            num: u32 = "num", NONE;
        }
        /// Ethernet header (IEEE 802.3).
        Eth = "eth" {
            /// Destination MAC address.
            dst: MacAddr = "dst", ALL;
            /// Source MAC address.
            src: MacAddr = "src", ALL;
            /// EtherType, or the outer tag's protocol identifier if a `vlan` item follows.
            ether_type: EtherType = "type", NONE;
            /// Whether the header is followed by a VLAN tag.
            has_vlan: bool = "has_vlan", NONE;
        }
        /// VLAN tag (IEEE 802.1Q and 802.1ad).
        Vlan = "vlan" {
            /// Priority code point.
            pcp: Pcp = "pcp", NONE;
            /// Drop eligible indicator.
            dei: bool = "dei", NONE;
            /// VLAN identifier.
            vid: VlanId = "vid", ALL;
            /// EtherType behind the tag, or the next tag's protocol identifier.
            inner_type: EtherType = "inner_type", NONE;
            /// Whether another tag follows.
            has_more_vlan: bool = "has_more_vlan", NONE;
            alias "tci": Hexadecimal 16 =
                [part("pcp", 13, 0, 3), part("dei", 12, 0, 1), part("vid", 0, 0, 12)];
        }
        /// ARP for IPv4 over Ethernet (RFC 826).
        Arp = "arp_eth_ipv4" {
            /// Hardware type, normally 1.
            hrd: u16 = "hrd", NONE, ours;
            /// Protocol type, normally 0x0800.
            pro: EtherType = "pro", NONE, ours;
            /// Length of a hardware address, normally 6.
            hln: u8 = "hln", NONE, ours;
            /// Length of a protocol address, normally 4.
            pln: u8 = "pln", NONE, ours;
            /// Operation: 1 request, 2 reply.
            op: u16 = "op", NONE, ours;
            /// Sender hardware address.
            sha: MacAddr = "sha", ALL;
            /// Sender protocol address.
            spa: Ipv4Addr = "spa", ALL;
            /// Target hardware address.
            tha: MacAddr = "tha", ALL;
            /// Target protocol address.
            tpa: Ipv4Addr = "tpa", ALL;
        }
        /// IPv4 header (RFC 791).
        Ipv4 = "ipv4" {
            /// Version and header length, the first byte.
            version_ihl: u8 = "version_ihl", NONE;
            /// Type of service: DSCP and ECN.
            tos: u8 = "tos", NONE;
            /// Total length.
            length: u16 = "length", NONE, ours;
            /// Identification.
            packet_id: u16 = "packet_id", NONE;
            /// Flags (the top 3 bits) and fragment offset (units of 8 bytes).
            fragment_offset: u16 = "fragment_offset", NONE;
            /// Time to live.
            ttl: u8 = "ttl", NONE;
            /// Protocol number of the payload.
            proto: u8 = "proto", NONE;
            /// Header checksum.
            hdr_checksum: Flags16 = "hdr_checksum", NONE, ours;
            /// Source address.
            src: Ipv4Addr = "src", ALL;
            /// Destination address.
            dst: Ipv4Addr = "dst", ALL;
        }
        /// IPv6 header (RFC 8200).
        Ipv6 = "ipv6" {
            /// Traffic class.
            tc: u8 = "tc", NONE;
            /// Flow label.
            flow: FlowLabel = "flow", NONE;
            /// Payload length.
            length: u16 = "length", NONE, ours;
            /// Next header as the fixed header has it.
            proto: u8 = "proto", NONE;
            /// Hop limit.
            hop: u8 = "hop", NONE;
            /// Whether there is a hop-by-hop options header.
            has_hop_ext: bool = "has_hop_ext", NONE, ours;
            /// Whether there is a routing header.
            has_route_ext: bool = "has_route_ext", NONE, ours;
            /// Whether there is a fragment extension header.
            has_frag_ext: bool = "has_frag_ext", NONE;
            /// Whether there is an authentication header.
            has_auth_ext: bool = "has_auth_ext", NONE, ours;
            /// Whether there is an encapsulating security payload header.
            has_esp_ext: bool = "has_esp_ext", NONE, ours;
            /// Whether there is a destination options header.
            has_dest_ext: bool = "has_dest_ext", NONE, ours;
            /// Whether there is a mobility header.
            has_mobil_ext: bool = "has_mobil_ext", NONE, ours;
            /// Whether there is a host identity protocol header.
            has_hip_ext: bool = "has_hip_ext", NONE, ours;
            /// Whether there is a shim6 header.
            has_shim6_ext: bool = "has_shim6_ext", NONE, ours;
            /// Source address.
            src: Ipv6Addr = "src", ALL;
            /// Destination address.
            dst: Ipv6Addr = "dst", ALL;
        }
        /// Any IPv6 extension header (RFC 8200, section 4).
        Ipv6Ext = "ipv6_ext" {
            /// What follows it.
            next_hdr: u8 = "next_hdr", ALL;
        }
        /// IPv6 fragment header (RFC 8200, section 4.5).
        Ipv6FragExt = "ipv6_frag_ext" {
            /// What the fragment belongs to.
            next_hdr: u8 = "next_hdr", ABSENT;
            /// Offset (13 bits, units of 8 bytes), two reserved bits, and whether more follow.
            frag_data: Flags16 = "frag_data", ABSENT;
            /// Identification.
            packet_id: u32 = "packet_id", ABSENT;
        }
        /// ICMP header (RFC 792).
        Icmp = "icmp" {
            /// Message type.
            icmp_type: u8 = "type", ALL;
            /// Message code.
            code: u8 = "code", ALL;
            /// Identifier of an echo message.
            ident: u16 = "ident", NONE;
            /// Sequence number of an echo message.
            seq: u16 = "seq", NONE;
        }
        /// ICMPv6 header (RFC 4443).
        Icmp6 = "icmp6" {
            /// Message type.
            icmp_type: u8 = "type", ALL;
            /// Message code.
            code: u8 = "code", ALL;
        }
        /// Neighbour solicitation (RFC 4861, section 4.3).
        Icmp6NdNs = "icmp6_nd_ns" {
            /// The address that is asked for.
            target_addr: Ipv6Addr = "target_addr", ALL;
        }
        /// Neighbour advertisement (RFC 4861, section 4.4).
        Icmp6NdNa = "icmp6_nd_na" {
            /// The address that is told about.
            target_addr: Ipv6Addr = "target_addr", ALL;
        }
        /// Any neighbour discovery option (RFC 4861, section 4.6).
        Icmp6NdOpt = "icmp6_nd_opt" {
            /// Its type.
            opt_type: u8 = "type", ALL;
        }
        /// Source link-layer address option for Ethernet (RFC 4861, section 4.6.1).
        Icmp6NdOptSlaEth = "icmp6_nd_opt_sla_eth" {
            /// The address.
            sla: MacAddr = "sla", ALL;
        }
        /// Target link-layer address option for Ethernet (RFC 4861, section 4.6.1).
        Icmp6NdOptTlaEth = "icmp6_nd_opt_tla_eth" {
            /// The address.
            tla: MacAddr = "tla", ALL;
        }
        /// TCP header (RFC 9293).
        Tcp = "tcp" {
            /// Source port.
            src: u16 = "src", ALL;
            /// Destination port.
            dst: u16 = "dst", ALL;
            /// Control bits CWR to FIN, one byte.
            flags: u8 = "flags", NONE;
        }
        /// UDP header (RFC 768).
        Udp = "udp" {
            /// Source port.
            src: u16 = "src", ALL;
            /// Destination port.
            dst: u16 = "dst", ALL;
        }
        /// SCTP header (RFC 9260).
        Sctp = "sctp" {
            /// Source port.
            src: u16 = "src", ALL;
            /// Destination port.
            dst: u16 = "dst", ALL;
            /// Verification tag.
            tag: u32 = "tag", NONE;
            /// Checksum.
            cksum: u32 = "cksum", NONE;
        }
        /// GRE header (RFC 2784, RFC 2890).
        Gre = "gre" {
            /// Flags and version, the first two bytes.
            c_rsvd0_ver: Flags16 = "c_rsvd0_ver", NONE;
            /// EtherType of the payload.
            protocol: EtherType = "protocol", ALL;
            alias "c_bit": Unsigned 1 = [part("c_rsvd0_ver", 0, 15, 1)];
            alias "k_bit": Unsigned 1 = [part("c_rsvd0_ver", 0, 13, 1)];
            alias "s_bit": Unsigned 1 = [part("c_rsvd0_ver", 0, 12, 1)];
        }
        /// Key of a GRE header that has one (RFC 2890). Stands behind `gre`.
        GreKey = "gre_key" {
            /// The key.
            value: u32 = "value", ALL;
        }
        /// Optional fields of a GRE header (RFC 2890). Stands behind `gre`.
        GreOption = "gre_option" {
            /// Checksum.
            checksum: u16 = "checksum", ABSENT;
            /// Key.
            key: u32 = "key", ABSENT;
            /// Sequence number.
            sequence: u32 = "sequence", ABSENT;
        }
        /// VXLAN header (RFC 7348).
        Vxlan = "vxlan" {
            /// Network identifier.
            vni: Vni = "vni", ALL;
            /// Flags, the first byte; normally 0x08.
            flags: u8 = "flags", NONE, ours;
            /// The reserved last byte.
            last_rsvd: u8 = "last_rsvd", NONE;
            alias "flag_g": Unsigned 1 = [part("flags", 0, 7, 1)], ours;
            alias "flag_ver": Unsigned 2 = [part("flags", 0, 4, 2)], ours;
            alias "flag_i": Unsigned 1 = [part("flags", 0, 3, 1)], ours;
            alias "flag_p": Unsigned 1 = [part("flags", 0, 2, 1)], ours;
            alias "flag_b": Unsigned 1 = [part("flags", 0, 1, 1)], ours;
            alias "flag_o": Unsigned 1 = [part("flags", 0, 0, 1)], ours;
        }
        /// VXLAN-GPE header (draft-ietf-nvo3-vxlan-gpe).
        VxlanGpe = "vxlan-gpe" {
            /// Network identifier.
            vni: Vni = "vni", ALL;
            /// Next protocol: 1 IPv4, 2 IPv6, 3 Ethernet, 4 NSH, 5 MPLS.
            protocol: u8 = "protocol", NONE, ours;
            /// Flags, the first byte; normally 0x0c.
            flags: u8 = "flags", NONE, ours;
        }
        /// NVGRE header (RFC 7637).
        Nvgre = "nvgre" {
            /// Virtual subnet identifier.
            tni: Vni = "tni", ALL;
            /// Flow identifier.
            flow_id: u8 = "flow_id", NONE, ours;
        }
        /// Geneve header (RFC 8926).
        Geneve = "geneve" {
            /// Network identifier.
            vni: Vni = "vni", ALL;
            /// EtherType of the payload.
            protocol: EtherType = "protocol", NONE;
            /// Length of the options in words of 4 bytes.
            optlen: GeneveOptionsLength = "optlen", NONE;
            /// Whether it is a control packet.
            o_bit: bool = "o_bit", NONE, ours;
            /// Whether there are critical options.
            c_bit: bool = "c_bit", NONE, ours;
        }
        /// Encapsulating security payload (RFC 4303).
        Esp = "esp" {
            /// Security parameters index.
            spi: u32 = "spi", ALL;
            /// Sequence number.
            seq: u32 = "seq", NONE, ours;
        }
        /// MPLS label (RFC 3032).
        Mpls = "mpls" {
            /// The label.
            label: MplsLabel = "label", ALL;
            /// Traffic class.
            tc: MplsTc = "tc", NONE;
            /// Whether it is the last label.
            s: bool = "s", NONE;
            /// Time to live.
            ttl: u8 = "ttl", NONE, ours;
        }
        /// GTPv1 header of either kind (3GPP TS 29.281, TS 29.060).
        Gtp = "gtp" {
            /// Version, protocol type and flags, the first byte.
            v_pt_rsv_flags: u8 = "v_pt_rsv_flags", NONE;
            /// Message type.
            msg_type: u8 = "msg_type", NONE;
            /// Message length.
            msg_len: u16 = "msg_len", NONE, ours;
            /// Tunnel endpoint identifier.
            teid: u32 = "teid", ALL;
        }
        /// GTP-U header (3GPP TS 29.281).
        Gtpu = "gtpu" {
            /// Version, protocol type and flags, the first byte.
            v_pt_rsv_flags: u8 = "v_pt_rsv_flags", NONE;
            /// Message type.
            msg_type: u8 = "msg_type", NONE;
            /// Message length.
            msg_len: u16 = "msg_len", NONE, ours;
            /// Tunnel endpoint identifier.
            teid: u32 = "teid", ALL;
        }
        /// GTP-C header (3GPP TS 29.060).
        Gtpc = "gtpc" {
            /// Version, protocol type and flags, the first byte.
            v_pt_rsv_flags: u8 = "v_pt_rsv_flags", NONE;
            /// Message type.
            msg_type: u8 = "msg_type", NONE;
            /// Message length.
            msg_len: u16 = "msg_len", NONE, ours;
            /// Tunnel endpoint identifier.
            teid: u32 = "teid", ALL;
        }
        /// PDU session container of a GTP-U packet (3GPP TS 38.415). Stands behind `gtpu`.
        GtpPsc = "gtp_psc" {
            /// QoS flow identifier.
            qfi: Qfi = "qfi", ALL;
            /// Type: 0 downlink, 1 uplink.
            pdu_type: PduType = "pdu_t", NONE;
        }
        /// A tag that `set_tag` of an earlier rule set.
        Tag = "tag" {
            /// The value.
            data: u32 = "data", ALL;
            /// Which tag.
            index: u8 = "index", ALL;
        }
        /// Metadata that `set_meta` of an earlier rule set.
        Meta = "meta" {
            /// The value.
            data: u32 = "data", ALL;
        }
        /// Value that the `mark` action of an earlier rule gave the packet.
        Mark = "mark" {
            /// The value.
            id: u32 = "id", ALL;
        }
        /// Outcome of DPDK's connection tracking (`RTE_FLOW_CONNTRACK_PKT_STATE_*`).
        Conntrack = "conntrack" {
            /// Bits: 1 valid, 2 changed, 4 invalid, 8 disabled, 16 bad.
            flags: u32 = "flags", ALL, bare;
        }
        /// Colour that a meter gave the packet.
        MeterColor = "meter" {
            /// The colour.
            color: Color = "color", ALL;
        }
        /// Outcome of the integrity checks (`struct rte_flow_item_integrity`).
        Integrity = "integrity" {
            /// Level of encapsulation, 0 the outermost.
            level: u32 = "level", NONE;
            /// Bits: 1 packet, 2 Ethernet, 4 IP and 8 TCP or UDP in order, 16 frame check sequence,
            /// 32 IPv4 checksum, 64 TCP or UDP checksum, 128 lengths in order.
            value: u64 = "value", NONE;
        }
        /// Outcome of the `ct` action (private, rte_flow type -1).
        Ct = "ct" {
            /// State of the packet's connection.
            state: CtState = "state", ABSENT, ours;
            /// Zone it was tracked in.
            zone: u16 = "zone", ABSENT, ours;
            /// Mark of the connection.
            mark: u32 = "mark", ABSENT, ours;
            /// Label of the connection.
            label: CtLabel = "label", ABSENT, ours;
        }
    }
    long {
        /// Bytes at a place, or anywhere in a part of the packet. Has no ranges.
        Raw = "raw" {
            /// Whether the offset counts from the end of the item before.
            relative: bool = "relative", ALL;
            /// Whether the bytes may stand anywhere from the offset on.
            search: bool = "search", ALL;
            /// Where to look; below 0 only if relative.
            offset: i32 = "offset", ALL;
            /// Up to how many bytes behind the offset they may begin; 0 for any.
            limit: u16 = "limit", ALL;
            bytes
            /// The bytes.
            pattern: "pattern_hex" 128, ALL;
            text "pattern";
        }
        /// One Geneve option (RFC 8926, section 3.5). Stands behind `geneve`.
        GeneveOpt = "geneve-opt" {
            /// Option class.
            class: Flags16 = "class", NONE;
            /// Option type.
            opt_type: u8 = "type", ALL;
            /// Length of the data in words of 4 bytes.
            length: GeneveOptionLength = "length", NONE;
            bytes
            /// The data.
            data: "data" 124, NONE;
        }
    }
    ports {
        /// Traffic from or to a port (deprecated in DPDK, kept for its users).
        PortId = "port_id", "id";
        /// Traffic that the owner of a port sends into the switch.
        PortRepresentor = "port_representor", "port_id";
        /// Traffic that enters the switch from what a port stands for (the guest, the wire).
        RepresentedPort = "represented_port", "ethdev_port_id";
    }
}

/// Items that rte_flow or testpmd has and this model does not; they are refused by name.
pub const UNSUPPORTED_ITEMS: &[&str] = &[
    "aggr_affinity",
    "ah",
    "compare",
    "e_tag",
    "ecpri",
    "flex",
    "fuzzy",
    "higig2",
    "ib_bth",
    "icmp6_echo_reply",
    "icmp6_echo_request",
    "igmp",
    "invert",
    "ipv6_routing_ext",
    "l2tpv2",
    "l2tpv3oip",
    "macsec",
    "nsh",
    "pfcp",
    "ppp",
    "pppoe_proto_id",
    "pppoed",
    "pppoes",
    "ptype",
    "quota",
    "random",
    "tx_queue",
];

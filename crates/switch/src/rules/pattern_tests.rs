//! Patterns in testpmd's syntax against frames of scapy: each item matches the frame that has it and not the frame that differs in it.

use sumeru_flow::syntax::{Command, parse as read};
use sumeru_flow::{PortRef, Rule};
use sumeru_packet::{Field, FlowKey, Layout, parse};

use super::frames::*;
use super::*;
use crate::classifier::Classes;

mod more;

fn rule(pattern: &str) -> Rule {
    let text = format!("flow create 0 ingress pattern {pattern} / end actions drop / end");
    match read(&text) {
        Ok(Command::Create { rule, .. }) => rule,
        other => panic!("{pattern}: {other:?}"),
    }
}

fn compile_as(rule: &Rule, id: u32) -> Result<CompiledRule, RuleError> {
    let resolve = |port: &PortRef| port.number().filter(|n| *n < 4).map(|n| n as PortIndex);
    let context = Context {
        port: 0,
        id,
        resolve: &resolve,
    };
    compile(rule, &context)
}

fn refusal(pattern: &str) -> RuleError {
    compile_as(&rule(pattern), 1).expect_err(pattern)
}

/// A table with one rule for each pattern.
fn table(patterns: &[&str]) -> RuleTable {
    let mut table = RuleTable::default();
    for (id, pattern) in patterns.iter().enumerate() {
        let compiled = compile_as(&rule(pattern), id as u32)
            .unwrap_or_else(|error| panic!("{pattern}: {error}"));
        table.insert(&compiled).unwrap();
    }
    table.publish();
    table
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect()
}

/// The rule that a frame meets when it is parsed as the rules want it; `None` also when it is malformed.
fn met(table: &RuleTable, frame: &[u8], set: &[(Field, u128)]) -> Option<u32> {
    let view = table.view();
    let options = Parsing::of(view).options(4789, false);
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let captured = &frame[..frame.len().min(sumeru_packet::HEADER_MAX)];
    parse(captured, frame.len(), &mut key, &mut layout, &options).ok()?;
    set.iter()
        .for_each(|(field, value)| key.set(*field, *value));
    let found = view.rules.lookup(0, &key, &mut Classes::new(), |_| ());
    found.map(|found| name_from(found.name).1)
}

fn matches(pattern: &str, frame: &[u8]) -> bool {
    met(&table(&[pattern]), frame, &[]).is_some()
}

type FieldCase = (&'static str, &'static str, &'static [(usize, u8)]);

/// Pattern, frame that it matches, and bits of it that are turned over (offset, bits) so that just one field differs.
const FIELDS: &[FieldCase] = &[
    ("eth dst is 02:00:00:00:00:02", UDP, &[(5, 1)]),
    ("eth src is 02:00:00:00:00:01", UDP, &[(11, 1)]),
    ("eth type is 0x0800", UDP, &[(13, 1)]),
    ("eth / vlan pcp is 3", VLAN, &[(14, 0x20)]),
    ("eth / vlan vid is 5", VLAN, &[(15, 1)]),
    ("eth / vlan inner_type is 0x0800", VLAN, &[(17, 1)]),
    ("eth / vlan vid is 7 / vlan vid is 9", QINQ, &[(19, 1)]),
    ("eth / vlan / vlan pcp is 1", QINQ, &[(18, 0x20)]),
    (
        "eth / vlan pcp is 2 / vlan inner_type is 0x0800",
        QINQ,
        &[(21, 1)],
    ),
    ("eth / arp_eth_ipv4 op is 1", ARP, &[(21, 3)]),
    (
        "eth / arp_eth_ipv4 sha is 02:00:00:00:00:01",
        ARP,
        &[(27, 1)],
    ),
    ("eth / arp_eth_ipv4 spa is 192.0.2.1", ARP, &[(31, 1)]),
    (
        "eth / arp_eth_ipv4 tha is 00:00:00:00:00:77",
        ARP,
        &[(37, 1)],
    ),
    ("eth / arp_eth_ipv4 tpa is 192.0.2.2", ARP, &[(41, 1)]),
    ("eth / ipv4 version_ihl is 0x45", TCP_LATER, &[(14, 3)]),
    ("eth / ipv4 tos is 0x28", UDP, &[(15, 4)]),
    ("eth / ipv4 packet_id is 0xbeef", UDP, &[(19, 1)]),
    ("eth / ipv4 fragment_offset is 0x4000", UDP, &[(20, 0x40)]),
    ("eth / ipv4 fragment_offset is 100", TCP_LATER, &[(21, 1)]),
    ("eth / ipv4 ttl is 64", UDP, &[(22, 1)]),
    ("eth / ipv4 proto is 17", UDP, &[(23, 0xec)]),
    ("eth / ipv4 src is 192.0.2.1", UDP, &[(29, 2)]),
    ("eth / ipv4 dst is 192.0.2.2", UDP, &[(33, 1)]),
    ("eth / ipv6 tc is 0x28", UDP6, &[(15, 0x40)]),
    ("eth / ipv6 flow is 0xabcde", UDP6, &[(17, 1)]),
    ("eth / ipv6 proto is 17", UDP6, &[(20, 0xec)]),
    ("eth / ipv6 hop is 64", UDP6, &[(21, 1)]),
    ("eth / ipv6 src is 2001:db8::1", UDP6, &[(37, 2)]),
    ("eth / ipv6 dst is 2001:db8::2", UDP6, &[(53, 1)]),
    ("eth / ipv6 has_hop_ext is 1", EXTENSIONS, &[(20, 60)]),
    (
        "eth / ipv6 has_mobil_ext is 1",
        MOBILITY,
        &[(20, 135 ^ 139)],
    ),
    ("eth / ipv6 has_hip_ext is 0", MOBILITY, &[(20, 135 ^ 139)]),
    (
        "eth / ipv6 has_shim6_ext is 0",
        MOBILITY,
        &[(20, 135 ^ 140)],
    ),
    (
        "eth / ipv6 / ipv6_ext next_hdr is 17",
        FRAGMENT6,
        &[(54, 0xec)],
    ),
    (
        "eth / ipv6 / ipv6_frag_ext next_hdr is 17",
        FRAGMENT6,
        &[(54, 0xec)],
    ),
    (
        "eth / ipv6 / ipv6_frag_ext packet_id spec 0x0badcafe packet_id mask 0xffffffff",
        FRAGMENT6,
        &[(61, 1)],
    ),
    (
        "eth / ipv6 / ipv6_frag_ext frag_data spec 0 frag_data mask 0xfff8",
        FRAGMENT6,
        &[(56, 1)],
    ),
    ("eth / ipv4 / icmp type is 8", ICMP, &[(34, 8)]),
    ("eth / ipv4 / icmp code is 0", ICMP, &[(35, 1)]),
    ("eth / ipv4 / icmp ident is 0x1234", ICMP, &[(39, 1)]),
    ("eth / ipv4 / icmp seq is 5", ICMP, &[(41, 1)]),
    ("eth / ipv6 / icmp6 type is 128", ECHO6, &[(54, 1)]),
    ("eth / ipv6 / icmp6 code is 0", ECHO6, &[(55, 1)]),
    (
        "eth / ipv6 / icmp6_nd_ns target_addr is fd00::2",
        SOLICITATION,
        &[(77, 1)],
    ),
    (
        "eth / ipv6 / icmp6_nd_na target_addr is fd00::2",
        ADVERTISEMENT,
        &[(77, 1)],
    ),
    (
        "eth / ipv6 / icmp6_nd_ns / icmp6_nd_opt type is 1",
        SOLICITATION,
        &[(78, 2)],
    ),
    (
        "eth / ipv6 / icmp6_nd_na / icmp6_nd_opt type is 2",
        ADVERTISEMENT,
        &[(78, 4)],
    ),
    (
        "eth / ipv6 / icmp6_nd_ns / icmp6_nd_opt_sla_eth sla is 02:00:00:00:00:01",
        SOLICITATION,
        &[(85, 1)],
    ),
    (
        "eth / ipv6 / icmp6_nd_na / icmp6_nd_opt_tla_eth tla is 02:00:00:00:00:02",
        ADVERTISEMENT,
        &[(85, 1)],
    ),
    ("eth / ipv4 / tcp src is 1000", TCP, &[(35, 1)]),
    ("eth / ipv4 / tcp dst is 80", TCP, &[(37, 1)]),
    ("eth / ipv4 / tcp flags is 2", TCP, &[(47, 0x10)]),
    ("eth / ipv4 / udp src is 1000", UDP, &[(35, 1)]),
    ("eth / ipv4 / udp dst is 53", UDP, &[(37, 1)]),
    ("eth / ipv4 / sctp src is 1000", SCTP, &[(35, 1)]),
    ("eth / ipv4 / sctp dst is 80", SCTP, &[(37, 1)]),
    ("eth / ipv4 / sctp tag is 0x11223344", SCTP, &[(41, 1)]),
    (
        "eth / ipv4 / gre c_rsvd0_ver is 0x2000",
        GRE_KEY,
        &[(35, 8)],
    ),
    ("eth / ipv4 / gre protocol is 0x6558", GRE_KEY, &[(37, 1)]),
    (
        "eth / ipv4 / gre / gre_key value is 0xdeadbeef",
        GRE_KEY,
        &[(41, 1)],
    ),
    (
        "eth / ipv4 / gre / gre_option key spec 0xdeadbeef key mask 0xffffffff",
        GRE_KEY,
        &[(41, 1)],
    ),
    ("eth / ipv4 / nvgre tni is 0xdeadbe", GRE_KEY, &[(40, 1)]),
    ("eth / ipv4 / nvgre flow_id is 0xef", GRE_KEY, &[(41, 1)]),
    (
        "eth / ipv4 / udp / vxlan vni is 0x123456",
        VXLAN,
        &[(48, 1)],
    ),
    ("eth / ipv4 / udp / vxlan flags is 8", VXLAN, &[(42, 0x80)]),
    (
        "eth / ipv4 / udp / vxlan / eth dst is 02:00:00:00:11:02",
        VXLAN,
        &[(55, 1)],
    ),
    (
        "eth / ipv4 / udp / vxlan / eth / ipv4 packet_id is 0xbeef",
        VXLAN,
        &[(69, 1)],
    ),
    (
        "eth / ipv4 / udp / vxlan / eth / ipv4 / tcp dst is 80",
        VXLAN,
        &[(87, 1)],
    ),
    (
        "eth / ipv4 / udp / vxlan-gpe vni is 0x123456",
        GPE,
        &[(48, 1)],
    ),
    (
        "eth / ipv4 / udp / vxlan-gpe protocol is 1",
        GPE,
        &[(45, 5)],
    ),
    (
        "eth / ipv4 / udp / vxlan-gpe flags is 0x0c / ipv4",
        GPE,
        &[(42, 1)],
    ),
    (
        "eth / ipv4 / udp / geneve vni is 0x123456",
        GENEVE,
        &[(48, 1)],
    ),
    (
        "eth / ipv4 / udp / geneve protocol is 0x6558",
        GENEVE,
        &[(45, 1)],
    ),
    ("eth / ipv4 / udp / geneve optlen is 5", GENEVE, &[(42, 6)]),
    (
        "eth / ipv4 / udp / geneve o_bit is 0",
        GENEVE,
        &[(43, 0x80)],
    ),
    (
        "eth / ipv4 / udp / geneve c_bit is 1",
        GENEVE,
        &[(43, 0x40)],
    ),
    (
        "eth / ipv4 / udp / geneve / geneve-opt class is 0x0102 type is 0x80",
        GENEVE,
        &[(51, 1)],
    ),
    (
        "eth / ipv4 / udp / geneve / geneve-opt class is 0x0102 type is 0x80",
        GENEVE,
        &[(52, 1)],
    ),
    (
        "eth / ipv4 / udp / geneve / geneve-opt class is 0x0102 type is 0x80 data is 4142434445464748",
        GENEVE,
        &[(61, 1)],
    ),
    (
        "eth / ipv4 / udp / geneve / geneve-opt class is 0x0103 type is 5 data is 7778 / eth / ipv4 / tcp",
        GENEVE,
        &[(67, 1)],
    ),
    ("eth / ipv4 / esp spi is 0xc0ffee01", ESP, &[(37, 1)]),
    ("eth / ipv4 / esp seq is 77", ESP, &[(41, 1)]),
    ("eth / mpls label is 16001", MPLS, &[(15, 1)]),
    ("eth / mpls tc is 5", MPLS, &[(16, 2)]),
    ("eth / mpls s is 0", MPLS, &[(16, 1)]),
    ("eth / mpls ttl is 63", MPLS, &[(17, 1)]),
    ("eth / mpls / mpls label is 42 / ipv4", MPLS, &[(19, 1)]),
    ("eth / mpls / mpls tc is 2", MPLS, &[(20, 2)]),
    ("eth / mpls / mpls s is 1", MPLS, &[(20, 1)]),
    (
        "eth / mpls / mpls ttl is 62 / ipv4 src is 10.0.0.1",
        MPLS,
        &[(21, 1)],
    ),
    (
        "eth / ipv4 / udp / gtpu v_pt_rsv_flags is 0x36",
        GTPU,
        &[(42, 2)],
    ),
    ("eth / ipv4 / udp / gtpu msg_type is 255", GTPU, &[(43, 1)]),
    (
        "eth / ipv4 / udp / gtpu teid is 0x01020304",
        GTPU,
        &[(49, 1)],
    ),
    (
        "eth / ipv4 / udp dst is 2152 / gtp teid is 0x01020304",
        GTPU,
        &[(49, 1)],
    ),
    (
        "eth / ipv4 / udp / gtp msg_type is 255 / gtp_psc",
        GTPU,
        &[(43, 1)],
    ),
    (
        "eth / ipv4 / udp / gtp v_pt_rsv_flags is 0x36 / ipv4",
        GTPU,
        &[(42, 2)],
    ),
    (
        "eth / ipv4 / udp / gtpu / gtp_psc qfi is 9",
        GTPU,
        &[(56, 1)],
    ),
    (
        "eth / ipv4 / udp / gtpu / gtp_psc pdu_t is 1",
        GTPU,
        &[(55, 0x10)],
    ),
    (
        "eth / ipv4 / udp / gtpu / gtp_psc / ipv4 / tcp dst is 80",
        GTPU,
        &[(81, 1)],
    ),
    ("eth / ipv4 / udp / gtpc", GTPC, &[(37, 1)]),
    (
        "raw relative is 0 offset is 42 pattern is payload",
        UDP,
        &[(42, 1)],
    ),
    (
        "eth / ipv4 / udp / raw relative is 1 pattern is payload",
        UDP,
        &[(48, 1)],
    ),
    (
        "eth / ipv6 / udp / raw relative is 1 offset is 3 pattern_hex is 6c6f6164",
        UDP6,
        &[(68, 1)],
    ),
    (
        "eth / ipv4 / udp / vxlan / eth / raw relative is 1 pattern_hex is 4500",
        VXLAN,
        &[(65, 1)],
    ),
    (
        "eth / raw relative is 1 offset is -2 pattern_hex is 0800",
        UDP,
        &[(13, 1)],
    ),
];

#[test]
fn every_field_is_compared() {
    for (pattern, frame, edits) in FIELDS {
        let mut frame = bytes(frame);
        let table = table(&[pattern]);
        assert!(met(&table, &frame, &[]).is_some(), "{pattern}");
        edits.iter().for_each(|(at, bits)| frame[*at] ^= bits);
        assert_eq!(met(&table, &frame, &[]), None, "{pattern}, edited");
    }
}

#[test]
fn a_checksum_of_sctp_is_compared() {
    let mut frame = bytes(SCTP);
    let sum = u32::from_be_bytes(frame[42..46].try_into().unwrap());
    let table = table(&[&format!("eth / ipv4 / sctp cksum is {sum}")]);
    assert!(met(&table, &frame, &[]).is_some());
    frame[45] ^= 1;
    assert!(met(&table, &frame, &[]).is_none());
}

/// Pattern, frames that it matches, frames that it does not.
const PRESENCE: &[(&str, &[&str], &[&str])] = &[
    ("eth has_vlan is 1", &[VLAN, QINQ], &[UDP]),
    ("eth / vlan", &[VLAN, QINQ], &[UDP]),
    ("eth / vlan has_more_vlan is 1", &[QINQ], &[VLAN, UDP]),
    ("eth / vlan / vlan", &[QINQ], &[VLAN, UDP]),
    ("eth / arp_eth_ipv4", &[ARP], &[UDP]),
    ("eth / ipv4", &[UDP, VLAN], &[ARP, UDP6, MPLS]),
    ("eth / ipv6", &[UDP6], &[UDP]),
    ("eth / ipv6 has_route_ext is 1", &[EXTENSIONS], &[UDP6, UDP]),
    (
        "eth / ipv6 has_frag_ext is 1",
        &[EXTENSIONS, FRAGMENT6],
        &[UDP6],
    ),
    ("eth / ipv6 has_auth_ext is 1", &[EXTENSIONS], &[FRAGMENT6]),
    ("eth / ipv6 has_dest_ext is 1", &[EXTENSIONS], &[FRAGMENT6]),
    ("eth / ipv6 has_esp_ext is 1", &[ESP6], &[EXTENSIONS]),
    ("eth / ipv6 has_mobil_ext is 1", &[MOBILITY], &[ESP6]),
    (
        "eth / ipv6 / ipv6_ext",
        &[EXTENSIONS, FRAGMENT6, ESP6, MOBILITY],
        &[UDP6, UDP],
    ),
    (
        "eth / ipv6 / ipv6_ext next_hdr is 17",
        &[EXTENSIONS, FRAGMENT6],
        &[UDP6],
    ),
    ("eth / ipv6 / ipv6_ext next_hdr is 50", &[], &[ESP6]),
    (
        "eth / ipv6 / ipv6_frag_ext",
        &[EXTENSIONS, FRAGMENT6],
        &[UDP6, ESP6],
    ),
    (
        "eth / ipv6 / ipv6_frag_ext frag_data spec 0 frag_data mask 0xfff9",
        &[EXTENSIONS],
        &[FRAGMENT6],
    ),
    ("eth / ipv4 / icmp", &[ICMP], &[UDP, ECHO6]),
    ("eth / ipv6 / icmp6", &[ECHO6, SOLICITATION], &[ICMP, UDP6]),
    (
        "eth / ipv6 / icmp6_nd_ns",
        &[SOLICITATION],
        &[ADVERTISEMENT, ECHO6],
    ),
    (
        "eth / ipv6 / icmp6_nd_na",
        &[ADVERTISEMENT],
        &[SOLICITATION],
    ),
    ("icmp6_nd_opt_sla_eth", &[SOLICITATION], &[ADVERTISEMENT]),
    ("icmp6_nd_opt_tla_eth", &[ADVERTISEMENT], &[SOLICITATION]),
    ("eth / ipv4 / tcp", &[TCP, TCP_LATER], &[UDP, SCTP]),
    (
        "eth / ipv4 / tcp flags spec 0 flags mask 1",
        &[TCP],
        &[TCP_LATER],
    ),
    (
        "eth / ipv4 / tcp dst spec 0 dst last 1023 dst mask 65535",
        &[TCP],
        &[TCP_LATER],
    ),
    ("eth / ipv4 / sctp", &[SCTP], &[TCP]),
    ("eth / ipv4 / udp", &[UDP, VXLAN], &[TCP, UDP6]),
    ("eth / ipv4 / esp", &[ESP], &[TCP]),
    ("eth / ipv4 / gre", &[GRE, GRE_KEY], &[VXLAN]),
    ("eth / ipv4 / gre k_bit is 1", &[GRE_KEY], &[GRE]),
    ("eth / ipv4 / gre / gre_key", &[GRE_KEY], &[GRE]),
    ("eth / ipv4 / gre / ipv4", &[GRE], &[GRE_KEY]),
    ("eth / ipv4 / gre / eth / ipv4", &[GRE_KEY], &[GRE]),
    ("eth / ipv4 / nvgre", &[GRE_KEY], &[GRE]),
    ("eth / ipv4 / udp / vxlan", &[VXLAN], &[UDP, GPE, GENEVE]),
    ("vxlan / eth / ipv4 / tcp", &[VXLAN], &[GPE]),
    ("eth / ipv4 / udp / vxlan-gpe", &[GPE], &[VXLAN]),
    ("eth / ipv4 / udp / geneve", &[GENEVE], &[VXLAN]),
    ("eth / mpls", &[MPLS, MPLS_ONE], &[UDP]),
    ("eth / mpls / mpls", &[MPLS], &[MPLS_ONE]),
    ("eth / mpls / ipv4", &[MPLS_ONE], &[MPLS]),
    ("eth / mpls / mpls / ipv4 / tcp", &[MPLS], &[MPLS_ONE]),
    ("eth / ipv4 / udp / gtpu", &[GTPU], &[GTPC, VXLAN]),
    ("eth / ipv4 / udp / gtpc", &[GTPC], &[GTPU]),
    ("eth / ipv4 / udp / gtpu / gtp_psc", &[GTPU], &[GTPC]),
    ("eth / any / tcp", &[TCP], &[UDP, VXLAN]),
    (
        "eth / any num is 1 / udp",
        &[UDP, UDP6, VXLAN, VLAN],
        &[TCP],
    ),
    (
        "eth / any num is 2 / vxlan / any num is 2 / tcp",
        &[VXLAN],
        &[GENEVE],
    ),
    ("eth / ipv4 / gre / any num is 1 / udp", &[GRE], &[GRE_KEY]),
    ("eth / ipv4 / gre / any num is 2 / tcp", &[GRE_KEY], &[GRE]),
    ("eth / ipv4 / gre / any / tcp", &[GRE_KEY], &[GRE]),
    (
        "eth / ipv4 / any / ipv4 / tcp",
        &[GRE_KEY, VXLAN, GPE, GTPU],
        &[TCP, GRE],
    ),
    ("eth / ipv4 / any / eth", &[GRE_KEY, VXLAN], &[GRE, GPE]),
    (
        "eth / ipv4 / tcp / integrity level is 1 value spec 142 value mask 142",
        &[TCP],
        &[TCP_LATER],
    ),
    (
        "eth / ipv4 proto spec 6 proto last 17 proto mask 255 / udp",
        &[UDP],
        &[TCP, ICMP],
    ),
    ("eth / mpls tc spec 4 tc last 6 tc mask 7", &[MPLS], &[UDP]),
    ("eth / mpls tc spec 1 tc last 4 tc mask 7", &[], &[MPLS]),
    (
        "eth / ipv4 packet_id spec 0xbe00 packet_id last 0xbeff packet_id mask 0xffff",
        &[UDP],
        &[TCP],
    ),
];

#[test]
fn an_item_says_that_its_header_is_there() {
    for (pattern, with, without) in PRESENCE {
        let table = table(&[pattern]);
        for (number, frame) in with.iter().enumerate() {
            assert!(
                met(&table, &bytes(frame), &[]).is_some(),
                "{pattern}: {number} of those with it"
            );
        }
        for (number, frame) in without.iter().enumerate() {
            assert!(
                met(&table, &bytes(frame), &[]).is_none(),
                "{pattern}: {number} of those without it"
            );
        }
    }
}

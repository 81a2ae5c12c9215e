//! Which rules make sense and which do not, and what is said about those.

use sumeru_flow::model::EtherType;
use sumeru_flow::syntax::parse_rule;
use sumeru_flow::{Action, Attributes, FlowError, Item, Rule};

fn judge(text: &str) -> Result<(), FlowError> {
    match parse_rule(text) {
        Ok(rule) => rule.validate(),
        Err(error) => panic!("{}", error.render(text)),
    }
}

#[test]
fn sensible_rules_are_valid() {
    for text in [
        "ingress pattern end actions drop / end",
        "ingress egress pattern udp dst is 53 / end actions drop / end",
        "transfer pattern mark id is 1 / eth / void / represented_port / ipv4 / end actions drop / end",
        "ingress pattern eth type is 0x8100 / ipv4 / end actions drop / end",
        "ingress pattern eth has_vlan is 1 / vlan has_more_vlan is 1 / vlan / ipv6 proto is 44 / \
         udp / end actions drop / end",
        "ingress pattern eth / ipv4 / udp / vxlan vni is 5 / eth / ipv6 / tcp / end actions \
         vxlan_decap / set_ipv6_src ipv6_addr ::1 / set_tp_dst port 1 / jump group 1 / end",
        "ingress pattern eth / ipv4 / udp / vxlan / end actions vxlan_decap / \
         set_mac_dst mac_addr 02:00:00:00:00:01 / port_id id 1 / end",
        "ingress pattern eth / end actions of_push_vlan ethertype 0x8100 / \
         of_set_vlan_vid vlan_vid 5 / of_pop_vlan / drop / count / void / end",
        "ingress pattern eth / end actions vxlan_encap vni 1 ip_src ::1 ip_dst ::2 / \
         set_ipv6_dst ipv6_addr ::3 / dec_ttl / vxlan_decap / drop / end",
    ] {
        assert_eq!(judge(text), Ok(()), "{text}");
    }
}

#[test]
fn senseless_rules_are_refused() {
    let drop = |pattern: &str| {
        judge(&format!(
            "ingress pattern {pattern} / end actions drop / end"
        ))
    };
    let act = |actions: &str| {
        judge(&format!(
            "ingress pattern eth / ipv4 / end actions {actions} / end"
        ))
    };
    let order = |index, item, after, expected| {
        Err(FlowError::ItemOrder {
            index,
            item,
            after,
            expected,
        })
    };
    let excludes = |index, item, field, excluded| {
        Err(FlowError::Contradiction {
            index,
            item,
            field,
            excluded,
        })
    };
    let lacks = |index, action, needs| {
        Err(FlowError::MissingHeader {
            index,
            action,
            needs,
        })
    };

    assert_eq!(
        judge("pattern eth / end actions drop / end"),
        Err(FlowError::NoDirection)
    );
    assert_eq!(
        judge("ingress transfer pattern eth / end actions drop / end"),
        Err(FlowError::TransferWithDirection)
    );
    let l3: &'static [&'static str] = &["vlan", "arp_eth_ipv4", "ipv4", "ipv6", "mpls"];
    assert_eq!(drop("eth / udp"), order(1, "udp", "eth", l3));
    assert_eq!(drop("void / eth / void / eth"), order(3, "eth", "eth", l3));
    assert_eq!(drop("eth / vxlan"), order(1, "vxlan", "eth", l3));
    let l4 = &["tcp", "udp", "sctp", "icmp", "esp", "gre", "nvgre"];
    assert_eq!(drop("ipv4 / icmp6"), order(1, "icmp6", "ipv4", l4));
    assert_eq!(drop("tcp / ipv4"), order(1, "ipv4", "tcp", &[]));
    assert_eq!(
        drop("eth / ipv4 / udp / vxlan / ipv4"),
        order(4, "ipv4", "vxlan", &["eth"])
    );
    assert_eq!(
        drop("mark id is 1 / mark id is 2"),
        Err(FlowError::DuplicateItem {
            index: 1,
            item: "mark"
        })
    );
    assert_eq!(
        drop("eth type is 0x86dd / ipv4"),
        excludes(0, "eth", "type", "ipv4")
    );
    assert_eq!(
        drop("eth type is 0x0800 / vlan"),
        excludes(0, "eth", "type", "vlan")
    );
    assert_eq!(
        drop("eth has_vlan is 0 / vlan"),
        excludes(0, "eth", "has_vlan", "vlan")
    );
    assert_eq!(
        drop("vlan inner_type is 5 / ipv6"),
        excludes(0, "vlan", "inner_type", "ipv6")
    );
    assert_eq!(
        drop("vlan has_more_vlan is 0 / vlan"),
        excludes(0, "vlan", "has_more_vlan", "vlan")
    );
    assert_eq!(
        drop("eth / ipv4 proto is 17 / tcp"),
        excludes(1, "ipv4", "proto", "tcp")
    );
    assert_eq!(
        drop("ipv6 proto is 6 / icmp6"),
        excludes(0, "ipv6", "proto", "icmp6")
    );
    assert_eq!(
        drop("ipv4 version_ihl is 0x60"),
        excludes(
            0,
            "ipv4",
            "version_ihl",
            "every valid header (0x45 to 0x4f)"
        )
    );
    assert_eq!(
        drop("ipv4 / tcp dst is 9 dst last 8"),
        Err(FlowError::ReversedRange {
            index: 1,
            item: "tcp",
            field: "dst"
        })
    );
    assert_eq!(act("count"), Err(FlowError::NoFate));
    assert_eq!(
        act("drop / jump group 1"),
        Err(FlowError::SeveralFates {
            index: 1,
            action: "jump",
            first: "drop"
        })
    );
    assert_eq!(
        act("port_id id 1 / dec_ttl"),
        Err(FlowError::ActionAfterFate {
            index: 1,
            action: "dec_ttl",
            fate: "port_id"
        })
    );
    assert_eq!(
        act("jump group 0"),
        Err(FlowError::JumpToOwnGroup {
            index: 0,
            action: "jump",
            group: 0
        })
    );
    assert_eq!(
        act("of_push_vlan ethertype 0x800 / drop"),
        Err(FlowError::TagProtocol {
            index: 0,
            ethertype: EtherType::IPV4
        })
    );
    assert_eq!(act("of_pop_vlan / drop"), lacks(0, "of_pop_vlan", "`vlan`"));
    assert_eq!(
        act("set_ipv6_src ipv6_addr ::1 / drop"),
        lacks(0, "set_ipv6_src", "`ipv6`")
    );
    assert_eq!(
        act("set_tp_src port 1 / drop"),
        lacks(0, "set_tp_src", "`tcp` or `udp`")
    );
    assert_eq!(
        act("vxlan_decap / drop"),
        lacks(0, "vxlan_decap", "`vxlan`")
    );
    assert_eq!(
        judge(
            "ingress pattern eth / ipv4 / udp / vxlan / end actions vxlan_decap / dec_ttl / drop / end"
        ),
        lacks(1, "dec_ttl", "`ipv4` or `ipv6`")
    );
    let many = |items, actions| Rule {
        attributes: Attributes {
            ingress: true,
            ..Attributes::default()
        },
        pattern: vec![Item::Void; items],
        actions: vec![Action::Drop; actions],
    };
    assert_eq!(
        many(65, 1).validate(),
        Err(FlowError::TooManyItems { found: 65 })
    );
    assert_eq!(
        many(1, 65).validate(),
        Err(FlowError::TooManyActions { found: 65 })
    );
}

/// Stacks of tunnels and extensions, and actions on what is in them.
#[test]
fn tunnels_are_followed() {
    for text in [
        "ingress pattern eth / ipv6 / ipv6_frag_ext next_hdr is 17 / udp / end actions drop / end",
        "ingress pattern eth / ipv6 / icmp6_nd_ns / icmp6_nd_opt_sla_eth / end actions drop / end",
        "ingress pattern eth / mpls / mpls s is 1 / ipv4 / end actions of_pop_mpls ethertype 0x800 / drop / end",
        "ingress pattern eth / ipv4 / gre k_bit is 1 / gre_key / eth / ipv4 / tcp / end actions drop / end",
        "ingress pattern eth / ipv4 / udp / geneve optlen is 2 / geneve-opt / geneve-opt / eth / ipv6 / end \
         actions modify_field op set dst_type ipv6_hoplimit dst_level 2 src_type value src_value 05 width 8 / drop / end",
        "ingress pattern eth / ipv4 / udp / gtpu / gtp_psc qfi is 5 / ipv4 / tcp / end actions \
         modify_field op set dst_type gtp_psc_qfi src_type value src_value 05 width 6 / drop / end",
        "ingress pattern any / tcp / end actions set_ipv4_src ipv4_addr 1.2.3.4 / drop / end",
        "ingress pattern eth / raw relative is 1 offset is -4 pattern is abc / end actions drop / end",
        "ingress pattern tag index is 1 / tag index is 2 / eth / end actions indirect 5 / passthru / end",
        "ingress pattern eth / ipv4 / end actions nvgre_encap tni 1 ip_src ::1 ip_dst ::2 / nvgre_decap / dec_ttl / drop / end",
        "ingress pattern eth / ipv4 / end actions raw_decap data 0a / raw_encap data 0b / set_ipv6_dst ipv6_addr ::1 / drop / end",
        "ingress pattern eth / ipv4 / end actions l2_decap vlan / l2_encap eth_src 02:00:00:00:00:01 \
         eth_dst 02:00:00:00:00:02 ethertype 0x800 vlan_tci 5 / of_pop_vlan / drop / end",
        "ingress pattern eth / ipv4 / end actions ct zone 1 group 3 / count / end",
        "ingress pattern ct state is +trk+est / conntrack is 1 / meter color is red / eth / end actions drop / end",
    ] {
        assert_eq!(judge(text), Ok(()), "{text}");
    }
}

#[test]
fn senseless_tunnels_are_refused() {
    for (pattern, expected) in [
        (
            "gre_key value is 1",
            "item 0: `gre_key` needs `gre` before it",
        ),
        (
            "any / geneve-opt",
            "item 1: `geneve-opt` cannot follow `any`; expected `any`, `raw` or the end of the pattern",
        ),
        (
            "eth / ipv4 / udp / gtp_psc",
            "item 3: `gtp_psc` cannot follow `udp`; expected `vxlan`, `vxlan-gpe`, `geneve`, `gtp`, \
          `gtpu`, `gtpc`, `mpls`, `esp`, `any`, `raw` or the end of the pattern",
        ),
        (
            "udp / tcp",
            "item 1: `tcp` cannot follow `udp`; expected `vxlan`, `vxlan-gpe`, `geneve`, `gtp`, `gtpu`, `gtpc`, \
          `mpls`, `esp`, `any`, `raw` or the end of the pattern",
        ),
        (
            "ipv4 / vlan",
            "item 1: `vlan` cannot follow `ipv4`; expected `tcp`, `udp`, `sctp`, `icmp`, `esp`, `gre`, `nvgre`, \
          `any`, `raw` or the end of the pattern",
        ),
        (
            "eth / mpls s is 0 / ipv4",
            "item 1: field `s` of `mpls` excludes ipv4",
        ),
        (
            "eth / mpls s is 1 / mpls",
            "item 1: field `s` of `mpls` excludes mpls",
        ),
        (
            "gre k_bit is 0 / gre_key",
            "item 0: field `c_rsvd0_ver` of `gre` excludes gre_key",
        ),
        (
            "gre protocol is 0x800 / eth",
            "item 0: field `protocol` of `gre` excludes eth",
        ),
        (
            "geneve optlen is 0 / geneve-opt",
            "item 0: field `optlen` of `geneve` excludes geneve-opt",
        ),
        (
            "ipv6 / ipv6_frag_ext next_hdr is 6 / udp",
            "item 1: field `next_hdr` of `ipv6_frag_ext` excludes udp",
        ),
        (
            "eth type is 0x800 / arp_eth_ipv4",
            "item 0: field `type` of `eth` excludes arp_eth_ipv4",
        ),
        (
            "raw offset is -1 pattern is a",
            "item 0: field `offset` of `raw` excludes every packet: it is below 0 and not relative",
        ),
        (
            "raw offset is 1 offset last 5",
            "item 0: `raw` has no ranges, `last` of field `offset` cannot be given",
        ),
        (
            "tag index is 1 / tag index is 1",
            "item 1: `tag` is there twice",
        ),
        ("meta / meta", "item 1: `meta` is there twice"),
    ] {
        let text = format!("ingress pattern {pattern} / end actions drop / end");
        assert_eq!(
            judge(&text).map_err(|error| error.to_string()),
            Err(expected.to_owned()),
            "{pattern}"
        );
    }
    for (actions, expected) in [
        (
            "conntrack / drop",
            "action 0: `conntrack` belongs into an indirect object; name that by `indirect`",
        ),
        (
            "age timeout 5 / age timeout 6 / drop",
            "action 1: `age` is there twice",
        ),
        (
            "queue index 1 / drop",
            "action 1: `drop` decides the packet's fate, which `queue` already does",
        ),
        (
            "port_id id 1 / vxlan_encap vni 1 ip_src ::1 ip_dst ::2",
            "action 1: `vxlan_encap` comes after `port_id`; only `count` and `void` may",
        ),
        ("ct group 0", "action 0: `ct` to group 0, the rule's own"),
        (
            "of_push_mpls ethertype 0x800 / drop",
            "action 0: `of_push_mpls` with ethertype 0x0800; expected 0x8847 or 0x8848",
        ),
        (
            "inc_tcp_seq value 1 / drop",
            "action 0: `inc_tcp_seq` needs `tcp` in the pattern or from an action before it",
        ),
        (
            "nvgre_decap / drop",
            "action 0: `nvgre_decap` needs `nvgre` in the pattern or from an action before it",
        ),
        (
            "l2_decap / mac_swap / drop",
            "action 1: `mac_swap` needs `eth` in the pattern or from an action before it",
        ),
        (
            "modify_field op set dst_type ipv4_ttl dst_level 2 src_type value src_value 05 width 8 / drop",
            "action 0: `modify_field` at level 2, but the pattern has 1",
        ),
        (
            "modify_field op set dst_type mark src_type udp_port_src width 16 / drop",
            "action 0: `modify_field` needs `udp` in the pattern or from an action before it",
        ),
    ] {
        let text = format!("ingress pattern eth / ipv4 / end actions {actions} / end");
        assert_eq!(
            judge(&text).map_err(|error| error.to_string()),
            Err(expected.to_owned()),
            "{actions}"
        );
    }
}

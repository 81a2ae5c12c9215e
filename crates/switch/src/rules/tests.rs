//! Compilation and look-up of rules, written in testpmd's syntax.

use sumeru_flow::{PortRef, Rule};
use sumeru_packet::{Field, FlowKey, Layer};

use super::*;
use crate::classifier::Classes;
use sumeru_flow::syntax::{Command, parse};

fn rule(text: &str) -> Rule {
    match parse(text).unwrap() {
        Command::Create { rule, .. } => rule,
        other => panic!("{other:?}"),
    }
}

fn compiled(text: &str, id: u32) -> Result<CompiledRule, RuleError> {
    let resolve = |port: &PortRef| port.number().filter(|n| *n < 4).map(|n| n as PortIndex);
    compile(
        &rule(text),
        &Context {
            port: 0,
            id,
            resolve: &resolve,
        },
    )
}

fn key(fields: &[(Field, u128)]) -> FlowKey {
    let mut key = FlowKey::ZERO;
    fields
        .iter()
        .for_each(|(field, value)| key.set(*field, *value));
    key
}

#[test]
fn items_become_values_under_masks() {
    let rule = compiled(
        "flow create 0 ingress pattern eth / vlan vid is 5 / ipv4 dst spec 10.0.0.0 dst prefix 8 / udp dst is 53 / end actions drop / end",
        1,
    )
    .unwrap();
    let (mask, value) = rule.places[0];
    let o = Layer::Outer;
    assert_eq!(value.get(Field::VlanTci(o)), 0x1005);
    assert_eq!(mask.get(Field::VlanTci(o)), 0x1fff);
    assert_eq!(
        (value.get(Field::IpDst(o)), mask.get(Field::IpDst(o))),
        (0x0a00_0000, 0xff00_0000)
    );
    assert_eq!(
        (value.get(Field::IpProto(o)), value.get(Field::L4Dst(o))),
        (17, 53)
    );
    assert_eq!(mask.get(Field::InPort), 0xffff_ffff);
    assert_eq!(&*rule.actions, &[RuleAction::Drop]);
}

#[test]
fn inner_items_match_the_inner_layer() {
    let rule = compiled(
        "flow create 0 ingress pattern eth / ipv4 / udp / vxlan vni is 7 / eth dst is 02:00:00:00:00:01 / end actions vxlan_decap / represented_port ethdev_port_id 2 / end",
        1,
    )
    .unwrap();
    let (_, value) = rule.places[0];
    assert_eq!(value.get(Field::TunnelId(Layer::Outer)), 7);
    assert_eq!(value.get(Field::EthDst(Layer::Inner)), 0x0200_0000_0001);
    assert_eq!(
        &*rule.actions,
        &[RuleAction::Decapsulate, RuleAction::Output(2)]
    );
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let refusal = |text| compiled(text, 1).unwrap_err().to_string();
    let error =
        refusal("flow create 0 ingress pattern eth / ipv4 length is 5 / end actions drop / end");
    assert!(
        error.contains("length") && error.contains("ipv4"),
        "{error}"
    );
    let error = refusal(
        "flow create 0 ingress pattern eth / end actions represented_port ethdev_port_id 9 / end",
    );
    assert!(error.contains("port 9"), "{error}");
    let error = refusal("flow create 0 ingress egress pattern eth / end actions drop / end");
    assert!(error.contains("both directions"), "{error}");
    let error =
        refusal("flow create 0 ingress group 4294967295 pattern eth / end actions drop / end");
    assert!(error.contains("group 4294967295"), "{error}");
}

#[test]
fn the_best_rule_wins_and_every_mask_looked_under_is_told() {
    let mut table = RuleTable::default();
    for (id, text) in [
        "flow create 0 ingress priority 2 pattern eth / end actions represented_port ethdev_port_id 1 / end",
        "flow create 0 ingress priority 1 pattern eth / ipv4 / end actions represented_port ethdev_port_id 2 / end",
        "flow create 0 ingress priority 1 pattern eth / ipv4 dst is 10.0.0.1 / end actions represented_port ethdev_port_id 3 / end",
        "flow create 0 ingress priority 0 pattern eth / ipv4 dst is 10.0.0.2 / end actions drop / end",
    ]
    .into_iter()
    .enumerate()
    {
        table.insert(&compiled(text, id as u32).unwrap()).unwrap();
    }
    table.publish();
    let ipv4 = |dst| {
        key(&[
            (Field::EthType(Layer::Outer), 0x0800),
            (Field::IpDst(Layer::Outer), dst),
        ])
    };
    let find = |view: &RuleView, group, key: &FlowKey| {
        let mut masks = 0;
        let found = view
            .rules
            .lookup(group, key, &mut Classes::new(), |_| masks += 1);
        (found.map(|rule| name_from(rule.name).1), masks)
    };
    let before = table.view().clone();
    assert_eq!(
        find(&before, 0, &ipv4(0x0a00_0002)),
        (Some(3), 1),
        "nothing can be better: one tuple is enough"
    );
    assert_eq!(
        find(&before, 0, &ipv4(0x0a00_0001)).0,
        Some(1),
        "of equal priorities the older"
    );
    assert_eq!(find(&before, 0, &ipv4(0x0a00_0009)).0, Some(1));
    assert_eq!(find(&before, 0, &key(&[])), (Some(0), 3));
    assert_eq!(find(&before, 1, &key(&[])).0, None);
    table.remove(0, 1).unwrap();
    assert_eq!(
        find(table.view(), 0, &ipv4(0x0a00_0009)).0,
        Some(1),
        "not published yet"
    );
    table.publish();
    assert_eq!(find(table.view(), 0, &ipv4(0x0a00_0009)).0, Some(0));
    assert!(matches!(
        table.remove(0, 1),
        Err(RuleError::Unknown { port: 0, id: 1 })
    ));
    assert!(matches!(
        table.insert(
            &compiled(
                "flow create 0 ingress pattern eth / end actions drop / end",
                0
            )
            .unwrap()
        ),
        Err(RuleError::Exists { .. })
    ));
}

#[test]
fn ranges_become_prefixes() {
    let text = |range: &str| {
        format!("flow create 0 ingress pattern eth / ipv4 / udp {range} / end actions drop / end")
    };
    let places = |range: &str| compiled(&text(range), 1).unwrap().places;
    for (low, high) in [
        (0_u32, 65535_u32),
        (1, 65535),
        (1000, 2000),
        (5, 5),
        (1024, 65535),
        (65534, 65535),
    ] {
        let places = places(&format!("dst spec {low} dst last {high} dst mask 65535"));
        assert!(places.len() <= 30);
        for port in (0..=65535_u32).step_by(7).chain([
            low,
            high,
            low.saturating_sub(1),
            (high + 1).min(65535),
        ]) {
            let mut probe = key(&[
                (Field::EthType(Layer::Outer), 0x0800),
                (Field::IpProto(Layer::Outer), 17),
                (Field::L4Dst(Layer::Outer), port.into()),
            ]);
            let met = |probe: &FlowKey| {
                places
                    .iter()
                    .filter(|(mask, value)| probe.masked(mask) == value.masked(mask))
                    .count()
            };
            assert_eq!(
                met(&probe),
                usize::from((low..=high).contains(&port)),
                "{low}-{high}: {port}"
            );
            probe.set(Field::IpProto(Layer::Outer), 6);
            assert_eq!(met(&probe), 0);
        }
    }
    let both =
        places("src spec 1 src last 65534 src mask 65535 dst spec 1 dst last 65534 dst mask 65535");
    assert_eq!(both.len(), 30 * 30);
    let part = compiled(&text("dst spec 1 dst last 3 dst mask 255"), 1);
    assert!(matches!(part, Err(RuleError::Range { .. })), "{part:?}");
}

#[test]
fn a_rule_counts_at_all_its_places_and_leaves_nothing_behind() {
    let mut table = RuleTable::default();
    let (_, arena) = table.subscribe();
    let text = "flow create 0 ingress pattern eth / ipv4 / udp dst spec 1 dst last 6 dst mask 65535 / end actions count / drop / end";
    table.insert(&compiled(text, 1).unwrap()).unwrap();
    table.insert(&compiled(text, 2).unwrap()).unwrap();
    table.publish();
    assert_eq!(table.len(), 8);
    let found = table.view().rules.lookup(
        0,
        &key(&[
            (Field::EthType(Layer::Outer), 0x0800),
            (Field::IpProto(Layer::Outer), 17),
            (Field::L4Dst(Layer::Outer), 4),
        ]),
        &mut Classes::new(),
        |_| (),
    );
    arena.count(found.unwrap().counter.unwrap(), 100);
    assert_eq!(
        (table.counts(0, 1).unwrap(), table.counts(0, 2).unwrap()),
        ((1, 100), (0, 0))
    );
    table.remove(0, 1).unwrap();
    for _ in 0..3 {
        table.publish();
    }
    assert!(table.counts(0, 1).is_err());
    table.insert(&compiled(text, 3).unwrap()).unwrap();
    assert_eq!(
        table.counts(0, 3).unwrap(),
        (0, 0),
        "a counter that was used before begins at zero"
    );
}

mod exchange {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rules::{At, RuleTable};

    /// A rule of a destination; its number is its priority too, so that it shows which one was found.
    fn rule(id: u32, address: u32) -> CompiledRule {
        let text = format!(
            "flow create 0 priority {id} ingress pattern eth / ipv4 dst is 10.0.0.{address} / end actions mark id {id} / drop / end"
        );
        compiled(&text, id).unwrap()
    }

    /// The number of the rule that a destination meets.
    fn found(view: &RuleView, address: u32) -> Option<u32> {
        let mut key = compiled(
            "flow create 0 ingress pattern eth / ipv4 / end actions drop / end",
            0,
        )
        .unwrap()
        .places[0]
            .1;
        key.set(Field::IpDst(Layer::Outer), (0x0a00_0000 | address).into());
        let hit = view.rules.lookup(0, &key, &mut Classes::new(), |_| ());
        hit.map(|rule| name_from(rule.name).1)
    }

    proptest! {
        #[test]
        fn exchanges_do_what_a_map_does(
            steps in prop::collection::vec(
                (prop::collection::vec(0_u32..12, 0..6), prop::collection::vec((0_u32..12, 0_u32..4), 0..6)),
                1..20,
            ),
        ) {
            let mut table = RuleTable::default();
            let (mut lcore, _) = table.subscribe();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for (remove, add) in steps {
                let mut next = model.clone();
                let mut fault = remove.iter().position(|id| next.remove(id).is_none()).map(At::Remove);
                if fault.is_none() {
                    fault = add.iter().position(|(id, address)| next.insert(*id, *address).is_some()).map(At::Add);
                }
                let names: Vec<_> = remove.iter().map(|id| (0, *id)).collect();
                let compile = |(id, address): &(u32, u32), _: &Objects| Ok::<_, RuleError>(rule(*id, *address));
                let done = table.exchange(&names, &add, compile).map_err(|(at, _)| at);
                let before: Vec<_> = (0..4).map(|address| found(&lcore, address)).collect();
                prop_assert_eq!(done.err(), fault);
                if fault.is_none() {
                    model = next;
                }
                table.publish();
                prop_assert_eq!(&before, &(0..4).map(|address| found(&lcore, address)).collect::<Vec<_>>(), "nothing shows before the lcore looks");
                lcore.refresh();
                table.reclaim();
                for address in 0..4 {
                    let first = model.iter().find(|(_, a)| **a == address).map(|(id, _)| *id);
                    prop_assert_eq!(found(&lcore, address), first);
                }
                prop_assert_eq!(table.view().rules.version(), lcore.rules.version());
            }
        }
    }
}

/// Every action of the model, as a rule has it; `/` behind those that need a fate.
const EVERY: &[(&str, &str)] = &[
    ("void", "void / drop"),
    ("passthru", "passthru"),
    ("flag", "flag / drop"),
    ("drop", "drop"),
    ("of_dec_nw_ttl", "of_dec_nw_ttl / drop"),
    ("of_pop_vlan", "of_pop_vlan / drop"),
    ("mac_swap", "mac_swap / drop"),
    ("dec_ttl", "dec_ttl / drop"),
    ("vxlan_decap", "vxlan_decap / drop"),
    ("nvgre_decap", "raw_encap data 00 / nvgre_decap / drop"),
    ("count", "count identifier 3 / drop"),
    ("jump", "jump group 2"),
    ("mark", "mark id 1 / drop"),
    ("queue", "queue index 1"),
    ("meter", "meter mtr_id 1 / drop"),
    ("meter_mark", "meter_mark mtr_profile 1 mtr_policy 1 / drop"),
    ("color", "color type red / drop"),
    ("age", "age timeout 5 / drop"),
    ("indirect", "indirect 1 / drop"),
    ("port_id", "port_id id 1"),
    ("port_representor", "port_representor port_id 1"),
    ("represented_port", "represented_port ethdev_port_id 1"),
    ("of_push_vlan", "of_push_vlan ethertype 0x8100 / drop"),
    ("of_set_vlan_vid", "of_set_vlan_vid vlan_vid 1 / drop"),
    ("of_set_vlan_pcp", "of_set_vlan_pcp vlan_pcp 1 / drop"),
    (
        "of_pop_mpls",
        "raw_encap data 00 / of_pop_mpls ethertype 0x0800 / drop",
    ),
    ("of_push_mpls", "of_push_mpls ethertype 0x8847 / drop"),
    (
        "set_mac_src",
        "set_mac_src mac_addr 02:00:00:00:00:01 / drop",
    ),
    (
        "set_mac_dst",
        "set_mac_dst mac_addr 02:00:00:00:00:01 / drop",
    ),
    ("set_ipv4_src", "set_ipv4_src ipv4_addr 10.0.0.1 / drop"),
    ("set_ipv4_dst", "set_ipv4_dst ipv4_addr 10.0.0.1 / drop"),
    (
        "set_ipv6_src",
        "raw_encap data 00 / set_ipv6_src ipv6_addr ::1 / drop",
    ),
    (
        "set_ipv6_dst",
        "raw_encap data 00 / set_ipv6_dst ipv6_addr ::1 / drop",
    ),
    ("set_ipv4_dscp", "set_ipv4_dscp dscp_value 1 / drop"),
    (
        "set_ipv6_dscp",
        "raw_encap data 00 / set_ipv6_dscp dscp_value 1 / drop",
    ),
    ("set_tp_src", "set_tp_src port 1 / drop"),
    ("set_tp_dst", "set_tp_dst port 1 / drop"),
    ("set_ttl", "set_ttl ttl_value 1 / drop"),
    (
        "inc_tcp_seq",
        "raw_encap data 00 / inc_tcp_seq value 1 / drop",
    ),
    (
        "dec_tcp_seq",
        "raw_encap data 00 / dec_tcp_seq value 1 / drop",
    ),
    (
        "inc_tcp_ack",
        "raw_encap data 00 / inc_tcp_ack value 1 / drop",
    ),
    (
        "dec_tcp_ack",
        "raw_encap data 00 / dec_tcp_ack value 1 / drop",
    ),
    ("set_tag", "set_tag data 1 index 3 mask 1 / drop"),
    ("l2_decap", "l2_decap / raw_encap data 00 / drop"),
    ("set_meta", "set_meta data 1 mask 1 / drop"),
    ("rss", "rss queues 0 1 end"),
    (
        "sample",
        "sample ratio 2 actions represented_port ethdev_port_id 1 / end / drop",
    ),
    (
        "vxlan_encap",
        "vxlan_encap vni 1 ip_src 10.0.0.1 ip_dst 10.0.0.2 / drop",
    ),
    (
        "nvgre_encap",
        "nvgre_encap tni 1 ip_src 10.0.0.1 ip_dst 10.0.0.2 / drop",
    ),
    ("raw_encap", "raw_encap data 00 / drop"),
    ("raw_decap", "raw_decap data 00 / drop"),
    (
        "l2_encap",
        "l2_decap / l2_encap eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02 ethertype 0x0800 / drop",
    ),
    (
        "modify_field",
        "modify_field op set dst_type mark src_type value src_value 01 width 8 / drop",
    ),
    ("ct", "ct zone 1 / drop"),
];

/// What is refused, whatever the arguments. `conntrack` has no place in a rule; as an indirect action it is refused too.
const REFUSED: &[&str] = &[
    "meter_mark",
    "port_representor",
    "of_pop_mpls",
    "of_push_mpls",
    "conntrack",
];

#[test]
fn every_action_is_carried_out_or_refused_by_name() {
    let mut refused = Vec::new();
    for row in sumeru_flow::model::Action::TABLE {
        let text = EVERY
            .iter()
            .find(|(name, _)| *name == row.name)
            .map(|(_, text)| text);
        let Some(text) = text else {
            refused.push(row.name);
            continue;
        };
        let text = format!(
            "flow create 0 ingress pattern eth / vlan / ipv4 / udp / vxlan / eth / end actions {text} / end"
        );
        // Of a tagged frame with a tunnel, or of one inside it.
        let text = match row.name {
            "of_pop_vlan" | "of_set_vlan_vid" | "of_set_vlan_pcp" => text.clone(),
            _ => text.replace("/ vlan /", "/"),
        };
        match compiled(&text, 1) {
            Ok(rule) => {
                // A trace says in words what is done.
                assert!(
                    rule.actions
                        .iter()
                        .all(|action| !action.to_string().is_empty())
                );
            }
            // Nobody made those objects.
            Err(RuleError::NoObject { .. }) => assert!(["meter", "indirect"].contains(&row.name)),
            Err(RuleError::Unsupported { what, expected }) => {
                assert!(
                    what.contains(row.name) && expected.len() > 10,
                    "{what}: {expected}"
                );
                refused.push(row.name);
            }
            Err(other) => panic!("{text}: {other}"),
        }
    }
    let mut expected = REFUSED.to_vec();
    expected.sort_unstable();
    refused.sort_unstable();
    assert_eq!(refused, expected);
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let refused = |actions: &str| {
        let text =
            format!("flow create 0 ingress pattern eth / ipv4 / tcp / end actions {actions} / end");
        match compiled(&text, 1) {
            Err(RuleError::Unsupported { what, .. }) => what,
            other => panic!("{actions}: {other:?}"),
        }
    };
    assert_eq!(
        refused("count identifier 1 / count identifier 2 / drop"),
        "count of several identifiers"
    );
    assert_eq!(refused("l2_decap / drop"), "l2_decap alone");
    assert_eq!(
        refused("set_tag data 1 index 4 mask 1 / drop"),
        "a tag of index 4 and above"
    );
    assert_eq!(
        refused("rss types vxlan end queues 0 end"),
        "rss over other types"
    );
    assert_eq!(
        refused("sample ratio 1 actions mark id 1 / end / drop"),
        "sample without a port"
    );
    let seq = refused("modify_field op set dst_type tag src_type tcp_seq_num width 32 / drop");
    assert!(seq.starts_with("modify_field from a TCP"), "{seq}");
}

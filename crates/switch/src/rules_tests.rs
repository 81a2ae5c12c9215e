//! Compilation and look-up of rules, written in testpmd's syntax.

use super::*;
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
            sequence: id.into(),
            workers: 1,
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
    let o = Layer::Outer;
    assert_eq!(rule.value.get(Field::VlanTci(o)), 0x1005);
    assert_eq!(rule.mask.get(Field::VlanTci(o)), 0x1fff);
    assert_eq!(
        (
            rule.value.get(Field::IpDst(o)),
            rule.mask.get(Field::IpDst(o))
        ),
        (0x0a00_0000, 0xff00_0000)
    );
    assert_eq!(
        (
            rule.value.get(Field::IpProto(o)),
            rule.value.get(Field::L4Dst(o))
        ),
        (17, 53)
    );
    assert_eq!(rule.mask.get(Field::InPort), 0xffff_ffff);
    assert_eq!(&*rule.actions, &[RuleAction::Drop]);
}

#[test]
fn inner_items_match_the_inner_layer() {
    let rule = compiled(
        "flow create 0 ingress pattern eth / ipv4 / udp / vxlan vni is 7 / eth dst is 02:00:00:00:00:01 / end actions vxlan_decap / represented_port ethdev_port_id 2 / end",
        1,
    )
    .unwrap();
    assert_eq!(rule.value.get(Field::TunnelId(Layer::Outer)), 7);
    assert_eq!(
        rule.value.get(Field::EthDst(Layer::Inner)),
        0x0200_0000_0001
    );
    assert_eq!(
        &*rule.actions,
        &[RuleAction::Decapsulate, RuleAction::Output(2)]
    );
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let refusal = |text| compiled(text, 1).unwrap_err().to_string();
    let error =
        refusal("flow create 0 ingress pattern eth / ipv4 packet_id is 5 / end actions drop / end");
    assert!(
        error.contains("packet_id") && error.contains("ipv4"),
        "{error}"
    );
    let error = refusal(
        "flow create 0 ingress pattern eth / end actions represented_port ethdev_port_id 9 / end",
    );
    assert!(error.contains("port 9"), "{error}");
    let error = refusal("flow create 0 egress pattern eth / end actions drop / end");
    assert!(error.contains("egress"), "{error}");
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
        table.insert(compiled(text, id as u32).unwrap()).unwrap();
    }
    let ipv4 = |dst| {
        key(&[
            (Field::EthType(Layer::Outer), 0x0800),
            (Field::IpDst(Layer::Outer), dst),
        ])
    };
    let find = |key: &FlowKey| {
        let mut masks = 0;
        let found = table.lookup(0, key, |_| masks += 1).map(|rule| rule.name.1);
        (found, masks)
    };
    assert_eq!(
        find(&ipv4(0x0a00_0002)),
        (Some(3), 1),
        "nothing can be better: one tuple is enough"
    );
    assert_eq!(
        find(&ipv4(0x0a00_0001)).0,
        Some(1),
        "of equal priorities the older"
    );
    assert_eq!(find(&ipv4(0x0a00_0009)).0, Some(1));
    assert_eq!(find(&key(&[])), (Some(0), 3));
    assert_eq!(table.lookup(1, &key(&[]), |_| {}).map(|r| r.name), None);
    let before = table.clone();
    table.remove(0, 1).unwrap();
    assert_eq!(
        table.lookup(0, &ipv4(0x0a00_0009), |_| {}).unwrap().name.1,
        0
    );
    assert_eq!(
        before.lookup(0, &ipv4(0x0a00_0009), |_| {}).unwrap().name.1,
        1,
        "snapshots do not change"
    );
    assert!(matches!(
        table.remove(0, 1),
        Err(RuleError::Unknown { port: 0, id: 1 })
    ));
    assert!(matches!(
        table.insert(
            compiled(
                "flow create 0 ingress pattern eth / end actions drop / end",
                0
            )
            .unwrap()
        ),
        Err(RuleError::Exists { .. })
    ));
}

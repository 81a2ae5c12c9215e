//! A change of one object is a change of its rules only; what is refused leaves everything as it was; a restart brings it back.

use super::*;
use crate::reconcile::Control;
use crate::store::Store;

fn control(store: Store, stored: Vec<Any>) -> Control {
    Control::start(Box::new(DryRun::default()), store, stored, None).unwrap()
}

fn texts(policy: &Policy) -> Vec<String> {
    let mut texts: Vec<String> = policy
        .rules()
        .map(|placed| format!("{} {}", placed.rule.name.port, placed.rule.rule))
        .collect();
    texts.sort();
    texts
}

fn specs(control: &Control) -> Vec<Value> {
    control
        .inventory()
        .all()
        .map(|any| Value::Object(any.to_map()))
        .collect()
}

fn objects() -> Vec<Any> {
    let web = json!([
        "ingress tcp 80 from set office",
        "ingress from group db",
        "egress"
    ]);
    let mut all = vec![
        object(Kind::Network, json!({"name": "blue", "vni": 100})),
        object(
            Kind::AddressSet,
            json!({"name": "office", "prefixes": ["192.0.2.0/24"]}),
        ),
        object(Kind::SecurityGroup, json!({"name": "db", "rules": []})),
    ];
    all.push(object(
        Kind::SecurityGroup,
        json!({"name": "web", "rules": web}),
    ));
    all.push(port("vm1", 1, json!({"security_groups": ["web"], "port_security": true, "addresses": ["10.0.0.1"], "rx_rate_kbit": 1000})));
    all.push(port(
        "vm2",
        2,
        json!({"security_groups": ["db"], "port_security": true, "addresses": ["10.0.0.2"]}),
    ));
    all.push(object(
        Kind::Blocklist,
        json!({"name": "bad", "address_set": "office", "direction": "ingress", "ports": ["vm2"]}),
    ));
    all.push(object(
        Kind::Isolation,
        json!({"name": "apart", "mode": "deny", "ports": ["vm1", "vm2"]}),
    ));
    all
}

fn fields(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn groups_may_name_each_other_and_come_back_after_a_restart() {
    let folder = std::env::temp_dir().join(format!("sumeru-policy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("node.db");
    let before = {
        let opened = Store::open(&path).unwrap();
        let mut control = control(opened.store, opened.objects);
        for any in objects() {
            control
                .create(any)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        control
            .update(
                Kind::SecurityGroup,
                "db",
                &fields(json!({"rules": ["ingress tcp 5432 from group web"]})),
            )
            .unwrap();
        let count = control
            .amend_set(
                "office",
                vec![
                    "198.51.100.0/24".parse().unwrap(),
                    "192.0.2.0/24".parse().unwrap(),
                ],
                &[],
            )
            .unwrap();
        assert_eq!(count, 2);
        (specs(&control), control.policy().len())
    };
    assert!(before.1 > 40);
    let opened = Store::open(&path).unwrap();
    let again = control(opened.store, opened.objects);
    assert_eq!((specs(&again), again.policy().len()), before);
    // Numbers in tags are given anew, so rules are compared with those of the same objects.
    assert_eq!(texts(again.policy()), texts(&settled(again.inventory())));
    assert!(
        again
            .inventory()
            .all()
            .all(|any| again.failure(any).is_none())
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_in_use_stays_and_what_is_not_there_is_refused() {
    let mut control = control(Store::none(), Vec::new());
    for any in objects() {
        control.create(any).unwrap();
    }
    let before = texts(control.policy());
    for (kind, name, user) in [
        (Kind::SecurityGroup, "web", "port vm1"),
        (Kind::SecurityGroup, "db", "security-group web"),
        (
            Kind::AddressSet,
            "office",
            "security-group web, blocklist bad",
        ),
        (Kind::Port, "vm2", "blocklist bad, isolation apart"),
    ] {
        let error = control.delete(kind, name).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by {user}")), "{error}");
    }
    let error = control
        .update(
            Kind::SecurityGroup,
            "web",
            &fields(json!({"rules": ["ingress from group gone"]})),
        )
        .unwrap_err();
    assert!(error.to_string().contains("\"gone\""), "{error}");
    let error = control
        .update(
            Kind::Port,
            "vm1",
            &fields(json!({"addresses": ["10.0.0.2"]})),
        )
        .unwrap_err();
    assert!(error.to_string().contains("taken by port vm2"), "{error}");
    let error = control
        .update(
            Kind::Isolation,
            "apart",
            &fields(json!({"networks": ["blue"]})),
        )
        .unwrap_err();
    assert!(error.to_string().contains("not both"), "{error}");
    let error = control
        .update(Kind::Port, "vm1", &fields(json!({"port_security": false})))
        .unwrap_err();
    assert!(
        error.to_string().contains("port_security is false"),
        "{error}"
    );
    let wrong = json!({"rules": ["ingress tcp 9-8", "ingress icmp code 1", "egress", "egress"]});
    let error = control
        .update(Kind::SecurityGroup, "web", &fields(wrong))
        .unwrap_err()
        .to_string();
    assert!(
        ["8-9", "type beside", "each rule once"]
            .iter()
            .all(|part| error.contains(part)),
        "{error}"
    );
    assert_eq!(texts(control.policy()), before);
    // Gone one by one, nothing of them is left.
    for (kind, name) in [
        (Kind::Isolation, "apart"),
        (Kind::Blocklist, "bad"),
        (Kind::Port, "vm1"),
        (Kind::Port, "vm2"),
    ] {
        control.delete(kind, name).unwrap();
    }
    assert!(control.policy().is_empty());
    for (kind, name) in [
        (Kind::SecurityGroup, "web"),
        (Kind::SecurityGroup, "db"),
        (Kind::AddressSet, "office"),
    ] {
        control.delete(kind, name).unwrap();
    }
}

#[test]
fn one_rule_more_is_one_rule_more() {
    let group = |rules: Value| object(Kind::SecurityGroup, json!({"name": "web", "rules": rules}));
    let vm = |index: u16| {
        port(
            &format!("vm{index}"),
            index,
            json!({"security_groups": ["web"], "port_security": true, "addresses": [format!("10.0.0.{index}")]}),
        )
    };
    let mut node = inventory([group(json!(["egress"])), vm(1), vm(2), vm(3)]);
    let (mut policy, mut plane) = (Policy::default(), DryRun::default());
    policy.settle(&node, &mut plane).unwrap();
    node.put(group(json!(["egress", "ingress ipv4 tcp 80"])));
    assert_eq!(
        policy.settle(&node, &mut plane).unwrap(),
        Difference {
            added: 1,
            removed: 0
        }
    );
    node.put(group(json!(["egress", "ingress ipv4 tcp 81"])));
    assert_eq!(
        policy.settle(&node, &mut plane).unwrap(),
        Difference {
            added: 1,
            removed: 1
        }
    );
    // A group as its own remote: a class rule for each member, and one rule for the class.
    node.put(group(json!(["egress", "ingress ipv4 from group web"])));
    assert_eq!(
        policy.settle(&node, &mut plane).unwrap(),
        Difference {
            added: 4,
            removed: 1
        }
    );
}

#[test]
fn a_large_set_costs_a_rule_for_each_prefix_and_a_prefix_more_one_more() {
    let prefixes: Vec<String> = (0..20_000u32)
        .map(|i| std::net::Ipv4Addr::from_bits(0x0b00_0000 + 2 * i).to_string())
        .collect();
    let set = |prefixes: &[String]| {
        object(
            Kind::AddressSet,
            json!({"name": "bad", "prefixes": prefixes}),
        )
    };
    let list = object(
        Kind::Blocklist,
        json!({"name": "bad", "address_set": "bad", "direction": "ingress"}),
    );
    let mut node = inventory([
        set(&prefixes[1..]),
        port("vm1", 1, json!({})),
        port("vm2", 2, json!({})),
        list,
    ]);
    let (mut policy, mut plane) = (Policy::default(), DryRun::default());
    let first = policy.settle(&node, &mut plane).unwrap();
    assert!(first.added > 19_999 && first.added < 20_100, "{first:?}");
    node.put(port("vm3", 3, json!({})));
    assert_eq!(
        policy.settle(&node, &mut plane).unwrap(),
        Difference {
            added: 1,
            removed: 0
        }
    );
    node.put(set(&prefixes));
    assert_eq!(
        policy.settle(&node, &mut plane).unwrap(),
        Difference {
            added: 1,
            removed: 0
        }
    );
}

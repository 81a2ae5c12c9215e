//! Anti-spoofing, one frame at a time.

use super::interpret::{Packet, Walk};
use super::*;

fn guard(more: Value) -> (Inventory, Policy) {
    let mut fields = json!({"port_security": true, "addresses": ["10.0.0.1", "2001:db8::1"]});
    for (key, value) in more.as_object().unwrap() {
        fields[key] = value.clone();
    }
    let node = inventory([port("vm1", 1, fields), port("vm2", 2, json!({}))]);
    let policy = settled(&node);
    (node, policy)
}

fn passes(policy: &Policy, text: &str) -> bool {
    let text = text.replace("OWN", &mac(1)).replace("OTHER", &mac(2));
    engine(policy).sent(1, &Packet::of(&text), &mut Walk::default())
}

/// A neighbour discovery message about a target.
fn target(address: &str) -> String {
    let bits = u128::from(address.parse::<std::net::Ipv6Addr>().unwrap());
    format!("payload hex {bits:032x}")
}

#[test]
fn a_port_sends_from_its_own_addresses_only() {
    let (_, policy) = guard(json!({}));
    let good = [
        "eth src OWN / ipv4 src 10.0.0.1 / udp".to_owned(),
        "eth src OWN / ipv6 src 2001:db8::1 / tcp".to_owned(),
        "eth src OWN / ipv6 src fe80::5054:ff:fe00:1 / udp".to_owned(),
        "eth src OWN / arp op 1 sha OWN spa 10.0.0.1".to_owned(),
        "eth src OWN / arp op 1 sha OWN spa 0.0.0.0".to_owned(),
        "eth src OWN / ipv4 src 0.0.0.0 dst 255.255.255.255 / udp src 68 dst 67".to_owned(),
        format!(
            "eth src OWN / ipv6 src 2001:db8::1 / icmp6 type 136 / {}",
            target("2001:db8::1")
        ),
        format!(
            "eth src OWN / ipv6 src :: / icmp6 type 135 / {}",
            target("2001:db8::1")
        ),
        format!(
            "eth src OWN / ipv6 src 2001:db8::1 / icmp6 type 135 / {}",
            target("2001:db8::9")
        ),
    ];
    for text in good {
        assert!(passes(&policy, &text), "{text}");
    }
    let bad = [
        "eth src OTHER / ipv4 src 10.0.0.1 / udp".to_owned(),
        "eth src OWN / ipv4 src 10.0.0.2 / udp".to_owned(),
        "eth src OWN / ipv6 src 2001:db8::2 / udp".to_owned(),
        "eth src OWN / ipv6 src fe80::1 / udp".to_owned(),
        "eth src OWN / ipv6 src :: / udp".to_owned(),
        "eth src OWN / arp op 2 sha OTHER spa 10.0.0.1".to_owned(),
        "eth src OWN / arp op 2 sha OWN spa 10.0.0.2".to_owned(),
        "eth src OTHER / arp op 2 sha OWN spa 10.0.0.1".to_owned(),
        "eth src OWN / ipv4 src 0.0.0.0 dst 255.255.255.255 / udp src 69 dst 67".to_owned(),
        "eth src OWN / ipv4 src 10.0.0.1 / udp src 67 dst 68".to_owned(),
        "eth src OWN / ipv6 src 2001:db8::1 / udp src 547 dst 546".to_owned(),
        "eth src OWN / ipv6 src fe80::5054:ff:fe00:1 / icmp6 type 134".to_owned(),
        "eth src OWN / ipv6 src fe80::5054:ff:fe00:1 / icmp6 type 137".to_owned(),
        "eth src OWN / vlan vid 5 / ipv4 src 10.0.0.1 / udp".to_owned(),
        "eth src OWN type 0x88cc".to_owned(),
        format!(
            "eth src OWN / ipv6 src 2001:db8::1 / icmp6 type 136 / {}",
            target("2001:db8::2")
        ),
        format!(
            "eth src OWN / ipv6 src :: / icmp6 type 135 / {}",
            target("2001:db8::2")
        ),
    ];
    for text in bad {
        assert!(!passes(&policy, &text), "{text}");
    }
}

#[test]
fn allowed_addresses_come_beside() {
    let (_, policy) =
        guard(json!({"allowed_addresses": ["10.0.1.0/24", "10.0.0.9=52:54:00:00:00:02"]}));
    assert!(passes(&policy, "eth src OWN / ipv4 src 10.0.1.77 / udp"));
    assert!(passes(&policy, "eth src OWN / arp sha OWN spa 10.0.1.77"));
    assert!(passes(&policy, "eth src OTHER / ipv4 src 10.0.0.9 / udp"));
    assert!(!passes(&policy, "eth src OWN / ipv4 src 10.0.0.9 / udp"));
    assert!(!passes(&policy, "eth src OTHER / ipv4 src 10.0.0.1 / udp"));
    assert!(!passes(
        &policy,
        "eth src OTHER / arp sha OTHER spa 10.0.0.1"
    ));
}

#[test]
fn rates_are_meters() {
    let (node, policy) = guard(
        json!({"rx_rate_kbit": 8000, "tx_rate_packets": 500, "storm_limit": 100, "rate_burst_ms": 1000}),
    );
    let met = |dst: &str| {
        let packet = Packet::of(&format!(
            "eth src {} dst {dst} / ipv4 src 10.0.0.1 / udp",
            mac(1)
        ));
        let mut walk = Walk::default();
        assert!(engine(&policy).sent(1, &packet, &mut walk));
        walk.meters
    };
    let first = layout::FIRST_METER + layout::METERS_PER_PORT;
    assert_eq!(met(&mac(2)), [first]);
    assert_eq!(met("ff:ff:ff:ff:ff:ff"), [first + 4, first]);
    let mut walk = Walk::default();
    let packet = Packet::of("eth / ipv4 / udp");
    assert!(engine(&policy).received(2, 1, &packet, &mut walk));
    assert_eq!(walk.meters, [first + 3]);
    let profile = |number| policy.meters[&number];
    use sumeru_flow::model::MeterAlgorithm::SrtcmRfc2697;
    assert_eq!(
        profile(first).algorithm,
        SrtcmRfc2697 {
            cir: 1_000_000,
            cbs: 1_000_000,
            ebs: 0
        }
    );
    assert_eq!(
        profile(first + 3).algorithm,
        SrtcmRfc2697 {
            cir: 500,
            cbs: 500,
            ebs: 0
        }
    );
    assert!(profile(first + 3).packet_mode && !profile(first).packet_mode);
    // A port without policies has no rules at all.
    assert!(node.port("vm2").is_some());
    assert!(policy.rules().all(|placed| placed.rule.name.port != 2));
}

#[test]
fn a_step_of_a_trace_is_explained_by_the_object_of_its_rule() {
    let (_, policy) = guard(json!({}));
    let packet = Packet::of(&format!("eth src {} / ipv4 src 10.0.0.7 / udp", mac(1)));
    let mut walk = Walk::default();
    assert!(!engine(&policy).sent(1, &packet, &mut walk));
    let step = |(port, id): &(u16, u32)| crate::dataplane::TraceStep {
        stage: "rules".to_owned(),
        decision: format!("rule {id} of port {port} (group 1, priority 2)"),
    };
    let mut steps: Vec<_> = walk.met.iter().map(step).collect();
    steps.push(step(&(2, 7)));
    let trace = crate::dataplane::Trace {
        steps,
        ..Default::default()
    };
    let explained = policy.explain(trace, |port| (port == 2).then(|| "vm2".to_owned()));
    let objects: Vec<_> = explained
        .steps
        .iter()
        .map(|step| (step.object.as_deref().unwrap(), step.line.as_deref()))
        .collect();
    assert_eq!(
        objects,
        [
            ("port vm1", Some("frames from the port")),
            ("policy", Some("port_security: not an address of the port")),
            ("flow vm2/7", None),
        ]
    );
}

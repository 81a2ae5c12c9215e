//! Random objects, random packets: the interpreted rules let through what the naive reading lets through.

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::json;

use super::interpret::{Packet, Walk};
use super::naive::{Ip, Naive, Upper};
use super::*;

const PORTS: u16 = 5;
const GROUPS: [&str; 3] = ["ga", "gb", "gc"];
const SETS: [&str; 2] = ["sa", "sb"];

/// Few addresses, so that they meet.
fn address(ipv6: bool, host: u8) -> IpAddr {
    let text = if ipv6 {
        format!("2001:db8::{host:x}")
    } else {
        format!("10.0.0.{host}")
    };
    text.parse().unwrap()
}

fn prefix() -> impl Strategy<Value = String> {
    (any::<bool>(), 0u8..16, 0u8..5).prop_map(|(ipv6, host, open)| {
        let width = if ipv6 { 128 } else { 32 };
        format!("{}/{}", address(ipv6, host & (0xff << open)), width - open)
    })
}

fn remote() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        prefix(),
        prop::sample::select(&GROUPS[..]).prop_map(|name| format!("group {name}")),
        prop::sample::select(&SETS[..]).prop_map(|name| format!("set {name}")),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let upper = prop_oneof![
        Just(String::new()),
        (prop::sample::select(&["tcp", "udp"][..]), 1u16..9, 0u16..4)
            .prop_map(|(name, first, more)| format!("{name} {first}-{}", first + more)),
        Just("tcp".to_owned()),
        (prop::sample::select(&["icmp", "icmp6"][..]), 0u8..3, 0u8..2)
            .prop_map(|(name, of_type, code)| format!("{name} type {of_type} code {code}")),
        Just("icmp6".to_owned()),
        Just("58".to_owned()),
        Just("ipv4".to_owned()),
        Just("ipv6 udp".to_owned()),
    ];
    (any::<bool>(), upper, remote()).prop_filter_map(
        "of one IP version",
        |(ingress, upper, remote)| {
            let (way, side) = if ingress {
                ("ingress", "from")
            } else {
                ("egress", "to")
            };
            let side = if remote.is_empty() { "" } else { side };
            let text = format!("{way} {upper} {side} {remote}");
            use crate::decode::FromValue;
            let read = crate::model::GroupRule::from_value(&json!(text)).ok()?;
            Some(read.to_string())
        },
    )
}

fn some(names: Vec<&'static str>) -> impl Strategy<Value = Vec<&'static str>> {
    let most = names.len();
    prop::sample::subsequence(names, 0..=most)
}

prop_compose! {
    fn group(name: &'static str)(
        stateful: bool,
        mut rules in prop::collection::vec(rule(), 0..5),
        members in prop::collection::vec((prop::sample::select(&["blue", "red"][..]), prefix()), 0..2),
    ) -> Any {
        rules.sort();
        rules.dedup();
        let members: Vec<String> = members.iter().map(|(network, prefix)| format!("{network}={prefix}")).collect();
        object(Kind::SecurityGroup, json!({"name": name, "stateful": stateful, "rules": rules, "members": members}))
    }
}

prop_compose! {
    fn set(name: &'static str)(mut prefixes in prop::collection::vec(prefix(), 0..5)) -> Any {
        prefixes.sort();
        prefixes.dedup();
        object(Kind::AddressSet, json!({"name": name, "prefixes": prefixes}))
    }
}

prop_compose! {
    fn one_port(index: u16)(
        groups in some(GROUPS.to_vec()),
        red: bool,
        allowed in prop::collection::vec(prefix(), 0..2),
    ) -> Any {
        let network = if red { "red" } else { "blue" };
        let host = index as u8 + 1;
        let secured = !groups.is_empty();
        port(&format!("p{index}"), index, json!({
            "network": network, "security_groups": groups, "port_security": secured,
            "addresses": [address(false, host), address(true, host)], "allowed_addresses": allowed,
        }))
    }
}

const NAMES: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];

fn blocklist(name: &'static str) -> impl Strategy<Value = Any> {
    let direction = prop::sample::select(&["ingress", "egress", "both"][..]);
    (prop::sample::select(&SETS[..]), direction, some(NAMES.to_vec()), some(vec!["red"])).prop_map(move |(set, direction, ports, networks)| {
        object(Kind::Blocklist, json!({"name": name, "address_set": set, "direction": direction, "ports": ports, "networks": networks}))
    })
}

fn isolation(name: &'static str) -> impl Strategy<Value = Any> {
    (
        prop::sample::select(&["deny", "allow"][..]),
        some(NAMES.to_vec()),
        some(vec!["blue", "red"]),
    )
        .prop_filter("a member", |(_, ports, networks)| {
            !ports.is_empty() || !networks.is_empty()
        })
        .prop_map(move |(mode, ports, networks)| {
            object(
                Kind::Isolation,
                json!({"name": name, "mode": mode, "ports": ports, "networks": networks}),
            )
        })
}

/// A node: an isolation policy that its ports do not fit is left out.
fn node() -> impl Strategy<Value = Inventory> {
    let groups = (group("ga"), group("gb"), group("gc"));
    let ports = (
        one_port(0),
        one_port(1),
        one_port(2),
        one_port(3),
        one_port(4),
    );
    let lists = prop::collection::vec(prop_oneof![blocklist("ba"), blocklist("bb")], 0..2);
    let isolations = prop::collection::vec(prop_oneof![isolation("ia"), isolation("ib")], 0..3);
    ((set("sa"), set("sb")), groups, ports, lists, isolations).prop_map(
        |(sets, groups, ports, lists, isolations)| {
            let mut node = inventory([sets.0, sets.1]);
            for any in [
                groups.0, groups.1, groups.2, ports.0, ports.1, ports.2, ports.3, ports.4,
            ] {
                node.admit(&any).unwrap();
                node.put(any);
            }
            for any in lists.into_iter().chain(isolations) {
                if node.admit(&any).is_ok() {
                    node.put(any);
                }
            }
            node
        },
    )
}

/// Sender, receiver (either may be beyond the tunnel), IP version, hosts, layer above.
#[derive(Debug, Clone)]
struct Sent {
    from: Option<u16>,
    to: u16,
    packet: Ip,
}

fn sent() -> impl Strategy<Value = Sent> {
    let upper = prop_oneof![
        (1u16..12, 1u16..12).prop_map(|(src, dst)| Upper::Tcp(src, dst)),
        (1u16..12, 1u16..12).prop_map(|(src, dst)| Upper::Udp(src, dst)),
        Just(Upper::Udp(68, 67)),
        Just(Upper::Udp(67, 68)),
        Just(Upper::Udp(547, 546)),
        (0u8..3, 0u8..2).prop_map(|(of_type, code)| Upper::Icmp(of_type, code)),
        (130u8..138).prop_map(|of_type| Upper::Icmp(of_type, 0)),
    ];
    let from = prop::option::weighted(0.8, 0..PORTS);
    (from, 0..PORTS, any::<bool>(), 0u8..18, 0u8..18, upper).prop_map(
        |(from, to, ipv6, mut src, dst, upper)| {
            // A port sends from its own address; a tunnel brings any.
            if let Some(from) = from {
                src = from as u8 + 1;
            }
            Sent {
                from,
                to,
                packet: Ip {
                    src: address(ipv6, src),
                    dst: address(ipv6, dst),
                    upper,
                },
            }
        },
    )
}

impl Sent {
    fn text(&self) -> String {
        let Ip { src, dst, upper } = self.packet;
        let version = if src.is_ipv4() { "ipv4" } else { "ipv6" };
        let icmp = if src.is_ipv4() { "icmp" } else { "icmp6" };
        let upper = match upper {
            Upper::Tcp(src, dst) => format!("tcp src {src} dst {dst}"),
            Upper::Udp(src, dst) => format!("udp src {src} dst {dst}"),
            // The target of neighbour discovery is the sender's.
            Upper::Icmp(of_type, code) => match src {
                IpAddr::V6(src) => format!(
                    "{icmp} type {of_type} code {code} / payload hex {:032x}00000000",
                    u128::from(src)
                ),
                IpAddr::V4(_) => format!("{icmp} type {of_type} code {code}"),
            },
        };
        let src_mac = mac(self.from.unwrap_or(99));
        format!(
            "eth src {src_mac} dst {} / {version} src {src} dst {dst} / {upper}",
            mac(self.to)
        )
    }
}

/// What port security takes from a guest whatever its groups allow.
fn never_from_a_guest(port: &crate::model::PortSpec, packet: Ip) -> bool {
    let v6 = packet.src.is_ipv6();
    port.policy.port_security
        && match packet.upper {
            Upper::Udp(67, 68) => !v6,
            Upper::Udp(547, 546) => v6,
            Upper::Icmp(134 | 137, _) => v6,
            _ => false,
        }
}

fn compare(inventory: &Inventory, rules: &Policy, packets: &[Sent]) -> Result<(), TestCaseError> {
    let mut engine = engine(rules);
    let mut naive = Naive::new(inventory);
    for sent in packets {
        let to = inventory.port(&format!("p{}", sent.to)).unwrap();
        let from = sent
            .from
            .map(|from| inventory.port(&format!("p{from}")).unwrap());
        let packet = Packet::of(&sent.text());
        let mut walk = Walk::default();
        let mut passes = true;
        if let Some(from) = from {
            let expected = !never_from_a_guest(&from.spec, sent.packet)
                && naive.sends(&from.spec, sent.packet);
            passes = engine.sent(from.spec.index(), &packet, &mut walk);
            prop_assert_eq!(passes, expected, "{:?} out: {}", sent, sent.text());
        }
        if passes && sent.from != Some(sent.to) {
            let expected = naive.receives(&to.spec, from.map(|from| &from.spec), sent.packet);
            let index = from.map_or(4000, |from| from.spec.index());
            let arrives = engine.received(index, sent.to, &packet, &mut walk);
            prop_assert_eq!(arrives, expected, "{:?} in: {}", sent, sent.text());
        }
        // Every rule that a packet meets is somebody's.
        for (port, id) in walk.met {
            prop_assert_ne!(rules.origin(RuleName { port, id }), None);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rules_mean_what_the_objects_mean(inventory in node(), packets in prop::collection::vec(sent(), 40)) {
        compare(&inventory, &settled(&inventory), &packets)?;
    }

    #[test]
    fn a_change_leaves_the_rules_of_a_fresh_start(one in node(), other in node(), packets in prop::collection::vec(sent(), 20)) {
        let mut plane = DryRun::default();
        let mut policy = settled(&Inventory::default());
        policy.settle(&one, &mut plane).unwrap();
        policy.settle(&other, &mut plane).unwrap();
        compare(&other, &policy, &packets)?;
        let again = policy.settle(&other, &mut plane).unwrap();
        prop_assert_eq!(again, Difference::default());
        prop_assert_eq!(policy.len(), settled(&other).len());
        policy.settle(&Inventory::default(), &mut plane).unwrap();
        prop_assert!(policy.is_empty());
    }
}

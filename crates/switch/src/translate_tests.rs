//! What the cache answers is what the slow path would decide: for random frames under random rules, networks and learned addresses.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use sumeru_flow::syntax::{Command, parse as parse_command};
use sumeru_packet::build::FrameBuilder;
use sumeru_packet::{Layout, ParseOptions, parse};

use crate::cache::{Cache, Decision, Hit};
use crate::frame::Frame;
use crate::rules::{Context, RuleTable, compile};
use crate::services::{Host, Place, Route, Router, Way};
use crate::snapshot::{PortView, Underlay};

/// Patterns over a small world, so that rules overlap and frames meet them.
fn pattern() -> impl Strategy<Value = String> {
    let n = 0_u8..4;
    prop_oneof![
        Just("eth".to_string()),
        n.clone()
            .prop_map(|n| format!("eth dst is 02:00:00:00:00:0{n}")),
        n.clone()
            .prop_map(|n| format!("eth src is 02:00:00:00:00:0{n}")),
        n.clone().prop_map(|n| format!("eth / vlan vid is {n}")),
        n.clone()
            .prop_map(|n| format!("eth / ipv4 dst is 10.0.0.{n}")),
        (24_u8..=32, n.clone())
            .prop_map(|(p, n)| format!("eth / ipv4 dst spec 10.0.0.{n} dst prefix {p}")),
        (n.clone(), n.clone())
            .prop_map(|(s, d)| format!("eth / ipv4 src is 10.0.0.{s} / udp dst is {d}")),
        n.clone()
            .prop_map(|n| format!("eth / ipv4 / tcp src is {n}")),
        n.clone().prop_map(|n| format!("eth / ipv4 ttl is {n}")),
        n.clone()
            .prop_map(|n| format!("eth / ipv6 dst is 2001:db8::{n}")),
        n.clone()
            .prop_map(|n| format!("mark id is {n} / eth / ipv4")),
        n.clone()
            .prop_map(|n| format!("eth / ipv4 / udp / vxlan vni is {n}")),
        n.prop_map(|n| format!("eth / ipv4 / udp / vxlan / eth / ipv4 dst is 10.0.0.{n}")),
    ]
}

fn edits() -> impl Strategy<Value = String> {
    let n = 0_u8..4;
    let one = prop_oneof![
        Just("count".to_string()),
        Just("dec_ttl".to_string()),
        Just("of_pop_vlan".to_string()),
        Just("of_push_vlan ethertype 0x8100".to_string()),
        Just("vxlan_decap".to_string()),
        Just("mac_swap".to_string()),
        Just("flag".to_string()),
        Just("modify_field op add dst_type ipv4_dst src_type value src_value 00000001 width 32".to_string()),
        Just("modify_field op set dst_type ipv4_src src_type ipv4_dst width 32".to_string()),
        Just("modify_field op set dst_type tag src_type ipv4_ttl width 8".to_string()),
        Just("modify_field op set dst_type ipv4_dst src_type tag width 8".to_string()),
        Just("modify_field op add dst_type tag src_type value src_value 01 width 2".to_string()),
        Just("modify_field op set dst_type ipv4_dst dst_level 2 src_type ipv4_src width 32".to_string()),
        Just(format!("raw_decap data {}", "00".repeat(50))),
        Just("raw_encap data 02000000000102000000000288b5".to_string()),
        Just("l2_decap / l2_encap eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02 ethertype 0x0800".to_string()),
        Just("vxlan_encap vni 2 ip_src 192.0.2.1 ip_dst 10.0.0.2 eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02 ip_ttl 3".to_string()),
        n.clone().prop_map(|n| format!("set_tag data {n} index 0 mask 3")),
        n.clone().prop_map(|n| format!("set_meta data {n} mask 1")),
        n.clone().prop_map(|n| format!("set_ipv4_dscp dscp_value {n}")),
        n.clone().prop_map(|n| format!("mark id {n}")),
        n.clone()
            .prop_map(|n| format!("of_set_vlan_vid vlan_vid {n}")),
        n.clone()
            .prop_map(|n| format!("of_set_vlan_pcp vlan_pcp {n}")),
        n.clone()
            .prop_map(|n| format!("set_mac_dst mac_addr 02:00:00:00:00:0{n}")),
        n.clone()
            .prop_map(|n| format!("set_ipv4_dst ipv4_addr 10.0.0.{n}")),
        n.clone().prop_map(|n| format!("set_tp_dst port {n}")),
        n.prop_map(|n| format!("set_ttl ttl_value {n}")),
    ];
    proptest::collection::vec(one, 0..4).prop_map(|all| all.join(" / "))
}

fn rule() -> impl Strategy<Value = String> {
    let fate = prop_oneof![
        Just("drop".to_string()),
        Just("passthru".to_string()),
        Just("queue index 1".to_string()),
        (0_u8..4).prop_map(|n| format!("represented_port ethdev_port_id {n}")),
        (0_u8..3).prop_map(|n| format!("jump group {n}")),
    ];
    let place = (0_u8..3, 0_u8..3, 0_u8..4, any::<bool>());
    (place, pattern(), edits(), fate).prop_map(|((group, priority, port, transfer), pattern, edits, fate)| {
        let edits = if edits.is_empty() { edits } else { format!("{edits} / ") };
        let attribute = if transfer { "transfer" } else { "ingress" };
        format!("flow create {port} group {group} priority {priority} {attribute} pattern {pattern} / end actions {edits}{fate} / end")
    })
}

#[derive(Clone, Copy, Debug)]
struct Seed {
    port: u8,
    macs: (u8, u8),
    vlan: Option<u8>,
    kind: u8,
    ips: (u8, u8),
    ports: (u8, u8),
    ttl: u8,
}

fn seed() -> impl Strategy<Value = Seed> {
    let n = || 0_u8..4;
    let vlan = prop_oneof![3 => Just(None), 1 => n().prop_map(Some)];
    (
        n(),
        (n(), n()),
        vlan,
        0_u8..7,
        (n(), n()),
        (n(), n()),
        0_u8..4,
    )
        .prop_map(|(port, macs, vlan, kind, ips, ports, ttl)| Seed {
            port,
            macs,
            vlan,
            kind,
            ips,
            ports,
            ttl,
        })
}

fn frame_of(seed: &Seed) -> Frame {
    let mut frame = [0; 300];
    let mac = |n: u8| [if n == 3 { 3 } else { 2 }, 0, 0, 0, 0, n];
    let wide = |n: u8| (0x2001_0db8_u128 << 96) + u128::from(n);
    let ip = |n: u8| 0x0a00_0000 + u32::from(n);
    let f = FrameBuilder::new(&mut frame).ethernet(mac(seed.macs.1), mac(seed.macs.0));
    let f = match seed.vlan {
        Some(vid) => f.vlan(vid.into()),
        None => f,
    };
    let (source, destination) = (u16::from(seed.ports.0), u16::from(seed.ports.1));
    let f = match seed.kind {
        0 | 1 => f
            .ipv4(ip(seed.ips.0), ip(seed.ips.1))
            .udp(source, destination),
        2 => f
            .ipv4(ip(seed.ips.0), ip(seed.ips.1))
            .tcp(source, destination),
        3 => f
            .ipv6(wide(seed.ips.0), wide(seed.ips.1))
            .udp(source, destination),
        4 => f
            .ipv4(0xc000_0202, 0xc000_0201)
            .udp(50_000, 4789)
            .vxlan(source.into())
            .ethernet(mac(seed.macs.0), mac(seed.macs.1))
            .ipv4(ip(seed.ips.0), ip(seed.ips.1))
            .udp(source, destination),
        5 => {
            let [src, dst] = [seed.ips.0, seed.ips.1].map(|n| ip(n).to_be_bytes());
            let sender = mac(seed.macs.0);
            let start = [0, 1, 8, 0, 6, 4, 0, 1 + seed.ports.0 / 2];
            let arp = [&start[..], &sender, &src, &[0; 6], &dst].concat();
            f.ethertype(0x0806, &arp)
        }
        _ => f.ethertype(0x88b5, &[0; 46]),
    };
    let len = f.finish().unwrap();
    if seed.vlan.is_none() && matches!(seed.kind, 0..=2) {
        frame[22] = seed.ttl;
    }
    let (mut key, mut layout) = (FlowKey::with_metadata(seed.port.into(), 0), Layout::EMPTY);
    parse(
        &frame[..len],
        len,
        &mut key,
        &mut layout,
        &ParseOptions::VXLAN,
    )
    .unwrap();
    let mut out = Frame {
        key,
        layout,
        len: len as u32,
        ..Frame::new()
    };
    out.header.load(&frame[..len]);
    out
}

/// Carries the operations out; nothing if the frame is dropped, or has more tags than a key tells of.
fn carried_out(frame: &Frame, ops: &[Op]) -> Option<FlowKey> {
    let mut frame = frame.clone();
    for op in ops {
        if matches!(op, Op::Drop(_)) {
            return None;
        }
        crate::edit::apply(&mut frame, op).ok()?;
        if frame.layout.layers.iter().any(|layer| layer.vlan_tags > 2) {
            return None;
        }
    }
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let header = frame.header.header();
    parse(
        header,
        header.len(),
        &mut key,
        &mut layout,
        &ParseOptions::VXLAN,
    )
    .ok()?;
    Some(key)
}

/// Four ports, the last an uplink; two networks, the first with a remote.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let view = |index: u16| PortView {
        index,
        name: format!("p{index}").into(),
        network: [Some(1), Some(1), Some(2), None][usize::from(index)],
        mtu: 1500,
        uplink: index == 3,
        lldp: false,
        shield: None,
    };
    snapshot.ports = (0..4).map(|index| Some(view(index))).collect();
    for (id, remotes) in [(1, vec!["192.0.2.2".parse().unwrap()]), (2, vec![])] {
        let network = NetworkView {
            id,
            name: format!("net{id}").into(),
            overlay: crate::snapshot::Overlay::Vxlan,
            remotes,
            ports: (0..3)
                .filter(|index| view(*index).network == Some(id))
                .collect(),
            flood_limit: 0,
            ageing_s: 300,
            static_macs: Vec::new(),
            outer: Default::default(),
        };
        snapshot.networks.insert(id, network);
    }
    snapshot.underlay = Some(Underlay {
        port: 3,
        mac: [2; 6],
        addresses: vec![("192.0.2.1".parse().unwrap(), 24)],
        vxlan_port: 4789,
    });
    snapshot
}

/// A router between the two networks, whose addresses are those of frames: some hosts are known, some are asked for, one is the router's own.
fn join(snapshot: &mut Snapshot) {
    let ip = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
    let route = |n, length, way| Route {
        prefix: ip(n),
        length,
        way,
    };
    let router = Arc::new(Router {
        name: "r".into(),
        routes: vec![
            route(0, 31, Way::Link(1)),
            route(2, 32, Way::Link(2)),
            route(3, 32, Way::Own),
        ],
    });
    for id in [1, 2] {
        let mac = [2, 0, 0, 0, 0, id as u8];
        let host = |n: u8, place| {
            let mac = [2, 0, 0, 0, 0, n];
            (ip(n.into()), Host { mac, place })
        };
        let remote = Place::Remote("192.0.2.2".parse().unwrap());
        let hosts = match id {
            1 => vec![host(0, Place::Port(0)), host(3, Place::Here)],
            _ => vec![host(2, remote)],
        };
        let services = Services {
            mac,
            hosts: hosts.into_iter().collect(),
            router: Some(router.clone()),
            own: (Some("10.0.0.3".parse().unwrap()), None),
            mtu: 1500,
            ..Services::default()
        };
        snapshot.services.insert(id, Arc::new(services));
    }
}

/// Adds a rule; some make no sense, which the compiler says.
fn insert(table: &mut RuleTable, id: u32, text: &str) {
    let Ok(Command::Create { port, rule }) = parse_command(text) else {
        panic!("not a rule: {text}");
    };
    let resolve = |port: &sumeru_flow::PortRef| port.number().map(|n| n as PortIndex);
    let context = Context {
        port: port.number().unwrap() as PortIndex,
        id,
        resolve: &resolve,
    };
    if let Ok(rule) = compile(&rule, &context) {
        table.insert(&rule).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Frame(Seed),
    Insert(String),
    Remove(u32),
    Publish,
    Learn(u32, u8, u8),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => seed().prop_map(Step::Frame),
        3 => rule().prop_map(Step::Insert),
        2 => (0_u32..12).prop_map(Step::Remove),
        2 => Just(Step::Publish),
        1 => (1_u32..3, 0_u8..3, 0_u8..4).prop_map(|(network, mac, at)| Step::Learn(network, mac, at)),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What the cache says of a frame is what would be decided for it now, whatever rules came and went and whatever was learned.
    #[test]
    fn a_cached_decision_is_the_fresh_one(
        rules in proptest::collection::vec(rule(), 0..12),
        steps in proptest::collection::vec(step(), 1..150),
        routed in any::<bool>(),
    ) {
        let mut snapshot = snapshot();
        if routed {
            join(&mut snapshot);
        }
        let mut table = RuleTable::default();
        for (id, rule) in rules.iter().enumerate() {
            insert(&mut table, id as u32, rule);
        }
        table.publish();
        let (mut view, _) = table.subscribe();
        let (mut fdb, neighbours, mut cache) = (Fdb::default(), Neighbours::default(), Cache::new());
        let residents = Residents::default();
        cache.adopt(view.rules.version());
        let (mut next, mut now) = (rules.len() as u32, 0);
        for step in steps {
            let seed = match step {
                Step::Frame(seed) => seed,
                Step::Insert(text) => {
                    insert(&mut table, next, &text);
                    next += 1;
                    continue;
                }
                Step::Remove(id) => {
                    (0..4).for_each(|port| drop(table.remove(port, id)));
                    continue;
                }
                Step::Publish => {
                    table.publish();
                    prop_assert!(view.refresh());
                    cache.adopt(view.rules.version());
                    continue;
                }
                Step::Learn(network, mac, at) => {
                    let target = if at == 3 { Target::Remote("192.0.2.2".parse().unwrap()) } else { Target::Port(at.into()) };
                    let mac = [2, 0, 0, 0, 0, mac];
                    fdb.learn(network, mac, target, now);
                    cache.learned(change_of(network, mac));
                    continue;
                }
                Step::Forget => {
                    now += 1000;
                    fdb.age(&snapshot, now, |network, mac| cache.learned(change_of(network, mac)));
                    continue;
                }
            };
            let tables = Tables { snapshot: &snapshot, rules: &view, fdb: &fdb, neighbours: &neighbours, residents: &residents };
            let frame = frame_of(&seed);
            let key = frame.key;
            let tracking = || Tracking::of(crate::track::Table::Off, &frame, 0, None);
            let fresh = translate(tables, &key, tracking(), None);
            let mask = fresh.mask;
            let hash = cache.hash(&key);
            match cache.find(&key, hash, view.rules.stamps()) {
                Some((entry, _)) => {
                    prop_assert!(!fresh.once);
                    let cached: Vec<Op> = match cache.hit(entry) {
                        Hit::Output(quick) => quick.counter().map(Op::Count).into_iter().chain([Op::Output(quick.port)]).collect(),
                        Hit::Run(ops, counter) => counter.map(Op::Count).into_iter().chain(ops.iter().cloned()).collect(),
                        Hit::Tracked(..) => unreachable!("no rule tracks"),
                    };
                    prop_assert_eq!(&cached, &fresh.ops, "{:?}", seed);
                }
                None if !fresh.once => {
                    let sender = fresh.learn.map(|(network, mac, _)| (network, mac));
                    let entry = cache.insert(&key, Decision { mask: fresh.mask, rests: fresh.rests, ops: fresh.ops, sender, tracks: fresh.tracks });
                    prop_assert_eq!(cache.find(&key, hash, view.rules.stamps()).map(|found| found.0), Some(entry));
                }
                None => {}
            }
            // What rules leave of the frame is what they take it for.
            let mut walk = Walk::new(tables, &key, tracking(), None);
            walk.rules(0);
            let retargeted = walk.out.ops.iter().any(|op| matches!(op, Op::SetL4Dst(_)));
            if let Some(after) = carried_out(&frame, &walk.out.ops) && !retargeted && !walk.seen.is_unknown(&FlowMask::EXACT) {
                for word in 2..18 {
                    prop_assert_eq!(walk.key.word(word), after.word(word), "word {} of {:?}: {:?}", word, seed, walk.out.ops);
                }
            }
            // A trace decides the same.
            let mut notes = Vec::new();
            let traced = translate(tables, &key, tracking(), Some(&mut notes));
            prop_assert_eq!(traced.mask, mask);
            prop_assert!(!notes.is_empty());
        }
    }
}

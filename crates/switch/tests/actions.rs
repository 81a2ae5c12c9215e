//! Actions of rules, each by its testpmd text: the frame that is sent, and the bytes that arrive.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_flow::model::{Action, IndirectAction, MeterAlgorithm, MeterPolicy, MeterProfile};
use sumeru_packet::edit::{self, Bits, read_bits};
use sumeru_switch::rules::{Answer, RuleError};
use sumeru_switch::stats::Drop;
use sumeru_switch::switch::SwitchError;

/// Guests 1 and 2 on one network, which know each other, and a mirror on another.
fn node() -> (Node, Guest, Guest, Guest) {
    let mut node = Node::with_networks(&[1, 2]);
    let (mut a, mut b) = (
        node.guest(1, &Options::default()),
        node.guest(2, &Options::default()),
    );
    let mirror = Options {
        network: Some(2),
        mtu: 2000,
        ..Options::default()
    };
    let mirror = node.guest(3, &mirror);
    a.send(&[udp(1, 2, 1)]);
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    b.receive();
    (node, a, b, mirror)
}

fn rule(pattern: &str, actions: &str) -> String {
    format!("flow create 1 ingress pattern {pattern} / end actions {actions} / end")
}

/// What guest 2 gets of a frame of guest 1 under a rule; three times, so that the cache decides too.
fn through(pattern: &str, actions: &str, frame: &[u8]) -> Vec<u8> {
    let (mut node, mut a, mut b, _) = node();
    let to = format!("{actions} / represented_port ethdev_port_id 2");
    node.rule(0, &rule(pattern, &to)).unwrap();
    a.send(&[frame, frame]);
    a.send(&[frame]);
    let mut out = b.frames();
    assert_eq!(out.len(), 3, "{actions}: {:?}", node.all_drops());
    assert!(out.iter().all(|each| *each == out[0]));
    out.remove(0)
}

#[test]
fn link_and_network_fields_are_changed() {
    let frame = udp(1, 2, 100);
    let swapped = through("eth", "mac_swap", &frame);
    assert_eq!(swapped[..12], [mac(1), mac(2)].concat());
    assert_eq!(swapped[12..], frame[12..]);
    let marked = through("eth / ipv4", "set_ipv4_dscp dscp_value 46", &frame);
    verify(&marked);
    assert_eq!(marked[15], 46 << 2);
    let older = through("eth / ipv4", "of_dec_nw_ttl", &frame);
    verify(&older);
    assert_eq!(older[22], frame[22] - 1);
    let v6 = tcp(1, 2, true, 50);
    let marked = through("eth / ipv6", "set_ipv6_dscp dscp_value 12", &v6);
    assert_eq!(
        u16::from_be_bytes([marked[14], marked[15]]),
        0x6000 | 12 << 6
    );
}

#[test]
fn tcp_numbers_move() {
    let frame = tcp(1, 2, false, 64);
    let actions = "inc_tcp_seq value 256 / dec_tcp_ack value 8";
    let moved = through("eth / ipv4 / tcp", actions, &frame);
    verify(&moved);
    let layer = *layout(&moved).outer();
    assert_eq!(
        read_bits(&moved, &layer, Bits::TCP_SEQUENCE),
        Ok(0),
        "it wraps"
    );
    assert_eq!(
        read_bits(&moved, &layer, Bits::TCP_ACKNOWLEDGEMENT),
        Ok(0xffff_ffff)
    );
}

#[test]
fn any_field_is_modified_and_copied() {
    let frame = udp(1, 2, 100);
    let pattern = "eth / ipv4 / udp";
    for (actions, at, expected) in [
        (
            "modify_field op set dst_type ipv4_src src_type value src_value c0000207 width 32",
            26,
            vec![192, 0, 2, 7],
        ),
        (
            "modify_field op add dst_type ipv4_dst src_type value src_value 00000100 width 32",
            30,
            vec![10, 0, 1, 2],
        ),
        (
            "modify_field op sub dst_type udp_port_dst src_type value src_value 0001 width 16",
            36,
            1999_u16.to_be_bytes().to_vec(),
        ),
        (
            "modify_field op set dst_type ipv4_src src_type ipv4_dst width 32",
            26,
            vec![10, 0, 0, 2],
        ),
        // The lowest byte of one address into the second lowest of the other.
        (
            "modify_field op set dst_type ipv4_dst dst_offset 8 src_type ipv4_src width 8",
            30,
            vec![10, 0, 1, 2],
        ),
        // By way of registers.
        (
            "set_tag data 0xc0000209 index 2 mask 0xffffffff / modify_field op set dst_type ipv4_dst src_type tag src_level 2 width 32",
            30,
            vec![192, 0, 2, 9],
        ),
        (
            "set_meta data 0x4d mask 0xff / modify_field op add dst_type meta src_type value src_value 01 width 8 / modify_field op set dst_type udp_port_src src_type meta width 16",
            34,
            vec![0, 0x4e],
        ),
        (
            "modify_field op set dst_type mark src_type udp_port_src width 16 / modify_field op set dst_type udp_port_dst src_type mark width 16",
            36,
            1000_u16.to_be_bytes().to_vec(),
        ),
    ] {
        let out = through(pattern, actions, &frame);
        verify(&out);
        assert_eq!(out[at..at + expected.len()], expected, "{actions}");
    }
}

#[test]
fn headers_inside_a_tunnel_are_modified() {
    let inner = udp(1, 9, 80);
    let frame = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(1, 2)
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&inner)
    });
    let actions = "modify_field op set dst_type ipv4_dst dst_level 2 src_type value src_value 0a000063 width 32 / modify_field op set dst_type vxlan_vni src_type value src_value 000009 width 24";
    let out = through("eth / ipv4 / udp / vxlan / eth / ipv4", actions, &frame);
    assert_eq!(out[46..49], [0, 0, 9]);
    let expected = build(|f| {
        f.ethernet(mac(9), mac(1))
            .ipv4(0x0a00_0001, 0x0a00_0063)
            .udp(1000, 2000)
            .payload(&pattern(80))
    });
    assert_eq!(out[50..], expected);
    verify(&out);
}

#[test]
fn registers_are_matched_by_later_groups() {
    let (mut node, mut a, mut b, mut mirror) = node();
    node.rule(0, &rule("eth / ipv4", "set_tag data 5 index 1 mask 0xf / modify_field op set dst_type meta src_type udp_port_src width 16 / flag / jump group 1").replace("eth / ipv4", "eth / ipv4 / udp")).unwrap();
    let second = |pattern: &str, port| {
        format!(
            "flow create 1 group 1 ingress pattern {pattern} / end actions represented_port ethdev_port_id {port} / end"
        )
    };
    node.rule(
        1,
        &second("tag index is 1 data is 5 / meta data is 1000 / eth", 2),
    )
    .unwrap();
    node.rule(2, &second("meta data is 1001 / eth", 3)).unwrap();
    for _ in 0..2 {
        a.send(&[
            udp_to(mac(1), mac(2), 1000, 9),
            udp_to(mac(1), mac(2), 1001, 9),
        ]);
        assert_eq!((b.frames().len(), mirror.frames().len()), (1, 1));
    }
}

#[test]
fn raw_headers_are_exchanged() {
    let frame = udp(1, 2, 300);
    let tagged = through(
        "eth",
        "raw_decap data 0000000000000000000000000000 / raw_encap data 02000000000902000000000881000123 / raw_encap data 020000000009",
        &frame,
    );
    assert_eq!(
        tagged[..22],
        [
            2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x81, 0, 1, 0x23
        ]
    );
    assert_eq!(tagged[22..], frame[14..]);
    let link = through(
        "eth / ipv4",
        "l2_decap / l2_encap eth_src 02:00:00:00:00:0a eth_dst 02:00:00:00:00:0b ethertype 0x0800 vlan_tci 100",
        &frame,
    );
    assert_eq!(
        link[..18],
        [
            2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 0x81, 0, 0, 100, 8, 0
        ]
    );
    assert_eq!(link[18..], frame[14..]);
    // Edits behind it are of what is outermost then.
    let inner = tcp(5, 6, true, 400);
    let outer = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(1, 2)
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&inner)
    });
    let zeros = "00".repeat(50);
    let out = through(
        "eth / ipv4 / udp",
        &format!("raw_decap data {zeros} / set_mac_src mac_addr 02:00:00:00:00:77"),
        &outer,
    );
    assert_eq!(out[..6], inner[..6]);
    assert_eq!(out[6..12], mac(0x77));
    assert_eq!(out[12..], inner[12..]);
}

#[test]
fn what_a_new_front_uncovers_is_matched() {
    let (mut node, mut a, mut b, _) = node();
    let zeros = "00".repeat(50);
    node.rule(
        0,
        &rule(
            "eth / ipv4 / udp",
            &format!("raw_decap data {zeros} / jump group 1"),
        ),
    )
    .unwrap();
    node.rule(1, "flow create 1 group 1 ingress pattern eth dst is 02:00:00:00:00:06 / ipv6 / tcp dst is 5001 / end actions represented_port ethdev_port_id 2 / end").unwrap();
    node.switch.set_isolated(1, true).unwrap();
    let wrapped = |inner: &[u8]| {
        build(|f| {
            f.ethernet(mac(2), mac(1))
                .ipv4(1, 2)
                .udp(50_000, 4789)
                .vxlan(7)
                .payload(inner)
        })
    };
    for _ in 0..2 {
        // The same outside, two kinds inside.
        a.send(&[
            wrapped(&tcp(5, 6, true, 400)),
            wrapped(&tcp(5, 7, true, 400)),
        ]);
        assert_eq!(b.frames(), [tcp(5, 6, true, 400)]);
    }
    assert_eq!(node.drops(Drop::Isolated), 2);
}

#[test]
fn nvgre_goes_in_and_out() {
    let mut node = Node::with_networks(&[1]);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    let mut a = node.guest(1, &Options::default());
    node.rule(0, &rule("eth", "nvgre_encap tni 77 flow_id 5 ip_src 192.0.2.1 ip_dst 192.0.2.9 eth_dst 02:00:00:00:00:0b / represented_port ethdev_port_id 0")).unwrap();
    node.rule(1, "flow create 0 ingress pattern eth / ipv4 / nvgre tni is 77 / end actions nvgre_decap / represented_port ethdev_port_id 1 / end").unwrap();
    let mut inner = udp(1, 9, 120);
    edit::set_tos(&mut inner, layout(&udp(1, 9, 120)).outer(), 2).unwrap();
    wire.receive();
    a.send(&[&inner, &inner]);
    let out = wire.frames().pop().unwrap();
    assert_eq!(out[15], 2, "congestion is told by the outer header too");
    assert_eq!(out[23], 47);
    assert_eq!(out[34..42], [0x20, 0, 0x65, 0x58, 0, 0, 77, 5]);
    assert_eq!(out[42..], inner);
    // Back, and congested on the way: the mark goes in.
    let mut back = out.clone();
    edit::set_tos(&mut back, layout(&out).outer(), 3).unwrap();
    wire.send(&[&back]);
    let got = a.frames().pop().unwrap();
    verify(&got);
    assert_eq!(got[15], 3);
    // A sender that would not understand it.
    let mut deaf = back.clone();
    let inside = udp(1, 9, 120);
    deaf[42..].copy_from_slice(&inside);
    wire.send(&[&deaf]);
    assert!(a.frames().is_empty());
    assert_eq!(node.drops(Drop::Congestion), 1);
}

#[test]
fn copies_go_to_a_mirror() {
    let (mut node, mut a, mut b, mut mirror) = node();
    let header = "02000000000f02000000000e88be";
    node.rule(0, &rule("eth / ipv4", &format!("sample ratio 1 actions raw_encap data {header} / represented_port ethdev_port_id 3 / end / set_ttl ttl_value 9 / represented_port ethdev_port_id 2"))).unwrap();
    let frame = udp(1, 2, 1000);
    for _ in 0..3 {
        a.send(&[&frame]);
        let (there, copy) = (b.frames(), mirror.frames());
        verify(&there[0]);
        assert_eq!((there[0].len(), there[0][22]), (frame.len(), 9));
        assert_eq!(
            copy[0][..14],
            [2, 0, 0, 0, 0, 0xf, 2, 0, 0, 0, 0, 0xe, 0x88, 0xbe]
        );
        assert_eq!(copy[0][14..], frame, "as it was when it was copied");
    }
    node.switch.remove_rule(1, 0).unwrap();
    node.rule(
        0,
        &rule(
            "eth / ipv4",
            "sample ratio 4 actions represented_port ethdev_port_id 3 / end / passthru",
        ),
    )
    .unwrap();
    let mut copies = 0;
    for _ in 0..40 {
        a.send(&[&frame; 20]);
        assert_eq!(b.frames().len(), 20, "the bridge still has them");
        copies += mirror.frames().len();
    }
    assert!((120..280).contains(&copies), "{copies} of 800");
}

#[test]
fn meters_drop_and_mark() {
    let (mut node, mut a, mut b, _) = node();
    let profile = MeterProfile {
        algorithm: MeterAlgorithm::SrtcmRfc2697 {
            cir: 1,
            cbs: 2,
            ebs: 3,
        },
        packet_mode: true,
    };
    let set: Action = Action::SetIpv4Dscp {
        dscp: sumeru_flow::model::FieldValue::from_bits(10),
    };
    let policy = MeterPolicy {
        green: vec![],
        yellow: vec![set],
        red: vec![Action::Drop],
    };
    assert!(matches!(
        node.rule(0, &rule("eth", "meter mtr_id 4 / passthru")),
        Err(SwitchError::Rule(RuleError::NoObject { .. }))
    ));
    node.switch
        .create_meter((1, 4), &profile, &policy, false)
        .unwrap();
    node.rule(0, &rule("eth", "meter mtr_id 4 / passthru"))
        .unwrap();
    a.send(&vec![udp(1, 2, 10); 12]);
    let tos: Vec<u8> = b.frames().iter().map(|frame| frame[15]).collect();
    assert_eq!(tos, [0, 0, 40, 40, 40]);
    assert_eq!(node.drops(Drop::Meter), 7);
    let stats = node.switch.meter_stats(1, 4).unwrap();
    assert_eq!(
        (
            stats.green.packets,
            stats.yellow.packets,
            stats.red.packets,
            stats.dropped.packets
        ),
        (2, 3, 7, 7)
    );
    assert!(matches!(
        node.switch.destroy_meter(1, 4),
        Err(SwitchError::Rule(RuleError::InUse { .. }))
    ));
    node.switch.remove_rule(1, 0).unwrap();
    node.switch.destroy_meter(1, 4).unwrap();
}

#[test]
fn queues_are_chosen() {
    let mut node = Node::with_networks(&[1]);
    let mut a = node.guest(1, &Options::default());
    let many = Options {
        pairs: 4,
        ..Options::default()
    };
    let mut b = node.guest(2, &many);
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    let frames: Vec<_> = (0..60_u16)
        .map(|port| udp_to(mac(1), mac(2), port, 9))
        .collect();
    let pairs =
        |guest: &mut Guest| -> Vec<usize> { guest.receive().iter().map(|r| r.pair).collect() };
    node.rule(0, &rule("eth", "queue index 2")).unwrap();
    a.send(&frames);
    assert_eq!(pairs(&mut b), vec![2; 60]);
    node.switch.remove_rule(1, 0).unwrap();
    node.rule(
        0,
        &rule("eth", "rss func toeplitz types ipv4-udp end queues 1 3 end"),
    )
    .unwrap();
    a.send(&frames);
    let got = pairs(&mut b);
    assert!(got.len() == 60 && got.iter().all(|pair| *pair == 1 || *pair == 3));
    assert!(
        (10..50).contains(&got.iter().filter(|pair| **pair == 1).count()),
        "{got:?}"
    );
    // A queue that the guest does not have: as if nothing had been said.
    node.switch.remove_rule(1, 0).unwrap();
    node.rule(0, &rule("eth", "queue index 9")).unwrap();
    a.send(&frames);
    assert_eq!(pairs(&mut b).len(), 60);
}

#[test]
fn indirect_actions_are_shared_and_change() {
    let (mut node, mut a, mut b, mut mirror) = node();
    let object = |text: &str| {
        let text =
            format!("flow create 1 ingress pattern eth / end actions {text} / passthru / end");
        let Ok(sumeru_flow::syntax::Command::Create { rule, .. }) =
            sumeru_flow::syntax::parse(&text)
        else {
            panic!("not an action: {text}");
        };
        let mut shared = IndirectAction {
            id: None,
            direction: sumeru_flow::model::Direction::default(),
            action: rule.actions[0].clone(),
        };
        shared.direction.ingress = true;
        shared
    };
    node.switch
        .create_indirect((1, 7), &object("count"))
        .unwrap();
    node.switch
        .create_indirect((1, 8), &object("set_ttl ttl_value 20"))
        .unwrap();
    node.rule(
        0,
        &rule(
            "eth / ipv4 / udp",
            "indirect 7 / indirect 8 / represented_port ethdev_port_id 2",
        ),
    )
    .unwrap();
    node.rule(
        1,
        &rule(
            "eth / ipv4 / tcp",
            "indirect 7 / represented_port ethdev_port_id 3",
        ),
    )
    .unwrap();
    a.send(&[udp(1, 2, 10), tcp(1, 2, false, 10)]);
    assert_eq!((b.frames()[0][22], mirror.frames().len()), (20, 1));
    let bytes = (udp(1, 2, 10).len() + tcp(1, 2, false, 10).len()) as u64;
    assert_eq!(
        node.switch.query_indirect(1, 7).unwrap(),
        Answer::Count { packets: 2, bytes }
    );
    // Another value, at once.
    node.switch
        .update_indirect((1, 8), &object("set_ttl ttl_value 30"))
        .unwrap();
    a.send(&[udp(1, 2, 10)]);
    assert_eq!(b.frames()[0][22], 30);
    assert!(matches!(
        node.switch.update_indirect((1, 8), &object("drop")),
        Err(SwitchError::Rule(RuleError::ObjectKind { .. }))
    ));
    assert!(matches!(
        node.switch.destroy_indirect(1, 8),
        Err(SwitchError::Rule(RuleError::InUse { users: 1, .. }))
    ));
    node.switch.flush_rules(1).unwrap();
    node.switch.destroy_indirect(1, 8).unwrap();
    node.switch.destroy_indirect(1, 7).unwrap();
    assert!(matches!(
        node.switch.query_indirect(1, 7),
        Err(SwitchError::Rule(RuleError::NoObject { .. }))
    ));
}

#[test]
fn rules_grow_old_and_ports_are_isolated() {
    let (mut node, mut a, mut b, _) = node();
    node.rule(
        0,
        &rule("eth / ipv4", "age timeout 1 context 99 / passthru"),
    )
    .unwrap();
    a.send(&[udp(1, 2, 10)]);
    assert_eq!(b.frames().len(), 1);
    assert!(node.switch.aged().is_empty());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let aged = node.switch.aged();
    assert_eq!((aged.len(), aged[0].context), (1, 99));
    a.send(&[udp(1, 2, 10)]);
    assert_eq!(b.frames().len(), 1);
    assert!(node.switch.aged().is_empty());
    node.switch.set_isolated(1, true).unwrap();
    a.send(&[udp(1, 2, 10)]);
    assert!(b.frames().is_empty());
    assert_eq!(node.drops(Drop::Isolated), 1);
    node.switch.set_isolated(1, false).unwrap();
    a.send(&[udp(1, 2, 10)]);
    assert_eq!(b.frames().len(), 1);
}

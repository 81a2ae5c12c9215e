//! Rules about what leaves a port (attribute `egress`): each copy for itself, whatever its way was, cached or not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_flow::model::{Action, MeterAlgorithm, MeterPolicy, MeterProfile};
use sumeru_switch::stats::{Drop, Stage};

/// Guests 1, 2 and 3 on one network, which know each other.
fn node() -> (Node, [Guest; 3]) {
    let mut node = Node::with_networks(&[1]);
    let mut guests = [1, 2, 3].map(|port| node.guest(port, &Options::default()));
    for guest in &mut guests {
        let port = guest.port as u8;
        guest.send(&[udp_to(mac(port), BROADCAST, 1, 1)]);
    }
    guests.iter_mut().for_each(|guest| drop(guest.receive()));
    (node, guests)
}

fn broadcast(port: u16) -> Vec<u8> {
    udp_to(mac(1), BROADCAST, port, 20)
}

/// Sends it three times, so that the cache decides too; what guests 2 and 3 get of it.
fn thrice(guests: &mut [Guest; 3], frame: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let [a, b, c] = guests;
    a.send(&[frame]);
    a.send(&[frame, frame]);
    (b.frames(), c.frames())
}

#[test]
fn a_copy_is_dropped_and_the_others_go_on() {
    let (mut node, mut guests) = node();
    let all = thrice(&mut guests, &broadcast(7));
    assert_eq!((all.0.len(), all.1.len()), (3, 3));
    // What was decided before the first such rule came does not outlive it.
    let drop_7 = "flow create 2 egress pattern eth / ipv4 / udp src is 7 / end actions drop / end";
    node.rule(1, drop_7).unwrap();
    let without = thrice(&mut guests, &broadcast(7));
    assert_eq!((without.0.len(), without.1.len()), (0, 3));
    assert_eq!(node.drops(Drop::Rule), 3);
    let other = thrice(&mut guests, &broadcast(8));
    assert_eq!((other.0.len(), other.1.len()), (3, 3));
    // To one station, and from a station that the rule is not about.
    let unicast = udp_to(mac(1), mac(2), 7, 20);
    assert_eq!(thrice(&mut guests, &unicast).0.len(), 0);
    guests[1].send(&[udp_to(mac(2), mac(1), 7, 20)]);
    assert_eq!(guests[0].frames().len(), 1);
    node.switch.remove_rule(2, 1).unwrap();
    assert_eq!(thrice(&mut guests, &unicast).0.len(), 3);
}

#[test]
fn what_one_receiver_gets_is_changed_for_it_alone() {
    let (mut node, mut guests) = node();
    let edit = "flow create 2 egress pattern eth / ipv4 / end actions set_mac_dst mac_addr 02:00:00:00:00:02 / set_ttl ttl_value 9 / passthru / end";
    node.rule(1, edit).unwrap();
    let frame = broadcast(7);
    let (b, c) = thrice(&mut guests, &frame);
    assert_eq!((b.len(), c.len()), (3, 3));
    for frame in &b {
        verify(frame);
        assert_eq!(frame[..6], mac(2));
        assert_eq!(frame[22], 9);
    }
    assert!(c.iter().all(|each| *each == frame));
    // Behind others that the engine sends copies to, and in front of them.
    node.rule(2, &edit.replace("create 2", "create 3")).unwrap();
    let (b, c) = thrice(&mut guests, &frame);
    assert_eq!((b.len(), c.len()), (3, 3));
    assert!(b.iter().chain(&c).all(|each| each[22] == 9));
}

#[test]
fn what_the_way_in_left_in_tags_is_known_on_the_way_out() {
    let (mut node, mut guests) = node();
    for (id, text) in [
        "flow create 1 ingress pattern eth / ipv4 / udp src is 7 / end actions set_tag data 5 index 1 mask 0xffffffff / passthru / end",
        "flow create 3 egress pattern tag index is 1 data is 5 / eth / end actions jump group 40 / end",
        "flow create 1 group 40 transfer pattern eth / ipv4 / end actions drop / end",
        // Of the port that they came in by, and about frames that do not leave yet: neither is met.
        "flow create 2 ingress group 40 pattern eth / end actions passthru / end",
        "flow create 1 egress pattern eth / end actions drop / end",
    ]
    .iter()
    .enumerate()
    {
        node.rule(id as u32, text).unwrap();
    }
    let (b, c) = thrice(&mut guests, &broadcast(7));
    assert_eq!((b.len(), c.len()), (3, 0));
    let (b, c) = thrice(&mut guests, &broadcast(8));
    assert_eq!((b.len(), c.len()), (3, 3));
}

#[test]
fn frames_sent_elsewhere_meet_the_rules_of_the_other_port_and_never_run_in_circles() {
    let (mut node, mut guests) = node();
    let to_3 =
        "flow create 2 egress pattern eth / end actions represented_port ethdev_port_id 3 / end";
    node.rule(1, to_3).unwrap();
    let frame = udp(1, 2, 30);
    let (b, c) = thrice(&mut guests, &frame);
    assert_eq!((b.len(), c.len()), (0, 3));
    let to_2 =
        "flow create 3 egress pattern eth / end actions represented_port ethdev_port_id 2 / end";
    node.rule(2, to_2).unwrap();
    let (b, c) = thrice(&mut guests, &frame);
    assert_eq!((b.len(), c.len()), (0, 0));
    assert_eq!(node.drops(Drop::Action), 3);
    // Copies of copies end too.
    for (port, id, to) in [(2, 1, 3), (3, 2, 2)] {
        node.switch.remove_rule(port, id).unwrap();
        let mirror = format!(
            "flow create {port} egress pattern eth / end actions sample ratio 1 actions represented_port ethdev_port_id {to} / end / passthru / end"
        );
        node.rule(id, &mirror).unwrap();
    }
    let (b, c) = thrice(&mut guests, &frame);
    assert_eq!((b.len() % 3, c.len() % 3), (0, 0));
    assert!(b.len() + c.len() <= 3 * 16, "{} {}", b.len(), c.len());
    assert!(!b.is_empty() && !c.is_empty());
}

#[test]
fn a_jump_to_group_0_begins_anew_and_ends() {
    let (mut node, mut guests) = node();
    for (id, group, next) in [(1, 0, 60), (2, 60, 0)] {
        let text = format!(
            "flow create 2 egress group {group} pattern eth / end actions jump group {next} / end"
        );
        node.rule(id, &text).unwrap();
    }
    let (b, _) = thrice(&mut guests, &udp(1, 2, 30));
    assert_eq!(b.len(), 0);
    assert_eq!(node.drops(Drop::Action), 3);
}

#[test]
fn a_stateful_receiver_gets_answers_and_nothing_else() {
    let (mut node, mut guests) = node();
    for (id, text) in [
        "flow create 2 ingress pattern eth / ipv4 / end actions ct zone 9 commit / passthru / end",
        "flow create 2 egress pattern eth / ipv4 / end actions ct zone 9 group 50 / end",
        "flow create 2 egress group 50 priority 1 pattern eth / ct state is +trk+est / end actions passthru / end",
        "flow create 2 egress group 50 priority 2 pattern eth / end actions drop / end",
        // The sender's own zone, in which everything is kept.
        "flow create 1 ingress pattern eth / ipv4 / end actions ct zone 8 commit / passthru / end",
    ]
    .iter()
    .enumerate()
    {
        node.rule(id as u32, text)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let question = build(|f| {
        f.ethernet(mac(1), mac(2))
            .ipv4(0x0a00_0002, 0x0a00_0001)
            .udp(10, 20)
            .payload(b"?")
    });
    let answer = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(0x0a00_0001, 0x0a00_0002)
            .udp(20, 10)
            .payload(b"!")
    });
    guests.iter_mut().for_each(|guest| drop(guest.receive()));
    assert_eq!(thrice(&mut guests, &answer).0.len(), 0, "nobody asked");
    let slow = node.stage(Stage::SlowPath);
    assert_eq!(thrice(&mut guests, &answer).0.len(), 0);
    assert_eq!(
        node.stage(Stage::SlowPath) - slow,
        0,
        "what is refused is refused from the cache"
    );
    guests[1].send(&[&question]);
    assert_eq!(guests[0].frames(), [question]);
    assert_eq!(thrice(&mut guests, &answer).0.len(), 3);
    assert_eq!(node.drops(Drop::Rule), 6);
    // Broadcasts are of no connection.
    let (b, c) = thrice(&mut guests, &broadcast(5));
    assert_eq!((b.len(), c.len()), (0, 3));
}

#[test]
fn meters_count_what_leaves() {
    let (mut node, mut guests) = node();
    let profile = MeterProfile {
        algorithm: MeterAlgorithm::SrtcmRfc2697 {
            cir: 1,
            cbs: 4,
            ebs: 0,
        },
        packet_mode: true,
    };
    let policy = MeterPolicy {
        green: vec![],
        yellow: vec![],
        red: vec![Action::Drop],
    };
    node.switch
        .create_meter((2, 1), &profile, &policy, false)
        .unwrap();
    node.rule(
        1,
        "flow create 2 egress pattern eth / end actions meter mtr_id 1 / count / passthru / end",
    )
    .unwrap();
    guests[0].send(&vec![broadcast(7); 5]);
    guests[2].send(&vec![udp(3, 2, 10); 5]);
    assert_eq!(guests[1].frames().len(), 4);
    assert_eq!(guests[2].frames().len(), 5);
    assert_eq!(node.drops(Drop::Meter), 6);
    assert_eq!(node.switch.rule_counts(2, 1).unwrap().0, 4);
}

#[test]
fn tunnels_leave_by_the_uplink_as_the_wire_sees_them() {
    let mut node = Node::new();
    node.network(7, &["192.0.2.2", "192.0.2.3"], 0);
    let mut wire = node.uplink(9, &[("192.0.2.1", 24)], SENDS);
    let answer = |ip: [u8; 4], from: Mac| {
        let mut frame = [0; 64];
        let (own, asked) = (ip.into(), [192, 0, 2, 1].into());
        let len = sumeru_packet::build::arp_reply(&mut frame, from, own, mac(0xee), asked).unwrap();
        frame[..len].to_vec()
    };
    wire.send(&[
        answer([192, 0, 2, 2], mac(0xfa)),
        answer([192, 0, 2, 3], mac(0xfb)),
    ]);
    wire.receive();
    let options = Options {
        network: Some(7),
        ..Options::default()
    };
    let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
    let frame = broadcast(7);
    a.send(&[&frame]);
    assert_eq!((wire.frames().len(), b.frames().len()), (2, 1));
    node.rule(1, "flow create 9 egress pattern eth / ipv4 dst is 192.0.2.3 / udp dst is 4789 / vxlan vni is 7 / eth / ipv4 / udp src is 7 / end actions drop / end")
        .unwrap();
    a.send(&[&frame]);
    a.send(&[&frame, &frame]);
    let out = wire.frames();
    assert_eq!(out.len(), 3);
    assert!(
        out.iter()
            .all(|each| each[30..34] == [192, 0, 2, 2] && each[50..] == frame)
    );
    assert_eq!(b.frames(), vec![frame; 3]);
    assert_eq!(node.drops(Drop::Rule), 3);
    // The other way: a copy for each guest, out of the tunnel.
    node.rule(
        2,
        "flow create 2 egress pattern eth / ipv4 / udp src is 5 / end actions drop / end",
    )
    .unwrap();
    let inner = udp_to(mac(8), BROADCAST, 5, 20);
    let outer = build(|f| {
        f.ethernet(mac(0xee), mac(0xfa))
            .ipv4(0xc000_0202, 0xc000_0201)
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&inner)
    });
    wire.send(&[&outer]);
    wire.send(&[&outer]);
    assert_eq!((a.frames(), b.frames()), (vec![inner; 2], vec![]));
}

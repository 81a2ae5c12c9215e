//! Frames between guests on one node: the learning bridge, flow rules, limits, and counters that add up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_packet::Malformed;
use sumeru_switch::fdb::Target;
use sumeru_switch::stats::{Drop, DropReason, Stage};

fn three(node: &mut Node) -> [Guest; 3] {
    [1, 2, 3].map(|port| node.guest(port, &Options::default()))
}

#[test]
fn unknown_addresses_are_flooded_and_known_ones_are_not() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    let question = udp(1, 2, 100);
    a.send(&[&question]);
    assert_eq!(b.frames(), std::slice::from_ref(&question));
    assert_eq!(c.frames(), std::slice::from_ref(&question), "flooded");
    assert!(a.frames().is_empty(), "never back to its sender");
    let answer = udp(2, 1, 50);
    b.send(&[&answer]);
    assert_eq!(a.frames(), [answer]);
    assert!(c.frames().is_empty(), "port 1 is known by now");
    a.send(&[&question]);
    assert_eq!(b.frames(), std::slice::from_ref(&question));
    assert!(c.frames().is_empty(), "port 2 is known by now");
    let all = udp_to(mac(1), BROADCAST, 1, 40);
    a.send(&[&all, &all]);
    assert_eq!(b.frames(), [all.clone(), all.clone()]);
    assert_eq!(c.frames(), [all.clone(), all]);
    assert_eq!(node.stage(Stage::Flood), 3);
    let mut fdb: Vec<_> = node
        .switch
        .fdb()
        .unwrap()
        .into_iter()
        .map(|(network, mac, entry, _)| (network, mac, entry.target))
        .collect();
    fdb.sort_by_key(|(_, mac, _)| *mac);
    assert_eq!(
        fdb,
        [(1, mac(1), Target::Port(1)), (1, mac(2), Target::Port(2))]
    );
}

#[test]
fn an_address_that_moves_is_followed() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    for _ in 0..3 {
        a.send(&[udp(1, 2, 10)]);
        b.send(&[udp(2, 1, 20)]);
        b.receive();
        c.receive();
        assert_eq!(a.frames().len(), 1, "mac 1 is at port 1");
        // Station 1 turns up at port 3, and is back in the next round.
        c.send(&[udp(1, 2, 30)]);
        assert_eq!(b.frames().len(), 1);
        b.send(&[udp(2, 1, 40)]);
        assert_eq!(c.frames(), [udp(2, 1, 40)], "mac 1 is at port 3");
        assert!(a.frames().is_empty());
    }
}

#[test]
fn networks_do_not_see_each_other() {
    let mut node = Node::with_networks(&[1, 2]);
    let [mut a, mut b, mut c] = three(&mut node);
    let other = Options {
        network: Some(2),
        ..Options::default()
    };
    let (mut x, mut y) = (node.guest(8, &other), node.guest(9, &other));
    // The same addresses on both networks.
    a.send(&[udp(1, 2, 1)]);
    x.send(&[udp(1, 2, 2)]);
    assert_eq!(b.frames(), [udp(1, 2, 1)]);
    assert_eq!(y.frames(), [udp(1, 2, 2)]);
    assert_eq!(c.frames(), [udp(1, 2, 1)]);
    y.send(&[udp(2, 1, 3), udp_to(mac(2), BROADCAST, 1, 1)]);
    assert_eq!(x.frames().len(), 2);
    for guest in [&mut a, &mut b, &mut c] {
        assert!(guest.frames().is_empty());
    }
    // A port that changes its network takes nothing learned along.
    node.switch
        .update_port(sumeru_switch::snapshot::PortView {
            index: 9,
            name: "p9".into(),
            network: Some(1),
            mtu: 1500,
            uplink: false,
            lldp: false,
            shield: None,
        })
        .unwrap();
    x.send(&[udp(1, 2, 4)]);
    assert!(y.frames().is_empty());
    assert_eq!(node.drops(Drop::NoDestination), 1, "alone on network 2 now");
    y.send(&[udp(2, 1, 5)]);
    assert_eq!(a.frames(), [udp(2, 1, 5)]);
}

#[test]
fn what_a_bridge_never_forwards_is_counted_by_reason() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    let lonely = Options {
        network: None,
        ..Options::default()
    };
    let mut d = node.guest(4, &lonely);
    d.send(&[udp(4, 1, 1)]);
    let mut link_local = udp(1, 2, 1);
    link_local[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    a.send(&[link_local]);
    a.send(&[udp_to([3, 0, 0, 0, 0, 1], mac(2), 1, 1)]);
    a.send(&[udp_to([0; 6], mac(2), 1, 1)]);
    a.send(&[udp(1, 7, 1)]);
    assert_eq!((b.frames().len(), c.frames().len()), (1, 1));
    a.send(&[udp(7, 1, 1)]);
    let mut truncated = udp(1, 2, 100);
    truncated.truncate(60);
    a.send(&[&truncated]);
    a.send(&[&truncated[..13]]);
    a.send_cut(NetHeader::default(), &[], &[6], false);
    a.send_with(
        NetHeader {
            gso_type: 3,
            gso_size: 8,
            flags: F_NEEDS_CSUM,
            ..NetHeader::default()
        },
        &udp(1, 2, 1),
    );
    assert_eq!((b.frames().len(), c.frames().len()), (0, 0));
    let expected = [
        (Drop::NoNetwork.into(), 1),
        (Drop::LinkLocal.into(), 1),
        (Drop::BadSource.into(), 2),
        (Drop::SamePort.into(), 1),
        (DropReason::Malformed(Malformed::Ipv4Length), 1),
        (Drop::TooShort.into(), 2),
        (Drop::BadOffload.into(), 1),
    ];
    for (reason, count) in expected {
        assert_eq!(node.switch.drops(reason), count, "{}", reason.as_str());
    }
    let dropped: u64 = node.all_drops().iter().map(|(_, count)| count).sum();
    assert_eq!(dropped, 9, "{:?}", node.all_drops());
    let counters = &node.switch.port_counters(1).unwrap()[0];
    assert_eq!(counters.rx_packets.get(), 9);
    assert_eq!((counters.rx_drops.get(), counters.rx_errors.get()), (8, 4));
}

#[test]
fn counters_of_every_stage_add_up() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    node.rule(
        0,
        "flow create 1 ingress pattern eth / ipv4 / udp src is 9 / end actions count / drop / end",
    )
    .unwrap();
    a.send(&[udp(1, 2, 10)]);
    b.send(&[udp(2, 1, 10)]);
    c.send(&[udp(3, 1, 10)]);
    let burst: Vec<_> = (0..200_u16)
        .map(|i| udp_to(mac(1), mac(2 + i as u8 % 2), 9 + i % 4, usize::from(i)))
        .collect();
    a.send(&burst[..100]);
    b.receive();
    c.receive();
    a.send(&burst[100..]);
    let received = node.stage(Stage::Receive);
    assert_eq!(received, 203);
    let known = node.stage(Stage::Known);
    assert_eq!(known + node.stage(Stage::Parse), received);
    let by_cache = known + node.stage(Stage::ExactHit) + node.stage(Stage::WildcardHit);
    assert_eq!(by_cache + node.stage(Stage::SlowPath), received);
    assert!(
        node.stage(Stage::SlowPath) < 40,
        "most are decided by the caches"
    );
    assert_eq!(node.drops(Drop::Rule), 50);
    let (packets, bytes) = node.switch.rule_counts(1, 0).unwrap();
    let dropped: usize = burst.iter().step_by(4).map(Vec::len).sum();
    assert_eq!((packets, bytes), (50, dropped as u64));
    // The flooded first one left twice.
    assert_eq!(node.stage(Stage::Transmit), received - 50 + 1);
    let ports = [1, 2, 3].map(|port| node.switch.port_counters(port).unwrap()[0].clone());
    let sum = |count: fn(&sumeru_switch::stats::PortCounters) -> u64| -> u64 {
        ports.iter().map(|port| count(port)).sum()
    };
    assert_eq!(sum(|p| p.rx_packets.get()), received);
    assert_eq!(sum(|p| p.tx_packets.get()), node.stage(Stage::Transmit));
    assert_eq!(sum(|p| p.rx_drops.get()), 50);
    assert_eq!(sum(|p| p.tx_drops.get() + p.rx_errors.get()), 0);
    let sent: usize = burst.iter().map(Vec::len).sum::<usize>() + udp(1, 2, 10).len();
    assert_eq!(ports[0].rx_bytes.get(), sent as u64);
    assert_eq!(node.all_drops(), [("rule-drop", 50)]);
}

#[test]
fn rules_steer_and_edit_with_right_checksums() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    node.rule(0, "flow create 1 ingress pattern eth / ipv4 / udp src is 10 / end actions represented_port ethdev_port_id 3 / end").unwrap();
    node.rule(
        1,
        "flow create 1 ingress pattern eth / ipv4 / udp src is 11 / end actions set_mac_src mac_addr 02:00:00:00:00:99 / \
         set_mac_dst mac_addr 02:00:00:00:00:77 / set_ipv4_src ipv4_addr 192.0.2.1 / set_ipv4_dst ipv4_addr 192.0.2.2 / \
         set_tp_src port 7 / set_tp_dst port 53 / dec_ttl / represented_port ethdev_port_id 2 / end",
    )
    .unwrap();
    node.rule(2, "flow create 1 ingress pattern eth / ipv6 / end actions set_ipv6_dst ipv6_addr 2001:db8::5 / set_ttl ttl_value 9 / represented_port ethdev_port_id 2 / end").unwrap();
    a.send(&[udp_to(mac(1), mac(2), 10, 33)]);
    assert_eq!(c.frames(), [udp_to(mac(1), mac(2), 10, 33)]);
    assert!(b.frames().is_empty());

    let frame = udp_to(mac(1), mac(2), 11, 333);
    a.send(&[&frame, &frame]);
    // With the checksum left to do, the rule must keep the sum of the pseudo-header right.
    let (header, left) = partial(&frame);
    a.send_with(header, &left);
    let wanted = build(|f| {
        let ip = sumeru_packet::view::Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: 0_u16.into(),
            id: 0_u16.into(),
            fragment: 0x4000_u16.into(),
            ttl: 63,
            proto: 0,
            checksum: 0_u16.into(),
            src: 0xc000_0201_u32.into(),
            dst: 0xc000_0202_u32.into(),
        };
        f.ethernet(mac(0x77), mac(0x99))
            .ipv4_header(ip)
            .udp(7, 53)
            .payload(&pattern(333))
    });
    assert_eq!(b.frames(), [wanted.clone(), wanted.clone(), wanted]);

    let frame = tcp(1, 2, true, 77);
    a.send(&[&frame]);
    let (header, left) = partial(&frame);
    a.send_with(header, &left);
    let got = b.frames();
    assert_eq!(got[0], got[1]);
    verify(&got[0]);
    assert_eq!(
        &got[0][38..54],
        "2001:db8::5"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
    );
    assert_eq!(got[0][21], 9, "hop limit");
    // An action that does not fit the frame: a later fragment has no ports.
    node.rule(3, "flow create 1 ingress pattern eth / ipv4 dst is 10.0.0.7 / udp / end actions set_tp_src port 5 / represented_port ethdev_port_id 2 / end").unwrap();
    let mut fragment = udp(1, 7, 64);
    fragment[20..22].copy_from_slice(&[0, 9]);
    a.send(&[fragment]);
    assert_eq!(node.drops(Drop::Action), 1);
    // Time to live that runs out.
    let mut old = udp_to(mac(1), mac(2), 11, 5);
    old[22] = 1;
    old[24..26].fill(0);
    let sum = sumeru_packet::checksum::checksum(&old[14..34]);
    old[24..26].copy_from_slice(&sum.to_be_bytes());
    a.send(&[old]);
    assert_eq!(node.drops(Drop::TtlExpired), 1);
    assert!(b.frames().is_empty());
}

#[test]
fn tags_are_pushed_and_popped() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, _c] = three(&mut node);
    node.rule(0, "flow create 1 ingress pattern eth / ipv4 / end actions of_push_vlan ethertype 0x8100 / of_set_vlan_vid vlan_vid 42 / of_set_vlan_pcp vlan_pcp 5 / represented_port ethdev_port_id 2 / end").unwrap();
    node.rule(0, "flow create 2 ingress pattern eth / vlan vid is 42 / end actions of_pop_vlan / represented_port ethdev_port_id 1 / end").unwrap();
    let plain = udp(1, 2, 400);
    let tagged = [&plain[..12], &[0x81, 0, 0xa0, 42], &plain[12..]].concat();
    a.send(&[&plain]);
    let (header, left) = partial(&plain);
    a.send_with(header, &left);
    assert_eq!(b.frames(), [tagged.clone(), tagged.clone()]);
    b.send(&[&tagged]);
    let (header, left) = partial(&tagged);
    b.send_with(header, &left);
    assert_eq!(a.frames(), [plain.clone(), plain]);
    // The longest frame still fits with its tag.
    let full = udp(1, 2, 1472);
    a.send(&[&full]);
    assert_eq!(b.frames()[0].len(), full.len() + 4);
}

#[test]
fn groups_priorities_and_marks() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    let rules = [
        "flow create 1 priority 5 ingress pattern eth / ipv4 / end actions mark id 7 / jump group 3 / end",
        "flow create 1 priority 1 ingress pattern eth / ipv4 / udp src is 5 / end actions count / drop / end",
        "flow create 1 group 3 ingress pattern mark id is 7 / eth / ipv4 / udp src is 6 / end actions count / represented_port ethdev_port_id 3 / end",
        "flow create 1 group 3 priority 9 ingress pattern eth / ipv4 / udp src is 8 / end actions jump group 4 / end",
        "flow create 1 group 4 ingress pattern eth / end actions jump group 3 / end",
    ];
    for (id, text) in rules.into_iter().enumerate() {
        node.rule(id as u32, text).unwrap();
    }
    let with = |port| udp_to(mac(1), mac(2), port, 9);
    a.send(&[with(5), with(6), with(7), with(8)]);
    assert_eq!(node.drops(Drop::Rule), 1);
    assert_eq!(node.drops(Drop::Action), 1, "a loop of jumps ends");
    // Group 3 has nothing for port 7, so the bridge decides: it floods.
    assert_eq!(c.frames(), [with(6), with(7)]);
    assert_eq!(b.frames(), [with(7)]);
    assert_eq!(node.switch.rule_counts(1, 2).unwrap().0, 1);
    // Without the first rule nothing leads to group 3.
    node.switch.remove_rule(1, 0).unwrap();
    a.send(&[with(6), with(8), with(5)]);
    assert_eq!(b.frames(), [with(6), with(8)]);
    assert_eq!(node.switch.rule_counts(1, 1).unwrap().0, 2);
}

#[test]
fn what_an_action_drops_teaches_the_bridge_nothing() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, mut c] = three(&mut node);
    node.rule(
        0,
        "flow create 1 ingress pattern eth / ipv4 / end actions dec_ttl / jump group 1 / end",
    )
    .unwrap();
    let mut old = udp(1, 2, 10);
    old[22] = 1;
    a.send(&[&old]);
    assert_eq!(node.drops(Drop::TtlExpired), 1);
    b.send(&[udp(2, 1, 1)]);
    assert_eq!((a.frames().len(), c.frames().len()), (1, 1), "flooded");
    a.send(&[udp(1, 2, 11)]);
    b.send(&[udp(2, 1, 2)]);
    assert_eq!((a.frames().len(), c.frames().len()), (1, 0), "learned");
}

#[test]
fn flooding_is_limited_per_second() {
    let mut node = Node::new();
    node.network(1, &[], 5);
    let [mut a, mut b, mut c] = three(&mut node);
    let frame = udp_to(mac(1), BROADCAST, 1, 1);
    a.send(&vec![&frame; 50]);
    let first = node.drops(Drop::FloodLimit);
    // A second may turn in between.
    assert!(
        (40..=45).contains(&first),
        "{first} of 50 were over the limit of 5"
    );
    assert_eq!(b.frames().len() as u64, 50 - first);
    assert_eq!(c.frames().len() as u64, 50 - first);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    a.send(&[&frame]);
    assert_eq!(b.frames().len(), 1, "a new second, a new allowance");
    assert_eq!(node.stage(Stage::Flood), 51);
}

#[test]
fn longer_than_the_mtu_is_dropped() {
    let mut node = Node::with_networks(&[1]);
    let mut a = node.guest(
        1,
        &Options {
            mtu: 9000,
            ..Options::default()
        },
    );
    let mut b = node.guest(
        2,
        &Options {
            mtu: 1500,
            ..Options::default()
        },
    );
    b.send(&[udp(2, 1, 1)]);
    a.send(&[
        udp(1, 2, 1472),
        udp(1, 2, 1476),
        udp(1, 2, 1477),
        udp(1, 2, 8000),
    ]);
    assert_eq!(b.frames().len(), 2, "there is room for a tag");
    assert_eq!(node.drops(Drop::ExceedsMtu), 2);
    assert_eq!(node.switch.port_counters(2).unwrap()[0].tx_drops.get(), 2);
}

#[test]
fn a_receiver_without_buffers_loses_frames_and_nobody_waits() {
    let mut node = Node::with_networks(&[1]);
    let mut a = node.guest(1, &Options::default());
    let mut b = node.guest(
        2,
        &Options {
            buffers: (10, vec![2048]),
            ..Options::default()
        },
    );
    b.send(&[udp(2, 1, 1)]);
    let frames: Vec<_> = (0..64).map(|i| udp(1, 2, i)).collect();
    a.send(&frames);
    assert_eq!(b.frames(), frames[..10]);
    assert_eq!(node.drops(Drop::NoBuffers), 54);
    a.send(&frames);
    assert_eq!(b.frames(), frames[..10], "posted again, filled again");
    b.device.set_queue_enabled(0, false).unwrap();
    a.send(&frames);
    assert!(b.frames().is_empty());
    assert_eq!(node.drops(Drop::PortDown), 64);
    b.device.set_queue_enabled(1, false).unwrap();
    a.receive();
    b.send(&[udp(2, 1, 1)]);
    assert!(
        a.frames().is_empty(),
        "a disabled queue's frames are discarded"
    );
    b.device.set_queue_enabled(0, true).unwrap();
    b.device.set_queue_enabled(1, true).unwrap();
    a.send(&frames[..3]);
    assert_eq!(b.frames(), frames[..3]);
    node.switch.remove_port(2).unwrap();
    a.send(&frames[..3]);
    assert_eq!(node.drops(Drop::NoDestination), 3);
}

#[test]
fn rules_on_extracted_bytes_hold_from_their_version_on() {
    let mut node = Node::with_networks(&[1]);
    let [mut a, mut b, _c] = three(&mut node);
    let frame = udp(1, 2, 40);
    let mut passes = |node: &mut Node, rule: Option<(u32, usize, [u8; 2])>| {
        if let Some((id, offset, [high, low])) = rule {
            let text = format!(
                "flow create 1 ingress pattern raw relative is 0 offset is {offset} pattern_hex is {high:02x}{low:02x} / end actions drop / end"
            );
            node.rule(id, &text).unwrap();
        }
        a.send(std::slice::from_ref(&frame));
        b.frames().len() == 1
    };
    let at = |offset: usize| [frame[offset], frame[offset + 1]];
    let not_at = |offset: usize| [frame[offset] ^ 1, frame[offset + 1]];
    assert!(passes(&mut node, None));
    assert!(passes(&mut node, Some((1, 36, not_at(36)))));
    assert!(!passes(&mut node, Some((2, 36, at(36)))));
    // The same bits of the key hold other bytes from now on.
    for id in [1, 2] {
        node.switch.remove_rule(1, id).unwrap();
    }
    assert!(passes(&mut node, None));
    assert!(!passes(&mut node, Some((3, 18, at(18)))));
    node.switch.remove_rule(1, 3).unwrap();
    assert!(passes(&mut node, None));
}

//! VXLAN (RFC 7348) through an uplink whose wire the test plays: encapsulation byte by byte, neighbour resolution, isolation of
//! tenants, the node's own answers on the underlay.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use driver::*;
use sumeru_packet::build::{self, NeighbourFlags};
use sumeru_packet::checksum::checksum;
use sumeru_switch::fdb::Target;
use sumeru_switch::stats::{Drop, Stage};

/// The node's link-layer address on the uplink.
const OWN: Mac = [2, 0, 0, 0, 0, 0xee];
/// The far node's.
const FAR: Mac = [2, 0, 0, 0, 0, 0xfa];
const OWN4: [u8; 4] = [192, 0, 2, 1];
const FAR4: [u8; 4] = [192, 0, 2, 2];
const THIRD4: [u8; 4] = [192, 0, 2, 3];

fn v4(address: [u8; 4]) -> u32 {
    u32::from_be_bytes(address)
}

/// A frame from a node at `src` for this one, in VXLAN.
fn tunnelled(src: [u8; 4], vni: u32, inner: &[u8]) -> Vec<u8> {
    build(|f| {
        f.ethernet(OWN, FAR)
            .ipv4(v4(src), v4(OWN4))
            .udp(50_000, 4789)
            .vxlan(vni)
            .payload(inner)
    })
}

fn arp_answer(ip: [u8; 4], mac: Mac) -> Vec<u8> {
    let mut frame = [0; 64];
    let len = build::arp_reply(
        &mut frame,
        mac,
        Ipv4Addr::from(ip),
        OWN,
        Ipv4Addr::from(OWN4),
    )
    .unwrap();
    frame[..len].to_vec()
}

/// Waits for a question for `target` on the wire and answers what else came meanwhile.
fn asked_for(wire: &mut Guest, target: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let questions = wire.frames();
        if questions
            .iter()
            .any(|q| q.windows(target.len()).any(|w| w == target))
        {
            return;
        }
        std::thread::yield_now();
    }
    panic!("nobody asked for {target:?}");
}

/// Two tenants, two remotes for the first, an uplink over IPv4; neighbours known.
fn two_nodes() -> (Node, Guest) {
    let mut node = Node::new();
    node.network(7, &["192.0.2.2", "192.0.2.3"], 0);
    node.network(8, &["192.0.2.3"], 0);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    asked_for(&mut wire, &FAR4);
    wire.send(&[arp_answer(FAR4, FAR), arp_answer(THIRD4, mac(0xf3))]);
    wire.receive();
    (node, wire)
}

fn tenant(network: u32) -> Options {
    Options {
        network: Some(network),
        ..Options::default()
    }
}

#[test]
fn a_frame_goes_into_the_tunnel_byte_by_byte() {
    let (mut node, mut wire) = two_nodes();
    let mut a = node.guest(1, &tenant(7));
    wire.send(&[tunnelled(FAR4, 7, &udp(9, 1, 50))]);
    assert_eq!(a.frames(), [udp(9, 1, 50)]);
    let inner = udp(1, 9, 100);
    a.send(&[&inner]);
    let out = wire.frames();
    assert_eq!(
        out.len(),
        1,
        "station 9 was learned behind the first remote"
    );
    let out = &out[0];
    verify(out);
    assert_eq!(out[..6], FAR);
    assert_eq!(out[6..14], [2, 0, 0, 0, 0, 0xee, 8, 0]);
    let total = (inner.len() + 36 + 14 - 14) as u16;
    assert_eq!(out[14..16], [0x45, 0]);
    assert_eq!(out[16..18], total.to_be_bytes());
    assert_eq!(out[20..24], [0x40, 0, 64, 17], "DF, TTL 64, UDP");
    assert_eq!(out[26..30], OWN4);
    assert_eq!(out[30..34], FAR4);
    let source = u16::from_be_bytes([out[34], out[35]]);
    assert!(source >= 0xc000, "RFC 7348 recommends the dynamic range");
    assert_eq!(out[36..38], 4789_u16.to_be_bytes());
    assert_eq!(out[38..40], (total - 20).to_be_bytes());
    assert_eq!(out[40..42], [0, 0]);
    assert_eq!(out[42..50], [8, 0, 0, 0, 0, 0, 7, 0]);
    assert_eq!(out[50..], inner);
    assert_eq!(out.len(), inner.len() + 50);
    // Frames of one flow keep to one source port, those of others spread.
    let flows: Vec<_> = (0..40_u16)
        .map(|i| udp_to(mac(1), mac(9), i / 2, 5))
        .collect();
    a.send(&flows);
    let ports: Vec<_> = wire
        .frames()
        .iter()
        .map(|f| u16::from_be_bytes([f[34], f[35]]))
        .collect();
    assert!(ports.chunks(2).all(|pair| pair[0] == pair[1]));
    let mut distinct = ports;
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 15, "{distinct:?}");
    assert_eq!(node.stage(Stage::Encapsulate), 41);
    assert_eq!(node.stage(Stage::Decapsulate), 1);
}

#[test]
fn a_remote_is_asked_for_before_anything_is_sent_to_it() {
    let mut node = Node::new();
    node.network(7, &["192.0.2.2"], 0);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    let mut a = node.guest(1, &tenant(7));
    asked_for(&mut wire, &FAR4);
    a.send(&[udp(1, 9, 1)]);
    assert_eq!(node.drops(Drop::NeighbourUnresolved), 1);
    // An answer for somebody nobody asked for, one from a group address, one that claims our own address.
    wire.send(&[
        arp_answer(THIRD4, FAR),
        arp_answer(FAR4, BROADCAST),
        arp_answer(OWN4, FAR),
    ]);
    a.send(&[udp(1, 9, 1)]);
    assert_eq!(node.drops(Drop::NeighbourUnresolved), 2);
    wire.receive();
    wire.send(&[arp_answer(FAR4, FAR)]);
    a.send(&[udp(1, 9, 1)]);
    let out = wire.frames();
    assert_eq!((out.len(), &out[0][..6]), (1, &FAR[..]));
    // The remote's address changes.
    wire.send(&[arp_answer(FAR4, mac(0xfb))]);
    a.send(&[udp(1, 9, 1)]);
    assert_eq!(wire.frames()[0][..6], mac(0xfb));
    let neighbours = node.switch.neighbours().unwrap();
    assert_eq!(neighbours.len(), 1);
    assert_eq!(neighbours[0].1.mac, Some(mac(0xfb)));
}

/// Configuration that changes often must not use up the questions: they are counted by the second.
#[test]
fn a_neighbour_is_not_given_up_by_changes_of_configuration() {
    let mut node = Node::new();
    node.network(7, &["192.0.2.2"], 0);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    let start = Instant::now();
    for round in 0..40 {
        node.network(100 + round, &[], 0);
    }
    let asked = wire.frames().len() as u64;
    let most = start.elapsed().as_secs() + 3;
    assert!(
        (1..=most).contains(&asked),
        "{asked} questions, at most {most} expected"
    );
}

#[test]
fn flooding_reaches_ports_and_remotes_and_never_comes_back() {
    let (mut node, mut wire) = two_nodes();
    let (mut a, mut b, mut other) = (
        node.guest(1, &tenant(7)),
        node.guest(2, &tenant(7)),
        node.guest(3, &tenant(8)),
    );
    let all = udp_to(mac(1), BROADCAST, 1, 60);
    a.send(&[&all]);
    assert_eq!(b.frames(), std::slice::from_ref(&all));
    let copies = wire.frames();
    let mut to: Vec<_> = copies.iter().map(|f| f[30..34].to_vec()).collect();
    to.sort();
    assert_eq!(to, [FAR4, THIRD4]);
    for copy in &copies {
        verify(copy);
        assert_eq!(copy[50..], all);
    }
    assert!(other.frames().is_empty());
    // From a tunnel it goes to ports only: remotes are a full mesh.
    let broadcast = udp_to(mac(9), BROADCAST, 1, 60);
    wire.send(&[tunnelled(FAR4, 7, &broadcast)]);
    assert_eq!(a.frames(), std::slice::from_ref(&broadcast));
    assert_eq!(b.frames(), [broadcast]);
    assert!(wire.frames().is_empty() && other.frames().is_empty());
    // Known behind the other remote: not sent on.
    wire.send(&[tunnelled(THIRD4, 7, &udp(5, 1, 1))]);
    a.receive();
    wire.send(&[tunnelled(FAR4, 7, &udp(9, 5, 1))]);
    assert_eq!(node.drops(Drop::SplitHorizon), 1);
    assert!(wire.frames().is_empty());
}

#[test]
fn a_narrow_path_to_one_remote_keeps_nothing_from_the_others() {
    let (mut node, mut wire) = two_nodes();
    let mut a = node.guest(1, &tenant(7));
    let all = udp_to(mac(1), BROADCAST, 1, 1400);
    a.send(&[&all]);
    let copies = wire.frames();
    let to = |remote| copies.iter().find(|copy| copy[30..34] == remote).unwrap();
    for (narrow, wide) in [(FAR4, THIRD4), (THIRD4, FAR4)] {
        let (mut node, mut wire) = two_nodes();
        let mut a = node.guest(1, &tenant(7));
        let report = build(|f| {
            f.ethernet(OWN, FAR)
                .ipv4(v4(FAR4), v4(OWN4))
                .icmp(3, 4, 1400)
                .payload(&to(narrow)[14..14 + 56])
        });
        wire.send(&[report]);
        // Twice, so that the second is decided from the cache.
        for drops in 1..=2 {
            a.send(&[&all]);
            let copies = wire.frames();
            assert_eq!(copies.len(), 1, "not to {narrow:?}");
            verify(&copies[0]);
            assert_eq!(copies[0][30..34], wide);
            assert_eq!(copies[0][50..], all);
            assert_eq!(node.drops(Drop::ExceedsMtu), drops);
        }
        let traced = node.switch.trace(1, all.clone()).unwrap();
        assert_eq!(traced.outputs.len(), 1);
    }
}

#[test]
fn only_the_right_network_and_remote_come_in() {
    let (mut node, mut wire) = two_nodes();
    let (mut a, mut x) = (node.guest(1, &tenant(7)), node.guest(2, &tenant(8)));
    // Both tenants use the same addresses.
    a.send(&[udp(1, 9, 1)]);
    x.send(&[udp(1, 9, 1)]);
    wire.receive();
    wire.send(&[tunnelled(FAR4, 9, &udp(9, 1, 1))]);
    assert_eq!(node.drops(Drop::UnknownVni), 1);
    wire.send(&[
        tunnelled([203, 0, 113, 5], 7, &udp(9, 1, 2)),
        tunnelled(FAR4, 8, &udp(9, 1, 2)),
    ]);
    assert_eq!(node.drops(Drop::UnknownRemote), 2);
    assert!(a.frames().is_empty() && x.frames().is_empty());
    wire.send(&[tunnelled(THIRD4, 8, &udp(9, 1, 3))]);
    assert_eq!(x.frames(), [udp(9, 1, 3)]);
    assert!(a.frames().is_empty());
    wire.send(&[tunnelled(THIRD4, 7, &udp(9, 1, 4))]);
    assert_eq!(a.frames(), [udp(9, 1, 4)]);
    assert!(x.frames().is_empty());
    // What is not for this node, or no tunnel.
    let mut elsewhere = tunnelled(FAR4, 7, &udp(9, 1, 4));
    elsewhere[33] = 77;
    wire.send(&[elsewhere, udp(9, 1, 5)]);
    wire.send(&[build(|f| f.ethernet(OWN, FAR).ethertype(0x88b5, &[0; 50]))]);
    assert_eq!(node.drops(Drop::NotForUs), 3);
    // A guest cannot speak VXLAN to the node's own end point: it is on its network, whatever it sends.
    a.send(&[tunnelled(THIRD4, 8, &udp(9, 1, 6))]);
    assert!(x.frames().is_empty());
    let targets: Vec<_> = node
        .switch
        .fdb()
        .unwrap()
        .into_iter()
        .filter(|(_, address, ..)| *address == mac(9))
        .map(|(network, _, entry, _)| (network, entry.target))
        .collect();
    let third = Target::Remote("192.0.2.3".parse().unwrap());
    assert_eq!(targets.len(), 2);
    assert!(targets.contains(&(7, third)) && targets.contains(&(8, third)));
    // A remote that is taken off the network is not listened to any more.
    node.network(8, &[], 0);
    wire.send(&[tunnelled(THIRD4, 8, &udp(9, 1, 3))]);
    assert!(x.frames().is_empty());
    assert_eq!(node.drops(Drop::UnknownRemote), 3);
}

#[test]
fn tunnels_over_ipv6() {
    let (own6, far6): (std::net::Ipv6Addr, std::net::Ipv6Addr) = (
        "2001:db8::1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
    );
    let mut node = Node::new();
    node.network(7, &["2001:db8::2"], 0);
    let mut wire = node.uplink(0, &[("2001:db8::1", 64)], SENDS);
    let mut a = node.guest(1, &tenant(7));
    asked_for(&mut wire, &far6.octets());
    let mut answer = [0; 128];
    let flags = NeighbourFlags {
        router: false,
        solicited: true,
        override_known: true,
    };
    let len = build::neighbour_advertisement(&mut answer, FAR, far6, OWN, own6, flags).unwrap();
    let mut wrong = answer[..len].to_vec();
    wrong[60] ^= 1;
    wire.send(&[wrong]);
    a.send(&[udp(1, 9, 1)]);
    assert_eq!(
        node.drops(Drop::NeighbourUnresolved),
        1,
        "its checksum was wrong"
    );
    wire.send(&[&answer[..len]]);
    let inner = udp(1, 9, 321);
    a.send(&[&inner]);
    let out = wire.frames().pop().unwrap();
    verify(&out);
    assert_eq!(out[..14], [&FAR[..], &OWN, &[0x86, 0xdd]].concat());
    assert_eq!(out[14..16], [0x60, 0]);
    assert_eq!(
        out[18..22],
        [&((inner.len() + 16) as u16).to_be_bytes()[..], &[17, 64]].concat()
    );
    assert_eq!(out[22..38], own6.octets());
    assert_eq!(out[38..54], far6.octets());
    assert_eq!(out[62..70], [8, 0, 0, 0, 0, 0, 7, 0]);
    assert_eq!(out[70..], inner);
    // And in again, with and without an outer checksum.
    let back = build(|f| {
        f.ethernet(OWN, FAR)
            .ipv6(far6.to_bits(), own6.to_bits())
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&udp(9, 1, 99))
    });
    let mut without = back.clone();
    without[60..62].fill(0);
    wire.send(&[back, without]);
    assert_eq!(a.frames(), [udp(9, 1, 99), udp(9, 1, 99)]);
    assert_eq!(node.stage(Stage::Decapsulate), 2);
}

#[test]
fn the_underlay_is_answered() {
    let mut node = Node::new();
    let mut wire = node.uplink(0, &[("192.0.2.1", 24), ("2001:db8::1", 64)], SENDS);
    let mut frame = [0; 128];
    let (own, far) = (Ipv4Addr::from(OWN4), Ipv4Addr::from(FAR4));
    let len = build::arp_request(&mut frame, FAR, far, own).unwrap();
    wire.send(&[&frame[..len]]);
    let mut expected = [0; 64];
    let len = build::arp_reply(&mut expected, OWN, own, FAR, far).unwrap();
    assert_eq!(wire.frames(), [&expected[..len]]);
    let (own6, far6) = (
        "2001:db8::1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
    );
    let len = build::neighbour_solicitation(&mut frame, FAR, far6, own6).unwrap();
    wire.send(&[&frame[..len]]);
    let answer = wire.frames().pop().unwrap();
    verify(&answer);
    assert_eq!((answer[54], &answer[80..86]), (136, &OWN[..]));
    for ping in [
        build(|f| {
            f.ethernet(OWN, FAR)
                .ipv4(v4(FAR4), v4(OWN4))
                .echo_request(5, 6)
                .payload(&pattern(1000))
        }),
        build(|f| {
            f.ethernet(OWN, FAR)
                .ipv6(far6.to_bits(), own6.to_bits())
                .echo_request(5, 6)
                .payload(&pattern(1000))
        }),
    ] {
        wire.send(&[&ping]);
        let pong = wire.frames().pop().unwrap();
        verify(&pong);
        assert_eq!(pong[..12], [FAR, OWN].concat());
        assert_eq!(pong.len(), ping.len());
        assert_eq!(pong[pong.len() - 1000..], pattern(1000));
        // A checksum that is wrong, or an address of somebody else, is not answered.
        let mut wrong = ping.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 0xff;
        wire.send(&[wrong]);
        assert!(wire.frames().is_empty());
    }
    assert_eq!(node.drops(Drop::Consumed), 6);
    let received = node.stage(Stage::Receive);
    assert_eq!(received, 6);
}

#[test]
fn rules_take_frames_out_of_tunnels_and_put_them_in() {
    let (mut node, mut wire) = two_nodes();
    let mut a = node.guest(
        1,
        &Options {
            network: None,
            ..Options::default()
        },
    );
    node.rule(0, "flow create 1 ingress pattern eth / end actions vxlan_encap vni 99 ip_src 192.0.2.1 ip_dst 198.51.100.9 udp_dst 4790 eth_src 02:00:00:00:00:0a eth_dst 02:00:00:00:00:0b / represented_port ethdev_port_id 0 / end").unwrap();
    node.rule(0, "flow create 0 ingress pattern eth / ipv4 / udp / vxlan vni is 98 / eth dst is 02:00:00:00:00:01 / end actions vxlan_decap / count / represented_port ethdev_port_id 1 / end").unwrap();
    let inner = udp(1, 9, 10);
    a.send(&[&inner]);
    let out = wire.frames().pop().unwrap();
    assert_eq!(out[..12], [mac(0x0b), mac(0x0a)].concat());
    assert_eq!(out[30..34], [198, 51, 100, 9]);
    assert_eq!(out[36..38], 4790_u16.to_be_bytes());
    assert_eq!(out[46..50], [0, 0, 99, 0]);
    assert_eq!(out[50..], inner);
    wire.send(&[
        tunnelled(FAR4, 98, &udp(9, 1, 77)),
        tunnelled(FAR4, 98, &udp(9, 2, 77)),
    ]);
    assert_eq!(a.frames(), [udp(9, 1, 77)]);
    assert_eq!(node.drops(Drop::UnknownVni), 1);
    assert_eq!(
        node.switch.rule_counts(0, 0).unwrap(),
        (1, udp(9, 1, 77).len() as u64)
    );
}

/// Sets a byte of the IPv4 header at `l3`, and its checksum.
fn set_ip(frame: &mut [u8], l3: usize, at: usize, value: u8) {
    frame[l3 + at] = value;
    frame[l3 + 10..l3 + 12].fill(0);
    let sum = checksum(&frame[l3..l3 + 20]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn frames_out_of_tunnels_are_known_by_their_bytes_and_others_are_not_taken_for_them() {
    let (mut node, mut wire) = two_nodes();
    let (mut a, mut b) = (node.guest(1, &tenant(7)), node.guest(2, &tenant(8)));
    a.send(&[udp(1, 9, 10)]);
    b.send(&[udp(2, 9, 10)]);
    let unsummed = |src, vni, inner: Vec<u8>| {
        let mut frame = tunnelled(src, vni, &inner);
        frame[40..42].fill(0);
        frame
    };
    let plain = unsummed(FAR4, 7, udp(9, 1, 77));
    let other = unsummed(THIRD4, 8, udp(9, 2, 77));
    for _ in 0..6 {
        wire.send(&[&plain, &other, &plain]);
    }
    assert_eq!(a.frames(), vec![udp(9, 1, 77); 12]);
    assert_eq!(b.frames(), vec![udp(9, 2, 77); 6]);
    let known = node.stage(Stage::Known);
    assert!(known >= 3, "{known}");
    assert_eq!(node.stage(Stage::Decapsulate), 18);

    // The outer source port and what is no header say nothing.
    let mut alike = plain.clone();
    alike[34..36].copy_from_slice(&77_u16.to_be_bytes());
    *alike.last_mut().unwrap() ^= 0xff;
    wire.send(&[&alike]);
    assert_eq!(a.frames(), [&alike[50..]]);
    assert_eq!(node.stage(Stage::Known), known + 1);

    // Each differs in one thing from those that are known.
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = plain.clone();
        change(&mut frame);
        frame
    };
    let (ce, ect) = (3, 2);
    let dropped = [
        (Drop::UnknownVni, changed(&|f| f[48] = 77)),
        (Drop::Congestion, changed(&|f| set_ip(f, 14, 1, ce))),
        (
            Drop::TunnelChecksum,
            changed(&|f| f[40..42].copy_from_slice(&[0x12, 0x34])),
        ),
    ];
    for (reason, frame) in &dropped {
        wire.send(&[&plain, frame, &plain]);
        assert_eq!(a.frames(), vec![plain[50..].to_vec(); 2], "{reason:?}");
        assert_eq!(node.drops(*reason), 1, "{reason:?}");
    }
    // Of another tenant: neither sees it where the other's station is.
    let foreign = changed(&|f| f[48] = 8);
    wire.send(&[&plain, &foreign, &plain]);
    assert_eq!(a.frames(), vec![plain[50..].to_vec(); 2]);
    // Marks are carried in, as often as it comes.
    let mut marked = changed(&|f| set_ip(f, 14, 1, ce));
    set_ip(&mut marked, 64, 1, ect);
    let mut carried = marked[50..].to_vec();
    set_ip(&mut carried, 14, 1, ce);
    for _ in 0..3 {
        wire.send(&[&marked]);
        assert_eq!(a.frames(), [&carried[..]]);
    }
    let mut same = changed(&|f| set_ip(f, 14, 1, ect));
    set_ip(&mut same, 64, 1, ect);
    for _ in 0..3 {
        wire.send(&[&same]);
        assert_eq!(a.frames(), [&same[50..]]);
    }
    // An inner packet that reaches past the datagram is malformed.
    let before = node.stage(Stage::Known);
    wire.send(&[changed(&|f| {
        f[38..40].copy_from_slice(&60_u16.to_be_bytes())
    })]);
    assert!(a.frames().iter().all(|frame| *frame != plain[50..]));
    assert_eq!(node.stage(Stage::Known), before);

    // What is known is forgotten when it is no longer right.
    node.rule(0, "flow create 0 priority 1 ingress pattern eth / ipv4 / udp / vxlan vni is 7 / end actions drop / end").unwrap();
    wire.send(&[&plain, &other]);
    assert!(a.frames().is_empty());
    assert_eq!(b.frames(), [udp(9, 2, 77)]);
    assert_eq!(node.drops(Drop::Rule), 1);
}

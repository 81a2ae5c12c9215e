//! What networks say of their tunnels' headers, and what the wire says of them: outer checksums, Geneve options, time to live and DSCP,
//! path MTUs. The test plays the wire; the kernel's own devices are met in `e2e/tests/path_mtu.rs` and `e2e/tests/underlay.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use driver::*;
use sumeru_packet::build::{self, FrameBuilder, NeighbourFlags};
use sumeru_packet::checksum::{checksum, pseudo_ipv4, pseudo_ipv6};
use sumeru_switch::snapshot::{NetworkView, OuterHeaders, Overlay, Policy};
use sumeru_switch::stats::{Drop, Stage};

const OWN: Mac = [2, 0, 0, 0, 0, 0xee];
const FAR: Mac = [2, 0, 0, 0, 0, 0xfa];
const OWN4: u32 = 0xc000_0201;
const FAR4: u32 = 0xc000_0202;
const OWN6: &str = "2001:db8::1";
const FAR6: &str = "2001:db8::2";

fn far6() -> u128 {
    FAR6.parse::<Ipv6Addr>().unwrap().to_bits()
}

fn own6() -> u128 {
    OWN6.parse::<Ipv6Addr>().unwrap().to_bits()
}

/// A node with network 7 to one remote of a family, whose neighbour is known, and a guest.
fn site(overlay: Overlay, v6: bool, outer: OuterHeaders) -> (Node, Guest, Guest) {
    let mut node = Node::new();
    let remote: IpAddr = if v6 { FAR6 } else { "192.0.2.2" }.parse().unwrap();
    let network = NetworkView {
        id: 7,
        name: "net7".into(),
        overlay,
        remotes: vec![remote],
        ports: Vec::new(),
        flood_limit: 0,
        ageing_s: 0,
        static_macs: vec![(mac(9), remote)],
        outer,
    };
    node.switch.set_network(network).unwrap();
    let own = [("192.0.2.1", 24), (OWN6, 64)];
    let mut wire = node.uplink(0, &own, SENDS);
    let mut answer = [0; 128];
    let len = if v6 {
        let flags = NeighbourFlags {
            router: false,
            solicited: true,
            override_known: true,
        };
        let [far, own] = [FAR6, OWN6].map(|text| text.parse().unwrap());
        build::neighbour_advertisement(&mut answer, FAR, far, OWN, own, flags)
    } else {
        build::arp_reply(&mut answer, FAR, FAR4.into(), OWN, OWN4.into())
    };
    // It is asked for before it answers.
    let deadline = Instant::now() + Duration::from_secs(10);
    while wire.frames().is_empty() {
        assert!(Instant::now() < deadline, "nobody asked for {remote}");
    }
    wire.send(&[&answer[..len.unwrap()]]);
    wire.receive();
    let options = Options {
        network: Some(7),
        ..Options::default()
    };
    let guest = node.guest(1, &options);
    (node, wire, guest)
}

fn from_far<'a>(f: FrameBuilder<'a>, v6: bool) -> FrameBuilder<'a> {
    let f = f.ethernet(OWN, FAR);
    if v6 {
        f.ipv6(far6(), own6())
    } else {
        f.ipv4(FAR4, OWN4)
    }
}

/// The outer UDP checksum of a frame without tags, summed the slow way: zero when it is right.
fn outer_sum(frame: &[u8], v6: bool) -> u16 {
    let wide = |at: usize| u128::from_be_bytes(frame[at..at + 16].try_into().unwrap());
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let udp = if v6 { 54 } else { 34 };
    let len = (frame.len() - udp) as u32;
    let mut sum = if v6 {
        pseudo_ipv6(wide(22), wide(38), 17, len)
    } else {
        pseudo_ipv4(word(26), word(30), 17, len)
    };
    sum.add(&frame[udp..]);
    sum.value()
}

#[test]
fn the_outer_checksum_is_right_for_every_kind_of_frame() {
    let on = OuterHeaders {
        udp_checksum: Some(true),
        ..OuterHeaders::default()
    };
    for (v6, outer, expected) in [
        (false, OuterHeaders::default(), false),
        (false, on.clone(), true),
        (true, OuterHeaders::default(), true),
        (
            true,
            OuterHeaders {
                udp_checksum: Some(false),
                ..OuterHeaders::default()
            },
            false,
        ),
    ] {
        for overlay in [Overlay::Vxlan, Overlay::Geneve] {
            let (_node, mut wire, mut guest) = site(overlay, v6, outer.clone());
            let fragment = {
                let mut frame = udp(1, 9, 301);
                // More fragments follow: nothing tells the sum of what is inside.
                frame[20] = 0x20;
                frame[24..26].fill(0);
                let sum = checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                frame
            };
            let mut odd = udp(1, 9, 77);
            odd.push(0xaa);
            let silent = {
                let mut frame = udp(1, 9, 500);
                frame[40..42].fill(0);
                frame
            };
            let mut arp = vec![0; 60];
            build::arp_request(&mut arp, mac(1), 1.into(), 2.into()).unwrap();
            arp[..6].copy_from_slice(&mac(9));
            guest.send(&[udp(1, 9, 0), udp(1, 9, 1001), fragment, odd, silent, arp]);
            let (header, half) = partial(&tcp(1, 9, false, 333));
            guest.send_with(header, &half);
            let (header, large) = large(&tcp(1, 9, true, 4000), 1000);
            guest.send_with(header, &large);
            let frames = wire.frames();
            assert_eq!(frames.len(), 11, "seven, and four segments");
            let udp = if v6 { 54 } else { 34 };
            for frame in frames {
                let field = &frame[udp + 6..udp + 8];
                assert_eq!(field != [0, 0], expected, "{overlay:?} {v6}");
                if expected {
                    assert_eq!(outer_sum(&frame, v6), 0, "{overlay:?} {v6} {}", frame.len());
                }
            }
        }
    }
}

#[test]
fn a_wrong_outer_checksum_is_a_counted_drop() {
    for v6 in [false, true] {
        let (node, mut wire, mut guest) = site(Overlay::Vxlan, v6, OuterHeaders::default());
        let inner = udp(9, 1, 1200);
        let good = build(|f| from_far(f, v6).udp(50_000, 4789).vxlan(7).payload(&inner));
        assert_eq!(outer_sum(&good, v6), 0);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        let udp = if v6 { 54 } else { 34 };
        let mut none = bad.clone();
        none[udp + 6..udp + 8].fill(0);
        wire.send(&[&good, &bad]);
        assert_eq!(guest.frames(), std::slice::from_ref(&inner));
        assert_eq!(node.drops(Drop::TunnelChecksum), 1);
        let reason = |frame: &Vec<u8>| node.switch.trace(0, frame.clone()).unwrap().dropped;
        assert_eq!(reason(&bad), Some(Drop::TunnelChecksum.into()));
        assert_eq!(reason(&good), None);
        // Without one there is nothing to be wrong (RFC 6935 section 5); what is inside is its receiver's to check.
        wire.send(&[none]);
        assert_eq!(guest.frames().len(), 1);
    }
}

/// A Geneve header with these flags and options.
fn geneve(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut header = vec![(options.len() / 4) as u8, flags, 0x65, 0x58, 0, 0, 7, 0];
    header.extend(options);
    header
}

#[test]
fn geneve_options_are_sent_known_and_refused() {
    let own: &[u8] = &[
        1, 2, 0x80, 1, 0xde, 0xad, 0xbe, 0xef, 0, 3, 4, 1, 1, 2, 3, 4,
    ];
    let outer = OuterHeaders {
        geneve_options: own.into(),
        ..OuterHeaders::default()
    };
    let (mut node, mut wire, mut guest) = site(Overlay::Geneve, false, outer);
    let inner = udp(1, 9, 64);
    guest.send(&[&inner]);
    let out = wire.frames().pop().unwrap();
    assert_eq!(out[42..50], [4, 0x40, 0x65, 0x58, 0, 0, 7, 0]);
    assert_eq!(&out[50..66], own);
    assert_eq!(out[66..], inner);

    let back = udp(9, 1, 64);
    let mut receive = |flags, options: &[u8]| {
        let header = geneve(flags, options);
        let frame = build(|f| {
            from_far(f, false)
                .udp(50_000, 6081)
                .payload(&header)
                .payload(&back)
        });
        wire.send(&[frame]);
        guest.frames().len()
    };
    let foreign: &[u8] = &[9, 9, 0x81, 1, 0, 0, 0, 0];
    assert_eq!(receive(0x40, own), 1, "one of the network's is known");
    assert_eq!(receive(0, &[9, 9, 1, 1, 0, 0, 0, 0]), 1, "not critical");
    assert_eq!(receive(0x40, foreign), 0);
    assert_eq!(receive(0x80, &[]), 0, "a control packet is no tenant's");
    assert_eq!(node.drops(Drop::GeneveOption), 2);
    // A rule that looks at it knows it; by its data it decides, too.
    let text = "flow create 0 ingress pattern eth / ipv4 / udp / geneve / geneve-opt class is 2313 type is 129 data is 00000001 / end actions drop / end";
    node.rule(0, text).unwrap();
    assert_eq!(receive(0x40, foreign), 1);
    assert_eq!(receive(0x40, &[9, 9, 0x81, 1, 0, 0, 0, 1]), 0);
    assert_eq!(node.drops(Drop::Rule), 1);
}

#[test]
fn outer_marks_follow_the_networks_word() {
    let outer = OuterHeaders {
        ttl: Policy::Copied(64),
        dscp: Policy::Copied(0),
        ecn: false,
        ..OuterHeaders::default()
    };
    let (_node, mut wire, mut guest) = site(Overlay::Vxlan, false, outer);
    let marked = |tos: u8, ttl: u8| {
        let mut frame = udp(1, 9, 10);
        (frame[15], frame[22]) = (tos, ttl);
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    // Twice, so that the second is decided from the cache.
    for (tos, ttl) in [(0xb9, 7), (0x2a, 200), (0xb9, 7), (0x2a, 200)] {
        guest.send(&[marked(tos, ttl)]);
        let out = wire.frames().pop().unwrap();
        assert_eq!((out[15], out[22]), (tos & 0xfc, ttl));
    }
}

/// The MTU that an ICMP "fragmentation needed" tells.
fn told4(answer: &[u8]) -> u16 {
    verify(answer);
    assert_eq!(answer[34..36], [3, 4]);
    u16::from_be_bytes([answer[40], answer[41]])
}

/// An IPv4 packet without DF.
fn may_be_cut(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[20] = 0;
    packet[24..26].fill(0);
    let sum = checksum(&packet[14..34]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn a_packet_too_long_for_its_tunnel_is_answered() {
    let (node, mut wire, mut guest) = site(Overlay::Vxlan, false, OuterHeaders::default());
    // 1600 of the uplink less IP, UDP, VXLAN and the link header inside.
    let fits = 1550 - 28;
    let long = udp(1, 9, fits + 1);
    guest.send(&[&long, &udp(1, 9, fits)]);
    assert_eq!(wire.frames().len(), 1);
    let answer = guest.frames().pop().unwrap();
    assert_eq!(answer[..12], [mac(1), mac(9)].concat());
    assert_eq!(answer[26..30], long[30..34], "from whom it was sent to");
    assert_eq!(told4(&answer), 1550);
    assert_eq!(answer[42..42 + 100], long[14..114], "what it was");
    assert_eq!(node.stage(Stage::PathMtu), 1);
    assert_eq!(node.drops(Drop::ExceedsMtu), 1);

    // IPv6, and a large frame whose segments are too long.
    let v6 = tcp(1, 9, true, 1600);
    guest.send(&[&v6]);
    let answer = guest.frames().pop().unwrap();
    verify(&answer);
    assert_eq!(
        (answer[54], &answer[58..62]),
        (2, &1550_u32.to_be_bytes()[..])
    );
    let (header, large) = large(&tcp(1, 9, false, 8000), 1511);
    guest.send_with(header, &large);
    assert_eq!(told4(&guest.frames().pop().unwrap()), 1550);

    // What may be cut is not answered: nobody waits to be told.
    guest.send(&[may_be_cut(&long)]);
    assert_eq!(guest.frames().len(), 0);
    assert_eq!(node.drops(Drop::ExceedsMtu), 4);
    // A flood of them has few answers.
    guest.send(&vec![long; 512]);
    let answers = guest.frames().len();
    assert!((97..=200).contains(&answers), "{answers}");
}

#[test]
fn a_router_narrows_the_path_and_nobody_else() {
    let (node, mut wire, mut guest) = site(Overlay::Vxlan, false, OuterHeaders::default());
    let packet = udp(1, 9, 1400);
    guest.send(&[&packet]);
    let sent = wire.frames().pop().unwrap();
    let router = mac(0x77);
    let report = |mtu: u16, quote: &[u8]| {
        build(|f| {
            f.ethernet(OWN, router)
                .ipv4(0xc000_02fe, OWN4)
                .icmp(3, 4, mtu.into())
                .payload(quote)
        })
    };
    let path_mtu = |node: &Node| {
        let neighbours = node.switch.neighbours().unwrap();
        neighbours[0].1.path_mtu.map(|(mtu, _)| mtu)
    };
    let quote = &sent[14..14 + 56];
    let changed = |at: usize, value: u8| {
        let mut quote = quote.to_vec();
        quote[at] = value;
        quote
    };
    // Not of ours, not to a remote, not of a tunnel, not a source port of ours; no news.
    for quote in [
        changed(15, 99),
        changed(19, 99),
        changed(9, 6),
        changed(23, 1),
        changed(20, 1),
        quote[..18].to_vec(),
    ] {
        wire.send(&[report(1000, &quote)]);
        assert_eq!(path_mtu(&node), None, "{quote:?}");
    }
    wire.send(&[report(1590, quote)]);
    assert_eq!(path_mtu(&node), None, "longer than what was sent");
    for mtu in [68, 552, 1329] {
        wire.send(&[report(mtu, quote)]);
        assert_eq!(path_mtu(&node), None, "less than 1280 bytes inside");
    }
    wire.send(&[report(1340, quote)]);
    assert_eq!(path_mtu(&node), Some(1340));
    wire.send(&[report(1350, quote)]);
    assert_eq!(path_mtu(&node), Some(1340), "only down");
    wire.frames();
    guest.send(&[&packet]);
    assert_eq!(wire.frames().len(), 0);
    assert_eq!(told4(&guest.frames().pop().unwrap()), 1290);
    guest.send(&[udp(1, 9, 1290 - 28)]);
    assert_eq!(wire.frames().len(), 1);
    // Who cannot be told, or need not heed it, is not held back.
    let no_ip = build(|f| f.ethernet(mac(9), mac(1)).ethertype(0x88b5, &[0; 1400]));
    guest.send(&[may_be_cut(&packet), no_ip]);
    assert_eq!((wire.frames().len(), guest.frames().len()), (2, 0));
    wire.send(&[report(1330, quote)]);
    assert_eq!(path_mtu(&node), Some(1330));
    guest.send(&[tcp(1, 9, true, 1280 - 60), tcp(1, 9, true, 1281 - 60)]);
    assert_eq!(wire.frames().len(), 1);
    let answer = guest.frames().pop().unwrap();
    assert_eq!(answer[58..62], 1280_u32.to_be_bytes());
}

#[test]
fn a_packet_too_long_for_the_port_of_its_receiver_is_answered() {
    let mut node = Node::with_networks(&[7]);
    let options = Options {
        network: Some(7),
        mtu: 1500,
        ..Options::default()
    };
    let mut a = node.guest(1, &options);
    let mut b = node.guest(2, &options);
    b.send(&[udp(2, 1, 10)]);
    a.frames();
    a.send(&[udp(1, 2, 2000 - 28)]);
    assert_eq!(b.frames().len(), 0);
    // There is room for a tag, which this frame does not use.
    assert_eq!(told4(&a.frames().pop().unwrap()), 1500);
    // No less is told than IPv6 takes for an answer.
    let narrow = Options {
        network: Some(7),
        mtu: 1200,
        ..Options::default()
    };
    node.guest(3, &narrow).send(&[udp(3, 1, 10)]);
    a.frames();
    a.send(&[tcp(1, 3, true, 1400)]);
    let answer = a.frames().pop().unwrap();
    assert_eq!(answer[58..62], 1280_u32.to_be_bytes());
}

#[test]
fn a_copy_that_is_too_long_is_not_answered() {
    let mut node = Node::with_networks(&[7]);
    let mut a = node.guest(
        1,
        &Options {
            network: Some(7),
            mtu: 9000,
            ..Options::default()
        },
    );
    let narrow = Options {
        network: Some(7),
        mtu: 1500,
        ..Options::default()
    };
    let (mut b, mut c) = (node.guest(2, &narrow), node.guest(3, &narrow));
    // Nobody knows yet where it is: flooded.
    let long = udp(1, 2, 2000);
    a.send(&[&long]);
    assert_eq!(node.drops(Drop::ExceedsMtu), 2);
    assert_eq!(a.frames().len(), 0);
    // Known, it is the packet's way again.
    b.send(&[udp(2, 1, 10)]);
    a.frames();
    a.send(&[&long]);
    assert_eq!(told4(&a.frames().pop().unwrap()), 1500);
    assert_eq!((b.frames().len(), c.frames().len()), (0, 0));
}

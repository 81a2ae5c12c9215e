//! Connections through the switch: a stateful firewall, translation, limits, errors and fragments, with frames between guests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_switch::conntrack::{Filter, State};
use sumeru_switch::stats::{Drop, Stage};

/// Guest 1 opens connections, guest 2 answers only.
const FIREWALL: [&str; 6] = [
    "flow create 1 transfer pattern eth / ipv4 / end actions ct zone 5 group 1 / end",
    "flow create 1 group 1 priority 1 transfer pattern eth / ct state is +trk+est / end actions jump group 2 / end",
    "flow create 1 group 1 priority 1 transfer pattern represented_port ethdev_port_id is 1 / eth / ct state is +trk+new / end actions ct zone 5 commit group 2 / end",
    "flow create 1 group 1 priority 9 transfer pattern eth / end actions drop / end",
    "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 1 / eth / end actions represented_port ethdev_port_id 2 / end",
    "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 2 / eth / end actions represented_port ethdev_port_id 1 / end",
];

const A: u32 = 0x0a00_0001;
const B: u32 = 0x0a00_0002;

fn node(rules: &[&str]) -> (Node, Guest, Guest) {
    let mut node = Node::with_networks(&[1]);
    let (a, b) = (
        node.guest(1, &Options::default()),
        node.guest(2, &Options::default()),
    );
    for (id, rule) in rules.iter().enumerate() {
        node.rule(id as u32, rule)
            .unwrap_or_else(|error| panic!("{rule}: {error}"));
    }
    (node, a, b)
}

fn datagram(from: u32, to: u32, ports: (u16, u16)) -> Vec<u8> {
    driver::datagram((mac(1), mac(2)), (from, ports.0), (to, ports.1))
}

fn segment(from: End, to: End, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    driver::segment((mac(1), mac(2)), from, to, flags, (seq, ack), payload)
}

#[test]
fn answers_come_in_and_nothing_else_does() {
    let (node, mut a, mut b) = node(&FIREWALL);
    b.send(&[datagram(B, A, (53, 1000))]);
    assert!(a.frames().is_empty(), "not asked for");
    assert_eq!(node.drops(Drop::Rule), 1);
    let question = datagram(A, B, (1000, 53));
    a.send(&[&question, &question]);
    assert_eq!(b.frames(), [question.clone(), question.clone()]);
    let answer = datagram(B, A, (53, 1000));
    b.send(&[&answer, &answer, &answer]);
    assert_eq!(a.frames(), [answer.clone(), answer.clone(), answer.clone()]);
    b.send(&[datagram(B, A, (53, 1001))]);
    assert!(a.frames().is_empty(), "another port");
    // From now on one look-up decides, in both directions.
    let slow = node.stage(Stage::SlowPath);
    for _ in 0..20 {
        a.send(&[&question]);
        b.send(&[&answer]);
        assert_eq!((a.frames().len(), b.frames().len()), (1, 1));
    }
    assert!(
        node.stage(Stage::SlowPath) <= slow + 2,
        "established flows are decided by the cache"
    );
}

#[test]
fn a_tcp_connection_lives_and_ends() {
    let (node, mut a, mut b) = node(&FIREWALL);
    let (client, server) = ((A, 1000), (B, 80));
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN: u8 = 1;
    const RST: u8 = 4;
    b.send(&[segment(server, client, ACK, 1, 1, b"")]);
    a.send(&[segment(client, server, ACK, 1, 1, b"in the middle")]);
    assert!(
        a.frames().is_empty() && b.frames().is_empty(),
        "no connection begins like that"
    );
    let mut pass = |from_a: bool, frame: Vec<u8>| {
        let (from, to) = if from_a {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        from.send(&[&frame]);
        !to.frames().is_empty()
    };
    assert!(pass(true, segment(client, server, SYN, 100, 0, b"")));
    assert!(pass(
        false,
        segment(server, client, SYN | ACK, 500, 101, b"")
    ));
    assert!(pass(true, segment(client, server, ACK, 101, 501, b"")));
    assert!(pass(true, segment(client, server, ACK, 101, 501, b"GET /")));
    assert!(pass(
        false,
        segment(server, client, ACK, 501, 106, b"hello")
    ));
    assert!(!pass(
        false,
        segment(
            server,
            client,
            ACK,
            501 + 1_000_000,
            106,
            b"far out of the window"
        )
    ));
    assert!(
        !pass(false, segment(server, client, RST, 501 + 1_000_000, 0, b"")),
        "a blind reset"
    );
    assert!(pass(
        true,
        segment(client, server, ACK, 106, 506, b"still there")
    ));
    assert!(pass(
        true,
        segment(client, server, FIN | ACK, 117, 506, b"")
    ));
    assert!(pass(
        false,
        segment(server, client, FIN | ACK, 506, 118, b"")
    ));
    assert!(pass(true, segment(client, server, ACK, 118, 507, b"")));
    assert_eq!(node.drops(Drop::Rule), 4);
}

#[test]
fn sources_are_translated_and_answers_back() {
    let (node, mut a, mut b) = node(&[
        "flow create 1 ingress pattern eth / ipv4 / end actions ct zone 7 nat_restore group 1 / end",
        "flow create 2 ingress pattern eth / ipv4 / end actions ct zone 7 nat_restore group 1 / end",
        "flow create 1 group 1 ingress pattern eth / ct state is +new / end actions ct zone 7 commit nat_src addr 192.0.2.9 port 5000-5001 group 2 / end",
        "flow create 1 group 1 ingress pattern eth / ct state is +est / end actions jump group 2 / end",
        "flow create 2 group 1 ingress pattern eth / ct state is +est / end actions represented_port ethdev_port_id 1 / end",
        "flow create 1 group 2 ingress pattern eth / end actions represented_port ethdev_port_id 2 / end",
        "flow create 2 group 1 priority 5 ingress pattern eth / end actions drop / end",
    ]);
    const OUTSIDE: u32 = 0xc000_0209;
    a.send(&[datagram(A, B, (1000, 53)), datagram(A, B, (1001, 53))]);
    let sent = b.frames();
    assert_eq!(sent.len(), 2);
    let mut ports: Vec<u16> = Vec::new();
    for frame in &sent {
        verify(frame);
        assert_eq!(frame[26..30], OUTSIDE.to_be_bytes());
        ports.push(u16::from_be_bytes([frame[34], frame[35]]));
    }
    ports.sort_unstable();
    assert_eq!(ports, [5000, 5001]);
    a.send(&[datagram(A, B, (1002, 53))]);
    assert!(b.frames().is_empty());
    assert_eq!(
        node.drops(Drop::NatExhausted),
        1,
        "two ports, two connections"
    );
    for (frame, port) in sent.iter().zip([1000_u16, 1001]) {
        let translated = u16::from_be_bytes([frame[34], frame[35]]);
        for _ in 0..3 {
            b.send(&[datagram(B, OUTSIDE, (53, translated))]);
            let back = a.frames();
            assert_eq!(back.len(), 1);
            verify(&back[0]);
            assert_eq!(
                (&back[0][30..34], &back[0][36..38]),
                (&A.to_be_bytes()[..], &port.to_be_bytes()[..])
            );
        }
    }
    b.send(&[datagram(B, OUTSIDE, (54, 5000))]);
    assert!(a.frames().is_empty(), "nobody asked this one");
    // What was translated before is translated from the cache too.
    a.send(&vec![datagram(A, B, (1000, 53)); 4]);
    let again = b.frames();
    assert_eq!(again.len(), 4);
    again.iter().for_each(|frame| verify(frame));
}

#[test]
fn a_change_of_rules_reaches_established_connections() {
    let (mut node, mut a, mut b) = node(&FIREWALL);
    let (question, answer) = (datagram(A, B, (1000, 53)), datagram(B, A, (53, 1000)));
    a.send(&[&question]);
    b.send(&[&answer]);
    a.send(&[&question]);
    assert_eq!((a.frames().len(), b.frames().len()), (1, 2));
    node.rule(20, "flow create 1 group 1 transfer pattern eth / ipv4 / udp dst is 53 / end actions drop / end").unwrap();
    a.send(&[&question]);
    assert!(b.frames().is_empty());
    node.switch.remove_rule(1, 20).unwrap();
    a.send(&[&question]);
    assert_eq!(b.frames().len(), 1);
}

/// A frame's datagram as if it were a piece of a longer one.
fn piece_of(whole: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut frame = whole.to_vec();
    frame[18..20].copy_from_slice(&99_u16.to_be_bytes());
    frame[20..22].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
    frame[24..26].fill(0);
    let sum = sumeru_packet::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn pieces_follow_their_first_by_rules_about_ports() {
    let mut rules = FIREWALL.to_vec();
    let about = [("udp dst is 53", 7), ("icmp type is 8", 8)].map(|(item, id)| {
        (
            id,
            rules[2].replace("eth / ct", &format!("eth / ipv4 / {item} / ct")),
        )
    });
    rules[2] = &about[0].1;
    rules.push(&about[1].1);
    let (node, mut a, mut b) = node(&rules);
    let asked = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(A, B)
            .udp(1000, 53)
            .payload(&[7; 32])
    });
    let echo = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(A, B)
            .icmp(8, 0, 0x0007_0001)
            .payload(&[7; 32])
    });
    for whole in [&asked, &echo] {
        a.send(&[piece_of(whole, 0, true), piece_of(whole, 5, false)]);
        assert_eq!(b.frames().len(), 2);
    }
    let answer = build(|f| {
        f.ethernet(mac(1), mac(2))
            .ipv4(B, A)
            .icmp(0, 0, 0x0007_0001)
            .payload(&[7; 32])
    });
    b.send(&[piece_of(&answer, 5, false)]);
    assert!(a.frames().is_empty(), "its first piece is not known");
    b.send(&[piece_of(&answer, 0, true), piece_of(&answer, 5, false)]);
    assert_eq!(a.frames().len(), 2);
    assert_eq!(node.drops(Drop::Rule), 1);
}

#[test]
fn pieces_follow_their_first() {
    let (node, mut a, mut b) = node(&FIREWALL);
    let whole = build(|f| {
        f.ethernet(mac(2), mac(1))
            .ipv4(A, B)
            .udp(1000, 53)
            .payload(&[7; 32])
    });
    let piece = |offset: u16, more: bool| piece_of(&whole, offset, more);
    a.send(&[piece(5, false)]);
    assert!(b.frames().is_empty(), "its first piece is not known");
    a.send(&[piece(0, true), piece(5, false)]);
    assert_eq!(b.frames().len(), 2);
    b.send(&[datagram(B, A, (53, 1000))]);
    assert_eq!(
        a.frames().len(),
        1,
        "the connection is that of the whole datagram"
    );
    assert_eq!(node.drops(Drop::Rule), 1);
}

#[test]
fn an_error_about_a_connection_is_related() {
    let mut rules = FIREWALL.to_vec();
    rules.push("flow create 1 group 1 priority 1 transfer pattern eth / ct state is +rel / end actions jump group 2 / end");
    let (node, mut a, mut b) = node(&rules);
    let question = datagram(A, B, (1000, 53));
    let error = |about: &[u8]| {
        build(|f| {
            f.ethernet(mac(1), mac(2))
                .ipv4(B, A)
                .icmp(3, 3, 0)
                .payload(&about[14..14 + 28])
        })
    };
    b.send(&[error(&question)]);
    assert!(a.frames().is_empty(), "about nothing that we know");
    a.send(&[&question]);
    b.send(&[error(&question)]);
    assert_eq!((a.frames().len(), b.frames().len()), (1, 1));
    b.send(&[error(&datagram(A, B, (1001, 53)))]);
    assert!(a.frames().is_empty());
    assert_eq!(node.drops(Drop::Rule), 2);
}

#[test]
fn what_belongs_to_no_connection_any_more_is_decided_once() {
    let (mut node, mut a, mut b) = node(&FIREWALL);
    let (client, server) = ((A, 40_000), (B, 80));
    let back = |from, to, flags, seq, ack| {
        let mut frame = segment(from, to, flags, seq, ack, b"");
        frame[..12].rotate_left(6);
        frame
    };
    a.send(&[segment(client, server, 0x02, 100, 0, b"")]);
    b.send(&[back(server, client, 0x12, 500, 101)]);
    let ack = segment(client, server, 0x10, 101, 501, b"");
    a.send(&[&ack]);
    a.send(&[&ack, &ack]);
    assert_eq!((a.frames().len(), b.frames().len()), (1, 4));
    node.switch.flush_connections(&Filter::default()).unwrap();
    a.send(&[&ack]);
    let slow = node.stage(Stage::SlowPath);
    a.send(&[&ack, &ack, &ack]);
    a.send(&[&ack, &ack]);
    assert_eq!(b.frames().len(), 0, "no connection begins with it");
    assert_eq!(node.stage(Stage::SlowPath) - slow, 0);
}

#[test]
fn a_zone_may_be_asked_twice_with_and_without_translation() {
    for commits in [
        ["commit nat_src addr 10.0.0.1", "commit mark 5"],
        ["commit mark 5", "commit nat_src addr 10.0.0.1"],
    ] {
        let rules = [
            format!(
                "flow create 1 ingress pattern eth / ipv4 / udp / end actions ct zone 1 {} group 1 / end",
                commits[0]
            ),
            format!(
                "flow create 1 group 1 ingress pattern eth / end actions ct zone 1 {} / represented_port ethdev_port_id 2 / end",
                commits[1]
            ),
        ];
        let (node, mut a, mut b) = node(&[&rules[0], &rules[1]]);
        for port in [1000, 1001, 1000] {
            let frame = datagram(A, B, (port, 53));
            a.send(&[&frame]);
            a.send(&[&frame, &frame]);
        }
        assert_eq!(b.frames().len(), 9, "{commits:?}: {:?}", node.all_drops());
        let (connections, _) = node.switch.connections(0, 10, &Filter::default()).unwrap();
        assert_eq!(connections.len(), 2);
        assert!(connections.iter().all(|connection| connection.mark == 5));
    }
}

#[test]
fn each_copy_of_a_piece_is_tracked_as_one() {
    let mut node = Node::with_networks(&[1]);
    let mut guests = [1, 2, 3].map(|port| node.guest(port, &Options::default()));
    for (id, port) in [2, 3].into_iter().enumerate() {
        let track = format!(
            "flow create {port} egress pattern eth / ipv4 / end actions ct zone 5 commit group 1 / end"
        );
        node.rule(id as u32, &track).unwrap();
    }
    node.rule(9, "flow create 1 group 1 transfer priority 1 pattern eth / ipv4 / udp dst is 53 / ct state is -inv / end actions passthru / end").unwrap();
    node.rule(
        10,
        "flow create 1 group 1 transfer priority 2 pattern eth / end actions drop / end",
    )
    .unwrap();
    let whole = build(|f| {
        f.ethernet(BROADCAST, mac(1))
            .ipv4(A, B)
            .udp(1000, 53)
            .payload(&[7; 32])
    });
    let [a, b, c] = &mut guests;
    a.send(&[piece_of(&whole, 0, true), piece_of(&whole, 5, false)]);
    assert_eq!(
        (b.frames().len(), c.frames().len()),
        (2, 2),
        "{:?}",
        node.all_drops()
    );
}

#[test]
fn segments_that_are_known_by_their_bytes_keep_to_their_connection() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const RST: u8 = 4;
    let (node, mut a, mut b) = node(&FIREWALL);
    let (client, server) = ((A, 1000), (B, 80));
    a.send(&[segment(client, server, SYN, 100, 0, b"")]);
    b.send(&[segment(server, client, SYN | ACK, 500, 101, b"")]);
    a.send(&[segment(client, server, ACK, 101, 501, b"")]);
    assert_eq!((a.frames().len(), b.frames().len()), (1, 2));
    let (mut seq, mut bytes) = (101, 2 * 54);
    let mut data = |len: usize| {
        let frame = segment(client, server, ACK, seq, 501, &pattern(len));
        seq += len as u32;
        bytes += frame.len();
        frame
    };
    for len in 0..40 {
        let frames = [data(len), data(len / 2)];
        a.send(&frames);
        assert_eq!(b.frames(), frames, "byte by byte, the windows too");
        b.send(&[segment(server, client, ACK, 501, 101, b"")]);
        assert_eq!(a.frames().len(), 1);
    }
    let known = node.stage(Stage::Known);
    assert!(known > 100, "{known}");
    // Between two good ones, each in the bytes by which they are known as the others: out of the window, and what ends a connection without being in it.
    let bad = [
        segment(client, server, ACK, 1 << 30, 501, b"beyond"),
        segment(client, server, RST, 1 << 30, 0, b""),
        segment(client, server, SYN | RST, 101, 0, b""),
    ];
    for frame in &bad {
        let (first, last) = (data(9), data(9));
        a.send(&[&first, frame, &last]);
        assert_eq!(b.frames(), [first, last]);
    }
    assert_eq!(node.drops(Drop::Rule), 3);
    let end = data(0);
    // Each was counted once, whichever way it went.
    let (found, _) = node.switch.connections(0, 10, &Filter::default()).unwrap();
    let [connection] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(connection.traffic[0].packets, 2 + 80 + 6);
    assert_eq!(connection.traffic[0].bytes, (bytes - end.len()) as u64);
    assert_eq!(connection.traffic[1].packets, 1 + 40);
    // A reset that is in it ends it.
    let mut reset = end.clone();
    reset[47] = RST;
    a.send(&[&end, &reset]);
    assert_eq!(b.frames(), [end, reset]);
    let (found, _) = node.switch.connections(0, 10, &Filter::default()).unwrap();
    assert_eq!(found[0].state, State::Close, "{found:?}");
}

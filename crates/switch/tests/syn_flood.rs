//! Ports that are protected from floods of SYNs: cookies for clients, connections that are joined to the guest's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::time::{Duration, Instant};

use driver::*;
use sumeru_packet::tcp::Options as TcpOptions;
use sumeru_packet::view::Tcp;
use sumeru_switch::conntrack::{Filter, State, Timeouts};
use sumeru_switch::shield::{Mode, ShieldView};
use sumeru_switch::snapshot::PortView;
use sumeru_switch::stats::{Drop, Stage};
use sumeru_switch::worker::ConnectionSettings;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A host: guest 1 or 2, by its IPv4 or its IPv6 address.
#[derive(Clone, Copy)]
struct Host {
    n: u8,
    v6: bool,
    port: u16,
}

#[derive(Clone, Default, Debug, PartialEq)]
struct Segment {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    options: TcpOptions,
    sack: Option<(u32, u32)>,
    payload: Vec<u8>,
}

fn write(from: Host, to: Host, segment: &Segment) -> Vec<u8> {
    let mut options = [0; 40];
    let mut len = segment.options.write(&mut options).unwrap();
    if let Some((left, right)) = segment.sack {
        options[len..len + 4].copy_from_slice(&[1, 1, 5, 10]);
        options[len + 4..len + 8].copy_from_slice(&left.to_be_bytes());
        options[len + 8..len + 12].copy_from_slice(&right.to_be_bytes());
        len += 12;
    }
    let header = Tcp {
        data_offset: ((5 + len / 4) << 4) as u8,
        window: segment.window.into(),
        ..tcp_header(
            (from.port, to.port),
            segment.flags,
            segment.seq,
            segment.ack,
        )
    };
    let wide = |n: u8| (0xfd00_u128 << 112) + u128::from(n);
    let rest = [&options[..len], &segment.payload].concat();
    build(|f| {
        let f = f.ethernet(mac(to.n), mac(from.n));
        let f = if from.v6 {
            f.ipv6(wide(from.n), wide(to.n))
        } else {
            let net = 0x0a00_0000;
            f.ipv4(net + u32::from(from.n), net + u32::from(to.n))
        };
        f.tcp_header(header).payload(&rest)
    })
}

/// A segment that arrived, with its checksums looked at.
fn read(frame: &[u8]) -> Segment {
    verify(frame);
    let layout = layout(frame);
    let at = usize::from(layout.layers[0].l4);
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let end = at + usize::from(frame[at + 12] >> 4) * 4;
    let options = &frame[at + 20..end];
    let sack = options.windows(2).position(|pair| pair == [5, 10]);
    Segment {
        flags: frame[at + 13],
        seq: word(at + 4),
        ack: word(at + 8),
        window: u16::from_be_bytes([frame[at + 14], frame[at + 15]]),
        options: TcpOptions::parse(options),
        sack: sack.map(|s| (word(at + 22 + s), word(at + 26 + s))),
        payload: frame[end..].to_vec(),
    }
}

fn only(frames: Vec<Vec<u8>>) -> Segment {
    assert_eq!(frames.len(), 1, "one frame");
    read(&frames[0])
}

fn protect(node: &mut Node, port: u16, shield: Option<ShieldView>) {
    let view = PortView {
        index: port,
        name: format!("p{port}").into(),
        network: Some(1),
        mtu: 1500,
        uplink: false,
        lldp: false,
        shield,
    };
    node.switch.update_port(view).unwrap();
}

const ALWAYS: ShieldView = ShieldView {
    mode: Mode::Always,
    half_open: 128,
    rate: None,
    mss: 1460,
    window_scale: 7,
    sack: true,
    timestamps: true,
};

/// Guest 1 is the client; guest 2 the server, which is protected.
fn node(shield: ShieldView, rules: &[&str]) -> (Node, Guest, Guest) {
    let mut node = Node::with_networks(&[1]);
    let (mut a, mut b) = (
        node.guest(1, &Options::default()),
        node.guest(2, &Options::default()),
    );
    for (id, rule) in rules.iter().enumerate() {
        node.rule(id as u32, rule).unwrap();
    }
    if rules.is_empty() {
        // Both are learned.
        a.send(&[udp(1, 2, 1)]);
        b.send(&[udp(2, 1, 1)]);
        assert_eq!((a.frames().len(), b.frames().len()), (1, 1));
    }
    protect(&mut node, 2, Some(shield));
    (node, a, b)
}

fn counters(node: &Node) -> [u64; 6] {
    let all = node.switch.port_counters(2).unwrap();
    [
        all[0].cookies_sent.get(),
        all[0].cookies_valid.get(),
        all[0].cookies_invalid.get(),
        all[0].cookies_unanswered.get(),
        all[0].cookies_on.get(),
        all[0].cookies_off.get(),
    ]
}

fn ends(v6: bool, port: u16) -> (Host, Host) {
    (Host { n: 1, v6, port }, Host { n: 2, v6, port: 80 })
}

const ISN: u32 = 0xffff_fff0;
const GUEST_ISN: u32 = 5_000;
const OFFERED: TcpOptions = TcpOptions {
    mss: Some(1400),
    window_scale: Some(9),
    sack_permitted: true,
    timestamps: Some((100, 0)),
};

fn stamped(value: u32, echo: u32) -> TcpOptions {
    TcpOptions {
        timestamps: Some((value, echo)),
        ..TcpOptions::default()
    }
}

/// Opens a connection with a cookie as far as the guest's SYN-ACK; answers cookie and timestamp.
fn open(a: &mut Guest, b: &mut Guest, (client, server): (Host, Host)) -> (u32, u32) {
    let syn = Segment {
        flags: SYN,
        seq: ISN,
        window: 64_000,
        options: OFFERED,
        ..Segment::default()
    };
    a.send(&[write(client, server, &syn)]);
    let answer = only(a.frames_at_last());
    assert!(b.frames().is_empty(), "the guest does not get it");
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, ISN.wrapping_add(1)));
    assert_eq!(answer.window, 0);
    let (stamp, echo) = answer.options.timestamps.unwrap();
    assert_eq!(echo, 100);
    let told = TcpOptions {
        mss: Some(if client.v6 { 1440 } else { 1460 }),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((stamp, 100)),
    };
    assert_eq!(answer.options, told);
    let ack = Segment {
        flags: ACK,
        seq: ISN.wrapping_add(1),
        ack: answer.seq.wrapping_add(1),
        window: 125,
        options: stamped(101, stamp),
        ..Segment::default()
    };
    a.send(&[write(client, server, &ack)]);
    let syn = only(b.frames_at_last());
    let wanted = Segment {
        flags: SYN,
        seq: ISN,
        window: 125,
        options: TcpOptions {
            mss: Some(1400),
            timestamps: Some((101, 0)),
            ..OFFERED
        },
        ..Segment::default()
    };
    assert_eq!(syn, wanted);
    let syn_ack = Segment {
        flags: SYN | ACK,
        seq: GUEST_ISN,
        ack: ISN.wrapping_add(1),
        window: 65_000,
        options: TcpOptions {
            mss: Some(1460),
            window_scale: Some(10),
            sack_permitted: true,
            timestamps: Some((777_000, 101)),
        },
        ..Segment::default()
    };
    b.send(&[write(server, client, &syn_ack)]);
    let opened = only(a.frames_at_last());
    let wanted = Segment {
        flags: ACK,
        seq: answer.seq.wrapping_add(1),
        ack: ISN.wrapping_add(1),
        window: 65_000 >> 7,
        options: stamped(stamp, 101),
        ..Segment::default()
    };
    assert_eq!(opened, wanted);
    let ack = only(b.frames_at_last());
    let wanted = Segment {
        flags: ACK,
        seq: ISN.wrapping_add(1),
        ack: GUEST_ISN + 1,
        window: 125,
        options: stamped(101, 777_000),
        ..Segment::default()
    };
    assert_eq!(ack, wanted);
    (answer.seq, stamp)
}

/// Runs a connection from its cookie to its end.
fn talk(node: &Node, a: &mut Guest, b: &mut Guest, ends: (Host, Host)) {
    let (client, server) = ends;
    let (cookie, stamp) = open(a, b, ends);
    let mut slow = 0;
    for round in 0..6_u32 {
        let data = Segment {
            flags: ACK,
            seq: ISN.wrapping_add(1 + 3 * round),
            ack: cookie.wrapping_add(1 + 5 * round),
            window: 125,
            options: stamped(102 + round, stamp + round),
            sack: (round == 4).then_some((cookie.wrapping_add(90), cookie.wrapping_add(95))),
            payload: b"abc".to_vec(),
        };
        a.send(&[write(client, server, &data)]);
        let wanted = Segment {
            ack: GUEST_ISN + 1 + 5 * round,
            options: stamped(102 + round, 777_000 + round),
            sack: data.sack.map(|_| (GUEST_ISN + 90, GUEST_ISN + 95)),
            ..data
        };
        assert_eq!(only(b.frames_at_last()), wanted);
        let reply = Segment {
            flags: ACK,
            seq: GUEST_ISN + 1 + 5 * round,
            ack: ISN.wrapping_add(4 + 3 * round),
            window: 60,
            options: stamped(777_001 + round, 102 + round),
            sack: None,
            payload: b"hello".to_vec(),
        };
        b.send(&[write(server, client, &reply)]);
        let wanted = Segment {
            seq: cookie.wrapping_add(1 + 5 * round),
            // The guest scales by 10 bits, the client was told 7.
            window: 60 << 3,
            options: stamped(stamp + 1 + round, 102 + round),
            ..reply
        };
        assert_eq!(only(a.frames_at_last()), wanted);
        if round == 1 {
            slow = node.stage(Stage::SlowPath);
        }
    }
    assert_eq!(node.stage(Stage::SlowPath), slow, "decided by the cache");
    let mut turn = |from_client: bool, flags, seq: u32, ack: u32| {
        let segment = Segment {
            flags,
            seq,
            ack,
            window: 60,
            ..Segment::default()
        };
        if from_client {
            a.send(&[write(client, server, &segment)]);
            only(b.frames_at_last())
        } else {
            b.send(&[write(server, client, &segment)]);
            only(a.frames_at_last())
        }
    };
    let (own, theirs) = (ISN.wrapping_add(19), GUEST_ISN + 31);
    let told = cookie.wrapping_add(31);
    assert_eq!(turn(true, FIN | ACK, own, told).ack, theirs);
    let fin = turn(false, FIN | ACK, theirs, own.wrapping_add(1));
    assert_eq!((fin.seq, fin.flags), (told, FIN | ACK));
    let last = turn(true, ACK, own.wrapping_add(1), told.wrapping_add(1));
    assert_eq!(last.ack, theirs + 1);
    let mut states = Vec::new();
    for connection in node
        .switch
        .connections(0, 1000, &Filter::default())
        .unwrap()
        .0
    {
        states.push(connection.state);
    }
    assert!(
        states.iter().all(|state| *state == State::TimeWait),
        "{states:?}"
    );
}

#[test]
fn a_cookie_opens_a_connection_that_works() {
    for v6 in [false, true] {
        let (node, mut a, mut b) = node(ALWAYS, &[]);
        talk(&node, &mut a, &mut b, ends(v6, 1000));
        assert_eq!(counters(&node), [1, 1, 0, 0, 1, 0]);
        assert_eq!(node.drops(Drop::SynProtection), 0);
    }
}

/// Guest 1 opens connections, guest 2 answers only; what is out of a window is dropped.
const FIREWALL: [&str; 6] = [
    "flow create 1 transfer pattern eth / end actions ct zone 5 group 1 / end",
    "flow create 1 group 1 priority 1 transfer pattern eth / ct state is +trk+est / end actions jump group 2 / end",
    "flow create 1 group 1 priority 1 transfer pattern represented_port ethdev_port_id is 1 / eth / ct state is +trk+new / end actions ct zone 5 commit group 2 / end",
    "flow create 1 group 1 priority 9 transfer pattern eth / end actions drop / end",
    "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 1 / eth / end actions represented_port ethdev_port_id 2 / end",
    "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 2 / eth / end actions represented_port ethdev_port_id 1 / end",
];

#[test]
fn a_stateful_firewall_sees_the_connection_as_the_client_does() {
    for v6 in [false, true] {
        let (node, mut a, mut b) = node(ALWAYS, &FIREWALL);
        let (client, server) = ends(v6, 1000);
        let stray = Segment {
            flags: ACK,
            seq: 1,
            ack: 2,
            ..Segment::default()
        };
        a.send(&[write(client, server, &stray)]);
        assert!(b.frames().is_empty());
        assert_eq!(node.drops(Drop::Rule), 1);
        talk(&node, &mut a, &mut b, (client, server));
        assert_eq!(counters(&node), [1, 1, 0, 0, 1, 0]);
        assert_eq!(node.drops(Drop::Rule), 1, "nothing was out of a window");
    }
}

#[test]
fn translated_servers_are_protected() {
    // Guest 1 calls 10.0.0.9, which is guest 2.
    let rules = [
        "flow create 1 transfer pattern eth / ipv4 / end actions ct zone 5 nat_restore group 1 / end",
        "flow create 1 group 1 priority 1 transfer pattern eth / ct state is +trk+est / end actions jump group 2 / end",
        "flow create 1 group 1 priority 1 transfer pattern represented_port ethdev_port_id is 1 / eth / ct state is +trk+new / end actions ct zone 5 commit nat_dst addr 10.0.0.2 group 2 / end",
        "flow create 1 group 1 priority 9 transfer pattern eth / end actions drop / end",
        "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 1 / eth / end actions represented_port ethdev_port_id 2 / end",
        "flow create 1 group 2 transfer pattern represented_port ethdev_port_id is 2 / eth / end actions represented_port ethdev_port_id 1 / end",
    ];
    let (node, mut a, mut b) = node(ALWAYS, &rules);
    let (client, inside) = ends(false, 1000);
    let outside = Host { n: 9, ..inside };
    let syn = |seq| Segment {
        flags: SYN,
        seq,
        ..Segment::default()
    };
    a.send(&[write(client, outside, &syn(7))]);
    let answer = only(a.frames_at_last());
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, 8));
    let live = node.switch.connection_sums().unwrap()[0]
        .unwrap()
        .table
        .live;
    assert_eq!(
        live, 0,
        "no memory before the client has proved its address"
    );
    let ack = Segment {
        flags: ACK,
        seq: 8,
        ack: answer.seq.wrapping_add(1),
        window: 100,
        ..Segment::default()
    };
    a.send(&[write(client, outside, &ack)]);
    let frames = b.frames_at_last();
    assert_eq!(frames[0][30..34], [10, 0, 0, 2]);
    assert_eq!(only(frames).seq, 7);
    let syn_ack = Segment {
        flags: SYN | ACK,
        seq: GUEST_ISN,
        ack: 8,
        window: 100,
        ..Segment::default()
    };
    b.send(&[write(inside, client, &syn_ack)]);
    let frames = a.frames_at_last();
    assert_eq!(frames[0][26..30], [10, 0, 0, 9]);
    let opened = only(frames);
    assert_eq!(
        (opened.flags, opened.seq),
        (ACK, answer.seq.wrapping_add(1))
    );
    assert_eq!(only(b.frames_at_last()).ack, GUEST_ISN + 1);
}

/// A client without options asks, and proves the cookie that it gets: the answer and its ACK.
fn prove(a: &mut Guest, client: Host, server: Host) -> (Segment, Segment) {
    let syn = Segment {
        flags: SYN,
        seq: 7,
        ..Segment::default()
    };
    a.send(&[write(client, server, &syn)]);
    let answer = only(a.frames_at_last());
    let ack = Segment {
        flags: ACK,
        seq: 8,
        ack: answer.seq.wrapping_add(1),
        window: 9,
        ..Segment::default()
    };
    a.send(&[write(client, server, &ack)]);
    (answer, ack)
}

fn flood(a: &mut Guest, server: Host, from: u32, count: u32) {
    for n in from..from + count {
        let mut frame = write(
            Host {
                n: 1,
                v6: false,
                port: n as u16,
            },
            server,
            &Segment {
                flags: SYN,
                seq: n,
                ..Segment::default()
            },
        );
        // From anywhere.
        frame[26..30].copy_from_slice(&(0x2000_0000 + n * 7919).to_be_bytes());
        frame[24..26].fill(0);
        let sum = sumeru_packet::checksum::checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        let layout = layout(&frame);
        let at = usize::from(layout.layers[0].l4);
        frame[at + 16..at + 18].fill(0);
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let len = frame.len() - at;
        let mut sum = sumeru_packet::checksum::pseudo_ipv4(word(26), word(30), 6, len as u32);
        sum.add(&frame[at..]);
        frame[at + 16..at + 18].copy_from_slice(&sum.value().to_be_bytes());
        a.send(&[frame]);
    }
}

#[test]
fn a_flood_is_answered_without_memory_and_ends() {
    let shield = ShieldView {
        half_open: 16,
        ..ShieldView::default()
    };
    let (mut node, mut a, mut b) = node(shield, &[]);
    let mut timeouts = Timeouts::default();
    timeouts.set(State::SynSent, 2_000);
    let tracking = ConnectionSettings {
        timeouts: [(0, timeouts)].into(),
        ..ConnectionSettings::default()
    };
    node.switch.set_tracking(&tracking).unwrap();
    let (client, server) = ends(false, 1000);
    // In peace the guest answers itself.
    let syn = Segment {
        flags: SYN,
        seq: 1,
        ..Segment::default()
    };
    a.send(&[write(client, server, &syn)]);
    assert_eq!(only(b.frames_at_last()), syn);
    assert_eq!(counters(&node), [0; 6]);
    let mut passed = 0;
    let mut answers = 0;
    for round in 0..10 {
        flood(&mut a, server, 1 + round * 50, 50);
        passed += b.frames().len();
        answers += a.frames().len();
    }
    assert_eq!(
        passed, 15,
        "with the one in peace that makes 16 half-open connections"
    );
    assert_eq!(answers, 485);
    let live = node.switch.connection_sums().unwrap()[0]
        .unwrap()
        .table
        .live;
    assert_eq!(live, 16);
    assert_eq!(counters(&node), [485, 0, 0, 0, 1, 0]);
    // Who guesses gets nowhere; who is there gets in.
    let guess = Segment {
        flags: ACK,
        seq: 1,
        ack: 0x1234_5678,
        ..Segment::default()
    };
    let (other, _) = ends(false, 1001);
    a.send(&[write(other, server, &guess)]);
    assert!(b.frames().is_empty());
    assert_eq!(node.drops(Drop::SynProtection), 1);
    open(&mut a, &mut b, ends(false, 1002));
    assert_eq!(counters(&node), [486, 1, 1, 0, 1, 0]);
    // The flood is over: after a while the guest answers itself again.
    let patience = Instant::now() + Duration::from_secs(40);
    while counters(&node)[5] == 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(counters(&node)[4..], [1, 1]);
    let (third, _) = ends(false, 1003);
    a.send(&[write(third, server, &syn)]);
    assert_eq!(only(b.frames_at_last()), syn);
}

#[test]
fn a_rate_is_a_flood_too() {
    let shield = ShieldView {
        half_open: 1 << 20,
        rate: Some(100),
        ..ShieldView::default()
    };
    let (node, mut a, mut b) = node(shield, &[]);
    let (_, server) = ends(false, 0);
    let mut passed = 0;
    for round in 0..10 {
        flood(&mut a, server, round * 50, 50);
        passed += b.frames().len();
        a.frames();
    }
    // The second may end while it lasts.
    assert!((100..=200).contains(&passed), "{passed}");
    assert_eq!(counters(&node)[4], 1);
}

#[test]
fn a_guest_that_does_not_answer_is_asked_again_and_the_client_told() {
    let (node, mut a, mut b) = node(ALWAYS, &[]);
    let (client, server) = ends(false, 1000);
    let (answer, ack) = prove(&mut a, client, server);
    assert_eq!(answer.options.timestamps, None);
    let data = Segment {
        payload: b"too early".to_vec(),
        ..ack.clone()
    };
    let first = only(b.frames_at_last());
    assert_eq!((first.flags, first.seq), (SYN, 7));
    a.send(&[write(client, server, &data)]);
    assert!(b.frames().is_empty());
    assert_eq!(node.drops(Drop::SynProtection), 1);
    let mut again = 0;
    let patience = Instant::now() + Duration::from_secs(40);
    let told = loop {
        for frame in b.frames() {
            assert_eq!(read(&frame), first);
            again += 1;
        }
        if let Some(frame) = a.frames().first() {
            break read(frame);
        }
        assert!(Instant::now() < patience, "the client is told nothing");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((told.flags, told.seq), (RST, ack.ack));
    assert_eq!(again, 3);
    assert_eq!(counters(&node)[..4], [1, 1, 0, 1]);
    let live = node.switch.connection_sums().unwrap()[0]
        .unwrap()
        .table
        .live;
    assert_eq!(live, 0);
}

#[test]
fn a_refusal_reaches_the_client() {
    let (node, mut a, mut b) = node(ALWAYS, &[]);
    let (client, server) = ends(false, 1000);
    let (_, ack) = prove(&mut a, client, server);
    assert_eq!(only(b.frames_at_last()).flags, SYN);
    let refusal = Segment {
        flags: RST | ACK,
        ack: 8,
        ..Segment::default()
    };
    b.send(&[write(server, client, &refusal)]);
    let told = only(a.frames_at_last());
    assert_eq!((told.flags, told.seq), (RST | ACK, ack.ack));
    assert_eq!(node.drops(Drop::SynProtection), 0);
}

#[test]
fn what_the_guest_opens_and_what_was_open_goes_on() {
    let (node, mut a, mut b) = node(ALWAYS, &[]);
    let (peer, guest) = ends(false, 1000);
    let segment = |flags, seq, ack| Segment {
        flags,
        seq,
        ack,
        window: 9,
        ..Segment::default()
    };
    let mut pass = |from_guest: bool, (from, to), segment: &Segment| {
        let frame = write(from, to, segment);
        let seen = if from_guest {
            b.send(&[frame]);
            a.frames()
        } else {
            a.send(&[frame]);
            b.frames()
        };
        seen.len() == 1 && read(&seen[0]) == *segment
    };
    assert!(pass(true, (guest, peer), &segment(SYN, 1, 0)));
    assert!(pass(false, (peer, guest), &segment(SYN | ACK, 9, 2)));
    assert!(pass(true, (guest, peer), &segment(ACK, 2, 10)));
    assert!(pass(false, (peer, guest), &segment(ACK, 10, 2)));
    // Open since before the guest was protected: its own next segment shows it.
    let old = Host { port: 22, ..guest };
    assert!(!pass(false, (peer, old), &segment(ACK, 500, 600)));
    assert!(pass(true, (old, peer), &segment(ACK, 600, 500)));
    assert!(pass(false, (peer, old), &segment(ACK, 500, 600)));
    assert_eq!(node.drops(Drop::SynProtection), 1);
}

#[test]
fn segments_in_pieces_and_nonsense_do_not_get_by() {
    let (node, mut a, mut b) = node(ALWAYS, &[]);
    let (client, server) = ends(false, 1000);
    let syn = Segment {
        flags: SYN,
        seq: 7,
        ..Segment::default()
    };
    let mut pieces = write(client, server, &syn);
    pieces[20] = 0x20;
    pieces[24..26].fill(0);
    let sum = sumeru_packet::checksum::checksum(&pieces[14..34]).to_be_bytes();
    pieces[24..26].copy_from_slice(&sum);
    a.send(&[pieces]);
    assert!(b.frames().is_empty() && a.frames().is_empty());
    assert_eq!(node.drops(Drop::SynProtection), 1);
    // A SYN with anything else beside is a SYN.
    for flags in [SYN | FIN, SYN | 8, SYN | 0xe0] {
        let odd = Segment {
            flags,
            ..syn.clone()
        };
        a.send(&[write(client, server, &odd)]);
        assert_eq!(only(a.frames_at_last()).flags, SYN | ACK);
        assert!(b.frames().is_empty());
    }
    // Nobody else's port is concerned, and nothing but TCP.
    b.send(&[write(server, client, &syn)]);
    assert_eq!(only(a.frames_at_last()), syn);
    a.send(&[udp(1, 2, 3)]);
    assert_eq!(b.frames().len(), 1);
}

/// The node's link-layer address on the uplink, and the far node's.
const OWN: Mac = [2, 0, 0, 0, 0, 0xee];
const FAR: Mac = [2, 0, 0, 0, 0, 0xfa];

#[test]
fn clients_on_other_nodes_are_answered_through_their_tunnel() {
    let mut node = Node::new();
    node.network(1, &["192.0.2.2"], 0);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    let mut b = node.guest(2, &Options::default());
    let mut answer = [0; 64];
    let (far, own) = ([192, 0, 2, 2].into(), [192, 0, 2, 1].into());
    let len = sumeru_packet::build::arp_reply(&mut answer, FAR, far, OWN, own).unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    while wire.frames().is_empty() && Instant::now() < patience {
        std::thread::yield_now();
    }
    wire.send(&[&answer[..len]]);
    wire.receive();
    b.send(&[udp(2, 1, 1)]);
    assert_eq!(
        wire.frames_at_last().len(),
        1,
        "the remote's address is known"
    );
    protect(&mut node, 2, Some(ALWAYS));
    let (client, server) = ends(false, 1000);
    let tunnelled = |segment: &Segment| {
        let inner = write(client, server, segment);
        build(|f| {
            f.ethernet(OWN, FAR)
                .ipv4(0xc000_0202, 0xc000_0201)
                .udp(50_000, 4789)
                .vxlan(1)
                .payload(&inner)
        })
    };
    // The inner frame of one that left by the tunnel.
    let left = |frames: Vec<Vec<u8>>| {
        assert_eq!(frames.len(), 1);
        let frame = &frames[0];
        assert_eq!((&frame[..6], &frame[6..12]), (&FAR[..], &OWN[..]));
        assert_eq!(frame[30..34], [192, 0, 2, 2]);
        assert_eq!(frame[46..49], [0, 0, 1]);
        read(&frame[50..])
    };
    let syn = Segment {
        flags: SYN,
        seq: 7,
        options: OFFERED,
        ..Segment::default()
    };
    wire.send(&[tunnelled(&syn)]);
    let cookie = left(wire.frames_at_last());
    assert_eq!((cookie.flags, cookie.ack), (SYN | ACK, 8));
    let ack = Segment {
        flags: ACK,
        seq: 8,
        ack: cookie.seq.wrapping_add(1),
        window: 9,
        options: stamped(101, cookie.options.timestamps.unwrap().0),
        ..Segment::default()
    };
    wire.send(&[tunnelled(&ack)]);
    let opening = only(b.frames_at_last());
    assert_eq!((opening.flags, opening.seq), (SYN, 7));
    assert_eq!(opening.options.window_scale, Some(9));
    let syn_ack = Segment {
        flags: SYN | ACK,
        seq: GUEST_ISN,
        ack: 8,
        window: 100,
        ..Segment::default()
    };
    b.send(&[write(server, client, &syn_ack)]);
    let opened = left(wire.frames_at_last());
    assert_eq!((opened.flags, opened.seq), (ACK, ack.ack));
    assert_eq!(only(b.frames_at_last()).ack, GUEST_ISN + 1);
    let data = Segment {
        payload: b"hello".to_vec(),
        ..ack
    };
    wire.send(&[tunnelled(&data)]);
    let arrived = only(b.frames_at_last());
    assert_eq!(
        (arrived.ack, arrived.payload),
        (GUEST_ISN + 1, data.payload)
    );
    assert_eq!(counters(&node)[..4], [1, 1, 0, 0]);
}

#[test]
fn a_cookie_is_good_only_where_it_was_got() {
    let (mut node, mut a, mut b) = node(ALWAYS, &[]);
    let mut other = node.guest(3, &Options::default());
    let (client, server) = ends(false, 1000);
    let syn = Segment {
        flags: SYN,
        seq: ISN,
        ..Segment::default()
    };
    a.send(&[write(client, server, &syn)]);
    let cookie = only(a.frames_at_last());
    let ack = Segment {
        flags: ACK,
        seq: ISN.wrapping_add(1),
        ack: cookie.seq.wrapping_add(1),
        ..Segment::default()
    };
    // The same bytes by another port, then by the one that asked.
    let proof = write(client, server, &ack);
    other.send(&[&proof]);
    assert!(b.frames().is_empty());
    assert_eq!(counters(&node)[1..3], [0, 1]);
    a.send(&[&proof]);
    assert_eq!(only(b.frames_at_last()).flags, SYN);
    assert_eq!(counters(&node)[1..3], [1, 1]);
}

/// Half-open connections that cannot be kept are not counted; that must not keep a flood from being met.
#[test]
fn a_flood_beyond_the_limit_of_connections_is_met() {
    let shield = ShieldView {
        half_open: 1 << 20,
        ..ShieldView::default()
    };
    let (mut node, mut a, mut b) = node(shield, &[]);
    let tracking = ConnectionSettings {
        port_limits: [(1, 8)].into(),
        ..ConnectionSettings::default()
    };
    node.switch.set_tracking(&tracking).unwrap();
    let (_, server) = ends(false, 0);
    flood(&mut a, server, 1, 50);
    let (passed, answered) = (b.frames().len(), a.frames().len());
    assert!((8..=10).contains(&passed), "{passed}");
    assert_eq!(passed + answered, 50);
    assert_eq!(counters(&node)[4], 1);
}

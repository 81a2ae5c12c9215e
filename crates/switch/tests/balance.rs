//! Load balancers between guests on one node: who gets a connection, and what comes back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use driver::*;
use sumeru_packet::view::Tcp;
use sumeru_switch::balance::{Algorithm, Answering, Balancer, Member, Shared, VirtualAddress};
use sumeru_switch::conntrack::Filter;
use sumeru_switch::services::{Host, Place, Route, Router, Services, Way};
use sumeru_switch::stats::Stage;
use sumeru_switch::worker::Traced;

const HERE: [Mac; 2] = [[6, 0, 0, 0, 0, 1], [6, 0, 0, 0, 0, 2]];
const ZONE: u16 = 0xe000;
const SYN: u8 = Tcp::SYN;
const ACK: u8 = Tcp::ACK;

fn ip(network: u8, host: u8) -> u32 {
    u32::from_be_bytes([10, 0, network, host])
}

fn address(network: u8, host: u8) -> IpAddr {
    Ipv4Addr::from_bits(ip(network, host)).into()
}

fn balancer(name: &str, zone: u16, proto: u8, algorithm: Algorithm, members: &[u8]) -> Balancer {
    Balancer {
        name: name.into(),
        zone,
        address: address(1, 100),
        proto,
        port: 80,
        algorithm,
        members: members
            .iter()
            .map(|n| Member {
                address: address(1, *n),
                port: 8080,
                network: 1,
                weight: 1,
                draining: false,
                slot: u16::from(*n) + 100 * (zone - ZONE),
                state: Shared::default(),
            })
            .collect(),
        state: Shared::default(),
    }
}

/// Network 1 with guests 1 (a client), 2 and 3 (servers), network 2 with guest 4; 10.0.1.100 is balanced. With or without a router between them.
struct Site {
    node: Node,
    guests: [Guest; 4],
    tcp: Arc<Balancer>,
    udp: Arc<Balancer>,
}

fn site(algorithm: Algorithm, routed: bool) -> Site {
    site_with(algorithm, routed, None)
}

/// The same; guest 3 may be behind a tunnel to another node.
fn site_with(algorithm: Algorithm, routed: bool, far: Option<IpAddr>) -> Site {
    let mut node = Node::with_networks(&[1, 2]);
    if let Some(far) = far {
        node.network(1, &[&far.to_string()], 0);
    }
    let mut guest = |port, network| {
        let options = Options {
            network: Some(network),
            ..Options::default()
        };
        node.guest(port, &options)
    };
    let guests = [guest(1, 1), guest(2, 1), guest(3, 1), guest(4, 2)];
    let tcp = Arc::new(balancer("web", ZONE, 6, algorithm, &[2, 3]));
    let udp = Arc::new(balancer("dns", ZONE + 1, 17, algorithm, &[2, 3]));
    let route = |network: u8| Route {
        prefix: address(network, 0),
        length: 24,
        way: Way::Link(network.into()),
    };
    let router = Arc::new(Router {
        name: "r".into(),
        routes: vec![route(1), route(2)],
    });
    let here = |network: u8| Host {
        mac: HERE[usize::from(network) - 1],
        place: Place::Here,
    };
    let known = |network: u8, n: u8| {
        let host = Host {
            mac: mac(n),
            place: match far.filter(|_| n == 3) {
                Some(far) => Place::Remote(far),
                None => Place::Port(n.into()),
            },
        };
        (address(network, n), host)
    };
    let both = vec![tcp.clone(), udp.clone()];
    let called = VirtualAddress {
        balancers: both.clone(),
    };
    let mut services = HashMap::new();
    for network in [1, 2_u8] {
        let hosts = match network {
            1 => vec![
                known(1, 1),
                known(1, 2),
                known(1, 3),
                (address(1, 100), here(1)),
            ],
            _ => vec![known(2, 4)],
        };
        let of = Services {
            mac: HERE[usize::from(network) - 1],
            hosts: hosts.into_iter().collect(),
            router: routed.then(|| router.clone()),
            virtual_addresses: [(address(1, 100), called.clone())].into(),
            answering: Answering {
                members: [2, 3].map(|n| (address(1, n), both.clone())).into(),
                ports: [2, 3].into(),
                remote: far.is_some(),
                ..Answering::default()
            },
            mtu: 1500,
            ..Services::default()
        };
        services.insert(network.into(), Arc::new(of));
    }
    node.switch.set_services(services).unwrap();
    Site {
        node,
        guests,
        tcp,
        udp,
    }
}

fn segment(macs: (Mac, Mac), from: End, to: End, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    driver::segment(macs, from, to, flags, (seq, ack), b"")
}

/// Where a frame comes from and goes to.
fn ends(frame: &[u8]) -> (End, End) {
    verify(frame);
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let port = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
    ((word(26), port(34)), (word(30), port(36)))
}

const VIRTUAL: End = (0x0a00_0164, 80);

impl Site {
    /// A client calls from a port; the number of the guest that hears it.
    fn call(&mut self, port: u16) -> u8 {
        let from = (ip(1, 1), port);
        let syn = segment((mac(1), HERE[0]), from, VIRTUAL, SYN, 1, 0);
        self.guests[0].send(&[syn]);
        for n in [2, 3_u8] {
            if let Some(frame) = self.guests[usize::from(n) - 1].frames().first() {
                assert_eq!(ends(frame), (from, (ip(1, n), 8080)));
                assert_eq!((&frame[..6], &frame[6..12]), (&mac(n)[..], &HERE[0][..]));
                return n;
            }
        }
        0
    }

    fn answer(&mut self, n: u8, to: (Mac, End), flags: u8, seq: u32, ack: u32) {
        let from = (ip(1, n), 8080);
        let answer = segment((mac(n), to.0), from, to.1, flags, seq, ack);
        self.guests[usize::from(n) - 1].send(&[answer]);
    }

    fn live(&self, slot: u16) -> usize {
        let filter = Filter {
            member: Some(slot),
            ..Filter::default()
        };
        self.node
            .switch
            .connections(0, 1000, &filter)
            .unwrap()
            .0
            .len()
    }
}

#[test]
fn connections_are_spread_and_answers_come_from_the_virtual_address() {
    let mut site = site(Algorithm::RoundRobin, false);
    let heard: Vec<u8> = (0..4).map(|n| site.call(1000 + n)).collect();
    assert_eq!(heard, [2, 3, 2, 3]);
    // On one link the member answers its client, not the switch.
    let client = (mac(1), (ip(1, 1), 1000));
    site.answer(2, client, SYN | ACK, 7, 2);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]), (VIRTUAL, client.1));
    // The rest of the connection goes there too, from the cache in the end.
    let slow = site.node.stage(Stage::SlowPath);
    for n in 0..20 {
        let ack = segment((mac(1), HERE[0]), client.1, VIRTUAL, ACK, 2, 8);
        site.guests[0].send(&[ack]);
        let got = site.guests[1].frames();
        assert_eq!(ends(&got[0]), (client.1, (ip(1, 2), 8080)), "{n}");
        site.answer(2, client, ACK, 8, 2);
        assert_eq!(ends(&site.guests[0].frames()[0]), (VIRTUAL, client.1));
    }
    assert!(site.node.stage(Stage::SlowPath) - slow <= 4);
    assert_eq!((site.live(2), site.live(3)), (2, 2));
    let sums = site.tcp.members[0].state.sums();
    assert_eq!((sums.connections, sums.packets), (2, [22, 21]));
    assert!(site.guests[2].frames().is_empty());
    // What it says otherwise is as it is.
    let direct = datagram((mac(2), mac(1)), (ip(1, 2), 9), (ip(1, 1), 9));
    site.guests[1].send(&[direct]);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]).0, (ip(1, 2), 9));
}

#[test]
fn the_same_goes_for_datagrams_and_through_a_router() {
    let mut site = site(Algorithm::RoundRobin, true);
    let from = (ip(2, 4), 5000);
    let macs = (mac(4), HERE[1]);
    for _ in 0..3 {
        site.guests[3].send(&[datagram(macs, from, VIRTUAL)]);
        let got = site.guests[1].frames();
        assert_eq!(ends(&got[0]), (from, (ip(1, 2), 8080)));
        let answer = datagram((mac(2), HERE[0]), (ip(1, 2), 8080), from);
        site.guests[1].send(&[answer]);
        let got = site.guests[3].frames();
        assert_eq!(ends(&got[0]), (VIRTUAL, from));
        assert_eq!(&got[0][..6], &mac(4));
    }
    assert_eq!(site.udp.members[0].state.sums().packets, [3, 3]);
}

#[test]
fn a_sender_stays_and_a_member_that_fails_gets_nothing_new() {
    let mut site = site(Algorithm::SourceHash, false);
    let first = site.call(1000);
    assert!((1..20).all(|n| site.call(1000 + n) == first));
    let other = 5 - first;
    let member = site.tcp.members.iter();
    let failed = member.clone().find(|m| m.slot == u16::from(first)).unwrap();
    failed.state.set_up(false);
    assert_eq!(site.call(1100), other);
    // What it had goes on until somebody ends it.
    assert_eq!(site.call(1000), first);
    let slot = Some(u16::from(first));
    let of = Filter {
        member: slot,
        ..Filter::default()
    };
    assert_eq!(site.node.switch.flush_connections(&of).unwrap(), 20);
    let ack = segment((mac(1), HERE[0]), (ip(1, 1), 1000), VIRTUAL, ACK, 2, 8);
    site.guests[0].send(&[ack]);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]).0, VIRTUAL);
    assert_eq!(got[0][47], Tcp::RST);
    assert_eq!(site.call(1000), other);
}

#[test]
fn the_least_loaded_gets_the_next() {
    let mut site = site(Algorithm::LeastConnections, false);
    for n in 0..10 {
        site.call(1000 + n);
    }
    assert_eq!((site.live(2), site.live(3)), (5, 5));
    let of = Filter {
        member: Some(3),
        ..Filter::default()
    };
    site.node.switch.flush_connections(&of).unwrap();
    assert!((0..5).all(|n| site.call(2000 + n) == 3));
    assert_eq!((site.live(2), site.live(3)), (5, 5));
}

#[test]
fn a_member_calls_its_own_address() {
    for routed in [false, true] {
        let mut site = site(Algorithm::RoundRobin, routed);
        let me = (ip(1, 2), 6000);
        let syn = segment((mac(2), HERE[0]), me, VIRTUAL, SYN, 1, 0);
        site.guests[1].send(&[syn]);
        let got = site.guests[1].frames();
        let (from, to) = ends(&got[0]);
        assert_eq!((from.0, to), (VIRTUAL.0, (ip(1, 2), 8080)));
        site.answer(2, (HERE[0], from), SYN | ACK, 5, 2);
        let got = site.guests[1].frames();
        assert_eq!(ends(&got[0]), (VIRTUAL, me));
        assert_eq!(&got[0][..6], &mac(2));
    }
}

#[test]
fn who_gets_no_member_is_told() {
    let mut site = site(Algorithm::RoundRobin, false);
    for balancer in [&site.tcp, &site.udp] {
        balancer.members.iter().for_each(|m| m.state.set_up(false));
    }
    assert_eq!(site.call(1000), 0);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]), (VIRTUAL, (ip(1, 1), 1000)));
    assert_eq!(got[0][47], Tcp::RST | Tcp::ACK);
    let macs = (mac(1), HERE[0]);
    site.guests[0].send(&[datagram(macs, (ip(1, 1), 7), VIRTUAL)]);
    let got = site.guests[0].frames();
    verify(&got[0]);
    assert_eq!((got[0][23], &got[0][34..36]), (1, &[3, 3][..]));
    assert_eq!(site.tcp.state.refused(), 1);
    assert_eq!(site.udp.state.refused(), 1);
    // One comes back, and the next call is its.
    site.tcp.members[1].state.set_up(true);
    assert_eq!(site.call(1001), 3);
    // Other ports are closed, and who asks whether it is there is answered.
    site.guests[0].send(&[datagram(macs, (ip(1, 1), 7), (VIRTUAL.0, 81))]);
    assert_eq!(site.guests[0].frames()[0][34..36], [3, 3]);
    assert_eq!(site.udp.state.refused(), 1);
}

#[test]
fn errors_about_a_connection_find_its_ends() {
    let mut site = site(Algorithm::RoundRobin, false);
    let from = (ip(1, 1), 7);
    site.guests[0].send(&[datagram((mac(1), HERE[0]), from, VIRTUAL)]);
    let got = site.guests[1].frames();
    // The member has nobody on that port: it quotes what it got.
    let quoted = &got[0][14..];
    let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&quoted[..28]);
    let sum = {
        let mut sum: u32 = body
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
            .sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut error = build(|f| {
        f.ethernet(mac(1), mac(2))
            .ipv4(ip(1, 2), ip(1, 1))
            .udp(0, 0)
            .payload(&body[8..])
    });
    error[23] = 1;
    error[34..42].copy_from_slice(&body[..8]);
    let sum = {
        error[24..26].fill(0);
        let mut sum: u32 = error[14..34]
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
            .sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    error[24..26].copy_from_slice(&sum.to_be_bytes());
    site.guests[1].send(&[error]);
    let got = site.guests[0].frames();
    verify(&got[0]);
    assert_eq!(&got[0][26..30], &VIRTUAL.0.to_be_bytes());
    // And quotes what the client sent.
    assert_eq!(&got[0][42 + 16..42 + 20], &VIRTUAL.0.to_be_bytes());
    assert_eq!(&got[0][42 + 22..42 + 24], &80_u16.to_be_bytes());
}

#[test]
fn a_trace_says_who_would_get_it_and_keeps_nothing() {
    let mut site = site(Algorithm::RoundRobin, false);
    let syn = segment((mac(1), HERE[0]), (ip(1, 1), 1), VIRTUAL, SYN, 1, 0);
    for _ in 0..3 {
        let traced: Traced = site.node.switch.trace(1, syn.clone()).unwrap();
        let said = traced.notes.iter().any(|note| {
            note.stage == "load-balancer"
                && note.text
                    == "load-balancer web: 2 of 2 members open, 10.0.1.2 port 8080 by round-robin"
        });
        assert!(said, "{:?}", traced.notes);
        let (port, frame) = &traced.outputs[0];
        assert_eq!((*port, ends(frame).1), (2, (ip(1, 2), 8080)));
    }
    assert_eq!(site.live(2) + site.live(3), 0);
    assert_eq!(site.call(1000), 2);
}

#[test]
fn others_cannot_answer_for_a_member() {
    let mut site = site(Algorithm::RoundRobin, false);
    assert_eq!(site.call(1000), 2);
    // Guest 3 says it is guest 2: the frame is its own, not an answer of the virtual address.
    let client = (ip(1, 1), 1000);
    let forged = segment((mac(3), mac(1)), (ip(1, 2), 8080), client, SYN | ACK, 7, 2);
    site.guests[2].send(&[forged]);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]).0, (ip(1, 2), 8080));
    // Frames cut anywhere harm nobody.
    let syn = segment((mac(1), HERE[0]), (ip(1, 1), 1001), VIRTUAL, SYN, 1, 0);
    for len in 14..syn.len() {
        site.guests[0].send(&[&syn[..len]]);
    }
    site.guests
        .iter_mut()
        .for_each(|guest| drop(guest.frames()));
    assert_eq!(site.call(1002), 3);
}

#[test]
fn connections_keep_their_members_over_a_restart() {
    let file = || {
        let path = std::env::temp_dir().join(format!("sumeru-balance-{}", std::process::id()));
        let mut options = std::fs::File::options();
        options.read(true).write(true).create(true);
        let file = options.open(&path).unwrap();
        (file, path)
    };
    let mut before = site(Algorithm::RoundRobin, false);
    assert_eq!(
        [before.call(1000), before.call(1001), before.call(1002)],
        [2, 3, 2]
    );
    before.answer(2, (mac(1), (ip(1, 1), 1000)), SYN | ACK, 7, 2);
    // Those that are open are kept.
    let ack = segment((mac(1), HERE[0]), (ip(1, 1), 1000), VIRTUAL, ACK, 2, 8);
    before.guests[0].send(&[&ack]);
    let saved = before.node.switch.save_connections(file().0).unwrap();
    let saved = saved.unwrap();
    let mut after = site(Algorithm::RoundRobin, false);
    let (kept, path) = file();
    let restored = after.node.switch.restore_connections(kept, Arc::new(Some));
    std::fs::remove_file(path).unwrap();
    assert_eq!(restored.unwrap().unwrap().connections, saved);
    assert_eq!((saved, after.live(2), after.live(3)), (1, 1, 0));
    // It goes on, and its member is found by its number.
    after.guests[0].send(&[ack]);
    assert_eq!(ends(&after.guests[1].frames()[0]).1, (ip(1, 2), 8080));
    assert_eq!(after.tcp.members[0].state.sums().packets, [1, 0]);
}

#[test]
fn a_member_on_another_node_is_called_and_answers_by_the_tunnel() {
    let far: IpAddr = "192.0.2.2".parse().unwrap();
    let mut site = site_with(Algorithm::RoundRobin, false, Some(far));
    let mut wire = site
        .node
        .uplink(9, &[("192.0.2.1", 24)], Options::default().features);
    let mut answer = [0; 64];
    let (theirs, ours) = ("192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let question = wire.frames_at_last();
    assert!(!question.is_empty(), "the remote is asked for");
    let len =
        sumeru_packet::build::arp_reply(&mut answer, mac(0xfb), theirs, mac(0xee), ours).unwrap();
    wire.send(&[&answer[..len]]);
    wire.frames();
    assert_eq!(site.call(1000), 2);
    assert_eq!(site.call(1001), 0, "it is for nobody here");
    let sent = wire.frames();
    let inner = &sent[0][50..];
    let from = (ip(1, 1), 1001);
    assert_eq!(ends(inner), (from, (ip(1, 3), 8080)));
    // The other node has no connection, and sends the answer as it is.
    let answer = segment((mac(3), mac(1)), (ip(1, 3), 8080), from, SYN | ACK, 7, 2);
    let tunnelled = |src: u32| {
        build(|f| {
            f.ethernet(mac(0xee), mac(0xfb))
                .ipv4(src, 0xc000_0201)
                .udp(50_000, 4789)
                .vxlan(1)
                .payload(&answer)
        })
    };
    wire.send(&[tunnelled(0xc000_0202)]);
    let got = site.guests[0].frames();
    assert_eq!(ends(&got[0]), (VIRTUAL, from));
    // From guest 3 of this node the same is a forgery.
    site.guests[2].send(&[&answer]);
    let got = site.guests[0].frames();
    assert!(got.iter().all(|frame| ends(frame).0 != VIRTUAL));
}

//! Routers, floating addresses and the switch's answers between guests on one node, from the slow path and from the cache; frames made to hurt.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use driver::*;
use sumeru_packet::build::arp_request;
use sumeru_switch::services::{Advertisement, Floating, Host, Place, Route, Router, Services, Way};
use sumeru_switch::stats::{Drop, Stage};

/// The switch on networks 1 and 2.
const HERE: [Mac; 2] = [[6, 0, 0, 0, 0, 1], [6, 0, 0, 0, 0, 2]];
const OUTSIDE: Mac = [0x0a, 0, 0, 0, 0, 9];

fn ip(network: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, network, host))
}

/// Frames but announcements of the floating address, which come when it is time.
fn but_announcements(outside: &mut Guest) -> Vec<Vec<u8>> {
    let mut frames = outside.frames();
    frames.retain(|frame| frame[12..14] != [8, 6] || frame[28..32] != frame[38..42]);
    frames
}

/// Guest `n`, which is 10.0.n.n, outside: there it is 10.0.9.n.
fn floating(n: u8, mac: Mac) -> Floating {
    Floating {
        name: format!("f{n}").into(),
        address: ip(9, n),
        mac,
        network: 9,
        prefix: (ip(9, 0), 24),
        gateway: Some(ip(9, 254)),
        port: n.into(),
        inside_network: n.into(),
        inside: ip(n, n),
    }
}

/// Networks 1 (guest 1, known; guest 3, not known) and 2 (guest 2, known) with a router; network 9 outside, where guest 1 is also 10.0.9.1.
fn routed() -> (Node, [Guest; 3], Guest) {
    let mut node = Node::with_networks(&[1, 2, 9]);
    let mut guest = |port, network| {
        let options = Options {
            network: Some(network),
            ..Options::default()
        };
        node.guest(port, &options)
    };
    let guests = [guest(1, 1), guest(2, 2), guest(3, 1)];
    let outside = guest(4, 9);
    node.switch.set_services(services()).unwrap();
    (node, guests, outside)
}

/// What the switch does on these networks.
fn services() -> HashMap<u32, Arc<Services>> {
    let route = |prefix, length, way| Route {
        prefix,
        length,
        way,
    };
    let groups = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0));
    let mut routes = vec![route(groups, 4, Way::Nowhere)];
    for network in [1, 2] {
        routes.push(route(ip(network, 0), 24, Way::Link(network.into())));
        routes.push(route(ip(network, 254), 32, Way::Own));
    }
    let router = Arc::new(Router {
        name: "r".into(),
        routes,
    });
    let floating = floating(1, OUTSIDE);
    let mut all = HashMap::new();
    for network in [1, 2] {
        let port = u16::from(network);
        let host = |n, place| {
            let mac = match place {
                Place::Here => HERE[usize::from(network) - 1],
                _ => mac(n),
            };
            Host { mac, place }
        };
        let own = Ipv4Addr::new(10, 0, network, 254);
        let hosts = [
            (ip(network, network), host(network, Place::Port(port))),
            (own.into(), host(254, Place::Here)),
        ];
        let mut services = Services {
            mac: HERE[usize::from(network) - 1],
            hosts: hosts.into(),
            router: Some(router.clone()),
            own: (Some(own), None),
            mtu: 1400,
            ..Services::default()
        };
        if network == 1 {
            services.outside.insert(ip(1, 1), floating.clone());
        }
        all.insert(u32::from(network), Arc::new(services));
    }
    let host = Host {
        mac: OUTSIDE,
        place: Place::Here,
    };
    let services = Services {
        mac: [6, 0, 0, 0, 0, 9],
        hosts: [(ip(9, 1), host)].into(),
        floating_macs: [OUTSIDE].into(),
        floating: [(ip(9, 1), floating)].into(),
        mtu: 1400,
        ..Services::default()
    };
    all.insert(9, Arc::new(services));
    all
}

fn number(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(_) => unreachable!("only IPv4 here"),
    }
}

fn packet(src: Mac, dst: Mac, from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    build(|f| {
        f.ethernet(dst, src)
            .ipv4(number(from), number(to))
            .udp(1000, 2000)
            .payload(&pattern(len))
    })
}

#[test]
fn packets_are_routed_and_errors_told() {
    let (node, [mut a, mut b, _c], _) = routed();
    let asked = packet(mac(1), HERE[0], ip(1, 1), ip(2, 2), 100);
    // The first is decided, the others are served from the cache.
    for _ in 0..4 {
        a.send(&[&asked]);
        let mut expected = packet(HERE[1], mac(2), ip(1, 1), ip(2, 2), 100);
        expected[22] = 63;
        let got = b.frames();
        verify(&got[0]);
        assert_eq!(got[0][..22], expected[..22]);
        assert_eq!((got[0][22], &got[0][26..]), (63, &expected[26..]));
    }
    assert_eq!(node.stage(Stage::Route), 4);
    let hits = node.stage(Stage::ExactHit) + node.stage(Stage::WildcardHit);
    assert!(hits >= 2, "{hits}");
    // The same flow at the end of its time.
    let mut last = asked.clone();
    last[22] = 1;
    last[24..26].copy_from_slice(&[0; 2]);
    let sum = sumeru_packet::checksum::checksum(&last[14..34]);
    last[24..26].copy_from_slice(&sum.to_be_bytes());
    a.send(&[&last]);
    assert!(b.frames().is_empty());
    let told = a.frames();
    verify(&told[0]);
    assert_eq!(told[0][..12], [mac(1), HERE[0]].concat());
    assert_eq!((told[0][34], told[0][35]), (11, 0), "time exceeded");
    assert_eq!(told[0][26..30], [10, 0, 1, 254]);
    // Too long for the other network, and may not be cut.
    a.send(&[packet(mac(1), HERE[0], ip(1, 1), ip(2, 2), 1380)]);
    assert!(b.frames().is_empty());
    let told = a.frames();
    assert_eq!((told[0][34], told[0][35]), (3, 4), "fragmentation needed");
    assert_eq!(told[0][40..42], 1400_u16.to_be_bytes());
    // Guest 2 has no floating address: there is no way out.
    b.send(&[packet(mac(2), HERE[1], ip(2, 2), ip(9, 7), 10)]);
    let told = b.frames();
    assert_eq!((told[0][34], told[0][35]), (3, 0), "network unreachable");
    // Nobody takes a port of the router.
    b.send(&[packet(mac(2), HERE[1], ip(2, 2), ip(2, 254), 10)]);
    let told = b.frames();
    assert_eq!((told[0][34], told[0][35]), (3, 3), "port unreachable");
}

#[test]
fn a_host_that_is_not_known_is_asked_for() {
    let (node, [mut a, mut b, mut c], _) = routed();
    let asked = packet(mac(2), HERE[1], ip(2, 2), ip(1, 3), 10);
    b.send(&[&asked, &asked]);
    assert_eq!(node.drops(Drop::NeighbourUnresolved), 2);
    let question = c.frames();
    assert_eq!(question.len(), 1, "once");
    assert_eq!(a.frames(), question, "all of the network are asked");
    let mut expected = [0; 64];
    let (own, host) = (Ipv4Addr::new(10, 0, 1, 254), Ipv4Addr::new(10, 0, 1, 3));
    let len = arp_request(&mut expected, HERE[0], own, host).unwrap();
    assert_eq!(question[0], expected[..len]);
    // An answer that nobody asked for changes nothing.
    let answer = |mac, address: Ipv4Addr| {
        let mut reply = [0; 64];
        let len = sumeru_packet::build::arp_reply(&mut reply, mac, address, HERE[0], own).unwrap();
        reply[..len].to_vec()
    };
    c.send(&[answer(mac(3), Ipv4Addr::new(10, 0, 1, 77))]);
    c.send(&[answer(mac(3), host)]);
    b.send(&[&asked]);
    let got = c.frames();
    assert_eq!(got[0][..12], [mac(3), HERE[0]].concat());
    assert!(a.frames().is_empty());
}

#[test]
fn a_floating_address_stands_for_a_port() {
    let (node, [mut a, _b, _c], mut outside) = routed();
    let peer = ip(9, 7);
    let inward = packet(mac(7), OUTSIDE, peer, ip(9, 1), 10);
    for _ in 0..2 {
        outside.send(&[&inward]);
        let got = a.frames();
        verify(&got[0]);
        assert_eq!(got[0][..12], [mac(1), HERE[0]].concat());
        assert_eq!(
            (&got[0][26..30], &got[0][30..34]),
            (&[10, 0, 9, 7][..], &[10, 0, 1, 1][..])
        );
    }
    let outward = packet(mac(1), HERE[0], ip(1, 1), peer, 10);
    a.send(&[&outward]);
    let question = but_announcements(&mut outside);
    assert_eq!(question[0][..12], [BROADCAST, OUTSIDE].concat());
    let mut reply = [0; 64];
    let (own, host) = (Ipv4Addr::new(10, 0, 9, 1), Ipv4Addr::new(10, 0, 9, 7));
    let len = sumeru_packet::build::arp_reply(&mut reply, mac(7), host, OUTSIDE, own).unwrap();
    outside.send(&[&reply[..len]]);
    for _ in 0..2 {
        a.send(&[&outward]);
        let got = but_announcements(&mut outside);
        verify(&got[0]);
        assert_eq!(got[0][..12], [mac(7), OUTSIDE].concat());
        assert_eq!(
            (&got[0][26..30], &got[0][30..34]),
            (&[10, 0, 9, 1][..], &[10, 0, 9, 7][..])
        );
    }
    // Another port that takes the guest's address does not get its floating one.
    let mut c = _c;
    c.send(&[packet(mac(3), HERE[0], ip(1, 1), peer, 10)]);
    assert!(but_announcements(&mut outside).is_empty());
    assert_eq!(node.stage(Stage::Route), 4);
    // The outside is told where the address is, once.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let (mut node, _guests, mut outside) = routed();
    let mut announced = Vec::new();
    while announced.is_empty() {
        assert!(std::time::Instant::now() < deadline);
        node.switch.fdb().unwrap();
        announced = outside.frames();
    }
    assert_eq!(announced[0][..12], [BROADCAST, OUTSIDE].concat());
    assert_eq!(announced[0][28..32], [10, 0, 9, 1]);
    assert_eq!(announced[0][38..42], [10, 0, 9, 1]);
    node.switch.set_services(HashMap::new()).unwrap();
}

#[test]
fn what_is_made_to_hurt_is_counted() {
    let (node, [mut a, mut b, mut c], mut outside) = routed();
    // The switch's own address from a guest.
    a.send(&[packet(HERE[0], mac(3), ip(1, 254), ip(1, 3), 10)]);
    assert_eq!(node.drops(Drop::BadSource), 1);
    // What is no question, inside VLANs, and groups.
    let mut tagged = packet(mac(1), HERE[0], ip(1, 1), ip(2, 2), 10);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let nonsense = build(|f| f.ethernet(HERE[0], mac(1)).ethertype(0x88b5, &[0; 46]));
    a.send(&[tagged, nonsense]);
    assert_eq!(node.drops(Drop::Unanswered), 2);
    let group = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 5));
    a.send(&[packet(mac(1), HERE[0], ip(1, 1), group, 10)]);
    // Solicitations and requests that are cut short are somebody else's business: they are flooded like others.
    let request = |len| {
        let mut frame = [0; 64];
        let (from, to) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 1, 254));
        arp_request(&mut frame, mac(1), from, to).unwrap();
        frame[..len].to_vec()
    };
    a.send(&[request(30)]);
    a.frames();
    // A flood of questions gets so many answers, and no more; the others are served all the same.
    let burst: Vec<Vec<u8>> = (0..100).map(|_| request(42)).collect();
    let mut answers = 0;
    for _ in 0..30 {
        a.send(&burst);
        answers += a.frames().len();
    }
    assert!((1000..=3000).contains(&answers), "{answers} of 3000");
    if answers < 3000 {
        assert_eq!(node.drops(Drop::AnswerLimit), 3000 - answers as u64);
    }
    b.send(&[packet(mac(2), HERE[1], ip(2, 2), ip(1, 1), 10)]);
    assert_eq!(a.frames().len(), 1);
    let (seen, far) = (c.frames(), but_announcements(&mut outside));
    assert!(seen.is_empty() && far.is_empty(), "{seen:02x?} {far:02x?}");
}

#[test]
fn a_tenant_behind_a_tunnel_says_nothing_to_the_underlay() {
    let (mut node, _guests, _outside) = routed();
    node.network(2, &["192.0.2.2"], 0);
    let mut wire = node.uplink(7, &[("192.0.2.1", 24)], Options::default().features);
    let question = wire.frames_at_last();
    assert!(!question.is_empty(), "the remote is asked for");
    let inside = |dst: Mac, arp: &[u8]| {
        build(|f| {
            f.ethernet(mac(0xee), mac(0x77))
                .ipv4(0xc000_0202, 0xc000_0201)
                .udp(50_000, 4789)
                .vxlan(2)
                .ethernet(dst, mac(0x66))
                .ethertype(0x0806, arp)
        })
    };
    // "192.0.2.2 is at 66", to the router.
    let mut reply = [0; 64];
    let (liar, router) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 254));
    let len =
        sumeru_packet::build::arp_reply(&mut reply, mac(0x66), liar, HERE[1], router).unwrap();
    wire.send(&[inside(HERE[1], &reply[14..len])]);
    assert_eq!(node.drops(Drop::Unanswered), 1);
    assert_eq!(node.drops(Drop::Consumed), 0);
    // A question for the router is not answered through the tunnel either: its host has a node of its own.
    let len = arp_request(&mut reply, mac(0x66), liar, router).unwrap();
    wire.send(&[inside(HERE[1], &reply[14..len])]);
    assert_eq!(node.drops(Drop::Unanswered), 2);
}

/// Changes what the switch does on a network.
fn change(all: &mut HashMap<u32, Arc<Services>>, network: u32, how: impl FnOnce(&mut Services)) {
    how(Arc::make_mut(all.get_mut(&network).unwrap()));
}

#[test]
fn errors_between_floating_addresses_come_to_who_sent_the_packet() {
    let (mut node, [mut a, mut b, _c], _outside) = routed();
    let mut all = services();
    let far = floating(2, [0x0a, 0, 0, 0, 0, 8]);
    change(&mut all, 2, |inside| {
        inside.outside.insert(far.inside, far.clone());
        inside.mtu = 600;
    });
    change(&mut all, 9, |outside| {
        outside.floating_macs.insert(far.mac);
        outside.floating.insert(far.address, far);
    });
    node.switch.set_services(all).unwrap();
    for _ in 0..2 {
        a.send(&[packet(mac(1), HERE[0], ip(1, 1), ip(9, 2), 100)]);
        let got = b.frames();
        verify(&got[0]);
        assert_eq!(
            (&got[0][26..30], &got[0][30..34]),
            (&[10, 0, 9, 1][..], &[10, 0, 2, 2][..])
        );
    }
    // Too long for where the other is: the guest knows itself and the packet that it sent.
    a.send(&[packet(mac(1), HERE[0], ip(1, 1), ip(9, 2), 700)]);
    assert!(b.frames().is_empty());
    let told = a.frames();
    verify(&told[0]);
    assert_eq!((told[0][34], told[0][35]), (3, 4), "fragmentation needed");
    assert_eq!(told[0][40..42], 600_u16.to_be_bytes());
    assert_eq!(told[0][30..34], [10, 0, 1, 1]);
    assert_eq!(told[0][42 + 12..42 + 20], [10, 0, 1, 1, 10, 0, 9, 2]);
}

#[test]
fn senders_that_nobody_forwards_for_stay_on_their_link() {
    let (node, [mut a, mut b, _c], mut outside) = routed();
    let from = |sender: [u8; 4]| IpAddr::from(sender);
    let stray = [
        ([0, 0, 0, 7], Drop::BadSource),
        ([127, 0, 0, 1], Drop::BadSource),
        ([224, 0, 0, 5], Drop::BadSource),
        ([255; 4], Drop::BadSource),
        ([169, 254, 1, 1], Drop::NoRoute),
    ];
    for (sender, reason) in stray {
        for (guest, to) in [
            (&mut a, packet(mac(1), HERE[0], from(sender), ip(2, 2), 10)),
            (
                &mut outside,
                packet(mac(7), OUTSIDE, from(sender), ip(9, 1), 10),
            ),
        ] {
            let before = node.drops(reason);
            guest.send(&[to]);
            assert_eq!(node.drops(reason), before + 1, "{sender:?}");
        }
    }
    a.send(&[packet(
        mac(1),
        HERE[0],
        from([169, 253, 1, 1]),
        ip(2, 2),
        10,
    )]);
    assert_eq!(b.frames().len(), 1);
    assert!(a.frames().is_empty());
}

#[test]
fn hosts_are_told_of_their_router_when_it_changes_and_only_on_its_link() {
    let (mut node, [mut a, _b, _c], _outside) = routed();
    let advertised = |managed| {
        let mut all = services();
        change(&mut all, 1, |one| {
            one.advertisement = Some(Arc::new(Advertisement {
                mac: HERE[0],
                lifetime: 1800,
                managed,
                mtu: 1400,
                prefixes: Vec::new(),
                dns_servers: Vec::new(),
            }));
        });
        all
    };
    let told = |node: &Node, a: &mut Guest| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            assert!(std::time::Instant::now() < deadline, "nobody is told");
            node.switch.fdb().unwrap();
            let frames = a.frames();
            let said = frames.iter().find(|f| f.len() > 60 && f[54] == 134);
            if let Some(said) = said {
                return (said[59], u16::from_be_bytes([said[60], said[61]]));
            }
        }
    };
    for managed in [false, true] {
        node.switch.set_services(advertised(managed)).unwrap();
        assert_eq!(told(&node, &mut a), (u8::from(managed) << 7, 1800));
    }
    // Who asks is told at once, but not who asks from somewhere else.
    let solicitation = |hop_limit| {
        let mut frame = build(|f| {
            f.ethernet([0x33, 0x33, 0, 0, 0, 2], mac(1))
                .ipv6(0xfe80 << 112 | 1, 0xff02 << 112 | 2)
                .icmp(133, 0, 0)
        });
        frame[21] = hop_limit;
        frame
    };
    a.send(&[solicitation(64)]);
    assert_eq!(node.stage(Stage::Answer), 0);
    a.send(&[solicitation(255)]);
    assert_eq!(node.stage(Stage::Answer), 1);
    a.frames();
    // A router that goes says good-bye.
    node.switch.set_services(services()).unwrap();
    assert_eq!(told(&node, &mut a), (0x80, 0));
}

#[test]
fn a_floating_address_is_told_to_whoever_comes_later() {
    let mut node = Node::with_networks(&[1, 2, 9]);
    node.switch.set_services(services()).unwrap();
    // The lcore has looked, and nobody was there.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let mut outside = node.guest(
        4,
        &Options {
            network: Some(9),
            ..Options::default()
        },
    );
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut announced = Vec::new();
    while announced.is_empty() {
        assert!(std::time::Instant::now() < deadline);
        node.switch.fdb().unwrap();
        announced = outside.frames();
    }
    assert_eq!(announced[0][28..32], [10, 0, 9, 1]);
}

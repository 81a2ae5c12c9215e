//! The cases of `bench-switch`: what the switch is set up to do, the traffic, the goal.
//!
//! Frames have 64 bytes without their check sequence unless said otherwise. Whatever testpmd can make, testpmd makes.

use crate::generator::frame::{Addresses, Mac, VXLAN_PORT, udp, vxlan};
use crate::generator::plan::{Field, Plan, Sequence, Tuple, Way, Wheel};
use crate::generator::{Direction, Load};
use crate::lane::Traffic;
use crate::switch::{Overlay, Rule, Setup};
use std::net::Ipv4Addr;

/// Bytes of a frame.
const FRAME: usize = 64;
/// Stations on one side of the learning bridge, and flows through a tunnel.
const STATIONS: u32 = 64;
/// Rules of the rules cases, one destination address each.
const DESTINATIONS: u32 = 4096;
/// The first address that rules by destination are for.
pub const FIRST_DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
/// New connections per point.
const CONNECTIONS: u64 = 1_000_000;
const LEFT: Mac = [2, 0, 0, 0, 0, 1];
const RIGHT: Mac = [2, 0, 0, 0, 0, 2];

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Busy cycles per packet: at most this part of the peer's.
    CyclesAtMost(f64),
    /// New connections per busy second: at least this many times the peer's.
    ConnectionsAtLeast(f64),
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Name in reports.
    pub name: &'static str,
    /// Cases with the same setup follow one another and share the switches.
    pub setup: Setup,
    /// Who sends what.
    pub traffic: Traffic,
    /// What is reached or missed.
    pub goal: Goal,
    /// What it does, in half a sentence.
    pub about: &'static str,
}

/// All of them, in the order in which they run.
pub fn cases() -> Vec<Case> {
    let testpmd = |mode, frame_bytes, first_bursts| Traffic::Testpmd {
        mode,
        frame_bytes,
        first_bursts,
    };
    let case = |name, setup: &Setup, traffic, goal, about| Case {
        name,
        setup: setup.clone(),
        traffic,
        goal,
        about,
    };
    let by_destination = Setup::Rules(destination_rules(DESTINATIONS).into());
    let most = |times: f64| Goal::CyclesAtMost(1.0 / times);
    vec![
        case(
            "v2v-64",
            &Setup::PortToPort,
            testpmd("io", 64, 24),
            most(2.5),
            "port to port by one rule each way; one flow each way",
        ),
        case(
            "v2v-1450",
            &Setup::PortToPort,
            testpmd("io", 1450, 24),
            most(1.8),
            "the same with frames of 1450 bytes",
        ),
        case(
            "flowgen-1k-64",
            &Setup::PortToPort,
            testpmd("flowgen", 64, 0),
            most(2.5),
            "the same with testpmd's 1,024 flows",
        ),
        case(
            "learn-64",
            &Setup::Learning,
            Traffic::Loop(learn()),
            most(2.5),
            "learning bridge without a rule, 64 stations and their gateway, all of them learnt; both ways",
        ),
        case(
            "rules-4k-flows-4k",
            &by_destination,
            Traffic::Loop(to_destinations(DESTINATIONS, 1)),
            most(2.5),
            "4,096 rules by destination address, one flow to each; one way",
        ),
        case(
            "rules-4k-flows-64k",
            &by_destination,
            Traffic::Loop(to_destinations(DESTINATIONS, 16)),
            most(2.5),
            "the same with 16 source ports to each: 65,536 flows",
        ),
        case(
            "ct-1k",
            &Setup::Conntrack,
            Traffic::Loop(connections(1024, 1)),
            most(3.0),
            "stateful forwarding of 1,024 established UDP connections, both ways",
        ),
        case(
            "ct-64k",
            &Setup::Conntrack,
            Traffic::Loop(connections(1024, 64)),
            most(4.0),
            "the same with 65,536",
        ),
        case(
            "ct-new",
            &Setup::Conntrack,
            Traffic::Connections(new_connections(), CONNECTIONS),
            Goal::ConnectionsAtLeast(3.0),
            "a million frames, each of a new UDP connection; the table, which held as many, is emptied before",
        ),
        case(
            "vxlan-encap-64",
            &Setup::Overlay,
            Traffic::Loop(encapsulated()),
            most(2.5),
            "from a guest into VXLAN over IPv4, 64 flows; one way",
        ),
        case(
            "vxlan-decap-64",
            &Setup::Overlay,
            Traffic::Loop(decapsulated()),
            most(2.5),
            "out of VXLAN over IPv4 to a guest, 64 flows; one way",
        ),
    ]
}

/// `count` rules: each sends one destination address from port 0 to port 1.
pub fn destination_rules(count: u32) -> Vec<Rule> {
    (0..count)
        .map(|number| Rule {
            dst: Some((u32::from(FIRST_DESTINATION) + number, 32)),
            to: Some(1),
            ..Rule::default()
        })
        .collect()
}

fn wheel(fields: &'static [Field], first: u32, count: u32) -> Wheel {
    Wheel {
        fields,
        first,
        count,
    }
}

fn addresses(mac: [Mac; 2]) -> Addresses {
    Addresses {
        mac,
        ipv4: [Ipv4Addr::new(10, 0, 0, 1), FIRST_DESTINATION],
        udp: [1024, 4000],
    }
}

fn load(directions: Vec<Direction>) -> Load {
    let prime = directions
        .iter()
        .map(|direction| direction.plan.flows())
        .max();
    Load {
        directions,
        announce: Vec::new(),
        neighbour: None,
        prime: prime.unwrap_or(0),
    }
}

/// Stations on the left talk to one on the right, as guests to their gateway.
fn learn() -> Load {
    let first = u32::from_be_bytes([LEFT[2], LEFT[3], 1, 0]);
    let direction = |from: usize, mac: [Mac; 2], stations: &'static [Field]| {
        let wheels = vec![wheel(stations, first, STATIONS)];
        Direction {
            from,
            to: vec![1 - from],
            plan: Plan::new(
                udp(&addresses(mac), FRAME),
                Sequence::Wheels(wheels),
                Way::Unchanged,
            ),
        }
    };
    load(vec![
        direction(0, [RIGHT, LEFT], &[Field::MacSrc]),
        direction(1, [LEFT, RIGHT], &[Field::MacDst]),
    ])
}

/// `ports` flows to each of `destinations` addresses, from port 0 to port 1.
pub fn to_destinations(destinations: u32, ports: u32) -> Load {
    let wheels = vec![
        wheel(
            &[Field::Ipv4Dst],
            u32::from(FIRST_DESTINATION),
            destinations,
        ),
        wheel(&[Field::UdpSrc], 1024, ports),
    ];
    let plan = Plan::new(
        udp(&addresses([RIGHT, LEFT]), FRAME),
        Sequence::Wheels(wheels),
        Way::Unchanged,
    );
    load(vec![Direction {
        from: 0,
        to: vec![1],
        plan,
    }])
}

/// The flows of a table, from port 0 to the ports 1 up to `ports`.
pub fn table(flows: Vec<Tuple>, ports: usize) -> Load {
    let plan = Plan::new(
        udp(&addresses([RIGHT, LEFT]), FRAME),
        Sequence::Table(flows.into()),
        Way::Unchanged,
    );
    load(vec![Direction {
        from: 0,
        to: (1..=ports).collect(),
        plan,
    }])
}

/// `clients` addresses with `ports` connections each from port 0 to one server at port 1, and its answers.
fn connections(clients: u32, ports: u32) -> Load {
    let (first, server) = (Ipv4Addr::new(10, 2, 0, 1), Ipv4Addr::new(10, 3, 0, 1));
    let there = Addresses {
        mac: [RIGHT, LEFT],
        ipv4: [first, server],
        udp: [1024, 4000],
    };
    let back = Addresses {
        mac: [LEFT, RIGHT],
        ipv4: [server, first],
        udp: [4000, 1024],
    };
    let direction =
        |from: usize, addresses: &Addresses, client: &'static [Field], port: &'static [Field]| {
            let wheels = vec![
                wheel(client, u32::from(first), clients),
                wheel(port, 1024, ports),
            ];
            Direction {
                from,
                to: vec![1 - from],
                plan: Plan::new(
                    udp(addresses, FRAME),
                    Sequence::Wheels(wheels),
                    Way::Unchanged,
                ),
            }
        };
    load(vec![
        direction(0, &there, &[Field::Ipv4Src], &[Field::UdpSrc]),
        direction(1, &back, &[Field::Ipv4Dst], &[Field::UdpDst]),
    ])
}

/// 2^31 connections, of which a point makes some that were never seen before.
fn new_connections() -> Load {
    let wheels = vec![
        wheel(
            &[Field::Ipv4Src],
            u32::from(Ipv4Addr::new(10, 4, 0, 0)),
            1 << 16,
        ),
        wheel(&[Field::UdpSrc], 1024, 1 << 15),
    ];
    let plan = Plan::new(
        udp(&addresses([RIGHT, LEFT]), FRAME),
        Sequence::Wheels(wheels),
        Way::Unchanged,
    );
    Load {
        // Enough for the switch to have its decisions; every one of them is a connection too.
        prime: 1024,
        ..load(vec![Direction {
            from: 0,
            to: vec![1],
            plan,
        }])
    }
}

fn guest_frame(mac: [Mac; 2]) -> Vec<u8> {
    udp(&addresses(mac), FRAME)
}

/// Of another length than the load's frames, so that its copy is not taken for one of them.
const ANNOUNCEMENT: usize = 80;

/// The tunnel's far end answers ARP, and the guest says where it is.
fn tunnel(direction: Direction) -> Load {
    Load {
        announce: vec![(
            0,
            udp(
                &addresses([Overlay::REMOTE_GUEST_MAC, Overlay::GUEST_MAC]),
                ANNOUNCEMENT,
            ),
        )],
        neighbour: Some((1, Overlay::REMOTE, Overlay::REMOTE_MAC)),
        ..load(vec![direction])
    }
}

fn encapsulated() -> Load {
    let inner = guest_frame([Overlay::REMOTE_GUEST_MAC, Overlay::GUEST_MAC]);
    let wheels = vec![wheel(&[Field::UdpSrc], 1024, STATIONS)];
    tunnel(Direction {
        from: 0,
        to: vec![1],
        plan: Plan::new(
            inner,
            Sequence::Wheels(wheels),
            Way::Encapsulated(Overlay::VNI),
        ),
    })
}

fn decapsulated() -> Load {
    let inner = guest_frame([Overlay::GUEST_MAC, Overlay::REMOTE_GUEST_MAC]);
    let outer = Addresses {
        mac: [Overlay::LOCAL_MAC, Overlay::REMOTE_MAC],
        ipv4: [Overlay::REMOTE, Overlay::LOCAL],
        udp: [49152, VXLAN_PORT],
    };
    tunnel(Direction {
        from: 1,
        to: vec![0],
        plan: Plan::new(
            vxlan(&outer, Overlay::VNI, &inner),
            // The outer source port tells the flows apart, as RFC 7348 asks for.
            Sequence::Wheels(vec![wheel(
                &[Field::OuterUdpSrc, Field::UdpSrc],
                49152,
                STATIONS,
            )]),
            Way::Decapsulated,
        ),
    })
}

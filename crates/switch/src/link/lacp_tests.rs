//! LACP against itself over lossy links, and against partners that are silent, hostile, or somebody else.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config(system: u8, key: u16) -> LacpConfig {
    LacpConfig {
        system: [2, 0, 0, 0, 0, system],
        system_priority: 0x8000,
        key,
        active: true,
        short_timeout: true,
        select: AggregatorSelect::Stable,
        fallback: false,
    }
}

/// Systems and the cables between them.
struct Net {
    systems: Vec<Lacp>,
    /// From (system, port) to (system, port).
    cables: BTreeMap<(usize, MemberId), (usize, MemberId)>,
    now: Duration,
    /// Frames under way.
    wire: Vec<(Duration, usize, MemberId, SlowPdu)>,
    /// Every frame sent: when, by whom, by which port.
    sent: Vec<(Duration, usize, MemberId)>,
    /// Of 256 frames so many are lost, chosen by a generator.
    loss: u32,
    random: u32,
}

impl Net {
    fn new(configs: &[LacpConfig]) -> Net {
        Net {
            systems: configs.iter().map(|c| Lacp::new(*c)).collect(),
            cables: BTreeMap::new(),
            now: ms(1_000),
            wire: Vec::new(),
            sent: Vec::new(),
            loss: 0,
            random: 12345,
        }
    }

    fn act(&mut self, system: usize, act: impl FnOnce(&mut Lacp, Duration, &mut Send<'_>)) {
        let mut frames = Vec::new();
        let now = self.now;
        act(&mut self.systems[system], now, &mut |port, frame| {
            frames.push((port, SlowPdu::parse(frame).unwrap()));
        });
        for (port, pdu) in frames {
            self.sent.push((now, system, port));
            self.random = self
                .random
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223);
            if (self.random >> 16) % 256 < self.loss {
                continue;
            }
            if let Some((to, at)) = self.cables.get(&(system, port)) {
                self.wire.push((now + ms(1), *to, *at, pdu));
            }
        }
    }

    fn cable(&mut self, a: (usize, MemberId), b: (usize, MemberId), speed: u32) {
        for (from, to) in [(a, b), (b, a)] {
            self.cables.insert(from, to);
            let mac = [2, 0, 0, 1, from.0 as u8, from.1 as u8];
            self.systems[from.0].add_port(from.1, mac, 0x80);
        }
        for (system, port) in [a, b] {
            self.link(system, port, true, speed);
        }
    }

    fn link(&mut self, system: usize, port: MemberId, up: bool, speed: u32) {
        self.act(system, |lacp, now, send| {
            lacp.link(port, up, speed, now, send)
        });
    }

    /// Runs at the systems' own events, so that a missing one shows.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.systems.iter().filter_map(Lacp::next_event).min();
            let frame = self.wire.iter().map(|f| f.0).min();
            let next = [event, frame].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            assert!(
                next > self.now || frame == Some(next) || event != Some(next),
                "an event that is over already"
            );
            self.now = next;
            let (due, rest) = self.wire.drain(..).partition(|f| f.0 <= next);
            self.wire = rest;
            for (_, system, port, pdu) in Vec::from_iter::<Vec<_>>(due) {
                self.act(system, |lacp, now, send| {
                    lacp.received(port, &pdu, now, send)
                });
            }
            for system in 0..self.systems.len() {
                self.act(system, |lacp, now, send| lacp.tick(now, send));
            }
        }
    }

    fn in_use(&self, system: usize) -> Vec<MemberId> {
        self.systems[system].in_use().collect()
    }

    fn status(&self, system: usize, port: MemberId) -> LacpStatus {
        self.systems[system].status(port).unwrap()
    }

    /// No port sent more than three PDUs in a second.
    fn check_rate(&self) {
        let mut last: BTreeMap<(usize, MemberId), Vec<Duration>> = BTreeMap::new();
        for (at, system, port) in &self.sent {
            let times = last.entry((*system, *port)).or_default();
            if let Some(third) = times.len().checked_sub(3).map(|i| times[i]) {
                assert!(*at >= third + ms(1_000), "four PDUs within a second");
            }
            times.push(*at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Two systems agree on all their links, whatever was lost and whichever links flapped before; and soon once all is well.
    #[test]
    fn two_systems_converge(
        links in 1u16..5, loss in 0u32..200, seed: u32, timeouts in any::<(bool, bool)>(), passive: bool,
        flaps in prop::collection::vec((0u16..4, any::<bool>(), any::<bool>(), 0u64..5_000), 0..12),
    ) {
        let (mut a, mut b) = (config(1, 7), config(2, 9));
        (a.short_timeout, b.short_timeout) = timeouts;
        b.active = !passive;
        let mut net = Net::new(&[a, b]);
        (net.loss, net.random) = (loss, seed);
        for link in 1..=links {
            net.cable((0, link), (1, 10 + link), 10_000);
        }
        for (link, up, side, wait) in flaps {
            let (system, port) = if side { (0, 1 + link % links) } else { (1, 11 + link % links) };
            net.link(system, port, up, 10_000);
            net.run(ms(wait));
        }
        for link in 1..=links {
            net.link(0, link, true, 10_000);
            net.link(1, 10 + link, true, 10_000);
        }
        net.loss = 0;
        // At worst the side with the long timeout has to fall silent first and hears the next PDU after half a minute.
        net.run(ms(if timeouts == (true, true) { 12_000 } else { 40_000 }));
        prop_assert_eq!(net.in_use(0), (1..=links).collect::<Vec<_>>());
        prop_assert_eq!(net.in_use(1), (11..=10 + links).collect::<Vec<_>>());
        net.check_rate();
        // And it stays so.
        let before = net.sent.len();
        net.run(ms(300_000));
        prop_assert_eq!(net.in_use(0).len() + net.in_use(1).len(), usize::from(links) * 2);
        let per_port = (net.sent.len() - before) / usize::from(links) / 2;
        let most = if timeouts == (false, false) { 11 } else { 301 };
        prop_assert!(per_port <= most, "{} PDUs of each port in 300 s", per_port);
    }

    /// Where links are of different speeds both ends choose the same ones, whatever each prefers and in whatever order they came.
    #[test]
    fn both_ends_choose_alike(
        speeds in prop::collection::vec(prop_oneof![Just(1_000u32), Just(10_000), Just(25_000)], 1..6),
        selects in prop::array::uniform2(prop_oneof![
            Just(AggregatorSelect::Stable), Just(AggregatorSelect::Bandwidth), Just(AggregatorSelect::Count)
        ]),
        order in any::<prop::sample::Index>(), first_is_better: bool, gap in 0u64..4_000, loss in 0u32..128, seed: u32,
    ) {
        let mut configs = [config(1, 7), config(2, 9)];
        for (config, select) in configs.iter_mut().zip(selects) {
            config.select = select;
        }
        configs[0].system_priority -= u16::from(first_is_better);
        configs[1].system_priority -= u16::from(!first_is_better);
        let mut net = Net::new(&configs);
        (net.loss, net.random) = (loss, seed);
        let count = speeds.len() as MemberId;
        let start = order.index(speeds.len()) as MemberId;
        for link in 0..count {
            // The other end counts its ports another way round.
            let speed = speeds[usize::from(link)];
            net.cable((0, 1 + link), (1, 11 + (count - link + start) % count), speed);
            net.run(ms(gap));
        }
        net.loss = 0;
        net.run(ms(40_000));
        let (a, b) = (net.in_use(0), net.in_use(1));
        prop_assert!(!a.is_empty(), "nobody carries anything");
        let mut peers: Vec<MemberId> = a.iter().map(|port| net.cables[&(0, *port)].1).collect();
        peers.sort_unstable();
        let mut b = b;
        b.sort_unstable();
        prop_assert_eq!(peers, b);
    }

    /// No PDU, however made up, makes a port answer more than three times a second or carry traffic that the partner did not agree to.
    #[test]
    fn hostile_pdus(
        pdus in prop::collection::vec((any::<[u8; 40]>(), 0u64..400, 0u8..4), 1..80), active: bool,
    ) {
        let mut net = Net::new(&[LacpConfig { active, ..config(1, 7) }]);
        for port in 1..=2 {
            net.systems[0].add_port(port, [2; 6], 1);
            net.link(0, port, true, 1_000);
        }
        for (bytes, wait, truth) in pdus {
            let own = net.status(0, 1).actor;
            let peer = |b: &[u8]| Peer {
                system_priority: 1, system: [b[0] % 3; 6], key: u16::from(b[1] % 2), port_priority: 1, port: u16::from(b[2] % 2), state: b[3],
            };
            let mut pdu = Lacpdu { actor: peer(&bytes), partner: peer(&bytes[20..]), collector_max_delay: 0 };
            if truth == 0 {
                pdu.partner = own;
            }
            net.act(0, |lacp, now, send| lacp.received(1, &SlowPdu::Lacp(pdu), now, send));
            let status = net.status(0, 1);
            if status.mux == Mux::CollectingDistributing {
                prop_assert!(pdu.actor.has(state::SYNCHRONIZATION));
                prop_assert!(pdu.partner.same(&own, state::AGGREGATION) || !pdu.actor.has(state::AGGREGATION));
            }
            net.run(ms(wait));
        }
        net.check_rate();
    }
}

#[test]
fn a_silent_partner_expires_then_is_given_up() {
    let mut net = Net::new(&[config(1, 7), config(2, 9)]);
    net.cable((0, 1), (1, 1), 10_000);
    net.run(ms(10_000));
    assert_eq!(net.in_use(0), [1]);
    let heard = net.now;
    net.cables.clear();
    net.wire.clear();
    let bits = |net: &Net| net.status(0, 1).actor.state & (state::EXPIRED | state::DEFAULTED);
    while net.status(0, 1).receive == Receive::Current {
        net.run(ms(10));
    }
    let silent = net.now - heard;
    assert!(silent <= ms(3_010) && silent > ms(1_900), "{silent:?}");
    assert_eq!(bits(&net), state::EXPIRED);
    assert!(net.in_use(0).is_empty(), "nothing is sent to nobody");
    let expired = net.now;
    while net.status(0, 1).receive == Receive::Expired {
        net.run(ms(10));
    }
    let gone = net.now - expired;
    assert!(gone <= ms(3_010) && gone >= ms(2_980), "{gone:?}");
    assert_eq!(bits(&net), state::DEFAULTED);
    assert_eq!(net.status(0, 1).partner.system, [0; 6]);
    assert_eq!(net.status(0, 1).stats.expirations, 1);
    assert!(net.in_use(0).is_empty());
}

#[test]
fn different_partners_and_keys_do_not_aggregate() {
    // Ports 1 and 2 lead to one system, 3 to another, 4 to the first but with another key.
    let mut net = Net::new(&[config(1, 7), config(2, 9), config(3, 9), config(2, 10)]);
    net.cable((0, 1), (1, 1), 10_000);
    net.cable((0, 2), (1, 2), 10_000);
    net.cable((0, 3), (2, 1), 10_000);
    net.cable((0, 4), (3, 4), 10_000);
    net.run(ms(20_000));
    assert_eq!(net.in_use(0), [1, 2]);
    assert!(
        net.in_use(2).is_empty(),
        "the other system sends nothing to us"
    );
    assert!(net.in_use(3).is_empty());
    assert_eq!(net.status(0, 3).selected, Selected::Standby);
    for port in [1, 2] {
        net.link(0, port, false, 0);
    }
    assert_eq!(net.in_use(0), [3], "the next group takes over at once");
    net.link(0, 1, true, 10_000);
    net.link(0, 2, true, 10_000);
    net.run(ms(20_000));
    assert_eq!(net.in_use(0), [3], "stable");
}

#[test]
fn the_group_in_use_is_chosen_as_configured() {
    let in_use = |select| {
        let own = LacpConfig {
            select,
            ..config(1, 7)
        };
        let mut net = Net::new(&[own, config(2, 9), config(3, 9)]);
        net.cable((0, 1), (1, 1), 10_000);
        net.run(ms(20_000));
        net.cable((0, 2), (2, 2), 1_000);
        net.cable((0, 3), (2, 3), 1_000);
        net.run(ms(20_000));
        let first = net.in_use(0);
        net.cable((0, 4), (2, 4), 25_000);
        net.cable((0, 5), (2, 5), 25_000);
        net.run(ms(20_000));
        (first, net.in_use(0))
    };
    assert_eq!(in_use(AggregatorSelect::Stable), (vec![1], vec![1]));
    assert_eq!(in_use(AggregatorSelect::Bandwidth), (vec![1], vec![4, 5]));
    assert_eq!(in_use(AggregatorSelect::Count), (vec![2, 3], vec![4, 5]));
}

#[test]
fn without_a_partner_one_port_carries_traffic_only_if_allowed() {
    for fallback in [false, true] {
        let own = LacpConfig {
            fallback,
            ..config(1, 7)
        };
        let mut net = Net::new(&[own, config(2, 9)]);
        for port in [1, 2] {
            net.systems[0].add_port(port, [2; 6], 1);
            net.link(0, port, true, 1_000);
        }
        net.run(ms(10_000));
        let expected: &[MemberId] = if fallback { &[1] } else { &[] };
        assert_eq!(net.in_use(0), expected);
        // A real partner is better.
        net.cable((0, 3), (1, 3), 1_000);
        net.run(ms(10_000));
        assert_eq!(net.in_use(0), [3]);
    }
}

#[test]
fn two_passive_ends_and_a_cable_to_oneself_stay_out() {
    let passive = |system| LacpConfig {
        active: false,
        ..config(system, 7)
    };
    let mut net = Net::new(&[passive(1), passive(2)]);
    net.cable((0, 1), (1, 1), 10_000);
    net.run(ms(60_000));
    assert_eq!((net.in_use(0), net.sent.len()), (vec![], 0));
    let mut net = Net::new(&[config(1, 7)]);
    net.cable((0, 1), (0, 2), 10_000);
    net.run(ms(60_000));
    assert!(net.in_use(0).is_empty());
}

#[test]
fn a_removed_port_tells_its_partner() {
    let mut net = Net::new(&[config(1, 7), config(2, 9)]);
    net.cable((0, 1), (1, 1), 10_000);
    net.cable((0, 2), (1, 2), 10_000);
    net.run(ms(10_000));
    assert_eq!(net.in_use(1), [1, 2]);
    net.act(0, |lacp, now, send| lacp.remove_port(1, now, send));
    net.run(ms(5));
    assert_eq!(net.in_use(1), [2], "before any timeout");
}

/// A partner made by hand opposite port 1: what it says of itself, and of us.
fn say(net: &mut Net, partner_of_us: Peer, key: u16) -> usize {
    let actor = Peer {
        system_priority: 1,
        system: [2, 0, 0, 0, 0, 9],
        key,
        port_priority: 1,
        port: 1,
        state: 0x3f,
    };
    let pdu = SlowPdu::Lacp(Lacpdu {
        actor,
        partner: partner_of_us,
        collector_max_delay: 0,
    });
    let before = net.sent.len();
    net.act(0, |lacp, now, send| lacp.received(1, &pdu, now, send));
    net.sent.len() - before
}

#[test]
fn a_partner_that_means_somebody_else_is_not_in_sync() {
    let mut net = Net::new(&[config(1, 7)]);
    net.systems[0].add_port(1, [2; 6], 1);
    net.link(0, 1, true, 1_000);
    for _ in 0..100 {
        let wrong = Peer {
            port: 77,
            ..net.status(0, 1).actor
        };
        say(&mut net, wrong, 9);
        assert!(net.in_use(0).is_empty());
        net.run(ms(100));
    }
    let right = net.status(0, 1).actor;
    say(&mut net, right, 9);
    assert_eq!(net.in_use(0), [1]);
}

#[test]
fn a_wrong_view_is_put_right_at_once_and_another_partner_starts_anew() {
    let mut net = Net::new(&[config(1, 7)]);
    net.systems[0].add_port(1, [2; 6], 1);
    net.link(0, 1, true, 1_000);
    for _ in 0..50 {
        let right = net.status(0, 1).actor;
        say(&mut net, right, 9);
        net.run(ms(100));
    }
    assert_eq!(net.in_use(0), [1]);
    // In the middle between two periodic PDUs.
    let last = net.sent.last().unwrap().0;
    net.run(last + ms(1_500) - net.now);
    let right = net.status(0, 1).actor;
    assert_eq!(say(&mut net, right, 9), 0, "nothing to put right");
    let stale = Peer {
        state: right.state & !state::SYNCHRONIZATION,
        ..right
    };
    assert_eq!(say(&mut net, stale, 9), 1);
    assert_eq!(net.in_use(0), [1]);
    say(&mut net, right, 10);
    assert!(
        net.in_use(0).is_empty(),
        "the key changed: another aggregator"
    );
    assert_eq!(net.status(0, 1).mux, Mux::Waiting);
}

#[test]
fn markers_are_answered() {
    let mut lacp = Lacp::new(config(1, 7));
    lacp.add_port(5, [2; 6], 1);
    let question = Marker {
        response: false,
        port: 3,
        system: [4; 6],
        transaction: 77,
    };
    let mut answers = Vec::new();
    let mut ask = |lacp: &mut Lacp, marker| {
        answers.clear();
        lacp.received(5, &SlowPdu::Marker(marker), ms(1), &mut |port, frame| {
            if let Ok(SlowPdu::Marker(answer)) = SlowPdu::parse(frame) {
                answers.push((port, answer));
            }
        });
        answers.clone()
    };
    assert_eq!(ask(&mut lacp, question), [], "its link is down");
    lacp.link(5, true, 1_000, ms(1), &mut |_, _| {});
    let answer = Marker {
        response: true,
        ..question
    };
    assert_eq!(ask(&mut lacp, question), [(5, answer)]);
    assert_eq!(ask(&mut lacp, answer), [], "an answer is not answered");
    let stats = lacp.status(5).unwrap().stats;
    assert_eq!((stats.markers, stats.marker_responses), (3, 1));
    let answered = (0..100)
        .filter(|_| !ask(&mut lacp, question).is_empty())
        .count();
    assert_eq!(answered, 4, "a flood is not answered with a flood");
}

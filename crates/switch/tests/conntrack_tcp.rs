//! The TCP state machine between two ends that keep to RFC 9293, over a path that loses and repeats: it never calls their packets invalid and always sees the end.
//! And under packets made up at random: its sums stay right.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;
use sumeru_switch::conntrack::tcp_flag::{ACK, FIN, RST, SYN};
use sumeru_switch::conntrack::*;

/// One end: what it sent, what was acknowledged, what it may send, and what it expects.
#[derive(Debug)]
struct End {
    isn: u32,
    unacked: u32,
    next: u32,
    limit: u32,
    expected: Option<u32>,
    scale: Option<u8>,
    peer_scale: u8,
    left: u32,
    fin_sent: bool,
}

fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl End {
    fn new(isn: u32, left: u32, scale: Option<u8>) -> Self {
        let next = isn.wrapping_add(1);
        Self {
            isn,
            unacked: isn,
            next,
            limit: next,
            expected: None,
            scale,
            peer_scale: 0,
            left,
            fin_sent: false,
        }
    }

    fn opening(&self) -> bool {
        self.unacked == self.isn
    }

    fn done(&self) -> bool {
        self.fin_sent && self.unacked == self.next
    }

    /// Its next packet: SYN, new data, FIN or a bare acknowledgement; or what is not acknowledged, again.
    fn send(&mut self, client: bool, again: bool, size: u16, window: u16) -> Option<CtPacket> {
        if self.opening() {
            let flags = if client { SYN } else { SYN | ACK };
            let ack = self.expected.unwrap_or(0);
            let known = client || self.expected.is_some();
            return known.then_some(CtPacket {
                flags,
                seq: self.isn,
                ack,
                window,
                scale: self.scale,
                ..CtPacket::default()
            });
        }
        let ack = self.expected?;
        let mut packet = CtPacket {
            flags: ACK,
            ack,
            window,
            seq: self.next,
            ..CtPacket::default()
        };
        let outstanding = self.next.wrapping_sub(self.unacked);
        if again && outstanding != 0 {
            let data = outstanding - u32::from(self.fin_sent);
            packet.seq = self.unacked;
            packet.payload = data.min(u32::from(size.max(1))) as u16;
            packet.flags |= if self.fin_sent && u32::from(packet.payload) == data {
                FIN
            } else {
                0
            };
        } else if !self.fin_sent {
            let room = if before(self.next, self.limit) {
                self.limit.wrapping_sub(self.next)
            } else {
                0
            };
            let payload = room.min(self.left).min(u32::from(size));
            packet.payload = payload as u16;
            self.left -= payload;
            self.fin_sent = self.left == 0 && payload < room;
            packet.flags |= if self.fin_sent { FIN } else { 0 };
            self.next = self.next.wrapping_add(payload + u32::from(self.fin_sent));
        }
        Some(packet)
    }

    fn receive(&mut self, packet: &CtPacket) {
        let length = u32::from(packet.payload) + u32::from(packet.flags & (SYN | FIN) != 0);
        let end = packet.seq.wrapping_add(length);
        if packet.flags & SYN != 0 && self.expected.is_none() {
            self.expected = Some(end);
            self.peer_scale = packet.scale.filter(|_| self.scale.is_some()).unwrap_or(0);
        }
        if packet.flags & ACK != 0 {
            let ack = packet.ack;
            if before(self.unacked, ack) && !before(self.next, ack) {
                self.unacked = ack;
            }
            let scale = if packet.flags & SYN != 0 {
                0
            } else {
                self.peer_scale
            };
            let limit = ack.wrapping_add(u32::from(packet.window) << scale);
            self.limit = if before(self.limit, limit) {
                limit
            } else {
                self.limit
            };
        }
        if let Some(expected) = self.expected
            && !before(expected, packet.seq)
            && before(expected, end)
        {
            self.expected = Some(end);
        }
    }
}

/// What the path does with a packet.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Delivered,
    Twice,
    LostBefore,
    LostAfter,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    client: bool,
    again: bool,
    size: u16,
    window: u16,
    fate: Fate,
}

fn turn() -> impl Strategy<Value = Turn> {
    let fate = prop_oneof![6 => Just(Fate::Delivered), 1 => Just(Fate::Twice), 1 => Just(Fate::LostBefore), 1 => Just(Fate::LostAfter)];
    (any::<bool>(), any::<bool>(), 0_u16..1500, 0_u16..6000, fate).prop_map(
        |(client, again, size, window, fate)| Turn {
            client,
            again,
            size,
            window,
            fate,
        },
    )
}

struct Path {
    table: Conntrack,
    conn: Option<ConnRef>,
    tuple: Tuple,
    ends: [End; 2],
    waiting: [VecDeque<(CtPacket, Fate)>; 2],
}

impl Path {
    fn new(isns: [u32; 2], left: [u32; 2], scales: [Option<u8>; 2]) -> Self {
        let tuple = Tuple {
            src: 1,
            dst: 2,
            sport: 3,
            dport: 4,
            proto: 6,
            family: Family::V4,
            zone: 0,
        };
        let table = Conntrack::new(
            Config {
                capacity: 4,
                ..Config::default()
            },
            0,
        )
        .unwrap();
        // A server answers with a scale only to one.
        let scales = [scales[0], scales[1].filter(|_| scales[0].is_some())];
        let ends = [0, 1].map(|n| End::new(isns[n], left[n], scales[n]));
        Self {
            table,
            conn: None,
            tuple,
            ends,
            waiting: Default::default(),
        }
    }

    fn send(&mut self, turn: Turn) {
        let side = usize::from(!turn.client);
        if let Some(packet) = self.ends[side].send(turn.client, turn.again, turn.size, turn.window)
        {
            self.waiting[side].push_back((packet, turn.fate));
        }
    }

    /// The oldest packet of a side passes the tracker.
    fn pass(&mut self, side: usize) -> Result<(), TestCaseError> {
        let Some((packet, fate)) = self.waiting[side].pop_front() else {
            return Ok(());
        };
        let times = match fate {
            Fate::LostBefore => 0,
            Fate::Twice => 2,
            Fate::Delivered | Fate::LostAfter => 1,
        };
        for _ in 0..times {
            let direction = if side == 0 {
                Direction::Original
            } else {
                Direction::Reply
            };
            match self.conn {
                Some(conn) => {
                    let before = self.table.connection(conn, 0);
                    let verdict = self.table.track(conn, direction, &packet);
                    prop_assert!(
                        verdict.state() & ct_state::INV == 0 && verdict != Verdict::STALE,
                        "{:?} {:?} {:?}",
                        direction,
                        packet,
                        before
                    );
                }
                None => {
                    prop_assert_eq!(
                        self.table.classify(&self.tuple, &packet).state(),
                        ct_state::TRK | ct_state::NEW
                    );
                    let commit = Commit {
                        tuple: self.tuple,
                        packet,
                        mark: 0,
                        label: 0,
                        owner: 0,
                        policy: 0,
                        nat: None,
                    };
                    self.conn = Some(self.table.commit(&commit).unwrap());
                }
            }
            if !matches!(fate, Fate::LostAfter) {
                self.ends[1 - side].receive(&packet);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn ends_that_keep_to_the_standard_are_never_invalid(
        isns: [u32; 2],
        left in [0_u32..20_000, 0_u32..20_000],
        scales in [proptest::option::of(0_u8..10), proptest::option::of(0_u8..10)],
        turns in proptest::collection::vec((turn(), any::<bool>()), 0..200),
    ) {
        let mut path = Path::new(isns, left, scales);
        for (turn, side) in turns {
            path.send(turn);
            path.pass(usize::from(side))?;
        }
        for round in 0..2_000 {
            for side in [0, 1] {
                let turn = Turn { client: side == 0, again: round % 2 == 0, size: 1400, window: 3000, fate: Fate::Delivered };
                path.send(turn);
                while !path.waiting[side].is_empty() {
                    path.pass(side)?;
                }
            }
            if path.ends.iter().all(End::done) {
                break;
            }
        }
        prop_assert!(path.ends.iter().all(End::done), "{:?}", path.ends);
        let state = path.table.connection(path.conn.unwrap(), 0).map(|connection| connection.state);
        prop_assert_eq!(state, Some(State::TimeWait));
        prop_assert_eq!(path.table.stats().half_open, 0);
    }

    #[test]
    fn sums_stay_right_under_anything(
        packets in proptest::collection::vec((0_u16..3, any::<bool>(), 0_u8..8, 0_u32..8, 0_u32..8, 0_u16..3, any::<bool>()), 1..300),
    ) {
        let mut table = Conntrack::new(Config { capacity: 3, ..Config::default() }, 0).unwrap();
        table.set_zone(1, ZonePolicy { pickup: true, liberal: true, limit: Some(1) });
        let mut now = 0;
        for (sport, client, flags, seq, ack, payload, wait) in packets {
            now += if wait { 9_000 } else { 1 };
            let opener = Tuple { src: 1, dst: 2, sport, dport: 80, proto: 6, family: Family::V4, zone: sport % 2 };
            let tuple = if client { opener } else { opener.reversed() };
            let flags = [SYN, ACK, SYN | ACK, ACK | FIN, RST, RST | ACK, FIN, SYN | RST][usize::from(flags)];
            let packet = CtPacket { now, flags, seq: seq << 29 | seq, ack: ack << 29 | ack, payload, window: 5, ..CtPacket::default() };
            match table.lookup(&tuple, now) {
                Some((conn, direction)) => {
                    let epoch = table.epoch(conn);
                    let before = table.connection(conn, now).unwrap();
                    let verdict = table.track(conn, direction, &packet);
                    let after = table.connection(conn, now);
                    prop_assert_eq!(verdict == Verdict::STALE, after.is_none());
                    if verdict.state() & ct_state::INV != 0 {
                        prop_assert_eq!((after.unwrap(), table.epoch(conn)), (before, epoch));
                    } else if let Some(after) = after {
                        prop_assert_eq!(verdict.packet() & packet_state::CHANGED != 0, after.state != before.state);
                        prop_assert!(after.replied == before.replied || table.epoch(conn) != epoch);
                    }
                }
                None if table.classify(&tuple, &packet).state() & ct_state::NEW != 0 => {
                    let commit = Commit { tuple, packet, mark: 0, label: 0, owner: 0, policy: 0, nat: None };
                    table.commit(&commit).ok();
                }
                None => {}
            }
            let mut half_open = 0;
            table.list(0, usize::MAX, &Filter::default(), now, |_, connection| {
                half_open += u32::from(matches!(connection.state, State::SynSent | State::SynSent2 | State::SynRecv));
            });
            prop_assert_eq!(table.stats().half_open, half_open);
            table.expire(now, 1);
        }
        table.expire(now + 500_000_000, 100);
        prop_assert_eq!((table.stats().live, table.stats().half_open), (0, 0));
        prop_assert_eq!([0, 1].map(|zone| table.half_open_in(zone)), [0, 0]);
    }
}

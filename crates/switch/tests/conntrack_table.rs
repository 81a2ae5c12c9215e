//! The connection table against a naive one: a list of connections, searched from end to end, over random packets, times, translations and ends.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sumeru_switch::conntrack::*;

/// A connection of the naive table.
#[derive(Clone, Debug)]
struct Known {
    conn: ConnRef,
    original: Tuple,
    reply: Tuple,
    replied: bool,
    answered_then_used: bool,
    seen: u64,
    packets: [u64; 2],
    mark: u32,
    owner: u16,
}

impl Known {
    fn timeout(&self) -> u64 {
        match (self.original.proto, self.replied, self.answered_then_used) {
            (17, _, true) => 120_000,
            (17 | 1 | 58, ..) => 30_000,
            _ => 600_000,
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A packet of the tuple with this number, or an answer to it; committed when new, with this translation.
    Packet {
        number: u8,
        answer: bool,
        nat: u8,
    },
    /// Time goes on.
    Wait(u64),
    Expire(usize),
    Mark {
        number: u8,
        mark: u32,
    },
    Flush {
        owner: u16,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0_u8..48, any::<bool>(), 0_u8..4).prop_map(|(number, answer, nat)| Event::Packet { number, answer, nat }),
        3 => prop_oneof![1_u64..2_000, 10_000_u64..40_000, 100_000_u64..700_000].prop_map(Event::Wait),
        2 => (0_usize..20).prop_map(Event::Expire),
        1 => (0_u8..48, 0_u32..3).prop_map(|(number, mark)| Event::Mark { number, mark }),
        1 => (0_u16..6).prop_map(|owner| Event::Flush { owner }),
    ]
}

/// Few hosts and ports, so that answers of translated connections fall together.
fn tuple(number: u8) -> Tuple {
    let (src, dst, zone) = (
        10 + u128::from(number & 3),
        20 + u128::from(number >> 2 & 1),
        u16::from(number >> 3 & 1),
    );
    match number >> 4 {
        0 => Tuple {
            src,
            dst,
            sport: 5000,
            dport: 53,
            proto: 17,
            family: Family::V4,
            zone,
        },
        1 => Tuple::query(Family::V6, (src << 64, dst << 64), 128, 0, 7, zone).unwrap(),
        _ => Tuple {
            src,
            dst,
            sport: 0,
            dport: 0,
            proto: 47,
            family: Family::V4,
            zone,
        },
    }
}

fn translation(kind: u8, tuple: &Tuple) -> Option<Nat> {
    let shift = if tuple.family == Family::V6 { 64 } else { 0 };
    let range = |min: u128, max: u128, ports| {
        Some(NatRange {
            min: min << shift,
            max: max << shift,
            ports,
            random: false,
        })
    };
    match kind {
        1 => Some(Nat {
            source: range(40, 40, Some((5000, 5002))),
            destination: None,
        }),
        2 => Some(Nat {
            source: None,
            destination: range(21, 21, None),
        }),
        3 => Some(Nat {
            source: range(10, 10, None),
            destination: range(20, 20, Some((53, 54))),
        }),
        _ => None,
    }
}

struct Pair {
    table: Conntrack,
    list: Vec<Known>,
    now: u64,
}

const CAPACITY: usize = 24;

impl Pair {
    fn live(&self) -> impl Iterator<Item = &Known> {
        self.list
            .iter()
            .filter(|known| self.now - known.seen <= known.timeout())
    }

    fn position(&self, tuple: &Tuple) -> Option<(usize, Direction)> {
        self.list
            .iter()
            .enumerate()
            .filter(|(_, known)| self.now - known.seen <= known.timeout())
            .find_map(|(index, known)| {
                if known.original == *tuple {
                    Some((index, Direction::Original))
                } else {
                    (known.reply == *tuple).then_some((index, Direction::Reply))
                }
            })
    }

    fn packet(&mut self, tuple: Tuple, nat: u8, owner: u16) -> Result<(), TestCaseError> {
        let packet = CtPacket {
            now: self.now,
            bytes: 100,
            ..CtPacket::default()
        };
        let found = self.table.lookup(&tuple, self.now);
        let expected = self.position(&tuple);
        prop_assert_eq!(
            found,
            expected.map(|(index, direction)| (self.list[index].conn, direction))
        );
        if let Some((index, direction)) = expected {
            let known = &mut self.list[index];
            let epoch = self.table.epoch(known.conn);
            let verdict = self.table.track(known.conn, direction, &packet);
            let fresh = direction == Direction::Reply && !known.replied;
            known.answered_then_used |= known.replied && direction == Direction::Original;
            known.replied |= fresh;
            known.seen = self.now;
            known.packets[direction as usize] += 1;
            prop_assert_eq!(verdict.state() & ct_state::EST != 0, known.replied);
            prop_assert_eq!(verdict.state() & ct_state::NEW != 0, !known.replied);
            prop_assert_eq!(
                verdict.state() & ct_state::RPL != 0,
                direction == Direction::Reply
            );
            prop_assert_eq!(epoch != Some(verdict.epoch()), fresh);
            return Ok(());
        }
        let nat = translation(nat, &tuple);
        let commit = Commit {
            tuple,
            packet,
            mark: 0,
            label: 0,
            owner,
            policy: 0,
            nat: nat.as_ref(),
        };
        let before = self.live().count();
        let used = |pair: &Self, wanted: &Tuple| pair.position(wanted).is_some();
        match self.table.commit(&commit) {
            Ok(conn) => {
                let (original, reply) = self.table.tuples(conn).unwrap();
                prop_assert_eq!(original, tuple);
                prop_assert!(!used(self, &reply), "answers belong to one connection");
                prop_assert!(nat.is_some() || reply == tuple.reversed());
                if let Some(range) = nat.and_then(|nat| nat.source) {
                    prop_assert!((range.min..=range.max).contains(&reply.dst));
                }
                let rewrite = self.table.binding(conn).unwrap().original;
                let outward = Tuple {
                    src: rewrite.src.unwrap_or(tuple.src),
                    dst: rewrite.dst.unwrap_or(tuple.dst),
                    sport: rewrite.sport.unwrap_or(tuple.sport),
                    dport: rewrite.dport.unwrap_or(tuple.dport),
                    ..tuple
                };
                prop_assert_eq!(outward.reversed(), reply);
                let known = Known {
                    conn,
                    original,
                    reply,
                    replied: false,
                    answered_then_used: false,
                    seen: self.now,
                    packets: [1, 0],
                    mark: 0,
                    owner,
                };
                self.list.push(known);
            }
            Err(Refusal::Full) => prop_assert!(self.list.len() >= CAPACITY || before >= CAPACITY),
            Err(Refusal::Clash) => prop_assert!(nat.is_none() && used(self, &tuple.reversed())),
            Err(Refusal::NatExhausted) => prop_assert!(nat.is_some()),
            Err(Refusal::Invalid) => prop_assert!(!tuple.may_open()),
            Err(other) => prop_assert!(false, "{}", other),
        }
        Ok(())
    }

    fn run(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Packet {
                number,
                answer,
                nat,
            } => {
                let tuple = tuple(number);
                // An answer as it comes over the wire: translated when the connection is.
                let reply = self
                    .position(&tuple)
                    .map(|(index, _)| self.list[index].reply);
                let tuple = if answer {
                    reply.unwrap_or(tuple.reversed())
                } else {
                    tuple
                };
                self.packet(tuple, nat, u16::from(number % 6))?;
            }
            Event::Wait(milliseconds) => self.now += milliseconds,
            Event::Expire(budget) => {
                self.table.expire(self.now, budget);
            }
            Event::Mark { number, mark } => {
                if let Some((index, _)) = self.position(&tuple(number)) {
                    let known = &mut self.list[index];
                    let epoch = self.table.epoch(known.conn);
                    prop_assert!(self.table.set_mark(known.conn, mark));
                    prop_assert_eq!(epoch != self.table.epoch(known.conn), known.mark != mark);
                    known.mark = mark;
                }
            }
            Event::Flush { owner } => {
                self.table.flush(
                    0,
                    usize::MAX,
                    &Filter {
                        owner: Some(owner),
                        ..Filter::default()
                    },
                );
                self.list.retain(|known| known.owner != owner);
            }
        }
        Ok(())
    }

    /// What the table shows is what the list holds.
    fn compare(&self) -> Result<(), TestCaseError> {
        let mut shown = Vec::new();
        self.table.list(
            0,
            usize::MAX,
            &Filter::default(),
            self.now,
            |conn, connection| {
                if connection.remaining > 0 {
                    shown.push((conn, connection));
                }
            },
        );
        for (conn, connection) in &shown {
            let known = self.live().find(|known| known.conn == *conn);
            prop_assert!(known.is_some());
            let known = known.unwrap();
            prop_assert_eq!(
                (connection.original, connection.reply, connection.mark),
                (known.original, known.reply, known.mark)
            );
            prop_assert_eq!(
                connection.traffic.map(|traffic| traffic.packets),
                known.packets
            );
            prop_assert_eq!(
                u64::from(connection.remaining),
                known.timeout() - (self.now - known.seen)
            );
        }
        prop_assert_eq!(
            shown.len(),
            self.live()
                .filter(|known| self.now - known.seen < known.timeout())
                .count()
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_a_list(events in proptest::collection::vec(event(), 1..200)) {
        let config = Config { capacity: CAPACITY, ..Config::default() };
        let mut pair = Pair { table: Conntrack::new(config, 5_000).unwrap(), list: Vec::new(), now: 5_000 };
        for event in &events {
            pair.run(event)?;
            pair.compare()?;
        }
        let now = pair.now + 3_000_000;
        pair.table.expire(now, usize::MAX);
        prop_assert_eq!(pair.table.stats().live, 0);
    }

    /// No two live connections share a tuple, and everyone who could have a port has one while there are some.
    #[test]
    fn translations_are_unique(openers in proptest::collection::vec((0_u32..40, 1024_u16..1040, 0_u16..3), 1..300), random: bool) {
        let mut table = Conntrack::new(Config { capacity: 1000, ..Config::default() }, 0).unwrap();
        let nat = Nat { source: Some(NatRange { min: 900, max: 902, ports: Some((1030, 1059)), random }), destination: None };
        let mut replies = std::collections::HashSet::new();
        let mut per_service = [0; 3];
        for (src, sport, service) in openers {
            let tuple = Tuple { src: src.into(), dst: 5, sport, dport: service, proto: 6, family: Family::V4, zone: 0 };
            if table.lookup(&tuple, 0).is_some() {
                continue;
            }
            let packet = CtPacket { flags: tcp_flag::SYN, ..CtPacket::default() };
            let commit = Commit { tuple, packet, mark: 0, label: 0, owner: 0, policy: 0, nat: Some(&nat) };
            match table.commit(&commit) {
                Ok(conn) => {
                    let (_, reply) = table.tuples(conn).unwrap();
                    prop_assert!(replies.insert(reply) && (900..=902).contains(&reply.dst) && (1030..=1059).contains(&reply.dport));
                    per_service[usize::from(service)] += 1;
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::NatExhausted);
                    prop_assert_eq!(per_service[usize::from(service)], 90, "all three addresses and thirty ports are in use");
                }
            }
        }
    }
}

//! The table as a whole: limits, time, translation, listing, saved tables.

use std::collections::HashSet;

use super::*;
use Direction::{Original, Reply};
use proptest::prelude::*;

fn udp(src: u32, sport: u16) -> Tuple {
    Tuple {
        src: src.into(),
        dst: 0x0a00_0001,
        sport,
        dport: 53,
        proto: 17,
        family: Family::V4,
        zone: 0,
    }
}

fn table(capacity: usize) -> Conntrack {
    Conntrack::new(
        Config {
            capacity,
            ..Config::default()
        },
        0,
    )
    .unwrap()
}

fn at(now: u64) -> CtPacket {
    CtPacket {
        now,
        bytes: 60,
        ..CtPacket::default()
    }
}

fn commit(tuple: Tuple, now: u64) -> Commit<'static> {
    Commit {
        tuple,
        packet: at(now),
        mark: 0,
        label: 0,
        owner: 0,
        policy: 0,
        nat: None,
    }
}

fn make(table: &mut Conntrack, tuple: Tuple, now: u64) -> Result<ConnRef, Refusal> {
    table.commit(&commit(tuple, now))
}

#[test]
fn udp_goes_from_unreplied_to_a_stream() {
    let mut table = table(10);
    let conn = make(&mut table, udp(1, 1), 0).unwrap();
    assert_eq!(table.lookup(&udp(1, 1), 0), Some((conn, Original)));
    assert_eq!(table.lookup(&udp(1, 1).reversed(), 0), Some((conn, Reply)));
    let epoch = table.epoch(conn);
    assert_eq!(
        table.track(conn, Original, &at(1)).state(),
        ct_state::TRK | ct_state::NEW
    );
    assert_eq!(table.epoch(conn), epoch);
    let answer = table.track(conn, Reply, &at(2));
    assert_eq!(
        answer.state(),
        ct_state::TRK | ct_state::EST | ct_state::RPL
    );
    assert!(answer.packet() & packet_state::CHANGED != 0 && Some(answer.epoch()) != epoch);
    assert_eq!(table.connection(conn, 2).unwrap().remaining, 30_000);
    let next = table.track(conn, Original, &at(3));
    assert_eq!(
        (next.state(), next.epoch()),
        (ct_state::TRK | ct_state::EST, answer.epoch())
    );
    assert_eq!(table.connection(conn, 3).unwrap().remaining, 120_000);
    assert_eq!(
        next.decision(),
        table.track(conn, Original, &at(4)).decision()
    );
    assert_eq!(
        table
            .connection(conn, 4)
            .unwrap()
            .traffic
            .map(|t| (t.packets, t.bytes)),
        [(4, 240), (1, 60)]
    );
}

#[test]
fn sums_go_beyond_32_bits() {
    let mut table = table(10);
    let conn = make(&mut table, udp(1, 1), 0).unwrap();
    for _ in 0..5 {
        table.track(
            conn,
            Original,
            &CtPacket {
                bytes: u32::MAX,
                ..at(1)
            },
        );
        table.track(
            conn,
            Reply,
            &CtPacket {
                bytes: u32::MAX,
                ..at(1)
            },
        );
    }
    let traffic = table.connection(conn, 1).unwrap().traffic;
    assert_eq!(
        [traffic[0].bytes, traffic[1].bytes],
        [60 + 5 * u64::from(u32::MAX), 5 * u64::from(u32::MAX)]
    );
}

#[test]
fn queries_are_answered_by_their_kind_only() {
    let mut table = table(10);
    let query = |kind| Tuple::query(Family::V4, (1, 2), kind, 0, 77, 0).unwrap();
    assert_eq!(make(&mut table, query(0), 0), Err(Refusal::Invalid));
    let conn = make(&mut table, query(8), 0).unwrap();
    let answer = |kind| Tuple {
        src: 2,
        dst: 1,
        ..query(kind)
    };
    assert_eq!(table.lookup(&answer(0), 0), Some((conn, Reply)));
    assert_eq!(table.lookup(&answer(14), 0), None);
    assert_eq!(
        table.lookup(
            &Tuple {
                sport: 78,
                ..answer(0)
            },
            0
        ),
        None
    );
    assert_eq!(
        table.lookup(&answer(8), 0),
        None,
        "the other side's own query is another connection"
    );
    assert_eq!(
        table.track(conn, Reply, &at(1)).state(),
        ct_state::TRK | ct_state::EST | ct_state::RPL
    );
}

#[test]
fn sctp_opens_with_its_tags_and_shuts_down() {
    use sctp_chunk::*;
    let mut table = table(10);
    let tuple = Tuple {
        proto: 132,
        ..udp(1, 1)
    };
    let packet = |flags, seq, ack| CtPacket {
        flags,
        seq,
        ack,
        ..at(0)
    };
    assert_eq!(
        table.commit(&Commit {
            packet: packet(0, 5, 0),
            ..commit(tuple, 0)
        }),
        Err(Refusal::Invalid)
    );
    let conn = table
        .commit(&Commit {
            packet: packet(INIT, 0, 111),
            ..commit(tuple, 0)
        })
        .unwrap();
    let mut step = |direction, flags, seq, ack, state| {
        let verdict = table.track(conn, direction, &packet(flags, seq, ack));
        assert_eq!(table.connection(conn, 0).unwrap().state, state);
        verdict.state() & ct_state::INV == 0
    };
    assert!(!step(Reply, INIT_ACK, 110, 222, State::SctpCookieWait));
    assert!(step(Reply, INIT_ACK, 111, 222, State::SctpCookieWait));
    assert!(!step(Original, COOKIE_ECHO, 111, 0, State::SctpCookieWait));
    assert!(step(Original, COOKIE_ECHO, 222, 0, State::SctpCookieEchoed));
    assert!(step(Reply, COOKIE_ACK, 111, 0, State::SctpEstablished));
    assert!(step(Reply, 0, 111, 0, State::SctpEstablished));
    assert!(!step(Reply, ABORT, 112, 0, State::SctpEstablished));
    assert!(step(Original, SHUTDOWN, 222, 0, State::SctpShutdown));
    assert!(step(Reply, SHUTDOWN, 111, 0, State::SctpShutdown));
    assert!(step(Original, SHUTDOWN_COMPLETE, 222, 0, State::SctpClosed));
}

#[test]
fn stale_references_meet_nothing() {
    let mut table = table(1);
    let first = make(&mut table, udp(1, 1), 0).unwrap();
    assert!(table.end_connection(first) && !table.end_connection(first));
    let second = make(&mut table, udp(2, 2), 0).unwrap();
    assert_ne!(first, second);
    assert_eq!(table.track(first, Original, &at(1)), Verdict::STALE);
    assert!(
        table.epoch(first).is_none() && table.binding(first).is_none() && !table.set_mark(first, 1)
    );
    assert!(table.epoch(second).is_some());
}

#[test]
fn epochs_never_repeat_for_a_reference() {
    let mut table = table(1);
    let conn = make(&mut table, udp(1, 1), 0).unwrap();
    let mut seen = HashSet::new();
    for mark in 1..70_000 {
        let Some(epoch) = table.epoch(conn) else {
            break;
        };
        assert!(seen.insert(epoch));
        table.set_mark(conn, mark);
    }
    assert_eq!(
        (seen.len(), table.track(conn, Original, &at(0))),
        (65_536, Verdict::STALE)
    );
    let (renewed, _) = table.lookup(&udp(1, 1), 0).unwrap();
    assert_eq!(table.mark(renewed), Some(65_536));
}

#[test]
fn a_full_table_refuses_and_lives() {
    let mut table = table(100);
    for n in 0..100 {
        make(&mut table, udp(n, 1), 0).unwrap();
    }
    assert_eq!(make(&mut table, udp(500, 1), 1), Err(Refusal::Full));
    assert!((0..100).all(|n| table.lookup(&udp(n, 1), 1).is_some()));
    assert_eq!(
        make(&mut table, udp(7, 1), 1),
        Ok(table.lookup(&udp(7, 1), 1).unwrap().0),
        "known ones are no new ones"
    );
    assert_eq!(
        (
            table.stats().refused[Refusal::Full.number()],
            table.stats().live
        ),
        (1, 100)
    );
    assert_eq!(table.expire(40_000, 60), 60);
    assert_eq!(table.expire(40_000, 60), 40);
    make(&mut table, udp(500, 1), 40_000).unwrap();
}

#[test]
fn early_drop_takes_unanswered_ones_only() {
    let mut table = Conntrack::new(
        Config {
            capacity: 50,
            early_drop: true,
            ..Config::default()
        },
        0,
    )
    .unwrap();
    for n in 0..50 {
        let conn = make(&mut table, udp(n, 1), 0).unwrap();
        if n % 5 != 0 {
            table.track(conn, Reply, &at(1));
        }
    }
    for n in 100..110 {
        let conn = make(&mut table, udp(n, 1), 1).unwrap();
        table.track(conn, Reply, &at(1));
    }
    assert_eq!(make(&mut table, udp(200, 1), 1), Err(Refusal::Full));
    assert!((0..50).all(|n| table.lookup(&udp(n, 1), 1).is_some() == (n % 5 != 0)));
    assert_eq!(table.stats().early_dropped, 10);
}

#[test]
fn zones_and_ports_have_limits() {
    let mut table = table(100);
    table.set_zone(
        7,
        ZonePolicy {
            limit: Some(2),
            ..ZonePolicy::default()
        },
    );
    table.set_port_limit(3, Some(1));
    let in_zone = |n| Tuple {
        zone: 7,
        ..udp(n, 1)
    };
    make(&mut table, in_zone(1), 0).unwrap();
    let second = make(&mut table, in_zone(2), 0).unwrap();
    assert_eq!(
        make(&mut table, in_zone(3), 0),
        Err(Refusal::ZoneFull { zone: 7 })
    );
    make(&mut table, udp(3, 1), 0).unwrap();
    assert_eq!(table.lookup(&udp(1, 1), 0), None, "another zone");
    table
        .commit(&Commit {
            owner: 3,
            ..commit(udp(4, 1), 0)
        })
        .unwrap();
    assert_eq!(
        table.commit(&Commit {
            owner: 3,
            ..commit(udp(5, 1), 0)
        }),
        Err(Refusal::PortFull { port: 3 })
    );
    table.end_connection(second);
    make(&mut table, in_zone(3), 0).unwrap();
    assert_eq!(
        (
            table.zone_count(7),
            table.port_count(3),
            table.port_count(0)
        ),
        (2, 1, 3)
    );
}

#[test]
fn silent_connections_end_and_others_live() {
    let mut table = table(1000);
    let conns: Vec<_> = (0..1000)
        .map(|n| make(&mut table, udp(n, 1), u64::from(n)).unwrap())
        .collect();
    let mut ended = 0;
    for now in (1000..100_000).step_by(250) {
        for conn in conns.iter().step_by(10) {
            assert_ne!(table.track(*conn, Original, &at(now)), Verdict::STALE);
        }
        ended += table.expire(now, 50);
    }
    assert_eq!((ended, table.stats().live), (900, 100));
    assert_eq!(
        table
            .lookup(&udp(0, 1), 99_750 + 30_000)
            .map(|found| found.0),
        Some(conns[0])
    );
    assert_eq!(
        table.lookup(&udp(0, 1), 99_751 + 30_000),
        None,
        "exactly, whether swept or not"
    );
    assert_eq!(
        table.track(conns[0], Original, &at(130_000)),
        Verdict::STALE
    );
    let again = make(&mut table, udp(0, 1), 130_000).unwrap();
    assert_ne!(again, conns[0]);
}

#[test]
fn policies_have_timeouts_of_their_own() {
    let mut table = table(10);
    let mut timeouts = Timeouts::default();
    timeouts.set(State::UdpUnreplied, 5_000);
    assert!(table.set_timeouts(3, timeouts) && !table.set_timeouts(16, timeouts));
    assert_eq!(
        table.commit(&Commit {
            policy: 16,
            ..commit(udp(1, 1), 0)
        }),
        Err(Refusal::Policy(16))
    );
    table
        .commit(&Commit {
            policy: 3,
            ..commit(udp(1, 1), 0)
        })
        .unwrap();
    make(&mut table, udp(2, 1), 0).unwrap();
    assert_eq!(table.expire(7_200, 10), 1);
    assert!(table.lookup(&udp(2, 1), 7_200).is_some());
}

#[test]
fn half_open_connections_to_one_destination_ask_for_cookies() {
    let mut table = Conntrack::new(
        Config {
            capacity: 1000,
            cookie_threshold: 100,
            ..Config::default()
        },
        0,
    )
    .unwrap();
    let syn = |n| Commit {
        packet: CtPacket {
            flags: tcp_flag::SYN,
            seq: 5,
            window: 100,
            ..at(0)
        },
        ..commit(
            Tuple {
                proto: 6,
                ..udp(n, 1)
            },
            0,
        )
    };
    for n in 0..100 {
        assert!(!table.wants_cookie(&syn(n).tuple));
        table.commit(&syn(n)).unwrap();
    }
    assert!(table.wants_cookie(&syn(1000).tuple));
    assert!(!table.wants_cookie(&Tuple {
        dst: 99,
        ..syn(1).tuple
    }));
    assert_eq!(table.expire(125_000, 1), 1);
    assert!(!table.wants_cookie(&syn(1000).tuple) && table.stats().half_open == 99);
}

fn range(min: u128, max: u128, ports: Option<(u16, u16)>) -> Option<NatRange> {
    Some(NatRange {
        min,
        max,
        ports,
        random: false,
    })
}

#[test]
fn source_translation_keeps_the_port_until_it_is_taken() {
    let mut table = table(100);
    let nat = Nat {
        source: range(0xc000_0201, 0xc000_0201, Some((1, 10))),
        destination: None,
    };
    let mut ports = HashSet::new();
    for n in 0..10 {
        let conn = table
            .commit(&Commit {
                nat: Some(&nat),
                ..commit(udp(n, 5), 0)
            })
            .unwrap();
        let binding = table.binding(conn).unwrap();
        assert_eq!(
            (
                binding.original.src,
                binding.original.dst,
                binding.original.dport
            ),
            (Some(0xc000_0201), None, None)
        );
        assert_eq!(
            (binding.reply.dst, binding.reply.src),
            (Some(n.into()), None)
        );
        let port = binding.original.sport.unwrap_or(5);
        assert!(n != 0 || port == 5);
        assert!((1..=10).contains(&port) && ports.insert(port));
        let (original, reply) = table.tuples(conn).unwrap();
        assert_eq!(
            (reply.dst, reply.dport, reply.src, original.src),
            (0xc000_0201, port, 0x0a00_0001, n.into())
        );
        assert_eq!(table.lookup(&reply, 0), Some((conn, Reply)));
        assert_eq!(
            table.track(conn, Original, &at(0)).state(),
            ct_state::TRK | ct_state::NEW | ct_state::SNAT
        );
        assert_eq!(
            table.track(conn, Reply, &at(0)).state(),
            ct_state::TRK | ct_state::EST | ct_state::RPL | ct_state::DNAT
        );
    }
    let full = Commit {
        nat: Some(&nat),
        ..commit(udp(99, 5), 0)
    };
    assert_eq!(table.commit(&full), Err(Refusal::NatExhausted));
    let elsewhere = Commit {
        tuple: Tuple {
            dport: 54,
            ..full.tuple
        },
        ..full
    };
    assert!(
        table.commit(&elsewhere).is_ok(),
        "ports are free for other destinations"
    );
    let bad = Nat {
        source: range(5, 4, None),
        destination: None,
    };
    assert_eq!(
        table.commit(&Commit {
            nat: Some(&bad),
            ..full
        }),
        Err(Refusal::NatRange)
    );
    let bad = Nat {
        source: range(5, 1 << 40, None),
        destination: None,
    };
    assert_eq!(
        table.commit(&Commit {
            nat: Some(&bad),
            ..full
        }),
        Err(Refusal::NatRange)
    );
}

#[test]
fn hairpin_translates_both_and_errors_are_translated_back() {
    let mut table = table(100);
    let (a, b, public) = (0x0a00_0005, 0x0a00_0006, 0xc000_0201);
    let tuple = Tuple {
        src: a,
        dst: public,
        sport: 4000,
        dport: 80,
        proto: 17,
        family: Family::V4,
        zone: 0,
    };
    let nat = Nat {
        source: range(public, public, None),
        destination: range(b, b, Some((8080, 8080))),
    };
    let conn = table
        .commit(&Commit {
            nat: Some(&nat),
            ..commit(tuple, 0)
        })
        .unwrap();
    let binding = table.binding(conn).unwrap();
    assert_eq!(
        binding.original,
        Rewrite {
            src: Some(public),
            dst: Some(b),
            sport: None,
            dport: Some(8080)
        }
    );
    assert_eq!(
        binding.reply,
        Rewrite {
            src: Some(public),
            dst: Some(a),
            sport: Some(80),
            dport: None
        }
    );
    assert_eq!(
        binding.embedded_reply,
        Rewrite {
            src: Some(a),
            dst: Some(public),
            sport: None,
            dport: Some(80)
        }
    );
    let at_b = Tuple {
        src: public,
        dst: b,
        sport: 4000,
        dport: 8080,
        ..tuple
    };
    assert_eq!(table.lookup(&at_b.reversed(), 0), Some((conn, Reply)));
    assert_eq!(table.lookup_related(&at_b, 0), Some((conn, Reply)));
}

#[test]
fn identifiers_are_translated_as_ports() {
    let mut table = table(100);
    let nat = Nat {
        source: range(9, 9, None),
        destination: None,
    };
    let ping = |src| Tuple::query(Family::V4, (src, 2), 8, 0, 77, 0).unwrap();
    let first = table
        .commit(&Commit {
            nat: Some(&nat),
            ..commit(ping(3), 0)
        })
        .unwrap();
    let second = table
        .commit(&Commit {
            nat: Some(&nat),
            ..commit(ping(4), 0)
        })
        .unwrap();
    assert_eq!(table.binding(first).unwrap().original.sport, None);
    let binding = table.binding(second).unwrap();
    let identifier = binding.original.sport.unwrap();
    assert_eq!(
        binding.reply,
        Rewrite {
            dst: Some(4),
            sport: Some(77),
            ..Rewrite::default()
        }
    );
    let answer = Tuple {
        sport: identifier,
        ..Tuple::query(Family::V4, (2, 9), 0, 0, 77, 0).unwrap()
    };
    assert_eq!(table.lookup(&answer, 0), Some((second, Reply)));
}

#[test]
fn answers_that_belong_to_another_are_refused() {
    let mut table = table(100);
    let nat = Nat {
        source: range(9, 9, None),
        destination: None,
    };
    table
        .commit(&Commit {
            nat: Some(&nat),
            ..commit(udp(3, 5000), 0)
        })
        .unwrap();
    assert_eq!(make(&mut table, udp(9, 5000), 0), Err(Refusal::Clash));
    assert!(
        make(&mut table, udp(9, 5000), 40_000).is_ok(),
        "expired ones give way"
    );
    let land = Tuple {
        src: 1,
        dst: 1,
        sport: 9,
        dport: 9,
        ..udp(0, 0)
    };
    assert_eq!(make(&mut table, land, 0), Err(Refusal::Invalid));
}

#[test]
fn listing_and_flushing_go_in_chunks() {
    let mut table = table(100);
    for n in 0..60 {
        let owner = (n % 2) as u16;
        table
            .commit(&Commit {
                owner,
                mark: n,
                ..commit(
                    Tuple {
                        zone: (n % 3) as u16,
                        ..udp(n, 1)
                    },
                    0,
                )
            })
            .unwrap();
    }
    let list = |table: &Conntrack, filter: &Filter| {
        let (mut found, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            cursor = table.list(from, 7, filter, 0, |_, connection| {
                found.push(connection.mark)
            });
        }
        found
    };
    assert_eq!(list(&table, &Filter::default()).len(), 60);
    assert_eq!(
        list(
            &table,
            &Filter {
                zone: Some(1),
                owner: Some(0),
                ..Filter::default()
            }
        ),
        [4, 10, 16, 22, 28, 34, 40, 46, 52, 58]
    );
    assert_eq!(
        list(
            &table,
            &Filter {
                src: Some(5),
                ..Filter::default()
            }
        ),
        [5]
    );
    assert_eq!(
        list(
            &table,
            &Filter {
                mark: Some((8, 0xf8)),
                ..Filter::default()
            }
        ),
        Vec::from_iter(8..16)
    );
    assert!(
        list(
            &table,
            &Filter {
                state: Some(State::UdpStream),
                ..Filter::default()
            }
        )
        .is_empty()
    );
    let (mut ended, mut cursor) = (0, Some(0));
    while let Some(from) = cursor {
        let (count, next) = table.flush(
            from,
            9,
            &Filter {
                zone: Some(2),
                ..Filter::default()
            },
        );
        (ended, cursor) = (ended + count, next);
    }
    assert_eq!(
        (
            ended,
            list(&table, &Filter::default()).len(),
            table.zone_count(2)
        ),
        (20, 40, 0)
    );
}

fn filled() -> (Conntrack, Vec<ConnRef>) {
    let mut table = table(1000);
    let nat = Nat {
        source: range(0xc000_0201, 0xc000_0204, None),
        destination: None,
    };
    let mut conns = Vec::new();
    for n in 0..600 {
        let v6 = Tuple {
            src: 1 << 100 | u128::from(n),
            dst: 7 << 99,
            family: Family::V6,
            ..udp(n, 1)
        };
        let tuple = if n % 3 == 0 { v6 } else { udp(n, 1) };
        let nat = (n % 3 == 1).then_some(&nat);
        let request = Commit {
            nat,
            mark: n,
            label: u128::from(n) << 90,
            owner: (n % 7) as u16,
            ..commit(tuple, 0)
        };
        let tcp = CtPacket {
            flags: tcp_flag::SYN,
            seq: n,
            window: 1000,
            ..at(0)
        };
        let request = if n % 5 == 0 {
            Commit {
                packet: tcp,
                tuple: Tuple { proto: 6, ..tuple },
                ..request
            }
        } else {
            request
        };
        let conn = table.commit(&request).unwrap();
        if n % 5 == 0 {
            table.track(
                conn,
                Reply,
                &CtPacket {
                    flags: tcp_flag::SYN | tcp_flag::ACK,
                    seq: 9,
                    ack: n + 1,
                    window: 1000,
                    ..at(5)
                },
            );
            table.track(
                conn,
                Original,
                &CtPacket {
                    flags: tcp_flag::ACK,
                    seq: n + 1,
                    ack: 10,
                    window: 1000,
                    ..at(6)
                },
            );
        } else if n % 2 == 0 {
            table.track(conn, Reply, &at(10));
            table.track(conn, Original, &at(u64::from(n)));
        }
        conns.push(conn);
    }
    (table, conns)
}

#[test]
fn a_saved_table_comes_back() {
    let (table, conns) = filled();
    let mut bytes = Vec::new();
    let saved = table.save(1000, &mut bytes).unwrap();
    assert_eq!(saved, 600 / 5 + 240);
    let mut other = self::table(1000);
    let restored = other
        .restore(1_000_000, &mut bytes.as_slice(), Some)
        .unwrap();
    assert_eq!(
        restored,
        Restored {
            connections: saved,
            skipped: 0
        }
    );
    for conn in conns {
        let before = table.connection(conn, 1000).unwrap();
        let found = other.lookup(&before.original, 1_000_000);
        assert_eq!(found.is_some(), before.replied);
        if let Some((conn, _)) = found {
            let after = other.connection(conn, 1_000_000).unwrap();
            assert_eq!(
                after,
                Connection {
                    created: 1_000_000 - 1000,
                    ..before
                }
            );
            assert_eq!(other.lookup(&before.reply, 1_000_000), Some((conn, Reply)));
        }
    }
    assert_eq!(
        other
            .restore(0, &mut bytes.as_slice(), Some)
            .unwrap_err()
            .to_string(),
        RestoreError::NotEmpty.to_string()
    );
    assert_eq!(
        other.expire(1_000_000 + 125_000, 10_000),
        240,
        "they end in their time"
    );
    let tcp = Tuple {
        proto: 6,
        ..udp(5, 1)
    };
    let (conn, _) = other.lookup(&tcp, 1_100_000).unwrap();
    let data = CtPacket {
        flags: tcp_flag::ACK,
        seq: 6,
        ack: 10,
        window: 1000,
        payload: 5,
        ..at(1_100_000)
    };
    assert_eq!(
        other.track(conn, Original, &data).packet(),
        packet_state::VALID,
        "windows are known"
    );
    let far = CtPacket {
        seq: 90_000,
        ..data
    };
    assert_eq!(
        other.track(conn, Original, &far).packet(),
        packet_state::INVALID
    );
}

#[test]
fn owners_that_are_gone_and_small_tables_skip() {
    let (table, _) = filled();
    let mut bytes = Vec::new();
    let saved = table.save(1000, &mut bytes).unwrap();
    let mut other = self::table(1000);
    let restored = other
        .restore(0, &mut bytes.as_slice(), |owner| {
            (owner != 3).then_some(owner + 1)
        })
        .unwrap();
    assert!(restored.skipped > 30 && restored.connections + restored.skipped == saved);
    assert_eq!((other.port_count(4), other.port_count(0)), (0, 0));
    let mut small = self::table(100);
    let restored = small.restore(0, &mut bytes.as_slice(), Some).unwrap();
    assert_eq!((restored.connections, small.stats().live), (100, 100));
}

#[test]
fn hostile_saved_tables_are_refused() {
    let (table, _) = filled();
    let mut bytes = Vec::new();
    table.save(1000, &mut bytes).unwrap();
    let mut other = self::table(1000);
    let mut refused = |bytes: &[u8]| {
        let error = other.restore(0, &mut &*bytes, Some).unwrap_err();
        assert_eq!((other.stats().live, other.zone_count(0)), (0, 0));
        error
    };
    for length in (0..bytes.len()).step_by(61) {
        assert!(matches!(refused(&bytes[..length]), RestoreError::Truncated));
    }
    for place in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[place] ^= 1 << (place % 8);
        refused(&bad);
    }
    let mut twice = bytes[..12].to_vec();
    twice.extend(2_u32.to_le_bytes());
    twice.extend(&bytes[16..16 + 192]);
    twice.extend(&bytes[16..16 + 192]);
    assert!(matches!(
        refused(&twice),
        RestoreError::Record { number: 1, .. }
    ));
    assert!(matches!(
        refused(b"PK\x03\x04 is no table"),
        RestoreError::Magic
    ));
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(matches!(refused(&newer), RestoreError::Version(2)));
    let mut huge = bytes[..12].to_vec();
    huge.extend(u32::MAX.to_le_bytes());
    assert!(matches!(refused(&huge), RestoreError::Count));
    assert_eq!(
        other
            .restore(0, &mut bytes.as_slice(), Some)
            .unwrap()
            .skipped,
        0
    );
}

proptest! {
    /// No record makes a panic or a table that is not consistent, whatever its bytes.
    #[test]
    fn random_records_are_refused_or_consistent(changes in proptest::collection::vec((16_usize..400, any::<u8>()), 1..8), now: u64) {
        let (table, _) = filled();
        let mut bytes = Vec::new();
        table.save(1000, &mut bytes).unwrap();
        for (place, value) in changes {
            bytes[place] = value;
        }
        let mut other = self::table(1000);
        let now = now >> 1;
        let answer = other.restore(now, &mut bytes.as_slice(), Some);
        prop_assert_eq!(answer.is_err(), other.stats().live == 0);
        other.expire(now + (1 << 40), 10_000);
        prop_assert_eq!(other.stats().live, 0);
    }
}

//! The table as a whole: protocols, limits, time, listing.

use std::collections::HashSet;

use super::*;
use Direction::{Original, Reply};

pub(super) fn udp(src: u32, sport: u16) -> Tuple {
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

pub(super) fn table(capacity: usize) -> Conntrack {
    Conntrack::new(
        Config {
            capacity,
            ..Config::default()
        },
        0,
    )
    .unwrap()
}

pub(super) fn at(now: u64) -> CtPacket {
    CtPacket {
        now,
        bytes: 60,
        ..CtPacket::default()
    }
}

pub(super) fn commit(tuple: Tuple, now: u64) -> Commit<'static> {
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

pub(super) fn make(table: &mut Conntrack, tuple: Tuple, now: u64) -> Result<ConnRef, Refusal> {
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
    assert!(table.is_behind(40_000));
    assert_eq!(table.expire(40_000, 60), 40);
    assert!(!table.is_behind(40_000));
    make(&mut table, udp(500, 1), 40_000).unwrap();
}

#[test]
fn early_drop_takes_unanswered_ones_only() {
    let mut table = Conntrack::new(
        Config {
            capacity: 50,
            early_drop: true,
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
fn half_open_connections_are_counted_by_zone() {
    let mut table = table(1000);
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
        table.commit(&syn(n)).unwrap();
    }
    let zone = syn(0).tuple.zone;
    assert_eq!(table.half_open_in(zone), 100);
    assert_eq!(table.half_open_in(zone + 1), 0);
    assert_eq!(table.expire(125_000, 1), 1);
    assert_eq!(
        (table.half_open_in(zone), table.stats().half_open),
        (99, 99)
    );
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

#[test]
fn prepared_memory_changes_nothing_else() {
    let mut table = table(5000);
    for step in (0..6000).step_by(100) {
        table.prepare(step);
        for n in step as u32..(step as u32 + 50).min(4000) {
            make(&mut table, udp(n, 1), 0).unwrap();
        }
    }
    let found = (0..4000)
        .filter(|&n| table.lookup(&udp(n, 1), 0).is_some())
        .count();
    assert_eq!((found, table.stats().live), (2000, 2000));
}

use proptest::prelude::*;
use sumeru_packet::tcp::Shift;

use super::tuple::Family;
use super::{
    Commit, Config, Conntrack, CookieSecret, CtPacket, Direction, Opening, Splice, State, Tuple,
    ZonePolicy, ct_state, tcp_flag,
};

const C: u32 = 0xffff_fff0;
const S: u32 = 77;

fn tuple() -> Tuple {
    Tuple {
        src: 0x0a00_0001,
        dst: 0x0a00_0002,
        sport: 1000,
        dport: 80,
        proto: 6,
        family: Family::V4,
        zone: 0x9001,
    }
}

fn segment(flags: u8, seq: u32, ack: u32, now: u64) -> CtPacket {
    CtPacket {
        now,
        bytes: 60,
        seq,
        ack,
        window: 1000,
        flags,
        ..CtPacket::default()
    }
}

fn commit(table: &mut Conntrack, packet: CtPacket) -> super::ConnRef {
    let commit = Commit {
        tuple: tuple(),
        packet,
        mark: 0,
        label: 0,
        owner: 1,
        policy: 0,
        nat: None,
    };
    table.commit(&commit).unwrap()
}

fn table() -> Conntrack {
    let mut table = Conntrack::new(
        Config {
            capacity: 100,
            ..Config::default()
        },
        0,
    )
    .unwrap();
    table.set_zone(
        0x9001,
        ZonePolicy {
            pickup: true,
            liberal: true,
            limit: None,
        },
    );
    table
}

#[test]
fn a_spliced_connection_is_tracked_in_the_opener_s_numbers() {
    let secret = CookieSecret::new();
    let cookie = secret.make(&tuple(), C, 1460, 1_000_000);
    let ack = cookie.wrapping_add(1);
    assert!(secret.check(&tuple(), C + 1, ack, 1_030_000).is_some());
    let mut table = table();
    let conn = commit(&mut table, segment(tcp_flag::SYN, C, 0, 1_030_000));
    let opening = Opening {
        cookie,
        stamp: Some(u32::MAX),
        scale: Some(7),
    };
    assert!(table.opening_of(conn).is_none() && table.begin_splice(conn, opening));
    assert_eq!(table.opening_of(conn), Some(opening));
    assert!(table.acknowledges_opening(conn, C + 1) && !table.acknowledges_opening(conn, C));
    let splice = opening.join(S, Some(5), Some(9));
    let epoch = table.epoch(conn);
    assert!(table.splice(conn).is_none() && table.set_splice(conn, splice));
    assert_ne!(epoch, table.epoch(conn));
    assert_eq!(
        (table.splice(conn), table.opening_of(conn)),
        (Some(splice), None)
    );
    assert_eq!((splice.stamp, splice.window), (6, 2));
    let reply = segment(
        tcp_flag::SYN | tcp_flag::ACK,
        S.wrapping_add(splice.to_opener().seq),
        C + 1,
        1_030_001,
    );
    assert_eq!(reply.seq, cookie);
    let verdict = table.track(conn, Direction::Reply, &reply);
    assert_eq!(verdict.state() & ct_state::INV, 0);
    let packet = segment(tcp_flag::ACK, C + 1, ack, 1_030_002);
    table.track(conn, Direction::Original, &packet);
    let now = table.connection(conn, 1_030_003).unwrap();
    assert_eq!(now.state, State::Established);
    assert_eq!(ack.wrapping_add(splice.to_server().ack), S + 1);

    // An orderly restart keeps it.
    let mut saved = Vec::new();
    assert_eq!(table.save(1_030_003, &mut saved).unwrap(), 1);
    let mut next = self::table();
    next.restore(0, &mut &saved[..], Some).unwrap();
    let (conn, _) = next.lookup(&tuple(), 1).unwrap();
    assert_eq!(next.splice(conn), Some(splice));

    // The opener opens another in its place: that one is the server's own.
    for (direction, flags, seq, ack) in [
        (Direction::Original, tcp_flag::RST, C + 1, 0),
        (Direction::Original, tcp_flag::SYN, 5_000, 0),
    ] {
        next.track(conn, direction, &segment(flags, seq, ack, 2));
    }
    let (conn, _) = next.lookup(&tuple(), 3).unwrap();
    assert_eq!(next.connection(conn, 3).unwrap().state, State::SynSent);
    assert_eq!(next.splice(conn), None);
}

#[test]
fn half_opened_connections_are_not_kept() {
    let mut table = table();
    let conn = commit(&mut table, segment(tcp_flag::SYN, C, 0, 0));
    let opening = Opening {
        cookie: 1,
        stamp: None,
        scale: None,
    };
    table.begin_splice(conn, opening);
    assert_eq!(table.opening_of(conn), Some(opening));
    assert_eq!(table.half_open_in(0x9001), 1);
    assert_eq!(table.save(1, &mut Vec::new()).unwrap(), 0);
}

proptest! {
    #[test]
    fn splicing_goes_both_ways(cookie: u32, server: u32, bytes: u32, stamp: Option<u32>, scale in proptest::option::of(0_u8..15), theirs: Option<u32>, shift in proptest::option::of(0_u8..15)) {
        let splice = Opening { cookie, stamp, scale }.join(server, theirs, shift);
        let Shift { seq, value, window, .. } = splice.to_opener();
        prop_assert_eq!(server.wrapping_add(bytes).wrapping_add(seq), cookie.wrapping_add(bytes));
        prop_assert_eq!(cookie.wrapping_add(bytes).wrapping_add(splice.to_server().ack), server.wrapping_add(bytes));
        if let (Some(given), Some(own)) = (stamp, theirs) {
            prop_assert_eq!(own.wrapping_add(value), given);
            prop_assert_eq!(given.wrapping_add(splice.to_server().echo), own);
        } else {
            prop_assert_eq!((value, splice.to_server().echo), (0, 0));
        }
        prop_assert_eq!(i32::from(window), scale.map_or(0, |told| i32::from(shift.unwrap_or(0)) - i32::from(told)));
        let mut table = table();
        let conn = commit(&mut table, segment(tcp_flag::SYN, 1, 0, 0));
        table.set_splice(conn, splice);
        prop_assert_eq!(table.splice(conn), Some(splice));
    }
}

#[test]
fn a_label_that_no_splice_has_is_not_believed() {
    assert!(Splice::label_is_good([0, u64::from(u32::MAX)]));
    assert!(Splice::label_is_good([0, u64::from((-14_i8) as u8) << 32]));
    for label in [[1, 0], [0, 1 << 40], [0, 15 << 32]] {
        assert!(!Splice::label_is_good(label), "{label:x?}");
    }
}

//! Saved tables: round trip, and bytes that are none.

use super::nat_tests::range;
use super::table_tests::{at, commit, table, udp};
use super::*;
use Direction::{Original, Reply};
use proptest::prelude::*;

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
    let (saved_table, conns) = filled();
    let mut bytes = Vec::new();
    let saved = saved_table.save(1000, &mut bytes).unwrap();
    assert_eq!(saved, 600 / 5 + 240);
    let mut other = table(1000);
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
        let before = saved_table.connection(conn, 1000).unwrap();
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
    let (saved_table, _) = filled();
    let mut bytes = Vec::new();
    let saved = saved_table.save(1000, &mut bytes).unwrap();
    let mut other = table(1000);
    let restored = other
        .restore(0, &mut bytes.as_slice(), |owner| {
            (owner != 3).then_some(owner + 1)
        })
        .unwrap();
    assert!(restored.skipped > 30 && restored.connections + restored.skipped == saved);
    assert_eq!((other.port_count(4), other.port_count(0)), (0, 0));
    let mut small = table(100);
    let restored = small.restore(0, &mut bytes.as_slice(), Some).unwrap();
    assert_eq!((restored.connections, small.stats().live), (100, 100));
}

#[test]
fn hostile_saved_tables_are_refused() {
    let (saved_table, _) = filled();
    let mut bytes = Vec::new();
    saved_table.save(1000, &mut bytes).unwrap();
    let mut other = table(1000);
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
        let (saved_table, _) = filled();
        let mut bytes = Vec::new();
        saved_table.save(1000, &mut bytes).unwrap();
        for (place, value) in changes {
            bytes[place] = value;
        }
        let mut other = table(1000);
        let now = now >> 1;
        let answer = other.restore(now, &mut bytes.as_slice(), Some);
        prop_assert_eq!(answer.is_err(), other.stats().live == 0);
        other.expire(now + 500_000_000, 10_000);
        prop_assert_eq!(other.stats().live, 0);
    }
}

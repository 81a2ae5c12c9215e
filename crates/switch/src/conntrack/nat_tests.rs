//! Translation: which address and port, what is rewritten, and when there is none left.

use std::collections::HashSet;

use super::table_tests::{at, commit, make, table, udp};
use super::*;
use Direction::{Original, Reply};

pub(super) fn range(min: u128, max: u128, ports: Option<(u16, u16)>) -> Option<NatRange> {
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

//! Which member gets a connection.

use super::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

fn member(n: u8, weight: u16) -> Member {
    Member {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
        port: 80,
        network: 1,
        weight,
        draining: false,
        slot: n.into(),
        state: Shared::default(),
    }
}

fn balancer(algorithm: Algorithm, weights: &[u16]) -> Balancer {
    Balancer {
        name: "web".into(),
        zone: 7,
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100)),
        proto: 6,
        port: 80,
        algorithm,
        members: weights
            .iter()
            .zip(1..)
            .map(|(weight, n)| member(n, *weight))
            .collect(),
        state: Shared::default(),
    }
}

fn sender(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_0000 + n))
}

/// The slots of the members that senders get.
fn chosen(balancer: &Balancer, senders: u32) -> Vec<u16> {
    (0..senders)
        .map(|n| balancer.choose(sender(n), |_| 0, false).unwrap().slot)
        .collect()
}

fn share(slots: &[u16], slot: u16) -> f64 {
    slots.iter().filter(|found| **found == slot).count() as f64 / slots.len() as f64
}

#[test]
fn senders_are_spread_by_weight_and_stay() {
    let balancer = balancer(Algorithm::SourceHash, &[1, 2, 5]);
    let slots = chosen(&balancer, 20_000);
    for (slot, expected) in [(1, 0.125), (2, 0.25), (3, 0.625)] {
        let found = share(&slots, slot);
        assert!((found - expected).abs() < 0.015, "member {slot}: {found}");
    }
    assert_eq!(slots, chosen(&balancer, 20_000));
}

#[test]
fn a_member_that_fails_moves_only_its_own_senders() {
    let balancer = balancer(Algorithm::SourceHash, &[3, 3, 3, 3]);
    let before = chosen(&balancer, 8000);
    balancer.members[1].state.set_up(false);
    let during = chosen(&balancer, 8000);
    for (was, is) in before.iter().zip(&during) {
        assert_ne!(*is, 2);
        assert!(was == is || *was == 2);
    }
    // Its share goes to all others.
    let moved: Vec<u16> = before
        .iter()
        .zip(&during)
        .filter_map(|(was, is)| (*was == 2).then_some(*is))
        .collect();
    for slot in [1, 3, 4] {
        assert!((share(&moved, slot) - 1.0 / 3.0).abs() < 0.04);
    }
    balancer.members[1].state.set_up(true);
    assert_eq!(chosen(&balancer, 8000), before);
}

#[test]
fn turns_are_as_the_weights_and_not_in_a_row() {
    let balancer = balancer(Algorithm::RoundRobin, &[5, 1, 1]);
    assert_eq!(chosen(&balancer, 14), [1, 1, 2, 1, 3, 1, 1].repeat(2));
    let next = |dry| balancer.choose(sender(0), |_| 0, dry).unwrap().slot;
    assert_eq!(
        [
            next(true),
            next(true),
            next(false),
            next(false),
            next(false)
        ],
        [1, 1, 1, 1, 2],
        "a trace takes nobody's turn"
    );
}

#[test]
fn the_least_loaded_for_its_weight_is_next() {
    let balancer = balancer(Algorithm::LeastConnections, &[1, 2, 1]);
    let mut live = HashMap::<u16, u32>::new();
    for n in 0..400 {
        let count = |slot| live.get(&slot).copied().unwrap_or(0);
        let slot = balancer.choose(sender(n), count, false).unwrap().slot;
        *live.entry(slot).or_default() += 1;
    }
    assert_eq!((live[&1], live[&2], live[&3]), (100, 200, 100));
    // Whose connections end gets the next ones.
    live.insert(3, 50);
    for n in 0..50 {
        let slot = balancer.choose(sender(n), |slot| live[&slot], false);
        let slot = slot.unwrap().slot;
        assert_eq!(slot, 3);
        *live.get_mut(&slot).unwrap() += 1;
    }
}

#[test]
fn nobody_gets_what_nobody_may_have() {
    for algorithm in [
        Algorithm::SourceHash,
        Algorithm::LeastConnections,
        Algorithm::RoundRobin,
    ] {
        let mut balancer = balancer(algorithm, &[1, 0, 1]);
        balancer.members[0].draining = true;
        let slots = chosen(&balancer, 100);
        assert!(slots.iter().all(|slot| *slot == 3), "{algorithm:?}");
        balancer.members[2].state.set_up(false);
        assert_eq!(balancer.choose(sender(1), |_| 0, false), None);
    }
}

proptest! {
    /// Whoever comes or goes: a sender moves only to or from that one.
    #[test]
    fn others_do_not_matter(
        weights in proptest::collection::vec(1_u16..=256, 2..20),
        gone in any::<proptest::sample::Index>(),
        from in any::<u32>(),
    ) {
        let mut balancer = balancer(Algorithm::SourceHash, &weights);
        let slot = |balancer: &Balancer| balancer.choose(sender(from & 0xffff), |_| 0, false).unwrap().slot;
        let before = slot(&balancer);
        let gone = balancer.members.remove(gone.index(weights.len()));
        let after = slot(&balancer);
        prop_assert!(after == before || before == gone.slot);
    }
}

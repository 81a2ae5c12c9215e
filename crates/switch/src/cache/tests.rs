use proptest::prelude::*;
use sumeru_packet::{Field, Layer};

use super::*;
use crate::stats::Drop;

fn key(port: u32, dst: u32) -> FlowKey {
    let mut key = FlowKey::with_metadata(port, 0);
    key.set(Field::IpDst(Layer::Outer), dst.into());
    key.set(Field::IpDst(Layer::Inner), (dst / 2).into());
    key
}

pub(super) fn mask(prefix: u32) -> FlowMask {
    let mut mask = FlowMask::ZERO;
    mask.set(
        Field::IpDst(Layer::Outer),
        u128::from(u32::MAX.checked_shl(32 - prefix).unwrap_or(0)),
    );
    mask
}

pub(super) fn decision(mask: FlowMask, ops: Vec<Op>) -> Decision {
    Decision {
        mask,
        rests: Rests::default(),
        ops,
        sender: None,
        tracks: Tracks::new(),
    }
}

fn find(cache: &mut Cache, key: &FlowKey) -> Option<(u32, Level)> {
    let hash = cache.hash(key);
    cache.find(key, hash, &Stamps::default())
}

fn sweep(cache: &mut Cache) -> usize {
    let mut senders = 0;
    cache.begin_sweep();
    while cache.sweeping() {
        cache.sweep(|_| senders += 1);
    }
    senders
}

#[test]
fn a_decision_serves_all_frames_that_agree_and_no_other() {
    let mut cache = Cache::new();
    let entry = cache.insert(
        &key(1, 0x0a01_0203),
        decision(mask(16), vec![Op::Output(7)]),
    );
    assert_eq!(
        find(&mut cache, &key(1, 0x0a01_0203)),
        Some((entry, Level::Exact))
    );
    assert_eq!(
        find(&mut cache, &key(1, 0x0a01_ffff)),
        Some((entry, Level::Exact)),
        "the hash covers only what matters"
    );
    assert_eq!(find(&mut cache, &key(1, 0x0a02_0203)), None);
    assert_eq!(
        find(&mut cache, &key(2, 0x0a01_0203)),
        None,
        "the port always matters"
    );
    cache.insert(&key(1, 0x0b01_0203), decision(mask(32), vec![]));
    assert_eq!(
        find(&mut cache, &key(1, 0x0a01_ffff)),
        Some((entry, Level::Wildcard)),
        "a wider hash, then exact again"
    );
    assert_eq!(
        find(&mut cache, &key(1, 0x0a01_ffff)),
        Some((entry, Level::Exact))
    );
    assert!(matches!(cache.hit(entry), Hit::Output(quick) if quick.port == 7));
}

#[test]
fn programs_are_shared_and_counters_are_not() {
    let mut cache = Cache::new();
    let drop = || Op::Drop(Drop::Rule.into());
    let first = cache.insert(&key(1, 1), decision(mask(32), vec![Op::Count(5), drop()]));
    let second = cache.insert(&key(1, 2), decision(mask(32), vec![Op::Count(6), drop()]));
    let third = cache.insert(
        &key(1, 3),
        decision(mask(32), vec![Op::Count(7), Op::Output(3)]),
    );
    assert!(matches!(cache.hit(first), Hit::Run([Op::Drop(_)], Some(5))));
    assert!(matches!(
        cache.hit(second),
        Hit::Run([Op::Drop(_)], Some(6))
    ));
    assert!(
        matches!(cache.hit(third), Hit::Output(quick) if (quick.port, quick.counter()) == (3, Some(7)))
    );
    assert_eq!(cache.programs.len(), 1);
    sweep(&mut cache);
    sweep(&mut cache);
    assert_eq!(
        (cache.len(), cache.programs.len(), cache.masks()),
        (0, 0, 0)
    );
}

#[test]
fn a_change_makes_void_what_rests_on_it() {
    let (mut cache, stamps) = (Cache::new(), Stamps::default());
    let (rule_class, address) = (crate::classifier::stamps::class(99), 0xabc);
    for dst in 0..4 {
        let mut decision = decision(mask(32), vec![]);
        if dst & 1 != 0 {
            decision.rests.on_rules(rule_class);
        }
        if dst & 2 != 0 {
            decision.rests.on_learned(address);
        }
        cache.insert(&key(1, dst), decision);
    }
    let good = |cache: &mut Cache| {
        let found = |dst| {
            let key = key(1, dst);
            let hash = cache.hash(&key);
            cache.find(&key, hash, &stamps).is_some()
        };
        [0, 1, 2, 3].map(found)
    };
    cache.adopt(1);
    assert_eq!(good(&mut cache), [true; 4]);
    stamps.stamp(rule_class, 2);
    cache.adopt(2);
    assert_eq!(good(&mut cache), [true, false, true, false]);
    cache.learned(address);
    assert_eq!(good(&mut cache), [true, false, false, false]);
    cache.invalidate();
    assert_eq!(good(&mut cache), [false; 4]);
}

#[test]
fn what_rests_on_too_much_is_good_until_anything_changes() {
    let mut cache = Cache::new();
    let mut many = decision(mask(32), vec![]);
    (0..20).for_each(|hash| many.rests.on_learned(hash << 40));
    cache.insert(&key(1, 1), many);
    assert!(find(&mut cache, &key(1, 1)).is_some());
    cache.adopt(5);
    assert!(find(&mut cache, &key(1, 1)).is_none());
}

#[test]
fn unused_decisions_are_freed_and_their_places_used_again() {
    let mut cache = Cache::new();
    for dst in 0..100 {
        let sender = Some((5, [2; 6]));
        let mut key = key(1, dst);
        key.set(Field::EthSrc(Layer::Outer), 0x0202_0202_0202);
        let mut mask = mask(32);
        mask.merge_field(Field::EthSrc(Layer::Outer));
        let entry = cache.insert(
            &key,
            Decision {
                sender,
                ..decision(mask, vec![])
            },
        );
        if dst % 2 == 1 {
            cache.hit(entry);
        }
    }
    assert_eq!((sweep(&mut cache), cache.len()), (50, 50));
    assert!(cache.insert(&key(1, 500), decision(mask(32), vec![])) < 100);
}

#[test]
fn a_full_cache_replaces_entries() {
    let mut cache = Cache::with_limit(2048);
    for dst in 0..10_000 {
        cache.insert(
            &key(1, dst),
            decision(mask(32), vec![Op::Output(dst as u16)]),
        );
    }
    assert_eq!(cache.len(), 2048);
    assert!(find(&mut cache, &key(1, 9_999)).is_some());
}

#[test]
fn one_ports_many_masks_do_not_touch_anothers() {
    let mut cache = Cache::new();
    cache.insert(&key(1, 1), decision(mask(32), vec![Op::Output(2)]));
    for bits in 1..2000_u128 {
        let mut mask = FlowMask::ZERO;
        mask.set(Field::L4Dst(Layer::Outer), bits);
        mask.set(Field::L4Src(Layer::Outer), bits >> 3);
        let mut key = key(2, 0);
        key.set(Field::L4Dst(Layer::Outer), bits);
        let entry = cache.insert(&key, decision(mask, vec![Op::Output(3)]));
        assert_eq!(find(&mut cache, &key).map(|found| found.0), Some(entry));
    }
    assert_eq!(cache.ports[1].tuples.len(), 1);
    assert!(
        cache.ports[2].tuples.len() <= MAX_MASKS + 2,
        "{}",
        cache.ports[2].tuples.len()
    );
    assert_eq!(
        find(&mut cache, &key(1, 1)).map(|found| found.1),
        Some(Level::Exact)
    );
}

proptest! {
    /// Against a list searched from the newest: whatever was inserted under whatever masks.
    #[test]
    fn finds_what_was_inserted(
        inserts in proptest::collection::vec((0_u32..3, 0_u32..64, 20_u32..=32, any::<bool>()), 1..60),
        probes in proptest::collection::vec((0_u32..3, 0_u32..64), 1..60),
    ) {
        let mut cache = Cache::new();
        let mut list: Vec<(FlowKey, FlowMask, u32)> = Vec::new();
        for (number, (port, dst, prefix, inner)) in inserts.into_iter().enumerate() {
            let mut mask = mask(prefix);
            mask.merge_field(Field::InPort);
            if inner {
                mask.merge_field(Field::IpDst(Layer::Inner));
            }
            // As the slow path does: only what is not cached is decided.
            let known = list.iter().any(|(k, m, _)| key(port, dst).masked(m) == k.masked(m));
            if !known {
                let entry = cache.insert(&key(port, dst), decision(mask, vec![Op::Output(number as u16)]));
                list.push((key(port, dst), mask, entry));
            }
        }
        for (port, dst) in probes {
            let probe = key(port, dst);
            let expected: Vec<u32> = list.iter().filter(|(k, m, _)| probe.masked(m) == k.masked(m)).map(|e| e.2).collect();
            match find(&mut cache, &probe) {
                Some((index, _)) => prop_assert!(expected.contains(&index)),
                None => prop_assert!(expected.is_empty()),
            }
        }
    }
}

//! The classifier against a list that is searched from end to end, versions and reclaiming included.

use proptest::prelude::*;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};

use super::*;

const OUTER: Layer = Layer::Outer;

/// The masks that the tests use: few values, so that rules and packets meet.
fn mask(kind: u8) -> FlowMask {
    let mut mask = FlowMask::ZERO;
    let prefix = |length: u32| u128::from(u32::MAX << (32 - length));
    match kind % 6 {
        0 => mask.merge_field(Field::InPort),
        1 => {
            mask.merge_field(Field::EthType(OUTER));
            mask.set(Field::IpDst(OUTER), prefix(32));
        }
        2 => {
            mask.merge_field(Field::EthType(OUTER));
            mask.set(Field::IpDst(OUTER), prefix(30));
        }
        3 => {
            mask.merge_field(Field::InPort);
            mask.set(Field::IpSrc(OUTER), prefix(31));
            mask.merge_field(Field::L4Dst(OUTER));
        }
        4 => mask.merge_field(Field::EthDst(OUTER)),
        _ => {}
    }
    mask
}

fn key(bits: u32) -> FlowKey {
    let mut key = FlowKey::with_metadata(bits & 1, 0);
    key.set(Field::EthType(OUTER), 0x0800);
    key.set(Field::IpDst(OUTER), (0x0a00_0000 | bits >> 1 & 7).into());
    key.set(Field::IpSrc(OUTER), (0x0a00_0100 | bits >> 4 & 3).into());
    key.set(Field::L4Dst(OUTER), (bits >> 6 & 1).into());
    key.set(Field::EthDst(OUTER), (bits >> 7 & 1).into());
    key
}

/// Every key there is.
fn keys() -> impl Iterator<Item = FlowKey> {
    (0..256).map(key)
}

#[derive(Debug, Clone)]
struct Plain {
    group: u32,
    mask: FlowMask,
    value: FlowKey,
    priority: u32,
    program: u32,
    counter: Option<u32>,
    rule: RuleRef,
}

/// The answer of the list: name and program of the best rule.
fn naive(rules: &[Plain], group: u32, key: &FlowKey) -> Option<(u32, u32)> {
    let matching = rules
        .iter()
        .filter(|r| r.group == group && key.masked(&r.mask) == r.value);
    // The list is in the order of creation.
    matching
        .min_by_key(|r| r.priority)
        .map(|r| (r.priority, r.program))
}

struct Answer {
    found: Option<Found>,
    mask: FlowMask,
    classes: Classes,
    version: u64,
}

fn ask(view: &View, group: u32, key: &FlowKey) -> Answer {
    let (mut classes, mut mask) = (Classes::new(), FlowMask::ZERO);
    let found = view.lookup(group, key, &mut classes, |looked| mask.merge(looked));
    Answer {
        found,
        mask,
        classes,
        version: view.version(),
    }
}

impl Answer {
    fn result(&self) -> Option<(u32, u32)> {
        self.found.map(|found| (found.priority, found.program))
    }

    fn still_good(&self, view: &View) -> bool {
        self.classes
            .iter()
            .all(|class| view.stamps().unchanged_since(*class, self.version))
    }
}

#[derive(Debug, Clone)]
enum Change {
    Insert {
        group: u32,
        mask: u8,
        key: u32,
        priority: u32,
        program: u32,
        counts: bool,
    },
    Remove(usize),
    Publish,
    Acknowledge,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0_u32..2, any::<u8>(), 0_u32..256, 0_u32..4, 0_u32..3, any::<bool>()).prop_map(
            |(group, mask, key, priority, program, counts)| Change::Insert { group, mask, key, priority, program, counts: counts && program == 0 }
        ),
        4 => any::<usize>().prop_map(Change::Remove),
        3 => Just(Change::Publish),
        2 => Just(Change::Acknowledge),
    ];
    proptest::collection::vec(change, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens, each version answers what the list of its moment answers; for all keys that agree in the bits looked at; and a
    /// decision that bears no newer stamp is what would be decided now.
    #[test]
    fn every_version_answers_like_a_list(changes in changes()) {
        let mut writer = Writer::default();
        let mut rules: Vec<Plain> = Vec::new();
        let (mut view, mut published) = (writer.publish(), Vec::new());
        let mut kept: Vec<(u32, FlowKey, Answer)> = Vec::new();
        let mut released = 0;
        let (mut removed, mut steps) = (0, 0);
        for change in changes {
            match change {
                Change::Insert { group, mask: kind, key: bits, priority, program, counts } => {
                    let mask = mask(kind);
                    let tuple = writer.tuple(group, &mask).unwrap();
                    let value = key(bits).masked(&mask);
                    let counter = counts.then_some(9);
                    let rule = writer.insert(&NewRule { tuple, priority, value, program, name: 0, counter }).unwrap();
                    rules.push(Plain { group, mask, value, priority, program, counter, rule });
                }
                Change::Remove(which) if !rules.is_empty() => {
                    let plain = rules.remove(which % rules.len());
                    prop_assert_eq!(writer.header(plain.rule).map(|h| h.counter), Some(plain.counter.map_or(0, |c| c + 1)));
                    prop_assert!(writer.remove(plain.rule));
                    prop_assert!(!writer.remove(plain.rule), "once");
                    removed += 1;
                }
                Change::Remove(_) => {}
                Change::Publish => {
                    view = writer.publish();
                    published = rules.clone();
                }
                Change::Acknowledge => {
                    writer.reclaim(view.version(), |_| released += 1);
                    continue;
                }
            }
            prop_assert_eq!(writer.len(), rules.len());
            steps += 1;
            if steps % 4 != 0 {
                continue;
            }
            for (group, key, answer) in &kept {
                if answer.still_good(&view) {
                    prop_assert_eq!(answer.result(), naive(&published, *group, key), "no stamp, other answer");
                }
            }
            for group in 0..2 {
                for key in keys().step_by(19) {
                    let answer = ask(&view, group, &key);
                    prop_assert_eq!(answer.result(), naive(&published, group, &key));
                    prop_assert!(answer.classes.len() <= MAX_CLASSES);
                    for other in keys().filter(|other| other.masked(&answer.mask) == key.masked(&answer.mask)) {
                        prop_assert_eq!(naive(&published, group, &other), answer.result(), "agrees in all that was looked at");
                    }
                    if kept.len() < 200 {
                        kept.push((group, key, answer));
                    }
                }
            }
        }
        // Everything that was removed comes back after two more rounds.
        for plain in rules.drain(..) {
            writer.remove(plain.rule);
            removed += 1;
        }
        for _ in 0..3 {
            view = writer.publish();
            writer.reclaim(view.version(), |_| released += 1);
        }
        prop_assert_eq!(released, removed);
        prop_assert!(!writer.reclaimable());
        view = writer.publish();
        prop_assert!(view.is_empty());
    }
}

fn host_routes(
    writer: &mut Writer,
    from: u32,
    count: u32,
    program: impl Fn(u32) -> u32,
) -> Vec<RuleRef> {
    let tuple = writer.tuple(0, &mask(1)).unwrap();
    (from..from + count)
        .map(|address| {
            let mut value = FlowKey::ZERO;
            value.set(Field::EthType(OUTER), 0x0800);
            value.set(Field::IpDst(OUTER), address.into());
            let rule = NewRule {
                tuple,
                priority: 1,
                value,
                program: program(address),
                name: address.into(),
                counter: None,
            };
            writer.insert(&rule).unwrap()
        })
        .collect()
}

#[test]
fn siblings_that_do_the_same_are_joined() {
    let mut writer = Writer::default();
    host_routes(&mut writer, 0x0a00_0000, 64, |address| {
        u32::from(address >= 0x0a00_0020)
    });
    let view = writer.publish();
    let mut probe = key(0);
    probe.set(Field::IpDst(OUTER), 0x0a00_0009);
    let answer = ask(&view, 0, &probe);
    assert_eq!(answer.result(), Some((1, 0)));
    assert_eq!(
        answer.mask.get(Field::IpDst(OUTER)),
        0xffff_ffe0,
        "32 of them"
    );
    assert_eq!(answer.mask.get(Field::IpSrc(OUTER)), 0);
}

#[test]
fn a_miss_looks_no_further_than_it_must() {
    let mut writer = Writer::default();
    host_routes(&mut writer, 0x0a00_0000, 300, |_| 0);
    let view = writer.publish();
    let mut probe = key(0);
    let mut looked = |address: u128| {
        probe.set(Field::IpDst(OUTER), address);
        let answer = ask(&view, 0, &probe);
        assert!(answer.found.is_none());
        answer.mask.get(Field::IpDst(OUTER))
    };
    assert_eq!(looked(0x0b00_0001), 0xff00_0000);
    assert_eq!(looked(0x0a07_0001), 0xffff_0000);
    assert_eq!(looked(0x0a00_0301), 0xffff_ff00);
    probe.set(Field::EthType(OUTER), 0x86dd);
    assert_eq!(ask(&view, 0, &probe).mask.get(Field::IpDst(OUTER)), 0);
}

#[test]
fn a_hundred_thousand_rules_are_replaced_between_two_versions() {
    let mut writer = Writer::default();
    let old = host_routes(&mut writer, 0x0a00_0000, 100_000, |_| 1);
    let before = writer.publish();
    old.into_iter()
        .for_each(|rule| assert!(writer.remove(rule)));
    host_routes(&mut writer, 0x0a00_0000, 100_000, |_| 2);
    let check = |view: &View, program| {
        let mut probe = key(0);
        for address in (0..100_000).step_by(997) {
            probe.set(Field::IpDst(OUTER), 0x0a00_0000 + address);
            assert_eq!(ask(view, 0, &probe).result(), Some((1, program)));
        }
    };
    check(&before, 1);
    let after = writer.publish();
    check(&before, 1);
    check(&after, 2);
    writer.reclaim(after.version(), |released| assert_eq!(released.program, 1));
    check(&after, 2);
}

/// Readers with an older and the newest version, while a writer changes everything over and over.
#[test]
fn readers_see_whole_versions_while_rules_change() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let mut writer = Writer::default();
    let mut rules = host_routes(&mut writer, 0x0a00_0000, 512, |_| 0);
    let shared = Mutex::new(writer.publish());
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looked = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let view = shared.lock().unwrap().clone();
                acknowledged.store(view.version(), Ordering::Release);
                let mut probe = key(0);
                let mut programs = std::collections::BTreeSet::new();
                for address in 0..512 {
                    probe.set(Field::IpDst(OUTER), 0x0a00_0000 + address);
                    programs.insert(ask(&view, 0, &probe).result().map(|r| r.1));
                    looked += 1;
                }
                assert_eq!(programs.len(), 1, "one version has one program for all");
                assert_eq!(programs.first(), Some(&Some(view.version() as u32 - 1)));
            }
            looked
        });
        for round in 1..300 {
            rules
                .drain(..)
                .for_each(|rule| assert!(writer.remove(rule)));
            rules = host_routes(&mut writer, 0x0a00_0000, 512, |_| round);
            *shared.lock().unwrap() = writer.publish();
            writer.reclaim(acknowledged.load(Ordering::Acquire), |_| ());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

//! Properties of keys and their hashes.
use super::*;
use crate::Layer;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = FlowKey> {
    (
        proptest::array::uniform32(any::<u64>()),
        proptest::array::uniform8(any::<u64>()),
    )
        .prop_map(|(low, high)| {
            let mut words = [0; WORDS];
            words[..32].copy_from_slice(&low);
            words[32..].copy_from_slice(&high);
            FlowKey::from_words(words)
        })
}

proptest! {
    #[test]
    fn set_then_get_and_nothing_else_changes(base in key(), index in 0..Field::ALL.len(), value: u128) {
        let field = Field::ALL[index];
        let mut changed = base;
        changed.set(field, value);
        prop_assert_eq!(changed.get(field), value & field.position().max());
        for other in Field::ALL.iter().filter(|f| **f != field) {
            prop_assert_eq!(changed.get(*other), base.get(*other));
        }
    }

    #[test]
    fn hash_sees_exactly_the_masked_bits(a in key(), b in key(), sparse in proptest::collection::vec((0usize..WORDS, any::<u64>()), 0..6)) {
        let mut mask = FlowMask::ZERO;
        for (word, bits) in sparse {
            mask.set_word(word, bits);
        }
        let active = mask.active();
        // b with a's bits under the mask is the same flow as a.
        let mut same = b;
        for i in 0..WORDS {
            same.0[i] = b.0[i] & !mask.0[i] | a.0[i] & mask.0[i];
        }
        prop_assert_eq!(a.hash(&mask, active), same.hash(&mask, active));
        prop_assert_eq!(a.masked(&mask).hash(&mask, active), a.hash(&mask, active));
        prop_assert!(same.matches(&a.masked(&mask), &mask, active));
        prop_assert_eq!(a.masked(&mask) == b.masked(&mask), b.matches(&a.masked(&mask), &mask, active));
    }

    #[test]
    fn every_bit_is_seen(a in key(), word in 0usize..WORDS, bit in 0u32..64) {
        let (mask, active) = (FlowMask::EXACT, FlowMask::EXACT.active());
        let mut b = a;
        b.0[word] ^= 1 << bit;
        prop_assert!(!a.matches(&b, &mask, active));
        prop_assert!(a.matches(&a, &mask, active));
        prop_assert_ne!(a.hash(&mask, active), b.hash(&mask, active));
    }

    #[test]
    fn entropy_is_the_same_for_both_directions(a in key()) {
        let mut b = a;
        for (x, y) in [
            (Field::EthSrc(Layer::Outer), Field::EthDst(Layer::Outer)),
            (Field::IpSrc(Layer::Outer), Field::IpDst(Layer::Outer)),
            (Field::L4Src(Layer::Outer), Field::L4Dst(Layer::Outer)),
        ] {
            b.set(x, a.get(y));
            b.set(y, a.get(x));
        }
        prop_assert_eq!(a.entropy(Layer::Outer), b.entropy(Layer::Outer));
    }

    #[test]
    fn merge_covers_both(a in key(), b in key()) {
        let (a, b) = (FlowMask(a.0), FlowMask(b.0));
        let mut both = a;
        both.merge(&b);
        prop_assert!(both.covers(&a) && both.covers(&b));
        prop_assert!(FlowMask::EXACT.covers(&both));
        prop_assert_eq!(both.active(), a.active().union(b.active()));
    }
}

/// A flow like those of one tenant: addresses and ports count up, everything else stays.
fn tenant_flow(n: u64) -> FlowKey {
    let mut k = FlowKey::with_metadata(3, 77);
    k.set(Field::Layers, 1);
    k.set(Field::EthDst(Layer::Outer), 0x0200_0000_0001);
    k.set(Field::EthSrc(Layer::Outer), 0x0200_0000_0002);
    k.set(Field::EthType(Layer::Outer), 0x0800);
    k.set(Field::IpProto(Layer::Outer), 17);
    k.set(
        Field::IpSrc(Layer::Outer),
        0x0a00_0000 + u128::from(n & 0xff),
    );
    k.set(
        Field::IpDst(Layer::Outer),
        0x0a00_0100 + u128::from(n >> 8 & 0xff),
    );
    k.set(
        Field::L4Src(Layer::Outer),
        1024 + u128::from(n >> 16 & 0xff),
    );
    k.set(Field::L4Dst(Layer::Outer), 80);
    k
}

#[test]
fn both_ends_of_the_hash_spread_counting_flows() {
    const FLOWS: u64 = 1 << 18;
    const BUCKETS: usize = 1 << 12;
    let mask = FlowMask::EXACT;
    let active = mask.active();
    let mut low = std::vec![0u32; BUCKETS];
    let mut high = std::vec![0u32; BUCKETS];
    let mut seen = std::collections::HashSet::new();
    for n in 0..FLOWS {
        let h = tenant_flow(n).hash(&mask, active);
        low[(h as usize) % BUCKETS] += 1;
        high[(h >> 52) as usize] += 1;
        assert!(seen.insert(h), "two flows have the same 64-bit hash");
    }
    // 64 per bucket on average; a random function stays within 6 sigma (48) of that with all but certainty.
    for buckets in [&low, &high] {
        let fullest = buckets.iter().max().copied().unwrap_or(0);
        let emptiest = buckets.iter().min().copied().unwrap_or(0);
        assert!(
            fullest < 112 && emptiest > 16,
            "buckets hold {emptiest}..{fullest}"
        );
    }
}

#[test]
fn every_input_bit_flips_about_half_of_the_hash() {
    let mask = FlowMask::EXACT;
    let active = mask.active();
    for word in 0..USED_WORDS {
        for bit in 0..64 {
            let mut flips = 0;
            for n in 0..64 {
                let a = tenant_flow(n * 977);
                let mut b = a;
                b.0[word] ^= 1 << bit;
                flips += (a.hash(&mask, active) ^ b.hash(&mask, active)).count_ones();
            }
            let average = flips / 64;
            assert!(
                (20..=44).contains(&average),
                "word {word} bit {bit}: {average} of 64 bits flip"
            );
        }
    }
}

#[test]
fn active_words_count_and_iterate() {
    let mut mask = FlowMask::ZERO;
    assert!(mask.is_empty());
    mask.merge_field(Field::IpSrc(Layer::Outer));
    mask.merge_field(Field::InPort);
    let active = mask.active();
    assert_eq!(active.len(), 3);
    assert!(active.contains(0) && active.contains(5) && active.contains(6) && !active.contains(7));
    assert!(!active.contains(40) && !active.contains(64));
    assert_eq!(active.collect::<std::vec::Vec<_>>(), [0, 5, 6]);
}

//! The fast sum against the definition, over any split, and updates against recomputation.
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

/// RFC 1071 section 4.1, word by word.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Ones-complement equality: 0 and 0xffff are the same number.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

proptest! {
    #[test]
    fn sum_is_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(checksum(&bytes), reference(&bytes));
    }

    #[test]
    fn any_split_gives_the_same_sum(bytes in proptest::collection::vec(any::<u8>(), 0..600), cuts in proptest::collection::vec(0usize..600, 0..8)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut sum = Checksum::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([bytes.len()]) {
            sum.add(&bytes[from..to]);
            from = to;
        }
        prop_assert_eq!(sum.value(), reference(&bytes));
    }

    #[test]
    fn updates_equal_recomputation(mut bytes in proptest::collection::vec(any::<u8>(), 32..80), at in 0usize..8, new: u128) {
        let at = at * 2;
        let before = checksum(&bytes);
        let old = u128::from_be_bytes(bytes[at..at + 16].try_into().unwrap());
        let mut two = bytes.clone();
        two[at..at + 2].copy_from_slice(&(new as u16).to_be_bytes());
        prop_assert!(same(update16(before, (old >> 112) as u16, new as u16), checksum(&two)));
        let mut four = bytes.clone();
        four[at..at + 4].copy_from_slice(&(new as u32).to_be_bytes());
        prop_assert!(same(update32(before, (old >> 96) as u32, new as u32), checksum(&four)));
        bytes[at..at + 16].copy_from_slice(&new.to_be_bytes());
        prop_assert!(same(update128(before, old, new), checksum(&bytes)));
    }

    #[test]
    fn pseudo_headers_are_sums_of_their_bytes(source: u128, destination: u128, proto: u8, len: u16) {
        let mut v6 = Vec::new();
        v6.extend(source.to_be_bytes());
        v6.extend(destination.to_be_bytes());
        v6.extend(u32::from(len).to_be_bytes());
        v6.extend([0, 0, 0, proto]);
        prop_assert!(same(pseudo_ipv6(source, destination, proto, len.into()).value(), reference(&v6)));
        let mut v4 = Vec::new();
        v4.extend((source as u32).to_be_bytes());
        v4.extend((destination as u32).to_be_bytes());
        v4.extend([0, proto]);
        v4.extend(len.to_be_bytes());
        prop_assert!(same(pseudo_ipv4(source as u32, destination as u32, proto, len.into()).value(), reference(&v4)));
    }

    #[test]
    fn completing_a_partial_checksum_makes_the_sum_zero(
        mut bytes in proptest::collection::vec(any::<u8>(), 8..300),
        start in 0usize..320, offset in 0usize..320, cut in 0usize..300, seed: u16,
    ) {
        let cut = cut.min(bytes.len());
        let original = bytes.clone();
        if start + offset + 2 <= cut {
            bytes[start + offset..start + offset + 2].copy_from_slice(&seed.to_be_bytes());
        }
        let (head, tail) = bytes.split_at_mut(cut);
        let (first, second) = tail.split_at(tail.len() / 3);
        let done = complete_partial(head, [first, second], start, offset);
        if start + offset + 2 <= cut {
            prop_assert_eq!(done, Ok(()));
            // The checksummed bytes and the seed sum to (minus) zero; an odd field offset is summed byte-swapped.
            let mut sum = Checksum::new();
            sum.add(&bytes[start..]);
            if offset % 2 == 0 {
                sum.add_u16(seed);
                prop_assert_eq!(sum.value(), 0);
            }
        } else {
            prop_assert_eq!(done, Err(OutOfRange));
            prop_assert_eq!(bytes, original);
        }
    }
}

#[test]
fn example_of_rfc_1071() {
    // Section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2.
    let mut sum = Checksum::new();
    sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!(sum.folded(), 0xddf2);
    assert_eq!(Checksum::with_seed(0xddf2).value(), !0xddf2);
}

#[test]
fn udp_never_sends_zero() {
    assert_eq!(Checksum::with_seed(0xffff).value(), 0);
    assert_eq!(Checksum::with_seed(0xffff).udp_value(), 0xffff);
}

//! Classes of addresses: addresses that are in the same sets have the same class, so that a rule about a set is as many rules as the
//! set has classes, however many prefixes it has, and sets may overlap.

use std::collections::HashMap;

use crate::value::Prefix;

/// The longest prefixes that tell classes apart, and what each class is in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Prefixes with the place of their class in `sets`. An address has the class of the longest prefix that covers it, and none if
    /// none does. In the order of prefixes.
    pub prefixes: Vec<(Prefix, u32)>,
    /// The sets of each class, in order.
    pub sets: Vec<Vec<u32>>,
}

/// Finds the classes of prefixes that belong to sets.
pub fn classify(mut entries: Vec<(Prefix, u32)>) -> Classes {
    entries.sort_unstable();
    entries.dedup();
    let mut classes = Classes::default();
    let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
    // Prefixes that cover the one at hand, widest first, with their classes.
    let mut covering: Vec<(Prefix, u32)> = Vec::new();
    for same in entries.chunk_by(|one, other| one.0 == other.0) {
        let Some((prefix, _)) = same.first().copied() else {
            continue;
        };
        while covering
            .last()
            .is_some_and(|(wider, _)| !wider.covers(prefix))
        {
            covering.pop();
        }
        let around = covering.last().map(|(_, class)| *class);
        let mut sets: Vec<u32> = around
            .and_then(|class| classes.sets.get(class as usize))
            .cloned()
            .unwrap_or_default();
        sets.extend(same.iter().map(|(_, set)| *set));
        sets.sort_unstable();
        sets.dedup();
        let next = classes.sets.len() as u32;
        let class = match known.get(&sets) {
            Some(class) => *class,
            None => {
                known.insert(sets.clone(), next);
                classes.sets.push(sets);
                next
            }
        };
        // Inside a prefix of the same class it says nothing new.
        if around != Some(class) {
            classes.prefixes.push((prefix, class));
            covering.push((prefix, class));
        }
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn address(bits: u32) -> Prefix {
        Prefix::host(IpAddr::V4(Ipv4Addr::from_bits(bits)))
    }

    fn prefix(bits: u32, length: u8) -> Prefix {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(bits & mask)), length).unwrap()
    }

    proptest! {
        #[test]
        fn an_address_has_the_class_of_its_sets(
            entries in prop::collection::vec((0u32..256, 24u8..=32, 0u32..5), 0..40),
        ) {
            let entries: Vec<(Prefix, u32)> = entries.iter().map(|(bits, length, set)| (prefix(*bits, *length), *set)).collect();
            let classes = classify(entries.clone());
            for bits in 0..300 {
                let host = address(bits);
                let mut expected: Vec<u32> = entries.iter().filter(|(prefix, _)| prefix.covers(host)).map(|(_, set)| *set).collect();
                expected.sort_unstable();
                expected.dedup();
                let longest = classes.prefixes.iter().filter(|(prefix, _)| prefix.covers(host)).max_by_key(|(prefix, _)| prefix.length());
                let found = longest.map_or(Vec::new(), |(_, class)| classes.sets[*class as usize].clone());
                prop_assert_eq!(found, expected);
            }
            let mut sets = classes.sets.clone();
            sets.sort();
            sets.dedup();
            prop_assert_eq!(sets.len(), classes.sets.len(), "a class of its own for every combination");
        }
    }

    #[test]
    fn a_large_set_is_one_class_and_nothing_twice() {
        let mut entries: Vec<(Prefix, u32)> = (0..1 << 16).map(|i| (address(i), 0)).collect();
        entries.push((prefix(0, 24), 0));
        let classes = classify(entries);
        assert_eq!(classes.sets, [[0]]);
        assert_eq!(classes.prefixes.len(), (1 << 16) - 256 + 1);
    }
}

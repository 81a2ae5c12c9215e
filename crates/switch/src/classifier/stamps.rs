//! When what a cached decision was based on was last changed.
//!
//! Everything that the slow path looked at and that control may change falls into one of a fixed number of classes, by hash. A change
//! stamps its class with the version that it becomes visible in; a decision of an older version whose classes bear no newer stamp
//! is still right. Two things in one class cost a decision that is made again for nothing, never a wrong one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::arena::zeroed;

/// A class of things that decisions are based on.
pub type Class = u32;

/// Classes, as a power of two.
const BITS: u32 = 22;
/// The class that bears the stamp of every version.
pub const EVERY_VERSION: Class = 0;

/// The stamps of all classes.
#[derive(Debug)]
pub struct Stamps(Box<[AtomicU64]>);

impl Default for Stamps {
    fn default() -> Self {
        Self(zeroed(1 << BITS).unwrap_or_default())
    }
}

/// The class of a thing with this hash.
#[inline(always)]
pub const fn class(hash: u64) -> Class {
    let mixed = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let class = (mixed >> (64 - BITS)) as u32;
    // Class 0 has a meaning of its own.
    if class == EVERY_VERSION { 1 } else { class }
}

impl Stamps {
    /// Marks a class as changed in `version`. One thread at a time.
    #[inline(always)]
    pub fn stamp(&self, class: Class, version: u64) {
        if let Some(cell) = self.0.get(class as usize) {
            cell.store(version, Ordering::Relaxed);
        }
    }

    /// Whether nothing of the class changed after `version`. A change is seen at the latest together with the version it belongs to.
    #[inline(always)]
    pub fn unchanged_since(&self, class: Class, version: u64) -> bool {
        self.0
            .get(class as usize)
            .is_some_and(|cell| cell.load(Ordering::Relaxed) <= version)
    }

    /// The stamp's address, to be fetched ahead.
    #[inline(always)]
    pub fn address(&self, class: Class) -> *const u8 {
        let cells = self.0.as_ptr();
        cells.wrapping_add(class as usize).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_makes_older_decisions_void() {
        let stamps = Stamps::default();
        let class = class(77);
        assert!(stamps.unchanged_since(class, 0));
        stamps.stamp(class, 5);
        assert!(!stamps.unchanged_since(class, 4) && stamps.unchanged_since(class, 5));
        assert!(
            !stamps.unchanged_since(1 << BITS, 9),
            "what is no class never holds"
        );
    }
}

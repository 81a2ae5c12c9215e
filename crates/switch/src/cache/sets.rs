//! What the cache's places for bytes have in common: sets of a few ways, found by a salted hash, in which newcomers take turns.

use std::hash::{BuildHasher, RandomState};

/// When all ways of a set are taken, one newcomer of so many gets a place: many that take turns would else do nothing but push each other out.
const ONE_IN: u32 = 16;

/// A number that nobody outside knows: whoever would have another's frames pushed out cannot say where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(u64);

impl Salt {
    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    /// That of what is kept under a number, so that numbers are spread apart.
    #[inline(always)]
    pub(super) fn of(self, number: u32) -> Self {
        Self(self.0.wrapping_mul(2 * u64::from(number) + 1))
    }

    /// The set for a hash, of a power of two of which the last is `last`.
    #[inline(always)]
    pub(super) fn place(self, hash: u64, last: usize) -> usize {
        ((hash ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & last
    }
}

/// Newcomers that found every way taken.
#[derive(Debug, Default)]
pub(super) struct Newcomers(u32);

impl Newcomers {
    /// The way that the next of them gets, if it is its turn.
    pub(super) fn way(&mut self, ways: usize) -> Option<usize> {
        self.0 = self.0.wrapping_add(1);
        self.0
            .is_multiple_of(ONE_IN)
            .then_some((self.0 / ONE_IN) as usize % ways)
    }
}

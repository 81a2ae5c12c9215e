//! Statistics cells: one writer (the lcore that owns the cell), any number of readers.
//!
//! A cell is written with a relaxed load and a relaxed store, never with an atomic read-modify-write, so that counting
//! costs one add on a line that the owner already has.

use std::sync::atomic::{AtomicU64, Ordering};

/// A monotonically growing count with one writer.
///
/// Two writers lose counts (never more than that); the owner of a cell is the lcore whose statistics block holds it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A cell that starts at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Owner only. Wraps at 2^64.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// The value now. Any thread.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value. Owner only; for gauges such as "bytes of the last burst".
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

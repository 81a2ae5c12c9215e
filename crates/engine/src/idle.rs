//! How long an lcore that finds no work spins before it sleeps.
//!
//! A spin that finds work saves the price of a sleep; one that does not keeps the CPU from others, the kernel's own threads among them: a direct write
//! completes in a kernel thread of the CPU that submitted it, so an lcore that always spun in wait for its disk would keep away what it waits for. Only
//! trying shows which it is. So the lcore goes by success: long spins while they pay, else short ones, with a long one tried now and then.

use std::time::Duration;

use crate::tsc::Tsc;

/// What an lcore does when it finds no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// The longest time to spin before sleeping. `None`: never sleep.
    ///
    /// The lcore spins a sixteenth of this while longer spins find no work.
    pub spin: Option<Duration>,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self {
            spin: Some(Duration::from_micros(50)),
        }
    }
}

/// Most sleeps between two long spins that are tried.
const MOST_PATIENCE: u32 = 64;

/// The choice of how long to spin, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// `u64::MAX`: never sleep.
    long: u64,
    short: u64,
    /// The spin before the next sleep.
    now: u64,
    /// Sleeps until a long spin is tried again.
    left: u32,
    /// Sleeps to wait for after the next long spin that finds nothing.
    patience: u32,
}

impl Spin {
    pub(crate) fn new(policy: IdlePolicy) -> Self {
        let long = policy.spin.map_or(u64::MAX, Tsc::ticks);
        Self {
            long,
            short: long / 16,
            now: long,
            left: 0,
            patience: 1,
        }
    }

    /// Whether an lcore that has found nothing for `idle` ticks is to sleep.
    #[inline(always)]
    pub(crate) fn is_over(&self, idle: u64) -> bool {
        self.long != u64::MAX && idle >= self.now
    }

    /// Work came after `idle` ticks without a sleep.
    #[inline(always)]
    pub(crate) fn found(&mut self, idle: u64) {
        if idle > self.short {
            self.patience = 1;
        }
    }

    /// The lcore has slept.
    pub(crate) fn slept(&mut self) {
        if self.now == self.long {
            self.now = self.short;
            self.left = self.patience;
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        } else if self.left > 1 {
            self.left -= 1;
        } else {
            self.now = self.long;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SPIN: Duration = Duration::from_micros(50);

    /// Long spins among the next `sleeps` that find nothing.
    fn tried(spin: &mut Spin, sleeps: u32) -> u32 {
        (0..sleeps)
            .map(|_| {
                let long = !spin.is_over(Tsc::ticks(SPIN) / 2);
                assert!(spin.is_over(Tsc::ticks(SPIN)));
                spin.slept();
                u32::from(long)
            })
            .sum()
    }

    #[test]
    fn spins_that_find_nothing_become_rare() {
        let mut spin = Spin::new(IdlePolicy { spin: Some(SPIN) });
        assert_eq!(tried(&mut spin, 1), 1, "the first is tried");
        assert!(tried(&mut spin, 1000) < 25);
        assert!(tried(&mut spin, 650) >= 9, "but never end");
    }

    #[test]
    fn a_spin_that_finds_work_brings_them_back() {
        let mut spin = Spin::new(IdlePolicy { spin: Some(SPIN) });
        tried(&mut spin, 1000);
        while spin.is_over(Tsc::ticks(SPIN) / 2) {
            spin.slept();
        }
        for _ in 0..100 {
            spin.found(Tsc::ticks(SPIN) / 2);
            assert!(!spin.is_over(Tsc::ticks(SPIN) / 2), "stays long");
        }
        spin.slept();
        assert_eq!(tried(&mut spin, 2), 1, "one miss costs one short spin");
    }

    #[test]
    fn without_a_limit_it_never_ends() {
        let spin = Spin::new(IdlePolicy { spin: None });
        assert!(!spin.is_over(u64::MAX));
    }
}

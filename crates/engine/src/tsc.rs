//! The time-stamp counter: the clock of everything that runs on an lcore.
//!
//! x86-64: `RDTSC` (invariant on every CPU of the last fifteen years); Arm: `CNTVCT_EL0`. Never used across hosts.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A reading of the time-stamp counter, in its own ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tsc(pub u64);

impl Tsc {
    /// The counter now. About 20 cycles, not serialising.
    #[inline(always)]
    pub fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: RDTSC has no operands and no memory effects; user mode may execute it (CR4.TSD is clear on Linux).
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        #[cfg(target_arch = "aarch64")]
        let ticks = {
            let ticks: u64;
            // SAFETY: reads the virtual counter, which Linux makes readable from EL0; no memory effects.
            unsafe {
                core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack))
            };
            ticks
        };
        Self(ticks)
    }

    /// Ticks from `earlier` to `self`; zero when `earlier` is later (two CPUs' counters may differ by a few ticks).
    #[inline(always)]
    pub fn since(self, earlier: Tsc) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Ticks per second, measured once per process against the monotonic clock (about 20 ms, error below 0.1 %).
    pub fn hz() -> u64 {
        static HZ: OnceLock<u64> = OnceLock::new();
        *HZ.get_or_init(|| {
            let (start, tsc) = (Instant::now(), Self::now());
            std::thread::sleep(Duration::from_millis(20));
            let (ticks, nanos) = (Self::now().since(tsc), start.elapsed().as_nanos().max(1));
            u64::try_from(u128::from(ticks) * 1_000_000_000 / nanos)
                .unwrap_or(u64::MAX)
                .max(1)
        })
    }

    /// The ticks that `duration` takes.
    pub fn ticks(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos() * u128::from(Self::hz()) / 1_000_000_000)
            .unwrap_or(u64::MAX)
    }

    /// The time that `ticks` take.
    pub fn duration(ticks: u64) -> Duration {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(Self::hz());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

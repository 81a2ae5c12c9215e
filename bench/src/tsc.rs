//! The processor's time-stamp counter: the clock of every cost in these benches.
//!
//! Counts at a constant rate on every processor these benches support (`constant_tsc`, `nonstop_tsc`); never used
//! as wall-clock time without calibration against the monotonic clock.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Current counter value, in cycles.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC exists on every x86-64 processor and reads no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let value: u64;
        // SAFETY: CNTVCT_EL0 is readable from user space under Linux and the read has no side effect.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
        value
    }
}

/// A pair of readings of the counter and the monotonic clock, to convert between them.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    cycles: u64,
    instant: Instant,
}

impl Mark {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            cycles: now(),
            instant: Instant::now(),
        }
    }

    /// Cycles and time since this mark.
    pub fn elapsed(&self) -> (u64, Duration) {
        (now().wrapping_sub(self.cycles), self.instant.elapsed())
    }

    /// Cycles per second seen since this mark; exact to about a microsecond over the elapsed time.
    pub fn hz(&self) -> f64 {
        let (cycles, time) = self.elapsed();
        cycles as f64 / time.as_secs_f64()
    }
}

/// Cycles per second, measured over 50 ms at the first call.
pub fn hz() -> f64 {
    static HZ: OnceLock<f64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let mark = Mark::now();
        std::thread::sleep(Duration::from_millis(50));
        mark.hz()
    })
}

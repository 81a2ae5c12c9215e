//! How long something took on a polling thread, without what the kernel did with the thread meanwhile.
//!
//! A thread that is preempted in the middle of a burst shows a latency that is the scheduler's, not the code's. Such spans are left out and
//! counted. Whether the thread was off its core is read from the kernel's own count of the times it was put on one (the third number of
//! `/proc/thread-self/schedstat`): exact, but a system call. It is asked only about spans longer than [`SUSPICIOUS_S`]: off the core and on again
//! takes longer than that. The time between two spans is watched in the same way, so that a preemption there is not charged to the next span.
//! What a hypervisor takes away is not seen by the guest's kernel and stays in.

use crate::histogram::Histogram;
use crate::tsc;
use anyhow::{Context, Result};
use rustix::io::pread;
use std::fs::File;

/// A thread that left its core and came back was away for longer than this, in seconds: two context switches and what ran between them.
pub const SUSPICIOUS_S: f64 = 3e-6;

/// Times of spans on the thread that made it; it must not go to another thread.
pub struct Residence {
    histogram: Histogram,
    schedstat: File,
    suspicious: u64,
    /// When the last span ended.
    last: u64,
    /// Times that the thread was put on a core, as last read.
    slices: u64,
    excluded: u64,
}

impl Residence {
    /// For the calling thread.
    ///
    /// # Errors
    /// If the kernel has no scheduler statistics.
    pub fn of_this_thread() -> Result<Self> {
        let schedstat = File::open("/proc/thread-self/schedstat").context("open schedstat")?;
        let mut residence = Self {
            histogram: Histogram::default(),
            schedstat,
            suspicious: (tsc::hz() * SUSPICIOUS_S) as u64,
            last: tsc::now(),
            slices: 0,
            excluded: 0,
        };
        residence.slices = residence.read_slices()?;
        residence.last = tsc::now();
        Ok(residence)
    }

    /// A span from `begin` to `end` (TSC), which comes after all that were recorded before. Returns whether it counts.
    ///
    /// # Errors
    /// If the statistics cannot be read.
    #[inline]
    pub fn record(&mut self, begin: u64, end: u64) -> Result<bool> {
        if begin.wrapping_sub(self.last).max(end.wrapping_sub(begin)) < self.suspicious {
            self.last = end;
            self.histogram.record(end.wrapping_sub(begin));
            return Ok(true);
        }
        self.record_suspicious(begin, end)
    }

    #[cold]
    fn record_suspicious(&mut self, begin: u64, end: u64) -> Result<bool> {
        let slices = self.read_slices()?;
        let away = slices != std::mem::replace(&mut self.slices, slices);
        let span = end.wrapping_sub(begin);
        // If the gap alone was long, the thread was away in the gap.
        let counts = !away || span < self.suspicious;
        if counts {
            self.histogram.record(span);
        } else {
            self.excluded += 1;
        }
        // Reading took a while; what happens to the thread in there is read with the next suspicion.
        self.last = end;
        Ok(counts)
    }

    fn read_slices(&self) -> Result<u64> {
        let mut bytes = [0; 96];
        let len = pread(&self.schedstat, &mut bytes, 0).context("read schedstat")?;
        std::str::from_utf8(&bytes[..len])
            .ok()
            .and_then(|text| text.split_whitespace().nth(2)?.parse().ok())
            .context("schedstat of the thread")
    }

    /// Times of the spans that count, in TSC cycles.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// Spans in which the thread was off its core.
    pub fn excluded(&self) -> u64 {
        self.excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_span_that_slept_is_left_out_and_one_that_worked_is_not() {
        let mut residence = Residence::of_this_thread().unwrap();
        let begin = tsc::now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(!residence.record(begin, tsc::now()).unwrap());
        assert_eq!(
            (residence.excluded(), residence.histogram().total()),
            (1, 0)
        );
        // Slept before the span, not in it.
        std::thread::sleep(Duration::from_millis(2));
        let begin = tsc::now();
        assert!(residence.record(begin, begin + 10).unwrap());
        // Long, but on the core all the time; unless somebody else wants the core in these microseconds, in every one of the tries.
        let counted = (0..1000).any(|_| {
            let begin = tsc::now();
            while tsc::now() - begin < 2 * residence.suspicious {}
            residence.record(begin, tsc::now()).unwrap()
        });
        assert!(counted);
        assert!(residence.histogram().max() >= 2 * residence.suspicious);
    }
}

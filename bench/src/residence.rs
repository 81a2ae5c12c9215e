//! How long something took on a polling thread, without what the kernel did with the thread meanwhile.
//!
//! A thread that is preempted in the middle of a burst shows a latency that is the scheduler's, not the code's. Such spans are left out and
//! counted. Whether the thread was off its core is read from the kernel's own count of the times it was put on one (the third number of
//! `/proc/thread-self/schedstat`): exact, but a system call. It is asked only after longer than [`SUSPICIOUS_S`] between two looks at the clock: off the
//! core and on again takes longer than that. What a hypervisor takes away is not seen by the guest's kernel and stays in.

use crate::histogram::Histogram;
use crate::tsc;
use anyhow::{Context, Result};
use rustix::io::pread;
use std::fs::File;

/// A thread that left its core and came back was away for longer than this, in seconds: two context switches and what ran between them.
pub const SUSPICIOUS_S: f64 = 3e-6;

/// Whether the thread that made it stays on its core. It must not go to another thread.
pub struct Presence {
    schedstat: File,
    suspicious: u64,
    /// When the clock was last looked at.
    last: u64,
    /// Times that the thread was put on a core, as last read.
    slices: u64,
}

impl Presence {
    /// For the calling thread.
    ///
    /// # Errors
    /// If the kernel has no scheduler statistics.
    pub fn of_this_thread() -> Result<Self> {
        let schedstat = File::open("/proc/thread-self/schedstat").context("open schedstat")?;
        let mut presence = Self {
            schedstat,
            suspicious: (tsc::hz() * SUSPICIOUS_S) as u64,
            last: 0,
            slices: 0,
        };
        presence.slices = number(&presence.schedstat, 2)?;
        presence.last = tsc::now();
        Ok(presence)
    }

    /// Whether the thread was off its core between the call before and `now`, the TSC as just read.
    ///
    /// # Errors
    /// If the statistics cannot be read.
    #[inline]
    pub fn was_away(&mut self, now: u64) -> Result<bool> {
        let since = now.wrapping_sub(std::mem::replace(&mut self.last, now));
        if since < self.suspicious {
            return Ok(false);
        }
        let slices = number(&self.schedstat, 2)?;
        Ok(slices != std::mem::replace(&mut self.slices, slices))
    }
}

/// A number of a schedstat file: time on a core, time waiting for one, times put on one.
#[cold]
fn number(schedstat: &File, place: usize) -> Result<u64> {
    let mut bytes = [0; 96];
    let len = pread(schedstat, &mut bytes, 0).context("read schedstat")?;
    std::str::from_utf8(&bytes[..len])
        .ok()
        .and_then(|text| text.split_whitespace().nth(place)?.parse().ok())
        .context("schedstat of a thread")
}

/// Time that a thread has waited for a core, as last read: also of a thread of another process.
pub struct Waiting {
    schedstat: File,
    waited_ns: u64,
}

impl Waiting {
    /// Of thread `tid` of process `pid`.
    ///
    /// # Errors
    /// If there is no such thread.
    pub fn of(pid: u32, tid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/task/{tid}/schedstat");
        let mut waiting = Self {
            schedstat: File::open(&path).with_context(|| format!("open {path}"))?,
            waited_ns: 0,
        };
        waiting.refresh()?;
        Ok(waiting)
    }

    /// Reads it again.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn refresh(&mut self) -> Result<()> {
        self.waited_ns = number(&self.schedstat, 1)?;
        Ok(())
    }

    /// Nanoseconds as last read.
    pub fn waited_ns(&self) -> u64 {
        self.waited_ns
    }
}

/// Times of spans on the thread that made it.
pub struct Residence {
    presence: Presence,
    histogram: Histogram,
    begun: u64,
    excluded: u64,
}

impl Residence {
    /// For the calling thread.
    ///
    /// # Errors
    /// If the kernel has no scheduler statistics.
    pub fn of_this_thread() -> Result<Self> {
        Ok(Self {
            presence: Presence::of_this_thread()?,
            histogram: Histogram::default(),
            begun: 0,
            excluded: 0,
        })
    }

    /// A span begins.
    ///
    /// # Errors
    /// If the scheduler's statistics cannot be read.
    #[inline]
    pub fn begin(&mut self) -> Result<()> {
        // What happened before it is not its fault.
        self.presence.was_away(tsc::now())?;
        self.begun = tsc::now();
        Ok(())
    }

    /// The span that was begun ends. Returns its TSC cycles if it counts.
    ///
    /// # Errors
    /// If the scheduler's statistics cannot be read.
    #[inline]
    pub fn end(&mut self) -> Result<Option<u64>> {
        let now = tsc::now();
        if self.presence.was_away(now)? {
            self.excluded += 1;
            return Ok(None);
        }
        let cycles = now.wrapping_sub(self.begun);
        self.histogram.record(cycles);
        Ok(Some(cycles))
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
        residence.begin().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(residence.end().unwrap(), None);
        assert_eq!(
            (residence.excluded(), residence.histogram().total()),
            (1, 0)
        );
        // Slept before the span, not in it. Somebody else may want the core in these microseconds, but not in every one of the tries.
        let counted = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_micros(100));
            residence.begin().unwrap();
            let begin = tsc::now();
            while tsc::now() - begin < 2 * residence.presence.suspicious {}
            residence.end().unwrap().is_some()
        });
        assert!(counted);
        assert!(residence.histogram().max() >= 2 * residence.presence.suspicious);
    }
}

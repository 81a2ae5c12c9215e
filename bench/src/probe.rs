//! How far apart two cores are at this moment: the round trip of one cache line between them.
//!
//! On a virtual machine the host moves the cores about; the same ring then costs up to twice as much. Two
//! measurements may only be compared if the round trip was alike during both.

use crate::{thread, tsc};
use anyhow::{Result, bail};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ROUND_TRIPS: u64 = 20_000;
/// Most that the round trips of a pair may differ, as a ratio.
pub const MOST_APART: f64 = 1.35;

/// The median round trip between two cores in TSC cycles; takes about ten milliseconds.
///
/// # Errors
/// If a core does not exist, or a thread cannot be raised (needs root).
pub fn round_trip(near: usize, far: usize) -> Result<f64> {
    let line = Arc::new(AtomicU64::new(0));
    let echoed = Arc::clone(&line);
    let echo = std::thread::Builder::new()
        .name("probe-echo".into())
        .spawn(move || -> io::Result<()> {
            thread::pin_self(far)?;
            for turn in 0..ROUND_TRIPS {
                wait_for(&echoed, 2 * turn + 1);
                echoed.store(2 * turn + 2, Ordering::Release);
            }
            Ok(())
        })?;
    let ping = std::thread::Builder::new()
        .name("probe-ping".into())
        .spawn(move || -> io::Result<Vec<u64>> {
            thread::pin_self(near)?;
            let mut trips = Vec::with_capacity(ROUND_TRIPS as usize);
            for turn in 0..ROUND_TRIPS {
                let sent = tsc::now();
                line.store(2 * turn + 1, Ordering::Release);
                wait_for(&line, 2 * turn + 2);
                trips.push(tsc::now() - sent);
            }
            Ok(trips)
        })?;
    let (Ok(trips), Ok(echo)) = (ping.join(), echo.join()) else {
        bail!("a probe thread panicked")
    };
    echo?;
    let mut trips = trips?;
    trips.sort_unstable();
    Ok(trips[trips.len() / 2] as f64)
}

/// Spins, and yields now and then: the other side may be waiting for this core.
fn wait_for(line: &AtomicU64, value: u64) {
    let mut spins = 0u32;
    while line.load(Ordering::Acquire) != value {
        spins += 1;
        if spins.is_multiple_of(100_000) {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// Why the measurements between these round trips may not be compared, if they may not.
pub fn fault(trips: &[f64]) -> Option<String> {
    let least = trips.iter().copied().fold(f64::INFINITY, f64::min);
    let most = trips.iter().copied().fold(0.0, f64::max);
    (most > least * MOST_APART).then(|| {
        format!("the cores moved: a cache line took {least:.0} to {most:.0} cycles there and back")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_there_and_back() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let trip = round_trip(0, cores - 1).unwrap();
        assert!(trip > 1.0, "{trip}");
        assert!(fault(&[100.0, 120.0]).is_none());
        assert!(fault(&[100.0, 200.0, 110.0]).is_some());
    }
}

//! What a process costs while nothing happens, and how soon it answers when something does.

use crate::frontend::net::NetPort;
use crate::histogram::Histogram;
use crate::tsc;
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::{Duration, Instant};

/// Processor time of a process since it was started, user and system, all threads; the kernel counts in 1/100 s.
///
/// # Errors
/// If the process is gone.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("stat of the process")?;
    // The name in parentheses may hold anything; fields count from after it.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
            .context("stat of the process")
    };
    let hz = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(
        (ticks(11)? + ticks(12)?) as f64 / hz as f64,
    ))
}

/// RssAnon + RssFile of a process in bytes: what it holds for itself, without memory shared with guests.
///
/// # Errors
/// If the process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/status")).context("status of the process")?;
    let mut sum = 0;
    for key in ["RssAnon:", "RssFile:"] {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("no {key}"))?;
        let kibibytes: u64 = line
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("{key} {line}"))?;
        sum += kibibytes * 1024;
    }
    Ok(sum)
}

/// Latencies of single frames into an idle device, in TSC cycles.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// From before the kick until the device has returned the frame's buffer.
    pub used: Histogram,
    /// From before the kick until the frame is in the other port's receive ring.
    pub received: Histogram,
    /// Frames for which the device asked to be kicked: it was asleep.
    pub kicked: u64,
}

/// Sends `samples` frames from `from` to `to`, `pause` apart, and busy-polls both rings for each.
///
/// # Errors
/// If a frame does not come through within a second.
pub fn wake(from: &mut NetPort, to: &mut NetPort, samples: u32, pause: Duration) -> Result<Wake> {
    let mut frame = [0u8; 64];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // Local experimental EtherType (IEEE 802): nothing interprets what follows.
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for port in [&mut *from, &mut *to] {
        let (receive, send) = port.queues();
        receive.set_interrupts(false);
        send.set_interrupts(false);
    }
    let mut wake = Wake::default();
    for sample in 0..samples {
        std::thread::sleep(pause);
        frame[14..18].copy_from_slice(&sample.to_be_bytes());
        let deadline = Instant::now() + Duration::from_secs(1);
        let start = tsc::now();
        wake.kicked += u64::from(from.send(&frame)?);
        let (mut used, mut received) = (None, None);
        while used.is_none() || received.is_none() {
            if used.is_none() && from.sent()? {
                used = Some(tsc::now() - start);
            }
            if received.is_none()
                && let Some(got) = to.receive()?
            {
                if got != frame {
                    continue;
                }
                received = Some(tsc::now() - start);
            }
            if Instant::now() > deadline {
                bail!(
                    "frame {sample}: returned {}, received {} within a second",
                    used.is_some(),
                    received.is_some()
                );
            }
        }
        wake.used.record(used.unwrap_or_default());
        wake.received.record(received.unwrap_or_default());
    }
    Ok(wake)
}

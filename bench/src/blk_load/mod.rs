//! The block load generator: keeps a fixed number of requests in flight on one ring by busy polling, for a time.
//!
//! One thread, which the caller pins. It measures; whether the data is right is the separate pass in [`verify`].

pub mod verify;

use crate::frontend::FrontendError;
use crate::frontend::blk::{BlkDevice, Operation, SECTOR};
use crate::histogram::Histogram;
use crate::tsc;
use std::time::Duration;

/// What the requests look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Reads at random aligned offsets.
    RandRead,
    /// Writes at random aligned offsets.
    RandWrite,
    /// Reads in ascending order, from the start again at the end.
    Read,
    /// Writes in ascending order.
    Write,
}

impl Pattern {
    /// Its name in case names.
    pub fn name(self) -> &'static str {
        match self {
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    fn operation(self) -> Operation {
        match self {
            Self::RandRead | Self::Read => Operation::Read,
            Self::RandWrite | Self::Write => Operation::Write,
        }
    }
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// What the requests look like.
    pub pattern: Pattern,
    /// Bytes of each; a multiple of 512 up to the device's slot size.
    pub block_bytes: u32,
    /// Requests in flight, from 1 to the device's slots.
    pub depth: u16,
    /// How long to submit before measuring.
    pub warm_up: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// Start of the random sequence.
    pub seed: u64,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Requests completed in the measured time.
    pub operations: u64,
    /// The measured time.
    pub time: Duration,
    /// The measured time in TSC cycles.
    pub cycles: u64,
    /// Notifications sent in that time.
    pub kicks: u64,
    /// From submission to completion, in TSC cycles.
    pub latency: Histogram,
    /// TSC cycles per second.
    pub hz: f64,
    /// Bytes of each request.
    pub block_bytes: u32,
}

impl Measured {
    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64()
    }

    /// Decimal gigabytes per second.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.iops() * f64::from(self.block_bytes) / 1e9
    }

    /// TSC cycles of wall time per request.
    pub fn cycles_per_operation(&self) -> f64 {
        self.cycles as f64 / self.operations.max(1) as f64
    }

    /// A latency quantile in microseconds.
    pub fn latency_us(&self, fraction: f64) -> f64 {
        self.latency.quantile(fraction) as f64 / self.hz * 1e6
    }
}

/// xorshift64*: fast, and random enough to choose blocks.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Any seed, zero included.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// Runs `load` to its end: all requests have come back when it returns.
///
/// # Errors
/// [`FrontendError::Block`] for a request that fails, or a load that the device is too small for;
/// [`FrontendError::Timeout`] if nothing comes back for ten seconds; [`FrontendError::BadUsed`].
pub fn run(device: &mut BlkDevice, load: &Load) -> Result<Measured, FrontendError> {
    let operation = load.pattern.operation();
    let sectors_per_block = u64::from(load.block_bytes) / SECTOR;
    let blocks = device.capacity_sectors() / sectors_per_block.max(1);
    if blocks == 0
        || load.depth == 0
        || load.depth > device.slots()
        || load.block_bytes > device.slot_bytes()
    {
        let reason = format!(
            "load of depth {} and {} bytes does not fit {} slots of {} bytes and {} sectors",
            load.depth,
            load.block_bytes,
            device.slots(),
            device.slot_bytes(),
            device.capacity_sectors()
        );
        return Err(FrontendError::Block {
            kind: operation.name(),
            sector: 0,
            reason,
        });
    }
    let random = matches!(load.pattern, Pattern::RandRead | Pattern::RandWrite);
    let mut numbers = Random::new(load.seed);
    let mut sequential = 0;
    let mut next_sector = || {
        let block = if random {
            numbers.below(blocks)
        } else {
            sequential = if sequential + 1 < blocks {
                sequential + 1
            } else {
                0
            };
            sequential
        };
        block * sectors_per_block
    };
    // Zeroes could be told apart from data on the way.
    let mut bytes = vec![0u8; load.block_bytes as usize];
    for slot in 0..load.depth {
        verify::fill(&mut bytes, load.seed, slot.into(), 0);
        device.write_data(slot, &bytes);
    }
    device.queue().set_interrupts(false);

    let hz = tsc::hz();
    let mut started = vec![0u64; load.depth.into()];
    let begin = tsc::now();
    let measure_from = begin + (load.warm_up.as_secs_f64() * hz) as u64;
    let measure_to = measure_from + (load.duration.as_secs_f64() * hz) as u64;
    let patience = (10.0 * hz) as u64;
    for slot in 0..load.depth {
        started[usize::from(slot)] = begin;
        device.submit(slot, operation, next_sector(), load.block_bytes)?;
    }
    device.publish()?;

    let mut in_flight = load.depth;
    let mut latency = Histogram::default();
    let mut operations = 0;
    let mut window: Option<(u64, u64, u64)> = None;
    let mut measured: Option<(u64, u64)> = None;
    let mut last_progress = begin;
    while in_flight > 0 {
        let mut now = tsc::now();
        let mut progressed = false;
        while let Some(completion) = device.complete()? {
            progressed = true;
            if completion.status != 0 {
                let reason = format!("status {}", completion.status);
                return Err(FrontendError::Block {
                    kind: operation.name(),
                    sector: 0,
                    reason,
                });
            }
            now = tsc::now();
            let slot = usize::from(completion.slot);
            if window.is_some() && measured.is_none() {
                operations += 1;
                latency.record(now.wrapping_sub(started[slot]));
            }
            if measured.is_some() {
                in_flight -= 1;
            } else {
                started[slot] = now;
                device.submit(completion.slot, operation, next_sector(), load.block_bytes)?;
                device.show();
            }
        }
        if progressed {
            device.publish()?;
            last_progress = now;
        } else {
            if now.wrapping_sub(last_progress) > patience {
                return Err(FrontendError::Timeout {
                    what: format!("completion of a {}", operation.name()),
                    seconds: 10,
                });
            }
            std::hint::spin_loop();
        }
        match window {
            None if now >= measure_from => window = Some((now, device.queue().kicks(), 0)),
            Some((from, kicks, _)) if measured.is_none() && now >= measure_to => {
                measured = Some((now - from, device.queue().kicks() - kicks));
            }
            _ => {}
        }
    }
    let (cycles, kicks) = measured.unwrap_or_default();
    let time = Duration::from_secs_f64(cycles as f64 / hz);
    Ok(Measured {
        operations,
        time,
        cycles,
        kicks,
        latency,
        hz,
        block_bytes: load.block_bytes,
    })
}

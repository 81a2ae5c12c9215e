//! One measurement of a vhost-user-blk target, the same for every target, and the cases that are judged.
//!
//! The generator is the calling thread on its own core; all threads of the target share one other core.

use crate::blk_load::{self, Load, Measured, Pattern, verify};
use crate::frontend::blk::{BlkDevice, Options};
use crate::frontend::guest_memory::Backing;
use crate::report::Reference;
use crate::thread::{Share, Watch};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// Least part of the time that a busy-polling thread must have run for a point to count.
pub const LEAST_RUNNING: f64 = 0.97;
/// Most of the target's core that others may have had where the target sleeps of itself.
pub const MOST_FOREIGN: f64 = 0.03;

/// Kinds of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Answers without touching data.
    Null,
    /// In memory; the peer's is a file on tmpfs.
    Memory,
    /// A file on the real disk with direct I/O.
    File,
}

impl Disk {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Null, Self::Memory, Self::File];

    /// Name in case names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Memory => "mem",
            Self::File => "file",
        }
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Which disk.
    pub disk: Disk,
    /// Which requests.
    pub pattern: Pattern,
    /// Bytes of each.
    pub block_bytes: u32,
    /// How many in flight.
    pub depth: u16,
}

impl Case {
    /// Name in reports, e.g. `vublk-mem-randread-4k-qd32`.
    pub fn name(&self) -> String {
        format!(
            "vublk-{}-{}-{}k-qd{}",
            self.disk.name(),
            self.pattern.name(),
            self.block_bytes / 1024,
            self.depth
        )
    }

    /// Least that ours/peer may be. Null and memory: twice at depth 32 and more, no worse at depth 1; file: 0.9.
    pub fn goal(&self) -> f64 {
        match (self.disk, self.depth) {
            (Disk::File, _) => 0.9,
            (_, 1) => 1.0,
            _ => 2.0,
        }
    }

    /// SPDK's figure for orientation, in requests per second.
    pub fn reference(&self) -> Option<Reference> {
        let value = match (self.disk, self.pattern, self.block_bytes, self.depth) {
            (Disk::Null, Pattern::RandRead, 4096, 1) => 804e3,
            (Disk::Null, Pattern::RandRead, 4096, 32) => 2.56e6,
            (Disk::Null, Pattern::RandRead, 4096, 128) => 2.66e6,
            (Disk::Memory, Pattern::RandRead, 4096, 1) => 500e3,
            (Disk::Memory, Pattern::RandRead, 4096, 32) => 946e3,
            (Disk::Memory, Pattern::RandRead, 4096, 128) => 930e3,
            (Disk::Memory, Pattern::Read, 131_072, 32) => 6.8e9 / 131_072.0,
            (Disk::Memory, Pattern::Write, 131_072, 32) => 5.2e9 / 131_072.0,
            _ => return None,
        };
        Some(Reference {
            source: "SPDK v26.05 on this kind of machine",
            value,
        })
    }
}

/// All cases in the order of the report.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for disk in Disk::ALL {
        for pattern in [Pattern::RandRead, Pattern::RandWrite] {
            cases.extend([1, 32, 128].map(|depth| Case {
                disk,
                pattern,
                block_bytes: 4096,
                depth,
            }));
        }
        if disk != Disk::Null {
            cases.extend([Pattern::Read, Pattern::Write].map(|pattern| Case {
                disk,
                pattern,
                block_bytes: 131_072,
                depth: 32,
            }));
        }
    }
    cases
}

/// How the driver side is set up; the same for every target.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    /// Negotiate event index.
    pub event_idx: bool,
    /// Track requests in flight in a shared area.
    pub inflight: bool,
    /// What backs the guest's memory.
    pub backing: Backing,
}

impl Driver {
    /// Opens a device with room for one case.
    ///
    /// # Errors
    /// The front end's.
    pub fn open(&self, socket: &Path, slots: u16, slot_bytes: u32) -> Result<BlkDevice> {
        let options = Options {
            queue_size: 1024,
            slots,
            slot_bytes,
            event_idx: self.event_idx,
            inflight: self.inflight,
            backing: self.backing,
        };
        BlkDevice::open(socket, &options).with_context(|| "open the disk".to_owned())
    }
}

/// One point.
#[derive(Debug, Clone)]
pub struct Point {
    /// What the generator measured.
    pub measured: Measured,
    /// Part of the time that the generator ran.
    pub generator_running: f64,
    /// Part of the time that the target's busiest thread ran.
    pub target_running: f64,
    /// Part of the target's core that others had; not known for files, where the kernel works there on the target's behalf.
    pub foreign: f64,
    /// Whether the target busy-polls.
    pub polls: bool,
}

impl Point {
    /// Why the point does not count, if it does not.
    pub fn fault(&self) -> Option<String> {
        if self.generator_running < LEAST_RUNNING {
            return Some(format!(
                "the generator ran {:.1} % of the time",
                self.generator_running * 100.0
            ));
        }
        if self.polls && self.target_running < LEAST_RUNNING {
            return Some(format!(
                "the target ran {:.1} % of the time",
                self.target_running * 100.0
            ));
        }
        if !self.polls && self.foreign > MOST_FOREIGN {
            return Some(format!(
                "others had {:.1} % of the target's core",
                self.foreign * 100.0
            ));
        }
        None
    }
}

/// Measures one case on the target of process `pid` that listens at `socket`. `polls`: its thread never sleeps.
///
/// # Errors
/// The front end's and the system's.
pub fn measure(
    socket: &Path,
    pid: u32,
    polls: bool,
    core: usize,
    case: &Case,
    load: &Load,
    driver: &Driver,
) -> Result<Point> {
    let mut device = driver.open(socket, case.depth, case.block_bytes)?;
    // Calibrated before the watch begins: it sleeps.
    crate::tsc::hz();
    let own = std::process::id();
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let (target, generator, core_before) = (
        Watch::start(pid)?,
        Watch::start(own)?,
        CoreTime::read(core)?,
    );
    let measured = blk_load::run(&mut device, load).with_context(|| case.name())?;
    let (target, generator) = (target.shares()?, generator.shares()?);
    let core = CoreTime::read(core)?.since(&core_before);
    let of = |shares: &[Share]| shares.iter().map(|share| share.running).sum::<f64>();
    Ok(Point {
        generator_running: generator
            .iter()
            .find(|share| share.tid == tid)
            .map_or(0.0, |share| share.running),
        target_running: target.first().map_or(0.0, |share| share.running),
        foreign: if case.disk == Disk::File {
            0.0
        } else {
            (core - of(&target)).max(0.0)
        },
        measured,
        polls,
    })
}

/// Overwrites the whole disk once, so that no read of it finds a hole.
///
/// # Errors
/// The front end's.
pub fn fill(socket: &Path, driver: &Driver) -> Result<()> {
    let mut device = driver.open(socket, 8, 131_072)?;
    let verify_bytes = vec![0x5au8; 131_072];
    for slot in 0..device.slots() {
        device.write_data(slot, &verify_bytes);
    }
    let blocks = device.capacity_sectors() * 512 / 131_072;
    let (mut next, mut in_flight) = (0, 0);
    let mut free: Vec<u16> = (0..device.slots()).collect();
    while next < blocks || in_flight > 0 {
        while next < blocks
            && let Some(slot) = free.pop()
        {
            device.submit(
                slot,
                crate::frontend::blk::Operation::Write,
                next * 256,
                131_072,
            )?;
            next += 1;
            in_flight += 1;
        }
        device.publish()?;
        let used = device.queue().wait_used(Duration::from_secs(10))?;
        free.push(used.token as u16);
        in_flight -= 1;
    }
    device.run(crate::frontend::blk::Operation::Flush, 0, 0)?;
    Ok(())
}

/// The pass that checks data: 4 KiB at depth 32 and 128 KiB at depth 8.
///
/// # Errors
/// If a block is not as it was written.
pub fn verify(socket: &Path, driver: &Driver, seed: u64) -> Result<u64> {
    let mut blocks = 0;
    for (block_bytes, depth, writes) in [(4096, 32, 30_000), (131_072, 8, 1000)] {
        let mut device = driver.open(socket, depth, block_bytes)?;
        let pass = verify::Verify {
            block_bytes,
            blocks: 1 << 14,
            writes,
            depth,
            seed,
        };
        blocks += verify::run(&mut device, &pass)?.blocks;
    }
    Ok(blocks)
}

/// Time a core was not idle, from `/proc/stat`; the kernel counts it in ticks of 10 ms.
#[derive(Debug, Clone, Copy)]
struct CoreTime {
    busy: f64,
    total: f64,
}

impl CoreTime {
    fn read(core: usize) -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let label = format!("cpu{core}");
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&label))
            .with_context(|| format!("no {label}"))?;
        // user nice system idle iowait irq softirq steal; interrupts are counted as idle: they are mostly the target's.
        let fields: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        let total: f64 = fields.iter().sum();
        let idle: f64 = fields.get(3..7).map_or(0.0, |idle| idle.iter().sum());
        Ok(Self {
            busy: total - idle,
            total,
        })
    }

    /// Part of the time since `before` that the core was busy.
    fn since(&self, before: &Self) -> f64 {
        (self.busy - before.busy) / (self.total - before.total).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_names_are_those_agreed() {
        let names: Vec<String> = cases().iter().map(Case::name).collect();
        assert_eq!(names.len(), 22);
        assert_eq!(names[0], "vublk-null-randread-4k-qd1");
        assert!(names.contains(&"vublk-mem-read-128k-qd32".to_owned()));
        assert!(names.contains(&"vublk-file-randwrite-4k-qd128".to_owned()));
        assert!(
            !names
                .iter()
                .any(|name| name.contains("null") && name.contains("128k"))
        );
    }
}

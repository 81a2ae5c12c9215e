//! Millions of rules and cached flows at once: memory, and what it costs control to add and to remove rules while traffic runs.
//!
//! Rules have a flow each, scattered, so that no decision stands for two. A small part of the flows is sent while rules are added and removed, and all
//! of them in between, until each has an entry of its own in the flow cache.

use super::control::Cost;
use super::flows::{self, Flows};
use super::lcore::Traffic;
use super::{Bed, Cores, memory};
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use sumeru_switch::rules::Placed;

/// Flows of the traffic while rules are added and removed.
pub const RUNNING: u32 = 1 << 16;

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// Rules at once.
    pub rules: usize,
    /// Cached flows at once.
    pub cached: usize,
    /// Bytes of this process in memory with all of them, without what the bench itself had before.
    pub resident: u64,
    /// The most bytes at any time, the same way.
    pub peak: u64,
    /// Bytes that the rules say they take up.
    pub rule_bytes: usize,
    /// Bytes that the flow cache says it takes up.
    pub cache_bytes: usize,
    /// What adding all but the first rules cost.
    pub insertion: Cost,
    /// What removing them cost.
    pub removal: Cost,
    /// Traffic while rules were added.
    pub while_inserting: Traffic,
    /// Traffic while rules were removed.
    pub while_removing: Traffic,
    /// First packets, each decided by the slow path.
    pub first: Traffic,
    /// All flows once more, each from the cache.
    pub again: Traffic,
}

/// Measures with `rules` rules, at least twice [`RUNNING`]. `counting` rules count packets and bytes.
///
/// # Errors
/// If a frame is lost, a rule is refused, or the cache does not hold what it should.
pub fn measure(cores: Cores, rules: u32, counting: bool) -> Result<Outcome> {
    ensure!(
        rules >= 2 * RUNNING,
        "expected at least {} rules, not {rules}",
        2 * RUNNING
    );
    // The caller's own list of its rules, touched before memory is looked at.
    let mut placed: Vec<Placed> = memory::touched(rules as usize);
    memory::forget_peak()?;
    let before = memory::resident()?;
    let mut bed = Bed::start(cores)?;
    let actions = if counting {
        flows::counted(1)
    } else {
        flows::to(1)
    };
    let shape = bed.control.shape(0, 1, &flows::mask(), &actions)?;
    let (running, all) = (Flows::Scattered(RUNNING), Flows::Scattered(rules));
    let numbers = |range: std::ops::Range<u32>| range.map(|number| all.tuple(number));
    bed.control
        .insert(&shape, numbers(0..RUNNING), &mut placed)?;

    let traffic = Background::start(&bed, &running)?;
    let insertion = bed
        .control
        .insert(&shape, numbers(RUNNING..rules), &mut placed)?;
    let while_inserting = traffic.stop()?;

    let sent = all.clone();
    let (first, again, cached, cache_bytes) = bed.lcore.call(move |lcore| -> Result<_> {
        lcore.rewind();
        let first = lcore.rounds(&sent, 1)?;
        let again = lcore.rounds(&sent, 1)?;
        Ok((first, again, lcore.cached(), lcore.cache_bytes()))
    })??;
    let (resident, peak) = (memory::resident()?, memory::peak()?);
    let (rules, rule_bytes) = (bed.control.rules(), bed.control.bytes());

    let traffic = Background::start(&bed, &running)?;
    let removal = bed.control.remove(&placed[RUNNING as usize..])?;
    let while_removing = traffic.stop()?;
    Ok(Outcome {
        rules,
        cached,
        resident: resident.saturating_sub(before),
        peak: peak.saturating_sub(before),
        rule_bytes,
        cache_bytes,
        insertion,
        removal,
        while_inserting,
        while_removing,
        first,
        again,
    })
}

/// Traffic that runs until it is stopped.
pub struct Background {
    stop: Arc<AtomicBool>,
    pending: super::lcore::Pending<Result<Traffic>>,
}

impl Background {
    /// Starts, once every flow has been sent.
    ///
    /// # Errors
    /// If the lcore is gone or loses a frame.
    pub fn start(bed: &Bed, flows: &Flows) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (end, flows) = (stop.clone(), flows.clone());
        let warm = flows.clone();
        bed.lcore.call(move |lcore| {
            lcore.rewind();
            lcore.rounds(&warm, 2).map(drop)
        })??;
        let pending = bed
            .lcore
            .begin(move |lcore| lcore.run(&flows, |_| !end.load(Relaxed)))?;
        Ok(Self { stop, pending })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a frame was lost.
    pub fn stop(self) -> Result<Traffic> {
        self.stop.store(true, Relaxed);
        self.pending.wait()?
    }
}

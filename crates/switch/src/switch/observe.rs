//! Who looks at frames besides those who get them, as control makes them: captures, mirrors, flow meters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sumeru_engine::{Tsc, spsc};
use sumeru_packet::ipfix::Record;

use super::{Switch, SwitchError};
use crate::capture::{Seen, Tap};
use crate::flow_export::{Meter, MeterCounters, Timeouts};
use crate::mirror::MirrorView;
use crate::selection::{Selection, Selector};

/// Frames that may wait for a capture's writer, and records at least that may wait for an exporter.
pub const DEPTH: usize = 8192;

impl Switch {
    fn number(&mut self) -> u64 {
        self.observers += 1;
        self.observers
    }

    /// Starts capturing frames, `snaplen` bytes of each. Answers where they arrive and the number that ends it.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn start_tap(
        &mut self,
        selection: Selection,
        snaplen: u32,
    ) -> Result<(u64, Capturing), SwitchError> {
        let (to, seen) = spsc::channel(DEPTH);
        let (lost, ended, waiting) = Default::default();
        let capturing = Capturing {
            seen,
            waiting,
            lost,
            ended,
        };
        let tap = Tap {
            to,
            selector: Selector::new(selection),
            snaplen,
            waiting: capturing.waiting.clone(),
            lost: capturing.lost.clone(),
            ended: capturing.ended.clone(),
        };
        let number = self.number();
        self.owner()
            .call(move |worker, _| worker.add_tap(number, tap))?;
        Ok((number, capturing))
    }

    /// Ends capturing. The consumer still holds what was seen before.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn stop_tap(&mut self, number: u64) -> Result<(), SwitchError> {
        Ok(self
            .owner()
            .call(move |worker, _| worker.remove_tap(number))?)
    }

    /// Replaces the mirrors.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn set_mirrors(&mut self, mirrors: Vec<MirrorView>) -> Result<(), SwitchError> {
        self.change(|snapshot| snapshot.mirrors = mirrors)
    }

    /// Measures from now on how long frames stay in the engine, or no longer.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn measure_residence(&mut self, on: bool) -> Result<(), SwitchError> {
        if self.snapshot().residence == on {
            return Ok(());
        }
        self.change(|snapshot| snapshot.residence = on)
    }

    /// How long frames stayed, by lcore: its CPU, frames of each class ([`RESIDENCE_BOUNDS`](crate::stats::RESIDENCE_BOUNDS)), and the time of all together.
    pub fn residence(&self) -> Vec<(usize, Vec<u64>, Duration)> {
        let both = self.workers.iter().zip(&self.pipeline);
        both.map(|(worker, counters)| {
            let residence = &counters.residence;
            let sum = Tsc::duration(residence.ticks());
            (worker.cpu(), residence.classes().collect(), sum)
        })
        .collect()
    }

    /// Starts metering at most `flows` flows at a time. Answers where records arrive and the number that ends it.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn start_meter(
        &mut self,
        selection: Selection,
        timeouts: Timeouts,
        flows: usize,
        counters: Arc<MeterCounters>,
    ) -> Result<(u64, spsc::Consumer<Record>), SwitchError> {
        // All that is in the table may come at once, when it ends.
        let (to, records) = spsc::channel(flows.max(DEPTH));
        let sampling = selection.sample.max(1);
        let selector = Selector::new(selection);
        let meter = Meter::new((selector, sampling), timeouts, flows, to, counters);
        let number = self.number();
        self.owner()
            .call(move |worker, _| worker.add_meter(number, meter))?;
        Ok((number, records))
    }

    /// Ends metering. The consumer still holds what was told before, and is told of the flows that there were.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn stop_meter(&mut self, number: u64) -> Result<(), SwitchError> {
        Ok(self
            .owner()
            .call(move |worker, _| worker.remove_meter(number))?)
    }
}

/// A capture's end of what an lcore sees.
pub struct Capturing {
    /// Where frames arrive.
    pub seen: spsc::Consumer<Seen>,
    /// Bytes of those that wait there.
    pub waiting: Arc<AtomicU64>,
    /// Those that found no room.
    pub lost: Arc<AtomicU64>,
    /// To be set when no more are wanted.
    pub ended: Arc<AtomicBool>,
}

impl Capturing {
    /// The next frame, if one waits.
    pub fn take(&mut self) -> Option<Seen> {
        let seen = self.seen.pop()?;
        let len = seen.bytes.len() as u64;
        self.waiting.fetch_sub(len, Ordering::Relaxed);
        Some(seen)
    }
}

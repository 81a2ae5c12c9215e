//! The control thread: rules in batches, and what they cost it in processor time (`CLOCK_THREAD_CPUTIME_ID`).
//!
//! A caller has addresses and ports; building the key of each rule from them is part of what is measured. So are completions.

use super::flows;
use crate::generator::plan::Tuple;
use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sumeru_packet::{FlowKey, FlowMask};
use sumeru_switch::rules::queue::lock;
use sumeru_switch::rules::{ActionList, Completion, FlowQueue, Placed, Shape, SharedRules};

/// Operations of one version.
pub const BATCH: usize = 1024;
/// Operations that may wait for the lcore.
const AHEAD: usize = 32 * BATCH;
const PATIENCE: Duration = Duration::from_secs(20);

/// Processor time of the calling thread since some moment.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What some operations took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Operations.
    pub operations: u64,
    /// Processor time of the control thread.
    pub processor: Duration,
    /// Time that went by.
    pub wall: Duration,
}

impl Cost {
    /// Operations per second of the thread's processor time.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.processor.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Measures from its making on.
pub struct Stopwatch(Duration, Instant);

impl Stopwatch {
    /// Starts.
    pub fn start() -> Self {
        Self(processor_time(), Instant::now())
    }

    /// What so many operations took.
    pub fn stop(&self, operations: u64) -> Cost {
        Cost {
            operations,
            processor: processor_time() - self.0,
            wall: self.1.elapsed(),
        }
    }
}

/// A control thread's way to the rules.
pub struct Control {
    rules: SharedRules,
    queue: FlowQueue,
}

impl Control {
    /// Over a table; the lcore polls without being woken.
    pub fn new(rules: SharedRules) -> Self {
        let queue = FlowQueue::new(rules.clone(), Box::new(|| ()));
        Self { rules, queue }
    }

    /// Rules that are there.
    pub fn rules(&self) -> usize {
        lock(&self.rules).len()
    }

    /// Bytes that the table says it takes up.
    pub fn bytes(&self) -> usize {
        lock(&self.rules).bytes()
    }

    /// Prepares rules of one kind.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn shape(
        &self,
        group: u32,
        priority: u32,
        mask: &FlowMask,
        actions: &ActionList,
    ) -> Result<Arc<Shape>> {
        Ok(self.queue.shape(group, priority, mask, actions)?)
    }

    /// Queues a rule for a flow.
    #[inline]
    pub fn create(&mut self, shape: &Arc<Shape>, tuple: &Tuple) {
        self.queue.create(shape, flows::key(tuple), 0);
    }

    /// Queues the end of a rule.
    #[inline]
    pub fn destroy(&mut self, rule: Placed) {
        self.queue.destroy(rule, 0);
    }

    /// Applies what is queued as one version.
    pub fn push(&mut self) {
        self.queue.push();
    }

    /// Takes completions until at most `most` operations are under way; rules that were created go to `placed`.
    ///
    /// # Errors
    /// If an operation failed, or the lcore does not follow.
    pub fn complete(&mut self, most: usize, placed: &mut Vec<Placed>) -> Result<()> {
        let mut fault = None;
        let mut done = |Completion { result, .. }| match result {
            Ok(rule) => placed.extend(rule),
            Err(error) => fault = Some(error),
        };
        self.queue.pull(2 * BATCH, &mut done);
        let mut deadline = None;
        while self.queue.outstanding() > most {
            if self.queue.pull(2 * BATCH, &mut done) == 0 {
                std::thread::sleep(Duration::from_micros(20));
                let since = *deadline.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    bail!("the lcore does not take over new rules");
                }
            }
        }
        match fault {
            Some(error) => Err(error).context("change of rules"),
            None => Ok(()),
        }
    }

    /// Adds a rule for each flow, in batches.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn insert(
        &mut self,
        shape: &Arc<Shape>,
        flows: impl Iterator<Item = Tuple>,
        placed: &mut Vec<Placed>,
    ) -> Result<Cost> {
        let before = placed.len();
        let watch = Stopwatch::start();
        let mut flows = flows.peekable();
        while flows.peek().is_some() {
            for tuple in flows.by_ref().take(BATCH) {
                self.create(shape, &tuple);
            }
            self.push();
            self.complete(AHEAD, placed)?;
        }
        self.complete(0, placed)?;
        Ok(watch.stop((placed.len() - before) as u64))
    }

    /// Adds rules that are given as bits, all in one version.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn insert_bits(
        &mut self,
        rules: impl Iterator<Item = (Arc<Shape>, FlowKey)>,
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        for (shape, value) in rules {
            self.queue.create(&shape, value, 0);
        }
        self.push();
        self.complete(0, placed)
    }

    /// Removes rules, in batches.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn remove(&mut self, rules: &[Placed]) -> Result<Cost> {
        let mut none = Vec::new();
        let watch = Stopwatch::start();
        for batch in rules.chunks(BATCH) {
            batch.iter().for_each(|rule| self.destroy(*rule));
            self.push();
            self.complete(AHEAD, &mut none)?;
        }
        self.complete(0, &mut none)?;
        Ok(watch.stop(rules.len() as u64))
    }
}

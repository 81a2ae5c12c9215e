//! The generator's thread: rounds over all ports and directions.

use super::frame;
use super::port::{BURST, FRAME_MAX, Port};
use super::{Load, Totals, WINDOW};
use crate::tsc;
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Passes over all flows until priming gives up.
const PASSES: u32 = 10;
/// Fewer while priming: a switch that decides slowly must not lose frames for it.
const PRIME_WINDOW: u64 = 256;
/// Frames of a direction count as lost when none has arrived for this long.
const LOST_AFTER_S: f64 = 0.2;
/// Most that is taken from a port in one round.
const TAKE: usize = 2 * BURST;

/// What is under way in one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent: u64,
    received: u64,
    lost: u64,
    /// How many more may be sent.
    budget: u64,
    /// When something last arrived or the direction had nothing under way.
    alive: u64,
}

impl Progress {
    /// What was taken for lost may arrive after all.
    fn under_way(&self) -> u64 {
        self.sent.saturating_sub(self.received + self.lost)
    }
}

/// State of the thread.
pub struct Runner {
    ports: Vec<Port>,
    load: Load,
    progress: Vec<Progress>,
    /// By port: the direction that ends there.
    ends: Vec<Option<usize>>,
    window: u64,
    inspect_all: bool,
    announced: bool,
    others_sent: u64,
    foreign: u64,
    inspected: u64,
    busy_cycles: u64,
    cycles: u64,
    patience: u64,
    stop: Arc<AtomicBool>,
    scratch: Box<[u8; FRAME_MAX]>,
}

impl Runner {
    /// Nothing sent yet.
    pub fn new(ports: Vec<Port>, load: Load, stop: Arc<AtomicBool>) -> Self {
        let ends = (0..ports.len())
            .map(|port| {
                load.directions
                    .iter()
                    .position(|direction| direction.to.contains(&port))
            })
            .collect();
        Self {
            progress: vec![Progress::default(); load.directions.len()],
            ports,
            load,
            ends,
            window: WINDOW,
            inspect_all: false,
            announced: false,
            others_sent: 0,
            foreign: 0,
            inspected: 0,
            busy_cycles: 0,
            cycles: 0,
            patience: (tsc::hz() * LOST_AFTER_S) as u64,
            stop,
            scratch: Box::new([0; FRAME_MAX]),
        }
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        let sum = |of: fn(&Progress) -> u64| self.progress.iter().map(of).sum();
        Totals {
            sent: sum(|progress| progress.sent),
            received: sum(|progress| progress.received),
            lost: sum(|progress| progress.lost),
            others_sent: self.others_sent,
            foreign: self.foreign,
            inspected: self.inspected,
            busy_cycles: self.busy_cycles,
            cycles: self.cycles,
        }
    }

    /// Passes over all flows, one direction after the other, until one loses nothing.
    pub fn prime(&mut self) -> Result<()> {
        if !self.announced {
            self.announced = true;
            for (port, frame) in &self.load.announce {
                self.ports[*port].send(frame)?;
                self.others_sent += 1;
            }
            self.settle(1.0)?;
        }
        self.window = PRIME_WINDOW;
        self.inspect_all = true;
        let frames = self.load.prime;
        let mut lost = 0;
        for _ in 0..if frames == 0 { 0 } else { PASSES } {
            let before: u64 = self.progress.iter().map(|progress| progress.lost).sum();
            for direction in 0..self.progress.len() {
                self.load.directions[direction].plan.rewind();
                self.progress[direction].budget = frames;
                self.drain()?;
            }
            lost = self
                .progress
                .iter()
                .map(|progress| progress.lost)
                .sum::<u64>()
                - before;
            if lost == 0 || self.stop.load(Ordering::Acquire) {
                break;
            }
        }
        self.window = WINDOW;
        self.inspect_all = false;
        if lost > 0 {
            bail!(
                "the switch still lost {lost} of {frames} frames in pass {PASSES} over the flows"
            );
        }
        Ok(())
    }

    /// Sends until told to stop.
    pub fn run(&mut self) -> Result<()> {
        self.set_budget(u64::MAX);
        while !self.stop.load(Ordering::Relaxed) {
            self.round()?;
        }
        self.set_budget(0);
        Ok(())
    }

    /// Sends `frames` in every direction and waits until they have arrived or are lost.
    pub fn count(&mut self, frames: u64) -> Result<()> {
        self.set_budget(frames);
        self.drain()
    }

    fn set_budget(&mut self, frames: u64) {
        let now = tsc::now();
        for progress in &mut self.progress {
            progress.budget = frames;
            // It may have stood still for long.
            progress.alive = now;
        }
    }

    fn drain(&mut self) -> Result<()> {
        let now = tsc::now();
        for progress in &mut self.progress {
            progress.alive = now;
        }
        while self
            .progress
            .iter()
            .any(|progress| progress.budget > 0 || progress.under_way() > 0)
        {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.round()?;
        }
        Ok(())
    }

    /// Only answers, for this many seconds.
    fn settle(&mut self, seconds: f64) -> Result<()> {
        let end = tsc::now() + (tsc::hz() * seconds) as u64;
        while tsc::now() < end && !self.stop.load(Ordering::Relaxed) {
            self.round()?;
        }
        Ok(())
    }

    /// One look at every port and one burst in every direction.
    #[inline]
    fn round(&mut self) -> Result<()> {
        let begin = tsc::now();
        let mut moved = false;
        for port in 0..self.ports.len() {
            moved |= self.receive(port, begin)?;
        }
        for (direction, progress) in self.load.directions.iter_mut().zip(&mut self.progress) {
            let under_way = progress.under_way();
            if under_way == 0 {
                progress.alive = begin;
            } else if begin.wrapping_sub(progress.alive) > self.patience {
                progress.lost += under_way;
            }
            let wanted = progress.budget.min(BURST as u64);
            if wanted == 0 || under_way + wanted > self.window {
                continue;
            }
            let port = &mut self.ports[direction.from];
            let count = port.room(wanted as usize)?;
            if count > 0 {
                port.send_next(&mut direction.plan, count)?;
                progress.sent += count as u64;
                progress.budget -= count as u64;
                moved = true;
            }
        }
        let spent = tsc::now().wrapping_sub(begin);
        self.cycles += spent;
        if moved {
            self.busy_cycles += spent;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, port: usize, now: u64) -> Result<bool> {
        let end = self.ends[port];
        let expected = end.map_or(usize::MAX, |direction| {
            self.load.directions[direction].plan.arrived_len()
        });
        let mut answers = Vec::new();
        let mut arrivals = self.ports[port].arrivals(TAKE)?;
        let (mut count, mut foreign, mut inspected) = (0, 0, 0);
        while let Some((len, entry)) = arrivals.take()? {
            if len == expected && !self.inspect_all && count % BURST as u64 != 0 {
                count += 1;
                continue;
            }
            let frame = &mut self.scratch[..len];
            let whole = arrivals.read(entry, frame);
            inspected += 1;
            if whole
                && end.is_some_and(|direction| self.load.directions[direction].plan.accepts(frame))
            {
                count += 1;
                continue;
            }
            if len == expected && frame[..2] == [0x02, 0x00] && frame[12..14] == [0x08, 0x00] {
                bail!("a frame of the load arrived changed at port {port}: {frame:02x?}");
            }
            foreign += 1;
            if let Some((_, address, mac)) = self
                .load
                .neighbour
                .filter(|(answers_on, _, _)| *answers_on == port)
            {
                answers.extend(frame::arp_answer(frame, address, mac));
            }
        }
        arrivals.accept()?;
        if let Some(progress) = end.and_then(|direction| self.progress.get_mut(direction))
            && count > 0
        {
            progress.received += count;
            progress.alive = now;
            // Late is not lost.
            progress.lost = progress
                .lost
                .min(progress.sent.saturating_sub(progress.received));
        }
        self.foreign += foreign;
        self.inspected += inspected;
        for answer in &answers {
            self.ports[port].send(answer)?;
            self.others_sent += 1;
        }
        Ok(count + foreign > 0)
    }
}

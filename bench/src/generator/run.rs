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
/// A direction that has lost so many windows in a row sends no more of what it was to count: the switch drops all of it.
const MOST_SILENT: u32 = 4;
/// To be sent until told to stop.
const ENDLESS: u64 = u64::MAX;
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
    /// Windows lost in a row.
    silent: u32,
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
                self.progress[direction].silent = 0;
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
        self.set_budget(ENDLESS);
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
            progress.silent = 0;
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
                progress.silent += 1;
                if progress.silent >= MOST_SILENT && progress.budget != ENDLESS {
                    progress.budget = 0;
                }
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
                if progress.budget != ENDLESS {
                    progress.budget -= count as u64;
                }
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
            progress.silent = 0;
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

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::super::frame::{Addresses, udp};
    use super::super::plan::{Field, Plan, Sequence, Way, Wheel};
    use super::super::port::device::{Device, pair};
    use super::*;
    use std::net::Ipv4Addr;

    const THERE: Addresses = Addresses {
        mac: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
        ipv4: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 0)],
        udp: [1000, 53],
    };

    fn load(flows: u32) -> Load {
        let wheel = Wheel {
            fields: &[Field::Ipv4Dst],
            first: u32::from(THERE.ipv4[1]),
            count: flows,
        };
        Load {
            directions: vec![Direction {
                from: 0,
                to: vec![1],
                plan: Plan::new(
                    udp(&THERE, 64),
                    Sequence::Wheels(vec![wheel]),
                    Way::Unchanged,
                ),
            }],
            announce: Vec::new(),
            neighbour: None,
            prime: flows.into(),
        }
    }

    /// Runs `work` on a generator whose two ports are served by `serve` on another thread until `work` is done.
    fn with_switch<T>(
        load: Load,
        mut serve: impl FnMut(&mut [Device; 2]) + Send,
        work: impl FnOnce(&mut Runner) -> T,
    ) -> (T, Totals) {
        let ((near, near_device), (far, far_device)) = (pair(), pair());
        let mut devices = [near_device, far_device];
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let switch = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    serve(&mut devices);
                    std::thread::yield_now();
                }
            });
            let mut runner = Runner::new(vec![near, far], load, Arc::new(AtomicBool::new(false)));
            let result = work(&mut runner);
            done.store(true, Ordering::Release);
            switch.join().unwrap();
            (result, runner.totals())
        })
    }

    fn forward(devices: &mut [Device; 2]) {
        while let Some(frame) = devices[0].take() {
            devices[1].deliver(&frame);
        }
    }

    #[test]
    fn a_switch_that_forwards_gets_every_frame_through() {
        let (result, totals) = with_switch(load(5), forward, |runner| {
            runner.prime().and_then(|()| runner.count(70_000))
        });
        result.unwrap();
        assert_eq!(
            (totals.sent, totals.received, totals.lost, totals.foreign),
            (70_005, 70_005, 0, 0)
        );
        assert!(totals.inspected >= 5 + 70_000 / 64);
    }

    #[test]
    fn no_more_than_the_window_is_under_way_and_what_is_lost_is_counted() {
        let mut taken = 0;
        let mut looks = Vec::new();
        let lazy = |devices: &mut [Device; 2]| {
            while devices[0].take().is_some() {
                taken += 1;
            }
            looks.push(taken);
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let (result, totals) = with_switch(load(5), lazy, |runner| runner.count(1000));
        result.unwrap();
        assert_eq!((totals.sent, totals.received, totals.lost), (1000, 0, 1000));
        assert!(looks.contains(&WINDOW), "it stood still there: {looks:?}");
    }

    #[test]
    fn a_switch_that_drops_everything_is_given_up_soon() {
        let dropping = |devices: &mut [Device; 2]| while devices[0].take().is_some() {};
        let (result, totals) = with_switch(load(1_000_000), dropping, Runner::prime);
        assert!(result.unwrap_err().to_string().contains("pass 10"));
        assert!(
            totals.sent <= u64::from(PASSES * MOST_SILENT) * PRIME_WINDOW,
            "{totals:?}"
        );
    }

    #[test]
    fn priming_goes_on_until_nothing_is_lost() {
        let mut seen = 0;
        let learning = |devices: &mut [Device; 2]| {
            while let Some(frame) = devices[0].take() {
                seen += 1;
                // As a switch that floods no more than a few.
                if seen > 6 {
                    devices[1].deliver(&frame);
                }
            }
        };
        let (result, totals) = with_switch(load(10), learning, Runner::prime);
        result.unwrap();
        assert_eq!((totals.sent, totals.received, totals.lost), (20, 14, 6));
    }

    #[test]
    fn a_frame_that_was_changed_ends_it() {
        let spoiling = |devices: &mut [Device; 2]| {
            while let Some(mut frame) = devices[0].take() {
                frame[60] ^= 1;
                devices[1].deliver(&frame);
            }
        };
        let (result, _) = with_switch(load(10), spoiling, Runner::prime);
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("arrived changed at port 1")
        );
    }

    #[test]
    fn arp_is_answered_and_counts_apart() {
        let mut load = load(3);
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 2), [2, 0, 0, 0, 0, 9]);
        load.neighbour = Some((1, address, mac));
        load.announce = vec![(0, vec![0; 80])];
        let mut request = vec![0xff; 6];
        request.extend([
            2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 192, 0, 2, 1, 0, 0,
            0, 0, 0, 0, 192, 0, 2, 2,
        ]);
        let mut answers = Vec::new();
        let asking = |devices: &mut [Device; 2]| {
            while let Some(frame) = devices[0].take() {
                if frame.len() == 80 {
                    devices[1].deliver(&request);
                } else {
                    devices[1].deliver(&frame);
                }
            }
            answers.extend(devices[1].take());
        };
        let (result, totals) = with_switch(load, asking, Runner::prime);
        result.unwrap();
        assert_eq!(
            (
                totals.sent,
                totals.received,
                totals.foreign,
                totals.others_sent
            ),
            (3, 3, 1, 2)
        );
        assert_eq!(answers.len(), 1);
        assert_eq!(
            (&answers[0][..12], &answers[0][20..22]),
            (
                [2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 9].as_slice(),
                [0, 2].as_slice()
            )
        );
    }
}

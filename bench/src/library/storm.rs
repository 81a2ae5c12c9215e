//! How long a burst stays on the lcore while control adds and removes rules as fast as it can.
//!
//! In each round: quiet, a storm into the group and among the rules of the traffic, a storm into another group. The storm's rules look at the
//! same bits as those of the traffic and meet none of it; as many leave as come.

use super::capacity::Background;
use super::control::{BATCH, Control, Cost, Stopwatch};
use super::flows::{self, Flows};
use super::lcore::Traffic;
use super::{Bed, Cores};
use anyhow::Result;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sumeru_switch::rules::{Placed, Shape};

/// Flows of the traffic, with a rule each.
pub const FLOWS: u32 = 1 << 16;
/// Rules of a storm at once.
const POOL: u32 = 1 << 16;
/// Rules of storms come from here on; the traffic has those before.
const FIRST: u32 = 1 << 20;
const END: u32 = 1 << 24;
/// The group of the other storm.
const ELSEWHERE: u32 = 7;

/// What went on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// No change of rules.
    Quiet,
    /// Changes in the group of the traffic.
    Here,
    /// Changes in another group.
    Elsewhere,
}

impl Weather {
    /// In the order of a round.
    pub const ALL: [Self; 3] = [Self::Quiet, Self::Here, Self::Elsewhere];
}

/// One part of a round.
#[derive(Debug)]
pub struct Point {
    /// What went on.
    pub weather: Weather,
    /// The bursts.
    pub traffic: Traffic,
    /// What was changed.
    pub cost: Cost,
}

/// The rules of a storm.
struct Pool {
    shape: Arc<Shape>,
    placed: VecDeque<Placed>,
    next: u32,
}

impl Pool {
    fn new(control: &mut Control, group: u32) -> Result<Self> {
        // Other actions than those of the traffic's rules, which they must never be taken for.
        let shape = control.shape(group, 1, &flows::mask(), &flows::to(4))?;
        let mut placed = Vec::new();
        let rules = (FIRST..FIRST + POOL).map(|n| Flows::Scattered(END).tuple(n));
        control.insert(&shape, rules, &mut placed)?;
        Ok(Self {
            shape,
            placed: placed.into(),
            next: FIRST + POOL,
        })
    }

    /// Changes rules until the time is over.
    fn storm(&mut self, control: &mut Control, time: Duration) -> Result<Cost> {
        let (watch, start) = (Stopwatch::start(), Instant::now());
        let (mut operations, mut placed) = (0, Vec::with_capacity(2 * BATCH));
        while start.elapsed() < time {
            for _ in 0..BATCH {
                control.create(&self.shape, &Flows::Scattered(END).tuple(self.next));
                self.next += 1;
                if self.next == END {
                    self.next = FIRST;
                }
            }
            for rule in self.placed.drain(..BATCH.min(self.placed.len())) {
                control.destroy(rule);
                operations += 1;
            }
            operations += BATCH as u64;
            control.push();
            control.complete(8 * BATCH, &mut placed)?;
            self.placed.extend(placed.drain(..));
        }
        control.complete(0, &mut placed)?;
        self.placed.extend(placed);
        Ok(watch.stop(operations))
    }
}

/// Measures `rounds` rounds of three parts of `time` each.
///
/// # Errors
/// If a frame is lost or a rule is refused.
pub fn measure(cores: Cores, rounds: u32, time: Duration) -> Result<Vec<Point>> {
    let mut bed = Bed::start(cores)?;
    let traffic = Flows::Scattered(FLOWS);
    let shape = bed.control.shape(0, 1, &flows::mask(), &flows::to(1))?;
    let own = (0..FLOWS).map(|number| traffic.tuple(number));
    bed.control.insert(&shape, own, &mut Vec::new())?;
    let mut here = Pool::new(&mut bed.control, 0)?;
    let mut elsewhere = Pool::new(&mut bed.control, ELSEWHERE)?;
    let mut points = Vec::new();
    for _ in 0..rounds {
        for weather in Weather::ALL {
            let background = Background::start(&bed, &traffic)?;
            let cost = match weather {
                Weather::Quiet => {
                    let watch = Stopwatch::start();
                    std::thread::sleep(time);
                    watch.stop(0)
                }
                Weather::Here => here.storm(&mut bed.control, time)?,
                Weather::Elsewhere => elsewhere.storm(&mut bed.control, time)?,
            };
            let traffic = background.stop()?;
            points.push(Point {
                weather,
                traffic,
                cost,
            });
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_changes_rules_and_loses_nothing() {
        let cores = Cores {
            lcore: 0,
            control: 0,
        };
        let points = measure(cores, 1, Duration::from_millis(50)).unwrap();
        assert_eq!(
            points.iter().map(|p| p.weather).collect::<Vec<_>>(),
            Weather::ALL
        );
        assert_eq!(points[0].cost.operations, 0);
        for point in &points[1..] {
            assert!(point.cost.operations >= 2 * BATCH as u64, "{point:?}");
        }
    }
}

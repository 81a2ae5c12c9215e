//! A transaction: 100,000 rules leave and 100,000 others for the same flows come, at once, while traffic runs over all of them.
//!
//! The old rules send to [`OLD`], the new ones to [`NEW`]: the port tells which a frame met. No burst may meet both, none the old ones after one has met
//! the new ones, and every frame must arrive.

use super::control::{Cost, Stopwatch};
use super::flows::{self, Flows};
use super::lcore::{BURST, Burst, Traffic};
use super::{Bed, Cores};
use crate::tsc;
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use sumeru_switch::rules::Placed;

/// Where the rules of the first set send.
pub const OLD: u16 = 2;
/// Where the rules of the second set send.
pub const NEW: u16 = 3;

/// One transaction.
#[derive(Debug)]
pub struct Outcome {
    /// What the caller spent on queueing the operations.
    pub queueing: Cost,
    /// What applying them took: nothing is visible before, everything after.
    pub push: Cost,
    /// Seconds from the beginning of the push to the first burst that met the new rules: the last by the old ones was just before.
    pub seen_s: f64,
    /// Bursts that met both.
    pub mixed: u64,
    /// Bursts that met old rules after one had met new ones.
    pub back: u64,
    /// The traffic; every frame arrived.
    pub traffic: Traffic,
}

/// What the lcore saw of a transaction.
#[derive(Debug, Default)]
struct Seen {
    mixed: u64,
    back: u64,
    /// TSC of the first burst that met new rules; 0 before.
    first: u64,
}

impl Seen {
    fn look(&mut self, burst: &Burst, [old, new]: [u16; 2]) {
        let (old, new) = (
            burst.arrived[usize::from(old)],
            burst.arrived[usize::from(new)],
        );
        self.mixed += u64::from(old + new != BURST as u32 || old.min(new) != 0);
        if new > 0 && self.first == 0 {
            self.first = tsc::now();
        } else if old > 0 && self.first != 0 {
            self.back += 1;
        }
    }
}

/// Replaces `rules` rules `times` times, there and back.
///
/// # Errors
/// If a frame is lost or a rule is refused.
pub fn measure(cores: Cores, rules: u32, times: u32) -> Result<Vec<Outcome>> {
    let mut bed = Bed::start(cores)?;
    let traffic = Flows::Scattered(rules);
    let mut shapes = Vec::new();
    for port in [OLD, NEW] {
        let shape = bed.control.shape(0, 1, &flows::mask(), &flows::to(port))?;
        shapes.push((port, shape));
    }
    let mut placed: Vec<Placed> = Vec::new();
    let own = (0..rules).map(|number| traffic.tuple(number));
    bed.control.insert(&shapes[0].1, own, &mut placed)?;
    let mut outcomes = Vec::new();
    for _ in 0..times {
        let (old, new) = (shapes[0].0, shapes[1].0);
        let (stop, bursts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let pending = {
            let (stop, bursts, traffic) = (stop.clone(), bursts.clone(), traffic.clone());
            bed.lcore.begin(move |lcore| {
                let mut seen = Seen::default();
                let ran = lcore.run(&traffic, |burst| {
                    seen.look(burst, [old, new]);
                    bursts.store(bursts.load(Relaxed) + 1, Relaxed);
                    !stop.load(Relaxed)
                });
                // Nobody waits for bursts that do not come.
                bursts.store(u64::MAX, Relaxed);
                ran.map(|traffic| (traffic, seen))
            })?
        };
        let watch = Stopwatch::start();
        for rule in placed.drain(..) {
            bed.control.destroy(rule);
        }
        for number in 0..rules {
            bed.control.create(&shapes[1].1, &traffic.tuple(number));
        }
        let queueing = watch.stop(2 * u64::from(rules));
        // Every flow has met the old rules at least once.
        wait(&bursts, &traffic);
        let (watch, begun) = (Stopwatch::start(), tsc::now());
        bed.control.push();
        let push = watch.stop(2 * u64::from(rules));
        bed.control.complete(0, &mut placed)?;
        // And the new ones.
        wait(&bursts, &traffic);
        stop.store(true, Relaxed);
        let (traffic, seen): (Traffic, Seen) = pending.wait()??;
        ensure!(seen.first != 0, "no frame met the new rules");
        outcomes.push(Outcome {
            queueing,
            push,
            seen_s: seen.first.saturating_sub(begun) as f64 / tsc::hz(),
            mixed: seen.mixed,
            back: seen.back,
            traffic,
        });
        shapes.swap(0, 1);
    }
    Ok(outcomes)
}

/// Until every flow was sent once more, or the traffic is over.
fn wait(bursts: &AtomicU64, flows: &Flows) {
    let round = u64::from(flows.count().div_ceil(BURST as u32)) + 1;
    let until = bursts.load(Relaxed).saturating_add(round);
    while bursts.load(Relaxed) < until {
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(old: u32, new: u32) -> Burst {
        let mut arrived = [0; super::super::lcore::PORTS_OUT as usize + 1];
        (arrived[usize::from(OLD)], arrived[usize::from(NEW)]) = (old, new);
        Burst {
            arrived,
            cycles: None,
        }
    }

    #[test]
    fn a_burst_by_both_sets_and_a_way_back_are_seen() {
        let all = BURST as u32;
        let wrong = |bursts: &[(u32, u32)]| {
            let mut seen = Seen::default();
            for (old, new) in bursts {
                seen.look(&burst(*old, *new), [OLD, NEW]);
            }
            (seen.mixed, seen.back, seen.first != 0)
        };
        assert_eq!(wrong(&[(all, 0), (0, all), (0, all)]), (0, 0, true));
        assert_eq!(wrong(&[(all, 0), (all - 1, 1), (0, all)]), (1, 0, true));
        assert_eq!(wrong(&[(all, 0), (0, all), (all, 0)]), (0, 1, true));
        // A frame that left by a third port.
        assert_eq!(wrong(&[(all - 1, 0)]), (1, 0, false));
    }

    #[test]
    fn rules_are_replaced_there_and_back() {
        let cores = Cores {
            lcore: 0,
            control: 0,
        };
        let outcomes = measure(cores, 1000, 2).unwrap();
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            assert_eq!((outcome.mixed, outcome.back), (0, 0));
            assert!(outcome.traffic.frames >= 2000);
        }
    }
}

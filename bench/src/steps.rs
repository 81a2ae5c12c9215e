//! The steps of `bench-flow-scale` that a daemon and a peer take: cycles per packet against flows, rules and users, through vhost-user.
//!
//! Each step starts both switches anew with its rules, and measures pairs of points as `bench-switch` does. Where only one side goes on, it is
//! measured alone.

use crate::base_station;
use crate::cases::{self, destination_rules, to_destinations};
use crate::lane::{Conditions, Traffic};
use crate::options::{Noise, Options};
use crate::pairs::{self, Sides};
use crate::process::{Interrupt, Scratch};
use crate::report::{OURS, PEER, Rounds, Row};
use crate::switch::Setup;
use anyhow::Result;
use std::time::Duration;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Flows through as many as the library curves have rules.
    Flows,
    /// Rules with one flow each.
    Rules,
    /// Users behind the 200 rules of a base station's gateway.
    Users,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flows, Self::Rules, Self::Users];

    /// What it counts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Rules => "rules",
            Self::Users => "users",
        }
    }

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Flows => "Flows through 4,096 rules by destination address",
            Self::Rules => "Rules by destination address, one flow each",
            Self::Users => "Users of a base station's gateway with 200 rules",
        }
    }
}

const RULES: u32 = crate::library::curves::RULES;
const FIRST: u32 = 1024;
/// Of every point.
pub const UNIT: &str = "busy TSC cycles/packet";

/// One point of a curve.
pub struct Step {
    /// What grows.
    pub axis: Axis,
    /// How far.
    pub size: u32,
    /// Who is measured.
    pub sides: Sides,
}

impl Step {
    /// Its name in results.
    pub fn name(&self) -> String {
        format!("{}-{}", self.axis.name(), self.size)
    }

    fn ports(&self) -> u16 {
        match self.axis {
            Axis::Flows | Axis::Rules => 2,
            Axis::Users => 1 + base_station::PORTS_OUT,
        }
    }

    fn setup(&self) -> Setup {
        let rules = match self.axis {
            Axis::Flows => destination_rules(RULES),
            Axis::Rules => destination_rules(self.size),
            Axis::Users => base_station::rules(),
        };
        Setup::Rules(rules.into())
    }

    fn traffic(&self) -> Traffic {
        Traffic::Loop(match self.axis {
            Axis::Flows => to_destinations(self.size.min(RULES), self.size.div_ceil(RULES)),
            Axis::Rules => to_destinations(self.size, 1),
            Axis::Users => cases::table(
                base_station::flows(self.size),
                base_station::PORTS_OUT.into(),
            ),
        })
    }
}

/// How far each side goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most flows, rules and users of the peer; and flows and users of the daemon.
    pub peer: u32,
    /// Most rules of the daemon, which takes them by its configuration.
    pub daemon_rules: u32,
    /// Only the peer.
    pub peer_only: bool,
}

/// Times four from 1,024 on, up to `most`.
pub fn sizes(most: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(FIRST), |size| size.checked_mul(4))
        .take_while(move |size| *size <= most)
}

/// All steps within the limits.
pub fn steps(limits: Limits) -> Vec<Step> {
    let mut steps = Vec::new();
    for axis in Axis::ALL {
        let most = match axis {
            Axis::Flows | Axis::Rules => limits.peer,
            Axis::Users => limits.peer.min(1 << base_station::USERS_BITS),
        };
        let most_of_ours = match axis {
            Axis::Rules => limits.daemon_rules,
            Axis::Flows | Axis::Users => most,
        };
        for size in sizes(most.max(most_of_ours)) {
            let sides = Sides {
                peer: size <= most,
                ours: size <= most_of_ours && !limits.peer_only,
            };
            if sides.peer || sides.ours {
                steps.push(Step { axis, size, sides });
            }
        }
    }
    steps
}

/// What a step gave.
#[derive(Default)]
pub struct Series {
    /// Cycles per packet.
    pub rounds: Rounds,
    decisions: [Option<u64>; 2],
    noise: Noise,
}

/// Measures a step. `settle` is how long a cache of decisions may grow before.
///
/// # Errors
/// If a switch or the generator fails.
pub fn measure(
    step: &Step,
    options: &Options,
    settle: Duration,
    interrupt: &Interrupt,
    logs: &Scratch,
) -> Result<Series> {
    let conditions = Conditions {
        generator_core: options.generator_core,
        virtio_options: String::new(),
        warm_up: Duration::from_millis(150),
        duration: options.duration(),
    };
    let mut series = Series::default();
    let mut switches = pairs::start(options.core, step.ports(), &step.setup(), step.sides)?;
    let mut lanes = pairs::lanes(&mut switches, &step.traffic(), &conditions, logs.path())?;
    for lane in &mut lanes {
        interrupt.check()?;
        lane.settle(settle)?;
    }
    // The first lane is the peer's, if it is measured at all.
    let side_of = |place: usize| if step.sides.peer { place } else { OURS };
    for round in 1..=options.rounds {
        let what = format!("round {round} {}", step.name());
        let points = options.until_quiet(&what, interrupt, &mut series.noise, || {
            pairs::measure(&mut lanes, &conditions, options.core)
        })?;
        pairs::print(&what, &lanes, &points);
        for (place, point) in points.iter().enumerate() {
            let values = if side_of(place) == OURS {
                &mut series.rounds.ours
            } else {
                &mut series.rounds.peer
            };
            values.push(point.cycles_per_packet);
        }
    }
    for (place, lane) in lanes.iter_mut().enumerate() {
        let decisions = lane.cached_decisions()?;
        eprintln!(
            "{:<28} {:<8} cached decisions: {}",
            step.name(),
            lane.name(),
            told(decisions)
        );
        series.decisions[side_of(place)] = decisions;
    }
    pairs::finish(&step.name(), lanes)?;
    Ok(series)
}

impl Series {
    /// Both sides, if both were measured.
    ///
    /// # Errors
    /// If a side has no point.
    pub fn row(&self, step: &Step) -> Result<Option<Row>> {
        if !(step.sides.peer && step.sides.ours) {
            return Ok(None);
        }
        let mut row = self.rounds.row(&step.name(), UNIT, "ovs-dpdk")?;
        row.round_ratio = self.rounds.median_ratio();
        let decisions = self.decisions.map(told);
        row.detail.push(format!(
            "cached decisions {} / {}",
            decisions[OURS], decisions[PEER]
        ));
        row.repeated = self.noise.repeated;
        row.noisy.clone_from(&self.noise.noisy);
        Ok(Some(row))
    }
}

/// A count, if the switch tells it.
fn told(decisions: Option<u64>) -> String {
    decisions.map_or("?".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_that_has_reached_its_limit_is_left_out() {
        let steps = steps(Limits {
            peer: 16_384,
            daemon_rules: 4096,
            peer_only: false,
        });
        let names: Vec<String> = steps.iter().map(Step::name).collect();
        assert_eq!(names[..3], ["flows-1024", "flows-4096", "flows-16384"]);
        let large = steps.iter().find(|step| step.name() == "rules-16384");
        assert_eq!(
            large.map(|step| step.sides),
            Some(Sides {
                peer: true,
                ours: false
            })
        );
        assert!(Series::default().row(&steps[5]).unwrap().is_none());
    }
}

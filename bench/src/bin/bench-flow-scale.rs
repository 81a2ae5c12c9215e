//! `bench-flow-scale`: cycles per packet against the number of flows and of rules, Sumeru and OVS-DPDK on the same core; and base-station traffic.
//!
//! Each step starts both switches anew with its rules, and measures pairs of points as `bench-switch` does. Where only one side goes on, it is
//! measured alone.

use anyhow::Result;
use clap::Parser;
use std::time::Duration;
use sumeru_bench::base_station;
use sumeru_bench::cases::{self, destination_rules, to_destinations};
use sumeru_bench::lane::{Conditions, Point, Traffic};
use sumeru_bench::machine::Machine;
use sumeru_bench::options::{Noise, Options};
use sumeru_bench::pairs::{self, Sides};
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::plot::{Curve, Plot};
use sumeru_bench::process::{HugePages, Interrupt, Scratch};
use sumeru_bench::report::{OURS, PEER, Report, Rounds, Spread};
use sumeru_bench::sumeru::Daemon;
use sumeru_bench::switch::Setup;

/// Measure how cycles per packet grow with flows and rules.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Flows of the longest step.
    #[arg(long, default_value_t = 4 << 20)]
    most_flows: u32,
    /// Rules of the longest step.
    #[arg(long, default_value_t = 1 << 16)]
    most_rules: u32,
    /// Flows and rules up to which the peer is measured.
    #[arg(long, default_value_t = 1 << 20)]
    most_of_peer: u32,
    /// Seconds that a cache of decisions may take to grow before the first point of a step.
    #[arg(long, default_value_t = 300)]
    settle: u64,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// Flows through [`RULES`] rules.
    Flows,
    /// Rules with one flow each.
    Rules,
    /// Users behind the 200 rules of a base station's gateway.
    Users,
}

impl Axis {
    const ALL: [Self; 3] = [Self::Flows, Self::Rules, Self::Users];

    fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Rules => "rules",
            Self::Users => "users",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Flows => "Flows through 4,096 rules by destination address",
            Self::Rules => "Rules by destination address, one flow each",
            Self::Users => "Users of a base station's gateway with 200 rules",
        }
    }
}

const RULES: u32 = 4096;
const FIRST: u32 = 1024;
const UNIT: &str = "busy TSC cycles/packet";

/// One point of a curve.
struct Step {
    axis: Axis,
    size: u32,
    sides: Sides,
}

impl Step {
    fn name(&self) -> String {
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

/// Times four from 1,024 on, up to the limits.
fn steps(arguments: &Arguments) -> Vec<Step> {
    let mut steps = Vec::new();
    for axis in Axis::ALL {
        let most_of_ours = match axis {
            Axis::Flows => arguments.most_flows,
            Axis::Rules => arguments.most_rules,
            Axis::Users => arguments.most_flows.min(1 << base_station::USERS_BITS),
        };
        let most_of_peer = if axis == Axis::Users {
            most_of_ours
        } else {
            arguments.most_of_peer
        };
        let sizes = std::iter::successors(Some(FIRST), |size| size.checked_mul(4));
        for size in sizes.take_while(|size| *size <= most_of_ours.max(most_of_peer)) {
            let sides = Sides {
                peer: size <= most_of_peer,
                ours: size <= most_of_ours && !arguments.options.peer_only,
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
struct Series {
    rounds: Rounds,
    points: Vec<Point>,
    decisions: [Option<u64>; 2],
    noise: Noise,
}

fn measure(
    step: &Step,
    arguments: &Arguments,
    interrupt: &Interrupt,
    logs: &Scratch,
) -> Result<Series> {
    let options = &arguments.options;
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
        lane.settle(Duration::from_secs(arguments.settle))?;
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
            series.points.push(*point);
        }
    }
    for (place, lane) in lanes.iter_mut().enumerate() {
        let decisions = lane.cached_decisions()?;
        println!(
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

/// A count, if the switch tells it.
fn told(decisions: Option<u64>) -> String {
    decisions.map_or("?".to_owned(), |count| count.to_string())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::install()?;
    let _pages = HugePages::reserve(1536)?;
    let logs = Scratch::new("bench-flow-scale")?;
    let steps = arguments.options.chosen(steps(&arguments), Step::name)?;
    let mut all = Vec::new();
    for step in &steps {
        interrupt.check()?;
        all.push(measure(step, &arguments, &interrupt, &logs)?);
    }
    if arguments.options.peer_only {
        return Ok(());
    }
    arguments
        .options
        .finish(&report(&arguments, &steps, &all)?, "flow-scale")
}

fn report(arguments: &Arguments, steps: &[Step], all: &[Series]) -> Result<Report> {
    let mut rows = Vec::new();
    for (step, series) in steps.iter().zip(all) {
        if !(step.sides.peer && step.sides.ours) {
            continue;
        }
        let mut row = series.rounds.row(&step.name(), UNIT, "ovs-dpdk")?;
        row.round_ratio = series.rounds.median_ratio();
        let decisions = series.decisions.map(told);
        row.detail.push(format!(
            "cached decisions {} / {}",
            decisions[OURS], decisions[PEER]
        ));
        row.repeated = series.noise.repeated;
        row.noisy.clone_from(&series.noise.noisy);
        rows.push(row);
    }
    let curve = |axis: Axis, name: &str, of: fn(&Series) -> &[f64]| Curve {
        name: name.to_owned(),
        points: steps
            .iter()
            .zip(all)
            .filter(|(step, _)| step.axis == axis)
            .filter_map(|(step, series)| Some((step.size.into(), Spread::of(of(series))?.median)))
            .collect(),
    };
    let plots = Axis::ALL
        .into_iter()
        .map(|axis| Plot {
            title: axis.title().to_owned(),
            x: axis.name().to_owned(),
            y: UNIT.to_owned(),
            curves: vec![
                curve(axis, "Sumeru", |series| &series.rounds.ours),
                curve(axis, "OVS-DPDK", |series| &series.rounds.peer),
            ],
        })
        .filter(|plot| plot.curves.iter().any(|curve| !curve.points.is_empty()))
        .collect();
    let about = vec![
        "Two vhost-user ports (five for users) on one switch core, the bench's own generator on the other; 64-byte frames, one way, every flow in turn; lower is \
         better. Points are measured and judged as those of bench-switch."
            .to_owned(),
        "flows-N: N flows through 4,096 rules by destination address. rules-N: N such rules with one flow each. users-N: one flow each of N users, of a \
         million in 50 cells of unequal size, behind 200 rules by cell and service that send to four ports; cached decisions against N is what a cache of \
         wildcarded flows saves."
            .to_owned(),
        format!(
            "{} rounds of {} s per point, alternating. Sumeru up to {} flows and {} rules, the peer up to {} of either.",
            arguments.options.rounds, arguments.options.seconds, arguments.most_flows, arguments.most_rules, arguments.most_of_peer
        ),
    ];
    Ok(Report {
        machine: Machine::describe(vec![Daemon::version()?, OvsDpdk::version()?]),
        about,
        rows,
        plots,
    })
}

//! `bench-flow-scale`: millions of rules and flows. The switch as a library against the goals (memory, insertion, latency in a storm of
//! insertions, transactions, convergence), and cycles per packet against the number of flows and rules beside OVS-DPDK on the same core.

use anyhow::Result;
use clap::Parser;
use std::time::Duration;
use sumeru_bench::base_station;
use sumeru_bench::library::Cores;
use sumeru_bench::library::checks::{self, Case, Size};
use sumeru_bench::library::curves::Point;
use sumeru_bench::machine::Machine;
use sumeru_bench::options::Options;
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::plot::{Curve, Plot};
use sumeru_bench::process::{HugePages, Interrupt, Scratch};
use sumeru_bench::report::{Report, Spread};
use sumeru_bench::steps::{self, Axis, Limits, Series, Step, UNIT};
use sumeru_bench::sumeru::Daemon;

/// Measure millions of rules and flows.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Rules, and cached flows, at once.
    #[arg(long, default_value_t = 4_000_000)]
    capacity: u32,
    /// These rules do not count packets and bytes.
    #[arg(long)]
    uncounted: bool,
    /// Users of the base station.
    #[arg(long, default_value_t = 1 << base_station::USERS_BITS)]
    users: u32,
    /// Flows and rules of the library's longest step.
    #[arg(long, default_value_t = 4 << 20)]
    most: u32,
    /// Flows, rules and users up to which the peer, and the daemon beside it, are measured. Up to a million; that takes an hour.
    #[arg(long, default_value_t = 1 << 16)]
    peer_limit: u32,
    /// Rules up to which the daemon is measured, which takes them by its configuration.
    #[arg(long, default_value_t = 1 << 12)]
    daemon_rules: u32,
    /// Only the library: no peer, no daemon.
    #[arg(long)]
    library_only: bool,
    /// Seconds that a cache of decisions may take to grow before the first point of a step.
    #[arg(long, default_value_t = 300)]
    settle: u64,
}

/// What is measured.
enum Part {
    Library(Case),
    Step(Step),
}

impl Part {
    fn name(&self) -> String {
        match self {
            Self::Library(case) => case.name().to_owned(),
            Self::Step(step) => step.name(),
        }
    }
}

impl Arguments {
    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if !self.options.peer_only {
            parts.extend(Case::ALL.map(Part::Library));
        }
        if !self.library_only {
            let limits = Limits {
                peer: self.peer_limit,
                daemon_rules: self.daemon_rules,
                peer_only: self.options.peer_only,
            };
            parts.extend(steps::steps(limits).into_iter().map(Part::Step));
        }
        parts
    }

    fn size(&self) -> Size {
        Size {
            cores: Cores {
                lcore: self.options.core,
                control: self.options.generator_core,
            },
            rules: self.capacity,
            counting: !self.uncounted,
            users: self.users,
            flows: steps::sizes(self.most).collect(),
            curve_rules: steps::sizes(self.most).collect(),
            rounds: self.options.rounds,
            time: self.options.duration(),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = &arguments.options;
    let interrupt = Interrupt::install()?;
    let parts = options.chosen(arguments.parts(), Part::name)?;
    let mut library = checks::Outcome::default();
    let mut measured: Vec<(Step, Series)> = Vec::new();
    let mut beside: Option<(HugePages, Scratch)> = None;
    for part in parts {
        interrupt.check()?;
        eprintln!("{}", part.name());
        match part {
            Part::Library(case) => {
                let outcome = checks::measure(case, &arguments.size())?;
                for check in &outcome.checks {
                    eprintln!(
                        "  {}: {} {}; {}",
                        check.check,
                        check.value,
                        check.unit,
                        check.detail.join("; ")
                    );
                }
                library.merge(outcome);
            }
            Part::Step(step) => {
                let (_pages, logs) = match &mut beside {
                    Some(there) => there,
                    none => {
                        none.insert((HugePages::reserve(1536)?, Scratch::new("bench-flow-scale")?))
                    }
                };
                let settle = Duration::from_secs(arguments.settle);
                let series = steps::measure(&step, options, settle, &interrupt, logs)?;
                measured.push((step, series));
            }
        }
    }
    if options.peer_only {
        return Ok(());
    }
    let report = report(&arguments, &library, &measured)?;
    options.finish(&report, "flow-scale")
}

fn report(
    arguments: &Arguments,
    library: &checks::Outcome,
    measured: &[(Step, Series)],
) -> Result<Report> {
    let mut rows = Vec::new();
    for (step, series) in measured {
        rows.extend(series.row(step)?);
    }
    let curve = |axis: Axis, name: &str, of: fn(&Series) -> &[f64]| Curve {
        name: name.to_owned(),
        points: measured
            .iter()
            .filter(|(step, _)| step.axis == axis)
            .filter_map(|(step, series)| Some((step.size.into(), Spread::of(of(series))?.median)))
            .collect(),
    };
    let own = |points: &[Point]| Curve {
        name: "Sumeru, library".to_owned(),
        points: points
            .iter()
            .map(|point| (point.size.into(), point.cycles_per_packet))
            .collect(),
    };
    let plots = Axis::ALL
        .into_iter()
        .map(|axis| Plot {
            title: axis.title().to_owned(),
            x: axis.name().to_owned(),
            y: UNIT.to_owned(),
            curves: vec![
                curve(axis, "Sumeru, vhost-user", |series| &series.rounds.ours),
                curve(axis, "OVS-DPDK, vhost-user", |series| &series.rounds.peer),
                match axis {
                    Axis::Flows => own(&library.flows),
                    Axis::Rules => own(&library.rules),
                    Axis::Users => own(&[]),
                },
            ],
        })
        .map(|mut plot| {
            plot.curves.retain(|curve| !curve.points.is_empty());
            plot
        })
        .filter(|plot| !plot.curves.is_empty())
        .collect();
    let versions = match measured.is_empty() {
        true => vec![concat!("sumeru ", env!("CARGO_PKG_VERSION"), " as a library").to_owned()],
        false => vec![Daemon::version()?, OvsDpdk::version()?],
    };
    Ok(Report {
        machine: Machine::describe(versions),
        about: about(arguments),
        rows,
        checks: library.checks.clone(),
        plots,
    })
}

fn about(arguments: &Arguments) -> Vec<String> {
    let options = &arguments.options;
    vec![
        "Checks: the switch's library in one process, one lcore thread that makes its own traffic between two polls (only the time within poll counts), one control \
         thread on the other core that changes rules in batches of 1,024. 64-byte frames in bursts of 32; every frame must arrive. Rates are per second of the control \
         thread's processor time, latency is the time of a burst within poll. Exact entries: rules in front that no frame meets make every decision rest on whole \
         addresses and ports."
            .to_owned(),
        "Cases and curves of vhost-user: two ports (five for users) on one switch core, the bench's own generator on the other; 64-byte frames, one way, every flow in turn; \
         lower is better. Points are measured and judged as those of bench-switch. The library's curve has its rings in the caches of its own core and no other process: it \
         shows how costs grow, and is not to be compared with the others point by point."
            .to_owned(),
        "flows-N: N flows through 4,096 rules by destination address. rules-N: N such rules with one flow each. users-N: one flow each of N users, of a \
         million in 50 cells of unequal size, behind 200 rules by cell and service that send to four ports; cached decisions against N is what a cache of \
         wildcarded flows saves."
            .to_owned(),
        format!(
            "{} rounds of {} s per point. The peer up to {}, the daemon up to {} rules, the library up to {} flows and rules.",
            options.rounds, options.seconds, arguments.peer_limit, arguments.daemon_rules, arguments.most
        ),
    ]
}

//! `bench-switch`: cycles per packet of Sumeru and OVS-DPDK, driven by the same generator: testpmd, or our own where that cannot make the traffic.
//!
//! Rounds alternate on the same core. Each row's verdict is the median of the per-round ratios.

use anyhow::Result;
use clap::Parser;
use std::time::Duration;
use sumeru_bench::cases::{Case, Goal, cases};
use sumeru_bench::lane::{Conditions, Point, Traffic};
use sumeru_bench::machine::Machine;
use sumeru_bench::options::{Noise, Options};
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::process::{HugePages, Interrupt, Scratch};
use sumeru_bench::report::{MISS, OURS, PASS, PEER, Report, Rounds, Row, Spread};
use sumeru_bench::sumeru::Daemon;
use sumeru_bench::{pairs, tsc};

/// Compare Sumeru's switch with OVS-DPDK.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Appended to testpmd's virtio-user devices, e.g. ",mrg_rxbuf=0,in_order=0,vectorized=1".
    #[arg(long, default_value = "")]
    virtio_options: String,
    /// List the cases and end.
    #[arg(long)]
    list: bool,
}

const PORTS: u16 = 2;

#[derive(Default)]
struct Series {
    rounds: Rounds,
    points: [Vec<Point>; 2],
    noise: Noise,
}

impl Series {
    fn take(&mut self, case: &Case, points: &[Point]) {
        for (side, point) in points.iter().enumerate() {
            let values = if side == OURS {
                &mut self.rounds.ours
            } else {
                &mut self.rounds.peer
            };
            values.push(match case.goal {
                Goal::CyclesAtMost(_) => point.cycles_per_packet,
                Goal::ConnectionsAtLeast(_) => tsc::hz() / point.cycles_per_packet,
            });
            self.points[side].push(*point);
        }
    }

    fn median(&self, side: usize, of: impl Fn(&Point) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.points[side].iter().map(of).collect();
        Spread::of(&values?).map(|spread| spread.median)
    }

    fn row(&self, case: &Case) -> Result<Row> {
        let unit = match case.goal {
            Goal::CyclesAtMost(_) => "busy TSC cycles/packet",
            Goal::ConnectionsAtLeast(_) => "new connections/busy second",
        };
        let mut row = self.rounds.row(case.name, unit, "ovs-dpdk")?;
        row.round_ratio = self.rounds.median_ratio();
        let ratio = row.round_ratio.unwrap_or(row.ratio);
        let (goal, reached) = match case.goal {
            Goal::CyclesAtMost(most) => (format!("median of rounds <= {most:.3}"), ratio <= most),
            Goal::ConnectionsAtLeast(least) => {
                (format!("median of rounds >= {least:.1}"), ratio >= least)
            }
        };
        row.goal = Some(goal);
        row.verdict = Some(if reached { PASS } else { MISS });
        let mpps = |side| {
            self.median(side, |point| Some(point.mpps))
                .unwrap_or_default()
        };
        row.detail
            .push(format!("Mpps {:.2} / {:.2}", mpps(OURS), mpps(PEER)));
        let busy = |side| self.median(side, |point| point.generator_busy.map(|busy| busy * 100.0));
        row.detail.push(match (busy(OURS), busy(PEER)) {
            (Some(ours), Some(peer)) => format!("own generator, busy {ours:.0} % / {peer:.0} %"),
            _ => "testpmd".to_owned(),
        });
        row.repeated = self.noise.repeated;
        row.noisy.clone_from(&self.noise.noisy);
        Ok(row)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        for case in cases() {
            println!("{:<18} {}", case.name, case.about);
        }
        return Ok(());
    }
    let options = &arguments.options;
    let interrupt = Interrupt::install()?;
    let _pages = HugePages::reserve(1536)?;
    let logs = Scratch::new("bench-switch")?;
    let cases = options.chosen(cases(), |case| case.name.to_owned())?;
    let conditions = Conditions {
        generator_core: options.generator_core,
        virtio_options: arguments.virtio_options.clone(),
        warm_up: Duration::from_millis(150),
        duration: options.duration(),
    };
    let mut series: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    for round in 1..=options.rounds {
        let mut next = 0;
        while let Some(first) = cases.get(next) {
            let alike = cases[next..]
                .iter()
                .take_while(|case| case.setup.is(&first.setup))
                .count();
            let mut switches =
                pairs::start(options.core, PORTS, &first.setup, pairs::asked(options))?;
            for (case, series) in cases.iter().zip(&mut series).skip(next).take(alike) {
                interrupt.check()?;
                let what = format!("round {round} {}", case.name);
                let mut lanes =
                    pairs::lanes(&mut switches, &case.traffic, &conditions, logs.path())?;
                let points = options.until_quiet(&what, &interrupt, &mut series.noise, || {
                    pairs::measure(&mut lanes, &conditions, options.core)
                })?;
                pairs::print(&what, &lanes, &points);
                series.take(case, &points);
                pairs::finish(&what, lanes)?;
            }
            next += alike;
        }
    }
    if options.peer_only {
        return Ok(());
    }
    options.finish(&report(&arguments, &cases, &series)?, "switch")
}

fn report(arguments: &Arguments, cases: &[Case], series: &[Series]) -> Result<Report> {
    let rows: Vec<Row> = cases
        .iter()
        .zip(series)
        .map(|(case, series)| series.row(case))
        .collect::<Result<_>>()?;
    let versions = vec![Daemon::version()?, OvsDpdk::version()?];
    let mut about = vec![
        "Two vhost-user ports on one switch core, the generator on the other: DPDK's testpmd with two virtio-user ports, or the bench's own \
         driver of two ports where testpmd cannot make the traffic. Cycles: lower is better; connections: higher is better."
            .to_owned(),
        "Busy cycles per packet: TSC of whole iterations of the switch's loop that received at least one packet, per packet received; \
         OVS: processing cycles / packets received of dpif-netdev/pmd-stats-show. A point counts only if busy + idle are within 2 % of the \
         elapsed TSC, the switch received what the generator sent within 0.1 %, both threads ran at least 97 % of the time, and the round trip of \
         a cache line between the two cores was alike (within 35 %) before, between and after the two. New connections per busy second: TSC cycles \
         per second / busy cycles per packet, where every packet is a new connection."
            .to_owned(),
        format!(
            "{} rounds of {} s per point, alternating; testpmd's virtio options: {}.",
            arguments.options.rounds,
            arguments.options.seconds,
            if arguments.virtio_options.is_empty() {
                "none (split rings, 1024 entries)"
            } else {
                &arguments.virtio_options
            }
        ),
    ];
    for case in cases {
        let by = match case.traffic {
            Traffic::Testpmd { .. } => "testpmd",
            Traffic::Loop(_) | Traffic::Connections(..) => "own generator",
        };
        about.push(format!("`{}`: {} ({by}).", case.name, case.about));
    }
    Ok(Report {
        machine: Machine::describe(versions),
        about,
        rows,
        checks: Vec::new(),
        plots: Vec::new(),
    })
}

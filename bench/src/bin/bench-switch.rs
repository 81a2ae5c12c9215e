//! `bench-switch`: cycles per packet of Sumeru and OVS-DPDK between two vhost-user ports, driven by the same testpmd.
//!
//! Rounds alternate on the same core. Each row's verdict is the median of the per-round ratios.

use anyhow::{Result, bail};
use clap::Parser;
use std::time::Duration;
use sumeru_bench::machine::Machine;
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::probe;
use sumeru_bench::process::{self, HugePages, Interrupt, Scratch};
use sumeru_bench::report::{MISS, PASS, Report, Rounds, Spread};
use sumeru_bench::sumeru::{Daemon, Poll, SumeruSwitch};
use sumeru_bench::switch::{CASES, Case, Conditions, Lane, Point, Switch};

/// Compare Sumeru's switch with OVS-DPDK.
#[derive(Parser)]
struct Arguments {
    /// Rounds; each measures both switches.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds measured per point.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these cases.
    #[arg(long)]
    case: Vec<String>,
    /// Core of the switch's polling thread.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of testpmd's forwarding thread.
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// Appended to testpmd's virtio-user devices, e.g. ",mrg_rxbuf=0,in_order=0,vectorized=1".
    #[arg(long, default_value = "")]
    virtio_options: String,
    /// Attempts at a pair of points that does not count because the machine was busy or its cores moved.
    #[arg(long, default_value_t = 12)]
    attempts: u32,
    /// Measure only the peer and print its points (no results are written).
    #[arg(long)]
    peer_only: bool,
    /// Exit with an error if a goal is missed.
    #[arg(long)]
    check: bool,
}

#[derive(Default)]
struct Series {
    rounds: Rounds,
    points: [Vec<Point>; 2],
    repeated: u32,
    noisy: Vec<String>,
}

const PEER: usize = 0;
const OURS: usize = 1;

impl Series {
    fn take(&mut self, round: u32, case: &Case, lanes: &[Lane<'_>], points: &[Point]) {
        for (side, (lane, point)) in lanes.iter().zip(points).enumerate() {
            println!(
                "round {round} {:<14} {:<8} {:6.1} cycles/packet {:6.3} Mpps, busy {:5.1} %, accounted {:.4}, ran {:.3}/{:.3}",
                case.name,
                lane.name(),
                point.cycles_per_packet,
                point.mpps,
                point.busy * 100.0,
                point.accounted,
                point.switch_running,
                point.generator_running
            );
            let values = if side == OURS {
                &mut self.rounds.ours
            } else {
                &mut self.rounds.peer
            };
            values.push(point.cycles_per_packet);
            self.points[side].push(*point);
        }
    }
}

/// Measures one point of each lane in turn; why the pair does not count, if it does not.
fn measure_pair(
    lanes: &mut [Lane<'_>],
    conditions: &Conditions,
    core: usize,
) -> Result<(Vec<Point>, Option<String>)> {
    let mut trips = vec![probe::round_trip(conditions.generator_core, core)?];
    let mut points = Vec::new();
    let mut fault = None;
    for lane in lanes {
        let point = lane.measure(conditions)?;
        trips.push(probe::round_trip(conditions.generator_core, core)?);
        fault = fault.or(point
            .fault()
            .map(|fault| format!("{}: {fault}", lane.name())));
        points.push(point);
    }
    Ok((points, fault.or(probe::fault(&trips))))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::install()?;
    let _pages = HugePages::reserve(1536)?;
    let logs = Scratch::new("bench-switch")?;
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| arguments.case.is_empty() || arguments.case.iter().any(|c| c == case.name))
        .collect();
    if cases.is_empty() {
        bail!(
            "no such case; there are {}",
            CASES.map(|case| case.name).join(", ")
        );
    }
    let conditions = Conditions {
        generator_core: arguments.generator_core,
        virtio_options: arguments.virtio_options.clone(),
        warm_up: Duration::from_millis(150),
        duration: Duration::from_secs_f64(arguments.seconds),
    };
    let mut series: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    for round in 1..=arguments.rounds {
        // Both live through the round; the one that is not measured is stopped, since both would spin on one core.
        let mut switches: Vec<Box<dyn Switch>> = vec![Box::new(OvsDpdk::start(arguments.core, 2)?)];
        process::pause(switches[PEER].pid(), true)?;
        if !arguments.peer_only {
            switches.push(Box::new(SumeruSwitch::start(
                arguments.core,
                2,
                Poll::AlwaysSpin,
            )?));
            process::pause(switches[OURS].pid(), true)?;
        }
        for (case, series) in cases.iter().zip(&mut series) {
            let mut lanes = Vec::new();
            for switch in &mut switches {
                interrupt.check()?;
                let log = logs.file(&format!("testpmd-{}.log", switch.name()));
                lanes.push(Lane::start(switch.as_mut(), case, &conditions, &log)?);
            }
            for attempt in 1..=arguments.attempts {
                interrupt.check()?;
                let (points, fault) = measure_pair(&mut lanes, &conditions, arguments.core)?;
                if let Some(fault) = fault {
                    let last = attempt == arguments.attempts;
                    println!(
                        "round {round} {}: {}: {fault}",
                        case.name,
                        if last { "taken as noisy" } else { "repeated" }
                    );
                    if !last {
                        series.repeated += 1;
                        continue;
                    }
                    series.noisy.push(format!("round {round}: {fault}"));
                }
                series.take(round, case, &lanes, &points);
                break;
            }
            for lane in lanes {
                let name = lane.name();
                let ratio = lane.finish()?;
                println!(
                    "round {round} {:<14} {name:<8} received / sent by testpmd: {ratio:.7}",
                    case.name
                );
            }
        }
    }
    if arguments.peer_only {
        return Ok(());
    }
    let report = report(&arguments, &cases, &series)?;
    println!("\n{}", report.write("switch")?);
    let misses = report.misses();
    if arguments.check && !misses.is_empty() {
        bail!("goal missed: {}", misses.join(", "));
    }
    Ok(())
}

fn report(arguments: &Arguments, cases: &[&Case], series: &[Series]) -> Result<Report> {
    let mut rows = Vec::new();
    for (case, series) in cases.iter().zip(series) {
        let mut row = series
            .rounds
            .row(case.name, "busy TSC cycles/packet", "ovs-dpdk")?;
        row.round_ratio = series.rounds.median_ratio();
        if let (Some(goal), Some(ratio)) = (case.goal, row.round_ratio) {
            row.goal = Some(format!("median of rounds <= {goal:.3}"));
            row.verdict = Some(if ratio <= goal { PASS } else { MISS });
        }
        let mpps = |side: usize| {
            Spread::of(
                &series.points[side]
                    .iter()
                    .map(|point| point.mpps)
                    .collect::<Vec<_>>(),
            )
            .map_or(0.0, |s| s.median)
        };
        row.detail
            .push(format!("Mpps {:.2} / {:.2}", mpps(OURS), mpps(PEER)));
        row.repeated = series.repeated;
        row.noisy.clone_from(&series.noisy);
        rows.push(row);
    }
    let versions = vec![Daemon::version()?, OvsDpdk::version()?];
    let about = vec![
        "Two vhost-user ports on one switch core, testpmd with two virtio-user ports on the other; lower is better.".to_owned(),
        "Busy cycles per packet: TSC of whole iterations of the switch's loop that received at least one packet, per packet received; \
         OVS: processing cycles / packets received of dpif-netdev/pmd-stats-show. A point counts only if busy + idle are within 2 % of the \
         elapsed TSC, the switch received what testpmd sent within 0.1 %, both threads ran at least 97 % of the time, and the round trip of a cache line between the two cores was alike \
         (within 35 %) before, between and after the two."
            .to_owned(),
        format!(
            "{} rounds of {} s per point, alternating; testpmd's virtio options: {}.",
            arguments.rounds,
            arguments.seconds,
            if arguments.virtio_options.is_empty() { "none (split rings, 1024 entries)" } else { &arguments.virtio_options }
        ),
    ];
    Ok(Report {
        machine: Machine::describe(versions),
        about,
        rows,
    })
}

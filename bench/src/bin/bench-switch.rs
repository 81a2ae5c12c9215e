//! `bench-switch`: cycles per packet of Sumeru and OVS-DPDK between two vhost-user ports, driven by the same testpmd.
//!
//! Rounds alternate on the same core. Each row's verdict is the median of the per-round ratios.

use anyhow::{Result, bail};
use clap::Parser;
use std::time::Duration;
use sumeru_bench::machine::Machine;
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::process::{HugePages, Interrupt, Scratch};
use sumeru_bench::report::{MISS, PASS, Report, Rounds, Spread};
use sumeru_bench::sumeru::{Daemon, SumeruSwitch};
use sumeru_bench::switch::{CASES, Case, Conditions, Point, Switch, measure};

/// Compare Sumeru's switch with OVS-DPDK.
#[derive(Parser)]
struct Arguments {
    /// Rounds; each measures both switches.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds measured per point.
    #[arg(long, default_value_t = 2.0)]
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
    /// Attempts at a point whose threads did not run enough.
    #[arg(long, default_value_t = 6)]
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

const OURS: usize = 0;
const PEER: usize = 1;

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
        warm_up: Duration::from_millis(500),
        duration: Duration::from_secs_f64(arguments.seconds),
    };
    let mut series: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    for round in 1..=arguments.rounds {
        for side in if arguments.peer_only {
            vec![PEER]
        } else {
            vec![PEER, OURS]
        } {
            let mut switch: Box<dyn Switch> = match side {
                OURS => Box::new(SumeruSwitch::start(arguments.core)?),
                _ => Box::new(OvsDpdk::start(arguments.core)?),
            };
            for (case, series) in cases.iter().zip(&mut series) {
                interrupt.check()?;
                let mut attempt = 1;
                let point = loop {
                    let point = measure(
                        switch.as_mut(),
                        case,
                        &conditions,
                        &logs.file("testpmd.log"),
                    )?;
                    match point.fault() {
                        None => break point,
                        Some(fault) if attempt == arguments.attempts => {
                            println!(
                                "round {round} {} {}: taken as noisy: {fault}",
                                case.name,
                                switch.name()
                            );
                            series
                                .noisy
                                .push(format!("round {round} {}: {fault}", switch.name()));
                            break point;
                        }
                        Some(fault) => {
                            println!(
                                "round {round} {} {}: repeated: {fault}",
                                case.name,
                                switch.name()
                            );
                            series.repeated += 1;
                            attempt += 1;
                            interrupt.check()?;
                        }
                    }
                };
                println!(
                    "round {round} {:<15} {:<9} {:7.1} cycles/packet {:6.3} Mpps, busy {:5.1} %, accounted {:.4}, counted {:.6}, ran {:.3}/{:.3}",
                    case.name,
                    switch.name(),
                    point.cycles_per_packet,
                    point.mpps,
                    point.busy * 100.0,
                    point.accounted,
                    point.counted,
                    point.switch_running,
                    point.generator_running
                );
                let rounds = &mut series.rounds;
                let values = if side == OURS {
                    &mut rounds.ours
                } else {
                    &mut rounds.peer
                };
                values.push(point.cycles_per_packet);
                series.points[side].push(point);
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
         elapsed TSC, the switch received what testpmd sent within 0.1 %, and both threads ran at least 97 % of the time."
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

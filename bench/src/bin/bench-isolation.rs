//! `bench-isolation`: what a quiet tenant notices of a loud one on the same switch, Sumeru and OVS-DPDK in turn.
//!
//! Every round starts both switches anew, so that no cache holds what an earlier scene left. Each side is held against itself: with the loud tenant
//! against without.

use anyhow::{Context, Result};
use clap::Parser;
use sumeru_bench::frontend::guest_memory::Backing;
use sumeru_bench::generator::port::Port;
use sumeru_bench::isolation::{self, Loud, Outcome, Quiet, Tenants};
use sumeru_bench::lane::LEAST_RUNNING;
use sumeru_bench::machine::Machine;
use sumeru_bench::options::{Noise, Options};
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::process::{self, HugePages, Interrupt};
use sumeru_bench::report::{MISS, OURS, PASS, Report, Rounds, Row};
use sumeru_bench::sumeru::Daemon;
use sumeru_bench::switch::{Setup, Switch};
use sumeru_bench::thread::{self, Watch};
use sumeru_bench::{pairs, probe};

/// Measure what a quiet tenant notices of a loud one.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// A scene: what both tenants do.
struct Scene {
    name: &'static str,
    loud: Loud,
    quiet: Quiet,
}

const SCENES: [Scene; 5] = [
    Scene {
        name: "alone-paced",
        loud: Loud::Silent,
        quiet: Quiet::Paced,
    },
    Scene {
        name: "flood-paced",
        loud: Loud::Flood,
        quiet: Quiet::Paced,
    },
    Scene {
        name: "alone-rate",
        loud: Loud::Silent,
        quiet: Quiet::Loop,
    },
    Scene {
        name: "explosion-rate",
        loud: Loud::Explosion,
        quiet: Quiet::Loop,
    },
    Scene {
        name: "explosion-paced",
        loud: Loud::Explosion,
        quiet: Quiet::Paced,
    },
];
/// Place of the scene that a rate under the explosion is held against.
const ALONE_RATE: usize = 2;
/// Least part of its rate that the quiet tenant may keep under the explosion, per cent.
const LEAST_KEPT: f64 = 90.0;
/// Scenes before measuring: caches fill, and masks are made.
const WARM_UP_S: f64 = 1.2;

/// One scene of one side.
#[derive(Debug, Clone)]
struct Seen {
    outcome: Outcome,
    decisions: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = &arguments.options;
    let interrupt = Interrupt::install()?;
    let _pages = HugePages::reserve(1536)?;
    thread::pin_self(options.generator_core).context("pin the generator")?;
    let _raised = thread::Raised::this_thread()
        .context("raise the priority of the generator (needs root)")?;
    let mut seen: [Vec<Vec<Seen>>; 2] = Default::default();
    let mut noise = Noise::default();
    let setup = Setup::Rules(isolation::rules().into());
    for round in 1..=options.rounds {
        let what = format!("round {round}");
        let sides = options.until_quiet(&what, &interrupt, &mut noise, || {
            play(options, &setup, &what)
        })?;
        for (side, scenes) in sides.into_iter().enumerate() {
            seen[side].push(scenes);
        }
    }
    if options.peer_only {
        return Ok(());
    }
    options.finish(&report(options, &seen, &noise)?, "isolation")
}

/// All scenes of every side; and why they do not count, if they do not.
fn play(options: &Options, setup: &Setup, what: &str) -> Result<(Vec<Vec<Seen>>, Option<String>)> {
    let mut switches = pairs::start(options.core, isolation::PORTS, setup, pairs::asked(options))?;
    let mut sides = Vec::new();
    let mut fault = None;
    let mut trips = vec![probe::round_trip(options.generator_core, options.core)?];
    for switch in &mut switches {
        process::pause(switch.pid(), false)?;
        thread::raise_process(switch.pid())?;
        let watch = Watch::start(switch.pid())?;
        sides.push(scenes(switch.as_mut(), options, what)?);
        let running = watch.busiest()?.running;
        if running < LEAST_RUNNING {
            fault = Some(format!(
                "{} ran {:.1} % of the time",
                switch.name(),
                running * 100.0
            ));
        }
        process::pause(switch.pid(), true)?;
        trips.push(probe::round_trip(options.generator_core, options.core)?);
    }
    Ok((sides, fault.or(probe::fault(&trips))))
}

fn scenes(switch: &mut dyn Switch, options: &Options, what: &str) -> Result<Vec<Seen>> {
    let ports = switch
        .sockets()
        .iter()
        .map(|socket| Port::open(socket, Backing::HugePages))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("connect to {}", switch.name()))?;
    let mut tenants = Tenants::new(ports)?;
    let mut scenes = Vec::new();
    for scene in &SCENES {
        tenants.play(scene.loud, scene.quiet, WARM_UP_S)?;
        let outcome = tenants.play(scene.loud, scene.quiet, options.seconds)?;
        let decisions = switch.cached_decisions()?;
        println!(
            "{what} {:<16} {:<8} {:7.3} Mpps, {:7.3} % delivered, latency us p50 {:.1} p99 {:.1} p99.9 {:.1} ({} left out), loud sent {}, decisions {decisions:?}",
            scene.name,
            switch.name(),
            outcome.mpps(),
            outcome.delivered(),
            outcome.latency_us(0.5),
            outcome.latency_us(0.99),
            outcome.latency_us(0.999),
            outcome.excluded,
            outcome.loud,
        );
        scenes.push(Seen { outcome, decisions });
    }
    Ok(scenes)
}

fn report(options: &Options, seen: &[Vec<Vec<Seen>>; 2], noise: &Noise) -> Result<Report> {
    let of = |side: usize, value: &dyn Fn(&[Seen]) -> f64| {
        seen[side]
            .iter()
            .map(|scenes| value(scenes))
            .collect::<Vec<f64>>()
    };
    let row = |case: String, unit: &str, value: &dyn Fn(&[Seen]) -> f64| -> Result<Row> {
        Rounds {
            ours: of(OURS, value),
            peer: of(1 - OURS, value),
        }
        .row(&case, unit, "ovs-dpdk")
    };
    let mut rows = Vec::new();
    for (place, scene) in SCENES.iter().enumerate() {
        if scene.quiet == Quiet::Paced {
            rows.push(row(
                format!("{}-delivered", scene.name),
                "% of frames",
                &|scenes| scenes[place].outcome.delivered(),
            )?);
            for (name, fraction) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                rows.push(row(format!("{}-{name}", scene.name), "us", &|scenes| {
                    scenes[place].outcome.latency_us(fraction)
                })?);
            }
            continue;
        }
        let mut rate = row(scene.name.to_owned(), "Mpps", &|scenes| {
            scenes[place].outcome.mpps()
        })?;
        let decisions = |side: usize| {
            let most = seen[side]
                .iter()
                .filter_map(|scenes| scenes[place].decisions)
                .max();
            most.map_or("?".to_owned(), |count| count.to_string())
        };
        rate.detail.push(format!(
            "cached decisions {} / {}",
            decisions(OURS),
            decisions(1 - OURS)
        ));
        rows.push(rate);
        if scene.loud == Loud::Explosion {
            let mut kept = row(
                format!("{}-kept", scene.name),
                "% of its rate alone",
                &|scenes| scenes[place].outcome.mpps() / scenes[ALONE_RATE].outcome.mpps() * 100.0,
            )?;
            kept.goal = Some(format!("ours >= {LEAST_KEPT} %"));
            kept.verdict = Some(if kept.ours.median >= LEAST_KEPT {
                PASS
            } else {
                MISS
            });
            rows.push(kept);
        }
    }
    if let Some(first) = rows.first_mut() {
        first.repeated = noise.repeated;
        first.noisy.clone_from(&noise.noisy);
    }
    let about = vec![
        format!(
            "Port 0 is the way in for all tenants. The quiet tenant gets 65,536 flows there, paced at {} frames per second or as fast as they arrive. \
             The loud one floods between two ports of its own, or gets {} frames per second at port 0 that make 8,192 masks of its access list of three \
             rules (Tuple Space Explosion, CoNEXT 2019).",
            isolation::QUIET_PER_SECOND,
            isolation::MASKS_PER_SECOND
        ),
        "One generator on one core sends for both tenants and sees the quiet one's frames arrive; frames during whose way it was off its core have no latency."
            .to_owned(),
        format!(
            "{} rounds of {} s per scene; both switches are started anew for each round. A round counts only if both switches ran at least 97 % of the \
             time and the round trip of a cache line between the cores was alike (within 35 %).",
            options.rounds, options.seconds
        ),
    ];
    Ok(Report {
        machine: Machine::describe(vec![Daemon::version()?, OvsDpdk::version()?]),
        about,
        rows,
        plots: Vec::new(),
    })
}

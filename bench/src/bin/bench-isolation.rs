//! `bench-isolation`: what a quiet tenant notices of a loud one on the same switch, Sumeru and OVS-DPDK in turn.
//!
//! Every round starts both switches anew, so that no cache holds what an earlier scene left. Each side is held against itself: with the loud tenant
//! against without.

use anyhow::{Context, Result};
use clap::Parser;
use std::time::Duration;
use sumeru_bench::frontend::guest_memory::Backing;
use sumeru_bench::generator::port::Port;
use sumeru_bench::isolation::{self, Loud, Outcome, Quiet, Tenants};
use sumeru_bench::lane::LEAST_RUNNING;
use sumeru_bench::machine::Machine;
use sumeru_bench::options::{Noise, Options};
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::process::{self, HugePages, Interrupt};
use sumeru_bench::report::{MISS, OURS, PASS, PEER, Report, Rounds, Row};
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
    options.finish(&report(options, seen, &noise)?, "isolation")
}

/// All scenes of every side; and why they do not count, if they do not.
fn play(options: &Options, setup: &Setup, what: &str) -> Result<(Vec<Vec<Seen>>, Option<String>)> {
    let mut switches = pairs::start(options.core, isolation::PORTS, setup, pairs::asked(options))?;
    let mut sides = Vec::new();
    let mut fault = None;
    for switch in &mut switches {
        process::pause(switch.pid(), false)?;
        thread::raise_process(switch.pid())?;
        let watch = Watch::start(switch.pid())?;
        let (scenes, moved) =
            on_generator_core(options, || scenes(switch.as_mut(), options, what))?;
        sides.push(scenes);
        fault = fault.or(moved.map(|moved| format!("{}: {moved}", switch.name())));
        let running = watch.busiest()?.running;
        if running < LEAST_RUNNING {
            fault = Some(format!(
                "{} ran {:.1} % of the time",
                switch.name(),
                running * 100.0
            ));
        }
        process::pause(switch.pid(), true)?;
    }
    Ok((sides, fault))
}

/// Runs `work` on a thread of its own: what the switches start must not inherit its core.
fn on_generator_core<T: Send>(
    options: &Options,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let pinned = || {
        thread::pin_self(options.generator_core).context("pin the generator")?;
        let _raised = thread::Raised::this_thread()
            .context("raise the priority of the generator (needs root)")?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(pinned).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// All scenes of one side. The rates are held against each other, so the cores must not have moved between them.
fn scenes(
    switch: &mut dyn Switch,
    options: &Options,
    what: &str,
) -> Result<(Vec<Seen>, Option<String>)> {
    let ports = switch
        .sockets()
        .iter()
        .map(|socket| Port::open(socket, Backing::HugePages))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("connect to {}", switch.name()))?;
    // The polling thread is the one that never sleeps.
    let watch = Watch::start(switch.pid())?;
    std::thread::sleep(Duration::from_millis(100));
    let mut tenants = Tenants::new(ports, switch.pid(), watch.busiest()?.tid)?;
    let mut scenes = Vec::new();
    let mut trips = Vec::new();
    let mut probe = |switch: &dyn Switch| -> Result<()> {
        process::pause(switch.pid(), true)?;
        trips.push(probe::round_trip(options.generator_core, options.core)?);
        process::pause(switch.pid(), false)
    };
    for (place, scene) in SCENES.iter().enumerate() {
        if place == ALONE_RATE {
            probe(switch)?;
        }
        tenants.play(scene.loud, scene.quiet, WARM_UP_S)?;
        let outcome = tenants.play(scene.loud, scene.quiet, options.seconds)?;
        let decisions = switch.cached_decisions()?;
        eprintln!(
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
        if scene.quiet == Quiet::Loop {
            probe(switch)?;
        }
    }
    Ok((scenes, probe::fault(&trips)))
}

/// What both sides saw, by side and round.
struct Results {
    seen: [Vec<Vec<Seen>>; 2],
}

impl Results {
    fn row(&self, case: String, unit: &str, value: &dyn Fn(&[Seen]) -> f64) -> Result<Row> {
        let of = |side: usize| self.seen[side].iter().map(|scenes| value(scenes)).collect();
        let (ours, peer) = (of(OURS), of(PEER));
        Rounds { ours, peer }.row(&case, unit, "ovs-dpdk")
    }

    /// Of a paced scene: how much arrived, and how late.
    fn paced(&self, place: usize) -> Result<Vec<Row>> {
        let name = SCENES[place].name;
        let delivered = format!("{name}-delivered");
        let mut rows = vec![self.row(delivered, "% of frames", &|scenes| {
            scenes[place].outcome.delivered()
        })?];
        // Where nothing arrived there is no latency either.
        let timed = |scenes: &Vec<Seen>| scenes[place].outcome.latency.total() > 0;
        if !self.seen.iter().flatten().all(timed) {
            rows[0]
                .detail
                .push("a side has no frame whose latency counts".to_owned());
            return Ok(rows);
        }
        for (quantile, fraction) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            rows.push(self.row(format!("{name}-{quantile}"), "us", &|scenes| {
                scenes[place].outcome.latency_us(fraction)
            })?);
        }
        Ok(rows)
    }

    /// Of a scene in a closed loop: the rate, and under the explosion how much of it is left.
    fn rate(&self, place: usize) -> Result<Vec<Row>> {
        let scene = &SCENES[place];
        let mpps = |scenes: &[Seen], place: usize| scenes[place].outcome.mpps();
        let mut rate = self.row(scene.name.to_owned(), "Mpps", &|scenes| mpps(scenes, place))?;
        let decisions = [OURS, PEER].map(|side| {
            let most = self.seen[side]
                .iter()
                .filter_map(|scenes| scenes[place].decisions)
                .max();
            most.map_or("?".to_owned(), |count| count.to_string())
        });
        rate.detail
            .push(format!("cached decisions {}", decisions.join(" / ")));
        if scene.loud != Loud::Explosion {
            return Ok(vec![rate]);
        }
        let name = format!("{}-kept", scene.name);
        let mut kept = self.row(name, "% of its rate alone", &|scenes| {
            mpps(scenes, place) / mpps(scenes, ALONE_RATE).max(f64::MIN_POSITIVE) * 100.0
        })?;
        kept.goal = Some(format!("ours >= {LEAST_KEPT} %"));
        kept.verdict = Some(if kept.ours.median >= LEAST_KEPT {
            PASS
        } else {
            MISS
        });
        Ok(vec![rate, kept])
    }
}

fn report(options: &Options, seen: [Vec<Vec<Seen>>; 2], noise: &Noise) -> Result<Report> {
    let results = Results { seen };
    let mut rows = Vec::new();
    for (place, scene) in SCENES.iter().enumerate() {
        rows.extend(match scene.quiet {
            Quiet::Paced => results.paced(place)?,
            Quiet::Loop => results.rate(place)?,
        });
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
        "One generator on one core sends for both tenants and sees the quiet one's frames arrive. Frames have no latency if generator and switch \
         waited for their cores for more than a tenth of it."
            .to_owned(),
        format!(
            "{} rounds of {} s per scene; both switches are started anew for each round. A round counts only if both switches ran at least 97 % of the \
             time and the round trip of a cache line between the cores was alike (within 35 %) around the scenes whose rates are compared.",
            options.rounds, options.seconds
        ),
    ];
    Ok(Report {
        machine: Machine::describe(vec![Daemon::version()?, OvsDpdk::version()?]),
        about,
        rows,
        checks: Vec::new(),
        plots: Vec::new(),
    })
}

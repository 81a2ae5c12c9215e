//! `bench-idle`: what a daemon with ten connected vhost-user ports costs while nothing happens, and how soon it answers.
//!
//! The peer is OVS-DPDK with ten ports, which polls by design: it shows what sleeping saves and what it costs in latency.

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::path::Path;
use std::time::{Duration, Instant};
use sumeru_bench::frontend::net::NetPort;
use sumeru_bench::frontend::wire::feature;
use sumeru_bench::idle::{processor_time, resident_bytes, wake};
use sumeru_bench::machine::Machine;
use sumeru_bench::peers::ovs::OvsDpdk;
use sumeru_bench::process::{HugePages, Interrupt};
use sumeru_bench::report::{MISS, PASS, Report, Rounds, Row};
use sumeru_bench::sumeru::{Daemon, Poll, SumeruSwitch};
use sumeru_bench::switch::{Setup, Switch};
use sumeru_bench::{thread, tsc};

/// Measure an idle daemon.
#[derive(Parser)]
struct Arguments {
    /// Seconds that Sumeru is watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds that the peer is watched.
    #[arg(long, default_value_t = 10)]
    peer_seconds: u64,
    /// Connected ports.
    #[arg(long, default_value_t = 10)]
    ports: u16,
    /// Frames per latency round; there are five rounds.
    #[arg(long, default_value_t = 400)]
    samples: u32,
    /// Core of the polling thread.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of the driver side.
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// Measure only the peer and print its figures (no results are written).
    #[arg(long)]
    peer_only: bool,
    /// Exit with an error if a goal is missed.
    #[arg(long)]
    check: bool,
}

const MOST_CORE_PERCENT: f64 = 1.0;
const MOST_MEBIBYTES: f64 = 64.0;
const LATENCY_ROUNDS: u32 = 5;
const SLICES: u32 = 6;
/// Long enough for an adaptive lcore to fall asleep between two frames.
const PAUSE: Duration = Duration::from_millis(3);

/// What one side cost.
#[derive(Default)]
struct Side {
    core_percent: Vec<f64>,
    whole_percent: f64,
    mebibytes: Vec<f64>,
    used_p50: Vec<f64>,
    used_p99: Vec<f64>,
    received_p50: Vec<f64>,
    received_p99: Vec<f64>,
    kicked: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.ports < 2 {
        bail!("--ports {}: expected at least 2", arguments.ports);
    }
    let interrupt = Interrupt::install()?;
    let peer = {
        let _pages = HugePages::reserve(1536)?;
        let switch = OvsDpdk::start(arguments.core, arguments.ports.into(), &Setup::PortToPort)?;
        observe(&switch, &arguments, arguments.peer_seconds, &interrupt)?
    };
    print("ovs-dpdk", &peer);
    if arguments.peer_only {
        return Ok(());
    }
    let ours = {
        let switch = SumeruSwitch::start(
            arguments.core,
            arguments.ports,
            Poll::Adaptive,
            &Setup::PortToPort,
        )?;
        observe(&switch, &arguments, arguments.seconds, &interrupt)?
    };
    print("sumeru", &ours);
    let report = report(&arguments, ours, peer)?;
    println!("\n{}", report.write("idle")?);
    let misses = report.misses();
    if arguments.check && !misses.is_empty() {
        bail!("goal missed: {}", misses.join(", "));
    }
    Ok(())
}

fn observe(
    switch: &dyn Switch,
    arguments: &Arguments,
    seconds: u64,
    interrupt: &Interrupt,
) -> Result<Side> {
    let pid = switch.pid();
    // Or, on a busy machine, a peer that spins starves its own control threads.
    thread::raise_process(pid).context("raise the priority of the daemon (needs root)")?;
    let mut ports = Vec::new();
    for socket in switch.sockets() {
        ports.push(connect(socket).with_context(|| format!("{}: connect a port", switch.name()))?);
    }
    // Let what a new connection causes pass.
    std::thread::sleep(Duration::from_secs(2));

    let mut side = Side::default();
    let (begin, from) = (Instant::now(), processor_time(pid)?);
    let (mut slice_begin, mut slice_from) = (begin, from);
    for slice in 1..=SLICES {
        let until = Duration::from_secs_f64(seconds as f64 * f64::from(slice) / f64::from(SLICES));
        while begin.elapsed() < until {
            interrupt.check()?;
            std::thread::sleep(
                (until.saturating_sub(begin.elapsed())).min(Duration::from_millis(500)),
            );
        }
        let (now, time) = (Instant::now(), processor_time(pid)?);
        side.core_percent
            .push((time - slice_from).as_secs_f64() / (now - slice_begin).as_secs_f64() * 100.0);
        side.mebibytes
            .push(resident_bytes(pid)? as f64 / f64::from(1 << 20));
        (slice_begin, slice_from) = (now, time);
    }
    side.whole_percent =
        (processor_time(pid)? - from).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;

    tsc::hz();
    thread::pin_self(arguments.generator_core).context("pin the driver side")?;
    let _raised = thread::Raised::this_thread()
        .context("raise the priority of the driver side (needs root)")?;
    thread::raise_process(pid)?;
    let [from, to, ..] = ports.as_mut_slice() else {
        bail!("{} has too few ports", switch.name())
    };
    for _ in 0..LATENCY_ROUNDS {
        interrupt.check()?;
        let wake = wake(from, to, arguments.samples, PAUSE)
            .with_context(|| format!("{}: latency", switch.name()))?;
        let microseconds = |cycles: u64| cycles as f64 / tsc::hz() * 1e6;
        side.used_p50.push(microseconds(wake.used.quantile(0.5)));
        side.used_p99.push(microseconds(wake.used.quantile(0.99)));
        side.received_p50
            .push(microseconds(wake.received.quantile(0.5)));
        side.received_p99
            .push(microseconds(wake.received.quantile(0.99)));
        side.kicked += wake.kicked;
    }
    Ok(side)
}

fn connect(socket: &Path) -> Result<NetPort> {
    Ok(NetPort::open(socket, 256, feature::EVENT_IDX)?)
}

fn print(name: &str, side: &Side) {
    println!(
        "{name}: {:.3} % of a core, {:.1} MiB, kick to used us p50 {:.1?} p99 {:.1?}, to received p50 {:.1?}, {} frames kicked",
        side.whole_percent,
        side.mebibytes.last().copied().unwrap_or_default(),
        side.used_p50,
        side.used_p99,
        side.received_p50,
        side.kicked
    );
}

fn judged(mut row: Row, value: f64, most: f64, unit: &str) -> Row {
    row.goal = Some(format!("< {most} {unit}"));
    row.verdict = Some(if value < most { PASS } else { MISS });
    row
}

fn report(arguments: &Arguments, ours: Side, peer: Side) -> Result<Report> {
    let row = |case: &str, unit: &str, ours: Vec<f64>, peer: Vec<f64>| {
        Rounds { ours, peer }.row(case, unit, "ovs-dpdk")
    };
    let most_mebibytes = ours.mebibytes.iter().copied().fold(0.0, f64::max);
    let mut core = row(
        "idle-core",
        "% of a core",
        ours.core_percent,
        peer.core_percent,
    )?;
    core.detail.push(format!(
        "over the whole time {:.3} / {:.1}",
        ours.whole_percent, peer.whole_percent
    ));
    let mut memory = row(
        "idle-memory",
        "MiB RssAnon+RssFile",
        ours.mebibytes,
        peer.mebibytes,
    )?;
    memory
        .detail
        .push("without the peer's 512 MiB of huge pages".to_owned());
    let mut used_p50 = row("kick-to-used-p50", "us", ours.used_p50, peer.used_p50)?;
    let samples = LATENCY_ROUNDS * arguments.samples;
    used_p50.detail.push(format!(
        "of {samples} frames {} / {} found the device asleep and kicked it",
        ours.kicked, peer.kicked
    ));
    let rows = vec![
        judged(
            core,
            ours.whole_percent,
            MOST_CORE_PERCENT,
            "% over the whole time",
        ),
        judged(memory, most_mebibytes, MOST_MEBIBYTES, "MiB"),
        used_p50,
        row("kick-to-used-p99", "us", ours.used_p99, peer.used_p99)?,
        row(
            "kick-to-received-p50",
            "us",
            ours.received_p50,
            peer.received_p50,
        )?,
        row(
            "kick-to-received-p99",
            "us",
            ours.received_p99,
            peer.received_p99,
        )?,
    ];
    let about = vec![
        format!(
            "{} connected vhost-user ports without traffic: processor time (utime + stime, all threads) over {} s (peer: {} s) in {SLICES} \
             slices, and RssAnon + RssFile. Lower is better. The peer polls all the time by design.",
            arguments.ports, arguments.seconds, arguments.peer_seconds
        ),
        format!(
            "Then single frames, {} ms apart, so that the daemon sleeps in between: from before the kick until the buffer is in the used \
             ring, and until the frame is in the other port's receive ring; {LATENCY_ROUNDS} rounds of {} frames, the driver busy-polls.",
            PAUSE.as_millis(),
            arguments.samples
        ),
    ];
    let versions = vec![Daemon::version()?, OvsDpdk::version()?];
    Ok(Report {
        machine: Machine::describe(versions),
        about,
        rows,
        checks: Vec::new(),
        plots: Vec::new(),
    })
}

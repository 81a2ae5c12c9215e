//! `bench-blk`: vhost-user-blk requests per second of Sumeru and QEMU's storage daemon, by the same generator.
//!
//! All server threads on one core, the generator on another; pairs of points alternate. Data is verified first, apart.

use anyhow::{Context, Result};
use clap::Parser;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sumeru_bench::blk_load::{Load, Random};
use sumeru_bench::block::{Case, Disk, Driver, Point, cases, fill, measure, verify};
use sumeru_bench::frontend::guest_memory::Backing;
use sumeru_bench::machine::Machine;
use sumeru_bench::options::{Noise, Options};
use sumeru_bench::peers::qsd::{self, Aio, StorageDaemon};
use sumeru_bench::process::{self, Interrupt, Scratch};
use sumeru_bench::report::{MISS, OURS, PASS, PEER, Report, Rounds, Spread};
use sumeru_bench::sumeru::{Configuration, Daemon, Poll, Volume};
use sumeru_bench::{probe, thread};

/// Compare Sumeru's vhost-user-blk with qemu-storage-daemon's.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// MiB of each disk that holds data.
    #[arg(long, default_value_t = 256)]
    disk_mib: u64,
    /// Folder on the real disk for the files, instead of `target`.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Do not negotiate event index.
    #[arg(long)]
    no_event_idx: bool,
    /// Do not track requests in flight in a shared area.
    #[arg(long)]
    no_inflight: bool,
    /// Back the guest's memory with 2 MiB pages (some must be free).
    #[arg(long)]
    huge: bool,
}

const NULL_BYTES: u64 = 1 << 30;

/// The peer's daemons; all but one sleep at any time.
struct Peers {
    null: StorageDaemon,
    memory: [StorageDaemon; 2],
    file: [StorageDaemon; 2],
}

impl Peers {
    fn of(&self, disk: Disk) -> Vec<(&'static str, &StorageDaemon)> {
        let engines = [Aio::Threads.name(), Aio::IoUring.name()];
        match disk {
            Disk::Null => vec![("null-co", &self.null)],
            Disk::Memory => engines.into_iter().zip(&self.memory).collect(),
            Disk::File => engines.into_iter().zip(&self.file).collect(),
        }
    }
}

/// Files of known content that are removed at the end.
struct Files {
    on_tmpfs: PathBuf,
    peer: PathBuf,
    ours: PathBuf,
}

impl Files {
    fn make(arguments: &Arguments) -> Result<Self> {
        let id = std::process::id();
        let folder = arguments
            .folder
            .clone()
            .unwrap_or_else(|| PathBuf::from("target"));
        fs::create_dir_all(&folder)?;
        let folder = fs::canonicalize(folder)?;
        let files = Self {
            on_tmpfs: PathBuf::from(format!("/dev/shm/sumeru-bench-{id}.img")),
            peer: folder.join(format!("bench-peer-{id}.img")),
            ours: folder.join(format!("bench-ours-{id}.img")),
        };
        let bytes = arguments.disk_mib << 20;
        for path in [&files.on_tmpfs, &files.peer, &files.ours] {
            write_random(path, bytes).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.on_tmpfs, &self.peer, &self.ours] {
            if path.exists()
                && let Err(error) = fs::remove_file(path)
            {
                eprintln!("remove {}: {error}", path.display());
            }
        }
    }
}

/// Real blocks of random bytes: a hole or an unwritten extent would be read without the disk.
fn write_random(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut numbers = Random::new(bytes);
    let mut chunk = vec![0u8; 1 << 20];
    for _ in 0..bytes >> 20 {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&numbers.draw().to_le_bytes());
        }
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(())
}

#[derive(Default)]
struct Series {
    rounds: Rounds,
    peer: String,
    choice: Vec<String>,
    latency: [Vec<[f64; 2]>; 2],
    noise: Noise,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let interrupt = Interrupt::install()?;
    let scratch = Scratch::new("bench-blk")?;
    let files = Files::make(&arguments)?;
    let driver = Driver {
        event_idx: !arguments.no_event_idx,
        inflight: !arguments.no_inflight,
        backing: if arguments.huge {
            Backing::HugePages
        } else {
            Backing::Pages
        },
    };
    let chosen = arguments.options.chosen(cases(), Case::name)?;
    let peers = start_peers(&arguments, &files, &scratch)?;
    let ours = if arguments.options.peer_only {
        None
    } else {
        Some(Ours::start(&arguments, &files)?)
    };

    thread::pin_self(arguments.options.generator_core).context("pin the generator")?;
    let _raised = thread::Raised::this_thread()
        .context("raise the priority of the generator (needs root)")?;
    let mut verified = Vec::new();
    for disk in [Disk::Memory, Disk::File] {
        for (_, peer) in peers.of(disk) {
            let blocks = verify(peer.socket(), &driver, 7)
                .with_context(|| format!("verify the peer's {} disk", disk.name()))?;
            println!(
                "verified {} blocks of the peer's {} disk",
                blocks,
                disk.name()
            );
        }
        if let Some(ours) = &ours {
            let socket = ours.socket(disk);
            ours.wake(disk)?;
            fill(&socket, &driver)?;
            let blocks = verify(&socket, &driver, 8)
                .with_context(|| format!("verify Sumeru's {} disk", disk.name()))?;
            ours.rest(disk)?;
            println!(
                "verified {} blocks of Sumeru's {} disk",
                blocks,
                disk.name()
            );
            verified.push(format!("{blocks} blocks of its {} disk", disk.name()));
        }
        interrupt.check()?;
    }

    let mut all: Vec<Series> = Vec::new();
    for case in &chosen {
        all.push(choose_peer(case, &peers, &arguments, &driver)?);
        interrupt.check()?;
    }
    for round in 1..=arguments.options.rounds {
        for (case, series) in chosen.iter().zip(&mut all) {
            let load = load(case, arguments.options.seconds, u64::from(round));
            let what = format!("round {round} {}", case.name());
            let mut noise = std::mem::take(&mut series.noise);
            let points = arguments
                .options
                .until_quiet(&what, &interrupt, &mut noise, || {
                    measure_pair(
                        case,
                        series,
                        &peers,
                        ours.as_ref(),
                        &arguments,
                        &load,
                        &driver,
                    )
                })?;
            series.noise = noise;
            series.take(round, case, &points);
        }
    }
    if arguments.options.peer_only {
        return Ok(());
    }
    let report = report(&arguments, &chosen, &all, &verified)?;
    println!("took {:.0} s", started.elapsed().as_secs_f64());
    arguments.options.finish(&report, "blk")
}

fn start_peers(arguments: &Arguments, files: &Files, scratch: &Scratch) -> Result<Peers> {
    let start = |name: &str, disk: &qsd::Disk| {
        StorageDaemon::start(
            disk,
            &scratch.file(&format!("{name}.sock")),
            arguments.options.core,
            &scratch.file(&format!("{name}.log")),
        )
    };
    let of_file = |name: &str, path: &Path, direct: bool, aio: Aio| {
        start(
            &format!("{name}-{}", aio.name()),
            &qsd::Disk::File {
                path: path.to_owned(),
                direct,
                aio,
            },
        )
    };
    Ok(Peers {
        null: start("null", &qsd::Disk::Null { size: NULL_BYTES })?,
        memory: [
            of_file("mem", &files.on_tmpfs, false, Aio::Threads)?,
            of_file("mem", &files.on_tmpfs, false, Aio::IoUring)?,
        ],
        file: [
            of_file("file", &files.peer, true, Aio::Threads)?,
            of_file("file", &files.peer, true, Aio::IoUring)?,
        ],
    })
}

/// Our daemons. The one with null and memory disks spins, on the core that the peer is measured on, so it is stopped
/// while it is not measured. The one with the file sleeps when idle: the kernel completes direct writes in threads
/// of its own on that core, and must get at it.
struct Ours {
    spinning: Daemon,
    sleeping: Daemon,
}

impl Ours {
    fn start(arguments: &Arguments, files: &Files) -> Result<Self> {
        let bytes = arguments.disk_mib << 20;
        let disks = |poll: Poll, name: &str, disks: &[(Disk, Volume)]| -> Result<Daemon> {
            let folder = Scratch::new(name)?;
            let mut configuration = Configuration::new(arguments.options.core, poll);
            for (disk, volume) in disks {
                configuration.disk(
                    disk.name(),
                    volume,
                    &folder.file(&format!("{}.sock", disk.name())),
                );
            }
            Daemon::start(&configuration, folder, Some(arguments.options.core))
        };
        let in_memory = [
            (Disk::Null, Volume::Null { size: NULL_BYTES }),
            (Disk::Memory, Volume::Memory { size: bytes }),
        ];
        let spinning = disks(Poll::AlwaysSpin, "blk-spinning", &in_memory)?;
        thread::raise_process(spinning.pid())
            .context("raise the priority of the daemon (needs root)")?;
        process::pause(spinning.pid(), true)?;
        let sleeping = disks(
            Poll::Adaptive,
            "blk-sleeping",
            &[(
                Disk::File,
                Volume::File {
                    path: files.ours.clone(),
                },
            )],
        )?;
        thread::raise_process(sleeping.pid())?;
        Ok(Self { spinning, sleeping })
    }

    fn of(&self, disk: Disk) -> &Daemon {
        if disk == Disk::File {
            &self.sleeping
        } else {
            &self.spinning
        }
    }

    fn socket(&self, disk: Disk) -> PathBuf {
        self.of(disk).file(&format!("{}.sock", disk.name()))
    }

    fn wake(&self, disk: Disk) -> Result<()> {
        process::pause(self.of(disk).pid(), false)
    }

    fn rest(&self, disk: Disk) -> Result<()> {
        process::pause(self.of(disk).pid(), true)
    }
}

fn load(case: &Case, seconds: f64, seed: u64) -> Load {
    Load {
        pattern: case.pattern,
        block_bytes: case.block_bytes,
        depth: case.depth,
        warm_up: Duration::from_millis(150),
        duration: Duration::from_secs_f64(seconds),
        seed,
    }
}

/// The faster of the peer's I/O engines for this case, by half a second of each; every figure is kept for the report.
fn choose_peer(
    case: &Case,
    peers: &Peers,
    arguments: &Arguments,
    driver: &Driver,
) -> Result<Series> {
    let engines = peers.of(case.disk);
    let mut series = Series::default();
    let mut best = 0.0;
    for (engine, peer) in &engines {
        if engines.len() > 1 {
            let load = load(case, 0.5, 1);
            let point = measure(
                peer.socket(),
                peer.pid(),
                false,
                arguments.options.core,
                case,
                &load,
                driver,
            )?;
            let iops = point.measured.iops();
            series.choice.push(format!("{engine} {:.0}", iops));
            if iops <= best {
                continue;
            }
            best = iops;
        }
        series.peer = (*engine).to_owned();
    }
    Ok(series)
}

fn measure_pair(
    case: &Case,
    series: &Series,
    peers: &Peers,
    ours: Option<&Ours>,
    arguments: &Arguments,
    load: &Load,
    driver: &Driver,
) -> Result<(Vec<Point>, Option<String>)> {
    let core = arguments.options.core;
    let engines = peers.of(case.disk);
    let (_, peer) = engines
        .iter()
        .find(|(engine, _)| *engine == series.peer)
        .context("no peer was chosen")?;
    // Worker threads come and go with the load; new ones inherit, those of before are raised here.
    thread::raise_process(peer.pid())?;
    let mut trips = vec![probe::round_trip(arguments.options.generator_core, core)?];
    let mut points = vec![measure(
        peer.socket(),
        peer.pid(),
        false,
        core,
        case,
        load,
        driver,
    )?];
    trips.push(probe::round_trip(arguments.options.generator_core, core)?);
    let mut fault = points[PEER]
        .fault()
        .map(|fault| format!("qemu-storage-daemon: {fault}"));
    if let Some(ours) = ours {
        ours.wake(case.disk)?;
        let polls = case.disk != Disk::File;
        let point = measure(
            &ours.socket(case.disk),
            ours.of(case.disk).pid(),
            polls,
            core,
            case,
            load,
            driver,
        );
        ours.rest(case.disk)?;
        points.push(point?);
        trips.push(probe::round_trip(arguments.options.generator_core, core)?);
        fault = fault.or(points[OURS].fault().map(|fault| format!("sumeru: {fault}")));
    }
    Ok((points, fault.or(probe::fault(&trips))))
}

impl Series {
    fn take(&mut self, round: u32, case: &Case, points: &[Point]) {
        for (side, point) in points.iter().enumerate() {
            let measured = &point.measured;
            let latency = [measured.latency_us(0.5), measured.latency_us(0.99)];
            println!(
                "round {round} {:<28} {:<7} {:9.0} IOPS {:6.3} GB/s {:6.0} cycles/op {:7} kicks p50 {:7.2} us p99 {:7.2} us, ran {:.3}/{:.3}, foreign {:.3}",
                case.name(),
                if side == OURS { "sumeru" } else { "qsd" },
                measured.iops(),
                measured.gigabytes_per_second(),
                measured.cycles_per_operation(),
                measured.kicks,
                latency[0],
                latency[1],
                point.target_running,
                point.generator_running,
                point.foreign
            );
            let values = if side == OURS {
                &mut self.rounds.ours
            } else {
                &mut self.rounds.peer
            };
            values.push(measured.iops());
            self.latency[side].push(latency);
        }
    }

    fn latency(&self, side: usize) -> String {
        let median = |which: usize| {
            let values: Vec<f64> = self.latency[side].iter().map(|pair| pair[which]).collect();
            Spread::of(&values).map_or(0.0, |spread| spread.median)
        };
        format!("{:.1}/{:.1}", median(0), median(1))
    }
}

fn report(
    arguments: &Arguments,
    cases: &[Case],
    all: &[Series],
    verified: &[String],
) -> Result<Report> {
    let mut rows = Vec::new();
    for (case, series) in cases.iter().zip(all) {
        let mut row = series.rounds.row(
            &case.name(),
            "IOPS",
            &format!("qemu-storage-daemon {}", series.peer),
        )?;
        row.round_ratio = series.rounds.median_ratio();
        row.goal = Some(format!(">= {}", case.goal()));
        row.verdict = Some(if row.ratio >= case.goal() { PASS } else { MISS });
        row.reference = case.reference();
        if case.block_bytes > 4096 {
            let gigabytes = |iops: f64| iops * f64::from(case.block_bytes) / 1e9;
            row.detail.push(format!(
                "GB/s {:.2} / {:.2}",
                gigabytes(row.ours.median),
                gigabytes(row.peer.median)
            ));
        }
        row.detail.push(format!(
            "p50/p99 us {} / {}",
            series.latency(OURS),
            series.latency(PEER)
        ));
        if !series.choice.is_empty() {
            row.detail
                .push(format!("peer by engine: {}", series.choice.join(", ")));
        }
        row.repeated = series.noise.repeated;
        row.noisy.clone_from(&series.noise.noisy);
        rows.push(row);
    }
    let about = vec![
        "The same busy-polling generator on one core, every thread of the target on the other; higher is better.".to_owned(),
        format!(
            "One split ring of 1024 entries, event index {}, in-flight tracking {}, guest memory in {} pages: as a QEMU guest would have it. \
             Null disks touch no data; the peer's memory disk is a file on tmpfs; files are opened with O_DIRECT on the real disk; \
             {} MiB each, written before they are read. The peer serves each disk from an iothread with its default polling, with \
             the faster of aio=threads and io_uring for the case.",
            if arguments.no_event_idx { "off" } else { "on" },
            if arguments.no_inflight { "off" } else { "on" },
            if arguments.huge { "2 MiB" } else { "4 KiB" },
            arguments.disk_mib
        ),
        format!(
            "{} rounds of {} s per point, alternating. A pair counts only if the generator and Sumeru's spinning thread ran at least 97 % of \
             the time, others had at most 3 % of the peer's core (null and memory; on files the kernel's own I/O threads are the others), and the round trip of a cache line between the cores was alike (within 35 %).",
            arguments.options.rounds, arguments.options.seconds
        ),
        format!("Data was verified in a pass of its own: {} of Sumeru, and the peer's disks likewise.", verified.join(" and ")),
    ];
    let versions = vec![Daemon::version()?, StorageDaemon::version()?];
    Ok(Report {
        machine: Machine::describe(versions),
        about,
        rows,
        checks: Vec::new(),
        plots: Vec::new(),
    })
}

//! `blk-load`: the block load generator by hand, against any vhost-user-blk socket.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use sumeru_bench::blk_load::{self, Load, Pattern, verify};
use sumeru_bench::frontend::blk::{BlkDevice, Options};
use sumeru_bench::frontend::guest_memory::Backing;

#[derive(Clone, Copy, ValueEnum)]
enum PatternArg {
    #[value(name = "randread")]
    RandRead,
    #[value(name = "randwrite")]
    RandWrite,
    Read,
    Write,
    /// Write a pattern, read it back, compare.
    Verify,
}

/// Load a vhost-user-blk device and measure it.
#[derive(Parser)]
struct Arguments {
    /// The device's Unix socket.
    socket: PathBuf,
    #[arg(long, value_enum, default_value = "randread")]
    pattern: PatternArg,
    /// Bytes of a request.
    #[arg(long, default_value_t = 4096)]
    block: u32,
    /// Requests in flight.
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// Seconds to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Core to pin to.
    #[arg(long, default_value_t = 0)]
    core: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Back the guest's memory with 2 MiB pages.
    #[arg(long)]
    huge: bool,
    /// Negotiate event index.
    #[arg(long)]
    event_idx: bool,
    /// Track requests in flight in a shared area.
    #[arg(long)]
    inflight: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    sumeru_bench::thread::pin_self(arguments.core).context("pin the generator")?;
    let options = Options {
        queue_size: 1024,
        slots: arguments.depth,
        slot_bytes: arguments.block,
        event_idx: arguments.event_idx,
        inflight: arguments.inflight,
        backing: if arguments.huge {
            Backing::HugePages
        } else {
            Backing::Pages
        },
    };
    let mut device = BlkDevice::open(&arguments.socket, &options)?;
    println!(
        "capacity {} sectors, features {:#x}",
        device.capacity_sectors(),
        device.features()
    );
    let pattern = match arguments.pattern {
        PatternArg::RandRead => Pattern::RandRead,
        PatternArg::RandWrite => Pattern::RandWrite,
        PatternArg::Read => Pattern::Read,
        PatternArg::Write => Pattern::Write,
        PatternArg::Verify => {
            let verify = verify::Verify {
                block_bytes: arguments.block,
                blocks: 65536,
                writes: 100_000,
                depth: arguments.depth,
                seed: arguments.seed,
            };
            let verified = verify::run(&mut device, &verify)?;
            println!(
                "{} writes, {} blocks read back as written",
                verified.writes, verified.blocks
            );
            return Ok(());
        }
    };
    let load = Load {
        pattern,
        block_bytes: arguments.block,
        depth: arguments.depth,
        warm_up: Duration::from_millis(200),
        duration: Duration::from_secs_f64(arguments.seconds),
        seed: arguments.seed,
    };
    let measured = blk_load::run(&mut device, &load)?;
    println!(
        "{:.0} IOPS, {:.3} GB/s, {:.0} cycles/op, {} kicks, latency us p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.0}",
        measured.iops(),
        measured.gigabytes_per_second(),
        measured.cycles_per_operation(),
        measured.kicks,
        measured.latency_us(0.5),
        measured.latency_us(0.99),
        measured.latency_us(0.999),
        measured.latency_us(1.0),
    );
    Ok(())
}

//! Serves one disk on a vhost-user socket, for measurements without a daemon.
//!
//! `cargo run --release -p sumeru-block --example serve_blk -- SOCKET (null|memory|file:PATH) BYTES CPU [queues]`

use std::path::Path;
use std::sync::Arc;

use sumeru_block::{Bdev, BlkOptions, FileDisk, FileOptions, MemoryDisk, NullDisk, VirtioBlk};
use sumeru_engine::{IdlePolicy, Lcore, LcoreConfig};
use sumeru_virtio::vhost_user::Endpoint;
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, kind, bytes, cpu, more @ ..] = arguments.as_slice() else {
        return Err("usage: serve_blk SOCKET (null|memory|file:PATH) BYTES CPU [queues]".into());
    };
    let bytes: u64 = bytes.parse()?;
    let disk: Arc<dyn Bdev> = match kind.split_once(':') {
        None if kind == "null" => Arc::new(NullDisk::new("disk", Uuid::new_v4(), bytes, 512)?),
        None if kind == "memory" => {
            let disk = MemoryDisk::new("disk", Uuid::new_v4(), bytes, 512)?;
            disk.populate()?;
            Arc::new(disk)
        }
        Some(("file", path)) => {
            let options = FileOptions {
                create: Some(bytes),
                ..FileOptions::default()
            };
            Arc::new(FileDisk::open(
                "disk",
                Uuid::new_v4(),
                Path::new(path),
                &options,
            )?)
        }
        _ => return Err(format!("unknown kind of disk: {kind}").into()),
    };
    let lcore = Arc::new(Lcore::start(LcoreConfig {
        cpu: cpu.parse()?,
        idle: IdlePolicy::default(),
    })?);
    let controller = VirtioBlk::new(
        disk,
        BlkOptions {
            name: "disk".into(),
            serial: "serve-blk".into(),
            queues: more.first().map_or(Ok(1), |queues| queues.parse())?,
            lcores: vec![lcore.clone()],
        },
    )?;
    let monitor = controller.monitor();
    let _endpoint = Endpoint::listen(socket, Box::new(controller))?;
    let mut line = String::new();
    // Ends with its standard input.
    while std::io::stdin().read_line(&mut line)? > 0 {
        for report in monitor.queues() {
            println!("{report:?}");
        }
        println!("{:?}", lcore.report()?);
        line.clear();
    }
    Ok(())
}

//! QEMU's storage daemon as a vhost-user-blk target: one process, every thread pinned to one core.
//!
//! The disk is served from an iothread of its own with QEMU's default adaptive polling, the way QEMU recommends.

use crate::process::Process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a file is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aio {
    /// A pool of threads with preadv and pwritev.
    Threads,
    /// io_uring.
    IoUring,
}

impl Aio {
    /// QEMU's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::IoUring => "io_uring",
        }
    }
}

/// What is served.
#[derive(Debug, Clone)]
pub enum Disk {
    /// null-co: answers at once and touches no data.
    Null {
        /// Bytes.
        size: u64,
    },
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// O_DIRECT.
        direct: bool,
        /// Engine.
        aio: Aio,
    },
}

/// A running daemon.
#[derive(Debug)]
pub struct StorageDaemon {
    process: Process,
    socket: PathBuf,
}

impl StorageDaemon {
    /// Starts it on `core` and waits for its socket.
    ///
    /// # Errors
    /// If it is not installed, or does not come up.
    pub fn start(disk: &Disk, socket: &Path, core: usize, log: &Path) -> Result<Self> {
        let program = super::find("qemu-storage-daemon")?;
        let blockdev = match disk {
            Disk::Null { size } => format!("null-co,node-name=disk,size={size},read-zeroes=off"),
            Disk::File { path, direct, aio } => {
                let direct = if *direct { "on" } else { "off" };
                format!(
                    "file,node-name=disk,filename={},cache.direct={direct},aio={},locking=off",
                    path.display(),
                    aio.name()
                )
            }
        };
        let export = format!(
            "vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},writable=on,num-queues=1,iothread=io",
            socket.display()
        );
        if socket.exists() {
            std::fs::remove_file(socket).context("remove the old socket")?;
        }
        let arguments = [
            "--object",
            "iothread,id=io",
            "--blockdev",
            &blockdev,
            "--export",
            &export,
        ];
        let mut process = Process::start(&program, &arguments, &[], Some(core), log)?;
        process.wait_until("socket", Duration::from_secs(10), || socket.exists())?;
        Ok(Self {
            process,
            socket: socket.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its version, in one line.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn version() -> Result<String> {
        let program = super::find("qemu-storage-daemon")?;
        let text = crate::process::output_of(&program.to_string_lossy(), &["--version"], &[])?;
        let version = text.split_whitespace().nth(2).unwrap_or("?");
        Ok(format!("qemu-storage-daemon {version}"))
    }
}

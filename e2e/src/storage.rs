//! qemu-storage-daemon as a peer: a disk exported over vhost-user-blk by software that is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::peers;
use crate::place::{self, SocketFolder};
use crate::process::{Lifetime, Process};

/// A running qemu-storage-daemon with one writable export.
#[derive(Debug)]
pub struct StorageDaemon {
    socket: PathBuf,
    process: Process,
    // After the process: its socket is in it.
    _folder: SocketFolder,
}

impl StorageDaemon {
    /// Exports `image` (a plain file) with `queues` request queues and waits until it listens.
    pub fn vhost_user_blk(label: &str, image: &Path, queues: u16) -> Result<Self> {
        let folder = SocketFolder::create(label)?;
        let socket = folder.socket("blk.sock")?;
        let mut command = Command::new(peers::command("qemu-storage-daemon")?);
        command
            .arg("--blockdev")
            .arg(format!("driver=file,node-name=disk0,filename={}", image.display()))
            .arg("--export")
            .arg(format!(
                "type=vhost-user-blk,id=export0,node-name=disk0,writable=on,num-queues={queues},addr.type=unix,addr.path={}",
                socket.display()
            ));
        let log = place::logs(label)?.join("qemu-storage-daemon.log");
        let process = Process::spawn("qemu-storage-daemon", command, &log, Lifetime::Bound)?;
        wait_for_socket(&socket, &process, Duration::from_secs(10))?;
        Ok(Self {
            socket,
            process,
            _folder: folder,
        })
    }

    /// The vhost-user socket it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Creates `path` as a sparse file of `mebibytes`.
pub fn sparse_image(path: &Path, mebibytes: u64) -> Result<()> {
    let file = std::fs::File::create(path).context(|| format!("creating {}", path.display()))?;
    file.set_len(mebibytes << 20)
        .context(|| format!("sizing {}", path.display()))
}

/// Waits until `process` has created `socket`.
pub(crate) fn wait_for_socket(socket: &Path, process: &Process, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !socket.exists() {
        process.check_running()?;
        if Instant::now() >= deadline {
            let context = format!(
                "; last lines of its log:\n{}",
                place::tail(process.log(), 20)
            );
            return Err(Error::Timeout {
                what: format!("{} of {}", socket.display(), process.name()),
                limit,
                context,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

//! Where the real peers are: QEMU of two generations, stock kernels, storage daemons, DPDK.
//!
//! `scripts/install-prerequisites` puts them there; this module only looks and never installs or skips.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::place;

/// The folder of unpacked peers: `SUMERU_PEERS`, else `target/peers` in the checkout.
pub fn folder() -> PathBuf {
    std::env::var_os("SUMERU_PEERS")
        .map_or_else(|| place::checkout().join("target/peers"), PathBuf::from)
}

/// The path of the command `name` of the unpacked peers, such as `qemu-7.2` or `qemu-storage-daemon`.
pub fn command(name: &str) -> Result<PathBuf> {
    present(name, folder().join("bin").join(name))
}

/// The path of the system's program `name`, found in the usual folders of Debian.
pub fn system_program(name: &str) -> Result<PathBuf> {
    let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|p| p.exists());
    found.ok_or_else(|| Error::MissingPeer {
        what: name.to_owned(),
        path: Path::new("/usr/bin").join(name),
    })
}

fn present(what: &str, path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        Err(Error::MissingPeer {
            what: what.to_owned(),
            path,
        })
    }
}

/// The generations of QEMU that guests are run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QemuVersion {
    /// Debian 12's own.
    #[default]
    V7_2,
    /// From trixie-backports: has vfio-user.
    V11_1,
}

impl QemuVersion {
    /// The name of its command among the peers.
    pub fn name(self) -> &'static str {
        match self {
            Self::V7_2 => "qemu-7.2",
            Self::V11_1 => "qemu-11.1",
        }
    }

    /// Its command.
    pub fn command(self) -> Result<PathBuf> {
        command(self.name())
    }
}

/// The stock Debian kernels guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kernel {
    /// Debian 12's own.
    #[default]
    V6_1,
    /// From bookworm-backports: has vduse and ublk (`install-prerequisites --for kernel-6.12`).
    V6_12,
}

impl Kernel {
    fn tree(self) -> PathBuf {
        folder().join(match self {
            Self::V6_1 => "kernel-6.1",
            Self::V6_12 => "kernel-6.12",
        })
    }

    /// The uncompressed kernel that QEMU enters directly (PVH).
    pub fn vmlinux(self) -> Result<PathBuf> {
        present("the guest kernel", self.tree().join("vmlinux"))
    }

    /// Its release, as `uname -r` prints it.
    pub fn release(self) -> Result<String> {
        let path = present("the guest kernel", self.tree().join("release"))?;
        let text =
            std::fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The folder with `modules.dep` and the modules.
    pub fn modules(self) -> Result<PathBuf> {
        present(
            "the guest kernel's modules",
            self.tree().join("lib/modules").join(self.release()?),
        )
    }
}

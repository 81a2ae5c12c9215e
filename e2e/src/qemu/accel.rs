//! Whether guests can run under KVM here, found out by trying: a device node that can be opened is not enough where
//! virtualisation is itself emulated or filtered.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::peers::{Kernel, QemuVersion};
use crate::place;
use crate::process::{Lifetime, Process};

/// How a guest's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the hardware, through /dev/kvm.
    Kvm,
    /// By emulation.
    Tcg,
}

impl Accelerator {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg (emulation)",
        }
    }
}

/// A stock kernel prints its first line within a second under KVM; a busy machine gets some patience.
const PROBE_LIMIT: Duration = Duration::from_secs(6);

/// KVM if a stock kernel starts under it with `version`, emulation otherwise. `SUMERU_ACCEL=kvm|tcg` decides without
/// trying. The outcome is remembered in the target folder until this machine boots again.
pub fn choose(version: QemuVersion) -> Result<Accelerator> {
    match std::env::var("SUMERU_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        _ => {}
    }
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accelerator::Tcg);
    }
    // One probe at a time in this process; two processes at worst both find out the same.
    static PROBING: Mutex<()> = Mutex::new(());
    let _one = PROBING.lock().unwrap_or_else(PoisonError::into_inner);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context(|| "reading boot_id".into())?;
    let folder = place::target().join("e2e");
    std::fs::create_dir_all(&folder).context(|| format!("creating {}", folder.display()))?;
    let memory = folder.join(format!("kvm-{}", version.name()));
    let (works, fails) = (
        format!("{} works\n", boot.trim()),
        format!("{} fails\n", boot.trim()),
    );
    let known = std::fs::read_to_string(&memory).unwrap_or_default();
    let usable = if known == works || known == fails {
        known == works
    } else {
        probe(version, &folder)?
    };
    std::fs::write(&memory, if usable { works } else { fails })
        .context(|| format!("writing {}", memory.display()))?;
    Ok(if usable {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

fn probe(version: QemuVersion, folder: &Path) -> Result<bool> {
    let log = folder.join(place::unique_name("kvm-probe"));
    let mut command = Command::new(version.command()?);
    command.args([
        "-machine",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "max",
        "-m",
        "256",
        "-display",
        "none",
        "-nodefaults",
    ]);
    command
        .args([
            "-no-reboot",
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 panic=-1",
            "-kernel",
        ])
        .arg(Kernel::V6_1.vmlinux()?);
    let process = Process::spawn("kvm probe", command, &log, Lifetime::Bound)?;
    let deadline = Instant::now() + PROBE_LIMIT;
    let mut started = false;
    while !started && Instant::now() < deadline && process.ended()?.is_none() {
        std::thread::sleep(Duration::from_millis(20));
        started = place::tail(&log, 1000).contains("Linux version");
    }
    drop(process);
    started |= place::tail(&log, 1000).contains("Linux version");
    let _ = std::fs::remove_file(log);
    Ok(started)
}

//! The machine that a bench ran on, as its results tell it: nothing that names the host or a path of it.

use serde::Serialize;
use std::fs;

/// A description.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Cores.
    pub cores: usize,
    /// TSC cycles per second.
    pub tsc_hz: u64,
    /// Kernel release.
    pub kernel: String,
    /// Huge pages of 2 MiB while measuring.
    pub hugepages_2m: u64,
    /// Versions of what was measured.
    pub versions: Vec<String>,
}

impl Machine {
    /// Looks at this machine. `versions` is what only the bench knows.
    pub fn describe(versions: Vec<String>) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let field = |key: &str| {
            cpuinfo
                .lines()
                .find(|line| line.starts_with(key))
                .and_then(|line| line.split(": ").nth(1))
        };
        // Arm has no model name; its part number is the next best.
        let cpu = field("model name")
            .or_else(|| field("CPU part"))
            .unwrap_or("unknown")
            .trim()
            .to_owned();
        let version = |release: &str| {
            release
                .split(['-', '+'])
                .next()
                .unwrap_or(release)
                .trim()
                .to_owned()
        };
        Self {
            cpu,
            // Not the standard library's count: that is of the cores this thread may use, and it may be pinned.
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            tsc_hz: crate::tsc::hz() as u64,
            kernel: version(&text("/proc/sys/kernel/osrelease")),
            hugepages_2m: text("/proc/sys/vm/nr_hugepages")
                .trim()
                .parse()
                .unwrap_or(0),
            versions,
        }
    }
}

//! Open vSwitch with DPDK: vhost-user ports on one PMD core, two of them joined by port-to-port flows, in a folder of its own.
//!
//! Cycles are those of `dpif-netdev/pmd-stats-show`: "processing cycles" are the TSC of PMD iterations that received at
//! least one packet, "idle cycles" of those that received none, "packets received" counts both ports.

use crate::jsonrpc::{self, Version};
use crate::process::{Process, Scratch, output_of};
use crate::switch::{Counters, Switch};
use crate::tsc;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running switch.
pub struct OvsDpdk {
    vswitchd: Process,
    _ovsdb: Process,
    control: PathBuf,
    sockets: Vec<PathBuf>,
    // Last: what runs in it ends first.
    _folder: Scratch,
}

impl OvsDpdk {
    /// Starts database and switch with a PMD thread on `core` (the housekeeping threads on core 0) and `ports` ports, of
    /// which the first two forward to each other.
    ///
    /// # Errors
    /// If it is not installed or does not come up.
    pub fn start(core: usize, ports: usize) -> Result<Self> {
        let folder = Scratch::new("ovs")?;
        let (vswitchd, ovsdb) = (
            super::find("ovs-vswitchd-dpdk")?,
            super::find("ovsdb-server")?,
        );
        let database = folder.file("conf.db");
        output_of(
            "ovsdb-tool",
            &[
                Path::new("create"),
                &database,
                Path::new("/usr/share/openvswitch/vswitch.ovsschema"),
            ],
            &[],
        )?;
        let db_socket = folder.file("db.sock");
        let db = format!("unix:{}", db_socket.display());
        let environment: Vec<(&str, &Path)> =
            ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"]
                .map(|name| (name, folder.path()))
                .to_vec();
        let arguments = [
            database.display().to_string(),
            format!("--remote=punix:{}", db_socket.display()),
        ];
        let mut ovsdb = Process::start(
            &ovsdb,
            &arguments,
            &environment,
            None,
            &folder.file("ovsdb.log"),
        )?;
        ovsdb.wait_until("database socket", Duration::from_secs(10), || {
            db_socket.exists()
        })?;

        let vsctl = |arguments: &[&str]| {
            output_of(
                "ovs-vsctl",
                &[&[format!("--db={db}").as_str(), "-t", "20"], arguments].concat(),
                &environment,
            )
        };
        vsctl(&["--no-wait", "init"])?;
        let pmd_mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << core);
        vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            "other_config:dpdk-socket-mem=512",
            &pmd_mask,
            "other_config:dpdk-lcore-mask=0x1",
            "other_config:vhost-sock-dir=.",
            "other_config:dpdk-extra=--in-memory",
        ])?;
        let control = folder.file("vswitchd.ctl");
        let arguments = [db.clone(), format!("--unixctl={}", control.display())];
        let mut vswitchd = Process::start(
            &vswitchd,
            &arguments,
            &environment,
            None,
            &folder.file("vswitchd.log"),
        )?;
        vswitchd.wait_until("control socket", Duration::from_secs(30), || {
            control.exists()
        })?;

        vsctl(&[
            "add-br",
            "br0",
            "--",
            "set",
            "bridge",
            "br0",
            "datapath_type=netdev",
        ])?;
        let names: Vec<String> = (0..ports).map(|index| format!("vh{index}")).collect();
        for (index, port) in names.iter().enumerate() {
            let request = format!("ofport_request={}", index + 1);
            vsctl(&[
                "add-port",
                "br0",
                port,
                "--",
                "set",
                "Interface",
                port,
                "type=dpdkvhostuser",
                &request,
            ])?;
        }
        let bridge = format!("unix:{}", folder.file("br0.mgmt").display());
        output_of("ovs-ofctl", &["del-flows", &bridge], &environment)?;
        for flow in ["in_port=1,actions=output:2", "in_port=2,actions=output:1"] {
            output_of("ovs-ofctl", &["add-flow", &bridge, flow], &environment)?;
        }
        let sockets: Vec<PathBuf> = names.iter().map(|name| folder.file(name)).collect();
        let waited = sockets.clone();
        vswitchd.wait_until("vhost-user sockets", Duration::from_secs(20), || {
            waited.iter().all(|socket| socket.exists())
        })?;
        Ok(Self {
            vswitchd,
            _ovsdb: ovsdb,
            control,
            sockets,
            _folder: folder,
        })
    }

    /// Versions of switch and DPDK, in one line.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn version() -> Result<String> {
        let text = output_of(
            &super::find("ovs-vswitchd-dpdk")?.to_string_lossy(),
            &["--version"],
            &[],
        )?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |word: &str| {
            words
                .iter()
                .position(|w| *w == word)
                .and_then(|at| words.get(at + 1))
                .copied()
                .unwrap_or("?")
        };
        Ok(format!(
            "Open vSwitch {} and testpmd, DPDK {}",
            after("vSwitch)"),
            after("DPDK")
        ))
    }
}

impl Switch for OvsDpdk {
    fn name(&self) -> &'static str {
        "ovs-dpdk"
    }

    fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    fn pid(&self) -> u32 {
        self.vswitchd.pid()
    }

    fn counters(&mut self) -> Result<Counters> {
        self.vswitchd.check()?;
        let before = tsc::now();
        let answer = jsonrpc::call(
            &self.control,
            Version::V1,
            "dpif-netdev/pmd-stats-show",
            &json!([]),
        )?;
        let after = tsc::now();
        let (busy, idle, rx_packets) =
            parse(answer.as_str().context("pmd-stats-show is not a text")?)?;
        // The PMD's counters were read somewhere between the two; the middle is off by half of that at most.
        Ok(Counters {
            tsc: before + (after - before) / 2,
            busy,
            idle,
            rx_packets,
        })
    }
}

fn parse(text: &str) -> Result<(u64, u64, u64)> {
    let section = text
        .split("pmd thread")
        .nth(1)
        .with_context(|| format!("no PMD thread in {text:?}"))?;
    let section = section.split("main thread").next().unwrap_or(section);
    let number = |key: &str| -> Result<u64> {
        let line = section
            .lines()
            .find_map(|line| line.trim().strip_prefix(key));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        // A PMD that has not run yet prints no cycles.
        word.map_or(Ok(0), |word| {
            word.parse().with_context(|| format!("{key} {word:?}"))
        })
    };
    if text.matches("pmd thread").count() != 1 {
        bail!("expected one PMD thread: {text}");
    }
    Ok((
        number("processing cycles:")?,
        number("idle cycles:")?,
        number("packets received:")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_one_pmd_thread() {
        let text = "main thread:\n  packets received: 9\npmd thread numa_id 0 core_id 1:\n  packets received: 17712448\n  packet recirculations: 0\n  idle cycles: 2300000 (0.03%)\n  processing cycles: 7512345678 (99.97%)\n  avg cycles per packet: 424.20 (7514645678/17712448)\n";
        assert_eq!(parse(text).unwrap(), (7_512_345_678, 2_300_000, 17_712_448));
        assert!(parse("main thread:\n").is_err());
    }
}

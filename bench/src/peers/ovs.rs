//! Open vSwitch with DPDK: vhost-user ports on one PMD core, in a folder and a network namespace of its own.
//!
//! Flows are written as an engineer would who wants them fast: only what decides is matched. Ports count from 1.
//!
//! Cycles are those of `dpif-netdev/pmd-stats-show`: "processing cycles" are the TSC of PMD iterations that received at
//! least one packet, "idle cycles" of those that received none, "packets received" counts both ports.

use crate::jsonrpc::{self, Version};
use crate::process::{Process, Scratch, output_of};
use crate::switch::{Counters, Overlay, Setup, Switch, mac_text};
use crate::tsc;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
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
    /// Starts database and switch with a PMD thread on `core` (the housekeeping threads on core 0) and `ports` ports, set up as
    /// `setup` says.
    ///
    /// # Errors
    /// If it is not installed or does not come up.
    pub fn start(core: usize, ports: usize, setup: &Setup) -> Result<Self> {
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
        if matches!(setup, Setup::Rules(rules) if rules.len() > MANY_RULES) {
            vsctl(
                &[
                    &["--no-wait", "set", "Open_vSwitch", "."],
                    MANY_FLOWS.as_slice(),
                ]
                .concat(),
            )?;
        }
        let control = folder.file("vswitchd.ctl");
        // Bridges are interfaces of the kernel too: they must not be those of anybody else.
        let arguments = [
            "--net".to_owned(),
            vswitchd.display().to_string(),
            db.clone(),
            format!("--unixctl={}", control.display()),
        ];
        let mut vswitchd = Process::start(
            Path::new("unshare"),
            &arguments,
            &environment,
            None,
            &folder.file("vswitchd.log"),
        )?;
        vswitchd.wait_until("control socket", Duration::from_secs(30), || {
            control.exists()
        })?;

        let names: Vec<String> = (0..ports).map(|index| format!("vh{index}")).collect();
        add_bridge(&vsctl, "br0", &[])?;
        for (index, port) in names.iter().enumerate() {
            // The wire is on a bridge of its own, as tunnels need it.
            let wire = matches!(setup, Setup::Overlay) && index == 1;
            if wire {
                let mac = mac_text(Overlay::LOCAL_MAC);
                add_bridge(
                    &vsctl,
                    WIRE_BRIDGE,
                    &[format!("other-config:hwaddr=\"{mac}\"")],
                )?;
            }
            let request = format!("ofport_request={}", index + 1);
            let bridge = if wire { WIRE_BRIDGE } else { "br0" };
            add_port(&vsctl, bridge, port, &["type=dpdkvhostuser", &request])?;
        }
        if matches!(setup, Setup::Overlay) {
            let options = [
                "type=vxlan".to_owned(),
                "ofport_request=2".to_owned(),
                format!("options:remote_ip={}", Overlay::REMOTE),
                format!("options:key={}", Overlay::VNI),
            ];
            add_port(
                &vsctl,
                "br0",
                "vxlan0",
                &options.each_ref().map(String::as_str),
            )?;
        }
        let flows = folder.file("flows");
        fs::write(&flows, flows_of(setup).join("\n") + "\n").context("write the flows")?;
        let bridge = format!("unix:{}", folder.file("br0.mgmt").display());
        output_of("ovs-ofctl", &["del-flows", &bridge], &environment)?;
        output_of(
            "ovs-ofctl",
            &[
                "--bundle",
                "add-flows",
                &bridge,
                &flows.display().to_string(),
            ],
            &environment,
        )?;
        let sockets: Vec<PathBuf> = names.iter().map(|name| folder.file(name)).collect();
        let waited = sockets.clone();
        vswitchd.wait_until("vhost-user sockets", Duration::from_secs(20), || {
            waited.iter().all(|socket| socket.exists())
        })?;
        let switch = Self {
            vswitchd,
            _ovsdb: ovsdb,
            control,
            sockets,
            _folder: folder,
        };
        if matches!(setup, Setup::Overlay) {
            switch.join_underlay()?;
        }
        Ok(switch)
    }

    /// Gives the wire's bridge its address, in the switch's namespace, and tells it where the far end is.
    fn join_underlay(&self) -> Result<()> {
        let pid = self.vswitchd.pid().to_string();
        let address = format!("{}/24", Overlay::LOCAL);
        for arguments in [
            ["address", "add", &address, "dev", WIRE_BRIDGE].as_slice(),
            &["link", "set", WIRE_BRIDGE, "up"],
        ] {
            output_of(
                "nsenter",
                &[&["-t", &pid, "-n", "ip"], arguments].concat(),
                &[],
            )?;
        }
        let (remote, mac) = (Overlay::REMOTE.to_string(), mac_text(Overlay::REMOTE_MAC));
        self.control("tnl/arp/set", &[WIRE_BRIDGE, &remote, &mac])?;
        Ok(())
    }

    /// What `ovs-appctl COMMAND ARGUMENTS...` prints.
    ///
    /// # Errors
    /// If the switch does not answer, or refuses.
    pub fn control(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let answer = jsonrpc::call(&self.control, Version::V1, command, &json!(arguments))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
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
        let answer = self.control("dpif-netdev/pmd-stats-show", &[])?;
        let after = tsc::now();
        let (busy, idle, rx_packets) = parse(&answer)?;
        // The PMD's counters were read somewhere between the two; the middle is off by half of that at most.
        Ok(Counters {
            tsc: before + (after - before) / 2,
            busy,
            idle,
            rx_packets,
        })
    }

    fn cached_decisions(&mut self) -> Result<Option<u64>> {
        let text = self.control("upcall/show", &[])?;
        current_flows(&text)
            .map(Some)
            .with_context(|| format!("upcall/show: {text:?}"))
    }

    fn forget_connections(&mut self) -> Result<()> {
        self.control("dpctl/flush-conntrack", &[])?;
        Ok(())
    }
}

/// Rules up to which nothing has to be set for the megaflows to fit.
const MANY_RULES: usize = 8192;
/// A cache for millions: the limit of megaflows grows by a thousand with every round of revalidation, up to a setting, so rounds are made short; and
/// megaflows live on while the switch is stopped.
const MANY_FLOWS: [&str; 3] = [
    "other_config:flow-limit=8000000",
    "other_config:max-revalidator=50",
    "other_config:max-idle=300000",
];
const WIRE_BRIDGE: &str = "br-wire";

type Vsctl<'a> = dyn Fn(&[&str]) -> Result<String> + 'a;

fn add_bridge(vsctl: &Vsctl<'_>, name: &str, settings: &[String]) -> Result<()> {
    let mut arguments = vec![
        "add-br",
        name,
        "--",
        "set",
        "bridge",
        name,
        "datapath_type=netdev",
    ];
    arguments.extend(settings.iter().map(String::as_str));
    vsctl(&arguments)?;
    Ok(())
}

fn add_port(vsctl: &Vsctl<'_>, bridge: &str, name: &str, settings: &[&str]) -> Result<()> {
    let mut arguments = vec!["add-port", bridge, name, "--", "set", "Interface", name];
    arguments.extend(settings);
    vsctl(&arguments)?;
    Ok(())
}

/// The flows of the bridge that the guests are on.
fn flows_of(setup: &Setup) -> Vec<String> {
    let texts: &[&str] = match setup {
        Setup::PortToPort | Setup::Overlay => {
            &["in_port=1,actions=output:2", "in_port=2,actions=output:1"]
        }
        Setup::Learning => &["actions=NORMAL"],
        Setup::Rules(rules) => return rules.iter().map(|rule| rule.openflow()).collect(),
        // What is new may only come from the first port; what belongs to a connection goes to the other side.
        Setup::Conntrack => &[
            "table=0,ip,ct_state=-trk,actions=ct(table=1,zone=5)",
            "table=1,ip,in_port=1,ct_state=+trk+new,actions=ct(commit,zone=5),output:2",
            "table=1,ip,in_port=1,ct_state=+trk+est,actions=output:2",
            "table=1,ip,in_port=2,ct_state=+trk+est,actions=output:1",
        ],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Of `upcall/show`: `flows : (current 4097) (avg 4097) (max 4097) (limit 200000)`.
fn current_flows(text: &str) -> Option<u64> {
    let (_, after) = text.split_once("(current ")?;
    after.split_once(')')?.0.parse().ok()
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

    #[test]
    fn megaflows_of_a_real_answer() {
        let text = "netdev@ovs-netdev:\n  flows         : (current 4097) (avg 4097) (max 4097) (limit 200000)\n  offloaded flows : 0\n";
        assert_eq!(current_flows(text), Some(4097));
        assert_eq!(current_flows(""), None);
    }
}

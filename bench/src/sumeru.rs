//! The Sumeru daemon as a bench starts it: the only module that knows its command line, configuration and RPC.
//!
//! RPC is JSON-RPC 2.0 over a Unix socket. Objects are made by the configuration file, so that what is measured is
//! what a user's configuration gives.

use crate::jsonrpc::{self, Version};
use crate::process::{Process, Scratch};
use crate::switch::{Counters, Overlay, Setup, Switch, mac_text};
use crate::tsc;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an lcore does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Sleep until kicked, after spinning a little: the default of the daemon.
    Adaptive,
    /// Never sleep.
    AlwaysSpin,
}

/// What a volume is.
#[derive(Debug, Clone)]
pub enum Volume {
    /// Answers at once.
    Null {
        /// Bytes.
        size: u64,
    },
    /// In the daemon's memory.
    Memory {
        /// Bytes.
        size: u64,
    },
    /// In a file, past the page cache.
    File {
        /// Its path.
        path: PathBuf,
    },
}

/// A configuration under construction.
#[derive(Debug, Clone)]
pub struct Configuration {
    node: String,
    objects: String,
}

impl Configuration {
    /// A node with one lcore.
    pub fn new(core: usize, poll: Poll) -> Self {
        let poll = match poll {
            Poll::Adaptive => "adaptive",
            Poll::AlwaysSpin => "always-spin",
        };
        Self {
            node: format!("[node]\nname = \"bench\"\nlcores = [{core}]\npoll = \"{poll}\"\n"),
            objects: String::new(),
        }
    }

    /// The whole file.
    pub fn text(&self) -> String {
        format!("{}{}", self.node, self.objects)
    }

    /// The node's tunnel end point behind the port `uplink`, which [`Configuration::uplink`] makes.
    pub fn underlay(&mut self, address: &str, uplink: &str) {
        let _ = write!(
            self.node,
            "underlay = [\"{address}\"]\nuplink = \"{uplink}\"\n"
        );
    }

    /// A vhost-user port that listens at `socket`.
    pub fn port(&mut self, name: &str, index: u16, socket: &Path) {
        let _ = write!(
            self.objects,
            "\n[[port]]\nname = \"{name}\"\nkind = \"vhost-user\"\nindex = {index}\nsocket = \"{}\"\n",
            socket.display()
        );
    }

    /// More fields of the port that was made last.
    fn port_fields(&mut self, fields: &[(&str, &str)]) {
        for (name, value) in fields {
            let _ = writeln!(self.objects, "{name} = {value}");
        }
    }

    /// A vhost-user port that listens at `socket` and leads to the other nodes.
    pub fn uplink(&mut self, name: &str, index: u16, socket: &Path, mac: &str) {
        self.port(name, index, socket);
        self.port_fields(&[
            ("uplink", "true"),
            ("mac", &format!("\"{mac}\"")),
            ("mtu", "9216"),
        ]);
    }

    /// A vhost-user port that listens at `socket`, of a guest in `network`.
    pub fn guest(&mut self, name: &str, index: u16, socket: &Path, network: &str) {
        self.port(name, index, socket);
        self.port_fields(&[("network", &format!("\"{network}\""))]);
    }

    /// A network; `fields` are more of its lines.
    pub fn network(&mut self, name: &str, vni: u32, fields: &str) {
        let _ = write!(
            self.objects,
            "\n[[network]]\nname = \"{name}\"\nvni = {vni}\n{fields}"
        );
    }

    /// A rule of `port`, as rte_flow writes it.
    pub fn rule(&mut self, port: &str, rule: &str) {
        let _ = write!(
            self.objects,
            "\n[[flow]]\nport = \"{port}\"\nrule = \"{rule}\"\n"
        );
    }

    /// A volume, and a controller that serves it at `socket`.
    pub fn disk(&mut self, name: &str, volume: &Volume, socket: &Path) {
        let kind = match volume {
            Volume::Null { size } => format!("kind = \"null\"\nsize = {size}"),
            Volume::Memory { size } => format!("kind = \"memory\"\nsize = {size}"),
            Volume::File { path } => format!(
                "kind = \"file\"\npath = \"{}\"\ndirect = true",
                path.display()
            ),
        };
        let _ = write!(
            self.objects,
            "\n[[volume]]\nname = \"{name}\"\n{kind}\n\n[[controller]]\nname = \"{name}\"\nvolume = \"{name}\"\nsocket = \"{}\"\nqueue_size = 1024\n",
            socket.display()
        );
    }
}

/// Counters of one lcore, as `stats.lcore` gives them; cycles are TSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct LcoreStats {
    /// Its thread.
    pub tid: u32,
    /// Since it was started.
    pub tsc_elapsed: u64,
    /// In loops that moved something.
    pub busy_cycles: u64,
    /// In loops that found nothing.
    pub idle_cycles: u64,
    /// Asleep.
    pub sleep_cycles: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Decisions in its cache of wildcarded flows, if the daemon tells.
    #[serde(default)]
    pub cached_decisions: Option<u64>,
    /// Block requests completed.
    pub blk_ios: u64,
}

/// How long a daemon may take to come up, and how many bytes of its configuration it must get through in a second.
const PATIENCE: Duration = Duration::from_secs(10);
const CONFIGURED_PER_SECOND: u64 = 64 << 10;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    rpc: PathBuf,
    folder: Scratch,
}

impl Daemon {
    /// Starts the daemon, with everything it writes in a folder of its own, and waits until its RPC answers. With `confine`
    /// every thread of it stays on that core.
    ///
    /// # Errors
    /// If it is not built, refuses its configuration, or does not come up.
    pub fn start(
        configuration: &Configuration,
        folder: Scratch,
        confine: Option<usize>,
    ) -> Result<Self> {
        let config = folder.file("node.toml");
        fs::write(&config, configuration.text())
            .with_context(|| format!("write {}", config.display()))?;
        let rpc = folder.file("rpc.sock");
        let arguments: Vec<String> = [
            "daemon".to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
            "--rpc".to_owned(),
            rpc.display().to_string(),
            "--store".to_owned(),
            folder.file("store.db").display().to_string(),
        ]
        .to_vec();
        let mut process = Process::start(
            &executable()?,
            &arguments,
            &[],
            confine,
            &folder.file("daemon.log"),
        )?;
        // It answers when it has carried out all of its configuration.
        let patience = PATIENCE
            + Duration::from_secs(configuration.objects.len() as u64 / CONFIGURED_PER_SECOND);
        process.wait_until("RPC socket", patience, || UnixStream::connect(&rpc).is_ok())?;
        Ok(Self {
            process,
            rpc,
            folder,
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The path of something in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// Calls one method.
    ///
    /// # Errors
    /// If it does not answer within ten seconds, or answers with an error.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.process.check()?;
        jsonrpc::call(&self.rpc, Version::V2, method, parameters)
    }

    /// The only lcore's counters.
    ///
    /// # Errors
    /// As [`Daemon::call`]; also if there is not exactly one lcore.
    pub fn lcore(&mut self) -> Result<LcoreStats> {
        let answer = self.call("stats.lcore", &json!({}))?;
        let lcores: Vec<LcoreStats> = serde_json::from_value(answer).context("stats.lcore")?;
        match lcores.as_slice() {
            [lcore] => Ok(*lcore),
            lcores => bail!("stats.lcore: expected one lcore, got {}", lcores.len()),
        }
    }

    /// Its version, in one line.
    ///
    /// # Errors
    /// If it is not built.
    pub fn version() -> Result<String> {
        let text =
            crate::process::output_of(&executable()?.to_string_lossy(), &["--version"], &[])?;
        Ok(text.trim().to_owned())
    }
}

/// `$SUMERU`, or the `sumeru` that was built into the same folder as the bench.
fn executable() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SUMERU") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find the own executable")?;
    let path = own.with_file_name("sumeru");
    if !path.is_file() {
        bail!("the daemon is not built beside the bench; run cargo build --release -p sumeru");
    }
    Ok(path)
}

/// Stateful forwarding, group by group: the rules of [`Setup::Conntrack`] in the daemon's language, by the port that they belong to. All that is
/// IPv4 goes through connection tracking; what is new may only come from the first port; what belongs to a connection goes to the other side.
const CONNTRACK_RULES: [(&str, &str); 5] = [
    (
        "vh0",
        "ingress pattern eth / ipv4 / end actions ct zone 5 group 1 / end",
    ),
    (
        "vh1",
        "ingress pattern eth / ipv4 / end actions ct zone 5 group 1 / end",
    ),
    (
        "vh0",
        "group 1 ingress pattern eth / ipv4 / ct state is +trk+new / end actions ct commit zone 5 / count / port_id id 1 / end",
    ),
    (
        "vh0",
        "group 1 ingress pattern eth / ipv4 / ct state is +trk+est / end actions count / port_id id 1 / end",
    ),
    (
        "vh1",
        "group 1 ingress pattern eth / ipv4 / ct state is +trk+est / end actions count / port_id id 0 / end",
    ),
];
/// The call that removes every tracked connection.
const CONNTRACK_FLUSH: &str = "conntrack.flush";

/// The daemon with some vhost-user ports.
pub struct SumeruSwitch {
    daemon: Daemon,
    sockets: Vec<PathBuf>,
}

impl SumeruSwitch {
    /// Starts it with its lcore on `core`, set up as `setup` says.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(core: usize, ports: u16, poll: Poll, setup: &Setup) -> Result<Self> {
        let folder = Scratch::new("switch")?;
        let names: Vec<String> = (0..ports).map(|index| format!("vh{index}")).collect();
        let sockets: Vec<PathBuf> = names.iter().map(|name| folder.file(name)).collect();
        let mut configuration = Configuration::new(core, poll);
        match setup {
            Setup::Learning => configuration.network("lan", Overlay::VNI, ""),
            Setup::Overlay => {
                configuration.underlay(&format!("{}/24", Overlay::LOCAL), "vh1");
                let (guest, remote) = (mac_text(Overlay::REMOTE_GUEST_MAC), Overlay::REMOTE);
                let fields = format!(
                    "remotes = [\"{remote}\"]\nstatic_macs = [{{ mac = \"{guest}\", remote = \"{remote}\" }}]\n"
                );
                configuration.network("lan", Overlay::VNI, &fields);
            }
            Setup::PortToPort | Setup::Rules(_) | Setup::Conntrack => {}
        }
        for ((index, name), socket) in (0..).zip(&names).zip(&sockets) {
            match setup {
                Setup::Overlay if index == 1 => {
                    configuration.uplink(name, index, socket, &mac_text(Overlay::LOCAL_MAC))
                }
                Setup::Overlay | Setup::Learning => configuration.guest(name, index, socket, "lan"),
                Setup::PortToPort | Setup::Rules(_) | Setup::Conntrack => {
                    configuration.port(name, index, socket)
                }
            }
        }
        match setup {
            Setup::PortToPort => {
                for (port, to) in [("vh0", 1), ("vh1", 0)] {
                    configuration.rule(
                        port,
                        &format!("ingress pattern eth / end actions count / port_id id {to} / end"),
                    );
                }
            }
            Setup::Rules(rules) => {
                for rule in rules.iter() {
                    configuration.rule(&format!("vh{}", rule.from), &rule.rte_flow());
                }
            }
            Setup::Conntrack => {
                for (port, rule) in CONNTRACK_RULES {
                    configuration.rule(port, rule);
                }
            }
            Setup::Learning | Setup::Overlay => {}
        }
        Ok(Self {
            daemon: Daemon::start(&configuration, folder, None)?,
            sockets,
        })
    }
}

impl Switch for SumeruSwitch {
    fn name(&self) -> &'static str {
        "sumeru"
    }

    fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn counters(&mut self) -> Result<Counters> {
        let before = tsc::now();
        let lcore = self.daemon.lcore()?;
        let after = tsc::now();
        // Sleeping is idling too; with always-spin there is none.
        let idle = lcore.idle_cycles + lcore.sleep_cycles;
        Ok(Counters {
            tsc: before + (after - before) / 2,
            busy: lcore.busy_cycles,
            idle,
            rx_packets: lcore.rx_packets,
        })
    }
    fn cached_decisions(&mut self) -> Result<Option<u64>> {
        Ok(self.daemon.lcore()?.cached_decisions)
    }

    fn forget_connections(&mut self) -> Result<()> {
        self.daemon.call(CONNTRACK_FLUSH, &json!({}))?;
        Ok(())
    }
}

//! Everything the demo starts: two namespaces and the wire between them, a daemon in each, three guests.
//!
//! ```text
//!   g1 (blue)          g2 (blue)   g3 (red, the address of g1)
//!      |                   |           |
//!   node 1 ---- veth ---- node 2 ------+      VXLAN: blue is 100, red is 200
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::{
    Config, Daemon, Disk, Guest, Lifetime, Namespace, Nic, Result, boot_all, daemon, process,
    veth_pair,
};

use crate::report::Report;

/// MTU of the tenants' networks at most.
const INNER_MTU: u32 = 9000;
/// Inner Ethernet, VXLAN, UDP and IPv6 headers take 70 bytes of it; the rest is slack.
const WIRE_MTU: u32 = 9216;
const WIRE: &str = "wire";
const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const DISK_MIB: u64 = 64;
/// Memory of a guest in MiB.
const GUEST_MEMORY: u32 = 224;
/// The folder of a demo that is left running.
const KEPT: &str = "/tmp/sumeru-demo";

/// A guest's place: the node it is on, its tenant, its address.
pub struct Seat {
    pub name: &'static str,
    pub node: usize,
    pub network: &'static str,
    pub mac: &'static str,
    pub address: &'static str,
}

/// The three guests.
pub const SEATS: [Seat; 3] = [
    Seat {
        name: "g1",
        node: 0,
        network: "blue",
        mac: "52:54:00:00:01:01",
        address: "10.0.0.1",
    },
    Seat {
        name: "g2",
        node: 1,
        network: "blue",
        mac: "52:54:00:00:01:02",
        address: "10.0.0.2",
    },
    Seat {
        name: "g3",
        node: 1,
        network: "red",
        mac: "52:54:00:00:02:01",
        address: "10.0.0.1",
    },
];

/// What runs. Fields are in the order of ending.
pub struct Site {
    /// In the order of [`SEATS`].
    pub guests: Vec<Guest>,
    /// Of node 1 and node 2.
    pub daemons: Vec<Daemon>,
    namespaces: Vec<Namespace>,
    folder: SocketFolder,
}

impl Site {
    /// Starts all of it; with `keep` in a way that can be left running.
    pub fn start(keep: bool, report: &Report) -> Result<Self> {
        let lifetime = if keep {
            Lifetime::Free
        } else {
            Lifetime::Bound
        };
        let folder = if keep {
            SocketFolder::at(PathBuf::from(KEPT))?
        } else {
            SocketFolder::create("demo")?
        };

        report.step("two network namespaces, a veth pair between them");
        let namespaces = ["node1", "node2"]
            .iter()
            .map(|label| match keep {
                true => Namespace::named(&format!("sumeru-demo-{label}")),
                false => Namespace::create(label),
            })
            .collect::<Result<Vec<_>>>()?;
        veth_pair((&namespaces[0], WIRE), (&namespaces[1], WIRE), WIRE_MTU)?;

        report.step("a sumeru daemon in each");
        let daemons = namespaces
            .iter()
            .enumerate()
            .map(|(node, namespace)| start_daemon(node, namespace, folder.path(), lifetime))
            .collect::<Result<Vec<_>>>()?;

        let accelerator = sumeru_e2e::qemu::choose_accelerator(Default::default())?;
        report.step(&format!(
            "three guests with a stock Debian kernel boot under QEMU ({})",
            accelerator.name()
        ));
        let guests = SEATS
            .iter()
            .map(|seat| {
                Guest::builder(seat.name)
                    .memory(GUEST_MEMORY)
                    .nic(Nic::new(net_socket(folder.path(), seat), seat.mac))
                    .disk(Disk::new(blk_socket(folder.path(), seat)))
                    .sockets(folder.path().join(seat.name))
                    .lifetime(lifetime)
            })
            .collect();
        let guests = boot_all(guests)?;
        Ok(Self {
            guests,
            daemons,
            namespaces,
            folder,
        })
    }

    /// Leaves everything running and prints how to look around and how to stop it.
    pub fn keep(self) -> Result<()> {
        let program = daemon::program()?.display().to_string();
        let path = self.folder.path().to_path_buf();
        let stop = path.join("stop");
        let write = std::fs::write(&stop, self.stop_script());
        write.map_err(|source| sumeru_e2e::Error::Io {
            what: format!("writing {}", stop.display()),
            source,
        })?;
        println!("\nLeft running. To look around:");
        for (node, daemon) in self.daemons.iter().enumerate() {
            println!(
                "  {program} --rpc {} top      # node {}",
                daemon.rpc().display(),
                node + 1
            );
        }
        let (g1, g2) = (&SEATS[0], &SEATS[1]);
        println!(
            "  {program} --rpc {} trace {} eth src {} dst {} / ipv4 src {} dst {} / udp dst 53",
            self.daemons[0].rpc().display(),
            g1.name,
            g1.mac,
            g2.mac,
            g1.address,
            g2.address
        );
        for guest in &self.guests {
            println!(
                "  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{}      # console of {}, Ctrl-] leaves",
                guest.console_socket().display(),
                guest.name()
            );
        }
        println!("To stop it:\n  sh {}", stop.display());
        self.guests.into_iter().for_each(Guest::keep);
        self.daemons.into_iter().for_each(Daemon::keep);
        self.namespaces.into_iter().for_each(Namespace::keep);
        self.folder.keep();
        Ok(())
    }

    /// A shell script that ends what this run has started, and only that: a pid that is somebody else's by then does
    /// not have the demo's folder in its command line.
    fn stop_script(&self) -> String {
        let folder = self.folder.path().display();
        let guests = self.guests.iter().map(|guest| guest.process().pid());
        let daemons = self.daemons.iter();
        let daemons = daemons.filter_map(|daemon| daemon.process().map(process::Process::pid));
        let mut script = String::from("#!/bin/sh\n# Ends the demo that was left running.\n");
        for pid in guests.chain(daemons) {
            let _ = writeln!(
                script,
                "if grep -q '{folder}/' /proc/{pid}/cmdline 2>/dev/null; then kill {pid}; fi"
            );
        }
        script += "sleep 1\n";
        for namespace in &self.namespaces {
            let _ = writeln!(script, "ip netns delete {}", namespace.name());
        }
        let _ = writeln!(script, "rm -rf '{folder}'");
        script
    }
}

fn net_socket(folder: &Path, seat: &Seat) -> PathBuf {
    folder.join(format!("{}.net", seat.name))
}

fn blk_socket(folder: &Path, seat: &Seat) -> PathBuf {
    folder.join(format!("{}.blk", seat.name))
}

fn start_daemon(
    node: usize,
    namespace: &Namespace,
    folder: &Path,
    lifetime: Lifetime,
) -> Result<Daemon> {
    let name = format!("node{}", node + 1);
    // A processor each where there are two.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let other = UNDERLAY[1 - node];
    let mut config = Config::new(&name, (node % processors) as u16)
        .uplink(
            "af-packet",
            WIRE,
            &format!("{}/24", UNDERLAY[node]),
            WIRE_MTU,
        )
        .network("blue", 100, &[other], INNER_MTU);
    if SEATS
        .iter()
        .any(|seat| seat.node == node && seat.network == "red")
    {
        // Red's broadcasts go to node 1 too, which knows no such tenant and has to say so.
        config = config.network("red", 200, &[other], INNER_MTU);
    }
    for seat in SEATS.iter().filter(|seat| seat.node == node) {
        config = config
            .port(seat.name, &net_socket(folder, seat), seat.network, seat.mac)
            .disk(
                seat.name,
                &folder.join(format!("{}.img", seat.name)),
                DISK_MIB,
                &blk_socket(folder, seat),
            );
    }
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, config.text()).map_err(|source| sumeru_e2e::Error::Io {
        what: format!("writing {}", path.display()),
        source,
    })?;
    let rpc = folder.join(format!("{name}.rpc"));
    Daemon::start(&name, Some(namespace), &path, &rpc, lifetime)
}

/// What is in the way of a demo that is to be left running.
pub fn in_the_way() -> Option<String> {
    Path::new(KEPT).exists().then(|| {
        format!("a demo was left running or was killed: run `sh {KEPT}/stop`, or remove {KEPT}")
    })
}

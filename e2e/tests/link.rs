//! Bonds against Linux's own: a stock guest's bonding driver at the far end of two cables, in each mode, with a tunnel on top and a cable that is
//! pulled under traffic.

#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::workload::SHORT;
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Process, process};

const UNDERLAY_MTU: u32 = 1600;
const MTU: u32 = 1450;
const FAR: &str = "10.0.0.2";

/// A guest with two cables to a namespace.
struct Site {
    folder: SocketFolder,
    ours: Namespace,
    guest: Guest,
    wires: [String; 2],
}

impl Site {
    fn new() -> Self {
        let ours = Namespace::create("ours").unwrap();
        let wires = [1, 2].map(|number| format!("bw{number}-{}", std::process::id()));
        let kernel = Initramfs::new(Kernel::V6_1)
            .module("bonding")
            .module("vxlan")
            .program("ip")
            .program("iperf3");
        let mut builder = Guest::builder("far").memory(256).initramfs(kernel);
        for (number, wire) in (1..).zip(&wires) {
            let netdev = format!("tap,id=wire{number},ifname={wire},script=no,downscript=no");
            let device = format!(
                "virtio-net-pci,id=nic{number},netdev=wire{number},mac=52:54:00:00:00:0{number},vectors=0,host_mtu={UNDERLAY_MTU},speed=10000,duplex=full"
            );
            for argument in ["-netdev", &netdev, "-device", &device] {
                builder = builder.argument(argument);
            }
        }
        let guest = builder.boot().unwrap();
        // LACP of Linux wants to know that a link is full duplex. The cables are made where QEMU runs, and moved to the daemon's side once QEMU holds the other ends.
        for wire in &wires {
            let mut moved = Command::new("ip");
            moved.args(["link", "set", wire, "netns", ours.name()]);
            process::run(&mut moved).unwrap();
            let mtu = UNDERLAY_MTU.to_string();
            ours.ip(&["link", "set", wire, "mtu", &mtu, "up"]).unwrap();
        }
        Self {
            folder: SocketFolder::create("link").unwrap(),
            ours,
            guest,
            wires,
        }
    }

    /// The guest's bond anew in a mode, with a tunnel on top.
    fn bond_the_guest(&self, mode: &str) {
        let script = format!(
            "set -e; ip='/bin/ip'; $ip link del vx0 2>/dev/null || true; $ip link del bond0 2>/dev/null || true; \
             $ip link add bond0 type bond mode {mode} miimon 50; \
             for nic in eth0 eth1; do $ip link set $nic down; $ip link set $nic master bond0; done; \
             $ip link set bond0 mtu {UNDERLAY_MTU} up; $ip address add 192.0.2.2/24 dev bond0; \
             $ip link add vx0 type vxlan id 100 remote 192.0.2.1 local 192.0.2.2 dstport 4789 noudpcsum; \
             $ip link set vx0 mtu {MTU} up; $ip address add {FAR}/24 dev vx0"
        );
        self.guest.check(&script, SHORT).unwrap();
    }

    fn daemon(&self, fields: &[(&str, &str)]) -> Daemon {
        let members = format!("[{}, {}]", quoted(&self.wires[0]), quoted(&self.wires[1]));
        let mut bond: Vec<(&str, &dyn Display)> = vec![("members", &members)];
        bond.extend(
            fields
                .iter()
                .map(|(key, value)| (*key, value as &dyn Display)),
        );
        let config = Config::new("n1", 0)
            .bond_uplink("192.0.2.1/24", UNDERLAY_MTU, &bond)
            .network("blue", 100, &["192.0.2.2"], MTU)
            .table(
                "port",
                &[
                    ("name", &quoted("tap")),
                    ("kind", &quoted("tap")),
                    ("ifname", &quoted("tap0")),
                    ("network", &quoted("blue")),
                    ("mtu", &MTU),
                ],
            );
        let at = |name: &str| self.folder.path().join(name);
        std::fs::write(at("n1.toml"), config.text()).unwrap();
        let daemon = Daemon::start(
            "n1",
            Some(&self.ours),
            &at("n1.toml"),
            &at("rpc"),
            Lifetime::Bound,
        )
        .unwrap();
        let address = ["address", "add", "10.0.0.1/24", "dev", "tap0"];
        self.ours.ip(&address).unwrap();
        daemon
    }

    /// Pulls a cable out, or plugs it in again: both ends see it.
    fn plug(&self, number: usize, up: bool) {
        let wire = &self.wires[number - 1];
        let word = if up { "up" } else { "down" };
        self.ours.ip(&["link", "set", wire, word]).unwrap();
        let link = json!({ "name": format!("nic{number}"), "up": up });
        self.guest
            .qmp()
            .unwrap()
            .execute("set_link", &link)
            .unwrap();
    }

    fn reaches(&self, daemon: &Daemon) {
        let all = [
            "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", "1422", FAR,
        ];
        until(daemon, "the far end answers", || {
            let output = self.ours.run("ping", &all).unwrap();
            output.stdout.contains("3 received")
        });
    }

    /// Streams to the guest while `act` is done after some seconds; the bits per second of each second.
    fn stream_through(&self, act: impl FnOnce()) -> Vec<f64> {
        let mut client = self.ours.command("iperf3");
        client.args(["-J", "-c", FAR, "-P", "12", "-t", "12"]);
        let log = place::logs("link").unwrap().join("client.json");
        let client = Process::spawn("iperf3", client, &log, Lifetime::Bound).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        act();
        client.wait(Duration::from_secs(60)).unwrap();
        let report = std::fs::read_to_string(&log).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let intervals = report["intervals"].as_array().unwrap();
        intervals
            .iter()
            .map(|interval| interval["sum"]["bits_per_second"].as_f64().unwrap())
            .collect()
    }
}

fn until(daemon: &Daemon, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        let told = || {
            let commands: [&[&str]; 4] = [
                &["port", "show", "uplink"],
                &["stats", "port"],
                &["stats", "drop"],
                &["neighbour", "list"],
            ];
            commands.map(|command| daemon.cli(command).map(|output| output.stdout))
        };
        assert!(Instant::now() < deadline, "{what}: {:#?}", told());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn uplink(daemon: &Daemon) -> Value {
    daemon.cli_json(&["port", "show", "uplink"]).unwrap()
}

fn in_use(daemon: &Daemon) -> usize {
    let port = uplink(daemon);
    let members = port["state"]["bond"]["members"].as_array().unwrap();
    members.iter().filter(|m| m["in_use"] == true).count()
}

/// Frames that left by each member.
fn sent(daemon: &Daemon) -> Vec<u64> {
    let port = uplink(daemon);
    let members = port["state"]["bond"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|m| m["tx_packets"].as_u64().unwrap())
        .collect()
}

fn print(daemon: &Daemon, command: &[&str]) {
    let output = daemon.cli(command).unwrap().success("sumeru").unwrap();
    println!("{}\n{output}", command.join(" "));
}

#[test]
fn bonds_with_a_stock_kernel() {
    let site = Site::new();
    site.guest.check("iperf3 -s -D", SHORT).unwrap();

    // 802.3ad: both ends agree, all links carry, and a cable pulled under traffic leaves the rest to the other.
    site.bond_the_guest("802.3ad lacp_rate fast xmit_hash_policy layer3+4");
    let mut daemon = site.daemon(&[("lacp_rate", "\"fast\"")]);
    until(&daemon, "both links are aggregated", || {
        in_use(&daemon) == 2
    });
    site.reaches(&daemon);
    print(&daemon, &["port", "show", "uplink"]);
    let state = &uplink(&daemon)["state"]["bond"];
    let theirs = site
        .guest
        .check("cat /sys/class/net/bond0/address", SHORT)
        .unwrap();
    assert_eq!(state["aggregator"]["partner"], theirs.trim(), "{state}");
    assert_eq!(state["aggregator"]["ports"], 2, "{state}");
    let seen = site.guest.check("cat /sys/class/net/bond0/bonding/ad_partner_mac /sys/class/net/bond0/bonding/ad_num_ports", SHORT).unwrap();
    let ours = state["members"][0]["lacp"]["actor"]["system"]
        .as_str()
        .unwrap();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), [ours, "2"]);
    let rates = site.stream_through(|| site.plug(1, false));
    println!("802.3ad, a cable pulled after 4 s: {rates:.0?}");
    assert!(
        rates.iter().rev().take(4).all(|rate| *rate > 1e5),
        "{rates:?}"
    );
    assert_eq!(in_use(&daemon), 1);
    let used = sent(&daemon);
    assert!(
        used.iter().all(|packets| *packets > 100),
        "both carried: {used:?}"
    );
    site.plug(1, true);
    until(&daemon, "the link is aggregated again", || {
        in_use(&daemon) == 2
    });
    site.reaches(&daemon);
    let failures = &uplink(&daemon)["state"]["bond"]["members"][0]["link_failures"];
    assert_eq!(*failures, 1);
    daemon.stop().unwrap();

    // Active-backup: one carries, the other takes over and says so.
    site.bond_the_guest("active-backup");
    let primary = quoted(&site.wires[0]);
    let mut daemon = site.daemon(&[("bond_mode", "\"active-backup\""), ("primary", &primary)]);
    let active = |daemon: &Daemon| uplink(daemon)["state"]["bond"]["active"].clone();
    until(&daemon, "the primary is active", || {
        active(&daemon) == site.wires[0].as_str()
    });
    site.reaches(&daemon);
    let rates = site.stream_through(|| site.plug(1, false));
    println!("active-backup, the cable pulled after 4 s: {rates:.0?}");
    assert!(
        rates.iter().rev().take(4).all(|rate| *rate > 1e5),
        "{rates:?}"
    );
    assert_eq!(active(&daemon), site.wires[1].as_str());
    print(&daemon, &["port", "show", "uplink"]);
    site.plug(1, true);
    until(&daemon, "the primary is active again", || {
        active(&daemon) == site.wires[0].as_str()
    });
    daemon.stop().unwrap();

    // Balance-xor: both carry without a word between the ends.
    site.bond_the_guest("balance-xor xmit_hash_policy layer3+4");
    let mut daemon = site.daemon(&[("bond_mode", "\"balance-xor\"")]);
    site.reaches(&daemon);
    assert_eq!(in_use(&daemon), 2);
    let rates = site.stream_through(|| site.plug(2, false));
    println!("balance-xor, a cable pulled after 4 s: {rates:.0?}");
    assert!(
        rates.iter().rev().take(4).all(|rate| *rate > 1e5),
        "{rates:?}"
    );
    site.plug(2, true);
    until(&daemon, "both are used again", || in_use(&daemon) == 2);
    print(&daemon, &["event", "list"]);
    daemon.stop().unwrap();
}

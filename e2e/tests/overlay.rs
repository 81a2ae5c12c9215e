//! Overlays against Linux's own: a stock guest's geneve(8), gretap and vxlan devices at the far end of the daemon's uplink, all at once.

#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::process::Command;
use std::time::{Duration, Instant};

use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::SHORT;
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, process};

const UNDERLAY_MTU: u32 = 1600;
/// Of the Geneve network; the guest's device does not know it, and need not: it is not critical.
const OPTION: &str = "0x0102:0x03:00112233";
/// Overlay, identifier, and the guest's command for it.
const OVERLAYS: [(&str, u32, &str); 3] = [
    ("geneve", 100, "geneve id 100 remote 192.0.2.1 noudpcsum"),
    (
        "gre",
        101,
        "gretap key 101 remote 192.0.2.1 local 192.0.2.2",
    ),
    (
        "vxlan",
        102,
        "vxlan id 102 remote 192.0.2.1 local 192.0.2.2 dstport 4789 noudpcsum",
    ),
];

fn reaches(from: &Namespace, daemon: &Daemon, arguments: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut all = vec!["-c", "3", "-i", "0.2", "-W", "2"];
    all.extend(arguments);
    loop {
        let output = from.run("ping", &all).unwrap();
        if output.stdout.contains("3 received") {
            return;
        }
        let told = || {
            let commands: [&[&str]; 3] = [
                &["stats", "stage"],
                &["stats", "drop"],
                &["neighbour", "list"],
            ];
            commands.map(|command| daemon.cli(command).map(|output| output.stdout))
        };
        assert!(
            Instant::now() < deadline,
            "{arguments:?}: {output:?}, {:#?}",
            told()
        );
    }
}

#[test]
fn geneve_gre_and_vxlan_reach_a_stock_kernel() {
    let folder = SocketFolder::create("overlay").unwrap();
    let at = |name: &str| folder.path().join(name);
    let ours = Namespace::create("ours").unwrap();
    // The guest's wire: it is made where QEMU runs, and moved to the daemon's side once QEMU holds the other end.
    let wire = format!("ov{}", std::process::id());
    let modules = Initramfs::new(Kernel::V6_1)
        .module("geneve")
        .module("ip_gre")
        .module("vxlan")
        .program("ip");
    let guest = Guest::builder("far")
        .memory(256)
        .initramfs(modules)
        .argument("-netdev")
        .argument(&format!(
            "tap,id=wire,ifname={wire},script=no,downscript=no"
        ))
        .argument("-device")
        .argument("virtio-net-pci,netdev=wire,mac=52:54:00:00:00:02,vectors=0,host_mtu=1600")
        .boot()
        .unwrap();
    let mut moved = Command::new("ip");
    moved.args(["link", "set", &wire, "netns", ours.name()]);
    process::run(&mut moved).unwrap();
    ours.ip(&["link", "set", &wire, "mtu", &UNDERLAY_MTU.to_string(), "up"])
        .unwrap();
    // The shell's own ip knows no tunnels.
    let mut script = String::from("ip link set eth0 up; ip address add 192.0.2.2/24 dev eth0; ");
    let mut config = Config::new("n1", 0).uplink("af-packet", &wire, "192.0.2.1/24", UNDERLAY_MTU);
    for (number, (overlay, vni, device)) in (1..).zip(OVERLAYS) {
        script += &format!(
            "/bin/ip link add o{number} type {device}; ip link set o{number} mtu 1450 up; ip address add 10.0.{number}.2/24 dev o{number}; "
        );
        let fields: [(&str, &dyn Display); 5] = [
            ("name", &quoted(overlay)),
            ("vni", &vni),
            ("overlay", &quoted(overlay)),
            ("remotes", &"[\"192.0.2.2\"]"),
            ("mtu", &1450),
        ];
        let port: [(&str, &dyn Display); 5] = [
            ("name", &quoted(&format!("t{number}"))),
            ("kind", &quoted("tap")),
            ("ifname", &quoted(&format!("tap{number}"))),
            ("network", &quoted(overlay)),
            ("mtu", &1450),
        ];
        let options = format!("[{}]", quoted(OPTION));
        let mut fields = fields.to_vec();
        if overlay == "geneve" {
            fields.push(("geneve_options", &options));
        }
        config = config.table("network", &fields).table("port", &port);
    }
    guest.check(&format!("set -e; {script}"), SHORT).unwrap();
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon = Daemon::start(
        "n1",
        Some(&ours),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    for (number, (overlay, _, _)) in (1..).zip(OVERLAYS) {
        let tap = format!("tap{number}");
        ours.ip(&["link", "set", &tap, "mtu", "1450", "up"])
            .unwrap();
        ours.ip(&[
            "address",
            "add",
            &format!("10.0.{number}.1/24"),
            "dev",
            &tap,
        ])
        .unwrap();
        println!("{overlay}");
        let far = format!("10.0.{number}.2");
        reaches(&ours, &daemon, &[&far]);
        // A packet of exactly the MTU, which may not be cut.
        reaches(&ours, &daemon, &["-M", "do", "-s", "1422", &far]);
        guest
            .check(&format!("ping -c 3 -W 5 10.0.{number}.1"), SHORT)
            .unwrap();
    }
    daemon.stop().unwrap();
}

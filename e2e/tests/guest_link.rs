//! The link of a stock guest's virtio-net device: set by hand, and following the cable of the daemon's uplink.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use sumeru_e2e::Nic;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::{self, SHORT};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, veth_pair};

const WIRE: &str = "wire";
const MAC: &str = "52:54:00:00:00:01";

fn carrier(guest: &Guest, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = guest
            .check("cat /sys/class/net/eth0/carrier", SHORT)
            .unwrap();
        if shown.trim() == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "carrier {shown:?}, expected {wanted}"
        );
    }
}

/// The guest reaches the far end of the tunnel.
fn reaches(guest: &Guest) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while workload::ping(guest, "10.0.0.2", 3, 56).unwrap() < 3 {
        assert!(Instant::now() < deadline, "10.0.0.2 does not answer");
    }
}

fn set_link(daemon: &Daemon, link: &str) {
    let output = daemon
        .cli(&["port", "update", "vm", "--link", link])
        .unwrap();
    output.success("port update").unwrap();
}

#[test]
fn a_guest_sees_its_link_go_and_come() {
    let folder = SocketFolder::create("guest-link").unwrap();
    let at = |name: &str| folder.path().join(name);
    let (ours, theirs) = (
        Namespace::create("ours").unwrap(),
        Namespace::create("theirs").unwrap(),
    );
    veth_pair((&ours, WIRE), (&theirs, WIRE), 1600).unwrap();
    theirs
        .ip(&["address", "add", "192.0.2.2/24", "dev", WIRE])
        .unwrap();
    theirs
        .ip(&[
            "link",
            "add",
            "vx0",
            "type",
            "vxlan",
            "id",
            "100",
            "local",
            "192.0.2.2",
            "remote",
            "192.0.2.1",
            "dstport",
            "4789",
            "dev",
            WIRE,
        ])
        .unwrap();
    theirs
        .ip(&["link", "set", "vx0", "mtu", "1450", "up"])
        .unwrap();
    theirs
        .ip(&["address", "add", "10.0.0.2/24", "dev", "vx0"])
        .unwrap();
    let config = Config::new("n1", 0)
        .uplink("af-packet", WIRE, "192.0.2.1/24", 1600)
        .network("blue", 100, &["192.0.2.2"], 1450)
        .port("vm", &at("vm.sock"), "blue", MAC);
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon = Daemon::start(
        "n1",
        Some(&ours),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    let guest = Guest::builder("vm")
        .nic(Nic::new(at("vm.sock"), MAC))
        .boot()
        .unwrap();
    workload::address(&guest, "10.0.0.1/24", 1450).unwrap();
    reaches(&guest);
    carrier(&guest, "1");

    // By hand.
    set_link(&daemon, "down");
    carrier(&guest, "0");
    let port = daemon.cli_json(&["port", "show", "vm"]).unwrap();
    assert_eq!(port["state"]["link"]["up"], false, "{port}");
    set_link(&daemon, "up");
    carrier(&guest, "1");
    reaches(&guest);

    // As the uplink's cable.
    set_link(&daemon, "uplink");
    carrier(&guest, "1");
    theirs.ip(&["link", "set", WIRE, "down"]).unwrap();
    carrier(&guest, "0");
    theirs.ip(&["link", "set", WIRE, "up"]).unwrap();
    carrier(&guest, "1");
    reaches(&guest);
    let events = daemon.cli_json(&["event", "list"]).unwrap();
    let uplink = |what: &str| {
        let events = events.as_array().unwrap().iter();
        events
            .filter(|e| e["object"] == "port uplink" && e["what"] == what)
            .count()
    };
    assert_eq!((uplink("down"), uplink("up")), (1, 2), "{events}");
    daemon.stop().unwrap();
}

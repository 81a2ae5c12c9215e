//! VXLAN against the kernel's own: the daemon with a TAP port on one node, a stock vxlan(8) device on the other, over
//! IPv4 and IPv6, through AF_PACKET and AF_XDP.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use sumeru_e2e::config::quoted;
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::{Config, Daemon, Lifetime, Namespace, Process, veth_pair};

const WIRE: &str = "wire";
const IPV4: [&str; 2] = ["192.0.2.1/24", "192.0.2.2/24"];
const IPV6: [&str; 2] = ["2001:db8::1/64", "2001:db8::2/64"];

/// The kernel's answer to pings is waited for: its duplicate address detection alone takes a second.
fn reaches(from: &Namespace, arguments: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut all = vec!["-c", "3", "-i", "0.2", "-W", "2"];
    all.extend(arguments);
    loop {
        let output = from.run("ping", &all).unwrap();
        if output.stdout.contains("3 received") {
            return;
        }
        assert!(Instant::now() < deadline, "{arguments:?}: {output:?}");
    }
}

fn beside_the_kernel(kind: &str, addresses: [&str; 2], inner_mtu: u32) {
    let folder = SocketFolder::create("underlay").unwrap();
    let at = |name: &str| folder.path().join(name);
    let (ours, theirs) = (
        Namespace::create("ours").unwrap(),
        Namespace::create("theirs").unwrap(),
    );
    let wire_mtu = inner_mtu + 70;
    veth_pair((&ours, WIRE), (&theirs, WIRE), wire_mtu).unwrap();
    let [local, remote] = [bare(addresses[0]), bare(addresses[1])];

    // A cable has no segmentation of tunnelled frames to offer, a veth does; AF_PACKET could not describe such a frame.
    let mut offloads = vec![
        "-K",
        WIRE,
        "tx-udp_tnl-segmentation",
        "off",
        "tx-udp_tnl-csum-segmentation",
        "off",
    ];
    if kind == "af-xdp" {
        // A descriptor of AF_XDP says nothing of a checksum left to do.
        offloads.extend(["tx", "off"]);
    }
    theirs
        .run("ethtool", &offloads)
        .unwrap()
        .success("ethtool")
        .unwrap();
    theirs
        .ip(&["address", "add", addresses[1], "dev", WIRE])
        .unwrap();
    theirs
        .ip(&[
            "link", "add", "vx0", "type", "vxlan", "id", "100", "local", remote, "remote", local,
            "dstport", "4789", "dev", WIRE,
        ])
        .unwrap();
    // Over IPv6 the kernel takes no datagram without a checksum, unless it is told to: the daemon's have one.
    let mtu = inner_mtu.to_string();
    theirs
        .ip(&["link", "set", "vx0", "mtu", &mtu, "up"])
        .unwrap();
    theirs
        .ip(&["address", "add", "10.0.0.2/24", "dev", "vx0"])
        .unwrap();

    let config = Config::new("n1", 0)
        .uplink(kind, WIRE, addresses[0], wire_mtu)
        .network("blue", 100, &[remote], inner_mtu)
        .table(
            "port",
            &[
                ("name", &quoted("tap")),
                ("kind", &quoted("tap")),
                ("ifname", &quoted("tap0")),
                ("network", &quoted("blue")),
                ("mtu", &inner_mtu),
            ],
        );
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon = Daemon::start(
        "n1",
        Some(&ours),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    ours.ip(&["link", "set", "tap0", "mtu", &mtu, "up"])
        .unwrap();
    ours.ip(&["address", "add", "10.0.0.1/24", "dev", "tap0"])
        .unwrap();

    reaches(&ours, &["10.0.0.2"]);
    reaches(&theirs, &["10.0.0.1"]);
    // A packet of exactly the MTU, which may not be cut.
    let largest = (inner_mtu - 28).to_string();
    reaches(&ours, &["-M", "do", "-s", &largest, "10.0.0.2"]);
    reaches(&theirs, &["-M", "do", "-s", &largest, "10.0.0.1"]);

    let mut server = theirs.command("iperf3");
    server.arg("-s");
    let log = place::logs("iperf3").unwrap().join("iperf3.log");
    let server = Process::spawn("iperf3", server, &log, Lifetime::Bound).unwrap();
    for direction in [&[][..], &["-R"][..]] {
        let mut all = vec!["-J", "-t", "2", "-c", "10.0.0.2"];
        all.extend(direction);
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            let output = ours.run("iperf3", &all).unwrap();
            match sumeru_e2e::workload::stream(&output) {
                Some(stream) => break stream,
                None => assert!(Instant::now() < deadline, "{output:?}"),
            }
        };
        println!(
            "{kind}, {local}, {direction:?}: {:.0} Mbit/s",
            stream.bits_per_second / 1e6
        );
        assert!(stream.bits_per_second > 2e6, "{direction:?}: {stream:?}");
    }
    server.kill();
    for what in ["stage", "port"] {
        println!(
            "{}",
            daemon.cli(&["stats", what]).unwrap().success(what).unwrap()
        );
    }
    println!(
        "{}",
        daemon
            .cli(&["neighbour", "list"])
            .unwrap()
            .success("neighbour")
            .unwrap()
    );
    daemon.stop().unwrap();
}

/// An address without its prefix length.
fn bare(address: &str) -> &str {
    address.split('/').next().unwrap()
}

#[test]
fn af_packet_over_ipv4() {
    beside_the_kernel("af-packet", IPV4, 9000);
}

#[test]
fn af_packet_over_ipv6() {
    beside_the_kernel("af-packet", IPV6, 9000);
}

/// AF_XDP describes no checksum left to do: here the daemon's own are the whole truth, and the kernel's are verified.
#[test]
fn af_xdp_over_ipv6() {
    beside_the_kernel("af-xdp", IPV6, 1500);
}

#[test]
fn af_xdp_over_ipv4() {
    beside_the_kernel("af-xdp", IPV4, 1500);
}

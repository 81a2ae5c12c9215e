//! Path MTU discovery through the daemon's tunnels: a stock kernel behind a TAP port sends packets that may not be cut and are too long for the
//! uplink, or for a link behind a router (RFC 1191, RFC 8201); the kernel's own vxlan(8) device is at the far end.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use sumeru_e2e::config::quoted;
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::{Config, Daemon, Lifetime, Namespace, Process, veth_pair, workload};

const WIRE: &str = "wire";
/// What the tenants' interfaces are set to: nothing on the way carries that much.
const TENANT_MTU: u32 = 1500;
/// Outer IPv4, UDP and VXLAN, and the link header inside.
const OVERHEAD: u32 = 50;

/// A daemon with a TAP port in one namespace, and the kernel's VXLAN device in another that the wire leads to, perhaps by a router.
struct Site {
    // In the order of ending.
    daemon: Daemon,
    ours: Namespace,
    theirs: Namespace,
    _router: Option<Namespace>,
    _folder: SocketFolder,
}

fn quiet(namespace: &Namespace, interface: &str) {
    // A cable has no segmentation to offer.
    let offloads = ["-K", interface, "gso", "off", "tso", "off", "gro", "off"];
    let tunnelled = [
        "tx-udp_tnl-segmentation",
        "off",
        "tx-udp_tnl-csum-segmentation",
        "off",
    ];
    let all: Vec<&str> = offloads.into_iter().chain(tunnelled).collect();
    let done = namespace.run("ethtool", &all).unwrap();
    done.success("ethtool").unwrap();
}

fn proxy(router: &Namespace, interface: &str, peer: &str) {
    router
        .ip(&["route", "add", peer, "dev", interface])
        .unwrap();
    let path = format!("net.ipv4.conf.{interface}.proxy_arp=1");
    for setting in [path.as_str(), "net.ipv4.ip_forward=1"] {
        let done = router.run("sysctl", &["-w", setting]).unwrap();
        done.success("sysctl").unwrap();
    }
}

/// `near` and `far`: MTU of the daemon's link, and of the one behind a router if there is one.
fn site(near: u32, far: Option<u32>) -> Site {
    let folder = SocketFolder::create("pmtu").unwrap();
    let at = |name: &str| folder.path().join(name);
    let ours = Namespace::create("ours").unwrap();
    let theirs = Namespace::create("theirs").unwrap();
    let router = far.map(|mtu| {
        let router = Namespace::create("router").unwrap();
        veth_pair((&ours, WIRE), (&router, "left"), near).unwrap();
        veth_pair((&router, "right"), (&theirs, WIRE), mtu).unwrap();
        router
            .ip(&["address", "add", "203.0.113.1/32", "dev", "lo"])
            .unwrap();
        proxy(&router, "left", "192.0.2.1/32");
        proxy(&router, "right", "192.0.2.2/32");
        for interface in ["left", "right"] {
            quiet(&router, interface);
        }
        router
    });
    if router.is_none() {
        veth_pair((&ours, WIRE), (&theirs, WIRE), near).unwrap();
    }
    quiet(&theirs, WIRE);
    theirs
        .ip(&["address", "add", "192.0.2.2/24", "dev", WIRE])
        .unwrap();
    let tunnel = "link add vx0 type vxlan id 100 local 192.0.2.2 remote 192.0.2.1 dstport 4789 dev";
    let words: Vec<&str> = tunnel.split_whitespace().chain([WIRE]).collect();
    theirs.ip(&words).unwrap();
    let mtu = (far.unwrap_or(near) - OVERHEAD).to_string();
    theirs
        .ip(&["link", "set", "vx0", "mtu", &mtu, "up"])
        .unwrap();
    for address in ["10.0.0.2/24", "fd00::2/64"] {
        theirs
            .ip(&["address", "add", address, "dev", "vx0", "nodad"])
            .unwrap();
    }
    let config = Config::new("n1", 0)
        .uplink("af-packet", WIRE, "192.0.2.1/24", near)
        .network("blue", 100, &["192.0.2.2"], TENANT_MTU)
        .table(
            "port",
            &[
                ("name", &quoted("tap")),
                ("kind", &quoted("tap")),
                ("ifname", &quoted("tap0")),
                ("network", &quoted("blue")),
                ("mtu", &TENANT_MTU),
            ],
        );
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let daemon = Daemon::start(
        "n1",
        Some(&ours),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    let mtu = TENANT_MTU.to_string();
    ours.ip(&["link", "set", "tap0", "mtu", &mtu, "up"])
        .unwrap();
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        ours.ip(&["address", "add", address, "dev", "tap0", "nodad"])
            .unwrap();
    }
    let site = Site {
        daemon,
        ours,
        theirs,
        _router: router,
        _folder: folder,
    };
    for target in ["10.0.0.2", "fd00::2"] {
        until(&site, &["-c", "1", "-W", "1", target], " 0% packet loss");
    }
    site
}

/// Pings until the output says so; the output.
fn until(site: &Site, arguments: &[&str], wanted: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = site.ours.run("ping", arguments).unwrap();
        let text = format!("{}{}", output.stdout, output.stderr);
        if text.contains(wanted) {
            println!("ping {arguments:?}\n{text}");
            return text;
        }
        let drops = site.daemon.cli(&["stats", "drop"]).unwrap().stdout;
        assert!(
            Instant::now() < deadline,
            "{arguments:?}: no {wanted:?} in {text}\n{drops}"
        );
    }
}

fn stage(site: &Site, name: &str) -> u64 {
    let stages = site.daemon.cli_json(&["stats", "stage"]).unwrap();
    let stages = stages.as_array().unwrap();
    let one = stages.iter().find(|stage| stage["stage"] == name).unwrap();
    one["packets"].as_u64().unwrap()
}

/// TCP gets through, and with segments of the path's size.
fn tcp_adapts(site: &Site, target: &str) {
    let mut server = site.theirs.command("iperf3");
    server.arg("-s");
    let log = place::logs("iperf3").unwrap().join("iperf3.log");
    let server = Process::spawn("iperf3", server, &log, Lifetime::Bound).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        let output = site
            .ours
            .run("iperf3", &["-J", "-t", "2", "-c", target])
            .unwrap();
        match workload::stream(&output) {
            Some(stream) => break stream,
            None => assert!(Instant::now() < deadline, "{output:?}"),
        }
    };
    println!("{target}: {stream:?}");
    assert!(stream.bits_per_second > 2e6, "{stream:?}");
    server.kill();
}

#[test]
fn the_uplinks_mtu_is_told_to_a_stock_kernel() {
    let mut site = site(1400, None);
    let path = 1400 - OVERHEAD;
    for (target, headers) in [("10.0.0.2", 28), ("fd00::2", 48)] {
        let long = (TENANT_MTU - headers).to_string();
        until(
            &site,
            &[
                "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", &long, target,
            ],
            &format!("mtu={path}").replace("mtu=", if headers == 28 { "mtu = " } else { "mtu=" }),
        );
        let fits = (path - headers).to_string();
        let fits = [
            "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", &fits, target,
        ];
        until(&site, &fits, "3 received");
        tcp_adapts(&site, target);
    }
    assert!(stage(&site, "path-mtu") >= 2);
    site.daemon.stop().unwrap();
}

#[test]
fn a_routers_word_about_the_path_is_passed_on() {
    let mut site = site(1500, Some(1350));
    let path = 1350 - OVERHEAD;
    let long = (1500 - OVERHEAD - 28).to_string();
    // The router's word comes with the first, the kernel behind the TAP hears of it with the next.
    let arguments = [
        "-c", "3", "-i", "0.2", "-W", "1", "-M", "do", "-s", &long, "10.0.0.2",
    ];
    until(&site, &arguments, &format!("mtu = {path}"));
    let neighbours = site.daemon.cli_json(&["neighbour", "list"]).unwrap();
    println!(
        "{}",
        site.daemon.cli(&["neighbour", "list"]).unwrap().stdout
    );
    assert_eq!(neighbours[0]["path_mtu"], 1350, "{neighbours}");
    let fits = (path - 28).to_string();
    let fits = [
        "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", &fits, "10.0.0.2",
    ];
    until(&site, &fits, "3 received");
    tcp_adapts(&site, "10.0.0.2");
    site.daemon.stop().unwrap();
}

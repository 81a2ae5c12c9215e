//! LLDP with lldpd at the other end of the daemon's wires: both ends see each other, and each other's leave.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::Value;
use sumeru_e2e::config::quoted;
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::{Config, Daemon, Lifetime, Namespace, Process, veth_pair};

fn until(what: &str, mut done: impl FnMut() -> bool, told: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: {}", told());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The neighbours that the daemon shows, by interface.
fn shown(daemon: &Daemon) -> Vec<(String, Value)> {
    let wires = daemon.cli_json(&["lldp", "show"]).unwrap();
    let wires = wires.as_array().unwrap().iter();
    let one = |wire: &Value| {
        let interface = wire["interface"].as_str().unwrap().to_owned();
        (interface, wire["neighbours"].clone())
    };
    wires.map(one).collect()
}

#[test]
fn lldpd_and_the_daemon_see_each_other() {
    let folder = SocketFolder::create("lldp").unwrap();
    let at = |name: &str| folder.path().join(name);
    let (ours, theirs) = (
        Namespace::create("ours").unwrap(),
        Namespace::create("theirs").unwrap(),
    );
    // A wire of a port of its own, and two that are a bond.
    let wires = [("up0", "peer0"), ("bm0", "peer1"), ("bm1", "peer2")];
    for (near, far) in wires {
        veth_pair((&ours, near), (&theirs, far), 1500).unwrap();
    }
    theirs
        .ip(&["address", "add", "192.0.2.11/24", "dev", "peer0"])
        .unwrap();
    std::fs::create_dir_all("/run/lldpd").unwrap();
    let socket = at("lldpd").display().to_string();
    let mut lldpd = theirs.command("lldpd");
    lldpd.args(["-d", "-u", &socket, "-I", "peer*", "-S", "a peer of a test"]);
    let log = place::logs("lldp").unwrap().join("lldpd.log");
    let lldpd = Process::spawn("lldpd", lldpd, &log, Lifetime::Bound).unwrap();
    until(
        "lldpd starts",
        || at("lldpd").exists(),
        || std::fs::read_to_string(&log).unwrap(),
    );
    let lldpcli = |arguments: &[&str]| {
        let mut all = vec!["-u", &socket];
        all.extend(arguments);
        let output = theirs.run("lldpcli", &all).unwrap();
        output.success("lldpcli").unwrap()
    };
    lldpcli(&["configure", "lldp", "tx-interval", "5"]);

    let config = Config::new("node-one", 0)
        .uplink("af-packet", "up0", "192.0.2.1/24", 1500)
        .table(
            "port",
            &[
                ("name", &quoted("pair")),
                ("kind", &quoted("bond")),
                ("members", &"[\"bm0\", \"bm1\"]"),
                ("bond_mode", &quoted("active-backup")),
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

    // They see us on all three cables: a bond speaks by each member.
    let seen = || lldpcli(&["-f", "keyvalue", "show", "neighbors", "details"]);
    let all = ["up0", "bm0", "bm1"];
    until(
        "lldpd sees the daemon",
        || {
            let seen = seen();
            all.iter()
                .all(|name| seen.contains(&format!("port.ifname={name}")))
        },
        seen,
    );
    println!(
        "lldpcli show neighbors:\n{}",
        lldpcli(&["show", "neighbors"])
    );
    let told = seen();
    for expected in [
        "lldp.peer0.chassis.name=node-one",
        "lldp.peer0.chassis.mgmt-ip=192.0.2.1",
        "lldp.peer0.chassis.Bridge.enabled=on",
        "lldp.peer0.port.descr=port uplink",
        "lldp.peer0.port.mfs=1518",
        "lldp.peer1.port.descr=port pair",
    ] {
        assert!(told.contains(expected), "{expected} is not in {told}");
    }

    // We see them, member by member.
    until(
        "the daemon sees lldpd",
        || {
            let shown = shown(&daemon);
            shown.len() == 3 && shown.iter().all(|(_, n)| n.as_array().unwrap().len() == 1)
        },
        || format!("{:#?}", shown(&daemon)),
    );
    let output = daemon.cli(&["lldp", "show"]).unwrap();
    println!("sumeru lldp show:\n{}", output.success("lldp").unwrap());
    for (interface, neighbours) in shown(&daemon) {
        let (_, far) = wires.iter().find(|(near, _)| *near == interface).unwrap();
        let neighbour = &neighbours[0];
        let mac = theirs.ip(&["-o", "link", "show", "dev", far]).unwrap();
        assert!(
            mac.contains(neighbour["source"].as_str().unwrap()),
            "{mac} {neighbour}"
        );
        assert_eq!(neighbour["port_description"], *far, "{neighbour}");
        assert_eq!(
            neighbour["system_description"], "a peer of a test",
            "{neighbour}"
        );
        assert_eq!(neighbour["management"][0], "192.0.2.11", "{neighbour}");
        assert!(neighbour["ttl_s"].as_u64().unwrap() >= 20, "{neighbour}");
    }

    // A cable without a carrier has no neighbours, and gets them back.
    theirs.ip(&["link", "set", "peer0", "down"]).unwrap();
    let neighbours_of = |name: &str| {
        let shown = shown(&daemon);
        let wire = shown.into_iter().find(|(interface, _)| interface == name);
        wire.map(|(_, neighbours)| neighbours.as_array().unwrap().len())
    };
    let told = || format!("{:#?}", shown(&daemon));
    until(
        "the cable is dead",
        || neighbours_of("up0") == Some(0),
        told,
    );
    let link = daemon.cli_json(&["port", "show", "uplink"]).unwrap();
    assert_eq!(link["state"]["link"]["up"], false, "{link}");
    theirs.ip(&["link", "set", "peer0", "up"]).unwrap();
    until("the cable lives", || neighbours_of("up0") == Some(1), told);

    // A port that is told not to speak takes back what it said, and hears nothing.
    let update = ["port", "update", "pair", "--lldp=false"];
    daemon.cli(&update).unwrap().success("update").unwrap();
    until(
        "lldpd forgets the bond",
        || !seen().contains("port.ifname=bm0"),
        seen,
    );
    assert_eq!(neighbours_of("bm0"), None);
    daemon.stop().unwrap();
    lldpd.kill();
}

//! Egress shaping: iperf3 of two tenants through one shaped uplink into the kernel's own VXLAN devices. Their shares are compared with each other,
//! and with the port's rate; no absolute speed is asked for.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sumeru_e2e::config::quoted;
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::{Config, Daemon, Lifetime, Namespace, Process, veth_pair};

const WIRE: &str = "wire";
const MTU: u32 = 1450;
/// What leaves by the uplink, in kilobits per second: far less than this machine could send.
const RATE_KBIT: u64 = 40_000;
/// Tenants: network, identifier, and the middle of its addresses.
const TENANTS: [(&str, u32, u32); 2] = [("blue", 100, 1), ("red", 101, 2)];
const SECONDS: u64 = 6;

fn site() -> (SocketFolder, Namespace, Namespace, Daemon) {
    let folder = SocketFolder::create("shaping").unwrap();
    let at = |name: &str| folder.path().join(name);
    let (ours, theirs) = (
        Namespace::create("ours").unwrap(),
        Namespace::create("theirs").unwrap(),
    );
    veth_pair((&ours, WIRE), (&theirs, WIRE), MTU + 70).unwrap();
    let offloads = [
        "-K",
        WIRE,
        "tx-udp_tnl-segmentation",
        "off",
        "tx-udp_tnl-csum-segmentation",
        "off",
    ];
    theirs
        .run("ethtool", &offloads)
        .unwrap()
        .success("ethtool")
        .unwrap();
    theirs
        .ip(&["address", "add", "192.0.2.2/24", "dev", WIRE])
        .unwrap();
    let mut config = Config::new("n1", 0).uplink("af-packet", WIRE, "192.0.2.1/24", MTU + 70);
    let mtu = MTU.to_string();
    for (network, vni, middle) in TENANTS {
        let (device, id) = (format!("vx-{network}"), vni.to_string());
        theirs
            .ip(&[
                "link",
                "add",
                &device,
                "type",
                "vxlan",
                "id",
                &id,
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
            .ip(&["link", "set", &device, "mtu", &mtu, "up"])
            .unwrap();
        let address = format!("10.0.{middle}.2/24");
        theirs
            .ip(&["address", "add", &address, "dev", &device])
            .unwrap();
        config = config.network(network, vni, &["192.0.2.2"], MTU).table(
            "port",
            &[
                ("name", &quoted(network)),
                ("kind", &quoted("tap")),
                ("ifname", &quoted(&format!("tap-{network}"))),
                ("network", &quoted(network)),
                ("mtu", &MTU),
            ],
        );
    }
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let daemon = Daemon::start(
        "n1",
        Some(&ours),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    for (network, _, middle) in TENANTS {
        let address = format!("10.0.{middle}.1/24");
        let device = format!("tap-{network}");
        ours.ip(&["address", "add", &address, "dev", &device])
            .unwrap();
        let far = format!("10.0.{middle}.2");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ours
            .run("ping", &["-c", "1", "-W", "1", &far])
            .unwrap()
            .stdout
            .contains("1 received")
        {
            assert!(Instant::now() < deadline, "{far} does not answer");
        }
    }
    (folder, ours, theirs, daemon)
}

/// Where what the peers print goes; a folder of this run, made once.
static LOGS: LazyLock<PathBuf> = LazyLock::new(|| place::logs("shaping").unwrap());

/// Streams of the tenants of these numbers at the same time; the bits per second that arrived from each.
fn streams(ours: &Namespace, tenants: &[usize]) -> Vec<f64> {
    let logs = place::logs("streams").unwrap();
    let start = |number: &usize| -> (Process, PathBuf) {
        let (network, _, middle) = TENANTS[*number];
        let far = format!("10.0.{middle}.2");
        let mut client = ours.command("iperf3");
        client.args(["-J", "-c", &far, "-P", "4", "-t", &SECONDS.to_string()]);
        let log = logs.join(format!("{network}.json"));
        (
            Process::spawn("iperf3", client, &log, Lifetime::Bound).unwrap(),
            log,
        )
    };
    let clients: Vec<(Process, PathBuf)> = tenants.iter().map(start).collect();
    let arrived = |(client, log): (Process, PathBuf)| {
        client.wait(Duration::from_secs(60)).unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let sum = &report["end"]["sum_received"]["bits_per_second"];
        sum.as_f64().unwrap_or_else(|| panic!("{text}"))
    };
    clients.into_iter().map(arrived).collect()
}

/// Streams of the first tenant that go on behind what a test looks at.
fn background(ours: &Namespace, seconds: u64) -> Process {
    let mut client = ours.command("iperf3");
    client.args(["-c", "10.0.1.2", "-P", "4", "-t", &seconds.to_string()]);
    let log = LOGS.join("background.log");
    Process::spawn("iperf3", client, &log, Lifetime::Bound).unwrap()
}

/// What has left of each tenant.
fn sent_bytes(daemon: &Daemon) -> BTreeMap<String, u64> {
    let queues = daemon.cli_json(&["stats", "queue"]).unwrap();
    let queues = queues.as_array().unwrap().iter();
    let one = |queue: &Value| {
        let tenant = queue["tenant"].as_str().unwrap().to_owned();
        (tenant, queue["sent_bytes"].as_u64().unwrap())
    };
    queues.map(one).collect()
}

fn shares(daemon: &Daemon, arguments: &[&str]) {
    let mut all = vec!["port", "update", "uplink"];
    all.extend(arguments);
    daemon.cli(&all).unwrap().success("port update").unwrap();
}

#[test]
fn tenants_have_their_shares_of_a_shaped_port() {
    let (_folder, ours, theirs, mut daemon) = site();
    let servers: Vec<Process> = TENANTS
        .iter()
        .map(|(network, _, middle)| {
            let mut server = theirs.command("iperf3");
            server.args(["-s", "-B", &format!("10.0.{middle}.2")]);
            let log = LOGS.join(format!("server-{network}.log"));
            Process::spawn("iperf3", server, &log, Lifetime::Bound).unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let rate = RATE_KBIT as f64 * 1e3;
    let kbit = RATE_KBIT.to_string();
    let print = |what: &str, rates: &[f64], daemon: &Daemon| {
        println!(
            "{what}: {:?} Mbit/s",
            rates.iter().map(|r| r / 1e6).collect::<Vec<_>>()
        );
        let output = daemon.cli(&["stats", "queue"]).unwrap();
        println!("{}", output.success("stats queue").unwrap());
    };

    // Without a rate nothing is held back.
    let open = streams(&ours, &[0]);
    print("unshaped", &open, &daemon);
    assert!(
        open[0] > 2.0 * rate,
        "the machine is too slow to tell: {open:?}"
    );

    // Shares by weight, and nothing beyond the port's rate.
    let weights = "blue weight 3,red weight 1";
    shares(
        &daemon,
        &["--shape-kbit", &kbit, "--shape-tenants", weights],
    );
    let both = streams(&ours, &[0, 1]);
    print("weights 3:1", &both, &daemon);
    let (sum, ratio) = (both[0] + both[1], both[0] / both[1]);
    assert!(sum < 1.05 * rate && sum > 0.6 * rate, "{both:?}");
    assert!((2.2..=4.0).contains(&ratio), "{ratio}: {both:?}");

    // What one leaves the other has.
    let alone = streams(&ours, &[1]);
    print("red alone", &alone, &daemon);
    assert!(alone[0] > 0.6 * rate && alone[0] < 1.05 * rate, "{alone:?}");

    // A tenant's own limit holds, and the rest is the other's.
    let limited = "blue,red rate_kbit 5000";
    shares(&daemon, &["--shape-tenants", limited]);
    let both = streams(&ours, &[0, 1]);
    print("red limited to 5 Mbit/s", &both, &daemon);
    assert!(both[1] < 5.5e6 && both[0] > 0.5 * rate, "{both:?}");

    // Who is served first has nearly everything, for as long as it wants.
    shares(
        &daemon,
        &["--shape-tenants", "red priority 0,blue priority 1"],
    );
    let behind = background(&ours, 12);
    std::thread::sleep(Duration::from_secs(2));
    let before = sent_bytes(&daemon);
    let alone = streams(&ours, &[1]);
    let after = sent_bytes(&daemon);
    print("red first, blue behind", &alone, &daemon);
    behind.wait(Duration::from_secs(60)).unwrap();
    let sent = |tenant: &str| after[tenant] - before[tenant];
    assert!(
        alone[0] > 0.6 * rate && sent("red") > 3 * sent("blue"),
        "{alone:?}, {} and {} bytes",
        sent("red"),
        sent("blue")
    );

    // Classes of one tenant: bulk waits behind what is marked.
    let classes = "dscp 46 priority 0,* priority 1";
    shares(
        &daemon,
        &["--clear", "shape_tenants", "--shape-classes", classes],
    );
    let queues = daemon.cli_json(&["stats", "queue"]).unwrap();
    let named: Vec<&str> = queues
        .as_array()
        .unwrap()
        .iter()
        .map(|q| q["class"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["dscp 46", "*"]);
    let bulk = background(&ours, 8);
    std::thread::sleep(Duration::from_secs(3));
    // EF in the type of service.
    let marked = [
        "-q", "-c", "20", "-i", "0.1", "-W", "2", "-Q", "184", "10.0.1.2",
    ];
    let marked = ours.run("ping", &marked).unwrap();
    bulk.wait(Duration::from_secs(30)).unwrap();
    println!("marked beside bulk: {}", marked.stdout);
    assert!(marked.stdout.contains(" 0% packet loss"), "{marked:?}");
    let queues = daemon.cli_json(&["stats", "queue"]).unwrap();
    assert!(
        queues[0]["sent_packets"].as_u64().unwrap() >= 20,
        "{queues}"
    );
    assert_eq!(queues[0]["delay_packets"], 0, "{queues}");
    assert!(
        queues[1]["sent_packets"].as_u64().unwrap() > 100,
        "{queues}"
    );

    // Without a rate again.
    shares(
        &daemon,
        &["--clear", "shape_kbit", "--clear", "shape_classes"],
    );
    assert_eq!(
        daemon.cli_json(&["stats", "queue"]).unwrap(),
        serde_json::json!([])
    );
    let open = streams(&ours, &[0]);
    assert!(open[0] > 2.0 * rate, "{open:?}");
    servers.into_iter().for_each(Process::kill);
    daemon.stop().unwrap();
}

//! DPDK's virtio-user as the driver: a port on which the daemon listens and one on which it connects, frames going
//! round through both.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sumeru_e2e::config::quoted;
use sumeru_e2e::{Config, Daemon, Lifetime, Process, peers, place, place::SocketFolder};

const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
const ENOUGH: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// testpmd with two virtio-user ports, client and server, that sends a burst on each and then passes on what comes in.
fn testpmd(listening: &Path, connecting: &Path, log: &str) -> Process {
    let mut command = Command::new(peers::system_program("dpdk-testpmd").unwrap());
    command.args([
        "--lcores",
        "0@1,1@1",
        "--no-shconf",
        "--no-huge",
        "--no-pci",
        "--no-telemetry",
        "-m",
        "256",
    ]);
    for (index, (path, role)) in [(listening, ""), (connecting, ",server=1")]
        .into_iter()
        .enumerate()
    {
        command.arg("--vdev").arg(format!(
            "net_virtio_user{index},path={},queue_size=256,mac={}{role}",
            path.display(),
            MACS[index]
        ));
    }
    command.args([
        "--",
        "--nb-cores=1",
        "--total-num-mbufs=4096",
        "--tx-first",
        "--stats-period=1",
    ]);
    command.args([
        format!("--eth-peer=0,{}", MACS[1]),
        format!("--eth-peer=1,{}", MACS[0]),
    ]);
    let log = place::logs(log).unwrap().join("testpmd.log");
    Process::spawn("testpmd", command, &log, Lifetime::Bound).unwrap()
}

/// Frames in and out of each port.
fn counters(daemon: &Daemon) -> Vec<[u64; 2]> {
    let ports = daemon.cli_json(&["stats", "port"]).unwrap();
    let row = |row: &serde_json::Value| {
        ["rx_packets", "tx_packets"].map(|key| row[key].as_u64().unwrap())
    };
    ports.as_array().unwrap().iter().map(row).collect()
}

fn wait_for_frames(daemon: &Daemon, testpmd: &Process) {
    let before = counters(daemon);
    let deadline = Instant::now() + PATIENCE;
    loop {
        testpmd.check_running().unwrap();
        let now = counters(daemon);
        let enough = |(now, before): (&[u64; 2], &[u64; 2])| {
            now.iter()
                .zip(before)
                .all(|(now, before)| now - before >= ENOUGH)
        };
        if now.iter().zip(&before).all(enough) {
            println!("{now:?}");
            return;
        }
        let log = place::tail(testpmd.log(), 20);
        assert!(
            Instant::now() < deadline,
            "{before:?} became {now:?}; testpmd says:\n{log}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn virtio_user_as_client_and_as_server() {
    let folder = SocketFolder::create("dpdk").unwrap();
    let at = |name: &str| folder.path().join(name);
    let (listening, connecting) = (at("p0"), at("p1"));
    let config = Config::new("n1", 0)
        .network("blue", 100, &[], 1500)
        .port("p0", &listening, "blue", MACS[0])
        .table(
            "port",
            &[
                ("name", &quoted("p1")),
                ("kind", &quoted("vhost-user")),
                ("socket", &quoted(&connecting.display().to_string())),
                ("mode", &quoted("client")),
                ("network", &quoted("blue")),
                ("mac", &quoted(MACS[1])),
            ],
        );
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon =
        Daemon::start("n1", None, &at("n1.toml"), &at("rpc"), Lifetime::Bound).unwrap();

    let first = testpmd(&listening, &connecting, "testpmd1");
    wait_for_frames(&daemon, &first);
    // A client that vanishes, and one that comes after it.
    first.kill();
    // DPDK does not bind over a socket that a killed process has left.
    std::fs::remove_file(&connecting).unwrap();
    let second = testpmd(&listening, &connecting, "testpmd2");
    wait_for_frames(&daemon, &second);
    // Whatever the daemon leaves, it leaves in order.
    second.kill();
    daemon.stop().unwrap();
}

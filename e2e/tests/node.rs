//! One node, two guests of one tenant: frames and blocks of stock guests go through the daemon.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use sumeru_e2e::config::quoted;
use sumeru_e2e::workload::{
    SHORT, address, disk_read, disk_write, iperf, iperf_server, offloads_off, ping,
};
use sumeru_e2e::{
    Config, Daemon, Disk, Guest, Lifetime, Nic, QemuVersion, SocketRole, boot_all,
    place::SocketFolder,
};

const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

fn two_guests(version: QemuVersion) {
    let folder = SocketFolder::create("node").unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut config = Config::new("n1", 0).network("blue", 100, &[], 9000);
    let mut guests = Vec::new();
    for (number, mac) in (1..).zip(MACS) {
        let name = format!("g{number}");
        let (net, blk) = (at(&format!("{name}.net")), at(&format!("{name}.blk")));
        config = config.port(&name, &net, "blue", mac).disk(
            &name,
            &at(&format!("{name}.img")),
            64,
            &blk,
        );
        guests.push(
            Guest::builder(&name)
                .qemu(version)
                .memory(256)
                .nic(Nic::new(net, mac))
                .disk(Disk::new(blk)),
        );
    }
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon =
        Daemon::start("n1", None, &at("n1.toml"), &at("rpc"), Lifetime::Bound).unwrap();
    let guests = boot_all(guests).unwrap();
    let [g1, g2] = &guests[..] else {
        unreachable!()
    };

    address(g1, "10.0.0.1/24", 1500).unwrap();
    address(g2, "10.0.0.2/24", 1500).unwrap();
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 3);
    assert_eq!(ping(g2, "10.0.0.1", 3, 56).unwrap(), 3);
    // Seven fragments there, seven back.
    assert_eq!(ping(g1, "10.0.0.2", 3, 10_000).unwrap(), 3);

    for guest in &guests {
        assert_eq!(offloads_off(guest).unwrap(), Vec::<String>::new());
    }
    iperf_server(g2).unwrap();
    let stream = iperf(g1, "10.0.0.2", 3).unwrap();
    println!(
        "TCP at MTU 1500: {:.0} Mbit/s, {stream:?}",
        stream.bits_per_second / 1e6
    );
    // Emulated guests move hundreds of megabits on an idle machine; a busy one is no failure, a stream that stalls is.
    assert!(stream.bits_per_second > 2e6, "{stream:?}");

    for guest in &guests {
        let written = disk_write(guest, 8).unwrap();
        assert_eq!(disk_read(guest, 8).unwrap(), written);
        guest.reboot().unwrap();
        assert_eq!(disk_read(guest, 8).unwrap(), written);
    }
    // The rings of the second boot work too.
    address(g1, "10.0.0.1/24", 9000).unwrap();
    address(g2, "10.0.0.2/24", 9000).unwrap();
    assert_eq!(ping(g1, "10.0.0.2", 3, 8972).unwrap(), 3);

    for what in ["stage", "port", "volume", "lcore"] {
        println!(
            "{}",
            daemon.cli(&["stats", what]).unwrap().success(what).unwrap()
        );
    }
    drop(guests);
    daemon.stop().unwrap();
}

#[test]
fn two_guests_qemu_7_2() {
    two_guests(QemuVersion::V7_2);
}

#[test]
fn two_guests_qemu_11_1() {
    two_guests(QemuVersion::V11_1);
}

/// QEMU listens and the daemon connects; two queue pairs and two request queues on two lcores. A daemon that comes back
/// connects again.
#[test]
fn the_daemon_connects_with_several_queues() {
    let folder = SocketFolder::create("modes").unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut config = Config::new("n1", 0).network("blue", 100, &[], 1500);
    let mut guests = Vec::new();
    for (number, mac) in (1..).zip(MACS) {
        let name = quoted(&format!("g{number}"));
        let (net, blk) = (at(&format!("g{number}.net")), at(&format!("g{number}.blk")));
        let socket = |path: &std::path::Path| quoted(&path.display().to_string());
        config = config
            .table(
                "port",
                &[
                    ("name", &name),
                    ("kind", &quoted("vhost-user")),
                    ("socket", &socket(&net)),
                    ("mode", &quoted("client")),
                    ("queues", &2),
                    ("network", &quoted("blue")),
                    ("mac", &quoted(mac)),
                ],
            )
            .table(
                "volume",
                &[
                    ("name", &name),
                    ("kind", &quoted("memory")),
                    ("size", &quoted("64MiB")),
                ],
            )
            .table(
                "controller",
                &[
                    ("name", &name),
                    ("volume", &name),
                    ("socket", &socket(&blk)),
                    ("mode", &quoted("client")),
                    ("queues", &2),
                ],
            );
        let nic = Nic::new(net, mac).role(SocketRole::QemuListens).queues(2);
        let disk = Disk::new(blk).role(SocketRole::QemuListens).queues(2);
        let name = format!("g{number}");
        guests.push(
            Guest::builder(&name)
                .memory(256)
                .cpus(2)
                .nic(nic)
                .disk(disk),
        );
    }
    let text = config.text().replace("lcores = [0]", "lcores = [0, 1]");
    std::fs::write(at("n1.toml"), text).unwrap();
    let mut daemon =
        Daemon::start("n1", None, &at("n1.toml"), &at("rpc"), Lifetime::Bound).unwrap();
    let guests = boot_all(guests).unwrap();
    let [g1, g2] = &guests[..] else {
        unreachable!()
    };
    for (guest, ours) in [(g1, "10.0.0.1/24"), (g2, "10.0.0.2/24")] {
        address(guest, ours, 1500).unwrap();
        guest.check("ethtool -L eth0 combined 2", SHORT).unwrap();
        let queues = guest.check("ls -d /sys/block/vda/mq/*", SHORT).unwrap();
        assert_eq!(queues.lines().count(), 2, "{queues}");
        let written = disk_write(guest, 8).unwrap();
        assert_eq!(disk_read(guest, 8).unwrap(), written);
    }
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 3);
    iperf_server(g2).unwrap();
    let both_queues = g1
        .check("iperf3 -J -P 4 -t 3 -c 10.0.0.2", 2 * SHORT)
        .unwrap();
    assert!(both_queues.contains("sum_received"));
    let stats = daemon.cli_json(&["stats", "port"]).unwrap();
    for port in stats.as_array().unwrap() {
        let pairs = port["queue_pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), 2, "{port}");
        for counted in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
            let number = |row: &serde_json::Value| row[counted].as_u64().unwrap();
            let (whole, sum) = (number(port), pairs.iter().map(number).sum::<u64>());
            // The port's are read first.
            assert!(
                whole > 0 && (whole..whole + 10_000).contains(&sum),
                "{port}"
            );
        }
    }

    let boots = [g1.boot_id().unwrap(), g2.boot_id().unwrap()];
    daemon.restart().unwrap();
    let deadline = Instant::now() + SHORT;
    while ping(g1, "10.0.0.2", 1, 56).unwrap() == 0 {
        assert!(
            Instant::now() < deadline,
            "no ping after the daemon came back"
        );
    }
    for guest in &guests {
        let written = disk_write(guest, 8).unwrap();
        assert_eq!(disk_read(guest, 8).unwrap(), written);
    }
    assert_eq!([g1.boot_id().unwrap(), g2.boot_id().unwrap()], boots);
    println!(
        "{}",
        daemon
            .cli(&["stats", "lcore"])
            .unwrap()
            .success("stats")
            .unwrap()
    );
    drop(guests);
    daemon.stop().unwrap();
}

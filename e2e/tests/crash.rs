//! The daemon is killed again and again while guests work; restarted, it takes over their rings where they were
//! (vhost-user: in-flight tracking, GET/SET_INFLIGHT_FD; QEMU reconnects). No guest reboots and no block is lost.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use sumeru_e2e::workload::{SHORT, address, iperf, iperf_server, ping};
use sumeru_e2e::{
    Config, Daemon, Disk, Guest, Initramfs, Kernel, Lifetime, Nic, boot_all, place::SocketFolder,
};

const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
/// Kills at most to meet a request in flight.
const MORE_KILLS: usize = 20;
const KILLS: u32 = 10;
/// Pass after pass of random writes, each verified whole: a block of an earlier pass has another seed in its header.
/// The pass during which the file appears is the last.
const FIO: &str = "while [ ! -e /run/enough ]; do \
    fio --name=crash --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k --size=12m --ioengine=libaio --iodepth=16 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=0 --output-format=terse || exit 1; done";
/// How long the last pass may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn ten_kills_lose_nothing() {
    let folder = SocketFolder::create("crash").unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut config = Config::new("n1", 0).network("blue", 100, &[], 1500);
    let mut guests = Vec::new();
    for (number, mac) in (1..).zip(MACS) {
        let name = format!("g{number}");
        let (net, blk) = (at(&format!("{name}.net")), at(&format!("{name}.blk")));
        let image = at(&format!("{name}.img"));
        config = config
            .port(&name, &net, "blue", mac)
            // Through the page cache a write is over before anybody could be killed in the middle of it.
            .direct_disk(&name, &image, 64, &blk);
        let programs = ["iperf3", "ethtool", "fio"];
        let initramfs = programs
            .into_iter()
            .fold(Initramfs::new(Kernel::default()), Initramfs::program);
        guests.push(
            Guest::builder(&name)
                .memory(320)
                .initramfs(initramfs)
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
    assert!(ping(g1, "10.0.0.2", 3, 56).unwrap() > 0);
    let boots: Vec<String> = guests
        .iter()
        .map(|guest| guest.boot_id().unwrap())
        .collect();

    // A stream that is there during all the kills; a second server for the one afterwards.
    iperf_server(g2).unwrap();
    g2.check("iperf3 -s -D -p 5202", SHORT).unwrap();
    let stream = g1
        .spawn("iperf3 -J -c 10.0.0.2 -p 5202 -b 40M -t 600")
        .unwrap();
    let disks: Vec<_> = guests
        .iter()
        .map(|guest| guest.spawn(FIO).unwrap())
        .collect();

    std::thread::sleep(Duration::from_secs(3));
    for (guest, job) in guests.iter().zip(&disks) {
        if guest.finished(*job).unwrap() {
            panic!("fio did not start: {:?}", guest.wait(*job, PATIENCE));
        }
    }

    let mut random = Random::new();
    let begun = Instant::now();
    let mut fewest = u64::MAX;
    for kill in 1..=KILLS {
        let pause = Duration::from_millis(1500 + random.below(2500));
        std::thread::sleep(pause);
        let (frames, blocks) = moved(&daemon);
        println!(
            "[{:.1}s] kill {kill} after {pause:?}: this daemon moved {frames} frames, {blocks} block requests",
            begun.elapsed().as_secs_f32()
        );
        fewest = fewest.min(frames).min(blocks);
        // To be asked costs the daemon and the guests their processors for a moment, in which nothing is in flight.
        std::thread::sleep(Duration::from_millis(100 + random.below(400)));
        daemon.kill();
        // Down for a moment, so that requests pile up in the rings and QEMU notices.
        std::thread::sleep(Duration::from_millis(random.below(700)));
        daemon.restart().unwrap();
    }
    assert!(fewest > 0, "a daemon was killed before it had worked");

    // Both sides kept the requests in flight (INFLIGHT_SHMFD): some daemon found what its predecessor had begun. A fast disk has
    // few in flight at any moment, so a few more kills may be needed to meet one.
    let taken_over = |daemon: &Daemon| {
        let log = std::fs::read_to_string(daemon.log()).unwrap();
        let lines = log.lines();
        lines
            .filter(|line| line.contains("requests in flight are submitted again"))
            .count()
    };
    for _ in 0..MORE_KILLS {
        if taken_over(&daemon) > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(800 + random.below(600)));
        daemon.kill();
        daemon.restart().unwrap();
    }
    let taken_over = taken_over(&daemon);
    println!("requests in flight were taken over {taken_over} times");
    assert!(taken_over > 0, "no request in flight was ever taken over");

    // The guests are those that were booted, and the daemon of now serves them.
    std::thread::sleep(Duration::from_secs(4));
    let (frames, blocks) = moved(&daemon);
    assert!(
        frames > 0 && blocks > 0,
        "{frames} frames, {blocks} block requests"
    );
    for (guest, boot) in guests.iter().zip(&boots) {
        assert_eq!(guest.boot_id().unwrap(), *boot);
    }
    assert!(!g1.finished(stream).unwrap(), "the stream did not survive");
    g1.check("killall -INT iperf3", SHORT).unwrap();
    for (guest, job) in guests.iter().zip(disks) {
        assert!(
            !guest.finished(job).unwrap(),
            "fio ended early: {:?}",
            guest.wait(job, PATIENCE)
        );
        guest.check("touch /run/enough", SHORT).unwrap();
        let output = guest.wait(job, PATIENCE).unwrap();
        // One line of terse output for each pass.
        let passes = output
            .stdout
            .lines()
            .filter(|line| line.contains(";crash;"))
            .count();
        println!(
            "{}: {passes} passes of fio written and verified",
            guest.name()
        );
        assert_eq!(output.status, 0, "{output:?}");
        assert!(passes > 0, "{output:?}");
        let log = guest.check("dmesg", SHORT).unwrap();
        assert!(!log.contains("I/O error"), "{log}");
    }
    let after = iperf(g1, "10.0.0.2", 3).unwrap();
    println!(
        "TCP after {KILLS} kills: {:.0} Mbit/s",
        after.bits_per_second / 1e6
    );
    assert!(after.bits_per_second > 2e6, "{after:?}");
    daemon.stop().unwrap();
}

/// Frames received from guests and block requests completed since the daemon started.
fn moved(daemon: &Daemon) -> (u64, u64) {
    let sum = |list: &serde_json::Value, key: &str| -> u64 {
        list.as_array()
            .unwrap()
            .iter()
            .map(|row| row[key].as_u64().unwrap())
            .sum()
    };
    let ports = daemon.cli_json(&["stats", "port"]).unwrap();
    let volumes = daemon.cli_json(&["stats", "volume"]).unwrap();
    (
        sum(&ports, "rx_packets"),
        sum(&volumes, "reads") + sum(&volumes, "writes"),
    )
}

/// Moments that differ from run to run (xorshift64); the seed is printed, so that a run can be told from another.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
            | 1;
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

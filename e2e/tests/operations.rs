//! What an operator does while guests work: a disk made larger, a rule that drops and counts and outlives the daemon, a
//! packet traced, frames captured in a file that Wireshark reads.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sumeru_e2e::workload::{SHORT, address, iperf, iperf_server, ping};
use sumeru_e2e::{
    Config, Daemon, Disk, Guest, Lifetime, Nic, boot_all, peers, place::SocketFolder, process,
};

const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
const DROP_PING: &str =
    "ingress pattern eth / ipv4 dst is 10.0.0.2 / icmp type is 8 / end actions count / drop / end";

struct Site {
    // In the order of ending.
    guests: Vec<Guest>,
    daemon: Daemon,
    folder: SocketFolder,
}

fn site() -> Site {
    let folder = SocketFolder::create("ops").unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut config = Config::new("n1", 0).network("blue", 100, &[], 1500);
    let mut guests = Vec::new();
    for (number, mac) in (1..).zip(MACS) {
        let name = format!("g{number}");
        let (net, blk) = (at(&format!("{name}.net")), at(&format!("{name}.blk")));
        let image = at(&format!("{name}.img"));
        config = config
            .port(&name, &net, "blue", mac)
            .disk(&name, &image, 64, &blk);
        guests.push(
            Guest::builder(&name)
                .memory(256)
                .nic(Nic::new(net, mac))
                .disk(Disk::new(blk)),
        );
    }
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let daemon = Daemon::start("n1", None, &at("n1.toml"), &at("rpc"), Lifetime::Bound).unwrap();
    let guests = boot_all(guests).unwrap();
    address(&guests[0], "10.0.0.1/24", 1500).unwrap();
    address(&guests[1], "10.0.0.2/24", 1500).unwrap();
    assert!(ping(&guests[0], "10.0.0.2", 3, 56).unwrap() > 0);
    Site {
        guests,
        daemon,
        folder,
    }
}

#[test]
fn an_operator_at_work() {
    let mut site = site();
    larger_disk(&site);
    dropped_and_counted(&mut site);
    traced(&site);
    captured(&site);
    site.daemon.stop().unwrap();
}

fn sumeru(site: &Site, arguments: &str) -> String {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let text = site.daemon.cli(&words).unwrap().success(arguments).unwrap();
    println!("$ sumeru {arguments}\n{text}");
    text
}

fn larger_disk(site: &Site) {
    let guest = &site.guests[0];
    let sectors = || {
        guest
            .check("cat /sys/block/vda/size", SHORT)
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(sectors(), (64 << 11).to_string());
    sumeru(site, "volume resize g1 96MiB");
    let deadline = Instant::now() + Duration::from_secs(10);
    while sectors() != (96 << 11).to_string() {
        assert!(
            Instant::now() < deadline,
            "the guest still sees {} sectors",
            sectors()
        );
    }
    // The new part holds data.
    let script = "echo beyond | dd of=/dev/vda bs=512 seek=180000 conv=sync,fsync 2>/dev/null && \
        dd if=/dev/vda bs=512 skip=180000 count=1 iflag=direct 2>/dev/null | head -n 1";
    assert_eq!(guest.check(script, SHORT).unwrap(), "beyond\n");
    assert_eq!(
        site.guests[1]
            .check("cat /sys/block/vda/size", SHORT)
            .unwrap()
            .trim(),
        "131072"
    );
}

fn dropped_and_counted(site: &mut Site) {
    sumeru(site, &format!("flow create g1 {DROP_PING}"));
    let id = site.daemon.cli_json(&["flow", "list", "g1"]).unwrap()[0]["id"].to_string();
    let hits = |site: &Site| {
        let count = site.daemon.cli_json(&["flow", "query", "g1", &id]).unwrap();
        count["hits"]
            .as_u64()
            .or(count["packets"].as_u64())
            .unwrap()
    };
    let [g1, g2] = &site.guests[..] else {
        unreachable!()
    };
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 0);
    assert_eq!(hits(site), 3);
    sumeru(site, &format!("flow query g1 {id}"));
    // Only what the rule says: the other way round, and TCP.
    assert_eq!(ping(g2, "10.0.0.1", 3, 56).unwrap(), 3);
    iperf_server(g2).unwrap();
    assert!(iperf(g1, "10.0.0.2", 1).unwrap().bytes > 100_000);
    assert_eq!(hits(site), 3);

    // The rule was made at run time, and is there after a crash.
    site.daemon.restart().unwrap();
    let [g1, g2] = &site.guests[..] else {
        unreachable!()
    };
    let deadline = Instant::now() + SHORT;
    while ping(g2, "10.0.0.1", 1, 56).unwrap() == 0 {
        assert!(
            Instant::now() < deadline,
            "no ping from g2 to g1 after the restart"
        );
    }
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 0);
    assert!(hits(site) >= 3);
    sumeru(site, &format!("flow destroy g1 {id}"));
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 3);
}

fn traced(site: &Site) {
    let packet = format!(
        "trace g1 eth src {} dst {} / ipv4 src 10.0.0.1 dst 10.0.0.2 / icmp type 8",
        MACS[0], MACS[1]
    );
    let trace = |packet: &str| -> Value {
        let words: Vec<&str> = packet.split_whitespace().collect();
        // Options stand before the packet, which takes the rest of the line.
        let all: Vec<&str> = ["--json"].into_iter().chain(words).collect();
        let text = site.daemon.cli(&all).unwrap().success(packet).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let passed = trace(&packet);
    println!("{passed}");
    assert_eq!(passed["outputs"][0]["port"], "g2", "{passed}");
    sumeru(site, &format!("flow create g1 {DROP_PING}"));
    let dropped = trace(&packet);
    println!("{dropped}");
    assert_eq!(dropped["drop_reason"], "rule-drop", "{dropped}");
    assert_eq!(dropped["outputs"], Value::Array(Vec::new()));
    sumeru(site, "flow flush g1");
}

fn captured(site: &Site) {
    let g1 = &site.guests[0];
    let file = site.folder.path().join("frames.pcapng");
    sumeru(
        site,
        &format!("capture start --name c1 --write {}", file.display()),
    );
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 3);
    sumeru(site, &format!("flow create g1 {DROP_PING}"));
    assert_eq!(ping(g1, "10.0.0.2", 3, 56).unwrap(), 0);
    sumeru(site, "capture stop c1");
    sumeru(site, "flow flush g1");
    let tshark = |filter: &str, fields: &[&str]| -> Vec<String> {
        let mut command = Command::new(peers::system_program("tshark").unwrap());
        command
            .arg("-r")
            .arg(&file)
            .args(["-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let text = process::check(&mut command).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    // Three requests that went through: in at g1, out at g2; three that were dropped at g1.
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
    ];
    let requests = tshark("icmp.type == 8", &fields);
    println!("{requests:#?}");
    let count = |port: &str, comment: &str| {
        let wanted = |line: &&String| line.starts_with(port) && line.contains(comment);
        requests.iter().filter(wanted).count()
    };
    assert_eq!(count("g1", "dropped"), 3);
    assert_eq!(count("g1", ""), 6);
    assert_eq!(count("g2", ""), 3);
    assert_eq!(tshark("icmp.type == 0", &fields).len(), 6);
    // Every checksum is as the guest left it or right; nothing is malformed.
    assert_eq!(
        tshark("_ws.malformed", &["frame.number"]),
        Vec::<String>::new()
    );
}

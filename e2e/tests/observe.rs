//! Who looks at frames: captures that tshark and tcpdump read, mirrors to a port and by ERSPAN to a stock kernel, flows told to nfdump's collector.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::{self, Kernel};
use sumeru_e2e::place::{self, SocketFolder};
use sumeru_e2e::workload::{self, SHORT};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Process, process};

const MTU: u32 = 1500;

/// Two stations on one network and a third that is on none, each the kernel behind a TAP port.
struct Site {
    // In the order of ending.
    daemon: Daemon,
    ours: Namespace,
    stations: Vec<Namespace>,
    folder: SocketFolder,
}

fn stations(config: Config) -> Config {
    let config = config.network("blue", 100, &[], MTU);
    ["a", "b", "monitor"]
        .into_iter()
        .fold(config, |config, name| {
            let (name, ifname, network) =
                (quoted(name), quoted(&format!("tap-{name}")), quoted("blue"));
            let mut fields: Vec<(&str, &dyn std::fmt::Display)> = vec![
                ("name", &name),
                ("kind", &"\"tap\""),
                ("ifname", &ifname),
                ("mtu", &MTU),
            ];
            if name != quoted("monitor") {
                fields.push(("network", &network));
            }
            config.table("port", &fields)
        })
}

impl Site {
    fn start(ours: Namespace, config: Config) -> Self {
        let folder = SocketFolder::create("observe").unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("n1.toml"), stations(config).text()).unwrap();
        let daemon = Daemon::start(
            "n1",
            Some(&ours),
            &at("n1.toml"),
            &at("rpc"),
            Lifetime::Bound,
        )
        .unwrap();
        let stations = ["a", "b", "monitor"]
            .map(|name| {
                let (station, tap) = (Namespace::create(name).unwrap(), format!("tap-{name}"));
                ours.ip(&["link", "set", &tap, "netns", station.name()])
                    .unwrap();
                let mtu = MTU.to_string();
                station
                    .ip(&["link", "set", &tap, "mtu", &mtu, "up"])
                    .unwrap();
                station
            })
            .into();
        let site = Self {
            daemon,
            ours,
            stations,
            folder,
        };
        for (number, name) in [(0, "a"), (1, "b")] {
            let (tap, address) = (format!("tap-{name}"), format!("10.0.0.{}/24", number + 1));
            site.stations[number]
                .ip(&["address", "add", &address, "dev", &tap])
                .unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !site.ping(1).contains(" 0% packet loss") {
            assert!(Instant::now() < deadline, "a does not reach b");
        }
        site
    }

    /// From a to b.
    fn ping(&self, count: u32) -> String {
        let count = count.to_string();
        let all = ["-c", &count, "-i", "0.1", "-W", "1", "10.0.0.2"];
        self.stations[0].run("ping", &all).unwrap().stdout
    }

    fn sumeru(&self, arguments: &str) -> String {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        self.words(&words)
    }

    fn words(&self, words: &[&str]) -> String {
        let line = words.join(" ");
        let text = self.daemon.cli(words).unwrap().success(&line).unwrap();
        println!("$ sumeru {line}\n{text}");
        text
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One second of TCP from a to b.
    fn tcp(&self) {
        let server = started(&self.stations[1], "iperf3", &["-s"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let all = ["-J", "-t", "1", "-c", "10.0.0.2"];
            let output = self.stations[0].run("iperf3", &all).unwrap();
            if workload::stream(&output).is_some() {
                break;
            }
            assert!(Instant::now() < deadline, "{output:?}");
        }
        server.kill();
    }
}

fn started(namespace: &Namespace, program: &str, arguments: &[&str]) -> Process {
    let mut command = namespace.command(peers::system_program(program).unwrap());
    command.args(arguments);
    let log = place::logs(program).unwrap().join(format!("{program}.log"));
    Process::spawn(program, command, &log, Lifetime::Bound).unwrap()
}

/// Writes what an interface sees to a file, until it is stopped.
fn watched(namespace: &Namespace, interface: &str, file: &Path) -> Process {
    let text = file.display().to_string();
    let process = started(namespace, "tcpdump", &["-i", interface, "-U", "-w", &text]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        assert!(Instant::now() < deadline, "tcpdump does not write");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The file is there a moment before the socket listens.
    std::thread::sleep(Duration::from_millis(300));
    process
}

fn tshark(file: &Path, filter: &str, fields: &[&str], extra: &[&str]) -> Vec<String> {
    let mut command = Command::new(peers::system_program("tshark").unwrap());
    command
        .arg("-r")
        .arg(file)
        .args(["-Y", filter, "-T", "fields"]);
    command.args(extra);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = process::check(&mut command).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn bare_site() -> Site {
    Site::start(Namespace::create("ours").unwrap(), Config::new("n1", 0))
}

#[test]
fn captures_run_side_by_side_each_with_its_own_filter() {
    let mut site = bare_site();
    let start = |name: &str, options: &[&str]| {
        let file = site.file(&format!("{name}.pcapng"));
        let text = file.display().to_string();
        let fixed = ["capture", "start", "--name", name, "--write", &text];
        let all: Vec<&str> = fixed.iter().chain(options).copied().collect();
        site.words(&all);
        file
    };
    let icmp = start("icmp", &["--protocol", "icmp"]);
    let one_way = start(
        "way",
        &["--port", "b", "--direction", "egress", "--host", "10.0.0.1"],
    );
    let filter = "eth / ipv4 / tcp dst is 5201 / end";
    let tcp = start("tcp", &["--filter", filter, "--snaplen", "96"]);
    let few = start("few", &["--packets", "5"]);
    let small = start("small", &["--bytes", "8192"]);
    let sampled = start(
        "sampled",
        &["--protocol", "tcp", "--port", "a", "--sample", "20"],
    );
    let whole = start(
        "whole",
        &["--protocol", "tcp", "--port", "a", "--snaplen", "64"],
    );
    let brief = start("brief", &["--seconds", "1"]);
    assert!(site.ping(5).contains("5 received"));
    site.tcp();
    site.sumeru("capture list");
    let states = site.daemon.cli_json(&["capture", "list"]).unwrap();
    let running = |name: &str| {
        let all = states.as_array().unwrap();
        let one = all.iter().find(|state| state["name"] == name).unwrap();
        one["running"].as_bool().unwrap()
    };
    assert!(running("icmp") && running("tcp"));
    assert!(!running("few") && !running("small") && !running("brief"));
    for name in [
        "icmp", "way", "tcp", "few", "small", "sampled", "whole", "brief",
    ] {
        site.sumeru(&format!("capture stop {name}"));
    }
    // Five requests and five answers, each in by one port and out by the other.
    assert_eq!(tshark(&icmp, "frame", &["icmp.type"], &[]).len(), 20);
    assert_eq!(tshark(&icmp, "!icmp", &["frame.number"], &[]).len(), 0);
    let fields = ["frame.interface_name", "frame.packet_flags_direction"];
    let ways = tshark(&one_way, "icmp", &fields, &[]);
    assert!(ways.len() >= 5, "{ways:?}");
    assert!(ways.iter().all(|way| way == "b\t0x00000002"), "{ways:?}");
    let fields = ["tcp.dstport", "frame.cap_len"];
    let segments = tshark(&tcp, "frame", &fields, &[]);
    assert!(segments.len() > 100, "{}", segments.len());
    for segment in segments {
        let (port, length) = segment.split_once('\t').unwrap();
        assert_eq!(port, "5201");
        assert!(length.parse::<u32>().unwrap() <= 96);
    }
    assert_eq!(tshark(&few, "frame", &["frame.number"], &[]).len(), 5);
    let length = small.metadata().unwrap().len();
    assert!((2048..=8192).contains(&length), "{length}");
    // All but one of those there were before its second was over.
    assert!(!tshark(&brief, "icmp", &["frame.number"], &[]).is_empty());
    let count = |file: &Path| tshark(file, "frame", &["frame.number"], &[]).len();
    let (part, all) = (count(&sampled) as f64, count(&whole) as f64);
    println!("sampled {part} of {all}");
    assert!(
        (0.025..0.1).contains(&(part / all)),
        "one in 20: {part} of {all}"
    );
    // tcpdump reads them too.
    let mut tcpdump = Command::new(peers::system_program("tcpdump").unwrap());
    tcpdump.args(["-nr"]).arg(&icmp);
    let lines = process::check(&mut tcpdump).unwrap();
    assert_eq!(lines.matches("ICMP echo request").count(), 10, "{lines}");
    site.daemon.stop().unwrap();
}

#[test]
fn a_port_gets_copies_of_what_another_sends_and_receives() {
    let mut site = bare_site();
    site.sumeru("mirror create m1 --ports a --to-port monitor");
    let file = site.file("mirror.pcap");
    let watcher = watched(&site.stations[2], "tap-monitor", &file);
    assert!(site.ping(5).contains("5 received"));
    site.sumeru("mirror update m1 --direction ingress --protocol tcp");
    let stayed = |site: &Site| -> u64 {
        let lcores = site.daemon.cli_json(&["stats", "residence"]).unwrap();
        let classes = lcores[0]["classes"].as_array().unwrap();
        classes
            .iter()
            .map(|one| one["frames"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(stayed(&site), 0, "not measured unless asked for");
    site.sumeru("node update --residence true");
    site.tcp();
    site.sumeru("stats residence");
    assert!(stayed(&site) > 100);
    assert!(site.ping(3).contains("3 received"));
    site.sumeru("mirror list");
    let state = &site.daemon.cli_json(&["mirror", "show", "m1"]).unwrap()["state"];
    assert!(state["packets"].as_u64().unwrap() > 100, "{state}");
    assert_eq!(state["lost"], 0);
    let users = site.daemon.cli(&["port", "delete", "monitor"]).unwrap();
    assert!(users.stderr.contains("mirror m1"), "{users:?}");
    std::thread::sleep(Duration::from_millis(300));
    watcher.stop(SHORT).unwrap();
    let types = tshark(&file, "icmp", &["icmp.type"], &[]);
    let of = |kind: &str| types.iter().filter(|one| *one == kind).count();
    // Before the mirror was narrowed, not after.
    assert_eq!((of("8"), of("0")), (5, 5));
    let to = tshark(&file, "tcp.len > 0", &["ip.dst"], &[]);
    assert!(to.len() > 100 && to.iter().all(|to| to == "10.0.0.2"));
    let wrong = "_ws.malformed || icmp.checksum.status == 0";
    let verify = ["-o", "ip.check_checksum:TRUE"];
    assert_eq!(tshark(&file, wrong, &["frame.number"], &verify).len(), 0);
    site.sumeru("mirror delete m1");
    site.sumeru("port delete monitor");
    site.daemon.stop().unwrap();
}

#[test]
fn a_stock_kernel_takes_mirrored_frames_out_of_erspan() {
    let ours = Namespace::create("ours").unwrap();
    let wire = format!("er{}", std::process::id());
    let guest = Guest::builder("collector")
        .memory(256)
        .initramfs(Initramfs::new(Kernel::V6_1).module("ip_gre").program("ip"))
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
    ours.ip(&["link", "set", &wire, "mtu", "1600", "up"])
        .unwrap();
    let device = |name: &str, rest: &str| {
        format!(
            "/bin/ip link add {name} type erspan seq local 192.0.2.2 remote 192.0.2.1 {rest}; ip link set {name} up promisc on; "
        )
    };
    let script = format!(
        "set -e; ip link set eth0 up; ip address add 192.0.2.2/24 dev eth0; {}{}",
        device("e2", "key 5 erspan_ver 1 erspan 123"),
        device("e3", "key 6 erspan_ver 2 erspan_dir ingress erspan_hwid 5")
    );
    guest.check(&script, SHORT).unwrap();
    let config = Config::new("n1", 0).uplink("af-packet", &wire, "192.0.2.1/24", 1600);
    let mut site = Site::start(ours, config);
    let file = site.file("erspan.pcap");
    let watcher = watched(&site.ours, &wire, &file);
    let common = "--ports a --protocol icmp --collector 192.0.2.2";
    site.sumeru(&format!(
        "mirror create two {common} --session 5 --index 123"
    ));
    site.sumeru(&format!(
        "mirror create three {common} --session 6 --erspan-type 3 --index 5 --direction ingress"
    ));
    let lost = |name: &str| {
        let mirror = site.daemon.cli_json(&["mirror", "show", name]).unwrap();
        mirror["state"]["lost"].as_u64().unwrap()
    };
    // The collector's link-layer address is asked for first.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let before = (lost("two"), lost("three"));
        site.ping(1);
        if before == (lost("two"), lost("three")) {
            break;
        }
        assert!(Instant::now() < deadline, "no way to the collector");
    }
    let count = |device: &str, what: &str| -> u64 {
        let path = format!("cat /sys/class/net/{device}/statistics/{what}");
        guest.check(&path, SHORT).unwrap().trim().parse().unwrap()
    };
    let before = [count("e2", "rx_packets"), count("e3", "rx_packets")];
    let dropped = count("e2", "rx_errors") + count("e3", "rx_errors");
    assert!(site.ping(5).contains("5 received"));
    let long = ["-c", "2", "-i", "0.1", "-s", "3000", "10.0.0.2"];
    site.stations[0].run("ping", &long).unwrap();
    site.sumeru("mirror list");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let two = count("e2", "rx_packets") - before[0];
        let three = count("e3", "rx_packets") - before[1];
        // Requests and answers, and requests alone; of the long ones the first fragments, which have the ICMP header, and those
        // behind, which are ICMP too.
        if (two, three) == (5 * 2 + 2 * 3 * 2, 5 + 2 * 3) {
            break;
        }
        assert!(Instant::now() < deadline, "{two} {three}");
    }
    assert_eq!(count("e2", "rx_errors") + count("e3", "rx_errors"), dropped);
    watcher.stop(SHORT).unwrap();
    // What Wireshark makes of it.
    let fields = [
        "erspan.spanid",
        "erspan.version",
        "gre.sequence_number",
        "icmp.type",
    ];
    // The guest's devices talk too, about themselves.
    let decoded = tshark(&file, "erspan && ip.src == 192.0.2.1", &fields, &[]);
    decoded.iter().take(4).for_each(|line| println!("{line}"));
    assert!(decoded.iter().any(|line| line.starts_with("5\t1\t")));
    assert!(decoded.iter().any(|line| line.starts_with("6\t2\t")));
    let of_session = |session: &str| -> Vec<u32> {
        let lines = decoded.iter().filter(|line| line.starts_with(session));
        lines
            .map(|line| line.split('\t').nth(2).unwrap().parse().unwrap())
            .collect()
    };
    for sequence in [of_session("5\t"), of_session("6\t")] {
        let expected: Vec<u32> = (0..sequence.len() as u32).collect();
        assert_eq!(sequence, expected);
    }
    assert_eq!(
        tshark(&file, "_ws.malformed", &["frame.number"], &[]),
        Vec::<String>::new()
    );
    site.daemon.stop().unwrap();
}

#[test]
fn flows_are_told_to_a_collector() {
    let mut site = bare_site();
    let flows = site.file("flows");
    std::fs::create_dir(&flows).unwrap();
    let collector = started(
        &site.ours,
        "nfcapd",
        &[
            "-p",
            "4739",
            "-b",
            "127.0.0.1",
            "-w",
            &flows.display().to_string(),
        ],
    );
    let file = site.file("ipfix.pcap");
    let watcher = watched(&site.ours, "lo", &file);
    collector.check_running().unwrap();
    site.sumeru(
        "exporter create e1 --collector 127.0.0.1:4739 --ports a,b --active-timeout-s 2 --idle-timeout-s 1 --template-s 1 --domain 42",
    );
    assert!(site.ping(5).contains("5 received"));
    let all = [
        "-J", "-u", "-b", "1M", "-t", "4", "-l", "1000", "-c", "10.0.0.2",
    ];
    let server = started(&site.stations[1], "iperf3", &["-s"]);
    std::thread::sleep(Duration::from_millis(300));
    let output = site.stations[0].run("iperf3", &all).unwrap();
    let result: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let sent = result["end"]["sum"]["packets"].as_u64().unwrap();
    server.kill();
    // The last of them is over and told.
    std::thread::sleep(Duration::from_secs(3));
    site.sumeru("exporter list");
    let state = site.daemon.cli_json(&["exporter", "show", "e1"]).unwrap()["state"].clone();
    println!("{state}");
    assert_eq!(
        (&state["lost"], &state["unmetered"]),
        (&0.into(), &0.into())
    );
    let told = state["records"].as_u64().unwrap();
    site.sumeru("exporter delete e1");
    std::thread::sleep(Duration::from_millis(500));
    watcher.stop(SHORT).unwrap();
    collector.stop(SHORT).unwrap();

    let decode = ["-d", "udp.port==4739,cflow"];
    let messages = tshark(
        &file,
        "cflow",
        &["cflow.version", "cflow.od_id", "cflow.sequence"],
        &decode,
    );
    messages.iter().take(5).for_each(|line| println!("{line}"));
    assert!(messages.iter().all(|line| line.starts_with("10\t42\t")));
    let wrong =
        "_ws.malformed || cflow.no_template_found || _ws.expert.message contains \"sequence\"";
    assert_eq!(
        tshark(&file, wrong, &["frame.number"], &decode),
        Vec::<String>::new()
    );
    let templates = tshark(&file, "cflow.template_id", &["frame.number"], &decode);
    assert!(templates.len() >= 5, "one a second: {templates:?}");

    let mut nfdump = Command::new(peers::system_program("nfdump").unwrap());
    nfdump.args(["-R"]).arg(&flows).args([
        "-q",
        "-o",
        "fmt:%pr %sa %da %sp %dp %pkt %byt %in %out",
    ]);
    let text = process::check(&mut nfdump).unwrap();
    println!("{text}");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<&str>>())
        .filter(|row| row.len() == 9)
        .collect();
    let sum = |proto: &str, from: &str, to: &str| {
        let rows = rows
            .iter()
            .filter(|row| row[0] == proto && row[1] == from && row[2] == to);
        rows.map(|row| {
            (
                1,
                row[5].parse::<u64>().unwrap(),
                row[6].parse::<u64>().unwrap(),
            )
        })
        .fold((0, 0, 0), |all, one| {
            (all.0 + one.0, all.1 + one.1, all.2 + one.2)
        })
    };
    // IP packets of 84 bytes each way.
    assert_eq!(sum("ICMP", "10.0.0.1", "10.0.0.2"), (1, 5, 5 * 84));
    assert_eq!(sum("ICMP", "10.0.0.2", "10.0.0.1"), (1, 5, 5 * 84));
    let (parts, packets, bytes) = sum("UDP", "10.0.0.1", "10.0.0.2");
    assert!(parts >= 2, "told of while it goes on: {parts}");
    // And one that opens the stream.
    assert!((sent..=sent + 1).contains(&packets), "{packets} of {sent}");
    assert!(
        bytes > sent * 1028 - 1028 && bytes <= (sent + 1) * 1028,
        "{bytes}"
    );
    assert!(told >= rows.len() as u64);
    site.daemon.stop().unwrap();
}

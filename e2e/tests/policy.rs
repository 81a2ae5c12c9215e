//! Policies in force: stock guests and a kernel's TAP interface on one network, with security groups, port security, blocklists and rates between them.

#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::{SHORT, address, iperf, iperf_server, ping};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Nic, Process, boot_all};

const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

/// Two guests with groups (10.0.0.1 in `web`, 10.0.0.2 in `app`), and 10.0.0.3 without, in a namespace.
struct Node {
    daemon: Daemon,
    guests: Vec<Guest>,
    ours: Namespace,
    _folder: SocketFolder,
}

impl Node {
    fn start() -> Self {
        let folder = SocketFolder::create("policy").unwrap();
        let at = |name: &str| folder.path().join(name);
        let ours = Namespace::create("ours").unwrap();
        let list = |texts: &[&str]| format!("{texts:?}");
        let web = list(&[
            "ingress tcp 5201 from group app",
            "ingress icmp from 10.0.0.0/24",
            "egress",
        ]);
        let app = list(&["egress"]);
        let mut config = Config::new("n1", 0).network("blue", 100, &[], 1500);
        for (name, rules) in [("web", web), ("app", app)] {
            let fields: [(&str, &dyn Display); 2] = [("name", &quoted(name)), ("rules", &rules)];
            config = config.table("security-group", &fields);
        }
        let mut guests = Vec::new();
        for (number, (mac, group)) in (1..).zip(MACS.into_iter().zip(["web", "app"])) {
            let name = format!("g{number}");
            let socket = at(&format!("{name}.net"));
            let fields: [(&str, &dyn Display); 8] = [
                ("name", &quoted(&name)),
                ("kind", &quoted("vhost-user")),
                ("socket", &quoted(&socket.display().to_string())),
                ("network", &quoted("blue")),
                ("mac", &quoted(mac)),
                ("port_security", &true),
                ("addresses", &list(&[&format!("10.0.0.{number}")])),
                ("security_groups", &list(&[group])),
            ];
            config = config.table("port", &fields);
            guests.push(Guest::builder(&name).memory(256).nic(Nic::new(socket, mac)));
        }
        let fields: [(&str, &dyn Display); 4] = [
            ("name", &quoted("t3")),
            ("kind", &quoted("tap")),
            ("ifname", &quoted("tap3")),
            ("network", &quoted("blue")),
        ];
        config = config.table("port", &fields);
        std::fs::write(at("n1.toml"), config.text()).unwrap();
        let daemon = Daemon::start(
            "n1",
            Some(&ours),
            &at("n1.toml"),
            &at("rpc"),
            Lifetime::Bound,
        )
        .unwrap();
        ours.ip(&["link", "set", "tap3", "up"]).unwrap();
        ours.ip(&["address", "add", "10.0.0.3/24", "dev", "tap3"])
            .unwrap();
        let guests = boot_all(guests).unwrap();
        for (number, guest) in (1..).zip(&guests) {
            address(guest, &format!("10.0.0.{number}/24"), 1500).unwrap();
        }
        Self {
            daemon,
            guests,
            ours,
            _folder: folder,
        }
    }

    /// Echo requests of the namespace that are answered, of three.
    fn pings(&self, target: &str) -> usize {
        let all = ["-c", "3", "-i", "0.2", "-W", "2", target];
        let output = self.ours.run("ping", &all).unwrap();
        output.stdout.matches("bytes from").count()
    }

    fn drops(&self, reason: &str) -> u64 {
        let stats = self.daemon.call("stats.drop", &json!({})).unwrap();
        let rows = stats.as_array().unwrap().iter();
        rows.filter(|row| row["reason"] == reason)
            .map(|row| row["packets"].as_u64().unwrap())
            .sum()
    }

    fn call(&self, method: &str, params: &Value) -> Value {
        self.daemon.call(method, params).unwrap()
    }
}

#[test]
fn groups_blocklists_port_security_and_rates_hold_between_guests() {
    let mut node = Node::start();
    let [web, app] = &node.guests[..] else {
        unreachable!()
    };

    // What a group allows, its answers, and nothing else; who is in no group is filtered by nobody but the others.
    assert_eq!(ping(app, "10.0.0.1", 3, 56).unwrap(), 3);
    assert_eq!(ping(web, "10.0.0.3", 3, 56).unwrap(), 3);
    assert_eq!(node.pings("10.0.0.1"), 3);
    assert_eq!(ping(web, "10.0.0.2", 3, 56).unwrap(), 0);
    assert_eq!(node.pings("10.0.0.2"), 0);
    assert!(node.drops("rule-drop") >= 6);
    // Fragments there and back.
    assert_eq!(ping(app, "10.0.0.1", 3, 4000).unwrap(), 3);

    // A service for one group only.
    iperf_server(web).unwrap();
    let stream = iperf(app, "10.0.0.1", 3).unwrap();
    println!(
        "{:.0} Mbit/s under two stateful groups",
        stream.bits_per_second / 1e6
    );
    assert!(stream.bits_per_second > 2e6, "{stream:?}");
    let connect = |port: &str| {
        let script = format!("exec 3<>/dev/tcp/10.0.0.1/{port}");
        let output = node.ours.run("timeout", &["2", "bash", "-c", &script]);
        output.is_ok_and(|output| output.status == 0)
    };
    assert!(!connect("5201"));
    let explained = node
        .daemon
        .cli(&[
            "policy",
            "explain",
            "t3",
            "eth",
            "src",
            "52:54:00:00:00:03",
            "dst",
            MACS[0],
            "/",
            "ipv4",
            "src",
            "10.0.0.3",
            "dst",
            "10.0.0.1",
            "/",
            "tcp",
            "dst",
            "5201",
        ])
        .unwrap()
        .success("explain")
        .unwrap();
    let reason = "no rule of the port's security groups allows it";
    assert!(explained.contains(reason), "{explained}");
    // The rule changes under a running service.
    let rules = json!(["ingress tcp 5201 from 10.0.0.3", "ingress icmp", "egress"]);
    node.call(
        "security-group.update",
        &json!({"name": "web", "rules": rules}),
    );
    assert!(connect("5201"));

    // A guest has its own address and no other.
    app.check("ip address add 10.0.0.9/24 dev eth0", SHORT)
        .unwrap();
    let spoofed = app
        .run("ping -c 2 -W 2 -I 10.0.0.9 10.0.0.3", SHORT)
        .unwrap();
    assert_ne!(spoofed.status, 0, "{spoofed:?}");
    assert_eq!(ping(app, "10.0.0.3", 3, 56).unwrap(), 3);

    // A blocklist ends what exists.
    assert_eq!(node.pings("10.0.0.1"), 3);
    let set = json!({"name": "bad", "prefixes": ["10.0.0.3"]});
    node.call("address-set.create", &set);
    let list = json!({"name": "bad", "address_set": "bad", "direction": "ingress"});
    node.call("blocklist.create", &list);
    assert_eq!(node.pings("10.0.0.1"), 0);
    assert_eq!(ping(app, "10.0.0.1", 3, 56).unwrap(), 3);
    node.call("blocklist.delete", &json!({"name": "bad"}));
    assert_eq!(node.pings("10.0.0.1"), 3);

    // Ports that may not talk to each other.
    let apart = json!({"name": "apart", "mode": "deny", "ports": ["g2", "t3"]});
    node.call("isolation.create", &apart);
    assert_eq!(ping(app, "10.0.0.3", 3, 56).unwrap(), 0);
    assert_eq!(ping(app, "10.0.0.1", 3, 56).unwrap(), 3);
    node.call("isolation.delete", &json!({"name": "apart"}));
    assert_eq!(ping(app, "10.0.0.3", 3, 56).unwrap(), 3);

    // What is sent above a rate is dropped: 64 packets a second, of which 8 may come at once.
    let rate = json!({"name": "t3", "rx_rate_packets": 64, "rate_burst_ms": 100});
    node.call("port.update", &rate);
    let started = Instant::now();
    let all = ["-c", "200", "-i", "0.002", "-W", "1", "10.0.0.1"];
    let flood = node.ours.run("ping", &all).unwrap();
    let answered = flood.stdout.matches("bytes from").count();
    let most = 16.0 + 64.0 * started.elapsed().as_secs_f64();
    println!(
        "{answered} of 200 packets passed a rate of 64 a second in {:?}",
        started.elapsed()
    );
    assert!(
        answered > 4 && (answered as f64) < most.min(190.0),
        "{answered} {most}"
    );
    assert!(node.drops("meter-drop") > 10);
    let none = json!({"name": "t3", "rx_rate_packets": null});
    node.call("port.update", &none);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(node.pings("10.0.0.1"), 3);
    node.daemon.stop().unwrap();
}

/// A server in a namespace, with its output in a log.
fn serve(ours: &Namespace, log: &Path, program: &str, arguments: &[&str]) -> Process {
    let mut command = ours.command(program);
    command.args(arguments);
    Process::spawn(program, command, log, Lifetime::Bound).unwrap()
}

/// A guest's curl and iperf3 under source translation, and a server of the guest's under destination translation.
#[test]
fn a_guest_behind_translation_asks_and_is_asked() {
    let folder = SocketFolder::create("nat").unwrap();
    let at = |name: &str| folder.path().join(name);
    let ours = Namespace::create("ours").unwrap();
    let config = Config::new("n1", 0)
        .network("blue", 100, &[], 1500)
        .port("g1", &at("g1.net"), "blue", MACS[0])
        .table(
            "port",
            &[
                ("name", &quoted("t3")),
                ("kind", &quoted("tap")),
                ("ifname", &quoted("tap3")),
                ("network", &quoted("blue")),
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
    for rule in [
        "g1 ingress pattern eth / ipv4 / end actions ct zone 7 nat_restore group 1 / end",
        "g1 group 1 priority 1 ingress pattern eth / ct state is +new-rpl / end actions ct zone 7 commit nat_src addr 10.0.0.100 port 20000-29999 group 2 / end",
        "g1 group 1 priority 2 ingress pattern eth / ct state is -inv / end actions jump group 2 / end",
        "g1 group 1 priority 3 ingress pattern eth / end actions drop / end",
        "t3 ingress pattern eth / ipv4 dst is 10.0.0.100 / end actions ct zone 7 nat_restore group 3 / end",
        "t3 group 3 priority 1 ingress pattern eth / ct state is +est / end actions jump group 2 / end",
        "t3 group 3 priority 2 ingress pattern eth / end actions drop / end",
        "t3 ingress pattern eth / ipv4 dst is 10.0.0.200 / tcp / end actions ct zone 7 nat_restore group 4 / end",
        "t3 group 4 priority 1 ingress pattern eth / ct state is +new / end actions ct zone 7 commit nat_dst addr 10.0.0.1 port 8080 group 2 / end",
        "t3 group 4 priority 2 ingress pattern eth / end actions jump group 2 / end",
        "g1 group 2 transfer pattern eth / end actions passthru / end",
    ] {
        let words: Vec<&str> = ["flow", "create"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        daemon.cli(&words).unwrap().success(rule).unwrap();
    }
    for arguments in [
        "link set tap3 up",
        "address add 10.0.0.3/24 dev tap3",
        "neighbour add 10.0.0.100 lladdr 52:54:00:00:00:01 dev tap3",
        "neighbour add 10.0.0.200 lladdr 52:54:00:00:00:01 dev tap3",
    ] {
        ours.ip(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
    }
    std::fs::create_dir(at("www")).unwrap();
    std::fs::write(at("www/hello"), "from the namespace").unwrap();
    let www = at("www").display().to_string();
    // It says on standard error who asked.
    let arguments = ["-u", "-m", "http.server", "8000", "--directory", &www];
    let web = serve(&ours, &at("www.log"), "python3", &arguments);
    let _iperf = serve(&ours, &at("iperf.log"), "iperf3", &["-s"]);
    let guest = Guest::builder("g1")
        .memory(256)
        .initramfs(
            Initramfs::new(Kernel::V6_1)
                .program("curl")
                .program("iperf3"),
        )
        .nic(Nic::new(at("g1.net"), MACS[0]))
        .boot()
        .unwrap();
    address(&guest, "10.0.0.1/24", 1500).unwrap();

    let got = guest
        .check(
            "/bin/curl -s --max-time 10 --retry 5 --retry-connrefused http://10.0.0.3:8000/hello",
            SHORT,
        )
        .unwrap();
    assert_eq!(got.trim(), "from the namespace");
    let asked = std::fs::read_to_string(web.log()).unwrap();
    assert!(
        asked.contains("10.0.0.100 - - ") && !asked.contains("10.0.0.1 -"),
        "{asked}"
    );
    // Nobody may ask the translated address, which answers only.
    let refused = ours.run(
        "curl",
        &["-s", "--max-time", "2", "http://10.0.0.100:8080/"],
    );
    assert!(refused.is_ok_and(|output| output.status != 0));

    // The address that stands for the guest's server.
    guest
        .check("mkdir -p /tmp/www && echo from the guest > /tmp/www/hello && httpd -p 8080 -h /tmp/www", SHORT)
        .unwrap();
    let got = ours
        .run(
            "curl",
            &["-s", "--max-time", "10", "http://10.0.0.200/hello"],
        )
        .unwrap();
    assert_eq!(got.stdout.trim(), "from the guest");

    // Much at once, and pings, whose identifiers are translated.
    let stream = iperf(&guest, "10.0.0.3", 3).unwrap();
    println!(
        "{:.0} Mbit/s under translation",
        stream.bits_per_second / 1e6
    );
    assert!(stream.bits_per_second > 2e6, "{stream:?}");
    assert_eq!(ping(&guest, "10.0.0.3", 3, 56).unwrap(), 3);
    daemon.stop().unwrap();
}

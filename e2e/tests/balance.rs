//! Load balancers with stock servers and clients: busybox's web server and socat in three guests, curl in a fourth and in the kernel of a namespace behind a
//! router. Members are probed by the daemon itself; servers stop, hang and come back.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::{SHORT, ping};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Nic, boot_all};

/// Servers 1 to 3 and client 4 on blue.
const GUESTS: usize = 4;

fn mac(number: usize) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// The fields of a load balancer of the three servers.
fn balancer(name: &str, address: &str, port: u16, algorithm: &str) -> Value {
    let members = (1..=3).map(|n| match address.contains(':') {
        true => format!("[2001:db8:1::{n}]:8080"),
        false => format!("10.0.1.{n}:8080"),
    });
    let source = match address.contains(':') {
        true => "2001:db8:1::fd",
        false => "10.0.1.253",
    };
    json!({
        "name": name, "network": "blue", "address": address, "protocol": "tcp", "port": port,
        "algorithm": algorithm, "members": members.collect::<Vec<_>>(),
        "monitor": "http", "monitor_source": source, "http_path": "/health",
        "interval_ms": 1000, "timeout_ms": 1000, "rise": 1, "fall": 2,
    })
}

fn config(folder: &Path) -> String {
    let mut config = Config::new("n1", 0);
    type Fields<'a> = Vec<(&'a str, &'a dyn Display)>;
    let mut table = |kind: &str, fields: Fields<'_>| {
        config = config.clone().table(kind, &fields);
    };
    let list = |texts: &[&str]| format!("{texts:?}");
    let q = quoted;
    for (number, name) in [(1, "blue"), (2, "red")] {
        table(
            "network",
            vec![("name", &q(name)), ("vni", &(100 * number))],
        );
        for (family, prefix, gateway) in [
            (
                4,
                format!("10.0.{number}.0/24"),
                format!("10.0.{number}.254"),
            ),
            (
                6,
                format!("2001:db8:{number}::/64"),
                format!("2001:db8:{number}::fe"),
            ),
        ] {
            table(
                "subnet",
                vec![
                    ("name", &q(&format!("{name}{family}"))),
                    ("network", &q(name)),
                    ("prefix", &q(&prefix)),
                    ("gateway", &q(&gateway)),
                ],
            );
        }
    }
    table(
        "router",
        vec![("name", &q("r1")), ("networks", &list(&["blue", "red"]))],
    );
    // What comes to a server comes from its client, and goes to its own port: the balancer's address is in no rule.
    let rules = list(&[
        "egress",
        "ingress icmp",
        "ingress icmp6",
        "ingress tcp 8080 from 10.0.0.0/16",
        "ingress udp 5353 from 10.0.0.0/16",
        "ingress tcp 8080 from 2001:db8::/32",
    ]);
    table(
        "security-group",
        vec![("name", &q("servers")), ("rules", &rules)],
    );
    for number in 1..=GUESTS {
        let socket = folder.join(format!("g{number}.net"));
        let addresses = [format!("10.0.1.{number}"), format!("2001:db8:1::{number}")];
        table(
            "port",
            vec![
                ("name", &q(&format!("g{number}"))),
                ("kind", &q("vhost-user")),
                ("socket", &q(&socket.display().to_string())),
                ("network", &q("blue")),
                ("mac", &q(&mac(number))),
                ("port_security", &true),
                ("security_groups", &list(&["servers"])),
                ("addresses", &format!("{addresses:?}")),
            ],
        );
    }
    table(
        "port",
        vec![
            ("name", &q("t5")),
            ("kind", &q("tap")),
            ("ifname", &q("tap5")),
            ("network", &q("red")),
        ],
    );
    config.text()
}

struct Site {
    daemon: Daemon,
    guests: Vec<Guest>,
    /// Of the daemon, with a tap on red.
    red: Namespace,
    folder: SocketFolder,
}

impl Site {
    fn start() -> Self {
        let folder = SocketFolder::create("balance").unwrap();
        let at = |name: &str| folder.path().join(name);
        let red = Namespace::create("red").unwrap();
        std::fs::write(at("n1.toml"), config(folder.path())).unwrap();
        let daemon = Daemon::start(
            "n1",
            Some(&red),
            &at("n1.toml"),
            &at("rpc"),
            Lifetime::Bound,
        )
        .unwrap();
        let ip = |text: &str| {
            red.ip(&text.split(' ').collect::<Vec<_>>()).unwrap();
        };
        ip("link set tap5 up");
        ip("route add 10.0.1.0/24 dev tap5");
        ip("address add 10.0.2.5/24 dev tap5");
        ip("route replace 10.0.1.0/24 via 10.0.2.254");
        for number in 10..50 {
            ip(&format!("address add 10.0.2.{number}/24 dev tap5"));
        }
        let guests = (1..=GUESTS).map(|number| {
            let nic = Nic::new(at(&format!("g{number}.net")), &mac(number));
            let programs = Initramfs::new(Kernel::V6_1)
                .program("curl")
                .program("socat");
            Guest::builder(&format!("g{number}"))
                .memory(192)
                .initramfs(programs)
                .nic(nic)
        });
        let guests = boot_all(guests.collect()).unwrap();
        for (guest, number) in guests.iter().zip(1..) {
            let set_up = format!(
                "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up; ip address add 10.0.1.{number}/24 dev eth0; ip route add default via 10.0.1.254; \
                 ip -6 address add 2001:db8:1::{number}/64 dev eth0"
            );
            guest.check(&set_up, SHORT).unwrap();
        }
        for (guest, number) in guests[..3].iter().zip(1..) {
            let serve = format!(
                "mkdir -p /www; echo g{number} > /www/index.html; echo well > /www/health; httpd -h /www -p 8080; \
                 socat UDP-RECVFROM:5353,fork SYSTEM:'echo g{number}' > /dev/null 2>&1 &"
            );
            guest.check(&serve, SHORT).unwrap();
        }
        Self {
            daemon,
            guests,
            red,
            folder,
        }
    }

    fn make(&self, fields: &Value) {
        self.daemon.call("load-balancer.create", fields).unwrap();
    }

    fn update(&self, fields: &Value) {
        self.daemon.call("load-balancer.update", fields).unwrap();
    }

    fn state(&self, name: &str) -> Value {
        let shown = self
            .daemon
            .call("load-balancer.show", &json!({ "name": name }));
        shown.unwrap()["state"].clone()
    }

    /// Waits until so many members get connections.
    fn opens(&self, name: &str, members: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.state(name)["open"] != members {
            assert!(Instant::now() < deadline, "{}", self.state(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn client(&self) -> &Guest {
        &self.guests[3]
    }
}

/// Who answers a guest's calls of a page, one after the other.
fn pages(guest: &Guest, url: &str, calls: usize) -> Vec<String> {
    let script = format!("for n in $(seq {calls}); do curl -gsS -m 5 {url} || exit 1; done");
    let said = guest.check(&script, SHORT).unwrap();
    said.lines().map(str::to_owned).collect()
}

fn counts(names: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

fn current(state: &Value) -> Vec<u64> {
    let members = state["members"].as_array().unwrap().iter();
    members
        .map(|member| member["current"].as_u64().unwrap())
        .collect()
}

#[test]
fn members_serve_and_fail_and_come_back() {
    let mut site = Site::start();
    site.make(&balancer("hash", "10.0.1.100", 80, "source-hash"));
    site.make(&balancer("turn", "10.0.1.100", 81, "round-robin"));
    site.make(&balancer("least", "10.0.1.100", 82, "least-connections"));
    site.make(&balancer("six", "2001:db8:1::100", 80, "round-robin"));
    let mut names = balancer("names", "10.0.1.100", 53, "round-robin");
    let members: Vec<String> = (1..=3).map(|n| format!("10.0.1.{n}:5353")).collect();
    names["protocol"] = json!("udp");
    names["members"] = json!(members);
    names["monitor"] = json!("tcp");
    names["monitor_port"] = json!(8080);
    names.as_object_mut().unwrap().remove("http_path");
    site.make(&names);
    for name in ["hash", "turn", "least", "six", "names"] {
        site.opens(name, 3);
    }
    // Every member was probed twice: none of them is up for want of a probe.
    std::thread::sleep(Duration::from_secs(3));
    for name in ["hash", "turn", "least", "six", "names"] {
        site.opens(name, 3);
    }
    site.spread();
    site.routed();
    site.explained();
    site.least_loaded();
    site.stopped();
    site.hung();
    site.nobody();
    site.daemon.stop().unwrap();
    drop(site.folder);
}

impl Site {
    fn spread(&self) {
        let client = self.client();
        let all: BTreeMap<&str, usize> = [("g1", 4), ("g2", 4), ("g3", 4)].into();
        let said = pages(client, "http://10.0.1.100:81/", 12);
        let events = || self.daemon.call("event.list", &json!({}));
        assert_eq!(counts(&said), all, "{} {:?}", self.state("turn"), events());
        let six = "http://[2001:db8:1::100]/";
        assert_eq!(counts(&pages(client, six, 12)), all);
        // A sender stays where it is.
        let stays = pages(client, "http://10.0.1.100/", 10);
        assert_eq!(counts(&stays).len(), 1, "{stays:?}");
        // Datagrams: every question is from another port.
        let ask = "for n in 1 2 3 4 5 6; do echo who | socat -T 2 - UDP:10.0.1.100:53; done";
        let said = client.check(ask, SHORT).unwrap();
        let said: Vec<String> = said.lines().map(str::to_owned).collect();
        assert_eq!(counts(&said).into_values().collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(ping(client, "10.0.1.100", 2, 56).unwrap(), 2);
        // A server that calls its own address meets itself, too.
        let itself = pages(&self.guests[0], "http://10.0.1.100:81/", 6);
        assert_eq!(counts(&itself), [("g1", 2), ("g2", 2), ("g3", 2)].into());
        let itself = pages(&self.guests[1], six, 3);
        assert_eq!(counts(&itself).len(), 3);
        let state = self.state("turn");
        assert_eq!(state["connections"], 18);
        let members = state["members"].as_array().unwrap();
        assert!(
            members
                .iter()
                .all(|m| m["connections"] == 6 && m["bytes_out"].as_u64() > Some(0))
        );
    }

    /// Clients on another network, by the router: many senders are spread by their addresses.
    fn routed(&self) {
        let mut heard = BTreeMap::new();
        for number in 10..50 {
            let from = format!("10.0.2.{number}");
            let call = ["-sS", "-m", "5", "--interface", &from, "http://10.0.1.100/"];
            let said = self
                .red
                .run("curl", &call)
                .unwrap()
                .success("curl")
                .unwrap();
            heard.insert(number, said.trim().to_owned());
        }
        let names: Vec<String> = heard.into_values().collect();
        let counts = counts(&names);
        assert_eq!(
            counts.keys().copied().collect::<Vec<_>>(),
            ["g1", "g2", "g3"]
        );
        assert!(counts.values().all(|count| *count >= 4), "{counts:?}");
    }

    /// Traces say which member a packet would go to, and why.
    fn explained(&self) {
        let frame = format!(
            "eth src {} dst 06:73:75:00:00:64 / ipv4 src 10.0.1.4 dst 10.0.1.100 / tcp src 999 dst 81 flags syn",
            mac(4)
        );
        for command in ["policy explain g4", "trace g4"] {
            let words: Vec<&str> = command.split(' ').chain(frame.split(' ')).collect();
            let said = self.daemon.cli(&words).unwrap();
            let said = said.success(command).unwrap();
            let open = "load-balancer turn: 3 of 3 members open, 10.0.1.";
            assert!(
                said.contains(open) && said.contains("by round-robin"),
                "{said}"
            );
        }
    }

    fn least_loaded(&self) {
        // Six that stay, and say nothing.
        let client = self.client();
        let hold =
            "for n in 1 2 3 4 5 6; do (sleep 600 | nc 10.0.1.100 82) > /dev/null 2>&1 & done";
        client.check(hold, SHORT).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while current(&self.state("least")) != [2, 2, 2] {
            assert!(Instant::now() < deadline, "{}", self.state("least"));
            std::thread::sleep(Duration::from_millis(100));
        }
        // One that drains keeps its own and gets no others.
        let members = ["10.0.1.1:8080 drain", "10.0.1.2:8080", "10.0.1.3:8080"];
        self.update(&json!({ "name": "least", "members": members }));
        let said = pages(client, "http://10.0.1.100:82/", 6);
        assert!(!said.contains(&"g1".to_owned()), "{said:?}");
        assert_eq!(current(&self.state("least"))[0], 2);
        let shown = self.daemon.cli(&["load-balancer", "list"]).unwrap().stdout;
        assert!(shown.contains("2/3"), "{shown}");
    }

    /// A server ends: after the probes know, no call fails.
    fn stopped(&self) {
        self.guests[1].check("killall httpd", SHORT).unwrap();
        self.opens("turn", 2);
        let said = pages(self.client(), "http://10.0.1.100:81/", 20);
        assert_eq!(counts(&said), [("g1", 10), ("g3", 10)].into());
        // The senders of others stay with them.
        self.guests[1]
            .check("httpd -h /www -p 8080", SHORT)
            .unwrap();
        for name in ["hash", "turn", "least", "six", "names"] {
            self.opens(name, if name == "least" { 2 } else { 3 });
        }
        assert_eq!(
            counts(&pages(self.client(), "http://10.0.1.100:81/", 6)).len(),
            3
        );
        let events = self.daemon.call("event.list", &json!({})).unwrap();
        let told: BTreeSet<&str> = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["object"] == "load-balancer turn")
            .map(|event| event["what"].as_str().unwrap())
            .collect();
        assert!(told.contains("down") && told.contains("up"), "{events}");
    }

    /// A server that takes connections and answers nothing: what it had ends as well.
    fn hung(&self) {
        assert!(current(&self.state("least"))[2] >= 2);
        self.guests[2].check("killall -STOP httpd", SHORT).unwrap();
        self.opens("turn", 2);
        let deadline = Instant::now() + Duration::from_secs(10);
        while current(&self.state("least"))[2] != 0 {
            assert!(Instant::now() < deadline, "{}", self.state("least"));
            std::thread::sleep(Duration::from_millis(100));
        }
        // By TCP alone it is well.
        assert_eq!(self.state("names")["open"], 3);
        self.guests[2].check("killall -CONT httpd", SHORT).unwrap();
        self.opens("turn", 3);
    }

    /// No server at all: callers are told at once.
    fn nobody(&self) {
        for guest in &self.guests[..3] {
            guest.check("killall httpd", SHORT).unwrap();
        }
        self.opens("turn", 0);
        let refused = "curl -s -m 5 http://10.0.1.100:81/; test $? = 7 && curl -gs -m 5 http://[2001:db8:1::100]/; test $? = 7";
        self.client().check(refused, SHORT).unwrap();
        assert!(self.state("turn")["refused"].as_u64().unwrap() >= 1);
        self.daemon
            .call("load-balancer.delete", &json!({ "name": "turn" }))
            .unwrap();
        let closed = self
            .client()
            .run("curl -s -m 5 http://10.0.1.100:81/; echo $?", SHORT);
        assert_eq!(closed.unwrap().stdout.trim(), "7", "other ports are closed");
    }
}

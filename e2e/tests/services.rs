//! What the switch does for hosts by itself: leases, resolution, router advertisements, and routing between networks, with stock clients: a guest's udhcpc and
//! ping, ISC's dhclient for DHCPv6, the kernel's own autoconfiguration, and a kernel behind a tunnel.

#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::{SHORT, iperf, iperf_server, ping};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Nic, Process, boot_all, veth_pair};

const MACS: [&str; 3] = [
    "52:54:00:00:00:01",
    "52:54:00:00:00:02",
    "52:54:00:00:00:03",
];
/// The switch's own address on network 200.
const RED_GATEWAY_MAC: &str = "06:73:75:00:00:c8";
const WIRE: &str = "wire";

/// Guests g1 on blue and g2 on red, the kernel of a namespace on red, another on blue whose address nobody configured, one more on red behind a tunnel;
/// a router between blue and red.
struct Site {
    daemon: Daemon,
    guests: Vec<Guest>,
    red: Namespace,
    blue: Namespace,
    remote: Namespace,
    world: Namespace,
    folder: SocketFolder,
}

fn config(folder: &Path) -> String {
    let mut config = Config::new("n1", 0).uplink("af-packet", WIRE, "192.0.2.1/24", 1600);
    let behind = format!(
        r#"[{{mac = "{}", remote = "192.0.2.2", addresses = ["10.0.2.9"]}}]"#,
        "52:54:00:00:00:09"
    );
    type Fields<'a> = Vec<(&'a str, &'a dyn Display)>;
    let mut table = |kind: &str, fields: Fields<'_>| {
        config = config.clone().table(kind, &fields);
    };
    let list = |texts: &[&str]| format!("{texts:?}");
    let q = quoted;
    for (name, vni, remotes, known) in [
        ("blue", 100, list(&[]), "[]".to_owned()),
        ("red", 200, list(&["192.0.2.2"]), behind),
        ("outside", 300, list(&[]), "[]".to_owned()),
    ] {
        table(
            "network",
            vec![
                ("name", &q(name)),
                ("vni", &vni),
                ("remotes", &remotes),
                ("static_macs", &known),
            ],
        );
    }
    for (number, network) in [(1, "blue"), (2, "red")] {
        table(
            "subnet",
            vec![
                ("name", &q(&format!("{network}4"))),
                ("network", &q(network)),
                ("prefix", &q(&format!("10.0.{number}.0/24"))),
                ("gateway", &q(&format!("10.0.{number}.254"))),
                ("dhcp", &true),
                ("lease_s", &600),
                ("dns_servers", &list(&["198.51.100.53"])),
                ("domain", &q("example.org")),
            ],
        );
        table(
            "subnet",
            vec![
                ("name", &q(&format!("{network}6"))),
                ("network", &q(network)),
                ("prefix", &q(&format!("2001:db8:{number}::/64"))),
                ("gateway", &q(&format!("2001:db8:{number}::fe"))),
                ("dhcp", &true),
                ("router_advertisements", &true),
            ],
        );
    }
    table(
        "router",
        vec![("name", &q("r1")), ("networks", &list(&["blue", "red"]))],
    );
    let rules = list(&[
        "egress",
        "ingress icmp from group all",
        "ingress icmp6 from group all",
        "ingress tcp 5201 from group all",
        "ingress icmp from 198.51.100.0/24",
        "ingress tcp 80 from 198.51.100.0/24",
    ]);
    table(
        "security-group",
        vec![("name", &q("all")), ("rules", &rules)],
    );
    for (number, network) in [(1, "blue"), (2, "red")] {
        let socket = folder.join(format!("g{number}.net"));
        let addresses = [
            format!("10.0.{number}.{number}"),
            format!("2001:db8:{number}::{number}"),
        ];
        table(
            "port",
            vec![
                ("name", &q(&format!("g{number}"))),
                ("kind", &q("vhost-user")),
                ("socket", &q(&socket.display().to_string())),
                ("network", &q(network)),
                ("mac", &q(MACS[number - 1])),
                ("port_security", &true),
                ("security_groups", &list(&["all"])),
                ("addresses", &format!("{addresses:?}")),
            ],
        );
    }
    table(
        "port",
        vec![
            ("name", &q("t3")),
            ("kind", &q("tap")),
            ("ifname", &q("tap3")),
            ("network", &q("red")),
            ("mac", &q(MACS[2])),
            ("addresses", &list(&["10.0.2.3", "2001:db8:2::3"])),
        ],
    );
    table(
        "port",
        vec![
            ("name", &q("t4")),
            ("kind", &q("tap")),
            ("ifname", &q("tap4")),
            ("network", &q("blue")),
        ],
    );
    table(
        "port",
        vec![
            ("name", &q("t5")),
            ("kind", &q("tap")),
            ("ifname", &q("tap5")),
            ("network", &q("outside")),
        ],
    );
    table(
        "subnet",
        vec![
            ("name", &q("outside4")),
            ("network", &q("outside")),
            ("prefix", &q("198.51.100.0/24")),
            ("gateway", &q("198.51.100.1")),
        ],
    );
    for number in 1..=2 {
        table(
            "floating-ip",
            vec![
                ("name", &q(&format!("f{number}"))),
                ("network", &q("outside")),
                ("address", &q(&format!("198.51.100.1{number}"))),
                ("port", &q(&format!("g{number}"))),
            ],
        );
    }
    config.text()
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

impl Site {
    fn start() -> Self {
        let folder = SocketFolder::create("services").unwrap();
        let at = |name: &str| folder.path().join(name);
        let [red, blue, remote, world] =
            ["red", "blue", "remote", "world"].map(|name| Namespace::create(name).unwrap());
        veth_pair((&red, WIRE), (&remote, WIRE), 1600).unwrap();
        std::fs::write(at("n1.toml"), config(folder.path())).unwrap();
        let daemon = Daemon::start(
            "n1",
            Some(&red),
            &at("n1.toml"),
            &at("rpc"),
            Lifetime::Bound,
        )
        .unwrap();
        let ip = |namespace: &Namespace, text: &str| {
            namespace.ip(&words(text)).unwrap();
        };
        ip(&red, &format!("link set tap3 address {} up", MACS[2]));
        ip(&red, &format!("link set tap4 netns {}", blue.name()));
        ip(&blue, "link set tap4 up");
        ip(&blue, "address add 10.0.1.4/24 dev tap4");
        ip(&blue, "route add default via 10.0.1.254");
        // The router of the outside network, and a host behind it.
        ip(&red, &format!("link set tap5 netns {}", world.name()));
        ip(&world, "link set tap5 up");
        ip(&world, "address add 198.51.100.1/24 dev tap5");
        ip(&world, "address add 203.0.113.7/32 dev lo");
        // A kernel's VXLAN, whose router is our node.
        remote
            .run(
                "ethtool",
                &[
                    "-K",
                    WIRE,
                    "tx-udp_tnl-segmentation",
                    "off",
                    "tx-udp_tnl-csum-segmentation",
                    "off",
                ],
            )
            .unwrap()
            .success("ethtool")
            .unwrap();
        ip(&remote, &format!("address add 192.0.2.2/24 dev {WIRE}"));
        ip(
            &remote,
            "link add vx0 type vxlan id 200 local 192.0.2.2 remote 192.0.2.1 dstport 4789",
        );
        ip(
            &remote,
            "link set vx0 address 52:54:00:00:00:09 mtu 1500 up",
        );
        ip(&remote, "address add 10.0.2.9/24 dev vx0");
        ip(
            &remote,
            &format!("neighbour add 10.0.2.254 lladdr {RED_GATEWAY_MAC} dev vx0"),
        );
        ip(&remote, "route add default via 10.0.2.254");
        let guests = (1..=2).map(|number| {
            let nic = Nic::new(at(&format!("g{number}.net")), MACS[number - 1]);
            let programs = Initramfs::new(Kernel::V6_1)
                .program("curl")
                .program("iperf3");
            Guest::builder(&format!("g{number}"))
                .memory(256)
                .initramfs(programs)
                .nic(nic)
        });
        let guests = boot_all(guests.collect()).unwrap();
        Self {
            daemon,
            guests,
            red,
            blue,
            remote,
            world,
            folder,
        }
    }

    fn count(&self, method: &str, key: &str, name: &str) -> u64 {
        let stats = self.daemon.call(method, &json!({})).unwrap();
        let rows = stats.as_array().unwrap().iter();
        rows.filter(|row| row[key] == name)
            .map(|row| row["packets"].as_u64().unwrap())
            .sum()
    }

    fn answers(&self) -> u64 {
        self.count("stats.stage", "stage", "answer")
    }
}

/// Pings of a namespace that are answered, of three; waits for what has to be resolved first.
fn pings(from: &Namespace, target: &str) -> usize {
    let all = ["-c", "3", "-i", "0.3", "-W", "2", target];
    let output = from.run("ping", &all).unwrap();
    output.stdout.matches("bytes from").count()
}

/// Waits until a ping is answered.
fn reaches(from: &Namespace, target: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while pings(from, target) == 0 {
        assert!(Instant::now() < deadline, "{target} does not answer");
    }
}

/// Has a guest configure itself by DHCP; what udhcpc was told, one `name=value` a line.
fn lease(guest: &Guest) -> String {
    let script = "cat > /tmp/dhcp <<'E'\n#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nset > /tmp/lease\nip address add $ip/$mask dev $interface\nip link set $interface mtu ${mtu:-1500}\nip route add default via $router\nE\nchmod 755 /tmp/dhcp; ip link set eth0 up; udhcpc -i eth0 -s /tmp/dhcp -n -q -t 5 -T 2 && cat /tmp/lease";
    guest.check(script, SHORT).unwrap()
}

#[test]
fn stock_clients_get_leases_resolve_and_are_routed() {
    let mut site = Site::start();
    let [g1, g2] = &site.guests[..] else {
        unreachable!()
    };

    // DHCP, by the guests' own client.
    for (number, guest) in [(1, g1), (2, g2)] {
        let told = lease(guest);
        for line in [
            format!("ip='10.0.{number}.{number}'"),
            format!("router='10.0.{number}.254'"),
            format!("serverid='10.0.{number}.254'"),
            "lease='600'".to_owned(),
            "dns='198.51.100.53'".to_owned(),
            "domain='example.org'".to_owned(),
            "mtu='1500'".to_owned(),
            "mask='24'".to_owned(),
        ] {
            assert!(
                told.lines().any(|told| told == line),
                "{line} is not in\n{told}"
            );
        }
    }
    // The gateway is resolved and answers; a host of the same network is resolved without being asked itself.
    assert!(site.answers() >= 4);
    let resolved = g1.check("arping -c 2 -I eth0 10.0.1.254", SHORT).unwrap();
    assert!(
        resolved.to_lowercase().contains("[06:73:75:00:00:64]"),
        "{resolved}"
    );
    assert_eq!(ping(g1, "10.0.1.254", 3, 56).unwrap(), 3);
    let resolved = g2.check("arping -c 1 -I eth0 10.0.2.9", SHORT).unwrap();
    assert!(
        resolved.contains("52:54:00:00:00:09") || resolved.contains("52:54:0:0:0:9"),
        "{resolved}"
    );

    // From network to network: between guests under groups, to a kernel, to one whose address had to be asked for, to one behind a tunnel.
    assert_eq!(ping(g1, "10.0.2.2", 3, 56).unwrap(), 3);
    assert_eq!(ping(g2, "10.0.1.1", 3, 1472).unwrap(), 3);
    site.red
        .ip(&words("address add 10.0.2.3/24 dev tap3"))
        .unwrap();
    site.red
        .ip(&words("route add 10.0.1.0/24 via 10.0.2.254"))
        .unwrap();
    assert_eq!(ping(g1, "10.0.2.3", 3, 56).unwrap(), 3);
    reaches(&site.blue, "10.0.2.3");
    assert_eq!(pings(&site.blue, "10.0.2.3"), 3);
    assert_eq!(ping(g1, "10.0.2.9", 3, 56).unwrap(), 3);
    assert_eq!(pings(&site.remote, "10.0.1.4"), 3);
    // Groups hold for routed packets, too: g2 lets nobody in but members.
    assert_eq!(pings(&site.blue, "10.0.2.2"), 0);
    let routed = site.count("stats.stage", "stage", "route");
    assert!(routed >= 30, "{routed}");
    iperf_server(g2).unwrap();
    let stream = iperf(g1, "10.0.2.2", 3).unwrap();
    println!(
        "{:.0} Mbit/s through the router",
        stream.bits_per_second / 1e6
    );
    assert!(stream.bits_per_second > 2e6, "{stream:?}");

    // What cannot go on is told to its sender.
    let hops = g1
        .check("traceroute -n -q 1 -w 2 -I 10.0.2.3", SHORT)
        .unwrap();
    assert!(
        hops.contains(" 1  10.0.1.254") && hops.contains(" 2  10.0.2.3"),
        "{hops}"
    );
    let lost = g1.run("ping -c 2 -W 2 203.0.113.1", SHORT).unwrap();
    assert_ne!(lost.status, 0);
    let big = site
        .blue
        .run("ping", &["-c", "1", "-W", "2", "203.0.113.1"])
        .unwrap();
    assert!(
        big.stdout.contains("Destination Net Unreachable"),
        "{big:?}"
    );

    let explained = site
        .daemon
        .cli(&words("policy explain g1 eth src 52:54:00:00:00:01 dst 06:73:75:00:00:64 / ipv4 src 10.0.1.1 dst 10.0.2.2 / icmp"))
        .unwrap()
        .success("explain")
        .unwrap();
    assert!(explained.contains("router r1"), "{explained}");
    site.floating_ips();
    site.ipv6();
    site.flood();
    site.daemon.stop().unwrap();
}

impl Site {
    /// Guests are reached by addresses of a network outside, and reach it from there.
    fn floating_ips(&self) {
        let [g1, g2] = &self.guests[..] else {
            unreachable!()
        };
        for guest in [g1, g2] {
            let script =
                "mkdir -p /tmp/www && hostname > /tmp/www/hello && httpd -p 80 -h /tmp/www";
            guest.check(script, SHORT).unwrap();
        }
        assert_eq!(pings(&self.world, "198.51.100.11"), 3);
        for number in 1..=2 {
            let url = format!("http://198.51.100.1{number}/hello");
            let got = self.world.run("curl", &["-s", "--max-time", "10", &url]);
            got.unwrap().success("curl").unwrap();
        }
        let arguments = ["-u", "-m", "http.server", "80"];
        let log = self.folder.path().join("www.log");
        let mut command = self.world.command("python3");
        command.args(arguments).current_dir(self.folder.path());
        let web = Process::spawn("web", command, &log, Lifetime::Bound).unwrap();
        let script =
            "/bin/curl -s --max-time 10 --retry 5 --retry-connrefused http://203.0.113.7/n1.toml";
        let got = g1.check(script, SHORT).unwrap();
        assert!(got.contains("floating-ip"), "{got}");
        let asked = std::fs::read_to_string(web.log()).unwrap();
        assert!(asked.contains("198.51.100.11 - - "), "{asked}");
        // What an error quotes is translated back, too.
        let hops = g1
            .check("traceroute -n -q 1 -w 2 203.0.113.7", SHORT)
            .unwrap();
        assert!(
            hops.contains(" 1  10.0.1.254") && hops.contains(" 2  203.0.113.7"),
            "{hops}"
        );
        // From one floating address to another.
        assert_eq!(ping(g1, "198.51.100.12", 3, 56).unwrap(), 3);
        let script = "/bin/curl -s --max-time 10 http://198.51.100.12/hello";
        g1.check(script, SHORT).unwrap();
        // Who has none stays inside, and nobody else is reached from outside.
        assert!(
            self.blue
                .run("ping", &["-c", "2", "-W", "1", "203.0.113.7"])
                .unwrap()
                .status
                != 0
        );
        assert_eq!(pings(&self.world, "198.51.100.13"), 0);
        let explained = self
            .daemon
            .cli(&words("policy explain g1 eth src 52:54:00:00:00:01 dst 06:73:75:00:00:64 / ipv4 src 10.0.1.1 dst 203.0.113.7 / icmp"))
            .unwrap()
            .success("explain")
            .unwrap();
        assert!(explained.contains("floating-ip f1"), "{explained}");
    }

    /// The kernel's own autoconfiguration, DHCPv6 by ISC's client, neighbour discovery, routing.
    fn ipv6(&self) {
        let [g1, g2] = &self.guests[..] else {
            unreachable!()
        };
        // The guests' kernels have asked for routers when their links came up.
        for (guest, own, gateway) in [
            (g1, "2001:db8:1::1", "2001:db8:1::fe"),
            (g2, "2001:db8:2::2", "2001:db8:2::fe"),
        ] {
            let route = guest.check("ip -6 route show default", SHORT).unwrap();
            assert!(route.contains("fe80::473:75ff:fe00:"), "{route}");
            guest
                .check(&format!("ip address add {own}/128 dev eth0; sleep 3; ip -6 address show dev eth0 | grep -q tentative && exit 1 || true"), SHORT)
                .unwrap();
            assert_eq!(ping(guest, gateway, 3, 56).unwrap(), 3);
        }
        assert_eq!(ping(g1, "2001:db8:2::2", 3, 56).unwrap(), 3);

        let advertised = self.red.run("rdisc6", &["-1", "tap3"]).unwrap();
        for line in [
            "Stateful address conf.    :          Yes",
            "Prefix                   : 2001:db8:2::/64",
            "from fe80::473:75ff:fe00:c8",
        ] {
            assert!(advertised.stdout.contains(line), "{advertised:?}");
        }
        let resolved = self
            .red
            .run("ndisc6", &["-1", "2001:db8:2::2", "tap3"])
            .unwrap();
        assert!(
            resolved.stdout.contains("52:54:00:00:00:02"),
            "{resolved:?}"
        );

        let told = self.folder.path().join("dhcp6");
        let script = self.folder.path().join("dhcp6.sh");
        let text = format!("#!/bin/sh\nset > {}.$reason\nexit 0\n", told.display());
        std::fs::write(&script, text).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, executable).unwrap();
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (leases, pid, script) = (path("leases"), path("pid"), script.display().to_string());
        let arguments = [
            "30", "dhclient", "-6", "-1", "-v", "-sf", &script, "-lf", &leases, "-pf", &pid, "tap3",
        ];
        let client = self.red.run("timeout", &arguments).unwrap();
        let bound = std::fs::read_to_string(path("dhcp6.BOUND6")).unwrap_or_default();
        assert!(
            bound.contains("new_ip6_address='2001:db8:2::3'"),
            "{client:?} {bound}"
        );
        // It stays in the background and would renew; its pid is its own.
        if let Ok(pid) = std::fs::read_to_string(path("pid")) {
            self.red.run("kill", &[pid.trim()]).unwrap();
        }
    }

    /// A port that asks without end gets so many answers a second, and its asking costs the others nothing.
    fn flood(&self) {
        let asked = Instant::now();
        let before = self.answers();
        let arguments = ["5", "ping", "-f", "-q", "-s", "0", "10.0.2.254"];
        self.red.run("timeout", &arguments).unwrap();
        // Echo requests that outrun the answers: one each 100 microseconds for two seconds.
        let arguments = ["-1", "-i", "u100", "-c", "20000", "-q", "10.0.2.254"];
        let flood = self.red.run("hping3", &arguments).unwrap();
        let answered = self.answers() - before;
        let most = 1000.0 * (asked.elapsed().as_secs_f64() + 1.0);
        println!("{answered} answers in {:?}", asked.elapsed());
        assert!((answered as f64) <= most, "{answered} > {most}: {flood:?}");
        assert!(self.count("stats.drop", "reason", "answer-limit") > 100);
        assert_eq!(ping(&self.guests[0], "10.0.1.254", 3, 56).unwrap(), 3);
    }
}

#[test]
fn services_change_while_hosts_use_them() {
    let folder = SocketFolder::create("changes").unwrap();
    let at = |name: &str| folder.path().join(name);
    let [near, far] = ["near", "far"].map(|name| Namespace::create(name).unwrap());
    let mut config = Config::new("n1", 0)
        .network("blue", 100, &[], 1500)
        .network("red", 200, &[], 1500);
    for (name, ifname, network) in [("t1", "tap1", "blue"), ("t2", "tap2", "red")] {
        let fields: [(&str, &dyn Display); 4] = [
            ("name", &quoted(name)),
            ("kind", &quoted("tap")),
            ("ifname", &quoted(ifname)),
            ("network", &quoted(network)),
        ];
        config = config.table("port", &fields);
    }
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let mut daemon = Daemon::start(
        "n1",
        Some(&near),
        &at("n1.toml"),
        &at("rpc"),
        Lifetime::Bound,
    )
    .unwrap();
    near.ip(&words(&format!("link set tap2 netns {}", far.name())))
        .unwrap();
    for (namespace, number) in [(&near, 1), (&far, 2)] {
        for text in [
            format!("link set tap{number} up"),
            format!("address add 10.0.{number}.1/24 dev tap{number}"),
            format!("route add default via 10.0.{number}.254"),
        ] {
            namespace.ip(&words(&text)).unwrap();
        }
    }
    let cli = |daemon: &Daemon, text: &str| daemon.cli(&words(text)).unwrap();
    assert_eq!(pings(&near, "10.0.1.254"), 0);
    for text in [
        "subnet create blue4 --network blue --prefix 10.0.1.0/24 --gateway 10.0.1.254",
        "subnet create red4 --network red --prefix 10.0.2.0/24 --gateway 10.0.2.254",
        "router create r1 --networks blue,red",
    ] {
        cli(&daemon, text).success(text).unwrap();
    }
    // Both hosts' addresses are asked for first.
    reaches(&near, "10.0.2.1");
    assert_eq!(pings(&near, "10.0.2.1"), 3);
    assert_eq!(pings(&far, "10.0.1.1"), 3);
    let shown: Value = daemon.cli_json(&words("router show r1")).unwrap();
    assert_eq!(shown["networks"], json!(["blue", "red"]));
    // A network in use cannot go, and a router takes a network of its own only.
    let refused = cli(&daemon, "router create r2 --networks red");
    assert!(
        refused.status != 0 && refused.stderr.contains("router r1"),
        "{refused:?}"
    );
    // After a restart the same holds.
    daemon.restart().unwrap();
    for text in ["link set tap1 up", "address add 10.0.1.1/24 dev tap1"] {
        near.ip(&words(text)).unwrap();
    }
    reaches(&near, "10.0.1.254");
    cli(&daemon, "router delete r1").success("delete").unwrap();
    assert_eq!(pings(&near, "10.0.1.254"), 0);
    daemon.stop().unwrap();
}

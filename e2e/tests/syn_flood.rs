//! Floods of SYNs against a stock guest whose kernel has no SYN cookies: without protection of its port nobody gets in any more, with it everybody does.

#![allow(clippy::unwrap_used)]

use std::fmt::Display;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sumeru_e2e::config::quoted;
use sumeru_e2e::initramfs::Initramfs;
use sumeru_e2e::peers::Kernel;
use sumeru_e2e::place::SocketFolder;
use sumeru_e2e::workload::{SHORT, address};
use sumeru_e2e::{Config, Daemon, Guest, Lifetime, Namespace, Nic, Process, boot_all};

const MAC: &str = "52:54:00:00:00:01";
/// SYNs in a second, more than a small backlog bears and less than an emulated guest.
const PAUSE_US: u32 = 1000;

/// SYNs over IPv6 from addresses that nobody has: interface, and MAC and IPv6 addresses of the target.
const FLOOD6: &str = r#"
import os, random, socket, struct, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
link = bytes.fromhex(sys.argv[2].replace(":", "")) + b"\x02\0\0\0\0\x09\x86\xdd"
to = socket.inet_pton(socket.AF_INET6, sys.argv[3])
while True:
    source = bytes.fromhex("20010db800000000") + os.urandom(8)
    tcp = struct.pack("!HHIIBBHHH", random.randrange(1024, 65536), 80, random.getrandbits(32), 0, 0x50, 2, 64240, 0, 0)
    pseudo = source + to + struct.pack("!II", len(tcp), 6) + tcp
    total = sum(struct.unpack("!%dH" % (len(pseudo) // 2), pseudo))
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~total & 0xffff) + tcp[18:]
    out.send(link + struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + source + to + tcp)
    time.sleep(float(sys.argv[4]) / 1e6)
"#;

/// A guest with a web server at 10.0.0.1 and fd00::1, a client and somebody who floods on its network.
struct Site {
    daemon: Daemon,
    guests: Vec<Guest>,
    flooder: Namespace,
    client: Namespace,
    folder: SocketFolder,
}

impl Site {
    fn start() -> Self {
        let folder = SocketFolder::create("synflood").unwrap();
        let at = |name: &str| folder.path().join(name);
        let [flooder, client] = ["flooder", "client"].map(|name| Namespace::create(name).unwrap());
        let list = |texts: &[&str]| format!("{texts:?}");
        let rules = list(&["ingress tcp 80", "egress"]);
        let socket = at("g1.net");
        let group: [(&str, &dyn Display); 2] = [("name", &quoted("web")), ("rules", &rules)];
        let guest: [(&str, &dyn Display); 8] = [
            ("name", &quoted("g1")),
            ("kind", &quoted("vhost-user")),
            ("socket", &quoted(&socket.display().to_string())),
            ("network", &quoted("blue")),
            ("mac", &quoted(MAC)),
            ("port_security", &true),
            ("addresses", &list(&["10.0.0.1", "fd00::1"])),
            ("security_groups", &list(&["web"])),
        ];
        let mut config = Config::new("n1", 0)
            .network("blue", 100, &[], 1500)
            .table("security-group", &group)
            .table("port", &guest);
        for number in [3, 4] {
            let tap: [(&str, &dyn Display); 4] = [
                ("name", &quoted(&format!("t{number}"))),
                ("kind", &quoted("tap")),
                ("ifname", &quoted(&format!("tap{number}"))),
                ("network", &quoted("blue")),
            ];
            config = config.table("port", &tap);
        }
        std::fs::write(at("n1.toml"), config.text()).unwrap();
        std::fs::write(at("flood6.py"), FLOOD6).unwrap();
        let (file, rpc) = (at("n1.toml"), at("rpc"));
        let daemon = Daemon::start("n1", Some(&flooder), &file, &rpc, Lifetime::Bound).unwrap();
        let ip = |namespace: &Namespace, text: &str| {
            let words: Vec<&str> = text.split(' ').collect();
            namespace.ip(&words).unwrap();
        };
        ip(&flooder, &format!("link set tap4 netns {}", client.name()));
        for (namespace, number) in [(&flooder, 3), (&client, 4)] {
            ip(namespace, &format!("link set tap{number} up"));
            ip(
                namespace,
                &format!("address add 10.0.0.{number}/24 dev tap{number}"),
            );
            ip(
                namespace,
                &format!("address add fd00::{number}/64 dev tap{number} nodad"),
            );
        }
        let programs = Initramfs::new(Kernel::V6_1)
            .program("tc")
            .module("sch_netem");
        let builder = Guest::builder("g1")
            .memory(256)
            .initramfs(programs)
            .nic(Nic::new(socket, MAC));
        let guests = boot_all(vec![builder]).unwrap();
        let site = Self {
            daemon,
            guests,
            flooder,
            client,
            folder,
        };
        site.serve();
        site
    }

    /// A web server behind a small backlog, in a kernel that answers no SYN by a cookie of its own.
    fn serve(&self) {
        let guest = &self.guests[0];
        address(guest, "10.0.0.1/24", 1500).unwrap();
        let script = "set -e; echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip address add fd00::1/64 dev eth0
            ip route add default via 10.0.0.3; ip -6 route add default via fd00::3
            cd /proc/sys/net; echo 0 > ipv4/tcp_syncookies; echo 16 > ipv4/tcp_max_syn_backlog
            echo 16 > core/somaxconn; echo 1 > ipv4/tcp_synack_retries
            mkdir -p /tmp/www; cd /tmp/www
            dd if=/dev/urandom of=small bs=1k count=200; dd if=/dev/urandom of=large bs=1k count=6000
            httpd -p [::]:80 -h /tmp/www";
        guest.check(script, SHORT).unwrap();
    }

    /// What a file of the guest sums up to.
    fn sum(&self, file: &str) -> String {
        let script = format!("sha256sum < /tmp/www/{file}");
        let sum = self.guests[0].check(&script, SHORT).unwrap();
        sum.split_whitespace().next().unwrap().to_owned()
    }

    /// Whether the client gets a file of the guest, whole, in so many seconds.
    fn gets(&self, host: &str, file: &str, sum: &str, seconds: u32) -> bool {
        let script = format!(
            "curl -sS -g --noproxy '*' --connect-timeout 4 -m {seconds} http://{host}/{file} | sha256sum"
        );
        let output = self.client.run("bash", &["-c", &script]).unwrap();
        if !output.stderr.is_empty() {
            println!("{host}/{file}: {}", output.stderr.trim());
        }
        output.stdout.starts_with(sum)
    }

    fn protect(&self, fields: &Value) {
        self.daemon.call("port.update", fields).unwrap();
    }

    fn state(&self) -> Value {
        let shown: Value = self.daemon.cli_json(&["port", "show", "g1"]).unwrap();
        shown["state"]["syn_protection"].clone()
    }

    /// Starts a flood.
    fn flood(&self, v6: bool) -> Process {
        let script = self.folder.path().join("flood6.py");
        let pause = PAUSE_US.to_string();
        let command = if v6 {
            let mut command = self.flooder.command("python3");
            command.arg(script).args(["tap3", MAC, "fd00::1", &pause]);
            command
        } else {
            let mut command = self.flooder.command("hping3");
            let every = format!("u{pause}");
            command.args([
                "-q",
                "-S",
                "-p",
                "80",
                "--rand-source",
                "-i",
                &every,
                "10.0.0.1",
            ]);
            command
        };
        let log = self.folder.path().join("flood.log");
        Process::spawn("flood", command, &log, Lifetime::Bound).unwrap()
    }

    /// A flood without protection, then with it, which is left on.
    fn withstand(&self, host: &str, v6: bool) {
        let sum = self.sum("small");
        self.protect(&json!({"name": "g1", "syn_protection": "off"}));
        for _ in 0..3 {
            assert!(
                self.gets(host, "small", &sum, 20),
                "in peace: {}",
                self.state()
            );
        }
        let flood = self.flood(v6);
        std::thread::sleep(Duration::from_secs(3));
        // However thin the flood is on a busy machine, clients get lost.
        let (mut tries, mut lost) = (0, 0);
        while lost < 6 {
            lost += usize::from(!self.gets(host, "small", &sum, 8));
            tries += 1;
            assert!(
                tries < 24,
                "the flood does not hurt: {lost} of {tries} lost"
            );
        }
        println!("{host}: {lost} of {tries} lost without protection");
        let auto = json!({"name": "g1", "syn_protection": "auto", "syn_half_open": 4});
        self.protect(&auto);
        // What the guest has half open from before goes.
        std::thread::sleep(Duration::from_secs(8));
        let before = self.state();
        // Each of them is served, as often as it takes for the flood to have met them.
        let mut served = 0;
        let after = loop {
            assert!(
                self.gets(host, "small", &sum, 20),
                "{served}: {}",
                self.state()
            );
            served += 1;
            let state = self.state();
            let sent = |state: &Value| state["cookies_sent"].as_u64().unwrap();
            if served >= 20 && sent(&state) > sent(&before) + 500 {
                break state;
            }
            assert!(served < 5000, "the flood does not go on: {state}");
        };
        println!("{host}: {before} and then {after}");
        assert_eq!(after["active"], json!(true));
        let valid = |state: &Value| state["cookies_valid"].as_u64().unwrap();
        let rise = valid(&after) - valid(&before);
        assert!((served..2 * served).contains(&rise), "{served}: {after}");
        assert_eq!(after["unanswered"], json!(0));
        flood.check_running().unwrap();
        flood.kill();
    }

    fn has_event(&self, what: &str) -> bool {
        let events = self.daemon.call("event.list", &json!({})).unwrap();
        let all = events.as_array().unwrap();
        all.iter()
            .any(|event| event["what"] == what && event["object"] == "port g1")
    }
}

#[test]
fn a_flooded_guest_still_accepts_connections() {
    let mut site = Site::start();
    // So that what a flood has left half open is gone while somebody waits for it.
    let soon = ["conntrack", "set", "--state", "syn-sent", "--ms", "30000"];
    site.daemon.cli(&soon).unwrap().success("timeout").unwrap();
    site.withstand("10.0.0.1", false);
    site.withstand("[fd00::1]", true);
    let words = "policy explain t4 eth src 02:00:00:00:00:04 dst 52:54:00:00:00:01 / ipv4 src 10.0.0.4 dst 10.0.0.1 / tcp dst 80 flags syn";
    let words: Vec<&str> = words.split(' ').collect();
    let explained = site.daemon.cli(&words).unwrap().success("explain").unwrap();
    assert!(explained.contains("syn-protection"), "{explained}");

    // A long transfer over a lossy path, by a connection that a cookie made: what the client acknowledges selectively is in the guest's numbers.
    let guest = &site.guests[0];
    site.protect(&json!({"name": "g1", "syn_protection": "always"}));
    guest
        .check(
            "/bin/tc qdisc add dev eth0 root netem delay 10ms loss 2%",
            SHORT,
        )
        .unwrap();
    let valid = || site.state()["cookies_valid"].as_u64().unwrap();
    let (before, sum) = (valid(), site.sum("large"));
    for host in ["10.0.0.1", "[fd00::1]"] {
        assert!(site.gets(host, "large", &sum, 120), "{host}");
    }
    assert_eq!(valid(), before + 2);
    let script = "awk '/^TcpExt/ { if (n++) print $at; else for (i = 1; i <= NF; i++) if ($i == \"TCPSackRecovery\") at = i }' /proc/net/netstat";
    let recovered = guest.check(script, SHORT).unwrap();
    println!("{} recoveries by SACK", recovered.trim());
    assert!(recovered.trim().parse::<u32>().unwrap() > 0);
    guest
        .check("/bin/tc qdisc del dev eth0 root", SHORT)
        .unwrap();

    // Peace.
    site.protect(&json!({"name": "g1", "syn_protection": "auto"}));
    assert!(site.has_event("flooded"));
    let patience = Instant::now() + Duration::from_secs(150);
    while !site.has_event("calm") {
        assert!(Instant::now() < patience, "{}", site.state());
        std::thread::sleep(Duration::from_secs(1));
    }
    let sent = site.state()["cookies_sent"].clone();
    let sum = site.sum("small");
    assert!(site.gets("10.0.0.1", "small", &sum, 20));
    assert_eq!(site.state()["cookies_sent"], sent);
    site.daemon.stop().unwrap();
}

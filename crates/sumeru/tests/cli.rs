//! The real binary: a daemon that moves nothing, and every command against it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod bench;
use bench::{BIN, Bench};

const RULE: &str = "ingress pattern eth / ipv4 dst is 10.0.0.1 / end actions count / drop / end";

fn rule(verb: &str, port: &str) -> Vec<String> {
    ["flow", verb, port]
        .iter()
        .map(|s| (*s).to_owned())
        .chain(RULE.split(' ').map(str::to_owned))
        .collect()
}

#[test]
fn objects_live_through_every_verb() {
    let bench = Bench::started("verbs", None);
    bench.ok(&[
        "network",
        "create",
        "blue",
        "--vni",
        "7",
        "--remotes",
        "192.0.2.2,192.0.2.3",
        "--static-macs",
        "52:54:00:00:00:09=192.0.2.2",
    ]);
    bench.ok(&[
        "port",
        "create",
        "vm1",
        "--kind",
        "vhost-user",
        "--socket",
        "/tmp/vm1.sock",
        "--network",
        "blue",
    ]);
    bench.ok(&[
        "port",
        "create",
        "t0",
        "--kind=tap",
        "--ifname=t0",
        "--volatile",
    ]);
    bench.ok(&[
        "volume",
        "create",
        "disk",
        "--kind",
        "memory",
        "--size",
        "64MiB",
        "--block-size",
        "4096",
    ]);
    bench.ok(&[
        "bdev",
        "create",
        "null0",
        "--kind",
        "null",
        "--size",
        "1GiB",
        "--read-only",
    ]);
    bench.ok(&[
        "controller",
        "create",
        "c",
        "--volume",
        "disk",
        "--socket",
        "/tmp/c.sock",
    ]);
    assert_eq!(
        bench.ok(&["port", "list"]),
        "INDEX  NAME  KIND        TARGET         NETWORK   MTU  STATE\n\
         \u{20}   0  vm1   vhost-user  /tmp/vm1.sock  blue     1500  down\n\
         \u{20}   1  t0    tap         t0             -        1500  down\n"
    );
    assert_eq!(
        bench.json(&["network", "show", "blue"])["remotes"][1],
        "192.0.2.3"
    );
    assert_eq!(bench.json(&["volume", "show", "null0"])["read_only"], true);
    bench.ok(&[
        "port", "update", "vm1", "--mtu", "9000", "--clear", "network",
    ]);
    let vm1 = bench.json(&["port", "show", "vm1"]);
    assert_eq!(
        (&vm1["mtu"], &vm1["network"]),
        (&Value::from(9000), &Value::Null)
    );
    assert_eq!(
        bench.ok(&["volume", "resize", "disk", "128MiB"]),
        "volume disk is 128MiB now\n"
    );
    assert_eq!(
        bench.json(&["volume", "show", "disk"])["state"]["size"],
        128 << 20
    );
    bench.ok(&["node", "update", "--spin-us", "10"]);
    assert_eq!(bench.json(&["node", "show"])["spin_us"], 10);
    assert_eq!(bench.json(&["node", "show"])["objects"]["port"], 2);
    bench.ok(&["controller", "delete", "c"]);
    assert_eq!(
        bench.ok(&["controller", "list"]),
        "There are no controllers.\n"
    );
    assert!(bench.ok(&["event", "list"]).contains("port t0"));
    for what in ["lcore", "port", "stage", "drop", "volume"] {
        bench.json(&["stats", what]);
        bench.ok(&["stats", what]);
    }
    bench.ok(&["fdb", "list"]);
    bench.ok(&["fdb", "list", "blue"]);
    bench.ok(&["neighbour", "list"]);
    assert!(
        bench
            .ok(&["top", "--once", "--interval", "100"])
            .contains("vm1")
    );
    assert!(bench.json(&["top", "--interval", "100"])["ports"].is_array());
    assert_eq!(bench.json(&["rpc", "network.list"])[0]["name"], "blue");
    assert!(bench.ok(&["version"]).contains("daemon "));
}

#[test]
fn flow_rules_are_written_as_in_testpmd() {
    let bench = Bench::started("flow", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let words = rule("create", "0");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(bench.ok(&words), "Flow rule #0 created on port vm1\n");
    assert_eq!(bench.ok(&words), "Flow rule #1 created on port vm1\n");
    let words = rule("validate", "vm1");
    assert_eq!(
        bench.ok(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        "Flow rule validated\n"
    );
    assert!(
        bench
            .ok(&["flow", "list"])
            .contains("actions count / drop / end")
    );
    assert_eq!(
        bench.ok(&["flow", "query", "0", "1", "count"]),
        "packets 0, bytes 0\n"
    );
    assert_eq!(
        bench.ok(&["flow", "destroy", "0", "rule", "0"]),
        "Flow rule #0 destroyed\n"
    );
    assert_eq!(
        bench.ok(&["flow", "flush", "vm1"]),
        "1 flow rules destroyed\n"
    );
    assert_eq!(
        bench.json(&["flow", "list", "vm1"]),
        Value::Array(Vec::new())
    );
    let (code, error) = bench.fails(&[
        "flow", "create", "0", "ingress", "pattern", "eth", "/", "ipv5", "/", "end",
    ]);
    assert_eq!(code, 2);
    assert!(
        error.contains("ipv5") && error.contains("expected"),
        "{error}"
    );
    let (code, error) = bench.fails(&["flow", "query", "0", "7"]);
    assert!(
        code == 1 && error.contains("there is no flow \"vm1/7\""),
        "{error}"
    );
}

#[test]
fn packets_are_traced_from_text_and_from_files() {
    let bench = Bench::started("trace", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let out = bench.ok(&[
        "trace", "vm1", "eth", "/", "ipv4", "dst", "10.0.0.1", "/", "udp", "dst", "53",
    ]);
    assert!(
        out.contains("42 bytes") && out.contains("=> dropped: dry-run"),
        "{out}"
    );
    let (code, error) = bench.fails(&["trace", "vm1", "eth", "/", "ipv9"]);
    assert!(code == 2 && error.contains("ipv9"), "{error}");

    // Two packets of 60 and 61 bytes, as libpcap writes them (little endian, microseconds, Ethernet).
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        pcap.extend(word.to_le_bytes());
    }
    for length in [60u32, 61] {
        for word in [0, 0, length, length] {
            pcap.extend(word.to_le_bytes());
        }
        pcap.extend(vec![0x11; length as usize]);
    }
    let file = bench.path("two.pcap");
    fs::write(&file, &pcap).unwrap();
    let file = file.to_str().unwrap();
    assert!(
        bench
            .ok(&["trace", "0", "--pcap", file, "--number", "2"])
            .contains("61 bytes")
    );
    let (code, error) = bench.fails(&["trace", "0", "--pcap", file, "--number", "3"]);
    assert!(
        code == 2 && error.contains("it has 2 packets, expected at least 3"),
        "{error}"
    );
    let (code, error) = bench.fails(&["trace", "0", "--pcap", BIN]);
    assert!(
        code == 2 && error.contains("neither pcap nor pcapng"),
        "{error}"
    );
}

#[test]
fn captures_start_and_stop() {
    let bench = Bench::started("capture", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let file = bench.path("x.pcapng");
    let out = bench.ok(&[
        "capture",
        "start",
        "--port",
        "vm1",
        "--write",
        file.to_str().unwrap(),
    ]);
    assert!(out.contains("capture-1 writes to"), "{out}");
    assert!(bench.ok(&["capture", "list"]).contains("capture-1"));
    assert!(
        bench
            .ok(&["capture", "stop", "capture-1"])
            .contains("0 packets written")
    );
    assert_eq!(bench.fails(&["capture", "stop", "capture-1"]).0, 1);
}

const CONFIG: &str = r#"
[node]
name = "a"

[[network]]
name = "blue"
vni = 7

[[port]]
name = "vm1"
kind = "vhost-user"
socket = "/tmp/vm1.sock"
network = "blue"
"#;

#[test]
fn run_time_objects_survive_a_restart_and_a_kill() {
    let mut bench = Bench::started("restart", Some(CONFIG));
    bench.ok(&[
        "port",
        "create",
        "late",
        "--kind",
        "tap",
        "--ifname",
        "late0",
        "--network",
        "blue",
    ]);
    bench.ok(&[
        "port",
        "create",
        "brief",
        "--kind",
        "tap",
        "--ifname",
        "brief0",
        "--volatile",
    ]);
    let before = bench.json(&["port", "show", "late"]);
    assert_eq!(bench.signal("-TERM"), Some(0), "{}", bench.log());
    assert!(
        !bench.path("rpc.sock").exists(),
        "the socket goes with the daemon"
    );
    bench.start(true);
    assert_eq!(bench.json(&["port", "show", "late"]), before);
    assert_eq!(bench.fails(&["port", "show", "brief"]).0, 1);
    bench.ok(&["port", "delete", "vm1"]);
    assert_eq!(bench.signal("-KILL"), None);
    // Without the file everything is as it was left; with it, the file has the last word on its own.
    bench.start(false);
    assert_eq!(bench.json(&["port", "show", "late"]), before);
    assert_eq!(bench.fails(&["port", "show", "vm1"]).0, 1);
    assert_eq!(bench.signal("-INT"), Some(0));
    bench.start(true);
    bench.ok(&["port", "show", "vm1"]);
}

#[test]
fn a_damaged_store_is_set_aside_and_said_so() {
    let mut bench = Bench::started("damaged", Some(CONFIG));
    bench.ok(&[
        "port", "create", "late", "--kind", "tap", "--ifname", "late0",
    ]);
    assert_eq!(bench.signal("-TERM"), Some(0));
    let store = bench.path("s.db");
    let bytes = fs::read(&store).unwrap();
    fs::write(&store, &bytes[..bytes.len() / 2]).unwrap();
    bench.start(true);
    bench.ok(&["port", "show", "late"]);
    assert!(bench.path("s.db.corrupt-1").exists());
    assert!(
        bench.log().contains("the store was damaged"),
        "{}",
        bench.log()
    );
    assert_eq!(bench.signal("-TERM"), Some(0));
    fs::write(&store, "nonsense").unwrap();
    fs::write(bench.path("s.db.backup"), "nonsense").unwrap();
    let status = bench.spawn(true).wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(
        bench.log().contains("there is no usable backup beside it"),
        "{}",
        bench.log()
    );
}

#[test]
fn one_daemon_per_socket_and_per_store() {
    let mut bench = Bench::started("one", None);
    let second = bench.spawn(false).wait().unwrap();
    assert_eq!(second.code(), Some(1));
    assert!(
        bench.log().contains("another daemon runs on"),
        "{}",
        bench.log()
    );
    let mut other = Command::new(BIN);
    other
        .args(["daemon", "--dry-run", "--rpc"])
        .arg(bench.path("other.sock"))
        .arg("--store")
        .arg(bench.path("s.db"));
    let output = other.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("is in use by another daemon")
    );
    bench.ok(&["rpc", "daemon.stop"]);
    assert_eq!(bench.daemon.take().unwrap().wait().unwrap().code(), Some(0));
}

#[test]
fn configuration_is_checked_saved_and_loaded() {
    let bench = Bench::started("config", Some(CONFIG));
    let bad = bench.path("bad.toml");
    fs::write(
        &bad,
        "[[port]]\nname = \"x\"\nkind = \"usb\"\n\n[[network]]\nname = \"n\"\nvni = 0\n",
    )
    .unwrap();
    let bad = bad.to_str().unwrap();
    let (code, error) = bench.fails(&["config", "check", bad]);
    assert_eq!(code, 1);
    assert!(
        error.contains("bad.toml: line 3: port x: kind is \"usb\", expected one of \"vhost-user\""),
        "{error}"
    );
    assert!(
        error.contains("bad.toml: line 7: network n: vni is 0, expected"),
        "{error}"
    );
    assert_eq!(bench.fails(&["config", "load", bad]).0, 1);
    let saved = bench.path("saved.toml");
    let saved = saved.to_str().unwrap();
    bench.ok(&["config", "save", saved]);
    assert!(
        bench
            .ok(&["config", "check", saved])
            .contains("3 objects, no faults")
    );
    assert_eq!(bench.ok(&["config", "load", saved]), "nothing to change\n");
    fs::write(
        saved,
        CONFIG.replace("\"blue\"\nvni", "\"blue\"\nmtu = 9000\nvni"),
    )
    .unwrap();
    assert_eq!(
        bench.ok(&["config", "load", saved]),
        "network blue changed\n"
    );
    fs::write(saved, CONFIG.replace("vni = 7", "vni = 8")).unwrap();
    let (code, error) = bench.fails(&["config", "load", saved]);
    assert!(
        code == 1 && error.contains("network blue: vni cannot change while it exists"),
        "{error}"
    );
    // A daemon does not start on a faulty file, and says everything that is wrong with it.
    let mut daemon = Command::new(BIN);
    let output = daemon
        .args([
            "daemon",
            "--dry-run",
            "--store",
            "none",
            "--config",
            bad,
            "--rpc",
        ])
        .arg(bench.path("b.sock"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("line 7: network n: vni is 0")
    );
}

#[test]
fn the_examples_are_sound() {
    let bench = Bench::new("examples");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            bench.ok(&["config", "check", path.to_str().unwrap()]);
            count += 1;
        }
    }
    assert!(count >= 2);
}

#[test]
fn exit_codes_and_messages() {
    let bench = Bench::started("codes", None);
    for args in [
        &["port", "create", "x"][..],
        &["port", "create", "x", "--kind", "tap", "--mtu", "abc"],
        &["prot", "list"],
        &["flow"],
    ] {
        assert_eq!(bench.fails(args).0, 2, "{args:?}");
    }
    let (code, error) = bench.fails(&["port", "create", "x", "--kind", "tap"]);
    assert_eq!(
        (code, error.as_str()),
        (
            1,
            "sumeru: port x: ifname is missing, expected a network interface name of 1 to 15 characters\n"
        )
    );
    let (code, error) = bench.fails(&["--json", "port", "show", "x"]);
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!((code, &error["error"]["code"]), (1, &Value::from(-32001)));
    let (code, error) = bench.fails(&["--rpc", "/nonexistent/sock", "port", "list"]);
    assert_eq!(code, 3);
    assert!(
        error.contains("start one with `sumeru daemon --rpc /nonexistent/sock`"),
        "{error}"
    );
    let (code, error) = bench.fails(&["top"]);
    assert!(code == 2 && error.contains("no terminal"), "{error}");
}

#[test]
fn completion_and_manual_pages_are_made() {
    let bench = Bench::new("docs");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            bench.ok(&["completion", shell]).contains("capture"),
            "{shell}"
        );
    }
    let folder = bench.path("man");
    bench.ok(&["man", folder.to_str().unwrap()]);
    let page = fs::read_to_string(folder.join("sumeru-port-create.1")).unwrap();
    assert!(page.contains("queue"), "{page}");
    assert!(bench.ok(&["version"]).contains("no daemon runs"));
}

//! The real binary: many flow rules, connections and metrics, against a daemon that moves nothing.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

mod bench;
use bench::Bench;

#[test]
fn a_file_of_rules_is_loaded_in_calls_of_many() {
    let bench = Bench::started("load", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let mut lines = String::from("# made by a test\n\n");
    for n in 0..10_000 {
        writeln!(lines, "flow create 0 ingress pattern eth / ipv4 dst is 10.0.{}.{} / end actions count / drop / end", n >> 8, n & 255).unwrap();
    }
    lines.push_str("flow destroy 0 rule 0 rule 1\n");
    let file = bench.path("rules");
    let file = file.to_str().unwrap();
    fs::write(file, &lines).unwrap();
    let done = bench.json(&["flow", "load", "--volatile", file]);
    assert_eq!(
        (&done["created"], &done["destroyed"]),
        (&json!(10_000), &json!(2))
    );
    assert_eq!(
        bench.json(&["flow", "list"]).as_array().unwrap().len(),
        9998
    );
    assert_eq!(
        bench.ok(&["flow", "flush", "vm1"]),
        "9998 flow rules destroyed\n"
    );
    fs::write(file, "flow create 0 ingress pattern eth / end actions drop / end\nflow create 0 ingress pattern eht / end actions drop / end\n").unwrap();
    let (code, error) = bench.fails(&["flow", "load", file]);
    assert!(
        code == 2 && error.contains("line 2") && error.contains("eht"),
        "{error}"
    );
    fs::write(file, "flow destroy 0 rule 5\n").unwrap();
    let (code, error) = bench.fails(&["flow", "load", file]);
    assert!(
        code == 1 && error.contains("vm1/5") && error.contains("lines 1 to 1"),
        "{error}"
    );
    fs::write(file, "flow flush 0\n").unwrap();
    assert_eq!(bench.fails(&["flow", "load", file]).0, 2);
    assert_eq!(bench.json(&["flow", "list"]), json!([]));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let bench = Bench::started("batch", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let rule = "ingress pattern eth / end actions drop / end";
    let call = |params: serde_json::Value| bench.run(&["rpc", "flow.batch", &params.to_string()]);
    let done = call(
        json!({ "create": [{ "port": 0, "rule": rule }, { "port": "vm1", "id": 7, "rule": rule }] }),
    );
    assert_eq!(done.status.code(), Some(0));
    let listed = || {
        let flows = bench.json(&["flow", "list"]);
        flows
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["id"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(), [7, 8]);
    for (params, fault) in [
        (
            json!({ "create": [{ "port": 0, "rule": rule }, { "port": 0, "rule": "drop it" }] }),
            "create 1",
        ),
        (
            json!({ "create": [{ "port": "vm9", "rule": rule }] }),
            "vm9",
        ),
        (
            json!({ "create": [{ "port": 0, "rule": rule }], "destroy": [{ "port": 0, "id": 99 }] }),
            "vm1/99",
        ),
        (
            json!({ "create": [{ "port": 0, "id": 8, "rule": rule }], "destroy": [{ "port": 0, "id": 7 }] }),
            "vm1/8",
        ),
        (json!({ "create": 5 }), "create"),
    ] {
        let refused = call(params);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(
            refused.status.code() == Some(1) && error.contains(fault),
            "{fault}: {error}"
        );
        assert_eq!(listed(), [7, 8]);
    }
    let done = call(
        json!({ "create": [{ "port": 0, "id": 8, "rule": rule }], "destroy": [{ "port": 0, "id": 8 }, { "port": 0, "id": 7 }] }),
    );
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(listed(), [8]);
}

#[test]
fn metrics_are_served_over_http() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!(
        "[daemon]\nmetrics = \"{address}\"\n[[port]]\nname = \"vm1\"\nkind = \"tap\"\nifname = \"t0\"\n[[flow]]\nport = \"vm1\"\nrule = \"ingress pattern eth / end actions count / drop / end\"\n"
    );
    let bench = Bench::started("metrics", Some(&config));
    let curl = |args: &[&str], path: &str| {
        let out = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--include"])
            .args(args)
            .arg(format!("http://{address}{path}"))
            .output()
            .expect("curl is needed: apt-get install curl");
        String::from_utf8(out.stdout).unwrap()
    };
    let text = curl(&[], "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.contains("Content-Type: text/plain; version=0.0.4"),
        "{text}"
    );
    for line in [
        "# TYPE sumeru_port_rx_packets_total counter\nsumeru_port_rx_packets_total{port=\"vm1\",index=\"0\"} 0\n",
        "sumeru_rule_packets_total{port=\"vm1\",id=\"0\"} 0\n",
        "sumeru_rules 1\n",
        "sumeru_lcore_cached_decisions{cpu=\"0\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(curl(&["--head"], "/metrics").starts_with("HTTP/1.1 200"));
    assert!(curl(&[], "/").starts_with("HTTP/1.1 404"));
    assert!(curl(&["--data", "x"], "/metrics").starts_with("HTTP/1.1 405"));
    let long = format!("X-Long: {}", "a".repeat(10_000));
    assert!(curl(&["--header", &long], "/metrics").starts_with("HTTP/1.1 431"));
    assert_eq!(bench.json(&["conntrack", "stats"]), json!([]));
    assert_eq!(
        bench.json(&["conntrack", "list", "--proto", "tcp", "--src", "10.0.0.1"]),
        json!([])
    );
    assert_eq!(
        bench.ok(&["conntrack", "flush", "--zone", "3"]),
        "0 connections ended\n"
    );
    bench.ok(&[
        "conntrack",
        "set",
        "--zone",
        "3",
        "--limit",
        "10",
        "--liberal",
    ]);
    bench.ok(&[
        "conntrack",
        "set",
        "--state",
        "established",
        "--ms",
        "60000",
    ]);
    bench.ok(&["conntrack", "set", "--port", "0", "--limit", "10"]);
    assert!(
        bench
            .ok(&["config", "save"])
            .contains("port_limits = [{ limit = 10, port = \"vm1\" }]")
    );
    for wrong in [
        &["--zone", "x"][..],
        &["--limit", "3"],
        &["--zone", "3", "--ms", "5"],
        &["--state", "asleep", "--ms", "5"],
        &["--port", "vm9", "--limit", "1"],
    ] {
        assert_ne!(
            bench.fails(&[&["conntrack", "set"], wrong].concat()).0,
            0,
            "{wrong:?}"
        );
    }
}

#[test]
fn meters_indirect_actions_ages_and_isolation_in_words() {
    let bench = Bench::started("objects", None);
    bench.ok(&["port", "create", "vm1", "--kind", "tap", "--ifname", "t0"]);
    let flow = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        bench.ok(&[&["flow"], words.as_slice()].concat())
    };
    let fails = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        bench.fails(&[&["flow"], words.as_slice()].concat())
    };
    let indirect = "indirect_action vm1";
    assert_eq!(
        flow("indirect_action 0 create action_id 5 ingress action count / end"),
        "Indirect action #5 created on port vm1\n"
    );
    assert_eq!(
        flow(&format!(
            "{indirect} create transfer action age timeout 60 / end"
        )),
        "Indirect action #6 created on port vm1\n"
    );
    assert_eq!(flow(&format!("{indirect} query 5")), "packets 0, bytes 0\n");
    assert_eq!(
        flow(&format!("{indirect} query 6")),
        "aged false, idle 0 s\n"
    );
    flow(&format!("{indirect} update 6 action age timeout 90 / end"));
    let listed = flow(&format!("{indirect} list"));
    assert!(
        listed.contains("transfer") && listed.contains("age timeout 90"),
        "{listed}"
    );
    flow("meter create 0 7 srtcm_rfc2697 --cir 125000 --cbs 20000 --ebs 0 --yellow drop");
    flow("meter update vm1 7 trtcm_rfc2698 --cir 10 --cbs 20 --pir 30 --pbs 40 --packet-mode");
    let listed = flow("meter list");
    assert!(
        listed.contains("cir 10 cbs 20 pir 30 pbs 40 packets"),
        "{listed}"
    );
    let seen = bench.json(&["flow", "meter", "query", "vm1", "7"]);
    assert_eq!(seen["dropped"], json!({ "packets": 0, "bytes": 0 }));
    assert!(flow("meter query vm1 7").contains("green"));
    flow("create vm1 ingress pattern eth / end actions indirect 5 / meter mtr_id 7 / drop / end");
    for (words, code, fault) in [
        ("indirect_action vm1 destroy action_id 5", 1, "flow vm1/0"),
        ("meter destroy vm1 7", 1, "flow vm1/0"),
        ("meter destroy vm1 16777216", 1, "those of policies"),
        ("meter destroy vm1 8", 1, "one of vm1/7"),
        (
            "meter create vm1 8 srtcm_rfc2697 --cir 1",
            1,
            "ebs is missing",
        ),
        ("indirect_action vm1 create action cuont / end", 2, "cuont"),
        ("indirect_action vm1 update 5 action drop / end", 1, "count"),
        ("isolate vm1 perhaps", 2, "perhaps"),
        ("aged vm9", 1, "vm9"),
    ] {
        let (found, error) = fails(words);
        assert!(found == code && error.contains(fault), "{words}: {error}");
    }
    flow("flush vm1");
    assert_eq!(
        flow(&format!("{indirect} destroy action_id 5 action_id 6")),
        "Indirect action #5 destroyed\nIndirect action #6 destroyed\n"
    );
    assert_eq!(flow("meter destroy vm1 7"), "Meter #7 destroyed\n");
    assert_eq!(flow("aged vm1 destroy"), "Nothing has grown old.\n");
    flow("isolate 0 1");
    let isolated = || bench.json(&["port", "show", "vm1"])["flow_isolated"] == true;
    assert!(isolated());
    flow("isolate vm1 off");
    assert!(!isolated());
}

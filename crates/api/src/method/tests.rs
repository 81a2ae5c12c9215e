//! Every method on a control plane without packets.

use proptest::prelude::*;
use serde_json::json;
use sumeru_control::dry::DryRun;
use sumeru_control::store::Store;

use super::*;

fn state() -> State {
    let control =
        Control::start(Box::new(DryRun::default()), Store::none(), Vec::new(), None).unwrap();
    State::new(control, None)
}

fn ask(state: &State, method: &str, params: Value) -> Result<Value, RpcError> {
    call(state, method, params.as_object().unwrap())
}

fn ok(state: &State, method: &str, params: Value) -> Value {
    ask(state, method, params)
        .unwrap_or_else(|error| panic!("{method}: {} {}", error.message, error.data))
}

fn refused(state: &State, method: &str, params: Value) -> (i64, String) {
    let error = ask(state, method, params).unwrap_err();
    (error.code, error.message)
}

fn filled() -> State {
    let state = state();
    ok(
        &state,
        "network.create",
        json!({ "name": "blue", "vni": 7 }),
    );
    ok(
        &state,
        "port.create",
        json!({ "name": "vm1", "kind": "vhost-user", "socket": "/tmp/vm1", "network": "blue" }),
    );
    ok(
        &state,
        "port.create",
        json!({ "name": "vm2", "kind": "tap", "ifname": "t2", "volatile": true }),
    );
    ok(
        &state,
        "volume.create",
        json!({ "name": "d", "kind": "memory", "size": "64MiB" }),
    );
    ok(
        &state,
        "controller.create",
        json!({ "name": "c", "volume": "d", "socket": "/tmp/c" }),
    );
    ok(
        &state,
        "flow.create",
        json!({ "port": "vm1", "rule": "ingress pattern eth / end actions drop / end" }),
    );
    state
}

#[test]
fn every_method_names_a_parameter_it_does_not_know() {
    let state = filled();
    for method in methods() {
        let (code, message) = refused(&state, method.name, json!({ "colour": "blue" }));
        assert_eq!(code, -32602, "{}: {message}", method.name);
        assert!(
            message.contains("colour is not a known field"),
            "{}: {message}",
            method.name
        );
    }
}

#[test]
fn every_method_names_a_parameter_it_needs() {
    let state = filled();
    for method in methods() {
        for field in method.params.list().iter().filter(|f| f.required) {
            let (code, message) = refused(&state, method.name, json!({}));
            assert_eq!(code, -32602, "{}: {message}", method.name);
            assert!(
                message.contains(&format!("{} is missing, expected ", field.name)),
                "{}: {message}",
                method.name
            );
        }
    }
}

#[test]
fn every_method_names_a_parameter_of_the_wrong_type() {
    let state = filled();
    ok(&state, "network.create", json!({ "name": "vm1", "vni": 8 }));
    // No parameter takes a list of lists, and no list takes lists as items.
    for method in methods() {
        for field in method.params.list() {
            let known = method.params.list();
            // Which fields are read at all depends on the kind.
            let kinds = [
                "vhost-user",
                "tap",
                "af-packet",
                "af-xdp",
                "bond",
                "memory",
                "null",
                "file",
            ];
            let noticed = kinds.iter().any(|kind| {
                let mut params = json!({ "name": "vm1", "port": "vm1", "kind": kind });
                params
                    .as_object_mut()
                    .unwrap()
                    .retain(|key, _| known.iter().any(|f| f.name == key));
                params[field.name] = json!([[1]]);
                let error = ask(&state, method.name, params).unwrap_err();
                let faults = error.data["faults"].as_array().cloned().unwrap_or_default();
                let expected = |f: &Value| {
                    f["expected"]
                        .as_str()
                        .is_some_and(|e| !e.starts_with("to be left out"))
                };
                faults
                    .iter()
                    .any(|f| f["field"] == field.name && f["found"] == "[[1]]" && expected(f))
            });
            let in_list = [
                "remotes",
                "lcores",
                "underlay",
                "static_macs",
                "create",
                "destroy",
                "security_groups",
                "addresses",
                "allowed_addresses",
                "shape_tenants",
                "shape_classes",
                "prefixes",
                "members",
                "http_codes",
                "rules",
                "ports",
                "geneve_options",
                "networks",
                "add",
                "remove",
                "among",
                "allow",
                "dns_servers",
                "routes",
            ]
            .contains(&field.name);
            // What is updated must exist before its fields are looked at.
            let absent = method.name.ends_with(".update");
            assert!(
                noticed || in_list || absent,
                "{} {}",
                method.name,
                field.name
            );
        }
    }
}

#[test]
fn names_are_nouns_and_verbs_and_occur_once() {
    let mut names: Vec<_> = methods().map(|m| m.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let listed = ok(&state(), "rpc.methods", json!({}));
    assert_eq!(listed.as_array().unwrap().len(), count);
    for wanted in [
        "port.create port.delete port.list port.show port.update",
        "network.create network.delete network.list network.show network.update",
        "flow.create flow.validate flow.destroy flow.list flow.query flow.flush flow.isolate flow.aged",
        "flow.indirect.create flow.indirect.update flow.indirect.destroy flow.indirect.query flow.indirect.list",
        "flow.meter.create flow.meter.update flow.meter.destroy flow.meter.query flow.meter.list",
        "volume.create volume.delete volume.list volume.show volume.resize",
        "controller.create controller.delete controller.list controller.show",
        "stats.lcore stats.port stats.stage stats.drop stats.residence stats.volume trace.packet",
        "mirror.create mirror.update mirror.delete mirror.list mirror.show",
        "exporter.create exporter.update exporter.delete exporter.list exporter.show",
        "capture.start capture.stop capture.list config.save config.load config.check",
        "node.show node.update version fdb.list neighbour.list daemon.stop rpc.methods event.list",
    ] {
        for name in wanted.split(' ') {
            assert!(names.contains(&name), "{name}");
        }
    }
}

#[test]
fn objects_are_made_shown_and_deleted() {
    let state = filled();
    let ports = ok(&state, "port.list", json!({}));
    assert_eq!(ports[0]["name"], "vm1");
    assert_eq!(
        (&ports[0]["index"], &ports[0]["in_service"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(ports[1]["volatile"], true);
    assert_eq!(
        ok(&state, "port.show", json!({ "name": "1" }))["name"],
        "vm2"
    );
    assert_eq!(
        ok(&state, "port.update", json!({ "name": "vm1", "mtu": 9000 }))["generation"],
        2
    );
    assert_eq!(
        ok(
            &state,
            "volume.resize",
            json!({ "name": "d", "size": "1GiB" })
        )["state"]["size"],
        1 << 30
    );
    assert_eq!(
        refused(&state, "volume.resize", json!({ "name": "d", "size": 512 })).0,
        -32602
    );
    assert_eq!(
        refused(&state, "network.delete", json!({ "name": "blue" })).0,
        -32003
    );
    assert_eq!(
        refused(
            &state,
            "network.create",
            json!({ "name": "blue", "vni": 9 })
        )
        .0,
        -32002
    );
    assert_eq!(
        refused(&state, "port.show", json!({ "name": "x" })).0,
        -32001
    );
    assert_eq!(
        refused(
            &state,
            "port.update",
            json!({ "name": "vm1", "socket": "/tmp/x" })
        )
        .0,
        -32005
    );
    assert_eq!(
        refused(
            &state,
            "port.create",
            json!({ "name": "x", "kind": "tap", "ifname": "x", "network": "green" })
        )
        .0,
        -32006
    );
    ok(&state, "controller.delete", json!({ "name": "c" }));
    ok(&state, "volume.delete", json!({ "name": "d" }));
    assert_eq!(ok(&state, "volume.list", json!({})), json!([]));
}

#[test]
fn rules_are_written_as_testpmd_does() {
    let state = filled();
    let rule =
        "group 1 ingress pattern eth / ipv4 dst is 10.0.0.1 / end actions count / drop / end";
    let made = ok(&state, "flow.create", json!({ "port": 0, "rule": rule }));
    assert_eq!((&made["port"], &made["id"]), (&json!("vm1"), &json!(1)));
    assert_eq!(
        ok(&state, "flow.list", json!({ "port": "0" }))
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        ok(&state, "flow.list", json!({ "group": 1 }))
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        ok(&state, "flow.query", json!({ "port": "vm1", "id": 1 })),
        json!({ "packets": 0, "bytes": 0 })
    );
    assert_eq!(
        ok(
            &state,
            "flow.validate",
            json!({ "port": "vm1", "rule": rule })
        ),
        true
    );
    let (code, message) = refused(
        &state,
        "flow.create",
        json!({ "port": "vm1", "rule": "ingress pattern eth / ipv5" }),
    );
    assert_eq!(code, -32602);
    assert!(message.contains("ipv5"), "{message}");
    let (_, message) = refused(
        &state,
        "flow.create",
        json!({ "port": "vm1", "rule": "pattern eth / end actions drop / end" }),
    );
    assert!(message.contains("the rule has no direction"), "{message}");
    let to_vm9 = "ingress pattern eth / end actions represented_port ethdev_port_id 9 / end";
    assert_eq!(
        refused(
            &state,
            "flow.create",
            json!({ "port": "vm1", "rule": to_vm9 })
        )
        .0,
        -32006
    );
    ok(&state, "flow.destroy", json!({ "port": "vm1", "id": 0 }));
    assert_eq!(
        ok(&state, "flow.flush", json!({ "port": "vm1" })),
        json!({ "destroyed": 1 })
    );
}

#[test]
fn what_rules_name_is_made_shown_and_deleted() {
    let state = filled();
    let srtcm = json!({ "port": 0, "id": 5, "algorithm": "srtcm_rfc2697", "cir": 125_000, "cbs": 20_000, "ebs": 0 });
    assert_eq!(
        ok(&state, "flow.meter.create", srtcm.clone()),
        json!({ "port": "vm1", "id": 5 })
    );
    assert_eq!(refused(&state, "flow.meter.create", srtcm).0, -32002);
    let trtcm = json!({ "port": "vm1", "id": 5, "algorithm": "trtcm_rfc2698", "cir": 10, "cbs": 20, "pir": 30, "pbs": 40,
        "packet_mode": true, "color_aware": true, "green": "passthru", "yellow": "drop", "red": "drop" });
    ok(&state, "flow.meter.update", trtcm.clone());
    assert_eq!(ok(&state, "flow.meter.list", json!({})), json!([trtcm]));
    assert_eq!(
        ok(&state, "flow.meter.list", json!({ "port": "vm2" })),
        json!([])
    );
    let none = json!({ "packets": 0, "bytes": 0 });
    let meter = json!({ "port": "vm1", "id": 5 });
    assert_eq!(
        ok(&state, "flow.meter.query", meter.clone()),
        json!({ "green": none, "yellow": none, "red": none, "dropped": none })
    );
    let (code, message) = refused(
        &state,
        "flow.meter.destroy",
        json!({ "port": "vm1", "id": 1 << 24 }),
    );
    assert!(
        code == -32602 && message.contains("those of policies"),
        "{message}"
    );
    for (action, answer) in [
        ("count", none.clone()),
        ("age timeout 9", json!({ "aged": false, "idle_s": 0 })),
    ] {
        let made = ok(
            &state,
            "flow.indirect.create",
            json!({ "port": "vm1", "action": action }),
        );
        assert_eq!(ok(&state, "flow.indirect.query", made), answer);
    }
    let first = json!({ "port": "vm1", "id": 0 });
    let rule = "ingress pattern eth / end actions indirect 0 / meter mtr_id 5 / drop / end";
    ok(
        &state,
        "flow.create",
        json!({ "port": "vm1", "rule": rule }),
    );
    for (method, name) in [
        ("flow.indirect.destroy", &first),
        ("flow.meter.destroy", &meter),
    ] {
        let (code, message) = refused(&state, method, name.clone());
        assert!(
            code == -32003 && message.contains("flow vm1/1"),
            "{message}"
        );
    }
    ok(
        &state,
        "flow.indirect.update",
        json!({ "port": "vm1", "id": 1, "action": "age timeout 20" }),
    );
    assert_eq!(
        ok(&state, "flow.indirect.list", json!({ "port": "vm1" }))[1],
        json!({ "port": "vm1", "id": 1, "action": "age timeout 20", "ingress": true, "egress": false, "transfer": false })
    );
    for (params, fault) in [
        (
            json!({ "port": "vm1", "action": "count / drop" }),
            "exactly one",
        ),
        (json!({ "port": "vm1", "action": "cuont" }), "at byte 0"),
        (json!({ "port": "vm1", "action": "indirect 0" }), "shared"),
        (
            json!({ "port": "vm1", "action": "count", "ingress": true, "transfer": true }),
            "transfer",
        ),
        (
            json!({ "port": "vm1", "id": -1, "action": "count" }),
            "4294967295",
        ),
    ] {
        let (code, message) = refused(&state, "flow.indirect.create", params);
        assert!(code == -32602 && message.contains(fault), "{message}");
    }
    assert_eq!(
        ok(
            &state,
            "flow.aged",
            json!({ "port": "vm1", "destroy": true })
        ),
        json!([])
    );
    ok(&state, "flow.flush", json!({ "port": "vm1" }));
    ok(&state, "flow.indirect.destroy", first.clone());
    ok(&state, "flow.meter.destroy", meter);
    assert_eq!(refused(&state, "flow.indirect.query", first).0, -32001);
    let isolated = ok(&state, "flow.isolate", json!({ "port": 0, "on": true }));
    assert_eq!(
        (&isolated["name"], &isolated["flow_isolated"]),
        (&json!("vm1"), &json!(true))
    );
    let shown = ok(&state, "port.show", json!({ "name": "vm1" }));
    assert_eq!(shown["flow_isolated"], true);
}

#[test]
fn traces_take_a_description_or_bytes() {
    let state = filled();
    let trace = ok(
        &state,
        "trace.packet",
        json!({ "port": "vm1", "packet": "eth / ipv4 dst 10.0.0.1 / udp dst 53" }),
    );
    assert!(
        trace["steps"][0]["decision"]
            .as_str()
            .unwrap()
            .starts_with("42 bytes"),
        "{trace}"
    );
    ok(
        &state,
        "trace.packet",
        json!({ "port": 1, "frame": "ff".repeat(60) }),
    );
    for (params, part) in [
        (json!({ "port": "vm1" }), "exactly one of them"),
        (
            json!({ "port": "vm1", "frame": "abc" }),
            "14 to 65535 bytes",
        ),
        (
            json!({ "port": "vm1", "frame": "zz".repeat(20) }),
            "14 to 65535 bytes",
        ),
        (json!({ "port": "vm1", "packet": "eth / ipv9" }), "ipv9"),
    ] {
        let (code, message) = refused(&state, "trace.packet", params);
        assert!(code == -32602 && message.contains(part), "{message}");
    }
}

#[test]
fn captures_have_names() {
    let state = filled();
    let first = ok(
        &state,
        "capture.start",
        json!({ "path": "/tmp/a.pcapng", "ports": "vm1", "protocol": "tcp", "pattern": "eth / ipv4" }),
    );
    assert_eq!(
        (&first["name"], &first["ports"], &first["protocol"]),
        (&json!("capture-1"), &json!(["vm1"]), &json!(6))
    );
    assert_eq!(
        ok(&state, "capture.start", json!({ "path": "/tmp/b.pcapng" }))["name"],
        "capture-2"
    );
    assert_eq!(
        ok(&state, "capture.list", json!({}))
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        ok(&state, "capture.stop", json!({ "name": "capture-1" }))["running"],
        false
    );
    assert_eq!(
        refused(&state, "capture.stop", json!({ "name": "capture-1" })).0,
        -32004
    );
    assert_eq!(
        refused(
            &state,
            "capture.start",
            json!({ "path": "/tmp/c", "name": "capture-2" })
        )
        .0,
        -32602
    );
}

#[test]
fn configuration_goes_round() {
    let state = filled();
    let text = ok(&state, "config.save", json!({}))["text"].clone();
    assert!(
        !text.as_str().unwrap().contains("vm2"),
        "volatile objects are not saved: {text}"
    );
    assert_eq!(
        ok(&state, "config.check", json!({ "text": text })),
        json!({ "objects": 6 })
    );
    let loaded = ok(&state, "config.load", json!({ "text": text }));
    assert_eq!(loaded["created"], json!([]));
    let (code, message) = refused(
        &state,
        "config.check",
        json!({ "text": "[[port]]\nname = 3\n" }),
    );
    assert_eq!(code, -32602);
    assert!(
        message.contains("line 2: port #1: name is 3, expected"),
        "{message}"
    );
    assert_eq!(refused(&state, "config.load", json!({})).0, -32602);
    assert_eq!(
        refused(&state, "config.load", json!({ "path": "/nonexistent" })).0,
        -32009
    );
}

#[test]
fn an_unknown_method_is_answered_with_its_neighbours() {
    let (code, message) = refused(&state(), "port.make", json!({}));
    assert_eq!(code, METHOD_NOT_FOUND);
    assert!(message.contains("port.create"), "{message}");
}

/// Any JSON, of the kind that comes near to being right.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "vm1",
        "blue",
        "d",
        "c",
        "vhost-user",
        "tap",
        "memory",
        "file",
        "/tmp/x",
        "64MiB",
        "00:11:22:33:44:55",
        "10.0.0.1",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..5000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parameters_are_answered(values in prop::collection::vec(any_json(), 16)) {
        let state = filled();
        for method in methods().filter(|m| m.name != "config.save") {
            for i in 0..4 {
                let fields = method.params.list().into_iter().enumerate();
                let chosen = fields.filter(|(n, f)| f.required || (n + i) % 3 == 0);
                let params: Map<String, Value> =
                    chosen.map(|(n, f)| (f.name.to_owned(), values[(n * 5 + i) % 16].clone())).collect();
                if let Err(error) = call(&state, method.name, &params) {
                    prop_assert!(!error.message.is_empty());
                    prop_assert!(error.code < -32000 || error.code == -32602, "{}", error.message);
                }
            }
        }
    }
}

#[test]
fn policies_are_made_amended_and_explained() {
    let state = filled();
    ok(
        &state,
        "address-set.create",
        json!({ "name": "office", "prefixes": ["192.0.2.0/24"] }),
    );
    let piece = json!({ "name": "office", "prefixes": ["192.0.2.0/24", "10.0.0.1"] });
    assert_eq!(
        ok(&state, "address-set.add", piece.clone()),
        json!({ "prefixes": 2 })
    );
    assert_eq!(
        ok(&state, "address-set.list", json!({}))[0]["prefixes"],
        json!(2)
    );
    let shown = ok(&state, "address-set.show", json!({ "name": "office" }));
    assert_eq!(shown["prefixes"], json!(["10.0.0.1", "192.0.2.0/24"]));
    let rules =
        json!(["ingress tcp 80 from set office", { "direction": "egress", "ethertype": "ipv4" }]);
    let group = ok(
        &state,
        "security-group.create",
        json!({ "name": "web", "rules": rules }),
    );
    assert_eq!(
        group["rules"],
        json!(["ingress tcp 80 from set office", "egress ipv4"])
    );
    let update = json!({
        "name": "vm1", "mac": "52:54:00:00:00:01", "port_security": true, "security_groups": ["web"], "addresses": ["10.0.0.1"],
    });
    ok(&state, "port.update", update);
    let of_group = ok(
        &state,
        "policy.rules",
        json!({ "object": "security-group web" }),
    );
    let lines: Vec<_> = of_group["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["line"].as_str().unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "rule 1: ingress tcp 80 from set office",
            "rule 1: ingress tcp 80 from set office",
            "rule 2: egress ipv4"
        ]
    );
    assert!(of_group["total"].as_u64().unwrap() > 50);
    let few = ok(&state, "policy.rules", json!({ "limit": 3 }));
    assert_eq!(few["rules"].as_array().unwrap().len(), 3);
    let way = ok(
        &state,
        "policy.explain",
        json!({ "port": "vm1", "packet": "eth / ipv4 / tcp" }),
    );
    assert_eq!(way["drop_reason"], "dry-run");
    for (method, params, code, part) in [
        (
            "address-set.delete",
            json!({ "name": "office" }),
            -32003,
            "security-group web",
        ),
        (
            "security-group.delete",
            json!({ "name": "web" }),
            -32003,
            "port vm1",
        ),
        (
            "blocklist.create",
            json!({ "name": "b", "address_set": "none" }),
            -32006,
            "address_set",
        ),
        (
            "address-set.add",
            json!({ "name": "office", "prefixes": ["10.0.0.1/8", "x"] }),
            -32602,
            "without host bits",
        ),
        (
            "isolation.create",
            json!({ "name": "i", "mode": "deny" }),
            -32602,
            "at least one member",
        ),
        (
            "flow.create",
            json!({ "port": "vm1", "rule": "group 9003 transfer pattern eth / end actions drop / end" }),
            -32602,
            "for policies",
        ),
        (
            "flow.create",
            json!({ "port": "vm1", "id": 1u32 << 31, "rule": "ingress pattern eth / end actions drop / end" }),
            -32602,
            "2147483647",
        ),
    ] {
        let (found, message) = refused(&state, method, params);
        assert!(
            found == code && message.contains(part),
            "{method}: {found} {message}"
        );
    }
    let remove = json!({ "name": "office", "prefixes": ["10.0.0.1", "10.0.0.9"] });
    assert_eq!(
        ok(&state, "address-set.remove", remove),
        json!({ "prefixes": 1 })
    );
}

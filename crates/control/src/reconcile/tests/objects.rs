//! Meters, indirect actions and isolation: numbers, users, and what happens to them with their port.

use serde_json::json;
use sumeru_flow::model::{Action, IndirectAction};

use super::*;
use crate::decode::Fields;
use crate::model::{INDIRECT_FIELDS, MeterSpec, read_indirect};

fn meter(more: Value) -> MeterSpec {
    let mut map = json!({ "port": "vm1", "id": 0, "algorithm": "srtcm_rfc2697", "cir": 1000, "cbs": 2000, "ebs": 0 });
    let more = more.as_object().unwrap().clone();
    map.as_object_mut().unwrap().extend(more);
    let mut fields = Fields::new(
        "test",
        map.as_object().unwrap(),
        MeterSpec::FIELDS,
        &no_lines,
    );
    let meter = MeterSpec::read(&mut fields);
    fields.finish(meter).unwrap()
}

fn shared(action: &str) -> IndirectAction {
    let map = json!({ "port": "vm1", "action": action });
    let mut fields = Fields::new("test", map.as_object().unwrap(), INDIRECT_FIELDS, &no_lines);
    let action = read_indirect(&mut fields);
    fields.finish(action).unwrap()
}

fn rule(actions: &str) -> Any {
    let text = format!("ingress pattern eth / end actions {actions} / end");
    object(Kind::Flow, json!({ "port": "vm1", "rule": text }))
}

/// One port with a meter, an indirect action that names it, and another.
fn filled() -> Bench {
    let mut bench = Bench::new(Some(FILE));
    bench.control.delete(Kind::Flow, "vm1/0").unwrap();
    let control = &mut bench.control;
    control.create_meter("1", 5, meter(json!({}))).unwrap();
    assert_eq!(
        control
            .create_indirect("vm1", shared("meter mtr_id 5"))
            .unwrap(),
        0
    );
    assert_eq!(control.create_indirect("vm1", shared("count")).unwrap(), 1);
    bench.asked();
    bench
}

fn numbers(bench: &Bench) -> (Vec<u32>, Vec<u32>) {
    let meters = bench.control.meters(Some("vm1")).unwrap();
    let indirect = bench.control.indirect_actions(None).unwrap();
    (
        meters.into_iter().map(|(_, id, _)| id).collect(),
        indirect.into_iter().map(|(_, id, _)| id).collect(),
    )
}

#[test]
fn what_is_named_is_in_use_and_the_message_says_by_whom() {
    let mut bench = filled();
    let control = &mut bench.control;
    control.create(rule("indirect 1 / drop")).unwrap();
    let busy = |error: Error, user: &str| {
        let is = matches!(&error, Error::InUse { users, .. } if users == &[user]);
        assert!(is, "{error}");
    };
    busy(
        control.destroy_meter("vm1", 5).unwrap_err(),
        "indirect action vm1/0",
    );
    busy(
        control.destroy_indirect("vm1", 1).unwrap_err(),
        "flow vm1/0",
    );
    assert_eq!(numbers(&bench), (vec![5], vec![0, 1]));
    let control = &mut bench.control;
    control.destroy_indirect("vm1", 0).unwrap();
    control.create(rule("meter mtr_id 5 / drop")).unwrap();
    busy(control.destroy_meter("vm1", 5).unwrap_err(), "flow vm1/1");
    control.flush_flows("vm1").unwrap();
    control.destroy_meter("vm1", 5).unwrap();
    control.destroy_indirect("vm1", 1).unwrap();
    assert_eq!(numbers(&bench), (vec![], vec![]));
    let absent = bench.control.destroy_meter("vm1", 5).unwrap_err();
    assert_eq!(
        (absent.code(), absent.to_string().contains("meter vm1/5")),
        (-32001, true)
    );
    let told = bench
        .control
        .events(0)
        .filter(|e| e.object == "meter vm1/5");
    assert_eq!(
        told.map(|e| e.what).collect::<Vec<_>>(),
        [What::Created, What::Deleted]
    );
}

#[test]
fn meters_of_policies_are_out_of_reach() {
    let mut bench = filled();
    let first = crate::policy::layout::FIRST_METER;
    let control = &mut bench.control;
    for error in [
        control
            .create_meter("vm1", first, meter(json!({})))
            .unwrap_err(),
        control
            .update_meter("vm1", first, meter(json!({})))
            .unwrap_err(),
        control.destroy_meter("vm1", first).unwrap_err(),
        control.query_meter("vm1", first).unwrap_err(),
        control
            .create(rule(&format!("meter mtr_id {first} / drop")))
            .unwrap_err(),
        control
            .create_indirect("vm1", shared(&format!("meter mtr_id {first}")))
            .unwrap_err(),
        control
            .update_indirect("vm1", 0, Action::Meter { mtr_id: first })
            .unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            error.code() == -32602 && text.contains("16777216, expected at most 16777215"),
            "{text}"
        );
    }
    assert!(
        bench.asked().is_empty(),
        "nothing of it reaches the data plane"
    );
    let control = &mut bench.control;
    control
        .create_meter("vm1", first - 1, meter(json!({})))
        .unwrap();
    let taken = control
        .create_meter("vm1", 5, meter(json!({})))
        .unwrap_err();
    assert_eq!(taken.code(), -32002, "{taken}");
    let absent = control.create(rule("meter mtr_id 6 / drop")).unwrap_err();
    assert!(
        absent.to_string().contains("there is no meter 6 of port 1"),
        "{absent}"
    );
}

#[test]
fn they_go_with_their_port_and_come_back_if_that_is_taken_back() {
    let mut bench = filled();
    bench.refuse(&["delete port vm1"]);
    bench.control.delete(Kind::Port, "vm1").unwrap_err();
    assert_eq!(numbers(&bench), (vec![5], vec![0, 1]));
    bench.control.query_meter("vm1", 5).unwrap();
    bench.control.query_indirect("vm1", 1).unwrap();
    bench.asked();
    // The port goes, then something else is refused: everything comes back, and rules can name it.
    let without = FILE
        .replace("network = \"blue\"", "network = \"red\"")
        .replace("name = \"blue\"", "name = \"red\"")
        .replace("vni = 7", "vni = 8")
        .replace("name = \"vm1\"", "name = \"vm2\"")
        .replace("port = \"vm1\"", "port = \"vm2\"");
    bench.refuse(&["create port vm2"]);
    bench
        .control
        .load(config::parse(&without).unwrap())
        .unwrap_err();
    let asked = bench.asked();
    let at = |text: &str| {
        let place = asked.iter().position(|asked| asked == text);
        place.unwrap_or_else(|| panic!("{text} in {asked:?}"))
    };
    let order = [
        "delete indirect vm1/0",
        "delete meter vm1/5",
        "delete port vm1",
        "create port vm2",
        "create port vm1",
        "create meter vm1/5",
        "create indirect vm1/0",
    ]
    .map(at);
    assert!(order.is_sorted(), "{asked:?}");
    bench.refuse(&[]);
    bench
        .control
        .create(rule("indirect 0 / indirect 1 / drop"))
        .unwrap();
    bench.control.flush_flows("vm1").unwrap();
    // Now it goes for good; a port of its name and index has nothing of it.
    let spec = bench.control.inventory().port("vm1").unwrap().clone();
    bench.control.delete(Kind::Port, "vm1").unwrap();
    assert_eq!(bench.control.indirect_actions(None).unwrap(), []);
    bench.control.create(Any::Port(spec)).unwrap();
    assert_eq!(numbers(&bench), (vec![], vec![]));
    let refused = bench.control.create(rule("indirect 1 / drop")).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("there is no indirect action 1"),
        "{refused}"
    );
    assert_eq!(
        bench
            .control
            .create_indirect("vm1", shared("count"))
            .unwrap(),
        0
    );
}

#[test]
fn a_rule_waits_for_what_it_names() {
    let file = FILE.replace("actions drop", "actions meter mtr_id 5 / drop");
    let mut bench = Bench::new(Some(&file));
    let flow = bench
        .control
        .inventory()
        .get(Kind::Flow, "vm1/0")
        .unwrap()
        .clone();
    assert!(bench.control.failure(&flow).unwrap().contains("meter 5"));
    bench
        .control
        .create_meter("vm1", 5, meter(json!({})))
        .unwrap();
    bench.control.tick();
    assert_eq!(bench.control.failure(&flow), None);
}

#[test]
fn isolation_is_a_field_of_the_port() {
    let mut bench = Bench::new(Some(FILE));
    bench.asked();
    bench.control.isolate("1", true).unwrap();
    assert_eq!(bench.asked(), ["change port vm1"]);
    let isolated = |bench: &Bench| {
        bench
            .control
            .inventory()
            .port("vm1")
            .unwrap()
            .spec
            .flow_isolated
    };
    assert!(isolated(&bench));
    bench.control.isolate("vm1", true).unwrap();
    assert!(bench.asked().is_empty());
    bench.refuse(&["change port vm1"]);
    bench.control.isolate("vm1", false).unwrap_err();
    assert!(isolated(&bench));
    // The file says nothing of it, so it is off there.
    bench.refuse(&[]);
    bench.control.load(config::parse(FILE).unwrap()).unwrap();
    assert!(!isolated(&bench));
    let Err(Error::NotFound { .. }) = bench.control.isolate("vm9", true) else {
        panic!("there is no such port");
    };
}

#[test]
fn an_indirect_action_stays_of_its_kind() {
    let mut bench = filled();
    let control = &mut bench.control;
    let other = control.update_indirect("vm1", 1, Action::Drop).unwrap_err();
    assert!(other.to_string().contains("count"), "{other}");
    let numbered = IndirectAction {
        id: Some(9),
        ..shared("age timeout 10")
    };
    assert_eq!(control.create_indirect("vm1", numbered.clone()).unwrap(), 9);
    let taken = control.create_indirect("vm1", numbered).unwrap_err();
    assert_eq!(taken.code(), -32002, "{taken}");
    control
        .update_indirect("vm1", 9, shared("age timeout 20").action)
        .unwrap();
    let all = control.indirect_actions(Some("vm1")).unwrap();
    assert_eq!(all.last().unwrap().2.action.to_string(), "age timeout 20");
    let nested = control
        .update_indirect("vm1", 9, Action::Indirect { id: 1 })
        .unwrap_err();
    assert_eq!(nested.code(), -32602, "{nested}");
}

#[test]
fn what_makes_no_sense_of_a_meter_is_named() {
    for (more, field) in [
        (json!({ "cir": 0 }), "cir"),
        (json!({ "cbs": 0 }), "cbs"),
        (json!({ "pir": 5 }), "pir"),
        (json!({ "algorithm": "trtcm_rfc2698" }), "pbs"),
        (json!({ "cir": null, "ebs": null }), "ebs"),
        (
            json!({ "algorithm": "trtcm_rfc2698", "ebs": null, "pir": 10, "pbs": 10 }),
            "pir",
        ),
        (json!({ "algorithm": "token" }), "algorithm"),
        (json!({ "red": "burn" }), "red"),
        (json!({ "red": 7 }), "red"),
    ] {
        let mut map = json!({ "port": "vm1", "id": 0, "algorithm": "srtcm_rfc2697", "cir": 1000, "cbs": 2000, "ebs": 0 });
        map.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut fields = Fields::new(
            "meter",
            map.as_object().unwrap(),
            MeterSpec::FIELDS,
            &no_lines,
        );
        let read = MeterSpec::read(&mut fields);
        let faults = fields.finish(read).unwrap_err();
        assert!(
            faults.iter().any(|fault| fault.field == field),
            "{field}: {faults:?}"
        );
    }
    let given = json!({ "algorithm": "trtcm_rfc2698", "ebs": null, "pir": 1500, "pbs": 3000, "packet_mode": true,
        "color_aware": true, "yellow": "set_ipv4_dscp dscp_value 10", "red": "passthru" });
    let shown = meter(given.clone()).to_map();
    for (field, value) in given
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| !value.is_null())
    {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(
        (&shown["green"], &shown["cbs"]),
        (&json!("passthru"), &json!(2000))
    );
}

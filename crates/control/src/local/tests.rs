//! What rules name, on a switch that runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::config;
use crate::dataplane::{AgedKind, IndirectAnswer};
use crate::decode::{Fields, no_lines};
use crate::error::Error;
use crate::model::{Any, INDIRECT_FIELDS, Kind, Marks, MeterSpec, Origin, read_indirect};
use crate::reconcile::Control;
use crate::store::Store;

/// A daemon's control plane with two guests that never connect, and the folder of their sockets.
struct Bench {
    control: Control,
    folder: std::path::PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sumeru-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = String::from("[[network]]\nname = \"blue\"\nvni = 7\n");
        for port in ["vm1", "vm2"] {
            let socket = folder.join(port);
            file += &format!(
                "[[port]]\nname = \"{port}\"\nkind = \"vhost-user\"\nnetwork = \"blue\"\nsocket = \"{}\"\n",
                socket.display()
            );
        }
        let entries = config::parse(&file).unwrap();
        let plane = Box::new(Local::default());
        let control = Control::start(plane, Store::none(), Vec::new(), Some(entries)).unwrap();
        Self { control, folder }
    }

    fn rule(&mut self, actions: &str) -> Result<Any, Error> {
        let text = format!("ingress pattern eth / end actions {actions} / end");
        let map = json!({ "port": "vm1", "rule": text });
        let map = map.as_object().unwrap();
        let marks = Marks::new(Origin::Api);
        let rule = Any::decode(Kind::Flow, "flow", map, &no_lines, marks).unwrap();
        self.control.create(rule)
    }

    fn indirect(&mut self, action: &str) -> Result<u32, Error> {
        let map = json!({ "port": "vm1", "action": action });
        let mut fields = Fields::new("", map.as_object().unwrap(), INDIRECT_FIELDS, &no_lines);
        let action = read_indirect(&mut fields);
        let action = fields.finish(action).unwrap();
        self.control.create_indirect("vm1", action)
    }

    /// Why a broadcast from the port's guest would be dropped, if it would be.
    fn dropped(&mut self) -> Option<String> {
        let mut frame = [0; 64];
        frame[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        self.control.trace("vm1", &frame).unwrap().drop_reason
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.control.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn meter(more: Value) -> MeterSpec {
    let mut map = json!({ "port": "vm1", "id": 0, "algorithm": "srtcm_rfc2697", "cir": 1000, "cbs": 2000, "ebs": 0 });
    let more = more.as_object().unwrap().clone();
    map.as_object_mut().unwrap().extend(more);
    let mut fields = Fields::new("", map.as_object().unwrap(), MeterSpec::FIELDS, &no_lines);
    let meter = MeterSpec::read(&mut fields);
    fields.finish(meter).unwrap()
}

#[test]
fn meters_and_indirect_actions_live_as_long_as_their_port() {
    let mut bench = Bench::new("objects");
    // Two rounds: the second port of the index begins with nothing.
    for _ in 0..2 {
        bench
            .control
            .create_meter("vm1", 5, meter(json!({})))
            .unwrap();
        assert_eq!(bench.indirect("count").unwrap(), 0);
        assert_eq!(bench.indirect("meter mtr_id 5").unwrap(), 1);
        bench.rule("indirect 0 / indirect 1 / drop").unwrap();
        let busy = [
            bench.control.destroy_indirect("vm1", 0).unwrap_err(),
            bench.control.destroy_meter("vm1", 5).unwrap_err(),
        ];
        for error in busy {
            assert!(matches!(error, Error::InUse { .. }), "{error}");
        }
        let none = FlowCount::default();
        let answer = bench.control.query_indirect("vm1", 0).unwrap();
        assert_eq!(answer, IndirectAnswer::Count(none));
        bench.control.query_indirect("vm1", 1).unwrap_err();
        assert_eq!(bench.control.query_meter("vm1", 5).unwrap().red, none);
        bench
            .control
            .update_meter("vm1", 5, meter(json!({ "red": "passthru" })))
            .unwrap();
        let burn = meter(json!({ "red": "queue index 1" }));
        let error = bench.control.update_meter("vm1", 5, burn).unwrap_err();
        assert!(error.to_string().contains("meter policy"), "{error}");
        bench.control.flush_flows("vm1").unwrap();
        let port = bench.control.inventory().port("vm1").unwrap().clone();
        bench.control.delete(Kind::Port, "vm1").unwrap();
        bench.control.create(Any::Port(port)).unwrap();
        let absent = bench.rule("meter mtr_id 5 / drop").unwrap_err();
        assert!(
            absent.to_string().contains("there is no meter 5 of port 0"),
            "{absent}"
        );
    }
}

#[test]
fn an_isolated_port_has_only_its_rules() {
    let mut bench = Bench::new("isolated");
    assert_ne!(bench.dropped().as_deref(), Some("isolated"));
    bench.control.isolate("vm1", true).unwrap();
    assert_eq!(bench.dropped().as_deref(), Some("isolated"));
    let port = bench.control.inventory().port("vm1").unwrap().clone();
    bench.control.delete(Kind::Port, "vm1").unwrap();
    bench.control.create(Any::Port(port)).unwrap();
    assert_eq!(
        bench.dropped().as_deref(),
        Some("isolated"),
        "as its field says"
    );
    bench.control.isolate("vm1", false).unwrap();
    assert_ne!(bench.dropped().as_deref(), Some("isolated"));
}

#[test]
fn what_has_grown_old_is_listed_and_destroyed() {
    let mut bench = Bench::new("aged");
    bench.rule("count / drop").unwrap();
    bench.rule("age timeout 1 context 77 / drop").unwrap();
    bench.rule("age timeout 3600 / drop").unwrap();
    bench.indirect("age timeout 1").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let aged = loop {
        let aged = bench.control.aged_flows("vm1", false).unwrap();
        if aged.len() >= 2 {
            break aged;
        }
        assert!(Instant::now() < end, "{aged:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let names: Vec<_> = aged.iter().map(|a| (a.kind, a.id, a.context)).collect();
    assert_eq!(names, [(AgedKind::Rule, 1, 77), (AgedKind::Indirect, 0, 0)]);
    assert!(aged.iter().all(|aged| aged.idle_s >= 1));
    assert_eq!(bench.control.aged_flows("vm2", true).unwrap(), []);
    assert_eq!(bench.control.aged_flows("vm1", true).unwrap().len(), 2);
    let left = bench.control.aged_flows("vm1", true).unwrap();
    assert_eq!(
        left.iter().map(|a| a.kind).collect::<Vec<_>>(),
        [AgedKind::Indirect]
    );
    let rules = bench.control.inventory().flows_of("vm1");
    assert_eq!(rules.map(|flow| flow.spec.id()).collect::<Vec<_>>(), [0, 2]);
    let Ok(IndirectAnswer::Age { aged: true, .. }) = bench.control.query_indirect("vm1", 0) else {
        panic!("it is old");
    };
}

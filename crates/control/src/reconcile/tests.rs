//! Order, refusal, roll back and restart, seen through a data plane that records what it is asked.

mod flows;
mod kept;
mod objects;
mod policy;
mod recorder;

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::config;
use crate::dataplane::*;
use crate::dry::DryRun;
use recorder::{Log, Recorder};

struct Bench {
    log: Arc<Mutex<Log>>,
    control: Control,
}

impl Bench {
    fn new(file: Option<&str>) -> Self {
        Self::with(Store::none(), Vec::new(), file, &[])
    }

    fn with(store: Store, stored: Vec<Any>, file: Option<&str>, refuse: &[&str]) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        log.lock().unwrap().refuse = refuse.iter().map(|s| (*s).to_owned()).collect();
        let plane = Recorder {
            log: log.clone(),
            inner: DryRun::default(),
        };
        let file = file.map(|text| config::parse(text).unwrap());
        let control = Control::start(Box::new(plane), store, stored, file).unwrap();
        Self { log, control }
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap().asked)
    }

    fn refuse(&self, asked: &[&str]) {
        self.log.lock().unwrap().refuse = asked.iter().map(|s| (*s).to_owned()).collect();
    }

    fn names(&self) -> Vec<String> {
        self.control.inventory().all().map(Any::label).collect()
    }
}

fn object(kind: Kind, spec: Value) -> Any {
    let Value::Object(map) = spec else {
        panic!("not a table")
    };
    Any::decode(kind, "test", &map, &no_lines, Marks::new(Origin::Api)).unwrap()
}

const FILE: &str = r#"
[node]
name = "a"
uplink = "up"
underlay = "192.0.2.1/24"

[[flow]]
port = "vm1"
rule = "ingress pattern eth / end actions drop / end"

[[controller]]
name = "c1"
volume = "disk1"
socket = "/tmp/c1.sock"

[[port]]
name = "vm1"
kind = "vhost-user"
socket = "/tmp/vm1.sock"
network = "blue"

[[port]]
name = "up"
kind = "af-packet"
interface = "eth0"
uplink = true
index = 0

[[volume]]
name = "disk1"
kind = "memory"
size = "64MiB"

[[network]]
name = "blue"
vni = 7
"#;

#[test]
fn start_brings_objects_in_by_dependency() {
    let bench = Bench::new(Some(FILE));
    assert_eq!(
        bench.asked(),
        [
            "start node a",
            "create network blue",
            "create volume disk1",
            "create port up",
            "create port vm1",
            "create controller c1",
            "create flow vm1/0"
        ]
    );
    assert_eq!(
        bench.control.inventory().port("vm1").unwrap().spec.index,
        Some(1)
    );
}

#[test]
fn what_is_in_use_cannot_be_deleted() {
    let mut bench = Bench::new(Some(FILE));
    for (kind, name, user) in [
        (Kind::Network, "blue", "port vm1"),
        (Kind::Volume, "disk1", "controller c1"),
        (Kind::Port, "vm1", "flow vm1/0"),
        (Kind::Port, "up", "node a (its uplink)"),
    ] {
        let error = bench.control.delete(kind, name).unwrap_err();
        assert!(
            matches!(&error, Error::InUse { users, .. } if users == &[user]),
            "{error}"
        );
    }
    bench.asked();
    bench.control.delete(Kind::Flow, "vm1/0").unwrap();
    bench.control.delete(Kind::Port, "vm1").unwrap();
    bench.control.delete(Kind::Network, "blue").unwrap();
    assert_eq!(
        bench.asked(),
        [
            "delete flow vm1/0",
            "delete port vm1",
            "delete network blue"
        ]
    );
}

#[test]
fn a_refusal_takes_back_what_came_before_it() {
    let mut bench = Bench::new(Some(FILE));
    let before = bench.names();
    bench.asked();
    let more = format!(
        "{}\n[[network]]\nname = \"red\"\nvni = 8\n[[port]]\nname = \"vm2\"\nkind = \"tap\"\nifname = \"t2\"\nnetwork = \"red\"\n",
        FILE.replace("64MiB", "128MiB")
    );
    bench.refuse(&["create port vm2"]);
    let error = bench
        .control
        .load(config::parse(&more).unwrap())
        .unwrap_err();
    assert!(
        matches!(&error, Error::Refused { object, .. } if object == "port vm2"),
        "{error}"
    );
    assert_eq!(
        bench.asked(),
        [
            "create network red",
            "change volume disk1",
            "create port vm2",
            "change volume disk1",
            "delete network red"
        ]
    );
    assert_eq!(bench.names(), before);
    let size = bench
        .control
        .inventory()
        .volume("disk1")
        .unwrap()
        .spec
        .kind
        .size()
        .unwrap();
    assert_eq!(size.to_string(), "64MiB");
    bench.refuse(&[]);
    let loaded = bench.control.load(config::parse(&more).unwrap()).unwrap();
    assert_eq!(loaded.created, ["network red", "port vm2"]);
    assert_eq!(loaded.changed, ["volume disk1"]);
    assert_eq!(
        bench.control.load(config::parse(&more).unwrap()).unwrap(),
        Loaded::default()
    );
}

#[test]
fn loading_deletes_what_left_the_file_and_nothing_made_at_run_time() {
    let mut bench = Bench::new(Some(FILE));
    bench
        .control
        .create(object(
            Kind::Volume,
            json!({ "name": "mine", "kind": "null", "size": 4096 }),
        ))
        .unwrap();
    bench.asked();
    let loaded = bench
        .control
        .load(config::parse("[node]\nname = \"a\"").unwrap())
        .unwrap();
    assert_eq!(
        bench.asked(),
        [
            "delete flow vm1/0",
            "delete controller c1",
            "delete port vm1",
            "change node a",
            "delete port up",
            "delete network blue",
            "delete volume disk1"
        ]
    );
    assert_eq!(loaded.deleted.len(), 6);
    assert_eq!(bench.names(), ["volume mine"]);
}

#[test]
fn what_cannot_change_live_is_refused_by_field() {
    let mut bench = Bench::new(Some(FILE));
    for (from, to, object, field) in [
        ("/tmp/vm1.sock", "/tmp/other.sock", "port vm1", "socket"),
        ("vni = 7", "vni = 9", "network blue", "vni"),
        (
            "name = \"a\"",
            "name = \"a\"\nlcores = [1]",
            "node a",
            "lcores",
        ),
        ("/tmp/c1.sock", "/tmp/c2.sock", "controller c1", "socket"),
    ] {
        let error = bench
            .control
            .load(config::parse(&FILE.replace(from, to)).unwrap())
            .unwrap_err();
        assert!(
            matches!(&error, Error::Fixed { object: o, fields, .. } if o == object && fields == &[field]),
            "{error}"
        );
    }
    let error = bench
        .control
        .resize("disk1", ByteSize::new(4096).unwrap())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("at least its present size, 64MiB"),
        "{error}"
    );
    bench.asked();
    let fields = json!({ "network": null, "mtu": 9000 });
    bench
        .control
        .update(Kind::Port, "vm1", fields.as_object().unwrap())
        .unwrap();
    assert_eq!(bench.asked(), ["change port vm1"]);
    let port = bench.control.inventory().port("vm1").unwrap().clone();
    assert_eq!(
        (port.spec.network.clone(), port.spec.mtu, port.generation),
        (None, 9000, 2)
    );
}

#[test]
fn conflicts_name_the_owner() {
    let mut bench = Bench::new(Some(FILE));
    for (kind, spec, field, owner) in [
        (
            Kind::Network,
            json!({ "name": "x", "vni": 7 }),
            "vni",
            "network blue",
        ),
        (
            Kind::Port,
            json!({ "name": "x", "kind": "tap", "ifname": "eth0" }),
            "ifname",
            "port up",
        ),
        (
            Kind::Port,
            json!({ "name": "x", "kind": "tap", "ifname": "t", "index": 1 }),
            "index",
            "port vm1",
        ),
        (
            Kind::Controller,
            json!({ "name": "x", "volume": "disk1", "socket": "/tmp/vm1.sock" }),
            "socket",
            "port vm1",
        ),
    ] {
        let error = bench.control.create(object(kind, spec)).unwrap_err();
        assert!(
            matches!(&error, Error::Taken { field: f, owner: o, .. } if *f == field && o == owner),
            "{error}"
        );
    }
    let error = bench
        .control
        .create(object(Kind::Network, json!({ "name": "blue", "vni": 9 })))
        .unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let error = bench
        .control
        .create(object(
            Kind::Port,
            json!({ "name": "x", "kind": "tap", "ifname": "t", "network": "green" }),
        ))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "port x: network is \"green\", expected the name of a network that exists"
    );
    assert_eq!(
        bench.asked().len(),
        7,
        "nothing of this reached the data plane"
    );
}

#[test]
fn objects_made_at_run_time_survive_a_restart() {
    let folder = std::env::temp_dir().join(format!("sumeru-reconcile-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let path = folder.join("node.db");
    let mut bench = Bench::with(
        Store::open(&path).unwrap().store,
        Vec::new(),
        Some(FILE),
        &[],
    );
    let made = bench
        .control
        .create(object(
            Kind::Port,
            json!({ "name": "vm9", "kind": "tap", "ifname": "t9" }),
        ))
        .unwrap();
    let uuid = bench.control.inventory().port("vm1").unwrap().uuid;
    let all = bench.names();
    drop(bench);

    let opened = Store::open(&path).unwrap();
    let bench = Bench::with(opened.store, opened.objects, None, &[]);
    assert_eq!(bench.names(), all);
    let vm9 = bench.control.inventory().port("vm9").unwrap();
    assert_eq!(
        (vm9.uuid, vm9.origin, vm9.spec.index),
        (made.uuid(), Origin::Api, Some(2))
    );
    drop(bench);

    // With a file that lost an object: that one goes, ours stays, identities stay.
    let opened = Store::open(&path).unwrap();
    let file = FILE.replace("[[flow]]", "[[flow]]\nid = 5");
    let bench = Bench::with(opened.store, opened.objects, Some(&file), &[]);
    assert!(bench.names().contains(&"port vm9".to_owned()));
    assert!(bench.names().contains(&"flow vm1/5".to_owned()));
    assert!(!bench.names().contains(&"flow vm1/0".to_owned()));
    assert_eq!(bench.control.inventory().port("vm1").unwrap().uuid, uuid);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_object_refused_at_start_is_kept_and_tried_again() {
    let mut bench = Bench::with(
        Store::none(),
        Vec::new(),
        Some(FILE),
        &["create port vm1", "create volume disk1"],
    );
    let vm1 = Any::Port(bench.control.inventory().port("vm1").unwrap().clone());
    assert!(
        bench
            .control
            .failure(&vm1)
            .unwrap()
            .contains("not supported here")
    );
    let error = bench.control.query_flow("vm1", 0).unwrap_err();
    assert!(matches!(error, Error::OutOfService { .. }), "{error}");
    bench.asked();
    bench.refuse(&[]);
    bench.control.tick();
    assert_eq!(
        bench.asked(),
        [
            "create volume disk1",
            "create port vm1",
            "create controller c1",
            "create flow vm1/0"
        ]
    );
    assert_eq!(bench.control.failure(&vm1), None);
    let what: Vec<_> = bench
        .control
        .events(0)
        .filter(|e| e.object == "port vm1")
        .map(|e| e.what)
        .collect();
    assert_eq!(what, [What::Failed, What::Recovered]);
}

#[test]
fn a_failed_object_can_be_deleted_or_mended() {
    let mut bench = Bench::with(
        Store::none(),
        Vec::new(),
        Some(FILE),
        &["create controller c1", "create port vm1"],
    );
    bench.asked();
    bench.control.delete(Kind::Controller, "c1").unwrap();
    assert!(bench.asked().is_empty(), "the data plane never had it");
    bench.refuse(&[]);
    let fields = json!({ "socket": "/tmp/elsewhere.sock" });
    bench
        .control
        .update(Kind::Port, "vm1", fields.as_object().unwrap())
        .unwrap();
    assert_eq!(bench.asked(), ["create port vm1"]);
}

#[test]
fn saved_configuration_reads_back_the_same() {
    let mut bench = Bench::new(Some(FILE));
    bench
        .control
        .create(object(
            Kind::Network,
            json!({ "name": "red", "vni": 9, "remotes": ["192.0.2.2", "2001:db8::2"],
                    "static_macs": [{ "mac": "52:54:00:00:00:01", "remote": "192.0.2.2" }] }),
        ))
        .unwrap();
    let saved = config::render(bench.control.inventory(), bench.control.settings());
    let again = Bench::new(Some(&saved));
    let specs = |b: &Bench| {
        b.control
            .inventory()
            .all()
            .map(|o| (o.label(), o.spec_map()))
            .collect::<Vec<_>>()
    };
    assert_eq!(specs(&again), specs(&bench));
    assert_eq!(
        again.control.inventory().port("vm1").unwrap().uuid,
        bench.control.inventory().port("vm1").unwrap().uuid
    );
}

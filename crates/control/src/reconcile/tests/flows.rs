//! Flow rules: numbers, and many at a time.

use serde_json::json;

use super::*;

fn flow(id: Option<u32>, number: u32) -> Any {
    let text = format!(
        "ingress pattern eth / ipv4 dst is 10.0.{}.{} / end actions drop / end",
        number >> 8,
        number & 255
    );
    let mut spec = json!({ "port": "vm1", "rule": text });
    if let Some(id) = id {
        spec["id"] = json!(id);
    }
    object(Kind::Flow, spec)
}

fn ids(bench: &Bench) -> Vec<u32> {
    let flows = bench.control.inventory().flows_of("vm1");
    flows.map(|flow| flow.spec.id()).collect()
}

fn batches(bench: &Bench) -> usize {
    std::mem::take(&mut bench.log.lock().unwrap().batches)
}

#[test]
fn flow_rules_are_numbered_per_port_and_flushed_together() {
    let mut bench = Bench::new(Some(FILE));
    let rule = |port: &str| {
        object(
            Kind::Flow,
            json!({ "port": port, "rule": "ingress pattern eth / end actions drop / end" }),
        )
    };
    assert_eq!(bench.control.create(rule("vm1")).unwrap().name(), "vm1/1");
    assert_eq!(bench.control.create(rule("up")).unwrap().name(), "up/0");
    bench.control.delete(Kind::Flow, "vm1/0").unwrap();
    assert_eq!(bench.control.create(rule("vm1")).unwrap().name(), "vm1/2");
    bench.refuse(&["delete flow vm1/2"]);
    bench.control.flush_flows("vm1").unwrap_err();
    assert_eq!(bench.control.inventory().flows_of("vm1").count(), 2);
    bench.refuse(&[]);
    assert_eq!(bench.control.flush_flows("1").unwrap(), 2, "by index");
    assert_eq!(bench.control.inventory().flows_of("vm1").count(), 0);
}

#[test]
fn rules_of_one_call_are_one_change() {
    let mut bench = Bench::new(Some(FILE));
    batches(&bench);
    let made = bench
        .control
        .change_flows((0..500).map(|n| flow(None, n)).collect(), &[])
        .unwrap();
    assert_eq!((made.len(), batches(&bench)), (500, 1));
    assert_eq!(
        ids(&bench),
        (0..=500).collect::<Vec<_>>(),
        "number 0 is the file's"
    );
    // Old for new, some under the numbers of those that go.
    let destroy: Vec<_> = (1..=500).map(|id| ("vm1".to_owned(), id)).collect();
    let create = (0..500)
        .map(|n| flow((n % 2 == 0).then_some(n + 1), 1000 + n))
        .collect();
    bench.control.change_flows(create, &destroy).unwrap();
    assert_eq!(batches(&bench), 1);
    let expected: Vec<u32> = std::iter::once(0)
        .chain((1..500).step_by(2))
        .chain(501..751)
        .collect();
    assert_eq!(ids(&bench), expected);
    assert_eq!(bench.control.flush_flows("vm1").unwrap(), 501);
    assert_eq!((ids(&bench).len(), batches(&bench)), (0, 1));
    let told: Vec<_> = bench
        .control
        .events(0)
        .map(|e| (e.object.clone(), e.detail.clone()))
        .collect();
    assert!(
        told.contains(&("flow vm1/*".into(), "500 rules".into())),
        "{told:?}"
    );
    assert!(told.len() < 20, "one event for many rules: {}", told.len());
}

#[test]
fn a_rule_at_fault_leaves_all_as_it_was() {
    let mut bench = Bench::new(Some(FILE));
    bench.refuse(&["create flow vm1/7"]);
    let create: Vec<_> = (1..10).map(|n| flow(Some(n), n)).collect();
    let error = bench
        .control
        .change_flows(create.clone(), &[("vm1".into(), 0)])
        .unwrap_err();
    assert!(error.to_string().contains("create flow vm1/7"), "{error}");
    assert_eq!(ids(&bench), [0]);
    bench.refuse(&[]);
    let twice = vec![flow(Some(5), 1), flow(Some(5), 2)];
    let error = bench.control.change_flows(twice, &[]).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let gone = bench
        .control
        .change_flows(vec![], &[("vm1".into(), 0), ("vm1".into(), 0)])
        .unwrap_err();
    assert!(gone.to_string().contains("named twice"), "{gone}");
    let unknown = bench
        .control
        .change_flows(create.clone(), &[("vm1".into(), 99)])
        .unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown}");
    assert_eq!(ids(&bench), [0]);
    bench.control.change_flows(create, &[]).unwrap();
    assert_eq!(
        ids(&bench).len(),
        10,
        "what was refused before can be done now"
    );
}

#[test]
fn rules_refused_at_start_do_not_keep_the_others_out() {
    let flows: String = (0..40)
        .map(|n| format!("[[flow]]\nport = \"vm1\"\nid = {}\nrule = \"ingress pattern eth / ipv4 dst is 10.1.0.{n} / end actions drop / end\"\n", 100 + n))
        .collect();
    let file = format!("{FILE}\n{flows}");
    let refuse = [
        "create flow vm1/103",
        "create flow vm1/120",
        "create flow vm1/121",
    ];
    let mut bench = Bench::with(Store::none(), Vec::new(), Some(&file), &refuse);
    let failed = |bench: &Bench| -> Vec<u32> {
        let flows = bench.control.inventory().flows_of("vm1").cloned();
        flows
            .filter(|flow| bench.control.failure(&Any::Flow(flow.clone())).is_some())
            .map(|flow| flow.spec.id())
            .collect()
    };
    assert_eq!(
        (ids(&bench).len(), failed(&bench)),
        (41, vec![103, 120, 121])
    );
    bench.refuse(&["create flow vm1/120"]);
    bench.control.tick();
    assert_eq!(failed(&bench), [120]);
    // One that the data plane never had goes with the others.
    assert_eq!(bench.control.flush_flows("vm1").unwrap(), 41);
}

#[test]
fn rules_of_a_file_without_numbers_keep_the_numbers_they_have() {
    let rule = |n: u32| {
        format!(
            "[[flow]]\nport = \"vm1\"\nrule = \"ingress pattern eth / ipv4 dst is 10.1.0.{n} / end actions drop / end\"\n"
        )
    };
    let file = |list: &[u32]| {
        format!(
            "{FILE}\n{}",
            list.iter().map(|n| rule(*n)).collect::<String>()
        )
    };
    let mut bench = Bench::new(Some(&file(&[1, 2, 2, 3])));
    assert_eq!(ids(&bench), [0, 1, 2, 3, 4]);
    let mut load = |list: &[u32]| {
        bench
            .control
            .load(config::parse(&file(list)).unwrap())
            .unwrap()
    };
    assert_eq!(
        load(&[3, 2, 2, 1]),
        Loaded::default(),
        "order does not matter"
    );
    let loaded = load(&[3, 2, 1, 4]);
    assert_eq!(
        (loaded.deleted, loaded.created),
        (vec!["flow vm1/3".to_owned()], vec!["flow vm1/5".to_owned()])
    );
}

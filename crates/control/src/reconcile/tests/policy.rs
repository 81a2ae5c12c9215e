//! When the rules of policies come and go.

use super::*;

#[test]
fn rules_of_policies_are_there_before_their_port_and_go_after_it() {
    let log = Arc::new(Mutex::new(Log::default()));
    let plane = Recorder {
        log: log.clone(),
        inner: DryRun::default(),
    };
    let mut control = Control::start(Box::new(plane), Store::none(), Vec::new(), None).unwrap();
    let port = || {
        let fields = json!({"name": "vm1", "kind": "tap", "ifname": "vm1", "mac": "52:54:00:00:00:01", "port_security": true});
        let marks = Marks::new(Origin::Api);
        Any::decode(
            Kind::Port,
            "port vm1",
            fields.as_object().unwrap(),
            &no_lines,
            marks,
        )
        .unwrap()
    };
    let asked = || std::mem::take(&mut log.lock().unwrap().asked);
    asked();
    control.create(port()).unwrap();
    let order = asked();
    assert_eq!(order.last().unwrap(), "create port vm1");
    assert!(
        order.len() > 10
            && order[..order.len() - 1]
                .iter()
                .all(|what| what == "insert rule")
    );
    control.delete(Kind::Port, "vm1").unwrap();
    let order = asked();
    assert_eq!(order[0], "delete port vm1");
    assert!(order.len() > 10 && order[1..].iter().all(|what| what == "remove rule"));
    // A refused port leaves no rules; refused rules leave no port.
    log.lock().unwrap().refuse.push("create port vm1".into());
    control.create(port()).unwrap_err();
    assert!(control.policy().is_empty());
    let order = asked();
    let count = |what: &str| order.iter().filter(|asked| *asked == what).count();
    assert_eq!(count("insert rule"), count("remove rule"));
    log.lock().unwrap().refuse = vec!["insert rule".into()];
    control.create(port()).unwrap_err();
    assert_eq!(asked(), ["insert rule"]);
    assert!(control.policy().is_empty() && control.inventory().port("vm1").is_none());
}

#[test]
fn ports_wait_for_the_rules_of_their_policies() {
    let log = Arc::new(Mutex::new(Log::default()));
    log.lock().unwrap().refuse = vec!["insert rule".into()];
    let plane = Recorder {
        log: log.clone(),
        inner: DryRun::default(),
    };
    let fields = json!({"name": "vm1", "kind": "tap", "ifname": "vm1", "mac": "52:54:00:00:00:01", "port_security": true});
    let marks = Marks::new(Origin::Api);
    let port = Any::decode(
        Kind::Port,
        "port vm1",
        fields.as_object().unwrap(),
        &no_lines,
        marks,
    )
    .unwrap();
    let port = Inventory::default().number(port).unwrap();
    let mut control =
        Control::start(Box::new(plane), Store::none(), vec![port.clone()], None).unwrap();
    assert!(control.failure(&port).unwrap().contains("policy"));
    assert!(
        !log.lock()
            .unwrap()
            .asked
            .contains(&"create port vm1".to_owned())
    );
    control.tick();
    assert!(control.failure(&port).is_some());
    log.lock().unwrap().refuse.clear();
    control.tick();
    assert_eq!(control.failure(&port), None);
    assert!(
        log.lock()
            .unwrap()
            .asked
            .contains(&"create port vm1".to_owned())
    );
}

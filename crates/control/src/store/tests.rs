//! What a store must survive: every kind of damage we can think of, at many places of the file.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::*;
use crate::decode::no_lines;
use crate::model::{Marks, Origin};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sumeru-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("node.db")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn object(kind: Kind, spec: Value) -> Any {
    let Value::Object(map) = spec else {
        panic!("not a table")
    };
    Any::decode(kind, "test", &map, &no_lines, Marks::new(Origin::Api)).unwrap()
}

fn network(name: &str, vni: u32) -> Any {
    object(
        Kind::Network,
        json!({ "name": name, "vni": vni, "remotes": ["192.0.2.7"] }),
    )
}

fn objects(count: u32) -> Vec<Any> {
    (1..=count)
        .map(|i| network(&format!("network-with-a-long-name-{i:04}"), i))
        .collect()
}

fn sorted(mut objects: Vec<Any>) -> Vec<(String, u64, Map<String, Value>)> {
    objects.sort_by_key(Any::label);
    objects
        .iter()
        .map(|o| (o.label(), o.generation(), o.to_map()))
        .collect()
}

fn fill(folder: &Folder, objects: &[Any]) {
    let mut store = Store::open(&folder.file()).unwrap().store;
    for any in objects {
        store.commit(&[Row::Put(any)]).unwrap();
    }
    store.backup();
}

#[test]
fn objects_come_back_as_they_were() {
    let folder = Folder::new("back");
    let mut all = objects(30);
    all.push(object(
        Kind::Port,
        json!({ "name": "p", "kind": "tap", "ifname": "tap0", "index": 3 }),
    ));
    all.push(object(
        Kind::Flow,
        json!({ "port": "p", "id": 7, "rule": "ingress pattern eth / end actions drop / end" }),
    ));
    fill(&folder, &all);
    let Opened {
        mut store,
        objects,
        recovered,
    } = Store::open(&folder.file()).unwrap();
    assert!(recovered.is_none());
    assert_eq!(sorted(objects), sorted(all.clone()));
    store
        .commit(&[Row::Remove(&all[0]), Row::Remove(&all[31])])
        .unwrap();
    drop(store);
    let again = Store::open(&folder.file()).unwrap();
    assert_eq!(again.objects.len(), 30);
}

#[test]
fn volatile_objects_are_not_stored() {
    let folder = Folder::new("volatile");
    let marks = Marks {
        volatile: true,
        ..Marks::new(Origin::Api)
    };
    let volatile = network("gone", 1).with_marks(marks);
    fill(&folder, &[volatile, network("kept", 2)]);
    let opened = Store::open(&folder.file()).unwrap();
    assert_eq!(
        opened.objects.iter().map(Any::name).collect::<Vec<_>>(),
        ["kept"]
    );
}

#[test]
fn a_second_daemon_is_kept_out() {
    let folder = Folder::new("locked");
    let first = Store::open(&folder.file()).unwrap();
    let second = Store::open(&folder.file()).err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    drop(first);
    assert!(Store::open(&folder.file()).is_ok());
}

#[test]
fn a_transaction_cut_short_is_rolled_back() {
    let folder = Folder::new("hot");
    fill(&folder, &objects(40));
    let good = fs::read(folder.file()).unwrap();
    // What a kill in the middle of a transaction leaves: the file half written, and the journal
    // with the pages as they were. SQLite leaves exactly that when a process ends without commit
    // after its cache spilled; a connection that is forgotten does the same to the files.
    let connection = Connection::open(folder.file()).unwrap();
    connection
        .execute_batch(
            "PRAGMA cache_size = 2; PRAGMA cache_spill = 1; PRAGMA synchronous = FULL; BEGIN;",
        )
        .unwrap();
    for i in 0..400 {
        connection
            .execute(
                "INSERT INTO object VALUES ('network', ?1, 'u', 1, 'api', ?2, 0)",
                params![format!("x{i}"), "y".repeat(300)],
            )
            .unwrap();
    }
    let (torn, journal) = (
        fs::read(folder.file()).unwrap(),
        fs::read(folder.0.join("node.db-journal")).unwrap(),
    );
    assert_ne!(
        torn, good,
        "the transaction must have spilled into the file"
    );
    drop(connection);
    fs::write(folder.file(), torn).unwrap();
    fs::write(folder.0.join("node.db-journal"), journal).unwrap();
    let opened = Store::open(&folder.file()).unwrap();
    assert_eq!(sorted(opened.objects).len(), 40);
    assert!(opened.recovered.is_none(), "the journal was enough");
}

#[test]
fn every_flipped_byte_is_harmless_or_noticed() {
    let folder = Folder::new("flip");
    let all = objects(24);
    fill(&folder, &all);
    let (good, backup) = (
        fs::read(folder.file()).unwrap(),
        fs::read(folder.0.join("node.db.backup")).unwrap(),
    );
    let wanted = sorted(all);
    let mut noticed = 0;
    // Every byte of the header and of the first page's b-tree header, then one in 61.
    let offsets: Vec<usize> = (0..120).chain((120..good.len()).step_by(61)).collect();
    for (i, offset) in offsets.iter().enumerate() {
        let mut bytes = good.clone();
        bytes[*offset] ^= if i % 3 == 0 { 0xff } else { 1 << (i % 8) };
        let _ = fs::remove_dir_all(&folder.0);
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(folder.file(), bytes).unwrap();
        fs::write(folder.0.join("node.db.backup"), &backup).unwrap();
        let opened = match Store::open(&folder.file()) {
            Ok(opened) => opened,
            Err(error) => panic!("offset {offset}: {error}"),
        };
        noticed += u32::from(opened.recovered.is_some());
        assert_eq!(sorted(opened.objects), wanted, "offset {offset}");
    }
    assert!(
        noticed > offsets.len() as u32 / 4,
        "only {noticed} of {} flips were noticed",
        offsets.len()
    );
}

#[test]
fn every_truncation_goes_back_to_the_last_good_copy() {
    let folder = Folder::new("cut");
    let all = objects(24);
    fill(&folder, &all);
    let (good, backup) = (
        fs::read(folder.file()).unwrap(),
        fs::read(folder.0.join("node.db.backup")).unwrap(),
    );
    for length in (0..good.len())
        .step_by(307)
        .chain([1, 15, 16, 99, 100, 512, 4095, 4096, 8192])
    {
        let _ = fs::remove_dir_all(&folder.0);
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(folder.file(), &good[..length]).unwrap();
        fs::write(folder.0.join("node.db.backup"), &backup).unwrap();
        let opened =
            Store::open(&folder.file()).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert_eq!(
            sorted(opened.objects),
            sorted(all.clone()),
            "{length} bytes"
        );
        let aside = opened
            .recovered
            .unwrap_or_else(|| panic!("{length} bytes went unnoticed"));
        let kept = aside.damaged.unwrap();
        assert_eq!(fs::read(&kept).unwrap().len(), length);
        assert!(kept.to_str().unwrap().ends_with(".corrupt-1"));
    }
}

#[test]
fn without_a_good_copy_the_error_is_clear_and_nothing_is_moved() {
    let folder = Folder::new("lost");
    fill(&folder, &objects(24));
    let good = fs::read(folder.file()).unwrap();
    for damage in [fs::remove_file, |p: PathBuf| {
        fs::write(p, b"not a database at all, but long enough to be one")
    }] {
        damage(folder.0.join("node.db.backup")).unwrap();
        fs::write(folder.file(), &good[..good.len() / 2]).unwrap();
        let error = Store::open(&folder.file()).err().unwrap();
        assert!(matches!(error, StoreError::Lost { .. }), "{error}");
        assert!(error.to_string().contains("no usable backup"), "{error}");
        assert!(
            folder.names().contains(&"node.db".to_owned()),
            "{:?}",
            folder.names()
        );
        assert!(
            !folder.names().iter().any(|n| n.contains("corrupt")),
            "{:?}",
            folder.names()
        );
    }
}

#[test]
fn a_later_release_and_a_foreign_file_are_refused_by_name() {
    let folder = Folder::new("version");
    fill(&folder, &objects(2));
    let connection = Connection::open(folder.file()).unwrap();
    connection
        .execute_batch("PRAGMA user_version = 2; UPDATE meta SET value = 2 WHERE key = 'schema'")
        .unwrap();
    drop(connection);
    let error = Store::open(&folder.file()).err().unwrap();
    assert!(
        matches!(error, StoreError::Newer { found: 2, .. }),
        "{error}"
    );

    let foreign = folder.0.join("foreign.db");
    let connection = Connection::open(&foreign).unwrap();
    connection
        .execute_batch("CREATE TABLE t (a); PRAGMA application_id = 252006675")
        .unwrap();
    drop(connection);
    let error = Store::open(&foreign).err().unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn a_refused_change_leaves_the_digest_right() {
    let folder = Folder::new("digest");
    let mut store = Store::open(&folder.file()).unwrap().store;
    let one = network("one", 1);
    store
        .commit(&[
            Row::Put(&one),
            Row::Put(&one),
            Row::Remove(&one),
            Row::Put(&one),
        ])
        .unwrap();
    // A trigger stands in for a full disk.
    let open = store.open.as_ref().unwrap();
    open.connection
        .execute_batch("CREATE TEMP TRIGGER full BEFORE INSERT ON object WHEN NEW.name = 'two' BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    let error = store
        .commit(&[Row::Put(&network("three", 3)), Row::Put(&network("two", 2))])
        .unwrap_err();
    assert!(matches!(error, StoreError::Sql { .. }), "{error}");
    store.commit(&[Row::Put(&network("four", 4))]).unwrap();
    drop(store);
    let opened = Store::open(&folder.file()).unwrap();
    assert!(opened.recovered.is_none());
    assert_eq!(opened.objects.len(), 2);
}

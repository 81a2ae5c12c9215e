//! Connections of an orderly restart, on the engine of this process: two starts, ports that changed their indexes, damage.

use std::fs;
use std::path::{Path, PathBuf};

use sumeru_switch::conntrack::{Commit, Config, Conntrack, CtPacket, Direction, Family, Tuple};

use super::*;
use crate::local::Local;
use crate::reconcile::{Setup, Tracking};
use crate::settings::{PortLimit, TimeoutSetting};

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("sumeru-kept-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    Folder(path)
}

fn file(folder: &Path, ports: &[(&str, u16)]) -> String {
    let port = |(name, index): &(&str, u16)| {
        let socket = folder.join(name);
        format!(
            "[[port]]\nname = \"{name}\"\nindex = {index}\nkind = \"vhost-user\"\nsocket = \"{}\"\n",
            socket.display()
        )
    };
    ports.iter().map(port).collect()
}

fn start(folder: &Path, ports: &[(&str, u16)]) -> Control {
    let (entries, mut settings) = config::read(&file(folder, ports)).unwrap();
    settings.switch.connections = 1000;
    let setup = Setup {
        settings,
        kept: Some(folder.join("kept")),
    };
    Control::start_with(
        Box::new(Local::default()),
        Store::none(),
        Vec::new(),
        Some(entries),
        setup,
    )
    .unwrap()
}

/// Connections of UDP with an answer, owned by ports 0, 1, 2, 0, …
fn write(folder: &Path, count: u32) {
    let config = Config {
        capacity: 100,
        ..Config::default()
    };
    let mut table = Conntrack::new(config, 0).unwrap();
    for n in 0..count {
        let tuple = Tuple {
            src: (0x0a00_0000 + n).into(),
            dst: 0x0a01_0001,
            sport: 1000,
            dport: 53,
            proto: 17,
            family: Family::V4,
            zone: 5,
        };
        let packet = CtPacket {
            bytes: 60,
            ..CtPacket::default()
        };
        let (mark, label, owner) = (n, 0, (n % 3) as u16);
        let made = table
            .commit(&Commit {
                tuple,
                packet,
                mark,
                label,
                owner,
                policy: 0,
                nat: None,
            })
            .unwrap();
        table.track(made, Direction::Reply, &packet);
    }
    let mut out = fs::File::create(folder.join("kept")).unwrap();
    let names = [("a", 0), ("b", 1), ("gone", 2)].map(|(name, index)| (name.to_owned(), index));
    crate::reconcile::connections::write_head(&mut out, &names.into()).unwrap();
    assert_eq!(table.save(1, &mut out).unwrap(), u64::from(count));
}

fn listed(control: &Control) -> Vec<(String, String)> {
    let (mut all, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let page = control
            .connections(&ConnectionFilter::default(), from, 7)
            .unwrap();
        assert!(page.connections.len() <= 7);
        all.extend(
            page.connections
                .into_iter()
                .map(|c| (c.original.src.to_string(), c.port)),
        );
        cursor = page.cursor;
    }
    all.sort();
    all
}

#[test]
fn connections_live_on_with_the_ports_they_have_now() {
    let folder = folder("on");
    write(&folder.0, 30);
    // The ports have changed places, and one is gone with its connections.
    let mut control = start(&folder.0, &[("a", 7), ("b", 0)]);
    let first = listed(&control);
    assert_eq!(first.len(), 20);
    assert!(
        first.contains(&("10.0.0.0".into(), "a".into()))
            && first.contains(&("10.0.0.1".into(), "b".into()))
    );
    assert!(!folder.0.join("kept").exists(), "a file is used once");
    let of = |filter: ConnectionFilter| {
        control
            .connections(&filter, 0, 100)
            .unwrap()
            .connections
            .len()
    };
    assert_eq!(
        of(ConnectionFilter {
            port: Some(7),
            ..Default::default()
        }),
        10
    );
    assert_eq!(
        of(ConnectionFilter {
            src: Some("10.0.0.4".parse().unwrap()),
            zone: Some(5),
            ..Default::default()
        }),
        1
    );
    assert_eq!(
        of(ConnectionFilter {
            state: Some("udp-replied".into()),
            proto: Some(17),
            ..Default::default()
        }),
        20
    );
    assert_eq!(
        of(ConnectionFilter {
            zone: Some(6),
            ..Default::default()
        }),
        0
    );
    let wrong = ConnectionFilter {
        state: Some("asleep".into()),
        ..Default::default()
    };
    assert!(
        control
            .connections(&wrong, 0, 1)
            .unwrap_err()
            .to_string()
            .contains("established")
    );
    let ended = control.flush_connections(&ConnectionFilter {
        port: Some(0),
        ..Default::default()
    });
    assert_eq!(ended.unwrap(), 10);
    let stats = control.connection_stats().unwrap();
    assert_eq!(
        (stats[0].live, stats[0].flushed, stats[0].capacity),
        (10, 10, 1000)
    );
    control.stop();

    let mut control = start(&folder.0, &[("b", 3), ("a", 4)]);
    let second = listed(&control);
    assert_eq!(second.len(), 10);
    assert!(second.iter().all(|(_, port)| port == "a"));
    control
        .flush_connections(&ConnectionFilter::default())
        .unwrap();
    control.stop();
    assert!(
        !folder.0.join("kept").exists() && !folder.0.join("kept.new").exists(),
        "nothing to keep"
    );
}

#[test]
fn a_damaged_file_is_set_aside() {
    let folder = folder("damage");
    let (kept, aside) = (folder.0.join("kept"), folder.0.join("kept.damaged"));
    write(&folder.0, 30);
    let whole = fs::read(&kept).unwrap();
    for damage in [0, 9, 13, 20, 30, 60, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[damage] ^= 0x40;
        fs::write(&kept, &bytes).unwrap();
        let mut control = start(&folder.0, &[("a", 0), ("b", 1)]);
        assert_eq!(listed(&control), [], "byte {damage}");
        control.stop();
        assert!(aside.exists() && !kept.exists(), "byte {damage}");
        fs::remove_file(&aside).unwrap();
    }
    fs::write(&kept, &whole[..whole.len() - 9]).unwrap();
    start(&folder.0, &[("a", 0)]).stop();
    assert!(aside.exists(), "cut off");
}

#[test]
fn settings_are_read_written_and_changed() {
    let text = r#"
[daemon]
metrics = "127.0.0.1:9555"
[switch]
connections = 5000
early_drop = true
timeouts = [{ state = "established", ms = 60000 }]
[[switch.zones]]
zone = 7
limit = 100
pickup = true
"#;
    let (_, settings) = config::read(text).unwrap();
    assert_eq!(
        (settings.switch.connections, settings.switch.zones[0].limit),
        (5000, Some(100))
    );
    let saved = config::render(&Inventory::default(), &settings);
    assert_eq!(config::read(&saved).unwrap().1, settings, "{saved}");
    for (text, fault) in [
        ("[daemon]\nmetrics = \"here\"", "127.0.0.1:9555"),
        ("[switch]\nconnections = 0", "connections"),
        ("[switch]\ncolour = 1", "colour"),
        ("[[switch]]\nconnections = 1", "one section [switch]"),
        (
            "[switch]\ntimeouts = [{ state = \"asleep\", ms = 1 }]",
            "established",
        ),
        ("[switch]\nzones = [{ limit = 1 }]", "zone"),
    ] {
        let error = config::read(text).unwrap_err().to_string();
        assert!(error.contains(fault), "{text}: {error}");
    }
    let mut bench = Bench::new(Some(FILE));
    bench
        .control
        .set_tracking(Tracking::Timeout(TimeoutSetting {
            policy: 3,
            state: "icmp",
            ms: 1000,
        }))
        .unwrap();
    let limit = |port: &str| {
        Tracking::Port(PortLimit {
            port: port.into(),
            limit: 5,
        })
    };
    assert!(matches!(
        bench.control.set_tracking(limit("nobody")),
        Err(Error::NotFound { .. })
    ));
    bench.control.set_tracking(limit("vm1")).unwrap();
    let saved = config::render(bench.control.inventory(), bench.control.settings());
    assert_eq!(&config::read(&saved).unwrap().1, bench.control.settings());
    let refused = bench.control.use_settings(settings).unwrap_err();
    assert!(matches!(refused, Error::Fixed { .. }), "{refused}");
}

//! One stock guest with disks of the daemon: what its Linux driver finds and does, a resize seen live, and a daemon that is killed
//! and started again under load.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use sumeru_e2e::config::quoted;
use sumeru_e2e::workload::{disk_read, disk_write};
use sumeru_e2e::{Config, Daemon, Disk, Guest, Lifetime, QemuVersion, place::SocketFolder};

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

struct Node {
    daemon: Daemon,
    guest: Guest,
    _folder: SocketFolder,
}

fn node(label: &str, version: QemuVersion, volume: &[(&str, &str)], queues: u16) -> Node {
    let folder = SocketFolder::create(label).unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let socket = quoted(&at("blk").display().to_string());
    let image = quoted(&at("img").display().to_string());
    let mut fields: Vec<(&str, &dyn std::fmt::Display)> = vec![("name", &"\"d1\"")];
    fields.extend(
        volume
            .iter()
            .map(|(key, value)| (*key, value as &dyn std::fmt::Display)),
    );
    if volume.iter().any(|(_, value)| *value == "\"file\"") {
        fields.push(("path", &image));
        fields.push(("create", &true));
    }
    let config = Config::new("n1", 0).table("volume", &fields).table(
        "controller",
        &[
            ("name", &"\"d1\""),
            ("volume", &"\"d1\""),
            ("socket", &socket),
            ("queues", &queues),
            ("serial", &"\"0123456789abcdef\""),
        ],
    );
    std::fs::write(at("n1.toml"), config.text()).unwrap();
    let daemon = Daemon::start("n1", None, &at("n1.toml"), &at("rpc"), Lifetime::Bound).unwrap();
    let disk = Disk::new(at("blk")).queues(queues);
    let guest = Guest::builder("g1")
        .qemu(version)
        .cpus(queues)
        .disk(disk)
        .boot()
        .unwrap();
    Node {
        daemon,
        guest,
        _folder: folder,
    }
}

fn a_linux_guest_uses_all_of_it(version: QemuVersion) {
    let volume = [("kind", "\"memory\""), ("size", "\"64MiB\"")];
    let Node { daemon, guest, .. } = &node("blkall", version, &volume, 2);
    let show = |what: &str| {
        let text = guest
            .check(&format!("cat /sys/block/vda/{what}"), SHORT)
            .unwrap();
        text.trim().to_owned()
    };
    assert_eq!(show("size"), (64 << 11).to_string());
    assert_eq!(show("serial"), "0123456789abcdef");
    assert_eq!(show("queue/write_cache"), "write back");
    assert_eq!(show("queue/discard_max_bytes"), (64 << 20).to_string());
    assert_eq!(show("queue/write_zeroes_max_bytes"), (64 << 20).to_string());
    assert_eq!(
        guest
            .check("ls /sys/block/vda/mq | wc -l", SHORT)
            .unwrap()
            .trim(),
        "2"
    );
    let written = disk_write(guest, 8).unwrap();
    assert_eq!(disk_read(guest, 8).unwrap(), written);
    // A reboot resets the device in the middle of its session: the way to the front end must survive that.
    guest.reboot().unwrap();
    assert_eq!(disk_read(guest, 8).unwrap(), written);
    daemon
        .cli(&["volume", "resize", "d1", "96MiB"])
        .unwrap()
        .success("volume resize")
        .unwrap();
    let grown = "for i in $(seq 100); do [ $(cat /sys/block/vda/size) = 196608 ] && exit 0; sleep 0.1; done; exit 1";
    guest.check(grown, SHORT).unwrap();
    let end = "dd if=/dev/zero of=/dev/vda bs=1M seek=95 count=1 oflag=direct 2>/dev/null";
    guest.check(end, SHORT).unwrap();
    assert_eq!(disk_read(guest, 8).unwrap(), written);
}

#[test]
fn a_linux_guest_uses_all_of_it_qemu_7_2() {
    a_linux_guest_uses_all_of_it(QemuVersion::V7_2);
}

#[test]
fn a_linux_guest_uses_all_of_it_qemu_11_1() {
    a_linux_guest_uses_all_of_it(QemuVersion::V11_1);
}

#[test]
fn io_goes_on_when_the_daemon_was_killed() {
    let volume = [("kind", "\"file\""), ("size", "\"64MiB\"")];
    let mut node = node("blkkill", QemuVersion::V7_2, &volume, 1);
    let load = "for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/tmp/p bs=1M count=4 2>/dev/null; \
        dd if=/tmp/p of=/dev/vda bs=64k seek=512 oflag=direct conv=fsync 2>/dev/null || exit 1; \
        dd if=/dev/vda bs=64k skip=512 count=64 iflag=direct 2>/dev/null | cmp - /tmp/p || exit 2; sleep 1; done; echo whole";
    let job = node.guest.spawn(load).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(2));
        node.daemon.restart().unwrap();
    }
    let outcome = node.guest.wait(job, LONG).unwrap();
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (0, "whole\n"),
        "{outcome:?}"
    );
}

//! The framework itself against peers that are not ours: a stock guest under QEMU whose disk is served by
//! qemu-storage-daemon, and two namespaces joined by a wire.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sumeru_e2e::process::Output;
use sumeru_e2e::{
    Disk, Error, Guest, Namespace, QemuVersion, StorageDaemon, place, storage, veth_pair,
};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);

fn disk_survives_reboot(version: QemuVersion) {
    let folder = place::SocketFolder::create("disk").unwrap();
    let image = folder.path().join("disk.img");
    storage::sparse_image(&image, 64).unwrap();
    let disk = StorageDaemon::vhost_user_blk("disk", &image, 1).unwrap();
    let guest = Guest::builder("g1")
        .qemu(version)
        .disk(Disk::new(disk.socket()))
        .boot()
        .unwrap();

    assert_eq!(
        guest
            .check("cat /sys/block/vda/size", SHORT)
            .unwrap()
            .trim(),
        (64 << 11).to_string()
    );
    let written = guest
        .check(
            "dd if=/dev/urandom of=/tmp/pattern bs=1M count=4 2>/dev/null && \
             dd if=/tmp/pattern of=/dev/vda bs=1M seek=32 oflag=direct conv=fsync 2>/dev/null && sha256sum </tmp/pattern",
            LONG,
        )
        .unwrap();
    let read = "dd if=/dev/vda bs=1M skip=32 count=4 iflag=direct 2>/dev/null | sha256sum";
    assert_eq!(guest.check(read, LONG).unwrap(), written);
    let before = guest.boot_id().unwrap();
    guest.reboot().unwrap();
    assert_ne!(guest.boot_id().unwrap(), before);
    assert_eq!(
        guest.check("ls /tmp", SHORT).unwrap(),
        "",
        "the memory of the guest should be new"
    );
    assert_eq!(guest.check(read, LONG).unwrap(), written);

    // What the guest wrote is in the file, at the place it wrote it to.
    let pid = guest.process().pid();
    drop(guest);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let command = format!(
        "dd if={} bs=1M skip=32 count=4 2>/dev/null | sha256sum",
        image.display()
    );
    let host = sumeru_e2e::process::check(std::process::Command::new("sh").args(["-c", &command]))
        .unwrap();
    assert_eq!(host, written);
}

#[test]
fn disk_survives_reboot_qemu_7_2() {
    disk_survives_reboot(QemuVersion::V7_2);
}

#[test]
fn disk_survives_reboot_qemu_11_1() {
    disk_survives_reboot(QemuVersion::V11_1);
}

#[test]
fn commands_report_status_output_and_time() {
    let guest = Guest::builder("g1").boot().unwrap();
    let output = guest
        .run("echo out; echo problem >&2; exit 7", SHORT)
        .unwrap();
    assert_eq!(
        output,
        Output {
            status: 7,
            stdout: "out\n".into(),
            stderr: "problem\n".into()
        }
    );
    // Bytes and sizes that a console would not carry.
    let output = guest
        .check(
            "head -c 300000 /dev/zero | tr '\\0' 'x'; printf '\\r\\nend 1\\n\\001'",
            LONG,
        )
        .unwrap();
    assert_eq!(output.len(), 300_000 + 9);
    assert!(output.ends_with("x\r\nend 1\n\u{1}"));
    let late = guest.run("echo begun; sleep 60", Duration::from_secs(2));
    assert!(
        matches!(&late, Err(Error::Timeout { context, .. }) if context.contains("begun")),
        "{late:?}"
    );
    // A background job runs beside others and keeps its outcome.
    let job = guest.spawn("sleep 2; echo slow; exit 3").unwrap();
    assert!(!guest.finished(job).unwrap());
    assert_eq!(guest.check("echo quick", SHORT).unwrap(), "quick\n");
    assert_eq!(
        guest.wait(job, LONG).unwrap(),
        Output {
            status: 3,
            stdout: "slow\n".into(),
            stderr: String::new()
        }
    );
    // The programs of this machine run in there.
    for program in ["iperf3 --version", "ethtool --version"] {
        guest.check(program, SHORT).unwrap();
    }
    // A reset without notice, and control over QMP.
    guest.reset().unwrap();
    let status = guest
        .qmp()
        .unwrap()
        .execute("query-status", &serde_json::Value::Null)
        .unwrap();
    assert_eq!(status["status"], "running");
    let refused = guest
        .qmp()
        .unwrap()
        .execute("no-such-command", &serde_json::Value::Null);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    // A guest whose kernel dies is told from one that is slow.
    let panic = guest.run("echo c >/proc/sysrq-trigger; sleep 20", LONG);
    assert!(matches!(panic, Err(Error::GuestPanic { .. })), "{panic:?}");
}

#[test]
fn namespaces_are_joined_and_vanish() {
    let (a, b) = (
        Namespace::create("a").unwrap(),
        Namespace::create("b").unwrap(),
    );
    veth_pair((&a, "wire0"), (&b, "wire0"), 9100).unwrap();
    a.ip(&["address", "add", "192.0.2.1/24", "dev", "wire0"])
        .unwrap();
    b.ip(&["address", "add", "192.0.2.2/24", "dev", "wire0"])
        .unwrap();
    let ping = a
        .run(
            "ping",
            &["-c", "1", "-W", "5", "-s", "9000", "-M", "do", "192.0.2.2"],
        )
        .unwrap();
    assert_eq!(ping.status, 0, "{ping:?}");
    assert!(matches!(
        Namespace::named(a.name()),
        Err(Error::Refused { .. })
    ));
    let names = [a.name().to_owned(), b.name().to_owned()];
    drop((a, b));
    let left = sumeru_e2e::process::check(std::process::Command::new("ip").args(["netns", "list"]))
        .unwrap();
    assert!(
        names.iter().all(|name| !left.contains(name.as_str())),
        "{left}"
    );
}

#[test]
fn an_absent_peer_names_the_command_that_installs_it() {
    let error = sumeru_e2e::peers::command("qemu-0.0")
        .unwrap_err()
        .to_string();
    assert!(error.contains("scripts/install-prerequisites"), "{error}");
}

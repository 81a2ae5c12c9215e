//! `make demo`: two compute nodes, three guests of two tenants, network and disks through the engine; a table of what
//! came of it. The exit status is 0 only if every row has passed.
//!
//! With `KEEP=1` in the environment everything is left running.

mod report;
mod site;

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::Value;
use sumeru_e2e::workload::{
    SHORT, address, disk_read, disk_write, iperf, iperf_server, offloads_off, ping,
};
use sumeru_e2e::{Daemon, Guest, Result, cleanup, place};

use report::Report;
use site::{SEATS, Site};

/// Written to and read back from each disk, in MiB.
const PATTERN_MIB: u32 = 16;
/// How long each TCP stream flows, in seconds.
const STREAM_S: u32 = 3;
/// The least that an emulated guest on a busy machine moves when nothing is amiss.
const LEAST_MBIT: f64 = 2.0;

fn main() -> ExitCode {
    let keep = std::env::var("KEEP").is_ok_and(|keep| !matches!(keep.as_str(), "" | "0"));
    if let Some(obstacle) = site::in_the_way().filter(|_| keep) {
        eprintln!("demo: {obstacle}");
        return ExitCode::FAILURE;
    }
    let mut report = Report::new();
    let outcome = Site::start(keep, &report).and_then(|site| {
        let checked = check(&site, &mut report);
        cleanup::yield_to_signal();
        report.print();
        if keep {
            site.keep()?;
        } else {
            report.step("cleaning up");
        }
        checked
    });
    cleanup::yield_to_signal();
    match outcome {
        Ok(()) if report.passed() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            eprintln!(
                "demo: logs are in {}",
                place::target().join("e2e/logs/main").display()
            );
            ExitCode::FAILURE
        }
    }
}

fn check(site: &Site, report: &mut Report) -> Result<()> {
    let [g1, g2, g3] = &site.guests[..] else {
        return Ok(());
    };
    report.step("addresses; reachability of the guests of blue, isolation of red");
    bring_up(site, 1500)?;
    reach(report, "ping g1 -> g2", g1, SEATS[1].address, 56)?;
    reach(report, "ping g2 -> g1", g2, SEATS[0].address, 56)?;
    isolation(report, g2, g3)?;

    for guest in &site.guests {
        let off = offloads_off(guest)?;
        let outcome = match off.is_empty() {
            true => "checksum, scatter-gather and segmentation on".to_owned(),
            false => format!("off: {}", off.join(", ")),
        };
        report.row(
            &format!("offloads of {}", guest.name()),
            outcome,
            off.is_empty(),
        );
    }

    iperf_server(g1)?;
    iperf_server(g2)?;
    for mtu in [1500, 9000] {
        report.step(&format!("TCP at MTU {mtu}"));
        for guest in [g1, g2, g3] {
            guest.check(&format!("ip link set eth0 mtu {mtu}"), SHORT)?;
        }
        // 20 bytes of IPv4 and 8 of ICMP make it a packet of exactly the MTU.
        reach(
            report,
            &format!("ping g1 -> g2, MTU {mtu}"),
            g1,
            SEATS[1].address,
            mtu - 28,
        )?;
        stream(report, g1, g2, SEATS[1].address, mtu)?;
        stream(report, g2, g1, SEATS[0].address, mtu)?;
    }

    disks(site, report)?;
    report.step("the network after the reboots");
    bring_up(site, 9000)?;
    reach(
        report,
        "ping g1 -> g2 after reboot",
        g1,
        SEATS[1].address,
        8972,
    )?;
    untouched(report, &site.daemons[SEATS[2].node], SEATS[2].name)?;
    stages(report, &site.daemons)
}

fn bring_up(site: &Site, mtu: u32) -> Result<()> {
    for (guest, seat) in site.guests.iter().zip(&SEATS) {
        address(guest, &format!("{}/24", seat.address), mtu)?;
    }
    Ok(())
}

fn reach(report: &mut Report, what: &str, from: &Guest, target: &str, size: u32) -> Result<()> {
    const COUNT: u32 = 3;
    let answered = ping(from, target, COUNT, size)?;
    let outcome = format!("{answered} of {COUNT} answered, {size} bytes");
    report.row(what, outcome, answered == COUNT);
    Ok(())
}

/// g3 has the address of g1 in a network of its own: it reaches nobody, and g2 still means g1.
fn isolation(report: &mut Report, g2: &Guest, g3: &Guest) -> Result<()> {
    let answered = ping(g3, SEATS[1].address, 3, 56)?;
    let outcome = format!("{answered} of 3 answered");
    report.row("ping g3 (red) -> g2 (blue)", outcome, answered == 0);
    let neighbours = g2.check("ip neigh show", SHORT)?;
    let known = neighbours
        .lines()
        .find(|line| line.starts_with(&format!("{} ", SEATS[0].address)))
        .and_then(|line| {
            line.split_whitespace()
                .skip_while(|word| *word != "lladdr")
                .nth(1)
        })
        .unwrap_or("nobody");
    report.row(
        "who is 10.0.0.1 for g2",
        format!("{known} ({} is g1)", SEATS[0].mac),
        known == SEATS[0].mac,
    );
    Ok(())
}

fn stream(report: &mut Report, from: &Guest, to: &Guest, target: &str, mtu: u32) -> Result<()> {
    let stream = iperf(from, target, STREAM_S)?;
    let mbit = stream.bits_per_second / 1e6;
    // IPv4 and TCP headers with timestamps take 52 bytes of the MTU.
    let expected = u64::from(mtu) - 52;
    report.row(
        &format!("TCP {} -> {}, MTU {mtu}", from.name(), to.name()),
        format!("{mbit:.0} Mbit/s, segments of {} bytes", stream.segment),
        mbit >= LEAST_MBIT && stream.segment == expected,
    );
    Ok(())
}

fn disks(site: &Site, report: &mut Report) -> Result<()> {
    report.step(&format!("{PATTERN_MIB} MiB of random data to each disk"));
    let written = each(&site.guests, |guest| disk_write(guest, PATTERN_MIB))?;
    report.step("the guests reboot");
    let boots = each(&site.guests, Guest::boot_id)?;
    each(&site.guests, Guest::reboot)?;
    let reboots = each(&site.guests, Guest::boot_id)?;
    report.step("the disks are read back");
    let read = each(&site.guests, |guest| disk_read(guest, PATTERN_MIB))?;
    for (index, guest) in site.guests.iter().enumerate() {
        let rebooted = boots[index] != reboots[index];
        let outcome = match (rebooted, read[index] == written[index]) {
            (false, _) => "the guest did not reboot".to_owned(),
            (true, true) => format!("{PATTERN_MIB} MiB equal, sha256 {}…", &written[index][..16]),
            (true, false) => "what was read is not what was written".to_owned(),
        };
        report.row(
            &format!("disk of {} after reboot", guest.name()),
            outcome,
            rebooted && read[index] == written[index],
        );
    }
    Ok(())
}

/// Does the same with every guest at the same time; the outcomes in the guests' order, or the first error.
fn each<T: Send>(guests: &[Guest], work: impl Fn(&Guest) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = guests
            .iter()
            .map(|guest| scope.spawn(move || work(guest)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Nothing was ever sent to the guest on `port`, which is alone in its network.
fn untouched(report: &mut Report, daemon: &Daemon, port: &str) -> Result<()> {
    let ports = daemon.cli_json(&["stats", "port"])?;
    let rows = ports.as_array().map_or(&[][..], Vec::as_slice);
    let counter = |key: &str| {
        let row = rows.iter().find(|row| row["port"] == port);
        row.and_then(|row| row[key].as_u64())
    };
    let (from, to) = (counter("rx_packets"), counter("tx_packets"));
    let show = |count: Option<u64>| count.map_or("no counter".to_owned(), |n| n.to_string());
    report.row(
        &format!("traffic of others at {port} (red)"),
        format!("{} packets from it, {} to it", show(from), show(to)),
        from.is_some_and(|count| count > 0) && to == Some(0),
    );
    Ok(())
}

/// The counters of the stages that a packet between the nodes goes through.
fn stages(report: &mut Report, daemons: &[Daemon]) -> Result<()> {
    /// A row's name and the counters that it sums up.
    const ON_THE_PATH: [(&str, &[&str]); 8] = [
        ("receive", &["receive"]),
        ("parse", &["parse"]),
        ("cache hit", &["known", "exact-hit", "wildcard-hit"]),
        ("slow path", &["slow-path"]),
        ("segment for the wire", &["segment"]),
        ("encapsulate", &["encapsulate"]),
        ("decapsulate", &["decapsulate"]),
        ("transmit", &["transmit"]),
    ];
    let nodes = daemons
        .iter()
        .map(|daemon| Ok(counters(&daemon.cli_json(&["stats", "stage"])?, "stage")))
        .collect::<Result<Vec<_>>>()?;
    for (name, keys) in ON_THE_PATH {
        let count = |node: &BTreeMap<String, u64>| -> u64 {
            keys.iter().filter_map(|key| node.get(*key)).sum()
        };
        let counts: Vec<u64> = nodes.iter().map(count).collect();
        let shown: Vec<String> = (1..)
            .zip(&counts)
            .map(|(node, count)| format!("node {node}: {count}"))
            .collect();
        let passed = counts.iter().all(|count| *count > 0);
        report.row(&format!("stage {name}"), shown.join(", "), passed);
    }
    for (node, daemon) in (1..).zip(daemons) {
        let drops = counters_above_zero(&daemon.cli_json(&["stats", "drop"])?);
        report.step(&format!("dropped on node {node}: {drops}"));
    }
    Ok(())
}

/// A list of objects `{key: NAME, "packets": N}` as a map.
fn counters(list: &Value, key: &str) -> BTreeMap<String, u64> {
    let rows = list.as_array().map_or(&[][..], Vec::as_slice);
    rows.iter()
        .filter_map(|row| Some((row[key].as_str()?.to_owned(), row["packets"].as_u64()?)))
        .collect()
}

fn counters_above_zero(list: &Value) -> String {
    let drops: Vec<String> = counters(list, "reason")
        .into_iter()
        .filter(|(_, packets)| *packets > 0)
        .map(|(reason, packets)| format!("{packets} {reason}"))
        .collect();
    match drops.is_empty() {
        true => "nothing".to_owned(),
        false => drops.join(", "),
    }
}

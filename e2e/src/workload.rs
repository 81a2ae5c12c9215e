//! What guests are made to do, and what came of it: pings, TCP streams, disks written and read back.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::process::Output;
use crate::qemu::Guest;

/// How long a short command in an emulated guest on a busy machine may take.
pub const SHORT: Duration = Duration::from_secs(30);

/// Gives `eth0` of `guest` the address `address` (with prefix length) and the MTU `mtu`, and brings it up.
pub fn address(guest: &Guest, address: &str, mtu: u32) -> Result<()> {
    guest.check(
        &format!("ip link set eth0 mtu {mtu} up && ip address add {address} dev eth0"),
        SHORT,
    )?;
    Ok(())
}

/// Sends `count` echo requests with `size` bytes of payload; how many were answered.
pub fn ping(guest: &Guest, target: &str, count: u32, size: u32) -> Result<u32> {
    let script = format!("ping -c {count} -i 0.2 -W 3 -s {size} {target}");
    let output = guest.run(&script, SHORT)?;
    // "3 packets transmitted, 3 packets received, 0% packet loss"
    let received = output
        .stdout
        .lines()
        .find(|line| line.contains("packets received"))
        .and_then(|line| line.split(", ").nth(1)?.split(' ').next()?.parse().ok());
    received.ok_or_else(|| protocol(guest, "a summary of ping", &output))
}

/// What a TCP stream brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stream {
    /// Bytes that arrived per second, times 8.
    pub bits_per_second: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Segments that had to be sent again.
    pub retransmits: u64,
    /// Payload bytes of a full segment, which follows from the MTU of the path's ends.
    pub segment: u64,
}

/// Starts an iperf3 server on `guest` that stays.
pub fn iperf_server(guest: &Guest) -> Result<()> {
    guest.check("iperf3 -s -D", SHORT)?;
    let limit = Instant::now() + SHORT;
    // 5201 in hexadecimal: the server's port among the listening sockets.
    while guest
        .run("cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1451 '", SHORT)?
        .status
        != 0
    {
        if Instant::now() >= limit {
            return Err(Error::Timeout {
                what: format!("the start of iperf3 in {}", guest.name()),
                limit: SHORT,
                context: String::new(),
            });
        }
    }
    Ok(())
}

/// Moves TCP data from `guest` to the iperf3 server at `target` for `seconds`.
pub fn iperf(guest: &Guest, target: &str, seconds: u32) -> Result<Stream> {
    let script = format!("iperf3 -J -c {target} -t {seconds}");
    let output = guest.run(&script, SHORT + Duration::from_secs(u64::from(seconds)))?;
    stream(&output).ok_or_else(|| protocol(guest, "a report of iperf3", &output))
}

/// Reads the report that `iperf3 -J` printed.
pub fn stream(output: &Output) -> Option<Stream> {
    let report: Value = serde_json::from_str(&output.stdout).ok()?;
    let end = report.get("end")?;
    Some(Stream {
        bits_per_second: end["sum_received"]["bits_per_second"].as_f64()?,
        bytes: end["sum_received"]["bytes"].as_u64()?,
        retransmits: end["sum_sent"]["retransmits"].as_u64()?,
        segment: report["start"]["tcp_mss_default"].as_u64()?,
    })
}

/// The offloads of `eth0` that are off although they should be on (ethtool(8), `-k`).
pub fn offloads_off(guest: &Guest) -> Result<Vec<String>> {
    const WANTED: [&str; 5] = [
        "rx-checksumming",
        "tx-checksumming",
        "scatter-gather",
        "tcp-segmentation-offload",
        "generic-segmentation-offload",
    ];
    let shown = guest.check("ethtool -k eth0", SHORT)?;
    let on = |feature: &str| {
        shown.lines().any(|line| {
            line.strip_prefix(feature)
                .and_then(|rest| rest.strip_prefix(": "))
                .is_some_and(|state| state.starts_with("on"))
        })
    };
    Ok(WANTED
        .into_iter()
        .filter(|feature| !on(feature))
        .map(str::to_owned)
        .collect())
}

/// Writes `mebibytes` of random data to `/dev/vda` past the page cache and flushes it; its SHA-256.
pub fn disk_write(guest: &Guest, mebibytes: u32) -> Result<String> {
    let script = format!(
        "dd if=/dev/urandom of=/tmp/pattern bs=1M count={mebibytes} 2>/dev/null && \
         dd if=/tmp/pattern of=/dev/vda bs=1M seek=3 oflag=direct conv=fsync 2>/dev/null && sha256sum </tmp/pattern"
    );
    guest.check(&script, 2 * SHORT)
}

/// Reads back what [`disk_write`] wrote; its SHA-256.
pub fn disk_read(guest: &Guest, mebibytes: u32) -> Result<String> {
    let script = format!(
        "dd if=/dev/vda bs=1M skip=3 count={mebibytes} iflag=direct 2>/dev/null | sha256sum"
    );
    guest.check(&script, 2 * SHORT)
}

fn protocol(guest: &Guest, expected: &'static str, output: &Output) -> Error {
    Error::Protocol {
        peer: guest.name().to_owned(),
        expected,
        got: format!("{}{}", output.stdout, output.stderr),
    }
}

//! What a frame costs on each kind of wire port: one thread sends bursts into one end of a link and receives them at the other.
//!
//! Run as root; it makes a network namespace of its own: `cargo run --release -p sumeru-switch --example wire_rate`.
//! Sending includes what the kernel does on the way to the other end, which it does in the same system call.
#![allow(unsafe_code)]

use std::process::Command;
use std::time::{Duration, Instant};

use sumeru_switch::net_header::Offload;
use sumeru_switch::wire::{PacketSocket, Tap, Wire, WireError, XdpSocket};

const BURST: usize = 32;
const SECONDS: u64 = 2;

/// Times both halves of the way for frames of `len` bytes.
fn measure(name: &str, len: u32, from: &mut dyn Wire, to: &mut dyn Wire) {
    let frame: Vec<u8> = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]
        .into_iter()
        .chain((14..len).map(|i| i as u8))
        .collect();
    let mut lent = Vec::with_capacity(BURST);
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    let (mut sent, mut got) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let begin = Instant::now();
        for _ in 0..BURST {
            if let Some(buffer) = from.send_buffer() {
                // SAFETY: the port lives.
                unsafe { buffer.write(&frame) };
                from.send(len, &Offload::NONE, 0);
            }
        }
        sent += from.flush();
        let middle = Instant::now();
        sending += middle - begin;
        let mut received = BURST;
        while received != 0 {
            lent.clear();
            received = to.receive(BURST, &mut lent);
            got += received;
        }
        receiving += middle.elapsed();
    }
    let idle_start = Instant::now();
    for _ in 0..100_000 {
        lent.clear();
        to.receive(BURST, &mut lent);
    }
    let idle = idle_start.elapsed().as_nanos() as f64 / 1e5;
    let each = |time: Duration, count: usize| time.as_nanos() as f64 / count.max(1) as f64;
    println!(
        "{name:24} {len:5} B  {:8.0} frames/s  send {:6.0} ns  receive {:6.0} ns  idle look {idle:5.1} ns  {:.2} % lost",
        got as f64 / start.elapsed().as_secs_f64(),
        each(sending, sent),
        each(receiving, got),
        100.0 * (sent - got.min(sent)) as f64 / sent.max(1) as f64,
    );
}

fn ip(arguments: &str) -> std::io::Result<()> {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("ip {arguments}: {status}")))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the process has only this thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("cannot make a network namespace: {error}; run it as root").into());
    }
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    ip("link add wire-a type veth peer name wire-b")?;
    ip("link set wire-a up")?;
    ip("link set wire-b up")?;
    std::thread::sleep(Duration::from_millis(500));
    for len in [64, 1450] {
        type Open = fn(&str) -> Result<Box<dyn Wire>, WireError>;
        let packet: Open = |name| Ok(Box::new(PacketSocket::open(name)?));
        let xdp: Open = |name| Ok(Box::new(XdpSocket::open(name, 0)?));
        for (name, left, right) in [
            ("packet to packet", packet, packet),
            ("xdp to packet", xdp, packet),
            ("packet to xdp", packet, xdp),
            ("xdp to xdp", xdp, xdp),
        ] {
            let mut from = left("wire-a")?;
            let mut to = right("wire-b")?;
            measure(name, len, from.as_mut(), to.as_mut());
        }
        let mut tap = Tap::open("tap0", 1500)?;
        let mut host = PacketSocket::open("tap0")?;
        measure("tap to packet", len, &mut tap, &mut host);
        measure("packet to tap", len, &mut host, &mut tap);
    }
    Ok(())
}

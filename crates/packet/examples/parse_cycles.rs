//! TSC cycles per packet of parsing and hashing, over frames that differ so that nothing is constant-folded.
//!
//! `cargo run --release -p sumeru-packet --example parse_cycles`; prints minimum, median and maximum of the runs.

use std::hint::black_box;
use std::process::ExitCode;

use sumeru_packet::{
    ActiveWords, Field, FlowKey, FlowMask, Layer, Layout, ParseOptions, checksum, parse,
};

const BURST: usize = 32;
const ROUNDS: usize = 2_000;
const RUNS: usize = 21;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn tsc() -> u64 {
    // SAFETY: RDTSC reads a counter; every x86-64 processor has it and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Elsewhere nanoseconds stand in for cycles.
#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

fn report(name: &str, packets: usize, mut body: impl FnMut()) {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = tsc();
            for _ in 0..ROUNDS {
                body();
            }
            (tsc() - start) as f64 / (ROUNDS * packets) as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    println!(
        "{name:<36} {:7.1} {:7.1} {:7.1}",
        runs[0],
        runs[RUNS / 2],
        runs[RUNS - 1]
    );
}

fn ipv4(proto: u8, l4: &[u8], frame_len: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = (20 + l4.len()) as u16;
    f.extend([0x45, 0]);
    f.extend(total.to_be_bytes());
    f.extend([0, 1, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend(l4);
    f.resize(frame_len.max(f.len()), 0);
    f
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![0x12, 0x34];
    l4.extend(port.to_be_bytes());
    l4.extend((8 + payload.len() as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    l4
}

fn tcp() -> Vec<u8> {
    let mut l4 = vec![0x12, 0x34, 0, 80];
    l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x18, 1, 1, 0, 0, 0, 0]);
    l4.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    l4
}

/// What a rule over ports, MAC addresses and the five-tuple looks at.
fn five_tuple() -> (FlowMask, ActiveWords) {
    let mut mask = FlowMask::ZERO;
    let l = Layer::Outer;
    for field in [
        Field::InPort,
        Field::Network,
        Field::EthDst(l),
        Field::EthSrc(l),
        Field::EthType(l),
    ] {
        mask.merge_field(field);
    }
    for field in [
        Field::IpSrc(l),
        Field::IpDst(l),
        Field::IpProto(l),
        Field::L4Src(l),
        Field::L4Dst(l),
    ] {
        mask.merge_field(field);
    }
    (mask, mask.active())
}

fn main() -> ExitCode {
    let mut ipv6 = vec![
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0,
    ];
    ipv6.extend([0, 32, 6, 64]);
    ipv6.extend([0xfd; 32]);
    ipv6.extend(tcp());
    let mut tagged = ipv4(17, &udp(53, &[0; 18]), 60);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut tunnel = vec![8, 0, 0, 0, 0, 0, 1, 0];
    tunnel.extend(ipv4(6, &tcp(), 60));
    let frames = [
        ("ipv4-udp-64", ipv4(17, &udp(53, &[0; 18]), 60)),
        ("ipv4-tcp-options", ipv4(6, &tcp(), 66)),
        ("vlan-ipv4-udp-64", tagged),
        ("ipv6-tcp-options", ipv6),
        ("vxlan-ipv4-tcp", ipv4(17, &udp(4789, &tunnel), 0)),
    ];

    println!(
        "{:<36} {:>7} {:>7} {:>7}",
        "cycles per packet", "min", "median", "max"
    );
    for (name, frame) in &frames {
        // The scratch of a burst: 256 bytes each, as the switch holds headers.
        let mut scratch = vec![[0u8; 256]; BURST];
        for (i, slot) in scratch.iter_mut().enumerate() {
            slot[..frame.len()].copy_from_slice(frame);
            slot[5] = i as u8;
        }
        let mut keys = vec![FlowKey::ZERO; BURST];
        let mut layouts = vec![Layout::EMPTY; BURST];
        let len = frame.len();
        let mut ok = true;
        report(name, BURST, || {
            for ((slot, key), layout) in scratch.iter().zip(&mut keys).zip(&mut layouts) {
                key.set_metadata(7, 0, 9);
                ok &= parse(
                    &black_box(&slot[..])[..black_box(len)],
                    len,
                    key,
                    layout,
                    &ParseOptions::TUNNELS,
                )
                .is_ok();
            }
            black_box((&keys, &layouts));
        });
        if !ok {
            eprintln!("{name}: the frame was refused");
            return ExitCode::FAILURE;
        }
        let mut sum = 0u64;
        let (mask, active) = five_tuple();
        report(&format!("  hash {name}"), BURST, || {
            for key in black_box(&keys) {
                sum ^= key.hash(black_box(&mask), active);
            }
        });
        report(&format!("  parse then hash {name}"), BURST, || {
            for ((slot, key), layout) in scratch.iter().zip(&mut keys).zip(&mut layouts) {
                key.set_metadata(7, 0, 9);
                ok &= parse(
                    &black_box(&slot[..])[..black_box(len)],
                    len,
                    key,
                    layout,
                    &ParseOptions::TUNNELS,
                )
                .is_ok();
                sum ^= key.hash(black_box(&mask), active);
            }
        });
        let entry = keys[0].masked(&mask);
        report(&format!("  matches {name}"), BURST, || {
            for key in black_box(&keys) {
                sum ^= u64::from(key.matches(black_box(&entry), black_box(&mask), active));
            }
        });
        report(&format!("  entropy {name}"), BURST, || {
            for key in black_box(&keys) {
                sum ^= u64::from(key.entropy(Layer::Outer));
            }
        });
        black_box(sum);
    }
    for len in [64, 1450, 9000, 65536] {
        let bytes = vec![0x5au8; len];
        let mut sum = 0u64;
        report(&format!("checksum {len} B (per call)"), 1, || {
            sum += u64::from(checksum::checksum(black_box(&bytes)));
        });
        black_box(sum);
    }
    ExitCode::SUCCESS
}

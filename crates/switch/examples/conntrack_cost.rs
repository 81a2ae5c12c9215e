//! Cycles per operation of the connection table: `cargo run --release -p sumeru-switch --example conntrack_cost [CONNECTIONS...]`.
//!
//! Everything is done in random order, so that a table beyond the caches pays its misses. `burst` columns take 32 packets at a time and prefetch, as the
//! data path does. The cost of the clock and of making tuples is included.

use sumeru_engine::Tsc;
use sumeru_switch::conntrack::*;

const BURST: usize = 32;

fn tuple(n: u32, proto: u8) -> Tuple {
    let (src, dst) = (0x0a00_0000 | n >> 10, 0x0b00_0000 | n & 0xf);
    Tuple {
        src: src.into(),
        dst: dst.into(),
        sport: (n & 0x3ff) as u16 + 1024,
        dport: 80,
        proto,
        family: Family::V4,
        zone: 1,
    }
}

/// Each number below `count` once, in a scattered order; `count` is a power of two.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |n| n.wrapping_mul(0x9e37_79b1) & (count - 1))
}

fn packet(bytes: u32) -> CtPacket {
    CtPacket {
        now: 1000,
        bytes,
        flags: tcp_flag::SYN,
        seq: 1,
        window: 60_000,
        ..CtPacket::default()
    }
}

/// Cycles per operation of `work`, repeated until it took a while, and what it counted.
fn measure(count: u32, mut work: impl FnMut() -> u64) -> (f64, u64) {
    let rounds = ((1 << 21) / count).max(1);
    let start = Tsc::now();
    let sum = (0..rounds).map(|_| work()).sum();
    (
        Tsc::now().since(start) as f64 / f64::from(count * rounds),
        sum,
    )
}

fn create(
    count: u32,
    proto: u8,
    nat: Option<&Nat>,
) -> Result<(Conntrack, Vec<ConnRef>, f64, u64), Box<dyn std::error::Error>> {
    let rounds = ((1 << 20) / count).max(1);
    let (mut cycles, mut slowest) = (0, 0);
    let mut table = Conntrack::new(
        Config {
            capacity: 1 << 22,
            ..Config::default()
        },
        0,
    )?;
    let mut conns = Vec::with_capacity(count as usize);
    for _ in 0..rounds {
        table.flush(0, usize::MAX, &Filter::default());
        conns.clear();
        let mut before = Tsc::now();
        let start = before;
        for n in 0..count {
            let commit = Commit {
                tuple: tuple(n, proto),
                packet: packet(60),
                mark: 0,
                label: 0,
                owner: 1,
                policy: 0,
                nat,
            };
            conns.push(table.commit(&commit)?);
            let now = Tsc::now();
            slowest = slowest.max(now.since(before));
            before = now;
        }
        cycles += before.since(start);
    }
    Ok((
        table,
        conns,
        cycles as f64 / f64::from(count * rounds),
        slowest,
    ))
}

/// As the data path does: a burst of keys, then what they lead to, then the connections.
fn create_burst(count: u32) -> Result<f64, Box<dyn std::error::Error>> {
    let rounds = ((1 << 20) / count).max(1);
    let mut table = Conntrack::new(
        Config {
            capacity: 1 << 22,
            ..Config::default()
        },
        0,
    )?;
    let mut cycles = 0;
    for _ in 0..rounds {
        table.flush(0, usize::MAX, &Filter::default());
        let start = Tsc::now();
        for first in (0..count).step_by(BURST) {
            let tuples: [Tuple; BURST] = std::array::from_fn(|n| tuple(first + n as u32, 17));
            for tuple in &tuples {
                table.prefetch(&table.key(tuple));
                table.prefetch(&table.key(&tuple.reversed()));
            }
            for tuple in tuples {
                table.commit(&Commit {
                    tuple,
                    packet: packet(60),
                    mark: 0,
                    label: 0,
                    owner: 1,
                    policy: 0,
                    nat: None,
                })?;
            }
        }
        cycles += Tsc::now().since(start);
    }
    Ok(cycles as f64 / f64::from(count * rounds))
}

fn established(table: &mut Conntrack, conns: &[ConnRef], proto: u8) {
    for &conn in conns {
        let (flags, ack) = (tcp_flag::SYN | tcp_flag::ACK, 2);
        table.track(
            conn,
            Direction::Reply,
            &CtPacket {
                flags,
                seq: 100,
                ack,
                ..packet(60)
            },
        );
        let verdict = table.track(
            conn,
            Direction::Original,
            &CtPacket {
                flags: tcp_flag::ACK,
                seq: 2,
                ack: 101,
                ..packet(60)
            },
        );
        assert!(verdict.state() & ct_state::EST != 0, "protocol {proto}");
    }
}

fn track(table: &mut Conntrack, conns: &[ConnRef], order: &[u32]) -> [f64; 2] {
    let data = CtPacket {
        flags: tcp_flag::ACK,
        seq: 2,
        ack: 101,
        payload: 10,
        ..packet(1000)
    };
    let count = order.len() as u32;
    let single = measure(count, || {
        order
            .iter()
            .map(|&n| {
                u64::from(
                    table
                        .track(conns[n as usize], Direction::Original, &data)
                        .decision()
                        != 0,
                )
            })
            .sum()
    });
    let burst = measure(count, || {
        let mut good = 0;
        for burst in order.chunks(BURST) {
            for &n in burst {
                table.prefetch_connection(conns[n as usize]);
            }
            for &n in burst {
                good += u64::from(
                    table
                        .track(conns[n as usize], Direction::Original, &data)
                        .decision()
                        != 0,
                );
            }
        }
        good
    });
    assert!(single.1 != 0 && burst.1 == single.1);
    [single.0, burst.0]
}

fn lookup(table: &Conntrack, order: &[u32]) -> [f64; 2] {
    let count = order.len() as u32;
    let single = measure(count, || {
        order
            .iter()
            .map(|&n| u64::from(table.lookup(&tuple(n, 17), 1000).is_some()))
            .sum()
    });
    let burst = measure(count, || {
        let mut found = 0;
        for burst in order.chunks(BURST) {
            let keys: [Key; BURST] =
                std::array::from_fn(|n| table.key(&tuple(burst[n % burst.len()], 17)));
            let keys = &keys[..burst.len()];
            keys.iter().for_each(|key| table.prefetch(key));
            keys.iter().for_each(|key| table.prefetch_halves(key));
            found += keys
                .iter()
                .filter(|key| table.find(key, 1000).is_some())
                .count() as u64;
        }
        found
    });
    assert!(single.1 % u64::from(count) == 0 && burst.1 == single.1);
    [single.0, burst.0]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut counts: Vec<u32> = std::env::args()
        .skip(1)
        .map(|arg| arg.parse())
        .collect::<Result<_, _>>()?;
    if counts.is_empty() {
        counts = vec![1 << 10, 1 << 16, 1 << 20];
    }
    let micros = |cycles: u64| cycles as f64 * 1e6 / Tsc::hz() as f64;
    println!(
        "connections  create  burst  snat  slowest-us | track-udp  burst  track-tcp  burst  one-tcp | lookup  burst | expire  save  restore  bytes"
    );
    for count in counts {
        let count = count.next_power_of_two();
        let order: Vec<u32> = scattered(count).collect();
        let (mut udp, conns, create_udp, slowest) = create(count, 17, None)?;
        let looked_up = lookup(&udp, &order);
        established(&mut udp, &conns, 17);
        let tracked_udp = track(&mut udp, &conns, &order);
        let bytes = udp.bytes() as f64 / f64::from(count);
        let start = Tsc::now();
        let mut file = Vec::with_capacity(count as usize * 200);
        let saved = udp.save(2000, &mut file)?;
        let save = Tsc::now().since(start) as f64 / f64::from(count);
        let mut other = Conntrack::new(Config::default(), 0)?;
        let start = Tsc::now();
        let restored = other.restore(2000, &mut file.as_slice(), Some)?;
        let restore = Tsc::now().since(start) as f64 / f64::from(count);
        assert_eq!((saved, restored.connections), (count.into(), count.into()));
        let start = Tsc::now();
        assert_eq!(udp.expire(1_000_000, usize::MAX), count as usize);
        let expire = Tsc::now().since(start) as f64 / f64::from(count);
        let nat = Nat {
            source: Some(NatRange {
                min: 0x0c00_0000,
                max: 0x0c00_03ff,
                ports: None,
                random: false,
            }),
            destination: None,
        };
        let (_, _, create_nat, _) = create(count, 17, Some(&nat))?;
        let (mut tcp, conns, ..) = create(count, 6, None)?;
        established(&mut tcp, &conns, 6);
        let tracked_tcp = track(&mut tcp, &conns, &order);
        let one = track(&mut tcp, &conns, &[0; 1024]);
        println!(
            "{count:11}  {create_udp:6.0}  {:5.0}  {create_nat:4.0}  {:10.1} | {:9.0}  {:5.0}  {:9.0}  {:5.0}  {:7.0} | {:6.0}  {:5.0} | {expire:6.0}  {save:4.0}  {restore:7.0}  {bytes:5.0}",
            create_burst(count)?,
            micros(slowest),
            tracked_udp[0],
            tracked_udp[1],
            tracked_tcp[0],
            tracked_tcp[1],
            one[0],
            looked_up[0],
            looked_up[1],
        );
    }
    Ok(())
}

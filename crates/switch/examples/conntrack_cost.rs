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

const ROUNDS: u32 = 7;

/// Cycles per operation of `work` in the best of a few rounds, and what it counted.
fn measure(count: u32, mut work: impl FnMut() -> u64) -> (f64, u64) {
    let repeat = ((1 << 17) / count).max(1);
    let (mut best, mut sum) = (u64::MAX, 0);
    for _ in 0..ROUNDS {
        let start = Tsc::now();
        sum = (0..repeat).map(|_| work()).sum();
        best = best.min(Tsc::now().since(start));
    }
    (best as f64 / f64::from(count * repeat), sum)
}

struct Created {
    table: Conntrack,
    conns: Vec<ConnRef>,
    /// Cycles per connection in a new table, its memory prepared, and in the best of the rounds after that.
    first: f64,
    best: f64,
    /// What one in ten thousand exceeds, in cycles.
    slow: u32,
}

/// With `burst`, as the data path does: first asks for the lines that a burst leads to.
fn create(
    count: u32,
    proto: u8,
    nat: Option<&Nat>,
    burst: bool,
) -> Result<Created, Box<dyn std::error::Error>> {
    let mut table = Conntrack::new(
        Config {
            capacity: 1 << 22,
            ..Config::default()
        },
        0,
    )?;
    table.prepare(count as usize);
    let mut created = Created {
        table,
        conns: Vec::with_capacity(count as usize),
        first: 0.0,
        best: f64::MAX,
        slow: 0,
    };
    let table = &mut created.table;
    let mut times: Vec<u32> = Vec::with_capacity(count as usize);
    for round in 0..ROUNDS {
        table.flush(0, usize::MAX, &Filter::default());
        created.conns.clear();
        let mut before = Tsc::now();
        let start = before;
        for first in (0..count).step_by(BURST) {
            for n in (first..first + BURST as u32).filter(|_| burst) {
                table.prefetch(&table.key(&tuple(n, proto)));
                table.prefetch(&table.key(&tuple(n, proto).reversed()));
            }
            for n in first..first + BURST as u32 {
                let commit = Commit {
                    tuple: tuple(n, proto),
                    packet: packet(60),
                    mark: 0,
                    label: 0,
                    owner: 1,
                    policy: 0,
                    nat,
                };
                created.conns.push(table.commit(&commit)?);
                if round == 0 {
                    let now = Tsc::now();
                    times.push(u32::try_from(now.since(before)).unwrap_or(u32::MAX));
                    before = now;
                }
            }
        }
        let cycles = Tsc::now().since(start) as f64 / f64::from(count);
        if round == 0 {
            created.first = cycles;
        }
        created.best = created.best.min(cycles);
    }
    times.sort_unstable();
    created.slow = times[times.len() - times.len() / 10_000 - 1];
    Ok(created)
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
    println!(
        "connections | new-table  p99.99-us  create  burst  snat | track-udp  burst  track-tcp  burst  one-tcp | lookup  burst | expire  save  restore  bytes"
    );
    for count in counts {
        run(count.next_power_of_two().max(BURST as u32))?;
    }
    Ok(())
}

fn run(count: u32) -> Result<(), Box<dyn std::error::Error>> {
    let order: Vec<u32> = scattered(count).collect();
    let Created {
        table: mut udp,
        conns,
        first,
        best,
        slow,
    } = create(count, 17, None, false)?;
    let slow = f64::from(slow) * 1e6 / Tsc::hz() as f64;
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
    let snat = create(count, 17, Some(&nat), false)?.best;
    let burst = create(count, 17, None, true)?.best;
    let Created {
        table: mut tcp,
        conns,
        ..
    } = create(count, 6, None, false)?;
    established(&mut tcp, &conns, 6);
    let tracked_tcp = track(&mut tcp, &conns, &order);
    let one = track(&mut tcp, &conns, &[0; 1024]);
    println!(
        "{count:11} | {first:9.0}  {slow:9.1}  {best:6.0}  {burst:5.0}  {snat:4.0} | {:9.0}  {:5.0}  {:9.0}  {:5.0}  {:7.0} | {:6.0}  {:5.0} | {expire:6.0}  {save:4.0}  {restore:7.0}  {bytes:5.0}",
        tracked_udp[0],
        tracked_udp[1],
        tracked_tcp[0],
        tracked_tcp[1],
        one[0],
        looked_up[0],
        looked_up[1],
    );
    Ok(())
}

//! A tenant that breaks every rule of the ring beside one that keeps them: only the broken queue stops, with a reason; the other tenant
//! loses nothing; the process lives.
//!
//! What is covered is the table in [`BREACHES`], and one test each for rings rewritten while they are read, memory taken away,
//! memory replaced and queues stopped while traffic runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use driver::*;
use sumeru_switch::ring::QueueFault;
use sumeru_switch::stats::Drop;
use sumeru_virtio::RingError;
use sumeru_virtio::features::ring as ring_feature;

/// The hostile guest's port.
const HOSTILE: u16 = 10;

/// The tenant that keeps the rules: sends to itself all the time and compares every frame.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Neighbour {
    fn start(node: &mut Node) -> Self {
        node.network(7, &[], 0);
        let options = Options {
            network: Some(7),
            ..Options::default()
        };
        let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while !stopped.load(Ordering::Relaxed) {
                let frames: Vec<_> = (0..48_u16)
                    .map(|i| udp_to(mac(1), mac(2), i, usize::from(i) * 20))
                    .collect();
                a.send(&frames);
                assert_eq!(b.frames(), frames, "round {rounds}");
                let back = udp(2, 1, rounds as usize % 1000);
                b.send(&[&back]);
                assert_eq!(a.frames(), [back]);
                rounds += 1;
            }
            rounds
        });
        Self { stop, thread }
    }

    /// Ends it; answers how many rounds it made without loss.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the other tenant lost frames")
    }
}

fn hostile(node: &mut Node, port: u16) -> Guest {
    let options = Options {
        network: Some(8),
        ..Options::default()
    };
    node.guest(port, &options)
}

fn retire(node: &mut Node, mut guest: Guest) {
    for queue in 0..2 {
        guest.device.stop_queue(queue).unwrap();
    }
    node.switch.remove_port(guest.port).unwrap();
}

fn ring_error(fault: QueueFault) -> RingError {
    match fault {
        QueueFault::Ring(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn every_breach_in_a_transmit_queue_stops_that_queue_only() {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let mut peer = hostile(&mut node, 9);
    for (what, breach, expected) in BREACHES {
        let mut guest = hostile(&mut node, HOSTILE);
        guest.send(&[udp(10, 9, 5)]);
        assert_eq!(peer.frames(), [udp(10, 9, 5)], "before {what}");
        breach(&mut guest.transmit[0], 0);
        let fault = ring_error(node.fault(HOSTILE, 1));
        assert!(expected(&fault), "{what}: {fault}");
        assert_eq!(node.switch.faults(HOSTILE).len(), 1, "{what}");
        // Its receive queue goes on.
        peer.send(&[udp(9, 10, 6)]);
        assert_eq!(guest.frames(), [udp(9, 10, 6)], "after {what}");
        // More of the same is not looked at; a driver that sets the queue up anew is served again.
        guest.transmit[0].publish();
        guest.restart(1);
        guest.send(&[udp(10, 9, 7)]);
        assert_eq!(peer.frames(), [udp(10, 9, 7)], "restarted after {what}");
        retire(&mut node, guest);
    }
    assert!(neighbour.finish() > 0);
    assert!(node.switch.faults(1).is_empty() && node.switch.faults(2).is_empty());
}

#[test]
fn every_breach_in_a_receive_queue_stops_that_queue_only() {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let mut peer = hostile(&mut node, 9);
    let wrong: Breach = (
        "a buffer of the wrong direction",
        |ring, _| {
            let at = ring.allocate(2048);
            ring.descriptor(200, at, 2048, 0, 0);
            offer(ring);
        },
        |_| false,
    );
    // All at once, as receive queues are looked after once a second.
    let mut guests = Vec::new();
    for (number, (what, breach, _)) in BREACHES.iter().chain([&wrong]).enumerate() {
        let port = HOSTILE + number as u16;
        let mut guest = hostile(&mut node, port);
        guest.device.stop_queue(0).unwrap();
        guest.receive[0].clear();
        guest.start(0, 0);
        guest.send(&[udp(port as u8, 9, 5)]);
        assert_eq!(peer.frames(), [udp(port as u8, 9, 5)]);
        let broken = node.drops(Drop::RingBroken);
        breach(&mut guest.receive[0], WRITE);
        peer.send(&[udp(9, port as u8, 6), udp(9, port as u8, 7)]);
        assert_eq!(node.drops(Drop::RingBroken) - broken, 2, "{what}");
        guests.push(guest);
    }
    for ((what, _, expected), guest) in BREACHES.iter().chain([&wrong]).zip(&mut guests) {
        match node.fault(guest.port, 0) {
            QueueFault::Ring(error) => assert!(expected(&error), "{what}: {error}"),
            QueueFault::ReadableInReceive(head) => assert_eq!((head, *what), (200, wrong.0)),
        }
        assert_eq!(node.switch.faults(guest.port).len(), 1, "{what}");
        // Its transmit queue goes on; set up anew, the receive queue is served again.
        let station = guest.port as u8;
        guest.send(&[udp(station, 9, 8)]);
        assert_eq!(peer.frames(), [udp(station, 9, 8)], "after {what}");
        guest.restart(0);
        peer.send(&[udp(9, station, 6)]);
        assert_eq!(
            guest.frames(),
            [udp(9, station, 6)],
            "restarted after {what}"
        );
    }
    assert!(neighbour.finish() > 0);
}

#[test]
fn what_is_no_breach_is_a_counted_drop() {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let (mut peer, mut guest) = (hostile(&mut node, 9), hostile(&mut node, HOSTILE));
    // Only writable buffers where a frame is due, an empty chain, one of 16 MiB.
    let ring = &mut guest.transmit[0];
    let head = ring.lay(&[2048], WRITE);
    ring.offer(head);
    let head = ring.lay(&[0], 0);
    ring.offer(head);
    ring.descriptor(100, 0x1000, 16 << 20, 0, 0);
    ring.offer(100);
    ring.publish();
    assert!(ring.drained(Duration::from_secs(10)));
    assert_eq!(
        (node.drops(Drop::TooShort), node.drops(Drop::TooLarge)),
        (2, 1)
    );
    // A frame with writable buffers behind it, and one in 256 pieces.
    let frame = udp(10, 9, 300);
    let bytes = [&[0; 12], &frame[..]].concat();
    let ring = &mut guest.transmit[0];
    ring.rewind();
    let at = ring.allocate(4096);
    ring.memory.write(at, &bytes);
    ring.descriptor(0, at, bytes.len() as u32, NEXT, 1);
    ring.descriptor(1, at + 2048, 64, WRITE, 0);
    ring.offer(0);
    ring.publish();
    assert!(ring.drained(Duration::from_secs(10)));
    guest.send_cut(NetHeader::default(), &frame, &[1; 250], false);
    guest.send_cut(NetHeader::default(), &frame, &[1; 250], true);
    assert_eq!(peer.frames(), [frame.clone(), frame.clone(), frame.clone()]);
    // Receive buffers of no length, and too many of one byte.
    guest.device.stop_queue(0).unwrap();
    guest.receive[0].clear();
    for _ in 0..128 {
        let head = guest.receive[0].lay(&[0], WRITE);
        guest.receive[0].offer(head);
    }
    for _ in 0..128 {
        let head = guest.receive[0].lay(&[1], WRITE);
        guest.receive[0].offer(head);
    }
    guest.receive[0].publish();
    guest.start(0, 0);
    peer.send(&[&frame]);
    assert_eq!(node.drops(Drop::BufferTooSmall), 1);
    assert!(node.switch.faults(HOSTILE).is_empty());
    assert!(neighbour.finish() > 0);
}

#[test]
fn an_indirect_descriptor_needs_the_feature() {
    let mut node = Node::with_networks(&[8]);
    let options = Options {
        network: Some(8),
        features: SENDS & !ring_feature::INDIRECT_DESC,
        ..Options::default()
    };
    let mut guest = node.guest(HOSTILE, &options);
    let head = guest.transmit[0].lay_indirect(&[100], 0);
    guest.transmit[0].offer(head);
    guest.transmit[0].publish();
    assert_eq!(
        ring_error(node.fault(HOSTILE, 1)),
        RingError::IndirectNotNegotiated(head)
    );
    // Installing rules must not report it over and over.
    let errors = |node: &Node| {
        node.switch.port_counters(HOSTILE).unwrap()[0]
            .rx_errors
            .get()
    };
    let before = errors(&node);
    for id in 100..120 {
        node.network(id, &[], 0);
    }
    assert_eq!((before, errors(&node)), (1, 1));
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn a_ring_rewritten_while_it_is_read_harms_nobody_else() {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let (mut peer, mut guest) = (hostile(&mut node, 9), hostile(&mut node, HOSTILE));
    let stop = Arc::new(AtomicBool::new(false));
    let (memory, stopped) = (guest.memory.clone(), stop.clone());
    let areas: Vec<_> = [&guest.receive[0], &guest.transmit[0]]
        .map(|ring| (ring.table_at(), ring.avail_at()))
        .to_vec();
    let size = memory.size;
    let rewriter = std::thread::spawn(move || {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut writes = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let (table, avail) = areas[random.next() as usize % 2];
            let index = random.next() % u64::from(SIZE);
            // Between right and nearly right, so that most checks are passed before they fail.
            let address = match random.next() % 4 {
                0 => size - random.next() % 64,
                1 => table,
                _ => 0x10_0000 + random.next() % 0x10_0000,
            };
            let len = [16, 64, 1500, 2048, 70_000, u32::MAX][random.next() as usize % 6];
            let (flags, next) = ((random.next() % 8) as u16, (random.next() % 260) as u16);
            memory.write(table + index * 16, &descriptor(address, len, flags, next));
            let entry = random.next() % u64::from(SIZE);
            memory.write(
                avail + 4 + entry * 2,
                &(random.next() as u16 % 260).to_le_bytes(),
            );
            if writes.is_multiple_of(64) {
                // The used ring too, and the virtio-net headers and frames behind it.
                let bytes: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
                memory.write(table + 0x4000 + random.next() % 2048, &bytes);
                memory.write(0x10_0000 + random.next() % 0x80_0000, &bytes);
            }
            writes += 1;
        }
        writes
    });
    let mut random = Random(77);
    let (mut stops, end) = (0, Instant::now() + Duration::from_secs(4));
    let mut faults = 0;
    while Instant::now() < end {
        let step = (random.next() % 20) as u16;
        let ring = &mut guest.transmit[0];
        ring.avail = ring.avail.wrapping_add(step);
        ring.set_available(ring.avail);
        let ring = &mut guest.receive[0];
        ring.avail = ring.avail.wrapping_add(step);
        ring.set_available(ring.avail);
        peer.send(&[udp(9, 10, 900), udp_to(mac(9), BROADCAST, 1, 60)]);
        peer.receive();
        std::thread::sleep(Duration::from_micros(200));
        let found = node.switch.faults(HOSTILE).len();
        faults += found;
        if stops % 8 == 0 || found > 0 {
            for queue in 0..2_usize {
                guest.device.stop_queue(queue as u16).unwrap();
                guest.ring(queue).clear();
                if queue == 0 {
                    guest.post(0);
                }
                guest.start(queue, 0);
            }
        }
        stops += 1;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(rewriter.join().unwrap() > 1000);
    assert!(faults > 0, "it was stopped at least once");
    let rounds = neighbour.finish();
    assert!(rounds > 10, "{rounds} rounds");
    for queue in 0..2 {
        guest.restart(queue);
    }
    // It may have sent its peer's own frames back, address and all.
    peer.send(&[udp(9, 10, 1)]);
    peer.receive();
    guest.send(&[udp(10, 9, 5)]);
    assert_eq!(peer.frames(), [udp(10, 9, 5)]);
}

#[test]
fn memory_taken_away_stops_its_own_queues() {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let mut peer = hostile(&mut node, 9);
    // All of it; the rings only are left; the file ends in the middle of the buffers.
    for left in [0, 0x10_0000, 0x10_0000 + 0x1000] {
        let mut guest = hostile(&mut node, HOSTILE);
        guest.send(&[udp(10, 9, 5), udp(10, 9, 6)]);
        assert_eq!(peer.frames().len(), 2);
        let ring = &mut guest.transmit[0];
        let frame = [&[0; 12], &udp(10, 9, 1400)[..]].concat();
        let heads: Vec<_> = (0..32)
            .map(|_| ring.lay(&[frame.len() as u32], 0))
            .collect();
        for head in heads {
            ring.fill(head, &frame);
            ring.offer(head);
        }
        guest.memory.file.set_len(left).unwrap();
        if left > 0 {
            guest.transmit[0].publish();
        }
        guest.transmit[0].kick.signal();
        peer.send(&vec![udp(9, 10, 1400); 40]);
        assert_eq!(
            ring_error(node.fault(HOSTILE, 1)),
            RingError::MemoryLost,
            "{left:#x} bytes left"
        );
        peer.send(&[udp(9, 10, 1400)]);
        assert_eq!(
            ring_error(node.fault(HOSTILE, 0)),
            RingError::MemoryLost,
            "{left:#x} bytes left"
        );
        peer.receive();
        retire(&mut node, guest);
    }
    let mut guest = hostile(&mut node, HOSTILE);
    guest.send(&[udp(10, 9, 5)]);
    assert_eq!(peer.frames(), [udp(10, 9, 5)], "a new guest in its place");
    assert!(neighbour.finish() > 0);
}

/// Stops and starts both queues again and again, with the memory mapped anew or not, while a peer sends to them.
fn stop_and_go(remap: bool) {
    let mut node = Node::with_networks(&[8]);
    let neighbour = Neighbour::start(&mut node);
    let (mut peer, mut guest) = (hostile(&mut node, 9), hostile(&mut node, HOSTILE));
    let mut watcher = hostile(&mut node, 11);
    guest.send(&[udp(10, 9, 5)]);
    watcher.send(&[udp(11, 9, 5)]);
    for one in [&mut peer, &mut guest, &mut watcher] {
        one.receive();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            let frames: Vec<_> = (0..32).map(|i| udp(9, 10, 100 + i)).collect();
            peer.send(&frames);
            sent += frames.len();
        }
        (peer, sent)
    });
    let frame = [&[0; 12], &udp(10, 11, 700)[..]].concat();
    let heads: Vec<_> = (0..64)
        .map(|_| guest.transmit[0].lay(&[frame.len() as u32], 0))
        .collect();
    heads
        .iter()
        .for_each(|head| guest.transmit[0].fill(*head, &frame));
    let (mut expected, mut got, mut received) = (0, 0, 0);
    for _ in 0..150 {
        // Frames that the switch may have taken or not when the queue is stopped: each is delivered once.
        heads.iter().for_each(|head| guest.transmit[0].offer(*head));
        guest.transmit[0].publish();
        expected += heads.len();
        let next: Vec<_> = (0..2)
            .map(|queue| guest.device.stop_queue(queue).unwrap())
            .collect();
        // Nothing is touched after the stop.
        let used = |ring: &Ring| ring.memory.read_u16(ring.used_at() + 2);
        let before = (used(&guest.receive[0]), used(&guest.transmit[0]));
        assert_eq!(
            next,
            [before.0, before.1],
            "all that was taken is given back"
        );
        if remap {
            guest.memory.map_again();
            guest.receive[0].memory = guest.memory.clone();
            guest.transmit[0].memory = guest.memory.clone();
        }
        guest.start(0, next[0]);
        guest.start(1, next[1]);
        assert!(guest.transmit[0].drained(Duration::from_secs(10)));
        got += watcher.frames().len();
        received += guest.frames().len();
    }
    stop.store(true, Ordering::Relaxed);
    let (mut peer, sent) = sender.join().unwrap();
    // A buffer comes back when its frame was delivered or counted: before that the sums need not agree.
    assert!(peer.transmit[0].drained(Duration::from_secs(10)));
    received += guest.frames().len();
    assert_eq!(got, expected, "none lost, none twice");
    let lost = node.drops(Drop::PortDown) + node.drops(Drop::NoBuffers);
    assert_eq!(
        received as u64 + lost,
        sent as u64,
        "delivered or counted: {:?}",
        node.all_drops()
    );
    assert!(received > 0);
    assert!(node.switch.faults(HOSTILE).is_empty());
    peer.send(&[udp(9, 10, 1)]);
    assert_eq!(guest.frames(), [udp(9, 10, 1)]);
    assert!(neighbour.finish() > 0);
}

#[test]
fn a_queue_stops_while_traffic_runs() {
    stop_and_go(false);
}

#[test]
fn memory_is_replaced_while_traffic_runs() {
    stop_and_go(true);
}

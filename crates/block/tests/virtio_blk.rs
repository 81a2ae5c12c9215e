//! The virtio-blk controller against a driver that obeys the standard and against one that does not.
#![allow(clippy::unwrap_used)]

mod driver;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use driver::*;
use proptest::prelude::*;
use sumeru_block::*;
use sumeru_engine::{Lcore, LcoreContext};
use sumeru_virtio::device::{DeviceError, VirtioDevice};
use sumeru_virtio::inflight::{self, InflightRegion};
use uuid::Uuid;

const IN: u32 = 0;
const OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const DISK: u64 = 1 << 20;
const ALL: u64 = FEATURES | FLUSH | CONFIG_WCE | DISCARD | WRITE_ZEROES;

fn controller(bdev: Arc<dyn Bdev>, lcore: &Arc<Lcore>, queues: u16) -> VirtioBlk {
    let options = BlkOptions {
        name: "vda".into(),
        serial: "serial-0123456789-too-long".into(),
        queues,
        lcores: vec![lcore.clone()],
    };
    VirtioBlk::new(bdev, options).unwrap()
}

fn memory_disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new("m", Uuid::new_v4(), DISK, 512).unwrap())
}

struct Bench {
    device: VirtioBlk,
    queue: Queue,
    disk: Arc<MemoryDisk>,
}

fn bench() -> Bench {
    let disk = memory_disk();
    let mut device = controller(disk.clone(), &lcore(), 2);
    let queue = Queue::new(&Memory::new(), 0);
    queue.start(&mut device, ALL);
    Bench {
        device,
        queue,
        disk,
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_request_does_what_the_standard_says() {
    let Bench {
        mut device,
        mut queue,
        ..
    } = bench();
    let data: Vec<u8> = (0..8192_u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
    assert_eq!(queue.request(OUT, 8, &data, 0), (OK, vec![], 1));
    assert_eq!(queue.request(IN, 8, &[], 8192), (OK, data.clone(), 8193));
    assert_eq!(queue.request(T_FLUSH, 0, &[], 0), (OK, vec![], 1));
    let (status, id, len) = queue.request(GET_ID, 0, &[], 20);
    assert_eq!(
        (status, id.as_slice(), len),
        (OK, &b"serial-0123456789-to"[..], 21)
    );
    assert_eq!(
        queue.request(T_WRITE_ZEROES, 0, &range(9, 2, 1), 0),
        (OK, vec![], 1)
    );
    let (status, seen, _) = queue.request(IN, 8, &[], 2048);
    assert_eq!(status, OK);
    assert_eq!(seen[..512], data[..512]);
    assert_eq!(seen[512..1536], [0; 1024]);
    assert_eq!(seen[1536..], data[1536..2048]);
    assert_eq!(
        queue.request(T_DISCARD, 0, &range(8, 16, 0), 0),
        (OK, vec![], 1)
    );
    let report = device.monitor().queues().next().unwrap();
    let expected = QueueReport {
        reads: 2,
        read_bytes: 8192 + 2048,
        writes: 1,
        written_bytes: 8192,
        flushes: 1,
        unmaps: 2,
        identifies: 1,
        notifications: report.notifications,
        ..QueueReport::default()
    };
    assert_eq!(report, expected);
    assert!(report.notifications >= 1 && queue.call.consume());
    assert_eq!(device.stop_queue(0).unwrap(), 7);
    assert!(matches!(
        device.stop_queue(0),
        Err(DeviceError::NotRunning { index: 0 })
    ));
}

#[test]
fn nonsense_is_answered_and_the_queue_goes_on() {
    let Bench {
        device, mut queue, ..
    } = bench();
    let end = DISK / 512;
    type Case = (&'static str, u32, u64, Vec<u8>, u32, u8);
    let cases: [Case; 16] = [
        ("unknown type", 99, 0, vec![], 512, UNSUPP),
        ("legacy SCSI", 2, 0, vec![], 512, UNSUPP),
        ("past the end", IN, end, vec![], 512, IOERR),
        ("across the end", IN, end - 1, vec![], 1024, IOERR),
        (
            "write across the end",
            OUT,
            end - 1,
            vec![0; 1024],
            0,
            IOERR,
        ),
        ("sector times 512 wraps", IN, 1 << 55, vec![], 512, IOERR),
        ("largest sector", OUT, u64::MAX, vec![0; 512], 0, IOERR),
        ("no data", IN, 0, vec![], 0, IOERR),
        ("half a sector", IN, 0, vec![], 256, IOERR),
        ("a sector and a byte", OUT, 0, vec![0; 513], 0, IOERR),
        ("read into what is readable", IN, 0, vec![0; 512], 0, IOERR),
        ("discard of nothing", T_DISCARD, 0, range(0, 0, 0), 0, IOERR),
        (
            "discard past the end",
            T_DISCARD,
            0,
            range(end, 1, 0),
            0,
            IOERR,
        ),
        (
            "discard with unmap",
            T_DISCARD,
            0,
            range(0, 1, 1),
            0,
            UNSUPP,
        ),
        ("two discards", T_DISCARD, 0, vec![0; 32], 0, IOERR),
        (
            "zeroes with unknown flags",
            T_WRITE_ZEROES,
            0,
            range(0, 1, 6),
            0,
            UNSUPP,
        ),
    ];
    for (name, kind, sector, out, room, expected) in cases {
        let (status, _, len) = queue.request(kind, sector, &out, room);
        assert_eq!((status, len), (expected, 0), "{name}");
    }
    let short = [Piece::Out(vec![0; 15]), Piece::In(513)];
    assert_eq!(queue.submit(&short, false).0, IOERR, "short header");
    let no_header = [Piece::In(513)];
    assert_eq!(queue.submit(&no_header, false).0, IOERR, "no header");
    let mut many = vec![Piece::Out(header(IN, 0))];
    many.extend((0..1023).map(|_| Piece::In(512)));
    assert_eq!(
        queue.submit(&many, true).0,
        IOERR,
        "1022 whole pieces and one that lost a byte to the status"
    );
    assert_eq!(queue.request(IN, 0, &[], 512).0, OK, "still alive");
    let report = device.monitor().queues().next().unwrap();
    assert_eq!((report.halts, report.reads), (0, 1));
    assert!(report.refused >= 13 && report.errors >= 4, "{report:?}");
}

#[test]
fn a_broken_ring_halts_its_queue_and_no_other() {
    type Break = fn(&mut Queue);
    let cases: [(&str, Break); 9] = [
        ("no status byte", |q| {
            q.lay(0, &[Piece::Out(header(T_FLUSH, 0))], false);
            q.push(0);
        }),
        ("available index runs ahead", |q| q.set_available(SIZE + 2)),
        ("head outside the table", |q| q.push(SIZE)),
        ("next outside the table", |q| {
            q.descriptor(0, BUFFERS, 16, NEXT, SIZE);
            q.push(0);
        }),
        ("a loop", |q| {
            q.descriptor(0, BUFFERS, 16, NEXT, 1);
            q.descriptor(1, BUFFERS, 16, NEXT, 0);
            q.push(0);
        }),
        ("address outside memory", |q| {
            q.descriptor(0, 1 << 40, 16, NEXT, 1);
            q.descriptor(1, BUFFERS, 1, WRITE, 0);
            q.push(0);
        }),
        ("length over the region", |q| {
            q.descriptor(0, BUFFERS, u32::MAX, WRITE, 0);
            q.push(0);
        }),
        ("readable after writable", |q| {
            q.descriptor(0, BUFFERS, 16, WRITE | NEXT, 1);
            q.descriptor(1, BUFFERS, 16, 0, 0);
            q.push(0);
        }),
        ("indirect table inside an indirect table", |q| {
            let inner = [
                BUFFERS.to_le_bytes().to_vec(),
                16_u32.to_le_bytes().to_vec(),
                INDIRECT.to_le_bytes().to_vec(),
                vec![0; 2],
            ];
            q.memory.write(BUFFERS, &inner.concat());
            q.descriptor(0, BUFFERS, 16, INDIRECT, 0);
            q.push(0);
        }),
    ];
    for (name, break_it) in cases {
        let Bench {
            mut device,
            mut queue,
            ..
        } = bench();
        let mut other = Queue::new(&queue.memory, 1);
        other.start(&mut device, ALL);
        assert_eq!(queue.request(IN, 0, &[], 512).0, OK);
        let before = queue.used_index();
        break_it(&mut queue);
        until(name, || device.halted(0).is_some());
        assert!(queue.error.consume(), "{name}: the front end is told");
        assert_eq!(queue.used_index(), before, "{name}: nothing is given back");
        let reports: Vec<_> = device.monitor().queues().collect();
        assert_eq!((reports[0].halts, reports[1].halts), (1, 0), "{name}");
        for sector in 0..50 {
            assert_eq!(
                other.request(IN, sector, &[], 512).0,
                OK,
                "{name}: the other queue"
            );
        }
        device.stop_queue(0).unwrap();
        device.stop_queue(1).unwrap();
    }
}

#[test]
fn a_request_before_the_broken_one_is_still_completed() {
    let Bench {
        device, mut queue, ..
    } = bench();
    queue.lay(10, &[Piece::Out(header(T_FLUSH, 0)), Piece::In(1)], false);
    queue.offer(10);
    queue.push(SIZE);
    assert_eq!(queue.wait(), (10, 1));
    until("the halt", || device.halted(0).is_some());
}

/// Cuts `bytes` at the given places.
fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for &at in cuts {
        let (piece, more) = rest.split_at(at.clamp(1, rest.len().max(1)).min(rest.len()));
        if !piece.is_empty() {
            pieces.push(piece.to_vec());
        }
        rest = more;
    }
    if !rest.is_empty() {
        pieces.push(rest.to_vec());
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// 2.7.4.1: header, data and status may be cut into descriptors anywhere.
    #[test]
    fn framing_does_not_matter(
        steps in prop::collection::vec(
            (any::<bool>(), 0..500_u64, 1..20_usize, prop::collection::vec(1..3000_usize, 0..12), any::<bool>(), any::<u8>()),
            1..30,
        ),
    ) {
        let Bench { device, mut queue, .. } = bench();
        let mut model = vec![0_u8; DISK as usize];
        for (write, sector, sectors, cuts, indirect, fill) in steps {
            let (at, len) = (sector as usize * 512, sectors * 512);
            let mut readable = header(if write { OUT } else { IN }, sector);
            let mut writable = vec![0; 1];
            if write {
                let data: Vec<u8> = (0..len).map(|i| fill ^ (i as u8).wrapping_mul(7)).collect();
                readable.extend(&data);
                model[at..at + len].copy_from_slice(&data);
            } else {
                writable = vec![0; len + 1];
            }
            let mut pieces: Vec<Piece> = cut(&readable, &cuts).into_iter().map(Piece::Out).collect();
            pieces.extend(cut(&writable, &cuts).into_iter().map(|piece| Piece::In(piece.len() as u32)));
            let (status, data, _) = queue.submit(&pieces, indirect);
            prop_assert_eq!(status, OK);
            if !write {
                prop_assert_eq!(&data[..], &model[at..at + len]);
            }
        }
        prop_assert_eq!(device.halted(0), None);
    }

    /// Whatever lies in the descriptors, the device answers or halts, and stays usable.
    #[test]
    fn random_descriptors_never_do_worse_than_a_halt(
        table in prop::collection::vec(
            (prop_oneof![Just(BUFFERS), 0..0x220_0000_u64, any::<u64>()], prop_oneof![0..2000_u32, any::<u32>()], 0..8_u16, 0..9_u16),
            8,
        ),
        content: [u8; 32],
        heads in prop::collection::vec(0..9_u16, 1..8),
    ) {
        let Bench { mut device, mut queue, .. } = bench();
        let mut other = Queue::new(&Memory::new(), 1);
        other.start(&mut device, ALL);
        queue.memory.write(BUFFERS, &content);
        for (i, (address, len, flags, next)) in table.into_iter().enumerate() {
            queue.descriptor(i as u16, address, len, flags, next);
        }
        let count = heads.len() as u16;
        for head in heads {
            queue.offer(head);
        }
        queue.kick.signal();
        until("an answer to all, or a halt", || {
            queue.used_index() == count || device.halted(0).is_some()
        });
        prop_assert_eq!(other.request(IN, 0, &[], 512).0, OK);
        device.stop_queue(0).unwrap();
    }
}

#[test]
fn a_resize_shows_in_the_configuration_and_in_the_range() {
    let Bench {
        device,
        mut queue,
        disk,
    } = bench();
    let capacity = |device: &VirtioBlk| {
        let mut bytes = [0; 8];
        device.read_config(0, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(capacity(&device), DISK / 512);
    assert_eq!(queue.request(IN, DISK / 512, &[], 512).0, IOERR);
    disk.resize(2 * DISK).unwrap();
    assert_eq!(capacity(&device), 2 * DISK / 512);
    assert_eq!(queue.request(IN, DISK / 512, &[], 512).0, OK);
    disk.resize(DISK).unwrap();
    assert_eq!(queue.request(IN, DISK / 512, &[], 512).0, IOERR);
}

#[test]
fn configuration_reads_anywhere_and_takes_only_the_cache_mode() {
    let Bench { mut device, .. } = bench();
    let mut bytes = [9; 100];
    device.read_config(50, &mut bytes).unwrap();
    assert_eq!(bytes[10..], [0; 90], "zeroes past the end");
    device.read_config(u32::MAX, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
    device.write_config(32, &[0]).unwrap();
    device.read_config(32, &mut bytes[..1]).unwrap();
    assert_eq!(bytes[0], 0);
    for (offset, data) in [(0, &[0][..]), (32, &[2]), (32, &[0, 0]), (u32::MAX, &[1])] {
        assert!(device.write_config(offset, data).is_err(), "{offset}");
    }
    assert!(
        device.accept_features(FEATURES | 1 << 40).is_err(),
        "not offered"
    );
    assert!(device.accept_features(1 << 28).is_err(), "no VERSION_1");
}

#[derive(Default)]
struct Script {
    /// What was submitted, by offset, and whether it may complete.
    log: Vec<(u64, bool)>,
    fua: Vec<bool>,
    wakers: Vec<Waker>,
}

/// A disk whose operations end when the test says so, woken from the test's thread.
struct ScriptedDisk(Arc<Mutex<Script>>);
struct ScriptedChannel(Arc<Mutex<Script>>);
struct ScriptedIo(Arc<Mutex<Script>>, usize);

impl Future for ScriptedIo {
    type Output = IoResult;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult> {
        let mut script = self.0.lock().unwrap();
        if script.log[self.1].1 {
            return Poll::Ready(Ok(()));
        }
        script.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl Channel for ScriptedChannel {
    fn submit(&self, operation: Operation<'_>) -> IoFuture {
        let mut script = self.0.lock().unwrap();
        let (offset, fua) = match operation {
            Operation::Read { offset, .. } => (offset, false),
            Operation::Write { offset, fua, .. } => (offset, fua),
            _ => return IoFuture::Ready(Ok(())),
        };
        script.log.push((offset, false));
        script.fua.push(fua);
        let index = script.log.len() - 1;
        IoFuture::Boxed(Box::pin(ScriptedIo(self.0.clone(), index)))
    }
}

impl Bdev for ScriptedDisk {
    fn info(&self) -> BdevInfo {
        memory_disk().info()
    }
    fn open(&self, _: &LcoreContext) -> Result<Box<dyn Channel>, BdevError> {
        Ok(Box::new(ScriptedChannel(self.0.clone())))
    }
    fn subscribe_resize(&self, watcher: ResizeWatcher) -> ResizeSubscription {
        ResizeEvents::default().subscribe(watcher)
    }
    fn resize(&self, _: u64) -> Result<(), BdevError> {
        Err(BdevError::FixedSize {
            name: "scripted".into(),
        })
    }
}

impl ScriptedDisk {
    fn offsets(script: &Mutex<Script>) -> Vec<u64> {
        script
            .lock()
            .unwrap()
            .log
            .iter()
            .map(|(offset, _)| *offset)
            .collect()
    }

    fn release(script: &Mutex<Script>, offsets: &[u64]) {
        let mut script = script.lock().unwrap();
        for (offset, done) in &mut script.log {
            *done |= offsets.contains(offset);
        }
        for waker in std::mem::take(&mut script.wakers) {
            waker.wake();
        }
    }
}

fn lay_read(queue: &mut Queue, head: u16, sector: u64) {
    queue.lay(
        head,
        &[Piece::Out(header(IN, sector)), Piece::In(512), Piece::In(1)],
        false,
    );
}

#[test]
fn stopping_waits_for_io_and_completions_come_in_any_order() {
    let script = Arc::new(Mutex::new(Script::default()));
    let lcore = lcore();
    let mut device = controller(Arc::new(ScriptedDisk(script.clone())), &lcore, 1);
    let mut queue = Queue::new(&Memory::new(), 0);
    queue.start(&mut device, ALL);
    for i in 0..4 {
        lay_read(&mut queue, i * 4, u64::from(i));
        queue.push(i * 4);
    }
    until("four submissions", || {
        ScriptedDisk::offsets(&script).len() == 4
    });
    // Long enough for the lcore to fall asleep, so that the wake has to get it up.
    std::thread::sleep(Duration::from_millis(20));
    ScriptedDisk::release(&script, &[1024]);
    assert_eq!(queue.wait(), (8, 513));
    assert_eq!(queue.try_used(), None, "the others are still under way");
    let stopper = std::thread::spawn(move || (device.stop_queue(0), device));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!stopper.is_finished(), "three requests are under way");
    lay_read(&mut queue, 100, 9);
    queue.push(100);
    // The lcore is free meanwhile.
    lcore.call(|_| ()).unwrap();
    ScriptedDisk::release(&script, &[0, 512, 1536]);
    let (stopped, device) = stopper.join().unwrap();
    assert_eq!(stopped.unwrap(), 4, "what came after the stop is not taken");
    let mut heads: Vec<_> = (0..3).map(|_| queue.wait().0).collect();
    heads.sort_unstable();
    assert_eq!(heads, [0, 4, 12]);
    assert_eq!(ScriptedDisk::offsets(&script).len(), 4);
    drop(device);
}

#[test]
fn without_a_write_cache_every_write_goes_through() {
    for (features, wce, expected) in [
        (FEATURES, None, true),
        (FEATURES | FLUSH, None, false),
        (FEATURES | FLUSH | CONFIG_WCE, None, false),
        (FEATURES | FLUSH | CONFIG_WCE, Some(0), true),
        (FEATURES | FLUSH | CONFIG_WCE, Some(1), false),
    ] {
        let script = Arc::new(Mutex::new(Script::default()));
        let mut device = controller(Arc::new(ScriptedDisk(script.clone())), &lcore(), 1);
        let mut queue = Queue::new(&Memory::new(), 0);
        queue.start(&mut device, features);
        if let Some(wce) = wce {
            device.write_config(32, &[wce]).unwrap();
        }
        queue.lay(
            0,
            &[
                Piece::Out(header(OUT, 0)),
                Piece::Out(vec![0; 512]),
                Piece::In(1),
            ],
            false,
        );
        queue.push(0);
        until("the write", || !script.lock().unwrap().fua.is_empty());
        assert_eq!(
            script.lock().unwrap().fua,
            [expected],
            "{features:#x} {wce:?}"
        );
        ScriptedDisk::release(&script, &[0]);
    }
}

#[test]
fn what_a_dead_predecessor_had_in_flight_is_submitted_again_in_order() {
    let (fd, bytes) = inflight::create(1, SIZE).unwrap();
    let region = || {
        let fd = fd.try_clone().unwrap();
        InflightRegion::map(fd, bytes, 0, 1, SIZE)
            .unwrap()
            .queue(0, SIZE)
            .unwrap()
    };
    let mut queue = Queue::new(&Memory::new(), 0);
    // The predecessor took three requests, in this order, and died before it completed any.
    let heads = [40, 8, 24];
    let mut predecessor = region();
    for (i, head) in heads.into_iter().enumerate() {
        lay_read(&mut queue, head, 10 + i as u64);
        queue.offer(head);
        predecessor.mark(head);
    }
    drop(predecessor);
    // One more came while nobody was there.
    lay_read(&mut queue, 60, 99);
    queue.offer(60);
    let script = Arc::new(Mutex::new(Script::default()));
    let lcore = lcore();
    let mut device = controller(Arc::new(ScriptedDisk(script.clone())), &lcore, 1);
    device.accept_features(ALL).unwrap();
    device
        .start_queue(queue.setup(ALL, Some(region())))
        .unwrap();
    until("four submissions", || {
        ScriptedDisk::offsets(&script).len() == 4
    });
    assert_eq!(
        ScriptedDisk::offsets(&script),
        [10 * 512, 11 * 512, 12 * 512, 99 * 512]
    );
    assert_eq!(device.monitor().queues().next().unwrap().resubmitted, 3);
    ScriptedDisk::release(&script, &[11 * 512]);
    assert_eq!(queue.wait(), (8, 513));
    until("the batch to be closed", || {
        region().recover(1).heads == [40, 24, 60]
    });
    ScriptedDisk::release(&script, &[10 * 512, 12 * 512, 99 * 512]);
    assert_eq!(device.stop_queue(0).unwrap(), 4);
    let recovery = region().recover(queue.used_index());
    assert_eq!((recovery.heads, recovery.next_available), (vec![], 4));
}

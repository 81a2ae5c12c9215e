//! Fuzz target `block`: a hostile driver's requests into one virtqueue of a memory disk. Fails when a request is lost, when memory that is
//! not the driver's to be written changes, or when a request that was served did not do what it says.
//!
//! Input: bits (0 event index, 1 write-through), then operations; see `Driver::step`.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sumeru_block::virtio_blk::queue::{BlkQueue, DeviceState, QueueParts};
use sumeru_block::virtio_blk::request::{ID_LEN, Limits};
use sumeru_block::virtio_blk::statistics::QueueStatistics;
use sumeru_block::{Bdev, MemoryDisk};
use sumeru_engine::{Cx, LcoreContext, Poller, Tsc, Watch};
use sumeru_virtio::{SplitLayout, SplitQueue};
use uuid::Uuid;

use crate::guest::{BASE, Guest, Place, SIZE, descriptor};
use crate::input::Input;

const QUEUE: u16 = 16;
const DISK: u64 = 64 << 10;
/// Where request headers and ranges lie, and where data and status do.
const HEADERS: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;
/// Most operations of an input, so that it is quick.
const STEPS: usize = 64;

struct Bench {
    guest: Guest,
    context: LcoreContext,
    watch: Watch,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn bench() -> Bench {
    let (Ok(context), Ok(watch)) = (LcoreContext::detached(), Watch::new()) else {
        panic!("no io_uring or no file descriptors");
    };
    let guest = Guest::new();
    Bench {
        guest,
        context,
        watch,
    }
}

/// Runs one input.
///
/// # Panics
/// When a promise of the controller is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.u8();
    BENCH.with_borrow_mut(|slot| {
        let Bench {
            guest,
            context,
            watch,
        } = slot.get_or_insert_with(bench);
        guest.clear();
        let place = Place::new(0, QUEUE);
        let statistics = Arc::new(QueueStatistics::default());
        let mut driver = Driver {
            queue: start(guest, place, bits, statistics.clone(), context),
            guest,
            place,
            available: 0,
            watch,
        };
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            driver.step(&mut input);
        }
        driver.poll();
        driver.check(&statistics);
    });
}

fn start(
    guest: &Guest,
    place: Place,
    bits: u8,
    statistics: Arc<QueueStatistics>,
    context: &LcoreContext,
) -> BlkQueue {
    let [descriptor_table, driver_area, device_area] = place.addresses();
    let layout = SplitLayout {
        size: QUEUE,
        descriptor_table,
        driver_area,
        device_area,
        last_available: 0,
        event_idx: bits & 1 != 0,
        indirect: true,
    };
    let disk = MemoryDisk::new("disk", Uuid::nil(), DISK, 512);
    let channel = disk.and_then(|disk| disk.open(context));
    let queue = SplitQueue::new(layout, guest.memory.clone());
    let (Ok(channel), Ok(queue)) = (channel, queue) else {
        panic!("no disk, or no ring");
    };
    let device = DeviceState {
        name: "disk".to_owned(),
        serial: [b's'; ID_LEN],
        write_through: AtomicBool::new(bits & 2 != 0),
    };
    let parts = QueueParts {
        index: 0,
        queue,
        channel,
        limits: Limits {
            segments: 8,
            discard: 1 << 20,
            write_zeroes: 1 << 20,
        },
        device: Arc::new(device),
        statistics,
        inflight: None,
        recovered: Vec::new(),
        kick: None,
        call: None,
        error: None,
        enabled: true,
    };
    BlkQueue::new(parts, context)
}

struct Driver<'a> {
    guest: &'a mut Guest,
    place: Place,
    queue: BlkQueue,
    available: u16,
    watch: &'a Watch,
}

impl Driver<'_> {
    fn step(&mut self, input: &mut Input) {
        match input.below(8) {
            0..=3 => self.request(input),
            4 => {
                // Anywhere but where descriptors are, which say what may be written.
                let (at, len) = (u64::from(input.u16()) % 0x2000, input.u8());
                let bytes = input.bytes(len.into());
                let at = HEADERS + at;
                let room = (BUFFERS - at) as usize;
                self.guest.write(at, &bytes[..bytes.len().min(room)]);
            }
            5 => {
                self.available = self.available.wrapping_add(input.u16());
                self.show();
            }
            6 => {
                let cx = Cx::new(Tsc(0), 0, self.watch);
                self.queue.arm(&cx);
                self.queue.disarm();
            }
            _ => self.poll(),
        }
    }

    fn poll(&mut self) {
        let cx = Cx::new(Tsc(0), 0, self.watch);
        while self.queue.poll(&cx) > 0 {}
    }

    fn show(&mut self) {
        let at = self.place.available_index();
        self.guest.write(at, &self.available.to_le_bytes());
    }

    /// A request of up to six descriptors: header, data, status, in any sizes and directions.
    fn request(&mut self, input: &mut Input) {
        let (head, kind, sector) = (u16::from(input.u8()), input.u8(), input.u16());
        let slot = HEADERS + u64::from(head % QUEUE) * 32;
        let mut header = [0; 32];
        header[..4].copy_from_slice(&u32::from(kind & 15).to_le_bytes());
        header[8..10].copy_from_slice(&sector.to_le_bytes());
        // A range for discard and write zeroes: sector, count, flags.
        header[16..18].copy_from_slice(&input.u16().to_le_bytes());
        header[24] = input.u8();
        header[28] = input.u8() & 3;
        if kind & 0x80 != 0 {
            header[8..16].copy_from_slice(&input.array::<8>());
        }
        self.guest.write(slot, &header);
        let count = 1 + input.below(6) as u16;
        for number in 0..count {
            let how = input.u8();
            let next = (head + number + 1) % QUEUE;
            let more = u16::from(number + 1 < count);
            let place = self.place.descriptor((head + number) % QUEUE);
            let bytes = if number == 0 && how & 1 == 0 {
                let len = if how & 2 == 0 {
                    16
                } else {
                    u32::from(how >> 2)
                };
                descriptor(BASE + slot, len, more, next)
            } else if how & 1 == 0 {
                // Readable: a range, or data from anywhere.
                let from = if how & 2 == 0 {
                    slot + 16
                } else {
                    input.u16().into()
                };
                let len = if how & 4 == 0 {
                    16
                } else {
                    u32::from(how >> 3) * 512
                };
                descriptor(BASE + from, len, more, next)
            } else {
                let at = BUFFERS + u64::from(input.u16()) % (SIZE as u64 - BUFFERS);
                let len = match how >> 1 & 3 {
                    0 => 1,
                    1 => u32::from(input.u16()),
                    _ => u32::from(how >> 3) * 512,
                };
                let len = len.min(SIZE as u32 - at as u32);
                descriptor(BASE + at, len, 2 | more, next)
            };
            self.guest.write(place, &bytes);
        }
        let at = self.place.available(self.available);
        self.guest.write(at, &(head % QUEUE).to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.show();
    }

    fn check(&self, statistics: &QueueStatistics) {
        self.guest
            .check_untouched(&[self.place.used(), BUFFERS..SIZE as u64]);
        assert_eq!(self.queue.pending(), 0, "a memory disk makes nobody wait");
        let report = statistics.report();
        assert!(report.halts <= 1 && (report.halts == 1) == self.queue.halted().is_some());
        let served = [
            report.reads,
            report.writes,
            report.flushes,
            report.unmaps,
            report.identifies,
            report.errors,
            report.refused,
        ];
        let shown = self.guest.read_u16(self.place.used_index());
        assert_eq!(served.iter().sum::<u64>() as u16, shown, "{report:?}");
    }
}

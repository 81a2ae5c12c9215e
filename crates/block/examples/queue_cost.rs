//! Cycles that one queue takes per request, driver and device on one core: the median over bursts, so that other work on the
//! machine hardly shows. What is missing is the traffic between two cores' caches.
//!
//! `cargo run --release -p sumeru-block --example queue_cost -- CPU`

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use sumeru_block::{Bdev, BlkOptions, MemoryDisk, NullDisk, VirtioBlk};
use sumeru_engine::{Cx, IdlePolicy, Lcore, LcoreConfig, Poller, Tsc};
use sumeru_virtio::device::{QueueSetup, VirtioDevice};
use sumeru_virtio::{GuestMemory, RegionSpec};
use uuid::Uuid;

const RING: u16 = 1024;
const AVAIL: u64 = 0x10000;
const USED: u64 = 0x20000;
const CONTROL: u64 = 0x40000;
const DATA: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000_0000;
const BURSTS: usize = 20_000;

/// Refills the ring, and says when.
struct Refill {
    memory: File,
    depth: u16,
    kind: u32,
    len: u32,
    disk: u64,
    available: u16,
    random: u64,
    start: Arc<Mutex<Tsc>>,
}

impl Poller for Refill {
    fn poll(&mut self, _: &Cx) -> usize {
        for slot in 0..self.depth {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let blocks = self.disk / u64::from(self.len);
            let sector = (self.random >> 8) % blocks * u64::from(self.len) / 512;
            let mut header = [0; 16];
            header[..4].copy_from_slice(&self.kind.to_le_bytes());
            header[8..].copy_from_slice(&sector.to_le_bytes());
            let _ = self
                .memory
                .write_all_at(&header, CONTROL + u64::from(slot) * 64);
            let at = AVAIL + 4 + u64::from(self.available % RING) * 2;
            let _ = self.memory.write_all_at(&(slot * 3).to_le_bytes(), at);
            self.available = self.available.wrapping_add(1);
        }
        let _ = self
            .memory
            .write_all_at(&self.available.to_le_bytes(), AVAIL + 2);
        if let Ok(mut start) = self.start.lock() {
            *start = Tsc::now();
        }
        1
    }
}

/// Takes the time after the queue.
struct Clock {
    start: Arc<Mutex<Tsc>>,
    cycles: Vec<u64>,
    done: Sender<Vec<u64>>,
}

impl Poller for Clock {
    fn poll(&mut self, _: &Cx) -> usize {
        let now = Tsc::now();
        if self.cycles.len() < BURSTS {
            if let Ok(start) = self.start.lock() {
                self.cycles.push(now.since(*start));
            }
            if self.cycles.len() == BURSTS {
                let _ = self.done.send(std::mem::take(&mut self.cycles));
                self.cycles = vec![0; BURSTS];
            }
        }
        1
    }
}

fn measure(
    cpu: usize,
    disk: Arc<dyn Bdev>,
    kind: u32,
    depth: u16,
    len: u32,
) -> Result<u64, Box<dyn std::error::Error>> {
    let lcore = Arc::new(Lcore::start(LcoreConfig {
        cpu,
        idle: IdlePolicy { spin: None },
    })?);
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?;
    let size = (DATA + u64::from(depth) * u64::from(len)).next_multiple_of(2 << 20);
    rustix::fs::ftruncate(&fd, size)?;
    let memory = File::from(fd.try_clone()?);
    memory.write_all_at(&vec![0; size as usize], 0)?;
    for slot in 0..depth {
        let control = CONTROL + u64::from(slot) * 64;
        let data = DATA + u64::from(slot) * u64::from(len);
        let direction = if kind == 0 { 3_u16 } else { 1 };
        let chain = [
            (control, 16, 1_u16),
            (data, len, direction),
            (control + 16, 1, 2),
        ];
        for (i, (address, len, flags)) in chain.into_iter().enumerate() {
            let index = slot * 3 + i as u16;
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(u32::to_le_bytes(len));
            bytes.extend(flags.to_le_bytes());
            bytes.extend((index + 1).to_le_bytes());
            memory.write_all_at(&bytes, u64::from(index) * 16)?;
        }
    }
    let bytes = disk.info().bytes();
    let options = BlkOptions {
        name: "cost".into(),
        serial: String::new(),
        queues: 1,
        lcores: vec![lcore.clone()],
    };
    let mut device = VirtioBlk::new(disk, options)?;
    let (start, (done, result)) = (Arc::new(Mutex::new(Tsc::now())), channel());
    let refill = Refill {
        memory,
        depth,
        kind,
        len,
        disk: bytes,
        available: 0,
        random: 88_172_645_463_325_252,
        start: start.clone(),
    };
    let spec = RegionSpec {
        guest_address: 0,
        size,
        user_address: USER,
        mmap_offset: 0,
    };
    device.accept_features(1 << 32 | 1 << 9)?;
    device.start_queue(QueueSetup {
        index: 0,
        size: RING,
        descriptor_table: USER,
        driver_area: USER + AVAIL,
        device_area: USER + USED,
        last_available: 0,
        features: 1 << 32 | 1 << 9,
        memory: GuestMemory::map(vec![(spec, fd)])?,
        kick: None,
        call: None,
        error: None,
        enabled: true,
        inflight: None,
    })?;
    // After the queue: what is laid out now is served, and timed, in the next iteration.
    lcore.call(move |local| {
        let cycles = Vec::with_capacity(BURSTS);
        local.add(Clock {
            start,
            cycles,
            done,
        });
        local.add(refill);
    })?;
    let mut cycles = result.recv()?;
    if let Some(reason) = device.halted(0) {
        return Err(reason.into());
    }
    cycles.sort_unstable();
    Ok(cycles[cycles.len() / 2] / u64::from(depth))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = std::env::args().nth(1).map_or(Ok(1), |cpu| cpu.parse())?;
    let null: Arc<dyn Bdev> = Arc::new(NullDisk::new("null", Uuid::nil(), 1 << 30, 512)?);
    let memory = MemoryDisk::new("memory", Uuid::nil(), 1 << 30, 512)?;
    memory.populate()?;
    let memory: Arc<dyn Bdev> = Arc::new(memory);
    for depth in [1, 4, 8, 16, 32] {
        for (name, disk, len) in [
            ("null", &null, 4096),
            ("memory", &memory, 4096),
            ("memory", &memory, 131_072),
        ] {
            let (read, write) = (
                measure(cpu, disk.clone(), 0, depth, len)?,
                measure(cpu, disk.clone(), 1, depth, len)?,
            );
            println!(
                "{name} {len} bytes, bursts of {depth}: read {read}, write {write} cycles per request"
            );
        }
    }
    Ok(())
}

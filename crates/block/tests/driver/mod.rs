//! A driver for tests: one queue in a memory file that the device maps, written and read with plain file I/O, so that it can lay
//! out anything at all, rules or no rules.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sumeru_engine::{IdlePolicy, Lcore, LcoreConfig};
use sumeru_virtio::device::{QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::inflight::InflightQueue;
use sumeru_virtio::{GuestMemory, RegionSpec};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
pub const SIZE: u16 = 128;
/// Where the front end would see guest address 0.
pub const USER: u64 = 0x7000_0000_0000;
/// Buffers begin here.
pub const BUFFERS: u64 = 0x10_0000;
const MEMORY: u64 = 32 << 20;
const QUEUE_SPAN: u64 = 0x4000;

pub const FEATURES: u64 = 1 << 32 | 1 << 28;
pub const FLUSH: u64 = 1 << 9;
pub const CONFIG_WCE: u64 = 1 << 11;
pub const DISCARD: u64 = 1 << 13;
pub const WRITE_ZEROES: u64 = 1 << 14;

pub fn lcore() -> Arc<Lcore> {
    let config = LcoreConfig {
        cpu: 0,
        idle: IdlePolicy::default(),
    };
    Arc::new(Lcore::start(config).unwrap())
}

/// Memory that several queues may share.
#[derive(Clone)]
pub struct Memory {
    pub file: Arc<File>,
    pub map: Arc<GuestMemory>,
}

impl Memory {
    pub fn new() -> Self {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, MEMORY).unwrap();
        let file = File::from(fd.try_clone().unwrap());
        let spec = RegionSpec {
            guest_address: 0,
            size: MEMORY,
            user_address: USER,
            mmap_offset: 0,
        };
        Self {
            file: Arc::new(file),
            map: GuestMemory::map(vec![(spec, fd)]).unwrap(),
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

/// One piece of a request: bytes to read, or room to write.
#[derive(Clone, Debug)]
pub enum Piece {
    Out(Vec<u8>),
    In(u32),
}

/// The driver's side of one queue.
pub struct Queue {
    pub memory: Memory,
    pub index: u16,
    pub kick: Eventfd,
    pub call: Eventfd,
    pub error: Eventfd,
    base: u64,
    avail: u16,
    used: u16,
    next_buffer: u64,
}

impl Queue {
    pub fn new(memory: &Memory, index: u16) -> Self {
        Self {
            memory: memory.clone(),
            index,
            kick: Eventfd::new().unwrap(),
            call: Eventfd::new().unwrap(),
            error: Eventfd::new().unwrap(),
            base: 0x1000 + u64::from(index) * QUEUE_SPAN,
            avail: 0,
            used: 0,
            next_buffer: BUFFERS + u64::from(index) * (8 << 20),
        }
    }

    fn avail_at(&self) -> u64 {
        self.base + 0x1000
    }

    fn used_at(&self) -> u64 {
        self.base + 0x2000
    }

    pub fn setup(&self, features: u64, inflight: Option<InflightQueue>) -> QueueSetup {
        QueueSetup {
            index: self.index,
            size: SIZE,
            descriptor_table: USER + self.base,
            driver_area: USER + self.avail_at(),
            device_area: USER + self.used_at(),
            last_available: self.used,
            features,
            memory: self.memory.map.clone(),
            kick: Some(self.kick.clone()),
            call: Some(self.call.clone()),
            error: Some(self.error.clone()),
            enabled: true,
            inflight,
        }
    }

    pub fn start(&self, device: &mut dyn VirtioDevice, features: u64) {
        device.accept_features(features).unwrap();
        device.start_queue(self.setup(features, None)).unwrap();
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.base + u64::from(index) * 16;
        self.memory
            .write(at, &descriptor(address, len, flags, next));
    }

    /// Makes a head available without telling the device.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail_at() + 4 + u64::from(self.avail % SIZE) * 2;
        self.memory.write(slot, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.memory
            .write(self.avail_at() + 2, &self.avail.to_le_bytes());
    }

    pub fn push(&mut self, head: u16) {
        self.offer(head);
        self.kick.signal();
    }

    /// Sets the available index as it is, right or wrong.
    pub fn set_available(&mut self, index: u16) {
        self.memory.write(self.avail_at() + 2, &index.to_le_bytes());
        self.kick.signal();
    }

    pub fn used_index(&self) -> u16 {
        let bytes = self.memory.read(self.used_at() + 2, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    pub fn try_used(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.used {
            return None;
        }
        let at = self.used_at() + 4 + u64::from(self.used % SIZE) * 8;
        self.used = self.used.wrapping_add(1);
        let bytes = self.memory.read(at, 8);
        let word =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Some((word(0), word(4)))
    }

    /// The next used element; fails the test after ten seconds.
    pub fn wait(&mut self) -> (u32, u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(used) = self.try_used() {
                return used;
            }
            assert!(
                Instant::now() < deadline,
                "nothing came back on queue {}",
                self.index
            );
            std::thread::yield_now();
        }
    }

    /// Room for `len` bytes of buffers; starts over when the queue's part is used up.
    pub fn allocate(&mut self, len: u64) -> u64 {
        let start = BUFFERS + u64::from(self.index) * (8 << 20);
        if self.next_buffer + len > start + (8 << 20) {
            self.next_buffer = start;
        }
        let at = self.next_buffer;
        self.next_buffer += len;
        at
    }

    /// Lays out a chain from descriptor `head` on; returns the addresses of its pieces.
    pub fn lay(&mut self, head: u16, pieces: &[Piece], indirect: bool) -> Vec<(u64, u32)> {
        let mut places = Vec::new();
        for piece in pieces {
            let len = match piece {
                Piece::Out(bytes) => bytes.len() as u32,
                Piece::In(len) => *len,
            };
            let at = self.allocate(u64::from(len));
            if let Piece::Out(bytes) = piece {
                self.memory.write(at, bytes);
            }
            places.push((at, len));
        }
        let last = pieces.len() - 1;
        let flags = |i: usize| {
            let write = if matches!(pieces[i], Piece::In(_)) {
                WRITE
            } else {
                0
            };
            write | if i < last { NEXT } else { 0 }
        };
        if indirect {
            let table = self.allocate(16 * pieces.len() as u64).next_multiple_of(16);
            self.next_buffer = table + 16 * pieces.len() as u64;
            for (i, (at, len)) in places.iter().enumerate() {
                self.memory.write(
                    table + 16 * i as u64,
                    &descriptor(*at, *len, flags(i), i as u16 + 1),
                );
            }
            self.descriptor(head, table, 16 * pieces.len() as u32, INDIRECT, 0);
        } else {
            for (i, (at, len)) in places.iter().enumerate() {
                let index = (head + i as u16) % SIZE;
                self.descriptor(index, *at, *len, flags(i), (index + 1) % SIZE);
            }
        }
        places
    }

    /// Sends one request in the usual framing and waits for it: status, data written by the device, length in the used ring.
    pub fn request(&mut self, kind: u32, sector: u64, out: &[u8], room: u32) -> (u8, Vec<u8>, u32) {
        let mut pieces = vec![Piece::Out(header(kind, sector))];
        if !out.is_empty() {
            pieces.push(Piece::Out(out.to_vec()));
        }
        if room > 0 {
            pieces.push(Piece::In(room));
        }
        pieces.push(Piece::In(1));
        self.submit(&pieces, false)
    }

    /// Sends a chain and waits for it: the last writable byte, the writable bytes before, the used length.
    pub fn submit(&mut self, pieces: &[Piece], indirect: bool) -> (u8, Vec<u8>, u32) {
        let places = self.lay(0, pieces, indirect);
        let writable = |i: &usize| matches!(pieces[*i], Piece::In(_));
        for (at, len) in (0..places.len()).filter(writable).map(|i| places[i]) {
            self.memory.write(at, &vec![0xee; len as usize]);
        }
        self.push(0);
        let (id, len) = self.wait();
        assert_eq!(id, 0);
        let mut data = Vec::new();
        for (at, len) in (0..places.len()).filter(writable).map(|i| places[i]) {
            data.extend(self.memory.read(at, len as usize));
        }
        let status = data.pop().unwrap_or(0xff);
        (status, data, len)
    }
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

pub fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(count.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

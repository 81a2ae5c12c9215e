//! The driver's side of one split ring (Virtio 1.2, 2.7) in a memory file that the device maps. Written and read with plain file
//! I/O, so that it can lay out anything at all, rules or no rules. It never checks what it is told to write.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sumeru_virtio::device::QueueSetup;
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::{GuestMemory, RegionSpec};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
/// Entries of every ring.
pub const SIZE: u16 = 256;
/// Where the front end would see guest address 0.
pub const USER: u64 = 0x7000_0000_0000;
const QUEUE_SPAN: u64 = 0x8000;
const BUFFERS: u64 = 0x10_0000;
const BUFFER_SPAN: u64 = 8 << 20;

/// A guest's memory: one region from guest address 0 on.
#[derive(Clone)]
pub struct Memory {
    pub file: Arc<File>,
    pub map: Arc<GuestMemory>,
    pub size: u64,
}

impl Memory {
    /// Memory for so many queues.
    pub fn new(queues: u16) -> Self {
        let size = BUFFERS + u64::from(queues) * BUFFER_SPAN;
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        let file = Arc::new(File::from(fd));
        let map = Self::map(&file, size);
        Self { file, map, size }
    }

    fn map(file: &File, size: u64) -> Arc<GuestMemory> {
        let spec = RegionSpec {
            guest_address: 0,
            size,
            user_address: USER,
            mmap_offset: 0,
        };
        GuestMemory::map(vec![(spec, file.try_clone().unwrap().into())]).unwrap()
    }

    /// The same file mapped anew, as after a change of the memory table.
    pub fn map_again(&mut self) {
        self.map = Self::map(&self.file, self.size);
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub fn read_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }
}

/// Where a chain's buffers lie: address and length of each.
pub type Places = Vec<(u64, u32)>;

/// One ring.
pub struct Ring {
    pub memory: Memory,
    pub index: u16,
    pub kick: Eventfd,
    pub call: Eventfd,
    pub avail: u16,
    pub used: u16,
    /// Chains by their first descriptor.
    pub chains: BTreeMap<u16, Places>,
    next_descriptor: u16,
    next_buffer: u64,
}

impl Ring {
    pub fn new(memory: &Memory, index: u16) -> Self {
        Self {
            memory: memory.clone(),
            index,
            kick: Eventfd::new().unwrap(),
            call: Eventfd::new().unwrap(),
            avail: 0,
            used: 0,
            chains: BTreeMap::new(),
            next_descriptor: 0,
            next_buffer: BUFFERS + u64::from(index) * BUFFER_SPAN,
        }
    }

    pub fn table_at(&self) -> u64 {
        0x1000 + u64::from(self.index) * QUEUE_SPAN
    }

    pub fn avail_at(&self) -> u64 {
        self.table_at() + 0x2000
    }

    pub fn used_at(&self) -> u64 {
        self.table_at() + 0x4000
    }

    pub fn setup(&self, features: u64, last_available: u16) -> QueueSetup {
        QueueSetup {
            index: self.index,
            size: SIZE,
            descriptor_table: USER + self.table_at(),
            driver_area: USER + self.avail_at(),
            device_area: USER + self.used_at(),
            last_available,
            features,
            memory: self.memory.map.clone(),
            kick: Some(self.kick.clone()),
            call: Some(self.call.clone()),
            error: None,
            enabled: true,
            inflight: None,
        }
    }

    /// Empties the ring, for a queue that does not run.
    pub fn clear(&mut self) {
        self.memory.write(self.table_at(), &[0; 0x7000]);
        (self.avail, self.used) = (0, 0);
        self.rewind();
    }

    /// Descriptors and buffers start over; nothing may be on its way.
    pub fn rewind(&mut self) {
        self.chains.clear();
        self.next_descriptor = 0;
        self.next_buffer = BUFFERS + u64::from(self.index) * BUFFER_SPAN;
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.memory.write(
            self.table_at() + u64::from(index) * 16,
            &descriptor(address, len, flags, next),
        );
    }

    /// Room for `len` bytes of buffers.
    pub fn allocate(&mut self, len: u32) -> u64 {
        let at = self.next_buffer;
        self.next_buffer += u64::from(len);
        assert!(
            self.next_buffer <= BUFFERS + u64::from(self.index + 1) * BUFFER_SPAN,
            "the queue's part of the memory is used up"
        );
        at
    }

    /// Lays out a chain of buffers of these lengths; answers its first descriptor.
    pub fn lay(&mut self, lens: &[u32], flags: u16) -> u16 {
        let head = self.next_descriptor;
        self.next_descriptor += lens.len() as u16;
        assert!(self.next_descriptor <= SIZE, "descriptors are used up");
        let places: Places = lens.iter().map(|len| (self.allocate(*len), *len)).collect();
        for (i, (at, len)) in places.iter().enumerate() {
            let index = head + i as u16;
            let more = if i + 1 < places.len() { NEXT } else { 0 };
            self.descriptor(index, *at, *len, flags | more, index + 1);
        }
        self.chains.insert(head, places);
        head
    }

    /// The same by an indirect table, written by the driver behind the buffers.
    pub fn lay_indirect(&mut self, lens: &[u32], flags: u16) -> u16 {
        let head = self.next_descriptor;
        self.next_descriptor += 1;
        let places: Places = lens.iter().map(|len| (self.allocate(*len), *len)).collect();
        let table_len = 16 * lens.len() as u32;
        let table = self.allocate(table_len + 16).next_multiple_of(16);
        for (i, (at, len)) in places.iter().enumerate() {
            let more = if i + 1 < places.len() { NEXT } else { 0 };
            let bytes = descriptor(*at, *len, flags | more, i as u16 + 1);
            self.memory.write(table + 16 * i as u64, &bytes);
        }
        self.descriptor(head, table, table_len, INDIRECT, 0);
        self.chains.insert(head, places);
        head
    }

    /// Writes `bytes` over the buffers of a chain, one after the other.
    pub fn fill(&self, head: u16, mut bytes: &[u8]) {
        for (at, len) in &self.chains[&head] {
            let (now, later) = bytes.split_at(bytes.len().min(*len as usize));
            self.memory.write(*at, now);
            bytes = later;
        }
    }

    /// Puts a head into the available ring; the device does not see it yet.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail_at() + 4 + u64::from(self.avail % SIZE) * 2;
        self.memory.write(slot, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
    }

    /// Shows what was offered, and kicks.
    pub fn publish(&self) {
        self.set_available(self.avail);
    }

    /// Sets the available index as it is, right or wrong, and kicks.
    pub fn set_available(&self, index: u16) {
        self.memory.write(self.avail_at() + 2, &index.to_le_bytes());
        self.kick.signal();
    }

    /// The next used element, if there is one: head and bytes written.
    pub fn try_used(&mut self) -> Option<(u16, u32)> {
        if self.memory.read_u16(self.used_at() + 2) == self.used {
            return None;
        }
        let at = self.used_at() + 4 + u64::from(self.used % SIZE) * 8;
        self.used = self.used.wrapping_add(1);
        let mut bytes = [0; 8];
        self.memory.file.read_exact_at(&mut bytes, at).unwrap();
        let word = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().unwrap());
        Some((word(0) as u16, word(4)))
    }

    /// Waits until everything offered came back; false when it does not within `patience`.
    pub fn drained(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.used != self.avail {
            if self.try_used().is_none() {
                if Instant::now() > deadline {
                    return false;
                }
                std::thread::yield_now();
            }
        }
        true
    }
}

pub fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

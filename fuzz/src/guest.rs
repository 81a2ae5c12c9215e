//! A guest's memory for the fuzz targets of rings: two regions that touch each other, backed by one memory file that is written and
//! read with plain file I/O, so that no reference into it ever exists. Knows nothing of queues but where they lie.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sumeru_virtio::{GuestMemory, GuestSlice, RegionSpec};

/// Where the guest sees its memory.
pub(crate) const BASE: u64 = 0x10_0000;
/// Where the front end sees it.
pub(crate) const USER: u64 = 0x7000_0000_0000;
/// Bytes of memory.
pub(crate) const SIZE: usize = 0xa000;
/// Where the second region begins: buffers may lie across.
const SEAM: u64 = 0x9000;
/// Largest queue laid out here.
pub(crate) const MAX_QUEUE: u16 = 64;
/// Bytes that one queue takes: table, available ring, used ring.
pub(crate) const QUEUE_SPAN: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;

/// Memory of a guest, with a copy of what the driver wrote.
pub(crate) struct Guest {
    file: File,
    pub(crate) memory: Arc<GuestMemory>,
    shadow: Vec<u8>,
}

/// Where one queue lies.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    at: u64,
    size: u16,
}

impl Guest {
    /// Memory of zeroes.
    ///
    /// # Panics
    /// When the system gives no memory: nothing can be fuzzed then.
    pub(crate) fn new() -> Self {
        let mapped = || -> Result<Self, Box<dyn std::error::Error>> {
            let fd = memfd_create("guest", MemfdFlags::CLOEXEC)?;
            ftruncate(&fd, SIZE as u64)?;
            let region = |offset, size| -> std::io::Result<(RegionSpec, OwnedFd)> {
                let spec = RegionSpec {
                    guest_address: BASE + offset,
                    size,
                    user_address: USER + offset,
                    mmap_offset: offset,
                };
                Ok((spec, fd.try_clone()?))
            };
            let regions = vec![region(0, SEAM)?, region(SEAM, SIZE as u64 - SEAM)?];
            let memory = GuestMemory::map(regions)?;
            Ok(Self {
                file: fd.into(),
                memory,
                shadow: vec![0; SIZE],
            })
        };
        match mapped() {
            Ok(guest) => guest,
            Err(error) => panic!("no guest memory: {error}"),
        }
    }

    /// All zero again.
    pub(crate) fn clear(&mut self) {
        self.shadow.fill(0);
        assert!(self.file.write_all_at(&self.shadow, 0).is_ok());
    }

    /// Writes as the driver, as much as lies inside.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = (at as usize).min(SIZE);
        let len = bytes.len().min(SIZE - at);
        self.shadow[at..at + len].copy_from_slice(&bytes[..len]);
        assert!(self.file.write_all_at(&bytes[..len], at as u64).is_ok());
    }

    pub(crate) fn read_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        assert!(self.file.read_exact_at(&mut bytes, at).is_ok());
        u16::from_le_bytes(bytes)
    }

    /// Whether a segment lies in one of the regions.
    pub(crate) fn holds(&self, slice: &GuestSlice) -> bool {
        let inside = |from: u64, to: u64| {
            let first = self.memory.translate(BASE + from, 1);
            let start = first.map_or(0, |first| first.as_ptr() as usize);
            let at = slice.as_ptr() as usize;
            at >= start && at + slice.len() as usize <= start + (to - from) as usize
        };
        inside(0, SEAM) || inside(SEAM, SIZE as u64)
    }

    /// Fails if anything but the given ranges has changed since the driver wrote it.
    pub(crate) fn check_untouched(&self, but: &[std::ops::Range<u64>]) {
        let mut now = vec![0; SIZE];
        assert!(self.file.read_exact_at(&mut now, 0).is_ok());
        let mut kept = 0;
        for range in but {
            let (start, end) = (range.start as usize, range.end as usize);
            assert_eq!(now[kept..start], self.shadow[kept..start]);
            kept = end;
        }
        assert_eq!(now[kept..], self.shadow[kept..], "bytes nobody may write");
    }
}

impl Place {
    /// The queue number `number` of `size` descriptors, a power of two up to [`MAX_QUEUE`].
    pub(crate) fn new(number: u64, size: u16) -> Self {
        let at = number * QUEUE_SPAN;
        Self { at, size }
    }

    /// Descriptor table, available ring, used ring: user addresses.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [0, AVAIL, USED].map(|offset| USER + self.at + offset)
    }

    /// What the device may write: the used ring, in offsets.
    pub(crate) fn used(&self) -> std::ops::Range<u64> {
        let start = self.at + USED;
        start..start + 6 + u64::from(self.size) * 8
    }

    /// Where descriptor `index` of the table lies.
    pub(crate) fn descriptor(&self, index: u16) -> u64 {
        self.at + u64::from(index) * 16
    }

    /// Where entry `index` of the available ring lies.
    pub(crate) fn available(&self, index: u16) -> u64 {
        self.at + AVAIL + 4 + u64::from(index & (self.size - 1)) * 2
    }

    /// Where the available index lies.
    pub(crate) fn available_index(&self) -> u64 {
        self.at + AVAIL + 2
    }

    /// Where the used index lies.
    pub(crate) fn used_index(&self) -> u64 {
        self.at + USED + 2
    }
}

/// A descriptor's bytes (Virtio 1.2, 2.7.5).
pub(crate) fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

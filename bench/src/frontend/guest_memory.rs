//! Memory that the device maps: memfd regions at guest-physical addresses, as SET_MEM_TABLE announces them.
//!
//! The only module of the front end with `unsafe`: mapping, and volatile or atomic access to bytes that another process
//! changes at any time. It never makes a Rust reference into the shared bytes.
#![allow(unsafe_code)]

use super::FrontendError;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// What backs a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Ordinary pages.
    Pages,
    /// 2 MiB pages; needs free ones in `/proc/sys/vm/nr_hugepages`, sizes are multiples of 2 MiB.
    HugePages,
}

struct Mapping {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain shared memory; every access goes through atomics or raw copies, so moving it or
// sharing it between threads adds nothing that the other process could not do already.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `ptr` and `len` are exactly what mmap returned; every Window holds an Arc of this, so none is left.
        if let Err(error) = unsafe { munmap(self.ptr.cast(), self.len) } {
            eprintln!("munmap of guest memory: {error}");
        }
    }
}

/// One region of a memory table.
pub struct Region {
    /// Guest-physical address of its first byte.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    mapping: Arc<Mapping>,
    fd: OwnedFd,
    allocated: u64,
}

impl Region {
    /// Address of the first byte in this process: the "userspace address" of vhost-user.
    pub fn userspace_addr(&self) -> u64 {
        self.mapping.ptr as u64
    }

    /// The memfd behind it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A guest's memory.
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Makes and maps one memfd per `(guest-physical address, bytes)`; pages are touched at once.
    ///
    /// # Errors
    /// [`FrontendError::Io`] if the system has no room (for huge pages: none free).
    pub fn new(ranges: &[(u64, u64)], backing: Backing) -> Result<Self, FrontendError> {
        let flags = match backing {
            Backing::Pages => MemfdFlags::CLOEXEC,
            Backing::HugePages => MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB,
        };
        let mut regions = Vec::with_capacity(ranges.len());
        for &(gpa, size) in ranges {
            let fd = memfd_create("guest-memory", flags)
                .map_err(|e| FrontendError::io("memfd_create", e))?;
            ftruncate(&fd, size)
                .map_err(|e| FrontendError::io(format!("resize memfd to {size}"), e))?;
            let len = usize::try_from(size).map_err(|_| FrontendError::Range { gpa, len: size })?;
            // SAFETY: a fresh shared mapping at an address of the kernel's choosing overlaps nothing of ours.
            let ptr = unsafe {
                mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::POPULATE,
                    &fd,
                    0,
                )
            }
            .map_err(|e| {
                FrontendError::io(format!("map {size} bytes of guest memory ({backing:?})"), e)
            })?;
            regions.push(Region {
                gpa,
                size,
                mapping: Arc::new(Mapping {
                    ptr: ptr.cast(),
                    len,
                }),
                fd,
                allocated: 0,
            });
        }
        Ok(Self { regions })
    }

    /// The regions, in the order of the memory table.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Takes `len` bytes at a multiple of `align` (a power of two) from the region with most room; never given back.
    ///
    /// # Errors
    /// [`FrontendError::MemoryFull`].
    pub fn alloc(&mut self, len: u64, align: u64) -> Result<u64, FrontendError> {
        let mut left = 0;
        for region in &mut self.regions {
            let start = (region.gpa + region.allocated).next_multiple_of(align) - region.gpa;
            left = left.max(region.size.saturating_sub(start));
            if start + len <= region.size {
                region.allocated = start + len;
                return Ok(region.gpa + start);
            }
        }
        Err(FrontendError::MemoryFull { wanted: len, left })
    }

    /// Access to `len` bytes at `gpa`, which must lie in one region.
    ///
    /// # Errors
    /// [`FrontendError::Range`].
    pub fn window(&self, gpa: u64, len: u64) -> Result<Window, FrontendError> {
        let (region, offset) = self.locate(gpa, len)?;
        // SAFETY: `locate` has checked that offset + len is inside of the mapping.
        let ptr = unsafe { region.mapping.ptr.add(offset as usize) };
        Ok(Window {
            ptr,
            len: len as usize,
            _mapping: Arc::clone(&region.mapping),
        })
    }

    /// The vhost-user "userspace address" of `len` bytes at `gpa`.
    ///
    /// # Errors
    /// [`FrontendError::Range`].
    pub fn userspace_addr(&self, gpa: u64, len: u64) -> Result<u64, FrontendError> {
        let (region, offset) = self.locate(gpa, len)?;
        Ok(region.userspace_addr() + offset)
    }

    fn locate(&self, gpa: u64, len: u64) -> Result<(&Region, u64), FrontendError> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset = gpa.checked_sub(region.gpa)?;
                (offset.checked_add(len)? <= region.size).then_some((region, offset))
            })
            .ok_or(FrontendError::Range { gpa, len })
    }
}

/// A range of guest memory. Offsets are bytes from its start.
///
/// # Panics
/// Every access panics if it leaves the range or (16, 32 and 64 bit ones) is not naturally aligned, like indexing a slice.
pub struct Window {
    ptr: *mut u8,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: see Mapping: all access is atomic or a raw copy of bytes that are shared with another process anyway.
unsafe impl Send for Window {}

macro_rules! scalar {
    ($load:ident, $store:ident, $atomic:ty, $int:ty) => {
        /// Reads one value with the given ordering.
        #[inline]
        pub fn $load(&self, offset: usize, order: Ordering) -> $int {
            let ptr = self
                .at(offset, size_of::<$int>(), align_of::<$int>())
                .cast::<$int>();
            // SAFETY: `at` has checked range and alignment; the mapping lives as long as self.
            unsafe { <$atomic>::from_ptr(ptr) }.load(order)
        }

        /// Writes one value with the given ordering.
        #[inline]
        pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
            let ptr = self
                .at(offset, size_of::<$int>(), align_of::<$int>())
                .cast::<$int>();
            // SAFETY: `at` has checked range and alignment; the mapping lives as long as self.
            unsafe { <$atomic>::from_ptr(ptr) }.store(value, order);
        }
    };
}

impl Window {
    scalar!(load_u8, store_u8, AtomicU8, u8);
    scalar!(load_u16, store_u16, AtomicU16, u16);
    scalar!(load_u32, store_u32, AtomicU32, u32);
    scalar!(load_u64, store_u64, AtomicU64, u64);

    /// Bytes in the range.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks for the cache line at `offset`, to be read and written.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        let ptr = self.at(offset, 1, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = ptr;
    }

    /// Copies `bytes` in at `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let ptr = self.at(offset, bytes.len(), 1);
        // SAFETY: `at` has checked the range, and `bytes` is ours, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len()) };
    }

    /// Copies out from `offset` into `bytes`.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let ptr = self.at(offset, bytes.len(), 1);
        // SAFETY: `at` has checked the range, and `bytes` is ours, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(ptr, bytes.as_mut_ptr(), bytes.len()) };
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "guest window of {} bytes: access to {offset}+{len}",
            self.len
        );
        // SAFETY: offset is inside of the window, which is inside of the mapping.
        let ptr = unsafe { self.ptr.add(offset) };
        assert!(
            (ptr as usize) & (align - 1) == 0,
            "guest window: unaligned access at {offset}"
        );
        ptr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_separate_and_bounded() {
        let mut memory =
            GuestMemory::new(&[(0, 0x10000), (0x1_0000_0000, 0x20000)], Backing::Pages).unwrap();
        let low = memory.alloc(0x9000, 4096).unwrap();
        let high = memory.alloc(0x9000, 4096).unwrap();
        assert_eq!((low, high), (0, 0x1_0000_0000));
        let window = memory.window(high + 0x10, 0x10).unwrap();
        window.store_u32(4, 0xdead_beef, Ordering::Relaxed);
        let mut bytes = [0; 4];
        memory.window(high, 0x100).unwrap().read(0x14, &mut bytes);
        assert_eq!(u32::from_le_bytes(bytes), 0xdead_beef);
        assert!(matches!(
            memory.window(0xffff, 2),
            Err(FrontendError::Range { .. })
        ));
        assert!(matches!(
            memory.window(u64::MAX, 2),
            Err(FrontendError::Range { .. })
        ));
        assert!(matches!(
            memory.alloc(0x20001, 1),
            Err(FrontendError::MemoryFull { .. })
        ));
    }

    #[test]
    #[should_panic(expected = "access to 15+2")]
    fn window_does_not_leave_its_range() {
        let memory = GuestMemory::new(&[(0, 4096)], Backing::Pages).unwrap();
        memory
            .window(0, 16)
            .unwrap()
            .load_u16(15, Ordering::Relaxed);
    }
}

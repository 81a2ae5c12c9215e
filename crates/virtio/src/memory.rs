//! Guest memory: the regions that a front end shares, mapped here, and addresses translated into them.
//!
//! Source: vhost-user protocol, "Memory region description" and "Multiple memory region description".
//!
//! Only files that live in memory are accepted (memfd, tmpfs, hugetlbfs), and only if they are as large as announced. A front end
//! that truncates its file afterwards raises SIGBUS in whoever touches the hole: the handler here puts zero pages in place of
//! the whole region and marks the memory lost, so that the device stops and nobody else notices.
//!
//! Never hands out a Rust reference into guest memory; see [`GuestSlice`] for the only ways to touch it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::slice::GuestSlice;

/// One region as a front end announces it. Addresses and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Where the guest sees the region ("guest physical address").
    pub guest_address: u64,
    /// Its length.
    pub size: u64,
    /// Where the front end's own process sees it; vring addresses are given in this space.
    pub user_address: u64,
    /// Where the region begins in its file.
    pub mmap_offset: u64,
}

/// Why a set of regions is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A region without bytes.
    #[error("memory region at guest address {0:#x} has no bytes")]
    Empty(u64),
    /// Addresses or offsets pass 2^64.
    #[error("memory region at guest address {guest_address:#x}, size {size:#x}, offset {mmap_offset:#x} passes the end of the address space", guest_address = .0.guest_address, size = .0.size, mmap_offset = .0.mmap_offset)]
    Overflow(RegionSpec),
    /// Two regions share guest or user addresses.
    #[error("memory regions at guest addresses {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The file is not memory.
    #[error(
        "memory region at guest address {guest_address:#x}: its file is on a file system of type {magic:#x}; expected memfd, tmpfs or hugetlbfs"
    )]
    NotMemory {
        /// Guest address of the region.
        guest_address: u64,
        /// `f_type` of its file system.
        magic: u64,
    },
    /// The file is shorter than announced.
    #[error(
        "memory region at guest address {guest_address:#x} needs {needed:#x} bytes of its file, which has {actual:#x}"
    )]
    TooShort {
        /// Guest address of the region.
        guest_address: u64,
        /// Offset plus size.
        needed: u64,
        /// The file's length.
        actual: u64,
    },
    /// No such region to remove.
    #[error("no memory region at guest address {0:#x} with that size and user address")]
    Unknown(u64),
    /// More regions in the process than the fault table holds.
    #[error("more than {LIMIT} memory regions are mapped", LIMIT = FAULT_SLOTS)]
    TooMany,
    /// The kernel refused.
    #[error("cannot map memory region at guest address {guest_address:#x}: {source}")]
    Map {
        /// Guest address of the region.
        guest_address: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A mapping of (part of) one file. Unmapped when the last user drops it.
#[derive(Debug)]
struct Mapping {
    start: *mut u8,
    len: usize,
    fault_slot: &'static FaultSlot,
    /// Keeps the flag that the fault slot points to.
    _lost: Arc<AtomicBool>,
}

// SAFETY: a mapping is a range of addresses; all access goes through raw pointers that are valid on every thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; the struct itself is never written after it is made.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.fault_slot.release();
        // SAFETY: the range is exactly what mmap returned, and no pointer into it outlives the `GuestMemory` that holds us.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

/// A region with its place in this process.
#[derive(Clone, Debug)]
struct Region {
    spec: RegionSpec,
    /// Where `guest_address` is mapped.
    host: *mut u8,
    /// Keeps `host` mapped.
    _mapping: Arc<Mapping>,
}

/// What the hot path needs of a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) host: *mut u8,
}

impl Window {
    /// The empty window: translates nothing.
    pub(crate) const NONE: Self = Self {
        start: 0,
        size: 0,
        host: std::ptr::null_mut(),
    };

    /// `len` bytes at `address`, when they lie in this window whole.
    #[inline(always)]
    pub(crate) fn get(&self, address: u64, len: u32) -> Option<GuestSlice> {
        let offset = address.wrapping_sub(self.start);
        // Both terms are checked, so that `offset + len` cannot wrap.
        if offset < self.size && u64::from(len) <= self.size - offset {
            // The offset is inside one mapping of this process, hence fits usize.
            return Some(GuestSlice::new(
                self.host.wrapping_add(offset as usize),
                len,
            ));
        }
        None
    }
}

/// A guest's memory at one moment: immutable, shared by `Arc`, unmapped when the last holder drops it.
///
/// Every slice translated from it is valid for as long as it lives, and no longer.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Box<[Region]>,
    lost: Arc<AtomicBool>,
}

// SAFETY: `Region` holds a raw pointer into a mapping that it keeps alive; nothing here is written after construction.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps all `regions`.
    ///
    /// # Errors
    /// See [`MemoryError`]; on error nothing stays mapped.
    pub fn map(regions: Vec<(RegionSpec, OwnedFd)>) -> Result<Arc<Self>, MemoryError> {
        let lost = Arc::new(AtomicBool::new(false));
        let mapped: Result<Vec<_>, _> = regions
            .into_iter()
            .map(|(spec, fd)| Region::map(spec, &fd, &lost))
            .collect();
        Self::assemble(mapped?, lost)
    }

    /// This memory with one more region (ADD_MEM_REG); the mappings are shared.
    ///
    /// # Errors
    /// As [`GuestMemory::map`].
    pub fn with_region(&self, spec: RegionSpec, fd: OwnedFd) -> Result<Arc<Self>, MemoryError> {
        let mut regions = self.regions.to_vec();
        regions.push(Region::map(spec, &fd, &self.lost)?);
        Self::assemble(regions, self.lost.clone())
    }

    /// This memory without one region (REM_MEM_REG), named by guest address, user address and size.
    ///
    /// # Errors
    /// [`MemoryError::Unknown`] when there is no such region.
    pub fn without_region(&self, spec: &RegionSpec) -> Result<Arc<Self>, MemoryError> {
        let same = |region: &&Region| {
            let have = &region.spec;
            (have.guest_address, have.user_address, have.size)
                == (spec.guest_address, spec.user_address, spec.size)
        };
        let regions: Vec<_> = self
            .regions
            .iter()
            .filter(|region| !same(region))
            .cloned()
            .collect();
        if regions.len() == self.regions.len() {
            return Err(MemoryError::Unknown(spec.guest_address));
        }
        Self::assemble(regions, self.lost.clone())
    }

    fn assemble(mut regions: Vec<Region>, lost: Arc<AtomicBool>) -> Result<Arc<Self>, MemoryError> {
        let mut by_user: Vec<_> = regions
            .iter()
            .map(|r| (r.spec.user_address, r.spec.size, r.spec.guest_address))
            .collect();
        by_user.sort_unstable();
        regions.sort_unstable_by_key(|region| region.spec.guest_address);
        let by_guest = regions
            .iter()
            .map(|r| (r.spec.guest_address, r.spec.size, r.spec.guest_address));
        for mut list in [by_guest.collect::<Vec<_>>(), by_user].map(Vec::into_iter) {
            let mut previous: Option<(u64, u64, u64)> = list.next();
            for next in list {
                if let Some((start, size, name)) = previous
                    && next.0 - start < size
                {
                    return Err(MemoryError::Overlap(name, next.2));
                }
                previous = Some(next);
            }
        }
        Ok(Arc::new(Self {
            regions: regions.into(),
            lost,
        }))
    }

    /// The regions, by guest address.
    pub fn regions(&self) -> impl Iterator<Item = &RegionSpec> {
        self.regions.iter().map(|region| &region.spec)
    }

    /// Whether the front end took memory away under us (truncated its file). What was read since may be zeroes: stop the device.
    #[inline]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// `len` bytes at a guest address, when one region holds them all.
    #[inline]
    pub fn translate(&self, guest_address: u64, len: u32) -> Option<GuestSlice> {
        self.window(guest_address).get(guest_address, len)
    }

    /// `len` bytes at an address of the front end's process (vring addresses).
    pub fn translate_user(&self, user_address: u64, len: u32) -> Option<GuestSlice> {
        let window = |region: &Region| Window {
            start: region.spec.user_address,
            size: region.spec.size,
            host: region.host,
        };
        self.regions
            .iter()
            .find_map(|region| window(region).get(user_address, len))
    }

    /// The region that holds `guest_address`, or the empty window.
    pub(crate) fn window(&self, guest_address: u64) -> Window {
        let holds = |region: &&Region| {
            guest_address.wrapping_sub(region.spec.guest_address) < region.spec.size
        };
        self.regions
            .iter()
            .find(holds)
            .map_or(Window::NONE, |region| Window {
                start: region.spec.guest_address,
                size: region.spec.size,
                host: region.host,
            })
    }
}

const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

impl Region {
    fn map(spec: RegionSpec, fd: &OwnedFd, lost: &Arc<AtomicBool>) -> Result<Self, MemoryError> {
        let RegionSpec {
            guest_address,
            size,
            user_address,
            mmap_offset,
        } = spec;
        if size == 0 {
            return Err(MemoryError::Empty(guest_address));
        }
        let overflow = || MemoryError::Overflow(spec);
        guest_address
            .checked_add(size)
            .and(user_address.checked_add(size))
            .ok_or_else(overflow)?;
        let end = mmap_offset.checked_add(size).ok_or_else(overflow)?;
        let refused = |source: io::Error| MemoryError::Map {
            guest_address,
            source,
        };
        let kind = rustix::fs::fstatfs(fd).map_err(|e| refused(e.into()))?;
        #[allow(
            clippy::unnecessary_cast,
            reason = "f_type differs in width and sign between architectures"
        )]
        let magic = kind.f_type as u64 & 0xffff_ffff;
        if magic != TMPFS_MAGIC && magic != HUGETLBFS_MAGIC {
            return Err(MemoryError::NotMemory {
                guest_address,
                magic,
            });
        }
        let stat = rustix::fs::fstat(fd).map_err(|e| refused(e.into()))?;
        let actual = u64::try_from(stat.st_size).unwrap_or(0);
        if actual < end {
            return Err(MemoryError::TooShort {
                guest_address,
                needed: end,
                actual,
            });
        }
        // On hugetlbfs st_blksize is the huge page's size, to which offset and length must be aligned.
        let page = u64::try_from(stat.st_blksize)
            .unwrap_or(4096)
            .max(4096)
            .next_power_of_two();
        let offset = mmap_offset & !(page - 1);
        let lead = mmap_offset - offset;
        let len = (lead + size)
            .checked_next_multiple_of(page)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(overflow)?;
        let lead = usize::try_from(lead).map_err(|_| overflow())?;
        let slot = FaultSlot::claim().ok_or(MemoryError::TooMany)?;
        let prot = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        let flags = rustix::mm::MapFlags::SHARED | rustix::mm::MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        let start: *mut u8 = match start {
            Ok(start) => start.cast(),
            Err(error) => {
                slot.release();
                return Err(refused(error.into()));
            }
        };
        slot.watch(start as usize, len, lost);
        let mapping = Arc::new(Mapping {
            start,
            len,
            fault_slot: slot,
            _lost: lost.clone(),
        });
        tracing::debug!(
            guest_address,
            size,
            fd = fd.as_raw_fd(),
            "mapped a memory region"
        );
        Ok(Self {
            spec,
            host: start.wrapping_add(lead),
            _mapping: keep(mapping),
        })
    }
}

/// Guest memory has no place in a core dump of ours.
fn keep(mapping: Arc<Mapping>) -> Arc<Mapping> {
    // SAFETY: the range is our own mapping; the advice changes nothing but core dumps. A refusal is harmless.
    let _ = unsafe {
        rustix::mm::madvise(
            mapping.start.cast(),
            mapping.len,
            rustix::mm::Advice::LinuxDontDump,
        )
    };
    mapping
}

/// How many regions the whole process can have mapped.
const FAULT_SLOTS: usize = 4096;

/// One watched range. `start == 0`: free; `start == 1`: claimed, not yet watched.
#[derive(Debug)]
struct FaultSlot {
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicPtr<AtomicBool>,
}

static FAULTS: [FaultSlot; FAULT_SLOTS] = [const {
    FaultSlot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicPtr::new(std::ptr::null_mut()),
    }
}; FAULT_SLOTS];

impl FaultSlot {
    fn claim() -> Option<&'static Self> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install_handler);
        let free = |slot: &&Self| {
            slot.start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        FAULTS.iter().find(free)
    }

    fn watch(&self, start: usize, len: usize, lost: &Arc<AtomicBool>) {
        self.lost
            .store(Arc::as_ptr(lost).cast_mut(), Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.start.store(start, Ordering::Release);
    }

    fn release(&self) {
        self.start.store(0, Ordering::Release);
    }
}

fn install_handler() {
    // SAFETY: an all-zero sigaction is a valid value; the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Puts zero pages under a lost region. Async-signal-safe: atomics and mmap only.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &FAULTS {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if start > 1 && address.wrapping_sub(start) < len {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags =
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            // SAFETY: replaces a mapping that is ours (the slot is watched until just before munmap) by zero pages of
            // the same length; raw pointers into it stay valid.
            let mapped = unsafe { libc::mmap(start as *mut libc::c_void, len, prot, flags, -1, 0) };
            if mapped != libc::MAP_FAILED {
                // SAFETY: the flag lives as long as the mapping that the slot watches.
                unsafe { (*slot.lost.load(Ordering::Relaxed)).store(true, Ordering::Relaxed) };
                return;
            }
        }
    }
    // Not guest memory: the default action, when the instruction faults again.
    // SAFETY: restoring the default disposition of the signal being handled.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memfd(size: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn spec(guest_address: u64, size: u64) -> RegionSpec {
        RegionSpec {
            guest_address,
            size,
            user_address: guest_address.wrapping_add(0x7000_0000_0000),
            mmap_offset: 0,
        }
    }

    #[test]
    fn translation_stays_inside_regions() {
        let memory = GuestMemory::map(vec![
            (spec(0x1000, 0x3000), memfd(0x3000)),
            (spec(0x10_0000, 0x1000), memfd(0x1000)),
        ])
        .unwrap();
        assert!(memory.translate(0x1000, 0x3000).is_some());
        assert!(memory.translate(0x1000, 0x3001).is_none());
        assert!(memory.translate(0xfff, 1).is_none());
        assert!(memory.translate(0x4000, 0).is_none());
        assert!(memory.translate(0x10_0fff, 1).is_some());
        assert!(memory.translate(u64::MAX, u32::MAX).is_none());
        assert!(memory.translate_user(0x7000_0000_1000, 16).is_some());
        assert!(memory.translate_user(0x1000, 16).is_none());
    }

    #[test]
    fn bad_regions_are_refused_and_leave_nothing_mapped() {
        let map = |regions| GuestMemory::map(regions).map(|_| ()).unwrap_err();
        assert!(matches!(
            map(vec![(spec(0, 0), memfd(0))]),
            MemoryError::Empty(0)
        ));
        assert!(matches!(
            map(vec![(spec(0, 0x2000), memfd(0x1000))]),
            MemoryError::TooShort {
                needed: 0x2000,
                actual: 0x1000,
                ..
            }
        ));
        assert!(matches!(
            map(vec![(spec(u64::MAX - 5, 0x1000), memfd(0x1000))]),
            MemoryError::Overflow(_)
        ));
        let mut huge = spec(0, 0x1000);
        huge.mmap_offset = u64::MAX - 0xfff;
        assert!(matches!(
            map(vec![(huge, memfd(0x1000))]),
            MemoryError::Overflow(_)
        ));
        let overlapping = vec![
            (spec(0x1000, 0x2000), memfd(0x2000)),
            (spec(0x2000, 0x2000), memfd(0x2000)),
        ];
        assert!(matches!(
            map(overlapping),
            MemoryError::Overlap(0x1000, 0x2000)
        ));
        let disk = rustix::fs::open(
            "/proc/self/exe",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        assert!(matches!(
            map(vec![(spec(0, 0x1000), disk)]),
            MemoryError::NotMemory { .. }
        ));
    }

    #[test]
    fn regions_come_and_go() {
        let memory = GuestMemory::map(vec![(spec(0, 0x1000), memfd(0x1000))]).unwrap();
        let more = memory
            .with_region(spec(0x1000, 0x1000), memfd(0x1000))
            .unwrap();
        assert!(more.translate(0x1800, 8).is_some() && memory.translate(0x1800, 8).is_none());
        let less = more.without_region(&spec(0, 0x1000)).unwrap();
        assert!(less.translate(0, 8).is_none() && less.translate(0x1000, 8).is_some());
        assert!(matches!(
            less.without_region(&spec(0, 0x1000)),
            Err(MemoryError::Unknown(0))
        ));
    }

    #[test]
    fn a_truncated_file_loses_that_memory_only() {
        let fd = memfd(0x2000);
        let memory = GuestMemory::map(vec![(spec(0, 0x2000), fd.try_clone().unwrap())]).unwrap();
        let other = GuestMemory::map(vec![(spec(0, 0x1000), memfd(0x1000))]).unwrap();
        let slice = memory.translate(0x1000, 8).unwrap();
        // SAFETY: `memory` is alive.
        unsafe { slice.write(&[7; 8]) };
        ftruncate(&fd, 0).unwrap();
        let mut back = [1; 8];
        // SAFETY: `memory` is alive; the touched page is gone, which is what this test is about.
        unsafe { slice.read(&mut back) };
        assert_eq!(back, [0; 8]);
        assert!(memory.is_lost() && !other.is_lost());
    }
}

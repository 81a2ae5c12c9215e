//! The memory of a memory disk: one anonymous mapping, reserved at its largest size, filled page by page when first written.
//!
//! Several lcores copy into and out of it at the same time. Two copies that meet mix their bytes, as two commands to the same
//! sectors of a real disk may; no Rust reference to the bytes is ever made, and nothing here decides by them.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::segments::Segments;

/// Huge page of x86-64 and of Arm with 4 KiB pages, in bytes: the alignment of the mapping.
const HUGE: usize = 2 << 20;
/// Address space set aside for growth, if the disk is smaller.
const RESERVE: usize = 1 << 40;
/// Page size below which giving memory back is not possible.
const PAGE: u64 = 4096;

/// Bytes fetched ahead: while one chunk is copied, the next comes from memory. The CPU's own prefetcher stops at each 4 KiB page.
const CHUNK: usize = 4096;
const LINE: usize = 64;

/// Asks for `len` bytes into the second-level cache, which can have more fetches under way than the first. Never faults.
#[inline(always)]
fn prefetch(at: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        let at = at.wrapping_add(line);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(at.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            core::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }
}

/// Copies with stores that go past the caches, where address and length allow that. [`stream_end`] orders them.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[inline(always)]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    if len >= 512 && len.is_multiple_of(LINE) && (to as usize).is_multiple_of(32) {
        use core::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_stream_si256};
        for at in (0..len).step_by(LINE) {
            let (from, to) = (
                from.wrapping_add(at).cast::<__m256i>(),
                to.wrapping_add(at).cast::<__m256i>(),
            );
            // SAFETY: `len` is a multiple of a line, so both halves are inside; `to` is 32-byte aligned as checked.
            unsafe {
                let (low, high) = (
                    _mm256_loadu_si256(from),
                    _mm256_loadu_si256(from.wrapping_add(1)),
                );
                _mm256_stream_si256(to, low);
                _mm256_stream_si256(to.wrapping_add(1), high);
            }
        }
        return;
    }
    // SAFETY: the caller's contract.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// Makes streamed stores visible before anything that follows: another lcore may read as soon as the write is completed.
#[inline(always)]
fn stream_end() {
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    // SAFETY: a fence; AVX2 implies SSE, which has it.
    unsafe {
        core::arch::x86_64::_mm_sfence();
    }
}

/// Memory of a size that can change while it is used.
#[derive(Debug)]
pub struct Ram {
    mapping: *mut u8,
    mapped: usize,
    base: *mut u8,
    limit: u64,
    size: AtomicU64,
    /// The largest size so far: bytes below it never fault.
    accessible: AtomicU64,
}

// SAFETY: the mapping is fixed for the value's life; all access is raw copies that any thread may do.
unsafe impl Send for Ram {}
// SAFETY: as above; the length is atomic and only says how much of the mapping is in use.
unsafe impl Sync for Ram {}

impl Ram {
    /// Memory of `len` bytes, all zero, none of it occupied yet.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let round = |n: usize| n.checked_next_multiple_of(HUGE);
        let wanted = round(len).ok_or(io::ErrorKind::OutOfMemory)?;
        // Growth is a luxury: where a terabyte of addresses is too much, the disk gets its own size.
        let (mapping, limit) = match Self::reserve(wanted.max(RESERVE)) {
            Ok(mapping) => (mapping, wanted.max(RESERVE)),
            Err(_) => (Self::reserve(wanted)?, wanted),
        };
        let base = mapping.wrapping_add(mapping.align_offset(HUGE));
        let ram = Self {
            mapping,
            mapped: limit + HUGE,
            base,
            limit: limit as u64,
            size: AtomicU64::new(0),
            accessible: AtomicU64::new(0),
        };
        ram.resize(len as u64)?;
        Ok(ram)
    }

    fn reserve(len: usize) -> io::Result<*mut u8> {
        let len = len.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags)?
        };
        Ok(mapping.cast())
    }

    /// Largest size in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Size in bytes.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Changes the size; new bytes are zero. Memory cut off stays readable for copies under way, as zeroes.
    ///
    /// # Errors
    /// When `len` is over the limit or the kernel has no memory for its tables.
    pub fn resize(&self, len: u64) -> io::Result<()> {
        if len > self.limit {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let old = self.size();
        if len < old {
            self.size.store(len, Ordering::Release);
            self.zero(len, old - len);
            return Ok(());
        }
        // What a write under way left beyond the end while the disk was smaller.
        self.zero(old, len.min(self.accessible.load(Ordering::Relaxed)) - old);
        let end = (len as usize).next_multiple_of(HUGE);
        // SAFETY: [base, base + limit) is our mapping; making more of it accessible and asking for huge pages changes no
        // content. A refused advice only costs speed.
        unsafe {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            rustix::mm::mprotect(self.base.cast(), end, flags)?;
            let _ = rustix::mm::madvise(self.base.cast(), end, Advice::LinuxHugepage);
            let _ = rustix::mm::madvise(self.base.cast(), end, Advice::LinuxDontDump);
        }
        self.accessible.fetch_max(len, Ordering::AcqRel);
        self.size.store(len, Ordering::Release);
        Ok(())
    }

    /// Occupies all memory now, so that no lcore has to stop for a page later. Takes as long as the system needs to clear it.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn populate(&self) -> io::Result<()> {
        /// At a time, so that others get at the address space in between.
        const STEP: u64 = 64 << 20;
        let end = self.accessible.load(Ordering::Relaxed);
        let mut at = 0;
        while at < end {
            let len = STEP.min(end - at);
            // SAFETY: inside the accessible part of our mapping; changes no content.
            let populated = unsafe {
                rustix::mm::madvise(self.at(at).cast(), len as usize, Advice::LinuxPopulateWrite)
            };
            match populated {
                Ok(()) => at += len,
                Err(rustix::io::Errno::INTR) => {}
                // Before Linux 5.14 there is no such advice, and pages come when they are first written.
                Err(rustix::io::Errno::INVAL) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Address of `offset`.
    #[inline(always)]
    fn at(&self, offset: u64) -> *mut u8 {
        self.base.wrapping_add(offset as usize)
    }

    /// Whether `len` bytes at `offset` are accessible: then a copy cannot fault.
    #[inline(always)]
    fn contains(&self, offset: u64, len: u64) -> bool {
        let size = self.accessible.load(Ordering::Relaxed);
        offset <= size && len <= size - offset
    }

    /// Copies from `offset` into `to`; false when that was never inside the disk.
    #[inline]
    pub fn read(&self, offset: u64, to: &Segments<'_>) -> bool {
        let mut left = to.len();
        if !self.contains(offset, left) {
            return false;
        }
        let mut from = self.at(offset);
        to.each(|mut to, mut len| {
            while len > 0 {
                let step = len.min(CHUNK);
                left -= step as u64;
                if left > 0 {
                    prefetch(from.wrapping_add(step), left.min(CHUNK as u64) as usize);
                }
                // SAFETY: `from` has `step` accessible bytes by the check above (which holds for good); `to` is valid by the
                // contract of `Segments`. Guest memory and this mapping are distinct.
                unsafe { std::ptr::copy_nonoverlapping(from, to, step) };
                from = from.wrapping_add(step);
                to = to.wrapping_add(step);
                len -= step;
            }
        });
        true
    }

    /// Copies `from` to `offset`; false when that was never inside the disk.
    ///
    /// Past the caches: what a guest writes it keeps in its own page cache, and the disk is larger than ours.
    #[inline]
    pub fn write(&self, offset: u64, from: &Segments<'_>) -> bool {
        if !self.contains(offset, from.len()) {
            return false;
        }
        let mut to = self.at(offset);
        from.each(|from, len| {
            // SAFETY: as in `read`, the other way round.
            unsafe { stream(from, to, len) };
            to = to.wrapping_add(len);
        });
        stream_end();
        true
    }

    /// Asks the CPU to fetch what a read at `offset` begins with.
    #[inline(always)]
    pub fn prefetch(&self, offset: u64) {
        prefetch(self.base.wrapping_add(offset as usize), CHUNK);
    }

    /// Asks the CPU to fetch what a write begins with.
    #[inline(always)]
    pub fn prefetch_source(from: &Segments<'_>) {
        let mut left = CHUNK;
        from.each(|from, len| {
            let step = len.min(left);
            prefetch(from, step);
            left -= step;
        });
    }

    /// Makes `len` bytes at `offset` read as zeroes, giving whole pages back to the system; false when that is out of range.
    pub fn zero(&self, offset: u64, len: u64) -> bool {
        if !self.contains(offset, len) {
            return false;
        }
        let end = offset + len;
        let first = offset.next_multiple_of(PAGE).min(end);
        let last = (end & !(PAGE - 1)).max(first);
        let mut edges = [(offset, first - offset), (last, end - last)];
        if last > first {
            // SAFETY: whole pages of our own private anonymous mapping; reads afterwards give zeroes.
            let advised = unsafe {
                let pages = (last - first) as usize;
                rustix::mm::madvise(self.at(first).cast(), pages, Advice::LinuxDontNeed)
            };
            if advised.is_err() {
                edges = [(offset, end - offset), (end, 0)];
            }
        }
        for (start, len) in edges {
            // SAFETY: inside the accessible part of the mapping by the check above.
            unsafe { std::ptr::write_bytes(self.at(start), 0, len as usize) };
        }
        true
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: exactly the range that mmap returned; channels share us by Arc, so nobody copies any more.
        let _ = unsafe { rustix::mm::munmap(self.mapping.cast(), self.mapped) };
    }
}

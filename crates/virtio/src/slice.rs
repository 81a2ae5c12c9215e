//! The only ways to touch guest memory: raw copies through [`GuestSlice`].
//!
//! The other side may change any byte at any time. So nothing here makes a reference, every value that steers a decision is
//! read once with [`GuestSlice::load`] (volatile), and bulk data is moved with raw copies whose content nobody trusts.
#![allow(unsafe_code)]

use std::sync::atomic::{Ordering, compiler_fence};

/// A run of bytes in guest memory, mapped here, in bounds when it was made.
///
/// It holds nothing: whoever keeps it must keep the [`GuestMemory`](crate::memory::GuestMemory) that it came from. That is the
/// contract of every `unsafe` method below.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice {
    ptr: *mut u8,
    len: u32,
}

// SAFETY: an address and a length; access is unsafe and has its own contract.
unsafe impl Send for GuestSlice {}

impl GuestSlice {
    /// No bytes.
    pub const EMPTY: Self = Self {
        ptr: std::ptr::null_mut(),
        len: 0,
    };

    #[inline(always)]
    pub(crate) fn new(ptr: *mut u8, len: u32) -> Self {
        Self { ptr, len }
    }

    /// A slice over memory of our own (a wire port's receive buffer), so that a frame's segments are of one type.
    ///
    /// The buffer must outlive the use of the slice, as for guest memory.
    #[inline]
    pub fn from_own(buffer: &mut [u8]) -> Self {
        Self {
            ptr: buffer.as_mut_ptr(),
            len: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        }
    }

    /// A slice over memory at `ptr`, mapped by the caller (a packet socket's umem, a memory disk).
    ///
    /// # Safety
    /// `len` bytes at `ptr` are readable and writable for as long as the slice is used.
    #[inline(always)]
    pub unsafe fn from_raw(ptr: *mut u8, len: u32) -> Self {
        Self { ptr, len }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no bytes.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its address in this process, for system calls and alignment checks.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// The part from `start` on; empty when `start` is past the end.
    #[inline(always)]
    #[must_use]
    pub fn skip(self, start: u32) -> Self {
        let start = start.min(self.len);
        Self {
            ptr: self.ptr.wrapping_add(start as usize),
            len: self.len - start,
        }
    }

    /// At most the first `len` bytes.
    #[inline(always)]
    #[must_use]
    pub fn take(self, len: u32) -> Self {
        Self {
            ptr: self.ptr,
            len: self.len.min(len),
        }
    }

    /// Asks the CPU to fetch the first line; harmless on any address.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch_read(self.ptr);
    }

    /// Copies the first bytes into `to`; returns how many (the shorter length).
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn read(&self, to: &mut [u8]) -> usize {
        let len = to.len().min(self.len as usize);
        // SAFETY: in bounds of both; `to` is ours alone and cannot overlap a mapping that nobody has a reference to.
        unsafe { copy(self.ptr, to.as_mut_ptr(), len) };
        // What is looked at from here on is the copy, which the compiler must not take for the original.
        compiler_fence(Ordering::AcqRel);
        len
    }

    /// Copies `from` to the start; returns how many bytes (the shorter length).
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn write(&self, from: &[u8]) -> usize {
        let len = from.len().min(self.len as usize);
        // SAFETY: as for `read`.
        unsafe { copy(from.as_ptr(), self.ptr, len) };
        len
    }

    /// Copies from another slice; returns how many bytes (the shorter length). A guest may have made the two overlap.
    ///
    /// # Safety
    /// The memory behind both slices is still mapped.
    #[inline(always)]
    pub unsafe fn write_slice(&self, from: &GuestSlice) -> usize {
        let len = from.len.min(self.len) as usize;
        // SAFETY: in bounds of both. Blocks are read whole before they are written, and `std::ptr::copy` allows overlap.
        unsafe {
            match len {
                8..=SHORT => copy(from.ptr, self.ptr, len),
                _ => std::ptr::copy(from.ptr, self.ptr, len),
            }
        }
        len
    }

    /// Reads `N` bytes at `offset`, once. `None` when there are not so many.
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn read_array<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset > self.len || ((self.len - offset) as usize) < N {
            return None;
        }
        let place = self.ptr.wrapping_add(offset as usize).cast::<[u8; N]>();
        // SAFETY: in bounds.
        Some(unsafe { place.read_unaligned() })
    }

    /// Writes bytes at `offset`. No effect when they do not fit.
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn write_array<const N: usize>(&self, offset: u32, bytes: &[u8; N]) {
        if offset <= self.len && (self.len - offset) as usize >= N {
            let place = self.ptr.wrapping_add(offset as usize).cast::<[u8; N]>();
            // SAFETY: in bounds.
            unsafe { place.write_unaligned(*bytes) }
        }
    }

    /// Stores one value at `offset` unless it is there already: a line that says so stays clean in the other side's cache. No effect when it does not fit.
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn update<T: Plain + PartialEq>(&self, offset: u32, value: T) {
        // SAFETY: the caller's word; `load` has checked the bounds.
        unsafe {
            if self.load::<T>(offset).is_some_and(|old| old != value) {
                self.ptr
                    .wrapping_add(offset as usize)
                    .cast::<T>()
                    .write_unaligned(value);
            }
        }
    }

    /// Reads one value at `offset`, once. `None` when it does not fit.
    ///
    /// # Safety
    /// The memory behind this slice is still mapped.
    #[inline(always)]
    pub unsafe fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let size = size_of::<T>() as u32;
        if offset > self.len || self.len - offset < size {
            return None;
        }
        // SAFETY: in bounds; an unaligned type is read bytewise by `read_unaligned` of a `Plain` value. Volatile would need
        // alignment, so aligned values (all ring fields) take the volatile way.
        unsafe {
            let ptr = self.ptr.wrapping_add(offset as usize).cast::<T>();
            Some(if ptr.is_aligned() {
                ptr.read_volatile()
            } else {
                ptr.read_unaligned()
            })
        }
    }
}

/// Longest copy made without a call: the headers of a frame.
const SHORT: usize = 128;

/// Copies between memory of the two sides; short runs in line, in blocks from both ends that may overlap in the middle.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`; unless they are 8 to [`SHORT`], the two do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    /// Copies `N` bytes at each of `places`.
    ///
    /// # Safety
    /// As `copy`, with every place at most `len - N`.
    #[inline(always)]
    unsafe fn blocks<const N: usize, const M: usize>(
        from: *const u8,
        to: *mut u8,
        places: [usize; M],
    ) {
        for at in places {
            // SAFETY: the caller's word.
            unsafe {
                to.add(at)
                    .cast::<[u8; N]>()
                    .write_unaligned(from.add(at).cast::<[u8; N]>().read_unaligned());
            }
        }
    }
    // SAFETY: the caller's word; in each branch the blocks lie inside the length.
    unsafe {
        match len {
            8..=16 => blocks::<8, 2>(from, to, [0, len - 8]),
            17..=32 => blocks::<16, 2>(from, to, [0, len - 16]),
            // No block over another: whoever reads one back at once need not wait for two stores.
            48 => {
                blocks::<32, 1>(from, to, [0]);
                blocks::<16, 1>(from, to, [32]);
            }
            33..=64 => blocks::<32, 2>(from, to, [0, len - 32]),
            65..=SHORT => blocks::<32, 4>(from, to, [0, 32, len - 64, len - 32]),
            _ => std::ptr::copy_nonoverlapping(from, to, len),
        }
    }
}

/// Integers: every bit pattern is a value.
pub trait Plain: Copy + private::Sealed {}
mod private {
    pub trait Sealed {}
}
macro_rules! plain { ($($t:ty),*) => { $(impl private::Sealed for $t {} impl Plain for $t {})* } }
plain!(u8, u16, u32, u64);

/// Prefetch of a line that is about to be written.
#[inline(always)]
pub fn prefetch_write(ptr: *const u8) {
    // Every x86-64 CPU executes PREFETCHW (the oldest do nothing at it). The intrinsic becomes a prefetch for reading unless the compiler may assume
    // PRFCHW, and leaves the wait for the other core's copy of the line to the store.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) ptr, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = ptr;
}

/// Prefetch for reading into all cache levels.
#[inline(always)]
pub fn prefetch_read(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) ptr, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = ptr;
}

//! Frame buffers of a socket port: a fixed number, each long enough for the largest segment the kernel hands out.
//!
//! In front of each frame is room for the header that the kernel reads or writes in one piece with it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use sumeru_virtio::GuestSlice;

use super::syscall::Mapping;

/// Bytes in front of a frame, a cache line: the virtio-net header, and a VLAN tag put back.
pub(super) const HEADROOM: usize = 64;

/// Longest frame in bytes: a segment of 64 KiB and its headers, tunnels included.
pub(super) const FRAME_MAX: usize = 65_536 + 256;

/// From buffer to buffer. An odd number of cache lines beyond whole pages, so that the headers of a burst fall into different cache sets.
const STRIDE: usize = HEADROOM + FRAME_MAX;
const _: () = assert!(STRIDE.is_multiple_of(64) && (STRIDE % 4096 / 64) % 2 == 1);

/// `count` buffers in one mapping; memory is taken page by page when first used.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Mapping,
    count: usize,
}

impl Buffers {
    /// Makes `count` buffers.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        Ok(Self {
            memory: Mapping::anonymous(count * STRIDE)?,
            count,
        })
    }

    /// `len` bytes of buffer `index` from `before` bytes in front of the frame's usual place on.
    /// Both are cut to what the buffer has; an index too large takes the last buffer.
    #[inline(always)]
    pub(super) fn slice(&self, index: usize, before: usize, len: usize) -> GuestSlice {
        let before = before.min(HEADROOM);
        let len = len.min(FRAME_MAX + before);
        let start = index.min(self.count - 1) * STRIDE + HEADROOM - before;
        // SAFETY: inside buffer `index`, by the lines above; the mapping lives as long as the port that lends the slice, which
        // is what `Wire` promises of it.
        unsafe { GuestSlice::from_raw(self.memory.at(start), len as u32) }
    }

    /// Copies `bytes` to the place `before` bytes in front of the frame.
    #[inline(always)]
    pub(super) fn write(&mut self, index: usize, before: usize, bytes: &[u8]) {
        // SAFETY: our own mapping.
        unsafe { self.slice(index, before, bytes.len()).write(bytes) };
    }

    /// Copies a slice to byte `at` of frame `index`, as far as it fits.
    #[inline]
    pub(super) fn write_slice(&mut self, index: usize, at: usize, from: &GuestSlice) {
        let place = self.slice(index, 0, FRAME_MAX).skip(at as u32);
        // SAFETY: our own mapping; the caller's slice is of memory that it has mapped.
        unsafe { place.write_slice(from) };
    }

    /// The `N` bytes at the place `before` bytes in front of the frame.
    #[inline(always)]
    pub(super) fn read<const N: usize>(&self, index: usize, before: usize) -> [u8; N] {
        let mut bytes = [0; N];
        // SAFETY: our own mapping.
        unsafe { self.slice(index, before, N).read(&mut bytes) };
        bytes
    }

    /// read(2) into `len` bytes from `before` bytes in front of the frame on.
    ///
    /// # Errors
    /// What the kernel says.
    #[inline]
    pub(super) fn fill(
        &mut self,
        index: usize,
        before: usize,
        from: BorrowedFd<'_>,
    ) -> rustix::io::Result<usize> {
        let room = self.slice(index, before, usize::MAX);
        // SAFETY: our own mapping, which nobody has a reference into; `self` is borrowed for ourselves alone.
        let bytes = unsafe { std::slice::from_raw_parts_mut(room.as_ptr(), room.len() as usize) };
        rustix::io::read(from, bytes)
    }

    /// write(2) of `len` bytes from `before` bytes in front of the frame on.
    ///
    /// # Errors
    /// What the kernel says.
    #[inline]
    pub(super) fn drain(
        &mut self,
        index: usize,
        before: usize,
        len: usize,
        to: BorrowedFd<'_>,
    ) -> rustix::io::Result<usize> {
        let message = self.slice(index, before, len);
        // SAFETY: as for `fill`.
        let bytes = unsafe { std::slice::from_raw_parts(message.as_ptr(), message.len() as usize) };
        rustix::io::write(to, bytes)
    }
}

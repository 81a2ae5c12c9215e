//! Memory that the kernel transfers to and from: the contract ([`Buffers`], [`Hold`]) and buffers of our own ([`IoBuffer`]).
//!
//! The kernel, or a guest, may change the bytes at any time: they are copied, never referenced.
#![allow(unsafe_code)]

use std::any::Any;
use std::io;
use std::rc::Rc;

/// Keeps memory alive: an operation holds one until its completion is reaped. Cloning is a plain increment.
pub type Hold = Rc<dyn Any>;

/// Memory that an operation transfers to or from, piece by piece.
///
/// # Safety
/// Every piece must stay mapped, and free for the kernel to read and write (no Rust reference to it), for as long as the value
/// returned by `hold` lives, even when `self` is gone.
pub unsafe trait Buffers {
    /// Calls `piece` with address and length in bytes of each piece, in order.
    fn pieces(&self, piece: impl FnMut(*mut u8, usize));
    /// What keeps the pieces alive.
    fn hold(&self) -> Hold;
}

/// Page-aligned memory of its own, for direct I/O and for bouncing buffers that are not aligned.
///
/// Its bytes are reached by copies only, because the kernel may write them at any time.
#[derive(Debug)]
pub struct IoBuffer {
    memory: *mut u8,
    layout: std::alloc::Layout,
}

impl IoBuffer {
    /// Alignment of every buffer in bytes: enough for direct I/O on any device.
    pub const ALIGN: usize = 4096;

    /// A zeroed buffer of `len` bytes (at least one).
    ///
    /// # Errors
    /// `OutOfMemory` when `len` cannot be had.
    pub fn new(len: usize) -> io::Result<Self> {
        let layout = std::alloc::Layout::from_size_align(len.max(1), Self::ALIGN)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(Self { memory, layout })
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// Never true: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address of the first byte. Whoever uses it answers for bounds and lifetime.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory
    }

    /// Copies `bytes` to `offset`. Bytes that do not fit are not copied; returns how many were.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.len().saturating_sub(offset));
        if n > 0 {
            // SAFETY: offset + n is within the allocation; `bytes` is a Rust slice, hence elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.add(offset), n) };
        }
        n
    }

    /// Copies from `offset` into `bytes`; returns how many bytes there were.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(self.len().saturating_sub(offset));
        if n > 0 {
            // SAFETY: offset + n is within the allocation; `bytes` is a Rust slice, hence elsewhere.
            unsafe {
                std::ptr::copy_nonoverlapping(self.memory.add(offset), bytes.as_mut_ptr(), n)
            };
        }
        n
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.memory, self.layout) };
    }
}

// SAFETY: the allocation lives as long as the Rc that `hold` returns, and no reference to its bytes is ever made.
unsafe impl Buffers for Rc<IoBuffer> {
    fn pieces(&self, mut piece: impl FnMut(*mut u8, usize)) {
        piece(self.memory, self.layout.size());
    }

    fn hold(&self) -> Hold {
        self.clone()
    }
}

//! Scatter-gather lists over guest memory, or over buffers of our own, and the copies into and out of them.
//!
//! A list always goes with a [`Hold`] on the memory that it points into, so that everything a bdev does with it is safe code.
//! The bytes may be changed by the guest at any time: they are copied, never referenced, and nobody decides by them.
#![allow(unsafe_code)]

use std::rc::Rc;

use sumeru_engine::{Buffers, Hold, IoBuffer};
use sumeru_virtio::GuestSlice;

/// The data of one operation: pieces of memory in order, borrowed from whoever submits it.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    slices: &'a [GuestSlice],
    hold: &'a Hold,
}

impl<'a> Segments<'a> {
    /// A list over `slices`.
    ///
    /// # Safety
    /// Every slice stays mapped, readable and writable, while `hold` or a clone of it lives, and no Rust reference to its bytes
    /// exists in that time.
    #[inline(always)]
    pub unsafe fn new(slices: &'a [GuestSlice], hold: &'a Hold) -> Self {
        Self { slices, hold }
    }

    /// Bytes in all pieces.
    #[inline]
    pub fn len(&self) -> u64 {
        self.slices.iter().map(|s| u64::from(s.len())).sum()
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of pieces.
    #[inline]
    pub fn count(&self) -> usize {
        self.slices.len()
    }

    /// Whether every piece begins at a multiple of `address` and has a length that is a multiple of `length` (powers of two).
    #[inline]
    pub fn is_aligned(&self, address: usize, length: u32) -> bool {
        self.slices.iter().all(|slice| {
            slice.as_ptr() as usize & (address - 1) == 0 && slice.len() & (length - 1) == 0
        })
    }

    /// Calls `copy` with address and length of each piece, for a raw copy by the caller. Pieces are valid during the call.
    #[inline(always)]
    pub(crate) fn each(&self, mut copy: impl FnMut(*mut u8, usize)) {
        for slice in self.slices {
            copy(slice.as_ptr(), slice.len() as usize);
        }
    }

    /// Copies out of `buffer` from its start; bytes that `buffer` lacks are left alone.
    pub fn fill_from(&self, buffer: &IoBuffer) {
        let mut left = buffer.len();
        let mut from = buffer.as_ptr();
        self.each(|to, len| {
            let n = len.min(left);
            // SAFETY: `to` is valid for `len` by the contract of `new`; `from` has `left` bytes. A hostile guest cannot
            // make them overlap: the buffer is ours alone.
            unsafe { std::ptr::copy_nonoverlapping(from, to, n) };
            from = from.wrapping_add(n);
            left -= n;
        });
    }

    /// Copies into `buffer` from its start, as much as fits.
    pub fn copy_into(&self, buffer: &IoBuffer) {
        let mut left = buffer.len();
        let mut to = buffer.as_ptr();
        self.each(|from, len| {
            let n = len.min(left);
            // SAFETY: as in `fill_from`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(from, to, n) };
            to = to.wrapping_add(n);
            left -= n;
        });
    }

    /// A list of its own that keeps the memory, for an operation that outlives the call.
    pub fn to_list(&self) -> SegmentList {
        SegmentList {
            slices: self.slices.to_vec(),
            hold: self.hold.clone(),
        }
    }
}

// SAFETY: the contract of `Segments::new` is the one asked for here.
unsafe impl Buffers for Segments<'_> {
    #[inline]
    fn pieces(&self, piece: impl FnMut(*mut u8, usize)) {
        self.each(piece);
    }

    #[inline]
    fn hold(&self) -> Hold {
        self.hold.clone()
    }
}

/// A scatter-gather list that owns its pieces' descriptions and a hold on their memory.
#[derive(Clone)]
pub struct SegmentList {
    slices: Vec<GuestSlice>,
    hold: Hold,
}

impl SegmentList {
    /// A list over a buffer of our own, cut into pieces of the given lengths; what is left over is the last piece.
    pub fn over(buffer: &Rc<IoBuffer>, lengths: &[usize]) -> Self {
        let mut slices = Vec::with_capacity(lengths.len() + 1);
        let (mut at, mut left) = (buffer.as_ptr(), buffer.len());
        for &len in lengths.iter().chain(std::iter::once(&usize::MAX)) {
            let len = len.min(left);
            if len > 0 {
                // SAFETY: inside the buffer, which `hold` below keeps.
                slices.push(unsafe { GuestSlice::from_raw(at, len as u32) });
            }
            at = at.wrapping_add(len);
            left -= len;
        }
        Self {
            slices,
            hold: buffer.clone(),
        }
    }

    /// The list without its first piece.
    #[must_use]
    pub fn skip_first(mut self) -> Self {
        self.slices.drain(..1.min(self.slices.len()));
        self
    }

    /// The list as an operation takes it.
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            slices: &self.slices,
            hold: &self.hold,
        }
    }
}

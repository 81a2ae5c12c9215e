//! Frames on their way to the kernel, gathered until a burst is full or flushed.

use std::io;

use sumeru_virtio::GuestSlice;

use super::buffers::{Buffers, FRAME_MAX, HEADROOM};
use crate::net_header::{NET_HEADER_LEN, Offload};

/// Frames per burst.
pub(super) const BURST: usize = 32;

/// Up to a burst of frames, each behind `LEAD` bytes of virtio-net header.
#[derive(Debug)]
pub(super) struct Outbox<const LEAD: usize> {
    buffers: Buffers,
    /// Bytes of each message, header included.
    lens: [usize; BURST],
    queued: usize,
    taken: usize,
}

impl<const LEAD: usize> Outbox<LEAD> {
    /// An empty one.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new() -> io::Result<Self> {
        const { assert!(LEAD <= NET_HEADER_LEN) };
        Ok(Self {
            buffers: Buffers::new(BURST)?,
            lens: [0; BURST],
            queued: 0,
            taken: 0,
        })
    }

    /// The room of each message, header included.
    pub(super) fn messages(&self) -> impl ExactSizeIterator<Item = GuestSlice> + '_ {
        (0..BURST).map(|index| self.buffers.slice(index, LEAD, usize::MAX))
    }

    /// Where the next frame goes; `None` while a burst waits.
    #[inline(always)]
    pub(super) fn place(&self) -> Option<GuestSlice> {
        (self.queued < BURST).then(|| self.buffers.slice(self.queued, 0, FRAME_MAX))
    }

    /// The frame of `len` bytes in that place is complete. Without a place, or longer than it, it is lost, as [`Self::take_taken`] says.
    #[inline]
    pub(super) fn add(&mut self, len: u32, offload: &Offload, header_len: u16) {
        let len = len as usize;
        let Some(place) = self.lens.get_mut(self.queued).filter(|_| len <= FRAME_MAX) else {
            return;
        };
        *place = LEAD + len;
        let header = offload.write(header_len);
        self.buffers.write(self.queued, LEAD, &header[..LEAD]);
        self.queued += 1;
    }

    /// Hands what waits to `send` (the buffers, and the bytes of each message), which answers how many the kernel took. Afterwards nothing waits.
    pub(super) fn push(&mut self, send: impl FnOnce(&mut Buffers, &[usize]) -> usize) {
        if self.queued > 0 {
            self.taken += send(&mut self.buffers, &self.lens[..self.queued]);
            self.queued = 0;
        }
    }

    /// How many were taken since this was asked last.
    pub(super) fn take_taken(&mut self) -> usize {
        std::mem::take(&mut self.taken)
    }
}

const _: () = assert!(NET_HEADER_LEN <= HEADROOM);

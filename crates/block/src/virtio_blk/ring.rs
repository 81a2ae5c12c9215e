//! A virtqueue of block requests with the segments of the requests in hand: the glue that makes access to them safe.
//!
//! Framing is the driver's business (Virtio 1.2, 2.7.4.1): header, data and status may be cut into descriptors anywhere.
#![allow(unsafe_code)]

use std::ops::Range;
use std::rc::Rc;

use sumeru_engine::Hold;
use sumeru_virtio::{Chain, GuestSlice, RingError, SplitQueue};

use crate::segments::Segments;

/// Bytes of a request's header: type, reserved, sector (5.2.6).
pub const HEADER_LEN: usize = 16;

/// A chain cut into its parts. The ranges name segments of the ring's list.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The first bytes of the readable part; `None` when there are fewer than 16.
    pub header: Option<[u8; HEADER_LEN]>,
    /// Readable segments after the header.
    pub readable: Range<u32>,
    /// Bytes in them.
    pub readable_len: u32,
    /// Writable segments without the last byte.
    pub writable: Range<u32>,
    /// Bytes in them.
    pub writable_len: u32,
    /// The last writable byte.
    pub status: StatusByte,
}

/// Where a request's status goes: good as long as the ring that it came from.
#[derive(Clone, Copy, Debug)]
pub struct StatusByte(GuestSlice);

/// A split queue, and the segments of a burst of its chains.
pub struct RequestRing {
    queue: SplitQueue,
    /// Segments of chains of `queue`, hence in its memory.
    list: Vec<GuestSlice>,
    /// Keeps the queue's memory, for operations that outlive a burst.
    hold: Hold,
}

impl RequestRing {
    /// Takes the queue over.
    pub fn new(queue: SplitQueue) -> Self {
        let hold: Hold = Rc::new(queue.memory().clone());
        Self {
            list: Vec::with_capacity(4096),
            hold,
            queue,
        }
    }

    /// The queue.
    #[inline(always)]
    pub fn queue(&mut self) -> &mut SplitQueue {
        &mut self.queue
    }

    /// The queue, to look at.
    #[inline(always)]
    pub fn queue_ref(&self) -> &SplitQueue {
        &self.queue
    }

    /// Forgets the segments of the last burst.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Reads the chain `ahead` entries past the next one, takes nothing, and fetches its header into the cache.
    ///
    /// # Errors
    /// Any breach of the ring's rules.
    #[inline]
    pub fn peek(&mut self, ahead: u16) -> Result<Chain, RingError> {
        let chain = self.queue.peek(ahead, &mut self.list)?;
        if let Some(first) = self.list.get(chain.first as usize) {
            first.prefetch();
        }
        Ok(chain)
    }

    /// Reads the chain that begins at descriptor `head`, whatever the available ring says.
    ///
    /// # Errors
    /// Any breach of the ring's rules.
    pub fn chain(&mut self, head: u16) -> Result<Chain, RingError> {
        self.queue.chain(head, &mut self.list)
    }

    /// Cuts a chain into header, data and status. `None` when there is no writable byte for the status.
    #[inline]
    pub fn open(&mut self, chain: &Chain) -> Option<Parts> {
        let first = chain.first;
        let (mut readable, mut writable) = (
            first..first + u32::from(chain.readable),
            first + u32::from(chain.readable)
                ..first + u32::from(chain.readable) + u32::from(chain.writable),
        );
        let last = self.list.get_mut(writable.end.checked_sub(1)? as usize)?;
        let status_at = chain.writable_len.checked_sub(1)?;
        let before = last.len() - 1;
        let status = StatusByte(last.skip(before));
        *last = last.take(before);
        if before == 0 {
            writable.end -= 1;
        }
        let mut header = [0; HEADER_LEN];
        let mut filled = 0;
        while filled < HEADER_LEN && !readable.is_empty() {
            let slice = &mut self.list[readable.start as usize];
            // SAFETY: the slice came from a chain of `queue`, which keeps its memory mapped.
            let n = unsafe { slice.read(&mut header[filled..]) };
            filled += n;
            *slice = slice.skip(n as u32);
            if slice.is_empty() {
                readable.start += 1;
            }
        }
        Some(Parts {
            header: (filled == HEADER_LEN).then_some(header),
            readable_len: chain.readable_len - filled as u32,
            readable,
            writable,
            writable_len: status_at,
            status,
        })
    }

    /// The segments of a part.
    #[inline(always)]
    pub fn segments(&self, range: &Range<u32>) -> Segments<'_> {
        let slices = &self.list[range.start as usize..range.end as usize];
        // SAFETY: every slice in the list came from a chain of `queue`, and `hold` keeps the memory of that queue mapped.
        unsafe { Segments::new(slices, &self.hold) }
    }

    /// Copies the first bytes of a part into `to`; returns how many there were.
    pub fn read(&self, range: &Range<u32>, to: &mut [u8]) -> usize {
        let mut filled = 0;
        for slice in &self.list[range.start as usize..range.end as usize] {
            // SAFETY: as in `segments`.
            filled += unsafe { slice.read(&mut to[filled..]) };
        }
        filled
    }

    /// Copies `from` to the start of a part; returns how many bytes fitted.
    pub fn write(&self, range: &Range<u32>, from: &[u8]) -> usize {
        let mut written = 0;
        for slice in &self.list[range.start as usize..range.end as usize] {
            // SAFETY: as in `segments`.
            written += unsafe { slice.write(&from[written..]) };
        }
        written
    }

    /// Writes a request's status and gives its chain back with `written` bytes; seen by the driver at the next publication.
    #[inline(always)]
    pub fn complete(&mut self, head: u16, status: StatusByte, value: u8, written: u32) {
        // SAFETY: a status byte comes from `open` of this ring (requests never change rings), whose memory is mapped.
        unsafe { status.0.write(&[value]) };
        self.queue.complete(head, written);
    }
}

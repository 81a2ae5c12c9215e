//! The four rings of an AF_XDP socket (kernel documentation "AF_XDP", "Rings"): a producer and a consumer side, single-threaded each.
//!
//! Indexes that come from the kernel are held against the ring's size; entries are copied out before they are looked at. Nothing here
//! knows what an entry means.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::syscall::Mapping;

/// Entries of rings: integers only.
pub(super) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for libc::xdp_desc {}

/// What both sides have.
#[derive(Debug)]
struct Ring<T> {
    memory: Mapping,
    offsets: [usize; 4],
    size: u32,
    /// Our index: the next entry that we write or read.
    ours: u32,
    /// The kernel's index as last seen.
    theirs: u32,
    entries: PhantomData<T>,
}

impl<T: Entry> Ring<T> {
    /// Maps a ring of `size` entries, a power of two, found at `page_offset` of the socket.
    fn map(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        offset: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let place = |offset: u64| usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidData);
        let offsets = [
            place(offset.producer)?,
            place(offset.consumer)?,
            place(offset.flags)?,
            place(offset.desc)?,
        ];
        let page_offset =
            libc::off_t::try_from(page_offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = offsets[3].saturating_add(size as usize * size_of::<T>());
        let memory = Mapping::shared(socket, len, page_offset)?;
        let index_fits = |&at: &usize| at.is_multiple_of(4) && at < len - 3;
        let aligned = offsets[3].is_multiple_of(align_of::<T>());
        if !size.is_power_of_two() || !offsets[..3].iter().all(index_fits) || !aligned {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            memory,
            offsets,
            size,
            ours: 0,
            theirs: 0,
            entries: PhantomData,
        })
    }

    #[inline(always)]
    fn word(&self, which: usize) -> &AtomicU32 {
        // SAFETY: inside the mapping and aligned, checked in `map`; both sides use it as an atomic.
        unsafe { &*self.memory.at(self.offsets[which]).cast::<AtomicU32>() }
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> *mut T {
        let index = (index & (self.size - 1)) as usize;
        self.memory
            .at(self.offsets[3] + index * size_of::<T>())
            .cast()
    }

    /// Whether the kernel asks to be woken.
    #[inline(always)]
    fn needs_wakeup(&self) -> bool {
        self.word(FLAGS).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

const PRODUCER: usize = 0;
const CONSUMER: usize = 1;
const FLAGS: usize = 2;

/// A ring that we fill: fill and transmit.
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

impl<T: Entry> Producer<T> {
    /// See [`Ring::map`].
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        offset: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ring::map(socket, page_offset, offset, size).map(Self)
    }

    /// Writes an entry that the kernel sees with the next [`Self::publish`]; false when the ring is full.
    #[inline(always)]
    pub(super) fn push(&mut self, entry: T) -> bool {
        let ring = &mut self.0;
        if ring.ours.wrapping_sub(ring.theirs) >= ring.size {
            ring.theirs = ring.word(CONSUMER).load(Ordering::Acquire);
            if ring.ours.wrapping_sub(ring.theirs) >= ring.size {
                return false;
            }
        }
        // SAFETY: an entry of the ring, which the kernel does not read before the index says so.
        unsafe { ring.entry(ring.ours).write(entry) };
        ring.ours = ring.ours.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    #[inline(always)]
    pub(super) fn publish(&self) {
        self.0.word(PRODUCER).store(self.0.ours, Ordering::Release);
    }

    /// Entries published that the kernel has not taken.
    #[inline(always)]
    pub(super) fn untaken(&self) -> u32 {
        let taken = self.0.word(CONSUMER).load(Ordering::Relaxed);
        self.0.ours.wrapping_sub(taken).min(self.0.size)
    }

    /// Whether the kernel asks to be woken to look at the ring.
    #[inline(always)]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

/// A ring that the kernel fills: completion and receive.
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

impl<T: Entry> Consumer<T> {
    /// See [`Ring::map`].
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        offset: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ring::map(socket, page_offset, offset, size).map(Self)
    }

    /// How many entries wait.
    #[inline(always)]
    pub(super) fn available(&mut self) -> u32 {
        let ring = &mut self.0;
        if ring.theirs == ring.ours {
            ring.theirs = ring.word(PRODUCER).load(Ordering::Acquire);
        }
        ring.theirs.wrapping_sub(ring.ours).min(ring.size)
    }

    /// Looks at the kernel's index again; how many entries wait.
    #[inline]
    pub(super) fn refresh(&mut self) -> u32 {
        self.0.theirs = self.0.word(PRODUCER).load(Ordering::Acquire);
        self.available()
    }

    /// A copy of the entry `ahead` of the next one, below [`Self::available`].
    #[inline(always)]
    pub(super) fn peek(&self, ahead: u32) -> T {
        // SAFETY: an entry of the ring, whatever the index; read once, and any bits are a value.
        unsafe {
            self.0
                .entry(self.0.ours.wrapping_add(ahead))
                .read_volatile()
        }
    }

    /// Passes over `count` entries, at most those available; the kernel sees it with the next [`Self::release`].
    #[inline(always)]
    pub(super) fn advance(&mut self, count: u32) {
        self.0.ours = self.0.ours.wrapping_add(count);
    }

    /// Gives the kernel back the entries passed over.
    #[inline(always)]
    pub(super) fn release(&self) {
        self.0.word(CONSUMER).store(self.0.ours, Ordering::Release);
    }
}

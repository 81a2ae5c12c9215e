//! The split virtqueue, device side (Virtio 1.2, section 2.7).
//!
//! A [`SplitQueue`] belongs to one lcore. It never trusts the ring: every index, address, length and flag is read once and
//! checked; a ring that breaks the rules answers a [`RingError`] and is to be stopped by its owner. It allocates nothing
//! after it is made and knows nothing of what the buffers mean.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use crate::eventfd::Eventfd;
use crate::memory::{GuestMemory, Window};
use crate::slice::{GuestSlice, prefetch_read, prefetch_write};

/// Largest queue size (Virtio 1.2, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// Longest descriptor chain accepted, direct or indirect. Linux needs at most `seg_max + 2`; QEMU draws the line here too.
pub const MAX_CHAIN: u16 = 1024;
/// Most segments of a chain: a buffer that crosses memory regions counts once for each.
pub const MAX_SEGMENTS: u16 = 2 * MAX_CHAIN;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const DESC_SIZE: u32 = 16;
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// What a driver can do wrong to a ring. The queue is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The queue size is not a power of two between 1 and 32768.
    #[error("queue size {0} is not a power of two from 1 to {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// A ring area is not inside one memory region, or not aligned.
    #[error(
        "{area} at user address {address:#x} is not {len} bytes inside one memory region, aligned to {align}"
    )]
    Area {
        /// Which of the three areas.
        area: &'static str,
        /// Where it should be.
        address: u64,
        /// Its size in bytes.
        len: u32,
        /// Its alignment in bytes.
        align: u32,
    },
    /// The available index ran ahead of the ring.
    #[error(
        "available index {index} is {ahead} ahead of the device, more than the queue's {size} entries"
    )]
    AvailableIndex {
        /// What the driver wrote.
        index: u16,
        /// Distance from the device's position.
        ahead: u16,
        /// Queue size.
        size: u16,
    },
    /// A head or a next index outside the table.
    #[error("descriptor index {index} is outside a table of {size}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Entries in the table.
        size: u16,
    },
    /// A chain that does not end.
    #[error("descriptor chain from head {0} is longer than allowed, or a loop")]
    ChainTooLong(u16),
    /// A buffer outside guest memory.
    #[error(
        "descriptor points at guest address {address:#x}, length {len:#x}, which is not in guest memory"
    )]
    Address {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A device-readable buffer after a device-writable one (2.7.4.2).
    #[error("a readable descriptor follows a writable one in the chain from head {0}")]
    ReadableAfterWritable(u16),
    /// An indirect table of a bad length, nested, or combined with NEXT (2.7.5.3).
    #[error("bad indirect descriptor in the chain from head {0}")]
    Indirect(u16),
    /// An indirect descriptor without the feature.
    #[error(
        "indirect descriptor in the chain from head {0}, but VIRTIO_F_INDIRECT_DESC was not negotiated"
    )]
    IndirectNotNegotiated(u16),
    /// All buffers together pass 4 GiB.
    #[error("buffers of the chain from head {0} pass 4 GiB")]
    ChainTooLarge(u16),
    /// Guest memory was taken away by its owner.
    #[error("guest memory was truncated by its owner")]
    MemoryLost,
}

/// Where a queue lies and how it starts. Addresses are the front end's user addresses.
#[derive(Clone, Copy, Debug)]
pub struct SplitLayout {
    /// Entries; a power of two.
    pub size: u16,
    /// Descriptor table, 16-byte aligned.
    pub descriptor_table: u64,
    /// Available ring ("driver area"), 2-byte aligned.
    pub driver_area: u64,
    /// Used ring ("device area"), 4-byte aligned.
    pub device_area: u64,
    /// The next available entry to take.
    pub last_available: u16,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC was negotiated.
    pub indirect: bool,
}

/// One chain taken from the ring. Its segments lie in the caller's segment list, readable ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Index of the first descriptor: the chain's name in the used ring.
    pub head: u16,
    /// Start of this chain's segments in the list.
    pub first: u32,
    /// Number of device-readable segments.
    pub readable: u16,
    /// Number of device-writable segments, after the readable ones.
    pub writable: u16,
    /// Bytes in the readable segments.
    pub readable_len: u32,
    /// Bytes in the writable segments.
    pub writable_len: u32,
}

impl Chain {
    /// The readable segments in `list`.
    #[inline(always)]
    pub fn readable<'a>(&self, list: &'a [GuestSlice]) -> &'a [GuestSlice] {
        let first = self.first as usize;
        &list[first..first + usize::from(self.readable)]
    }

    /// The writable segments in `list`.
    #[inline(always)]
    pub fn writable<'a>(&self, list: &'a [GuestSlice]) -> &'a [GuestSlice] {
        let first = self.first as usize + usize::from(self.readable);
        &list[first..first + usize::from(self.writable)]
    }
}

/// A chain of one direct buffer, as nearly all of a network queue's are.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    /// Index of the descriptor: the chain's name in the used ring.
    pub head: u16,
    /// The buffer, not empty.
    pub buffer: GuestSlice,
}

/// A descriptor as read, once (2.7.5).
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// # Safety
    /// `table` holds at least `index + 1` descriptors and is mapped.
    unsafe fn read(table: *const u8, index: u16) -> Self {
        if table.cast::<u64>().is_aligned() {
            // SAFETY: the caller's word, and the alignment as just checked.
            return unsafe { Self::read_aligned(table, index) };
        }
        // SAFETY: in bounds by the caller. Indirect tables may lie at any address, hence the unaligned way; a torn read only mixes two of the driver's
        // own values, each of which is checked.
        unsafe {
            let entry = Self::entry(table, index);
            Self::new(
                entry.read_unaligned(),
                entry.wrapping_add(1).read_unaligned(),
            )
        }
    }

    /// # Safety
    /// As [`Self::read`], and `table` is aligned to 8.
    #[inline(always)]
    unsafe fn read_aligned(table: *const u8, index: u16) -> Self {
        let entry = Self::entry(table, index);
        // SAFETY: in bounds and aligned by the caller's word.
        unsafe { Self::new(entry.read_volatile(), entry.wrapping_add(1).read_volatile()) }
    }

    #[inline(always)]
    fn entry(table: *const u8, index: u16) -> *const u64 {
        table
            .wrapping_add(usize::from(index) * DESC_SIZE as usize)
            .cast()
    }

    #[inline(always)]
    fn new(address: u64, rest: u64) -> Self {
        let (address, rest) = (u64::from_le(address), u64::from_le(rest));
        Self {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// The device's side of one split virtqueue.
#[derive(Debug)]
pub struct SplitQueue {
    table: *const u8,
    /// `flags, idx, ring[size], used_event`.
    avail: *mut u16,
    /// `flags, idx` then `ring[size]` of (id u32, len u32), then `avail_event`.
    used: *mut u16,
    size: u16,
    /// `size - 1`.
    mask: u16,
    event_idx: bool,
    indirect: bool,
    /// Next available entry to take.
    next_avail: u16,
    /// The driver's index as last read and checked.
    seen_avail: u16,
    /// Next used entry to write.
    next_used: u16,
    /// Used index as last published.
    published_used: u16,
    /// Used index at the last notification decision.
    decided_used: u16,
    window: Window,
    memory: Arc<GuestMemory>,
    kick: Option<Eventfd>,
    call: Option<Eventfd>,
}

// SAFETY: the raw pointers lead into `memory`, which the queue keeps mapped; only the owner of the queue uses them.
unsafe impl Send for SplitQueue {}

impl SplitQueue {
    /// Checks the layout against `memory` and takes the queue over.
    ///
    /// # Errors
    /// [`RingError::Size`] or [`RingError::Area`].
    pub fn new(layout: SplitLayout, memory: Arc<GuestMemory>) -> Result<Self, RingError> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(RingError::Size(size));
        }
        let entries = u32::from(size);
        let area = |area, address: u64, len: u32, align: u32| {
            let slice = memory
                .translate_user(address, len)
                .filter(|s| (s.as_ptr() as usize).is_multiple_of(align as usize));
            slice.map(|s| s.as_ptr()).ok_or(RingError::Area {
                area,
                address,
                len,
                align,
            })
        };
        let table = area(
            "descriptor table",
            layout.descriptor_table,
            entries * DESC_SIZE,
            16,
        )?;
        let avail = area("available ring", layout.driver_area, 6 + entries * 2, 2)?.cast::<u16>();
        let used = area("used ring", layout.device_area, 6 + entries * 8, 4)?.cast::<u16>();
        let mut queue = Self {
            table,
            avail,
            used,
            size,
            mask: size - 1,
            event_idx: layout.event_idx,
            indirect: layout.indirect,
            next_avail: layout.last_available,
            seen_avail: layout.last_available,
            next_used: 0,
            published_used: 0,
            decided_used: 0,
            window: Window::NONE,
            memory,
            kick: None,
            call: None,
        };
        // The used index is the device's own; after a restart the ring remembers it.
        let index = u16::from_le(queue.used_index().load(Ordering::Relaxed));
        (queue.next_used, queue.published_used, queue.decided_used) = (index, index, index);
        Ok(queue)
    }

    /// Sets the eventfds: `kick` is what the driver writes, `call` what we write.
    pub fn set_events(&mut self, kick: Option<Eventfd>, call: Option<Eventfd>) {
        self.kick = kick;
        self.call = call;
    }

    /// Replaces the eventfd that we write.
    pub fn set_call(&mut self, call: Option<Eventfd>) {
        self.call = call;
    }

    /// The eventfd that the driver writes; to be watched while sleeping.
    pub fn kick(&self) -> Option<&Eventfd> {
        self.kick.as_ref()
    }

    /// The memory that the ring and its buffers lie in. Whoever keeps a segment beyond the queue's life clones this.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Entries in the ring.
    #[inline(always)]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The next available entry to take: what GET_VRING_BASE answers once everything taken is completed.
    pub fn next_available(&self) -> u16 {
        self.next_avail
    }

    /// The used index, as published.
    pub fn used_index_published(&self) -> u16 {
        self.published_used
    }

    #[inline(always)]
    fn field(&self, base: *mut u16, index: usize) -> &AtomicU16 {
        // SAFETY: `base` is `avail` or `used`, mapped for the queue's life and 2-byte aligned; `index` is in bounds at every
        // caller. An atomic may be shared with any other writer, so no aliasing rule is broken by the driver.
        unsafe { AtomicU16::from_ptr(base.wrapping_add(index)) }
    }

    #[inline(always)]
    fn used_index(&self) -> &AtomicU16 {
        self.field(self.used, 1)
    }

    /// Chains that the driver has made available and nobody has taken.
    ///
    /// Reads the shared index only when fewer than `wanted` are known.
    ///
    /// # Errors
    /// [`RingError::AvailableIndex`] when the index ran more than a ring ahead; [`RingError::MemoryLost`].
    #[inline]
    pub fn available(&mut self, wanted: u16) -> Result<u16, RingError> {
        let known = self.known();
        if known >= wanted {
            return Ok(known);
        }
        let index = u16::from_le(self.field(self.avail, 1).load(Ordering::Acquire));
        let ahead = index.wrapping_sub(self.next_avail);
        if ahead > self.size {
            // Pages that were taken away read as zero, which is no mistake of the index.
            if self.memory.is_lost() {
                return Err(RingError::MemoryLost);
            }
            return Err(RingError::AvailableIndex {
                index,
                ahead,
                size: self.size,
            });
        }
        if self.memory.is_lost() {
            return Err(RingError::MemoryLost);
        }
        self.seen_avail = index;
        Ok(ahead)
    }

    /// Chains not taken yet that the last look at the shared index found.
    #[inline(always)]
    pub fn known(&self) -> u16 {
        self.seen_avail.wrapping_sub(self.next_avail)
    }

    /// The head of the chain `ahead` entries past the next one; `ahead` must be below what [`Self::available`] answered.
    #[inline(always)]
    fn head(&self, ahead: u16) -> Result<u16, RingError> {
        let entry = self.next_avail.wrapping_add(ahead) & self.mask;
        let head = u16::from_le(
            self.field(self.avail, 2 + usize::from(entry))
                .load(Ordering::Relaxed),
        );
        if head >= self.size {
            return Err(RingError::DescriptorIndex {
                index: head,
                size: self.size,
            });
        }
        Ok(head)
    }

    /// Asks for the first descriptor of every `step`th of the next `count` chains, and of the last: of 4 where chains are of one descriptor, as drivers
    /// hand them out in order and four share a line.
    #[inline(always)]
    pub fn prefetch_descriptors(&self, count: u16, step: usize) {
        for ahead in (0..count).step_by(step).chain(count.checked_sub(1)) {
            if let Ok(head) = self.head(ahead) {
                prefetch_read(
                    self.table
                        .wrapping_add(usize::from(head) * DESC_SIZE as usize),
                );
            }
        }
    }

    /// Reads the chain `ahead` entries past the next one, when it is of the simplest kind: one direct buffer, device-writable or not as asked for, in the memory region of the last
    /// one. Takes nothing; `None` says only that [`Self::peek`] must look.
    #[inline(always)]
    pub fn single(&self, ahead: u16, writable: bool) -> Option<Single> {
        let head = self.head(ahead).ok()?;
        // SAFETY: `head` is below the queue size, and the table has that many descriptors and is aligned to 16.
        let descriptor = unsafe { Descriptor::read_aligned(self.table, head) };
        let wanted = if writable { DESC_WRITE } else { 0 };
        if descriptor.flags & (DESC_NEXT | DESC_INDIRECT | DESC_WRITE) != wanted
            || descriptor.len == 0
        {
            return None;
        }
        let buffer = self.window.get(descriptor.address, descriptor.len)?;
        Some(Single { head, buffer })
    }

    /// Reads the chain `ahead` entries past the next one and appends its segments to `list`. Takes nothing; see [`Self::take`].
    ///
    /// # Errors
    /// Any breach of the ring's rules. What was appended for this chain is removed again.
    #[inline]
    pub fn peek(&mut self, ahead: u16, list: &mut Vec<GuestSlice>) -> Result<Chain, RingError> {
        let head = self.head(ahead)?;
        self.chain(head, list)
    }

    /// Reads the chain that begins at descriptor `head`, whatever the available ring says: for requests that a predecessor
    /// fetched and never completed.
    ///
    /// # Errors
    /// As [`Self::peek`].
    #[inline]
    pub fn chain(&mut self, head: u16, list: &mut Vec<GuestSlice>) -> Result<Chain, RingError> {
        if head >= self.size {
            return Err(RingError::DescriptorIndex {
                index: head,
                size: self.size,
            });
        }
        let first = list.len();
        // SAFETY: `head` is below the queue size, and the table has that many descriptors.
        let descriptor = unsafe { Descriptor::read(self.table, head) };
        let mut chain = Chain {
            head,
            first: first as u32,
            readable: 0,
            writable: 0,
            readable_len: 0,
            writable_len: 0,
        };
        let walked = self.walk(&mut chain, descriptor, list);
        if walked.is_err() {
            list.truncate(first);
        }
        walked.map(|()| chain)
    }

    fn walk(
        &mut self,
        chain: &mut Chain,
        mut descriptor: Descriptor,
        list: &mut Vec<GuestSlice>,
    ) -> Result<(), RingError> {
        let head = chain.head;
        // A table that was taken away reads as zero, which leads here; entries counted before are not looked at again otherwise.
        if self.memory.is_lost() {
            return Err(RingError::MemoryLost);
        }
        let (mut table, mut entries) = (self.table, self.size);
        let mut nested = false;
        let mut left = self.size.clamp(1, MAX_CHAIN);
        loop {
            if descriptor.flags & DESC_INDIRECT != 0 {
                if !self.indirect {
                    return Err(RingError::IndirectNotNegotiated(head));
                }
                let Descriptor {
                    address,
                    len,
                    flags,
                    ..
                } = descriptor;
                let count = len / DESC_SIZE;
                if nested
                    || flags & DESC_NEXT != 0
                    || len % DESC_SIZE != 0
                    || count == 0
                    || count > u32::from(MAX_CHAIN)
                {
                    return Err(RingError::Indirect(head));
                }
                let slice = self
                    .memory
                    .translate(address, len)
                    .ok_or(RingError::Address { address, len })?;
                (table, entries, nested, left) = (
                    slice.as_ptr().cast_const(),
                    count as u16,
                    true,
                    count as u16,
                );
                // SAFETY: the table has at least one descriptor and is mapped while `memory` lives.
                descriptor = unsafe { Descriptor::read(table, 0) };
                continue;
            }
            left = left.checked_sub(1).ok_or(RingError::ChainTooLong(head))?;
            self.append(chain, &descriptor, list)?;
            if descriptor.flags & DESC_NEXT == 0 {
                return Ok(());
            }
            let index = descriptor.next;
            if index >= entries {
                return Err(RingError::DescriptorIndex {
                    index,
                    size: entries,
                });
            }
            // SAFETY: `index` is inside the table of `entries` descriptors, which is mapped while `memory` lives.
            descriptor = unsafe { Descriptor::read(table, index) };
        }
    }

    /// Appends one descriptor's buffer, in as many pieces as regions it lies in.
    fn append(
        &mut self,
        chain: &mut Chain,
        descriptor: &Descriptor,
        list: &mut Vec<GuestSlice>,
    ) -> Result<(), RingError> {
        let Descriptor {
            mut address,
            mut len,
            flags,
            ..
        } = *descriptor;
        let writable = flags & DESC_WRITE != 0;
        if !writable && chain.writable > 0 {
            return Err(RingError::ReadableAfterWritable(chain.head));
        }
        let total = if writable {
            &mut chain.writable_len
        } else {
            &mut chain.readable_len
        };
        *total = total
            .checked_add(len)
            .ok_or(RingError::ChainTooLarge(chain.head))?;
        while len > 0 {
            let mut window = self.window;
            let mut offset = address.wrapping_sub(window.start);
            if offset >= window.size {
                window = self.memory.window(address);
                offset = address.wrapping_sub(window.start);
                if offset >= window.size {
                    return Err(RingError::Address { address, len });
                }
                self.window = window;
            }
            let piece = u32::try_from((window.size - offset).min(u64::from(len))).unwrap_or(len);
            let slice = window
                .get(address, piece)
                .ok_or(RingError::Address { address, len })?;
            if chain.readable + chain.writable >= MAX_SEGMENTS {
                return Err(RingError::ChainTooLong(chain.head));
            }
            list.push(slice);
            if writable {
                chain.writable += 1
            } else {
                chain.readable += 1
            }
            address = address.wrapping_add(u64::from(piece));
            len -= piece;
        }
        Ok(())
    }

    /// Takes the next `count` chains, which were peeked before.
    #[inline(always)]
    pub fn take(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
    }

    /// Gives a chain back with `written` bytes in its writable part. Seen by the driver at the next [`Self::publish`].
    #[inline(always)]
    pub fn complete(&mut self, head: u16, written: u32) {
        self.write_used(0, head, written);
        self.completed(1);
    }

    /// Writes what gives a chain back, `ahead` places past the last one: for several in a row, which [`Self::completed`] must follow.
    #[inline(always)]
    pub fn write_used(&self, ahead: u16, head: u16, written: u32) {
        let entry = usize::from(self.next_used.wrapping_add(ahead) & self.mask);
        let element = self.used.wrapping_add(2 + entry * 4).cast::<[[u8; 4]; 2]>();
        let value = [u32::from(head).to_le_bytes(), written.to_le_bytes()];
        // A line that already says so need not become dirty. The ring promises an alignment of 4 only, and the driver looks after `publish`.
        // SAFETY: inside the used ring, mapped for the queue's life.
        unsafe {
            if element.read_unaligned() != value {
                element.write_unaligned(value);
            }
        }
    }

    /// Gives back the `count` chains that were written by [`Self::write_used`]. Seen by the driver at the next [`Self::publish`].
    #[inline(always)]
    pub fn completed(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// Asks for the line that [`Self::publish`] will write.
    #[inline(always)]
    pub fn prefetch_index(&self) {
        prefetch_write(self.used.cast());
    }

    /// Shows the completed chains to the driver.
    #[inline(always)]
    pub fn publish(&mut self) {
        if self.published_used != self.next_used {
            self.published_used = self.next_used;
            self.used_index()
                .store(self.next_used.to_le(), Ordering::Release);
        }
    }

    /// Whether the driver wants a notification for what was published since the last call of this (2.7.7, 2.7.10).
    #[inline]
    pub fn wants_notification(&mut self) -> bool {
        if self.decided_used == self.published_used {
            return false;
        }
        // The used index must be visible before the driver's wish is read, or both sides could wait.
        fence(Ordering::SeqCst);
        self.wants_notification_after_fence()
    }

    /// [`Self::wants_notification`] for a caller that has published several queues and put one `fence(SeqCst)` behind them all.
    #[inline]
    pub fn wants_notification_after_fence(&mut self) -> bool {
        let (old, new) = (self.decided_used, self.published_used);
        if old == new {
            return false;
        }
        self.decided_used = new;
        if self.event_idx {
            let event = u16::from_le(
                self.field(self.avail, 2 + usize::from(self.size))
                    .load(Ordering::Relaxed),
            );
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        u16::from_le(self.field(self.avail, 0).load(Ordering::Relaxed)) & AVAIL_NO_INTERRUPT == 0
    }

    /// Notifies the driver if it wants it; true when an eventfd was written.
    #[inline]
    pub fn notify(&mut self) -> bool {
        self.wants_notification() && self.signal()
    }

    /// Notifies the driver whatever it asked for.
    #[cold]
    pub fn signal(&mut self) -> bool {
        self.call.as_ref().inspect(|call| call.signal()).is_some()
    }

    /// Tells the driver that it need not kick: the queue is being polled.
    #[inline]
    pub fn disarm(&mut self) {
        // With event index the position asked for stays behind, and the driver does not kick until it wraps.
        if !self.event_idx {
            self.field(self.used, 0)
                .store(USED_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks the driver to kick for the next chain; true when there is one already (then do not sleep).
    ///
    /// # Errors
    /// As [`Self::available`].
    pub fn arm(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            let at = self.seen_avail;
            self.field(self.used, 2 + usize::from(self.size) * 4)
                .store(at.to_le(), Ordering::Relaxed);
        } else {
            self.field(self.used, 0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let before = self.seen_avail.wrapping_sub(self.next_avail);
        Ok(self.available(before + 1)? > before)
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;

//! A guest's network queues, as the lcore that owns them sees them (Virtio 1.2, 5.1.6).
//!
//! [`Sender`] is the queue that the guest transmits on; frames come in by it. [`Receiver`] is the queue that the guest receives on; frames go
//! out by it. A queue that breaks the ring's rules is stopped here and stays so until the front end sets it up again.
#![allow(unsafe_code)]

use std::ops::Range;

use sumeru_virtio::slice::{prefetch_read, prefetch_write};
use sumeru_virtio::{Chain, GuestSlice, RingError, Single, SplitQueue};

use crate::egress::{Outgoing, PlainFrame, write_whole};
use crate::frame::{BURST, Frame, MAX_FRAME};
use crate::net_header::{Accepts, Gso, Lead, NET_HEADER_LEN, NetHeader};
use crate::stats::Drop;
use sumeru_packet::headroom::ROOM;

/// Bytes of the shortest Ethernet frame, without its check sequence.
const SHORTEST: usize = 60;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Most buffers that one received frame may span; a driver that offers smaller ones cannot receive the largest frames.
const MAX_SPAN: usize = 64;

/// Why a queue was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// The ring itself.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A buffer of the wrong direction.
    #[error("a device-readable buffer in the receive queue, chain {0}")]
    ReadableInReceive(u16),
}

/// The queue that the guest transmits on.
#[derive(Debug)]
pub struct Sender {
    queue: SplitQueue,
    lead: Lead,
    enabled: bool,
    fault: Option<QueueFault>,
    reported: bool,
    /// The chains of the burst in hand.
    taken: Box<[Taken; BURST]>,
}

/// A chain that was taken: the frame in it.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its buffer, if it has but one.
    buffer: GuestSlice,
    head: u16,
    segments: u16,
    /// Of several buffers the first one's place in the burst's list.
    first: u32,
}

impl Taken {
    const NONE: Self = Self {
        buffer: GuestSlice::EMPTY,
        head: 0,
        segments: 0,
        first: 0,
    };

    /// The one buffer that it is of.
    #[inline(always)]
    pub fn single(&self) -> Option<GuestSlice> {
        (self.segments == 1).then_some(self.buffer)
    }
}

impl Sender {
    /// Takes the queue over. `lead` stands in front of each frame.
    pub fn new(mut queue: SplitQueue, lead: Lead, enabled: bool) -> Self {
        queue.disarm();
        Self {
            queue,
            lead,
            enabled,
            fault: None,
            reported: false,
            taken: Box::new([Taken::NONE; BURST]),
        }
    }

    /// The queue itself, for its owner's control.
    pub fn queue(&mut self) -> &mut SplitQueue {
        &mut self.queue
    }

    /// Enables or disables: frames of a disabled queue are discarded (vhost-user, "Ring states").
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Why it is stopped, once.
    pub fn take_fault(&mut self) -> Option<QueueFault> {
        if self.reported {
            return None;
        }
        self.reported = self.fault.is_some();
        self.fault
    }

    /// Whether it is worth a look: not once it was stopped and that was told.
    pub fn is_served(&self) -> bool {
        !self.reported
    }

    /// The header in front of each frame.
    #[inline(always)]
    pub fn lead(&self) -> Lead {
        self.lead
    }

    /// How many chains wait, at most a burst; their descriptors are fetched ahead.
    #[inline(always)]
    pub fn available(&mut self) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        let available = match self.queue.available(BURST as u16) {
            Ok(0) => return 0,
            Ok(available) => available.min(BURST as u16),
            Err(fault) => {
                self.fault = Some(fault.into());
                return 0;
            }
        };
        self.queue.prefetch_descriptors(available, 4);
        available.into()
    }

    /// Asks for the descriptors of the chains behind those that were taken, as far as they are known to be there.
    #[inline(always)]
    pub fn fetch_next(&self) {
        self.queue
            .prefetch_descriptors(self.queue.known().min(BURST as u16), 4);
    }

    /// Takes the next `available` chains; the buffers of those that have several are in `list`, behind [`BURST`] places. Returns how many.
    #[inline(always)]
    pub fn receive(&mut self, available: usize, list: &mut Vec<GuestSlice>) -> usize {
        list.clear();
        let mut count = 0;
        while count < available {
            match self.queue.single(count as u16, false) {
                Some(single) => {
                    self.taken[count] = Taken {
                        buffer: single.buffer,
                        head: single.head,
                        segments: 1,
                        first: 0,
                    };
                    fetch(single.buffer, self.lead);
                }
                _ => {
                    if let Err(fault) = self.receive_chain(count, list) {
                        self.fault = Some(fault.into());
                        break;
                    }
                }
            }
            count += 1;
        }
        self.queue.take(count as u16);
        if !self.enabled {
            self.release(count);
            self.queue.notify();
            return 0;
        }
        count
    }

    /// Any chain `ahead` entries past the next one is taken.
    #[inline(never)]
    fn receive_chain(&mut self, ahead: usize, list: &mut Vec<GuestSlice>) -> Result<(), RingError> {
        list.resize(list.len().max(BURST), GuestSlice::EMPTY);
        let chain = self.queue.peek(ahead as u16, list)?;
        let buffer = chain.readable(list).first().copied();
        self.taken[ahead] = Taken {
            buffer: buffer.unwrap_or(GuestSlice::EMPTY),
            head: chain.head,
            segments: chain.readable,
            first: chain.first,
        };
        buffer
            .into_iter()
            .for_each(|buffer| fetch(buffer, self.lead));
        Ok(())
    }

    /// The chains that were taken last.
    #[inline(always)]
    pub fn taken(&self) -> &[Taken; BURST] {
        &self.taken
    }

    /// Makes the chains `which` of those taken the frames of these places, with their buffers in `list`.
    #[inline(always)]
    pub fn frames(
        &self,
        which: Range<usize>,
        frames: &mut [Frame; BURST],
        list: &mut Vec<GuestSlice>,
    ) {
        list.resize(list.len().max(BURST), GuestSlice::EMPTY);
        for place in which {
            let (taken, frame) = (&self.taken[place], &mut frames[place]);
            let mut len = taken.buffer.len();
            frame.segments = taken.segments;
            if taken.segments == 1 {
                // Its place in the list is its place in the burst.
                frame.first_segment = place as u32;
                list[place] = taken.buffer;
            } else {
                frame.first_segment = taken.first;
                len = frame.segments(list).iter().map(GuestSlice::len).sum();
            }
            frame.len = len;
        }
    }

    /// Gives the first `count` chains of those taken back; see [`Self::settle`].
    #[inline(always)]
    pub fn release(&mut self, count: usize) {
        for (ahead, taken) in self.taken[..count].iter().enumerate() {
            self.queue.write_used(ahead as u16, taken.head, 0);
        }
        self.queue.completed(count as u16);
        self.queue.publish();
    }

    /// Notifies the guest of what was given back, if it wants that; true when it was. A `fence(SeqCst)` comes before this.
    #[inline(always)]
    pub fn settle(&mut self) -> bool {
        self.queue.wants_notification_after_fence() && self.queue.signal()
    }

    /// Before sleeping: true when there is work already.
    pub fn arm(&mut self) -> bool {
        self.fault.is_none() && self.queue.arm().unwrap_or(true)
    }

    /// After sleeping.
    pub fn disarm(&mut self) {
        if self.fault.is_none() {
            self.queue.disarm();
        }
    }
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames delivered.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were cut.
    pub segmented: u64,
    /// Checksums completed here.
    pub checksums: u64,
}

impl Sent {
    /// Adds what became of others.
    pub fn add(&mut self, others: &Sent) {
        self.packets += others.packets;
        self.bytes += others.bytes;
        self.segmented += others.segmented;
        self.checksums += others.checksums;
    }
}

/// The queue that the guest receives on.
#[derive(Debug)]
pub struct Receiver {
    queue: SplitQueue,
    net_header_len: u16,
    mergeable: bool,
    accepts: Accepts,
    enabled: bool,
    fault: Option<QueueFault>,
    reported: bool,
    /// Where the frames of a burst go, as long as each fits one buffer.
    places: Box<[Place; BURST]>,
    /// How many of them are good: the next chains of the ring.
    prepared: usize,
    /// How many of those have been filled, while plain frames are sent.
    filled: usize,
    /// Buffers of the chains being filled, for any other frame.
    buffers: Vec<GuestSlice>,
    chains: Vec<Chain>,
}

/// How known frames leave.
pub trait Leave {
    /// What is put in front of a frame; `None`: it is not to be sent like this.
    #[inline(always)]
    fn front<'a>(&mut self, _: &PlainFrame, _: &'a mut [u8; ROOM]) -> Option<&'a [u8]> {
        Some(&[])
    }

    /// Whether a frame may leave. Asked last: it does if this says so.
    #[inline(always)]
    fn admits(&mut self, _: &PlainFrame) -> bool {
        true
    }

    /// What was looked at of the frame behind its first bytes.
    #[inline(always)]
    fn seen(&self) -> &[u8] {
        &[]
    }
}

/// A buffer that waits for a frame.
#[derive(Clone, Copy, Debug)]
struct Place {
    head: u16,
    buffer: GuestSlice,
}

impl Receiver {
    /// Takes the queue over.
    pub fn new(
        mut queue: SplitQueue,
        net_header_len: u16,
        mergeable: bool,
        accepts: Accepts,
        enabled: bool,
    ) -> Self {
        // We look for buffers when there is a frame; the guest need never tell us.
        queue.disarm();
        let buffers = Vec::with_capacity(4 * BURST);
        Self {
            queue,
            net_header_len,
            mergeable,
            accepts,
            enabled,
            fault: None,
            reported: false,
            prepared: 0,
            filled: 0,
            places: Box::new(
                [Place {
                    head: 0,
                    buffer: GuestSlice::EMPTY,
                }; BURST],
            ),
            buffers,
            chains: Vec::with_capacity(MAX_SPAN),
        }
    }

    /// The queue itself, for its owner's control.
    pub fn queue(&mut self) -> &mut SplitQueue {
        &mut self.queue
    }

    /// Enables or disables: nothing is delivered to a disabled queue.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether frames may be delivered to it.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Why it is stopped, once.
    pub fn take_fault(&mut self) -> Option<QueueFault> {
        if self.reported {
            return None;
        }
        self.reported = self.fault.is_some();
        self.fault
    }

    /// Sends the frames `order` of `frames`, none longer than `max_frame` bytes on the wire, and adds them to `sent`. `lost` is told of each that could
    /// not be delivered. The guest is notified by [`Self::settle`].
    ///
    /// # Safety
    /// The memory behind `list` is mapped.
    #[inline(always)]
    pub unsafe fn send(
        &mut self,
        frames: &[Frame],
        order: &[u8],
        list: &[GuestSlice],
        max_frame: u32,
        sent: &mut Sent,
        mut lost: impl FnMut(Drop),
    ) {
        if self.fault.is_some() || !self.enabled {
            let reason = if self.enabled {
                Drop::RingBroken
            } else {
                Drop::PortDown
            };
            order.iter().for_each(|_| lost(reason));
            return;
        }
        // SAFETY: the caller's word; our own buffers lie in the queue's memory, which it holds.
        let done = unsafe { self.send_simple(frames, order, list, max_frame, sent) };
        for index in &order[done..] {
            let Some(frame) = frames.get(usize::from(*index)) else {
                continue;
            };
            // SAFETY: as above.
            if let Err(reason) = unsafe { self.send_any(frame, list, max_frame, sent) } {
                lost(reason);
            }
        }
        self.queue.publish();
    }

    /// As [`Sender::settle`], of what was sent.
    #[inline(always)]
    pub fn settle(&mut self) -> bool {
        self.queue.wants_notification_after_fence() && self.queue.signal()
    }

    /// Asks for the descriptors that `wanted` frames will need.
    #[inline(always)]
    pub fn fetch_descriptors(&self, wanted: usize) {
        self.queue.prefetch_descriptors(wanted.min(BURST) as u16, 4);
    }

    /// Finds places for up to `wanted` frames and fetches them ahead; stops at the first chain that is not of one buffer. Returns how many there are.
    ///
    /// Called as soon as frames for this queue are likely: what it asks the other core for comes while they are parsed and decided.
    #[inline(always)]
    pub fn prepare(&mut self, wanted: usize) -> usize {
        if self.prepared >= wanted || self.fault.is_some() {
            return self.prepared.min(wanted);
        }
        // A fault is found again, and told, by whoever needs the chain.
        let available = self.queue.available(wanted as u16).unwrap_or(0);
        let count = usize::from(available).min(wanted).min(BURST);
        while self.prepared < count {
            let Some(Single { head, buffer }) = self.queue.single(self.prepared as u16, true)
            else {
                break;
            };
            self.places[self.prepared] = Place { head, buffer };
            self.prepared += 1;
            // The header's line is looked at, the next one holds the start of the frame.
            buffer.prefetch();
            prefetch_write(buffer.as_ptr().wrapping_add(LINE));
        }
        self.prepared
    }

    /// Sends plain frames in one way, up to the first that is not to be sent like this, or whose place is not one buffer. Adds them to `sent`, and answers how many. [`Self::finish_plain`] must follow those that are sent in a row, of which `left` are to come.
    ///
    /// # Safety
    /// The memory behind the frames is mapped.
    #[inline(always)]
    pub unsafe fn send_plain(
        &mut self,
        frames: &[PlainFrame],
        left: usize,
        max_frame: u32,
        sent: &mut Sent,
        mut way: impl Leave,
    ) -> usize {
        let (lead_len, sums) = (u32::from(self.net_header_len), self.accepts.partial_csum);
        let (mut done, mut bytes, mut room) = (0, 0, [0; ROOM]);
        loop {
            if self.filled == self.prepared {
                self.finish_places();
                self.prepare(left - done);
            }
            let places = &self.places[..self.prepared][self.filled..];
            let mut filled = 0;
            for (frame, place) in frames[done..].iter().zip(places) {
                let Some(front) = way.front(frame, &mut room) else {
                    break;
                };
                let len = frame.frame_len() + front.len() as u32;
                // A descriptor may claim any length.
                let needed = lead_len.saturating_add(len);
                if len > max_frame
                    || place.buffer.len() < needed
                    || frame.lead != NetHeader::NONE && !sums
                    || !way.admits(frame)
                {
                    break;
                }
                // SAFETY: the caller's word for the frame; the buffer lies in the queue's memory.
                unsafe { frame.write(lead_len, front, way.seen(), place.buffer) };
                self.queue.write_used(filled, place.head, needed);
                bytes += u64::from(len);
                filled += 1;
            }
            let wanted = places.len().min(frames.len() - done);
            self.queue.completed(filled);
            let filled = usize::from(filled);
            self.filled += filled;
            done += filled;
            if done == frames.len() || filled == 0 || filled < wanted {
                break;
            }
        }
        sent.packets += done as u64;
        sent.bytes += bytes;
        done
    }

    /// Asks for what showing frames will write.
    #[inline(always)]
    pub fn fetch_index(&self) {
        self.queue.prefetch_index();
    }

    /// Shows the frames of [`Self::send_plain`] to the guest, which is notified by [`Self::settle`].
    #[inline(always)]
    pub fn finish_plain(&mut self) {
        self.finish_places();
        self.queue.publish();
    }

    #[inline(always)]
    fn finish_places(&mut self) {
        if self.filled != 0 {
            self.queue.take(self.filled as u16);
            (self.filled, self.prepared) = (0, 0);
        }
    }

    /// Whether frames may be delivered to it, and it keeps to the rules.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.enabled && self.fault.is_none()
    }

    /// Sends frames that need nothing done and fit one buffer each; stops at the first other one. Returns how many.
    ///
    /// # Safety
    /// As [`Self::send`].
    #[inline(always)]
    unsafe fn send_simple(
        &mut self,
        frames: &[Frame],
        order: &[u8],
        list: &[GuestSlice],
        max_frame: u32,
        sent: &mut Sent,
    ) -> usize {
        let count = self.prepare(order.len());
        let lead_len = u32::from(self.net_header_len);
        let mut done = 0;
        let mut bytes = 0;
        for (index, place) in order.iter().zip(&self.places[..count]) {
            let Some(frame) = frames.get(usize::from(*index)) else {
                break;
            };
            let needed = lead_len + frame.len;
            let simple = (frame.offload.is_none()
                || frame.offload.gso == Gso::None && self.accepts.takes(&frame.offload))
                && frame.len <= max_frame
                && place.buffer.len() >= needed;
            if !simple {
                break;
            }
            if frame.len > 256 {
                prefetch_read(place.buffer.as_ptr().wrapping_add(512));
            }
            // SAFETY: the caller's word for the frame; the buffer lies in the queue's memory.
            unsafe {
                write_whole(frame, list, frame.offload.header(0), lead_len, place.buffer);
            }
            self.queue.complete(place.head, needed);
            bytes += u64::from(frame.len);
            done += 1;
        }
        sent.packets += done as u64;
        sent.bytes += bytes;
        self.queue.take(done as u16);
        self.prepared = 0;
        done
    }

    /// Sends any frame: cut, summed, over several buffers.
    ///
    /// # Safety
    /// As [`Self::send`].
    #[cold]
    unsafe fn send_any(
        &mut self,
        frame: &Frame,
        list: &[GuestSlice],
        max_frame: u32,
        sent: &mut Sent,
    ) -> Result<(), Drop> {
        if frame.len > MAX_FRAME {
            return Err(Drop::TooLarge);
        }
        let mut outgoing =
            Outgoing::new(frame, list, self.accepts).map_err(|_| Drop::BadOffload)?;
        check_mtu(frame, max_frame)?;
        sent.segmented += u64::from(outgoing.is_segmented());
        let header_len = frame.layout.innermost().payload;
        let lead_len = usize::from(self.net_header_len);
        while let Some(piece) = outgoing.next() {
            let needed = piece.len + lead_len as u32;
            self.reserve(needed)?;
            let mut lead: [u8; NET_HEADER_LEN] = piece.offload.write(header_len);
            lead[10..12].copy_from_slice(&(self.chains.len() as u16).to_le_bytes());
            // SAFETY: the caller's word for the frame; the buffers lie in the queue's memory.
            let summed = unsafe { outgoing.write(&piece, &lead[..lead_len], &self.buffers) };
            sent.checksums += u64::from(summed);
            let mut left = needed;
            for chain in &self.chains {
                let written = left.min(chain.writable_len);
                self.queue.complete(chain.head, written);
                left -= written;
            }
            self.queue.take(self.chains.len() as u16);
            sent.packets += 1;
            sent.bytes += u64::from(piece.len);
        }
        Ok(())
    }

    /// Gathers chains with room for `needed` bytes in `chains` and `buffers`.
    fn reserve(&mut self, needed: u32) -> Result<(), Drop> {
        self.buffers.clear();
        self.chains.clear();
        let mut room = 0_u32;
        while room < needed {
            let ahead = self.chains.len() as u16;
            if ahead > 0 && (!self.mergeable || usize::from(ahead) == MAX_SPAN) {
                return Err(Drop::BufferTooSmall);
            }
            let next = self.queue.available(ahead + 1).and_then(|available| {
                if available <= ahead {
                    Ok(None)
                } else {
                    self.queue.peek(ahead, &mut self.buffers).map(Some)
                }
            });
            let chain = match next {
                Ok(Some(chain)) if chain.readable == 0 => chain,
                Ok(Some(chain)) => {
                    self.fault = Some(QueueFault::ReadableInReceive(chain.head));
                    return Err(Drop::RingBroken);
                }
                Ok(None) => return Err(Drop::NoBuffers),
                Err(fault) => {
                    self.fault = Some(fault.into());
                    return Err(Drop::RingBroken);
                }
            };
            room = room.saturating_add(chain.writable_len);
            self.chains.push(chain);
        }
        Ok(())
    }
}

/// Asks for a frame's first lines: its virtio-net header if that says anything, and the headers of a short frame.
#[inline(always)]
fn fetch(first: GuestSlice, lead: Lead) {
    let (start, len) = (first.as_ptr(), usize::from(lead.len));
    prefetch_read(start.wrapping_add(if lead.is_mute { len } else { 0 }));
    prefetch_read(start.wrapping_add(len + SHORTEST - 1));
}

/// Refuses what is longer than the receiver's MTU allows; a frame that will be cut is judged by its segments.
pub fn check_mtu(frame: &Frame, max_frame: u32) -> Result<(), Drop> {
    if frame.longest_piece() > max_frame {
        Err(Drop::ExceedsMtu)
    } else {
        Ok(())
    }
}

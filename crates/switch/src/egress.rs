//! Frames going out: headers from the scratch copy, the rest straight from the sender's memory into the receiver's, with
//! segmentation and checksums done on the way where the receiver does not take them over.
//!
//! The one module of the switch that copies guest memory; it decides nothing.
#![allow(unsafe_code)]

use std::sync::atomic::{Ordering, compiler_fence};

use sumeru_packet::Checksum;
use sumeru_packet::plain::wrapped::{self, FrontKey, WrappedMask};
use sumeru_packet::plain::{self, PlainKey};
use sumeru_packet::segment::{Gso as Kind, SegmentError, SegmentPlan};
use sumeru_virtio::GuestSlice;

use crate::frame::{CAPTURE, Frame};
use crate::net_header::{
    Accepts, Gso, Lead, NET_HEADER_LEN, NetHeader, Offload, SHORT_NET_HEADER_LEN,
};

/// Bytes copied at a time when they are summed too; small enough to stay in the first-level cache.
const CHUNK: usize = 2048;

/// Reads the first bytes of a frame: its virtio-net header, `net_header_len` bytes long, and the start of its headers into the scratch.
/// `frame.len` and its segments are set already. False when the segments are shorter than they claim.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
#[inline(always)]
pub unsafe fn load(
    frame: &mut Frame,
    list: &[GuestSlice],
    net_header_len: u16,
    net_header: &mut [u8; SHORT_NET_HEADER_LEN],
) -> bool {
    let captured = (frame.len as usize).min(CAPTURE);
    let wanted = usize::from(net_header_len) + captured;
    frame.skip = wanted as u16;
    let Some(first) = frame.segments(list).first().copied() else {
        return false;
    };
    let header = frame.header.reset(captured);
    if first.len() as usize >= wanted {
        // SAFETY: mapped by the caller's word; the lengths were just checked.
        unsafe {
            if net_header_len != 0 {
                first.read(net_header);
            }
            first.skip(net_header_len.into()).read(header);
        }
        return true;
    }
    // The header in a descriptor of its own, or in many.
    let mut start = [0; NET_HEADER_LEN + CAPTURE];
    // SAFETY: as above.
    if !unsafe { gather_into(frame.segments(list), 0, &mut start[..wanted]) } {
        return false;
    }
    if net_header_len != 0 {
        net_header.copy_from_slice(&start[..SHORT_NET_HEADER_LEN]);
    }
    frame
        .header
        .reset(captured)
        .copy_from_slice(&start[usize::from(net_header_len)..wanted]);
    true
}

/// Extends the scratch to `to` header bytes, reading only those that were not read before. False when there are not so many.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
#[cold]
pub unsafe fn load_more(frame: &mut Frame, list: &[GuestSlice], to: usize) -> bool {
    let (have, to) = (frame.header.len(), to.min(frame.len as usize));
    let skip = usize::from(frame.skip);
    let mut more = [0; sumeru_packet::HEADER_MAX];
    let Some(more) = to.checked_sub(have).and_then(|n| more.get_mut(..n)) else {
        return false;
    };
    // SAFETY: mapped by the caller's word.
    if more.is_empty() || !unsafe { gather_into(frame.segments(list), skip, more) } {
        return false;
    }
    frame.header.reset(to)[have..].copy_from_slice(more);
    frame.skip += more.len() as u16;
    true
}

/// Extends the header copy to `to` bytes at its end, whatever was done to its front. False when there are not so many.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
#[cold]
pub unsafe fn load_behind(frame: &mut Frame, list: &[GuestSlice], to: usize) -> bool {
    let wanted = to
        .min(frame.len as usize)
        .saturating_sub(frame.header.len());
    let mut more = [0; sumeru_packet::HEADER_MAX];
    let Some(more) = more.get_mut(..wanted) else {
        return false;
    };
    // SAFETY: mapped by the caller's word.
    if more.is_empty() || !unsafe { gather_into(frame.segments(list), frame.skip.into(), more) } {
        return false;
    }
    let Ok(end) = frame.header.push_back(more.len()) else {
        return false;
    };
    end.copy_from_slice(more);
    frame.skip += more.len() as u16;
    true
}

/// The first bytes of a frame as it came in, behind a virtio-net header of `lead` bytes; returns how many were read. The sender may have changed them
/// since: they are to be looked at anew, and to be told to nobody else.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
#[cold]
pub unsafe fn original(frame: &Frame, list: &[GuestSlice], lead: u16, to: &mut [u8]) -> usize {
    let segments = frame.segments(list);
    let whole: usize = segments.iter().map(|segment| segment.len() as usize).sum();
    let len = whole.saturating_sub(lead.into()).min(to.len());
    // SAFETY: mapped by the caller's word.
    let read = unsafe { gather_into(segments, lead.into(), &mut to[..len]) };
    if read { len } else { 0 }
}

/// Adds `len` bytes of the frame from `from` on, which is in its header copy, to `sum`; false when there are not so many.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
#[cold]
pub unsafe fn add_to(
    sum: &mut Checksum,
    frame: &Frame,
    list: &[GuestSlice],
    from: usize,
    len: usize,
) -> bool {
    let header = frame.header.header();
    let (Some(covered), true) = (header.get(from..), from + len <= frame.len as usize) else {
        return false;
    };
    let head = covered.len().min(len);
    sum.add(&covered[..head]);
    let mut left = (len - head) as u32;
    let mut payload = Payload::new(frame, list, header.len());
    let mut chunk = [0; CHUNK];
    while left > 0
        && let Some(run) = payload.next(left.min(CHUNK as u32))
    {
        let chunk = &mut chunk[..run.len() as usize];
        // SAFETY: mapped by the caller's word.
        unsafe { run.read(chunk) };
        sum.add(chunk);
        left -= run.len();
    }
    left == 0
}

/// The whole frame, or its first `to.len()` bytes; returns how many.
///
/// # Safety
/// The memory behind the frame's segments is mapped.
pub unsafe fn linear(frame: &Frame, list: &[GuestSlice], to: &mut [u8]) -> usize {
    let header = frame.header.header();
    let (len, head) = (
        (frame.len as usize).min(to.len()),
        header.len().min(to.len()),
    );
    to[..head].copy_from_slice(&header[..head]);
    let rest = &mut to[head..len];
    // SAFETY: mapped by the caller's word.
    let whole =
        rest.is_empty() || unsafe { gather_into(frame.segments(list), frame.skip.into(), rest) };
    if whole { len } else { head }
}

/// Copies from `slices`, `skip` bytes in; false when they hold fewer.
///
/// # Safety
/// The memory behind the slices is mapped.
unsafe fn gather_into(slices: &[GuestSlice], skip: usize, mut to: &mut [u8]) -> bool {
    let mut skip = skip as u32;
    for slice in slices {
        let rest = slice.skip(skip);
        skip -= skip.min(slice.len());
        // SAFETY: as the caller says.
        let n = unsafe { rest.read(to) };
        to = &mut to[n..];
        if to.is_empty() {
            return true;
        }
    }
    to.is_empty()
}

/// The part of a frame behind its headers: what is left of the scratch copy, then the sender's memory.
struct Payload<'a> {
    tail: GuestSlice,
    current: GuestSlice,
    rest: &'a [GuestSlice],
}

impl<'a> Payload<'a> {
    /// The payload from `header_len` bytes of `frame`'s scratch on.
    fn new(frame: &'a Frame, list: &'a [GuestSlice], header_len: usize) -> Self {
        let tail = frame.header.header().get(header_len..).unwrap_or(&[]);
        // SAFETY: the scratch outlives the payload (lifetime 'a) and is only read through this slice.
        let tail = unsafe { GuestSlice::from_raw(tail.as_ptr().cast_mut(), tail.len() as u32) };
        let Scatter { current, rest } = Scatter::new(frame.segments(list), frame.skip.into());
        Self {
            tail,
            current,
            rest,
        }
    }

    /// The next run of at most `max` bytes.
    #[inline(always)]
    fn next(&mut self, max: u32) -> Option<GuestSlice> {
        if !self.tail.is_empty() {
            let run = self.tail.take(max);
            self.tail = self.tail.skip(run.len());
            return Some(run);
        }
        while self.current.is_empty() {
            let (first, others) = self.rest.split_first()?;
            (self.current, self.rest) = (*first, others);
        }
        let run = self.current.take(max);
        self.current = self.current.skip(run.len());
        Some(run)
    }

    fn skip(&mut self, mut bytes: u32) {
        while bytes > 0
            && let Some(run) = self.next(bytes)
        {
            bytes -= run.len();
        }
    }
}

/// A receiver's buffers as one run of bytes, written from the start or any later place.
struct Scatter<'a> {
    current: GuestSlice,
    rest: &'a [GuestSlice],
}

impl<'a> Scatter<'a> {
    fn new(slices: &'a [GuestSlice], mut at: u32) -> Self {
        let mut rest = slices;
        while let Some((first, others)) = rest.split_first() {
            rest = others;
            if at < first.len() {
                return Self {
                    current: first.skip(at),
                    rest,
                };
            }
            at -= first.len();
        }
        Self {
            current: GuestSlice::EMPTY,
            rest: &[],
        }
    }

    #[inline(always)]
    fn advance(&mut self) -> bool {
        while self.current.is_empty() {
            let Some((first, others)) = self.rest.split_first() else {
                return false;
            };
            (self.current, self.rest) = (*first, others);
        }
        true
    }

    /// # Safety
    /// The memory behind the slices is mapped.
    #[inline(always)]
    unsafe fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.advance() {
            // SAFETY: as the caller says.
            let n = unsafe { self.current.write(bytes) };
            bytes = &bytes[n..];
            self.current = self.current.skip(n as u32);
        }
    }

    /// # Safety
    /// The memory behind both is mapped.
    #[inline(always)]
    unsafe fn put_slice(&mut self, mut from: GuestSlice) {
        while !from.is_empty() && self.advance() {
            // SAFETY: as the caller says.
            let n = unsafe { self.current.write_slice(&from) } as u32;
            from = from.skip(n);
            self.current = self.current.skip(n);
        }
    }
}

/// Writes a frame whose offloads the receiver takes over, behind its virtio-net header of `lead_len` bytes (10 or 12), into one buffer that is long
/// enough.
///
/// # Safety
/// The memory behind `to` and the frame's segments is mapped.
#[inline(always)]
pub unsafe fn write_whole(
    frame: &Frame,
    list: &[GuestSlice],
    lead: NetHeader,
    lead_len: u32,
    to: GuestSlice,
) {
    let header = frame.header.header();
    // SAFETY: as the caller says; all writes are cut to the buffer's length.
    unsafe {
        write_lead(lead, lead_len, to);
        let mut at = to.skip(lead_len);
        at.write(header);
        if frame.len as usize > header.len() {
            at = at.skip(header.len() as u32);
            let (mut skip, mut left) = (u32::from(frame.skip), frame.payload_len());
            for segment in frame.segments(list) {
                let run = segment.skip(skip).take(left);
                skip -= skip.min(segment.len());
                at.write_slice(&run);
                at = at.skip(run.len());
                left -= run.len();
            }
        }
    }
}

/// A plain frame in one buffer of its sender: its first bytes read once, the rest where it lies.
#[derive(Clone, Copy, Debug)]
pub struct PlainFrame {
    /// The header that a receiver gets.
    pub lead: NetHeader,
    /// Its first bytes.
    pub bytes: [u8; plain::LEN],
    /// What follows them.
    pub rest: GuestSlice,
}

impl PlainFrame {
    /// No frame's.
    pub const EMPTY: Self = Self {
        lead: NetHeader::NONE,
        bytes: [0; plain::LEN],
        rest: GuestSlice::EMPTY,
    };

    /// Reads the start of a frame that lies in `buffer` behind a virtio-net header, which says nothing if it `is_mute`. False when it is too short, or more is left to do to it than the
    /// sum of its L4 header at most.
    ///
    /// # Safety
    /// The memory behind the buffer is mapped.
    #[inline(always)]
    pub unsafe fn read(&mut self, buffer: GuestSlice, Lead { len, is_mute }: Lead) -> bool {
        let begin = u32::from(len);
        // SAFETY: the caller's word; the lengths are checked.
        unsafe {
            let Some(bytes) = buffer.read_array(begin) else {
                return false;
            };
            self.bytes = bytes;
            // What is looked at from here on is the copy, which the compiler must not take for the original.
            compiler_fence(Ordering::AcqRel);
            self.rest = buffer.skip(begin + plain::LEN as u32);
            self.lead = NetHeader::NONE;
            if is_mute {
                return true;
            }
            let (Some(first), Some(offset)) = (buffer.read_array(0), buffer.read_array(8)) else {
                return false;
            };
            let first = u64::from_le_bytes(first);
            first as u16 == 0 || self.leaves_own_sum(first, u16::from_le_bytes(offset))
        }
    }

    /// Makes it the frame that is in this one, a plain one in a tunnel with nothing left to do; answers by what it is known. `None` when it is another.
    ///
    /// # Safety
    /// As [`Self::read`], with which the frame was read.
    #[inline(always)]
    pub unsafe fn unwrap(&mut self, mask: &WrappedMask) -> Option<(FrontKey, PlainKey)> {
        const MORE: usize = wrapped::LEN - plain::LEN;
        // SAFETY: the caller's word.
        let more: [u8; MORE] = unsafe { self.rest.read_array(0) }?;
        compiler_fence(Ordering::AcqRel);
        let mut bytes = [0; wrapped::LEN];
        bytes[..plain::LEN].copy_from_slice(&self.bytes);
        bytes[plain::LEN..].copy_from_slice(&more);
        let keys = mask.read(&bytes, self.frame_len() as usize)?;
        if self.lead != NetHeader::NONE {
            return None;
        }
        self.bytes = *bytes.last_chunk()?;
        self.rest = self.rest.skip(MORE as u32);
        Some(keys)
    }

    #[inline(never)]
    fn leaves_own_sum(&mut self, first: u64, offset: u16) -> bool {
        let field = if plain::is_tcp(&self.bytes) { 16 } else { 6 };
        let lead = NetHeader::of_own_sum(first, offset, plain::L4, field);
        self.lead = lead.unwrap_or(self.lead);
        lead.is_some()
    }

    /// Its length in bytes.
    #[inline(always)]
    pub fn frame_len(&self) -> u32 {
        plain::LEN as u32 + self.rest.len()
    }

    /// Writes it behind a header of `lead_len` bytes (10 or 12) and `front` into one buffer that is long enough. Of what follows its first bytes, `seen` was looked at and is written as it
    /// was then.
    ///
    /// # Safety
    /// The memory behind `to` and the frame is mapped.
    #[inline(always)]
    pub unsafe fn write(&self, lead_len: u32, front: &[u8], seen: &[u8], to: GuestSlice) {
        // SAFETY: the caller's word; all writes are cut to the buffer's length.
        unsafe {
            write_lead(self.lead, lead_len, to);
            let mut at = lead_len;
            if !front.is_empty() {
                to.skip(at).write(front);
                at += front.len() as u32;
            }
            to.write_array(at, &self.bytes);
            let rest = to.skip(at + plain::LEN as u32);
            rest.write_slice(&self.rest);
            if !seen.is_empty() {
                rest.write(seen);
            }
        }
    }
}

/// Writes a virtio-net header of `lead_len` bytes (10 or 12). Receivers see the same one nearly always: a line that holds it already stays clean.
///
/// # Safety
/// The memory behind `to` is mapped.
#[inline(always)]
unsafe fn write_lead(lead: NetHeader, lead_len: u32, to: GuestSlice) {
    // SAFETY: the caller's word; the bounds are checked.
    unsafe {
        to.update(0, lead.first.to_le());
        if lead_len as usize == NET_HEADER_LEN {
            to.update(8, lead.last.to_le());
        } else {
            to.update(8, (lead.last as u16).to_le());
        }
    }
}

/// One outgoing frame of an [`Outgoing`]: the original, or a segment of it.
pub struct Piece {
    /// Its length, without a virtio-net header.
    pub len: u32,
    /// What is left to the receiver.
    pub offload: Offload,
    /// Its number among those of the frame.
    pub index: usize,
}

/// A frame made ready for a receiver: its pieces are asked for one by one and written where there is room.
pub struct Outgoing<'a> {
    frame: &'a Frame,
    list: &'a [GuestSlice],
    accepts: Accepts,
    plan: Option<SegmentPlan>,
    next: usize,
}

impl<'a> Outgoing<'a> {
    /// Plans how `frame` goes to a receiver that takes `accepts`.
    ///
    /// # Errors
    /// When it would have to be cut and cannot be.
    pub fn new(
        frame: &'a Frame,
        list: &'a [GuestSlice],
        accepts: Accepts,
    ) -> Result<Self, SegmentError> {
        let kind = match frame.offload.gso {
            Gso::None => None,
            _ if accepts.takes(&frame.offload) && !frame.layout.has_inner() => None,
            Gso::TcpV4 => Some(Kind::TcpV4),
            Gso::TcpV6 => Some(Kind::TcpV6),
        };
        let header_len = usize::from(frame.layout.innermost().payload);
        let payload = (frame.len as usize).saturating_sub(header_len);
        let plan = |kind| {
            SegmentPlan::new(
                frame.header.header(),
                &frame.layout,
                payload,
                kind,
                frame.offload.gso_size,
            )
        };
        Ok(Self {
            frame,
            list,
            accepts,
            plan: kind.map(plan).transpose()?,
            next: 0,
        })
    }

    /// Whether it is cut into segments.
    pub fn is_segmented(&self) -> bool {
        self.plan.is_some()
    }

    /// The next piece.
    #[allow(
        clippy::should_implement_trait,
        reason = "the pieces borrow nothing, but `write` needs the whole between them"
    )]
    pub fn next(&mut self) -> Option<Piece> {
        let index = self.next;
        self.next += 1;
        let Some(plan) = &self.plan else {
            let whole = Piece {
                len: self.frame.len,
                offload: self.left(),
                index,
            };
            return (index == 0).then_some(whole);
        };
        (index < plan.count()).then(|| {
            let len = (plan.header_len() + plan.payload_len(index)) as u32;
            let offload = if self.accepts.partial_csum {
                self.frame.offload.without_gso()
            } else {
                Offload::NONE
            };
            Piece {
                len,
                offload,
                index,
            }
        })
    }

    /// The piece of a number, and on from there.
    pub fn nth(&mut self, index: usize) -> Option<Piece> {
        self.next = index;
        self.next()
    }

    /// What an uncut frame leaves to the receiver.
    fn left(&self) -> Offload {
        if self.accepts.partial_csum {
            self.frame.offload
        } else {
            Offload::NONE
        }
    }

    /// Writes a piece, behind a virtio-net header of `lead` (or nothing), to `to`, which has room for both. True when its checksum was completed here.
    ///
    /// # Safety
    /// The memory behind `to` and the frame's segments is mapped.
    pub unsafe fn write(&self, piece: &Piece, lead: &[u8], to: &[GuestSlice]) -> bool {
        let frame = self.frame;
        let mut scratch = [0; sumeru_packet::headroom::CAPACITY];
        let completes = frame.offload.partial_csum && !piece.offload.partial_csum;
        // SAFETY (of every copy below): the caller's word.
        let Some(plan) = &self.plan else {
            let header = &mut scratch[..frame.header.len()];
            header.copy_from_slice(frame.header.header());
            let mut payload = Payload::new(frame, self.list, header.len());
            let start = usize::from(frame.offload.csum_start);
            let mut sum = completes.then(|| start_sum(header, start));
            let mut out = Scatter::new(to, (lead.len() + header.len()) as u32);
            // SAFETY: see above.
            unsafe { copy(&mut payload, frame.payload_len(), &mut out, sum.as_mut()) };
            if let Some(sum) = sum {
                let at = start + usize::from(frame.offload.csum_offset);
                if let Some(field) = header.get_mut(at..at + 2) {
                    field.copy_from_slice(&sum.udp_value().to_be_bytes());
                }
            }
            let mut out = Scatter::new(to, 0);
            // SAFETY: see above.
            unsafe {
                out.put(lead);
                out.put(header);
            }
            return completes;
        };
        let Ok(segment) = plan.write(piece.index, frame.header.header(), &mut scratch) else {
            return false;
        };
        let header = &mut scratch[..segment.header_len];
        let mut payload = Payload::new(frame, self.list, segment.header_len);
        payload.skip(segment.payload_offset as u32);
        let mut sum = (!piece.offload.partial_csum).then_some(segment.sum);
        let mut out = Scatter::new(to, (lead.len() + header.len()) as u32);
        // SAFETY: see above.
        unsafe {
            copy(
                &mut payload,
                segment.payload_len as u32,
                &mut out,
                sum.as_mut(),
            )
        };
        segment.set_checksum(header, sum.map_or(segment.pseudo, |sum| sum.udp_value()));
        let mut out = Scatter::new(to, 0);
        // SAFETY: see above.
        unsafe {
            out.put(lead);
            out.put(header);
        }
        completes
    }
}

fn start_sum(header: &[u8], start: usize) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(header.get(start..).unwrap_or(&[]));
    sum
}

/// Copies `len` bytes, and adds them to `sum` if there is one.
///
/// # Safety
/// The memory behind both is mapped.
unsafe fn copy(from: &mut Payload, mut len: u32, to: &mut Scatter, mut sum: Option<&mut Checksum>) {
    let mut chunk = [0; CHUNK];
    while len > 0
        && let Some(run) = from.next(if sum.is_some() {
            len.min(CHUNK as u32)
        } else {
            len
        })
    {
        len -= run.len();
        let Some(sum) = sum.as_deref_mut() else {
            // SAFETY: as the caller says.
            unsafe { to.put_slice(run) };
            continue;
        };
        let chunk = &mut chunk[..run.len() as usize];
        // Summed from our own copy: the sum fits what is written, whatever the sender does meanwhile.
        // SAFETY: as the caller says.
        unsafe {
            run.read(chunk);
            to.put(chunk);
        }
        sum.add(chunk);
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;

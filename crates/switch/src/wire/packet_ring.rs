//! The receive ring of a packet socket (`PACKET_RX_RING`, version 2; kernel documentation "Packet MMAP").
//!
//! The kernel copies each frame into the next slot and marks it; looking for one costs a read of memory. Slots have room for a frame of the MTU. A
//! larger one (segments not yet cut) is marked `TP_STATUS_COPY` and waits whole in the socket's queue, in the order of the slots. Every length
//! and offset in a slot is held against the slot's size.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use sumeru_virtio::GuestSlice;

use super::Received;
use super::burst::tag_in_frame;
use super::syscall::{Mapping, set_option};
use crate::net_header::{Offload, SHORT_NET_HEADER_LEN};

/// Slots do not cross blocks; a block is one run of pages in the kernel.
const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 4;
/// What the kernel puts in front of a frame in its slot: two headers, the virtio-net header, alignment.
const SLOT_HEADERS: usize = 96;
/// Ethernet header and two VLAN tags.
const LINK_HEADERS: usize = 22;
/// Longest slot: beyond, frames take the way of large segments.
const SLOT_MAX: usize = 16 << 10;
// A burst takes only a part of the ring.
const _: () = assert!(BLOCKS * (BLOCK / (SLOT_MAX + 64)) > 64);
/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
const TAG_LEN: usize = 4;
const ADDRESSES_LEN: usize = 12;

/// What a slot holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// A virtio-net header and the frame, and the tag that was taken off it.
    Frame(GuestSlice, Option<[u8; 4]>),
    /// The frame is the next in the socket's queue.
    Queued,
    /// The frame was too long, and the socket's queue had no room.
    Cut,
    /// Lengths that contradict the slot.
    Bad,
}

/// The mapped ring. Slots are looked at in order and given back in order.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    memory: Mapping,
    slot_len: usize,
    per_block: usize,
    /// The next slot to look at, and the first one not given back.
    next: usize,
    lent: usize,
}

impl ReceiveRing {
    /// Makes the ring of a socket that already asks for offload headers and is not bound yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(socket: BorrowedFd<'_>, mtu: u32) -> io::Result<Self> {
        let set = |name, value: i32| set_option(socket, libc::SOL_PACKET, name, &value);
        set(
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V2 as i32,
        )?;
        // Any value but zero: frames longer than a slot are queued as well.
        set(libc::PACKET_COPY_THRESH, 1)?;
        // An odd number of cache lines, so that the headers of a burst fall into different cache sets.
        let room = (SLOT_HEADERS + mtu as usize + LINK_HEADERS).min(SLOT_MAX);
        let slot_len = (room.div_ceil(64) | 1) * 64;
        let per_block = BLOCK / slot_len;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: slot_len as u32,
            tp_frame_nr: (BLOCKS * per_block) as u32,
        };
        set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        Ok(Self {
            memory: Mapping::shared(socket, BLOCKS * BLOCK, 0)?,
            slot_len,
            per_block,
            next: 0,
            lent: 0,
        })
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> *mut u8 {
        let start = index / self.per_block * BLOCK + index % self.per_block * self.slot_len;
        self.memory.at(start)
    }

    #[inline(always)]
    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the first field of a slot's header, inside the mapping and aligned to 64 bytes; both sides use it as an atomic.
        unsafe { &*self.slot(index).cast::<AtomicU32>() }
    }

    #[inline(always)]
    fn after(&self, index: usize) -> usize {
        if index + 1 == self.per_block * BLOCKS {
            0
        } else {
            index + 1
        }
    }

    /// Whether a frame waits.
    #[inline(always)]
    pub(super) fn ready(&self) -> bool {
        self.status(self.next).load(Ordering::Relaxed) & libc::TP_STATUS_USER != 0
    }

    /// The next frame. Its slot is the kernel's again after [`Self::give_back`], due before the whole ring is taken.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Option<Slot> {
        let status = self.status(self.next).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let start = self.slot(self.next);
        self.next = self.after(self.next);
        // SAFETY: the header of a slot inside the mapping, which the kernel wrote before the status; integers, copied once.
        let header = unsafe { start.cast::<libc::tpacket2_hdr>().read_volatile() };
        if status & libc::TP_STATUS_COPY != 0 {
            return Some(Slot::Queued);
        }
        if header.tp_snaplen < header.tp_len {
            return Some(Slot::Cut);
        }
        let (frame, len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        let header_start = frame.saturating_sub(SHORT_NET_HEADER_LEN);
        let fits = len <= self.slot_len && frame + len <= self.slot_len;
        if header_start < size_of::<libc::tpacket2_hdr>() || !fits {
            return Some(Slot::Bad);
        }
        // SAFETY: inside the slot, by the lines above; the mapping lives as long as the port that lends the slice.
        let slice = unsafe {
            GuestSlice::from_raw(
                start.wrapping_add(header_start),
                (SHORT_NET_HEADER_LEN + len) as u32,
            )
        };
        let (tci, protocol) = (header.tp_vlan_tci, header.tp_vlan_tpid);
        Some(Slot::Frame(slice, tag_in_frame(status, tci, protocol)))
    }

    /// Gives the kernel back the slots of all frames taken.
    #[inline(always)]
    pub(super) fn give_back(&mut self) {
        while self.lent != self.next {
            self.status(self.lent)
                .store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.lent = self.after(self.lent);
        }
    }
}

/// The frame behind a virtio-net header, with its tag put back; `None` for one that is to be dropped.
#[inline(always)]
pub(super) fn frame_of(message: GuestSlice, tag: Option<[u8; 4]>) -> Option<Received> {
    let mut header = [0; SHORT_NET_HEADER_LEN];
    let mut data = message.skip(SHORT_NET_HEADER_LEN as u32);
    if (data.len() as usize) < FRAME_MIN {
        return None;
    }
    // SAFETY: a slot or buffer of our own, mapped as long as the port.
    unsafe { message.read(&mut header) };
    let mut offload = Offload::read(&header).ok()?;
    if let Some(tag) = tag {
        // Addresses and tag, over the end of the header, which was read.
        let mut moved = [0; ADDRESSES_LEN + TAG_LEN];
        moved[ADDRESSES_LEN..].copy_from_slice(&tag);
        let tagged = message.skip((SHORT_NET_HEADER_LEN - TAG_LEN) as u32);
        // SAFETY: as above.
        unsafe {
            data.read(&mut moved[..ADDRESSES_LEN]);
            tagged.write(&moved);
        }
        offload.shift(TAG_LEN as i16);
        data = tagged;
    }
    Some(Received { data, offload })
}

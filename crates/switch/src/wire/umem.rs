//! The frame memory of an AF_XDP socket: chunks to receive into, slots to send from, and who has which.
//!
//! Every address that comes back from the kernel is held against the memory's bounds before anything is read there.
#![allow(unsafe_code)]

use std::io;

use sumeru_virtio::GuestSlice;

use super::syscall::Mapping;

/// Bytes of a chunk, the most that every kernel takes.
pub(super) const CHUNK: u32 = 4096;
/// Chunks that circulate for receiving.
const RECEIVE_CHUNKS: u32 = 2048;
/// Chunks to send from.
const TRANSMIT_CHUNKS: u32 = 1024;

/// Entries of the rings on the two ways, powers of two. Every chunk has a place in its ring, so that none ever overflows.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSizes {
    /// Fill and receive ring.
    pub receive: u32,
    /// Transmit and completion ring.
    pub transmit: u32,
}

/// Receive chunks first, then slots of one or more chunks in a row, so that a long frame to send is in one piece for us.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Mapping,
    slot_chunks: u32,
    free: Vec<u32>,
    /// Chunks of each slot that the kernel has.
    away: Vec<u8>,
}

impl Umem {
    /// Memory whose slots hold frames of `frame_len` bytes (up to 16 chunks).
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(frame_len: u32) -> io::Result<Self> {
        let slot_chunks = frame_len.div_ceil(CHUNK).clamp(1, 16);
        let slots = TRANSMIT_CHUNKS / slot_chunks;
        let chunks = RECEIVE_CHUNKS + slots * slot_chunks;
        Ok(Self {
            memory: Mapping::anonymous(chunks as usize * CHUNK as usize)?,
            slot_chunks,
            free: (0..slots).rev().collect(),
            away: vec![0; slots as usize],
        })
    }

    /// What the kernel is told of it.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.at(0) as u64,
            len: self.memory.len() as u64,
            chunk_size: CHUNK,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// The sizes of rings that never overflow.
    pub(super) fn ring_sizes(&self) -> RingSizes {
        RingSizes {
            receive: RECEIVE_CHUNKS,
            transmit: TRANSMIT_CHUNKS,
        }
    }

    /// The addresses of all receive chunks.
    pub(super) fn receive_chunks(&self) -> impl Iterator<Item = u64> + use<> {
        (0..u64::from(RECEIVE_CHUNKS)).map(|chunk| chunk * u64::from(CHUNK))
    }

    /// The bytes of a received descriptor and the address of its chunk; `None` when they are not inside one receive chunk.
    #[inline(always)]
    pub(super) fn received(&self, descriptor: &libc::xdp_desc) -> Option<(GuestSlice, u64)> {
        let within = descriptor.addr % u64::from(CHUNK);
        let chunk = descriptor.addr - within;
        let inside = descriptor.addr < u64::from(RECEIVE_CHUNKS) * u64::from(CHUNK);
        if !inside || u64::from(descriptor.len) > u64::from(CHUNK) - within {
            return None;
        }
        // SAFETY: inside our mapping, by the lines above; it lives as long as the port that lends the slice.
        let slice = unsafe {
            GuestSlice::from_raw(self.memory.at(descriptor.addr as usize), descriptor.len)
        };
        Some((slice, chunk))
    }

    /// Takes a slot to fill.
    #[inline(always)]
    pub(super) fn take_slot(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Puts a slot back that nothing was sent from.
    #[inline]
    pub(super) fn return_slot(&mut self, slot: u32) {
        self.free.push(slot);
    }

    fn slot_start(&self, slot: u32) -> usize {
        let slot = (slot as usize).min(self.away.len() - 1);
        (RECEIVE_CHUNKS as usize + slot * self.slot_chunks as usize) * CHUNK as usize
    }

    /// All bytes of a slot.
    #[inline(always)]
    pub(super) fn slot(&self, slot: u32) -> GuestSlice {
        let len = self.slot_chunks * CHUNK;
        // SAFETY: inside our mapping; it lives as long as the port that lends the slice.
        unsafe { GuestSlice::from_raw(self.memory.at(self.slot_start(slot)), len) }
    }

    /// The descriptors that send the first `len` bytes of a slot: one for each chunk touched. The slot is the kernel's until as
    /// many addresses came back by [`Self::sent`].
    #[inline(always)]
    pub(super) fn descriptors(
        &mut self,
        slot: u32,
        len: u32,
    ) -> impl Iterator<Item = libc::xdp_desc> + use<> {
        let start = self.slot_start(slot) as u64;
        let len = len.min(self.slot_chunks * CHUNK);
        let pieces = len.div_ceil(CHUNK);
        if let Some(away) = self.away.get_mut(slot as usize) {
            *away = pieces as u8;
        }
        (0..pieces).map(move |piece| libc::xdp_desc {
            addr: start + u64::from(piece) * u64::from(CHUNK),
            len: (len - piece * CHUNK).min(CHUNK),
            options: if piece + 1 < pieces {
                libc::XDP_PKT_CONTD
            } else {
                0
            },
        })
    }

    /// The kernel gives back the chunk at `address`; false when it never had it.
    #[inline(always)]
    pub(super) fn sent(&mut self, address: u64) -> bool {
        let chunk = address / u64::from(CHUNK);
        let Some(chunk) = chunk.checked_sub(u64::from(RECEIVE_CHUNKS)) else {
            return false;
        };
        let slot = chunk / u64::from(self.slot_chunks);
        match self.away.get_mut(slot as usize) {
            Some(away) if *away != 0 => {
                *away -= 1;
                if *away == 0 {
                    self.free.push(slot as u32);
                }
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(addr: u64, len: u32) -> libc::xdp_desc {
        libc::xdp_desc {
            addr,
            len,
            options: 0,
        }
    }

    #[test]
    fn descriptors_outside_a_receive_chunk_are_refused() {
        let umem = Umem::new(1536).expect("memory");
        let end = u64::from(RECEIVE_CHUNKS * CHUNK);
        for (addr, len) in [
            (0, 4097),
            (1, 4096),
            (4095, 2),
            (256, u32::MAX),
            (end, 1),
            (end - 1, 2),
            (u64::MAX, 1),
            (u64::MAX - 4095, 4096),
            (1 << 48, 64),
        ] {
            assert!(
                umem.received(&descriptor(addr, len)).is_none(),
                "{addr:#x} {len}"
            );
        }
        for (addr, len, chunk) in [(0, 4096, 0), (4352, 3840, 4096), (end - 1, 1, end - 4096)] {
            let (slice, got) = umem.received(&descriptor(addr, len)).expect("inside");
            assert_eq!((slice.len(), got), (len, chunk));
        }
    }

    #[test]
    fn a_slot_comes_back_once_with_its_last_chunk() {
        let mut umem = Umem::new(9022).expect("memory");
        let slot = umem.take_slot().expect("a slot");
        let free = umem.free.len();
        let sent: Vec<_> = umem.descriptors(slot, 9014).collect();
        let lens: Vec<_> = sent.iter().map(|d| (d.len, d.options)).collect();
        assert_eq!(lens, [(4096, 1), (4096, 1), (822, 0)]);
        for (i, d) in sent.iter().enumerate() {
            assert_eq!(umem.free.len(), free, "piece {i}");
            assert!(umem.sent(d.addr));
        }
        assert_eq!(umem.free.len(), free + 1);
        // Completions that nobody is waiting for.
        for address in [sent[0].addr, 0, 4096, u64::MAX, 1 << 40] {
            assert!(!umem.sent(address), "{address:#x}");
        }
        assert_eq!(umem.free.len(), free + 1);
    }
}

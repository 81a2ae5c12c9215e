//! A frame on its way: a scratch copy of its headers, the rest borrowed where it lies, and what is left to do to it.
//!
//! Up to 256 bytes are copied once into the scratch; parsing, matching, edits and emission use that copy, so the sender changes
//! nothing any more that was decided. The rest stays in the sender's memory until it is copied to the receiver.

use sumeru_packet::headroom::Headroom;
use sumeru_packet::{FlowKey, Layout};
use sumeru_virtio::GuestSlice;

use crate::net_header::{Gso, Offload};

/// Frames handled in one go.
pub const BURST: usize = 32;
/// Header bytes copied at first; enough for all but deep stacks of headers.
pub const CAPTURE: usize = 128;
/// Longest frame carried, in bytes: the largest IP packet a segmentation offload makes, with its headers.
pub const MAX_FRAME: u32 = 65535 + 18 + 128;

/// Index of a port, the number that flow rules and keys carry.
pub type PortIndex = u16;

/// The frames of a set of those in hand, in their order: bit `n` stands for frame `n`.
#[inline(always)]
pub fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            lowest
        })
    })
}

/// One frame.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Frame {
    /// What matching looks at.
    pub key: FlowKey,
    /// Where the headers are, in `header`.
    pub layout: Layout,
    /// What is left to do.
    pub offload: Offload,
    /// The length now, edits included.
    pub len: u32,
    /// The first of its segments in the burst's list.
    pub first_segment: u32,
    /// How many segments.
    pub segments: u16,
    /// Bytes of the segments that `header` stands for (and any before the frame); the payload begins after them.
    pub skip: u16,
    /// Where it came in.
    pub in_port: PortIndex,
    /// Hash of the key's relevant bits.
    pub hash: u64,
    /// The headers, with room for outer ones.
    pub header: Headroom,
}

impl Frame {
    /// An empty frame.
    pub fn new() -> Self {
        Self {
            key: FlowKey::ZERO,
            layout: Layout::EMPTY,
            offload: Offload::NONE,
            len: 0,
            first_segment: 0,
            segments: 0,
            skip: 0,
            in_port: 0,
            hash: 0,
            header: Headroom::new(),
        }
    }

    /// Its segments in the burst's list.
    #[inline(always)]
    pub fn segments<'a>(&self, list: &'a [GuestSlice]) -> &'a [GuestSlice] {
        let first = self.first_segment as usize;
        &list[first..first + usize::from(self.segments)]
    }

    /// The length of what leaves: of the frame, or of the longest segment that it is cut into.
    #[inline]
    pub fn longest_piece(&self) -> u32 {
        match self.offload.gso {
            Gso::None => self.len,
            _ => {
                let headers = u32::from(self.layout.innermost().payload);
                self.len.min(headers + u32::from(self.offload.gso_size))
            }
        }
    }

    /// Takes the first bytes of a frame of our own making, which is in one piece, the first of its list.
    pub fn load_own(&mut self, bytes: &[u8]) {
        self.len = bytes.len() as u32;
        self.header.load(bytes);
        self.skip = self.header.len() as u16;
        self.segments = 1;
    }

    /// Bytes that are not in the header copy.
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        // The header never holds more than the frame; saturating keeps a mistake from becoming a huge copy.
        self.len.saturating_sub(self.header.len() as u32)
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

//! The virtio-net header (Virtio 1.2, section 5.1.6) and what it says of a frame: checksum and segmentation left to do.
//!
//! The same header travels with frames of guests, of TAP (`IFF_VNET_HDR`) and of packet sockets (`PACKET_VNET_HDR`).
//! Nothing in it is believed: [`Offload::checked`] holds it against the parsed headers.

use sumeru_packet::{L3Kind, LayerLayout, Layout};
use sumeru_virtio::features::net as feature;

/// Length of the header with `num_buffers`, in bytes.
pub const NET_HEADER_LEN: usize = 12;
/// Length without `num_buffers` (legacy devices without mergeable buffers, TAP, packet sockets).
pub const SHORT_NET_HEADER_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// `num_buffers` in [`NetHeader::last`]: right for all receivers but those whose frame spans several buffers.
const ONE_BUFFER: u32 = 1 << 16;

/// What stands in front of each frame of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lead {
    /// Its length in bytes: 12, or 10 of a legacy driver without mergeable buffers.
    pub len: u16,
    /// The driver negotiated no offload: its headers are all zero (5.1.6.2.1), or to be taken for that.
    pub is_mute: bool,
}

impl Lead {
    /// In front of the frames of a driver with these negotiated features.
    pub fn of_driver(len: u16, features: u64) -> Self {
        let offloads = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
        Self {
            len,
            is_mute: features & offloads == 0,
        }
    }
}

/// A header in the two words that it is compared and stored in. (Made of bytes and read back as words, it would wait for every store before it to
/// leave the store buffer: those into guest memory too.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetHeader {
    /// `flags` to `csum_start`, the first byte lowest.
    pub first: u64,
    /// `csum_offset` and `num_buffers`.
    pub last: u32,
}

impl NetHeader {
    /// Nothing left to do, nothing said.
    pub const NONE: Self = Self {
        first: 0,
        last: ONE_BUFFER,
    };

    /// From the first ten bytes of a driver's header before a frame whose L4 header begins at `l4` and has its sum at `field` from there: the header for a receiver, if only that sum is left
    /// to do.
    pub fn of_own_sum(first: u64, csum_offset: u16, l4: u16, field: u16) -> Option<Self> {
        let (kind, start) = (first as u16, (first >> 48) as u16);
        let own = kind == u16::from(F_NEEDS_CSUM) && (start, csum_offset) == (l4, field);
        own.then_some(Self {
            first: u64::from(F_NEEDS_CSUM) | u64::from(start) << 48,
            last: u32::from(csum_offset) | ONE_BUFFER,
        })
    }

    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; NET_HEADER_LEN] {
        let mut bytes = [0; NET_HEADER_LEN];
        bytes[..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..].copy_from_slice(&self.last.to_le_bytes());
        bytes
    }
}

/// How a large frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// What is left to do to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The L4 checksum field holds only the pseudo-header's sum: sum from `csum_start` to the end, store at `+ csum_offset`.
    pub partial_csum: bool,
    /// The L4 checksum was verified by whoever gave us the frame.
    pub verified: bool,
    /// Where the sum starts, from the first byte of the frame.
    pub csum_start: u16,
    /// Where the checksum field is, from `csum_start`.
    pub csum_offset: u16,
    /// Cut into segments.
    pub gso: Gso,
    /// TCP with ECN: CWR only on the first segment.
    pub ecn: bool,
    /// Payload bytes per segment.
    pub gso_size: u16,
}

/// A header that contradicts the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOffload;

impl Offload {
    /// Nothing left to do.
    pub const NONE: Self = Self {
        partial_csum: false,
        verified: false,
        csum_start: 0,
        csum_offset: 0,
        gso: Gso::None,
        ecn: false,
        gso_size: 0,
    };

    /// Whether nothing is left to do, nor said of the checksum.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        // A large frame has a partial checksum.
        !(self.partial_csum | self.verified)
    }

    /// Reads a header. Only its own form is checked here; see [`Self::checked`].
    ///
    /// # Errors
    /// A segmentation type that was not negotiated with anybody (UFO, USO, unknown).
    #[inline(always)]
    pub fn read(bytes: &[u8; SHORT_NET_HEADER_LEN]) -> Result<Self, BadOffload> {
        // All zero, but for hdr_len, by far most of the time.
        if bytes[0] | bytes[1] == 0 {
            return Ok(Self::NONE);
        }
        Self::read_slow(bytes)
    }

    #[cold]
    fn read_slow(bytes: &[u8; SHORT_NET_HEADER_LEN]) -> Result<Self, BadOffload> {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let partial_csum = bytes[0] & F_NEEDS_CSUM != 0;
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            _ => return Err(BadOffload),
        };
        let gso_size = if gso == Gso::None { 0 } else { word(4) };
        // A large frame always has its checksum left to do (5.1.6.2.1).
        if gso != Gso::None && (gso_size == 0 || !partial_csum) {
            return Err(BadOffload);
        }
        Ok(Self {
            partial_csum,
            verified: bytes[0] & F_DATA_VALID != 0,
            csum_start: if partial_csum { word(6) } else { 0 },
            csum_offset: if partial_csum { word(8) } else { 0 },
            gso,
            ecn: gso != Gso::None && bytes[1] & GSO_ECN != 0,
            gso_size,
        })
    }

    /// Whether nothing is left to do to a parsed frame, or only the sum of its outermost L4 header.
    #[inline(always)]
    pub fn is_own_sum_at_most(&self, layout: &Layout) -> bool {
        let outer = layout.outer();
        let offset = if outer.l4_proto == 6 { 16 } else { 6 };
        let own = (self.csum_start, self.csum_offset) == (outer.l4, offset);
        self.is_none() || self.partial_csum && !self.verified && self.gso == Gso::None && own
    }

    /// Holds the offload against the parsed frame of `frame_len` bytes, of which `captured` were parsed.
    ///
    /// # Errors
    /// A checksum outside the frame or the captured bytes, or a segmentation type that is not the frame's.
    #[inline(always)]
    pub fn checked(
        &self,
        layout: &Layout,
        captured: usize,
        frame_len: u32,
    ) -> Result<(), BadOffload> {
        if self.partial_csum {
            self.checked_slow(layout, captured, frame_len)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn checked_slow(
        &self,
        layout: &Layout,
        captured: usize,
        frame_len: u32,
    ) -> Result<(), BadOffload> {
        let field_end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        if field_end > captured || field_end as u32 > frame_len {
            return Err(BadOffload);
        }
        let layer = layout.innermost();
        // The field's own place, or behind all that was parsed: written elsewhere, the sum would change what was matched.
        let is_own = |layer: &LayerLayout| {
            let offset = if layer.l4_proto == 6 { 16 } else { 6 };
            matches!(layer.l4_proto, 6 | 17)
                && layer.has_l4()
                && (self.csum_start, self.csum_offset) == (layer.l4, offset)
        };
        if !layout.layers.iter().any(is_own) && field_end < usize::from(layer.payload) + 2 {
            return Err(BadOffload);
        }
        let wanted = match self.gso {
            Gso::None => return Ok(()),
            Gso::TcpV4 => L3Kind::Ipv4,
            Gso::TcpV6 => L3Kind::Ipv6,
        };
        let is_tcp = layer.l4_proto == 6 && layer.has_l4() && !layer.is_fragment();
        let starts_right = layer.l4 == self.csum_start && self.csum_offset == 16;
        if layer.l3_kind == wanted && is_tcp && starts_right {
            Ok(())
        } else {
            Err(BadOffload)
        }
    }

    /// The same for a segment: the checksum is left to do, nothing more.
    pub fn without_gso(self) -> Self {
        Self {
            gso: Gso::None,
            ecn: false,
            gso_size: 0,
            ..self
        }
    }

    /// Moves the checksum's place by `delta` bytes: headers were pushed or pulled in front of it.
    #[inline]
    pub fn shift(&mut self, delta: i16) {
        if self.partial_csum {
            self.csum_start = self.csum_start.saturating_add_signed(delta);
        }
    }

    /// The header for a receiver that takes this offload as it is. `header_len`: bytes up to the end of L4 (a hint, 5.1.6.2).
    #[inline(always)]
    pub fn header(&self, header_len: u16) -> NetHeader {
        if !self.partial_csum {
            return NetHeader {
                first: if self.verified { F_DATA_VALID } else { 0 }.into(),
                last: ONE_BUFFER,
            };
        }
        let segmentation = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => self.segmentation(GSO_TCPV4, header_len),
            Gso::TcpV6 => self.segmentation(GSO_TCPV6, header_len),
        };
        NetHeader {
            first: u64::from(F_NEEDS_CSUM) | segmentation | u64::from(self.csum_start) << 48,
            last: u32::from(self.csum_offset) | ONE_BUFFER,
        }
    }

    /// `gso_type`, `hdr_len` and `gso_size` in their places.
    fn segmentation(&self, kind: u8, header_len: u16) -> u64 {
        let kind = kind | if self.ecn { GSO_ECN } else { 0 };
        u64::from(kind) << 8 | u64::from(header_len) << 16 | u64::from(self.gso_size) << 32
    }

    /// The bytes of [`Self::header`].
    pub fn write(&self, header_len: u16) -> [u8; NET_HEADER_LEN] {
        self.header(header_len).to_bytes()
    }
}

/// Which offloads a receiver takes as they are; what it does not take is done in software while copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Accepts {
    /// Partial checksums.
    pub partial_csum: bool,
    /// Large TCP segments over IPv4.
    pub tcp4: bool,
    /// Large TCP segments over IPv6.
    pub tcp6: bool,
    /// Large TCP segments with ECN.
    pub ecn: bool,
}

impl Accepts {
    /// What a driver with these negotiated virtio-net features takes.
    pub fn from_features(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        let partial_csum = has(feature::GUEST_CSUM);
        Self {
            partial_csum,
            tcp4: partial_csum && has(feature::GUEST_TSO4),
            tcp6: partial_csum && has(feature::GUEST_TSO6),
            ecn: has(feature::GUEST_ECN),
        }
    }

    /// Whether a frame may go out with its offload left to the receiver.
    #[inline(always)]
    pub fn takes(&self, offload: &Offload) -> bool {
        let gso = match offload.gso {
            Gso::None => true,
            Gso::TcpV4 => self.tcp4,
            Gso::TcpV6 => self.tcp6,
        };
        // Without GUEST_CSUM no flag may be set at all (5.1.6.4.1).
        (!(offload.partial_csum | offload.verified) || self.partial_csum)
            && gso
            && (!offload.ecn || self.ecn)
    }
}

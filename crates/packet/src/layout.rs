//! Offsets of the headers that [`parse`](crate::parse()) found in a frame.
//!
//! Offsets are bytes from the first byte of the frame. They never exceed [`HEADER_MAX`](crate::HEADER_MAX) and always
//! point inside the captured header bytes that were parsed, so a header at an offset is there in full.

use crate::checksum::{Checksum, pseudo_ipv4, pseudo_ipv6};
use crate::field::TunnelKind;
use crate::parse::PROTO_UDP;

/// Network-layer protocol of a layer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum L3Kind {
    /// No header above Ethernet was recognised.
    #[default]
    None = 0,
    /// ARP for IPv4 over Ethernet.
    Arp = 1,
    /// IPv4.
    Ipv4 = 4,
    /// IPv6.
    Ipv6 = 6,
}

/// The headers of one layer. 16 bytes, so a burst of layouts stays in few cache lines.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LayerLayout {
    /// Start of the layer: its Ethernet header, or with [`LayerLayout::NO_ETHERNET`] its IP header.
    pub eth: u16,
    /// First VLAN tag, pointing at its TPID (the EtherType position of the Ethernet header); 0 when untagged.
    pub vlan: u16,
    /// IP or ARP header; 0 when none was recognised.
    pub l3: u16,
    /// Length of the IP header with IPv4 options or IPv6 extension headers, or of the ARP packet; 0 when none.
    pub l3_len: u16,
    /// L4 header; 0 when there is none that is understood, or the packet is a later fragment.
    pub l4: u16,
    /// First byte after the last header that was recognised in this layer. For a tunnel this is the tunnel's own
    /// header (VXLAN, Geneve, GRE, GTP-U header, MPLS label stack).
    pub payload: u16,
    /// Network-layer protocol.
    pub l3_kind: L3Kind,
    /// IP protocol number (last IPv6 next header); 0 for other than IP.
    pub l4_proto: u8,
    /// Number of VLAN tags, 0..=2.
    pub vlan_tags: u8,
    /// [`LayerLayout::FRAGMENT`], [`LayerLayout::ROUTED`], [`LayerLayout::NO_ETHERNET`] and in the high half the
    /// number of the layer's [`TunnelKind`].
    pub flags: u8,
}

const _: () = assert!(size_of::<LayerLayout>() == 16);

impl LayerLayout {
    /// The sum of the pseudo-header of a UDP datagram of `len` bytes in this layer's IP packet (RFC 768, RFC 8200 section 8.1).
    pub fn udp_pseudo_header(&self, header: &[u8], len: u32) -> Checksum {
        let at = usize::from(self.l3);
        let wide = |from: usize| {
            let bytes = header.get(from..).and_then(|b| b.first_chunk::<16>());
            bytes.map_or(0, |b| u128::from_be_bytes(*b))
        };
        if self.l3_kind == L3Kind::Ipv4 {
            // Both addresses are the last eight bytes of the fixed header.
            let both = wide(at + 4) as u64;
            pseudo_ipv4((both >> 32) as u32, both as u32, PROTO_UDP, len)
        } else {
            pseudo_ipv6(wide(at + 8), wide(at + 24), PROTO_UDP, len)
        }
    }

    /// Bit of `flags`: the packet is a fragment (first or later).
    pub const FRAGMENT: u8 = 1;
    /// Bit of `flags`: an IPv6 routing header has segments left, so the destination address in the header is not
    /// the one of the L4 pseudo-header (RFC 8200 section 8.1).
    pub const ROUTED: u8 = 2;
    /// Bit of `flags`: the layer has no Ethernet header and starts with IP (only an inner layer).
    pub const NO_ETHERNET: u8 = 4;
    /// The lowest bit of the tunnel's number in `flags`.
    pub const TUNNEL_SHIFT: u32 = 4;

    /// A layer with no header.
    pub const EMPTY: LayerLayout = LayerLayout {
        eth: 0,
        vlan: 0,
        l3: 0,
        l3_len: 0,
        l4: 0,
        payload: 0,
        l3_kind: L3Kind::None,
        l4_proto: 0,
        vlan_tags: 0,
        flags: 0,
    };

    /// Whether the layer has an L4 header.
    #[inline(always)]
    pub const fn has_l4(&self) -> bool {
        self.l4 != 0
    }

    /// Whether the layer starts with an Ethernet header.
    #[inline(always)]
    pub const fn has_ethernet(&self) -> bool {
        self.flags & Self::NO_ETHERNET == 0
    }

    /// What the layer carries its payload in.
    #[inline(always)]
    pub const fn tunnel_kind(&self) -> TunnelKind {
        TunnelKind::from_number(self.flags >> Self::TUNNEL_SHIFT)
    }

    /// The same layer carrying a tunnel of `kind`.
    #[must_use]
    pub const fn with_tunnel(mut self, kind: TunnelKind) -> LayerLayout {
        self.flags = self.flags & 0x0f | (kind as u8) << Self::TUNNEL_SHIFT;
        self
    }

    /// Whether the packet is a fragment.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.flags & Self::FRAGMENT != 0
    }
}

/// The headers of a frame: layer 0 outermost, layer 1 inside a tunnel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Layout {
    /// Outer and inner layer; the inner one is all zero when there is none.
    pub layers: [LayerLayout; 2],
}

const _: () = assert!(size_of::<Layout>() == 32);

impl Layout {
    /// A layout with no header.
    pub const EMPTY: Layout = Layout {
        layers: [LayerLayout::EMPTY; 2],
    };

    /// The layer outermost in the frame.
    #[inline(always)]
    pub const fn outer(&self) -> &LayerLayout {
        &self.layers[0]
    }

    /// The layer inside a tunnel, if it was parsed.
    #[inline(always)]
    pub const fn inner(&self) -> Option<&LayerLayout> {
        if self.has_inner() {
            Some(&self.layers[1])
        } else {
            None
        }
    }

    /// Whether there is an inner layer.
    #[inline(always)]
    pub const fn has_inner(&self) -> bool {
        // An inner layer never starts at offset zero.
        self.layers[1].eth != 0
    }

    /// The inner layer if there is one, else the outer: the one whose L4 header is the sender's own.
    #[inline(always)]
    pub const fn innermost(&self) -> &LayerLayout {
        if self.has_inner() {
            &self.layers[1]
        } else {
            &self.layers[0]
        }
    }

    /// Where the header of the tunnel around the inner layer starts and how long it is, with its options, in bytes;
    /// `None` without an inner layer.
    #[inline(always)]
    pub const fn tunnel(&self) -> Option<(usize, usize)> {
        if self.has_inner() {
            let at = self.layers[0].payload;
            Some((at as usize, self.layers[1].eth.saturating_sub(at) as usize))
        } else {
            None
        }
    }

    /// Moves every offset by `delta` bytes, as after a push (`delta > 0`) or pull at the front of the header.
    /// Headers that a pull removed must have been dropped from the layout before.
    pub fn shift(&mut self, delta: i16) {
        for layer in &mut self.layers {
            if layer.payload == 0 {
                continue;
            }
            layer.eth = layer.eth.saturating_add_signed(delta);
            layer.payload = layer.payload.saturating_add_signed(delta);
            for offset in [&mut layer.vlan, &mut layer.l3, &mut layer.l4] {
                if *offset != 0 {
                    *offset = offset.saturating_add_signed(delta);
                }
            }
        }
    }
}

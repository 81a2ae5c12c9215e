//! Segmentation in software: one large TCP or UDP packet becomes many of at most `mss` payload bytes each.
//!
//! The plan is pure arithmetic over the header stack; payload is never touched. TCP over IPv4 and IPv6, UDP (as USO
//! does it: equal datagrams), plain or inside a tunnel, whose outer lengths follow. Sequence numbers, flags and
//! identification as in RFC 9293, RFC 3168 section 6.1.2 (CWR on the first segment only) and RFC 6864.
//!
//! It never fragments IP packets.

use core::fmt;

use crate::checksum::{Checksum, pseudo_ipv4, pseudo_ipv6};
use crate::field::TunnelKind;
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{PROTO_TCP, PROTO_UDP};
use crate::view::{Ipv4, Ipv6, Tcp, Udp};
use zerocopy::FromBytes;

/// Most segments of one packet: 64 KiB at the smallest MSS that TCP stacks use (48 bytes). A guest cannot make more
/// work than that with one descriptor chain.
pub const SEGMENTS_MAX: usize = 1366;

/// The part of a GTP-U header that its length does not count (3GPP TS 29.281 section 5.1).
const GTPU_FIXED: usize = 8;

/// What is segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gso {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv4 or IPv6, each segment a datagram.
    Udp,
}

/// Why a packet cannot be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentError {
    /// The innermost headers are not of the kind announced, or the packet is a fragment.
    WrongHeaders,
    /// The MSS is zero or a segment would exceed an IP packet (65535 bytes).
    BadMss,
    /// More than [`SEGMENTS_MAX`] segments.
    TooManySegments,
    /// A TCP packet with SYN or RST, whose sequence numbers do not split.
    BadFlags,
    /// The header bytes or the output buffer are shorter than the header stack, or the index is past the last.
    OutOfRange,
}

impl SegmentError {
    /// Short stable name, for counters and traces.
    pub const fn as_str(self) -> &'static str {
        match self {
            SegmentError::WrongHeaders => "gso-wrong-headers",
            SegmentError::BadMss => "gso-bad-mss",
            SegmentError::TooManySegments => "gso-too-many-segments",
            SegmentError::BadFlags => "gso-bad-flags",
            SegmentError::OutOfRange => "gso-out-of-range",
        }
    }
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for SegmentError {}

/// How one packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlan {
    layout: Layout,
    tcp: bool,
    payload_len: usize,
    mss: usize,
    count: usize,
}

/// One segment: which payload it carries and how to finish its L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Length of the header stack written, in bytes.
    pub header_len: usize,
    /// First payload byte, counted from the first byte after the header stack of the large packet.
    pub payload_offset: usize,
    /// Payload bytes.
    pub payload_len: usize,
    /// Sum of the pseudo-header and the L4 header as written. Add the payload; [`Checksum::udp_value`] of the
    /// whole is the L4 checksum (for TCP too: 0 and 0xffff are the same number there).
    pub sum: Checksum,
    /// Sum of the pseudo-header alone: what the checksum field holds if the receiver completes it (virtio
    /// `NEEDS_CSUM`).
    pub pseudo: u16,
    /// Where the L4 header starts: virtio's `csum_start`.
    pub csum_start: u16,
    /// Where the checksum is in the L4 header: virtio's `csum_offset`.
    pub csum_offset: u16,
}

impl Segment {
    /// Writes an L4 checksum (complete, or [`Segment::pseudo`]) into the header that [`SegmentPlan::write`] made. No
    /// effect on a buffer shorter than that header.
    #[inline]
    pub fn set_checksum(&self, header: &mut [u8], checksum: u16) {
        let at = usize::from(self.csum_start + self.csum_offset);
        if let Some(field) = header.get_mut(at..at + 2) {
            field.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

impl SegmentPlan {
    /// Plans the packet whose header stack is `header`, described by `layout`, with `payload_len` bytes after it.
    /// `mss` is the most payload bytes of a segment (virtio's `gso_size`).
    ///
    /// # Errors
    /// See [`SegmentError`].
    pub fn new(
        header: &[u8],
        layout: &Layout,
        payload_len: usize,
        gso: Gso,
        mss: u16,
    ) -> Result<SegmentPlan, SegmentError> {
        let layer = layout.innermost();
        let kind_fits = match gso {
            Gso::TcpV4 => layer.l3_kind == L3Kind::Ipv4 && layer.l4_proto == PROTO_TCP,
            Gso::TcpV6 => layer.l3_kind == L3Kind::Ipv6 && layer.l4_proto == PROTO_TCP,
            Gso::Udp => {
                matches!(layer.l3_kind, L3Kind::Ipv4 | L3Kind::Ipv6) && layer.l4_proto == PROTO_UDP
            }
        };
        if !kind_fits || layer.l4 == 0 || layer.is_fragment() || layout.outer().is_fragment() {
            return Err(SegmentError::WrongHeaders);
        }
        let header_len = usize::from(layer.payload);
        if header.len() < header_len {
            return Err(SegmentError::OutOfRange);
        }
        let tcp = gso != Gso::Udp;
        if tcp {
            let view = view_at::<Tcp>(header, layer.l4)?;
            if view.flags & (Tcp::SYN | Tcp::RST) != 0 {
                return Err(SegmentError::BadFlags);
            }
        }
        let mss = usize::from(mss);
        // The largest IP packet of the result starts at the outermost IP header.
        let stack = header_len - usize::from(layout.outer().l3);
        if mss == 0 || stack + mss.min(payload_len) > usize::from(u16::MAX) {
            return Err(SegmentError::BadMss);
        }
        let count = payload_len.div_ceil(mss).max(1);
        if count > SEGMENTS_MAX {
            return Err(SegmentError::TooManySegments);
        }
        Ok(SegmentPlan {
            layout: *layout,
            tcp,
            payload_len,
            mss,
            count,
        })
    }

    /// Number of segments, 1..=[`SEGMENTS_MAX`].
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length of the header stack of every segment.
    pub const fn header_len(&self) -> usize {
        self.layout.innermost().payload as usize
    }

    /// Payload bytes of segment `index`; zero past the last.
    pub const fn payload_len(&self, index: usize) -> usize {
        let rest = self.payload_len.saturating_sub(index * self.mss);
        if rest < self.mss { rest } else { self.mss }
    }

    /// Writes the header stack of segment `index` to the front of `out`. `header` is the one the plan was made
    /// from. The innermost L4 checksum field is zero until [`Segment::set_checksum`]; a nonzero outer UDP checksum
    /// is replaced by the right one for a completed inner checksum.
    ///
    /// # Errors
    /// [`SegmentError::OutOfRange`].
    pub fn write(
        &self,
        index: usize,
        header: &[u8],
        out: &mut [u8],
    ) -> Result<Segment, SegmentError> {
        let header_len = self.header_len();
        let out = out.get_mut(..header_len).ok_or(SegmentError::OutOfRange)?;
        out.copy_from_slice(header.get(..header_len).ok_or(SegmentError::OutOfRange)?);
        if index >= self.count {
            return Err(SegmentError::OutOfRange);
        }
        let payload_len = self.payload_len(index);
        let payload_offset = index * self.mss;
        let layer = self.layout.innermost();
        let end = header_len + payload_len;

        set_ip_length(out, layer, end, index)?;
        let csum_offset = if self.tcp {
            let last = index + 1 == self.count;
            let tcp = view_at_mut::<Tcp>(out, layer.l4)?;
            tcp.seq
                .set(tcp.seq.get().wrapping_add(payload_offset as u32));
            if !last {
                tcp.flags &= !(Tcp::FIN | Tcp::PSH);
            }
            if index > 0 {
                tcp.flags &= !Tcp::CWR;
            }
            tcp.checksum.set(0);
            16
        } else {
            let udp = view_at_mut::<Udp>(out, layer.l4)?;
            udp.len.set((end - usize::from(layer.l4)) as u16);
            udp.checksum.set(0);
            6
        };
        let pseudo = pseudo_header(out, layer, end)?;
        let mut sum = pseudo;
        sum.add(&out[usize::from(layer.l4)..]);
        if self.layout.has_inner() {
            set_tunnel_length(out, &self.layout, end, index)?;
        }
        Ok(Segment {
            header_len,
            payload_offset,
            payload_len,
            sum,
            pseudo: pseudo.folded(),
            csum_start: layer.l4,
            csum_offset,
        })
    }
}

fn view_at<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned>(
    header: &[u8],
    at: u16,
) -> Result<&T, SegmentError> {
    let bytes = header
        .get(usize::from(at)..)
        .ok_or(SegmentError::OutOfRange)?;
    T::ref_from_prefix(bytes)
        .map(|(view, _)| view)
        .map_err(|_| SegmentError::OutOfRange)
}

fn view_at_mut<T: FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout + zerocopy::Unaligned>(
    header: &mut [u8],
    at: u16,
) -> Result<&mut T, SegmentError> {
    let bytes = header
        .get_mut(usize::from(at)..)
        .ok_or(SegmentError::OutOfRange)?;
    T::mut_from_prefix(bytes)
        .map(|(view, _)| view)
        .map_err(|_| SegmentError::OutOfRange)
}

/// Sets the length of the layer's IP header for a packet that ends `end` bytes into the frame; for IPv4 also the
/// identification and the header checksum.
fn set_ip_length(
    out: &mut [u8],
    layer: &LayerLayout,
    end: usize,
    index: usize,
) -> Result<(), SegmentError> {
    let l3 = usize::from(layer.l3);
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            let ip = view_at_mut::<Ipv4>(out, layer.l3)?;
            ip.total_len.set((end - l3) as u16);
            ip.id.set(ip.id.get().wrapping_add(index as u16));
            ip.checksum.set(0);
            let header = out
                .get(l3..l3 + usize::from(layer.l3_len))
                .ok_or(SegmentError::OutOfRange)?;
            let checksum = crate::checksum::checksum(header);
            view_at_mut::<Ipv4>(out, layer.l3)?.checksum.set(checksum);
            Ok(())
        }
        L3Kind::Ipv6 => {
            view_at_mut::<Ipv6>(out, layer.l3)?
                .payload_len
                .set((end - l3 - Ipv6::LEN) as u16);
            Ok(())
        }
        _ => Err(SegmentError::WrongHeaders),
    }
}

/// The pseudo-header sum of the layer's L4 packet that ends `end` bytes into the frame.
fn pseudo_header(out: &[u8], layer: &LayerLayout, end: usize) -> Result<Checksum, SegmentError> {
    let len = (end - usize::from(layer.l4)) as u32;
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            let ip = view_at::<Ipv4>(out, layer.l3)?;
            Ok(pseudo_ipv4(ip.src.get(), ip.dst.get(), layer.l4_proto, len))
        }
        L3Kind::Ipv6 => {
            let ip = view_at::<Ipv6>(out, layer.l3)?;
            Ok(pseudo_ipv6(
                u128::from_be_bytes(ip.src),
                u128::from_be_bytes(ip.dst),
                layer.l4_proto,
                len,
            ))
        }
        _ => Err(SegmentError::WrongHeaders),
    }
}

/// Sets the outer lengths of a tunnelled frame of `end` bytes, the outer UDP checksum unless it is zero, and the GRE
/// checksum if there is one.
fn set_tunnel_length(
    out: &mut [u8],
    layout: &Layout,
    end: usize,
    index: usize,
) -> Result<(), SegmentError> {
    let outer = layout.outer();
    match outer.tunnel_kind() {
        TunnelKind::Mpls => return Ok(()),
        TunnelKind::Gre => {
            set_ip_length(out, outer, end, index)?;
            return set_gre_checksum(out, layout, end);
        }
        TunnelKind::Gtpu => {
            let at = usize::from(outer.payload);
            let len = (end - at - GTPU_FIXED) as u16;
            out.get_mut(at + 2..at + 4)
                .ok_or(SegmentError::OutOfRange)?
                .copy_from_slice(&len.to_be_bytes());
        }
        TunnelKind::None | TunnelKind::Esp => return Err(SegmentError::WrongHeaders),
        TunnelKind::Vxlan | TunnelKind::VxlanGpe | TunnelKind::Geneve => {}
    }
    set_ip_length(out, outer, end, index)?;
    let udp = view_at_mut::<Udp>(out, outer.l4)?;
    udp.len.set((end - usize::from(outer.l4)) as u16);
    if udp.checksum.get() != 0 {
        let checksum = tunnel_checksum(out, layout, end)?;
        view_at_mut::<Udp>(out, outer.l4)?.checksum.set(checksum);
    }
    Ok(())
}

/// Sets the GRE checksum of a frame of `end` bytes, if the GRE header has one.
fn set_gre_checksum(out: &mut [u8], layout: &Layout, end: usize) -> Result<(), SegmentError> {
    let at = usize::from(layout.outer().payload);
    let flags = out.get(at).ok_or(SegmentError::OutOfRange)?;
    if flags & 0x80 == 0 {
        return Ok(());
    }
    let value = gre_checksum(out, layout, end)?;
    out.get_mut(at + 4..at + 6)
        .ok_or(SegmentError::OutOfRange)?
        .copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// The GRE checksum (RFC 2784 section 2.1) of a frame of `frame_len` bytes, under the same conditions as
/// [`tunnel_checksum`].
///
/// # Errors
/// [`SegmentError::WrongHeaders`] when the layout is not GRE around such a packet, [`SegmentError::OutOfRange`].
pub fn gre_checksum(header: &[u8], layout: &Layout, frame_len: usize) -> Result<u16, SegmentError> {
    let outer = layout.outer();
    if outer.tunnel_kind() != TunnelKind::Gre {
        return Err(SegmentError::WrongHeaders);
    }
    covered_sum(header, layout, frame_len, outer.payload, 4, Checksum::new()).map(|sum| sum.value())
}

/// The outer UDP checksum of a tunnelled frame of `frame_len` bytes whose inner L4 checksum is, or will be, complete,
/// without looking at the payload: the inner L4 packet then sums to the complement of its pseudo-header (what Linux
/// calls local checksum offload). Inner TCP, UDP with a checksum, ICMP and ICMPv6.
///
/// # Errors
/// [`SegmentError::WrongHeaders`] when the layout is not a UDP tunnel around such a packet,
/// [`SegmentError::OutOfRange`].
pub fn tunnel_checksum(
    header: &[u8],
    layout: &Layout,
    frame_len: usize,
) -> Result<u16, SegmentError> {
    let outer = layout.outer();
    if outer.l4 == 0 || outer.l4_proto != PROTO_UDP {
        return Err(SegmentError::WrongHeaders);
    }
    let pseudo = pseudo_header(header, outer, frame_len)?;
    covered_sum(header, layout, frame_len, outer.l4, 6, pseudo).map(|sum| sum.udp_value())
}

/// `sum` and the bytes from `from` to the end of the frame, with the checksum field `field` bytes behind `from` taken
/// for zero.
fn covered_sum(
    header: &[u8],
    layout: &Layout,
    frame_len: usize,
    from: u16,
    field: usize,
    mut sum: Checksum,
) -> Result<Checksum, SegmentError> {
    use crate::parse::{PROTO_ICMP, PROTO_ICMPV6};
    let inner = layout.inner().ok_or(SegmentError::WrongHeaders)?;
    if inner.l4 == 0 || inner.is_fragment() {
        return Err(SegmentError::WrongHeaders);
    }
    let inner_end = inner_end(header, inner)?;
    let covered = header
        .get(usize::from(from)..usize::from(inner.l4))
        .ok_or(SegmentError::OutOfRange)?;
    sum.add(covered.get(..field).ok_or(SegmentError::OutOfRange)?);
    sum.add(&[0; 2]);
    sum.add(covered.get(field + 2..).ok_or(SegmentError::OutOfRange)?);
    match inner.l4_proto {
        PROTO_ICMP => {}
        PROTO_UDP | PROTO_TCP | PROTO_ICMPV6 => {
            sum.add_u16(!pseudo_header(header, inner, inner_end)?.folded())
        }
        _ => return Err(SegmentError::WrongHeaders),
    }
    // Bytes after the inner packet (padding of a short frame) are covered too, and are not known to be zero.
    if inner_end != frame_len {
        return Err(SegmentError::WrongHeaders);
    }
    Ok(sum)
}

/// Where the layer's IP packet ends in the frame, by its own length field.
fn inner_end(header: &[u8], layer: &LayerLayout) -> Result<usize, SegmentError> {
    let l3 = usize::from(layer.l3);
    match layer.l3_kind {
        L3Kind::Ipv4 => Ok(l3 + usize::from(view_at::<Ipv4>(header, layer.l3)?.total_len.get())),
        L3Kind::Ipv6 => {
            Ok(l3 + Ipv6::LEN + usize::from(view_at::<Ipv6>(header, layer.l3)?.payload_len.get()))
        }
        _ => Err(SegmentError::WrongHeaders),
    }
}

#[cfg(test)]
mod tests;

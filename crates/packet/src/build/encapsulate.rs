//! Encapsulation in front of a header: VXLAN (RFC 7348 section 5), VXLAN-GPE, Geneve (RFC 8926), GRE (RFC 2784, RFC 2890)
//! and GTP-U (3GPP TS 29.281) over IPv4 and IPv6. Everything that does not depend on the frame is made once per tunnel.
//!
//! Time to live and DSCP are fixed or copied (pipe and uniform model, RFC 2983, RFC 3443), ECN is RFC 6040's normal mode.
//! The payload is never read: a checksum over it is either derived from the inner one or handed back as [`Pending`].

mod prepare;

pub use prepare::{Carried, Outer, Policy, TunnelHeader, Underlay};

use zerocopy::IntoBytes;
use zerocopy::big_endian::U16;

use prepare::put_tunnel;
pub(super) use prepare::{Stack, put_network};

use super::BuildError;
use crate::checksum::Checksum;
use crate::ecn;
use crate::edit::{EditError, change_ipv4_word};
use crate::field::TunnelKind;
use crate::headroom::{Headroom, ROOM};
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTO_GRE, PROTO_UDP};
use crate::plain;
use crate::segment::{gre_checksum, tunnel_checksum};
use crate::view::Udp;

/// First source port; the range is the dynamic one of RFC 6335, as RFC 7348 section 5 recommends.
const PORT_FIRST: u16 = 49152;
/// Longest option part of a Geneve header (RFC 8926 section 3.4).
pub const GENEVE_OPTIONS_MAX: usize = 252;

/// A checksum over the payload of a frame, to be completed while that is copied: add the payload's bytes, from the first
/// byte behind the header in the [`Headroom`], to `sum` ([`Checksum::add`] or [`Checksum::add_partial`]), then call
/// [`Pending::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Everything covered but the payload.
    pub sum: Checksum,
    /// Where what is covered begins in the header, the pseudo-header aside.
    pub start: u16,
    /// Where the field is in the header.
    pub at: u16,
    /// Sum of the pseudo-header alone: what the field holds if the receiver completes it (virtio `NEEDS_CSUM`).
    pub pseudo: u16,
}

impl Pending {
    /// Leaves the checksum to whoever takes the frame from the header on: writes the sum of the pseudo-header.
    pub fn leave(&self, header: &mut [u8]) {
        self.put(header, self.pseudo);
    }

    /// Does without a checksum (RFC 6935).
    pub fn give_up(&self, header: &mut [u8]) {
        self.put(header, 0);
    }

    fn put(&self, header: &mut [u8], value: u16) {
        let at = usize::from(self.at);
        if let Some(field) = header.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Writes the finished checksum into the header. A zero is written as 0xffff, which is right for UDP and equal for GRE.
    pub fn write(&self, header: &mut [u8]) {
        self.put(header, self.sum.udp_value());
    }
}

/// What encapsulation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulated {
    /// Length of the frame now.
    pub frame_len: usize,
    /// An outer checksum that the payload is needed for; `None` when there is none or it is complete, because the inner
    /// L4 checksum is, or will be.
    pub pending: Option<Pending>,
}

/// The outer headers of one tunnel, ready to be put before frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    bytes: [u8; ROOM],
    len: u16,
    layer: LayerLayout,
    ttl: Policy,
    dscp: Policy,
    ecn: bool,
    source_port: Option<u16>,
    checksum: bool,
    carried: Carried,
}

impl core::hash::Hash for Encapsulation {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        // Those that differ elsewhere only are few.
        self.bytes.hash(state);
    }
}

impl Encapsulation {
    /// Prepares VXLAN over `underlay` with fixed time to live `ttl`, DSCP zero, no ECN and no UDP checksum, to `port`.
    pub fn new(
        eth_dst: [u8; 6],
        eth_src: [u8; 6],
        vlan_tci: Option<u16>,
        underlay: Underlay,
        ttl: u8,
        port: u16,
        vni: u32,
    ) -> Encapsulation {
        let outer = Outer {
            eth_dst,
            eth_src,
            vlan_tci,
            underlay,
            ttl: Policy::Fixed(ttl),
            dscp: Policy::Fixed(0),
            ecn: false,
            port,
            source_port: None,
            udp_checksum: false,
            carried: Carried::Ethernet,
        };
        // Only options can be too long.
        Encapsulation::prepare(&outer, TunnelHeader::Vxlan { vni }).unwrap_or(Encapsulation {
            bytes: [0; ROOM],
            len: 0,
            layer: LayerLayout::EMPTY,
            ttl: outer.ttl,
            dscp: outer.dscp,
            ecn: false,
            source_port: None,
            checksum: false,
            carried: Carried::Ethernet,
        })
    }

    /// Prepares the outer headers of a tunnel.
    ///
    /// # Errors
    /// [`BuildError::NoSpace`] when Geneve options make them longer than [`ROOM`], [`BuildError::Order`] for options that
    /// are no multiple of four bytes, for VXLAN around IP and for GTP-U around Ethernet.
    pub fn prepare(outer: &Outer, tunnel: TunnelHeader<'_>) -> Result<Encapsulation, BuildError> {
        match (tunnel, outer.carried) {
            (TunnelHeader::Vxlan { .. }, Carried::Ip) => return Err(BuildError::Order("ip")),
            (TunnelHeader::Gtpu { .. }, Carried::Ethernet) => {
                return Err(BuildError::Order("eth"));
            }
            _ => {}
        }
        let mut stack = Stack {
            bytes: [0; ROOM],
            len: 0,
        };
        let proto = match tunnel {
            TunnelHeader::Gre { .. } => PROTO_GRE,
            _ => PROTO_UDP,
        };
        let mut layer = put_network(&mut stack, outer, proto)?;
        if proto == PROTO_UDP {
            let udp = Udp {
                src: U16::new(outer.source_port.unwrap_or(PORT_FIRST)),
                dst: U16::new(outer.port),
                len: U16::new(0),
                checksum: U16::new(0),
            };
            layer.l4 = stack.put(udp.as_bytes())? as u16;
        }
        layer.payload = stack.len as u16;
        let kind = put_tunnel(&mut stack, outer.carried, tunnel)?;
        let checksum = match tunnel {
            TunnelHeader::Gre { checksum, .. } => checksum,
            _ => outer.udp_checksum,
        };
        Ok(Encapsulation {
            bytes: stack.bytes,
            len: stack.len as u16,
            layer: layer.with_tunnel(kind),
            ttl: outer.ttl,
            dscp: outer.dscp,
            ecn: outer.ecn,
            source_port: outer.source_port,
            checksum,
            carried: outer.carried,
        })
    }

    /// Bytes that the encapsulation puts before what it carries.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: an encapsulation has at least 38 bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// [`Encapsulation::encapsulate`] without further options, for tunnels without checksum.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn push(
        &self,
        room: &mut Headroom,
        layout: &mut Layout,
        frame_len: usize,
        entropy: u32,
    ) -> Result<(), EditError> {
        self.encapsulate(room, layout, frame_len, entropy, &[])
            .map(|_| ())
    }

    /// Puts the outer headers before the header in `room`. `layout` describes that header and afterwards the whole;
    /// its outer layer becomes the inner one. `frame_len` is the length of the frame before; `entropy`
    /// ([`FlowKey::entropy`](crate::FlowKey::entropy)) chooses the source port. `options` are Geneve options of this
    /// frame (as kept from the tunnel it came by) behind those prepared.
    ///
    /// A frame too long for one outer packet (to be segmented afterwards, which sets lengths and checksums again) gets
    /// lengths of 65535.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] without room, [`EditError::Absent`] when only IP is carried and this is none, and for
    /// options in front of anything but Geneve or of a length Geneve cannot tell. Nothing changes then.
    #[inline]
    pub fn encapsulate(
        &self,
        room: &mut Headroom,
        layout: &mut Layout,
        frame_len: usize,
        entropy: u32,
        options: &[u8],
    ) -> Result<Encapsulated, EditError> {
        let inner = *layout.outer();
        let (tos, ttl) = marks(room.header(), &inner);
        let removed = match (self.carried, inner.l3_kind) {
            (Carried::Ethernet, _) => 0,
            (Carried::Ip, L3Kind::Ipv4 | L3Kind::Ipv6) => usize::from(inner.l3),
            (Carried::Ip, _) => return Err(EditError::Absent),
        };
        let options_fit = self.layer.tunnel_kind() == TunnelKind::Geneve
            && options.len().is_multiple_of(4)
            && self.len() - usize::from(self.layer.payload) - 8 + options.len()
                <= GENEVE_OPTIONS_MAX;
        if !options.is_empty() && !options_fit {
            return Err(EditError::Absent);
        }
        let len = self.len() + options.len();
        if room.room() + removed < len || removed > room.len() {
            return Err(EditError::OutOfRange);
        }
        room.pull_front(removed)?;
        let header = room.push_front(len)?;
        let own = header.get_mut(..len).ok_or(EditError::OutOfRange)?;
        let (fixed, own_options) = own.split_at_mut(self.len());
        fixed.copy_from_slice(self.bytes.get(..self.len()).ok_or(EditError::OutOfRange)?);
        own_options.copy_from_slice(options);
        let total = len + frame_len.saturating_sub(removed);
        self.fill(own, total, entropy, tos, ttl);
        if self.carried == Carried::Ip {
            self.name_protocol(own, inner.l3_kind);
        }
        if !options.is_empty() {
            add_option_length(own, self.layer.payload.into(), options);
        }
        self.describe(layout, len, removed);
        let pending = if self.checksum {
            checksum_outer(header, layout, total)
        } else {
            None
        };
        Ok(Encapsulated {
            frame_len: total,
            pending,
        })
    }

    /// The outer headers for a plain frame of `frame_len` bytes that begins with `inner`, as [`Self::encapsulate`] puts them, at the start of `out`; their length. `None` when that takes more of
    /// the frame, or it would be too long.
    #[inline(always)]
    pub fn front(
        &self,
        inner: &[u8; plain::LEN],
        frame_len: usize,
        entropy: u32,
        out: &mut [u8; ROOM],
    ) -> Option<usize> {
        let total = self.len() + frame_len;
        if !self.is_front_alone() || total > usize::from(u16::MAX) {
            return None;
        }
        let own = out.get_mut(..self.len())?;
        own.copy_from_slice(self.bytes.get(..self.len())?);
        let (tos, ttl) = plain::marks(inner);
        self.fill(own, total, entropy, Some(tos), Some(ttl));
        Some(self.len())
    }

    /// Whether nothing but what [`Self::front`] needs is looked at, and nothing else changed.
    pub const fn is_front_alone(&self) -> bool {
        matches!(self.carried, Carried::Ethernet) && !self.checksum && self.len != 0
    }

    /// Bytes before the outer IP header.
    pub const fn l3(&self) -> u16 {
        self.layer.l3
    }

    /// Lengths, time to live, type of service and source port.
    #[inline(always)]
    fn fill(&self, own: &mut [u8], total: usize, entropy: u32, tos: Option<u8>, ttl: Option<u8>) {
        let length =
            |at: u16| u16::try_from(total.saturating_sub(usize::from(at))).unwrap_or(u16::MAX);
        let ecn = match tos {
            Some(tos) if self.ecn => ecn::encapsulated(tos),
            _ => 0,
        };
        let class = self.dscp.value(tos.map(|tos| tos >> 2)) << 2 | ecn;
        let ttl = self.ttl.value(ttl);
        let l3 = usize::from(self.layer.l3);
        if self.layer.l3_kind == L3Kind::Ipv4
            && let Some(ip) = own.get_mut(l3..).and_then(|b| b.first_chunk_mut::<20>())
        {
            let proto = ip[9];
            change_ipv4_word(ip, 2, length(self.layer.l3).to_be_bytes());
            if class != 0 {
                change_ipv4_word(ip, 0, [0x45, class]);
            }
            if ttl != ip[8] {
                change_ipv4_word(ip, 8, [ttl, proto]);
            }
        } else if let Some(ip) = own.get_mut(l3..).and_then(|b| b.first_chunk_mut::<40>()) {
            let first = 0x6000 | u16::from(class) << 4;
            ip[0..2].copy_from_slice(&first.to_be_bytes());
            ip[4..6].copy_from_slice(&length(self.layer.l3 + 40).to_be_bytes());
            ip[7] = ttl;
        }
        if self.layer.l4 != 0
            && let Some(udp) = own
                .get_mut(usize::from(self.layer.l4)..)
                .and_then(|b| b.first_chunk_mut::<8>())
        {
            let port = self.source_port.unwrap_or(PORT_FIRST | entropy as u16);
            udp[0..2].copy_from_slice(&port.to_be_bytes());
            udp[4..6].copy_from_slice(&length(self.layer.l4).to_be_bytes());
        }
        let payload = usize::from(self.layer.payload);
        if self.layer.tunnel_kind() == TunnelKind::Gtpu
            && let Some(field) = own.get_mut(payload + 2..payload + 4)
        {
            field.copy_from_slice(&length(self.layer.payload + 8).to_be_bytes());
        }
    }

    /// Says which kind of IP is inside.
    fn name_protocol(&self, own: &mut [u8], kind: L3Kind) {
        let at = usize::from(self.layer.payload);
        let v4 = kind == L3Kind::Ipv4;
        let ethertype = if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        match self.layer.tunnel_kind() {
            TunnelKind::Geneve | TunnelKind::Gre => {
                if let Some(field) = own.get_mut(at + 2..at + 4) {
                    field.copy_from_slice(&ethertype.to_be_bytes());
                }
            }
            TunnelKind::VxlanGpe => {
                if let Some(next) = own.get_mut(at + 3) {
                    *next = if v4 { 1 } else { 2 };
                }
            }
            _ => {}
        }
    }

    /// Moves the layout behind the outer headers.
    #[inline(always)]
    fn describe(&self, layout: &mut Layout, len: usize, removed: usize) {
        let mut inner = layout.layers[0];
        if removed != 0 {
            inner.eth = inner.l3;
            inner.vlan = 0;
            inner.vlan_tags = 0;
            inner.flags |= LayerLayout::NO_ETHERNET;
        }
        layout.layers = [LayerLayout::EMPTY, inner];
        layout.shift(len as i16 - removed as i16);
        layout.layers[0] = self.layer;
    }
}

/// Adds the length of `options` to the Geneve header at `at`, and the C flag if one of them is critical.
fn add_option_length(own: &mut [u8], at: usize, options: &[u8]) {
    let mut rest = options;
    let mut critical = false;
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        critical |= head[2] & 0x80 != 0;
        rest = after
            .get(usize::from(head[3] & 0x1f) * 4..)
            .unwrap_or_default();
    }
    if let Some(first) = own.get_mut(at..at + 2) {
        first[0] += (options.len() / 4) as u8;
        first[1] |= u8::from(critical) << 6;
    }
}

/// Type of service and time to live of the layer's packet.
#[inline(always)]
pub(crate) fn marks(header: &[u8], layer: &LayerLayout) -> (Option<u8>, Option<u8>) {
    let at = usize::from(layer.l3);
    match layer.l3_kind {
        L3Kind::Ipv4 => (header.get(at + 1).copied(), header.get(at + 8).copied()),
        L3Kind::Ipv6 => {
            let class = header
                .get(at..)
                .and_then(|b| b.first_chunk::<2>())
                .map(|b| (u16::from_be_bytes(*b) >> 4) as u8);
            (class, header.get(at + 7).copied())
        }
        _ => (None, None),
    }
}

/// Writes the outer checksum if the inner one tells it, else says what is still to add.
fn checksum_outer(header: &mut [u8], layout: &Layout, frame_len: usize) -> Option<Pending> {
    let outer = *layout.outer();
    let gre = outer.tunnel_kind() == TunnelKind::Gre;
    let at = if gre { outer.payload + 4 } else { outer.l4 + 6 };
    // A UDP datagram without checksum inside has none to derive the outer one from.
    let inner = layout.innermost();
    let l4 = usize::from(inner.l4);
    let silent = inner.l4_proto == PROTO_UDP && header.get(l4 + 6..l4 + 8) == Some(&[0; 2]);
    let derived = if silent {
        None
    } else if gre {
        gre_checksum(header, layout, frame_len).ok()
    } else {
        tunnel_checksum(header, layout, frame_len).ok()
    };
    if let Some(value) = derived {
        let field = header.get_mut(usize::from(at)..usize::from(at) + 2)?;
        field.copy_from_slice(&value.to_be_bytes());
        return None;
    }
    let from = usize::from(if gre { outer.payload } else { outer.l4 });
    let mut sum = if gre {
        Checksum::new()
    } else {
        outer.udp_pseudo_header(header, frame_len.saturating_sub(from) as u32)
    };
    let pseudo = sum.folded();
    // The field is zero so far.
    sum.add(header.get(from..).unwrap_or_default());
    if let Some(field) = header.get_mut(usize::from(at)..usize::from(at) + 2) {
        // Segmentation sees by this that there is to be one.
        field.copy_from_slice(&[0xff; 2]);
    }
    Some(Pending {
        sum,
        start: from as u16,
        at,
        pseudo,
    })
}

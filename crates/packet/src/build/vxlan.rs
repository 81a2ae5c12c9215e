//! VXLAN encapsulation (RFC 7348 section 5) in front of a header: everything that does not depend on the frame is
//! made once per tunnel, the rest is three fields and one checksum update.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use crate::checksum::{checksum, update16};
use crate::edit::EditError;
use crate::field::TunnelKind;
use crate::headroom::Headroom;
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, PROTO_UDP};
use crate::view::{Ethernet, Ipv4, Ipv6, Udp, Vlan, Vxlan};

/// First source port; the range is the dynamic one of RFC 6335, as RFC 7348 section 5 recommends.
const PORT_FIRST: u16 = 49152;

/// The addresses of a tunnel's outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4 source and destination.
    Ipv4(Ipv4Addr, Ipv4Addr),
    /// IPv6 source and destination.
    Ipv6(Ipv6Addr, Ipv6Addr),
}

/// Longest encapsulation: Ethernet, VLAN, IPv6, UDP, VXLAN.
const MAX: usize = 14 + 4 + 40 + 8 + 8;

/// The outer headers of one tunnel, ready to be put before frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    bytes: [u8; MAX],
    len: u16,
    layer: LayerLayout,
}

impl core::hash::Hash for Encapsulation {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        // The rest follows from the bytes.
        self.bytes.hash(state);
    }
}

impl Encapsulation {
    /// Prepares outer headers: Ethernet `eth_dst`, `eth_src` (the underlay's next hop and own address), an optional
    /// VLAN tag, the addresses with time to live `ttl` and, for IPv4, DF set, UDP to `port` without a checksum
    /// (RFC 6935 allows that for IPv6 tunnels), and `vni` (24 bits; higher ones dropped).
    pub fn new(
        eth_dst: [u8; 6],
        eth_src: [u8; 6],
        vlan_tci: Option<u16>,
        underlay: Underlay,
        ttl: u8,
        port: u16,
        vni: u32,
    ) -> Encapsulation {
        let mut bytes = [0u8; MAX];
        let mut len = 0;
        let mut put = |part: &[u8]| {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
            len - part.len()
        };
        let ethertype = match underlay {
            Underlay::Ipv4(..) => ETHERTYPE_IPV4,
            Underlay::Ipv6(..) => ETHERTYPE_IPV6,
        };
        let first = if vlan_tci.is_some() {
            ETHERTYPE_VLAN
        } else {
            ethertype
        };
        put(Ethernet {
            dst: eth_dst,
            src: eth_src,
            ethertype: U16::new(first),
        }
        .as_bytes());
        if let Some(tci) = vlan_tci {
            put(Vlan {
                tci: U16::new(tci),
                ethertype: U16::new(ethertype),
            }
            .as_bytes());
        }
        let (l3, l3_len, l3_kind) = match underlay {
            Underlay::Ipv4(src, dst) => {
                let mut header = Ipv4 {
                    version_ihl: 0x45,
                    tos: 0,
                    total_len: U16::new(0),
                    id: U16::new(0),
                    fragment: U16::new(Ipv4::DONT_FRAGMENT),
                    ttl,
                    proto: PROTO_UDP,
                    checksum: U16::new(0),
                    src: U32::new(src.to_bits()),
                    dst: U32::new(dst.to_bits()),
                };
                header.checksum.set(checksum(header.as_bytes()));
                (put(header.as_bytes()), Ipv4::LEN, L3Kind::Ipv4)
            }
            Underlay::Ipv6(src, dst) => {
                let header = Ipv6 {
                    version_class_flow: U32::new(6 << 28),
                    payload_len: U16::new(0),
                    next: PROTO_UDP,
                    hop_limit: ttl,
                    src: src.octets(),
                    dst: dst.octets(),
                };
                (put(header.as_bytes()), Ipv6::LEN, L3Kind::Ipv6)
            }
        };
        let udp = Udp {
            src: U16::new(PORT_FIRST),
            dst: U16::new(port),
            len: U16::new(0),
            checksum: U16::new(0),
        };
        let l4 = put(udp.as_bytes());
        let payload = put(Vxlan::new(vni).as_bytes());
        let layer = LayerLayout {
            eth: 0,
            vlan: if vlan_tci.is_some() { 12 } else { 0 },
            l3: l3 as u16,
            l3_len: l3_len as u16,
            l4: l4 as u16,
            payload: payload as u16,
            l3_kind,
            l4_proto: PROTO_UDP,
            vlan_tags: u8::from(vlan_tci.is_some()),
            flags: 0,
        }
        .with_tunnel(TunnelKind::Vxlan);
        Encapsulation {
            bytes,
            len: len as u16,
            layer,
        }
    }

    /// Bytes that the encapsulation adds to a frame.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: an encapsulation has at least 50 bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts the outer headers before the header in `room`. `layout` describes that header and afterwards the whole;
    /// its outer layer becomes the inner one. `frame_len` is the length of the frame before; `entropy`
    /// ([`FlowKey::entropy`](crate::FlowKey::entropy)) chooses the source port, 49152..=65535.
    ///
    /// A frame too long for one outer packet (to be segmented afterwards, which sets the lengths again) gets
    /// lengths of 65535.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] without room; nothing changes.
    #[inline]
    pub fn push(
        &self,
        room: &mut Headroom,
        layout: &mut Layout,
        frame_len: usize,
        entropy: u32,
    ) -> Result<(), EditError> {
        let len = self.len();
        let outer = room
            .push_front(len)?
            .get_mut(..len)
            .ok_or(EditError::OutOfRange)?;
        outer.copy_from_slice(self.bytes.get(..len).ok_or(EditError::OutOfRange)?);
        let total = len + frame_len;
        let length = |at: u16| u16::try_from(total - usize::from(at)).unwrap_or(u16::MAX);
        let l3 = usize::from(self.layer.l3);
        if self.layer.l3_kind == L3Kind::Ipv4
            && let Some(ip) = outer.get_mut(l3..).and_then(|b| b.first_chunk_mut::<20>())
        {
            let total_len = length(self.layer.l3);
            ip[2..4].copy_from_slice(&total_len.to_be_bytes());
            let sum = update16(u16::from_be_bytes([ip[10], ip[11]]), 0, total_len);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else if let Some(field) = outer.get_mut(l3 + 4..l3 + 6) {
            field.copy_from_slice(&length(self.layer.l3 + 40).to_be_bytes());
        }
        if let Some(udp) = outer
            .get_mut(usize::from(self.layer.l4)..)
            .and_then(|b| b.first_chunk_mut::<8>())
        {
            let port = PORT_FIRST | entropy as u16;
            udp[0..2].copy_from_slice(&port.to_be_bytes());
            udp[4..6].copy_from_slice(&length(self.layer.l4).to_be_bytes());
        }
        layout.layers[1] = layout.layers[0];
        layout.layers[0] = LayerLayout::EMPTY;
        layout.shift(len as i16);
        layout.layers[0] = self.layer;
        Ok(())
    }
}

//! What a tunnel puts before every frame, described and written once: link, IP, UDP and the tunnel's own header.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::add_option_length;
use crate::build::BuildError;
use crate::checksum::checksum;
use crate::field::TunnelKind;
use crate::headroom::ROOM;
use crate::layout::{L3Kind, LayerLayout};
use crate::parse::tunnel::{ETHERTYPE_TEB, GRE_CHECKSUM, GRE_KEY, GTPU_PDU};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN};
use crate::view::{Ethernet, Ipv4, Ipv6, Vlan, Vxlan};

/// The addresses of a tunnel's outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4 source and destination.
    Ipv4(Ipv4Addr, Ipv4Addr),
    /// IPv6 source and destination.
    Ipv6(Ipv6Addr, Ipv6Addr),
}

/// The tunnel's own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelHeader<'a> {
    /// VXLAN; carries Ethernet only.
    Vxlan {
        /// Network identifier, 24 bits; higher ones dropped.
        vni: u32,
    },
    /// VXLAN with the next protocol named.
    VxlanGpe {
        /// Network identifier, 24 bits; higher ones dropped.
        vni: u32,
    },
    /// Geneve.
    Geneve {
        /// Network identifier, 24 bits; higher ones dropped.
        vni: u32,
        /// Options, whole ones with their headers, a multiple of 4 bytes.
        options: &'a [u8],
    },
    /// GRE.
    Gre {
        /// The key, if there is to be one.
        key: Option<u32>,
        /// Whether a checksum covers header and payload.
        checksum: bool,
    },
    /// GTP-U; carries IP only.
    Gtpu {
        /// Tunnel endpoint identifier.
        teid: u32,
        /// PDU type (0..=15) and QoS flow identifier (0..=63) of a PDU session container, if there is to be one.
        session: Option<(u8, u8)>,
    },
}

/// What a tunnel carries of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The whole frame.
    Ethernet,
    /// The IP packet; the frame's link header is removed. Other frames are refused.
    Ip,
}

/// Where an outer header field comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always this value (pipe model).
    Fixed(u8),
    /// The carried packet's (uniform model); this value for one that is not IP.
    Copied(u8),
}

impl Policy {
    /// The value, with that of the carried packet if it is IP.
    pub const fn value(self, inner: Option<u8>) -> u8 {
        match (self, inner) {
            (Policy::Copied(_), Some(inner)) => inner,
            (Policy::Fixed(value) | Policy::Copied(value), _) => value,
        }
    }
}

/// The outer headers before the tunnel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// MAC address of the underlay's next hop.
    pub eth_dst: [u8; 6],
    /// Own MAC address.
    pub eth_src: [u8; 6],
    /// Tag of the underlay, if it has one.
    pub vlan_tci: Option<u16>,
    /// Addresses. IPv4 has DF set.
    pub underlay: Underlay,
    /// Time to live or hop limit.
    pub ttl: Policy,
    /// DSCP, 0..=63; higher bits dropped.
    pub dscp: Policy,
    /// Whether ECN is copied (RFC 6040 normal mode); else the packet says "not capable" (compatibility mode).
    pub ecn: bool,
    /// UDP destination port; not for GRE.
    pub port: u16,
    /// UDP source port; without one it follows from the frame's entropy, 49152..=65535.
    pub source_port: Option<u16>,
    /// Whether UDP has a checksum; without one it is zero, which IPv6 tunnels allow too (RFC 6935).
    pub udp_checksum: bool,
    /// What is carried.
    pub carried: Carried,
}

impl Outer {
    /// Bytes of the IP header.
    pub const fn ip_len(&self) -> usize {
        match self.underlay {
            Underlay::Ipv4(..) => Ipv4::LEN,
            Underlay::Ipv6(..) => Ipv6::LEN,
        }
    }
}

/// Header bytes one after the other.
pub(in crate::build) struct Stack {
    pub bytes: [u8; ROOM],
    pub len: usize,
}

impl Stack {
    /// Puts a header; where it is.
    pub fn put(&mut self, part: &[u8]) -> Result<usize, BuildError> {
        let at = self.len;
        self.bytes
            .get_mut(at..at + part.len())
            .ok_or(BuildError::NoSpace)?
            .copy_from_slice(part);
        self.len += part.len();
        Ok(at)
    }
}

/// The link and IP headers.
pub(in crate::build) fn put_network(
    stack: &mut Stack,
    outer: &Outer,
    proto: u8,
) -> Result<LayerLayout, BuildError> {
    let ethertype = match outer.underlay {
        Underlay::Ipv4(..) => ETHERTYPE_IPV4,
        Underlay::Ipv6(..) => ETHERTYPE_IPV6,
    };
    let first = outer.vlan_tci.map_or(ethertype, |_| ETHERTYPE_VLAN);
    let ethernet = Ethernet {
        dst: outer.eth_dst,
        src: outer.eth_src,
        ethertype: U16::new(first),
    };
    stack.put(ethernet.as_bytes())?;
    if let Some(tci) = outer.vlan_tci {
        let tag = Vlan {
            tci: U16::new(tci),
            ethertype: U16::new(ethertype),
        };
        stack.put(tag.as_bytes())?;
    }
    let ttl = outer.ttl.value(None);
    let (l3, l3_len, l3_kind) = match outer.underlay {
        Underlay::Ipv4(src, dst) => {
            let mut header = Ipv4 {
                version_ihl: 0x45,
                tos: 0,
                total_len: U16::new(0),
                id: U16::new(0),
                fragment: U16::new(Ipv4::DONT_FRAGMENT),
                ttl,
                proto,
                checksum: U16::new(0),
                src: U32::new(src.to_bits()),
                dst: U32::new(dst.to_bits()),
            };
            header.checksum.set(checksum(header.as_bytes()));
            (stack.put(header.as_bytes())?, Ipv4::LEN, L3Kind::Ipv4)
        }
        Underlay::Ipv6(src, dst) => {
            let header = Ipv6 {
                version_class_flow: U32::new(6 << 28),
                payload_len: U16::new(0),
                next: proto,
                hop_limit: ttl,
                src: src.octets(),
                dst: dst.octets(),
            };
            (stack.put(header.as_bytes())?, Ipv6::LEN, L3Kind::Ipv6)
        }
    };
    Ok(LayerLayout {
        vlan: if outer.vlan_tci.is_some() { 12 } else { 0 },
        l3: l3 as u16,
        l3_len: l3_len as u16,
        l3_kind,
        l4_proto: proto,
        vlan_tags: u8::from(outer.vlan_tci.is_some()),
        ..LayerLayout::EMPTY
    })
}

/// The tunnel's own header, around Ethernet until a frame says which IP it is.
pub(super) fn put_tunnel(
    stack: &mut Stack,
    carried: Carried,
    tunnel: TunnelHeader<'_>,
) -> Result<TunnelKind, BuildError> {
    match tunnel {
        TunnelHeader::Vxlan { vni } => {
            stack.put(Vxlan::new(vni).as_bytes())?;
            Ok(TunnelKind::Vxlan)
        }
        TunnelHeader::VxlanGpe { vni } => {
            let mut header = Vxlan::new(vni);
            // The P flag and the next protocol, Ethernet or set with the frame.
            header.flags |= 0x04;
            header.reserved[2] = if carried == Carried::Ethernet { 3 } else { 0 };
            stack.put(header.as_bytes())?;
            Ok(TunnelKind::VxlanGpe)
        }
        TunnelHeader::Geneve { vni, options } => {
            let at = stack.put(&[0, 0])?;
            stack.put(&ETHERTYPE_TEB.to_be_bytes())?;
            stack.put(&(vni << 8).to_be_bytes())?;
            stack.put(options)?;
            if !options.len().is_multiple_of(4) {
                return Err(BuildError::Order("geneve option"));
            }
            add_option_length(&mut stack.bytes, at, options);
            Ok(TunnelKind::Geneve)
        }
        TunnelHeader::Gre { key, checksum } => {
            let flags =
                if checksum { GRE_CHECKSUM } else { 0 } | if key.is_some() { GRE_KEY } else { 0 };
            stack.put(&flags.to_be_bytes())?;
            stack.put(&ETHERTYPE_TEB.to_be_bytes())?;
            if checksum {
                stack.put(&[0; 4])?;
            }
            if let Some(key) = key {
                stack.put(&key.to_be_bytes())?;
            }
            Ok(TunnelKind::Gre)
        }
        TunnelHeader::Gtpu { teid, session } => {
            // Version 1, protocol type GTP, and with a session container the extension header flag.
            let flags = if session.is_some() { 0x34 } else { 0x30 };
            stack.put(&[flags, GTPU_PDU, 0, 0])?;
            stack.put(&teid.to_be_bytes())?;
            if let Some((pdu_type, qfi)) = session {
                stack.put(&[0, 0, 0, 0x85])?;
                stack.put(&[1, pdu_type << 4, qfi & 0x3f, 0])?;
            }
            Ok(TunnelKind::Gtpu)
        }
    }
}

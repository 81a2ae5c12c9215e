//! Frames made from nothing: a header-by-header builder, and in its modules ARP, neighbour discovery, router
//! advertisements, ICMP errors, TCP answers and tunnel encapsulation. Everything is written into buffers of the caller.

mod answer;
mod echo;
mod encapsulate;
mod erspan;
mod icmp_error;
mod neighbour;
mod router;
mod tcp;

pub use echo::echo_reply;
pub(crate) use encapsulate::marks;
pub use encapsulate::{
    Carried, Encapsulated, Encapsulation, GENEVE_OPTIONS_MAX, Outer, Pending, Policy, TunnelHeader,
    Underlay,
};
pub use erspan::{Erspan, ErspanKind, Mirrored};
pub use icmp_error::{IcmpError, icmp_error};
pub use neighbour::{
    ARP_LEN, NEIGHBOUR_LEN, NeighbourFlags, arp_reply, arp_request, neighbour_advertisement,
    neighbour_solicitation,
};

pub use router::{
    DNS_SERVERS_MAX, PREFIXES_MAX, Prefix, RouterAdvertisement, router_advertisement,
};
pub use tcp::{offered_mss, syn_cookie, tcp_reset};

use core::fmt;

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use crate::checksum::{checksum, pseudo_ipv4, pseudo_ipv6};
use crate::parse::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, PROTO_ICMP, PROTO_ICMPV6,
    PROTO_TCP, PROTO_UDP,
};
use crate::view::{Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp, Vlan, Vxlan};

/// A frame could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuildError {
    /// The buffer is too small for the frame.
    NoSpace,
    /// Headers in an order that makes no packet: the header named cannot follow what is before it.
    Order(&'static str),
    /// An IP packet or UDP datagram would be longer than 65535 bytes.
    TooLong,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::NoSpace => f.write_str("the buffer is too small for the frame"),
            BuildError::Order(header) => write!(f, "{header} cannot follow the header before it"),
            BuildError::TooLong => f.write_str("the packet is longer than 65535 bytes"),
        }
    }
}

impl core::error::Error for BuildError {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ethernet,
    Vlan,
    Ipv4,
    Ipv6,
    Udp,
    Tcp,
    Icmp,
    Icmpv6,
    Vxlan,
    Payload,
}

/// Most headers of one frame.
const HEADERS_MAX: usize = 16;

/// Stacks headers from the outside in; [`FrameBuilder::finish`] fills in lengths and checksums. The first error
/// sticks and is returned by `finish`.
///
/// ```
/// use sumeru_packet::build::FrameBuilder;
/// let mut buffer = [0u8; 128];
/// let len = FrameBuilder::new(&mut buffer)
///     .ethernet([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
///     .ipv4(0x0a000001, 0x0a000002)
///     .udp(1000, 2000)
///     .payload(b"hello")
///     .finish()?;
/// assert_eq!(len, 14 + 20 + 8 + 5);
/// # Ok::<(), sumeru_packet::build::BuildError>(())
/// ```
pub struct FrameBuilder<'a> {
    bytes: &'a mut [u8],
    len: usize,
    headers: [(Kind, usize); HEADERS_MAX],
    depth: usize,
    error: Option<BuildError>,
}

impl<'a> FrameBuilder<'a> {
    /// Starts an empty frame at the front of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> FrameBuilder<'a> {
        FrameBuilder {
            bytes,
            len: 0,
            headers: [(Kind::Payload, 0); HEADERS_MAX],
            depth: 0,
            error: None,
        }
    }

    fn last(&self) -> Option<(Kind, usize)> {
        self.depth
            .checked_sub(1)
            .and_then(|i| self.headers.get(i))
            .copied()
    }

    fn push(
        mut self,
        kind: Kind,
        name: &'static str,
        header: &[u8],
        allowed: bool,
    ) -> FrameBuilder<'a> {
        if self.error.is_some() {
            return self;
        }
        if !allowed {
            self.error = Some(BuildError::Order(name));
            return self;
        }
        let room = self.bytes.get_mut(self.len..self.len + header.len());
        match (room, self.headers.get_mut(self.depth)) {
            (Some(room), Some(slot)) => {
                room.copy_from_slice(header);
                *slot = (kind, self.len);
                self.len += header.len();
                self.depth += 1;
            }
            _ => self.error = Some(BuildError::NoSpace),
        }
        self
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    /// Says in the link header before what follows it. False if there is no link header.
    fn name_ethertype(&mut self, ethertype: u16) -> bool {
        match self.last() {
            Some((Kind::Ethernet, at)) => self.put(at + 12, &ethertype.to_be_bytes()),
            Some((Kind::Vlan, at)) => self.put(at + 2, &ethertype.to_be_bytes()),
            _ => return false,
        }
        true
    }

    /// Says in the IP header before which protocol it carries. False if there is no IP header.
    fn name_proto(&mut self, proto: u8) -> bool {
        match self.last() {
            Some((Kind::Ipv4, at)) => self.put(at + 9, &[proto]),
            Some((Kind::Ipv6, at)) => self.put(at + 6, &[proto]),
            _ => return false,
        }
        true
    }

    /// An Ethernet header: first of the frame, or after VXLAN. Its EtherType is set by the next header and is zero
    /// (a length) without one.
    pub fn ethernet(self, dst: [u8; 6], src: [u8; 6]) -> FrameBuilder<'a> {
        let allowed = matches!(self.last(), None | Some((Kind::Vxlan, _)));
        let header = Ethernet {
            dst,
            src,
            ethertype: U16::new(0),
        };
        self.push(Kind::Ethernet, "eth", header.as_bytes(), allowed)
    }

    /// A VLAN tag with TPID 0x8100.
    pub fn vlan(self, tci: u16) -> FrameBuilder<'a> {
        self.tag(ETHERTYPE_VLAN, tci)
    }

    /// A VLAN tag with TPID `tpid`.
    pub fn tag(mut self, tpid: u16, tci: u16) -> FrameBuilder<'a> {
        let allowed = self.name_ethertype(tpid);
        let header = Vlan {
            tci: U16::new(tci),
            ethertype: U16::new(0),
        };
        self.push(Kind::Vlan, "vlan", header.as_bytes(), allowed)
    }

    /// A header given as bytes after Ethernet or a tag, with its EtherType; nothing but payload can follow.
    pub fn ethertype(mut self, ethertype: u16, bytes: &[u8]) -> FrameBuilder<'a> {
        let allowed = self.name_ethertype(ethertype);
        self.push(Kind::Payload, "ethertype", bytes, allowed)
    }

    /// An ARP packet for IPv4; only payload (padding) can follow.
    pub fn arp(self, arp: &crate::view::Arp) -> FrameBuilder<'a> {
        self.ethertype(ETHERTYPE_ARP, arp.as_bytes())
    }

    /// An IPv4 header with TTL 64, DF set, identification 0.
    pub fn ipv4(self, src: u32, dst: u32) -> FrameBuilder<'a> {
        self.ipv4_header(Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(0),
            id: U16::new(0),
            fragment: U16::new(Ipv4::DONT_FRAGMENT),
            ttl: 64,
            proto: 0xff,
            checksum: U16::new(0),
            src: U32::new(src),
            dst: U32::new(dst),
        })
    }

    /// An IPv4 header as given; length, checksum and, when a header follows, protocol are filled in.
    pub fn ipv4_header(mut self, header: Ipv4) -> FrameBuilder<'a> {
        let allowed = self.name_ethertype(ETHERTYPE_IPV4);
        self.push(Kind::Ipv4, "ipv4", header.as_bytes(), allowed)
    }

    /// An IPv6 header with hop limit 64.
    pub fn ipv6(self, src: u128, dst: u128) -> FrameBuilder<'a> {
        self.ipv6_header(Ipv6 {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(0),
            next: 0xff,
            hop_limit: 64,
            src: src.to_be_bytes(),
            dst: dst.to_be_bytes(),
        })
    }

    /// An IPv6 header as given; length and, when a header follows, next header are filled in.
    pub fn ipv6_header(mut self, header: Ipv6) -> FrameBuilder<'a> {
        let allowed = self.name_ethertype(ETHERTYPE_IPV6);
        self.push(Kind::Ipv6, "ipv6", header.as_bytes(), allowed)
    }

    /// A UDP header.
    pub fn udp(mut self, src: u16, dst: u16) -> FrameBuilder<'a> {
        let allowed = self.name_proto(PROTO_UDP);
        let header = Udp {
            src: U16::new(src),
            dst: U16::new(dst),
            len: U16::new(0),
            checksum: U16::new(0),
        };
        self.push(Kind::Udp, "udp", header.as_bytes(), allowed)
    }

    /// A TCP header with ACK set and a window of 65535.
    pub fn tcp(self, src: u16, dst: u16) -> FrameBuilder<'a> {
        self.tcp_header(Tcp {
            src: U16::new(src),
            dst: U16::new(dst),
            seq: U32::new(0),
            ack: U32::new(0),
            data_offset: 0x50,
            flags: Tcp::ACK,
            window: U16::new(u16::MAX),
            checksum: U16::new(0),
            urgent: U16::new(0),
        })
    }

    /// A TCP header as given; the checksum is filled in. Options may follow as payload if the data offset says so.
    pub fn tcp_header(mut self, header: Tcp) -> FrameBuilder<'a> {
        let allowed = self.name_proto(PROTO_TCP);
        self.push(Kind::Tcp, "tcp", header.as_bytes(), allowed)
    }

    /// An ICMP (after IPv4) or ICMPv6 (after IPv6) header; `rest` is its second word.
    pub fn icmp(mut self, kind: u8, code: u8, rest: u32) -> FrameBuilder<'a> {
        let (proto, layer) = match self.last() {
            Some((Kind::Ipv6, _)) => (PROTO_ICMPV6, Kind::Icmpv6),
            _ => (PROTO_ICMP, Kind::Icmp),
        };
        let allowed = self.name_proto(proto);
        let header = Icmp {
            kind,
            code,
            checksum: U16::new(0),
            rest: U32::new(rest),
        };
        self.push(layer, "icmp", header.as_bytes(), allowed)
    }

    /// An echo request with identifier and sequence number: type 8 after IPv4, 128 after IPv6.
    pub fn echo_request(self, id: u16, sequence: u16) -> FrameBuilder<'a> {
        let kind = if matches!(self.last(), Some((Kind::Ipv6, _))) {
            128
        } else {
            8
        };
        self.icmp(kind, 0, u32::from(id) << 16 | u32::from(sequence))
    }

    /// A VXLAN header after UDP.
    pub fn vxlan(self, vni: u32) -> FrameBuilder<'a> {
        let allowed = matches!(self.last(), Some((Kind::Udp, _)));
        self.push(Kind::Vxlan, "vxlan", Vxlan::new(vni).as_bytes(), allowed)
    }

    /// Payload bytes; may be repeated.
    pub fn payload(self, bytes: &[u8]) -> FrameBuilder<'a> {
        let allowed = self.depth > 0;
        self.push(Kind::Payload, "payload", bytes, allowed)
    }

    /// Fills in lengths and checksums and returns the length of the frame.
    ///
    /// # Errors
    /// The first error of any step, or [`BuildError::TooLong`].
    pub fn finish(mut self) -> Result<usize, BuildError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        // Innermost first, so that every checksum covers finished bytes.
        for i in (0..self.depth).rev() {
            let (kind, at) = self.headers[i];
            let before = i.checked_sub(1).map(|i| self.headers[i]);
            self.complete(kind, at, before)?;
        }
        Ok(self.len)
    }

    fn complete(
        &mut self,
        kind: Kind,
        at: usize,
        before: Option<(Kind, usize)>,
    ) -> Result<(), BuildError> {
        let rest = self.len - at;
        let length = |len: usize| {
            u16::try_from(len)
                .map(u16::to_be_bytes)
                .map_err(|_| BuildError::TooLong)
        };
        match kind {
            Kind::Ipv4 => {
                self.put(at + 2, &length(rest)?);
                self.put(at + 10, &[0; 2]);
                let sum = checksum(&self.bytes[at..at + Ipv4::LEN]);
                self.put(at + 10, &sum.to_be_bytes());
            }
            Kind::Ipv6 => self.put(at + 4, &length(rest - Ipv6::LEN)?),
            Kind::Udp => {
                self.put(at + 4, &length(rest)?);
                self.put_l4_checksum(at, 6, PROTO_UDP, before);
            }
            Kind::Tcp => self.put_l4_checksum(at, 16, PROTO_TCP, before),
            Kind::Icmpv6 => self.put_l4_checksum(at, 2, PROTO_ICMPV6, before),
            Kind::Icmp => {
                let sum = checksum(&self.bytes[at..self.len]);
                self.put(at + 2, &sum.to_be_bytes());
            }
            Kind::Ethernet | Kind::Vlan | Kind::Vxlan | Kind::Payload => {}
        }
        Ok(())
    }

    fn put_l4_checksum(
        &mut self,
        at: usize,
        offset: usize,
        proto: u8,
        before: Option<(Kind, usize)>,
    ) {
        let (kind, ip) = before.unwrap_or((Kind::Payload, 0));
        let len = (self.len - at) as u32;
        let wide = |from: usize| {
            let bytes = self.bytes.get(from..).and_then(|b| b.first_chunk::<16>());
            bytes.map_or(0, |b| u128::from_be_bytes(*b))
        };
        let mut sum = if kind == Kind::Ipv4 {
            // Both addresses are the last eight bytes of the fixed header.
            let both = wide(ip + 4) as u64;
            pseudo_ipv4((both >> 32) as u32, both as u32, proto, len)
        } else {
            pseudo_ipv6(wide(ip + 8), wide(ip + 24), proto, len)
        };
        self.put(at + offset, &[0; 2]);
        sum.add(&self.bytes[at..self.len]);
        self.put(at + offset, &sum.udp_value().to_be_bytes());
    }
}

#[cfg(test)]
mod tests;

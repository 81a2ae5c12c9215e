//! The switch's answers to what hosts ask: ARP (RFC 826), neighbour and router discovery (RFC 4861), DHCP (RFC 2131, RFC 8415), echo, and ICMP errors.
//!
//! Which question gets which answer was decided already; here it is read in full, and a question that makes no sense gets none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sumeru_packet::build::{
    self, IcmpError, NeighbourFlags, RouterAdvertisement, neighbour_advertisement,
};
use sumeru_packet::dhcp4::{self, Answer as Reply4};
use sumeru_packet::dhcp6::{self, Status};
use sumeru_packet::{L3Kind, Layout};

use super::{ADVERTISE_EVERY, Advertisement, Lease4, Lease6, link_local};

/// All nodes of a link (RFC 4291 section 2.7.1, RFC 2464 section 7).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Length of a UDP header.
const UDP: usize = 8;

/// What the switch answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Whose link-layer address was asked for has this one.
    Neighbour {
        /// The address.
        mac: [u8; 6],
        /// Whether it is a router's.
        router: bool,
    },
    /// DHCPv4.
    Dhcp4(Arc<Lease4>),
    /// DHCPv6.
    Dhcp6(Arc<Lease6>),
    /// A router advertisement.
    Advertisement(Arc<Advertisement>),
    /// An echo reply from the address that was asked.
    Echo,
    /// An ICMP error from this address.
    Error(IcmpError, IpAddr),
    /// A TCP reset from the address that was called.
    Reset,
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl Answer {
    /// Writes the answer to `frame`, which is whole, into `out`; its length, or `None` if the question gets none.
    pub fn write(&self, out: &mut [u8], frame: &[u8], layout: &Layout) -> Option<usize> {
        let layer = layout.outer();
        let sender = bytes::<6>(frame, usize::from(layer.eth) + 6)?;
        let payload = || {
            let l4 = usize::from(layer.l4);
            let len = usize::from(u16::from_be_bytes(bytes(frame, l4 + 4)?));
            frame.get(l4 + UDP..l4.checked_add(len)?)
        };
        if sender[0] & 1 != 0 {
            return None;
        }
        match self {
            Self::Neighbour { mac, .. } if layer.l3_kind == L3Kind::Arp => {
                let at = usize::from(layer.l3);
                let [asks, asked] = [14, 24].map(|field| bytes::<4>(frame, at + field));
                let (asks, asked) = (Ipv4Addr::from(asks?), Ipv4Addr::from(asked?));
                build::arp_reply(out, *mac, asked, bytes(frame, at + 8)?, asks).ok()
            }
            Self::Neighbour { mac, router } => {
                let from = Ipv6Addr::from(bytes::<16>(frame, usize::from(layer.l3) + 8)?);
                let target = solicited(frame, layout)?;
                let flags = NeighbourFlags {
                    router: *router,
                    solicited: !from.is_unspecified(),
                    override_known: true,
                };
                // Who looks whether an address is free has none to be answered at (section 7.2.4).
                let (to_mac, to) = match from.is_unspecified() {
                    true => (ALL_NODES_MAC, ALL_NODES),
                    false => (sender, from),
                };
                neighbour_advertisement(out, *mac, target, to_mac, to, flags).ok()
            }
            Self::Dhcp4(lease) => dhcp4(out, lease, payload()?, sender),
            Self::Dhcp6(lease) => {
                let from = Ipv6Addr::from(bytes::<16>(frame, usize::from(layer.l3) + 8)?);
                dhcp6(out, lease, payload()?, sender, from)
            }
            Self::Advertisement(advertisement) => {
                let from = Ipv6Addr::from(bytes::<16>(frame, usize::from(layer.l3) + 8)?);
                match from.is_unspecified() {
                    true => advertisement.write(out),
                    false => advertisement.write_to(out, sender, from),
                }
            }
            Self::Echo => {
                let mac = bytes(frame, layer.eth.into())?;
                build::echo_reply(out, frame, layer, mac)
            }
            Self::Reset => build::tcp_reset(out, frame, layer).ok()?,
            Self::Error(error, source) => {
                build::icmp_error(out, frame, layer, *source, *error).ok()?
            }
        }
    }
}

/// The target of a neighbour solicitation that nobody forwarded (RFC 4861 section 7.1.1).
pub(crate) fn solicited(frame: &[u8], layout: &Layout) -> Option<Ipv6Addr> {
    let layer = layout.outer();
    let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
    let fresh = layer.l3_kind == L3Kind::Ipv6 && l4 != 0 && frame.get(l3 + 7) == Some(&255);
    let target = Ipv6Addr::from(bytes::<16>(frame, l4 + 8)?);
    (fresh && frame.get(l4) == Some(&135) && !target.is_multicast()).then_some(target)
}

impl Advertisement {
    /// Writes it for all nodes of the link.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        self.write_to(out, ALL_NODES_MAC, ALL_NODES)
    }

    /// What a router says that is none any more: the same, but nobody is to go by it.
    pub(crate) fn last(&self) -> Self {
        Self {
            lifetime: 0,
            ..self.clone()
        }
    }

    fn write_to(&self, out: &mut [u8], mac: [u8; 6], to: Ipv6Addr) -> Option<usize> {
        let what = RouterAdvertisement {
            hop_limit: 64,
            managed: self.managed,
            other: false,
            lifetime: self.lifetime,
            mtu: (self.mtu >= 1280).then_some(self.mtu.into()),
            prefixes: &self.prefixes,
            dns_servers: &self.dns_servers,
            // RFC 8106 section 5.1.
            dns_lifetime: 3 * ADVERTISE_EVERY,
        };
        build::router_advertisement(out, self.mac, link_local(self.mac), mac, to, &what).ok()
    }
}

/// RFC 2131, section 4.3: the address is always the same one.
fn dhcp4(out: &mut [u8], lease: &Lease4, payload: &[u8], sender: [u8; 6]) -> Option<usize> {
    let request = dhcp4::Request::parse(payload)?;
    let another = |server: Ipv4Addr| server != lease.server;
    if lease.client.is_some_and(|client| client != request.mac)
        || request.server.is_some_and(another)
    {
        return None;
    }
    let answer = match request.kind {
        dhcp4::Kind::Discover => Reply4::Offer,
        dhcp4::Kind::Inform => Reply4::Ack,
        dhcp4::Kind::Request => {
            let wanted = request.requested.unwrap_or(request.client);
            if wanted == lease.address {
                Reply4::Ack
            } else {
                Reply4::Nak
            }
        }
        dhcp4::Kind::Decline | dhcp4::Kind::Release => return None,
    };
    let mask = u32::MAX
        .checked_shl(32 - u32::from(lease.length.min(32)))
        .unwrap_or(0);
    let reply = dhcp4::Reply {
        answer,
        server_mac: lease.server_mac,
        server: lease.server,
        sender_mac: sender,
        address: lease.address,
        lease: lease.lease_s,
        mask: mask.into(),
        routers: &lease.routers,
        dns_servers: &lease.dns_servers,
        ntp_servers: &[],
        routes: &lease.routes,
        domain: lease.domain.as_bytes(),
        hostname: &[],
        mtu: Some(lease.mtu),
    };
    dhcp4::reply(out, &request, &reply).ok()
}

/// RFC 8415, section 18.3: the address is always the same one.
fn dhcp6(
    out: &mut [u8],
    lease: &Lease6,
    payload: &[u8],
    sender: [u8; 6],
    from: Ipv6Addr,
) -> Option<usize> {
    let request = dhcp6::Request::parse(payload)?;
    // DUID-LL of Ethernet (section 11.4).
    let mut duid = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    duid[4..].copy_from_slice(&lease.server_mac);
    if request.server_id.is_some_and(|server| server != duid) {
        return None;
    }
    let here = request
        .association
        .and_then(|association| association.address)
        .is_none_or(|address| address == lease.address);
    // Without an address there is nothing to say of the link (section 18.3.3).
    let confirmed = request.association.is_some_and(|a| a.address.is_some());
    if request.kind == dhcp6::Kind::Confirm && !confirmed {
        return None;
    }
    let status = match request.kind {
        dhcp6::Kind::Confirm if !here => Status::NotOnLink,
        _ => Status::Success,
    };
    let domains = [&*lease.domain];
    let reply = dhcp6::Reply {
        server_mac: lease.server_mac,
        server: link_local(lease.server_mac),
        server_id: &duid,
        client_mac: sender,
        client: from,
        address: Some(lease.address),
        preferred: lease.lease_s,
        valid: lease.lease_s,
        status,
        preference: Some(255),
        rapid_commit: true,
        dns_servers: &lease.dns_servers,
        domains: if lease.domain.is_empty() {
            &[]
        } else {
            &domains
        },
    };
    dhcp6::reply(out, &request, &reply).ok()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

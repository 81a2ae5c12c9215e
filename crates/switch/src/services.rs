//! What the switch itself does for the hosts of a network, as forwarding knows it: addresses that it resolves for them, leases that it gives them,
//! the router that their frames may go through. Control makes it; it is looked at on the slow path only.

mod answer;
pub mod neighbours;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::balance::{Answering, VirtualAddress};
use crate::conntrack::{NatBinding, Rewrite};
use crate::frame::PortIndex;
use crate::snapshot::NetworkId;

pub use answer::Answer;
pub(crate) use answer::solicited;
pub use sumeru_packet::build::{DNS_SERVERS_MAX, PREFIXES_MAX, Prefix as AdvertisedPrefix};
pub use sumeru_packet::dhcp4::Route as LeasedRoute;

/// Answers per second that a port gets; what it asks beyond is dropped, so that its asking costs others nothing.
pub const ANSWERS_PER_SECOND: u32 = 1000;
/// Seconds between router advertisements that nobody asked for (RFC 4861 section 6.2.1, MaxRtrAdvInterval).
pub const ADVERTISE_EVERY: u32 = 300;

/// Where a host whose address is known is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the switch itself.
    Here,
    /// Behind a port of this node.
    Port(PortIndex),
    /// Behind a tunnel.
    Remote(IpAddr),
}

/// A host whose address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Where it is.
    pub place: Place,
}

/// What a DHCP client at a port is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease4 {
    /// Address and identifier of the server.
    pub server: Ipv4Addr,
    /// Its link-layer address.
    pub server_mac: [u8; 6],
    /// The only client that is answered, if that is known.
    pub client: Option<[u8; 6]>,
    /// The client's address.
    pub address: Ipv4Addr,
    /// Length of its prefix.
    pub length: u8,
    /// Seconds that it may be used before it is asked for again.
    pub lease_s: u32,
    /// Routers.
    pub routers: Vec<Ipv4Addr>,
    /// DNS servers.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Routes, the default route included if there are any.
    pub routes: Vec<LeasedRoute>,
    /// Domain name; may be empty.
    pub domain: Box<str>,
    /// Largest packet.
    pub mtu: u16,
}

/// What a DHCPv6 client at a port is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease6 {
    /// Link-layer address of the server, of which its link-local address and its DUID are made.
    pub server_mac: [u8; 6],
    /// The client's address.
    pub address: Ipv6Addr,
    /// Seconds that it is valid, and preferred.
    pub lease_s: u32,
    /// DNS servers.
    pub dns_servers: Vec<Ipv6Addr>,
    /// Domain name; may be empty.
    pub domain: Box<str>,
}

/// What a router tells the hosts of a link (RFC 4861 section 6.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// Link-layer address of the router, of which its link-local address is made.
    pub mac: [u8; 6],
    /// Seconds to use it as the default router; 0 for not.
    pub lifetime: u16,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Largest packet.
    pub mtu: u16,
    /// Prefixes of the link.
    pub prefixes: Vec<AdvertisedPrefix>,
    /// DNS servers.
    pub dns_servers: Vec<Ipv6Addr>,
}

/// What a port's DHCP clients are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// By DHCPv4.
    pub v4: Option<Arc<Lease4>>,
    /// By DHCPv6.
    pub v6: Option<Arc<Lease6>>,
}

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the router itself.
    Own,
    /// To their receiver on this network.
    Link(NetworkId),
    /// To another router on this network.
    Via(NetworkId, IpAddr),
    /// To nobody: groups, and what is good on one link only.
    Nowhere,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix's first address; bits beyond its length are zero.
    pub prefix: IpAddr,
    /// Its length.
    pub length: u8,
    /// Where its packets go.
    pub way: Way,
}

/// An address of an outside network that stands for a port's own, one for one (RFC 3022 section 2.1, basic NAT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floating {
    /// Its name.
    pub name: Arc<str>,
    /// The address outside.
    pub address: IpAddr,
    /// Its link-layer address there, its own on whichever node it is.
    pub mac: [u8; 6],
    /// The outside network.
    pub network: NetworkId,
    /// The outside prefix that it is in, as first address and length, whose hosts are reached without a router.
    pub prefix: (IpAddr, u8),
    /// The router for all others.
    pub gateway: Option<IpAddr>,
    /// The port.
    pub port: PortIndex,
    /// The port's network.
    pub inside_network: NetworkId,
    /// The port's own address.
    pub inside: IpAddr,
}

impl Floating {
    /// The next hop towards an address outside.
    pub fn next_hop(&self, to: IpAddr) -> Option<IpAddr> {
        let ((to_bits, to_width), (prefix, width)) = (aligned(to), aligned(self.prefix.0));
        let common = (to_bits ^ prefix).leading_zeros();
        if to_width == width && common >= self.prefix.1.into() {
            Some(to)
        } else {
            self.gateway
        }
    }

    /// How its packets are translated: outwards in the original direction, inwards in the other.
    pub fn binding(&self) -> NatBinding {
        let number = |address| match address {
            IpAddr::V4(address) => Some(u128::from(Ipv4Addr::to_bits(address))),
            IpAddr::V6(address) => Some(address.to_bits()),
        };
        let (outside, inside) = (number(self.address), number(self.inside));
        let src = |src| Rewrite {
            src,
            ..Rewrite::default()
        };
        let dst = |dst| Rewrite {
            dst,
            ..Rewrite::default()
        };
        NatBinding {
            original: src(outside),
            reply: dst(inside),
            embedded_original: dst(outside),
            embedded_reply: src(inside),
        }
    }
}

/// A router between networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Router {
    /// Its name.
    pub name: Box<str>,
    /// Its routes, those of its own addresses and of its networks included, in any order.
    pub routes: Vec<Route>,
}

/// What the switch does for the hosts of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Link-layer address of the switch on this network: that of its router and its servers.
    pub mac: [u8; 6],
    /// Addresses that are known, those of the switch included.
    pub hosts: HashMap<IpAddr, Host>,
    /// Who gets an address.
    pub leases: HashMap<PortIndex, Leases>,
    /// What is told of the link.
    pub advertisement: Option<Arc<Advertisement>>,
    /// The router.
    pub router: Option<Arc<Router>>,
    /// Link-layer addresses of floating addresses on this network.
    pub floating_macs: HashSet<[u8; 6]>,
    /// Floating addresses on this network, by address.
    pub floating: HashMap<IpAddr, Floating>,
    /// Floating addresses elsewhere of ports on this network, by the ports' own.
    pub outside: HashMap<IpAddr, Floating>,
    /// Virtual addresses of load balancers that are reached by this network.
    pub virtual_addresses: HashMap<IpAddr, VirtualAddress>,
    /// Members of load balancers whose packets come by this network.
    pub answering: Answering,
    /// The router's own address on this network, by family: what its errors come from.
    pub own: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// Largest packet of the network.
    pub mtu: u16,
}

impl Services {
    /// Whether frames to a link-layer address are for the switch.
    pub fn is_here(&self, mac: [u8; 6]) -> bool {
        mac == self.mac || self.floating_macs.contains(&mac)
    }

    /// Whether its hosts' addresses are asked for: packets are routed to them.
    pub fn is_routed(&self) -> bool {
        self.router.is_some() || !self.floating.is_empty() || !self.virtual_addresses.is_empty()
    }

    /// Who asks for the link-layer address of a host.
    pub fn asker(&self, host: IpAddr) -> Option<([u8; 6], IpAddr)> {
        let floating = self.floating.values();
        let mut floating = floating.filter(|floating| floating.address.is_ipv4() == host.is_ipv4());
        match (self.own_like(host), host) {
            (Some(own), IpAddr::V4(_)) => Some((self.mac, own)),
            (Some(_), IpAddr::V6(_)) => Some((self.mac, link_local(self.mac).into())),
            (None, _) => {
                let mut own = self.virtual_addresses.keys();
                let own = own.find(|own| own.is_ipv4() == host.is_ipv4());
                let virtual_address = own.map(|own| (self.mac, *own));
                let floating = floating.next();
                let floating = floating.map(|floating| (floating.mac, floating.address));
                floating.or(virtual_address)
            }
        }
    }

    /// The router's own address on this network of the family of `other`.
    pub fn own_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.own.0.map(IpAddr::V4),
            IpAddr::V6(_) => self.own.1.map(IpAddr::V6),
        }
    }
}

/// An address as a number of 128 bits, from its first on.
fn aligned(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl Router {
    /// The way of the longest prefix that an address has, and how many of its leading bits say so: every address that shares them goes the same way.
    pub fn way(&self, address: IpAddr) -> (Option<Way>, u8) {
        let (route, bits) = self.route(address);
        (route.map(|route| route.way), bits)
    }

    /// The same with the whole route.
    pub fn route(&self, address: IpAddr) -> (Option<&Route>, u8) {
        let (bits, width) = aligned(address);
        let mut best: Option<&Route> = None;
        let mut decided = 0;
        for route in &self.routes {
            let (prefix, of) = aligned(route.prefix);
            if of != width {
                continue;
            }
            let common = (bits ^ prefix).leading_zeros();
            if common >= route.length.into() {
                if best.is_none_or(|best| best.length < route.length) {
                    best = Some(route);
                }
                decided = decided.max(u32::from(route.length));
            } else {
                // The first bit that differs.
                decided = decided.max(common + 1);
            }
        }
        (best, decided.min(width) as u8)
    }
}

/// The link-local address that a link-layer address makes (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_decides() {
        let route = |prefix: &str, length, network| Route {
            prefix: prefix.parse().unwrap(),
            length,
            way: Way::Link(network),
        };
        let router = Router {
            name: "r".into(),
            routes: vec![
                route("0.0.0.0", 0, 1),
                route("10.0.0.0", 8, 2),
                route("10.1.0.0", 16, 3),
                route("::", 0, 4),
            ],
        };
        let way = |text: &str| router.way(text.parse().unwrap());
        assert_eq!(way("10.1.2.3"), (Some(Way::Link(3)), 16));
        // 10.2 differs from 10.1 in the 15th bit.
        assert_eq!(way("10.2.2.3"), (Some(Way::Link(2)), 15));
        assert_eq!(way("192.0.2.1"), (Some(Way::Link(1)), 1));
        assert_eq!(way("2001:db8::1"), (Some(Way::Link(4)), 0));
        assert_eq!(
            Router::default().way("10.1.2.3".parse().unwrap()),
            (None, 0)
        );
    }

    proptest! {
        /// All addresses that share the bits that decide go the same way, and it is that of the longest prefix.
        #[test]
        fn the_bits_that_decide_do(
            routes in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            address in any::<u32>(),
            other in any::<u32>(),
        ) {
            let mask = |length: u8| u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let routes: Vec<Route> = routes
                .iter()
                .zip(0..)
                .map(|((bits, length), network)| Route {
                    // Near the address, so that they matter.
                    prefix: IpAddr::V4(((address ^ bits >> (bits % 32)) & mask(*length)).into()),
                    length: *length,
                    way: Way::Link(network),
                })
                .collect();
            let router = Router { name: "r".into(), routes };
            let longest = |address: u32| {
                let has = |route: &&Route| {
                    let IpAddr::V4(prefix) = route.prefix else { return false };
                    address & mask(route.length) == prefix.to_bits()
                };
                router.routes.iter().filter(has).map(|route| route.length).max()
            };
            let length = |way: Option<Way>| way.map(|way| {
                let Way::Link(network) = way else { unreachable!() };
                router.routes[network as usize].length
            });
            let (way, decided) = router.way(IpAddr::V4(address.into()));
            prop_assert_eq!(length(way), longest(address));
            let sharing = address & mask(decided) | other & !mask(decided);
            prop_assert_eq!(router.way(IpAddr::V4(sharing.into())).0, way);
        }
    }
}

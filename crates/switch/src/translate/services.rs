//! What the switch itself does for the hosts of a network: questions that it answers, and frames for its router.

use std::net::{IpAddr, Ipv4Addr};

use sumeru_packet::build::IcmpError;
use sumeru_packet::field::VLAN_PRESENT;
use sumeru_packet::{Field, Layer};

use super::{Walk, ip_of, text_of};
use crate::conntrack::Direction;
use crate::fdb::{Target, change_of};
use crate::program::{Hop, Op};
use crate::services::{Answer, Floating, Host, Place, Services, Way, neighbours, solicited};
use crate::snapshot::NetworkId;
use crate::stats::Drop;

const OUTER: Layer = Layer::Outer;
const ARP: u128 = 0x0806;
const IPV4: u128 = 0x0800;
const IPV6: u128 = 0x86dd;
const ICMP: u128 = 1;
const TCP: u128 = 6;
const UDP: u128 = 17;
const ICMPV6: u128 = 58;

impl Walk<'_> {
    /// Looks whether a frame on a network is for the switch itself: true when that decides its fate.
    pub(super) fn serve(&mut self, id: NetworkId, from: Target, destination: [u8; 6]) -> bool {
        let tables = self.tables;
        let Some(services) = tables.snapshot.services.get(&id) else {
            return false;
        };
        let here = services.is_here(destination);
        if !here && destination[0] & 1 == 0 {
            return false;
        }
        // What guests do inside VLANs of their own is not looked at.
        let tagged = self.get_bits(Field::VlanTci(OUTER), VLAN_PRESENT.into()) != 0;
        let decided = !tagged
            && match self.get(Field::EthType(OUTER)) {
                ARP => self.arp(id, services, from, here),
                eth_type @ (IPV4 | IPV6) if here => self.at_switch(id, services, from, eth_type),
                IPV4 => self.broadcast(id, services, from),
                IPV6 => self.multicast(id, services, from),
                _ => false,
            };
        if here && !decided {
            self.drop(Drop::Unanswered);
        }
        here || decided
    }

    /// The switch answers. Only ports of this node: hosts elsewhere have a node of their own that does.
    pub(super) fn answer(&mut self, from: Target, answer: Answer) -> bool {
        match from {
            Target::Port(_) => self.out.ops.push(Op::Answer(Box::new(answer))),
            Target::Remote(_) => self.drop(Drop::Unanswered),
        }
        true
    }

    /// Notes what is done, if anybody reads it.
    pub(super) fn say(&mut self, stage: &'static str, what: impl FnOnce(&Self) -> String) {
        if self.notes.is_some() {
            let text = what(self);
            self.note(stage, format_args!("{text}"));
        }
    }

    fn name_of(&self, id: NetworkId) -> &str {
        let network = self.tables.snapshot.networks.get(&id);
        network.map_or("", |network| &network.name)
    }

    /// Who has an address, unless it is the one who asks: that one looks whether somebody else has it, too.
    fn known(&self, services: &Services, from: Target, address: IpAddr) -> Option<Host> {
        let host = services.hosts.get(&address).copied()?;
        let asks = match host.place {
            Place::Here => false,
            Place::Port(port) => from == Target::Port(port),
            Place::Remote(remote) => from == Target::Remote(remote),
        };
        (!asks).then_some(host)
    }

    /// Tells a port's host where another is.
    fn resolve_for(
        &mut self,
        id: NetworkId,
        services: &Services,
        from: Target,
        address: IpAddr,
    ) -> bool {
        if !matches!(from, Target::Port(_)) {
            return false;
        }
        let Some(host) = self.known(services, from, address) else {
            return false;
        };
        self.say("service", |walk| {
            format!(
                "network {}: {address} is at {}",
                walk.name_of(id),
                text_of(host.mac)
            )
        });
        let router = host.place == Place::Here && services.router.is_some();
        let mac = host.mac;
        self.answer(from, Answer::Neighbour { mac, router })
    }

    fn arp(&mut self, id: NetworkId, services: &Services, from: Target, here: bool) -> bool {
        match self.get(Field::L4Dst(OUTER)) {
            1 => {
                let asked = Ipv4Addr::from_bits(self.get(Field::IpDst(OUTER)) as u32);
                self.resolve_for(id, services, from, asked.into())
            }
            2 if here => self.told(services, from),
            _ => false,
        }
    }

    /// An answer to a question of the router.
    fn told(&mut self, services: &Services, from: Target) -> bool {
        // Nobody is asked through a tunnel.
        let expected = services.is_routed() && matches!(from, Target::Port(_));
        if expected {
            self.consume("services", "an answer to the router");
        }
        expected
    }

    /// IPv4 to everybody: DHCP.
    fn broadcast(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        services.leases.values().any(|leases| leases.v4.is_some())
            && self.get(Field::IpDst(OUTER)) == u128::from(u32::MAX)
            && self.get(Field::IpProto(OUTER)) == UDP
            && self.dhcp4(id, services, from)
    }

    fn dhcp4(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        let ports = (self.get(Field::L4Src(OUTER)), self.get(Field::L4Dst(OUTER)));
        let Target::Port(port) = from else {
            return false;
        };
        let lease = services.leases.get(&port);
        let Some(lease) = lease.and_then(|leases| leases.v4.clone()) else {
            return false;
        };
        if ports != (68, 67) {
            return false;
        }
        self.say("service", |walk| {
            format!("network {}: DHCP, {}", walk.name_of(id), lease.address)
        });
        // What the client says is in no key.
        self.out.once = true;
        self.answer(from, Answer::Dhcp4(lease))
    }

    /// IPv6 to many: neighbour and router solicitations, DHCPv6.
    fn multicast(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        match self.get(Field::IpProto(OUTER)) {
            ICMPV6 => match self.get(Field::L4Src(OUTER)) {
                133 => self.advertise(id, services, from),
                135 => self.solicitation(id, services, from),
                _ => false,
            },
            UDP if services.leases.values().any(|leases| leases.v6.is_some()) => {
                let ports = (self.get(Field::L4Src(OUTER)), self.get(Field::L4Dst(OUTER)));
                ports == (546, 547) && self.dhcp6(id, services, from)
            }
            _ => false,
        }
    }

    fn advertise(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        let Some(advertisement) = services.advertisement.clone() else {
            return false;
        };
        // Somebody else's router forwarded it (RFC 4861 section 6.1.1).
        if self.get(Field::IpTtl(OUTER)) != 255 {
            return false;
        }
        self.say("service", |walk| {
            format!("network {}: router advertisement", walk.name_of(id))
        });
        self.answer(from, Answer::Advertisement(advertisement))
    }

    fn solicitation(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        // Whom it asks for is not in the key.
        self.out.once = true;
        if !self.seen.is_own() || self.seen.is_decapsulated() {
            return false;
        }
        let frame = self.tracking.frame;
        let target = frame.and_then(|frame| solicited(frame.header.header(), &frame.layout));
        target.is_some_and(|target| self.resolve_for(id, services, from, target.into()))
    }

    fn dhcp6(&mut self, id: NetworkId, services: &Services, from: Target) -> bool {
        let Target::Port(port) = from else {
            return false;
        };
        let lease = services.leases.get(&port);
        let Some(lease) = lease.and_then(|leases| leases.v6.clone()) else {
            return false;
        };
        self.say("service", |walk| {
            format!("network {}: DHCPv6, {}", walk.name_of(id), lease.address)
        });
        self.out.once = true;
        self.answer(from, Answer::Dhcp6(lease))
    }

    /// A packet to the switch's link-layer address: for the switch, or for its router to forward.
    fn at_switch(
        &mut self,
        id: NetworkId,
        services: &Services,
        from: Target,
        eth_type: u128,
    ) -> bool {
        // Looking comes later: only as many bits as it takes. The whole has to be known for that.
        self.origin(Field::IpDst(OUTER), u128::MAX);
        if self.over {
            return true;
        }
        let address = ip_of(eth_type, self.key.get(Field::IpDst(OUTER)));
        let width: u32 = if eth_type == IPV4 { 32 } else { 128 };
        let leading = |bits: u8| {
            let all = u128::MAX >> (128 - width);
            all & !all.checked_shr(bits.into()).unwrap_or(0)
        };
        if !services.floating.is_empty() {
            self.get(Field::IpDst(OUTER));
            if let Some(floating) = services.floating.get(&address) {
                if self.is_stray(eth_type) {
                    return true;
                }
                return self.come_in(services, from, floating, None);
            }
        }
        if !services.virtual_addresses.is_empty() {
            self.get(Field::IpDst(OUTER));
            if let Some(called) = services.virtual_addresses.get(&address) {
                return self.balance(id, services, from, called, address);
            }
        }
        let Some(router) = &services.router else {
            self.get(Field::IpDst(OUTER));
            let own = services.hosts.get(&address);
            let own = own.is_some_and(|host| host.place == Place::Here);
            return own && self.own(id, services, from, address);
        };
        let (route, bits) = router.route(address);
        self.get_bits(Field::IpDst(OUTER), leading(bits));
        let way = route.map(|route| route.way);
        if way == Some(Way::Own) {
            return self.own(id, services, from, address);
        }
        if way == Some(Way::Nowhere) {
            self.drop(Drop::NoRoute);
            return true;
        }
        if self.is_stray(eth_type) {
            return true;
        }
        if route.is_none_or(|route| route.length == 0)
            && let Some(floating) = self.floating(services, from, eth_type)
        {
            return self.go_out(services, from, floating, address);
        }
        let (network, next) = match way {
            Some(Way::Link(network)) => {
                self.get(Field::IpDst(OUTER));
                (network, address)
            }
            Some(Way::Via(network, next)) => (network, next),
            _ => {
                self.note(
                    "router",
                    format_args!("router {}: no route to {address}", router.name),
                );
                return self.unreachable(services, from, address, IcmpError::NoRoute);
            }
        };
        self.say("router", |walk| {
            format!(
                "router {}: {address} by network {} to {next}",
                router.name,
                walk.name_of(network)
            )
        });
        self.forward(services, from, network, next)
    }

    /// Whether a packet's sender has no business on another link, and drops it then: what is good on one link only stays there (RFC 3927
    /// section 7, RFC 4291 section 2.5.6), and groups, this host and nobody send nothing (RFC 1812 section 5.3.7, RFC 4291 sections 2.5.2, 2.5.3
    /// and 2.7). Looks at as many bits of the address as that takes.
    fn is_stray(&mut self, eth_type: u128) -> bool {
        let source = Field::IpSrc(OUTER);
        let reason = if eth_type == IPV6 {
            match self.get_bits(source, 0xffc0 << 112) >> 112 {
                0xfe80 => Some(Drop::NoRoute),
                0xff00.. => Some(Drop::BadSource),
                0 => (self.get(source) <= 1).then_some(Drop::BadSource),
                _ => None,
            }
        } else {
            match self.get_bits(source, 0xff << 24) >> 24 {
                169 if self.get_bits(source, 0xffff << 16) >> 16 == 0xa9fe => Some(Drop::NoRoute),
                0 | 127 | 224.. => Some(Drop::BadSource),
                _ => None,
            }
        };
        if let Some(reason) = reason {
            self.drop(reason);
        }
        reason.is_some()
    }

    /// The floating address that stands for a frame's sender.
    fn floating(&mut self, services: &Services, from: Target, eth_type: u128) -> Option<Floating> {
        if services.outside.is_empty() {
            return None;
        }
        let sender = ip_of(eth_type, self.get(Field::IpSrc(OUTER)));
        let floating = services.outside.get(&sender).cloned()?;
        (from == Target::Port(floating.port)).then_some(floating)
    }

    /// A packet of a port with a floating address leaves for the outside.
    fn go_out(
        &mut self,
        services: &Services,
        from: Target,
        floating: Floating,
        address: IpAddr,
    ) -> bool {
        self.get(Field::IpDst(OUTER));
        let tables = self.tables;
        let outside = tables.snapshot.services.get(&floating.network);
        self.note(
            "router",
            format_args!(
                "floating-ip {}: for {} to {address}",
                floating.name, floating.inside
            ),
        );
        let (Some(outside), Some(next)) = (outside, floating.next_hop(address)) else {
            return self.unreachable(services, from, address, IcmpError::NoRoute);
        };
        // One floating address may talk to another.
        if let Some(other) = outside.floating.get(&next) {
            return self.come_in(services, from, other, Some(&floating));
        }
        let Some((mac, place)) = self.next(outside, floating.network, next) else {
            return true;
        };
        let hop = Hop {
            src: floating.mac,
            dst: mac,
            source: self.teller(services, from, next),
            mtu: outside.mtu,
        };
        self.hop(hop);
        self.translated(&floating, Direction::Original);
        self.leave(from, floating.network, place)
    }

    /// A packet to a floating address goes to its port; if its sender has one, too, that is what it comes from (`own`).
    fn come_in(
        &mut self,
        services: &Services,
        from: Target,
        floating: &Floating,
        own: Option<&Floating>,
    ) -> bool {
        self.say("router", |walk| {
            format!(
                "floating-ip {}: to {} of network {}",
                floating.name,
                floating.inside,
                walk.name_of(floating.inside_network)
            )
        });
        let tables = self.tables;
        let inside = tables.snapshot.services.get(&floating.inside_network);
        let known = inside.and_then(|inside| {
            let host = inside.hosts.get(&floating.inside)?;
            Some((inside, host))
        });
        let Some((inside, host)) = known else {
            self.drop(Drop::NoRoute);
            return true;
        };
        let source = Some(floating.address).filter(|_| matches!(from, Target::Port(_)));
        let hop = Hop {
            src: inside.mac,
            dst: host.mac,
            source: self.teller(services, from, floating.address).or(source),
            mtu: inside.mtu,
        };
        // Before any address is another one: what a sender is told of its packet is about the packet that it sent.
        self.hop(hop);
        if let Some(own) = own {
            self.translated(own, Direction::Original);
        }
        self.translated(floating, Direction::Reply);
        self.leave(from, floating.inside_network, host.place)
    }

    fn translated(&mut self, floating: &Floating, direction: Direction) {
        let binding = floating.binding();
        let rewrite = *binding.rewrite(direction);
        self.out
            .ops
            .push(Op::Translate(Box::new((binding, direction))));
        // Connections know the packet that an error is about by its own addresses.
        let inner = usize::from(self.seen.is_decapsulated());
        if let Some(quoted) = &mut self.tracking.facts[inner].embedded {
            let back = match direction {
                Direction::Original => &binding.embedded_original,
                Direction::Reply => &binding.embedded_reply,
            };
            quoted.src = back.src.unwrap_or(quoted.src);
            quoted.dst = back.dst.unwrap_or(quoted.dst);
        }
        if let Some(src) = rewrite.src {
            self.write(Field::IpSrc(OUTER), src);
        }
        if let Some(dst) = rewrite.dst {
            self.write(Field::IpDst(OUTER), dst);
        }
    }

    /// Who tells a frame's sender that it went nowhere: nobody, if that is not here.
    pub(super) fn teller(&self, services: &Services, from: Target, like: IpAddr) -> Option<IpAddr> {
        services
            .own_like(like)
            .filter(|_| matches!(from, Target::Port(_)))
    }

    /// Tells a port's host that its packet went nowhere.
    fn unreachable(
        &mut self,
        services: &Services,
        from: Target,
        address: IpAddr,
        error: IcmpError,
    ) -> bool {
        match services.own_like(address) {
            Some(own) if matches!(from, Target::Port(_)) => {
                self.answer(from, Answer::Error(error, own))
            }
            _ => {
                self.drop(Drop::NoRoute);
                true
            }
        }
    }

    /// A packet to an address of the switch.
    pub(super) fn own(
        &mut self,
        id: NetworkId,
        services: &Services,
        from: Target,
        address: IpAddr,
    ) -> bool {
        self.get(Field::IpDst(OUTER));
        match self.get(Field::IpProto(OUTER)) {
            ICMP if address.is_ipv4() && self.get(Field::L4Src(OUTER)) == 8 => {
                self.note("service", format_args!("echo from {address}"));
                self.answer(from, Answer::Echo)
            }
            ICMPV6 if address.is_ipv6() => match self.get(Field::L4Src(OUTER)) {
                128 => {
                    self.note("service", format_args!("echo from {address}"));
                    self.answer(from, Answer::Echo)
                }
                135 => self.solicitation(id, services, from),
                136 => self.told(services, from),
                _ => false,
            },
            UDP if self.get(Field::L4Dst(OUTER)) == 67 => self.dhcp4(id, services, from),
            UDP | TCP => self.answer(from, Answer::Error(IcmpError::NoPort, address)),
            _ => false,
        }
    }

    /// One hop of the router: to a host of a network.
    fn forward(
        &mut self,
        services: &Services,
        from: Target,
        network: NetworkId,
        next: IpAddr,
    ) -> bool {
        let tables = self.tables;
        let there = tables.snapshot.services.get(&network);
        let Some(there) = there.filter(|there| there.router.is_some()) else {
            return false;
        };
        let Some((mac, place)) = self.next(there, network, next) else {
            return true;
        };
        if place == Place::Here {
            return self.unreachable(services, from, next, IcmpError::NoHost);
        }
        let hop = Hop {
            src: there.mac,
            dst: mac,
            source: self.teller(services, from, next),
            mtu: there.mtu,
        };
        self.hop(hop);
        self.leave(from, network, place)
    }

    /// The next host: its link-layer address, and where it is. Asks for it if nobody knows.
    pub(super) fn next(
        &mut self,
        there: &Services,
        network: NetworkId,
        next: IpAddr,
    ) -> Option<([u8; 6], Place)> {
        match there.hosts.get(&next) {
            Some(host) => Some((host.mac, host.place)),
            None => self.neighbour(network, next),
        }
    }

    /// On its way to the next host. True: that decides its fate.
    pub(super) fn leave(&mut self, from: Target, network: NetworkId, place: Place) -> bool {
        match place {
            Place::Port(port) => {
                let view = self.tables.snapshot.port(port);
                // It may have gone to another network a moment ago.
                if view.is_some_and(|view| view.network == Some(network)) {
                    self.output(port);
                } else {
                    self.drop(Drop::PortDown);
                }
            }
            Place::Remote(_) if matches!(from, Target::Remote(_)) => self.drop(Drop::SplitHorizon),
            Place::Remote(remote) => _ = self.tunnel(network, remote),
            Place::Here => self.drop(Drop::NoRoute),
        }
        true
    }

    /// Where a host is that the configuration does not know; asks for it if nobody does.
    fn neighbour(&mut self, network: NetworkId, address: IpAddr) -> Option<([u8; 6], Place)> {
        let tables = self.tables;
        self.out
            .rests
            .on_learned(neighbours::change_of(network, address));
        let mac = tables.residents.mac(network, address);
        let entry = mac.and_then(|mac| {
            self.out.rests.on_learned(change_of(network, mac));
            tables
                .fdb
                .get(network, mac)
                .map(|entry| (mac, entry.target))
        });
        match entry {
            Some((mac, Target::Port(port))) => Some((mac, Place::Port(port))),
            Some((mac, Target::Remote(remote))) => Some((mac, Place::Remote(remote))),
            None => {
                self.out.want = Some((network, address));
                self.drop(Drop::NeighbourUnresolved);
                None
            }
        }
    }

    pub(super) fn hop(&mut self, hop: Hop) {
        let number = |mac: [u8; 6]| {
            mac.iter()
                .fold(0_u128, |all, byte| all << 8 | u128::from(*byte))
        };
        let ttl = Field::IpTtl(OUTER);
        let from = self.origin(ttl, u128::MAX);
        let left = self.key.get(ttl).saturating_sub(1);
        self.write(Field::EthSrc(OUTER), number(hop.src));
        self.write(Field::EthDst(OUTER), number(hop.dst));
        self.derive(ttl, u128::MAX, left, from);
        self.out.ops.push(Op::Hop(Box::new(hop)));
    }
}

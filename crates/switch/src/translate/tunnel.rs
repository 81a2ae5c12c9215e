//! Tunnels in the slow path: headers that are put in front, and what the key says of the frame then.

use std::net::IpAddr;

use sumeru_flow::model::{FieldValue, MacAddr, NvgreDefinition, TunnelAddresses, VxlanDefinition};
use sumeru_packet::build::{
    Carried, Encapsulation, Outer, Policy, TunnelHeader, Underlay as Addresses,
};
use sumeru_packet::ecn;
use sumeru_packet::field::{LAYER_INNER_ETHERNET, LAYER_INNER_PRESENT, LAYER_OUTER_PRESENT};
use sumeru_packet::{Field, Layer, TunnelKind};

use super::key::bits_of;
use super::{Walk, mac_of};
use crate::edit::IPV6_LEAST_MTU;
use crate::program::{Op, Tunnel};
use crate::snapshot::{NetworkId, Overlay};
use crate::stats::Drop;
use crate::underlay;

const OUTER: Layer = Layer::Outer;
/// UDP port of Geneve (RFC 8926, section 3.3).
pub const GENEVE_PORT: u16 = 6081;
/// The bits of a type of service that tell of congestion.
const ECN: u8 = 3;
/// The link header inside.
const ETHERNET: usize = 14;
/// First UDP source port of a tunnel; the others follow by the hash of what is inside.
const PORT_FIRST: u16 = 49152;

/// The headers of a tunnel that a rule defines.
struct Wanted {
    addresses: TunnelAddresses,
    eth: (Option<MacAddr>, Option<MacAddr>),
    tos: u8,
    ttl: u8,
    ports: (Option<u16>, u16),
    header: TunnelHeader<'static>,
}

impl Walk<'_> {
    /// The tunnel's headers go.
    pub(super) fn decapsulate(&mut self) {
        // Presence of the inner layer is part of the decision.
        self.get(Field::Layers);
        self.out.ops.push(Op::Decapsulate);
        let ip =
            |walk: &Self, layer| matches!(walk.key.get(Field::EthType(layer)), 0x0800 | 0x86dd);
        let both = ip(self, OUTER) && ip(self, Layer::Inner);
        let tos = |walk: &Self, layer| walk.key.get(Field::IpTos(layer)) as u8;
        let (outer, inner) = (tos(self, OUTER), tos(self, Layer::Inner));
        let mut from = bits_of(Field::EthType(OUTER), u128::MAX);
        let mut looked = from;
        looked.merge_field(Field::EthType(Layer::Inner));
        for layer in [OUTER, Layer::Inner] {
            looked.merge(&bits_of(Field::IpTos(layer), ECN.into()));
        }
        from = sumeru_packet::FlowMask::ZERO;
        self.seen.examine(&mut from, &looked);
        for word in 0..sumeru_packet::field::LAYER_WORDS {
            let inner = self.key.word(Layer::Inner.base() + word);
            self.key.set_word(OUTER.base() + word, inner);
            self.key.set_word(Layer::Inner.base() + word, 0);
        }
        for pair in [Field::L4Extra, Field::IpExtra] {
            let inner = self.key.get(pair(Layer::Inner));
            self.key.set(pair(OUTER), inner);
            self.key.set(pair(Layer::Inner), 0);
        }
        self.seen.decapsulate();
        self.buried.clear();
        self.write(Field::Layers, LAYER_OUTER_PRESENT.into());
        // Congestion marks of the tunnel are carried in (RFC 6040 section 4.2); a frame that they would make no sense for is dropped when it is met.
        if both {
            let tos = ecn::decapsulated(outer, inner).unwrap_or(inner);
            self.derive(Field::IpTos(OUTER), ECN.into(), tos.into(), from);
        }
    }

    /// Into the tunnel of network `vni` towards `remote`; false when that cannot be done now, with the reason in the operations.
    pub(super) fn tunnel(&mut self, vni: NetworkId, remote: IpAddr) -> bool {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        let Some(src) = underlay.source_for(remote) else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        let Some(eth_dst) = self.resolve(remote) else {
            return false;
        };
        let Some(addresses) = addresses(src, remote) else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        let Some(network) = self.tables.snapshot.networks.get(&vni) else {
            self.drop(Drop::NoNetwork);
            return false;
        };
        let (overlay, told) = (network.overlay, &network.outer);
        let options = &told.geneve_options;
        let (header, port) = match overlay {
            Overlay::Vxlan => (TunnelHeader::Vxlan { vni }, underlay.vxlan_port),
            Overlay::Geneve => (TunnelHeader::Geneve { vni, options }, GENEVE_PORT),
            Overlay::Gre => (
                TunnelHeader::Gre {
                    key: Some(vni),
                    checksum: false,
                },
                0,
            ),
        };
        let outer = Outer {
            eth_dst,
            eth_src: underlay.mac,
            vlan_tci: None,
            underlay: addresses,
            ttl: told.ttl,
            dscp: told.dscp,
            ecn: told.ecn,
            port,
            source_port: None,
            udp_checksum: told.udp_checksum.unwrap_or(remote.is_ipv6()),
            carried: Carried::Ethernet,
        };
        self.note(
            "tunnel",
            format_args!("{} {vni} from {src} to {remote}", overlay.as_str()),
        );
        let there = self.put_into(&outer, header, None);
        if there {
            self.output(underlay.port);
        }
        there
    }

    fn resolve(&mut self, remote: IpAddr) -> Option<[u8; 6]> {
        let known = self.tables.neighbours.mac(remote);
        self.out.rests.on_learned(underlay::change_of(remote));
        if known.is_none() {
            self.out.resolve = Some(remote);
            self.drop(Drop::NeighbourUnresolved);
        }
        known
    }

    pub(super) fn encapsulate_vxlan(&mut self, definition: &VxlanDefinition) -> bool {
        let vni = definition.vni.to_bits() as u32;
        self.encapsulate(&Wanted {
            addresses: definition.addresses,
            eth: (definition.eth_src, definition.eth_dst),
            tos: definition.ip_tos,
            ttl: definition.ip_ttl,
            ports: (definition.udp_src, definition.udp_dst),
            header: TunnelHeader::Vxlan { vni },
        })
    }

    /// RFC 7637: GRE with a key of 24 bits of network and 8 of flow.
    pub(super) fn encapsulate_nvgre(&mut self, definition: &NvgreDefinition) -> bool {
        let key = (definition.tni.to_bits() as u32) << 8 | u32::from(definition.flow_id);
        self.encapsulate(&Wanted {
            addresses: definition.addresses,
            eth: (definition.eth_src, definition.eth_dst),
            tos: definition.ip_tos,
            ttl: definition.ip_ttl,
            ports: (None, 0),
            header: TunnelHeader::Gre {
                key: Some(key),
                checksum: false,
            },
        })
    }

    /// Puts the headers that a rule defines in front; false when that cannot be done now.
    fn encapsulate(&mut self, wanted: &Wanted) -> bool {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        let bytes = |mac: MacAddr| mac_of(mac.to_bits());
        let eth_dst = match wanted.eth.1.map(bytes) {
            Some(mac) => mac,
            None => match self.resolve(wanted.addresses.dst()) {
                Some(mac) => mac,
                None => return false,
            },
        };
        let outer = Outer {
            eth_dst,
            eth_src: wanted.eth.0.map_or(underlay.mac, bytes),
            vlan_tci: None,
            underlay: match wanted.addresses {
                TunnelAddresses::V4 { src, dst } => Addresses::Ipv4(src, dst),
                TunnelAddresses::V6 { src, dst } => Addresses::Ipv6(src, dst),
            },
            ttl: Policy::Fixed(wanted.ttl),
            dscp: Policy::Fixed(wanted.tos >> 2),
            // What a rule says of congestion is done; if it says nothing, RFC 6040's normal mode.
            ecn: wanted.tos & ECN == 0,
            port: wanted.ports.1,
            source_port: wanted.ports.0,
            // A rule has no word for it, and DPDK's back ends send none (RFC 6935).
            udp_checksum: false,
            carried: Carried::Ethernet,
        };
        self.put_into(&outer, wanted.header, Some(wanted.tos))
    }

    /// Puts a tunnel's headers in front, with the type of service that a rule says; false when that cannot be done.
    fn put_into(&mut self, outer: &Outer, header: TunnelHeader<'_>, ruled: Option<u8>) -> bool {
        let Ok(headers) = Encapsulation::prepare(outer, header) else {
            self.drop(Drop::Action);
            return false;
        };
        // What is copied out of the packet, while it is still outermost.
        let copies_dscp = matches!(outer.dscp, Policy::Copied(_));
        let copies_ttl = matches!(outer.ttl, Policy::Copied(_));
        let copied = if outer.ecn { ECN } else { 0 } | if copies_dscp { !ECN } else { 0 };
        let kind = self.origin(Field::EthType(OUTER), u128::MAX);
        let (mut tos_from, mut ttl_from) = (kind, kind);
        if copied != 0 {
            tos_from.merge(&self.origin(Field::IpTos(OUTER), copied.into()));
        }
        if copies_ttl {
            ttl_from.merge(&self.origin(Field::IpTtl(OUTER), u128::MAX));
        }
        if self.over {
            return false;
        }
        let is_ip = matches!(self.key.get(Field::EthType(OUTER)), 0x0800 | 0x86dd);
        let inner = |field| is_ip.then(|| self.key.get(field) as u8);
        let (tos, ttl) = (inner(Field::IpTos(OUTER)), inner(Field::IpTtl(OUTER)));
        let mark = match tos {
            Some(tos) if outer.ecn => ecn::encapsulated(tos),
            _ => 0,
        };
        // What a rule says is said whole, unless it leaves the mark to the tunnel.
        let whole = ruled.filter(|_| !outer.ecn);
        let class = whole.unwrap_or(outer.dscp.value(tos.map(|tos| tos >> 2)) << 2 | mark);
        // From the outer IP header to the one inside.
        let front = headers.len() - headers.l3() as usize + ETHERNET;
        let least = IPV6_LEAST_MTU as u16 + front as u16;
        let (mtu, own_mtu) = self.path_mtu(outer, ruled.is_some(), least);
        let tunnel = Tunnel {
            headers,
            tos: whole,
            mtu,
            own_mtu,
        };
        self.out.ops.push(Op::Encapsulate(Box::new(tunnel)));
        self.put_in_front(outer, header, (class, outer.ttl.value(ttl)));
        if copied != 0 && whole.is_none() {
            self.derive(Field::IpTos(OUTER), copied.into(), class.into(), tos_from);
        }
        if copies_ttl {
            let ttl = outer.ttl.value(ttl);
            self.derive(Field::IpTtl(OUTER), u128::MAX, ttl.into(), ttl_from);
        }
        true
    }

    /// Longest outer packet that gets to the tunnel's far end, as far as is known, and that the uplink takes. Routers are not believed that it is
    /// shorter than `least`. By which port a rule sends it, it has not said yet.
    fn path_mtu(&mut self, outer: &Outer, ruled: bool, least: u16) -> (u16, u16) {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            return (u16::MAX, u16::MAX);
        };
        let uplink = self.tables.snapshot.port(underlay.port);
        let remote = match outer.underlay {
            Addresses::Ipv4(_, remote) => remote.into(),
            Addresses::Ipv6(_, remote) => remote.into(),
        };
        self.out.rests.on_learned(underlay::change_of(remote));
        let learned = self.tables.neighbours.path_mtu(remote);
        let own = uplink.filter(|_| !ruled).map_or(u16::MAX, |port| port.mtu);
        (
            learned.map_or(own, |learned| learned.max(least).min(own)),
            own,
        )
    }

    /// What the key says of a frame with new outer headers.
    fn put_in_front(&mut self, outer: &Outer, header: TunnelHeader<'_>, (tos, ttl): (u8, u8)) {
        for word in 0..sumeru_packet::field::LAYER_WORDS {
            let old = self.key.word(OUTER.base() + word);
            self.key.set_word(Layer::Inner.base() + word, old);
            self.key.set_word(OUTER.base() + word, 0);
        }
        for pair in [Field::L4Extra, Field::IpExtra] {
            let old = self.key.get(pair(OUTER));
            self.key.set(pair(Layer::Inner), old);
        }
        self.seen.encapsulate();
        self.buried.clear();
        let number = |mac: [u8; 6]| {
            mac.iter()
                .fold(0_u128, |all, byte| all << 8 | u128::from(*byte))
        };
        let (eth_type, src, dst) = match outer.underlay {
            Addresses::Ipv4(src, dst) => (0x0800, src.to_bits().into(), dst.to_bits().into()),
            Addresses::Ipv6(src, dst) => (0x86dd, src.to_bits(), dst.to_bits()),
        };
        let (kind, id, proto) = match header {
            TunnelHeader::Gre { key, .. } => (TunnelKind::Gre, key.unwrap_or(0), 47),
            TunnelHeader::Vxlan { vni } => (TunnelKind::Vxlan, vni, 17),
            TunnelHeader::Geneve { vni, .. } => (TunnelKind::Geneve, vni, 17),
            _ => (TunnelKind::None, 0, 17),
        };
        let layers = LAYER_OUTER_PRESENT | LAYER_INNER_PRESENT | LAYER_INNER_ETHERNET;
        for (field, value) in [
            (Field::Layers, layers.into()),
            (Field::EthDst(OUTER), number(outer.eth_dst)),
            (Field::EthSrc(OUTER), number(outer.eth_src)),
            (Field::EthType(OUTER), eth_type),
            (Field::IpSrc(OUTER), src),
            (Field::IpDst(OUTER), dst),
            (Field::IpProto(OUTER), proto),
            (Field::IpTos(OUTER), tos.into()),
            (Field::IpTtl(OUTER), ttl.into()),
            (Field::TunnelKind(OUTER), kind as u128),
            (Field::TunnelId(OUTER), id.into()),
            (
                Field::GreKeyPresent(OUTER),
                u128::from(kind == TunnelKind::Gre),
            ),
        ] {
            self.write(field, value);
        }
        if proto == 17 {
            self.write(Field::L4Dst(OUTER), outer.port.into());
            let port = match outer.source_port {
                Some(port) => port,
                None => PORT_FIRST | self.came.entropy(OUTER) as u16,
            };
            self.write(Field::L4Src(OUTER), port.into());
            if outer.source_port.is_none() {
                // The hash is of the frame as it came.
                let mut from = sumeru_packet::FlowMask::ZERO;
                for field in [
                    Field::EthSrc(OUTER),
                    Field::EthDst(OUTER),
                    Field::IpSrc(OUTER),
                    Field::IpDst(OUTER),
                    Field::IpProto(OUTER),
                    Field::L4Src(OUTER),
                    Field::L4Dst(OUTER),
                ] {
                    from.merge_field(field);
                }
                self.derive(Field::L4Src(OUTER), u128::MAX, port.into(), from);
            }
        }
    }
}

/// The pair, if both are of one family.
fn addresses(src: IpAddr, dst: IpAddr) -> Option<Addresses> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Addresses::Ipv4(src, dst)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Addresses::Ipv6(src, dst)),
        _ => None,
    }
}

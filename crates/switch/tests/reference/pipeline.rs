//! The pipeline as a reader of the standards would write it down: groups of rules, actions on bytes, connections of UDP, networks that learn.
//!
//! It shares no code with the engine and keeps nothing of a packet but its bytes and how it was understood when it came in. It is slow on purpose.

use std::collections::HashMap;

use sumeru_flow::Rule;
use sumeru_flow::model::{Action, FieldValue, PortRef, TunnelAddresses, VxlanDefinition};

use super::checksum::{restore, sums};
use super::headers::{Fault, Frame, Headers, Known, Network, read, u16_at};
use super::pattern;

/// Rules that one packet may meet.
const RULES_MET: usize = 16;

const NEW: u8 = 0x01;
const EST: u8 = 0x02;
const RPL: u8 = 0x08;
const INV: u8 = 0x10;
const TRK: u8 = 0x20;

/// A packet on its way.
#[derive(Clone)]
pub struct Packet {
    pub bytes: Vec<u8>,
    /// The bytes taken apart.
    pub frame: Frame,
    known: Known,
    pub mark: u32,
    /// What tracking said last; 0 without tracking.
    pub ct_state: u8,
    /// The port that it is about to leave by.
    leaving: Option<u16>,
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    Malformed,
    /// By a rule.
    Rule,
    /// An action that does not fit, or too many jumps.
    Action,
    Expired,
    /// It met congestion in a tunnel and its sender would not be told.
    Congestion,
    /// By the bridge, or no network.
    Bridge,
}

/// A rule with its name.
pub struct Named {
    pub port: u16,
    pub id: u32,
    pub rule: Rule,
    /// Packets and bytes.
    pub counted: (u64, u64),
}

/// Source, destination, their ports; zone.
type Tuple = (u32, u32, u16, u16, u16);

/// The whole state.
pub struct Pipeline {
    networks: Vec<Option<u32>>,
    tunnel_mac: [u8; 6],
    deep: bool,
    /// In the order in which they were made.
    pub rules: Vec<Named>,
    learned: HashMap<(u32, [u8; 6]), u16>,
    /// Connections by the tuple of who began, and whether they were answered.
    connections: HashMap<Tuple, bool>,
    /// Rules that frames met, and frames of answered connections.
    pub met: u64,
    pub established: u64,
}

/// What leaves by which port, in order; a copy that does not, and why.
pub type Outputs = Vec<Result<(u16, Vec<u8>), Dropped>>;

impl Packet {
    /// Takes the bytes apart anew.
    fn again(&mut self) {
        // A change never leaves a frame that is not understood.
        self.frame = read(&self.bytes, self.known).expect("a change broke the frame");
    }

    /// Changes the outer headers and sets their checksums.
    fn edit(&mut self, change: impl FnOnce(&mut [u8])) {
        let before = sums(&self.bytes, &self.frame.outer);
        change(&mut self.bytes);
        restore(&mut self.bytes, &self.frame.outer, before);
        self.again();
    }

    fn set(&mut self, at: usize, value: &[u8]) {
        self.edit(|bytes| bytes[at..at + value.len()].copy_from_slice(value));
    }

    fn network_is(&self, network: Network) -> Result<usize, Dropped> {
        let outer = &self.frame.outer;
        match outer.network == network {
            true => Ok(outer.l3),
            false => Err(Dropped::Action),
        }
    }

    fn ports(&self) -> Result<usize, Dropped> {
        let outer = &self.frame.outer;
        match outer.has_l4 && matches!(outer.proto, 6 | 17) {
            true => Ok(outer.l4),
            false => Err(Dropped::Action),
        }
    }

    /// Where the time to live is.
    fn ttl(&self) -> Result<usize, Dropped> {
        match self.frame.outer.network {
            Network::Ipv4 => Ok(self.frame.outer.l3 + 8),
            Network::Ipv6 => Ok(self.frame.outer.l3 + 7),
            Network::None => Err(Dropped::Action),
        }
    }

    /// Puts bytes in place of a part of the frame.
    fn replace(&mut self, at: usize, remove: usize, put: &[u8], tags: usize) {
        self.bytes.splice(at..at + remove, put.iter().copied());
        self.known.tags = Some(tags);
        self.again();
    }

    fn set_tci(&mut self, mask: u16, value: u16) -> Result<(), Dropped> {
        let at = *self.frame.outer.tags.first().ok_or(Dropped::Action)?;
        let tci = u16_at(&self.bytes, at) & !mask | value;
        self.set(at, &tci.to_be_bytes());
        Ok(())
    }

    /// Type of service or traffic class, if this is IP.
    fn tos(&self, headers: &Headers) -> Option<u8> {
        let word = |at: usize| u16_at(&self.bytes, at);
        match headers.network {
            Network::Ipv4 => Some(word(headers.l3) as u8),
            Network::Ipv6 => Some((word(headers.l3) >> 4) as u8),
            Network::None => None,
        }
    }

    /// Sets bits of the type of service.
    fn set_tos(&mut self, mask: u8, value: u8) -> Result<(), Dropped> {
        let outer = &self.frame.outer;
        let tos = self.tos(outer).ok_or(Dropped::Action)? & !mask | value;
        let (at, shift) = match outer.network {
            Network::Ipv4 => (outer.l3, 0),
            _ => (outer.l3, 4),
        };
        let word = u16_at(&self.bytes, at) & !(0xff << shift) | u16::from(tos) << shift;
        self.set(at, &word.to_be_bytes());
        Ok(())
    }

    /// Congestion marks of the tunnel go in (RFC 6040, figure 4).
    fn decapsulate(&mut self) -> Result<(), Dropped> {
        let (_, inner) = self.frame.tunnel.clone().ok_or(Dropped::Action)?;
        let marks = (
            self.tos(&inner).map(|tos| tos & 3),
            self.tos(&self.frame.outer).map(|tos| tos & 3),
        );
        let mark = match marks {
            (Some(0), Some(3)) => return Err(Dropped::Congestion),
            (Some(1..=3), Some(3)) => Some(3),
            (Some(2), Some(1)) => Some(1),
            _ => None,
        };
        // What stands behind the outer packet stays behind the inner one.
        self.bytes.drain(..inner.eth);
        self.known = Known {
            tags: Some(inner.tags.len()),
            tunnel: Some(false),
        };
        self.again();
        mark.map_or(Ok(()), |mark| self.set_tos(3, mark))
    }

    /// Outer headers of RFC 7348 section 5. The frame inside is not looked at any more.
    fn encapsulate(&mut self, to: &VxlanDefinition, own: [u8; 6]) {
        let mac = |mac: sumeru_flow::model::MacAddr| {
            let bytes = mac.to_bits().to_be_bytes();
            <[u8; 6]>::try_from(&bytes[10..]).expect("six bytes")
        };
        let udp_len = self.bytes.len() + 16;
        // What a rule says of congestion is done; if it says nothing, the mark is copied (RFC 6040 section 4.1).
        let tos = match to.ip_tos & 3 {
            0 => to.ip_tos | self.tos(&self.frame.outer).unwrap_or(0) & 3,
            _ => to.ip_tos,
        };
        let mut outer = Vec::new();
        outer.extend(
            to.eth_dst
                .map(mac)
                .expect("tunnels here name their next hop"),
        );
        outer.extend(to.eth_src.map_or(own, mac));
        match to.addresses {
            TunnelAddresses::V4 { src, dst } => {
                outer.extend([8, 0, 0x45, tos]);
                outer.extend((udp_len as u16 + 20).to_be_bytes());
                outer.extend([0, 0, 0x40, 0, to.ip_ttl, 17, 0, 0]);
                outer.extend(src.octets());
                outer.extend(dst.octets());
            }
            TunnelAddresses::V6 { src, dst } => {
                outer.extend([0x86, 0xdd, 0x60 | tos >> 4, tos << 4, 0, 0]);
                outer.extend((udp_len as u16).to_be_bytes());
                outer.extend([17, to.ip_ttl]);
                outer.extend(src.octets());
                outer.extend(dst.octets());
            }
        }
        outer.extend(
            to.udp_src
                .expect("tunnels here name their port")
                .to_be_bytes(),
        );
        outer.extend(to.udp_dst.to_be_bytes());
        outer.extend((udp_len as u16).to_be_bytes());
        // No checksum (RFC 7348 section 5, RFC 6935).
        outer.extend([0, 0, 8, 0, 0, 0]);
        outer.extend(((to.vni.to_bits() as u32) << 8).to_be_bytes());
        self.bytes.splice(..0, outer);
        self.known = Known {
            tags: Some(0),
            tunnel: Some(true),
        };
        self.again();
        let headers = self.frame.outer.clone();
        super::checksum::fill(&mut self.bytes, &headers);
    }
}

/// What a rule's actions came to.
enum Fate {
    Group(u32),
    Output(u16),
}

impl Pipeline {
    /// No rules yet. `networks`: of each port; `tunnel_mac`: where tunnels leave from; `deep`: whether frames in tunnels are looked at.
    pub fn new(networks: &[Option<u32>], tunnel_mac: [u8; 6], deep: bool) -> Self {
        Self {
            networks: networks.to_vec(),
            tunnel_mac,
            deep,
            rules: Vec::new(),
            learned: HashMap::new(),
            connections: HashMap::new(),
            met: 0,
            established: 0,
        }
    }

    /// Runs a frame through. Answers what becomes of each of its copies, or why there are none.
    pub fn run(&mut self, port: u16, bytes: &[u8]) -> Result<Outputs, Dropped> {
        let known = Known {
            tags: None,
            tunnel: (!self.deep).then_some(false),
        };
        let frame = match read(bytes, known) {
            Ok(frame) => frame,
            Err(Fault::Malformed) => return Err(Dropped::Malformed),
            Err(Fault::Unknown) => panic!("a frame that the reference does not know"),
        };
        let known = Known {
            tags: Some(frame.outer.tags.len()),
            tunnel: Some(frame.tunnel.is_some()),
        };
        let mut packet = Packet {
            bytes: bytes.to_vec(),
            frame,
            known,
            mark: 0,
            ct_state: 0,
            leaving: None,
        };
        let mut group = 0;
        for _ in 0..RULES_MET {
            let Some(rule) = self.best(group, &packet, port) else {
                return self.bridge(port, packet);
            };
            match self.act(rule, &mut packet)? {
                Fate::Group(next) => group = next,
                Fate::Output(to) => return Ok(vec![self.leave(port, packet, to)]),
            }
        }
        Err(Dropped::Action)
    }

    /// The rules about what leaves by a port, from group 0 on; one that sends the packet to another port has it meet the rules of that one.
    fn leave(&mut self, port: u16, mut packet: Packet, to: u16) -> Result<(u16, Vec<u8>), Dropped> {
        let (mut group, mut to) = (0, to);
        for _ in 0..RULES_MET {
            packet.leaving = Some(to);
            let Some(rule) = self.best(group, &packet, port) else {
                return Ok((to, packet.bytes));
            };
            match self.act(rule, &mut packet)? {
                Fate::Group(next) => group = next,
                Fate::Output(other) => (group, to) = (0, other),
            }
        }
        Err(Dropped::Action)
    }

    /// The rule of a group that a packet meets: the lowest priority number, then the oldest.
    fn best(&self, group: u32, packet: &Packet, port: u16) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (index, named) in self.rules.iter().enumerate() {
            let attributes = &named.rule.attributes;
            let better = best
                .is_none_or(|best| attributes.priority < self.rules[best].rule.attributes.priority);
            let here = match (attributes.transfer, attributes.egress) {
                // Groups are common to both ways but for the first.
                (false, true) => packet.leaving == Some(named.port),
                _ if group == 0 && packet.leaving.is_some() => false,
                (transfer, _) => transfer || named.port == port,
            };
            if attributes.group == group
                && better
                && here
                && pattern::holds(&named.rule.pattern, packet, port)
            {
                best = Some(index);
            }
        }
        best
    }

    fn act(&mut self, rule: usize, packet: &mut Packet) -> Result<Fate, Dropped> {
        self.met += 1;
        let actions = self.rules[rule].rule.actions.clone();
        let mut fate = None;
        for action in &actions {
            match action {
                Action::Count { .. } => {
                    let counted = &mut self.rules[rule].counted;
                    counted.0 += 1;
                    counted.1 += packet.bytes.len() as u64;
                }
                Action::Drop => return Err(Dropped::Rule),
                Action::Jump { group } => fate = Some(Fate::Group(*group)),
                Action::RepresentedPort { port } => fate = Some(Fate::Output(number_of(port))),
                Action::Ct(ct) => {
                    self.track(packet, ct.zone, ct.commit.is_some());
                    if let Some(group) = ct.group {
                        fate = Some(Fate::Group(group));
                    }
                }
                Action::VxlanEncap(to) => packet.encapsulate(to, self.tunnel_mac),
                other => edit(packet, other)?,
            }
        }
        Ok(fate.expect("every rule has a fate"))
    }

    /// Connections of UDP over IPv4: new until answered, established from the answer on.
    fn track(&mut self, packet: &mut Packet, zone: u16, commit: bool) {
        let outer = &packet.frame.outer;
        assert!(outer.network == Network::Ipv4 && outer.proto == 17 && !outer.fragment);
        let address = |at: usize| {
            let at = outer.l3 + at;
            u32::from(u16_at(&packet.bytes, at)) << 16 | u32::from(u16_at(&packet.bytes, at + 2))
        };
        let (src, dst) = (address(12), address(16));
        let sport = u16_at(&packet.bytes, outer.l4);
        let dport = u16_at(&packet.bytes, outer.l4 + 2);
        let (there, back) = (
            (src, dst, sport, dport, zone),
            (dst, src, dport, sport, zone),
        );
        let known = |replied: bool| if replied { EST } else { NEW };
        packet.ct_state = if let Some(replied) = self.connections.get(&there) {
            TRK | known(*replied)
        } else if let Some(replied) = self.connections.get_mut(&back) {
            *replied = true;
            TRK | RPL | EST
        } else if there == back {
            // Nobody could tell its answers from it.
            TRK | INV
        } else {
            if commit {
                self.connections.insert(there, false);
            }
            TRK | NEW
        };
        self.established += u64::from(packet.ct_state & EST != 0);
    }

    /// A network that learns (IEEE 802.1D, 7.7 to 7.9).
    fn bridge(&mut self, from: u16, packet: Packet) -> Result<Outputs, Dropped> {
        let network = self.networks[usize::from(from)].ok_or(Dropped::Bridge)?;
        let address =
            |at: usize| <[u8; 6]>::try_from(&packet.bytes[at..at + 6]).expect("six bytes");
        let (destination, source) = (address(0), address(6));
        if source[0] & 1 == 1 || source == [0; 6] {
            return Err(Dropped::Bridge);
        }
        let known = self.learned.get(&(network, destination)).copied();
        self.learned.insert((network, source), from);
        // Addresses that no bridge forwards (table 7-10).
        if destination[..5] == [1, 0x80, 0xc2, 0, 0] && destination[5] < 16 {
            return Err(Dropped::Bridge);
        }
        if let Some(to) = known.filter(|_| destination[0] & 1 == 0) {
            return match to == from {
                true => Err(Dropped::Bridge),
                false => Ok(vec![self.leave(from, packet, to)]),
            };
        }
        let others = (0..self.networks.len() as u16)
            .filter(|port| *port != from && self.networks[usize::from(*port)] == Some(network));
        let others: Vec<u16> = others.collect();
        let leave = |to| self.leave(from, packet.clone(), to);
        Ok(others.into_iter().map(leave).collect())
    }
}

fn number_of(port: &PortRef) -> u16 {
    port.number().expect("ports are named by number here") as u16
}

/// An action that changes the packet alone.
fn edit(packet: &mut Packet, action: &Action) -> Result<(), Dropped> {
    let mac = |mac: &sumeru_flow::model::MacAddr| mac.to_bits().to_be_bytes()[10..].to_vec();
    let tags = packet.frame.outer.tags.len();
    match action {
        Action::Mark { id } => packet.mark = *id,
        Action::SetMacDst { mac_addr } => packet.set(0, &mac(mac_addr)),
        Action::SetMacSrc { mac_addr } => packet.set(6, &mac(mac_addr)),
        Action::SetIpv4Src { ipv4_addr } => {
            let at = packet.network_is(Network::Ipv4)? + 12;
            packet.set(at, &ipv4_addr.octets());
        }
        Action::SetIpv4Dst { ipv4_addr } => {
            let at = packet.network_is(Network::Ipv4)? + 16;
            packet.set(at, &ipv4_addr.octets());
        }
        Action::SetIpv6Src { ipv6_addr } => {
            let at = packet.network_is(Network::Ipv6)? + 8;
            packet.set(at, &ipv6_addr.octets());
        }
        Action::SetIpv6Dst { ipv6_addr } => {
            let at = packet.network_is(Network::Ipv6)? + 24;
            packet.set(at, &ipv6_addr.octets());
        }
        Action::SetTpSrc { port } => {
            let at = packet.ports()?;
            packet.set(at, &port.to_be_bytes());
        }
        Action::SetTpDst { port } => {
            let at = packet.ports()? + 2;
            packet.set(at, &port.to_be_bytes());
        }
        Action::MacSwap => {
            let (dst, src) = (packet.bytes[..6].to_vec(), packet.bytes[6..12].to_vec());
            packet.set(0, &[src, dst].concat());
        }
        Action::SetIpv4Dscp { dscp } => {
            packet.network_is(Network::Ipv4)?;
            packet.set_tos(0xfc, (dscp.to_bits() as u8) << 2)?;
        }
        Action::SetIpv6Dscp { dscp } => {
            packet.network_is(Network::Ipv6)?;
            packet.set_tos(0xfc, (dscp.to_bits() as u8) << 2)?;
        }
        Action::DecTtl => {
            let at = packet.ttl()?;
            let ttl = packet.bytes[at];
            if ttl <= 1 {
                return Err(Dropped::Expired);
            }
            packet.set(at, &[ttl - 1]);
        }
        Action::SetTtl { ttl_value } => {
            let at = packet.ttl()?;
            packet.set(at, &[*ttl_value]);
        }
        Action::OfPushVlan { ethertype } => {
            let [high, low] = (ethertype.to_bits() as u16).to_be_bytes();
            packet.replace(12, 0, &[high, low, 0, 0], tags + 1);
        }
        Action::OfPopVlan if tags == 0 => return Err(Dropped::Action),
        Action::OfPopVlan => packet.replace(12, 4, &[], tags - 1),
        Action::OfSetVlanVid { vlan_vid } => packet.set_tci(0x0fff, vlan_vid.to_bits() as u16)?,
        Action::OfSetVlanPcp { vlan_pcp } => {
            packet.set_tci(0xe000, (vlan_pcp.to_bits() as u16) << 13)?;
        }
        Action::VxlanDecap => packet.decapsulate()?,
        other => panic!("action {} is not in the reference", other.name()),
    }
    Ok(())
}

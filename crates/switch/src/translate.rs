//! The slow path: decides what happens to a frame from rules, networks and learned addresses, and which bits of the frame the
//! decision used, so that it can be cached for all frames alike.
//!
//! It changes nothing but the connection table ([`Table::Live`](crate::track::Table::Live)). What is to be learned comes back in the [`Translation`]; `trace` runs the
//! very same code with a note pad.

use std::fmt::Arguments;
use std::net::IpAddr;

use sumeru_flow::model::{FieldValue, TunnelAddresses, VxlanDefinition};
use sumeru_packet::build::{
    Carried, Encapsulation, Outer, Policy, TunnelHeader, Underlay as Addresses,
};
use sumeru_packet::field::{INNER_BASE, LAYER_INNER_ETHERNET, LAYER_WORDS, OUTER_BASE};
use sumeru_packet::{Field, FlowKey, FlowMask, Layer, TunnelKind};

use crate::cache::Rests;
use crate::classifier::{Classes, Found};
use crate::fdb::{Fdb, Target, change_of};
use crate::frame::PortIndex;
use crate::program::{Op, Tunnel};
use crate::rules::{RuleAction, RuleView, name_from};
use crate::snapshot::{NetworkId, NetworkView, Overlay, Snapshot};
use crate::stats::Drop;
use crate::track::{Tracking, Tracks};
use crate::underlay::{self, Neighbours};

mod ct;

/// Rules that one frame may meet by jumping from group to group.
const MAX_JUMPS: usize = 16;
/// UDP port of Geneve (RFC 8926, section 3.3).
const GENEVE_PORT: u16 = 6081;
/// Time to live of tunnels that no rule made.
const TUNNEL_TTL: u8 = 64;

/// One step of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The stage that decided.
    pub stage: &'static str,
    /// What it decided, and why.
    pub text: String,
}

/// What the slow path looks things up in.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// Flow rules.
    pub rules: &'a RuleView,
    /// Learned addresses.
    pub fdb: &'a Fdb,
    /// Link-layer addresses on the underlay.
    pub neighbours: &'a Neighbours,
}

/// A decision.
#[derive(Debug)]
pub struct Translation {
    /// What to do.
    pub ops: Vec<Op>,
    /// The bits of the frame's key that were looked at.
    pub mask: FlowMask,
    /// What else it rests on.
    pub rests: Rests,
    /// Good for this frame only.
    pub once: bool,
    /// The connections it is about.
    pub tracks: Tracks,
    /// A sender to take note of.
    pub learn: Option<(NetworkId, [u8; 6], Target)>,
    /// A neighbour whose address is needed.
    pub resolve: Option<IpAddr>,
}

/// Decides what happens to a frame with this key.
pub fn translate(
    tables: Tables,
    key: &FlowKey,
    tracking: Tracking,
    notes: Option<&mut Vec<Note>>,
) -> Translation {
    let mut walk = Walk {
        tables,
        tracking,
        tracked: Vec::new(),
        key: *key,
        decapsulated: false,
        overwritten: FlowMask::ZERO,
        notes,
        out: Translation {
            ops: Vec::with_capacity(4),
            mask: FlowMask::ZERO,
            rests: Rests::default(),
            once: false,
            tracks: Tracks::new(),
            learn: None,
            resolve: None,
        },
    };
    walk.run();
    walk.out
}

struct Walk<'a> {
    tables: Tables<'a>,
    tracking: Tracking<'a>,
    /// What tracking came to so far.
    tracked: Vec<ct::Tracked>,
    /// The key as the actions so far have changed it; after decapsulation the inner layer is the outer one.
    key: FlowKey,
    decapsulated: bool,
    /// Bits of `key` that an action wrote: looking at them says nothing about the frame as it came.
    overwritten: FlowMask,
    notes: Option<&'a mut Vec<Note>>,
    out: Translation,
}

pub(crate) fn mac_of(value: u128) -> [u8; 6] {
    let bytes = (value as u64).to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

pub(crate) fn text_of(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl Walk<'_> {
    fn note(&mut self, stage: &'static str, text: Arguments) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note {
                stage,
                text: text.to_string(),
            });
        }
    }

    /// Looks at all bits of a field.
    fn get(&mut self, field: Field) -> u128 {
        let mut mask = FlowMask::ZERO;
        mask.merge_field(field);
        self.examine(&mask);
        self.key.get(field)
    }

    /// Takes note that the bits of `mask` were looked at, in terms of the frame as it came.
    fn examine(&mut self, mask: &FlowMask) {
        examine(
            &mut self.out.mask,
            mask,
            &self.overwritten,
            self.decapsulated,
        );
    }

    fn drop(&mut self, reason: Drop) {
        self.note("drop", format_args!("{}", reason.as_str()));
        self.out.ops.push(Op::Drop(reason.into()));
    }

    fn run(&mut self) {
        // The port decides where a frame starts, whatever else is looked at.
        let in_port = self.get(Field::InPort) as PortIndex;
        let Some(port) = self.tables.snapshot.port(in_port) else {
            return self.drop(Drop::PortDown);
        };
        self.note(
            "ingress",
            format_args!("port {} ({})", port.name, port.index),
        );
        if self.rules() {
            return;
        }
        if port.uplink {
            return self.uplink();
        }
        match port.network {
            Some(network) => self.bridge(network, Target::Port(in_port)),
            None => self.drop(Drop::NoNetwork),
        }
    }

    /// Runs the rules from group 0 on; true when one decided where the frame goes.
    fn rules(&mut self) -> bool {
        let rules = self.tables.rules;
        let mut group = 0;
        for _ in 0..MAX_JUMPS {
            let mut classes = Classes::new();
            let (mask, overwritten, shifted) =
                (&mut self.out.mask, &self.overwritten, self.decapsulated);
            let found = rules
                .rules
                .lookup(group, &self.key, &mut classes, |looked| {
                    examine(mask, looked, overwritten, shifted)
                });
            classes
                .into_iter()
                .for_each(|class| self.out.rests.on_rules(class));
            let Some(found) = found else {
                if !rules.rules.is_empty() {
                    self.note("rules", format_args!("no rule of group {group} matches"));
                }
                return false;
            };
            let (port, id) = name_from(found.name);
            self.note(
                "rules",
                format_args!(
                    "rule {id} of port {port} (group {group}, priority {})",
                    found.priority
                ),
            );
            match self.apply(&found) {
                Some(next) => group = next,
                None => return true,
            }
        }
        self.note("rules", format_args!("more than {MAX_JUMPS} jumps"));
        self.drop(Drop::Action);
        true
    }

    /// Runs a rule's actions; answers the group to go on in, or `None` when the frame's fate is decided.
    fn apply(&mut self, rule: &Found) -> Option<u32> {
        let actions = self.tables.rules.actions(rule.program);
        for action in actions.iter().flat_map(|actions| actions.iter()) {
            self.note("action", format_args!("{action}"));
            match action {
                RuleAction::Count => self.out.ops.extend(rule.counter.map(Op::Count)),
                RuleAction::Drop => {
                    self.drop(Drop::Rule);
                    return None;
                }
                RuleAction::Jump(group) => return Some(*group),
                RuleAction::Output(port) => {
                    self.output(*port);
                    return None;
                }
                RuleAction::Mark(mark) => self.write(Field::Mark, (*mark).into()),
                RuleAction::Set(field, value) => {
                    self.set_op(*field, *value);
                    self.write(*field, *value);
                }
                RuleAction::DecTtl => {
                    // The key does not follow a relative change, so a later match on it must see the frame's own value.
                    self.out.ops.push(Op::DecTtl);
                    let ttl = self.get(Field::IpTtl(Layer::Outer));
                    self.key
                        .set(Field::IpTtl(Layer::Outer), ttl.saturating_sub(1));
                }
                RuleAction::PushVlan(tpid) => {
                    self.out.ops.push(Op::PushVlan(*tpid));
                    let outermost = self.get(Field::VlanTci(Layer::Outer));
                    self.write(Field::InnerVlanTci(Layer::Outer), outermost);
                    self.write(
                        Field::VlanTci(Layer::Outer),
                        sumeru_packet::field::VLAN_PRESENT.into(),
                    );
                }
                RuleAction::PopVlan => {
                    self.out.ops.push(Op::PopVlan);
                    let inner = self.get(Field::InnerVlanTci(Layer::Outer));
                    self.write(Field::VlanTci(Layer::Outer), inner);
                    self.write(Field::InnerVlanTci(Layer::Outer), 0);
                }
                RuleAction::SetVlanVid(vid) => {
                    self.out.ops.push(Op::SetVlanVid(*vid));
                    let tci = self.get(Field::VlanTci(Layer::Outer)) & !0xfff | u128::from(*vid);
                    self.write(Field::VlanTci(Layer::Outer), tci);
                }
                RuleAction::SetVlanPcp(pcp) => {
                    self.out.ops.push(Op::SetVlanPcp(*pcp));
                    let tci =
                        self.get(Field::VlanTci(Layer::Outer)) & 0x1fff | u128::from(*pcp) << 13;
                    self.write(Field::VlanTci(Layer::Outer), tci);
                }
                RuleAction::Ct(ct) => {
                    if !self.track(ct) {
                        return None;
                    }
                    if let Some(group) = ct.group {
                        return Some(group);
                    }
                }
                RuleAction::Decapsulate => self.decapsulate(),
                RuleAction::Encapsulate(definition) => {
                    if !self.encapsulate_by_rule(definition) {
                        return None;
                    }
                }
            }
        }
        // Validation demands a fate, so this is not reached; dropping is the safe answer.
        self.drop(Drop::Rule);
        None
    }

    fn set_op(&mut self, field: Field, value: u128) {
        let is_v6 = || self.key.get(Field::EthType(Layer::Outer)) == 0x86dd;
        let op = match field {
            Field::EthSrc(_) => Op::SetEthSrc(mac_of(value)),
            Field::EthDst(_) => Op::SetEthDst(mac_of(value)),
            Field::IpSrc(_) if is_v6() => Op::SetIpv6Src(Box::new(value)),
            Field::IpDst(_) if is_v6() => Op::SetIpv6Dst(Box::new(value)),
            Field::IpSrc(_) => Op::SetIpv4Src(value as u32),
            Field::IpDst(_) => Op::SetIpv4Dst(value as u32),
            Field::L4Src(_) => Op::SetL4Src(value as u16),
            Field::L4Dst(_) => Op::SetL4Dst(value as u16),
            Field::IpTtl(_) => Op::SetTtl(value as u8),
            _ => Op::Drop(Drop::Action.into()),
        };
        // Which header the operation edits depends on the frame's type.
        self.get(Field::EthType(Layer::Outer));
        self.out.ops.push(op);
    }

    fn write(&mut self, field: Field, value: u128) {
        self.key.set(field, value);
        self.overwritten.merge_field(field);
    }

    fn decapsulate(&mut self) {
        // Presence of the inner layer is part of the decision.
        self.get(Field::Layers);
        self.out.ops.push(Op::Decapsulate);
        let word = |i: usize| {
            if i < OUTER_BASE + LAYER_WORDS {
                i + LAYER_WORDS
            } else {
                i
            }
        };
        let inner = self.key;
        for i in OUTER_BASE..INNER_BASE {
            self.key.set_word(i, inner.word(word(i)));
            self.key.set_word(i + LAYER_WORDS, 0);
            self.overwritten.set_word(i, 0);
            self.overwritten.set_word(i + LAYER_WORDS, u64::MAX);
        }
        self.decapsulated = true;
    }

    /// On the uplink and taken by no rule: tunnels to this node, and what the underlay itself needs.
    fn uplink(&mut self) {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            return self.drop(Drop::NoUnderlay);
        };
        let o = Layer::Outer;
        let eth_type = self.get(Field::EthType(o));
        if eth_type == 0x0806 {
            return self.consume("ARP on the underlay");
        }
        if eth_type != 0x0800 && eth_type != 0x86dd {
            return self.drop(Drop::NotForUs);
        }
        let destination = ip_of(eth_type, self.get(Field::IpDst(o)));
        let proto = self.get(Field::IpProto(o));
        if !underlay.owns(destination) {
            // Neighbour solicitations go to a multicast address that stands for ours (RFC 4291, 2.7.1).
            return if proto == 58 {
                self.consume("ICMPv6 on the underlay")
            } else {
                self.drop(Drop::NotForUs)
            };
        }
        if proto == 1 || proto == 58 {
            return self.consume("ICMP to this node");
        }
        let kind = TunnelKind::from_number(self.get(Field::TunnelKind(o)) as u8);
        let carries = matches!(
            (proto, kind),
            (17, TunnelKind::Vxlan | TunnelKind::Geneve) | (47, TunnelKind::Gre)
        );
        // Ethernet inside, whatever the tunnel could carry.
        let ethernet = self.get(Field::Layers) & u128::from(LAYER_INNER_ETHERNET) != 0;
        if !carries || !ethernet || self.get(Field::Fragment(o)) != 0 {
            self.get(Field::L4Dst(o));
            return self.drop(Drop::NotForUs);
        }
        let vni = self.get(Field::TunnelId(o)) as NetworkId;
        let source = ip_of(eth_type, self.get(Field::IpSrc(o)));
        let network = self.tables.snapshot.networks.get(&vni);
        let Some(network) = network.filter(|network| network.overlay.kind() == kind) else {
            return self.drop(Drop::UnknownVni);
        };
        if !network.remotes.contains(&source) {
            return self.drop(Drop::UnknownRemote);
        }
        self.note(
            "tunnel",
            format_args!(
                "{} {vni} from {source}: network {}",
                network.overlay.as_str(),
                network.name
            ),
        );
        self.decapsulate();
        self.bridge(vni, Target::Remote(source));
    }

    fn consume(&mut self, what: &str) {
        self.note("underlay", format_args!("{what}"));
        self.out.once = true;
        self.out.ops.push(Op::Consume);
    }

    /// The learning bridge of a network.
    fn bridge(&mut self, id: NetworkId, from: Target) {
        let tables = self.tables;
        let Some(network) = tables.snapshot.networks.get(&id) else {
            return self.drop(Drop::NoNetwork);
        };
        let o = Layer::Outer;
        let source = mac_of(self.get(Field::EthSrc(o)));
        let destination = mac_of(self.get(Field::EthDst(o)));
        if source[0] & 1 != 0 || source == [0; 6] {
            return self.drop(Drop::BadSource);
        }
        self.out.learn = Some((id, source, from));
        self.out.rests.on_learned(change_of(id, source));
        // Reserved by 802.1D table 7-10 for protocols between neighbours.
        if destination[..5] == [0x01, 0x80, 0xc2, 0, 0] && destination[5] < 0x10 {
            return self.drop(Drop::LinkLocal);
        }
        if destination[0] & 1 == 0 {
            self.out.rests.on_learned(change_of(id, destination));
        }
        if destination[0] & 1 == 0
            && let Some(entry) = tables.fdb.get(id, destination)
        {
            self.note(
                "bridge",
                format_args!("{} is at {:?}", text_of(destination), entry.target),
            );
            return match entry.target {
                target if target == from => self.drop(Drop::SamePort),
                Target::Port(port) => self.output(port),
                Target::Remote(_) if matches!(from, Target::Remote(_)) => {
                    self.drop(Drop::SplitHorizon)
                }
                Target::Remote(remote) => {
                    self.tunnel(id, remote);
                }
            };
        }
        self.flood(network, from, destination);
    }

    /// Sends to every port of the network but the one it came from, and to every remote unless it came from one.
    fn flood(&mut self, network: &NetworkView, from: Target, destination: [u8; 6]) {
        self.note(
            "bridge",
            format_args!(
                "{} is not known: flood network {}",
                text_of(destination),
                network.name
            ),
        );
        let start = self.out.ops.len();
        self.out.ops.push(Op::Flood(network.id));
        for port in &network.ports {
            if from != Target::Port(*port) {
                self.output(*port);
            }
        }
        if !matches!(from, Target::Remote(_)) {
            for remote in &network.remotes {
                let before = self.out.ops.len();
                if self.tunnel(network.id, *remote) {
                    self.out.ops.push(Op::Unwrap);
                } else {
                    // The others still get it; this remote's turn comes when it is resolved.
                    self.out.ops.truncate(before);
                }
            }
        }
        if matches!(self.out.ops.last(), Some(Op::Unwrap)) {
            self.out.ops.pop();
        }
        if self.out.ops.len() == start + 1 {
            self.out.ops.truncate(start);
            self.drop(if self.out.resolve.is_some() {
                Drop::NeighbourUnresolved
            } else {
                Drop::NoDestination
            });
        }
    }

    fn output(&mut self, port: PortIndex) {
        match self.tables.snapshot.port(port) {
            Some(view) => self.note("egress", format_args!("port {} ({port})", view.name)),
            None => self.note("egress", format_args!("port {port}, which does not exist")),
        }
        self.out.ops.push(Op::Output(port));
    }

    /// Into the tunnel of network `vni` towards `remote`; false when that cannot be done now, with the reason in the operations.
    fn tunnel(&mut self, vni: NetworkId, remote: IpAddr) -> bool {
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
        let overlay = self
            .tables
            .snapshot
            .networks
            .get(&vni)
            .map_or(Overlay::Vxlan, |n| n.overlay);
        let (header, port) = match overlay {
            Overlay::Vxlan => (TunnelHeader::Vxlan { vni }, underlay.vxlan_port),
            Overlay::Geneve => (TunnelHeader::Geneve { vni, options: &[] }, GENEVE_PORT),
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
            ttl: Policy::Fixed(TUNNEL_TTL),
            dscp: Policy::Fixed(0),
            ecn: true,
            port,
            source_port: None,
            udp_checksum: false,
            carried: Carried::Ethernet,
        };
        let Ok(headers) = Encapsulation::prepare(&outer, header) else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        self.note(
            "tunnel",
            format_args!("{} {vni} from {src} to {remote}", overlay.as_str()),
        );
        self.out.ops.push(Op::Encapsulate(Box::new(Tunnel {
            headers,
            udp_src: None,
            tos: 0,
        })));
        self.output(underlay.port);
        true
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

    fn encapsulate_by_rule(&mut self, definition: &VxlanDefinition) -> bool {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            self.drop(Drop::NoUnderlay);
            return false;
        };
        let bytes = |mac: sumeru_flow::model::MacAddr| mac_of(mac.to_bits());
        let dst = definition.addresses.dst();
        let eth_dst = match definition.eth_dst.map(bytes) {
            Some(mac) => mac,
            None => match self.resolve(dst) {
                Some(mac) => mac,
                None => return false,
            },
        };
        let addresses = match definition.addresses {
            TunnelAddresses::V4 { src, dst } => Addresses::Ipv4(src, dst),
            TunnelAddresses::V6 { src, dst } => Addresses::Ipv6(src, dst),
        };
        let (eth_src, vni) = (
            definition.eth_src.map_or(underlay.mac, bytes),
            definition.vni.to_bits() as u32,
        );
        let headers = Encapsulation::new(
            eth_dst,
            eth_src,
            None,
            addresses,
            definition.ip_ttl,
            definition.udp_dst,
            vni,
        );
        let tunnel = Tunnel {
            headers,
            udp_src: definition.udp_src,
            tos: definition.ip_tos,
        };
        self.out.ops.push(Op::Encapsulate(Box::new(tunnel)));
        true
    }
}

/// Adds the bits of `looked` that the frame itself decides to `mask`, in terms of the frame as it came.
fn examine(mask: &mut FlowMask, looked: &FlowMask, overwritten: &FlowMask, decapsulated: bool) {
    for i in looked.active() {
        let own = looked.word(i) & !overwritten.word(i);
        let at = if decapsulated && (OUTER_BASE..INNER_BASE).contains(&i) {
            i + LAYER_WORDS
        } else {
            i
        };
        mask.set_word(at, mask.word(at) | own);
    }
}

/// An address as the key holds it.
pub(crate) fn ip_of(eth_type: u128, value: u128) -> IpAddr {
    if eth_type == 0x0800 {
        IpAddr::V4((value as u32).into())
    } else {
        IpAddr::V6(value.into())
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

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;

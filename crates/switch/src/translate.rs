//! The slow path: decides what happens to a frame from rules, networks and learned addresses, and which bits of the frame the
//! decision used, so that it can be cached for all frames alike.
//!
//! It changes nothing but the connection table ([`Table::Live`](crate::track::Table::Live)). What is to be learned comes back in the [`Translation`]; `trace` runs the
//! very same code with a note pad.

use std::fmt::Arguments;
use std::net::IpAddr;

use sumeru_packet::field::LAYER_INNER_ETHERNET;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer, TunnelKind};

use crate::cache::Rests;
use crate::classifier::Classes;
use crate::conntrack::ConnRef;
use crate::fdb::{Fdb, Target, change_of};
use crate::frame::PortIndex;
use crate::link::tlv::LLDP_ETHERTYPE;
use crate::program::{Op, Sample};
use crate::rules::{EGRESS_START, RuleView, name_from};
use crate::services::Services;
use crate::services::neighbours::Neighbours as Residents;
use crate::snapshot::{NetworkId, NetworkView, Snapshot};
use crate::stats::Drop;
use crate::track::{Tracking, Tracks};
use crate::underlay::Neighbours;

mod act;
mod balance;
mod ct;
mod key;
mod seen;
mod services;
mod shield;
mod tunnel;

use act::Next;
use seen::Seen;
pub use tunnel::GENEVE_PORT;

/// Rules that one frame may meet by jumping from group to group, on its way in and again on its way to each port.
const MAX_JUMPS: usize = 16;

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
    /// Link-layer addresses that routers asked for on networks.
    pub residents: &'a Residents,
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
    /// How many operations there are before the frame comes to the bridge.
    pub bridged: usize,
    /// A neighbour whose address is needed.
    pub resolve: Option<IpAddr>,
    /// A host of a network that a router needs the address of.
    pub want: Option<(NetworkId, IpAddr)>,
    /// A protected port that gets a SYN of no connection: it is answered instead while the port is flooded.
    pub guarded: Option<PortIndex>,
    /// Connections that were made in deciding.
    pub made: Vec<ConnRef>,
    /// The connection of a client that has proved a cookie, and the protected port that it is to.
    pub opened: Option<(ConnRef, PortIndex)>,
}

/// Decides what happens to a frame with this key.
pub fn translate(
    tables: Tables,
    key: &FlowKey,
    tracking: Tracking,
    notes: Option<&mut Vec<Note>>,
) -> Translation {
    let mut walk = Walk::new(tables, key, tracking, notes);
    walk.run();
    walk.protect();
    walk.out
}

struct Walk<'a> {
    tables: Tables<'a>,
    tracking: Tracking<'a>,
    /// What tracking came to so far.
    tracked: Vec<ct::Tracked>,
    /// The key as the actions so far have changed it; after decapsulation the inner layer is the outer one.
    key: FlowKey,
    /// The key of the frame as it came.
    came: &'a FlowKey,
    /// Where the bits of `key` come from.
    seen: Seen,
    /// Tags behind the two that a key has, with what they follow from: those that others were pushed in front of.
    buried: Vec<(u128, FlowMask)>,
    /// The frame's fate is decided, whatever rules say.
    over: bool,
    /// Rules that it may still meet.
    jumps: usize,
    /// It has met the rules of where it came from, and is about to leave by a port.
    leaving: bool,
    notes: Option<&'a mut Vec<Note>>,
    out: Translation,
    protection: shield::Protection,
    /// The node that it came from in a tunnel, and its network.
    remote: Option<(NetworkId, IpAddr)>,
}

pub(crate) fn mac_of(value: u128) -> [u8; 6] {
    let bytes = (value as u64).to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

pub(crate) fn text_of(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl<'a> Walk<'a> {
    fn new(
        tables: Tables<'a>,
        key: &'a FlowKey,
        tracking: Tracking<'a>,
        notes: Option<&'a mut Vec<Note>>,
    ) -> Self {
        Walk {
            tables,
            tracking,
            tracked: Vec::new(),
            key: *key,
            came: key,
            seen: Seen::new(),
            buried: Vec::new(),
            over: false,
            jumps: MAX_JUMPS,
            leaving: false,
            notes,
            out: Translation {
                ops: Vec::with_capacity(4),
                mask: FlowMask::ZERO,
                rests: Rests::default(),
                once: false,
                tracks: Tracks::new(),
                learn: None,
                bridged: 0,
                resolve: None,
                want: None,
                guarded: None,
                made: Vec::new(),
                opened: None,
            },
            protection: shield::Protection::default(),
            remote: None,
        }
    }
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

    fn drop(&mut self, reason: Drop) {
        self.note("drop", format_args!("{}", reason.as_str()));
        self.out.ops.push(Op::Drop(reason.into()));
        self.over = true;
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
        if port.lldp && self.get(Field::EthType(Layer::Outer)) == u128::from(LLDP_ETHERTYPE) {
            // Whatever rules say, as no bridge forwards it.
            return self.consume("lldp", "LLDP");
        }
        if port.shield.is_some() {
            self.leaves_protected(in_port);
            if self.over {
                return;
            }
        }
        if self.rules(0) || self.over {
            return;
        }
        if self.tables.snapshot.isolated.contains(&in_port) {
            return self.drop(Drop::Isolated);
        }
        if port.uplink {
            return self.uplink();
        }
        match port.network {
            Some(network) => self.bridge(network, Target::Port(in_port)),
            None => self.drop(Drop::NoNetwork),
        }
    }

    /// Runs the rules from a group on; true when one decided where the frame goes.
    fn rules(&mut self, start: u32) -> bool {
        let rules = self.tables.rules;
        let mut group = start;
        while self.jumps > 0 {
            self.jumps -= 1;
            let found = self.meet(group);
            if self.over {
                return true;
            }
            let Some(found) = found else {
                if group == EGRESS_START {
                    self.note("rules", format_args!("no egress rule of group 0 matches"));
                } else if !rules.rules.is_empty() {
                    self.note("rules", format_args!("no rule of group {group} matches"));
                }
                return false;
            };
            let shown = if group == EGRESS_START { 0 } else { group };
            let (port, id) = name_from(found.name);
            self.note(
                "rules",
                format_args!(
                    "rule {id} of port {port} (group {shown}, priority {})",
                    found.priority
                ),
            );
            match self.apply(&found) {
                Next::Group(0) => group = start,
                Next::Group(next) => group = next,
                Next::Pass => return false,
                Next::Over => return true,
            }
        }
        self.note("rules", format_args!("more than {MAX_JUMPS} jumps"));
        self.drop(Drop::Action);
        true
    }

    /// The rule of a group that the frame meets.
    fn meet(&mut self, group: u32) -> Option<crate::classifier::Found> {
        let rules = self.tables.rules;
        loop {
            let mut classes = Classes::new();
            let (mask, seen) = (&mut self.out.mask, &self.seen);
            let mut unknown = false;
            let found = rules
                .rules
                .lookup(group, &self.key, &mut classes, |looked| {
                    unknown |= seen.is_unknown(looked);
                    seen.examine(mask, looked);
                });
            classes
                .into_iter()
                .for_each(|class| self.out.rests.on_rules(class));
            if !unknown || !self.reveal() {
                return found;
            }
        }
    }

    /// On the uplink and taken by no rule: tunnels to this node, and what the underlay itself needs.
    fn uplink(&mut self) {
        let Some(underlay) = &self.tables.snapshot.underlay else {
            return self.drop(Drop::NoUnderlay);
        };
        let o = Layer::Outer;
        let eth_type = self.get(Field::EthType(o));
        if eth_type == 0x0806 {
            return self.consume("underlay", "ARP on the underlay");
        }
        if eth_type != 0x0800 && eth_type != 0x86dd {
            return self.drop(Drop::NotForUs);
        }
        let destination = ip_of(eth_type, self.get(Field::IpDst(o)));
        let proto = self.get(Field::IpProto(o));
        if !underlay.owns(destination) {
            // Neighbour solicitations go to a multicast address that stands for ours (RFC 4291, 2.7.1).
            return if proto == 58 {
                self.consume("underlay", "ICMPv6 on the underlay")
            } else {
                self.drop(Drop::NotForUs)
            };
        }
        if proto == 1 || proto == 58 {
            return self.consume("underlay", "ICMP to this node");
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

    fn consume(&mut self, stage: &'static str, what: &str) {
        self.note(stage, format_args!("{what}"));
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
        self.out.bridged = self.out.ops.len();
        if let Target::Remote(remote) = from {
            self.remote = Some((id, remote));
        }
        let own = |services: &std::sync::Arc<Services>| services.is_here(source);
        if tables.snapshot.services.get(&id).is_some_and(own) {
            // Routers of other nodes have the same address; no guest has.
            if matches!(from, Target::Port(_)) {
                return self.drop(Drop::BadSource);
            }
        } else {
            self.out.learn = Some((id, source, from));
        }
        self.out.rests.on_learned(change_of(id, source));
        // Reserved by 802.1D table 7-10 for protocols between neighbours.
        if destination[..5] == [0x01, 0x80, 0xc2, 0, 0] && destination[5] < 0x10 {
            return self.drop(Drop::LinkLocal);
        }
        if self.answers_call(id, from) || self.serve(id, from, destination) {
            return;
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
                let ops = self.apart(|walk| walk.output(*port));
                self.deliver(ops);
            }
        }
        if !matches!(from, Target::Remote(_)) {
            for remote in &network.remotes {
                let mut reached = false;
                let ops = self.apart(|walk| reached = walk.tunnel(network.id, *remote));
                // The others still get it; this remote's turn comes when it is resolved.
                if reached {
                    self.deliver(ops);
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

    /// What is done with a copy, which changes nothing for the frame itself.
    fn apart(&mut self, act: impl FnOnce(&mut Self)) -> Vec<Op> {
        let (key, seen, facts) = (self.key, self.seen.clone(), self.tracking.facts);
        let buried = self.buried.clone();
        let coming: Vec<_> = self.tracked.iter().map(|tracked| tracked.coming).collect();
        let start = self.out.ops.len();
        let copying = std::mem::replace(&mut self.protection.copying, true);
        act(self);
        self.protection.copying = copying;
        (self.key, self.seen, self.tracking.facts) = (key, seen, facts);
        (self.buried, self.over) = (buried, false);
        // What becomes of the copy's connections is seen when it is sent.
        let coming = coming.into_iter().chain(std::iter::repeat(None));
        for (tracked, coming) in self.tracked.iter_mut().zip(coming) {
            tracked.coming = coming;
        }
        self.out.ops.split_off(start)
    }

    /// Sends one of several copies on its way.
    fn deliver(&mut self, mut ops: Vec<Op>) {
        match ops[..] {
            [] => {}
            [Op::Output(_)] => self.out.ops.append(&mut ops),
            [Op::Encapsulate(_), Op::Output(_)] => {
                self.out.ops.append(&mut ops);
                self.out.ops.push(Op::Unwrap);
            }
            _ => self.out.ops.push(Op::Sample(Box::new(Sample::new(1, ops)))),
        }
    }

    /// Sends the frame to a port, unless the rules about what leaves by it say otherwise.
    fn output(&mut self, port: PortIndex) {
        match self.tables.snapshot.port(port) {
            Some(view) => self.note("egress", format_args!("port {} ({port})", view.name)),
            None => self.note("egress", format_args!("port {port}, which does not exist")),
        }
        if self.tables.rules.leaving && !self.may_leave(port) {
            return;
        }
        let protected = self.tables.snapshot.port(port);
        if protected.is_some_and(|port| port.shield.is_some()) && self.reaches_protected(port) {
            return;
        }
        self.out.ops.push(Op::Output(port));
    }

    /// Runs the rules about what leaves by a port; false when they decided otherwise. A frame that they send to another port meets the rules of that one,
    /// with as many jumps as are left.
    fn may_leave(&mut self, port: PortIndex) -> bool {
        let (jumps, leaving) = (self.jumps, self.leaving);
        if !leaving {
            (self.jumps, self.leaving) = (MAX_JUMPS, true);
        }
        self.write(Field::OutPort, u128::from(port) + 1);
        let decided = self.rules(EGRESS_START);
        if !leaving {
            (self.jumps, self.leaving) = (jumps, false);
        }
        !decided && !self.over
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

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;

//! The node's own stack on the uplink, as little as tunnels need: ARP (RFC 826), neighbour discovery (RFC 4861, hosts only) and
//! echo (RFC 792, RFC 4443) for the node's underlay addresses.
//!
//! Every lcore has its own table of neighbours. It routes nothing and takes every remote to be on the link.

mod path_mtu;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_packet::build::{self, NeighbourFlags};
use sumeru_packet::checksum::checksum;
use sumeru_packet::{L3Kind, Layout};

use crate::snapshot::{Snapshot, Underlay};

/// Most neighbours; a wire that announces more is not listened to.
const CAPACITY: usize = 16384;
/// Seconds after an answer when the neighbour is asked again (RFC 4861 section 10, REACHABLE_TIME).
const REACHABLE: u32 = 30;
/// Unanswered questions until a neighbour is given up (MAX_UNICAST_SOLICIT); it is asked on, but frames are dropped.
const MAX_PROBES: u8 = 3;

/// What decisions that looked a neighbour up rest on ([`crate::cache::Rests::on_learned`]).
pub fn change_of(neighbour: IpAddr) -> u64 {
    let bits = match neighbour {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    };
    (bits as u64 ^ (bits >> 64) as u64).rotate_left(7) ^ 1 << 63
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address, once it answered.
    pub mac: Option<[u8; 6]>,
    /// Seconds of the lcore's clock at its last answer.
    pub answered: u32,
    /// Questions since then.
    pub probes: u8,
    /// Longest packet that gets there as far as routers told, and when one did.
    pub path_mtu: Option<(u16, u32)>,
}

/// The link-layer addresses of the underlay.
#[derive(Debug)]
pub struct Neighbours {
    entries: HashMap<IpAddr, Neighbour>,
    /// Reports of path MTUs that count in this second.
    reports_left: u8,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            reports_left: path_mtu::PER_SECOND,
        }
    }
}

impl Neighbours {
    /// The link-layer address of a neighbour.
    pub fn mac(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.entries.get(&address)?.mac
    }

    /// Longest packet that gets to a neighbour, if a router told.
    pub fn path_mtu(&self, address: IpAddr) -> Option<u16> {
        Some(self.entries.get(&address)?.path_mtu?.0)
    }

    /// Takes note of a router's report; true when it changes anything.
    fn lower(&mut self, address: IpAddr, mtu: u16, now: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else {
            return false;
        };
        let lower = entry.path_mtu.is_none_or(|(known, _)| mtu < known);
        if !lower || self.reports_left == 0 {
            return false;
        }
        self.reports_left -= 1;
        entry.path_mtu = Some((mtu, now));
        true
    }

    /// Wants to know this neighbour from now on; true when it was not wanted before.
    pub fn want(&mut self, address: IpAddr) -> bool {
        if self.entries.contains_key(&address) || self.entries.len() >= CAPACITY {
            return false;
        }
        self.entries.insert(address, Neighbour::default());
        true
    }

    /// Takes over whom frames are sent to as neighbours that are wanted; forgets the others.
    pub fn reconcile(&mut self, snapshot: &Snapshot) {
        let wanted: HashSet<IpAddr> = snapshot.correspondents().collect();
        self.entries
            .retain(|address, entry| wanted.contains(address) || entry.mac.is_some());
        for address in wanted {
            self.want(address);
        }
    }

    /// Takes note of an answer, only from those that were asked or known; true when the address changed.
    fn answer(&mut self, address: IpAddr, mac: [u8; 6], now: u32) -> bool {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return false;
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return false;
        };
        let changed = entry.mac != Some(mac);
        *entry = Neighbour {
            mac: Some(mac),
            answered: now,
            probes: 0,
            ..*entry
        };
        changed
    }

    /// Those that are to be asked now: in every `new_second` all whose answer is due, in between only who was never asked. Tells
    /// which were given up, or whose path MTU was forgotten, so that decisions change.
    pub fn ask(
        &mut self,
        now: u32,
        new_second: bool,
        mut ask: impl FnMut(IpAddr),
        mut lost: impl FnMut(IpAddr),
    ) {
        if new_second {
            self.reports_left = path_mtu::PER_SECOND;
        }
        for (address, entry) in &mut self.entries {
            let told = entry.path_mtu.map(|(_, since)| now.saturating_sub(since));
            if told.is_some_and(|age| age >= path_mtu::LIFETIME) {
                entry.path_mtu = None;
                lost(*address);
            }
            let stale = entry.mac.is_none() || now.saturating_sub(entry.answered) >= REACHABLE;
            if !stale || !new_second && entry.probes > 0 {
                continue;
            }
            if entry.probes >= MAX_PROBES && entry.mac.take().is_some() {
                lost(*address);
            }
            entry.probes = entry.probes.saturating_add(1);
            // A neighbour that never answers is asked every eight seconds.
            if entry.probes <= MAX_PROBES || entry.probes % 8 == 0 {
                ask(*address);
            }
            if entry.probes == u8::MAX {
                entry.probes = MAX_PROBES + 1;
            }
        }
    }

    /// All neighbours.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Neighbour)> {
        self.entries
            .iter()
            .map(|(address, entry)| (*address, entry))
    }
}

/// What a frame for the node itself leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// A neighbour's address is new or changed, or the path to it became narrower.
    pub learned: Option<IpAddr>,
    /// Length of the answer that was written, 0 for none.
    pub reply_len: usize,
}

/// The question for a neighbour's link-layer address, written to `frame`; its length, or 0 when the underlay has no address of that family.
pub fn question(underlay: &Underlay, remote: IpAddr, frame: &mut [u8]) -> usize {
    let Some(source) = underlay.source_for(remote) else {
        return 0;
    };
    let built = match (source, remote) {
        (IpAddr::V4(source), IpAddr::V4(remote)) => {
            build::arp_request(frame, underlay.mac, source, remote)
        }
        (IpAddr::V6(source), IpAddr::V6(remote)) => {
            build::neighbour_solicitation(frame, underlay.mac, source, remote)
        }
        _ => return 0,
    };
    built.unwrap_or(0)
}

/// Handles a frame for the node itself: `frame` whole, `layout` as parsed. An answer goes to `reply`.
pub fn handle(
    frame: &[u8],
    layout: &Layout,
    underlay: &Underlay,
    neighbours: &mut Neighbours,
    now: u32,
    reply: &mut [u8],
) -> Reaction {
    match layout.outer().l3_kind {
        L3Kind::Arp => arp(frame, layout, underlay, neighbours, now, reply),
        L3Kind::Ipv4 => icmp4(frame, layout, underlay, neighbours, now, reply).unwrap_or_default(),
        L3Kind::Ipv6 => icmp6(frame, layout, underlay, neighbours, now, reply).unwrap_or_default(),
        L3Kind::None => Reaction::default(),
    }
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

fn arp(
    frame: &[u8],
    layout: &Layout,
    underlay: &Underlay,
    neighbours: &mut Neighbours,
    now: u32,
    reply: &mut [u8],
) -> Reaction {
    let at = usize::from(layout.outer().l3);
    let read = || {
        let (opcode, sender_mac) = (
            u16::from_be_bytes(bytes(frame, at + 6)?),
            bytes::<6>(frame, at + 8)?,
        );
        let (sender, target) = (
            Ipv4Addr::from(bytes::<4>(frame, at + 14)?),
            Ipv4Addr::from(bytes::<4>(frame, at + 24)?),
        );
        Some((opcode, sender_mac, sender, target))
    };
    let Some((opcode, sender_mac, sender, target)) = read() else {
        return Reaction::default();
    };
    // Our own address from someone else would lead tunnels astray.
    if underlay.owns(sender.into()) {
        return Reaction::default();
    }
    let learned = neighbours
        .answer(sender.into(), sender_mac, now)
        .then(|| sender.into());
    let mut reaction = Reaction {
        learned,
        reply_len: 0,
    };
    if opcode == 1 && underlay.owns(target.into()) {
        reaction.reply_len =
            build::arp_reply(reply, underlay.mac, target, sender_mac, sender).unwrap_or(0);
    }
    reaction
}

fn icmp4(
    frame: &[u8],
    layout: &Layout,
    underlay: &Underlay,
    neighbours: &mut Neighbours,
    now: u32,
    reply: &mut [u8],
) -> Option<Reaction> {
    let layer = layout.outer();
    let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
    let total = usize::from(u16::from_be_bytes(bytes(frame, l3 + 2)?));
    let packet_end = l3 + total;
    let message = frame.get(l4..packet_end)?;
    if layer.l4_proto != 1 || l4 == 0 || layer.is_fragment() || checksum(message) != 0 {
        return None;
    }
    if *message.first()? != 8 {
        let report = path_mtu::reported4(message, underlay);
        return Some(narrowed(report, neighbours, now));
    }
    echo(frame, layout, underlay, reply)
}

/// The answer to an echo request.
fn echo(frame: &[u8], layout: &Layout, underlay: &Underlay, reply: &mut [u8]) -> Option<Reaction> {
    let reply_len = build::echo_reply(reply, frame, layout.outer(), underlay.mac)?;
    Some(Reaction {
        learned: None,
        reply_len,
    })
}

/// What a report of a path MTU leads to.
fn narrowed(report: Option<(IpAddr, u16)>, neighbours: &mut Neighbours, now: u32) -> Reaction {
    let changed = report.filter(|(remote, mtu)| neighbours.lower(*remote, *mtu, now));
    Reaction {
        learned: changed.map(|(remote, _)| remote),
        reply_len: 0,
    }
}

fn icmp6(
    frame: &[u8],
    layout: &Layout,
    underlay: &Underlay,
    neighbours: &mut Neighbours,
    now: u32,
    reply: &mut [u8],
) -> Option<Reaction> {
    let layer = layout.outer();
    let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
    if layer.l4_proto != 58 || l4 == 0 || layer.is_fragment() {
        return None;
    }
    let (src, dst) = (
        Ipv6Addr::from(bytes::<16>(frame, l3 + 8)?),
        Ipv6Addr::from(bytes::<16>(frame, l3 + 24)?),
    );
    let packet_end = l3 + 40 + usize::from(u16::from_be_bytes(bytes(frame, l3 + 4)?));
    let message = frame.get(l4..packet_end)?;
    let pseudo = sumeru_packet::checksum::pseudo_ipv6(
        src.to_bits(),
        dst.to_bits(),
        58,
        u32::try_from(message.len()).ok()?,
    );
    let mut sum = pseudo;
    sum.add(message);
    if sum.folded() != 0xffff {
        return None;
    }
    let unforwarded = *frame.get(l3 + 7)? == 255;
    match *message.first()? {
        // Neighbour solicitation and advertisement.
        135 if unforwarded => {
            let target = Ipv6Addr::from(bytes::<16>(message, 8)?);
            if !underlay.owns(target.into()) || src.is_unspecified() {
                return None;
            }
            let mac = link_address(message, 24, 1)?;
            let learned = neighbours.answer(src.into(), mac, now).then(|| src.into());
            let flags = NeighbourFlags {
                router: false,
                solicited: true,
                override_known: true,
            };
            let len = build::neighbour_advertisement(reply, underlay.mac, target, mac, src, flags);
            Some(Reaction {
                learned,
                reply_len: len.unwrap_or(0),
            })
        }
        136 if unforwarded => {
            let target = Ipv6Addr::from(bytes::<16>(message, 8)?);
            if underlay.owns(target.into()) {
                return None;
            }
            let mac = link_address(message, 24, 2)?;
            Some(Reaction {
                learned: neighbours
                    .answer(target.into(), mac, now)
                    .then(|| target.into()),
                reply_len: 0,
            })
        }
        2 if underlay.owns(dst.into()) => {
            let report = path_mtu::reported6(message, underlay);
            Some(narrowed(report, neighbours, now))
        }
        128 if underlay.owns(dst.into()) => echo(frame, layout, underlay, reply),
        _ => None,
    }
}

/// The link-layer address option of kind `kind` among the options from `at` on (RFC 4861 section 4.6.1).
fn link_address(message: &[u8], mut at: usize, kind: u8) -> Option<[u8; 6]> {
    loop {
        let [found, units] = bytes::<2>(message, at)?;
        if units == 0 {
            return None;
        }
        if found == kind && units == 1 {
            return bytes(message, at + 2);
        }
        at += usize::from(units) * 8;
    }
}

#[cfg(test)]
#[path = "underlay_tests.rs"]
mod tests;

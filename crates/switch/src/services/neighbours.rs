//! Link-layer addresses of hosts that the configuration does not know: routers ask for them on the ports of their networks (RFC 826, RFC 4861 section 7).
//!
//! Every lcore has its own table. What a guest can make it ask for is bounded per network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_packet::{L3Kind, Layout, build};

use super::Services;
use super::answer::{ALL_NODES, ALL_NODES_MAC};
use crate::frame::PortIndex;
use crate::snapshot::{NetworkId, Snapshot};

/// Most neighbours of a network.
const CAPACITY: usize = 4096;
/// Most of them that have not answered yet; for others the question waits until one of these did or was given up.
const ASKED_MAX: usize = 256;
/// Most of these that frames of one port wanted: a guest that looks for many hosts keeps nobody else from finding theirs.
const ASKED_BY_PORT_MAX: usize = 64;
/// Most questions of a network in a second.
const QUESTIONS_MAX: usize = 256;
/// Seconds after an answer when a neighbour is asked again (RFC 4861 section 10, REACHABLE_TIME).
const REACHABLE: u32 = 30;
/// Questions without an answer until a neighbour is forgotten (MAX_UNICAST_SOLICIT).
const MAX_PROBES: u8 = 3;

/// What decisions that looked a neighbour up rest on ([`crate::cache::Rests::on_learned`]).
pub fn change_of(network: NetworkId, address: IpAddr) -> u64 {
    crate::underlay::change_of(address) ^ u64::from(network).rotate_left(32)
}

#[derive(Clone, Copy, Debug, Default)]
struct Neighbour {
    mac: Option<[u8; 6]>,
    /// Whose frame wanted to know it.
    asker: PortIndex,
    /// Seconds of the lcore's clock at its last answer.
    answered: u32,
    /// Questions since then.
    probes: u8,
}

/// What became of the wish to know a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is to be asked now.
    Now,
    /// It was asked before.
    Already,
    /// There are too many already.
    Refused,
}

/// The neighbours of a network, and how many have not answered yet, by who wanted to know them.
#[derive(Debug, Default)]
struct Table {
    known: HashMap<IpAddr, Neighbour>,
    asked: usize,
    asked_by: HashMap<PortIndex, usize>,
}

impl Table {
    /// One that a port wanted to know has answered, or never will.
    fn settled(&mut self, asker: PortIndex) {
        self.asked = self.asked.saturating_sub(1);
        if let Entry::Occupied(mut by) = self.asked_by.entry(asker) {
            *by.get_mut() -= 1;
            if *by.get() == 0 {
                by.remove();
            }
        }
    }
}

/// The neighbours of routers.
#[derive(Debug, Default)]
pub struct Neighbours {
    networks: HashMap<NetworkId, Table>,
}

impl Neighbours {
    /// The link-layer address of a neighbour.
    pub fn mac(&self, network: NetworkId, address: IpAddr) -> Option<[u8; 6]> {
        self.networks.get(&network)?.known.get(&address)?.mac
    }

    /// Wants to know a neighbour, for a frame of port `asker`.
    pub fn want(&mut self, network: NetworkId, address: IpAddr, asker: PortIndex) -> Wanted {
        let table = self.networks.entry(network).or_default();
        if table.known.contains_key(&address) {
            return Wanted::Already;
        }
        let by = table.asked_by.get(&asker).copied().unwrap_or(0);
        if table.known.len() >= CAPACITY || table.asked >= ASKED_MAX || by >= ASKED_BY_PORT_MAX {
            return Wanted::Refused;
        }
        let neighbour = Neighbour {
            asker,
            probes: 1,
            ..Neighbour::default()
        };
        table.known.insert(address, neighbour);
        table.asked += 1;
        table.asked_by.insert(asker, by + 1);
        Wanted::Now
    }

    /// Takes note of an answer, only from those that were asked; true when the address is news.
    pub fn answer(&mut self, network: NetworkId, address: IpAddr, mac: [u8; 6], now: u32) -> bool {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return false;
        }
        let Some(table) = self.networks.get_mut(&network) else {
            return false;
        };
        let Some(entry) = table.known.get_mut(&address) else {
            return false;
        };
        let before = *entry;
        *entry = Neighbour {
            mac: Some(mac),
            answered: now,
            probes: 0,
            ..before
        };
        if before.mac.is_none() {
            table.settled(before.asker);
        }
        before.mac != Some(mac)
    }

    /// Once a second: who is to be asked again, and who is forgotten. Whoever has answered before is asked at the link-layer address that it had
    /// (RFC 1122 section 2.3.2.1, RFC 4861 section 7.3.3), and only the last time everybody.
    pub fn ask(
        &mut self,
        now: u32,
        mut ask: impl FnMut(NetworkId, IpAddr, Option<[u8; 6]>),
        mut lost: impl FnMut(NetworkId, IpAddr),
    ) {
        for (network, table) in &mut self.networks {
            let mut questions = 0;
            let mut given_up = Vec::new();
            table.known.retain(|address, entry| {
                if entry.mac.is_some() && now.saturating_sub(entry.answered) < REACHABLE {
                    return true;
                }
                if entry.probes >= MAX_PROBES {
                    lost(*network, *address);
                    if entry.mac.is_none() {
                        given_up.push(entry.asker);
                    }
                    return false;
                }
                if questions < QUESTIONS_MAX {
                    questions += 1;
                    entry.probes += 1;
                    let at = entry.mac.filter(|_| entry.probes < MAX_PROBES);
                    ask(*network, *address, at);
                }
                true
            });
            for asker in given_up {
                table.settled(asker);
            }
        }
    }

    /// Forgets those of networks that have no router any more.
    pub fn reconcile(&mut self, snapshot: &Snapshot) {
        self.networks.retain(|network, _| {
            let services = snapshot.services.get(network);
            services.is_some_and(|services| services.is_routed())
        });
    }
}

/// The question for a neighbour's link-layer address; its length, or 0 when the router has no address of that family.
pub fn question(services: &Services, address: IpAddr, frame: &mut [u8]) -> usize {
    let built = match (services.asker(address), address) {
        (Some((mac, IpAddr::V4(own))), IpAddr::V4(address)) => {
            build::arp_request(frame, mac, own, address)
        }
        (Some((mac, IpAddr::V6(own))), IpAddr::V6(address)) => {
            build::neighbour_solicitation(frame, mac, own, address)
        }
        _ => return 0,
    };
    built.unwrap_or(0)
}

/// Tells a link where an address is: an ARP announcement (RFC 5227 section 3), or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6). Its
/// length.
pub fn announcement(address: IpAddr, mac: [u8; 6], frame: &mut [u8]) -> usize {
    let built = match address {
        IpAddr::V4(address) => build::arp_request(frame, mac, address, address),
        IpAddr::V6(address) => {
            let flags = build::NeighbourFlags {
                override_known: true,
                ..build::NeighbourFlags::default()
            };
            build::neighbour_advertisement(frame, mac, address, ALL_NODES_MAC, ALL_NODES, flags)
        }
    };
    built.unwrap_or(0)
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// Who an ARP reply or a neighbour advertisement says has which link-layer address.
pub fn told(frame: &[u8], layout: &Layout) -> Option<(IpAddr, [u8; 6])> {
    let layer = layout.outer();
    let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
    match layer.l3_kind {
        L3Kind::Arp => {
            let address = Ipv4Addr::from(bytes::<4>(frame, l3 + 14)?);
            Some((address.into(), bytes(frame, l3 + 8)?))
        }
        // Nobody forwarded it (RFC 4861 section 7.1.2), and the target's address is its first option.
        L3Kind::Ipv6 if l4 != 0 && bytes(frame, l3 + 7)? == [255] && bytes(frame, l4)? == [136] => {
            let address = Ipv6Addr::from(bytes::<16>(frame, l4 + 8)?);
            let option = bytes::<2>(frame, l4 + 24)?;
            let mac = bytes(frame, l4 + 26)?;
            (option == [2, 1]).then_some((address.into(), mac))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    /// How many of these hosts are asked for a port.
    fn asked(neighbours: &mut Neighbours, hosts: std::ops::Range<u32>, port: PortIndex) -> usize {
        hosts
            .filter(|n| neighbours.want(5, address(*n), port) == Wanted::Now)
            .count()
    }

    /// Lets seconds pass; answers who was asked where, and who was forgotten.
    #[allow(clippy::type_complexity)]
    fn pass(
        neighbours: &mut Neighbours,
        seconds: std::ops::Range<u32>,
    ) -> (Vec<(IpAddr, Option<[u8; 6]>)>, Vec<IpAddr>) {
        let (mut asked, mut lost) = (Vec::new(), Vec::new());
        for now in seconds {
            let ask = |_, address, mac| asked.push((address, mac));
            neighbours.ask(now, ask, |_, address| lost.push(address));
        }
        (asked, lost)
    }

    #[test]
    fn only_those_that_were_asked_are_believed_and_only_so_many_are_asked() {
        let mut neighbours = Neighbours::default();
        let mac = [2, 0, 0, 0, 0, 1];
        assert!(!neighbours.answer(5, address(1), mac, 0));
        assert_eq!(asked(&mut neighbours, 0..1000, 1), ASKED_BY_PORT_MAX);
        assert_eq!(
            asked(&mut neighbours, 1000..2000, 2),
            ASKED_BY_PORT_MAX,
            "another port has its own share"
        );
        assert_eq!(asked(&mut neighbours, 2000..3000, 3), ASKED_BY_PORT_MAX);
        assert_eq!(asked(&mut neighbours, 3000..4000, 4), ASKED_BY_PORT_MAX);
        assert_eq!(asked(&mut neighbours, 4000..5000, 5), 0, "that is all");
        assert_eq!(neighbours.want(5, address(1), 9), Wanted::Already);
        assert_eq!(
            neighbours.want(6, address(1), 1),
            Wanted::Now,
            "another network has its own"
        );
        assert!(neighbours.answer(5, address(1), mac, 0));
        assert!(!neighbours.answer(5, address(1), mac, 0), "no news");
        assert_eq!(neighbours.mac(5, address(1)), Some(mac));
        assert_eq!(neighbours.mac(6, address(1)), None);
        assert_eq!(
            asked(&mut neighbours, 4000..5000, 1),
            1,
            "one has been answered"
        );
        // Who never answers is forgotten, and others get their turn.
        let (_, lost) = pass(&mut neighbours, 1..4);
        assert_eq!(lost.len(), ASKED_MAX + 1);
        assert_eq!(neighbours.mac(5, address(1)), Some(mac), "it has answered");
        assert_eq!(asked(&mut neighbours, 5000..6000, 1), ASKED_BY_PORT_MAX);
        let (_, lost) = pass(&mut neighbours, 30..34);
        assert!(lost.contains(&address(1)));
        assert_eq!(neighbours.mac(5, address(1)), None);
    }

    #[test]
    fn who_has_answered_is_asked_where_it_was_and_not_all_at_once() {
        let mut neighbours = Neighbours::default();
        let mac = [2, 0, 0, 0, 0, 1];
        for n in 0..1000 {
            assert_eq!(neighbours.want(5, address(n), 1), Wanted::Now);
            neighbours.answer(5, address(n), mac, 0);
        }
        for now in 30..34 {
            let (asked, lost) = pass(&mut neighbours, now..now + 1);
            assert_eq!(
                (asked.len(), lost.len()),
                (if now < 33 { 256 } else { 232 }, 0)
            );
            for (address, at) in asked {
                assert_eq!(at, Some(mac), "not everybody is asked");
                neighbours.answer(5, address, mac, now);
            }
        }
        // Who has gone is looked for everywhere before it is forgotten.
        let mut neighbours = Neighbours::default();
        neighbours.want(5, address(1), 1);
        neighbours.answer(5, address(1), mac, 0);
        let (asked, lost) = pass(&mut neighbours, 30..34);
        let at: Vec<_> = asked.iter().map(|(_, at)| *at).collect();
        assert_eq!(at, [Some(mac), Some(mac), None]);
        assert_eq!(lost, [address(1)]);
    }
}

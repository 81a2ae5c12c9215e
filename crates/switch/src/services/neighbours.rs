//! Link-layer addresses of hosts that the configuration does not know: routers ask for them on the ports of their networks (RFC 826, RFC 4861 section 7).
//!
//! Every lcore has its own table. What a guest can make it ask for is bounded per network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_packet::{L3Kind, Layout, build};

use super::Services;
use super::answer::{ALL_NODES, ALL_NODES_MAC};
use crate::snapshot::{NetworkId, Snapshot};

/// Most neighbours of a network.
const CAPACITY: usize = 4096;
/// Most of them that have not answered yet; for others the question waits until one of these did or was given up.
const ASKED_MAX: usize = 256;
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

/// The neighbours of routers.
#[derive(Debug, Default)]
pub struct Neighbours {
    networks: HashMap<NetworkId, HashMap<IpAddr, Neighbour>>,
}

impl Neighbours {
    /// The link-layer address of a neighbour.
    pub fn mac(&self, network: NetworkId, address: IpAddr) -> Option<[u8; 6]> {
        self.networks.get(&network)?.get(&address)?.mac
    }

    /// Wants to know a neighbour.
    pub fn want(&mut self, network: NetworkId, address: IpAddr) -> Wanted {
        let of = self.networks.entry(network).or_default();
        let asked = of.values().filter(|known| known.mac.is_none()).count();
        if of.contains_key(&address) {
            return Wanted::Already;
        }
        if of.len() >= CAPACITY || asked >= ASKED_MAX {
            return Wanted::Refused;
        }
        of.insert(
            address,
            Neighbour {
                probes: 1,
                ..Neighbour::default()
            },
        );
        Wanted::Now
    }

    /// Takes note of an answer, only from those that were asked; true when the address is news.
    pub fn answer(&mut self, network: NetworkId, address: IpAddr, mac: [u8; 6], now: u32) -> bool {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return false;
        }
        let Some(entry) = self
            .networks
            .get_mut(&network)
            .and_then(|of| of.get_mut(&address))
        else {
            return false;
        };
        let news = entry.mac != Some(mac);
        *entry = Neighbour {
            mac: Some(mac),
            answered: now,
            probes: 0,
        };
        news
    }

    /// Once a second: who is to be asked again, and who is forgotten.
    pub fn ask(
        &mut self,
        now: u32,
        mut ask: impl FnMut(NetworkId, IpAddr),
        mut lost: impl FnMut(NetworkId, IpAddr),
    ) {
        for (network, of) in &mut self.networks {
            of.retain(|address, entry| {
                if entry.mac.is_some() && now.saturating_sub(entry.answered) < REACHABLE {
                    return true;
                }
                if entry.probes >= MAX_PROBES {
                    lost(*network, *address);
                    return false;
                }
                entry.probes += 1;
                ask(*network, *address);
                true
            });
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

    #[test]
    fn only_those_that_were_asked_are_believed_and_only_so_many_are_asked() {
        let mut neighbours = Neighbours::default();
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let mac = [2, 0, 0, 0, 0, 1];
        assert!(!neighbours.answer(5, address(1), mac, 0));
        let asked = (0..1000)
            .filter(|n| neighbours.want(5, address(*n)) == Wanted::Now)
            .count();
        assert_eq!(asked, ASKED_MAX);
        assert_eq!(neighbours.want(5, address(999)), Wanted::Refused);
        assert_eq!(neighbours.want(5, address(1)), Wanted::Already);
        assert_eq!(
            neighbours.want(6, address(1)),
            Wanted::Now,
            "another network has its own"
        );
        assert!(neighbours.answer(5, address(1), mac, 0));
        assert!(!neighbours.answer(5, address(1), mac, 0), "no news");
        assert_eq!(neighbours.mac(5, address(1)), Some(mac));
        assert_eq!(neighbours.mac(6, address(1)), None);
        // Who never answers is forgotten, and others get their turn.
        let mut lost = Vec::new();
        for now in 1..4 {
            neighbours.ask(
                now,
                |_, _| {},
                |network, address| lost.push((network, address)),
            );
        }
        assert_eq!(lost.len(), 256);
        assert!(!lost.contains(&(5, address(1))), "it has answered");
        assert_eq!(neighbours.want(5, address(700)), Wanted::Now);
        for now in 30..34 {
            neighbours.ask(
                now,
                |_, _| {},
                |network, address| lost.push((network, address)),
            );
        }
        assert!(lost.contains(&(5, address(1))));
        assert_eq!(neighbours.mac(5, address(1)), None);
    }
}

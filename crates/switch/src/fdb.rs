//! The forwarding database: where each address of each network was last seen (802.1Q, 8.8).
//!
//! Every lcore has its own; what one learns it tells the others. It is looked at on the slow path only.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::frame::PortIndex;
use crate::snapshot::{NetworkId, Snapshot};

/// Most addresses per lcore; what comes later is not learned and its frames are flooded.
pub const CAPACITY: usize = 1 << 18;

/// What decisions that looked an address up rest on ([`crate::cache::Rests::on_learned`]).
pub fn change_of(network: NetworkId, mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]) ^ u64::from(network).rotate_left(40)
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of this node.
    Port(PortIndex),
    /// A tunnel end point.
    Remote(IpAddr),
}

/// One address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it leads.
    pub target: Target,
    /// Seconds of the lcore's clock when it was last seen.
    pub seen: u32,
    /// Configured, so it is neither learned over nor forgotten.
    pub fixed: bool,
}

/// What learning came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known already, and there.
    Known,
    /// New.
    New,
    /// Known, but elsewhere.
    Moved,
    /// Not learned: configured otherwise, or no room.
    Refused,
}

/// The addresses an lcore knows.
#[derive(Debug, Default)]
pub struct Fdb {
    entries: HashMap<(NetworkId, [u8; 6]), Entry>,
}

impl Fdb {
    /// Where `mac` of `network` is.
    pub fn get(&self, network: NetworkId, mac: [u8; 6]) -> Option<&Entry> {
        self.entries.get(&(network, mac))
    }

    /// Whether [`Self::learn`] would change where `mac` is.
    pub fn is_news(&self, network: NetworkId, mac: [u8; 6], target: Target) -> bool {
        match self.entries.get(&(network, mac)) {
            Some(entry) => entry.target != target && !entry.fixed,
            None => self.entries.len() < CAPACITY,
        }
    }

    /// Takes note that `mac` sends from `target`.
    pub fn learn(&mut self, network: NetworkId, mac: [u8; 6], target: Target, now: u32) -> Learned {
        if let Some(entry) = self.entries.get_mut(&(network, mac)) {
            if entry.target == target {
                entry.seen = now;
                return Learned::Known;
            }
            if entry.fixed {
                return Learned::Refused;
            }
            (entry.target, entry.seen) = (target, now);
            return Learned::Moved;
        }
        if self.entries.len() >= CAPACITY {
            return Learned::Refused;
        }
        self.entries.insert(
            (network, mac),
            Entry {
                target,
                seen: now,
                fixed: false,
            },
        );
        Learned::New
    }

    /// Keeps an address from ageing: frames from it were seen.
    pub fn touch(&mut self, network: NetworkId, mac: [u8; 6], now: u32) {
        if let Some(entry) = self.entries.get_mut(&(network, mac)) {
            entry.seen = now;
        }
    }

    /// Takes over what is configured and drops what can no longer be (ports and networks that are gone).
    pub fn reconcile(&mut self, snapshot: &Snapshot, now: u32) {
        self.entries.retain(|(network, _), entry| {
            let Some(view) = snapshot.networks.get(network) else {
                return false;
            };
            match entry.target {
                _ if entry.fixed => false,
                Target::Port(port) => snapshot
                    .port(port)
                    .is_some_and(|p| p.network == Some(*network)),
                Target::Remote(remote) => view.remotes.contains(&remote),
            }
        });
        for view in snapshot.networks.values() {
            for (mac, remote) in &view.static_macs {
                let entry = Entry {
                    target: Target::Remote(*remote),
                    seen: now,
                    fixed: true,
                };
                self.entries.insert((view.id, *mac), entry);
            }
        }
    }

    /// Forgets what was not seen for its network's ageing time; tells what.
    pub fn age(
        &mut self,
        snapshot: &Snapshot,
        now: u32,
        mut forgotten: impl FnMut(NetworkId, [u8; 6]),
    ) {
        self.entries.retain(|(network, mac), entry| {
            let ageing = snapshot
                .networks
                .get(network)
                .map_or(0, |view| view.ageing_s);
            let kept = entry.fixed || ageing == 0 || now.saturating_sub(entry.seen) <= ageing;
            if !kept {
                forgotten(*network, *mac);
            }
            kept
        });
    }

    /// All addresses.
    pub fn iter(&self) -> impl Iterator<Item = (NetworkId, [u8; 6], &Entry)> {
        self.entries
            .iter()
            .map(|((network, mac), entry)| (*network, *mac, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{NetworkView, PortView};

    fn snapshot(ageing_s: u32) -> Snapshot {
        let port = |index| {
            Some(PortView {
                index,
                name: "p".into(),
                network: Some(5),
                mtu: 1500,
                uplink: false,
                lldp: false,
                shield: None,
            })
        };
        let network = NetworkView {
            id: 5,
            name: "n".into(),
            overlay: crate::snapshot::Overlay::Vxlan,
            remotes: vec!["192.0.2.9".parse().unwrap()],
            ports: vec![0, 1],
            flood_limit: 0,
            ageing_s,
            static_macs: vec![([2, 0, 0, 0, 0, 9], "192.0.2.9".parse().unwrap())],
            outer: Default::default(),
        };
        Snapshot {
            ports: vec![port(0), port(1)],
            networks: [(5, network)].into(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn addresses_are_learned_moved_aged_and_reconciled() {
        let (mut fdb, mac) = (Fdb::default(), [2, 0, 0, 0, 0, 1]);
        assert_eq!(fdb.learn(5, mac, Target::Port(0), 10), Learned::New);
        assert_eq!(fdb.learn(5, mac, Target::Port(0), 12), Learned::Known);
        assert_eq!(fdb.learn(5, mac, Target::Port(1), 13), Learned::Moved);
        fdb.reconcile(&snapshot(300), 13);
        assert_eq!(
            fdb.learn(5, [2, 0, 0, 0, 0, 9], Target::Port(1), 14),
            Learned::Refused,
            "configured stays"
        );
        let mut forgotten = Vec::new();
        fdb.age(&snapshot(300), 313, |_, mac| forgotten.push(mac));
        assert!(forgotten.is_empty());
        fdb.age(&snapshot(300), 314, |_, mac| forgotten.push(mac));
        assert_eq!(forgotten.len(), 1);
        assert!(fdb.get(5, mac).is_none());
        fdb.learn(5, mac, Target::Port(7), 20);
        fdb.reconcile(&snapshot(300), 20);
        assert!(fdb.get(5, mac).is_none(), "its port is not on the network");
        assert_eq!(fdb.iter().count(), 1);
    }
}

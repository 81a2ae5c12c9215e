//! LACP over the ports of one bond: selection (IEEE 802.1AX-2014, 6.4.14), the choice of the aggregator in use, transmission (6.4.16),
//! and answers to Marker PDUs (6.5.4).
//!
//! A bond has one client, so of all groups of ports that could be aggregated one is in use; the ports of the others are on standby, out of
//! sync, so that their partner sends nothing to them. Ports belong together if partner system, partner key and speed are the same. A port
//! whose partner is this very system (a cable from bond to bond) is never selected.

use std::time::Duration;

use super::lacp_port::{LacpPort, LacpStats, Mux, Receive, Selected};
use super::slow::{Lacpdu, Marker, Peer, SlowPdu, state};
use super::{Mac, MemberId};

/// How the group of ports in use is chosen (the `ad_select` of Linux's bonding driver).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AggregatorSelect {
    /// The group in use stays until its last port is gone.
    #[default]
    Stable,
    /// Always the group with the greatest sum of speeds.
    Bandwidth,
    /// Always the group with most ports.
    Count,
}

/// LACP of a bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LacpConfig {
    /// The system: the bond's MAC address.
    pub system: Mac,
    /// Its priority; the lower the more important.
    pub system_priority: u16,
    /// The key of all its ports.
    pub key: u16,
    /// Sends unasked. Two passive ends never aggregate.
    pub active: bool,
    /// Wants to hear every second and gives up after three; otherwise every 30 and after 90.
    pub short_timeout: bool,
    /// Which group is in use.
    pub select: AggregatorSelect,
    /// With no partner anywhere, one port carries traffic alone; otherwise none does.
    pub fallback: bool,
}

/// What can be said about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LacpStatus {
    /// What the port says of itself.
    pub actor: Peer,
    /// What is known of the other end.
    pub partner: Peer,
    /// The receive machine.
    pub receive: Receive,
    /// The mux machine.
    pub mux: Mux,
    /// Selection.
    pub selected: Selected,
    /// Counts.
    pub stats: LacpStats,
}

/// Ports that may be aggregated (the LAG ID of 6.3.6, less what is the same for all ports of a bond).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    partner_priority: u16,
    partner: Mac,
    key: u16,
    speed: u32,
    /// Individual links are on their own.
    alone: Option<MemberId>,
    /// Known by configuration only.
    defaulted: bool,
}

/// LACP of one bond.
#[derive(Debug)]
pub struct Lacp {
    config: LacpConfig,
    ports: Vec<LacpPort>,
    in_use: Option<Group>,
}

/// Takes frames to send: by which member, and the frame.
pub type Send<'a> = dyn FnMut(MemberId, &[u8]) + 'a;

impl Lacp {
    /// LACP without ports.
    pub fn new(config: LacpConfig) -> Lacp {
        Lacp {
            config,
            ports: Vec::new(),
            in_use: None,
        }
    }

    /// Adds a port whose link is down; `id` is its port number and must be new, `mac` is what its PDUs come from.
    pub fn add_port(&mut self, id: MemberId, mac: Mac, priority: u16) {
        let config = &self.config;
        let bit = |on, bits| if on { bits } else { 0 };
        let actor = Peer {
            system_priority: config.system_priority,
            system: config.system,
            key: config.key,
            port_priority: priority,
            port: id,
            state: bit(config.active, state::ACTIVITY)
                | bit(config.short_timeout, state::SHORT_TIMEOUT)
                | state::AGGREGATION,
        };
        self.ports.push(LacpPort::new(id, mac, actor));
    }

    /// Removes a port. Its partner is told once that it is out of sync.
    pub fn remove_port(&mut self, id: MemberId, now: Duration, send: &mut Send<'_>) {
        let Some(at) = self.ports.iter().position(|port| port.id == id) else {
            return;
        };
        let mut port = self.ports.remove(at);
        if port.enabled {
            let gone = state::SYNCHRONIZATION | state::COLLECTING | state::DISTRIBUTING;
            let actor = Peer {
                state: port.actor().state & !(gone | state::AGGREGATION),
                ..*port.actor()
            };
            port.ntt = true;
            if port.transmits(now) {
                send(id, &Self::pdu(actor, port.partner()).frame(port.mac));
            }
        }
        self.run(now, send);
    }

    fn port(&mut self, id: MemberId) -> Option<&mut LacpPort> {
        self.ports.iter_mut().find(|port| port.id == id)
    }

    /// A port's link: up in full duplex with `speed` in Mbit/s, or down.
    pub fn link(&mut self, id: MemberId, up: bool, speed: u32, now: Duration, send: &mut Send<'_>) {
        if let Some(port) = self.port(id) {
            if port.speed != speed && up {
                // Other ports may fit now, and these no longer.
                port.selected = Selected::Unselected;
                port.speed = speed;
            }
            port.enable(up, now);
        }
        self.run(now, send);
    }

    /// A PDU arrived by a port.
    pub fn received(&mut self, id: MemberId, pdu: &SlowPdu, now: Duration, send: &mut Send<'_>) {
        let Some(port) = self.port(id) else {
            return;
        };
        match pdu {
            SlowPdu::Lacp(pdu) => {
                port.receive(pdu, now);
                self.run(now, send);
            }
            SlowPdu::Marker(marker) => {
                port.stats.markers = port.stats.markers.wrapping_add(1);
                if !marker.response && port.answers(now) {
                    // Frames are sent in the order they come, so all that the asker sent before has been taken.
                    let answer = SlowPdu::Marker(Marker {
                        response: true,
                        ..*marker
                    });
                    send(id, &answer.frame(port.mac));
                }
            }
        }
    }

    fn group(&self, port: &LacpPort) -> Option<Group> {
        let partner = port.partner();
        let defaulted = port.actor().has(state::DEFAULTED);
        let eligible = match port.receive_state() {
            Receive::Disabled => false,
            Receive::Current => partner.system != self.config.system,
            Receive::Expired => !defaulted && partner.system != self.config.system,
            Receive::Defaulted => self.config.fallback,
        };
        (eligible && port.enabled).then(|| Group {
            partner_priority: partner.system_priority,
            partner: partner.system,
            key: partner.key,
            speed: port.speed,
            alone: (!partner.has(state::AGGREGATION)).then_some(port.id),
            defaulted,
        })
    }

    /// How good a group is. Both ends must come to the same choice or nothing is ever in sync; so beyond size it is the system with the
    /// better (lower) priority that decides (6.4.14.2), and the other follows what that one put in sync.
    fn merit(&self, group: &Group) -> impl Ord + use<> {
        let own = (self.config.system_priority, self.config.system);
        let leads = own < (group.partner_priority, group.partner);
        let (mut count, mut working, mut followed) = (0u64, false, leads);
        for port in self
            .ports
            .iter()
            .filter(|p| self.group(p).as_ref() == Some(group))
        {
            count += 1;
            working |= port.in_use();
            followed |= port.partner().has(state::SYNCHRONIZATION);
        }
        let speed = count * u64::from(group.speed);
        let size = match self.config.select {
            AggregatorSelect::Count => (count, speed),
            AggregatorSelect::Stable | AggregatorSelect::Bandwidth => (speed, count),
        };
        let stays = working && self.config.select == AggregatorSelect::Stable;
        let real = (!group.defaulted, group.alone.is_none());
        (real, stays, followed, size, working)
    }

    /// The group that is to be in use: of equals the one whose port was added first.
    fn choose(&self) -> Option<Group> {
        let groups = self.ports.iter().rev().filter_map(|p| self.group(p));
        groups.max_by_key(|group| self.merit(group))
    }

    fn select(&mut self) {
        self.in_use = self.choose();
        for at in 0..self.ports.len() {
            let group = self.group(&self.ports[at]);
            let in_use = group == self.in_use;
            let port = &mut self.ports[at];
            port.selected = match group {
                None => Selected::Unselected,
                // It must leave its old aggregator first.
                Some(_)
                    if port.selected == Selected::Unselected
                        && port.mux_state() != Mux::Detached =>
                {
                    Selected::Unselected
                }
                Some(_) if in_use => Selected::Selected,
                Some(_) => Selected::Standby,
            };
        }
    }

    fn pdu(actor: Peer, partner: &Peer) -> SlowPdu {
        SlowPdu::Lacp(Lacpdu {
            actor,
            partner: *partner,
            collector_max_delay: 0,
        })
    }

    fn run(&mut self, now: Duration, send: &mut Send<'_>) {
        for port in &mut self.ports {
            port.run_receive(now);
            port.run_wait(now);
        }
        // The longest way is from in use to detached and back to attached.
        for _ in 0..8 {
            self.select();
            let ready = self.ports.iter().filter_map(LacpPort::ready).all(|r| r);
            let mut changed = false;
            for port in &mut self.ports {
                changed |= port.run_mux(ready, now);
            }
            if !changed {
                break;
            }
        }
        for port in &mut self.ports {
            port.run_periodic(now);
            if port.transmits(now) {
                send(
                    port.id,
                    &Self::pdu(*port.actor(), port.partner()).frame(port.mac),
                );
            }
        }
    }

    /// Lets time pass. To be called at [`Lacp::next_event`], or at least every 100 ms.
    pub fn tick(&mut self, now: Duration, send: &mut Send<'_>) {
        self.run(now, send);
    }

    /// When something happens by itself.
    pub fn next_event(&self) -> Option<Duration> {
        self.ports.iter().filter_map(LacpPort::next_event).min()
    }

    /// Ports that carry traffic, in the order they were added.
    pub fn in_use(&self) -> impl Iterator<Item = MemberId> {
        self.ports.iter().filter(|p| p.in_use()).map(|p| p.id)
    }

    /// What can be said about a port.
    pub fn status(&self, id: MemberId) -> Option<LacpStatus> {
        let port = self.ports.iter().find(|port| port.id == id)?;
        Some(LacpStatus {
            actor: *port.actor(),
            partner: *port.partner(),
            receive: port.receive_state(),
            mux: port.mux_state(),
            selected: port.selected(),
            stats: port.stats,
        })
    }
}

#[cfg(test)]
#[path = "lacp_tests.rs"]
mod tests;

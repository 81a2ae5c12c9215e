//! What neighbours on the wires say to each other: links that come and go, LACP of bonds, LLDP. All of it runs between bursts, when something was
//! heard or a timer is due.

use std::collections::BTreeMap;
use std::time::Duration;

use sumeru_engine::Tsc;

use super::SwitchWorker;
use crate::fdb::Target;
use crate::frame::PortIndex;
use crate::lane::bond::{BondPort, LinkProtocol, MemberReport, transmit};
use crate::lane::{Attachment, Lane};
use crate::link::announce::Address;
use crate::link::lldp::{Lldp, LldpConfig, LldpPortConfig, LldpStats, LldpSystem, Neighbour};
use crate::link::{LinkError, MemberId};
use crate::stats::Drop;
use crate::wire::LinkState;
use crate::wire::monitor::WireId;

/// Addresses that a bond announces after a failover, at most.
const ANNOUNCED_MAX: usize = 256;
/// Link protocols have their turn at most this often.
const SHORTEST: Duration = Duration::from_millis(1);

/// A bond as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BondReport {
    /// It carries traffic.
    pub up: bool,
    /// Its members, in order.
    pub members: Vec<MemberReport>,
}

/// What LLDP is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LldpSetup {
    /// Of the node.
    pub system: LldpSystem,
    /// By which wires, and of each.
    pub ports: Vec<(WireId, LldpPortConfig)>,
}

/// What LLDP heard and counted by one wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LldpReport {
    /// The wire.
    pub wire: WireId,
    /// What it counted.
    pub stats: LldpStats,
    /// Who was heard, each with the seconds that it holds on and the seconds since it was heard first.
    pub neighbours: Vec<(Neighbour, u64, u64)>,
}

/// The links of an lcore's wires.
#[derive(Debug, Default)]
pub(super) struct LinkLayer {
    states: BTreeMap<WireId, LinkState>,
    /// Ports that are bonds.
    bonds: Vec<PortIndex>,
    lldp: Option<Box<Lldp>>,
}

impl LinkLayer {
    /// A port is gone.
    pub(super) fn forget(&mut self, port: PortIndex) {
        self.bonds.retain(|bond| *bond != port);
        let gone: Vec<WireId> = self
            .states
            .keys()
            .copied()
            .filter(|w| w.0 == port)
            .collect();
        for wire in gone {
            self.states.remove(&wire);
            if let Some(lldp) = &mut self.lldp {
                // Not every wire runs LLDP, and none is left to say good-bye by.
                let _ = lldp.remove_port(wire_number(wire.0, wire.1), &mut |_, _| {});
            }
        }
    }
}

/// A wire as LLDP numbers its ports.
pub(super) fn wire_number(port: PortIndex, member: MemberId) -> u32 {
    u32::from(port) << 16 | u32::from(member)
}

fn wire_of(number: u32) -> WireId {
    ((number >> 16) as PortIndex, number as MemberId)
}

/// Sends a frame of a link protocol by a wire, if it is here.
fn send_by(lane: &mut Lane, (port, member): WireId, bytes: &[u8]) {
    match lane.port(port).map(|port| &mut port.attachment) {
        Some(Attachment::Wire(wire)) => transmit(&mut **wire, bytes),
        Some(Attachment::Bond(bond)) => bond.transmit(member, bytes),
        Some(Attachment::Rings(_)) | None => {}
    }
}

impl SwitchWorker {
    /// The time of the link protocols.
    fn link_time(&self, now: Tsc) -> Duration {
        Tsc::duration(now.since(self.started))
    }

    fn bond(&mut self, port: PortIndex) -> Option<&mut BondPort> {
        match &mut self.lane.port(port)?.attachment {
            Attachment::Bond(bond) => Some(bond),
            Attachment::Wire(_) | Attachment::Rings(_) => None,
        }
    }

    /// What the link of a wire does now.
    pub fn link_changed(&mut self, wire: WireId, state: LinkState) {
        let now = self.link_time(Tsc::now());
        let (port, member) = wire;
        if self.lane.port(port).is_none() {
            return;
        }
        self.link.states.insert(wire, state);
        if let Some(lldp) = &mut self.link.lldp {
            // Not every wire runs LLDP.
            let _ = lldp.link(wire_number(port, member), state.up, now);
        }
        let addresses = self.addresses_behind(port);
        if let Some(bond) = self.bond(port) {
            bond.bond().set_addresses(addresses);
            bond.link(member, state, now);
            if !self.link.bonds.contains(&port) {
                self.link.bonds.push(port);
            }
        }
        self.next_tick = self.started;
    }

    /// The addresses that a port's neighbours reach through it: the node's own on the underlay, or those learned elsewhere on its network.
    fn addresses_behind(&self, port: PortIndex) -> Vec<Address> {
        if let Some(own) = self
            .snapshot
            .underlay
            .as_ref()
            .filter(|own| own.port == port)
        {
            let address = |(ip, _): &(_, u8)| Address {
                mac: own.mac,
                ip: Some(*ip),
            };
            return own.addresses.iter().map(address).collect();
        }
        let Some(network) = self.snapshot.port(port).and_then(|view| view.network) else {
            return Vec::new();
        };
        let elsewhere = self
            .fdb
            .iter()
            .filter(|(on, _, entry)| *on == network && entry.target != Target::Port(port));
        let address = elsewhere.map(|(_, mac, _)| Address { mac, ip: None });
        address.take(ANNOUNCED_MAX).collect()
    }

    /// What a bond's member heard, and how much of what came was dropped: of members not in use, and of link protocols.
    #[inline]
    pub(super) fn listen(&mut self, port: PortIndex, (inactive, bad): (u64, u64)) {
        let heard = self.bond(port).map(BondPort::take_heard);
        let heard = heard.unwrap_or_default();
        if heard.is_empty() && inactive == 0 && bad == 0 {
            return;
        }
        let counters = &self.lane.counters;
        counters.dropped_many(Drop::InactiveMember.into(), inactive);
        counters.dropped_many(Drop::BadLinkPdu.into(), bad);
        if let Some(Some(local)) = self.lane.ports.get(usize::from(port)) {
            local.counters.rx_drops.add(inactive + bad);
        }
        let at = Tsc::now();
        let now = self.link_time(at);
        for heard in heard {
            match heard.protocol {
                LinkProtocol::Lldp => {
                    self.hear_lldp(wire_number(port, heard.member), &heard.frame);
                }
                LinkProtocol::Slow => {
                    let bond = self.bond(port);
                    let good = bond.is_some_and(|bond| bond.slow(heard.member, &heard.frame, now));
                    self.count_heard(good);
                }
            }
        }
        self.plan_links(at);
    }

    fn count_heard(&self, good: bool) {
        let reason = if good {
            Drop::Consumed
        } else {
            Drop::BadLinkPdu
        };
        self.lane.counters.dropped(reason.into());
    }

    /// An LLDP frame came in by a wire.
    pub(super) fn hear_lldp(&mut self, number: u32, frame: &[u8]) {
        let at = Tsc::now();
        let now = self.link_time(at);
        let heard = self
            .link
            .lldp
            .as_mut()
            .map(|lldp| lldp.received(number, frame, now));
        let good = heard.is_none_or(|heard| heard.is_ok());
        if !good {
            let (port, member) = wire_of(number);
            if let Some(bond) = self.bond(port) {
                bond.bad(member);
            }
        }
        self.count_heard(good);
        // A neighbour that is new is answered soon.
        self.plan_links(at);
    }

    /// Lets the link protocols have their turn, and says when the next is due.
    pub(super) fn run_links(&mut self, now: Tsc) {
        let time = self.link_time(now);
        for at in 0..self.link.bonds.len() {
            if let Some(bond) = self.bond(self.link.bonds[at]) {
                bond.tick(time);
            }
        }
        if let Some(lldp) = &mut self.link.lldp {
            let lane = &mut self.lane;
            lldp.tick(time, &mut |number, bytes| {
                send_by(lane, wire_of(number), bytes);
            });
        }
        self.plan_links(now);
    }

    /// Makes the regular work come when a timer of the link protocols is due.
    fn plan_links(&mut self, now: Tsc) {
        let mut next = self.link.lldp.as_ref().and_then(|lldp| lldp.next_event());
        for at in 0..self.link.bonds.len() {
            let bond = self.bond(self.link.bonds[at]);
            let event = bond.and_then(|bond| bond.bond().next_event());
            next = [next, event].into_iter().flatten().min();
        }
        if let Some(next) = next {
            let wait = next.saturating_sub(self.link_time(now)).max(SHORTEST);
            self.next_tick = self.next_tick.min(Tsc(now.0 + Tsc::ticks(wait)));
        }
    }

    /// A bond as it is; nothing for another port.
    pub fn bond_report(&mut self, port: PortIndex) -> Option<BondReport> {
        let bond = self.bond(port)?;
        Some(BondReport {
            up: bond.is_up(),
            members: bond.report(),
        })
    }

    /// Says from now on what `setup` has, and takes back what it has no more.
    ///
    /// # Errors
    /// [`LinkError`]: a text that is too long, too many ports.
    pub fn set_lldp(&mut self, setup: &LldpSetup) -> Result<(), LinkError> {
        let now = self.link_time(Tsc::now());
        let number = |wire: &WireId| wire_number(wire.0, wire.1);
        let lldp = match &mut self.link.lldp {
            Some(lldp) => lldp,
            None if setup.ports.is_empty() => return Ok(()),
            none => none.insert(Box::new(Lldp::new(
                LldpConfig::default(),
                setup.system.clone(),
            )?)),
        };
        // Under another chassis the node is another neighbour; the one that it was takes its leave.
        let same = lldp.system().chassis == setup.system.chassis;
        let wanted = |port| same && setup.ports.iter().any(|(wire, _)| number(wire) == port);
        let gone: Vec<u32> = lldp.ports().filter(|port| !wanted(*port)).collect();
        let lane = &mut self.lane;
        for port in gone {
            lldp.remove_port(port, &mut |number, bytes| {
                send_by(lane, wire_of(number), bytes);
            })?;
        }
        lldp.set_system(setup.system.clone(), now)?;
        for (wire, config) in &setup.ports {
            match lldp.update_port(number(wire), config.clone(), now) {
                Err(LinkError::NoPort(port)) => {
                    lldp.add_port(port, config.clone())?;
                    let up = self.link.states.get(wire).is_some_and(|state| state.up);
                    lldp.link(port, up, now)?;
                }
                done => done?,
            }
        }
        self.next_tick = self.started;
        Ok(())
    }

    /// What LLDP heard and counted, by wire.
    pub fn lldp_report(&self) -> Vec<LldpReport> {
        let Some(lldp) = &self.link.lldp else {
            return Vec::new();
        };
        let now = self.link_time(Tsc::now());
        let told = |neighbour: &Neighbour| {
            let holds = neighbour.expires.saturating_sub(now).as_secs();
            let since = now.saturating_sub(neighbour.since).as_secs();
            (neighbour.clone(), holds, since)
        };
        let of = |number: u32| LldpReport {
            wire: wire_of(number),
            stats: lldp.stats(number).unwrap_or_default(),
            neighbours: lldp
                .neighbours()
                .filter(|(port, _)| *port == number)
                .map(|(_, neighbour)| told(neighbour))
                .collect(),
        };
        lldp.ports().map(of).collect()
    }
}

//! Probes of load balancers' members: one thread, and a port of the switch on every network that it probes from.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use sumeru_switch::conntrack::Filter;
use sumeru_switch::probe::{Change, Prober, Vantage};
use sumeru_switch::snapshot::PortView;
use sumeru_switch::switch::{INTERNAL_PORTS, MAX_PORTS};
use sumeru_switch::wire::Channel;

use super::Local;
use crate::dataplane::{Done, Refusal};

/// Packets that probes send are no longer than this.
const MTU: u16 = 1500;
/// An Ethernet header and a VLAN tag.
const FRAMING: usize = 18;

fn refused(action: &'static str, target: &'static str) -> impl FnOnce(io::Error) -> Refusal {
    move |source| Refusal::System {
        action,
        target: target.to_owned(),
        source,
    }
}

/// What probes need.
#[derive(Debug, Default)]
pub struct Probes {
    thread: Option<Prober>,
    /// Indexes of ports, by network and address.
    ports: BTreeMap<(u32, IpAddr), u16>,
}

impl Probes {
    /// What the thread has found since this was asked last.
    pub fn changes(&self) -> Vec<Change> {
        self.thread.as_ref().map_or_else(Vec::new, Prober::changes)
    }
}

impl Local {
    pub(super) fn probe_from(&mut self, vantages: &[Vantage]) -> Done {
        if vantages.is_empty() && self.probes.ports.is_empty() {
            return Ok(());
        }
        let key = |vantage: &Vantage| (vantage.network, vantage.source);
        if self.probes.thread.is_none() {
            self.probes.thread = Some(Prober::start().map_err(refused("start", "the prober"))?);
        }
        let mut ordered = Vec::with_capacity(vantages.len());
        for vantage in vantages {
            if self.probes.ports.contains_key(&key(vantage)) {
                ordered.push((vantage.clone(), None));
                continue;
            }
            match self.open_probe_port(vantage) {
                Ok(socket) => ordered.push((vantage.clone(), Some(socket))),
                Err(refusal) => {
                    // Those that came before have no use now.
                    let opened = ordered.iter().filter(|(_, socket)| socket.is_some());
                    for (vantage, _) in opened {
                        if let Some(index) = self.probes.ports.remove(&key(vantage)) {
                            self.switch()?.remove_port(index)?;
                        }
                    }
                    return Err(refusal);
                }
            }
        }
        if let Some(thread) = &self.probes.thread {
            thread.set(ordered);
        }
        let wanted = |of: &(u32, IpAddr)| vantages.iter().any(|vantage| key(vantage) == *of);
        let gone = self.probes.ports.extract_if(.., |of, _| !wanted(of));
        let gone: Vec<u16> = gone.map(|(_, index)| index).collect();
        for index in gone {
            self.switch()?.remove_port(index)?;
        }
        if vantages.is_empty() {
            self.probes.thread = None;
        }
        Ok(())
    }

    fn open_probe_port(&mut self, vantage: &Vantage) -> Done<std::os::unix::net::UnixDatagram> {
        let all = MAX_PORTS as u16..(MAX_PORTS + INTERNAL_PORTS) as u16;
        let taken = |index: &u16| self.probes.ports.values().any(|of| of == index);
        let free = all.into_iter().find(|index| !taken(index));
        let index = free.ok_or(Refusal::Full {
            what: "address to probe from",
            limit: INTERNAL_PORTS as u64,
        })?;
        let longest = usize::from(MTU) + FRAMING;
        let (channel, socket) = Channel::pair(vantage.mac(), longest)
            .map_err(refused("open", "a socket to probe by"))?;
        let view = PortView {
            index,
            name: format!("probe {}", vantage.source).into(),
            network: Some(vantage.network),
            mtu: MTU,
            uplink: false,
            lldp: false,
            shield: None,
        };
        self.switch()?.add_wire(view, Box::new(channel))?;
        self.probes
            .ports
            .insert((vantage.network, vantage.source), index);
        Ok(socket)
    }

    pub(super) fn end_connections_of(&mut self, slots: &[u16]) -> Done {
        let live = self.switch()?.member_connections(slots)?;
        // Each looks through all connections.
        let with_some = slots.iter().zip(live).filter(|(_, live)| *live > 0);
        for (slot, _) in with_some {
            let of = Filter {
                member: Some(*slot),
                ..Filter::default()
            };
            self.switch()?.flush_connections(&of)?;
        }
        Ok(())
    }
}

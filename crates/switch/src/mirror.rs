//! Mirrors: copies of frames go to another port, or to a collector by ERSPAN (draft-foschiano-erspan-03).
//!
//! A copy is what came in, before anything was done to it, or what goes out. It costs nothing to ports that no mirror is about, and meets no rule.

use std::net::IpAddr;
use std::sync::Arc;

use sumeru_engine::Counter;
use sumeru_packet::build::{Carried, Erspan, Outer, Policy, Underlay as Addresses};

use crate::frame::PortIndex;
use crate::selection::{Selection, Selector};
use crate::snapshot::{Snapshot, Underlay};
use crate::underlay::Neighbours;

/// Time to live of packets for a collector.
const TTL: u8 = 64;

/// What a mirror did; written by the lcore of its ports.
#[derive(Debug, Default)]
pub struct MirrorCounters {
    /// Copies that were sent, segments counted one by one.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// Copies that could not be sent: no such port, or no way to the collector.
    pub lost: Counter,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a port of this switch.
    Port(PortIndex),
    /// To a collector on the underlay.
    Collector {
        /// Its address.
        address: IpAddr,
        /// What the header in front of each copy says.
        header: Erspan,
        /// Most bytes of a frame.
        snaplen: u32,
    },
}

/// A mirror as control makes it.
#[derive(Clone, Debug)]
pub struct MirrorView {
    /// Its name.
    pub name: Arc<str>,
    /// Which frames.
    pub selection: Selection,
    /// Where to.
    pub target: Target,
    /// What it did.
    pub counters: Arc<MirrorCounters>,
}

/// A mirror at work on an lcore.
pub struct Mirror {
    /// Which frames.
    pub selector: Selector,
    /// Where to.
    pub target: Target,
    /// What it did.
    pub counters: Arc<MirrorCounters>,
    /// The headers in front of those for a collector, once the way to it is known, and the MTU on it.
    pub way: Option<(PortIndex, Outer, u16)>,
}

impl Mirror {
    /// Begins a mirror.
    pub fn new(view: &MirrorView) -> Self {
        Self {
            selector: Selector::new(view.selection.clone()),
            target: view.target.clone(),
            counters: view.counters.clone(),
            way: None,
        }
    }

    /// Finds the way to the collector.
    pub fn resolve(&mut self, snapshot: &Snapshot, neighbours: &Neighbours) {
        if let Target::Collector { address, .. } = &self.target {
            self.way = way(*address, snapshot, neighbours);
        }
    }
}

fn way(
    address: IpAddr,
    snapshot: &Snapshot,
    neighbours: &Neighbours,
) -> Option<(PortIndex, Outer, u16)> {
    let underlay: &Underlay = snapshot.underlay.as_ref()?;
    let addresses = match (underlay.source_for(address)?, address) {
        (IpAddr::V4(source), IpAddr::V4(to)) => Addresses::Ipv4(source, to),
        (IpAddr::V6(source), IpAddr::V6(to)) => Addresses::Ipv6(source, to),
        _ => return None,
    };
    let outer = Outer {
        eth_dst: neighbours.mac(address)?,
        eth_src: underlay.mac,
        vlan_tci: None,
        underlay: addresses,
        ttl: Policy::Fixed(TTL),
        dscp: Policy::Fixed(0),
        ecn: false,
        port: 0,
        source_port: None,
        udp_checksum: false,
        carried: Carried::Ethernet,
    };
    let own = snapshot.port(underlay.port)?.mtu;
    let mtu = neighbours
        .path_mtu(address)
        .map_or(own, |path| path.min(own));
    Some((underlay.port, outer, mtu))
}

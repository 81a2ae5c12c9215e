//! What the switch does for the hosts of networks without being asked: questions of its routers, advertisements.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{OWN_FRAME, SwitchWorker};
use crate::egress;
use crate::fdb::Target;
use crate::frame::PortIndex;
use crate::lane::Lane;
use crate::services::{ADVERTISE_EVERY, Advertisement, neighbours};
use crate::snapshot::NetworkId;

/// What networks were told that nobody asked for.
#[derive(Default)]
pub(super) struct Announced {
    /// Nothing has changed since.
    all: bool,
    /// Floating addresses.
    floating: HashSet<(NetworkId, IpAddr)>,
    /// What their routers say.
    advertised: HashMap<NetworkId, Arc<Advertisement>>,
}

impl Announced {
    /// The configuration is another one.
    pub(super) fn look_again(&mut self) {
        self.all = false;
    }
}

impl SwitchWorker {
    /// Asks for a host's link-layer address: the port behind which it was at `mac`, if that is still known, or all ports of the network.
    pub(super) fn ask_on(&mut self, network: NetworkId, address: IpAddr, mac: Option<[u8; 6]>) {
        let snapshot = &*self.snapshot;
        let services = snapshot.services.get(&network);
        let (Some(services), Some(view)) = (services, snapshot.networks.get(&network)) else {
            return;
        };
        let mut frame = [0; 128];
        let len = neighbours::question(services, address, &mut frame);
        if len == 0 {
            return;
        }
        let at = mac.and_then(|mac| Some((mac, self.fdb.get(network, mac)?.target)));
        let one;
        let ports = match at {
            Some((mac, Target::Port(port))) => {
                frame[..6].copy_from_slice(&mac);
                one = [port];
                &one[..]
            }
            _ => &view.ports,
        };
        self.lane.send_own_to(ports, &frame[..len]);
    }

    /// A frame with an answer to such a question.
    #[cold]
    pub(super) fn told(&mut self, index: usize, network: NetworkId) {
        let (frame, mut bytes) = (&self.lane.frames[index], [0; OWN_FRAME]);
        // SAFETY: the frame is of the burst in hand.
        let len = unsafe { egress::linear(frame, &self.lane.list, &mut bytes) };
        let told = neighbours::told(&bytes[..len], &frame.layout);
        if let Some((address, mac)) = told
            && self.residents.answer(network, address, mac, self.now)
        {
            self.cache.learned(neighbours::change_of(network, address));
        }
    }

    /// Tells networks what is new since the last look: outside ones where floating addresses are, hosts what their router says. Who was an
    /// advertising router and is none any more says so (RFC 4861 section 6.2.5).
    fn announce(&mut self) {
        if self.announced.all {
            return;
        }
        let snapshot = &*self.snapshot;
        let before = std::mem::take(&mut self.announced);
        self.announced.all = true;
        for (network, services) in &snapshot.services {
            let view = snapshot.networks.get(network);
            let ports = view.map_or(&[][..], |view| &view.ports);
            for floating in services.floating.values() {
                let what = (*network, floating.address);
                if ports.is_empty() {
                    // Whoever comes first is told.
                    continue;
                }
                self.announced.floating.insert(what);
                if !before.floating.contains(&what) {
                    let mut frame = [0; 128];
                    let len = neighbours::announcement(what.1, floating.mac, &mut frame);
                    self.lane.send_own_to(ports, &frame[..len]);
                }
            }
            let old = before.advertised.get(network);
            let new = services.advertisement.as_ref();
            if old != new {
                let last = old.map(|old| old.last());
                if let Some(said) = new.map(|new| &**new).or(last.as_ref()) {
                    advertise(&mut self.lane, ports, said);
                }
            }
            if let Some(new) = new {
                self.announced.advertised.insert(*network, new.clone());
            }
        }
        let gone = before.advertised.iter();
        for (network, old) in gone.filter(|(id, _)| !snapshot.services.contains_key(id)) {
            if let Some(view) = snapshot.networks.get(network) {
                advertise(&mut self.lane, &view.ports, &old.last());
            }
        }
    }

    /// Once a second: neighbours are asked again, and links are told of their router when it is time.
    pub(super) fn serve_networks(&mut self) {
        let mut questions = Vec::new();
        let cache = &mut self.cache;
        self.residents.ask(
            self.now,
            |network, address, mac| questions.push((network, address, mac)),
            |network, address| cache.learned(neighbours::change_of(network, address)),
        );
        for (network, address, mac) in questions {
            self.ask_on(network, address, mac);
        }
        self.announce();
        if !self.now.is_multiple_of(ADVERTISE_EVERY) {
            return;
        }
        let snapshot = &*self.snapshot;
        for (network, services) in &snapshot.services {
            let view = snapshot.networks.get(network);
            let (Some(view), Some(advertisement)) = (view, &services.advertisement) else {
                continue;
            };
            advertise(&mut self.lane, &view.ports, advertisement);
        }
    }
}

/// Tells all hosts at these ports of their router.
fn advertise(lane: &mut Lane, ports: &[PortIndex], advertisement: &Advertisement) {
    let mut frame = [0; 512];
    let len = advertisement.write(&mut frame);
    if let Some(frame) = len.and_then(|len| frame.get(..len)) {
        lane.send_own_to(ports, frame);
    }
}

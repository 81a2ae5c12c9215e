//! What the switch does for the hosts of networks without being asked: questions of its routers, advertisements.
#![allow(unsafe_code)]

use std::net::IpAddr;

use super::{OWN_FRAME, SwitchWorker};
use crate::egress;
use crate::services::{ADVERTISE_EVERY, neighbours};
use crate::snapshot::NetworkId;

impl SwitchWorker {
    /// Asks the ports of a network for a host's link-layer address.
    pub(super) fn ask_on(&mut self, network: NetworkId, address: IpAddr) {
        let snapshot = &*self.snapshot;
        let services = snapshot.services.get(&network);
        let (Some(services), Some(view)) = (services, snapshot.networks.get(&network)) else {
            return;
        };
        let mut frame = [0; 128];
        let len = neighbours::question(services, address, &mut frame);
        if len > 0 {
            self.lane.send_own_to(&view.ports, &frame[..len]);
        }
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

    /// Tells outside networks where floating addresses are that have come since the last look.
    fn announce(&mut self) {
        let snapshot = &*self.snapshot;
        let floating = || {
            let services = snapshot.services.iter();
            services.flat_map(|(network, services)| {
                let all = services.floating.values();
                all.map(|floating| (*network, floating.address, floating.mac))
            })
        };
        let before = std::mem::take(&mut self.announced);
        for (network, address, mac) in floating() {
            self.announced.insert((network, address));
            let view = snapshot.networks.get(&network);
            let ports = view.map_or(&[][..], |view| &view.ports);
            if before.contains(&(network, address)) || ports.is_empty() {
                continue;
            }
            let mut frame = [0; 128];
            let len = neighbours::announcement(address, mac, &mut frame);
            self.lane.send_own_to(ports, &frame[..len]);
        }
    }

    /// Once a second: neighbours are asked again, and links are told of their router when it is time.
    pub(super) fn serve_networks(&mut self) {
        let mut questions = Vec::new();
        let cache = &mut self.cache;
        self.residents.ask(
            self.now,
            |network, address| questions.push((network, address)),
            |network, address| cache.learned(neighbours::change_of(network, address)),
        );
        for (network, address) in questions {
            self.ask_on(network, address);
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
            let mut frame = [0; 512];
            if let Some(frame) = advertisement
                .write(&mut frame)
                .and_then(|len| frame.get(..len))
            {
                self.lane.send_own_to(&view.ports, frame);
            }
        }
    }
}

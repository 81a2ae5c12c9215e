//! Ports of guests: their devices, the sockets by which front ends reach them, and what they are told of their links.
//!
//! A guest's link goes down by the end of its front end's session. That is the one way that works with every front end: QEMU keeps the
//! configuration of a vhost-user network device to itself, and takes the guest's carrier away while nobody is at the socket.

use sumeru_switch::vhost_net::NetState;
use sumeru_virtio::device::VirtioDevice;
use sumeru_virtio::vhost_user::Endpoint;

use super::{LivePort, Local, unknown};
use crate::dataplane::*;
use crate::model::{GuestLink, PortKind, PortSpec};

/// Makes a device reachable for front ends at the port's socket.
fn expose(spec: &PortSpec, device: Box<dyn VirtioDevice>) -> Done<Endpoint> {
    match &spec.kind {
        PortKind::VhostUser { socket, mode, .. } => super::expose(*mode, socket, device),
        _ => Err(unknown("guest", &spec.name)),
    }
}

/// A locally administered address for a port that none was given for; the same at every start.
fn made_up_mac(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0x73, 0x75, 0x6d, high, low]
}

impl Local {
    pub(super) fn open_guest(&mut self, spec: &PortSpec) -> Done<LivePort> {
        let PortKind::VhostUser { queues, .. } = &spec.kind else {
            return Err(unknown("guest", &spec.name));
        };
        let view = self.view(spec)?;
        let index = view.index;
        let mac = spec.mac.map_or_else(|| made_up_mac(index), |mac| mac.0);
        let switch = self.switch()?;
        let (device, state) = switch.add_guest(view, *queues, mac)?;
        let mut live = LivePort {
            spec: spec.clone(),
            endpoint: None,
            net: Some(state),
            mac,
        };
        // Before a guest can send anything.
        let isolated = switch.set_isolated(index, spec.flow_isolated);
        let exposed = isolated.map_err(Refusal::from).and_then(|()| {
            if self.wants_link(spec) {
                live.endpoint = Some(expose(spec, Box::new(device))?);
            }
            Ok(())
        });
        match exposed {
            Ok(()) => Ok(live),
            Err(refusal) => {
                self.switch()?.remove_port(index)?;
                Err(refusal)
            }
        }
    }

    /// Whether a guest's link is to be up now.
    fn wants_link(&self, spec: &PortSpec) -> bool {
        match spec.link.unwrap_or_default() {
            GuestLink::Up => true,
            GuestLink::Down => false,
            GuestLink::Uplink => {
                let uplink = self.node.uplink.as_ref();
                let uplink = uplink.and_then(|name| self.ports.get(name));
                let state = uplink.map(|port| self.wire_state(port, Vec::new()));
                state.and_then(Result::ok).is_some_and(|state| state.up)
            }
        }
    }

    /// Gives a guest the link that its port asks for.
    pub(super) fn settle_guest(&mut self, name: &str) -> Done {
        let Some(live) = self.ports.get(name) else {
            return Ok(());
        };
        let (PortKind::VhostUser { queues, .. }, Some(state)) = (&live.spec.kind, &live.net) else {
            return Ok(());
        };
        let wanted = self.wants_link(&live.spec);
        if wanted == live.endpoint.is_some() {
            return Ok(());
        }
        let endpoint = if wanted {
            let (spec, switch) = (&live.spec, self.switch_ref()?);
            let device = switch.guest_device(spec.index(), *queues, live.mac, spec.mtu, state);
            Some(expose(spec, Box::new(device))?)
        } else {
            None
        };
        tracing::info!(port = name, up = wanted, "a guest's link");
        if let Some(live) = self.ports.get_mut(name) {
            live.endpoint = endpoint;
        }
        Ok(())
    }

    /// Gives guests whose links follow the uplink's theirs.
    pub(super) fn follow_uplink(&mut self) {
        let follows = |port: &&LivePort| port.spec.link == Some(GuestLink::Uplink);
        let names: Vec<String> = self
            .ports
            .values()
            .filter(follows)
            .map(|port| port.spec.name.clone())
            .collect();
        for name in names {
            if let Err(error) = self.settle_guest(&name) {
                tracing::warn!(port = name, %error, "the guest's link stays as it is");
            }
        }
    }

    /// What a guest's port is doing.
    pub(super) fn guest_state(
        &self,
        port: &LivePort,
        net: &NetState,
        lcores: Vec<u16>,
    ) -> Done<PortState> {
        let queues = (net.running().count_ones() / 2) as u16;
        let up = queues > 0 && self.switch_ref()?.faults(port.spec.index()).is_empty();
        let link = port.spec.link.map(|_| LinkReport {
            up: port.endpoint.is_some(),
            speed_mbit: None,
        });
        Ok(PortState {
            up,
            connected: net.connected(),
            features: net.features(),
            queues,
            lcores,
            link,
            bond: None,
            syn_protection: None,
        })
    }
}

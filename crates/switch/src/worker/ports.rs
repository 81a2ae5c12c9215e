//! What control does to the ports of an lcore: they come and go, their queues are set up, the configuration changes. Never called between the
//! packets of a burst.

use std::os::fd::AsFd;
use std::sync::Arc;

use sumeru_engine::Watch;
use sumeru_virtio::eventfd::Eventfd;

use super::upkeep::allow_floods;
use super::{Source, SwitchWorker};
use crate::capture::Tap;
use crate::flow_export::Meter;
use crate::frame::PortIndex;
use crate::lane::bond::BondPort;
use crate::lane::queue::{EgressQueue, QueueReport};
use crate::lane::tunnel::known_geneve_options;
use crate::lane::{Attachment, LocalPort, Observers, RingPair};
use crate::mirror::Mirror;
use crate::ring::{Receiver, Sender};
use crate::rules::Parsing;
use crate::stats::{Drop, PortCounters};
use crate::wire::Wire;

/// UDP port of VXLAN where nothing else is said (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

impl SwitchWorker {
    /// Puts a port of a guest here, without queues yet.
    pub fn add_guest(&mut self, index: PortIndex, pairs: usize, counters: Arc<PortCounters>) {
        let pairs = (0..pairs).map(|_| RingPair::default()).collect();
        self.add(index, LocalPort::new(Attachment::Rings(pairs), counters));
    }

    /// Puts a wire port here.
    ///
    /// # Errors
    /// When its descriptor cannot be waited for.
    pub fn add_wire(
        &mut self,
        index: PortIndex,
        wire: Box<dyn Wire>,
        counters: Arc<PortCounters>,
        watch: &Watch,
    ) -> std::io::Result<()> {
        watch.add(wire.fd())?;
        self.add(index, LocalPort::new(Attachment::Wire(wire), counters));
        Ok(())
    }

    /// Puts a bond here.
    ///
    /// # Errors
    /// When a descriptor of its wires cannot be waited for.
    pub fn add_bond(
        &mut self,
        index: PortIndex,
        bond: BondPort,
        counters: Arc<PortCounters>,
        watch: &Watch,
    ) -> std::io::Result<()> {
        let wires = bond.wires();
        for (at, wire) in wires.iter().enumerate() {
            if let Err(error) = watch.add(wire.fd()) {
                wires[..at].iter().for_each(|wire| watch.remove(wire.fd()));
                return Err(error);
            }
        }
        self.add(
            index,
            LocalPort::new(Attachment::Bond(Box::new(bond)), counters),
        );
        Ok(())
    }

    fn add(&mut self, index: PortIndex, port: LocalPort) {
        let at = usize::from(index);
        if self.lane.ports.len() <= at {
            self.lane.ports.resize_with(at + 1, || None);
        }
        self.lane.ports[at] = Some(port);
        self.reconfigure();
    }

    /// Takes a port off; its rings and sockets are dropped here.
    pub fn remove(&mut self, index: PortIndex, watch: &Watch) {
        if let Some(port) = self
            .lane
            .ports
            .get_mut(usize::from(index))
            .and_then(Option::take)
        {
            port.attachment
                .wires()
                .iter()
                .for_each(|wire| watch.remove(wire.fd()));
            // They go with it.
            let waiting = port.queue().map_or(0, EgressQueue::backlog);
            let counters = &self.lane.counters;
            counters.dropped_many(Drop::PortDown.into(), waiting.into());
        }
        self.link.forget(index);
        self.reconfigure();
    }

    fn pair(&mut self, port: PortIndex, pair: usize) -> Option<&mut RingPair> {
        match &mut self.lane.port(port)?.attachment {
            Attachment::Rings(pairs) => pairs.get_mut(pair),
            Attachment::Wire(_) | Attachment::Bond(_) => None,
        }
    }

    /// Sets (or with `None` takes back) the queue that a guest transmits on. Answers the old one.
    pub fn set_sender(
        &mut self,
        port: PortIndex,
        pair: usize,
        sender: Option<Sender>,
        watch: &Watch,
    ) -> Option<Sender> {
        let slot = &mut self.pair(port, pair)?.sender;
        let mut old = std::mem::replace(slot, sender);
        if let Some(kick) = old.as_mut().and_then(|old| old.queue().kick().cloned()) {
            watch.remove(kick.as_fd());
        }
        if let Some(kick) = slot.as_mut().and_then(|new| new.queue().kick().cloned())
            && let Err(error) = watch.add(kick.as_fd())
        {
            tracing::warn!(port, pair, %error, "cannot wait for the guest's notifications; its queue is served while the lcore is awake");
        }
        self.list_sources();
        old
    }

    /// Sets (or takes back) the queue that a guest receives on. Answers the old one.
    pub fn set_receiver(
        &mut self,
        port: PortIndex,
        pair: usize,
        receiver: Option<Receiver>,
    ) -> Option<Receiver> {
        let slot = &mut self.pair(port, pair)?.receiver;
        std::mem::replace(slot, receiver)
    }

    /// Enables or disables one of a guest's queues; false when it is not here.
    pub fn set_enabled(
        &mut self,
        port: PortIndex,
        pair: usize,
        receive: bool,
        enabled: bool,
    ) -> bool {
        let Some(pair) = self.pair(port, pair) else {
            return false;
        };
        match (receive, &mut pair.sender, &mut pair.receiver) {
            (false, Some(sender), _) => sender.set_enabled(enabled),
            (true, _, Some(receiver)) => receiver.set_enabled(enabled),
            _ => return false,
        }
        true
    }

    /// Replaces the eventfd by which a queue's driver is notified; false when it is not here.
    pub fn set_call(
        &mut self,
        port: PortIndex,
        pair: usize,
        receive: bool,
        call: Option<Eventfd>,
    ) -> bool {
        let Some(pair) = self.pair(port, pair) else {
            return false;
        };
        match (receive, &mut pair.sender, &mut pair.receiver) {
            (false, Some(sender), _) => sender.queue().set_call(call),
            (true, _, Some(receiver)) => receiver.queue().set_call(call),
            _ => return false,
        }
        true
    }

    /// Gives a port another queue in front, or none. Answers the old one, empty.
    pub fn set_queue(
        &mut self,
        port: PortIndex,
        queue: Option<Box<EgressQueue>>,
    ) -> Option<Box<EgressQueue>> {
        self.lane.set_queue(port, queue)
    }

    /// What the queue in front of a port has seen; nothing without one.
    pub fn queue_report(&self, port: PortIndex) -> Vec<QueueReport> {
        let port = self.lane.ports.get(usize::from(port));
        let queue = port.and_then(Option::as_ref).and_then(LocalPort::queue);
        queue.map_or_else(Vec::new, EgressQueue::report)
    }

    /// Who looks at frames, to be changed; nobody if it is left empty.
    fn observe<R>(&mut self, change: impl FnOnce(&mut Observers) -> R) -> R {
        let mut observers = self.lane.observers.take().unwrap_or_default();
        let vxlan_port = self.snapshot.underlay.as_ref().map(|own| own.vxlan_port);
        observers.vxlan_port = vxlan_port.unwrap_or(VXLAN_PORT);
        let done = change(&mut observers);
        self.lane.observers = Some(observers).filter(|observers| !observers.is_empty());
        self.lane.mark_watched();
        done
    }

    /// Begins a capture under a number of its own.
    pub fn add_tap(&mut self, number: u64, tap: Tap) {
        self.observe(|observers| observers.taps.push((number, tap)));
    }

    /// Ends the capture of a number.
    pub fn remove_tap(&mut self, number: u64) {
        self.observe(|observers| observers.taps.retain(|(at, _)| *at != number));
    }

    /// Begins to meter flows under a number of its own.
    pub fn add_meter(&mut self, number: u64, meter: Meter) {
        self.observe(|observers| observers.meters.push((number, meter)));
    }

    /// Ends the meter of a number, which tells of all that it has.
    pub fn remove_meter(&mut self, number: u64) {
        self.observe(|observers| {
            let gone = observers.meters.extract_if(.., |(at, _)| *at == number);
            gone.for_each(|(_, meter)| meter.finish());
        });
    }

    /// Takes over the mirrors of a new configuration.
    fn set_mirrors(&mut self) {
        let mirrors: Vec<Mirror> = self.snapshot.mirrors.iter().map(Mirror::new).collect();
        self.observe(|observers| observers.mirrors = mirrors);
        self.resolve_mirrors();
    }

    /// Finds the ways to the collectors of mirrors.
    pub(super) fn resolve_mirrors(&mut self) {
        let Some(observers) = &mut self.lane.observers else {
            return;
        };
        for mirror in &mut observers.mirrors {
            mirror.resolve(&self.snapshot, &self.neighbours);
        }
    }

    /// Takes over a new configuration.
    pub(super) fn reconfigure(&mut self) {
        self.cache.invalidate();
        self.fdb.reconcile(&self.snapshot, self.now);
        self.neighbours.reconcile(&self.snapshot);
        self.residents.reconcile(&self.snapshot);
        self.announced.look_again();
        self.adopt_balancers();
        self.set_parsing();
        self.adopt_shields();
        self.lane.floods.clear();
        allow_floods(&mut self.lane.floods, &self.snapshot);
        self.set_mirrors();
        self.list_sources();
        // Neighbours that are new are asked at once.
        self.next_tick = self.started;
    }

    /// Takes over another version of the rules.
    #[cold]
    pub(super) fn adopt_rules(&mut self) {
        let view = &*self.rules;
        self.cache.adopt(view.rules.version());
        if view.generation != self.generation {
            self.generation = view.generation;
            self.cache.invalidate();
        }
        if view.tracks {
            self.make_connections();
        }
        let view = &*self.rules;
        if (view.rules.shape(), view.extracts) == (self.shape, self.parsing.extracts) {
            return;
        }
        self.shape = view.rules.shape();
        let parsing = Parsing::of(view);
        if parsing != self.parsing {
            self.parsing = parsing;
            self.cache.invalidate();
            self.set_parsing();
        }
    }

    /// How deep the frames of each port are looked into, and what is fetched from them.
    fn set_parsing(&mut self) {
        let vxlan_port = self
            .snapshot
            .underlay
            .as_ref()
            .map_or(VXLAN_PORT, |underlay| underlay.vxlan_port);
        for (index, port) in self.lane.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            let view = self.snapshot.port(index as PortIndex);
            // Ethernet header and one VLAN tag besides the MTU.
            port.max_frame = view.map_or(1500, |view| u32::from(view.mtu)) + 18;
            let uplink = view.is_some_and(|view| view.uplink);
            (port.network, port.uplink) = (view.and_then(|view| view.network), uplink);
            port.parse = self.parsing.options(vxlan_port, uplink);
            port.answers = !uplink;
        }
        self.lane.geneve_options = known_geneve_options(&self.snapshot, &self.parsing);
        if !self.parsing.extras {
            // The parser leaves alone what it does not fetch.
            for frame in self.lane.frames.iter_mut() {
                frame.key.clear_extras();
            }
        }
    }

    fn list_sources(&mut self) {
        self.sources.clear();
        for (index, port) in self.lane.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let port_index = index as PortIndex;
            match &port.attachment {
                Attachment::Wire(_) | Attachment::Bond(_) => {
                    let wires = port.attachment.wires().len();
                    self.sources.extend((0..wires).map(|pair| Source {
                        port: port_index,
                        pair,
                    }));
                }
                Attachment::Rings(pairs) => {
                    let with_sender = pairs
                        .iter()
                        .enumerate()
                        .filter(|(_, pair)| pair.sender.as_ref().is_some_and(Sender::is_served));
                    self.sources.extend(with_sender.map(|(pair, _)| Source {
                        port: port_index,
                        pair,
                    }));
                }
            }
        }
    }
}

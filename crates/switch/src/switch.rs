//! The switch as control holds it: ports, networks, rules, counters. It makes the snapshots and moves the ports to their lcores.
//!
//! Its caller is the one writer of the configuration; no method is called from an lcore.

mod batch;
mod connections;
mod links;
mod objects;
mod observe;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use sumeru_engine::publish::Publisher;
use sumeru_engine::{EngineError, Lcore, PollerId, Watch};
use sumeru_flow::PortRef;
use sumeru_flow::model::MeterError;

use crate::fdb::Entry;
use crate::frame::PortIndex;
use crate::link::LinkError;
use crate::qos::QosError;
use crate::ring::QueueFault;
use crate::rules::RuleError;
use crate::rules::queue::{FlowQueue, SharedRules, lock};
use crate::services::Services;
use crate::snapshot::{NetworkId, NetworkView, PortView, Snapshot, Underlay};
use crate::stats::{DropReason, PipelineCounters, PortCounters, Stage};
use crate::underlay::Neighbour;
use crate::vhost_net::{MAX_PAIRS, NetState, VhostNet};
use crate::wire::monitor::LinkMonitor;
use crate::wire::{Wire, WireError};
use crate::worker::{SwitchWorker, Traced};

pub use batch::{BatchError, NewRule};
pub use connections::OwnerMap;
pub use observe::{Capturing, DEPTH};

/// Most ports of a switch.
pub const MAX_PORTS: usize = 4096;
/// Ports behind them that the switch makes for itself.
pub const INTERNAL_PORTS: usize = 256;

/// Why the switch did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// An lcore is gone.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No lcore at all.
    #[error("a switch needs at least one lcore")]
    NoLcore,
    /// The port's number is taken or too large.
    #[error("port index {0} is taken or not below {MAX_PORTS}")]
    PortIndex(PortIndex),
    /// There is no such port.
    #[error("there is no port {0}")]
    UnknownPort(PortIndex),
    /// Number of queue pairs.
    #[error("{0} queue pairs, expected 1 to {MAX_PAIRS}")]
    Pairs(u16),
    /// A rule.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A meter's rates.
    #[error(transparent)]
    Meter(#[from] QosError),
    /// A meter's profile.
    #[error(transparent)]
    Profile(#[from] MeterError),
    /// A wire port's descriptor.
    #[error("cannot wait for frames on port {0}: {1}")]
    Watch(PortIndex, std::io::Error),
    /// A bond, or what LLDP is to say.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A wire port's interface.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The kernel tells nothing of links.
    #[error("cannot watch the links of wires: {0}")]
    Monitor(std::io::Error),
}

/// How to reach the switch's part on one lcore.
#[derive(Clone)]
pub struct WorkerHandle {
    lcore: Arc<Lcore>,
    id: PollerId<SwitchWorker>,
}

impl WorkerHandle {
    /// Runs `f` between two iterations of the lcore.
    ///
    /// # Errors
    /// When the lcore is gone.
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut SwitchWorker, &Watch) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let (id, cpu) = (self.id, self.lcore.cpu());
        let answer = self.lcore.call(move |local| {
            let watch = local.watch().clone();
            local.get(id).map(|worker| {
                worker.refresh();
                f(worker, &watch)
            })
        })?;
        answer.ok_or(EngineError::Gone(cpu))
    }

    /// Like [`Self::call`], but does not wait for it to have run.
    ///
    /// # Errors
    /// When the lcore is gone.
    pub fn send(
        &self,
        f: impl FnOnce(&mut SwitchWorker) + Send + 'static,
    ) -> Result<(), EngineError> {
        let id = self.id;
        self.lcore.send(move |local| {
            if let Some(worker) = local.get(id) {
                worker.refresh();
                f(worker);
            }
        })
    }

    /// The CPU it runs on.
    pub fn cpu(&self) -> usize {
        self.lcore.cpu()
    }
}

/// Where the counters of a port are, one block per lcore.
type PortBlocks = Vec<Arc<PortCounters>>;

/// A learned address: its network, where it is, and the seconds since it was seen.
pub type Learned = (NetworkId, [u8; 6], Entry, u32);

/// A queue that was stopped, by port and queue number.
pub type Faults = Arc<Mutex<BTreeMap<(PortIndex, usize), QueueFault>>>;

/// The switch.
pub struct Switch {
    workers: Vec<WorkerHandle>,
    publisher: Publisher<Snapshot>,
    rules: SharedRules,
    pipeline: Vec<Arc<PipelineCounters>>,
    ports: BTreeMap<PortIndex, PortBlocks>,
    faults: Faults,
    /// Once there is a wire.
    links: Option<LinkMonitor>,
    /// Captures and flow meters so far.
    observers: u64,
}

impl Switch {
    /// A switch without ports over these lcores.
    ///
    /// # Errors
    /// [`SwitchError::NoLcore`], or an lcore that is gone.
    pub fn new(lcores: &[Arc<Lcore>]) -> Result<Self, SwitchError> {
        let mut publisher = Publisher::new(Snapshot::default());
        let rules = SharedRules::default();
        let faults = Faults::default();
        let (report, reports) = mpsc::channel::<(PortIndex, usize, QueueFault)>();
        let mut workers = Vec::new();
        let mut pipeline = Vec::new();
        for lcore in lcores {
            let counters = Arc::new(PipelineCounters::default());
            let (subscriber, seen, block, report) = (
                publisher.subscribe(),
                lock(&rules).subscribe(),
                counters.clone(),
                report.clone(),
            );
            let id = lcore.call(move |local| {
                // The receiver is gone only when the switch is.
                let faults = Box::new(move |port, queue, fault| {
                    let _ = report.send((port, queue, fault));
                });
                local.add(SwitchWorker::new(subscriber, seen, block, faults))
            })?;
            workers.push(WorkerHandle {
                lcore: lcore.clone(),
                id,
            });
            pipeline.push(counters);
        }
        if workers.is_empty() {
            return Err(SwitchError::NoLcore);
        }
        let noted = faults.clone();
        // Ends when the last worker is dropped. Without the thread faults are still counted, only not named.
        let _ = std::thread::Builder::new()
            .name("switch-faults".into())
            .stack_size(128 << 10)
            .spawn(move || {
                for (port, queue, fault) in reports {
                    tracing::warn!(port, queue, %fault, "a guest's queue was stopped");
                    if let Ok(mut noted) = noted.lock() {
                        noted.insert((port, queue), fault);
                    }
                }
            });
        Ok(Self {
            workers,
            publisher,
            rules,
            pipeline,
            ports: BTreeMap::new(),
            faults,
            links: None,
            observers: 0,
        })
    }

    /// The configuration now.
    pub fn snapshot(&self) -> &Snapshot {
        self.publisher.current()
    }

    /// Changes the configuration: all lcores see it before the next frame.
    fn change(&mut self, change: impl FnOnce(&mut Snapshot)) -> Result<(), SwitchError> {
        let mut next = self.publisher.current().clone();
        change(&mut next);
        rebuild_membership(&mut next);
        self.publisher.publish(next);
        self.settle()?;
        self.publisher.reclaim();
        Ok(())
    }

    /// Makes changes of the rules visible: all lcores see them before the next frame.
    fn publish_rules(&mut self) -> Result<(), SwitchError> {
        lock(&self.rules).publish();
        self.settle()?;
        lock(&self.rules).reclaim();
        Ok(())
    }

    /// Returns when every lcore runs with what was published.
    fn settle(&self) -> Result<(), SwitchError> {
        for worker in &self.workers {
            worker.call(|_, _| ())?;
        }
        Ok(())
    }

    /// The lcore that polls a port. Frames that leave by a port are sent by the lcore they came in on, so all ports share one.
    fn owner(&self) -> &WorkerHandle {
        &self.workers[0]
    }

    /// Counters of a port that is to be added, with so many pairs of queues.
    fn blocks(&mut self, index: PortIndex, pairs: u16) -> Result<Arc<PortCounters>, SwitchError> {
        if self.ports.contains_key(&index) || usize::from(index) >= MAX_PORTS + INTERNAL_PORTS {
            return Err(SwitchError::PortIndex(index));
        }
        let block = Arc::new(PortCounters::with_pairs(pairs.into()));
        self.ports.insert(index, vec![block.clone()]);
        Ok(block)
    }

    /// Adds a port for a guest and returns its device, to be given to a transport.
    ///
    /// # Errors
    /// A number that is taken, too many queue pairs, an lcore that is gone.
    pub fn add_guest(
        &mut self,
        view: PortView,
        pairs: u16,
        mac: [u8; 6],
    ) -> Result<(VhostNet, Arc<NetState>), SwitchError> {
        if !(1..=MAX_PAIRS).contains(&pairs) {
            return Err(SwitchError::Pairs(pairs));
        }
        let (index, mtu) = (view.index, view.mtu);
        let counters = self.blocks(index, pairs)?;
        self.owner()
            .call(move |worker, _| worker.add_guest(index, usize::from(pairs), counters))?;
        self.change(|snapshot| put_port(snapshot, view))?;
        let state = Arc::new(NetState::default());
        Ok((self.guest_device(index, pairs, mac, mtu, &state), state))
    }

    /// Another device for a guest's port whose transport has ended, with the state that its first one had.
    pub fn guest_device(
        &self,
        index: PortIndex,
        pairs: u16,
        mac: [u8; 6],
        mtu: u16,
        state: &Arc<NetState>,
    ) -> VhostNet {
        let (worker, faults) = (self.owner().clone(), self.faults.clone());
        VhostNet::new(index, pairs, mac, mtu, worker, state.clone(), faults)
    }

    /// Adds a wire port.
    ///
    /// # Errors
    /// As [`Self::add_guest`]; a descriptor that cannot be waited for.
    pub fn add_wire(
        &mut self,
        view: PortView,
        wire: Box<dyn Wire + Send>,
    ) -> Result<(), SwitchError> {
        let index = view.index;
        let interface = wire.interface().map(|of| (0, of.name().to_owned()));
        let counters = self.blocks(index, 1)?;
        let added = self
            .owner()
            .call(move |worker, watch| worker.add_wire(index, wire, counters, watch))?;
        if let Err(error) = added {
            self.ports.remove(&index);
            return Err(SwitchError::Watch(index, error));
        }
        self.open(view, interface.as_slice())
    }

    /// Replaces what forwarding knows of a port: network, MTU, name.
    ///
    /// # Errors
    /// [`SwitchError::UnknownPort`].
    pub fn update_port(&mut self, view: PortView) -> Result<(), SwitchError> {
        if !self.ports.contains_key(&view.index) {
            return Err(SwitchError::UnknownPort(view.index));
        }
        self.change(|snapshot| put_port(snapshot, view))
    }

    /// Removes a port. A guest's transport must have ended before.
    ///
    /// # Errors
    /// [`SwitchError::UnknownPort`].
    pub fn remove_port(&mut self, index: PortIndex) -> Result<(), SwitchError> {
        self.ports
            .remove(&index)
            .ok_or(SwitchError::UnknownPort(index))?;
        if let Some(links) = &self.links {
            links.forget(index);
        }
        self.change(|snapshot| {
            if let Some(slot) = snapshot.ports.get_mut(usize::from(index)) {
                *slot = None;
            }
            snapshot.isolated.remove(&index);
        })?;
        self.owner()
            .call(move |worker, watch| worker.remove(index, watch))?;
        if let Ok(mut faults) = self.faults.lock() {
            faults.retain(|(port, _), _| *port != index);
        }
        Ok(())
    }

    /// Adds or replaces a network. Which ports are on it follows from the ports.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn set_network(&mut self, network: NetworkView) -> Result<(), SwitchError> {
        self.change(|snapshot| drop(snapshot.networks.insert(network.id, network)))
    }

    /// Removes a network.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn remove_network(&mut self, id: NetworkId) -> Result<(), SwitchError> {
        self.change(|snapshot| drop(snapshot.networks.remove(&id)))
    }

    /// Replaces what the switch itself does for the hosts of networks.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn set_services(
        &mut self,
        services: HashMap<NetworkId, Arc<Services>>,
    ) -> Result<(), SwitchError> {
        self.change(|snapshot| snapshot.services = services)
    }

    /// Sets or removes the node's tunnel end point.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn set_underlay(&mut self, underlay: Option<Underlay>) -> Result<(), SwitchError> {
        self.change(|snapshot| snapshot.underlay = underlay)
    }

    /// The port that a rule means.
    fn resolve(&self, wanted: &PortRef) -> Option<PortIndex> {
        let named = |view: &&PortView| {
            wanted.number() == Some(view.index.into()) || &*view.name == wanted.as_str()
        };
        let ports = &self.publisher.current().ports;
        ports.iter().flatten().find(named).map(|view| view.index)
    }

    /// What a rule counted: packets and bytes; zero without a count action.
    ///
    /// # Errors
    /// [`RuleError::Unknown`].
    pub fn rule_counts(&self, port: PortIndex, id: u32) -> Result<(u64, u64), SwitchError> {
        Ok(lock(&self.rules).counts(port, id)?)
    }

    /// A way to many rules at once, for a thread of its own.
    pub fn flow_queue(&self) -> FlowQueue {
        let workers = self.workers.clone();
        let wake = move || {
            for worker in &workers {
                // An lcore that is gone sees nothing; the queue's rules stay incomplete.
                let _ = worker.lcore.send(|_| ());
            }
        };
        FlowQueue::new(self.rules.clone(), Box::new(wake))
    }

    /// Frames that passed a stage, over all lcores.
    pub fn stage(&self, stage: Stage) -> u64 {
        self.pipeline
            .iter()
            .map(|counters| counters.stage(stage))
            .sum()
    }

    /// Frames dropped for a reason, over all lcores.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.pipeline
            .iter()
            .map(|counters| counters.drop_count(reason))
            .sum()
    }

    /// Frames received and sent by one lcore's part.
    pub fn lcore_packets(&self, number: usize) -> (u64, u64) {
        let stage = |stage| {
            self.pipeline
                .get(number)
                .map_or(0, |counters| counters.stage(stage))
        };
        (stage(Stage::Receive), stage(Stage::Transmit))
    }

    /// The counters of a port, one block per lcore.
    ///
    /// # Errors
    /// [`SwitchError::UnknownPort`].
    pub fn port_counters(&self, index: PortIndex) -> Result<&[Arc<PortCounters>], SwitchError> {
        self.ports
            .get(&index)
            .map(Vec::as_slice)
            .ok_or(SwitchError::UnknownPort(index))
    }

    /// Why queues of a port were stopped.
    pub fn faults(&self, index: PortIndex) -> Vec<(usize, QueueFault)> {
        let Ok(faults) = self.faults.lock() else {
            return Vec::new();
        };
        faults
            .range((index, 0)..=(index, usize::MAX))
            .map(|((_, queue), fault)| (*queue, *fault))
            .collect()
    }

    /// The CPU that polls the ports.
    pub fn port_cpu(&self) -> usize {
        self.owner().cpu()
    }

    /// Learned addresses with the seconds since they were seen.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn fdb(&self) -> Result<Vec<Learned>, SwitchError> {
        let (entries, now) = self.owner().call(|worker, _| worker.fdb())?;
        let aged = |(network, mac, entry): (NetworkId, [u8; 6], Entry)| {
            (network, mac, entry, now.saturating_sub(entry.seen))
        };
        Ok(entries.into_iter().map(aged).collect())
    }

    /// Neighbours on the underlay with the seconds since their last answer.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn neighbours(&self) -> Result<Vec<(IpAddr, Neighbour, u32)>, SwitchError> {
        let (neighbours, now) = self.owner().call(|worker, _| worker.neighbours())?;
        Ok(neighbours
            .into_iter()
            .map(|(address, n)| (address, n, now.saturating_sub(n.answered)))
            .collect())
    }

    /// Runs a frame through the pipeline without sending it.
    ///
    /// # Errors
    /// [`SwitchError::UnknownPort`].
    pub fn trace(&self, port: PortIndex, mut frame: Vec<u8>) -> Result<Traced, SwitchError> {
        if !self.ports.contains_key(&port) {
            return Err(SwitchError::UnknownPort(port));
        }
        Ok(self
            .owner()
            .call(move |worker, _| worker.trace(port, &mut frame))?)
    }
}

fn put_port(snapshot: &mut Snapshot, view: PortView) {
    let at = usize::from(view.index);
    if snapshot.ports.len() <= at {
        snapshot.ports.resize(at + 1, None);
    }
    snapshot.ports[at] = Some(view);
}

/// Which ports are on which network, from the ports.
fn rebuild_membership(snapshot: &mut Snapshot) {
    for network in snapshot.networks.values_mut() {
        let on_it = |view: &&PortView| view.network == Some(network.id);
        network.ports = snapshot
            .ports
            .iter()
            .flatten()
            .filter(on_it)
            .map(|view| view.index)
            .collect();
    }
}

//! What the control plane asks of a data plane, and what a data plane reports. The control plane
//! is its only caller and calls from one thread at a time. Objects arrive checked and in order:
//! a network before the ports on it, a volume before the controllers that serve it, a port before
//! its flow rules; and they go in the opposite order.
//!
//! Contract of every method that changes something: it either did all of it, or it refuses and
//! changed nothing. When it returns, every lcore has taken up the change or will before it handles
//! a packet or request that arrives later. None of them waits for a guest.

mod connections;
mod links;
mod objects;
mod observers;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;

use serde::Serialize;

use sumeru_flow::Rule;
use sumeru_flow::model::{IndirectAction, MeterProfile};

use sumeru_switch::probe::{Change as HealthChange, Vantage};

use crate::model::{Controller, Exporter, Flow, MeterSpec, Mirror, Network, Node, Port, Volume};
use crate::services::ServiceMap;
use crate::settings::SwitchSettings;
use crate::value::MacAddr;

pub use connections::*;
pub use links::*;
pub use objects::*;
pub use observers::*;

/// Why a data plane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A value is valid in itself, but not for this data plane.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// The field of the object.
        field: &'static str,
        /// Its value.
        found: String,
        /// What the data plane could do.
        expected: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {target}: {source}")]
    System {
        /// What was tried: "open", "bind", "attach to".
        action: &'static str,
        /// To what: a path, an interface.
        target: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The data plane cannot do this at all, or not to an object that is live.
    #[error("{what} is not supported here, expected {expected}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// What would work instead.
        expected: String,
    },
    /// A table is full.
    #[error("no room for another {what}, the limit is {limit}")]
    Full {
        /// What there are too many of.
        what: &'static str,
        /// How many there can be.
        limit: u64,
    },
    /// The thing asked about is not there.
    #[error("there is no {kind} {name}")]
    Unknown {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A room's own error, whose message names the fault and what was expected.
    #[error(transparent)]
    Inner(Box<dyn std::error::Error + Send + Sync>),
}

/// Result of everything asked of a data plane.
pub type Done<T = ()> = Result<T, Refusal>;

/// A rule with the port that it is on.
pub type PortFlow<'a> = (&'a Port, &'a Flow);

/// Rules that go and rules that come.
#[derive(Debug, Default)]
pub struct FlowChange<'a> {
    /// Rules to remove.
    pub destroy: Vec<PortFlow<'a>>,
    /// Rules to add.
    pub create: Vec<PortFlow<'a>>,
}

/// Why a data plane did not change rules: the first of them that it refused.
#[derive(Debug)]
pub struct FlowRefusal {
    /// Whether it is one of those to add, rather than to remove.
    pub creating: bool,
    /// Its place in its list.
    pub at: usize,
    /// What is wrong with it.
    pub refusal: Refusal,
}

/// Everything that is asked of a data plane. Names are those of the objects.
pub trait DataPlane: Send {
    /// First call of all: starts the lcores. Called once.
    fn start(&mut self, node: &Node) -> Done;
    /// Changes the node live. `new.spec.lcores` equals `old.spec.lcores`.
    fn update_node(&mut self, old: &Node, new: &Node) -> Done;
    /// Last call of all: stops traffic, disconnects front ends, waits for I/O in flight, joins the
    /// lcores, removes sockets it made.
    fn stop(&mut self);

    /// Makes a tenant network.
    fn create_network(&mut self, network: &Network) -> Done;
    /// Changes a network live; the VNI is the same in both.
    fn update_network(&mut self, old: &Network, new: &Network) -> Done;
    /// Removes a network that no port is on.
    fn delete_network(&mut self, network: &Network) -> Done;

    /// Makes a port. A vhost-user port in client mode succeeds before its front end is there.
    fn create_port(&mut self, port: &Port) -> Done;
    /// Changes network, MAC address, MTU, LLDP, shares or isolation of a live port; everything else is the same in both.
    fn update_port(&mut self, old: &Port, new: &Port) -> Done;
    /// Removes a port that has no flow rules, meters or indirect actions.
    fn delete_port(&mut self, port: &Port) -> Done;
    /// What a port is doing.
    fn port_state(&self, name: &str) -> Done<PortState>;

    /// Tells guests what their links do, where that follows others. Called about once a second.
    fn follow_links(&mut self);

    /// Whether the rule could be created now; changes nothing.
    fn validate_flow(&self, port: &Port, flow: &Flow) -> Done;
    /// Removes rules and adds others at once: no packet meets a part of the change. A new rule may have the name of one that goes.
    fn change_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal>;
    /// What a rule counted; zeroes for a rule without a count action.
    fn query_flow(&self, port: &Port, flow: &Flow) -> Done<FlowCount>;
    /// Rules and indirect actions of all ports that have grown old, in no order. Called about once a second, which is how use is noticed.
    fn aged_flows(&self) -> Done<Vec<AgedFlow>>;

    /// Makes a meter that rules of the port name.
    fn create_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done;
    /// Changes a meter; the rules that name it follow at once, and its counts stay.
    fn update_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done;
    /// Removes a meter that nothing names.
    fn destroy_meter(&mut self, port: &Port, id: u32) -> Done;
    /// What a meter has seen.
    fn query_meter(&self, port: &Port, id: u32) -> Done<MeterCount>;
    /// Makes an indirect action that rules of the port name.
    fn create_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done;
    /// Gives an indirect action other arguments; the rules that name it follow at once.
    fn update_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done;
    /// Removes an indirect action that nothing names.
    fn destroy_indirect(&mut self, port: &Port, id: u32) -> Done;
    /// What an indirect `count` has counted, or how old an indirect `age` is.
    fn query_indirect(&self, port: &Port, id: u32) -> Done<IndirectAnswer>;

    /// Adds a rule of the control plane's own; see [`RuleName`]. The port need not exist yet or any more.
    fn insert_rule(&mut self, rule: &NamedRule) -> Done;
    /// Removes one.
    fn remove_rule(&mut self, name: RuleName) -> Done;
    /// Makes or changes the meter of a number, or removes it.
    fn set_meter(&mut self, number: u32, profile: Option<&MeterProfile>) -> Done;
    /// Replaces rules by others: all or nothing. Meters that come or change do so before the rules, those that go after them.
    ///
    /// A data plane that can do it at once for every packet does; this default does one after the other, new rules first, so that
    /// nothing that was refused is let through in between, and takes back what it did if one is refused.
    fn replace_rules(&mut self, batch: RuleBatch<'_>) -> Done {
        one_by_one(self, batch)
    }
    /// Replaces what the switch itself does for the hosts of networks, by VXLAN network identifier.
    fn set_services(&mut self, services: &ServiceMap) -> Done;
    /// Probes the members of load balancers from these places from now on, and from no others. A data plane without probes believes that all are up.
    fn set_probes(&mut self, _: &[Vantage]) -> Done {
        Ok(())
    }
    /// What probes have found since this was asked last.
    fn health_changes(&mut self) -> Vec<HealthChange> {
        Vec::new()
    }
    /// Ends the connections of members of load balancers.
    fn end_members(&mut self, _: &[u16]) -> Done {
        Ok(())
    }
    /// How many connections members of load balancers have, in their order.
    fn member_connections(&self, _: &[u16]) -> Done<Vec<u32>> {
        Ok(Vec::new())
    }
    /// What the rules take.
    fn rule_stats(&self) -> RuleStats;

    /// Changes how connections are tracked. `ports` has the indexes of ports by name. The size of the connection table is that of the first call.
    fn set_tracking(&mut self, settings: &SwitchSettings, ports: &BTreeMap<String, u16>) -> Done;
    /// Connections that pass the filter, at most `limit`, from `cursor` on (0 at first).
    fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: u64,
        limit: usize,
    ) -> Done<ConnectionPage>;
    /// Ends the connections that pass the filter; answers how many.
    fn flush_connections(&mut self, filter: &ConnectionFilter) -> Done<u64>;
    /// Sums of the connections of every lcore.
    fn connection_stats(&self) -> Done<Vec<ConnectionStats>>;
    /// Appends the connections to a file; answers how many. To be called before [`Self::stop`], when nothing will be asked any more.
    fn save_connections(&mut self, file: File) -> Done<u64>;
    /// Reads connections from where a file stands; called before any port is made. `ports` says what index a port of then has now.
    fn restore_connections(
        &mut self,
        file: File,
        ports: BTreeMap<u16, u16>,
    ) -> Done<KeptConnections>;

    /// Opens a volume.
    fn create_volume(&mut self, volume: &Volume) -> Done;
    /// Changes the size of a volume; guests that use it are told. Only the size differs.
    fn resize_volume(&mut self, old: &Volume, new: &Volume) -> Done;
    /// Closes a volume that no controller serves.
    fn delete_volume(&mut self, volume: &Volume) -> Done;
    /// What a volume is doing.
    fn volume_state(&self, name: &str) -> Done<VolumeState>;

    /// Makes a virtio-blk device.
    fn create_controller(&mut self, controller: &Controller, volume: &Volume) -> Done;
    /// Removes a virtio-blk device; requests in flight are finished first.
    fn delete_controller(&mut self, controller: &Controller) -> Done;
    /// What a controller is doing.
    fn controller_state(&self, name: &str) -> Done<ControllerState>;

    /// Begins to copy frames.
    fn create_mirror(&mut self, mirror: &Mirror) -> Done;
    /// Changes a mirror.
    fn update_mirror(&mut self, old: &Mirror, new: &Mirror) -> Done {
        self.delete_mirror(old)?;
        self.create_mirror(new).inspect_err(|_| {
            // What was possible a moment ago is possible again; if not, the first refusal is what counts.
            let _ = self.create_mirror(old);
        })
    }
    /// Ends a mirror.
    fn delete_mirror(&mut self, mirror: &Mirror) -> Done;
    /// What a mirror is doing.
    fn mirror_state(&self, name: &str) -> Done<MirrorState>;

    /// Begins to tell a collector of flows.
    fn create_exporter(&mut self, exporter: &Exporter) -> Done;
    /// Changes an exporter: it tells of the flows that there are, and begins anew.
    fn update_exporter(&mut self, old: &Exporter, new: &Exporter) -> Done {
        self.delete_exporter(old)?;
        self.create_exporter(new).inspect_err(|_| {
            let _ = self.create_exporter(old);
        })
    }
    /// Ends an exporter; the flows that there are are told of before this returns.
    fn delete_exporter(&mut self, exporter: &Exporter) -> Done;
    /// What an exporter is doing.
    fn exporter_state(&self, name: &str) -> Done<ExporterState>;

    /// Counters of every lcore, in the order of the node's list.
    fn lcore_stats(&self) -> Vec<LcoreStats>;
    /// Counters of every port.
    fn port_stats(&self) -> Vec<PortStats>;
    /// Counters of every class in front of ports with a scheduler.
    fn queue_stats(&self) -> Vec<QueueStats>;
    /// Counters of every pipeline stage, in the order that a packet passes them.
    fn stage_stats(&self) -> Vec<StageStats>;
    /// How long frames stayed in the engine, by lcore; zeroes while that is not measured.
    fn residence_stats(&self) -> Vec<ResidenceStats>;
    /// Drops by reason; reasons that never happened are included with zero.
    fn drop_stats(&self) -> Vec<DropStats>;
    /// Counters of every volume.
    fn volume_stats(&self) -> Vec<VolumeStats>;

    /// Learned and static addresses of `network`, or of all.
    fn fdb(&self, network: Option<&str>) -> Vec<FdbEntry>;
    /// Underlay neighbours.
    fn neighbours(&self) -> Vec<Neighbour>;

    /// LLDP on every wire that speaks it.
    fn lldp(&self) -> Vec<LldpWire>;

    /// Runs one frame through the pipeline as if it had come in on `port`, without sending it,
    /// learning from it or counting it, and says each decision.
    fn trace(&mut self, port: &Port, frame: &[u8]) -> Done<Trace>;

    /// Starts writing frames to a pcapng file.
    fn capture_start(&mut self, capture: &Capture) -> Done;
    /// Ends a capture; the file is complete when this returns.
    fn capture_stop(&mut self, name: &str) -> Done<CaptureState>;
    /// Captures that run.
    fn captures(&self) -> Vec<CaptureState>;
}

/// A rule of the control plane's own, apart from those of objects: numbers from
/// [`FIRST_RULE_ID`](crate::policy::layout::FIRST_RULE_ID) on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// Index of the port whose frames it is about: those that come in (attribute `ingress`) or leave (`egress`);
    /// [`SHARED`](crate::policy::layout::SHARED) for a rule about frames of all ports (`transfer`).
    pub port: u16,
    /// Its number.
    pub id: u32,
}

/// A rule with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRule {
    /// The name; no two rules have one.
    pub name: RuleName,
    /// The rule.
    pub rule: Rule,
}

/// A meter that comes, changes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterChange {
    /// Its number.
    pub number: u32,
    /// As it is, if it is there.
    pub before: Option<MeterProfile>,
    /// As it shall be.
    pub after: Option<MeterProfile>,
}

/// Rules in place of others. Rules are made while they are asked for: there may be millions.
pub struct RuleBatch<'a> {
    /// What happens to meters.
    pub meters: &'a [MeterChange],
    /// Rules that come; their names are not taken, not even by rules that go.
    pub add: Box<dyn Iterator<Item = NamedRule> + 'a>,
    /// Rules that go, as they were added.
    pub remove: Box<dyn Iterator<Item = NamedRule> + 'a>,
}

/// [`DataPlane::replace_rules`] by single calls.
fn one_by_one<P: DataPlane + ?Sized>(plane: &mut P, batch: RuleBatch<'_>) -> Done {
    let mut done = Undo::default();
    let result = done.run(plane, batch);
    if result.is_err() {
        // What was possible a moment ago is possible again; if not, the first refusal is what counts.
        for rule in &done.removed {
            let _ = plane.insert_rule(rule);
        }
        for name in &done.added {
            let _ = plane.remove_rule(*name);
        }
        for meter in done.meters.iter().rev() {
            let _ = plane.set_meter(meter.number, meter.before.as_ref());
        }
    }
    result
}

/// What was done of a batch.
#[derive(Default)]
struct Undo {
    meters: Vec<MeterChange>,
    added: Vec<RuleName>,
    removed: Vec<NamedRule>,
}

impl Undo {
    fn run<P: DataPlane + ?Sized>(&mut self, plane: &mut P, batch: RuleBatch<'_>) -> Done {
        let (coming, going): (Vec<&MeterChange>, _) =
            batch.meters.iter().partition(|meter| meter.after.is_some());
        for meter in coming {
            plane.set_meter(meter.number, meter.after.as_ref())?;
            self.meters.push(*meter);
        }
        for rule in batch.add {
            plane.insert_rule(&rule)?;
            self.added.push(rule.name);
        }
        for rule in batch.remove {
            plane.remove_rule(rule.name)?;
            self.removed.push(rule);
        }
        for meter in going {
            plane.set_meter(meter.number, None)?;
            self.meters.push(*meter);
        }
        Ok(())
    }
}

/// What a port is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PortState {
    /// Whether frames can pass: front end connected and its rings enabled, or interface up.
    pub up: bool,
    /// vhost-user: whether a front end is connected. Others: the interface is open.
    pub connected: bool,
    /// vhost-user: virtio feature bits that were negotiated.
    pub features: u64,
    /// Queue pairs in use.
    pub queues: u16,
    /// CPU numbers of the lcores that poll it.
    pub lcores: Vec<u16>,
    /// What the link of its interface does; nothing for a guest's port and a bond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkReport>,
    /// What the links of a bond do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondState>,
    /// What the protection from floods of SYNs does, if the port has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_protection: Option<SynState>,
}

/// What the protection of a port from floods of SYNs does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SynState {
    /// Whether SYNs are answered with cookies now.
    pub active: bool,
    /// Times that it became so.
    pub floods: u64,
    /// SYNs that were answered with a cookie.
    pub cookies_sent: u64,
    /// Connections whose clients proved a cookie.
    pub cookies_valid: u64,
    /// Segments of no connection that proved no cookie, and were dropped.
    pub cookies_invalid: u64,
    /// Connections of such clients that the guest did not answer.
    pub unanswered: u64,
}

/// What a volume is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VolumeState {
    /// Size in bytes, as guests see it.
    pub size: u64,
}

/// What a controller is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ControllerState {
    /// Whether a front end is connected.
    pub connected: bool,
    /// Virtio feature bits that were negotiated.
    pub features: u64,
    /// Request queues in use.
    pub queues: u16,
    /// CPU numbers of the lcores that poll it.
    pub lcores: Vec<u16>,
}

/// What a rule counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FlowCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the Ethernet header on, without the frame check sequence.
    pub bytes: u64,
}

/// Counters of an lcore since it was started. Cycles are of the time-stamp counter; busy, idle
/// and sleep cycles add up to `tsc_elapsed` but for what passed since the last loop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LcoreStats {
    /// The CPU it is pinned to.
    pub cpu: u16,
    /// Thread id of the lcore, to find it in /proc.
    pub tid: u32,
    /// Frequency of the time-stamp counter.
    pub tsc_hz: u64,
    /// Cycles since the lcore was started.
    pub tsc_elapsed: u64,
    /// Cycles of loops that moved at least one packet or request.
    pub busy_cycles: u64,
    /// Cycles of loops that found nothing.
    pub idle_cycles: u64,
    /// Cycles asleep, waiting for a kick.
    pub sleep_cycles: u64,
    /// Turns of the loop.
    pub loops: u64,
    /// Turns that moved at least one packet or request: packets and requests over this are the mean batch.
    pub busy_loops: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Block requests completed.
    pub blk_ios: u64,
    /// Times that a kick ended a sleep.
    pub wakeups: u64,
    /// Its flow cache.
    #[serde(flatten)]
    pub cache: CacheStats,
}

/// Counters of a port. Directions are the switch's: rx comes in from the port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PortStats {
    /// Name of the port.
    pub port: String,
    /// Its index.
    pub index: u16,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that came in and were dropped.
    pub rx_drops: u64,
    /// Packets that should have gone out and were dropped.
    pub tx_drops: u64,
    /// Of these, those for which the guest had no free buffers.
    pub tx_full: u64,
    /// Malformed descriptors or frames.
    pub rx_errors: u64,
    /// Interrupts sent to the guest.
    pub calls: u64,
    /// SYNs to it that were answered with a cookie.
    pub syn_cookies_sent: u64,
    /// Connections whose clients proved a cookie.
    pub syn_cookies_valid: u64,
    /// Segments of no connection that proved no cookie, and were dropped.
    pub syn_cookies_invalid: u64,
    /// Connections of such clients that the guest did not answer.
    pub syn_cookies_unanswered: u64,
    /// Times that SYNs began to be answered with cookies.
    pub syn_floods: u64,
    /// Whether they are now: 1 or 0.
    pub syn_cookies_active: u64,
    /// Of a guest's port, each pair of its queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue_pairs: Vec<PairStats>,
}

/// Counters of a pair of a guest's queues: what it sends on virtqueue `2 * pair + 1` comes in (rx), what goes out to it (tx) it receives on `2 * pair`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PairStats {
    /// Which pair, from 0.
    pub pair: u16,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that should have gone out and were dropped.
    pub tx_drops: u64,
    /// Of these, those for which the queue had no free buffers.
    pub tx_full: u64,
}

/// Counter of a pipeline stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StageStats {
    /// Name of the stage.
    pub stage: String,
    /// Packets that passed it.
    pub packets: u64,
}

/// Counter of a drop reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DropStats {
    /// The reason, one word with dashes.
    pub reason: String,
    /// Packets dropped for it.
    pub packets: u64,
}

/// Counters of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VolumeStats {
    /// Name of the volume.
    pub volume: String,
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Discards and write-zeroes completed.
    pub discards: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Where a forwarding entry leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FdbTarget {
    /// A port of this node.
    Port(String),
    /// Behind a tunnel end point.
    Remote(IpAddr),
}

/// An entry of a network's forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FdbEntry {
    /// The network.
    pub network: String,
    /// The guest's address.
    pub mac: MacAddr,
    /// Where it leads.
    #[serde(flatten)]
    pub target: FdbTarget,
    /// Seconds since it was last seen; 0 for a static entry.
    pub age_s: u64,
    /// Whether it was configured rather than learned.
    #[serde(rename = "static")]
    pub is_static: bool,
}

/// State of a neighbour entry, in the words of RFC 4861 section 7.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NeighbourState {
    /// Asked for, no answer yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Answered a while ago; used, and asked again.
    Stale,
    /// Asked several times without an answer.
    Failed,
}

/// An underlay neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, once known.
    pub mac: Option<MacAddr>,
    /// How well it is known.
    pub state: NeighbourState,
    /// Seconds since the last answer.
    pub age_s: u64,
    /// Longest packet that gets there, in bytes, if a router told of less than the uplink's MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
}

/// What happened to a traced frame on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The decisions in order.
    pub steps: Vec<TraceStep>,
    /// Frames that would leave.
    pub outputs: Vec<TraceOutput>,
    /// Reason, if nothing would leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
}

/// One decision on a frame's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceStep {
    /// The stage that decided.
    pub stage: String,
    /// What it decided, and by which entry.
    pub decision: String,
}

/// A frame that would leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceOutput {
    /// Name of the port that it would leave by.
    pub port: String,
    /// The frame as it would be on that side, in hexadecimal.
    pub frame: String,
}

//! The engine of this process as a data plane: lcores, one switch, block devices, and the sockets that guests connect to.
//!
//! Translation only: what an object means to the rooms below. It decides no order and keeps no object; that is reconcile's.

mod capture;
mod disks;
mod flows;
mod guests;
mod ipfix;
mod networks;
mod objects;
mod observe;
mod probes;
mod report;
mod shaping;
mod tracking;
mod wires;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use sumeru_block::{Bdev, BlkMonitor};
use sumeru_engine::{EngineError, IdlePolicy, Lcore, LcoreConfig};
use sumeru_flow::model::{IndirectAction, MeterProfile};
use sumeru_switch::conntrack::Filter;
use sumeru_switch::probe::{Change as HealthChange, Vantage};
use sumeru_switch::shield::zone;
use sumeru_switch::snapshot::{PortView, Underlay};
use sumeru_switch::switch::{Switch, SwitchError};
use sumeru_switch::vhost_net::NetState;
use sumeru_switch::wire::WireError;
use sumeru_virtio::device::VirtioDevice;
use sumeru_virtio::vhost_user::{Endpoint, EndpointError};

use self::capture::Recorder;
use self::observe::LiveExporter;
use self::probes::Probes;
use crate::dataplane::*;
use crate::model::{
    Controller, Exporter, Flow, MeterSpec, Mirror, Network, NetworkSpec, Node, NodeSpec, Poll,
    Port, PortKind, PortSpec, SocketMode, Volume,
};
use crate::services::ServiceMap;
use crate::settings::SwitchSettings;

/// A port with what keeps it alive.
struct LivePort {
    spec: PortSpec,
    /// The front end's way in; before the port itself goes, this must have ended.
    endpoint: Option<Endpoint>,
    net: Option<Arc<NetState>>,
    mac: [u8; 6],
}

/// A volume that is open.
struct LiveVolume {
    bdev: Arc<dyn Bdev>,
    /// Counts of controllers that served it and are gone.
    past: VolumeStats,
}

/// A controller with what keeps it alive.
struct LiveController {
    endpoint: Endpoint,
    monitor: BlkMonitor,
    volume: String,
    cpus: Vec<u16>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Local {
    lcores: Vec<Arc<Lcore>>,
    switch: Option<Switch>,
    node: NodeSpec,
    networks: BTreeMap<String, NetworkSpec>,
    ports: BTreeMap<String, LivePort>,
    volumes: BTreeMap<String, LiveVolume>,
    controllers: BTreeMap<String, LiveController>,
    /// Requests by CPU that controllers of before completed.
    past_ios: HashMap<u16, u64>,
    captures: BTreeMap<String, Recorder>,
    exporters: BTreeMap<String, LiveExporter>,
    probes: Probes,
}

impl From<SwitchError> for Refusal {
    fn from(error: SwitchError) -> Self {
        Self::Inner(Box::new(error))
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Inner(Box::new(error))
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Inner(Box::new(error))
    }
}

impl From<EndpointError> for Refusal {
    fn from(error: EndpointError) -> Self {
        Self::Inner(Box::new(error))
    }
}

fn unknown(kind: &'static str, name: &str) -> Refusal {
    Refusal::Unknown {
        kind,
        name: name.to_owned(),
    }
}

/// Makes a device reachable for front ends.
fn expose(mode: SocketMode, socket: &str, device: Box<dyn VirtioDevice>) -> Done<Endpoint> {
    Ok(match mode {
        SocketMode::Server => Endpoint::listen(socket, device)?,
        SocketMode::Client => Endpoint::connect(socket, device)?,
    })
}

impl Local {
    fn switch(&mut self) -> Done<&mut Switch> {
        self.switch
            .as_mut()
            .ok_or(Refusal::Inner(Box::new(SwitchError::NoLcore)))
    }

    fn switch_ref(&self) -> Done<&Switch> {
        self.switch
            .as_ref()
            .ok_or(Refusal::Inner(Box::new(SwitchError::NoLcore)))
    }

    fn view(&self, spec: &PortSpec) -> Done<PortView> {
        let network = match &spec.network {
            None => None,
            Some(name) => Some(
                self.networks
                    .get(name)
                    .ok_or_else(|| unknown("network", name))?
                    .vni
                    .get(),
            ),
        };
        Ok(PortView {
            index: spec.index(),
            name: spec.name.as_str().into(),
            network,
            mtu: spec.mtu,
            uplink: spec.uplink,
            lldp: spec.speaks_lldp(self.node.lldp),
            shield: report::shield_of(spec),
        })
    }

    /// Ends what is kept of the connections of a port that is protected no more: whoever comes by the same addresses and ports later is not taken for one of them.
    fn forget_protected(&mut self, index: u16) -> Done {
        let of = Filter {
            zone: Some(zone(index)),
            ..Filter::default()
        };
        self.switch()?.flush_connections(&of)?;
        Ok(())
    }

    /// Tunnels start at the uplink that the node names, once it is there.
    fn settle_underlay(&mut self) -> Done {
        let uplink = self
            .node
            .uplink
            .as_ref()
            .and_then(|name| self.ports.get(name));
        let underlay = uplink
            .filter(|_| !self.node.underlay.is_empty())
            .map(|port| Underlay {
                port: port.spec.index(),
                mac: port.mac,
                addresses: self
                    .node
                    .underlay
                    .iter()
                    .map(|prefix| (prefix.address, prefix.length))
                    .collect(),
                vxlan_port: self.node.vxlan_port,
            });
        Ok(self.switch()?.set_underlay(underlay)?)
    }
}

impl DataPlane for Local {
    fn start(&mut self, node: &Node) -> Done {
        let spec = &node.spec;
        let spin = match spec.poll {
            Poll::Adaptive => Some(Duration::from_micros(spec.spin_us.into())),
            Poll::AlwaysSpin => None,
        };
        for cpu in &spec.lcores {
            let lcore = Lcore::start(LcoreConfig {
                cpu: (*cpu).into(),
                idle: IdlePolicy { spin },
            })?;
            self.lcores.push(Arc::new(lcore));
        }
        let first = self.lcores.get(..1).unwrap_or(&[]);
        let mut switch = Switch::new(first)?;
        switch.measure_residence(spec.residence)?;
        self.switch = Some(switch);
        self.node = spec.clone();
        Ok(())
    }

    fn update_node(&mut self, old: &Node, new: &Node) -> Done {
        if (old.spec.poll, old.spec.spin_us) != (new.spec.poll, new.spec.spin_us) {
            return Err(Refusal::Unsupported {
                what: "another poll mode while the lcores run".to_owned(),
                expected: "a restart of the daemon with the new value in its configuration"
                    .to_owned(),
            });
        }
        self.switch()?.measure_residence(new.spec.residence)?;
        self.node = new.spec.clone();
        if old.spec.lldp != new.spec.lldp {
            let specs: Vec<_> = self.ports.values().map(|port| port.spec.clone()).collect();
            for spec in specs {
                let view = self.view(&spec)?;
                self.switch()?.update_port(view)?;
            }
        }
        self.settle_underlay()?;
        self.settle_lldp(None)
    }

    fn stop(&mut self) {
        let captures: Vec<String> = self.captures.keys().cloned().collect();
        for name in captures {
            if let Err(error) = self.end_capture(&name) {
                tracing::error!(capture = %name, %error, "it was not ended");
            }
        }
        let exporters: Vec<String> = self.exporters.keys().cloned().collect();
        for name in exporters {
            if let Err(error) = self.end_exporter(&name) {
                tracing::error!(exporter = %name, %error, "its last flows are not told of");
            }
        }
        self.controllers.clear();
        for port in self.ports.values_mut() {
            port.endpoint = None;
        }
        self.ports.clear();
        self.volumes.clear();
        self.switch = None;
        self.lcores.clear();
    }

    fn create_network(&mut self, network: &Network) -> Done {
        self.switch()?.set_network(networks::view(&network.spec))?;
        self.networks
            .insert(network.spec.name.clone(), network.spec.clone());
        Ok(())
    }

    fn update_network(&mut self, _: &Network, new: &Network) -> Done {
        self.create_network(new)
    }

    fn delete_network(&mut self, network: &Network) -> Done {
        self.switch()?.remove_network(network.spec.vni.get())?;
        self.networks.remove(&network.spec.name);
        Ok(())
    }

    fn create_port(&mut self, port: &Port) -> Done {
        let spec = &port.spec;
        let live = match &spec.kind {
            PortKind::VhostUser { .. } => self.open_guest(spec)?,
            _ => self.open_wire(spec)?,
        };
        self.ports.insert(spec.name.clone(), live);
        if let Err(refusal) = self.shape(spec) {
            self.ports.remove(&spec.name);
            self.switch()?.remove_port(spec.index())?;
            return Err(refusal);
        }
        self.settle_underlay()?;
        self.settle_lldp(None)
    }

    fn update_port(&mut self, old: &Port, new: &Port) -> Done {
        let view = self.view(&new.spec)?;
        if old.spec.shaping != new.spec.shaping {
            self.shape(&new.spec)?;
        }
        let index = view.index;
        let switch = self.switch()?;
        switch.set_isolated(index, new.spec.flow_isolated)?;
        switch.update_port(view)?;
        if let Some(live) = self.ports.get_mut(&new.spec.name) {
            live.spec = new.spec.clone();
        }
        self.settle_guest(&new.spec.name)?;
        self.settle_lldp(None)
    }

    fn delete_port(&mut self, port: &Port) -> Done {
        self.settle_lldp(Some(&port.spec.name))?;
        // Ends the session first: its queues leave the lcore before the port does.
        self.ports
            .remove(&port.spec.name)
            .ok_or_else(|| unknown("port", &port.spec.name))?;
        self.switch()?.remove_port(port.spec.index())?;
        if report::shield_of(&port.spec).is_some() {
            self.forget_protected(port.spec.index())?;
        }
        self.settle_underlay()
    }

    fn port_state(&self, name: &str) -> Done<PortState> {
        let port = self.ports.get(name).ok_or_else(|| unknown("port", name))?;
        let lcores = vec![self.switch_ref()?.port_cpu() as u16];
        let state = match &port.net {
            None => self.wire_state(port, lcores)?,
            Some(net) => self.guest_state(port, net, lcores)?,
        };
        Ok(PortState {
            syn_protection: self.syn_state(port),
            ..state
        })
    }

    fn follow_links(&mut self) {
        self.follow_uplink();
    }

    fn validate_flow(&self, port: &Port, flow: &Flow) -> Done {
        self.switch_ref()?
            .compile(port.spec.index(), flow.spec.id(), &flow.spec.rule)?;
        Ok(())
    }

    fn change_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal> {
        self.exchange_flows(change)
    }

    fn query_flow(&self, port: &Port, flow: &Flow) -> Done<FlowCount> {
        let (packets, bytes) = self
            .switch_ref()?
            .rule_counts(port.spec.index(), flow.spec.id())?;
        Ok(FlowCount { packets, bytes })
    }

    fn aged_flows(&self) -> Done<Vec<AgedFlow>> {
        self.list_aged()
    }

    fn create_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        self.make_meter(port, id, meter)
    }

    fn update_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        self.alter_meter(port, id, meter)
    }

    fn destroy_meter(&mut self, port: &Port, id: u32) -> Done {
        Ok(self.switch()?.destroy_meter(port.spec.index(), id)?)
    }

    fn query_meter(&self, port: &Port, id: u32) -> Done<MeterCount> {
        self.count_meter(port, id)
    }

    fn create_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        self.make_indirect(port, id, action)
    }

    fn update_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        self.alter_indirect(port, id, action)
    }

    fn destroy_indirect(&mut self, port: &Port, id: u32) -> Done {
        Ok(self.switch()?.destroy_indirect(port.spec.index(), id)?)
    }

    fn query_indirect(&self, port: &Port, id: u32) -> Done<IndirectAnswer> {
        self.ask_indirect(port, id)
    }

    fn insert_rule(&mut self, rule: &NamedRule) -> Done {
        Ok(self
            .switch()?
            .insert_rule(rule.name.port, rule.name.id, &rule.rule)?)
    }

    fn remove_rule(&mut self, name: RuleName) -> Done {
        Ok(self.switch()?.remove_rule(name.port, name.id)?)
    }

    fn set_meter(&mut self, number: u32, profile: Option<&MeterProfile>) -> Done {
        self.change_meter(number, profile)
    }

    fn replace_rules(&mut self, batch: RuleBatch<'_>) -> Done {
        self.exchange_rules(batch)
    }

    fn set_services(&mut self, services: &ServiceMap) -> Done {
        Ok(self.switch()?.set_services(services.clone())?)
    }

    fn set_probes(&mut self, vantages: &[Vantage]) -> Done {
        self.probe_from(vantages)
    }

    fn health_changes(&mut self) -> Vec<HealthChange> {
        self.probes.changes()
    }

    fn end_members(&mut self, slots: &[u16]) -> Done {
        self.end_connections_of(slots)
    }

    fn member_connections(&self, slots: &[u16]) -> Done<Vec<u32>> {
        Ok(self.switch_ref()?.member_connections(slots)?)
    }

    fn rule_stats(&self) -> RuleStats {
        let sums = self.switch.as_ref().map(Switch::rule_sums);
        let (rules, bytes) = sums.unwrap_or_default();
        RuleStats { rules, bytes }
    }

    fn set_tracking(&mut self, settings: &SwitchSettings, ports: &BTreeMap<String, u16>) -> Done {
        self.apply_tracking(settings, ports)
    }

    fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: u64,
        limit: usize,
    ) -> Done<ConnectionPage> {
        self.list_connections(filter, cursor, limit)
    }

    fn flush_connections(&mut self, filter: &ConnectionFilter) -> Done<u64> {
        self.end_connections(filter)
    }

    fn connection_stats(&self) -> Done<Vec<ConnectionStats>> {
        self.report_connections()
    }

    fn save_connections(&mut self, file: File) -> Done<u64> {
        self.keep_connections(file)
    }

    fn restore_connections(
        &mut self,
        file: File,
        ports: BTreeMap<u16, u16>,
    ) -> Done<KeptConnections> {
        self.revive_connections(file, ports)
    }

    fn create_volume(&mut self, volume: &Volume) -> Done {
        self.open_volume(volume)
    }

    fn resize_volume(&mut self, _: &Volume, new: &Volume) -> Done {
        self.resize(new)
    }

    fn delete_volume(&mut self, volume: &Volume) -> Done {
        self.volumes
            .remove(&volume.spec.name)
            .map(|_| ())
            .ok_or_else(|| unknown("volume", &volume.spec.name))
    }

    fn volume_state(&self, name: &str) -> Done<VolumeState> {
        let volume = self
            .volumes
            .get(name)
            .ok_or_else(|| unknown("volume", name))?;
        Ok(VolumeState {
            size: volume.bdev.info().bytes(),
        })
    }

    fn create_controller(&mut self, controller: &Controller, volume: &Volume) -> Done {
        self.open_controller(controller, volume)
    }

    fn delete_controller(&mut self, controller: &Controller) -> Done {
        self.close_controller(&controller.spec.name)
    }

    fn controller_state(&self, name: &str) -> Done<ControllerState> {
        let controller = self
            .controllers
            .get(name)
            .ok_or_else(|| unknown("controller", name))?;
        let session = controller.endpoint.session();
        Ok(ControllerState {
            connected: session.is_some(),
            features: session.as_ref().map_or(0, |session| session.features),
            queues: session.map_or(0, |session| {
                session.queues.iter().filter(|queue| queue.running).count() as u16
            }),
            lcores: controller.cpus.clone(),
        })
    }

    fn lcore_stats(&self) -> Vec<LcoreStats> {
        self.report_lcores()
    }

    fn port_stats(&self) -> Vec<PortStats> {
        self.report_ports()
    }

    fn queue_stats(&self) -> Vec<QueueStats> {
        self.report_queues()
    }

    fn stage_stats(&self) -> Vec<StageStats> {
        self.report_stages()
    }

    fn residence_stats(&self) -> Vec<ResidenceStats> {
        self.report_residence()
    }

    fn drop_stats(&self) -> Vec<DropStats> {
        self.report_drops()
    }

    fn volume_stats(&self) -> Vec<VolumeStats> {
        self.report_volumes()
    }

    fn fdb(&self, network: Option<&str>) -> Vec<FdbEntry> {
        self.report_fdb(network)
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        self.report_neighbours()
    }

    fn lldp(&self) -> Vec<LldpWire> {
        self.report_lldp()
    }

    fn trace(&mut self, port: &Port, frame: &[u8]) -> Done<Trace> {
        let traced = self
            .switch_ref()?
            .trace(port.spec.index(), frame.to_vec())?;
        Ok(self.report_trace(traced))
    }

    fn capture_start(&mut self, capture: &Capture) -> Done {
        self.begin_capture(capture)
    }

    fn create_mirror(&mut self, mirror: &Mirror) -> Done {
        self.begin_mirror(&mirror.spec)
    }

    fn delete_mirror(&mut self, mirror: &Mirror) -> Done {
        self.end_mirror(&mirror.spec.name)
    }

    fn mirror_state(&self, name: &str) -> Done<MirrorState> {
        self.report_mirror(name)
    }

    fn create_exporter(&mut self, exporter: &Exporter) -> Done {
        self.begin_exporter(&exporter.spec)
    }

    fn delete_exporter(&mut self, exporter: &Exporter) -> Done {
        self.end_exporter(&exporter.spec.name)
    }

    fn exporter_state(&self, name: &str) -> Done<ExporterState> {
        self.report_exporter(name)
    }

    fn capture_stop(&mut self, name: &str) -> Done<CaptureState> {
        self.end_capture(name)
    }

    fn captures(&self) -> Vec<CaptureState> {
        self.captures.values().map(Recorder::state).collect()
    }
}

#[cfg(test)]
mod tests;

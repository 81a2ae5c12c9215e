//! A data plane that records what it is asked, and refuses what it is told to.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use sumeru_flow::model::IndirectAction;

use crate::dataplane::*;
use crate::dry::DryRun;
use crate::model::{
    Any, Controller, Exporter, Flow, MeterSpec, Mirror, Network, Node, Port, Volume,
};
use crate::services::ServiceMap;
use crate::settings::SwitchSettings;

/// What was asked of the data plane, and which asking it refuses.
#[derive(Default)]
pub(super) struct Log {
    pub(super) asked: Vec<String>,
    pub(super) refuse: Vec<String>,
    /// Changes of rules that went through.
    pub(super) batches: usize,
}

pub(super) struct Recorder {
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) inner: DryRun,
}

impl Recorder {
    fn ask(&self, text: String) -> Done {
        let mut log = self.log.lock().unwrap();
        let refused = log.refuse.contains(&text);
        log.asked.push(text.clone());
        if refused {
            return Err(Refusal::Unsupported {
                what: text,
                expected: "something else".into(),
            });
        }
        Ok(())
    }
}

macro_rules! recorded {
    ($($method:ident($($arg:ident: $ty:ty),*) $verb:literal $object:ident;)*) => {
        $(fn $method(&mut self, $($arg: $ty),*) -> Done {
            self.ask(format!("{} {}", $verb, Any::from($object.clone()).label()))?;
            self.inner.$method($($arg),*)
        })*
    };
}

impl DataPlane for Recorder {
    recorded! {
        start(node: &Node) "start" node;
        update_node(old: &Node, new: &Node) "change" new;
        create_network(network: &Network) "create" network;
        update_network(old: &Network, new: &Network) "change" new;
        delete_network(network: &Network) "delete" network;
        create_mirror(mirror: &Mirror) "create" mirror;
        delete_mirror(mirror: &Mirror) "delete" mirror;
        create_exporter(exporter: &Exporter) "create" exporter;
        delete_exporter(exporter: &Exporter) "delete" exporter;
        create_port(port: &Port) "create" port;
        update_port(old: &Port, new: &Port) "change" new;
        delete_port(port: &Port) "delete" port;
        create_volume(volume: &Volume) "create" volume;
        resize_volume(old: &Volume, new: &Volume) "change" new;
        delete_volume(volume: &Volume) "delete" volume;
        create_controller(controller: &Controller, volume: &Volume) "create" controller;
        delete_controller(controller: &Controller) "delete" controller;
    }

    fn change_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal> {
        let lists = [
            (false, "delete", &change.destroy),
            (true, "create", &change.create),
        ];
        for (creating, verb, list) in lists {
            for (at, (_, flow)) in list.iter().enumerate() {
                let asked = self.ask(format!("{verb} flow {}", flow.name()));
                asked.map_err(|refusal| FlowRefusal {
                    creating,
                    at,
                    refusal,
                })?;
            }
        }
        self.log.lock().unwrap().batches += 1;
        self.inner.change_flows(change)
    }
    fn set_services(&mut self, services: &ServiceMap) -> Done {
        self.ask("apply services".to_owned())?;
        self.inner.set_services(services)
    }
    fn rule_stats(&self) -> RuleStats {
        self.inner.rule_stats()
    }
    fn set_tracking(&mut self, settings: &SwitchSettings, ports: &BTreeMap<String, u16>) -> Done {
        self.inner.set_tracking(settings, ports)
    }
    fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: u64,
        limit: usize,
    ) -> Done<ConnectionPage> {
        self.inner.connections(filter, cursor, limit)
    }
    fn flush_connections(&mut self, filter: &ConnectionFilter) -> Done<u64> {
        self.inner.flush_connections(filter)
    }
    fn connection_stats(&self) -> Done<Vec<ConnectionStats>> {
        self.inner.connection_stats()
    }
    fn save_connections(&mut self, file: File) -> Done<u64> {
        self.inner.save_connections(file)
    }
    fn restore_connections(
        &mut self,
        file: File,
        ports: BTreeMap<u16, u16>,
    ) -> Done<KeptConnections> {
        self.inner.restore_connections(file, ports)
    }
    fn stop(&mut self) {
        self.inner.stop();
    }
    fn port_state(&self, name: &str) -> Done<PortState> {
        self.inner.port_state(name)
    }
    fn follow_links(&mut self) {
        self.inner.follow_links();
    }
    fn validate_flow(&self, port: &Port, flow: &Flow) -> Done {
        self.inner.validate_flow(port, flow)
    }
    fn query_flow(&self, port: &Port, flow: &Flow) -> Done<FlowCount> {
        self.inner.query_flow(port, flow)
    }
    fn aged_flows(&self) -> Done<Vec<AgedFlow>> {
        self.inner.aged_flows()
    }
    fn create_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        self.ask(format!("create meter {}/{id}", port.spec.name))?;
        self.inner.create_meter(port, id, meter)
    }
    fn update_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        self.ask(format!("change meter {}/{id}", port.spec.name))?;
        self.inner.update_meter(port, id, meter)
    }
    fn destroy_meter(&mut self, port: &Port, id: u32) -> Done {
        self.ask(format!("delete meter {}/{id}", port.spec.name))?;
        self.inner.destroy_meter(port, id)
    }
    fn query_meter(&self, port: &Port, id: u32) -> Done<MeterCount> {
        self.inner.query_meter(port, id)
    }
    fn create_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        self.ask(format!("create indirect {}/{id}", port.spec.name))?;
        self.inner.create_indirect(port, id, action)
    }
    fn update_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        self.ask(format!("change indirect {}/{id}", port.spec.name))?;
        self.inner.update_indirect(port, id, action)
    }
    fn destroy_indirect(&mut self, port: &Port, id: u32) -> Done {
        self.ask(format!("delete indirect {}/{id}", port.spec.name))?;
        self.inner.destroy_indirect(port, id)
    }
    fn query_indirect(&self, port: &Port, id: u32) -> Done<IndirectAnswer> {
        self.inner.query_indirect(port, id)
    }
    fn insert_rule(&mut self, rule: &NamedRule) -> Done {
        self.ask("insert rule".to_owned())?;
        self.inner.insert_rule(rule)
    }
    fn remove_rule(&mut self, name: RuleName) -> Done {
        self.ask("remove rule".to_owned())?;
        self.inner.remove_rule(name)
    }
    fn set_meter(
        &mut self,
        number: u32,
        profile: Option<&sumeru_flow::model::MeterProfile>,
    ) -> Done {
        self.ask("set meter".to_owned())?;
        self.inner.set_meter(number, profile)
    }
    fn volume_state(&self, name: &str) -> Done<VolumeState> {
        self.inner.volume_state(name)
    }
    fn controller_state(&self, name: &str) -> Done<ControllerState> {
        self.inner.controller_state(name)
    }
    fn lcore_stats(&self) -> Vec<LcoreStats> {
        self.inner.lcore_stats()
    }
    fn port_stats(&self) -> Vec<PortStats> {
        self.inner.port_stats()
    }
    fn stage_stats(&self) -> Vec<StageStats> {
        self.inner.stage_stats()
    }
    fn residence_stats(&self) -> Vec<ResidenceStats> {
        self.inner.residence_stats()
    }

    fn drop_stats(&self) -> Vec<DropStats> {
        self.inner.drop_stats()
    }
    fn volume_stats(&self) -> Vec<VolumeStats> {
        self.inner.volume_stats()
    }
    fn fdb(&self, network: Option<&str>) -> Vec<FdbEntry> {
        self.inner.fdb(network)
    }
    fn neighbours(&self) -> Vec<Neighbour> {
        self.inner.neighbours()
    }
    fn lldp(&self) -> Vec<LldpWire> {
        self.inner.lldp()
    }
    fn queue_stats(&self) -> Vec<QueueStats> {
        self.inner.queue_stats()
    }
    fn trace(&mut self, port: &Port, frame: &[u8]) -> Done<Trace> {
        self.inner.trace(port, frame)
    }
    fn mirror_state(&self, name: &str) -> Done<MirrorState> {
        self.inner.mirror_state(name)
    }
    fn exporter_state(&self, name: &str) -> Done<ExporterState> {
        self.inner.exporter_state(name)
    }
    fn capture_start(&mut self, capture: &Capture) -> Done {
        self.inner.capture_start(capture)
    }
    fn capture_stop(&mut self, name: &str) -> Done<CaptureState> {
        self.inner.capture_stop(name)
    }
    fn captures(&self) -> Vec<CaptureState> {
        self.inner.captures()
    }
}

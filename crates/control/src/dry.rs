//! A data plane that moves nothing: it keeps the names it was given, refuses what any data plane
//! would refuse, and reports zeroes. `sumeru daemon --dry-run` runs on it to try a configuration
//! and the API without privileges, and so do tests. It opens no file, socket or interface.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;

use sumeru_flow::Action;
use sumeru_flow::model::{IndirectAction, MeterProfile};

use crate::dataplane::*;
use crate::model::{
    Controller, Exporter, Flow, FlowObject, Kind, MeterSpec, Mirror, Network, Node, Port, Volume,
    named_objects,
};
use crate::services::ServiceMap;
use crate::settings::SwitchSettings;

/// A meter or indirect action of a port, by the port's index and its number.
type ObjectName = (FlowObject, u16, u32);

fn object_name((object, port, id): ObjectName) -> String {
    format!("{} {id} of port {port}", object.word())
}

/// What messages call a meter or indirect action.
fn user(object: FlowObject, port: &Port, id: u32) -> String {
    object_name((object, port.spec.index(), id))
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct DryRun {
    lcores: Vec<u16>,
    have: BTreeMap<(Kind, String), u64>,
    rules: BTreeSet<RuleName>,
    meters: BTreeSet<u32>,
    /// Meters and indirect actions of ports, these with what they do.
    objects: BTreeMap<ObjectName, Option<Action>>,
    /// What rules and indirect actions name, by what messages call them; only of those that name something.
    uses: BTreeMap<String, Vec<ObjectName>>,
    captures: BTreeMap<String, Capture>,
}

impl DryRun {
    fn add(&mut self, kind: Kind, name: String, number: u64) -> Done {
        match self.have.insert((kind, name.clone()), number) {
            None => Ok(()),
            Some(_) => Err(Refusal::Field {
                field: "name",
                found: name,
                expected: "a free name".to_owned(),
            }),
        }
    }

    fn need(&self, kind: Kind, name: &str) -> Done<u64> {
        let found = self.have.get(&(kind, name.to_owned())).copied();
        found.ok_or_else(|| Refusal::Unknown {
            kind: kind.word(),
            name: name.to_owned(),
        })
    }

    fn take(&mut self, kind: Kind, name: &str) -> Done {
        self.need(kind, name)?;
        self.have.remove(&(kind, name.to_owned()));
        Ok(())
    }

    fn add_object(
        &mut self,
        object: FlowObject,
        port: &Port,
        id: u32,
        action: Option<Action>,
    ) -> Done {
        self.need(Kind::Port, &port.spec.name)?;
        let name = (object, port.spec.index(), id);
        if self.objects.contains_key(&name) {
            return Err(Refusal::Field {
                field: "id",
                found: object_name(name),
                expected: "a free number".to_owned(),
            });
        }
        self.objects.insert(name, action);
        Ok(())
    }

    fn need_object(&self, object: FlowObject, port: &Port, id: u32) -> Done<Option<&Action>> {
        let name = (object, port.spec.index(), id);
        let found = self.objects.get(&name);
        found.map(Option::as_ref).ok_or_else(|| Refusal::Unknown {
            kind: object.word(),
            name: format!("{id} of port {}", port.spec.index()),
        })
    }

    fn take_object(&mut self, object: FlowObject, port: &Port, id: u32) -> Done {
        self.need_object(object, port, id)?;
        let name = (object, port.spec.index(), id);
        let users = self.uses.values().filter(|named| named.contains(&name));
        match users.count() {
            0 => {
                self.objects.remove(&name);
                Ok(())
            }
            users => Err(Refusal::Field {
                field: "id",
                found: object_name(name),
                expected: format!("one that nothing names, but {users} rules or objects do"),
            }),
        }
    }

    /// The meters and indirect actions that actions name, all of which must be there.
    fn named(&self, port: &Port, actions: &[Action]) -> Done<Vec<ObjectName>> {
        let mut named = Vec::new();
        named_objects(actions, &mut |object, id| named.push((object, id)));
        for (object, id) in &named {
            self.need_object(*object, port, *id)?;
        }
        let index = port.spec.index();
        Ok(named
            .into_iter()
            .map(|(object, id)| (object, index, id))
            .collect())
    }

    /// Takes note of what a rule names, or that it is gone.
    fn note_uses(&mut self, port: &Port, flow: &Flow, is_there: bool) {
        let user = format!("flow {}", flow.name());
        let named = self.named(port, &flow.spec.rule.actions);
        match named.unwrap_or_default() {
            named if is_there && !named.is_empty() => drop(self.uses.insert(user, named)),
            _ => drop(self.uses.remove(&user)),
        }
    }

    fn names(&self, kind: Kind) -> impl Iterator<Item = (&String, u64)> {
        self.have
            .iter()
            .filter(move |((k, _), _)| *k == kind)
            .map(|((_, name), number)| (name, *number))
    }
}

impl DataPlane for DryRun {
    fn start(&mut self, node: &Node) -> Done {
        self.lcores = node.spec.lcores.clone();
        Ok(())
    }

    fn update_node(&mut self, _old: &Node, _new: &Node) -> Done {
        Ok(())
    }

    fn stop(&mut self) {
        self.have.clear();
        self.objects.clear();
        self.uses.clear();
    }

    fn create_network(&mut self, network: &Network) -> Done {
        self.add(
            Kind::Network,
            network.name(),
            u64::from(network.spec.vni.get()),
        )
    }

    fn update_network(&mut self, old: &Network, _new: &Network) -> Done {
        self.need(Kind::Network, &old.spec.name).map(drop)
    }

    fn delete_network(&mut self, network: &Network) -> Done {
        self.take(Kind::Network, &network.spec.name)
    }

    fn create_port(&mut self, port: &Port) -> Done {
        if let Some(network) = &port.spec.network {
            self.need(Kind::Network, network)?;
        }
        self.add(Kind::Port, port.name(), u64::from(port.spec.index()))
    }

    fn update_port(&mut self, old: &Port, _new: &Port) -> Done {
        self.need(Kind::Port, &old.spec.name).map(drop)
    }

    fn delete_port(&mut self, port: &Port) -> Done {
        self.take(Kind::Port, &port.spec.name)
    }

    fn port_state(&self, name: &str) -> Done<PortState> {
        self.need(Kind::Port, name)?;
        Ok(PortState {
            lcores: self.lcores.clone(),
            ..PortState::default()
        })
    }

    fn follow_links(&mut self) {}

    fn validate_flow(&self, port: &Port, flow: &Flow) -> Done {
        self.need(Kind::Port, &port.spec.name)?;
        self.named(port, &flow.spec.rule.actions).map(drop)
    }

    fn change_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal> {
        let mut done: Vec<(bool, String)> = Vec::new();
        let destroyed = change.destroy.iter().map(|pair| (false, pair));
        let created = change.create.iter().map(|pair| (true, pair));
        for (creating, (port, flow)) in destroyed.chain(created) {
            let name = flow.name();
            let result = if creating {
                self.validate_flow(port, flow)
                    .and_then(|()| self.add(Kind::Flow, name.clone(), 0))
            } else {
                self.take(Kind::Flow, &name)
            };
            let Err(refusal) = result else {
                done.push((creating, name));
                continue;
            };
            let at = done.iter().filter(|(c, _)| *c == creating).count();
            for (created, name) in done.into_iter().rev() {
                if created {
                    self.have.remove(&(Kind::Flow, name));
                } else {
                    self.have.insert((Kind::Flow, name), 0);
                }
            }
            return Err(FlowRefusal {
                creating,
                at,
                refusal,
            });
        }
        for (is_there, list) in [(false, &change.destroy), (true, &change.create)] {
            for (port, flow) in list {
                self.note_uses(port, flow, is_there);
            }
        }
        Ok(())
    }

    fn query_flow(&self, _port: &Port, flow: &Flow) -> Done<FlowCount> {
        self.need(Kind::Flow, &flow.name())?;
        Ok(FlowCount::default())
    }

    fn aged_flows(&self) -> Done<Vec<AgedFlow>> {
        Ok(Vec::new())
    }

    fn create_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        meter
            .profile
            .validate()
            .map_err(|error| Refusal::Inner(Box::new(error)))?;
        self.add_object(FlowObject::Meter, port, id, None)
    }

    fn update_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        self.need_object(FlowObject::Meter, port, id)?;
        meter
            .profile
            .validate()
            .map_err(|error| Refusal::Inner(Box::new(error)))
    }

    fn destroy_meter(&mut self, port: &Port, id: u32) -> Done {
        self.take_object(FlowObject::Meter, port, id)
    }

    fn query_meter(&self, port: &Port, id: u32) -> Done<MeterCount> {
        self.need_object(FlowObject::Meter, port, id)?;
        Ok(MeterCount::default())
    }

    fn create_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        let named = self.named(port, std::slice::from_ref(&action.action))?;
        self.add_object(FlowObject::Indirect, port, id, Some(action.action.clone()))?;
        self.uses
            .insert(user(FlowObject::Indirect, port, id), named);
        Ok(())
    }

    fn update_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        let old = self.need_object(FlowObject::Indirect, port, id)?;
        if let Some(old) = old
            && old.name() != action.action.name()
        {
            return Err(Refusal::Field {
                field: "action",
                found: action.action.name().to_owned(),
                expected: format!("{}, as it was", old.name()),
            });
        }
        let named = self.named(port, std::slice::from_ref(&action.action))?;
        self.uses
            .insert(user(FlowObject::Indirect, port, id), named);
        Ok(())
    }

    fn destroy_indirect(&mut self, port: &Port, id: u32) -> Done {
        self.take_object(FlowObject::Indirect, port, id)?;
        self.uses.remove(&user(FlowObject::Indirect, port, id));
        Ok(())
    }

    fn query_indirect(&self, port: &Port, id: u32) -> Done<IndirectAnswer> {
        match self.need_object(FlowObject::Indirect, port, id)? {
            Some(Action::Count { .. }) => Ok(IndirectAnswer::Count(FlowCount::default())),
            Some(Action::Age { .. }) => Ok(IndirectAnswer::Age {
                aged: false,
                idle_s: 0,
            }),
            _ => Err(Refusal::Unsupported {
                what: "query of an indirect action that neither counts nor ages".to_owned(),
                expected: "an indirect count or age".to_owned(),
            }),
        }
    }

    fn insert_rule(&mut self, rule: &NamedRule) -> Done {
        rule.rule
            .validate()
            .map_err(|error| Refusal::Inner(Box::new(error)))?;
        match self.rules.insert(rule.name) {
            true => Ok(()),
            false => Err(Refusal::Field {
                field: "id",
                found: format!("{} of port {}", rule.name.id, rule.name.port),
                expected: "a free number".to_owned(),
            }),
        }
    }

    fn remove_rule(&mut self, name: RuleName) -> Done {
        match self.rules.remove(&name) {
            true => Ok(()),
            false => Err(Refusal::Unknown {
                kind: "rule",
                name: format!("{} of port {}", name.id, name.port),
            }),
        }
    }

    fn set_meter(&mut self, number: u32, profile: Option<&MeterProfile>) -> Done {
        match profile {
            Some(profile) => {
                profile
                    .validate()
                    .map_err(|error| Refusal::Inner(Box::new(error)))?;
                self.meters.insert(number);
            }
            None => {
                self.meters.remove(&number);
            }
        }
        Ok(())
    }

    fn set_services(&mut self, _: &ServiceMap) -> Done {
        Ok(())
    }

    fn rule_stats(&self) -> RuleStats {
        let rules = self.names(Kind::Flow).count() as u64;
        RuleStats { rules, bytes: 0 }
    }

    fn set_tracking(&mut self, _: &SwitchSettings, _: &BTreeMap<String, u16>) -> Done {
        Ok(())
    }

    fn connections(&self, _: &ConnectionFilter, _: u64, _: usize) -> Done<ConnectionPage> {
        Ok(ConnectionPage::default())
    }

    fn flush_connections(&mut self, _: &ConnectionFilter) -> Done<u64> {
        Ok(0)
    }

    fn connection_stats(&self) -> Done<Vec<ConnectionStats>> {
        Ok(Vec::new())
    }

    fn save_connections(&mut self, _: File) -> Done<u64> {
        Ok(0)
    }

    fn restore_connections(&mut self, _: File, _: BTreeMap<u16, u16>) -> Done<KeptConnections> {
        Ok(KeptConnections::default())
    }

    fn create_volume(&mut self, volume: &Volume) -> Done {
        self.add(
            Kind::Volume,
            volume.name(),
            volume.spec.kind.size().map_or(0, |s| s.bytes()),
        )
    }

    fn resize_volume(&mut self, old: &Volume, new: &Volume) -> Done {
        self.take(Kind::Volume, &old.spec.name)?;
        self.create_volume(new)
    }

    fn delete_volume(&mut self, volume: &Volume) -> Done {
        self.take(Kind::Volume, &volume.spec.name)
    }

    fn volume_state(&self, name: &str) -> Done<VolumeState> {
        Ok(VolumeState {
            size: self.need(Kind::Volume, name)?,
        })
    }

    fn create_controller(&mut self, controller: &Controller, volume: &Volume) -> Done {
        self.need(Kind::Volume, &volume.spec.name)?;
        self.add(Kind::Controller, controller.name(), 0)
    }

    fn delete_controller(&mut self, controller: &Controller) -> Done {
        self.take(Kind::Controller, &controller.spec.name)
    }

    fn controller_state(&self, name: &str) -> Done<ControllerState> {
        self.need(Kind::Controller, name)?;
        Ok(ControllerState {
            lcores: self.lcores.clone(),
            ..ControllerState::default()
        })
    }

    fn lcore_stats(&self) -> Vec<LcoreStats> {
        self.lcores
            .iter()
            .map(|cpu| LcoreStats {
                cpu: *cpu,
                ..LcoreStats::default()
            })
            .collect()
    }

    fn port_stats(&self) -> Vec<PortStats> {
        let stats = |(name, index): (&String, u64)| PortStats {
            port: name.clone(),
            index: u16::try_from(index).unwrap_or(u16::MAX),
            ..PortStats::default()
        };
        self.names(Kind::Port).map(stats).collect()
    }

    fn stage_stats(&self) -> Vec<StageStats> {
        Vec::new()
    }

    fn residence_stats(&self) -> Vec<ResidenceStats> {
        Vec::new()
    }

    fn drop_stats(&self) -> Vec<DropStats> {
        Vec::new()
    }

    fn volume_stats(&self) -> Vec<VolumeStats> {
        let stats = |(name, _): (&String, u64)| VolumeStats {
            volume: name.clone(),
            ..VolumeStats::default()
        };
        self.names(Kind::Volume).map(stats).collect()
    }

    fn fdb(&self, _network: Option<&str>) -> Vec<FdbEntry> {
        Vec::new()
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        Vec::new()
    }

    fn lldp(&self) -> Vec<LldpWire> {
        Vec::new()
    }

    fn queue_stats(&self) -> Vec<QueueStats> {
        Vec::new()
    }

    fn trace(&mut self, port: &Port, frame: &[u8]) -> Done<Trace> {
        self.need(Kind::Port, &port.spec.name)?;
        let hex = frame.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let step = TraceStep {
            stage: "rx".to_owned(),
            decision: format!("{} bytes: {hex}", frame.len()),
        };
        Ok(Trace {
            steps: vec![step],
            outputs: Vec::new(),
            drop_reason: Some("dry-run".to_owned()),
        })
    }

    fn create_mirror(&mut self, mirror: &Mirror) -> Done {
        self.add(Kind::Mirror, mirror.spec.name.clone(), 0)
    }

    fn delete_mirror(&mut self, mirror: &Mirror) -> Done {
        self.take(Kind::Mirror, &mirror.spec.name)
    }

    fn mirror_state(&self, name: &str) -> Done<MirrorState> {
        self.need(Kind::Mirror, name)?;
        Ok(MirrorState::default())
    }

    fn create_exporter(&mut self, exporter: &Exporter) -> Done {
        self.add(Kind::Exporter, exporter.spec.name.clone(), 0)
    }

    fn delete_exporter(&mut self, exporter: &Exporter) -> Done {
        self.take(Kind::Exporter, &exporter.spec.name)
    }

    fn exporter_state(&self, name: &str) -> Done<ExporterState> {
        self.need(Kind::Exporter, name)?;
        Ok(ExporterState::default())
    }

    fn capture_start(&mut self, capture: &Capture) -> Done {
        self.captures.insert(capture.name.clone(), capture.clone());
        Ok(())
    }

    fn capture_stop(&mut self, name: &str) -> Done<CaptureState> {
        let capture = self.captures.remove(name);
        let capture = capture.ok_or_else(|| Refusal::Unknown {
            kind: "capture",
            name: name.to_owned(),
        })?;
        Ok(CaptureState {
            capture,
            packets: 0,
            lost: 0,
            running: false,
        })
    }

    fn captures(&self) -> Vec<CaptureState> {
        let state = |c: &Capture| CaptureState {
            capture: c.clone(),
            packets: 0,
            lost: 0,
            running: true,
        };
        self.captures.values().map(state).collect()
    }
}

//! What flow rules name: meters and indirect actions of ports, what has grown old, and isolation. Meters and indirect actions are not stored. They go with
//! their port, and come back with it if its deletion is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use sumeru_flow::Action;
use sumeru_flow::model::IndirectAction;

use super::{Change, Control};
use crate::dataplane::{AgedFlow, AgedKind, Done, IndirectAnswer, MeterCount, Refusal};
use crate::error::Error;
use crate::event::What;
use crate::model::{
    Any, FlowObject, Kind, MeterSpec, Port, check_meter_id, check_meters, named_objects,
};
use crate::policy::layout::FIRST_RULE_ID;

/// Users that a message names.
const SHOWN: usize = 8;

/// What rules of one port can name.
#[derive(Debug, Clone, Default)]
pub(super) struct PortObjects {
    meters: BTreeMap<u32, MeterSpec>,
    indirect: BTreeMap<u32, IndirectAction>,
}

/// Meters and indirect actions by the names of their ports.
pub(super) type Objects = BTreeMap<String, PortObjects>;

fn label(object: FlowObject, port: &Port, id: u32) -> String {
    format!("{} {}/{id}", object.word(), port.spec.name)
}

fn refused(
    action: &'static str,
    object: FlowObject,
    port: &Port,
    id: u32,
) -> impl FnOnce(Refusal) -> Error {
    let object = label(object, port, id);
    move |refusal| Error::Refused {
        action,
        object,
        refusal,
    }
}

impl Control {
    fn objects_of(&self, port: &Port) -> Option<&PortObjects> {
        self.objects.get(&port.spec.name)
    }

    fn need<'a, T>(
        &'a self,
        object: FlowObject,
        port: &Port,
        id: u32,
        of: impl Fn(&'a PortObjects) -> &'a BTreeMap<u32, T>,
    ) -> Result<&'a T, Error> {
        let all = self.objects.get(&port.spec.name).map(of);
        let found = all.and_then(|all| all.get(&id));
        found.ok_or_else(|| Error::NoSuch {
            what: object.word(),
            name: format!("{}/{id}", port.spec.name),
            existing: all
                .into_iter()
                .flat_map(BTreeMap::keys)
                .take(16)
                .map(|id| format!("{}/{id}", port.spec.name))
                .collect(),
        })
    }

    fn free<T>(
        &self,
        object: FlowObject,
        port: &Port,
        id: u32,
        of: impl Fn(&PortObjects) -> &BTreeMap<u32, T>,
    ) -> Result<(), Error> {
        match self.objects_of(port).map(of) {
            Some(all) if all.contains_key(&id) => Err(Error::Taken {
                object: format!("port {}", port.spec.name),
                field: object.word(),
                found: id.to_string(),
                owner: label(object, port, id),
            }),
            _ => Ok(()),
        }
    }

    /// Why the data plane would not let go of something: who names it, if that is the reason.
    fn kept(&self, object: FlowObject, port: &Port, id: u32, refusal: Refusal) -> Error {
        let names = |actions: &[Action]| {
            let mut found = false;
            named_objects(actions, &mut |named, number| {
                found |= (named, number) == (object, id);
            });
            found
        };
        let flows = self.inventory.flows_of(&port.spec.name);
        let flows = flows.filter(|flow| names(&flow.spec.rule.actions));
        let indirect = self
            .objects_of(port)
            .into_iter()
            .flat_map(|of| &of.indirect);
        let indirect = indirect
            .filter(|(_, other)| names(std::slice::from_ref(&other.action)))
            .map(|(id, _)| label(FlowObject::Indirect, port, *id));
        let users: Vec<String> = indirect
            .chain(flows.map(|flow| format!("flow {}/{}", flow.spec.port, flow.spec.id())))
            .take(SHOWN)
            .collect();
        if users.is_empty() {
            return refused("destroy", object, port, id)(refusal);
        }
        Error::InUse {
            object: label(object, port, id),
            users,
        }
    }

    /// Makes a meter that rules of a port name.
    ///
    /// # Errors
    /// A number that is taken or of policies, a profile or policy that the data plane does not have.
    pub fn create_meter(&mut self, port: &str, id: u32, meter: MeterSpec) -> Result<(), Error> {
        let port = self.live_port(port)?.clone();
        let object = label(FlowObject::Meter, &port, id);
        check_meter_id(&object, "id", id)?;
        self.free(FlowObject::Meter, &port, id, |of| &of.meters)?;
        let done = self.plane.create_meter(&port, id, &meter);
        done.map_err(refused("create", FlowObject::Meter, &port, id))?;
        let of = self.objects.entry(port.spec.name.clone()).or_default();
        of.meters.insert(id, meter);
        self.events.note(What::Created, object, "");
        Ok(())
    }

    /// Gives a meter another profile and policy. The rules that name it follow at once, and its counts stay.
    ///
    /// # Errors
    /// There is no such meter; a profile or policy that the data plane does not have.
    pub fn update_meter(&mut self, port: &str, id: u32, meter: MeterSpec) -> Result<(), Error> {
        let port = self.live_port(port)?.clone();
        let object = label(FlowObject::Meter, &port, id);
        check_meter_id(&object, "id", id)?;
        self.need(FlowObject::Meter, &port, id, |of| &of.meters)?;
        let done = self.plane.update_meter(&port, id, &meter);
        done.map_err(refused("change", FlowObject::Meter, &port, id))?;
        let of = self.objects.entry(port.spec.name.clone()).or_default();
        of.meters.insert(id, meter);
        self.events.note(What::Changed, object, "");
        Ok(())
    }

    /// Destroys a meter.
    ///
    /// # Errors
    /// There is no such meter, or rules or indirect actions name it.
    pub fn destroy_meter(&mut self, port: &str, id: u32) -> Result<(), Error> {
        let port = self.live_port(port)?.clone();
        let object = label(FlowObject::Meter, &port, id);
        check_meter_id(&object, "id", id)?;
        self.need(FlowObject::Meter, &port, id, |of| &of.meters)?;
        if let Err(refusal) = self.plane.destroy_meter(&port, id) {
            return Err(self.kept(FlowObject::Meter, &port, id, refusal));
        }
        if let Some(of) = self.objects.get_mut(&port.spec.name) {
            of.meters.remove(&id);
        }
        self.events.note(What::Deleted, object, "");
        Ok(())
    }

    /// What a meter has seen.
    ///
    /// # Errors
    /// There is no such meter.
    pub fn query_meter(&self, port: &str, id: u32) -> Result<MeterCount, Error> {
        let port = self.live_port(port)?;
        check_meter_id(&label(FlowObject::Meter, port, id), "id", id)?;
        self.need(FlowObject::Meter, port, id, |of| &of.meters)?;
        let done = self.plane.query_meter(port, id);
        done.map_err(refused("query", FlowObject::Meter, port, id))
    }

    /// Meters of a port, or of all, by port and number. Those of policies are not among them.
    ///
    /// # Errors
    /// There is no such port.
    pub fn meters(&self, port: Option<&str>) -> Result<Vec<(&str, u32, &MeterSpec)>, Error> {
        let all = self.objects_at(port)?.into_iter();
        Ok(all
            .flat_map(|(port, of)| of.meters.iter().map(move |(id, meter)| (port, *id, meter)))
            .collect())
    }

    /// Makes an indirect action that rules of a port name; answers its number.
    ///
    /// # Errors
    /// A number that is taken, an action that the data plane does not have.
    pub fn create_indirect(&mut self, port: &str, action: IndirectAction) -> Result<u32, Error> {
        let port = self.live_port(port)?.clone();
        let id = match action.id {
            Some(id) => id,
            None => {
                let of = self.objects_of(&port);
                let highest = of.and_then(|of| of.indirect.keys().next_back());
                let free = highest.map_or(Some(0), |id| id.checked_add(1));
                free.ok_or_else(|| {
                    let object = format!("port {}", port.spec.name);
                    Error::fault(&object, "id", "missing", "a number that is free")
                })?
            }
        };
        let object = label(FlowObject::Indirect, &port, id);
        self.free(FlowObject::Indirect, &port, id, |of| &of.indirect)?;
        check_meters(&object, "action", std::slice::from_ref(&action.action))?;
        let action = IndirectAction {
            id: Some(id),
            ..action
        };
        let done = self.plane.create_indirect(&port, id, &action);
        done.map_err(refused("create", FlowObject::Indirect, &port, id))?;
        let of = self.objects.entry(port.spec.name.clone()).or_default();
        of.indirect.insert(id, action);
        self.events.note(What::Created, object, "");
        Ok(id)
    }

    /// Gives an indirect action other arguments: the rules that name it do the new thing at once.
    ///
    /// # Errors
    /// There is no such indirect action, or it is another kind of action; an action that the data plane does not have.
    pub fn update_indirect(&mut self, port: &str, id: u32, action: Action) -> Result<(), Error> {
        let port = self.live_port(port)?.clone();
        let object = label(FlowObject::Indirect, &port, id);
        let old = self.need(FlowObject::Indirect, &port, id, |of| &of.indirect)?;
        let action = IndirectAction {
            action,
            ..old.clone()
        };
        action.validate().map_err(|error| {
            let expected = format!("an action that makes sense: {error}");
            Error::fault(&object, "action", action.action.to_string(), expected)
        })?;
        check_meters(&object, "action", std::slice::from_ref(&action.action))?;
        let done = self.plane.update_indirect(&port, id, &action);
        done.map_err(refused("change", FlowObject::Indirect, &port, id))?;
        let of = self.objects.entry(port.spec.name.clone()).or_default();
        of.indirect.insert(id, action);
        self.events.note(What::Changed, object, "");
        Ok(())
    }

    /// Destroys an indirect action.
    ///
    /// # Errors
    /// There is no such indirect action, or rules name it.
    pub fn destroy_indirect(&mut self, port: &str, id: u32) -> Result<(), Error> {
        let port = self.live_port(port)?.clone();
        self.need(FlowObject::Indirect, &port, id, |of| &of.indirect)?;
        if let Err(refusal) = self.plane.destroy_indirect(&port, id) {
            return Err(self.kept(FlowObject::Indirect, &port, id, refusal));
        }
        if let Some(of) = self.objects.get_mut(&port.spec.name) {
            of.indirect.remove(&id);
        }
        let object = label(FlowObject::Indirect, &port, id);
        self.events.note(What::Deleted, object, "");
        Ok(())
    }

    /// What an indirect `count` has counted, or how old an indirect `age` is.
    ///
    /// # Errors
    /// There is no such indirect action, or it has nothing to tell.
    pub fn query_indirect(&self, port: &str, id: u32) -> Result<IndirectAnswer, Error> {
        let port = self.live_port(port)?;
        self.need(FlowObject::Indirect, port, id, |of| &of.indirect)?;
        let done = self.plane.query_indirect(port, id);
        done.map_err(refused("query", FlowObject::Indirect, port, id))
    }

    /// Indirect actions of a port, or of all, by port and number.
    ///
    /// # Errors
    /// There is no such port.
    pub fn indirect_actions(
        &self,
        port: Option<&str>,
    ) -> Result<Vec<(&str, u32, &IndirectAction)>, Error> {
        let all = self.objects_at(port)?.into_iter();
        Ok(all
            .flat_map(|(port, of)| {
                of.indirect
                    .iter()
                    .map(move |(id, action)| (port, *id, action))
            })
            .collect())
    }

    fn objects_at(&self, port: Option<&str>) -> Result<Vec<(&str, &PortObjects)>, Error> {
        let only = match port {
            Some(port) => Some(&self.inventory.port_by(port)?.spec.name),
            None => None,
        };
        let all = self.objects.iter();
        Ok(all
            .filter(|(name, _)| only.is_none_or(|only| only == *name))
            .map(|(name, of)| (name.as_str(), of))
            .collect())
    }

    /// Rules and indirect actions of a port that have grown old, by number; the rules are deleted if `destroy`, all or none.
    ///
    /// # Errors
    /// There is no such port; a rule that cannot be deleted.
    pub fn aged_flows(&mut self, port: &str, destroy: bool) -> Result<Vec<AgedFlow>, Error> {
        let port = self.live_port(port)?.clone();
        let name = &port.spec.name;
        let done = self.plane.aged_flows();
        let mut aged = done.map_err(|refusal| Error::Refused {
            action: "list aged flows of",
            object: format!("port {name}"),
            refusal,
        })?;
        aged.retain(|aged| {
            let by_hand = aged.kind == AgedKind::Indirect || aged.id < FIRST_RULE_ID;
            by_hand && aged.port == port.spec.index()
        });
        aged.sort_unstable();
        if destroy {
            let rules = aged.iter().filter(|aged| aged.kind == AgedKind::Rule);
            let changes = rules
                .map(|aged| {
                    let rule = format!("{name}/{}", aged.id);
                    let rule = self.inventory.require(Kind::Flow, &rule)?;
                    Ok(Change::Delete(rule.clone()))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            self.apply(changes)?;
        }
        Ok(aged)
    }

    /// Has only flow rules move a port's frames, or no longer (`rte_flow_isolate`). It is the field `flow_isolated` of the port.
    ///
    /// # Errors
    /// There is no such port.
    pub fn isolate(&mut self, port: &str, on: bool) -> Result<Any, Error> {
        let name = self.inventory.port_by(port)?.spec.name.clone();
        let fields = Map::from_iter([("flow_isolated".to_owned(), Value::from(on))]);
        self.update(Kind::Port, &name, &fields)
    }

    /// Looks what has been in use since the last look, so that nothing is called older than it is.
    pub(super) fn watch_ages(&self) {
        if let Err(error) = self.plane.aged_flows() {
            tracing::error!(%error, "the ages of flow rules are not watched");
        }
    }

    /// Makes a port, with the meters and indirect actions that it had if its deletion is taken back.
    pub(super) fn plane_create_port(&mut self, port: &Arc<Port>) -> Done {
        self.plane.create_port(port)?;
        self.restore_objects(port);
        Ok(())
    }

    /// Deletes a port with its meters and indirect actions. They are remembered until the call is through.
    pub(super) fn plane_delete_port(&mut self, port: &Arc<Port>) -> Done {
        let done = self
            .clear_objects(port)
            .and_then(|()| self.plane.delete_port(port));
        if done.is_err() {
            self.restore_objects(port);
        }
        done
    }

    /// Forgets what ports had that are gone.
    pub(super) fn forget_objects(&mut self, done: &[Change]) {
        for change in done {
            if let Change::Delete(Any::Port(port)) = change {
                self.objects.remove(&port.spec.name);
            }
        }
    }

    /// Indirect actions may name meters, but not the other way round.
    fn clear_objects(&mut self, port: &Port) -> Done {
        let Some(of) = self.objects.get(&port.spec.name) else {
            return Ok(());
        };
        let indirect = of.indirect.keys();
        for id in indirect {
            self.plane.destroy_indirect(port, *id)?;
        }
        for id in of.meters.keys() {
            self.plane.destroy_meter(port, *id)?;
        }
        Ok(())
    }

    /// Puts back what is not there. What cannot be put back is gone, and rules that name it will be out of service.
    fn restore_objects(&mut self, port: &Port) {
        let Some(mut of) = self.objects.remove(&port.spec.name) else {
            return;
        };
        let lost = |object, id, error: Refusal| {
            let object = label(object, port, id);
            tracing::error!(%object, %error, "lost: it could not be put back");
        };
        of.meters.retain(|id, meter| {
            let there = self.plane.query_meter(port, *id).is_ok();
            let done = if there {
                Ok(())
            } else {
                self.plane.create_meter(port, *id, meter)
            };
            done.map_err(|error| lost(FlowObject::Meter, *id, error))
                .is_ok()
        });
        of.indirect.retain(|id, action| {
            // One that is there still says so.
            let there = self.plane.update_indirect(port, *id, action).is_ok();
            let done = if there {
                Ok(())
            } else {
                self.plane.create_indirect(port, *id, action)
            };
            done.map_err(|error| lost(FlowObject::Indirect, *id, error))
                .is_ok()
        });
        self.objects.insert(port.spec.name.clone(), of);
    }
}

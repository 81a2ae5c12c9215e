//! The owner of everything: current objects, store, data plane. It is the only writer of the data
//! plane's configuration. A call is a list of changes; each is checked against the objects, done
//! by the data plane and noted; if one is refused, those before it are undone in reverse; when all
//! are done they are written to the store as one transaction, and undone if that fails.
//!
//! Calls are synchronous and come from one owner (a mutex or a thread of its own).

mod announce;
mod connections;
mod flows;
mod load;
mod objects;
mod policy;
mod restore;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::dataplane::{Capture, CaptureState, DataPlane, Trace};
use crate::decode::no_lines;
use crate::error::Error;
use crate::event::{Event, Events, What};
use crate::inventory::Inventory;
use crate::model::{Any, BlockSize, Kind, Marks, Origin, Port, Spec, VolumeSpec};
use crate::policy::Policy;
use crate::services::ServiceMap;
use crate::store::{Row, Store};
use crate::value::ByteSize;

pub use connections::{Setup, Tracking};
use flows::Runs;
pub use load::Loaded;
use objects::Objects;

/// One step of a call.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new object.
    Create(Any),
    /// An object in place of one of the same kind and name.
    Replace {
        /// As it is.
        old: Any,
        /// As it shall be.
        new: Any,
    },
    /// An object that goes.
    Delete(Any),
}

impl Change {
    fn inverse(self) -> Self {
        match self {
            Self::Create(any) => Self::Delete(any),
            Self::Replace { old, new } => Self::Replace { old: new, new: old },
            Self::Delete(any) => Self::Create(any),
        }
    }

    fn created(&self) -> Option<Any> {
        match self {
            Self::Create(any) => Some(any.clone()),
            _ => None,
        }
    }

    fn row(&self) -> Row<'_> {
        match self {
            Self::Create(new) | Self::Replace { new, .. } => Row::Put(new),
            Self::Delete(old) => Row::Remove(old),
        }
    }
}

/// The control plane of a node.
pub struct Control {
    inventory: Inventory,
    plane: Box<dyn DataPlane>,
    store: Store,
    events: Events,
    /// Objects that the data plane does not have, and why.
    failed: BTreeMap<(Kind, String), String>,
    /// Ports and controllers whose front end was connected at the last look.
    up: BTreeMap<String, bool>,
    policy: Policy,
    /// What the data plane does for hosts.
    services: ServiceMap,
    /// What rules name besides ports.
    objects: Objects,
    /// Why the rules of policies are not in place, if they are not. Ports that need them are out of service then.
    unsettled: Option<String>,
    setup: Setup,
    /// The rule out of service that was tried last, by name.
    retried: String,
}

impl Control {
    /// The current objects.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The data plane, to ask for states and counters.
    pub fn plane(&self) -> &dyn DataPlane {
        self.plane.as_ref()
    }

    /// Why an object is not in service, if it is not.
    pub fn failure(&self, any: &Any) -> Option<&str> {
        self.failed
            .get(&(any.kind(), any.name()))
            .map(String::as_str)
    }

    /// Events with a number above `since`, oldest first.
    pub fn events(&self, since: u64) -> impl Iterator<Item = &Event> {
        self.events.since(since)
    }

    /// Where objects survive a restart, if they do.
    pub fn store_path(&self) -> Option<&std::path::Path> {
        self.store.path()
    }

    /// Makes an object. Numbers that were left out are given.
    pub fn create(&mut self, object: Any) -> Result<Any, Error> {
        let object = self.inventory.number(object)?;
        let (kind, name) = (object.kind(), object.name());
        self.apply(vec![Change::Create(object)])?;
        self.inventory.require(kind, &name).cloned()
    }

    /// Changes fields of an object; a null takes a field back to its default.
    pub fn update(
        &mut self,
        kind: Kind,
        name: &str,
        fields: &Map<String, Value>,
    ) -> Result<Any, Error> {
        let old = match kind {
            Kind::Node => Any::Node(self.inventory.node().clone()),
            _ => self.inventory.require(kind, name)?.clone(),
        };
        let mut map = old.spec_map();
        for (key, value) in fields {
            map.insert(key.clone(), value.clone());
        }
        let marks = Marks {
            uuid: old.uuid(),
            generation: old.generation() + 1,
            origin: old.origin(),
            volatile: old.volatile(),
        };
        let new =
            Any::decode(kind, &old.label(), &map, &no_lines, marks).map_err(Error::Invalid)?;
        if new.name() != old.name() && kind != Kind::Node {
            return Err(fixed(&old, vec!["name".to_owned()]));
        }
        if new.spec_map() == old.spec_map() {
            return Ok(old);
        }
        self.apply(vec![Change::Replace {
            old,
            new: new.clone(),
        }])?;
        Ok(new)
    }

    /// Changes the size of a volume; guests that use it are told.
    pub fn resize(&mut self, name: &str, size: ByteSize) -> Result<Any, Error> {
        let mut fields = Map::new();
        fields.insert("size".to_owned(), Value::from(size.bytes()));
        self.inventory.require(Kind::Volume, name)?;
        self.update(Kind::Volume, name, &fields)
    }

    /// Deletes an object that nothing refers to.
    pub fn delete(&mut self, kind: Kind, name: &str) -> Result<(), Error> {
        let object = self.inventory.require(kind, name)?.clone();
        let users = match kind {
            Kind::SecurityGroup => self.inventory.groups_with(name),
            _ => Vec::new(),
        };
        if !users.is_empty() {
            return Err(Error::InUse {
                object: object.label(),
                users,
            });
        }
        self.apply(vec![Change::Delete(object)])
    }

    /// Follows one frame through the pipeline.
    pub fn trace(&mut self, port: &str, frame: &[u8]) -> Result<Trace, Error> {
        let port = self.live_port(port)?.clone();
        self.plane
            .trace(&port, frame)
            .map_err(refused("trace a packet through", &Any::Port(port)))
    }

    /// Starts a capture. Captures are not objects: they end with the daemon.
    pub fn capture_start(&mut self, mut capture: Capture) -> Result<Capture, Error> {
        for port in &mut capture.selection.ports {
            *port = self.live_port(port)?.spec.name.clone();
        }
        let object = format!("capture {}", capture.name);
        if self
            .plane
            .captures()
            .iter()
            .any(|c| c.capture.name == capture.name)
        {
            return Err(Error::fault(
                &object,
                "name",
                format!("{:?}, which runs", capture.name),
                "a name that is free",
            ));
        }
        let done = self.plane.capture_start(&capture);
        done.map_err(|refusal| Error::Refused {
            action: "start",
            object,
            refusal,
        })?;
        Ok(capture)
    }

    /// Ends a capture.
    pub fn capture_stop(&mut self, name: &str) -> Result<CaptureState, Error> {
        let object = format!("capture {name}");
        self.plane
            .capture_stop(name)
            .map_err(|refusal| Error::Refused {
                action: "stop",
                object,
                refusal,
            })
    }

    /// The port of a name or an index, if the data plane has it.
    fn live_port(&self, name: &str) -> Result<&Arc<Port>, Error> {
        let port = self.inventory.port_by(name)?;
        self.in_service(&Any::Port(port.clone()))?;
        Ok(port)
    }

    fn in_service(&self, any: &Any) -> Result<(), Error> {
        match self.failure(any) {
            None => Ok(()),
            Some(reason) => Err(Error::OutOfService {
                object: any.label(),
                reason: reason.to_owned(),
            }),
        }
    }

    /// Does all of the changes or none.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let policy = changes.iter().any(Change::touches_policy);
        let services = changes.iter().any(Change::touches_services);
        if policy {
            self.prepare_policy(&changes)?;
        }
        let mut done: Vec<Change> = Vec::with_capacity(changes.len());
        let mut result = Ok(());
        for run in Runs::of(changes) {
            result = self.step_run(&run, true);
            if result.is_err() {
                break;
            }
            done.extend(run);
        }
        let result = result
            .and_then(|()| self.inventory.check_whole())
            .and_then(|()| if policy { self.settle_policy() } else { Ok(()) })
            .and_then(|()| {
                if services {
                    self.settle_services()
                } else {
                    Ok(())
                }
            })
            .and_then(|()| {
                let rows: Vec<_> = done.iter().map(Change::row).collect();
                Ok(self.store.commit(&rows)?)
            });
        if let Err(error) = result {
            self.undo(done);
            if policy {
                self.resettle_policy();
            }
            if services {
                self.resettle_services();
            }
            return Err(error);
        }
        self.forget_objects(&done);
        if done.iter().any(|change| {
            matches!(
                change.row(),
                Row::Put(Any::Port(_)) | Row::Remove(Any::Port(_))
            )
        }) {
            self.follow_ports();
        }
        self.announce(&done);
        Ok(())
    }

    /// Checks one change, has the data plane do it, and notes it in the objects. What may change
    /// live is only asked on the way `forward`, not of a change that is taken back.
    fn step(&mut self, change: &Change, forward: bool) -> Result<(), Error> {
        match change {
            Change::Create(any) => {
                let (kind, name) = (any.kind(), any.name());
                if self.inventory.get(kind, &name).is_some() {
                    return Err(Error::Exists { kind, name });
                }
                self.inventory.admit(any)?;
                self.plane_create(any)?;
                self.inventory.put(any.clone());
            }
            Change::Replace { old, new } => {
                self.inventory.admit(new)?;
                if self.failed.contains_key(&(old.kind(), old.name())) {
                    // Nothing is live, so nothing is fixed.
                    self.plane_create(new)?;
                    self.recovered(new);
                } else {
                    if forward {
                        check_fixed(old, new)?;
                    }
                    self.plane_replace(old, new)?;
                }
                self.inventory.put(new.clone());
            }
            Change::Delete(any) => {
                let users = self.inventory.users_of(any);
                if !users.is_empty() {
                    return Err(Error::InUse {
                        object: any.label(),
                        users,
                    });
                }
                if self.failed.remove(&(any.kind(), any.name())).is_none() {
                    self.plane_delete(any)?;
                }
                self.inventory.remove(any);
                let (label, member) = (any.label(), format!("{} member ", any.label()));
                self.up
                    .retain(|object, _| *object != label && !object.starts_with(&member));
            }
        }
        Ok(())
    }

    /// Takes changes back, last first. What cannot be taken back is out of service, and said so.
    fn undo(&mut self, done: Vec<Change>) {
        for run in Runs::of(done.into_iter().rev().map(Change::inverse)) {
            self.take_back(run);
        }
    }

    fn take_back(&mut self, run: Vec<Change>) {
        let Err(error) = self.step_run(&run, false) else {
            return;
        };
        if run.len() > 1 {
            // One by one, so that only what cannot be taken back is out of service.
            run.into_iter()
                .for_each(|change| self.take_back(vec![change]));
            return;
        }
        for inverse in run {
            let (Change::Create(any) | Change::Replace { new: any, .. } | Change::Delete(any)) =
                inverse;
            tracing::error!(object = %any.label(), %error, "a refused change could not be taken back");
            self.mark_failed(
                &any,
                format!("a refused change could not be taken back: {error}"),
            );
            self.inventory.put(any);
        }
    }

    fn mark_failed(&mut self, any: &Any, reason: String) {
        self.events.note(What::Failed, any.label(), reason.clone());
        self.failed.insert((any.kind(), any.name()), reason);
    }

    fn recovered(&mut self, any: &Any) {
        self.failed.remove(&(any.kind(), any.name()));
        self.events.note(What::Recovered, any.label(), "");
    }

    fn plane_create(&mut self, any: &Any) -> Result<(), Error> {
        let done = match any {
            Any::Node(node) => self.plane.start(node),
            Any::Network(network) => self.plane.create_network(network),
            Any::Volume(volume) => self.plane.create_volume(volume),
            Any::Port(port) => {
                self.depends_on(
                    port.spec
                        .network
                        .as_deref()
                        .and_then(|n| self.inventory.get(Kind::Network, n)),
                )?;
                self.plane_create_port(port)
            }
            Any::Controller(controller) => {
                let volume = self.inventory.volume(&controller.spec.volume).cloned();
                let Some(volume) = volume else { return Ok(()) };
                self.in_service(&Any::Volume(volume.clone()))?;
                self.plane.create_controller(controller, &volume)
            }
            Any::Mirror(mirror) => self.plane.create_mirror(mirror),
            Any::Exporter(exporter) => self.plane.create_exporter(exporter),
            Any::Flow(_) => return self.plane_flows(&[], std::slice::from_ref(any)),
            // They are compiled and settled after all.
            Any::AddressSet(_)
            | Any::SecurityGroup(_)
            | Any::Blocklist(_)
            | Any::Isolation(_)
            | Any::Subnet(_)
            | Any::Router(_)
            | Any::FloatingIp(_)
            | Any::LoadBalancer(_) => Ok(()),
        };
        done.map_err(refused("create", any))
    }

    fn depends_on(&self, other: Option<&Any>) -> Result<(), Error> {
        other.map_or(Ok(()), |other| self.in_service(other))
    }

    fn plane_replace(&mut self, old: &Any, new: &Any) -> Result<(), Error> {
        let settled = new.kind().is_policy() || new.kind().is_service();
        if settled || old.spec_map() == new.spec_map() {
            // Policies are rules, which are settled after all, as services are; or only the marks differ, which are none of the data plane's business.
            return Ok(());
        }
        let done = match (old, new) {
            (Any::Node(old), Any::Node(new)) => self.plane.update_node(old, new),
            (Any::Network(old), Any::Network(new)) => self.plane.update_network(old, new),
            (Any::Volume(old), Any::Volume(new)) => self.plane.resize_volume(old, new),
            (Any::Port(old), Any::Port(new)) => {
                self.depends_on(
                    new.spec
                        .network
                        .as_deref()
                        .and_then(|n| self.inventory.get(Kind::Network, n)),
                )?;
                self.plane.update_port(old, new)
            }
            (Any::Mirror(old), Any::Mirror(new)) => self.plane.update_mirror(old, new),
            (Any::Exporter(old), Any::Exporter(new)) => self.plane.update_exporter(old, new),
            // Every field of controllers and flow rules is fixed, so only marks can differ.
            _ => Ok(()),
        };
        done.map_err(refused("change", new))
    }

    fn plane_delete(&mut self, any: &Any) -> Result<(), Error> {
        let done = match any {
            Any::Node(_) => Ok(()),
            Any::Network(network) => self.plane.delete_network(network),
            Any::Volume(volume) => self.plane.delete_volume(volume),
            Any::Port(port) => self.plane_delete_port(port),
            Any::Controller(controller) => self.plane.delete_controller(controller),
            Any::Mirror(mirror) => self.plane.delete_mirror(mirror),
            Any::Exporter(exporter) => self.plane.delete_exporter(exporter),
            Any::Flow(_) => return self.plane_flows(std::slice::from_ref(any), &[]),
            // They are compiled and settled after all.
            Any::AddressSet(_)
            | Any::SecurityGroup(_)
            | Any::Blocklist(_)
            | Any::Isolation(_)
            | Any::Subnet(_)
            | Any::Router(_)
            | Any::FloatingIp(_)
            | Any::LoadBalancer(_) => Ok(()),
        };
        done.map_err(refused("delete", any))
    }
}

fn refused(action: &'static str, any: &Any) -> impl FnOnce(crate::dataplane::Refusal) -> Error {
    let object = any.label();
    move |refusal| Error::Refused {
        action,
        object,
        refusal,
    }
}

fn fixed(any: &Any, fields: Vec<String>) -> Error {
    let expected = match any.origin() {
        _ if any.kind() == Kind::Node => "the daemon to be restarted with it",
        Origin::Config => "the object to be taken out of the file, loaded, and put in again",
        Origin::Api => "the object to be deleted and made anew",
    };
    Error::Fixed {
        object: any.label(),
        fields,
        expected,
    }
}

/// Refuses changes that a live object cannot follow.
fn check_fixed(old: &Any, new: &Any) -> Result<(), Error> {
    let (changed, fixed_fields) = match (old, new) {
        (Any::Node(a), Any::Node(b)) => differences(&a.spec, &b.spec),
        (Any::Network(a), Any::Network(b)) => differences(&a.spec, &b.spec),
        (Any::Volume(a), Any::Volume(b)) => {
            check_growth(&a.spec, &b.spec)?;
            differences(&a.spec, &b.spec)
        }
        (Any::Port(a), Any::Port(b)) => differences(&a.spec, &b.spec),
        (Any::Controller(a), Any::Controller(b)) => differences(&a.spec, &b.spec),
        (Any::Flow(a), Any::Flow(b)) => differences(&a.spec, &b.spec),
        _ => (Vec::new(), &[][..]),
    };
    let mut hit: Vec<String> = changed
        .into_iter()
        .filter(|c| fixed_fields.contains(&c.as_str()))
        .collect();
    if old.uuid() != new.uuid() {
        hit.push("uuid".to_owned());
    }
    if hit.is_empty() {
        Ok(())
    } else {
        Err(fixed(old, hit))
    }
}

fn differences<S: Spec>(old: &S, new: &S) -> (Vec<String>, &'static [&'static str]) {
    (old.changed(new), S::FIXED)
}

/// A volume grows, but does not shrink: what a guest has written at its end would be lost.
fn check_growth(old: &VolumeSpec, new: &VolumeSpec) -> Result<(), Error> {
    match (old.kind.size(), new.kind.size()) {
        (Some(a), Some(b)) if b < a => {
            let block = if new.block_size == BlockSize::B512 {
                "512"
            } else {
                "4096"
            };
            let expected = format!("at least its present size, {a}, in steps of {block} bytes");
            Err(Error::fault(
                &format!("volume {}", new.name),
                "size",
                b.to_string(),
                expected,
            ))
        }
        (Some(_), None) => {
            let object = format!("volume {}", new.name);
            Err(Error::fault(
                &object,
                "size",
                "left out",
                "the size of the live volume, or a larger one",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

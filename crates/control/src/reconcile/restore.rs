//! Start, regular work and end of the control plane: bringing stored and configured objects into
//! an empty data plane, trying again what it refused, watching links.

use std::collections::BTreeMap;

use super::load::difference;
use super::{Change, Control, Setup};
use crate::config::Entry;
use crate::dataplane::DataPlane;
use crate::error::Error;
use crate::event::{Events, What};
use crate::inventory::Inventory;
use crate::model::{Any, Kind, SynProtection};
use crate::store::{Row, Store};

/// Rules out of service that are tried again in one tick.
const RETRIES: usize = 1024;

impl Control {
    /// Starts a data plane with the objects of the store, changed by those of the file if there is
    /// one. Without a file, objects that came from a file stay as they were.
    ///
    /// An object that the data plane refuses does not keep the daemon from starting: it is kept,
    /// out of service, and tried again by [`Control::tick`]. A node that it refuses does.
    pub fn start(
        plane: Box<dyn DataPlane>,
        store: Store,
        stored: Vec<Any>,
        file: Option<Vec<Entry>>,
    ) -> Result<Self, Error> {
        Self::start_with(plane, store, stored, file, Setup::default())
    }

    /// The same with settings, and with the connections of the last run if they were kept.
    pub fn start_with(
        plane: Box<dyn DataPlane>,
        store: Store,
        stored: Vec<Any>,
        file: Option<Vec<Entry>>,
        setup: Setup,
    ) -> Result<Self, Error> {
        let mut control = Self {
            inventory: Inventory::default(),
            plane,
            store,
            events: Events::default(),
            failed: Default::default(),
            up: Default::default(),
            policy: Default::default(),
            services: Default::default(),
            objects: Default::default(),
            unsettled: None,
            setup,
            retried: String::new(),
        };
        let mut wanted = Inventory::default();
        let known_node = stored.iter().any(|o| o.kind() == Kind::Node);
        for object in stored {
            wanted.put(object);
        }
        if let Some(entries) = file {
            // Nothing is live yet, so the difference is a matter of the store alone.
            let changes = difference(&wanted, entries)?;
            for change in &changes {
                match change {
                    Change::Create(any) | Change::Replace { new: any, .. } => {
                        wanted.put(any.clone())
                    }
                    Change::Delete(any) => wanted.remove(any),
                }
            }
            let rows: Vec<Row<'_>> = changes.iter().map(Change::row).collect();
            control.store.commit(&rows)?;
        } else if !known_node {
            control
                .store
                .commit(&[Row::Put(&Any::Node(wanted.node().clone()))])?;
        }
        let node = Any::Node(wanted.node().clone());
        control.plane_create(&node)?;
        control.inventory.put(node);
        // Before the first frame can come.
        control.begin_policy(&wanted);
        control.start_tracking(&wanted)?;
        let (flows, others): (Vec<Any>, Vec<Any>) = wanted
            .all()
            .cloned()
            .partition(|any| any.kind() == Kind::Flow);
        for object in others {
            control.bring_in(object);
        }
        control.bring_in_flows(flows);
        control.resettle_services();
        Ok(control)
    }

    /// The same for all rules of the last run, which go in together.
    fn bring_in_flows(&mut self, flows: Vec<Any>) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for any in &flows {
            if let Any::Flow(flow) = any {
                *counts.entry(flow.spec.port.clone()).or_default() += 1;
            }
        }
        for (place, error) in self.plane_flows_each(&flows) {
            let Some(any @ Any::Flow(flow)) = flows.get(place) else {
                continue;
            };
            tracing::error!(object = %any.label(), %error, "out of service; it is tried again");
            self.mark_failed(any, error.to_string());
            counts
                .entry(flow.spec.port.clone())
                .and_modify(|count| *count -= 1);
        }
        for (port, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.tell_rules(
                What::Created,
                &port,
                count,
                " from the last run or the file",
            );
        }
        flows.into_iter().for_each(|any| self.inventory.put(any));
    }

    /// Puts one object of the last run into the data plane, or out of service.
    fn bring_in(&mut self, object: Any) {
        let done = self
            .inventory
            .admit(&object)
            .and_then(|()| self.policy_holds(&object))
            .and_then(|()| self.plane_create(&object));
        match done {
            Ok(()) => self.events.note(
                What::Created,
                object.label(),
                "from the last run or the file",
            ),
            Err(error) => {
                tracing::error!(object = %object.label(), %error, "out of service; it is tried again");
                self.mark_failed(&object, error.to_string());
            }
        }
        self.inventory.put(object);
    }

    /// Regular work, to be called about once a second: tries objects that are out of service again,
    /// notes links that came or went, keeps the store's good copy fresh.
    pub fn tick(&mut self) {
        if self.unsettled.is_some() {
            self.resettle_policy();
        }
        let failed: Vec<_> = self.failed.keys().cloned().collect();
        let mut flows = Vec::new();
        for (kind, name) in failed {
            let Some(object) = self.inventory.get(kind, &name).cloned() else {
                self.failed.remove(&(kind, name));
                continue;
            };
            if let Any::Flow(flow) = &object {
                // A rule waits for its port.
                let port = (Kind::Port, flow.spec.port.clone());
                if !self.failed.contains_key(&port) {
                    flows.push(object);
                }
                continue;
            }
            let done = self
                .inventory
                .admit(&object)
                .and_then(|()| self.policy_holds(&object))
                .and_then(|()| self.plane_create(&object));
            match done {
                Ok(()) => {
                    tracing::info!(object = %object.label(), "in service again");
                    self.recovered(&object);
                }
                Err(error) => {
                    self.failed.insert((kind, name), error.to_string());
                }
            }
        }
        // Some at a time, in turns: very many may be refused for one reason.
        let next = flows.partition_point(|any| any.name() <= self.retried);
        flows.rotate_left(next);
        flows.truncate(RETRIES);
        self.retried = flows.last().map(Any::name).unwrap_or_default();
        self.retry_flows(&flows);
        self.watch_links();
        self.watch_ages();
        self.watch_members();
        self.store.backup();
    }

    fn retry_flows(&mut self, flows: &[Any]) {
        let refused: BTreeMap<usize, Error> = self.plane_flows_each(flows).into_iter().collect();
        for (place, any) in flows.iter().enumerate() {
            match refused.get(&place) {
                Some(error) => {
                    self.failed
                        .insert((any.kind(), any.name()), error.to_string());
                }
                None => {
                    tracing::info!(object = %any.label(), "in service again");
                    self.recovered(any);
                }
            }
        }
    }

    fn watch_links(&mut self) {
        self.plane.follow_links();
        let mut now = Vec::new();
        let mut floods = Vec::new();
        for port in self.inventory.ports() {
            if let Ok(state) = self.plane.port_state(&port.spec.name) {
                let label = format!("port {}", port.spec.name);
                let auto = port.spec.protection.syn_protection == Some(SynProtection::Auto);
                if let Some(syn) = state.syn_protection.filter(|_| auto) {
                    floods.push((label.clone(), syn.active));
                }
                for member in state.bond.iter().flat_map(|bond| &bond.members) {
                    now.push((
                        format!("{label} member {}", member.interface),
                        member.link.up,
                    ));
                }
                now.push((label, state.up));
            }
        }
        for controller in self.inventory.of(Kind::Controller) {
            if let Ok(state) = self.plane.controller_state(&controller.name()) {
                now.push((controller.label(), state.connected));
            }
        }
        for (object, up) in now {
            let before = self.up.insert(object.clone(), up).unwrap_or(false);
            if up != before {
                let what = if up { What::Up } else { What::Down };
                tracing::info!(%object, "{what:?}");
                self.events.note(what, object, "");
            }
        }
        for (object, active) in floods {
            let key = format!("{object} flood");
            let before = self.up.insert(key, active).unwrap_or(false);
            let (what, detail) = match active {
                true => (What::Flooded, "SYNs are answered with cookies"),
                false => (What::Calm, "SYNs are not answered with cookies any more"),
            };
            if active != before {
                tracing::info!(%object, "{what:?}: {detail}");
                self.events.note(what, object, detail);
            }
        }
    }

    /// Last call: stops the data plane. Objects stay stored.
    pub fn stop(&mut self) {
        self.keep_connections();
        self.plane.stop();
        self.store.backup();
    }
}

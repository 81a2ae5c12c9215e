//! Flow rules, many at a time: what goes and what comes in one call reaches the data plane as one change.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::sync::Arc;

use super::{Change, Control, refused};
use crate::dataplane::{FlowChange, FlowCount, FlowRefusal};
use crate::error::Error;
use crate::model::{Any, Flow, Kind, Port};

/// Changes in runs: flow rules that go and then flow rules that come are one, everything else is a run of its own.
pub(super) struct Runs<I: Iterator<Item = Change>>(Peekable<I>);

impl<I: Iterator<Item = Change>> Runs<I> {
    pub(super) fn of(changes: impl IntoIterator<IntoIter = I>) -> Self {
        Self(changes.into_iter().peekable())
    }
}

impl<I: Iterator<Item = Change>> Iterator for Runs<I> {
    type Item = Vec<Change>;

    fn next(&mut self) -> Option<Vec<Change>> {
        let mut run = vec![self.0.next()?];
        while let Some(next) = self
            .0
            .next_if(|next| run.last().is_some_and(|last| joins(last, next)))
        {
            run.push(next);
        }
        Some(run)
    }
}

fn joins(last: &Change, next: &Change) -> bool {
    match (last, next) {
        (Change::Delete(Any::Flow(_)), Change::Delete(next) | Change::Create(next))
        | (Change::Create(Any::Flow(_)), Change::Create(next)) => next.kind() == Kind::Flow,
        _ => false,
    }
}

fn flow_of(any: &Any) -> Option<&Arc<Flow>> {
    match any {
        Any::Flow(flow) => Some(flow),
        _ => None,
    }
}

impl Control {
    /// Does a run of changes, or nothing of it.
    pub(super) fn step_run(&mut self, run: &[Change], forward: bool) -> Result<(), Error> {
        match run {
            [change] => self.step(change, forward),
            _ => self.step_flows(run),
        }
    }

    /// Flow rules that go and flow rules that come.
    fn step_flows(&mut self, run: &[Change]) -> Result<(), Error> {
        // Rules that go and that the data plane never had, with the reason.
        let mut out_of_service = HashMap::new();
        let mut noted = 0;
        let done = run
            .iter()
            .try_for_each(|change| {
                self.note_flow(change, &mut out_of_service)?;
                noted += 1;
                Ok(())
            })
            .and_then(|()| {
                let (mut destroy, mut create) = (Vec::new(), Vec::new());
                for change in run {
                    match change {
                        Change::Delete(any) if out_of_service.contains_key(&any.name()) => {}
                        Change::Delete(any) => destroy.push(any.clone()),
                        Change::Create(any) | Change::Replace { new: any, .. } => {
                            create.push(any.clone());
                        }
                    }
                }
                self.plane_flows(&destroy, &create)
            });
        if done.is_err() {
            for change in run.iter().take(noted).rev() {
                match change {
                    Change::Delete(any) => self.inventory.put(any.clone()),
                    Change::Create(any) | Change::Replace { new: any, .. } => {
                        self.inventory.remove(any);
                    }
                }
            }
            let again = out_of_service
                .into_iter()
                .map(|(name, reason)| ((Kind::Flow, name), reason));
            self.failed.extend(again);
        }
        done
    }

    /// Checks one rule and notes it in the objects.
    fn note_flow(
        &mut self,
        change: &Change,
        out_of_service: &mut HashMap<String, String>,
    ) -> Result<(), Error> {
        match change {
            Change::Delete(any) => {
                if let Some(reason) = self.failed.remove(&(Kind::Flow, any.name())) {
                    out_of_service.insert(any.name(), reason);
                }
                self.inventory.remove(any);
            }
            Change::Create(any) | Change::Replace { new: any, .. } => {
                let name = any.name();
                if self.inventory.get(Kind::Flow, &name).is_some() {
                    return Err(Error::Exists {
                        kind: Kind::Flow,
                        name,
                    });
                }
                self.inventory.admit(any)?;
                self.inventory.put(any.clone());
            }
        }
        Ok(())
    }

    /// Has the data plane remove rules and add others, all or none.
    pub(super) fn plane_flows(&mut self, destroy: &[Any], create: &[Any]) -> Result<(), Error> {
        let mut change = FlowChange::default();
        let mut ports: HashMap<&str, Arc<Port>> = HashMap::new();
        let mut live = HashSet::new();
        if destroy.is_empty() && create.is_empty() {
            return Ok(());
        }
        for (creating, list) in [(false, destroy), (true, create)] {
            for flow in list.iter().filter_map(flow_of) {
                let name = flow.spec.port.as_str();
                if !ports.contains_key(name) {
                    ports.insert(name, self.inventory.port_by(name)?.clone());
                }
                if creating && live.insert(name) {
                    self.live_port(name)?;
                }
            }
        }
        let with_port = |any| {
            let flow = flow_of(any)?;
            Some((&**ports.get(flow.spec.port.as_str())?, &**flow))
        };
        change.destroy.extend(destroy.iter().filter_map(with_port));
        change.create.extend(create.iter().filter_map(with_port));
        let done = self.plane.change_flows(&change);
        done.map_err(
            |FlowRefusal {
                 creating,
                 at,
                 refusal,
             }| {
                let (action, list) = match creating {
                    true => ("create", create),
                    false => ("delete", destroy),
                };
                match list.get(at) {
                    Some(any) => refused(action, any)(refusal),
                    None => Error::Refused {
                        action,
                        object: "flow rules".to_owned(),
                        refusal,
                    },
                }
            },
        )
    }

    /// Puts rules into the data plane, as many of them as it takes; answers those it refuses, by their places, and why.
    pub(super) fn plane_flows_each(&mut self, flows: &[Any]) -> Vec<(usize, Error)> {
        let mut refused = Vec::new();
        // Halves of what was refused: each rule is tried as often as the list can be halved, whatever is wrong with how many.
        let mut open = vec![(0, flows)];
        while let Some((first, part)) = open.pop() {
            let admitted = part.iter().try_for_each(|any| self.inventory.admit(any));
            match admitted.and_then(|()| self.plane_flows(&[], part)) {
                Ok(()) => {}
                Err(error) if part.len() < 2 => refused.push((first, error)),
                Err(_) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    open.push((first + left.len(), right));
                    open.push((first, left));
                }
            }
        }
        refused
    }

    /// Makes rules and deletes others, all or none: no packet meets a part of it. A new rule may take the number of one that goes. Numbers that were left out
    /// are given. Answers the rules that were made.
    ///
    /// # Errors
    /// The first rule at fault; nothing has changed then.
    pub fn change_flows(
        &mut self,
        create: Vec<Any>,
        destroy: &[(String, u32)],
    ) -> Result<Vec<Any>, Error> {
        let mut changes = Vec::with_capacity(create.len() + destroy.len());
        let mut leaving = HashSet::new();
        for (port, id) in destroy {
            let name = format!("{}/{id}", self.inventory.port_by(port)?.spec.name);
            let flow = self.inventory.require(Kind::Flow, &name)?.clone();
            if !leaving.insert(name) {
                return Err(Error::fault(
                    &flow.label(),
                    "destroy",
                    "named twice",
                    "every rule once",
                ));
            }
            changes.push(Change::Delete(flow));
        }
        let numbered = self.inventory.number_flows(create)?;
        changes.extend(numbered.into_iter().map(Change::Create));
        let made: Vec<Any> = changes.iter().filter_map(Change::created).collect();
        self.apply(changes)?;
        Ok(made)
    }

    /// Deletes every flow rule of a port; all or none.
    pub fn flush_flows(&mut self, port: &str) -> Result<usize, Error> {
        let port = self.inventory.port_by(port)?.clone();
        let flows: Vec<_> = self
            .inventory
            .flows_of(&port.spec.name)
            .cloned()
            .map(Any::Flow)
            .collect();
        let count = flows.len();
        self.apply(flows.into_iter().map(Change::Delete).collect())?;
        Ok(count)
    }

    /// Whether a rule could be made now; changes nothing.
    pub fn validate_flow(&self, object: Any) -> Result<(), Error> {
        let object = self.inventory.number(object)?;
        self.inventory.admit(&object)?;
        let Any::Flow(flow) = &object else {
            return Ok(());
        };
        let port = self.live_port(&flow.spec.port)?;
        self.plane
            .validate_flow(port, flow)
            .map_err(refused("create", &object))
    }

    /// What a rule counted.
    pub fn query_flow(&self, port: &str, id: u32) -> Result<FlowCount, Error> {
        let port = self.live_port(port)?;
        let object = self
            .inventory
            .require(Kind::Flow, &format!("{}/{id}", port.spec.name))?;
        let Any::Flow(flow) = object else {
            return Ok(FlowCount::default());
        };
        self.in_service(object)?;
        self.plane
            .query_flow(port, flow)
            .map_err(refused("query", object))
    }
}

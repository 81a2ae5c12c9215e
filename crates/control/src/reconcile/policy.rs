//! When the rules of policies change: before what needs them is there, and after what needed them is gone. So no port is ever without
//! the rules that its policies call for; if they cannot be in place, it is out of service.

use super::{Change, Control};
use crate::dataplane::Trace;
use crate::error::Error;
use crate::inventory::Inventory;
use crate::model::{Any, Kind, Marks, Port};
use crate::policy::{Explained, Policy};
use crate::value::Prefix;

impl Change {
    /// Whether rules of policies may depend on it.
    pub(super) fn touches_policy(&self) -> bool {
        let (Self::Create(any) | Self::Delete(any) | Self::Replace { new: any, .. }) = self;
        any.kind().is_policy() || matches!(any.kind(), Kind::Port | Kind::Network | Kind::Router)
    }
}

impl Control {
    /// The rules of policies.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Before changes are made: rules for what comes, with those for what goes still in place.
    pub(super) fn prepare_policy(&mut self, changes: &[Change]) -> Result<(), Error> {
        let comes = changes
            .iter()
            .any(|change| !matches!(change, Change::Delete(_)));
        if !comes {
            return Ok(());
        }
        let mut soon = self.inventory.clone();
        for change in changes {
            match change {
                Change::Create(any) | Change::Replace { new: any, .. } => soon.put(any.clone()),
                // Another port takes over its index, whose rules can only be of one.
                Change::Delete(any @ Any::Port(port)) if takes_index(changes, port) => {
                    soon.remove(any)
                }
                Change::Delete(_) => {}
            }
        }
        self.settle(&soon)
    }

    /// After changes were made: rules for what is there.
    pub(super) fn settle_policy(&mut self) -> Result<(), Error> {
        let now = std::mem::take(&mut self.inventory);
        let result = self.settle(&now);
        self.inventory = now;
        result
    }

    /// After changes were taken back, or to try again.
    pub(super) fn resettle_policy(&mut self) {
        if let Err(error) = self.settle_policy() {
            tracing::error!(%error, "the rules of policies are not in place");
            self.unsettled = Some(error.to_string());
        }
    }

    /// At the start, for all objects at once.
    pub(super) fn begin_policy(&mut self, wanted: &Inventory) {
        if let Err(error) = self.settle(wanted) {
            tracing::error!(%error, "the rules of policies are not in place; ports that need them are out of service");
            self.unsettled = Some(error.to_string());
        }
    }

    fn settle(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let difference = self.policy.settle(inventory, self.plane.as_mut())?;
        if difference != Default::default() {
            tracing::info!(
                added = difference.added,
                removed = difference.removed,
                "rules of policies"
            );
        }
        self.unsettled = None;
        Ok(())
    }

    /// Refuses a port while rules are not in place: with a policy of its own or of an object about it, or not, since what
    /// others may send to it is theirs to filter.
    pub(super) fn policy_holds(&self, object: &Any) -> Result<(), Error> {
        match (&self.unsettled, object) {
            (Some(reason), Any::Port(port)) if !port.spec.uplink => Err(Error::OutOfService {
                object: "policy".to_owned(),
                reason: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Adds prefixes to a set and takes others out, in pieces as large as fit into a call. Those that are there already, or are not
    /// there, count for nothing. Answers how many the set has.
    pub fn amend_set(
        &mut self,
        name: &str,
        add: Vec<Prefix>,
        remove: &[Prefix],
    ) -> Result<usize, Error> {
        let Any::AddressSet(old) = self.inventory.require(Kind::AddressSet, name)?.clone() else {
            return Ok(0);
        };
        let gone: std::collections::HashSet<&Prefix> = remove.iter().collect();
        let mut prefixes = old.spec.prefixes.clone();
        prefixes.extend(add);
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes.retain(|prefix| !gone.contains(prefix));
        let count = prefixes.len();
        if count > crate::model::PREFIXES_MAX {
            let expected = format!("at most {}", crate::model::PREFIXES_MAX);
            return Err(Error::fault(
                &format!("address-set {name}"),
                "prefixes",
                format!("{count} together"),
                expected,
            ));
        }
        if prefixes == old.spec.prefixes {
            return Ok(count);
        }
        let spec = crate::model::AddressSetSpec {
            name: name.to_owned(),
            prefixes,
        };
        let marks = Marks {
            uuid: old.uuid,
            generation: old.generation + 1,
            origin: old.origin,
            volatile: old.volatile,
        };
        let new = Any::from(marks.object(spec));
        self.apply(vec![Change::Replace {
            old: Any::AddressSet(old),
            new,
        }])?;
        Ok(count)
    }

    /// Follows one frame through the pipeline and says of each rule that it meets what made it.
    pub fn explain(&mut self, port: &str, frame: &[u8]) -> Result<Explained, Error> {
        let trace: Trace = self.trace(port, frame)?;
        let name = |index: u16| {
            self.inventory
                .ports()
                .find(|port| port.spec.index() == index)
                .map(|port| port.spec.name.clone())
        };
        Ok(self.policy.explain(trace, name))
    }
}

fn takes_index(changes: &[Change], gone: &Port) -> bool {
    changes.iter().any(|change| {
        matches!(change, Change::Create(Any::Port(port)) if port.spec.index == gone.spec.index && port.spec.name != gone.spec.name)
    })
}

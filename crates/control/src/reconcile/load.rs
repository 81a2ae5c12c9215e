//! Loading a configuration: the difference between the file and the objects that came from one,
//! as an ordered list of changes. Objects that were made at run time are left alone.

use serde::Serialize;

use super::{Change, Control};
use crate::config::{Entry, unnumbered};
use crate::error::Error;
use crate::inventory::Inventory;
use crate::model::{Any, Kind, Marks, Origin};

/// What a load changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Objects made.
    pub created: Vec<String>,
    /// Objects changed.
    pub changed: Vec<String>,
    /// Objects deleted.
    pub deleted: Vec<String>,
}

impl Control {
    /// Makes the objects of the file those of the file: all of it or nothing.
    pub fn load(&mut self, entries: Vec<Entry>) -> Result<Loaded, Error> {
        let changes = ordered(&self.inventory, difference(&self.inventory, entries)?);
        let mut loaded = Loaded::default();
        for change in &changes {
            match change {
                Change::Create(any) => loaded.created.push(any.label()),
                Change::Replace { new, .. } => loaded.changed.push(new.label()),
                Change::Delete(any) => loaded.deleted.push(any.label()),
            }
        }
        self.apply(changes)?;
        Ok(loaded)
    }
}

/// What it takes to come from `current` to the file.
pub(super) fn difference(current: &Inventory, entries: Vec<Entry>) -> Result<Vec<Change>, Error> {
    let mut target = current.clone();
    let mut changes = Vec::new();
    let named = |kind: Kind, name: &str| {
        entries
            .iter()
            .any(|e| e.object.kind() == kind && e.object.name() == name)
    };
    // A rule's name has its number in it, which the file may leave to the control plane: such
    // rules are matched by their text.
    let same_rule = |any: &Any| {
        let Any::Flow(old) = any else { return false };
        entries.iter().any(|e| {
            matches!(&e.object, Any::Flow(new)
                if new.spec.id.is_none() && new.spec.port == old.spec.port && new.spec.rule == old.spec.rule)
        })
    };
    for old in current.all().filter(|o| o.origin() == Origin::Config) {
        if !named(old.kind(), &old.name()) && !same_rule(old) {
            target.remove(old);
            changes.push(Change::Delete(old.clone()));
        }
    }
    let has_node = entries.iter().any(|e| e.object.kind() == Kind::Node);
    let mut entries = entries;
    entries.sort_by_key(|e| (e.object.kind(), unnumbered(&e.object), e.line));
    if !has_node {
        let node = Any::Node(Inventory::default().node().clone());
        entries.insert(
            0,
            Entry {
                object: node,
                has_uuid: false,
                line: 1,
            },
        );
    }
    for entry in entries {
        let (object, old) = matched(current, &target, entry.object)?;
        match old {
            Some(old) => {
                let uuid = if entry.has_uuid {
                    object.uuid()
                } else {
                    old.uuid()
                };
                let same = object.spec_map() == old.spec_map();
                if same && uuid == old.uuid() && old.origin() == Origin::Config && !old.volatile() {
                    continue;
                }
                let marks = Marks {
                    uuid,
                    generation: old.generation() + 1,
                    origin: Origin::Config,
                    volatile: false,
                };
                let new = object.with_marks(marks);
                target.put(new.clone());
                changes.push(Change::Replace { old, new });
            }
            None => {
                target.put(object.clone());
                changes.push(Change::Create(object));
            }
        }
    }
    Ok(changes)
}

/// An object of the file with its numbers, and the current one that it stands for.
fn matched(
    current: &Inventory,
    target: &Inventory,
    mut object: Any,
) -> Result<(Any, Option<Any>), Error> {
    match &mut object {
        Any::Node(_) => return Ok((object, Some(Any::Node(current.node().clone())))),
        Any::Port(port) if port.spec.index.is_none() => {
            if let Some(old) = current.port(&port.spec.name) {
                std::sync::Arc::make_mut(port).spec.index = old.spec.index;
            }
        }
        Any::Flow(flow) if flow.spec.id.is_none() => {
            let old = current
                .flows_of(&flow.spec.port)
                .find(|old| old.spec.rule == flow.spec.rule);
            if let Some(old) = old {
                std::sync::Arc::make_mut(flow).spec.id = old.spec.id;
            }
        }
        _ => {}
    }
    let object = target.number(object)?;
    let old = current.get(object.kind(), &object.name()).cloned();
    Ok((object, old))
}

/// Order in which every change finds what it needs: users go first, what they used goes last, and
/// what is new comes before those that refer to it.
fn ordered(current: &Inventory, changes: Vec<Change>) -> Vec<Change> {
    let mut early = Vec::new();
    let mut middle = Vec::new();
    let mut late = Vec::new();
    for change in changes {
        match &change {
            Change::Delete(any) => match any.kind() {
                // Free at once if nothing uses it, so that its VNI or file can be taken again.
                Kind::Network | Kind::Volume | Kind::AddressSet | Kind::SecurityGroup
                    if !current.users_of(any).is_empty() =>
                {
                    late.push(change)
                }
                _ => early.push(change),
            },
            _ => middle.push(change),
        }
    }
    early.sort_by_key(|c| std::cmp::Reverse(kind_of(c)));
    middle.sort_by_key(kind_of);
    // A node that turns to another uplink does so when that exists.
    let node = middle.iter().position(|c| kind_of(c) == Kind::Node);
    let node = node.map(|i| middle.remove(i));
    // The old uplink goes only after the node has let go of it.
    let (old_uplink, early): (Vec<_>, Vec<_>) = early.into_iter().partition(
        |c| matches!(c, Change::Delete(Any::Port(p)) if current.node().spec.uplink.as_ref() == Some(&p.spec.name)),
    );
    let mut all = early;
    all.extend(middle);
    all.extend(node);
    all.extend(old_uplink);
    all.extend(late);
    all
}

fn kind_of(change: &Change) -> Kind {
    match change {
        Change::Create(any) | Change::Delete(any) | Change::Replace { new: any, .. } => any.kind(),
    }
}

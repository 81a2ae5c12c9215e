//! Loading a configuration: the difference between the file and the objects that came from one,
//! as an ordered list of changes. Objects that were made at run time are left alone.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sumeru_flow::Rule;

use super::{Change, Control};
use crate::config::{Entry, unnumbered};
use crate::error::Error;
use crate::inventory::Inventory;
use crate::model::{Any, Flow, Kind, Marks, Origin};

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

/// A rule's name has its number in it, which a file may leave to the control plane: such rules are matched by what they say. Rules that say the same are
/// matched in the order of their numbers.
struct Rules {
    /// Current rules by port and text, highest number first.
    current: HashMap<(String, Rule), Vec<u32>>,
    /// How many rules without a number the file has.
    unnumbered: HashMap<(String, Rule), usize>,
}

impl Rules {
    fn new(current: &Inventory, entries: &[Entry]) -> Self {
        let flow = |any: &Any| match any {
            Any::Flow(flow) => Some((
                (flow.spec.port.clone(), flow.spec.rule.clone()),
                flow.spec.id,
            )),
            _ => None,
        };
        let mut unnumbered = HashMap::new();
        let mut numbered = HashSet::new();
        for entry in entries {
            match flow(&entry.object) {
                Some((rule, None)) => *unnumbered.entry(rule).or_insert(0) += 1,
                Some(((port, _), Some(id))) => drop(numbered.insert((port, id))),
                None => {}
            }
        }
        let mut known: HashMap<_, Vec<u32>> = HashMap::new();
        if !unnumbered.is_empty() {
            for (rule, id) in current.of(Kind::Flow).filter_map(flow) {
                // What the file names is not there for others to take.
                if let Some(id) = id
                    && !numbered.contains(&(rule.0.clone(), id))
                    && unnumbered.contains_key(&rule)
                {
                    known.entry(rule).or_default().push(id);
                }
            }
        }
        for ids in known.values_mut() {
            ids.sort_unstable_by(|a, b| b.cmp(a));
        }
        Self {
            current: known,
            unnumbered,
        }
    }

    /// Whether a rule of the file without a number will take this one's.
    fn wants(&self, any: &Any) -> bool {
        let Any::Flow(flow) = any else { return false };
        let rule = (flow.spec.port.clone(), flow.spec.rule.clone());
        let (Some(ids), Some(wanted)) = (self.current.get(&rule), self.unnumbered.get(&rule))
        else {
            return false;
        };
        ids.iter()
            .rev()
            .take(*wanted)
            .any(|id| *id == flow.spec.id())
    }

    /// The number of a current rule that says the same.
    fn take(&mut self, flow: &Flow) -> Option<u32> {
        let rule = (flow.spec.port.clone(), flow.spec.rule.clone());
        self.current.get_mut(&rule)?.pop()
    }
}

/// What it takes to come from `current` to the file.
pub(super) fn difference(current: &Inventory, entries: Vec<Entry>) -> Result<Vec<Change>, Error> {
    let mut target = current.clone();
    let mut changes = Vec::new();
    let named: HashSet<(Kind, String)> = entries
        .iter()
        .map(|e| (e.object.kind(), e.object.name()))
        .collect();
    let mut rules = Rules::new(current, &entries);
    for old in current.all().filter(|o| o.origin() == Origin::Config) {
        if !named.contains(&(old.kind(), old.name())) && !rules.wants(old) {
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
        let (object, old) = matched(current, &target, &mut rules, entry.object)?;
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
    rules: &mut Rules,
    mut object: Any,
) -> Result<(Any, Option<Any>), Error> {
    match &mut object {
        Any::Node(_) => return Ok((object, Some(Any::Node(current.node().clone())))),
        Any::Port(port) if port.spec.index.is_none() => {
            if let Some(old) = current.port(&port.spec.name) {
                std::sync::Arc::make_mut(port).spec.index = old.spec.index;
            }
        }
        Any::LoadBalancer(balancer) if balancer.spec.index.is_none() => {
            if let Some(old) = current.load_balancer(&balancer.spec.name) {
                std::sync::Arc::make_mut(balancer).spec.index = old.spec.index;
            }
        }
        Any::Flow(flow) if flow.spec.id.is_none() => {
            if let Some(id) = rules.take(flow) {
                std::sync::Arc::make_mut(flow).spec.id = Some(id);
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
    // Rules that come are behind one another, so that they are one change for the data plane.
    middle.sort_by_key(|c| (kind_of(c), matches!(c, Change::Create(Any::Flow(_)))));
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

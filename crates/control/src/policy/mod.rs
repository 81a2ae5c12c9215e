//! Policies as flow rules: security groups, anti-spoofing, address sets, blocklists, isolation and rate limits are objects; here they
//! are compiled to rules of the rte_flow model, and the difference to the rules in place is applied as one batch.
//!
//! # The way of a frame
//!
//! A frame from a port passes the *ingress pass* before its way is decided, and the *egress pass* of every port that it is about to
//! leave by, each copy for itself. The ingress pass is the rules from group 0 on. The egress pass begins with the `egress` rules of group 0, with
//! the tags that the ingress pass left and the frame as it will leave, out of its tunnel; rules with the attribute `egress` match
//! only frames that are about to leave by the rule's port. A copy that a rule drops does not leave; one that no rule of a group matches does.
//!
//! | group | what stands there | priorities |
//! |---|---|---|
//! | 0 | of a port: rates and storm limit, network, list of groups, blocklists and isolation class into tags | 0 broadcast and multicast, 1 all |
//! | 9001 | anti-spoofing: VLAN tags, DHCP servers, router advertisements, redirects; source addresses | 0 never, 1 the port's addresses, 200 drop |
//! | 9002 | targets of neighbour discovery | 0 the port's addresses, 1 drop, 200 on |
//! | 9003, 9004 | destination: class by address sets, class by members of groups in the network | bits that the prefix leaves open, 200 on |
//! | 9005 | blocklists of what is sent | 0 drop, 200 on |
//! | 9006 | tracking in the sender's zone, but for ports without groups (0) and what is always allowed (1) | 2 track, 200 on |
//! | 9007 | egress rules of groups | 0 invalid, 1 established and related, 2 stateful, 3 stateless, 4 drop IP, 200 on |
//! | 9008 | the connection is kept | 0 |
//! | 9009 | nothing: forwarding. For rules made by hand that act behind policy | |
//! | 0, egress | egress pass, of a port: the same into tags | 0 |
//! | 9021, 9022 | source: classes | as 9003 |
//! | 9023 | blocklists of what is received; isolation of sender's and receiver's class | 0 drop, 1 drop, 200 on |
//! | 9024 to 9026 | as 9006 to 9008 for the receiver | |
//! | 9027 | rates towards the port | 0 |
//! | 9028 | nothing: the frame leaves. For rules made by hand | |
//!
//! | tag | bits | |
//! |---|---|---|
//! | 0 | 24 | VXLAN network identifier of the port |
//! | 1 | 15, 1, 16 | list of groups, whether one is stateful, list of blocklists |
//! | 2 | 16, 16 | class of the other side by sets, by members |
//! | 3 | 16, 16 | isolation class of the sender (0: from a tunnel), of the receiver |
//!
//! # Why so
//!
//! *The receiver's groups need the receiver.* It is known when forwarding has decided, and only then for broadcasts, unknown addresses
//! and frames from tunnels; a key of destination addresses before forwarding would let all of those past. So the receiver's
//! half is an egress pass. Its price: every output of a flooded frame is looked up by itself; the sender of a frame from
//! another node is known by its addresses only, which that node has held against its ports.
//!
//! *No cross products.* A port has one number for its list of groups, one for its blocklists, one for its isolation policies; an address has one for
//! the sets and one for the groups that it is in ([`class`]). Rules are about these numbers, so a rule of a group is as many rules as its
//! remote has classes, for all ports together, and a set of a million prefixes costs a million rules whoever uses it.
//!
//! *Zones are of ports*, so that one guest's permission is not the other's. What was established stays so when a rule goes away:
//! only a blocklist ends connections that exist.
//!
//! # Limits
//!
//! Members of groups are the node's own ports and those given by `members`; the sender of a tunnelled frame is no member of an isolation
//! policy but through its network; the limit of unknown unicast is the network's `flood_limit`; fragments behind the first have no ports, so stateless rules with
//! ports do not let them through.

mod barrier;
pub mod class;
mod compile;
mod explain;
mod group;
pub mod layout;
mod line;
mod number;
mod pattern;
mod port;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sumeru_flow::model::MeterProfile;

use crate::dataplane::{DataPlane, MeterChange, NamedRule, RuleBatch, RuleName};
use crate::error::Error;
use crate::inventory::Inventory;

pub use compile::{RULES_MAX, Section};
pub use explain::{Explained, ExplainedStep};
pub use line::{Body, ClassRule, Line, Origin};

use compile::{Compiled, Memo, compile};
use number::Numbers;

/// Rules of a section and their numbers, in the same order.
#[derive(Debug)]
struct Installed {
    lines: Arc<Vec<Line>>,
    ids: Vec<u32>,
}

/// The rules that the data plane has for the policies, and what they come from.
#[derive(Debug, Default)]
pub struct Policy {
    numbers: Numbers,
    memo: Memo,
    sections: BTreeMap<Section, Installed>,
    meters: BTreeMap<u32, MeterProfile>,
    /// Numbers of rules that are gone.
    free: Vec<u32>,
    /// How many numbers were ever in use at once.
    used: u32,
}

/// A rule in place.
#[derive(Debug, Clone)]
pub struct PlacedRule {
    /// Its name in the data plane.
    pub rule: NamedRule,
    /// What made it.
    pub origin: Origin,
}

/// How many rules a change was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rules added.
    pub added: usize,
    /// Rules removed.
    pub removed: usize,
}

fn named(id: u32, line: &Line) -> NamedRule {
    NamedRule {
        name: RuleName {
            port: line.owner,
            id,
        },
        rule: line.rule(),
    }
}

impl Policy {
    /// Makes the rules those of the objects, all or nothing.
    pub fn settle(
        &mut self,
        inventory: &Inventory,
        plane: &mut dyn DataPlane,
    ) -> Result<Difference, Error> {
        let compiled = compile(inventory, &self.numbers, &self.memo)?;
        let Compiled {
            sections,
            meters,
            numbers,
            memo,
        } = compiled;
        let mut plan = Plan::new(&self.sections, &self.free, self.used);
        for (section, lines) in sections {
            plan.section(section, lines)?;
        }
        let gone = plan.gone();
        let changes = meter_changes(&self.meters, &meters);
        let added: usize = plan.added.values().map(Vec::len).sum();
        let removed = gone.len();
        let difference = Difference { added, removed };
        if added != 0 || removed != 0 || !changes.is_empty() {
            let coming = plan.added.iter().flat_map(|(section, places)| {
                let installed = plan.now.get(section);
                places.iter().filter_map(move |place| {
                    let installed = installed?;
                    Some(named(
                        *installed.ids.get(*place)?,
                        installed.lines.get(*place)?,
                    ))
                })
            });
            let going = gone.iter().map(|(id, line)| named(*id, line));
            let batch = RuleBatch {
                meters: &changes,
                add: Box::new(coming),
                remove: Box::new(going),
            };
            let done = plane.replace_rules(batch);
            done.map_err(|refusal| Error::Refused {
                action: "apply",
                object: "policy".to_owned(),
                refusal,
            })?;
        }
        let freed: Vec<u32> = gone.iter().map(|(id, _)| *id).collect();
        let Plan {
            mut now,
            kept,
            mut free,
            used,
            ..
        } = plan;
        free.extend(freed);
        for section in kept {
            if let Some(installed) = self.sections.remove(&section) {
                now.insert(section, installed);
            }
        }
        *self = Self {
            numbers,
            memo,
            sections: now,
            meters,
            free,
            used,
        };
        Ok(difference)
    }

    /// Rules in place, by section.
    pub fn rules(&self) -> impl Iterator<Item = PlacedRule> + '_ {
        self.sections.values().flat_map(|installed| {
            let both = installed.ids.iter().zip(installed.lines.iter());
            both.map(|(id, line)| PlacedRule {
                rule: named(*id, line),
                origin: line.origin(),
            })
        })
    }

    /// Number of rules in place.
    pub fn len(&self) -> usize {
        self.sections
            .values()
            .map(|installed| installed.ids.len())
            .sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// What made the rule of a name.
    pub fn origin(&self, name: RuleName) -> Option<Origin> {
        self.sections.values().find_map(|installed| {
            let place = installed.ids.iter().position(|id| *id == name.id)?;
            installed
                .lines
                .get(place)
                .filter(|line| line.owner == name.port)
                .map(Line::origin)
        })
    }
}

/// The difference between the rules in place and those that shall be.
struct Plan<'a> {
    before: &'a BTreeMap<Section, Installed>,
    /// Sections that change.
    now: BTreeMap<Section, Installed>,
    /// Sections that stay as they are.
    kept: Vec<Section>,
    /// Places of new rules in the sections that change.
    added: BTreeMap<Section, Vec<usize>>,
    /// Rules of changing sections that are not there any more.
    dropped: Vec<(u32, &'a Line)>,
    free: Vec<u32>,
    used: u32,
}

impl<'a> Plan<'a> {
    fn new(before: &'a BTreeMap<Section, Installed>, free: &[u32], used: u32) -> Self {
        let free = free.to_vec();
        Self {
            before,
            now: BTreeMap::new(),
            kept: Vec::new(),
            added: BTreeMap::new(),
            dropped: Vec::new(),
            free,
            used,
        }
    }

    fn id(&mut self) -> Result<u32, Error> {
        if let Some(id) = self.free.pop() {
            return Ok(id);
        }
        let id = layout::FIRST_RULE_ID.checked_add(self.used);
        self.used = self.used.wrapping_add(1);
        id.ok_or_else(|| Error::fault("policy", "rules", "out of numbers", "fewer rules"))
    }

    fn section(&mut self, section: Section, lines: Arc<Vec<Line>>) -> Result<(), Error> {
        let before = self.before.get(&section);
        if before.is_some_and(|before| Arc::ptr_eq(&before.lines, &lines)) {
            self.kept.push(section);
            return Ok(());
        }
        let mut old: HashMap<(u16, &Body), (u32, &'a Line)> = HashMap::new();
        if let Some(before) = before {
            let both = before.ids.iter().zip(before.lines.iter());
            old.extend(both.map(|(id, line)| ((line.owner, &line.body), (*id, line))));
        }
        let mut ids = Vec::with_capacity(lines.len());
        let mut added = Vec::new();
        for (place, line) in lines.iter().enumerate() {
            ids.push(match old.remove(&(line.owner, &line.body)) {
                Some((id, _)) => id,
                None => {
                    added.push(place);
                    self.id()?
                }
            });
        }
        self.dropped.extend(old.into_values());
        if !added.is_empty() {
            self.added.insert(section.clone(), added);
        }
        self.now.insert(section, Installed { lines, ids });
        Ok(())
    }

    /// Rules that go, those of sections that are no more included.
    fn gone(&mut self) -> Vec<(u32, Line)> {
        let mut gone: Vec<(u32, Line)> = self
            .dropped
            .iter()
            .map(|(id, line)| (*id, Line::clone(line)))
            .collect();
        for (section, installed) in self.before {
            if !self.now.contains_key(section) && !self.kept.contains(section) {
                gone.extend(
                    installed
                        .ids
                        .iter()
                        .copied()
                        .zip(installed.lines.iter().cloned()),
                );
            }
        }
        gone
    }
}

fn meter_changes(
    before: &BTreeMap<u32, MeterProfile>,
    after: &BTreeMap<u32, MeterProfile>,
) -> Vec<MeterChange> {
    let numbers: std::collections::BTreeSet<u32> =
        before.keys().chain(after.keys()).copied().collect();
    let change = |number: u32| MeterChange {
        number,
        before: before.get(&number).copied(),
        after: after.get(&number).copied(),
    };
    numbers
        .into_iter()
        .map(change)
        .filter(|change| change.before != change.after)
        .collect()
}

#[cfg(test)]
mod tests;

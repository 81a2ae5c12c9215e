//! The classifier as one version sees it, and the search for the best rule.

use std::collections::HashMap;
use std::sync::Arc;

use sumeru_packet::{FlowKey, FlowMask};

use super::stamps::{Class, EVERY_VERSION, Stamps, class};
use super::tuple::{Index, Tuple};

/// Classes that a decision can name; one that rests on more is good for one version only.
pub const MAX_CLASSES: usize = 16;

/// What a decision rests on.
pub type Classes = arrayvec::ArrayVec<Class, MAX_CLASSES>;

/// Adds a class to those that a decision rests on.
pub fn rest_on(classes: &mut Classes, class: Class) {
    if classes.contains(&class) {
        return;
    }
    if classes.try_push(class).is_err() {
        classes.clear();
        classes.push(EVERY_VERSION);
    }
}

/// The class of decisions that searched a group.
pub fn group_class(group: u32) -> Class {
    class(0x6772_6f75_7000_0000_u64.rotate_left(13) ^ u64::from(group))
}

/// A tuple in its place in a group.
#[derive(Debug, Clone)]
pub struct Place {
    pub tuple: Arc<Tuple>,
    pub index: Arc<Index>,
    /// No rule of the tuple has a better priority than this.
    pub best: u32,
}

/// All groups; the tuples of each from the best priority on.
pub type Groups = HashMap<u32, Arc<[Place]>>;

/// One version of all rules.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) version: u64,
    pub(super) shape: u64,
    pub(super) groups: Arc<Groups>,
    pub(super) stamps: Arc<Stamps>,
}

/// A rule that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What its owner calls it.
    pub name: u64,
    /// Its priority.
    pub priority: u32,
    /// Number of its actions.
    pub program: u32,
    /// Order of creation: the rule's identity.
    pub sequence: u64,
    /// Where it counts.
    pub counter: Option<u32>,
}

impl View {
    /// The version's number; grows by one with every publication.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Another number whenever the masks of the rules may be others.
    pub fn shape(&self) -> u64 {
        self.shape
    }

    /// When what was last changed.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The best rule of `group` for `key`: the lowest priority number, and the oldest among equals.
    ///
    /// `looked` is told every part of the key that the answer rests on, and `classes` what changes may make it wrong. Where
    /// sibling rules do the same, the bits they differ in are not among those that were looked at.
    pub fn lookup(
        &self,
        group: u32,
        key: &FlowKey,
        classes: &mut Classes,
        mut looked: impl FnMut(&FlowMask),
    ) -> Option<Found> {
        rest_on(classes, group_class(group));
        let mut best: Option<(&Place, super::tuple::Header)> = None;
        let mut alone = true;
        for place in self.groups.get(&group)?.iter() {
            if best.is_some_and(|(_, best)| best.priority < place.best) {
                break;
            }
            let Some(header) = self.search(place, key, classes, &mut looked) else {
                continue;
            };
            match best {
                Some((_, old))
                    if (old.priority, old.sequence) < (header.priority, header.sequence) =>
                {
                    alone &= old.priority != header.priority;
                    looked(&place.tuple.mask);
                }
                Some((older, old)) => {
                    alone = old.priority != header.priority;
                    looked(&older.tuple.mask);
                    best = Some((place, header));
                }
                None => best = Some((place, header)),
            }
        }
        let (place, header) = best?;
        let tuple = &place.tuple;
        let joined = match header.counter {
            0 if alone => tuple.joined(&place.index, &header, key, self.version),
            _ => 0,
        };
        looked(&tuple.widened(joined));
        Some(Found {
            name: header.name,
            priority: header.priority,
            program: header.program,
            sequence: header.sequence,
            counter: header.counter.checked_sub(1),
        })
    }

    /// The best rule of one tuple. What was looked at is told unless a rule is found.
    #[inline]
    fn search(
        &self,
        place: &Place,
        key: &FlowKey,
        classes: &mut Classes,
        looked: &mut impl FnMut(&FlowMask),
    ) -> Option<super::tuple::Header> {
        let Place { tuple, index, .. } = place;
        for (number, stage) in tuple.stages.iter().enumerate() {
            let hash = key.hash(&stage.mask, stage.active);
            if !index.may_match(number, hash) {
                rest_on(
                    classes,
                    tuple.stage_class(number + 1, index.cell(number, hash)),
                );
                looked(&stage.mask);
                return None;
            }
        }
        rest_on(classes, tuple.class(key));
        let found = tuple.find(
            index,
            key.hash(&tuple.mask, tuple.active),
            key,
            self.version,
        );
        if found.is_none() {
            looked(&tuple.mask);
        }
        found.map(|(_, header)| header)
    }

    /// Every bit that any rule looks at.
    pub fn union(&self) -> FlowMask {
        let mut union = FlowMask::ZERO;
        let places = self.groups.values().flat_map(|places| places.iter());
        places.for_each(|place| union.merge(&place.tuple.mask));
        union
    }
}

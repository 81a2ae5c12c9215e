//! All rules: the control side, which names, adds and removes them, and the view of an lcore.

mod exchange;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sumeru_engine::publish::{Publisher, Subscriber};
use sumeru_packet::{FlowKey, FlowMask};

use super::action::Age;
use super::actions::{ActionTable, Actions};
use super::ageing::{Aged, Ageing, Subject};
use super::extract::{Extracts, Slots, exchange};
use super::objects::{Objects, SharedLists, Use};
use super::{ActionList, CompiledRule, EGRESS_START, RuleAction, RuleError};
use crate::classifier::arena::CounterArena;
use crate::classifier::{Full, NewRule, Released, RuleRef, TupleId, View, Writer};
use crate::frame::PortIndex;

pub use exchange::At;

/// Rules without names that are added together.
const BATCH: usize = 64;

/// The rules as an lcore sees them: one version.
#[derive(Debug, Clone)]
pub struct RuleView {
    /// Which rule a packet meets.
    pub rules: View,
    /// Whether any rule tracks connections.
    pub tracks: bool,
    /// Some rule replaces headers, so that more of a frame may have to be looked at than at first.
    pub replaces: bool,
    /// Some rule is about what leaves by a port.
    pub leaving: bool,
    /// Grows when an indirect action becomes another, and with the first rule about what leaves: whatever was decided is outdated.
    pub generation: u64,
    /// What the parser fetches for them.
    pub extracts: Extracts,
    actions: Arc<ActionTable>,
    objects: SharedLists,
}

impl RuleView {
    /// What a rule does.
    pub fn actions(&self, program: u32) -> Option<Arc<ActionList>> {
        self.actions.get(program)
    }

    /// What an indirect action does.
    pub fn object(&self, number: u32) -> Option<&ActionList> {
        self.objects.get(&number)
    }
}

/// What rules of one kind have in common: where they stand, which bits they look at, what they do.
#[derive(Debug)]
pub struct Shape {
    tuple: TupleId,
    priority: u32,
    program: u32,
    counts: bool,
}

/// A rule without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    place: RuleRef,
    counter: Option<u32>,
}

/// A rule with a name.
#[derive(Debug)]
struct Named {
    /// Its places; nearly always one.
    places: arrayvec::ArrayVec<RuleRef, 1>,
    more: Vec<RuleRef>,
    counter: Option<u32>,
    /// What it took of the slots; few rules take any.
    extracts: Option<Box<Extracts>>,
    /// The objects it names.
    uses: Box<[Use]>,
    /// When it is old.
    age: Option<Age>,
}

/// Counters, by number, on every lcore.
#[derive(Debug, Default)]
struct Counters {
    arenas: Vec<Arc<CounterArena>>,
    next: u32,
    free: Vec<u32>,
    /// Places that use a counter; a rule with one place is not in it.
    shared: HashMap<u32, u32>,
}

/// All rules, for control.
#[derive(Debug)]
pub struct RuleTable {
    writer: Writer,
    publisher: Publisher<RuleView>,
    /// The publisher counts from here.
    first: u64,
    actions: Actions,
    counters: Counters,
    slots: Slots,
    names: HashMap<(PortIndex, u32), Named>,
    pub(super) objects: Objects,
    pub(super) ageing: Ageing,
    generation: u64,
    /// Some rule tracked connections; the table that they are in stays.
    tracks: bool,
    replaces: bool,
    leaving: bool,
}

/// Whether some action, or one inside of it, is as wanted.
fn any(actions: &[RuleAction], wanted: fn(&RuleAction) -> bool) -> bool {
    actions.iter().any(|action| match action {
        RuleAction::Sample(_, inside) => any(inside, wanted),
        action => wanted(action),
    })
}

impl Counters {
    fn take(&mut self, places: usize) -> Result<u32, Full> {
        let counter = match self.free.pop() {
            Some(counter) => counter,
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        if !self.arenas.iter().all(|arena| arena.reset(counter)) {
            self.free.push(counter);
            return Err(Full::Memory);
        }
        if places > 1 {
            self.shared.insert(counter, places as u32);
        }
        Ok(counter)
    }

    fn give(&mut self, counter: u32) {
        if let Some(places) = self.shared.get_mut(&counter) {
            *places -= 1;
            if *places > 0 {
                return;
            }
            self.shared.remove(&counter);
        }
        self.free.push(counter);
    }

    fn read(&self, counter: u32) -> (u64, u64) {
        self.arenas
            .iter()
            .map(|arena| arena.read(counter))
            .fold((0, 0), |(p, b), (packets, bytes)| (p + packets, b + bytes))
    }
}

impl Default for RuleTable {
    fn default() -> Self {
        let (mut writer, actions) = (Writer::default(), Actions::default());
        let rules = writer.publish();
        let first = rules.version() - 1;
        Self {
            writer,
            publisher: Publisher::new(RuleView {
                rules,
                tracks: false,
                replaces: false,
                leaving: false,
                generation: 0,
                extracts: Extracts::default(),
                actions: actions.shared(),
                objects: SharedLists::default(),
            }),
            first,
            actions,
            counters: Counters::default(),
            slots: Slots::default(),
            names: HashMap::new(),
            objects: Objects::default(),
            ageing: Ageing::default(),
            generation: 0,
            tracks: false,
            replaces: false,
            leaving: false,
        }
    }
}

impl RuleTable {
    /// What another lcore needs: the rules, and where it counts.
    pub fn subscribe(&mut self) -> (Subscriber<RuleView>, Arc<CounterArena>) {
        let arena = Arc::new(CounterArena::default());
        self.counters.arenas.push(arena.clone());
        (self.publisher.subscribe(), arena)
    }

    /// How many places rules take up.
    pub fn len(&self) -> usize {
        self.writer.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    /// Bytes reserved for rules and their tables.
    pub fn bytes(&self) -> usize {
        self.writer.bytes()
            + self
                .counters
                .arenas
                .iter()
                .map(|arena| arena.bytes())
                .sum::<usize>()
    }

    /// Whether a rule has this name.
    pub fn contains(&self, port: PortIndex, id: u32) -> bool {
        self.names.contains_key(&(port, id))
    }

    /// Adds a rule; lcores see it after [`Self::publish`].
    ///
    /// # Errors
    /// [`RuleError::Exists`], [`RuleError::Full`], [`RuleError::NoExtraction`]; nothing has changed then.
    pub fn insert(&mut self, rule: &CompiledRule) -> Result<(), RuleError> {
        let (port, id) = rule.name;
        if self.contains(port, id) {
            return Err(RuleError::Exists { port, id });
        }
        let exchanged = self.slots.take(&rule.extracts)?;
        let counter = match rule.actions.contains(&RuleAction::Count) {
            true => match self.counters.take(rule.places.len()) {
                Ok(counter) => Some(counter),
                Err(full) => {
                    self.slots.give(&rule.extracts);
                    return Err(full.into());
                }
            },
            false => None,
        };
        let program = self.actions.take(&rule.actions);
        let mut named = Named {
            places: arrayvec::ArrayVec::new(),
            more: Vec::new(),
            counter,
            extracts: (!rule.extracts.is_empty()).then(|| Box::new(rule.extracts)),
            uses: Box::default(),
            age: rule.age,
        };
        let mut fault = None;
        for (number, place) in rule.places.iter().enumerate() {
            let (mask, value) = &match exchanged {
                true => exchange(place),
                false => *place,
            };
            if number > 0 {
                self.actions.again(program);
            }
            let placed = self.writer.tuple(rule.group, mask).and_then(|tuple| {
                self.writer.insert(&NewRule {
                    tuple,
                    priority: rule.priority,
                    value: *value,
                    program,
                    name: name_of(rule.name),
                    counter,
                })
            });
            match placed {
                Ok(place) => match named.places.try_push(place) {
                    Ok(()) => {}
                    Err(full) => named.more.push(full.element()),
                },
                Err(full) => {
                    // What was not placed leaves nothing behind; what was goes its usual way.
                    let missing = rule.places.len() - number;
                    self.release(program, counter, 1, missing);
                    fault = Some(full);
                    break;
                }
            }
        }
        if let Some(fault) = fault {
            self.take_out(&named);
            return Err(fault.into());
        }
        self.note(&rule.actions);
        self.note_group(rule.group);
        rule.uses.iter().for_each(|used| self.objects.take(*used));
        named.uses = rule.uses.clone().into();
        if let (Some(age), Some(counter)) = (rule.age, counter) {
            self.ageing.watch(Subject::Rule(port, id), age, counter);
        }
        self.names.insert(rule.name, named);
        Ok(())
    }

    /// Takes note of what lcores must be ready for.
    pub(super) fn note(&mut self, actions: &[RuleAction]) {
        self.tracks |= any(actions, |action| matches!(action, RuleAction::Ct(_)));
        self.replaces |= any(actions, |action| matches!(action, RuleAction::Replace(_)));
    }

    /// Nobody has looked for rules about what leaves as long as there was none.
    fn note_group(&mut self, group: u32) {
        if group == EGRESS_START && !self.leaving {
            self.leaving = true;
            self.outdate();
        }
    }

    /// A counter that no rule has, for an indirect action.
    pub(super) fn take_counter(&mut self) -> Result<u32, RuleError> {
        Ok(self.counters.take(1)?)
    }

    /// Gives it back. No lcore counts by it any more, or nobody minds.
    pub(super) fn give_counter(&mut self, counter: u32) {
        self.counters.give(counter);
    }

    /// Packets and bytes under a counter.
    pub(super) fn read_counter(&self, counter: u32) -> (u64, u64) {
        self.counters.read(counter)
    }

    /// Whatever was decided is outdated with the next publication.
    pub(super) fn outdate(&mut self) {
        self.generation += 1;
    }

    /// The meters and indirect actions that rules may name.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Meters come and go with those of the lcores.
    pub fn objects_mut(&mut self) -> &mut Objects {
        &mut self.objects
    }

    /// Rules and indirect actions that no packet has met for as long as their `age` says. To be asked once a second or so: what was met is noticed then,
    /// so nothing is called old too early, and late by the time between two questions at most.
    pub fn aged(&mut self, now: Instant) -> Vec<Aged> {
        let counters = &self.counters;
        self.ageing.look(now, |counter| counters.read(counter).0)
    }

    /// Gives back a program's and a counter's uses.
    fn release(&mut self, program: u32, counter: Option<u32>, programs: usize, counters: usize) {
        (0..programs).for_each(|_| self.actions.give(program));
        if let Some(counter) = counter {
            (0..counters).for_each(|_| self.counters.give(counter));
        }
    }

    fn take_out(&mut self, named: &Named) {
        named.places.iter().chain(&named.more).for_each(|place| {
            self.writer.remove(*place);
        });
        if let Some(extracts) = &named.extracts {
            self.slots.give(extracts);
        }
        for used in &named.uses {
            self.objects.give(*used);
        }
    }

    /// Prepares rules of one kind.
    ///
    /// # Errors
    /// [`RuleError::Full`].
    pub fn shape(
        &mut self,
        group: u32,
        priority: u32,
        mask: &FlowMask,
        actions: &ActionList,
    ) -> Result<Shape, RuleError> {
        let tuple = self.writer.tuple(group, mask)?;
        // Both stay as long as the table does; there are few kinds of rules.
        self.writer.pin(tuple);
        self.note(actions);
        self.note_group(group);
        Ok(Shape {
            tuple,
            priority,
            program: self.actions.take(actions),
            counts: actions.contains(&RuleAction::Count),
        })
    }

    /// Adds rules without names, each a shape and its bits; tells what became of each by its token.
    pub fn insert_shaped<'a>(
        &mut self,
        rules: impl Iterator<Item = (&'a Shape, &'a FlowKey, u64)>,
        mut done: impl FnMut(u64, Result<Placed, Full>),
    ) {
        let mut batch = arrayvec::ArrayVec::<NewRule, BATCH>::new();
        let mut rules = rules.peekable();
        while rules.peek().is_some() {
            for (shape, value, token) in rules.by_ref().take(BATCH) {
                let counter = match shape.counts {
                    true => self.counters.take(1).map(Some),
                    false => Ok(None),
                };
                let counter = match counter {
                    Ok(counter) => counter,
                    Err(full) => {
                        done(token, Err(full));
                        continue;
                    }
                };
                self.actions.again(shape.program);
                batch.push(NewRule {
                    tuple: shape.tuple,
                    priority: shape.priority,
                    value: *value,
                    program: shape.program,
                    name: token,
                    counter,
                });
            }
            let (actions, counters) = (&mut self.actions, &mut self.counters);
            self.writer.insert_all(&batch, |rule, placed| {
                if placed.is_err() {
                    actions.give(rule.program);
                    rule.counter
                        .into_iter()
                        .for_each(|counter| counters.give(counter));
                }
                let counter = rule.counter;
                done(rule.name, placed.map(|place| Placed { place, counter }));
            });
            batch.clear();
        }
    }

    /// Removes a rule without a name.
    ///
    /// # Errors
    /// [`RuleError::Gone`].
    pub fn remove_placed(&mut self, rule: Placed) -> Result<(), RuleError> {
        if self.writer.remove(rule.place) {
            Ok(())
        } else {
            Err(RuleError::Gone)
        }
    }

    /// What a rule without a name counted.
    ///
    /// # Errors
    /// [`RuleError::Gone`].
    pub fn counts_placed(&self, rule: Placed) -> Result<(u64, u64), RuleError> {
        self.writer.header(rule.place).ok_or(RuleError::Gone)?;
        Ok(rule
            .counter
            .map_or((0, 0), |counter| self.counters.read(counter)))
    }

    /// The version that the next publication has.
    pub fn pending(&self) -> u64 {
        self.writer.pending()
    }

    /// The version that every lcore has at least.
    pub fn acknowledged(&self) -> u64 {
        self.publisher.oldest_acknowledged() + self.first
    }

    /// Removes a rule; lcores see it until [`Self::publish`].
    ///
    /// # Errors
    /// [`RuleError::Unknown`].
    pub fn remove(&mut self, port: PortIndex, id: u32) -> Result<(), RuleError> {
        let named = self
            .names
            .remove(&(port, id))
            .ok_or(RuleError::Unknown { port, id })?;
        self.take_out(&named);
        self.ageing.forget(Subject::Rule(port, id));
        Ok(())
    }

    /// Removes all rules of a port that have names.
    pub fn flush(&mut self, port: PortIndex) {
        let names = self.names.keys();
        let of_port: Vec<u32> = names
            .filter(|(p, _)| *p == port)
            .map(|(_, id)| *id)
            .collect();
        for id in of_port {
            // It is there: its name was just read.
            let _ = self.remove(port, id);
        }
    }

    /// What a rule counted: packets and bytes; zero if it does not count.
    ///
    /// # Errors
    /// [`RuleError::Unknown`].
    pub fn counts(&self, port: PortIndex, id: u32) -> Result<(u64, u64), RuleError> {
        let named = self
            .names
            .get(&(port, id))
            .ok_or(RuleError::Unknown { port, id })?;
        Ok(named
            .counter
            .map_or((0, 0), |counter| self.counters.read(counter)))
    }

    /// Makes all changes since the last time visible at once. Lcores take them over at the top of their loop.
    pub fn publish(&mut self) {
        let rules = self.writer.publish();
        self.publisher.publish(RuleView {
            rules,
            tracks: self.tracks,
            replaces: self.replaces,
            leaving: self.leaving,
            generation: self.generation,
            extracts: self.slots.current(),
            actions: self.actions.shared(),
            objects: self.objects.lists(),
        });
        self.reclaim();
    }

    /// Takes back what no lcore needs any more.
    pub fn reclaim(&mut self) {
        self.publisher.reclaim();
        let acknowledged = self.acknowledged();
        let (actions, counters) = (&mut self.actions, &mut self.counters);
        self.writer
            .reclaim(acknowledged, |Released { program, counter }| {
                actions.give(program);
                counter
                    .into_iter()
                    .for_each(|counter| counters.give(counter));
            });
    }

    /// Whether all lcores run with the newest rules.
    pub fn settled(&self) -> bool {
        self.publisher.settled()
    }

    /// The rules as they were published last.
    pub fn view(&self) -> &RuleView {
        self.publisher.current()
    }

    /// What is done under a program's number.
    pub fn actions(&self, program: u32) -> &[RuleAction] {
        self.actions.list(program)
    }
}

/// A rule's name in a word: what the classifier keeps.
pub const fn name_of((port, id): (PortIndex, u32)) -> u64 {
    (port as u64) << 32 | id as u64
}

/// The name in a word.
pub const fn name_from(name: u64) -> (PortIndex, u32) {
    ((name >> 32) as PortIndex, name as u32)
}

//! What rules name instead of carrying it: meters, and indirect actions, which several rules share and which change while rules use them
//! (`rte_flow_action_handle_create` and its kin).
//!
//! Objects are of a port, with numbers that the caller chooses. One that a rule or another object names is not destroyed.

use std::collections::HashMap;
use std::sync::Arc;

use sumeru_flow::Rule;
use sumeru_flow::model::Action;

use super::RuleError;
use super::action::ActionList;
use crate::frame::PortIndex;
use crate::qos::meter_table::MeterId;

/// Indirect actions as lcores see them: by number, immutable.
pub type SharedLists = Arc<HashMap<u32, ActionList>>;

/// What a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// An indirect action.
    Indirect(PortIndex, u32),
    /// A meter.
    Meter(PortIndex, u32),
}

/// An indirect action.
#[derive(Debug)]
pub struct Indirect {
    /// Never another's.
    pub number: u32,
    /// As it was given.
    pub action: Action,
    /// Its counter, if it counts.
    pub counter: Option<u32>,
    /// What it names itself.
    pub uses: Vec<Use>,
    users: usize,
}

#[derive(Debug)]
struct Metered {
    meter: MeterId,
    users: usize,
}

/// All objects, for control.
#[derive(Debug, Default)]
pub struct Objects {
    indirect: HashMap<(PortIndex, u32), Indirect>,
    meters: HashMap<(PortIndex, u32), Metered>,
    lists: SharedLists,
    next: u32,
}

fn unknown(what: &'static str, (port, id): (PortIndex, u32)) -> RuleError {
    RuleError::NoObject { what, port, id }
}

impl Objects {
    /// A rule with its indirect actions in place of their names, as its sense is checked.
    ///
    /// # Errors
    /// [`RuleError::NoObject`].
    pub fn resolved(&self, rule: &Rule, port: PortIndex) -> Result<Rule, RuleError> {
        let mut rule = rule.clone();
        for action in &mut rule.actions {
            if let Action::Indirect { id } = action {
                *action = self.get(port, *id)?.action.clone();
            }
        }
        Ok(rule)
    }

    /// The number of an indirect action.
    ///
    /// # Errors
    /// [`RuleError::NoObject`].
    pub fn number(&self, port: PortIndex, id: u32) -> Result<u32, RuleError> {
        self.get(port, id).map(|object| object.number)
    }

    /// An indirect action.
    ///
    /// # Errors
    /// [`RuleError::NoObject`].
    pub fn get(&self, port: PortIndex, id: u32) -> Result<&Indirect, RuleError> {
        let name = (port, id);
        self.indirect
            .get(&name)
            .ok_or(unknown("indirect action", name))
    }

    /// A meter.
    ///
    /// # Errors
    /// [`RuleError::NoObject`].
    pub fn meter(&self, port: PortIndex, id: u32) -> Result<MeterId, RuleError> {
        let found = self.meters.get(&(port, id));
        found
            .map(|metered| metered.meter)
            .ok_or(unknown("meter", (port, id)))
    }

    /// Keeps a meter's name.
    ///
    /// # Errors
    /// [`RuleError::ObjectExists`].
    pub fn add_meter(&mut self, port: PortIndex, id: u32, meter: MeterId) -> Result<(), RuleError> {
        let what = "meter";
        if self.meters.contains_key(&(port, id)) {
            return Err(RuleError::ObjectExists { what, port, id });
        }
        self.meters.insert((port, id), Metered { meter, users: 0 });
        Ok(())
    }

    /// Forgets a meter.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::InUse`].
    pub fn remove_meter(&mut self, port: PortIndex, id: u32) -> Result<MeterId, RuleError> {
        let (what, name) = ("meter", (port, id));
        let metered = self.meters.get(&name).ok_or(unknown(what, name))?;
        let (meter, users) = (metered.meter, metered.users);
        if users > 0 {
            return Err(RuleError::InUse {
                what,
                port,
                id,
                users,
            });
        }
        self.meters.remove(&name);
        Ok(meter)
    }

    /// Keeps an indirect action.
    ///
    /// # Errors
    /// [`RuleError::ObjectExists`].
    pub fn add(
        &mut self,
        (port, id): (PortIndex, u32),
        action: Action,
        list: ActionList,
        counter: Option<u32>,
        uses: Vec<Use>,
    ) -> Result<(), RuleError> {
        if self.indirect.contains_key(&(port, id)) {
            let what = "indirect action";
            return Err(RuleError::ObjectExists { what, port, id });
        }
        let number = self.next;
        self.next += 1;
        uses.iter().for_each(|used| self.take(*used));
        let object = Indirect {
            number,
            action,
            counter,
            uses,
            users: 0,
        };
        self.indirect.insert((port, id), object);
        Arc::make_mut(&mut self.lists).insert(number, list);
        Ok(())
    }

    /// Gives an indirect action other arguments.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::ObjectKind`].
    pub fn update(
        &mut self,
        (port, id): (PortIndex, u32),
        action: Action,
        list: ActionList,
        uses: Vec<Use>,
    ) -> Result<(), RuleError> {
        let name = (port, id);
        let object = self
            .indirect
            .get_mut(&name)
            .ok_or(unknown("indirect action", name))?;
        let (found, expected) = (action.name(), object.action.name());
        if found != expected {
            return Err(RuleError::ObjectKind {
                port,
                id,
                found,
                expected,
            });
        }
        object.action = action;
        let (number, old) = (
            object.number,
            std::mem::replace(&mut object.uses, uses.clone()),
        );
        uses.into_iter().for_each(|used| self.take(used));
        old.into_iter().for_each(|used| self.give(used));
        Arc::make_mut(&mut self.lists).insert(number, list);
        Ok(())
    }

    /// Forgets an indirect action.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::InUse`].
    pub fn remove(&mut self, port: PortIndex, id: u32) -> Result<Indirect, RuleError> {
        let users = self.get(port, id)?.users;
        if users > 0 {
            let what = "indirect action";
            return Err(RuleError::InUse {
                what,
                port,
                id,
                users,
            });
        }
        let name = (port, id);
        let object = self
            .indirect
            .remove(&name)
            .ok_or(unknown("indirect action", name))?;
        object.uses.iter().for_each(|used| self.give(*used));
        Arc::make_mut(&mut self.lists).remove(&object.number);
        Ok(object)
    }

    fn users(&mut self, used: Use) -> Option<&mut usize> {
        match used {
            Use::Indirect(port, id) => self.indirect.get_mut(&(port, id)).map(|o| &mut o.users),
            Use::Meter(port, id) => self.meters.get_mut(&(port, id)).map(|m| &mut m.users),
        }
    }

    /// One more names it.
    pub fn take(&mut self, used: Use) {
        if let Some(users) = self.users(used) {
            *users += 1;
        }
    }

    /// One less does.
    pub fn give(&mut self, used: Use) {
        if let Some(users) = self.users(used) {
            *users = users.saturating_sub(1);
        }
    }

    /// The indirect actions, for lcores.
    pub fn lists(&self) -> SharedLists {
        self.lists.clone()
    }
}

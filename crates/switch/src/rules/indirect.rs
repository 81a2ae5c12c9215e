//! Indirect actions: made, changed, asked and destroyed. Rules that name one do what it says at the time.

use std::time::Instant;

use sumeru_flow::model::IndirectAction;

use super::action::{self, Compiled, RuleAction};
use super::ageing::Subject;
use super::compile::Context;
use super::table::RuleTable;
use super::{ActionList, RuleError};
use crate::frame::PortIndex;

/// What an indirect action answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A `count`.
    Count {
        /// Packets over all rules.
        packets: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// An `age`.
    Age {
        /// Whether it has grown old.
        aged: bool,
        /// Whole seconds since a packet was last noticed.
        idle: u64,
    },
}

/// The list with the rule's own counter replaced by this one.
fn tallied(list: ActionList, counter: Option<u32>) -> ActionList {
    let own = |action| match (action, counter) {
        (RuleAction::Count, Some(counter)) => RuleAction::Tally(counter),
        (action, _) => action,
    };
    list.into_vec().into_iter().map(own).collect()
}

impl RuleTable {
    fn compile_object(
        &self,
        action: &IndirectAction,
        context: &Context,
    ) -> Result<Compiled, RuleError> {
        action.validate()?;
        action::compile(std::slice::from_ref(&action.action), context, &self.objects)
    }

    /// Makes an indirect action, named by the context's port and number. Rules can name it at once.
    ///
    /// # Errors
    /// [`RuleError::ObjectExists`], [`RuleError::Full`], and what the action itself is refused for.
    pub fn create_indirect(
        &mut self,
        action: &IndirectAction,
        context: &Context,
    ) -> Result<(), RuleError> {
        let (port, id) = (context.port, context.id);
        if self.objects.get(port, id).is_ok() {
            let what = "indirect action";
            return Err(RuleError::ObjectExists { what, port, id });
        }
        let done = self.compile_object(action, context)?;
        let counter = match done.list.contains(&RuleAction::Count) {
            true => Some(self.take_counter()?),
            false => None,
        };
        self.note(&done.list);
        let list = tallied(done.list, counter);
        self.objects
            .add((port, id), action.action.clone(), list, counter, done.uses)?;
        if let (Some(age), Some(counter)) = (done.age, counter) {
            self.ageing.watch(Subject::Indirect(port, id), age, counter);
        }
        Ok(())
    }

    /// Gives an indirect action other arguments; the rules that name it follow with the next publication.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::ObjectKind`], and what the action itself is refused for; nothing has changed then.
    pub fn update_indirect(
        &mut self,
        action: &IndirectAction,
        context: &Context,
    ) -> Result<(), RuleError> {
        let (port, id) = (context.port, context.id);
        let counter = self.objects.get(port, id)?.counter;
        let done = self.compile_object(action, context)?;
        let list = tallied(done.list, counter);
        self.objects
            .update((port, id), action.action.clone(), list.clone(), done.uses)?;
        self.note(&list);
        if let Some(age) = done.age {
            self.ageing.update(Subject::Indirect(port, id), age);
        }
        self.outdate();
        Ok(())
    }

    /// Destroys an indirect action.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::InUse`].
    pub fn destroy_indirect(&mut self, port: PortIndex, id: u32) -> Result<(), RuleError> {
        let object = self.objects.remove(port, id)?;
        self.ageing.forget(Subject::Indirect(port, id));
        if let Some(counter) = object.counter {
            self.give_counter(counter);
        }
        Ok(())
    }

    /// What an indirect `count` has counted, or how old an indirect `age` is.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::Unsupported`] for other actions.
    pub fn query_indirect(
        &mut self,
        port: PortIndex,
        id: u32,
        now: Instant,
    ) -> Result<Answer, RuleError> {
        let object = self.objects.get(port, id)?;
        let counter = object.counter.ok_or(RuleError::Unsupported {
            what: "query of an indirect action that neither counts nor ages",
            expected: "an indirect count or age",
        })?;
        let (packets, bytes) = self.read_counter(counter);
        let subject = Subject::Indirect(port, id);
        Ok(match self.ageing.idle(subject, now, |_| packets) {
            Some((idle, age)) => Answer::Age {
                aged: idle.as_secs() >= age.timeout.into(),
                idle: idle.as_secs(),
            },
            None => Answer::Count { packets, bytes },
        })
    }
}

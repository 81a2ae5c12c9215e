//! Many changes as one: rules that go and rules that come, all of them or none.

use std::collections::HashSet;

use super::RuleTable;
use crate::frame::PortIndex;
use crate::rules::ageing::Subject;
use crate::rules::{CompiledRule, Objects, RuleError};

/// Which rule of an exchange was at fault, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// One that was to go.
    Remove(usize),
    /// One that was to come.
    Add(usize),
}

impl RuleTable {
    /// Removes rules and adds others; lcores see the whole of it after [`Self::publish`], and nothing of it before. A rule may come under the name of one that
    /// goes. Rules to add are taken and compiled one by one, so that not all of them need to exist at the same time.
    ///
    /// # Errors
    /// The first rule at fault and why; the rules are what they were then.
    pub fn exchange<R, E: From<RuleError>>(
        &mut self,
        remove: &[(PortIndex, u32)],
        add: impl IntoIterator<Item = R>,
        compile: impl Fn(R, &Objects) -> Result<CompiledRule, E>,
    ) -> Result<(), (At, E)> {
        let tracks = self.tracks;
        let mut leaving = Vec::with_capacity(remove.len());
        let mut added = HashSet::new();
        let mut fault = None;
        for (at, name) in remove.iter().enumerate() {
            // Names only: the rules themselves go when nothing can be refused any more.
            if let Some(named) = self.names.remove(name) {
                leaving.push((*name, named));
                continue;
            }
            let (port, id) = *name;
            fault = Some((At::Remove(at), RuleError::Unknown { port, id }.into()));
            break;
        }
        if fault.is_none() {
            for (at, rule) in add.into_iter().enumerate() {
                let done = compile(rule, &self.objects).and_then(|rule| {
                    self.insert(&rule)?;
                    Ok((rule.name, rule.age.is_some()))
                });
                match done {
                    Ok(new) => {
                        added.insert(new);
                    }
                    Err(error) => {
                        fault = Some((At::Add(at), error));
                        break;
                    }
                }
            }
        }
        let Some(fault) = fault else {
            for (name, named) in &leaving {
                self.take_out(named);
                // A new rule of that name that ages is watched instead already.
                if !added.contains(&(*name, true)) {
                    self.ageing.forget(Subject::Rule(name.0, name.1));
                }
            }
            return Ok(());
        };
        for (name, _) in added {
            if let Some(named) = self.names.remove(&name) {
                self.ageing.forget(Subject::Rule(name.0, name.1));
                self.take_out(&named);
            }
        }
        for (name, named) in &leaving {
            if let (Some(age), Some(counter)) = (named.age, named.counter) {
                self.ageing
                    .watch(Subject::Rule(name.0, name.1), age, counter);
            }
        }
        self.names.extend(leaving);
        self.tracks = tracks;
        Err(fault)
    }
}

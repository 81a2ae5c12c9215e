//! Many rules as one change: one version, one wait for the lcores.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use sumeru_flow::{PortRef, Rule};

use super::{Switch, SwitchError};
use crate::frame::PortIndex;
use crate::rules::queue::lock;
use crate::rules::{self, At};
use crate::snapshot::PortView;

/// A rule to install.
#[derive(Debug, Clone)]
pub struct NewRule<'a> {
    /// The port whose rule it is.
    pub port: PortIndex,
    /// Its number on the port.
    pub id: u32,
    /// Attributes, pattern and actions.
    pub rule: Cow<'a, Rule>,
}

/// Why a batch of rules was refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// One of its rules.
    #[error("rule {id} of port {port}: {error}")]
    Rule {
        /// Its place in its list.
        at: At,
        /// The port.
        port: PortIndex,
        /// The rule's number.
        id: u32,
        /// What is wrong with it.
        error: SwitchError,
    },
    /// An lcore is gone; the change was made.
    #[error(transparent)]
    Switch(SwitchError),
}

impl BatchError {
    /// The error without the rule's name.
    fn inner(self) -> SwitchError {
        match self {
            Self::Rule { error, .. } | Self::Switch(error) => error,
        }
    }
}

/// Ports by number and by name; names are collected when the first one is asked for.
struct Resolver<'a> {
    ports: &'a [Option<PortView>],
    names: OnceCell<HashMap<&'a str, PortIndex>>,
}

impl<'a> Resolver<'a> {
    fn new(ports: &'a [Option<PortView>]) -> Self {
        Self {
            ports,
            names: OnceCell::new(),
        }
    }

    fn resolve(&self, wanted: &PortRef) -> Option<PortIndex> {
        let there = |index: u32| self.ports.get(index as usize)?.as_ref();
        if let Some(port) = wanted.number().and_then(there) {
            return Some(port.index);
        }
        let collect = || {
            let views = self.ports.iter().flatten();
            views.map(|view| (&*view.name, view.index)).collect()
        };
        self.names
            .get_or_init(collect)
            .get(wanted.as_str())
            .copied()
    }
}

impl Switch {
    /// Compiles a rule without installing it.
    ///
    /// # Errors
    /// See [`rules::RuleError`].
    pub fn compile(
        &self,
        port: PortIndex,
        id: u32,
        rule: &Rule,
    ) -> Result<rules::CompiledRule, SwitchError> {
        if lock(&self.rules).contains(port, id) {
            return Err(rules::RuleError::Exists { port, id }.into());
        }
        let resolver = Resolver::new(&self.publisher.current().ports);
        let resolve = |wanted: &PortRef| resolver.resolve(wanted);
        let context = rules::Context {
            port,
            id,
            resolve: &resolve,
        };
        let rules = lock(&self.rules);
        Ok(rules::compile_with(rule, &context, rules.objects())?)
    }

    /// Removes rules and installs others, all or none: a packet meets the rules before or those after, never a mix. A new rule may take the name of one that goes.
    /// New rules are asked for one by one, so that millions of them need not exist at the same time.
    ///
    /// # Errors
    /// The first rule at fault; nothing has changed then.
    pub fn change_rules<'a>(
        &mut self,
        add: impl IntoIterator<Item = NewRule<'a>>,
        remove: &[(PortIndex, u32)],
    ) -> Result<(), BatchError> {
        let resolver = Resolver::new(&self.publisher.current().ports);
        let resolve = |wanted: &PortRef| resolver.resolve(wanted);
        let last = Cell::new((0, 0));
        let done = lock(&self.rules).exchange(remove, add, |new, objects| {
            last.set((new.port, new.id));
            let context = rules::Context {
                port: new.port,
                id: new.id,
                resolve: &resolve,
            };
            rules::compile_with(&new.rule, &context, objects).map_err(SwitchError::from)
        });
        done.map_err(|(at, error)| {
            let (port, id) = match at {
                At::Add(_) => last.get(),
                At::Remove(at) => remove.get(at).copied().unwrap_or_default(),
            };
            BatchError::Rule {
                at,
                port,
                id,
                error,
            }
        })?;
        self.publish_rules().map_err(BatchError::Switch)
    }

    /// Installs a rule.
    ///
    /// # Errors
    /// See [`rules::RuleError`].
    pub fn insert_rule(
        &mut self,
        port: PortIndex,
        id: u32,
        rule: &Rule,
    ) -> Result<(), SwitchError> {
        let rule = Cow::Borrowed(rule);
        self.change_rules([NewRule { port, id, rule }], &[])
            .map_err(BatchError::inner)
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// [`rules::RuleError::Unknown`].
    pub fn remove_rule(&mut self, port: PortIndex, id: u32) -> Result<(), SwitchError> {
        self.change_rules([], &[(port, id)])
            .map_err(BatchError::inner)
    }
}

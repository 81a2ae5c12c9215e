//! Many rules as one change: one version, one wait for the lcores.

use std::cell::OnceCell;
use std::collections::HashMap;

use sumeru_flow::{PortRef, Rule};

use super::{Switch, SwitchError};
use crate::frame::PortIndex;
use crate::rules::queue::lock;
use crate::rules::{self, At};
use crate::snapshot::PortView;

/// A rule to install.
#[derive(Debug, Clone, Copy)]
pub struct NewRule<'a> {
    /// The port whose rule it is.
    pub port: PortIndex,
    /// Its number on the port.
    pub id: u32,
    /// Attributes, pattern and actions.
    pub rule: &'a Rule,
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
    ///
    /// # Errors
    /// The first rule at fault; nothing has changed then.
    pub fn change_rules(
        &mut self,
        add: &[NewRule<'_>],
        remove: &[(PortIndex, u32)],
    ) -> Result<(), BatchError> {
        let resolver = Resolver::new(&self.publisher.current().ports);
        let resolve = |wanted: &PortRef| resolver.resolve(wanted);
        let mut table = lock(&self.rules);
        let compile = |new: &NewRule<'_>| {
            let context = rules::Context {
                port: new.port,
                id: new.id,
                resolve: &resolve,
            };
            rules::compile_with(new.rule, &context, table.objects()).map_err(SwitchError::from)
        };
        let compiled: Vec<_> = add.iter().map(compile).collect();
        let done = table.exchange(remove, compiled);
        drop(table);
        done.map_err(|(at, error)| {
            let (port, id) = match at {
                At::Add(at) => add.get(at).map(|new| (new.port, new.id)),
                At::Remove(at) => remove.get(at).copied(),
            }
            .unwrap_or_default();
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
        self.change_rules(&[NewRule { port, id, rule }], &[])
            .map_err(BatchError::inner)
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// [`rules::RuleError::Unknown`].
    pub fn remove_rule(&mut self, port: PortIndex, id: u32) -> Result<(), SwitchError> {
        self.change_rules(&[], &[(port, id)])
            .map_err(BatchError::inner)
    }
}

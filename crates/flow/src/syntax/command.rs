//! The commands, as values. Their text is read in `grammar` and written in `print_command`.

use crate::model::{
    Action, ActionsTemplate, Definition, FlowConfiguration, IndirectAction, Item, Meter,
    MeterPolicy, MeterProfile, PatternTemplate, PortRef, Rule, TemplateTable,
};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create a rule on a port.
    Create {
        /// The port.
        port: PortRef,
        /// The rule.
        rule: Rule,
    },
    /// Say whether the rule could be created, without creating it.
    Validate {
        /// The port.
        port: PortRef,
        /// The rule.
        rule: Rule,
    },
    /// Destroy rules of a port by their ids.
    Destroy {
        /// The port.
        port: PortRef,
        /// At least one rule id.
        rules: Vec<u64>,
    },
    /// Destroy all rules of a port.
    Flush {
        /// The port.
        port: PortRef,
    },
    /// List the rules of a port.
    List {
        /// The port.
        port: PortRef,
        /// Groups to list; all if empty.
        groups: Vec<u32>,
    },
    /// Read the counter of a rule.
    QueryCount {
        /// The port.
        port: PortRef,
        /// The rule id.
        rule: u64,
    },
    /// Read how long no packet has matched a rule that has `age`.
    QueryAge {
        /// The port.
        port: PortRef,
        /// The rule id.
        rule: u64,
    },
    /// Let packets in only by rules, or also otherwise.
    Isolate {
        /// The port.
        port: PortRef,
        /// Whether only by rules.
        on: bool,
    },
    /// List the rules that have aged.
    Aged {
        /// The port.
        port: PortRef,
        /// Whether to destroy them.
        destroy: bool,
    },
    /// Show rules as the engine has them.
    Dump {
        /// The port.
        port: PortRef,
        /// The rule; all if absent.
        rule: Option<u64>,
    },
    /// Something with an indirect action.
    Indirect {
        /// The port.
        port: PortRef,
        /// What.
        command: IndirectCommand,
    },
    /// Reserve resources for asynchronous operations.
    Configure {
        /// The port.
        port: PortRef,
        /// How many of which.
        configuration: FlowConfiguration,
    },
    /// Create or destroy pattern templates.
    PatternTemplate {
        /// The port.
        port: PortRef,
        /// Which.
        command: ObjectCommand<PatternTemplate>,
    },
    /// Create or destroy actions templates.
    ActionsTemplate {
        /// The port.
        port: PortRef,
        /// Which.
        command: ObjectCommand<ActionsTemplate>,
    },
    /// Create or destroy tables.
    TemplateTable {
        /// The port.
        port: PortRef,
        /// Which.
        command: ObjectCommand<TemplateTable>,
    },
    /// Enqueue an operation.
    Queue {
        /// The port.
        port: PortRef,
        /// The queue.
        queue: u32,
        /// The operation.
        command: QueueCommand,
    },
    /// Begin what has been enqueued and postponed.
    Push {
        /// The port.
        port: PortRef,
        /// The queue.
        queue: u32,
    },
    /// Take results of operations.
    Pull {
        /// The port.
        port: PortRef,
        /// The queue.
        queue: u32,
    },
    /// Something with meters.
    Meter {
        /// The port.
        port: PortRef,
        /// What.
        command: MeterCommand,
    },
    /// Define something for later rules.
    Define(Definition),
}

/// Creation of one object, or destruction of some by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectCommand<T> {
    /// Create it.
    Create(T),
    /// Destroy these, at least one.
    Destroy(Vec<u32>),
}

/// What is done with indirect actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndirectCommand {
    /// Create one.
    Create(IndirectAction),
    /// Change one.
    Update {
        /// Its number.
        id: u32,
        /// What it is to do.
        action: Action,
    },
    /// Destroy these, at least one.
    Destroy(Vec<u32>),
    /// Read its counters or its state.
    Query {
        /// Its number.
        id: u32,
    },
}

/// An operation on a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueCommand {
    /// Create a rule.
    Create {
        /// The table.
        table: u32,
        /// The place of the pattern template in the table.
        pattern_template: u32,
        /// The place of the actions template in the table.
        actions_template: u32,
        /// Whether it may wait for `push`.
        postpone: bool,
        /// Values for the items of the template.
        pattern: Vec<Item>,
        /// Values for the actions of the template.
        actions: Vec<Action>,
    },
    /// Destroy rules.
    Destroy {
        /// Whether it may wait for `push`.
        postpone: bool,
        /// At least one rule id.
        rules: Vec<u64>,
    },
    /// List the rules of the queue that have aged.
    Aged {
        /// Whether to destroy them.
        destroy: bool,
    },
    /// Something with an indirect action.
    Indirect {
        /// Whether it may wait for `push`.
        postpone: bool,
        /// What.
        command: IndirectCommand,
    },
}

/// What is done with meters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeterCommand {
    /// Add a profile.
    AddProfile {
        /// Its number.
        id: u32,
        /// The profile.
        profile: MeterProfile,
    },
    /// Delete a profile.
    DeleteProfile {
        /// Its number.
        id: u32,
    },
    /// Add a policy.
    AddPolicy {
        /// Its number.
        id: u32,
        /// The policy.
        policy: MeterPolicy,
    },
    /// Delete a policy.
    DeletePolicy {
        /// Its number.
        id: u32,
    },
    /// Create a meter.
    Create {
        /// Its number.
        id: u32,
        /// The meter.
        meter: Meter,
    },
    /// Let it work.
    Enable {
        /// Its number.
        id: u32,
    },
    /// Let it pass everything.
    Disable {
        /// Its number.
        id: u32,
    },
    /// Delete it.
    Delete {
        /// Its number.
        id: u32,
    },
    /// Give it another profile.
    SetProfile {
        /// Its number.
        id: u32,
        /// The profile's number.
        profile: u32,
    },
    /// Show what it counted.
    Stats {
        /// Its number.
        id: u32,
        /// Whether to begin anew from 0.
        clear: bool,
    },
}

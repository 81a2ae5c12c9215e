//! Flow rules: compiled ([`compile()`]), kept and published ([`RuleTable`]), and as an lcore sees them ([`RuleView`]).

pub mod action;
mod actions;
pub mod ageing;
pub mod compile;
mod extract;
mod indirect;
pub mod objects;
mod pattern;
pub mod queue;
mod table;
mod target;

use sumeru_flow::FlowError;

use crate::classifier::Full;
use crate::frame::PortIndex;
pub use action::{ActionList, CtChange, CtRule, RuleAction};
pub use ageing::Aged;
pub use compile::{CompiledRule, Context, EGRESS_START, compile, compile_pattern, compile_with};
pub use extract::{Extracts, Parsing};
pub use indirect::Answer;
pub use objects::Objects;
pub use queue::{Completion, FlowQueue, SharedRules};
pub use table::{At, Placed, RuleTable, RuleView, Shape, name_from};

/// Why the engine does not take a rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The rule is wrong in itself.
    #[error(transparent)]
    Invalid(#[from] FlowError),
    /// An indirect action is wrong in itself.
    #[error(transparent)]
    Object(#[from] sumeru_flow::model::TemplateError),
    /// A port that the rule names does not exist.
    #[error("{place} names port {port}, which does not exist")]
    UnknownPort {
        /// The item or action.
        place: &'static str,
        /// The port.
        port: String,
    },
    /// A field that the engine does not match.
    #[error(
        "field {field} of item {item} is not matched by the engine; expected one of: {expected}"
    )]
    Field {
        /// The item's token.
        item: &'static str,
        /// The field's token.
        field: &'static str,
        /// What could be matched instead.
        expected: String,
    },
    /// An item that no packet has which meets the rest of the pattern.
    #[error("item {item} contradicts the rest of the pattern; no packet meets both")]
    Contradiction {
        /// The item's token.
        item: &'static str,
    },
    /// Bytes that the parser would have to fetch, of which it fetches no more.
    #[error("all {what} that the engine can look for at once ({limit}) are in use by other rules")]
    NoExtraction {
        /// What would be fetched.
        what: &'static str,
        /// How many there are.
        limit: usize,
    },
    /// A range of a part of a field.
    #[error("field {field} of item {item} is a range under a mask; a range is of whole fields")]
    Range {
        /// The item's token.
        item: &'static str,
        /// The field's token.
        field: &'static str,
    },
    /// An item or action that the engine does not carry out here.
    #[error("{what} is not supported: {expected}")]
    Unsupported {
        /// The item, action or attribute.
        what: &'static str,
        /// What would work.
        expected: &'static str,
    },
    /// Ranges that take too many prefixes.
    #[error(
        "the ranges of the rule take {needed} prefixes together, expected at most {}",
        compile::MAX_PLACES
    )]
    TooWide {
        /// How many they take.
        needed: usize,
    },
    /// No room for it.
    #[error(transparent)]
    Full(#[from] Full),
    /// The rule's name is taken.
    #[error("rule {id} of port {port} exists already")]
    Exists {
        /// The port.
        port: PortIndex,
        /// The rule's number.
        id: u32,
    },
    /// A meter or indirect action that does not exist.
    #[error("there is no {what} {id} of port {port}")]
    NoObject {
        /// What it would be.
        what: &'static str,
        /// The port.
        port: PortIndex,
        /// Its number.
        id: u32,
    },
    /// The number of a meter or indirect action is taken.
    #[error("{what} {id} of port {port} exists already")]
    ObjectExists {
        /// What it is.
        what: &'static str,
        /// The port.
        port: PortIndex,
        /// Its number.
        id: u32,
    },
    /// A meter or indirect action that rules name.
    #[error("{what} {id} of port {port} is used by {users} rules or objects; destroy those first")]
    InUse {
        /// What it is.
        what: &'static str,
        /// The port.
        port: PortIndex,
        /// Its number.
        id: u32,
        /// How many name it.
        users: usize,
    },
    /// An indirect action cannot become another one.
    #[error("indirect action {id} of port {port} is a {expected}, not a {found}")]
    ObjectKind {
        /// The port.
        port: PortIndex,
        /// Its number.
        id: u32,
        /// What it should become.
        found: &'static str,
        /// What it is.
        expected: &'static str,
    },
    /// A rule without a name that is not there any more.
    #[error("the rule was destroyed already")]
    Gone,
    /// There is no such rule.
    #[error("there is no rule {id} of port {port}")]
    Unknown {
        /// The port.
        port: PortIndex,
        /// The rule's number.
        id: u32,
    },
}

#[cfg(test)]
mod frames;
#[cfg(test)]
mod pattern_tests;
#[cfg(test)]
mod tests;

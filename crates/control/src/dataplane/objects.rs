//! What meters and indirect actions have seen, and what has grown old, in the control plane's words.

use serde::Serialize;

use super::FlowCount;

/// What a meter has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MeterCount {
    /// Coloured green.
    pub green: FlowCount,
    /// Coloured yellow.
    pub yellow: FlowCount,
    /// Coloured red.
    pub red: FlowCount,
    /// Dropped, of any colour.
    pub dropped: FlowCount,
}

/// What an indirect action answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IndirectAnswer {
    /// A `count`: what all rules that name it counted together.
    Count(FlowCount),
    /// An `age`.
    Age {
        /// Whether it has grown old.
        aged: bool,
        /// Whole seconds since a packet was last noticed.
        idle_s: u64,
    },
}

/// What can grow old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgedKind {
    /// A rule.
    Rule,
    /// An indirect `age`.
    Indirect,
}

/// Something that has grown old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AgedFlow {
    /// Index of its port.
    #[serde(skip)]
    pub port: u16,
    /// What it is.
    pub kind: AgedKind,
    /// Its number.
    pub id: u32,
    /// The context that its `age` action gives; 0 for none.
    pub context: u64,
    /// Whole seconds since it was last seen in use, or made.
    pub idle_s: u64,
}

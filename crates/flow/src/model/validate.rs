//! Whether a rule makes sense (Programmer's Guide, "Matching pattern", "Attributes", "Actions").
//!
//! What can be wrong, and the limits. The order of items and contradictions between them are judged in
//! `stack`, actions in `follow`. Never asks whether a back end supports the rule, or whether its ports,
//! groups and objects exist.

use super::Rule;
use super::field::EtherType;
use super::{follow, stack};

/// Most items a pattern can have.
pub const MAX_ITEMS: usize = 64;

/// Most actions a rule can have.
pub const MAX_ACTIONS: usize = 64;

/// Why a rule makes no sense. Items and actions are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The pattern is too long.
    #[error("the pattern has {found} items, the limit is {MAX_ITEMS}")]
    TooManyItems {
        /// Number of items.
        found: usize,
    },
    /// The list of actions is too long.
    #[error("the rule has {found} actions, the limit is {MAX_ACTIONS}")]
    TooManyActions {
        /// Number of actions.
        found: usize,
    },
    /// Neither `ingress`, `egress` nor `transfer`.
    #[error("the rule has no direction; expected `ingress`, `egress` or `transfer`")]
    NoDirection,
    /// `transfer` together with a direction.
    #[error("`transfer` cannot be combined with `ingress` or `egress`; match the port by an item")]
    TransferWithDirection,
    /// A header that cannot stand behind the one before.
    #[error(
        "item {index}: `{item}` cannot follow `{after}`; expected {}",
        alternatives(expected)
    )]
    ItemOrder {
        /// Place of the item in the pattern.
        index: usize,
        /// The item.
        item: &'static str,
        /// The header item before it.
        after: &'static str,
        /// What may follow that one, besides `any`, `raw` and the end of the pattern.
        expected: &'static [&'static str],
    },
    /// An item that only makes sense behind another one.
    #[error("item {index}: `{item}` needs {needs} before it")]
    ItemNeeds {
        /// Place of the item in the pattern.
        index: usize,
        /// The item.
        item: &'static str,
        /// What must stand before it.
        needs: &'static str,
    },
    /// A range in an item that has none.
    #[error("item {index}: `{item}` has no ranges, `last` of field `{field}` cannot be given")]
    NoRange {
        /// Place of the item in the pattern.
        index: usize,
        /// The item.
        item: &'static str,
        /// The field.
        field: &'static str,
    },
    /// An item that matches metadata stands in the pattern twice.
    #[error("item {index}: `{item}` is there twice")]
    DuplicateItem {
        /// Place of the second one.
        index: usize,
        /// The item.
        item: &'static str,
    },
    /// A field excludes every packet that the next item matches, or every packet at all.
    #[error("item {index}: field `{field}` of `{item}` excludes {excluded}")]
    Contradiction {
        /// Place of the item with the field.
        index: usize,
        /// That item.
        item: &'static str,
        /// The field.
        field: &'static str,
        /// What it excludes.
        excluded: &'static str,
    },
    /// The upper bound of a range is below the lower one.
    #[error("item {index}: `last` of field `{field}` of `{item}` is below its `spec`")]
    ReversedRange {
        /// Place of the item.
        index: usize,
        /// The item.
        item: &'static str,
        /// The field.
        field: &'static str,
    },
    /// No action says where the packet goes.
    #[error(
        "the rule has no fate; expected one of `drop`, `jump`, `passthru`, `queue`, `rss`, `port_id`, \
         `port_representor`, `represented_port`, `ct` with a group"
    )]
    NoFate,
    /// Two actions say where the packet goes.
    #[error("action {index}: `{action}` decides the packet's fate, which `{first}` already does")]
    SeveralFates {
        /// Place of the second one.
        index: usize,
        /// The second action.
        action: &'static str,
        /// The first action.
        first: &'static str,
    },
    /// A change of the packet behind the action that sends it away.
    #[error("action {index}: `{action}` comes after `{fate}`; only `count` and `void` may")]
    ActionAfterFate {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The action that decided the packet's fate.
        fate: &'static str,
    },
    /// An action on a header that the packet is not known to have at that point.
    #[error("action {index}: `{action}` needs {needs} in the pattern or from an action before it")]
    MissingHeader {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The header.
        needs: &'static str,
    },
    /// An action on a header that stands so deep that the packet is not known to have it.
    #[error("action {index}: `{action}` at level {level}, but the pattern has {found}")]
    MissingLevel {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The level asked for, 1 the outermost.
        level: u32,
        /// Levels that there are.
        found: usize,
    },
    /// An action that is there twice and can only be there once.
    #[error("action {index}: `{action}` is there twice")]
    DuplicateAction {
        /// Place of the second one.
        index: usize,
        /// The action.
        action: &'static str,
    },
    /// An action that has no place in a rule.
    #[error("action {index}: `{action}` belongs into an indirect object; name that by `indirect`")]
    OnlyIndirect {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
    },
    /// Something wrong with the actions of a sample.
    #[error("action {index}: in `sample`, {error}")]
    Sample {
        /// Place of the sample.
        index: usize,
        /// What is wrong.
        error: Box<FlowError>,
    },
    /// A jump to the group that the rule is in.
    #[error("action {index}: `{action}` to group {group}, the rule's own")]
    JumpToOwnGroup {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The group.
        group: u32,
    },
    /// A tag protocol identifier that is none.
    #[error("action {index}: `of_push_vlan` with ethertype {ethertype}; expected 0x8100 or 0x88a8")]
    TagProtocol {
        /// Place of the action.
        index: usize,
        /// The value given.
        ethertype: EtherType,
    },
    /// An EtherType of MPLS that is none.
    #[error("action {index}: `of_push_mpls` with ethertype {ethertype}; expected 0x8847 or 0x8848")]
    MplsProtocol {
        /// Place of the action.
        index: usize,
        /// The value given.
        ethertype: EtherType,
    },
}

/// What may follow an item, in words.
fn alternatives(names: &[&str]) -> String {
    let named: String = names.iter().map(|name| format!("`{name}`, ")).collect();
    format!("{named}`any`, `raw` or the end of the pattern")
}

impl Rule {
    /// Whether the rule makes sense by itself.
    ///
    /// Header items must be stacked as headers are, lowest first; lower ones may be left out only
    /// at the bottom. Fields must leave room for the headers that follow, ranges for a value. There
    /// must be a direction and exactly one action that decides the packet's fate, with nothing but
    /// `count` and `void` behind it, and every change must be to a header that the pattern or an
    /// action before provides.
    pub fn validate(&self) -> Result<(), FlowError> {
        if self.pattern.len() > MAX_ITEMS {
            return Err(FlowError::TooManyItems {
                found: self.pattern.len(),
            });
        }
        if self.actions.len() > MAX_ACTIONS {
            return Err(FlowError::TooManyActions {
                found: self.actions.len(),
            });
        }
        let attributes = &self.attributes;
        match (attributes.transfer, attributes.ingress || attributes.egress) {
            (false, false) => return Err(FlowError::NoDirection),
            (true, true) => return Err(FlowError::TransferWithDirection),
            _ => {}
        }
        stack::check(&self.pattern)?;
        follow::check(self)
    }
}

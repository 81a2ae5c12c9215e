//! From a rule of the flow model to bits of the flow key and actions with their ports resolved.
//!
//! A pattern becomes a value under a mask (see `super::pattern`). A range becomes as many prefixes as it takes, so a rule may
//! stand at several places.

use sumeru_flow::Rule;
use sumeru_flow::model::{Item, PortRef};
use sumeru_packet::{Field, FlowKey, FlowMask};

use super::RuleError;
use super::action::{self, ActionList, Age};
use super::extract::Extracts;
use super::objects::{Objects, Use};
use super::pattern::{Compiled, Pattern};
use crate::frame::PortIndex;

/// Most places of a rule.
pub const MAX_PLACES: usize = 1024;

/// Where rules with the attribute `egress` of group 0 stand: what a frame that is about to leave by a port meets first.
pub const EGRESS_START: u32 = u32::MAX;

/// A compiled rule.
#[derive(Debug)]
pub struct CompiledRule {
    /// The port it was created on, and its number there.
    pub name: (PortIndex, u32),
    /// Lower is looked at first.
    pub priority: u32,
    /// Its group.
    pub group: u32,
    /// Where it stands: bits that matter and their values. A packet meets at most one of them.
    pub places: Vec<(FlowMask, FlowKey)>,
    /// Bytes that the parser must fetch for it.
    pub extracts: Extracts,
    /// What to do, in order.
    pub actions: ActionList,
    /// When it is old.
    pub age: Option<Age>,
    /// The objects it names.
    pub uses: Vec<Use>,
}

/// Where the rule comes from and how ports are found.
pub struct Context<'a> {
    /// The port that the rule is created on.
    pub port: PortIndex,
    /// Its number.
    pub id: u32,
    /// The index of a port.
    pub resolve: &'a dyn Fn(&PortRef) -> Option<PortIndex>,
}

/// Checks and compiles a rule.
///
/// # Errors
/// See [`RuleError`].
pub fn compile(rule: &Rule, context: &Context) -> Result<CompiledRule, RuleError> {
    compile_with(rule, context, &Objects::default())
}

/// Checks and compiles a rule that may name meters and indirect actions.
///
/// # Errors
/// See [`RuleError`].
pub fn compile_with(
    rule: &Rule,
    context: &Context,
    objects: &Objects,
) -> Result<CompiledRule, RuleError> {
    objects.resolved(rule, context.port)?.validate()?;
    let attributes = &rule.attributes;
    if attributes.egress && attributes.ingress {
        return Err(RuleError::Unsupported {
            what: "a rule for both directions",
            expected: "one rule with attribute ingress and one with attribute egress",
        });
    }
    if attributes.group == EGRESS_START {
        return Err(RuleError::Unsupported {
            what: "group 4294967295",
            expected: "a group below",
        });
    }
    let mut pattern = Pattern::default();
    let mut in_port = attributes.ingress.then_some(context.port);
    for (position, item) in rule.pattern.iter().enumerate() {
        match item {
            Item::PortId { port } | Item::RepresentedPort { port } => {
                if let Some(port) = port {
                    in_port = Some(resolve(context, item.name(), port)?);
                }
            }
            Item::PortRepresentor { .. } => {
                return Err(RuleError::Unsupported {
                    what: "item port_representor",
                    expected: "match what comes in from a guest or the wire with represented_port",
                });
            }
            _ => {
                let mut behind = rule.pattern.iter().skip(position + 1);
                let next = behind.find(|item| !matches!(item, Item::Void));
                pattern.add(item, next)?;
            }
        }
    }
    if let Some(port) = in_port {
        pattern.require("represented_port", Field::InPort, u128::MAX, port.into())?;
    }
    if attributes.egress {
        let port = u128::from(context.port) + 1;
        pattern.require("represented_port", Field::OutPort, u128::MAX, port)?;
    }
    let done = action::compile(&rule.actions, context, objects)?;
    let Compiled { places, extracts } = pattern.finish()?;
    Ok(CompiledRule {
        name: (context.port, context.id),
        priority: attributes.priority,
        group: match (attributes.group, attributes.egress) {
            (0, true) => EGRESS_START,
            (group, _) => group,
        },
        places,
        extracts,
        actions: done.list,
        age: done.age,
        uses: done.uses,
    })
}

/// Compiles a pattern that is no rule's: what a frame's headers must be. It names no port and nothing that a rule gave the frame.
///
/// # Errors
/// See [`RuleError`].
pub fn compile_pattern(items: &[Item]) -> Result<Vec<(FlowMask, FlowKey)>, RuleError> {
    let refused = |item: &Item| {
        let given = matches!(
            item,
            Item::Mark(_) | Item::Meta(_) | Item::Tag(_) | Item::Conntrack(_) | Item::Ct(_)
        );
        item.port().is_some() || given || matches!(item, Item::PortRepresentor { .. })
    };
    if items.iter().any(refused) {
        return Err(RuleError::Unsupported {
            what: "an item that is not about the frame's headers",
            expected: "items of headers only",
        });
    }
    let mut pattern = Pattern::default();
    for (position, item) in items.iter().enumerate() {
        let mut behind = items.iter().skip(position + 1);
        pattern.add(item, behind.find(|item| !matches!(item, Item::Void)))?;
    }
    let Compiled { places, extracts } = pattern.finish()?;
    if !extracts.is_empty() {
        return Err(RuleError::Unsupported {
            what: "a pattern with the data of Geneve options or raw bytes outside a rule",
            expected: "items of fixed headers",
        });
    }
    Ok(places)
}

/// The index of a port that an item or action names.
///
/// # Errors
/// [`RuleError::UnknownPort`].
pub(super) fn resolve(
    context: &Context,
    place: &'static str,
    port: &PortRef,
) -> Result<PortIndex, RuleError> {
    (context.resolve)(port).ok_or_else(|| RuleError::UnknownPort {
        place,
        port: port.to_string(),
    })
}

//! Objects of asynchronous rules: templates, tables, indirect actions (rte_flow.h, "Flow pattern
//! template", "Flow actions template", "Flow template table", "Flow action indirect").
//!
//! A pattern template says which bits are compared, an actions template which arguments are the same
//! for all rules; a rule then brings the rest. Nothing is created here.

use serde::{Deserialize, Serialize};

use super::action::{Action, Argument};
use super::item::{Access, Item};
use super::validate::{FlowError, MAX_ACTIONS, MAX_ITEMS};
use super::{Attributes, follow, stack};

/// Which way packets go that an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direction {
    /// Packets that arrive from the port.
    pub ingress: bool,
    /// Packets that leave through the port.
    pub egress: bool,
    /// Packets in the embedded switch.
    pub transfer: bool,
}

impl Direction {
    /// Whether a rule of these attributes may use the object.
    pub fn allows(self, attributes: &Attributes) -> bool {
        (self.ingress || !attributes.ingress)
            && (self.egress || !attributes.egress)
            && (self.transfer || !attributes.transfer)
    }

    fn check(self) -> Result<(), FlowError> {
        match (self.transfer, self.ingress || self.egress) {
            (false, false) => Err(FlowError::NoDirection),
            (true, true) => Err(FlowError::TransferWithDirection),
            _ => Ok(()),
        }
    }
}

/// Items whose masks the rules of a table share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternTemplate {
    /// Its number; chosen by the engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Whether headers without an item are not compared, either; if not, the items imply those below.
    #[serde(default)]
    pub relaxed: bool,
    /// What it is for.
    #[serde(default)]
    pub direction: Direction,
    /// The items. Their masks count, their values do not.
    pub pattern: Vec<Item>,
}

/// Actions that the rules of a table share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionsTemplate {
    /// Its number; chosen by the engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// What it is for.
    #[serde(default)]
    pub direction: Direction,
    /// The actions.
    pub actions: Vec<Action>,
    /// The same actions once more; an argument that is not zero here is the same for all rules.
    pub masks: Vec<Action>,
}

/// A table of rules made from templates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateTable {
    /// Its number; chosen by the engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Attributes of its rules.
    #[serde(default)]
    pub attributes: Attributes,
    /// Most rules it can hold.
    pub rules_number: u32,
    /// Numbers of the pattern templates; a rule names one by its place here.
    pub pattern_templates: Vec<u32>,
    /// Numbers of the actions templates; a rule names one by its place here.
    pub actions_templates: Vec<u32>,
}

/// An action that several rules share, or that is changed while rules use it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndirectAction {
    /// Its number; chosen by the engine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// What it is for.
    #[serde(default)]
    pub direction: Direction,
    /// The action.
    pub action: Action,
}

/// What `flow configure` reserves (`struct rte_flow_port_attr`, `struct rte_flow_queue_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfiguration {
    /// Queues of operations.
    pub queues_number: u16,
    /// Operations that one queue holds.
    pub queues_size: u32,
    /// Counters.
    pub counters_number: u32,
    /// Rules whose age is watched.
    pub aging_counters_number: u32,
    /// Meters.
    pub meters_number: u32,
    /// Tracked connections.
    pub conn_tracks_number: u32,
    /// `RTE_FLOW_PORT_FLAG_*`: 1 demands strict queues.
    pub flags: u32,
}

/// Why a template, a table or a rule made from them makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The items or actions are wrong in themselves.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// Two lists that should be the same items or actions in the same order are not.
    #[error("place {index} of the {list}: found {found}, expected {expected}")]
    Different {
        /// The list.
        list: &'static str,
        /// Where they differ.
        index: usize,
        /// What is there.
        found: &'static str,
        /// What the template has.
        expected: &'static str,
    },
    /// A table without something.
    #[error("the table has no {what}")]
    Empty {
        /// What it lacks.
        what: &'static str,
    },
}

/// Whether two lists of names are the same.
fn same(
    list: &'static str,
    found: impl Iterator<Item = &'static str>,
    expected: impl Iterator<Item = &'static str>,
) -> Result<(), TemplateError> {
    let end = std::iter::repeat(None);
    let found = found.map(Some).chain(end.clone());
    let mut expected = expected.map(Some).chain(end);
    for (index, found) in found.enumerate() {
        let expected = expected.next().flatten();
        match (found, expected) {
            (None, None) => break,
            (found, expected) if found == expected => {}
            (found, expected) => {
                return Err(TemplateError::Different {
                    list,
                    index,
                    found: found.unwrap_or("the end"),
                    expected: expected.unwrap_or("the end"),
                });
            }
        }
    }
    Ok(())
}

impl PatternTemplate {
    /// Whether the template makes sense by itself.
    pub fn validate(&self) -> Result<(), TemplateError> {
        self.direction.check()?;
        if self.pattern.len() > MAX_ITEMS {
            let found = self.pattern.len();
            return Err(FlowError::TooManyItems { found }.into());
        }
        Ok(stack::check(&self.pattern)?)
    }

    /// The pattern of a rule: values and bounds are those of `pattern`, which has the same items,
    /// masks are the template's. Bytes are taken over if they are as long as the template's.
    pub fn instantiate(&self, pattern: &[Item]) -> Result<Vec<Item>, TemplateError> {
        same(
            "pattern",
            pattern.iter().map(Item::name),
            self.pattern.iter().map(Item::name),
        )?;
        let pairs = std::iter::zip(&self.pattern, pattern);
        Ok(pairs
            .map(|(template, item)| with_masks(template, item))
            .collect())
    }
}

/// `item` with the masks of `template`, which is of the same type.
fn with_masks(template: &Item, item: &Item) -> Item {
    let mut out = item.clone();
    for field in template.row().fields {
        match field.access {
            Access::Field { get, set } => {
                if let (Some(from), Some(mut value)) = (get(template), get(item)) {
                    value.mask = from.mask;
                    set(&mut out, value);
                }
            }
            Access::Bytes { get, set, .. } => {
                if let (Some((_, mask)), Some((spec, _))) = (get(template), get(item)) {
                    // Of different lengths: there is nothing to compare.
                    let (spec, mask) = match spec.len() == mask.len() {
                        true => (spec.to_vec(), mask.to_vec()),
                        false => (Vec::new(), Vec::new()),
                    };
                    let fits = set(&mut out, spec, mask);
                    debug_assert!(fits.is_ok(), "both are of one length that an item had");
                }
            }
            Access::Port | Access::Alias(_) => {}
        }
    }
    out
}

impl ActionsTemplate {
    /// Whether the template makes sense by itself. The headers that its actions need are not checked:
    /// they depend on the pattern.
    pub fn validate(&self) -> Result<(), TemplateError> {
        self.direction.check()?;
        if self.actions.len() > MAX_ACTIONS {
            let found = self.actions.len();
            return Err(FlowError::TooManyActions { found }.into());
        }
        same(
            "masks",
            self.masks.iter().map(Action::name),
            self.actions.iter().map(Action::name),
        )?;
        Ok(follow::check_alone(&self.actions)?)
    }

    /// Which arguments of the action at `index` are the same for all rules, in the order of its row;
    /// nothing if there is no such action.
    pub fn constants(&self, index: usize) -> Vec<bool> {
        let mask = self.masks.get(index);
        mask.map_or(Vec::new(), |mask| {
            let rows = mask.row().arguments.iter();
            rows.map(|row| (row.get)(mask).is_some_and(|mask| is_set(&mask)))
                .collect()
        })
    }

    /// The actions of a rule: constant arguments are the template's, the others those of `actions`,
    /// which are of the same types.
    pub fn instantiate(&self, actions: &[Action]) -> Result<Vec<Action>, TemplateError> {
        same(
            "actions",
            actions.iter().map(Action::name),
            self.actions.iter().map(Action::name),
        )?;
        let pairs = std::iter::zip(&self.actions, actions).enumerate();
        Ok(pairs
            .map(|(index, (template, action))| {
                let constants = self.constants(index);
                let arguments: Vec<Option<Argument>> =
                    std::iter::zip(template.row().arguments, constants)
                        .map(|(row, constant)| (row.get)(if constant { template } else { action }))
                        .collect();
                // Of arguments that belong together one may be constant and the other not, so that
                // they make no action; then the rule's count.
                (template.row().build)(&arguments).unwrap_or_else(|_| action.clone())
            })
            .collect())
    }
}

/// Whether an argument of a mask is not zero.
fn is_set(mask: &Argument) -> bool {
    match mask {
        Argument::Bits(bits) => *bits != 0,
        Argument::Ip(address) => !address.is_unspecified(),
        Argument::Port(port) => port.number() != Some(0),
        Argument::Bytes(bytes) => bytes.iter().any(|byte| *byte != 0),
        Argument::Numbers(numbers) => !numbers.is_empty(),
        Argument::Masked(value, mask) => *value != 0 || *mask != 0,
        Argument::Addresses(_) | Argument::Ports(_) => true,
        Argument::Actions(actions) => !actions.is_empty(),
    }
}

impl TemplateTable {
    /// Whether the table makes sense by itself.
    pub fn validate(&self) -> Result<(), TemplateError> {
        let attributes = &self.attributes;
        Direction {
            ingress: attributes.ingress,
            egress: attributes.egress,
            transfer: attributes.transfer,
        }
        .check()?;
        for (empty, what) in [
            (self.rules_number == 0, "room for rules"),
            (self.pattern_templates.is_empty(), "pattern template"),
            (self.actions_templates.is_empty(), "actions template"),
        ] {
            if empty {
                return Err(TemplateError::Empty { what });
            }
        }
        Ok(())
    }
}

impl IndirectAction {
    /// Whether the action can be shared: it does not name another object, and makes sense by itself.
    pub fn validate(&self) -> Result<(), TemplateError> {
        self.direction.check()?;
        match &self.action {
            Action::Conntrack => Ok(()),
            Action::Indirect { .. } | Action::Void => Err(TemplateError::Different {
                list: "indirect action",
                index: 0,
                found: self.action.name(),
                expected: "an action that can be shared",
            }),
            action => Ok(follow::check_alone(std::slice::from_ref(action))?),
        }
    }
}

//! A flow rule of a port, in the rte_flow model. What may be written is for the flow room, what can
//! be done for the data plane. It is stored and shown as text in testpmd's syntax.

use serde::{Serialize, Serializer};
use serde_json::Value;
use sumeru_flow::syntax::parse_rule;
use sumeru_flow::{Action, PortRef, Rule};

use super::{Kind, Spec};
use crate::decode::{Field, Fields, FromValue, Name, Wrong, optional, required};
use crate::policy::layout::{DELIVER, FIRST_RULE_ID, FORWARD, GROUPS, is_open};

/// What is configured of a flow rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowSpec {
    /// Name of the port whose rule it is.
    pub port: String,
    /// Number of the rule on its port. `None` only until the control plane has admitted the rule
    /// and given it the one above the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Attributes, pattern and actions. The rule makes sense: it was validated.
    #[serde(serialize_with = "as_text")]
    pub rule: Rule,
}

fn as_text<S: Serializer>(rule: &Rule, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(rule)
}

impl FlowSpec {
    /// The rule's number; 0 for a rule that was not admitted yet.
    pub fn id(&self) -> u32 {
        self.id.unwrap_or(0)
    }

    /// Ports that the rule names in its pattern or its actions.
    pub fn named_ports(&self) -> impl Iterator<Item = &PortRef> {
        let matched = self.rule.pattern.iter().filter_map(|item| item.port());
        let targets = self.rule.actions.iter().filter_map(|action| match action {
            Action::PortId { port }
            | Action::PortRepresentor { port }
            | Action::RepresentedPort { port } => Some(port),
            _ => None,
        });
        matched.chain(targets)
    }
}

/// A rule as testpmd writes it, or as a table of the flow model.
struct ValidRule(Rule);

impl FromValue for ValidRule {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let rule = match value {
            Value::String(text) => parse_rule(text).map_err(|error| Wrong {
                expected: format!("a rule: {error}"),
            })?,
            Value::Object(_) => serde_json::from_value(value.clone()).map_err(|error| Wrong {
                expected: format!("a rule: {error}"),
            })?,
            _ => {
                let expected =
                    "a rule such as \"ingress pattern eth / end actions drop / end\"".to_owned();
                return Err(Wrong { expected });
            }
        };
        rule.validate().map_err(|error| Wrong {
            expected: format!("a rule that makes sense: {error}"),
        })?;
        if !is_open(rule.attributes.group) {
            return Err(Wrong {
                expected: format!(
                    "a rule in another group than {} to {}, which are for policies but for {FORWARD} and {DELIVER}",
                    GROUPS.start(),
                    GROUPS.end()
                ),
            });
        }
        Ok(Self(rule))
    }
}

impl Spec for FlowSpec {
    const KIND: Kind = Kind::Flow;
    const FIXED: &'static [&'static str] = &["port", "id", "rule"];
    const FIELDS: &'static [Field] = &[
        required("port", "port name", "the port whose rule it is"),
        optional(
            "id",
            "integer 0..2147483647",
            "number of the rule on its port (default: one above the highest)",
        ),
        required(
            "rule",
            "string or table",
            "attributes, pattern and actions in testpmd's syntax",
        ),
    ];

    fn name(&self) -> String {
        format!("{}/{}", self.port, self.id())
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let port = fields.required::<Name>("port");
        let id = fields.optional_integer("id", 0..=FIRST_RULE_ID - 1);
        let rule = fields.required::<ValidRule>("rule");
        Some(Self {
            port: port?.0,
            id,
            rule: rule?.0,
        })
    }
}

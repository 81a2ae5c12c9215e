//! A flow rule of a port, in the rte_flow model. The rule itself is text in testpmd's syntax; what
//! it means is for the flow room, what can be done for the data plane.

use serde::Serialize;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};

/// What is configured of a flow rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowSpec {
    /// Name of the port whose rule it is.
    pub port: String,
    /// Number of the rule on its port. `None` only until the control plane has admitted the rule
    /// and given it the one above the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Attributes, pattern and actions in testpmd's syntax, from after the port id on:
    /// `ingress pattern eth / ipv4 dst is 10.0.0.1 / end actions count / drop / end`.
    pub rule: String,
}

impl FlowSpec {
    /// The rule's number; 0 for a rule that was not admitted yet.
    pub fn id(&self) -> u32 {
        self.id.unwrap_or(0)
    }
}

/// Longest rule text in bytes: far above any rule, far below what would hurt.
const RULE_MAX: usize = 16 * 1024;

impl Spec for FlowSpec {
    const KIND: Kind = Kind::Flow;
    const FIXED: &'static [&'static str] = &["port", "id", "rule"];
    const FIELDS: &'static [Field] = &[
        required("port", "port name", "the port whose rule it is"),
        optional(
            "id",
            "integer 0..4294967295",
            "number of the rule on its port (default: one above the highest)",
        ),
        required(
            "rule",
            "string",
            "attributes, pattern and actions in testpmd's syntax",
        ),
    ];

    fn name(&self) -> String {
        format!("{}/{}", self.port, self.id())
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let port = fields.required::<Name>("port");
        let id = fields.optional_integer("id", 0..=u32::MAX);
        let rule = fields.required::<String>("rule");
        if rule.as_ref().is_some_and(|r| r.len() > RULE_MAX) {
            fields.fault("rule", "longer than 16 KiB", "a rule of at most 16 KiB");
        }
        Some(Self {
            port: port?.0,
            id,
            rule: rule?.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }
}

//! Which rule a packet meets, and which object made it: the steps of a trace with what the rules that they name come from.

use serde::Serialize;

use super::Policy;
use crate::dataplane::{RuleName, Trace, TraceOutput, TraceStep};

/// A decision on a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedStep {
    /// The stage that decided.
    pub stage: String,
    /// What it decided, and by which entry.
    pub decision: String,
    /// The object that made the rule: kind and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The line of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// A packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The decisions in order.
    pub steps: Vec<ExplainedStep>,
    /// Frames that would leave.
    pub outputs: Vec<TraceOutput>,
    /// Reason, if nothing would leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
}

/// The rule that a step of a trace says it met: `rule N of port P …`, anywhere in its text.
fn rule_in(decision: &str) -> Option<RuleName> {
    let (_, rest) = decision.split_once("rule ")?;
    let (id, rest) = rest.split_once(" of port ")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(RuleName {
        port: rest[..end].parse().ok()?,
        id: id.parse().ok()?,
    })
}

impl Policy {
    /// Says of each step of a trace which object made the rule that it met. Rules made by hand are flow objects by their own name.
    pub fn explain(&self, trace: Trace, port_name: impl Fn(u16) -> Option<String>) -> Explained {
        let explained = |TraceStep { stage, decision }| {
            let name = rule_in(&decision);
            let service = matches!(
                stage.as_str(),
                "service" | "router" | "syn-protection" | "load-balancer"
            );
            let maker = decision.split_once(": ").filter(|_| service);
            let (object, line) = match name.map(|name| (name, self.origin(name))) {
                None => (maker.map(|(object, _)| object.to_owned()), None),
                Some((_, Some(origin))) => (
                    Some(origin.object),
                    Some(origin.line).filter(|line| !line.is_empty()),
                ),
                Some((RuleName { port, id }, None)) => (
                    port_name(port).map(|port| format!("flow {port}/{id}")),
                    None,
                ),
            };
            ExplainedStep {
                stage,
                decision,
                object,
                line,
            }
        };
        Explained {
            steps: trace.steps.into_iter().map(explained).collect(),
            outputs: trace.outputs,
            drop_reason: trace.drop_reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_a_step_is_found() {
        let name = |port, id| Some(RuleName { port, id });
        assert_eq!(
            rule_in("rule 7 of port 3 (group 0, priority 1)"),
            name(3, 7)
        );
        assert_eq!(
            rule_in("met rule 2147483648 of port 65535"),
            name(65535, 1 << 31)
        );
        for text in [
            "no rule of group 3 matches",
            "rule x of port 1",
            "rule 1 of port",
            "rule 1 of port 70000",
            "",
        ] {
            assert_eq!(rule_in(text), None, "{text}");
        }
    }
}

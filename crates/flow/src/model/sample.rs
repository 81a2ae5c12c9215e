//! Sampling and mirroring: `sample` (`struct rte_flow_action_sample`).

use serde::{Deserialize, Serialize};

use super::action::{Action, ArgumentError, form};

/// Most actions of a sample, as in testpmd.
pub const MAX_SAMPLE_ACTIONS: usize = 10;

/// What is done with a copy of one packet in `ratio`; the packet itself goes on.
///
/// Text: `sample ratio N actions ACTION / ... / end`, or as in testpmd `sample ratio N index M` with
/// the actions of `set sample_actions M`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Sample {
    ratio: u32,
    actions: Vec<Action>,
}

impl Sample {
    /// The action, or an error if the ratio is 0, there are more than [`MAX_SAMPLE_ACTIONS`], or one
    /// of them is none that a sample can do: those of testpmd, and ports by whom they represent.
    pub fn new(ratio: u32, actions: Vec<Action>) -> Result<Self, ArgumentError> {
        let value = |argument, expected| {
            Err(ArgumentError::Value {
                action: NAME,
                argument,
                expected,
            })
        };
        if ratio == 0 {
            return value("ratio", "1 (every packet) or more");
        }
        if actions.len() > MAX_SAMPLE_ACTIONS {
            return value("actions", "a list of at most 10");
        }
        if !actions.iter().all(may_be_sampled) {
            return value(
                "actions",
                "a list of `queue`, `rss`, `mark`, `count`, `port_id`, `port_representor`, \
                 `represented_port`, `raw_encap`, `vxlan_encap`, `nvgre_encap`, `void`",
            );
        }
        Ok(Self { ratio, actions })
    }

    /// One packet in this many; 1 mirrors all. At least 1.
    pub fn ratio(&self) -> u32 {
        self.ratio
    }

    /// What is done with the copy.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }
}

/// Whether a copy can meet this action.
fn may_be_sampled(action: &Action) -> bool {
    matches!(
        action,
        Action::Void
            | Action::Queue { .. }
            | Action::Rss(_)
            | Action::Mark { .. }
            | Action::Count { .. }
            | Action::PortId { .. }
            | Action::PortRepresentor { .. }
            | Action::RepresentedPort { .. }
            | Action::RawEncap(_)
            | Action::VxlanEncap(_)
            | Action::NvgreEncap(_)
    )
}

form! {
    Sample = "sample" for Sample {
        ratio: u32 = "ratio";
        actions: Vec<Action> = "actions";
        ; defined "index"
    }
}

impl TryFrom<Form> for Sample {
    type Error = ArgumentError;
    fn try_from(form: Form) -> Result<Self, ArgumentError> {
        let missing = |argument| ArgumentError::Missing {
            action: NAME,
            argument,
        };
        let ratio = form.ratio.ok_or(missing("ratio"))?;
        Self::new(ratio, form.actions.ok_or(missing("actions"))?)
    }
}

impl From<Sample> for Form {
    fn from(sample: Sample) -> Self {
        Self {
            ratio: Some(sample.ratio),
            actions: Some(sample.actions),
        }
    }
}

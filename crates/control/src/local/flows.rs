//! Flow rules of the switch, many at a time.

use sumeru_switch::rules::At;
use sumeru_switch::switch::{BatchError, NewRule};

use super::Local;
use crate::dataplane::{FlowChange, FlowRefusal, Refusal};

/// A refusal that concerns the whole change is said of its first rule.
fn whole(change: &FlowChange<'_>, refusal: Refusal) -> FlowRefusal {
    FlowRefusal {
        creating: change.destroy.is_empty(),
        at: 0,
        refusal,
    }
}

impl Local {
    pub(super) fn exchange_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal> {
        let add: Vec<NewRule<'_>> = change
            .create
            .iter()
            .map(|(port, flow)| NewRule {
                port: port.spec.index(),
                id: flow.spec.id(),
                rule: &flow.spec.rule,
            })
            .collect();
        let remove: Vec<_> = change
            .destroy
            .iter()
            .map(|(port, flow)| (port.spec.index(), flow.spec.id()))
            .collect();
        let switch = self.switch().map_err(|refusal| whole(change, refusal))?;
        switch
            .change_rules(&add, &remove)
            .map_err(|error| match error {
                BatchError::Rule { at, error, .. } => {
                    let (creating, at) = match at {
                        At::Add(at) => (true, at),
                        At::Remove(at) => (false, at),
                    };
                    FlowRefusal {
                        creating,
                        at,
                        refusal: error.into(),
                    }
                }
                BatchError::Switch(error) => whole(change, error.into()),
            })
    }
}

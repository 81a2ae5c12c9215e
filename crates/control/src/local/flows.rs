//! Flow rules of the switch, many at a time.

use std::borrow::Cow;

use sumeru_flow::model::{Action, MeterPolicy, MeterProfile};
use sumeru_switch::rules::At;
use sumeru_switch::switch::{BatchError, NewRule};

use super::Local;
use crate::dataplane::{Done, FlowChange, FlowRefusal, MeterChange, Refusal, RuleBatch};
use crate::policy::layout::port_of_meter;

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
        let add = change.create.iter().map(|(port, flow)| NewRule {
            port: port.spec.index(),
            id: flow.spec.id(),
            rule: Cow::Borrowed(&flow.spec.rule),
        });
        let remove: Vec<_> = change
            .destroy
            .iter()
            .map(|(port, flow)| (port.spec.index(), flow.spec.id()))
            .collect();
        let switch = self.switch().map_err(|refusal| whole(change, refusal))?;
        switch
            .change_rules(add, &remove)
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

    /// Makes, changes or removes one of the control plane's own meters, which drop what is above their rate.
    pub(super) fn change_meter(&mut self, number: u32, profile: Option<&MeterProfile>) -> Done {
        let name = (port_of_meter(number), number);
        let policy = MeterPolicy {
            red: vec![Action::Drop],
            ..MeterPolicy::default()
        };
        let switch = self.switch()?;
        match (profile, switch.has_meter(name)) {
            (Some(profile), true) => switch.update_meter(name, profile, &policy, false)?,
            (Some(profile), false) => switch.create_meter(name, profile, &policy, false)?,
            (None, true) => switch.destroy_meter(name.0, name.1)?,
            (None, false) => {}
        }
        Ok(())
    }

    /// Meters first, then all rules in one change, then the meters that no rule names any more.
    pub(super) fn exchange_rules(&mut self, batch: RuleBatch<'_>) -> Done {
        let (coming, going): (Vec<&MeterChange>, Vec<_>) =
            batch.meters.iter().partition(|meter| meter.after.is_some());
        let remove: Vec<_> = batch
            .remove
            .map(|rule| (rule.name.port, rule.name.id))
            .collect();
        let add = batch.add.map(|new| NewRule {
            port: new.name.port,
            id: new.name.id,
            rule: Cow::Owned(new.rule),
        });
        let mut changed = Vec::new();
        let change = || {
            for meter in coming {
                self.change_meter(meter.number, meter.after.as_ref())?;
                changed.push(meter);
            }
            match self.switch()?.change_rules(add, &remove) {
                // An lcore is gone: the change was made, and its meters are needed.
                Err(BatchError::Switch(error)) => Ok(Err(Refusal::from(error))),
                Err(refused) => Err(Refusal::Inner(Box::new(refused))),
                Ok(()) => Ok(Ok(())),
            }
        };
        match change() {
            Ok(done) => done?,
            Err(refusal) => {
                for meter in changed.into_iter().rev() {
                    // It was like that a moment ago; the first refusal is what counts.
                    if let Err(error) = self.change_meter(meter.number, meter.before.as_ref()) {
                        tracing::error!(meter = meter.number, %error, "a meter was not put back");
                    }
                }
                return Err(refusal);
            }
        }
        for meter in going {
            // Nothing names it any more, and everything else is done.
            if let Err(error) = self.change_meter(meter.number, None) {
                tracing::error!(meter = meter.number, %error, "a meter was not removed");
            }
        }
        Ok(())
    }
}

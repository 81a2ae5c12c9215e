//! Telling what was changed: one event per object, or one per port when there are very many flow rules.

use std::collections::BTreeMap;

use super::{Change, Control};
use crate::event::What;
use crate::model::Any;

/// Changes of flow rules that are told one by one; the list of events keeps about a thousand.
const TOLD: usize = 64;

impl Control {
    /// Notes changes that were made.
    pub(super) fn announce(&mut self, changes: &[Change]) {
        let flow = |change: &&Change| matches!(object(change).1, Any::Flow(_));
        let many = changes.iter().filter(flow).count() > TOLD;
        let mut sums: BTreeMap<(&str, What), usize> = BTreeMap::new();
        for change in changes {
            let (what, any) = object(change);
            match any {
                Any::Flow(flow) if many => {
                    tracing::debug!(object = %any.label(), generation = any.generation(), "{what:?}");
                    *sums.entry((&flow.spec.port, what)).or_default() += 1;
                }
                _ => {
                    tracing::info!(object = %any.label(), generation = any.generation(), "{what:?}");
                    self.events.note(what, any.label(), "");
                }
            }
        }
        for ((port, what), count) in sums {
            self.tell_rules(what, port, count, "");
        }
    }

    /// Notes that something happened to many rules of a port.
    pub(super) fn tell_rules(&mut self, what: What, port: &str, count: usize, more: &str) {
        tracing::info!(port, count, "{what:?}: flow rules");
        let detail = format!("{count} rules{more}");
        self.events.note(what, format!("flow {port}/*"), detail);
    }
}

fn object(change: &Change) -> (What, &Any) {
    match change {
        Change::Create(any) => (What::Created, any),
        Change::Replace { new, .. } => (What::Changed, new),
        Change::Delete(any) => (What::Deleted, any),
    }
}

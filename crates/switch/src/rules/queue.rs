//! Rules in batches (rte_flow's asynchronous operations, `rte_flow_async_create` and `rte_flow_push`): operations are queued without a lock,
//! applied together as one version, and completed when every lcore runs with it.
//!
//! A queue belongs to one thread; queues of several threads take turns at the table. What one [`FlowQueue::push`] applies becomes visible at
//! once: a packet meets either all of it or nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sumeru_packet::{FlowKey, FlowMask};

use super::table::{Placed, RuleTable, Shape};
use super::{ActionList, RuleError};

/// The rules, as control threads share them.
pub type SharedRules = Arc<Mutex<RuleTable>>;

/// Wakes the lcores, so that they take over what was published although no frame comes.
pub type Waker = Box<dyn Fn() + Send>;

/// An operation that was queued.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are the large one, and boxes would be taken for each"
)]
enum Operation {
    Create {
        shape: Arc<Shape>,
        value: FlowKey,
        token: u64,
    },
    Destroy {
        rule: Placed,
        token: u64,
    },
}

/// What became of an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the caller gave with the operation.
    pub token: u64,
    /// The rule that was created; `None` for one that was destroyed.
    pub result: Result<Option<Placed>, RuleError>,
}

/// A thread's way to the rules.
pub struct FlowQueue {
    rules: SharedRules,
    wake: Waker,
    queued: Vec<Operation>,
    /// By the version that makes them visible.
    applied: VecDeque<(u64, Completion)>,
}

/// Takes the table. A thread that died with it left it as it was between two operations.
pub fn lock(rules: &Mutex<RuleTable>) -> MutexGuard<'_, RuleTable> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FlowQueue {
    /// A queue without operations.
    pub fn new(rules: SharedRules, wake: Waker) -> Self {
        Self {
            rules,
            wake,
            queued: Vec::new(),
            applied: VecDeque::new(),
        }
    }

    /// Prepares rules that look at the same bits, in the same place, and do the same.
    ///
    /// # Errors
    /// [`RuleError::Full`].
    pub fn shape(
        &self,
        group: u32,
        priority: u32,
        mask: &FlowMask,
        actions: &ActionList,
    ) -> Result<Arc<Shape>, RuleError> {
        lock(&self.rules)
            .shape(group, priority, mask, actions)
            .map(Arc::new)
    }

    /// Queues a rule: the bits of `value` under the shape's mask. `token` comes back with the completion.
    pub fn create(&mut self, shape: &Arc<Shape>, value: FlowKey, token: u64) {
        self.queued.push(Operation::Create {
            shape: shape.clone(),
            value,
            token,
        });
    }

    /// Queues the end of a rule.
    pub fn destroy(&mut self, rule: Placed, token: u64) {
        self.queued.push(Operation::Destroy { rule, token });
    }

    /// Applies what was queued, all at once.
    pub fn push(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let mut rules = lock(&self.rules);
        let version = rules.pending();
        let (applied, queued) = (&mut self.applied, &self.queued);
        for operation in queued {
            if let Operation::Destroy { rule, token } = operation {
                let result = rules.remove_placed(*rule).map(|()| None);
                applied.push_back((
                    version,
                    Completion {
                        token: *token,
                        result,
                    },
                ));
            }
        }
        let created = queued.iter().filter_map(|operation| match operation {
            Operation::Create {
                shape,
                value,
                token,
            } => Some((&**shape, value, *token)),
            Operation::Destroy { .. } => None,
        });
        rules.insert_shaped(created, |token, result| {
            let result = result.map(Some).map_err(RuleError::from);
            applied.push_back((version, Completion { token, result }));
        });
        rules.publish();
        self.queued.clear();
    }

    /// Takes what is complete, at most `limit`: every lcore decides by it.
    pub fn pull(&mut self, limit: usize, mut done: impl FnMut(Completion)) -> usize {
        let Some((oldest, _)) = self.applied.front() else {
            return 0;
        };
        let mut rules = lock(&self.rules);
        rules.reclaim();
        let seen = rules.acknowledged();
        drop(rules);
        if seen < *oldest {
            (self.wake)();
            return 0;
        }
        let mut count = 0;
        while count < limit
            && let Some((version, _)) = self.applied.front()
            && *version <= seen
            && let Some((_, completion)) = self.applied.pop_front()
        {
            done(completion);
            count += 1;
        }
        count
    }

    /// Operations that are queued or not complete yet.
    pub fn outstanding(&self) -> usize {
        self.queued.len() + self.applied.len()
    }
}

#[cfg(test)]
mod tests {
    use sumeru_packet::{Field, Layer};

    use super::*;
    use crate::classifier::Classes;
    use crate::rules::RuleAction;

    fn mask() -> FlowMask {
        let mut mask = FlowMask::ZERO;
        mask.set(Field::IpDst(Layer::Outer), u32::MAX.into());
        mask
    }

    fn value(address: u32) -> FlowKey {
        let mut key = FlowKey::ZERO;
        key.set(Field::IpDst(Layer::Outer), address.into());
        key
    }

    fn pull_all(queue: &mut FlowQueue) -> Vec<Completion> {
        let mut all = Vec::new();
        queue.pull(usize::MAX, |completion| all.push(completion));
        all
    }

    #[test]
    fn operations_complete_when_lcores_have_seen_them() {
        let rules = SharedRules::default();
        let (mut lcore, _) = lock(&rules).subscribe();
        let mut queue = FlowQueue::new(rules.clone(), Box::new(|| ()));
        let actions: ActionList = Box::new([RuleAction::Count, RuleAction::Drop]);
        let shape = queue.shape(3, 1, &mask(), &actions).unwrap();
        for address in 0..1000 {
            queue.create(&shape, value(address), address.into());
        }
        assert_eq!(lock(&rules).len(), 0, "only queued");
        queue.push();
        assert!(
            pull_all(&mut queue).is_empty(),
            "the lcore has not seen them"
        );
        assert!(lcore.refresh());
        let created = pull_all(&mut queue);
        assert_eq!(created.len(), 1000);
        let found = |lcore: &crate::rules::RuleView, address| {
            lcore
                .rules
                .lookup(3, &value(address), &mut Classes::new(), |_| ())
                .is_some()
        };
        assert!(found(&lcore, 999) && !found(&lcore, 1000));
        // One transaction: all old rules go, new ones come.
        for completion in created {
            queue.destroy(completion.result.unwrap().unwrap(), completion.token);
        }
        for address in 1000..2000 {
            queue.create(&shape, value(address), address.into());
        }
        queue.push();
        assert!(found(&lcore, 999) && !found(&lcore, 1000));
        assert!(lcore.refresh());
        assert!(!found(&lcore, 999) && found(&lcore, 1000));
        let done = pull_all(&mut queue);
        assert_eq!((done.len(), queue.outstanding()), (2000, 0));
        let gone = done
            .iter()
            .rev()
            .find_map(|done| done.result.as_ref().ok()?.as_ref().copied())
            .unwrap();
        queue.destroy(gone, 1);
        queue.destroy(gone, 2);
        queue.push();
        lcore.refresh();
        let results: Vec<bool> = pull_all(&mut queue)
            .iter()
            .map(|done| done.result.is_ok())
            .collect();
        assert_eq!(results, [true, false], "a rule is destroyed once");
    }

    #[test]
    fn several_threads_take_turns() {
        let rules = SharedRules::default();
        let (mut lcore, _) = lock(&rules).subscribe();
        let actions: ActionList = Box::new([RuleAction::Drop]);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let (rules, actions) = (rules.clone(), &actions);
                scope.spawn(move || {
                    let mut queue = FlowQueue::new(rules, Box::new(|| ()));
                    let shape = queue.shape(thread % 2, 1, &mask(), actions).unwrap();
                    for batch in 0..50 {
                        for n in 0..20 {
                            queue.create(&shape, value(thread << 16 | batch << 8 | n), 0);
                        }
                        queue.push();
                    }
                });
            }
        });
        lcore.refresh();
        assert_eq!(lock(&rules).len(), 4 * 50 * 20);
    }
}

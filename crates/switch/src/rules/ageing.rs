//! Which rules have grown old: nothing has been counted by them for as long as their `age` action says (`rte_flow_get_aged_flows`).
//!
//! Counters are compared with what they were at the last look, so lcores do nothing for it but count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::action::Age;
use crate::frame::PortIndex;

/// What grows old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A rule, by port and number.
    Rule(PortIndex, u32),
    /// An indirect `age`, likewise.
    Indirect(PortIndex, u32),
}

/// What has grown old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aged {
    /// What.
    pub subject: Subject,
    /// The context that its `age` action gives; 0 for none.
    pub context: u64,
    /// Whole seconds since it was last seen in use, or made.
    pub idle: u64,
}

#[derive(Debug)]
struct Watch {
    age: Age,
    counter: u32,
    packets: u64,
    since: Instant,
}

/// What is watched.
#[derive(Debug, Default)]
pub struct Ageing(HashMap<Subject, Watch>);

impl Ageing {
    /// Watches something from now on.
    pub fn watch(&mut self, subject: Subject, age: Age, counter: u32) {
        let watch = Watch {
            age,
            counter,
            packets: 0,
            since: Instant::now(),
        };
        self.0.insert(subject, watch);
    }

    /// Watches something by another time.
    pub fn update(&mut self, subject: Subject, age: Age) {
        if let Some(watch) = self.0.get_mut(&subject) {
            (watch.age, watch.since) = (age, Instant::now());
        }
    }

    /// Watches something no longer.
    pub fn forget(&mut self, subject: Subject) {
        self.0.remove(&subject);
    }

    /// What has grown old, in no order.
    pub fn look(&mut self, now: Instant, packets: impl Fn(u32) -> u64) -> Vec<Aged> {
        let aged = self.0.iter_mut().filter_map(|(subject, watch)| {
            let idle = watch.idle(now, packets(watch.counter));
            let old = idle >= Duration::from_secs(watch.age.timeout.into());
            old.then_some(Aged {
                subject: *subject,
                context: watch.age.context,
                idle: idle.as_secs(),
            })
        });
        aged.collect()
    }

    /// How long something has not been used, and how long it may be.
    pub fn idle(
        &mut self,
        subject: Subject,
        now: Instant,
        packets: impl Fn(u32) -> u64,
    ) -> Option<(Duration, Age)> {
        let watch = self.0.get_mut(&subject)?;
        Some((watch.idle(now, packets(watch.counter)), watch.age))
    }
}

impl Watch {
    fn idle(&mut self, now: Instant, packets: u64) -> Duration {
        if packets != self.packets {
            (self.packets, self.since) = (packets, now);
        }
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_does_not_age() {
        let (mut ageing, start) = (Ageing::default(), Instant::now());
        let age = Age {
            timeout: 10,
            context: 77,
        };
        let (rule, object) = (Subject::Rule(1, 2), Subject::Indirect(1, 2));
        ageing.watch(rule, age, 0);
        ageing.watch(
            object,
            Age {
                timeout: 30,
                context: 0,
            },
            1,
        );
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(ageing.look(at(9), |_| 0).is_empty());
        let old = ageing.look(at(12), |_| 0);
        assert_eq!(old.len(), 1);
        assert_eq!((old[0].subject, old[0].context), (rule, 77));
        // A packet makes it young again, whenever it came since the last look.
        assert!(
            ageing
                .look(at(20), |counter| 5 * u64::from(counter == 0))
                .is_empty()
        );
        assert!(
            ageing
                .look(at(29), |counter| 5 * u64::from(counter == 0))
                .is_empty()
        );
        let both = ageing.look(at(31), |counter| 5 * u64::from(counter == 0));
        assert_eq!(both.len(), 2);
        ageing.forget(rule);
        assert_eq!(ageing.look(at(99), |_| 0).len(), 1);
        assert_eq!(ageing.idle(object, at(100), |_| 0).unwrap().0.as_secs(), 99);
        ageing.update(
            object,
            Age {
                timeout: 500,
                context: 0,
            },
        );
        assert!(ageing.look(at(200), |_| 0).is_empty());
    }
}

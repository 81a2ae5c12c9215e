//! A link's state, calmed: a link that comes up is believed after a while, one that goes down at once or after another while.

use std::time::Duration;

/// A link state that is passed on only after it has held.
#[derive(Clone, Copy, Debug)]
pub struct Debounce {
    up_delay: Duration,
    down_delay: Duration,
    state: bool,
    /// The other state is seen, and will be passed on then if it lasts.
    change_at: Option<Duration>,
}

impl Debounce {
    /// A link that is down. Delays of zero pass a state on at once.
    pub fn new(up_delay: Duration, down_delay: Duration) -> Debounce {
        Debounce {
            up_delay,
            down_delay,
            state: false,
            change_at: None,
        }
    }

    /// Takes note of what the link says now and returns the calmed state.
    pub fn observe(&mut self, up: bool, now: Duration) -> bool {
        if up == self.state {
            self.change_at = None;
            return self.state;
        }
        let delay = if up { self.up_delay } else { self.down_delay };
        self.change_at.get_or_insert(now.saturating_add(delay));
        self.tick(now)
    }

    /// The calmed state now.
    pub fn tick(&mut self, now: Duration) -> bool {
        if self.change_at.is_some_and(|at| now >= at) {
            self.hasten();
        }
        self.state
    }

    /// Passes a change that waits on at once.
    pub fn hasten(&mut self) {
        if self.change_at.take().is_some() {
            self.state = !self.state;
        }
    }

    /// The calmed state, as of the last call.
    pub fn is_up(&self) -> bool {
        self.state
    }

    /// Whether the link is seen up but that is not passed on yet.
    pub fn rising(&self) -> bool {
        !self.state && self.change_at.is_some()
    }

    /// When the calmed state changes if the link stays as it is.
    pub fn next_event(&self) -> Option<Duration> {
        self.change_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_delays_nothing_is_held_back() {
        let mut link = Debounce::new(ms(0), ms(0));
        assert!(link.observe(true, ms(1)));
        assert!(!link.observe(false, ms(1)));
        assert_eq!(link.next_event(), None);
    }

    proptest! {
        /// The state changes exactly when the other one has been seen without interruption for its delay.
        #[test]
        fn what_lasts_is_passed_on(up in 0u64..50, down in 0u64..50, seen in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut link = Debounce::new(ms(up), ms(down));
            let (mut state, mut since) = (false, 0);
            for (now, raw) in (0u64..).zip(seen) {
                if raw == state {
                    since = now + 1;
                } else if now - since >= if raw { up } else { down } {
                    state = raw;
                    since = now + 1;
                }
                let got = link.observe(raw, ms(now));
                prop_assert_eq!(got, state, "at {}", now);
                prop_assert_eq!(link.rising(), raw && !state);
            }
        }
    }
}

//! CoDel (RFC 8289, section 5): tells a standing queue from a burst by how long frames have waited.
//!
//! It decides when a frame is taken out. The RFC drops in a loop there; here every call decides about one frame, and as a dropped frame
//! costs its sender no credit, the caller comes back for the next one at once.

use super::QosError;

/// CoDel's two times, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodelConfig {
    /// Acceptable standing delay (RFC 8289: 5 ms over the Internet; far less within a data centre).
    pub target: u64,
    /// How long the delay must have been worse before anything is done: the longest usual round trip (RFC 8289: 100 ms).
    pub interval: u64,
}

impl CodelConfig {
    pub(super) fn check(self) -> Result<(), QosError> {
        let (target, interval) = (self.target, self.interval);
        if target == 0 || target >= interval || interval > 1 << 44 {
            return Err(QosError::Codel { target, interval });
        }
        Ok(())
    }
}

/// The state of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Codel {
    config: CodelConfig,
    first_above: Option<u64>,
    dropping: bool,
    next: u64,
    count: u32,
    last_count: u32,
    longest: u32,
}

impl Codel {
    /// A queue that was empty so far.
    ///
    /// # Errors
    /// [`QosError::Codel`].
    pub fn new(config: CodelConfig) -> Result<Codel, QosError> {
        config.check()?;
        Ok(Codel {
            config,
            first_above: None,
            dropping: false,
            next: 0,
            count: 0,
            last_count: 0,
            longest: 0,
        })
    }

    /// `from` plus the interval divided by the square root of the count.
    fn control_law(&self, from: u64) -> u64 {
        // The root of count << 32 is that of count, times 65536.
        let root = (u64::from(self.count.max(1)) << 32).isqrt();
        let step = (u128::from(self.config.interval) << 16) / u128::from(root);
        from.saturating_add(u64::try_from(step).unwrap_or(u64::MAX))
    }

    fn standing(&mut self, waited: u64, backlog: u64, now: u64) -> bool {
        if waited < self.config.target || backlog <= u64::from(self.longest) {
            self.first_above = None;
            return false;
        }
        let interval = self.config.interval;
        now >= *self.first_above.get_or_insert(now.saturating_add(interval))
    }

    /// Whether a frame of `len` bytes that waited for `waited` ticks, with `backlog` bytes left behind it, is to be marked or dropped.
    pub fn condemns(&mut self, len: u32, waited: u64, backlog: u64, now: u64) -> bool {
        self.longest = self.longest.max(len);
        let standing = self.standing(waited, backlog, now);
        if !standing {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            if now < self.next {
                return false;
            }
            self.count = self.count.saturating_add(1);
            self.next = self.control_law(self.next);
            return true;
        }
        self.dropping = true;
        // A queue that stood until a moment ago is not given all the time again.
        let since = self.count.saturating_sub(self.last_count);
        let recent = now.saturating_sub(self.next) < self.config.interval.saturating_mul(16);
        self.count = if since > 1 && recent { since } else { 1 };
        self.last_count = self.count;
        self.next = self.control_law(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const CONFIG: CodelConfig = CodelConfig {
        target: 5 * MS,
        interval: 100 * MS,
    };

    #[test]
    fn a_burst_passes_and_a_standing_queue_is_thinned_ever_faster() {
        let mut codel = Codel::new(CONFIG).unwrap();
        for ms in 0..99 {
            assert!(
                !codel.condemns(1500, 20 * MS, 30_000, ms * MS),
                "a burst at {ms} ms"
            );
        }
        assert!(!codel.condemns(1500, 4 * MS, 30_000, 99 * MS), "it drains");
        let condemned: Vec<u64> = (100..1_500)
            .filter(|ms| codel.condemns(1500, 20 * MS, 30_000, ms * MS))
            .collect();
        // 100 ms after it began to stand, then 100 / sqrt(n) ms apart.
        let expected = [200, 300, 371, 429, 479, 524];
        for (got, expected) in condemned.iter().zip(expected) {
            assert!(got.abs_diff(expected) <= 1, "{condemned:?}");
        }
        let late = condemned.windows(2).last().unwrap();
        assert!(late[1] - late[0] <= 30, "{condemned:?}");
    }

    #[test]
    fn one_frame_is_no_queue() {
        let mut codel = Codel::new(CONFIG).unwrap();
        assert!((0..1_000).all(|ms| !codel.condemns(1500, 20 * MS, 1_500, ms * MS)));
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        for (target, interval) in [(0, 5), (5, 5), (1, u64::MAX)] {
            let error = QosError::Codel { target, interval };
            let made = Codel::new(CodelConfig { target, interval });
            assert_eq!(made.unwrap_err(), error);
        }
    }
}

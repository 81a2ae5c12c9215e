//! Rates and token buckets in exact integer arithmetic.
//!
//! A bucket counts in units so small that one tick of the clock is worth a whole number of them: a rate of `r` bits per second gives `r`
//! units for a tick, a byte costs `8 * ticks_per_s` of them, a packet `ticks_per_s`. So nothing is ever rounded, however often or rarely
//! a bucket is looked at: after any time it has been given exactly what the rate says.

use super::QosError;

/// Least rate in bits per second.
pub const BITS_PER_S_MIN: u64 = 1_000;
/// Most, in bits per second.
pub const BITS_PER_S_MAX: u64 = 400_000_000_000;
/// Most packets per second; the least is 1.
pub const PACKETS_PER_S_MAX: u64 = 1_000_000_000;
/// Greatest burst, in bytes or packets.
pub const BURST_MAX: u64 = 1 << 40;
const TICKS_PER_S_MIN: u64 = 1_000;
const TICKS_PER_S_MAX: u64 = 1 << 40;

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Bits per second, [`BITS_PER_S_MIN`] to [`BITS_PER_S_MAX`]. Its burst is in bytes.
    Bits(u64),
    /// Packets per second, 1 to [`PACKETS_PER_S_MAX`]. Its burst is in packets.
    Packets(u64),
}

impl Rate {
    fn check(self) -> Result<u64, QosError> {
        let (rate, unit, least, most) = match self {
            Rate::Bits(rate) => (rate, "bit/s", BITS_PER_S_MIN, BITS_PER_S_MAX),
            Rate::Packets(rate) => (rate, "packets/s", 1, PACKETS_PER_S_MAX),
        };
        if (least..=most).contains(&rate) {
            Ok(rate)
        } else {
            Err(QosError::Rate {
                rate,
                unit,
                least,
                most,
            })
        }
    }
}

/// A rate on a clock: turns time into credit and frames into cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Units of credit for a tick.
    per_tick: u64,
    /// Units that one byte costs.
    per_byte: u64,
    /// Units that a packet costs, whatever its length.
    per_packet: u64,
}

impl Pace {
    /// `rate` on a clock of `ticks_per_s`.
    ///
    /// # Errors
    /// [`QosError::Rate`], [`QosError::Clock`].
    pub fn new(rate: Rate, ticks_per_s: u64) -> Result<Pace, QosError> {
        if !(TICKS_PER_S_MIN..=TICKS_PER_S_MAX).contains(&ticks_per_s) {
            return Err(QosError::Clock(ticks_per_s));
        }
        let per_tick = rate.check()?;
        let (per_byte, per_packet) = match rate {
            Rate::Bits(_) => (8 * ticks_per_s, 0),
            Rate::Packets(_) => (0, ticks_per_s),
        };
        Ok(Pace {
            per_tick,
            per_byte,
            per_packet,
        })
    }

    /// What `ticks` are worth. Below 2^94.
    #[inline]
    pub fn credit(&self, ticks: u64) -> i128 {
        // 64 bits by 39: never out of range.
        i128::from(ticks) * i128::from(self.per_tick)
    }

    /// What a frame of `len` bytes costs. Below 2^76.
    #[inline]
    pub fn cost(&self, len: u32) -> i128 {
        i128::from(self.per_byte) * i128::from(len) + i128::from(self.per_packet)
    }

    /// The size of a bucket for a burst, in bytes or packets.
    ///
    /// # Errors
    /// [`QosError::Burst`].
    pub fn depth(&self, burst: u64) -> Result<i128, QosError> {
        if burst == 0 || burst > BURST_MAX {
            return Err(QosError::Burst(burst));
        }
        Ok(i128::from(burst) * i128::from(self.per_byte + self.per_packet))
    }

    /// Whole ticks until `credit` more units have come, rounded up.
    #[inline]
    pub fn ticks_for(&self, credit: i128) -> u64 {
        let per_tick = i128::from(self.per_tick);
        let ticks = (credit.max(0) + per_tick - 1) / per_tick;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The time up to which credit was given; a clock that goes back gives nothing.
#[derive(Clone, Copy, Debug)]
pub struct Since(u64);

impl Since {
    /// Starts at `now`.
    pub fn new(now: u64) -> Since {
        Since(now)
    }

    /// Ticks since the last call, or zero if `now` is before it.
    #[inline]
    pub fn elapsed(&mut self, now: u64) -> u64 {
        let ticks = now.saturating_sub(self.0);
        self.0 = self.0.max(now);
        ticks
    }
}

/// Credit up to a depth. It may be in debt, if the owner lets it.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    credit: i128,
    depth: i128,
}

impl Bucket {
    /// A full bucket.
    pub fn full(depth: i128) -> Bucket {
        Bucket {
            credit: depth,
            depth,
        }
    }

    /// Adds credit and returns what does not fit.
    #[inline]
    pub fn fill(&mut self, credit: i128) -> i128 {
        let sum = self.credit + credit;
        self.credit = sum.min(self.depth);
        sum - self.credit
    }

    /// There is at least `cost` in it.
    #[inline]
    pub fn holds(&self, cost: i128) -> bool {
        self.credit >= cost
    }

    /// Takes `cost`, into debt if it must be.
    #[inline]
    pub fn take(&mut self, cost: i128) {
        self.credit -= cost;
    }

    /// Credit now; negative is debt.
    #[inline]
    pub fn credit(&self) -> i128 {
        self.credit
    }
}

/// A token bucket that lets a frame go as long as it is not in debt, and puts what the frame cost beyond the credit on the slate.
///
/// So a frame longer than the burst passes too, and still the long-run rate is exact: in any time `t` at most
/// `burst + rate * t + one frame` passes.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    pace: Pace,
    bucket: Bucket,
    since: Since,
}

impl TokenBucket {
    /// A full bucket of `burst` (bytes or packets).
    ///
    /// # Errors
    /// [`QosError::Rate`], [`QosError::Clock`], [`QosError::Burst`].
    pub fn new(
        rate: Rate,
        burst: u64,
        ticks_per_s: u64,
        now: u64,
    ) -> Result<TokenBucket, QosError> {
        let pace = Pace::new(rate, ticks_per_s)?;
        Ok(TokenBucket {
            pace,
            bucket: Bucket::full(pace.depth(burst)?),
            since: Since::new(now),
        })
    }

    /// Whether a frame may go now.
    #[inline]
    pub fn ready(&mut self, now: u64) -> bool {
        let elapsed = self.since.elapsed(now);
        self.bucket.fill(self.pace.credit(elapsed));
        self.bucket.credit() > 0
    }

    /// Charges a frame of `len` bytes.
    #[inline]
    pub fn charge(&mut self, len: u32) {
        self.bucket.take(self.pace.cost(len));
    }

    /// The first time from `now` on at which [`TokenBucket::ready`] answers yes.
    pub fn ready_at(&mut self, now: u64) -> u64 {
        if self.ready(now) {
            return now;
        }
        let missing = 1 - self.bucket.credit();
        self.since.0.saturating_add(self.pace.ticks_for(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_held() {
        assert!(Pace::new(Rate::Bits(999), 1_000_000).is_err());
        assert!(Pace::new(Rate::Bits(1_000), 1_000_000).is_ok());
        assert!(Pace::new(Rate::Bits(BITS_PER_S_MAX + 1), 1_000_000).is_err());
        assert!(Pace::new(Rate::Packets(0), 1_000_000).is_err());
        assert_eq!(Pace::new(Rate::Packets(1), 999), Err(QosError::Clock(999)));
        let pace = Pace::new(Rate::Bits(BITS_PER_S_MAX), TICKS_PER_S_MAX).unwrap();
        assert_eq!(pace.depth(0), Err(QosError::Burst(0)));
        assert!(pace.depth(BURST_MAX + 1).is_err());
        let mut bucket = Bucket::full(pace.depth(BURST_MAX).unwrap());
        bucket.take(pace.cost(u32::MAX));
        assert!(bucket.fill(pace.credit(u64::MAX)) > 0, "nothing overflows");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = TokenBucket::new(Rate::Bits(8_000), 1, 1_000_000_000, 100).unwrap();
        assert!(bucket.ready(100));
        bucket.charge(1);
        assert!(!bucket.ready(50));
        assert!(!bucket.ready(100));
        assert!(bucket.ready(101), "any credit will do");
    }

    proptest! {
        /// A greedy sender gets the rate to the byte over hours, at every rate and clock, however oddly it looks at the bucket.
        #[test]
        fn no_drift(
            rate in prop_oneof![
                Just(BITS_PER_S_MIN), Just(BITS_PER_S_MAX), BITS_PER_S_MIN..=BITS_PER_S_MAX, 1_000u64..100_000
            ],
            ticks_per_s in prop_oneof![Just(1_000_000_000u64), Just(2_499_998_123), 1_000u64..10_000_000_000],
            burst in 1u64..100_000,
            steps in prop::collection::vec((1u64..1_000_000_000_000, 1u32..70_000), 1..200),
        ) {
            let mut bucket = TokenBucket::new(Rate::Bits(rate), burst, ticks_per_s, 7).unwrap();
            let (mut now, mut sent, mut longest) = (7u64, 0u128, 0u32);
            // Start from an empty bucket, so that none of what comes overflows it.
            while bucket.ready(now) {
                bucket.charge(u32::try_from(burst).unwrap());
            }
            let start = bucket.bucket.credit();
            for (step, len) in steps {
                // Never longer than the bucket takes to fill.
                let most = (u128::from(burst) * 8 * u128::from(ticks_per_s) / u128::from(rate)).min(u128::from(step));
                now += u64::try_from(most).unwrap();
                while bucket.ready(now) {
                    bucket.charge(len);
                    sent += u128::from(len);
                    longest = longest.max(len);
                }
            }
            let unit = i128::from(ticks_per_s) * 8;
            let given = i128::from(now - 7) * i128::from(rate) + start;
            let owed = given - i128::try_from(sent).unwrap() * unit;
            prop_assert_eq!(owed, bucket.bucket.credit(), "every unit is accounted for");
            // Nothing is sent where a step is shorter than a tick.
            prop_assert!(owed <= 0 && owed >= -(i128::from(longest) * unit) + start.min(0));
        }

        /// `ready_at` is the first tick at which it is ready.
        #[test]
        fn ready_at_is_exact(rate in BITS_PER_S_MIN..=BITS_PER_S_MAX, len in 1u32..100_000, ticks_per_s in 1_000u64..5_000_000_000) {
            let mut bucket = TokenBucket::new(Rate::Bits(rate), 1, ticks_per_s, 0).unwrap();
            bucket.charge(len);
            let at = bucket.ready_at(0);
            if at > 0 {
                prop_assert!(!bucket.clone().ready(at - 1));
            }
            prop_assert!(bucket.ready(at));
        }
    }
}

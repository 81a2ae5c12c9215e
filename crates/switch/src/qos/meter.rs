//! Three-colour markers: single rate (RFC 2697) and two rates (RFC 2698), colour-blind and colour-aware, counting bytes or packets.

use super::QosError;
use super::bucket::{Bucket, Pace, Rate, Since};

/// What a meter thinks of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Colour {
    /// Within what was committed.
    #[default]
    Green,
    /// Above that, but within the excess burst or the peak rate.
    Yellow,
    /// Above everything.
    Red,
}

impl Colour {
    /// All, in order of severity.
    pub const ALL: [Colour; 3] = [Colour::Green, Colour::Yellow, Colour::Red];
}

/// The rates of a meter. Bursts are in bytes for [`Rate::Bits`] and in packets for [`Rate::Packets`]; a frame that is longer than a
/// burst never fits it, so a burst should be at least the longest frame (65550 bytes where guests hand over unsegmented TCP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// RFC 2697: one rate; what the full committed bucket cannot take fills the excess bucket.
    SingleRate {
        /// Committed information rate.
        cir: Rate,
        /// Committed burst size. May be zero if `ebs` is not.
        cbs: u64,
        /// Excess burst size. May be zero if `cbs` is not.
        ebs: u64,
    },
    /// RFC 2698: a committed and a peak rate, each with its bucket, both counting the same (bits or packets).
    TwoRate {
        /// Committed information rate.
        cir: Rate,
        /// Committed burst size.
        cbs: u64,
        /// Peak information rate, at least `cir`.
        pir: Rate,
        /// Peak burst size.
        pbs: u64,
    },
}

/// A meter's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Rates and bursts.
    pub marker: Marker,
    /// Takes the colour that a frame has already into account; otherwise every frame comes in green.
    pub colour_aware: bool,
}

#[derive(Clone, Copy, Debug)]
enum Second {
    /// The excess bucket, filled by what the first cannot take.
    Excess(Bucket),
    /// The peak bucket with its own rate.
    Peak(Bucket, Pace),
}

/// A meter at work.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    pace: Pace,
    since: Since,
    committed: Bucket,
    second: Second,
    colour_aware: bool,
}

/// A depth of zero is allowed where two bursts add up.
fn depth(pace: &Pace, burst: u64) -> Result<i128, QosError> {
    if burst == 0 { Ok(0) } else { pace.depth(burst) }
}

impl Meter {
    /// A meter with full buckets on a clock of `ticks_per_s`.
    ///
    /// # Errors
    /// [`QosError::Rate`], [`QosError::Burst`], [`QosError::Clock`], [`QosError::PeakBelowCommitted`] (also when one rate counts bits
    /// and the other packets).
    pub fn new(profile: &Profile, ticks_per_s: u64, now: u64) -> Result<Meter, QosError> {
        let (pace, committed, second) = match profile.marker {
            Marker::SingleRate { cir, cbs, ebs } => {
                let pace = Pace::new(cir, ticks_per_s)?;
                if cbs == 0 && ebs == 0 {
                    return Err(QosError::Burst(0));
                }
                let excess = Bucket::full(depth(&pace, ebs)?);
                (pace, depth(&pace, cbs)?, Second::Excess(excess))
            }
            Marker::TwoRate { cir, cbs, pir, pbs } => {
                let (committed, peak) = match (cir, pir) {
                    (Rate::Bits(c), Rate::Bits(p)) | (Rate::Packets(c), Rate::Packets(p)) => (c, p),
                    // Not comparable: the peak is no peak.
                    (Rate::Bits(c) | Rate::Packets(c), _) => (c, 0),
                };
                if peak < committed {
                    return Err(QosError::PeakBelowCommitted { peak, committed });
                }
                let pace = Pace::new(cir, ticks_per_s)?;
                let peak = Pace::new(pir, ticks_per_s)?;
                let bucket = Bucket::full(peak.depth(pbs)?);
                (pace, pace.depth(cbs)?, Second::Peak(bucket, peak))
            }
        };
        Ok(Meter {
            pace,
            since: Since::new(now),
            committed: Bucket::full(committed),
            second,
            colour_aware: profile.colour_aware,
        })
    }

    /// Colours a frame of `len` bytes that came with `input` and takes what it costs.
    #[inline]
    pub fn colour(&mut self, len: u32, input: Colour, now: u64) -> Colour {
        let elapsed = self.since.elapsed(now);
        let input = if self.colour_aware {
            input
        } else {
            Colour::Green
        };
        let cost = self.pace.cost(len);
        let over = self.committed.fill(self.pace.credit(elapsed));
        match &mut self.second {
            Second::Excess(excess) => {
                excess.fill(over);
                if input == Colour::Green && self.committed.holds(cost) {
                    self.committed.take(cost);
                    Colour::Green
                } else if input != Colour::Red && excess.holds(cost) {
                    excess.take(cost);
                    Colour::Yellow
                } else {
                    Colour::Red
                }
            }
            Second::Peak(peak, pace) => {
                peak.fill(pace.credit(elapsed));
                if input == Colour::Red || !peak.holds(cost) {
                    return Colour::Red;
                }
                peak.take(cost);
                if input == Colour::Yellow || !self.committed.holds(cost) {
                    return Colour::Yellow;
                }
                self.committed.take(cost);
                Colour::Green
            }
        }
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;

//! Quality of service: meters (RFC 2697, RFC 2698), rate limits, and the scheduler in front of a port.
//!
//! | module | what it is |
//! |---|---|
//! | [`bucket`] | rates and token buckets in exact integer arithmetic |
//! | [`meter`] | single-rate and two-rate three-colour markers |
//! | [`meter_table`] | meters by index: profile, policy per colour, counts |
//! | [`limit`] | ingress policing, storm control, limits on what is punted |
//! | [`codel`] | CoDel (RFC 8289), which tells a standing queue from a burst |
//! | [`fifo`] | queues of frame handles in one preallocated pool |
//! | [`round_robin`] | strict levels with deficit round robin in each |
//! | [`node`] | ports, tenants, classes as configured and counted |
//! | [`scheduler`] | which frame goes next, and when |
//!
//! Everything here belongs to one lcore. Nothing reads a clock: `now` is passed in, in ticks of whatever the caller counts in (the
//! time-stamp counter, nanoseconds), whose frequency was said when the object was made. Nothing allocates for a frame, holds one,
//! or looks into one.

pub mod bucket;
pub mod codel;
pub mod fifo;
pub mod limit;
pub mod meter;
pub mod meter_table;
pub mod node;
pub mod round_robin;
pub mod scheduler;

use thiserror::Error;

/// A quality-of-service setting that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QosError {
    /// The clock's frequency makes no sense.
    #[error("a clock of {0} ticks per second; expected 1000 to 2^40")]
    Clock(u64),
    /// A rate outside what is kept exactly.
    #[error("a rate of {rate} {unit}; expected {least} to {most}")]
    Rate {
        /// As given.
        rate: u64,
        /// Bits or packets per second.
        unit: &'static str,
        /// Least that is accepted.
        least: u64,
        /// Most that is accepted.
        most: u64,
    },
    /// A burst outside what is kept exactly.
    #[error("a burst of {0}; expected 1 to 2^40 bytes or packets")]
    Burst(u64),
    /// The peak rate of a two-rate meter is below its committed rate (RFC 2698, section 2).
    #[error("a peak rate of {peak} below the committed rate of {committed}")]
    PeakBelowCommitted {
        /// Peak information rate.
        peak: u64,
        /// Committed information rate.
        committed: u64,
    },
    /// A DSCP wider than six bits.
    #[error("DSCP {0}; expected 0 to 63")]
    Dscp(u8),
    /// No room for another meter, tenant or class.
    #[error("no room for another {what}: {limit} exist already")]
    Full {
        /// What was to be added.
        what: &'static str,
        /// How many there may be.
        limit: u32,
    },
    /// The meter, tenant or class is gone, or never was.
    #[error("the {0} does not exist (any more)")]
    Gone(&'static str),
    /// A priority level that does not exist.
    #[error("priority {0}; expected 0 (served first) to 7")]
    Priority(u8),
    /// A weight that cannot be.
    #[error("weight {0}; expected 1 to 1024")]
    Weight(u16),
    /// A queue limit, or a size of a table, of zero or beyond 2^24.
    #[error("a limit of {0}; expected 1 to 2^24")]
    Limit(u64),
    /// CoDel's times make no sense.
    #[error("CoDel target {target} and interval {interval} ticks; expected 0 < target < interval")]
    Codel {
        /// Acceptable standing delay.
        target: u64,
        /// Time over which the delay must have been worse.
        interval: u64,
    },
}

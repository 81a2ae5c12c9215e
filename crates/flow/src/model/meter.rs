//! Meters: what `meter` actions name (rte_mtr.h; RFC 2697, RFC 2698, RFC 4115).

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::field::MeterColor;

/// How packets are coloured. Rates are in bytes (packets in packet mode) per second, burst sizes in
/// bytes (packets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MeterAlgorithm {
    /// Single rate, three colours (RFC 2697).
    SrtcmRfc2697 {
        /// Committed information rate.
        cir: u64,
        /// Committed burst size.
        cbs: u64,
        /// Excess burst size.
        ebs: u64,
    },
    /// Two rates, three colours (RFC 2698).
    TrtcmRfc2698 {
        /// Committed information rate.
        cir: u64,
        /// Peak information rate.
        pir: u64,
        /// Committed burst size.
        cbs: u64,
        /// Peak burst size.
        pbs: u64,
    },
    /// Two rates, three colours, efficient (RFC 4115).
    TrtcmRfc4115 {
        /// Committed information rate.
        cir: u64,
        /// Excess information rate.
        eir: u64,
        /// Committed burst size.
        cbs: u64,
        /// Excess burst size.
        ebs: u64,
    },
}

/// What meters of one kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterProfile {
    /// How packets are coloured.
    pub algorithm: MeterAlgorithm,
    /// Whether packets are counted instead of their bytes.
    #[serde(default)]
    pub packet_mode: bool,
}

/// Why a profile makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    /// A rate of nothing.
    #[error("the committed information rate is 0")]
    NoRate,
    /// No burst at all, so that every packet is red (RFC 2697, section 2; RFC 2698, section 2).
    #[error("{what} is 0; {expected}")]
    NoBurst {
        /// The burst size.
        what: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A peak rate below the committed one (RFC 2698, section 2).
    #[error("the peak information rate {pir} is below the committed one, {cir}")]
    PeakBelowCommitted {
        /// Committed information rate.
        cir: u64,
        /// Peak information rate.
        pir: u64,
    },
}

impl MeterProfile {
    /// Whether the profile makes sense.
    pub fn validate(&self) -> Result<(), MeterError> {
        let both = |cbs, other, name| match (cbs, other) {
            (0, _) => Err(MeterError::NoBurst {
                what: "the committed burst size",
                expected: "at least one packet's",
            }),
            (_, 0) => Err(MeterError::NoBurst {
                what: name,
                expected: "at least one packet's",
            }),
            _ => Ok(()),
        };
        match self.algorithm {
            MeterAlgorithm::SrtcmRfc2697 { cir: 0, .. }
            | MeterAlgorithm::TrtcmRfc2698 { cir: 0, .. }
            | MeterAlgorithm::TrtcmRfc4115 { cir: 0, .. } => Err(MeterError::NoRate),
            MeterAlgorithm::SrtcmRfc2697 { cbs: 0, ebs: 0, .. } => Err(MeterError::NoBurst {
                what: "the committed and the excess burst size",
                expected: "one must hold a packet",
            }),
            MeterAlgorithm::SrtcmRfc2697 { .. } => Ok(()),
            MeterAlgorithm::TrtcmRfc2698 { cir, pir, .. } if pir < cir => {
                Err(MeterError::PeakBelowCommitted { cir, pir })
            }
            MeterAlgorithm::TrtcmRfc2698 { cbs, pbs, .. } => both(cbs, pbs, "the peak burst size"),
            MeterAlgorithm::TrtcmRfc4115 { cbs, ebs, .. } => {
                both(cbs, ebs, "the excess burst size")
            }
        }
    }
}

/// What is done with packets of each colour.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeterPolicy {
    /// With green ones.
    pub green: Vec<Action>,
    /// With yellow ones.
    pub yellow: Vec<Action>,
    /// With red ones.
    pub red: Vec<Action>,
}

/// A meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Its profile.
    pub profile: u32,
    /// Its policy.
    pub policy: u32,
    /// Whether it works.
    pub enabled: bool,
    /// What is counted (`enum rte_mtr_stats_type`).
    pub stats_mask: u64,
    /// Whether several rules may use it.
    pub shared: bool,
    /// Colour that packets have before; never [`MeterColor::All`].
    pub default_input_color: MeterColor,
    /// Whether the colour that an earlier meter gave counts.
    pub use_previous_color: bool,
}

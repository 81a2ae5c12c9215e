//! How a port's guest is protected from floods of SYNs.

use serde::Serialize;

use crate::decode::{Field, Fields, optional};

/// When SYNs to a port are answered with cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SynProtection {
    /// Never.
    Off,
    /// While too many of its connections are half open, or come in a second.
    Auto,
    /// At all times.
    Always,
}

/// The protection of a port; what is absent is as said with `FIELDS`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PortProtection {
    /// When; absent means never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_protection: Option<SynProtection>,
    /// Half-open connections from which on there are too many, 1 ..= 65536.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_half_open: Option<u32>,
    /// New connections in a second from which on there are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_rate: Option<u32>,
    /// Largest segment that clients are told of, bytes, 64 ..= 9176.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_mss: Option<u16>,
    /// Window scale that clients are told, 0 ..= 14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_window_scale: Option<u8>,
    /// Whether clients may acknowledge selectively.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_sack: Option<bool>,
    /// Whether clients are given timestamps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_timestamps: Option<bool>,
}

/// Half-open connections from which on there are too many unless said otherwise: half of Linux's least backlog.
pub const HALF_OPEN: u32 = 64;

const MODES: [(&str, SynProtection); 3] = [
    ("off", SynProtection::Off),
    ("auto", SynProtection::Auto),
    ("always", SynProtection::Always),
];

/// The fields, to stand behind those of a port.
pub(super) const FIELDS: [Field; 7] = [
    optional(
        "syn_protection",
        "\"off\" | \"auto\" | \"always\"",
        "SYNs to the port are answered with SYN cookies: while too many come, or at all times (default off)",
    ),
    optional(
        "syn_half_open",
        "integer 1..65536",
        "half-open connections to the port that are too many (default 64)",
    ),
    optional(
        "syn_rate",
        "integer 1..100000000",
        "new connections to the port in a second that are too many (default no limit)",
    ),
    optional(
        "syn_mss",
        "integer 64..9176",
        "largest segment that clients are told with a cookie, bytes; no more than the MTU allows (default 1460)",
    ),
    optional(
        "syn_window_scale",
        "integer 0..14",
        "window scale that clients are told with a cookie (default 7)",
    ),
    optional(
        "syn_sack",
        "boolean",
        "selective acknowledgements are offered with a cookie (default true)",
    ),
    optional(
        "syn_timestamps",
        "boolean",
        "timestamps are offered with a cookie; without, nothing remembers window scale and selective acknowledgements (default true)",
    ),
];

impl PortProtection {
    pub(super) fn read(fields: &mut Fields<'_>, uplink: bool) -> Self {
        if uplink {
            fields.forbid(&["syn_protection"], "an uplink is no guest");
        }
        let syn_protection = fields.optional_word("syn_protection", &MODES);
        let narrow = |value: Option<u32>| value.and_then(|value| u16::try_from(value).ok());
        Self {
            syn_protection,
            syn_half_open: fields.optional_integer("syn_half_open", 1..=65_536),
            syn_rate: fields.optional_integer("syn_rate", 1..=100_000_000),
            syn_mss: narrow(fields.optional_integer("syn_mss", 64..=9_176)),
            syn_window_scale: narrow(fields.optional_integer("syn_window_scale", 0..=14))
                .map(|scale| scale as u8),
            syn_sack: fields.optional("syn_sack"),
            syn_timestamps: fields.optional("syn_timestamps"),
        }
    }
}

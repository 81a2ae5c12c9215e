//! The sections of the configuration file that are no objects: `[daemon]`, how the process runs, and `[switch]`, how connections are tracked. They are read from
//! the file at every start and are not stored.

use serde::Serialize;
use serde_json::{Map, Value};
use sumeru_switch::conntrack::{LONGEST_TIMEOUT, POLICIES, State};

use crate::decode::{Fault, Field, Fields, LineOf, Name, Wrong, no_lines, optional, required};
use crate::model::{as_map, read_tables};

/// How the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DaemonSettings {
    /// Address and TCP port that counters are served on; nowhere without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// A zone that is not treated as usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneSetting {
    /// Its number.
    pub zone: u16,
    /// Most connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// TCP connections may be picked up in their middle.
    pub pickup: bool,
    /// No window checks.
    pub liberal: bool,
}

/// How long connections in one state live without a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimeoutSetting {
    /// Number of the policy.
    pub policy: u8,
    /// Word for the state.
    pub state: &'static str,
    /// Milliseconds.
    pub ms: u32,
}

/// Most connections that a port may own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortLimit {
    /// Name of the port.
    pub port: String,
    /// The number.
    pub limit: u32,
}

/// How connections are tracked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchSettings {
    /// Most connections of an lcore.
    pub connections: u32,
    /// Whether a full table gives up a connection without an answer, half open or closed, for a new one.
    pub early_drop: bool,
    /// Zones that are not treated as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneSetting>,
    /// Timeouts other than the defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeouts: Vec<TimeoutSetting>,
    /// Limits of ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_limits: Vec<PortLimit>,
}

impl Default for SwitchSettings {
    fn default() -> Self {
        Self {
            connections: 1 << 22,
            early_drop: false,
            zones: Vec::new(),
            timeouts: Vec::new(),
            port_limits: Vec::new(),
        }
    }
}

/// Everything in a file that is no object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Section `[daemon]`.
    pub daemon: DaemonSettings,
    /// Section `[switch]`.
    pub switch: SwitchSettings,
}

const DAEMON: &[Field] = &[optional(
    "metrics",
    "address:port",
    "where counters are served in Prometheus' text format (default: nowhere)",
)];
const SWITCH: &[Field] = &[
    optional(
        "connections",
        "integer 1..268435456",
        "most connections of an lcore (default 4194304)",
    ),
    optional(
        "early_drop",
        "boolean",
        "a full table gives up a connection without an answer, half open or closed, for a new one (default false)",
    ),
    optional(
        "zones",
        "list of zone, limit, pickup, liberal",
        "zones that are not treated as usual",
    ),
    optional(
        "timeouts",
        "list of policy, state, ms",
        "how long connections in a state live without a packet",
    ),
    optional(
        "port_limits",
        "list of port, limit",
        "most connections that ports may own",
    ),
];
/// Fields of a zone.
pub const ZONE: &[Field] = &[
    required("zone", "integer 0..65535", "number of the zone"),
    optional(
        "limit",
        "integer 0..4294967295",
        "most connections (default: no limit)",
    ),
    optional(
        "pickup",
        "boolean",
        "TCP connections may be picked up in their middle (default false)",
    ),
    optional("liberal", "boolean", "no window checks (default false)"),
];
/// Fields of a timeout.
pub const TIMEOUT: &[Field] = &[
    optional(
        "policy",
        "integer 0..15",
        "number of the policy (default 0)",
    ),
    required("state", "state of a connection", "which connections"),
    required(
        "ms",
        "integer 1..1073741824",
        "how long they live without a packet, milliseconds",
    ),
];
/// Fields of a port's limit.
pub const PORT_LIMIT: &[Field] = &[
    required("port", "port name", "the port"),
    required(
        "limit",
        "integer 0..4294967295",
        "most connections that it may own",
    ),
];

/// A number that has to be there.
fn needed(
    fields: &mut Fields<'_>,
    field: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Option<u32> {
    if !fields.has(field) {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        fields.fault(field, "missing", expected);
        return None;
    }
    fields.optional_integer(field, range)
}

impl ZoneSetting {
    /// Reads a zone.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let zone = needed(fields, "zone", 0..=u32::from(u16::MAX));
        let limit = fields.optional_integer("limit", 0..=u32::MAX);
        let (pickup, liberal) = (fields.or("pickup", false), fields.or("liberal", false));
        Some(Self {
            zone: u16::try_from(zone?).ok()?,
            limit,
            pickup,
            liberal,
        })
    }
}

impl TimeoutSetting {
    /// Reads a timeout.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let policy = fields.integer("policy", 0..=(POLICIES - 1) as u32, 0);
        let words = State::ALL.map(|state| (state.word(), state));
        let state = fields.required_word("state", &words);
        let ms = needed(fields, "ms", 1..=LONGEST_TIMEOUT);
        Some(Self {
            policy: u8::try_from(policy).ok()?,
            state: state?.word(),
            ms: ms?,
        })
    }
}

impl PortLimit {
    /// Reads a limit.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let port = fields.required::<Name>("port");
        let limit = needed(fields, "limit", 0..=u32::MAX);
        Some(Self {
            port: port?.0,
            limit: limit?,
        })
    }
}

fn entry<T>(
    known: &'static [Field],
    read: fn(&mut Fields<'_>) -> Option<T>,
) -> impl Fn(&Map<String, Value>) -> Result<T, Wrong> {
    move |map| {
        let mut fields = Fields::new("", map, known, &no_lines);
        let value = read(&mut fields);
        fields.finish(value).map_err(|faults| Wrong {
            expected: faults
                .first()
                .map(|fault| format!("{} to be {}", fault.field, fault.expected))
                .unwrap_or_default(),
        })
    }
}

impl DaemonSettings {
    /// Reads the section.
    pub fn decode(map: &Map<String, Value>, line_of: LineOf<'_>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::new("daemon", map, DAEMON, line_of);
        let metrics = fields.optional::<String>("metrics");
        if let Some(address) = &metrics
            && address.parse::<std::net::SocketAddr>().is_err()
        {
            fields.fault(
                "metrics",
                format!("{address:?}"),
                "an address and a port such as 127.0.0.1:9555",
            );
        }
        fields.finish(Some(Self { metrics }))
    }
}

impl SwitchSettings {
    /// Reads the section.
    pub fn decode(map: &Map<String, Value>, line_of: LineOf<'_>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::new("switch", map, SWITCH, line_of);
        let connections = fields.integer("connections", 1..=1 << 28, 1 << 22);
        let early_drop = fields.or("early_drop", false);
        let zones = read_tables(
            &mut fields,
            "zones",
            "a list of zones",
            entry(ZONE, ZoneSetting::read),
        );
        let timeouts = read_tables(
            &mut fields,
            "timeouts",
            "a list of timeouts",
            entry(TIMEOUT, TimeoutSetting::read),
        );
        let port_limits = read_tables(
            &mut fields,
            "port_limits",
            "a list of limits",
            entry(PORT_LIMIT, PortLimit::read),
        );
        fields.finish(Some(Self {
            connections,
            early_drop,
            zones,
            timeouts,
            port_limits,
        }))
    }
}

impl Settings {
    /// Sections that differ from the defaults, by name, as they are written.
    pub fn sections(&self) -> Vec<(&'static str, Map<String, Value>)> {
        let default = Self::default();
        let mut sections = Vec::new();
        if self.daemon != default.daemon {
            sections.push(("daemon", as_map(&self.daemon)));
        }
        if self.switch != default.switch {
            sections.push(("switch", as_map(&self.switch)));
        }
        sections
    }
}

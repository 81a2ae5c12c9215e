//! How frames leave by a port: its rate, tenants with their shares of it, classes within each.
//!
//! Shares are text, as they stand in lists and on command lines:
//!
//! ```text
//! blue weight 3
//! red weight 1 rate_kbit 20000
//! * priority 1
//! dscp 46 priority 0
//! dscp 10 12 14 weight 4 priority 1
//! ```
//! `*` is everybody else. Without a weight it is 1, without a priority 0, which is served first.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::decode::{Field, Fields, FromValue, Wrong, optional};
use crate::value::is_name;

/// Most shares of a port, of either kind.
const SHARES_MAX: usize = 64;
/// Most frames that may wait in front of a port, over all classes of all tenants.
const FRAMES_MAX: usize = 65_536;

/// What one is served by among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Level, 0 (served first) to 7.
    pub priority: u8,
    /// Share of the level, 1 to 1024.
    pub weight: u16,
}

/// A tenant's share of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantShare {
    /// The network whose frames it is about; `None` for those of all others.
    pub network: Option<String>,
    /// The share.
    pub share: Share,
    /// Kilobits per second that the tenant has at most.
    pub rate_kbit: Option<u64>,
}

/// A class of each tenant's frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassShare {
    /// Code points (RFC 2474) of its frames; empty for all other frames.
    pub dscp: Vec<u8>,
    /// The share.
    pub share: Share,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " priority {} weight {}", self.priority, self.weight)
    }
}

impl fmt::Display for TenantShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.network.as_deref().unwrap_or("*");
        write!(f, "{name}{}", self.share)?;
        self.rate_kbit
            .map_or(Ok(()), |rate| write!(f, " rate_kbit {rate}"))
    }
}

impl fmt::Display for ClassShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.dscp.is_empty() { "*" } else { "dscp" })?;
        for dscp in &self.dscp {
            write!(f, " {dscp}")?;
        }
        self.share.fmt(f)
    }
}

impl Serialize for TenantShare {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for ClassShare {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What follows the subject of a share: `priority N`, `weight N`, `rate_kbit N`, each at most once.
fn read_share<'a>(
    words: impl Iterator<Item = &'a str>,
    rated: bool,
) -> Option<(Share, Option<u64>)> {
    let (mut priority, mut weight, mut rate) = (None, None, None);
    let mut words = words;
    while let Some(word) = words.next() {
        let number: u64 = words.next()?.parse().ok()?;
        let (slot, range) = match word {
            "priority" => (&mut priority, 0..=7),
            "weight" => (&mut weight, 1..=1024),
            "rate_kbit" if rated => (&mut rate, 1..=1_000_000_000),
            _ => return None,
        };
        if !range.contains(&number) || slot.replace(number).is_some() {
            return None;
        }
    }
    let share = Share {
        priority: priority.unwrap_or(0) as u8,
        weight: weight.unwrap_or(1) as u16,
    };
    Some((share, rate))
}

impl FromValue for TenantShare {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let read = || {
            let mut words = value.as_str()?.split_ascii_whitespace();
            let name = words.next()?;
            let (share, rate_kbit) = read_share(words, true)?;
            (name == "*" || is_name(name)).then(|| Self {
                network: (name != "*").then(|| name.to_owned()),
                share,
                rate_kbit,
            })
        };
        read().ok_or_else(|| Wrong {
            expected: "NETWORK or *, then any of priority 0..7, weight 1..1024, rate_kbit 1..1000000000, such as \"blue weight 3\"".to_owned(),
        })
    }
}

impl FromValue for ClassShare {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let read = || {
            let mut words = value.as_str()?.split_ascii_whitespace().peekable();
            let others = match words.next()? {
                "*" => true,
                "dscp" => false,
                _ => return None,
            };
            let mut dscp = Vec::new();
            while let Some(number) = words.peek().and_then(|word| word.parse().ok()) {
                dscp.push(number);
                words.next();
            }
            let good = dscp.iter().all(|dscp| *dscp < 64) && others == dscp.is_empty();
            let (share, _) = read_share(words, false)?;
            good.then_some(Self { dscp, share })
        };
        read().ok_or_else(|| Wrong {
            expected: "dscp and code points 0..63, or *, then any of priority 0..7 and weight 1..1024, such as \"dscp 46 priority 0\"".to_owned(),
        })
    }
}

/// How frames leave by a port. Without a rate nothing waits, and there are no shares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PortShaping {
    /// Kilobits per second that leave by the port; frames wait for their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape_kbit: Option<u64>,
    /// Frames that may wait in each class of each tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape_queue: Option<u32>,
    /// Tenants with a share of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shape_tenants: Vec<TenantShare>,
    /// Classes of each tenant's frames.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shape_classes: Vec<ClassShare>,
}

/// Frames that may wait in a class unless said otherwise.
pub const QUEUE: u32 = 1000;

/// The fields, to stand behind those of a port.
pub(super) const FIELDS: [Field; 4] = [
    optional(
        "shape_kbit",
        "integer 1..1000000000",
        "kilobits per second that leave by the port; frames wait for their turn (default: none waits)",
    ),
    optional(
        "shape_queue",
        "integer 64..65536",
        "with shape_kbit: frames that may wait in each class of each tenant (default 1000)",
    ),
    optional(
        "shape_tenants",
        "list of shares as NETWORK priority N weight N rate_kbit N",
        "with shape_kbit: tenants' shares of the port, * for all others (default: one for all)",
    ),
    optional(
        "shape_classes",
        "list of shares as dscp N priority N weight N",
        "with shape_kbit: classes of each tenant's frames, * for all others (default: one for all)",
    ),
];

impl PortShaping {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let shape_kbit = fields.optional_integer("shape_kbit", 1..=1_000_000_000);
        if shape_kbit.is_none() && !fields.has("shape_kbit") {
            let why = "without shape_kbit nothing waits";
            fields.forbid(&["shape_queue", "shape_tenants", "shape_classes"], why);
        }
        let shaping = Self {
            shape_kbit,
            shape_queue: fields.optional_integer("shape_queue", 64..=FRAMES_MAX as u32),
            shape_tenants: fields.list("shape_tenants"),
            shape_classes: fields.list("shape_classes"),
        };
        shaping.check(fields);
        shaping
    }

    /// Frames that may wait in each class of each tenant.
    pub fn queue(&self) -> u32 {
        self.shape_queue.unwrap_or(QUEUE)
    }

    fn check(&self, fields: &mut Fields<'_>) {
        for (i, tenant) in self.shape_tenants.iter().enumerate() {
            let twice = |other: &TenantShare| other.network == tenant.network;
            if self.shape_tenants[..i].iter().any(twice) {
                let found = format!("{} twice", tenant.network.as_deref().unwrap_or("*"));
                fields.fault("shape_tenants", found, "one share for each");
            }
        }
        let points = self.shape_classes.iter().flat_map(|class| {
            let others = class.dscp.is_empty().then_some(64);
            class.dscp.iter().copied().chain(others)
        });
        let mut seen = [false; 65];
        for point in points {
            if std::mem::replace(&mut seen[usize::from(point)], true) {
                let found = match point {
                    64 => "* twice".to_owned(),
                    point => format!("code point {point} twice"),
                };
                fields.fault("shape_classes", found, "one class for each");
            }
        }
        for (field, count) in [
            ("shape_tenants", self.shape_tenants.len()),
            ("shape_classes", self.shape_classes.len()),
        ] {
            if count > SHARES_MAX {
                let found = format!("a list of {count}");
                fields.fault(field, found, format!("at most {SHARES_MAX}"));
            }
        }
        let with_others = |count: usize, others: bool| count + usize::from(!others);
        let tenants = self.shape_tenants.iter().any(|t| t.network.is_none());
        let tenants = with_others(self.shape_tenants.len(), tenants);
        let classes = self.shape_classes.iter().any(|c| c.dscp.is_empty());
        let classes = with_others(self.shape_classes.len(), classes);
        let frames = tenants * classes * self.queue() as usize;
        if frames > FRAMES_MAX {
            fields.fault(
                "shape_queue",
                format!("{frames} frames over all classes of all tenants"),
                format!("at most {FRAMES_MAX}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tenant(text: &str) -> Option<TenantShare> {
        TenantShare::from_value(&Value::from(text)).ok()
    }

    fn class(text: &str) -> Option<ClassShare> {
        ClassShare::from_value(&Value::from(text)).ok()
    }

    #[test]
    fn shares_are_read_as_they_are_written() {
        for (text, printed) in [
            ("blue weight 3", "blue priority 0 weight 3"),
            (
                "red rate_kbit 5 priority 7",
                "red priority 7 weight 1 rate_kbit 5",
            ),
            ("*", "* priority 0 weight 1"),
        ] {
            let read = tenant(text).unwrap();
            assert_eq!(read.to_string(), printed);
            assert_eq!(tenant(printed), Some(read));
        }
        for (text, printed) in [
            ("dscp 10 12 weight 4", "dscp 10 12 priority 0 weight 4"),
            ("* priority 2", "* priority 2 weight 1"),
        ] {
            let read = class(text).unwrap();
            assert_eq!(read.to_string(), printed);
            assert_eq!(class(printed), Some(read));
        }
    }

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        for text in [
            "",
            "blue weight",
            "blue weight 0",
            "blue weight 1025",
            "blue priority 8",
            "blue weight 1 weight 2",
            "blue colour 3",
            "blue rate_kbit 0",
            "1",
            "blue 3",
        ] {
            assert_eq!(tenant(text), None, "{text:?}");
        }
        for text in [
            "",
            "dscp",
            "dscp 64",
            "dscp 1 rate_kbit 5",
            "* 3",
            "46",
            "dscp 1 2 300",
        ] {
            assert_eq!(class(text), None, "{text:?}");
        }
    }

    fn faults(fields: &Value) -> Vec<String> {
        let map = fields.as_object().unwrap();
        let mut fields = Fields::new("port p", map, &FIELDS, &crate::decode::no_lines);
        let read = PortShaping::read(&mut fields);
        let faults = fields.finish(Some(read)).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn shares_fit_together() {
        let fits = json!({"shape_kbit": 5, "shape_tenants": ["a", "*"], "shape_classes": ["dscp 1", "dscp 2"]});
        assert_eq!(faults(&fits), Vec::<String>::new());
        for (fields, wrong) in [
            (json!({"shape_tenants": ["a"]}), "shape_tenants"),
            (json!({"shape_queue": 100}), "shape_queue"),
            (
                json!({"shape_kbit": 5, "shape_tenants": ["a", "a weight 2"]}),
                "shape_tenants",
            ),
            (
                json!({"shape_kbit": 5, "shape_classes": ["dscp 1 2", "dscp 2"]}),
                "shape_classes",
            ),
            (
                json!({"shape_kbit": 5, "shape_classes": ["*", "*"]}),
                "shape_classes",
            ),
            (
                json!({"shape_kbit": 5, "shape_queue": 40_000, "shape_tenants": ["a"]}),
                "shape_queue",
            ),
        ] {
            assert_eq!(faults(&fields), [wrong], "{fields}");
        }
    }
}

//! What flow rules name: meters and indirect actions of a port. They belong to the running state: they are not stored and go with their port.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};
use sumeru_flow::Action;
use sumeru_flow::model::{
    Direction, IndirectAction, MeterAlgorithm, MeterError, MeterPolicy, MeterProfile,
};
use sumeru_flow::syntax::parse_rule;

use crate::decode::{Field, Fields, FromValue, Wrong, optional, required};
use crate::error::Error;
use crate::policy::layout::FIRST_METER;

/// Numbers of meters that are made by hand; those above are of policies.
pub const METER_IDS: RangeInclusive<u32> = 0..=FIRST_METER - 1;

/// A meter: how it colours frames, and what becomes of those of each colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterSpec {
    /// Rates and bursts.
    pub profile: MeterProfile,
    /// What becomes of frames, by colour.
    pub policy: MeterPolicy,
    /// Whether the colour that an earlier meter of the rule gave counts.
    pub color_aware: bool,
}

/// Actions in testpmd's syntax, or as a list of tables of the flow model.
struct Actions(Vec<Action>);

/// Actions as a rule has them, from a text such as `mark id 3 / drop`.
fn parse_actions(text: &str) -> Result<Vec<Action>, String> {
    const BEFORE: &str = "ingress pattern end actions ";
    let whole = format!("{BEFORE}{text} / end");
    parse_rule(&whole)
        .map(|rule| rule.actions)
        .map_err(|mut error| {
            error.position = error.position.saturating_sub(BEFORE.len());
            error.to_string()
        })
}

impl FromValue for Actions {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let read = match value {
            Value::String(text) => parse_actions(text),
            Value::Array(_) => {
                serde_json::from_value(value.clone()).map_err(|error| error.to_string())
            }
            _ => Err("a text such as \"drop\"".to_owned()),
        };
        read.map(Self).map_err(|error| Wrong {
            expected: format!("actions: {error}"),
        })
    }
}

/// One action, likewise.
struct OneAction(Action);

impl FromValue for OneAction {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let read = match value {
            Value::String(text) => parse_actions(text).and_then(|mut actions| {
                let first = actions.pop();
                let first = first.filter(|_| actions.is_empty());
                first.ok_or_else(|| "exactly one is needed".to_owned())
            }),
            Value::Object(_) => {
                serde_json::from_value(value.clone()).map_err(|error| error.to_string())
            }
            _ => Err("a text such as \"count\"".to_owned()),
        };
        read.map(Self).map_err(|error| Wrong {
            expected: format!("an action: {error}"),
        })
    }
}

/// Which algorithm, while its numbers are not read yet.
#[derive(Clone, Copy)]
enum Algorithm {
    Srtcm,
    Trtcm,
    TrtcmExcess,
}

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("srtcm_rfc2697", Algorithm::Srtcm),
    ("trtcm_rfc2698", Algorithm::Trtcm),
    ("trtcm_rfc4115", Algorithm::TrtcmExcess),
];

impl MeterSpec {
    /// What may be written of a meter.
    pub const FIELDS: &'static [Field] = &[
        required("port", "port name or index", "the port whose rules name it"),
        required("id", "integer 0..16777215", "number of the meter"),
        required(
            "algorithm",
            "\"srtcm_rfc2697\" | \"trtcm_rfc2698\"",
            "how frames are coloured: one rate or two",
        ),
        required(
            "cir",
            "integer",
            "committed rate, bytes per second (packets with packet_mode)",
        ),
        required("cbs", "integer", "committed burst, bytes (packets)"),
        optional("ebs", "integer", "srtcm_rfc2697: excess burst (needed)"),
        optional("pir", "integer", "trtcm_rfc2698: peak rate (needed)"),
        optional("pbs", "integer", "trtcm_rfc2698: peak burst (needed)"),
        optional(
            "eir",
            "integer",
            "trtcm_rfc4115, which the engine does not have: excess rate",
        ),
        optional(
            "packet_mode",
            "boolean",
            "packets are counted, not their bytes (default false)",
        ),
        optional(
            "color_aware",
            "boolean",
            "the colour that an earlier meter gave counts (default false)",
        ),
        optional(
            "green",
            "actions",
            "what becomes of green frames: passthru, drop, or set_ipv4_dscp dscp_value N (default passthru)",
        ),
        optional(
            "yellow",
            "actions",
            "the same of yellow frames (default passthru)",
        ),
        optional("red", "actions", "the same of red frames (default drop)"),
    ];

    /// Reads a meter.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let algorithm = fields.required_word("algorithm", &ALGORITHMS);
        let [cir, cbs, ebs, pir, pbs, eir] = ["cir", "cbs", "ebs", "pir", "pbs", "eir"]
            .map(|field| fields.optional_integer(field, 0..=u64::MAX));
        let packet_mode = fields.or("packet_mode", false);
        let color_aware = fields.or("color_aware", false);
        let mut colour = |field, default: &[Action]| {
            let given = fields.optional::<Actions>(field);
            given.map_or_else(|| default.to_vec(), |actions| actions.0)
        };
        let policy = MeterPolicy {
            green: colour("green", &[Action::Passthru]),
            yellow: colour("yellow", &[Action::Passthru]),
            red: colour("red", &[Action::Drop]),
        };
        let (needed, others): (&[&str], &[&str]) = match algorithm {
            None => (&[], &[]),
            Some(Algorithm::Srtcm) => (&["ebs"], &["pir", "pbs", "eir"]),
            Some(Algorithm::Trtcm) => (&["pir", "pbs"], &["ebs", "eir"]),
            Some(Algorithm::TrtcmExcess) => (&["eir", "ebs"], &["pir", "pbs"]),
        };
        for name in ["cir", "cbs"].iter().chain(needed) {
            if !fields.has(name) {
                fields.fault(name, "missing", "an integer of 0 or more");
            }
        }
        fields.forbid(others, "it is of another algorithm");
        let (cir, cbs) = (cir?, cbs?);
        let algorithm = match algorithm? {
            Algorithm::Srtcm => MeterAlgorithm::SrtcmRfc2697 {
                cir,
                cbs,
                ebs: ebs?,
            },
            Algorithm::Trtcm => MeterAlgorithm::TrtcmRfc2698 {
                cir,
                pir: pir?,
                cbs,
                pbs: pbs?,
            },
            Algorithm::TrtcmExcess => MeterAlgorithm::TrtcmRfc4115 {
                cir,
                eir: eir?,
                cbs,
                ebs: ebs?,
            },
        };
        let profile = MeterProfile {
            algorithm,
            packet_mode,
        };
        if let Err(error) = profile.validate() {
            let (field, found) = match error {
                MeterError::PeakBelowCommitted { pir, .. } => ("pir", pir),
                MeterError::NoRate => ("cir", 0),
                MeterError::NoBurst { .. } => ("cbs", cbs),
            };
            let expected = format!("a profile that makes sense: {error}");
            fields.fault(field, found.to_string(), expected);
        }
        Some(Self {
            profile,
            policy,
            color_aware,
        })
    }

    /// As it is shown: the fields that [`Self::read`] reads, but for port and number.
    pub fn to_map(&self) -> Map<String, Value> {
        let rates = match self.profile.algorithm {
            MeterAlgorithm::SrtcmRfc2697 { cir, cbs, ebs } => {
                json!({ "algorithm": "srtcm_rfc2697", "cir": cir, "cbs": cbs, "ebs": ebs })
            }
            MeterAlgorithm::TrtcmRfc2698 { cir, pir, cbs, pbs } => {
                json!({ "algorithm": "trtcm_rfc2698", "cir": cir, "pir": pir, "cbs": cbs, "pbs": pbs })
            }
            MeterAlgorithm::TrtcmRfc4115 { cir, eir, cbs, ebs } => {
                json!({ "algorithm": "trtcm_rfc4115", "cir": cir, "eir": eir, "cbs": cbs, "ebs": ebs })
            }
        };
        let text = |actions: &[Action]| {
            let texts: Vec<String> = actions.iter().map(Action::to_string).collect();
            Value::from(texts.join(" / "))
        };
        let mut map = Map::new();
        if let Value::Object(rates) = rates {
            map.extend(rates);
        }
        map.extend([
            ("packet_mode".to_owned(), self.profile.packet_mode.into()),
            ("color_aware".to_owned(), self.color_aware.into()),
            ("green".to_owned(), text(&self.policy.green)),
            ("yellow".to_owned(), text(&self.policy.yellow)),
            ("red".to_owned(), text(&self.policy.red)),
        ]);
        map
    }
}

/// What may be written of a new indirect action.
pub const INDIRECT_FIELDS: &[Field] = &[
    required("port", "port name or index", "the port whose rules name it"),
    optional(
        "id",
        "integer 0..4294967295",
        "number of the indirect action (default: one above the highest)",
    ),
    required(
        "action",
        "string or table",
        "the action in testpmd's syntax, such as count",
    ),
    optional(
        "ingress",
        "boolean",
        "for rules about what comes in (default true if nothing else is said)",
    ),
    optional(
        "egress",
        "boolean",
        "for rules about what leaves (default false)",
    ),
    optional(
        "transfer",
        "boolean",
        "for rules about frames of all ports (default false)",
    ),
];

/// Reads the action alone, as one that exists is given another.
pub fn read_action(fields: &mut Fields<'_>) -> Option<Action> {
    fields.required::<OneAction>("action").map(|one| one.0)
}

/// Reads a new indirect action, which may have no number yet.
pub fn read_indirect(fields: &mut Fields<'_>) -> Option<IndirectAction> {
    let id = fields.optional_integer("id", 0..=u32::MAX);
    let action = read_action(fields);
    let [ingress, egress, transfer] =
        ["ingress", "egress", "transfer"].map(|w| fields.or(w, false));
    let direction = Direction {
        ingress: ingress || !(egress || transfer),
        egress,
        transfer,
    };
    let object = IndirectAction {
        id,
        direction,
        action: action?,
    };
    if let Err(error) = object.validate() {
        let expected = format!("an action that makes sense: {error}");
        fields.fault("action", object.action.to_string(), expected);
    }
    Some(object)
}

/// Meters and indirect actions that actions name, in and outside of samples.
pub fn named_objects(actions: &[Action], note: &mut impl FnMut(FlowObject, u32)) {
    for action in actions {
        match action {
            Action::Meter { mtr_id } => note(FlowObject::Meter, *mtr_id),
            Action::Indirect { id } => note(FlowObject::Indirect, *id),
            Action::Sample(sample) => named_objects(sample.actions(), note),
            _ => {}
        }
    }
}

/// What a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowObject {
    /// A meter.
    Meter,
    /// An indirect action.
    Indirect,
}

impl FlowObject {
    /// What a message calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Indirect => "indirect action",
        }
    }
}

/// Refuses the numbers of meters that are not [`METER_IDS`].
pub fn check_meter_id(object: &str, field: &str, id: u32) -> Result<(), Error> {
    if METER_IDS.contains(&id) {
        return Ok(());
    }
    let expected = format!(
        "at most {}: the numbers above are those of policies",
        METER_IDS.end()
    );
    Err(Error::fault(object, field, id.to_string(), expected))
}

/// Refuses actions that name meters of policies.
pub fn check_meters(object: &str, field: &str, actions: &[Action]) -> Result<(), Error> {
    let mut result = Ok(());
    named_objects(actions, &mut |named, id| {
        if named == FlowObject::Meter && result.is_ok() {
            result = check_meter_id(object, &format!("{field}: mtr_id"), id);
        }
    });
    result
}

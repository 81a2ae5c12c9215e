//! `policy.*` and `address-set.add|remove`: what compiled policies do, and large sets in pieces.

use serde_json::{Value, json};
use sumeru_control::decode::{Field, optional, required};
use sumeru_control::error::Error;
use sumeru_control::policy::PlacedRule;
use sumeru_control::policy::layout::SHARED;
use sumeru_control::value::Prefix;

use super::trace::{PARAMS, port_and_frame};
use super::{shown, text};
use crate::method::{Args, Method, Params, State};

const RULES: &[Field] = &[
    optional(
        "object",
        "string",
        "only rules of this object, such as \"port vm1\"",
    ),
    optional("group", "integer 0..4294967295", "only rules of this group"),
    optional(
        "limit",
        "integer 1..100000",
        "most rules in the answer (default 1000)",
    ),
];
const PIECE: &[Field] = &[
    required("name", "name", "name of the set"),
    required(
        "prefixes",
        "list of addresses or prefixes",
        "some prefixes; those that are (not) there already count for nothing",
    ),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "address-set.add",
        doc: "Adds prefixes to a set; large sets are filled in pieces.",
        params: Params::Fields(PIECE),
        call: add,
    },
    Method {
        name: "address-set.remove",
        doc: "Takes prefixes out of a set.",
        params: Params::Fields(PIECE),
        call: remove,
    },
    Method {
        name: "policy.explain",
        doc: "Follows one packet and says of each rule that it meets which line of which object made it.",
        params: Params::Fields(PARAMS),
        call: explain,
    },
    Method {
        name: "policy.rules",
        doc: "Rules that policies compiled to, with what made them.",
        params: Params::Fields(RULES),
        call: rules,
    },
];

fn piece(args: &Args<'_>) -> Result<(String, Vec<Prefix>), Error> {
    args.read(|fields| {
        let name = text(fields, "name");
        if !fields.has("prefixes") {
            fields.fault("prefixes", "missing", "a list of addresses or prefixes");
        }
        let prefixes = fields.list::<Prefix>("prefixes");
        Some((name?, prefixes))
    })
}

fn add(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (name, prefixes) = piece(&args)?;
    let count = state.control().amend_set(&name, prefixes, &[])?;
    Ok(json!({ "prefixes": count }))
}

fn remove(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (name, prefixes) = piece(&args)?;
    let count = state.control().amend_set(&name, Vec::new(), &prefixes)?;
    Ok(json!({ "prefixes": count }))
}

fn explain(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, frame) = port_and_frame(&args)?;
    shown(state.control().explain(&port, &frame)?)
}

fn rules(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (object, group, limit) = args.read(|fields| {
        let object = fields.optional::<String>("object");
        let group = fields.optional_integer("group", 0..=u32::MAX);
        Some((object, group, fields.integer("limit", 1..=100_000, 1000)))
    })?;
    let control = state.control();
    let wanted = |placed: &PlacedRule| {
        let rule = &placed.rule.rule;
        group.is_none_or(|group| rule.attributes.group == group)
            && object
                .as_ref()
                .is_none_or(|object| placed.origin.object.split(", ").any(|one| one == object))
    };
    let rules: Vec<Value> = control
        .policy()
        .rules()
        .filter(wanted)
        .take(limit)
        .map(|placed| {
            let name = placed.rule.name;
            let port = (name.port != SHARED).then_some(name.port);
            json!({
                "port": port, "id": name.id, "rule": placed.rule.rule.to_string(),
                "object": placed.origin.object, "line": placed.origin.line,
            })
        })
        .collect();
    Ok(json!({ "total": control.policy().len(), "rules": rules }))
}

//! `rpc.methods`, `version`, `node.show`, `event.list`, `daemon.stop`.

use serde_json::{Value, json};
use sumeru_control::decode::{Field, optional};
use sumeru_control::error::Error;
use sumeru_control::model::{Any, Kind};

use super::object::view;
use super::shown;
use crate::method::{Args, Method, Params, State, methods};

const NONE: &[Field] = &[];
const SINCE: &[Field] = &[optional(
    "since",
    "integer",
    "only events with a higher number (default 0: all that are kept)",
)];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "rpc.methods",
        doc: "This list.",
        params: Params::Fields(NONE),
        call: list,
    },
    Method {
        name: "version",
        doc: "Version of the daemon.",
        params: Params::Fields(NONE),
        call: version,
    },
    Method {
        name: "node.show",
        doc: "The node: configuration, numbers of objects, what is out of service.",
        params: Params::Fields(NONE),
        call: node,
    },
    Method {
        name: "event.list",
        doc: "What happened to objects, oldest first.",
        params: Params::Fields(SINCE),
        call: events,
    },
    Method {
        name: "daemon.stop",
        doc: "Ends the daemon after this answer.",
        params: Params::Fields(NONE),
        call: stop,
    },
];

fn list(_: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    Ok(methods()
        .map(|m| json!({ "name": m.name, "doc": m.doc, "params": m.params.list() }))
        .collect())
}

fn version(_: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    Ok(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

fn node(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    let control = state.control();
    let node = Any::Node(control.inventory().node().clone());
    let mut shown = view(&control, &node);
    let count = |kind| control.inventory().of(kind).count();
    shown["objects"] = Kind::ALL
        .iter()
        .filter(|k| **k != Kind::Node)
        .map(|k| (k.word().to_owned(), json!(count(*k))))
        .collect();
    let failed = control.inventory().all().filter_map(|any| {
        control
            .failure(any)
            .map(|reason| json!({ "object": any.label(), "reason": reason }))
    });
    shown["out_of_service"] = failed.collect();
    shown["store"] = json!(control.store_path());
    shown["config"] = json!(state.config);
    shown["pid"] = json!(std::process::id());
    shown["uptime_s"] = json!(state.started.elapsed().as_secs());
    Ok(shown)
}

fn events(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let since = args.read(|fields| Some(fields.or::<u64>("since", 0)))?;
    let control = state.control();
    shown(control.events(since).collect::<Vec<_>>())
}

fn stop(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    state.stop();
    Ok(Value::Bool(true))
}

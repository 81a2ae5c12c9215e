//! `flow.*`: rules of a port, in testpmd's verbs.

use serde_json::{Value, json};
use sumeru_control::decode::{Field, no_lines, optional, required};
use sumeru_control::error::Error;
use sumeru_control::model::{Any, Kind};

use super::object::{MARKS, marks, view};
use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

const PORT: &[Field] = &[required(
    "port",
    "port name or index",
    "the port whose rules they are",
)];
const MAYBE_PORT: &[Field] = &[
    optional("port", "port name or index", "only rules of this port"),
    optional("group", "integer 0..4294967295", "only rules of this group"),
];
const PORT_AND_ID: &[Field] = &[
    required("port", "port name or index", "the port whose rule it is"),
    required("id", "integer 0..4294967295", "number of the rule"),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "flow.create",
        doc: "Adds a rule to a port.",
        params: Params::Object(Kind::Flow, MARKS),
        call: create,
    },
    Method {
        name: "flow.validate",
        doc: "Whether a rule could be added now.",
        params: Params::Object(Kind::Flow, MARKS),
        call: validate,
    },
    Method {
        name: "flow.destroy",
        doc: "Removes a rule.",
        params: Params::Fields(PORT_AND_ID),
        call: destroy,
    },
    Method {
        name: "flow.list",
        doc: "Rules, by port and number.",
        params: Params::Fields(MAYBE_PORT),
        call: list,
    },
    Method {
        name: "flow.query",
        doc: "What a rule counted.",
        params: Params::Fields(PORT_AND_ID),
        call: query,
    },
    Method {
        name: "flow.flush",
        doc: "Removes every rule of a port, all or none.",
        params: Params::Fields(PORT),
        call: flush,
    },
];

fn rule(state: &State, args: &Args<'_>) -> Result<Any, Error> {
    let (marks, mut map) = marks(args)?;
    // The port may be given by index; the object has its name.
    let index = match map.get("port") {
        Some(Value::Number(index)) => Some(index.to_string()),
        Some(Value::String(text)) if text.bytes().all(|b| b.is_ascii_digit()) => Some(text.clone()),
        _ => None,
    };
    if let Some(index) = index {
        let name = state
            .control()
            .inventory()
            .port_by(&index)?
            .spec
            .name
            .clone();
        map.insert("port".to_owned(), Value::from(name));
    }
    Any::decode(Kind::Flow, "flow", &map, &no_lines, marks).map_err(Error::Invalid)
}

fn create(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let rule = rule(state, &args)?;
    let mut control = state.control();
    let made = control.create(rule)?;
    Ok(view(&control, &made))
}

fn validate(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let rule = rule(state, &args)?;
    state.control().validate_flow(rule)?;
    Ok(Value::Bool(true))
}

fn port_and_id(args: &Args<'_>) -> Result<(String, u32), Error> {
    args.read(|fields| {
        let port = fields.required::<PortArg>("port");
        if !fields.has("id") {
            fields.fault("id", "missing", "the number of a rule");
        }
        let id = fields.optional_integer("id", 0..=u32::MAX);
        Some((port?.0, id?))
    })
}

fn destroy(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    let mut control = state.control();
    let name = control.inventory().port_by(&port)?.spec.name.clone();
    control.delete(Kind::Flow, &format!("{name}/{id}"))?;
    Ok(Value::Bool(true))
}

fn list(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, group) = args.read(|fields| {
        let port = fields.optional::<PortArg>("port").map(|p| p.0);
        Some((port, fields.optional_integer("group", 0..=u32::MAX)))
    })?;
    let control = state.control();
    let inventory = control.inventory();
    let ports: Vec<String> = match port {
        Some(port) => vec![inventory.port_by(&port)?.spec.name.clone()],
        None => inventory.ports().map(|p| p.spec.name.clone()).collect(),
    };
    let flows = ports.iter().flat_map(|port| inventory.flows_of(port));
    let flows =
        flows.filter(|flow| group.is_none_or(|group| flow.spec.rule.attributes.group == group));
    Ok(flows
        .map(|flow| view(&control, &Any::Flow(flow.clone())))
        .collect())
}

fn query(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    shown(state.control().query_flow(&port, id)?)
}

fn flush(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let port = args.read(|fields| fields.required::<PortArg>("port"))?.0;
    Ok(json!({ "destroyed": state.control().flush_flows(&port)? }))
}

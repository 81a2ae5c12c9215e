//! `flow.*`: rules of a port, in testpmd's verbs.

use serde_json::{Map, Value, json};
use sumeru_control::decode::{Fault, Field, Fields, no_lines, optional, required, show};
use sumeru_control::error::Error;
use sumeru_control::model::{Any, Kind, Marks, Origin};

use super::object::{MARKS, marks, view};
use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

/// Most faults that are told of a batch.
const FAULTS_MAX: usize = 100;

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

const BATCH: &[Field] = &[
    optional(
        "create",
        "list of rules",
        "rules to add, each with port, rule and optionally id",
    ),
    optional(
        "destroy",
        "list of rule numbers",
        "rules to remove, each with port and id; their numbers may be taken at once",
    ),
    optional(
        "volatile",
        "boolean",
        "new rules are gone after a restart of the daemon (default false)",
    ),
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
        name: "flow.batch",
        doc: "Adds and removes many rules at once, all or none: no packet meets a part of it.",
        params: Params::Fields(BATCH),
        call: batch,
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

/// The port may be given by index; the object has its name.
fn name_port(state: &State, map: &mut Map<String, Value>) -> Result<(), Error> {
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
    Ok(())
}

fn rule(state: &State, args: &Args<'_>) -> Result<Any, Error> {
    let (marks, mut map) = marks(args)?;
    name_port(state, &mut map)?;
    Any::decode(Kind::Flow, "flow", &map, &no_lines, marks).map_err(Error::Invalid)
}

/// The tables of a list parameter.
fn tables<'a>(fields: &mut Fields<'a>, field: &'static str) -> Vec<&'a Map<String, Value>> {
    let Some(value) = fields.raw(field) else {
        return Vec::new();
    };
    let mut tables = Vec::new();
    for item in value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice)
    {
        match item.as_object() {
            Some(table) => tables.push(table),
            None => fields.fault(field, show(item), "a list of tables"),
        }
    }
    tables
}

fn batch(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (create, destroy, volatile) = args.read(|fields| {
        let create = tables(fields, "create");
        let destroy = tables(fields, "destroy");
        Some((create, destroy, fields.or("volatile", false)))
    })?;
    let mut faults = Vec::new();
    let mut rules = Vec::with_capacity(create.len());
    for (place, table) in create.into_iter().enumerate() {
        let label = format!("create {place}");
        let mut table = table.clone();
        if let Err(error) = name_port(state, &mut table) {
            faults.extend(fault_of(&label, error));
            continue;
        }
        let mut marks = Marks::new(Origin::Api);
        marks.volatile = volatile;
        match Any::decode(Kind::Flow, &label, &table, &no_lines, marks) {
            Ok(rule) => rules.push(rule),
            Err(found) => faults.extend(found),
        }
    }
    let mut leaving = Vec::with_capacity(destroy.len());
    for (place, table) in destroy.into_iter().enumerate() {
        let label = format!("destroy {place}");
        let mut fields = Fields::new(label, table, PORT_AND_ID, &no_lines);
        let rule = read_port_and_id(&mut fields);
        match fields.finish(rule) {
            Ok(rule) => leaving.push(rule),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        faults.truncate(FAULTS_MAX);
        return Err(Error::Invalid(faults));
    }
    let made = state.control().change_flows(rules, &leaving)?;
    let made: Vec<Value> = made
        .iter()
        .map(|any| match any {
            Any::Flow(flow) => json!({ "port": flow.spec.port, "id": flow.spec.id() }),
            _ => Value::Null,
        })
        .collect();
    Ok(json!({ "created": made, "destroyed": leaving.len() }))
}

/// An error about one rule of a list.
fn fault_of(object: &str, error: Error) -> Vec<Fault> {
    match Error::fault(object, "port", error.to_string(), "a port that exists") {
        Error::Invalid(faults) => faults,
        _ => Vec::new(),
    }
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
    args.read(read_port_and_id)
}

fn read_port_and_id(fields: &mut Fields<'_>) -> Option<(String, u32)> {
    let port = fields.required::<PortArg>("port");
    if !fields.has("id") {
        fields.fault("id", "missing", "the number of a rule");
    }
    let id = fields.optional_integer("id", 0..=u32::MAX);
    Some((port?.0, id?))
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

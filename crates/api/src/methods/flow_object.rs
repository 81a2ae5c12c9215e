//! `flow.meter.*` and `flow.indirect.*`: what rules of a port name, `flow.aged` and `flow.isolate`.

use serde_json::{Map, Value, json};
use sumeru_control::decode::{Field, Fields, optional, required};
use sumeru_control::error::Error;
use sumeru_control::model::{INDIRECT_FIELDS, MeterSpec, read_action, read_indirect};

use super::object::view;
use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

const PORT: Field = required("port", "port name or index", "the port whose rules name it");
const MAYBE_PORT: &[Field] = &[optional(
    "port",
    "port name or index",
    "only those of this port",
)];
const METER: &[Field] = &[
    PORT,
    required("id", "integer 0..16777215", "number of the meter"),
];
const INDIRECT: &[Field] = &[
    PORT,
    required(
        "id",
        "integer 0..4294967295",
        "number of the indirect action",
    ),
];
const UPDATE: &[Field] = &[
    PORT,
    required(
        "id",
        "integer 0..4294967295",
        "number of the indirect action",
    ),
    required(
        "action",
        "string or table",
        "the same action with other arguments, in testpmd's syntax",
    ),
];
const AGED: &[Field] = &[
    required(
        "port",
        "port name or index",
        "the port whose rules they are",
    ),
    optional(
        "destroy",
        "boolean",
        "the rules among them are removed, all or none (default false)",
    ),
];
const ISOLATE: &[Field] = &[
    required("port", "port name or index", "the port"),
    required(
        "on",
        "boolean",
        "whether frames that no rule decides are dropped",
    ),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "flow.isolate",
        doc: "Has only flow rules move the frames that come in on a port, or no longer; the port's field flow_isolated.",
        params: Params::Fields(ISOLATE),
        call: isolate,
    },
    Method {
        name: "flow.aged",
        doc: "Rules and indirect actions of a port that have grown old.",
        params: Params::Fields(AGED),
        call: aged,
    },
    Method {
        name: "flow.indirect.create",
        doc: "Makes an indirect action that rules of a port name; it goes with its port or the daemon.",
        params: Params::Fields(INDIRECT_FIELDS),
        call: create_indirect,
    },
    Method {
        name: "flow.indirect.update",
        doc: "Gives an indirect action other arguments; the rules that name it follow at once.",
        params: Params::Fields(UPDATE),
        call: update_indirect,
    },
    Method {
        name: "flow.indirect.destroy",
        doc: "Removes an indirect action that no rule names.",
        params: Params::Fields(INDIRECT),
        call: destroy_indirect,
    },
    Method {
        name: "flow.indirect.query",
        doc: "What an indirect count has counted, or how old an indirect age is.",
        params: Params::Fields(INDIRECT),
        call: query_indirect,
    },
    Method {
        name: "flow.indirect.list",
        doc: "Indirect actions, by port and number.",
        params: Params::Fields(MAYBE_PORT),
        call: list_indirect,
    },
    Method {
        name: "flow.meter.create",
        doc: "Makes a meter that rules of a port name; it goes with its port or the daemon.",
        params: Params::Fields(MeterSpec::FIELDS),
        call: create_meter,
    },
    Method {
        name: "flow.meter.update",
        doc: "Gives a meter another profile and policy as a whole; the rules that name it follow at once, its counts stay.",
        params: Params::Fields(MeterSpec::FIELDS),
        call: update_meter,
    },
    Method {
        name: "flow.meter.destroy",
        doc: "Removes a meter that no rule names.",
        params: Params::Fields(METER),
        call: destroy_meter,
    },
    Method {
        name: "flow.meter.query",
        doc: "What a meter has seen, by colour.",
        params: Params::Fields(METER),
        call: query_meter,
    },
    Method {
        name: "flow.meter.list",
        doc: "Meters, by port and number; not those of policies.",
        params: Params::Fields(MAYBE_PORT),
        call: list_meters,
    },
];

fn port_of(fields: &mut Fields<'_>) -> Option<String> {
    fields.required::<PortArg>("port").map(|port| port.0)
}

/// Which numbers there can be is the control plane's to say.
fn id_of(fields: &mut Fields<'_>) -> Option<u32> {
    if !fields.has("id") {
        fields.fault("id", "missing", "a number");
    }
    fields.optional_integer("id", 0..=u32::MAX)
}

fn port_and_id(args: &Args<'_>) -> Result<(String, u32), Error> {
    args.read(|fields| {
        let (port, id) = (port_of(fields), id_of(fields));
        Some((port?, id?))
    })
}

/// The port of a list, if there is one.
fn maybe_port(args: &Args<'_>) -> Result<Option<String>, Error> {
    args.read(|fields| Some(fields.optional::<PortArg>("port").map(|port| port.0)))
}

fn isolate(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, on) = args.read(|fields| {
        let (port, on) = (port_of(fields), fields.required::<bool>("on"));
        Some((port?, on?))
    })?;
    let mut control = state.control();
    let port = control.isolate(&port, on)?;
    Ok(view(&control, &port))
}

fn aged(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, destroy) = args.read(|fields| {
        let (port, destroy) = (port_of(fields), fields.or("destroy", false));
        Some((port?, destroy))
    })?;
    shown(state.control().aged_flows(&port, destroy)?)
}

fn create_indirect(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, action) = args.read(|fields| {
        let (port, action) = (port_of(fields), read_indirect(fields));
        Some((port?, action?))
    })?;
    let mut control = state.control();
    let id = control.create_indirect(&port, action)?;
    let name = &control.inventory().port_by(&port)?.spec.name;
    Ok(json!({ "port": name, "id": id }))
}

fn update_indirect(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id, action) = args.read(|fields| {
        let (port, id) = (port_of(fields), id_of(fields));
        let action = read_action(fields);
        Some((port?, id?, action?))
    })?;
    state.control().update_indirect(&port, id, action)?;
    Ok(Value::Bool(true))
}

fn destroy_indirect(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    state.control().destroy_indirect(&port, id)?;
    Ok(Value::Bool(true))
}

fn query_indirect(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    shown(state.control().query_indirect(&port, id)?)
}

fn list_indirect(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let port = maybe_port(&args)?;
    let control = state.control();
    let all = control.indirect_actions(port.as_deref())?.into_iter();
    Ok(all
        .map(|(port, id, object)| {
            json!({
                "port": port,
                "id": id,
                "action": object.action.to_string(),
                "ingress": object.direction.ingress,
                "egress": object.direction.egress,
                "transfer": object.direction.transfer,
            })
        })
        .collect())
}

fn meter(args: &Args<'_>) -> Result<(String, u32, MeterSpec), Error> {
    args.read(|fields| {
        let (port, id) = (port_of(fields), id_of(fields));
        let meter = MeterSpec::read(fields);
        Some((port?, id?, meter?))
    })
}

fn create_meter(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id, meter) = meter(&args)?;
    let mut control = state.control();
    control.create_meter(&port, id, meter)?;
    let name = &control.inventory().port_by(&port)?.spec.name;
    Ok(json!({ "port": name, "id": id }))
}

fn update_meter(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id, meter) = meter(&args)?;
    state.control().update_meter(&port, id, meter)?;
    Ok(Value::Bool(true))
}

fn destroy_meter(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    state.control().destroy_meter(&port, id)?;
    Ok(Value::Bool(true))
}

fn query_meter(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, id) = port_and_id(&args)?;
    shown(state.control().query_meter(&port, id)?)
}

fn list_meters(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let port = maybe_port(&args)?;
    let control = state.control();
    let all = control.meters(port.as_deref())?.into_iter();
    Ok(all
        .map(|(port, id, meter)| {
            let mut map = Map::new();
            map.insert("port".to_owned(), port.into());
            map.insert("id".to_owned(), id.into());
            map.extend(meter.to_map());
            Value::Object(map)
        })
        .collect())
}

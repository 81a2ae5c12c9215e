//! `conntrack.*`: connections, and how they are tracked.

use std::net::IpAddr;

use serde_json::{Value, json};
use sumeru_control::dataplane::ConnectionFilter;
use sumeru_control::decode::{Field, Fields, optional};
use sumeru_control::error::Error;
use sumeru_control::reconcile::Tracking;
use sumeru_control::settings::{PortLimit, TimeoutSetting, ZoneSetting};

use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

/// Most connections of one page.
const PAGE_MAX: u32 = 4096;

macro_rules! filtered {
    ($($more:expr),*) => {
        &[
            optional("zone", "integer 0..65535", "only this zone"),
            optional("proto", "integer 0..255", "only this IP protocol"),
            optional("src", "IP address", "only what this address opened, before translation"),
            optional("dst", "IP address", "only what was opened to this address, before translation"),
            optional("sport", "integer 0..65535", "only this source port of the opener"),
            optional("dport", "integer 0..65535", "only this destination port of the opener"),
            optional("state", "state of a connection", "only this state, such as established"),
            optional("port", "port name or index", "only connections that this port of the switch owns"),
            $($more),*
        ]
    };
}

const FILTER: &[Field] = filtered!();
const LIST: &[Field] = filtered!(
    optional(
        "cursor",
        "integer",
        "where to go on: what the last page gave (default 0)"
    ),
    optional(
        "limit",
        "integer 1..4096",
        "most connections of the page (default 256)"
    )
);
const NONE: &[Field] = &[];
const SET: &[Field] = &[
    optional(
        "zone",
        "integer 0..65535",
        "sets a zone: limit, pickup, liberal",
    ),
    optional(
        "limit",
        "integer 0..4294967295",
        "with zone or port: most connections (a zone without it has no limit)",
    ),
    optional(
        "pickup",
        "boolean",
        "with zone: TCP connections may be picked up in their middle (default false)",
    ),
    optional(
        "liberal",
        "boolean",
        "with zone: no window checks (default false)",
    ),
    optional(
        "state",
        "state of a connection",
        "sets a timeout: policy, ms",
    ),
    optional(
        "policy",
        "integer 0..15",
        "with state: number of the timeout policy (default 0)",
    ),
    optional(
        "ms",
        "integer 1..1073741824",
        "with state: how long a connection lives without a packet, milliseconds",
    ),
    optional(
        "port",
        "port name or index",
        "sets the most connections that a port owns: limit",
    ),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "conntrack.list",
        doc: "Connections that pass a filter, in pages.",
        params: Params::Fields(LIST),
        call: list,
    },
    Method {
        name: "conntrack.flush",
        doc: "Ends the connections that pass a filter.",
        params: Params::Fields(FILTER),
        call: flush,
    },
    Method {
        name: "conntrack.stats",
        doc: "Sums of the connections of every lcore.",
        params: Params::Fields(NONE),
        call: stats,
    },
    Method {
        name: "conntrack.set",
        doc: "Sets a zone's policy, a timeout, or a port's limit, until the daemon ends.",
        params: Params::Fields(SET),
        call: set,
    },
];

/// A filter whose port is not looked up yet.
fn filter(fields: &mut Fields<'_>) -> (ConnectionFilter, Option<String>) {
    let filter = ConnectionFilter {
        zone: fields.optional_integer("zone", 0..=u16::MAX),
        proto: fields.optional_integer("proto", 0..=u8::MAX),
        src: fields.optional::<IpAddr>("src"),
        dst: fields.optional::<IpAddr>("dst"),
        sport: fields.optional_integer("sport", 0..=u16::MAX),
        dport: fields.optional_integer("dport", 0..=u16::MAX),
        state: fields.optional::<String>("state"),
        port: None,
    };
    (filter, fields.optional::<PortArg>("port").map(|p| p.0))
}

fn with_port(
    state: &State,
    (mut filter, port): (ConnectionFilter, Option<String>),
) -> Result<ConnectionFilter, Error> {
    if let Some(port) = port {
        filter.port = state.control().inventory().port_by(&port)?.spec.index;
    }
    Ok(filter)
}

fn list(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (wanted, cursor, limit) = args.read(|fields| {
        let wanted = filter(fields);
        let cursor = fields.optional::<u64>("cursor").unwrap_or(0);
        Some((wanted, cursor, fields.integer("limit", 1..=PAGE_MAX, 256)))
    })?;
    let filter = with_port(state, wanted)?;
    shown(
        state
            .control()
            .connections(&filter, cursor, limit as usize)?,
    )
}

fn flush(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let wanted = args.read(|fields| Some(filter(fields)))?;
    let filter = with_port(state, wanted)?;
    Ok(json!({ "flushed": state.control().flush_connections(&filter)? }))
}

fn stats(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().connection_stats()?)
}

fn set(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let change = args.read(|fields| {
        let kinds: [(&str, &[&str]); 3] = [
            ("zone", &["state", "policy", "ms", "port"]),
            ("state", &["zone", "limit", "pickup", "liberal", "port"]),
            (
                "port",
                &["zone", "state", "policy", "ms", "pickup", "liberal"],
            ),
        ];
        let Some((kind, others)) = kinds.into_iter().find(|(kind, _)| fields.has(kind)) else {
            fields.fault("zone", "missing", "one of zone, state and port");
            return None;
        };
        // What is of the wrong type is said to be, even where it has no place.
        for field in others {
            match *field {
                "pickup" | "liberal" => drop(fields.optional::<bool>(field)),
                "policy" | "ms" => drop(fields.optional_integer(field, 0..=u32::MAX)),
                _ => {}
            }
        }
        fields.forbid(others, &format!("which do not go with {kind}"));
        match kind {
            "zone" => ZoneSetting::read(fields).map(Tracking::Zone),
            "state" => TimeoutSetting::read(fields).map(Tracking::Timeout),
            _ => {
                let port = fields.required::<PortArg>("port");
                let limit = fields.optional_integer("limit", 0..=u32::MAX);
                if !fields.has("limit") {
                    fields.fault("limit", "missing", "most connections that the port may own");
                }
                Some(Tracking::Port(PortLimit {
                    port: port?.0,
                    limit: limit?,
                }))
            }
        }
    })?;
    state.control().set_tracking(change)?;
    Ok(Value::Bool(true))
}

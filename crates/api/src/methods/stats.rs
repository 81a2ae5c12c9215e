//! `stats.*`, `fdb.list`, `neighbour.list`, `lldp.list`: what the data plane counts and has learned.

use serde_json::Value;
use sumeru_control::decode::{Field, optional};
use sumeru_control::error::Error;
use sumeru_control::model::Kind;
use sumeru_control::reconcile::Control;

use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

const NONE: &[Field] = &[];
const PORT: &[Field] = &[optional("port", "port name or index", "only this port")];
const NETWORK: &[Field] = &[optional("network", "network name", "only this network")];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "stats.lcore",
        doc: "Counters and cycles of every lcore.",
        params: Params::Fields(NONE),
        call: lcore,
    },
    Method {
        name: "stats.port",
        doc: "Counters of ports.",
        params: Params::Fields(PORT),
        call: port,
    },
    Method {
        name: "stats.queue",
        doc: "Counters of the classes in front of ports that are shaped.",
        params: Params::Fields(PORT),
        call: queue,
    },
    Method {
        name: "stats.stage",
        doc: "Packets at every pipeline stage.",
        params: Params::Fields(NONE),
        call: stage,
    },
    Method {
        name: "stats.drop",
        doc: "Dropped packets by reason.",
        params: Params::Fields(NONE),
        call: drops,
    },
    Method {
        name: "stats.residence",
        doc: "How long frames stay in the engine, while the node's field `residence` is true.",
        params: Params::Fields(NONE),
        call: residence,
    },
    Method {
        name: "stats.volume",
        doc: "Counters of volumes.",
        params: Params::Fields(NONE),
        call: volume,
    },
    Method {
        name: "fdb.list",
        doc: "Learned and static addresses.",
        params: Params::Fields(NETWORK),
        call: fdb,
    },
    Method {
        name: "neighbour.list",
        doc: "Underlay neighbours.",
        params: Params::Fields(NONE),
        call: neighbours,
    },
    Method {
        name: "lldp.list",
        doc: "Wires that speak LLDP, with the neighbours heard there.",
        params: Params::Fields(PORT),
        call: lldp,
    },
];

fn lcore(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().lcore_stats())
}

/// The name of the only port that is asked for.
fn wanted_port(control: &Control, args: &Args<'_>) -> Result<Option<String>, Error> {
    let port = args.read(|fields| Some(fields.optional::<PortArg>("port").map(|p| p.0)))?;
    match port {
        Some(port) => Ok(Some(control.inventory().port_by(&port)?.spec.name.clone())),
        None => Ok(None),
    }
}

fn port(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let control = state.control();
    let name = wanted_port(&control, &args)?;
    let mut stats = control.plane().port_stats();
    stats.retain(|s| name.as_ref().is_none_or(|name| *name == s.port));
    stats.sort_by_key(|s| s.index);
    shown(stats)
}

fn queue(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let control = state.control();
    let name = wanted_port(&control, &args)?;
    let mut stats = control.plane().queue_stats();
    stats.retain(|queue| name.as_ref().is_none_or(|name| *name == queue.port));
    shown(stats)
}

fn stage(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().stage_stats())
}

fn drops(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().drop_stats())
}

fn residence(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().residence_stats())
}

fn volume(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().volume_stats())
}

fn fdb(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let network = args.read(|fields| Some(fields.optional::<String>("network")))?;
    let control = state.control();
    if let Some(network) = &network {
        control.inventory().require(Kind::Network, network)?;
    }
    shown(control.plane().fdb(network.as_deref()))
}

fn neighbours(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    shown(state.control().plane().neighbours())
}

fn lldp(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let control = state.control();
    let name = wanted_port(&control, &args)?;
    let mut wires = control.plane().lldp();
    wires.retain(|wire| name.as_ref().is_none_or(|name| *name == wire.port));
    shown(wires)
}

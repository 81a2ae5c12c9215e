//! `port.*`, `network.*`, `subnet.*`, `router.*`, `floating-ip.*`, `load-balancer.*`, `volume.*`, `controller.*` and `node.update`: objects are made, changed,
//! deleted and shown in one way, whatever their kind.

use serde_json::{Map, Value, json};
use sumeru_control::decode::{Field, no_lines, optional, required};
use sumeru_control::error::Error;
use sumeru_control::model::{AddressSetSpec, Any, Kind, Marks, Object, Origin};
use sumeru_control::reconcile::Control;
use sumeru_control::value::ByteSize;
use uuid::Uuid;

use super::{shown, text};
use crate::method::{Args, Method, Params, State};

/// Parameters that every object may be made with.
pub const MARKS: &[Field] = &[
    optional(
        "volatile",
        "boolean",
        "gone after a restart of the daemon (default false)",
    ),
    optional("uuid", "UUID", "identity (default: a random one)"),
];
const NAME: &[Field] = &[required("name", "name", "name of the object")];
const NONE: &[Field] = &[];
const RESIZE: &[Field] = &[
    required("name", "name", "name of the volume"),
    required("size", "size (64MiB or bytes)", "the new size"),
];

macro_rules! objects {
    ($($word:literal $kind:ident;)*) => {
        &[
            $(
                Method { name: concat!($word, ".create"), doc: concat!("Makes a ", $word, "."), params: Params::Object(Kind::$kind, MARKS), call: create },
                Method { name: concat!($word, ".delete"), doc: concat!("Deletes a ", $word, " that nothing uses."), params: Params::Fields(NAME), call: delete },
                Method { name: concat!($word, ".list"), doc: concat!("All ", $word, "s with their states."), params: Params::Fields(NONE), call: list },
                Method { name: concat!($word, ".show"), doc: concat!("One ", $word, " with its state."), params: Params::Fields(NAME), call: show },
            )*
            Method { name: "port.update", doc: "Changes fields of a live port; null takes a field back to its default.", params: Params::Changes(Kind::Port, NAME), call: update },
            Method { name: "network.update", doc: "Changes fields of a live network; null takes a field back to its default.", params: Params::Changes(Kind::Network, NAME), call: update },
            Method { name: "subnet.update", doc: "Changes fields of a live subnet; null takes a field back to its default.", params: Params::Changes(Kind::Subnet, NAME), call: update },
            Method { name: "router.update", doc: "Changes fields of a live router; null takes a field back to its default.", params: Params::Changes(Kind::Router, NAME), call: update },
            Method { name: "floating-ip.update", doc: "Changes fields of a floating IP; null takes a field back to its default.", params: Params::Changes(Kind::FloatingIp, NAME), call: update },
            Method { name: "load-balancer.update", doc: "Changes fields of a live load balancer; null takes a field back to its default.", params: Params::Changes(Kind::LoadBalancer, NAME), call: update },
            Method { name: "security-group.update", doc: "Changes fields of a group; null takes a field back to its default.", params: Params::Changes(Kind::SecurityGroup, NAME), call: update },
            Method { name: "address-set.update", doc: "Changes fields of an address set; null takes a field back to its default.", params: Params::Changes(Kind::AddressSet, NAME), call: update },
            Method { name: "blocklist.update", doc: "Changes fields of a blocklist; null takes a field back to its default.", params: Params::Changes(Kind::Blocklist, NAME), call: update },
            Method { name: "isolation.update", doc: "Changes fields of an isolation policy; null takes a field back to its default.", params: Params::Changes(Kind::Isolation, NAME), call: update },
            Method { name: "mirror.update", doc: "Changes fields of a mirror; null takes a field back to its default.", params: Params::Changes(Kind::Mirror, NAME), call: update },
            Method { name: "exporter.update", doc: "Changes fields of an exporter; null takes a field back to its default.", params: Params::Changes(Kind::Exporter, NAME), call: update },
            Method { name: "node.update", doc: "Changes fields of the node; null takes a field back to its default.", params: Params::Changes(Kind::Node, NONE), call: update },
            Method { name: "volume.resize", doc: "Makes a volume larger; guests that use it are told.", params: Params::Fields(RESIZE), call: resize },
        ]
    };
}

/// The methods of this file.
pub const METHODS: &[Method] = objects! {
    "port" Port;
    "network" Network;
    "subnet" Subnet;
    "router" Router;
    "floating-ip" FloatingIp;
    "load-balancer" LoadBalancer;
    "volume" Volume;
    "controller" Controller;
    "address-set" AddressSet;
    "security-group" SecurityGroup;
    "blocklist" Blocklist;
    "isolation" Isolation;
    "mirror" Mirror;
    "exporter" Exporter;
};

/// Takes the marks of a new object out of its parameters.
pub fn marks(args: &Args<'_>) -> Result<(Marks, Map<String, Value>), Error> {
    let mut map = args.map().clone();
    let given: Map<String, Value> = MARKS
        .iter()
        .filter_map(|f| map.remove_entry(f.name))
        .collect();
    args.read_of(&given, MARKS, |fields| {
        let volatile = fields.or("volatile", false);
        let uuid = match fields
            .optional::<String>("uuid")
            .map(|text| (Uuid::parse_str(&text), text))
        {
            None => Uuid::new_v4(),
            Some((Ok(uuid), _)) => uuid,
            Some((Err(_), text)) => {
                fields.fault(
                    "uuid",
                    format!("{text:?}"),
                    "a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8",
                );
                Uuid::nil()
            }
        };
        Some(Marks {
            uuid,
            generation: 1,
            origin: Origin::Api,
            volatile,
        })
    })
    .map(|marks| (marks, map))
}

fn create(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let kind = args.kind()?;
    let (marks, map) = marks(&args)?;
    let label = match map.get("name") {
        Some(Value::String(name)) => format!("{kind} {name}"),
        _ => kind.to_string(),
    };
    let object = Any::decode(kind, &label, &map, &no_lines, marks).map_err(Error::Invalid)?;
    let mut control = state.control();
    let made = control.create(object)?;
    Ok(brief(&control, &made))
}

fn delete(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let name = args.read(|fields| text(fields, "name"))?;
    state.control().delete(args.kind()?, &name)?;
    Ok(Value::Bool(true))
}

fn list(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    let control = state.control();
    let mut views: Vec<(u64, Value)> = control
        .inventory()
        .of(args.kind()?)
        .map(|any| {
            (
                if let Any::Port(port) = any {
                    u64::from(port.spec.index())
                } else {
                    0
                },
                brief(&control, any),
            )
        })
        .collect();
    views.sort_by_key(|(index, _)| *index);
    Ok(views.into_iter().map(|(_, view)| view).collect())
}

fn show(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let name = args.read(|fields| text(fields, "name"))?;
    let control = state.control();
    let any = match args.kind()? {
        Kind::Port => Any::Port(control.inventory().port_by(&name)?.clone()),
        kind => control.inventory().require(kind, &name)?.clone(),
    };
    Ok(view(&control, &any))
}

fn update(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let kind = args.kind()?;
    let mut changes = args.map().clone();
    let name = if kind == Kind::Node {
        args.none()?;
        String::new()
    } else {
        let name = args.read(|fields| text(fields, "name"))?;
        changes.remove("name");
        name
    };
    let mut control = state.control();
    let changed = control.update(kind, &name, &changes)?;
    Ok(brief(&control, &changed))
}

fn resize(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (name, size) = args.read(|fields| {
        let name = text(fields, "name");
        let size = fields.required::<ByteSize>("size");
        Some((name?, size?))
    })?;
    let mut control = state.control();
    let changed = control.resize(&name, size)?;
    Ok(view(&control, &changed))
}

/// An object as lists show it: an address set with the number of its prefixes, which may be a million, in their place.
fn brief(control: &Control, any: &Any) -> Value {
    let Any::AddressSet(set) = any else {
        return view(control, any);
    };
    let empty = AddressSetSpec {
        name: set.spec.name.clone(),
        prefixes: Vec::new(),
    };
    let short = Any::from(Object {
        spec: empty,
        ..*set.as_ref()
    });
    let mut view = view(control, &short);
    view["prefixes"] = json!(set.spec.prefixes.len());
    view
}

/// An object with what it is doing.
pub fn view(control: &Control, any: &Any) -> Value {
    let mut map = any.to_map();
    let name = any.name();
    let plane = control.plane();
    let state = match any {
        Any::Port(_) => plane.port_state(&name).ok().and_then(|s| shown(s).ok()),
        Any::Volume(_) => plane.volume_state(&name).ok().and_then(|s| shown(s).ok()),
        Any::Controller(_) => plane
            .controller_state(&name)
            .ok()
            .and_then(|s| shown(s).ok()),
        Any::LoadBalancer(_) => control
            .load_balancer_state(&name)
            .and_then(|s| shown(s).ok()),
        Any::Mirror(_) => plane.mirror_state(&name).ok().and_then(|s| shown(s).ok()),
        Any::Exporter(_) => plane.exporter_state(&name).ok().and_then(|s| shown(s).ok()),
        _ => None,
    };
    if let Some(state) = state {
        map.insert("state".to_owned(), state);
    }
    let failure = control.failure(any);
    map.insert("in_service".to_owned(), json!(failure.is_none()));
    if let Some(failure) = failure {
        map.insert("failure".to_owned(), json!(failure));
    }
    Value::Object(map)
}

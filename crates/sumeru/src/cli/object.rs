//! `sumeru port|network|subnet|router|floating-ip|load-balancer|volume|controller|address-set|security-group|blocklist|isolation create|delete|list|show|…`: the grammar comes from the
//! object model itself, so that every field has its option and its help.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};
use sumeru_control::decode::Field;
use sumeru_control::model::{Kind, fields_of};

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell, size};

const KINDS: [Kind; 14] = [
    Kind::Port,
    Kind::Network,
    Kind::Subnet,
    Kind::Router,
    Kind::Volume,
    Kind::Controller,
    Kind::AddressSet,
    Kind::SecurityGroup,
    Kind::Blocklist,
    Kind::Isolation,
    Kind::Mirror,
    Kind::Exporter,
    Kind::FloatingIp,
    Kind::LoadBalancer,
];

pub fn grammars() -> Vec<Command> {
    KINDS.map(grammar).to_vec()
}

fn grammar(kind: Kind) -> Command {
    let noun = kind.word();
    let name = || {
        Arg::new("name")
            .required(true)
            .value_name("NAME")
            .help(format!("Name of the {noun}"))
    };
    let mut create = Command::new("create")
        .about(format!("Make a {noun}"))
        .arg(name());
    for field in fields_of(kind).iter().filter(|f| f.name != "name") {
        create = create.arg(option(field).required(field.required));
    }
    create = create.arg(
        Arg::new("volatile")
            .long("volatile")
            .action(ArgAction::SetTrue)
            .help("Gone after a restart of the daemon"),
    );
    let mut command = Command::new(noun)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(create)
        .subcommand(
            Command::new("delete")
                .about(format!("Delete a {noun} that nothing uses"))
                .arg(name()),
        )
        .subcommand(Command::new("list").about(format!("List {noun}s")))
        .subcommand(
            Command::new("show")
                .about(format!("Show everything about a {noun}"))
                .arg(name()),
        );
    command = match kind {
        Kind::Port => command.about("Ports of the switch"),
        Kind::Network => command.about("Tenant networks"),
        Kind::Subnet => {
            command.about("Addresses of networks: DHCP, gateways, router advertisements")
        }
        Kind::Router => command.about("Routers between networks"),
        Kind::FloatingIp => command.about("Outside addresses that stand for ports"),
        Kind::LoadBalancer => command.about("Virtual addresses that several members serve"),
        Kind::Volume => command.about("Block devices").visible_alias("bdev"),
        Kind::AddressSet => command.about("Named sets of addresses, for groups and blocklists"),
        Kind::SecurityGroup => command.about("What may come to ports, and what they may send"),
        Kind::Blocklist => command.about("Addresses that ports have no traffic with"),
        Kind::Isolation => command.about("Ports or networks that may not talk to each other"),
        Kind::Mirror => command.about("Copies of frames for a port, or for a collector by ERSPAN"),
        Kind::Exporter => command.about("What flows come to, told to a collector by IPFIX"),
        _ => command.about("virtio-blk devices that serve volumes to guests"),
    };
    let settled = kind.is_policy() || kind.is_service();
    if matches!(
        kind,
        Kind::Port | Kind::Network | Kind::Mirror | Kind::Exporter
    ) || settled
    {
        let mut update = Command::new("update")
            .about(format!("Change a live {noun}"))
            .arg(name());
        for field in changeable(kind) {
            update = update.arg(option(field));
        }
        let clear = "Take this field back to its default (may be repeated)";
        update = update.arg(
            Arg::new("clear")
                .long("clear")
                .value_name("FIELD")
                .action(ArgAction::Append)
                .help(clear),
        );
        command = command.subcommand(update);
    }
    if kind == Kind::AddressSet {
        command = command.subcommands(super::policy::amend_grammars());
    }
    if kind == Kind::Volume {
        let size = Arg::new("size")
            .required(true)
            .value_name("SIZE")
            .help("The new size, such as 10GiB");
        command = command.subcommand(
            Command::new("resize")
                .about("Make a volume larger; guests see it at once")
                .arg(name())
                .arg(size),
        );
    }
    command
}

/// Fields of a live object that may change.
fn changeable(kind: Kind) -> impl Iterator<Item = &'static Field> {
    use sumeru_control::model::{NetworkSpec, PortSpec, Spec, SubnetSpec};
    let fixed = match kind {
        Kind::Port => PortSpec::FIXED,
        Kind::Network => NetworkSpec::FIXED,
        Kind::Subnet => SubnetSpec::FIXED,
        // Every field of the others may change.
        _ => &[],
    };
    fields_of(kind)
        .iter()
        .filter(move |f| f.name != "name" && !fixed.contains(&f.name))
}

/// What a field's value looks like on a command line.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Number,
    Flag,
    List,
    Pairs,
    Text,
}

fn shape(field: &Field) -> Shape {
    match field.ty {
        "boolean" => Shape::Flag,
        "list of {mac, remote, addresses}" => Shape::Pairs,
        ty if ty.starts_with("list of") => Shape::List,
        ty if ty.starts_with("integer") || ty.starts_with("power of two") || ty == "512 | 4096" => {
            Shape::Number
        }
        _ => Shape::Text,
    }
}

fn option(field: &Field) -> Arg {
    let arg = Arg::new(field.name)
        .long(field.name.replace('_', "-"))
        .help(format!("{} [{}]", field.doc, field.ty));
    match shape(field) {
        Shape::Flag => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(value_parser!(bool)),
        Shape::Number => arg.value_name("N").value_parser(value_parser!(u64)),
        Shape::List => arg
            .value_name("A,B,…")
            .value_delimiter(',')
            .action(ArgAction::Append),
        Shape::Pairs => arg
            .value_name("MAC=REMOTE[=ADDRESS…]")
            .value_delimiter(',')
            .action(ArgAction::Append),
        Shape::Text => arg.value_name(field.name.to_uppercase()),
    }
}

/// The given options as parameters.
fn params(
    kind: Kind,
    fields: &[&Field],
    matches: &ArgMatches,
) -> Result<Map<String, Value>, Failure> {
    let mut map = Map::new();
    for field in fields {
        let given = || matches.value_source(field.name).is_some();
        let value = match shape(field) {
            Shape::Flag => matches.get_one::<bool>(field.name).map(|b| json!(b)),
            Shape::Number => matches.get_one::<u64>(field.name).map(|n| json!(n)),
            Shape::Text => matches.get_one::<String>(field.name).map(|s| json!(s)),
            Shape::List if given() => Some(
                matches
                    .get_many::<String>(field.name)
                    .into_iter()
                    .flatten()
                    .map(String::as_str)
                    .collect(),
            ),
            Shape::Pairs if given() => {
                let pairs = matches.get_many::<String>(field.name).into_iter().flatten();
                Some(
                    pairs
                        .map(|p| pair(kind, field, p))
                        .collect::<Result<Value, Failure>>()?,
                )
            }
            Shape::List | Shape::Pairs => None,
        };
        if let Some(value) = value {
            map.insert(field.name.to_owned(), value);
        }
    }
    Ok(map)
}

fn pair(kind: Kind, field: &Field, text: &str) -> Result<Value, Failure> {
    let mut parts = text.split('=');
    match (parts.next(), parts.next()) {
        (Some(mac), Some(remote)) => {
            let addresses: Vec<&str> = parts.collect();
            Ok(json!({ "mac": mac, "remote": remote, "addresses": addresses }))
        }
        _ => {
            let message = format!(
                "{kind}: {} is {text:?}, expected MAC=REMOTE such as 52:54:00:00:00:01=192.0.2.2, with =ADDRESS for each known address",
                field.name
            );
            Err(Failure::Usage(message))
        }
    }
}

pub fn run(noun: &str, matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let Some(kind) = Kind::from_word(noun) else {
        return Ok(());
    };
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let name = if verb == "list" {
        ""
    } else {
        text(matches, "name")
    };
    match verb {
        "create" => {
            let fields: Vec<&Field> = fields_of(kind).iter().collect();
            let mut params = params(kind, &fields, matches)?;
            if matches.get_flag("volatile") {
                params.insert("volatile".to_owned(), json!(true));
            }
            context.order(
                &format!("{noun}.create"),
                Value::Object(params),
                &format!("{noun} {name} created"),
            )
        }
        "update" => {
            let fields: Vec<&Field> = changeable(kind).collect();
            let mut params = params(kind, &fields, matches)?;
            for field in matches.get_many::<String>("clear").into_iter().flatten() {
                params.insert(field.replace('-', "_"), Value::Null);
            }
            params.insert("name".to_owned(), json!(name));
            context.order(
                &format!("{noun}.update"),
                Value::Object(params),
                &format!("{noun} {name} changed"),
            )
        }
        "resize" => {
            let new = text(matches, "size");
            context.order(
                "volume.resize",
                json!({ "name": name, "size": new }),
                &format!("volume {name} is {new} now"),
            )
        }
        "delete" => context.order(
            &format!("{noun}.delete"),
            json!({ "name": name }),
            &format!("{noun} {name} deleted"),
        ),
        "add" | "remove" => super::policy::amend(verb, name, matches, context),
        "show" => {
            let answer = context.call(&format!("{noun}.show"), json!({ "name": name }))?;
            context.show(&answer, show)
        }
        _ => {
            let answer = context.call(&format!("{noun}.list"), json!({}))?;
            context.show(&answer, |answer| list(kind, answer))
        }
    }
}

/// One object, a field a line; then the members of a bond.
pub fn show(object: &Value) -> Result<(), Failure> {
    let mut fields = object.clone();
    let bond = fields["state"]
        .as_object_mut()
        .and_then(|state| state.remove("bond"));
    let mut table = Table::new(&["FIELD", "VALUE"]);
    for (key, value) in fields.as_object().into_iter().flatten() {
        table.row([key.clone(), cell(value)]);
    }
    for key in ["active", "aggregator"] {
        let value = bond.as_ref().map(|bond| &bond[key]);
        if let Some(value) = value.filter(|value| !value.is_null()) {
            table.row([key.to_owned(), cell(value)]);
        }
    }
    table.print()?;
    match &bond {
        Some(bond) => super::bond::show(bond),
        None => Ok(()),
    }
}

fn list(kind: Kind, answer: &Value) -> Result<(), Failure> {
    let objects = answer.as_array().map_or(&[][..], Vec::as_slice);
    if objects.is_empty() {
        return say(&format!("There are no {kind}s."));
    }
    let mut table = match kind {
        Kind::Port => Table::new(&["INDEX", "NAME", "KIND", "TARGET", "NETWORK", "MTU", "STATE"]),
        Kind::Network => Table::new(&["NAME", "VNI", "MTU", "REMOTES", "STATE"]),
        Kind::Volume => Table::new(&[
            "NAME",
            "KIND",
            "SIZE",
            "BLOCK",
            "READ-ONLY",
            "PATH",
            "STATE",
        ]),
        Kind::AddressSet => Table::new(&["NAME", "PREFIXES"]),
        Kind::SecurityGroup => Table::new(&["NAME", "STATEFUL", "RULES"]),
        Kind::Blocklist => Table::new(&["NAME", "ADDRESS SET", "DIRECTION", "PORTS", "NETWORKS"]),
        Kind::Isolation => Table::new(&["NAME", "MODE", "PORTS", "NETWORKS"]),
        Kind::Mirror => Table::new(&[
            "NAME",
            "PORTS",
            "DIRECTION",
            "TO",
            "PACKETS",
            "LOST",
            "STATE",
        ]),
        Kind::Exporter => Table::new(&[
            "NAME",
            "PORTS",
            "COLLECTOR",
            "FLOWS",
            "RECORDS",
            "LOST",
            "STATE",
        ]),
        Kind::Subnet => Table::new(&["NAME", "NETWORK", "PREFIX", "GATEWAY", "DHCP", "ADVERTISED"]),
        Kind::Router => Table::new(&["NAME", "NETWORKS", "ROUTES"]),
        Kind::FloatingIp => Table::new(&["NAME", "ADDRESS", "NETWORK", "PORT"]),
        Kind::LoadBalancer => Table::new(&[
            "NAME",
            "NETWORK",
            "ADDRESS",
            "ALGORITHM",
            "OPEN",
            "CONNECTIONS",
            "CURRENT",
            "REFUSED",
        ]),
        _ => Table::new(&["NAME", "VOLUME", "SOCKET", "QUEUES", "STATE"]),
    };
    for object in objects {
        let get = |key: &str| cell(&object[key]);
        let state = state(kind, object);
        table.row(match kind {
            Kind::Port => {
                let target = ["socket", "ifname", "interface", "members"]
                    .iter()
                    .find(|k| !object[**k].is_null());
                let network = if object["uplink"] == true {
                    "(uplink)".to_owned()
                } else {
                    get("network")
                };
                vec![
                    get("index"),
                    get("name"),
                    get("kind"),
                    target.map_or(String::new(), |k| get(k)),
                    network,
                    get("mtu"),
                    state,
                ]
            }
            Kind::Network => vec![get("name"), get("vni"), get("mtu"), get("remotes"), state],
            Kind::AddressSet => vec![get("name"), get("prefixes")],
            Kind::SecurityGroup => vec![get("name"), get("stateful"), get("rules")],
            Kind::Blocklist => ["name", "address_set", "direction", "ports", "networks"]
                .map(get)
                .to_vec(),
            Kind::Isolation => ["name", "mode", "ports", "networks"].map(get).to_vec(),
            Kind::Mirror => {
                let to = match object["to_port"].as_str() {
                    Some(port) => format!("port {port}"),
                    None => format!("{} (ERSPAN {})", get("collector"), get("erspan_type")),
                };
                let count = |key: &str| cell(&object["state"][key]);
                let (packets, lost) = (count("packets"), count("lost"));
                vec![
                    get("name"),
                    ports(object),
                    get("direction"),
                    to,
                    packets,
                    lost,
                    state,
                ]
            }
            Kind::Exporter => {
                let count = |key: &str| cell(&object["state"][key]);
                let [flows, records, lost] = ["flows", "records", "lost"].map(count);
                let collector = get("collector");
                vec![
                    get("name"),
                    ports(object),
                    collector,
                    flows,
                    records,
                    lost,
                    state,
                ]
            }
            Kind::Subnet => {
                let fields = [
                    "name",
                    "network",
                    "prefix",
                    "gateway",
                    "dhcp",
                    "router_advertisements",
                ];
                fields.map(get).to_vec()
            }
            Kind::Router => ["name", "networks", "routes"].map(get).to_vec(),
            Kind::FloatingIp => ["name", "address", "network", "port"].map(get).to_vec(),
            Kind::LoadBalancer => load_balancer(object),
            Kind::Volume => {
                let bytes = object["state"]["size"].as_u64().or(object["size"].as_u64());
                let bytes = bytes.map_or("-".to_owned(), size);
                vec![
                    get("name"),
                    get("kind"),
                    bytes,
                    get("block_size"),
                    get("read_only"),
                    get("path"),
                    state,
                ]
            }
            _ => vec![
                get("name"),
                get("volume"),
                get("socket"),
                get("queues"),
                state,
            ],
        });
    }
    Ok(table.print()?)
}

/// The ports that frames are chosen of.
fn ports(object: &Value) -> String {
    match object["ports"].as_array() {
        Some(ports) if !ports.is_empty() => cell(&object["ports"]),
        _ => "(all)".to_owned(),
    }
}

/// One word on what an object is doing, or why it is not.
fn state(kind: Kind, object: &Value) -> String {
    if object["in_service"] == false {
        return format!("FAILED: {}", cell(&object["failure"]));
    }
    let state = &object["state"];
    match kind {
        Kind::Port if state["up"] == true => "up".to_owned(),
        Kind::Port | Kind::Controller if state["connected"] == true => "connected".to_owned(),
        Kind::Port => "down".to_owned(),
        Kind::Controller => "waiting".to_owned(),
        _ => "ok".to_owned(),
    }
}

/// A row about a load balancer.
fn load_balancer(object: &Value) -> Vec<String> {
    let get = |key: &str| cell(&object[key]);
    let count = |key: &str| cell(&object["state"][key]);
    let members = object["members"].as_array().map_or(0, Vec::len);
    let address = match object["address"].as_str() {
        Some(address) if address.contains(':') => format!("[{address}]"),
        _ => get("address"),
    };
    vec![
        get("name"),
        get("network"),
        format!("{} {address}:{}", get("protocol"), get("port")),
        get("algorithm"),
        format!("{}/{members}", count("open")),
        count("connections"),
        count("current"),
        count("refused"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_shape_that_its_type_allows() {
        for kind in KINDS {
            for field in fields_of(kind) {
                let text = ["name", "path", "address", "size", "\"", "string"];
                let good = match shape(field) {
                    Shape::Text => text.iter().any(|t| field.ty.contains(t)),
                    Shape::Number => field.ty.chars().any(|c| c.is_ascii_digit()),
                    Shape::List | Shape::Pairs => field.ty.starts_with("list of"),
                    Shape::Flag => true,
                };
                assert!(good, "{kind} {}: {}", field.name, field.ty);
            }
        }
    }
}

//! `sumeru conntrack list|flush|stats|set`: connections.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::{Context, say};
use crate::failure::Failure;
use crate::table::{Table, cell};

/// Options that say which connections: name, what stands for the value, help.
const FILTER: [(&str, &str, &str); 8] = [
    ("zone", "N", "Only this zone"),
    (
        "proto",
        "N",
        "Only this IP protocol: tcp, udp, icmp, icmp6, sctp or a number",
    ),
    ("src", "ADDRESS", "Only what this address opened"),
    ("dst", "ADDRESS", "Only what was opened to this address"),
    ("sport", "N", "Only this source port of the opener"),
    ("dport", "N", "Only this destination port of the opener"),
    ("state", "STATE", "Only this state, such as established"),
    (
        "port",
        "PORT",
        "Only connections that this port of the switch owns",
    ),
];
/// Options of `set`.
const SET: [(&str, &str, &str); 6] = [
    ("zone", "N", "Set a zone: --limit, --pickup, --liberal"),
    ("limit", "N", "With --zone or --port: most connections"),
    (
        "state",
        "STATE",
        "Set the timeout of a state: --ms, --policy",
    ),
    (
        "policy",
        "N",
        "With --state: the timeout policy [default: 0]",
    ),
    (
        "ms",
        "N",
        "With --state: how long a connection lives without a packet",
    ),
    (
        "port",
        "PORT",
        "Set the most connections that a port owns: --limit",
    ),
];

fn options(command: Command, options: &[(&'static str, &'static str, &'static str)]) -> Command {
    options
        .iter()
        .fold(command, |command, (name, value, help)| {
            command.arg(Arg::new(*name).long(*name).value_name(*value).help(*help))
        })
}

pub fn grammar() -> Command {
    let flag = |name, help| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    Command::new("conntrack")
        .about("Connections that rules track")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(options(
            Command::new("list").about("List connections"),
            &FILTER,
        ))
        .subcommand(options(
            Command::new("flush").about("End connections; all without an option"),
            &FILTER,
        ))
        .subcommand(Command::new("stats").about("Sums of the connections of every lcore"))
        .subcommand(
            options(
                Command::new("set")
                    .about("Set a zone, a timeout or a port's limit until the daemon ends"),
                &SET,
            )
            .arg(flag(
                "pickup",
                "With --zone: TCP connections may be picked up in their middle",
            ))
            .arg(flag("liberal", "With --zone: no window checks")),
        )
}

/// The parameters that were given.
fn params(
    matches: &ArgMatches,
    options: &[(&'static str, &'static str, &'static str)],
) -> Result<Map<String, Value>, Failure> {
    let mut params = Map::new();
    for (name, kind, _) in options {
        let Some(text) = matches.get_one::<String>(name) else {
            continue;
        };
        let text = match (*name, text.as_str()) {
            ("proto", "icmp") => "1",
            ("proto", "tcp") => "6",
            ("proto", "udp") => "17",
            ("proto", "icmp6") => "58",
            ("proto", "sctp") => "132",
            (_, text) => text,
        };
        let value = match *kind {
            "N" => json!(text.parse::<u32>().map_err(|_| Failure::Usage(format!(
                "conntrack: --{name} is {text:?}, expected a number"
            )))?),
            _ => json!(text),
        };
        params.insert((*name).to_owned(), value);
    }
    Ok(params)
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(());
    };
    match verb {
        "list" => list(params(matches, &FILTER)?, context),
        "flush" => {
            let answer = context.call("conntrack.flush", params(matches, &FILTER)?.into())?;
            context.show(&answer, |answer| {
                say(&format!("{} connections ended", answer["flushed"]))
            })
        }
        "set" => {
            let mut params = params(matches, &SET)?;
            for flag in ["pickup", "liberal"] {
                if matches.get_flag(flag) {
                    params.insert(flag.to_owned(), json!(true));
                }
            }
            context.order("conntrack.set", params.into(), "Set")
        }
        _ => {
            let answer = context.call("conntrack.stats", json!({}))?;
            context.show(&answer, stats)
        }
    }
}

fn end(tuple: &Value, address: &str, port: &str) -> String {
    let address = cell(&tuple[address]);
    match address.contains(':') {
        true => format!("[{address}]:{}", tuple[port]),
        false => format!("{address}:{}", tuple[port]),
    }
}

/// All pages.
fn list(mut params: Map<String, Value>, context: &mut Context) -> Result<(), Failure> {
    let mut all = Vec::new();
    params.insert("limit".to_owned(), json!(4096));
    loop {
        let mut page = context.call("conntrack.list", params.clone().into())?;
        if let Value::Array(mut connections) = page["connections"].take() {
            all.append(&mut connections);
        }
        match page["cursor"].take() {
            Value::Null => break,
            cursor => params.insert("cursor".to_owned(), cursor),
        };
    }
    context.show(&Value::Array(all), |all| {
        let connections = all.as_array().map_or(&[][..], Vec::as_slice);
        if connections.is_empty() {
            return say("There are no connections.");
        }
        let mut table = Table::new(&[
            "ZONE",
            "PROTO",
            "FROM",
            "TO",
            "ANSWERS-FROM",
            "ANSWERS-TO",
            "STATE",
            "PORT",
            "PACKETS",
            "REMAINING-S",
        ]);
        for connection in connections {
            let (original, reply) = (&connection["original"], &connection["reply"]);
            let proto = match connection["proto"].as_u64() {
                Some(1) => "icmp".to_owned(),
                Some(6) => "tcp".to_owned(),
                Some(17) => "udp".to_owned(),
                Some(58) => "icmp6".to_owned(),
                Some(132) => "sctp".to_owned(),
                _ => cell(&connection["proto"]),
            };
            let seconds = connection["remaining_ms"].as_u64().unwrap_or(0) / 1000;
            table.row([
                cell(&connection["zone"]),
                proto,
                end(original, "src", "sport"),
                end(original, "dst", "dport"),
                end(reply, "src", "sport"),
                end(reply, "dst", "dport"),
                cell(&connection["state"]),
                cell(&connection["port"]),
                cell(&connection["packets"]),
                seconds.to_string(),
            ]);
        }
        Ok(table.print()?)
    })
}

fn stats(answer: &Value) -> Result<(), Failure> {
    let lcores = answer.as_array().map_or(&[][..], Vec::as_slice);
    if lcores.is_empty() {
        return say("There are no lcores.");
    }
    let mut table = Table::new(&["CPU", "WHAT", "VALUE"]);
    for lcore in lcores {
        for (what, value) in lcore.as_object().into_iter().flatten() {
            match value {
                Value::Object(parts) => parts.iter().for_each(|(part, value)| {
                    table.row([cell(&lcore["cpu"]), format!("{what} {part}"), cell(value)]);
                }),
                _ if what == "cpu" => {}
                value => table.row([cell(&lcore["cpu"]), what.clone(), cell(value)]),
            }
        }
    }
    Ok(table.print()?)
}

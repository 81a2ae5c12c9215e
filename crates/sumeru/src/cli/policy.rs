//! `sumeru policy explain|rules`, and `sumeru address-set add|remove`: what policies do to a packet, and large sets in pieces.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use sumeru_flow::PacketDescription;

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

/// Prefixes in one call: about half of the largest message.
const PIECE: usize = 40_000;

pub fn grammar() -> Command {
    Command::new("policy")
        .about("What security groups, blocklists, isolation and port security do")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("explain")
                .about("Say which rules a packet meets, and which line of which object made them: sumeru policy explain vm1 eth / ipv4 dst 10.0.0.2 / tcp dst 80")
                .arg(Arg::new("port").required(true).value_name("PORT").help("Name or index of the port where it comes in"))
                .arg(
                    Arg::new("packet")
                        .required(true)
                        .num_args(1..)
                        .trailing_var_arg(true)
                        .value_name("PACKET")
                        .help("eth src MAC dst MAC / ipv4 src A dst B / tcp dst N, or the bytes as hexadecimal digits"),
                ),
        )
        .subcommand(
            Command::new("rules")
                .about("List the rules that policies compiled to")
                .arg(Arg::new("object").value_name("OBJECT").num_args(0..).help("Only those of an object, such as: port vm1"))
                .arg(Arg::new("group").long("group").value_name("N").value_parser(value_parser!(u32)).help("Only those of a group"))
                .arg(Arg::new("limit").long("limit").value_name("N").value_parser(value_parser!(u32)).help("At most so many (default 1000)")),
        )
}

/// `add` and `remove` of address sets.
pub fn amend_grammars() -> [Command; 2] {
    [
        ("add", "Add prefixes to a set"),
        ("remove", "Take prefixes out of a set"),
    ]
    .map(|(verb, about)| {
        Command::new(verb)
            .about(about)
            .arg(
                Arg::new("name")
                    .required(true)
                    .value_name("NAME")
                    .help("Name of the address set"),
            )
            .arg(
                Arg::new("prefix")
                    .num_args(1..)
                    .value_name("PREFIX")
                    .required_unless_present("file")
                    .help("Addresses or prefixes"),
            )
            .arg(
                Arg::new("file")
                    .long("file")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .conflicts_with("prefix")
                    .help("Take them from a file, one a line; # begins a comment"),
            )
    })
}

pub fn amend(
    verb: &str,
    name: &str,
    matches: &ArgMatches,
    context: &mut Context,
) -> Result<(), Failure> {
    let prefixes: Vec<String> = match matches.get_one::<PathBuf>("file") {
        Some(path) => {
            let content = std::fs::read_to_string(path);
            let content = content.map_err(|error| {
                Failure::Usage(format!("{}: cannot read it: {error}", path.display()))
            })?;
            let lines = content
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default().trim());
            lines
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect()
        }
        None => matches
            .get_many::<String>("prefix")
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
    };
    let mut answer = json!({ "prefixes": 0 });
    let pieces: Vec<&[String]> = if prefixes.is_empty() {
        vec![&[]]
    } else {
        prefixes.chunks(PIECE).collect()
    };
    for piece in pieces {
        answer = context.call(
            &format!("address-set.{verb}"),
            json!({ "name": name, "prefixes": piece }),
        )?;
    }
    context.show(&answer, |answer| {
        say(&format!(
            "address-set {name} has {} prefixes now",
            answer["prefixes"]
        ))
    })
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("explain", matches)) => explain(matches, context),
        Some((_, matches)) => rules(matches, context),
        None => Ok(()),
    }
}

fn explain(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let words: Vec<&str> = matches
        .get_many::<String>("packet")
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let packet = words.join(" ");
    let is_hex = packet.len() > 3 && packet.bytes().all(|c| c.is_ascii_hexdigit());
    let params = if is_hex {
        json!({ "port": text(matches, "port"), "frame": packet })
    } else {
        let described = PacketDescription::parse(&packet);
        described.map_err(|error| Failure::Usage(format!("packet: {}", error.render(&packet))))?;
        json!({ "port": text(matches, "port"), "packet": packet })
    };
    let answer = context.call("policy.explain", params)?;
    context.show(&answer, |answer| {
        let mut table = Table::new(&["STAGE", "DECISION", "OBJECT", "LINE"]);
        for step in answer["steps"].as_array().into_iter().flatten() {
            table.row(["stage", "decision", "object", "line"].map(|key| cell(&step[key])));
        }
        table.print()?;
        for output in answer["outputs"].as_array().into_iter().flatten() {
            say(&format!("=> port {}", cell(&output["port"])))?;
        }
        match &answer["drop_reason"] {
            Value::String(reason) => say(&format!("=> dropped: {reason}")),
            _ => Ok(()),
        }
    })
}

fn rules(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let mut params = json!({});
    let object: Vec<&str> = matches
        .get_many::<String>("object")
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    if !object.is_empty() {
        params["object"] = json!(object.join(" "));
    }
    for key in ["group", "limit"] {
        if let Some(number) = matches.get_one::<u32>(key) {
            params[key] = json!(number);
        }
    }
    let answer = context.call("policy.rules", params)?;
    context.show(&answer, |answer| {
        let mut table = Table::new(&["PORT", "ID", "RULE", "OBJECT", "LINE"]);
        for rule in answer["rules"].as_array().into_iter().flatten() {
            table.row(["port", "id", "rule", "object", "line"].map(|key| cell(&rule[key])));
        }
        Ok(table.print()?)
    })
}

//! `sumeru capture start|stop|list`: frames to a pcapng file.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    option(name, value, help).value_parser(value_parser!(u64))
}

pub fn grammar() -> Command {
    let start = Command::new("start")
        .about("Start writing frames to a file, with direction, port and verdict")
        .arg(
            Arg::new("write")
                .long("write")
                .required(true)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("pcapng file to write; it must not exist"),
        )
        .arg(
            option(
                "port",
                "PORT",
                "Only these ports (may be repeated) [default: all]",
            )
            .value_delimiter(',')
            .action(ArgAction::Append),
        )
        .arg(
            option(
                "direction",
                "WAY",
                "Only frames that come in, or go out [default: both]",
            )
            .value_parser(["ingress", "egress", "both"]),
        )
        .arg(option(
            "filter",
            "PATTERN",
            "Only frames that match: eth / ipv4 / tcp dst is 80",
        ))
        .arg(option(
            "host",
            "ADDRESS",
            "Only packets from or to this address, in a tunnel too",
        ))
        .arg(number(
            "l4-port",
            "N",
            "Only packets from or to this TCP, UDP or SCTP port",
        ))
        .arg(option(
            "protocol",
            "PROTOCOL",
            "Only packets of this IP protocol: tcp, udp, icmp, …",
        ))
        .arg(number("sample", "N", "One frame in N, by chance"))
        .arg(option(
            "name",
            "NAME",
            "Name of the capture [default: capture-N]",
        ))
        .arg(number(
            "snaplen",
            "BYTES",
            "Bytes kept of each frame [default: 65535]",
        ))
        .arg(number("packets", "N", "End after so many frames"))
        .arg(number("bytes", "BYTES", "End before the file is longer"))
        .arg(number("seconds", "N", "End after so many seconds"));
    Command::new("capture")
        .about("Write frames to pcapng files")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(start)
        .subcommand(
            Command::new("stop")
                .about("End a capture; its file is complete then")
                .arg(
                    Arg::new("name")
                        .required(true)
                        .value_name("NAME")
                        .help("Name of the capture"),
                ),
        )
        .subcommand(Command::new("list").about("List captures that run"))
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("start", matches)) => {
            let path = matches
                .get_one::<PathBuf>("write")
                .map_or(Path::new(""), PathBuf::as_path);
            // The daemon has a folder of its own.
            let path = std::path::absolute(path)
                .map_err(|error| Failure::Usage(format!("--write {}: {error}", path.display())))?;
            let (text, number) = (
                |name: &str| matches.get_one::<String>(name),
                |name: &str| matches.get_one::<u64>(name),
            );
            let ports: Vec<&String> = matches.get_many("port").into_iter().flatten().collect();
            let params = json!({
                "path": path,
                "name": text("name"),
                "ports": ports,
                "direction": text("direction"),
                "pattern": text("filter"),
                "host": text("host"),
                "l4_port": number("l4-port"),
                "protocol": text("protocol"),
                "sample": number("sample"),
                "snaplen": number("snaplen"),
                "max_packets": number("packets"),
                "max_bytes": number("bytes"),
                "max_seconds": number("seconds"),
            });
            let answer = context.call("capture.start", params)?;
            context.show(&answer, |answer| {
                let (name, path) = (cell(&answer["name"]), cell(&answer["path"]));
                say(&format!(
                    "{name} writes to {path}; end it with: sumeru capture stop {name}"
                ))
            })
        }
        Some(("stop", matches)) => {
            let answer = context.call("capture.stop", json!({ "name": text(matches, "name") }))?;
            context.show(&answer, |a| {
                say(&format!(
                    "{} packets written to {}, {} lost",
                    a["packets"],
                    cell(&a["path"]),
                    a["lost"]
                ))
            })
        }
        _ => {
            let answer = context.call("capture.list", json!({}))?;
            context.show(&answer, list)
        }
    }
}

fn list(answer: &Value) -> Result<(), Failure> {
    let captures = answer.as_array().map_or(&[][..], Vec::as_slice);
    if captures.is_empty() {
        return say("No captures run.");
    }
    let mut table = Table::new(&["NAME", "PORTS", "PACKETS", "LOST", "STATE", "FILE"]);
    for capture in captures {
        let all = capture["ports"].as_array().is_none_or(Vec::is_empty);
        let ports = if all {
            "(all)".to_owned()
        } else {
            cell(&capture["ports"])
        };
        let state = match capture["running"] == true {
            true => "running",
            false => "complete",
        };
        table.row([
            cell(&capture["name"]),
            ports,
            cell(&capture["packets"]),
            cell(&capture["lost"]),
            state.to_owned(),
            cell(&capture["path"]),
        ]);
    }
    Ok(table.print()?)
}

//! `sumeru capture start|stop|list`: frames to a pcapng file.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

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
            Arg::new("port")
                .long("port")
                .value_name("PORT")
                .help("Only this port [default: all]"),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Name of the capture [default: capture-N]"),
        )
        .arg(
            Arg::new("snaplen")
                .long("snaplen")
                .value_name("BYTES")
                .value_parser(value_parser!(u64))
                .help("Bytes kept of each frame [default: 65535]"),
        )
        .arg(
            Arg::new("packets")
                .long("packets")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("End after so many frames"),
        );
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
            let params = json!({
                "path": path,
                "port": matches.get_one::<String>("port"),
                "name": matches.get_one::<String>("name"),
                "snaplen": matches.get_one::<u64>("snaplen"),
                "max_packets": matches.get_one::<u64>("packets"),
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
    let mut table = Table::new(&["NAME", "PORT", "PACKETS", "LOST", "FILE"]);
    for capture in captures {
        let port = if capture["port"].is_null() {
            "(all)".to_owned()
        } else {
            cell(&capture["port"])
        };
        table.row([
            cell(&capture["name"]),
            port,
            cell(&capture["packets"]),
            cell(&capture["lost"]),
            cell(&capture["path"]),
        ]);
    }
    Ok(table.print()?)
}

//! `sumeru event list`: what happened to objects.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;

use super::{Context, say};
use crate::failure::Failure;
use crate::table::{Table, cell};

pub fn grammar() -> Command {
    Command::new("event")
        .about("What happened to objects")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("list").about("List events, oldest first").arg(
                Arg::new("since")
                    .long("since")
                    .value_name("N")
                    .default_value("0")
                    .value_parser(value_parser!(u64))
                    .help("Only events with a higher number"),
            ),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let since = matches
        .subcommand()
        .and_then(|(_, matches)| matches.get_one::<u64>("since"));
    let answer = context.call("event.list", json!({ "since": since }))?;
    context.show(&answer, |answer| {
        let events = answer.as_array().map_or(&[][..], Vec::as_slice);
        if events.is_empty() {
            return say("Nothing has happened.");
        }
        let mut table = Table::new(&["SEQ", "UNIX-MS", "WHAT", "OBJECT", "DETAIL"]);
        for event in events {
            let keys = ["seq", "unix_ms", "what", "object", "detail"];
            table.row(keys.iter().map(|key| cell(&event[*key])));
        }
        Ok(table.print()?)
    })
}

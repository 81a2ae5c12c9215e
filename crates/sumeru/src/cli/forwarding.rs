//! `sumeru fdb list` and `sumeru neighbour list`: what the switch has learned.

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::{Context, say};
use crate::failure::Failure;
use crate::table::{Table, cell};

pub fn fdb_grammar() -> Command {
    Command::new("fdb")
        .about("Forwarding tables of networks")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("list")
                .about("List learned and static addresses")
                .arg(
                    Arg::new("network")
                        .value_name("NETWORK")
                        .help("Only this network"),
                ),
        )
}

pub fn neighbour_grammar() -> Command {
    Command::new("neighbour")
        .about("Underlay neighbours")
        .visible_alias("neighbor")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("List underlay neighbours"))
}

pub fn fdb(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let network = matches
        .subcommand()
        .and_then(|(_, matches)| matches.get_one::<String>("network"));
    let answer = context.call("fdb.list", json!({ "network": network }))?;
    context.show(&answer, |answer| {
        let entries = answer.as_array().map_or(&[][..], Vec::as_slice);
        if entries.is_empty() {
            return say("No addresses are known.");
        }
        let mut table = Table::new(&["NETWORK", "MAC", "WHERE", "AGE-S", "STATIC"]);
        for entry in entries {
            let place = match (entry["port"].as_str(), entry["remote"].as_str()) {
                (Some(port), _) => format!("port {port}"),
                (None, Some(remote)) => format!("remote {remote}"),
                _ => "-".to_owned(),
            };
            table.row([
                cell(&entry["network"]),
                cell(&entry["mac"]),
                place,
                cell(&entry["age_s"]),
                cell(&entry["static"]),
            ]);
        }
        Ok(table.print()?)
    })
}

pub fn neighbours(context: &mut Context) -> Result<(), Failure> {
    let answer = context.call("neighbour.list", json!({}))?;
    context.show(&answer, |answer| {
        let entries = answer.as_array().map_or(&[][..], Vec::as_slice);
        if entries.is_empty() {
            return say("No neighbours are known.");
        }
        let mut table = Table::new(&["ADDRESS", "MAC", "STATE", "AGE-S", "PATH-MTU"]);
        for entry in entries {
            table.row([
                cell(&entry["address"]),
                cell(&entry["mac"]),
                cell(&entry["state"]),
                cell(&entry["age_s"]),
                cell(&entry["path_mtu"]),
            ]);
        }
        Ok(table.print()?)
    })
}

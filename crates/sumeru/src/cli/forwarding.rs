//! `sumeru fdb list`, `sumeru neighbour list` and `sumeru lldp show`: what the switch has learned.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

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

pub fn lldp_grammar() -> Command {
    Command::new("lldp")
        .about("Who is at the other end of wires, as told by LLDP (IEEE 802.1AB)")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("show")
                .about("Show neighbours, and wires where none was heard")
                .arg(Arg::new("port").value_name("PORT").help("Only this port")),
        )
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

pub fn lldp(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let port = matches
        .subcommand()
        .and_then(|(_, matches)| matches.get_one::<String>("port"));
    let answer = context.call("lldp.list", json!({ "port": port }))?;
    context.show(&answer, |answer| {
        let wires = answer.as_array().map_or(&[][..], Vec::as_slice);
        if wires.is_empty() {
            return say("No port speaks LLDP.");
        }
        let mut table = Table::new(&[
            "PORT",
            "INTERFACE",
            "SYSTEM",
            "CHASSIS",
            "NEIGHBOUR-PORT",
            "MANAGEMENT",
            "CAPABILITIES",
            "TTL-S",
            "EXPIRES-S",
        ]);
        for wire in wires {
            let here = [cell(&wire["port"]), cell(&wire["interface"])];
            let neighbours = wire["neighbours"].as_array();
            let neighbours = neighbours.map_or(&[][..], Vec::as_slice);
            if neighbours.is_empty() {
                let none = [cell(&Value::Null)];
                table.row(here.clone().into_iter().chain(none));
            }
            for neighbour in neighbours {
                let keys = [
                    "system_name",
                    "chassis",
                    "port",
                    "management",
                    "capabilities",
                    "ttl_s",
                    "expires_s",
                ];
                let told = keys.map(|key| cell(&neighbour[key]));
                table.row(here.clone().into_iter().chain(told));
            }
        }
        Ok(table.print()?)
    })
}

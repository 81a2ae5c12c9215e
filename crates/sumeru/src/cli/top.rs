//! `sumeru top`: the grammar of the live view.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Context;
use crate::failure::Failure;
use crate::top;

pub fn grammar() -> Command {
    Command::new("top")
        .about("Live view of lcores, ports, drops, stages and volumes; q quits")
        .arg(
            Arg::new("interval")
                .long("interval")
                .value_name("MS")
                .default_value("1000")
                .value_parser(value_parser!(u64).range(100..=60_000))
                .help("Time between two looks, milliseconds"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Print the rates of one interval and end"),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let interval =
        Duration::from_millis(matches.get_one::<u64>("interval").copied().unwrap_or(1000));
    let (json, once) = (context.json, matches.get_flag("once"));
    let client = context.client()?;
    if once || json {
        top::once(client, interval, json)
    } else {
        top::live(client, interval)
    }
}

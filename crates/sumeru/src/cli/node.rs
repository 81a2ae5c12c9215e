//! `sumeru node …`: the node itself.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use super::Context;
use crate::failure::Failure;

pub fn grammar() -> Command {
    Command::new("node")
        .about("The node: its configuration and what is out of service")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("show").about("Show everything about the node"))
        .subcommand(
            Command::new("update")
                .about("Change the live node")
                .arg(
                    Arg::new("poll")
                        .long("poll")
                        .value_parser(["adaptive", "always-spin"])
                        .help("What an idle lcore does"),
                )
                .arg(
                    Arg::new("spin_us")
                        .long("spin-us")
                        .value_name("US")
                        .value_parser(value_parser!(u64))
                        .help("How long an idle lcore spins before it sleeps, microseconds"),
                )
                .arg(
                    Arg::new("residence")
                        .long("residence")
                        .value_name("BOOL")
                        .value_parser(value_parser!(bool))
                        .help("Whether it is measured how long frames stay in the engine"),
                ),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("update", matches)) => {
            let mut params = Map::new();
            if let Some(poll) = matches.get_one::<String>("poll") {
                params.insert("poll".to_owned(), json!(poll));
            }
            if let Some(spin) = matches.get_one::<u64>("spin_us") {
                params.insert("spin_us".to_owned(), json!(spin));
            }
            if let Some(on) = matches.get_one::<bool>("residence") {
                params.insert("residence".to_owned(), json!(on));
            }
            context.order("node.update", Value::Object(params), "node changed")
        }
        _ => {
            let answer = context.call("node.show", json!({}))?;
            context.show(&answer, super::object::show)
        }
    }
}

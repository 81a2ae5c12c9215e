//! `sumeru rpc METHOD [PARAMS]`: any call, as it is on the wire.

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::{Context, print_json, text};
use crate::failure::Failure;

pub fn grammar() -> Command {
    Command::new("rpc")
        .about("Call a method of the API; `sumeru rpc rpc.methods` lists them")
        .arg(
            Arg::new("method")
                .required(true)
                .value_name("METHOD")
                .help("Name of the method"),
        )
        .arg(
            Arg::new("params")
                .default_value("{}")
                .value_name("PARAMS")
                .help("Parameters, a JSON object"),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let params = text(matches, "params");
    let params: Value = serde_json::from_str(params).map_err(|error| {
        Failure::Usage(format!(
            "params is {params:?}, expected a JSON object: {error}"
        ))
    })?;
    print_json(&context.call(text(matches, "method"), params)?)
}

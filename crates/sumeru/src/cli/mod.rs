//! The command line: `sumeru NOUN VERB …`. One file per noun, each with its grammar and what it
//! prints. Exit codes: 0 done, 1 refused by the daemon, 2 wrong usage, 3 no daemon.

mod bond;
mod capture;
mod config;
mod conntrack;
mod daemon;
mod event;
mod flow;
mod forwarding;
mod node;
mod object;
mod policy;
mod rpc;
mod shell;
mod stats;
mod top;
mod trace;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;

/// Where a daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sumeru/sumeru.sock";

/// What a command works with.
pub struct Context {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Whether JSON is printed instead of tables.
    pub json: bool,
    client: Option<Client>,
}

impl Context {
    /// The connection, made when first needed.
    pub fn client(&mut self) -> Result<&mut Client, Failure> {
        match &mut self.client {
            Some(client) => Ok(client),
            empty => Ok(empty.insert(Client::connect(&self.socket)?)),
        }
    }

    /// Calls a method of the daemon.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.client()?.call(method, params)
    }

    /// Prints an answer: as it is for programs, by `human` for people.
    pub fn show(
        &self,
        answer: &Value,
        human: impl FnOnce(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.json {
            print_json(answer)
        } else {
            human(answer)
        }
    }

    /// Calls a method and prints `done` if it went well.
    pub fn order(&mut self, method: &str, params: Value, done: &str) -> Result<(), Failure> {
        let answer = self.call(method, params)?;
        self.show(&answer, |_| say(done))
    }
}

/// Prints a line.
pub fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{line}").map_err(Failure::from)
}

/// Prints a value over several lines, keys in alphabetical order.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    say(&format!("{value:#}"))
}

/// A text argument that clap has made sure of.
pub fn text<'a>(matches: &'a ArgMatches, id: &str) -> &'a str {
    matches.get_one::<String>(id).map_or("", String::as_str)
}

/// The whole grammar.
pub fn grammar() -> Command {
    Command::new("sumeru")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A data processing unit in software: switch, block devices and their control")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("rpc")
                .long("rpc")
                .value_name("SOCKET")
                .env("SUMERU_RPC")
                .default_value(DEFAULT_SOCKET)
                .value_parser(clap::value_parser!(PathBuf))
                .global(true)
                .help("Socket of the daemon"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Print JSON instead of tables"),
        )
        .subcommand(daemon::grammar())
        .subcommands(object::grammars())
        .subcommand(flow::grammar())
        .subcommand(conntrack::grammar())
        .subcommand(node::grammar())
        .subcommand(stats::grammar())
        .subcommand(trace::grammar())
        .subcommand(policy::grammar())
        .subcommand(capture::grammar())
        .subcommand(forwarding::fdb_grammar())
        .subcommand(forwarding::neighbour_grammar())
        .subcommand(forwarding::lldp_grammar())
        .subcommand(top::grammar())
        .subcommand(config::grammar())
        .subcommand(event::grammar())
        .subcommand(rpc::grammar())
        .subcommands(shell::grammars())
}

/// Reads the command line, carries it out, says what went wrong.
pub fn main() -> ExitCode {
    let matches = grammar().get_matches();
    let json = matches.get_flag("json");
    let socket = matches
        .get_one::<PathBuf>("rpc")
        .cloned()
        .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
    let mut context = Context {
        socket,
        json,
        client: None,
    };
    let Some((noun, matches)) = matches.subcommand() else {
        return ExitCode::from(2);
    };
    let Err(failure) = run(noun, matches, &mut context) else {
        return ExitCode::SUCCESS;
    };
    // Nobody is left to be told when standard error is closed as well.
    if !matches!(failure, Failure::OutputClosed) {
        let mut stderr = io::stderr().lock();
        let _ = if json {
            writeln!(stderr, "{:#}", failure.to_json())
        } else {
            writeln!(stderr, "sumeru: {failure}")
        };
    }
    ExitCode::from(failure.exit_code())
}

fn run(noun: &str, matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    match noun {
        "daemon" => daemon::run(matches, context),
        "port" | "network" | "volume" | "controller" | "address-set" | "security-group"
        | "blocklist" | "isolation" | "subnet" | "router" | "floating-ip" | "load-balancer"
        | "mirror" | "exporter" => object::run(noun, matches, context),
        "policy" => policy::run(matches, context),
        "flow" => flow::run(matches, context),
        "conntrack" => conntrack::run(matches, context),
        "node" => node::run(matches, context),
        "stats" => stats::run(matches, context),
        "trace" => trace::run(matches, context),
        "capture" => capture::run(matches, context),
        "fdb" => forwarding::fdb(matches, context),
        "neighbour" => forwarding::neighbours(context),
        "lldp" => forwarding::lldp(matches, context),
        "top" => top::run(matches, context),
        "config" => config::run(matches, context),
        "event" => event::run(matches, context),
        "rpc" => rpc::run(matches, context),
        _ => shell::run(noun, matches, context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }
}

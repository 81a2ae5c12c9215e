//! `sumeru completion`, `sumeru man`, `sumeru version`: what a package installs, and what a bug
//! report needs.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use serde_json::json;

use super::{Context, grammar, say};
use crate::failure::Failure;
use crate::table::cell;

pub fn grammars() -> [Command; 3] {
    [
        Command::new("completion")
            .about("Print the completion script of a shell")
            .arg(
                Arg::new("shell")
                    .required(true)
                    .value_parser(value_parser!(Shell))
                    .help("The shell"),
            ),
        Command::new("man").about("Write the manual pages").arg(
            Arg::new("dir")
                .required(true)
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Folder to write to"),
        ),
        Command::new("version").about("Version of this program, and of the daemon if one runs"),
    ]
}

pub fn run(noun: &str, matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    match noun {
        "completion" => {
            let shell = matches
                .get_one::<Shell>("shell")
                .copied()
                .unwrap_or(Shell::Bash);
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut grammar(), "sumeru", &mut script);
            Ok(io::stdout().lock().write_all(&script)?)
        }
        "man" => {
            let folder = matches
                .get_one::<PathBuf>("dir")
                .cloned()
                .unwrap_or_default();
            let written = std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(grammar(), &folder));
            written.map_err(|error| {
                Failure::Usage(format!("cannot write to {}: {error}", folder.display()))
            })?;
            context.show(&json!({ "path": folder }), |_| {
                say(&format!("manual pages written to {}", folder.display()))
            })
        }
        _ => {
            let daemon = match context.call("version", json!({})) {
                Ok(answer) => Some(answer["version"].clone()),
                Err(Failure::Unreachable { .. }) => None,
                Err(other) => return Err(other),
            };
            let answer = json!({ "version": env!("CARGO_PKG_VERSION"), "daemon": daemon });
            context.show(&answer, |answer| {
                say(&format!("sumeru {}", cell(&answer["version"])))?;
                match &daemon {
                    Some(version) => say(&format!("daemon {}", cell(version))),
                    None => say("no daemon runs"),
                }
            })
        }
    }
}

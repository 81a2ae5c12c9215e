//! `sumeru config save|load|check`. `check` needs no daemon: it reads the file itself.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use sumeru_control::config;

use super::{Context, print_json, say};
use crate::failure::Failure;
use crate::table::cell;

pub fn grammar() -> Command {
    let file = |required: bool, help: &'static str| {
        Arg::new("file")
            .required(required)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    Command::new("config")
        .about("The configuration file")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("save")
                .about("Write the daemon's objects as TOML")
                .arg(file(false, "File to write [default: standard output]")),
        )
        .subcommand(
            Command::new("load")
                .about("Make the objects of a file those of the daemon, all or nothing")
                .arg(file(false, "File to load [default: the daemon's --config]")),
        )
        .subcommand(
            Command::new("check")
                .about("Say everything that is wrong with a file; needs no daemon")
                .arg(file(true, "File to check")),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let file = matches.get_one::<PathBuf>("file").map(PathBuf::as_path);
    match verb {
        "save" => save(file, context),
        "load" => {
            // Read here: the daemon may not be allowed to, and has another folder.
            let params = match file {
                Some(path) => json!({ "text": read(path)? }),
                None => json!({}),
            };
            let answer = context.call("config.load", params)?;
            context.show(&answer, loaded)
        }
        _ => check(file.unwrap_or(Path::new("")), context),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}

fn save(file: Option<&Path>, context: &mut Context) -> Result<(), Failure> {
    let answer = context.call("config.save", json!({}))?;
    let text = answer["text"].as_str().unwrap_or_default();
    let Some(path) = file else {
        return context.show(&answer, |_| say(text.trim_end()));
    };
    fs::write(path, text)
        .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", path.display())))?;
    context.show(&json!({ "path": path }), |_| {
        say(&format!("configuration written to {}", path.display()))
    })
}

fn loaded(answer: &Value) -> Result<(), Failure> {
    let mut nothing = true;
    for what in ["created", "changed", "deleted"] {
        for object in answer[what].as_array().into_iter().flatten() {
            nothing = false;
            say(&format!("{} {what}", cell(object)))?;
        }
    }
    if nothing {
        say("nothing to change")
    } else {
        Ok(())
    }
}

fn check(path: &Path, context: &Context) -> Result<(), Failure> {
    match config::parse(&read(path)?) {
        Ok(entries) if context.json => {
            print_json(&json!({ "objects": entries.len(), "faults": [] }))
        }
        Ok(entries) => say(&format!(
            "{}: {} objects, no faults",
            path.display(),
            entries.len()
        )),
        Err(error) => {
            let lines: Vec<String> = match &error {
                sumeru_control::error::Error::Invalid(faults) => {
                    faults.iter().map(ToString::to_string).collect()
                }
                other => vec![other.to_string()],
            };
            let message = lines
                .iter()
                .map(|line| format!("{}: {line}", path.display()))
                .collect::<Vec<_>>()
                .join("\nsumeru: ");
            Err(Failure::Refused {
                code: error.code(),
                message,
                data: error.data(),
            })
        }
    }
}

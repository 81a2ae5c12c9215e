//! `sumeru flow load FILE`: testpmd's lines, thousands of rules per call. The whole file is read before the first rule is sent.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Instant;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};
use sumeru_flow::syntax::{self, parse};

use crate::cli::{Context, say, text};
use crate::failure::Failure;

/// Commands of a call; each call is all or nothing.
const PER_CALL: usize = 8192;
/// Bytes of a call, well below what the daemon takes as one message.
const CALL_BYTES: usize = 2 << 20;

pub fn grammar() -> Command {
    Command::new("load")
        .about("Carry out a file of `flow create` and `flow destroy` lines, as testpmd takes them")
        .arg(
            Arg::new("file")
                .required(true)
                .value_name("FILE")
                .help("The file, or - for standard input; empty lines and lines that begin with # are passed over"),
        )
        .arg(
            Arg::new("volatile")
                .long("volatile")
                .action(ArgAction::SetTrue)
                .help("New rules are gone after a restart of the daemon; much quicker for very many"),
        )
}

/// What one call does.
#[derive(Default)]
struct Call {
    create: Vec<Value>,
    destroy: Vec<Value>,
    bytes: usize,
    /// The first and the last of its lines.
    lines: (usize, usize),
}

impl Call {
    fn len(&self) -> usize {
        self.create.len() + self.destroy.len()
    }

    /// Whether another command has its place behind what is in it: a call destroys first and creates then.
    fn takes(&self, destroys: bool) -> bool {
        let room = self.len() < PER_CALL && self.bytes < CALL_BYTES;
        room && (!destroys || self.create.is_empty())
    }
}

fn wrong(number: usize, what: &str) -> Failure {
    Failure::Usage(format!("flow load: line {number}: {what}"))
}

/// Reads all lines.
fn calls(lines: &str) -> Result<Vec<Call>, Failure> {
    let mut calls: Vec<Call> = Vec::new();
    for (at, line) in lines.lines().enumerate() {
        let (number, line) = (at + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let command = parse(line).map_err(|error| wrong(number, &error.render(line)))?;
        let (mut create, mut destroy) = (Vec::new(), Vec::new());
        match command {
            syntax::Command::Create { port, rule } => {
                rule.validate()
                    .map_err(|error| wrong(number, &error.to_string()))?;
                create.push(json!({ "port": port.as_str(), "rule": rule.to_string() }));
            }
            syntax::Command::Destroy { port, rules } => {
                let one = |id| json!({ "port": port.as_str(), "id": id });
                destroy.extend(rules.into_iter().map(one));
            }
            _ => return Err(wrong(number, "expected flow create or flow destroy")),
        }
        let call = match calls.last_mut() {
            Some(call) if call.takes(!destroy.is_empty()) => call,
            _ => {
                calls.push(Call {
                    lines: (number, number),
                    ..Call::default()
                });
                match calls.last_mut() {
                    Some(call) => call,
                    None => continue,
                }
            }
        };
        call.create.append(&mut create);
        call.destroy.append(&mut destroy);
        call.bytes += line.len() + 64;
        call.lines.1 = number;
    }
    Ok(calls)
}

fn read(file: &str) -> Result<String, Failure> {
    let mut lines = String::new();
    let done = match file {
        "-" => io::stdin().lock().read_to_string(&mut lines).map(drop),
        _ => std::fs::read_to_string(file).map(|read| lines = read),
    };
    done.map_err(|error| Failure::Usage(format!("cannot read {file}: {error}")))?;
    Ok(lines)
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let calls = calls(&read(text(matches, "file"))?)?;
    let volatile = matches.get_flag("volatile");
    let (total, begun) = (calls.iter().map(Call::len).sum::<usize>(), Instant::now());
    let (mut created, mut destroyed) = (0, 0);
    let progress = io::stderr().is_terminal() && !context.json;
    for call in calls {
        let (first, last) = call.lines;
        let (creating, destroying) = (call.create.len(), call.destroy.len());
        let params =
            json!({ "create": call.create, "destroy": call.destroy, "volatile": volatile });
        context.call("flow.batch", params).map_err(|failure| match failure {
            Failure::Refused { code, message, data } => Failure::Refused {
                code,
                message: format!(
                    "{message} (lines {first} to {last} were not carried out, nor was what follows; {created} rules were created and {destroyed} destroyed before)"
                ),
                data,
            },
            other => other,
        })?;
        created += creating;
        destroyed += destroying;
        if progress {
            let _ = write!(
                io::stderr().lock(),
                "\r{} of {total} rules",
                created + destroyed
            );
        }
    }
    if progress {
        let _ = writeln!(io::stderr().lock());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let answer = json!({ "created": created, "destroyed": destroyed, "seconds": seconds });
    context.show(&answer, |_| {
        say(&format!(
            "{created} flow rules created, {destroyed} destroyed in {seconds:.2} s"
        ))
    })
}

//! `sumeru flow …`: rules in testpmd's syntax, which is read here first, so that a slip of the pen
//! is shown where it is.

mod load;
mod object;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use sumeru_flow::syntax::parse_rule;

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

pub fn grammar() -> Command {
    let port = || {
        Arg::new("port")
            .required(true)
            .value_name("PORT")
            .help("Name or index of a port")
    };
    let rule = || {
        Arg::new("rule")
            .required(true)
            .num_args(1..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_name("RULE")
            .help("[group N] [priority N] ingress pattern ITEM / … / end actions ACTION / … / end")
    };
    let ids = Arg::new("ids")
        .required(true)
        .num_args(1..)
        .value_name("[rule] ID")
        .help("Numbers of rules; testpmd's word `rule` before each is accepted");
    let query = Arg::new("id")
        .required(true)
        .value_name("ID")
        .value_parser(value_parser!(u32))
        .help("Number of the rule");
    Command::new("flow")
        .about("Flow rules of ports, in testpmd's syntax")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("create")
                .about("Add a rule: sumeru flow create 0 ingress pattern eth / ipv4 dst is 10.0.0.1 / end actions count / drop / end")
                .arg(Arg::new("volatile").long("volatile").action(ArgAction::SetTrue).help("Gone after a restart of the daemon"))
                .arg(Arg::new("id").long("id").value_name("ID").value_parser(value_parser!(u32)).help("Number of the rule [default: one above the highest]"))
                .arg(port())
                .arg(rule()),
        )
        .subcommand(Command::new("validate").about("Whether a rule could be added now").arg(port()).arg(rule()))
        .subcommand(Command::new("destroy").about("Remove rules").arg(port()).arg(ids))
        .subcommand(
            Command::new("list")
                .about("List rules")
                .arg(port().required(false))
                .arg(Arg::new("group").long("group").value_name("N").value_parser(value_parser!(u32)).help("Only this group")),
        )
        .subcommand(
            Command::new("query")
                .about("What a rule counted")
                .arg(port())
                .arg(query)
                .arg(Arg::new("count").hide(true).value_parser(["count"])),
        )
        .subcommand(Command::new("flush").about("Remove every rule of a port").arg(port()))
        .subcommand(load::grammar())
        .subcommands(object::grammars())
}

fn rule_text(matches: &ArgMatches) -> Result<String, Failure> {
    let words: Vec<&str> = matches
        .get_many::<String>("rule")
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let text = words.join(" ");
    match parse_rule(&text).map(|rule| rule.validate()) {
        Ok(Ok(())) => Ok(text),
        Ok(Err(error)) => Err(Failure::Usage(format!("flow rule: {error}"))),
        Err(error) => Err(Failure::Usage(format!(
            "flow rule: {}",
            error.render(&text)
        ))),
    }
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(());
    };
    match verb {
        "load" => return load::run(matches, context),
        "isolate" => return object::isolate(matches, context),
        "aged" => return object::aged(matches, context),
        "indirect_action" => return object::indirect(matches, context),
        "meter" => return object::meter(matches, context),
        _ => {}
    }
    let port = text(matches, "port");
    match verb {
        "create" => {
            let mut params = json!({ "port": port, "rule": rule_text(matches)?, "volatile": matches.get_flag("volatile") });
            if let Some(id) = matches.get_one::<u32>("id") {
                params["id"] = json!(id);
            }
            let answer = context.call("flow.create", params)?;
            context.show(&answer, |answer| {
                say(&format!(
                    "Flow rule #{} created on port {}",
                    cell(&answer["id"]),
                    cell(&answer["port"])
                ))
            })
        }
        "validate" => context.order(
            "flow.validate",
            json!({ "port": port, "rule": rule_text(matches)? }),
            "Flow rule validated",
        ),
        "destroy" => destroy(port, matches, context),
        "query" => {
            let id = matches.get_one::<u32>("id");
            let answer = context.call("flow.query", json!({ "port": port, "id": id }))?;
            context.show(&answer, |answer| {
                say(&format!(
                    "packets {}, bytes {}",
                    answer["packets"], answer["bytes"]
                ))
            })
        }
        "flush" => {
            let answer = context.call("flow.flush", json!({ "port": port }))?;
            context.show(&answer, |answer| {
                say(&format!("{} flow rules destroyed", answer["destroyed"]))
            })
        }
        _ => {
            let port = matches.get_one::<String>("port");
            let group = matches.get_one::<u32>("group");
            let answer = context.call("flow.list", json!({ "port": port, "group": group }))?;
            context.show(&answer, list)
        }
    }
}

fn destroy(port: &str, matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let words = matches
        .get_many::<String>("ids")
        .into_iter()
        .flatten()
        .filter(|w| *w != "rule");
    let mut ids = Vec::new();
    for word in words {
        let id: u32 = word.parse().map_err(|_| {
            Failure::Usage(format!(
                "flow destroy: id is {word:?}, expected the number of a rule"
            ))
        })?;
        ids.push(id);
    }
    let mut gone = Vec::new();
    for id in ids {
        context.call("flow.destroy", json!({ "port": port, "id": id }))?;
        gone.push(json!(id));
        if !context.json {
            say(&format!("Flow rule #{id} destroyed"))?;
        }
    }
    context.show(&json!({ "destroyed": gone }), |_| Ok(()))
}

fn list(answer: &Value) -> Result<(), Failure> {
    let rules = answer.as_array().map_or(&[][..], Vec::as_slice);
    if rules.is_empty() {
        return say("There are no flow rules.");
    }
    let mut table = Table::new(&["PORT", "ID", "STATE", "RULE"]);
    for rule in rules {
        let state = if rule["in_service"] == true {
            "ok".to_owned()
        } else {
            format!("FAILED: {}", cell(&rule["failure"]))
        };
        table.row([
            cell(&rule["port"]),
            cell(&rule["id"]),
            state,
            cell(&rule["rule"]),
        ]);
    }
    Ok(table.print()?)
}

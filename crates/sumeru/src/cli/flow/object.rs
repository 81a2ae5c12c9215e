//! `sumeru flow isolate|aged|indirect_action|meter`: what rules name, what has grown old, and isolation.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use sumeru_flow::syntax::{self, IndirectCommand, parse};

use crate::cli::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

/// Numbers of a meter: name, help.
const RATES: [(&str, &str); 6] = [
    (
        "cir",
        "Committed rate, bytes (with --packet-mode packets) per second",
    ),
    ("cbs", "Committed burst, bytes (packets)"),
    ("ebs", "srtcm_rfc2697: excess burst"),
    ("pir", "trtcm_rfc2698: peak rate"),
    ("pbs", "trtcm_rfc2698: peak burst"),
    ("eir", "trtcm_rfc4115: excess rate"),
];
/// What becomes of frames: colour, help.
const COLORS: [(&str, &str); 3] = [
    (
        "green",
        "What becomes of green frames: passthru, drop or \"set_ipv4_dscp dscp_value N\" [default: passthru]",
    ),
    ("yellow", "The same of yellow frames [default: passthru]"),
    ("red", "The same of red frames [default: drop]"),
];

fn port() -> Arg {
    Arg::new("port")
        .required(true)
        .value_name("PORT")
        .help("Name or index of a port")
}

fn meter_id() -> Arg {
    Arg::new("id")
        .required(true)
        .value_name("ID")
        .value_parser(value_parser!(u32))
        .help("Number of the meter, at most 16777215")
}

/// A command that has everything of a meter.
fn whole_meter(name: &'static str, about: &'static str) -> Command {
    let mut command = Command::new(name).about(about).arg(port()).arg(meter_id());
    command = command.arg(
        Arg::new("algorithm")
            .required(true)
            .value_name("ALGORITHM")
            .help("srtcm_rfc2697 or trtcm_rfc2698"),
    );
    for (name, help) in RATES {
        let number = value_parser!(u64);
        let arg = Arg::new(name).long(name).value_name("N").help(help);
        command = command.arg(arg.value_parser(number));
    }
    for (name, help) in COLORS {
        command = command.arg(Arg::new(name).long(name).value_name("ACTION").help(help));
    }
    let flag = |name: &'static str, help| {
        let arg = Arg::new(name).long(name).action(ArgAction::SetTrue);
        arg.help(help)
    };
    command
        .arg(flag("packet-mode", "Count packets, not their bytes"))
        .arg(flag(
            "color-aware",
            "The colour that an earlier meter gave counts",
        ))
}

pub fn grammars() -> [Command; 4] {
    let words = |help| {
        Arg::new("words")
            .required(true)
            .num_args(1..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_name("COMMAND")
            .help(help)
    };
    [
        Command::new("isolate")
            .about("Have only rules move the frames that come in on a port (1), or no longer (0)")
            .arg(port())
            .arg(Arg::new("on").required(true).value_name("0|1").help("1, yes, true, on; or 0, no, false, off")),
        Command::new("aged")
            .about("List the rules and indirect actions of a port that have grown old")
            .arg(port())
            .arg(Arg::new("destroy").value_parser(["destroy"]).value_name("destroy").help("Remove the rules among them")),
        Command::new("indirect_action")
            .about("Actions that several rules share: sumeru flow indirect_action 0 create action_id 5 ingress action count / end")
            .arg(port())
            .arg(words("create [action_id N] [ingress] [egress] [transfer] action ACTION / end | update N action ACTION / end | destroy action_id N … | query N | list")),
        Command::new("meter")
            .about("Meters that rules name: sumeru flow meter create 0 5 srtcm_rfc2697 --cir 125000 --cbs 20000 --ebs 0")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(whole_meter("create", "Make a meter; it goes with its port or the daemon"))
            .subcommand(whole_meter("update", "Give a meter another profile and policy; its counts stay"))
            .subcommand(Command::new("destroy").about("Remove a meter that no rule names").arg(port()).arg(meter_id()))
            .subcommand(Command::new("query").about("What a meter has seen").arg(port()).arg(meter_id()))
            .subcommand(Command::new("list").about("List meters").arg(port().required(false))),
    ]
}

/// A command of testpmd's from its words.
fn read(text: &str) -> Result<syntax::Command, Failure> {
    parse(text).map_err(|error| Failure::Usage(format!("flow: {}", error.render(text))))
}

fn wrong(verb: &str) -> Failure {
    Failure::Usage(format!("flow {verb}: expected one command"))
}

pub fn isolate(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let (port, on) = (text(matches, "port"), text(matches, "on"));
    let syntax::Command::Isolate { on, .. } = read(&format!("isolate {port} {on}"))? else {
        return Err(wrong("isolate"));
    };
    let done = match on {
        true => "Frames that no rule decides are dropped now",
        false => "Frames that no rule decides go their usual way now",
    };
    context.order("flow.isolate", json!({ "port": port, "on": on }), done)
}

pub fn aged(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let destroy = matches.contains_id("destroy");
    let params = json!({ "port": text(matches, "port"), "destroy": destroy });
    let answer = context.call("flow.aged", params)?;
    context.show(&answer, |answer| {
        let aged = answer.as_array().map_or(&[][..], Vec::as_slice);
        if aged.is_empty() {
            return say("Nothing has grown old.");
        }
        let mut table = Table::new(&["KIND", "ID", "CONTEXT", "IDLE"]);
        for one in aged {
            table.row(["kind", "id", "context", "idle_s"].map(|field| cell(&one[field])));
        }
        table.print()?;
        let rules = aged.iter().filter(|one| one["kind"] == "rule").count();
        match destroy {
            true => say(&format!("{rules} flow rules destroyed")),
            false => Ok(()),
        }
    })
}

pub fn indirect(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let port = text(matches, "port");
    let words: Vec<&str> = matches
        .get_many::<String>("words")
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    if words == ["list"] {
        let answer = context.call("flow.indirect.list", json!({ "port": port }))?;
        return context.show(&answer, list_indirect);
    }
    let command = read(&format!("indirect_action {port} {}", words.join(" ")))?;
    let syntax::Command::Indirect { command, .. } = command else {
        return Err(wrong("indirect_action"));
    };
    match command {
        IndirectCommand::Create(object) => {
            let mut params = json!({
                "port": port,
                "action": object.action.to_string(),
                "ingress": object.direction.ingress,
                "egress": object.direction.egress,
                "transfer": object.direction.transfer,
            });
            if let Some(id) = object.id {
                params["id"] = json!(id);
            }
            let answer = context.call("flow.indirect.create", params)?;
            context.show(&answer, |answer| {
                say(&format!(
                    "Indirect action #{} created on port {}",
                    cell(&answer["id"]),
                    cell(&answer["port"])
                ))
            })
        }
        IndirectCommand::Update { id, action } => context.order(
            "flow.indirect.update",
            json!({ "port": port, "id": id, "action": action.to_string() }),
            &format!("Indirect action #{id} updated"),
        ),
        IndirectCommand::Destroy(ids) => {
            for id in &ids {
                context.call("flow.indirect.destroy", json!({ "port": port, "id": id }))?;
                if !context.json {
                    say(&format!("Indirect action #{id} destroyed"))?;
                }
            }
            context.show(&json!({ "destroyed": ids }), |_| Ok(()))
        }
        IndirectCommand::Query { id } => {
            let answer = context.call("flow.indirect.query", json!({ "port": port, "id": id }))?;
            context.show(&answer, |answer| {
                say(&match answer.get("aged") {
                    Some(aged) => format!("aged {aged}, idle {} s", answer["idle_s"]),
                    None => format!("packets {}, bytes {}", answer["packets"], answer["bytes"]),
                })
            })
        }
    }
}

fn list_indirect(answer: &Value) -> Result<(), Failure> {
    let all = answer.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return say("There are no indirect actions.");
    }
    let mut table = Table::new(&["PORT", "ID", "FOR", "ACTION"]);
    for one in all {
        let directions = ["ingress", "egress", "transfer"];
        let directions = directions.into_iter().filter(|word| one[*word] == true);
        let directions: Vec<&str> = directions.collect();
        table.row([
            cell(&one["port"]),
            cell(&one["id"]),
            directions.join(" "),
            cell(&one["action"]),
        ]);
    }
    Ok(table.print()?)
}

pub fn meter(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(());
    };
    if verb == "list" {
        let port = matches.get_one::<String>("port");
        let answer = context.call("flow.meter.list", json!({ "port": port }))?;
        return context.show(&answer, list_meters);
    }
    let id = matches.get_one::<u32>("id");
    let mut params = json!({ "port": text(matches, "port"), "id": id });
    let number = id.copied().unwrap_or_default();
    match verb {
        "create" | "update" => {
            params["algorithm"] = json!(text(matches, "algorithm"));
            for (name, _) in RATES {
                if let Some(rate) = matches.get_one::<u64>(name) {
                    params[name] = json!(rate);
                }
            }
            for (name, _) in COLORS {
                if let Some(actions) = matches.get_one::<String>(name) {
                    params[name] = json!(actions);
                }
            }
            params["packet_mode"] = json!(matches.get_flag("packet-mode"));
            params["color_aware"] = json!(matches.get_flag("color-aware"));
            let (method, done) = match verb {
                "create" => ("flow.meter.create", "created"),
                _ => ("flow.meter.update", "updated"),
            };
            context.order(method, params, &format!("Meter #{number} {done}"))
        }
        "destroy" => context.order(
            "flow.meter.destroy",
            params,
            &format!("Meter #{number} destroyed"),
        ),
        _ => {
            let answer = context.call("flow.meter.query", params)?;
            context.show(&answer, |answer| {
                let mut table = Table::new(&["FRAMES", "PACKETS", "BYTES"]);
                for frames in ["green", "yellow", "red", "dropped"] {
                    let count = &answer[frames];
                    let (packets, bytes) = (cell(&count["packets"]), cell(&count["bytes"]));
                    table.row([frames.to_owned(), packets, bytes]);
                }
                Ok(table.print()?)
            })
        }
    }
}

fn list_meters(answer: &Value) -> Result<(), Failure> {
    let all = answer.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return say("There are no meters.");
    }
    let mut table = Table::new(&["PORT", "ID", "ALGORITHM", "RATES", "GREEN", "YELLOW", "RED"]);
    for one in all {
        let rates = RATES
            .into_iter()
            .filter(|(name, _)| one.get(name).is_some());
        let mut rates: Vec<String> = rates
            .map(|(name, _)| format!("{name} {}", one[name]))
            .collect();
        if one["packet_mode"] == true {
            rates.push("packets".to_owned());
        }
        if one["color_aware"] == true {
            rates.push("color-aware".to_owned());
        }
        table.row([
            cell(&one["port"]),
            cell(&one["id"]),
            cell(&one["algorithm"]),
            rates.join(" "),
            cell(&one["green"]),
            cell(&one["yellow"]),
            cell(&one["red"]),
        ]);
    }
    Ok(table.print()?)
}

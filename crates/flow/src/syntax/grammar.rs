//! The grammar of commands. What a rule is made of is in `rule`, what is behind the other first words
//! in the modules below.

mod define;
mod meter;
mod queue;
mod template;

use super::Cursor;
use super::command::{Command, IndirectCommand};
use super::error::{SyntaxError, SyntaxErrorKind};
use super::rule::{actions, rule};
use crate::model::{
    Action, Argument, Definitions, Direction, FieldKind, FlowConfiguration, IndirectAction,
    MAX_ACTIONS, PortRef, Rule,
};

/// How a command goes on behind the port.
type Rest = fn(&mut Cursor<'_>, PortRef) -> Result<Command, SyntaxError>;

/// `flow` commands.
const COMMANDS: &[(&str, Rest)] = &[
    ("create", |cursor, port| {
        Ok(Command::Create {
            port,
            rule: rule(cursor)?,
        })
    }),
    ("validate", |cursor, port| {
        Ok(Command::Validate {
            port,
            rule: rule(cursor)?,
        })
    }),
    ("destroy", |cursor, port| {
        let rules = many(cursor, "rule", |cursor| cursor.number(u64::MAX))?;
        Ok(Command::Destroy { port, rules })
    }),
    ("flush", |_, port| Ok(Command::Flush { port })),
    ("list", |cursor, port| {
        let mut groups = Vec::new();
        while cursor.keyword("group") {
            groups.push(number32(cursor)?);
        }
        Ok(Command::List { port, groups })
    }),
    ("query", |cursor, port| {
        let rule = cursor.number(u64::MAX)?;
        if cursor.keyword("count") {
            return Ok(Command::QueryCount { port, rule });
        }
        cursor.require("age")?;
        Ok(Command::QueryAge { port, rule })
    }),
    ("isolate", |cursor, port| {
        let on = boolean(cursor)?;
        Ok(Command::Isolate { port, on })
    }),
    ("aged", |cursor, port| {
        let destroy = cursor.keyword("destroy");
        Ok(Command::Aged { port, destroy })
    }),
    ("dump", |cursor, port| {
        if cursor.keyword("all") {
            return Ok(Command::Dump { port, rule: None });
        }
        cursor.require("rule")?;
        let rule = Some(cursor.number(u64::MAX)?);
        Ok(Command::Dump { port, rule })
    }),
    ("indirect_action", |cursor, port| {
        let command = indirect(cursor, None)?;
        Ok(Command::Indirect { port, command })
    }),
    ("configure", configure),
    ("pattern_template", |cursor, port| {
        let command = template::pattern_template(cursor)?;
        Ok(Command::PatternTemplate { port, command })
    }),
    ("actions_template", |cursor, port| {
        let command = template::actions_template(cursor)?;
        Ok(Command::ActionsTemplate { port, command })
    }),
    ("template_table", |cursor, port| {
        let command = template::template_table(cursor)?;
        Ok(Command::TemplateTable { port, command })
    }),
    ("queue", |cursor, port| {
        let (queue, command) = queue::operation(cursor)?;
        Ok(Command::Queue {
            port,
            queue,
            command,
        })
    }),
    ("push", |cursor, port| {
        cursor.require("queue")?;
        let queue = number32(cursor)?;
        Ok(Command::Push { port, queue })
    }),
    ("pull", |cursor, port| {
        cursor.require("queue")?;
        let queue = number32(cursor)?;
        Ok(Command::Pull { port, queue })
    }),
];

/// Reads a command. The rule in it is not validated.
pub fn parse(text: &str) -> Result<Command, SyntaxError> {
    finish(Cursor::new(text)?, command)
}

/// Reads a command that may name what `definitions` has.
pub fn parse_with(text: &str, definitions: &Definitions) -> Result<Command, SyntaxError> {
    finish(Cursor::new(text)?.with_definitions(definitions), command)
}

/// Reads a rule, the part of a `create` command behind the port. It is not validated.
pub fn parse_rule(text: &str) -> Result<Rule, SyntaxError> {
    finish(Cursor::new(text)?, rule)
}

/// Reads the whole text as one thing.
fn finish<T>(
    mut cursor: Cursor<'_>,
    read: impl FnOnce(&mut Cursor<'_>) -> Result<T, SyntaxError>,
) -> Result<T, SyntaxError> {
    let result = read(&mut cursor)?;
    cursor.require_end()?;
    Ok(result)
}

impl std::str::FromStr for Rule {
    type Err = SyntaxError;
    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        parse_rule(text)
    }
}

impl std::str::FromStr for Command {
    type Err = SyntaxError;
    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        parse(text)
    }
}

/// Words that other commands than `flow` begin with, and how they go on.
type Begun = fn(&mut Cursor<'_>) -> Result<Command, SyntaxError>;
const FIRST_WORDS: &[(&str, Begun)] = &[
    ("set", define::set),
    ("add", meter::add),
    ("del", meter::delete),
    ("enable", meter::enable),
    ("disable", meter::disable),
    ("show", meter::show),
];

pub(super) fn command(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    if cursor.keyword("flow") {
        return flow_command(cursor);
    }
    // `create port meter` begins like `create PORT` of a port named so, which never goes on with
    // `meter`.
    if cursor.ahead().take(3).eq(["create", "port", "meter"]) {
        cursor.advance();
        return meter::create(cursor);
    }
    for (word, rest) in FIRST_WORDS {
        if cursor.keyword(word) {
            return rest(cursor);
        }
    }
    flow_command(cursor)
}

fn flow_command(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    let Some(index) = cursor.choose(COMMANDS, |(name, _)| name) else {
        return Err(cursor.unexpected());
    };
    let port = port(cursor)?;
    COMMANDS[index].1(cursor, port)
}

fn port(cursor: &mut Cursor<'_>) -> Result<PortRef, SyntaxError> {
    match cursor.value(FieldKind::Port, 0)? {
        Argument::Port(port) => Ok(port),
        _ => Err(cursor.unexpected()),
    }
}

pub(super) fn number32(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    // The bound makes the conversion exact.
    cursor.number(u32::MAX.into()).map(|number| number as u32)
}

/// Words for no and yes, in turn.
const BOOLEANS: &[&str] = &["0", "1", "no", "yes", "false", "true", "off", "on"];

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
    let index = cursor.choose(BOOLEANS, |name| name);
    let index = index.ok_or_else(|| cursor.unexpected())?;
    Ok(index % 2 == 1)
}

/// At least one `WORD VALUE`.
fn many<T>(
    cursor: &mut Cursor<'_>,
    word: &'static str,
    read: impl Fn(&mut Cursor<'_>) -> Result<T, SyntaxError>,
) -> Result<Vec<T>, SyntaxError> {
    cursor.require(word)?;
    let mut values = vec![read(cursor)?];
    while cursor.keyword(word) {
        values.push(read(cursor)?);
    }
    Ok(values)
}

/// Whether the present token is one of a direction; if so it is passed and noted.
fn direction(cursor: &mut Cursor<'_>, to: &mut Direction) -> bool {
    for (word, on) in [
        ("ingress", &mut to.ingress),
        ("egress", &mut to.egress),
        ("transfer", &mut to.transfer),
    ] {
        if cursor.keyword(word) {
            *on = true;
            return true;
        }
    }
    false
}

/// `action` and the single action behind it.
fn single_action(cursor: &mut Cursor<'_>) -> Result<Action, SyntaxError> {
    let place = cursor.place();
    cursor.require("action")?;
    let mut actions = actions(cursor, MAX_ACTIONS)?;
    actions.retain(|action| *action != Action::Void);
    match (actions.pop(), actions.is_empty()) {
        (Some(action), true) => Ok(action),
        _ => Err(cursor.error_at(place, SyntaxErrorKind::NotOneAction)),
    }
}

/// What is done with indirect actions. On a queue, `postpone` is where that attribute is kept.
fn indirect(
    cursor: &mut Cursor<'_>,
    mut postpone: Option<&mut bool>,
) -> Result<IndirectCommand, SyntaxError> {
    let mut attribute = |cursor: &mut Cursor<'_>| match &mut postpone {
        Some(postpone) if cursor.keyword("postpone") => {
            **postpone = boolean(cursor)?;
            Ok(true)
        }
        _ => Ok(false),
    };
    if cursor.keyword("create") {
        let (mut id, mut to) = (None, Direction::default());
        loop {
            if cursor.keyword("action_id") {
                id = Some(number32(cursor)?);
            } else if !direction(cursor, &mut to) && !attribute(cursor)? {
                break;
            }
        }
        let action = single_action(cursor)?;
        return Ok(IndirectCommand::Create(IndirectAction {
            id,
            direction: to,
            action,
        }));
    }
    if cursor.keyword("update") {
        let id = number32(cursor)?;
        while attribute(cursor)? {}
        let action = single_action(cursor)?;
        return Ok(IndirectCommand::Update { id, action });
    }
    if cursor.keyword("destroy") {
        while attribute(cursor)? {}
        return many(cursor, "action_id", number32).map(IndirectCommand::Destroy);
    }
    cursor.require("query")?;
    let id = number32(cursor)?;
    while attribute(cursor)? {}
    Ok(IndirectCommand::Query { id })
}

/// Attributes of `flow configure`, and where each is kept.
type Attribute = fn(&mut FlowConfiguration) -> &mut u32;
const CONFIGURATION: &[(&str, Attribute)] = &[
    ("queues_size", |to| &mut to.queues_size),
    ("counters_number", |to| &mut to.counters_number),
    ("aging_counters_number", |to| &mut to.aging_counters_number),
    ("meters_number", |to| &mut to.meters_number),
    ("conn_tracks_number", |to| &mut to.conn_tracks_number),
    ("flags", |to| &mut to.flags),
];

fn configure(cursor: &mut Cursor<'_>, port: PortRef) -> Result<Command, SyntaxError> {
    let mut configuration = FlowConfiguration::default();
    let mut given = false;
    loop {
        if cursor.keyword("queues_number") {
            // The bound makes the conversion exact.
            configuration.queues_number = cursor.number(u16::MAX.into())? as u16;
        } else if let Some(index) = cursor.choose(CONFIGURATION, |(name, _)| name) {
            *CONFIGURATION[index].1(&mut configuration) = number32(cursor)?;
        } else {
            break;
        }
        given = true;
    }
    match given {
        true => Ok(Command::Configure {
            port,
            configuration,
        }),
        false => Err(cursor.unexpected()),
    }
}

//! The grammar of commands. What a rule is made of is in `rule`.

use super::Cursor;
use super::error::SyntaxError;
use super::rule::rule;
use crate::model::{Argument, FieldKind, PortRef, Rule};

/// A `flow` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create a rule on a port.
    Create {
        /// The port.
        port: PortRef,
        /// The rule.
        rule: Rule,
    },
    /// Say whether the rule could be created, without creating it.
    Validate {
        /// The port.
        port: PortRef,
        /// The rule.
        rule: Rule,
    },
    /// Destroy rules of a port by their ids.
    Destroy {
        /// The port.
        port: PortRef,
        /// At least one rule id.
        rules: Vec<u64>,
    },
    /// Destroy all rules of a port.
    Flush {
        /// The port.
        port: PortRef,
    },
    /// List the rules of a port.
    List {
        /// The port.
        port: PortRef,
        /// Groups to list; all if empty.
        groups: Vec<u32>,
    },
    /// Read the counter of a rule.
    QueryCount {
        /// The port.
        port: PortRef,
        /// The rule id.
        rule: u64,
    },
}

/// Names of the commands, and how each goes on behind the port.
type Rest = fn(&mut Cursor<'_>, PortRef) -> Result<Command, SyntaxError>;
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
        cursor.require("rule")?;
        let mut rules = vec![cursor.number(u64::MAX)?];
        while cursor.keyword("rule") {
            rules.push(cursor.number(u64::MAX)?);
        }
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
        cursor.require("count")?;
        Ok(Command::QueryCount { port, rule })
    }),
];

/// Reads a command. The rule in it is not validated.
pub fn parse(text: &str) -> Result<Command, SyntaxError> {
    let mut cursor = Cursor::new(text)?;
    let command = command(&mut cursor)?;
    cursor.require_end()?;
    Ok(command)
}

/// Reads a rule, the part of a `create` command behind the port. It is not validated.
pub fn parse_rule(text: &str) -> Result<Rule, SyntaxError> {
    let mut cursor = Cursor::new(text)?;
    let rule = rule(&mut cursor)?;
    cursor.require_end()?;
    Ok(rule)
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

pub(super) fn command(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    cursor.keyword("flow");
    let Some(index) = cursor.choose(COMMANDS, |(name, _)| name) else {
        return Err(cursor.unexpected());
    };
    match cursor.value(FieldKind::Port, 0)? {
        Argument::Port(port) => COMMANDS[index].1(cursor, port),
        _ => Err(cursor.unexpected()),
    }
}

pub(super) fn number32(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    // The bound makes the conversion exact.
    cursor.number(u32::MAX.into()).map(|number| number as u32)
}

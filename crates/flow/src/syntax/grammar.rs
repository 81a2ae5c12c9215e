//! The grammar: commands and rules. Items, fields, actions and arguments come from the model's
//! tables; nothing here names one.

use super::Cursor;
use super::error::{SyntaxError, SyntaxErrorKind};
use crate::model::{
    Access, Action, Argument, Attributes, ErasedMatch, FieldKind, FieldRow, Item, ItemRow,
    MAX_ACTIONS, MAX_ITEMS, PortRef, Rule, UNSUPPORTED_ACTIONS, UNSUPPORTED_ITEMS,
};

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
        Argument::Bits(_) | Argument::Ip(_) => Err(cursor.unexpected()),
    }
}

fn number32(cursor: &mut Cursor<'_>) -> Result<u32, SyntaxError> {
    // The bound makes the conversion exact.
    cursor.number(u32::MAX.into()).map(|number| number as u32)
}

/// Names of the attributes, and how each is set.
type SetAttribute = fn(&mut Cursor<'_>, &mut Attributes) -> Result<(), SyntaxError>;
const ATTRIBUTES: &[(&str, SetAttribute)] = &[
    ("group", |cursor, to| {
        number32(cursor).map(|group| to.group = group)
    }),
    ("priority", |cursor, to| {
        number32(cursor).map(|priority| to.priority = priority)
    }),
    ("ingress", |_, to| {
        to.ingress = true;
        Ok(())
    }),
    ("egress", |_, to| {
        to.egress = true;
        Ok(())
    }),
    ("transfer", |_, to| {
        to.transfer = true;
        Ok(())
    }),
];

fn rule(cursor: &mut Cursor<'_>) -> Result<Rule, SyntaxError> {
    let mut rule = Rule::default();
    while let Some(index) = cursor.choose(ATTRIBUTES, |(name, _)| name) {
        ATTRIBUTES[index].1(cursor, &mut rule.attributes)?;
    }
    cursor.require("pattern")?;
    while !cursor.keyword("end") {
        if rule.pattern.len() == MAX_ITEMS {
            return Err(cursor.error(SyntaxErrorKind::TooManyItems));
        }
        rule.pattern.push(item(cursor)?);
    }
    cursor.require("actions")?;
    while !cursor.keyword("end") {
        if rule.actions.len() == MAX_ACTIONS {
            return Err(cursor.error(SyntaxErrorKind::TooManyActions));
        }
        rule.actions.push(action(cursor)?);
    }
    Ok(rule)
}

/// The entry of `names` that the present token is.
fn known(cursor: &Cursor<'_>, names: &[&'static str]) -> Option<&'static str> {
    let token = cursor.peek()?;
    names.iter().find(|name| **name == token).copied()
}

/// What an item has been given so far.
#[derive(Default)]
struct Given {
    spec: bool,
    mask: bool,
    /// Token of the first mask, prefix or upper bound.
    bound: Option<usize>,
}

/// Ways to give a field a value.
const PARAMETERS: &[&str] = &["is", "spec", "last", "mask", "prefix"];
const PORT_PARAMETERS: &[&str] = &["is", "spec"];

/// One item up to and with the `/` behind it.
fn item(cursor: &mut Cursor<'_>) -> Result<Item, SyntaxError> {
    let Some(index) = cursor.choose(Item::TABLE, |row| row.name) else {
        return Err(match known(cursor, UNSUPPORTED_ITEMS) {
            Some(name) => cursor.error(SyntaxErrorKind::UnsupportedItem { name }),
            None => cursor.unexpected(),
        });
    };
    let row = &Item::TABLE[index];
    let mut item = (row.new)();
    let mut given = Given::default();
    while let Some(index) = cursor.choose(row.fields, |field| field.name) {
        field(cursor, &mut item, row, &row.fields[index], &mut given)?;
    }
    cursor.require("/")?;
    match given {
        Given {
            spec: false,
            bound: Some(place),
            ..
        } => {
            return Err(cursor.error_at(place, SyntaxErrorKind::NoSpec { item: row.name }));
        }
        Given {
            spec: true,
            mask: false,
            ..
        } => set_default_mask(&mut item, row),
        _ => {}
    }
    Ok(item)
}

/// The parameter and the value of a field.
fn field(
    cursor: &mut Cursor<'_>,
    item: &mut Item,
    row: &'static ItemRow,
    field: &'static FieldRow,
    given: &mut Given,
) -> Result<(), SyntaxError> {
    if matches!(field.access, Access::Port) {
        if cursor.choose(PORT_PARAMETERS, |name| name).is_none() {
            return Err(cursor.unexpected());
        }
        if let Argument::Port(port) = cursor.value(field.kind, field.bits)? {
            item.set_port(Some(port));
        }
        return Ok(());
    }
    let place = cursor.place();
    let Some(parameter) = cursor.choose(PARAMETERS, |name| name) else {
        return Err(cursor.unexpected());
    };
    let parameter = PARAMETERS[parameter];
    let bits = if parameter == "prefix" {
        let length = cursor.number(field.bits.into())?;
        crate::model::prefix_mask(field.bits, length as u32)
    } else {
        match cursor.value(field.kind, field.bits)? {
            Argument::Bits(bits) => bits,
            Argument::Ip(_) | Argument::Port(_) => return Err(cursor.unexpected()),
        }
    };
    let all = crate::model::low_mask(field.bits);
    let change: &dyn Fn(&mut ErasedMatch, u128, u128) = match parameter {
        "is" => &|value, bits, all| {
            value.spec = value.spec & !all | bits;
            value.mask |= all;
        },
        "spec" => &|value, bits, all| value.spec = value.spec & !all | bits,
        "last" => &|value, bits, _| value.last = Some(bits),
        _ => &|value, bits, all| value.mask = value.mask & !all | bits,
    };
    given.spec |= matches!(parameter, "is" | "spec");
    given.mask |= matches!(parameter, "is" | "mask" | "prefix");
    if !matches!(parameter, "is" | "spec") && given.bound.is_none() {
        given.bound = Some(place);
    }
    match &field.access {
        Access::Alias(_) if parameter == "last" => {
            let kind = SyntaxErrorKind::RangeOverBits {
                item: row.name,
                field: field.name,
            };
            return Err(cursor.error_at(place, kind));
        }
        Access::Alias(parts) => {
            for part in *parts {
                let all = crate::model::low_mask(part.bits) << part.field_shift;
                let bits = bits >> part.alias_shift << part.field_shift & all;
                update(item, row, part.field, |value| change(value, bits, all));
            }
        }
        Access::Field { .. } => update(item, row, field.name, |value| change(value, bits, all)),
        Access::Port => {}
    }
    Ok(())
}

/// Changes the value of the field of this name.
fn update(item: &mut Item, row: &ItemRow, name: &str, change: impl Fn(&mut ErasedMatch)) {
    for field in row.fields.iter().filter(|field| field.name == name) {
        if let Access::Field { get, set } = field.access
            && let Some(mut value) = get(item)
        {
            change(&mut value);
            set(item, value);
        }
    }
}

/// Gives all fields of the item the mask that rte_flow has for items without one.
fn set_default_mask(item: &mut Item, row: &ItemRow) {
    for field in row.fields {
        update(item, row, field.name, |value| {
            value.mask = field.default_mask & crate::model::low_mask(field.bits);
        });
    }
}

/// One action up to and with the `/` behind it.
fn action(cursor: &mut Cursor<'_>) -> Result<Action, SyntaxError> {
    let place = cursor.place();
    let Some(index) = cursor.choose(Action::TABLE, |row| row.name) else {
        return Err(match known(cursor, UNSUPPORTED_ACTIONS) {
            Some(name) => cursor.error(SyntaxErrorKind::UnsupportedAction { name }),
            None => cursor.unexpected(),
        });
    };
    let row = &Action::TABLE[index];
    let mut arguments = vec![None; row.arguments.len()];
    while let Some(index) = cursor.choose(row.arguments, |argument| argument.name) {
        let argument = &row.arguments[index];
        arguments[index] = Some(cursor.value(argument.kind, argument.bits)?);
    }
    cursor.require("/")?;
    (row.build)(&arguments).map_err(|error| cursor.error_at(place, error.into()))
}

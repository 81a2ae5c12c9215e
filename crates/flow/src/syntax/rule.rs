//! Rules: attributes, items and actions. Items, fields, actions and arguments come from the model's
//! tables; nothing here names one.

use super::Cursor;
use super::error::{SyntaxError, SyntaxErrorKind};
use super::grammar::number32;
use crate::model::{
    Access, Action, Argument, ArgumentRow, Attributes, CtState, ErasedMatch, FieldKind, FieldRow,
    FieldValue, Item, ItemRow, MAX_ACTIONS, MAX_ITEMS, MAX_SAMPLE_ACTIONS, Rule, Spelling,
    UNSUPPORTED_ACTIONS, UNSUPPORTED_ITEMS,
};

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

pub(super) fn rule(cursor: &mut Cursor<'_>) -> Result<Rule, SyntaxError> {
    let mut rule = Rule::default();
    while let Some(index) = cursor.choose(ATTRIBUTES, |(name, _)| name) {
        ATTRIBUTES[index].1(cursor, &mut rule.attributes)?;
    }
    cursor.require("pattern")?;
    rule.pattern = items(cursor, "end")?;
    cursor.require("actions")?;
    rule.actions = actions(cursor, MAX_ACTIONS)?;
    Ok(rule)
}

/// Items up to and with the word that ends them.
pub(super) fn items(cursor: &mut Cursor<'_>, end: &'static str) -> Result<Vec<Item>, SyntaxError> {
    let mut items = Vec::new();
    while !cursor.keyword(end) {
        if items.len() == MAX_ITEMS {
            return Err(cursor.error(SyntaxErrorKind::TooManyItems));
        }
        items.push(item(cursor)?);
    }
    Ok(items)
}

/// At most `max` actions up to and with the `end` behind them.
pub(super) fn actions(cursor: &mut Cursor<'_>, max: usize) -> Result<Vec<Action>, SyntaxError> {
    let mut actions = Vec::new();
    while !cursor.keyword("end") {
        if actions.len() == max {
            return Err(cursor.error(SyntaxErrorKind::TooManyActions { max }));
        }
        actions.push(action(cursor)?);
    }
    Ok(actions)
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
    /// Value and mask of the bytes of an item that has some.
    bytes: Option<Vec<u8>>,
    bytes_mask: Option<Vec<u8>>,
}

/// Ways to give a field a value.
const PARAMETERS: &[&str] = &["is", "spec", "last", "mask", "prefix"];
const PORT_PARAMETERS: &[&str] = &["is", "spec"];
const BYTES_PARAMETERS: &[&str] = &["is", "spec", "mask"];

/// One item up to and with the `/` behind it.
fn item(cursor: &mut Cursor<'_>) -> Result<Item, SyntaxError> {
    let place = cursor.place();
    let Some(index) = cursor.choose(Item::TABLE, |row| row.name) else {
        return Err(match known(cursor, UNSUPPORTED_ITEMS) {
            Some(name) => cursor.error(SyntaxErrorKind::UnsupportedItem { name }),
            None => cursor.unexpected(),
        });
    };
    let row = &Item::TABLE[index];
    let mut item = (row.new)();
    let mut given = Given::default();
    let bare = row
        .fields
        .iter()
        .find(|field| field.spelling == Spelling::Bare);
    loop {
        if let Some(index) = cursor.choose(row.fields, |field| field.name) {
            field(cursor, &mut item, row, &row.fields[index], &mut given)?;
            continue;
        }
        let Some(field) = bare else { break };
        let place = cursor.place();
        match cursor.choose(PARAMETERS, |name| name) {
            Some(parameter) => {
                let parameter = (PARAMETERS[parameter], place);
                value(cursor, &mut item, row, field, &mut given, parameter)?;
            }
            None => break,
        }
    }
    cursor.require("/")?;
    if let (false, Some(place)) = (given.spec, given.bound) {
        return Err(cursor.error_at(place, SyntaxErrorKind::NoSpec { item: row.name }));
    }
    if given.spec && !given.mask {
        if row.fields.iter().any(|field| field.default_mask.is_none()) {
            let kind = SyntaxErrorKind::NoDefaultMask { item: row.name };
            return Err(cursor.error_at(place, kind));
        }
        set_default_mask(&mut item, row);
    }
    set_bytes(&mut item, row, given).map_err(|kind| cursor.error_at(place, kind))?;
    Ok(item)
}

/// Gives the item the bytes that were read for it.
fn set_bytes(item: &mut Item, row: &ItemRow, given: Given) -> Result<(), SyntaxErrorKind> {
    if given.bytes.is_none() && given.bytes_mask.is_none() {
        return Ok(());
    }
    let spec = given.bytes.unwrap_or_default();
    for field in row.fields {
        let Access::Bytes {
            set, alias: false, ..
        } = field.access
        else {
            continue;
        };
        let mask = match (&given.bytes_mask, given.mask, field.default_mask) {
            (Some(mask), ..) => mask.clone(),
            (None, false, Some(1..)) => vec![0xff; spec.len()],
            (None, ..) => vec![0; spec.len()],
        };
        set(item, spec.clone(), mask)?;
    }
    Ok(())
}

/// The parameter and the value of a field.
fn field(
    cursor: &mut Cursor<'_>,
    item: &mut Item,
    row: &'static ItemRow,
    field: &'static FieldRow,
    given: &mut Given,
) -> Result<(), SyntaxError> {
    let place = cursor.place();
    let parameters = match field.access {
        Access::Port => PORT_PARAMETERS,
        Access::Bytes { .. } => BYTES_PARAMETERS,
        Access::Field { .. } | Access::Alias(_) => PARAMETERS,
    };
    let Some(index) = cursor.choose(parameters, |name| name) else {
        return Err(cursor.unexpected());
    };
    let parameter = parameters[index];
    match field.access {
        Access::Port => {
            if let Argument::Port(port) = cursor.value(field.kind, field.bits)? {
                item.set_port(Some(port));
            }
            Ok(())
        }
        Access::Bytes { .. } => {
            if let Argument::Bytes(bytes) = cursor.value(field.kind, field.bits)? {
                let to = match parameter {
                    "mask" => &mut given.bytes_mask,
                    _ => &mut given.bytes,
                };
                let length = bytes.len();
                *to = Some(bytes);
                if parameter == "is" {
                    given.bytes_mask = Some(vec![0xff; length]);
                }
                given.note(parameter, place);
            }
            Ok(())
        }
        Access::Field { .. } | Access::Alias(_) => {
            value(cursor, item, row, field, given, (parameter, place))
        }
    }
}

impl Given {
    /// Remembers that a parameter was given at a token.
    fn note(&mut self, parameter: &str, place: usize) {
        self.spec |= matches!(parameter, "is" | "spec");
        self.mask |= matches!(parameter, "is" | "mask" | "prefix");
        if !matches!(parameter, "is" | "spec") && self.bound.is_none() {
            self.bound = Some(place);
        }
    }
}

/// Value and mask that the names of a connection's state are behind `is`.
fn signs(cursor: &mut Cursor<'_>, kind: FieldKind, parameter: &str) -> Option<(u128, u128)> {
    if kind != FieldKind::CtState || parameter != "is" {
        return None;
    }
    let (value, mask) = cursor.peek().and_then(CtState::from_signs)?;
    cursor.advance();
    Some((value.to_bits(), mask.to_bits()))
}

/// The value of a field behind its parameter, which stands at the token that goes with it.
fn value(
    cursor: &mut Cursor<'_>,
    item: &mut Item,
    row: &'static ItemRow,
    field: &'static FieldRow,
    given: &mut Given,
    (parameter, place): (&'static str, usize),
) -> Result<(), SyntaxError> {
    let mut all = crate::model::low_mask(field.bits);
    let bits = if parameter == "prefix" {
        let length = cursor.number(field.bits.into())?;
        crate::model::prefix_mask(field.bits, length as u32)
    } else if let Some((value, mask)) = signs(cursor, field.kind, parameter) {
        all = mask;
        value
    } else {
        match cursor.value(field.kind, field.bits)? {
            Argument::Bits(bits) => bits,
            _ => return Err(cursor.unexpected()),
        }
    };
    let change: &dyn Fn(&mut ErasedMatch, u128, u128) = match parameter {
        "is" => &|value, bits, all| {
            value.spec = value.spec & !all | bits;
            value.mask |= all;
        },
        "spec" => &|value, bits, all| value.spec = value.spec & !all | bits,
        "last" => &|value, bits, _| value.last = Some(bits),
        _ => &|value, bits, all| value.mask = value.mask & !all | bits,
    };
    given.note(parameter, place);
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
        Access::Port | Access::Bytes { .. } => {}
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
            let mask = field.default_mask.unwrap_or(0);
            value.mask = mask & crate::model::low_mask(field.bits);
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
    if let Some((slot, bare)) = arguments.first_mut().zip(row.arguments.first())
        && bare.bare
    {
        *slot = Some(argument(cursor, bare)?);
    } else {
        while let Some(index) = cursor.choose(row.arguments, |argument| argument.name) {
            let argument_row = &row.arguments[index];
            if argument_row.kind == FieldKind::Defined {
                let slot = index.saturating_sub(1);
                arguments[slot] = Some(defined(cursor, row.name)?);
            } else {
                arguments[index] = Some(argument(cursor, argument_row)?);
            }
        }
    }
    cursor.require("/")?;
    if arguments.iter().all(Option::is_none)
        && let Some(action) = cursor
            .definitions()
            .and_then(|definitions| definitions.action(row.name))
    {
        return Ok(action.clone());
    }
    (row.build)(&arguments).map_err(|error| cursor.error_at(place, error.into()))
}

/// What the number of a definition stands for.
fn defined(cursor: &mut Cursor<'_>, name: &'static str) -> Result<Argument, SyntaxError> {
    let place = cursor.place();
    let index = number32(cursor)?;
    let definitions = cursor.definitions();
    definitions
        .and_then(|definitions| definitions.argument(name, index))
        .ok_or_else(|| cursor.error_at(place, SyntaxErrorKind::Undefined { name, index }))
}

/// The value of an argument, of as many tokens as it has.
fn argument(cursor: &mut Cursor<'_>, row: &ArgumentRow) -> Result<Argument, SyntaxError> {
    match row.kind {
        FieldKind::Flag => Ok(Argument::Bits(1)),
        FieldKind::Actions => cursor
            .nest(|cursor| actions(cursor, MAX_SAMPLE_ACTIONS))
            .map(Argument::Actions),
        FieldKind::NameSet(names) => {
            let mut bits = 0;
            while !cursor.keyword("end") {
                match cursor.choose(names, |(name, _)| name) {
                    Some(index) => bits |= u128::from(names[index].1),
                    None => return Err(cursor.unexpected()),
                }
            }
            Ok(Argument::Bits(bits))
        }
        FieldKind::Numbers => {
            let mut numbers = Vec::new();
            while !cursor.keyword("end") {
                // The bound makes the conversion exact.
                numbers.push(cursor.number(u16::MAX.into())? as u16);
            }
            Ok(Argument::Numbers(numbers))
        }
        kind => cursor.value(kind, row.bits),
    }
}

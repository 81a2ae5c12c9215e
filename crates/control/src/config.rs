//! The configuration file: TOML with one `[node]` and any number of `[[network]]`, `[[subnet]]`, `[[router]]`, `[[floating-ip]]`, `[[load-balancer]]`, `[[volume]]`,
//! `[[port]]`, `[[controller]]`, `[[mirror]]`, `[[exporter]]` and `[[flow]]`, whose fields are those of the object model. Reading
//! goes on after a fault and reports each with its line. It changes nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use crate::decode::{Fault, show};
use crate::error::Error;
use crate::inventory::Inventory;
use crate::model::{Any, Kind, Marks, Origin};
use crate::settings::{DaemonSettings, Settings, SwitchSettings};

/// An object as the file has it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The object; its origin is the file.
    pub object: Any,
    /// Whether the file gives the UUID, rather than leaving it to the control plane.
    pub has_uuid: bool,
    /// Line where it begins, from 1.
    pub line: usize,
}

/// A table of the file with the line of each of its keys.
struct Table {
    map: Map<String, Value>,
    lines: BTreeMap<String, usize>,
    line: usize,
}

/// Reads the objects of a file's text. All faults of all objects come back at once.
pub fn parse(text: &str) -> Result<Vec<Entry>, Error> {
    read(text).map(|(entries, _)| entries)
}

/// Reads a file's text: its objects and its settings. All faults come back at once.
pub fn read(text: &str) -> Result<(Vec<Entry>, Settings), Error> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_at = |offset: usize| ends.partition_point(|end| *end < offset) + 1;
    let document = DeTable::parse(text).map_err(|error| Error::Syntax {
        line: line_at(error.span().map_or(0, |s| s.start)),
        message: error.message().trim().replace('\n', ", "),
    })?;
    let mut faults = Vec::new();
    let mut entries = Vec::new();
    let mut faulty = BTreeSet::new();
    let mut settings = Settings::default();
    for (key, value) in document.get_ref() {
        let line = line_at(key.span().start);
        if let "daemon" | "switch" = key.get_ref().as_ref() {
            read_settings(
                key.get_ref(),
                value.get_ref(),
                line,
                &line_at,
                &mut settings,
                &mut faults,
            );
            continue;
        }
        let Some(kind) = Kind::from_word(key.get_ref()) else {
            let kinds = Kind::ALL.iter().map(|k| k.word());
            let words: Vec<_> = kinds.chain(["daemon", "switch"]).collect();
            faults.push(Fault {
                object: "configuration".to_owned(),
                field: key.get_ref().to_string(),
                found: "not a known section".to_owned(),
                expected: format!("one of {}", words.join(", ")),
                line: Some(line),
            });
            continue;
        };
        for (i, table) in tables(kind, value.get_ref(), line, &line_at, &mut faults)
            .into_iter()
            .enumerate()
        {
            let name = table
                .map
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            match read_entry(kind, i, table) {
                Ok(entry) => entries.push(entry),
                Err(found) => {
                    faulty.insert((kind, name));
                    faults.extend(found);
                }
            }
        }
    }
    check_references(&entries, &faulty, &mut faults);
    if faults.is_empty() {
        entries.sort_by_key(|e| (e.object.kind(), e.line));
        return Ok((entries, settings));
    }
    faults.sort_by_key(|f| f.line);
    Err(Error::Invalid(faults))
}

/// A section that is no object.
fn read_settings(
    section: &str,
    value: &DeValue<'_>,
    line: usize,
    line_at: &dyn Fn(usize) -> usize,
    settings: &mut Settings,
    faults: &mut Vec<Fault>,
) {
    let DeValue::Table(table) = value else {
        faults.push(Fault {
            object: "configuration".to_owned(),
            field: section.to_owned(),
            found: "not a table".to_owned(),
            expected: format!("one section [{section}]"),
            line: Some(line),
        });
        return;
    };
    let table = read_table(table, line, line_at);
    let line_of = |field: &str| Some(table.lines.get(field).copied().unwrap_or(table.line));
    let done = if section == "daemon" {
        DaemonSettings::decode(&table.map, &line_of).map(|daemon| settings.daemon = daemon)
    } else {
        SwitchSettings::decode(&table.map, &line_of).map(|switch| settings.switch = switch)
    };
    faults.extend(done.err().into_iter().flatten());
}

/// The tables of a section: one for the node, a list for everything else.
fn tables(
    kind: Kind,
    value: &DeValue<'_>,
    line: usize,
    line_at: &dyn Fn(usize) -> usize,
    faults: &mut Vec<Fault>,
) -> Vec<Table> {
    let expected = if kind == Kind::Node {
        format!("one section [{kind}]")
    } else {
        format!("sections [[{kind}]]")
    };
    let mut wrong = |line, found: &str| {
        faults.push(Fault {
            object: "configuration".to_owned(),
            field: kind.word().to_owned(),
            found: found.to_owned(),
            expected: expected.clone(),
            line: Some(line),
        });
    };
    match (kind, value) {
        (Kind::Node, DeValue::Table(table)) => vec![read_table(table, line, line_at)],
        (Kind::Node, _) => {
            wrong(line, "not a table");
            Vec::new()
        }
        (_, DeValue::Array(items)) => {
            let mut tables = Vec::new();
            for item in items.iter() {
                let line = line_at(item.span().start);
                match item.get_ref() {
                    DeValue::Table(table) => tables.push(read_table(table, line, line_at)),
                    _ => wrong(line, "a list of something else"),
                }
            }
            tables
        }
        (_, DeValue::Table(_)) => {
            wrong(line, "a single table");
            Vec::new()
        }
        _ => {
            wrong(line, "not a list of tables");
            Vec::new()
        }
    }
}

fn read_table(table: &DeTable<'_>, line: usize, line_at: &dyn Fn(usize) -> usize) -> Table {
    let mut read = Table {
        map: Map::new(),
        lines: BTreeMap::new(),
        line,
    };
    for (key, value) in table {
        read.lines
            .insert(key.get_ref().to_string(), line_at(key.span().start));
        read.map
            .insert(key.get_ref().to_string(), to_json(value.get_ref()));
    }
    read
}

/// TOML values as the JSON values that the object readers take. A date has no place in any object
/// and arrives as its text, which no field accepts.
fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let signed = i64::from_str_radix(&digits, number.radix()).map(Value::from);
            signed
                .or_else(|_| u64::from_str_radix(&digits, number.radix()).map(Value::from))
                .unwrap_or(Value::from(digits))
        }
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(k, v)| (k.get_ref().to_string(), to_json(v.get_ref())))
                .collect(),
        ),
    }
}

fn read_entry(kind: Kind, i: usize, mut table: Table) -> Result<Entry, Vec<Fault>> {
    let label = match (
        table.map.get("name").and_then(Value::as_str),
        table.map.get("port").and_then(Value::as_str),
    ) {
        (Some(name), _) => format!("{kind} {name}"),
        (None, Some(port)) if kind == Kind::Flow => format!("flow #{} (port {port})", i + 1),
        _ if kind == Kind::Node => "node".to_owned(),
        _ => format!("{kind} #{}", i + 1),
    };
    let line_of = |field: &str| Some(table.lines.get(field).copied().unwrap_or(table.line));
    let mut marks = Marks::new(Origin::Config);
    let mut faults = Vec::new();
    let given = table.map.remove("uuid");
    let has_uuid = given.is_some();
    if let Some(given) = given {
        match given.as_str().map(Uuid::parse_str) {
            Some(Ok(uuid)) => marks.uuid = uuid,
            _ => faults.push(Fault {
                object: label.clone(),
                field: "uuid".to_owned(),
                found: show(&given),
                expected: "a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8".to_owned(),
                line: line_of("uuid"),
            }),
        }
    }
    match Any::decode(kind, &label, &table.map, &line_of, marks) {
        Ok(object) if faults.is_empty() => Ok(Entry {
            object,
            has_uuid,
            line: table.line,
        }),
        Ok(_) => Err(faults),
        Err(found) => {
            faults.extend(found);
            Err(faults)
        }
    }
}

/// Puts the objects together in order of creation, and notes what does not fit. A reference to an
/// object that is `faulty` itself is no second fault.
fn check_references(entries: &[Entry], faulty: &BTreeSet<(Kind, String)>, faults: &mut Vec<Fault>) {
    let mut inventory = Inventory::default();
    let mut in_order: Vec<&Entry> = entries.iter().collect();
    in_order.sort_by_key(|e| (e.object.kind(), unnumbered(&e.object), e.line));
    for entry in in_order {
        let line = Some(entry.line);
        let mut note = |error: Error| {
            let (object, field) = (entry.object.label(), String::new());
            match error {
                Error::Invalid(found) => {
                    faults.extend(found.into_iter().map(|f| Fault { line, ..f }))
                }
                Error::Dangling { name, kind, .. } if faulty.contains(&(kind, name.clone())) => {}
                Error::Dangling {
                    object,
                    field,
                    name,
                    kind,
                } => faults.push(Fault {
                    object,
                    field: field.to_owned(),
                    found: format!("{name:?}"),
                    expected: format!("the name of a {kind} of this file"),
                    line,
                }),
                Error::Taken {
                    object,
                    field,
                    found,
                    owner,
                } => faults.push(Fault {
                    object,
                    field: field.to_owned(),
                    found: format!("{found}, which {owner} has"),
                    expected: "one that is free".to_owned(),
                    line,
                }),
                other => faults.push(Fault {
                    object,
                    field,
                    found: other.to_string(),
                    expected: "no such fault".to_owned(),
                    line,
                }),
            }
        };
        let object = match inventory.number(entry.object.clone()) {
            Ok(object) => object,
            Err(error) => {
                note(error);
                continue;
            }
        };
        if inventory.get(object.kind(), &object.name()).is_some() {
            faults.push(Fault {
                object: object.label(),
                field: "name".to_owned(),
                found: "used twice".to_owned(),
                expected: format!("a name of its own for every {}", object.kind()),
                line,
            });
            continue;
        }
        if let Err(error) = inventory.admit(&object) {
            note(error);
        }
        inventory.put(object);
    }
    let node_line = entries
        .iter()
        .find(|e| e.object.kind() == Kind::Node)
        .map(|e| e.line);
    match inventory.check_whole() {
        Ok(()) => {}
        Err(Error::Invalid(found)) => faults.extend(found.into_iter().map(|f| Fault {
            line: node_line,
            ..f
        })),
        Err(Error::Dangling { name, kind, .. }) if faulty.contains(&(kind, name.clone())) => {}
        Err(Error::Dangling {
            object,
            field,
            name,
            ..
        }) => faults.push(Fault {
            object,
            field: field.to_owned(),
            found: format!("{name:?}"),
            expected: "the name of a port of this file".to_owned(),
            line: node_line,
        }),
        Err(_) => {}
    }
}

/// Objects with a number of their own are admitted before those that take what is left.
pub(crate) fn unnumbered(object: &Any) -> bool {
    match object {
        Any::Port(port) => port.spec.index.is_none(),
        Any::Flow(flow) => flow.spec.id.is_none(),
        _ => false,
    }
}

/// The objects as a file that [`parse`] reads back. Volatile objects are left out.
pub fn render(inventory: &Inventory, settings: &Settings) -> String {
    let mut text = String::from("# Written by `sumeru config save`.\n");
    for (section, fields) in settings.sections() {
        text.push_str(&format!("\n[{section}]\n"));
        for (key, value) in fields {
            text.push_str(&format!("{key} = {}\n", inline(&value)));
        }
    }
    let node: Any = Any::Node(inventory.node().clone());
    for object in std::iter::once(&node)
        .chain(inventory.all())
        .filter(|o| !o.volatile())
    {
        let kind = object.kind();
        let section = if kind == Kind::Node {
            format!("\n[{kind}]\n")
        } else {
            format!("\n[[{kind}]]\n")
        };
        text.push_str(&section);
        if kind != Kind::Node {
            text.push_str(&format!("uuid = \"{}\"\n", object.uuid()));
        }
        for (key, value) in object.spec_map() {
            text.push_str(&format!("{key} = {}\n", inline(&value)));
        }
    }
    text
}

/// A JSON value as an inline TOML value. Strings use TOML's basic form, whose escapes include
/// JSON's; specifications hold no null and no float.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(inline).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(map) => {
            let fields: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k} = {}", inline(v)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        // JSON leaves DEL as it is, TOML wants it escaped.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007F"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;

//! Rules and commands as text that parses back to the same.

use std::fmt;

use super::grammar::Command;
use super::value::ValueText;
use crate::model::{Access, Action, Argument, ErasedMatch, FieldKind, FieldRow, Item, Rule};

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { port, rule } => write!(f, "flow create {port} {rule}"),
            Self::Validate { port, rule } => write!(f, "flow validate {port} {rule}"),
            Self::Destroy { port, rules } => {
                write!(f, "flow destroy {port}")?;
                rules.iter().try_for_each(|rule| write!(f, " rule {rule}"))
            }
            Self::Flush { port } => write!(f, "flow flush {port}"),
            Self::List { port, groups } => {
                write!(f, "flow list {port}")?;
                groups
                    .iter()
                    .try_for_each(|group| write!(f, " group {group}"))
            }
            Self::QueryCount { port, rule } => write!(f, "flow query {port} {rule} count"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = &self.attributes;
        for (name, value) in [
            ("group", attributes.group),
            ("priority", attributes.priority),
        ] {
            if value != 0 {
                write!(f, "{name} {value} ")?;
            }
        }
        for (name, on) in [
            ("ingress", attributes.ingress),
            ("egress", attributes.egress),
            ("transfer", attributes.transfer),
        ] {
            if on {
                write!(f, "{name} ")?;
            }
        }
        f.write_str("pattern ")?;
        self.pattern
            .iter()
            .try_for_each(|item| write!(f, "{item} / "))?;
        f.write_str("end actions ")?;
        self.actions
            .iter()
            .try_for_each(|action| write!(f, "{action} / "))?;
        f.write_str("end")
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row();
        f.write_str(row.name)?;
        for field in row.fields {
            match field.access {
                Access::Field { get, .. } => {
                    if let Some(value) = get(self) {
                        print_match(field, &value, f)?;
                    }
                }
                Access::Port => {
                    if let Some(port) = self.port() {
                        write!(f, " {} is {port}", field.name)?;
                    }
                }
                Access::Alias(_) => {}
            }
        }
        Ok(())
    }
}

fn print_match(field: &FieldRow, value: &ErasedMatch, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if *value == ErasedMatch::default() {
        return Ok(());
    }
    let text = ValueText {
        kind: field.kind,
        bits: field.bits,
    };
    let print = |f: &mut fmt::Formatter<'_>, parameter, text: ValueText, bits| {
        write!(f, " {} {parameter} ", field.name)?;
        text.print(&Argument::Bits(bits), f)
    };
    match value.prefix_length(field.bits) {
        Some(length) if length == field.bits => print(f, "is", text, value.spec)?,
        Some(length) if length > 0 => {
            print(f, "spec", text, value.spec)?;
            write!(f, " {} prefix {length}", field.name)?;
        }
        _ => {
            print(f, "spec", text, value.spec)?;
            let kind = match field.kind {
                FieldKind::Unsigned => FieldKind::Hexadecimal,
                other => other,
            };
            print(f, "mask", ValueText { kind, ..text }, value.mask)?;
        }
    }
    match value.last {
        Some(last) => print(f, "last", text, last),
        None => Ok(()),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row();
        f.write_str(row.name)?;
        for argument in row.arguments {
            if let Some(value) = (argument.get)(self) {
                write!(f, " {} ", argument.name)?;
                ValueText {
                    kind: argument.kind,
                    bits: argument.bits,
                }
                .print(&value, f)?;
            }
        }
        Ok(())
    }
}

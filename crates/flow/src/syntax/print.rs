//! Rules, items and actions as text that parses back to the same.

use std::fmt;

use super::value::ValueText;
use crate::model::{
    Access, Action, Argument, CtState, ErasedMatch, FieldKind, FieldRow, FieldValue, Item, Rule,
    Spelling, write_hex,
};

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
                Access::Bytes { get, alias, .. } => {
                    if let Some((spec, mask)) = get(self)
                        && !alias
                        && !spec.is_empty()
                    {
                        print_bytes(field.name, spec, mask, f)?;
                    }
                }
                Access::Alias(_) => {}
            }
        }
        Ok(())
    }
}

fn print_bytes(name: &str, spec: &[u8], mask: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if mask.iter().all(|byte| *byte == 0xff) {
        write!(f, " {name} is ")?;
        return write_hex(spec, f);
    }
    write!(f, " {name} spec ")?;
    write_hex(spec, f)?;
    write!(f, " {name} mask ")?;
    write_hex(mask, f)
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
        _ if field.kind == FieldKind::CtState
            && value.mask != 0
            && value.spec & !value.mask == 0 =>
        {
            write!(f, " {} is ", field.name)?;
            let bits = CtState::from_bits;
            CtState::write_signs(bits(value.spec), bits(value.mask), f)?;
        }
        Some(length)
            if length == field.bits && value.last.is_none() && field.spelling == Spelling::Bare =>
        {
            f.write_str(" is ")?;
            text.print(&Argument::Bits(value.spec), f)?;
        }
        Some(length) if length == field.bits => print(f, "is", text, value.spec)?,
        Some(length) if length > 0 => {
            print(f, "spec", text, value.spec)?;
            write!(f, " {} prefix {length}", field.name)?;
        }
        _ => {
            print(f, "spec", text, value.spec)?;
            let kind = match field.kind {
                FieldKind::Unsigned if field.bits > 1 => FieldKind::Hexadecimal,
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
                if !argument.bare {
                    write!(f, " {}", argument.name)?;
                }
                if argument.kind == FieldKind::Flag {
                    continue;
                }
                f.write_str(" ")?;
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

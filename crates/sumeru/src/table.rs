//! Tables for people: aligned columns, numbers to the right, headings in bold on a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// A table that is being filled.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are blank.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.headings.len(), String::new());
        self.rows.push(cells);
    }

    /// The text, each line ended.
    pub fn text(&self, bold: bool) -> String {
        let mut text = String::new();
        let last = self.headings.len().saturating_sub(1);
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|i| {
                self.rows
                    .iter()
                    .map(|r| width(&r[i]))
                    .chain([width(self.headings[i])])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let numeric: Vec<bool> = (0..self.headings.len())
            .map(|i| !self.rows.is_empty() && self.rows.iter().all(|r| is_number(&r[i])))
            .collect();
        let mut line = |cells: Vec<&str>, bold: bool| {
            let (on, off) = if bold {
                ("\x1b[1m", "\x1b[0m")
            } else {
                ("", "")
            };
            let mut out = String::new();
            for (i, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[i].saturating_sub(width(cell)));
                // Writing to a string does not fail.
                let _ = match (numeric[i], i == last) {
                    (true, _) => write!(out, "{pad}{cell}"),
                    (false, true) => write!(out, "{cell}"),
                    (false, false) => write!(out, "{cell}{pad}"),
                };
                if i != last {
                    out.push_str("  ");
                }
            }
            let _ = writeln!(text, "{on}{}{off}", out.trim_end());
        };
        line(self.headings.clone(), bold);
        for row in &self.rows {
            line(row.iter().map(String::as_str).collect(), false);
        }
        text
    }

    /// Writes it to standard output.
    pub fn print(&self) -> io::Result<()> {
        io::stdout()
            .lock()
            .write_all(self.text(colours()).as_bytes())
    }
}

/// Whether standard output takes colours (see no-color.org).
pub fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn is_number(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b"., %".contains(&b))
        || text == "-"
}

/// A JSON value as a cell: lists joined, nothing as a dash.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| format!("{k}={}", cell(v)))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Number(number) => number.to_string(),
    }
}

/// A number of bytes with the largest unit that keeps it above one.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            let exact = value.fract() == 0.0;
            return if exact {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "PACKETS", "NOTE"]);
        table.row(["a".into(), "5".into(), "x".into()]);
        table.row(["longer".into(), "12345".into()]);
        assert_eq!(
            table.text(false),
            "NAME    PACKETS  NOTE\na             5  x\nlonger    12345\n"
        );
        assert!(table.text(true).starts_with("\x1b[1mNAME"));
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(64 << 20), "64MiB");
        assert_eq!(size(1536), "1.5KiB");
        assert_eq!(size(u64::MAX), "16777216TiB");
    }
}

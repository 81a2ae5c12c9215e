//! One reader for objects written as TOML tables or JSON-RPC parameters. It goes on after a
//! fault, so that one run reports everything that is wrong, each with the object, the field, what
//! was found, what was expected and (for files) the line. It knows no object kind.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::value::{ByteSize, IpPrefix, MacAddr, NAME_EXPECTED, Prefix, Vni, is_name};

/// One field of an object or one parameter of a method: what a reader may write.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// Type and range in words.
    #[serde(rename = "type")]
    pub ty: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// What it means, unit and default included.
    pub doc: &'static str,
}

/// Shorthand for tables of [`Field`]: a field that must be given.
pub const fn required(name: &'static str, ty: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        ty,
        required: true,
        doc,
    }
}

/// Shorthand for tables of [`Field`]: a field that may be left out.
pub const fn optional(name: &'static str, ty: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        ty,
        required: false,
        doc,
    }
}

/// One thing that is wrong with what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The object as a reader would find it: `port vm1`, or `port #2` while it has no good name.
    pub object: String,
    /// The field, empty when the object as a whole is meant.
    pub field: String,
    /// What was written, shortened.
    pub found: String,
    /// What would have been right.
    pub expected: String,
    /// Line in the file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}", self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, " is {}, expected {}", self.found, self.expected)
    }
}

/// A field's value that is not what it should be.
#[derive(Debug)]
pub struct Wrong {
    /// What would have been right.
    pub expected: String,
}

/// A type that a field can hold.
pub trait FromValue: Sized {
    /// Reads it, or says what it should have been.
    fn from_value(value: &Value) -> Result<Self, Wrong>;
}

fn wrong<T>(expected: &str) -> Result<T, Wrong> {
    Err(Wrong {
        expected: expected.to_owned(),
    })
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        value.as_bool().map_or_else(|| wrong("true or false"), Ok)
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        value
            .as_str()
            .map_or_else(|| wrong("a string"), |s| Ok(s.to_owned()))
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        value
            .as_u64()
            .map_or_else(|| wrong("an integer of 0 or more"), Ok)
    }
}

fn parsed<T: FromStr>(value: &Value, expected: &str) -> Result<T, Wrong> {
    value
        .as_str()
        .and_then(|s| s.parse().ok())
        .map_or_else(|| wrong(expected), Ok)
}

impl FromValue for MacAddr {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        parsed(value, Self::EXPECTED)
    }
}

impl FromValue for IpPrefix {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        parsed(value, Self::EXPECTED)
    }
}

impl FromValue for Prefix {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        parsed(value, Self::EXPECTED)
    }
}

impl FromValue for IpAddr {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        parsed(value, "an IPv4 or IPv6 address")
    }
}

impl FromValue for SocketAddr {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        parsed(value, "an address with a port, such as 192.0.2.9:4739")
    }
}

impl FromValue for Vni {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value.as_u64().map(Vni::new) {
            Some(Ok(vni)) => Ok(vni),
            _ => wrong(Self::EXPECTED),
        }
    }
}

impl FromValue for ByteSize {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let size = match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64().and_then(|n| ByteSize::new(n).ok()),
        };
        size.map_or_else(|| wrong(Self::EXPECTED), Ok)
    }
}

/// An object's name (see [`is_name`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl FromValue for Name {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some(s) if is_name(s) => Ok(Self(s.to_owned())),
            _ => wrong(NAME_EXPECTED),
        }
    }
}

/// An absolute path that fits a Unix socket's address (`sun_path`: 107 bytes and a NUL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(pub String);

impl FromValue for SocketPath {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some(s) if s.starts_with('/') && s.len() <= 107 && !s.contains('\0') => {
                Ok(Self(s.to_owned()))
            }
            _ => wrong("an absolute path of at most 107 bytes"),
        }
    }
}

/// An absolute path of a file or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(pub String);

impl FromValue for FilePath {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some(s) if s.starts_with('/') && s.len() <= 4095 && !s.contains('\0') => {
                Ok(Self(s.to_owned()))
            }
            _ => wrong("an absolute path"),
        }
    }
}

/// A network interface's name (`IFNAMSIZ`: at most 15 bytes, no slash, no white space).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceName(pub String);

impl FromValue for InterfaceName {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let good = |s: &str| {
            (1..=15).contains(&s.len())
                && s != "."
                && s != ".."
                && s.bytes().all(|c| c.is_ascii_graphic() && c != b'/')
        };
        match value.as_str() {
            Some(s) if good(s) => Ok(Self(s.to_owned())),
            _ => wrong("a network interface name of 1 to 15 characters"),
        }
    }
}

/// How `value` is shown in a message: as written, cut at 60 characters.
pub fn show(value: &Value) -> String {
    let text = match value {
        Value::Array(items) if items.len() > 8 => format!("a list of {} items", items.len()),
        Value::Object(_) => "a table".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() <= 60 {
        return text;
    }
    let mut cut: String = text.chars().take(57).collect();
    cut.push_str("...");
    cut
}

/// Where a field was written: its line in the file, counted from 1. JSON has none.
pub type LineOf<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// No lines: what JSON-RPC parameters use.
pub fn no_lines(_: &str) -> Option<usize> {
    None
}

/// Most faults that are kept of one object: more help nobody, and a hostile client could ask for
/// millions.
const FAULTS_MAX: usize = 100;

/// Reads the fields of one object and gathers what is wrong with them.
pub struct Fields<'a> {
    object: String,
    map: &'a Map<String, Value>,
    line_of: LineOf<'a>,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// Starts on `map`, called `object` in messages. Keys outside `known` are faults.
    pub fn new(
        object: impl Into<String>,
        map: &'a Map<String, Value>,
        known: &[Field],
        line_of: LineOf<'a>,
    ) -> Self {
        let mut fields = Self {
            object: object.into(),
            map,
            line_of,
            faults: Vec::new(),
        };
        for key in map.keys() {
            if !known.iter().any(|f| f.name == key) {
                let names: Vec<_> = known.iter().map(|f| f.name).collect();
                let expected = match names.as_slice() {
                    [] => "no fields at all".to_owned(),
                    names => format!("one of {}", names.join(", ")),
                };
                fields.fault(key, "not a known field", expected);
            }
        }
        fields
    }

    /// Notes a fault of `field`. Of very many only the first are kept.
    pub fn fault(&mut self, field: &str, found: impl Into<String>, expected: impl Into<String>) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        self.faults.push(Fault {
            object: self.object.clone(),
            field: field.to_owned(),
            found: found.into(),
            expected: expected.into(),
            line: (self.line_of)(field).or_else(|| (self.line_of)("")),
        });
    }

    /// The value as written; null counts as left out.
    pub fn raw(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether the field was given.
    pub fn has(&self, field: &str) -> bool {
        self.raw(field).is_some()
    }

    fn take<T>(&mut self, field: &str, read: impl FnOnce(&Value) -> Result<T, Wrong>) -> Option<T> {
        let value = self.raw(field)?;
        match read(value) {
            Ok(read) => Some(read),
            Err(Wrong { expected }) => {
                self.fault(field, show(value), expected);
                None
            }
        }
    }

    /// A field that may be left out. `None` also when it was wrong, which is then a fault.
    pub fn optional<T: FromValue>(&mut self, field: &str) -> Option<T> {
        self.take(field, T::from_value)
    }

    /// A field that must be there.
    pub fn required<T: FromValue>(&mut self, field: &str) -> Option<T> {
        if !self.has(field) {
            let expected = match T::from_value(&Value::Null) {
                Err(Wrong { expected }) => expected,
                Ok(_) => "a value".to_owned(),
            };
            self.fault(field, "missing", expected);
            return None;
        }
        self.optional(field)
    }

    /// A field with a default.
    pub fn or<T: FromValue>(&mut self, field: &str, default: T) -> T {
        self.optional(field).unwrap_or(default)
    }

    /// An integer within `range`; `default` when left out or wrong (then also a fault).
    pub fn integer<T>(&mut self, field: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: Copy + TryFrom<u64> + PartialOrd + fmt::Display,
    {
        self.optional_integer(field, range).unwrap_or(default)
    }

    /// An integer within `range` that may be left out.
    pub fn optional_integer<T>(&mut self, field: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + TryFrom<u64> + PartialOrd + fmt::Display,
    {
        self.take(field, |value| {
            value
                .as_u64()
                .and_then(|n| T::try_from(n).ok())
                .filter(|n| range.contains(n))
                .ok_or_else(|| Wrong {
                    expected: format!("an integer from {} to {}", range.start(), range.end()),
                })
        })
    }

    /// One of a few words; `default` when left out or wrong (then also a fault).
    pub fn word<T: Copy>(&mut self, field: &str, words: &[(&str, T)], default: T) -> T {
        self.optional_word(field, words).unwrap_or(default)
    }

    /// One of a few words, that must be given.
    pub fn required_word<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Option<T> {
        if !self.has(field) {
            self.fault(field, "missing", one_of(words));
            return None;
        }
        self.optional_word(field, words)
    }

    /// One of a few words, that may be left out.
    pub fn optional_word<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Option<T> {
        self.take(field, |value| {
            let found = words.iter().find(|(word, _)| value.as_str() == Some(*word));
            found.map(|(_, t)| *t).ok_or_else(|| Wrong {
                expected: one_of(words),
            })
        })
    }

    /// A list, empty when left out. A single value counts as a list of one.
    pub fn list<T: FromValue>(&mut self, field: &str) -> Vec<T> {
        let Some(value) = self.raw(field) else {
            return Vec::new();
        };
        let single = std::slice::from_ref(value);
        let items = value.as_array().map_or(single, Vec::as_slice);
        let mut read = Vec::with_capacity(items.len());
        for item in items {
            match T::from_value(item) {
                Ok(item) => read.push(item),
                Err(Wrong { expected }) => self.fault(field, show(item), expected),
            }
        }
        read
    }

    /// Faults each of `fields` that was given although `why` leaves no place for it.
    pub fn forbid(&mut self, fields: &[&str], why: &str) {
        for field in fields {
            if let Some(value) = self.raw(field) {
                self.fault(field, show(value), format!("to be left out ({why})"));
            }
        }
    }

    /// The object if nothing was wrong with it, else everything that was.
    pub fn finish<T>(self, object: Option<T>) -> Result<T, Vec<Fault>> {
        match object {
            Some(object) if self.faults.is_empty() => Ok(object),
            _ => Err(self.faults),
        }
    }
}

fn one_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    format!("one of {}", words.join(", "))
}

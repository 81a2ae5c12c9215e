//! What each method does, one file per group. Translation only: every decision is the control
//! plane's.

pub mod capture;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod flow;
pub mod flow_object;
pub mod object;
pub mod policy;
pub mod stats;
pub mod trace;

use serde::Serialize;
use serde_json::Value;
use sumeru_control::decode::{Fields, FromValue, Wrong};
use sumeru_control::error::Error;

/// A result as JSON.
fn shown<T: Serialize>(value: T) -> Result<Value, Error> {
    serde_json::to_value(value)
        .map_err(|error| Error::fault("answer", "", error.to_string(), "a value that JSON has"))
}

/// A port by name or by index.
struct PortArg(String);

impl FromValue for PortArg {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value {
            Value::String(name) => Ok(Self(name.clone())),
            Value::Number(index) if index.is_u64() => Ok(Self(index.to_string())),
            _ => Err(Wrong {
                expected: "the name or the index of a port".to_owned(),
            }),
        }
    }
}

/// The text of a required string parameter.
fn text(fields: &mut Fields<'_>, name: &str) -> Option<String> {
    fields.required::<String>(name)
}

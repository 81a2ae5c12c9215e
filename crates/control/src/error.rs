//! Every way in which the control plane refuses. Each names the object, what was wrong with it and
//! what was expected, and carries the code that JSON-RPC answers with.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::dataplane::Refusal;
use crate::decode::Fault;
use crate::model::Kind;
use crate::store::StoreError;

/// A refusal. Nothing was changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was written is not valid.
    #[error("{}", faults_text(.0))]
    Invalid(Vec<Fault>),
    /// The configuration file is not TOML.
    #[error("line {line}: the file is not TOML: {message}")]
    Syntax {
        /// Line, counted from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// The object is not there.
    #[error("there is no {kind} {name:?}, expected {}", one_of(.existing))]
    NotFound {
        /// Its kind.
        kind: Kind,
        /// What it was called.
        name: String,
        /// Some that are there.
        existing: Vec<String>,
    },
    /// What a rule can name is not there.
    #[error("there is no {what} {name}, expected {}", one_of(.existing))]
    NoSuch {
        /// A meter or an indirect action.
        what: &'static str,
        /// Its port and number.
        name: String,
        /// Some that the port has.
        existing: Vec<String>,
    },
    /// Another object has the name already.
    #[error("{kind} {name} exists already, expected a name that is not taken")]
    Exists {
        /// Its kind.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Something that only one object can have is taken.
    #[error("{object}: {field} {found} is taken by {owner}, expected one that is free")]
    Taken {
        /// The object that was to get it.
        object: String,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The object that has it.
        owner: String,
    },
    /// A field names an object that is not there.
    #[error("{object}: {field} is {name:?}, expected the name of {}{kind} that exists", article(*.kind))]
    Dangling {
        /// The object with the field.
        object: String,
        /// The field.
        field: &'static str,
        /// The name in it.
        name: String,
        /// The kind it should be of.
        kind: Kind,
    },
    /// The object is needed by others.
    #[error("{object} is in use by {}, expected them to be deleted first", .users.join(", "))]
    InUse {
        /// The object.
        object: String,
        /// Who uses it.
        users: Vec<String>,
    },
    /// The change needs the object to be deleted and made anew.
    #[error("{object}: {} cannot change while it exists, expected {expected}", .fields.join(", "))]
    Fixed {
        /// The object.
        object: String,
        /// The fields.
        fields: Vec<String>,
        /// What would work.
        expected: &'static str,
    },
    /// The object exists but the data plane refused it when the daemon started.
    #[error("{object} is not in service: {reason}; expected it to be deleted, or its cause mended")]
    OutOfService {
        /// The object.
        object: String,
        /// Why.
        reason: String,
    },
    /// The data plane refused. What was done before in the same call was undone.
    #[error("cannot {action} {object}: {refusal}")]
    Refused {
        /// What was tried: create, change, delete, …
        action: &'static str,
        /// With which object.
        object: String,
        /// The data plane's answer.
        refusal: Refusal,
    },
    /// The change could not be made durable and was undone.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn faults_text(faults: &[Fault]) -> String {
    let texts: Vec<_> = faults.iter().map(Fault::to_string).collect();
    texts.join("; ")
}

fn one_of(names: &[String]) -> String {
    if names.is_empty() {
        "none: there are none yet".to_owned()
    } else {
        format!("one of {}", names.join(", "))
    }
}

fn article(kind: Kind) -> &'static str {
    if kind == Kind::Node { "the " } else { "a " }
}

impl Error {
    /// One fault of one field.
    pub fn fault(
        object: &str,
        field: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![Fault {
            object: object.to_owned(),
            field: field.to_owned(),
            found: found.into(),
            expected: expected.into(),
            line: None,
        }])
    }

    /// The JSON-RPC error code: -32602 for what was written wrong (JSON-RPC 2.0 section 5.1), the
    /// server range for the rest.
    pub fn code(&self) -> i64 {
        match self {
            Self::Invalid(_) | Self::Syntax { .. } => -32602,
            Self::NotFound { .. } | Self::NoSuch { .. } => -32001,
            Self::Exists { .. } | Self::Taken { .. } => -32002,
            Self::InUse { .. } => -32003,
            Self::Refused { .. } => -32004,
            Self::Fixed { .. } => -32005,
            Self::Dangling { .. } => -32006,
            Self::OutOfService { .. } => -32007,
            Self::Store(_) => -32008,
            Self::File { .. } => -32009,
        }
    }

    /// The parts of the message for programs.
    pub fn data(&self) -> Value {
        match self {
            Self::Invalid(faults) => json!({ "faults": faults }),
            Self::Syntax { line, message } => {
                json!({ "line": line, "found": message, "expected": "TOML" })
            }
            Self::NotFound {
                kind,
                name,
                existing,
            } => {
                json!({ "object": format!("{kind} {name}"), "found": "nothing", "expected": existing })
            }
            Self::NoSuch {
                what,
                name,
                existing,
            } => {
                json!({ "object": format!("{what} {name}"), "found": "nothing", "expected": existing })
            }
            Self::Exists { kind, name } => {
                json!({ "object": format!("{kind} {name}"), "expected": "a free name" })
            }
            Self::Taken {
                object,
                field,
                found,
                owner,
            } => {
                json!({ "object": object, "field": field, "found": found, "owner": owner })
            }
            Self::Dangling {
                object,
                field,
                name,
                kind,
            } => {
                json!({ "object": object, "field": field, "found": name, "expected": kind })
            }
            Self::InUse { object, users } => json!({ "object": object, "users": users }),
            Self::Fixed {
                object,
                fields,
                expected,
            } => {
                json!({ "object": object, "fields": fields, "expected": expected })
            }
            Self::OutOfService { object, reason } => json!({ "object": object, "found": reason }),
            Self::Refused {
                action,
                object,
                refusal,
            } => {
                json!({ "object": object, "action": action, "found": refusal.to_string() })
            }
            Self::Store(error) => json!({ "object": "store", "found": error.to_string() }),
            Self::File { path, source, .. } => {
                json!({ "object": path.display().to_string(), "found": source.to_string() })
            }
        }
    }
}

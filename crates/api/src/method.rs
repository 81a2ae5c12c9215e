//! The table of methods: name, parameters, what it does. `rpc.methods` shows it; a parameter that
//! is not in it is refused by name.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};
use sumeru_control::decode::{Field, Fields, no_lines};
use sumeru_control::error::Error;
use sumeru_control::model::{Kind, fields_of};
use sumeru_control::reconcile::Control;
use tokio::sync::watch;

use crate::methods::{
    capture, config, conntrack, daemon, flow, flow_object, object, policy, stats, trace,
};
use crate::protocol::{METHOD_NOT_FOUND, RpcError};

/// What methods work on.
pub struct State {
    control: Mutex<Control>,
    /// The configuration file that the daemon was started with.
    pub config: Option<PathBuf>,
    /// When the daemon was started.
    pub started: Instant,
    stop: watch::Sender<bool>,
}

impl State {
    /// The state of a daemon that has just been started.
    pub fn new(control: Control, config: Option<PathBuf>) -> Self {
        Self {
            control: Mutex::new(control),
            config,
            started: Instant::now(),
            stop: watch::channel(false).0,
        }
    }

    /// The control plane, for one call. A panic during an earlier call does not make it useless:
    /// it changes its own state only after the data plane has agreed.
    pub fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything to end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Becomes true when everything shall end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

/// What a method may be given.
#[derive(Clone, Copy)]
pub enum Params {
    /// These.
    Fields(&'static [Field]),
    /// The fields of an object, and these.
    Object(Kind, &'static [Field]),
    /// Some fields of an object, none of them needed, and these.
    Changes(Kind, &'static [Field]),
}

impl Params {
    /// The list.
    pub fn list(self) -> Vec<Field> {
        let (mut fields, more) = match self {
            Self::Fields(fields) => return fields.to_vec(),
            Self::Object(kind, more) => (fields_of(kind).to_vec(), more),
            Self::Changes(kind, more) => (
                fields_of(kind)
                    .iter()
                    .map(|f| Field {
                        required: false,
                        ..*f
                    })
                    .collect(),
                more,
            ),
        };
        fields.retain(|f| !more.iter().any(|m| m.name == f.name));
        fields.extend_from_slice(more);
        fields
    }
}

/// What a method does.
pub type Call = fn(&State, Args<'_>) -> Result<Value, Error>;

/// The parameters of one call.
pub struct Args<'a> {
    method: &'static Method,
    map: &'a Map<String, Value>,
}

impl<'a> Args<'a> {
    /// As they came.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The kind of object in the method's name.
    pub fn kind(&self) -> Result<Kind, Error> {
        let noun = self.method.name.split('.').next().unwrap_or_default();
        Kind::from_word(noun).ok_or_else(|| {
            Error::fault(
                self.method.name,
                "",
                "no method of an object",
                "the name of a kind",
            )
        })
    }

    /// Reads parameters one by one. Everything that is wrong with them comes back at once.
    pub fn read<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Result<T, Error> {
        self.read_of(self.map, &self.method.params.list(), read)
    }

    /// The same with only some of the parameters.
    pub fn read_of<'b, T>(
        &self,
        map: &'b Map<String, Value>,
        known: &[Field],
        read: impl FnOnce(&mut Fields<'b>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut fields = Fields::new(self.method.name, map, known, &no_lines);
        let value = read(&mut fields);
        fields.finish(value).map_err(Error::Invalid)
    }

    /// Refuses every parameter: for methods that have none.
    pub fn none(&self) -> Result<(), Error> {
        self.read(|_| Some(()))
    }
}

/// One method.
pub struct Method {
    /// Its name, `NOUN.VERB`.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// What it may be given.
    pub params: Params,
    /// What carries it out.
    pub call: Call,
}

/// Every method, by noun.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    let tables = [
        object::METHODS,
        policy::METHODS,
        flow::METHODS,
        flow_object::METHODS,
        conntrack::METHODS,
        stats::METHODS,
        trace::METHODS,
        capture::METHODS,
        config::METHODS,
        daemon::METHODS,
    ];
    tables.into_iter().flatten()
}

/// Carries out a method. This is the only way in for every surface.
pub fn call(state: &State, name: &str, params: &Map<String, Value>) -> Result<Value, RpcError> {
    let method = methods().find(|m| m.name == name).ok_or_else(|| {
        let noun = format!("{}.", name.split(['.', '_']).next().unwrap_or_default());
        let near: Vec<_> = methods()
            .map(|m| m.name)
            .filter(|n| n.starts_with(&noun))
            .collect();
        let hint = if near.is_empty() {
            "a method that rpc.methods lists".to_owned()
        } else {
            near.join(", ")
        };
        RpcError::new(
            METHOD_NOT_FOUND,
            format!("there is no method {name:?}, expected {hint}"),
            json!({ "expected": near }),
        )
    })?;
    (method.call)(
        state,
        Args {
            method,
            map: params,
        },
    )
    .map_err(RpcError::from)
}

#[cfg(test)]
mod tests;

//! `config.*`: the configuration file and the objects.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sumeru_control::config;
use sumeru_control::decode::{Field, FilePath, optional};
use sumeru_control::error::Error;

use super::shown;
use crate::method::{Args, Method, Params, State};

const SAVE: &[Field] = &[optional(
    "path",
    "absolute path",
    "file to write (default: the text is the answer)",
)];
const SOURCE: &[Field] = &[
    optional(
        "path",
        "absolute path",
        "file to read (default: the daemon's --config)",
    ),
    optional("text", "string", "the configuration itself"),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "config.save",
        doc: "Writes the objects as a configuration file.",
        params: Params::Fields(SAVE),
        call: save,
    },
    Method {
        name: "config.load",
        doc: "Makes the objects of a file those of the node, all or nothing.",
        params: Params::Fields(SOURCE),
        call: load,
    },
    Method {
        name: "config.check",
        doc: "Says everything that is wrong with a file.",
        params: Params::Fields(SOURCE),
        call: check,
    },
];

/// Largest configuration file that is read.
const FILE_MAX: u64 = 16 * 1024 * 1024;

fn save(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let path = args.read(|fields| {
        Some(
            fields
                .optional::<FilePath>("path")
                .map(|p| PathBuf::from(p.0)),
        )
    })?;
    let text = {
        let control = state.control();
        config::render(control.inventory(), control.settings())
    };
    let Some(path) = path else {
        return Ok(json!({ "text": text }));
    };
    write(&path, &text).map_err(|source| Error::File {
        action: "write",
        path: path.clone(),
        source,
    })?;
    Ok(json!({ "path": path }))
}

/// A reader never sees half a file: it is written beside and renamed.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)
}

/// The configuration that a call is about.
fn source(state: &State, args: &Args<'_>) -> Result<String, Error> {
    let (path, text) = args.read(|fields| {
        let path = fields
            .optional::<FilePath>("path")
            .map(|p| PathBuf::from(p.0));
        let text = fields.optional::<String>("text");
        if path.is_some() && text.is_some() {
            fields.fault("text", "given together with path", "one of them");
        }
        Some((path, text))
    })?;
    if let Some(text) = text {
        return Ok(text);
    }
    let path = path.or_else(|| state.config.clone()).ok_or_else(|| {
        Error::fault(
            "configuration",
            "path",
            "missing",
            "a file, because the daemon was started without --config",
        )
    })?;
    read(&path)
}

/// Reads a configuration file.
pub fn read(path: &Path) -> Result<String, Error> {
    let refused = |source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(refused)?.len();
    if length > FILE_MAX {
        return Err(refused(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            "it is larger than 16 MiB",
        )));
    }
    std::fs::read_to_string(path).map_err(refused)
}

fn load(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (entries, settings) = config::read(&source(state, &args)?)?;
    let mut control = state.control();
    // What cannot change is refused before anything has.
    let before = control.settings().clone();
    control.use_settings(settings)?;
    let loaded = control.load(entries);
    if loaded.is_err() {
        control.use_settings(before)?;
    }
    shown(loaded?)
}

fn check(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let entries = config::parse(&source(state, &args)?)?;
    Ok(json!({ "objects": entries.len() }))
}

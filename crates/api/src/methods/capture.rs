//! `capture.*`: frames to a pcapng file.

use serde_json::{Value, json};
use sumeru_control::dataplane::Capture;
use sumeru_control::decode::{Field, FilePath, Name, optional, required};
use sumeru_control::error::Error;
use sumeru_control::model::{FrameSelection, Way};
use sumeru_control::with_selection;

use super::shown;
use crate::method::{Args, Method, Params, State};

const START: &[Field] = with_selection![
    required(
        "path",
        "absolute path",
        "file to write, in the daemon's file system; it must not exist",
    ),
    optional("name", "name", "name of the capture (default: capture-N)"),
    optional(
        "snaplen",
        "integer 64..65535",
        "bytes kept of each frame (default 65535)",
    ),
    optional(
        "max_packets",
        "integer 1..4294967295",
        "end after so many frames (default: never)",
    ),
    optional(
        "max_bytes",
        "integer 4096..1099511627776",
        "end before the file is longer (default: never)",
    ),
    optional(
        "max_seconds",
        "integer 1..31536000",
        "end after so many seconds (default: never)",
    ),
];
const NAME: &[Field] = &[required("name", "name", "name of the capture")];
const NONE: &[Field] = &[];

/// The methods of this file.
pub const METHODS: &[Method] = &[
    Method {
        name: "capture.start",
        doc: "Starts writing frames to a pcapng file.",
        params: Params::Fields(START),
        call: start,
    },
    Method {
        name: "capture.stop",
        doc: "Ends a capture; its file is complete then.",
        params: Params::Fields(NAME),
        call: stop,
    },
    Method {
        name: "capture.list",
        doc: "Captures that run.",
        params: Params::Fields(NONE),
        call: list,
    },
];

fn start(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (name, mut capture) = args.read(|fields| {
        let path = fields.required::<FilePath>("path");
        let name = fields.optional::<Name>("name").map(|n| n.0);
        let capture = Capture {
            name: String::new(),
            path: path.as_ref().map(|path| path.0.clone()).unwrap_or_default(),
            snaplen: fields.integer("snaplen", 64..=65_535, 65_535),
            max_packets: fields.optional_integer("max_packets", 1..=u64::from(u32::MAX)),
            max_bytes: fields.optional_integer("max_bytes", 4096..=1 << 40),
            max_seconds: fields.optional_integer("max_seconds", 1..=31_536_000),
            selection: FrameSelection::read(fields, Way::Both),
        };
        path.map(|_| (name, capture))
    })?;
    let mut control = state.control();
    capture.name = name.unwrap_or_else(|| {
        let taken = control.plane().captures();
        let free = (1u32..)
            .map(|n| format!("capture-{n}"))
            .find(|n| taken.iter().all(|c| c.capture.name != *n));
        free.unwrap_or_default()
    });
    shown(control.capture_start(capture)?)
}

fn stop(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let name = args.read(|fields| super::text(fields, "name"))?;
    shown(state.control().capture_stop(&name)?)
}

fn list(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    Ok(json!(state.control().plane().captures()))
}

//! `capture.*`: frames to a pcapng file.

use serde_json::{Value, json};
use sumeru_control::dataplane::Capture;
use sumeru_control::decode::{Field, FilePath, Name, optional, required};
use sumeru_control::error::Error;

use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

const START: &[Field] = &[
    required(
        "path",
        "absolute path",
        "file to write, in the daemon's file system; it must not exist",
    ),
    optional("name", "name", "name of the capture (default: capture-N)"),
    optional(
        "port",
        "port name or index",
        "only this port (default: all)",
    ),
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
    let (path, name, port, snaplen, max_packets) = args.read(|fields| {
        let path = fields.required::<FilePath>("path");
        let name = fields.optional::<Name>("name").map(|n| n.0);
        let port = fields.optional::<PortArg>("port").map(|p| p.0);
        let snaplen = fields.integer("snaplen", 64..=65_535, 65_535);
        let max_packets = fields.optional_integer("max_packets", 1..=u64::from(u32::MAX));
        Some((path?.0, name, port, snaplen, max_packets))
    })?;
    let mut control = state.control();
    let name = name.unwrap_or_else(|| {
        let taken = control.plane().captures();
        let free = (1u32..)
            .map(|n| format!("capture-{n}"))
            .find(|n| taken.iter().all(|c| c.capture.name != *n));
        free.unwrap_or_default()
    });
    shown(control.capture_start(Capture {
        name,
        port,
        path,
        snaplen,
        max_packets,
    })?)
}

fn stop(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let name = args.read(|fields| super::text(fields, "name"))?;
    shown(state.control().capture_stop(&name)?)
}

fn list(state: &State, args: Args<'_>) -> Result<Value, Error> {
    args.none()?;
    Ok(json!(state.control().plane().captures()))
}

//! `trace.packet`: why does this packet go there?

use serde_json::Value;
use sumeru_control::decode::{Field, optional, required};
use sumeru_control::error::Error;
use sumeru_flow::PacketDescription;

use super::{PortArg, shown};
use crate::method::{Args, Method, Params, State};

/// Parameters of methods about a packet.
pub const PARAMS: &[Field] = &[
    required("port", "port name or index", "where the packet comes in"),
    optional(
        "packet",
        "string",
        "description: eth src … / ipv4 dst … / udp dst 53 / payload 32",
    ),
    optional(
        "frame",
        "hexadecimal string",
        "the bytes themselves, from the destination address on",
    ),
];

/// The methods of this file.
pub const METHODS: &[Method] = &[Method {
    name: "trace.packet",
    doc: "Follows one packet through the pipeline without sending it and says each decision.",
    params: Params::Fields(PARAMS),
    call: packet,
}];

/// Lengths of a frame without its check sequence: an Ethernet header at least.
const FRAME_LENGTHS: std::ops::RangeInclusive<usize> = 14..=65_535;

fn packet(state: &State, args: Args<'_>) -> Result<Value, Error> {
    let (port, frame) = port_and_frame(&args)?;
    shown(state.control().trace(&port, &frame)?)
}

/// A port and a frame that comes in there, described or as bytes.
pub fn port_and_frame(args: &Args<'_>) -> Result<(String, Vec<u8>), Error> {
    args.read(|fields| {
        let port = fields.required::<PortArg>("port");
        let packet = fields.optional::<String>("packet");
        let hex = fields.optional::<String>("frame");
        let frame = match (packet, hex) {
            (Some(text), None) => match PacketDescription::parse(&text) {
                Ok(description) => Some(description.to_bytes()),
                Err(error) => {
                    fields.fault(
                        "packet",
                        error.to_string(),
                        "a packet such as eth / ipv4 dst 10.0.0.1 / udp dst 53",
                    );
                    None
                }
            },
            (None, Some(hex)) => {
                let bytes = from_hex(&hex).filter(|bytes| FRAME_LENGTHS.contains(&bytes.len()));
                if bytes.is_none() {
                    let found = format!("{} characters", hex.len());
                    fields.fault(
                        "frame",
                        found,
                        "14 to 65535 bytes as pairs of hexadecimal digits",
                    );
                }
                bytes
            }
            _ => {
                fields.fault(
                    "packet",
                    "neither or both of packet and frame",
                    "exactly one of them",
                );
                None
            }
        };
        Some((port?.0, frame?))
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |d: u8| {
        char::from(d)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

//! A mirror: copies of the frames of some ports go to another port, or to a collector by ERSPAN (draft-foschiano-erspan-03).

use std::net::IpAddr;

use serde::Serialize;

use super::selection::{FrameSelection, Way};
use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};
use crate::with_selection;

/// Where copies go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MirrorTarget {
    /// To a port of this switch.
    Port {
        /// Its name.
        to_port: String,
    },
    /// To a collector.
    Collector {
        /// Its address, on the underlay.
        collector: IpAddr,
        /// 2 or 3.
        erspan_type: u8,
        /// The collector's number of the mirror, 10 bits.
        session: u16,
        /// Type II: where in the source the frames are from, 20 bits. Type III: which engine mirrors, 6 bits.
        index: u32,
        /// Most bytes of a frame.
        snaplen: u32,
    },
}

/// What is configured of a mirror.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MirrorSpec {
    /// Name.
    pub name: String,
    /// Where copies go.
    #[serde(flatten)]
    pub target: MirrorTarget,
    /// Which frames are copied.
    #[serde(flatten)]
    pub selection: FrameSelection,
}

const OF_COLLECTOR: &[&str] = &["erspan_type", "session", "index", "snaplen"];

impl Spec for MirrorSpec {
    const KIND: Kind = Kind::Mirror;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = with_selection![
        required("name", "name", "name of the mirror"),
        optional("to_port", "port name", "the port that copies go to"),
        optional(
            "collector",
            "address",
            "the collector on the underlay that copies go to by ERSPAN, in place of a port",
        ),
        optional(
            "erspan_type",
            "integer 2..3",
            "ERSPAN type II, or III with timestamps (default 2)",
        ),
        optional(
            "session",
            "integer 0..1023",
            "the collector's number of the mirror (default 1)",
        ),
        optional(
            "index",
            "integer 0..1048575",
            "type II: index, as agreed with the collector; type III: hardware id, below 64 (default 0)",
        ),
        optional(
            "snaplen",
            "integer 64..65535",
            "most bytes of a frame for the collector (default: what the underlay's MTU leaves)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let to_port = fields.optional::<Name>("to_port").map(|port| port.0);
        let collector = fields.optional::<IpAddr>("collector");
        if let Some(address) = collector
            && (address.is_unspecified() || address.is_multicast() || address.is_loopback())
        {
            fields.fault(
                "collector",
                address.to_string(),
                "a unicast address on the underlay",
            );
        }
        let erspan_type = fields.integer("erspan_type", 2..=3, 2);
        let session = fields.integer("session", 0..=1023, 1);
        let index = fields.integer("index", 0..=0xf_ffff, 0);
        let snaplen = fields.integer("snaplen", 64..=65_535, 65_535);
        let selection = FrameSelection::read(fields, Way::Both);
        let target = match (to_port, collector) {
            (Some(to_port), None) => {
                fields.forbid(OF_COLLECTOR, "copies go to a port");
                if selection.ports.contains(&to_port) {
                    fields.fault("to_port", to_port.clone(), "a port that is not mirrored");
                }
                Some(MirrorTarget::Port { to_port })
            }
            (None, Some(collector)) => {
                if erspan_type == 3 && index > 63 {
                    fields.fault("index", index.to_string(), "0 to 63 with erspan_type = 3");
                }
                Some(MirrorTarget::Collector {
                    collector,
                    erspan_type,
                    session,
                    index,
                    snaplen,
                })
            }
            (to_port, _) => {
                // A wrong one is a fault already.
                let found = match to_port {
                    Some(_) => "given beside collector",
                    None => "missing, and so is collector",
                };
                fields.fault("to_port", found, "either to_port or collector");
                None
            }
        };
        Some(Self {
            name: name?.0,
            target: target?,
            selection,
        })
    }
}

//! A flow exporter: what the packets of flows come to is told to a collector by IPFIX over UDP (RFC 7011).

use std::net::SocketAddr;

use serde::Serialize;

use super::selection::{FrameSelection, Way};
use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};
use crate::with_selection;

/// What is configured of an exporter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExporterSpec {
    /// Name.
    pub name: String,
    /// Where messages go, reached through the host's own network.
    pub collector: SocketAddr,
    /// Observation domain in messages.
    pub domain: u32,
    /// Seconds after which a flow that goes on is told of.
    pub active_timeout_s: u32,
    /// Seconds without a packet after which a flow is over.
    pub idle_timeout_s: u32,
    /// Seconds between templates (RFC 7011 section 8.4).
    pub template_s: u32,
    /// Most flows at a time; packets of others are counted, but not told of.
    pub flows: u32,
    /// Which frames are counted.
    #[serde(flatten)]
    pub selection: FrameSelection,
}

impl Spec for ExporterSpec {
    const KIND: Kind = Kind::Exporter;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = with_selection![
        required("name", "name", "name of the exporter"),
        required(
            "collector",
            "address:port",
            "where IPFIX messages go by UDP, reached through the host's own network; IANA's port is 4739",
        ),
        optional(
            "domain",
            "integer 0..4294967295",
            "observation domain in messages (default 1)",
        ),
        optional(
            "active_timeout_s",
            "integer 1..86400",
            "seconds after which a flow that goes on is told of (default 60)",
        ),
        optional(
            "idle_timeout_s",
            "integer 1..86400",
            "seconds without a packet after which a flow is over (default 15)",
        ),
        optional(
            "template_s",
            "integer 1..86400",
            "seconds between templates (default 60)",
        ),
        optional(
            "flows",
            "integer 16..1048576",
            "most flows at a time (default 65536)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let collector = fields.required::<SocketAddr>("collector");
        if let Some(address) = collector
            && (address.ip().is_unspecified() || address.port() == 0)
        {
            fields.fault(
                "collector",
                address.to_string(),
                "the address and port of a collector",
            );
        }
        let spec = Self {
            name: String::new(),
            collector: collector.unwrap_or(SocketAddr::from(([0; 4], 0))),
            domain: fields.integer("domain", 0..=u32::MAX, 1),
            active_timeout_s: fields.integer("active_timeout_s", 1..=86_400, 60),
            idle_timeout_s: fields.integer("idle_timeout_s", 1..=86_400, 15),
            template_s: fields.integer("template_s", 1..=86_400, 60),
            flows: fields.integer("flows", 16..=1 << 20, 65_536),
            selection: FrameSelection::read(fields, Way::Ingress),
        };
        collector?;
        Some(Self {
            name: name?.0,
            ..spec
        })
    }
}

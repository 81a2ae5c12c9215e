//! The node: which CPUs poll and how, and where it stands in the underlay.

use serde::Serialize;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional};
use crate::value::IpPrefix;

/// How an lcore behaves when its pollers find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Poll {
    /// Spin for `spin_us`, then sleep until a queue is kicked.
    Adaptive,
    /// Never sleep: lowest latency, one whole core per lcore.
    AlwaysSpin,
}

/// What is configured of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeSpec {
    /// Name, for logs and for the operator.
    pub name: String,
    /// CPU numbers that get a pinned polling thread each, 1 to 64 of them.
    pub lcores: Vec<u16>,
    /// What an idle lcore does.
    pub poll: Poll,
    /// How long an idle lcore spins before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Addresses of the tunnel end point (VTEP): at most one of each family.
    pub underlay: Vec<IpPrefix>,
    /// Name of the port that leads to the underlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Whether it is measured how long frames stay in the engine.
    pub residence: bool,
    /// Whether ports on existing interfaces speak LLDP unless they say otherwise.
    pub lldp: bool,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: "node".to_owned(),
            lcores: vec![0],
            poll: Poll::Adaptive,
            spin_us: 50,
            underlay: Vec::new(),
            uplink: None,
            // RFC 7348 section 4.1: the number assigned by IANA.
            vxlan_port: 4789,
            residence: false,
            lldp: true,
        }
    }
}

impl Spec for NodeSpec {
    const KIND: Kind = Kind::Node;
    const FIXED: &'static [&'static str] = &["lcores"];
    const FIELDS: &'static [Field] = &[
        optional("name", "name", "name of the node (default \"node\")"),
        optional(
            "lcores",
            "list of CPU numbers",
            "CPUs that get a pinned polling thread each (default [0])",
        ),
        optional(
            "poll",
            "\"adaptive\" | \"always-spin\"",
            "what an idle lcore does (default adaptive)",
        ),
        optional(
            "spin_us",
            "integer 0..1000000",
            "how long an idle lcore spins before it sleeps, microseconds (default 50)",
        ),
        optional(
            "underlay",
            "list of address/prefix",
            "tunnel end point addresses, at most one IPv4 and one IPv6",
        ),
        optional("uplink", "port name", "port that leads to the underlay"),
        optional(
            "vxlan_port",
            "integer 1..65535",
            "UDP port of VXLAN (default 4789)",
        ),
        optional(
            "residence",
            "boolean",
            "measure how long frames stay in the engine, for a few cycles of each burst (default false)",
        ),
        optional(
            "lldp",
            "boolean",
            "ports on existing interfaces speak LLDP unless they say otherwise (default true)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let default = Self::default();
        let name = fields.or("name", Name(default.name)).0;
        let lcores = if fields.has("lcores") {
            read_lcores(fields)
        } else {
            default.lcores
        };
        let underlay = fields.list::<IpPrefix>("underlay");
        for (i, prefix) in underlay.iter().enumerate() {
            if underlay[..i]
                .iter()
                .any(|p| p.address.is_ipv4() == prefix.address.is_ipv4())
            {
                fields.fault(
                    "underlay",
                    prefix.to_string(),
                    "at most one address of each family",
                );
            }
        }
        let uplink = fields.optional::<Name>("uplink").map(|n| n.0);
        if !underlay.is_empty() && uplink.is_none() && !fields.has("uplink") {
            fields.fault(
                "uplink",
                "missing",
                "the port that leads to the underlay, because an underlay address is given",
            );
        }
        Some(Self {
            name,
            lcores,
            poll: fields.word(
                "poll",
                &[
                    ("adaptive", Poll::Adaptive),
                    ("always-spin", Poll::AlwaysSpin),
                ],
                default.poll,
            ),
            spin_us: fields.integer("spin_us", 0..=1_000_000, default.spin_us),
            underlay,
            uplink,
            vxlan_port: fields.integer("vxlan_port", 1..=u16::MAX, default.vxlan_port),
            residence: fields.or("residence", default.residence),
            lldp: fields.or("lldp", default.lldp),
        })
    }
}

fn read_lcores(fields: &mut Fields<'_>) -> Vec<u16> {
    let mut lcores = Vec::new();
    for cpu in fields.list::<u64>("lcores") {
        match u16::try_from(cpu) {
            Ok(cpu) if lcores.contains(&cpu) => {
                fields.fault("lcores", format!("CPU {cpu} twice"), "each CPU once")
            }
            Ok(cpu) if cpu < 1024 => lcores.push(cpu),
            _ => fields.fault("lcores", cpu.to_string(), "CPU numbers from 0 to 1023"),
        }
    }
    if lcores.is_empty() || lcores.len() > 64 {
        fields.fault(
            "lcores",
            format!("a list of {} CPUs", lcores.len()),
            "1 to 64 CPUs",
        );
    }
    lcores
}

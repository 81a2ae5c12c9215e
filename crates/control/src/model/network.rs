//! A tenant network: a learning layer-2 segment, stretched over nodes by VXLAN (RFC 7348), Geneve
//! (RFC 8926) or GRE (RFC 2784) with head-end replication of what has to be flooded.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use super::tunnel::{GeneveOption, OPTIONS_MAX, OuterField, read_outer};
use super::{Kind, Spec, read_tables};
use crate::decode::{Field, Fields, FromValue, Name, Wrong, optional, required};
use crate::value::{MacAddr, Vni};

/// A guest address that is known to be behind a remote tunnel end point, never learned or aged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct StaticMac {
    /// The guest's address.
    pub mac: MacAddr,
    /// The tunnel end point behind which it is.
    pub remote: IpAddr,
    /// IP addresses that the guest is known to have; ARP and neighbour discovery for them are answered here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// How the frames of a network travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// VXLAN.
    #[default]
    Vxlan,
    /// Geneve.
    Geneve,
    /// Ethernet in GRE, the network's identifier as key.
    Gre,
}

const OVERLAYS: &[(&str, Overlay)] = &[
    ("vxlan", Overlay::Vxlan),
    ("geneve", Overlay::Geneve),
    ("gre", Overlay::Gre),
];

/// What is configured of a tenant network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkSpec {
    /// Name.
    pub name: String,
    /// Identifier on the wire, unique on the node.
    pub vni: Vni,
    /// How frames travel between nodes.
    pub overlay: Overlay,
    /// Tunnel end points that get a copy of every flooded frame.
    pub remotes: Vec<IpAddr>,
    /// Most frames that are flooded per second (broadcast, multicast, unknown unicast).
    pub flood_limit: u32,
    /// Seconds after which a learned address that was not seen again is forgotten.
    pub ageing_s: u32,
    /// Largest inner frame's layer-3 length in bytes.
    pub mtu: u16,
    /// Addresses that are known beforehand.
    pub static_macs: Vec<StaticMac>,
    /// Whether outer UDP headers carry a checksum; without a word, those over IPv6 do (RFC 8200 section 8.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_checksum: Option<bool>,
    /// Time to live or hop limit of outer headers.
    pub ttl: OuterField,
    /// DSCP of outer headers.
    pub dscp: OuterField,
    /// Whether congestion marks cross the tunnel's ends (RFC 6040 normal mode).
    pub ecn: bool,
    /// Options that every Geneve header carries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub geneve_options: Vec<GeneveOption>,
}

/// Most tunnel end points that a flooded frame is copied to.
pub const REMOTES_MAX: usize = 1024;

/// Most static entries of a network.
pub const STATIC_MACS_MAX: usize = 65_536;

impl Spec for NetworkSpec {
    const KIND: Kind = Kind::Network;
    const FIXED: &'static [&'static str] = &["vni", "overlay"];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the network"),
        required(
            "vni",
            "integer 1..16777215",
            "network identifier on the wire (of GRE the key), unique on the node",
        ),
        optional(
            "overlay",
            "\"vxlan\" | \"geneve\" | \"gre\"",
            "how frames travel between nodes (default vxlan)",
        ),
        optional(
            "remotes",
            "list of addresses",
            "tunnel end points that flooded frames are copied to",
        ),
        optional(
            "flood_limit",
            "integer 1..100000000",
            "flooded frames per second at most (default 10000)",
        ),
        optional(
            "ageing_s",
            "integer 1..86400",
            "seconds after which an unseen address is forgotten (default 300)",
        ),
        optional(
            "mtu",
            "integer 68..9216",
            "largest layer-3 packet of a tenant, bytes (default 1500)",
        ),
        optional(
            "static_macs",
            "list of {mac, remote, addresses}",
            "guests known to be behind a tunnel end point, with the IP addresses that they are known to have",
        ),
        optional(
            "udp_checksum",
            "boolean",
            "checksum in the outer UDP header, of VXLAN and Geneve (default: over IPv6 only)",
        ),
        optional(
            "ttl",
            "1..255 | \"copy\"",
            "time to live of outer headers; copy: the inner packet's (default 64)",
        ),
        optional(
            "dscp",
            "0..63 | \"copy\"",
            "DSCP of outer headers; copy: the inner packet's (default 0)",
        ),
        optional(
            "ecn",
            "boolean",
            "congestion marks cross the tunnel, RFC 6040 (default true)",
        ),
        optional(
            "geneve_options",
            "list of CLASS:TYPE:DATA",
            "options that every Geneve header carries, numbers and hexadecimal data; types from 128 on are critical",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let vni = fields.required::<Vni>("vni");
        let remotes = fields.list::<IpAddr>("remotes");
        if remotes.len() > REMOTES_MAX {
            fields.fault(
                "remotes",
                format!("a list of {}", remotes.len()),
                format!("at most {REMOTES_MAX}"),
            );
            return None;
        }
        for (i, remote) in remotes.iter().enumerate() {
            if remote.is_unspecified() || remote.is_multicast() || remote.is_loopback() {
                fields.fault(
                    "remotes",
                    remote.to_string(),
                    "a unicast address of another node",
                );
            } else if remotes[..i].contains(remote) {
                fields.fault("remotes", format!("{remote} twice"), "each remote once");
            }
        }
        let expected = "a list of tables {mac, remote, addresses}";
        let static_macs = read_tables(fields, "static_macs", expected, read_static_mac);
        if static_macs.len() > STATIC_MACS_MAX {
            fields.fault(
                "static_macs",
                format!("a list of {}", static_macs.len()),
                format!("at most {STATIC_MACS_MAX}"),
            );
        }
        let overlay = fields.word("overlay", OVERLAYS, Overlay::Vxlan);
        let flood_limit = fields.integer("flood_limit", 1..=100_000_000, 10_000);
        let ageing_s = fields.integer("ageing_s", 1..=86_400, 300);
        let mtu = fields.integer("mtu", 68..=9216, 1500);
        let udp_checksum = fields.optional::<bool>("udp_checksum");
        if overlay == Overlay::Gre && udp_checksum.is_some() {
            fields.fault("udp_checksum", "given", "none: GRE has no UDP header");
        }
        let geneve_options = fields.list::<GeneveOption>("geneve_options");
        let length: usize = geneve_options.iter().map(|o| 4 + o.data.len()).sum();
        if length > OPTIONS_MAX {
            fields.fault(
                "geneve_options",
                format!("{length} bytes with their headers"),
                format!("at most {OPTIONS_MAX}"),
            );
        }
        if overlay != Overlay::Geneve && !geneve_options.is_empty() {
            fields.fault("geneve_options", "given", "none: the overlay is not geneve");
        }
        Some(Self {
            udp_checksum,
            ttl: read_outer(fields, "ttl", 1..=255, 64),
            dscp: read_outer(fields, "dscp", 0..=63, 0),
            ecn: fields.or("ecn", true),
            geneve_options,
            name: name?.0,
            vni: vni?,
            overlay,
            remotes,
            flood_limit,
            ageing_s,
            mtu,
            static_macs,
        })
    }
}

/// Most IP addresses of a static entry.
const STATIC_ADDRESSES_MAX: usize = 16;

fn read_static_mac(table: &Map<String, Value>) -> Result<StaticMac, Wrong> {
    let wrong = |expected: &str| Wrong {
        expected: expected.to_owned(),
    };
    let known = ["mac", "remote", "addresses"];
    if table.keys().any(|key| !known.contains(&key.as_str())) {
        return Err(wrong("the fields mac, remote and addresses only"));
    }
    let (Some(mac), Some(remote)) = (table.get("mac"), table.get("remote")) else {
        return Err(wrong("the fields mac and remote"));
    };
    let mac = MacAddr::from_value(mac)?;
    if mac.is_multicast() {
        return Err(wrong("a unicast MAC address"));
    }
    let addresses = table.get("addresses").and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().map(IpAddr::from_value);
    let addresses = addresses.collect::<Result<Vec<IpAddr>, Wrong>>()?;
    if addresses.len() > STATIC_ADDRESSES_MAX {
        return Err(wrong("at most 16 addresses"));
    }
    Ok(StaticMac {
        mac,
        remote: IpAddr::from_value(remote)?,
        addresses,
    })
}

//! A load balancer: a virtual address and port of a network, and the members that serve it.

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};
use serde_json::Value;

use sumeru_switch::balance::{Algorithm, MEMBERS_MAX, WEIGHT_MAX};

use super::{Kind, Spec};
use crate::decode::{Field, Fields, FromValue, Name, Wrong, optional, required};

/// Numbers of load balancers; each has a zone of the connection table.
pub const BALANCERS_MAX: u16 = 1024;
/// The zone of number 0. Those of ports are above, those for rules made by hand below.
const FIRST_ZONE: u16 = 0xe000;
/// Longest path and host of an HTTP probe, in bytes.
const HTTP_TEXT_MAX: usize = 255;
/// Most status codes.
const CODES_MAX: usize = 32;

/// Which protocol is balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BalancedProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl BalancedProtocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What becomes of the connections of a member that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedConnections {
    /// They end: who sends more over TCP gets a reset, and datagrams go to another member.
    Reset,
    /// They go on, if the member does.
    Keep,
}

/// How members are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Monitor {
    /// Not at all.
    None,
    /// A TCP connection is made.
    Tcp,
    /// A page is asked for.
    Http,
}

/// A member, written `ADDRESS:PORT [weight N] [drain]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberSpec {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u16,
    /// It gets no new connection and keeps those that it has.
    pub drain: bool,
}

impl Serialize for MemberSpec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let drain = if self.drain { " drain" } else { "" };
        match self.weight {
            1 => s.collect_str(&format_args!("{}{drain}", self.address)),
            weight => s.collect_str(&format_args!("{} weight {weight}{drain}", self.address)),
        }
    }
}

impl FromValue for MemberSpec {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let read = || {
            let mut words = value.as_str()?.split_ascii_whitespace();
            let address = words.next()?.parse::<SocketAddr>().ok()?;
            let (mut weight, mut drain) = (1, false);
            while let Some(word) = words.next() {
                match word {
                    "weight" => weight = words.next()?.parse().ok()?,
                    "drain" => drain = true,
                    _ => return None,
                }
            }
            let host = address.ip();
            let unicast = !host.is_unspecified() && !host.is_multicast();
            let plain = !matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
            (unicast && plain && address.port() != 0 && weight <= WEIGHT_MAX).then_some(Self {
                address,
                weight,
                drain,
            })
        };
        read().ok_or_else(|| Wrong {
            expected: format!(
                "ADDRESS:PORT [weight 0..{WEIGHT_MAX}] [drain], such as \"10.0.0.11:80 weight 2\""
            ),
        })
    }
}

/// What is configured of a load balancer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadBalancerSpec {
    /// Name.
    pub name: String,
    /// Network with a subnet that has the virtual address.
    pub network: String,
    /// The virtual address.
    pub address: IpAddr,
    /// What is balanced.
    pub protocol: BalancedProtocol,
    /// The port that is called.
    pub port: u16,
    /// Who serves it.
    pub members: Vec<MemberSpec>,
    /// How a member is chosen.
    #[serde(serialize_with = "algorithm_word")]
    pub algorithm: Algorithm,
    /// What becomes of the connections of a member that failed.
    pub failed_connections: FailedConnections,
    /// How members are probed.
    pub monitor: Monitor,
    /// Where probes come from: an address of the virtual address's subnet that is only this node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_source: Option<IpAddr>,
    /// The port that is probed, if it is not the member's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_port: Option<u16>,
    /// Milliseconds between probes of a member.
    pub interval_ms: u32,
    /// Milliseconds that a probe may take.
    pub timeout_ms: u32,
    /// Probes in a row that bring a member back.
    pub rise: u8,
    /// Probes in a row that take it away.
    pub fall: u8,
    /// What is asked for by HTTP.
    pub http_path: String,
    /// The `Host` header; without, the member's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_host: Option<String>,
    /// Status codes of a healthy member.
    pub http_codes: Vec<u16>,
    /// Its number, from which its zone follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u16>,
}

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("source-hash", Algorithm::SourceHash),
    ("least-connections", Algorithm::LeastConnections),
    ("round-robin", Algorithm::RoundRobin),
];

fn algorithm_word<S: Serializer>(algorithm: &Algorithm, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(algorithm.as_str())
}

impl LoadBalancerSpec {
    /// The zone of its connections.
    pub fn zone(&self) -> u16 {
        FIRST_ZONE + self.index.unwrap_or(0)
    }
}

impl Spec for LoadBalancerSpec {
    const KIND: Kind = Kind::LoadBalancer;
    const FIXED: &'static [&'static str] = &["network", "address", "protocol", "port", "index"];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the load balancer"),
        required(
            "network",
            "network name",
            "network with a subnet that has the virtual address",
        ),
        required("address", "address", "the virtual address"),
        required("protocol", "\"tcp\" | \"udp\"", "what is balanced"),
        required("port", "integer 1..65535", "the port that is called"),
        optional(
            "members",
            "list of ADDRESS:PORT [weight 0..256] [drain]",
            "hosts of the network, or of networks that its router joins; at most 128. One with drain keeps its connections and gets no others",
        ),
        optional(
            "algorithm",
            "\"source-hash\" | \"least-connections\" | \"round-robin\"",
            "how a member is chosen, always by weight (default source-hash)",
        ),
        optional(
            "failed_connections",
            "\"reset\" | \"keep\"",
            "what becomes of the connections of a member that probes find to fail (default reset)",
        ),
        optional(
            "monitor",
            "\"none\" | \"tcp\" | \"http\"",
            "how members are probed (default none)",
        ),
        optional(
            "monitor_source",
            "address",
            "where probes come from: a free address of the virtual address's subnet, another one on every node",
        ),
        optional(
            "monitor_port",
            "integer 1..65535",
            "the port that is probed (default: the member's)",
        ),
        optional(
            "interval_ms",
            "integer 100..3600000",
            "milliseconds between probes of a member (default 5000)",
        ),
        optional(
            "timeout_ms",
            "integer 50..60000",
            "milliseconds that a probe may take, at most the interval (default 2000)",
        ),
        optional(
            "rise",
            "integer 1..255",
            "probes in a row that must succeed for a member to come back (default 2)",
        ),
        optional(
            "fall",
            "integer 1..255",
            "probes in a row that must fail for a member to be taken away (default 3)",
        ),
        optional("http_path", "path", "what is asked for (default /)"),
        optional(
            "http_host",
            "host name",
            "the Host header (default: the member's address)",
        ),
        optional(
            "http_codes",
            "list of integers 100..599",
            "status codes of a healthy member (default 200)",
        ),
        optional(
            "index",
            "integer 0..1023",
            "number of the load balancer, whose connections are in zone 57344 + index (default: the lowest free one)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let network = fields.required::<Name>("network");
        let address = fields.required::<IpAddr>("address");
        let protocols = [
            ("tcp", BalancedProtocol::Tcp),
            ("udp", BalancedProtocol::Udp),
        ];
        let protocol = fields.required_word("protocol", &protocols);
        if !fields.has("port") {
            fields.fault("port", "missing", "an integer from 1 to 65535");
        }
        let port = fields.integer("port", 1..=u16::MAX, 1);
        let members = read_members(fields, address);
        let failed = [
            ("reset", FailedConnections::Reset),
            ("keep", FailedConnections::Keep),
        ];
        let algorithm = fields.word("algorithm", &ALGORITHMS, Algorithm::SourceHash);
        let failed_connections = fields.word("failed_connections", &failed, failed[0].1);
        let monitor = fields.word("monitor", &MONITORS, Monitor::None);
        let monitor_source = fields.optional("monitor_source");
        let monitor_port = fields.optional_integer("monitor_port", 1..=u16::MAX);
        let interval_ms = fields.integer("interval_ms", 100..=3_600_000, 5000);
        let timeout_ms = fields.integer("timeout_ms", 50..=60_000, 2000);
        let rise = fields.integer("rise", 1..=u8::MAX, 2);
        let fall = fields.integer("fall", 1..=u8::MAX, 3);
        let http_path = fields.or("http_path", "/".to_owned());
        let http_host = fields.optional("http_host");
        let http_codes = read_codes(fields);
        let index = fields.optional_integer("index", 0..=BALANCERS_MAX - 1);
        // Everything was read by now, so that every fault is told.
        let spec = Self {
            name: name?.0,
            network: network?.0,
            address: address?,
            protocol: protocol?,
            port,
            members,
            algorithm,
            failed_connections,
            monitor,
            monitor_source,
            monitor_port,
            interval_ms,
            timeout_ms,
            rise,
            fall,
            http_path,
            http_host,
            http_codes,
            index,
        };
        Some(spec.checked(fields))
    }
}

/// A status code, as a number or, as command lines have it, its digits.
struct Code(u16);

impl FromValue for Code {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let number = value.as_u64().and_then(|code| u16::try_from(code).ok());
        let code = number.or_else(|| value.as_str()?.parse().ok());
        code.map(Self).ok_or_else(|| Wrong {
            expected: "a status code of 100..599".to_owned(),
        })
    }
}

fn read_codes(fields: &mut Fields<'_>) -> Vec<u16> {
    let codes = fields.list::<Code>("http_codes");
    codes.into_iter().map(|Code(code)| code).collect()
}

const MONITORS: [(&str, Monitor); 3] = [
    ("none", Monitor::None),
    ("tcp", Monitor::Tcp),
    ("http", Monitor::Http),
];

fn read_members(fields: &mut Fields<'_>, address: Option<IpAddr>) -> Vec<MemberSpec> {
    let members = fields.list::<MemberSpec>("members");
    if members.len() > MEMBERS_MAX {
        let found = format!("a list of {}", members.len());
        fields.fault("members", found, format!("at most {MEMBERS_MAX}"));
    }
    for (i, member) in members.iter().enumerate() {
        let host = member.address.ip();
        if members[..i].iter().any(|m| m.address == member.address) {
            let found = format!("{} twice", member.address);
            fields.fault("members", found, "each member once");
        }
        if address.is_some_and(|address| address.is_ipv4() != host.is_ipv4()) {
            let expected = "members of the virtual address's family";
            fields.fault("members", member.address.to_string(), expected);
        }
        if address == Some(host) {
            let expected = "other addresses than the virtual one";
            fields.fault("members", member.address.to_string(), expected);
        }
    }
    members
}

impl LoadBalancerSpec {
    /// What fields say of each other.
    fn checked(mut self, fields: &mut Fields<'_>) -> Self {
        if self.monitor == Monitor::None {
            fields.forbid(&["monitor_source", "monitor_port"], "nothing is probed");
        } else if self.monitor_source.is_none() {
            let expected = "the address that probes come from";
            fields.fault("monitor_source", "missing", expected);
        }
        if let Some(source) = self.monitor_source
            && (source.is_ipv4() != self.address.is_ipv4() || source == self.address)
        {
            let expected = "another address of the virtual address's subnet";
            fields.fault("monitor_source", source.to_string(), expected);
        }
        if self.timeout_ms > self.interval_ms && self.monitor != Monitor::None {
            let expected = format!("at most the interval, {} ms", self.interval_ms);
            fields.fault("timeout_ms", self.timeout_ms.to_string(), expected);
        }
        if self.monitor != Monitor::Http {
            let http = ["http_path", "http_host", "http_codes"];
            let unset = self.http_path == "/" && self.http_host.is_none();
            if !unset || !self.http_codes.is_empty() && self.http_codes != [200] {
                fields.fault(http[0], "set", "monitor = \"http\" with HTTP fields");
            }
        }
        // Nothing that ends a line, and nothing beyond ASCII, goes into a request.
        let clean = |text: &str| {
            text.len() <= HTTP_TEXT_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !self.http_path.starts_with('/') || !clean(&self.http_path) {
            let expected = format!("a path such as /health, at most {HTTP_TEXT_MAX} bytes");
            fields.fault("http_path", format!("{:?}", self.http_path), expected);
        }
        if let Some(host) = self.http_host.as_deref()
            && (host.is_empty() || !clean(host))
        {
            fields.fault("http_host", format!("{host:?}"), "a host name");
        }
        if self.http_codes.is_empty() {
            self.http_codes.push(200);
        }
        let codes = &self.http_codes;
        if codes.len() > CODES_MAX || codes.iter().any(|code| !(100..600).contains(code)) {
            let expected = format!("at most {CODES_MAX} codes of 100..599");
            fields.fault("http_codes", format!("{codes:?}"), expected);
        }
        self
    }
}

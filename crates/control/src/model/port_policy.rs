//! What a port's owner may do: its addresses, its groups, its rates.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::blocklist::read_names;
use crate::decode::{Field, Fields, FromValue, Wrong, optional};
use crate::value::{MacAddr, Prefix};

/// Most groups of a port.
pub const GROUPS_MAX: usize = 64;
/// Most addresses of a port, and most allowed ones beside them.
pub const ADDRESSES_MAX: usize = 256;

/// An address that a port may use beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AllowedAddress {
    /// The address or addresses.
    pub prefix: Prefix,
    /// With this MAC address instead of the port's.
    pub mac: Option<MacAddr>,
}

impl fmt::Display for AllowedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)?;
        self.mac.map_or(Ok(()), |mac| write!(f, "={mac}"))
    }
}

impl Serialize for AllowedAddress {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromValue for AllowedAddress {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let expected = || Wrong {
            expected: "PREFIX or PREFIX=MAC such as 10.0.0.0/24 or 10.0.0.9=52:54:00:00:00:09"
                .to_owned(),
        };
        let text = value.as_str().ok_or_else(expected)?;
        let (prefix, mac) = match text.split_once('=') {
            None => (text, None),
            Some((prefix, mac)) => (
                prefix,
                Some(mac.parse::<MacAddr>().map_err(|_| expected())?),
            ),
        };
        if mac.is_some_and(MacAddr::is_multicast) {
            return Err(expected());
        }
        Ok(Self {
            prefix: prefix.parse().map_err(|_| expected())?,
            mac,
        })
    }
}

/// The policy of a port. Directions are the switch's: rx comes in from the port.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PortPolicy {
    /// Groups whose rules apply. Without any, no group's rules do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// Whether frames must have the port's own addresses.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub port_security: bool,
    /// The port's own addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// What it may use beside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_addresses: Vec<AllowedAddress>,
    /// Kilobits per second that are taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_kbit: Option<u64>,
    /// Kilobits per second that are sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_kbit: Option<u64>,
    /// Packets per second that are taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_packets: Option<u64>,
    /// Packets per second that are sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_packets: Option<u64>,
    /// Milliseconds of the rates that may come at once; [`BURST_MS`] if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_burst_ms: Option<u32>,
    /// Broadcast and multicast frames per second that are taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_limit: Option<u64>,
}

/// Milliseconds of a rate that may come at once unless said otherwise.
pub const BURST_MS: u32 = 100;

const KBIT: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;
const PACKETS: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;

/// The fields, to stand behind those of a port.
pub(super) const FIELDS: [Field; 10] = [
    optional(
        "security_groups",
        "list of security group names",
        "groups whose rules apply (default none: nothing is filtered by group)",
    ),
    optional(
        "port_security",
        "boolean",
        "frames from the port must have its addresses; needs mac (default false)",
    ),
    optional(
        "addresses",
        "list of addresses",
        "the port's own IP addresses",
    ),
    optional(
        "allowed_addresses",
        "list of addresses as PREFIX or PREFIX=MAC",
        "what the port may use beside its own addresses",
    ),
    optional(
        "rx_rate_kbit",
        "integer 1..1000000000",
        "kilobits per second taken from the port at most (default no limit)",
    ),
    optional(
        "tx_rate_kbit",
        "integer 1..1000000000",
        "kilobits per second sent to the port at most (default no limit)",
    ),
    optional(
        "rx_rate_packets",
        "integer 1..1000000000",
        "packets per second taken from the port at most (default no limit)",
    ),
    optional(
        "tx_rate_packets",
        "integer 1..1000000000",
        "packets per second sent to the port at most (default no limit)",
    ),
    optional(
        "rate_burst_ms",
        "integer 1..10000",
        "how much of a rate may come at once, milliseconds (default 100)",
    ),
    optional(
        "storm_limit",
        "integer 1..1000000000",
        "broadcast and multicast frames per second taken from the port at most (default no limit)",
    ),
];

impl PortPolicy {
    pub(super) fn read(fields: &mut Fields<'_>, mac: Option<MacAddr>, uplink: bool) -> Self {
        let security_groups = read_names(fields, "security_groups");
        let port_security = fields.or("port_security", false);
        let addresses = read_addresses(fields);
        let allowed_addresses = fields.list::<AllowedAddress>("allowed_addresses");
        for (field, found, limit) in [
            ("security_groups", security_groups.len(), GROUPS_MAX),
            ("allowed_addresses", allowed_addresses.len(), ADDRESSES_MAX),
        ] {
            if found > limit {
                fields.fault(
                    field,
                    format!("a list of {found}"),
                    format!("at most {limit}"),
                );
            }
        }
        if uplink {
            let why = "an uplink is no guest";
            fields.forbid(
                &[
                    "security_groups",
                    "port_security",
                    "addresses",
                    "allowed_addresses",
                ],
                why,
            );
        }
        if port_security && mac.is_none() {
            fields.fault(
                "mac",
                "missing",
                "the port's address, which port_security holds frames against",
            );
        }
        if !security_groups.is_empty() && !port_security {
            fields.fault(
                "port_security",
                "false",
                "true: groups rely on addresses that the guest cannot choose",
            );
        }
        Self {
            security_groups,
            port_security,
            addresses,
            allowed_addresses,
            rx_rate_kbit: fields.optional_integer("rx_rate_kbit", KBIT),
            tx_rate_kbit: fields.optional_integer("tx_rate_kbit", KBIT),
            rx_rate_packets: fields.optional_integer("rx_rate_packets", PACKETS),
            tx_rate_packets: fields.optional_integer("tx_rate_packets", PACKETS),
            rate_burst_ms: fields.optional_integer("rate_burst_ms", 1..=10_000),
            storm_limit: fields.optional_integer("storm_limit", PACKETS),
        }
    }

    /// Addresses that the port may send from, each with its MAC address if that is not the port's.
    pub fn sources(&self) -> impl Iterator<Item = AllowedAddress> {
        let own = self.addresses.iter().map(|address| AllowedAddress {
            prefix: Prefix::host(*address),
            mac: None,
        });
        own.chain(self.allowed_addresses.iter().copied())
    }
}

fn read_addresses(fields: &mut Fields<'_>) -> Vec<IpAddr> {
    let addresses = fields.list::<IpAddr>("addresses");
    if addresses.len() > ADDRESSES_MAX {
        fields.fault(
            "addresses",
            format!("a list of {}", addresses.len()),
            format!("at most {ADDRESSES_MAX}"),
        );
        return Vec::new();
    }
    for (i, address) in addresses.iter().enumerate() {
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            fields.fault("addresses", address.to_string(), "unicast addresses");
        } else if addresses[..i].contains(address) {
            fields.fault("addresses", format!("{address} twice"), "each address once");
        }
    }
    addresses
}

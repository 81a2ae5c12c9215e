//! A subnet: addresses of a network, and what the switch tells the network's hosts of them by ARP, neighbour discovery, DHCP and router advertisements.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use sumeru_packet::dhcp4::{OPTION_MAX, OPTIONS_FIT};
use sumeru_switch::services::DNS_SERVERS_MAX;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, FromValue, Name, Wrong, optional, required};
use crate::value::Prefix;

/// Most routes of a subnet or router.
pub const ROUTES_MAX: usize = 256;

/// A route, written `PREFIX=ADDRESS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteSpec {
    /// Where to.
    pub prefix: Prefix,
    /// The router on the way.
    pub via: IpAddr,
}

impl Serialize for RouteSpec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}={}", self.prefix, self.via))
    }
}

impl FromValue for RouteSpec {
    fn from_value(value: &serde_json::Value) -> Result<Self, Wrong> {
        let read = || {
            let (prefix, via) = value.as_str()?.split_once('=')?;
            let (prefix, via) = (prefix.parse::<Prefix>().ok()?, via.parse::<IpAddr>().ok()?);
            let unicast = !via.is_unspecified() && !via.is_multicast();
            (prefix.is_ipv6() == via.is_ipv6() && unicast).then_some(Self { prefix, via })
        };
        read().ok_or_else(|| Wrong {
            expected: "PREFIX=ADDRESS of one family, such as 10.1.0.0/16=10.0.0.254".to_owned(),
        })
    }
}

/// Reads the routes of a subnet or router.
pub(super) fn read_routes(fields: &mut Fields<'_>) -> Vec<RouteSpec> {
    let routes = fields.list::<RouteSpec>("routes");
    for (i, route) in routes.iter().enumerate() {
        if routes[..i].iter().any(|other| other.prefix == route.prefix) {
            fields.fault(
                "routes",
                format!("{} twice", route.prefix),
                "each prefix once",
            );
        }
    }
    if routes.len() > ROUTES_MAX {
        let expected = format!("at most {ROUTES_MAX}");
        fields.fault("routes", format!("a list of {}", routes.len()), expected);
    }
    routes
}

/// What is configured of a subnet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubnetSpec {
    /// Name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Its addresses.
    pub prefix: Prefix,
    /// The router that its hosts are told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether ports are given their addresses by DHCP or DHCPv6.
    pub dhcp: bool,
    /// Address of the DHCP server, if it is not the gateway's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_server: Option<IpAddr>,
    /// Seconds that an address may be used before it is asked for again.
    pub lease_s: u32,
    /// DNS servers that hosts are told of.
    pub dns_servers: Vec<IpAddr>,
    /// Domain name that hosts are told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Routes that hosts are told of by DHCP.
    pub routes: Vec<RouteSpec>,
    /// IPv6: whether the link is told of the prefix and the router.
    pub router_advertisements: bool,
}

impl Spec for SubnetSpec {
    const KIND: Kind = Kind::Subnet;
    const FIXED: &'static [&'static str] = &["network", "prefix"];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the subnet"),
        required(
            "network",
            "network name",
            "network whose addresses they are",
        ),
        required(
            "prefix",
            "address prefix",
            "its addresses, such as 10.0.0.0/24",
        ),
        optional(
            "gateway",
            "address",
            "router that hosts are told of, and that a router object has on the network",
        ),
        optional(
            "dhcp",
            "boolean",
            "the switch gives ports their addresses by DHCP or DHCPv6 (default false)",
        ),
        optional(
            "dhcp_server",
            "address",
            "IPv4: address of the DHCP server (default: the gateway)",
        ),
        optional(
            "lease_s",
            "integer 60..4294967295",
            "seconds that an address may be used before it is asked for again (default 86400)",
        ),
        optional("dns_servers", "list of addresses", "DNS servers, at most 4"),
        optional("domain", "domain name", "domain of the hosts"),
        optional(
            "routes",
            "list of PREFIX=ADDRESS",
            "IPv4: routes that DHCP tells hosts of besides the gateway",
        ),
        optional(
            "router_advertisements",
            "boolean",
            "IPv6: the switch advertises the prefix and the router; hosts make themselves an address unless dhcp is set (default false)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let network = fields.required::<Name>("network");
        let prefix = fields.required::<Prefix>("prefix");
        let gateway = fields.optional::<IpAddr>("gateway");
        let dhcp = fields.or("dhcp", false);
        let dhcp_server = fields.optional::<IpAddr>("dhcp_server");
        let lease_s = fields.integer("lease_s", 60..=u32::MAX, 86_400);
        let dns_servers = fields.list::<IpAddr>("dns_servers");
        let domain = fields.optional::<String>("domain");
        let routes = read_routes(fields);
        let router_advertisements = fields.or("router_advertisements", false);
        let prefix = prefix?;
        for (field, address) in [("gateway", gateway), ("dhcp_server", dhcp_server)] {
            let outside = address.filter(|address| !is_host_of(*address, prefix));
            if let Some(address) = outside {
                fields.fault(field, address.to_string(), format!("a host of {prefix}"));
            }
        }
        let families = dns_servers
            .iter()
            .copied()
            .chain(routes.iter().map(|route| route.via));
        if let Some(other) = families
            .into_iter()
            .find(|a| a.is_ipv6() != prefix.is_ipv6())
        {
            let field = if dns_servers.contains(&other) {
                "dns_servers"
            } else {
                "routes"
            };
            fields.fault(field, other.to_string(), "addresses of the prefix's family");
        }
        if dns_servers.len() > DNS_SERVERS_MAX {
            let expected = format!("at most {DNS_SERVERS_MAX}");
            fields.fault(
                "dns_servers",
                format!("a list of {}", dns_servers.len()),
                expected,
            );
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || c == b'-')
        };
        if let Some(domain) = &domain
            && (domain.len() > 253 || !domain.split('.').all(label))
        {
            fields.fault(
                "domain",
                format!("{domain:?}"),
                "a domain name such as example.org",
            );
        }
        if prefix.is_ipv6() {
            fields.forbid(&["dhcp_server"], "the subnet is of IPv6");
            if let Some(route) = routes.first() {
                let expected = "no routes: DHCPv6 has none, router advertisements no others";
                fields.fault("routes", route.prefix.to_string(), expected);
            }
            if router_advertisements && !dhcp && prefix.length() != 64 {
                let expected = "a prefix of 64 bits, in which hosts can make themselves an address";
                fields.fault("prefix", prefix.to_string(), expected);
            }
        } else {
            if router_advertisements {
                fields.fault("router_advertisements", "true", "false for IPv4");
            }
            if dhcp {
                let (routers, servers) = (usize::from(gateway.is_some()), dns_servers.len());
                check_lease(fields, &routes, routers, servers, domain.as_deref());
            }
            if dhcp && gateway.is_none() && dhcp_server.is_none() {
                let expected = "an address for the DHCP server, or a gateway";
                fields.fault("dhcp_server", "missing", expected);
            }
        }
        Some(Self {
            name: name?.0,
            network: network?.0,
            prefix,
            gateway,
            dhcp,
            dhcp_server,
            lease_s,
            dns_servers,
            domain,
            routes,
            router_advertisements,
        })
    }
}

/// Whether an address may be a host's in a prefix: not that of all hosts, nor of the prefix itself.
/// Bytes of the options of every lease: the message's kind, its server, the client's identifier as long as they usually are (RFC 4361 with a DUID of
/// 14 bytes), three times, mask, MTU, and the end.
const LEASE_OPTIONS: usize = 3 + 6 + 2 + 19 + 18 + 6 + 4 + 1;

/// Holds what DHCP is to tell against the message that every client takes: a client that gets no answer gets no address.
fn check_lease(
    fields: &mut Fields<'_>,
    routes: &[RouteSpec],
    routers: usize,
    dns_servers: usize,
    domain: Option<&str>,
) {
    let option = |len: usize| if len == 0 { 0 } else { 2 + len };
    // RFC 3442: the length, as many bytes as it takes, the router; and the default route.
    let route = |route: &RouteSpec| 5 + usize::from(route.prefix.length()).div_ceil(8);
    let mut told: usize = routes.iter().map(route).sum();
    if told > 0 {
        told += 5 * routers;
    }
    if told > OPTION_MAX {
        let found = format!("{} that take {told} bytes", routes.len());
        let expected = format!("at most {OPTION_MAX} bytes of routes, which is what DHCP can tell");
        fields.fault("routes", found, expected);
    }
    let domain = domain.map_or(0, str::len);
    let lists = [told, 4 * routers, 4 * dns_servers, domain];
    let whole = LEASE_OPTIONS + lists.into_iter().map(option).sum::<usize>();
    if told <= OPTION_MAX && whole > OPTIONS_FIT {
        let field = if told > domain { "routes" } else { "domain" };
        let found = format!("DHCP options of {whole} bytes");
        let expected = format!("at most {OPTIONS_FIT}, which every client takes");
        fields.fault(field, found, expected);
    }
}

/// Whether an address is one that a host of a prefix may have.
pub(crate) fn is_host_of(address: IpAddr, prefix: Prefix) -> bool {
    let broadcast = match (address, prefix.address()) {
        (IpAddr::V4(address), IpAddr::V4(first)) if prefix.length() < 31 => {
            let hosts = u32::MAX >> prefix.length();
            [0, hosts].contains(&(address.to_bits() ^ first.to_bits()))
        }
        _ => false,
    };
    prefix.covers(Prefix::host(address)) && !broadcast && !address.is_multicast()
}

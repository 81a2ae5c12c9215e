//! What the switch itself does for the hosts of networks, compiled from the objects: subnets say which addresses and servers a network has, ports
//! and static entries which of them are whose, routers which networks are joined, floating IPs which ports
//! have addresses outside.
//!
//! The whole is compiled at every change of one of them and handed over at once; parts that are the same stay the same.

mod balance;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sumeru_switch::services::{
    AdvertisedPrefix, Advertisement, DNS_SERVERS_MAX, Floating, Host, Lease4, Lease6, LeasedRoute,
    Leases, PREFIXES_MAX, Place, Route, Router, Services, Way, link_local,
};

use crate::inventory::Inventory;
use crate::model::{Any, Kind, Network, Port, RouteSpec, RouterSpec, SubnetSpec};
use crate::value::Prefix;

pub use balance::{balancers, departed};

/// By VXLAN network identifier.
pub type ServiceMap = HashMap<u32, Arc<Services>>;

/// Seconds that an advertised router is used (RFC 4861 section 6.2.1, AdvDefaultLifetime).
const ROUTER_LIFETIME: u16 = 1800;
/// Seconds that an advertised prefix is valid, and its addresses preferred (AdvValidLifetime, AdvPreferredLifetime).
const PREFIX_LIFETIMES: (u32, u32) = (2_592_000, 604_800);
/// What is never routed: groups, and what is good on one link or host only (RFC 6890).
const NOWHERE: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];

/// The switch's own link-layer address on a network: locally administered, the same on every node.
pub fn own_mac(vni: u32) -> [u8; 6] {
    let [_, a, b, c] = vni.to_be_bytes();
    [0x06, 0x73, 0x75, a, b, c]
}

/// What is known of a network.
struct Site<'a> {
    network: &'a Network,
    subnets: Vec<&'a SubnetSpec>,
    router: Option<&'a RouterSpec>,
}

/// Compiles the services of all networks that have any. What is as it was `before` is shared with it.
pub fn compile(inventory: &Inventory, before: &ServiceMap) -> ServiceMap {
    let mut sites: BTreeMap<&str, Site<'_>> = BTreeMap::new();
    for any in inventory.of(Kind::Network) {
        let Any::Network(network) = any else { continue };
        let site = Site {
            network,
            subnets: Vec::new(),
            router: None,
        };
        sites.insert(&network.spec.name, site);
    }
    for any in inventory.of(Kind::Subnet) {
        let Any::Subnet(subnet) = any else { continue };
        if let Some(site) = sites.get_mut(subnet.spec.network.as_str()) {
            site.subnets.push(&subnet.spec);
        }
    }
    for any in inventory.of(Kind::Router) {
        let Any::Router(router) = any else { continue };
        for name in &router.spec.networks {
            if let Some(site) = sites.get_mut(name.as_str()) {
                site.router = Some(&router.spec);
            }
        }
    }
    let mut ports: BTreeMap<&str, Vec<&Port>> = BTreeMap::new();
    for port in inventory.ports() {
        if let Some(network) = &port.spec.network {
            ports.entry(network).or_default().push(port);
        }
    }
    let mut routers: BTreeMap<&str, Arc<Router>> = BTreeMap::new();
    let floating_ips = floating_ips(inventory, &sites);
    let mut made: HashMap<u32, Services> = HashMap::new();
    for (name, site) in &sites {
        if site.subnets.is_empty() && site.router.is_none() {
            continue;
        }
        let router = site.router.map(|spec| {
            let made = routers
                .entry(&spec.name)
                .or_insert_with(|| Arc::new(router(spec, &sites)));
            made.clone()
        });
        let ports = ports.get(name).map_or(&[][..], Vec::as_slice);
        let mut services = services(site, ports, router);
        let vni = site.network.spec.vni.get();
        for floating in &floating_ips {
            if floating.network == vni {
                let host = Host {
                    mac: floating.mac,
                    place: Place::Here,
                };
                services.hosts.insert(floating.address, host);
                services.floating_macs.insert(floating.mac);
                services.floating.insert(floating.address, floating.clone());
            }
            if floating.inside_network == vni {
                services.outside.insert(floating.inside, floating.clone());
            }
        }
        made.insert(vni, services);
    }
    balance::add(inventory, &sites, before, &mut made);
    let compiled = made.into_iter().map(|(vni, services)| {
        let same = before.get(&vni).filter(|before| ***before == services);
        (vni, same.cloned().unwrap_or_else(|| Arc::new(services)))
    });
    compiled.collect()
}

/// A floating address's own link-layer address: locally administered, the same on every node.
fn floating_mac(address: IpAddr) -> [u8; 6] {
    let bits = match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    };
    let [a, b, c, d] = bits.to_be_bytes();
    [0x0a, 0x73, a, b, c, d]
}

fn floating_ips(inventory: &Inventory, sites: &BTreeMap<&str, Site<'_>>) -> Vec<Floating> {
    let floating = |any: &Any| {
        let Any::FloatingIp(floating) = any else {
            return None;
        };
        let spec = &floating.spec;
        let outside = sites.get(spec.network.as_str())?;
        let port = inventory.port(&spec.port)?;
        let inside = sites.get(port.spec.network.as_deref()?)?;
        let mut subnets = outside.subnets.iter();
        let subnet = subnets.find(|subnet| subnet.prefix.covers(Prefix::host(spec.address)))?;
        Some(Floating {
            name: spec.name.as_str().into(),
            address: spec.address,
            mac: floating_mac(spec.address),
            network: outside.network.spec.vni.get(),
            prefix: (subnet.prefix.address(), subnet.prefix.length()),
            gateway: subnet.gateway,
            port: port.spec.index(),
            inside_network: inside.network.spec.vni.get(),
            inside: inventory.inside_of(spec)?,
        })
    };
    inventory
        .of(Kind::FloatingIp)
        .filter_map(floating)
        .collect()
}

fn router(spec: &RouterSpec, sites: &BTreeMap<&str, Site<'_>>) -> Router {
    let joined = || {
        spec.networks
            .iter()
            .filter_map(|name| sites.get(name.as_str()))
    };
    let mut routes: Vec<Route> = NOWHERE
        .iter()
        .map(|(prefix, length)| Route {
            prefix: *prefix,
            length: *length,
            way: Way::Nowhere,
        })
        .collect();
    let host = |address: IpAddr| Route {
        prefix: address,
        length: if address.is_ipv4() { 32 } else { 128 },
        way: Way::Own,
    };
    for site in joined() {
        let vni = site.network.spec.vni.get();
        routes.push(host(link_local(own_mac(vni)).into()));
        for subnet in &site.subnets {
            routes.extend(subnet.gateway.map(host));
            routes.push(Route {
                prefix: subnet.prefix.address(),
                length: subnet.prefix.length(),
                way: Way::Link(vni),
            });
        }
    }
    for RouteSpec { prefix, via } in &spec.routes {
        let via_prefix = Prefix::host(*via);
        let on = joined().find(|site| {
            let mut prefixes = site.subnets.iter().map(|subnet| subnet.prefix);
            prefixes.any(|prefix| prefix.covers(via_prefix))
        });
        if let Some(site) = on {
            routes.push(Route {
                prefix: prefix.address(),
                length: prefix.length(),
                way: Way::Via(site.network.spec.vni.get(), *via),
            });
        }
    }
    Router {
        name: spec.name.as_str().into(),
        routes,
    }
}

fn services(site: &Site<'_>, ports: &[&Port], router: Option<Arc<Router>>) -> Services {
    let spec = &site.network.spec;
    let mac = own_mac(spec.vni.get());
    let mut services = Services {
        mac,
        mtu: spec.mtu,
        ..Services::default()
    };
    let over_ipv6 = site.subnets.iter().any(|subnet| subnet.prefix.is_ipv6());
    for known in &spec.static_macs {
        let host = Host {
            mac: known.mac.0,
            place: Place::Remote(known.remote),
        };
        let addresses = known.addresses.iter().copied();
        services
            .hosts
            .extend(addresses.map(|address| (address, host)));
    }
    for port in ports {
        let index = port.spec.index();
        if let Some(mac) = port.spec.mac {
            let host = Host {
                mac: mac.0,
                place: Place::Port(index),
            };
            let own = over_ipv6.then(|| IpAddr::V6(link_local(mac.0)));
            let addresses = port.spec.policy.addresses.iter().copied().chain(own);
            services
                .hosts
                .extend(addresses.map(|address| (address, host)));
        }
        let leases = leases(site, port, mac);
        if leases != Leases::default() {
            services.leases.insert(index, leases);
        }
    }
    let here = Host {
        mac,
        place: Place::Here,
    };
    for subnet in &site.subnets {
        let gateway = subnet.gateway.filter(|_| router.is_some());
        let own = [gateway, subnet.dhcp_server];
        services
            .hosts
            .extend(own.into_iter().flatten().map(|address| (address, here)));
        match gateway {
            Some(IpAddr::V4(own)) => services.own.0 = services.own.0.or(Some(own)),
            Some(IpAddr::V6(own)) => services.own.1 = services.own.1.or(Some(own)),
            None => {}
        }
    }
    if over_ipv6 {
        services.hosts.insert(link_local(mac).into(), here);
    }
    services.advertisement = advertisement(site, mac, router.is_some());
    services.router = router;
    services
}

/// What a port's DHCP clients are told: of its addresses the first in a subnet with DHCP, per family.
fn leases(site: &Site<'_>, port: &Port, mac: [u8; 6]) -> Leases {
    let mut leases = Leases::default();
    let mtu = site.network.spec.mtu.min(port.spec.mtu);
    for subnet in site.subnets.iter().filter(|subnet| subnet.dhcp) {
        let inside = |address: &&IpAddr| subnet.prefix.covers(Prefix::host(**address));
        match port.spec.policy.addresses.iter().find(inside) {
            Some(IpAddr::V4(address)) if leases.v4.is_none() => {
                leases.v4 = lease4(subnet, *address, port, mac, mtu).map(Arc::new);
            }
            Some(IpAddr::V6(address)) if leases.v6.is_none() => {
                leases.v6 = Some(Arc::new(Lease6 {
                    server_mac: mac,
                    address: *address,
                    lease_s: subnet.lease_s,
                    dns_servers: v6_of(&subnet.dns_servers),
                    domain: subnet.domain.as_deref().unwrap_or_default().into(),
                }));
            }
            _ => {}
        }
    }
    leases
}

fn lease4(
    subnet: &SubnetSpec,
    address: Ipv4Addr,
    port: &Port,
    server_mac: [u8; 6],
    mtu: u16,
) -> Option<Lease4> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let gateway = subnet.gateway.and_then(v4);
    let server = subnet.dhcp_server.and_then(v4).or(gateway)?;
    let route = |route: &RouteSpec| {
        Some(LeasedRoute {
            network: v4(route.prefix.address())?,
            len: route.prefix.length(),
            router: v4(route.via)?,
        })
    };
    let mut routes: Vec<LeasedRoute> = subnet.routes.iter().filter_map(route).collect();
    // Who takes routes ignores the router (RFC 3442).
    if let Some(router) = gateway.filter(|_| !routes.is_empty()) {
        routes.push(LeasedRoute {
            network: Ipv4Addr::UNSPECIFIED,
            len: 0,
            router,
        });
    }
    Some(Lease4 {
        server,
        server_mac,
        client: port.spec.mac.map(|mac| mac.0),
        address,
        length: subnet.prefix.length(),
        lease_s: subnet.lease_s,
        routers: gateway.into_iter().collect(),
        dns_servers: subnet.dns_servers.iter().copied().filter_map(v4).collect(),
        routes,
        domain: subnet.domain.as_deref().unwrap_or_default().into(),
        mtu,
    })
}

fn v6_of(addresses: &[IpAddr]) -> Vec<Ipv6Addr> {
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    };
    addresses.iter().filter_map(v6).collect()
}

fn advertisement(site: &Site<'_>, mac: [u8; 6], routed: bool) -> Option<Arc<Advertisement>> {
    let advertised: Vec<&&SubnetSpec> = site
        .subnets
        .iter()
        .filter(|subnet| subnet.router_advertisements)
        .take(PREFIXES_MAX)
        .collect();
    if advertised.is_empty() {
        return None;
    }
    let (valid, preferred) = PREFIX_LIFETIMES;
    let prefix = |subnet: &&&SubnetSpec| match subnet.prefix.address() {
        IpAddr::V6(address) => Some(AdvertisedPrefix {
            address,
            len: subnet.prefix.length(),
            on_link: true,
            autonomous: !subnet.dhcp,
            valid,
            preferred,
        }),
        IpAddr::V4(_) => None,
    };
    let gateway = advertised.iter().any(|subnet| subnet.gateway.is_some());
    let mut dns_servers: Vec<Ipv6Addr> = advertised
        .iter()
        .flat_map(|subnet| v6_of(&subnet.dns_servers))
        .collect();
    dns_servers.truncate(DNS_SERVERS_MAX);
    Some(Arc::new(Advertisement {
        mac,
        lifetime: if routed && gateway {
            ROUTER_LIFETIME
        } else {
            0
        },
        managed: advertised.iter().any(|subnet| subnet.dhcp),
        mtu: site.network.spec.mtu,
        prefixes: advertised.iter().filter_map(prefix).collect(),
        dns_servers,
    }))
}

#[cfg(test)]
mod tests;

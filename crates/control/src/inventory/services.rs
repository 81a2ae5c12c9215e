//! References of subnets and routers, and what only one of them can have.

use super::Inventory;
use crate::error::Error;
use crate::model::{Any, FloatingIp, FloatingIpSpec, Kind, RouterSpec, SubnetSpec, is_host_of};
use crate::value::Prefix;

/// Least MTU of a link that carries IPv6.
const IPV6_LEAST_MTU: u16 = 1280;

impl Inventory {
    pub(super) fn subnets(&self) -> impl Iterator<Item = &SubnetSpec> {
        self.of(Kind::Subnet).filter_map(|any| match any {
            Any::Subnet(subnet) => Some(&subnet.spec),
            _ => None,
        })
    }

    pub(super) fn routers(&self) -> impl Iterator<Item = &RouterSpec> {
        self.of(Kind::Router).filter_map(|any| match any {
            Any::Router(router) => Some(&router.spec),
            _ => None,
        })
    }

    fn floating_ips(&self) -> impl Iterator<Item = &FloatingIpSpec> {
        self.of(Kind::FloatingIp).filter_map(|any| match any {
            Any::FloatingIp(floating) => Some(&floating.spec),
            _ => None,
        })
    }

    /// Floating IPs that stand for a port.
    pub(super) fn floating_ips_of(&self, port: &str) -> Vec<String> {
        let of_port = self.floating_ips().filter(|floating| floating.port == port);
        of_port
            .map(|floating| format!("floating-ip {}", floating.name))
            .collect()
    }

    /// Whether what a floating IP names is there, and nobody else has its address or stands for the same.
    pub(super) fn admit_floating_ip(&self, floating: &FloatingIp) -> Result<(), Error> {
        let spec = &floating.spec;
        let object = format!("floating-ip {}", spec.name);
        for (field, name, kind) in [
            ("network", &spec.network, Kind::Network),
            ("port", &spec.port, Kind::Port),
        ] {
            if self.get(kind, name).is_none() {
                return Err(Error::Dangling {
                    object,
                    field,
                    name: name.clone(),
                    kind,
                });
            }
        }
        let mut others = self.floating_ips().filter(|other| other.name != spec.name);
        let owner =
            others.find(|other| other.network == spec.network && other.address == spec.address);
        let owner = owner.map(|other| format!("floating-ip {}", other.name));
        self.taken(&object, "address", spec.address.to_string(), owner)?;
        let mut others = self.floating_ips().filter(|other| other.name != spec.name);
        let owner = others
            .find(|other| other.port == spec.port && self.inside_of(other) == self.inside_of(spec));
        let owner = owner.map(|other| format!("floating-ip {}", other.name));
        self.taken(&object, "port", spec.port.clone(), owner)
    }

    /// The address that a floating IP stands for.
    pub(crate) fn inside_of(&self, floating: &FloatingIpSpec) -> Option<std::net::IpAddr> {
        let addresses = &self.port(&floating.port)?.spec.policy.addresses;
        let mut same = addresses
            .iter()
            .filter(|own| own.is_ipv4() == floating.address.is_ipv4());
        match floating.port_address {
            Some(wanted) => same.find(|own| **own == wanted).copied(),
            None => same.next().copied(),
        }
    }

    /// Whether every floating IP is of its network, and its port can be reached by it.
    pub(super) fn check_floating_ips(&self) -> Result<(), Error> {
        for floating in self.floating_ips() {
            let object = format!("floating-ip {}", floating.name);
            let mut subnets = self.subnets();
            if !subnets.any(|subnet| {
                let own = [subnet.gateway, subnet.dhcp_server];
                subnet.network == floating.network
                    && is_host_of(floating.address, subnet.prefix)
                    && !own.contains(&Some(floating.address))
            }) {
                let expected = format!("a host of a subnet of network {}", floating.network);
                return Err(Error::fault(
                    &object,
                    "address",
                    floating.address.to_string(),
                    expected,
                ));
            }
            let mut ports = self.ports();
            let owner = ports.find(|port| {
                port.spec.network.as_ref() == Some(&floating.network)
                    && port.spec.policy.addresses.contains(&floating.address)
            });
            let owner = owner.map(|port| format!("port {}", port.spec.name));
            self.taken(&object, "address", floating.address.to_string(), owner)?;
            let Some(port) = self.port(&floating.port) else {
                continue;
            };
            let routed = port.spec.network.as_ref().is_some_and(|network| {
                *network != floating.network
                    && self
                        .routers()
                        .any(|router| router.networks.contains(network))
            });
            let (found, expected) = if port.spec.mac.is_none() {
                ("has no mac", "a port with a mac")
            } else if self.inside_of(floating).is_none() {
                (
                    "has no such address",
                    "a port with the address, or with one of the same family",
                )
            } else if !routed {
                (
                    "is on a network without a router",
                    "a port on a network of a router, not on the outside one",
                )
            } else {
                continue;
            };
            let found = format!("{}, which {found}", floating.port);
            return Err(Error::fault(&object, "port", found, expected));
        }
        Ok(())
    }

    /// Subnets and routers that name a network.
    pub(super) fn services_with(&self, network: &Any) -> impl Iterator<Item = String> + use<> {
        let name = network.name();
        let subnets = self.subnets().filter(|subnet| subnet.network == name);
        let routers = self
            .routers()
            .filter(|router| router.networks.contains(&name));
        let floating = self
            .floating_ips()
            .filter(|floating| floating.network == name);
        let balancers = self
            .load_balancers()
            .filter(|balancer| balancer.network == name);
        let users: Vec<String> = subnets
            .map(|subnet| format!("subnet {}", subnet.name))
            .chain(routers.map(|router| format!("router {}", router.name)))
            .chain(floating.map(|floating| format!("floating-ip {}", floating.name)))
            .chain(balancers.map(|balancer| format!("load-balancer {}", balancer.name)))
            .collect();
        users.into_iter()
    }

    /// Whether the networks of a subnet or router are there, and its prefix or networks are free.
    pub(super) fn admit_service(&self, any: &Any) -> Result<(), Error> {
        let object = any.label();
        let names: Vec<(&'static str, &String)> = match any {
            Any::Subnet(subnet) => vec![("network", &subnet.spec.network)],
            Any::Router(router) => router
                .spec
                .networks
                .iter()
                .map(|name| ("networks", name))
                .collect(),
            _ => Vec::new(),
        };
        if let Some((field, name)) = names.iter().find(|(_, name)| self.network(name).is_none()) {
            return Err(Error::Dangling {
                object,
                field,
                name: (*name).clone(),
                kind: Kind::Network,
            });
        }
        match any {
            Any::Subnet(subnet) => {
                let spec = &subnet.spec;
                let owner = self.subnets().find(|other| {
                    other.name != spec.name && other.network == spec.network && overlap(other, spec)
                });
                let owner = owner.map(|other| format!("subnet {}", other.name));
                self.taken(&object, "prefix", spec.prefix.to_string(), owner)
            }
            Any::Router(router) => {
                let spec = &router.spec;
                let mut others = self.routers().filter(|other| other.name != spec.name);
                let owner = others.find_map(|other| {
                    let shared = spec
                        .networks
                        .iter()
                        .find(|name| other.networks.contains(name));
                    shared.map(|name| (name.clone(), format!("router {}", other.name)))
                });
                match owner {
                    Some((name, owner)) => self.taken(&object, "networks", name, Some(owner)),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether every router can tell its networks apart, and reach the next routers of its routes.
    /// A link that carries IPv6 carries packets of 1280 bytes (RFC 8200 section 5): hosts take no smaller MTU for an answer.
    pub(super) fn check_subnets(&self) -> Result<(), Error> {
        for subnet in self.subnets().filter(|subnet| subnet.prefix.is_ipv6()) {
            let Some(network) = self.network(&subnet.network) else {
                continue;
            };
            if network.spec.mtu < IPV6_LEAST_MTU {
                let object = format!("network {}", network.spec.name);
                let expected = format!(
                    "at least {IPV6_LEAST_MTU} for the IPv6 subnet {}",
                    subnet.name
                );
                return Err(Error::fault(
                    &object,
                    "mtu",
                    network.spec.mtu.to_string(),
                    expected,
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_routers(&self) -> Result<(), Error> {
        for router in self.routers() {
            let object = format!("router {}", router.name);
            let joined: Vec<&SubnetSpec> = self
                .subnets()
                .filter(|subnet| router.networks.contains(&subnet.network))
                .collect();
            for (i, subnet) in joined.iter().enumerate() {
                if let Some(other) = joined[..i].iter().find(|other| overlap(other, subnet)) {
                    let found = format!("those of subnets {} and {}", other.name, subnet.name);
                    let expected = "networks whose prefixes do not overlap";
                    return Err(Error::fault(&object, "networks", found, expected));
                }
            }
            for route in &router.routes {
                let via = Prefix::host(route.via);
                let other = |subnet: &&SubnetSpec| {
                    subnet.prefix.covers(via) && subnet.gateway != Some(route.via)
                };
                if !joined.iter().any(other) {
                    let expected = "a host of a subnet of its networks, and not the router itself";
                    return Err(Error::fault(
                        &object,
                        "routes",
                        route.via.to_string(),
                        expected,
                    ));
                }
            }
        }
        Ok(())
    }
}

fn overlap(one: &SubnetSpec, other: &SubnetSpec) -> bool {
    one.prefix.covers(other.prefix) || other.prefix.covers(one.prefix)
}

//! References of load balancers, and what only one of them can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Inventory;
use crate::error::Error;
use crate::model::{Any, BALANCERS_MAX, Kind, LoadBalancer, LoadBalancerSpec};
use crate::value::Prefix;

/// Most load balancers of one member: what it sends is looked up in the zone of each.
const SHARED_MAX: usize = 8;

impl Inventory {
    pub(super) fn load_balancers(&self) -> impl Iterator<Item = &LoadBalancerSpec> {
        self.of(Kind::LoadBalancer).filter_map(|any| match any {
            Any::LoadBalancer(balancer) => Some(&balancer.spec),
            _ => None,
        })
    }

    /// The lowest number that no load balancer has.
    pub(super) fn number_load_balancer(&self, mut balancer: LoadBalancer) -> Result<Any, Error> {
        let taken = |index: &u16| self.load_balancers().any(|of| of.index == Some(*index));
        let free = (0..BALANCERS_MAX).find(|index| !taken(index));
        let free = free.ok_or_else(|| {
            let object = format!("load-balancer {}", balancer.spec.name);
            let expected = format!("at most {BALANCERS_MAX} load balancers");
            Error::fault(&object, "index", "none free", expected)
        })?;
        balancer.spec.index = Some(free);
        Ok(balancer.into())
    }

    /// Whether its network is there, and its number, address and port are free.
    pub(super) fn admit_load_balancer(&self, balancer: &LoadBalancer) -> Result<(), Error> {
        let spec = &balancer.spec;
        let object = format!("load-balancer {}", spec.name);
        if self.network(&spec.network).is_none() {
            return Err(Error::Dangling {
                object,
                field: "network",
                name: spec.network.clone(),
                kind: Kind::Network,
            });
        }
        let others = || {
            self.load_balancers()
                .filter(|other| other.name != spec.name)
        };
        let label = |other: &LoadBalancerSpec| format!("load-balancer {}", other.name);
        let owner = others().find(|other| other.index == spec.index);
        let index = spec.index.unwrap_or(0).to_string();
        self.taken(&object, "index", index, owner.map(label))?;
        let called = |of: &LoadBalancerSpec| (of.network.clone(), of.address, of.protocol, of.port);
        let owner = others().find(|other| called(other) == called(spec));
        self.taken(&object, "port", spec.port.to_string(), owner.map(label))
    }

    /// Whether an address may be a load balancer's on a network: a host's of a subnet, and nobody else's.
    fn check_own(
        &self,
        object: &str,
        field: &str,
        network: &str,
        address: IpAddr,
    ) -> Result<(), Error> {
        let host = Prefix::host(address);
        let inside = self.subnets().any(|subnet| {
            subnet.network == network
                && subnet.prefix.covers(host)
                && subnet.gateway != Some(address)
                && subnet.dhcp_server != Some(address)
        });
        let owner = self.ports().find(|port| {
            port.spec.network.as_deref() == Some(network)
                && port.spec.policy.addresses.contains(&address)
        });
        match owner {
            Some(port) => Err(Error::fault(
                object,
                field,
                format!("{address}, which port {} has", port.spec.name),
                "an address that is free",
            )),
            None if !inside => {
                let expected = format!("a host of a subnet of network {network}");
                Err(Error::fault(object, field, address.to_string(), expected))
            }
            None => Ok(()),
        }
    }

    /// Whether every load balancer's addresses are of its network, and its members of networks that have it within reach.
    pub(super) fn check_load_balancers(&self) -> Result<(), Error> {
        let mut shared: BTreeMap<(IpAddr, &str), BTreeSet<&str>> = BTreeMap::new();
        for spec in self.load_balancers() {
            let object = format!("load-balancer {}", spec.name);
            self.check_own(&object, "address", &spec.network, spec.address)?;
            if let Some(source) = spec.monitor_source {
                self.check_own(&object, "monitor_source", &spec.network, source)?;
                if self
                    .load_balancers()
                    .any(|of| of.network == spec.network && of.address == source)
                {
                    let expected = "an address that is no load balancer's";
                    let found = source.to_string();
                    return Err(Error::fault(&object, "monitor_source", found, expected));
                }
            }
            let router = self
                .routers()
                .find(|of| of.networks.contains(&spec.network));
            let reached = |network: &String| {
                *network == spec.network
                    || router.is_some_and(|router| router.networks.contains(network))
            };
            for member in &spec.members {
                let host = Prefix::host(member.address.ip());
                let mut subnets = self.subnets();
                let of = subnets.find(|of| reached(&of.network) && of.prefix.covers(host));
                let Some(subnet) = of else {
                    let expected = format!(
                        "a host of a subnet of network {}, or of one that its router joins",
                        spec.network
                    );
                    let found = member.address.to_string();
                    return Err(Error::fault(&object, "members", found, expected));
                };
                let of = shared
                    .entry((member.address.ip(), &subnet.network))
                    .or_default();
                of.insert(&spec.name);
                if of.len() > SHARED_MAX {
                    let expected = format!("a host in at most {SHARED_MAX} load balancers");
                    let found = member.address.to_string();
                    return Err(Error::fault(&object, "members", found, expected));
                }
            }
        }
        Ok(())
    }
}

//! Load balancers as forwarding knows them, compiled from the objects: on which networks their addresses are reached, where their members' answers come by.
//!
//! What was known of a member before (its number, health and sums) stays with it, by load balancer, address and port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sumeru_switch::balance::{Balancer, BalancerState, Member, MemberState, Shared};
use sumeru_switch::services::{Host, Place, Services};

use super::{ServiceMap, Site};
use crate::inventory::Inventory;
use crate::model::{Any, Kind, LoadBalancerSpec, MemberSpec};
use crate::value::Prefix;

/// The load balancers of services, by name.
pub fn balancers(services: &ServiceMap) -> BTreeMap<&str, &Arc<Balancer>> {
    let addresses = services
        .values()
        .flat_map(|of| of.virtual_addresses.values());
    addresses
        .flat_map(|address| &address.balancers)
        .map(|balancer| (&*balancer.name, balancer))
        .collect()
}

/// Numbers of members that are in `before` and not in `after`: their connections are nobody's.
pub fn departed(before: &ServiceMap, after: &ServiceMap) -> Vec<u16> {
    let slots = |services| -> BTreeSet<u16> {
        let balancers = balancers(services).into_values();
        balancers
            .flat_map(|balancer| &balancer.members)
            .map(|member| member.slot)
            .collect()
    };
    slots(before).difference(&slots(after)).copied().collect()
}

/// What is kept of members and load balancers from one compilation to the next.
struct Kept {
    members: HashMap<(String, SocketAddr), (u16, Shared<MemberState>)>,
    states: HashMap<String, Shared<BalancerState>>,
    taken: BTreeSet<u16>,
}

impl Kept {
    fn of(before: &ServiceMap) -> Self {
        let mut kept = Self {
            members: HashMap::new(),
            states: HashMap::new(),
            taken: BTreeSet::new(),
        };
        for (name, balancer) in balancers(before) {
            kept.states.insert(name.to_owned(), balancer.state.clone());
            for member in &balancer.members {
                let address = SocketAddr::new(member.address, member.port);
                let of = (member.slot, member.state.clone());
                kept.members.insert((name.to_owned(), address), of);
                kept.taken.insert(member.slot);
            }
        }
        kept
    }

    /// A member's number and state. `None` when there are no numbers any more.
    fn member(&mut self, name: &str, spec: &MemberSpec) -> Option<(u16, Shared<MemberState>)> {
        if let Some(known) = self.members.get(&(name.to_owned(), spec.address)) {
            return Some(known.clone());
        }
        let free = (1..=u16::MAX).find(|slot| !self.taken.contains(slot))?;
        self.taken.insert(free);
        Some((free, Shared::default()))
    }
}

/// The identifiers of the networks that have an address of one network within reach, that one first.
fn reach(site: &Site<'_>, sites: &BTreeMap<&str, Site<'_>>) -> Vec<u32> {
    let own = site.network.spec.vni.get();
    let joined = site.router.into_iter().flat_map(|router| &router.networks);
    let others = joined
        .filter_map(|name| sites.get(name.as_str()))
        .map(|site| site.network.spec.vni.get())
        .filter(|vni| *vni != own);
    std::iter::once(own).chain(others).collect()
}

/// Puts the load balancers into the services of their networks.
pub(super) fn add(
    inventory: &Inventory,
    sites: &BTreeMap<&str, Site<'_>>,
    before: &ServiceMap,
    services: &mut HashMap<u32, Services>,
) {
    let mut kept = Kept::of(before);
    for any in inventory.of(Kind::LoadBalancer) {
        let Any::LoadBalancer(object) = any else {
            continue;
        };
        let spec = &object.spec;
        let Some(site) = sites.get(spec.network.as_str()) else {
            continue;
        };
        let networks = reach(site, sites);
        let network_of = |address: IpAddr| {
            let covers = |site: &&Site<'_>| {
                let mut subnets = site.subnets.iter();
                subnets.any(|subnet| subnet.prefix.covers(Prefix::host(address)))
            };
            let mut reached = sites
                .values()
                .filter(|site| networks.contains(&site.network.spec.vni.get()));
            reached.find(covers).map(|site| site.network.spec.vni.get())
        };
        let balancer = Arc::new(balancer(spec, &mut kept, network_of));
        for vni in &networks {
            let Some(of) = services.get_mut(vni) else {
                continue;
            };
            let called = of.virtual_addresses.entry(spec.address).or_default();
            called.balancers.push(balancer.clone());
        }
        if let Some(own) = services.get_mut(&networks[0]) {
            let here = Host {
                mac: own.mac,
                place: Place::Here,
            };
            own.hosts.insert(spec.address, here);
        }
        expect_answers(&balancer, &networks, services);
    }
}

fn balancer(
    spec: &LoadBalancerSpec,
    kept: &mut Kept,
    network_of: impl Fn(IpAddr) -> Option<u32>,
) -> Balancer {
    let mut members = Vec::with_capacity(spec.members.len());
    for member in &spec.members {
        let Some(network) = network_of(member.address.ip()) else {
            continue;
        };
        let Some((slot, state)) = kept.member(&spec.name, member) else {
            tracing::error!(load_balancer = spec.name, member = %member.address, "no number is free for it");
            continue;
        };
        members.push(Member {
            address: member.address.ip(),
            port: member.address.port(),
            network,
            weight: member.weight,
            draining: member.drain,
            slot,
            state,
        });
    }
    Balancer {
        name: spec.name.as_str().into(),
        zone: spec.zone(),
        address: spec.address,
        proto: spec.protocol.number(),
        port: spec.port,
        algorithm: spec.algorithm,
        members,
        state: kept.states.get(&spec.name).cloned().unwrap_or_default(),
    }
}

/// Says where the members' answers come by: where they are, or by tunnels of any network that has the address within reach.
fn expect_answers(
    balancer: &Arc<Balancer>,
    networks: &[u32],
    services: &mut HashMap<u32, Services>,
) {
    for member in &balancer.members {
        let own = services.get(&member.network);
        let place = own.and_then(|of| of.hosts.get(&member.address).map(|host| host.place));
        for vni in networks {
            let Some(of) = services.get_mut(vni) else {
                continue;
            };
            let here = *vni == member.network;
            match place {
                Some(Place::Port(port)) if here => _ = of.answering.ports.insert(port),
                Some(Place::Port(_)) => continue,
                None if here => of.answering.anywhere = true,
                _ => of.answering.remote = true,
            }
            let known = of.answering.members.entry(member.address).or_default();
            if !known.iter().any(|other| other.name == balancer.name) {
                known.push(balancer.clone());
            }
        }
    }
}

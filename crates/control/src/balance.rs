//! Load balancers while they run: who is probed and from where, what follows when a member fails, what there is to show.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sumeru_switch::balance::{Balancer, Member};
use sumeru_switch::probe::{Check, Target, Vantage};

use crate::inventory::Inventory;
use crate::model::{Any, Kind, LoadBalancerSpec, Monitor};
use crate::services::{ServiceMap, balancers};
use crate::value::Prefix;

/// A member as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberState {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u16,
    /// `up`, `down` (probes say so), `drain`, or `off` (no weight).
    pub state: &'static str,
    /// Connections that it was given.
    pub connections: u64,
    /// Connections that it has.
    pub current: u32,
    /// Packets to it.
    pub packets_in: u64,
    /// Bytes to it.
    pub bytes_in: u64,
    /// Packets from it.
    pub packets_out: u64,
    /// Bytes from it.
    pub bytes_out: u64,
}

/// A load balancer as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadBalancerState {
    /// The zone of its connections.
    pub zone: u16,
    /// Members that get new connections.
    pub open: usize,
    /// Connections that members were given.
    pub connections: u64,
    /// Connections that they have.
    pub current: u64,
    /// Packets that no member could get, whose senders were told.
    pub refused: u64,
    /// The members.
    pub members: Vec<MemberState>,
}

impl LoadBalancerState {
    /// A balancer's state; `live` has the connections of its members, in their order.
    pub fn of(balancer: &Balancer, live: &[u32]) -> Self {
        let live = live.iter().copied().chain(std::iter::repeat(0));
        let members: Vec<MemberState> = balancer
            .members
            .iter()
            .zip(live)
            .map(|(member, current)| member_state(member, current))
            .collect();
        Self {
            zone: balancer.zone,
            open: balancer.members.iter().filter(|m| m.is_open()).count(),
            connections: members.iter().map(|member| member.connections).sum(),
            current: members.iter().map(|member| u64::from(member.current)).sum(),
            refused: balancer.state.refused(),
            members,
        }
    }
}

fn member_state(member: &Member, current: u32) -> MemberState {
    let sums = member.state.sums();
    MemberState {
        address: SocketAddr::new(member.address, member.port),
        weight: member.weight,
        state: match member {
            member if !member.state.is_up() => "down",
            member if member.draining => "drain",
            member if member.weight == 0 => "off",
            _ => "up",
        },
        connections: sums.connections,
        current,
        packets_in: sums.packets[0],
        bytes_in: sums.bytes[0],
        packets_out: sums.packets[1],
        bytes_out: sums.bytes[1],
    }
}

fn targets(spec: &LoadBalancerSpec, balancer: &Balancer) -> Vec<Target> {
    let port = |member: SocketAddr| spec.monitor_port.unwrap_or(member.port());
    let check = |member: SocketAddr| match spec.monitor {
        Monitor::Http => {
            let probed = SocketAddr::new(member.ip(), port(member));
            let host = spec.http_host.clone();
            let host = host.unwrap_or_else(|| probed.to_string());
            Check::http(&spec.http_path, &host, &spec.http_codes)
        }
        _ => Check::Tcp,
    };
    let target = |member: &Member| {
        let address = SocketAddr::new(member.address, member.port);
        Target {
            balancer: balancer.name.clone(),
            member: address,
            port: port(address),
            slot: member.slot,
            state: member.state.clone(),
            check: check(address),
            interval: Duration::from_millis(spec.interval_ms.into()),
            timeout: Duration::from_millis(spec.timeout_ms.into()),
            rise: spec.rise,
            fall: spec.fall,
        }
    };
    balancer.members.iter().map(target).collect()
}

/// Who is probed, and from where. Load balancers of a network that probe from one address do so together.
pub fn vantages(inventory: &Inventory, services: &ServiceMap) -> Vec<Vantage> {
    let balancers = balancers(services);
    let mut vantages: BTreeMap<(u32, IpAddr), Vantage> = BTreeMap::new();
    for any in inventory.of(Kind::LoadBalancer) {
        let Any::LoadBalancer(object) = any else {
            continue;
        };
        let spec = &object.spec;
        let (Some(source), Some(balancer)) = (
            spec.monitor_source
                .filter(|_| spec.monitor != Monitor::None),
            balancers.get(spec.name.as_str()),
        ) else {
            continue;
        };
        let subnet = inventory.of(Kind::Subnet).find_map(|any| match any {
            Any::Subnet(subnet)
                if subnet.spec.network == spec.network
                    && subnet.spec.prefix.covers(Prefix::host(source)) =>
            {
                Some(&subnet.spec)
            }
            _ => None,
        });
        let (Some(subnet), Some(network)) = (subnet, inventory.network(&spec.network)) else {
            continue;
        };
        let vni = network.spec.vni.get();
        let vantage = vantages.entry((vni, source)).or_insert_with(|| Vantage {
            network: vni,
            source,
            length: subnet.prefix.length(),
            gateway: subnet.gateway,
            targets: Vec::new(),
        });
        vantage.targets.extend(targets(spec, balancer));
    }
    vantages.into_values().collect()
}

/// Members that nobody probes are taken to be up.
pub fn believe_unprobed(inventory: &Inventory, services: &ServiceMap) {
    let balancers = balancers(services);
    for any in inventory.of(Kind::LoadBalancer) {
        let Any::LoadBalancer(object) = any else {
            continue;
        };
        let balancer: Option<&&Arc<Balancer>> = balancers.get(object.spec.name.as_str());
        if object.spec.monitor == Monitor::None
            && let Some(balancer) = balancer
        {
            balancer.members.iter().for_each(|m| m.state.set_up(true));
        }
    }
}

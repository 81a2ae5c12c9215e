//! What policies mean, read off the objects rule by rule and address by address, without tags, classes or groups.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::inventory::Inventory;
use crate::model::{
    Any, Blocked, Direction, GroupRule, Isolate, Kind, PortSpec, Protocol, Remote,
    SecurityGroupSpec,
};
use crate::value::Prefix;

/// A packet above Ethernet, as the naive reading sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub upper: Upper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Upper {
    Tcp(u16, u16),
    Udp(u16, u16),
    Icmp(u8, u8),
}

impl Ip {
    fn reply(self) -> Self {
        let upper = match self.upper {
            Upper::Tcp(src, dst) => Upper::Tcp(dst, src),
            Upper::Udp(src, dst) => Upper::Udp(dst, src),
            icmp => icmp,
        };
        Self {
            src: self.dst,
            dst: self.src,
            upper,
        }
    }

    /// What connections are told apart by: not the type of ICMP, in the interpreter's small tracking.
    fn connection(self) -> Self {
        let upper = match self.upper {
            Upper::Icmp(..) => Upper::Icmp(0, 0),
            upper => upper,
        };
        Self { upper, ..self }
    }
}

/// Objects and the connections of each port.
pub struct Naive<'a> {
    pub inventory: &'a Inventory,
    connections: HashSet<(String, Ip)>,
}

fn covers(prefix: Prefix, address: IpAddr) -> bool {
    prefix.covers(Prefix::host(address))
}

impl<'a> Naive<'a> {
    pub fn new(inventory: &'a Inventory) -> Self {
        Self {
            inventory,
            connections: HashSet::new(),
        }
    }

    /// Whether a port may send it. Its addresses are right.
    pub fn sends(&mut self, port: &PortSpec, packet: Ip) -> bool {
        !self.blocked(port, Direction::Egress, packet.dst)
            && self.groups_allow(port, Direction::Egress, packet)
    }

    /// Whether a port gets what another one sends; nobody known if it comes from a tunnel.
    pub fn receives(&mut self, port: &PortSpec, from: Option<&PortSpec>, packet: Ip) -> bool {
        !self.blocked(port, Direction::Ingress, packet.src)
            && !self.isolated(port, from)
            && self.groups_allow(port, Direction::Ingress, packet)
    }

    fn blocked(&self, port: &PortSpec, direction: Direction, other: IpAddr) -> bool {
        self.inventory.of(Kind::Blocklist).any(|any| {
            let Any::Blocklist(list) = any else {
                return false;
            };
            let list = &list.spec;
            let way = match list.direction {
                Blocked::Both => true,
                Blocked::Ingress => direction == Direction::Ingress,
                Blocked::Egress => direction == Direction::Egress,
            };
            let all = list.ports.is_empty() && list.networks.is_empty();
            let applies = all
                || list.ports.contains(&port.name)
                || port
                    .network
                    .as_ref()
                    .is_some_and(|n| list.networks.contains(n));
            way && applies && self.in_set(&list.address_set, other)
        })
    }

    fn in_set(&self, set: &str, address: IpAddr) -> bool {
        self.inventory
            .address_set(set)
            .unwrap()
            .spec
            .prefixes
            .iter()
            .any(|prefix| covers(*prefix, address))
    }

    fn isolated(&self, port: &PortSpec, from: Option<&PortSpec>) -> bool {
        self.inventory.of(Kind::Isolation).any(|any| {
            let Any::Isolation(isolation) = any else {
                return false;
            };
            let isolation = &isolation.spec;
            let by_network = |port: &PortSpec| {
                port.network
                    .clone()
                    .filter(|network| isolation.networks.contains(network))
            };
            let here = (isolation.ports.contains(&port.name), by_network(port));
            let there = match from {
                Some(from) => (isolation.ports.contains(&from.name), by_network(from)),
                None => (false, by_network(port)),
            };
            let member = |party: &(bool, Option<String>)| party.0 || party.1.is_some();
            match isolation.mode {
                Isolate::Deny => {
                    member(&here) && member(&there) && !(here.1.is_some() && here.1 == there.1)
                }
                Isolate::Allow => member(&here) != member(&there),
            }
        })
    }

    fn groups_allow(&mut self, port: &PortSpec, direction: Direction, packet: Ip) -> bool {
        let groups: Vec<&SecurityGroupSpec> = port
            .policy
            .security_groups
            .iter()
            .map(|name| &self.inventory.security_group(name).unwrap().spec)
            .collect();
        if groups.is_empty() || always(direction, packet) {
            return true;
        }
        let key = |packet: Ip| (port.name.clone(), packet.connection());
        if self.connections.contains(&key(packet))
            || self.connections.contains(&key(packet.reply()))
        {
            return true;
        }
        let allows = |group: &&&SecurityGroupSpec| {
            group
                .rules
                .iter()
                .any(|rule| self.rule_allows(rule, port, direction, packet))
        };
        if groups
            .iter()
            .filter(|group| group.stateful)
            .any(|group| allows(&group))
        {
            self.connections.insert(key(packet));
            return true;
        }
        groups.iter().any(|group| allows(&group))
    }

    fn rule_allows(
        &self,
        rule: &GroupRule,
        port: &PortSpec,
        direction: Direction,
        packet: Ip,
    ) -> bool {
        let other = if direction == Direction::Ingress {
            packet.src
        } else {
            packet.dst
        };
        let protocol = match (rule.protocol, packet.upper) {
            (Protocol::Any, _) => true,
            (Protocol::Tcp(first, last), Upper::Tcp(_, port))
            | (Protocol::Udp(first, last), Upper::Udp(_, port)) => first <= port && port <= last,
            (Protocol::Icmp(of_type, code), Upper::Icmp(is_type, is_code)) => {
                packet.src.is_ipv4()
                    && of_type.is_none_or(|of_type| of_type == is_type)
                    && code.is_none_or(|code| code == is_code)
            }
            (Protocol::Icmp6(of_type, code), Upper::Icmp(is_type, is_code)) => {
                packet.src.is_ipv6()
                    && of_type.is_none_or(|of_type| of_type == is_type)
                    && code.is_none_or(|code| code == is_code)
            }
            (Protocol::Number(number), Upper::Icmp(..)) => {
                number == if packet.src.is_ipv4() { 1 } else { 58 }
            }
            _ => false,
        };
        let remote = match &rule.remote {
            None => true,
            Some(Remote::Prefix(prefix)) => covers(*prefix, other),
            Some(Remote::Set(name)) => self.in_set(name, other),
            Some(Remote::Group(name)) => self.is_member(name, port.network.as_deref(), other),
        };
        rule.direction == direction
            && rule.ipv6.is_none_or(|ipv6| ipv6 == packet.src.is_ipv6())
            && protocol
            && remote
    }

    fn is_member(&self, group: &str, network: Option<&str>, address: IpAddr) -> bool {
        let ports = self.inventory.ports().filter(|port| {
            port.spec
                .policy
                .security_groups
                .iter()
                .any(|name| name == group)
                && port.spec.network.as_deref() == network
        });
        let mut own = ports.flat_map(|port| port.spec.policy.sources());
        let members = &self.inventory.security_group(group).unwrap().spec.members;
        own.any(|source| covers(source.prefix, address))
            || members.iter().any(|member| {
                Some(member.network.as_str()) == network && covers(member.prefix, address)
            })
    }
}

/// DHCP as a client, neighbour and listener discovery.
fn always(direction: Direction, packet: Ip) -> bool {
    let v4 = packet.src.is_ipv4();
    match (direction, packet.upper) {
        (Direction::Egress, Upper::Udp(68, 67)) | (Direction::Ingress, Upper::Udp(67, 68)) => v4,
        (Direction::Egress, Upper::Udp(546, 547)) | (Direction::Ingress, Upper::Udp(547, 546)) => {
            !v4
        }
        (Direction::Egress, Upper::Icmp(131 | 132 | 133 | 135 | 136 | 143, _)) => !v4,
        (Direction::Ingress, Upper::Icmp(130 | 134 | 135 | 136, _)) => !v4,
        _ => false,
    }
}

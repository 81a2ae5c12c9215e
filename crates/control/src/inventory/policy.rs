//! References of policy objects, and what only one port of a network can have.

use std::sync::Arc;

use super::Inventory;
use crate::error::Error;
use crate::model::{Any, BlocklistSpec, IsolationSpec, Kind, Port, SecurityGroupSpec};

macro_rules! each {
    ($($name:ident: $kind:ident($spec:ty);)*) => {
        $(fn $name(&self) -> impl Iterator<Item = &$spec> {
            self.of(Kind::$kind).filter_map(|any| match any {
                Any::$kind(object) => Some(&object.spec),
                _ => None,
            })
        })*
    };
}

impl Inventory {
    each! {
        groups: SecurityGroup(SecurityGroupSpec);
        blocklists: Blocklist(BlocklistSpec);
        isolations: Isolation(IsolationSpec);
    }

    /// Policy objects and ports' policies that name an object, without what groups say of each other (see
    /// [`Self::groups_with`]).
    pub(super) fn policies_with(&self, any: &Any) -> impl Iterator<Item = String> + use<> {
        let (kind, name) = (any.kind(), any.name());
        let listed = |list: &[String]| list.contains(&name);
        let mut users = Vec::new();
        if kind == Kind::SecurityGroup {
            let ports = self
                .ports()
                .filter(|port| listed(&port.spec.policy.security_groups));
            users.extend(ports.map(|port| format!("port {}", port.spec.name)));
        }
        for group in self.groups() {
            if match kind {
                Kind::AddressSet => group.remote_sets().any(|set| set == name),
                Kind::Network => group.members.iter().any(|member| member.network == name),
                _ => false,
            } {
                users.push(format!("security-group {}", group.name));
            }
        }
        for list in self.blocklists() {
            if match kind {
                Kind::AddressSet => list.address_set == name,
                Kind::Network => listed(&list.networks),
                Kind::Port => listed(&list.ports),
                _ => false,
            } {
                users.push(format!("blocklist {}", list.name));
            }
        }
        for isolation in self.isolations() {
            if match kind {
                Kind::Network => listed(&isolation.networks),
                Kind::Port => listed(&isolation.ports),
                _ => false,
            } {
                users.push(format!("isolation {}", isolation.name));
            }
        }
        users.into_iter()
    }

    /// Other groups whose rules name a group as remote. Groups may name each other, so this keeps one from being deleted alone,
    /// but not both together.
    pub fn groups_with(&self, name: &str) -> Vec<String> {
        let naming = |group: &&SecurityGroupSpec| {
            group.name != name && group.remote_groups().any(|remote| remote == name)
        };
        self.groups()
            .filter(naming)
            .map(|group| format!("security-group {}", group.name))
            .collect()
    }

    /// Whether every group that rules name is there.
    pub(super) fn check_remote_groups(&self) -> Result<(), Error> {
        for group in self.groups() {
            self.need(
                &format!("security-group {}", group.name),
                "rules",
                Kind::SecurityGroup,
                group.remote_groups(),
            )?;
        }
        Ok(())
    }

    fn need<'a>(
        &self,
        object: &str,
        field: &'static str,
        kind: Kind,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        match names
            .into_iter()
            .find(|name| self.get(kind, name).is_none())
        {
            None => Ok(()),
            Some(name) => Err(Error::Dangling {
                object: object.to_owned(),
                field,
                name: name.to_owned(),
                kind,
            }),
        }
    }

    /// Whether what a policy object names is there. Groups that groups name are a matter of the whole.
    pub(super) fn admit_policy(&self, any: &Any) -> Result<(), Error> {
        let object = any.label();

        match any {
            Any::SecurityGroup(group) => {
                self.need(&object, "rules", Kind::AddressSet, group.spec.remote_sets())?;
                self.need(
                    &object,
                    "members",
                    Kind::Network,
                    group.spec.members.iter().map(|m| m.network.as_str()),
                )
            }
            Any::Blocklist(list) => {
                self.need(
                    &object,
                    "address_set",
                    Kind::AddressSet,
                    [list.spec.address_set.as_str()],
                )?;
                self.need(
                    &object,
                    "ports",
                    Kind::Port,
                    list.spec.ports.iter().map(String::as_str),
                )?;
                self.need(
                    &object,
                    "networks",
                    Kind::Network,
                    list.spec.networks.iter().map(String::as_str),
                )
            }
            Any::Isolation(isolation) => {
                let spec = &isolation.spec;
                self.need(
                    &object,
                    "ports",
                    Kind::Port,
                    spec.ports.iter().map(String::as_str),
                )?;
                self.need(
                    &object,
                    "networks",
                    Kind::Network,
                    spec.networks.iter().map(String::as_str),
                )?;
                spec.ports
                    .iter()
                    .filter_map(|name| self.port(name))
                    .try_for_each(|port| party(spec, port))
            }
            _ => Ok(()),
        }
    }

    /// Whether a port's groups are there, its addresses are its own, and it is no second party of an isolation policy.
    pub(super) fn admit_port_policy(&self, port: &Arc<Port>) -> Result<(), Error> {
        let object = format!("port {}", port.spec.name);
        let policy = &port.spec.policy;
        self.need(
            &object,
            "security_groups",
            Kind::SecurityGroup,
            policy.security_groups.iter().map(String::as_str),
        )?;
        self.isolations()
            .try_for_each(|isolation| party(isolation, port))?;
        if !policy.port_security {
            return Ok(());
        }
        let beside = self.ports().filter(|other| {
            other.spec.name != port.spec.name
                && other.spec.network == port.spec.network
                && other.spec.policy.port_security
        });
        for other in beside {
            let owner = || Some(format!("port {}", other.spec.name));
            if let Some(mac) = port.spec.mac.filter(|mac| other.spec.mac == Some(*mac)) {
                self.taken(&object, "mac", mac.to_string(), owner())?;
            }
            if let Some(address) = policy
                .addresses
                .iter()
                .find(|address| other.spec.policy.addresses.contains(address))
            {
                self.taken(&object, "addresses", address.to_string(), owner())?;
            }
        }
        Ok(())
    }
}

/// A port cannot be a party of its own and part of its network's at once.
fn party(isolation: &IsolationSpec, port: &Port) -> Result<(), Error> {
    let network = port
        .spec
        .network
        .as_ref()
        .filter(|network| isolation.networks.contains(network));
    match network {
        Some(network) if isolation.ports.contains(&port.spec.name) => Err(Error::fault(
            &format!("isolation {}", isolation.name),
            "ports",
            format!("{} and its network {network}", port.spec.name),
            "the port or its network, not both",
        )),
        _ => Ok(()),
    }
}

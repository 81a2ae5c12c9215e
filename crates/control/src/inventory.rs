//! The current objects and what they mean to each other: who refers to whom, what only one of them
//! can have. Pure bookkeeping: it asks nothing of a data plane or a store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Error;
use crate::model::{
    AddressSet, Any, Blocklist, Controller, Exporter, FloatingIp, Flow, FrameSelection, Isolation,
    Kind, LoadBalancer, Mirror, MirrorTarget, Network, Node, Origin, Port, Router, SecurityGroup,
    Subnet, Volume, check_meters,
};

mod balance;
mod policy;
mod services;

/// Highest port index there can be, plus one.
const PORT_INDEXES: u16 = 4096;

/// All objects of a node.
#[derive(Debug, Clone)]
pub struct Inventory {
    node: Arc<Node>,
    objects: BTreeMap<(Kind, String), Any>,
    flow_ids: BTreeMap<String, BTreeSet<u32>>,
    /// Rules that name ports, by port and number, under what they call the port.
    named_by: BTreeMap<String, BTreeSet<(String, u32)>>,
    /// Names of ports by index.
    port_names: BTreeMap<u16, String>,
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident: $kind:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&self, name: &str) -> Option<&Arc<$kind>> {
            match self.get(Kind::$kind, name) {
                Some(Any::$kind(object)) => Some(object),
                _ => None,
            }
        })*
    };
}

impl Default for Inventory {
    fn default() -> Self {
        Self {
            node: Arc::new(Node::new(Default::default(), Origin::Config)),
            objects: BTreeMap::new(),
            flow_ids: BTreeMap::new(),
            named_by: BTreeMap::new(),
            port_names: BTreeMap::new(),
        }
    }
}

impl Inventory {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    typed! {
        /// The network of a name.
        network: Network;
        /// The subnet of a name.
        subnet: Subnet;
        /// The router of a name.
        router: Router;
        /// The volume of a name.
        volume: Volume;
        /// The port of a name.
        port: Port;
        /// The controller of a name.
        controller: Controller;
        /// The flow rule of a name, `PORT/ID`.
        flow: Flow;
        /// The address set of a name.
        address_set: AddressSet;
        /// The security group of a name.
        security_group: SecurityGroup;
        /// The blocklist of a name.
        blocklist: Blocklist;
        /// The isolation policy of a name.
        isolation: Isolation;
        /// The mirror of a name.
        mirror: Mirror;
        /// The exporter of a name.
        exporter: Exporter;
        /// The floating IP of a name.
        floating_ip: FloatingIp;
        /// The load balancer of a name.
        load_balancer: LoadBalancer;
    }

    /// The object of a kind and name, except the node.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Any> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// The same, or an error that names some that are there.
    pub fn require(&self, kind: Kind, name: &str) -> Result<&Any, Error> {
        self.get(kind, name).ok_or_else(|| Error::NotFound {
            kind,
            name: name.to_owned(),
            existing: self.of(kind).take(16).map(Any::name).collect(),
        })
    }

    /// Objects of a kind, by name. The node is not among them.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Any> {
        self.objects
            .range((kind, String::new())..)
            .take_while(move |((k, _), _)| *k == kind)
            .map(|(_, any)| any)
    }

    /// Every object but the node, in order of creation.
    pub fn all(&self) -> impl Iterator<Item = &Any> {
        self.objects.values()
    }

    /// Ports, by name.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.of(Kind::Port).filter_map(|any| {
            if let Any::Port(port) = any {
                Some(port)
            } else {
                None
            }
        })
    }

    /// Flow rules of a port, by number.
    pub fn flows_of(&self, port: &str) -> impl Iterator<Item = &Arc<Flow>> {
        let ids = self.flow_ids.get(port).into_iter().flatten();
        let port = port.to_owned();
        ids.filter_map(move |id| self.flow(&format!("{port}/{id}")))
    }

    /// The port that a name or an index means.
    pub fn port_by(&self, name_or_index: &str) -> Result<&Arc<Port>, Error> {
        let by_index = name_or_index
            .parse::<u16>()
            .ok()
            .and_then(|index| self.port(self.port_names.get(&index)?));
        by_index
            .or_else(|| self.port(name_or_index))
            .ok_or_else(|| Error::NotFound {
                kind: Kind::Port,
                name: name_or_index.to_owned(),
                existing: self
                    .ports()
                    .take(16)
                    .map(|p| format!("{} ({})", p.spec.name, p.spec.index()))
                    .collect(),
            })
    }

    /// Gives a new object the numbers that were left to the control plane: the lowest free port
    /// index, or the number above the highest of a port's rules.
    pub fn number(&self, any: Any) -> Result<Any, Error> {
        match any {
            Any::Port(port) if port.spec.index.is_none() => {
                let free = (0..PORT_INDEXES).find(|i| !self.port_names.contains_key(i));
                let free = free.ok_or_else(|| {
                    Error::fault(
                        &format!("port {}", port.spec.name),
                        "index",
                        "none free",
                        format!("at most {PORT_INDEXES} ports"),
                    )
                })?;
                let mut port = Arc::unwrap_or_clone(port);
                port.spec.index = Some(free);
                Ok(port.into())
            }
            Any::Flow(flow) if flow.spec.id.is_none() => {
                let highest = self
                    .flow_ids
                    .get(&flow.spec.port)
                    .and_then(|ids| ids.last());
                let id = highest
                    .map_or(Some(0), |id| id.checked_add(1))
                    .filter(|id| *id < crate::policy::layout::FIRST_RULE_ID)
                    .ok_or_else(|| none_free(&flow.spec.port))?;
                let mut flow = Arc::unwrap_or_clone(flow);
                flow.spec.id = Some(id);
                Ok(flow.into())
            }
            Any::LoadBalancer(balancer) if balancer.spec.index.is_none() => {
                self.number_load_balancer(Arc::unwrap_or_clone(balancer))
            }
            other => Ok(other),
        }
    }

    /// The same for flow rules that are made together: those that come with a number keep it, the others get the numbers above.
    pub fn number_flows(&self, flows: Vec<Any>) -> Result<Vec<Any>, Error> {
        let mut next: BTreeMap<String, Option<u32>> = BTreeMap::new();
        for any in &flows {
            let Any::Flow(flow) = any else { continue };
            let port = &flow.spec.port;
            let free = next.entry(port.clone()).or_insert_with(|| {
                let highest = self.flow_ids.get(port).and_then(|ids| ids.last());
                highest.map_or(Some(0), |id| id.checked_add(1))
            });
            if let (Some(id), Some(least)) = (flow.spec.id, *free) {
                *free = id.checked_add(1).map(|above| above.max(least));
            }
        }
        let number = |any| match any {
            Any::Flow(flow) if flow.spec.id.is_none() => {
                let free = next.get_mut(&flow.spec.port);
                let id = free.and_then(|free| {
                    let id = *free;
                    *free = id.and_then(|id| id.checked_add(1));
                    id
                });
                let mut flow = Arc::unwrap_or_clone(flow);
                flow.spec.id = Some(id.ok_or_else(|| none_free(&flow.spec.port))?);
                Ok(flow.into())
            }
            other => Ok(other),
        };
        flows.into_iter().map(number).collect()
    }

    /// Puts an object in, in place of one of the same kind and name.
    pub fn put(&mut self, any: Any) {
        if let Any::Node(node) = any {
            self.node = node;
            return;
        }
        let key = (any.kind(), any.name());
        if let Some(old) = self.objects.get(&key).cloned() {
            self.remove(&old);
        }
        match &any {
            Any::Flow(flow) => {
                let id = flow.spec.id();
                for port in flow.spec.named_ports() {
                    let users = self.named_by.entry(port.as_str().to_owned()).or_default();
                    users.insert((flow.spec.port.clone(), id));
                }
                match self.flow_ids.get_mut(&flow.spec.port) {
                    Some(ids) => drop(ids.insert(id)),
                    None => drop(
                        self.flow_ids
                            .insert(flow.spec.port.clone(), BTreeSet::from([id])),
                    ),
                }
            }
            Any::Port(port) => {
                if let Some(index) = port.spec.index {
                    self.port_names.insert(index, key.1.clone());
                }
            }
            _ => {}
        }
        self.objects.insert(key, any);
    }

    /// Takes an object out.
    pub fn remove(&mut self, any: &Any) {
        match any {
            Any::Flow(flow) => {
                let id = flow.spec.id();
                for port in flow.spec.named_ports() {
                    let rule = (flow.spec.port.clone(), id);
                    take_from(&mut self.named_by, port.as_str(), &rule);
                }
                take_from(&mut self.flow_ids, &flow.spec.port, &id);
            }
            Any::Port(port) => {
                if let Some(index) = port.spec.index
                    && self.port_names.get(&index) == Some(&port.spec.name)
                {
                    self.port_names.remove(&index);
                }
            }
            _ => {}
        }
        self.objects.remove(&(any.kind(), any.name()));
    }

    /// Objects that would break if `any` went away.
    pub fn users_of(&self, any: &Any) -> Vec<String> {
        let name = any.name();
        // A port can have very many rules; a few of them say enough.
        const SHOWN: usize = 8;
        match any {
            Any::Network(_) => self
                .ports()
                .filter(|p| p.spec.names_network(&name))
                .map(|p| format!("port {}", p.spec.name))
                .chain(self.services_with(any))
                .chain(self.policies_with(any))
                .collect(),
            Any::AddressSet(_) | Any::SecurityGroup(_) => self.policies_with(any).collect(),
            Any::Volume(_) => self
                .of(Kind::Controller)
                .filter(|c| matches!(c, Any::Controller(c) if c.spec.volume == name))
                .map(Any::label)
                .collect(),
            Any::Port(port) => {
                let uplink = self.node.spec.uplink.as_ref() == Some(&name);
                let node = uplink.then(|| format!("node {} (its uplink)", self.node.spec.name));
                let own = self.flow_ids.get(&name).into_iter().flatten();
                let own = own.map(|id| format!("flow {name}/{id}"));
                let index = port.spec.index.map(|index| index.to_string());
                let called = [Some(&name), index.as_ref()].into_iter().flatten();
                let naming = called.filter_map(|called| self.named_by.get(called));
                let naming = naming
                    .flatten()
                    .map(|(port, id)| format!("flow {port}/{id}"));
                let mut flows: Vec<String> = own.take(SHOWN).chain(naming.take(SHOWN)).collect();
                flows.sort();
                flows.dedup();
                flows.truncate(SHOWN);
                node.into_iter()
                    .chain(flows)
                    .chain(self.floating_ips_of(&name))
                    .chain(self.policies_with(any))
                    .chain(self.observers_of(&name))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether everything that `any` refers to is there, and whatever only one object can have is
    /// free. An object of the same kind and name is taken to be replaced by it.
    pub fn admit(&self, any: &Any) -> Result<(), Error> {
        let object = any.label();
        let dangling = |field, name: &str, kind| {
            Err(Error::Dangling {
                object: object.clone(),
                field,
                name: name.to_owned(),
                kind,
            })
        };
        match any {
            Any::Node(_) | Any::Volume(_) => self.admit_files(any),
            Any::Network(network) => {
                let same = |n: &Any| matches!(n, Any::Network(n) if n.spec.vni == network.spec.vni);
                let other = self
                    .of(Kind::Network)
                    .find(|n| same(n) && n.name() != network.spec.name);
                self.taken(
                    &object,
                    "vni",
                    network.spec.vni.to_string(),
                    other.map(Any::label),
                )
            }
            Any::Port(port) => {
                if let Some(name) = &port.spec.network
                    && self.network(name).is_none()
                {
                    return dangling("network", name, Kind::Network);
                }
                let shares = port.spec.shaping.shape_tenants.iter();
                for name in shares.filter_map(|share| share.network.as_deref()) {
                    if self.network(name).is_none() {
                        return dangling("shape_tenants", name, Kind::Network);
                    }
                }
                let index = port
                    .spec
                    .index
                    .and_then(|index| self.port_names.get(&index));
                let owner = index
                    .filter(|name| **name != port.spec.name)
                    .map(|name| format!("port {name}"));
                self.taken(&object, "index", port.spec.index().to_string(), owner)?;
                self.admit_port_policy(port)?;
                self.admit_files(any)
            }
            Any::Controller(controller) => {
                if self.volume(&controller.spec.volume).is_none() {
                    return dangling("volume", &controller.spec.volume, Kind::Volume);
                }
                self.admit_files(any)
            }
            Any::Subnet(_) | Any::Router(_) => self.admit_service(any),
            Any::FloatingIp(floating) => self.admit_floating_ip(floating),
            Any::LoadBalancer(balancer) => self.admit_load_balancer(balancer),
            Any::AddressSet(_) => Ok(()),
            Any::SecurityGroup(_) | Any::Blocklist(_) | Any::Isolation(_) => self.admit_policy(any),
            Any::Mirror(mirror) => {
                let target = match &mirror.spec.target {
                    MirrorTarget::Port { to_port } => Some(to_port),
                    MirrorTarget::Collector { .. } => None,
                };
                match target.filter(|port| self.port(port).is_none()) {
                    Some(port) => dangling("to_port", port, Kind::Port),
                    None => self.admit_selection(&object, &mirror.spec.selection),
                }
            }
            Any::Exporter(exporter) => self.admit_selection(&object, &exporter.spec.selection),
            Any::Flow(flow) => {
                if self.port(&flow.spec.port).is_none() {
                    return dangling("port", &flow.spec.port, Kind::Port);
                }
                check_meters(&object, "rule", &flow.spec.rule.actions)?;
                match flow
                    .spec
                    .named_ports()
                    .find(|port| self.port_by(port.as_str()).is_err())
                {
                    Some(port) => dangling("rule", port.as_str(), Kind::Port),
                    None => Ok(()),
                }
            }
        }
    }

    fn admit_selection(&self, object: &str, selection: &FrameSelection) -> Result<(), Error> {
        let absent = selection
            .ports
            .iter()
            .find(|port| self.port(port).is_none());
        absent.map_or(Ok(()), |name| {
            Err(Error::Dangling {
                object: object.to_owned(),
                field: "ports",
                name: name.clone(),
                kind: Kind::Port,
            })
        })
    }

    /// Mirrors and exporters that name a port.
    fn observers_of(&self, port: &str) -> impl Iterator<Item = String> + use<'_> {
        let port = port.to_owned();
        let names = move |any: &&Any| match any {
            Any::Mirror(mirror) => {
                let target = &mirror.spec.target;
                mirror.spec.selection.ports.contains(&port)
                    || matches!(target, MirrorTarget::Port { to_port } if *to_port == port)
            }
            Any::Exporter(exporter) => exporter.spec.selection.ports.contains(&port),
            _ => false,
        };
        let kinds = [Kind::Mirror, Kind::Exporter].into_iter();
        kinds
            .flat_map(|kind| self.of(kind))
            .filter(names)
            .map(Any::label)
    }

    /// Sockets, interfaces and volume files belong to one object each.
    fn admit_files(&self, any: &Any) -> Result<(), Error> {
        let (field, targets) = targets_of(any);
        for target in targets {
            let same = |other: &&Any| {
                (other.kind(), other.name()) != (any.kind(), any.name())
                    && targets_of(other).1.contains(&target)
            };
            // Rules have no files, and there may be very many.
            let owner = Kind::ALL
                .into_iter()
                .filter(|kind| *kind != Kind::Flow)
                .flat_map(|kind| self.of(kind))
                .find(same);
            self.taken(
                &any.label(),
                field,
                target.to_owned(),
                owner.map(Any::label),
            )?;
        }
        Ok(())
    }

    fn taken(
        &self,
        object: &str,
        field: &'static str,
        found: String,
        owner: Option<String>,
    ) -> Result<(), Error> {
        match owner {
            None => Ok(()),
            Some(owner) => Err(Error::Taken {
                object: object.to_owned(),
                field,
                found,
                owner,
            }),
        }
    }

    /// Faults of the whole that no single object shows.
    pub fn check_whole(&self) -> Result<(), Error> {
        self.check_remote_groups()?;
        self.check_subnets()?;
        self.check_routers()?;
        self.check_floating_ips()?;
        self.check_load_balancers()?;
        let Some(uplink) = &self.node.spec.uplink else {
            return Ok(());
        };
        let object = format!("node {}", self.node.spec.name);
        match self.port(uplink) {
            Some(port) if port.spec.uplink => Ok(()),
            Some(_) => Err(Error::fault(
                &object,
                "uplink",
                format!("{uplink:?}"),
                "a port with uplink = true",
            )),
            None => Err(Error::Dangling {
                object,
                field: "uplink",
                name: uplink.clone(),
                kind: Kind::Port,
            }),
        }
    }
}

/// Takes a member out of a set, and the set when it was the last.
fn take_from<T: Ord>(sets: &mut BTreeMap<String, BTreeSet<T>>, key: &str, member: &T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

fn none_free(port: &str) -> Error {
    let object = format!("flow of {port}");
    Error::fault(&object, "id", "none free", "a number that is free")
}

/// The things outside the daemon that an object has for itself, and the field that names them.
fn targets_of(any: &Any) -> (&'static str, Vec<&str>) {
    match any {
        Any::Port(port) => port.spec.kind.targets(),
        Any::Controller(controller) => ("socket", vec![&controller.spec.socket]),
        Any::Volume(volume) => match &volume.spec.kind {
            // Readers may share a file; a writer needs it alone.
            crate::model::VolumeKind::File { path, .. } if !volume.spec.read_only => {
                ("path", vec![path])
            }
            _ => ("path", Vec::new()),
        },
        _ => ("", Vec::new()),
    }
}

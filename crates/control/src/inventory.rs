//! The current objects and what they mean to each other: who refers to whom, what only one of them
//! can have. Pure bookkeeping: it asks nothing of a data plane or a store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Error;
use crate::model::{
    AddressSet, Any, Blocklist, Controller, Flow, Isolation, Kind, Network, Node, Origin, Port,
    PortKind, SecurityGroup, Volume,
};

mod policy;

/// Highest port index there can be, plus one.
const PORT_INDEXES: u16 = 4096;

/// All objects of a node.
#[derive(Debug, Clone)]
pub struct Inventory {
    node: Arc<Node>,
    objects: BTreeMap<(Kind, String), Any>,
    flow_ids: BTreeMap<String, BTreeSet<u32>>,
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
            .and_then(|index| self.ports().find(|p| p.spec.index == Some(index)));
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
                let taken: BTreeSet<u16> = self.ports().filter_map(|p| p.spec.index).collect();
                let free = (0..PORT_INDEXES).find(|i| !taken.contains(i));
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
                    .ok_or_else(|| {
                        Error::fault(
                            &format!("flow of {}", flow.spec.port),
                            "id",
                            "none free",
                            "a number that is free",
                        )
                    })?;
                let mut flow = Arc::unwrap_or_clone(flow);
                flow.spec.id = Some(id);
                Ok(flow.into())
            }
            other => Ok(other),
        }
    }

    /// Puts an object in, in place of one of the same kind and name.
    pub fn put(&mut self, any: Any) {
        if let Any::Node(node) = any {
            self.node = node;
            return;
        }
        if let Any::Flow(flow) = &any {
            self.flow_ids
                .entry(flow.spec.port.clone())
                .or_default()
                .insert(flow.spec.id());
        }
        self.objects.insert((any.kind(), any.name()), any);
    }

    /// Takes an object out.
    pub fn remove(&mut self, any: &Any) {
        if let Any::Flow(flow) = any
            && let Some(ids) = self.flow_ids.get_mut(&flow.spec.port)
        {
            ids.remove(&flow.spec.id());
            if ids.is_empty() {
                self.flow_ids.remove(&flow.spec.port);
            }
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
                .filter(|p| p.spec.network.as_ref() == Some(&name))
                .map(|p| format!("port {}", p.spec.name))
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
                let flows = self.of(Kind::Flow).filter(|flow| {
                    let Any::Flow(flow) = flow else { return false };
                    let index = port.spec.index.map(u32::from);
                    flow.spec.port == name
                        || flow.spec.named_ports().any(|p| {
                            p.as_str() == name || p.number().is_some() && p.number() == index
                        })
                });
                node.into_iter()
                    .chain(flows.take(SHOWN).map(Any::label))
                    .chain(self.policies_with(any))
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
                let other = |p: &&Arc<Port>| {
                    p.spec.name != port.spec.name && p.spec.index == port.spec.index
                };
                let owner = self
                    .ports()
                    .find(other)
                    .map(|p| format!("port {}", p.spec.name));
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
            Any::AddressSet(_) => Ok(()),
            Any::SecurityGroup(_) | Any::Blocklist(_) | Any::Isolation(_) => self.admit_policy(any),
            Any::Flow(flow) => {
                if self.port(&flow.spec.port).is_none() {
                    return dangling("port", &flow.spec.port, Kind::Port);
                }
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

    /// Sockets, interfaces and volume files belong to one object each.
    fn admit_files(&self, any: &Any) -> Result<(), Error> {
        let Some((field, target)) = target_of(any) else {
            return Ok(());
        };
        let same = |other: &&Any| {
            (other.kind(), other.name()) != (any.kind(), any.name())
                && target_of(other).is_some_and(|(_, t)| t == target)
        };
        let owner = self
            .objects
            .values()
            .filter(|o| o.kind() != Kind::Flow)
            .find(same);
        self.taken(&any.label(), field, target, owner.map(Any::label))
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

/// The thing outside the daemon that an object has for itself.
fn target_of(any: &Any) -> Option<(&'static str, String)> {
    match any {
        Any::Port(port) => {
            let field = match port.spec.kind {
                PortKind::VhostUser { .. } => "socket",
                PortKind::Tap { .. } => "ifname",
                PortKind::AfPacket { .. } | PortKind::AfXdp { .. } => "interface",
            };
            Some((field, port.spec.kind.target().to_owned()))
        }
        Any::Controller(controller) => Some(("socket", controller.spec.socket.clone())),
        Any::Volume(volume) => match &volume.spec.kind {
            // Readers may share a file; a writer needs it alone.
            crate::model::VolumeKind::File { path, .. } if !volume.spec.read_only => {
                Some(("path", path.clone()))
            }
            _ => None,
        },
        _ => None,
    }
}

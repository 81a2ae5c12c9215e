//! The object model: what an operator or a cloud configures on a node. One file per kind. A value
//! of these types is valid by itself; references between objects are checked by
//! [`crate::inventory`], and whether a data plane can do it is for the data plane to say.

mod address_set;
mod blocklist;
mod bond;
mod exporter;
mod floating_ip;
mod flow;
mod flow_object;
mod group_rule;
mod isolation;
mod load_balancer;
mod mirror;
mod network;
mod node;
mod port;
mod port_policy;
mod port_protection;
mod port_shaping;
mod router;
mod security_group;
mod selection;
mod subnet;
mod tunnel;
mod volume;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::decode::{Fault, Field, Fields, LineOf, Wrong, show};

pub use address_set::{AddressSetSpec, PREFIXES_MAX};
pub use blocklist::{Blocked, BlocklistSpec};
pub use bond::{BondHash, BondMode, BondSpec, LacpRate, MemberKind};
pub use exporter::ExporterSpec;
pub use floating_ip::FloatingIpSpec;
pub use flow::FlowSpec;
pub use flow_object::{
    FlowObject, INDIRECT_FIELDS, METER_IDS, MeterSpec, check_meter_id, check_meters, named_objects,
    read_action, read_indirect,
};
pub use isolation::{Isolate, IsolationSpec};
pub use load_balancer::{
    BALANCERS_MAX, BalancedProtocol, FailedConnections, LoadBalancerSpec, MemberSpec, Monitor,
};
pub use mirror::{MirrorSpec, MirrorTarget};
pub use network::{NetworkSpec, Overlay, StaticMac};
pub use node::{NodeSpec, Poll};
pub use port::{GuestLink, PortKind, PortSpec};
pub use port_policy::{AllowedAddress, BURST_MS, PortPolicy};
pub use port_protection::{HALF_OPEN, PortProtection, SynProtection};
pub use port_shaping::{ClassShare, PortShaping, Share, TenantShare};
pub use router::RouterSpec;
pub use security_group::{Direction, GroupRule, Member, Protocol, Remote, SecurityGroupSpec};
pub use selection::{FrameSelection, HeaderPattern, Way};
pub(crate) use subnet::is_host_of;
pub use subnet::{RouteSpec, SubnetSpec};
pub use tunnel::{GeneveOption, OuterField};
pub use volume::{BlockSize, ControllerSpec, VolumeKind, VolumeSpec};

/// The kinds of object. The order is that of creation: an object refers only to kinds before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The node itself; there is exactly one.
    Node,
    /// A tenant network.
    Network,
    /// Addresses of a network.
    Subnet,
    /// A router between networks.
    Router,
    /// A block device.
    Volume,
    /// A named set of addresses.
    AddressSet,
    /// What may come to the ports that are in it, and what they may send.
    SecurityGroup,
    /// A port of the switch.
    Port,
    /// A virtio-blk device that serves a volume to a guest.
    Controller,
    /// Addresses that ports have no traffic with.
    Blocklist,
    /// Which ports or networks may talk to each other.
    Isolation,
    /// An address outside that stands for a port's.
    FloatingIp,
    /// A virtual address that members serve.
    LoadBalancer,
    /// Copies of frames for a port or a collector.
    Mirror,
    /// What flows come to, for a collector.
    Exporter,
    /// A flow rule of a port.
    Flow,
}

impl Kind {
    /// Every kind, in order of creation.
    pub const ALL: [Self; 16] = [
        Self::Node,
        Self::Network,
        Self::Subnet,
        Self::Router,
        Self::Volume,
        Self::AddressSet,
        Self::SecurityGroup,
        Self::Port,
        Self::Controller,
        Self::Blocklist,
        Self::Isolation,
        Self::FloatingIp,
        Self::LoadBalancer,
        Self::Mirror,
        Self::Exporter,
        Self::Flow,
    ];

    /// The word for it in configuration, RPC and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::Router => "router",
            Self::Volume => "volume",
            Self::Port => "port",
            Self::Controller => "controller",
            Self::AddressSet => "address-set",
            Self::SecurityGroup => "security-group",
            Self::Blocklist => "blocklist",
            Self::Isolation => "isolation",
            Self::Mirror => "mirror",
            Self::Exporter => "exporter",
            Self::FloatingIp => "floating-ip",
            Self::LoadBalancer => "load-balancer",
            Self::Flow => "flow",
        }
    }

    /// Whether the kind exists for the rules that it compiles to (see [`crate::policy`]); the data plane
    /// never hears of its objects.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AddressSet | Self::SecurityGroup | Self::Blocklist | Self::Isolation
        )
    }

    /// Whether the kind exists for what the switch itself does for hosts (see [`crate::services`]); the data plane never hears of
    /// its objects.
    pub fn is_service(self) -> bool {
        matches!(
            self,
            Self::Subnet | Self::Router | Self::FloatingIp | Self::LoadBalancer
        )
    }

    /// The kind of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who made an object, which decides what a changed configuration file does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file: taking it out of the file removes it at the next load.
    Config,
    /// A call at run time: the file neither changes nor removes it.
    Api,
}

impl Origin {
    /// The word for it in the store.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

/// The side of a vhost-user socket that the daemon takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketMode {
    /// The daemon listens, the front end (QEMU) connects.
    Server,
    /// The front end listens, the daemon connects and reconnects.
    Client,
}

pub(crate) const SOCKET_MODES: [(&str, SocketMode); 2] = [
    ("server", SocketMode::Server),
    ("client", SocketMode::Client),
];

/// What every kind's specification can do.
pub trait Spec: Sized + Clone + PartialEq + Serialize {
    /// Which kind it is.
    const KIND: Kind;
    /// Every field that may be written.
    const FIELDS: &'static [Field];
    /// Fields that cannot change while the object exists.
    const FIXED: &'static [&'static str];

    /// Its name, unique within its kind.
    fn name(&self) -> String;

    /// Reads the fields; `None` only if a fault was noted.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// Reads one object from a table, every fault included.
    fn decode(
        label: &str,
        map: &Map<String, Value>,
        line_of: LineOf<'_>,
    ) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::new(label, map, Self::FIELDS, line_of);
        let spec = Self::read(&mut fields);
        fields.finish(spec)
    }

    /// Names of the fields that differ between two specifications, as written in configuration.
    fn changed(&self, other: &Self) -> Vec<String> {
        let (a, b) = (as_map(self), as_map(other));
        let mut names: Vec<String> = a
            .keys()
            .chain(b.keys())
            .filter(|k| a.get(*k) != b.get(*k))
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// A specification as the table it would be written as.
pub fn as_map<T: Serialize>(spec: &T) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        // A specification is a struct of scalars and lists, which always serialises to a table.
        _ => Map::new(),
    }
}

/// An object: a specification and what the control plane knows about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Object<S> {
    /// Identity over renames of anything else, and the serial number of a volume.
    pub uuid: Uuid,
    /// Counts changes from 1.
    pub generation: u64,
    /// Who made it.
    pub origin: Origin,
    /// Whether it is gone after a restart of the daemon.
    pub volatile: bool,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: S,
}

impl<S: Spec> Object<S> {
    /// A new object, generation 1, that survives a restart.
    pub fn new(spec: S, origin: Origin) -> Self {
        Self {
            uuid: Uuid::new_v4(),
            generation: 1,
            origin,
            volatile: false,
            spec,
        }
    }

    /// The object's name.
    pub fn name(&self) -> String {
        self.spec.name()
    }
}

/// The node.
pub type Node = Object<NodeSpec>;
/// A tenant network.
pub type Network = Object<NetworkSpec>;
/// Addresses of a network.
pub type Subnet = Object<SubnetSpec>;
/// A router between networks.
pub type Router = Object<RouterSpec>;
/// A port of the switch.
pub type Port = Object<PortSpec>;
/// A block device.
pub type Volume = Object<VolumeSpec>;
/// A virtio-blk device.
pub type Controller = Object<ControllerSpec>;
/// A flow rule.
pub type Flow = Object<FlowSpec>;
/// A named set of addresses.
pub type AddressSet = Object<AddressSetSpec>;
/// A security group.
pub type SecurityGroup = Object<SecurityGroupSpec>;
/// A blocklist.
pub type Blocklist = Object<BlocklistSpec>;
/// An address outside that stands for a port's.
pub type FloatingIp = Object<FloatingIpSpec>;
/// A virtual address that members serve.
pub type LoadBalancer = Object<LoadBalancerSpec>;
/// An isolation policy.
pub type Isolation = Object<IsolationSpec>;
/// A mirror.
pub type Mirror = Object<MirrorSpec>;
/// A flow exporter.
pub type Exporter = Object<ExporterSpec>;

/// An object of any kind. Cheap to clone: objects are immutable once made.
#[derive(Debug, Clone, PartialEq)]
pub enum Any {
    /// The node.
    Node(Arc<Node>),
    /// A tenant network.
    Network(Arc<Network>),
    /// Addresses of a network.
    Subnet(Arc<Subnet>),
    /// A router between networks.
    Router(Arc<Router>),
    /// A block device.
    Volume(Arc<Volume>),
    /// A port of the switch.
    Port(Arc<Port>),
    /// A virtio-blk device.
    Controller(Arc<Controller>),
    /// A flow rule.
    Flow(Arc<Flow>),
    /// A named set of addresses.
    AddressSet(Arc<AddressSet>),
    /// A security group.
    SecurityGroup(Arc<SecurityGroup>),
    /// A blocklist.
    Blocklist(Arc<Blocklist>),
    /// An isolation policy.
    Isolation(Arc<Isolation>),
    /// A mirror.
    Mirror(Arc<Mirror>),
    /// A flow exporter.
    Exporter(Arc<Exporter>),
    /// An address outside that stands for a port's.
    FloatingIp(Arc<FloatingIp>),
    /// A virtual address that members serve.
    LoadBalancer(Arc<LoadBalancer>),
}

macro_rules! for_any {
    ($any:expr, $object:ident => $body:expr) => {
        match $any {
            Any::Node($object) => $body,
            Any::Network($object) => $body,
            Any::Subnet($object) => $body,
            Any::Router($object) => $body,
            Any::Volume($object) => $body,
            Any::Port($object) => $body,
            Any::Controller($object) => $body,
            Any::Flow($object) => $body,
            Any::AddressSet($object) => $body,
            Any::SecurityGroup($object) => $body,
            Any::Blocklist($object) => $body,
            Any::Isolation($object) => $body,
            Any::Mirror($object) => $body,
            Any::Exporter($object) => $body,
            Any::FloatingIp($object) => $body,
            Any::LoadBalancer($object) => $body,
        }
    };
}

macro_rules! into_any {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Any {
            fn from(object: $kind) -> Self {
                Any::$kind(Arc::new(object))
            }
        })*
    };
}
into_any!(
    Node,
    Network,
    Subnet,
    Router,
    Volume,
    Port,
    Controller,
    Flow,
    AddressSet,
    SecurityGroup,
    Blocklist,
    Isolation,
    Mirror,
    Exporter,
    FloatingIp,
    LoadBalancer
);

impl Any {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Network(_) => Kind::Network,
            Self::Subnet(_) => Kind::Subnet,
            Self::Router(_) => Kind::Router,
            Self::Volume(_) => Kind::Volume,
            Self::Port(_) => Kind::Port,
            Self::Controller(_) => Kind::Controller,
            Self::Flow(_) => Kind::Flow,
            Self::AddressSet(_) => Kind::AddressSet,
            Self::SecurityGroup(_) => Kind::SecurityGroup,
            Self::Blocklist(_) => Kind::Blocklist,
            Self::Isolation(_) => Kind::Isolation,
            Self::Mirror(_) => Kind::Mirror,
            Self::Exporter(_) => Kind::Exporter,
            Self::FloatingIp(_) => Kind::FloatingIp,
            Self::LoadBalancer(_) => Kind::LoadBalancer,
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        for_any!(self, o => o.name())
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        for_any!(self, o => o.uuid)
    }

    /// How often it was made or changed.
    pub fn generation(&self) -> u64 {
        for_any!(self, o => o.generation)
    }

    /// Who made it.
    pub fn origin(&self) -> Origin {
        for_any!(self, o => o.origin)
    }

    /// Whether it is gone after a restart.
    pub fn volatile(&self) -> bool {
        for_any!(self, o => o.volatile)
    }

    /// The specification as a table.
    pub fn spec_map(&self) -> Map<String, Value> {
        for_any!(self, o => as_map(&o.spec))
    }

    /// Everything, as surfaces show it.
    pub fn to_map(&self) -> Map<String, Value> {
        for_any!(self, o => as_map(o.as_ref()))
    }

    /// What a message calls it.
    pub fn label(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// The same object with other marks.
    pub fn with_marks(self, marks: Marks) -> Self {
        match self {
            Self::Node(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Network(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Subnet(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Router(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Volume(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Port(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Controller(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Flow(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::AddressSet(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::SecurityGroup(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Blocklist(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Isolation(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Mirror(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::Exporter(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::FloatingIp(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
            Self::LoadBalancer(o) => marks.object(Arc::unwrap_or_clone(o).spec).into(),
        }
    }

    /// Reads a specification of `kind`, and gives it the marks of an object.
    pub fn decode(
        kind: Kind,
        label: &str,
        map: &Map<String, Value>,
        line_of: LineOf<'_>,
        marks: Marks,
    ) -> Result<Self, Vec<Fault>> {
        Ok(match kind {
            Kind::Node => marks.object(NodeSpec::decode(label, map, line_of)?).into(),
            Kind::Network => marks
                .object(NetworkSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Subnet => marks
                .object(SubnetSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Router => marks
                .object(RouterSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Volume => marks
                .object(VolumeSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Port => marks.object(PortSpec::decode(label, map, line_of)?).into(),
            Kind::Controller => marks
                .object(ControllerSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Flow => marks.object(FlowSpec::decode(label, map, line_of)?).into(),
            Kind::AddressSet => marks
                .object(AddressSetSpec::decode(label, map, line_of)?)
                .into(),
            Kind::SecurityGroup => marks
                .object(SecurityGroupSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Blocklist => marks
                .object(BlocklistSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Isolation => marks
                .object(IsolationSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Mirror => marks
                .object(MirrorSpec::decode(label, map, line_of)?)
                .into(),
            Kind::Exporter => marks
                .object(ExporterSpec::decode(label, map, line_of)?)
                .into(),
            Kind::FloatingIp => marks
                .object(FloatingIpSpec::decode(label, map, line_of)?)
                .into(),
            Kind::LoadBalancer => marks
                .object(LoadBalancerSpec::decode(label, map, line_of)?)
                .into(),
        })
    }
}

/// Everything of an object but its specification.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// Identity.
    pub uuid: Uuid,
    /// Number of changes, from 1.
    pub generation: u64,
    /// Who made it.
    pub origin: Origin,
    /// Whether it is gone after a restart.
    pub volatile: bool,
}

impl Marks {
    /// Marks of a new object that survives a restart.
    pub fn new(origin: Origin) -> Self {
        Self {
            uuid: Uuid::new_v4(),
            generation: 1,
            origin,
            volatile: false,
        }
    }

    pub(crate) fn object<S>(self, spec: S) -> Object<S> {
        let Self {
            uuid,
            generation,
            origin,
            volatile,
        } = self;
        Object {
            uuid,
            generation,
            origin,
            volatile,
            spec,
        }
    }
}

/// The fields of a kind, for messages and for `rpc.methods`.
pub fn fields_of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Node => NodeSpec::FIELDS,
        Kind::Network => NetworkSpec::FIELDS,
        Kind::Subnet => SubnetSpec::FIELDS,
        Kind::Router => RouterSpec::FIELDS,
        Kind::Volume => VolumeSpec::FIELDS,
        Kind::Port => PortSpec::FIELDS,
        Kind::Controller => ControllerSpec::FIELDS,
        Kind::Flow => FlowSpec::FIELDS,
        Kind::AddressSet => AddressSetSpec::FIELDS,
        Kind::SecurityGroup => SecurityGroupSpec::FIELDS,
        Kind::Blocklist => BlocklistSpec::FIELDS,
        Kind::Isolation => IsolationSpec::FIELDS,
        Kind::Mirror => MirrorSpec::FIELDS,
        Kind::Exporter => ExporterSpec::FIELDS,
        Kind::FloatingIp => FloatingIpSpec::FIELDS,
        Kind::LoadBalancer => LoadBalancerSpec::FIELDS,
    }
}

/// Reads a list of tables inside a field, each with `known` fields.
pub(crate) fn read_tables<T>(
    fields: &mut Fields<'_>,
    field: &str,
    expected: &str,
    read: impl Fn(&Map<String, Value>) -> Result<T, Wrong>,
) -> Vec<T> {
    let Some(value) = fields.raw(field) else {
        return Vec::new();
    };
    let Some(items) = value.as_array() else {
        fields.fault(field, show(value), expected);
        return Vec::new();
    };
    let mut tables = Vec::with_capacity(items.len());
    for item in items {
        match item.as_object().map(&read) {
            Some(Ok(table)) => tables.push(table),
            Some(Err(Wrong { expected })) => fields.fault(field, item.to_string(), expected),
            None => fields.fault(field, show(item), expected),
        }
    }
    tables
}

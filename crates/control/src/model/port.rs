//! A port of the switch: where frames enter and leave, whoever is on the other side.

use serde::Serialize;

use super::bond::{self, BondSpec, MemberKind};
use super::port_policy::{self, PortPolicy};
use super::port_protection::{self, PortProtection};
use super::port_shaping::{self, PortShaping};
use super::{Kind, SOCKET_MODES, SocketMode, Spec};
use crate::decode::{Field, Fields, InterfaceName, Name, SocketPath, optional, required};
use crate::value::MacAddr;

/// What is on the other side of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PortKind {
    /// A guest's virtio-net device over the vhost-user protocol.
    VhostUser {
        /// Path of the Unix socket.
        socket: String,
        /// Who listens.
        mode: SocketMode,
        /// Number of queue pairs, 1 to 16.
        queues: u16,
        /// Largest number of descriptors per queue, a power of two from 2 to 32768.
        queue_size: u16,
    },
    /// A TAP interface of the kernel, made if it does not exist.
    Tap {
        /// The interface's name.
        ifname: String,
    },
    /// An existing interface through AF_PACKET.
    AfPacket {
        /// The interface's name.
        interface: String,
    },
    /// An existing interface through AF_XDP.
    AfXdp {
        /// The interface's name.
        interface: String,
        /// Number of receive queues to bind, from queue 0 on.
        queues: u16,
    },
    /// Several interfaces that are one port.
    Bond(BondSpec),
}

impl PortKind {
    /// The word for it in configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::VhostUser { .. } => "vhost-user",
            Self::Tap { .. } => "tap",
            Self::AfPacket { .. } => "af-packet",
            Self::AfXdp { .. } => "af-xdp",
            Self::Bond(_) => "bond",
        }
    }

    /// The sockets or interfaces that only one port can have, and the field that names them.
    pub fn targets(&self) -> (&'static str, Vec<&str>) {
        match self {
            Self::VhostUser { socket, .. } => ("socket", vec![socket]),
            Self::Tap { ifname } => ("ifname", vec![ifname]),
            Self::AfPacket { interface } | Self::AfXdp { interface, .. } => {
                ("interface", vec![interface])
            }
            Self::Bond(bond) => ("members", bond.members.iter().map(String::as_str).collect()),
        }
    }

    /// Whether it is on interfaces that somebody else may be at the other end of.
    fn is_cable(&self) -> bool {
        match self {
            Self::VhostUser { .. } | Self::Tap { .. } => false,
            Self::AfPacket { .. } | Self::AfXdp { .. } => true,
            Self::Bond(bond) => bond.member_kind != MemberKind::Tap,
        }
    }
}

/// What a guest is told of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestLink {
    /// It is up.
    #[default]
    Up,
    /// It is down.
    Down,
    /// What the link of the node's uplink does.
    Uplink,
}

const GUEST_LINKS: [(&str, GuestLink); 3] = [
    ("up", GuestLink::Up),
    ("down", GuestLink::Down),
    ("uplink", GuestLink::Uplink),
];

/// What is configured of a port.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortSpec {
    /// Name.
    pub name: String,
    /// What is on the other side.
    #[serde(flatten)]
    pub kind: PortKind,
    /// Index in flow rules (testpmd's port id), unique on the node, 0 ..= 4095. `None` only until
    /// the control plane has admitted the port and given it the lowest free one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u16>,
    /// Tenant network that the port belongs to. Without one only flow rules move its frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Address that the guest is told to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Largest layer-3 packet in bytes, 68 ..= 9216.
    pub mtu: u16,
    /// Whether the port leads to the underlay instead of a tenant.
    pub uplink: bool,
    /// What a guest is told of its link; absent means up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<GuestLink>,
    /// Whether it speaks LLDP; if absent, as the node says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lldp: Option<bool>,
    /// Whether only flow rules move its frames (`rte_flow_isolate`): those that no rule decides are dropped.
    pub flow_isolated: bool,
    /// What its owner may do.
    #[serde(flatten)]
    pub policy: PortPolicy,
    /// How its guest is protected from floods.
    #[serde(flatten)]
    pub protection: PortProtection,
    /// How frames leave by it.
    #[serde(flatten)]
    pub shaping: PortShaping,
}

impl PortSpec {
    /// The index; 0 for a port that was not admitted yet.
    pub fn index(&self) -> u16 {
        self.index.unwrap_or(0)
    }

    /// Whether it is on a network, or gives it a share.
    pub fn names_network(&self, name: &str) -> bool {
        let shares = &self.shaping.shape_tenants;
        self.network.as_deref() == Some(name)
            || shares
                .iter()
                .any(|share| share.network.as_deref() == Some(name))
    }

    /// Whether it speaks LLDP on a node where that is usual, or is not.
    pub fn speaks_lldp(&self, usual: bool) -> bool {
        self.lldp.unwrap_or(usual && self.kind.is_cable())
    }
}

#[derive(Clone, Copy)]
enum Word {
    VhostUser,
    Tap,
    AfPacket,
    AfXdp,
    Bond,
}

impl Spec for PortSpec {
    const KIND: Kind = Kind::Port;
    const FIXED: &'static [&'static str] = &[
        "kind",
        "socket",
        "mode",
        "queues",
        "queue_size",
        "ifname",
        "interface",
        "index",
        "uplink",
        bond::FIELD_NAMES[0],
        bond::FIELD_NAMES[1],
        bond::FIELD_NAMES[2],
        bond::FIELD_NAMES[3],
        bond::FIELD_NAMES[4],
        bond::FIELD_NAMES[5],
        bond::FIELD_NAMES[6],
        bond::FIELD_NAMES[7],
        bond::FIELD_NAMES[8],
    ];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the port"),
        required(
            "kind",
            "\"vhost-user\" | \"tap\" | \"af-packet\" | \"af-xdp\" | \"bond\"",
            "what is on the other side",
        ),
        optional(
            "socket",
            "absolute path",
            "vhost-user: path of the Unix socket (needed)",
        ),
        optional(
            "mode",
            "\"server\" | \"client\"",
            "vhost-user: who listens on the socket (default server: the daemon)",
        ),
        optional(
            "queues",
            "integer 1..64",
            "vhost-user: queue pairs, at most 16; af-xdp: receive queues (default 1)",
        ),
        optional(
            "queue_size",
            "power of two 2..32768",
            "vhost-user: descriptors per queue at most (default 1024)",
        ),
        optional(
            "ifname",
            "interface name",
            "tap: name of the interface (needed)",
        ),
        optional(
            "interface",
            "interface name",
            "af-packet, af-xdp: name of the interface (needed)",
        ),
        bond::FIELDS[0],
        bond::FIELDS[1],
        bond::FIELDS[2],
        bond::FIELDS[3],
        bond::FIELDS[4],
        bond::FIELDS[5],
        bond::FIELDS[6],
        bond::FIELDS[7],
        bond::FIELDS[8],
        optional(
            "index",
            "integer 0..4095",
            "port id in flow rules (default: the lowest free one)",
        ),
        optional(
            "network",
            "network name",
            "tenant network that the port belongs to",
        ),
        optional(
            "mac",
            "MAC address",
            "address that the guest is told to use",
        ),
        optional(
            "mtu",
            "integer 68..9216",
            "largest layer-3 packet, bytes (default 1500)",
        ),
        optional(
            "uplink",
            "boolean",
            "leads to the underlay, not to a tenant (default false)",
        ),
        optional(
            "link",
            "\"up\" | \"down\" | \"uplink\"",
            "vhost-user: what the guest is told of its link, uplink for that of the node's uplink (default up)",
        ),
        optional(
            "lldp",
            "boolean",
            "tap, af-packet, af-xdp, bond: speaks LLDP (default: as the node says, and not on tap)",
        ),
        optional(
            "flow_isolated",
            "boolean",
            "frames that come in and that no flow rule decides are dropped, as after flow isolate (default false)",
        ),
        port_policy::FIELDS[0],
        port_policy::FIELDS[1],
        port_policy::FIELDS[2],
        port_policy::FIELDS[3],
        port_policy::FIELDS[4],
        port_policy::FIELDS[5],
        port_policy::FIELDS[6],
        port_policy::FIELDS[7],
        port_policy::FIELDS[8],
        port_policy::FIELDS[9],
        port_protection::FIELDS[0],
        port_protection::FIELDS[1],
        port_protection::FIELDS[2],
        port_protection::FIELDS[3],
        port_protection::FIELDS[4],
        port_protection::FIELDS[5],
        port_protection::FIELDS[6],
        port_shaping::FIELDS[0],
        port_shaping::FIELDS[1],
        port_shaping::FIELDS[2],
        port_shaping::FIELDS[3],
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let kind = read_kind(fields);
        let index = fields.optional_integer("index", 0..=4095);
        let network = fields.optional::<Name>("network").map(|n| n.0);
        let mac = fields.optional::<MacAddr>("mac");
        if mac.is_some_and(MacAddr::is_multicast) {
            fields.fault("mac", "a multicast address", "a unicast MAC address");
        }
        let mtu = fields.integer("mtu", 68..=9216, 1500);
        let uplink = fields.or("uplink", false);
        if uplink && network.is_some() {
            fields.fault(
                "network",
                "given for an uplink",
                "to be left out: an uplink belongs to no tenant",
            );
        }
        if matches!(kind, Some(PortKind::VhostUser { .. })) {
            fields.forbid(&["lldp"], "the port is vhost-user");
        } else {
            fields.forbid(&["link"], "the port is not vhost-user");
        }
        let link = fields.optional_word("link", &GUEST_LINKS);
        let lldp = fields.optional::<bool>("lldp");
        let flow_isolated = fields.or("flow_isolated", false);
        let policy = PortPolicy::read(fields, mac, uplink);
        Some(Self {
            name: name?.0,
            kind: kind?,
            policy,
            protection: PortProtection::read(fields, uplink),
            shaping: PortShaping::read(fields),
            index,
            network,
            mac,
            mtu,
            uplink,
            link,
            lldp,
            flow_isolated,
        })
    }
}

fn read_kind(fields: &mut Fields<'_>) -> Option<PortKind> {
    let words = [
        ("vhost-user", Word::VhostUser),
        ("tap", Word::Tap),
        ("af-packet", Word::AfPacket),
        ("af-xdp", Word::AfXdp),
        ("bond", Word::Bond),
    ];
    let word = fields.required_word("kind", &words)?;
    if !matches!(word, Word::Bond) {
        fields.forbid(&bond::FIELD_NAMES, "the port is no bond");
    }
    match word {
        Word::VhostUser => {
            fields.forbid(&["ifname", "interface"], "the port is vhost-user");
            let socket = fields.required::<SocketPath>("socket");
            let mode = fields.word("mode", &SOCKET_MODES, SocketMode::Server);
            let queues = fields.integer("queues", 1..=16, 1);
            let queue_size = read_queue_size(fields, 1024);
            Some(PortKind::VhostUser {
                socket: socket?.0,
                mode,
                queues,
                queue_size,
            })
        }
        Word::Tap => {
            fields.forbid(
                &["socket", "mode", "queues", "queue_size", "interface"],
                "the port is a tap",
            );
            let ifname = fields.required::<InterfaceName>("ifname");
            Some(PortKind::Tap { ifname: ifname?.0 })
        }
        Word::AfPacket => {
            fields.forbid(
                &["socket", "mode", "queues", "queue_size", "ifname"],
                "the port is af-packet",
            );
            let interface = fields.required::<InterfaceName>("interface");
            Some(PortKind::AfPacket {
                interface: interface?.0,
            })
        }
        Word::AfXdp => {
            fields.forbid(
                &["socket", "mode", "queue_size", "ifname"],
                "the port is af-xdp",
            );
            let interface = fields.required::<InterfaceName>("interface");
            let queues = fields.integer("queues", 1..=64, 1);
            Some(PortKind::AfXdp {
                interface: interface?.0,
                queues,
            })
        }
        Word::Bond => {
            fields.forbid(
                &[
                    "socket",
                    "mode",
                    "queues",
                    "queue_size",
                    "ifname",
                    "interface",
                ],
                "the port is a bond",
            );
            Some(PortKind::Bond(BondSpec::read(fields)))
        }
    }
}

/// A virtqueue's size: virtio 1.2 section 2.7 has a power of two up to 32768.
pub(super) fn read_queue_size(fields: &mut Fields<'_>, default: u16) -> u16 {
    let size = fields.integer("queue_size", 2..=32_768, default);
    if !size.is_power_of_two() {
        fields.fault(
            "queue_size",
            size.to_string(),
            "a power of two from 2 to 32768",
        );
    }
    size
}

//! Flow rules as rte_flow defines them (DPDK Programmer's Guide, "Generic flow API").
//!
//! One enum variant per pattern item ([`Item`]) and per action ([`Action`]), named as in
//! `rte_flow.h`; every field of an item is a [`Matched`] value. [`Rule::validate`] says whether a
//! rule makes sense. Nothing here matches a packet or knows a back end's capabilities.

mod action;
mod encap;
mod field;
mod item;
mod matched;
mod port;
mod validate;

pub use action::{Action, ActionRow, Argument, ArgumentError, ArgumentRow, UNSUPPORTED_ACTIONS};
pub use encap::{DEFAULT_ENCAP_TTL, TunnelAddresses, VXLAN_UDP_PORT, VxlanDefinition};
pub(crate) use field::low_mask;
pub use field::{
    EtherType, FieldKind, FieldValue, FlowLabel, MacAddr, MacAddrError, Pcp, RangeError, VlanId,
    Vni,
};
pub use item::{
    Access, Eth, FieldRow, Icmp, Icmp6, Ipv4, Ipv6, Item, ItemRow, Mark, Part, Tcp,
    UNSUPPORTED_ITEMS, Udp, Vlan, Vxlan,
};
pub(crate) use matched::prefix_mask;
pub use matched::{ErasedMatch, Matched};
pub use port::{PortRef, PortRefError};
pub use validate::{FlowError, MAX_ACTIONS, MAX_ITEMS};

use serde::{Deserialize, Serialize};

/// A flow rule: what it applies to, which packets it matches and what is done with them.
///
/// `Display` prints the part of a `flow create` command behind the port, in testpmd's syntax.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Group, priority and direction (`struct rte_flow_attr`).
    #[serde(default)]
    pub attributes: Attributes,
    /// Pattern items, lowest protocol layer first, without the closing `end`.
    pub pattern: Vec<Item>,
    /// Actions in the order in which they are carried out, without the closing `end`.
    pub actions: Vec<Action>,
}

/// Attributes of a rule (`struct rte_flow_attr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attributes {
    /// Group (table) the rule is in. Every packet starts in group 0; others are reached by `jump`.
    pub group: u32,
    /// Level within the group; 0 is the highest.
    pub priority: u32,
    /// The rule applies to packets that arrive from the port.
    pub ingress: bool,
    /// The rule applies to packets that leave through the port.
    pub egress: bool,
    /// The rule applies at the level of the embedded switch, whatever the port it is created on.
    pub transfer: bool,
}

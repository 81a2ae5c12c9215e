//! Flow rules as rte_flow defines them (DPDK Programmer's Guide, "Generic flow API").
//!
//! One enum variant per pattern item ([`Item`]) and per action ([`Action`]), named as in
//! `rte_flow.h`; every field of an item is a [`Matched`] value. [`Rule::validate`] says whether a
//! rule makes sense. Nothing here matches a packet or knows a back end's capabilities.

mod action;
mod action_table;
mod bytes;
mod ct;
mod definition;
mod encap;
mod field;
mod follow;
mod header;
mod item;
mod item_table;
mod matched;
mod meter;
mod modify;
mod port;
mod raw;
mod rss;
mod sample;
mod stack;
mod template;
mod validate;

pub use action::{Action, ActionRow, Argument, ArgumentError, ArgumentRow};
pub use action_table::UNSUPPORTED_ACTIONS;
pub use bytes::{ByteString, BytesError, MatchedBytes};
pub(crate) use bytes::{parse_hex, write_hex};
pub use ct::{
    AddressRange, Ct as CtAction, CtCommit, CtLabel, CtNat, CtState, Masked, NatRange, PortRange,
};
pub use definition::{Definition, Definitions, MAX_DEFINITIONS};
pub use encap::{
    DEFAULT_ENCAP_TTL, L2Encap, NvgreDefinition, TunnelAddresses, VXLAN_UDP_PORT, VxlanDefinition,
};
pub(crate) use field::low_mask;
pub use field::{
    AgeTimeout, Dscp, EtherType, FieldKind, FieldValue, Flags16, FlowLabel, GeneveOptionLength,
    GeneveOptionsLength, MacAddr, MacAddrError, MeterColor, MplsLabel, MplsTc, Pcp, PduType, Qfi,
    RangeError, VlanId, Vni,
};
pub use header::{GENEVE_UDP_PORT, GTPU_UDP_PORT, HeaderError, header_bytes};
pub use item::{Access, FieldRow, Item, ItemRow, Part, Spelling};
pub use item_table::{
    Any, Arp, Conntrack, Ct as CtItem, Esp, Eth, Geneve, GeneveOpt, Gre, GreKey, GreOption, Gtp,
    GtpPsc, Gtpc, Gtpu, Icmp, Icmp6, Icmp6NdNa, Icmp6NdNs, Icmp6NdOpt, Icmp6NdOptSlaEth,
    Icmp6NdOptTlaEth, Integrity, Ipv4, Ipv6, Ipv6Ext, Ipv6FragExt, Mark, Meta,
    MeterColor as MeterColorItem, Mpls, Nvgre, Raw, Sctp, Tag, Tcp, UNSUPPORTED_ITEMS, Udp, Vlan,
    Vxlan, VxlanGpe,
};
pub(crate) use matched::prefix_mask;
pub use matched::{ErasedMatch, Matched};
pub use meter::{Meter, MeterAlgorithm, MeterError, MeterPolicy, MeterProfile};
pub use modify::{
    FieldId, FieldPlace, MAX_MODIFY_VALUE, ModifyField, ModifyOperation, ModifySource,
};
pub use port::{PortRef, PortRefError};
pub use raw::{MAX_RAW_HEADER, RawDecap, RawEncap};
pub use rss::{MAX_RSS_KEY, MAX_RSS_QUEUES, Rss, RssFunction, RssTypes};
pub use sample::{MAX_SAMPLE_ACTIONS, Sample};
pub use template::{
    ActionsTemplate, Direction, FlowConfiguration, IndirectAction, PatternTemplate, TemplateError,
    TemplateTable,
};
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

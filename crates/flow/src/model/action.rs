//! Actions (`enum rte_flow_action_type`, DPDK 22.11 and 24.11), and the table of their arguments.
//!
//! The table is the one place that names an action or an argument. Nothing is carried out here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::encap::VxlanDefinition;
use super::field::{EtherType, FieldKind, FieldValue, MacAddr, Pcp, VlanId};
use super::port::PortRef;

/// One action as the syntax knows it.
#[derive(Debug)]
pub struct ActionRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// Its arguments in the order in which they are printed.
    pub arguments: &'static [ArgumentRow],
    /// The action with these arguments, one place per row of `arguments`.
    pub build: fn(&[Option<Argument>]) -> Result<Action, ArgumentError>,
}

/// One argument of an action as the syntax knows it.
#[derive(Debug)]
pub struct ArgumentRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// How a value is written.
    pub kind: FieldKind,
    /// Width in bits; 0 for addresses of either IP version and for ports.
    pub bits: u32,
    /// The value, or `None` if it has its default or the action is of another type.
    pub get: fn(&Action) -> Option<Argument>,
}

/// A value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A number or address of a fixed width as bits.
    Bits(u128),
    /// An address of either IP version.
    Ip(IpAddr),
    /// A port.
    Port(PortRef),
}

/// Arguments that make no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// An argument without a default is absent.
    #[error("action `{action}` needs `{argument}`")]
    Missing {
        /// The action's token.
        action: &'static str,
        /// The argument's token.
        argument: &'static str,
    },
    /// One outer address is of IPv4 and the other of IPv6.
    #[error("`vxlan_encap` has `ip_src` {src} and `ip_dst` {dst}; both must be of one IP version")]
    MixedAddresses {
        /// Outer source address.
        src: IpAddr,
        /// Outer destination address.
        dst: IpAddr,
    },
}

/// A type that an argument can have.
pub(super) trait ArgumentValue: Sized {
    const KIND: FieldKind;
    const BITS: u32;
    fn to_argument(&self) -> Argument;
    fn from_argument(argument: &Argument) -> Option<Self>;
}

impl<T: FieldValue> ArgumentValue for T {
    const KIND: FieldKind = <T as FieldValue>::KIND;
    const BITS: u32 = <T as FieldValue>::BITS;
    fn to_argument(&self) -> Argument {
        Argument::Bits(self.to_bits())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Bits(bits) => Some(T::from_bits(*bits)),
            _ => None,
        }
    }
}

impl ArgumentValue for PortRef {
    const KIND: FieldKind = FieldKind::Port;
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Port(self.clone())
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Port(port) => Some(port.clone()),
            _ => None,
        }
    }
}

impl ArgumentValue for IpAddr {
    const KIND: FieldKind = FieldKind::Ip;
    const BITS: u32 = 0;
    fn to_argument(&self) -> Argument {
        Argument::Ip(*self)
    }
    fn from_argument(argument: &Argument) -> Option<Self> {
        match argument {
            Argument::Ip(address) => Some(*address),
            _ => None,
        }
    }
}

/// The argument at `index`, or an error naming it.
pub(super) fn required<T: ArgumentValue>(
    arguments: &[Option<Argument>],
    index: usize,
    action: &'static str,
    argument: &'static str,
) -> Result<T, ArgumentError> {
    optional(arguments, index).ok_or(ArgumentError::Missing { action, argument })
}

pub(super) fn optional<T: ArgumentValue>(
    arguments: &[Option<Argument>],
    index: usize,
) -> Option<T> {
    arguments.get(index)?.as_ref().and_then(T::from_argument)
}

macro_rules! actions {
    (
        plain { $(#[doc = $plain_doc:tt] $plain:ident = $plain_token:tt;)* }
        with_argument { $(
            #[doc = $doc:tt]
            $action:ident = $token:tt {
                #[doc = $arg_doc:tt] $arg:ident: $ty:ty = $arg_token:tt
            }
        )* }
    ) => {
        /// An action. Actions are carried out in their order, each on the packet that the one
        /// before left; addresses and ports are those of the outermost headers.
        ///
        /// JSON: the token of an action without arguments, or an object with one member.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub enum Action {
            $(
                #[doc = $plain_doc]
                #[serde(rename = $plain_token)]
                $plain,
            )*
            /// Count packets and bytes.
            #[serde(rename = "count")]
            Count {
                /// Counter within the rule; rules may have several.
                #[serde(rename = "identifier", default, skip_serializing_if = "is_zero")]
                id: u32,
            },
            $(
                #[doc = $doc]
                #[serde(rename = $token)]
                $action {
                    #[doc = $arg_doc]
                    #[serde(rename = $arg_token)]
                    $arg: $ty,
                },
            )*
            /// Encapsulate the packet in VXLAN.
            #[serde(rename = "vxlan_encap")]
            VxlanEncap(VxlanDefinition),
        }

        impl Action {
            /// All actions that the model has.
            pub const TABLE: &'static [ActionRow] = &[
                $(ActionRow {
                    name: $plain_token,
                    arguments: &[],
                    build: |_| Ok(Action::$plain),
                },)*
                ActionRow {
                    name: "count",
                    arguments: &[ArgumentRow {
                        name: "identifier",
                        kind: FieldKind::Unsigned,
                        bits: 32,
                        get: |action| match action {
                            Action::Count { id } if *id != 0 => Some(id.to_argument()),
                            _ => None,
                        },
                    }],
                    build: |arguments| Ok(Action::Count {
                        id: optional(arguments, 0).unwrap_or_default(),
                    }),
                },
                $(ActionRow {
                    name: $token,
                    arguments: &[ArgumentRow {
                        name: $arg_token,
                        kind: <$ty as ArgumentValue>::KIND,
                        bits: <$ty as ArgumentValue>::BITS,
                        get: |action| match action {
                            Action::$action { $arg } => Some($arg.to_argument()),
                            _ => None,
                        },
                    }],
                    build: |arguments| Ok(Action::$action {
                        $arg: required(arguments, 0, $token, $arg_token)?,
                    }),
                },)*
                ActionRow {
                    name: "vxlan_encap",
                    arguments: VxlanDefinition::ARGUMENTS,
                    build: |arguments| VxlanDefinition::build(arguments).map(Action::VxlanEncap),
                },
            ];

            /// testpmd's token for the action.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Action::$plain => $plain_token,)*
                    Action::Count { .. } => "count",
                    $(Action::$action { .. } => $token,)*
                    Action::VxlanEncap(_) => "vxlan_encap",
                }
            }
        }
    };
}

fn is_zero(id: &u32) -> bool {
    *id == 0
}

actions! {
    plain {
        /// Nothing; ignored wherever it stands.
        Void = "void";
        /// Drop the packet.
        Drop = "drop";
        /// Remove the outermost VLAN tag.
        OfPopVlan = "of_pop_vlan";
        /// Decrement the time to live or hop limit; a packet whose value reaches 0 is dropped.
        DecTtl = "dec_ttl";
        /// Remove all headers up to and including the VXLAN header.
        VxlanDecap = "vxlan_decap";
    }
    with_argument {
        /// Go on with the rules of another group.
        Jump = "jump" {
            /// The group.
            group: u32 = "group"
        }
        /// Give the packet a value that `mark` items of later groups match.
        Mark = "mark" {
            /// The value.
            id: u32 = "id"
        }
        /// Send the packet to a port (deprecated in DPDK, kept for its users).
        PortId = "port_id" {
            /// The port.
            port: PortRef = "id"
        }
        /// Send the packet to the owner of a port.
        PortRepresentor = "port_representor" {
            /// The port.
            port: PortRef = "port_id"
        }
        /// Send the packet to what a port stands for (the guest, the wire).
        RepresentedPort = "represented_port" {
            /// The port.
            port: PortRef = "ethdev_port_id"
        }
        /// Put a new VLAN tag, all zero, in front of the others.
        OfPushVlan = "of_push_vlan" {
            /// Tag protocol identifier, 0x8100 or 0x88a8.
            ethertype: EtherType = "ethertype"
        }
        /// Set the identifier of the outermost VLAN tag.
        OfSetVlanVid = "of_set_vlan_vid" {
            /// VLAN identifier.
            vlan_vid: VlanId = "vlan_vid"
        }
        /// Set the priority of the outermost VLAN tag.
        OfSetVlanPcp = "of_set_vlan_pcp" {
            /// Priority code point.
            vlan_pcp: Pcp = "vlan_pcp"
        }
        /// Set the source MAC address.
        SetMacSrc = "set_mac_src" {
            /// The address.
            mac_addr: MacAddr = "mac_addr"
        }
        /// Set the destination MAC address.
        SetMacDst = "set_mac_dst" {
            /// The address.
            mac_addr: MacAddr = "mac_addr"
        }
        /// Set the IPv4 source address.
        SetIpv4Src = "set_ipv4_src" {
            /// The address.
            ipv4_addr: Ipv4Addr = "ipv4_addr"
        }
        /// Set the IPv4 destination address.
        SetIpv4Dst = "set_ipv4_dst" {
            /// The address.
            ipv4_addr: Ipv4Addr = "ipv4_addr"
        }
        /// Set the IPv6 source address.
        SetIpv6Src = "set_ipv6_src" {
            /// The address.
            ipv6_addr: Ipv6Addr = "ipv6_addr"
        }
        /// Set the IPv6 destination address.
        SetIpv6Dst = "set_ipv6_dst" {
            /// The address.
            ipv6_addr: Ipv6Addr = "ipv6_addr"
        }
        /// Set the TCP or UDP source port.
        SetTpSrc = "set_tp_src" {
            /// The port.
            port: u16 = "port"
        }
        /// Set the TCP or UDP destination port.
        SetTpDst = "set_tp_dst" {
            /// The port.
            port: u16 = "port"
        }
        /// Set the time to live or hop limit.
        SetTtl = "set_ttl" {
            /// The value.
            ttl_value: u8 = "ttl_value"
        }
    }
}

impl Action {
    /// The row of [`Action::TABLE`] that describes the action.
    pub fn row(&self) -> &'static ActionRow {
        let name = self.name();
        Self::TABLE
            .iter()
            .find(|row| row.name == name)
            .unwrap_or(&Self::TABLE[0])
    }

    /// Whether the action decides where the packet goes. A rule has exactly one such action.
    pub fn is_fate(&self) -> bool {
        matches!(
            self,
            Action::Drop
                | Action::Jump { .. }
                | Action::PortId { .. }
                | Action::PortRepresentor { .. }
                | Action::RepresentedPort { .. }
        )
    }
}

/// Actions that testpmd knows and this model does not have; they are refused by name.
pub const UNSUPPORTED_ACTIONS: &[&str] = &[
    "age",
    "age_update",
    "color",
    "conntrack",
    "conntrack_update",
    "dec_tcp_ack",
    "dec_tcp_seq",
    "flag",
    "inc_tcp_ack",
    "inc_tcp_seq",
    "indirect",
    "indirect_list",
    "ipv6_ext_push",
    "ipv6_ext_remove",
    "jump_to_table_index",
    "l2_decap",
    "l2_encap",
    "mac_swap",
    "meter",
    "meter_mark",
    "modify_field",
    "mplsogre_decap",
    "mplsogre_encap",
    "mplsoudp_decap",
    "mplsoudp_encap",
    "nat64",
    "nvgre_decap",
    "nvgre_encap",
    "of_dec_nw_ttl",
    "of_pop_mpls",
    "of_push_mpls",
    "passthru",
    "pf",
    "queue",
    "raw_decap",
    "raw_encap",
    "rss",
    "sample",
    "send_to_kernel",
    "set_ipv4_dscp",
    "set_ipv6_dscp",
    "set_meta",
    "set_tag",
    "shared_indirect",
    "skip_cman",
    "vf",
];

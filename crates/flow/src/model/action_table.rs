//! The table of actions (`enum rte_flow_action_type`, DPDK 22.11).
//!
//! The one place that names an action or an argument: types, JSON names, the text syntax, printing and
//! completion all come from it. Names are testpmd's. Nothing is carried out here.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::action::{ActionRow, ArgumentRow, ArgumentValue, optional, required};
use super::ct::Ct;
use super::encap::{L2Encap, NvgreDefinition, VxlanDefinition};
use super::field::{AgeTimeout, Dscp, EtherType, FieldKind, MacAddr, MeterColor, Pcp, VlanId};
use super::modify::ModifyField;
use super::port::PortRef;
use super::raw::{RawDecap, RawEncap};
use super::rss::Rss;
use super::sample::Sample;

/// Whether a value is its type's default, which is neither printed nor written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! actions {
    (
        plain { $($(#[doc = $plain_doc:tt])+ $plain:ident = $plain_token:tt;)* }
        with_arguments { $(
            $(#[doc = $doc:tt])+
            $action:ident = $token:tt {
                $(#[doc = $arg_doc:tt] $arg:ident: $ty:ty = $arg_token:tt $(, $bare:ident)?;)*
                $(optional #[doc = $opt_doc:tt] $opt:ident: $opt_ty:ty = $opt_token:tt $(, $opt_kind:ident)?;)*
            }
        )* }
        forms { $(#[doc = $form_doc:tt] $form:ident($target:ty) = $form_token:tt;)* }
    ) => {
        /// An action. Actions are carried out in their order, each on the packet that the one
        /// before left; addresses and ports are those of the outermost headers.
        ///
        /// JSON: the token of an action without arguments, or an object with one member.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub enum Action {
            $(
                $(#[doc = $plain_doc])+
                #[serde(rename = $plain_token)]
                $plain,
            )*
            $(
                $(#[doc = $doc])+
                #[serde(rename = $token)]
                $action {
                    $(
                        #[doc = $arg_doc]
                        #[serde(rename = $arg_token)]
                        $arg: $ty,
                    )*
                    $(
                        #[doc = $opt_doc]
                        #[serde(rename = $opt_token, default, skip_serializing_if = "is_default")]
                        $opt: $opt_ty,
                    )*
                },
            )*
            $(
                #[doc = $form_doc]
                #[serde(rename = $form_token)]
                $form($target),
            )*
        }

        impl Action {
            /// All actions that the model has.
            pub const TABLE: &'static [ActionRow] = &[
                $(ActionRow {
                    name: $plain_token,
                    arguments: &[],
                    build: |_| Ok(Action::$plain),
                },)*
                $(ActionRow {
                    name: $token,
                    arguments: &[
                        $(ArgumentRow {
                            name: $arg_token,
                            kind: <$ty as ArgumentValue>::KIND,
                            bits: <$ty as ArgumentValue>::BITS,
                            bare: actions!(@bare $($bare)?),
                            get: |action| match action {
                                Action::$action { $arg, .. } => Some($arg.to_argument()),
                                _ => None,
                            },
                        },)*
                        $(ArgumentRow {
                            name: $opt_token,
                            kind: actions!(@kind $opt_ty $(, $opt_kind)?),
                            bits: <$opt_ty as ArgumentValue>::BITS,
                            bare: false,
                            get: |action| match action {
                                Action::$action { $opt, .. } if !is_default($opt) => {
                                    Some($opt.to_argument())
                                }
                                _ => None,
                            },
                        },)*
                    ],
                    build: |arguments| {
                        let mut arguments = arguments.iter();
                        Ok(Action::$action {
                            $($arg: required(arguments.next(), $token, $arg_token)?,)*
                            $($opt: optional(arguments.next()),)*
                        })
                    },
                },)*
                $(ActionRow {
                    name: $form_token,
                    arguments: <$target>::ARGUMENTS,
                    build: |arguments| <$target>::build(arguments).map(Action::$form),
                },)*
            ];

            /// testpmd's token for the action.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Action::$plain => $plain_token,)*
                    $(Action::$action { .. } => $token,)*
                    $(Action::$form(_) => $form_token,)*
                }
            }
        }
    };
    (@kind $ty:ty) => { <$ty as ArgumentValue>::KIND };
    (@kind $ty:ty, $kind:ident) => { FieldKind::$kind };
    (@bare) => { false };
    (@bare bare) => { true };
}

actions! {
    plain {
        /// Nothing; ignored wherever it stands.
        Void = "void";
        /// Leave the packet's way to rules of lower priority.
        Passthru = "passthru";
        /// Flag the packet, as `mark` does without a value.
        Flag = "flag";
        /// Drop the packet.
        Drop = "drop";
        /// Decrement the time to live as OpenFlow does; the same as `dec_ttl`.
        OfDecNwTtl = "of_dec_nw_ttl";
        /// Remove the outermost VLAN tag.
        OfPopVlan = "of_pop_vlan";
        /// Swap the source and the destination MAC address.
        MacSwap = "mac_swap";
        /// Decrement the time to live or hop limit; a packet whose value reaches 0 is dropped.
        DecTtl = "dec_ttl";
        /// Remove all headers up to and including the VXLAN header.
        VxlanDecap = "vxlan_decap";
        /// Remove all headers up to and including the NVGRE header.
        NvgreDecap = "nvgre_decap";
        /// Have the connection of an indirect object track the packet. Only inside of
        /// `indirect_action create`; rules name the object by `indirect`.
        Conntrack = "conntrack";
    }
    with_arguments {
        /// Count packets and bytes.
        Count = "count" {
            optional
            /// Counter within the rule; rules may have several.
            id: u32 = "identifier";
        }
        /// Go on with the rules of another group.
        Jump = "jump" {
            /// The group.
            group: u32 = "group";
        }
        /// Give the packet a value that `mark` items of later groups match.
        Mark = "mark" {
            /// The value.
            id: u32 = "id";
        }
        /// Send the packet to a receive queue.
        Queue = "queue" {
            /// The queue.
            index: u16 = "index";
        }
        /// Let a meter colour the packet; red ones are dropped.
        Meter = "meter" {
            /// The meter.
            mtr_id: u32 = "mtr_id";
        }
        /// Let a meter of its own colour the packet.
        MeterMark = "meter_mark" {
            /// The profile.
            profile: u32 = "mtr_profile";
            /// The policy.
            policy: u32 = "mtr_policy";
            optional
            /// Whether the packet's colour counts (1) or not (0).
            color_mode: u8 = "mtr_color_mode";
            optional
            /// Colour that packets have before.
            init_color: MeterColor = "mtr_init_color";
            optional
            /// Whether the meter works (1) or not (0).
            state: u8 = "mtr_state";
        }
        /// Set the packet's colour.
        MeterColor = "color" {
            /// The colour.
            color: MeterColor = "type";
        }
        /// Notice when no packet has matched for a while.
        Age = "age" {
            /// Seconds without a packet.
            timeout: AgeTimeout = "timeout";
            optional
            /// What the list of aged rules names the rule by; 0 for the rule itself.
            context: u64 = "context";
        }
        /// Carry out the action of an indirect object.
        Indirect = "indirect" {
            /// The object.
            id: u32 = "id", bare;
        }
        /// Send the packet to a port (deprecated in DPDK, kept for its users).
        PortId = "port_id" {
            /// The port.
            port: PortRef = "id";
        }
        /// Send the packet to the owner of a port.
        PortRepresentor = "port_representor" {
            /// The port.
            port: PortRef = "port_id";
        }
        /// Send the packet to what a port stands for (the guest, the wire).
        RepresentedPort = "represented_port" {
            /// The port.
            port: PortRef = "ethdev_port_id";
        }
        /// Put a new VLAN tag, all zero, in front of the others.
        OfPushVlan = "of_push_vlan" {
            /// Tag protocol identifier, 0x8100 or 0x88a8.
            ethertype: EtherType = "ethertype";
        }
        /// Set the identifier of the outermost VLAN tag.
        OfSetVlanVid = "of_set_vlan_vid" {
            /// VLAN identifier.
            vlan_vid: VlanId = "vlan_vid";
        }
        /// Set the priority of the outermost VLAN tag.
        OfSetVlanPcp = "of_set_vlan_pcp" {
            /// Priority code point.
            vlan_pcp: Pcp = "vlan_pcp";
        }
        /// Remove the outermost MPLS label.
        OfPopMpls = "of_pop_mpls" {
            /// EtherType of what is then outermost.
            ethertype: EtherType = "ethertype";
        }
        /// Put a new MPLS label in front of the others.
        OfPushMpls = "of_push_mpls" {
            /// EtherType, 0x8847 or 0x8848.
            ethertype: EtherType = "ethertype";
        }
        /// Set the source MAC address.
        SetMacSrc = "set_mac_src" {
            /// The address.
            mac_addr: MacAddr = "mac_addr";
        }
        /// Set the destination MAC address.
        SetMacDst = "set_mac_dst" {
            /// The address.
            mac_addr: MacAddr = "mac_addr";
        }
        /// Set the IPv4 source address.
        SetIpv4Src = "set_ipv4_src" {
            /// The address.
            ipv4_addr: Ipv4Addr = "ipv4_addr";
        }
        /// Set the IPv4 destination address.
        SetIpv4Dst = "set_ipv4_dst" {
            /// The address.
            ipv4_addr: Ipv4Addr = "ipv4_addr";
        }
        /// Set the IPv6 source address.
        SetIpv6Src = "set_ipv6_src" {
            /// The address.
            ipv6_addr: Ipv6Addr = "ipv6_addr";
        }
        /// Set the IPv6 destination address.
        SetIpv6Dst = "set_ipv6_dst" {
            /// The address.
            ipv6_addr: Ipv6Addr = "ipv6_addr";
        }
        /// Set the DSCP of the IPv4 header.
        SetIpv4Dscp = "set_ipv4_dscp" {
            /// The value.
            dscp: Dscp = "dscp_value";
        }
        /// Set the DSCP of the IPv6 header.
        SetIpv6Dscp = "set_ipv6_dscp" {
            /// The value.
            dscp: Dscp = "dscp_value";
        }
        /// Set the TCP or UDP source port.
        SetTpSrc = "set_tp_src" {
            /// The port.
            port: u16 = "port";
        }
        /// Set the TCP or UDP destination port.
        SetTpDst = "set_tp_dst" {
            /// The port.
            port: u16 = "port";
        }
        /// Set the time to live or hop limit.
        SetTtl = "set_ttl" {
            /// The value.
            ttl_value: u8 = "ttl_value";
        }
        /// Add to the TCP sequence number, wrapping.
        IncTcpSeq = "inc_tcp_seq" {
            /// How much.
            value: u32 = "value";
        }
        /// Subtract from the TCP sequence number, wrapping.
        DecTcpSeq = "dec_tcp_seq" {
            /// How much.
            value: u32 = "value";
        }
        /// Add to the TCP acknowledgment number, wrapping.
        IncTcpAck = "inc_tcp_ack" {
            /// How much.
            value: u32 = "value";
        }
        /// Subtract from the TCP acknowledgment number, wrapping.
        DecTcpAck = "dec_tcp_ack" {
            /// How much.
            value: u32 = "value";
        }
        /// Set bits of a tag that `tag` items of later groups match.
        SetTag = "set_tag" {
            /// The value.
            data: u32 = "data";
            /// Which tag.
            index: u8 = "index";
            /// Bits that are set.
            mask: u32 = "mask";
        }
        /// Remove the Ethernet header.
        L2Decap = "l2_decap" {
            optional
            /// Whether a VLAN tag goes, too.
            vlan: bool = "vlan", Flag;
        }
        /// Set bits of the metadata that `meta` items match.
        SetMeta = "set_meta" {
            /// The value.
            data: u32 = "data";
            /// Bits that are set.
            mask: u32 = "mask";
        }
    }
    forms {
        /// Spread packets over receive queues.
        Rss(Rss) = "rss";
        /// Do further actions on a copy of some packets.
        Sample(Sample) = "sample";
        /// Encapsulate the packet in VXLAN.
        VxlanEncap(VxlanDefinition) = "vxlan_encap";
        /// Encapsulate the packet in NVGRE.
        NvgreEncap(NvgreDefinition) = "nvgre_encap";
        /// Put bytes in front of the packet.
        RawEncap(RawEncap) = "raw_encap";
        /// Remove as many bytes from the front of the packet as the given header has.
        RawDecap(RawDecap) = "raw_decap";
        /// Put an Ethernet header in front of a packet that has none.
        L2Encap(L2Encap) = "l2_encap";
        /// Set, add to or subtract from any field, from another field or a value.
        ModifyField(ModifyField) = "modify_field";
        /// Track the packet's connection (private).
        Ct(Ct) = "ct";
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
        match self {
            Action::Drop
            | Action::Passthru
            | Action::Jump { .. }
            | Action::Queue { .. }
            | Action::Rss(_)
            | Action::PortId { .. }
            | Action::PortRepresentor { .. }
            | Action::RepresentedPort { .. } => true,
            Action::Ct(ct) => ct.group.is_some(),
            _ => false,
        }
    }
}

/// Actions that rte_flow or testpmd has and this model does not; they are refused by name.
pub const UNSUPPORTED_ACTIONS: &[&str] = &[
    "age_update",
    "conntrack_update",
    "indirect_list",
    "ipv6_ext_push",
    "ipv6_ext_remove",
    "jump_to_table_index",
    "mplsogre_decap",
    "mplsogre_encap",
    "mplsoudp_decap",
    "mplsoudp_encap",
    "nat64",
    "pf",
    "security",
    "send_to_kernel",
    "shared_indirect",
    "skip_cman",
    "vf",
];

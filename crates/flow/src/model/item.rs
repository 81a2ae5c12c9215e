//! Pattern items (`enum rte_flow_item_type`, DPDK 22.11 and 24.11), and the table of their fields.
//!
//! The table is the one place that names an item or a field: types, JSON names, the text syntax,
//! printing and completion all come from it. It never looks at a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::field::{EtherType, FieldKind, FieldValue, FlowLabel, MacAddr, Pcp, VlanId, Vni};
use super::matched::{ErasedMatch, Matched};
use super::port::PortRef;

/// One pattern item as the syntax knows it.
#[derive(Debug)]
pub struct ItemRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// The item with nothing specified.
    pub new: fn() -> Item,
    /// Its fields in the order in which they are printed.
    pub fields: &'static [FieldRow],
}

/// One field of a pattern item as the syntax knows it.
#[derive(Debug)]
pub struct FieldRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// How a value is written.
    pub kind: FieldKind,
    /// Width in bits.
    pub bits: u32,
    /// The field's part of `rte_flow_item_{name}_mask`, used where an item has a spec and no mask.
    pub default_mask: u128,
    /// Where the value is kept.
    pub access: Access,
}

/// Where the value of a field is kept.
#[derive(Debug)]
pub enum Access {
    /// In a [`Matched`] field of the item.
    Field {
        /// The value, or `None` if the item is of another type.
        get: fn(&Item) -> Option<ErasedMatch>,
        /// Sets the value; does nothing to an item of another type.
        set: fn(&mut Item, ErasedMatch),
    },
    /// In bits of other fields; never printed.
    Alias(&'static [Part]),
    /// In the port of the item; matched as a whole or not at all.
    Port,
}

/// Bits of a field that an alias stands for.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The field that keeps the bits.
    pub field: &'static str,
    /// Lowest bit within the alias.
    pub alias_shift: u32,
    /// Lowest bit within the field.
    pub field_shift: u32,
    /// Number of bits.
    pub bits: u32,
}

const ALL: u128 = u128::MAX;
const NONE: u128 = 0;

macro_rules! items {
    (
        headers { $(
            #[doc = $item_doc:tt]
            $item:ident = $item_token:tt {
                $(#[doc = $doc:tt] $field:ident: $ty:ty = $token:tt, $default:ident;)*
                $(alias $alias:literal: $alias_kind:ident $alias_bits:literal = [$($part:expr),*];)*
            }
        )* }
        ports { $(#[doc = $port_doc:tt] $port:ident = $port_token:tt, $port_field:tt;)* }
    ) => {
        $(
            #[doc = $item_doc]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $item {
                $(
                    #[doc = $doc]
                    #[serde(rename = $token, skip_serializing_if = "Matched::is_unset")]
                    pub $field: Matched<$ty>,
                )*
            }
        )*

        /// A pattern item. Header items match a header and, without fields, its presence.
        ///
        /// JSON: `"void"`, or an object with one member named by testpmd's token.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Item {
            /// Nothing; ignored wherever it stands.
            #[serde(rename = "void")]
            Void,
            $(
                #[doc = $item_doc]
                #[serde(rename = $item_token)]
                $item($item),
            )*
            $(
                #[doc = $port_doc]
                #[serde(rename = $port_token)]
                $port {
                    /// The port, or any if absent.
                    #[serde(rename = $port_field, default, skip_serializing_if = "Option::is_none")]
                    port: Option<PortRef>,
                },
            )*
        }

        impl Item {
            /// All items that the model has.
            pub const TABLE: &'static [ItemRow] = &[
                ItemRow {
                    name: "void",
                    new: || Item::Void,
                    fields: &[],
                },
                $(ItemRow {
                    name: $item_token,
                    new: || Item::$item($item::default()),
                    fields: &[
                        $(FieldRow {
                            name: $token,
                            kind: <$ty as FieldValue>::KIND,
                            bits: <$ty as FieldValue>::BITS,
                            default_mask: $default,
                            access: Access::Field {
                                get: |item| match item {
                                    Item::$item(header) => Some(header.$field.erase()),
                                    _ => None,
                                },
                                set: |item, value| if let Item::$item(header) = item {
                                    header.$field = Matched::from_erased(value);
                                },
                            },
                        },)*
                        $(FieldRow {
                            name: $alias,
                            kind: FieldKind::$alias_kind,
                            bits: $alias_bits,
                            default_mask: NONE,
                            access: Access::Alias(&[$($part),*]),
                        },)*
                    ],
                },)*
                $(ItemRow {
                    name: $port_token,
                    new: || Item::$port { port: None },
                    fields: &[FieldRow {
                        name: $port_field,
                        kind: FieldKind::Port,
                        bits: 32,
                        default_mask: ALL,
                        access: Access::Port,
                    }],
                },)*
            ];

            /// testpmd's token for the item.
            pub fn name(&self) -> &'static str {
                match self {
                    Item::Void => "void",
                    $(Item::$item(_) => $item_token,)*
                    $(Item::$port { .. } => $port_token,)*
                }
            }

            /// The port that the item names, if it is one of the port items.
            pub fn port(&self) -> Option<&PortRef> {
                match self {
                    $(Item::$port { port } => port.as_ref(),)*
                    _ => None,
                }
            }

            /// Sets the port of a port item; does nothing to others.
            pub(crate) fn set_port(&mut self, to: Option<PortRef>) {
                match self {
                    $(Item::$port { port } => *port = to,)*
                    _ => {}
                }
            }
        }
    };
}

const fn part(field: &'static str, alias_shift: u32, field_shift: u32, bits: u32) -> Part {
    Part {
        field,
        alias_shift,
        field_shift,
        bits,
    }
}

items! {
    headers {
        /// Ethernet header (IEEE 802.3).
        Eth = "eth" {
            /// Destination MAC address.
            dst: MacAddr = "dst", ALL;
            /// Source MAC address.
            src: MacAddr = "src", ALL;
            /// EtherType, or the outer tag's protocol identifier if a `vlan` item follows.
            ether_type: EtherType = "type", NONE;
            /// Whether the header is followed by a VLAN tag.
            has_vlan: bool = "has_vlan", NONE;
        }
        /// VLAN tag (IEEE 802.1Q and 802.1ad).
        Vlan = "vlan" {
            /// Priority code point.
            pcp: Pcp = "pcp", NONE;
            /// Drop eligible indicator.
            dei: bool = "dei", NONE;
            /// VLAN identifier.
            vid: VlanId = "vid", ALL;
            /// EtherType behind the tag, or the next tag's protocol identifier.
            inner_type: EtherType = "inner_type", NONE;
            /// Whether another tag follows.
            has_more_vlan: bool = "has_more_vlan", NONE;
            alias "tci": Hexadecimal 16 =
                [part("pcp", 13, 0, 3), part("dei", 12, 0, 1), part("vid", 0, 0, 12)];
        }
        /// IPv4 header (RFC 791).
        Ipv4 = "ipv4" {
            /// Version and header length, the first byte.
            version_ihl: u8 = "version_ihl", NONE;
            /// Type of service: DSCP and ECN.
            tos: u8 = "tos", NONE;
            /// Identification.
            packet_id: u16 = "packet_id", NONE;
            /// Flags (the top 3 bits) and fragment offset (units of 8 bytes).
            fragment_offset: u16 = "fragment_offset", NONE;
            /// Time to live.
            ttl: u8 = "ttl", NONE;
            /// Protocol number of the payload.
            proto: u8 = "proto", NONE;
            /// Source address.
            src: Ipv4Addr = "src", ALL;
            /// Destination address.
            dst: Ipv4Addr = "dst", ALL;
        }
        /// IPv6 header (RFC 8200).
        Ipv6 = "ipv6" {
            /// Traffic class.
            tc: u8 = "tc", NONE;
            /// Flow label.
            flow: FlowLabel = "flow", NONE;
            /// Next header as the fixed header has it.
            proto: u8 = "proto", NONE;
            /// Hop limit.
            hop: u8 = "hop", NONE;
            /// Whether there is a fragment extension header.
            has_frag_ext: bool = "has_frag_ext", NONE;
            /// Source address.
            src: Ipv6Addr = "src", ALL;
            /// Destination address.
            dst: Ipv6Addr = "dst", ALL;
        }
        /// TCP header (RFC 9293).
        Tcp = "tcp" {
            /// Source port.
            src: u16 = "src", ALL;
            /// Destination port.
            dst: u16 = "dst", ALL;
            /// Control bits CWR to FIN, one byte.
            flags: u8 = "flags", NONE;
        }
        /// UDP header (RFC 768).
        Udp = "udp" {
            /// Source port.
            src: u16 = "src", ALL;
            /// Destination port.
            dst: u16 = "dst", ALL;
        }
        /// ICMP header (RFC 792).
        Icmp = "icmp" {
            /// Message type.
            icmp_type: u8 = "type", ALL;
            /// Message code.
            code: u8 = "code", ALL;
            /// Identifier of an echo message.
            ident: u16 = "ident", NONE;
            /// Sequence number of an echo message.
            seq: u16 = "seq", NONE;
        }
        /// ICMPv6 header (RFC 4443).
        Icmp6 = "icmp6" {
            /// Message type.
            icmp_type: u8 = "type", ALL;
            /// Message code.
            code: u8 = "code", ALL;
        }
        /// VXLAN header (RFC 7348).
        Vxlan = "vxlan" {
            /// Network identifier.
            vni: Vni = "vni", ALL;
            /// Flags, the first byte; normally 0x08.
            flags: u8 = "flags", NONE;
            alias "flag_g": Unsigned 1 = [part("flags", 0, 7, 1)];
            alias "flag_ver": Unsigned 2 = [part("flags", 0, 4, 2)];
            alias "flag_i": Unsigned 1 = [part("flags", 0, 3, 1)];
            alias "flag_p": Unsigned 1 = [part("flags", 0, 2, 1)];
            alias "flag_b": Unsigned 1 = [part("flags", 0, 1, 1)];
            alias "flag_o": Unsigned 1 = [part("flags", 0, 0, 1)];
        }
        /// Value that the `mark` action of an earlier rule gave the packet.
        Mark = "mark" {
            /// The value.
            id: u32 = "id", ALL;
        }
    }
    ports {
        /// Traffic from or to a port (deprecated in DPDK, kept for its users).
        PortId = "port_id", "id";
        /// Traffic that the owner of a port sends into the switch.
        PortRepresentor = "port_representor", "port_id";
        /// Traffic that enters the switch from what a port stands for (the guest, the wire).
        RepresentedPort = "represented_port", "ethdev_port_id";
    }
}

impl Item {
    /// The row of [`Item::TABLE`] that describes the item.
    pub fn row(&self) -> &'static ItemRow {
        let name = self.name();
        Self::TABLE
            .iter()
            .find(|row| row.name == name)
            .unwrap_or(&Self::TABLE[0])
    }
}

/// Items that testpmd knows and this model does not have; they are refused by name.
pub const UNSUPPORTED_ITEMS: &[&str] = &[
    "aggr_affinity",
    "ah",
    "any",
    "arp_eth_ipv4",
    "compare",
    "conntrack",
    "e_tag",
    "ecpri",
    "esp",
    "flex",
    "fuzzy",
    "geneve",
    "geneve-opt",
    "gre",
    "gre_key",
    "gre_option",
    "gtp",
    "gtp_psc",
    "gtpc",
    "gtpu",
    "higig2",
    "ib_bth",
    "icmp6_echo_reply",
    "icmp6_echo_request",
    "icmp6_nd_na",
    "icmp6_nd_ns",
    "icmp6_nd_opt",
    "icmp6_nd_opt_sla_eth",
    "icmp6_nd_opt_tla_eth",
    "integrity",
    "invert",
    "ipv6_ext",
    "ipv6_frag_ext",
    "ipv6_routing_ext",
    "l2tpv2",
    "l2tpv3oip",
    "meta",
    "meter",
    "mpls",
    "nsh",
    "nvgre",
    "pfcp",
    "ppp",
    "pppoe_proto_id",
    "pppoed",
    "pppoes",
    "ptype",
    "quota",
    "random",
    "raw",
    "sctp",
    "tag",
    "tx_queue",
    "vxlan-gpe",
];

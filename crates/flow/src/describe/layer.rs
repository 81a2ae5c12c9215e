//! Layers of a described packet, and the table of their fields. Says nothing of bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::{
    EtherType, FieldKind, FieldValue, FlowLabel, MacAddr, MplsLabel, MplsTc, Pcp, VlanId, Vni,
};

/// One layer as the syntax knows it.
#[derive(Debug)]
pub struct LayerRow {
    /// Its token.
    pub name: &'static str,
    /// The layer with all defaults.
    pub new: fn() -> Layer,
    /// Its fields in the order in which they are printed.
    pub fields: &'static [LayerField],
}

/// One field of a layer as the syntax knows it.
#[derive(Debug)]
pub struct LayerField {
    /// Its token.
    pub name: &'static str,
    /// How a value is written.
    pub kind: FieldKind,
    /// Width in bits.
    pub bits: u32,
    /// The value, or `None` if the layer is another one.
    pub get: fn(&Layer) -> Option<u128>,
    /// Sets the value; does nothing to another layer.
    pub set: fn(&mut Layer, u128),
}

/// TCP control bits CWR to FIN (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Names of the bits, least significant first.
    pub const NAMES: [&'static str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

    /// The flags of names joined by `|`, or `None` if one is unknown.
    pub fn from_names(text: &str) -> Option<Self> {
        text.split('|').try_fold(Self::default(), |flags, name| {
            let bit = Self::NAMES.iter().position(|known| *known == name)?;
            Some(Self(flags.0 | 1 << bit))
        })
    }
}

impl FieldValue for TcpFlags {
    const BITS: u32 = 8;
    const KIND: FieldKind = FieldKind::TcpFlags;
    fn to_bits(self) -> u128 {
        self.0.into()
    }
    fn from_bits(bits: u128) -> Self {
        Self(bits as u8)
    }
}

macro_rules! layers {
    ($(
        #[doc = $layer_doc:tt]
        $layer:ident = $layer_token:tt {
            $(#[doc = $doc:tt] $field:ident: $ty:ty = $token:tt, $default:expr;)*
        }
    )*) => {
        /// A layer of a packet with concrete values. Lengths and checksums are not among them; they
        /// follow from the rest.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Layer {
            $(
                #[doc = $layer_doc]
                $layer {
                    $(#[doc = $doc] $field: $ty,)*
                },
            )*
            /// Bytes behind the last header.
            Payload(Vec<u8>),
        }

        impl Layer {
            /// All layers but `payload`.
            pub const TABLE: &'static [LayerRow] = &[$(LayerRow {
                name: $layer_token,
                new: || Layer::$layer { $($field: $default,)* },
                fields: &[$(LayerField {
                    name: $token,
                    kind: <$ty as FieldValue>::KIND,
                    bits: <$ty as FieldValue>::BITS,
                    get: |layer| match layer {
                        Layer::$layer { $field, .. } => Some(FieldValue::to_bits(*$field)),
                        _ => None,
                    },
                    set: |layer, bits| if let Layer::$layer { $field, .. } = layer {
                        *$field = FieldValue::from_bits(bits);
                    },
                },)*],
            },)*];

            /// The layer's token.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Layer::$layer { .. } => $layer_token,)*
                    Layer::Payload(_) => "payload",
                }
            }
        }
    };
}

layers! {
    /// Ethernet header (IEEE 802.3).
    Eth = "eth" {
        /// Destination MAC address.
        dst: MacAddr = "dst", MacAddr([2, 0, 0, 0, 0, 2]);
        /// Source MAC address.
        src: MacAddr = "src", MacAddr([2, 0, 0, 0, 0, 1]);
        /// EtherType; by default that of the next layer.
        ether_type: EtherType = "type", EtherType(0);
    }
    /// VLAN tag (IEEE 802.1Q).
    Vlan = "vlan" {
        /// VLAN identifier.
        vid: VlanId = "vid", VlanId::from_bits(1);
        /// Priority code point.
        pcp: Pcp = "pcp", Pcp::from_bits(0);
        /// Drop eligible indicator.
        dei: bool = "dei", false;
        /// EtherType behind the tag; by default that of the next layer.
        inner_type: EtherType = "inner_type", EtherType(0);
    }
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp = "arp" {
        /// Operation: 1 request, 2 reply.
        op: u16 = "op", 1;
        /// Sender hardware address.
        sha: MacAddr = "sha", MacAddr([2, 0, 0, 0, 0, 1]);
        /// Sender protocol address.
        spa: Ipv4Addr = "spa", Ipv4Addr::new(192, 0, 2, 1);
        /// Target hardware address.
        tha: MacAddr = "tha", MacAddr([0; 6]);
        /// Target protocol address.
        tpa: Ipv4Addr = "tpa", Ipv4Addr::new(192, 0, 2, 2);
    }
    /// IPv4 header without options (RFC 791).
    Ipv4 = "ipv4" {
        /// Source address.
        src: Ipv4Addr = "src", Ipv4Addr::new(192, 0, 2, 1);
        /// Destination address.
        dst: Ipv4Addr = "dst", Ipv4Addr::new(192, 0, 2, 2);
        /// Time to live.
        ttl: u8 = "ttl", 64;
        /// Type of service.
        tos: u8 = "tos", 0;
        /// Identification.
        packet_id: u16 = "packet_id", 0;
        /// Flags (the top 3 bits) and fragment offset (units of 8 bytes).
        fragment_offset: u16 = "fragment_offset", 0;
        /// Protocol number; by default that of the next layer.
        proto: u8 = "proto", 0;
    }
    /// IPv6 header without extensions (RFC 8200).
    Ipv6 = "ipv6" {
        /// Source address.
        src: Ipv6Addr = "src", Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        /// Destination address.
        dst: Ipv6Addr = "dst", Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
        /// Hop limit.
        hop: u8 = "hop", 64;
        /// Traffic class.
        tc: u8 = "tc", 0;
        /// Flow label.
        flow: FlowLabel = "flow", FlowLabel::from_bits(0);
        /// Next header; by default that of the next layer.
        proto: u8 = "proto", 0;
    }
    /// TCP header without options (RFC 9293).
    Tcp = "tcp" {
        /// Source port.
        src: u16 = "src", 49152;
        /// Destination port.
        dst: u16 = "dst", 80;
        /// Sequence number.
        seq: u32 = "seq", 0;
        /// Acknowledgment number.
        ack: u32 = "ack", 0;
        /// Control bits.
        flags: TcpFlags = "flags", TcpFlags(2);
        /// Window.
        window: u16 = "window", 65535;
    }
    /// UDP header (RFC 768).
    Udp = "udp" {
        /// Source port.
        src: u16 = "src", 49152;
        /// Destination port; by default that of the tunnel that follows.
        dst: u16 = "dst", 9;
    }
    /// ICMP header (RFC 792); by default an echo request.
    Icmp = "icmp" {
        /// Message type.
        icmp_type: u8 = "type", 8;
        /// Message code.
        code: u8 = "code", 0;
        /// Identifier.
        ident: u16 = "ident", 0;
        /// Sequence number.
        seq: u16 = "seq", 0;
    }
    /// ICMPv6 header (RFC 4443); by default an echo request.
    Icmp6 = "icmp6" {
        /// Message type.
        icmp_type: u8 = "type", 128;
        /// Message code.
        code: u8 = "code", 0;
        /// Identifier.
        ident: u16 = "ident", 0;
        /// Sequence number.
        seq: u16 = "seq", 0;
    }
    /// SCTP header (RFC 9260).
    Sctp = "sctp" {
        /// Source port.
        src: u16 = "src", 49152;
        /// Destination port.
        dst: u16 = "dst", 80;
        /// Verification tag.
        tag: u32 = "tag", 0;
    }
    /// GRE header (RFC 2784); with the key of RFC 2890 if that is not 0.
    Gre = "gre" {
        /// EtherType of the payload; by default that of the next layer.
        protocol: EtherType = "protocol", EtherType(0);
        /// Key.
        key: u32 = "key", 0;
    }
    /// MPLS label (RFC 3032).
    Mpls = "mpls" {
        /// The label.
        label: MplsLabel = "label", MplsLabel::from_bits(16);
        /// Traffic class.
        tc: MplsTc = "tc", MplsTc::from_bits(0);
        /// Whether it is the last label; by default whether no other follows.
        s: bool = "s", true;
        /// Time to live.
        ttl: u8 = "ttl", 64;
    }
    /// Geneve header without options (RFC 8926).
    Geneve = "geneve" {
        /// Network identifier.
        vni: Vni = "vni", Vni::from_bits(0);
        /// EtherType of the payload; by default that of the next layer.
        protocol: EtherType = "protocol", EtherType(0);
    }
    /// GTP-U header of a G-PDU (3GPP TS 29.281).
    Gtpu = "gtpu" {
        /// Tunnel endpoint identifier.
        teid: u32 = "teid", 0;
    }
    /// VXLAN header (RFC 7348).
    Vxlan = "vxlan" {
        /// Network identifier.
        vni: Vni = "vni", Vni::from_bits(0);
        /// Flags, the first byte.
        flags: u8 = "flags", 8;
    }
}

impl Layer {
    /// Tokens of the layers that can stand behind this one.
    pub(super) fn followers(&self) -> &'static [&'static str] {
        match self {
            Self::Eth { .. } | Self::Vlan { .. } => {
                &["vlan", "arp", "ipv4", "ipv6", "mpls", "payload"]
            }
            Self::Ipv4 { .. } => &["tcp", "udp", "icmp", "sctp", "gre", "payload"],
            Self::Ipv6 { .. } => &["tcp", "udp", "icmp6", "sctp", "gre", "payload"],
            Self::Udp { .. } => &["vxlan", "geneve", "gtpu", "payload"],
            Self::Vxlan { .. } => &["eth"],
            Self::Gre { .. } | Self::Geneve { .. } => &["eth", "ipv4", "ipv6", "payload"],
            Self::Mpls { .. } => &["mpls", "ipv4", "ipv6", "payload"],
            Self::Gtpu { .. } => &["ipv4", "ipv6", "payload"],
            Self::Arp { .. }
            | Self::Tcp { .. }
            | Self::Icmp { .. }
            | Self::Icmp6 { .. }
            | Self::Sctp { .. } => &["payload"],
            Self::Payload(_) => &[],
        }
    }

    /// Length of the layer's own bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Eth { .. } => 14,
            Self::Vlan { .. } | Self::Mpls { .. } | Self::Gre { key: 0, .. } => 4,
            Self::Sctp { .. } => 12,
            Self::Arp { .. } => 28,
            Self::Ipv4 { .. } | Self::Tcp { .. } => 20,
            Self::Ipv6 { .. } => 40,
            Self::Udp { .. }
            | Self::Icmp { .. }
            | Self::Icmp6 { .. }
            | Self::Vxlan { .. }
            | Self::Geneve { .. }
            | Self::Gtpu { .. }
            | Self::Gre { .. } => 8,
            Self::Payload(bytes) => bytes.len(),
        }
    }
}

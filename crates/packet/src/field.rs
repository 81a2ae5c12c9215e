//! Where each header field lives in a [`FlowKey`](crate::FlowKey): word, shift and width.
//!
//! This is the table a rule compiler works from; it never looks at packet bytes.

/// First word of the outer layer.
pub const OUTER_BASE: usize = 2;
/// First word of the inner layer.
pub const INNER_BASE: usize = 10;
/// Words of one layer.
pub const LAYER_WORDS: usize = 8;
/// One past the last word of the layers: what `parse` always writes ends here.
pub const LAYERS_END: usize = INNER_BASE + LAYER_WORDS;
/// First word of the extra fields, which `parse` writes only when asked.
pub const EXTRA_BASE: usize = 24;
/// One past the last word that is used.
pub const USED_WORDS_END: usize = 40;

/// Bit of [`Field::Layers`]: the outermost Ethernet header was parsed.
pub const LAYER_OUTER_PRESENT: u8 = 1;
/// Bit of [`Field::Layers`]: a packet inside a tunnel was parsed.
pub const LAYER_INNER_PRESENT: u8 = 2;
/// Bit of [`Field::Layers`]: the packet inside the tunnel starts with an Ethernet header.
pub const LAYER_INNER_ETHERNET: u8 = 4;
/// Bit of [`Field::VlanTci`] and [`Field::InnerVlanTci`]: a tag is present (takes the place of DEI, which is not matched).
pub const VLAN_PRESENT: u16 = 0x1000;
/// Bit of [`Field::Fragment`]: the packet is a fragment, first or later.
pub const FRAGMENT_ANY: u8 = 1;
/// Bit of [`Field::Fragment`]: the packet is a fragment other than the first, so it has no L4 header.
pub const FRAGMENT_LATER: u8 = 2;
/// [`Field::EthType`] of an IEEE 802.3 frame, whose type field is a length.
pub const ETHERTYPE_LENGTH: u16 = 0x05ff;

/// Which headers of a frame a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// The outermost headers of the frame (the only ones of a frame without a tunnel).
    Outer = 0,
    /// The headers of the frame or IP packet inside a tunnel.
    Inner = 1,
}

/// What the payload of a layer is encapsulated in: the values of [`Field::TunnelKind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TunnelKind {
    /// No tunnel that is looked for.
    #[default]
    None = 0,
    /// VXLAN (RFC 7348); the id is the VNI.
    Vxlan = 1,
    /// Generic protocol extension for VXLAN (draft-ietf-nvo3-vxlan-gpe); the id is the VNI.
    VxlanGpe = 2,
    /// Geneve (RFC 8926); the id is the VNI.
    Geneve = 3,
    /// GRE (RFC 2784, RFC 2890), ERSPAN too; the id is the key, if one is present.
    Gre = 4,
    /// GTP-U version 1 (3GPP TS 29.281); the id is the TEID.
    Gtpu = 5,
    /// ESP (RFC 4303), never looked into; the id is the SPI.
    Esp = 6,
    /// An MPLS label stack (RFC 3032); the id is the outermost label.
    Mpls = 7,
}

impl TunnelKind {
    /// The kind with this number; numbers without a kind are none.
    pub const fn from_number(number: u8) -> TunnelKind {
        match number {
            1 => TunnelKind::Vxlan,
            2 => TunnelKind::VxlanGpe,
            3 => TunnelKind::Geneve,
            4 => TunnelKind::Gre,
            5 => TunnelKind::Gtpu,
            6 => TunnelKind::Esp,
            7 => TunnelKind::Mpls,
            _ => TunnelKind::None,
        }
    }

    /// Whether it is carried in UDP.
    pub const fn is_udp(self) -> bool {
        matches!(
            self,
            TunnelKind::Vxlan | TunnelKind::VxlanGpe | TunnelKind::Geneve | TunnelKind::Gtpu
        )
    }
}

/// Bits inside a [`Field`] that holds different things for different protocols: `width` bits from `shift`, counted in
/// the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Lowest bit in the field.
    pub shift: u32,
    /// Number of bits.
    pub width: u32,
}

const fn part(shift: u32, width: u32) -> Part {
    Part { shift, width }
}

impl Part {
    /// Echo identifier in [`Field::L4Extra`] of ICMP and ICMPv6.
    pub const ICMP_IDENT: Part = part(48, 16);
    /// Echo sequence number in [`Field::L4Extra`] of ICMP and ICMPv6.
    pub const ICMP_SEQUENCE: Part = part(32, 16);
    /// Length in [`Field::L4Extra`] of UDP.
    pub const UDP_LENGTH: Part = part(48, 16);
    /// Checksum in [`Field::L4Extra`] of UDP.
    pub const UDP_CHECKSUM: Part = part(32, 16);
    /// Sequence number in [`Field::L4Extra`] of TCP.
    pub const TCP_SEQUENCE: Part = part(32, 32);
    /// Acknowledgement number in [`Field::L4Extra`] of TCP.
    pub const TCP_ACKNOWLEDGEMENT: Part = part(0, 32);
    /// Verification tag in [`Field::L4Extra`] of SCTP.
    pub const SCTP_TAG: Part = part(32, 32);
    /// Checksum in [`Field::L4Extra`] of SCTP.
    pub const SCTP_CHECKSUM: Part = part(0, 32);
    /// Sequence number in [`Field::L4Extra`] of ESP.
    pub const ESP_SEQUENCE: Part = part(32, 32);
    /// Version and header length in [`Field::IpExtra`] of IPv4.
    pub const IPV4_VERSION_IHL: Part = part(56, 8);
    /// Identification in [`Field::IpExtra`] of IPv4.
    pub const IPV4_ID: Part = part(40, 16);
    /// Flags and fragment offset in [`Field::IpExtra`] of IPv4.
    pub const IPV4_FRAGMENT: Part = part(24, 16);
    /// Flow label in [`Field::IpExtra`] of IPv6.
    pub const IPV6_FLOW_LABEL: Part = part(44, 20);
    /// Extension headers that are there in [`Field::IpExtra`] of IPv6: the `IPV6_EXT` bits of this module.
    pub const IPV6_EXTENSIONS: Part = part(32, 12);
    /// Fragment identification in [`Field::IpExtra`] of IPv6.
    pub const IPV6_FRAGMENT_ID: Part = part(0, 32);
    /// Flags and version of GRE, or version, option length, O and C of Geneve, in [`Field::TunnelHead`].
    pub const TUNNEL_WORD: Part = part(0, 16);
    /// Flags byte of VXLAN, VXLAN-GPE and GTP-U in [`Field::TunnelHead`].
    pub const TUNNEL_FLAGS: Part = part(8, 8);
    /// Message type of GTP-U in [`Field::TunnelHead`].
    pub const GTPU_TYPE: Part = part(0, 8);
    /// A PDU session container is there, in [`Field::GtpuSession`].
    pub const GTPU_SESSION_PRESENT: Part = part(15, 1);
    /// PDU type in [`Field::GtpuSession`].
    pub const GTPU_PDU_TYPE: Part = part(8, 4);
    /// QoS flow identifier in [`Field::GtpuSession`].
    pub const GTPU_QFI: Part = part(0, 6);
    /// Label in [`Field::MplsOuter`] and [`Field::MplsSecond`].
    pub const MPLS_LABEL: Part = part(12, 20);
    /// Traffic class likewise.
    pub const MPLS_CLASS: Part = part(9, 3);
    /// Bottom of stack likewise.
    pub const MPLS_BOTTOM: Part = part(8, 1);
    /// Time to live likewise.
    pub const MPLS_TTL: Part = part(0, 8);
}

/// Bit of [`Part::IPV6_EXTENSIONS`]: hop-by-hop options.
pub const IPV6_EXT_HOP_BY_HOP: u16 = 1;
/// Bit of [`Part::IPV6_EXTENSIONS`]: routing header.
pub const IPV6_EXT_ROUTING: u16 = 1 << 1;
/// Bit of [`Part::IPV6_EXTENSIONS`]: fragment header (also that of an atomic fragment).
pub const IPV6_EXT_FRAGMENT: u16 = 1 << 2;
/// Bit of [`Part::IPV6_EXTENSIONS`]: authentication header.
pub const IPV6_EXT_AUTH: u16 = 1 << 3;
/// Bit of [`Part::IPV6_EXTENSIONS`]: encapsulating security payload.
pub const IPV6_EXT_ESP: u16 = 1 << 4;
/// Bit of [`Part::IPV6_EXTENSIONS`]: destination options.
pub const IPV6_EXT_DESTINATION: u16 = 1 << 5;
/// Bit of [`Part::IPV6_EXTENSIONS`]: mobility header.
pub const IPV6_EXT_MOBILITY: u16 = 1 << 6;
/// Bit of [`Part::IPV6_EXTENSIONS`]: host identity protocol.
pub const IPV6_EXT_HIP: u16 = 1 << 7;
/// Bit of [`Part::IPV6_EXTENSIONS`]: shim6.
pub const IPV6_EXT_SHIM6: u16 = 1 << 8;

impl Layer {
    /// First key word of the layer.
    pub const fn base(self) -> usize {
        match self {
            Layer::Outer => OUTER_BASE,
            Layer::Inner => INNER_BASE,
        }
    }
}

/// A matchable field of a flow key.
///
/// Values are numbers as written in the protocol's own documents (network order read as an integer), so an IPv4
/// address `10.0.0.1` is `0x0a000001` and a MAC address is a 48-bit integer whose top byte is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// Port the frame came in by; set by the caller of `parse`. 32 bits.
    InPort,
    /// Mark given by an action; set by the caller. 32 bits.
    Mark,
    /// Tenant network of the port; set by the caller. 32 bits.
    Network,
    /// Which layers were parsed: [`LAYER_OUTER_PRESENT`], [`LAYER_INNER_PRESENT`], [`LAYER_INNER_ETHERNET`]. 3 bits.
    Layers,
    /// Destination MAC address. 48 bits.
    EthDst(Layer),
    /// EtherType after any VLAN tags, or [`ETHERTYPE_LENGTH`]. 16 bits.
    EthType(Layer),
    /// Source MAC address. 48 bits.
    EthSrc(Layer),
    /// First (outermost) VLAN tag control information with [`VLAN_PRESENT`] set; zero when untagged. 16 bits.
    VlanTci(Layer),
    /// TCP, UDP, SCTP source port; ICMP type. 16 bits.
    L4Src(Layer),
    /// TCP, UDP, SCTP destination port; ICMP code; ARP opcode. 16 bits.
    L4Dst(Layer),
    /// IP protocol, or last IPv6 next header. 8 bits.
    IpProto(Layer),
    /// IPv4 type of service, IPv6 traffic class (DSCP and ECN). 8 bits.
    IpTos(Layer),
    /// IPv4 time to live, IPv6 hop limit. 8 bits.
    IpTtl(Layer),
    /// TCP flags, CWR the highest, FIN the lowest bit. 8 bits.
    TcpFlags(Layer),
    /// Source address: IPv6 128 bits, IPv4 (and ARP sender) in the low 32 bits. 128 bits.
    IpSrc(Layer),
    /// Destination address: IPv6 128 bits, IPv4 (and ARP target) in the low 32 bits. 128 bits.
    IpDst(Layer),
    /// Identifier of the tunnel that this layer carries, see [`TunnelKind`]. 32 bits.
    TunnelId(Layer),
    /// Number of the [`TunnelKind`] that this layer carries. 4 bits.
    TunnelKind(Layer),
    /// One when this layer carries GRE with a key. 1 bit.
    GreKeyPresent(Layer),
    /// [`FRAGMENT_ANY`], [`FRAGMENT_LATER`]. 2 bits.
    Fragment(Layer),
    /// Second VLAN tag of a double-tagged frame with [`VLAN_PRESENT`] set; zero when absent. 16 bits.
    InnerVlanTci(Layer),
    /// State of the packet's connection; set by connection tracking. 16 bits.
    CtState,
    /// Connection tracking zone; set by connection tracking. 16 bits.
    CtZone,
    /// Mark of the connection; set by connection tracking. 32 bits.
    CtMark,
    /// Label of the connection; set by connection tracking. 128 bits.
    CtLabel,
    /// Metadata given by an action. 32 bits.
    Meta,
    /// Tag register 0, given by an action. 32 bits.
    Tag0,
    /// Tag register 1. 32 bits.
    Tag1,
    /// Tag register 2. 32 bits.
    Tag2,
    /// Tag register 3. 32 bits.
    Tag3,
    /// What rte_flow's conntrack item matches: its packet state flags; set by connection tracking. 8 bits.
    ConntrackItem,
    /// Port the frame is about to leave by, plus one; 0 while that is not decided. Set by the caller. 16 bits.
    OutPort,
    /// Bytes 4 to 12 of the L4 header as far as the header has them, zero beyond; see [`Part`]. Extra. 64 bits.
    L4Extra(Layer),
    /// What the IP header holds besides; see [`Part`]. Extra. 64 bits.
    IpExtra(Layer),
    /// Target address of neighbour discovery (solicitation, advertisement, redirect). Extra. 128 bits.
    NdTarget,
    /// Sender's MAC address of ARP; shares its word with [`Field::NdTarget`]. Extra. 48 bits.
    ArpSha,
    /// Target's MAC address of ARP; shares its word with [`Field::NdTarget`]. Extra. 48 bits.
    ArpTha,
    /// Source link-layer address option of neighbour discovery. Extra. 48 bits.
    NdSourceLink,
    /// One when that option is there. Extra. 1 bit.
    NdSourceLinkPresent,
    /// Target link-layer address option of neighbour discovery. Extra. 48 bits.
    NdTargetLink,
    /// One when that option is there. Extra. 1 bit.
    NdTargetLinkPresent,
    /// Outermost MPLS label stack entry; see [`Part`]. Extra. 32 bits.
    MplsOuter,
    /// Second MPLS label stack entry, zero when the first is the bottom. Extra. 32 bits.
    MplsSecond,
    /// First two bytes of the outer tunnel header (VXLAN and GPE: the first only); see [`Part`]. Extra. 16 bits.
    TunnelHead,
    /// EtherType in GRE and Geneve, next protocol in VXLAN-GPE. Extra. 16 bits.
    TunnelProtocol,
    /// PDU session container of GTP-U; see [`Part`]. Extra. 16 bits.
    GtpuSession,
    /// One when the raw bytes asked for are in the frame. Extra. 1 bit.
    RawPresent,
    /// Bit 0 when the first, bit 1 when the second Geneve option asked for is there. Extra. 2 bits.
    GenevePresent,
    /// Data of the first Geneve option asked for, its first byte in the highest bits. Extra. 128 bits.
    GeneveData0,
    /// Data of the second Geneve option asked for. Extra. 128 bits.
    GeneveData1,
    /// The raw bytes asked for, the first one in the highest bits. Extra. 128 bits.
    Raw,
}

/// Position of a field in a key: `width` bits of word `word` starting at bit `shift`; a 128-bit field has its low
/// half in `word` and its high half in `word + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Key word, 0..40.
    pub word: usize,
    /// Lowest bit in the word.
    pub shift: u32,
    /// Number of bits: at most 64, or 128 for an address.
    pub width: u32,
}

impl Position {
    /// The bits of `word` that the field covers (of each of its two words for a 128-bit field).
    pub const fn word_mask(self) -> u64 {
        if self.width >= 64 {
            u64::MAX
        } else {
            ((1 << self.width) - 1) << self.shift
        }
    }

    /// The largest value of the field.
    pub const fn max(self) -> u128 {
        if self.width >= 128 {
            u128::MAX
        } else {
            (1 << self.width) - 1
        }
    }
}

pub(crate) const TUNNEL_KIND_SHIFT: u32 = 28;
pub(crate) const FRAGMENT_SHIFT: u32 = 26;
pub(crate) const GRE_KEY_SHIFT: u32 = 25;
pub(crate) const L4_EXTRA: usize = 24;
pub(crate) const IP_EXTRA: usize = 26;
const L4_EXTRA_INNER: usize = L4_EXTRA + 1;
const IP_EXTRA_INNER: usize = IP_EXTRA + 1;
pub(crate) const ND_TARGET: usize = 28;
pub(crate) const ND_SOURCE_LINK: usize = 30;
pub(crate) const ND_TARGET_LINK: usize = 31;
pub(crate) const MPLS: usize = 32;
pub(crate) const TUNNEL_EXTRA: usize = 33;
pub(crate) const GENEVE_DATA: usize = 34;
pub(crate) const RAW: usize = 38;

const fn at(word: usize, shift: u32, width: u32) -> Position {
    Position { word, shift, width }
}

impl Field {
    /// Where the field lives.
    pub const fn position(self) -> Position {
        match self {
            Field::InPort => at(0, 0, 32),
            Field::Mark => at(0, 32, 32),
            Field::Network => at(1, 0, 32),
            Field::Layers => at(1, 32, 3),
            Field::EthDst(l) => at(l.base(), 16, 48),
            Field::EthType(l) => at(l.base(), 0, 16),
            Field::EthSrc(l) => at(l.base() + 1, 16, 48),
            Field::VlanTci(l) => at(l.base() + 1, 0, 16),
            Field::L4Src(l) => at(l.base() + 2, 48, 16),
            Field::L4Dst(l) => at(l.base() + 2, 32, 16),
            Field::IpProto(l) => at(l.base() + 2, 24, 8),
            Field::IpTos(l) => at(l.base() + 2, 16, 8),
            Field::IpTtl(l) => at(l.base() + 2, 8, 8),
            Field::TcpFlags(l) => at(l.base() + 2, 0, 8),
            Field::IpSrc(l) => at(l.base() + 3, 0, 128),
            Field::IpDst(l) => at(l.base() + 5, 0, 128),
            Field::TunnelId(l) => at(l.base() + 7, 32, 32),
            Field::TunnelKind(l) => at(l.base() + 7, TUNNEL_KIND_SHIFT, 4),
            Field::Fragment(l) => at(l.base() + 7, FRAGMENT_SHIFT, 2),
            Field::GreKeyPresent(l) => at(l.base() + 7, GRE_KEY_SHIFT, 1),
            Field::InnerVlanTci(l) => at(l.base() + 7, 0, 16),
            Field::CtState => at(18, 48, 16),
            Field::CtZone => at(18, 32, 16),
            Field::CtMark => at(18, 0, 32),
            Field::CtLabel => at(19, 0, 128),
            Field::Meta => at(21, 32, 32),
            Field::Tag0 => at(21, 0, 32),
            Field::Tag1 => at(22, 32, 32),
            Field::Tag2 => at(22, 0, 32),
            Field::Tag3 => at(23, 32, 32),
            Field::ConntrackItem => at(23, 0, 8),
            Field::OutPort => at(23, 16, 16),
            Field::L4Extra(l) => at(L4_EXTRA + l as usize, 0, 64),
            Field::IpExtra(l) => at(IP_EXTRA + l as usize, 0, 64),
            Field::NdTarget => at(ND_TARGET, 0, 128),
            Field::ArpSha => at(ND_TARGET, 0, 48),
            Field::ArpTha => at(ND_TARGET + 1, 0, 48),
            Field::NdSourceLink => at(ND_SOURCE_LINK, 0, 48),
            Field::NdSourceLinkPresent => at(ND_SOURCE_LINK, 63, 1),
            Field::NdTargetLink => at(ND_TARGET_LINK, 0, 48),
            Field::NdTargetLinkPresent => at(ND_TARGET_LINK, 63, 1),
            Field::MplsOuter => at(MPLS, 32, 32),
            Field::MplsSecond => at(MPLS, 0, 32),
            Field::TunnelHead => at(TUNNEL_EXTRA, 48, 16),
            Field::TunnelProtocol => at(TUNNEL_EXTRA, 32, 16),
            Field::GtpuSession => at(TUNNEL_EXTRA, 16, 16),
            Field::RawPresent => at(TUNNEL_EXTRA, 2, 1),
            Field::GenevePresent => at(TUNNEL_EXTRA, 0, 2),
            Field::GeneveData0 => at(GENEVE_DATA, 0, 128),
            Field::GeneveData1 => at(GENEVE_DATA + 2, 0, 128),
            Field::Raw => at(RAW, 0, 128),
        }
    }

    /// Every field in key order, without [`Field::ArpSha`] and [`Field::ArpTha`] whose bits are [`Field::NdTarget`]'s;
    /// for printing keys and for tests.
    pub const ALL: [Field; 68] = {
        use Layer::{Inner, Outer};
        [
            Field::InPort,
            Field::Mark,
            Field::Network,
            Field::Layers,
            Field::EthDst(Outer),
            Field::EthType(Outer),
            Field::EthSrc(Outer),
            Field::VlanTci(Outer),
            Field::L4Src(Outer),
            Field::L4Dst(Outer),
            Field::IpProto(Outer),
            Field::IpTos(Outer),
            Field::IpTtl(Outer),
            Field::TcpFlags(Outer),
            Field::IpSrc(Outer),
            Field::IpDst(Outer),
            Field::TunnelId(Outer),
            Field::TunnelKind(Outer),
            Field::Fragment(Outer),
            Field::GreKeyPresent(Outer),
            Field::InnerVlanTci(Outer),
            Field::EthDst(Inner),
            Field::EthType(Inner),
            Field::EthSrc(Inner),
            Field::VlanTci(Inner),
            Field::L4Src(Inner),
            Field::L4Dst(Inner),
            Field::IpProto(Inner),
            Field::IpTos(Inner),
            Field::IpTtl(Inner),
            Field::TcpFlags(Inner),
            Field::IpSrc(Inner),
            Field::IpDst(Inner),
            Field::TunnelId(Inner),
            Field::TunnelKind(Inner),
            Field::Fragment(Inner),
            Field::GreKeyPresent(Inner),
            Field::InnerVlanTci(Inner),
            Field::CtState,
            Field::CtZone,
            Field::CtMark,
            Field::CtLabel,
            Field::Meta,
            Field::Tag0,
            Field::Tag1,
            Field::Tag2,
            Field::Tag3,
            Field::ConntrackItem,
            Field::OutPort,
            Field::L4Extra(Outer),
            Field::L4Extra(Inner),
            Field::IpExtra(Outer),
            Field::IpExtra(Inner),
            Field::NdTarget,
            Field::NdSourceLink,
            Field::NdSourceLinkPresent,
            Field::NdTargetLink,
            Field::NdTargetLinkPresent,
            Field::MplsOuter,
            Field::MplsSecond,
            Field::TunnelHead,
            Field::TunnelProtocol,
            Field::GtpuSession,
            Field::RawPresent,
            Field::GenevePresent,
            Field::GeneveData0,
            Field::GeneveData1,
            Field::Raw,
        ]
    };

    /// The field's name without its layer, as `trace` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Field::InPort => "in_port",
            Field::Mark => "mark",
            Field::Network => "network",
            Field::Layers => "layers",
            Field::EthDst(_) => "eth_dst",
            Field::EthType(_) => "eth_type",
            Field::EthSrc(_) => "eth_src",
            Field::VlanTci(_) => "vlan_tci",
            Field::L4Src(_) => "l4_src",
            Field::L4Dst(_) => "l4_dst",
            Field::IpProto(_) => "ip_proto",
            Field::IpTos(_) => "ip_tos",
            Field::IpTtl(_) => "ip_ttl",
            Field::TcpFlags(_) => "tcp_flags",
            Field::IpSrc(_) => "ip_src",
            Field::IpDst(_) => "ip_dst",
            Field::TunnelId(_) => "tunnel_id",
            Field::TunnelKind(_) => "tunnel_kind",
            Field::GreKeyPresent(_) => "gre_key_present",
            Field::Fragment(_) => "fragment",
            Field::InnerVlanTci(_) => "inner_vlan_tci",
            Field::CtState => "ct_state",
            Field::CtZone => "ct_zone",
            Field::CtMark => "ct_mark",
            Field::CtLabel => "ct_label",
            Field::Meta => "meta",
            Field::Tag0 => "tag0",
            Field::Tag1 => "tag1",
            Field::Tag2 => "tag2",
            Field::Tag3 => "tag3",
            Field::ConntrackItem => "conntrack_item",
            Field::OutPort => "out_port",
            Field::L4Extra(_) => "l4_extra",
            Field::IpExtra(_) => "ip_extra",
            Field::NdTarget => "nd_target",
            Field::ArpSha => "arp_sha",
            Field::ArpTha => "arp_tha",
            Field::NdSourceLink => "nd_source_link",
            Field::NdSourceLinkPresent => "nd_source_link_present",
            Field::NdTargetLink => "nd_target_link",
            Field::NdTargetLinkPresent => "nd_target_link_present",
            Field::MplsOuter => "mpls_outer",
            Field::MplsSecond => "mpls_second",
            Field::TunnelHead => "tunnel_head",
            Field::TunnelProtocol => "tunnel_protocol",
            Field::GtpuSession => "gtpu_session",
            Field::RawPresent => "raw_present",
            Field::GenevePresent => "geneve_present",
            Field::GeneveData0 => "geneve_data0",
            Field::GeneveData1 => "geneve_data1",
            Field::Raw => "raw",
        }
    }

    /// The layer the field belongs to; `None` for metadata and for what only one layer of a frame can have.
    pub const fn layer(self) -> Option<Layer> {
        match self.position().word {
            OUTER_BASE..INNER_BASE | L4_EXTRA | IP_EXTRA => Some(Layer::Outer),
            INNER_BASE..LAYERS_END | L4_EXTRA_INNER | IP_EXTRA_INNER => Some(Layer::Inner),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap_and_stay_inside_the_used_words() {
        let mut used = [0u64; USED_WORDS_END];
        for field in Field::ALL {
            let p = field.position();
            let words = if p.width > 64 { 2 } else { 1 };
            for slot in &mut used[p.word..p.word + words] {
                assert_eq!(*slot & p.word_mask(), 0, "{field:?} overlaps");
                *slot |= p.word_mask();
            }
        }
        assert!(used.iter().all(|w| *w != 0));
    }

    #[test]
    fn layer_follows_from_the_position() {
        assert_eq!(Field::Mark.layer(), None);
        assert_eq!(Field::TunnelId(Layer::Outer).layer(), Some(Layer::Outer));
        assert_eq!(Field::L4Extra(Layer::Outer).layer(), Some(Layer::Outer));
        assert_eq!(Field::IpExtra(Layer::Inner).layer(), Some(Layer::Inner));
        assert_eq!(Field::Raw.layer(), None);
        assert_eq!(Field::EthDst(Layer::Inner).layer(), Some(Layer::Inner));
    }
}

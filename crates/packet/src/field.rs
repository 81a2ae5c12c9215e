//! Where each header field lives in a [`FlowKey`](crate::FlowKey): word, shift and width.
//!
//! This is the table a rule compiler works from; it never looks at packet bytes.

/// First word of the outer layer.
pub const OUTER_BASE: usize = 2;
/// First word of the inner layer.
pub const INNER_BASE: usize = 10;
/// Words of one layer.
pub const LAYER_WORDS: usize = 8;
/// One past the last word that is used.
pub const USED_WORDS_END: usize = INNER_BASE + LAYER_WORDS;

/// Bit of [`Field::Layers`]: the outermost Ethernet header was parsed.
pub const LAYER_OUTER_PRESENT: u8 = 1;
/// Bit of [`Field::Layers`]: an Ethernet header inside a VXLAN tunnel was parsed.
pub const LAYER_INNER_PRESENT: u8 = 2;
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
    /// The headers of the Ethernet frame inside a VXLAN tunnel.
    Inner = 1,
}

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
    /// Which layers were parsed: [`LAYER_OUTER_PRESENT`], [`LAYER_INNER_PRESENT`]. 2 bits.
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
    /// VXLAN network identifier carried by this layer's UDP datagram. 24 bits.
    Vni(Layer),
    /// One when this layer's UDP datagram is VXLAN with a valid VNI. 1 bit.
    Vxlan(Layer),
    /// [`FRAGMENT_ANY`], [`FRAGMENT_LATER`]. 2 bits.
    Fragment(Layer),
    /// Second VLAN tag of a double-tagged frame with [`VLAN_PRESENT`] set; zero when absent. 16 bits.
    InnerVlanTci(Layer),
}

/// Position of a field in a key: `width` bits of word `word` starting at bit `shift`; a 128-bit field has its low
/// half in `word` and its high half in `word + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Key word, 0..18.
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
            Field::Layers => at(1, 32, 2),
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
            Field::Vni(l) => at(l.base() + 7, 40, 24),
            Field::Vxlan(l) => at(l.base() + 7, 39, 1),
            Field::Fragment(l) => at(l.base() + 7, 32, 2),
            Field::InnerVlanTci(l) => at(l.base() + 7, 0, 16),
        }
    }

    /// Every field once, in key order; for printing keys and for tests.
    pub const ALL: [Field; 36] = {
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
            Field::Vni(Outer),
            Field::Vxlan(Outer),
            Field::Fragment(Outer),
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
            Field::Vni(Inner),
            Field::Vxlan(Inner),
            Field::Fragment(Inner),
            Field::InnerVlanTci(Inner),
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
            Field::Vni(_) => "vni",
            Field::Vxlan(_) => "vxlan",
            Field::Fragment(_) => "fragment",
            Field::InnerVlanTci(_) => "inner_vlan_tci",
        }
    }

    /// The layer the field belongs to; `None` for metadata.
    pub const fn layer(self) -> Option<Layer> {
        let word = self.position().word;
        if word < OUTER_BASE {
            None
        } else if word < INNER_BASE {
            Some(Layer::Outer)
        } else {
            Some(Layer::Inner)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap_and_stay_inside_the_used_words() {
        let mut used = [0u64; 24];
        for field in Field::ALL {
            let p = field.position();
            let words = if p.width > 64 { 2 } else { 1 };
            for slot in &mut used[p.word..p.word + words] {
                assert_eq!(*slot & p.word_mask(), 0, "{field:?} overlaps");
                *slot |= p.word_mask();
            }
        }
        assert!(used[18..].iter().all(|w| *w == 0));
        assert!(used[..18].iter().all(|w| *w != 0));
    }

    #[test]
    fn layer_follows_from_the_position() {
        assert_eq!(Field::Mark.layer(), None);
        assert_eq!(Field::Vni(Layer::Outer).layer(), Some(Layer::Outer));
        assert_eq!(Field::EthDst(Layer::Inner).layer(), Some(Layer::Inner));
    }
}

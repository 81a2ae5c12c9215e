//! Why a frame was refused: one variant per header that can be wrong. Usable as a drop reason with its own counter.

use core::fmt;

macro_rules! malformed {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The header that is cut short or contradicts the headers around it.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Malformed {
            $($(#[$doc])* $name,)*
        }

        impl Malformed {
            /// Every variant, in the order of [`Malformed::index`].
            pub const ALL: [Malformed; Malformed::COUNT] = [$(Malformed::$name,)*];
            /// Number of variants.
            pub const COUNT: usize = [$($text,)*].len();

            /// Short stable name, for counters and traces.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Malformed::$name => $text,)*
                }
            }
        }
    };
}

malformed! {
    /// The frame is shorter than an Ethernet header.
    Ethernet = "malformed-ethernet",
    /// The frame ends inside a VLAN tag.
    Vlan = "malformed-vlan",
    /// The frame ends inside an ARP packet for IPv4 over Ethernet.
    Arp = "malformed-arp",
    /// IPv4: cut short, version other than 4, or header length below 20 bytes.
    Ipv4Header = "malformed-ipv4-header",
    /// IPv4: total length below the header length or beyond the frame.
    Ipv4Length = "malformed-ipv4-length",
    /// IPv6: cut short or version other than 6.
    Ipv6Header = "malformed-ipv6-header",
    /// IPv6: payload length beyond the frame.
    Ipv6Length = "malformed-ipv6-length",
    /// IPv6: an extension header is cut short, or there are more than eight.
    Ipv6Extension = "malformed-ipv6-extension",
    /// TCP: cut short, or data offset below 20 bytes.
    Tcp = "malformed-tcp",
    /// UDP: cut short, or length below 8 bytes or beyond the IP packet.
    Udp = "malformed-udp",
    /// ICMP: cut short.
    Icmp = "malformed-icmp",
    /// ICMPv6: cut short.
    Icmpv6 = "malformed-icmpv6",
    /// SCTP: cut short.
    Sctp = "malformed-sctp",
    /// ESP: cut short.
    Esp = "malformed-esp",
    /// GRE: cut short.
    Gre = "malformed-gre",
    /// Geneve: options beyond the datagram, or an option beyond the options.
    Geneve = "malformed-geneve",
    /// GTP-U: cut short, length beyond the datagram, or an extension header that is cut short, empty, or the ninth.
    Gtpu = "malformed-gtpu",
    /// MPLS: the frame ends inside the label stack.
    Mpls = "malformed-mpls",
    /// Neighbour discovery: cut short, or an option that is empty or beyond the message (RFC 4861 section 4.6).
    NeighbourDiscovery = "malformed-neighbour-discovery",
    /// The headers do not fit in the captured bytes although the frame is longer.
    HeaderTooLong = "header-too-long",
}

impl Malformed {
    /// Position in [`Malformed::ALL`], for an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for Malformed {}

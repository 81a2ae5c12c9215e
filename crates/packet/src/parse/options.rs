//! What the parser looks for: tunnel ports, whether to look inside, and which extra fields to fetch.

/// What to look for. Passed by reference; made once per port or configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseOptions {
    /// UDP destination port of VXLAN, host order; 0 recognises no VXLAN. 4789 is IANA's.
    pub vxlan_port: u16,
    /// UDP destination port of VXLAN-GPE, host order; 0 recognises none. 4790 is IANA's.
    pub vxlan_gpe_port: u16,
    /// UDP destination port of Geneve, host order; 0 recognises none. 6081 is IANA's.
    pub geneve_port: u16,
    /// UDP destination port of GTP-U, host order; 0 recognises none. 2152 is IANA's.
    pub gtpu_port: u16,
    /// Whether to recognise GRE. When not, it is an IP protocol like any other.
    pub gre: bool,
    /// Whether to recognise MPLS. When not, it is an EtherType like any other.
    pub mpls: bool,
    /// Whether to parse the packet inside a tunnel. When not, the tunnel's kind and id are still found.
    pub inner: bool,
    /// Whether to write the extra fields (key words 24 to 39). When not, they are left as they are.
    pub extras: bool,
    /// Geneve options whose data is fetched (with `extras`).
    pub geneve_options: [Option<GeneveExtract>; 2],
    /// Bytes of the frame that are fetched (with `extras`).
    pub raw: Option<RawExtract>,
}

/// A Geneve option whose data goes to [`Field::GeneveData0`](crate::Field::GeneveData0) or its neighbour. The first
/// option of the class and type counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneveExtract {
    /// Option class.
    pub class: u16,
    /// Option type with the critical bit.
    pub kind: u8,
    /// Bytes of data fetched, 0..=16; more is 16. An option with less data is followed by zeros.
    pub len: u8,
}

/// Where raw bytes are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawBase {
    /// The first byte of the frame.
    L2,
    /// The outermost IP or ARP header.
    L3,
    /// What follows the outermost IP header (not in later fragments).
    L4,
    /// The packet inside a tunnel.
    TunnelPayload,
}

/// Bytes that go to [`Field::Raw`](crate::Field::Raw). They are there only if all of them are inside the frame and its
/// first [`HEADER_MAX`](crate::HEADER_MAX) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawExtract {
    /// Where `offset` is counted from.
    pub base: RawBase,
    /// Bytes after the base.
    pub offset: u8,
    /// Number of bytes, 0..=16; more is 16.
    pub len: u8,
}

impl ParseOptions {
    /// No tunnel is looked for, no extra field fetched.
    pub const PLAIN: ParseOptions = ParseOptions {
        vxlan_port: 0,
        vxlan_gpe_port: 0,
        geneve_port: 0,
        gtpu_port: 0,
        gre: false,
        mpls: false,
        inner: false,
        extras: false,
        geneve_options: [None; 2],
        raw: None,
    };
    /// VXLAN on port 4789, inner headers parsed.
    pub const VXLAN: ParseOptions = ParseOptions {
        vxlan_port: 4789,
        inner: true,
        ..ParseOptions::PLAIN
    };
    /// Every tunnel, on IANA's ports, inner headers parsed.
    pub const TUNNELS: ParseOptions = ParseOptions {
        vxlan_gpe_port: 4790,
        geneve_port: 6081,
        gtpu_port: 2152,
        gre: true,
        mpls: true,
        ..ParseOptions::VXLAN
    };
    /// Every tunnel and the extra fields.
    pub const ALL: ParseOptions = ParseOptions {
        extras: true,
        ..ParseOptions::TUNNELS
    };

    /// Whether any UDP datagram may be one of the tunnels.
    pub(crate) const fn has_tunnels(&self) -> bool {
        self.vxlan_port | self.vxlan_gpe_port | self.geneve_port | self.gtpu_port != 0
    }

    /// Whether a UDP datagram to `port` may be one of the tunnels; true for port 0 when one of them is off. All four
    /// ports are compared at once: a 16-bit lane of the difference is zero where one is equal.
    #[inline(always)]
    pub(crate) const fn may_be_tunnel(&self, port: u16) -> bool {
        const ONES: u64 = 0x0001_0001_0001_0001;
        let ports = self.vxlan_port as u64
            | (self.vxlan_gpe_port as u64) << 16
            | (self.geneve_port as u64) << 32
            | (self.gtpu_port as u64) << 48;
        let difference = ports ^ (port as u64 * ONES);
        difference.wrapping_sub(ONES) & !difference & (ONES << 15) != 0
    }
}

impl Default for ParseOptions {
    fn default() -> ParseOptions {
        ParseOptions::VXLAN
    }
}

//! What the switch counts: stages a frame passes, reasons for drops, ports, rules.
//!
//! Every cell has one writer, the lcore whose block it is in; readers sum over lcores.

use sumeru_engine::Counter;
use sumeru_packet::Malformed;

macro_rules! counted {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// Short stable name, one word with dashes.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

counted! {
    /// The stages of a frame's way through the engine, in its order.
    Stage {
        /// Taken from a ring or a wire port.
        Receive = "receive",
        /// Decided by its first bytes, without being parsed.
        Known = "known",
        /// Headers understood.
        Parse = "parse",
        /// Decided by the signature cache.
        ExactHit = "exact-hit",
        /// Decided by the wildcarded cache.
        WildcardHit = "wildcard-hit",
        /// Decided by the rule tables and learned addresses.
        SlowPath = "slow-path",
        /// Taken out of a tunnel.
        Decapsulate = "decapsulate",
        /// Put into a tunnel.
        Encapsulate = "encapsulate",
        /// Forwarded by a router.
        Route = "route",
        /// Answered by the switch itself: ARP, neighbour discovery, DHCP, echo, ICMP errors.
        Answer = "answer",
        /// Sent to more than one port.
        Flood = "flood",
        /// Cut into segments on the way out.
        Segment = "segment",
        /// Checksum completed in software on the way out.
        Checksum = "checksum",
        /// Its sender was told that it is too long for where it was to go (RFC 1191, RFC 8201).
        PathMtu = "path-mtu",
        /// Copied for a mirror.
        Mirror = "mirror",
        /// Given to a ring or a wire port.
        Transmit = "transmit",
    }
}

counted! {
    /// Why a frame was dropped, besides its own malformations.
    Drop {
        /// The virtio-net header contradicts the frame, or asks for what was not negotiated.
        BadOffload = "bad-offload",
        /// A frame without bytes, or shorter than its virtio-net header.
        TooShort = "too-short",
        /// A frame of more segments or bytes than the engine carries.
        TooLarge = "too-large",
        /// Longer than the MTU of the port it would leave by.
        ExceedsMtu = "exceeds-mtu",
        /// The connection table is full.
        ConnectionTableFull = "connection-table-full",
        /// The zone or the port has as many connections as it may have.
        ConnectionLimit = "connection-limit",
        /// No address and port is free to translate to.
        NatExhausted = "nat-exhausted",
        /// A connection cannot be made as a rule says.
        ConnectionRefused = "connection-refused",
        /// To a port that is protected from floods of SYNs: of no connection and without a cookie, a TCP segment in pieces, or one that comes before
        /// its guest has answered.
        SynProtection = "syn-protection",
        /// A rule says so.
        Rule = "rule-drop",
        /// A meter's policy says so.
        Meter = "meter-drop",
        /// The port is isolated and no rule took the frame.
        Isolated = "isolated",
        /// It met congestion in a tunnel and its sender would not understand the mark (RFC 6040 section 4.2).
        Congestion = "tunnel-congestion",
        /// The checksum of a tunnel's outer UDP header is wrong.
        TunnelChecksum = "tunnel-checksum",
        /// A critical Geneve option that neither its network nor a rule knows (RFC 8926 section 3.5), or a Geneve control packet.
        GeneveOption = "geneve-option",
        /// A rule's action does not fit the frame (no such header).
        Action = "action-failed",
        /// Time to live or hop limit ran out.
        TtlExpired = "ttl-expired",
        /// The port is on no network and no rule took the frame.
        NoNetwork = "no-network",
        /// A source address that nobody sends from: multicast, zero, or of IP those that no router forwards (RFC 1812 section 5.3.7).
        BadSource = "bad-source-address",
        /// The destination is where the frame came from.
        SamePort = "same-port",
        /// From a tunnel, and its destination is behind a tunnel too.
        SplitHorizon = "split-horizon",
        /// Nobody else is on the network.
        NoDestination = "no-destination",
        /// The network's flooding limit.
        FloodLimit = "flood-limit",
        /// A tunnel's network identifier that no network here has.
        UnknownVni = "unknown-vni",
        /// A tunnelled frame from an address that is no remote of its network.
        UnknownRemote = "unknown-remote",
        /// On the uplink, but not for this node.
        NotForUs = "not-for-this-node",
        /// A link-local protocol frame, which no bridge forwards (802.1D 7.12.6).
        LinkLocal = "link-local",
        /// There is no uplink or no underlay address to tunnel with.
        NoUnderlay = "no-underlay",
        /// The remote's link-layer address is not known yet.
        NeighbourUnresolved = "neighbour-unresolved",
        /// A router has no way to its receiver.
        NoRoute = "no-route",
        /// For the switch itself, and nothing that it answers.
        Unanswered = "unanswered",
        /// The port asked the switch more than it answers a port in a second.
        AnswerLimit = "answer-limit",
        /// Answered by the engine itself (ARP, neighbour discovery, echo on the underlay), or for its link protocols (LACP, LLDP).
        Consumed = "consumed",
        /// Of a link protocol (LACP, Marker, LLDP), and makes no sense, or one too many at once.
        BadLinkPdu = "bad-link-pdu",
        /// Came in by a member of a bond that is not in use.
        InactiveMember = "inactive-member",
        /// The port it would leave by is gone or not up.
        PortDown = "port-down",
        /// Too many frames of its class wait for the port already.
        QueueFull = "queue-full",
        /// Frames of its class have waited for the port for too long (CoDel, RFC 8289).
        QueueDelay = "queue-delay",
        /// The receiver has no free buffers.
        NoBuffers = "no-buffers",
        /// The receiver's buffers are smaller than the frame.
        BufferTooSmall = "buffer-too-small",
        /// The receiver's ring is broken.
        RingBroken = "ring-broken",
        /// The kernel did not take it.
        WireFull = "wire-full",
        /// The kernel had no room for it before we came to receive it.
        WireOverflow = "wire-overflow",
        /// The kernel described it in a way that makes no sense.
        WireMalformed = "wire-malformed",
    }
}

impl From<crate::conntrack::Refusal> for Drop {
    fn from(refusal: crate::conntrack::Refusal) -> Self {
        use crate::conntrack::Refusal;
        match refusal {
            Refusal::Full => Self::ConnectionTableFull,
            Refusal::ZoneFull { .. } | Refusal::PortFull { .. } => Self::ConnectionLimit,
            Refusal::NatExhausted => Self::NatExhausted,
            Refusal::Invalid | Refusal::Clash | Refusal::NatRange | Refusal::Policy(_) => {
                Self::ConnectionRefused
            }
        }
    }
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A header is wrong.
    Malformed(Malformed),
    /// Anything else.
    Other(Drop),
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Malformed::COUNT + Drop::ALL.len();

    /// Place among all reasons.
    pub const fn index(self) -> usize {
        match self {
            Self::Malformed(m) => m as usize,
            Self::Other(d) => Malformed::COUNT + d as usize,
        }
    }

    /// Every reason, by index.
    pub fn all() -> impl Iterator<Item = Self> {
        Malformed::ALL
            .into_iter()
            .map(Self::Malformed)
            .chain(Drop::ALL.iter().copied().map(Self::Other))
    }

    /// Short stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(m) => m.as_str(),
            Self::Other(d) => d.as_str(),
        }
    }
}

impl From<Drop> for DropReason {
    fn from(drop: Drop) -> Self {
        Self::Other(drop)
    }
}

/// Upper bounds of the residence times that are told apart, in nanoseconds; there is one class more for those above.
pub const RESIDENCE_BOUNDS: [u64; 14] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000,
];

/// How long frames stayed in the engine, while that is measured.
#[derive(Debug)]
pub struct Residence {
    classes: [Counter; RESIDENCE_BOUNDS.len() + 1],
    /// Ticks of all frames together.
    ticks: Counter,
}

impl Residence {
    const fn new() -> Self {
        Self {
            classes: [const { Counter::new() }; RESIDENCE_BOUNDS.len() + 1],
            ticks: Counter::new(),
        }
    }

    /// Counts a burst of `frames` that took `ticks`; `bounds` are [`RESIDENCE_BOUNDS`] in ticks.
    pub fn count(&self, bounds: &[u64; RESIDENCE_BOUNDS.len()], ticks: u64, frames: u64) {
        let class = bounds.partition_point(|bound| *bound < ticks);
        self.classes[class].add(frames);
        self.ticks.add(ticks * frames);
    }

    /// Frames of each class.
    pub fn classes(&self) -> impl Iterator<Item = u64> + '_ {
        self.classes.iter().map(Counter::get)
    }

    /// Ticks of all frames together.
    pub fn ticks(&self) -> u64 {
        self.ticks.get()
    }
}

/// One lcore's counts of stages and drops.
#[derive(Debug)]
pub struct PipelineCounters {
    stages: [Counter; Stage::ALL.len()],
    drops: [Counter; DropReason::COUNT],
    /// How long frames stayed.
    pub residence: Residence,
}

impl Default for PipelineCounters {
    fn default() -> Self {
        Self {
            stages: [const { Counter::new() }; Stage::ALL.len()],
            drops: [const { Counter::new() }; DropReason::COUNT],
            residence: Residence::new(),
        }
    }
}

impl PipelineCounters {
    /// Counts `n` frames through `stage`.
    #[inline(always)]
    pub fn passed(&self, stage: Stage, n: u64) {
        self.stages[stage as usize].add(n);
    }

    /// Counts a dropped frame.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }

    /// Counts `n` dropped frames.
    #[inline]
    pub fn dropped_many(&self, reason: DropReason, n: u64) {
        self.drops[reason.index()].add(n);
    }

    /// Frames that passed `stage`.
    pub fn stage(&self, stage: Stage) -> u64 {
        self.stages[stage as usize].get()
    }

    /// Frames dropped for `reason`.
    pub fn drop_count(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].get()
    }
}

/// One lcore's counts of a port. Directions are the switch's: rx comes in from the port. On a line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PortCounters {
    /// Frames that came in.
    pub rx_packets: Counter,
    /// Their bytes, from the Ethernet header on.
    pub rx_bytes: Counter,
    /// Frames that went out.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames that came in and were dropped.
    pub rx_drops: Counter,
    /// Frames that should have gone out and were dropped.
    pub tx_drops: Counter,
    /// Of these, those for which the guest had no free buffers.
    pub tx_full: Counter,
    /// Malformed descriptors or frames.
    pub rx_errors: Counter,
    /// Notifications sent to the guest.
    pub calls: Counter,
    /// SYNs to it that were answered with a cookie.
    pub cookies_sent: Counter,
    /// Cookies that were proved: connections that were opened to it.
    pub cookies_valid: Counter,
    /// Segments of no connection that proved no cookie, and were dropped.
    pub cookies_invalid: Counter,
    /// Connections of such clients that it did not answer.
    pub cookies_unanswered: Counter,
    /// Times that cookies began to be sent.
    pub cookies_on: Counter,
    /// Times that they ceased to be; as many as began while none are sent.
    pub cookies_off: Counter,
    /// What is counted of each pair of a guest's queues; none where there is but one pair, whose counts are the port's.
    pub pairs: Box<[PairCounters]>,
}

impl PortCounters {
    /// Those of a guest's port with so many pairs of queues.
    pub fn with_pairs(pairs: usize) -> Self {
        let several = if pairs > 1 { pairs } else { 0 };
        Self {
            pairs: (0..several).map(|_| PairCounters::default()).collect(),
            ..Self::default()
        }
    }

    /// What each pair of a guest's queues counted.
    pub fn pair_sums(&self) -> Vec<PairSums> {
        if self.pairs.is_empty() {
            return vec![PairSums {
                rx_packets: self.rx_packets.get(),
                rx_bytes: self.rx_bytes.get(),
                tx_packets: self.tx_packets.get(),
                tx_bytes: self.tx_bytes.get(),
                tx_drops: self.tx_drops.get(),
                tx_full: self.tx_full.get(),
            }];
        }
        let sums = |pair: &PairCounters| PairSums {
            rx_packets: pair.rx_packets.get(),
            rx_bytes: pair.rx_bytes.get(),
            tx_packets: pair.tx_packets.get(),
            tx_bytes: pair.tx_bytes.get(),
            tx_drops: pair.tx_drops.get(),
            tx_full: pair.tx_full.get(),
        };
        self.pairs.iter().map(sums).collect()
    }
}

/// One lcore's counts of a pair of a guest's queues: that which the guest transmits on (rx), and that which it receives on (tx). What is dropped of
/// what came in is counted by port and reason alone.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PairCounters {
    /// Frames that came in.
    pub rx_packets: Counter,
    /// Their bytes, from the Ethernet header on.
    pub rx_bytes: Counter,
    /// Frames that went out.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames that were to go out by it and were dropped.
    pub tx_drops: Counter,
    /// Of these, those for which it had no free buffers.
    pub tx_full: Counter,
}

impl PairCounters {
    /// Counts a frame that did not go out.
    #[cold]
    pub fn lost(&self, reason: Drop) {
        self.tx_drops.add(1);
        self.tx_full.add(u64::from(reason == Drop::NoBuffers));
    }
}

/// What [`PairCounters`] say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairSums {
    /// Frames that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that were to go out and were dropped.
    pub tx_drops: u64,
    /// Of these, those for which there were no free buffers.
    pub tx_full: u64,
}

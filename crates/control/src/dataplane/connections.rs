//! Connections in the control plane's words.

use std::net::IpAddr;

use serde::Serialize;

/// Which connections; what is not named does not matter. Addresses and ports are those of who opened the connection, before translation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Zone.
    pub zone: Option<u16>,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Source address.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Word for the state.
    pub state: Option<String>,
    /// Index of the port of the switch that owns it.
    pub port: Option<u16>,
}

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionTuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP query.
    pub sport: u16,
    /// Destination port, or type and code of an ICMP query.
    pub dport: u16,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionEntry {
    /// Zone.
    pub zone: u16,
    /// IP protocol number.
    pub proto: u8,
    /// What the opener sends.
    pub original: ConnectionTuple,
    /// What the answers look like.
    pub reply: ConnectionTuple,
    /// Word for the state.
    pub state: &'static str,
    /// Whether it was answered.
    pub replied: bool,
    /// Whether the opener's address is translated.
    pub snat: bool,
    /// Whether the called address is translated.
    pub dnat: bool,
    /// Mark.
    pub mark: u32,
    /// Label, in hexadecimal.
    pub label: String,
    /// Name of the port that owns it.
    pub port: String,
    /// Number of its timeout policy.
    pub policy: u8,
    /// Milliseconds that it lives without another packet.
    pub remaining_ms: u32,
    /// Packets from the opener and back.
    pub packets: [u64; 2],
    /// Bytes from the opener and back.
    pub bytes: [u64; 2],
}

/// Some connections, and where to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionPage {
    /// The connections.
    pub connections: Vec<ConnectionEntry>,
    /// What to ask for the next ones with; nothing at the end.
    pub cursor: Option<u64>,
}

/// Connections that were refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionRefusals {
    /// The packet cannot open one.
    pub invalid: u64,
    /// The table was full.
    pub full: u64,
    /// The zone had as many as it may have.
    pub zone_full: u64,
    /// The port had as many as it may have.
    pub port_full: u64,
    /// The answers would be another connection's.
    pub clash: u64,
    /// No address and port were free.
    pub nat_exhausted: u64,
    /// The range of the translation was empty or of the other family.
    pub nat_range: u64,
    /// There is no such timeout policy.
    pub policy: u64,
}

/// Sums of the connections of an lcore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionStats {
    /// CPU of the lcore.
    pub cpu: u16,
    /// Most connections; 0 before any rule has tracked connections.
    pub capacity: u64,
    /// Connections now.
    pub live: u64,
    /// TCP connections now whose opening is not complete.
    pub half_open: u64,
    /// Bytes of memory in use.
    pub memory: u64,
    /// Connections made.
    pub created: u64,
    /// Closed TCP connections that were opened again.
    pub reopened: u64,
    /// Connections that ended by time.
    pub expired: u64,
    /// Connections that were flushed.
    pub flushed: u64,
    /// Connections that gave way to new ones.
    pub early_dropped: u64,
    /// Packets that are not part of the connection they pretend to be of.
    pub invalid: u64,
    /// Refused connections.
    pub refused: ConnectionRefusals,
    /// Fragments that found their datagram.
    pub fragments_accepted: u64,
    /// Fragments of unknown datagrams.
    pub fragments_unknown: u64,
    /// Fragments that were refused.
    pub fragments_refused: u64,
}

/// The flow cache of an lcore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Decisions that are cached.
    pub cached_decisions: u64,
    /// Masks in use.
    pub cache_masks: u64,
    /// Bytes reserved.
    pub cache_bytes: u64,
}

/// What the rules of the switch take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RuleStats {
    /// Places of rules; a rule with ranges has several.
    pub rules: u64,
    /// Bytes reserved for them.
    pub bytes: u64,
}

/// What became of connections that were kept over a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptConnections {
    /// Those that live on.
    pub restored: u64,
    /// Those that ended meanwhile, whose port is gone, or for which there is no room.
    pub skipped: u64,
}

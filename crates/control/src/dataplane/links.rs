//! What a data plane says of links: those of wires, bonds, who was heard by LLDP, and what waits to leave.

use serde::Serialize;

use crate::value::MacAddr;

/// What the link of an interface does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// It is set up and has a carrier.
    pub up: bool,
    /// Its speed, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mbit: Option<u32>,
}

/// A bond at work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BondState {
    /// The member that carries everything, in active-backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// Who is at the other end of the links in use, in 802.3ad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregator: Option<Aggregator>,
    /// Its members, in the order of their configuration.
    pub members: Vec<BondMember>,
}

/// The other end of the links in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aggregator {
    /// The partner's system.
    pub partner: MacAddr,
    /// Its key for these links.
    pub partner_key: u16,
    /// How many links there are.
    pub ports: u16,
}

/// A member of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BondMember {
    /// The interface.
    pub interface: String,
    /// Its address.
    pub mac: MacAddr,
    /// Its link, delays considered.
    #[serde(flatten)]
    pub link: LinkReport,
    /// Whether it carries traffic.
    pub in_use: bool,
    /// Times that its link went down.
    pub link_failures: u64,
    /// Frames that came in by it.
    pub rx_packets: u64,
    /// Frames that left by it.
    pub tx_packets: u64,
    /// Frames that came in while it was not in use, and were dropped.
    pub rx_inactive: u64,
    /// Frames of link protocols that made no sense, or came too many at once.
    pub rx_bad: u64,
    /// LACP, in 802.3ad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacp: Option<LacpState>,
}

/// LACP of one link (IEEE 802.1AX-2014, 6.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LacpState {
    /// What this end says of itself.
    pub actor: LacpPeer,
    /// What is known of the other end.
    pub partner: LacpPeer,
    /// State of the receive machine.
    pub receive: &'static str,
    /// State of the mux machine.
    pub mux: &'static str,
    /// What selection says.
    pub selected: &'static str,
    /// LACPDUs received.
    pub rx_pdus: u64,
    /// LACPDUs sent.
    pub tx_pdus: u64,
    /// Times that the partner was silent for too long.
    pub expirations: u64,
}

/// One end of a link as LACP describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LacpPeer {
    /// The system.
    pub system: MacAddr,
    /// Its priority.
    pub system_priority: u16,
    /// Which of its ports belong together.
    pub key: u16,
    /// The port.
    pub port: u16,
    /// Its priority.
    pub port_priority: u16,
    /// Its state, a word for each bit that is set.
    pub state: Vec<&'static str>,
}

/// LLDP on one wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LldpWire {
    /// The port.
    pub port: String,
    /// The interface.
    pub interface: String,
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames received, good or bad.
    pub rx_frames: u64,
    /// Of these, dropped whole.
    pub rx_discarded: u64,
    /// Neighbours that fell silent.
    pub aged_out: u64,
    /// Frames of neighbours for whom there was no room.
    pub too_many: u64,
    /// Who is at the other end.
    pub neighbours: Vec<LldpNeighbour>,
}

/// Somebody at the other end of a wire. Texts are as received, control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LldpNeighbour {
    /// The system's identifier.
    pub chassis: String,
    /// The port's.
    pub port: String,
    /// What the port is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_description: Option<String>,
    /// The system's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_name: Option<String>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_description: Option<String>,
    /// What it does, a word for each capability that is enabled.
    pub capabilities: Vec<&'static str>,
    /// Where it is managed.
    pub management: Vec<std::net::IpAddr>,
    /// Seconds that this was said to hold.
    pub ttl_s: u16,
    /// Seconds that it holds on if nothing more is heard.
    pub expires_s: u64,
    /// Seconds since it was heard first.
    pub age_s: u64,
    /// Where the frames came from.
    pub source: MacAddr,
}

/// What a class of a tenant has seen in front of a port. All counts are since the port's shares were changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// The port.
    pub port: String,
    /// The tenant's network; `*` for all that have no share of their own.
    pub tenant: String,
    /// The class: its code points, or `*` for all other frames.
    pub class: String,
    /// Frames sent, marked ones included.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames dropped because as many waited as may.
    pub full_packets: u64,
    /// Frames dropped because those of the class had waited for too long (CoDel, RFC 8289).
    pub delay_packets: u64,
    /// Frames marked for the same reason instead, because their senders understand that (ECN, RFC 3168).
    pub marked_packets: u64,
    /// Frames that wait now.
    pub queued_packets: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

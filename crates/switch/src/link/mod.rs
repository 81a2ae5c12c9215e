//! What two ends of a cable say to each other: link aggregation (IEEE 802.1AX), LLDP (IEEE 802.1AB), and bonds built on them.
//!
//! | module | what it is |
//! |---|---|
//! | [`debounce`] | a link's state, calmed |
//! | [`slow`] | LACPDUs and Marker PDUs as bytes (802.1AX-2014, 6.4.2 and 6.5.3) |
//! | [`lacp_port`] | the receive, periodic and mux machines of one port (6.4.12, 6.4.13, 6.4.15) |
//! | [`lacp`] | selection among all ports of a bond, and transmission (6.4.14, 6.4.16) |
//! | [`hash`] | from flow to hash to member |
//! | [`bond`] | several links as one: active-backup, balance-xor, 802.3ad |
//! | [`announce`] | the frames that tell neighbours where an address moved |
//! | [`tlv`] | LLDP's TLVs as bytes (802.1AB-2016, 8; 802.1Q, annex D; 802.3, 79) |
//! | [`lldp`] | the LLDP agent: transmission, neighbours |
//!
//! Nothing here reads a clock, opens a socket or touches the data path. `now` is the time since any fixed start, the same for all calls
//! to one object; frames to send are handed to a closure; what the data path needs is a [`hash::Distribution`] that it copies.
//! Received frames are believed in nothing: what does not parse is an error that the caller counts.

pub mod announce;
pub mod bond;
pub mod debounce;
pub mod hash;
pub mod lacp;
pub mod lacp_port;
pub mod lldp;
pub mod slow;
pub mod tlv;

use thiserror::Error;

/// A MAC address, first byte first on the wire.
pub type Mac = [u8; 6];

/// A member link of a bond; also its LACP port number, so 1 to 65535.
pub type MemberId = u16;

/// A setting or a call that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// A number that names no member link.
    #[error("member number 0; expected 1 to 65535")]
    MemberZero,
    /// The member exists already.
    #[error("member {0} exists already")]
    MemberExists(MemberId),
    /// The member does not exist.
    #[error("member {0} does not exist")]
    NoMember(MemberId),
    /// No room for another member.
    #[error("no room for another member: a bond has at most {0}")]
    TooManyMembers(usize),
    /// No room for another port.
    #[error("no room for another port: LLDP runs on at most {0}")]
    TooManyPorts(usize),
    /// The port runs LLDP already.
    #[error("port {0} runs LLDP already")]
    PortExists(u32),
    /// The port does not run LLDP.
    #[error("port {0} does not run LLDP")]
    NoPort(u32),
    /// A text that does not fit its TLV.
    #[error("{what} of {len} bytes; expected at most {most}")]
    TextTooLong {
        /// Which.
        what: &'static str,
        /// Its length.
        len: usize,
        /// Most that is possible.
        most: usize,
    },
    /// A port without a name, which LLDP cannot identify.
    #[error("a port name of 0 bytes; expected 1 to 255")]
    NoName,
    /// A time that makes no sense.
    #[error("{what} of {seconds} s; expected {least} to {most}")]
    Time {
        /// Which.
        what: &'static str,
        /// As given.
        seconds: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
}

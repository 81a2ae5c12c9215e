//! What the tracker wants to know of a packet beside its tuple.

/// TCP flags as in the header (RFC 9293, section 3.1).
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement is significant.
    pub const ACK: u8 = 0x10;
}

/// Chunks of an SCTP packet that change the association (RFC 9260, section 3.2): a bit for each that the packet holds.
pub mod sctp_chunk {
    /// INIT.
    pub const INIT: u8 = 0x01;
    /// INIT ACK.
    pub const INIT_ACK: u8 = 0x02;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 0x04;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 0x08;
    /// SHUTDOWN or SHUTDOWN ACK.
    pub const SHUTDOWN: u8 = 0x10;
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: u8 = 0x20;
    /// ABORT.
    pub const ABORT: u8 = 0x40;
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CtPacket {
    /// Milliseconds on a clock that does not go back; the same for all calls to a table.
    pub now: u64,
    /// Bytes to count.
    pub bytes: u32,
    /// TCP: sequence number. SCTP: verification tag.
    pub seq: u32,
    /// TCP: acknowledgement number. SCTP: initiate tag of INIT and INIT ACK.
    pub ack: u32,
    /// TCP: window as in the header.
    pub window: u16,
    /// TCP: bytes of data.
    pub payload: u16,
    /// TCP: [`tcp_flag`] bits, others are ignored. SCTP: [`sctp_chunk`] bits.
    pub flags: u8,
    /// TCP: window scale option of a SYN; more than 14 counts as 14 (RFC 7323, section 2.3).
    pub scale: Option<u8>,
    /// An ICMP error about the connection. The tuple it is looked up by and `seq` are the embedded packet's.
    pub related: bool,
}

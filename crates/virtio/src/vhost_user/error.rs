//! Errors of a vhost-user session: which message, what was wrong with it, what was expected.
//!
//! Every variant is something a front end did, or something that happened while serving it; none of them
//! concerns another device.

use std::ops::RangeInclusive;

use rustix::io::Errno;

use super::message::MessageId;
use crate::device::DeviceError;
use crate::eventfd::EventfdError;
use crate::features::ProtocolFeatures;
use crate::inflight::InflightError;
use crate::memory::MemoryError;

/// Why a message was refused or a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// The header's version bits are not 1.
    #[error("{request}: protocol version {version}, expected 1")]
    Version {
        /// The message.
        request: MessageId,
        /// Version found.
        version: u32,
    },
    /// The front end sent a reply, but nothing was asked.
    #[error("{request}: is marked as a reply, expected a request")]
    UnexpectedReply {
        /// The message.
        request: MessageId,
    },
    /// A payload longer than any message may have.
    #[error("{request}: payload of {size} bytes, expected at most {max}")]
    TooLong {
        /// The message.
        request: MessageId,
        /// Size in the header.
        size: u32,
        /// Largest size of any message.
        max: usize,
    },
    /// More file descriptors than any message may carry, or descriptors lost by the kernel.
    #[error("{request}: more than {max} file descriptors, or some were lost on the way")]
    TooManyFds {
        /// The message.
        request: MessageId,
        /// Largest number of any message.
        max: usize,
    },
    /// File descriptors came with something else than the first byte of a message.
    #[error(
        "{request}: file descriptors in the middle of the message, expected them with its first byte"
    )]
    MisplacedFds {
        /// The message.
        request: MessageId,
    },
    /// The connection ended inside a message.
    #[error("the connection ended {received} bytes into a message")]
    Truncated {
        /// Bytes of the message received before the end.
        received: usize,
    },
    /// No message has this id.
    #[error("{request}: unknown, expected one of 1 to {last}")]
    Unknown {
        /// The id.
        request: MessageId,
        /// Highest id known.
        last: usize,
    },
    /// Payload size out of the message's range.
    #[error("{request}: payload of {size} bytes, expected {} to {}", expected.start(), expected.end())]
    PayloadSize {
        /// The message.
        request: MessageId,
        /// Size received.
        size: usize,
        /// Sizes accepted.
        expected: RangeInclusive<u32>,
    },
    /// The payload's own count does not agree with its size.
    #[error("{request}: payload of {size} bytes for {what} {count}, expected {expected}")]
    PayloadCount {
        /// The message.
        request: MessageId,
        /// Size received.
        size: usize,
        /// Name of the counted thing.
        what: &'static str,
        /// The count in the payload.
        count: u32,
        /// The size that would agree.
        expected: u64,
    },
    /// Number of file descriptors out of the message's range.
    #[error("{request}: {count} file descriptors, expected {} to {}", expected.start(), expected.end())]
    FdCount {
        /// The message.
        request: MessageId,
        /// Number received.
        count: usize,
        /// Numbers accepted.
        expected: RangeInclusive<usize>,
    },
    /// The message comes too early or at the wrong moment.
    #[error("{request}: out of order, expected {expected} first")]
    Order {
        /// The message.
        request: MessageId,
        /// What has to come before.
        expected: &'static str,
    },
    /// The message belongs to a protocol feature that was not negotiated.
    #[error("{request}: needs protocol feature {needs:?}, which was not negotiated")]
    NotNegotiated {
        /// The message.
        request: MessageId,
        /// The feature.
        needs: ProtocolFeatures,
    },
    /// The message belongs to something this back end does not do.
    #[error("{request}: not served by this back end")]
    NotServed {
        /// The message.
        request: MessageId,
    },
    /// Feature bits that were not offered.
    #[error("{request}: features {unknown:#x} were not offered ({offered:#x} were)")]
    NotOffered {
        /// The message.
        request: MessageId,
        /// The surplus bits.
        unknown: u64,
        /// The bits offered.
        offered: u64,
    },
    /// Ring index out of range.
    #[error("{request}: ring {index}, expected less than {count}")]
    RingIndex {
        /// The message.
        request: MessageId,
        /// The index.
        index: u64,
        /// Number of rings.
        count: u16,
    },
    /// Any other value out of range.
    #[error("{request}: {what} is {value}, expected {expected}")]
    Value {
        /// The message.
        request: MessageId,
        /// Name of the value.
        what: &'static str,
        /// The value.
        value: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// The event descriptor is unusable.
    #[error("{request}: {source}")]
    Eventfd {
        /// The message.
        request: MessageId,
        /// What is wrong with it.
        source: EventfdError,
    },
    /// The guest memory cannot be mapped or changed.
    #[error("{request}: {source}")]
    Memory {
        /// The message.
        request: MessageId,
        /// What is wrong with it.
        source: MemoryError,
    },
    /// The in-flight region cannot be made or used.
    #[error("{request}: {source}")]
    Inflight {
        /// The message.
        request: MessageId,
        /// What is wrong with it.
        source: InflightError,
    },
    /// The device refused.
    #[error("{request}: {source}")]
    Device {
        /// The message.
        request: MessageId,
        /// Why.
        source: DeviceError,
    },
    /// The back-end channel is not a stream socket of the local machine.
    #[error("{request}: the file descriptor is not a Unix stream socket")]
    NotASocket {
        /// The message.
        request: MessageId,
    },
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] Errno),
    /// The front end does not take its replies.
    #[error("the front end does not read its replies")]
    ReplyTimeout,
}

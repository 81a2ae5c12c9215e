//! The driver side of vhost-user and of split virtqueues (virtio 1.2, sections 2.7 and 5; QEMU's vhost-user text).
//!
//! A [`Session`] speaks the message protocol over a Unix socket, [`GuestMemory`] is the memory that a guest would have,
//! and a [`SplitQueue`] is what a guest's driver does with a ring. Everything may be bypassed: `Session::send_raw` writes
//! any bytes and descriptors, `GuestMemory::window` reaches every byte of the rings. Used by the benches, the hostile-ring
//! tests and fuzzing. It never trusts the device either: a used element that names no outstanding chain is an error.

pub mod blk;
pub mod guest_memory;
pub mod net;
pub mod session;
pub mod split;
pub mod wire;

pub use guest_memory::{GuestMemory, Window};
pub use session::Session;
pub use split::SplitQueue;

use std::io;

/// What can go wrong between this driver and a device.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// A system call on the socket, the memory or an eventfd failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with its object.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The device answered something other than what the protocol asks for.
    #[error("reply to {request:?}: expected {expected}, got {got}")]
    Reply {
        /// The request that was answered.
        request: wire::Request,
        /// What the protocol asks for.
        expected: String,
        /// What came.
        got: String,
    },
    /// The device refused a request with a non-zero REPLY_ACK.
    #[error("{request:?} refused with code {code}")]
    Refused {
        /// The request.
        request: wire::Request,
        /// The acknowledgement's value.
        code: u64,
    },
    /// The device lacks features without which the caller cannot go on.
    #[error("device offers features {offered:#x}, needed {needed:#x}")]
    Features {
        /// What it offered.
        offered: u64,
        /// What is needed.
        needed: u64,
    },
    /// A guest-physical range is outside of every region.
    #[error("guest range {gpa:#x}+{len:#x} is in no region")]
    Range {
        /// First byte.
        gpa: u64,
        /// Bytes.
        len: u64,
    },
    /// The memory has no room for another allocation.
    #[error("guest memory is full: {wanted} bytes wanted, {left} left")]
    MemoryFull {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes left in the largest region.
        left: u64,
    },
    /// A queue size that virtio does not allow.
    #[error("queue size {0}: expected a power of two from 1 to 32768")]
    QueueSize(u16),
    /// Too few free descriptors for a chain.
    #[error("queue has {free} free descriptors, chain needs {needed}")]
    QueueFull {
        /// Free descriptors.
        free: u16,
        /// Descriptors wanted.
        needed: usize,
    },
    /// The device returned a used element that names no outstanding chain, or more elements than there are chains.
    #[error("used element names head {id}, which is not outstanding")]
    BadUsed {
        /// The identifier found in the used ring.
        id: u32,
    },
    /// A request completed with an error status, or with data other than what was written.
    #[error("block request {kind} of sector {sector}: {reason}")]
    Block {
        /// read, write, flush, get-id.
        kind: &'static str,
        /// First 512-byte sector.
        sector: u64,
        /// What was wrong.
        reason: String,
    },
    /// Nothing came within the time allowed.
    #[error("{what}: nothing within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// Seconds waited.
        seconds: u64,
    },
}

impl FrontendError {
    /// Wraps a system error with what was being done.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }
}

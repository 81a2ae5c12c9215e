//! The vhost-user back end: the protocol server that lets a front end (QEMU, DPDK virtio-user) share a guest's
//! virtqueues with a [`VirtioDevice`](crate::device::VirtioDevice) (vhost-user specification of QEMU).
//!
//! - [`message`]: every message of the protocol with its payload and its rules, as data.
//! - [`codec`]: bytes and file descriptors to messages; incremental, without I/O of its own.
//! - [`session`]: the state machine of one connection; no socket in sight, so that it can be driven by anything.
//! - [`server`]: sockets, one thread per device, server and client mode.
//!
//! Nothing here touches a ring or guest memory, and nothing here runs on an lcore.

pub mod codec;
pub mod error;
pub mod front_end;
pub mod message;
mod rings;
pub mod server;
pub mod session;

pub use codec::{Decoder, Message, Reply};
pub use error::VhostUserError;
pub use front_end::{FrontEnd, NotifyError};
pub use message::Request;
pub use server::{Endpoint, EndpointError, Statistics};
pub use session::{Session, SessionInfo, Verdict};

//! Ports that are not rings of a guest: packet sockets, AF_XDP sockets, TAP devices, threads of this process.
//!
//! A wire port receives into buffers of its own, which it lends for one burst, and sends frames that the switch has built, whole and
//! linear, in buffers that the port lends. It knows nothing of flows.

pub mod bpf;
mod buffers;
mod burst;
pub mod channel;
mod idle;
pub mod interface;
pub mod monitor;
mod outbox;
pub mod packet;
mod packet_ring;
mod syscall;
pub mod tap;
mod umem;
pub mod xdp;
mod xdp_ring;

pub use channel::Channel;
pub use interface::{Interface, LinkState};
pub use packet::PacketSocket;
pub use tap::Tap;
pub use xdp::XdpSocket;

use std::io;
use std::os::fd::BorrowedFd;

use sumeru_virtio::GuestSlice;

use crate::net_header::{Accepts, Offload};

/// A frame as a wire port received it.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The bytes, from the Ethernet header on. Valid until the next [`Wire::receive`] or drop of the port.
    pub data: GuestSlice,
    /// What the kernel left to do (checksum, segmentation), unchecked.
    pub offload: Offload,
}

/// One queue of a wire port, owned by one lcore.
///
/// The switch promises: `receive` and `send_buffer` … `send` … `flush` are called from one lcore, at most one buffer is being
/// filled at a time, and slices from `receive` are not used after the next `receive`.
/// The port promises: no call blocks; `receive` answers at most `max` frames; nothing it lends is unmapped before the port is dropped.
pub trait Wire {
    /// Appends at most `max` received frames to `frames`; returns how many.
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize;

    /// A buffer for the next frame to send, at least as long as the MTU plus 18 bytes (64 KiB + headers where [`Self::accepts`] takes
    /// large segments). `None`: the transmit ring is full, the frame is to be dropped and counted.
    fn send_buffer(&mut self) -> Option<GuestSlice>;

    /// Queues the buffer from the last `send_buffer`, filled with `len` bytes, with what is left to do on it.
    fn send(&mut self, len: u32, offload: &Offload, header_len: u16);

    /// Hands what was queued to the kernel; returns how many frames it took. The rest are lost and counted by the caller.
    fn flush(&mut self) -> usize;

    /// What the kernel does for us on frames sent.
    fn accepts(&self) -> Accepts;

    /// The descriptor that becomes readable when a frame arrives.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Called before the lcore sleeps: true when there is something to receive already.
    fn pending(&mut self) -> bool;

    /// The interface that it is on; none if the other end is in this process.
    fn interface(&self) -> Option<&Interface>;

    /// The interface's MAC address.
    fn mac(&self) -> [u8; 6];

    /// Frames lost below the switch since the last call. For statistics, about once a second: it may make a system call.
    fn take_lost(&mut self) -> Lost;
}

/// Received frames that never reached the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Dropped by the kernel because nobody fetched them in time.
    pub overflow: u64,
    /// Dropped by the port: cut off, without a whole Ethernet header, with an offload that has no form here, or outside the port's memory.
    pub malformed: u64,
}

/// Why a wire port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not a name that an interface can have.
    #[error("{0:?} is no interface name; expected 1 to 15 bytes without blank, '/', ':' and '%'")]
    Name(String),
    /// No such interface.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// Frames of this size do not fit.
    #[error("the MTU of interface {interface} is {mtu}, expected at most {max}")]
    Mtu {
        /// On which interface.
        interface: String,
        /// What it is, in bytes.
        mtu: u32,
        /// What is possible, in bytes.
        max: u32,
    },
    /// The kernel refused a step.
    #[error("cannot {step} on interface {interface}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// On which interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod xdp_tests;

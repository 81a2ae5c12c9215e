//! A port whose other end is a thread of this process: a pair of connected datagram sockets (unix(7)), one frame in each message, without offloads.
//!
//! The kernel keeps the frames in between, bounded by the sockets' buffers; what does not fit is lost and counted by who sends it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use sumeru_virtio::GuestSlice;

use super::buffers::Buffers;
use super::idle::IdleSkip;
use super::outbox::{BURST, Outbox};
use super::{Interface, Lost, Received, Wire};
use crate::net_header::{Accepts, Offload};

/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;

/// The switch's end.
#[derive(Debug)]
pub struct Channel {
    socket: UnixDatagram,
    mac: [u8; 6],
    longest: usize,
    receive_buffers: Buffers,
    outbox: Outbox<0>,
    idle: IdleSkip,
    malformed: u64,
}

impl Channel {
    /// Both ends: the switch's, and the other, which does not block. Frames of up to `longest` bytes come from there; whoever has it has this
    /// link-layer address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pair(mac: [u8; 6], longest: usize) -> io::Result<(Self, UnixDatagram)> {
        let (own, other) = UnixDatagram::pair()?;
        own.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        let channel = Self {
            socket: own,
            mac,
            longest,
            receive_buffers: Buffers::new(BURST)?,
            outbox: Outbox::new()?,
            idle: IdleSkip::default(),
            malformed: 0,
        };
        Ok((channel, other))
    }

    fn push(&mut self) {
        let socket = self.socket.as_fd();
        self.outbox.push(|buffers, lens| {
            let mut taken = 0;
            for (at, len) in lens.iter().enumerate() {
                match buffers.drain(at, 0, *len, socket) {
                    Ok(_) => taken += 1,
                    Err(Errno::INTR | Errno::MSGSIZE) => {}
                    // Full, or nobody is there: none of the others would pass.
                    Err(_) => break,
                }
            }
            taken
        });
    }
}

impl Wire for Channel {
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        if self.idle.skips() {
            return 0;
        }
        let before = frames.len();
        let mut index = 0;
        while index < max.min(BURST) {
            let socket = self.socket.as_fd();
            // Nothing is also what the end of the other side looks like.
            let Ok(len @ 1..) = self.receive_buffers.fill(index, 0, socket) else {
                break;
            };
            if (FRAME_MIN..=self.longest).contains(&len) {
                frames.push(Received {
                    data: self.receive_buffers.slice(index, 0, len),
                    offload: Offload::default(),
                });
            } else {
                self.malformed += 1;
            }
            index += 1;
        }
        if index == 0 {
            self.idle.found_nothing();
        } else {
            self.idle.look_again();
        }
        frames.len() - before
    }

    fn send_buffer(&mut self) -> Option<GuestSlice> {
        if self.outbox.place().is_none() {
            self.push();
        }
        self.outbox.place()
    }

    fn send(&mut self, len: u32, offload: &Offload, header_len: u16) {
        self.outbox.add(len, offload, header_len);
    }

    fn flush(&mut self) -> usize {
        self.push();
        self.outbox.take_taken()
    }

    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn pending(&mut self) -> bool {
        self.idle.look_again();
        let mut look = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        let now = rustix::time::Timespec::default();
        let ready = rustix::event::poll(&mut look, Some(&now));
        ready.is_ok_and(|count| count > 0 && look[0].revents() == PollFlags::IN)
    }

    fn interface(&self) -> Option<&Interface> {
        None
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn take_lost(&mut self) -> Lost {
        Lost {
            overflow: 0,
            malformed: std::mem::take(&mut self.malformed),
        }
    }
}

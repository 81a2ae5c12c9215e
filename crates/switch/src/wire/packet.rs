//! A port on an interface of the kernel through a raw packet socket (packet(7)).
//!
//! `PACKET_VNET_HDR` carries checksum and segmentation offload both ways. The kernel takes VLAN tags off and hands them beside the frame; here they go
//! back into it. The host's own stack sees the same frames: the interface should have no address of its own.
//! There is no queueing discipline bypass: with it the kernel drops segments that the driver cannot cut.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sumeru_virtio::GuestSlice;

use super::buffers::{Buffers, FRAME_MAX, HEADROOM};
use super::burst::Burst;
use super::idle::IdleSkip;
use super::interface::{Interface, refused};
use super::syscall::{bind, option, set_option};
use super::{Lost, Received, Wire, WireError};
use crate::net_header::{Accepts, Offload, SHORT_NET_HEADER_LEN};

/// Frames per burst and direction.
const BURST: usize = 32;
/// What the kernel may hold for us, in bytes of its own accounting: some thousand small frames, some hundred large ones.
const QUEUE_BYTES: i32 = 16 << 20;
/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
const TAG_LEN: usize = 4;
const ADDRESSES_LEN: usize = 12;

/// A raw packet socket bound to an interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    interface: Interface,
    mac: [u8; 6],
    received: Burst,
    receive_buffers: Buffers,
    sends: Burst,
    send_buffers: Buffers,
    queued: usize,
    taken: usize,
    idle: IdleSkip,
    malformed: u64,
}

impl PacketSocket {
    /// Opens a socket on `interface`, which is set promiscuous for as long as the socket lives.
    ///
    /// # Errors
    /// [`WireError`]: no such interface, not an Ethernet one, or not allowed (`CAP_NET_RAW`).
    pub fn open(interface: &str) -> Result<Self, WireError> {
        let interface = Interface::open(interface)?;
        let name = interface.name();
        // Protocol 0: nothing arrives before the socket is set up and bound.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| refused("open a packet socket", name, errno.into()))?;
        for (step, level, option, value) in [
            (
                "have offload headers",
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                1,
            ),
            ("have VLAN tags", libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
            (
                "ignore frames of our own",
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                1,
            ),
            (
                "enlarge the receive queue",
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                QUEUE_BYTES,
            ),
            (
                "enlarge the transmit queue",
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                QUEUE_BYTES,
            ),
        ] {
            set_option(socket.as_fd(), level, option, &value)
                .map_err(|source| refused(step, name, source))?;
        }
        interface.add_promiscuous(&socket)?;
        bind_all(&socket, interface.index())
            .map_err(|source| refused("bind a packet socket", name, source))?;
        let out_of_memory = |source| refused("map frame buffers", name, source);
        let receive_buffers = Buffers::new(BURST).map_err(out_of_memory)?;
        let send_buffers = Buffers::new(BURST).map_err(out_of_memory)?;
        let whole = |buffers: &Buffers| {
            let messages: Vec<_> = (0..BURST)
                .map(|index| buffers.slice(index, SHORT_NET_HEADER_LEN, usize::MAX))
                .collect();
            Burst::new(messages.into_iter())
        };
        Ok(Self {
            received: whole(&receive_buffers).map_err(out_of_memory)?,
            sends: whole(&send_buffers).map_err(out_of_memory)?,
            socket,
            mac: interface.mac()?,
            interface,
            receive_buffers,
            send_buffers,
            queued: 0,
            taken: 0,
            idle: IdleSkip::default(),
            malformed: 0,
        })
    }

    /// The interface it is bound to.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Message `index` as a frame; `None` for one that is to be dropped.
    #[inline(always)]
    fn frame(&mut self, index: usize) -> Option<Received> {
        let message = self.received.received(index);
        let len = message.len.checked_sub(SHORT_NET_HEADER_LEN)?;
        if message.truncated || !(FRAME_MIN..=FRAME_MAX).contains(&len) {
            return None;
        }
        let header = self.receive_buffers.read(index, SHORT_NET_HEADER_LEN);
        let mut offload = Offload::read(&header).ok()?;
        let mut before = 0;
        if let Some(tag) = message.tag {
            // Addresses and tag, over the end of the header, which was read.
            let mut moved = [0; ADDRESSES_LEN + TAG_LEN];
            let addresses = self.receive_buffers.read::<ADDRESSES_LEN>(index, 0);
            moved[..ADDRESSES_LEN].copy_from_slice(&addresses);
            moved[ADDRESSES_LEN..].copy_from_slice(&tag);
            self.receive_buffers.write(index, TAG_LEN, &moved);
            offload.shift(TAG_LEN as i16);
            before = TAG_LEN;
        }
        Some(Received {
            data: self.receive_buffers.slice(index, before, len + before),
            offload,
        })
    }

    /// Sends what is queued, and remembers how many were taken for the next [`Wire::flush`].
    fn push(&mut self) {
        self.taken += self.sends.send(self.socket.as_fd(), self.queued);
        self.queued = 0;
    }
}

impl Wire for PacketSocket {
    #[inline]
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        if self.idle.skips() {
            return 0;
        }
        let got = match self.received.receive(self.socket.as_fd(), max) {
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.idle.found_nothing();
                return 0;
            }
            Err(error) => {
                // A frame whose offload has no header form is lost with EINVAL; an interface that went down is told once.
                self.malformed += u64::from(error.raw_os_error() == Some(libc::EINVAL));
                return 0;
            }
        };
        self.idle.look_again();
        let before = frames.len();
        for index in 0..got {
            match self.frame(index) {
                Some(frame) => frames.push(frame),
                None => self.malformed += 1,
            }
        }
        frames.len() - before
    }

    #[inline]
    fn send_buffer(&mut self) -> Option<GuestSlice> {
        if self.queued == BURST {
            self.push();
        }
        Some(self.send_buffers.slice(self.queued, 0, FRAME_MAX))
    }

    #[inline]
    fn send(&mut self, len: u32, offload: &Offload, header_len: u16) {
        if self.queued == BURST {
            return;
        }
        let header = offload.write(header_len);
        let header = &header[..SHORT_NET_HEADER_LEN];
        self.send_buffers
            .write(self.queued, SHORT_NET_HEADER_LEN, header);
        let len = SHORT_NET_HEADER_LEN + (len as usize).min(FRAME_MAX);
        self.sends.set_len(self.queued, len);
        self.queued += 1;
    }

    #[inline]
    fn flush(&mut self) -> usize {
        if self.queued != 0 {
            self.push();
        }
        std::mem::take(&mut self.taken)
    }

    fn accepts(&self) -> Accepts {
        // What the driver lacks the kernel does in software on the way to it.
        Accepts {
            partial_csum: true,
            tcp4: true,
            tcp6: true,
            ecn: true,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn pending(&mut self) -> bool {
        self.idle.look_again();
        readable(self.socket.as_fd())
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn take_lost(&mut self) -> Lost {
        // Reading resets the kernel's counts.
        let statistics: Result<libc::tpacket_stats, _> = option(
            self.socket.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
        );
        Lost {
            overflow: statistics.map_or(0, |statistics| u64::from(statistics.tp_drops)),
            malformed: std::mem::take(&mut self.malformed),
        }
    }
}

/// Binds a packet socket to all protocols of an interface.
fn bind_all(socket: &OwnedFd, index: u32) -> std::io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    bind(socket.as_fd(), &address)
}

/// Whether a descriptor has something to read. Errors do not count: reading would find nothing.
pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut look = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut look, Some(&now)) {
        Ok(count) => count > 0 && look[0].revents().contains(PollFlags::IN),
        Err(_) => false,
    }
}

const _: () = assert!(TAG_LEN + SHORT_NET_HEADER_LEN <= HEADROOM);

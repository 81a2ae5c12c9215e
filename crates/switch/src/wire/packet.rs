//! A port on an interface of the kernel through a raw packet socket (packet(7)).
//!
//! Frames arrive through a ring shared with the kernel, and leave by one system call for a burst. `PACKET_VNET_HDR` carries checksum and segmentation offload both ways. The kernel takes VLAN tags off and hands them beside the frame; here they go
//! back into it. The host's own stack sees the same frames: the interface should have no address of its own.
//! There is no queueing discipline bypass: with it the kernel drops segments that the driver cannot cut.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sumeru_virtio::GuestSlice;

use super::buffers::Buffers;
use super::burst::Burst;
use super::interface::{Interface, refused};
use super::outbox::{BURST, Outbox};
use super::packet_ring::{ReceiveRing, Slot, frame_of};
use super::syscall::{bind, option, set_option};
use super::{Lost, Received, Wire, WireError};
use crate::net_header::{Accepts, Offload, SHORT_NET_HEADER_LEN};

/// What the kernel may hold for us outside the ring, in bytes of its own accounting: some hundred large segments.
const QUEUE_BYTES: i32 = 16 << 20;

/// A raw packet socket bound to an interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    interface: Interface,
    mac: [u8; 6],
    ring: ReceiveRing,
    /// Frames that are too long for the ring's slots.
    large: Burst,
    large_buffers: Buffers,
    sends: Burst,
    outbox: Outbox<SHORT_NET_HEADER_LEN>,
    overflow: u64,
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
        let ring = ReceiveRing::new(socket.as_fd(), interface.mtu()?)
            .map_err(|source| refused("make a receive ring", name, source))?;
        interface.add_promiscuous(&socket)?;
        bind_all(&socket, interface.index())
            .map_err(|source| refused("bind a packet socket", name, source))?;
        let out_of_memory = |source| refused("map frame buffers", name, source);
        let large_buffers = Buffers::new(BURST).map_err(out_of_memory)?;
        let large =
            (0..BURST).map(|index| large_buffers.slice(index, SHORT_NET_HEADER_LEN, usize::MAX));
        let outbox = Outbox::new().map_err(out_of_memory)?;
        Ok(Self {
            ring,
            large: Burst::new(large).map_err(out_of_memory)?,
            sends: Burst::new(outbox.messages()).map_err(out_of_memory)?,
            socket,
            mac: interface.mac()?,
            interface,
            large_buffers,
            outbox,
            overflow: 0,
            malformed: 0,
        })
    }

    /// The next frame of the socket's queue, in buffer `index`; `None` for one that is to be dropped.
    #[cold]
    fn queued_frame(&mut self, index: usize) -> Option<Received> {
        let mut received = self.large.receive(self.socket.as_fd(), index);
        // A socket tells an interface's fall once in the place of a frame.
        if received
            .as_ref()
            .is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
        {
            received = self.large.receive(self.socket.as_fd(), index);
        }
        let message = received.ok()?;
        if message.truncated {
            return None;
        }
        let slice = self
            .large_buffers
            .slice(index, SHORT_NET_HEADER_LEN, message.len);
        frame_of(slice, message.tag)
    }

    /// Sends what waits.
    fn push(&mut self) {
        let (sends, socket) = (&mut self.sends, self.socket.as_fd());
        self.outbox.push(|_, lens| {
            for (index, len) in lens.iter().enumerate() {
                sends.set_len(index, *len);
            }
            sends.send(socket, lens.len())
        });
    }
}

impl Wire for PacketSocket {
    #[inline]
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        self.ring.give_back();
        let before = frames.len();
        let mut large = 0;
        for _ in 0..max.min(BURST) {
            let frame = match self.ring.take() {
                None => break,
                Some(Slot::Frame(message, tag)) => frame_of(message, tag),
                Some(Slot::Queued) => {
                    large += 1;
                    self.queued_frame(large - 1)
                }
                Some(Slot::Cut) => {
                    self.overflow += 1;
                    continue;
                }
                Some(Slot::Bad) => None,
            };
            match frame {
                Some(frame) => frames.push(frame),
                None => self.malformed += 1,
            }
        }
        frames.len() - before
    }

    #[inline]
    fn send_buffer(&mut self) -> Option<GuestSlice> {
        if self.outbox.place().is_none() {
            self.push();
        }
        self.outbox.place()
    }

    #[inline]
    fn send(&mut self, len: u32, offload: &Offload, header_len: u16) {
        self.outbox.add(len, offload, header_len);
    }

    #[inline]
    fn flush(&mut self) -> usize {
        self.push();
        self.outbox.take_taken()
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
        if self.ring.ready() {
            return true;
        }
        // An interface that went down leaves an error, which would wake a sleeper again and again. Asking for it takes it away.
        let _ = rustix::net::sockopt::socket_error(&self.socket);
        self.ring.ready()
    }

    fn interface(&self) -> Option<&Interface> {
        Some(&self.interface)
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
        let dropped = statistics.map_or(0, |statistics| u64::from(statistics.tp_drops));
        Lost {
            overflow: dropped + std::mem::take(&mut self.overflow),
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

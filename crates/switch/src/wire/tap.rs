//! A port towards the host's own stack: a TAP device (`/dev/net/tun`, kernel documentation "Universal TUN/TAP device driver").
//!
//! Each read and write moves one frame with a virtio-net header in front (`IFF_VNET_HDR`), so that partial checksums and large segments pass both
//! ways. The device goes when the last of its queues is closed, unless it was there before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sumeru_virtio::GuestSlice;

use super::buffers::{Buffers, FRAME_MAX};
use super::idle::IdleSkip;
use super::interface::{Interface, check_name, named_request, refused};
use super::outbox::{BURST, Outbox};
use super::syscall::{interface_request, request_by_int, request_by_value};
use super::{Lost, Received, Wire, WireError};
use crate::net_header::{Accepts, NET_HEADER_LEN, Offload, SHORT_NET_HEADER_LEN};

/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
/// Most queues of one device in Linux (`MAX_TAP_QUEUES`).
const QUEUES_MAX: usize = 256;

/// One queue of a TAP device.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    interface: Interface,
    mac: [u8; 6],
    receive_buffers: Buffers,
    outbox: Outbox<NET_HEADER_LEN>,
    idle: IdleSkip,
    malformed: u64,
}

impl Tap {
    /// Creates the device `name`, or attaches to it where it exists without an owner; sets its MTU (bytes) and sets it up.
    ///
    /// # Errors
    /// [`WireError`]: a bad name, no `/dev/net/tun`, not allowed (`CAP_NET_ADMIN`), in use by another process, or an MTU that it cannot have.
    pub fn open(name: &str, mtu: u32) -> Result<Self, WireError> {
        Self::open_one(name, mtu, 0)
    }

    /// The same with `queues` queues (1 to 256), one port each; the kernel spreads flows over them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_queues(name: &str, mtu: u32, queues: usize) -> Result<Vec<Self>, WireError> {
        (0..queues.clamp(1, QUEUES_MAX))
            .map(|_| Self::open_one(name, mtu, libc::IFF_MULTI_QUEUE))
            .collect()
    }

    fn open_one(name: &str, mtu: u32, more_flags: libc::c_int) -> Result<Self, WireError> {
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|errno| refused("open /dev/net/tun", name, errno.into()))?;
        let mut ifreq = named_request(name);
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more_flags;
        ifreq.ifr_ifru.ifru_flags = flags as libc::c_short;
        interface_request(device.as_fd(), libc::TUNSETIFF, &mut ifreq)
            .map_err(|source| refused("create or attach to a TAP device", name, source))?;
        request_by_int(
            device.as_fd(),
            libc::TUNSETVNETHDRSZ,
            NET_HEADER_LEN as libc::c_int,
        )
        .map_err(|source| refused("have offload headers", name, source))?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        request_by_value(device.as_fd(), libc::TUNSETOFFLOAD, offloads)
            .map_err(|source| refused("have offloads", name, source))?;
        let interface = Interface::open(name)?;
        interface.set_mtu(mtu)?;
        interface.set_up(true)?;
        let out_of_memory = |source| refused("map frame buffers", name, source);
        Ok(Self {
            device,
            mac: interface.mac()?,
            interface,
            receive_buffers: Buffers::new(BURST).map_err(out_of_memory)?,
            outbox: Outbox::new().map_err(out_of_memory)?,
            idle: IdleSkip::default(),
            malformed: 0,
        })
    }

    /// The frame of `len` bytes, header included, in buffer `index`; `None` for one that is to be dropped.
    #[inline(always)]
    fn frame(&self, index: usize, len: usize) -> Option<Received> {
        let len = len.checked_sub(NET_HEADER_LEN)?;
        // One that fills the buffer was cut off.
        if !(FRAME_MIN..FRAME_MAX).contains(&len) {
            return None;
        }
        let header: [u8; SHORT_NET_HEADER_LEN] = self.receive_buffers.read(index, NET_HEADER_LEN);
        Some(Received {
            data: self.receive_buffers.slice(index, 0, len),
            offload: Offload::read(&header).ok()?,
        })
    }

    /// Writes what waits.
    fn push(&mut self) {
        let device = self.device.as_fd();
        self.outbox.push(|buffers, lens| {
            let (mut next, mut taken) = (0, 0);
            while let Some(len) = lens.get(next) {
                match buffers.drain(next, NET_HEADER_LEN, *len, device) {
                    Ok(_) => taken += 1,
                    Err(Errno::INTR) => continue,
                    // Refused for itself: the next one may pass.
                    Err(Errno::INVAL | Errno::NOBUFS | Errno::NOMEM | Errno::MSGSIZE) => {}
                    // Full, down or gone: none of the others would pass.
                    Err(_) => break,
                }
                next += 1;
            }
            taken
        });
    }
}

impl Wire for Tap {
    #[inline]
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        if self.idle.skips() {
            return 0;
        }
        let before = frames.len();
        let mut index = 0;
        while index < max.min(BURST) {
            let device = self.device.as_fd();
            let Ok(len) = self.receive_buffers.fill(index, NET_HEADER_LEN, device) else {
                break;
            };
            match self.frame(index, len) {
                Some(frame) => frames.push(frame),
                None => self.malformed += 1,
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
        // The host's stack takes them all.
        Accepts {
            partial_csum: true,
            tcp4: true,
            tcp6: true,
            ecn: true,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn pending(&mut self) -> bool {
        self.idle.look_again();
        readable(self.device.as_fd())
    }

    fn interface(&self) -> Option<&Interface> {
        Some(&self.interface)
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn take_lost(&mut self) -> Lost {
        // What the device's own queue drops is in the interface's statistics (transmit drops of the host).
        Lost {
            overflow: 0,
            malformed: std::mem::take(&mut self.malformed),
        }
    }
}

/// Whether a descriptor has something to read. Errors do not count: reading would find nothing.
fn readable(fd: BorrowedFd<'_>) -> bool {
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

//! A port on one receive queue of an interface through an AF_XDP socket (kernel documentation "AF_XDP").
//!
//! Frames lie in memory shared with the kernel: chunks for receiving that travel over the fill and receive rings, slots for sending over the transmit and
//! completion rings. Zero-copy where the driver has it. It carries no offload: checksums and segments are finished before sending. What the
//! driver left undone on a received frame is not told either, so a veth peer needs `ethtool -K PEER tx off`; and VLAN tags that hardware takes off are lost, so
//! an uplink needs `ethtool -K UPLINK rxvlan off`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sumeru_virtio::GuestSlice;

use super::bpf::{QUEUES_MAX, XdpProgram};
use super::buffers::{Buffers, FRAME_MAX};
use super::interface::{Interface, refused};
use super::syscall::{bind, option, set_option};
use super::umem::{CHUNK, Umem};
use super::xdp_ring::{Consumer, Producer};
use super::{Lost, Received, Wire, WireError};
use crate::net_header::{Accepts, Offload};

/// How long a queue in use is waited for.
const QUEUE_FREED_WITHIN: Duration = Duration::from_secs(1);
/// Frames per burst.
const BURST: usize = 32;
/// Shortest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
/// Ethernet header and two VLAN tags.
const LINK_HEADERS: u32 = 22;
/// What the kernel keeps free in front of a frame in a chunk (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;
/// The largest MTU whose frames arrive in one chunk, in bytes.
pub(super) const WHOLE_MTU_MAX: u32 = CHUNK - KERNEL_HEADROOM - LINK_HEADERS;
/// The largest MTU in several chunks: sixteen pieces are what the kernel takes in one frame.
const MTU_MAX: u32 = 16 * CHUNK - LINK_HEADERS;
/// Most chunks taken from the receive ring in one burst: a burst of jumbo frames.
const PIECES_AT_ONCE: u32 = 128;
/// Buffers for frames in several pieces: those of a burst, and one that waits for its end.
const WHOLE_BUFFERS: usize = BURST + 1;
/// Frames that one wake-up makes the kernel send in copy mode, at least.
const KERNEL_BATCH: u32 = 32;

/// An AF_XDP socket on one queue.
#[derive(Debug)]
pub struct XdpSocket {
    socket: OwnedFd,
    program: Arc<XdpProgram>,
    queue: u32,
    zero_copy: bool,
    mac: [u8; 6],
    /// A port of a switch receives frames for everybody.
    _promiscuous: OwnedFd,
    umem: Umem,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<libc::xdp_desc>,
    transmit: Producer<libc::xdp_desc>,
    /// Addresses of the chunks lent with the last burst.
    lent: Vec<u64>,
    /// Where frames in several pieces are put together; only where the MTU makes them possible.
    whole: Option<Buffers>,
    assembly: Assembly,
    /// The slot last handed out by `send_buffer`.
    filling: Option<u32>,
    /// Frames sent since the last `flush`.
    queued: usize,
    /// Some of them the kernel cannot see yet.
    unpublished: bool,
    /// The kernel has not taken everything that was published.
    unsent: bool,
    malformed: u64,
    overflow_told: u64,
}

impl XdpSocket {
    /// Attaches a program to `interface` and opens a socket on its receive queue `queue` (from 0); other queues go on to the host's stack.
    ///
    /// # Errors
    /// [`WireError`]: see [`XdpProgram::attach`]; no such queue; an MTU that does not fit.
    pub fn open(interface: &str, queue: u32) -> Result<Self, WireError> {
        Self::on(&XdpProgram::attach(interface)?, queue)
    }

    /// One socket for each receive queue that `interface` has now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_all(interface: &str) -> Result<Vec<Self>, WireError> {
        let program = XdpProgram::attach(interface)?;
        let queues = program.interface().receive_queues()?.min(QUEUES_MAX);
        (0..queues).map(|queue| Self::on(&program, queue)).collect()
    }

    /// A socket on queue `queue` of the program's interface. Waits up to a second for a queue that is in use.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn on(program: &Arc<XdpProgram>, queue: u32) -> Result<Self, WireError> {
        let interface = program.interface();
        let name = interface.name();
        let said = |step: &'static str| move |source: io::Error| refused(step, name, source);
        let mtu = interface.mtu()?;
        let max = if program.large() {
            MTU_MAX
        } else {
            WHOLE_MTU_MAX
        };
        if mtu > max {
            return Err(WireError::Mtu {
                interface: name.to_owned(),
                mtu,
                max,
            });
        }
        let xdp = AddressFamily::from_raw(libc::AF_XDP as u16);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(xdp, SocketType::RAW, flags, None)
            .map_err(|errno| refused("open an XDP socket", name, errno.into()))?;
        let umem =
            Umem::new(mtu + LINK_HEADERS).map_err(said("map frame memory for XDP sockets"))?;
        let fd = socket.as_fd();
        set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration())
            .map_err(said("register frame memory"))?;
        let sizes = umem.ring_sizes();
        for (ring, size) in [
            (libc::XDP_UMEM_FILL_RING, sizes.receive),
            (libc::XDP_UMEM_COMPLETION_RING, sizes.transmit),
            (libc::XDP_RX_RING, sizes.receive),
            (libc::XDP_TX_RING, sizes.transmit),
        ] {
            set_option(fd, libc::SOL_XDP, ring, &(size as i32)).map_err(said("size a ring"))?;
        }
        let offsets: libc::xdp_mmap_offsets =
            option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS).map_err(said("find the rings"))?;
        let map_failed = "map a ring";
        let mut fill = Producer::map(
            fd,
            libc::XDP_UMEM_PGOFF_FILL_RING,
            &offsets.fr,
            sizes.receive,
        )
        .map_err(said(map_failed))?;
        let completion = Consumer::map(
            fd,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
            &offsets.cr,
            sizes.transmit,
        )
        .map_err(said(map_failed))?;
        let receive = Consumer::map(
            fd,
            libc::XDP_PGOFF_RX_RING as u64,
            &offsets.rx,
            sizes.receive,
        )
        .map_err(said(map_failed))?;
        let transmit = Producer::map(
            fd,
            libc::XDP_PGOFF_TX_RING as u64,
            &offsets.tx,
            sizes.transmit,
        )
        .map_err(said(map_failed))?;
        for address in umem.receive_chunks() {
            fill.push(address);
        }
        fill.publish();
        bind_queue(&socket, interface, queue, program.large()).map_err(said(
            "bind an XDP socket (to a queue that exists and is free)",
        ))?;
        let options: libc::xdp_options =
            option(fd, libc::SOL_XDP, libc::XDP_OPTIONS).map_err(said("read options"))?;
        program
            .direct(queue, &socket)
            .map_err(said("direct a queue to an XDP socket"))?;
        let whole = if program.large() {
            Some(Buffers::new(WHOLE_BUFFERS).map_err(said("map frame buffers"))?)
        } else {
            None
        };
        let port = Self {
            mac: interface.mac()?,
            _promiscuous: interface.promiscuous()?,
            program: Arc::clone(program),
            queue,
            zero_copy: options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0,
            umem,
            fill,
            completion,
            receive,
            transmit,
            lent: Vec::with_capacity(PIECES_AT_ONCE as usize),
            whole,
            assembly: Assembly::default(),
            filling: None,
            queued: 0,
            unpublished: false,
            unsent: false,
            malformed: 0,
            overflow_told: 0,
            socket,
        };
        port.wake_receiver();
        Ok(port)
    }

    /// The program that feeds it.
    pub fn program(&self) -> &Arc<XdpProgram> {
        &self.program
    }

    /// Which receive queue it is on.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the driver works in our memory itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Gives the chunks of the last burst back to the kernel.
    #[inline(always)]
    fn give_back(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        for &address in &self.lent {
            // The ring holds every chunk there is; a kernel that named one twice loses the second.
            self.fill.push(address);
        }
        self.lent.clear();
        self.fill.publish();
        self.wake_receiver();
    }

    #[inline(always)]
    fn wake_receiver(&self) {
        if self.fill.needs_wakeup() {
            // Only the call counts; there is never anything to read.
            let _ = rustix::net::recv(&self.socket, &mut [0; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// Shows the kernel what is queued.
    fn push(&mut self) {
        self.unpublished = false;
        self.transmit.publish();
        self.wake_sender();
    }

    /// Makes the kernel send what is published.
    fn wake_sender(&mut self) {
        let mut untaken = self.transmit.untaken();
        let mut left = untaken / KERNEL_BATCH + 2;
        while untaken != 0 && left != 0 && self.transmit.needs_wakeup() {
            let sent = rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT);
            let now = self.transmit.untaken();
            if sent.is_err() && now == untaken {
                break;
            }
            untaken = now;
            left -= 1;
        }
        // A driver that needs no waking takes them by itself.
        self.unsent = untaken != 0 && self.transmit.needs_wakeup();
    }

    /// Takes back the slots of frames that were sent.
    fn reap(&mut self) {
        let done = self.completion.refresh();
        for ahead in 0..done {
            if !self.umem.sent(self.completion.peek(ahead)) {
                self.malformed += 1;
            }
        }
        self.completion.advance(done);
        if done != 0 {
            self.completion.release();
        }
    }

    /// Takes one piece of a frame in several; the frame when it is the last one.
    #[cold]
    fn gather(&mut self, piece: Option<GuestSlice>, last: bool) -> Option<GuestSlice> {
        let assembly = &mut self.assembly;
        match (piece, &mut self.whole) {
            (Some(piece), Some(whole)) if assembly.len + piece.len() as usize <= FRAME_MAX => {
                whole.write_slice(assembly.index, assembly.len, &piece);
                assembly.len += piece.len() as usize;
            }
            _ => assembly.bad = true,
        }
        assembly.open = !last;
        if !last {
            return None;
        }
        let (index, len) = (assembly.index, assembly.len);
        let bad = assembly.bad || len < FRAME_MIN;
        *assembly = Assembly {
            // Buffers lent with this burst stay as they are.
            index: (index + 1) % WHOLE_BUFFERS,
            ..Assembly::default()
        };
        if bad {
            self.malformed += 1;
            return None;
        }
        self.whole.as_ref().map(|whole| whole.slice(index, 0, len))
    }
}

/// A frame in several pieces that is being put together.
#[derive(Debug, Default)]
struct Assembly {
    /// Which buffer.
    index: usize,
    len: usize,
    /// A piece was taken, the last one was not.
    open: bool,
    /// A piece was missing or too much: the frame is dropped with its last one.
    bad: bool,
}

impl Wire for XdpSocket {
    #[inline]
    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        self.give_back();
        if self.unsent {
            self.wake_sender();
        }
        let available = self.receive.available();
        if available == 0 {
            return 0;
        }
        let before = frames.len();
        let most = before + max.min(BURST);
        let mut taken = 0;
        while taken < available.min(PIECES_AT_ONCE) && frames.len() < most {
            let descriptor = self.receive.peek(taken);
            taken += 1;
            let piece = self.umem.received(&descriptor);
            if let Some((_, chunk)) = piece {
                self.lent.push(chunk);
            }
            let piece = piece.map(|(slice, _)| slice);
            let last = descriptor.options & libc::XDP_PKT_CONTD == 0;
            let data = if last && !self.assembly.open {
                let whole = piece.filter(|slice| slice.len() as usize >= FRAME_MIN);
                self.malformed += u64::from(whole.is_none());
                whole
            } else {
                self.gather(piece, last)
            };
            if let Some(data) = data {
                frames.push(Received {
                    data,
                    offload: Offload::NONE,
                });
            }
        }
        self.receive.advance(taken);
        self.receive.release();
        frames.len() - before
    }

    #[inline]
    fn send_buffer(&mut self) -> Option<GuestSlice> {
        if self.filling.is_none() {
            self.filling = self.umem.take_slot();
        }
        if self.filling.is_none() {
            self.push();
            self.reap();
            self.filling = self.umem.take_slot();
        }
        self.filling.map(|slot| self.umem.slot(slot))
    }

    #[inline]
    fn send(&mut self, len: u32, _offload: &Offload, _header_len: u16) {
        let Some(slot) = self.filling.take() else {
            return;
        };
        if len == 0 || len > self.umem.slot(slot).len() {
            // Nothing to complete, or longer than the buffer: lost, as the next flush says.
            self.umem.return_slot(slot);
            return;
        }
        for descriptor in self.umem.descriptors(slot, len) {
            // The ring has a place for every chunk there is.
            self.transmit.push(descriptor);
        }
        self.queued += 1;
        self.unpublished = true;
    }

    #[inline]
    fn flush(&mut self) -> usize {
        if self.unpublished {
            self.push();
            self.reap();
        }
        std::mem::take(&mut self.queued)
    }

    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn pending(&mut self) -> bool {
        if self.unsent {
            self.wake_sender();
        }
        self.receive.refresh() != 0
    }

    fn interface(&self) -> Option<&Interface> {
        Some(self.program.interface())
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn take_lost(&mut self) -> Lost {
        let statistics: Result<libc::xdp_statistics, _> =
            option(self.socket.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS);
        let overflow =
            statistics.map_or(self.overflow_told, |now| now.rx_dropped + now.rx_ring_full);
        let told = std::mem::replace(&mut self.overflow_told, overflow);
        Lost {
            overflow: overflow.saturating_sub(told),
            malformed: std::mem::take(&mut self.malformed),
        }
    }
}

/// Binds to a queue: with frames in several pieces where they can come, zero-copy where the driver has it.
fn bind_queue(socket: &OwnedFd, interface: &Interface, queue: u32, large: bool) -> io::Result<()> {
    let pieces = if large { libc::XDP_USE_SG } else { 0 };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP | pieces,
        sxdp_ifindex: interface.index(),
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // The kernel frees the queue of a closed socket (of a process killed just before) some time later.
    let deadline = Instant::now() + QUEUE_FREED_WITHIN;
    loop {
        match bind(socket.as_fd(), &address) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

//! recvmsg(2) and sendmmsg(2) on prepared messages: one buffer each, and for receiving the auxiliary data of packet(7).
//!
//! Everything the calls need is laid out once; a call touches only the fields that the kernel changed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{iovec, mmsghdr};
use sumeru_virtio::GuestSlice;

use super::syscall::Mapping;

/// A control message with `struct tpacket_auxdata`, as the kernel writes it (cmsg(3)).
#[repr(C)]
struct Auxiliary {
    header: libc::cmsghdr,
    data: libc::tpacket_auxdata,
}
const _: () = assert!(std::mem::offset_of!(Auxiliary, data) == size_of::<libc::cmsghdr>());

/// What the kernel says of a message that it received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// Bytes written to the buffer.
    pub len: usize,
    /// The buffer was too short.
    pub truncated: bool,
    /// The VLAN tag taken off the frame: protocol and control information, in network byte order.
    pub tag: Option<[u8; 4]>,
}

/// `count` messages, each with a buffer that is set once.
#[derive(Debug)]
pub(super) struct Burst {
    memory: Mapping,
    count: usize,
}

impl Burst {
    /// One message per buffer. The buffers must live as long as the burst is used (the port owns both).
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(buffers: impl ExactSizeIterator<Item = GuestSlice>) -> io::Result<Self> {
        let count = buffers.len();
        let each = size_of::<mmsghdr>() + size_of::<iovec>() + size_of::<Auxiliary>();
        let memory = Mapping::anonymous(count * each)?;
        let burst = Self { memory, count };
        for (index, buffer) in buffers.enumerate() {
            let entry = iovec {
                iov_base: buffer.as_ptr().cast(),
                iov_len: buffer.len() as usize,
            };
            // SAFETY: entries `index` of three arrays in our own zeroed mapping, aligned because sizes are multiples of the
            // alignment and the mapping is page-aligned; zero is a value of a message header.
            unsafe {
                burst.entry(index).write(entry);
                let header = &raw mut (*burst.message(index)).msg_hdr;
                (*header).msg_iov = burst.entry(index);
                (*header).msg_iovlen = 1;
            }
        }
        Ok(burst)
    }

    fn message(&self, index: usize) -> *mut mmsghdr {
        self.memory.at(index * size_of::<mmsghdr>()).cast()
    }

    fn entry(&self, index: usize) -> *mut iovec {
        let start = self.count * size_of::<mmsghdr>();
        self.memory.at(start + index * size_of::<iovec>()).cast()
    }

    fn auxiliary(&self, index: usize) -> *mut Auxiliary {
        let start = self.count * (size_of::<mmsghdr>() + size_of::<iovec>());
        self.memory
            .at(start + index * size_of::<Auxiliary>())
            .cast()
    }

    /// Receives one message into buffer `index`, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise what befell the socket or the message, which is lost.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, index: usize) -> io::Result<Message> {
        let index = index.min(self.count - 1);
        // SAFETY: entries `index` of our own arrays; the message's buffer is mapped. The kernel shortens the control length to what
        // it wrote, and leaves stale data where it writes none, hence the zero length in the control message itself.
        let got = unsafe {
            (*self.auxiliary(index)).header.cmsg_len = 0;
            let header = &raw mut (*self.message(index)).msg_hdr;
            (*header).msg_control = self.auxiliary(index).cast();
            (*header).msg_controllen = size_of::<Auxiliary>() as _;
            libc::recvmsg(socket.as_raw_fd(), header, libc::MSG_DONTWAIT)
        };
        let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received(index, len))
    }

    #[inline]
    fn received(&self, index: usize, len: usize) -> Message {
        // SAFETY: entries of our own arrays, which the kernel no longer writes; integers all.
        let (flags, kind, data) = unsafe {
            let auxiliary = self.auxiliary(index);
            let kind = (
                (*auxiliary).header.cmsg_len,
                (*auxiliary).header.cmsg_level,
                (*auxiliary).header.cmsg_type,
            );
            let flags = (*self.message(index)).msg_hdr.msg_flags;
            (flags, kind, (*auxiliary).data)
        };
        let has_auxiliary = kind
            == (
                size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
            );
        let status = if has_auxiliary { data.tp_status } else { 0 };
        Message {
            len,
            truncated: flags & libc::MSG_TRUNC != 0,
            tag: tag_in_frame(status, data.tp_vlan_tci, data.tp_vlan_tpid),
        }
    }

    /// Sets how many bytes of buffer `index` are to be sent.
    #[inline(always)]
    pub(super) fn set_len(&mut self, index: usize, len: usize) {
        // SAFETY: an entry of our own array.
        unsafe { (*self.entry(index.min(self.count - 1))).iov_len = len };
    }

    /// Sends the first `count` messages, without waiting; returns how many the kernel took.
    ///
    /// A message that is refused for itself (too long, bad offload, dropped by the queueing discipline) does not hold up those behind it; a
    /// full socket or a dead interface ends the burst.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, count: usize) -> usize {
        let count = count.min(self.count);
        let mut next = 0;
        let mut taken = 0;
        while next < count {
            // SAFETY: messages `next` to `count` are initialised and their buffers are mapped.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.message(next),
                    (count - next) as _,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                next += sent;
                taken += sent;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EMSGSIZE | libc::EINVAL | libc::ENOBUFS) => next += 1,
                _ => break,
            }
        }
        taken
    }
}

/// The tag as it stands in a frame, from what the kernel says beside it: status bits, control information, protocol. A kernel that
/// does not say which protocol it was means 802.1Q.
#[inline(always)]
pub(super) fn tag_in_frame(status: u32, tci: u16, protocol: u16) -> Option<[u8; 4]> {
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let says_protocol = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let [p0, p1] = if says_protocol { protocol } else { 0x8100 }.to_be_bytes();
    let [t0, t1] = tci.to_be_bytes();
    Some([p0, p1, t0, t1])
}

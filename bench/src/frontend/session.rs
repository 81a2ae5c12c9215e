//! A vhost-user session from the front end's end of the socket: messages, replies, descriptors.
//!
//! Covers the requests that net and blk devices need; never touches a ring. `send_raw` sends anything at all.

use super::wire::{self, Inflight, MemoryRegion, Request, VringAddr, feature, protocol_feature};
use super::{FrontendError, GuestMemory, SplitQueue};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Descriptors that one message may carry.
pub const MAX_FDS: usize = 16;
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// One message from the device.
#[derive(Debug)]
pub struct Message {
    /// Request code.
    pub request: u32,
    /// Flags.
    pub flags: u32,
    /// Payload bytes.
    pub payload: Vec<u8>,
    /// Attached descriptors.
    pub fds: Vec<OwnedFd>,
}

/// A connection to a vhost-user device.
#[derive(Debug)]
pub struct Session {
    socket: UnixStream,
    features: u64,
    protocol_features: u64,
}

impl Session {
    /// Connects to a device that listens at `path`.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn connect(path: &Path) -> Result<Self, FrontendError> {
        let socket = UnixStream::connect(path)
            .map_err(|e| FrontendError::io(format!("connect to {}", path.display()), e))?;
        Self::from_stream(socket)
    }

    /// As [`Session::connect`], waiting up to `patience` for the socket to appear and accept.
    ///
    /// # Errors
    /// [`FrontendError::Io`] with the last reason.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, FrontendError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::connect(path) {
                Ok(session) => return Ok(session),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Uses a stream that is connected already (a device in client mode connects to us).
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn from_stream(socket: UnixStream) -> Result<Self, FrontendError> {
        socket
            .set_read_timeout(Some(REPLY_TIMEOUT))
            .map_err(|e| FrontendError::io("set read timeout", e))?;
        socket
            .set_write_timeout(Some(REPLY_TIMEOUT))
            .map_err(|e| FrontendError::io("set write timeout", e))?;
        Ok(Self {
            socket,
            features: 0,
            protocol_features: 0,
        })
    }

    /// Protocol features in force.
    pub fn protocol_features(&self) -> u64 {
        self.protocol_features
    }

    /// The socket, for callers that close, poll or half-close it.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends any bytes with any descriptors attached to the first of them.
    ///
    /// # Errors
    /// [`FrontendError::Io`]; more than [`MAX_FDS`] descriptors are an invalid argument.
    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), FrontendError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty()
            && (fds.len() > MAX_FDS || !control.push(SendAncillaryMessage::ScmRights(fds)))
        {
            return Err(FrontendError::io(
                format!("attach {} descriptors", fds.len()),
                Errno::INVAL,
            ));
        }
        let sent = sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map_err(|e| FrontendError::io("send vhost-user message", e))?;
        (&self.socket)
            .write_all(&bytes[sent..])
            .map_err(|e| FrontendError::io("send vhost-user message", e))
    }

    /// Sends one request without waiting for anything.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn send(
        &self,
        request: Request,
        flags: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let mut bytes = wire::header(
            request as u32,
            flags | wire::FLAG_VERSION,
            payload.len() as u32,
        )
        .to_vec();
        bytes.extend_from_slice(payload);
        self.send_raw(&bytes, fds)
    }

    /// Receives one message, waiting up to ten seconds.
    ///
    /// # Errors
    /// [`FrontendError::Io`] (also when the device closed the connection), [`FrontendError::Reply`] for an oversized payload.
    pub fn receive(&self, for_request: Request) -> Result<Message, FrontendError> {
        let what = || format!("reply to {for_request:?}");
        let mut header = [0u8; wire::HEADER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|e| FrontendError::io(what(), e))?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Err(FrontendError::io(
                what(),
                std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
            ));
        }
        (&self.socket)
            .read_exact(&mut header[got.bytes..])
            .map_err(|e| FrontendError::io(what(), e))?;
        let word = |at: usize| wire::u32_at(&header, at).unwrap_or_default();
        let (request, flags, size) = (word(0), word(4), word(8));
        if size > wire::MAX_PAYLOAD {
            return Err(FrontendError::Reply {
                request: for_request,
                expected: format!("at most {} payload bytes", wire::MAX_PAYLOAD),
                got: format!("{size}"),
            });
        }
        let mut payload = vec![0; size as usize];
        (&self.socket)
            .read_exact(&mut payload)
            .map_err(|e| FrontendError::io(what(), e))?;
        Ok(Message {
            request,
            flags,
            payload,
            fds,
        })
    }

    /// Sends a request that has a reply and returns it, checked to be the reply to it.
    ///
    /// # Errors
    /// [`FrontendError::Io`], [`FrontendError::Reply`].
    pub fn ask(
        &self,
        request: Request,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message, FrontendError> {
        self.send(request, 0, payload, fds)?;
        let reply = self.receive(request)?;
        self.check_reply(request, &reply)?;
        Ok(reply)
    }

    /// Sends a request that has no reply of its own; with REPLY_ACK negotiated, waits for the acknowledgement.
    ///
    /// # Errors
    /// [`FrontendError::Io`], [`FrontendError::Reply`], [`FrontendError::Refused`].
    pub fn tell(
        &self,
        request: Request,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        if self.protocol_features & protocol_feature::REPLY_ACK == 0 {
            return self.send(request, 0, payload, fds);
        }
        self.send(request, wire::FLAG_NEED_REPLY, payload, fds)?;
        let reply = self.receive(request)?;
        self.check_reply(request, &reply)?;
        match self.u64_of(request, &reply)? {
            0 => Ok(()),
            code => Err(FrontendError::Refused { request, code }),
        }
    }

    /// GET_FEATURES.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn features(&self) -> Result<u64, FrontendError> {
        self.ask_u64(Request::GetFeatures)
    }

    /// Owns the device and negotiates `wanted` features (those that are offered) and `wanted_protocol` ones; returns what is in force.
    ///
    /// # Errors
    /// As [`Session::tell`]; [`FrontendError::Features`] if `needed` is not all offered.
    pub fn negotiate(
        &mut self,
        wanted: u64,
        needed: u64,
        wanted_protocol: u64,
    ) -> Result<u64, FrontendError> {
        let offered = self.features()?;
        if needed & !offered != 0 {
            return Err(FrontendError::Features { offered, needed });
        }
        if offered & (wanted | needed) & feature::PROTOCOL_FEATURES != 0 {
            let protocol = self.ask_u64(Request::GetProtocolFeatures)? & wanted_protocol;
            self.send(
                Request::SetProtocolFeatures,
                0,
                &protocol.to_ne_bytes(),
                &[],
            )?;
            self.protocol_features = protocol;
        }
        self.tell(Request::SetOwner, &[], &[])?;
        let features = offered & (wanted | needed);
        self.tell(Request::SetFeatures, &features.to_ne_bytes(), &[])?;
        self.features = features;
        Ok(features)
    }

    /// GET_QUEUE_NUM: the most queues the device has.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn queue_num(&self) -> Result<u64, FrontendError> {
        self.ask_u64(Request::GetQueueNum)
    }

    /// SET_MEM_TABLE with all regions of `memory`.
    ///
    /// # Errors
    /// As [`Session::tell`].
    pub fn set_mem_table(&self, memory: &GuestMemory) -> Result<(), FrontendError> {
        let regions: Vec<MemoryRegion> = memory
            .regions()
            .iter()
            .map(|region| MemoryRegion {
                gpa: region.gpa,
                size: region.size,
                userspace_addr: region.userspace_addr(),
                mmap_offset: 0,
            })
            .collect();
        let fds: Vec<BorrowedFd<'_>> = memory.regions().iter().map(|region| region.fd()).collect();
        self.tell(Request::SetMemTable, &wire::mem_table(&regions), &fds)
    }

    /// Tells the device all about `queue` and starts it: NUM, BASE, ADDR, ERR, CALL, KICK, ENABLE.
    ///
    /// # Errors
    /// As [`Session::tell`]; [`FrontendError::Range`] if the queue is not in `memory`.
    pub fn start_queue(
        &self,
        index: u32,
        queue: &SplitQueue,
        memory: &GuestMemory,
    ) -> Result<(), FrontendError> {
        let layout = queue.layout();
        self.tell(
            Request::SetVringNum,
            &wire::vring_state(index, u32::from(queue.size())),
            &[],
        )?;
        self.tell(
            Request::SetVringBase,
            &wire::vring_state(index, u32::from(queue.base())),
            &[],
        )?;
        let addr = VringAddr {
            index,
            flags: 0,
            desc: memory.userspace_addr(layout.desc, 1)?,
            used: memory.userspace_addr(layout.used, 1)?,
            avail: memory.userspace_addr(layout.avail, 1)?,
            log: 0,
        };
        self.tell(Request::SetVringAddr, &wire::vring_addr(&addr), &[])?;
        self.set_vring_fd(Request::SetVringErr, index, Some(queue.err_fd()))?;
        self.set_vring_fd(Request::SetVringCall, index, Some(queue.call_fd()))?;
        self.set_vring_fd(Request::SetVringKick, index, Some(queue.kick_fd()))?;
        self.set_vring_enable(index, true)
    }

    /// SET_VRING_ENABLE; nothing is sent unless the feature bit for protocol features was acknowledged (without it rings
    /// start enabled).
    ///
    /// # Errors
    /// As [`Session::tell`].
    pub fn set_vring_enable(&self, index: u32, enable: bool) -> Result<(), FrontendError> {
        if self.features & feature::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.tell(
            Request::SetVringEnable,
            &wire::vring_state(index, u32::from(enable)),
            &[],
        )
    }

    /// SET_VRING_KICK, CALL or ERR; `None` means that the device has to poll.
    ///
    /// # Errors
    /// As [`Session::tell`].
    pub fn set_vring_fd(
        &self,
        request: Request,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        match fd {
            Some(fd) => self.tell(request, &u64::from(index).to_ne_bytes(), &[fd]),
            None => self.tell(
                request,
                &(u64::from(index) | wire::VRING_NO_FD).to_ne_bytes(),
                &[],
            ),
        }
    }

    /// GET_VRING_BASE: stops the queue; the next available index the device would have read.
    ///
    /// # Errors
    /// As [`Session::ask`]; [`FrontendError::Reply`] if it answers for another queue.
    pub fn stop_queue(&self, index: u32) -> Result<u32, FrontendError> {
        let request = Request::GetVringBase;
        let reply = self.ask(request, &wire::vring_state(index, 0), &[])?;
        match (
            wire::u32_at(&reply.payload, 0),
            wire::u32_at(&reply.payload, 4),
        ) {
            (Some(got), Some(base)) if got == index => Ok(base),
            _ => Err(FrontendError::Reply {
                request,
                expected: format!("state of queue {index}"),
                got: format!("{:?}", reply.payload),
            }),
        }
    }

    /// GET_CONFIG: `len` bytes of configuration space from `offset`.
    ///
    /// # Errors
    /// As [`Session::ask`]; [`FrontendError::Reply`] if fewer bytes come.
    pub fn config(&self, offset: u32, len: u32) -> Result<Vec<u8>, FrontendError> {
        let request = Request::GetConfig;
        let reply = self.ask(
            request,
            &wire::config(offset, 0, &vec![0; len as usize]),
            &[],
        )?;
        match reply.payload.get(12..12 + len as usize) {
            Some(body) => Ok(body.to_vec()),
            None => Err(FrontendError::Reply {
                request,
                expected: format!("12 + {len} bytes"),
                got: format!("{} bytes", reply.payload.len()),
            }),
        }
    }

    /// GET_INFLIGHT_FD: the shared area in which the device tracks what it has not completed.
    ///
    /// # Errors
    /// As [`Session::ask`]; [`FrontendError::Reply`] unless exactly one descriptor comes with it.
    pub fn inflight(
        &self,
        num_queues: u16,
        queue_size: u16,
    ) -> Result<(Inflight, OwnedFd), FrontendError> {
        let request = Request::GetInflightFd;
        let asked = Inflight {
            mmap_size: 0,
            mmap_offset: 0,
            num_queues,
            queue_size,
        };
        let mut reply = self.ask(request, &wire::inflight(&asked), &[])?;
        let payload = &reply.payload;
        let fields = (
            wire::u64_at(payload, 0),
            wire::u64_at(payload, 8),
            wire::u16_at(payload, 16),
            wire::u16_at(payload, 18),
        );
        match (fields, reply.fds.pop(), reply.fds.len()) {
            (
                (Some(mmap_size), Some(mmap_offset), Some(num_queues), Some(queue_size)),
                Some(fd),
                0,
            ) => Ok((
                Inflight {
                    mmap_size,
                    mmap_offset,
                    num_queues,
                    queue_size,
                },
                fd,
            )),
            (_, fd, rest) => Err(FrontendError::Reply {
                request,
                expected: "20 bytes and one descriptor".into(),
                got: format!(
                    "{} bytes and {} descriptors",
                    payload.len(),
                    rest + usize::from(fd.is_some())
                ),
            }),
        }
    }

    /// SET_INFLIGHT_FD: hands the area (of this or an earlier process of the device) to the device.
    ///
    /// # Errors
    /// As [`Session::tell`].
    pub fn set_inflight(&self, area: &Inflight, fd: BorrowedFd<'_>) -> Result<(), FrontendError> {
        self.tell(Request::SetInflightFd, &wire::inflight(area), &[fd.as_fd()])
    }

    fn ask_u64(&self, request: Request) -> Result<u64, FrontendError> {
        let reply = self.ask(request, &[], &[])?;
        self.u64_of(request, &reply)
    }

    fn u64_of(&self, request: Request, reply: &Message) -> Result<u64, FrontendError> {
        match (wire::u64_at(&reply.payload, 0), reply.payload.len()) {
            (Some(value), 8) => Ok(value),
            (_, len) => Err(FrontendError::Reply {
                request,
                expected: "8 bytes".into(),
                got: format!("{len} bytes"),
            }),
        }
    }

    fn check_reply(&self, request: Request, reply: &Message) -> Result<(), FrontendError> {
        let good_flags =
            reply.flags & 0x3 == wire::FLAG_VERSION && reply.flags & wire::FLAG_REPLY != 0;
        if reply.request == request as u32 && good_flags {
            return Ok(());
        }
        Err(FrontendError::Reply {
            request,
            expected: format!("request {} with reply flag", request as u32),
            got: format!("request {} with flags {:#x}", reply.request, reply.flags),
        })
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

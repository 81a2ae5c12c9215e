//! Bytes and file descriptors to messages and back (vhost-user, "Message Specification").
//!
//! The [`Decoder`] is incremental and does no I/O: it says which bytes it wants next and never wants bytes beyond the
//! current message, so that file descriptors stay with the message they came with. [`receive`] and [`transmit`] move
//! the bytes over a socket. No payload is interpreted here.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use zerocopy::{FromBytes, IntoBytes};

use super::error::VhostUserError;
use super::message::{
    FLAG_REPLY, FLAG_VERSION_MASK, Header, MAX_FDS, MAX_PAYLOAD, MessageId, Request, VERSION,
};

const HEADER: usize = size_of::<Header>();

/// One message of a front end, complete but not yet checked against its rules.
#[derive(Debug)]
pub struct Message {
    /// The header, with a known version, without reply flag, and with the payload's size.
    pub header: Header,
    /// The payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
    /// The descriptors that came with it, at most [`MAX_FDS`]; closed when dropped.
    pub fds: Vec<OwnedFd>,
}

/// The answer to a message.
#[derive(Debug)]
pub struct Reply {
    /// Id of the message answered.
    pub request: u32,
    /// Payload.
    pub payload: Vec<u8>,
    /// Descriptor to send along.
    pub fd: Option<OwnedFd>,
}

impl Reply {
    pub(super) fn new(request: Request, payload: &[u8]) -> Self {
        Self {
            request: request as u32,
            payload: payload.to_vec(),
            fd: None,
        }
    }

    pub(super) fn number(request: u32, value: u64) -> Self {
        Self {
            request,
            payload: value.to_ne_bytes().to_vec(),
            fd: None,
        }
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            request: self.request,
            flags: VERSION | FLAG_REPLY,
            size: self.payload.len() as u32,
        };
        [header.as_bytes(), &self.payload].concat()
    }
}

/// Collects bytes and descriptors into messages.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    filled: usize,
    fds: Vec<OwnedFd>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: vec![0; HEADER],
            filled: 0,
            fds: Vec::new(),
        }
    }
}

impl Decoder {
    /// Where the next bytes go: the rest of the current header or payload, never empty.
    pub fn wanted(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes note of `bytes` bytes that were put at the front of [`wanted`](Self::wanted) and of the descriptors that
    /// came with them. Returns the message when it is complete.
    ///
    /// # Errors
    /// A header that cannot be believed, or misplaced descriptors. The stream is out of step then: end the connection.
    pub fn received(
        &mut self,
        bytes: usize,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Message>, VhostUserError> {
        let at_start = self.filled == 0;
        self.filled = self.buffer.len().min(self.filled + bytes);
        let request = self.request();
        if !fds.is_empty() {
            if !at_start {
                return Err(VhostUserError::MisplacedFds { request });
            }
            if fds.len() > MAX_FDS {
                return Err(VhostUserError::TooManyFds {
                    request,
                    max: MAX_FDS,
                });
            }
            self.fds = fds;
        }
        if self.filled < self.buffer.len() {
            return Ok(None);
        }
        if self.buffer.len() == HEADER {
            let size = self.check_header()?;
            if size > 0 {
                self.buffer.resize(HEADER + size, 0);
                return Ok(None);
            }
        }
        let header = self.header();
        let payload = self.buffer.split_off(HEADER);
        self.filled = 0;
        Ok(Some(Message {
            header,
            payload,
            fds: std::mem::take(&mut self.fds),
        }))
    }

    /// Feeds bytes from a slice, for drivers without a socket. Returns how many were taken and the message they
    /// completed; `fds` come with the first of them.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn feed(
        &mut self,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(usize, Option<Message>), VhostUserError> {
        let mut fds = fds;
        let mut taken = 0;
        while taken < bytes.len() {
            let wanted = self.wanted();
            let count = wanted.len().min(bytes.len() - taken);
            wanted[..count].copy_from_slice(&bytes[taken..taken + count]);
            taken += count;
            if let Some(message) = self.received(count, std::mem::take(&mut fds))? {
                return Ok((taken, Some(message)));
            }
        }
        Ok((taken, None))
    }

    /// To be asked at the end of the stream.
    ///
    /// # Errors
    /// [`VhostUserError::Truncated`] inside a message.
    pub fn finish(&self) -> Result<(), VhostUserError> {
        match self.filled {
            0 => Ok(()),
            received => Err(VhostUserError::Truncated { received }),
        }
    }

    /// The id as far as it is known; zero before.
    fn request(&self) -> MessageId {
        MessageId(if self.filled >= 4 {
            self.header().request
        } else {
            0
        })
    }

    fn header(&self) -> Header {
        // The buffer holds at least a header at any time; what has not arrived yet reads as zero or as the old one.
        Header::read_from_prefix(&self.buffer).map_or(
            Header {
                request: 0,
                flags: 0,
                size: 0,
            },
            |(header, _)| header,
        )
    }

    fn check_header(&self) -> Result<usize, VhostUserError> {
        let header = self.header();
        let request = MessageId(header.request);
        let version = header.flags & FLAG_VERSION_MASK;
        if version != VERSION {
            return Err(VhostUserError::Version { request, version });
        }
        if header.flags & FLAG_REPLY != 0 {
            return Err(VhostUserError::UnexpectedReply { request });
        }
        match usize::try_from(header.size) {
            Ok(size) if size <= MAX_PAYLOAD => Ok(size),
            _ => Err(VhostUserError::TooLong {
                request,
                size: header.size,
                max: MAX_PAYLOAD,
            }),
        }
    }
}

/// What one read from a socket brought.
#[derive(Debug)]
pub enum Received {
    /// A complete message.
    Message(Message),
    /// Some bytes; more are needed.
    Partial,
    /// Nothing there now (non-blocking sockets).
    Nothing,
    /// The front end has closed the connection between two messages.
    Closed,
}

/// Reads once from `socket` into `decoder`.
///
/// # Errors
/// Those of the decoder, lost or too many file descriptors, a connection that ends inside a message, and socket errors.
/// All of them end the connection.
pub fn receive(socket: impl AsFd, decoder: &mut Decoder) -> Result<Received, VhostUserError> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let result = {
        let mut iov = [IoSliceMut::new(decoder.wanted())];
        rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
    };
    let received = match result {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        // The front end died with unread replies in its socket: as good as an orderly end.
        Err(Errno::CONNRESET) => return decoder.finish().map(|()| Received::Closed),
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(VhostUserError::TooManyFds {
            request: decoder.request(),
            max: MAX_FDS,
        });
    }
    if received.bytes == 0 {
        return decoder.finish().map(|()| Received::Closed);
    }
    Ok(decoder
        .received(received.bytes, fds)?
        .map_or(Received::Partial, Received::Message))
}

/// Writes as much of a reply as the socket takes: `sent` bytes have gone before, the new total is returned. The
/// descriptor goes with the first byte.
///
/// # Errors
/// [`VhostUserError::Socket`]; a full socket is not an error, the total just does not grow.
pub fn transmit(
    socket: impl AsFd,
    bytes: &[u8],
    fd: Option<&OwnedFd>,
    sent: usize,
) -> Result<usize, VhostUserError> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed = fd.map(|fd| [fd.as_fd()]);
    if sent == 0
        && let Some(rights) = &borrowed
        && !control.push(SendAncillaryMessage::ScmRights(rights))
    {
        return Err(Errno::NOBUFS.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(socket, &[IoSlice::new(&bytes[sent..])], &mut control, flags) {
        Ok(count) => Ok(sent + count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(sent),
        Err(error) => Err(error.into()),
    }
}

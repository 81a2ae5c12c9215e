//! Sockets of a vhost-user back end: one endpoint, one thread and at most one front end per device, in server mode
//! (the back end listens) or client mode (it connects, and connects again) (vhost-user, "Introduction").
//!
//! The thread sleeps in poll(2) until there is something to do. It handles control messages only; it never touches a
//! ring. A front end that misbehaves costs its own connection and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::codec::{Decoder, Received, Reply, receive, transmit};
use super::error::VhostUserError;
use super::session::{Session, SessionInfo, Verdict};
use crate::device::VirtioDevice;
use crate::eventfd::{Eventfd, EventfdError};

/// Stack of an endpoint's thread in bytes.
const STACK: usize = 256 * 1024;
/// Permissions of a listening socket: owner and group, because whoever connects shares memory with the device.
const MODE: u32 = 0o660;
/// Connections that may wait to be accepted or refused.
const BACKLOG: i32 = 16;
/// How long client mode waits between two attempts.
const RETRY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// How long a front end may leave its reply unread while its socket buffer is full.
const REPLY_PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};
/// Refusals of one connection that are logged as warnings; the rest only counts.
const WARNINGS: u64 = 100;

/// Why an endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Somebody listens there.
    #[error("socket {path}: another process is listening on it")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way; it is left alone.
    #[error("socket {path}: the path exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Longer than a Unix socket address may be.
    #[error("socket {path}: the path is longer than 107 bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("socket {path}: cannot {action}: {source}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No event descriptor for the shutdown.
    #[error(transparent)]
    Eventfd(#[from] EventfdError),
}

/// Counters of one endpoint since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Front ends served.
    pub connections: u64,
    /// Front ends turned away because one was connected.
    pub refused_connections: u64,
    /// Messages received whole.
    pub messages: u64,
    /// Messages refused, and connections ended for an error.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicU64,
    refused_connections: AtomicU64,
    messages: AtomicU64,
    errors: AtomicU64,
    session: Mutex<Option<SessionInfo>>,
}

impl Shared {
    fn publish(&self, info: Option<SessionInfo>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = info;
    }
}

/// A device's endpoint. Dropping it ends the session, resets the device and removes the socket.
#[derive(Debug)]
pub struct Endpoint {
    path: PathBuf,
    shutdown: Eventfd,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens at `path` (server mode). A socket left behind by a dead process is replaced.
    ///
    /// # Errors
    /// [`EndpointError`]; nothing was changed then, except that a dead socket may be gone.
    pub fn listen(
        path: impl Into<PathBuf>,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Self, EndpointError> {
        let path = path.into();
        let source = Source::Listen(Listener::bind(&path)?);
        Self::spawn(path, source, device)
    }

    /// Connects to a front end that listens at `path` (client mode); tries every second until it is there, and again
    /// when it has gone.
    ///
    /// # Errors
    /// [`EndpointError::PathTooLong`], or no resources for the thread. A missing front end is not an error.
    pub fn connect(
        path: impl Into<PathBuf>,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Self, EndpointError> {
        let path = path.into();
        let address = address(&path)?;
        Self::spawn(path, Source::Connect(address), device)
    }

    fn spawn(
        path: PathBuf,
        source: Source,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Self, EndpointError> {
        let shutdown = Eventfd::new()?;
        let shared = Arc::new(Shared::default());
        let mut worker = Worker {
            path: path.clone(),
            source,
            device,
            shutdown: shutdown.clone(),
            shared: Arc::clone(&shared),
        };
        let builder = std::thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(STACK);
        let thread =
            builder
                .spawn(move || worker.run())
                .map_err(|source| EndpointError::System {
                    path: path.clone(),
                    action: "start its thread",
                    source,
                })?;
        Ok(Self {
            path,
            shutdown,
            shared,
            thread: Some(thread),
        })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The counters now.
    pub fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            connections: read(&self.shared.connections),
            refused_connections: read(&self.shared.refused_connections),
            messages: read(&self.shared.messages),
            errors: read(&self.shared.errors),
        }
    }

    /// The session now; `None` without a front end.
    pub fn session(&self) -> Option<SessionInfo> {
        self.shared
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the session and waits until the device is idle and its thread gone.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shutdown.signal();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the thread of a vhost-user endpoint has panicked");
        }
    }
}

/// Where front ends come from.
#[derive(Debug)]
enum Source {
    Listen(Listener),
    Connect(SocketAddrUnix),
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    identity: (u64, u64),
}

impl Listener {
    fn bind(path: &Path) -> Result<Self, EndpointError> {
        let address = address(path)?;
        let failed = |action, source: io::Error| EndpointError::System {
            path: path.to_owned(),
            action,
            source,
        };
        clear_stale(path, &address)?;
        let socket = new_socket().map_err(|error| failed("make it", error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed("bind it", error.into()))?;
        // Nobody can connect before listen(), so the permissions are in force from the first moment.
        std::fs::set_permissions(path, PermissionsExt::from_mode(MODE))
            .map_err(|error| failed("set its permissions", error))?;
        let metadata =
            std::fs::symlink_metadata(path).map_err(|error| failed("inspect it", error))?;
        let listener = Self {
            socket,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        };
        rustix::net::listen(&listener.socket, BACKLOG)
            .map_err(|error| failed("listen on it", error.into()))?;
        Ok(listener)
    }

    fn accept(&self) -> Option<OwnedFd> {
        match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => Some(stream),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => None,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot accept a front end");
                None
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, EndpointError> {
    SocketAddrUnix::new(path).map_err(|error| match error {
        Errno::NAMETOOLONG => EndpointError::PathTooLong {
            path: path.to_owned(),
        },
        other => EndpointError::System {
            path: path.to_owned(),
            action: "use the path",
            source: other.into(),
        },
    })
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), EndpointError> {
    let failed = |action, source: io::Error| EndpointError::System {
        path: path.to_owned(),
        action,
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("inspect it", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(EndpointError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let probe = new_socket().map_err(|error| failed("make it", error.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|error| failed("remove the dead socket", error))
        }
        // A full backlog belongs to a living listener.
        Ok(()) | Err(Errno::AGAIN) => Err(EndpointError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed("probe it", error.into())),
    }
}

/// Why a connection ended.
enum End {
    FrontEndLeft,
    Shutdown,
}

struct Worker {
    path: PathBuf,
    source: Source,
    device: Box<dyn VirtioDevice>,
    shutdown: Eventfd,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&mut self) {
        while let Some(stream) = self.next_front_end() {
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
            let pid =
                sockopt::socket_peercred(&stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get());
            tracing::info!(path = %self.path.display(), pid, "front end connected");
            let end = self.serve(&stream);
            self.shared.publish(None);
            match end {
                Ok(End::Shutdown) => break,
                Ok(End::FrontEndLeft) => {
                    tracing::info!(path = %self.path.display(), pid, "front end disconnected")
                }
                Err(error) => {
                    self.shared.errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(path = %self.path.display(), pid, %error, "connection ended");
                }
            }
        }
    }

    /// Waits for a front end; `None` at shutdown.
    fn next_front_end(&self) -> Option<OwnedFd> {
        loop {
            match &self.source {
                Source::Listen(listener) => {
                    if self.sleep(Some(listener), None) {
                        return None;
                    }
                    if let Some(stream) = listener.accept() {
                        return Some(stream);
                    }
                }
                Source::Connect(address) => {
                    let connected = new_socket().and_then(|socket| {
                        rustix::net::connect(&socket, address)?;
                        Ok(socket)
                    });
                    match connected {
                        // The shutdown may have come during the session before.
                        Ok(socket) => {
                            return (!self.sleep(None, Some(&Timespec::default())))
                                .then_some(socket);
                        }
                        Err(error) => {
                            tracing::debug!(path = %self.path.display(), %error, "no front end yet")
                        }
                    }
                    if self.sleep(None, Some(&RETRY)) {
                        return None;
                    }
                }
            }
        }
    }

    /// Sleeps until somebody connects, the time is over or the shutdown comes; tells whether it was the shutdown.
    fn sleep(&self, listener: Option<&Listener>, timeout: Option<&Timespec>) -> bool {
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(&self.shutdown, PollFlags::IN));
        fds.extend(listener.map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
        // An interrupted poll leaves the events empty, and the caller asks again.
        let _interrupted = poll(&mut fds, timeout);
        !fds[0].revents().is_empty()
    }

    fn serve(&mut self, stream: &OwnedFd) -> Result<End, VhostUserError> {
        let Self {
            path,
            source,
            device,
            shutdown,
            shared,
        } = self;
        let listener = match source {
            Source::Listen(listener) => Some(&*listener),
            Source::Connect(_) => None,
        };
        let mut session = Session::new(&mut **device);
        shared.publish(Some(session.info()));
        let mut decoder = Decoder::default();
        let mut refusals = 0u64;
        loop {
            let mut fds = vec![
                PollFd::new(shutdown, PollFlags::IN),
                PollFd::new(stream, PollFlags::IN),
            ];
            fds.extend(listener.map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(End::Shutdown);
            }
            if fds[1].revents().is_empty() {
                // The connected front end is quiet, so it has not left: whoever knocks is a second one.
                if let Some(_turned_away) = listener.and_then(Listener::accept) {
                    shared.refused_connections.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(path = %path.display(), "a second front end was turned away");
                }
                continue;
            }
            let message = match receive(stream, &mut decoder)? {
                Received::Message(message) => message,
                Received::Partial | Received::Nothing => continue,
                Received::Closed => return Ok(End::FrontEndLeft),
            };
            shared.messages.fetch_add(1, Ordering::Relaxed);
            let verdict = session.handle(message);
            shared.publish(Some(session.info()));
            let reply = match verdict {
                Verdict::Done(reply) => reply,
                Verdict::Refused(reply, error) => {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                    refusals += 1;
                    if refusals <= WARNINGS {
                        tracing::warn!(path = %path.display(), %error, "message refused");
                    }
                    reply
                }
                Verdict::Close(error) => return Err(error),
            };
            if let Some(reply) = reply
                && answer(stream, shutdown, &reply)?
            {
                return Ok(End::Shutdown);
            }
        }
    }
}

/// Sends a reply; tells whether the shutdown came instead.
fn answer(stream: &OwnedFd, shutdown: &Eventfd, reply: &Reply) -> Result<bool, VhostUserError> {
    let bytes = reply.to_bytes();
    let mut sent = transmit(stream, &bytes, reply.fd.as_ref(), 0)?;
    while sent < bytes.len() {
        let mut fds = [
            PollFd::new(shutdown, PollFlags::IN),
            PollFd::new(stream, PollFlags::OUT),
        ];
        match poll(&mut fds, Some(&REPLY_PATIENCE)) {
            Ok(0) => return Err(VhostUserError::ReplyTimeout),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        sent = transmit(stream, &bytes, reply.fd.as_ref(), sent)?;
    }
    Ok(false)
}

//! Kick, call and error event file descriptors of a virtqueue, as handed over by a vhost-user front end
//! (vhost-user, "Support for platforms other than Linux": an 8-byte counter whose value has no meaning).
//!
//! Only Linux eventfds are accepted and they are switched to non-blocking mode, because an lcore signals
//! them on its packet path. This module never polls and never blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Why a file descriptor cannot serve as an event channel.
#[derive(Debug, thiserror::Error)]
pub enum EventfdError {
    /// The descriptor is a file, pipe, socket or anything else that is not an eventfd.
    #[error("the file descriptor is {found}, expected an eventfd")]
    NotAnEventfd {
        /// What the kernel calls the object behind the descriptor.
        found: String,
    },
    /// The kernel refused to inspect or configure the descriptor.
    #[error("cannot inspect or configure the event file descriptor: {0}")]
    System(#[from] Errno),
}

/// A shared, non-blocking eventfd. Cloning shares the descriptor; it is closed with the last clone.
#[derive(Clone, Debug)]
pub struct Eventfd(Arc<OwnedFd>);

impl Eventfd {
    /// Makes a new eventfd with counter zero.
    ///
    /// # Errors
    /// [`EventfdError::System`] when the process is out of file descriptors or memory.
    pub fn new() -> Result<Self, EventfdError> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Takes over a descriptor received from a front end.
    ///
    /// # Errors
    /// [`EventfdError::NotAnEventfd`] for every other kind of object; the descriptor is closed.
    pub fn from_front_end(fd: OwnedFd) -> Result<Self, EventfdError> {
        use std::os::fd::AsRawFd;
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
        if link.as_bytes() != b"anon_inode:[eventfd]" {
            return Err(EventfdError::NotAnEventfd {
                found: link.to_string_lossy().into_owned(),
            });
        }
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self(Arc::new(fd)))
    }

    /// Adds one to the counter, which wakes whoever waits on it.
    ///
    /// A counter at its maximum is as good as a signal, so this has no failure to report.
    pub fn signal(&self) {
        // EAGAIN means the counter is full: the other side has a signal pending already.
        let _full_is_fine = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Resets the counter and tells whether it was signalled since the last call.
    pub fn consume(&self) -> bool {
        rustix::io::read(&*self.0, &mut [0u8; 8]).is_ok()
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_consumed_once() {
        let event = Eventfd::new().unwrap();
        assert!(!event.consume());
        event.signal();
        event.signal();
        assert!(event.consume());
        assert!(!event.consume());
    }

    #[test]
    fn a_blocking_eventfd_becomes_non_blocking() {
        use rustix::event::{EventfdFlags, eventfd};
        let event = Eventfd::from_front_end(eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap();
        assert!(!event.consume());
    }

    #[test]
    fn a_full_counter_does_not_block() {
        let event = Eventfd::new().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal();
        assert!(event.consume());
    }

    #[test]
    fn a_pipe_is_refused() {
        let (read_end, _write_end) = rustix::pipe::pipe().unwrap();
        assert!(matches!(
            Eventfd::from_front_end(read_end),
            Err(EventfdError::NotAnEventfd { found }) if found.starts_with("pipe:")
        ));
    }
}

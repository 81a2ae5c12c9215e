//! The way back: requests of the back end to the front end (vhost-user, "Back-end communication").
//!
//! A handle of this module can be used from any control thread at any time, also after the session has ended.
//! It never blocks and never runs on an lcore.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::SendFlags;
use zerocopy::IntoBytes;

use super::message::{BackendRequest, Header, VERSION};

/// Why the front end was not told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// The session has ended.
    #[error("the front end has disconnected")]
    Disconnected,
    /// The front end gave no channel (BACKEND_REQ), or does not know configuration changes (CONFIG).
    #[error("the front end has not negotiated requests of the back end")]
    NotNegotiated,
    /// The front end does not read its channel.
    #[error("the front end does not read the back-end channel")]
    Busy,
    /// The channel failed.
    #[error("the back-end channel failed: {0}")]
    Socket(Errno),
}

#[derive(Debug, Default)]
enum Channel {
    /// Connected, nothing negotiated yet.
    #[default]
    Absent,
    Open {
        socket: OwnedFd,
        /// CONFIG was negotiated: the front end knows the notification.
        config: bool,
    },
    Closed,
}

/// A handle to the connected front end. Clones share one channel.
#[derive(Clone, Debug, Default)]
pub struct FrontEnd(Arc<Mutex<Channel>>);

impl FrontEnd {
    fn channel(&self) -> MutexGuard<'_, Channel> {
        // The state is one enum written in one step; a panic elsewhere cannot have left it half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, socket: OwnedFd, config: bool) {
        let mut channel = self.channel();
        if !matches!(*channel, Channel::Closed) {
            *channel = Channel::Open { socket, config };
        }
    }

    pub(super) fn close(&self) {
        *self.channel() = Channel::Closed;
    }

    /// Tells the front end to read the configuration space again; QEMU passes that on to the guest as a
    /// configuration interrupt. The new contents must be readable before the call.
    ///
    /// # Errors
    /// [`NotifyError`]; with `NotNegotiated` and `Disconnected` nothing is lost, because the front end reads the
    /// configuration when it connects.
    pub fn config_changed(&self) -> Result<(), NotifyError> {
        let channel = self.channel();
        let socket = match &*channel {
            Channel::Open {
                socket,
                config: true,
            } => socket,
            Channel::Open { config: false, .. } | Channel::Absent => {
                return Err(NotifyError::NotNegotiated);
            }
            Channel::Closed => return Err(NotifyError::Disconnected),
        };
        let header = Header {
            request: BackendRequest::ConfigChange as u32,
            flags: VERSION,
            size: 0,
        };
        match rustix::net::send(
            socket,
            header.as_bytes(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(sent) if sent == size_of::<Header>() => Ok(()),
            // A stream socket takes 12 bytes whole or not at all, unless its buffer is nearly full.
            Ok(_) | Err(Errno::AGAIN) => Err(NotifyError::Busy),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(NotifyError::Disconnected),
            Err(error) => Err(NotifyError::Socket(error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_change_is_twelve_bytes_on_the_channel() {
        let front_end = FrontEnd::default();
        assert_eq!(front_end.config_changed(), Err(NotifyError::NotNegotiated));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        front_end.open(ours.into(), true);
        front_end.clone().config_changed().unwrap();
        let mut bytes = [0; 12];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        front_end.close();
        assert_eq!(front_end.config_changed(), Err(NotifyError::Disconnected));
        assert_eq!(
            theirs.read(&mut bytes).unwrap(),
            0,
            "the channel is closed with the session"
        );
    }

    #[test]
    fn a_front_end_that_does_not_read_blocks_nobody() {
        let front_end = FrontEnd::default();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        front_end.open(ours.into(), true);
        let outcome = (0..1_000_000)
            .map(|_| front_end.config_changed())
            .find(Result::is_err);
        assert_eq!(outcome, Some(Err(NotifyError::Busy)));
    }
}

//! Watching frames: an lcore hands copies of what it sees to a writer thread, and never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sumeru_engine::spsc::Producer;
use sumeru_virtio::GuestSlice;

use crate::egress;
use crate::frame::{Frame, PortIndex};
use crate::stats::DropReason;

/// Which way a watched frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In,
    /// It went out.
    Out,
}

/// A copy of a watched frame.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub time: SystemTime,
    /// By which port.
    pub port: PortIndex,
    /// Which way.
    pub direction: Direction,
    /// Why it was dropped, if it was.
    pub dropped: Option<DropReason>,
    /// Its whole length in bytes.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Box<[u8]>,
}

/// Where an lcore puts what it sees.
pub struct Tap {
    /// To the writer.
    pub to: Producer<Seen>,
    /// Only this port; all without one.
    pub port: Option<PortIndex>,
    /// Bytes kept of a frame.
    pub snaplen: u32,
    /// Frames that the writer could not follow.
    pub lost: Arc<AtomicU64>,
}

impl Tap {
    /// Whether this port is watched.
    pub fn watches(&self, port: PortIndex) -> bool {
        self.port.is_none_or(|only| only == port)
    }

    /// A copy of a frame as it is now.
    #[allow(unsafe_code)]
    fn copy(
        &self,
        port: PortIndex,
        direction: Direction,
        frame: &Frame,
        list: &[GuestSlice],
    ) -> Seen {
        let mut bytes = vec![0; frame.len.min(self.snaplen) as usize];
        // SAFETY: called with the burst in hand, whose memory is mapped.
        let len = unsafe { egress::linear(frame, list, &mut bytes) };
        bytes.truncate(len);
        Seen {
            time: SystemTime::now(),
            port,
            direction,
            dropped: None,
            len: frame.len,
            bytes: bytes.into(),
        }
    }

    /// A frame that came in, before anything is done to it. To be given to [`Self::put`] when its fate is known.
    pub fn received(&self, frame: &Frame, list: &[GuestSlice]) -> Option<Seen> {
        self.watches(frame.in_port)
            .then(|| self.copy(frame.in_port, Direction::In, frame, list))
    }

    /// A frame that goes out.
    pub fn sent(&mut self, port: PortIndex, frame: &Frame, list: &[GuestSlice]) {
        if self.watches(port) {
            let seen = self.copy(port, Direction::Out, frame, list);
            self.put(seen);
        }
    }

    /// Hands a copy to the writer.
    pub fn put(&mut self, seen: Seen) {
        if self.to.push(seen).is_err() {
            // Written by this lcore alone.
            self.lost
                .store(self.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

//! Capturing frames: an lcore hands copies of what it sees to a writer thread, and never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use sumeru_engine::spsc::Producer;
use sumeru_virtio::GuestSlice;

use crate::egress;
use crate::frame::{Frame, PortIndex};
use crate::selection::{Direction, Selector};
use crate::stats::DropReason;

/// A copy of a captured frame.
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
    /// Which frames.
    pub selector: Selector,
    /// Bytes kept of a frame.
    pub snaplen: u32,
    /// Frames that the writer could not follow.
    pub lost: Arc<AtomicU64>,
    /// Set once the writer wants no more.
    pub ended: Arc<AtomicBool>,
}

impl Tap {
    /// A copy of a frame as it is now, if it is wanted.
    #[allow(unsafe_code)]
    pub fn copy(
        &mut self,
        (port, direction): (PortIndex, Direction),
        frame: &Frame,
        list: &[GuestSlice],
        vxlan_port: u16,
    ) -> Option<Seen> {
        if self.ended.load(Ordering::Relaxed)
            || !self.selector.takes(port, direction, frame, vxlan_port)
        {
            return None;
        }
        let mut bytes = vec![0; frame.len.min(self.snaplen) as usize];
        // SAFETY: called with the burst in hand, whose memory is mapped.
        let len = unsafe { egress::linear(frame, list, &mut bytes) };
        bytes.truncate(len);
        Some(Seen {
            time: SystemTime::now(),
            port,
            direction,
            dropped: None,
            len: frame.len,
            bytes: bytes.into(),
        })
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

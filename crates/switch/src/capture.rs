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

/// Most bytes of copies that wait for a capture's writer.
pub const WAITING_MAX: u64 = 32 << 20;

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
    /// Bytes of the copies that wait for the writer, who takes off what it took.
    pub waiting: Arc<AtomicU64>,
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
        let len = seen.bytes.len() as u64;
        let room = self.waiting.fetch_add(len, Ordering::Relaxed) + len <= WAITING_MAX;
        if !room || self.to.push(seen).is_err() {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            // Written by this lcore alone.
            self.lost
                .store(self.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use sumeru_engine::spsc;

    use super::*;
    use crate::selection::Selection;

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (to, mut from) = spsc::channel(8192);
        let mut tap = Tap {
            to,
            selector: Selector::new(Selection::default()),
            snaplen: u32::MAX,
            waiting: Arc::default(),
            lost: Arc::default(),
            ended: Arc::default(),
        };
        let frame = Seen {
            time: SystemTime::now(),
            port: 1,
            direction: Direction::In,
            dropped: None,
            len: 1 << 16,
            bytes: vec![0; 1 << 16].into(),
        };
        for _ in 0..513 {
            tap.put(frame.clone());
        }
        let waiting = std::iter::from_fn(|| from.pop()).count();
        assert_eq!((waiting, tap.lost.load(Ordering::Relaxed)), (512, 1));
    }
}

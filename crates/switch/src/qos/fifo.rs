//! Queues of frame handles in one pool: many queues, no allocation, first in first out each.

/// A frame that waits. What the handle means is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Frame {
    /// The caller's name for it, such as the slot of its buffer.
    pub handle: u32,
    /// Its length in bytes, without preamble and check sequence.
    pub len: u32,
    /// It can be marked instead of dropped (ECN ECT(0) or ECT(1), RFC 3168).
    pub ecn: bool,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    frame: Frame,
    since: u64,
    next: u32,
}

/// The entries that all queues share.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Entry>,
    free: u32,
}

impl Pool {
    /// Room for `frames` frames.
    pub fn new(frames: u32) -> Pool {
        let entry = |i: u32| Entry {
            frame: Frame::default(),
            since: 0,
            next: if i + 1 < frames { i + 1 } else { NONE },
        };
        Pool {
            entries: (0..frames).map(entry).collect(),
            free: if frames > 0 { 0 } else { NONE },
        }
    }
}

/// One queue. It must be used with one pool only.
#[derive(Debug)]
pub struct Fifo {
    head: u32,
    tail: u32,
    frames: u32,
    bytes: u64,
}

impl Default for Fifo {
    fn default() -> Fifo {
        Fifo {
            head: NONE,
            tail: NONE,
            frames: 0,
            bytes: 0,
        }
    }
}

impl Fifo {
    /// Appends a frame that came at `now`. False if the pool has no room.
    #[inline]
    pub fn push(&mut self, pool: &mut Pool, frame: Frame, now: u64) -> bool {
        let index = pool.free;
        let Some(entry) = pool.entries.get_mut(index as usize) else {
            return false;
        };
        pool.free = entry.next;
        *entry = Entry {
            frame,
            since: now,
            next: NONE,
        };
        match pool.entries.get_mut(self.tail as usize) {
            Some(tail) => tail.next = index,
            None => self.head = index,
        }
        self.tail = index;
        self.frames += 1;
        self.bytes += u64::from(frame.len);
        true
    }

    /// Length in bytes of the frame that is next, if there is one.
    #[inline]
    pub fn next_len(&self, pool: &Pool) -> Option<u32> {
        pool.entries.get(self.head as usize).map(|e| e.frame.len)
    }

    /// Takes the oldest frame out, with the time it came.
    #[inline]
    pub fn pop(&mut self, pool: &mut Pool) -> Option<(Frame, u64)> {
        let index = self.head;
        let entry = pool.entries.get_mut(index as usize)?;
        let (frame, since) = (entry.frame, entry.since);
        self.head = entry.next;
        if self.head == NONE {
            self.tail = NONE;
        }
        entry.next = pool.free;
        pool.free = index;
        self.frames -= 1;
        self.bytes -= u64::from(frame.len);
        Some((frame, since))
    }

    /// Frames that wait.
    #[inline]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Their bytes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Several queues in one pool behave like queues of their own, until the pool is full.
        #[test]
        fn queues_in_one_pool(capacity in 0u32..20, steps in prop::collection::vec((0usize..3, any::<bool>(), 0u32..5_000), 0..200)) {
            let mut pool = Pool::new(capacity);
            let mut queues: [Fifo; 3] = Default::default();
            let mut naive: [VecDeque<(Frame, u64)>; 3] = Default::default();
            for (now, (queue, push, len)) in (0u64..).zip(steps) {
                if push {
                    let frame = Frame { handle: now as u32, len, ecn: len % 2 == 0 };
                    let room = naive.iter().map(VecDeque::len).sum::<usize>() < capacity as usize;
                    prop_assert_eq!(queues[queue].push(&mut pool, frame, now), room);
                    if room {
                        naive[queue].push_back((frame, now));
                    }
                } else {
                    prop_assert_eq!(queues[queue].next_len(&pool), naive[queue].front().map(|f| f.0.len));
                    prop_assert_eq!(queues[queue].pop(&mut pool), naive[queue].pop_front());
                }
                prop_assert_eq!(queues[queue].frames() as usize, naive[queue].len());
                let bytes: u64 = naive[queue].iter().map(|f| u64::from(f.0.len)).sum();
                prop_assert_eq!(queues[queue].bytes(), bytes);
            }
        }
    }
}

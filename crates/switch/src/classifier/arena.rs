//! Memory for records that many threads read while one writes: words that never move, in chunks that are added and never taken away.
//!
//! All words are atomics, so a reader that comes too early or too late reads a wrong number, never a wrong place; who may read
//! which record when is decided by versions and grace periods (`super::writer`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sumeru_virtio::slice::prefetch_read;
use zerocopy::FromZeros;

/// Records of the first chunk, as a power of two; each further chunk doubles the whole.
const FIRST: u32 = 4;
/// Enough chunks for every 32-bit index.
pub const CHUNKS: usize = 28;

/// Records of a fixed number of words, by index.
#[derive(Debug)]
pub struct Arena {
    width: usize,
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
}

/// Chunk and place of a record.
#[inline(always)]
pub const fn locate(index: u32) -> (usize, usize) {
    let shifted = index as u64 + (1 << FIRST);
    let top = shifted.ilog2();
    ((top - FIRST) as usize, (shifted - (1 << top)) as usize)
}

/// Records of a chunk.
pub const fn chunk_len(chunk: usize) -> usize {
    1 << (chunk as u32 + FIRST)
}

/// Zeroed words; the kernel gives their pages when they are first written.
pub fn zeroed<T: FromZeros>(words: usize) -> Option<Box<[T]>> {
    let words = <[T]>::new_box_zeroed_with_elems(words).ok()?;
    sumeru_engine::huge::advise_slice(&words);
    Some(words)
}

impl Arena {
    /// Room for records of `width` words.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    /// The record, if its chunk was ever reserved.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&[AtomicU64]> {
        let (chunk, place) = locate(index);
        let words = self.chunks.get(chunk)?.get()?;
        words.get(place * self.width..(place + 1) * self.width)
    }

    /// Makes sure that the record can be reached; false when there is no memory for it.
    pub fn reserve(&self, index: u32) -> bool {
        let (chunk, _) = locate(index);
        let Some(cell) = self.chunks.get(chunk) else {
            return false;
        };
        if cell.get().is_some() {
            return true;
        }
        match zeroed(self.width * chunk_len(chunk)) {
            Some(words) => cell.set(words).is_ok(),
            None => false,
        }
    }

    /// Asks for a record.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        if let Some([first, .., last]) = self.get(index) {
            prefetch_read(std::ptr::from_ref(first).cast());
            prefetch_read(std::ptr::from_ref(last).cast());
        }
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        chunks.map(|words| size_of_val(&**words)).sum()
    }
}

/// Packets and bytes that rules counted on one lcore, by counter. Written by that lcore, read by anyone.
#[derive(Debug)]
pub struct CounterArena(Arena);

impl Default for CounterArena {
    fn default() -> Self {
        Self(Arena::new(2))
    }
}

impl CounterArena {
    /// Makes sure that the counter exists and is zero. For control, before the counter is given to a rule.
    pub fn reset(&self, counter: u32) -> bool {
        let there = self.0.reserve(counter);
        if let Some(words) = self.0.get(counter) {
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        there
    }

    /// Counts one frame. For the lcore that the arena belongs to.
    #[inline(always)]
    pub fn count(&self, counter: u32, bytes: u32) {
        self.add(counter, 1, bytes.into());
    }

    /// Counts several frames of so many bytes together. For the lcore that the arena belongs to.
    #[inline(always)]
    pub fn add(&self, counter: u32, frames: u64, bytes: u64) {
        if let Some([packets, total]) = self.0.get(counter) {
            packets.store(packets.load(Ordering::Relaxed) + frames, Ordering::Relaxed);
            total.store(total.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        }
    }

    /// Packets and bytes so far.
    pub fn read(&self, counter: u32) -> (u64, u64) {
        match self.0.get(counter) {
            Some([packets, bytes]) => (
                packets.load(Ordering::Relaxed),
                bytes.load(Ordering::Relaxed),
            ),
            _ => (0, 0),
        }
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let (mut chunk, mut place) = locate(0);
        assert_eq!((chunk, place), (0, 0));
        for index in 1..100_000 {
            let next = locate(index);
            assert!(
                next == (chunk, place + 1) || next == (chunk + 1, 0),
                "{index}"
            );
            (chunk, place) = next;
            assert!(place < 1 << (chunk as u32 + FIRST));
        }
        assert_eq!(locate(u32::MAX).0, CHUNKS);
        assert_eq!(locate(u32::MAX - 16).0, CHUNKS - 1);
    }

    #[test]
    fn records_are_reached_once_reserved() {
        let arena = Arena::new(3);
        assert!(arena.get(0).is_none());
        assert!(arena.reserve(40) && arena.get(40).is_some_and(|record| record.len() == 3));
        assert!(arena.get(0).is_none(), "another chunk");
        assert!(!arena.reserve(u32::MAX));
        assert_eq!(arena.bytes(), 3 * 8 * 32);
        let counters = CounterArena::default();
        assert!(counters.reset(7));
        counters.count(7, 60);
        counters.count(8_000_000, 60);
        assert_eq!(
            (counters.read(7), counters.read(8_000_000)),
            ((1, 60), (0, 0))
        );
        assert!(counters.reset(7));
        assert_eq!(counters.read(7), (0, 0));
    }
}

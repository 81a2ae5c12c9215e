//! Bounded single-producer single-consumer rings between two lcores.
//!
//! A full ring refuses (the producer counts a drop); nothing ever waits. Each side keeps a private copy of the other side's
//! index, so that the shared lines move only when a side runs out.
#![allow(unsafe_code)]

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keeps the two indices on lines of their own.
#[repr(align(128))]
struct Line<T>(T);

struct Ring<T> {
    /// Free-running count of elements written; written by the producer.
    tail: Line<AtomicUsize>,
    /// Free-running count of elements read; written by the consumer.
    head: Line<AtomicUsize>,
    cells: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a cell is touched by one side at a time: the producer owns cells [tail, head + capacity), the consumer [head, tail), and
// each hands over by a release store that the other reads with acquire. T moves between threads, hence T: Send.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; the ring owns its elements.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn mask(&self) -> usize {
        self.cells.len() - 1
    }

    fn with_cell<R>(&self, index: usize, f: impl FnOnce(*mut MaybeUninit<T>) -> R) -> R {
        let cell = &self.cells[index & self.mask()];
        #[cfg(loom)]
        return cell.with_mut(f);
        #[cfg(not(loom))]
        f(cell.get())
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let (mut head, tail) = (
            self.head.0.load(Ordering::Relaxed),
            self.tail.0.load(Ordering::Relaxed),
        );
        while head != tail {
            // SAFETY: both sides are gone, and [head, tail) holds initialised elements.
            self.with_cell(head, |cell| unsafe { (*cell).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The writing end.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head: usize,
}

/// The reading end.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head: usize,
}

/// A ring of `capacity` elements, rounded up to a power of two (at least 2).
pub fn channel<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let cells = (0..capacity.max(2).next_power_of_two())
        .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
        .collect();
    let ring = Arc::new(Ring {
        tail: Line(AtomicUsize::new(0)),
        head: Line(AtomicUsize::new(0)),
        cells,
    });
    (
        Producer {
            ring: ring.clone(),
            tail: 0,
            head: 0,
        },
        Consumer {
            ring,
            tail: 0,
            head: 0,
        },
    )
}

impl<T: Send> Producer<T> {
    /// Appends `value`, or gives it back when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head) == self.ring.cells.len() {
            self.head = self.ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) == self.ring.cells.len() {
                return Err(value);
            }
        }
        // SAFETY: the cell at `tail` is free (checked above against the consumer's index) and only we write cells.
        self.ring
            .with_cell(self.tail, |cell| unsafe { (*cell).write(value) as *mut T });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Whether the reading end is gone.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.ring) == 1
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest element.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: `head` is below the producer's released `tail`: the cell is initialised and ours.
        let value = self
            .ring
            .with_cell(self.head, |cell| unsafe { (*cell).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether there is nothing to take now.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail {
            self.tail = self.ring.tail.0.load(Ordering::Acquire);
        }
        self.head == self.tail
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn order_and_bounds() {
        let (mut tx, mut rx) = channel(4);
        for round in 0..10 {
            for i in 0..4 {
                tx.push(round * 4 + i).unwrap();
            }
            assert_eq!(tx.push(99), Err(99));
            for i in 0..4 {
                assert_eq!(rx.pop(), Some(round * 4 + i));
            }
            assert_eq!(rx.pop(), None);
        }
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        let element = Arc::new(());
        let (mut tx, mut rx) = channel(8);
        for _ in 0..5 {
            tx.push(element.clone()).unwrap();
        }
        rx.pop();
        assert_eq!(Arc::strong_count(&element), 5);
        drop((tx, rx));
        assert_eq!(Arc::strong_count(&element), 1);
    }

    #[test]
    fn two_threads_keep_order() {
        let (mut tx, mut rx) = channel(64);
        let producer = std::thread::spawn(move || {
            for i in 0..100_000_u32 {
                let mut value = i;
                while let Err(back) = tx.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for i in 0..100_000_u32 {
            loop {
                if let Some(value) = rx.pop() {
                    assert_eq!(value, i);
                    break;
                }
                std::thread::yield_now();
            }
        }
        producer.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn every_interleaving_delivers_in_order() {
        loom::model(|| {
            let (mut tx, mut rx) = channel(2);
            let producer = loom::thread::spawn(move || {
                (0..3).filter(|i| tx.push(Box::new(*i)).is_ok()).count()
            });
            let mut last = -1;
            let mut got = 0;
            for _ in 0..3 {
                if let Some(value) = rx.pop() {
                    assert!(*value > last);
                    last = *value;
                    got += 1;
                }
            }
            let sent = producer.join().unwrap();
            while rx.pop().is_some() {
                got += 1;
            }
            assert_eq!(sent, got);
        });
    }
}

//! Operations of one queue that did not end at once, and the wakers that say when they have.
//!
//! As many slots as the queue has entries, each with a waker made beforehand: no operation allocates. A wake on the queue's own
//! lcore sets a bit with plain loads and stores; a wake from elsewhere sets one atomically and ends the lcore's sleep.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};

use sumeru_engine::Alarm;

use crate::bdev::{IoFuture, IoResult};

thread_local! {
    static HERE: u8 = const { 0 };
}

/// A number that no other living thread has.
fn this_thread() -> usize {
    HERE.try_with(|here| std::ptr::from_ref(here) as usize)
        .unwrap_or(0)
}

/// Which slots are to be polled.
struct Ready {
    home: usize,
    alarm: Arc<Alarm>,
    any_local: AtomicBool,
    local: Box<[AtomicU64]>,
    any_remote: AtomicBool,
    remote: Box<[AtomicU64]>,
}

impl Ready {
    fn is_empty(&self) -> bool {
        !self.any_local.load(Ordering::Relaxed) && !self.any_remote.load(Ordering::Acquire)
    }
}

struct SlotWaker {
    ready: Arc<Ready>,
    slot: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (ready, word, bit) = (&self.ready, self.slot / 64, 1_u64 << (self.slot % 64));
        if this_thread() == ready.home {
            let word = &ready.local[word];
            word.store(word.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
            ready.any_local.store(true, Ordering::Relaxed);
        } else {
            ready.remote[word].fetch_or(bit, Ordering::Release);
            ready.any_remote.store(true, Ordering::Release);
            ready.alarm.ring();
        }
    }
}

struct Slot<T> {
    waker: Waker,
    operation: Option<(T, IoFuture)>,
}

/// The operations under way of one queue, each with a `T` that says whose it is.
pub struct Pending<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
}

impl<T> Pending<T> {
    /// Room for `capacity` operations of the lcore that calls this and that `alarm` wakes.
    pub fn new(capacity: usize, alarm: Arc<Alarm>) -> Self {
        let words = capacity.div_ceil(64);
        let zeroes = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let ready = Arc::new(Ready {
            home: this_thread(),
            alarm,
            any_local: AtomicBool::new(false),
            local: zeroes(),
            any_remote: AtomicBool::new(false),
            remote: zeroes(),
        });
        let slot = |slot| Slot {
            waker: Waker::from(Arc::new(SlotWaker {
                ready: ready.clone(),
                slot,
            })),
            operation: None,
        };
        Self {
            slots: (0..capacity).map(slot).collect(),
            free: (0..capacity).rev().collect(),
            ready,
        }
    }

    /// Operations under way.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Room left.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Whether an operation was woken and is still to be polled.
    pub fn is_woken(&self) -> bool {
        // After the alarm is armed: pairs with the fence in `Alarm::ring`.
        fence(Ordering::SeqCst);
        !self.ready.is_empty()
    }

    /// Polls a new operation; keeps it if it is not over. There must be room.
    #[inline]
    pub fn start(&mut self, owner: T, mut future: IoFuture) -> Option<(T, IoResult)> {
        let Some(slot) = self.free.pop() else {
            return Some((owner, Err(crate::bdev::IoError::Os(libc::ENOBUFS))));
        };
        let entry = &mut self.slots[slot];
        match Pin::new(&mut future).poll(&mut Context::from_waker(&entry.waker)) {
            Poll::Ready(result) => {
                self.free.push(slot);
                Some((owner, result))
            }
            Poll::Pending => {
                entry.operation = Some((owner, future));
                None
            }
        }
    }

    /// Polls what was woken; `done` gets every operation that is over.
    #[inline]
    pub fn reap(&mut self, mut done: impl FnMut(T, IoResult)) {
        if self.ready.is_empty() {
            return;
        }
        self.ready.any_local.store(false, Ordering::Relaxed);
        let remote = self.ready.any_remote.load(Ordering::Relaxed)
            && self.ready.any_remote.swap(false, Ordering::AcqRel);
        for word in 0..self.ready.local.len() {
            let mut bits = self.ready.local[word].load(Ordering::Relaxed);
            self.ready.local[word].store(0, Ordering::Relaxed);
            if remote {
                bits |= self.ready.remote[word].swap(0, Ordering::AcqRel);
            }
            while bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let entry = &mut self.slots[slot];
                // A late wake may hit a slot that is free or has a new operation: one poll too many.
                let Some((_, future)) = &mut entry.operation else {
                    continue;
                };
                let polled = Pin::new(future).poll(&mut Context::from_waker(&entry.waker));
                if let Poll::Ready(result) = polled
                    && let Some((owner, _)) = entry.operation.take()
                {
                    self.free.push(slot);
                    done(owner, result);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use sumeru_engine::Executor;

    type Shared = Rc<RefCell<(Option<IoResult>, Option<Waker>)>>;

    struct Manual(Shared);
    impl Future for Manual {
        type Output = IoResult;
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult> {
            let mut shared = self.0.borrow_mut();
            shared.1 = Some(cx.waker().clone());
            shared.0.map_or(Poll::Pending, Poll::Ready)
        }
    }

    fn manual() -> (Shared, IoFuture) {
        let shared = Shared::default();
        (shared.clone(), IoFuture::Boxed(Box::pin(Manual(shared))))
    }

    fn wake(shared: &Shared) -> Waker {
        shared.borrow().1.clone().unwrap()
    }

    #[test]
    fn only_woken_operations_are_polled_from_here_and_elsewhere() {
        let executor = Executor::new().unwrap();
        let mut pending = Pending::new(130, executor.alarm().clone());
        let mut all = Vec::new();
        for i in 0..130 {
            let (shared, future) = manual();
            assert!(pending.start(i, future).is_none());
            all.push(shared);
        }
        assert_eq!((pending.len(), pending.room()), (130, 0));
        assert!(!pending.is_woken());
        for shared in &all {
            shared.borrow_mut().0 = Some(Ok(()));
        }
        let mut done = Vec::new();
        pending.reap(|i, _| done.push(i));
        assert!(done.is_empty(), "ready, but nobody said so");
        wake(&all[3]).wake();
        wake(&all[129]).wake();
        let remote = wake(&all[64]);
        std::thread::spawn(move || remote.wake()).join().unwrap();
        assert!(pending.is_woken());
        pending.reap(|i, _| done.push(i));
        done.sort_unstable();
        assert_eq!(done, [3, 64, 129]);
        assert!(!pending.is_woken());
        wake(&all[3]).wake();
        pending.reap(|_, _| panic!("a late wake is harmless"));
        assert_eq!(pending.len(), 127);
    }

    #[test]
    fn what_is_over_at_once_takes_no_slot() {
        let executor = Executor::new().unwrap();
        let mut pending = Pending::new(1, executor.alarm().clone());
        for i in 0..10 {
            let over = pending.start(i, IoFuture::Ready(Ok(())));
            assert_eq!(over, Some((i, Ok(()))));
        }
        assert_eq!(pending.len(), 0);
    }
}

//! Publication of immutable snapshots from control to lcores.
//!
//! One [`Publisher`], one [`Subscriber`] per lcore. `publish` never waits; `refresh` costs one relaxed load when there
//! is nothing new. A snapshot replaced on an lcore is never freed there: the publisher keeps every snapshot until all
//! subscribers have acknowledged a later one.
#![allow(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A snapshot with its place in the order of publication (1 is the first).
#[derive(Debug)]
pub struct Versioned<T> {
    version: u64,
    value: T,
}

/// The mailbox between the publisher and one subscriber.
#[derive(Debug)]
struct Slot<T> {
    /// `Arc::into_raw` of a snapshot that the subscriber has not taken yet, or null.
    next: AtomicPtr<Versioned<T>>,
    /// The newest version that the subscriber runs with.
    acknowledged: AtomicU64,
}

impl<T> Slot<T> {
    /// Puts `snapshot` (or nothing) into the mailbox and returns what lay there.
    fn exchange(&self, snapshot: Option<Arc<Versioned<T>>>) -> Option<Arc<Versioned<T>>> {
        let new = snapshot.map_or(ptr::null_mut(), |s| Arc::into_raw(s).cast_mut());
        let old = self.next.swap(new, Ordering::AcqRel);
        // SAFETY: every non-null pointer in `next` came from `Arc::into_raw` above, and the swap hands its reference to
        // exactly one taker.
        (!old.is_null()).then(|| unsafe { Arc::from_raw(old) })
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        self.exchange(None);
    }
}

/// The control side: the only place that makes new snapshots.
#[derive(Debug)]
pub struct Publisher<T> {
    current: Arc<Versioned<T>>,
    retired: Vec<Arc<Versioned<T>>>,
    slots: Vec<Arc<Slot<T>>>,
}

impl<T: Send + Sync> Publisher<T> {
    /// Starts with `initial` as version 1.
    pub fn new(initial: T) -> Self {
        Self {
            current: Arc::new(Versioned {
                version: 1,
                value: initial,
            }),
            retired: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// A new subscriber that starts with the newest snapshot.
    pub fn subscribe(&mut self) -> Subscriber<T> {
        let slot = Arc::new(Slot {
            next: AtomicPtr::new(ptr::null_mut()),
            acknowledged: AtomicU64::new(self.current.version),
        });
        self.slots.push(slot.clone());
        Subscriber {
            slot,
            current: self.current.clone(),
        }
    }

    /// The newest snapshot.
    pub fn current(&self) -> &T {
        &self.current.value
    }

    /// Replaces the snapshot; subscribers see it at their next [`Subscriber::refresh`]. Never waits.
    pub fn publish(&mut self, value: T) {
        let next = Arc::new(Versioned {
            version: self.current.version + 1,
            value,
        });
        self.retired
            .push(std::mem::replace(&mut self.current, next));
        // A slot that only we still hold belongs to a subscriber that is gone.
        self.slots.retain(|slot| Arc::strong_count(slot) > 1);
        for slot in &self.slots {
            // What lay there was never seen by the subscriber; `retired` holds it as well.
            slot.exchange(Some(self.current.clone()));
        }
        self.reclaim();
    }

    /// Whether every subscriber runs with the newest snapshot.
    pub fn settled(&self) -> bool {
        self.oldest_acknowledged() >= self.current.version
    }

    /// Frees the snapshots that no subscriber can still hold; returns how many remain besides the newest.
    pub fn reclaim(&mut self) -> usize {
        let oldest = self.oldest_acknowledged();
        self.retired.retain(|snapshot| snapshot.version >= oldest);
        self.retired.len()
    }

    /// The oldest version that a subscriber may run with; the newest if there is no subscriber.
    pub fn oldest_acknowledged(&self) -> u64 {
        let acknowledged = self.slots.iter().filter(|slot| Arc::strong_count(slot) > 1);
        acknowledged
            .map(|slot| slot.acknowledged.load(Ordering::Acquire))
            .min()
            .unwrap_or(self.current.version)
    }
}

/// An lcore's side.
#[derive(Debug)]
pub struct Subscriber<T> {
    slot: Arc<Slot<T>>,
    current: Arc<Versioned<T>>,
}

impl<T: Send + Sync> Subscriber<T> {
    /// Takes the newest snapshot if there is one; true when it changed. To be called at the top of the loop, when nothing
    /// of the old snapshot is in use.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        if self.slot.next.load(Ordering::Relaxed).is_null() {
            return false;
        }
        self.take()
    }

    #[cold]
    fn take(&mut self) -> bool {
        let Some(next) = self.slot.exchange(None) else {
            return false;
        };
        let version = next.version;
        // Dropping the old reference frees nothing: the publisher holds it until it sees the acknowledgement below.
        self.current = next;
        self.slot.acknowledged.store(version, Ordering::Release);
        true
    }
}

impl<T> Deref for Subscriber<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.current.value
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_sees_only_the_newest() {
        let mut publisher = Publisher::new(1);
        let mut subscriber = publisher.subscribe();
        assert!(!subscriber.refresh());
        publisher.publish(2);
        publisher.publish(3);
        assert_eq!(*subscriber, 1);
        assert!(!publisher.settled());
        assert!(subscriber.refresh());
        assert_eq!(*subscriber, 3);
        assert!(publisher.settled());
        assert_eq!(publisher.reclaim(), 0);
    }

    #[test]
    fn a_snapshot_lives_until_it_is_replaced_everywhere() {
        let mut publisher = Publisher::new(Arc::new(()));
        let first = publisher.current().clone();
        let (mut a, mut b) = (publisher.subscribe(), publisher.subscribe());
        publisher.publish(Arc::new(()));
        a.refresh();
        publisher.reclaim();
        assert_eq!(Arc::strong_count(&first), 2, "b still runs with it");
        b.refresh();
        assert_eq!(
            Arc::strong_count(&first),
            2,
            "the lcore's drop must not be the last"
        );
        publisher.reclaim();
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_subscriber_that_is_gone_holds_nothing_back() {
        let mut publisher = Publisher::new(1);
        drop(publisher.subscribe());
        publisher.publish(2);
        assert!(publisher.settled());
        assert_eq!(publisher.reclaim(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;

    /// Counts its own drops, so that a leak or a double free shows.
    struct Tracked(u64, Arc<AtomicUsize>);
    impl Drop for Tracked {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_interleaving_keeps_order_and_frees_once() {
        loom::model(|| {
            let dropped = Arc::new(AtomicUsize::new(0));
            let mut publisher = Publisher::new(Tracked(1, dropped.clone()));
            let mut subscriber = publisher.subscribe();
            let lcore = loom::thread::spawn(move || {
                let mut last = subscriber.0;
                for _ in 0..2 {
                    subscriber.refresh();
                    assert!(subscriber.0 >= last, "versions never go back");
                    last = subscriber.0;
                }
                subscriber
            });
            publisher.publish(Tracked(2, dropped.clone()));
            publisher.publish(Tracked(3, dropped.clone()));
            let mut subscriber = lcore.join().unwrap();
            subscriber.refresh();
            assert_eq!(subscriber.0, 3);
            publisher.reclaim();
            assert_eq!(
                dropped.load(Ordering::Relaxed),
                2,
                "both older snapshots, each once"
            );
            drop(subscriber);
            drop(publisher);
            assert_eq!(dropped.load(Ordering::Relaxed), 3);
        });
    }
}

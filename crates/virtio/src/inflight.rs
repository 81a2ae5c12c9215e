//! The in-flight region of split virtqueues: shared memory, held by the front end, that tells a restarted back
//! end which requests its predecessor had fetched but not completed (vhost-user, "Inflight I/O tracking").
//!
//! One writer, the lcore that owns the queue; no atomics are needed, because the only "reader" is a later process
//! after this one died: a kill ends the instruction stream at one point and everything before it has happened.
//! What matters is that the compiler keeps the order, hence volatile accesses with compiler fences between.
//!
//! The contents are hostile: the front end can write them at any time. Everything read is bounded before use.
//! Never touches guest memory.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// `QueueRegionSplit` without its descriptor array.
#[repr(C)]
struct RegionHeader {
    features: u64,
    version: u16,
    desc_num: u16,
    last_batch_head: u16,
    used_idx: u16,
}
const _: () = assert!(size_of::<RegionHeader>() == 16);

/// `DescStateSplit`.
#[repr(C)]
struct DescriptorState {
    inflight: u8,
    padding: [u8; 5],
    next: u16,
    counter: u64,
}
const _: () = assert!(size_of::<DescriptorState>() == 16);

/// Version of the layout above; zero says that nobody has initialised the region.
const VERSION: u16 = 1;
/// Every queue's part starts on a cache line of its own.
const ALIGNMENT: u64 = 64;
/// Split rings have at most this many descriptors.
const MAX_QUEUE_SIZE: u16 = 32768;
/// More queues than the protocol can name.
const MAX_QUEUES: u16 = 256;

/// Why an in-flight region cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// Impossible dimensions.
    #[error(
        "in-flight region for {queues} queues of {queue_size}, expected 1..=256 queues of a power of two up to 32768"
    )]
    Dimensions {
        /// Number of queues asked for.
        queues: u16,
        /// Size of each.
        queue_size: u16,
    },
    /// The area is smaller than its dimensions need.
    #[error("in-flight area of {found} bytes, expected {needed}")]
    TooSmall {
        /// Bytes announced.
        found: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The area does not lie in the file.
    #[error(
        "in-flight area at offset {offset} with {size} bytes does not lie in the file of {file} bytes"
    )]
    OutsideFile {
        /// Offset announced.
        offset: u64,
        /// Bytes announced.
        size: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// The file could shrink under the mapping.
    #[error(
        "the in-flight file is not sealed against shrinking, expected a memfd as handed out by GET_INFLIGHT_FD"
    )]
    NotSealed,
    /// The contents are of another version or another size.
    #[error("in-flight region of queue {queue}: {what} is {found}, expected {expected}")]
    Contents {
        /// The queue.
        queue: u16,
        /// Name of the field.
        what: &'static str,
        /// Value found.
        found: u64,
        /// Value expected.
        expected: u64,
    },
    /// The region has no part for this queue, or too small a one.
    #[error(
        "the in-flight region tracks {queues} queues of {queue_size}, not queue {index} of {size}"
    )]
    NoQueue {
        /// The queue asked for.
        index: u16,
        /// Its size.
        size: u16,
        /// Queues in the region.
        queues: u16,
        /// Their size.
        queue_size: u16,
    },
    /// The kernel refused; an offset that is not a multiple of the page size is an invalid argument.
    #[error("cannot make or map the in-flight region: {0}")]
    System(#[from] Errno),
}

/// Bytes of one queue's part.
fn part_size(queue_size: u16) -> u64 {
    let bytes = size_of::<RegionHeader>() as u64
        + u64::from(queue_size) * size_of::<DescriptorState>() as u64;
    bytes.next_multiple_of(ALIGNMENT)
}

fn check_dimensions(queues: u16, queue_size: u16) -> Result<u64, InflightError> {
    if queues == 0
        || queues > MAX_QUEUES
        || queue_size > MAX_QUEUE_SIZE
        || !queue_size.is_power_of_two()
    {
        return Err(InflightError::Dimensions { queues, queue_size });
    }
    Ok(u64::from(queues) * part_size(queue_size))
}

/// Makes a new region, as GET_INFLIGHT_FD asks for: a sealed memory file, initialised for empty queues.
/// Returns the file and its size in bytes.
///
/// # Errors
/// [`InflightError::Dimensions`] or [`InflightError::System`].
pub fn create(queues: u16, queue_size: u16) -> Result<(OwnedFd, u64), InflightError> {
    let size = check_dimensions(queues, queue_size)?;
    let fd = rustix::fs::memfd_create(
        "sumeru-inflight",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    rustix::fs::ftruncate(&fd, size)?;
    let mut header = [0u8; size_of::<RegionHeader>()];
    header[8..10].copy_from_slice(&VERSION.to_ne_bytes());
    header[10..12].copy_from_slice(&queue_size.to_ne_bytes());
    for queue in 0..queues {
        rustix::io::pwrite(&fd, &header, u64::from(queue) * part_size(queue_size))?;
    }
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok((fd, size))
}

/// A mapped in-flight region. Unmapped when the last [`InflightQueue`] of it drops.
#[derive(Debug)]
pub struct InflightRegion {
    base: NonNull<u8>,
    size: usize,
    queues: u16,
    queue_size: u16,
}

// SAFETY: the mapping is plain shared memory without thread affinity; all access is volatile.
unsafe impl Send for InflightRegion {}
// SAFETY: as above; two users of the same queue part would mix up its contents, but memory safety does not depend on them.
unsafe impl Sync for InflightRegion {}

impl InflightRegion {
    /// Maps the region that SET_INFLIGHT_FD brings back: `size` bytes at `offset` of `fd`.
    ///
    /// # Errors
    /// Every variant of [`InflightError`] but `NoQueue`.
    pub fn map(
        fd: OwnedFd,
        size: u64,
        offset: u64,
        queues: u16,
        queue_size: u16,
    ) -> Result<Arc<Self>, InflightError> {
        let needed = check_dimensions(queues, queue_size)?;
        if size < needed {
            return Err(InflightError::TooSmall {
                found: size,
                needed,
            });
        }
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| InflightError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(InflightError::NotSealed);
        }
        let file = rustix::fs::fstat(fd.as_fd())?.st_size as u64;
        let inside = offset.checked_add(size).is_some_and(|end| end <= file);
        if !inside {
            return Err(InflightError::OutsideFile { offset, size, file });
        }
        // Only what the dimensions need is mapped, however much was announced.
        let size = usize::try_from(needed).map_err(|_| Errno::NOMEM)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing; the file covers it and is
        // sealed against shrinking, so that no access can fault.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                size,
                prot,
                MapFlags::SHARED,
                &fd,
                offset,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let region = Self {
            base,
            size,
            queues,
            queue_size,
        };
        for queue in 0..queues {
            region.check_part(queue)?;
        }
        Ok(Arc::new(region))
    }

    /// Number of queues tracked.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Number of descriptors tracked of each queue.
    pub fn queue_size(&self) -> u16 {
        self.queue_size
    }

    fn check_part(&self, queue: u16) -> Result<(), InflightError> {
        let part = self.part(queue);
        // SAFETY: `part` points to a header inside the mapping.
        let (version, desc_num) = unsafe {
            (
                (&raw const (*part.header).version).read_volatile(),
                (&raw const (*part.header).desc_num).read_volatile(),
            )
        };
        let wrong = |what, found: u16, expected: u16| {
            Err(InflightError::Contents {
                queue,
                what,
                found: found.into(),
                expected: expected.into(),
            })
        };
        if version == 0 {
            // Nobody has initialised it: a front end that made the file itself (incoming migration).
            // SAFETY: as above, and this process is the only writer.
            unsafe {
                (&raw mut (*part.header).desc_num).write_volatile(self.queue_size);
                (&raw mut (*part.header).version).write_volatile(VERSION);
            }
            return Ok(());
        }
        if version != VERSION {
            return wrong("version", version, VERSION);
        }
        if desc_num != self.queue_size {
            return wrong("desc_num", desc_num, self.queue_size);
        }
        Ok(())
    }

    /// Pointers to the part of `queue`, which must be below `self.queues`.
    fn part(&self, queue: u16) -> Part {
        let offset = u64::from(queue) * part_size(self.queue_size);
        debug_assert!(
            queue < self.queues && offset + part_size(self.queue_size) <= self.size as u64
        );
        // SAFETY: `queue < queues`, so header and array of the part lie inside the mapping of
        // `queues * part_size` bytes; its base is page-aligned and parts are 64-byte aligned.
        unsafe {
            let header = self
                .base
                .as_ptr()
                .add(offset as usize)
                .cast::<RegionHeader>();
            Part {
                header,
                states: header.add(1).cast::<DescriptorState>(),
            }
        }
    }

    /// The part of one queue, to be used by the one owner of that queue.
    ///
    /// # Errors
    /// [`InflightError::NoQueue`] when the region does not cover `size` descriptors of queue `index`.
    pub fn queue(self: &Arc<Self>, index: u16, size: u16) -> Result<InflightQueue, InflightError> {
        if index >= self.queues || size > self.queue_size {
            let (queues, queue_size) = (self.queues, self.queue_size);
            return Err(InflightError::NoQueue {
                index,
                size,
                queues,
                queue_size,
            });
        }
        Ok(InflightQueue {
            part: self.part(index),
            size,
            counter: 0,
            _region: Arc::clone(self),
        })
    }
}

impl Drop for InflightRegion {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`; every pointer into it lives in an `InflightQueue`, which holds
        // a reference to this region.
        let _unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

#[derive(Clone, Copy, Debug)]
struct Part {
    header: *mut RegionHeader,
    states: *mut DescriptorState,
}

/// What a predecessor left behind in a queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Head descriptors fetched but not completed, in the order they were fetched. Each is below the queue's size;
    /// the chains behind them are as hostile as any other.
    pub heads: Vec<u16>,
    /// Where fetching goes on: the available index after those heads.
    pub next_available: u16,
}

/// In-flight tracking of one queue, owned by whoever owns the queue.
///
/// The order of calls around the used ring makes it crash-consistent:
/// [`mark`](Self::mark) after fetching a head and before working on it; then, for a batch of completions,
/// [`stage`](Self::stage) each head, publish the used index, [`commit`](Self::commit) the same heads.
#[derive(Debug)]
pub struct InflightQueue {
    part: Part,
    size: u16,
    counter: u64,
    _region: Arc<InflightRegion>,
}

// SAFETY: the pointers lead into the shared mapping that `_region` keeps alive; nothing is bound to a thread.
unsafe impl Send for InflightQueue {}

impl InflightQueue {
    /// Number of descriptors tracked: heads are below this.
    pub fn size(&self) -> u16 {
        self.size
    }

    fn state(&self, head: u16) -> *mut DescriptorState {
        assert!(
            head < self.size,
            "head {head} was validated by the ring of {} descriptors",
            self.size
        );
        // SAFETY: the part's array has at least `size` entries.
        unsafe { self.part.states.add(usize::from(head)) }
    }

    /// Records that `head` was fetched from the available ring.
    ///
    /// # Panics
    /// When `head` is not below [`size`](Self::size); the ring has validated it.
    pub fn mark(&mut self, head: u16) {
        let state = self.state(head);
        // SAFETY: `state` points into the mapping.
        unsafe {
            (&raw mut (*state).counter).write_volatile(self.counter);
            compiler_fence(Ordering::SeqCst);
            (&raw mut (*state).inflight).write_volatile(1);
        }
        self.counter = self.counter.wrapping_add(1);
        compiler_fence(Ordering::SeqCst);
    }

    /// Adds `head` to the batch that is about to be published in the used ring.
    ///
    /// # Panics
    /// As [`mark`](Self::mark).
    pub fn stage(&mut self, head: u16) {
        let state = self.state(head);
        // SAFETY: `state` and the header point into the mapping.
        unsafe {
            let last = (&raw const (*self.part.header).last_batch_head).read_volatile();
            (&raw mut (*state).next).write_volatile(last);
            compiler_fence(Ordering::SeqCst);
            (&raw mut (*self.part.header).last_batch_head).write_volatile(head);
        }
        compiler_fence(Ordering::SeqCst);
    }

    /// Closes the batch after the used index has been published as `used_idx`: its heads are no longer in flight.
    ///
    /// # Panics
    /// As [`mark`](Self::mark).
    pub fn commit(&mut self, heads: impl IntoIterator<Item = u16>, used_idx: u16) {
        compiler_fence(Ordering::SeqCst);
        for head in heads {
            self.clear(head);
        }
        compiler_fence(Ordering::SeqCst);
        self.set_used_idx(used_idx);
        compiler_fence(Ordering::SeqCst);
    }

    fn clear(&mut self, head: u16) {
        let state = self.state(head);
        // SAFETY: `state` points into the mapping.
        unsafe { (&raw mut (*state).inflight).write_volatile(0) };
    }

    fn set_used_idx(&mut self, used_idx: u16) {
        // SAFETY: the header lies in the mapping.
        unsafe { (&raw mut (*self.part.header).used_idx).write_volatile(used_idx) };
    }

    /// Finds out what the predecessor left behind. `used_idx` is the index in the used ring as it is now.
    /// To be called once, when the queue starts and before anything else.
    ///
    /// A region whose batch list cannot be believed costs nothing but correctness of the guest that wrote it: the
    /// list is followed for at most one batch, the heads are bounded and unique.
    pub fn recover(&mut self, used_idx: u16) -> Recovery {
        // SAFETY: the header lies in the mapping.
        let (recorded, mut head) = unsafe {
            (
                (&raw const (*self.part.header).used_idx).read_volatile(),
                (&raw const (*self.part.header).last_batch_head).read_volatile(),
            )
        };
        // The used index was published but the batch not closed: its heads are complete.
        let batch = used_idx.wrapping_sub(recorded).min(self.size);
        for _ in 0..batch {
            if head >= self.size {
                break;
            }
            let state = self.state(head);
            // SAFETY: `state` points into the mapping.
            unsafe {
                (&raw mut (*state).inflight).write_volatile(0);
                head = (&raw const (*state).next).read_volatile();
            }
        }
        compiler_fence(Ordering::SeqCst);
        self.set_used_idx(used_idx);

        let mut fetched: Vec<(u64, u16)> = Vec::new();
        for head in 0..self.size {
            let state = self.state(head);
            // SAFETY: `state` points into the mapping.
            unsafe {
                if (&raw const (*state).inflight).read_volatile() == 1 {
                    fetched.push(((&raw const (*state).counter).read_volatile(), head));
                }
            }
        }
        fetched.sort_unstable();
        // Later fetches sort behind everything recovered.
        self.counter = fetched
            .last()
            .map_or(0, |&(counter, _)| counter.wrapping_add(1));
        let heads: Vec<u16> = fetched.into_iter().map(|(_, head)| head).collect();
        // At most `size` heads, so the count fits.
        let next_available = used_idx.wrapping_add(heads.len() as u16);
        Recovery {
            heads,
            next_available,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "inflight_tests.rs"]
mod tests;

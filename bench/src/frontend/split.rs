//! A split virtqueue from the driver's end (virtio 1.2, section 2.7): descriptor table, available and used ring.
//!
//! All bookkeeping (free list, chain links, tokens) is private memory; the shared ring is only written, except for the
//! used ring, the used flags and the available event. `layout` and `GuestMemory::window` give hostile tests every byte.

use super::FrontendError;
use super::guest_memory::{GuestMemory, Window};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

/// Descriptor flag: another one follows.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;
const DESC_LEN: u64 = 16;
const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;
const NONE: u16 = u16::MAX;

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it; those come after all that it reads.
    pub writable: bool,
}

/// Guest-physical addresses of a ring's three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Descriptor table: 16 bytes per entry.
    pub desc: u64,
    /// Available ring: flags, index, entries of 2 bytes, used event.
    pub avail: u64,
    /// Used ring: flags, index, entries of 8 bytes, available event.
    pub used: u64,
}

/// A chain that the device has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// What was given to `add`.
    pub token: u64,
    /// Bytes the device says it has written.
    pub len: u32,
}

/// The driver's end of a split ring.
pub struct SplitQueue {
    size: u16,
    event_idx: bool,
    layout: Layout,
    desc: Window,
    avail: Window,
    used: Window,
    free_head: u16,
    free_count: u16,
    next: Box<[u16]>,
    /// Descriptors in the chain that starts here; 0 if none is outstanding.
    chain_len: Box<[u16]>,
    tokens: Box<[u64]>,
    avail_next: u16,
    avail_published: u16,
    avail_notified: u16,
    used_next: u16,
    used_seen: u16,
    kicks: u64,
    kick: OwnedFd,
    call: OwnedFd,
    err: OwnedFd,
}

impl SplitQueue {
    /// Allocates and zeroes a ring of `size` entries in `memory`. `event_idx` as negotiated.
    ///
    /// # Errors
    /// [`FrontendError::QueueSize`], [`FrontendError::MemoryFull`], [`FrontendError::Io`] for the eventfds.
    pub fn new(
        memory: &mut GuestMemory,
        size: u16,
        event_idx: bool,
    ) -> Result<Self, FrontendError> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(FrontendError::QueueSize(size));
        }
        let entries = u64::from(size);
        let (desc_len, avail_len, used_len) =
            (DESC_LEN * entries, 6 + 2 * entries, 6 + 8 * entries);
        let layout = Layout {
            desc: memory.alloc(desc_len, 4096)?,
            avail: memory.alloc(avail_len, 64)?,
            used: memory.alloc(used_len, 4096)?,
        };
        let fd = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| FrontendError::io("eventfd", e))
        };
        let queue = Self {
            size,
            event_idx,
            layout,
            desc: memory.window(layout.desc, desc_len)?,
            avail: memory.window(layout.avail, avail_len)?,
            used: memory.window(layout.used, used_len)?,
            free_head: 0,
            free_count: size,
            next: (1..size).chain([NONE]).collect(),
            chain_len: vec![0; size.into()].into_boxed_slice(),
            tokens: vec![0; size.into()].into_boxed_slice(),
            avail_next: 0,
            avail_published: 0,
            avail_notified: 0,
            used_next: 0,
            used_seen: 0,
            kicks: 0,
            kick: fd()?,
            call: fd()?,
            err: fd()?,
        };
        queue.desc.write(0, &vec![0; desc_len as usize]);
        queue.avail.write(0, &vec![0; avail_len as usize]);
        queue.used.write(0, &vec![0; used_len as usize]);
        Ok(queue)
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the parts are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Descriptors not in use.
    pub fn free(&self) -> u16 {
        self.free_count
    }

    /// The first available index that a device starting now should read: everything before it has been returned.
    /// Exact for a device that completes in order or tracks what is in flight.
    pub fn base(&self) -> u16 {
        self.used_next
    }

    /// Eventfd the device waits on.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// Eventfd the device signals on completion.
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Eventfd the device signals when it gives the ring up.
    pub fn err_fd(&self) -> BorrowedFd<'_> {
        self.err.as_fd()
    }

    /// Notifications sent so far.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Asks the device to signal completions or not to (a hint that it may ignore).
    pub fn set_interrupts(&mut self, wanted: bool) {
        self.avail
            .store_u16(0, if wanted { 0 } else { NO_INTERRUPT }, Relaxed);
        if self.event_idx {
            // Off: an index just passed, reached again only after 65,535 more completions.
            let event = if wanted {
                self.used_next
            } else {
                self.used_next.wrapping_sub(1)
            };
            self.avail
                .store_u16(4 + 2 * usize::from(self.size), event, Relaxed);
        }
        // The store above must be visible before the next look at the used index, or a completion is missed.
        fence(SeqCst);
    }

    /// Adds a chain; the device does not see it before [`SplitQueue::publish`].
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`]; an empty chain needs one descriptor too and is refused the same way.
    #[inline]
    pub fn add(&mut self, buffers: &[Buffer], token: u64) -> Result<u16, FrontendError> {
        if buffers.is_empty() || buffers.len() > usize::from(self.free_count) {
            return Err(FrontendError::QueueFull {
                free: self.free_count,
                needed: buffers.len().max(1),
            });
        }
        let head = self.free_head;
        let mut index = head;
        let mut after = head;
        for (position, buffer) in buffers.iter().enumerate() {
            index = after;
            after = self.next[usize::from(index)];
            let mut flags = if buffer.writable { DESC_WRITE } else { 0 };
            let mut next = 0;
            if position + 1 < buffers.len() {
                flags |= DESC_NEXT;
                next = after;
            }
            self.write_desc(index, buffer.gpa, buffer.len, flags, next);
        }
        self.next[usize::from(index)] = NONE;
        self.free_head = after;
        self.free_count -= buffers.len() as u16;
        self.chain_len[usize::from(head)] = buffers.len() as u16;
        self.tokens[usize::from(head)] = token;
        self.offer(head);
        Ok(head)
    }

    /// Adds a chain through an indirect table at `table` (16 bytes per buffer), as a Linux guest does.
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`].
    pub fn add_indirect(
        &mut self,
        buffers: &[Buffer],
        table: &Window,
        table_gpa: u64,
        token: u64,
    ) -> Result<u16, FrontendError> {
        if self.free_count == 0 || buffers.is_empty() {
            return Err(FrontendError::QueueFull {
                free: self.free_count,
                needed: 1,
            });
        }
        for (position, buffer) in buffers.iter().enumerate() {
            let last = position + 1 == buffers.len();
            let flags =
                if buffer.writable { DESC_WRITE } else { 0 } | if last { 0 } else { DESC_NEXT };
            let next = if last { 0 } else { position as u16 + 1 };
            write_desc(table, position, buffer.gpa, buffer.len, flags, next);
        }
        let head = self.free_head;
        self.free_head = self.next[usize::from(head)];
        self.next[usize::from(head)] = NONE;
        self.free_count -= 1;
        self.chain_len[usize::from(head)] = 1;
        self.tokens[usize::from(head)] = token;
        self.write_desc(
            head,
            table_gpa,
            (buffers.len() * DESC_LEN as usize) as u32,
            DESC_INDIRECT,
            0,
        );
        self.offer(head);
        Ok(head)
    }

    /// Makes everything added visible to the device.
    #[inline]
    pub fn publish(&mut self) {
        if self.avail_next != self.avail_published {
            self.avail.store_u16(2, self.avail_next, Release);
            self.avail_published = self.avail_next;
        }
    }

    /// Publishes, and notifies the device if it wants to be. Returns whether it was.
    ///
    /// # Errors
    /// [`FrontendError::Io`] if the eventfd cannot be written.
    #[inline]
    pub fn publish_and_kick(&mut self) -> Result<bool, FrontendError> {
        self.publish();
        if self.avail_published == self.avail_notified {
            return Ok(false);
        }
        // The index must be visible before the flags are read, or both sides sleep (virtio 1.2, section 2.7.13.4.1).
        fence(SeqCst);
        let (old, new) = (self.avail_notified, self.avail_published);
        self.avail_notified = new;
        let wanted = if self.event_idx {
            let event = self.used.load_u16(4 + 8 * usize::from(self.size), Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used.load_u16(0, Relaxed) & NO_NOTIFY == 0
        };
        if wanted {
            self.kick()?;
        }
        Ok(wanted)
    }

    /// Notifies the device whatever it wants.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn kick(&mut self) -> Result<(), FrontendError> {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes())
            .map_err(|e| FrontendError::io("write kick eventfd", e))?;
        self.kicks += 1;
        Ok(())
    }

    /// How many chains the device has returned that [`Self::poll_used`] has not; the shared index is read only when none is known.
    #[inline]
    pub fn returned(&mut self) -> u16 {
        if self.used_next == self.used_seen {
            self.used_seen = self.used.load_u16(2, Acquire);
        }
        self.used_seen.wrapping_sub(self.used_next)
    }

    /// The token of the chain that [`Self::poll_used`] will answer after `ahead` others; `ahead` must be below what [`Self::returned`] said.
    /// `None` for an element that it will refuse.
    #[inline]
    pub fn token_ahead(&self, ahead: u16) -> Option<u64> {
        let place = self.used_next.wrapping_add(ahead) & (self.size - 1);
        let id = self.used.load_u32(4 + 8 * usize::from(place), Relaxed);
        self.tokens.get(id as usize).copied()
    }

    /// The next chain that the device has returned, if any.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`] if the element names no outstanding chain; the ring is then of no further use.
    #[inline]
    pub fn poll_used(&mut self) -> Result<Option<Used>, FrontendError> {
        if self.returned() == 0 {
            return Ok(None);
        }
        let slot = 4 + 8 * usize::from(self.used_next & (self.size - 1));
        let id = self.used.load_u32(slot, Relaxed);
        let len = self.used.load_u32(slot + 4, Relaxed);
        if id >= u32::from(self.size) || self.chain_len[id as usize] == 0 {
            return Err(FrontendError::BadUsed { id });
        }
        self.used_next = self.used_next.wrapping_add(1);
        let head = id as usize;
        let mut last = head;
        for _ in 1..self.chain_len[head] {
            last = usize::from(self.next[last]);
        }
        self.next[last] = self.free_head;
        self.free_head = id as u16;
        self.free_count += std::mem::take(&mut self.chain_len[head]);
        Ok(Some(Used {
            token: self.tokens[head],
            len,
        }))
    }

    /// Busy-polls for a returned chain.
    ///
    /// # Errors
    /// [`FrontendError::Timeout`], [`FrontendError::BadUsed`].
    pub fn wait_used(&mut self, patience: Duration) -> Result<Used, FrontendError> {
        let start = std::time::Instant::now();
        loop {
            if let Some(used) = self.poll_used()? {
                return Ok(used);
            }
            if start.elapsed() > patience {
                return Err(FrontendError::Timeout {
                    what: "used element".into(),
                    seconds: patience.as_secs(),
                });
            }
            std::hint::spin_loop();
        }
    }

    /// Sleeps until the device signals a completion; whether it did within `patience`. Clears the signal.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn wait_call(&self, patience: Duration) -> Result<bool, FrontendError> {
        wait_eventfd(&self.call, patience)
    }

    /// Whether the device has signalled an error within `patience`. Clears the signal.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    pub fn wait_err(&self, patience: Duration) -> Result<bool, FrontendError> {
        wait_eventfd(&self.err, patience)
    }

    /// Writes one descriptor of the table: for chains that no sane driver would make.
    pub fn write_desc(&self, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        write_desc(&self.desc, usize::from(index), gpa, len, flags, next);
    }

    /// Puts `head` into the next available slot, whatever it is; visible after [`SplitQueue::publish`].
    #[inline]
    pub fn offer(&mut self, head: u16) {
        let slot = 4 + 2 * usize::from(self.avail_next & (self.size - 1));
        self.avail.store_u16(slot, head, Relaxed);
        self.avail_next = self.avail_next.wrapping_add(1);
    }

    /// Writes the shared available index directly, past all bookkeeping.
    pub fn write_avail_index(&mut self, index: u16) {
        self.avail.store_u16(2, index, Release);
    }

    /// The used index as the device has written it.
    pub fn used_index(&self) -> u16 {
        self.used.load_u16(2, Acquire)
    }
}

#[inline]
fn write_desc(table: &Window, index: usize, gpa: u64, len: u32, flags: u16, next: u16) {
    let at = index * DESC_LEN as usize;
    table.store_u64(at, gpa.to_le(), Relaxed);
    table.store_u64(
        at + 8,
        (u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48).to_le(),
        Relaxed,
    );
}

fn wait_eventfd(fd: &OwnedFd, patience: Duration) -> Result<bool, FrontendError> {
    let timeout = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout))
        .map_err(|e| FrontendError::io("poll eventfd", e))?;
    if ready == 0 {
        return Ok(false);
    }
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).map_err(|e| FrontendError::io("read eventfd", e))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::guest_memory::Backing;
    use super::*;

    fn queue(size: u16) -> (GuestMemory, SplitQueue) {
        let mut memory = GuestMemory::new(&[(0x10_0000, 0x10_0000)], Backing::Pages).unwrap();
        let queue = SplitQueue::new(&mut memory, size, false).unwrap();
        (memory, queue)
    }

    /// Plays a device that returns the chain in available slot `index`.
    fn complete(queue: &SplitQueue, index: u16, len: u32) {
        let slot = usize::from(index & (queue.size - 1));
        let head = queue.avail.load_u16(4 + 2 * slot, Relaxed);
        queue.used.store_u32(4 + 8 * slot, head.into(), Relaxed);
        queue.used.store_u32(8 + 8 * slot, len, Relaxed);
        queue.used.store_u16(2, index.wrapping_add(1), Release);
    }

    #[test]
    fn chains_come_back_and_descriptors_are_reused() {
        let (_memory, mut queue) = queue(8);
        let chain = [
            Buffer {
                gpa: 0x10_0000,
                len: 16,
                writable: false,
            },
            Buffer {
                gpa: 0x10_1000,
                len: 512,
                writable: true,
            },
        ];
        for round in 0..70_000u64 {
            for part in 0..4 {
                queue.add(&chain, round * 4 + part).unwrap();
            }
            assert!(matches!(
                queue.add(&chain, 0),
                Err(FrontendError::QueueFull { free: 0, needed: 2 })
            ));
            queue.publish();
            for part in 0..4 {
                complete(&queue, (round * 4 + part) as u16, 512);
                assert_eq!(
                    queue.poll_used().unwrap(),
                    Some(Used {
                        token: round * 4 + part,
                        len: 512
                    })
                );
            }
            assert_eq!(queue.poll_used().unwrap(), None);
            assert_eq!(queue.free(), 8);
        }
    }

    #[test]
    fn chain_bytes_are_those_of_the_standard() {
        let (memory, mut queue) = queue(4);
        let chain = [
            Buffer {
                gpa: 0x1122_3344,
                len: 0x55,
                writable: false,
            },
            Buffer {
                gpa: 0x66,
                len: 0x77,
                writable: true,
            },
        ];
        queue.add(&chain, 9).unwrap();
        queue.publish();
        let mut bytes = [0; 32];
        memory
            .window(queue.layout().desc, 32)
            .unwrap()
            .read(0, &mut bytes);
        assert_eq!(
            bytes[..16],
            [
                0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0x55, 0, 0, 0, 1, 0, 1, 0
            ]
        );
        assert_eq!(
            bytes[16..],
            [0x66, 0, 0, 0, 0, 0, 0, 0, 0x77, 0, 0, 0, 2, 0, 0, 0]
        );
        let mut bytes = [0; 6];
        memory
            .window(queue.layout().avail, 6)
            .unwrap()
            .read(0, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn device_that_returns_what_it_was_not_given_is_refused() {
        let (_memory, mut queue) = queue(4);
        queue
            .add(
                &[Buffer {
                    gpa: 0,
                    len: 1,
                    writable: true,
                }],
                1,
            )
            .unwrap();
        queue.publish();
        queue.used.store_u32(4, 3, Relaxed);
        queue.used.store_u16(2, 1, Release);
        assert!(matches!(
            queue.poll_used(),
            Err(FrontendError::BadUsed { id: 3 })
        ));
        queue.used.store_u32(4, 70_000, Relaxed);
        assert!(matches!(
            queue.poll_used(),
            Err(FrontendError::BadUsed { id: 70_000 })
        ));
    }

    #[test]
    fn kicks_follow_the_used_flags_and_the_event_index() {
        let (_memory, mut plain) = queue(4);
        let buffer = [Buffer {
            gpa: 0,
            len: 1,
            writable: true,
        }];
        plain.add(&buffer, 0).unwrap();
        assert!(plain.publish_and_kick().unwrap());
        assert!(!plain.publish_and_kick().unwrap(), "nothing new");
        plain.used.store_u16(0, NO_NOTIFY, Relaxed);
        plain.add(&buffer, 0).unwrap();
        assert!(!plain.publish_and_kick().unwrap());

        let mut memory = GuestMemory::new(&[(0, 0x10_0000)], Backing::Pages).unwrap();
        let mut event = SplitQueue::new(&mut memory, 4, true).unwrap();
        event.used.store_u16(4 + 8 * 4, 1, Relaxed);
        event.add(&buffer, 0).unwrap();
        assert!(
            !event.publish_and_kick().unwrap(),
            "device waits for index 1"
        );
        event.add(&buffer, 0).unwrap();
        assert!(event.publish_and_kick().unwrap());
    }
}

//! A virtio-net driver for throughput (virtio 1.2, sections 2.7 and 5.1): one queue pair, a buffer of its own for every ring entry.
//!
//! Descriptors and available entries are written once: entry n always is buffer n, since a switch returns buffers in the order in which
//! it got them. One that does not is refused with [`FrontendError::BadUsed`]; nothing here would recover from that. Per frame it writes the
//! frame's bytes and reads one used element; interrupts are off. It never trusts a length that the device claims.

use super::plan::Plan;
use crate::frontend::guest_memory::{Backing, Window};
use crate::frontend::wire::{feature, protocol_feature};
use crate::frontend::{FrontendError, GuestMemory, Session, SplitQueue};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

/// Entries of each ring.
pub const ENTRIES: u16 = 1024;
/// Frames in one go, as DPDK's applications do.
pub const BURST: usize = 32;
/// Largest frame that fits a buffer.
pub const FRAME_MAX: usize = BUFFER_LEN - DATA_AT;
const BUFFER_LEN: usize = 2048;
/// The frame starts a cache line, so that the header before it is written once and stays as it is.
const DATA_AT: usize = 128;
const HEADER_LEN: usize = 12;
const HEADER_AT: usize = DATA_AT - HEADER_LEN;
/// Of the header before a received frame: how many buffers it takes.
const NUM_BUFFERS_AT: usize = 10;
const DESC_LEN_AT: usize = 8;
const NO_NOTIFY: u16 = 1;
const ELEMENTS_PER_LINE: usize = 8;
/// Used elements that are asked for before they are read.
const AHEAD: u16 = 64;
const BASE: u64 = 0x1_0000_0000;
const HUGE: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// One ring whose entry n is buffer n.
struct Ring {
    queue: SplitQueue,
    desc: Window,
    avail: Window,
    used: Window,
    data: Window,
    lens: Box<[u32]>,
    /// Entries given to the device, and taken back from it; both wrap.
    given: u16,
    taken: u16,
    /// The used index as last read.
    seen: u16,
}

const MASK: u16 = ENTRIES - 1;

impl Ring {
    /// Every entry has `len` bytes; `writable` by the device or not.
    fn new(memory: &mut GuestMemory, len: u32, writable: bool) -> Result<Self, FrontendError> {
        let mut queue = SplitQueue::new(memory, ENTRIES, false)?;
        queue.set_interrupts(false);
        let data_len = u64::from(ENTRIES) * BUFFER_LEN as u64;
        let data_gpa = memory.alloc(data_len, 4096)?;
        let layout = queue.layout();
        let entries = u64::from(ENTRIES);
        let ring = Self {
            desc: memory.window(layout.desc, 16 * entries)?,
            avail: memory.window(layout.avail, 6 + 2 * entries)?,
            used: memory.window(layout.used, 6 + 8 * entries)?,
            data: memory.window(data_gpa, data_len)?,
            lens: vec![len; ENTRIES.into()].into_boxed_slice(),
            given: 0,
            taken: 0,
            seen: 0,
            queue,
        };
        let flags = if writable {
            crate::frontend::split::DESC_WRITE
        } else {
            0
        };
        for entry in 0..ENTRIES {
            let at = data_gpa + (usize::from(entry) * BUFFER_LEN + HEADER_AT) as u64;
            ring.queue.write_desc(entry, at, len, flags, 0);
            ring.avail
                .store_u16(4 + 2 * usize::from(entry), entry, Relaxed);
        }
        Ok(ring)
    }

    /// How many entries the device has returned that were not taken; the shared index is read only when none is known.
    #[inline]
    fn returned(&mut self) -> Result<u16, FrontendError> {
        if self.taken == self.seen {
            self.seen = self.used.load_u16(2, Acquire);
            if self.seen.wrapping_sub(self.taken) > self.given.wrapping_sub(self.taken) {
                return Err(FrontendError::BadUsed {
                    id: self.seen.into(),
                });
            }
            // The device has just written these lines: all at once, not one after the other.
            let fresh = self.seen.wrapping_sub(self.taken).min(AHEAD);
            for ahead in (0..fresh).step_by(ELEMENTS_PER_LINE) {
                let entry = usize::from(self.taken.wrapping_add(ahead) & MASK);
                self.used.prefetch(4 + 8 * entry);
            }
        }
        Ok(self.seen.wrapping_sub(self.taken))
    }

    /// Takes the next returned entry: its number and the bytes that the device says it has written. One must have been returned.
    #[inline]
    fn take(&mut self) -> Result<(usize, u32), FrontendError> {
        let entry = usize::from(self.taken & MASK);
        let id = self.used.load_u32(4 + 8 * entry, Relaxed);
        if id as usize != entry {
            return Err(FrontendError::BadUsed { id });
        }
        self.taken = self.taken.wrapping_add(1);
        Ok((entry, self.used.load_u32(8 + 8 * entry, Relaxed)))
    }

    /// Shows the device what it was given, and notifies it if it wants to be.
    #[inline]
    fn publish(&mut self) -> Result<(), FrontendError> {
        self.avail.store_u16(2, self.given, Release);
        // The index must be visible before the flags are read, or both sides sleep (virtio 1.2, section 2.7.13.4.1).
        fence(SeqCst);
        if self.used.load_u16(0, Relaxed) & NO_NOTIFY == 0 {
            self.queue.kick()?;
        }
        Ok(())
    }
}

/// What a port has received and nobody has looked at: valid until [`Arrivals::accept`] gives the buffers back.
pub struct Arrivals<'a> {
    ring: &'a mut Ring,
    left: u16,
}

impl Arrivals<'_> {
    /// The next frame's length in bytes and its number, for [`Arrivals::read`].
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`]; also if the device claims less than a header or more than the buffer.
    #[inline]
    pub fn take(&mut self) -> Result<Option<(usize, usize)>, FrontendError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (entry, len) = self.ring.take()?;
        let len = len as usize;
        if !(HEADER_LEN..=HEADER_LEN + FRAME_MAX).contains(&len) {
            return Err(FrontendError::BadUsed { id: entry as u32 });
        }
        Ok(Some((len - HEADER_LEN, entry)))
    }

    /// Copies the first bytes of frame `entry`. False if it goes on in another buffer, which no frame here needs.
    pub fn read(&self, entry: usize, into: &mut [u8]) -> bool {
        let at = entry * BUFFER_LEN;
        self.ring.data.read(at + DATA_AT, into);
        self.ring
            .data
            .load_u16(at + HEADER_AT + NUM_BUFFERS_AT, Relaxed)
            == u16::to_le(1)
    }

    /// Gives the buffers of all that [`Arrivals::take`] has answered back to the device.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    #[inline]
    pub fn accept(self) -> Result<(), FrontendError> {
        let given = self.ring.taken.wrapping_add(ENTRIES);
        if given == self.ring.given {
            return Ok(());
        }
        self.ring.given = given;
        self.ring.publish()
    }
}

/// One port's driver.
pub struct Port {
    // Keeps the connection; the device stops when it is closed. None where a test plays the device.
    _session: Option<Session>,
    receive: Ring,
    send: Ring,
    // Last: the rings above point into it.
    memory: GuestMemory,
}

impl Port {
    /// Connects to the port that listens at `path` (waiting up to ten seconds for it), posts all receive buffers and starts both queues.
    ///
    /// # Errors
    /// Any [`FrontendError`] of the session, the memory or the rings.
    pub fn open(path: &Path, backing: Backing) -> Result<Self, FrontendError> {
        let mut session = Session::connect_within(path, PATIENCE)?;
        let protocol = protocol_feature::MQ | protocol_feature::REPLY_ACK;
        let needed = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        session.negotiate(feature::NET_MRG_RXBUF, needed, protocol)?;
        let port = Self::unconnected(backing)?;
        session.set_mem_table(&port.memory)?;
        session.start_queue(0, &port.receive.queue, &port.memory)?;
        session.start_queue(1, &port.send.queue, &port.memory)?;
        Ok(Self {
            _session: Some(session),
            ..port
        })
    }

    /// Rings and buffers, with all receive buffers posted, and no device.
    fn unconnected(backing: Backing) -> Result<Self, FrontendError> {
        let ring_bytes = u64::from(ENTRIES) * (BUFFER_LEN as u64 + 64) + 0x10000;
        let size = (2 * ring_bytes).next_multiple_of(HUGE);
        let mut memory = GuestMemory::new(&[(BASE, size)], backing)?;
        let whole = (HEADER_LEN + FRAME_MAX) as u32;
        let mut receive = Ring::new(&mut memory, whole, true)?;
        let send = Ring::new(&mut memory, HEADER_LEN as u32, false)?;
        receive.given = ENTRIES;
        receive.avail.store_u16(2, ENTRIES, Release);
        Ok(Self {
            _session: None,
            receive,
            send,
            memory,
        })
    }

    /// Up to `most` received frames.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`].
    #[inline]
    pub fn arrivals(&mut self, most: usize) -> Result<Arrivals<'_>, FrontendError> {
        let left = usize::from(self.receive.returned()?).min(most) as u16;
        Ok(Arrivals {
            ring: &mut self.receive,
            left,
        })
    }

    /// Room for frames to send, up to `wanted`.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`].
    #[inline]
    pub fn room(&mut self, wanted: usize) -> Result<usize, FrontendError> {
        let ring = &mut self.send;
        let mut free = usize::from(ENTRIES - ring.given.wrapping_sub(ring.taken));
        while free < wanted {
            let returned = ring.returned()?;
            if returned == 0 {
                break;
            }
            for _ in 0..returned {
                ring.take()?;
            }
            free += usize::from(returned);
        }
        Ok(free.min(wanted))
    }

    /// Sends the next `count` frames of `plan`; [`Port::room`] must have said that there is room.
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`], [`FrontendError::Io`].
    #[inline]
    pub fn send_next(&mut self, plan: &mut Plan, count: usize) -> Result<(), FrontendError> {
        self.check_room(count)?;
        let ring = &mut self.send;
        // The device has read these lines last: all are asked for before the first is written.
        for ahead in 0..count as u16 {
            let entry = usize::from(ring.given.wrapping_add(ahead) & MASK);
            ring.data.prefetch(entry * BUFFER_LEN + DATA_AT);
        }
        for _ in 0..count {
            ring.put(plan.step());
        }
        ring.publish()
    }

    /// Sends one frame, if there is room for it.
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`], also for a frame over [`FRAME_MAX`] bytes; [`FrontendError::BadUsed`], [`FrontendError::Io`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), FrontendError> {
        self.room(1)?;
        self.check_room(1)?;
        if frame.len() > FRAME_MAX {
            return Err(FrontendError::QueueFull { free: 0, needed: 1 });
        }
        self.send.put(frame);
        self.send.publish()
    }

    fn check_room(&self, count: usize) -> Result<(), FrontendError> {
        let free = ENTRIES - self.send.given.wrapping_sub(self.send.taken);
        if count > usize::from(free) {
            return Err(FrontendError::QueueFull {
                free,
                needed: count,
            });
        }
        Ok(())
    }
}

impl Ring {
    /// Writes a frame into the next entry, unseen by the device so far.
    #[inline]
    fn put(&mut self, frame: &[u8]) {
        let entry = usize::from(self.given & MASK);
        self.data.write(entry * BUFFER_LEN + DATA_AT, frame);
        let len = (HEADER_LEN + frame.len()) as u32;
        if self.lens[entry] != len {
            self.lens[entry] = len;
            self.desc
                .store_u32(16 * entry + DESC_LEN_AT, len.to_le(), Relaxed);
        }
        self.given = self.given.wrapping_add(1);
    }
}

/// The device's end of a port, for tests: takes what was sent and delivers what is to be received, through the shared memory alone.
#[cfg(test)]
pub mod device {
    use super::*;

    /// One ring as a device sees it.
    struct Seen {
        desc: Window,
        avail: Window,
        used: Window,
        data: Window,
        data_gpa: u64,
        next: u16,
    }

    impl Seen {
        fn of(ring: &Ring, memory: &GuestMemory) -> Self {
            let (layout, entries) = (ring.queue.layout(), u64::from(ENTRIES));
            let desc = memory.window(layout.desc, 16 * entries).unwrap();
            let data_gpa = u64::from_le(desc.load_u64(0, Relaxed)) - HEADER_AT as u64;
            Self {
                avail: memory.window(layout.avail, 6 + 2 * entries).unwrap(),
                used: memory.window(layout.used, 6 + 8 * entries).unwrap(),
                data: memory
                    .window(data_gpa, entries * BUFFER_LEN as u64)
                    .unwrap(),
                desc,
                data_gpa,
                next: 0,
            }
        }

        /// The next available buffer: its number, where it is in the data, its bytes.
        fn available(&self) -> Option<(u16, usize, usize)> {
            if self.avail.load_u16(2, Acquire) == self.next {
                return None;
            }
            let head = self
                .avail
                .load_u16(4 + 2 * usize::from(self.next & MASK), Relaxed);
            let at = 16 * usize::from(head);
            let place = self.desc.load_u64(at, Relaxed) - self.data_gpa;
            Some((
                head,
                place as usize,
                self.desc.load_u32(at + 8, Relaxed) as usize,
            ))
        }

        fn give_back(&mut self, head: u16, len: usize) {
            let place = usize::from(self.next & MASK);
            self.used.store_u32(4 + 8 * place, head.into(), Relaxed);
            self.used.store_u32(8 + 8 * place, len as u32, Relaxed);
            self.next = self.next.wrapping_add(1);
            self.used.store_u16(2, self.next, Release);
        }
    }

    /// The device of one port.
    pub struct Device {
        sent: Seen,
        receive: Seen,
    }

    /// A port and its device.
    pub fn pair() -> (Port, Device) {
        let port = Port::unconnected(Backing::Pages).unwrap();
        let device = Device {
            sent: Seen::of(&port.send, &port.memory),
            receive: Seen::of(&port.receive, &port.memory),
        };
        (port, device)
    }

    impl Device {
        /// The next frame that the port has sent.
        pub fn take(&mut self) -> Option<Vec<u8>> {
            let (head, place, len) = self.sent.available()?;
            let mut frame = vec![0; len - HEADER_LEN];
            self.sent.data.read(place + HEADER_LEN, &mut frame);
            self.sent.give_back(head, 0);
            Some(frame)
        }

        /// Puts a frame into the port's receive ring, which must have room.
        pub fn deliver(&mut self, frame: &[u8]) {
            let (head, place, len) = self.receive.available().unwrap();
            assert!(len >= HEADER_LEN + frame.len());
            let mut header = [0; HEADER_LEN];
            header[NUM_BUFFERS_AT] = 1;
            self.receive.data.write(place, &header);
            self.receive.data.write(place + HEADER_LEN, frame);
            self.receive.give_back(head, HEADER_LEN + frame.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Addresses, udp};
    use super::super::plan::{Field, Sequence, Way, Wheel};
    use super::*;
    use std::net::Ipv4Addr;

    fn rings() -> (GuestMemory, Ring, Ring) {
        let mut memory = GuestMemory::new(&[(BASE, 8 << 20)], Backing::Pages).unwrap();
        let whole = (HEADER_LEN + FRAME_MAX) as u32;
        let mut receive = Ring::new(&mut memory, whole, true).unwrap();
        receive.given = ENTRIES;
        let send = Ring::new(&mut memory, HEADER_LEN as u32, false).unwrap();
        (memory, receive, send)
    }

    /// Plays a device that returns entry `id` in place `index` of the used ring.
    fn give_back(ring: &Ring, index: u16, id: u32, len: u32) {
        let place = usize::from(index & MASK);
        ring.used.store_u32(4 + 8 * place, id, Relaxed);
        ring.used.store_u32(8 + 8 * place, len, Relaxed);
        ring.used.store_u16(2, index.wrapping_add(1), Release);
    }

    fn plan() -> Plan {
        let addresses = Addresses {
            mac: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
            ipv4: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 0)],
            udp: [1000, 53],
        };
        let wheel = Wheel {
            fields: &[Field::UdpSrc],
            first: 1000,
            count: 7,
        };
        Plan::new(
            udp(&addresses, 64),
            Sequence::Wheels(vec![wheel]),
            Way::Unchanged,
        )
    }

    /// What the ring sends is what a device finds by the addresses of the descriptors; over the wrap of the 16-bit indices.
    #[test]
    fn frames_go_through_a_device_that_copies_from_ring_to_ring() {
        let (memory, mut receive, mut send) = rings();
        let (mut plan, mut expected) = (plan(), plan());
        let (send_layout, receive_layout) = (send.queue.layout(), receive.queue.layout());
        let buffer = |table: u64, entry: u16| {
            let desc = memory.window(table + 16 * u64::from(entry), 16).unwrap();
            (desc.load_u64(0, Relaxed), desc.load_u32(8, Relaxed))
        };
        for index in 0..70_000u32 {
            let index = index as u16;
            send.put(plan.step());
            send.publish().unwrap();
            let (from, len) = buffer(send_layout.desc, index & MASK);
            assert_eq!(len, 76);
            let (to, room) = buffer(receive_layout.desc, index & MASK);
            assert!(room >= len);
            let mut bytes = [0; 76];
            memory.window(from, 76).unwrap().read(0, &mut bytes);
            assert_eq!(bytes[..HEADER_LEN], [0; HEADER_LEN]);
            bytes[NUM_BUFFERS_AT] = 1;
            memory.window(to, 76).unwrap().write(0, &bytes);
            give_back(&send, index, (index & MASK).into(), 0);
            give_back(&receive, index, (index & MASK).into(), 76);

            assert_eq!(send.returned().unwrap(), 1);
            send.take().unwrap();
            assert_eq!(receive.returned().unwrap(), 1);
            let mut arrivals = Arrivals {
                ring: &mut receive,
                left: 1,
            };
            let (len, entry) = arrivals.take().unwrap().unwrap();
            let mut frame = [0; 64];
            assert!(arrivals.read(entry, &mut frame[..len]));
            assert_eq!(frame, expected.step());
            assert_eq!(arrivals.take().unwrap(), None);
            arrivals.accept().unwrap();
            assert_eq!(
                receive.avail.load_u16(2, Relaxed),
                index.wrapping_add(1).wrapping_add(ENTRIES)
            );
        }
    }

    #[test]
    fn a_device_that_breaks_the_order_or_the_rules_is_refused() {
        let (_memory, mut receive, mut send) = rings();
        give_back(&receive, 0, 1, 76);
        assert_eq!(receive.returned().unwrap(), 1);
        assert!(matches!(
            receive.take(),
            Err(FrontendError::BadUsed { id: 1 })
        ));
        for len in [HEADER_LEN as u32 - 1, (HEADER_LEN + FRAME_MAX) as u32 + 1] {
            let (_memory, mut receive, _) = rings();
            give_back(&receive, 0, 0, len);
            receive.returned().unwrap();
            let mut arrivals = Arrivals {
                ring: &mut receive,
                left: 1,
            };
            assert!(
                matches!(arrivals.take(), Err(FrontendError::BadUsed { id: 0 })),
                "{len}"
            );
        }
        // Nothing was sent yet.
        give_back(&send, 0, 0, 0);
        assert!(matches!(
            send.returned(),
            Err(FrontendError::BadUsed { id: 1 })
        ));
    }
}

//! The split ring against a driver written in the test, and against arbitrary ring contents.

use super::*;
use crate::memory::RegionSpec;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const BASE: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
const MEMORY: u64 = 0x2_0000;
const TABLE: u64 = 0;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x1_0000;

struct Driver {
    memory: Arc<GuestMemory>,
    size: u16,
    index: u16,
}

impl Driver {
    fn new(size: u16) -> Self {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, MEMORY).unwrap();
        let spec = RegionSpec {
            guest_address: BASE,
            size: MEMORY,
            user_address: USER,
            mmap_offset: 0,
        };
        Self {
            memory: GuestMemory::map(vec![(spec, fd)]).unwrap(),
            size,
            index: 0,
        }
    }

    fn queue(&self, event_idx: bool) -> SplitQueue {
        let layout = SplitLayout {
            size: self.size,
            descriptor_table: USER + TABLE,
            driver_area: USER + AVAIL,
            device_area: USER + USED,
            last_available: 0,
            event_idx,
            indirect: true,
        };
        SplitQueue::new(layout, self.memory.clone()).unwrap()
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let slice = self
            .memory
            .translate(BASE + offset, bytes.len() as u32)
            .unwrap();
        // SAFETY: `memory` is alive.
        unsafe { slice.write(bytes) };
    }

    fn read_u16(&self, offset: u64) -> u16 {
        // SAFETY: `memory` is alive.
        unsafe {
            self.memory
                .translate(BASE + offset, 2)
                .unwrap()
                .load(0)
                .unwrap()
        }
    }

    fn descriptor(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + u64::from(index) * 16, &bytes);
    }

    fn offer(&mut self, head: u16) {
        self.write(
            AVAIL + 4 + u64::from(self.index % self.size) * 2,
            &head.to_le_bytes(),
        );
        self.index = self.index.wrapping_add(1);
        self.write(AVAIL + 2, &self.index.to_le_bytes());
    }
}

fn peek(queue: &mut SplitQueue) -> Result<(Chain, Vec<GuestSlice>), RingError> {
    let mut list = Vec::new();
    assert!(queue.available(1)? >= 1);
    queue.peek(0, &mut list).map(|chain| (chain, list))
}

#[test]
fn chains_are_taken_in_order_and_given_back_in_any() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(false);
    for i in 0..3 {
        driver.descriptor(
            TABLE,
            i,
            BASE + BUFFERS + u64::from(i) * 256,
            100 + u32::from(i),
            0,
            0,
        );
        driver.offer(i);
    }
    assert_eq!(queue.available(32).unwrap(), 3);
    let mut list = Vec::new();
    for i in 0..3 {
        let chain = queue.peek(i, &mut list).unwrap();
        assert_eq!(
            (chain.head, chain.readable_len, chain.readable(&list).len()),
            (i, 100 + u32::from(i), 1)
        );
    }
    queue.take(3);
    assert_eq!(queue.available(1).unwrap(), 0);
    for head in [2, 0, 1] {
        queue.complete(head, 7);
    }
    assert_eq!(driver.read_u16(USED + 2), 0, "not shown before publish");
    queue.publish();
    assert_eq!(driver.read_u16(USED + 2), 3);
    assert_eq!(
        [0, 8, 16].map(|at| driver.read_u16(USED + 4 + at)),
        [2, 0, 1]
    );
}

#[test]
fn a_chain_has_readable_then_writable_parts_direct_and_indirect() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(false);
    driver.descriptor(TABLE, 1, BASE + BUFFERS, 16, DESC_NEXT, 4);
    driver.descriptor(
        TABLE,
        4,
        BASE + BUFFERS + 64,
        512,
        DESC_NEXT | DESC_WRITE,
        2,
    );
    driver.descriptor(TABLE, 2, BASE + BUFFERS + 1024, 1, DESC_WRITE, 0);
    driver.offer(1);
    let (chain, list) = peek(&mut queue).unwrap();
    assert_eq!(
        (
            chain.readable,
            chain.readable_len,
            chain.writable,
            chain.writable_len
        ),
        (1, 16, 2, 513)
    );
    assert_eq!(chain.writable(&list)[1].len(), 1);
    queue.take(1);
    let table = BUFFERS + 0x800;
    for i in 0..20 {
        driver.descriptor(
            table,
            i,
            BASE + BUFFERS,
            10,
            if i < 19 { DESC_NEXT } else { 0 },
            i + 1,
        );
    }
    driver.descriptor(TABLE, 3, BASE + table, 20 * 16, DESC_INDIRECT, 0);
    driver.offer(3);
    let (chain, _) = peek(&mut queue).unwrap();
    assert_eq!(
        (chain.readable, chain.readable_len),
        (20, 200),
        "an indirect chain may be longer than the ring"
    );
}

#[test]
fn every_breach_has_its_error() {
    type Setup = fn(&mut Driver);
    type Expected = fn(&RingError) -> bool;
    let cases: &[(Setup, Expected)] = &[
        (
            |d| d.offer(8),
            |e| matches!(e, RingError::DescriptorIndex { index: 8, size: 8 }),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 4, DESC_NEXT, 9),
            |e| matches!(e, RingError::DescriptorIndex { index: 9, .. }),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 4, DESC_NEXT, 0),
            |e| matches!(e, RingError::ChainTooLong(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE - 1, 4, 0, 0),
            |e| matches!(e, RingError::Address { .. }),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE + MEMORY - 2, 4, 0, 0),
            |e| matches!(e, RingError::Address { .. }),
        ),
        (
            |d| d.descriptor(TABLE, 0, u64::MAX - 2, u32::MAX, 0, 0),
            |e| matches!(e, RingError::Address { .. }),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, u32::MAX, 0, 0),
            |e| matches!(e, RingError::Address { .. }),
        ),
        (
            |d| {
                d.descriptor(TABLE, 0, BASE, 4, DESC_NEXT | DESC_WRITE, 1);
                d.descriptor(TABLE, 1, BASE, 4, 0, 0);
            },
            |e| matches!(e, RingError::ReadableAfterWritable(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 0, DESC_INDIRECT, 0),
            |e| matches!(e, RingError::Indirect(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 17, DESC_INDIRECT, 0),
            |e| matches!(e, RingError::Indirect(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 16, DESC_INDIRECT | DESC_NEXT, 0),
            |e| matches!(e, RingError::Indirect(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE, 16 * 2000, DESC_INDIRECT, 0),
            |e| matches!(e, RingError::Indirect(0)),
        ),
        (
            |d| d.descriptor(TABLE, 0, BASE - 16, 16, DESC_INDIRECT, 0),
            |e| matches!(e, RingError::Address { .. }),
        ),
        (
            |d| {
                d.descriptor(TABLE, 0, BASE + BUFFERS, 16, DESC_INDIRECT, 0);
                d.descriptor(BUFFERS, 0, BASE + BUFFERS, 16, DESC_INDIRECT, 0);
            },
            |e| matches!(e, RingError::Indirect(0)),
        ),
        (
            |d| {
                d.descriptor(TABLE, 0, BASE + BUFFERS, 32, DESC_INDIRECT, 0);
                d.descriptor(BUFFERS, 0, BASE + BUFFERS, 16, DESC_NEXT, 2);
            },
            |e| matches!(e, RingError::DescriptorIndex { index: 2, size: 2 }),
        ),
        (
            |d| {
                d.descriptor(TABLE, 0, BASE + BUFFERS, 32, DESC_INDIRECT, 0);
                d.descriptor(BUFFERS, 0, BASE + BUFFERS, 16, DESC_NEXT, 1);
                d.descriptor(BUFFERS, 1, BASE + BUFFERS, 16, DESC_NEXT, 0);
            },
            |e| matches!(e, RingError::ChainTooLong(0)),
        ),
    ];
    for (number, (setup, expected)) in cases.iter().enumerate() {
        let mut driver = Driver::new(8);
        let mut queue = driver.queue(false);
        setup(&mut driver);
        if driver.index == 0 {
            driver.offer(0);
        }
        let error = peek(&mut queue).unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
    }
}

#[test]
fn an_available_index_that_jumps_is_refused() {
    let driver = Driver::new(8);
    let mut queue = driver.queue(false);
    driver.write(AVAIL + 2, &9_u16.to_le_bytes());
    assert_eq!(
        queue.available(1),
        Err(RingError::AvailableIndex {
            index: 9,
            ahead: 9,
            size: 8
        })
    );
    driver.write(AVAIL + 2, &u16::MAX.to_le_bytes());
    assert!(queue.available(1).is_err(), "and so is one that goes back");
}

#[test]
fn bad_layouts_are_refused() {
    let driver = Driver::new(8);
    let layout = |size, table, avail, used| SplitLayout {
        size,
        descriptor_table: table,
        driver_area: avail,
        device_area: used,
        last_available: 0,
        event_idx: false,
        indirect: false,
    };
    let error = |l| SplitQueue::new(l, driver.memory.clone()).unwrap_err();
    let good = (USER + TABLE, USER + AVAIL, USER + USED);
    for size in [0, 3, 65535] {
        assert_eq!(
            error(layout(size, good.0, good.1, good.2)),
            RingError::Size(size)
        );
    }
    for (table, avail, used) in [
        (good.0 + 8, good.1, good.2),
        (good.0, good.1 + 1, good.2),
        (good.0, good.1, good.2 + 2),
        (USER + MEMORY - 64, good.1, good.2),
        (0, good.1, good.2),
    ] {
        assert!(matches!(
            error(layout(8, table, avail, used)),
            RingError::Area { .. }
        ));
    }
}

#[test]
fn notifications_follow_flags_and_event_index() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(false);
    queue.disarm();
    assert_eq!(driver.read_u16(USED), USED_NO_NOTIFY);
    assert!(!queue.arm().unwrap());
    assert_eq!(driver.read_u16(USED), 0);
    driver.offer(0);
    assert!(
        queue.arm().unwrap(),
        "a chain that came before arming must not be slept over"
    );
    queue.complete(0, 0);
    queue.publish();
    assert!(queue.wants_notification());
    assert!(!queue.wants_notification(), "once per publication");
    driver.write(AVAIL, &AVAIL_NO_INTERRUPT.to_le_bytes());
    queue.complete(0, 0);
    queue.publish();
    assert!(!queue.wants_notification());

    let driver = Driver::new(8);
    let mut queue = driver.queue(true);
    let used_event = AVAIL + 4 + 16;
    driver.write(used_event, &1_u16.to_le_bytes());
    queue.complete(0, 0);
    queue.publish();
    assert!(
        !queue.wants_notification(),
        "the driver asked for the second"
    );
    queue.complete(0, 0);
    queue.publish();
    assert!(queue.wants_notification());
}

proptest! {
    /// Whatever the ring says, peeking ends, stays in memory, and reports lengths that add up.
    #[test]
    fn arbitrary_rings_do_no_harm(
        table in proptest::collection::vec((0_u64..0x3_0000, 0_u32..0x3_0000, 0_u16..8, 0_u16..12), 8),
        heads in proptest::collection::vec(0_u16..10, 8),
        index in 0_u16..10,
    ) {
        let driver = Driver::new(8);
        for (i, (address, len, flags, next)) in table.into_iter().enumerate() {
            // Mostly inside memory, so that chains get somewhere; indirect tables then point back at the descriptors.
            driver.descriptor(TABLE, i as u16, BASE + address, len, flags, next);
        }
        for (i, head) in heads.into_iter().enumerate() {
            driver.write(AVAIL + 4 + i as u64 * 2, &head.to_le_bytes());
        }
        driver.write(AVAIL + 2, &index.to_le_bytes());
        let mut queue = driver.queue(true);
        let mut list = Vec::new();
        let Ok(count) = queue.available(8) else { return Ok(()) };
        for ahead in 0..count {
            let before = list.len();
            match queue.peek(ahead, &mut list) {
                Ok(chain) => {
                    let sum = |slices: &[GuestSlice]| slices.iter().map(|s| u64::from(s.len())).sum::<u64>();
                    prop_assert_eq!(sum(chain.readable(&list)), u64::from(chain.readable_len));
                    prop_assert_eq!(sum(chain.writable(&list)), u64::from(chain.writable_len));
                    let start = driver.memory.translate(BASE, 1).unwrap().as_ptr() as u64;
                    for slice in &list[before..] {
                        let at = slice.as_ptr() as u64;
                        prop_assert!(at >= start && at + u64::from(slice.len()) <= start + MEMORY);
                    }
                }
                Err(_) => prop_assert_eq!(list.len(), before),
            }
        }
    }
}

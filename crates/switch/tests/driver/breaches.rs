//! Breaches of the split ring's rules (Virtio 1.2, 2.7.5 to 2.7.8), one by one. Nothing here is a breach of what a frame may be.

use sumeru_virtio::RingError;

use super::ring::{INDIRECT, NEXT, Ring, SIZE, WRITE, descriptor};

/// What is done to a ring whose first entries are free, and what the switch must say. `flags` is the right direction of a buffer there.
pub type Breach = (&'static str, fn(&mut Ring, u16), fn(&RingError) -> bool);

/// Makes the chain at descriptor 200 available.
pub fn offer(ring: &mut Ring) {
    ring.offer(200);
    ring.publish();
}

/// A chain of one indirect descriptor whose table holds these.
fn indirect(ring: &mut Ring, len: u32, table: &[[u8; 16]]) {
    let at = ring.allocate(0x8000).next_multiple_of(16);
    for (i, descriptor) in table.iter().enumerate() {
        ring.memory.write(at + 16 * i as u64, descriptor);
    }
    ring.descriptor(200, at, len, INDIRECT, 0);
    offer(ring);
}

/// Every breach of the ring's rules, in either direction.
pub const BREACHES: &[Breach] = &[
    (
        "a head outside the table",
        |ring, _| {
            ring.offer(SIZE);
            ring.publish();
        },
        |e| {
            *e == RingError::DescriptorIndex {
                index: SIZE,
                size: SIZE,
            }
        },
    ),
    (
        "a head far outside the table",
        |ring, _| {
            ring.offer(u16::MAX);
            ring.publish();
        },
        |e| {
            matches!(
                e,
                RingError::DescriptorIndex {
                    index: u16::MAX,
                    ..
                }
            )
        },
    ),
    (
        "a next index outside the table",
        |ring, flags| {
            let at = ring.allocate(64);
            ring.descriptor(200, at, 64, flags | NEXT, SIZE);
            offer(ring);
        },
        |e| {
            *e == RingError::DescriptorIndex {
                index: SIZE,
                size: SIZE,
            }
        },
    ),
    (
        "a descriptor that follows itself",
        |ring, flags| {
            let at = ring.allocate(64);
            ring.descriptor(200, at, 1, flags | NEXT, 200);
            offer(ring);
        },
        |e| *e == RingError::ChainTooLong(200),
    ),
    (
        "a loop of two",
        |ring, flags| {
            let at = ring.allocate(64);
            ring.descriptor(200, at, 32, flags | NEXT, 201);
            ring.descriptor(201, at, 32, flags | NEXT, 200);
            offer(ring);
        },
        |e| *e == RingError::ChainTooLong(200),
    ),
    (
        "an address outside memory",
        |ring, flags| {
            ring.descriptor(200, 1 << 40, 64, flags, 0);
            offer(ring);
        },
        |e| {
            matches!(
                e,
                RingError::Address {
                    address: 0x100_0000_0000,
                    len: 64
                }
            )
        },
    ),
    (
        "an address whose end wraps",
        |ring, flags| {
            ring.descriptor(200, u64::MAX - 10, 64, flags, 0);
            offer(ring);
        },
        |e| matches!(e, RingError::Address { .. }),
    ),
    (
        "a length past the end of the region",
        |ring, flags| {
            ring.descriptor(200, ring.memory.size - 32, 64, flags, 0);
            offer(ring);
        },
        |e| matches!(e, RingError::Address { len: 32, .. }),
    ),
    (
        "the largest length",
        |ring, flags| {
            ring.descriptor(200, 0x1000, u32::MAX, flags, 0);
            offer(ring);
        },
        |e| matches!(e, RingError::Address { .. }),
    ),
    (
        "a readable buffer behind a writable one",
        |ring, _| {
            let at = ring.allocate(128);
            ring.descriptor(200, at, 64, WRITE | NEXT, 201);
            ring.descriptor(201, at, 64, 0, 0);
            offer(ring);
        },
        |e| *e == RingError::ReadableAfterWritable(200),
    ),
    (
        "an available index more than a ring ahead",
        |ring, _| ring.set_available(ring.avail.wrapping_add(SIZE + 1)),
        |e| matches!(e, RingError::AvailableIndex { ahead, size: SIZE, .. } if *ahead > SIZE),
    ),
    (
        "an available index that goes back",
        |ring, _| ring.set_available(ring.used.wrapping_sub(1)),
        |e| {
            matches!(
                e,
                RingError::AvailableIndex {
                    ahead: u16::MAX,
                    ..
                }
            )
        },
    ),
    (
        "an indirect table of no length",
        |ring, _| indirect(ring, 0, &[]),
        |e| *e == RingError::Indirect(200),
    ),
    (
        "an indirect table of half a descriptor",
        |ring, _| indirect(ring, 24, &[]),
        |e| *e == RingError::Indirect(200),
    ),
    (
        "an indirect table longer than any chain",
        |ring, _| indirect(ring, 16 * 1025, &[]),
        |e| *e == RingError::Indirect(200),
    ),
    (
        "an indirect table in an indirect table",
        |ring, _| indirect(ring, 16, &[descriptor(0x1000, 16, INDIRECT, 0)]),
        |e| *e == RingError::Indirect(200),
    ),
    (
        "an indirect descriptor with a next one",
        |ring, _| {
            ring.descriptor(200, 0x1000, 16, INDIRECT | NEXT, 201);
            offer(ring);
        },
        |e| *e == RingError::Indirect(200),
    ),
    (
        "an indirect table outside memory",
        |ring, _| {
            ring.descriptor(200, 1 << 40, 16, INDIRECT, 0);
            offer(ring);
        },
        |e| matches!(e, RingError::Address { len: 16, .. }),
    ),
    (
        "a next index outside an indirect table",
        |ring, flags| indirect(ring, 32, &[descriptor(0x1000, 1, flags | NEXT, 2)]),
        |e| *e == RingError::DescriptorIndex { index: 2, size: 2 },
    ),
    (
        "a loop in an indirect table",
        |ring, flags| indirect(ring, 32, &[descriptor(0x1000, 1, flags | NEXT, 0)]),
        |e| *e == RingError::ChainTooLong(200),
    ),
];

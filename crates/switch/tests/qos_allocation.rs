//! Quality of service allocates nothing for a frame: counted by the allocator itself.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sumeru_switch::qos::bucket::Rate;
use sumeru_switch::qos::codel::CodelConfig;
use sumeru_switch::qos::fifo::Frame;
use sumeru_switch::qos::limit::{Limit, Limiter};
use sumeru_switch::qos::meter::{Colour, Marker, Profile};
use sumeru_switch::qos::meter_table::{MeterTable, Policy};
use sumeru_switch::qos::node::{ClassConfig, PortConfig, Shape, TenantConfig};
use sumeru_switch::qos::scheduler::Scheduler;

const NS: u64 = 1_000_000_000;

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|cell| cell.set(cell.get() + 1));
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn meters_and_limits_allocate_nothing_for_a_frame() {
    let mut table = MeterTable::new(4, NS).unwrap();
    let marker = Marker::TwoRate {
        cir: Rate::Bits(1_000_000),
        cbs: 2_000,
        pir: Rate::Bits(2_000_000),
        pbs: 2_000,
    };
    let profile = Profile {
        marker,
        colour_aware: false,
    };
    let id = table.create(&profile, Policy::default(), 0).unwrap();
    let limit = Limit {
        packets: Some((1_000, 10)),
        bits: Some((1_000_000, 2_000)),
    };
    let mut limiter = Limiter::new(limit, NS, 0).unwrap();
    let counted = allocations(|| {
        for now in (0..NS).step_by(100_000) {
            table.apply(id, 1_000, Colour::Green, now).unwrap();
            limiter.admit(1_000, now);
        }
    });
    assert_eq!(counted, 0);
}

#[test]
fn the_scheduler_allocates_nothing_for_a_frame() {
    let shape = |bits_per_s| {
        Some(Shape {
            bits_per_s,
            burst: 3_000,
        })
    };
    let config = PortConfig {
        ticks_per_s: NS,
        shape: shape(100_000_000),
        frames: 64 * 8,
        framing: 24,
    };
    let mut scheduler = Scheduler::new(config, 0).unwrap();
    let mut classes = Vec::new();
    for i in 0..64u8 {
        let tenant = TenantConfig {
            priority: i % 8,
            weight: 1 + u16::from(i),
            // All of them are held now and then, so the heap of those that wait is full at times.
            shape: shape(1_000_000),
        };
        let tenant = scheduler.add_tenant(&tenant, 0).unwrap();
        let class = ClassConfig {
            priority: 0,
            weight: 1,
            frames: 8,
            bytes: 100_000,
            codel: Some(CodelConfig {
                target: 1_000_000,
                interval: 10_000_000,
            }),
        };
        classes.push(scheduler.add_class(tenant, &class).unwrap());
    }
    let mut sent = 0u64;
    let counted = allocations(|| {
        for now in (0..NS).step_by(200_000) {
            for (handle, class) in (0u32..).zip(&classes) {
                let frame = Frame {
                    handle,
                    len: 60 + handle * 20,
                    ecn: handle % 2 == 0,
                };
                let _ = scheduler.enqueue(*class, frame, now);
            }
            while scheduler.dequeue(now).is_some() {
                sent += 1;
            }
            scheduler.next_event(now);
        }
    });
    assert!(sent > 5_000, "{sent}");
    assert_eq!(counted, 0);
}

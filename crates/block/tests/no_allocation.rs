//! Steady state allocates nothing on the lcore: counted by the allocator itself, for each kind of disk.
#![allow(clippy::unwrap_used, unsafe_code)]

mod driver;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use driver::*;
use sumeru_block::*;
use sumeru_virtio::device::VirtioDevice;
use uuid::Uuid;

/// Counts what marked threads allocate.
struct Counting;

thread_local! {
    static MARKED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if MARKED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
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

const DISK: u64 = 4 << 20;

/// Runs `rounds` of 16 requests at once: reads, writes, flushes.
fn drive(queue: &mut Queue, rounds: u64) {
    for round in 0..rounds {
        for i in 0..16_u16 {
            queue.offer(i * 4);
        }
        queue.kick.signal();
        for _ in 0..16 {
            queue.wait();
        }
        if round == 0 {
            for i in 0..16_u64 {
                assert_eq!(
                    queue.memory.read(BUFFERS + i * 8192 + 5000, 1),
                    [0],
                    "status of request {i}"
                );
            }
        }
    }
}

fn lay_out(queue: &mut Queue) {
    for i in 0..16_u16 {
        let (base, first) = (BUFFERS + u64::from(i) * 8192, i * 4);
        let kind = [0_u32, 1, 0, 4][usize::from(i % 4)];
        queue
            .memory
            .write(base + 4096, &header(kind, u64::from(i) * 8));
        queue.memory.write(base + 5000, &[0xff]);
        let flags = if kind == 0 { WRITE | NEXT } else { NEXT };
        queue.descriptor(first, base + 4096, 16, NEXT, first + 1);
        queue.descriptor(first + 1, base, 4096, flags, first + 2);
        queue.descriptor(first + 2, base + 5000, 1, WRITE, 0);
    }
}

fn allocations(disk: Arc<dyn Bdev>) -> u64 {
    let lcore = lcore();
    let name = disk.info().name;
    let options = BlkOptions {
        name,
        serial: String::new(),
        queues: 1,
        lcores: vec![lcore.clone()],
    };
    let mut device = VirtioBlk::new(disk, options).unwrap();
    let mut queue = Queue::new(&Memory::new(), 0);
    lay_out(&mut queue);
    queue.start(&mut device, FEATURES | FLUSH);
    drive(&mut queue, 50);
    lcore.call(|_| MARKED.set(true)).unwrap();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drive(&mut queue, 200);
    let counted = ALLOCATIONS.load(Ordering::SeqCst) - before;
    lcore
        .call(|_| drop(std::hint::black_box(Box::new(1))))
        .unwrap();
    assert!(
        ALLOCATIONS.load(Ordering::SeqCst) > before + counted,
        "the counter counts"
    );
    device.stop_queue(0).unwrap();
    counted
}

#[test]
fn null_memory_and_file_disks_allocate_nothing_per_io() {
    let null = Arc::new(NullDisk::new("null", Uuid::new_v4(), DISK, 512).unwrap());
    assert_eq!(allocations(null), 0, "null");
    let memory = Arc::new(MemoryDisk::new("memory", Uuid::new_v4(), DISK, 512).unwrap());
    assert_eq!(allocations(memory), 0, "memory");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("alloc-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let options = FileOptions {
        create: Some(DISK),
        ..FileOptions::default()
    };
    let file = FileDisk::open("file", Uuid::new_v4(), &path, &options).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(allocations(Arc::new(file)), 0, "file");
}

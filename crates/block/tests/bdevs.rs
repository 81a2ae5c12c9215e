//! Every base module against a model: random operations, split and unaligned buffers, resizes, bad ranges.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sumeru_block::*;
use sumeru_engine::{IoBuffer, LcoreContext};
use uuid::Uuid;

const SIZE: usize = 1 << 20;

fn finish(cx: &LcoreContext, mut future: IoFuture) -> IoResult {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut task = Context::from_waker(Waker::noop());
        if let Poll::Ready(result) = Pin::new(&mut future).poll(&mut task) {
            return result;
        }
        assert!(Instant::now() < deadline, "no completion");
        cx.poll();
    }
}

fn path(name: &str) -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("{name}-{}", std::process::id()))
}

struct TempFile(std::path::PathBuf);
impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file_disk(name: &str, direct: Direct) -> (TempFile, FileDisk) {
    let path = path(name);
    let _ = std::fs::remove_file(&path);
    let options = FileOptions {
        create: Some(SIZE as u64),
        direct,
        ..FileOptions::default()
    };
    let disk = FileDisk::open(name, Uuid::new_v4(), &path, &options).unwrap();
    (TempFile(path), disk)
}

/// One step; blocks of 512 bytes.
#[derive(Clone, Debug)]
enum Step {
    Read {
        block: u64,
        blocks: u64,
        cuts: Vec<usize>,
        shift: usize,
    },
    Write {
        block: u64,
        blocks: u64,
        cuts: Vec<usize>,
        shift: usize,
        fill: u8,
        fua: bool,
    },
    Zero {
        block: u64,
        blocks: u64,
        unmap: bool,
    },
    Discard {
        block: u64,
        blocks: u64,
    },
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = (SIZE / 512) as u64;
    let range = (0..blocks + 8, 1..64_u64);
    let cuts = prop::collection::vec(prop_oneof![1..5000_usize, Just(512), Just(4096)], 0..4);
    let shift = prop_oneof![Just(0_usize), Just(512), 1..64_usize];
    prop::collection::vec(
        prop_oneof![
            (range.clone(), cuts.clone(), shift.clone()).prop_map(
                |((block, blocks), cuts, shift)| {
                    Step::Read {
                        block,
                        blocks,
                        cuts,
                        shift,
                    }
                }
            ),
            (range.clone(), cuts, shift, any::<u8>(), any::<bool>()).prop_map(
                |((block, blocks), cuts, shift, fill, fua)| Step::Write {
                    block,
                    blocks,
                    cuts,
                    shift,
                    fill,
                    fua
                }
            ),
            (range.clone(), any::<bool>()).prop_map(|((block, blocks), unmap)| Step::Zero {
                block,
                blocks,
                unmap
            }),
            range.prop_map(|(block, blocks)| Step::Discard { block, blocks }),
            Just(Step::Flush),
        ],
        1..40,
    )
}

/// A buffer whose data starts `shift` bytes after a page, in the given pieces.
fn list(len: usize, cuts: &[usize], shift: usize) -> (Rc<IoBuffer>, SegmentList) {
    let buffer = Rc::new(IoBuffer::new(shift + len).unwrap());
    let mut lengths = vec![shift];
    lengths.extend(cuts);
    let mut list = SegmentList::over(&buffer, &lengths);
    if shift > 0 {
        list = list.skip_first();
    }
    (buffer, list)
}

/// Discarded blocks read as zeroes in every base module, though nothing promises that to guests.
fn run(cx: &LcoreContext, disk: &dyn Bdev, steps: &[Step]) {
    let channel = disk.open(cx).unwrap();
    let mut model = vec![0_u8; SIZE];
    for step in steps {
        let (block, blocks) = match step {
            Step::Read { block, blocks, .. }
            | Step::Write { block, blocks, .. }
            | Step::Zero { block, blocks, .. }
            | Step::Discard { block, blocks } => (*block, *blocks),
            Step::Flush => (0, 0),
        };
        let (offset, len) = (block * 512, blocks * 512);
        let fits = offset + len <= SIZE as u64;
        let (from, to) = (offset as usize, (offset + len) as usize);
        let result = match step {
            Step::Read { cuts, shift, .. } => {
                let (buffer, list) = list(len as usize, cuts, *shift);
                let buffers = list.segments();
                let result = finish(cx, channel.submit(Operation::Read { offset, buffers }));
                if fits {
                    let mut seen = vec![0; len as usize];
                    buffer.read(*shift, &mut seen);
                    assert_eq!(seen, model[from..to]);
                }
                result
            }
            Step::Write {
                cuts,
                shift,
                fill,
                fua,
                ..
            } => {
                let (buffer, list) = list(len as usize, cuts, *shift);
                let data: Vec<u8> = (0..len as usize)
                    .map(|i| (i as u8).wrapping_mul(31) ^ fill)
                    .collect();
                buffer.write(*shift, &data);
                let (buffers, fua) = (list.segments(), *fua);
                let result = finish(
                    cx,
                    channel.submit(Operation::Write {
                        offset,
                        buffers,
                        fua,
                    }),
                );
                if fits {
                    model[from..to].copy_from_slice(&data);
                }
                assert_eq!(
                    Rc::strong_count(&buffer),
                    2,
                    "only the list holds it after completion"
                );
                result
            }
            Step::Zero { unmap, .. } => {
                let unmap = *unmap;
                let result = finish(
                    cx,
                    channel.submit(Operation::WriteZeroes { offset, len, unmap }),
                );
                if fits {
                    model[from..to].fill(0);
                }
                result
            }
            Step::Discard { .. } => {
                let result = finish(cx, channel.submit(Operation::Discard { offset, len }));
                if fits {
                    model[from..to].fill(0);
                }
                result
            }
            Step::Flush => finish(cx, channel.submit(Operation::Flush)),
        };
        if fits {
            assert_eq!(result, Ok(()), "{step:?}");
        } else {
            assert!(
                matches!(result, Err(IoError::OutOfRange { .. })),
                "{step:?}: {result:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_memory_disk_is_its_model(steps in steps()) {
        let cx = LcoreContext::detached().unwrap();
        let disk = MemoryDisk::new("m", Uuid::new_v4(), SIZE as u64, 512).unwrap();
        run(&cx, &disk, &steps);
    }

    #[test]
    fn a_direct_file_is_its_model(steps in steps()) {
        let cx = LcoreContext::detached().unwrap();
        let (_path, disk) = file_disk("direct", Direct::Always);
        assert!(disk.is_direct());
        run(&cx, &disk, &steps);
    }

    #[test]
    fn a_cached_file_is_its_model(steps in steps()) {
        let cx = LcoreContext::detached().unwrap();
        let (_path, disk) = file_disk("cached", Direct::Never);
        assert!(!disk.is_direct());
        run(&cx, &disk, &steps);
    }
}

#[test]
fn what_is_written_to_a_file_is_there_when_it_is_opened_again() {
    let cx = LcoreContext::detached().unwrap();
    let (path, disk) = file_disk("again", Direct::Auto);
    let channel = disk.open(&cx).unwrap();
    let (buffer, list) = list(4096, &[], 0);
    buffer.write(0, &[0x5a; 4096]);
    let buffers = list.segments();
    finish(
        &cx,
        channel.submit(Operation::Write {
            offset: 8192,
            buffers,
            fua: false,
        }),
    )
    .unwrap();
    finish(&cx, channel.submit(Operation::Flush)).unwrap();
    drop((channel, disk));
    let bytes = std::fs::read(&path.0).unwrap();
    assert_eq!(bytes.len(), SIZE);
    assert_eq!(bytes[8192..12288], [0x5a; 4096]);
    let options = FileOptions {
        create: Some(7),
        read_only: true,
        ..FileOptions::default()
    };
    let disk = FileDisk::open("ro", Uuid::new_v4(), &path.0, &options).unwrap();
    assert_eq!(
        disk.info().bytes(),
        SIZE as u64,
        "an existing file keeps its size"
    );
    let channel = disk.open(&cx).unwrap();
    let write = Operation::Write {
        offset: 0,
        buffers,
        fua: false,
    };
    assert_eq!(finish(&cx, channel.submit(write)), Err(IoError::ReadOnly));
    let read = Operation::Read {
        offset: 8192,
        buffers,
    };
    assert_eq!(finish(&cx, channel.submit(read)), Ok(()));
}

fn resizes(disk: &dyn Bdev) {
    let cx = LcoreContext::detached().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let seen = told.clone();
    let subscription =
        disk.subscribe_resize(Box::new(move |bytes| seen.store(bytes, Ordering::SeqCst)));
    let channel = disk.open(&cx).unwrap();
    let (buffer, list) = list(4096, &[], 0);
    let buffers = list.segments();
    let end = SIZE as u64;
    let at = |offset| Operation::Read { offset, buffers };
    assert!(matches!(
        finish(&cx, channel.submit(at(end))),
        Err(IoError::OutOfRange { .. })
    ));
    disk.resize(2 * end).unwrap();
    assert_eq!(
        (told.load(Ordering::SeqCst), disk.info().bytes()),
        (2 * end, 2 * end)
    );
    assert_eq!(finish(&cx, channel.submit(at(end))), Ok(()));
    buffer.write(0, &[1; 4096]);
    finish(
        &cx,
        channel.submit(Operation::Write {
            offset: end,
            buffers,
            fua: false,
        }),
    )
    .unwrap();
    disk.resize(end).unwrap();
    assert!(matches!(
        finish(&cx, channel.submit(at(end))),
        Err(IoError::OutOfRange { .. })
    ));
    drop(subscription);
    disk.resize(2 * end).unwrap();
    assert_eq!(told.load(Ordering::SeqCst), end, "no longer subscribed");
    assert!(disk.resize(1000).is_err() && disk.resize(0).is_err());
    finish(&cx, channel.submit(at(end))).unwrap();
    let mut seen = [9; 4096];
    buffer.read(0, &mut seen);
    assert_eq!(seen, [0; 4096], "what was cut off does not come back");
}

#[test]
fn memory_disks_are_resized() {
    resizes(&MemoryDisk::new("m", Uuid::new_v4(), SIZE as u64, 512).unwrap());
}

#[test]
fn files_are_resized_and_seen_to_be() {
    let (path, disk) = file_disk("resize", Direct::Auto);
    resizes(&disk);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path.0)
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    assert_eq!(disk.rescan().unwrap(), 3 << 20);
    assert_eq!(disk.info().bytes(), 3 << 20);
}

#[test]
fn a_null_disk_leaves_buffers_alone_and_checks_ranges() {
    let cx = LcoreContext::detached().unwrap();
    let disk = NullDisk::new("n", Uuid::new_v4(), SIZE as u64, 4096).unwrap();
    let channel = disk.open(&cx).unwrap();
    let (buffer, list) = list(4096, &[], 0);
    buffer.write(0, &[7; 4096]);
    let buffers = list.segments();
    assert_eq!(
        finish(
            &cx,
            channel.submit(Operation::Read {
                offset: 4096,
                buffers
            })
        ),
        Ok(())
    );
    let mut seen = [0; 4096];
    buffer.read(0, &mut seen);
    assert_eq!(seen, [7; 4096]);
    let misaligned = finish(
        &cx,
        channel.submit(Operation::Read {
            offset: 512,
            buffers,
        }),
    );
    assert!(matches!(misaligned, Err(IoError::Misaligned { .. })));
    let wraps = Operation::Discard {
        offset: u64::MAX - 511,
        len: 512,
    };
    assert!(matches!(
        finish(&cx, channel.submit(wraps)),
        Err(IoError::OutOfRange { .. })
    ));
}

#[test]
fn bad_shapes_and_files_are_refused_by_name() {
    let disk = |bytes, block| {
        NullDisk::new("disk7", Uuid::new_v4(), bytes, block)
            .err()
            .map(|e| e.to_string())
    };
    assert!(disk(1000, 512).unwrap().contains("disk7"));
    assert!(disk(0, 512).is_some());
    assert!(disk(4096, 1000).unwrap().contains("1000"));
    assert!(disk(4096, 256).is_some());
    let open = |path: &str| {
        FileDisk::open(
            "disk8",
            Uuid::new_v4(),
            path.as_ref(),
            &FileOptions::default(),
        )
        .err()
        .unwrap()
        .to_string()
    };
    assert!(open("/nonexistent/image").contains("/nonexistent/image"));
    assert!(open("/dev/null").contains("neither"));
}

//! Tests of the in-flight region: every point of death between the steps of a batch, and hostile contents.

use proptest::prelude::*;

use super::*;

fn region(queues: u16, queue_size: u16) -> (OwnedFd, Arc<InflightRegion>) {
    let (fd, size) = create(queues, queue_size).unwrap();
    let copy = fd.try_clone().unwrap();
    (
        copy,
        InflightRegion::map(fd, size, 0, queues, queue_size).unwrap(),
    )
}

/// What a restarted process sees: a new mapping of the same file.
fn reopened(fd: &OwnedFd, queues: u16, queue_size: u16, index: u16) -> InflightQueue {
    let size = rustix::fs::fstat(fd).unwrap().st_size as u64;
    let again = InflightRegion::map(fd.try_clone().unwrap(), size, 0, queues, queue_size).unwrap();
    again.queue(index, queue_size).unwrap()
}

#[test]
fn a_fresh_region_holds_nothing() {
    let (_fd, region) = region(4, 128);
    let mut queue = region.queue(3, 128).unwrap();
    assert_eq!(
        queue.recover(0),
        Recovery {
            heads: vec![],
            next_available: 0
        }
    );
}

#[test]
fn fetched_heads_come_back_in_order_index_zero_included() {
    let (fd, region) = region(2, 8);
    let mut queue = region.queue(1, 8).unwrap();
    for head in [5, 0, 7, 2] {
        queue.mark(head);
    }
    queue.stage(7);
    queue.commit([7], 1);
    drop((queue, region));
    let recovery = reopened(&fd, 2, 8, 1).recover(1);
    assert_eq!(
        recovery,
        Recovery {
            heads: vec![5, 0, 2],
            next_available: 4
        }
    );
    let other = reopened(&fd, 2, 8, 0).recover(0);
    assert_eq!(
        other,
        Recovery {
            heads: vec![],
            next_available: 0
        }
    );
}

#[test]
fn dying_before_the_used_index_is_published_resubmits_the_batch() {
    let (fd, region) = region(1, 8);
    let mut queue = region.queue(0, 8).unwrap();
    for head in [1, 2, 3] {
        queue.mark(head);
    }
    queue.stage(1);
    queue.stage(3);
    drop((queue, region));
    let recovery = reopened(&fd, 1, 8, 0).recover(0);
    assert_eq!(recovery.heads, [1, 2, 3]);
}

#[test]
fn dying_after_the_used_index_is_published_does_not_resubmit_the_batch() {
    let (fd, region) = region(1, 8);
    let mut queue = region.queue(0, 8).unwrap();
    for head in [1, 2, 3] {
        queue.mark(head);
    }
    queue.stage(1);
    queue.stage(3);
    drop((queue, region));
    // The used ring says 2, the region still says 0.
    let recovery = reopened(&fd, 1, 8, 0).recover(2);
    assert_eq!(
        recovery,
        Recovery {
            heads: vec![2],
            next_available: 3
        }
    );
    // A second death right after the recovery changes nothing.
    let recovery = reopened(&fd, 1, 8, 0).recover(2);
    assert_eq!(
        recovery,
        Recovery {
            heads: vec![2],
            next_available: 3
        }
    );
}

#[test]
fn the_order_survives_several_restarts_and_index_wrap() {
    let (fd, region) = region(1, 4);
    drop(region);
    let mut used: u16 = u16::MAX - 1;
    let mut queue = reopened(&fd, 1, 4, 0);
    queue.recover(used);
    queue.mark(3);
    queue.mark(0);
    let mut queue = reopened(&fd, 1, 4, 0);
    assert_eq!(queue.recover(used).heads, [3, 0]);
    queue.mark(1);
    queue.stage(3);
    queue.stage(0);
    used = used.wrapping_add(2);
    queue.commit([3, 0], used);
    queue.mark(2);
    let recovery = reopened(&fd, 1, 4, 0).recover(used);
    assert_eq!(
        recovery,
        Recovery {
            heads: vec![1, 2],
            next_available: 2
        }
    );
}

#[test]
fn a_smaller_ring_than_the_region_is_fine_a_larger_is_not() {
    let (_fd, region) = region(1, 64);
    assert_eq!(region.queue(0, 16).unwrap().size(), 16);
    assert!(matches!(
        region.queue(0, 128),
        Err(InflightError::NoQueue { size: 128, .. })
    ));
    assert!(matches!(
        region.queue(1, 64),
        Err(InflightError::NoQueue { index: 1, .. })
    ));
}

#[test]
fn bad_dimensions_files_and_contents_are_refused() {
    for (queues, size) in [(0, 8), (1, 0), (1, 7), (257, 8), (1, 65535)] {
        assert!(
            matches!(create(queues, size), Err(InflightError::Dimensions { .. })),
            "{queues} {size}"
        );
    }
    let fresh = || create(1, 8).unwrap();
    let (fd, size) = fresh();
    assert!(matches!(
        InflightRegion::map(fd, size - 1, 0, 1, 8),
        Err(InflightError::TooSmall { .. })
    ));
    let (fd, size) = fresh();
    assert!(matches!(
        InflightRegion::map(fd, size + 1, 0, 1, 8),
        Err(InflightError::OutsideFile { .. })
    ));
    let (fd, size) = fresh();
    assert!(matches!(
        InflightRegion::map(fd, size, u64::MAX, 1, 8),
        Err(InflightError::OutsideFile { .. })
    ));
    let (fd, size) = fresh();
    assert!(matches!(
        InflightRegion::map(fd, size, 0, 1, 4),
        Err(InflightError::Contents {
            what: "desc_num",
            ..
        })
    ));
    let (fd, size) = fresh();
    rustix::io::pwrite(&fd, &7u16.to_ne_bytes(), 8).unwrap();
    assert!(matches!(
        InflightRegion::map(fd, size, 0, 1, 8),
        Err(InflightError::Contents {
            what: "version",
            ..
        })
    ));
    let unsealed = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 4096).unwrap();
    assert!(matches!(
        InflightRegion::map(unsealed, 4096, 0, 1, 8),
        Err(InflightError::NotSealed)
    ));
    let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
    assert!(matches!(
        InflightRegion::map(pipe, 4096, 0, 1, 8),
        Err(InflightError::NotSealed)
    ));
}

#[test]
fn an_uninitialised_file_of_the_front_end_is_initialised() {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, 4096).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    let copy = fd.try_clone().unwrap();
    let region = InflightRegion::map(fd, 4096, 0, 2, 16).unwrap();
    region.queue(1, 16).unwrap().mark(9);
    assert_eq!(reopened(&copy, 2, 16, 1).recover(0).heads, [9]);
}

proptest! {
    /// Whatever a front end writes into the region: recovery ends, and every head is in range and unique.
    #[test]
    fn hostile_contents_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 64..=320), used_idx: u16) {
        let (fd, size) = create(1, 16).unwrap();
        rustix::io::pwrite(&fd, &bytes[..bytes.len().min(size as usize)], 0).unwrap();
        // A valid head of the region, so that the rest is reached.
        rustix::io::pwrite(&fd, &[1, 0, 16, 0], 8).unwrap();
        let region = InflightRegion::map(fd, size, 0, 1, 16).unwrap();
        let recovery = region.queue(0, 16).unwrap().recover(used_idx);
        let mut seen = std::collections::HashSet::new();
        for head in &recovery.heads {
            prop_assert!(*head < 16 && seen.insert(*head));
        }
        prop_assert_eq!(recovery.next_available, used_idx.wrapping_add(recovery.heads.len() as u16));
    }

    /// A model of the queue: whatever is fetched and completed, in any order, exactly the rest comes back in order,
    /// wherever in a batch the process dies.
    #[test]
    fn exactly_the_uncompleted_come_back(
        steps in proptest::collection::vec((any::<bool>(), 0usize..16), 0..80),
        staged in 0usize..4,
        published: bool,
    ) {
        let (fd, region) = region(1, 16);
        let mut queue = region.queue(0, 16).unwrap();
        let mut used = queue.recover(0).next_available;
        let mut outstanding: Vec<u16> = Vec::new();
        for (fetch, pick) in steps {
            if fetch && outstanding.len() < 16 {
                let free = (0..16).filter(|head| !outstanding.contains(head)).cycle().nth(pick).unwrap();
                queue.mark(free);
                outstanding.push(free);
            } else if !outstanding.is_empty() {
                let head = outstanding.remove(pick % outstanding.len());
                queue.stage(head);
                used = used.wrapping_add(1);
                queue.commit([head], used);
            }
        }
        // Death in the middle of a batch.
        let batch: Vec<u16> = outstanding.iter().copied().take(staged).collect();
        for head in &batch {
            queue.stage(*head);
        }
        if published {
            used = used.wrapping_add(batch.len() as u16);
            outstanding.retain(|head| !batch.contains(head));
        }
        drop((queue, region));
        prop_assert_eq!(reopened(&fd, 1, 16, 0).recover(used).heads, outstanding);
    }
}

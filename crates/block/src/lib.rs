//! Block storage: the [`Bdev`] trait, its base modules, and the virtio-blk controller that serves them to guests.
//!
//! A guest's request becomes an [`Operation`] over the guest's own buffers ([`Segments`]), goes to a [`Channel`] of the lcore
//! that polls the queue, and comes back as an [`IoFuture`] that is usually over before it is looked at. `unsafe` lives in
//! `segments`, `ram` and `virtio_blk::ring` only.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bdev;
pub mod file;
pub mod memory;
pub mod null;
pub mod ram;
pub mod segments;
pub mod virtio_blk;

pub use bdev::{
    Bdev, BdevError, BdevInfo, Channel, IoError, IoFuture, IoResult, Operation, RangeLimit,
    ResizeEvents, ResizeSubscription, ResizeWatcher,
};
pub use file::{Direct, FileDisk, FileOptions};
pub use memory::MemoryDisk;
pub use null::NullDisk;
pub use segments::{SegmentList, Segments};
pub use virtio_blk::{BlkError, BlkMonitor, BlkOptions, QueueReport, VirtioBlk};

//! The null disk: takes every write and loses it, answers every read at once and leaves the buffer as it was.
//!
//! It exists to measure everything around it. As in other engines' null devices, a read does not touch the data: the guest
//! sees what its own buffer held before, never another guest's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumeru_engine::LcoreContext;
use uuid::Uuid;

use crate::bdev::{
    Bdev, BdevError, BdevInfo, Channel, IoFuture, Operation, RangeLimit, ResizeEvents,
    ResizeSubscription, ResizeWatcher, check_size,
};

/// A null disk.
pub struct NullDisk {
    name: String,
    uuid: Uuid,
    block_size: u32,
    bytes: Arc<AtomicU64>,
    resized: ResizeEvents,
}

impl NullDisk {
    /// A null disk of `bytes` bytes in blocks of `block_size`.
    ///
    /// # Errors
    /// [`BdevError::Size`] or [`BdevError::BlockSize`].
    pub fn new(name: &str, uuid: Uuid, bytes: u64, block_size: u32) -> Result<Self, BdevError> {
        check_size(name, bytes, block_size)?;
        Ok(Self {
            name: name.to_owned(),
            uuid,
            block_size,
            bytes: Arc::new(AtomicU64::new(bytes)),
            resized: ResizeEvents::default(),
        })
    }
}

impl Bdev for NullDisk {
    fn info(&self) -> BdevInfo {
        let whole = RangeLimit {
            max_bytes: !(u64::from(self.block_size) - 1),
            alignment: u64::from(self.block_size),
        };
        BdevInfo {
            name: self.name.clone(),
            uuid: self.uuid,
            block_size: self.block_size,
            blocks: self.bytes.load(Ordering::Acquire) / u64::from(self.block_size),
            physical_block_size: self.block_size,
            optimal_io: 0,
            read_only: false,
            volatile_cache: false,
            discard: Some(whole),
            write_zeroes: Some(whole),
        }
    }

    fn open(&self, _: &LcoreContext) -> Result<Box<dyn Channel>, BdevError> {
        Ok(Box::new(NullChannel {
            bytes: self.bytes.clone(),
            block_size: self.block_size,
        }))
    }

    fn subscribe_resize(&self, watcher: ResizeWatcher) -> ResizeSubscription {
        self.resized.subscribe(watcher)
    }

    fn resize(&self, bytes: u64) -> Result<(), BdevError> {
        check_size(&self.name, bytes, self.block_size)?;
        self.bytes.store(bytes, Ordering::Release);
        self.resized.announce(bytes);
        Ok(())
    }
}

struct NullChannel {
    bytes: Arc<AtomicU64>,
    block_size: u32,
}

impl Channel for NullChannel {
    #[inline]
    fn submit(&self, operation: Operation<'_>) -> IoFuture {
        let bytes = self.bytes.load(Ordering::Acquire);
        IoFuture::Ready(operation.check(bytes, self.block_size, false))
    }
}

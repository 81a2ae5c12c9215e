//! The memory disk: its content is in this process and dies with it.
//!
//! Memory is occupied when first written, or before by [`MemoryDisk::populate`], in huge pages where the system gives them. Every
//! copy goes straight between the guest's segments and the disk.

use std::sync::Arc;

use sumeru_engine::LcoreContext;
use uuid::Uuid;

use crate::bdev::{
    Bdev, BdevError, BdevInfo, Channel, IoError, IoFuture, IoResult, Operation, RangeLimit,
    ResizeEvents, ResizeSubscription, ResizeWatcher, check_size,
};
use crate::ram::Ram;

/// Largest range zeroed or discarded at once: what an lcore can do without stalling its neighbours for long.
const MAX_RANGE: u64 = 64 << 20;

/// A memory disk.
pub struct MemoryDisk {
    name: String,
    uuid: Uuid,
    block_size: u32,
    ram: Arc<Ram>,
    resized: ResizeEvents,
}

impl MemoryDisk {
    /// A memory disk of `bytes` bytes, all zero, in blocks of `block_size`.
    ///
    /// # Errors
    /// [`BdevError::Size`], [`BdevError::BlockSize`], or [`BdevError::System`] when the address space cannot be had.
    pub fn new(name: &str, uuid: Uuid, bytes: u64, block_size: u32) -> Result<Self, BdevError> {
        check_size(name, bytes, block_size)?;
        let ram = Ram::new(bytes).map_err(|source| BdevError::System {
            name: name.to_owned(),
            action: format!("reserve {bytes} bytes of memory"),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            uuid,
            block_size,
            ram: Arc::new(ram),
            resized: ResizeEvents::default(),
        })
    }

    /// Occupies all memory now. Without this, the first write to each huge page holds up its lcore while the system clears the page.
    ///
    /// # Errors
    /// [`BdevError::System`] when there is not enough memory.
    pub fn populate(&self) -> Result<(), BdevError> {
        self.ram.populate().map_err(|source| BdevError::System {
            name: self.name.clone(),
            action: format!("occupy {} bytes of memory", self.ram.size()),
            source,
        })
    }
}

impl Bdev for MemoryDisk {
    fn info(&self) -> BdevInfo {
        let range = RangeLimit {
            max_bytes: MAX_RANGE,
            alignment: 4096,
        };
        BdevInfo {
            name: self.name.clone(),
            uuid: self.uuid,
            block_size: self.block_size,
            blocks: self.ram.size() / u64::from(self.block_size),
            physical_block_size: self.block_size,
            optimal_io: 0,
            read_only: false,
            volatile_cache: false,
            discard: Some(range),
            write_zeroes: Some(range),
        }
    }

    fn open(&self, _: &LcoreContext) -> Result<Box<dyn Channel>, BdevError> {
        Ok(Box::new(MemoryChannel {
            ram: self.ram.clone(),
            block_size: self.block_size,
        }))
    }

    fn subscribe_resize(&self, watcher: ResizeWatcher) -> ResizeSubscription {
        self.resized.subscribe(watcher)
    }

    fn resize(&self, bytes: u64) -> Result<(), BdevError> {
        check_size(&self.name, bytes, self.block_size)?;
        if bytes > self.ram.limit() {
            return Err(BdevError::Size {
                name: self.name.clone(),
                bytes,
                expected: format!("at most {}", self.ram.limit()),
            });
        }
        self.ram.resize(bytes).map_err(|source| BdevError::System {
            name: self.name.clone(),
            action: format!("resize to {bytes} bytes"),
            source,
        })?;
        self.resized.announce(bytes);
        Ok(())
    }
}

struct MemoryChannel {
    ram: Arc<Ram>,
    block_size: u32,
}

impl MemoryChannel {
    #[inline]
    fn run(&self, operation: Operation<'_>) -> IoResult {
        let size = self.ram.size();
        operation.check(size, self.block_size, false)?;
        // A disk that shrinks between check and copy still has the memory, and drops what is written there.
        let done = match operation {
            Operation::Read { offset, buffers } => self.ram.read(offset, &buffers),
            Operation::Write {
                offset, buffers, ..
            } => self.ram.write(offset, &buffers),
            Operation::Flush => true,
            Operation::Discard { len, .. } | Operation::WriteZeroes { len, .. }
                if len > MAX_RANGE =>
            {
                false
            }
            Operation::Discard { offset, len } | Operation::WriteZeroes { offset, len, .. } => {
                self.ram.zero(offset, len)
            }
        };
        if done {
            Ok(())
        } else {
            Err(IoError::Unsupported)
        }
    }
}

impl Channel for MemoryChannel {
    #[inline]
    fn submit(&self, operation: Operation<'_>) -> IoFuture {
        IoFuture::Ready(self.run(operation))
    }

    #[inline]
    fn prefetch(&self, operation: &Operation<'_>) {
        match operation {
            Operation::Read { offset, .. } => self.ram.prefetch(*offset),
            Operation::Write { buffers, .. } => Ram::prefetch_source(buffers),
            _ => {}
        }
    }
}

//! The block device of this project: a [`Bdev`] that control holds, and a [`Channel`] to it on each lcore that does I/O.
//!
//! An operation is validated scatter-gather over guest memory and is handed down as it is. Modules that finish at once answer
//! [`IoFuture::Ready`]; modules over the kernel answer the io_uring operation itself; only stacked modules allocate.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use sumeru_engine::{LcoreContext, OpFuture};
use uuid::Uuid;

use crate::segments::Segments;

/// Why one operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// Not wholly inside the device.
    #[error("bytes {offset}+{len} are not inside the device's {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Size of the device in bytes.
        size: u64,
    },
    /// Offset or length is not a multiple of the block size.
    #[error("bytes {offset}+{len} are not whole blocks of {block_size} bytes")]
    Misaligned {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Block size in bytes.
        block_size: u32,
    },
    /// A change to a device that is read-only.
    #[error("the device is read-only")]
    ReadOnly,
    /// The device cannot do this.
    #[error("the device does not support this operation")]
    Unsupported,
    /// Fewer bytes were moved than asked for: the medium became smaller.
    #[error("only {moved} of {wanted} bytes were moved")]
    Short {
        /// Bytes moved.
        moved: u32,
        /// Bytes asked for.
        wanted: u32,
    },
    /// The operating system failed the operation.
    #[error("operating system error {0}")]
    Os(i32),
}

impl From<std::io::Error> for IoError {
    fn from(error: std::io::Error) -> Self {
        Self::Os(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// How an operation ended.
pub type IoResult = Result<(), IoError>;

/// What one operation does. Offsets and lengths in bytes, multiples of the block size.
#[derive(Clone, Copy)]
pub enum Operation<'a> {
    /// Fills `buffers` from `offset` on.
    Read {
        /// First byte.
        offset: u64,
        /// Where the data goes.
        buffers: Segments<'a>,
    },
    /// Writes `buffers` from `offset` on.
    Write {
        /// First byte.
        offset: u64,
        /// Where the data comes from.
        buffers: Segments<'a>,
        /// Complete only when the data is on stable storage ("force unit access").
        fua: bool,
    },
    /// Complete when every write that completed before is on stable storage.
    Flush,
    /// The content is no longer needed; reads afterwards give anything.
    Discard {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Reads afterwards give zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// The space may be given back.
        unmap: bool,
    },
}

impl Operation<'_> {
    /// Checks range, whole blocks and permission against a device of `size` bytes.
    ///
    /// # Errors
    /// [`IoError::OutOfRange`], [`IoError::Misaligned`] or [`IoError::ReadOnly`].
    #[inline]
    pub fn check(&self, size: u64, block_size: u32, read_only: bool) -> IoResult {
        let (offset, len, writes) = match *self {
            Self::Read { offset, buffers } => (offset, buffers.len(), false),
            Self::Write {
                offset, buffers, ..
            } => (offset, buffers.len(), true),
            Self::Flush => return Ok(()),
            Self::Discard { offset, len } | Self::WriteZeroes { offset, len, .. } => {
                (offset, len, true)
            }
        };
        if writes && read_only {
            return Err(IoError::ReadOnly);
        }
        if offset > size || len > size - offset {
            return Err(IoError::OutOfRange { offset, len, size });
        }
        if (offset | len) & u64::from(block_size - 1) != 0 {
            return Err(IoError::Misaligned {
                offset,
                len,
                block_size,
            });
        }
        Ok(())
    }
}

/// How much one discard or write-zeroes may cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimit {
    /// Largest range of one operation in bytes, a multiple of the block size.
    pub max_bytes: u64,
    /// Ranges that begin and end at multiples of this many bytes are served best.
    pub alignment: u64,
}

/// What a block device is, at the moment of asking (it may be resized).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BdevInfo {
    /// Its name, unique in the node.
    pub name: String,
    /// Its identity, for ever.
    pub uuid: Uuid,
    /// Logical block in bytes: a power of two from 512 to 65536.
    pub block_size: u32,
    /// Number of logical blocks.
    pub blocks: u64,
    /// Physical block in bytes: smaller writes cost a read. A multiple of `block_size`.
    pub physical_block_size: u32,
    /// Best size and alignment of large I/O in bytes; 0: no preference.
    pub optimal_io: u32,
    /// Changes are refused.
    pub read_only: bool,
    /// Completed writes may be lost in a power failure until a flush.
    pub volatile_cache: bool,
    /// Whether it can discard.
    pub discard: Option<RangeLimit>,
    /// Whether it can write zeroes.
    pub write_zeroes: Option<RangeLimit>,
}

impl BdevInfo {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }
}

/// Why a block device cannot be made, opened or resized.
#[derive(Debug, thiserror::Error)]
pub enum BdevError {
    /// A size of no blocks, of broken blocks, or too large for this kind of device.
    #[error("bdev {name}: size of {bytes} bytes is not {expected}")]
    Size {
        /// The device.
        name: String,
        /// What was asked for.
        bytes: u64,
        /// What is possible.
        expected: String,
    },
    /// Not a power of two from 512 to 65536.
    #[error("bdev {name}: block size {block_size} is not a power of two from 512 to 65536")]
    BlockSize {
        /// The device.
        name: String,
        /// What was asked for.
        block_size: u32,
    },
    /// The operating system refused.
    #[error("bdev {name}: cannot {action}: {source}")]
    System {
        /// The device.
        name: String,
        /// What was tried.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("bdev {name}: {path} is neither a regular file nor a block device")]
    NotStorage {
        /// The device.
        name: String,
        /// The file.
        path: String,
    },
    /// This kind of device has a fixed size.
    #[error("bdev {name}: this kind of device cannot be resized")]
    FixedSize {
        /// The device.
        name: String,
    },
}

/// A block device, as control and the controllers hold it (shared by `Arc`).
pub trait Bdev: Send + Sync {
    /// What it is now.
    fn info(&self) -> BdevInfo;

    /// Opens a channel for the lcore of `cx`. Called on that lcore; the channel never leaves it.
    ///
    /// # Errors
    /// When the device cannot serve this lcore (no descriptors or memory left).
    fn open(&self, cx: &LcoreContext) -> Result<Box<dyn Channel>, BdevError>;

    /// Calls `watcher` with the new size in bytes after every resize, on the thread that resizes, until the subscription is dropped.
    fn subscribe_resize(&self, watcher: ResizeWatcher) -> ResizeSubscription;

    /// Changes the size. Operations that are under way end as they would have; later ones see the new size.
    ///
    /// # Errors
    /// [`BdevError::FixedSize`], or the reasons of the kind of device.
    fn resize(&self, bytes: u64) -> Result<(), BdevError>;
}

/// One lcore's way to a block device; `!Send` in spirit, since it may hold the lcore's own handles.
pub trait Channel {
    /// Starts an operation. The segments are used in place, their memory held for as long as needed; dropping the future forgets the
    /// answer but stops nothing. Never blocks; base modules do not allocate.
    fn submit(&self, operation: Operation<'_>) -> IoFuture;

    /// Says that `operation` will be submitted right after one other: the time to ask for memory. Any operation is harmless.
    #[inline]
    fn prefetch(&self, operation: &Operation<'_>) {
        let _ = operation;
    }
}

/// An operation under way, or over.
pub enum IoFuture {
    /// Over already.
    Ready(IoResult),
    /// In the kernel.
    Uring(Transfer),
    /// In a module that needs more than one step.
    Boxed(Pin<Box<dyn Future<Output = IoResult>>>),
}

impl IoFuture {
    /// A future over a whole transfer of `wanted` bytes (0 where nothing is transferred).
    #[inline]
    pub fn transfer(operation: OpFuture, wanted: u32) -> Self {
        Self::Uring(Transfer { operation, wanted })
    }
}

impl Future for IoFuture {
    type Output = IoResult;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult> {
        match self.get_mut() {
            Self::Ready(result) => Poll::Ready(*result),
            Self::Uring(transfer) => {
                Pin::new(&mut transfer.operation)
                    .poll(cx)
                    .map(|moved| match moved? {
                        moved if moved == transfer.wanted => Ok(()),
                        moved => Err(IoError::Short {
                            moved,
                            wanted: transfer.wanted,
                        }),
                    })
            }
            Self::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

/// A kernel operation that is good only if it moved everything.
pub struct Transfer {
    operation: OpFuture,
    wanted: u32,
}

/// What is told of a resize: the new size in bytes.
pub type ResizeWatcher = Box<dyn Fn(u64) + Send + Sync>;

type Watchers = Mutex<Vec<(u64, ResizeWatcher)>>;

/// The subscribers of one block device. Control threads only: it locks.
#[derive(Default)]
pub struct ResizeEvents {
    watchers: Arc<Watchers>,
}

/// Ends the subscription when dropped.
pub struct ResizeSubscription {
    id: u64,
    watchers: Weak<Watchers>,
}

fn lock(watchers: &Watchers) -> MutexGuard<'_, Vec<(u64, ResizeWatcher)>> {
    // A watcher that panicked leaves the list whole.
    watchers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResizeEvents {
    /// Adds a watcher.
    pub fn subscribe(&self, watcher: ResizeWatcher) -> ResizeSubscription {
        let mut watchers = lock(&self.watchers);
        let id = watchers.last().map_or(0, |(id, _)| id + 1);
        watchers.push((id, watcher));
        ResizeSubscription {
            id,
            watchers: Arc::downgrade(&self.watchers),
        }
    }

    /// Tells every watcher.
    pub fn announce(&self, bytes: u64) {
        for (_, watcher) in lock(&self.watchers).iter() {
            watcher(bytes);
        }
    }
}

impl Drop for ResizeSubscription {
    fn drop(&mut self) {
        if let Some(watchers) = self.watchers.upgrade() {
            lock(&watchers).retain(|(id, _)| *id != self.id);
        }
    }
}

/// Checks what every module needs of a size: whole blocks, at least one.
pub(crate) fn check_size(name: &str, bytes: u64, block_size: u32) -> Result<(), BdevError> {
    if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        return Err(BdevError::BlockSize {
            name: name.to_owned(),
            block_size,
        });
    }
    if bytes == 0 || !bytes.is_multiple_of(u64::from(block_size)) {
        return Err(BdevError::Size {
            name: name.to_owned(),
            bytes,
            expected: format!("a positive multiple of the block size {block_size}"),
        });
    }
    Ok(())
}

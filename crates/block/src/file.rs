//! Files and block devices of the host, by io_uring and with direct I/O where the file has it.
//!
//! Guest buffers go to the kernel as they are. Only where direct I/O wants more alignment than a guest's buffer has is the data
//! bounced. Zeroes and discards use fallocate(2), and plain writes of zeroes where the file system has no better.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use sumeru_engine::{IoBuffer, LcoreContext, Reactor};
use uuid::Uuid;

use crate::bdev::{
    Bdev, BdevError, BdevInfo, Channel, IoError, IoFuture, IoResult, Operation, RangeLimit,
    ResizeEvents, ResizeSubscription, ResizeWatcher, check_size,
};
use crate::segments::Segments;

/// Largest discard or write-zeroes of one operation in bytes.
const MAX_RANGE: u64 = 1 << 30;
/// Zeroes written at once where nothing better is there.
const ZERO_CHUNK: usize = 1 << 20;
/// Largest request bounced, in bytes: what a guest can make us allocate for one of its descriptor chains.
const MAX_BOUNCE: u64 = 4 << 20;
/// Bounce buffers that a channel keeps for the next time.
const KEPT_BUFFERS: usize = 32;

/// Whether the page cache is passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direct {
    /// Direct if the file can, else through the page cache.
    #[default]
    Auto,
    /// Direct, or not at all.
    Always,
    /// Through the page cache.
    Never,
}

/// How to open a file.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// Make the file, this many bytes long and sparse, if it is not there.
    pub create: Option<u64>,
    /// Refuse changes.
    pub read_only: bool,
    /// Page cache or not.
    pub direct: Direct,
    /// Logical block in bytes; `None`: what the file asks for, at least 512.
    pub block_size: Option<u32>,
}

/// A file, or a block device of the host, as a block device.
pub struct FileDisk {
    name: String,
    uuid: Uuid,
    path: PathBuf,
    file: Arc<OwnedFd>,
    is_device: bool,
    block_size: u32,
    physical_block_size: u32,
    /// Alignment of buffers in memory and of offsets and lengths in the file; `None`: through the page cache.
    direct: Option<(usize, u32)>,
    read_only: bool,
    bytes: Arc<AtomicU64>,
    resized: ResizeEvents,
}

impl FileDisk {
    /// Opens, or makes, the file at `path`.
    ///
    /// # Errors
    /// [`BdevError::System`], [`BdevError::NotStorage`], [`BdevError::Size`] (empty, or not whole blocks), [`BdevError::BlockSize`].
    pub fn open(
        name: &str,
        uuid: Uuid,
        path: &Path,
        options: &FileOptions,
    ) -> Result<Self, BdevError> {
        let failed = |action: &str, source: rustix::io::Errno| BdevError::System {
            name: name.to_owned(),
            action: format!("{action} {}", path.display()),
            source: source.into(),
        };
        if let Some(bytes) = options.create {
            create(path, bytes).map_err(|e| failed("create", e))?;
        }
        let mut flags = OFlags::CLOEXEC;
        flags |= if options.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let (file, direct) = match options.direct {
            Direct::Never => (rustix::fs::open(path, flags, Mode::empty()), false),
            Direct::Always => (
                rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()),
                true,
            ),
            Direct::Auto => match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
                Err(rustix::io::Errno::INVAL) => {
                    (rustix::fs::open(path, flags, Mode::empty()), false)
                }
                other => (other, true),
            },
        };
        let file = file.map_err(|e| failed("open", e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| failed("inspect", e))?;
        let is_device = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => {
                return Err(BdevError::NotStorage {
                    name: name.to_owned(),
                    path: path.display().to_string(),
                });
            }
        };
        let (memory, offset) = if direct {
            direct_alignment(&file, is_device)
        } else {
            (1, 512)
        };
        let block_size = options.block_size.unwrap_or(offset.max(512));
        let physical = u32::try_from(stat.st_blksize).unwrap_or(0);
        let physical_block_size = if physical.is_power_of_two() {
            physical.clamp(block_size, 65536)
        } else {
            block_size
        };
        let bytes = size_of_file(&file).map_err(|e| failed("measure", e))?;
        // A file that ends in the middle of a block is served without its end.
        let bytes = if block_size.is_power_of_two() {
            bytes & !(u64::from(block_size) - 1)
        } else {
            bytes
        };
        check_size(name, bytes, block_size)?;
        Ok(Self {
            name: name.to_owned(),
            uuid,
            path: path.to_owned(),
            file: Arc::new(file),
            is_device,
            block_size,
            physical_block_size,
            direct: direct.then_some((memory, offset)),
            read_only: options.read_only,
            bytes: Arc::new(AtomicU64::new(bytes)),
            resized: ResizeEvents::default(),
        })
    }

    /// Whether the page cache is passed by.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Looks at the file's size again, after somebody else has changed it; tells subscribers when it is another one.
    ///
    /// # Errors
    /// [`BdevError::System`] when it cannot be measured; [`BdevError::Size`] when nothing is left.
    pub fn rescan(&self) -> Result<u64, BdevError> {
        let bytes = size_of_file(&self.file).map_err(|e| self.failed("measure", e))?;
        let bytes = bytes & !(u64::from(self.block_size) - 1);
        check_size(&self.name, bytes, self.block_size)?;
        if self.bytes.swap(bytes, Ordering::AcqRel) != bytes {
            self.resized.announce(bytes);
        }
        Ok(bytes)
    }

    fn failed(&self, action: &str, source: rustix::io::Errno) -> BdevError {
        BdevError::System {
            name: self.name.clone(),
            action: format!("{action} {}", self.path.display()),
            source: source.into(),
        }
    }
}

/// Makes a sparse file; one that is there already is left alone.
fn create(path: &Path, bytes: u64) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => rustix::fs::ftruncate(&file, bytes),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Size of a regular file or block device in bytes.
fn size_of_file(file: impl AsFd) -> Result<u64, rustix::io::Errno> {
    rustix::fs::seek(file, SeekFrom::End(0))
}

/// Alignment that direct I/O wants: of buffers in memory, and of offsets and lengths.
fn direct_alignment(file: &OwnedFd, is_device: bool) -> (usize, u32) {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    /// `STATX_DIOALIGN`, Linux 6.1.
    const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
    if let Ok(found) = statx(file, c"", AtFlags::EMPTY_PATH, DIOALIGN)
        && found.stx_mask & DIOALIGN.bits() != 0
    {
        let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
        if memory.is_power_of_two() && offset.is_power_of_two() {
            return (memory as usize, offset.max(512));
        }
    }
    // Kernels before 6.1 do not say. The logical block serves a device; 4096 serves any file system.
    let block = if is_device {
        rustix::fs::ioctl_blksszget(file).unwrap_or(4096)
    } else {
        4096
    };
    (block as usize, block)
}

impl Bdev for FileDisk {
    fn info(&self) -> BdevInfo {
        let range = RangeLimit {
            max_bytes: MAX_RANGE,
            alignment: u64::from(self.physical_block_size),
        };
        let changeable = (!self.read_only).then_some(range);
        BdevInfo {
            name: self.name.clone(),
            uuid: self.uuid,
            block_size: self.block_size,
            blocks: self.bytes.load(Ordering::Acquire) / u64::from(self.block_size),
            physical_block_size: self.physical_block_size,
            optimal_io: 0,
            read_only: self.read_only,
            volatile_cache: true,
            discard: changeable,
            write_zeroes: changeable,
        }
    }

    fn open(&self, cx: &LcoreContext) -> Result<Box<dyn Channel>, BdevError> {
        let file = rustix::io::fcntl_dupfd_cloexec(&*self.file, 0)
            .map_err(|e| self.failed("duplicate the descriptor of", e))?;
        Ok(Box::new(FileChannel {
            file: Rc::new(file),
            reactor: cx.reactor().clone(),
            bytes: self.bytes.clone(),
            block_size: self.block_size,
            direct: self.direct,
            read_only: self.read_only,
            state: Rc::default(),
        }))
    }

    fn subscribe_resize(&self, watcher: ResizeWatcher) -> ResizeSubscription {
        self.resized.subscribe(watcher)
    }

    fn resize(&self, bytes: u64) -> Result<(), BdevError> {
        check_size(&self.name, bytes, self.block_size)?;
        if self.is_device || self.read_only {
            return Err(BdevError::FixedSize {
                name: self.name.clone(),
            });
        }
        if bytes < self.bytes.load(Ordering::Acquire) {
            // No new operation may reach what is about to go.
            self.bytes.store(bytes, Ordering::Release);
        }
        rustix::fs::ftruncate(&*self.file, bytes).map_err(|e| self.failed("resize", e))?;
        self.bytes.store(bytes, Ordering::Release);
        self.resized.announce(bytes);
        Ok(())
    }
}

/// The best way to zeroes that has not failed yet.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Zeroing {
    #[default]
    Range,
    Hole,
    Write,
}

/// What a channel shares with its longer operations.
#[derive(Default)]
struct ChannelState {
    zeroing: Cell<Zeroing>,
    buffers: RefCell<Vec<Rc<IoBuffer>>>,
}

impl ChannelState {
    /// A buffer of at least `len` bytes that nobody else, the kernel included, holds.
    fn buffer(&self, len: usize) -> Result<Rc<IoBuffer>, IoError> {
        let mut buffers = self.buffers.borrow_mut();
        let fits = |buffer: &Rc<IoBuffer>| buffer.len() == len && Rc::strong_count(buffer) == 1;
        if let Some(at) = buffers.iter().position(fits) {
            return Ok(buffers.swap_remove(at));
        }
        Ok(Rc::new(IoBuffer::new(len)?))
    }

    fn keep(&self, buffer: Rc<IoBuffer>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() == KEPT_BUFFERS {
            buffers.remove(0);
        }
        buffers.push(buffer);
    }
}

#[derive(Clone)]
struct FileChannel {
    file: Rc<OwnedFd>,
    reactor: Reactor,
    bytes: Arc<AtomicU64>,
    block_size: u32,
    direct: Option<(usize, u32)>,
    read_only: bool,
    state: Rc<ChannelState>,
}

impl FileChannel {
    fn fits(&self, buffers: &Segments<'_>) -> bool {
        self.direct
            .is_none_or(|(memory, length)| buffers.is_aligned(memory, length))
    }

    fn read_bounced(&self, offset: u64, buffers: Segments<'_>) -> IoFuture {
        let (this, buffers) = (self.clone(), buffers.to_list());
        IoFuture::Boxed(Box::pin(async move {
            let wanted = buffers.segments().len() as u32;
            let bounce = this.state.buffer(wanted as usize)?;
            let moved = this.reactor.read(&this.file, &bounce, offset).await?;
            if moved != wanted {
                return Err(IoError::Short { moved, wanted });
            }
            buffers.segments().fill_from(&bounce);
            this.state.keep(bounce);
            Ok(())
        }))
    }

    fn write_bounced(&self, offset: u64, buffers: Segments<'_>, fua: bool) -> IoFuture {
        let wanted = buffers.len() as u32;
        let bounce = match self.state.buffer(wanted as usize) {
            Ok(bounce) => bounce,
            Err(error) => return IoFuture::Ready(Err(error)),
        };
        buffers.copy_into(&bounce);
        let this = self.clone();
        IoFuture::Boxed(Box::pin(async move {
            let moved = this.reactor.write(&this.file, &bounce, offset, fua).await?;
            this.state.keep(bounce);
            if moved != wanted {
                return Err(IoError::Short { moved, wanted });
            }
            Ok(())
        }))
    }

    async fn zero(self, offset: u64, len: u64, unmap: bool) -> IoResult {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let mut zeroing = self.state.zeroing.get();
        if unmap && zeroing == Zeroing::Range {
            zeroing = Zeroing::Hole;
        }
        loop {
            let mode = match zeroing {
                Zeroing::Range => libc::FALLOC_FL_ZERO_RANGE | KEEP,
                Zeroing::Hole => libc::FALLOC_FL_PUNCH_HOLE | KEEP,
                Zeroing::Write => return self.write_zeroes(offset, len).await,
            };
            match self.reactor.allocate(&self.file, mode, offset, len).await {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    zeroing = match zeroing {
                        Zeroing::Range => Zeroing::Hole,
                        _ => Zeroing::Write,
                    };
                    self.state.zeroing.set(zeroing);
                }
                other => return other.map(|_| ()).map_err(IoError::from),
            }
        }
    }

    async fn write_zeroes(&self, mut offset: u64, mut len: u64) -> IoResult {
        while len > 0 {
            let wanted = len.min(ZERO_CHUNK as u64);
            let zeroes = Rc::new(IoBuffer::new(wanted as usize)?);
            let moved = self
                .reactor
                .write(&self.file, &zeroes, offset, false)
                .await?;
            if u64::from(moved) != wanted {
                let wanted = wanted as u32;
                return Err(IoError::Short { moved, wanted });
            }
            offset += wanted;
            len -= wanted;
        }
        Ok(())
    }

    async fn discard(self, offset: u64, len: u64) -> IoResult {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.reactor.allocate(&self.file, mode, offset, len).await {
            // A discard is a hint; a file system without holes keeps the data.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            other => other.map(|_| ()).map_err(IoError::from),
        }
    }
}

impl Channel for FileChannel {
    fn submit(&self, operation: Operation<'_>) -> IoFuture {
        let bytes = self.bytes.load(Ordering::Acquire);
        if let Err(error) = operation.check(bytes, self.block_size, self.read_only) {
            return IoFuture::Ready(Err(error));
        }
        match operation {
            Operation::Read { buffers, .. } | Operation::Write { buffers, .. }
                if buffers.len() > MAX_BOUNCE && !self.fits(&buffers) =>
            {
                IoFuture::Ready(Err(IoError::Unsupported))
            }
            Operation::Read { offset, buffers } => {
                if !self.fits(&buffers) {
                    return self.read_bounced(offset, buffers);
                }
                let read = self.reactor.read(&self.file, &buffers, offset);
                IoFuture::transfer(read, buffers.len() as u32)
            }
            Operation::Write {
                offset,
                buffers,
                fua,
            } => {
                if !self.fits(&buffers) {
                    return self.write_bounced(offset, buffers, fua);
                }
                let write = self.reactor.write(&self.file, &buffers, offset, fua);
                IoFuture::transfer(write, buffers.len() as u32)
            }
            Operation::Flush if self.read_only => IoFuture::Ready(Ok(())),
            Operation::Flush => IoFuture::transfer(self.reactor.sync(&self.file, true), 0),
            Operation::Discard { len, .. } | Operation::WriteZeroes { len, .. }
                if len > MAX_RANGE =>
            {
                IoFuture::Ready(Err(IoError::Unsupported))
            }
            Operation::Discard { offset, len } => {
                IoFuture::Boxed(Box::pin(self.clone().discard(offset, len)))
            }
            Operation::WriteZeroes { offset, len, unmap } => {
                IoFuture::Boxed(Box::pin(self.clone().zero(offset, len, unmap)))
            }
        }
    }
}

//! A virtio-blk driver (virtio 1.2, section 5.2) over one vhost-user session and one split ring.
//!
//! Request slots are fixed: slot `n` owns 64 bytes of control memory (header and status in one cache line) and one
//! data buffer. It never sleeps: completions are polled, except where a caller waits on the queue's call eventfd.

use super::guest_memory::{Backing, Window};
use super::session::Session;
use super::split::{Buffer, SplitQueue};
use super::wire::{self, feature, protocol_feature};
use super::{FrontendError, GuestMemory};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Bytes of a sector, whatever the device's block size.
pub const SECTOR: u64 = 512;
const CONTROL_LEN: u64 = 64;
const HEADER_LEN: u32 = 16;
const STATUS_AT: usize = 16;
const STATUS_UNSET: u8 = 0xff;
const BASE: u64 = 0x1_0000_0000;
const HUGE: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request does; values as in the header's type field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Device to buffer.
    Read = 0,
    /// Buffer to device.
    Write = 1,
    /// Make earlier writes durable.
    Flush = 4,
    /// The 20-byte serial.
    GetId = 8,
}

impl Operation {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::GetId => "get-id",
        }
    }
}

/// How to open a device.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Ring entries; three are used by each request.
    pub queue_size: u16,
    /// Request slots.
    pub slots: u16,
    /// Bytes of each slot's data buffer; a multiple of 512.
    pub slot_bytes: u32,
    /// Negotiate event index.
    pub event_idx: bool,
    /// Hand the device a shared area to track requests in flight, as QEMU does, if it offers that.
    pub inflight: bool,
    /// What backs the memory.
    pub backing: Backing,
}

/// A request that has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Its slot.
    pub slot: u16,
    /// Status byte: 0 ok, 1 I/O error, 2 unsupported, 255 untouched.
    pub status: u8,
}

/// An open device with its first queue running.
pub struct BlkDevice {
    session: Session,
    queue: SplitQueue,
    control: Window,
    control_gpa: u64,
    data: Window,
    data_gpa: u64,
    slot_bytes: u32,
    slots: u16,
    features: u64,
    capacity_sectors: u64,
    /// Requests that came back whose control blocks were asked for.
    fetched: u16,
    // Last: the rings above point into it.
    memory: GuestMemory,
}

impl BlkDevice {
    /// Connects to the device at `path` (waiting up to ten seconds for it), negotiates and starts queue 0.
    ///
    /// # Errors
    /// Any [`FrontendError`] of the session, the memory or the ring.
    pub fn open(path: &Path, options: &Options) -> Result<Self, FrontendError> {
        let mut session = Session::connect_within(path, PATIENCE)?;
        // Without the flush command a device has to write through (5.2.6.2); every real driver takes it.
        let wanted = feature::PROTOCOL_FEATURES
            | feature::BLK_FLUSH
            | if options.event_idx {
                feature::EVENT_IDX
            } else {
                0
            };
        let mut protocol =
            protocol_feature::MQ | protocol_feature::REPLY_ACK | protocol_feature::CONFIG;
        if options.inflight {
            protocol |= protocol_feature::INFLIGHT_SHMFD;
        }
        let features = session.negotiate(
            wanted,
            feature::VERSION_1 | feature::PROTOCOL_FEATURES,
            protocol,
        )?;
        let config = session.config(0, 8)?;
        let capacity_sectors = wire::u64_at(&config, 0)
            .map(u64::from_le)
            .unwrap_or_default();

        let data_len = u64::from(options.slots) * u64::from(options.slot_bytes);
        let control_len = u64::from(options.slots) * CONTROL_LEN;
        let size = (data_len + control_len + 64 * u64::from(options.queue_size) + 0x10000)
            .next_multiple_of(HUGE);
        let mut memory = GuestMemory::new(&[(BASE, size)], options.backing)?;
        let queue = SplitQueue::new(
            &mut memory,
            options.queue_size,
            features & feature::EVENT_IDX != 0,
        )?;
        let control_gpa = memory.alloc(control_len, 4096)?;
        let data_gpa = memory.alloc(data_len, 4096)?;

        if session.protocol_features() & protocol_feature::INFLIGHT_SHMFD != 0 {
            let (area, fd) = session.inflight(1, options.queue_size)?;
            session.set_inflight(&area, fd.as_fd())?;
        }
        session.set_mem_table(&memory)?;
        session.start_queue(0, &queue, &memory)?;
        Ok(Self {
            session,
            queue,
            control: memory.window(control_gpa, control_len)?,
            control_gpa,
            data: memory.window(data_gpa, data_len)?,
            data_gpa,
            slot_bytes: options.slot_bytes,
            slots: options.slots,
            features,
            capacity_sectors,
            fetched: 0,
            memory,
        })
    }

    /// Capacity, in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// virtio features in force.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Request slots.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Bytes of a slot's data buffer.
    pub fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The ring.
    pub fn queue(&mut self) -> &mut SplitQueue {
        &mut self.queue
    }

    /// The memory that the device maps.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Fills the first bytes of a slot's buffer.
    pub fn write_data(&self, slot: u16, bytes: &[u8]) {
        self.data
            .write(usize::from(slot) * self.slot_bytes as usize, bytes);
    }

    /// Reads the first bytes of a slot's buffer.
    pub fn read_data(&self, slot: u16, bytes: &mut [u8]) {
        self.data
            .read(usize::from(slot) * self.slot_bytes as usize, bytes);
    }

    /// Queues a request of `len` bytes in `slot`, not yet visible to the device. The slot must not be in flight.
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`].
    #[inline]
    pub fn submit(
        &mut self,
        slot: u16,
        operation: Operation,
        sector: u64,
        len: u32,
    ) -> Result<(), FrontendError> {
        let at = usize::from(slot) * CONTROL_LEN as usize;
        self.control
            .store_u64(at, u64::from(operation as u32).to_le(), Relaxed);
        self.control.store_u64(at + 8, sector.to_le(), Relaxed);
        self.control.store_u8(at + STATUS_AT, STATUS_UNSET, Relaxed);
        let control = self.control_gpa + at as u64;
        let header = Buffer {
            gpa: control,
            len: HEADER_LEN,
            writable: false,
        };
        let status = Buffer {
            gpa: control + STATUS_AT as u64,
            len: 1,
            writable: true,
        };
        if operation == Operation::Flush {
            self.queue.add(&[header, status], slot.into())?;
            return Ok(());
        }
        let gpa = self.data_gpa + u64::from(slot) * u64::from(self.slot_bytes);
        let data = Buffer {
            gpa,
            len,
            writable: operation != Operation::Write,
        };
        self.queue.add(&[header, data, status], slot.into())?;
        Ok(())
    }

    /// Makes queued requests visible, if all that the device was last seen to return has been dealt with: it need not wait for what it returns
    /// meanwhile. [`Self::publish`] is still to come.
    #[inline]
    pub fn show(&mut self) {
        if self.fetched == 0 {
            self.queue.publish();
        }
    }

    /// Makes queued requests visible and notifies the device if it asks for that.
    ///
    /// # Errors
    /// [`FrontendError::Io`].
    #[inline]
    pub fn publish(&mut self) -> Result<(), FrontendError> {
        self.queue.publish_and_kick().map(|_| ())
    }

    /// The next request that has come back.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`].
    #[inline]
    pub fn complete(&mut self) -> Result<Option<Completion>, FrontendError> {
        if self.fetched == 0 {
            // The device has just written them: all at once, not one after the other.
            self.fetched = self.queue.returned();
            for ahead in 0..self.fetched {
                if let Some(slot) = self.queue.token_ahead(ahead) {
                    self.control.prefetch(slot as usize * CONTROL_LEN as usize);
                }
            }
        }
        let Some(used) = self.queue.poll_used()? else {
            return Ok(None);
        };
        self.fetched -= 1;
        let slot = used.token as u16;
        let status = self.control.load_u8(
            usize::from(slot) * CONTROL_LEN as usize + STATUS_AT,
            Relaxed,
        );
        Ok(Some(Completion { slot, status }))
    }

    /// One request in slot 0, with nothing else in flight, to its end.
    ///
    /// # Errors
    /// [`FrontendError::Block`] for any status but ok, [`FrontendError::Timeout`], [`FrontendError::BadUsed`].
    pub fn run(
        &mut self,
        operation: Operation,
        sector: u64,
        len: u32,
    ) -> Result<(), FrontendError> {
        self.submit(0, operation, sector, len)?;
        self.publish()?;
        self.queue.wait_used(PATIENCE)?;
        match self.control.load_u8(STATUS_AT, Relaxed) {
            0 => Ok(()),
            status => Err(FrontendError::Block {
                kind: operation.name(),
                sector,
                reason: format!("status {status}"),
            }),
        }
    }

    /// The device's serial, without trailing zero bytes.
    ///
    /// # Errors
    /// As [`BlkDevice::run`].
    pub fn serial(&mut self) -> Result<Vec<u8>, FrontendError> {
        self.run(Operation::GetId, 0, 20)?;
        let mut bytes = vec![0; 20];
        self.read_data(0, &mut bytes);
        bytes.truncate(
            bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1),
        );
        Ok(bytes)
    }

    /// Stops the queue; the index it would have gone on from.
    ///
    /// # Errors
    /// As [`Session::stop_queue`].
    pub fn stop(&mut self) -> Result<u32, FrontendError> {
        self.session.stop_queue(0)
    }
}

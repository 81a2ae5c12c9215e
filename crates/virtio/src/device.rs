//! The device side of a transport: what a virtio device of any type has to do for the vhost-user session
//! that drives it (VIRTIO 1.2 sections 2 and 3; vhost-user "Ring states").
//!
//! This module is the contract only. It knows neither messages nor rings, and it never runs on an lcore:
//! every call comes from the one control thread that serves the device's socket.

use std::sync::Arc;

use crate::eventfd::Eventfd;
use crate::features::ProtocolFeatures;
use crate::inflight::InflightQueue;
use crate::memory::GuestMemory;
use crate::vhost_user::FrontEnd;

/// The virtio device types served here, with their ids (VIRTIO 1.2 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// Network device; queues come in pairs, even indexes receive (towards the guest).
    Net = 1,
    /// Block device.
    Block = 2,
}

/// Everything a device needs to start one queue. The device owns it until [`VirtioDevice::stop_queue`].
#[derive(Debug)]
pub struct QueueSetup {
    /// Queue index, below [`VirtioDevice::queue_count`].
    pub index: u16,
    /// Number of descriptors: a power of two, 1 to 32768.
    pub size: u16,
    /// Descriptor table as a front end's user address (SET_VRING_ADDR). Not yet checked against `memory`.
    pub descriptor_table: u64,
    /// Driver area (available ring), likewise.
    pub driver_area: u64,
    /// Device area (used ring), likewise.
    pub device_area: u64,
    /// Next available index to fetch. After a crash of the previous back end this is the used index, and the
    /// in-flight region tells how many entries beyond it were already fetched.
    pub last_available: u16,
    /// Accepted virtio features, as given to [`VirtioDevice::accept_features`].
    pub features: u64,
    /// Guest memory for this queue's whole run. It stays mapped while any clone lives.
    pub memory: Arc<GuestMemory>,
    /// Signalled by the driver when buffers were made available; `None` asks for polling.
    pub kick: Option<Eventfd>,
    /// To be signalled when buffers were used; `None` says that the driver polls.
    pub call: Option<Eventfd>,
    /// To be signalled once when the ring is found malformed and has been halted.
    pub error: Option<Eventfd>,
    /// Whether the queue starts enabled; QEMU starts block queues disabled and enables them right after. A disabled
    /// network queue discards what the guest sends and supplies nothing; a disabled block queue fetches nothing. See
    /// [`VirtioDevice::set_queue_enabled`].
    pub enabled: bool,
    /// In-flight tracking, if the front end handed over a region.
    pub inflight: Option<InflightQueue>,
}

/// Why a device refused a request of its transport.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Queue index out of range.
    #[error("queue {index} does not exist, the device has {count}")]
    NoSuchQueue {
        /// The index asked for.
        index: u16,
        /// Number of queues.
        count: u16,
    },
    /// The queue runs already.
    #[error("queue {index} is running already")]
    AlreadyRunning {
        /// The queue.
        index: u16,
    },
    /// The queue does not run.
    #[error("queue {index} is not running")]
    NotRunning {
        /// The queue.
        index: u16,
    },
    /// The ring cannot be built from what the front end said: addresses, size or features.
    #[error("queue {index} cannot start: {reason}")]
    Ring {
        /// The queue.
        index: u16,
        /// What the ring's constructor found.
        #[source]
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Features the device did not offer, or a set it cannot work with.
    #[error("features {features:#x} cannot be accepted: {reason}")]
    Features {
        /// The set asked for.
        features: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A write to a configuration field that is read-only or does not exist.
    #[error("configuration bytes {offset}..{end} are not writable")]
    ConfigNotWritable {
        /// First byte.
        offset: u32,
        /// One past the last byte.
        end: u32,
    },
    /// A value outside what the device can do.
    #[error("{what} {value} is not in {min}..={max}")]
    OutOfRange {
        /// Name of the value.
        what: &'static str,
        /// The value asked for.
        value: u64,
        /// Smallest value accepted.
        min: u64,
        /// Largest value accepted.
        max: u64,
    },
    /// The device type has no such operation.
    #[error("the device has no {what}")]
    Unsupported {
        /// Name of the operation.
        what: &'static str,
    },
    /// The lcore that owns the queue is gone or did not answer.
    #[error("the lcore of queue {index} does not answer")]
    LcoreGone {
        /// The queue.
        index: u16,
    },
}

/// A virtio device behind a transport.
///
/// Life cycle, as the transport guarantees it:
///
/// 1. *Idle*: no front end. No queue runs. Only the description methods ([`device_type`](Self::device_type) to
///    [`queue_count`](Self::queue_count)) are called.
/// 2. *Attached*: [`attach_front_end`](Self::attach_front_end) was called. Configuration may be read and written,
///    features accepted. Features do not change while a queue runs.
/// 3. *Running*, per queue: from an `Ok` of [`start_queue`](Self::start_queue) to the return of
///    [`stop_queue`](Self::stop_queue). A change of guest memory shows up as a stop of all running queues, followed
///    by a start of each with the index that its stop returned.
/// 4. At the end of the session, back to *idle*: all queues are stopped, the [`FrontEnd`] handle is dead, then
///    [`reset`](Self::reset) is called. A driver's own reset calls it too, within a session.
///
/// Calls never overlap: one thread makes all of them. They may block for a few milliseconds (an lcore has to pass
/// the top of its loop), and a block device drains its outstanding I/O in `stop_queue`.
pub trait VirtioDevice: Send {
    /// The device's type, fixed for its life.
    fn device_type(&self) -> DeviceType;

    /// Virtio feature bits offered, without `VHOST_USER_F_PROTOCOL_FEATURES`, which belongs to the transport.
    fn features(&self) -> u64;

    /// Protocol features offered. The transport masks them with [`ProtocolFeatures::IMPLEMENTED`]; a device without
    /// wishes returns [`ProtocolFeatures::TRANSPORT`] plus what it serves itself (CONFIG, NET_MTU, RARP,
    /// INFLIGHT_SHMFD).
    fn protocol_features(&self) -> ProtocolFeatures;

    /// Number of virtqueues, 1 to 256. For a network device both directions count, so it is even.
    fn queue_count(&self) -> u16;

    /// A front end has connected. The handle may be kept and cloned; it goes dead when the session ends.
    fn attach_front_end(&mut self, front_end: FrontEnd);

    /// Reads the device's configuration space from byte `offset`. Bytes beyond its end read as zero, because front
    /// ends ask for the size that their own version of the structure has.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] when the device has no configuration space.
    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes the configuration space, on behalf of the driver.
    ///
    /// # Errors
    /// [`DeviceError::ConfigNotWritable`] for read-only fields; nothing was changed then.
    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError>;

    /// The driver's feature set, a subset of [`features`](Self::features). May be called again, with no queue running.
    ///
    /// # Errors
    /// [`DeviceError::Features`] when the subset is inconsistent; the previous set stays accepted.
    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError>;

    /// Starts a queue. Returns when the owning lcore polls it. The first poll must not wait for a kick: buffers made
    /// available before the start may have no kick pending.
    ///
    /// # Errors
    /// [`DeviceError::Ring`] when the ring does not lie in guest memory; the setup is dropped and the queue is stopped.
    fn start_queue(&mut self, setup: QueueSetup) -> Result<(), DeviceError>;

    /// Stops a queue and returns its next available index. After the return nothing touches the ring, its memory or
    /// its event file descriptors: outstanding I/O is completed, borrowed buffers have come back.
    ///
    /// # Errors
    /// [`DeviceError::NotRunning`] without side effect.
    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError>;

    /// Enables or disables a running queue. Enabling acts like a kick: look at the ring once without waiting for one.
    ///
    /// # Errors
    /// [`DeviceError::NotRunning`] without side effect.
    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError>;

    /// Replaces the call descriptor of a running queue; the old one is not used after the return.
    ///
    /// # Errors
    /// [`DeviceError::NotRunning`] without side effect.
    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError>;

    /// Replaces the error descriptor of a running queue, likewise.
    ///
    /// # Errors
    /// [`DeviceError::NotRunning`] without side effect.
    fn set_queue_error(&mut self, index: u16, error: Option<Eventfd>) -> Result<(), DeviceError>;

    /// The MTU that the host gives the guest, in bytes without the Ethernet header. Only with NET_MTU.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], or [`DeviceError::Unsupported`] for other device types.
    fn set_mtu(&mut self, mtu: u16) -> Result<(), DeviceError> {
        let _ = mtu;
        Err(DeviceError::Unsupported { what: "MTU" })
    }

    /// Announce `mac` with a RARP broadcast: a migration has ended. Only with RARP.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] for other device types.
    fn send_rarp(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let _ = mac;
        Err(DeviceError::Unsupported { what: "RARP" })
    }

    /// The driver wrote the device status (VIRTIO 1.2 section 2.1), as far as the front end tells. Informational:
    /// starting and stopping follows the queues' own messages.
    fn status_changed(&mut self, status: u8) {
        let _ = status;
    }

    /// Back to the initial state: features and driver-written configuration are forgotten. All queues were stopped
    /// before. Called at the end of every session, and within one when the driver resets the device.
    fn reset(&mut self);
}

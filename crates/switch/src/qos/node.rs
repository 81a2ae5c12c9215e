//! Ports, tenants and classes of the [`Scheduler`](super::scheduler::Scheduler) as they are configured, named and counted.

use super::codel::CodelConfig;
use super::fifo::Frame;

/// Most frames that may wait in front of a port, and most of a class.
pub const FRAMES_MAX: u32 = 1 << 24;
/// Most tenants of a port, and most classes.
pub const NODES_MAX: u32 = 1 << 16;

/// A shaper: bits per second and a burst in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits per second.
    pub bits_per_s: u64,
    /// Bytes that may go at once after a pause.
    pub burst: u64,
}

/// A port.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// Frequency of the clock that `now` is read from.
    pub ticks_per_s: u64,
    /// Limits the port, if it is to be slower than the wire.
    pub shape: Option<Shape>,
    /// Frames that may wait, over all classes: 1 to [`FRAMES_MAX`].
    pub frames: u32,
    /// Bytes that the medium adds to each frame and that rates count too: 24 for rates on an Ethernet wire (preamble, check sequence,
    /// gap), 0 for rates of frame bytes.
    pub framing: u8,
}

/// A tenant of a port.
#[derive(Clone, Copy, Debug)]
pub struct TenantConfig {
    /// Level, 0 (served first) to 7.
    pub priority: u8,
    /// Share of the level, 1 to [`WEIGHT_MAX`](super::round_robin::WEIGHT_MAX).
    pub weight: u16,
    /// Limits the tenant.
    pub shape: Option<Shape>,
}

/// A class of a tenant: one queue.
#[derive(Clone, Copy, Debug)]
pub struct ClassConfig {
    /// Level within the tenant, 0 (served first) to 7.
    pub priority: u8,
    /// Share of the level, 1 to [`WEIGHT_MAX`](super::round_robin::WEIGHT_MAX).
    pub weight: u16,
    /// Frames that may wait; reserved of the port's.
    pub frames: u32,
    /// Bytes that may wait. A single frame may wait whatever its length.
    pub bytes: u64,
    /// Acts on standing queues before they are full.
    pub codel: Option<CodelConfig>,
}

/// Names a tenant of one scheduler for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Names a class of one scheduler for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A frame was not queued; it is still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The class is full; counted there.
    Full,
    /// The class does not exist (any more).
    Gone,
}

/// What to do with a frame that leaves the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Send it.
    Send,
    /// Set ECN to CE and send it.
    MarkAndSend,
    /// Give its buffer back unsent: the queue stands, and the frame cannot be marked. It was charged to nobody.
    Drop,
}

/// A frame that leaves the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// As it was queued.
    pub frame: Frame,
    /// Where it was queued.
    pub class: ClassId,
    /// What is to be done.
    pub fate: Fate,
}

/// What a class has seen. All counts wrap at 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClassStats {
    /// Sent, marked ones included.
    pub sent_packets: u64,
    /// Their bytes, without framing.
    pub sent_bytes: u64,
    /// Refused because the queue was full.
    pub full_packets: u64,
    /// Their bytes.
    pub full_bytes: u64,
    /// Dropped by CoDel.
    pub codel_dropped: u64,
    /// Marked by CoDel.
    pub codel_marked: u64,
    /// Waiting now.
    pub queued_packets: u32,
    /// Their bytes.
    pub queued_bytes: u64,
}

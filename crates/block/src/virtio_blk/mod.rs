//! The virtio-blk controller (Virtio 1.2, section 5.2): a guest's disk over any bdev.
//!
//! - [`device`]: life cycle and configuration, on the transport's control thread;
//! - [`queue`]: the poller of one virtqueue, on its lcore;
//! - [`request`]: what a driver asks for, parsed and bounded;
//! - [`config`]: configuration space and features; [`statistics`]: counters.
//!
//! It knows neither the transport nor the kind of disk.

pub mod config;
pub mod device;
mod pending;
pub mod queue;
pub mod request;
mod ring;
pub mod statistics;

pub use device::{BlkError, BlkMonitor, BlkOptions, VirtioBlk};
pub use queue::HaltReason;
pub use statistics::QueueReport;

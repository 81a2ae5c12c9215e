//! Virtio, device side: guest memory, virtqueues, and the vhost-user protocol that brings both here (Virtio 1.2; vhost-user).
//!
//! - [`memory`] and [`slice`](mod@slice): what a front end shares, and the only ways to touch it;
//! - [`split`]: the split virtqueue, as the lcore that owns it works it;
//! - [`inflight`]: what was fetched and not completed, kept where it survives a crash;
//! - [`device`]: the contract between a transport and a device;
//! - [`vhost_user`]: the transport.
//!
//! Nothing here knows what a buffer means; network and block devices are other rooms.

pub mod device;
pub mod eventfd;
pub mod features;
pub mod inflight;
pub mod memory;
pub mod slice;
pub mod split;
pub mod vhost_user;

pub use memory::{GuestMemory, MemoryError, RegionSpec};
pub use slice::GuestSlice;
pub use split::{Chain, RingError, Single, SplitLayout, SplitQueue};

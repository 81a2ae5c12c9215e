//! sumeru-virtio

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
pub use split::{Chain, RingError, SplitLayout, SplitQueue};

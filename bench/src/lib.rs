//! Side-by-side benches of Sumeru with real peers, and the driver side of vhost-user that drives both.
//!
//! `frontend` and `blk_load` implement the *driver* end of virtio 1.2 and vhost-user on their own: nothing here
//! uses the device-side crates, so a misreading of the standard on one side shows as a failure instead of cancelling out.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blk_load;
pub mod frontend;
pub mod histogram;
pub mod thread;
pub mod tsc;

//! Side-by-side benches of Sumeru with real peers, and the driver side of vhost-user that drives both.
//!
//! `frontend` and `blk_load` implement the *driver* end of virtio 1.2 and vhost-user on their own: they use nothing of
//! the device-side crates, so a misreading of the standard on one side shows as a failure instead of cancelling out.
//! `library` alone uses the rooms: it is the switch's library in this process, measured where a daemon would be in the way.
//! `generator` sends and counts frames over the same driver end. `sumeru` is all that knows the daemon's configuration and
//! RPC; `peers` the same for each peer; `lane` (switches) and `block` are the measurements; `cases` what is measured;
//! `report` writes what came out.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod base_station;
pub mod blk_load;
pub mod block;
pub mod cases;
pub mod frontend;
pub mod generator;
pub mod histogram;
pub mod idle;
pub mod isolation;
pub mod jsonrpc;
pub mod lane;
pub mod library;
pub mod machine;
pub mod options;
pub mod pairs;
pub mod peers;
pub mod plot;
pub mod probe;
pub mod process;
pub mod report;
pub mod residence;
pub mod steps;
pub mod sumeru;
pub mod switch;
pub mod thread;
pub mod tsc;

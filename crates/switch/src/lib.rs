//! The virtual switch: frames from ring to ring with one copy, steered by flow rules and learned addresses.

pub mod net_header;
pub mod wire;

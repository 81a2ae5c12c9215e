//! The virtual switch: frames from ring to ring with one copy, steered by flow rules and learned addresses.

pub mod cache;
pub mod capture;
pub mod classifier;
pub mod conntrack;
pub mod edit;
pub mod egress;
pub mod fdb;
pub mod frame;
mod interned;
pub mod lane;
pub mod link;
pub mod net_header;
pub mod program;
pub mod qos;
pub mod ring;
pub mod rules;
pub mod snapshot;
pub mod stats;
pub mod switch;
pub mod trace;
pub mod track;
pub mod translate;
pub mod underlay;
pub mod vhost_net;
pub mod wire;
pub mod worker;

//! sumeru-fuzz: bodies of the fuzz targets, one module each, callable from any fuzzing engine and from tests.

pub mod block;
pub mod flow;
mod guest;
mod input;
pub mod packet;
pub mod packet_edit;
pub mod ring;
pub mod rpc;
pub mod translate;
pub mod vhost_user;
pub mod virtqueue;

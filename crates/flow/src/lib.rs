//! The rte_flow model (DPDK 22.11 semantics) and its text syntax, testpmd's.
//!
//! [`model`] holds rules: attributes, pattern items with spec, last and mask, and actions; templates,
//! indirect actions and meters. [`syntax`] reads and prints testpmd's commands about them. [`describe`] reads the description of one
//! packet and builds its bytes. This crate never touches a packet of the data path and never
//! decides whether a back end can carry out a rule; it decides whether the rule makes sense.
#![forbid(unsafe_code)]

pub mod describe;
pub mod model;
mod number;
pub mod syntax;

pub use describe::PacketDescription;
pub use model::{Action, Attributes, FlowError, Item, Matched, PortRef, Rule};
pub use syntax::{Command, SyntaxError};

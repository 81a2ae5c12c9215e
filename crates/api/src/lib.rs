//! The native API of a node: JSON-RPC 2.0 over a Unix socket, and counters over HTTP. It translates between wire and
//! control plane and decides nothing itself; the control plane never waits for a client.
//!
//! | module | what is there |
//! |---|---|
//! | [`frame`] | cutting the byte stream into JSON values, with limits |
//! | [`protocol`] | requests, batches, answers, error codes (JSON-RPC 2.0) |
//! | [`method`] | the table of methods, with their parameters |
//! | [`server`] | the socket and its clients |
//! | [`metrics`] | counters for Prometheus, over HTTP |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod frame;
pub mod method;
mod methods;
pub mod metrics;
pub mod protocol;
pub mod server;

pub use method::State;
pub use metrics::serve_metrics;
pub use server::serve;

//! The control plane of a node: one object model, its store, and the reconciler that is the only
//! writer of the data plane's configuration.
//!
//! Everything here is plain synchronous code behind one owner ([`reconcile::Control`]); surfaces
//! (JSON-RPC, CLI) translate to and from it. It never touches a ring, a packet or a disk block:
//! whatever has to happen to those is asked of a [`dataplane::DataPlane`].
//!
//! | module | what is there |
//! |---|---|
//! | [`model`] | the objects: node, network, port, volume, controller, flow, and those of policy and services |
//! | [`policy`] | security groups, anti-spoofing, blocklists, isolation and rates as flow rules |
//! | [`balance`] | load balancers while they run: probes, states |
//! | [`services`] | subnets, routers and floating IPs as what the switch itself does for hosts |
//! | [`value`] | checked scalar types: sizes, MAC addresses, VNIs, interface addresses |
//! | [`decode`] | one reader for objects written as TOML or JSON, which reports every fault |
//! | [`config`] | the TOML file: check, read, write |
//! | [`settings`] | the sections of the file that are no objects: `[daemon]`, `[switch]` |
//! | [`store`] | what survives a restart (SQLite), damage detection and recovery |
//! | [`dataplane`] | what is asked of a data plane, and what it reports |
//! | [`dry`] | a data plane that moves nothing, to try a configuration on |
//! | [`inventory`] | the current objects and the references between them |
//! | [`reconcile`] | changes: order, refusal, roll back, restore |
//! | [`event`] | what happened, in order |
//! | [`error`] | every refusal, with the object, what was wrong and what was expected |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod balance;
pub mod config;
pub mod dataplane;
pub mod decode;
pub mod dry;
pub mod error;
pub mod event;
pub mod inventory;
pub mod local;
pub mod model;
pub mod policy;
pub mod reconcile;
pub mod services;
pub mod settings;
pub mod store;
pub mod value;

//! A small framework for tests with real peers: stock guests under QEMU, network namespaces as nodes, the daemon under
//! test, and storage peers.
//!
//! Everything it starts or creates is tied to a value and goes away with it: on drop, on a panic, and on SIGINT,
//! SIGTERM and SIGHUP ([`cleanup`]). Processes additionally die with this process, however it ends ([`process`]).
//! What a killed run could not remove (namespaces, socket folders) is removed by the next one.
//!
//! A peer that is absent is an error that names the command which installs it; nothing is ever skipped.
//! The framework ends only processes that it started itself.

pub mod cleanup;
pub mod config;
pub mod daemon;
mod error;
pub mod initramfs;
pub mod netns;
pub mod peers;
pub mod place;
pub mod process;
pub mod qemu;
pub mod storage;
pub mod workload;

pub use config::Config;
pub use daemon::Daemon;
pub use error::{Error, Result};
pub use initramfs::Initramfs;
pub use netns::{Namespace, veth_pair};
pub use peers::{Kernel, QemuVersion};
pub use process::{Lifetime, Output, Process};
pub use qemu::{Disk, Guest, Nic, SocketRole, boot_all};
pub use storage::StorageDaemon;

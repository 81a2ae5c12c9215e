//! The engine: pinned poll-mode threads (lcores) and what they are made of.
//!
//! An [`Lcore`] is one thread on one CPU that calls its [`Poller`]s in turn and runs each to completion. It owns its
//! pollers outright; control reaches them only by [`Lcore::call`] (a closure run at the top of the loop, which is also
//! a quiescent point) or by a [`publish::Publisher`] (an immutable snapshot picked up at the top of the loop). An lcore that
//! finds no work spins for a while, then sleeps on its watched file descriptors.
//!
//! The engine knows no protocol: it never parses a packet or an I/O command.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod counter;
pub mod executor;
pub mod huge;
pub mod idle;
pub mod io_buffer;
pub mod lcore;
pub mod publish;
pub mod spsc;
pub mod tsc;
pub mod uring;

pub use counter::Counter;
pub use executor::{Alarm, Executor, LcoreContext};
pub use idle::IdlePolicy;
pub use io_buffer::{Buffers, Hold, IoBuffer};
pub use lcore::{
    Armed, Cx, EngineError, Lcore, LcoreConfig, LcoreReport, Local, Poller, PollerId, Watch,
};
pub use tsc::Tsc;
pub use uring::{OpFuture, Reactor};

//! Sumeru's switch as a library, in this process: one lcore thread with guests of plain memory, one control thread that changes its rules.
//!
//! What `bench-flow-scale` asks of millions of rules and flows is measured here, without sockets and without another process: [`capacity`]
//! (memory, insertion and removal), [`storm`] (latency while rules change), [`switch_over`] (a transaction), [`convergence`] (what wildcards save),
//! [`curves`] (cycles per packet as flows and rules grow). It is the only part of these benches that uses the rooms; the driver's side
//! of the rings is [`crate::frontend`] here as elsewhere.
//!
//! The lcore thread makes its own traffic between two polls; only the time within [`SwitchWorker::poll`](sumeru_engine::Poller::poll) counts.

pub mod capacity;
pub mod checks;
pub mod control;
pub mod convergence;
pub mod curves;
pub mod flows;
pub mod lcore;
pub mod memory;
pub mod storm;
pub mod switch_over;

use crate::thread::Raised;
use sumeru_switch::rules::SharedRules;

/// Cores of the two threads.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// Where the switch polls.
    pub lcore: usize,
    /// Where rules are changed.
    pub control: usize,
}

/// A table of rules and an lcore that decides by it.
pub struct Bed {
    /// The lcore.
    pub lcore: lcore::Thread,
    /// The rules.
    pub control: control::Control,
    // Both threads keep their cores.
    _raised: Raised,
}

impl Bed {
    /// An lcore without rules; the calling thread becomes control.
    ///
    /// # Errors
    /// The system's.
    pub fn start(cores: Cores) -> anyhow::Result<Self> {
        crate::thread::pin_self(cores.control)?;
        let rules = SharedRules::default();
        let lcore = lcore::Thread::start(cores.lcore, &rules)?;
        Ok(Self {
            lcore,
            control: control::Control::new(rules),
            _raised: Raised::this_thread()?,
        })
    }
}

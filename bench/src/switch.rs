//! One measurement of a switch between two vhost-user ports, the same for every switch.
//!
//! Busy cycles per packet = TSC of whole iterations of the switch's loop that received at least one packet, divided by
//! packets received; from the switch's own counters, checked against our TSC and against testpmd's counters.

use crate::peers::testpmd::Testpmd;
use crate::process;
use crate::thread::{self, Watch};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Least part of the time that a busy-polling thread must have run for a point to count.
pub const LEAST_RUNNING: f64 = 0.97;
/// Most that busy + idle may differ from the elapsed TSC.
pub const MOST_UNACCOUNTED: f64 = 0.02;
/// Most that switch and testpmd may differ in how many packets went from testpmd to the switch.
pub const MOST_MISCOUNTED: f64 = 0.001;

/// Counters of a switch's polling thread since some fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Our TSC when they were read.
    pub tsc: u64,
    /// Cycles of iterations that received packets.
    pub busy: u64,
    /// Cycles of iterations that received none.
    pub idle: u64,
    /// Packets received, both ports.
    pub rx_packets: u64,
}

/// A switch with vhost-user ports in server mode; frames of each of the first two go to the other.
pub trait Switch {
    /// Name in reports.
    fn name(&self) -> &'static str;
    /// Where the ports listen, at least two.
    fn sockets(&self) -> &[PathBuf];
    /// The process whose busiest thread does the work.
    fn pid(&self) -> u32;
    /// The polling thread's counters now.
    ///
    /// # Errors
    /// If the switch does not answer.
    fn counters(&mut self) -> Result<Counters>;
}

/// What testpmd does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Name in reports.
    pub name: &'static str,
    /// testpmd's forwarding mode.
    pub mode: &'static str,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// Bursts of 32 that are sent first; 0 for a mode that generates.
    pub first_bursts: u32,
    /// Most that ours/peer may be.
    pub goal: Option<f64>,
}

/// The cases that are judged.
pub const CASES: [Case; 3] = [
    Case {
        name: "v2v-64",
        mode: "io",
        frame_bytes: 64,
        first_bursts: 24,
        goal: Some(1.0 / 1.5),
    },
    Case {
        name: "v2v-1450",
        mode: "io",
        frame_bytes: 1450,
        first_bursts: 24,
        goal: Some(1.0 / 1.3),
    },
    Case {
        name: "flowgen-1k-64",
        mode: "flowgen",
        frame_bytes: 64,
        first_bursts: 0,
        goal: Some(1.0 / 1.5),
    },
];

/// How long, on which core, with what.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// testpmd's core.
    pub generator_core: usize,
    /// Appended to testpmd's devices, e.g. `,packed_vq=1`.
    pub virtio_options: String,
    /// Time before measuring.
    pub warm_up: Duration,
    /// Time measured.
    pub duration: Duration,
}

/// One point.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Busy TSC cycles per received packet.
    pub cycles_per_packet: f64,
    /// Million packets per second.
    pub mpps: f64,
    /// (busy + idle) / elapsed TSC.
    pub accounted: f64,
    /// Busy / (busy + idle).
    pub busy: f64,
    /// Part of the time that the switch's thread ran.
    pub switch_running: f64,
    /// Part of the time that testpmd's thread ran.
    pub generator_running: f64,
}

impl Point {
    /// Why the point does not count, if it does not.
    pub fn fault(&self) -> Option<String> {
        if self.switch_running < LEAST_RUNNING || self.generator_running < LEAST_RUNNING {
            let (switch, generator) = (self.switch_running * 100.0, self.generator_running * 100.0);
            return Some(format!(
                "switch ran {switch:.1} %, testpmd {generator:.1} % of the time"
            ));
        }
        if (self.accounted - 1.0).abs() > MOST_UNACCOUNTED {
            return Some(format!(
                "busy + idle are {:.1} % of the elapsed TSC",
                self.accounted * 100.0
            ));
        }
        None
    }
}

/// A switch with a testpmd that forwards through it. Both are stopped except while a point is measured, since the
/// switch and the testpmd of the other side spin on the same two cores.
pub struct Lane<'a> {
    switch: &'a mut dyn Switch,
    testpmd: Testpmd,
    from: Counters,
}

impl<'a> Lane<'a> {
    /// Lets the stopped `switch` go on, connects testpmd, starts forwarding, and stops both.
    ///
    /// # Errors
    /// If testpmd or the switch fails.
    pub fn start(
        switch: &'a mut dyn Switch,
        case: &Case,
        conditions: &Conditions,
        log: &Path,
    ) -> Result<Self> {
        process::pause(switch.pid(), false)?;
        let mut testpmd = Testpmd::start(
            switch.sockets(),
            conditions.generator_core,
            &conditions.virtio_options,
            log,
        )
        .with_context(|| format!("testpmd on {}", switch.name()))?;
        for pid in [switch.pid(), testpmd.pid()] {
            thread::raise_process(pid)
                .context("raise the priority of what is measured (needs root)")?;
        }
        testpmd.command(&format!("set fwd {}", case.mode))?;
        testpmd.command(&format!("set txpkts {}", case.frame_bytes))?;
        testpmd.command("clear port stats all")?;
        let from = switch.counters()?;
        let first = case.first_bursts;
        testpmd.command(&if first > 0 {
            format!("start tx_first {first}")
        } else {
            "start".to_owned()
        })?;
        let lane = Self {
            switch,
            testpmd,
            from,
        };
        lane.pause(true)?;
        Ok(lane)
    }

    fn pause(&self, paused: bool) -> Result<()> {
        process::pause(self.testpmd.pid(), paused)?;
        process::pause(self.switch.pid(), paused)
    }

    /// Name of the switch.
    pub fn name(&self) -> &'static str {
        self.switch.name()
    }

    /// Lets both run for one point.
    ///
    /// # Errors
    /// If testpmd or the switch fails.
    pub fn measure(&mut self, conditions: &Conditions) -> Result<Point> {
        self.pause(false)?;
        // The iteration that was stopped ends in here too, and with it the time that it stood still.
        std::thread::sleep(conditions.warm_up);
        let (switch_watch, generator_watch) = (
            Watch::start(self.switch.pid())?,
            Watch::start(self.testpmd.pid())?,
        );
        let from = self.switch.counters()?;
        std::thread::sleep(conditions.duration);
        let to = self.switch.counters()?;
        let (switch_share, generator_share) = (switch_watch.busiest()?, generator_watch.busiest()?);
        self.pause(true)?;

        let elapsed = (to.tsc - from.tsc) as f64;
        let (busy, idle) = ((to.busy - from.busy) as f64, (to.idle - from.idle) as f64);
        let packets = (to.rx_packets - from.rx_packets) as f64;
        if packets == 0.0 {
            bail!("{}: no packet came through", self.name());
        }
        Ok(Point {
            cycles_per_packet: busy / packets,
            mpps: packets / (elapsed / crate::tsc::hz()) / 1e6,
            accounted: (busy + idle) / elapsed,
            busy: busy / (busy + idle).max(1.0),
            switch_running: switch_share.running,
            generator_running: generator_share.running,
        })
    }

    /// Stops forwarding and compares what the switch received since the start with what testpmd sent; returns the ratio.
    /// The switch is left stopped.
    ///
    /// # Errors
    /// If they differ by more than [`MOST_MISCOUNTED`], or testpmd or the switch fails.
    pub fn finish(mut self) -> Result<f64> {
        self.pause(false)?;
        self.testpmd.command("stop")?;
        // What testpmd had sent last is still in the rings.
        std::thread::sleep(Duration::from_millis(100));
        let received = self.switch.counters()?.rx_packets - self.from.rx_packets;
        let sent = self.testpmd.totals()?.tx;
        let ratio = received as f64 / sent.max(1) as f64;
        if (ratio - 1.0).abs() > MOST_MISCOUNTED {
            bail!(
                "{}: the switch counts {received} packets received, testpmd {sent} sent",
                self.name()
            );
        }
        let pid = self.switch.pid();
        // testpmd first: it closes its connections while the switch still listens.
        drop(self.testpmd);
        std::thread::sleep(Duration::from_millis(100));
        process::pause(pid, true)?;
        Ok(ratio)
    }
}

//! One measurement of a switch with a generator that sends through it.
//!
//! A point counts only if both threads had their cores and the switch's counters add up; [`Lane::finish`] holds what the switch has counted
//! against what the generator has sent, and what came out of it against both.

use crate::frontend::guest_memory::Backing;
use crate::generator::{Generator, Load, Totals};
use crate::peers::testpmd::Testpmd;
use crate::process;
use crate::switch::{Counters, Switch};
use crate::thread::{self, Watch};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// Least part of the time that a busy-polling thread must have run for a point to count.
pub const LEAST_RUNNING: f64 = 0.97;
/// Most that busy + idle may differ from the elapsed TSC.
pub const MOST_UNACCOUNTED: f64 = 0.02;
/// Most that switch and generator may differ in how many packets went from the one to the other.
pub const MOST_MISCOUNTED: f64 = 0.001;
/// A cache that has not grown by more than this in [`SETTLING`] has settled.
const SETTLED: f64 = 1.001;
const SETTLING: Duration = Duration::from_secs(5);
/// Time that a switch has for forgetting its connections.
const FORGETTING: Duration = Duration::from_secs(2);

/// What makes the frames.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// DPDK's testpmd, in a forwarding mode of its own.
    Testpmd {
        /// The mode.
        mode: &'static str,
        /// Bytes of a frame.
        frame_bytes: u32,
        /// Bursts of 32 that are sent first; 0 for a mode that generates.
        first_bursts: u32,
    },
    /// Our own generator, in a closed loop for the time that is measured.
    Loop(Load),
    /// Our own generator sends this many frames, each of a new connection, after the switch has forgotten those of before: as many were sent at the start.
    Connections(Load, u64),
}

/// How long, on which core, with what.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The generator's core.
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
    /// Part of its rounds' time in which the generator had something to do; testpmd does not tell.
    pub generator_busy: Option<f64>,
    /// Part of the time that the switch's thread ran.
    pub switch_running: f64,
    /// Part of the time that the generator's thread ran.
    pub generator_running: f64,
}

impl Point {
    /// Why the point does not count, if it does not.
    pub fn fault(&self) -> Option<String> {
        if self.switch_running < LEAST_RUNNING || self.generator_running < LEAST_RUNNING {
            let (switch, generator) = (self.switch_running * 100.0, self.generator_running * 100.0);
            return Some(format!(
                "switch ran {switch:.1} %, generator {generator:.1} % of the time"
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

enum Driver {
    Testpmd(Testpmd),
    Own(Generator),
}

impl Driver {
    /// The process whose busiest thread it is: our own main thread sleeps while it is measured.
    fn pid(&self) -> u32 {
        match self {
            Self::Testpmd(testpmd) => testpmd.pid(),
            Self::Own(_) => std::process::id(),
        }
    }
}

/// A switch with a generator. Both are stopped except while a point is measured, since the switch and the generator of
/// the other side spin on the same two cores.
pub struct Lane<'a> {
    switch: &'a mut dyn Switch,
    driver: Driver,
    connections: Option<u64>,
    from: Counters,
    /// What the generator had counted when the last point ended.
    totals: Totals,
}

impl<'a> Lane<'a> {
    /// Lets the stopped `switch` go on, connects the generator, primes and starts it, and stops both.
    ///
    /// # Errors
    /// If the generator or the switch fails.
    pub fn start(
        switch: &'a mut dyn Switch,
        traffic: &Traffic,
        conditions: &Conditions,
        log: &Path,
    ) -> Result<Self> {
        process::pause(switch.pid(), false)?;
        thread::raise_process(switch.pid())
            .context("raise the priority of what is measured (needs root)")?;
        let from = switch.counters()?;
        let (mut totals, mut connections) = (Totals::default(), None);
        let driver = match traffic {
            Traffic::Testpmd {
                mode,
                frame_bytes,
                first_bursts,
            } => {
                let mut testpmd = Testpmd::start(
                    switch.sockets(),
                    conditions.generator_core,
                    &conditions.virtio_options,
                    log,
                )
                .with_context(|| format!("testpmd on {}", switch.name()))?;
                thread::raise_process(testpmd.pid())?;
                testpmd.command(&format!("set fwd {mode}"))?;
                testpmd.command(&format!("set txpkts {frame_bytes}"))?;
                testpmd.command("clear port stats all")?;
                testpmd.command(&if *first_bursts > 0 {
                    format!("start tx_first {first_bursts}")
                } else {
                    "start".to_owned()
                })?;
                Driver::Testpmd(testpmd)
            }
            Traffic::Loop(load) | Traffic::Connections(load, _) => {
                if let Traffic::Connections(_, count) = traffic {
                    connections = Some(*count);
                }
                let mut generator = Generator::start(
                    switch.sockets(),
                    conditions.generator_core,
                    load.clone(),
                    Backing::HugePages,
                )
                .with_context(|| format!("generator on {}", switch.name()))?;
                totals = generator
                    .prime()
                    .with_context(|| format!("prime {}", switch.name()))?;
                if let Some(count) = connections {
                    // Neither side is to touch its memory for the first time while it is measured.
                    totals = generator.count(count)?;
                }
                Driver::Own(generator)
            }
        };
        let mut lane = Self {
            switch,
            driver,
            connections,
            from,
            totals,
        };
        lane.pause(true)?;
        Ok(lane)
    }

    fn pause(&mut self, paused: bool) -> Result<()> {
        if !paused {
            process::pause(self.switch.pid(), false)?;
        }
        match &mut self.driver {
            Driver::Testpmd(testpmd) => process::pause(testpmd.pid(), paused)?,
            Driver::Own(generator) if paused => drop(generator.pause()?),
            Driver::Own(generator) if self.connections.is_none() => generator.resume()?,
            Driver::Own(_) => {}
        }
        if paused {
            process::pause(self.switch.pid(), true)?;
        }
        Ok(())
    }

    /// Name of the switch.
    pub fn name(&self) -> &'static str {
        self.switch.name()
    }

    /// Decisions that the switch has cached, if it tells; it is stopped again after the answer.
    ///
    /// # Errors
    /// If the switch does not answer.
    pub fn cached_decisions(&mut self) -> Result<Option<u64>> {
        process::pause(self.switch.pid(), false)?;
        let count = self.switch.cached_decisions();
        process::pause(self.switch.pid(), true)?;
        count
    }

    /// Lets both run until the switch's cache of decisions has stopped growing, for `patience` at most: a cache may grow more slowly than traffic
    /// asks for. Does nothing for a switch that does not tell its size.
    ///
    /// # Errors
    /// If the generator or the switch fails.
    pub fn settle(&mut self, patience: Duration) -> Result<()> {
        let Some(mut most) = self.cached_decisions()? else {
            return Ok(());
        };
        let (start, mut grown) = (Instant::now(), Instant::now());
        self.pause(false)?;
        // A cache at its limit goes up and down.
        while start.elapsed() < patience && grown.elapsed() < SETTLING {
            std::thread::sleep(SETTLING / 10);
            let now = self.switch.cached_decisions()?.unwrap_or_default();
            if now as f64 > most as f64 * SETTLED {
                (most, grown) = (now, Instant::now());
            }
        }
        self.pause(true)
    }

    /// Lets both run for one point.
    ///
    /// # Errors
    /// If the generator or the switch fails.
    pub fn measure(&mut self, conditions: &Conditions) -> Result<Point> {
        self.pause(false)?;
        if self.connections.is_some() {
            self.switch.forget_connections()?;
            // What forgets in the background is to be through with it.
            std::thread::sleep(FORGETTING);
        }
        // The iteration that was stopped ends in here too, and with it the time that it stood still.
        std::thread::sleep(conditions.warm_up);
        let (switch_watch, generator_watch) = (
            Watch::start(self.switch.pid())?,
            Watch::start(self.driver.pid())?,
        );
        let from = self.switch.counters()?;
        let totals = match (&mut self.driver, self.connections) {
            (Driver::Own(generator), Some(count)) => Some(generator.count(count)?),
            _ => {
                std::thread::sleep(conditions.duration);
                None
            }
        };
        let to = self.switch.counters()?;
        let (switch_share, generator_share) = (switch_watch.busiest()?, generator_watch.busiest()?);
        self.pause(true)?;
        let totals = match &mut self.driver {
            Driver::Own(generator) => Some(totals.map_or_else(|| generator.pause(), Ok)?),
            Driver::Testpmd(_) => None,
        };

        let elapsed = (to.tsc - from.tsc) as f64;
        let (busy, idle) = ((to.busy - from.busy) as f64, (to.idle - from.idle) as f64);
        let packets = (to.rx_packets - from.rx_packets) as f64;
        if packets == 0.0 {
            bail!("{}: no packet came through", self.name());
        }
        let generator_busy = totals.map(|now| {
            let before = std::mem::replace(&mut self.totals, now);
            (now.busy_cycles - before.busy_cycles) as f64
                / (now.cycles - before.cycles).max(1) as f64
        });
        Ok(Point {
            cycles_per_packet: busy / packets,
            mpps: packets / (elapsed / crate::tsc::hz()) / 1e6,
            accounted: (busy + idle) / elapsed,
            busy: busy / (busy + idle).max(1.0),
            generator_busy,
            switch_running: switch_share.running,
            generator_running: generator_share.running,
        })
    }

    /// Stops sending and compares what the switch received since the start with what the generator sent; returns the ratio.
    /// The switch is left stopped.
    ///
    /// # Errors
    /// If they differ by more than [`MOST_MISCOUNTED`], if the own generator did not get back what it sent, or if the generator or
    /// the switch fails.
    pub fn finish(mut self) -> Result<f64> {
        self.pause(false)?;
        let sent = match &mut self.driver {
            Driver::Testpmd(testpmd) => {
                testpmd.command("stop")?;
                // What testpmd had sent last is still in the rings.
                std::thread::sleep(Duration::from_millis(100));
                testpmd.totals()?.tx
            }
            Driver::Own(generator) => {
                generator.pause()?;
                let totals = generator.count(0)?;
                let apart = totals.sent.abs_diff(totals.received);
                if apart as f64 > totals.sent as f64 * MOST_MISCOUNTED {
                    bail!(
                        "{}: of {} frames sent {} arrived",
                        self.switch.name(),
                        totals.sent,
                        totals.received
                    );
                }
                totals.sent + totals.others_sent
            }
        };
        let received = self.switch.counters()?.rx_packets - self.from.rx_packets;
        let ratio = received as f64 / sent.max(1) as f64;
        if (ratio - 1.0).abs() > MOST_MISCOUNTED {
            bail!(
                "{}: the switch counts {received} packets received, the generator {sent} sent",
                self.name()
            );
        }
        let pid = self.switch.pid();
        // The generator first: it closes its connections while the switch still listens.
        drop(self.driver);
        std::thread::sleep(Duration::from_millis(100));
        process::pause(pid, true)?;
        Ok(ratio)
    }
}

//! The project's own traffic generator: the driver side of a switch's vhost-user ports, where testpmd cannot make the traffic.
//!
//! One thread on a core of its own sends the frames of a [`Load`] and counts what comes back out of the switch, in a closed loop: no more than a
//! window of frames of one direction are under way. It speaks to every switch the same way and shares no code with the rooms.
//!
//! Every frame's length is checked; the first of every burst byte for byte, and every single one while priming. What is no frame of the load
//! (an announcement, a flooded copy) is counted apart; ARP requests for the far tunnel end point are answered.

pub mod frame;
pub mod plan;
pub mod port;
mod run;

use crate::frontend::guest_memory::Backing;
use crate::thread;
use anyhow::{Context, Result, anyhow, bail};
use frame::Mac;
use plan::Plan;
use port::Port;
use run::Runner;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Frames of one direction that may be under way at once: as many as testpmd's `start tx_first 24` sets off.
pub const WINDOW: u64 = 768;

/// Frames from one port to another.
#[derive(Debug, Clone)]
pub struct Direction {
    /// The port that sends, by its place among the sockets.
    pub from: usize,
    /// The ports at which they may arrive; one direction at most ends at a port.
    pub to: Vec<usize>,
    /// The frames.
    pub plan: Plan,
}

/// What a generator does.
#[derive(Debug, Clone)]
pub struct Load {
    /// Directions; all run at once.
    pub directions: Vec<Direction>,
    /// Frames that are sent once before anything else, by port: a guest makes itself known.
    pub announce: Vec<(usize, Vec<u8>)>,
    /// Who answers ARP requests: the port, the address asked for, its address on the link.
    pub neighbour: Option<(usize, Ipv4Addr, Mac)>,
    /// Frames per direction and pass that priming sends; no pass if 0.
    pub prime: u64,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames of the load that were sent.
    pub sent: u64,
    /// Frames of the load that arrived where they had to.
    pub received: u64,
    /// Frames of the load that did not arrive.
    pub lost: u64,
    /// Frames beside the load that were sent: announcements and ARP answers.
    pub others_sent: u64,
    /// Frames that arrived and are none of the load.
    pub foreign: u64,
    /// Frames that were looked at byte for byte.
    pub inspected: u64,
    /// Cycles of rounds that sent or received something, and of all rounds.
    pub busy_cycles: u64,
    /// Cycles of all rounds.
    pub cycles: u64,
}

/// What the thread is told.
enum Command {
    Prime,
    Run,
    Count(u64),
}

/// A running generator; its thread sleeps except between [`Generator::resume`] and [`Generator::pause`] and while it primes or counts.
pub struct Generator {
    commands: Option<Sender<Command>>,
    answers: Receiver<Result<Totals>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    running: bool,
    totals: Totals,
}

impl Generator {
    /// Connects to the ports that listen at `sockets` and waits for commands on `core`.
    ///
    /// # Errors
    /// If a port does not take the connection, or a direction names a port that is not there.
    pub fn start(sockets: &[PathBuf], core: usize, load: Load, backing: Backing) -> Result<Self> {
        let ends = load
            .directions
            .iter()
            .flat_map(|direction| direction.to.iter().copied().chain([direction.from]))
            .chain(load.announce.iter().map(|(port, _)| *port))
            .chain(load.neighbour.map(|(port, _, _)| port));
        let needed = ends.max().map_or(0, |port| port + 1);
        if needed > sockets.len() {
            bail!(
                "the load needs {needed} ports, the switch has {}",
                sockets.len()
            );
        }
        let ports = sockets[..needed]
            .iter()
            .map(|socket| {
                Port::open(socket, backing)
                    .with_context(|| format!("connect to {}", socket.display()))
            })
            .collect::<Result<Vec<Port>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (commands, orders) = channel();
        let (results, answers) = channel();
        let mut runner = Runner::new(ports, load, Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("generator".into())
            .spawn(move || {
                let _raised =
                    match thread::pin_self(core).and_then(|()| thread::Raised::this_thread()) {
                        Ok(raised) => raised,
                        Err(error) => {
                            let _ = results
                                .send(Err(anyhow!(error)
                                    .context("pin and raise the generator (needs root)")));
                            return;
                        }
                    };
                while let Ok(command) = orders.recv() {
                    let done = match command {
                        Command::Prime => runner.prime(),
                        Command::Run => runner.run(),
                        Command::Count(frames) => runner.count(frames),
                    };
                    if results.send(done.map(|()| runner.totals())).is_err() {
                        return;
                    }
                }
            })
            .context("start the generator's thread")?;
        Ok(Self {
            commands: Some(commands),
            answers,
            stop,
            thread: Some(thread),
            running: false,
            totals: Totals::default(),
        })
    }

    /// Sends every flow until all of them arrive, one after the other: addresses are learnt, connections made, caches filled.
    ///
    /// # Errors
    /// If frames are still lost in the tenth pass, or a frame arrives changed.
    pub fn prime(&mut self) -> Result<Totals> {
        self.order(Command::Prime)?;
        self.answer()
    }

    /// Sends on until [`Generator::pause`].
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn resume(&mut self) -> Result<()> {
        if !self.running {
            self.order(Command::Run)?;
            self.running = true;
        }
        Ok(())
    }

    /// Stops where it is; what is under way stays so. The counts since the start.
    ///
    /// # Errors
    /// What went wrong while it ran.
    pub fn pause(&mut self) -> Result<Totals> {
        if self.running {
            self.running = false;
            self.stop.store(true, Ordering::Release);
            return self.answer();
        }
        Ok(self.totals)
    }

    /// Sends `frames` in every direction and waits for those under way to arrive. The counts since the start.
    ///
    /// # Errors
    /// What went wrong.
    pub fn count(&mut self, frames: u64) -> Result<Totals> {
        self.order(Command::Count(frames))?;
        self.answer()
    }

    fn order(&mut self, command: Command) -> Result<()> {
        self.stop.store(false, Ordering::Release);
        let sent = self
            .commands
            .as_ref()
            .is_some_and(|commands| commands.send(command).is_ok());
        if !sent {
            // It has said why before it ended.
            self.answer()?;
            bail!("the generator has ended");
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Totals> {
        self.totals = self.answers.recv().context("the generator has ended")??;
        Ok(self.totals)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the generator's thread panicked");
        }
    }
}

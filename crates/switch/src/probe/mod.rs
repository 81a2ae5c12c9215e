//! Probes of load balancers' members: TCP connections and HTTP questions (RFC 9110), made by this process through the switch.
//!
//! One thread probes for all networks. On each it has a port of its own ([`Channel`](crate::wire::Channel)) with TCP/IP stacks (smoltcp) behind it, so that what a
//! tenant sends meets nothing of another's. All is bounded: frames taken in a turn, connections at a time, bytes of an answer, the time of a probe.

mod http;
mod site;
mod stack;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::balance::{MemberState, Shared};
use crate::snapshot::NetworkId;
use site::Site;

/// Longest sleep of the thread.
const SLEEP: Duration = Duration::from_millis(500);
/// Shortest time between two turns of the thread, whatever comes in.
const PAUSE: Duration = Duration::from_millis(1);

/// What is asked of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection.
    Tcp,
    /// A page.
    Http {
        /// The whole request.
        request: Arc<[u8]>,
        /// Status codes of a healthy member.
        codes: Arc<[u16]>,
    },
}

impl Check {
    /// Asks for `path`; `host` and `path` have neither blanks nor what ends a line.
    pub fn http(path: &str, host: &str, codes: &[u16]) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sumeru\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Self::Http {
            request: request.into_bytes().into(),
            codes: codes.into(),
        }
    }
}

/// A member, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The load balancer's name.
    pub balancer: Arc<str>,
    /// The member.
    pub member: SocketAddr,
    /// The port that is probed.
    pub port: u16,
    /// The member's number.
    pub slot: u16,
    /// Where it is noted whether it may get connections.
    pub state: Shared<MemberState>,
    /// What is asked.
    pub check: Check,
    /// From the beginning of a probe to that of the next.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// Probes in a row that bring it back.
    pub rise: u8,
    /// Probes in a row that take it away.
    pub fall: u8,
}

/// Where probes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vantage {
    /// The network.
    pub network: NetworkId,
    /// The address.
    pub source: IpAddr,
    /// Length of its prefix.
    pub length: u8,
    /// Router for other prefixes.
    pub gateway: Option<IpAddr>,
    /// Who is probed.
    pub targets: Vec<Target>,
}

impl Vantage {
    /// Whose link-layer address a packet to an address needs: its own, or the router's.
    fn neighbour(&self, address: IpAddr) -> IpAddr {
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let common = (bits(address) ^ bits(self.source)).leading_zeros();
        match self.gateway {
            Some(gateway) if common < self.length.into() => gateway,
            _ => address,
        }
    }

    /// The link-layer address that goes with the address: locally administered.
    pub fn mac(&self) -> [u8; 6] {
        let bits = match self.source {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => address.to_bits() as u32,
        };
        let [a, b, c, d] = bits.to_be_bytes();
        [0x0e, 0x73, a, b, c, d]
    }
}

/// A member came back or went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The load balancer's name.
    pub balancer: Arc<str>,
    /// The member.
    pub member: SocketAddr,
    /// The member's number.
    pub slot: u16,
    /// Whether it may get connections.
    pub up: bool,
    /// What the last probe came to.
    pub why: &'static str,
}

/// Who probes, and by which socket of a [`Channel`](crate::wire::Channel) if that is new.
type Order = (Vec<(Vantage, Option<UnixDatagram>)>, Sender<()>);

/// The thread. It ends with this.
#[derive(Debug)]
pub struct Prober {
    orders: Option<Sender<Order>>,
    wake: UnixDatagram,
    changes: Receiver<Change>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts it, with nobody to probe.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start() -> io::Result<Self> {
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (orders, ordered) = channel();
        let (tell, changes) = channel();
        let work = Work {
            sites: Vec::new(),
            ordered,
            woken,
            tell,
        };
        let thread = std::thread::Builder::new()
            .name("prober".to_owned())
            .spawn(move || work.run())?;
        Ok(Self {
            orders: Some(orders),
            wake,
            changes,
            thread: Some(thread),
        })
    }

    /// Probes from these from now on, and from no others; what is known of targets that were there stays. With those that are new come their sockets. Returns
    /// when the thread has taken note.
    pub fn set(&self, vantages: Vec<(Vantage, Option<UnixDatagram>)>) {
        let (done, heard) = channel();
        let sent = self
            .orders
            .as_ref()
            .map(|orders| orders.send((vantages, done)));
        if sent.is_some_and(|sent| sent.is_ok()) {
            // A full socket wakes as well.
            let _ = self.wake.send(&[0]);
            let _ = heard.recv();
        }
    }

    /// What changed since this was asked last.
    pub fn changes(&self) -> Vec<Change> {
        self.changes.try_iter().collect()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.wake.send(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    sites: Vec<Site>,
    ordered: Receiver<Order>,
    woken: UnixDatagram,
    tell: Sender<Change>,
}

impl Work {
    fn run(mut self) {
        loop {
            match self.ordered.try_recv() {
                Ok((vantages, done)) => {
                    self.set(vantages);
                    let _ = done.send(());
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let now = Instant::now();
            let mut sleep = SLEEP;
            for site in &mut self.sites {
                let tell = &self.tell;
                // Whatever a tenant may find in the stack, it stays in his network.
                let turn = catch_unwind(AssertUnwindSafe(|| site.turn(now, tell)));
                sleep = sleep.min(turn.unwrap_or_else(|_| {
                    let network = site.network();
                    tracing::error!(network, "the stacks of the probes are made anew");
                    site.renew();
                    SLEEP
                }));
            }
            self.wait(sleep);
        }
    }

    fn set(&mut self, vantages: Vec<(Vantage, Option<UnixDatagram>)>) {
        let mut before = std::mem::take(&mut self.sites);
        let now = Instant::now();
        for (vantage, socket) in vantages {
            let known = before.iter().position(|site| site.is_of(&vantage));
            let known = known.map(|at| before.swap_remove(at));
            let site = match socket {
                Some(socket) => Some(Site::new(&vantage, socket)),
                None => known,
            };
            if let Some(mut site) = site {
                site.configure(vantage, now);
                self.sites.push(site);
            }
        }
    }

    /// Until there is something to do.
    fn wait(&self, sleep: Duration) {
        let sockets = self.sites.iter().map(|site| site.socket());
        let mut look: Vec<PollFd<'_>> = std::iter::once(self.woken.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        std::thread::sleep(PAUSE);
        let sleep = Timespec {
            tv_sec: sleep.as_secs() as i64,
            tv_nsec: i64::from(sleep.subsec_nanos()),
        };
        // Whatever it says, a turn follows.
        let _ = rustix::event::poll(&mut look, Some(&sleep));
        let mut byte = [0; 8];
        while self.woken.recv(&mut byte).is_ok() {}
    }
}

//! Protection of guests from floods of SYNs (RFC 4987): of a protected port the switch answers SYNs with SYN cookies while too many connections to it
//! are half open, and opens to the guest only those whose client has proved its address, as Linux's SYNPROXY does.
//!
//! All TCP connections of a protected port are tracked in a zone of its own ([`zone`]), in which nobody is held to windows. Of those that were opened with a
//! cookie the numbers are moved between switch and guest, before all else of what the guest sends and behind all else of what it gets: rules, other zones
//! and translations see the connection as the client does. Here is what an lcore keeps of it; the decisions are made in
//! [`translate`](crate::translate), their operations are in [`lane`](crate::lane).

pub mod segment;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrayvec::ArrayVec;
use sumeru_packet::Layout;

use crate::conntrack::{ConnRef, CookieSecret, Opening};
use crate::frame::PortIndex;
use crate::program::Tunnel;
use crate::stats::PortCounters;

/// Connections that are being opened to guests at a time, to one and to all, and looked after: what is beyond is asked for once, and the client's ACK is its
/// next segment.
const OPENINGS_OF_ONE: u16 = 512;
const OPENINGS: usize = 4096;
/// Frames of our own making that wait for their turn.
const WAITING: usize = 1024;
/// Seconds without a flood after which cookies are not sent any more.
const QUIET: u8 = 10;
/// A cookie is good for two time slots of 64 s; milliseconds.
const GOOD_FOR: u64 = 128_000;
/// Seconds after which a guest gets the SYN again; after the last one the client is told that nobody answers.
const TRIES: [u32; 4] = [1, 2, 4, 8];
/// Longest headers of a client's segment, tunnel included.
pub const LONGEST: usize = 256;

/// The zone in which the connections of a protected port are tracked. Ports have indexes below 4096; the zones of policies are those from 0x8000 on.
pub fn zone(port: PortIndex) -> u16 {
    0x9000 | port
}

/// The port whose connections are tracked in a zone, if it is one of [those](zone).
pub fn port_of(zone: u16) -> Option<PortIndex> {
    (zone & 0xf000 == 0x9000).then_some(zone & 0xfff)
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// While there are too many.
    Auto,
    /// At all times.
    Always,
}

/// How a port is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShieldView {
    /// When.
    pub mode: Mode,
    /// Half-open connections from which on there are too many; at least 1.
    pub half_open: u32,
    /// New connections in a second from which on there are too many.
    pub rate: Option<u32>,
    /// Maximum segment size that clients are told, at most; they are told what the port's MTU allows if that is less.
    pub mss: u16,
    /// Window scale that clients are told who offer one; at most 14. Windows of a guest that has chosen another are scaled anew.
    pub window_scale: u8,
    /// Whether clients who offer selective acknowledgements may send them.
    pub sack: bool,
    /// Whether clients who offer timestamps are given one. Without, a cookie remembers no window scale and no selective acknowledgements.
    pub timestamps: bool,
}

impl Default for ShieldView {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            half_open: 128,
            rate: None,
            mss: 1460,
            window_scale: 7,
            sack: true,
            timestamps: true,
        }
    }
}

/// The way back to a client on another node.
pub type Back = Option<(Box<Tunnel>, PortIndex)>;

/// A SYN of no connection, to a protected port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The port.
    pub port: PortIndex,
    /// Whether the headers inside the tunnel are meant.
    pub inner: bool,
    /// The way back.
    pub back: Back,
}

/// An ACK of no connection: it may prove a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redeem {
    /// The protected port that it is for, if it has come so far: then it goes no further while SYNs are answered with cookies.
    pub port: Option<PortIndex>,
    /// Whether the headers inside the tunnel are meant.
    pub inner: bool,
    /// The way back.
    pub back: Back,
}

/// The SYN-ACK of a guest, for a client that has had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Greeting {
    /// Its connection.
    pub conn: ConnRef,
    /// How its numbers move.
    pub shift: sumeru_packet::tcp::Shift,
    /// The window scale that the client was told.
    pub scale: u8,
}

/// A client that has proved its address.
#[derive(Clone, Debug)]
pub struct Client {
    /// The port that its frames come from.
    pub from: PortIndex,
    /// The headers of its ACK as it came.
    pub ack: ArrayVec<u8, LONGEST>,
    /// Where they are.
    pub layout: Layout,
    /// Which of them.
    pub inner: bool,
    /// The way back.
    pub back: Back,
    /// What it was told.
    pub opening: Opening,
    /// What it has told, for the guest.
    pub options: sumeru_packet::tcp::Options,
}

/// Its connection, while the guest has not answered.
#[derive(Debug)]
struct Pending {
    port: PortIndex,
    client: Client,
    tries: u8,
    due: u32,
}

/// What is to go through the switch as if it had come in.
#[derive(Debug)]
pub enum Waiting {
    /// The SYN of such a client.
    Syn(Client),
    /// Its ACK, once the guest has answered.
    Ack(Client),
}

/// A protected port on an lcore.
#[derive(Debug)]
struct Shield {
    view: ShieldView,
    mtu: u16,
    counters: Arc<PortCounters>,
    active: bool,
    /// New connections in this second.
    syns: u32,
    /// Cookies of this second, less those that were proved.
    unproved: u32,
    quiet: u8,
    /// Connections that its guest has not answered yet.
    openings: u16,
}

/// What an lcore keeps of its protected ports.
#[derive(Debug, Default)]
pub struct Shields {
    secret: CookieSecret,
    ports: BTreeMap<PortIndex, Shield>,
    pending: HashMap<ConnRef, Pending>,
    waiting: VecDeque<Waiting>,
    /// When cookies are not good any more, milliseconds.
    good_until: u64,
}

impl Shields {
    /// The key of the cookies.
    pub fn secret(&self) -> &CookieSecret {
        &self.secret
    }

    /// Whether there are protected ports.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Makes the protected ports these; what is known of those that stay so is kept.
    pub fn set(
        &mut self,
        ports: impl Iterator<Item = (PortIndex, ShieldView, u16, Arc<PortCounters>)>,
    ) {
        let mut before = std::mem::take(&mut self.ports);
        for (port, view, mtu, counters) in ports {
            let mut shield = before.remove(&port).unwrap_or_else(|| Shield {
                view,
                mtu,
                counters: counters.clone(),
                active: false,
                syns: 0,
                unproved: 0,
                quiet: 0,
                openings: 0,
            });
            (shield.view, shield.mtu, shield.counters) = (view, mtu, counters);
            if view.mode == Mode::Always {
                shield.turn(port, true);
            }
            self.ports.insert(port, shield);
        }
        for (port, mut shield) in before {
            shield.turn(port, false);
        }
    }

    /// Whether SYNs to a port are answered with cookies.
    pub fn is_active(&self, port: PortIndex) -> bool {
        self.ports.get(&port).is_some_and(|shield| shield.active)
    }

    /// A SYN of no connection to a port that has so many half-open ones: answers how it is protected and its MTU if a cookie is to be sent.
    pub fn meet(&mut self, port: PortIndex, half_open: u32, now: u64) -> Option<(ShieldView, u16)> {
        let shield = self.ports.get_mut(&port)?;
        shield.syns = shield.syns.saturating_add(1);
        let many = half_open >= shield.view.half_open
            || shield.view.rate.is_some_and(|rate| shield.syns > rate);
        if many && !shield.active {
            shield.turn(port, true);
        }
        if !shield.active {
            return None;
        }
        shield.unproved = shield.unproved.saturating_add(1);
        shield.counters.cookies_sent.add(1);
        self.good_until = now + GOOD_FOR;
        Some((shield.view, shield.mtu))
    }

    /// Whether an ACK may prove a cookie.
    pub fn may_be_good(&self, now: u64) -> bool {
        now < self.good_until
    }

    /// An ACK of no connection that proves nothing: true when it is to go no further.
    pub fn refuse(&self, port: Option<PortIndex>) -> bool {
        let shield = port.and_then(|port| self.ports.get(&port));
        let Some(shield) = shield.filter(|shield| shield.active) else {
            return false;
        };
        shield.counters.cookies_invalid.add(1);
        true
    }

    /// Lets a frame wait for its turn; false when too many do.
    pub fn wait(&mut self, waiting: Waiting) -> bool {
        let room = self.waiting.len() < WAITING;
        if room {
            self.waiting.push_back(waiting);
        }
        room
    }

    /// Whether frames wait.
    #[inline(always)]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The one that has waited longest.
    pub fn next_waiting(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// A connection of a port could not be kept for want of room, so that half-open ones are not counted any more: its SYNs are answered with cookies, if that is ever to be.
    pub fn overflowed(&mut self, port: PortIndex) {
        if let Some(shield) = self.ports.get_mut(&port)
            && shield.view.mode == Mode::Auto
        {
            shield.turn(port, true);
        }
    }

    /// A client's connection was begun; `now` in seconds.
    pub fn begun(&mut self, conn: ConnRef, port: PortIndex, client: Client, now: u32) {
        let Some(shield) = self.ports.get_mut(&port) else {
            return;
        };
        if self.pending.contains_key(&conn) {
            return;
        }
        shield.counters.cookies_valid.add(1);
        shield.unproved = shield.unproved.saturating_sub(1);
        if shield.openings >= OPENINGS_OF_ONE || self.pending.len() >= OPENINGS {
            return;
        }
        shield.openings += 1;
        let pending = Pending {
            port,
            client,
            tries: 0,
            due: now + TRIES[0],
        };
        self.pending.insert(conn, pending);
    }

    /// The guest has answered: the client's ACK is for it now.
    pub fn answered(&mut self, conn: ConnRef) {
        if let Some(pending) = self.pending.remove(&conn) {
            self.over(pending.port);
            self.waiting.push_back(Waiting::Ack(pending.client));
        }
    }

    fn over(&mut self, port: PortIndex) {
        if let Some(shield) = self.ports.get_mut(&port) {
            shield.openings = shield.openings.saturating_sub(1);
        }
    }

    /// Once a second: guests that did not answer get the SYN again. Answers the clients that have waited for too long, with their connections.
    pub fn retry(&mut self, now: u32, opening: impl Fn(ConnRef) -> bool) -> Vec<(ConnRef, Client)> {
        let (mut lost, mut gone) = (Vec::new(), Vec::new());
        for (conn, pending) in &mut self.pending {
            if !opening(*conn) {
                gone.push(*conn);
            } else if pending.due <= now {
                pending.tries += 1;
                match TRIES.get(usize::from(pending.tries)) {
                    Some(seconds) => {
                        pending.due = now + seconds;
                        if self.waiting.len() < WAITING {
                            self.waiting.push_back(Waiting::Syn(pending.client.clone()));
                        }
                    }
                    None => lost.push(*conn),
                }
            }
        }
        for conn in gone {
            if let Some(pending) = self.pending.remove(&conn) {
                self.over(pending.port);
            }
        }
        let mut told = Vec::with_capacity(lost.len());
        for conn in lost {
            let Some(pending) = self.pending.remove(&conn) else {
                continue;
            };
            self.over(pending.port);
            if let Some(shield) = self.ports.get(&pending.port) {
                shield.counters.cookies_unanswered.add(1);
            }
            told.push((conn, pending.client));
        }
        told
    }

    /// A second is over. `half_open`: of a port.
    pub fn tick(&mut self, half_open: impl Fn(PortIndex) -> u32) {
        for (port, shield) in &mut self.ports {
            let quiet = shield.unproved <= shield.view.half_open / 8
                && shield.view.rate.is_none_or(|rate| shield.syns <= rate)
                && half_open(*port) < shield.view.half_open;
            (shield.syns, shield.unproved) = (0, 0);
            shield.quiet = if quiet {
                shield.quiet.saturating_add(1)
            } else {
                0
            };
            if shield.active && shield.view.mode == Mode::Auto && shield.quiet >= QUIET {
                shield.turn(*port, false);
            }
        }
    }
}

impl Shield {
    fn turn(&mut self, port: PortIndex, on: bool) {
        if self.active == on {
            return;
        }
        (self.active, self.quiet) = (on, 0);
        if on {
            self.counters.cookies_on.add(1);
            tracing::warn!(
                port,
                "SYNs to the port are answered with cookies from now on"
            );
        } else {
            self.counters.cookies_off.add(1);
            tracing::info!(
                port,
                "SYNs to the port are not answered with cookies any more"
            );
        }
    }
}

#[cfg(test)]
mod tests;

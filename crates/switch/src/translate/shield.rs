//! Protected ports in the slow path: which connection of its zone a segment belongs to, and what is done to it therefore.

use sumeru_packet::{Field, Layer};

use super::Walk;
use super::ct::TUPLE;
use crate::conntrack::{Commit, ConnRef, Direction, Splice, tcp_flag};
use crate::frame::PortIndex;
use crate::program::Op;
use crate::rules::CtChange;
use crate::shield::segment;
use crate::shield::{Back, Greeting, Guard, Redeem, zone};
use crate::stats::Drop;
use crate::track::{self, Table};

const OUTER: Layer = Layer::Outer;
const TCP: u128 = 6;
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
/// What tells a beginning, an end, and all between.
const KIND: u8 = SYN_ACK | tcp_flag::RST;

/// What a walk has found out about protected ports.
#[derive(Debug, Default)]
pub(super) struct Protection {
    /// What is decided is about a copy of the frame: a flooded one is for whoever it may concern, and is not answered.
    pub copying: bool,
    /// A SYN of no connection to this port.
    guard: Option<PortIndex>,
    /// An ACK of no connection, and the protected port that it is for if it has come so far.
    doubt: Option<Option<PortIndex>>,
    /// The layer that was meant.
    inner: bool,
}

impl Walk<'_> {
    fn is_tcp(&mut self) -> bool {
        matches!(self.get(Field::EthType(OUTER)), 0x0800 | 0x86dd)
            && self.get(Field::IpProto(OUTER)) == TCP
    }

    fn note_protected(&mut self, port: PortIndex, what: &str) {
        if let Some(view) = self.tables.snapshot.port(port) {
            self.note("syn-protection", format_args!("port {}: {what}", view.name));
        }
    }

    /// A segment of a protected port's guest, before anything else is done to it.
    pub(super) fn leaves_protected(&mut self, port: PortIndex) {
        if !self.is_tcp() || self.get(Field::Fragment(OUTER)) != 0 {
            return;
        }
        let flags = self.get(Field::TcpFlags(OUTER)) as u8 & KIND;
        let tuple = track::tuple(&self.key, OUTER, zone(port));
        let now = self.tracking.facts[0].packet.now;
        let table = self.tracking.table.connections();
        let found = tuple.and_then(|tuple| table?.lookup(&tuple, now));
        if let Some((conn, Direction::Reply)) = found {
            self.out.once |= self.join(conn, flags);
            if !self.splice_answer(port, conn, flags) {
                return;
            }
        }
        let place = self.tracked_in(zone(port));
        let Some(tracked) = self.tracked.get(place) else {
            return;
        };
        // The guest's own connections, and such as were there before it was protected.
        let begins = flags == tcp_flag::SYN || flags == tcp_flag::ACK;
        if begins && tracked.is_later() {
            self.out.ops.push(Op::Keep(tracked.number() as u8));
        }
    }

    /// The guest's answer to a SYN that was the switch's: what both sides are off by is known now. Answers whether it is one.
    fn join(&mut self, conn: ConnRef, flags: u8) -> bool {
        let frame = self.tracking.frame;
        let came = frame.and_then(|f| segment::read(f.header.header(), &f.layout, false));
        let Table::Live(table, _) = &mut self.tracking.table else {
            return false;
        };
        let (Some(opening), Some(came)) = (table.opening_of(conn), came) else {
            return false;
        };
        let answers = table.acknowledges_opening(conn, came.ack);
        let stamp = came.options.timestamps.map(|(value, _)| value);
        let splice = match flags {
            SYN_ACK if answers => opening.join(came.seq, stamp, came.options.window_scale),
            // To the client its connection is open: a reset is the next that it expects.
            flags if flags & tcp_flag::RST != 0 && answers => Splice {
                seq: came.seq.wrapping_sub(opening.cookie.wrapping_add(1)),
                ..opening.join(came.seq, stamp, None)
            },
            _ => return true,
        };
        table.set_splice(conn, splice);
        true
    }

    /// Moves the numbers of a segment from a spliced connection's guest. False when it goes no further.
    fn splice_answer(&mut self, port: PortIndex, conn: ConnRef, flags: u8) -> bool {
        let table = self.tracking.table.connections();
        let (splice, opening) = match table {
            Some(table) => (table.splice(conn), table.opening_of(conn)),
            None => (None, None),
        };
        let Some(splice) = splice else {
            if opening.is_some() {
                self.drop(Drop::SynProtection);
            }
            return opening.is_none();
        };
        let shift = splice.to_opener();
        self.note_protected(port, "opened with a cookie: its numbers are moved");
        let packet = &mut self.tracking.facts[0].packet;
        packet.seq = packet.seq.wrapping_add(shift.seq);
        if flags & tcp_flag::SYN == 0 {
            packet.window = shift.scaled(packet.window);
            self.out.ops.push(Op::Splice(Box::new(shift), true));
            return true;
        }
        let own = packet.scale.unwrap_or(0).min(14) as i8;
        let scale = (own - splice.window).clamp(0, 14) as u8;
        packet.scale = packet.scale.map(|_| scale);
        self.out.once = true;
        let greeting = Greeting { conn, shift, scale };
        self.out.ops.push(Op::Greet(Box::new(greeting)));
        true
    }

    /// A frame that is about to leave by a protected port. True when it goes no further.
    pub(super) fn reaches_protected(&mut self, port: PortIndex) -> bool {
        if !self.seen.is_own() || !self.is_tcp() {
            return false;
        }
        if self.get(Field::Fragment(OUTER)) != 0 {
            self.drop(Drop::SynProtection);
            return true;
        }
        for field in TUPLE {
            self.origin(field, u128::MAX);
        }
        let flags = self.get(Field::TcpFlags(OUTER)) as u8 & KIND;
        if self.over {
            return true;
        }
        let place = self.tracked_in(zone(port));
        let Some(tracked) = self.tracked.get(place).copied() else {
            return false;
        };
        self.protection.inner = self.seen.is_decapsulated();
        match (tracked.found(), flags) {
            (Some((conn, Direction::Original)), flags) => self.on_spliced(port, conn, flags),
            (Some(_), _) => false,
            (None, tcp_flag::SYN) => self.begin(port, place),
            (None, tcp_flag::ACK) => {
                self.doubt(port);
                false
            }
            (None, _) => false,
        }
    }

    /// A segment of a client whose connection is known.
    fn on_spliced(&mut self, port: PortIndex, conn: ConnRef, flags: u8) -> bool {
        let Some(table) = self.tracking.table.connections() else {
            return false;
        };
        if let Some(splice) = table.splice(conn) {
            let shift = splice.to_server();
            self.note_protected(port, "opened with a cookie: its numbers are moved");
            self.out.ops.push(Op::Splice(Box::new(shift), false));
            return false;
        }
        let early = table.opening_of(conn).is_some()
            && self.tracking.redeemed.is_none()
            && flags & tcp_flag::RST == 0;
        if early {
            self.out.once = true;
            self.drop(Drop::SynProtection);
        }
        early
    }

    /// A SYN of no connection.
    fn begin(&mut self, port: PortIndex, place: usize) -> bool {
        let Some(mut tracked) = self.tracked.get(place).copied() else {
            return false;
        };
        if let Some(mut opening) = self.tracking.redeemed {
            let shield = self.tables.snapshot.port(port).and_then(|port| port.shield);
            let told = shield.map(|shield| shield.window_scale);
            opening.scale = opening.scale.and(told);
            return match self.keep(&mut tracked) {
                Ok(Some(conn)) => {
                    if let Table::Live(table, _) = &mut self.tracking.table {
                        table.begin_splice(conn, opening);
                    }
                    self.out.opened = Some((conn, port));
                    false
                }
                Ok(None) => false,
                Err(reason) => {
                    self.drop(reason);
                    true
                }
            };
        }
        if self.protection.copying {
            return false;
        }
        self.note_protected(
            port,
            "a new connection; answered with a cookie while the port is flooded",
        );
        self.protection.guard = Some(port);
        if tracked.is_later() {
            self.out.ops.push(Op::Keep(tracked.number() as u8));
        } else {
            match self.keep(&mut tracked) {
                Ok(Some(conn)) => self.out.made.push(conn),
                Ok(None) => {}
                // Tried again with the frame, and told if there is no room then.
                Err(_) => self.out.ops.push(Op::Keep(tracked.number() as u8)),
            }
        }
        if let Some(kept) = self.tracked.get_mut(place) {
            *kept = tracked;
        }
        false
    }

    /// Makes the connection in the port's zone now.
    fn keep(&mut self, tracked: &mut super::ct::Tracked) -> Result<Option<ConnRef>, Drop> {
        let packet = self.tracking.facts[usize::from(self.seen.is_decapsulated())].packet;
        let owner = self.key.get(Field::InPort) as u16;
        let (Some(tuple), Table::Live(table, _)) = (tracked.tuple(), &mut self.tracking.table)
        else {
            return Ok(None);
        };
        self.out.once = true;
        let made = table.commit(&Commit {
            tuple,
            packet,
            mark: 0,
            label: 0,
            owner,
            policy: CtChange::default().policy,
            nat: None,
        });
        Ok(Some(made.map_err(Drop::from)?))
    }

    /// An ACK of no connection, about to leave by a protected port.
    fn doubt(&mut self, port: PortIndex) {
        let port = Some(port).filter(|_| !self.protection.copying);
        self.protection.doubt = Some(port);
    }

    /// An ACK that a zone knows no connection of: it may prove a cookie whatever rules say of it.
    pub(super) fn doubted(&mut self, flags: u8) {
        let protected = || {
            let mut ports = self.tables.snapshot.ports.iter().flatten();
            ports.any(|port| port.shield.is_some())
        };
        if flags & KIND == tcp_flag::ACK && self.protection.doubt.is_none() && protected() {
            self.protection.doubt = Some(None);
            self.protection.inner = self.seen.is_decapsulated();
        }
    }

    /// What is asked before all else that changes anything.
    pub(super) fn protect(&mut self) {
        if self.tracking.redeemed.is_some() {
            return;
        }
        let (guard, doubt) = (self.protection.guard, self.protection.doubt);
        if guard.is_none() && doubt.is_none() {
            return;
        }
        let Some(back) = self.way_back() else {
            // Its turn comes when the way is known.
            if guard.is_some() {
                self.out.ops.clear();
                self.drop(Drop::NeighbourUnresolved);
            }
            self.out.once = true;
            return;
        };
        let inner = self.protection.inner;
        let op = match guard {
            Some(port) => Op::Guard(Box::new(Guard { port, inner, back })),
            None => Op::Redeem(Box::new(Redeem {
                port: doubt.flatten(),
                inner,
                back,
            })),
        };
        self.out.guarded = guard;
        let counts = |op: &Op| matches!(op, Op::Count(_) | Op::Meter(_) | Op::Colour(_));
        let metered = self.out.ops.iter().take_while(|op| counts(op)).count();
        let at = if guard.is_some() { metered } else { 0 };
        self.out.ops.insert(at, op);
        self.out.bridged += usize::from(at < self.out.bridged || at == 0);
    }

    /// How who sent the frame is answered; nothing when that is not known yet.
    fn way_back(&mut self) -> Option<Back> {
        let Some((network, remote)) = self.remote else {
            return Some(None);
        };
        let ops = self.apart(|walk| {
            walk.tunnel(network, remote);
        });
        match <[Op; 2]>::try_from(ops) {
            Ok([Op::Encapsulate(tunnel), Op::Output(port)]) => Some(Some((tunnel, port))),
            _ => None,
        }
    }
}

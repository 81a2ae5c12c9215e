//! The table: look-ups, the state machines' entry for packets, removal and expiry.

use super::commit::Refusal;
use super::index::Index;
use super::nat::Probe;
use super::packet::{CtPacket, tcp_flag};
use super::state::{POLICIES, STEADY, State, Timeouts, Verdict, ct_state, packet_state};
use super::store::{Cold, ConnRef, Hot, flag};
use super::tcp::{self, Step};
use super::tuple::{Direction, Half, Key, Secret, Tuple, protocol};
use super::{sctp, syncookie::Pressure, wheel::Wheel};

/// Most connections of a table.
const LARGEST: usize = 1 << 28;

/// What a table is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most connections; at most 2^28. Address space for all is reserved at once, about 250 bytes each, and memory is committed as they come.
    pub capacity: usize,
    /// A full table gives up a connection without an answer, half open or closed, for a new one.
    pub early_drop: bool,
    /// Half-open connections to one destination from which on [`Conntrack::wants_cookie`] says yes.
    pub cookie_threshold: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 1 << 22,
            early_drop: false,
            cookie_threshold: 256,
        }
    }
}

/// A table of this size cannot be reserved.
#[derive(Debug, thiserror::Error)]
pub enum Reserve {
    /// The capacity is zero or above 2^28.
    #[error("a connection table of {0} connections; 1 to 268435456 are possible")]
    Capacity(usize),
    /// No address space.
    #[error("no memory for the connection table: {0}")]
    Memory(#[from] std::collections::TryReserveError),
}

/// How a zone treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ZonePolicy {
    /// Most connections; without one only the table's capacity counts.
    pub limit: Option<u32>,
    /// TCP connections may be picked up in their middle.
    pub pickup: bool,
    /// No window checks for connections made from now on.
    pub liberal: bool,
}

/// Bits of `Conntrack::zone_flags`.
const PICKUP: u8 = 1;
const LIBERAL: u8 = 2;

/// Sums since the start, and what is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections now.
    pub live: u32,
    /// TCP connections now whose opening is not complete.
    pub half_open: u32,
    /// Connections made.
    pub created: u64,
    /// Closed TCP connections that their opener opened again.
    pub reopened: u64,
    /// Connections that ended by time.
    pub expired: u64,
    /// Connections that were flushed.
    pub flushed: u64,
    /// Connections given up for new ones by a full table.
    pub early_dropped: u64,
    /// Packets that are not part of the connection they pretend to be of.
    pub invalid: u64,
    /// Candidates looked at for translation.
    pub nat_probes: u64,
    /// Refused connections by [`Refusal::number`].
    pub refused: [u64; Refusal::KINDS],
}

/// The connections of one lcore.
#[derive(Debug)]
pub struct Conntrack {
    pub(super) hot: Vec<Hot>,
    pub(super) cold: Vec<Cold>,
    pub(super) index: Index,
    pub(super) wheel: Wheel,
    pub(super) timeouts: Box<[Timeouts; POLICIES]>,
    pub(super) secret: Secret,
    pub(super) stats: Stats,
    pub(super) config: Config,
    pub(super) pressure: Pressure,
    pub(super) nat_probe: Probe,
    zone_counts: Vec<u32>,
    zone_limits: Vec<u32>,
    zone_flags: Vec<u8>,
    port_counts: Vec<u32>,
    port_limits: Vec<u32>,
    drop_cursor: u32,
}

const ANY: usize = 1 << 16;

impl Conntrack {
    /// An empty table whose clock starts at `now` milliseconds.
    ///
    /// # Errors
    /// When the capacity is out of range or the address space cannot be reserved.
    pub fn new(config: Config, now: u64) -> Result<Self, Reserve> {
        if config.capacity == 0 || config.capacity > LARGEST {
            return Err(Reserve::Capacity(config.capacity));
        }
        let (mut hot, mut cold) = (Vec::new(), Vec::new());
        hot.try_reserve_exact(config.capacity)?;
        cold.try_reserve_exact(config.capacity)?;
        let mut wheel = Wheel::reserve(config.capacity)?;
        wheel.start(now);
        let secret = Secret::new();
        Ok(Self {
            hot,
            cold,
            index: Index::reserve(2 * config.capacity)?,
            wheel,
            timeouts: Box::new([Timeouts::default(); POLICIES]),
            secret,
            stats: Stats::default(),
            config,
            pressure: Pressure::new(),
            nat_probe: Probe::default(),
            // Zeroed memory that is committed when it is used. Limits are kept as what is missing from "no limit".
            zone_counts: vec![0; ANY],
            zone_limits: vec![0; ANY],
            zone_flags: vec![0; ANY],
            port_counts: vec![0; ANY],
            port_limits: vec![0; ANY],
            drop_cursor: 0,
        })
    }

    /// Sets a zone's policy. Connections beyond a new limit live on.
    pub fn set_zone(&mut self, zone: u16, policy: ZonePolicy) {
        let zone = usize::from(zone);
        self.zone_limits[zone] = u32::MAX - policy.limit.unwrap_or(u32::MAX);
        self.zone_flags[zone] =
            if policy.pickup { PICKUP } else { 0 } | if policy.liberal { LIBERAL } else { 0 };
    }

    /// Sets the most connections that a port may own. Connections beyond a new limit live on.
    pub fn set_port_limit(&mut self, port: u16, limit: Option<u32>) {
        self.port_limits[usize::from(port)] = u32::MAX - limit.unwrap_or(u32::MAX);
    }

    /// Replaces a timeout policy; policy 0 is the default one. Connections follow from now on. `false`: there is no such policy.
    pub fn set_timeouts(&mut self, policy: u8, timeouts: Timeouts) -> bool {
        let place = self.timeouts.get_mut(usize::from(policy));
        place.map(|place| *place = timeouts).is_some()
    }

    /// Connections of a zone.
    pub fn zone_count(&self, zone: u16) -> u32 {
        self.zone_counts[usize::from(zone)]
    }

    /// Connections of a port.
    pub fn port_count(&self, port: u16) -> u32 {
        self.port_counts[usize::from(port)]
    }

    /// Sums.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.hot.len() * (size_of::<Hot>() + size_of::<Cold>())
            + self.index.bytes()
            + self.wheel.bytes()
    }

    #[inline(always)]
    pub(super) fn key_of(&self, half: Half) -> Key {
        Key {
            half,
            tag: self.secret.hash(&half) as u32,
        }
    }

    /// Hashes a tuple for [`Self::prefetch`] and [`Self::find`].
    #[inline(always)]
    pub fn key(&self, tuple: &Tuple) -> Key {
        self.key_of(Half::new(tuple))
    }

    /// Asks for the line of the hash table that a key leads to.
    #[inline(always)]
    pub fn prefetch(&self, key: &Key) {
        self.index.prefetch(key.tag);
    }

    /// Asks for the line that [`Self::track`] will touch.
    #[inline(always)]
    pub fn prefetch_connection(&self, conn: ConnRef) {
        if let Some(hot) = self.hot.get(conn.index as usize) {
            sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(hot).cast());
        }
    }

    /// Asks for the lines that [`Self::find`] will compare, once that of [`Self::prefetch`] is there.
    #[inline(always)]
    pub fn prefetch_halves(&self, key: &Key) {
        self.index.find(key.tag, |entry| {
            let index = (entry >> 1) as usize;
            let direction = if entry & 1 == 0 {
                Direction::Original
            } else {
                Direction::Reply
            };
            sumeru_virtio::slice::prefetch_read(
                std::ptr::from_ref(self.cold[index].half(direction)).cast(),
            );
            sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(&self.hot[index]).cast());
            false
        });
    }

    /// The half with this tuple, expired or not.
    #[inline(always)]
    pub(super) fn entry(&self, key: &Key) -> Option<(u32, Direction)> {
        let entry = self.index.find(key.tag, |entry| {
            let cold = &self.cold[(entry >> 1) as usize];
            let half = if entry & 1 == 0 {
                &cold.original
            } else {
                &cold.reply
            };
            *half == key.half
        })?;
        Some((
            entry >> 1,
            if entry & 1 == 0 {
                Direction::Original
            } else {
                Direction::Reply
            },
        ))
    }

    #[inline(always)]
    pub(super) fn is_expired(&self, index: u32, now: u64) -> bool {
        let hot = &self.hot[index as usize];
        hot.silence(now) > self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32
    }

    pub(super) fn reference(&self, index: u32) -> ConnRef {
        ConnRef {
            index,
            generation: self.hot[index as usize].generation,
        }
    }

    /// The connection that a tuple belongs to. Expired ones are not found.
    #[inline(always)]
    pub fn find(&self, key: &Key, now: u64) -> Option<(ConnRef, Direction)> {
        let (index, direction) = self.entry(key)?;
        (!self.is_expired(index, now)).then(|| (self.reference(index), direction))
    }

    /// As [`Self::find`], for one tuple.
    pub fn lookup(&self, tuple: &Tuple, now: u64) -> Option<(ConnRef, Direction)> {
        self.find(&self.key(tuple), now)
    }

    /// The connection that an ICMP error is about, by the tuple of the packet embedded in it, and the direction in which the error travels.
    pub fn lookup_related(&self, embedded: &Tuple, now: u64) -> Option<(ConnRef, Direction)> {
        self.lookup(&embedded.reversed(), now)
    }

    /// The index of a reference that is not stale.
    #[inline(always)]
    pub(super) fn live(&self, conn: ConnRef) -> Option<usize> {
        let index = conn.index as usize;
        self.hot
            .get(index)
            .filter(|hot| hot.generation == conn.generation && hot.state != State::Free)
            .map(|_| index)
    }

    /// What changes when the decision about a connection's packets may: new to established, closing, closed, mark, label, translation, splice. Nothing when
    /// the connection is gone. Equal to [`Verdict::epoch`].
    pub fn epoch(&self, conn: ConnRef) -> Option<u16> {
        self.live(conn).map(|index| self.hot[index].epoch)
    }

    /// The state that the first packet of a tuple makes; nothing: it is no beginning.
    pub(super) fn opening(&self, tuple: &Tuple, packet: &CtPacket) -> Option<State> {
        if packet.related || !tuple.may_open() || *tuple == tuple.reversed() {
            return None;
        }
        match tuple.proto {
            protocol::TCP => tcp::opening(
                packet,
                self.zone_flags[usize::from(tuple.zone)] & PICKUP != 0,
            ),
            protocol::SCTP => sctp::opening(packet),
            protocol::UDP | protocol::UDP_LITE => Some(State::UdpUnreplied),
            protocol::ICMP => Some(State::Icmp),
            protocol::ICMPV6 => Some(State::Icmpv6),
            _ => Some(State::GenericUnreplied),
        }
    }

    /// What to say of a packet whose tuple is not found: new, or invalid.
    pub fn classify(&self, tuple: &Tuple, packet: &CtPacket) -> Verdict {
        match self.opening(tuple, packet) {
            Some(_) => Verdict::new(ct_state::TRK | ct_state::NEW, packet_state::VALID, 0),
            None => Verdict::new(ct_state::TRK | ct_state::INV, packet_state::INVALID, 0),
        }
    }

    /// What [`Self::track`] says of a packet that is in order and changes nothing. A connection that is gone: [`Verdict::STALE`].
    pub fn verdict(&self, conn: ConnRef, direction: Direction) -> Verdict {
        self.live(conn).map_or(Verdict::STALE, |index| {
            let hot = &self.hot[index];
            Verdict::new(bits(hot.flags, direction), packet_state::VALID, hot.epoch)
        })
    }

    /// Runs a packet through its connection's state machine, counts it and keeps the connection alive. A stale or expired reference changes nothing and
    /// answers [`Verdict::STALE`].
    #[inline(always)]
    pub fn track(&mut self, conn: ConnRef, direction: Direction, packet: &CtPacket) -> Verdict {
        let Some(hot) = self.hot.get_mut(conn.index as usize) else {
            return Verdict::STALE;
        };
        let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32;
        if hot.generation != conn.generation || hot.silence(packet.now) > timeout {
            return Verdict::STALE;
        }
        const FLAGS: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;
        let quick = if hot.state == State::Established {
            packet.flags & FLAGS == tcp_flag::ACK
                && !packet.related
                && tcp::window(hot, direction, packet, 0)
        } else {
            STEADY[direction as usize] >> (hot.state as u32) & 1 != 0 && !packet.related
        };
        if !quick {
            return self.track_slowly(conn.index, direction, packet);
        }
        hot.last_seen = packet.now as u32;
        let flags = hot.flags;
        let verdict = Verdict::new(
            bits(flags, direction),
            packet_state::VALID | flags & flag::LIBERAL,
            hot.epoch,
        );
        let d = direction as usize;
        let (packets, packet_carry) = hot.packets[d].overflowing_add(1);
        let (bytes, byte_carry) = hot.bytes[d].overflowing_add(packet.bytes);
        (hot.packets[d], hot.bytes[d]) = (packets, bytes);
        if packet_carry | byte_carry {
            self.carry(conn.index, direction, packet_carry, byte_carry);
        }
        verdict
    }

    #[cold]
    fn carry(&mut self, index: u32, direction: Direction, packets: bool, bytes: bool) {
        let cold = &mut self.cold[index as usize];
        let d = direction as usize;
        cold.packet_carries[d] = cold.packet_carries[d].wrapping_add(u16::from(packets));
        cold.byte_carries[d] = cold.byte_carries[d].wrapping_add(u32::from(bytes));
    }

    /// Adds a packet to a connection's sums.
    fn count(&mut self, index: u32, direction: Direction, bytes: u32) {
        let (hot, d) = (&mut self.hot[index as usize], direction as usize);
        let (packets, packet_carry) = hot.packets[d].overflowing_add(1);
        let (bytes, byte_carry) = hot.bytes[d].overflowing_add(bytes);
        (hot.packets[d], hot.bytes[d]) = (packets, bytes);
        self.carry(index, direction, packet_carry, byte_carry);
    }

    #[inline(never)]
    fn track_slowly(&mut self, index: u32, direction: Direction, packet: &CtPacket) -> Verdict {
        let hot = &mut self.hot[index as usize];
        if packet.related {
            return self.track_related(index, direction, packet);
        }
        let (before, replied) = (hot.state, hot.flags & flag::REPLIED);
        let step = match before {
            State::Free => return Verdict::STALE,
            state if state.is_tcp() => tcp::step(hot, direction, packet),
            State::SctpCookieWait
            | State::SctpCookieEchoed
            | State::SctpEstablished
            | State::SctpShutdown
            | State::SctpClosed => sctp::step(hot, direction, packet),
            _ => answered(hot, direction),
        };
        match step {
            Step::Invalid | Step::Bad => {
                self.stats.invalid += 1;
                let bad = if step == Step::Bad {
                    packet_state::BAD
                } else {
                    0
                };
                return Verdict::new(
                    ct_state::TRK | ct_state::INV,
                    packet_state::INVALID | bad,
                    hot.epoch,
                );
            }
            Step::Over => {
                self.remove(index);
                return Verdict::STALE;
            }
            Step::Pass | Step::Ignore | Step::Changed | Step::Reopened => {}
        }
        if step != Step::Ignore {
            hot.last_seen = packet.now as u32;
        }
        let (state, flags) = (hot.state, hot.flags);
        if step == Step::Reopened {
            self.reopen(index, packet.now);
        }
        if state.phase() != before.phase()
            || flags & flag::REPLIED != replied
            || step == Step::Reopened
        {
            self.advance(index);
        }
        if state != before {
            self.changed(index, before, packet.now);
        }
        self.count(index, direction, packet.bytes);
        let changed = if matches!(step, Step::Changed | Step::Reopened) {
            packet_state::CHANGED
        } else {
            0
        };
        let packet = packet_state::VALID | flags & flag::LIBERAL | changed;
        Verdict::new(
            bits(flags, direction),
            packet,
            self.hot[index as usize].epoch,
        )
    }

    /// An ICMP error: said to be related, and nothing else.
    fn track_related(&mut self, index: u32, direction: Direction, packet: &CtPacket) -> Verdict {
        let hot = &self.hot[index as usize];
        if hot.state.is_tcp() && !tcp::was_sent(hot, direction.other(), packet.seq) {
            self.stats.invalid += 1;
            return Verdict::new(
                ct_state::TRK | ct_state::INV,
                packet_state::INVALID,
                hot.epoch,
            );
        }
        let state = bits(hot.flags, direction) & !(ct_state::NEW | ct_state::EST) | ct_state::REL;
        Verdict::new(state, packet_state::VALID, hot.epoch)
    }

    /// A connection starts again: its sums, mark and label are those of a new one; its translation stays.
    fn reopen(&mut self, index: u32, now: u64) {
        let (hot, cold) = (
            &mut self.hot[index as usize],
            &mut self.cold[index as usize],
        );
        (hot.packets, hot.bytes) = ([0; 2], [0; 2]);
        (cold.packet_carries, cold.byte_carries) = ([0; 2], [0; 2]);
        (cold.mark, cold.label, cold.splice, cold.created) = (0, [0; 2], 0, now);
        self.stats.reopened += 1;
    }

    /// Makes cached decisions about a connection void. After 65,535 times all references to it become stale instead, so that no epoch is met twice.
    pub(super) fn advance(&mut self, index: u32) {
        let hot = &mut self.hot[index as usize];
        hot.epoch = hot.epoch.wrapping_add(1);
        if hot.epoch == 0 {
            hot.generation = hot.generation.wrapping_add(1);
        }
    }

    fn changed(&mut self, index: u32, before: State, now: u64) {
        let hot = &mut self.hot[index as usize];
        let timeouts = &self.timeouts[usize::from(hot.policy) % POLICIES];
        let (old, new) = (timeouts.get(before), timeouts.get(hot.state));
        let state = hot.state;
        if new < old {
            self.wheel.unlink(index);
            self.wheel.link(index, now + u64::from(new));
        }
        match (before.half_open(), state.half_open()) {
            (true, false) => self.settle(index),
            (false, true) => self.begin_half_open(index),
            _ => {}
        }
    }

    pub(super) fn begin_half_open(&mut self, index: u32) {
        self.hot[index as usize].flags |= flag::HALF_OPEN;
        self.stats.half_open += 1;
        self.pressure
            .add(&self.secret, &self.cold[index as usize].original);
    }

    /// A half-open connection is none any more.
    fn settle(&mut self, index: u32) {
        let hot = &mut self.hot[index as usize];
        if hot.flags & flag::HALF_OPEN != 0 {
            hot.flags &= !flag::HALF_OPEN;
            self.stats.half_open -= 1;
            self.pressure
                .remove(&self.secret, &self.cold[index as usize].original);
        }
    }

    /// Whether a new connection of this tuple should be answered with a SYN cookie: too many to its destination are half open.
    pub fn wants_cookie(&self, tuple: &Tuple) -> bool {
        self.pressure.count(&self.secret, &Half::new(tuple)) >= self.config.cookie_threshold
    }

    /// Whether one more connection has room; makes room by early drop if so configured.
    pub(super) fn admit(&mut self, zone: u16, owner: u16) -> Result<(), Refusal> {
        let (z, p) = (usize::from(zone), usize::from(owner));
        if self.zone_counts[z] >= u32::MAX - self.zone_limits[z] {
            return Err(Refusal::ZoneFull { zone });
        }
        if self.port_counts[p] >= u32::MAX - self.port_limits[p] {
            return Err(Refusal::PortFull { port: owner });
        }
        if self.stats.live as usize >= self.config.capacity
            && !(self.config.early_drop && self.drop_one())
        {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Gives up one of the next few connections that may be.
    fn drop_one(&mut self) -> bool {
        const LOOKED_AT: usize = 64;
        for _ in 0..LOOKED_AT.min(self.hot.len()) {
            self.drop_cursor = (self.drop_cursor + 1) % self.hot.len() as u32;
            if self.hot[self.drop_cursor as usize].state.may_drop() {
                self.wheel.unlink(self.drop_cursor);
                self.release(self.drop_cursor);
                self.stats.early_dropped += 1;
                return true;
            }
        }
        false
    }

    pub(super) fn zone_is_liberal(&self, zone: u16) -> bool {
        self.zone_flags[usize::from(zone)] & LIBERAL != 0
    }

    /// Adds to the counts of live connections.
    pub(super) fn enter(&mut self, zone: u16, owner: u16) {
        self.stats.live += 1;
        self.zone_counts[usize::from(zone)] += 1;
        self.port_counts[usize::from(owner)] += 1;
    }

    /// Takes a connection out of everything.
    pub(super) fn remove(&mut self, index: u32) {
        self.wheel.unlink(index);
        self.release(index);
    }

    /// As [`Self::remove`], when it is in no slot of the wheel.
    fn release(&mut self, index: u32) {
        self.settle(index);
        let (hot, cold) = (&mut self.hot[index as usize], &self.cold[index as usize]);
        self.index
            .remove(self.secret.hash(&cold.original) as u32, index << 1);
        self.index
            .remove(self.secret.hash(&cold.reply) as u32, index << 1 | 1);
        hot.state = State::Free;
        hot.generation = hot.generation.wrapping_add(1);
        self.stats.live -= 1;
        self.zone_counts[usize::from(cold.original.zone())] -= 1;
        self.port_counts[usize::from(cold.owner)] -= 1;
        self.wheel.release(index);
    }

    /// Ends connections whose time is over; looks at no more than `budget` connections. Returns how many ended. To be called a few times a second, again
    /// while it uses its budget up.
    pub fn expire(&mut self, now: u64, budget: usize) -> usize {
        let mut ended = 0;
        for _ in 0..budget {
            let Some(index) = self.wheel.due(now) else {
                break;
            };
            if let Some(next) = self.wheel.upcoming() {
                let (hot, cold) = (&self.hot[next as usize], &self.cold[next as usize]);
                sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(hot).cast());
                sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(&cold.original).cast());
                sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(&cold.reply).cast());
            }
            let hot = &self.hot[index as usize];
            let left = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32
                - hot.silence(now);
            if left < 0 {
                self.release(index);
                ended += 1;
            } else {
                self.wheel.link(index, now + left as u64 + 1);
            }
        }
        self.stats.expired += ended as u64;
        ended
    }
}

/// The first answer, and what follows it, of protocols without a state machine.
fn answered(hot: &mut Hot, direction: Direction) -> Step {
    let next = match (hot.state, direction) {
        (State::UdpUnreplied, Direction::Reply) => State::UdpReplied,
        (State::UdpReplied, Direction::Original) => State::UdpStream,
        (State::GenericUnreplied, Direction::Reply) => State::Generic,
        (state, _) => state,
    };
    let fresh = direction == Direction::Reply && hot.flags & flag::REPLIED == 0;
    if fresh {
        hot.flags |= flag::REPLIED;
    }
    let same = hot.state == next && !fresh;
    hot.state = next;
    if same { Step::Pass } else { Step::Changed }
}

/// `ct_state` of a valid packet.
#[inline(always)]
pub(super) fn bits(flags: u8, direction: Direction) -> u8 {
    let known = if flags & flag::REPLIED != 0 {
        ct_state::EST
    } else {
        ct_state::NEW
    };
    let nat = flags & flag::NAT;
    match direction {
        Direction::Original => ct_state::TRK | known | nat,
        // Answers are translated back: the other address.
        Direction::Reply => {
            ct_state::TRK | ct_state::RPL | known | (nat << 1 | nat >> 1) & flag::NAT
        }
    }
}

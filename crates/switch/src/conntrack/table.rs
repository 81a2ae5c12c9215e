//! The table: look-ups, limits, removal and expiry.

use sumeru_engine::huge;

use super::commit::Refusal;
use super::index::{Index, touch};
use super::nat::Probe;
use super::state::{POLICIES, State, Timeouts};
use super::store::{Cold, ConnRef, Hot, flag};
use super::tuple::{Direction, Half, Key, Secret, Tags, Tuple};
use super::wheel::Wheel;

/// Most connections of a table.
const LARGEST: usize = 1 << 28;

/// What a table is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most connections; at most 2^28. Address space for all is reserved at once, about 250 bytes each, and memory is committed as they come.
    pub capacity: usize,
    /// A full table gives up a connection without an answer, half open or closed, for a new one.
    pub early_drop: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 1 << 22,
            early_drop: false,
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
    pub(super) nat_probe: Probe,
    zone_counts: Vec<u32>,
    /// TCP connections whose opening is not complete.
    zone_half_open: Vec<u32>,
    zone_limits: Vec<u32>,
    zone_flags: Vec<u8>,
    port_counts: Vec<u32>,
    /// By member of a load balancer.
    pub(super) member_counts: Vec<u32>,
    port_limits: Vec<u32>,
    drop_cursor: u32,
    /// Connections whose memory was touched ahead of use.
    prepared: usize,
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
        huge::advise(&hot);
        huge::advise(&cold);
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
            nat_probe: Probe::default(),
            // Zeroed memory that is committed when it is used. Limits are kept as what is missing from "no limit".
            zone_counts: vec![0; ANY],
            zone_half_open: vec![0; ANY],
            zone_limits: vec![0; ANY],
            zone_flags: vec![0; ANY],
            port_counts: vec![0; ANY],
            member_counts: vec![0; ANY],
            port_limits: vec![0; ANY],
            drop_cursor: 0,
            prepared: 0,
        })
    }

    /// Has the memory of the first `connections` connections committed before they come, beyond what earlier calls did: about two page faults per thirty.
    /// Without it a connection that comes first in its place pays for that. To be called in small steps when there is nothing else to do.
    pub fn prepare(&mut self, connections: usize) {
        let (from, to) = (self.prepared, connections.min(self.config.capacity));
        if from < to {
            touch(&mut self.hot, from, to, Hot::FREE);
            touch(&mut self.cold, from, to, Cold::FREE);
            self.wheel.prepare(from, to);
            self.index.prepare(2 * to);
            self.prepared = to;
        }
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
    fn tag(&self, half: &Half) -> u32 {
        self.secret.hash(half) as u32
    }

    #[inline(always)]
    pub(super) fn key_of(&self, half: Half) -> Key {
        let tag = self.tag(&half);
        Key { half, tag }
    }

    /// Hashes a tuple and its answer's.
    #[inline(always)]
    pub fn tags(&self, tuple: &Tuple) -> Tags {
        let half = Half::new(tuple);
        Tags {
            original: self.tag(&half),
            reply: self.tag(&half.reversed()),
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

    /// Asks for the lines of the hash table where the connection of a new tuple will be entered.
    #[inline(always)]
    pub fn prefetch_entries(&self, tags: Tags) {
        self.index.prefetch(tags.original);
        self.index.prefetch(tags.reply);
    }

    /// Asks for the line that [`Self::track`] will touch.
    #[inline(always)]
    pub fn prefetch_connection(&self, conn: ConnRef) {
        if let Some(hot) = self.hot.get(conn.index as usize) {
            sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(hot).cast());
        }
    }

    /// [`Self::prefetch_connection`] of the connection in a [place](ConnRef::place), whichever it is.
    #[inline(always)]
    pub fn prefetch_hot(&self, place: u32) {
        if let Some(hot) = self.hot.get(place as usize) {
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

    /// As [`Self::lookup`], for a tuple with these tags.
    #[inline(always)]
    pub fn lookup_tagged(
        &self,
        tuple: &Tuple,
        tags: Tags,
        now: u64,
    ) -> Option<(ConnRef, Direction)> {
        let key = Key {
            half: Half::new(tuple),
            tag: tags.original,
        };
        self.find(&key, now)
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
    /// the connection is gone. Equal to [`Verdict::epoch`](super::Verdict::epoch).
    pub fn epoch(&self, conn: ConnRef) -> Option<u16> {
        self.live(conn).map(|index| self.hot[index].epoch)
    }

    pub(super) fn begin_half_open(&mut self, index: u32) {
        self.hot[index as usize].flags |= flag::HALF_OPEN;
        self.stats.half_open += 1;
        self.zone_half_open[usize::from(self.cold[index as usize].original.zone())] += 1;
    }

    /// A half-open connection is none any more.
    pub(super) fn settle(&mut self, index: u32) {
        let hot = &mut self.hot[index as usize];
        if hot.flags & flag::HALF_OPEN != 0 {
            hot.flags &= !flag::HALF_OPEN;
            self.stats.half_open -= 1;
            self.zone_half_open[usize::from(self.cold[index as usize].original.zone())] -= 1;
        }
    }

    /// TCP connections of a zone whose opening is not complete.
    pub fn half_open_in(&self, zone: u16) -> u32 {
        self.zone_half_open[usize::from(zone)]
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

    /// Whether the zone lets TCP connections be picked up in their middle.
    pub(super) fn zone_picks_up(&self, zone: u16) -> bool {
        self.zone_flags[usize::from(zone)] & PICKUP != 0
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
        self.member_counts[usize::from(cold.member)] -= u32::from(cold.member != 0);
        self.wheel.release(index);
    }

    /// Ends connections whose time is over; looks at no more than `budget` connections. Returns how many ended. To be called a few times a second, again
    /// while it [is behind](Self::is_behind).
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
            let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state);
            let left = (timeout as i32).saturating_sub(hot.silence(now));
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

    /// Whether there are connections that [`Self::expire`] has not looked at in time.
    pub fn is_behind(&self, now: u64) -> bool {
        self.wheel.is_behind(now)
    }
}

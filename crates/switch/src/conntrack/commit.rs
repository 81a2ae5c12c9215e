//! Making connections.

use sumeru_virtio::slice::prefetch_write;

use super::nat::Nat;
use super::packet::CtPacket;
use super::state::{POLICIES, State};
use super::store::{Cold, ConnRef, Hot, flag};
use super::table::Conntrack;
use super::tuple::{Direction, Half, Key, Tags, Tuple};
use super::{sctp, tcp};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The packet is no beginning of a connection.
    #[error("the packet cannot open a connection")]
    Invalid,
    /// The table is full.
    #[error("the connection table is full")]
    Full,
    /// The zone has its most connections.
    #[error("zone {zone} has as many connections as it may have")]
    ZoneFull {
        /// The zone.
        zone: u16,
    },
    /// The owner has its most connections.
    #[error("port {port} has as many connections as it may have")]
    PortFull {
        /// The port.
        port: u16,
    },
    /// The answers would be those of another connection.
    #[error("the answers would belong to another connection")]
    Clash,
    /// All looked-at addresses and ports of the translation are in use.
    #[error("no free address and port for the translation")]
    NatExhausted,
    /// The translation's range is empty or of the other address family.
    #[error("the range of the translation is empty or of another address family")]
    NatRange,
    /// There is no such timeout policy.
    #[error("timeout policy {0} does not exist")]
    Policy(u8),
}

impl Refusal {
    /// Kinds of refusal.
    pub const KINDS: usize = 8;

    /// Its number, below [`Self::KINDS`], in the order of the variants.
    pub fn number(self) -> usize {
        match self {
            Refusal::Invalid => 0,
            Refusal::Full => 1,
            Refusal::ZoneFull { .. } => 2,
            Refusal::PortFull { .. } => 3,
            Refusal::Clash => 4,
            Refusal::NatExhausted => 5,
            Refusal::NatRange => 6,
            Refusal::Policy(_) => 7,
        }
    }
}

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// The opener's tuple, before translation.
    pub tuple: Tuple,
    /// Its first packet.
    pub packet: CtPacket,
    /// Mark.
    pub mark: u32,
    /// Label.
    pub label: u128,
    /// The port whose limit it counts against.
    pub owner: u16,
    /// Timeout policy, below [`POLICIES`].
    pub policy: u8,
    /// Translation.
    pub nat: Option<&'a Nat>,
}

impl Conntrack {
    /// Makes the connection of a packet that [`classify`](Self::classify) calls new, and counts that packet. When the tuple has a connection already, in either
    /// direction, that one is the answer and nothing changes.
    ///
    /// # Errors
    /// The reason why not, counted in [`Stats::refused`](super::Stats).
    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<ConnRef, Refusal> {
        let tags = self.tags(&commit.tuple);
        self.commit_tagged(commit, tags)
    }

    /// As [`Self::commit`], for a tuple with these tags.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    #[inline(always)]
    pub fn commit_tagged(&mut self, commit: &Commit<'_>, tags: Tags) -> Result<ConnRef, Refusal> {
        self.try_commit(commit, tags)
            .inspect_err(|refusal| self.stats.refused[refusal.number()] += 1)
    }

    fn try_commit(&mut self, commit: &Commit<'_>, tags: Tags) -> Result<ConnRef, Refusal> {
        let (tuple, packet) = (&commit.tuple, &commit.packet);
        debug_assert_eq!(tags, self.tags(tuple));
        let half = Half::new(tuple);
        let (original, plain) = (
            Key {
                half,
                tag: tags.original,
            },
            Key {
                half: half.reversed(),
                tag: tags.reply,
            },
        );
        self.prefetch(&original);
        self.prefetch(&plain);
        if let Some((index, _)) = self.entry(&original) {
            if !self.is_expired(index, packet.now) {
                return Ok(self.reference(index));
            }
            self.end(index);
        }
        let state = self.opening(tuple, packet).ok_or(Refusal::Invalid)?;
        if usize::from(commit.policy) >= POLICIES {
            return Err(Refusal::Policy(commit.policy));
        }
        self.admit(tuple.zone, commit.owner)?;
        let (reply, nat) = match commit.nat {
            None if self.is_vacant(&plain, packet.now) => (plain, 0),
            None => return Err(Refusal::Clash),
            Some(nat) => self.translate(tuple, nat, packet.now)?,
        };
        let index = self.place([&original, &reply])?;
        let liberal = if self.zone_is_liberal(tuple.zone) {
            flag::LIBERAL
        } else {
            0
        };
        let hot = &mut self.hot[index as usize];
        let generation = hot.generation;
        *hot = Hot {
            generation,
            last_seen: packet.now as u32,
            state,
            flags: nat | liberal,
            policy: commit.policy,
            ..Hot::FREE
        };
        hot.packets[Direction::Original as usize] = 1;
        hot.bytes[Direction::Original as usize] = packet.bytes;
        match state {
            State::SynSent | State::Pickup => tcp::start(hot, state, packet),
            State::SctpCookieWait => sctp::start(hot, packet),
            _ => {}
        }
        self.cold[index as usize] = Cold {
            original: original.half,
            reply: reply.half,
            created: packet.now,
            mark: commit.mark,
            label: [(commit.label >> 64) as u64, commit.label as u64],
            owner: commit.owner,
            ..Cold::FREE
        };
        let timeout = self.timeouts[usize::from(commit.policy)].get(state);
        self.wheel.link(index, packet.now + u64::from(timeout) + 1);
        self.enter(tuple.zone, commit.owner);
        self.stats.created += 1;
        if state.half_open() {
            self.begin_half_open(index);
        }
        Ok(ConnRef { index, generation })
    }

    /// Whether no live connection has this half; an expired one that has is ended.
    #[inline(always)]
    pub(super) fn is_vacant(&mut self, key: &super::Key, now: u64) -> bool {
        match self.entry(key) {
            None => true,
            Some((index, _)) if self.is_expired(index, now) => {
                self.end(index);
                true
            }
            Some(_) => false,
        }
    }

    fn end(&mut self, index: u32) {
        self.remove(index);
        self.stats.expired += 1;
    }

    /// Takes a free place and enters both halves. All or nothing.
    #[inline(always)]
    pub(super) fn place(&mut self, keys: [&super::Key; 2]) -> Result<u32, Refusal> {
        let index = self.wheel.allocate().ok_or(Refusal::Full)?;
        if index as usize == self.hot.len() {
            self.hot.push(Hot::FREE);
            self.cold.push(Cold::FREE);
        }
        if self.index.insert(keys[0].tag, index << 1).is_err() {
            self.wheel.release(index);
            return Err(Refusal::Full);
        }
        if self.index.insert(keys[1].tag, index << 1 | 1).is_err() {
            self.index.remove(keys[0].tag, index << 1);
            self.wheel.release(index);
            return Err(Refusal::Full);
        }
        self.prefetch_place(self.wheel.next_free());
        Ok(index)
    }

    /// Asks for the lines of the place that the next connection will take.
    #[inline(always)]
    fn prefetch_place(&self, index: usize) {
        if let (Some(hot), Some(cold)) = (self.hot.get(index), self.cold.get(index)) {
            prefetch_write(std::ptr::from_ref(hot).cast());
            prefetch_write(std::ptr::from_ref(&cold.original).cast());
            prefetch_write(std::ptr::from_ref(&cold.reply).cast());
        }
    }

    /// Sets a connection's mark. `false`: it is gone.
    pub fn set_mark(&mut self, conn: ConnRef, mark: u32) -> bool {
        let Some(index) = self.live(conn) else {
            return false;
        };
        if self.cold[index].mark != mark {
            self.cold[index].mark = mark;
            self.advance(conn.index);
        }
        true
    }

    /// Sets a connection's label. `false`: it is gone.
    pub fn set_label(&mut self, conn: ConnRef, label: u128) -> bool {
        let Some(index) = self.live(conn) else {
            return false;
        };
        let label = [(label >> 64) as u64, label as u64];
        if self.cold[index].label != label {
            self.cold[index].label = label;
            self.advance(conn.index);
        }
        true
    }

    /// A connection's mark.
    pub fn mark(&self, conn: ConnRef) -> Option<u32> {
        self.live(conn).map(|index| self.cold[index].mark)
    }

    /// A connection's label.
    pub fn label(&self, conn: ConnRef) -> Option<u128> {
        let [high, low] = self.cold[self.live(conn)?].label;
        Some(u128::from(high) << 64 | u128::from(low))
    }

    /// A connection's tuples: the opener's, and that of the answers on the wire.
    pub fn tuples(&self, conn: ConnRef) -> Option<(Tuple, Tuple)> {
        let cold = &self.cold[self.live(conn)?];
        Some((Half::tuple(&cold.original), Half::tuple(&cold.reply)))
    }
}

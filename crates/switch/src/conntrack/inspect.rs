//! Looking at connections from outside: listing and flushing by filter, a bounded number of places per call.

use super::state::State;
use super::store::{ConnRef, Traffic, flag, traffic};
use super::table::Conntrack;
use super::tuple::{Direction, Tuple};

/// Which connections; what is not named does not matter. Tuple parts are those of the opener, before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// Zone.
    pub zone: Option<u16>,
    /// IP protocol.
    pub proto: Option<u8>,
    /// Source address.
    pub src: Option<u128>,
    /// Destination address.
    pub dst: Option<u128>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// State.
    pub state: Option<State>,
    /// Owner.
    pub owner: Option<u16>,
    /// Mark under a mask: `(value, mask)`.
    pub mark: Option<(u32, u32)>,
    /// Member of a load balancer.
    pub member: Option<u16>,
}

/// A connection as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The opener's tuple.
    pub original: Tuple,
    /// The answers' tuple.
    pub reply: Tuple,
    /// State.
    pub state: State,
    /// Whether it was answered.
    pub replied: bool,
    /// Whether the opener's address is translated.
    pub snat: bool,
    /// Whether the called address is translated.
    pub dnat: bool,
    /// Mark.
    pub mark: u32,
    /// Label.
    pub label: u128,
    /// Owner.
    pub owner: u16,
    /// Timeout policy.
    pub policy: u8,
    /// When it was made, in milliseconds of the table's clock.
    pub created: u64,
    /// Milliseconds that it lives without a packet from now on; zero when it is expired.
    pub remaining: u32,
    /// From the opener and back.
    pub traffic: [Traffic; 2],
}

fn is<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

impl Conntrack {
    fn passes(&self, index: usize, filter: &Filter) -> bool {
        let (hot, cold) = (&self.hot[index], &self.cold[index]);
        if hot.state == State::Free || !is(filter.state, hot.state) {
            return false;
        }
        if *filter
            == (Filter {
                state: filter.state,
                ..Filter::default()
            })
        {
            return true;
        }
        let tuple = cold.original.tuple();
        is(filter.zone, tuple.zone)
            && is(filter.proto, tuple.proto)
            && is(filter.src, tuple.src)
            && is(filter.dst, tuple.dst)
            && is(filter.sport, tuple.sport)
            && is(filter.dport, tuple.dport)
            && is(filter.owner, cold.owner)
            && is(filter.member, cold.member)
            && filter
                .mark
                .is_none_or(|(value, mask)| cold.mark & mask == value & mask)
    }

    /// Places after `cursor`, no more than `places`, and where to go on.
    fn chunk(&self, cursor: u32, places: usize) -> (std::ops::Range<usize>, Option<u32>) {
        let start = (cursor as usize).min(self.hot.len());
        let end = start.saturating_add(places.max(1)).min(self.hot.len());
        (start..end, (end < self.hot.len()).then_some(end as u32))
    }

    /// Shows the connections that pass `filter` among the next `places` places, starting with cursor 0. Returns the cursor to go on with; nothing at the end.
    /// A connection that lives from the first to the last call is shown once.
    pub fn list(
        &self,
        cursor: u32,
        places: usize,
        filter: &Filter,
        now: u64,
        mut show: impl FnMut(ConnRef, Connection),
    ) -> Option<u32> {
        let (range, next) = self.chunk(cursor, places);
        for index in range {
            if self.passes(index, filter)
                && let Some(connection) = self.connection(self.reference(index as u32), now)
            {
                show(self.reference(index as u32), connection);
            }
        }
        next
    }

    /// Ends the connections that pass `filter` among the next `places` places, starting with cursor 0. Returns how many ended and the cursor to go on with.
    pub fn flush(&mut self, cursor: u32, places: usize, filter: &Filter) -> (usize, Option<u32>) {
        let (range, next) = self.chunk(cursor, places);
        let mut ended = 0;
        for index in range {
            if self.passes(index, filter) {
                self.remove(index as u32);
                ended += 1;
            }
        }
        self.stats.flushed += ended as u64;
        (ended, next)
    }

    /// Ends one connection. `false`: it was gone.
    pub fn end_connection(&mut self, conn: ConnRef) -> bool {
        let live = self.live(conn).is_some();
        if live {
            self.remove(conn.index);
            self.stats.flushed += 1;
        }
        live
    }

    /// All about a connection. Nothing when it is gone.
    pub fn connection(&self, conn: ConnRef, now: u64) -> Option<Connection> {
        let index = self.live(conn)?;
        let (hot, cold) = (&self.hot[index], &self.cold[index]);
        let timeout =
            self.timeouts[usize::from(hot.policy) % super::POLICIES].get(hot.state) as i32;
        let [high, low] = cold.label;
        Some(Connection {
            original: cold.original.tuple(),
            reply: cold.reply.tuple(),
            state: hot.state,
            replied: hot.flags & flag::REPLIED != 0,
            snat: hot.flags & super::ct_state::SNAT != 0,
            dnat: hot.flags & super::ct_state::DNAT != 0,
            mark: cold.mark,
            label: u128::from(high) << 64 | u128::from(low),
            owner: cold.owner,
            policy: hot.policy,
            created: cold.created,
            remaining: timeout.saturating_sub(hot.silence(now)).clamp(0, timeout) as u32,
            traffic: [Direction::Original, Direction::Reply]
                .map(|direction| traffic(hot, cold, direction)),
        })
    }
}

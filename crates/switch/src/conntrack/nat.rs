//! Address and port translation: which address and port a new connection gets, and what is rewritten.
//!
//! The mapping is endpoint-dependent: a port is free when no connection's half looks like the answers to it would. The opener's port is kept when it is free;
//! otherwise the search starts at a keyed hash of the end points and a counter with random steps (RFC 6056, algorithms 3 and 5). An ICMP identifier is a source
//! port. Looks at a bounded number of candidates, edits no packet, and does not translate between address families.

use super::commit::Refusal;
use super::state::ct_state;
use super::store::ConnRef;
use super::table::Conntrack;
use super::tuple::{Direction, Family, Half, Key, Tuple, protocol};

/// Addresses looked at.
const ADDRESSES: u128 = 4;
/// Ports looked at in sequence for each address; smaller ranges are searched completely.
const PORTS: u32 = 128;
/// Ports looked at elsewhere in a larger range after that, in turns of [`TURN`].
const TURNS: u64 = 3;
const TURN: u32 = 32;

/// Addresses and ports to translate to, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatRange {
    /// First address.
    pub min: u128,
    /// Last address.
    pub max: u128,
    /// First and last port. Without: a source port stays among the privileged ones or among the others, a destination port stays as it is.
    pub ports: Option<(u16, u16)>,
    /// Does not try the packet's own port first.
    pub random: bool,
}

/// A translation. With neither part it only makes sure that the answers are told apart, which any connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Nat {
    /// Of the opener's address.
    pub source: Option<NatRange>,
    /// Of the address that the opener calls.
    pub destination: Option<NatRange>,
}

/// What is rewritten in packets of one direction; what is not named stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Rewrite {
    /// Source address.
    pub src: Option<u128>,
    /// Destination address.
    pub dst: Option<u128>,
    /// Source port; the identifier of an ICMP query.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

impl Rewrite {
    /// Nothing is rewritten.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn between(from: &Tuple, to: &Tuple) -> Self {
        fn changed<T: PartialEq>(from: T, to: T) -> Option<T> {
            (from != to).then_some(to)
        }
        Self {
            src: changed(from.src, to.src),
            dst: changed(from.dst, to.dst),
            sport: changed(from.sport, to.sport),
            dport: if from.is_query() {
                None
            } else {
                changed(from.dport, to.dport)
            },
        }
    }
}

/// The translation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatBinding {
    /// For packets of the opener.
    pub original: Rewrite,
    /// For answers.
    pub reply: Rewrite,
    /// For the packet embedded in an ICMP error that travels in the original direction: an answer, back to what the answerer sent.
    pub embedded_original: Rewrite,
    /// For the packet embedded in an ICMP error that travels in the reply direction: the opener's, back to what the opener sent.
    pub embedded_reply: Rewrite,
}

impl NatBinding {
    fn new(original: &Tuple, reply: &Tuple) -> Self {
        // What the opener's packets become, and what answers become.
        let (outward, inward) = (reply.reversed(), original.reversed());
        Self {
            original: Rewrite::between(original, &outward),
            reply: Rewrite::between(reply, &inward),
            embedded_original: Rewrite::between(&inward, reply),
            embedded_reply: Rewrite::between(&outward, original),
        }
    }

    /// For packets of a direction.
    pub fn rewrite(&self, direction: Direction) -> &Rewrite {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }
}

/// The state of the search: where it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probe {
    step: u64,
}

fn check(range: &NatRange, family: Family) -> Result<(), Refusal> {
    let ports = range.ports.is_none_or(|(first, last)| first <= last);
    if range.min > range.max || !family.holds(range.max) || !ports {
        Err(Refusal::NatRange)
    } else {
        Ok(())
    }
}

/// Addresses of a range, from the one that `hash` points to, as many as are looked at.
fn addresses(range: NatRange, hash: u64) -> impl Iterator<Item = u128> {
    let count = (range.max - range.min).saturating_add(1);
    let first = u128::from(hash) % count;
    (0..count.min(ADDRESSES)).map(move |n| range.min + (first + n) % count)
}

/// Which part of the answers' tuple is searched for a free value.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Source,
    Destination,
}

/// A search for a free reply half.
struct Search {
    original: Half,
    reply: Tuple,
    side: Side,
    now: u64,
}

impl Conntrack {
    /// The half of the answers to a translated connection, and its NAT bits.
    pub(super) fn translate(
        &mut self,
        tuple: &Tuple,
        nat: &Nat,
        now: u64,
    ) -> Result<(Key, u8), Refusal> {
        let reply = tuple.reversed();
        for range in [&nat.source, &nat.destination].into_iter().flatten() {
            check(range, tuple.family)?;
        }
        // One opener keeps its address, whatever it calls (RFC 4787, REQ-2); one end point of a service likewise.
        let opener = self.secret.mix([
            (tuple.src >> 64) as u64,
            tuple.src as u64,
            tuple.zone.into(),
            1,
        ]);
        let mut search = Search {
            original: Half::new(tuple),
            reply,
            side: Side::Source,
            now,
        };
        let found = match (nat.source, nat.destination) {
            (None, None) => {
                let key = self.key(&reply);
                self.is_vacant(&key, now).then_some(key)
            }
            (None, Some(range)) => {
                search.side = Side::Destination;
                self.search(&mut search, range, opener)
            }
            (Some(range), None) => self.search(&mut search, range, opener),
            (Some(source), Some(destination)) => {
                let hash = opener.rotate_left(32);
                search.reply.src = addresses(destination, hash)
                    .next()
                    .ok_or(Refusal::NatRange)?;
                if let Some((first, last)) = destination
                    .ports
                    .filter(|_| protocol::has_ports(tuple.proto))
                    && (destination.random || !(first..=last).contains(&reply.sport))
                {
                    search.reply.sport = first + (hash % (u64::from(last - first) + 1)) as u16;
                }
                self.search(&mut search, source, opener)
            }
        };
        let bits = if nat.source.is_some() {
            ct_state::SNAT
        } else {
            0
        } | if nat.destination.is_some() {
            ct_state::DNAT
        } else {
            0
        };
        found.map(|key| (key, bits)).ok_or(Refusal::NatExhausted)
    }

    /// A free address and port of `range` for one side of the answers' tuple.
    fn search(&mut self, search: &mut Search, range: NatRange, hash: u64) -> Option<Key> {
        for address in addresses(range, hash) {
            match search.side {
                Side::Source => search.reply.dst = address,
                Side::Destination => search.reply.src = address,
            }
            if let Some(key) = self.search_port(search, &range) {
                return Some(key);
            }
        }
        None
    }

    fn search_port(&mut self, search: &Search, range: &NatRange) -> Option<Key> {
        let Search {
            ref reply, side, ..
        } = *search;
        let wanted = match side {
            Side::Source if !reply.is_query() => reply.dport,
            _ => reply.sport,
        };
        let (first, last) = match range.ports {
            _ if reply.is_query() && side == Side::Source => range.ports.unwrap_or((0, u16::MAX)),
            _ if !protocol::has_ports(reply.proto) => (wanted, wanted),
            Some(ports) => ports,
            None if side == Side::Destination => (wanted, wanted),
            None if wanted < 1024 => (1, 1023),
            None => (1024, u16::MAX),
        };
        if (first..=last).contains(&wanted)
            && !(range.random && first != last)
            && let Some(key) = self.try_port(search, wanted)
        {
            return Some(key);
        }
        let span = u32::from(last - first) + 1;
        let other = u64::from(if side == Side::Source {
            reply.sport
        } else {
            reply.dport
        });
        let high = (reply.src >> 64) as u64 ^ (reply.dst >> 64) as u64;
        let hash = self
            .secret
            .mix([high ^ other << 16, reply.src as u64, reply.dst as u64, 2]);
        for turn in 0..=TURNS {
            // Random steps: nobody learns from his port how many connections others made.
            let random = self.secret.mix([self.nat_probe.step, hash, turn, 3]);
            self.nat_probe.step = self.nat_probe.step.wrapping_add(1 + random % 64);
            let start = if turn == 0 {
                hash.wrapping_add(self.nat_probe.step)
            } else {
                random
            } % u64::from(span);
            for n in 0..(if turn == 0 { PORTS } else { TURN }).min(span) {
                let port = first + ((start as u32 + n) % span) as u16;
                if let Some(key) = self.try_port(search, port) {
                    return Some(key);
                }
            }
            if span <= PORTS {
                break;
            }
        }
        None
    }

    fn try_port(&mut self, search: &Search, port: u16) -> Option<Key> {
        let mut reply = search.reply;
        match search.side {
            Side::Source if !reply.is_query() => reply.dport = port,
            _ => reply.sport = port,
        }
        self.stats.nat_probes += 1;
        let key = self.key(&reply);
        // The connection's own first half is not in the table yet.
        (key.half != search.original && self.is_vacant(&key, search.now)).then_some(key)
    }

    /// What a connection's translation rewrites. Nothing when the connection is gone; empty rewrites when it has none.
    pub fn binding(&self, conn: ConnRef) -> Option<NatBinding> {
        let (original, reply) = self.tuples(conn)?;
        Some(NatBinding::new(&original, &reply))
    }
}

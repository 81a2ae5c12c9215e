//! Ports of later fragments: what the first fragment of a datagram showed, remembered for the rest (RFC 791, RFC 8200 section 4.5).
//!
//! Nothing is reassembled. Fragments that come before the first are answered as unknown. Tiny first fragments (RFC 1858), fragments that would overwrite TCP
//! flags (RFC 3128) and overlapping ones (RFC 5722, here for IPv4 too) are refused, and after an overlap the rest of the datagram.

use std::collections::TryReserveError;

use super::tuple::{Family, Secret, protocol};

const WAYS: usize = 4;
/// Pieces of a datagram that are not adjacent, at once.
const PIECES: usize = 8;
/// Milliseconds that a datagram may take (Linux: `ipfrag_time`).
const LIFE: u64 = 30_000;
/// Least bytes of a TCP header in a first fragment.
const TCP_HEADER: u16 = 20;
const OTHER_HEADER: u16 = 8;

/// A fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Identification: 16 bits for IPv4, 32 for IPv6.
    pub id: u32,
    /// Protocol of the datagram; for IPv6 the transport protocol if the caller knows it, else the fragment header's next header, the same for all fragments.
    pub proto: u8,
    /// Address family.
    pub family: Family,
    /// Zone.
    pub zone: u16,
    /// Offset of its data, in units of 8 bytes as in the header.
    pub offset: u16,
    /// Bytes of data.
    pub length: u16,
    /// Whether more follow.
    pub more: bool,
    /// Of a first fragment: the ports, if it is long enough for them.
    pub ports: Option<Ports>,
}

/// Ports as a [`Tuple`](super::Tuple) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ports {
    /// Source.
    pub sport: u16,
    /// Destination.
    pub dport: u16,
}

/// Why a fragment is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentRefusal {
    /// Its first fragment was not seen.
    #[error("the first fragment of the datagram was not seen")]
    Unknown,
    /// Empty, not a multiple of eight bytes, or beyond the longest datagram.
    #[error("a fragment of impossible length")]
    Malformed,
    /// The first fragment is too short for the transport header.
    #[error("a first fragment that is too short for the transport header")]
    Tiny,
    /// It would overwrite the flags of a TCP header.
    #[error("a fragment within a TCP header")]
    InHeader,
    /// It overlaps another, or one of the datagram's did.
    #[error("overlapping fragments")]
    Overlap,
    /// The datagram has too many holes.
    #[error("a datagram with too many holes")]
    Scattered,
}

/// Sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FragmentStats {
    /// Fragments answered with ports.
    pub accepted: u64,
    /// Fragments refused as unknown.
    pub unknown: u64,
    /// Fragments refused for anything else.
    pub refused: u64,
    /// Datagrams that were seen completely.
    pub completed: u64,
    /// Unfinished datagrams that gave way to others.
    pub evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    key: [u64; 6],
    /// When the first fragment came; zero and no pieces: free.
    since: u64,
    ports: Ports,
    /// Start and end in units of eight bytes, ascending, not adjacent.
    pieces: [(u16, u16); PIECES],
    count: u8,
    poisoned: bool,
    /// Where the last fragment ends; zero: it has not come.
    total: u16,
}

const FREE: Datagram = Datagram {
    key: [0; 6],
    since: 0,
    ports: Ports { sport: 0, dport: 0 },
    pieces: [(0, 0); PIECES],
    count: 0,
    poisoned: false,
    total: 0,
};

/// Datagrams of which the first fragment was seen.
#[derive(Debug)]
pub struct Fragments {
    sets: Vec<[Datagram; WAYS]>,
    secret: Secret,
    stats: FragmentStats,
}

impl Fragments {
    /// A table for about `datagrams` datagrams at once; the oldest of four gives way to a new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(datagrams: usize) -> Result<Self, TryReserveError> {
        let count = datagrams
            .div_ceil(WAYS)
            .clamp(1, 1 << 24)
            .next_power_of_two();
        let mut sets = Vec::new();
        sets.try_reserve_exact(count)?;
        sets.resize(count, [FREE; WAYS]);
        Ok(Self {
            sets,
            secret: Secret::new(),
            stats: FragmentStats::default(),
        })
    }

    /// Sums.
    pub fn stats(&self) -> &FragmentStats {
        &self.stats
    }

    /// The ports of a fragment.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn accept(&mut self, fragment: &Fragment, now: u64) -> Result<Ports, FragmentRefusal> {
        let answer = self.judge(fragment, now);
        match answer {
            Ok(_) => self.stats.accepted += 1,
            Err(FragmentRefusal::Unknown) => self.stats.unknown += 1,
            Err(_) => self.stats.refused += 1,
        }
        answer
    }

    fn judge(&mut self, fragment: &Fragment, now: u64) -> Result<Ports, FragmentRefusal> {
        let bytes = u32::from(fragment.offset) * 8 + u32::from(fragment.length);
        if fragment.length == 0
            || fragment.more && !fragment.length.is_multiple_of(8)
            || bytes > 65_535
        {
            return Err(FragmentRefusal::Malformed);
        }
        let tcp = fragment.proto == protocol::TCP;
        let first = match (fragment.offset, fragment.ports) {
            (0, ports) if fragment.length >= if tcp { TCP_HEADER } else { OTHER_HEADER } => {
                Some(ports.ok_or(FragmentRefusal::Tiny)?)
            }
            (0, _) => return Err(FragmentRefusal::Tiny),
            (1 | 2, _) if tcp => return Err(FragmentRefusal::InHeader),
            _ => None,
        };
        if let Some(ports) = first
            && !fragment.more
        {
            // Whole: a datagram of its own whatever else has its number (RFC 6946).
            return Ok(ports);
        }
        let key = key(fragment);
        let hash = self.secret.mix([
            key[0] ^ key[4],
            key[1] ^ key[5].rotate_left(32),
            key[2],
            key[3],
        ]);
        let place = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[place];
        let known = set.iter_mut().find(|datagram| {
            datagram.count != 0 && datagram.key == key && now.saturating_sub(datagram.since) < LIFE
        });
        let datagram = match (known, first) {
            (Some(datagram), _) => datagram,
            (None, None) => return Err(FragmentRefusal::Unknown),
            (None, Some(ports)) => {
                let Some(oldest) = set
                    .iter_mut()
                    .min_by_key(|datagram| (datagram.count != 0, datagram.since))
                else {
                    return Err(FragmentRefusal::Unknown);
                };
                self.stats.evicted +=
                    u64::from(oldest.count != 0 && now.saturating_sub(oldest.since) < LIFE);
                let mut pieces = [(0, 0); PIECES];
                pieces[0] = (0, fragment.length / 8);
                *oldest = Datagram {
                    key,
                    since: now,
                    ports,
                    pieces,
                    count: 1,
                    ..FREE
                };
                return Ok(ports);
            }
        };
        let end = fragment.offset + fragment.length.div_ceil(8);
        let answer = datagram.add((fragment.offset, end), fragment.more);
        if answer.is_ok()
            && datagram.total != 0
            && datagram.count == 1
            && datagram.pieces[0] == (0, datagram.total)
        {
            datagram.count = 0;
            self.stats.completed += 1;
        }
        answer
    }
}

fn key(fragment: &Fragment) -> [u64; 6] {
    let (src, dst) = (fragment.src, fragment.dst);
    let rest = u64::from(fragment.proto) << 8 | fragment.family as u64;
    [
        (src >> 64) as u64,
        src as u64,
        (dst >> 64) as u64,
        dst as u64,
        u64::from(fragment.id) << 16 | u64::from(fragment.zone),
        rest,
    ]
}

impl Datagram {
    fn add(&mut self, (start, end): (u16, u16), more: bool) -> Result<Ports, FragmentRefusal> {
        let count = usize::from(self.count);
        let pieces = &mut self.pieces[..count];
        let highest = pieces.last().map_or(0, |piece| piece.1);
        let overlaps = pieces.iter().any(|&(from, to)| start < to && from < end);
        let beyond = self.total != 0 && (end > self.total || !more) || !more && highest > end;
        if self.poisoned || overlaps || beyond {
            self.poisoned = true;
            return Err(FragmentRefusal::Overlap);
        }
        let after = pieces.iter().take_while(|piece| piece.1 <= start).count();
        let joins_before = after > 0 && pieces[after - 1].1 == start;
        let joins_after = after < count && pieces[after].0 == end;
        match (joins_before, joins_after) {
            (true, true) => {
                pieces[after - 1].1 = pieces[after].1;
                pieces.copy_within(after + 1.., after);
                self.count -= 1;
            }
            (true, false) => pieces[after - 1].1 = end,
            (false, true) => pieces[after].0 = start,
            (false, false) if count == PIECES => return Err(FragmentRefusal::Scattered),
            (false, false) => {
                self.pieces.copy_within(after..count, after + 1);
                self.pieces[after] = (start, end);
                self.count += 1;
            }
        }
        if !more {
            self.total = end;
        }
        Ok(self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PORTS: Ports = Ports {
        sport: 1234,
        dport: 53,
    };

    fn fragment(id: u32, offset: u16, length: u16, more: bool) -> Fragment {
        let ports = (offset == 0).then_some(PORTS);
        Fragment {
            src: 1,
            dst: 2,
            id,
            proto: 17,
            family: Family::V4,
            zone: 0,
            offset,
            length,
            more,
            ports,
        }
    }

    fn table() -> Fragments {
        Fragments::new(1024).unwrap()
    }

    #[test]
    fn later_fragments_get_the_ports_of_the_first() {
        let mut table = table();
        assert_eq!(
            table.accept(&fragment(7, 185, 1480, true), 0),
            Err(FragmentRefusal::Unknown)
        );
        assert_eq!(table.accept(&fragment(7, 0, 1480, true), 0), Ok(PORTS));
        assert_eq!(
            table.accept(&fragment(7, 370, 100, false), 1),
            Ok(PORTS),
            "in any order"
        );
        assert_eq!(
            table.accept(
                &Fragment {
                    zone: 1,
                    ..fragment(7, 185, 1480, true)
                },
                1
            ),
            Err(FragmentRefusal::Unknown)
        );
        assert_eq!(table.accept(&fragment(7, 185, 1480, true), 2), Ok(PORTS));
        assert_eq!(table.stats().completed, 1);
        assert_eq!(
            table.accept(&fragment(7, 185, 1480, true), 3),
            Err(FragmentRefusal::Unknown),
            "complete"
        );
        assert_eq!(table.accept(&fragment(8, 0, 1480, true), 3), Ok(PORTS));
        assert_eq!(
            table.accept(&fragment(8, 185, 1480, false), 3 + LIFE),
            Err(FragmentRefusal::Unknown),
            "too late"
        );
    }

    #[test]
    fn refuses_what_hides_headers() {
        let mut table = table();
        let tcp = |fragment| Fragment {
            proto: 6,
            ..fragment
        };
        assert_eq!(
            table.accept(&tcp(fragment(1, 0, 16, true)), 0),
            Err(FragmentRefusal::Tiny)
        );
        assert_eq!(table.accept(&tcp(fragment(1, 0, 24, true)), 0), Ok(PORTS));
        assert_eq!(
            table.accept(&tcp(fragment(1, 1, 80, true)), 0),
            Err(FragmentRefusal::InHeader)
        );
        assert_eq!(
            table.accept(
                &Fragment {
                    ports: None,
                    ..fragment(2, 0, 80, true)
                },
                0
            ),
            Err(FragmentRefusal::Tiny)
        );
        assert_eq!(
            table.accept(&fragment(3, 0, 81, true), 0),
            Err(FragmentRefusal::Malformed)
        );
        assert_eq!(
            table.accept(&fragment(3, 8191, 80, false), 0),
            Err(FragmentRefusal::Malformed),
            "ping of death"
        );
        assert_eq!(
            table.accept(&fragment(3, 0, 0, true), 0),
            Err(FragmentRefusal::Malformed)
        );
    }

    #[test]
    fn an_overlap_poisons_the_datagram() {
        for (offset, length, more) in [
            (0, 80, true),
            (9, 80, true),
            (4, 8, true),
            (30, 80, true),
            (12, 80, false),
            (19, 16, true),
        ] {
            let mut table = table();
            table.accept(&fragment(1, 0, 80, true), 0).unwrap();
            table.accept(&fragment(1, 20, 80, false), 0).unwrap();
            assert_eq!(
                table.accept(&fragment(1, offset, length, more), 0),
                Err(FragmentRefusal::Overlap),
                "{offset}"
            );
            assert_eq!(
                table.accept(&fragment(1, 10, 80, true), 0),
                Err(FragmentRefusal::Overlap)
            );
        }
    }

    #[test]
    fn holes_and_datagrams_are_bounded() {
        let mut table = table();
        table.accept(&fragment(1, 0, 8, true), 0).unwrap();
        let answers: Vec<_> = (1..20)
            .map(|n| table.accept(&fragment(1, n * 10, 8, true), 0))
            .collect();
        assert!(answers[..7].iter().all(Result::is_ok));
        assert!(
            answers[7..]
                .iter()
                .all(|answer| *answer == Err(FragmentRefusal::Scattered))
        );
        for id in 2..100_000 {
            table
                .accept(&fragment(id, 0, 8, true), u64::from(id) / 100)
                .unwrap();
        }
        assert!(table.stats().evicted > 90_000);
        table.accept(&fragment(99_999, 1, 8, false), 1000).unwrap();
    }

    proptest! {
        /// Against a map of eight-byte units.
        #[test]
        fn no_byte_is_accepted_twice(pieces in proptest::collection::vec((0_u16..40, 1_u16..6), 1..60)) {
            let mut table = table();
            table.accept(&fragment(1, 0, 16, true), 0).unwrap();
            let (mut taken, mut poisoned) = ([false; 64], false);
            taken[..2].fill(true);
            for (offset, units) in pieces {
                let range = usize::from(offset)..usize::from(offset + units);
                let answer = table.accept(&fragment(1, offset, units * 8, true), 0);
                poisoned |= taken[range.clone()].contains(&true);
                match answer {
                    Ok(_) => {
                        prop_assert!(!poisoned);
                        taken[range].fill(true);
                    }
                    Err(FragmentRefusal::Overlap) => prop_assert!(poisoned),
                    Err(FragmentRefusal::Scattered) => prop_assert!(!poisoned),
                    Err(other) => prop_assert!(false, "{other}"),
                }
            }
        }
    }
}

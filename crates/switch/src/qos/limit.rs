//! Simple rate limits: policing of what a port sends, storm control, and limits on what is punted to slower code.
//!
//! A limit lets a frame pass while it is not in debt (see [`TokenBucket`]): no frame is too long ever to pass.

use super::QosError;
use super::bucket::{Rate, TokenBucket};

/// A rate limit as configured; what is None is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limit {
    /// Packets per second, and a burst in packets.
    pub packets: Option<(u64, u64)>,
    /// Bits per second, and a burst in bytes.
    pub bits: Option<(u64, u64)>,
}

/// Frames that met a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitStats {
    /// Let through.
    pub passed_packets: u64,
    /// Their bytes.
    pub passed_bytes: u64,
    /// Dropped.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

/// A rate limit at work: both packets and bytes must have credit, and a frame that is dropped costs neither.
#[derive(Clone, Debug)]
pub struct Limiter {
    packets: Option<TokenBucket>,
    bits: Option<TokenBucket>,
    stats: LimitStats,
}

impl Limiter {
    /// A limiter with full buckets on a clock of `ticks_per_s`.
    ///
    /// # Errors
    /// [`QosError::Rate`], [`QosError::Burst`], [`QosError::Clock`].
    pub fn new(limit: Limit, ticks_per_s: u64, now: u64) -> Result<Limiter, QosError> {
        let bucket = |rate, burst| TokenBucket::new(rate, burst, ticks_per_s, now);
        let packets = limit
            .packets
            .map(|(rate, burst)| bucket(Rate::Packets(rate), burst));
        let bits = limit
            .bits
            .map(|(rate, burst)| bucket(Rate::Bits(rate), burst));
        Ok(Limiter {
            packets: packets.transpose()?,
            bits: bits.transpose()?,
            stats: LimitStats::default(),
        })
    }

    /// Whether a frame of `len` bytes passes; counts it either way.
    #[inline]
    pub fn admit(&mut self, len: u32, now: u64) -> bool {
        let mut ready = true;
        for bucket in [&mut self.packets, &mut self.bits].into_iter().flatten() {
            ready &= bucket.ready(now);
        }
        let stats = &mut self.stats;
        let (packets, bytes) = if ready {
            for bucket in [&mut self.packets, &mut self.bits].into_iter().flatten() {
                bucket.charge(len);
            }
            (&mut stats.passed_packets, &mut stats.passed_bytes)
        } else {
            (&mut stats.dropped_packets, &mut stats.dropped_bytes)
        };
        *packets = packets.wrapping_add(1);
        *bytes = bytes.wrapping_add(len.into());
        ready
    }

    /// What it has seen.
    pub fn stats(&self) -> LimitStats {
        self.stats
    }
}

/// At most so many events in a second, by a clock of whole seconds: the owner says when the next one begins.
///
/// It is for what is rare and costs more to do than a bucket of tokens is worth: around the turn of a second twice as many may come at once.
#[derive(Clone, Copy, Debug)]
pub struct PerSecond {
    most: u32,
    left: u32,
}

impl PerSecond {
    /// `most` in every second, all of them left in this one.
    pub const fn new(most: u32) -> PerSecond {
        PerSecond { most, left: most }
    }

    /// None are left in this second.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Takes one; false if none is left.
    pub fn take(&mut self) -> bool {
        let may = !self.is_spent();
        self.left -= u32::from(may);
        may
    }

    /// The next second begins.
    pub fn refill(&mut self) {
        self.left = self.most;
    }
}

/// The kinds of traffic that are sent to all ports of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StormKind {
    /// To ff:ff:ff:ff:ff:ff.
    Broadcast,
    /// To any other group address.
    Multicast,
    /// To an address that nobody is known to have.
    UnknownUnicast,
}

impl StormKind {
    /// The kind of a frame to `destination`, or None if it goes to one port. `known` says that the address was found.
    pub fn of(destination: [u8; 6], known: bool) -> Option<StormKind> {
        match destination {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Some(StormKind::Broadcast),
            [first, ..] if first & 1 == 1 => Some(StormKind::Multicast),
            _ if !known => Some(StormKind::UnknownUnicast),
            _ => None,
        }
    }
}

/// Storm control of a port.
#[derive(Clone, Debug)]
pub struct StormControl {
    /// Limit of [`StormKind::Broadcast`].
    pub broadcast: Limiter,
    /// Limit of [`StormKind::Multicast`].
    pub multicast: Limiter,
    /// Limit of [`StormKind::UnknownUnicast`].
    pub unknown_unicast: Limiter,
}

impl StormControl {
    /// Whether a frame of `kind` and `len` bytes passes.
    #[inline]
    pub fn admit(&mut self, kind: StormKind, len: u32, now: u64) -> bool {
        let limiter = match kind {
            StormKind::Broadcast => &mut self.broadcast,
            StormKind::Multicast => &mut self.multicast,
            StormKind::UnknownUnicast => &mut self.unknown_unicast,
        };
        limiter.admit(len, now)
    }
}

/// The kinds of frames that slower code answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PuntKind {
    /// ARP.
    Arp,
    /// IPv6 neighbour discovery, router solicitations included.
    NeighbourDiscovery,
    /// DHCPv4 and DHCPv6.
    Dhcp,
}

/// Limits of a port on what is punted, so that one guest cannot keep the slower code from the others.
#[derive(Clone, Debug)]
pub struct PuntLimits {
    /// Limit of [`PuntKind::Arp`].
    pub arp: Limiter,
    /// Limit of [`PuntKind::NeighbourDiscovery`].
    pub neighbour_discovery: Limiter,
    /// Limit of [`PuntKind::Dhcp`].
    pub dhcp: Limiter,
}

impl PuntLimits {
    /// Whether a frame of `kind` and `len` bytes may be punted.
    #[inline]
    pub fn admit(&mut self, kind: PuntKind, len: u32, now: u64) -> bool {
        let limiter = match kind {
            PuntKind::Arp => &mut self.arp,
            PuntKind::NeighbourDiscovery => &mut self.neighbour_discovery,
            PuntKind::Dhcp => &mut self.dhcp,
        };
        limiter.admit(len, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NS: u64 = 1_000_000_000;

    #[test]
    fn so_many_in_a_second_and_no_more() {
        let mut limit = PerSecond::new(3);
        for _ in 0..2 {
            assert!(!limit.is_spent());
            assert_eq!((0..10).filter(|_| limit.take()).count(), 3);
            assert!(limit.is_spent());
            limit.refill();
        }
    }

    #[test]
    fn kinds_of_storms() {
        assert_eq!(StormKind::of([0xff; 6], true), Some(StormKind::Broadcast));
        let group = [0x33, 0x33, 0, 0, 0, 1];
        assert_eq!(StormKind::of(group, true), Some(StormKind::Multicast));
        let unicast = [2, 0, 0, 0, 0, 1];
        assert_eq!(StormKind::of(unicast, true), None);
        assert_eq!(
            StormKind::of(unicast, false),
            Some(StormKind::UnknownUnicast)
        );
    }

    #[test]
    fn each_kind_has_its_own_budget() {
        let limiter = |rate| {
            let limit = Limit {
                packets: Some((rate, 1)),
                bits: None,
            };
            Limiter::new(limit, NS, 0).unwrap()
        };
        let mut storm = StormControl {
            broadcast: limiter(10),
            multicast: limiter(20),
            unknown_unicast: limiter(30),
        };
        let mut punt = PuntLimits {
            arp: limiter(40),
            neighbour_discovery: limiter(50),
            dhcp: limiter(60),
        };
        let mut passed = [0; 6];
        for now in (0..10 * NS).step_by(1_000_000) {
            let kinds = [
                StormKind::Broadcast,
                StormKind::Multicast,
                StormKind::UnknownUnicast,
            ];
            for (i, kind) in kinds.into_iter().enumerate() {
                passed[i] += u32::from(storm.admit(kind, 64, now));
            }
            let kinds = [PuntKind::Arp, PuntKind::NeighbourDiscovery, PuntKind::Dhcp];
            for (i, kind) in kinds.into_iter().enumerate() {
                passed[3 + i] += u32::from(punt.admit(kind, 64, now));
            }
        }
        for (rate, passed) in (10..).step_by(10).zip(passed) {
            assert!(
                (rate * 10..=rate * 10 + 2).contains(&passed),
                "{passed} of {rate}/s"
            );
        }
    }

    #[test]
    fn a_frame_longer_than_the_burst_passes() {
        let limit = Limit {
            packets: None,
            bits: Some((8_000_000, 1_500)),
        };
        let mut limiter = Limiter::new(limit, NS, 0).unwrap();
        let passed = (0..10_000u64)
            .filter(|ms| limiter.admit(64_000, ms * NS / 1_000))
            .count();
        assert!(
            (156..=157).contains(&passed),
            "10 MB in frames of 64 kB: {passed}"
        );
    }

    proptest! {
        /// Whatever is offered: never more than burst + rate * time + a frame, and exactly the rate if it is greedy.
        #[test]
        fn policed(
            pps in 1u64..100_000, burst in 1u64..100, bits in 10_000u64..10_000_000_000,
            bytes in 1u64..200_000, frames in prop::collection::vec((0u64..1_000_000, 60u32..65_000), 1..200),
        ) {
            let limit = Limit { packets: Some((pps, burst)), bits: Some((bits, bytes)) };
            let mut limiter = Limiter::new(limit, NS, 0).unwrap();
            let (mut now, mut longest) = (0u64, 0);
            for (gap, len) in &frames {
                now += gap;
                if limiter.admit(*len, now) {
                    longest = longest.max(*len);
                }
            }
            let stats = limiter.stats();
            let most = u128::from(burst + 1) + u128::from(pps) * u128::from(now) / u128::from(NS);
            prop_assert!(u128::from(stats.passed_packets) <= most);
            let most = u128::from(bytes + u64::from(longest)) + u128::from(bits) * u128::from(now) / u128::from(8 * NS);
            prop_assert!(u128::from(stats.passed_bytes) <= most);
            prop_assert_eq!(stats.passed_packets + stats.dropped_packets, frames.len() as u64);
        }
    }
}

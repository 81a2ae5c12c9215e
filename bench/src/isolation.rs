//! What a quiet tenant notices of a loud one on the same switch: traffic of both, and what arrives of the quiet one's.
//!
//! Port 0 is what all tenants share, the way in from outside. The quiet tenant's guest is at port 1, the loud one's at port 2 with one more at
//! port 3. The loud one has an access list of its own, as any tenant may.
//!
//! The loud tenant either floods, from port 2 to port 3 as fast as the switch takes it; or it sends a few frames that make a cache of wildcarded
//! decisions hold as many masks as its access list allows (Csikor and others, "Tuple Space Explosion", CoNEXT 2019): for every combination of
//! bits, one frame that differs from what each rule allows first at that bit. A switch that looks no further than the bit that decided makes a
//! mask of its own for each, and a look-up that tries one mask after the other pays for all of them, whoever's frame it is.

use crate::generator::frame::{Addresses, Mac, udp};
use crate::generator::plan::{Field, Plan, Sequence, Tuple, Way, Wheel};
use crate::generator::port::{BURST, Port};
use crate::histogram::Histogram;
use crate::residence::{Presence, Waiting};
use crate::switch::Rule;
use crate::tsc;
use anyhow::Result;
use std::net::Ipv4Addr;

/// Ports of the switch.
pub const PORTS: u16 = 4;
/// Frames of the quiet tenant per second where it is paced.
pub const QUIET_PER_SECOND: f64 = 50_000.0;
/// Frames per second that make masks: few.
pub const MASKS_PER_SECOND: f64 = 10_000.0;
/// Frames of the quiet tenant under way at once where it sends as fast as it can.
const WINDOW: u64 = 512;
/// Frames count as lost when none has arrived for this long.
const LOST_AFTER_S: f64 = 0.2;
const FRAME: usize = 64;
/// In the payload: when it was sent, for how long generator and switch had waited for their cores until then, and in which scene.
const STAMP_AT: usize = 42;
const WAITED_AT: usize = 50;
const SCENE_AT: usize = 58;
/// A latency counts only if no more than this part of it was waiting for a core.
const MOST_WAITING: f64 = 0.1;
/// A latency above this, in seconds, may hold waiting.
const LONG_S: f64 = 20e-6;
/// So often, in seconds, the switch's waiting is looked at without a reason: at most this much of it is charged to the wrong frames.
const LOOK_S: f64 = 1e-3;
const QUIET_PORT: usize = 1;
const OUTSIDE: Mac = [2, 0, 0, 0, 0, 1];
const GUEST: Mac = [2, 0, 0, 0, 0, 2];
const QUIET_GUEST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const LOUD_GUEST: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 1);
/// What the loud tenant's access list allows: a source, a source port, a destination port. All else is dropped.
const ALLOWED_SOURCE: u32 = 0xc0a8_0707;
const ALLOWED_UDP_SRC: u16 = 12345;
const ALLOWED_UDP_DST: u16 = 80;

/// The rules of all tenants.
pub fn rules() -> Vec<Rule> {
    let host = |address: Ipv4Addr| Some((u32::from(address), 32));
    let to_loud = Rule {
        dst: host(LOUD_GUEST),
        to: Some(2),
        ..Rule::default()
    };
    vec![
        Rule {
            dst: host(QUIET_GUEST),
            to: Some(1),
            ..Rule::default()
        },
        Rule {
            priority: 1,
            udp_dst: Some(ALLOWED_UDP_DST),
            ..to_loud
        },
        Rule {
            priority: 2,
            src: Some((ALLOWED_SOURCE, 32)),
            ..to_loud
        },
        Rule {
            priority: 3,
            udp_src: Some(ALLOWED_UDP_SRC),
            ..to_loud
        },
        Rule {
            priority: 4,
            to: None,
            ..to_loud
        },
        Rule {
            from: 2,
            to: Some(3),
            ..Rule::default()
        },
    ]
}

/// One frame for every mask that the loud tenant's access list can make: 32 bits of the source times 16 of each port.
pub fn explosion() -> Vec<Tuple> {
    let mut tuples = Vec::new();
    for source in 0..32 {
        for udp_src in 0..16 {
            for udp_dst in 0..16 {
                tuples.push(Tuple {
                    ipv4: [(ALLOWED_SOURCE ^ 1 << source).into(), LOUD_GUEST],
                    udp: [
                        ALLOWED_UDP_SRC ^ 1 << udp_src,
                        ALLOWED_UDP_DST ^ 1 << udp_dst,
                    ],
                });
            }
        }
    }
    tuples
}

/// What the loud tenant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loud {
    /// Nothing.
    Silent,
    /// Sends as fast as the switch takes it.
    Flood,
    /// Makes masks.
    Explosion,
}

/// How the quiet tenant sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// [`QUIET_PER_SECOND`], each stamped, so that latency and loss are seen.
    Paced,
    /// As fast as what it sends arrives.
    Loop,
}

/// What arrived.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The quiet tenant's frames that were sent.
    pub sent: u64,
    /// Those that arrived.
    pub received: u64,
    /// Seconds.
    pub seconds: f64,
    /// From before sending until it was seen at the other port, TSC cycles; only of paced frames.
    pub latency: Histogram,
    /// Paced frames on whose way generator or switch waited for a core for too long: their latency is left out.
    pub excluded: u64,
    /// The loud tenant's frames that were sent.
    pub loud: u64,
}

impl Outcome {
    /// Part of the frames that arrived, in per cent.
    pub fn delivered(&self) -> f64 {
        self.received as f64 / self.sent.max(1) as f64 * 100.0
    }

    /// Million frames per second that arrived.
    pub fn mpps(&self) -> f64 {
        self.received as f64 / self.seconds.max(f64::MIN_POSITIVE) / 1e6
    }

    /// A quantile of the latency in microseconds.
    pub fn latency_us(&self, fraction: f64) -> f64 {
        self.latency.quantile(fraction) as f64 / tsc::hz() * 1e6
    }
}

/// The generator of both tenants, on the calling thread.
pub struct Tenants {
    ports: Vec<Port>,
    quiet: Plan,
    flood: Plan,
    masks: Plan,
    presence: Presence,
    /// The generator and the switch.
    waiting: [Waiting; 2],
    /// When the switch's waiting was last looked at.
    looked: u64,
    /// Counts scenes: what is left over from the one before is not taken for a frame of this one.
    scene: u32,
    /// Of the closed loop, where frames carry no stamp.
    under_way: u64,
}

/// Frames that are sent so many per second.
struct Pace {
    gap: u64,
    next: u64,
}

impl Pace {
    fn new(per_second: f64, now: u64) -> Self {
        Self {
            gap: (tsc::hz() / per_second) as u64,
            next: now,
        }
    }

    /// Whether one is due. What could not be sent in time is not made up for by a burst later.
    fn due(&mut self, now: u64) -> bool {
        if now < self.next {
            return false;
        }
        self.next = (self.next + self.gap).max(now);
        true
    }
}

impl Tenants {
    /// Over connected ports, [`PORTS`] of them, of the switch whose polling thread is `tid` of process `pid`.
    ///
    /// # Errors
    /// If the scheduler's statistics cannot be read.
    pub fn new(ports: Vec<Port>, pid: u32, tid: u32) -> Result<Self> {
        let frame = |ipv4: [Ipv4Addr; 2]| {
            let addresses = Addresses {
                mac: [GUEST, OUTSIDE],
                ipv4,
                udp: [1024, 4000],
            };
            udp(&addresses, FRAME)
        };
        let wheels = |fields: &'static [Field], first: u32, count: u32| Wheel {
            fields,
            first,
            count,
        };
        let clients = Ipv4Addr::new(10, 9, 0, 0);
        // More flows than a cache of exact flows holds: the quiet tenant has many clients.
        let quiet = vec![
            wheels(&[Field::Ipv4Src], u32::from(clients), 1024),
            wheels(&[Field::UdpSrc], 1024, 64),
        ];
        let flood = vec![wheels(&[Field::UdpSrc], 1024, 1024)];
        Ok(Self {
            ports,
            quiet: Plan::new(
                frame([clients, QUIET_GUEST]),
                Sequence::Wheels(quiet),
                Way::Unchanged,
            ),
            flood: Plan::new(
                frame([LOUD_GUEST, clients]),
                Sequence::Wheels(flood),
                Way::Unchanged,
            ),
            masks: Plan::new(
                frame([clients, LOUD_GUEST]),
                Sequence::Table(explosion().into()),
                Way::Unchanged,
            ),
            presence: Presence::of_this_thread()?,
            waiting: [
                Waiting::of(
                    std::process::id(),
                    rustix::thread::gettid().as_raw_nonzero().get() as u32,
                )?,
                Waiting::of(pid, tid)?,
            ],
            looked: 0,
            scene: 0,
            under_way: 0,
        })
    }

    /// Lets both tenants send for `seconds`, then waits for what is under way.
    ///
    /// # Errors
    /// If a port fails.
    pub fn play(&mut self, loud: Loud, quiet: Quiet, seconds: f64) -> Result<Outcome> {
        self.scene += 1;
        self.under_way = 0;
        let mut outcome = Outcome::default();
        let begin = tsc::now();
        let end = begin + (tsc::hz() * seconds) as u64;
        let mut quiet_pace = Pace::new(QUIET_PER_SECOND, begin);
        let mut mask_pace = Pace::new(MASKS_PER_SECOND, begin);
        let (mut alive, patience) = (begin, (tsc::hz() * LOST_AFTER_S) as u64);
        loop {
            let now = tsc::now();
            if now >= end {
                break;
            }
            self.look(now)?;
            let before = outcome.received;
            self.receive(quiet, &mut outcome)?;
            if outcome.received > before {
                alive = now;
            } else if now.wrapping_sub(alive) > patience {
                // Lost, or the loop would stand still for ever.
                (self.under_way, alive) = (0, now);
            }
            match quiet {
                Quiet::Paced if quiet_pace.due(now) => {
                    self.send_stamped()?;
                    outcome.sent += 1;
                }
                Quiet::Loop if self.under_way + BURST as u64 <= WINDOW => {
                    let count = self.ports[0].room(BURST)?;
                    self.ports[0].send_next(&mut self.quiet, count)?;
                    outcome.sent += count as u64;
                    self.under_way += count as u64;
                }
                _ => {}
            }
            match loud {
                Loud::Flood => {
                    let count = self.ports[2].room(BURST)?;
                    if count > 0 {
                        self.ports[2].send_next(&mut self.flood, count)?;
                    }
                    outcome.loud += count as u64;
                }
                Loud::Explosion if mask_pace.due(now) => {
                    let count = self.ports[0].room(1)?;
                    self.ports[0].send_next(&mut self.masks, count)?;
                    outcome.loud += count as u64;
                }
                _ => {}
            }
        }
        outcome.seconds = (tsc::now() - begin) as f64 / tsc::hz();
        let patience = tsc::now() + patience;
        while tsc::now() < patience && outcome.received < outcome.sent {
            let now = tsc::now();
            self.look(now)?;
            self.receive(quiet, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Keeps the waiting times fresh.
    fn look(&mut self, now: u64) -> Result<()> {
        if self.presence.was_away(now)? {
            self.waiting[0].refresh()?;
        }
        if now.wrapping_sub(self.looked) as f64 > tsc::hz() * LOOK_S {
            self.looked = now;
            self.waiting[1].refresh()?;
        }
        Ok(())
    }

    fn waited_ns(&self) -> u64 {
        self.waiting.iter().map(Waiting::waited_ns).sum()
    }

    /// A sender that finds no room loses the frame: it counts as sent.
    fn send_stamped(&mut self) -> Result<()> {
        let mut frame = [0; FRAME];
        frame.copy_from_slice(self.quiet.step());
        if self.ports[0].room(1)? == 0 {
            return Ok(());
        }
        frame[SCENE_AT..SCENE_AT + 4].copy_from_slice(&self.scene.to_le_bytes());
        frame[WAITED_AT..WAITED_AT + 8].copy_from_slice(&self.waited_ns().to_le_bytes());
        frame[STAMP_AT..STAMP_AT + 8].copy_from_slice(&tsc::now().to_le_bytes());
        self.ports[0].send(&frame)?;
        Ok(())
    }

    fn receive(&mut self, quiet: Quiet, outcome: &mut Outcome) -> Result<()> {
        for number in 0..self.ports.len() {
            let mut stamps = [(0, 0, 0); 2 * BURST];
            let mut count = 0;
            let mut arrivals = self.ports[number].arrivals(stamps.len())?;
            while let Some((len, entry)) = arrivals.take()? {
                if number != QUIET_PORT || len != FRAME {
                    continue;
                }
                if quiet == Quiet::Paced {
                    let mut frame = [0; FRAME];
                    arrivals.read(entry, &mut frame);
                    stamps[count] = (
                        word(&frame, STAMP_AT),
                        word(&frame, WAITED_AT),
                        word(&frame, SCENE_AT) as u32,
                    );
                }
                count += 1;
            }
            arrivals.accept()?;
            if quiet == Quiet::Loop {
                // What a paced scene left over was waited for.
                self.under_way = self.under_way.saturating_sub(count as u64);
                outcome.received += count as u64;
                continue;
            }
            for (stamp, waited, scene) in &stamps[..count] {
                if *scene == self.scene {
                    self.arrived(*stamp, *waited, outcome)?;
                }
            }
        }
        Ok(())
    }

    fn arrived(&mut self, stamp: u64, waited: u64, outcome: &mut Outcome) -> Result<()> {
        outcome.received += 1;
        let now = tsc::now();
        let latency = now.saturating_sub(stamp);
        let seconds = latency as f64 / tsc::hz();
        if seconds > LONG_S {
            self.looked = now;
            self.waiting[1].refresh()?;
            let waiting = self.waited_ns().saturating_sub(waited) as f64 / 1e9;
            if waiting > seconds * MOST_WAITING {
                outcome.excluded += 1;
                return Ok(());
            }
        }
        outcome.latency.record(latency);
        Ok(())
    }
}

fn word(frame: &[u8; FRAME], at: usize) -> u64 {
    let mut word = [0; 8];
    let bytes = &frame[at..FRAME.min(at + 8)];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A cache that keeps, per field, no more bits than up to the first that differs from the rule.
    #[test]
    fn every_frame_of_the_explosion_makes_a_mask_of_its_own() {
        let masks: HashSet<(u32, u32, u32)> = explosion()
            .iter()
            .map(|tuple| {
                (
                    (u32::from(tuple.ipv4[0]) ^ ALLOWED_SOURCE).leading_zeros(),
                    (tuple.udp[0] ^ ALLOWED_UDP_SRC).leading_zeros(),
                    (tuple.udp[1] ^ ALLOWED_UDP_DST).leading_zeros(),
                )
            })
            .collect();
        assert_eq!(masks.len(), 32 * 16 * 16);
        assert!(
            explosion()
                .iter()
                .all(|tuple| tuple.udp[1] != ALLOWED_UDP_DST && tuple.udp[0] != ALLOWED_UDP_SRC),
            "all of them are denied"
        );
    }

    #[test]
    fn a_pace_keeps_its_rate_and_makes_up_for_nothing() {
        let mut pace = Pace { gap: 10, next: 100 };
        let sent: Vec<u64> = (95..150).filter(|now| pace.due(*now)).collect();
        assert_eq!(sent, [100, 110, 120, 130, 140]);
        // A long absence: the one that is due, and one more at most.
        assert_eq!((1000..1015).filter(|now| pace.due(*now)).count(), 3);
    }
}

//! Frames that are known by their bytes, from one guest's ring to another's without being parsed: those at the front of a burst, up to the first of any other kind, so that frames
//! keep their order. What they are known by, and why that is enough: [`sumeru_packet::plain`] and the cache's slots of that name.
#![allow(unsafe_code)]

use super::{Source, SwitchWorker, sender_of};
use crate::cache::{Cache, Quick, Realm};
use crate::classifier::Stamps;
use crate::egress::PlainFrame;
use crate::frame::{BURST, PortIndex};
use crate::lane::open_receiver;
use crate::net_header::{Lead, NetHeader};
use crate::program::Tunnel;
use crate::ring::{Sent, Taken};
use crate::stats::Stage;
use sumeru_packet::ParseOptions;
use sumeru_packet::headroom::ROOM;
use sumeru_packet::plain::wrapped::{FRONT, FrontKey};
use sumeru_packet::plain::{self, PlainKey};

/// The frames of a burst that may be known: how they begin, and where their bytes are looked up.
pub struct Heads {
    frames: Box<[PlainFrame; BURST]>,
    runs: Box<[Run; BURST]>,
}

/// Frames in a row whose bytes agree where they matter.
#[derive(Clone, Copy)]
struct Run {
    key: PlainKey,
    /// Under what their bytes are looked up.
    realm: Realm,
    place: usize,
    /// The first of them.
    start: usize,
}

impl Heads {
    /// Reads the frames at the front of a burst that may be known, and asks for what is known of them. Answers how many, and how many runs they make.
    ///
    /// # Safety
    /// The memory behind the chains is mapped.
    #[inline(always)]
    unsafe fn read(
        &mut self,
        taken: &[Taken],
        lead: Lead,
        (cache, port): (&Cache, PortIndex),
    ) -> (usize, usize) {
        let Some(masks) = cache.plain_masks(port) else {
            return (0, 0);
        };
        let own = cache.plain_spread(port.into());
        let (mut count, mut runs, mut last) = (0, 0, (PlainKey::NONE, 0));
        let mut met = (FrontKey::NONE, 0);
        for (taken, frame) in taken.iter().zip(&mut *self.frames) {
            let Some(buffer) = taken.single() else {
                break;
            };
            // SAFETY: the caller's word.
            if !unsafe { frame.read(buffer, lead) } {
                break;
            }
            let (key, realm) = match &masks.wrapped {
                Some(mask) if mask.may_be(&frame.bytes) => {
                    // SAFETY: as above.
                    let Some((front, key)) = (unsafe { frame.unwrap(mask) }) else {
                        break;
                    };
                    if front != met.0 {
                        let Some(realm) = cache.realm(&front, port) else {
                            break;
                        };
                        met = (front, realm);
                    }
                    (key, met.1)
                }
                _ => match masks.plain.read(&frame.bytes, frame.frame_len() as usize) {
                    Some(key) => (key, Realm::from(port)),
                    None => break,
                },
            };
            if (key, realm) != last {
                let Some(run) = self.runs.get_mut(runs) else {
                    break;
                };
                let spread = if realm == Realm::from(port) {
                    own
                } else {
                    cache.plain_spread(realm)
                };
                *run = Run {
                    key,
                    realm,
                    place: cache.plain_place(&key, &spread),
                    start: count,
                };
                runs += 1;
                last = (key, realm);
            }
            count += 1;
        }
        (count, runs)
    }
}

impl Default for Heads {
    fn default() -> Self {
        let none = Run {
            key: PlainKey::NONE,
            realm: 0,
            place: 0,
            start: 0,
        };
        Self {
            frames: Box::new([PlainFrame::EMPTY; BURST]),
            runs: Box::new([none; BURST]),
        }
    }
}

impl SwitchWorker {
    /// Sends off the frames at the front of a burst of `count` that are known by their bytes, and counts them. Answers how many.
    #[inline(always)]
    pub(super) fn express(
        &mut self,
        source: Source,
        count: usize,
        lead: Lead,
        options: &ParseOptions,
    ) -> usize {
        let Self {
            cache,
            lane,
            rules,
            heads,
            ..
        } = self;
        let from = source.port;
        // Who looks is told what a frame is.
        if lane.is_watched(from) {
            return 0;
        }
        if !cache.asks_plain(from, options) {
            return 0;
        }
        let Some(sender) = sender_of(&mut lane.ports, source) else {
            return 0;
        };
        let taken = &sender.taken()[..count];
        // SAFETY: the chains were translated this burst; the queue on this lcore keeps the memory.
        let (asked, runs) = unsafe { heads.read(taken, lead, (cache, from)) };
        let frames = &heads.frames[..asked];
        let mut runs = heads.runs[..runs].iter();
        let stamps = rules.rules.stamps();
        let (mut done, mut bytes, mut encapsulated, mut unwrapped) = (0, 0, 0, 0);
        let mut next = known(cache, runs.next(), stamps);
        while let Some((Quick { port, .. }, ..)) = next {
            let Some((receiver, counters, max_frame)) = open_receiver(&mut lane.ports, port) else {
                break;
            };
            receiver.fetch_index();
            let mut sent = Sent::default();
            while let Some((quick, entry, realm)) = next.filter(|(quick, ..)| quick.port == port) {
                let end = runs.as_slice().first().map_or(asked, |run| run.start);
                let (run, left) = (&frames[done..end], asked - done);
                // SAFETY: as above.
                let went = unsafe {
                    match cache.tunnel(&quick) {
                        None => {
                            receiver.send_plain(run, left, max_frame, &mut sent, |_, _| Some(&[]))
                        }
                        Some(tunnel) => {
                            receiver.send_plain(run, left, max_frame, &mut sent, |frame, room| {
                                front(tunnel, frame, room)
                            })
                        }
                    }
                };
                let mut run_bytes: u64 = run[..went]
                    .iter()
                    .map(|frame| u64::from(frame.frame_len()))
                    .sum();
                if realm != Realm::from(from) {
                    run_bytes += (went * FRONT) as u64;
                    unwrapped += went as u64;
                }
                cache.met(entry, went);
                if let Some(counter) = quick.counter() {
                    lane.rule_counters.add(counter, went as u64, run_bytes);
                }
                if quick.is_tunnelled() {
                    encapsulated += went as u64;
                }
                bytes += run_bytes;
                done += went;
                next = if went == run.len() {
                    known(cache, runs.next(), stamps)
                } else {
                    None
                };
            }
            receiver.finish_plain();
            counters.tx_packets.add(sent.packets);
            counters.tx_bytes.add(sent.bytes);
            lane.went(from, port);
        }
        cache.asked_plain(from, done, count - done);
        if encapsulated != 0 {
            lane.counters.passed(Stage::Encapsulate, encapsulated);
        }
        if unwrapped != 0 {
            lane.counters.passed(Stage::Decapsulate, unwrapped);
        }
        self.count_express(source, done as u64, bytes);
        done
    }

    #[inline(always)]
    fn count_express(&mut self, source: Source, packets: u64, bytes: u64) {
        if let Some(Some(from)) = self.lane.ports.get(usize::from(source.port)) {
            from.counters.rx_packets.add(packets);
            from.counters.rx_bytes.add(bytes);
            if let Some(pair) = from.counters.pairs.get(source.pair) {
                pair.rx_packets.add(packets);
                pair.rx_bytes.add(bytes);
            }
        }
        for stage in [Stage::Receive, Stage::Known, Stage::Transmit] {
            self.lane.counters.passed(stage, packets);
        }
    }
}

/// What is known of the frames of a run: what is done with them, their entry, and under what they were looked up.
#[inline(always)]
fn known(cache: &mut Cache, run: Option<&Run>, stamps: &Stamps) -> Option<(Quick, u32, Realm)> {
    let run = run?;
    let (entry, quick) = cache.known(&run.key, run.place, run.realm, stamps)?;
    Some((quick, entry, run.realm))
}

/// The tunnel's headers that a known frame gets; `None` when it is not to be sent like this.
#[inline(always)]
fn front<'a>(tunnel: &Tunnel, frame: &PlainFrame, room: &'a mut [u8; ROOM]) -> Option<&'a [u8]> {
    // A sum that is left to do would have to be told from where the frame is then.
    if frame.lead != NetHeader::NONE {
        return None;
    }
    let (len, entropy) = (frame.frame_len(), plain::entropy(&frame.bytes));
    let headers = &tunnel.headers;
    let put = headers.front(&frame.bytes, len as usize, entropy, room)?;
    let outer_len = put as u32 - u32::from(headers.l3()) + len;
    (outer_len <= u32::from(tunnel.mtu)).then_some(&room[..put])
}

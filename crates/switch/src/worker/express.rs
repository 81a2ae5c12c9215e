//! Frames that are known by their bytes, from one guest's ring to another's without being parsed: those at the front of a burst, up to the first of any other kind, so that frames
//! keep their order. What they are known by, and why that is enough: [`sumeru_packet::plain`] and the cache's slots of that name.
#![allow(unsafe_code)]

use std::sync::atomic::{Ordering, compiler_fence};

use super::{Source, SwitchWorker, sender_of};
use crate::cache::{Cache, Known, Met, Realm, Way, realm_of};
use crate::classifier::Stamps;
use crate::conntrack::{ConnRef, Direction};
use crate::egress::PlainFrame;
use crate::frame::{BURST, PortIndex};
use crate::lane::{Connections, open_receiver};
use crate::net_header::{Lead, NetHeader};
use crate::program::Tunnel;
use crate::ring::{Leave, Sent, Taken};
use crate::stats::Stage;
use crate::track;
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
    /// What they met before.
    known: Known,
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
        let own = realm_of(port);
        let own_spread = cache.plain_spread(own);
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
                    Some(key) => (key, own),
                    None => break,
                },
            };
            if (key, realm) != last {
                let Some(run) = self.runs.get_mut(runs) else {
                    break;
                };
                let spread = if realm == own {
                    own_spread
                } else {
                    cache.plain_spread(realm)
                };
                *run = Run {
                    key,
                    realm,
                    place: cache.plain_place(&key, &spread),
                    known: Known::NONE,
                    start: count,
                };
                runs += 1;
                last = (key, realm);
            }
            count += 1;
        }
        (count, runs)
    }

    /// Looks up the frames of so many runs. If more is known than near caches hold, what was met is asked for: the entries and the connections.
    #[inline(always)]
    fn look_up(
        &mut self,
        runs: usize,
        cache: &Cache,
        far: bool,
        connections: Option<&Connections>,
    ) {
        for run in &mut self.runs[..runs] {
            let Some(known) = cache.look_up(&run.key, run.place, run.realm) else {
                // No entry: nothing goes on from here.
                break;
            };
            run.known = known;
            if far {
                cache.prefetch_known(&known);
                if let Some(connections) = connections {
                    connections.table.prefetch_hot(known.connection);
                }
            }
        }
    }
}

impl Default for Heads {
    fn default() -> Self {
        let none = Run {
            key: PlainKey::NONE,
            realm: 0,
            place: 0,
            known: Known::NONE,
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
        let connections = lane.connections.as_deref();
        heads.look_up(runs, cache, cache.is_large(from), connections);
        let frames = &heads.frames[..asked];
        let mut runs = heads.runs[..runs].iter();
        let stamps = rules.rules.stamps();
        let (mut done, mut bytes) = (0, 0);
        let (mut encapsulated, mut unwrapped) = (0, 0);
        let mut next = meet(cache, runs.next(), stamps);
        while let Some((Met { quick, .. }, _)) = next {
            let port = quick.port;
            let Some((receiver, counters, max_frame)) = open_receiver(&mut lane.ports, port) else {
                break;
            };
            receiver.fetch_index();
            let mut sent = Sent::default();
            while let Some((met, realm)) = next.filter(|(met, _)| met.quick.port == port) {
                let end = runs.as_slice().first().map_or(asked, |run| run.start);
                let (run, left) = (&frames[done..end], asked - done);
                // SAFETY: as above.
                let went = unsafe {
                    match met.way {
                        Way::Direct => receiver.send_plain(run, left, max_frame, &mut sent, Direct),
                        Way::Into(number) => match cache.tunnel(number) {
                            Some(tunnel) => {
                                let way = Into(tunnel);
                                receiver.send_plain(run, left, max_frame, &mut sent, way)
                            }
                            None => 0,
                        },
                        Way::Follow(conn, direction, decision) => match &mut lane.connections {
                            Some(connections) => {
                                let way = Follow {
                                    connections,
                                    about: (conn, direction, decision),
                                    window: None,
                                };
                                receiver.send_plain(run, left, max_frame, &mut sent, way)
                            }
                            None => 0,
                        },
                    }
                };
                let mut run_bytes: u64 = run[..went]
                    .iter()
                    .map(|frame| u64::from(frame.frame_len()))
                    .sum();
                if realm != realm_of(from) {
                    run_bytes += (went * FRONT) as u64;
                    unwrapped += went as u64;
                }
                if matches!(met.way, Way::Into(_)) {
                    encapsulated += went as u64;
                }
                cache.met(met.entry, went);
                if let Some(counter) = met.quick.counter() {
                    lane.rule_counters.add(counter, went as u64, run_bytes);
                }
                bytes += run_bytes;
                done += went;
                next = if went == run.len() {
                    meet(cache, runs.next(), stamps)
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

/// What is done with the frames of a run, and under what they were looked up.
#[inline(always)]
fn meet(cache: &mut Cache, run: Option<&Run>, stamps: &Stamps) -> Option<(Met, Realm)> {
    let run = run?;
    Some((cache.meet(&run.known, stamps)?, run.realm))
}

/// As they are.
struct Direct;

impl Leave for Direct {}

/// Into a tunnel.
struct Into<'a>(&'a Tunnel);

impl Leave for Into<'_> {
    #[inline(always)]
    fn front<'a>(&mut self, frame: &PlainFrame, room: &'a mut [u8; ROOM]) -> Option<&'a [u8]> {
        // A sum that is left to do would have to be told from where the frame is then.
        if frame.lead != NetHeader::NONE {
            return None;
        }
        let (len, entropy) = (frame.frame_len(), plain::entropy(&frame.bytes));
        let headers = &self.0.headers;
        let put = headers.front(&frame.bytes, len as usize, entropy, room)?;
        let outer_len = put as u32 - u32::from(headers.l3()) + len;
        (outer_len <= u32::from(self.0.mtu)).then_some(&room[..put])
    }
}

/// As part of a connection.
struct Follow<'a> {
    connections: &'a mut Connections,
    /// Which, the frames' direction, and as what the decision takes it for granted.
    about: (ConnRef, Direction, u32),
    /// The window of a TCP segment.
    window: Option<[u8; 2]>,
}

impl Leave for Follow<'_> {
    #[inline(always)]
    fn admits(&mut self, frame: &PlainFrame) -> bool {
        self.window = None;
        if plain::is_tcp(&frame.bytes) {
            // SAFETY: the frame is of the burst in hand, whose memory is mapped.
            self.window = unsafe { frame.rest.read_array(0) };
            // What is judged and what is sent is the copy, which the compiler must not take for the original.
            compiler_fence(Ordering::AcqRel);
            if self.window.is_none() {
                return false;
            }
        }
        let (conn, direction, decision) = self.about;
        let window = self.window.unwrap_or_default();
        let packet = track::plain_packet(frame, window, self.connections.now);
        let table = &mut self.connections.table;
        table.follow(conn, direction, decision, &packet)
    }

    #[inline(always)]
    fn seen(&self) -> &[u8] {
        self.window.as_ref().map_or(&[], |window| window)
    }
}

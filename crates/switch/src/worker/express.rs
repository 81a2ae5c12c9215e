//! Frames that are known by their bytes, from one guest's ring to another's without being parsed: those at the front of a burst, up to the first of any other kind, so that frames
//! keep their order. What they are known by, and why that is enough: [`sumeru_packet::plain`] and the cache's slots of that name.
#![allow(unsafe_code)]

use super::{Source, SwitchWorker, sender_of};
use crate::cache::{Cache, Quick};
use crate::egress::PlainFrame;
use crate::frame::{BURST, PortIndex};
use crate::lane::open_receiver;
use crate::net_header::NetHeader;
use crate::ring::{Sent, Taken};
use crate::stats::Stage;
use sumeru_packet::ParseOptions;
use sumeru_packet::headroom::ROOM;
use sumeru_packet::plain::{self, PlainKey, PlainMask};

/// The frames of a burst that may be known: how they begin, and where their bytes are looked up.
pub struct Heads(Box<[Head; BURST]>);

#[derive(Clone, Copy)]
struct Head {
    frame: PlainFrame,
    key: PlainKey,
    place: usize,
}

impl Heads {
    /// Reads the frames at the front of a burst that may be known, and asks for what is known of them. Answers how many.
    ///
    /// # Safety
    /// The memory behind the chains is mapped.
    #[inline(always)]
    unsafe fn read(
        &mut self,
        taken: &[Taken],
        net_header_len: u16,
        mask: &PlainMask,
        (cache, port): (&Cache, PortIndex),
    ) -> usize {
        let mut count = 0;
        for (taken, head) in taken.iter().zip(&mut *self.0) {
            let Some(buffer) = taken.single() else {
                break;
            };
            // SAFETY: the caller's word.
            if !unsafe { head.frame.read(buffer, net_header_len.into()) } {
                break;
            }
            let frame = &head.frame;
            let Some(key) = mask.read(&frame.bytes, frame.frame_len() as usize) else {
                break;
            };
            head.key = key;
            head.place = cache.plain_place(&head.key, port);
            count += 1;
        }
        count
    }
}

impl Default for Heads {
    fn default() -> Self {
        let none = Head {
            frame: PlainFrame::EMPTY,
            key: PlainKey::NONE,
            place: 0,
        };
        Self(Box::new([none; BURST]))
    }
}

impl SwitchWorker {
    /// Sends off the frames at the front of a burst of `count` that are known by their bytes, and counts them. Answers how many.
    #[inline(always)]
    pub(super) fn express(
        &mut self,
        source: Source,
        count: usize,
        net_header_len: u16,
        options: &ParseOptions,
    ) -> usize {
        let Self {
            cache,
            lane,
            rules,
            heads,
            ..
        } = self;
        // Who looks is told what a frame is.
        if lane.is_watched(source.port) {
            return 0;
        }
        let Some(mask) = cache.plain_mask(source.port, options) else {
            return 0;
        };
        let Some(sender) = sender_of(&mut lane.ports, source) else {
            return 0;
        };
        let taken = &sender.taken()[..count];
        // SAFETY: the chains were translated this burst; the queue on this lcore keeps the memory.
        let asked = unsafe { heads.read(taken, net_header_len, &mask, (cache, source.port)) };
        let heads = &heads.0[..asked];
        let stamps = rules.rules.stamps();
        let known = |cache: &mut Cache, place: usize| {
            let head = heads.get(place)?;
            cache.known(&head.key, head.place, source.port, stamps)
        };
        let (mut done, mut bytes, mut encapsulated) = (0, 0, 0);
        let mut room = [0; ROOM];
        let mut next = known(cache, 0);
        while let Some(Quick { port, .. }) = next {
            let Some((receiver, counters, max_frame)) = open_receiver(&mut lane.ports, port) else {
                break;
            };
            receiver.fetch_index();
            let mut sent = Sent::default();
            while let Some(quick) = next.filter(|quick| quick.port == port) {
                let frame = &heads[done].frame;
                let (len, left) = (frame.frame_len(), asked - done);
                let front = front(cache, &quick, frame, &mut room).filter(|front| {
                    // SAFETY: as above.
                    unsafe { receiver.send_plain(frame, front, left, max_frame) }
                });
                let Some(front) = front else {
                    next = None;
                    break;
                };
                encapsulated += u64::from(!front.is_empty());
                if let Some(counter) = quick.counter() {
                    lane.rule_counters.count(counter, len);
                }
                sent.packets += 1;
                sent.bytes += front.len() as u64 + u64::from(len);
                bytes += u64::from(len);
                done += 1;
                next = known(cache, done);
            }
            receiver.finish_plain();
            counters.tx_packets.add(sent.packets);
            counters.tx_bytes.add(sent.bytes);
            lane.went(source.port, port);
        }
        cache.asked_plain(source.port, done, count - done);
        if encapsulated != 0 {
            lane.counters.passed(Stage::Encapsulate, encapsulated);
        }
        self.count_express(source.port, done as u64, bytes);
        done
    }

    #[inline(always)]
    fn count_express(&mut self, from: PortIndex, packets: u64, bytes: u64) {
        if let Some(Some(from)) = self.lane.ports.get(usize::from(from)) {
            from.counters.rx_packets.add(packets);
            from.counters.rx_bytes.add(bytes);
        }
        for stage in [Stage::Receive, Stage::Known, Stage::Transmit] {
            self.lane.counters.passed(stage, packets);
        }
    }
}

/// The tunnel's headers that a known frame gets, if it gets any; `None` when it is not to be sent like this.
#[inline(always)]
fn front<'a>(
    cache: &Cache,
    quick: &Quick,
    frame: &PlainFrame,
    room: &'a mut [u8; ROOM],
) -> Option<&'a [u8]> {
    if !quick.is_tunnelled() {
        return Some(&[]);
    }
    let tunnel = cache.tunnel(quick)?;
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

//! Frames and their connections on the fast path: whether a decision holds, and what is asked for ahead.

use super::{Lane, Outcome};
use crate::conntrack::{CtPacket, Tuple, Verdict};
use crate::frame::Frame;
use crate::program::Op;
use crate::track::{self, Known, Track, Tracks};
use sumeru_packet::Layer;
use sumeru_packet::tcp::HEADER_LONGEST;

impl Lane {
    /// Runs a program on frame `index` of the burst if its connections are as they were when it was made.
    #[inline(always)]
    pub fn execute_tracked(
        &mut self,
        index: usize,
        track: Track,
        ops: &[Op],
        counter: Option<u32>,
    ) -> Outcome {
        if let [splice @ Op::Splice(_, true), rest @ ..] = ops {
            return self.execute_spliced(index, track, splice, rest, counter);
        }
        self.execute_moved(index, track, ops, counter)
    }

    #[inline(always)]
    fn execute_moved(
        &mut self,
        index: usize,
        track: Track,
        ops: &[Op],
        counter: Option<u32>,
    ) -> Outcome {
        if let Err(known) = self.holds(index, &track, 0) {
            return Outcome::Outdated(known);
        }
        let mut rest = ops;
        let mut tracks = Tracks::new();
        tracks.push(track);
        while let [Op::Track(track), more @ ..] = rest {
            if let Err(known) = self.holds(index, track, tracks.len()) {
                // The frame has been tracked in the zones before; what the table said there is not kept.
                return Outcome::Outdated(known);
            }
            let _ = tracks.try_push(*track);
            rest = more;
        }
        self.execute_with(index, &tracks, rest, counter)
    }

    /// The same for what a protected guest sends on a spliced connection: everybody sees the numbers that its client knows. A frame that has to be decided
    /// anew is as it came.
    #[inline(never)]
    fn execute_spliced(
        &mut self,
        index: usize,
        track: Track,
        splice: &Op,
        ops: &[Op],
        counter: Option<u32>,
    ) -> Outcome {
        let at = usize::from(self.frames[index].layout.outer().l4);
        let mut before = [0; HEADER_LONGEST];
        let tcp = self.frames[index]
            .header
            .header()
            .get(at..)
            .unwrap_or_default();
        let len = tcp.len().min(HEADER_LONGEST);
        before[..len].copy_from_slice(&tcp[..len]);
        if let Err(reason) = self.edit(index, splice) {
            return self.dropped(index, reason);
        }
        let outcome = self.execute_moved(index, track, ops, counter);
        if let (Outcome::Outdated(_), Some(tcp)) = (
            outcome,
            self.frames[index].header.header_mut().get_mut(at..at + len),
        ) {
            tcp.copy_from_slice(&before[..len]);
        }
        outcome
    }

    /// Whether a frame's connection is as a decision takes it for granted; if not, what the table says of it.
    #[inline(always)]
    fn holds(&mut self, index: usize, track: &Track, number: usize) -> Result<(), Known> {
        let Some(connections) = &mut self.connections else {
            return Err(None);
        };
        let frame = &self.frames[index];
        match *track {
            Track::Connection {
                conn,
                direction,
                inner,
                decision,
            } => {
                let packet = track::packet(frame, inner, connections.now);
                let verdict = connections.table.track(conn, direction, &packet);
                if verdict.decision() == decision {
                    Ok(())
                } else if verdict == Verdict::STALE {
                    Err(None)
                } else {
                    Err(Some((conn, direction, verdict)))
                }
            }
            Track::None {
                zone,
                inner,
                decision,
            } => {
                let Some((tuple, packet)) = opener(frame, zone, inner, connections.now) else {
                    // Of no protocol that has connections.
                    return match decision == Verdict::INVALID.decision() {
                        true => Ok(()),
                        false => Err(None),
                    };
                };
                let table = &connections.table;
                let tags = match number == 0 && self.tagged == Some((zone, inner)) {
                    true => self.tags[index],
                    false => table.tags(&tuple),
                };
                let found = table.lookup_tagged(&tuple, tags, connections.now);
                if found.is_some() || table.classify(&tuple, &packet).decision() != decision {
                    return Err(None);
                }
                if let Some(place) = self.fresh.get_mut(number) {
                    *place = Some((tuple, tags, packet));
                }
                self.strangers = Some((zone, inner));
                Ok(())
            }
        }
    }

    /// Asks for what looking up a burst's frames will need, if those of the last one belonged to no connection: nothing cached leads there.
    #[inline(always)]
    pub fn expect_strangers(&mut self, alive: u32) {
        self.tagged = None;
        if let Some((zone, inner)) = self.strangers.take() {
            self.fetch_connections(alive, zone, inner);
        }
    }

    #[inline(never)]
    fn fetch_connections(&mut self, alive: u32, zone: u16, inner: bool) {
        let Some(connections) = &self.connections else {
            return;
        };
        let layer = if inner { Layer::Inner } else { Layer::Outer };
        for (index, (frame, tags)) in self.frames.iter().zip(&mut *self.tags).enumerate() {
            if alive >> index & 1 == 1
                && let Some(tuple) = track::tuple(&frame.key, layer, zone)
            {
                *tags = connections.table.tags(&tuple);
                connections.table.prefetch_entries(*tags);
            }
        }
        self.tagged = Some((zone, inner));
    }

    /// Takes note of what connections can be made of, for a decision that was made for this frame.
    pub fn freshen(&mut self, index: usize, tracks: &[Track]) {
        let Some(connections) = &self.connections else {
            return;
        };
        for (place, track) in self.fresh.iter_mut().zip(tracks) {
            *place = match *track {
                Track::None { zone, inner, .. } => {
                    opener(&self.frames[index], zone, inner, connections.now)
                        .map(|(tuple, packet)| (tuple, connections.table.tags(&tuple), packet))
                }
                Track::Connection { .. } => None,
            };
        }
    }
}

/// What a connection of a frame's is made of.
#[inline(always)]
fn opener(frame: &Frame, zone: u16, inner: bool, now: u64) -> Option<(Tuple, CtPacket)> {
    let layer = if inner { Layer::Inner } else { Layer::Outer };
    let tuple = track::tuple(&frame.key, layer, zone)?;
    Some((tuple, track::packet(frame, inner, now)))
}

//! Who looks at frames besides those who get them: captures, mirrors, flow meters. Frames are shown as they come in, before anything is done
//! to them, and as they go out.
#![allow(unsafe_code)]

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use sumeru_packet::build::Mirrored;
use sumeru_virtio::GuestSlice;

use super::{Lane, LocalPort, send};
use crate::capture::{Seen, Tap};
use crate::egress::Outgoing;
use crate::flow_export::Meter;
use crate::frame::{BURST, Frame, PortIndex};
use crate::mirror::{Mirror, Target};
use crate::net_header::Accepts;
use crate::selection::Direction;
use crate::stats::{DropReason, PipelineCounters, Stage};

/// Room for the headers in front of a mirrored frame.
const LEAD: usize = 128;
/// Most segments of one frame that go to a collector: those of the longest frame at an MSS of 1024. A guest that asks for more and shorter ones
/// costs the lcore no more than that.
const SEGMENTS_MAX: usize = 64;

/// Everybody who looks.
#[derive(Default)]
pub struct Observers {
    /// Captures, with the numbers by which they are taken away.
    pub taps: Vec<(u64, Tap)>,
    /// Mirrors.
    pub mirrors: Vec<Mirror>,
    /// Flow meters, likewise.
    pub meters: Vec<(u64, Meter)>,
    /// UDP port of VXLAN, for looking into tunnels.
    pub vxlan_port: u16,
    /// Copies for collectors that have not been sent yet.
    copies: Copies,
}

/// Copies for collectors, made one by one and sent together, so that a wire is flushed once for many.
#[derive(Default)]
struct Copies {
    /// By which port they leave.
    port: Option<PortIndex>,
    /// Their bytes, one behind the other.
    bytes: Vec<u8>,
    /// Where in these each of them is, a burst of them at most.
    places: ArrayVec<Range<usize>, BURST>,
    /// Room for as many frames.
    frames: Vec<Frame>,
    list: Vec<GuestSlice>,
}

impl Copies {
    /// Room for another one of `len` bytes behind the headers `lead`.
    fn room(&mut self, port: PortIndex, lead: &[u8], len: usize) -> &mut [u8] {
        self.port = Some(port);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(lead);
        let behind = self.bytes.len();
        self.bytes.resize(behind + len, 0);
        self.places.push(start..behind + len);
        &mut self.bytes[behind..]
    }

    /// Keeps no more than `len` bytes of the last one.
    fn cut(&mut self, len: usize) {
        if let Some(place) = self.places.last_mut() {
            place.end = place.start + len;
            self.bytes.truncate(place.end);
        }
    }

    /// Sends them by `port`.
    fn send(&mut self, port: &mut LocalPort, counters: &PipelineCounters) {
        self.frames.resize_with(BURST, Frame::new);
        self.list.clear();
        let frames = (0..).zip(&mut self.frames);
        for ((number, frame), place) in frames.zip(&self.places) {
            let Some(bytes) = self.bytes.get_mut(place.clone()) else {
                continue;
            };
            frame.load_own(bytes);
            frame.first_segment = number;
            self.list.push(GuestSlice::from_own(bytes));
        }
        let order: [u8; BURST] = std::array::from_fn(|at| at as u8);
        let order = &order[..self.list.len()];
        send(port, &self.frames, order, &[], &self.list, counters);
        self.places.clear();
        self.bytes.clear();
    }
}

impl Observers {
    /// Which frames of a port anybody looks at.
    fn of(&self, port: PortIndex) -> Watched {
        let taps = self.taps.iter().map(|(_, tap)| &tap.selector);
        let meters = self.meters.iter().map(|(_, meter)| meter.selector());
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.selector);
        let all = taps.chain(meters).chain(mirrors);
        let any = |direction| all.clone().any(|one| one.watches(port, direction));
        Watched {
            received: any(Direction::In),
            sent: any(Direction::Out),
        }
    }

    /// Whether nobody looks.
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty() && self.mirrors.is_empty() && self.meters.is_empty()
    }
}

/// Which of a port's frames somebody looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Some that come in.
    pub received: bool,
    /// Some that go out.
    pub sent: bool,
}

/// What captures keep of a frame whose fate is not known yet.
pub struct Sighting(Vec<(usize, Seen)>);

impl Lane {
    /// Takes note, at each port, whether its frames are looked at: others cost nothing.
    pub fn mark_watched(&mut self) {
        let ports = self.ports.iter_mut().enumerate();
        for (index, port) in ports.filter_map(|(index, port)| Some((index, port.as_mut()?))) {
            let observers = self.observers.as_deref();
            port.watched = observers.map_or(Watched::default(), |all| all.of(index as PortIndex));
        }
    }

    /// Shows a frame of the burst that came in.
    #[cold]
    pub fn see(&mut self, index: usize) -> Option<Sighting> {
        let mut observers = self.observers.take()?;
        let at = (self.frames[index].in_port, Direction::In);
        let (frame, list) = (&self.frames[index], &self.list);
        let port = observers.vxlan_port;
        let taps = observers.taps.iter_mut().enumerate();
        let copies: Vec<(usize, Seen)> = taps
            .filter_map(|(number, (_, tap))| Some((number, tap.copy(at, frame, list, port)?)))
            .collect();
        for (_, meter) in &mut observers.meters {
            meter.see(at, frame, port);
        }
        self.mirror(&mut observers, index, at);
        self.observers = Some(observers);
        (!copies.is_empty()).then_some(Sighting(copies))
    }

    /// Tells captures what became of a frame.
    #[cold]
    pub fn saw(&mut self, sighting: Sighting, dropped: Option<DropReason>) {
        let Some(observers) = &mut self.observers else {
            return;
        };
        for (number, mut seen) in sighting.0 {
            seen.dropped = dropped;
            if let Some((_, tap)) = observers.taps.get_mut(number) {
                tap.put(seen);
            }
        }
    }

    /// Shows frames of the burst that go out by a port.
    #[cold]
    pub(super) fn see_sent(&mut self, port: PortIndex, pending: &[u8]) {
        let Some(mut observers) = self.observers.take() else {
            return;
        };
        let at = (port, Direction::Out);
        for index in pending.iter().map(|index| usize::from(*index)) {
            let (frame, list) = (&self.frames[index], &self.list);
            for (_, tap) in &mut observers.taps {
                if let Some(seen) = tap.copy(at, frame, list, observers.vxlan_port) {
                    tap.put(seen);
                }
            }
            for (_, meter) in &mut observers.meters {
                meter.see(at, frame, observers.vxlan_port);
            }
            self.mirror(&mut observers, index, at);
        }
        self.observers = Some(observers);
        self.send_copies();
    }

    /// Sends the copies for collectors that the burst has come to.
    #[cold]
    pub fn send_copies(&mut self) {
        let Some(copies) = self.observers.as_mut().map(|all| &mut all.copies) else {
            return;
        };
        let Some(index) = copies.port.take() else {
            return;
        };
        if let Some(Some(port)) = self.ports.get_mut(usize::from(index)) {
            copies.send(port, &self.counters);
        }
        self.unsettled(index);
    }

    /// Lets flow meters look for flows that are over.
    #[cold]
    pub fn sweep_meters(&mut self) {
        if let Some(observers) = &mut self.observers {
            observers
                .meters
                .iter_mut()
                .for_each(|(_, meter)| meter.sweep());
        }
    }

    /// Sends copies of a frame where mirrors want them.
    fn mirror(
        &mut self,
        observers: &mut Observers,
        index: usize,
        (port, direction): (PortIndex, Direction),
    ) {
        let Observers {
            mirrors,
            copies,
            vxlan_port,
            ..
        } = observers;
        for mirror in mirrors {
            let frame = &self.frames[index];
            if !mirror.selector.takes(port, direction, frame, *vxlan_port) {
                continue;
            }
            match mirror.target {
                Target::Port(to) => self.mirror_to_port(index, to, mirror),
                Target::Collector { .. } => {
                    self.mirror_to_collector(index, direction, mirror, copies);
                }
            }
        }
    }

    fn mirror_to_port(&mut self, index: usize, to: PortIndex, mirror: &Mirror) {
        let frame = &self.frames[index];
        let Some(Some(port)) = self.ports.get_mut(usize::from(to)) else {
            mirror.counters.lost.add(1);
            return;
        };
        let before = port.counters.tx_packets.get();
        let one = std::slice::from_ref(frame);
        send(port, one, &[0], &[], &self.list, &self.counters);
        let sent = port.counters.tx_packets.get() - before;
        if sent == 0 {
            mirror.counters.lost.add(1);
        } else {
            mirror.counters.packets.add(sent);
            mirror.counters.bytes.add(frame.len.into());
            self.counters.passed(Stage::Mirror, sent);
        }
        self.unsettled(to);
    }

    /// Each segment that the frame would be cut into goes by itself, its checksums completed.
    fn mirror_to_collector(
        &mut self,
        index: usize,
        direction: Direction,
        mirror: &Mirror,
        copies: &mut Copies,
    ) {
        let counters = &*mirror.counters;
        let (
            Some((port, outer, mtu)),
            Target::Collector {
                header, snaplen, ..
            },
        ) = (&mirror.way, &mirror.target)
        else {
            counters.lost.add(1);
            return;
        };
        let frame = &self.frames[index];
        let Some(Some(local)) = self.ports.get_mut(usize::from(*port)) else {
            counters.lost.add(1);
            return;
        };
        let Ok(mut outgoing) = Outgoing::new(frame, &self.list, Accepts::default()) else {
            counters.lost.add(1);
            return;
        };
        let most = usize::from(*mtu).saturating_sub(outer.ip_len() + header.len());
        let most = most.min(*snaplen as usize);
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut mirrored = Mirrored {
            len: 0,
            truncated: false,
            sent: direction == Direction::Out,
            vlan_tci: tci(frame.header.header()),
            sequence: 0,
            timestamp: (elapsed.unwrap_or_default().as_micros() / 100) as u32,
        };
        while let Some(piece) = outgoing.next() {
            let whole = piece.len as usize;
            mirrored.len = whole.min(most);
            mirrored.truncated = mirrored.len < whole;
            mirrored.sequence = counters.packets.get() as u32;
            let mut lead = [0; LEAD];
            let lead_len = header.write(&mut lead, outer, &mirrored);
            let Some(lead) = lead_len.ok().and_then(|len| lead.get(..len)) else {
                counters.lost.add(1);
                continue;
            };
            if piece.index >= SEGMENTS_MAX {
                counters.lost.add(1);
                continue;
            }
            let room = copies.room(*port, lead, whole);
            // SAFETY: the frame is of the burst in hand, whose memory is mapped; the room is ours.
            unsafe { outgoing.write(&piece, &[], &[GuestSlice::from_own(room)]) };
            copies.cut(lead.len() + mirrored.len);
            counters.packets.add(1);
            counters.bytes.add(mirrored.len as u64);
            self.counters.passed(Stage::Mirror, 1);
            if copies.places.is_full() {
                copies.send(local, &self.counters);
            }
        }
    }
}

/// The tag of a frame, if it begins with one.
fn tci(bytes: &[u8]) -> Option<u16> {
    let tagged = matches!(bytes.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
    let tci = bytes.get(14..16)?.first_chunk::<2>()?;
    tagged.then(|| u16::from_be_bytes(*tci))
}

//! Who looks at frames besides those who get them: captures, mirrors, flow meters. Frames are shown as they come in, before anything is done
//! to them, and as they go out.
#![allow(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use sumeru_packet::build::Mirrored;
use sumeru_virtio::GuestSlice;

use super::{Lane, send};
use crate::capture::{Seen, Tap};
use crate::egress::Outgoing;
use crate::flow_export::Meter;
use crate::frame::{MAX_FRAME, PortIndex};
use crate::mirror::{Mirror, Target};
use crate::net_header::Accepts;
use crate::selection::Direction;
use crate::stats::{DropReason, Stage};

/// Room for the headers in front of a mirrored frame.
const LEAD: usize = 128;

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
    /// Room for a frame with other headers in front.
    scratch: Vec<u8>,
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
            scratch,
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
                    self.mirror_to_collector(index, direction, mirror, scratch);
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
        scratch: &mut Vec<u8>,
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
        scratch.resize(LEAD + MAX_FRAME as usize, 0);
        let tci = |bytes: &[u8]| {
            let tagged = matches!(bytes.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
            let tci = bytes.get(14..16)?.first_chunk::<2>()?;
            tagged.then(|| u16::from_be_bytes(*tci))
        };
        let vlan_tci = tci(self.frames[index].header.header());
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = (elapsed.unwrap_or_default().as_micros() / 100) as u32;
        let mut next = 0;
        loop {
            let frame = &self.frames[index];
            let Ok(mut outgoing) = Outgoing::new(frame, &self.list, Accepts::default()) else {
                counters.lost.add(1);
                return;
            };
            let Some(piece) = outgoing.nth(next) else {
                return;
            };
            next += 1;
            let Some(room) = scratch.get_mut(LEAD..LEAD + piece.len as usize) else {
                counters.lost.add(1);
                continue;
            };
            // SAFETY: the frame is of the burst in hand, whose memory is mapped; the room is ours.
            unsafe { outgoing.write(&piece, &[], &[GuestSlice::from_own(room)]) };
            let most = usize::from(*mtu).saturating_sub(outer.ip_len() + header.len());
            let len = (piece.len as usize).min(most).min(*snaplen as usize);
            let mirrored = Mirrored {
                len,
                truncated: len < piece.len as usize,
                sent: direction == Direction::Out,
                vlan_tci,
                sequence: counters.packets.get() as u32,
                timestamp,
            };
            let mut lead = [0; LEAD];
            let Ok(lead_len) = header.write(&mut lead, outer, &mirrored) else {
                counters.lost.add(1);
                continue;
            };
            let start = LEAD - lead_len;
            scratch[start..LEAD].copy_from_slice(&lead[..lead_len]);
            counters.packets.add(1);
            counters.bytes.add(len as u64);
            self.counters.passed(Stage::Mirror, 1);
            self.send_own(*port, &mut scratch[start..LEAD + len]);
        }
    }
}

//! Flow metering: what packets of a flow come to, told when a flow is over or goes on for long (RFC 7011, RFC 5470 section 5.1).
//!
//! An lcore keeps the flows of the ports that are metered in a table of bounded size and hands records to a thread that exports them. It never
//! waits for it. Ports that nobody meters cost nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sumeru_engine::spsc::Producer;
use sumeru_engine::{Counter, Tsc};
use sumeru_packet::field::VLAN_PRESENT;
use sumeru_packet::ipfix::{EndReason, Flow, Record};
use sumeru_packet::{Field, FlowKey, L3Kind, Layer, LayerLayout, Layout};

use crate::frame::{Frame, PortIndex};
use crate::net_header::Gso;
use crate::selection::{Direction, Selector, key_of};

/// Flows looked at for their end per millisecond, and at most at once.
const SWEEP_PER_MS: u64 = 64;
const SWEEP_MAX: u64 = 8192;

/// What a meter did; written by its lcore.
#[derive(Debug, Default)]
pub struct MeterCounters {
    /// Packets that were counted in a flow.
    pub packets: Counter,
    /// Packets that found the table full.
    pub unmetered: Counter,
    /// Records that the exporting thread had no room for.
    pub lost: Counter,
    /// Flows in the table.
    pub flows: Counter,
}

/// How long flows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Milliseconds after which a flow that goes on is told of.
    pub active_ms: u64,
    /// Milliseconds without a packet after which a flow is over.
    pub idle_ms: u64,
}

/// A flow in the table. The record's times are those of the wall, which may be set; these are the lcore's.
struct Live {
    record: Record,
    /// First packet since it was told of last.
    started: Tsc,
    /// Last packet.
    seen: Tsc,
}

/// A flow meter on an lcore.
pub struct Meter {
    selector: Selector,
    sampling: u32,
    /// Ticks, as [`Timeouts`].
    active: u64,
    idle: u64,
    most: usize,
    index: HashMap<Flow, u32>,
    /// Flows in no order; each is found by the index.
    flows: Vec<Live>,
    /// Where the next look for old ones begins.
    next: usize,
    swept: Tsc,
    to: Producer<Record>,
    counters: Arc<MeterCounters>,
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.unwrap_or_default().as_millis() as u64
}

impl Meter {
    /// Which frames it is about.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// A meter of at most `most` flows at a time.
    pub fn new(
        (selector, sampling): (Selector, u32),
        timeouts: Timeouts,
        most: usize,
        to: Producer<Record>,
        counters: Arc<MeterCounters>,
    ) -> Self {
        Self {
            selector,
            sampling,
            active: Tsc::ticks(Duration::from_millis(timeouts.active_ms)),
            idle: Tsc::ticks(Duration::from_millis(timeouts.idle_ms)),
            most,
            index: HashMap::with_capacity(most),
            flows: Vec::with_capacity(most),
            next: 0,
            swept: Tsc::now(),
            to,
            counters,
        }
    }

    /// Counts a frame at a port, if it is wanted and IP.
    pub fn see(
        &mut self,
        (port, direction): (PortIndex, Direction),
        frame: &Frame,
        vxlan_port: u16,
    ) {
        if !self.selector.takes(port, direction, frame, vxlan_port) {
            return;
        }
        let Some((key, layout)) = key_of(frame, vxlan_port) else {
            return;
        };
        if let Some(flow) = flow_of(&key, port, direction) {
            let tcp_flags = key.get(Field::TcpFlags(Layer::Outer)) as u8;
            let (packets, octets) = sizes(frame, &layout);
            self.count(flow, tcp_flags, packets, octets, now_ms());
        }
    }

    fn count(&mut self, flow: Flow, tcp_flags: u8, packets: u64, octets: u64, now: u64) {
        let ticks = Tsc::now();
        let full = self.flows.len() >= self.most;
        let at = match self.index.entry(flow) {
            Entry::Occupied(at) => *at.get() as usize,
            Entry::Vacant(_) if full => {
                self.counters.unmetered.add(packets);
                return;
            }
            Entry::Vacant(at) => {
                at.insert(self.flows.len() as u32);
                let record = Record {
                    flow,
                    tcp_flags: 0,
                    packets: 0,
                    octets: 0,
                    start_ms: now,
                    end_ms: now,
                    reason: EndReason::Active,
                    sampling: self.sampling,
                };
                self.flows.push(Live {
                    record,
                    started: ticks,
                    seen: ticks,
                });
                self.counters.flows.set(self.flows.len() as u64);
                self.flows.len() - 1
            }
        };
        self.counters.packets.add(packets);
        let Some(live) = self.flows.get_mut(at) else {
            return;
        };
        live.seen = ticks;
        let record = &mut live.record;
        if record.packets == 0 {
            // The first since it was told of last.
            record.start_ms = now;
            live.started = ticks;
        }
        record.tcp_flags |= tcp_flags;
        record.packets += packets;
        record.octets += octets;
        record.end_ms = now.max(record.start_ms);
    }

    /// Tells of flows that are over or due, a part of the table at a time.
    pub fn sweep(&mut self) {
        let now = Tsc::now();
        let elapsed = Tsc::duration(now.since(self.swept)).as_millis() as u64;
        if elapsed == 0 {
            return;
        }
        self.swept = now;
        let looks = (elapsed * SWEEP_PER_MS).min(SWEEP_MAX);
        for _ in 0..looks.min(self.flows.len() as u64) {
            if self.next >= self.flows.len() {
                self.next = 0;
            }
            let Some(live) = self.flows.get_mut(self.next) else {
                return;
            };
            let record = &mut live.record;
            if now.since(live.seen) >= self.idle {
                record.reason = EndReason::Idle;
                let over = *record;
                self.remove(self.next);
                if over.packets > 0 {
                    self.tell(over);
                }
                continue;
            }
            if record.packets > 0 && now.since(live.started) >= self.active {
                let due = *record;
                (record.packets, record.octets, record.tcp_flags) = (0, 0, 0);
                self.tell(due);
            }
            self.next += 1;
        }
    }

    /// Tells of all that is left.
    pub fn finish(mut self) {
        for Live { mut record, .. } in std::mem::take(&mut self.flows) {
            if record.packets > 0 {
                record.reason = EndReason::Forced;
                self.tell(record);
            }
        }
        self.counters.flows.set(0);
    }

    fn remove(&mut self, at: usize) {
        let gone = self.flows.swap_remove(at);
        self.index.remove(&gone.record.flow);
        if let Some(moved) = self.flows.get(at) {
            self.index.insert(moved.record.flow, at as u32);
        }
        self.counters.flows.set(self.flows.len() as u64);
    }

    fn tell(&mut self, record: Record) {
        if self.to.push(record).is_err() {
            self.counters.lost.add(1);
        }
    }
}

/// The flow of a packet, by its outermost headers.
fn flow_of(key: &FlowKey, port: PortIndex, direction: Direction) -> Option<Flow> {
    let o = Layer::Outer;
    let v6 = match key.get(Field::EthType(o)) {
        0x0800 => false,
        0x86dd => true,
        _ => return None,
    };
    let tci = key.get(Field::VlanTci(o)) as u16;
    Some(Flow {
        v6,
        src: key.get(Field::IpSrc(o)),
        dst: key.get(Field::IpDst(o)),
        proto: key.get(Field::IpProto(o)) as u8,
        tos: key.get(Field::IpTos(o)) as u8,
        src_port: key.get(Field::L4Src(o)) as u16,
        dst_port: key.get(Field::L4Dst(o)) as u16,
        vlan: if tci & VLAN_PRESENT != 0 {
            tci & 0xfff
        } else {
            0
        },
        // 0 is no interface (RFC 2863, ifIndex).
        interface: u32::from(port) + 1,
        sent: direction == Direction::Out,
    })
}

/// Packets that a frame is cut into, and their bytes from the IP headers on.
fn sizes(frame: &Frame, layout: &Layout) -> (u64, u64) {
    let l3 = u64::from(layout.outer().l3);
    let whole = u64::from(frame.len).saturating_sub(l3);
    if frame.offload.gso == Gso::None || frame.offload.gso_size == 0 {
        // Without what fills up a short frame.
        let told = ip_len(frame.header.header(), layout.outer());
        return (1, told.map_or(whole, |len| len.min(whole)));
    }
    let headers = u64::from(layout.innermost().payload).saturating_sub(l3);
    let payload = whole.saturating_sub(headers);
    let packets = payload.div_ceil(frame.offload.gso_size.into()).max(1);
    (packets, payload + packets * headers)
}

/// The length that an IP packet has by its own word; a jumbogram's is not in its header.
fn ip_len(header: &[u8], layer: &LayerLayout) -> Option<u64> {
    let word = |at: usize| {
        let bytes = header
            .get(usize::from(layer.l3) + at..)?
            .first_chunk::<2>()?;
        Some(u64::from(u16::from_be_bytes(*bytes)))
    };
    match layer.l3_kind {
        L3Kind::Ipv4 => word(2),
        L3Kind::Ipv6 => word(4).filter(|len| *len != 0).map(|len| len + 40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::Selection;
    use sumeru_engine::spsc::{self, Consumer};
    use sumeru_packet::build::FrameBuilder;
    use sumeru_packet::{ParseOptions, parse};

    fn meter(most: usize) -> (Meter, Consumer<Record>, Arc<MeterCounters>) {
        let (to, from) = spsc::channel(64);
        let counters = Arc::new(MeterCounters::default());
        let timeouts = Timeouts {
            active_ms: 1000,
            idle_ms: 300,
        };
        let selector = Selector::new(Selection::default());
        let meter = Meter::new((selector, 1), timeouts, most, to, counters.clone());
        (meter, from, counters)
    }

    fn flow(n: u16) -> Flow {
        Flow {
            v6: false,
            src: 1,
            dst: 2,
            proto: 17,
            tos: 0,
            src_port: n,
            dst_port: 9,
            vlan: 0,
            interface: 1,
            sent: false,
        }
    }

    /// As if so much time had passed since everything.
    fn later(meter: &mut Meter, ms: u64) {
        let ticks = Tsc::ticks(Duration::from_millis(ms));
        meter.swept.0 -= ticks;
        for live in &mut meter.flows {
            live.started.0 -= ticks;
            live.seen.0 -= ticks;
        }
    }

    #[test]
    fn flows_are_told_when_they_end_and_while_they_go_on() {
        let (mut meter, mut from, counters) = meter(3);
        let now = now_ms();
        for n in [1, 2, 1, 3, 4] {
            meter.count(flow(n), 0, 1, 100, now);
        }
        assert_eq!((counters.flows.get(), counters.unmetered.get()), (3, 1));
        later(&mut meter, 200);
        meter.sweep();
        assert!(from.pop().is_none());
        meter.count(flow(2), 2, 1, 50, now_ms());
        later(&mut meter, 200);
        meter.sweep();
        let mut over = [from.pop().unwrap(), from.pop().unwrap()];
        over.sort_by_key(|record| record.flow.src_port);
        assert_eq!((over[0].flow, over[0].packets), (flow(1), 2));
        assert_eq!((over[1].flow, over[1].reason), (flow(3), EndReason::Idle));
        assert!(from.pop().is_none());
        // It goes on, and is told of what it came to since.
        for _ in 0..5 {
            meter.count(flow(2), 0, 1, 50, now_ms());
            later(&mut meter, 250);
        }
        meter.sweep();
        let active = from.pop().unwrap();
        assert_eq!((active.packets, active.octets), (7, 400));
        assert_eq!((active.reason, active.tcp_flags), (EndReason::Active, 2));
        meter.count(flow(2), 0, 3, 30, now_ms());
        meter.finish();
        let rest = from.pop().unwrap();
        assert_eq!((rest.packets, rest.reason), (3, EndReason::Forced));
        assert!(from.pop().is_none());
    }

    #[test]
    fn padding_of_a_short_frame_is_not_counted() {
        let mut bytes = [0; 60];
        let start = FrameBuilder::new(&mut bytes).ethernet([2; 6], [4; 6]);
        let built = start.ipv4(1, 2).udp(3, 4).payload(&[0; 2]).finish();
        assert_eq!(built, Ok(44));
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        let options = ParseOptions::PLAIN;
        parse(&bytes, bytes.len(), &mut key, &mut layout, &options).unwrap();
        let mut frame = Frame::new();
        frame.header.load(&bytes);
        frame.len = 60;
        assert_eq!(sizes(&frame, &layout), (1, 30));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_flow() {
        let (mut meter, mut from, counters) = meter(1);
        let hour = 3_600_000;
        meter.count(flow(1), 0, 1, 100, now_ms() + hour);
        meter.count(flow(1), 0, 1, 100, now_ms());
        later(&mut meter, 400);
        meter.sweep();
        let over = from.pop().unwrap();
        assert_eq!((over.packets, over.reason), (2, EndReason::Idle));
        assert!(over.start_ms <= over.end_ms);
        assert_eq!(counters.flows.get(), 0);
    }
}

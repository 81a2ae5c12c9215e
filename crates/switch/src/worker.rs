//! The switch on one lcore: polls its ports, decides what happens to each frame, sends it off.
//!
//! A burst's way: [`SwitchWorker::poll`] → `Sender::receive` or `Wire::receive` → `parse` (headers into scratch, key, hash) → `Cache::find` → (on a miss
//! [`translate`](crate::translate::translate)) → [`Lane::execute`] → `Receiver::send` or `Wire::send` → `Sender::release`.
#![allow(unsafe_code)]

mod connections;
mod express;
mod link;
mod ports;
mod report;
mod services;
mod shield;
mod slow;
mod upkeep;

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sumeru_engine::publish::Subscriber;
use sumeru_engine::{Armed, Cx, Poller, Tsc};
use sumeru_packet::{HEADER_MAX, Malformed, ParseOptions, parse};

use crate::cache::{Cache, Hit, Level};
use crate::classifier::arena::CounterArena;
use crate::egress;
use crate::fdb::Fdb;
use crate::frame::{BURST, MAX_FRAME, PortIndex, bits};
use crate::lane::{Attachment, Lane, LocalPort, Outcome, Sighting};
use crate::net_header::{Lead, Offload, SHORT_NET_HEADER_LEN};
use crate::qos::meter_table::MeterTable;
use crate::ring::{QueueFault, Sender};
use crate::rules::{Parsing, RuleView};
use crate::services::neighbours::Neighbours as Residents;
use crate::shield::Shields;
use crate::snapshot::Snapshot;
use crate::stats::{Drop, DropReason, PipelineCounters, RESIDENCE_BOUNDS, Stage};
use crate::track::Track;
use crate::translate::{Note, Tables};
use crate::underlay::Neighbours;
use crate::wire::Received;
use link::LinkLayer;
use services::Announced;

pub use connections::{ConnectionSettings, ConnectionSums};
pub use link::{BondReport, LldpReport, LldpSetup};
pub use report::CacheSums;

/// Most bytes of a frame for the engine itself (ARP, neighbour discovery, echo).
const OWN_FRAME: usize = 2048;

/// Told of a queue that was stopped, from the lcore; must not block.
pub type FaultSink = Box<dyn Fn(PortIndex, usize, QueueFault) + Send>;

/// A place where frames come in.
#[derive(Clone, Copy, Debug)]
struct Source {
    port: PortIndex,
    pair: usize,
}

/// The switch on one lcore.
pub struct SwitchWorker {
    snapshot: Subscriber<Snapshot>,
    rules: Subscriber<RuleView>,
    lane: Lane,
    cache: Cache,
    fdb: Fdb,
    neighbours: Neighbours,
    residents: Residents,
    /// What networks were told that nobody asked for.
    announced: Announced,
    sources: Vec<Source>,
    received: Vec<Received>,
    heads: express::Heads,
    /// Room for the neighbours to be asked for, kept from second to second.
    questions: Vec<IpAddr>,
    faults: FaultSink,
    /// What neighbours on the wires say to each other.
    link: LinkLayer,
    /// What the rules want parsed.
    parsing: Parsing,
    /// Which rules' masks were looked at last.
    shape: u64,
    tracking: ConnectionSettings,
    /// Connections of an earlier process that members of load balancers have not been given yet.
    unclaimed: bool,
    /// Which state of the indirect actions was decided by.
    generation: u64,
    /// Bounds of residence times in ticks.
    residence_bounds: [u64; RESIDENCE_BOUNDS.len()],
    started: Tsc,
    second: u64,
    millisecond: u64,
    next_tick: Tsc,
    now: u32,
}

impl SwitchWorker {
    /// A worker without ports.
    pub fn new(
        snapshot: Subscriber<Snapshot>,
        (rules, rule_counters): (Subscriber<RuleView>, Arc<CounterArena>),
        counters: Arc<PipelineCounters>,
        faults: FaultSink,
    ) -> Self {
        let started = Tsc::now();
        Self {
            snapshot,
            rules,
            lane: Lane::new(counters, rule_counters),
            cache: Cache::new(),
            fdb: Fdb::default(),
            neighbours: Neighbours::default(),
            residents: Residents::default(),
            announced: Announced::default(),
            sources: Vec::with_capacity(64),
            received: Vec::with_capacity(BURST),
            heads: express::Heads::default(),
            questions: Vec::new(),
            faults,
            link: LinkLayer::default(),
            parsing: Parsing::default(),
            shape: 0,
            tracking: ConnectionSettings::default(),
            unclaimed: false,
            generation: 0,
            residence_bounds: RESIDENCE_BOUNDS.map(|ns| Tsc::ticks(Duration::from_nanos(ns))),
            started,
            second: Tsc::ticks(Duration::from_secs(1)),
            millisecond: Tsc::ticks(Duration::from_millis(1)).max(1),
            next_tick: started,
            now: 0,
        }
    }

    /// Takes over the newest configuration, if there is one.
    #[inline(always)]
    pub fn refresh(&mut self) {
        if self.snapshot.refresh() {
            self.reconfigure();
        }
        if self.rules.refresh() {
            self.adopt_rules();
        }
    }

    /// Meters that rules name.
    pub fn meters(&mut self) -> &mut MeterTable {
        &mut self.lane.meters
    }

    /// Runs a frame through the pipeline as if it had come in on `port`; nothing is sent, learned or counted. Answers the decisions and what would leave.
    pub fn trace(&self, port: PortIndex, bytes: &mut [u8]) -> Traced {
        let connections = self.lane.connections.as_deref().map(|c| (&c.table, c.now));
        crate::trace::run(self.tables(), connections, port, bytes)
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            snapshot: &self.snapshot,
            rules: &self.rules,
            fdb: &self.fdb,
            neighbours: &self.neighbours,
            residents: &self.residents,
        }
    }

    /// Counts how long a burst of `count` frames stayed: from before it was taken until it was shown to its receivers.
    #[cold]
    fn count_residence(&self, before: Tsc, count: usize) {
        let ticks = Tsc::now().since(before);
        let residence = &self.lane.counters.residence;
        residence.count(&self.residence_bounds, ticks, count as u64);
    }

    #[inline(always)]
    fn poll_source(&mut self, source: Source) -> usize {
        let Some(Some(port)) = self.lane.ports.get_mut(usize::from(source.port)) else {
            return 0;
        };
        let options = port.parse;
        let (from, count, mut alive) = match &mut port.attachment {
            Attachment::Rings(_) => match self.receive_ring(source) {
                (0, _) => return 0,
                (count, lead) => {
                    let sent = self.express(source, count, lead, &options);
                    if sent == count {
                        self.release(source, count);
                        return count;
                    }
                    let alive = self.load_ring(source, sent..count, lead);
                    (sent, count, alive)
                }
            },
            Attachment::Wire(wire) => {
                self.received.clear();
                let count = wire.receive(BURST, &mut self.received);
                if count == 0 {
                    return 0;
                }
                (0, count, self.load_wire(source.port))
            }
            Attachment::Bond(bond) => {
                self.received.clear();
                let dropped = bond.receive(source.pair, &mut self.received);
                self.listen(source.port, dropped);
                let count = self.received.len();
                if count == 0 {
                    return 0;
                }
                (0, count, self.load_wire(source.port))
            }
        };
        alive = self.parse(alive, &options);
        self.count_received(source, from..count, alive);
        self.decide_all(source.port, alive, &options);
        self.lane.flush(source.port);
        self.release(source, count);
        count
    }

    /// Takes a burst from a guest's queue; answers how many, and the header in front of each.
    #[inline(always)]
    fn receive_ring(&mut self, source: Source) -> (usize, Lead) {
        let Some(sender) = sender_of(&mut self.lane.ports, source) else {
            return (0, Lead::default());
        };
        let available = sender.available();
        if available == 0 {
            if let Some(fault) = sender.take_fault() {
                self.stop_source(source, fault);
            }
            return (0, Lead::default());
        }
        // What the receiver's side will need travels while the sender's is read.
        if let Some(usual) = self.lane.usual(source.port) {
            usual.fetch_descriptors(available);
        }
        let Some(sender) = sender_of(&mut self.lane.ports, source) else {
            return (0, Lead::default());
        };
        let count = sender.receive(available, &mut self.lane.list);
        sender.fetch_next();
        let lead = sender.lead();
        if let Some(usual) = self.lane.usual(source.port) {
            usual.prepare(count);
        }
        (count, lead)
    }

    /// Copies the headers of a ring's frames into their scratch; answers which frames go on.
    #[inline(always)]
    fn load_ring(&mut self, source: Source, which: Range<usize>, lead: Lead) -> u32 {
        let mut alive = 0_u32;
        let lane = &mut self.lane;
        if let Some(sender) = sender_of(&mut lane.ports, source) {
            sender.frames(which.clone(), &mut lane.frames, &mut lane.list);
        }
        for index in which {
            let frame = &mut lane.frames[index];
            frame.in_port = source.port;
            let Some(len) = frame
                .len
                .checked_sub(u32::from(lead.len))
                .filter(|len| (14..=MAX_FRAME).contains(len))
            else {
                drop_bad(&lane.counters, frame.len, lead.len);
                continue;
            };
            frame.len = len;
            let mut net_header = [0; SHORT_NET_HEADER_LEN];
            // SAFETY: the segments were translated this burst; the queue on this lcore keeps the memory.
            let loaded = unsafe { egress::load(frame, &lane.list, lead.len, &mut net_header) };
            if lead.is_mute {
                net_header = [0; SHORT_NET_HEADER_LEN];
            }
            match Offload::read(&net_header) {
                Ok(offload) if loaded => {
                    // A driver may not say that it verified anything (5.1.6.2.1), and is not believed if it does.
                    frame.offload = Offload {
                        verified: false,
                        ..offload
                    };
                    alive |= 1 << index;
                }
                _ => lane.counters.dropped(Drop::BadOffload.into()),
            }
        }
        alive
    }

    fn load_wire(&mut self, port: PortIndex) -> u32 {
        let mut alive = 0_u32;
        let lane = &mut self.lane;
        lane.list.clear();
        for (index, (frame, received)) in lane.frames.iter_mut().zip(&self.received).enumerate() {
            frame.in_port = port;
            frame.first_segment = lane.list.len() as u32;
            frame.segments = 1;
            frame.len = received.data.len();
            frame.offload = received.offload;
            lane.list.push(received.data);
            if !(14..=MAX_FRAME).contains(&frame.len) {
                drop_bad(&lane.counters, frame.len, 0);
                continue;
            }
            // SAFETY: the wire port lends the buffers until it is asked again.
            if unsafe { egress::load(frame, &lane.list, 0, &mut [0; SHORT_NET_HEADER_LEN]) } {
                alive |= 1 << index;
            }
        }
        alive
    }

    /// Parses the frames that go on; answers those that still do.
    #[inline(always)]
    fn parse(&mut self, mut alive: u32, options: &ParseOptions) -> u32 {
        for index in bits(alive) {
            if let Err(reason) = self.parse_one(index, options) {
                self.lane.counters.dropped(reason);
                alive &= !(1 << index);
            }
        }
        // A loop of its own: reading back at once what the parser has just stored would wait for the stores.
        for index in bits(alive) {
            let frame = &mut self.lane.frames[index];
            frame.hash = self.cache.hash(&frame.key);
            self.cache.prefetch(frame.hash);
        }
        alive
    }

    #[inline(always)]
    fn parse_one(&mut self, index: usize, options: &ParseOptions) -> Result<(), DropReason> {
        let lane = &mut self.lane;
        let frame = &mut lane.frames[index];
        frame.key.set_metadata(frame.in_port.into(), 0, 0);
        let mut parsed = parse(
            frame.header.header(),
            frame.len as usize,
            &mut frame.key,
            &mut frame.layout,
            options,
        );
        if parsed == Err(Malformed::HeaderTooLong) {
            // SAFETY: as in `load_ring` and `load_wire`.
            let longer = unsafe { egress::load_more(frame, &lane.list, HEADER_MAX) };
            if longer {
                parsed = parse(
                    frame.header.header(),
                    frame.len as usize,
                    &mut frame.key,
                    &mut frame.layout,
                    options,
                );
            }
        }
        parsed.map_err(DropReason::Malformed)?;
        frame
            .offload
            .checked(&frame.layout, frame.header.len(), frame.len)
            .map_err(|_| Drop::BadOffload.into())
    }

    #[inline(always)]
    fn count_received(&mut self, source: Source, which: Range<usize>, alive: u32) {
        let count = which.len();
        let lane = &self.lane;
        let Some(Some(port)) = lane.ports.get(usize::from(source.port)) else {
            return;
        };
        let bytes: u64 = lane.frames[which]
            .iter()
            .map(|frame| u64::from(frame.len))
            .sum();
        port.counters.rx_packets.add(count as u64);
        port.counters.rx_bytes.add(bytes);
        if let Some(pair) = port.counters.pairs.get(source.pair) {
            pair.rx_packets.add(count as u64);
            pair.rx_bytes.add(bytes);
        }
        let good = u64::from(alive.count_ones());
        if good != count as u64 {
            port.counters.rx_errors.add(count as u64 - good);
            port.counters.rx_drops.add(count as u64 - good);
        }
        lane.counters.passed(Stage::Receive, count as u64);
        lane.counters.passed(Stage::Parse, good);
    }

    /// Decides and carries out.
    #[inline(always)]
    fn decide_all(&mut self, port: PortIndex, alive: u32, options: &ParseOptions) {
        if self.cache.is_large(port) {
            self.fetch_ahead(alive);
        }
        self.lane.expect_strangers(alive);
        let mut exact = 0;
        let watched = self.lane.is_watched(port);
        for index in bits(alive) {
            let seen = if watched { self.lane.see(index) } else { None };
            let frame = &self.lane.frames[index];
            let stamps = self.rules.rules.stamps();
            let outcome = match self.cache.find(&frame.key, frame.hash, stamps) {
                Some((entry, level)) => {
                    exact += u64::from(level == Level::Exact);
                    if level == Level::Wildcard {
                        self.lane.counters.passed(Stage::WildcardHit, 1);
                    }
                    self.cache.acquaint(frame, entry, options);
                    match self.cache.hit(entry) {
                        Hit::Output(quick) => self.lane.send_quick(index, quick),
                        Hit::Run(ops, counter) => self.lane.execute(index, ops, counter),
                        Hit::Tracked(track, ops, counter) => {
                            match self.lane.execute_tracked(index, track, ops, counter) {
                                Outcome::Outdated(known) => match (track, known) {
                                    (Track::None { decision, .. }, None) => {
                                        self.other(index, decision, options)
                                    }
                                    _ => {
                                        self.cache.void(entry);
                                        self.decide(index, known)
                                    }
                                },
                                outcome => outcome,
                            }
                        }
                    }
                }
                None => self.decide(index, None),
            };
            self.conclude(index, outcome, seen);
        }
        self.lane.counters.passed(Stage::ExactHit, exact);
        if watched {
            self.lane.send_copies();
        }
    }

    /// Asks for what the burst's frames will need of a flow cache that is too large for the near caches: the entries, by the signatures that
    /// were asked for while the burst was parsed; and, when these are there, their connections.
    #[inline(never)]
    fn fetch_ahead(&self, alive: u32) {
        /// Frames between asking for an entry and reading it.
        const AHEAD: usize = 10;
        let hash = |index: usize| self.lane.frames[index].hash;
        let connections = self.lane.connections.as_deref();
        for index in 0..BURST + AHEAD {
            if index < BURST && alive >> index & 1 == 1 {
                self.cache.prefetch_entry(hash(index));
            }
            if let Some(connections) = connections
                && let Some(earlier) = index.checked_sub(AHEAD)
                && alive >> earlier & 1 == 1
                && let Some(conn) = self.cache.connection(hash(earlier))
            {
                connections.table.prefetch_connection(conn);
            }
        }
    }

    #[inline(always)]
    fn conclude(&mut self, index: usize, outcome: Outcome, seen: Option<Sighting>) {
        if outcome == Outcome::Consume {
            self.consume(index);
        }
        if let Some(seen) = seen {
            let dropped = match outcome {
                Outcome::Dropped(reason) => Some(reason),
                _ => None,
            };
            self.lane.saw(seen, dropped);
        }
    }

    /// Gives the burst's buffers back.
    #[inline(always)]
    fn release(&mut self, source: Source, count: usize) {
        if let Some(sender) = sender_of(&mut self.lane.ports, source) {
            sender.release(count);
            self.lane.unsettled(source.port);
        }
    }

    #[cold]
    fn stop_source(&mut self, source: Source, fault: QueueFault) {
        (self.faults)(source.port, source.pair * 2 + 1, fault);
        self.sources
            .retain(|s| (s.port, s.pair) != (source.port, source.pair));
        if let Some(port) = self.lane.port(source.port) {
            port.counters.rx_errors.add(1);
        }
    }
}

/// What a trace says: decisions, frames that would leave by port, the reason if none would.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// The decisions, in order.
    pub notes: Vec<Note>,
    /// Frames that would leave.
    pub outputs: Vec<(PortIndex, Vec<u8>)>,
    /// Why nothing would.
    pub dropped: Option<DropReason>,
}

/// The queue that a source stands for, if it is there.
#[inline(always)]
fn sender_of(ports: &mut [Option<LocalPort>], source: Source) -> Option<&mut Sender> {
    let port = ports.get_mut(usize::from(source.port))?.as_mut()?;
    match &mut port.attachment {
        Attachment::Rings(pairs) => pairs.get_mut(source.pair)?.sender.as_mut(),
        Attachment::Wire(_) | Attachment::Bond(_) => None,
    }
}

#[cold]
fn drop_bad(counters: &PipelineCounters, len: u32, net_header_len: u16) {
    let short = len < u32::from(net_header_len) + 14;
    counters.dropped(
        if short {
            Drop::TooShort
        } else {
            Drop::TooLarge
        }
        .into(),
    );
}

impl Poller for SwitchWorker {
    #[inline]
    fn poll(&mut self, cx: &Cx) -> usize {
        self.refresh();
        if cx.now >= self.next_tick {
            self.tick(cx.now);
        }
        self.advance(cx.now);
        let mut moved = 0;
        let timed = self.snapshot.residence;
        // From the end: a source that is taken off the list moves only those that were served already.
        for next in (0..self.sources.len()).rev() {
            let Some(source) = self.sources.get(next).copied() else {
                continue;
            };
            let before = timed.then(Tsc::now);
            let count = self.poll_source(source);
            if let Some(before) = before
                && count > 0
            {
                self.count_residence(before, count);
            }
            moved += count;
        }
        if self.lane.shields.as_deref().is_some_and(Shields::waits) {
            self.take_in_own();
        }
        if self.lane.waits() {
            moved += self.lane.run_queues();
        }
        self.lane.settle();
        if self.cache.sweeping() {
            self.sweep();
        }
        if self.lane.observers.is_some() {
            self.lane.sweep_meters();
        }
        moved
    }

    fn arm(&mut self, _: &Cx) -> Armed {
        let connections = self.lane.connections.as_deref();
        let mut busy = self.cache.sweeping()
            || self.lane.shields.as_deref().is_some_and(Shields::waits)
            || connections.is_some_and(|connections| connections.table.is_behind(connections.now));
        for port in self.lane.ports.iter_mut().flatten() {
            match &mut port.attachment {
                Attachment::Wire(wire) => busy |= wire.pending(),
                Attachment::Bond(bond) => {
                    bond.wires_mut()
                        .iter_mut()
                        .for_each(|wire| busy |= wire.pending());
                }
                Attachment::Rings(pairs) => {
                    pairs
                        .iter_mut()
                        .filter_map(|pair| pair.sender.as_mut())
                        .for_each(|sender| busy |= sender.arm());
                }
            }
        }
        if busy {
            Armed::Busy
        } else {
            let due = self.lane.queues_due(Tsc::now().0).map(Tsc);
            Armed::Until(due.map_or(self.next_tick, |due| due.min(self.next_tick)))
        }
    }

    fn disarm(&mut self) {
        for port in self.lane.ports.iter_mut().flatten() {
            if let Attachment::Rings(pairs) = &mut port.attachment {
                pairs
                    .iter_mut()
                    .filter_map(|pair| pair.sender.as_mut())
                    .for_each(Sender::disarm);
            }
        }
    }
}

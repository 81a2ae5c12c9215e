//! One lcore's ports and the burst in hand: runs programs on frames and sends them off.
//!
//! It knows what to do with a frame once that is decided; it decides nothing.
#![allow(unsafe_code)]

pub mod bond;
mod connections;
mod execute;
mod observe;
pub mod queue;
mod send;
mod services;
mod shield;
mod too_long;
pub mod tunnel;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use arrayvec::ArrayVec;
use sumeru_engine::Tsc;
use sumeru_packet::ParseOptions;
use sumeru_virtio::GuestSlice;

use self::bond::BondPort;
use self::queue::EgressQueue;
use crate::cache::Quick;
use crate::classifier::arena::CounterArena;
use crate::conntrack::{Conntrack, Fragments, Tags};
use crate::frame::{BURST, Frame, PortIndex};
use crate::program::{Choice, Op};
use crate::qos::limit::PerSecond;
use crate::qos::meter_table::{METERS_MAX, MeterTable};
use crate::ring::{Receiver, Sender};
use crate::services::ANSWERS_PER_SECOND;
use crate::shield::Shields;
use crate::snapshot::NetworkId;
use crate::stats::{Drop, DropReason, PipelineCounters, PortCounters};
use crate::track::{Fresh, Known, MAX_TRACKS, Track};
use crate::wire::Wire;

pub use observe::{Observers, Sighting, Watched};
pub use send::open_receiver;
pub use too_long::ERRORS_PER_SECOND;

use send::{send, send_wire};

/// A pair of a guest's queues; each may be absent for a while.
#[derive(Debug, Default)]
pub struct RingPair {
    /// The queue the guest transmits on.
    pub sender: Option<Sender>,
    /// The queue the guest receives on.
    pub receiver: Option<Receiver>,
}

impl RingPair {
    /// The queue the guest receives on, if it is there and enabled.
    fn open_receiver(&self) -> Option<&Receiver> {
        self.receiver
            .as_ref()
            .filter(|receiver| receiver.is_enabled())
    }
}

/// What a port is made of.
pub enum Attachment {
    /// A guest's queue pairs.
    Rings(Vec<RingPair>),
    /// A socket or device of the host.
    Wire(Box<dyn Wire>),
    /// Several of them that are one.
    Bond(Box<BondPort>),
}

impl Attachment {
    /// The wires that it is made of.
    pub fn wires(&self) -> &[Box<dyn Wire>] {
        match self {
            Self::Rings(_) => &[],
            Self::Wire(wire) => std::slice::from_ref(wire),
            Self::Bond(bond) => bond.wires(),
        }
    }

    /// The same, for what is done to all.
    pub fn wires_mut(&mut self) -> &mut [Box<dyn Wire>] {
        match self {
            Self::Rings(_) => &mut [],
            Self::Wire(wire) => std::slice::from_mut(wire),
            Self::Bond(bond) => bond.wires_mut(),
        }
    }
}

/// A port on this lcore.
pub struct LocalPort {
    /// How frames come and go.
    pub attachment: Attachment,
    /// This lcore's counts of it.
    pub counters: Arc<PortCounters>,
    /// Longest frame sent to it, in bytes with Ethernet header and one tag.
    pub max_frame: u32,
    /// How deep its frames are parsed.
    pub parse: ParseOptions,
    /// Whether those who send frames by it are told why they did not arrive; not on the way to other nodes.
    pub answers: bool,
    /// ICMP errors about frames that are too long, which are sent by it.
    errors: PerSecond,
    /// Answers of the switch to what it asks.
    answered: PerSecond,
    /// Which of its frames somebody looks at besides those who get them.
    pub watched: Watched,
    /// The network that it is on.
    pub network: Option<NetworkId>,
    /// Whether tunnels run over it.
    pub uplink: bool,
    /// What frames wait in before they leave by it, if it has a scheduler.
    queue: Option<Box<EgressQueue>>,
    /// Where frames that came in by it went last.
    usual: PortIndex,
    /// Frames of the burst in hand that leave by it.
    pending: ArrayVec<u8, BURST>,
    /// Receive queues that were chosen for some of them.
    steered: ArrayVec<(u8, Choice), BURST>,
}

impl LocalPort {
    /// A port with these parts.
    pub fn new(attachment: Attachment, counters: Arc<PortCounters>) -> Self {
        Self {
            attachment,
            counters,
            max_frame: 0,
            parse: ParseOptions::PLAIN,
            answers: true,
            errors: PerSecond::new(ERRORS_PER_SECOND),
            answered: PerSecond::new(ANSWERS_PER_SECOND),
            watched: Watched::default(),
            network: None,
            uplink: false,
            queue: None,
            usual: 0,
            pending: ArrayVec::new(),
            steered: ArrayVec::new(),
        }
    }

    /// The queue in front of it, if it has one.
    pub fn queue(&self) -> Option<&EgressQueue> {
        self.queue.as_deref()
    }
}

/// The ports of one lcore, and the burst in hand.
pub struct Lane {
    /// The burst.
    pub frames: Box<[Frame; BURST]>,
    /// Where the bytes of its frames lie.
    pub list: Vec<GuestSlice>,
    /// The lcore's ports by index.
    pub ports: Vec<Option<LocalPort>>,
    /// The lcore's counts.
    pub counters: Arc<PipelineCounters>,
    /// Who looks at frames, if anybody does.
    pub observers: Option<Box<Observers>>,
    /// Geneve options that are known here besides those that rules look at, by class and type.
    pub geneve_options: Vec<(u16, u8)>,
    /// Flooding left in this second, by network; a network without an entry has no limit.
    pub floods: HashMap<NetworkId, u32>,
    /// What rules count.
    pub rule_counters: Arc<CounterArena>,
    /// Connections, once a rule tracks any.
    pub connections: Option<Box<Connections>>,
    /// Protected ports, if there are any.
    pub shields: Option<Box<Shields>>,
    /// Of the frame in hand, what was looked up and belongs to no connection, by its number among the decision's tracks.
    fresh: [Option<Fresh>; MAX_TRACKS],
    /// The zone and the layer in which frames were looked up last that belong to no connection: where those of the next burst will be, too.
    strangers: Option<(u16, bool)>,
    /// Where connections of the burst's frames will be entered, by frame, if it was expected that they belong to none in this zone and layer.
    tags: Box<[Tags; BURST]>,
    tagged: Option<(u16, bool)>,
    /// Meters that rules name.
    pub meters: Box<MeterTable>,
    /// Ticks of the clock, for the meters.
    pub now: u64,
    /// The operation that dropped the last frame of those that were dropped by one.
    pub broke_at: usize,
    /// Frames of the burst that go, or went, to others than who they are for alone: where one of their copies does not fit says nothing of the path.
    copied: u32,
    /// For those that choose frames by chance.
    random: u64,
    dirty: Vec<PortIndex>,
    /// Ports in front of which frames wait.
    queued: Vec<PortIndex>,
    /// Ports whose guests may want a notification of what was sent to them or given back.
    unsettled: Vec<PortIndex>,
}

/// The connections of an lcore.
#[derive(Debug)]
pub struct Connections {
    /// Who talks to whom.
    pub table: Conntrack,
    /// Datagrams in pieces.
    pub fragments: Fragments,
    /// Milliseconds of the table's clock.
    pub now: u64,
}

/// What running a program came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent, or on its way.
    Forwarded,
    /// For the engine itself.
    Consume,
    /// Dropped, and counted.
    Dropped(DropReason),
    /// Nothing was done: what the decision took for granted does not hold.
    Outdated(Known),
}

impl Lane {
    /// A lane without ports.
    pub fn new(counters: Arc<PipelineCounters>, rule_counters: Arc<CounterArena>) -> Self {
        let frames: Vec<Frame> = (0..BURST).map(|_| Frame::new()).collect();
        let Ok(frames) = <Box<[Frame; BURST]>>::try_from(frames.into_boxed_slice()) else {
            unreachable!("BURST frames were made");
        };
        let ticks = Tsc::ticks(Duration::from_secs(1)).max(1);
        let Ok(meters) = MeterTable::new(METERS_MAX, ticks) else {
            unreachable!("the limit is one that tables have");
        };
        Self {
            frames,
            list: Vec::with_capacity(64 * BURST),
            ports: Vec::new(),
            counters,
            observers: None,
            geneve_options: Vec::new(),
            floods: HashMap::new(),
            rule_counters,
            connections: None,
            shields: None,
            fresh: [None; MAX_TRACKS],
            strangers: None,
            tags: Box::new([Tags::default(); BURST]),
            tagged: None,
            meters: Box::new(meters),
            now: 0,
            broke_at: 0,
            copied: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            dirty: Vec::with_capacity(64),
            queued: Vec::with_capacity(64),
            unsettled: Vec::with_capacity(64),
        }
    }

    /// The port with this number, if it is here.
    pub fn port(&mut self, index: PortIndex) -> Option<&mut LocalPort> {
        self.ports.get_mut(usize::from(index))?.as_mut()
    }

    /// A second begins: every port may again make the switch speak as often as it may in one.
    pub fn begin_second(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.errors.refill();
            port.answered.refill();
            if let Attachment::Bond(bond) = &mut port.attachment {
                bond.begin_second();
            }
        }
    }

    /// Counts a dropped frame of the burst.
    pub fn dropped(&self, index: usize, reason: DropReason) -> Outcome {
        self.counters.dropped(reason);
        let port = usize::from(self.frames[index].in_port);
        if let Some(Some(port)) = self.ports.get(port) {
            port.counters.rx_drops.add(1);
        }
        Outcome::Dropped(reason)
    }

    /// Runs a program on frame `index` of the burst, and counts it.
    #[inline(always)]
    pub fn execute(&mut self, index: usize, ops: &[Op], counter: Option<u32>) -> Outcome {
        if let Some(counter) = counter {
            self.rule_counters.count(counter, self.frames[index].len);
        }
        match ops {
            [Op::Output(port)] => self.enqueue(index, *port),
            _ => self.execute_any(index, &[], ops),
        }
    }

    /// Runs a program on a frame whose connections were looked up just now.
    #[inline(always)]
    pub fn execute_with(
        &mut self,
        index: usize,
        tracks: &[Track],
        ops: &[Op],
        counter: Option<u32>,
    ) -> Outcome {
        if let Some(counter) = counter {
            self.rule_counters.count(counter, self.frames[index].len);
        }
        match ops {
            [Op::Output(port)] => self.enqueue(index, *port),
            _ => self.execute_any(index, tracks, ops),
        }
    }

    /// Counts frame `index` of the burst, and queues it for a port.
    #[inline(always)]
    pub fn send_quick(&mut self, index: usize, quick: Quick) -> Outcome {
        if let Some(counter) = quick.counter() {
            self.rule_counters.count(counter, self.frames[index].len);
        }
        self.enqueue(index, quick.port)
    }

    /// Queues frame `index` of the burst for a port.
    #[inline(always)]
    pub fn enqueue(&mut self, index: usize, port: PortIndex) -> Outcome {
        let Some(Some(local)) = self.ports.get_mut(usize::from(port)) else {
            return self.dropped(index, Drop::PortDown.into());
        };
        if local.pending.is_empty() {
            self.dirty.push(port);
        }
        // A burst has as many frames as `pending` has places, and a frame that goes to several ports is flushed at each.
        local.pending.push(index as u8);
        Outcome::Forwarded
    }

    /// The queue that frames from `from` will leave by if they go where the ones before them went.
    #[inline(always)]
    pub fn usual(&mut self, from: PortIndex) -> Option<&mut Receiver> {
        let usual = usize::from(self.ports.get(usize::from(from))?.as_ref()?.usual);
        match &mut self.ports.get_mut(usual)?.as_mut()?.attachment {
            Attachment::Rings(pairs) => match &mut pairs[..] {
                [pair] => pair.receiver.as_mut(),
                _ => None,
            },
            Attachment::Wire(_) | Attachment::Bond(_) => None,
        }
    }

    /// Whether somebody looks at frames that come in by a port.
    #[inline(always)]
    pub fn is_watched(&self, port: PortIndex) -> bool {
        let port = self.ports.get(usize::from(port)).and_then(Option::as_ref);
        port.is_some_and(|port| port.watched.received)
    }

    /// Frames that came in by `from` left by `to`, and not by [`Self::flush`].
    #[inline(always)]
    pub fn went(&mut self, from: PortIndex, to: PortIndex) {
        if let Some(Some(from)) = self.ports.get_mut(usize::from(from)) {
            from.usual = to;
        }
        self.unsettled(to);
    }

    /// Remembers that a guest may want a notification.
    #[inline(always)]
    pub fn unsettled(&mut self, port: PortIndex) {
        if self.unsettled.len() == self.unsettled.capacity() {
            self.settle();
        }
        self.unsettled.push(port);
    }

    /// Notifies the guests that want it. Once for all that an iteration did: the fence waits for every store before it to reach the other cores.
    #[inline(always)]
    pub fn settle(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        fence(Ordering::SeqCst);
        while let Some(index) = self.unsettled.pop() {
            let Some(Some(port)) = self.ports.get_mut(usize::from(index)) else {
                continue;
            };
            let Attachment::Rings(pairs) = &mut port.attachment else {
                continue;
            };
            for pair in pairs {
                let sender = pair.sender.as_mut().is_some_and(Sender::settle);
                let receiver = pair.receiver.as_mut().is_some_and(Receiver::settle);
                let notified = u64::from(sender) + u64::from(receiver);
                if notified != 0 {
                    port.counters.calls.add(notified);
                }
            }
        }
    }

    /// Sends off everything that waits, which came from `from`.
    #[inline(always)]
    pub fn flush(&mut self, from: PortIndex) {
        if let (Some(last), Some(Some(from))) =
            (self.dirty.last(), self.ports.get_mut(usize::from(from)))
        {
            from.usual = *last;
        }
        while let Some(port) = self.dirty.pop() {
            self.flush_port(port);
        }
        self.copied = 0;
    }

    #[inline(always)]
    fn flush_port(&mut self, index: PortIndex) {
        let Some(Some(port)) = self.ports.get_mut(usize::from(index)) else {
            return;
        };
        let pending = std::mem::take(&mut port.pending);
        let steered = std::mem::take(&mut port.steered);
        if port.watched.sent {
            self.see_sent(index, &pending);
        }
        let Some(Some(port)) = self.ports.get_mut(usize::from(index)) else {
            return;
        };
        let too_long = if port.queue.is_some() {
            self.hold(index, &pending)
        } else {
            send(
                port,
                &*self.frames,
                &pending,
                &steered,
                &self.list,
                &self.counters,
            )
        };
        if too_long {
            self.answer_all_too_long(index, &pending);
        }
        self.unsettled(index);
    }

    /// Whether frames wait in front of a port.
    #[inline(always)]
    pub fn waits(&self) -> bool {
        !self.queued.is_empty()
    }
}

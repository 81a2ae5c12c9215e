//! The system under test: one lcore's part of the switch with a guest on each port, all in one thread.

use std::collections::HashMap;
use std::sync::Arc;

use sumeru_engine::publish::Publisher;
use sumeru_engine::{Cx, Poller, Tsc, Watch};
use sumeru_flow::Rule;
use sumeru_flow::model::PortRef;
use sumeru_switch::net_header::{Accepts, Lead};
use sumeru_switch::ring::{Receiver, Sender};
use sumeru_switch::rules::{Context, RuleTable, compile};
use sumeru_switch::snapshot::{NetworkView, PortView, Snapshot, Underlay};
use sumeru_switch::stats::{Drop, DropReason, PipelineCounters, PortCounters, Stage};
use sumeru_switch::worker::SwitchWorker;
use sumeru_virtio::{SplitLayout, SplitQueue};

use crate::driver::{Memory, SIZE, USER, descriptor};

use super::rules::SWITCH_PORTS;

/// Frames in a burst.
pub const BURST: usize = 32;
const HEADER: usize = 12;
/// Bytes of a receive buffer.
const BUFFER: usize = 2048;
/// What the guest transmits on, and what it receives on.
const RINGS: [u64; 2] = [0x1000, 0x9000];
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
const FRAMES: u64 = 0x10_0000;
const BUFFERS: u64 = 0x20_0000;

/// The networks of the ports.
pub const NETWORKS: [Option<u32>; SWITCH_PORTS as usize] =
    [Some(1), Some(1), Some(1), Some(2), Some(2), None];
/// The address that tunnels leave from.
pub const TUNNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

/// A guest's rings. They are laid out again for every switch.
struct Guest {
    memory: Memory,
    sent: u16,
    received: u16,
    available: Vec<u8>,
}

impl Guest {
    fn reset(&mut self) {
        self.memory.write(0, &[0; 0x10000]);
        (self.sent, self.received) = (0, 0);
        self.available = vec![0; 2 * usize::from(SIZE)];
        let mut table = Vec::new();
        let mut heads = Vec::new();
        for index in 0..SIZE {
            let at = BUFFERS + u64::from(index) * BUFFER as u64;
            table.extend(descriptor(at, BUFFER as u32, 2, 0));
            heads.extend(index.to_le_bytes());
        }
        self.memory.write(RINGS[1], &table);
        self.memory.write(RINGS[1] + AVAILABLE + 4, &heads);
        self.show(1, SIZE);
    }

    fn show(&self, ring: usize, index: u16) {
        let at = RINGS[ring] + AVAILABLE + 2;
        self.memory.write(at, &index.to_le_bytes());
    }

    /// Offers frames, one buffer each.
    fn send(&mut self, frames: &[&[u8]]) {
        let (mut bytes, mut table) = (Vec::new(), Vec::new());
        for (number, frame) in frames.iter().enumerate() {
            let (at, len) = (FRAMES + bytes.len() as u64, HEADER + frame.len());
            table.extend(descriptor(at, len as u32, 0, 0));
            bytes.extend([0; HEADER]);
            bytes.extend(*frame);
            let slot = usize::from(self.sent % SIZE) * 2;
            self.available[slot..slot + 2].copy_from_slice(&(number as u16).to_le_bytes());
            self.sent = self.sent.wrapping_add(1);
        }
        self.memory.write(FRAMES, &bytes);
        self.memory.write(RINGS[0], &table);
        self.memory.write(RINGS[0] + AVAILABLE + 4, &self.available);
        self.show(0, self.sent);
    }

    /// Whether all that was sent came back.
    fn is_served(&self) -> bool {
        self.memory.read_u16(RINGS[0] + USED + 2) == self.sent
    }

    /// What arrived, in order. Buffers are used in the order in which they were offered, so each goes back to its place.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let used = self.memory.read_u16(RINGS[1] + USED + 2);
        let mut frames = Vec::new();
        while self.received != used {
            let at = RINGS[1] + USED + 4 + u64::from(self.received % SIZE) * 8;
            let element = self.memory.read(at, 8);
            let word = |i: usize| {
                u32::from_le_bytes([element[i], element[i + 1], element[i + 2], element[i + 3]])
            };
            let (head, len) = (word(0), word(4) as usize);
            assert_eq!(
                head,
                u32::from(self.received % SIZE),
                "buffers are used in order"
            );
            let bytes = self
                .memory
                .read(BUFFERS + u64::from(head) * BUFFER as u64, len);
            assert_eq!(bytes[..10], [0; 10], "a frame that has nothing left to do");
            frames.push(bytes[HEADER..].to_vec());
            self.received = self.received.wrapping_add(1);
        }
        self.show(1, self.received.wrapping_add(SIZE));
        frames
    }
}

/// The guests' memory, kept from one switch to the next.
pub struct Guests(Vec<Guest>);

impl Guests {
    pub fn new() -> Self {
        let guest = |_| Guest {
            memory: Memory::new(1),
            sent: 0,
            received: 0,
            available: Vec::new(),
        };
        Self((0..SWITCH_PORTS).map(guest).collect())
    }
}

/// A switch with its guests.
pub struct System<'a> {
    guests: &'a mut Guests,
    worker: SwitchWorker,
    publisher: Publisher<Snapshot>,
    rules: RuleTable,
    counters: Arc<PipelineCounters>,
    watch: Watch,
    now: Tsc,
    /// Whether each frame is decided as if it were the first of its kind.
    forgets: bool,
}

fn snapshot() -> Snapshot {
    let port = |index: u16| PortView {
        index,
        name: format!("p{index}").into(),
        network: NETWORKS[usize::from(index)],
        mtu: 1500,
        uplink: false,
        lldp: false,
        shield: None,
    };
    let network = |id: u32| NetworkView {
        id,
        name: format!("net{id}").into(),
        overlay: sumeru_switch::snapshot::Overlay::Vxlan,
        remotes: Vec::new(),
        ports: (0..SWITCH_PORTS)
            .filter(|port| NETWORKS[usize::from(*port)] == Some(id))
            .collect(),
        flood_limit: 0,
        ageing_s: 0,
        static_macs: Vec::new(),
        outer: Default::default(),
    };
    Snapshot {
        ports: (0..SWITCH_PORTS).map(|index| Some(port(index))).collect(),
        networks: HashMap::from([(1, network(1)), (2, network(2))]),
        underlay: Some(Underlay {
            port: 5,
            mac: TUNNEL_MAC,
            addresses: Vec::new(),
            vxlan_port: super::headers::VXLAN,
        }),
        ..Snapshot::default()
    }
}

impl<'a> System<'a> {
    pub fn new(guests: &'a mut Guests, forgets: bool) -> Self {
        let mut publisher = Publisher::new(snapshot());
        let mut rules = RuleTable::default();
        let counters = Arc::new(PipelineCounters::default());
        let faults = Box::new(|port, queue, fault| panic!("port {port}, queue {queue}: {fault}"));
        let mut worker = SwitchWorker::new(
            publisher.subscribe(),
            rules.subscribe(),
            counters.clone(),
            faults,
        );
        worker.refresh();
        let watch = Watch::new().expect("a file descriptor");
        for (index, guest) in guests.0.iter_mut().enumerate() {
            guest.reset();
            let port = index as u16;
            worker.add_guest(port, 1, Arc::new(PortCounters::default()));
            let [transmit, receive] = RINGS.map(|at| queue(guest, at));
            let lead = Lead {
                len: HEADER as u16,
                is_mute: port % 2 == 1,
            };
            let sender = Sender::new(transmit, lead, true);
            worker.set_sender(port, 0, Some(sender), &watch);
            let accepts = Accepts {
                partial_csum: false,
                tcp4: false,
                tcp6: false,
                ecn: false,
            };
            let receiver = Receiver::new(receive, HEADER as u16, false, accepts, true);
            worker.set_receiver(port, 0, Some(receiver));
        }
        Self {
            guests,
            worker,
            publisher,
            rules,
            counters,
            watch,
            now: Tsc::now(),
            forgets,
        }
    }

    /// Adds a rule; why not, if the engine refuses it.
    pub fn insert(&mut self, port: u16, id: u32, rule: &Rule) -> Result<(), String> {
        let resolve = |port: &PortRef| port.number().map(|number| number as u16);
        let context = Context {
            port,
            id,
            resolve: &resolve,
        };
        let compiled = compile(rule, &context).map_err(|error| error.to_string())?;
        self.rules
            .insert(&compiled)
            .map_err(|error| error.to_string())
    }

    pub fn remove(&mut self, port: u16, id: u32) {
        self.rules.remove(port, id).expect("a rule that is there");
    }

    /// Shows the lcore what was added and removed.
    pub fn publish(&mut self) {
        self.rules.publish();
    }

    /// What a rule counted.
    pub fn counts(&self, port: u16, id: u32) -> (u64, u64) {
        self.rules.counts(port, id).expect("a rule that is there")
    }

    /// Sends a burst from a port; answers what each port received.
    pub fn burst(&mut self, port: u16, frames: &[&[u8]]) -> Vec<Vec<Vec<u8>>> {
        let step = if self.forgets { 1 } else { BURST };
        for frames in frames.chunks(step) {
            if self.forgets {
                self.publisher.publish(snapshot());
                self.publisher.reclaim();
            }
            let guest = &mut self.guests.0[usize::from(port)];
            guest.send(frames);
            self.worker.poll(&Cx::new(self.now, 0, &self.watch));
            assert!(
                self.guests.0[usize::from(port)].is_served(),
                "a burst is one turn"
            );
        }
        self.rules.reclaim();
        self.guests.0.iter_mut().map(Guest::receive).collect()
    }

    pub fn stage(&self, stage: Stage) -> u64 {
        self.counters.stage(stage)
    }

    /// Frames dropped as malformed, too short ones among them.
    pub fn malformed(&self) -> u64 {
        let is_malformed = |reason: &DropReason| {
            matches!(
                reason,
                DropReason::Malformed(_) | DropReason::Other(Drop::TooShort)
            )
        };
        self.sum(is_malformed)
    }

    /// Frames dropped by a rule.
    pub fn dropped_by_rule(&self) -> u64 {
        self.sum(|reason| matches!(reason, DropReason::Other(Drop::Rule)))
    }

    fn sum(&self, of: impl Fn(&DropReason) -> bool) -> u64 {
        DropReason::all()
            .filter(of)
            .map(|reason| self.counters.drop_count(reason))
            .sum()
    }
}

fn queue(guest: &Guest, at: u64) -> SplitQueue {
    let layout = SplitLayout {
        size: SIZE,
        descriptor_table: USER + at,
        driver_area: USER + at + AVAILABLE,
        device_area: USER + at + USED,
        last_available: 0,
        event_idx: false,
        indirect: false,
    };
    SplitQueue::new(layout, guest.memory.map.clone()).expect("a ring inside memory")
}

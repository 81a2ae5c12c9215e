//! Fuzz target `ring`: a whole lcore of the switch between two hostile guests and a hostile wire: frames of any form in chains of any form, offloads,
//! receive buffers, rules, tunnels. Fails when the switch writes where it may not, when it keeps a guest's buffers, or when what leaves is not
//! what a trace of the same frame says.
//!
//! Input: bits (0 event index, 1 mergeable buffers, 2 checksum offload, 3 TSO, 4 rules, 5 small MTU), then operations; see `Lcore::step`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use sumeru_engine::publish::Publisher;
use sumeru_engine::{Cx, Poller, Tsc, Watch};
use sumeru_flow::model::PortRef;
use sumeru_flow::{Command, PacketDescription, syntax};
use sumeru_switch::net_header::{Accepts, Lead, Offload};
use sumeru_switch::ring::{QueueFault, Receiver, Sender};
use sumeru_switch::rules::{CompiledRule, Context, RuleTable, compile};
use sumeru_switch::snapshot::{NetworkView, PortView, Snapshot, Underlay};
use sumeru_switch::stats::{DropReason, PipelineCounters, PortCounters};
use sumeru_switch::wire::{Interface, Lost, Received, Wire};
use sumeru_switch::worker::SwitchWorker;
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::{GuestSlice, SplitLayout, SplitQueue};

use crate::guest::{BASE, Guest, Place, SIZE, descriptor};
use crate::input::Input;

const QUEUE: u16 = 16;
const UPLINK: u16 = 2;
/// A wire port on the tenant's network.
const TAP: u16 = 3;
const WIRES: [u16; 2] = [UPLINK, TAP];
const SMALL_MTU: u16 = 200;
/// Bytes of a frame's place in memory; frames begin at multiples of it.
const SLOT: u64 = 0x400;
/// Where the frames that guests send begin, and the buffers that they receive into.
const FRAMES_AT: u64 = 0x2000;
const BUFFERS: u64 = 0x4000;
/// Most operations of an input, so that it is quick.
const STEPS: usize = 64;

const RULES: [&str; 5] = [
    "create 0 group 1 ingress pattern eth / ipv4 / tcp / end actions dec_ttl / set_ipv4_dst ipv4_addr 10.0.0.9 / port_id id 1 / end",
    "create 0 ingress pattern eth / vlan vid is 5 / end actions of_pop_vlan / jump group 1 / end",
    "create 0 ingress priority 1 pattern eth / ipv4 dst is 10.0.0.7 / end actions vxlan_encap vni 9 ip_src 192.0.2.1 ip_dst 192.0.2.2 eth_dst 02:00:00:00:00:09 / port_id id 2 / end",
    "create 0 ingress priority 1 pattern eth / ipv6 / end actions count / of_push_vlan ethertype 0x8100 / of_set_vlan_vid vlan_vid 6 / port_id id 1 / end",
    "create 2 ingress pattern eth / ipv4 / udp / vxlan vni is 9 / eth / end actions vxlan_decap / port_id id 1 / end",
];

/// Frames that make sense here, to be changed.
const FRAMES: [&str; 10] = [
    "eth src 02:00:00:00:00:11 dst ff:ff:ff:ff:ff:ff / ipv4 src 10.0.0.1 dst 10.0.0.2 / udp src 1 dst 2 / payload 20",
    "eth src 02:00:00:00:00:12 dst 02:00:00:00:00:11 / ipv4 src 10.0.0.2 dst 10.0.0.1 / tcp src 1 dst 2 / payload 600",
    "eth src 02:00:00:00:00:11 dst 02:00:00:00:00:12 / vlan vid 5 / ipv4 src 10.0.0.1 dst 10.0.0.2 / tcp src 1 dst 2 / payload 64",
    "eth src 02:00:00:00:00:13 dst 02:00:00:00:00:11 / ipv6 src 2001:db8::1 dst 2001:db8::2 / tcp src 1 dst 2 / payload 300",
    "eth src 02:00:00:00:00:11 dst 02:00:00:00:00:13 / ipv4 src 10.0.0.1 dst 10.0.0.7 / udp src 1 dst 2 / payload 100",
    "eth src 02:00:00:00:00:09 dst 02:00:00:00:00:01 / ipv4 src 192.0.2.2 dst 192.0.2.1 / udp src 9 dst 4789 / vxlan vni 7 / eth src 02:00:00:00:00:21 dst 02:00:00:00:00:11 / ipv4 src 10.0.0.3 dst 10.0.0.1 / tcp src 1 dst 2 / payload 40",
    "eth src 02:00:00:00:00:09 dst 02:00:00:00:00:01 / ipv4 src 192.0.2.2 dst 192.0.2.1 / udp src 9 dst 4789 / vxlan vni 9 / eth src 02:00:00:00:00:21 dst 02:00:00:00:00:11 / ipv6 src 2001:db8::3 dst 2001:db8::1 / udp src 1 dst 2 / payload 40",
    "eth src 02:00:00:00:00:09 dst 02:00:00:00:00:01 / arp op 2 sha 02:00:00:00:00:09 spa 192.0.2.2 tha 02:00:00:00:00:01 tpa 192.0.2.1",
    "eth src 02:00:00:00:00:09 dst ff:ff:ff:ff:ff:ff / arp op 1 sha 02:00:00:00:00:09 spa 192.0.2.2 tpa 192.0.2.1",
    "eth src 02:00:00:00:00:09 dst 02:00:00:00:00:01 / ipv4 src 192.0.2.2 dst 192.0.2.1 / icmp type 8 code 0 / payload 32",
];

thread_local! {
    static GUESTS: RefCell<[Guest; 2]> = RefCell::new([Guest::new(), Guest::new()]);
}

/// Runs one input.
///
/// # Panics
/// When a promise of the switch is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.u8();
    GUESTS.with_borrow_mut(|guests| {
        guests.iter_mut().for_each(Guest::clear);
        let mut lcore = Lcore::new(guests, bits);
        for _ in 0..STEPS {
            if input.is_empty() {
                break;
            }
            lcore.step(&mut input);
        }
        lcore.poll();
        lcore.check();
    });
}

/// What goes over the fake wire.
#[derive(Default)]
struct Traffic {
    /// Buffers that the switch may look at until it asks again.
    lent: Vec<Vec<u8>>,
    incoming: VecDeque<(Vec<u8>, Offload)>,
    buffer: Vec<u8>,
    queued: usize,
    sent: Vec<Vec<u8>>,
}

/// A wire port that the fuzzer is at the other end of.
struct FakeWire {
    traffic: Rc<RefCell<Traffic>>,
    event: Eventfd,
    accepts: Accepts,
}

impl Wire for FakeWire {
    fn interface(&self) -> Option<&Interface> {
        None
    }

    fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
        let traffic = &mut *self.traffic.borrow_mut();
        traffic.lent.clear();
        let count = max.min(traffic.incoming.len());
        for (mut bytes, offload) in traffic.incoming.drain(..count) {
            let data = GuestSlice::from_own(&mut bytes);
            traffic.lent.push(bytes);
            frames.push(Received { data, offload });
        }
        count
    }

    fn send_buffer(&mut self) -> Option<GuestSlice> {
        let traffic = &mut *self.traffic.borrow_mut();
        traffic.buffer = vec![0; 1 << 17];
        (traffic.queued < 8).then(|| GuestSlice::from_own(&mut traffic.buffer))
    }

    fn send(&mut self, len: u32, offload: &Offload, _: u16) {
        assert!(self.accepts.takes(offload), "{offload:?}");
        let traffic = &mut *self.traffic.borrow_mut();
        let bytes = &traffic.buffer[..len as usize];
        assert!(bytes.len() >= 14, "a frame without a header");
        traffic.sent.push(bytes.to_vec());
        traffic.queued += 1;
    }

    fn flush(&mut self) -> usize {
        std::mem::take(&mut self.traffic.borrow_mut().queued)
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn pending(&mut self) -> bool {
        !self.traffic.borrow().incoming.is_empty()
    }

    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, 1]
    }

    fn take_lost(&mut self) -> Lost {
        Lost::default()
    }
}

struct Lcore<'a> {
    guests: &'a mut [Guest; 2],
    /// What the guest transmits on, and what it receives on.
    queues: [Place; 2],
    available: [[u16; 2]; 2],
    worker: SwitchWorker,
    /// What goes over the uplink, and over the other wire.
    traffic: [Rc<RefCell<Traffic>>; 2],
    counters: Arc<PipelineCounters>,
    watch: Watch,
    now: Tsc,
    second: u64,
    net_header_len: usize,
    mtu: u16,
    _publisher: Publisher<Snapshot>,
    _rules: RuleTable,
}

impl<'a> Lcore<'a> {
    fn new(guests: &'a mut [Guest; 2], bits: u8) -> Self {
        let has = |bit: u8| bits >> bit & 1 != 0;
        let (mergeable, tso) = (has(1), has(2) && has(3));
        let accepts = Accepts {
            partial_csum: has(2),
            tcp4: tso,
            tcp6: tso,
            ecn: tso,
        };
        let mut publisher = Publisher::new(snapshot(has(5)));
        let subscriber = publisher.subscribe();
        let mut table = RuleTable::default();
        let rules = table.subscribe();
        insert_rules(&mut table, has(4));
        let faults = Box::new(|_, _, fault: QueueFault| assert!(!fault.to_string().is_empty()));
        let counters = Arc::new(PipelineCounters::default());
        let mut worker = SwitchWorker::new(subscriber, rules, counters.clone(), faults);
        worker.refresh();
        let Ok(watch) = Watch::new() else {
            panic!("no file descriptors left");
        };
        let queues = [Place::new(0, QUEUE), Place::new(1, QUEUE)];
        // With VERSION_1 the header always has 12 bytes; without it and mergeable buffers, 10.
        let net_header_len = if mergeable || has(6) { 12 } else { 10 };
        for (index, guest) in guests.iter().enumerate() {
            let port = index as u16;
            worker.add_guest(port, 1, Arc::new(PortCounters::default()));
            let [transmit, receive] = queues.map(|place| queue(guest, place, has(0)));
            let lead = Lead {
                len: net_header_len,
                is_mute: has(7),
            };
            let sender = Sender::new(transmit, lead, true);
            worker.set_sender(port, 0, Some(sender), &watch);
            let receiver = Receiver::new(receive, net_header_len, mergeable, accepts, true);
            worker.set_receiver(port, 0, Some(receiver));
        }
        let traffic = WIRES.map(|port| {
            let traffic = Rc::new(RefCell::new(Traffic::default()));
            let Ok(event) = Eventfd::new() else {
                panic!("no file descriptors left");
            };
            let wire = FakeWire {
                traffic: traffic.clone(),
                event,
                accepts,
            };
            let counters = Arc::new(PortCounters::default());
            let added = worker.add_wire(port, Box::new(wire), counters, &watch);
            assert!(added.is_ok());
            traffic
        });
        Self {
            guests,
            queues,
            available: [[0; 2]; 2],
            worker,
            traffic,
            counters,
            watch,
            now: Tsc::now(),
            second: Tsc::ticks(std::time::Duration::from_secs(1)),
            net_header_len: net_header_len.into(),
            mtu: if has(5) { SMALL_MTU } else { 1500 },
            _publisher: publisher,
            _rules: table,
        }
    }

    fn step(&mut self, input: &mut Input) {
        let guest = input.below(2);
        match input.below(12) {
            0..=2 => self.transmit(guest, input),
            3 | 4 => self.offer_buffer(guest, input),
            5 => {
                let (at, len) = (input.u16() % 0x2000, input.u8());
                let bytes = input.bytes(len.into());
                self.overwrite(guest, at.into(), bytes);
            }
            6 => {
                let by = input.u16();
                let queue = input.below(2);
                self.available[guest][queue] = self.available[guest][queue].wrapping_add(by);
                self.show(guest, queue);
            }
            7 | 8 => self.receive(input),
            9 => {
                self.now = Tsc(self.now.0 + self.second * (1 + input.u8() as u64));
                self.poll();
            }
            10 => {
                let cx = Cx::new(self.now, 0, &self.watch);
                self.worker.arm(&cx);
                self.worker.disarm();
            }
            _ => self.poll(),
        }
    }

    /// Writes anywhere but over the used rings, which belong to the device.
    fn overwrite(&mut self, guest: usize, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let free = |range: std::ops::Range<u64>| end <= range.start || at >= range.end;
        // The descriptors of receive buffers are written by `offer_buffer` alone, so that it is known where they lead.
        let table = self.queues[1].descriptor(0)..self.queues[1].descriptor(QUEUE);
        if self.queues.iter().all(|place| free(place.used())) && free(table) {
            self.guests[guest].write(at, bytes);
        }
    }

    fn show(&mut self, guest: usize, queue: usize) {
        let (at, index) = (
            self.queues[queue].available_index(),
            self.available[guest][queue],
        );
        self.guests[guest].write(at, &index.to_le_bytes());
    }

    fn offer(&mut self, guest: usize, queue: usize, head: u16) {
        let at = self.queues[queue].available(self.available[guest][queue]);
        self.guests[guest].write(at, &head.to_le_bytes());
        self.available[guest][queue] = self.available[guest][queue].wrapping_add(1);
        self.show(guest, queue);
    }

    /// A frame behind a virtio-net header, in one to three descriptors.
    fn transmit(&mut self, guest: usize, input: &mut Input) {
        let (head, slot, how) = (input.u8(), input.below(8) as u64, input.u8());
        let header: [u8; 12] = if how & 1 != 0 { input.array() } else { [0; 12] };
        let bytes = frame(input);
        // More of the frame than was written, for large ones.
        let more = if how & 2 != 0 {
            u32::from(input.u16())
        } else {
            0
        };
        let at = FRAMES_AT + slot * SLOT;
        let mut whole = header[..self.net_header_len].to_vec();
        whole.extend(&bytes);
        self.guests[guest].write(at, &whole);
        let total = whole.len() as u32 + more;
        let cuts = match how >> 2 & 3 {
            0 => vec![total],
            1 => vec![self.net_header_len as u32, bytes.len() as u32 + more],
            _ => {
                let first = u32::from(input.u8()).min(total);
                let second = u32::from(input.u8()).min(total - first);
                vec![first, second, total - first - second]
            }
        };
        let head = u16::from(head) % QUEUE;
        let mut from = BASE + at;
        for (number, len) in cuts.iter().enumerate() {
            let last = number + 1 == cuts.len();
            let (index, next) = (
                (head + number as u16) % QUEUE,
                (head + number as u16 + 1) % QUEUE,
            );
            let bytes = descriptor(from, *len, u16::from(!last), next);
            let place = self.queues[0].descriptor(index);
            self.guests[guest].write(place, &bytes);
            from += u64::from(*len);
        }
        self.offer(guest, 0, head);
    }

    /// A buffer to receive into.
    fn offer_buffer(&mut self, guest: usize, input: &mut Input) {
        let (head, at, len, how) = (
            input.u8(),
            u64::from(input.u16()),
            u32::from(input.u16()),
            input.u8(),
        );
        let head = u16::from(head) % QUEUE;
        let at = BUFFERS + at % (SIZE as u64 - BUFFERS);
        // One to two descriptors, writable but for a bad driver now and then, and inside memory likewise.
        let flags = match how & 0x0f {
            0 => 0,
            1 | 2 => 3,
            _ => 2,
        };
        let address = if how & 0xf0 == 0 {
            u64::MAX - at
        } else {
            BASE + at
        };
        let next = u16::from(how >> 4);
        let bytes = descriptor(address, len, flags, next);
        let place = self.queues[1].descriptor(head);
        self.guests[guest].write(place, &bytes);
        self.offer(guest, 1, head);
    }

    /// A frame from a wire, traced first: what was foretold must leave by the wires.
    fn receive(&mut self, input: &mut Input) {
        let (how, wire) = (input.u8(), input.below(2));
        let header = if how & 1 != 0 { input.array() } else { [0; 10] };
        let Ok(offload) = Offload::read(&header) else {
            return;
        };
        let mut bytes = frame(input);
        let traffic = self.traffic[wire].clone();
        let incoming = |bytes, offload| {
            traffic.borrow_mut().incoming.push_back((bytes, offload));
        };
        if how & 3 != 0 {
            return incoming(bytes, offload);
        }
        self.poll();
        let own = bytes.clone();
        let traced = self.worker.trace(WIRES[wire], &mut bytes);
        assert_eq!(bytes, own, "a trace changed the frame");
        for traffic in &self.traffic {
            traffic.borrow_mut().sent.clear();
        }
        incoming(bytes, Offload::NONE);
        self.poll();
        for (port, traffic) in WIRES.iter().zip(&self.traffic) {
            let foretold = traced.outputs.iter().filter(|(to, _)| to == port);
            let fits = foretold.filter(|(_, bytes)| bytes.len() <= usize::from(self.mtu) + 18);
            let mut expected: VecDeque<_> = fits.map(|(_, bytes)| bytes).collect();
            // The switch's own questions and answers were not foretold.
            for sent in &traffic.borrow().sent {
                expected.pop_front_if(|next| *next == sent);
            }
            assert!(
                expected.is_empty(),
                "not sent by {port}: {expected:02x?}, but {:02x?}, dropped: {:?}, {:#?}",
                traffic.borrow().sent,
                self.drops(),
                traced.notes
            );
        }
    }

    /// What was dropped, for whoever reads the finding.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let count = |reason| (reason, self.counters.drop_count(reason));
        DropReason::all()
            .map(count)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Polls until nothing moves any more. An iteration that stops a queue may pass over the next one, hence the second look.
    fn poll(&mut self) {
        let cx = Cx::new(self.now, 0, &self.watch);
        let mut idle = 0;
        for _ in 0..16 {
            idle = if self.worker.poll(&cx) == 0 {
                idle + 1
            } else {
                0
            };
            if idle == 3 {
                break;
            }
        }
    }

    /// Nothing but used rings and receive buffers was written.
    fn check(&self) {
        let [transmit, receive] = self.queues.map(|place| place.used());
        for guest in self.guests.iter() {
            guest.check_untouched(&[transmit.clone(), receive.clone(), BUFFERS..SIZE as u64]);
        }
    }
}

fn queue(guest: &Guest, place: Place, event_idx: bool) -> SplitQueue {
    let [descriptor_table, driver_area, device_area] = place.addresses();
    let layout = SplitLayout {
        size: QUEUE,
        descriptor_table,
        driver_area,
        device_area,
        last_available: 0,
        event_idx,
        indirect: true,
    };
    match SplitQueue::new(layout, guest.memory.clone()) {
        Ok(queue) => queue,
        Err(error) => panic!("a ring inside memory was refused: {error}"),
    }
}

fn snapshot(small: bool) -> Snapshot {
    let mtu = if small { SMALL_MTU } else { 1500 };
    let port = |index: u16| PortView {
        index,
        name: "port".into(),
        network: (index != UPLINK).then_some(7),
        mtu,
        uplink: index == UPLINK,
        lldp: false,
        shield: None,
    };
    let network = NetworkView {
        id: 7,
        name: "blue".into(),
        overlay: sumeru_switch::snapshot::Overlay::Vxlan,
        remotes: vec![Ipv4Addr::new(192, 0, 2, 2).into()],
        ports: vec![0, 1, TAP],
        flood_limit: 0,
        ageing_s: 3,
        static_macs: Vec::new(),
        outer: Default::default(),
    };
    let underlay = Underlay {
        port: UPLINK,
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec![(Ipv4Addr::new(192, 0, 2, 1).into(), 24)],
        vxlan_port: 4789,
    };
    Snapshot {
        ports: (0..=TAP).map(|index| Some(port(index))).collect(),
        networks: HashMap::from([(7, network)]),
        underlay: Some(underlay),
        ..Snapshot::default()
    }
}

fn insert_rules(table: &mut RuleTable, rules: bool) {
    for (id, text) in RULES.iter().enumerate().filter(|_| rules) {
        let inserted = compiled(text, id as u32).map(|rule| table.insert(&rule));
        assert!(matches!(inserted, Some(Ok(()))), "rule {id}");
    }
    table.publish();
}

fn compiled(text: &str, id: u32) -> Option<CompiledRule> {
    let Ok(Command::Create { port, rule }) = syntax::parse(text) else {
        return None;
    };
    let resolve = |port: &PortRef| port.number().map(|number| number as u16);
    let context = Context {
        port: resolve(&port)?,
        id,
        resolve: &resolve,
    };
    compile(&rule, &context).ok()
}

/// A frame: the fuzzer's own bytes, or one that makes sense with a few bytes changed.
fn frame(input: &mut Input) -> Vec<u8> {
    let kind = input.below(FRAMES.len() + 1);
    let Some(text) = FRAMES.get(kind) else {
        let len = usize::from(input.u16()) % (SLOT as usize - 16);
        return input.bytes(len).to_vec();
    };
    let Ok(description) = PacketDescription::parse(text) else {
        panic!("not a description: {text}");
    };
    let mut bytes = description.to_bytes();
    for _ in 0..input.below(4) {
        let at = input.below(bytes.len());
        bytes[at] = input.u8();
    }
    bytes
}

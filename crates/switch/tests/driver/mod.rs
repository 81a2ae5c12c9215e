//! The guest's side of a switch port: rings in a memory file, virtio-net headers, frames; and a node to plug guests into.
//!
//! It talks to the device by the calls that a transport would make, so no socket is needed. Sending waits until the switch gave the
//! buffers back: whatever a frame leads to has then happened.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses its own part"
)]

mod breaches;
mod frames;
mod ring;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sumeru_engine::{IdlePolicy, Lcore, LcoreConfig};
use sumeru_flow::syntax::{Command, parse as parse_command};
use sumeru_switch::ring::QueueFault;
use sumeru_switch::snapshot::{NetworkView, PortView, Underlay};
use sumeru_switch::stats::{Drop, DropReason, Stage};
use sumeru_switch::switch::{Switch, SwitchError};
use sumeru_switch::vhost_net::{NetState, VhostNet};
pub use sumeru_virtio::device::VirtioDevice;
use sumeru_virtio::features::{net, ring as ring_feature};

pub use breaches::*;
pub use frames::*;
pub use ring::*;

/// Sends offloads and takes none.
pub const SENDS: u64 = ring_feature::VERSION_1
    | ring_feature::INDIRECT_DESC
    | net::MRG_RXBUF
    | net::CSUM
    | net::HOST_TSO4
    | net::HOST_TSO6
    | net::HOST_ECN;
/// Takes partial checksums too.
pub const SUMS: u64 = SENDS | net::GUEST_CSUM;
/// Takes everything.
pub const TAKES_ALL: u64 = SUMS | net::GUEST_TSO4 | net::GUEST_TSO6 | net::GUEST_ECN;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a guest is like.
#[derive(Clone)]
pub struct Options {
    pub network: Option<u32>,
    pub uplink: bool,
    pub mtu: u16,
    pub pairs: u16,
    pub features: u64,
    /// Receive buffers: how many chains, and the length of each chain's buffers.
    pub buffers: (usize, Vec<u32>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            network: Some(1),
            uplink: false,
            mtu: 1500,
            pairs: 1,
            features: SENDS,
            buffers: (128, vec![2048]),
        }
    }
}

/// A frame as a guest found it in its buffers.
#[derive(Clone, Debug)]
pub struct Received {
    pub header: NetHeader,
    pub frame: Vec<u8>,
    /// Chains it filled.
    pub chains: usize,
    pub pair: usize,
}

/// A guest on a port.
pub struct Guest {
    pub port: u16,
    pub device: VhostNet,
    pub state: Arc<NetState>,
    pub memory: Memory,
    pub features: u64,
    pub receive: Vec<Ring>,
    pub transmit: Vec<Ring>,
    buffers: (usize, Vec<u32>),
}

impl Guest {
    fn new(port: u16, device: VhostNet, state: Arc<NetState>, options: &Options) -> Self {
        let memory = Memory::new(options.pairs * 2);
        let rings = |first: u16| -> Vec<Ring> {
            (0..options.pairs)
                .map(|pair| Ring::new(&memory, pair * 2 + first))
                .collect()
        };
        let mut guest = Self {
            port,
            device,
            state,
            features: options.features,
            receive: rings(0),
            transmit: rings(1),
            memory,
            buffers: options.buffers.clone(),
        };
        guest.device.accept_features(options.features).unwrap();
        for pair in 0..usize::from(options.pairs) {
            guest.post(pair);
            guest.start(pair * 2, 0);
            guest.start(pair * 2 + 1, 0);
        }
        guest
    }

    /// Fills a receive ring with buffers.
    pub fn post(&mut self, pair: usize) {
        let (count, lens) = &self.buffers;
        let ring = &mut self.receive[pair];
        for _ in 0..*count {
            let head = ring.lay(lens, WRITE);
            ring.offer(head);
        }
        ring.publish();
    }

    pub fn ring(&mut self, queue: usize) -> &mut Ring {
        let rings = if queue.is_multiple_of(2) {
            &mut self.receive
        } else {
            &mut self.transmit
        };
        &mut rings[queue / 2]
    }

    /// Starts a queue at an available index.
    pub fn start(&mut self, queue: usize, last_available: u16) {
        let features = self.features;
        let setup = self.ring(queue).setup(features, last_available);
        self.device.start_queue(setup).unwrap();
    }

    /// Stops a queue, empties its ring and starts it again: what a driver's reset comes to.
    pub fn restart(&mut self, queue: usize) {
        self.device.stop_queue(queue as u16).unwrap();
        self.ring(queue).clear();
        if queue.is_multiple_of(2) {
            self.post(queue / 2);
        }
        self.start(queue, 0);
    }

    pub fn header_len(&self) -> usize {
        if self.features & (ring_feature::VERSION_1 | net::MRG_RXBUF) == 0 {
            10
        } else {
            12
        }
    }

    /// Sends plain frames in one go, one buffer each.
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) {
        let header_len = self.header_len();
        for burst in frames.chunks(64) {
            let ring = &mut self.transmit[0];
            ring.rewind();
            for frame in burst {
                let bytes = [&[0; 12][..header_len], frame.as_ref()].concat();
                let head = ring.lay(&[bytes.len() as u32], 0);
                ring.fill(head, &bytes);
                ring.offer(head);
            }
            ring.publish();
            assert!(ring.drained(PATIENCE), "the frames sent never came back");
        }
    }

    /// Sends one frame behind this header.
    pub fn send_with(&mut self, header: NetHeader, frame: &[u8]) {
        self.send_cut(header, frame, &[u32::MAX], false);
    }

    /// Sends one frame with header and bytes cut into buffers of these lengths, the rest in a last one.
    pub fn send_cut(&mut self, header: NetHeader, frame: &[u8], lens: &[u32], indirect: bool) {
        let bytes = [&header.bytes()[..self.header_len()], frame].concat();
        let mut left = bytes.len() as u32;
        let mut cut: Vec<u32> = Vec::new();
        for len in lens.iter().chain([&u32::MAX]) {
            if left > 0 {
                cut.push(left.min(*len));
                left -= left.min(*len);
            }
        }
        let ring = &mut self.transmit[0];
        ring.rewind();
        let head = if indirect {
            ring.lay_indirect(&cut, 0)
        } else {
            ring.lay(&cut, 0)
        };
        ring.fill(head, &bytes);
        ring.offer(head);
        ring.publish();
        assert!(ring.drained(PATIENCE), "the frame sent never came back");
    }

    /// Takes what has arrived, in order of arrival per pair, and posts the buffers again.
    pub fn receive(&mut self) -> Vec<Received> {
        let (header_len, mergeable) = (self.header_len(), self.features & net::MRG_RXBUF != 0);
        let mut all = Vec::new();
        for (pair, ring) in self.receive.iter_mut().enumerate() {
            let mut again = Vec::new();
            while let Some((head, written)) = ring.try_used() {
                let mut bytes = contents(ring, head, written);
                let header = NetHeader::read(&bytes[..header_len]);
                again.push(head);
                let mut chains = 1;
                while mergeable && chains < usize::from(header.num_buffers) {
                    let (head, written) = ring
                        .try_used()
                        .expect("all buffers of a frame come at once");
                    bytes.extend(contents(ring, head, written));
                    again.push(head);
                    chains += 1;
                }
                all.push(Received {
                    header,
                    frame: bytes.split_off(header_len),
                    chains,
                    pair,
                });
            }
            if !again.is_empty() {
                again.into_iter().for_each(|head| ring.offer(head));
                ring.publish();
            }
        }
        all
    }

    /// The frames that have arrived, once there is one: what the lcore sends of itself comes in its own time.
    pub fn frames_at_last(&mut self) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frames = self.frames();
            if !frames.is_empty() || Instant::now() > deadline {
                return frames;
            }
            std::thread::yield_now();
        }
    }

    /// The frames that have arrived; fails if one of them has anything left to do.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let plain = |received: Received| {
            assert_eq!((received.header.flags, received.header.gso_type), (0, 0));
            received.frame
        };
        self.receive().into_iter().map(plain).collect()
    }
}

fn contents(ring: &Ring, head: u16, written: u32) -> Vec<u8> {
    let mut left = written;
    let mut bytes = Vec::with_capacity(written as usize);
    for (at, len) in &ring.chains[&head] {
        let now = left.min(*len);
        bytes.extend(ring.memory.read(*at, now as usize));
        left -= now;
    }
    assert_eq!(left, 0, "the device wrote no more than the chain holds");
    bytes
}

/// A switch on one lcore.
pub struct Node {
    pub lcore: Arc<Lcore>,
    pub switch: Switch,
}

impl Node {
    pub fn new() -> Self {
        let config = LcoreConfig {
            cpu: 0,
            idle: IdlePolicy::default(),
        };
        let lcore = Arc::new(Lcore::start(config).unwrap());
        let switch = Switch::new(std::slice::from_ref(&lcore)).unwrap();
        Self { lcore, switch }
    }

    /// A node with networks of these identifiers and no remotes.
    pub fn with_networks(ids: &[u32]) -> Self {
        let mut node = Self::new();
        ids.iter().for_each(|id| node.network(*id, &[], 0));
        node
    }

    pub fn network(&mut self, id: u32, remotes: &[&str], flood_limit: u32) {
        let network = NetworkView {
            id,
            name: format!("net{id}").into(),
            overlay: sumeru_switch::snapshot::Overlay::Vxlan,
            remotes: remotes.iter().map(|text| text.parse().unwrap()).collect(),
            ports: Vec::new(),
            flood_limit,
            ageing_s: 0,
            static_macs: Vec::new(),
            outer: Default::default(),
        };
        self.switch.set_network(network).unwrap();
    }

    pub fn guest(&mut self, port: u16, options: &Options) -> Guest {
        let view = PortView {
            index: port,
            name: format!("p{port}").into(),
            network: options.network,
            mtu: options.mtu,
            uplink: options.uplink,
            lldp: false,
            shield: None,
        };
        let (device, state) = self
            .switch
            .add_guest(view, options.pairs, mac(port as u8))
            .unwrap();
        Guest::new(port, device, state, options)
    }

    /// The uplink and its addresses; the test plays the wire.
    pub fn uplink(&mut self, port: u16, addresses: &[(&str, u8)], features: u64) -> Guest {
        let options = Options {
            network: None,
            uplink: true,
            mtu: 1600,
            features,
            ..Options::default()
        };
        let guest = self.guest(port, &options);
        let underlay = Underlay {
            port,
            mac: mac(0xee),
            addresses: addresses
                .iter()
                .map(|(text, prefix)| (text.parse::<IpAddr>().unwrap(), *prefix))
                .collect(),
            vxlan_port: 4789,
        };
        self.switch.set_underlay(Some(underlay)).unwrap();
        guest
    }

    /// Installs a rule written in testpmd's syntax; its port is the one named there.
    pub fn rule(&mut self, id: u32, text: &str) -> Result<(), SwitchError> {
        let Command::Create { port, rule, .. } = parse_command(text).unwrap() else {
            panic!("not a rule: {text}");
        };
        let port = port.number().unwrap() as u16;
        self.switch.insert_rule(port, id, &rule)
    }

    pub fn stage(&self, stage: Stage) -> u64 {
        self.switch.stage(stage)
    }

    pub fn drops(&self, reason: Drop) -> u64 {
        self.switch.drops(reason.into())
    }

    /// All drops by reason, without those that are zero.
    pub fn all_drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::all()
            .map(|reason| (reason.as_str(), self.switch.drops(reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Waits for a stopped queue of a port to be reported.
    pub fn fault(&self, port: u16, queue: usize) -> QueueFault {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let faults = self.switch.faults(port);
            if let Some((_, fault)) = faults.iter().find(|(number, _)| *number == queue) {
                return *fault;
            }
            assert!(
                Instant::now() < deadline,
                "queue {queue} of port {port} was not stopped"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

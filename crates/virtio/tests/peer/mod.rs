//! The two ends of the vhost-user tests: a device that records what is asked of it and insists on its contract, and
//! the raw bytes of a front end. Never a second implementation of the protocol: front ends here are bytes only.

// Every test binary uses its own part of this module.
#![allow(dead_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::MemfdFlags;
use sumeru_virtio::GuestMemory;
use sumeru_virtio::device::{DeviceError, DeviceType, QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::{self, ProtocolFeatures};
use sumeru_virtio::vhost_user::message::{FLAG_NEED_REPLY, Request, VERSION};
use sumeru_virtio::vhost_user::{Decoder, FrontEnd, Reply, Session, Verdict, VhostUserError};

/// What the recorded device was asked and what it will answer.
#[derive(Default)]
pub struct Record {
    pub events: Vec<String>,
    pub queues: Vec<Option<QueueSetup>>,
    pub front_end: Option<FrontEnd>,
    /// What a queue's index has become by the time it is stopped: added at every stop.
    pub progress: u16,
    pub refuse_features: bool,
    /// Virtio features offered.
    pub offered: u64,
    /// Protocol features offered; by default more than there is, so that the session has to mask.
    pub protocol: ProtocolFeatures,
    pub last_call: Option<Eventfd>,
}

#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Record>>, DeviceType);

impl Recorder {
    pub fn new(kind: DeviceType, queues: usize) -> Self {
        let record = Record {
            queues: (0..queues).map(|_| None).collect(),
            offered: features::ring::VERSION_1 | features::ring::EVENT_IDX | 0x3,
            protocol: ProtocolFeatures::all(),
            ..Record::default()
        };
        Self(Arc::new(Mutex::new(record)), kind)
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    /// The events since the last call.
    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.record().events)
    }

    pub fn memory(&self, index: usize) -> Arc<GuestMemory> {
        self.record().queues[index].as_ref().unwrap().memory.clone()
    }

    fn note(&self, event: impl Into<String>) {
        self.record().events.push(event.into());
    }
}

pub const CONFIG: [u8; 16] = *b"configuration ok";

impl VirtioDevice for Recorder {
    fn device_type(&self) -> DeviceType {
        self.1
    }

    fn features(&self) -> u64 {
        self.record().offered
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        self.record().protocol
    }

    fn queue_count(&self) -> u16 {
        self.record().queues.len() as u16
    }

    fn attach_front_end(&mut self, front_end: FrontEnd) {
        self.record().front_end = Some(front_end);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError> {
        for (target, source) in data.iter_mut().zip(CONFIG.iter().skip(offset as usize)) {
            *target = *source;
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError> {
        if offset != 4 {
            return Err(DeviceError::ConfigNotWritable {
                offset,
                end: offset + data.len() as u32,
            });
        }
        self.note(format!("config {offset} {data:?}"));
        Ok(())
    }

    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError> {
        if self.record().refuse_features {
            return Err(DeviceError::Features {
                features,
                reason: "the test wants it so",
            });
        }
        assert_eq!(
            features & !self.features(),
            0,
            "only offered features reach the device"
        );
        assert!(
            self.record().queues.iter().all(Option::is_none),
            "features change only while nothing runs"
        );
        self.note(format!("features {features:#x}"));
        Ok(())
    }

    fn start_queue(&mut self, setup: QueueSetup) -> Result<(), DeviceError> {
        let index = setup.index;
        assert!(
            self.record().queues[usize::from(index)].is_none(),
            "queue {index} is started twice"
        );
        let layout = [
            (setup.descriptor_table, u32::from(setup.size) * 16),
            (setup.driver_area, u32::from(setup.size) * 2 + 6),
            (setup.device_area, u32::from(setup.size) * 8 + 6),
        ];
        for (address, len) in layout {
            if setup.memory.translate_user(address, len).is_none() {
                self.note(format!("refuse {index}"));
                return Err(DeviceError::Ring {
                    index,
                    reason: format!("nothing at {address:#x}").into(),
                });
            }
        }
        let enabled = if setup.enabled { "enabled" } else { "disabled" };
        self.note(format!(
            "start {index} size {} at {} {enabled}",
            setup.size, setup.last_available
        ));
        self.record().queues[usize::from(index)] = Some(setup);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError> {
        let setup = self.record().queues[usize::from(index)].take();
        let setup = setup.ok_or(DeviceError::NotRunning { index })?;
        let next = setup.last_available.wrapping_add(self.record().progress);
        self.note(format!("stop {index} at {next}"));
        Ok(next)
    }

    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError> {
        assert!(
            self.record().queues[usize::from(index)].is_some(),
            "queue {index} does not run"
        );
        self.note(format!("enable {index} {enabled}"));
        Ok(())
    }

    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError> {
        assert!(
            self.record().queues[usize::from(index)].is_some(),
            "queue {index} does not run"
        );
        self.note(format!("call {index} {}", call.is_some()));
        self.record().last_call = call;
        Ok(())
    }

    fn set_queue_error(&mut self, index: u16, error: Option<Eventfd>) -> Result<(), DeviceError> {
        assert!(
            self.record().queues[usize::from(index)].is_some(),
            "queue {index} does not run"
        );
        self.note(format!("error {index} {}", error.is_some()));
        Ok(())
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), DeviceError> {
        self.note(format!("mtu {mtu}"));
        Ok(())
    }

    fn send_rarp(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        self.note(format!("rarp {mac:x?}"));
        Ok(())
    }

    fn status_changed(&mut self, status: u8) {
        self.note(format!("status {status:#x}"));
    }

    fn reset(&mut self) {
        assert!(
            self.record().queues.iter().all(Option::is_none),
            "reset comes after all queues are stopped"
        );
        self.note("reset");
    }
}

/// Bytes of a message with any header.
pub fn raw(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [request, flags, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

pub fn u64s(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

pub fn u32s(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

pub fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

pub fn eventfd() -> OwnedFd {
    Eventfd::new()
        .unwrap()
        .as_fd()
        .try_clone_to_owned()
        .unwrap()
}

/// SET_MEM_TABLE with regions of (guest address, size, user address), each with its file.
pub fn memory_table(regions: &[(u64, u64, u64)]) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut payload = u32s(&[regions.len() as u32, 0]);
    for &(guest, size, user) in regions {
        payload.extend(u64s(&[guest, size, user, 0]));
    }
    (
        payload,
        regions.iter().map(|&(_, size, _)| memfd(size)).collect(),
    )
}

/// SET_VRING_ADDR with the three parts one page apart.
pub fn ring_address(index: u32, descriptor: u64) -> Vec<u8> {
    let mut payload = u32s(&[index, 0]);
    payload.extend(u64s(&[
        descriptor,
        descriptor + 0x2000,
        descriptor + 0x1000,
        0,
    ]));
    payload
}

/// A front end at a session, without a socket.
pub struct Driver<'device> {
    pub session: Session<'device>,
    decoder: Decoder,
}

impl<'device> Driver<'device> {
    pub fn new(device: &'device mut dyn VirtioDevice) -> Self {
        Self {
            session: Session::new(device),
            decoder: Decoder::default(),
        }
    }

    pub fn send_raw(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Verdict, VhostUserError> {
        let (taken, message) = self.decoder.feed(bytes, fds)?;
        assert_eq!(taken, bytes.len());
        Ok(self.session.handle(message.expect("a whole message")))
    }

    fn deliver(
        &mut self,
        request: Request,
        flags: u32,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Verdict {
        self.send_raw(&raw(request as u32, flags, payload), fds)
            .unwrap()
    }

    /// Sends a message that must succeed; returns the reply's payload if there is one.
    pub fn ok(&mut self, request: Request, payload: &[u8], fds: Vec<OwnedFd>) -> Option<Reply> {
        match self.deliver(request, VERSION, payload, fds) {
            Verdict::Done(reply) => reply,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Sends a message without descriptors that must be answered with a number.
    pub fn number(&mut self, request: Request) -> u64 {
        let reply = self.ok(request, &[], vec![]).expect("a reply");
        u64::from_ne_bytes(reply.payload.try_into().unwrap())
    }

    /// Sends a message that asks for an acknowledgement, and returns it.
    pub fn acknowledged(&mut self, request: Request, payload: &[u8], fds: Vec<OwnedFd>) -> u64 {
        let reply = match self.deliver(request, VERSION | FLAG_NEED_REPLY, payload, fds) {
            Verdict::Done(reply) | Verdict::Refused(reply, _) => reply.expect("an acknowledgement"),
            Verdict::Close(error) => panic!("{request:?}: {error}"),
        };
        assert_eq!(reply.request, request as u32);
        u64::from_ne_bytes(reply.payload.try_into().unwrap())
    }

    /// Sends a message that must be refused without an end to the session.
    pub fn refused(
        &mut self,
        request: Request,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> (Option<Reply>, VhostUserError) {
        match self.deliver(request, VERSION, payload, fds) {
            Verdict::Refused(reply, error) => (reply, error),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Sends a message that must end the session.
    pub fn closed(
        &mut self,
        request: Request,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> VhostUserError {
        match self.deliver(request, VERSION, payload, fds) {
            Verdict::Close(error) => error,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Ownership, all protocol features offered, virtio features with bit 30.
    pub fn negotiate(&mut self) {
        self.ok(Request::SetOwner, &[], vec![]);
        let features = self.number(Request::GetFeatures);
        let protocol = self.number(Request::GetProtocolFeatures);
        self.ok(Request::SetProtocolFeatures, &u64s(&[protocol]), vec![]);
        self.ok(Request::SetFeatures, &u64s(&[features]), vec![]);
    }

    pub fn memory(&mut self, regions: &[(u64, u64, u64)]) {
        let (payload, fds) = memory_table(regions);
        self.ok(Request::SetMemTable, &payload, fds);
    }

    /// Size, base, addresses and kick: the ring starts.
    pub fn start_ring(&mut self, index: u32, base: u32, descriptor: u64) {
        self.ok(Request::SetVringNum, &u32s(&[index, 64]), vec![]);
        self.ok(Request::SetVringBase, &u32s(&[index, base]), vec![]);
        self.ok(
            Request::SetVringAddr,
            &ring_address(index, descriptor),
            vec![],
        );
        self.ok(
            Request::SetVringKick,
            &u64s(&[index.into()]),
            vec![eventfd()],
        );
    }

    pub fn ring_base(&mut self, index: u32) -> u32 {
        let reply = self
            .ok(Request::GetVringBase, &u32s(&[index, 0]), vec![])
            .expect("a reply");
        assert_eq!(reply.payload[..4], index.to_ne_bytes());
        u32::from_ne_bytes(reply.payload[4..].try_into().unwrap())
    }
}

/// Number of descriptors this process has open.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

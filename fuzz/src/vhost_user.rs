//! Fuzz target `vhost_user`: messages of a hostile front end, whole or in pieces, with descriptors of all kinds, into decoder and session,
//! with a device behind it that watches whether its contract is kept. Fails when the session calls the device out of order, says
//! something else than the device did, or leaves it running.
//!
//! Input: bits (0 network device, 1 the device refuses features, 2 it refuses every other queue), then messages: id, flags, descriptors, payload; see `Script::message`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use sumeru_virtio::device::{DeviceError, DeviceType, QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::{ProtocolFeatures, ring};
use sumeru_virtio::inflight::InflightQueue;
use sumeru_virtio::vhost_user::message::{Answer, MAX_FDS, MAX_PAYLOAD, MessageId, VERSION};
use sumeru_virtio::vhost_user::{Decoder, FrontEnd, Message, Session, Verdict};
use sumeru_virtio::{SplitLayout, SplitQueue};

use crate::input::Input;

const QUEUES: u16 = 4;
const FEATURES: u64 = ring::VERSION_1 | ring::INDIRECT_DESC | ring::EVENT_IDX;
/// Most messages of an input, so that it is quick.
const MESSAGES: usize = 48;
const PAGE: u64 = 4096;
/// User addresses begin here.
const USER: u64 = 0x7000_0000_0000;

/// Runs one input.
///
/// # Panics
/// When a promise of the session is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.u8();
    let record = Recorder::default();
    let mut device = Device {
        net: bits & 1 != 0,
        refuses_features: bits & 2 != 0,
        refuses_queues: bits & 4 != 0,
        record: record.clone(),
    };
    {
        let mut session = Session::new(&mut device);
        let mut decoder = Decoder::default();
        let mut script = Script { input };
        for _ in 0..MESSAGES {
            if script.input.is_empty() || !script.message(&mut decoder, &mut session, &record) {
                break;
            }
        }
    }
    let record = record.get();
    assert!(record.queues.is_empty(), "queues run after the session");
    assert!(record.reset, "the device was not reset");
    let notified = record.front_end.as_ref().map(FrontEnd::config_changed);
    assert!(
        matches!(notified, Some(Err(_))),
        "the front end's handle lives on"
    );
}

struct Script<'a> {
    input: Input<'a>,
}

impl Script<'_> {
    /// Sends one message; false when the connection is over.
    fn message(&mut self, decoder: &mut Decoder, session: &mut Session, record: &Recorder) -> bool {
        let (id, how) = (self.input.u8(), self.input.u8());
        let id = if id == u8::MAX {
            self.input.u32()
        } else {
            id.into()
        };
        let flags = match how & 3 {
            0 => self.input.u32(),
            1 => VERSION,
            _ => VERSION | 8,
        };
        let fds = self.descriptors(how >> 2 & 7);
        let payload = if how & 0x80 != 0 {
            let len = self.input.u16() as usize % (MAX_PAYLOAD + 2);
            self.input.bytes(len).to_vec()
        } else {
            self.payload(id)
        };
        // A size that is not the payload's, sometimes.
        let size = if how & 0x60 == 0x60 {
            self.input.u32()
        } else {
            payload.len() as u32
        };
        let mut bytes = Vec::new();
        for word in [id, flags, size] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(payload);
        self.deliver(&bytes, fds, decoder, session, record)
    }

    fn deliver(
        &mut self,
        mut bytes: &[u8],
        mut fds: Vec<OwnedFd>,
        decoder: &mut Decoder,
        session: &mut Session,
        record: &Recorder,
    ) -> bool {
        while !bytes.is_empty() {
            match decoder.feed(bytes, std::mem::take(&mut fds)) {
                Ok((taken, message)) => {
                    assert!(taken > 0 && taken <= bytes.len());
                    bytes = &bytes[taken..];
                    if let Some(message) = message
                        && !handle(message, session, record)
                    {
                        return false;
                    }
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return false;
                }
            }
        }
        true
    }

    fn descriptors(&mut self, count: u8) -> Vec<OwnedFd> {
        let count = match count {
            7 => MAX_FDS + self.input.below(3),
            6 => MAX_FDS,
            few => few.into(),
        };
        (0..count).filter_map(|_| self.descriptor()).collect()
    }

    fn descriptor(&mut self) -> Option<OwnedFd> {
        match self.input.below(7) {
            kind @ (0 | 1) => {
                let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
                let fd = memfd_create("guest", flags).ok()?;
                let pages = self.input.below(9) as u64;
                ftruncate(&fd, pages * PAGE).ok()?;
                // An in-flight region has to be sealed, and holds something, perhaps.
                if kind == 1 {
                    fcntl_add_seals(&fd, SealFlags::SHRINK).ok()?;
                }
                let at = self.input.u8();
                let len = self.input.u8();
                let bytes = self.input.bytes(len.into());
                let file = std::fs::File::from(fd);
                if pages > 0 {
                    file.write_all_at(bytes, at.into()).ok()?;
                }
                Some(file.into())
            }
            2 | 3 => eventfd(0, EventfdFlags::CLOEXEC).ok(),
            4 => rustix::pipe::pipe().ok().map(|(read, _)| read),
            5 => {
                let pair = std::os::unix::net::UnixStream::pair();
                pair.ok().map(|(one, _)| one.into())
            }
            _ => std::fs::File::open("/dev/null").ok().map(Into::into),
        }
    }

    /// A payload of the right form for message `id`, with values near those that make sense.
    fn payload(&mut self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        match id {
            2 => {
                let all = FEATURES | ring::VHOST_USER_PROTOCOL_FEATURES;
                let wanted = if self.input.bit() {
                    all
                } else {
                    self.input.u64()
                };
                bytes.extend(wanted.to_ne_bytes());
            }
            5 => {
                let count = self.input.below(10) as u32;
                bytes.extend(count.to_ne_bytes());
                bytes.extend([0; 4]);
                (0..count).for_each(|_| self.region(&mut bytes));
            }
            8 | 10 | 11 | 18 => {
                let (index, number) = (u32::from(self.input.u8()), u32::from(self.input.u16()));
                bytes.extend(index.to_ne_bytes());
                bytes.extend(number.to_ne_bytes());
            }
            9 => {
                let (index, flags) = (u32::from(self.input.u8()), u32::from(self.input.u8() / 128));
                bytes.extend(index.to_ne_bytes());
                bytes.extend(flags.to_ne_bytes());
                for _ in 0..4 {
                    let address = USER + u64::from(self.input.u16()) * 16;
                    bytes.extend(address.to_ne_bytes());
                }
            }
            12..=14 => {
                let value = u64::from(self.input.u8()) | u64::from(self.input.u8() & 1) << 8;
                bytes.extend(value.to_ne_bytes());
            }
            16 => {
                let all = ProtocolFeatures::IMPLEMENTED.bits();
                let off = self.input.u64();
                bytes.extend((all & !off).to_ne_bytes());
            }
            24 | 25 => {
                let (offset, size) = (self.input.u16() as u32, self.input.u16() as u32 % 260);
                let flags = u32::from(self.input.u8() & 3);
                for word in [offset, size, flags] {
                    bytes.extend(word.to_ne_bytes());
                }
                bytes.extend(self.input.bytes(size as usize));
            }
            31 | 32 => {
                let (size, offset) = (self.input.u16(), self.input.u16());
                bytes.extend(u64::from(size).to_ne_bytes());
                bytes.extend(u64::from(offset).to_ne_bytes());
                bytes.extend(u16::from(self.input.u8()).to_ne_bytes());
                bytes.extend(self.input.u16().to_ne_bytes());
                bytes.extend([0; 4]);
            }
            37 | 38 => {
                bytes.extend([0; 8]);
                self.region(&mut bytes);
            }
            // Messages whose payload is one number.
            19 | 20 | 23 | 35 | 39 | 42 => bytes.extend(self.input.u64().to_ne_bytes()),
            _ => {
                let len = self.input.u8() & 0x2f;
                bytes.extend(self.input.bytes(len.into()));
            }
        }
        bytes
    }

    /// A region of some pages: guest address, size, user address, offset.
    fn region(&mut self, bytes: &mut Vec<u8>) {
        let place = u64::from(self.input.u8() % 64) * PAGE;
        let size = u64::from(self.input.u8() % 9) * PAGE;
        let (user, offset) = match self.input.u8() {
            0 => (self.input.u64(), self.input.u64()),
            1 => (USER + self.input.u64() % 0x10_0000, self.input.u16().into()),
            _ => (USER + place, 0),
        };
        for value in [0x10_0000 + place, size, user, offset] {
            bytes.extend(value.to_ne_bytes());
        }
    }
}

/// Lets the session handle one message; false when it ends the connection.
fn handle(message: Message, session: &mut Session, record: &Recorder) -> bool {
    assert!(message.payload.len() <= MAX_PAYLOAD && message.fds.len() <= MAX_FDS);
    assert_eq!(message.header.size as usize, message.payload.len());
    let (id, asked) = (message.header.request, message.header.flags & 8 != 0);
    let acknowledges = |session: &Session| {
        session
            .info()
            .protocol_features
            .contains(ProtocolFeatures::REPLY_ACK)
    };
    let before = acknowledges(session);
    let verdict = session.handle(message);
    let due = asked && before && acknowledges(session);
    let goes_on = match verdict {
        Verdict::Done(reply) => {
            let rule = MessageId(id).rule();
            let replies = rule.is_some_and(|rule| rule.answer == Answer::Reply);
            assert!(reply.is_some() || !replies, "{id} wants an answer");
            assert!(reply.is_some() || !due, "{id} wants an acknowledgement");
            if let Some(reply) = reply {
                assert_eq!(reply.request, id);
                let bytes = reply.to_bytes();
                assert_eq!(bytes.len(), 12 + reply.payload.len());
            }
            true
        }
        Verdict::Refused(reply, error) => {
            assert!(!error.to_string().is_empty());
            assert!(reply.is_none_or(|reply| reply.request == id));
            true
        }
        Verdict::Close(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    };
    let info = session.info();
    let record = record.get();
    for queue in &info.queues {
        let runs = record.queues.contains_key(&queue.index);
        assert_eq!(queue.running, runs, "queue {}", queue.index);
        assert!(queue.started || !queue.running, "queue {}", queue.index);
        if let Some(running) = record.queues.get(&queue.index) {
            assert_eq!(running.enabled, queue.enabled, "queue {}", queue.index);
        }
    }
    goes_on
}

/// What the device has been told.
#[derive(Default)]
struct Record {
    queues: BTreeMap<u16, Running>,
    reset: bool,
    features: u64,
    front_end: Option<FrontEnd>,
}

struct Running {
    ring: SplitQueue,
    inflight: Option<InflightQueue>,
    enabled: bool,
}

/// A handle to the record.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    fn get(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Device {
    net: bool,
    refuses_features: bool,
    refuses_queues: bool,
    record: Recorder,
}

impl Device {
    fn running<R>(
        &self,
        index: u16,
        change: impl FnOnce(&mut Running) -> R,
    ) -> Result<R, DeviceError> {
        let mut record = self.record.get();
        let running = record.queues.get_mut(&index);
        assert!(running.is_some(), "queue {index} does not run");
        running.map(change).ok_or(DeviceError::NotRunning { index })
    }
}

impl VirtioDevice for Device {
    fn device_type(&self) -> DeviceType {
        if self.net {
            DeviceType::Net
        } else {
            DeviceType::Block
        }
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        ProtocolFeatures::IMPLEMENTED
    }

    fn queue_count(&self) -> u16 {
        QUEUES
    }

    fn attach_front_end(&mut self, front_end: FrontEnd) {
        let mut record = self.record.get();
        assert!(record.front_end.is_none(), "attached twice");
        record.front_end = Some(front_end);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError> {
        assert!(offset as usize + data.len() <= 256);
        data.fill(offset as u8);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError> {
        let end = offset + data.len() as u32;
        assert!(!data.is_empty() && end <= 256);
        if offset >= 32 {
            return Err(DeviceError::ConfigNotWritable { offset, end });
        }
        Ok(())
    }

    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError> {
        let mut record = self.record.get();
        assert!(record.queues.is_empty(), "features change under a queue");
        assert_eq!(features & !FEATURES, 0, "features that were not offered");
        if self.refuses_features && features & ring::VERSION_1 == 0 {
            let reason = "no VERSION_1";
            return Err(DeviceError::Features { features, reason });
        }
        record.features = features;
        Ok(())
    }

    fn start_queue(&mut self, setup: QueueSetup) -> Result<(), DeviceError> {
        let index = setup.index;
        let mut record = self.record.get();
        assert!(index < QUEUES && !record.queues.contains_key(&index));
        assert_eq!(setup.features, record.features);
        let fails =
            |reason: Box<dyn std::error::Error + Send + Sync>| DeviceError::Ring { index, reason };
        if self.refuses_queues && index % 2 == 1 {
            return Err(fails("not today".into()));
        }
        let layout = SplitLayout {
            size: setup.size,
            descriptor_table: setup.descriptor_table,
            driver_area: setup.driver_area,
            device_area: setup.device_area,
            last_available: setup.last_available,
            event_idx: setup.features & ring::EVENT_IDX != 0,
            indirect: setup.features & ring::INDIRECT_DESC != 0,
        };
        let mut ring =
            SplitQueue::new(layout, setup.memory.clone()).map_err(|error| fails(error.into()))?;
        ring.set_events(setup.kick, setup.call);
        let mut inflight = setup.inflight;
        if let Some(inflight) = &mut inflight {
            let recovery = inflight.recover(ring.used_index_published());
            assert!(recovery.heads.iter().all(|head| *head < inflight.size()));
            assert!(recovery.heads.len() <= usize::from(inflight.size()));
        }
        let running = Running {
            ring,
            inflight,
            enabled: setup.enabled,
        };
        record.queues.insert(index, running);
        record.reset = false;
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError> {
        // Work a little first: the ring has to lie in memory for as long as it runs.
        self.running(index, Running::serve)?;
        let stopped = self.record.get().queues.remove(&index);
        stopped
            .map(|running| running.ring.next_available())
            .ok_or(DeviceError::NotRunning { index })
    }

    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError> {
        self.running(index, |running| running.enabled = enabled)
    }

    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError> {
        self.running(index, |running| running.ring.set_call(call))
    }

    fn set_queue_error(&mut self, index: u16, error: Option<Eventfd>) -> Result<(), DeviceError> {
        self.running(index, |_| drop(error))
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), DeviceError> {
        assert!(mtu >= 68, "an MTU below the smallest of IPv4");
        Ok(())
    }

    fn send_rarp(&mut self, _: [u8; 6]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        let mut record = self.record.get();
        assert!(record.queues.is_empty(), "reset under a running queue");
        record.reset = true;
        record.features = 0;
    }
}

impl Running {
    /// Takes a few chains and gives them back.
    fn serve(&mut self) {
        let mut list = Vec::new();
        let known = self.ring.available(4).unwrap_or(0).min(4);
        for _ in 0..known {
            let Ok(chain) = self.ring.peek(0, &mut list) else {
                break;
            };
            self.ring.take(1);
            if let Some(inflight) = &mut self.inflight {
                inflight.mark(chain.head);
                inflight.stage(chain.head);
            }
            self.ring.complete(chain.head, 0);
            self.ring.publish();
            if let Some(inflight) = &mut self.inflight {
                inflight.commit([chain.head], self.ring.used_index_published());
            }
        }
        self.ring.notify();
    }
}

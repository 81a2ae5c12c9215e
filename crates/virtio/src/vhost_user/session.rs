//! The state machine of one connection: checks every message against its rules, drives the device, makes the answer
//! (vhost-user, "Communication" and "Front-end message types").
//!
//! No socket, no thread, no clock: messages go in, verdicts come out. Ring messages and the memory table are in
//! `rings`. A session that is dropped leaves the device idle, whatever happened before.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketType, sockopt};
use zerocopy::{FromBytes, IntoBytes};

use super::codec::{Message, Reply};
use super::error::VhostUserError;
use super::front_end::FrontEnd;
use super::message::{
    Answer, ConfigHeader, FLAG_NEED_REPLY, Failure, INFLIGHT_UNPADDED, InflightDescription,
    MAX_CONFIG, MessageId, RULES, Request, Rule, Stage,
};
use super::rings::Ring;
use crate::device::{DeviceError, DeviceType, VirtioDevice};
use crate::features::{ProtocolFeatures, ring};
use crate::inflight::{self, InflightRegion};
use crate::memory::{GuestMemory, RegionSpec};

/// Bit of the device status: the driver's features are accepted (VIRTIO 1.2 section 2.1).
const STATUS_FEATURES_OK: u8 = 8;
/// Smallest MTU a host may give: the smallest that IPv4 allows.
const MIN_MTU: u64 = 68;

/// What came of a message.
#[derive(Debug)]
pub enum Verdict {
    /// Done; send the reply if there is one.
    Done(Option<Reply>),
    /// Refused, without harm to the session: send the reply if there is one, count and log the error.
    Refused(Option<Reply>, VhostUserError),
    /// The two sides disagree in a way that cannot be mended: end the connection.
    Close(VhostUserError),
}

/// What a message handler produces.
pub(super) enum Outcome {
    /// Nothing but an acknowledgement.
    Done,
    /// The message's own reply.
    Reply(Vec<u8>, Option<OwnedFd>),
}

pub(super) type Handled = Result<Outcome, VhostUserError>;

/// State of one ring as the protocol sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Ring index.
    pub index: u16,
    /// Number of descriptors, zero before SET_VRING_NUM.
    pub size: u16,
    /// Between SET_VRING_KICK and GET_VRING_BASE.
    pub started: bool,
    /// The device is processing it. Started but not running means that its memory is not there (yet).
    pub running: bool,
    /// Enabled by SET_VRING_ENABLE, or from the start where that is not negotiated.
    pub enabled: bool,
}

/// A snapshot of a session, for people and for the statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionInfo {
    /// Virtio features accepted, bit 30 included.
    pub features: u64,
    /// Protocol features accepted.
    pub protocol_features: ProtocolFeatures,
    /// Device status as the driver wrote it, zero if the front end does not tell.
    pub status: u8,
    /// The rings.
    pub queues: Vec<QueueInfo>,
    /// Guest memory, by guest address.
    pub memory: Vec<RegionSpec>,
    /// Whether in-flight requests are tracked.
    pub inflight: bool,
}

/// One connection's state.
pub struct Session<'device> {
    pub(super) device: &'device mut dyn VirtioDevice,
    pub(super) rings: Vec<Ring>,
    pub(super) memory: Option<Arc<GuestMemory>>,
    pub(super) inflight: Option<Arc<InflightRegion>>,
    /// As the front end set them, bit 30 included; `None` before SET_FEATURES.
    pub(super) features: Option<u64>,
    protocol: ProtocolFeatures,
    front_end: FrontEnd,
    owned: bool,
    status: u8,
    features_refused: bool,
}

impl<'device> Session<'device> {
    /// Begins a session on an idle device.
    pub fn new(device: &'device mut dyn VirtioDevice) -> Self {
        let front_end = FrontEnd::default();
        device.attach_front_end(front_end.clone());
        let rings = (0..device.queue_count()).map(|_| Ring::default()).collect();
        Self {
            device,
            rings,
            memory: None,
            inflight: None,
            features: None,
            protocol: ProtocolFeatures::empty(),
            front_end,
            owned: false,
            status: 0,
            features_refused: false,
        }
    }

    /// Handles one message.
    pub fn handle(&mut self, message: Message) -> Verdict {
        let id = message.header.request;
        let asked = message.header.flags & FLAG_NEED_REPLY != 0;
        let payload_size = message.payload.len();
        let Some(rule) = MessageId(id).rule() else {
            let error = VhostUserError::Unknown {
                request: MessageId(id),
                last: RULES.len(),
            };
            return match asked && self.protocol.contains(ProtocolFeatures::REPLY_ACK) {
                true => Verdict::Refused(Some(Reply::number(id, 1)), error),
                false => Verdict::Close(error),
            };
        };
        let result = self
            .check(rule, &message)
            .and_then(|()| self.dispatch(rule.request, message));
        let acknowledge = asked && self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        match result {
            Ok(Outcome::Reply(payload, fd)) => Verdict::Done(Some(Reply {
                request: id,
                payload,
                fd,
            })),
            Ok(Outcome::Done) => Verdict::Done(acknowledge.then(|| Reply::number(id, 0))),
            Err(error) if rule.answer == Answer::Reply => match refusal(rule.request, payload_size)
            {
                Some(payload) => Verdict::Refused(Some(Reply::new(rule.request, &payload)), error),
                None => Verdict::Close(error),
            },
            Err(error) if acknowledge => Verdict::Refused(Some(Reply::number(id, 1)), error),
            Err(error) if rule.failure == Failure::Continue => Verdict::Refused(None, error),
            Err(error) => Verdict::Close(error),
        }
    }

    /// The state of the session now.
    pub fn info(&self) -> SessionInfo {
        let queue = |(index, ring): (usize, &Ring)| QueueInfo {
            index: index as u16,
            size: ring.size,
            started: ring.started,
            running: ring.running,
            enabled: self.is_enabled(ring),
        };
        SessionInfo {
            features: self.features.unwrap_or(0),
            protocol_features: self.protocol,
            status: self.status,
            queues: self.rings.iter().enumerate().map(queue).collect(),
            memory: self
                .memory
                .iter()
                .flat_map(|memory| memory.regions().copied())
                .collect(),
            inflight: self.inflight.is_some(),
        }
    }

    fn check(&self, rule: &Rule, message: &Message) -> Result<(), VhostUserError> {
        let request = rule.request.into();
        let size = message.payload.len();
        if !rule.payload.contains(&(size as u32)) {
            return Err(VhostUserError::PayloadSize {
                request,
                size,
                expected: rule.payload.clone(),
            });
        }
        if !rule.fds.contains(&message.fds.len()) {
            return Err(VhostUserError::FdCount {
                request,
                count: message.fds.len(),
                expected: rule.fds.clone(),
            });
        }
        if rule.stage == Stage::Owned && !self.owned {
            return Err(VhostUserError::Order {
                request,
                expected: "SET_OWNER",
            });
        }
        if !self.protocol.contains(rule.needs) {
            return Err(VhostUserError::NotNegotiated {
                request,
                needs: rule.needs,
            });
        }
        Ok(())
    }

    fn dispatch(&mut self, request: Request, message: Message) -> Handled {
        let Message {
            payload, mut fds, ..
        } = message;
        let fd = fds.pop();
        match request {
            Request::GetFeatures => number(self.offered_features()),
            Request::SetFeatures => self.set_features(parse(request, &payload)?),
            Request::SetOwner => {
                self.owned = true;
                Ok(Outcome::Done)
            }
            Request::ResetOwner => {
                // Deprecated; the specification wants no more than disabled rings.
                self.disable_all();
                Ok(Outcome::Done)
            }
            Request::SetMemTable => {
                fds.extend(fd);
                self.set_memory_table(&payload, fds)
            }
            // The descriptor is closed: nothing is logged that it could announce.
            Request::SetLogFd => Ok(Outcome::Done),
            Request::SetVringNum => self.set_ring_size(parse(request, &payload)?),
            Request::SetVringAddr => self.set_ring_addresses(parse(request, &payload)?),
            Request::SetVringBase => self.set_ring_base(parse(request, &payload)?),
            Request::GetVringBase => self.get_ring_base(parse(request, &payload)?),
            Request::SetVringKick => self.set_ring_kick(parse(request, &payload)?, fd),
            Request::SetVringCall => self.set_ring_call(parse(request, &payload)?, fd),
            Request::SetVringErr => self.set_ring_error(parse(request, &payload)?, fd),
            Request::SetVringEnable => self.set_ring_enable(parse(request, &payload)?),
            Request::GetProtocolFeatures => number(self.offered_protocol_features().bits()),
            Request::SetProtocolFeatures => self.set_protocol_features(parse(request, &payload)?),
            Request::GetQueueNum => number(self.queue_number()),
            Request::SendRarp => {
                let mac: [u8; 8] = parse(request, &payload)?;
                self.device(request, |device| {
                    device.send_rarp([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
                })
            }
            Request::NetSetMtu => self.set_mtu(parse(request, &payload)?),
            Request::SetBackendReqFd => self.set_channel(request, fd),
            Request::GetConfig => self.get_config(payload),
            Request::SetConfig => self.set_config(&payload),
            Request::GetInflightFd => self.get_inflight(&payload),
            Request::SetInflightFd => self.set_inflight(&payload, fd),
            Request::ResetDevice => {
                self.reset_device();
                Ok(Outcome::Done)
            }
            Request::GetMaxMemSlots => number(super::rings::MAX_MEMORY_SLOTS as u64),
            Request::AddMemReg => self.add_memory_region(parse(request, &payload)?, fd),
            Request::RemMemReg => self.remove_memory_region(parse(request, &payload)?),
            Request::SetStatus => self.set_status(parse(request, &payload)?),
            Request::GetStatus => number(self.status.into()),
            Request::SetLogBase
            | Request::IotlbMsg
            | Request::SetVringEndian
            | Request::CreateCryptoSession
            | Request::CloseCryptoSession
            | Request::PostcopyAdvise
            | Request::PostcopyListen
            | Request::PostcopyEnd
            | Request::GpuSetSocket
            | Request::VringKick
            | Request::GetSharedObject
            | Request::SetDeviceStateFd
            | Request::CheckDeviceState
            | Request::GetShmemConfig => Err(VhostUserError::NotServed {
                request: request.into(),
            }),
        }
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | ring::VHOST_USER_PROTOCOL_FEATURES
    }

    fn offered_protocol_features(&self) -> ProtocolFeatures {
        self.device.protocol_features() & ProtocolFeatures::IMPLEMENTED
    }

    /// Network devices count queue pairs, all others queues.
    fn queue_number(&self) -> u64 {
        let queues = self.rings.len() as u64;
        match self.device.device_type() {
            DeviceType::Net => queues / 2,
            DeviceType::Block => queues,
        }
    }

    fn set_features(&mut self, features: u64) -> Handled {
        let request = MessageId::from(Request::SetFeatures);
        let offered = self.offered_features();
        let unknown = features & !offered;
        self.features_refused = true;
        if unknown != 0 {
            return Err(VhostUserError::NotOffered {
                request,
                unknown,
                offered,
            });
        }
        if self.features != Some(features) {
            if self.rings.iter().any(|ring| ring.running) {
                return Err(VhostUserError::Order {
                    request,
                    expected: "GET_VRING_BASE of the running rings",
                });
            }
            self.device
                .accept_features(features & !ring::VHOST_USER_PROTOCOL_FEATURES)
                .map_err(|source| VhostUserError::Device { request, source })?;
            self.features = Some(features);
        }
        self.features_refused = false;
        Ok(Outcome::Done)
    }

    fn set_protocol_features(&mut self, bits: u64) -> Handled {
        let offered = self.offered_protocol_features().bits();
        let unknown = bits & !offered;
        if unknown != 0 {
            let request = Request::SetProtocolFeatures.into();
            return Err(VhostUserError::NotOffered {
                request,
                unknown,
                offered,
            });
        }
        self.protocol = ProtocolFeatures::from_bits_truncate(bits);
        Ok(Outcome::Done)
    }

    fn set_mtu(&mut self, mtu: u64) -> Handled {
        let request = Request::NetSetMtu;
        match u16::try_from(mtu) {
            Ok(bytes) if mtu >= MIN_MTU => self.device(request, |device| device.set_mtu(bytes)),
            _ => Err(VhostUserError::Value {
                request: request.into(),
                what: "MTU",
                value: mtu,
                expected: "68 to 65535",
            }),
        }
    }

    fn set_channel(&mut self, request: Request, fd: Option<OwnedFd>) -> Handled {
        let not_a_socket = || VhostUserError::NotASocket {
            request: request.into(),
        };
        let fd = fd.ok_or_else(not_a_socket)?;
        let local = sockopt::socket_domain(&fd).is_ok_and(|domain| domain == AddressFamily::UNIX);
        let stream = sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
        if !local || !stream {
            return Err(not_a_socket());
        }
        self.front_end
            .open(fd, self.protocol.contains(ProtocolFeatures::CONFIG));
        Ok(Outcome::Done)
    }

    fn get_config(&mut self, mut payload: Vec<u8>) -> Handled {
        let config = config_access(Request::GetConfig, &payload)?;
        let data = &mut payload[size_of::<ConfigHeader>()..];
        data.fill(0);
        self.device
            .read_config(config.offset, data)
            .map_err(|source| VhostUserError::Device {
                request: Request::GetConfig.into(),
                source,
            })?;
        Ok(Outcome::Reply(payload, None))
    }

    fn set_config(&mut self, payload: &[u8]) -> Handled {
        let request = Request::SetConfig;
        let config = config_access(request, payload)?;
        if config.flags > 1 {
            return Err(VhostUserError::Value {
                request: request.into(),
                what: "flags",
                value: config.flags.into(),
                expected: "0 or 1",
            });
        }
        self.device(request, |device| {
            device.write_config(config.offset, &payload[size_of::<ConfigHeader>()..])
        })
    }

    fn get_inflight(&mut self, payload: &[u8]) -> Handled {
        let request = MessageId::from(Request::GetInflightFd);
        let mut description = inflight_description(payload);
        if usize::from(description.queues) > self.rings.len() {
            return Err(VhostUserError::RingIndex {
                request,
                index: u64::from(description.queues) - 1,
                count: self.rings.len() as u16,
            });
        }
        let (fd, size) = inflight::create(description.queues, description.queue_size)
            .map_err(|source| VhostUserError::Inflight { request, source })?;
        description.mmap_size = size;
        description.mmap_offset = 0;
        // Front ends expect the size that they use themselves, with or without padding.
        Ok(Outcome::Reply(
            description.as_bytes()[..payload.len()].to_vec(),
            Some(fd),
        ))
    }

    fn set_inflight(&mut self, payload: &[u8], fd: Option<OwnedFd>) -> Handled {
        let request = MessageId::from(Request::SetInflightFd);
        if self.rings.iter().any(|ring| ring.running) {
            return Err(VhostUserError::Order {
                request,
                expected: "GET_VRING_BASE of the running rings",
            });
        }
        let InflightDescription {
            mmap_size,
            mmap_offset,
            queues,
            queue_size,
            ..
        } = inflight_description(payload);
        let fd = fd.ok_or(VhostUserError::FdCount {
            request,
            count: 0,
            expected: 1..=1,
        })?;
        let region = InflightRegion::map(fd, mmap_size, mmap_offset, queues, queue_size)
            .map_err(|source| VhostUserError::Inflight { request, source })?;
        self.inflight = Some(region);
        Ok(Outcome::Done)
    }

    fn set_status(&mut self, value: u64) -> Handled {
        let Ok(mut status) = u8::try_from(value) else {
            let request = Request::SetStatus.into();
            return Err(VhostUserError::Value {
                request,
                what: "status",
                value,
                expected: "0 to 255",
            });
        };
        if self.features_refused {
            status &= !STATUS_FEATURES_OK;
        }
        if status == 0 {
            self.stop_all();
            self.rings.iter_mut().for_each(|ring| ring.started = false);
        }
        self.status = status;
        self.device.status_changed(status);
        Ok(Outcome::Done)
    }

    /// Everything about the driver is forgotten; memory, protocol features and ownership belong to the front end and
    /// stay, because it does not send them again.
    fn reset_device(&mut self) {
        self.reset_rings();
        self.features = None;
        self.features_refused = false;
        self.inflight = None;
        self.status = 0;
        self.device.reset();
    }

    /// Calls the device and names the message in its error.
    fn device(
        &mut self,
        request: Request,
        call: impl FnOnce(&mut dyn VirtioDevice) -> Result<(), DeviceError>,
    ) -> Handled {
        call(self.device)
            .map(|()| Outcome::Done)
            .map_err(|source| VhostUserError::Device {
                request: request.into(),
                source,
            })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.front_end.close();
        self.stop_all();
        self.device.reset();
    }
}

pub(super) fn number(value: u64) -> Handled {
    Ok(Outcome::Reply(value.to_ne_bytes().to_vec(), None))
}

/// A fixed-size payload. The rules have checked the size, so a failure means that rule and structure disagree.
fn parse<T: FromBytes>(request: Request, payload: &[u8]) -> Result<T, VhostUserError> {
    T::read_from_bytes(payload).map_err(|_| VhostUserError::PayloadSize {
        request: request.into(),
        size: payload.len(),
        expected: request.rule().payload.clone(),
    })
}

/// The header of a configuration access whose size agrees with the bytes that follow.
fn config_access(request: Request, payload: &[u8]) -> Result<ConfigHeader, VhostUserError> {
    let (config, data): (ConfigHeader, _) = match ConfigHeader::read_from_prefix(payload) {
        Ok(split) => split,
        Err(_) => return parse(request, payload),
    };
    if config.size as usize != data.len() {
        return Err(VhostUserError::PayloadCount {
            request: request.into(),
            size: payload.len(),
            what: "size",
            count: config.size,
            expected: size_of::<ConfigHeader>() as u64 + u64::from(config.size),
        });
    }
    if u64::from(config.offset) + u64::from(config.size) > MAX_CONFIG as u64 {
        return Err(VhostUserError::Value {
            request: request.into(),
            what: "end of the access",
            value: u64::from(config.offset) + u64::from(config.size),
            expected: "at most 256",
        });
    }
    Ok(config)
}

/// The description, whatever part of its padding was sent.
fn inflight_description(payload: &[u8]) -> InflightDescription {
    let mut bytes = [0u8; size_of::<InflightDescription>()];
    bytes[..INFLIGHT_UNPADDED].copy_from_slice(&payload[..INFLIGHT_UNPADDED]);
    zerocopy::transmute!(bytes)
}

/// What a message with a reply of its own is answered when it fails; `None` where no such answer exists.
fn refusal(request: Request, payload_size: usize) -> Option<Vec<u8>> {
    match request {
        // "zero length of payload to indicate an error"; and no descriptor where one was expected.
        Request::GetConfig | Request::PostcopyAdvise | Request::GetSharedObject => Some(Vec::new()),
        Request::IotlbMsg | Request::PostcopyEnd | Request::CheckDeviceState => {
            Some(1u64.to_ne_bytes().to_vec())
        }
        // Bits 0 to 7: the error; bit 8: no descriptor comes along.
        Request::SetDeviceStateFd => Some(0x101u64.to_ne_bytes().to_vec()),
        Request::GetInflightFd
            if (INFLIGHT_UNPADDED..=size_of::<InflightDescription>()).contains(&payload_size) =>
        {
            Some(vec![0; payload_size])
        }
        _ => None,
    }
}

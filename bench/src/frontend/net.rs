//! A virtio-net driver (virtio 1.2, section 5.1) with one queue pair over one vhost-user session: queue 0 receives, 1 sends.
//!
//! Whole frames in single buffers, each after the 12-byte header of virtio 1.0; no offloads. It is for tests and latency,
//! not for throughput.

use super::guest_memory::{Backing, Window};
use super::session::Session;
use super::split::{Buffer, SplitQueue};
use super::wire::{feature, protocol_feature};
use super::{FrontendError, GuestMemory};
use std::path::Path;
use std::time::Duration;

/// Bytes of the header before every frame.
pub const HEADER_LEN: usize = 12;
const BUFFER_LEN: u64 = 2048;
const BASE: u64 = 0x1_0000_0000;
const PATIENCE: Duration = Duration::from_secs(10);

/// The driver of one port.
pub struct NetPort {
    session: Session,
    receive: SplitQueue,
    send: SplitQueue,
    receive_data: Window,
    receive_gpa: u64,
    send_data: Window,
    send_gpa: u64,
    send_free: Vec<u16>,
    features: u64,
    // Last: the rings above point into it.
    memory: GuestMemory,
}

impl NetPort {
    /// Connects to the port at `path` (waiting up to ten seconds for it), negotiates `wanted` features besides those
    /// needed, posts a full ring of receive buffers and starts both queues.
    ///
    /// # Errors
    /// Any [`FrontendError`] of the session, the memory or the rings.
    pub fn open(path: &Path, queue_size: u16, wanted: u64) -> Result<Self, FrontendError> {
        let mut session = Session::connect_within(path, PATIENCE)?;
        let protocol = protocol_feature::MQ | protocol_feature::REPLY_ACK;
        let needed = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        let features = session.negotiate(wanted | feature::NET_MRG_RXBUF, needed, protocol)?;
        let data_len = u64::from(queue_size) * BUFFER_LEN;
        let size = (2 * data_len + 128 * u64::from(queue_size) + 0x20000).next_multiple_of(4096);
        let mut memory = GuestMemory::new(&[(BASE, size)], Backing::Pages)?;
        let event_idx = features & feature::EVENT_IDX != 0;
        let mut receive = SplitQueue::new(&mut memory, queue_size, event_idx)?;
        let send = SplitQueue::new(&mut memory, queue_size, event_idx)?;
        let receive_gpa = memory.alloc(data_len, 4096)?;
        let send_gpa = memory.alloc(data_len, 4096)?;
        for slot in 0..queue_size {
            let gpa = receive_gpa + u64::from(slot) * BUFFER_LEN;
            receive.add(
                &[Buffer {
                    gpa,
                    len: BUFFER_LEN as u32,
                    writable: true,
                }],
                slot.into(),
            )?;
        }
        receive.publish();
        session.set_mem_table(&memory)?;
        session.start_queue(0, &receive, &memory)?;
        session.start_queue(1, &send, &memory)?;
        Ok(Self {
            session,
            receive,
            send,
            receive_data: memory.window(receive_gpa, data_len)?,
            receive_gpa,
            send_data: memory.window(send_gpa, data_len)?,
            send_gpa,
            send_free: (0..queue_size).collect(),
            features,
            memory,
        })
    }

    /// virtio features in force.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The memory that the device maps.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The queues: receive and send.
    pub fn queues(&mut self) -> (&mut SplitQueue, &mut SplitQueue) {
        (&mut self.receive, &mut self.send)
    }

    /// Puts one frame, with an empty header, into the sending ring and notifies the device if it asks for that.
    /// Returns whether it was notified.
    ///
    /// # Errors
    /// [`FrontendError::QueueFull`]; also for a frame over 2,036 bytes.
    pub fn send(&mut self, frame: &[u8]) -> Result<bool, FrontendError> {
        let len = HEADER_LEN + frame.len();
        let slot = match self.send_free.pop() {
            Some(slot) if len <= BUFFER_LEN as usize => slot,
            _ => {
                return Err(FrontendError::QueueFull {
                    free: self.send.free(),
                    needed: 1,
                });
            }
        };
        let at = usize::from(slot) * BUFFER_LEN as usize;
        self.send_data.write(at, &[0; HEADER_LEN]);
        self.send_data.write(at + HEADER_LEN, frame);
        let buffer = Buffer {
            gpa: self.send_gpa + at as u64,
            len: len as u32,
            writable: false,
        };
        self.send.add(&[buffer], slot.into())?;
        self.send.publish_and_kick()
    }

    /// Whether the device has returned another sent frame's buffer.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`].
    pub fn sent(&mut self) -> Result<bool, FrontendError> {
        let used = self.send.poll_used()?;
        self.send_free.extend(used.map(|used| used.token as u16));
        Ok(used.is_some())
    }

    /// The next received frame, without its header; its buffer is posted again.
    ///
    /// # Errors
    /// [`FrontendError::BadUsed`]; also if the device claims more than the buffer or less than a header.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, FrontendError> {
        let Some(used) = self.receive.poll_used()? else {
            return Ok(None);
        };
        let len = used.len as usize;
        if len < HEADER_LEN || len > BUFFER_LEN as usize {
            return Err(FrontendError::BadUsed {
                id: used.token as u32,
            });
        }
        let at = used.token as usize * BUFFER_LEN as usize;
        let mut frame = vec![0; len - HEADER_LEN];
        self.receive_data.read(at + HEADER_LEN, &mut frame);
        let gpa = self.receive_gpa + at as u64;
        self.receive.add(
            &[Buffer {
                gpa,
                len: BUFFER_LEN as u32,
                writable: true,
            }],
            used.token,
        )?;
        self.receive.publish_and_kick()?;
        Ok(Some(frame))
    }
}

//! Shows what a vhost-user front end says: serves one connection with a device that accepts every queue and processes
//! none, and prints each message with its bytes, its descriptors and the answer.
//!
//! `cargo run -p sumeru-virtio --example handshake -- /tmp/vhost.sock net` (or `blk`), then start a front end, for
//! example `dpdk-testpmd --no-pci --in-memory --single-file-segments --vdev
//! net_virtio_user0,path=/tmp/vhost.sock -- --total-num-mbufs=2048`. Ends when the front end leaves.

use std::io;
use std::os::unix::net::UnixListener;

use sumeru_virtio::device::{DeviceError, DeviceType, QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::{self, ProtocolFeatures};
use sumeru_virtio::vhost_user::codec::{Received, receive, transmit};
use sumeru_virtio::vhost_user::message::MessageId;
use sumeru_virtio::vhost_user::{Decoder, FrontEnd, Session, Verdict};

/// A device without a data path.
struct Mute {
    kind: DeviceType,
    queues: Vec<Option<QueueSetup>>,
}

impl Mute {
    fn running(&mut self, index: u16) -> Result<&mut QueueSetup, DeviceError> {
        let queue = self.queues.get_mut(usize::from(index));
        queue
            .and_then(Option::as_mut)
            .ok_or(DeviceError::NotRunning { index })
    }
}

impl VirtioDevice for Mute {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn features(&self) -> u64 {
        let ring =
            features::ring::VERSION_1 | features::ring::INDIRECT_DESC | features::ring::EVENT_IDX;
        let own = match self.kind {
            DeviceType::Net => {
                features::net::MRG_RXBUF
                    | features::net::MQ
                    | features::net::CTRL_VQ
                    | features::net::MAC
                    | features::net::STATUS
                    | features::net::CSUM
                    | features::net::GUEST_CSUM
                    | features::net::MTU
            }
            DeviceType::Block => features::blk::FLUSH | features::blk::MQ | features::blk::BLK_SIZE,
        };
        ring | own
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        let own = match self.kind {
            // QEMU warns about a network device that offers CONFIG.
            DeviceType::Net => ProtocolFeatures::NET_MTU | ProtocolFeatures::RARP,
            DeviceType::Block => ProtocolFeatures::CONFIG | ProtocolFeatures::INFLIGHT_SHMFD,
        };
        ProtocolFeatures::TRANSPORT | own
    }

    fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    fn attach_front_end(&mut self, _front_end: FrontEnd) {}

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError> {
        // A block device of 2048 sectors with 512-byte blocks; a network device with a fixed address.
        let mut space = [0u8; 64];
        match self.kind {
            DeviceType::Net => {
                space[..6].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
                space[6] = 1;
                space[8] = 2;
                space[10..12].copy_from_slice(&1500u16.to_le_bytes());
            }
            DeviceType::Block => {
                space[..8].copy_from_slice(&2048u64.to_le_bytes());
                space[20..24].copy_from_slice(&512u32.to_le_bytes());
                space[34] = self.queues.len() as u8;
            }
        }
        for (target, source) in data.iter_mut().zip(space.iter().skip(offset as usize)) {
            *target = *source;
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::ConfigNotWritable {
            offset,
            end: offset + data.len() as u32,
        })
    }

    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError> {
        println!("    device: features {features:#x}");
        Ok(())
    }

    fn start_queue(&mut self, setup: QueueSetup) -> Result<(), DeviceError> {
        println!(
            "    device: queue {} starts, {} descriptors, index {}, {}",
            setup.index,
            setup.size,
            setup.last_available,
            if setup.enabled { "enabled" } else { "disabled" }
        );
        let index = usize::from(setup.index);
        self.queues[index] = Some(setup);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError> {
        let next = self.running(index)?.last_available;
        self.queues[usize::from(index)] = None;
        println!("    device: queue {index} stops at {next}");
        Ok(next)
    }

    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError> {
        self.running(index)?.enabled = enabled;
        println!("    device: queue {index} enabled {enabled}");
        Ok(())
    }

    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError> {
        self.running(index)?.call = call;
        Ok(())
    }

    fn set_queue_error(&mut self, index: u16, error: Option<Eventfd>) -> Result<(), DeviceError> {
        self.running(index)?.error = error;
        Ok(())
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), DeviceError> {
        println!("    device: MTU {mtu}");
        Ok(())
    }

    fn send_rarp(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        println!("    device: RARP for {mac:x?}");
        Ok(())
    }

    fn status_changed(&mut self, status: u8) {
        println!("    device: status {status:#x}");
    }

    fn reset(&mut self) {
        println!("    device: reset");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> io::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(kind)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("expected: handshake SOCKET net|blk"));
    };
    let kind = match kind.as_str() {
        "net" => DeviceType::Net,
        "blk" => DeviceType::Block,
        other => {
            return Err(io::Error::other(format!(
                "device {other}, expected net or blk"
            )));
        }
    };
    let mut device = Mute {
        kind,
        queues: (0..4).map(|_| None).collect(),
    };
    let listener = UnixListener::bind(&path)?;
    println!("listening at {path}");
    let (stream, _) = listener.accept()?;
    std::fs::remove_file(&path)?;
    let mut session = Session::new(&mut device);
    let mut decoder = Decoder::default();
    loop {
        let message = match receive(&stream, &mut decoder).map_err(io::Error::other)? {
            Received::Message(message) => message,
            Received::Partial | Received::Nothing => continue,
            Received::Closed => break,
        };
        let id = MessageId(message.header.request);
        println!(
            "{id} flags={:#x} fds={} payload={}",
            message.header.flags,
            message.fds.len(),
            hex(&message.payload)
        );
        let reply = match session.handle(message) {
            Verdict::Done(reply) => reply,
            Verdict::Refused(reply, error) => {
                println!("    refused: {error}");
                reply
            }
            Verdict::Close(error) => {
                println!("    closed: {error}");
                break;
            }
        };
        if let Some(reply) = reply {
            println!(
                "    reply fd={} payload={}",
                reply.fd.is_some(),
                hex(&reply.payload)
            );
            transmit(&stream, &reply.to_bytes(), reply.fd.as_ref(), 0).map_err(io::Error::other)?;
        }
    }
    println!("{:#?}", session.info());
    Ok(())
}

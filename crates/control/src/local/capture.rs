//! Captures: a thread that writes what the switch has seen to a pcapng file (draft-ietf-opsawg-pcapng), one interface per port,
//! with direction and, for frames that were dropped, the reason as a comment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use sumeru_switch::capture::Seen;
use sumeru_switch::selection::Direction;
use sumeru_switch::switch::Capturing;

use crate::dataplane::{Capture, CaptureState};

/// How often the writer looks for frames.
const PERIOD: Duration = Duration::from_millis(20);
/// Nanoseconds, as the interface blocks say.
const NANOSECONDS: u8 = 9;

/// A capture that runs.
pub struct Recorder {
    capture: Capture,
    number: u64,
    shared: Arc<Shared>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    ended: AtomicBool,
    packets: AtomicU64,
}

impl Recorder {
    /// Starts the writer of what the switch sees under a number. `names` are those of the ports by index.
    pub fn start(
        capture: Capture,
        file: File,
        (number, seen): (u64, Capturing),
        names: BTreeMap<u16, String>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, path) = (shared.clone(), capture.path.clone());
        let limits = Limits {
            packets: capture.max_packets.unwrap_or(u64::MAX),
            bytes: capture.max_bytes.unwrap_or(u64::MAX),
            until: capture
                .max_seconds
                .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        };
        let lost = seen.lost.clone();
        let writer = Writer::new(file, names, capture.snaplen)?;
        let run = move || {
            let ended = seen.ended.clone();
            if let Err(error) = record(writer, seen, &theirs, &limits) {
                tracing::error!(%path, %error, "the capture ended");
            }
            // Nothing is copied any more for a file that is complete.
            ended.store(true, Ordering::Relaxed);
            theirs.ended.store(true, Ordering::Release);
        };
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .stack_size(256 << 10)
            .spawn(run)?;
        Ok(Self {
            capture,
            number,
            shared,
            lost,
            thread: Some(thread),
        })
    }

    /// The number under which the switch knows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it came to so far.
    pub fn state(&self) -> CaptureState {
        CaptureState {
            capture: self.capture.clone(),
            packets: self.shared.packets.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            running: !self.shared.ended.load(Ordering::Acquire),
        }
    }

    /// Writes what is left and closes the file.
    pub fn finish(mut self) -> CaptureState {
        self.end();
        self.state()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

/// When a capture ends by itself.
struct Limits {
    packets: u64,
    bytes: u64,
    until: Option<Instant>,
}

fn record(
    mut writer: Writer,
    mut seen: Capturing,
    shared: &Shared,
    limits: &Limits,
) -> io::Result<()> {
    let mut packets = 0;
    let over = || limits.until.is_some_and(|until| Instant::now() >= until);
    loop {
        // Read before the ring is emptied: what came before the stop is still written.
        let stop = shared.stop.load(Ordering::Acquire);
        // So many at most: frames may come faster than they are written, and then it is never empty.
        for _ in 0..sumeru_switch::switch::DEPTH {
            let Some(frame) = seen.take() else {
                break;
            };
            if over() {
                return writer.flush();
            }
            if packets >= limits.packets || writer.after(&frame) > limits.bytes {
                return writer.flush();
            }
            writer.write(&frame)?;
            packets += 1;
            shared.packets.store(packets, Ordering::Relaxed);
        }
        writer.flush()?;
        if stop || over() || packets >= limits.packets {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
    }
}

/// The file.
struct Writer {
    to: PcapNgWriter<BufWriter<File>>,
    interfaces: BTreeMap<u16, u32>,
    names: BTreeMap<u16, String>,
    snaplen: u32,
    /// Bytes of the blocks so far, at most.
    written: u64,
}

/// Most bytes of a block besides a frame and names: its header, options and their padding.
const BLOCK: u64 = 128;

impl Writer {
    fn new(file: File, names: BTreeMap<u16, String>, snaplen: u32) -> io::Result<Self> {
        let to = PcapNgWriter::new(BufWriter::new(file)).map_err(io::Error::other)?;
        Ok(Self {
            to,
            interfaces: BTreeMap::new(),
            names,
            snaplen,
            written: BLOCK,
        })
    }

    /// The length of the file with another frame, at most.
    fn after(&self, seen: &Seen) -> u64 {
        let name = self.names.get(&seen.port).map_or(0, String::len);
        let interface = match self.interfaces.contains_key(&seen.port) {
            true => 0,
            false => BLOCK + name as u64,
        };
        self.written + BLOCK + seen.bytes.len() as u64 + interface
    }

    /// The interface block of a port, written when its first frame comes.
    fn interface(&mut self, port: u16) -> io::Result<u32> {
        if let Some(id) = self.interfaces.get(&port) {
            return Ok(*id);
        }
        let name = self
            .names
            .get(&port)
            .cloned()
            .unwrap_or_else(|| port.to_string());
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.to
            .write_pcapng_block(block)
            .map_err(io::Error::other)?;
        let id = self.interfaces.len() as u32;
        self.interfaces.insert(port, id);
        Ok(id)
    }

    fn write(&mut self, seen: &Seen) -> io::Result<()> {
        self.written = self.after(seen);
        let interface_id = self.interface(seen.port)?;
        // Bits 0 and 1 of epb_flags: 1 inbound, 2 outbound.
        let direction = match seen.direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if let Some(reason) = seen.dropped {
            options.push(EnhancedPacketOption::Comment(Cow::Owned(format!(
                "dropped: {}",
                reason.as_str()
            ))));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: seen.time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            original_len: seen.len,
            data: Cow::Borrowed(&seen.bytes),
            options,
        };
        self.to
            .write_pcapng_block(block)
            .map_err(io::Error::other)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.get_mut().flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use sumeru_engine::spsc;

    use super::*;

    /// Frames that never cease do not keep a capture from ending when its time is over.
    #[test]
    fn a_capture_ends_while_frames_still_come() {
        let (mut to, seen) = spsc::channel(64);
        let frame = Seen {
            time: SystemTime::now(),
            port: 1,
            direction: Direction::In,
            dropped: None,
            len: 60,
            bytes: Box::new([0; 60]),
        };
        for _ in 0..64 {
            to.push(frame.clone()).unwrap();
        }
        let path = std::env::temp_dir().join(format!("sumeru-capture-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let writer = Writer::new(file, BTreeMap::new(), 60).unwrap();
        let seen = Capturing {
            seen,
            waiting: Arc::default(),
            lost: Arc::default(),
            ended: Arc::default(),
        };
        let limits = Limits {
            packets: u64::MAX,
            bytes: u64::MAX,
            until: Some(Instant::now()),
        };
        let shared = Shared::default();
        record(writer, seen, &shared, &limits).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(shared.packets.load(Ordering::Relaxed), 0);
    }
}

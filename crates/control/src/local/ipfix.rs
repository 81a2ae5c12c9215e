//! IPFIX over UDP (RFC 7011 section 10.3): a thread that sends the records of a flow meter to a collector.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sumeru_engine::spsc::Consumer;
use sumeru_packet::ipfix::{Message, Record};

use crate::model::ExporterSpec;

/// How often the thread looks for records.
const PERIOD: Duration = Duration::from_millis(100);
/// Longest message: it passes every link that IPv6 has, with room for tunnels (RFC 7011 section 10.3.3).
const MESSAGE: usize = 1200;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    records: AtomicU64,
    lost: AtomicU64,
}

/// An exporter that runs.
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Opens a socket to the collector.
    ///
    /// # Errors
    /// The collector cannot be reached at all, as the system sees it.
    pub fn socket(collector: SocketAddr) -> io::Result<UdpSocket> {
        let any: SocketAddr = match collector {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(collector)?;
        // A full queue of an interface is not waited for.
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Starts to send what arrives.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        socket: UdpSocket,
        spec: &ExporterSpec,
        records: Consumer<Record>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut stream = Stream {
            socket,
            domain: spec.domain,
            period: Duration::from_secs(spec.template_s.into()),
            template_due: Instant::now(),
            sequence: 0,
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("ipfix".into())
            .stack_size(128 << 10)
            .spawn(move || stream.run(records))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Records that the collector was sent, and those that the system did not send.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.records), count(&self.shared.lost))
    }
}

impl Drop for Sender {
    /// Sends what is left.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The messages of one exporter to its collector.
struct Stream {
    socket: UdpSocket,
    domain: u32,
    period: Duration,
    template_due: Instant,
    /// Records in all messages so far, modulo 2^32.
    sequence: u32,
    shared: Arc<Shared>,
}

impl Stream {
    fn run(&mut self, mut records: Consumer<Record>) {
        loop {
            // Read before the ring is emptied: what came before the stop is still sent.
            let stop = self.shared.stop.load(Ordering::Acquire);
            let mut waiting = records.pop();
            while waiting.is_some() || Instant::now() >= self.template_due {
                self.message(&mut waiting, &mut records);
            }
            if stop {
                return;
            }
            std::thread::sleep(PERIOD);
        }
    }

    /// Sends one message, of as many records as it holds.
    fn message(&mut self, waiting: &mut Option<Record>, records: &mut Consumer<Record>) {
        let mut bytes = [0; MESSAGE];
        let Ok(mut message) = Message::new(&mut bytes) else {
            return;
        };
        let now = Instant::now();
        if now >= self.template_due {
            self.template_due = now + self.period;
            if let Err(error) = message.templates() {
                tracing::error!(%error, "no IPFIX templates");
            }
        }
        while let Some(record) = waiting {
            if !message.record(record) {
                break;
            }
            *waiting = records.pop();
        }
        let told = message.records();
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.unwrap_or_default().as_secs() as u32;
        let len = message.finish(time, self.sequence, self.domain);
        self.sequence = self.sequence.wrapping_add(told);
        // A collector that is not there answers by ICMP, which the next call tells; it may come back.
        let counter = match self.socket.send(&bytes[..len]) {
            Ok(_) => &self.shared.records,
            Err(error) => {
                tracing::debug!(%error, "an IPFIX message was not sent");
                &self.shared.lost
            }
        };
        counter.fetch_add(told.into(), Ordering::Relaxed);
    }
}

//! The lcore: a worker of the switch, the guests at its ports, and the thread that runs both.
//!
//! Port 0 sends, ports 1 to [`PORTS_OUT`] receive. A burst is written into the sender's ring, polled once, and taken out of the receivers'
//! rings; every frame must arrive. The time of a burst is that within `poll`, its rings lie in this thread's own caches.

use super::flows::{FRAME, Flows, Frame};
use crate::frontend::guest_memory::{Backing, GuestMemory, Window};
use crate::frontend::split::{Buffer, SplitQueue};
use crate::histogram::Histogram;
use crate::residence::Residence;
use crate::thread::{Raised, pin_self};
use crate::tsc;
use anyhow::{Context, Result, ensure};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sumeru_engine::publish::Publisher;
use sumeru_engine::{Cx, Poller, Tsc, Watch};
use sumeru_switch::net_header::{Accepts, Lead};
use sumeru_switch::ring::{Receiver, Sender};
use sumeru_switch::rules::SharedRules;
use sumeru_switch::rules::queue::lock;
use sumeru_switch::snapshot::{PortView, Snapshot};
use sumeru_switch::stats::{DropReason, PipelineCounters, PortCounters, Stage};
use sumeru_switch::worker::SwitchWorker;
use sumeru_virtio::{RegionSpec, SplitLayout};

/// Frames of a burst.
pub const BURST: usize = 32;
/// Ports that receive: 1 up to this.
pub const PORTS_OUT: u16 = crate::base_station::PORTS_OUT;
const RING: u16 = 256;
const NET_HEADER: usize = 12;
const BUFFER: usize = 128;
/// Receive buffers of a port.
const POSTED: u16 = 128;
const MEMORY: u64 = 1 << 20;

/// One ring of a guest, and its buffers by token.
struct Ring {
    queue: SplitQueue,
    buffers: Vec<(u64, Window)>,
    // The rings lie in it.
    _memory: GuestMemory,
}

impl Ring {
    fn new(buffers: u16) -> Result<(Self, sumeru_virtio::SplitQueue)> {
        let mut memory = GuestMemory::new(&[(0, MEMORY)], Backing::Pages)?;
        let queue = SplitQueue::new(&mut memory, RING, false)?;
        let buffers = (0..buffers)
            .map(|_| {
                let at = memory.alloc(BUFFER as u64, 64)?;
                Ok((at, memory.window(at, BUFFER as u64)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let regions = memory
            .regions()
            .iter()
            .map(|region| {
                let spec = RegionSpec {
                    guest_address: region.gpa,
                    size: region.size,
                    user_address: region.userspace_addr(),
                    mmap_offset: 0,
                };
                Ok((spec, region.fd().try_clone_to_owned()?))
            })
            .collect::<Result<Vec<_>>>()?;
        let mapped = sumeru_virtio::GuestMemory::map(regions)?;
        let layout = queue.layout();
        let address = |gpa| memory.userspace_addr(gpa, 1);
        let layout = SplitLayout {
            size: RING,
            descriptor_table: address(layout.desc)?,
            driver_area: address(layout.avail)?,
            device_area: address(layout.used)?,
            last_available: 0,
            event_idx: false,
            indirect: false,
        };
        let device = sumeru_virtio::SplitQueue::new(layout, mapped)?;
        let ring = Self {
            queue,
            buffers,
            _memory: memory,
        };
        Ok((ring, device))
    }

    /// Gives the switch buffer `token`, of which it reads `len` bytes or writes all.
    #[inline]
    fn offer(&mut self, token: usize, len: Option<usize>) -> Result<()> {
        let buffer = Buffer {
            gpa: self.buffers[token].0,
            len: len.unwrap_or(BUFFER) as u32,
            writable: len.is_none(),
        };
        self.queue.add(&[buffer], token as u64)?;
        Ok(())
    }

    /// Takes back what the switch has returned; `again` puts it up once more.
    #[inline]
    fn take(&mut self, again: bool) -> Result<u32> {
        let mut count = 0;
        while let Some(used) = self.queue.poll_used()? {
            count += 1;
            if again {
                ensure!(
                    used.len as usize == NET_HEADER + FRAME,
                    "a frame arrived with {} bytes, expected {}",
                    used.len,
                    NET_HEADER + FRAME
                );
                self.offer(used.token as usize, None)?;
            }
        }
        if again {
            self.queue.publish();
        }
        Ok(count)
    }
}

/// A burst that went through.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// Frames that arrived, by port.
    pub arrived: [u32; PORTS_OUT as usize + 1],
    /// TSC cycles within `poll`; none if the thread was preempted meanwhile.
    pub cycles: Option<u64>,
}

/// What some bursts came to.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Frames sent; all arrived.
    pub frames: u64,
    /// Frames of bursts that count.
    counted: u64,
    cycles: u64,
    /// Cycles within `poll` by burst.
    pub residence: Histogram,
    /// Bursts in which the thread was preempted.
    pub excluded: u64,
    /// Frames that the slow path decided.
    pub decided: u64,
}

impl Traffic {
    /// TSC cycles per frame.
    pub fn cycles_per_packet(&self) -> f64 {
        self.cycles as f64 / self.counted.max(1) as f64
    }

    /// Frames per second of the time in `poll`.
    pub fn packets_per_second(&self) -> f64 {
        tsc::hz() / self.cycles_per_packet()
    }
}

/// The switch on one thread, with its guests.
pub struct Lcore {
    worker: SwitchWorker,
    counters: Arc<PipelineCounters>,
    watch: Watch,
    core: usize,
    transmit: Ring,
    receive: Vec<Ring>,
    frame: Frame,
    next: u32,
    fault: Arc<Mutex<Option<String>>>,
    _publisher: Publisher<Snapshot>,
}

impl Lcore {
    fn new(core: usize, rules: &SharedRules) -> Result<Self> {
        let port = |index: u16| PortView {
            index,
            name: format!("port {index}").into(),
            network: None,
            mtu: 1500,
            uplink: false,
            lldp: false,
            shield: None,
        };
        let mut publisher = Publisher::new(Snapshot {
            ports: (0..=PORTS_OUT).map(|index| Some(port(index))).collect(),
            ..Snapshot::default()
        });
        let counters = Arc::new(PipelineCounters::default());
        let fault = Arc::new(Mutex::new(None));
        let told = fault.clone();
        let mut worker = SwitchWorker::new(
            publisher.subscribe(),
            lock(rules).subscribe(),
            counters.clone(),
            Box::new(move |port, queue, fault| {
                *told.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(format!("queue {queue} of port {port} was stopped: {fault}"));
            }),
        );
        let watch = Watch::new()?;
        worker.refresh();
        for index in 0..=PORTS_OUT {
            worker.add_guest(index, 1, Arc::new(PortCounters::default()));
        }
        let (transmit, device) = Ring::new(BURST as u16)?;
        let header = NET_HEADER as u16;
        let lead = Lead::of_driver(header, 0);
        worker.set_sender(0, 0, Some(Sender::new(device, lead, true)), &watch);
        let mut receive = Vec::new();
        for index in 1..=PORTS_OUT {
            let (mut ring, device) = Ring::new(POSTED)?;
            for token in 0..usize::from(POSTED) {
                ring.offer(token, None)?;
            }
            ring.queue.publish();
            let accepts = Accepts {
                partial_csum: false,
                tcp4: false,
                tcp6: false,
                ecn: false,
            };
            let receiver = Receiver::new(device, header, true, accepts, true);
            worker.set_receiver(index, 0, Some(receiver));
            receive.push(ring);
        }
        Ok(Self {
            worker,
            counters,
            watch,
            core,
            transmit,
            receive,
            frame: Frame::default(),
            next: 0,
            fault,
            _publisher: publisher,
        })
    }

    /// Polls without traffic: the worker takes over new rules and looks after its tables.
    pub fn poll(&mut self) -> usize {
        let cx = Cx::new(Tsc::now(), self.core, &self.watch);
        self.worker.poll(&cx)
    }

    /// The next flow sent is the first.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// Entries of the flow cache.
    pub fn cached(&self) -> usize {
        self.worker.cached()
    }

    /// Bytes that the flow cache says it takes up.
    pub fn cache_bytes(&self) -> usize {
        self.worker.cache_bytes()
    }

    /// Sends a burst, the next flows in turn, and sees it arrive.
    #[inline]
    fn burst(&mut self, flows: &Flows, residence: &mut Residence) -> Result<Burst> {
        for token in 0..BURST {
            let frame = self.frame.of(&flows.tuple(self.next));
            // The net header before it stays zero.
            self.transmit.buffers[token].1.write(NET_HEADER, frame);
            self.transmit.offer(token, Some(NET_HEADER + FRAME))?;
            self.next += 1;
            if self.next == flows.count() {
                self.next = 0;
            }
        }
        self.transmit.queue.publish();
        let cx = Cx::new(Tsc::now(), self.core, &self.watch);
        residence.begin()?;
        let moved = self.worker.poll(&cx);
        let cycles = residence.end()?;
        let mut arrived = [0; PORTS_OUT as usize + 1];
        for (count, ring) in arrived[1..].iter_mut().zip(&mut self.receive) {
            *count = ring.take(true)?;
        }
        let returned = self.transmit.take(false)?;
        let all: u32 = arrived.iter().sum();
        if moved != BURST || returned as usize != BURST || all as usize != BURST {
            return Err(self.lost(returned, all));
        }
        Ok(Burst { arrived, cycles })
    }

    #[cold]
    fn lost(&self, returned: u32, arrived: u32) -> anyhow::Error {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let drops: Vec<String> = DropReason::all()
            .map(|reason| (reason, self.counters.drop_count(reason)))
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{count} {reason:?}"))
            .collect();
        anyhow::anyhow!(
            "of a burst of {BURST} frames {returned} were taken and {arrived} arrived; dropped: {}; {}",
            drops.join(", "),
            fault.as_deref().unwrap_or("no queue was stopped")
        )
    }

    /// Sends bursts until `more` says no.
    ///
    /// # Errors
    /// If a frame does not arrive.
    pub fn run(&mut self, flows: &Flows, mut more: impl FnMut(&Burst) -> bool) -> Result<Traffic> {
        let mut residence = Residence::of_this_thread()?;
        let (mut frames, mut counted, mut cycles) = (0, 0, 0);
        let decided = self.counters.stage(Stage::SlowPath);
        loop {
            let burst = self.burst(flows, &mut residence)?;
            frames += BURST as u64;
            if let Some(own) = burst.cycles {
                cycles += own;
                counted += BURST as u64;
            }
            if !more(&burst) {
                break;
            }
        }
        Ok(Traffic {
            frames,
            counted,
            cycles,
            excluded: residence.excluded(),
            residence: residence.histogram().clone(),
            decided: self.counters.stage(Stage::SlowPath) - decided,
        })
    }

    /// Sends every flow `rounds` times.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn rounds(&mut self, flows: &Flows, rounds: u32) -> Result<Traffic> {
        let all = u64::from(flows.count().div_ceil(BURST as u32)) * u64::from(rounds);
        let mut bursts = 0;
        self.run(flows, |_| {
            bursts += 1;
            bursts < all
        })
    }

    /// Sends for so long.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn during(&mut self, flows: &Flows, time: Duration) -> Result<Traffic> {
        let start = Instant::now();
        self.run(flows, |_| start.elapsed() < time)
    }
}

type Task = Box<dyn FnOnce(&mut Lcore) + Send>;

/// The lcore's thread.
pub struct Thread {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

/// What a task will answer.
pub struct Pending<R>(mpsc::Receiver<R>);

impl<R> Pending<R> {
    /// Waits for it.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn wait(self) -> Result<R> {
        self.0.recv().context("the lcore's thread is gone")
    }
}

impl Thread {
    /// Starts a thread on `core` that decides by `rules`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(core: usize, rules: &SharedRules) -> Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        let (started, ready) = mpsc::channel();
        let rules = rules.clone();
        let thread = std::thread::Builder::new()
            .name("lcore".to_owned())
            .spawn(move || {
                let made = pin_self(core)
                    .and_then(|()| Raised::this_thread())
                    .map_err(anyhow::Error::from)
                    .and_then(|raised| Ok((raised, Lcore::new(core, &rules)?)));
                // Nobody waits for it if the starter is gone.
                let (_raised, mut lcore) = match made {
                    Ok(made) => made,
                    Err(error) => return drop(started.send(Err(error))),
                };
                if started.send(Ok(())).is_err() {
                    return;
                }
                loop {
                    match queue.try_recv() {
                        Ok(task) => task(&mut lcore),
                        Err(TryRecvError::Disconnected) => return,
                        Err(TryRecvError::Empty) => {
                            lcore.poll();
                            std::thread::sleep(Duration::from_micros(50));
                        }
                    }
                }
            })?;
        ready.recv().context("the lcore's thread ended")??;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Has the thread do something; what comes out is in the answer.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn begin<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Lcore) -> R + Send + 'static,
    ) -> Result<Pending<R>> {
        let (answer, pending) = mpsc::channel();
        let tasks = self.tasks.as_ref().context("the lcore has ended")?;
        let task: Task = Box::new(move |lcore| drop(answer.send(task(lcore))));
        tasks
            .send(task)
            .ok()
            .context("the lcore's thread is gone")?;
        Ok(Pending(pending))
    }

    /// The same, and waits for it.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn call<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Lcore) -> R + Send + 'static,
    ) -> Result<R> {
        self.begin(task)?.wait()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the lcore's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::flows::{key, mask, to};

    #[test]
    fn frames_go_where_their_rules_say_and_one_that_is_dropped_is_an_error() {
        let rules = SharedRules::default();
        let thread = Thread::start(0, &rules).unwrap();
        let flows = Flows::Scattered(64);
        let mut table = sumeru_switch::rules::FlowQueue::new(rules, Box::new(|| ()));
        for port in [2, 3] {
            let shape = table.shape(0, 1, &mask(), &to(port)).unwrap();
            for number in (0..64).filter(|number| number % 2 == u32::from(port) % 2) {
                table.create(&shape, key(&flows.tuple(number)), 0);
            }
        }
        table.push();
        let sent = flows.clone();
        let (traffic, arrived, cached) = thread
            .call(move |lcore| {
                let mut arrived = Vec::new();
                let traffic = lcore.run(&sent, |burst| {
                    arrived.push(burst.arrived);
                    arrived.len() < 4
                });
                (traffic.unwrap(), arrived, lcore.cached())
            })
            .unwrap();
        assert_eq!(arrived, [[0, 0, 16, 16, 0]; 4]);
        assert_eq!((traffic.frames, traffic.decided, cached), (128, 64, 64));
        assert_eq!(traffic.residence.total() + traffic.excluded, 4);
        let error = thread
            .call(|lcore| lcore.rounds(&Flows::Scattered(65), 1).map(drop))
            .unwrap()
            .unwrap_err()
            .to_string();
        assert!(error.contains("31 arrived"), "{error}");
    }
}

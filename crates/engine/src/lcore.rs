//! An lcore: one pinned thread that runs its pollers to completion, and sleeps when nothing moves.
//!
//! Order of one iteration: control's calls (a quiescent point: no poller holds anything across iterations that a call may
//! not see), then every poller once, then the accounting of the iteration as busy or idle. Nothing in an iteration locks or
//! allocates unless a control call asks for it.

use std::any::Any;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll;
use rustix::thread::CpuSet;

use crate::idle::{IdlePolicy, Spin};
use crate::tsc::Tsc;

/// What can go wrong between control and an lcore.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The lcore was stopped, or its thread died.
    #[error("lcore {0} is not running")]
    Gone(usize),
    /// The thread could not be made or pinned.
    #[error("lcore {cpu}: cannot run on CPU {cpu}: {source}")]
    Start {
        /// The CPU asked for.
        cpu: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a poller answers when the lcore wants to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Nothing to do; a watched descriptor will become readable when there is.
    Sleep,
    /// Nothing to do before this time.
    Until(Tsc),
    /// There is work, or no way to be told of it: keep polling.
    Busy,
}

/// Something that an lcore polls. Lives on one lcore for its whole life, so it need not be `Send`.
///
/// The lcore promises: `poll` is called again and again; `arm` only after a `poll` that found nothing; after `arm` and before the
/// next `poll` always `disarm`; control calls only between iterations.
/// The poller promises: `poll` does a bounded burst, never blocks, never allocates in steady state.
pub trait Poller: Any {
    /// Does one burst; returns how many packets or I/Os it moved (0 = idle).
    fn poll(&mut self, cx: &Cx) -> usize;

    /// The lcore is about to sleep: ask for notifications, then look once more.
    fn arm(&mut self, _cx: &Cx) -> Armed {
        Armed::Sleep
    }

    /// The lcore is awake again: notifications are no longer needed.
    fn disarm(&mut self) {}
}

/// What a poller may use of its lcore while it runs.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The time at the top of this iteration.
    pub now: Tsc,
    /// The lcore's number: the CPU it runs on.
    pub cpu: usize,
    watch: &'a Watch,
}

impl<'a> Cx<'a> {
    /// What a poller is given that is driven by hand, without an lcore (tests, fuzzing).
    pub fn new(now: Tsc, cpu: usize, watch: &'a Watch) -> Self {
        Self { now, cpu, watch }
    }

    /// The descriptors that end this lcore's sleep.
    pub fn watch(&self) -> &Watch {
        self.watch
    }
}

/// The set of file descriptors that end an lcore's sleep when they become readable.
///
/// Edge-triggered: an eventfd need not be read, its next write is a new edge.
#[derive(Clone, Debug)]
pub struct Watch(Arc<OwnedFd>);

impl Watch {
    /// An empty set.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)))
    }

    /// Adds `fd`. Closing the last copy of `fd` removes it; so does [`Watch::remove`].
    ///
    /// # Errors
    /// When the descriptor is of a kind that cannot be waited for (a regular file), or is watched already.
    pub fn add(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(
            &*self.0,
            fd,
            epoll::EventData::new_u64(0),
            flags,
        )?)
    }

    /// Removes `fd`; a descriptor that is not watched is not an error.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&*self.0, fd);
    }

    fn wait(&self, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|t| t.try_into().ok());
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        // An interrupted or failed wait is a wake-up: the loop polls everything anyway.
        let _ = epoll::wait(&*self.0, &mut events, timeout.as_ref());
    }
}

/// How to make an lcore.
#[derive(Clone, Copy, Debug)]
pub struct LcoreConfig {
    /// The CPU to run on, as the kernel numbers it.
    pub cpu: usize,
    /// When to sleep.
    pub idle: IdlePolicy,
}

/// One reading of an lcore's accounting, consistent in itself (taken at the top of an iteration).
#[derive(Clone, Copy, Debug, Default)]
pub struct LcoreReport {
    /// The CPU.
    pub cpu: usize,
    /// Ticks since the lcore started.
    pub elapsed: u64,
    /// Ticks of whole iterations in which a poller moved something.
    pub busy: u64,
    /// Ticks of iterations in which nothing moved, sleep included.
    pub idle: u64,
    /// The part of `idle` spent in the kernel, asleep.
    pub asleep: u64,
    /// Iterations.
    pub loops: u64,
    /// Iterations in which something moved; `work` over this is the mean batch.
    pub busy_loops: u64,
    /// Packets and I/Os moved, as the pollers report them.
    pub work: u64,
    /// Times the lcore went to sleep.
    pub sleeps: u64,
}

/// The typed name of a poller on its lcore.
#[derive(Debug)]
pub struct PollerId<P>(u64, PhantomData<fn() -> P>);

impl<P> Clone for PollerId<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for PollerId<P> {}

/// An lcore's own state, as a control call sees it.
pub struct Local {
    pollers: Vec<(u64, Box<dyn Poller>)>,
    next_id: u64,
    cpu: usize,
    watch: Watch,
    report: LcoreReport,
    started: Tsc,
}

impl Local {
    /// Puts a poller on this lcore, last in its order.
    pub fn add<P: Poller>(&mut self, poller: P) -> PollerId<P> {
        let id = self.next_id;
        self.next_id += 1;
        self.pollers.push((id, Box::new(poller)));
        PollerId(id, PhantomData)
    }

    /// Takes a poller off; it is dropped here. False when it is not there (any more).
    pub fn remove<P: Poller>(&mut self, id: PollerId<P>) -> bool {
        let before = self.pollers.len();
        self.pollers.retain(|(other, _)| *other != id.0);
        self.pollers.len() < before
    }

    /// The poller with this name.
    pub fn get<P: Poller>(&mut self, id: PollerId<P>) -> Option<&mut P> {
        let (_, poller) = self.pollers.iter_mut().find(|(other, _)| *other == id.0)?;
        let poller: &mut dyn Any = poller.as_mut();
        poller.downcast_mut()
    }

    /// The CPU this lcore runs on.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// The descriptors that end this lcore's sleep.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The accounting up to the top of this iteration.
    pub fn report(&self) -> LcoreReport {
        self.report
    }
}

type Call = Box<dyn FnOnce(&mut Local) + Send>;

/// What both sides share: the flags that make a call seen.
#[derive(Debug)]
struct Bell {
    pending: AtomicUsize,
    sleeping: AtomicBool,
    stop: AtomicBool,
    wake: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // Pairs with the fence between `sleeping` and the last look at `pending` in `Worker::sleep`.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            // Fails only when the counter is full, that is, when the lcore is being woken already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// A running lcore, as control holds it. Dropping it stops the thread and waits for its end.
#[derive(Debug)]
pub struct Lcore {
    cpu: usize,
    tid: u32,
    calls: mpsc::Sender<Call>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Lcore {
    /// Starts the thread, pinned to its CPU.
    ///
    /// # Errors
    /// When the CPU does not exist, is not allowed to this process, or the thread cannot be made.
    pub fn start(config: LcoreConfig) -> Result<Self, EngineError> {
        let cpu = config.cpu;
        let start_error = |source| EngineError::Start { cpu, source };
        let os_error = |errno: rustix::io::Errno| start_error(errno.into());
        let wake = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        );
        let wake = wake.map_err(os_error)?;
        let watch = Watch::new().map_err(start_error)?;
        watch.add(wake.as_fd()).map_err(start_error)?;
        let bell = Arc::new(Bell {
            pending: AtomicUsize::new(0),
            sleeping: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake,
        });
        // Measured here, so that no lcore pays for it.
        Tsc::hz();
        let (calls, inbox) = mpsc::channel::<Call>();
        let (ready, pinned) = mpsc::channel();
        let worker_bell = bell.clone();
        let thread = std::thread::Builder::new()
            .name(format!("lcore-{cpu}"))
            .spawn(move || {
                let mut set = CpuSet::new();
                if cpu < CpuSet::MAX_CPU {
                    set.set(cpu);
                }
                let outcome = rustix::thread::sched_setaffinity(None, &set);
                let failed = outcome.is_err();
                let tid = rustix::thread::gettid()
                    .as_raw_nonzero()
                    .get()
                    .unsigned_abs();
                let _ = ready.send(outcome.map(|()| tid));
                if !failed {
                    Worker::new(config, watch, inbox, worker_bell).run();
                }
            });
        let thread = thread.map_err(start_error)?;
        let tid = pinned
            .recv()
            .map_err(|_| EngineError::Gone(cpu))?
            .map_err(os_error)?;
        Ok(Self {
            cpu,
            tid,
            calls,
            bell,
            thread: Some(thread),
        })
    }

    /// The CPU this lcore runs on.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// The kernel's number of its thread, to find it in /proc.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Runs `f` on the lcore between two iterations and returns its answer. When it returns, the lcore has passed a quiescent point.
    ///
    /// Must not be called from an lcore (two of them calling each other would wait for ever).
    ///
    /// # Errors
    /// [`EngineError::Gone`] when the lcore is not running.
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Local) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        let (answer, result) = mpsc::sync_channel(1);
        self.send(move |local| {
            let _ = answer.send(f(local));
        })?;
        result.recv().map_err(|_| EngineError::Gone(self.cpu))
    }

    /// Like [`Lcore::call`], but does not wait for it to have run.
    ///
    /// # Errors
    /// [`EngineError::Gone`] when the lcore is not running.
    pub fn send(&self, f: impl FnOnce(&mut Local) + Send + 'static) -> Result<(), EngineError> {
        self.calls
            .send(Box::new(f))
            .map_err(|_| EngineError::Gone(self.cpu))?;
        self.bell.pending.fetch_add(1, Ordering::Release);
        self.bell.ring();
        Ok(())
    }

    /// The accounting now.
    ///
    /// # Errors
    /// [`EngineError::Gone`] when the lcore is not running.
    pub fn report(&self) -> Result<LcoreReport, EngineError> {
        self.call(|local| local.report())
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        self.bell.stop.store(true, Ordering::Release);
        self.bell.pending.fetch_add(1, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Worker {
    local: Local,
    inbox: mpsc::Receiver<Call>,
    bell: Arc<Bell>,
    spin: Spin,
}

impl Worker {
    fn new(
        config: LcoreConfig,
        watch: Watch,
        inbox: mpsc::Receiver<Call>,
        bell: Arc<Bell>,
    ) -> Self {
        let local = Local {
            pollers: Vec::with_capacity(64),
            next_id: 1,
            cpu: config.cpu,
            watch,
            report: LcoreReport {
                cpu: config.cpu,
                ..LcoreReport::default()
            },
            started: Tsc::now(),
        };
        Self {
            local,
            inbox,
            bell,
            spin: Spin::new(config.idle),
        }
    }

    fn run(mut self) {
        let mut top = self.local.started;
        let mut last_work = top;
        loop {
            if self.bell.pending.load(Ordering::Relaxed) != 0 && self.answer_calls() {
                return;
            }
            let cx = Cx {
                now: top,
                cpu: self.local.cpu,
                watch: &self.local.watch,
            };
            let mut moved = 0;
            for (_, poller) in &mut self.local.pollers {
                moved += poller.poll(&cx);
            }
            let now = Tsc::now();
            let report = &mut self.local.report;
            report.loops += 1;
            if moved > 0 {
                report.busy_loops += 1;
                report.work += moved as u64;
                report.busy += now.since(top);
                self.spin.found(top.since(last_work));
                last_work = now;
            } else {
                report.idle += now.since(top);
            }
            top = now;
            if moved == 0 {
                std::hint::spin_loop();
                if self.spin.is_over(now.since(last_work)) {
                    top = self.sleep(now);
                    last_work = top;
                }
            }
        }
    }

    /// Runs what control has sent; true when the lcore is to stop.
    #[cold]
    fn answer_calls(&mut self) -> bool {
        self.local.report.elapsed = Tsc::now().since(self.local.started);
        let mut waiting = self.bell.pending.swap(0, Ordering::Acquire);
        while waiting > 0 {
            // `pending` counts a call only after it was sent, so one that is missing here is the stop signal.
            match self.inbox.try_recv() {
                Ok(call) => call(&mut self.local),
                Err(_) => break,
            }
            waiting -= 1;
        }
        self.bell.stop.load(Ordering::Acquire)
    }

    /// Sleeps until a watched descriptor, a deadline or control ends it; returns the time after it.
    #[cold]
    fn sleep(&mut self, now: Tsc) -> Tsc {
        let cx = Cx {
            now,
            cpu: self.local.cpu,
            watch: &self.local.watch,
        };
        let mut deadline: Option<Tsc> = None;
        let mut armed = 0;
        let mut may_sleep = true;
        for (_, poller) in &mut self.local.pollers {
            armed += 1;
            match poller.arm(&cx) {
                Armed::Sleep => {}
                Armed::Until(time) => deadline = Some(deadline.map_or(time, |d| d.min(time))),
                Armed::Busy => {
                    may_sleep = false;
                    break;
                }
            }
        }
        if may_sleep {
            self.bell.sleeping.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let left = deadline.map(|d| Tsc::duration(d.since(Tsc::now())));
            if self.bell.pending.load(Ordering::Relaxed) == 0 && left != Some(Duration::ZERO) {
                self.local.watch.wait(left);
                self.local.report.sleeps += 1;
            }
            self.bell.sleeping.store(false, Ordering::Relaxed);
        }
        for (_, poller) in &mut self.local.pollers[..armed] {
            poller.disarm();
        }
        let end = Tsc::now();
        let slept = end.since(now);
        self.local.report.idle += slept;
        if may_sleep {
            self.local.report.asleep += slept;
            self.spin.slept();
        }
        end
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    struct Idler {
        polls: Arc<AtomicU64>,
        work: usize,
    }

    impl Poller for Idler {
        fn poll(&mut self, _: &Cx) -> usize {
            self.polls.fetch_add(1, Ordering::Relaxed);
            std::mem::take(&mut self.work)
        }
    }

    fn lcore() -> Lcore {
        Lcore::start(LcoreConfig {
            cpu: 0,
            idle: IdlePolicy::default(),
        })
        .unwrap()
    }

    #[test]
    fn calls_run_in_order_and_answer() {
        let lcore = lcore();
        let polls = Arc::new(AtomicU64::new(0));
        let seen = polls.clone();
        let id = lcore
            .call(move |local| {
                local.add(Idler {
                    polls: seen,
                    work: 3,
                })
            })
            .unwrap();
        assert_eq!(
            lcore
                .call(move |local| local.get(id).map(|p| p.work))
                .unwrap(),
            Some(0),
            "polled before the next call"
        );
        assert!(polls.load(Ordering::Relaxed) > 0);
        assert!(lcore.call(move |local| local.remove(id)).unwrap());
        assert!(!lcore.call(move |local| local.remove(id)).unwrap());
        assert_eq!(lcore.report().unwrap().work, 3);
    }

    #[test]
    fn an_idle_lcore_sleeps_and_a_descriptor_wakes_it() {
        let lcore = lcore();
        let polls = Arc::new(AtomicU64::new(0));
        let seen = polls.clone();
        let event =
            Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap());
        let watched = event.clone();
        lcore
            .call(move |local| {
                local.watch().add(watched.as_fd()).unwrap();
                local.add(Idler {
                    polls: seen,
                    work: 0,
                });
            })
            .unwrap();
        for _ in 0..3 {
            let asleep = || lcore.bell.sleeping.load(Ordering::SeqCst);
            while !asleep() {
                std::thread::yield_now();
            }
            let before = polls.load(Ordering::SeqCst);
            rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
            while polls.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn busy_and_idle_add_up_to_elapsed() {
        let lcore = lcore();
        std::thread::sleep(Duration::from_millis(50));
        let report = lcore.report().unwrap();
        let sum = (report.busy + report.idle) as f64;
        assert!(
            (sum / report.elapsed as f64 - 1.0).abs() < 0.02,
            "{report:?}"
        );
        assert!(report.asleep <= report.idle);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let error = Lcore::start(LcoreConfig {
            cpu: 100_000,
            idle: IdlePolicy::default(),
        })
        .unwrap_err();
        assert!(
            matches!(error, EngineError::Start { cpu: 100_000, .. }),
            "{error}"
        );
    }
}

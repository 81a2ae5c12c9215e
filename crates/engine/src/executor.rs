//! The async executor of one lcore: `!Send` tasks, polled on the lcore's own thread.
//!
//! A wake on the same thread appends to a plain queue. A wake from another thread goes through a mailbox, and writes an
//! eventfd only when the lcore sleeps. [`LcoreContext`] is what asynchronous code on an lcore has: the executor and the io_uring
//! reactor, both driven by one poller. It never runs a task on another thread, and never polls a task that was not woken.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};

use crate::lcore::{Armed, Cx, Local, Poller};
use crate::uring::Reactor;

/// Ends the sleep of one lcore from any thread; costs a fence and a load while the lcore is awake.
#[derive(Debug)]
pub struct Alarm {
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Self {
            sleeping: AtomicBool::new(false),
            event: rustix::event::eventfd(0, flags)?,
        })
    }

    /// To be called after making work visible to the lcore.
    pub fn ring(&self) {
        // Pairs with the fence in `arm`: either we see that it sleeps, or its last look sees our work.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            // Fails only when the counter is full, that is, when the lcore is being woken already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    fn arm(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

/// What wakers on other threads reach.
struct Home {
    /// Unique in the process, so that a waker knows whether it is at home.
    id: u64,
    mailbox: mpsc::Sender<Arc<Header>>,
    /// Messages sent and not yet taken.
    waiting: AtomicUsize,
    alarm: Arc<Alarm>,
}

/// The part of a task that wakers hold.
struct Header {
    slot: usize,
    /// In a ready queue or the mailbox already.
    queued: AtomicBool,
    home: Arc<Home>,
}

/// This thread's ready queue: the executor's id (0: none) and the tasks to poll.
struct Ready {
    id: Cell<u64>,
    queue: RefCell<VecDeque<Arc<Header>>>,
}

thread_local! {
    static READY: Ready = const {
        Ready {
            id: Cell::new(0),
            queue: RefCell::new(VecDeque::new()),
        }
    };
    static CONTEXT: RefCell<Option<LcoreContext>> = const { RefCell::new(None) };
}

impl Wake for Header {
    fn wake(self: Arc<Self>) {
        let at_home = READY
            .try_with(|ready| {
                if ready.id.get() != self.home.id {
                    return false;
                }
                // Only this thread clears the flag, so a plain look is enough here.
                if !self.queued.load(Ordering::Relaxed) {
                    self.queued.store(true, Ordering::Relaxed);
                    ready.queue.borrow_mut().push_back(self.clone());
                }
                true
            })
            .unwrap_or(false);
        if at_home || self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let home = self.home.clone();
        // Refused when the executor is gone, and the task with it.
        if home.mailbox.send(self).is_ok() {
            home.waiting.fetch_add(1, Ordering::Release);
            home.alarm.ring();
        }
    }
}

struct Task {
    header: Arc<Header>,
    waker: Waker,
    /// Taken out while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

struct Inner {
    home: Arc<Home>,
    mail: mpsc::Receiver<Arc<Header>>,
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
}

/// The executor of this thread. Clones are handles to the same one; `!Send`.
#[derive(Clone)]
pub struct Executor(Rc<Inner>);

impl Executor {
    /// Makes this thread's executor.
    ///
    /// # Errors
    /// `AlreadyExists` when the thread has one; else when no eventfd can be had.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if READY.with(|ready| ready.id.get()) != 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (mailbox, mail) = mpsc::channel();
        let home = Arc::new(Home {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            mailbox,
            waiting: AtomicUsize::new(0),
            alarm: Arc::new(Alarm::new()?),
        });
        READY.with(|ready| {
            ready.id.set(home.id);
            ready.queue.borrow_mut().reserve(64);
        });
        Ok(Self(Rc::new(Inner {
            home,
            mail,
            tasks: RefCell::new(Vec::with_capacity(64)),
            free: RefCell::new(Vec::with_capacity(64)),
        })))
    }

    /// Adds a task; it is polled for the first time in the next [`Executor::run`]. It is dropped when it ends, or with the executor.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.tasks.borrow_mut();
        let slot = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            tasks.len() - 1
        });
        let header = Arc::new(Header {
            slot,
            queued: AtomicBool::new(false),
            home: self.0.home.clone(),
        });
        tasks[slot] = Some(Task {
            waker: Waker::from(header.clone()),
            header: header.clone(),
            future: Some(Box::pin(future)),
        });
        drop(tasks);
        header.wake();
    }

    /// Polls every task that was woken before this call, once; returns how many.
    pub fn run(&self) -> usize {
        self.collect_mail();
        let woken = READY.with(|ready| ready.queue.borrow().len());
        for _ in 0..woken {
            let next = READY.with(|ready| ready.queue.borrow_mut().pop_front());
            let Some(header) = next else { break };
            self.run_one(&header);
        }
        woken
    }

    fn run_one(&self, header: &Arc<Header>) {
        // A swap, not a store: it must see what a remote waker wrote before finding the flag set.
        header.queued.swap(false, Ordering::AcqRel);
        let taken = {
            let mut tasks = self.0.tasks.borrow_mut();
            match tasks.get_mut(header.slot) {
                Some(Some(task)) if Arc::ptr_eq(&task.header, header) => task
                    .future
                    .take()
                    .map(|future| (future, task.waker.clone())),
                _ => None,
            }
        };
        let Some((mut future, waker)) = taken else {
            return;
        };
        let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.0.tasks.borrow_mut();
        match outcome {
            Poll::Pending => {
                if let Some(Some(task)) = tasks.get_mut(header.slot) {
                    task.future = Some(future);
                }
            }
            Poll::Ready(()) => {
                let task = tasks[header.slot].take();
                drop(tasks);
                // The end of a future is foreign code; the slot is free only when it is over.
                drop((task, future));
                self.0.free.borrow_mut().push(header.slot);
            }
        }
    }

    fn collect_mail(&self) {
        let home = &self.0.home;
        if home.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let waiting = home.waiting.swap(0, Ordering::Acquire);
        READY.with(|ready| {
            let mut queue = ready.queue.borrow_mut();
            queue.extend(self.0.mail.try_iter().take(waiting));
        });
    }

    /// Tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.0.tasks.borrow().len() - self.0.free.borrow().len()
    }

    /// What ends this lcore's sleep from another thread.
    pub fn alarm(&self) -> &Arc<Alarm> {
        &self.0.home.alarm
    }

    /// The lcore is about to sleep; false when a task is ready to run.
    fn arm(&self) -> bool {
        self.0.home.alarm.arm();
        self.0.home.waiting.load(Ordering::Relaxed) == 0
            && READY.with(|ready| ready.queue.borrow().is_empty())
    }

    fn drop_tasks(&self) {
        // A task that is dropped may wake or spawn others.
        loop {
            let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
            self.0.free.borrow_mut().clear();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        let left = READY.try_with(|ready| std::mem::take(&mut *ready.queue.borrow_mut()));
        drop(left);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.borrow_mut().clear();
        let left = READY.try_with(|ready| {
            ready.id.set(0);
            std::mem::take(&mut *ready.queue.borrow_mut())
        });
        drop(left);
    }
}

/// What asynchronous code on one lcore has. Clones are handles to the same executor and ring; `!Send`.
#[derive(Clone)]
pub struct LcoreContext {
    executor: Executor,
    reactor: Reactor,
}

/// Submission entries of an lcore's ring; more operations than this wait in the reactor.
const RING_ENTRIES: u32 = 512;

impl LcoreContext {
    /// The context of the lcore that a control call runs on; the first call makes it and adds its poller.
    ///
    /// Pollers that rely on the lcore's [`Alarm`] must be added after this.
    ///
    /// # Errors
    /// When the kernel gives no io_uring or eventfd.
    pub fn of(local: &mut Local) -> io::Result<Self> {
        if let Some(context) = Self::current() {
            return Ok(context);
        }
        let context = Self::detached()?;
        local.watch().add(context.event())?;
        context.reactor.with_event(|fd| local.watch().add(fd))?;
        CONTEXT.with(|slot| *slot.borrow_mut() = Some(context.clone()));
        local.add(Runtime(context.clone()));
        Ok(context)
    }

    /// The context of this thread, when it is an lcore that has one.
    pub fn current() -> Option<Self> {
        CONTEXT.with(|slot| slot.borrow().clone())
    }

    /// A context for a thread that is no lcore (tools, tests): its owner calls [`LcoreContext::poll`].
    ///
    /// # Errors
    /// When the thread has an executor already, or the kernel gives no io_uring or eventfd.
    pub fn detached() -> io::Result<Self> {
        Ok(Self {
            executor: Executor::new()?,
            reactor: Reactor::new(RING_ENTRIES)?,
        })
    }

    /// Where tasks are spawned.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Where file and socket operations start.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// One round: submits and reaps I/O, then runs the tasks that were woken. Returns what was moved.
    pub fn poll(&self) -> usize {
        self.reactor.poll() + self.executor.run()
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.executor.alarm().event.as_fd()
    }
}

/// The poller that drives an lcore's context.
struct Runtime(LcoreContext);

impl Poller for Runtime {
    fn poll(&mut self, _: &Cx) -> usize {
        self.0.poll()
    }

    fn arm(&mut self, _: &Cx) -> Armed {
        // Both must be armed, whatever the first one says.
        let (tasks, ring) = (self.0.executor.arm(), self.0.reactor.arm());
        if tasks && ring {
            Armed::Sleep
        } else {
            Armed::Busy
        }
    }

    fn disarm(&mut self) {
        self.0.executor.alarm().disarm();
        self.0.reactor.disarm();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Tasks may hold the context themselves: end them here, while the thread is whole.
        self.0.executor.drop_tasks();
        let _ = CONTEXT.try_with(|slot| slot.borrow_mut().take());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::idle::IdlePolicy;
    use crate::lcore::{Lcore, LcoreConfig};
    use std::time::Duration;

    /// Ready at the second poll; wakes itself.
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    /// Never ready; gives its waker away and counts its polls.
    struct Parked(mpsc::Sender<Waker>, Arc<AtomicUsize>);
    impl Future for Parked {
        type Output = ();
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.1.fetch_add(1, Ordering::SeqCst);
            let _ = self.0.send(cx.waker().clone());
            Poll::Pending
        }
    }

    #[test]
    fn tasks_run_only_when_woken_and_end() {
        let executor = Executor::new().unwrap();
        let steps = Rc::new(Cell::new(0));
        let seen = steps.clone();
        executor.spawn(async move {
            for _ in 0..3 {
                seen.set(seen.get() + 1);
                Yield(false).await;
            }
        });
        assert_eq!(executor.tasks(), 1);
        for expected in 1..=3 {
            assert_eq!(executor.run(), 1);
            assert_eq!(steps.get(), expected, "one step per round");
        }
        executor.run();
        assert_eq!((executor.tasks(), executor.run()), (0, 0));
        assert_eq!(Rc::strong_count(&steps), 1);
    }

    #[test]
    fn a_task_may_spawn_and_slots_are_reused() {
        let executor = Executor::new().unwrap();
        let inner = executor.clone();
        let ran = Rc::new(Cell::new(0));
        let seen = ran.clone();
        executor.spawn(async move {
            for _ in 0..10 {
                let seen = seen.clone();
                inner.spawn(async move { seen.set(seen.get() + 1) });
                Yield(false).await;
            }
        });
        while executor.tasks() > 0 {
            executor.run();
        }
        assert_eq!(ran.get(), 10);
        assert!(executor.0.tasks.borrow().len() <= 3);
    }

    #[test]
    fn one_executor_per_thread_and_none_left_behind() {
        let executor = Executor::new().unwrap();
        assert_eq!(
            Executor::new().err().map(|e| e.kind()),
            Some(io::ErrorKind::AlreadyExists)
        );
        drop(executor);
        assert!(Executor::new().is_ok());
    }

    #[test]
    fn wakes_are_counted_once_and_late_wakes_are_harmless() {
        let (send, wakers) = mpsc::channel();
        let polls = Arc::new(AtomicUsize::new(0));
        let executor = Executor::new().unwrap();
        executor.spawn(Parked(send, polls.clone()));
        executor.run();
        let waker = wakers.recv().unwrap();
        for _ in 0..5 {
            waker.wake_by_ref();
        }
        assert_eq!(executor.run(), 1, "five wakes, one poll");
        let remote = waker.clone();
        std::thread::spawn(move || {
            for _ in 0..5 {
                remote.wake_by_ref();
            }
        })
        .join()
        .unwrap();
        assert_eq!(executor.run(), 1);
        assert_eq!(polls.load(Ordering::SeqCst), 3);
        drop(executor);
        waker.wake_by_ref();
        std::thread::spawn(move || waker.wake()).join().unwrap();
    }

    #[test]
    fn another_thread_wakes_a_sleeping_lcore() {
        let lcore = Lcore::start(LcoreConfig {
            cpu: 0,
            idle: IdlePolicy::default(),
        })
        .unwrap();
        let (send, wakers) = mpsc::channel();
        let polls = Arc::new(AtomicUsize::new(0));
        let seen = polls.clone();
        lcore
            .call(move |local| {
                let context = LcoreContext::of(local).unwrap();
                context.executor().spawn(Parked(send, seen));
                assert!(LcoreContext::current().is_some());
            })
            .unwrap();
        let waker = wakers.recv().unwrap();
        for round in 2..20 {
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            waker.wake_by_ref();
            wakers
                .recv_timeout(Duration::from_secs(10))
                .expect("the lcore slept on");
            assert_eq!(polls.load(Ordering::SeqCst), round);
        }
        let report = lcore.report().unwrap();
        assert!(report.sleeps >= 5, "{report:?}");
        drop(lcore);
        assert!(
            wakers.recv_timeout(Duration::from_secs(10)).is_err(),
            "the task, and with it the sender, ended with the lcore"
        );
    }

    #[test]
    fn a_completion_wakes_a_sleeping_lcore() {
        use crate::io_buffer::IoBuffer;
        let lcore = Lcore::start(LcoreConfig {
            cpu: 0,
            idle: IdlePolicy::default(),
        })
        .unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (done, answers) = mpsc::channel();
        lcore
            .call(move |local| {
                let context = LcoreContext::of(local).unwrap();
                let reactor = context.reactor().clone();
                context.executor().spawn(async move {
                    let (file, buffer) = (Rc::new(reader), Rc::new(IoBuffer::new(1).unwrap()));
                    loop {
                        let answer = reactor.read(&file, &buffer, u64::MAX).await;
                        if done.send(answer.unwrap()).is_err() {
                            break;
                        }
                    }
                });
            })
            .unwrap();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(5));
            rustix::io::write(&writer, b"x").unwrap();
            let answer = answers.recv_timeout(Duration::from_secs(10));
            assert_eq!(answer.expect("the lcore slept on"), 1);
        }
        let report = lcore.report().unwrap();
        assert!(report.asleep > report.elapsed / 2, "{report:?}");
    }
}

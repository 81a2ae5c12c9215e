//! The io_uring reactor of one lcore: file and socket operations as futures, submitted in one batch per loop iteration.
//!
//! Every operation lives in a slot that owns its descriptor, its vector and its hold on the memory until the kernel has
//! reported the completion. Dropping an [`OpFuture`] only forgets the answer; it never frees memory the kernel may still
//! write. Steady state allocates nothing: slots and their vectors are reused.
//!
//! It never interprets what is read or written, and never blocks (its own drop aside, which waits for the kernel).
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode, squeue, types};

use crate::io_buffer::{Buffers, Hold};

/// How the ring was set up, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Completions are worked off only when this thread asks (Linux 6.1).
    Deferred,
    /// Completions interrupt this thread only at its next system call (Linux 6.0).
    Cooperative,
    /// No particular mode.
    Plain,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write { through: bool },
    Sync(types::FsyncFlags),
    Allocate { mode: i32, len: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Flying,
    /// The kernel is done; the value is bytes moved, or minus an errno.
    Done(i64),
}

struct Op {
    state: State,
    kind: Kind,
    /// Nobody waits for the answer any more.
    abandoned: bool,
    waker: Option<Waker>,
    hold: Option<Hold>,
    file: Option<Rc<OwnedFd>>,
    /// The pieces not yet transferred are `iov[first..]`.
    iov: Vec<libc::iovec>,
    first: usize,
    offset: u64,
    done: u64,
    len: u64,
}

impl Op {
    fn empty() -> Self {
        Self {
            state: State::Free,
            kind: Kind::Read,
            abandoned: false,
            waker: None,
            hold: None,
            file: None,
            iov: Vec::new(),
            first: 0,
            offset: 0,
            done: 0,
            len: 0,
        }
    }

    fn entry(&self, slot: usize) -> squeue::Entry {
        let fd = types::Fd(self.file.as_ref().map_or(-1, |file| file.as_raw_fd()));
        let left = &self.iov[self.first..];
        let offset = self.offset + self.done;
        let count = left.len() as u32;
        let entry = match (self.kind, left) {
            (Kind::Read, [one]) => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len as u32)
                .offset(offset)
                .build(),
            (Kind::Read, many) => opcode::Readv::new(fd, many.as_ptr(), count)
                .offset(offset)
                .build(),
            (Kind::Write { through }, [one]) => {
                opcode::Write::new(fd, one.iov_base.cast(), one.iov_len as u32)
                    .offset(offset)
                    .rw_flags(if through { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            (Kind::Write { through }, many) => opcode::Writev::new(fd, many.as_ptr(), count)
                .offset(offset)
                .rw_flags(if through { libc::RWF_DSYNC } else { 0 })
                .build(),
            (Kind::Sync(flags), _) => opcode::Fsync::new(fd).flags(flags).build(),
            (Kind::Allocate { mode, len }, _) => opcode::Fallocate::new(fd, len)
                .offset(self.offset)
                .mode(mode)
                .build(),
        };
        entry.user_data(slot as u64)
    }

    /// Takes `n` transferred bytes off the front of the vector.
    fn advance(&mut self, mut n: u64) {
        self.done += n;
        while n > 0 && self.first < self.iov.len() {
            let piece = &mut self.iov[self.first];
            let step = n.min(piece.iov_len as u64);
            piece.iov_base = piece.iov_base.wrapping_byte_add(step as usize);
            piece.iov_len -= step as usize;
            n -= step;
            if piece.iov_len == 0 {
                self.first += 1;
            }
        }
    }
}

/// What a reaped operation leaves behind, to be let go when the reactor is no longer borrowed.
struct Released {
    waker: Option<Waker>,
    _hold: Option<Hold>,
    _file: Option<Rc<OwnedFd>>,
}

struct Inner {
    ring: IoUring,
    setup: Setup,
    event: OwnedFd,
    ops: Vec<Op>,
    free: Vec<usize>,
    /// Slots whose entry found no room in the submission queue, oldest first.
    backlog: VecDeque<usize>,
    flying: usize,
    released: Vec<Released>,
    refused: u64,
}

/// The io_uring of one lcore. Clones are handles to the same ring; `!Send`.
#[derive(Clone)]
pub struct Reactor(Rc<RefCell<Inner>>);

impl Reactor {
    /// Makes a ring with `entries` submission entries (a power of two), in the best mode that the kernel has.
    ///
    /// # Errors
    /// When the kernel has no io_uring, forbids it, or has no memory for it.
    pub fn new(entries: u32) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::Unsupported);
        for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
            match Self::with_setup(entries, setup) {
                Ok(reactor) => return Ok(reactor),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes a ring in exactly this mode.
    ///
    /// # Errors
    /// As [`Reactor::new`]; `InvalidInput` when the kernel does not know the mode.
    pub fn with_setup(entries: u32, setup: Setup) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(entries * 4);
        match setup {
            Setup::Deferred => builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag(),
            Setup::Cooperative => builder
                .setup_single_issuer()
                .setup_coop_taskrun()
                .setup_taskrun_flag(),
            Setup::Plain => &mut builder,
        };
        let mut ring = builder.build(entries)?;
        let event = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        ring.completion().disable_eventfd();
        let slots = entries as usize;
        Ok(Self(Rc::new(RefCell::new(Inner {
            ring,
            setup,
            event,
            ops: (0..slots).map(|_| Op::empty()).collect(),
            free: (0..slots).rev().collect(),
            backlog: VecDeque::with_capacity(slots),
            flying: 0,
            released: Vec::with_capacity(slots),
            refused: 0,
        }))))
    }

    /// The mode in use.
    pub fn setup(&self) -> Setup {
        self.0.borrow().setup
    }

    /// Operations that the kernel has, or will get at the next [`Reactor::poll`].
    pub fn in_flight(&self) -> usize {
        self.0.borrow().flying
    }

    /// How often the kernel refused a batch (out of memory, or too much at once); the batch is offered again.
    pub fn refused(&self) -> u64 {
        self.0.borrow().refused
    }

    /// Reads from `offset` (bytes) of `file` until `buffers` are full or the file ends; the answer is the bytes read.
    pub fn read(&self, file: &Rc<OwnedFd>, buffers: &impl Buffers, offset: u64) -> OpFuture {
        self.transfer(Kind::Read, file, buffers, offset)
    }

    /// Writes all of `buffers` at `offset` (bytes) of `file`; the answer is the bytes written. With `through` it completes only when the
    /// data is on stable storage.
    pub fn write(
        &self,
        file: &Rc<OwnedFd>,
        buffers: &impl Buffers,
        offset: u64,
        through: bool,
    ) -> OpFuture {
        self.transfer(Kind::Write { through }, file, buffers, offset)
    }

    /// Flushes `file` to stable storage: fdatasync when `data_only`, else fsync.
    pub fn sync(&self, file: &Rc<OwnedFd>, data_only: bool) -> OpFuture {
        let flags = if data_only {
            types::FsyncFlags::DATASYNC
        } else {
            types::FsyncFlags::empty()
        };
        self.start(Kind::Sync(flags), file, None, 0, |_| {})
    }

    /// fallocate(2) with `mode` on `len` bytes from `offset`.
    pub fn allocate(&self, file: &Rc<OwnedFd>, mode: i32, offset: u64, len: u64) -> OpFuture {
        self.start(Kind::Allocate { mode, len }, file, None, offset, |_| {})
    }

    fn transfer(
        &self,
        kind: Kind,
        file: &Rc<OwnedFd>,
        buffers: &impl Buffers,
        offset: u64,
    ) -> OpFuture {
        self.start(kind, file, Some(buffers.hold()), offset, |iov| {
            buffers.pieces(|base, len| {
                if len > 0 {
                    iov.push(libc::iovec {
                        iov_base: base.cast(),
                        iov_len: len,
                    });
                }
            });
        })
    }

    fn start(
        &self,
        kind: Kind,
        file: &Rc<OwnedFd>,
        hold: Option<Hold>,
        offset: u64,
        fill: impl FnOnce(&mut Vec<libc::iovec>),
    ) -> OpFuture {
        let inner = &mut *self.0.borrow_mut();
        let slot = inner.free.pop().unwrap_or_else(|| {
            inner.ops.push(Op::empty());
            inner.ops.len() - 1
        });
        let op = &mut inner.ops[slot];
        op.iov.clear();
        fill(&mut op.iov);
        op.state = State::Flying;
        op.kind = kind;
        op.abandoned = false;
        op.hold = hold;
        op.file = Some(file.clone());
        op.first = 0;
        op.offset = offset;
        op.done = 0;
        op.len = op.iov.iter().map(|piece| piece.iov_len as u64).sum();
        inner.flying += 1;
        inner.queue(slot);
        OpFuture {
            reactor: self.0.clone(),
            slot,
            finished: false,
        }
    }

    /// Hands everything queued to the kernel in one system call, reaps what is complete and wakes its tasks; returns how many
    /// operations completed. Makes no system call when there is nothing to do.
    pub fn poll(&self) -> usize {
        let mut inner = self.0.borrow_mut();
        if inner.flying == 0 {
            return 0;
        }
        inner.submit(0);
        let reaped = inner.reap();
        if inner.released.is_empty() {
            return reaped;
        }
        // Wakers and holds run foreign code, which may come back to this reactor.
        let mut released = std::mem::take(&mut inner.released);
        drop(inner);
        for one in released.drain(..) {
            if let Some(waker) = one.waker {
                waker.wake();
            }
        }
        let mut inner = self.0.borrow_mut();
        if inner.released.is_empty() {
            inner.released = released;
        }
        reaped
    }

    /// Asks for the event descriptor to be written at the next completion; false when there is something to reap or submit now.
    pub fn arm(&self) -> bool {
        let inner = &mut *self.0.borrow_mut();
        if inner.flying == 0 {
            return true;
        }
        inner.ring.completion().enable_eventfd();
        // The kernel adds a completion, then looks at the flag; we set the flag, then look for completions.
        fence(Ordering::SeqCst);
        let submission = inner.ring.submission();
        let quiet = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        quiet && inner.backlog.is_empty() && inner.ring.completion().is_empty()
    }

    /// Takes [`Reactor::arm`] back.
    pub fn disarm(&self) {
        self.0.borrow_mut().ring.completion().disable_eventfd();
    }

    /// Runs `f` with the descriptor that becomes readable at a completion, while armed.
    pub fn with_event<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
        f(self.0.borrow().event.as_fd())
    }
}

impl Inner {
    fn queue(&mut self, slot: usize) {
        if !self.backlog.is_empty() || !self.push(slot) {
            self.backlog.push_back(slot);
        }
    }

    fn push(&mut self, slot: usize) -> bool {
        let entry = self.ops[slot].entry(slot);
        // SAFETY: the entry's descriptor, vector and memory belong to the slot (`file`, `iov`, and `hold` by the contract of
        // `Buffers`), and a slot gives them up only in `reap`, when the kernel is done with them. `iov` is on the heap, so it
        // stays where it is when `ops` grows, and it is not changed while the operation is flying.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// One `io_uring_enter` if the kernel has to be told or asked anything.
    fn submit(&mut self, want: u32) {
        while let Some(&slot) = self.backlog.front() {
            if !self.push(slot) {
                break;
            }
            self.backlog.pop_front();
        }
        let submission = self.ring.submission();
        let queued = submission.len() as u32;
        let pending = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if queued == 0 && !pending && want == 0 {
            return;
        }
        const GET_EVENTS: u32 = 1; // IORING_ENTER_GETEVENTS, io_uring_enter(2)
        // SAFETY: no argument structure is passed; the entries were vouched for in `push`.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(queued, want, GET_EVENTS, None)
        };
        if let Err(error) = entered {
            // What was not taken stays queued and is offered again at the next poll.
            self.refused += 1;
            let usual = matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
            );
            if !usual && self.refused.is_power_of_two() {
                tracing::error!(%error, refused = self.refused, "io_uring_enter refused a batch");
            }
        }
    }

    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        loop {
            let next = self.ring.completion().next();
            let Some(completion) = next else {
                return reaped;
            };
            reaped += 1;
            self.complete(completion.user_data() as usize, completion.result());
        }
    }

    fn complete(&mut self, slot: usize, result: i32) {
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        if op.state != State::Flying {
            return;
        }
        let moves = matches!(op.kind, Kind::Read | Kind::Write { .. });
        if moves && result > 0 {
            op.advance(result as u64);
        }
        if result == -libc::EINTR || (moves && result > 0 && op.done < op.len) {
            return self.queue(slot);
        }
        let answer = if result < 0 {
            i64::from(result)
        } else {
            op.done as i64
        };
        op.state = State::Done(answer);
        self.flying -= 1;
        self.released.push(Released {
            waker: op.waker.take(),
            _hold: op.hold.take(),
            _file: op.file.take(),
        });
        if op.abandoned {
            self.free_slot(slot);
        }
    }

    fn free_slot(&mut self, slot: usize) {
        self.ops[slot].state = State::Free;
        self.ops[slot].waker = None;
        self.free.push(slot);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut attempts = 0;
        while self.flying > 0 && attempts < 10_000 {
            // Asks for everything still flying to be cancelled, then waits for at least one completion.
            let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any().all())
                .build()
                .user_data(u64::MAX);
            // SAFETY: a cancel entry refers to no memory.
            let _ = unsafe { self.ring.submission().push(&cancel) };
            let before = self.refused;
            self.submit(1);
            self.reap();
            attempts = if self.refused > before {
                attempts + 1
            } else {
                0
            };
        }
        if self.flying > 0 {
            // The kernel refuses to say that it is done: losing the memory is the only safe end.
            tracing::error!(
                left = self.flying,
                "operations never completed; their memory is not freed"
            );
            for op in self.ops.drain(..) {
                std::mem::forget(op);
            }
        }
    }
}

/// One operation in the kernel. Its answer is the bytes moved (0 where nothing is moved).
///
/// Dropping it forgets the answer; descriptor and memory stay held until the kernel is done.
#[must_use = "an operation that nobody waits for still runs"]
pub struct OpFuture {
    reactor: Rc<RefCell<Inner>>,
    slot: usize,
    finished: bool,
}

impl Future for OpFuture {
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut inner = this.reactor.borrow_mut();
        let op = &mut inner.ops[this.slot];
        match op.state {
            State::Done(answer) if !this.finished => {
                inner.free_slot(this.slot);
                this.finished = true;
                Poll::Ready(if answer < 0 {
                    Err(io::Error::from_raw_os_error((-answer) as i32))
                } else {
                    Ok(u32::try_from(answer).unwrap_or(u32::MAX))
                })
            }
            _ if this.finished => Poll::Pending,
            _ => {
                match &mut op.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut inner = self.reactor.borrow_mut();
        let op = &mut inner.ops[self.slot];
        let waker = op.waker.take();
        if op.state == State::Flying {
            op.abandoned = true;
        } else {
            inner.free_slot(self.slot);
        }
        drop(inner);
        drop(waker);
    }
}

#[cfg(all(test, not(loom)))]
#[path = "uring_tests.rs"]
mod tests;

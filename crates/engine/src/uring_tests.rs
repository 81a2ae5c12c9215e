//! Tests of the io_uring reactor: each set-up mode, short transfers, and futures dropped while the kernel still writes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::io_buffer::IoBuffer;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::task::Wake;
use std::time::{Duration, Instant};

struct Counted(AtomicUsize);
impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Atomic::SeqCst);
    }
}

fn file(bytes: &[u8]) -> Rc<OwnedFd> {
    let fd = rustix::fs::memfd_create("uring-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).unwrap();
    Rc::new(file.into())
}

fn finish(reactor: &Reactor, mut op: OpFuture) -> io::Result<u32> {
    let waker = Waker::from(Arc::new(Counted(AtomicUsize::new(0))));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Poll::Ready(answer) = Pin::new(&mut op).poll(&mut Context::from_waker(&waker)) {
            return answer;
        }
        assert!(Instant::now() < deadline, "no completion");
        reactor.poll();
    }
}

#[test]
fn every_setup_reads_writes_syncs_and_allocates() {
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        let reactor = Reactor::with_setup(8, setup).unwrap();
        let file = file(&[7; 8192]);
        let buffer = Rc::new(IoBuffer::new(4096).unwrap());
        assert_eq!(
            finish(&reactor, reactor.read(&file, &buffer, 0)).unwrap(),
            4096
        );
        let mut seen = [0; 4096];
        assert_eq!(buffer.read(0, &mut seen), 4096);
        assert_eq!(seen, [7; 4096]);
        buffer.write(0, &[9; 4096]);
        assert_eq!(
            finish(
                &reactor,
                reactor.write(&file, &buffer, 4096, setup == Setup::Plain)
            )
            .unwrap(),
            4096
        );
        assert_eq!(finish(&reactor, reactor.sync(&file, true)).unwrap(), 0);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(
            finish(&reactor, reactor.allocate(&file, punch, 0, 4096)).unwrap(),
            0
        );
        assert_eq!(
            finish(&reactor, reactor.read(&file, &buffer, 0)).unwrap(),
            4096
        );
        buffer.read(0, &mut seen);
        assert_eq!(seen, [0; 4096], "{setup:?}: the hole reads as zeroes");
        assert_eq!(reactor.in_flight(), 0);
        assert_eq!(Rc::strong_count(&buffer), 1, "nothing is held any more");
        assert_eq!(Rc::strong_count(&file), 1);
    }
}

#[test]
fn a_read_past_the_end_tells_how_much_there_was() {
    let reactor = Reactor::new(8).unwrap();
    let file = file(&[1; 1000]);
    let buffer = Rc::new(IoBuffer::new(4096).unwrap());
    assert_eq!(
        finish(&reactor, reactor.read(&file, &buffer, 0)).unwrap(),
        1000
    );
    assert_eq!(
        finish(&reactor, reactor.read(&file, &buffer, 5000)).unwrap(),
        0
    );
}

#[test]
fn a_short_transfer_goes_on_where_it_stopped() {
    let reactor = Reactor::new(8).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (reader, buffer) = (Rc::new(reader), Rc::new(IoBuffer::new(10).unwrap()));
    let mut op = reactor.read(&reader, &buffer, 0);
    let waker = Waker::from(Arc::new(Counted(AtomicUsize::new(0))));
    for part in [&b"abc"[..], b"defg", b"hij"] {
        assert!(
            Pin::new(&mut op)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        rustix::io::write(&writer, part).unwrap();
        for _ in 0..100 {
            reactor.poll();
        }
    }
    assert_eq!(finish(&reactor, op).unwrap(), 10);
    let mut seen = [0; 10];
    buffer.read(0, &mut seen);
    assert_eq!(&seen, b"abcdefghij");
}

#[test]
fn a_bad_descriptor_is_an_error() {
    let reactor = Reactor::new(8).unwrap();
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let buffer = Rc::new(IoBuffer::new(512).unwrap());
    let error = finish(&reactor, reactor.read(&Rc::new(writer), &buffer, 0)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn dropping_the_future_mid_flight_frees_nothing_the_kernel_may_write() {
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        let reactor = Reactor::with_setup(8, setup).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (reader, buffer) = (Rc::new(reader), Rc::new(IoBuffer::new(4).unwrap()));
        let counted = Arc::new(Counted(AtomicUsize::new(0)));
        let waker = Waker::from(counted.clone());
        let mut op = reactor.read(&reader, &buffer, 0);
        assert!(
            Pin::new(&mut op)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        reactor.poll();
        drop(op);
        assert_eq!(
            Rc::strong_count(&buffer),
            2,
            "the slot still holds the memory"
        );
        assert_eq!(Rc::strong_count(&reader), 2, "and the descriptor");
        assert_eq!(reactor.in_flight(), 1);
        rustix::io::write(&writer, b"late").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while reactor.in_flight() > 0 {
            assert!(Instant::now() < deadline, "no completion");
            reactor.poll();
        }
        let mut seen = [0; 4];
        buffer.read(0, &mut seen);
        assert_eq!(&seen, b"late", "the kernel did write after the drop");
        assert_eq!(Rc::strong_count(&buffer), 1);
        assert_eq!(Rc::strong_count(&reader), 1);
        assert_eq!(
            counted.0.load(Atomic::SeqCst),
            0,
            "nobody waits: nobody is woken"
        );
    }
}

#[test]
fn dropping_the_reactor_waits_for_the_kernel() {
    let reactor = Reactor::new(8).unwrap();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let buffer = Rc::new(IoBuffer::new(4).unwrap());
    let op = reactor.read(&Rc::new(reader), &buffer, 0);
    reactor.poll();
    drop(op);
    drop(reactor);
    assert_eq!(Rc::strong_count(&buffer), 1, "cancelled, reaped, let go");
}

#[test]
fn more_operations_than_entries_wait_their_turn() {
    let reactor = Reactor::new(4).unwrap();
    let file = file(&[3; 65536]);
    let ops: Vec<_> = (0..100_u64)
        .map(|i| {
            let buffer = Rc::new(IoBuffer::new(512).unwrap());
            (reactor.read(&file, &buffer, i * 512), buffer)
        })
        .collect();
    for (op, buffer) in ops {
        assert_eq!(finish(&reactor, op).unwrap(), 512);
        let mut seen = [0; 512];
        buffer.read(0, &mut seen);
        assert_eq!(seen, [3; 512]);
    }
}

#[test]
fn an_armed_ring_writes_its_event_descriptor() {
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        let reactor = Reactor::with_setup(8, setup).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let buffer = Rc::new(IoBuffer::new(4).unwrap());
        let op = reactor.read(&Rc::new(reader), &buffer, 0);
        assert!(!reactor.arm(), "there is something to submit");
        reactor.disarm();
        reactor.poll();
        assert!(reactor.arm());
        rustix::io::write(&writer, b"wake").unwrap();
        reactor.with_event(|fd| {
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            let timeout = rustix::event::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            assert_eq!(
                rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
                1,
                "{setup:?}"
            );
        });
        reactor.disarm();
        assert_eq!(finish(&reactor, op).unwrap(), 4);
    }
}

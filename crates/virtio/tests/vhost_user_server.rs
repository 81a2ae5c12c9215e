//! The vhost-user endpoint over real sockets: both modes, second and returning front ends, stale sockets, shutdown at
//! every moment, and front ends that break off, lose descriptors or do not read.

#![allow(clippy::unwrap_used)]

mod peer;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peer::{Recorder, eventfd, memory_table, open_fds, raw, ring_address, u32s, u64s};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sumeru_virtio::device::DeviceType;
use sumeru_virtio::vhost_user::message::{FLAG_NEED_REPLY, Request, VERSION};
use sumeru_virtio::vhost_user::{Endpoint, EndpointError};

const MEBI: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;

/// A folder of its own for each test, removed with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sumeru-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("vhost.sock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn device() -> (Recorder, Box<Recorder>) {
    let recorder = Recorder::new(DeviceType::Net, 2);
    (recorder.clone(), Box::new(recorder))
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen within 5 s"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    assert_eq!(sent, bytes.len());
}

fn request(stream: &UnixStream, request: Request, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    send(stream, &raw(request as u32, VERSION, payload), fds);
}

/// Asks for the features and reads the reply: when this returns, everything sent before has been handled.
fn features(mut stream: &UnixStream) -> u64 {
    request(stream, Request::GetFeatures, &[], &[]);
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], *u32s(&[1, 5, 8]));
    u64::from_ne_bytes(reply[12..].try_into().unwrap())
}

/// Brings ring 0 up.
fn start(stream: &UnixStream) {
    request(stream, Request::SetOwner, &[], &[]);
    request(stream, Request::SetFeatures, &u64s(&[1 << 32]), &[]);
    let (table, files) = memory_table(&[(0, MEBI, USER), (MEBI, MEBI, USER + MEBI)]);
    request(
        stream,
        Request::SetMemTable,
        &table,
        &[files[0].as_fd(), files[1].as_fd()],
    );
    request(stream, Request::SetVringNum, &u32s(&[0, 64]), &[]);
    request(stream, Request::SetVringAddr, &ring_address(0, USER), &[]);
    request(
        stream,
        Request::SetVringKick,
        &u64s(&[0]),
        &[eventfd().as_fd()],
    );
    features(stream);
}

/// Waits for the end of the connection; anything that arrives before it is skipped.
fn closed(mut stream: &UnixStream) -> bool {
    loop {
        match stream.read(&mut [0; 64]) {
            Ok(0) => return true,
            Ok(_) => {}
            // A reset is an end too: bytes of ours were still unread.
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_front_end_comes_goes_and_comes_back() {
    let place = Place::new("comes-back");
    let (recorder, device) = device();
    let endpoint = Endpoint::listen(place.socket(), device).unwrap();
    let mode = std::fs::metadata(place.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(endpoint.session(), None);
    for round in 1..=3 {
        let stream = connect(&place);
        start(&stream);
        assert_eq!(
            recorder.events(),
            ["features 0x100000000", "start 0 size 64 at 0 enabled"]
        );
        let info = endpoint.session().unwrap();
        assert!(info.queues[0].running && !info.queues[1].started);
        assert_eq!(info.memory.len(), 2);
        drop(stream);
        eventually("the end of the session", || endpoint.session().is_none());
        assert_eq!(recorder.events(), ["stop 0 at 0", "reset"]);
        let statistics = endpoint.statistics();
        assert_eq!(
            (statistics.connections, statistics.messages),
            (round, round * 7)
        );
        assert_eq!((statistics.errors, statistics.refused_connections), (0, 0));
    }
    endpoint.shutdown();
    assert!(!place.socket().exists());
}

#[test]
fn a_second_front_end_is_turned_away() {
    let place = Place::new("second");
    let (_recorder, device) = device();
    let endpoint = Endpoint::listen(place.socket(), device).unwrap();
    let first = connect(&place);
    start(&first);
    for nth in 1..=3 {
        assert!(closed(&connect(&place)));
        eventually("the count", || {
            endpoint.statistics().refused_connections == nth
        });
    }
    features(&first);
    assert!(
        endpoint.session().unwrap().queues[0].running,
        "the first one is not disturbed"
    );
    assert_eq!(endpoint.statistics().connections, 1);
}

#[test]
fn the_back_end_connects_and_connects_again() {
    let place = Place::new("client");
    let (recorder, device) = device();
    let endpoint = Endpoint::connect(place.socket(), device).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let listener = UnixListener::bind(place.socket()).unwrap();
    for round in 1..=2 {
        let (stream, _) = listener.accept().unwrap();
        start(&stream);
        assert_eq!(endpoint.statistics().connections, round);
        drop(stream);
        eventually("the end of the session", || {
            recorder.events().contains(&"reset".to_owned())
        });
    }
    endpoint.shutdown();
    assert!(place.socket().exists(), "the socket is the front end's");
}

#[test]
fn only_dead_sockets_are_replaced() {
    let place = Place::new("stale");
    let live = UnixListener::bind(place.socket()).unwrap();
    let refused = Endpoint::listen(place.socket(), device().1).unwrap_err();
    assert!(matches!(refused, EndpointError::InUse { .. }), "{refused}");
    drop(live);
    let endpoint = Endpoint::listen(place.socket(), device().1).unwrap();
    features(&connect(&place));
    let refused = Endpoint::listen(place.socket(), device().1).unwrap_err();
    assert!(matches!(refused, EndpointError::InUse { .. }), "{refused}");
    // Somebody replaces the socket: the shutdown leaves theirs alone.
    std::fs::remove_file(place.socket()).unwrap();
    std::fs::write(place.socket(), b"mine").unwrap();
    endpoint.shutdown();
    let refused = Endpoint::listen(place.socket(), device().1).unwrap_err();
    assert!(
        matches!(refused, EndpointError::NotASocket { .. }),
        "{refused}"
    );
    assert_eq!(std::fs::read(place.socket()).unwrap(), b"mine");
    let refused = Endpoint::listen(place.0.join("x".repeat(120)), device().1).unwrap_err();
    assert!(
        matches!(refused, EndpointError::PathTooLong { .. }),
        "{refused}"
    );
    let refused = Endpoint::listen(place.0.join("no/such/folder"), device().1).unwrap_err();
    assert!(matches!(refused, EndpointError::System { .. }), "{refused}");
}

#[test]
fn shutdown_comes_at_any_moment() {
    let place = Place::new("shutdown");
    // Nobody connected.
    let started = Instant::now();
    Endpoint::listen(place.socket(), device().1)
        .unwrap()
        .shutdown();
    Endpoint::connect(place.socket(), device().1)
        .unwrap()
        .shutdown();
    // With a running ring, in the middle of a message.
    let (recorder, device) = device();
    let endpoint = Endpoint::listen(place.socket(), device).unwrap();
    let stream = connect(&place);
    start(&stream);
    send(&stream, &raw(5, VERSION, &[0; 100])[..50], &[]);
    endpoint.shutdown();
    assert_eq!(recorder.events()[2..], ["stop 0 at 0", "reset"]);
    assert!(closed(&stream));
    // While the front end does not read its replies.
    let endpoint = Endpoint::listen(place.socket(), self::device().1).unwrap();
    let stream = connect(&place);
    stream.set_nonblocking(true).unwrap();
    while (&stream)
        .write(&raw(Request::GetFeatures as u32, VERSION, &[]))
        .is_ok()
    {}
    std::thread::sleep(Duration::from_millis(50));
    endpoint.shutdown();
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn broken_front_ends_leave_nothing_behind() {
    let place = Place::new("broken");
    let (recorder, device) = device();
    let endpoint = Endpoint::listen(place.socket(), device).unwrap();
    features(&connect(&place));
    eventually("the end of the session", || endpoint.session().is_none());
    let before = open_fds();
    let event = eventfd();
    let many = vec![event.as_fd(); 32];
    let whole = raw(Request::SetVringKick as u32, VERSION, &u64s(&[0]));
    let cases: [(&str, &[u8], &[BorrowedFd<'_>]); 6] = [
        ("leaves within the header", &whole[..5], &many[..1]),
        ("leaves within the payload", &whole[..15], &many[..1]),
        ("sends more descriptors than fit", &whole, &many),
        ("sends nine descriptors", &whole, &many[..9]),
        (
            "announces a huge payload",
            &u32s(&[5, 1, u32::MAX]),
            &many[..8],
        ),
        ("speaks another protocol", b"GET / HTTP/1.1\r\n\r\n", &[]),
    ];
    for (earlier, (what, bytes, fds)) in (0..).zip(cases) {
        let stream = connect(&place);
        start(&stream);
        send(&stream, bytes, fds);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(closed(&stream), "{what}");
        eventually(what, || {
            endpoint.statistics().errors == earlier + 1 && endpoint.session().is_none()
        });
        assert_eq!(recorder.events().last().unwrap(), "reset", "{what}");
    }
    // Descriptors with the second part of a message.
    let stream = connect(&place);
    send(&stream, &whole[..6], &[]);
    // The kernel joins what waits in the socket, so the first part has to be taken before.
    std::thread::sleep(Duration::from_millis(50));
    send(&stream, &whole[6..], &many[..1]);
    assert!(closed(&stream));
    drop(stream);
    eventually("the end of the session", || endpoint.session().is_none());
    assert_eq!(
        open_fds(),
        before + 1,
        "only the test's own event descriptor was added"
    );
    // And the next one is served.
    start(&connect(&place));
}

#[test]
fn refused_messages_do_not_end_a_session_that_can_be_told() {
    let place = Place::new("told");
    let endpoint = Endpoint::listen(place.socket(), device().1).unwrap();
    let mut stream = connect(&place);
    request(&stream, Request::SetOwner, &[], &[]);
    request(&stream, Request::SetProtocolFeatures, &u64s(&[1 << 3]), &[]);
    for id in [
        Request::SetMemTable as u32,
        Request::SetVringNum as u32,
        4711,
    ] {
        send(&stream, &raw(id, VERSION | FLAG_NEED_REPLY, &[0; 3]), &[]);
        let mut reply = [0; 20];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply, *[u32s(&[id, 5, 8]), u64s(&[1])].concat());
    }
    features(&stream);
    assert_eq!(endpoint.statistics().errors, 3);
    // Without an acknowledgement the same message ends it.
    send(
        &stream,
        &raw(Request::SetVringNum as u32, VERSION, &[0; 3]),
        &[],
    );
    assert!(closed(&stream));
}

#[test]
fn an_idle_endpoint_sleeps() {
    let place = Place::new("idle");
    let endpoint = Endpoint::listen(place.socket(), device().1).unwrap();
    let stream = connect(&place);
    start(&stream);
    // The reply may be here before the thread is back in its sleep.
    std::thread::sleep(Duration::from_millis(50));
    let switches = || {
        let tasks = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().path());
        let named = tasks.filter(|task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "vhost-user\n")
        });
        let count = named.map(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"))
                .unwrap();
            line.split_whitespace()
                .last()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        count.collect::<Vec<_>>()
    };
    // Other tests of this binary may run in the same process; ours is among the threads that did not move.
    let before = switches();
    assert!(!before.is_empty());
    std::thread::sleep(Duration::from_millis(500));
    let after = switches();
    assert!(
        after.iter().any(|count| before.contains(count)),
        "{before:?} {after:?}"
    );
    drop(endpoint);
}

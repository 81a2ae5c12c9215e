//! The prober against the kernel's stack is in the end-to-end tests; here are answers of all kinds, from a stack of our own behind the same sockets.

use super::http::{LINE_MAX, Status, status};
use super::*;

use std::io::Write;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

#[test]
fn a_status_line_is_read_and_nothing_else_is_one() {
    assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Status::Code(200));
    assert_eq!(status(b"HTTP/1.0 503 \r\nX: y"), Status::Code(503));
    assert_eq!(status(b"HTTP/1.1 200 OK"), Status::Partial);
    assert_eq!(status(b""), Status::Partial);
    for wrong in [
        &b"SSH-2.0-OpenSSH\r\n"[..],
        b"HTTP/1.1 OK\r\n",
        b"HTTP/1.1 20000 OK\r\n",
        b"\n",
        b"\0\0\0\n",
        &[b'a'; LINE_MAX],
    ] {
        assert_eq!(status(wrong), Status::Malformed, "{wrong:?}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_comes_is_read(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        status(&bytes);
    }
}

/// A host on the other side of the socket that answers every connection to port 80 with these bytes, `step` at a time.
struct Server {
    socket: UnixDatagram,
    answer: Vec<u8>,
    step: usize,
    close: bool,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a UnixDatagram);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        let _ = self.0.send(&frame);
        result
    }
}

impl phy::Device for Server {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Rx, Tx<'_>)> {
        let mut frame = vec![0; 2000];
        let len = self.socket.recv(&mut frame).ok()?;
        frame.truncate(len);
        Some((Rx(frame), Tx(&self.socket)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Tx<'_>> {
        Some(Tx(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// Serves for a while.
fn serve(mut server: Server, until: impl Fn() -> bool) {
    let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 1]));
    let mut interface = Interface::new(Config::new(mac), &mut server, Clock::now());
    interface.update_ip_addrs(|all| {
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        all.push(IpCidr::new(own.into(), 24)).unwrap();
    });
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(tcp::Socket::new(
        tcp::SocketBuffer::new(vec![0; 4096]),
        tcp::SocketBuffer::new(vec![0; 4096]),
    ));
    let mut sent = 0;
    while !until() {
        interface.poll(Clock::now(), &mut server, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if !socket.is_open() {
            socket.listen(80).unwrap();
            sent = 0;
        }
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), ())).unwrap();
        }
        let answer = &server.answer;
        if socket.can_send() && sent < answer.len() {
            let rest = &answer[sent..(sent + server.step).min(answer.len())];
            sent += socket.send_slice(rest).unwrap();
        }
        if server.close && sent == answer.len() {
            socket.close();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn target(check: Check) -> Target {
    Target {
        balancer: "web".into(),
        member: "10.0.0.1:80".parse().unwrap(),
        port: 80,
        slot: 1,
        state: Shared::default(),
        check,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(90),
        rise: 2,
        fall: 2,
    }
}

fn vantage(targets: Vec<Target>) -> Vantage {
    Vantage {
        network: 1,
        source: "10.0.0.9".parse().unwrap(),
        length: 24,
        gateway: None,
        targets,
    }
}

/// The first change that a prober tells when a member that is believed to be `up` answers so; nothing within some probes if it stays.
fn told(check: Check, up: bool, answer: &[u8], step: usize, close: bool) -> Option<Change> {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    let prober = Prober::start().unwrap();
    let target = target(check);
    target.state.set_up(up);
    prober.set(vec![(vantage(vec![target.clone()]), Some(ours))]);
    let over = std::sync::atomic::AtomicBool::new(false);
    let (answer, over) = (answer.to_vec(), &over);
    std::thread::scope(|scope| {
        let server = Server {
            socket: theirs,
            answer,
            step,
            close,
        };
        scope.spawn(move || serve(server, || over.load(std::sync::atomic::Ordering::Relaxed)));
        let end = Instant::now() + Duration::from_millis(1500);
        let mut changes = Vec::new();
        while changes.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            changes = prober.changes();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let change = changes.pop();
        assert_eq!(target.state.is_up(), change.as_ref().map_or(up, |c| c.up));
        change
    })
}

#[test]
fn members_that_answer_come_back_and_stay() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let http = || Check::http("/", "web", &[200]);
    for check in [Check::Tcp, http()] {
        let change = told(check.clone(), false, page, 4096, true).expect("it comes back");
        assert!(change.up);
        assert_eq!(told(check, true, page, 4096, true), None);
    }
    // Byte by byte is an answer too, if it comes in time.
    assert!(told(http(), false, b"HTTP/1.0 200\r\n", 1, true).is_some());
}

#[test]
fn answers_that_are_none_take_a_member_away() {
    let http = || Check::http("/", "web", &[200, 204]);
    let mut endless = Vec::new();
    write!(endless, "HTTP/1.1 200").unwrap();
    endless.resize(1 << 20, b'a');
    let slow = b"HTTP/1.1 200 OK and so on and so on and so on and so on and so on and so on and so on and so on and so on and so on and so on\r\n";
    for (answer, step, close, why) in [
        (
            &b"HTTP/1.1 500 No\r\n\r\n"[..],
            4096,
            true,
            "another status code",
        ),
        (b"not http\r\n", 4096, true, "no answer by HTTP"),
        (&endless, 4096, false, "no answer by HTTP"),
        (slow, 1, false, "no answer in time"),
        (b"", 1, false, "no answer in time"),
        (
            b"HTTP",
            4096,
            true,
            "the connection ended without an answer",
        ),
    ] {
        let change = told(http(), true, answer, step, close).expect(why);
        assert_eq!((change.up, change.why), (false, why));
    }
}

#[test]
fn frames_of_any_kind_harm_nobody() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let prober = Prober::start().unwrap();
    prober.set(vec![(vantage(vec![target(Check::Tcp)]), Some(ours))]);
    let mut seed = 1_u64;
    let mut frame = vec![0; 1600];
    let end = Instant::now() + Duration::from_millis(400);
    while Instant::now() < end {
        for byte in &mut frame {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 33) as u8;
        }
        frame[..6].copy_from_slice(&[0x0e, 0x73, 10, 0, 0, 9]);
        let kind: [u8; 2] = [[8, 0], [8, 6], [0x86, 0xdd]][(seed >> 40) as usize % 3];
        frame[12..14].copy_from_slice(&kind);
        frame[14] = if kind[0] == 8 { 0x45 } else { 0x60 };
        let _ = theirs.send(&frame[..(seed >> 20) as usize % 1600]);
        while theirs.recv(&mut [0; 2000]).is_ok() {}
    }
    // It still probes, and ends.
    let change = prober.changes();
    assert!(change.iter().all(|change| !change.up), "{change:?}");
    drop(prober);
}

//! Wire ports against the kernel: what one port sends the other receives byte for byte, and the host's own TCP passes through them.
//!
//! Every test makes a network namespace of its own for its thread, which disappears with it. They need root.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::net_header::Gso;

/// Moves this thread to a new network namespace without IPv6, whose own chatter would mix with the frames of the test.
pub(super) fn new_namespace() {
    // SAFETY: only this thread changes its network namespace.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "cannot make a network namespace ({}): the tests of wire ports must run as root",
        io::Error::last_os_error()
    );
    for scope in ["default", "all"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
    }
}

/// Runs `ip` or another tool in this thread's namespace.
pub(super) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| {
            panic!("{command}: {error}; install it with apt-get install iproute2 ethtool")
        });
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A veth pair `wire-a`, `wire-b` in a new namespace.
pub(super) fn veth_pair(mtu: u32) {
    new_namespace();
    run(&format!(
        "ip link add wire-a mtu {mtu} type veth peer name wire-b mtu {mtu}"
    ));
    run("ip link set wire-a up");
    run("ip link set wire-b up");
    // The kernel starts the queues of a new carrier some time later, and drops frames until then.
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !b.pending() {
        send_all(&mut a, &[frame(60, 0)]);
        assert!(Instant::now() < deadline, "the veth pair does not come up");
    }
    // What is still under way arrives at these two sockets.
    std::thread::sleep(Duration::from_millis(5));
}

pub(super) type Frame = (Vec<u8>, Offload);

/// A frame of `len` bytes of an experimental protocol, each one different.
pub(super) fn frame(len: usize, seed: usize) -> Frame {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 + seed * 31) as u8).collect();
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    (bytes, Offload::NONE)
}

/// A TCP segment of `payload` bytes over IPv4 that is to be cut into pieces of `gso_size`, with only the pseudo-header summed.
pub(super) fn large_segment(payload: usize, gso_size: u16) -> Frame {
    let (mut bytes, _) = frame(54 + payload, 9);
    bytes[12..14].copy_from_slice(&[8, 0]);
    let ip_len = (40 + payload) as u16;
    let mut ip = [
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 9, 9, 1, 10, 9, 9, 2,
    ];
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let sum = !fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = [
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0, 0, 0, 0, 0,
    ];
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((20 + payload) as u16).to_be_bytes());
    tcp[16..18].copy_from_slice(&fold(&pseudo).to_be_bytes());
    bytes[14..34].copy_from_slice(&ip);
    bytes[34..54].copy_from_slice(&tcp);
    let offload = Offload {
        partial_csum: true,
        csum_start: 34,
        csum_offset: 16,
        gso: Gso::TcpV4,
        gso_size,
        ..Offload::NONE
    };
    (bytes, offload)
}

pub(super) fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(super) fn send_all(wire: &mut dyn Wire, frames: &[Frame]) -> usize {
    for (bytes, offload) in frames {
        let buffer = wire.send_buffer().expect("room to send");
        assert!(buffer.len() as usize >= bytes.len());
        // SAFETY: the port lives.
        unsafe { buffer.write(bytes) };
        wire.send(bytes.len() as u32, offload, 54);
    }
    wire.flush()
}

pub(super) fn receive_some(wire: &mut dyn Wire, count: usize) -> Vec<Frame> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut lent = Vec::with_capacity(64);
    let mut frames = Vec::new();
    while frames.len() < count && Instant::now() < deadline {
        lent.clear();
        let got = wire.receive(7, &mut lent);
        assert!(got == lent.len() && got <= 7);
        for received in &lent {
            let mut bytes = vec![0; received.data.len() as usize];
            // SAFETY: the port lives, and has not received again.
            unsafe { received.data.read(&mut bytes) };
            frames.push((bytes, received.offload));
        }
    }
    frames
}

/// Sends frames of many lengths both ways, in bursts, and compares.
pub(super) fn exchange(left: &mut dyn Wire, right: &mut dyn Wire, longest: usize) {
    let lengths = [60, 61, 64, 127, 128, 590, 1000, 1499, longest];
    let frames: Vec<_> = (0..100).map(|i| frame(lengths[i % 9], i)).collect();
    for _ in 0..3 {
        assert_eq!(send_all(left, &frames), frames.len());
        assert!(right.pending());
        compare(&receive_some(right, frames.len()), &frames);
        assert!(!right.pending());
        assert_eq!(send_all(right, &frames), frames.len());
        compare(&receive_some(left, frames.len()), &frames);
    }
    assert_eq!(left.flush() + right.flush(), 0);
    assert_eq!(left.take_lost(), Lost::default());
    assert_eq!(right.take_lost(), Lost::default());
}

pub(super) fn compare(got: &[Frame], sent: &[Frame]) {
    assert_eq!(got.len(), sent.len(), "frames received");
    for (i, (got, sent)) in got.iter().zip(sent).enumerate() {
        assert_eq!(got.0.len(), sent.0.len(), "length of frame {i}");
        assert!(got.0 == sent.0, "content of frame {i}");
        assert_eq!(got.1, sent.1, "offload of frame {i}");
    }
}

#[test]
fn packet_sockets_exchange_frames() {
    veth_pair(1500);
    let mut left = PacketSocket::open("wire-a").unwrap();
    let mut right = PacketSocket::open("wire-b").unwrap();
    assert_eq!(left.interface().unwrap().mtu().unwrap(), 1500);
    assert_eq!(left.mac(), left.interface().unwrap().mac().unwrap());
    assert_ne!(left.mac(), right.mac());
    exchange(&mut left, &mut right, 1514);
}

#[test]
fn tap_and_packet_socket_exchange_frames() {
    new_namespace();
    let mut left = Tap::open("tap0", 9000).unwrap();
    let mut right = PacketSocket::open("tap0").unwrap();
    assert_eq!(left.mac(), right.mac());
    exchange(&mut left, &mut right, 9014);
}

#[test]
fn each_queue_of_a_tap_sends() {
    new_namespace();
    let mut queues = Tap::open_queues("tap0", 1500, 3).unwrap();
    assert_eq!(queues.len(), 3);
    let mut right = PacketSocket::open("tap0").unwrap();
    for (seed, queue) in queues.iter_mut().enumerate() {
        assert_eq!(send_all(queue, &[frame(99, seed)]), 1);
        compare(&receive_some(&mut right, 1), &[frame(99, seed)]);
    }
}

#[test]
fn large_segments_and_partial_checksums_pass_whole() {
    veth_pair(1500);
    let frames = [
        large_segment(60_000, 1448),
        large_segment(3_000, 536),
        (
            large_segment(100, 1).0,
            Offload {
                gso: Gso::None,
                gso_size: 0,
                ..large_segment(100, 1).1
            },
        ),
    ];
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    assert_eq!(send_all(&mut a, &frames), 3);
    compare(&receive_some(&mut b, 3), &frames);
    // Long and short ones in their order: the long ones come another way.
    let mixed: Vec<_> = (0..90)
        .map(|i| match i % 3 {
            0 => large_segment(2_100 + 700 * i, 1448),
            _ => frame(60 + i, i),
        })
        .collect();
    assert_eq!(send_all(&mut a, &mixed), mixed.len());
    compare(&receive_some(&mut b, mixed.len()), &mixed);
    let mut tap = Tap::open("tap0", 1500).unwrap();
    let mut host = PacketSocket::open("tap0").unwrap();
    assert_eq!(send_all(&mut tap, &frames), 3);
    compare(&receive_some(&mut host, 3), &frames);
    assert_eq!(send_all(&mut host, &frames), 3);
    compare(&receive_some(&mut tap, 3), &frames);
}

/// `bytes` with a VLAN tag after the addresses.
fn tagged(bytes: &[u8], tag: [u8; 4]) -> Vec<u8> {
    [&bytes[..12], &tag, &bytes[12..]].concat()
}

#[test]
fn vlan_tags_stay_in_the_frame() {
    veth_pair(1500);
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    let plain = frame(700, 3).0;
    let (large, offload) = large_segment(20_000, 1400);
    let mut shifted = offload;
    shifted.shift(4);
    let frames = [
        (tagged(&plain, [0x81, 0, 0x20, 0x64]), Offload::NONE),
        (tagged(&plain, [0x81, 0, 0, 0]), Offload::NONE),
        (tagged(&plain, [0x88, 0xa8, 0xef, 0xff]), Offload::NONE),
        (
            tagged(&tagged(&plain, [0x81, 0, 0, 7]), [0x88, 0xa8, 0, 9]),
            Offload::NONE,
        ),
        (tagged(&large, [0x81, 0, 0, 42]), shifted),
        (plain, Offload::NONE),
    ];
    assert_eq!(send_all(&mut a, &frames), frames.len());
    compare(&receive_some(&mut b, frames.len()), &frames);
    assert_eq!(b.take_lost(), Lost::default());
}

#[test]
fn what_nobody_fetches_is_counted() {
    veth_pair(1500);
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    let burst: Vec<_> = (0..32).map(|i| frame(1500, i)).collect();
    let mut sent = 0;
    for _ in 0..1500 {
        sent += send_all(&mut a, &burst);
    }
    let mut got = 0;
    while b.pending() {
        got += receive_some(&mut b, 1).len();
    }
    let lost = b.take_lost();
    assert!(lost.overflow > 0, "{sent} sent, {got} received");
    assert_eq!(got as u64 + lost.overflow, sent as u64);
    assert_eq!(b.take_lost(), Lost::default());
}

#[test]
fn a_segmentation_without_a_form_here_is_a_counted_drop() {
    veth_pair(1500);
    run("ip address add 10.9.9.1/24 dev wire-a");
    run("ip neighbour add 10.9.9.2 lladdr 02:00:00:00:00:02 dev wire-a");
    let mut b = PacketSocket::open("wire-b").unwrap();
    let socket = UdpSocket::bind("10.9.9.1:1000").unwrap();
    // UDP segmentation: the kernel hands one large datagram frame down.
    syscall::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &500).unwrap();
    socket.send_to(&[7; 5000], "10.9.9.2:1000").unwrap();
    syscall::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &0).unwrap();
    socket.send_to(&[7; 100], "10.9.9.2:1000").unwrap();
    let got = receive_some(&mut b, 1);
    assert_eq!(got[0].0.len(), 142);
    assert_eq!(b.take_lost().malformed, 1);
}

#[test]
fn a_frame_longer_than_its_buffer_is_lost() {
    veth_pair(1500);
    let mut tap = Tap::open("tap0", 1500).unwrap();
    let mut packet = PacketSocket::open("wire-a").unwrap();
    let mut xdp = XdpSocket::open("wire-b", 0).unwrap();
    for wire in [&mut tap as &mut dyn Wire, &mut packet, &mut xdp] {
        for _ in 0..2000 {
            let len = wire.send_buffer().unwrap().len();
            wire.send(len + 1, &Offload::NONE, 0);
            wire.send(60, &Offload::NONE, 0);
        }
        assert!(wire.flush() <= 2000);
        assert_eq!(send_all(wire, &[frame(60, 1)]), 1);
    }
}

#[test]
fn a_refused_frame_does_not_hold_up_the_next() {
    veth_pair(1500);
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    let (bytes, offload) = large_segment(1000, 500);
    let outside = Offload {
        csum_start: 60_000,
        ..offload
    };
    let frames = [
        frame(100, 1),
        frame(5000, 2),
        (bytes, outside),
        frame(100, 3),
    ];
    assert_eq!(send_all(&mut a, &frames), 2);
    compare(&receive_some(&mut b, 2), &[frame(100, 1), frame(100, 3)]);
}

/// Waits at most 5 s for something that the kernel does in its own time.
pub(super) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interface_that_goes_down_comes_back() {
    veth_pair(1500);
    let mut a = PacketSocket::open("wire-a").unwrap();
    let mut b = PacketSocket::open("wire-b").unwrap();
    assert!(a.interface().unwrap().link_up().unwrap());
    b.interface().unwrap().set_up(false).unwrap();
    eventually("the carrier goes", || {
        !a.interface().unwrap().link_up().unwrap()
    });
    assert_eq!(send_all(&mut b, &[frame(100, 1)]), 0);
    assert!(!b.pending());
    // A sleeper that watches the socket is not kept awake by the error.
    let mut look = [rustix::event::PollFd::from_borrowed_fd(
        b.fd(),
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::time::Timespec::default();
    assert_eq!(rustix::event::poll(&mut look, Some(&now)).unwrap(), 0);
    b.interface().unwrap().set_up(true).unwrap();
    eventually("frames pass again", || {
        send_all(&mut a, &[frame(100, 2)]);
        b.pending()
    });
    compare(&receive_some(&mut b, 1), &[frame(100, 2)]);
}

#[test]
fn the_host_answers_through_a_tap() {
    new_namespace();
    let mut tap = Tap::open("tap0", 1500).unwrap();
    tap.interface()
        .unwrap()
        .set_mac([2, 0, 0, 0, 0, 0x77])
        .unwrap();
    run("ip address add 10.9.9.1/24 dev tap0");
    let us = [2, 0, 0, 0, 0, 2];
    let mut question = vec![0xff; 6];
    question.extend(us);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(us);
    question.extend([10, 9, 9, 2, 0, 0, 0, 0, 0, 0, 10, 9, 9, 1]);
    assert_eq!(send_all(&mut tap, &[(question, Offload::NONE)]), 1);
    let answer = receive_some(&mut tap, 1).remove(0).0;
    assert_eq!(answer[..6], us);
    assert_eq!(answer[20..28], [0, 2, 2, 0, 0, 0, 0, 0x77]);

    let mut echo = [8, 0, 0, 0, 1, 2, 0, 1].to_vec();
    echo.extend(0..56);
    let sum = !fold(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = [
        0x45, 0, 0, 84, 0, 1, 0, 0, 64, 1, 0, 0, 10, 9, 9, 2, 10, 9, 9, 1,
    ];
    let sum = !fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let ping = [&[2, 0, 0, 0, 0, 0x77][..], &us, &[8, 0], &ip, &echo].concat();
    assert_eq!(send_all(&mut tap, &[(ping, Offload::NONE)]), 1);
    let reply = receive_some(&mut tap, 1).remove(0).0;
    assert_eq!(reply[..6], us);
    assert_eq!(reply[34], 0, "an echo reply");
    assert_eq!(reply[42..], echo[8..]);
}

/// Copies frames from one port to the other, as they are.
fn forward(from: &mut dyn Wire, to: &mut dyn Wire, lent: &mut Vec<Received>) -> usize {
    lent.clear();
    let got = from.receive(32, lent);
    let mut large = 0;
    for received in lent.iter() {
        let Some(buffer) = to.send_buffer() else {
            continue;
        };
        // SAFETY: both ports live, and `from` has not received again.
        let len = unsafe { buffer.write_slice(&received.data) };
        assert_eq!(len, received.data.len() as usize);
        large += usize::from(received.offload.gso != Gso::None);
        to.send(len as u32, &received.offload, 54);
    }
    if got != 0 {
        to.flush();
    }
    large
}

/// Bytes sent through each way of a TCP connection.
const STREAM_LEN: usize = 32 << 20;

fn stream_byte(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// A thread in a namespace of its own: `port` makes a port whose other end is an interface with `address`, then `work` runs.
fn host<W: Wire + Send + 'static>(
    port: impl FnOnce() -> W + Send + 'static,
    work: impl FnOnce() + Send + 'static,
) -> (W, std::thread::JoinHandle<()>) {
    let (give, take) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        new_namespace();
        give.send(port()).unwrap();
        work();
    });
    (take.recv().unwrap(), thread)
}

/// Two hosts move data over TCP through two ports and the loop between them. Returns how many large segments passed.
pub(super) fn tcp_through<W: Wire + Send + 'static>(
    port: impl Fn(&str) -> W + Send + Clone + 'static,
) -> usize {
    let (left_port, right_port) = (port.clone(), port);
    let (listening, is_listening) = mpsc::channel();
    let (mut left, server) = host(
        move || left_port("10.9.9.1/24"),
        move || {
            let listener = TcpListener::bind("10.9.9.1:7000").unwrap();
            listening.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), STREAM_LEN);
            assert!(bytes.iter().enumerate().all(|(i, &b)| b == stream_byte(i)));
            stream.write_all(&bytes).unwrap();
        },
    );
    is_listening.recv().unwrap();
    let (mut right, client) = host(
        move || right_port("10.9.9.2/24"),
        move || {
            let mut stream = TcpStream::connect("10.9.9.1:7000").unwrap();
            let bytes: Vec<_> = (0..STREAM_LEN).map(stream_byte).collect();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert!(back == bytes, "what came back");
        },
    );
    let stop = AtomicBool::new(false);
    let mut large = 0;
    std::thread::scope(|scope| {
        let loops = scope.spawn(|| {
            let mut lent = Vec::with_capacity(64);
            let mut large = 0;
            while !stop.load(Ordering::Relaxed) {
                large += forward(&mut left, &mut right, &mut lent);
                large += forward(&mut right, &mut left, &mut lent);
            }
            large
        });
        let started = Instant::now();
        let done = || server.is_finished() && client.is_finished();
        while !done() && started.elapsed() < Duration::from_secs(40) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let in_time = done();
        stop.store(true, Ordering::Relaxed);
        large = loops.join().unwrap();
        assert!(in_time, "the hosts did not finish in 40 s");
        let rate = (2 * STREAM_LEN) as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
        eprintln!("TCP through two ports: {rate:.2} Gbit/s, {large} large segments");
    });
    server.join().unwrap();
    client.join().unwrap();
    large
}

#[test]
fn tcp_of_the_host_passes_two_taps() {
    let large = tcp_through(|address| {
        let tap = Tap::open("tap0", 1500).unwrap();
        run(&format!("ip address add {address} dev tap0"));
        tap
    });
    assert!(large > 100, "{large} large segments");
}

#[test]
fn tcp_of_the_host_passes_two_packet_sockets() {
    let large = tcp_through(|address| {
        run("ip link add wire-a type veth peer name wire-b");
        run("ip link set wire-a up");
        run("ip link set wire-b up");
        run(&format!("ip address add {address} dev wire-a"));
        PacketSocket::open("wire-b").unwrap()
    });
    assert!(large > 100, "{large} large segments");
}

#[test]
fn an_idle_port_is_looked_at_rarely() {
    new_namespace();
    let mut b = Tap::open("tap0", 1500).unwrap();
    let mut a = PacketSocket::open("tap0").unwrap();
    let mut lent = Vec::with_capacity(64);
    for _ in 0..1000 {
        assert_eq!(b.receive(32, &mut lent), 0);
    }
    send_all(&mut a, &[frame(100, 1)]);
    let looks = (1..1000).find(|_| b.receive(32, &mut lent) == 1);
    assert!(looks.is_some_and(|looks| looks <= 32), "{looks:?}");
    // A look for real ends the skipping.
    for _ in 0..1000 {
        assert_eq!(b.receive(32, &mut lent), 0);
    }
    send_all(&mut a, &[frame(100, 2)]);
    assert!(b.pending());
    assert_eq!(b.receive(32, &mut lent), 1);
    assert!(b.fd().as_raw_fd() >= 0);
}

#[test]
fn errors_name_the_interface() {
    new_namespace();
    let message = |result: Result<PacketSocket, WireError>| result.unwrap_err().to_string();
    assert_eq!(
        message(PacketSocket::open("nowhere")),
        "there is no interface nowhere"
    );
    for name in ["", "a b", "a/b", "tap%d", "a-name-of-16-byt", ".."] {
        let error = Tap::open(name, 1500).unwrap_err();
        assert!(matches!(error, WireError::Name(_)), "{name:?}: {error}");
    }
    let tap = Tap::open("tap0", 1500).unwrap();
    assert!(
        Tap::open("tap0", 1500)
            .unwrap_err()
            .to_string()
            .contains("tap0")
    );
    assert!(tap.interface().unwrap().set_mtu(10).is_err());
    tap.interface().unwrap().set_mtu(9000).unwrap();
    assert_eq!(tap.interface().unwrap().mtu().unwrap(), 9000);
    drop(tap);
    eventually("the device goes", || {
        matches!(Interface::open("tap0"), Err(WireError::NoInterface(_)))
    });
}

//! AF_XDP ports against packet sockets, TAP devices, each other and the host's TCP, over veth pairs. They need root.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use super::bpf::{XdpMode, XdpProgram};
use super::tests::{
    compare, eventually, exchange, frame, new_namespace, receive_some, run, send_all, tcp_through,
    veth_pair,
};
use super::*;

/// Whether an XDP program is on an interface, as `ip` sees it.
fn has_program(interface: &str) -> bool {
    let output = Command::new("ip")
        .args(["link", "show", "dev", interface])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).contains("xdp")
}

#[test]
fn xdp_and_packet_socket_exchange_frames() {
    veth_pair(1500);
    let mut left = XdpSocket::open("wire-a", 0).unwrap();
    let mut right = PacketSocket::open("wire-b").unwrap();
    assert_eq!(left.program().mode(), XdpMode::Native);
    assert!(!left.zero_copy(), "veth copies");
    assert_eq!(left.mac(), left.interface().unwrap().mac().unwrap());
    exchange(&mut left, &mut right, 1514);
}

#[test]
fn xdp_sockets_exchange_frames() {
    veth_pair(3818);
    let mut left = XdpSocket::open("wire-a", 0).unwrap();
    let mut right = XdpSocket::open("wire-b", 0).unwrap();
    exchange(&mut left, &mut right, 3832);
}

#[test]
fn xdp_sockets_exchange_frames_in_several_pieces() {
    veth_pair(9000);
    let mut left = XdpSocket::open("wire-a", 0).unwrap();
    let mut right = XdpSocket::open("wire-b", 0).unwrap();
    assert_eq!(left.program().mode(), XdpMode::Native);
    exchange(&mut left, &mut right, 9014);
}

#[test]
fn xdp_in_the_stack_exchanges_frames() {
    veth_pair(1500);
    let program = XdpProgram::attach_in("wire-a", &[XdpMode::Generic]).unwrap();
    assert_eq!(program.mode(), XdpMode::Generic);
    let mut left = XdpSocket::on(&program, 0).unwrap();
    let mut right = PacketSocket::open("wire-b").unwrap();
    exchange(&mut left, &mut right, 1514);
}

#[test]
fn xdp_and_tap_exchange_frames() {
    new_namespace();
    let mut left = Tap::open("tap0", 1500).unwrap();
    let mut right = XdpSocket::open("tap0", 0).unwrap();
    exchange(&mut left, &mut right, 1514);
}

#[test]
fn each_queue_has_its_socket() {
    new_namespace();
    run(
        "ip link add wire-a numrxqueues 2 numtxqueues 2 type veth peer name wire-b numrxqueues 2 numtxqueues 2",
    );
    run("ip link set wire-a up");
    run("ip link set wire-b up");
    let mut left = XdpSocket::open_all("wire-a").unwrap();
    let mut right = XdpSocket::open_all("wire-b").unwrap();
    assert_eq!(
        left.iter().map(XdpSocket::queue).collect::<Vec<_>>(),
        [0, 1]
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while !right.iter_mut().any(|socket| socket.pending()) {
        send_all(&mut left[0], &[frame(60, 0)]);
        assert!(Instant::now() < deadline, "the veth pair does not come up");
    }
    std::thread::sleep(Duration::from_millis(5));
    for socket in &mut right {
        while socket.pending() {
            receive_some(socket, 1);
        }
    }
    // A frame leaves by the queue of its socket, and arrives on the same of the peer.
    for (queue, socket) in left.iter_mut().enumerate() {
        let sent = [frame(100, queue), frame(200, queue)];
        assert_eq!(send_all(socket, &sent), 2);
        compare(&receive_some(&mut right[queue], 2), &sent);
    }
    assert!(!right.iter_mut().any(|socket| socket.pending()));
}

#[test]
fn tcp_of_the_host_passes_two_xdp_sockets() {
    tcp_through(|address| {
        run("ip link add wire-a type veth peer name wire-b");
        run("ip link set wire-a up");
        run("ip link set wire-b up");
        run("ethtool -K wire-a tx off");
        run(&format!("ip address add {address} dev wire-a"));
        XdpSocket::open("wire-b", 0).unwrap()
    });
}

#[test]
fn the_program_goes_with_its_last_socket() {
    veth_pair(1500);
    let first = XdpSocket::open("wire-a", 0).unwrap();
    assert!(has_program("wire-a"));
    let second = XdpSocket::open("wire-a", 0).unwrap_err().to_string();
    assert!(
        second.contains("attach an XDP program on interface wire-a"),
        "{second}"
    );
    let twice = XdpSocket::on(first.program(), 0).unwrap_err().to_string();
    assert!(twice.contains("bind an XDP socket"), "{twice}");
    let far = XdpSocket::on(first.program(), 9).unwrap_err().to_string();
    assert!(far.contains("bind an XDP socket"), "{far}");
    drop(first);
    eventually("the program goes", || !has_program("wire-a"));
    XdpSocket::open("wire-a", 0).unwrap();
}

#[test]
fn an_mtu_without_room_is_refused() {
    new_namespace();
    run("ip link set lo up");
    let error = XdpSocket::open("lo", 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the MTU of interface lo is 65536, expected at most 65514"
    );
}

#[test]
fn what_nobody_fetches_is_counted() {
    veth_pair(1500);
    let mut a = XdpSocket::open("wire-a", 0).unwrap();
    let mut b = XdpSocket::open("wire-b", 0).unwrap();
    let burst: Vec<_> = (0..32).map(|i| frame(300, i)).collect();
    let mut sent = 0;
    for _ in 0..200 {
        sent += send_all(&mut a, &burst);
    }
    assert_eq!(sent, 6400);
    std::thread::sleep(Duration::from_millis(20));
    let mut got = 0;
    while b.pending() {
        got += receive_some(&mut b, 1).len();
    }
    let lost = b.take_lost();
    assert!(lost.overflow > 0, "{got} received");
    assert_eq!(got as u64 + lost.overflow, sent as u64);
    // All chunks circulate again.
    for _ in 0..200 {
        assert_eq!(send_all(&mut a, &burst), 32);
        compare(&receive_some(&mut b, 32), &burst);
    }
}

#[test]
fn a_dead_link_fills_the_ring_and_recovers() {
    veth_pair(1500);
    let mut a = XdpSocket::open("wire-a", 0).unwrap();
    let mut b = XdpSocket::open("wire-b", 0).unwrap();
    a.interface().unwrap().set_up(false).unwrap();
    let mut queued = 0;
    while let Some(buffer) = a.send_buffer() {
        let (bytes, offload) = frame(100, queued);
        // SAFETY: the port lives.
        unsafe { buffer.write(&bytes) };
        a.send(100, &offload, 0);
        queued += 1;
        assert!(queued <= 1024);
    }
    assert_eq!(queued, 1024);
    assert_eq!(a.flush(), 1024);
    a.interface().unwrap().set_up(true).unwrap();
    let mut lent = Vec::with_capacity(64);
    let deadline = Instant::now() + Duration::from_secs(5);
    while a.send_buffer().is_none() {
        a.receive(32, &mut lent);
        assert!(Instant::now() < deadline, "nothing was sent");
    }
    while b.pending() {
        receive_some(&mut b, 1);
    }
    a.send(0, &Offload::NONE, 0);
    assert_eq!(send_all(&mut a, &[frame(90, 7)]), 1);
    let got = receive_some(&mut b, 1);
    compare(&got, &[frame(90, 7)]);
}

//! What real front ends say: recorded conversations of QEMU 7.2, QEMU 11.1 and DPDK 22.11 with the `handshake` example,
//! replayed byte by byte. Every message must be accepted, and answered as it was then.
//!
//! The recordings hold each message's header, payload and number of descriptors; descriptors of the right kind are
//! made up here. To record again: run the example, start the front end, keep the lines of messages and replies.

#![allow(clippy::unwrap_used)]

mod peer;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use peer::{Driver, Recorder, eventfd, memfd, raw};
use sumeru_virtio::device::DeviceType;
use sumeru_virtio::features::{self, ProtocolFeatures};
use sumeru_virtio::inflight::{self, InflightRegion};
use sumeru_virtio::vhost_user::Verdict;
use sumeru_virtio::vhost_user::message::Request;

fn field<'line>(line: &'line str, name: &str) -> &'line str {
    let start = line
        .find(name)
        .unwrap_or_else(|| panic!("{name} in {line}"))
        + name.len();
    line[start..].split_whitespace().next().unwrap_or("")
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn u64_at(payload: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(payload[offset..offset + 8].try_into().unwrap())
}

/// The number that the first message of this kind was answered with.
fn recorded_answer(trace: &str, request: Request) -> u64 {
    let mut lines = trace.lines();
    let message = format!("({})", request as u32);
    lines.find(|line| line.contains(&message)).unwrap();
    u64_at(&bytes(field(lines.next().unwrap(), "payload=")), 0)
}

/// An in-flight region as a dead back end left it: requests 3 and 0 of queue 0 were fetched and not completed.
fn left_behind(description: &[u8]) -> OwnedFd {
    let number = |at: usize| u16::from_ne_bytes([description[at], description[at + 1]]);
    let (queues, queue_size) = (number(16), number(18));
    let (fd, size) = inflight::create(queues, queue_size).unwrap();
    let copy = fd.try_clone().unwrap();
    let region = InflightRegion::map(fd, size, 0, queues, queue_size).unwrap();
    let mut queue = region.queue(0, queue_size).unwrap();
    queue.mark(3);
    queue.mark(0);
    copy
}

struct Replay {
    events: Vec<String>,
    requests: BTreeMap<u32, usize>,
    /// Requests to be resubmitted, of the queues that ran at the end.
    left: Vec<u16>,
}

fn replay(trace: &str, kind: DeviceType) -> Replay {
    let recorder = Recorder::new(kind, 4);
    // The device offers what the example's device offered when the conversation was recorded.
    let offered = recorded_answer(trace, Request::GetFeatures);
    let protocol = recorded_answer(trace, Request::GetProtocolFeatures);
    recorder.record().offered = offered & !features::ring::VHOST_USER_PROTOCOL_FEATURES;
    recorder.record().protocol = ProtocolFeatures::from_bits_retain(protocol);
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    let mut inflight: Option<OwnedFd> = None;
    let mut requests = BTreeMap::new();
    let mut lines = trace.lines().peekable();
    while let Some(line) = lines.next() {
        let id: u32 = line[line.find('(').unwrap() + 1..line.find(')').unwrap()]
            .parse()
            .unwrap();
        let flags = u32::from_str_radix(field(line, "flags=0x"), 16).unwrap();
        let payload = bytes(field(line, "payload="));
        let is = |request: Request| id == request as u32;
        let fds = match field(line, "fds=").parse().unwrap() {
            0 => vec![],
            1 if is(Request::SetMemTable) => {
                vec![memfd(u64_at(&payload, 16) + u64_at(&payload, 32))]
            }
            1 if is(Request::AddMemReg) => vec![memfd(u64_at(&payload, 16) + u64_at(&payload, 32))],
            // After a reconnect the front end brings a region of the back end's former life.
            1 if is(Request::SetInflightFd) => {
                vec![inflight.take().unwrap_or_else(|| left_behind(&payload))]
            }
            1 if is(Request::SetBackendReqFd) => {
                let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                vec![ours.into()]
            }
            1 => vec![eventfd()],
            count => panic!("{count} descriptors: {line}"),
        };
        let reply = match driver.send_raw(&raw(id, flags, &payload), fds).unwrap() {
            Verdict::Done(reply) => reply,
            other => panic!("{line}: {other:?}"),
        };
        *requests.entry(id).or_default() += 1;
        let recorded = lines.next_if(|next| next.starts_with("    reply"));
        assert_eq!(reply.is_some(), recorded.is_some(), "{line}");
        let (Some(mut reply), Some(recorded)) = (reply, recorded) else {
            continue;
        };
        assert_eq!(
            reply.fd.is_some(),
            field(recorded, "fd=") == "true",
            "{line}"
        );
        let expected = bytes(field(recorded, "payload="));
        assert_eq!(reply.payload.len(), expected.len(), "{line}");
        // The contents of the configuration space are the device's affair, everything else is the session's.
        if !is(Request::GetConfig) {
            assert_eq!(reply.payload, expected, "{line}");
        }
        inflight = reply.fd.take().or(inflight);
    }
    let mut left = Vec::new();
    for setup in recorder.record().queues.iter_mut().flatten() {
        if let Some(tracked) = &mut setup.inflight {
            left.extend(tracked.recover(setup.last_available).heads);
        }
    }
    drop(driver);
    Replay {
        left,
        events: recorder.events(),
        requests,
    }
}

fn starts(replay: &Replay) -> Vec<&str> {
    replay
        .events
        .iter()
        .filter(|event| event.starts_with("start"))
        .map(String::as_str)
        .collect()
}

#[test]
fn qemu_7_2_net_with_two_queue_pairs() {
    let replay = replay(include_str!("data/qemu-7.2-net.txt"), DeviceType::Net);
    let expected: Vec<_> = (0..4)
        .map(|index| {
            format!(
                "start {index} size 256 at 0 {}",
                if index < 2 { "enabled" } else { "disabled" }
            )
        })
        .collect();
    assert_eq!(starts(&replay), expected);
    assert_eq!(
        replay.requests[&(Request::AddMemReg as u32)],
        2,
        "this front end repeats its region"
    );
    assert!(replay.events.contains(&"mtu 1500".to_owned()));
    assert_eq!(replay.events.last().unwrap(), "reset");
}

#[test]
fn qemu_11_1_net_with_two_queue_pairs() {
    let replay = replay(include_str!("data/qemu-11.1-net.txt"), DeviceType::Net);
    assert_eq!(starts(&replay).len(), 4);
    assert!(replay.requests.contains_key(&(Request::ResetDevice as u32)));
}

#[test]
fn qemu_7_2_blk_in_firmware_and_kernel() {
    let replay = replay(include_str!("data/qemu-7.2-blk.txt"), DeviceType::Block);
    assert_eq!(starts(&replay), ["start 0 size 128 at 0 disabled"; 2]);
    assert_eq!(replay.requests[&(Request::SetInflightFd as u32)], 2);
}

#[test]
fn qemu_11_1_blk_in_firmware_and_kernel() {
    let replay = replay(include_str!("data/qemu-11.1-blk.txt"), DeviceType::Block);
    assert_eq!(starts(&replay), ["start 0 size 128 at 0 disabled"; 2]);
    assert_eq!(replay.requests[&(Request::GetInflightFd as u32)], 2);
}

#[test]
fn dpdk_22_11_virtio_user_with_two_queue_pairs() {
    let replay = replay(include_str!("data/dpdk-22.11-net.txt"), DeviceType::Net);
    assert_eq!(starts(&replay).len(), 4);
    assert_eq!(replay.requests[&(Request::SetMemTable as u32)], 1);
}

#[test]
fn qemu_comes_back_to_a_restarted_back_end_with_its_inflight_region() {
    for trace in [
        include_str!("data/qemu-7.2-blk-reconnect.txt"),
        include_str!("data/qemu-11.1-blk-reconnect.txt"),
    ] {
        let replay = replay(trace, DeviceType::Block);
        assert_eq!(starts(&replay), ["start 0 size 128 at 0 disabled"]);
        assert!(replay.events.contains(&"enable 0 true".to_owned()));
        assert_eq!(replay.left, [3, 0]);
    }
}

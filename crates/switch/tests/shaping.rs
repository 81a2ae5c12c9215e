//! Ports with a queue in front: frames arrive whole and in order, what waits is bounded, and shares change under traffic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::time::{Duration, Instant};

use driver::*;
use sumeru_switch::lane::queue::{Class, EgressConfig, FRAMES_MIN, Tenant};
use sumeru_switch::qos::QosError;
use sumeru_switch::stats::Drop;
use sumeru_switch::switch::SwitchError;

/// Faster than any test is.
const FAST: u64 = 1 << 38;

fn queue(rate: u64, frames: u32) -> EgressConfig {
    EgressConfig {
        rate,
        frames,
        tenants: Vec::new(),
        classes: Vec::new(),
    }
}

/// Guests 1 and 2 on a network, known to it, with a queue in front of port 2.
fn pair(config: EgressConfig) -> (Node, Guest, Guest) {
    let mut node = Node::with_networks(&[1]);
    let options = Options::default();
    let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
    a.send(&[udp(1, 2, 1)]);
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    b.receive();
    node.switch.set_egress(2, Some(config)).unwrap();
    (node, a, b)
}

/// Receives until `count` frames have come.
fn gather(guest: &mut Guest, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut frames = Vec::new();
    while frames.len() < count {
        assert!(Instant::now() < deadline, "{} of {count}", frames.len());
        frames.extend(guest.frames());
    }
    frames
}

#[test]
fn frames_of_every_length_arrive_whole_and_in_order() {
    let (node, mut a, mut b) = pair(queue(FAST, 1000));
    // Around the ends of the header copy and of a piece.
    let lens = (0..60).chain([85, 86, 87, 100, 213, 214, 215, 1000, 1450, 1472]);
    for lens in lens.collect::<Vec<_>>().chunks(20) {
        let frames: Vec<_> = lens.iter().map(|len| udp(1, 2, *len)).collect();
        a.send(&frames);
        assert_eq!(gather(&mut b, frames.len()), frames);
    }
    let report = &node.switch.queues(2).unwrap()[0];
    assert_eq!((report.network, report.dscp.len()), (None, 0));
    assert_eq!(report.stats.sent_packets, 70);
    assert_eq!(
        (report.stats.full_packets, report.stats.queued_packets),
        (0, 0)
    );
}

#[test]
fn a_large_frame_waits_in_pieces_and_is_cut_when_it_leaves() {
    let options = Options {
        features: SENDS,
        ..Options::default()
    };
    let mut node = Node::with_networks(&[1]);
    let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    node.switch.set_egress(2, Some(queue(FAST, 64))).unwrap();
    let whole = tcp(1, 2, false, 20_000);
    let (header, frame) = large(&whole, 1400);
    a.send_with(header, &frame);
    let pieces = gather(&mut b, 15);
    pieces.iter().for_each(|piece| verify(piece));
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    assert_eq!(reassemble(pieces), payload(&whole).1);
}

#[test]
fn what_waits_is_bounded_and_leaves_when_the_queue_goes() {
    // A frame takes a second.
    let (mut node, mut a, mut b) = pair(queue(10_000, FRAMES_MIN));
    let frames: Vec<_> = (0..200).map(|i| udp(1, 2, 1000 + i)).collect();
    for frames in frames.chunks(50) {
        a.send(frames);
    }
    let stats = node.switch.queues(2).unwrap()[0].stats;
    assert_eq!(stats.queued_packets, FRAMES_MIN);
    assert_eq!(
        stats.full_packets + stats.sent_packets + u64::from(FRAMES_MIN),
        200
    );
    assert_eq!(node.drops(Drop::QueueFull), stats.full_packets);
    assert!(stats.full_packets > 100, "{stats:?}");
    let before = b.frames();
    node.switch.set_egress(2, None).unwrap();
    let after = gather(&mut b, FRAMES_MIN as usize);
    let all: Vec<_> = before.into_iter().chain(after).collect();
    assert_eq!(all, frames[..all.len()], "the oldest, in order");
    assert!(node.switch.queues(2).unwrap().is_empty());
    a.send(&[udp(1, 2, 7)]);
    assert_eq!(gather(&mut b, 1), [udp(1, 2, 7)]);
}

#[test]
fn a_port_goes_with_what_waits_for_it() {
    let (mut node, mut a, b) = pair(queue(10_000, FRAMES_MIN));
    a.send(&vec![udp(1, 2, 1000); 40]);
    let stats = node.switch.queues(2).unwrap()[0].stats;
    let waiting = stats.queued_packets;
    assert!(waiting > 20, "{stats:?}, {:?}", node.all_drops());
    drop(b);
    node.switch.remove_port(2).unwrap();
    // One may have left in between.
    let dropped = node.drops(Drop::PortDown);
    let waiting = u64::from(waiting);
    assert!((waiting - 5..=waiting).contains(&dropped), "{dropped}");
    a.send(&[udp(1, 2, 1)]);
    assert!(node.switch.queues(2).unwrap().is_empty());
}

#[test]
fn shares_that_cannot_be_are_refused() {
    let (mut node, mut a, mut b) = pair(queue(FAST, 64));
    let tenant = |weight, priority| Tenant {
        network: Some(1),
        priority,
        weight,
        rate: None,
    };
    let class = |dscp: u8| Class {
        dscp: vec![dscp],
        priority: 0,
        weight: 1,
    };
    let refused = [
        (
            EgressConfig {
                tenants: vec![tenant(0, 0)],
                ..queue(FAST, 64)
            },
            QosError::Weight(0),
        ),
        (
            EgressConfig {
                tenants: vec![tenant(1, 8)],
                ..queue(FAST, 64)
            },
            QosError::Priority(8),
        ),
        (
            EgressConfig {
                classes: (0..40).map(class).collect(),
                ..queue(FAST, 2000)
            },
            QosError::Limit(82_000),
        ),
    ];
    for (config, expected) in refused {
        let error = node.switch.set_egress(2, Some(config)).unwrap_err();
        assert!(
            matches!(error, SwitchError::Meter(error) if error == expected),
            "{error}, expected {expected}"
        );
    }
    a.send(&[udp(1, 2, 9)]);
    assert_eq!(gather(&mut b, 1), [udp(1, 2, 9)], "as it was");
}

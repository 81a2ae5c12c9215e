//! Mirrors to a collector: copies in order, and no more work for a frame than one may cost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use std::sync::Arc;

use driver::*;
use sumeru_packet::build::{Erspan, ErspanKind};
use sumeru_switch::mirror::{MirrorCounters, MirrorView, Target};
use sumeru_switch::selection::Selection;

/// Outer Ethernet, IPv4, GRE with a sequence number and ERSPAN type II.
const LEAD: usize = 14 + 20 + 8 + 8;
const COLLECTOR: [u8; 4] = [192, 0, 2, 9];

/// Guests 1 and 2 on one network; all that 1 sends goes to the collector as well, by the uplink.
fn mirrored() -> (Node, Guest, Guest, Guest, Arc<MirrorCounters>) {
    let mut node = Node::with_networks(&[1]);
    let mut wire = node.uplink(9, &[("192.0.2.1", 24)], SENDS);
    let options = Options::default();
    let (a, mut b) = (node.guest(1, &options), node.guest(2, &options));
    b.send(&[udp(2, 1, 10)]);
    let counters = Arc::new(MirrorCounters::default());
    let view = MirrorView {
        name: "m".into(),
        selection: Selection {
            ports: vec![1],
            sent: false,
            ..Selection::default()
        },
        target: Target::Collector {
            address: COLLECTOR.into(),
            header: Erspan {
                session: 7,
                kind: ErspanKind::Two { index: 0 },
            },
            snaplen: u32::MAX,
        },
        counters: counters.clone(),
    };
    node.switch.set_mirrors(vec![view]).unwrap();
    let mut answer = [0; 64];
    let (own, asked) = (COLLECTOR.into(), [192, 0, 2, 1].into());
    let len =
        sumeru_packet::build::arp_reply(&mut answer, mac(0xfa), own, mac(0xee), asked).unwrap();
    wire.send(&[&answer[..len]]);
    wire.receive();
    (node, a, b, wire, counters)
}

/// The copies among what left by the uplink: sequence number and frame.
fn copies(wire: &mut Guest) -> Vec<(u32, Vec<u8>)> {
    let frames = wire.frames().into_iter();
    let gre = frames.filter(|frame| frame[12..14] == [8, 0] && frame[23] == 47);
    gre.map(|frame| {
        let sequence = frame[38..42].try_into().unwrap();
        (u32::from_be_bytes(sequence), frame[LEAD..].to_vec())
    })
    .collect()
}

#[test]
fn the_copies_of_a_burst_leave_in_order() {
    let (_node, mut a, mut b, mut wire, counters) = mirrored();
    // More than one batch of copies: some frames are cut.
    let sent: Vec<Vec<u8>> = (0..20).map(|n| udp(1, 2, 100 + n)).collect();
    a.send(&sent);
    let (header, large) = large(&tcp(1, 2, false, 14_000), 1000);
    a.send_with(header, &large);
    assert_eq!(b.frames().len(), 34);
    let got = copies(&mut wire);
    let numbers: Vec<u32> = got.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..34).collect::<Vec<u32>>());
    for (n, sent) in sent.iter().enumerate() {
        assert_eq!(&got[n].1, sent);
    }
    let segments = got[20..].iter().map(|(_, frame)| {
        verify(frame);
        &frame[..]
    });
    assert_eq!(reassemble(segments), payload(&large).1);
    assert_eq!((counters.packets.get(), counters.lost.get()), (34, 0));
}

#[test]
fn a_guest_that_asks_for_tiny_segments_costs_no_more_than_another() {
    let (node, mut a, _b, mut wire, counters) = mirrored();
    let (header, large) = large(&tcp(1, 9, false, 8000), 8);
    a.send_with(header, &large);
    assert_eq!(copies(&mut wire).len(), 64);
    assert_eq!((counters.packets.get(), counters.lost.get()), (64, 936));
    assert_eq!(node.stage(sumeru_switch::stats::Stage::Mirror), 64);
}

//! Checksums and segmentation that a sender leaves to the device (Virtio 1.2, 5.1.6.2), done in software where the receiver does not
//! take them over; receive buffers of every shape; the spread over queues.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_packet::build;
use sumeru_switch::stats::{Drop, PairSums, Stage};
use sumeru_virtio::features::{net, ring};

/// A sender at port 1 and a receiver of these features at port 2, which know each other.
fn pair(features: u64, buffers: (usize, Vec<u32>)) -> (Node, Guest, Guest) {
    let mut node = Node::with_networks(&[1]);
    let mut a = node.guest(1, &Options::default());
    let mut b = node.guest(
        2,
        &Options {
            features,
            buffers,
            ..Options::default()
        },
    );
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    (node, a, b)
}

fn plain_buffers() -> (usize, Vec<u32>) {
    (128, vec![2048])
}

#[test]
fn a_partial_checksum_is_completed_for_a_receiver_without() {
    let (node, mut a, mut b) = pair(SENDS, plain_buffers());
    let mut expected = Vec::new();
    for len in [0, 1, 2, 63, 64, 65, 500, 1001, 1399] {
        for frame in [udp(1, 2, len), tcp(1, 2, false, len), tcp(1, 2, true, len)] {
            let (header, left) = partial(&frame);
            a.send_with(header, &left);
            // The same in pieces of odd lengths.
            a.send_cut(header, &left, &[12, 33, 1, 7, 101], len % 2 == 0);
            expected.extend([frame.clone(), frame]);
        }
    }
    let got = b.frames();
    got.iter().for_each(|frame| verify(frame));
    assert_eq!(got, expected);
    assert_eq!(node.stage(Stage::Checksum), expected.len() as u64);
}

#[test]
fn a_partial_checksum_is_left_to_a_receiver_that_takes_it() {
    let (node, mut a, mut b) = pair(SUMS, plain_buffers());
    let frame = tcp(1, 2, false, 700);
    let (header, left) = partial(&frame);
    a.send_with(header, &left);
    let got = b.receive().pop().unwrap();
    assert_eq!(got.frame, left);
    assert_eq!(
        got.header,
        NetHeader {
            num_buffers: 1,
            ..header
        }
    );
    assert_eq!(node.stage(Stage::Checksum), 0);
}

#[test]
fn large_segments_are_cut_for_a_receiver_without() {
    for features in [SENDS, SUMS] {
        let (node, mut a, mut b) = pair(features, plain_buffers());
        for (v6, mss, len) in [
            (false, 1448, 60_000),
            (true, 1428, 60_001),
            (false, 536, 5_360),
            (true, 1001, 1_001),
            (false, 1448, 100),
        ] {
            let frame = tcp(1, 2, v6, len);
            let (header, left) = large(&frame, mss);
            a.send_cut(header, &left, &[12, 54, 4096, 4095, 4097], true);
            let got = b.receive();
            assert_eq!(got.len(), len.div_ceil(usize::from(mss)));
            let whole: Vec<_> = got
                .iter()
                .map(|segment| {
                    assert_eq!(segment.header.gso_type, 0);
                    if features == SENDS {
                        assert_eq!(segment.header.flags, 0);
                        return segment.frame.clone();
                    }
                    assert_eq!(segment.header.flags, F_NEEDS_CSUM);
                    finish(&segment.header, &segment.frame)
                })
                .collect();
            let sent = payload(&frame).1;
            assert_eq!(reassemble(whole.iter().map(Vec::as_slice)), sent);
            // PSH stands in the last segment only (flags of every one else: ACK).
            let flags = |f: &Vec<u8>| f[usize::from(layout(f).outer().l4) + 13];
            let (last, others) = whole.split_last().unwrap();
            assert_eq!(flags(last), 0x18);
            assert!(others.iter().all(|f| flags(f) == 0x10));
        }
        assert_eq!(node.stage(Stage::Segment), 5);
        assert!(node.all_drops().is_empty(), "{:?}", node.all_drops());
    }
}

/// Completes a partial checksum as a receiving driver would.
fn finish(header: &NetHeader, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let start = usize::from(header.csum_start);
    let sum = sumeru_packet::checksum::checksum(&frame[start..]);
    let at = start + usize::from(header.csum_offset);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn large_segments_pass_to_a_receiver_that_takes_them() {
    for buffers in [(8, vec![70_000]), (128, vec![1526])] {
        let (node, mut a, mut b) = pair(TAKES_ALL, buffers);
        for (v6, mss) in [(false, 1448), (true, 1428)] {
            let frame = tcp(1, 2, v6, 60_000);
            let (header, left) = large(&frame, mss);
            a.send_cut(header, &left, &[1000, 8192], false);
            let got = b.receive().pop().unwrap();
            assert_eq!(got.frame, left);
            let num_buffers = got.chains as u16;
            assert_eq!(
                got.header,
                NetHeader {
                    num_buffers,
                    ..header
                }
            );
        }
        assert_eq!(node.stage(Stage::Segment) + node.stage(Stage::Checksum), 0);
    }
}

#[test]
fn congestion_is_reported_in_the_first_segment_only() {
    let (_node, mut a, mut b) = pair(TAKES_ALL & !net::GUEST_ECN, plain_buffers());
    let mut frame = tcp(1, 2, false, 4000);
    frame[47] |= 0x80;
    let (mut header, left) = large(&frame, 1000);
    header.gso_type |= GSO_ECN;
    a.send_with(header, &left);
    let flags: Vec<_> = b.receive().iter().map(|r| r.frame[47]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x10, 0x18]);
}

#[test]
fn small_receive_buffers_are_merged() {
    for lens in [vec![128], vec![12, 116], vec![1, 11, 30, 7], vec![12, 700]] {
        let (node, mut a, mut b) = pair(SENDS, (256 / lens.len(), lens.clone()));
        let chain: u32 = lens.iter().sum();
        let mut expected = Vec::new();
        for len in [0, 74, 75, 200, 1000] {
            let frame = udp(1, 2, len);
            let (header, left) = partial(&frame);
            a.send(&[&frame]);
            a.send_with(header, &left);
            expected.extend([frame.clone(), frame]);
            let got = b.receive();
            for (got, expected) in got.iter().zip(&expected[expected.len() - 2..]) {
                assert_eq!(got.frame, *expected);
                let needed = (expected.len() + 12).div_ceil(chain as usize);
                assert_eq!(
                    (got.chains, got.header.num_buffers),
                    (needed, needed as u16)
                );
            }
            assert_eq!(got.len(), 2);
        }
        assert!(node.all_drops().is_empty());
    }
}

#[test]
fn a_receiver_without_merging_gets_whole_frames_or_none() {
    let features = SENDS & !net::MRG_RXBUF;
    let (node, mut a, mut b) = pair(features, (32, vec![12, 500, 500]));
    a.send(&[udp(1, 2, 900), udp(1, 2, 958), udp(1, 2, 959), udp(1, 2, 3)]);
    let lens: Vec<_> = b.frames().iter().map(|f| f.len() - 42).collect();
    assert_eq!(lens, [900, 958, 3]);
    assert_eq!(node.drops(Drop::BufferTooSmall), 1);
    // A legacy driver: ten bytes of header.
    let legacy = net::CSUM | net::HOST_TSO4;
    let mut c = {
        let mut node = node;
        let mut c = node.guest(
            3,
            &Options {
                features: legacy,
                buffers: (32, vec![10, 1514]),
                ..Options::default()
            },
        );
        c.send(&[udp(3, 1, 1)]);
        a.receive();
        let frame = tcp(1, 3, false, 3000);
        let (header, left) = large(&frame, 1448);
        a.send_with(header, &left);
        a.send(&[udp(1, 3, 1472)]);
        (c, node)
    };
    let got = c.0.frames();
    let sent = payload(&tcp(1, 3, false, 3000)).1;
    assert_eq!(reassemble(got[..3].iter().map(Vec::as_slice)), sent);
    assert_eq!(got[3], udp(1, 3, 1472));
    let (header, left) = large(&tcp(3, 1, false, 2000), 1000);
    c.0.send_with(header, &left);
    assert_eq!(a.frames().len(), 2);
}

#[test]
fn large_segments_are_cut_into_a_tunnel() {
    for takes in [SENDS, TAKES_ALL] {
        let mut node = Node::new();
        node.network(7, &["192.0.2.2"], 0);
        let mut wire = node.uplink(0, &[("192.0.2.1", 24)], takes);
        let mut a = node.guest(
            1,
            &Options {
                network: Some(7),
                ..Options::default()
            },
        );
        let mut answer = [0; 64];
        let len = build::arp_reply(
            &mut answer,
            mac(0xfa),
            [192, 0, 2, 2].into(),
            mac(0xee),
            [192, 0, 2, 1].into(),
        )
        .unwrap();
        wire.send(&[&answer[..len]]);
        wire.receive();
        for v6 in [false, true] {
            let frame = tcp(1, 9, v6, 50_001);
            let (header, left) = large(&frame, 1400);
            a.send_with(header, &left);
            let got: Vec<_> = wire
                .receive()
                .into_iter()
                .map(|segment| {
                    assert_eq!(
                        segment.header.gso_type, 0,
                        "no receiver cuts inside a tunnel"
                    );
                    if segment.header.flags & F_NEEDS_CSUM == 0 {
                        return segment.frame;
                    }
                    assert_eq!(takes, TAKES_ALL);
                    finish(&segment.header, &segment.frame)
                })
                .collect();
            assert_eq!(got.len(), 50_001_usize.div_ceil(1400));
            assert!(got.iter().all(|f| f[30..34] == [192, 0, 2, 2]));
            let sent = payload(&frame).1;
            assert_eq!(reassemble(got.iter().map(Vec::as_slice)), sent);
            // A partial checksum goes through as well, odd lengths included.
            let small = udp(1, 9, 333);
            let (header, left) = partial(&small);
            a.send_with(header, &left);
            let got = wire.receive().pop().unwrap();
            let whole = if got.header.flags & F_NEEDS_CSUM == 0 {
                got.frame
            } else {
                finish(&got.header, &got.frame)
            };
            verify(&whole);
            assert_eq!(whole[50..], small);
        }
        assert_eq!(node.stage(Stage::Segment), 2);
        assert!(node.drops(Drop::BadOffload) == 0);
    }
}

#[test]
fn segments_that_pass_the_mtu_are_dropped_whole() {
    let (node, mut a, mut b) = pair(TAKES_ALL, (8, vec![70_000]));
    let (header, left) = large(&tcp(1, 2, false, 30_000), 4000);
    a.send_with(header, &left);
    assert!(b.receive().is_empty());
    assert_eq!(node.drops(Drop::ExceedsMtu), 1);
}

/// What is decided must be what is delivered: a checksum may not be written over fields that rules look at.
#[test]
fn a_header_that_contradicts_the_frame_is_dropped() {
    let (node, mut a, mut b) = pair(SENDS, plain_buffers());
    let frame = tcp(1, 2, false, 3000);
    let (good, left) = large(&frame, 1000);
    let bad = [
        NetHeader {
            gso_size: 0,
            ..good
        },
        NetHeader {
            gso_type: GSO_TCPV6,
            ..good
        },
        NetHeader {
            gso_type: 3,
            ..good
        },
        NetHeader {
            gso_type: 5,
            ..good
        },
        NetHeader { flags: 0, ..good },
        NetHeader {
            csum_start: 33,
            ..good
        },
        NetHeader {
            csum_offset: 6,
            ..good
        },
        NetHeader {
            csum_start: 3000,
            ..good
        },
        NetHeader {
            csum_start: u16::MAX,
            csum_offset: u16::MAX,
            ..good
        },
        // One byte per segment: more segments than the engine makes.
        NetHeader {
            gso_size: 1,
            ..good
        },
    ];
    for header in bad {
        a.send_with(header, &left);
    }
    let small = tcp(1, 2, false, 900);
    let (good, left) = partial(&small);
    // Over the addresses of Ethernet and IP, the ports, the TCP flags; across the end.
    for (csum_start, csum_offset) in [
        (0, 0),
        (0, 6),
        (14, 12),
        (14, 16),
        (34, 0),
        (34, 2),
        (34, 12),
        (20, 30),
        (953, 0),
    ] {
        a.send_with(
            NetHeader {
                csum_start,
                csum_offset,
                ..good
            },
            &left,
        );
    }
    assert_eq!(b.receive().len(), 0);
    assert_eq!(node.drops(Drop::BadOffload), bad.len() as u64 + 9);
    // A guest's word that a checksum was verified is worth nothing, and a receiver without checksums gets no flags.
    a.send_with(
        NetHeader {
            flags: F_DATA_VALID,
            ..NetHeader::default()
        },
        &small,
    );
    assert_eq!(b.frames(), [small]);
}

/// What each pair of a port's queues counted.
fn pairs(node: &Node, port: u16) -> Vec<PairSums> {
    node.switch.port_counters(port).unwrap()[0].pair_sums()
}

#[test]
fn queues_are_counted_by_themselves() {
    for count in [1, 2] {
        let mut node = Node::with_networks(&[1]);
        let options = Options {
            pairs: count,
            features: if count > 1 { SENDS | net::MQ } else { SENDS },
            buffers: (4, vec![2048]),
            ..Options::default()
        };
        let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
        b.send(&[udp(2, 1, 1)]);
        // All of one flow, and so for one queue, which has room for four.
        let frame = udp(1, 2, 100);
        a.send(&vec![frame.clone(); 10]);
        assert_eq!(b.receive().len(), 4);
        let sums = pairs(&node, 2);
        assert_eq!(sums.len(), usize::from(count));
        let used = sums.iter().position(|pair| pair.tx_packets > 0).unwrap();
        let expected = PairSums {
            tx_packets: 4,
            tx_bytes: 4 * frame.len() as u64,
            tx_drops: 6,
            tx_full: 6,
            ..PairSums::default()
        };
        let sent = PairSums {
            rx_packets: 0,
            rx_bytes: 0,
            ..sums[used]
        };
        assert_eq!(sent, expected);
        for (pair, other) in sums.iter().enumerate().filter(|(pair, _)| *pair != used) {
            assert_eq!(other.tx_packets + other.tx_drops, 0, "pair {pair}");
        }
        let received = pairs(&node, 1)[0];
        assert_eq!(received.rx_packets, 10);
        assert_eq!(received.rx_bytes, 10 * frame.len() as u64);
        let port = &node.switch.port_counters(2).unwrap()[0];
        assert_eq!((port.tx_drops.get(), port.tx_full.get()), (6, 6));
    }
}

#[test]
fn a_guest_spreads_over_the_queues_that_are_enabled() {
    let mut node = Node::with_networks(&[1]);
    let mut a = node.guest(1, &Options::default());
    let many = Options {
        pairs: 4,
        features: SENDS | net::MQ,
        buffers: (256, vec![2048]),
        ..Options::default()
    };
    let mut b = node.guest(2, &many);
    b.send(&[udp(2, 1, 1)]);
    let flows: Vec<_> = (0..256_u16)
        .map(|i| udp_to(mac(1), mac(2), 3000 + i / 4, usize::from(i)))
        .collect();
    let spread = |a: &mut Guest, b: &mut Guest| {
        a.send(&flows);
        let got = b.receive();
        assert_eq!(got.len(), flows.len(), "nothing is lost");
        let mut queues = [0; 4];
        let mut of_flow = std::collections::HashMap::new();
        for received in &got {
            queues[received.pair] += 1;
            let port = [received.frame[34], received.frame[35]];
            let pair = *of_flow.entry(port).or_insert(received.pair);
            assert_eq!(pair, received.pair, "one flow, one queue");
        }
        queues
    };
    let queues = spread(&mut a, &mut b);
    assert!(queues.iter().all(|n| *n > 20), "{queues:?}");
    let counted: Vec<u64> = pairs(&node, 2).iter().map(|p| p.tx_packets).collect();
    assert_eq!(counted, queues);
    let bytes: u64 = pairs(&node, 2).iter().map(|pair| pair.tx_bytes).sum();
    assert_eq!(bytes, flows.iter().map(|frame| frame.len() as u64).sum());
    // A driver that uses fewer pairs than it has: the front end disables the others.
    for pair in 1..4 {
        b.device.set_queue_enabled(pair * 2, false).unwrap();
    }
    assert_eq!(spread(&mut a, &mut b), [256, 0, 0, 0]);
    b.device.set_queue_enabled(4, true).unwrap();
    let queues = spread(&mut a, &mut b);
    assert!(queues[0] > 60 && queues[2] > 60, "{queues:?}");
    b.device.stop_queue(0).unwrap();
    assert_eq!(spread(&mut a, &mut b), [0, 0, 256, 0]);
    assert!(node.all_drops().is_empty(), "{:?}", node.all_drops());
}

#[test]
fn every_queue_of_a_sender_is_served() {
    let mut node = Node::with_networks(&[1]);
    let many = Options {
        pairs: 3,
        features: SENDS | net::MQ,
        ..Options::default()
    };
    let (mut a, mut b) = (node.guest(1, &many), node.guest(2, &Options::default()));
    b.send(&[udp(2, 1, 1)]);
    a.receive();
    for pair in [2, 0, 1, 2] {
        // `send` uses the first ring.
        a.transmit.swap(0, pair);
        a.send(&[udp(1, 2, 10 + pair), udp(1, 2, 20 + pair)]);
        a.transmit.swap(0, pair);
        assert_eq!(b.frames(), [udp(1, 2, 10 + pair), udp(1, 2, 20 + pair)]);
    }
    let counted: Vec<u64> = pairs(&node, 1).iter().map(|p| p.rx_packets).collect();
    assert_eq!(counted, [2, 2, 4]);
    // One of them stopped: the others go on.
    a.device.stop_queue(3).unwrap();
    a.send(&[udp(1, 2, 7)]);
    a.transmit.swap(0, 2);
    a.send(&[udp(1, 2, 8)]);
    assert_eq!(b.frames(), [udp(1, 2, 7), udp(1, 2, 8)]);
}

#[test]
fn guests_are_notified_as_they_ask() {
    for event_idx in [false, true] {
        let mut node = Node::with_networks(&[1]);
        let features = SENDS | if event_idx { ring::EVENT_IDX } else { 0 };
        let options = Options {
            features,
            ..Options::default()
        };
        let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
        b.send(&[udp(2, 1, 1)]);
        a.receive();
        let calls = |node: &Node| node.switch.port_counters(2).unwrap()[0].calls.get();
        let avail_at = b.receive[0].avail_at();
        // No notification wanted: the flag, or an event that lies behind.
        let quiet = |b: &Guest, on: bool| {
            if event_idx {
                let event = b.receive[0].used.wrapping_sub(u16::from(on));
                let at = avail_at + 4 + 2 * u64::from(SIZE);
                b.memory.write(at, &event.to_le_bytes());
            } else {
                b.memory.write(avail_at, &u16::from(on).to_le_bytes());
            }
        };
        let before = calls(&node);
        quiet(&b, true);
        a.send(&[udp(1, 2, 1), udp(1, 2, 2)]);
        assert_eq!(calls(&node), before);
        assert_eq!(b.frames().len(), 2);
        quiet(&b, false);
        // Once for a burst; the lcore has gone to sleep meanwhile and is woken by the kick.
        std::thread::sleep(std::time::Duration::from_millis(100));
        a.send(&[udp(1, 2, 1), udp(1, 2, 2)]);
        assert_eq!(calls(&node), before + 1);
        assert_eq!(b.frames().len(), 2);
    }
}

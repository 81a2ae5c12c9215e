//! Segments put together again give the packet back, and every checksum of every segment holds.

use super::*;
use crate::build::{Encapsulation, FrameBuilder, Underlay};
use crate::headroom::Headroom;
use crate::verify::{assert_checksums, describe};
use crate::{Field, Layer};
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;
use zerocopy::big_endian::{U16, U32};

const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

#[derive(Clone, Copy, Debug)]
enum Tunnel {
    None,
    V4,
    V6,
    V6Checksum,
}

/// A large packet as a guest hands it over, encapsulated as asked: header stack and payload.
fn large(
    v6: bool,
    tcp: bool,
    flags: u8,
    seq: u32,
    payload: &[u8],
    tunnel: Tunnel,
) -> (Vec<u8>, Layout) {
    let mut buffer = vec![0u8; 200 + payload.len()];
    let f = FrameBuilder::new(&mut buffer).ethernet([2; 6], [4; 6]);
    let f = if v6 {
        f.ipv6(0xfd << 120 | 1, 0xfd << 120 | 2)
    } else {
        f.ipv4(0x0a00_0001, 0x0a00_0002)
    };
    let f = if tcp {
        f.tcp_header(Tcp {
            src: U16::new(1000),
            dst: U16::new(2000),
            seq: U32::new(seq),
            ack: U32::new(7),
            data_offset: 0x80,
            flags,
            window: U16::new(500),
            checksum: U16::new(0),
            urgent: U16::new(0),
        })
        .payload(&OPTIONS)
    } else {
        f.udp(1000, 2000)
    };
    let len = f.payload(payload).finish().unwrap();
    let (_, mut layout) = describe(&buffer[..len]);
    let header_len = len - payload.len();
    let mut room = Headroom::new();
    room.load(&buffer[..header_len]);
    let underlay = match tunnel {
        Tunnel::None => return (buffer[..header_len].to_vec(), layout),
        Tunnel::V4 => Underlay::Ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)),
        _ => Underlay::Ipv6(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9),
        ),
    };
    let encapsulation = Encapsulation::new([6; 6], [8; 6], None, underlay, 64, 4789, 4242);
    encapsulation
        .push(&mut room, &mut layout, len, 0x1234_5678)
        .unwrap();
    if matches!(tunnel, Tunnel::V6Checksum) {
        let at = usize::from(layout.outer().l4) + 6;
        room.header_mut()[at..at + 2].copy_from_slice(&[0xff, 0xff]);
    }
    (room.header().to_vec(), layout)
}

fn tunnels() -> impl Strategy<Value = Tunnel> {
    prop_oneof![
        Just(Tunnel::None),
        Just(Tunnel::V4),
        Just(Tunnel::V6),
        Just(Tunnel::V6Checksum)
    ]
}

proptest! {
    #[test]
    fn segments_reassemble(
        v6: bool, tcp: bool, flags in 0u8..=255, seq: u32, mss in 48u16..3000,
        payload in proptest::collection::vec(any::<u8>(), 0..9000), tunnel in tunnels(),
    ) {
        let flags = flags & !(Tcp::SYN | Tcp::RST);
        let (header, layout) = large(v6, tcp, flags, seq, &payload, tunnel);
        let gso = match (tcp, v6) {
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
            _ => Gso::Udp,
        };
        let plan = SegmentPlan::new(&header, &layout, payload.len(), gso, mss).unwrap();
        let mut together = Vec::new();
        let layer = if layout.has_inner() { Layer::Inner } else { Layer::Outer };
        for index in 0..plan.count() {
            let mut frame = vec![0u8; header.len()];
            let segment = plan.write(index, &header, &mut frame).unwrap();
            prop_assert_eq!(segment.payload_offset, together.len());
            prop_assert_eq!(segment.payload_len, plan.payload_len(index));
            prop_assert!(segment.payload_len <= mss.into());
            let part = &payload[segment.payload_offset..segment.payload_offset + segment.payload_len];
            // Partial first, as a receiver with checksum offload gets it.
            let mut partial = frame.clone();
            segment.set_checksum(&mut partial, segment.pseudo);
            partial.extend(part);
            crate::checksum::complete_partial(&mut partial, [], segment.csum_start.into(), segment.csum_offset.into()).unwrap();
            let mut sum = segment.sum;
            sum.add(part);
            segment.set_checksum(&mut frame, sum.udp_value());
            frame.extend(part);
            prop_assert_eq!(&partial, &frame);
            assert_checksums(&frame);

            let (key, segment_layout) = describe(&frame);
            prop_assert_eq!(segment_layout, layout);
            let last = index + 1 == plan.count();
            if tcp {
                let at = usize::from(layout.innermost().l4) + 4;
                let sent = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                prop_assert_eq!(sent, seq.wrapping_add(together.len() as u32));
                let mut expected = flags;
                if !last { expected &= !(Tcp::FIN | Tcp::PSH); }
                if index > 0 { expected &= !Tcp::CWR; }
                prop_assert_eq!(key.get(Field::TcpFlags(layer)), u128::from(expected));
            }
            let ids = |l: &LayerLayout| u16::from_be_bytes([frame[usize::from(l.l3) + 4], frame[usize::from(l.l3) + 5]]);
            for l in layout.layers.iter().filter(|l| l.l3_kind == L3Kind::Ipv4) {
                prop_assert_eq!(ids(l), index as u16);
            }
            let outer = layout.outer();
            if let Tunnel::V6Checksum = tunnel {
                let at = usize::from(outer.l4) + 6;
                prop_assert_ne!(&frame[at..at + 2], &[0, 0]);
            }
            together.extend_from_slice(part);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn hostile_plans_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256), which in 0..crate::golden::ALL.len(), changes in proptest::collection::vec((0usize..150, any::<u8>()), 0..3), len in 0usize..70000, mss: u16, kind in 0usize..3) {
        let (_, golden) = crate::golden::ALL[which];
        let mut header = golden.bytes();
        for (at, byte) in changes {
            let at = at % header.len();
            header[at] = byte;
        }
        let (mut key, mut layout) = (crate::FlowKey::ZERO, Layout::EMPTY);
        if crate::parse(&header, golden.frame_len, &mut key, &mut layout, &crate::ParseOptions::VXLAN).is_err() {
            return Ok(());
        }
        let gso = [Gso::TcpV4, Gso::TcpV6, Gso::Udp][kind];
        if let Ok(plan) = SegmentPlan::new(&header, &layout, len, gso, mss) {
            prop_assert!(plan.count() <= SEGMENTS_MAX);
            let total: usize = (0..plan.count()).map(|i| plan.payload_len(i)).sum();
            prop_assert_eq!(total, len);
            let mut out = [0u8; 256];
            let wrote = plan.write(plan.count() - 1, &header, &mut out);
            prop_assert!(wrote.is_ok());
            // Another header than the plan's, or too short ones: an error or nonsense, never a panic.
            let _ = plan.write(0, &bytes, &mut out);
            prop_assert_eq!(plan.write(plan.count(), &header, &mut out), Err(SegmentError::OutOfRange));
            prop_assert_eq!(plan.write(0, &header, &mut [0; 13]), Err(SegmentError::OutOfRange));
        }
    }
}

#[test]
fn refusals() {
    let (header, layout) = large(false, true, Tcp::ACK, 1, &[0; 3000], Tunnel::None);
    let plan = |header: &[u8], layout: &Layout, len, gso, mss| {
        SegmentPlan::new(header, layout, len, gso, mss).map(|p| p.count())
    };
    assert_eq!(plan(&header, &layout, 3000, Gso::TcpV4, 1000), Ok(3));
    assert_eq!(plan(&header, &layout, 0, Gso::TcpV4, 1000), Ok(1));
    assert_eq!(
        plan(&header, &layout, 3000, Gso::TcpV6, 1000),
        Err(SegmentError::WrongHeaders)
    );
    assert_eq!(
        plan(&header, &layout, 3000, Gso::Udp, 1000),
        Err(SegmentError::WrongHeaders)
    );
    assert_eq!(
        plan(&header, &layout, 3000, Gso::TcpV4, 0),
        Err(SegmentError::BadMss)
    );
    assert_eq!(
        plan(&header, &layout, 70000, Gso::TcpV4, 65500),
        Err(SegmentError::BadMss)
    );
    assert_eq!(
        plan(&header, &layout, 65000, Gso::TcpV4, 1),
        Err(SegmentError::TooManySegments)
    );
    assert_eq!(
        plan(&header[..40], &layout, 3000, Gso::TcpV4, 1000),
        Err(SegmentError::OutOfRange)
    );
    let (header, layout) = large(false, true, Tcp::SYN, 1, &[], Tunnel::None);
    assert_eq!(
        plan(&header, &layout, 3000, Gso::TcpV4, 1000),
        Err(SegmentError::BadFlags)
    );
    let (mut header, _) = large(false, false, 0, 1, &[0; 100], Tunnel::None);
    header[20] = 0x20;
    let (mut key, mut layout) = (crate::FlowKey::ZERO, Layout::EMPTY);
    crate::parse(
        &header,
        200,
        &mut key,
        &mut layout,
        &crate::ParseOptions::VXLAN,
    )
    .unwrap();
    assert_eq!(
        plan(&header, &layout, 100, Gso::Udp, 50),
        Err(SegmentError::WrongHeaders)
    );
}

#[test]
fn tunnel_checksum_of_the_kernel_frames_adds_up() {
    // Over IPv4 the kernel sent its own outer checksum, which must be the same; over IPv6 it was told not to.
    for golden in [
        crate::golden::VXLAN_TCP_V4,
        crate::golden::VXLAN_TCP_V6,
        crate::golden::VXLAN_OVER_V6,
        crate::golden::VXLAN_ADVERTISEMENT,
    ] {
        let mut frame = golden.bytes();
        let (_, layout) = describe(&frame);
        let sum = tunnel_checksum(&frame, &layout, frame.len()).unwrap();
        let at = usize::from(layout.outer().l4) + 6;
        if layout.outer().l3_kind == L3Kind::Ipv4 {
            assert_eq!(frame[at..at + 2], sum.to_be_bytes());
        }
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        assert_ne!(sum, 0);
        assert_checksums(&frame);
        let len = frame.len();
        frame.push(0);
        assert_eq!(
            tunnel_checksum(&frame, &layout, len + 1),
            Err(SegmentError::WrongHeaders)
        );
    }
    let arp = crate::golden::VXLAN_ARP.bytes();
    assert_eq!(
        tunnel_checksum(&arp, &describe(&arp).1, arp.len()),
        Err(SegmentError::WrongHeaders)
    );
}

//! Builders against frames that the kernel made for the same purpose.

use super::*;
use crate::headroom::Headroom;
use crate::verify::{assert_checksums, describe};
use crate::{Field, Layer, LayerLayout, Layout, golden};
use core::net::{Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

mod answers;
mod encapsulated;

/// The frame inside a golden VXLAN frame.
fn inside(golden: &golden::Golden) -> Vec<u8> {
    let frame = golden.bytes();
    let (_, layout) = describe(&frame);
    frame[usize::from(layout.layers[1].eth)..].to_vec()
}

const A: [u8; 6] = [2, 0, 0, 0, 0x11, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0x11, 2];
const A6: Ipv6Addr = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 2);

#[test]
fn arp_is_what_the_kernel_sends() {
    let mut frame = [0u8; ARP_LEN];
    let (a, b) = (Ipv4Addr::new(10, 42, 0, 1), Ipv4Addr::new(10, 42, 0, 2));
    assert_eq!(arp_reply(&mut frame, B, b, A, a), Ok(ARP_LEN));
    assert_eq!(frame[..], inside(&golden::VXLAN_ARP));
    assert_eq!(arp_request(&mut frame, A, a, b), Ok(ARP_LEN));
    let (key, _) = describe(&frame);
    assert_eq!(key.get(Field::EthDst(Layer::Outer)), 0xffff_ffff_ffff);
    assert_eq!(key.get(Field::L4Dst(Layer::Outer)), 1);
    assert_eq!(key.get(Field::IpDst(Layer::Outer)), 0x0a2a_0002);
    assert_eq!(
        arp_request(&mut frame[..41], A, a, b),
        Err(BuildError::NoSpace)
    );
}

#[test]
fn neighbour_discovery_is_what_the_kernel_sends() {
    let mut frame = [0u8; NEIGHBOUR_LEN];
    assert_eq!(
        neighbour_solicitation(&mut frame, A, A6, B6),
        Ok(NEIGHBOUR_LEN)
    );
    assert_eq!(frame[..], inside(&golden::VXLAN_SOLICITATION));
    let flags = NeighbourFlags {
        router: false,
        solicited: true,
        override_known: true,
    };
    assert_eq!(
        neighbour_advertisement(&mut frame, B, B6, A, A6, flags),
        Ok(NEIGHBOUR_LEN)
    );
    assert_eq!(frame[..], inside(&golden::VXLAN_ADVERTISEMENT));
}

/// What the kernel does otherwise: it picks another source port, leaves DF clear and sums the datagram.
fn without_choices(frame: &[u8], l: &LayerLayout) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (l3, l4) = (usize::from(l.l3), usize::from(l.l4));
    frame[l4..l4 + 2].fill(0);
    frame[l4 + 6..l4 + 8].fill(0);
    match l.l3_kind {
        crate::L3Kind::Ipv4 => {
            frame[l3 + 4..l3 + 8].fill(0);
            frame[l3 + 10..l3 + 12].fill(0);
        }
        // The flow label.
        _ => frame[l3 + 1..l3 + 4].fill(0),
    }
    frame
}

#[test]
fn encapsulation_is_what_the_kernel_sends() {
    let v4 = Underlay::Ipv4(Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2));
    let v6 = Underlay::Ipv6(
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    );
    for (golden, underlay, vni) in [
        (golden::VXLAN_TCP_V4, v4, 4242),
        (golden::VXLAN_TCP_V6, v4, 4242),
        (golden::VXLAN_OVER_V6, v6, 77),
    ] {
        let inner = inside(&golden);
        let mut layout = describe(&inner).1;
        let mut room = Headroom::new();
        room.load(&inner);
        let e = Encapsulation::new(
            [2, 0, 0, 0, 0, 2],
            [2, 0, 0, 0, 0, 1],
            None,
            underlay,
            64,
            4789,
            vni,
        );
        e.push(&mut room, &mut layout, inner.len(), 0xdead_beef)
            .unwrap();
        let made = room.header().to_vec();
        assert_eq!(describe(&made).1, layout);
        assert_checksums(&made);
        let port = u16::from_be_bytes([
            made[usize::from(layout.outer().l4)],
            made[usize::from(layout.outer().l4) + 1],
        ]);
        assert_eq!(port, 0xbeef | 0xc000);
        let kernel = golden.bytes();
        assert_eq!(
            without_choices(&made, layout.outer()),
            without_choices(&kernel, layout.outer())
        );
        // And back.
        assert_eq!(room.decapsulate(&mut layout), Ok(e.len()));
        assert_eq!(room.header(), inner);
        assert_eq!(layout, describe(&inner).1);
        assert_eq!(room.decapsulate(&mut layout), Err(crate::EditError::Absent));
    }
}

#[test]
fn encapsulation_with_a_tag_and_a_large_frame() {
    let mut inner = [0u8; 64];
    let len = FrameBuilder::new(&mut inner)
        .ethernet(A, B)
        .ipv4(1, 2)
        .udp(3, 4)
        .finish()
        .unwrap();
    let underlay = Underlay::Ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let e = Encapsulation::new(A, B, Some(0x2005), underlay, 9, 8472, 0x12_3456);
    let mut room = Headroom::new();
    room.load(&inner[..len]);
    let mut layout = describe(&inner[..len]).1;
    e.push(&mut room, &mut layout, len, 0).unwrap();
    assert_eq!(e.len(), 54);
    let (mut key, mut parsed) = (crate::FlowKey::ZERO, Layout::EMPTY);
    let options = crate::ParseOptions {
        vxlan_port: 8472,
        ..crate::ParseOptions::VXLAN
    };
    crate::parse(room.header(), room.len(), &mut key, &mut parsed, &options).unwrap();
    assert_eq!(parsed, layout);
    assert_eq!(key.get(Field::TunnelId(Layer::Outer)), 0x12_3456);
    assert_eq!(key.get(Field::VlanTci(Layer::Outer)), 0x3005);
    assert_eq!(key.get(Field::L4Src(Layer::Outer)), 49152);
    // DF is set, and a frame too long for one packet says the most it can.
    assert_eq!(room.header()[24], 0x40);
    room.load(&inner[..len]);
    let mut layout = describe(&inner[..len]).1;
    e.push(&mut room, &mut layout, 66000, 0).unwrap();
    assert_eq!(room.header()[20..22], [0xff, 0xff]);
    // No room is an error that changes nothing.
    room.load(&inner[..len]);
    room.push_front(100).unwrap();
    let (before, mut layout) = (room.header().to_vec(), Layout::EMPTY);
    assert_eq!(
        e.push(&mut room, &mut layout, len, 0),
        Err(crate::EditError::OutOfRange)
    );
    assert_eq!((room.header(), layout), (&before[..], Layout::EMPTY));
}

#[test]
fn echo_is_what_ping_sends() {
    for (golden, v6) in [(golden::ECHO_V4, false), (golden::ECHO_V6, true)] {
        let kernel = golden.bytes();
        let (_, layout) = describe(&kernel);
        let l4 = usize::from(layout.outer().l4);
        let id = u16::from_be_bytes([kernel[l4 + 4], kernel[l4 + 5]]);
        let sequence = u16::from_be_bytes([kernel[l4 + 6], kernel[l4 + 7]]);
        let mut buffer = [0u8; 200];
        let f = FrameBuilder::new(&mut buffer).ethernet([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        let f = if v6 {
            f.ipv6(0xfd00 << 112 | 1, 0xfd00 << 112 | 2)
        } else {
            f.ipv4(0x0a01_0001, 0x0a01_0002)
        };
        let len = f
            .echo_request(id, sequence)
            .payload(&kernel[l4 + 8..])
            .finish()
            .unwrap();
        // The L4 message is the same to the last byte, checksum included.
        assert_eq!(buffer[l4..len], kernel[l4..]);
    }
}

#[test]
fn orders_that_make_no_packet() {
    let mut b = [0u8; 2048];
    let finish = |f: FrameBuilder<'_>| f.finish();
    assert_eq!(
        finish(FrameBuilder::new(&mut b).ipv4(1, 2)),
        Err(BuildError::Order("ipv4"))
    );
    assert_eq!(
        finish(FrameBuilder::new(&mut b).ethernet(A, B).udp(1, 2)),
        Err(BuildError::Order("udp"))
    );
    assert_eq!(
        finish(FrameBuilder::new(&mut b).ethernet(A, B).vxlan(1)),
        Err(BuildError::Order("vxlan"))
    );
    assert_eq!(
        finish(FrameBuilder::new(&mut b).ethernet(A, B).ethernet(A, B)),
        Err(BuildError::Order("eth"))
    );
    assert_eq!(
        finish(FrameBuilder::new(&mut b[..20]).ethernet(A, B).ipv4(1, 2)),
        Err(BuildError::NoSpace)
    );
    let many = (0..20).fold(FrameBuilder::new(&mut b).ethernet(A, B), |f, i| f.vlan(i));
    assert_eq!(many.finish(), Err(BuildError::NoSpace));
    let mut huge = std::vec![0u8; 70100];
    let payload = std::vec![0u8; 70000];
    let f = FrameBuilder::new(&mut huge)
        .ethernet(A, B)
        .ipv4(1, 2)
        .udp(3, 4)
        .payload(&payload);
    assert_eq!(f.finish(), Err(BuildError::TooLong));
}

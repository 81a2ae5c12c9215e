//! Encapsulation against what scapy makes of the same headers.

use super::*;
use crate::checksum::Checksum;
use crate::edit::{EditError, carry_marks_in, set_tos};
use crate::golden::encapsulated as frames;
use crate::parse::{ParseOptions, parse};
use crate::segment::{Gso, SegmentPlan};
use crate::{FlowKey, TunnelKind};

const V4: Underlay = Underlay::Ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
const V6: Underlay = Underlay::Ipv6(
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
);
const OUTER: Outer = Outer {
    eth_dst: [2, 0, 0, 0, 0, 2],
    eth_src: [2, 0, 0, 0, 0, 1],
    vlan_tci: None,
    underlay: V4,
    ttl: Policy::Fixed(64),
    dscp: Policy::Fixed(0),
    ecn: false,
    port: 0,
    source_port: Some(50000),
    udp_checksum: false,
    carried: Carried::Ethernet,
};
const FIRST: [u8; 12] = *b"\x01\x02\x80\x02ABCDEFGH";
const SECOND: [u8; 8] = *b"\x01\x03\x05\x01wxyz";

/// Encapsulates with only `captured` bytes of the frame in the header, and compares with what is expected.
fn check(
    inner: &golden::Golden,
    expected: &golden::Golden,
    outer: &Outer,
    tunnel: TunnelHeader<'_>,
    options: &[u8],
    captured: usize,
) -> Encapsulated {
    let frame = inner.bytes();
    let (header, payload) = frame.split_at(captured.min(frame.len()));
    let (_, mut layout) = describe(&frame);
    let mut room = Headroom::new();
    room.load(header);
    let encapsulation = Encapsulation::prepare(outer, tunnel).unwrap();
    let done = encapsulation
        .encapsulate(&mut room, &mut layout, frame.len(), 0, options)
        .unwrap();
    if let Some(mut pending) = done.pending {
        // In parts, as they come when copying.
        let (a, b) = payload.split_at(payload.len() / 2);
        pending.sum.add(a);
        pending.sum.add(b);
        pending.write(room.header_mut());
    }
    let mut whole = room.header().to_vec();
    whole.extend_from_slice(payload);
    assert_eq!(whole, expected.bytes());
    assert_eq!(done.frame_len, whole.len());
    assert_eq!(describe(&whole).1, layout);
    done
}

#[test]
fn vxlan() {
    let outer = Outer {
        port: 4789,
        ..OUTER
    };
    let header = TunnelHeader::Vxlan { vni: 77 };
    let done = check(&frames::TCP_V4, &frames::VXLAN, &outer, header, &[], 256);
    assert_eq!(done.pending, None);
}

#[test]
fn geneve() {
    let outer = Outer {
        vlan_tci: Some(7),
        ttl: Policy::Copied(9),
        dscp: Policy::Copied(0),
        ecn: true,
        port: 6081,
        udp_checksum: true,
        ..OUTER
    };
    let header = TunnelHeader::Geneve {
        vni: 77,
        options: &FIRST,
    };
    // One option of the tunnel, one of the frame.
    let done = check(
        &frames::TCP_V4,
        &frames::GENEVE,
        &outer,
        header,
        &SECOND,
        66,
    );
    assert_eq!(done.pending, None, "the inner checksum tells the outer one");
    let both = [&FIRST[..], &SECOND].concat();
    let header = TunnelHeader::Geneve {
        vni: 77,
        options: &both,
    };
    check(&frames::TCP_V4, &frames::GENEVE, &outer, header, &[], 256);
    // Over IPv6 the class is the inner traffic class, with the DSCP fixed.
    let outer = Outer {
        underlay: V6,
        vlan_tci: None,
        ttl: Policy::Fixed(9),
        dscp: Policy::Fixed(46),
        ..outer
    };
    let header = TunnelHeader::Geneve {
        vni: 77,
        options: &[],
    };
    check(&frames::UDP_V6, &frames::GENEVE_V6, &outer, header, &[], 62);
}

#[test]
fn a_checksum_over_what_has_none_waits_for_the_payload() {
    let outer = Outer {
        underlay: V6,
        ttl: Policy::Fixed(9),
        port: 6081,
        udp_checksum: true,
        ..OUTER
    };
    let geneve = TunnelHeader::Geneve {
        vni: 77,
        options: &[],
    };
    let gre = TunnelHeader::Gre {
        key: None,
        checksum: true,
    };
    for captured in [42, 43, 60, 100] {
        let expected = &frames::GENEVE_V6_SILENT;
        let done = check(&frames::UDP_SILENT, expected, &outer, geneve, &[], captured);
        assert!(done.pending.is_some());
        let expected = &frames::GRE_SUM_SILENT;
        let done = check(&frames::UDP_SILENT, expected, &OUTER, gre, &[], captured);
        assert!(done.pending.is_some());
    }
}

#[test]
fn gre() {
    let outer = Outer {
        ecn: true,
        carried: Carried::Ip,
        ..OUTER
    };
    let header = TunnelHeader::Gre {
        key: Some(0xdead_beef),
        checksum: true,
    };
    let done = check(&frames::TCP_V4, &frames::GRE_SUM, &outer, header, &[], 60);
    assert_eq!(done.pending, None);
    let header = TunnelHeader::Gre {
        key: None,
        checksum: false,
    };
    let outer = Outer {
        underlay: V6,
        ..OUTER
    };
    check(&frames::UDP_V6, &frames::GRE_V6, &outer, header, &[], 256);
}

#[test]
fn ip_in_gtpu_and_gpe() {
    let outer = Outer {
        port: 2152,
        source_port: Some(2152),
        carried: Carried::Ip,
        ..OUTER
    };
    let header = TunnelHeader::Gtpu {
        teid: 99,
        session: Some((0, 9)),
    };
    check(&frames::UDP_V6, &frames::GTPU, &outer, header, &[], 256);
    let outer = Outer {
        port: 4790,
        source_port: Some(50000),
        ..outer
    };
    let header = TunnelHeader::VxlanGpe { vni: 77 };
    check(&frames::UDP_V6, &frames::GPE_IP, &outer, header, &[], 256);
}

#[test]
fn what_does_not_fit_is_refused() {
    let long = [0; 64];
    let refused = |outer: Outer, tunnel| Encapsulation::prepare(&outer, tunnel).err();
    let geneve = |options| TunnelHeader::Geneve { vni: 1, options };
    assert_eq!(
        refused(
            Outer {
                underlay: V6,
                ..OUTER
            },
            geneve(&long)
        ),
        Some(BuildError::NoSpace)
    );
    assert!(refused(OUTER, geneve(&long[..6])).is_some());
    let ip = Outer {
        carried: Carried::Ip,
        ..OUTER
    };
    assert!(refused(ip, TunnelHeader::Vxlan { vni: 1 }).is_some());
    let gtpu = TunnelHeader::Gtpu {
        teid: 1,
        session: None,
    };
    assert!(refused(OUTER, gtpu).is_some());
    // ARP is no IP, and options are Geneve's.
    let arp = inside(&golden::VXLAN_ARP);
    let gre = TunnelHeader::Gre {
        key: None,
        checksum: false,
    };
    for (outer, options) in [(ip, &[][..]), (OUTER, &SECOND[..])] {
        let mut room = Headroom::new();
        room.load(&arp);
        let mut layout = describe(&arp).1;
        let before = layout;
        let done = Encapsulation::prepare(&outer, gre).unwrap().encapsulate(
            &mut room,
            &mut layout,
            arp.len(),
            0,
            options,
        );
        assert_eq!(done, Err(EditError::Absent));
        assert_eq!((room.header(), layout), (&arp[..], before));
    }
}

#[test]
fn decapsulation_gives_the_packet_back() {
    for (tunnel, inner, ip) in [
        (frames::VXLAN, frames::TCP_V4, false),
        (frames::GENEVE, frames::TCP_V4, false),
        (frames::GENEVE_V6, frames::UDP_V6, false),
        (frames::GRE_SUM, frames::TCP_V4, true),
        (frames::GTPU, frames::UDP_V6, true),
        (frames::GPE_IP, frames::UDP_V6, true),
        (golden::scapy::MPLS_TWO_LABELS, frames::TCP_V4, true),
    ] {
        let frame = tunnel.bytes();
        let (_, mut layout) = describe(&frame);
        let mut room = Headroom::new();
        room.load(&frame);
        let removed = if ip {
            assert_eq!(room.decapsulate(&mut layout), Err(EditError::Absent));
            room.decapsulate_ip(&mut layout, B, A).unwrap()
        } else {
            assert_eq!(
                room.decapsulate_ip(&mut layout, B, A),
                Err(EditError::Absent)
            );
            room.decapsulate(&mut layout).unwrap()
        };
        assert_eq!(room.len() + removed, frame.len());
        assert_eq!(describe(room.header()).1, layout);
        if tunnel.frame_len != golden::scapy::MPLS_TWO_LABELS.frame_len {
            assert_eq!(room.header(), inner.bytes());
        }
    }
}

/// The marks of the inner packet after decapsulation from an outer header with `tos`.
fn carried(tos: u8, ttl: bool, dscp: bool) -> Result<(u8, u8), EditError> {
    let mut frame = frames::GENEVE.bytes();
    let (_, layout) = describe(&frame);
    set_tos(&mut frame, layout.outer(), tos)?;
    crate::edit::set_ttl(&mut frame, layout.outer(), 20)?;
    carry_marks_in(&mut frame, &layout, ttl, dscp)?;
    let l3 = usize::from(layout.layers[1].l3);
    assert_eq!(crate::checksum::checksum(&frame[l3..l3 + 20]), 0);
    Ok((frame[l3 + 1], frame[l3 + 8]))
}

#[test]
fn marks_are_carried_in() {
    // The packet has 0xb9 (ECT(1)) and 33.
    assert_eq!(carried(0, false, false), Ok((0xb9, 33)));
    assert_eq!(carried(0x2b, false, false), Ok((0xbb, 33)));
    assert_eq!(carried(0x2b, true, true), Ok((0x2b, 20)));
    let mut frame = frames::GENEVE.bytes();
    let (_, layout) = describe(&frame);
    set_tos(&mut frame, layout.innermost(), 0xb8).unwrap();
    set_tos(&mut frame, layout.outer(), 3).unwrap();
    assert_eq!(
        carry_marks_in(&mut frame, &layout, false, false),
        Err(EditError::Congestion)
    );
    // Over MPLS there is nothing to carry.
    let mut frame = golden::scapy::MPLS_V6.bytes();
    let (_, layout) = describe(&frame);
    assert_eq!(carry_marks_in(&mut frame, &layout, true, true), Ok(()));
    assert_eq!(frame, golden::scapy::MPLS_V6.bytes());
}

/// Segments of tunnelled frames are right in every length and checksum, the outer ones too.
#[test]
fn tunnels_are_segmented() {
    let mut big = [0u8; 600];
    let len = FrameBuilder::new(&mut big)
        .ethernet(A, B)
        .ipv4(1, 2)
        .tcp(3, 4)
        .payload(&[0x5a; 500])
        .finish()
        .unwrap();
    let (header, payload) = big[..len].split_at(54);
    let udp = Outer {
        port: 6081,
        udp_checksum: true,
        ..OUTER
    };
    let ip = Outer {
        carried: Carried::Ip,
        ..OUTER
    };
    let geneve = TunnelHeader::Geneve {
        vni: 1,
        options: &SECOND,
    };
    let gre = TunnelHeader::Gre {
        key: None,
        checksum: true,
    };
    let gtpu = TunnelHeader::Gtpu {
        teid: 1,
        session: None,
    };
    let gtp = Outer {
        port: 2152,
        udp_checksum: true,
        ..ip
    };
    for (outer, tunnel) in [(udp, geneve), (OUTER, gre), (ip, gre), (gtp, gtpu)] {
        let (_, mut layout) = describe(&big[..len]);
        let mut room = Headroom::new();
        room.load(header);
        let encapsulation = Encapsulation::prepare(&outer, tunnel).unwrap();
        encapsulation
            .encapsulate(&mut room, &mut layout, len, 5, &[])
            .unwrap();
        let plan = SegmentPlan::new(room.header(), &layout, 500, Gso::TcpV4, 200).unwrap();
        assert_eq!(plan.count(), 3);
        for index in 0..3 {
            let mut out = [0u8; 400];
            let segment = plan.write(index, room.header(), &mut out).unwrap();
            let part = &payload[segment.payload_offset..][..segment.payload_len];
            let mut sum = segment.sum;
            sum.add(part);
            segment.set_checksum(&mut out, sum.udp_value());
            let end = segment.header_len + part.len();
            out[segment.header_len..end].copy_from_slice(part);
            assert_checksums(&out[..end]);
            let (key, layout) = describe(&out[..end]);
            assert!(key.has_inner());
            if layout.outer().tunnel_kind() == TunnelKind::Gre {
                let mut sum = Checksum::new();
                sum.add(&out[usize::from(layout.outer().payload)..end]);
                assert_eq!(sum.value(), 0, "GRE checksum");
            } else {
                assert_ne!(out[40..42], [0, 0]);
            }
        }
    }
}

#[test]
fn the_front_is_replaced() {
    let frame = frames::TCP_V4.bytes();
    let mut room = Headroom::new();
    room.load(&frame);
    room.replace_front(14, &[0xab; 40]).unwrap();
    assert_eq!(room.header(), [&[0xab; 40], &frame[14..]].concat());
    room.replace_front(40, &frame[..14]).unwrap();
    assert_eq!(room.header(), frame);
    assert_eq!(
        room.replace_front(frame.len() + 1, &[]),
        Err(EditError::OutOfRange)
    );
    assert_eq!(room.replace_front(0, &[0; 129]), Err(EditError::OutOfRange));
    assert_eq!(room.header(), frame);
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    parse(
        room.header(),
        frame.len(),
        &mut key,
        &mut layout,
        &ParseOptions::ALL,
    )
    .unwrap();
}

//! Every edit against a full recomputation of the checksums.

use super::*;
use crate::build::FrameBuilder;
use crate::golden;
use crate::verify::{assert_checksums, describe, pseudo};
use crate::{Field, Layer, Layout};
use proptest::prelude::*;
use std::vec::Vec;

mod embedded;
mod modify;

/// The frames with all their bytes.
fn whole() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    golden::ALL
        .iter()
        .map(|(n, g)| (*n, g))
        .filter(|(_, g)| g.bytes().len() == g.frame_len)
        .map(|(n, g)| (n, g.bytes()))
}

#[derive(Clone, Debug)]
enum Edit {
    Src(u128),
    Dst(u128),
    L4Src(u16),
    L4Dst(u16),
    Ttl(u8),
    DecTtl,
    Dscp(u8),
    Tos(u8),
    Macs([u8; 6], [u8; 6]),
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<u128>().prop_map(Edit::Src),
        any::<u128>().prop_map(Edit::Dst),
        any::<u16>().prop_map(Edit::L4Src),
        // To the VXLAN port, a datagram would be another kind of frame for the parser.
        any::<u16>()
            .prop_filter("VXLAN", |p| *p != 4789)
            .prop_map(Edit::L4Dst),
        (1u8..).prop_map(Edit::Ttl),
        Just(Edit::DecTtl),
        any::<u8>().prop_map(Edit::Dscp),
        any::<u8>().prop_map(Edit::Tos),
        any::<([u8; 6], [u8; 6])>().prop_map(|(a, b)| Edit::Macs(a, b)),
    ]
}

fn apply(edit: &Edit, frame: &mut [u8], l: &LayerLayout, partial: bool) -> Result<(), EditError> {
    let v4 = l.l3_kind == L3Kind::Ipv4;
    match *edit {
        Edit::Src(a) if v4 => set_ipv4_src(frame, l, a as u32, partial),
        Edit::Src(a) => set_ipv6_src(frame, l, a, partial),
        Edit::Dst(a) if v4 => set_ipv4_dst(frame, l, a as u32, partial),
        Edit::Dst(a) => set_ipv6_dst(frame, l, a, partial),
        Edit::L4Src(p) => set_l4_src(frame, l, p, partial),
        Edit::L4Dst(p) => set_l4_dst(frame, l, p, partial),
        Edit::Ttl(t) => set_ttl(frame, l, t),
        Edit::DecTtl => dec_ttl(frame, l),
        Edit::Dscp(d) => set_dscp(frame, l, d),
        Edit::Tos(t) => set_tos(frame, l, t),
        Edit::Macs(d, s) => set_eth_dst(frame, l, d).and_then(|()| set_eth_src(frame, l, s)),
    }
}

/// What the edit should do to the key: the field and its new value.
fn expected(edit: &Edit, layer: Layer, v4: bool, ttl: u128, tos: u128) -> Vec<(Field, u128)> {
    let mac = |m: [u8; 6]| m.iter().fold(0u128, |a, b| a << 8 | u128::from(*b));
    let address = |a: u128| if v4 { u128::from(a as u32) } else { a };
    match *edit {
        Edit::Src(a) => std::vec![(Field::IpSrc(layer), address(a))],
        Edit::Dst(a) => std::vec![(Field::IpDst(layer), address(a))],
        Edit::L4Src(p) => std::vec![(Field::L4Src(layer), p.into())],
        Edit::L4Dst(p) => std::vec![(Field::L4Dst(layer), p.into())],
        Edit::Ttl(t) => std::vec![(Field::IpTtl(layer), t.into())],
        Edit::DecTtl => std::vec![(Field::IpTtl(layer), ttl - 1)],
        Edit::Dscp(d) => std::vec![(Field::IpTos(layer), tos & 3 | u128::from(d & 63) << 2)],
        Edit::Tos(t) => std::vec![(Field::IpTos(layer), t.into())],
        Edit::Macs(d, s) => std::vec![
            (Field::EthDst(layer), mac(d)),
            (Field::EthSrc(layer), mac(s))
        ],
    }
}

#[test]
fn frames_of_the_kernel_have_right_checksums() {
    for (_, frame) in whole() {
        assert_checksums(&frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn edits_keep_checksums_and_change_one_field(which in 0usize..13, edits in proptest::collection::vec(edits(), 1..5)) {
        let (name, mut frame) = whole().nth(which).unwrap();
        let tunnel = describe(&frame).1;
        if tunnel.has_inner() {
            // Stale after inner edits, as documented.
            clear_udp_checksum(&mut frame, tunnel.outer()).unwrap();
        }
        for edit in edits {
            let (before, layout) = describe(&frame);
            let l = layout.innermost();
            let layer = if layout.has_inner() { Layer::Inner } else { Layer::Outer };
            let original = frame.clone();
            let done = apply(&edit, &mut frame, l, false);
            let no_ports = l.l4 == 0 || ![6, 17].contains(&l.l4_proto);
            match (&edit, done) {
                (Edit::L4Src(_) | Edit::L4Dst(_), done) if no_ports => prop_assert_eq!(done, Err(EditError::Absent)),
                (Edit::DecTtl, done) if before.get(Field::IpTtl(layer)) <= 1 && l.l4_proto != 0 => {
                    prop_assert_eq!(done, Err(EditError::Expired));
                }
                (Edit::Macs(..), done) => prop_assert_eq!(done, Ok(())),
                (_, done) if l.l3_kind == L3Kind::Arp => prop_assert_eq!(done, Err(EditError::Absent)),
                (_, done) => prop_assert_eq!(done, Ok(()), "{}", name),
            }
            if done.is_err() {
                prop_assert_eq!(&frame, &original);
                continue;
            }
            let (after, _) = describe(&frame);
            assert_checksums(&frame);
            let (ttl, tos) = (before.get(Field::IpTtl(layer)), before.get(Field::IpTos(layer)));
            let mut key = before;
            for (field, value) in expected(&edit, layer, l.l3_kind == L3Kind::Ipv4, ttl, tos) {
                key.set(field, value);
            }
            prop_assert_eq!(after, key, "{} {:?}", name, edit);
        }
    }

    /// With a partial checksum the field follows the pseudo-header, so completing it afterwards gives a valid packet.
    #[test]
    fn edits_keep_partial_checksums(v6: bool, tcp: bool, edits in proptest::collection::vec(edits(), 1..5), payload in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut frame = [0u8; 200];
        let f = FrameBuilder::new(&mut frame).ethernet([2; 6], [4; 6]);
        let f = if v6 { f.ipv6(1, 2) } else { f.ipv4(1, 2) };
        let f = if tcp { f.tcp(3, 4) } else { f.udp(3, 4) };
        let len = f.payload(&payload).finish().unwrap();
        let frame = &mut frame[..len];
        let (_, Layout { layers: [l, _] }) = describe(frame);
        let offset = if tcp { 16 } else { 6 };
        let at = usize::from(l.l4) + offset;
        let seed = pseudo(frame, &l).0.folded();
        frame[at..at + 2].copy_from_slice(&seed.to_be_bytes());
        for edit in &edits {
            if apply(edit, frame, &l, true).is_err() {
                continue;
            }
            let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
            prop_assert_eq!(field % 0xffff, pseudo(frame, &l).0.folded() % 0xffff);
        }
        crate::checksum::complete_partial(frame, [], l.l4.into(), offset).unwrap();
        assert_checksums(frame);
    }

    /// An edit on a header cut anywhere is an error or a success, and never touches what it should not.
    #[test]
    fn short_headers_are_refused(which in 0..golden::ALL.len(), cut in 0usize..150, edit in edits(), partial: bool) {
        let (_, golden) = golden::ALL[which];
        let bytes = golden.bytes();
        let (mut key, mut layout) = (crate::FlowKey::ZERO, Layout::EMPTY);
        crate::parse(&bytes, golden.frame_len, &mut key, &mut layout, &crate::ParseOptions::VXLAN).unwrap();
        for l in &layout.layers {
            let mut short = bytes.clone();
            short.truncate(cut);
            let before = short.clone();
            if apply(&edit, &mut short, l, partial).is_err() && !matches!(edit, Edit::Macs(..)) {
                prop_assert_eq!(short, before);
            }
        }
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut frame = golden::UDP_V4.bytes();
    let (_, layout) = describe(&frame);
    clear_udp_checksum(&mut frame, layout.outer()).unwrap();
    set_ipv4_src(&mut frame, layout.outer(), 0x0a0a_0a0a, false).unwrap();
    set_l4_dst(&mut frame, layout.outer(), 99, false).unwrap();
    assert_eq!(frame[40..42], [0, 0]);
    assert_checksums(&frame);
    let mut tcp = golden::TCP_V4.bytes();
    let (_, layout) = describe(&tcp);
    assert_eq!(
        clear_udp_checksum(&mut tcp, layout.outer()),
        Err(EditError::Absent)
    );
}

#[test]
fn ttl_one_expires_and_the_packet_stays() {
    for mut frame in [golden::UDP_V4.bytes(), golden::TCP_V6.bytes()] {
        let (_, layout) = describe(&frame);
        for ttl in [0, 1] {
            set_ttl(&mut frame, layout.outer(), ttl).unwrap();
            let before = frame.clone();
            assert_eq!(dec_ttl(&mut frame, layout.outer()), Err(EditError::Expired));
            assert_eq!(frame, before);
        }
    }
}

#[test]
fn later_fragments_keep_their_payload() {
    let mut bytes = golden::FRAGMENT_LATER_V4.bytes();
    let golden = bytes.clone();
    let (mut key, mut layout) = (crate::FlowKey::ZERO, Layout::EMPTY);
    crate::parse(
        &bytes,
        562,
        &mut key,
        &mut layout,
        &crate::ParseOptions::VXLAN,
    )
    .unwrap();
    set_ipv4_dst(&mut bytes, layout.outer(), 0x0101_0101, false).unwrap();
    assert_eq!(bytes[34..], golden[34..]);
    assert_eq!(crate::checksum::checksum(&bytes[14..34]), 0);
    assert_eq!(
        set_l4_src(&mut bytes, layout.outer(), 1, false),
        Err(EditError::Absent)
    );
}

#[test]
fn a_routed_destination_is_not_in_the_checksum() {
    let mut routing = std::vec![17u8, 2, 4, 1, 0, 0, 0, 0];
    routing.extend([0; 16]);
    routing.extend([0, 1, 0, 2, 0, 8, 0xaa, 0xbb]);
    let mut frame = [0u8; 128];
    let len = FrameBuilder::new(&mut frame)
        .ethernet([2; 6], [4; 6])
        .ipv6(1, 2)
        .payload(&routing)
        .finish()
        .unwrap();
    frame[20] = 43;
    let (_, layout) = describe(&frame[..len]);
    set_ipv6_dst(&mut frame, layout.outer(), 77, false).unwrap();
    assert_eq!(frame[len - 2..len], [0xaa, 0xbb]);
    set_ipv6_src(&mut frame, layout.outer(), 77, false).unwrap();
    assert_ne!(frame[len - 2..len], [0xaa, 0xbb]);
}

#[test]
fn tags_are_rewritten_in_place() {
    let mut frame = [0u8; 64];
    let len = FrameBuilder::new(&mut frame)
        .ethernet([2; 6], [4; 6])
        .vlan(0x3005)
        .ipv4(1, 2)
        .udp(3, 4)
        .finish()
        .unwrap();
    let (_, layout) = describe(&frame[..len]);
    let l = *layout.outer();
    set_vlan_vid(&mut frame, &l, 0x1fff).unwrap();
    assert_eq!(frame[14..16], [0x3f, 0xff]);
    set_vlan_pcp(&mut frame, &l, 7).unwrap();
    assert_eq!(frame[14..16], [0xff, 0xff]);
    set_vlan_tci(&mut frame, &l, 0x0001).unwrap();
    assert_eq!(frame[14..16], [0, 1]);
    assert_eq!(
        set_vlan_tci(&mut frame, &LayerLayout::EMPTY, 1),
        Err(EditError::Absent)
    );
}

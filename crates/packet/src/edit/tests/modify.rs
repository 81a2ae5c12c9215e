//! Any bits of any header changed: they read back, the rest stays, and every checksum is as if computed anew.

use super::*;
use crate::field::TunnelKind;
use crate::golden::{scapy, translated};
use crate::parse::{ParseOptions, parse};

const BITS: [Bits; 26] = [
    Bits::MAC_DST,
    Bits::MAC_SRC,
    Bits::VLAN_PCP,
    Bits::VLAN_ID,
    Bits::IPV4_DSCP,
    Bits::IPV4_ECN,
    Bits::IPV4_TTL,
    Bits::IPV4_SRC,
    Bits::IPV4_DST,
    Bits::IPV6_DSCP,
    Bits::IPV6_ECN,
    Bits::IPV6_HOP_LIMIT,
    Bits::IPV6_SRC,
    Bits::IPV6_DST,
    Bits::TCP_SRC,
    Bits::TCP_DST,
    Bits::TCP_SEQUENCE,
    Bits::TCP_ACKNOWLEDGEMENT,
    Bits::TCP_FLAGS,
    Bits::UDP_SRC,
    Bits::UDP_DST,
    Bits::VXLAN_VNI,
    Bits::GENEVE_VNI,
    Bits::GTPU_TEID,
    Bits {
        header: Header::Sctp,
        offset: 3,
        width: 40,
    },
    Bits {
        header: Header::Icmp,
        offset: 32,
        width: 16,
    },
];

const HEADERS: [Header; 12] = [
    Header::Ethernet,
    Header::Vlan,
    Header::SecondVlan,
    Header::Ipv4,
    Header::Ipv6,
    Header::Tcp,
    Header::Udp,
    Header::Sctp,
    Header::Icmp,
    Header::Tunnel(TunnelKind::Geneve),
    Header::Tunnel(TunnelKind::Gre),
    Header::Tunnel(TunnelKind::Gtpu),
];

fn bits() -> impl Strategy<Value = Bits> {
    prop_oneof![
        (0..BITS.len()).prop_map(|i| BITS[i]),
        (0..HEADERS.len(), 0u16..330, 0u8..130).prop_map(|(header, offset, width)| Bits {
            header: HEADERS[header],
            offset,
            width,
        }),
    ]
}

fn frames() -> std::vec::Vec<std::vec::Vec<u8>> {
    let whole = |golden: &&golden::Golden| golden.bytes().len() == golden.frame_len;
    let kernel = golden::ALL.iter().map(|(_, golden)| *golden);
    let made = scapy::ALL.iter().map(|(_, golden)| *golden);
    let others = [&translated::SCTP, &translated::UDP_V6];
    kernel
        .chain(made)
        .chain(others)
        .filter(whole)
        .map(golden::Golden::bytes)
        .collect()
}

/// One bit of a frame, counted as it is sent.
fn bit(frame: &[u8], at: usize) -> u8 {
    frame[at / 8] >> (7 - at % 8) & 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn modified_bits_read_back_and_checksums_hold(which: prop::sample::Index, bits in bits(), change in 0u8..3, value: u128) {
        let frames = frames();
        let mut frame = which.get(&frames).clone();
        let (_, layout) = describe(&frame);
        let layer = layout.innermost();
        let Ok(old) = read_bits(&frame, layer, bits) else {
            prop_assert!(modify(&mut frame, layer, bits, Change::Set, value, false).is_err());
            return Ok(());
        };
        let before = frame.clone();
        let (change, expected) = match change {
            0 => (Change::Set, value),
            1 => (Change::Add, old.wrapping_add(value)),
            _ => (Change::Sub, old.wrapping_sub(value)),
        };
        if modify(&mut frame, layer, bits, change, value, false).is_err() {
            prop_assert_eq!(frame, before);
            return Ok(());
        }
        let mask = u128::MAX >> (128 - u32::from(bits.width));
        prop_assert_eq!(read_bits(&frame, layer, bits), Ok(expected & mask));
        if layout.has_inner() && frame[usize::from(layout.outer().l4) + 6..][..2] != [0, 0] {
            // The outer checksum is not followed up, as documented.
            let _ = clear_udp_checksum(&mut frame, layout.outer());
        }
        assert_checksums(&frame);
        // The layout is what it was, but for tunnels that a port calls up.
        let (mut key, mut again) = (crate::FlowKey::ZERO, Layout::EMPTY);
        parse(&frame, frame.len(), &mut key, &mut again, &ParseOptions::TUNNELS).unwrap();
        prop_assert_eq!(again.outer().l3, layout.outer().l3);
        // Outside the bits and the checksums nothing changed: count the bits that did.
        let changed = (0..frame.len() * 8).filter(|at| bit(&frame, *at) != bit(&before, *at)).count();
        prop_assert!(changed <= usize::from(bits.width) + 5 * 16 + 32);
    }
}

#[test]
fn what_the_layout_rests_on_is_refused() {
    let frame = golden::TCP_V4.bytes();
    let (_, layout) = describe(&frame);
    for (header, offset, width) in [
        (Header::Ethernet, 96, 16),
        (Header::Ipv4, 0, 4),
        (Header::Ipv4, 16, 16),
        (Header::Ipv4, 72, 8),
        (Header::Ipv4, 80, 16),
        (Header::Ipv4, 64, 16),
        (Header::Tcp, 96, 4),
        (Header::Tcp, 128, 16),
    ] {
        let bits = Bits {
            header,
            offset,
            width,
        };
        let mut copy = frame.clone();
        assert_eq!(
            modify(&mut copy, layout.outer(), bits, Change::Set, 0, false),
            Err(EditError::Unsupported),
            "{bits:?}"
        );
        assert_eq!(copy, frame);
        assert!(read_bits(&frame, layout.outer(), bits).is_ok());
    }
    for (header, offset, width) in [
        (Header::Tcp, 0, 0),
        (Header::Tcp, 255, 2),
        (Header::Ipv4, 0, 129),
    ] {
        let bits = Bits {
            header,
            offset,
            width,
        };
        assert_eq!(
            read_bits(&frame, layout.outer(), bits),
            Err(EditError::OutOfRange)
        );
    }
}

#[test]
fn partial_checksums_follow_addresses_only() {
    let mut frame = golden::TCP_V4.bytes();
    let (_, layout) = describe(&frame);
    let layer = layout.outer();
    let at = usize::from(layer.l4) + 16;
    let seed = pseudo(&frame, layer).0.folded();
    frame[at..at + 2].copy_from_slice(&seed.to_be_bytes());
    modify(
        &mut frame,
        layer,
        Bits::IPV4_DST,
        Change::Add,
        0x01ff_0123,
        true,
    )
    .unwrap();
    modify(&mut frame, layer, Bits::TCP_SEQUENCE, Change::Sub, 77, true).unwrap();
    let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert_eq!(field % 0xffff, pseudo(&frame, layer).0.folded() % 0xffff);
}

#[test]
fn sctp_ports_are_followed_up() {
    let mut frame = translated::SCTP.bytes();
    let (_, layout) = describe(&frame);
    set_l4_src(&mut frame, layout.outer(), 1000, false).unwrap();
    assert_eq!(frame, translated::SCTP_AFTER.bytes());
    // Of fragments the whole is not here.
    let mut layer = *layout.outer();
    layer.flags |= LayerLayout::FRAGMENT;
    assert_eq!(
        set_l4_src(&mut frame, &layer, 1, false),
        Err(EditError::Unsupported)
    );
    assert_eq!(frame, translated::SCTP_AFTER.bytes());
}

//! Golden frames, agreement of the two ways through the parser, and hostile input.

use super::*;
use crate::build::FrameBuilder;
use crate::field::{Field, Layer};
use crate::golden;
use crate::key::WORDS;
use crate::view::{Ipv4, Tcp};
use std::vec;
use std::vec::Vec;
use zerocopy::big_endian::{U16, U32};

use Layer::Outer;

mod kernel_frames;
mod properties;
mod tunnels;

fn parsed(
    bytes: &[u8],
    frame_len: usize,
    options: &ParseOptions,
) -> Result<(FlowKey, Layout), Malformed> {
    // Garbage where parse must write, to show that it does.
    let mut key = FlowKey::from_words([GARBAGE; WORDS]);
    key.set_metadata(7, 8, 9);
    let mut layout = Layout {
        layers: [LayerLayout {
            payload: 99,
            l4: 98,
            l3: 97,
            vlan: 96,
            ..LayerLayout::EMPTY
        }; 2],
    };
    parse(bytes, frame_len, &mut key, &mut layout, options)?;
    Ok((untouched(key, options), layout))
}

const GARBAGE: u64 = 0xdead_beef_dead_beef;

/// Clears what was not parse's to write, having seen that it left it alone.
fn untouched(mut key: FlowKey, options: &ParseOptions) -> FlowKey {
    let kept = if options.extras { 18..24 } else { 18..WORDS };
    for word in kept {
        assert_eq!(key.word(word), GARBAGE, "word {word} is not parse's");
        key.set_word(word, 0);
    }
    key
}

fn general(
    bytes: &[u8],
    frame_len: usize,
    options: &ParseOptions,
) -> Result<(FlowKey, Layout), Malformed> {
    let mut key = FlowKey::from_words([GARBAGE; WORDS]);
    key.set_metadata(7, 8, 9);
    let mut layout = Layout::EMPTY;
    general::parse(bytes, frame_len, &mut key, &mut layout, options)?;
    if options.extras {
        extras::fetch(bytes, frame_len, &mut key, &layout, options)?;
    }
    Ok((untouched(key, options), layout))
}

#[test]
fn vxlan_options() {
    let frame = golden::VXLAN_TCP_V4.bytes();
    let outer_only = ParseOptions {
        inner: false,
        ..ParseOptions::VXLAN
    };
    let (key, layout) = parsed(&frame, frame.len(), &outer_only).unwrap();
    assert_eq!(
        (key.get(Field::TunnelId(Outer)), key.get(Field::Layers)),
        (4242, 1)
    );
    assert!(!layout.has_inner());
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::PLAIN).unwrap();
    assert_eq!(
        (
            key.get(Field::TunnelKind(Outer)),
            key.get(Field::L4Dst(Outer))
        ),
        (0, 4789)
    );
    assert_eq!(layout.outer().payload, 42);
    let (key, _) = parsed(
        &frame,
        frame.len(),
        &ParseOptions {
            vxlan_port: 8472,
            ..ParseOptions::VXLAN
        },
    )
    .unwrap();
    assert_eq!(key.get(Field::TunnelKind(Outer)), 0);
    // Without the I flag there is no VNI, so it is a datagram like any other.
    let mut flagless = frame.clone();
    flagless[42] = 0;
    let (key, layout) = parsed(&flagless, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(key.get(Field::TunnelKind(Outer)), 0);
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 42]);
}

fn offsets(l: &LayerLayout) -> [u16; 5] {
    [l.eth, l.l3, l.l3_len, l.l4, l.payload]
}

/// The frame that `build` makes.
fn frame_of(build: impl FnOnce(FrameBuilder<'_>) -> FrameBuilder<'_>) -> Vec<u8> {
    let mut buffer = vec![0u8; 2048];
    let len = build(FrameBuilder::new(&mut buffer)).finish().unwrap();
    buffer.truncate(len);
    buffer
}

const M: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn tags() {
    let frame = frame_of(|f| f.ethernet(M, M).vlan(0x6123).ipv4(1, 2).udp(3, 4));
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(key.get(Field::VlanTci(Outer)), 0x7123);
    assert_eq!(key.get(Field::EthType(Outer)), 0x0800);
    assert_eq!(
        (
            layout.outer().vlan,
            layout.outer().vlan_tags,
            layout.outer().l3
        ),
        (12, 1, 18)
    );
    let frame = frame_of(|f| {
        f.ethernet(M, M)
            .tag(0x88a8, 7)
            .vlan(0x0009)
            .ipv6(1, 2)
            .tcp(3, 4)
    });
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(
        (
            key.get(Field::VlanTci(Outer)),
            key.get(Field::InnerVlanTci(Outer))
        ),
        (0x1007, 0x1009)
    );
    assert_eq!(
        (
            layout.outer().vlan,
            layout.outer().vlan_tags,
            layout.outer().l3
        ),
        (12, 2, 22)
    );
    // A third tag is an EtherType like any other.
    let frame = frame_of(|f| {
        f.ethernet(M, M)
            .vlan(1)
            .vlan(2)
            .vlan(3)
            .ipv4(1, 2)
            .udp(3, 4)
    });
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(key.get(Field::EthType(Outer)), 0x8100);
    assert_eq!(
        (
            layout.outer().vlan_tags,
            layout.outer().l3,
            layout.outer().payload
        ),
        (2, 0, 22)
    );
}

#[test]
fn protocols_without_a_frame_of_the_kernel() {
    // SCTP's twelve bytes are ports, verification tag and checksum.
    let mut sctp = Ipv4::default_for_test(132);
    sctp.tos = 0xb8;
    let frame = frame_of(|f| {
        f.ethernet(M, M)
            .ipv4_header(sctp)
            .payload(&[0, 5, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8])
    });
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(
        (key.get(Field::L4Src(Outer)), key.get(Field::L4Dst(Outer))),
        (5, 6)
    );
    assert_eq!(key.get(Field::IpTos(Outer)), 0xb8);
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 46]);
    // An IEEE 802.3 length is not an EtherType.
    let mut llc = vec![0u8; 60];
    llc[13] = 46;
    let (key, layout) = parsed(&llc, 60, &ParseOptions::VXLAN).unwrap();
    assert_eq!(
        key.get(Field::EthType(Outer)),
        u128::from(crate::field::ETHERTYPE_LENGTH)
    );
    assert_eq!(
        (layout.outer().l3_kind, layout.outer().payload),
        (L3Kind::None, 14)
    );
    // ARP of other address families is carried, not read.
    let other = frame_of(|f| {
        f.ethernet(M, M)
            .ethertype(0x0806, &[0, 6, 8, 0, 6, 4, 0, 1])
    });
    let (key, layout) = parsed(&other, other.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(
        (key.get(Field::L4Dst(Outer)), layout.outer().l3_kind),
        (0, L3Kind::None)
    );
}

impl Ipv4 {
    fn default_for_test(proto: u8) -> Ipv4 {
        Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(0),
            id: U16::new(0),
            fragment: U16::new(0),
            ttl: 64,
            proto,
            checksum: U16::new(0),
            src: U32::new(1),
            dst: U32::new(2),
        }
    }
}

/// One fault at a time in an otherwise valid frame: (name, bytes, frame length, expected).
#[test]
fn every_fault_has_its_name() {
    let udp = frame_of(|f| f.ethernet(M, M).ipv4(1, 2).udp(3, 4).payload(&[0; 20]));
    let tcp = frame_of(|f| f.ethernet(M, M).ipv4(1, 2).tcp(3, 4));
    let tcp6 = frame_of(|f| f.ethernet(M, M).ipv6(1, 2).tcp(3, 4));
    let with = |frame: &[u8], changes: &[(usize, u8)]| {
        let mut f = frame.to_vec();
        for (at, byte) in changes {
            f[*at] = *byte;
        }
        f
    };
    let ip_only = |proto: u8, payload: &[u8]| {
        frame_of(|f| {
            f.ethernet(M, M)
                .ipv4_header(Ipv4::default_for_test(proto))
                .payload(payload)
        })
    };
    let v6_only = |next: u8, payload: &[u8]| {
        with(
            &frame_of(|f| f.ethernet(M, M).ipv6(1, 2).payload(payload)),
            &[(20, next)],
        )
    };
    let extension_chain: Vec<u8> = (0..9).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    let arp = frame_of(|f| {
        f.ethernet(M, M)
            .ethertype(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1])
    });
    let cases: Vec<(&str, Vec<u8>, Malformed)> = vec![
        ("empty", vec![], Malformed::Ethernet),
        ("13 bytes", vec![0; 13], Malformed::Ethernet),
        ("cut tag", with(&[0; 16], &[(12, 0x81)]), Malformed::Vlan),
        (
            "cut second tag",
            with(&[0; 20], &[(12, 0x88), (13, 0xa8), (16, 0x81)]),
            Malformed::Vlan,
        ),
        ("cut arp", arp.clone(), Malformed::Arp),
        ("cut arp start", arp[..18].to_vec(), Malformed::Arp),
        (
            "version 5",
            with(&udp, &[(14, 0x55)]),
            Malformed::Ipv4Header,
        ),
        ("ihl 4", with(&udp, &[(14, 0x44)]), Malformed::Ipv4Header),
        ("cut ipv4", udp[..33].to_vec(), Malformed::Ipv4Header),
        (
            "total length over frame",
            with(&udp, &[(17, 49)]),
            Malformed::Ipv4Length,
        ),
        (
            "total length under header",
            with(&udp, &[(17, 19)]),
            Malformed::Ipv4Length,
        ),
        (
            "options over total length",
            with(&udp, &[(14, 0x4f)]),
            Malformed::Ipv4Length,
        ),
        (
            "ipv6 version",
            with(&tcp6, &[(14, 0x40)]),
            Malformed::Ipv6Header,
        ),
        ("cut ipv6", tcp6[..50].to_vec(), Malformed::Ipv6Header),
        (
            "ipv6 payload length",
            with(&tcp6, &[(19, 21)]),
            Malformed::Ipv6Length,
        ),
        (
            "cut extension",
            v6_only(0, &[59, 0, 0, 0]),
            Malformed::Ipv6Extension,
        ),
        (
            "extension over end",
            v6_only(0, &[59, 1, 0, 0, 0, 0, 0, 0]),
            Malformed::Ipv6Extension,
        ),
        (
            "nine extensions",
            v6_only(60, &extension_chain),
            Malformed::Ipv6Extension,
        ),
        (
            "cut fragment header",
            v6_only(44, &[17, 0, 0]),
            Malformed::Ipv6Extension,
        ),
        ("cut tcp", ip_only(6, &[0; 19]), Malformed::Tcp),
        ("data offset 4", with(&tcp, &[(46, 0x40)]), Malformed::Tcp),
        (
            "data offset over end",
            with(&tcp, &[(46, 0x60)]),
            Malformed::Tcp,
        ),
        ("cut udp", ip_only(17, &[0; 7]), Malformed::Udp),
        ("udp length 7", with(&udp, &[(39, 7)]), Malformed::Udp),
        (
            "udp length over end",
            with(&udp, &[(39, 29)]),
            Malformed::Udp,
        ),
        ("cut icmp", ip_only(1, &[8, 0, 0]), Malformed::Icmp),
        ("cut icmpv6", v6_only(58, &[128, 0, 0]), Malformed::Icmpv6),
        ("cut sctp", ip_only(132, &[0; 11]), Malformed::Sctp),
    ];
    for (name, bytes, fault) in cases {
        assert_eq!(
            parsed(&bytes, bytes.len(), &ParseOptions::VXLAN),
            Err(fault),
            "{name}"
        );
    }
    // The frame goes on, but the captured bytes do not.
    assert_eq!(
        parsed(&tcp[..53], tcp.len(), &ParseOptions::VXLAN),
        Err(Malformed::HeaderTooLong)
    );
    let mut long_chain = vec![60u8, 31];
    long_chain.resize(256, 0);
    let long = v6_only(60, &long_chain);
    assert_eq!(
        parsed(&long, long.len(), &ParseOptions::VXLAN),
        Err(Malformed::HeaderTooLong)
    );
    // The payload after the captured header is nobody's concern.
    let big = frame_of(|f| f.ethernet(M, M).ipv4(1, 2).udp(3, 4).payload(&[0; 1400]));
    assert!(parsed(&big[..42], big.len(), &ParseOptions::VXLAN).is_ok());
    // Inside VXLAN the datagram is the limit, not the frame.
    let inner_cut = frame_of(|f| {
        f.ethernet(M, M)
            .ipv4(1, 2)
            .udp(3, 4789)
            .vxlan(5)
            .payload(&[0; 13])
    });
    let mut padded = inner_cut;
    padded.resize(100, 0);
    assert_eq!(
        parsed(&padded, 100, &ParseOptions::VXLAN),
        Err(Malformed::Ethernet)
    );
}

#[test]
fn atomic_fragments_and_routing_headers() {
    let mut atomic = vec![17u8, 0, 0, 0, 0, 0, 0, 1];
    atomic.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut frame = frame_of(|f| f.ethernet(M, M).ipv6(1, 2).payload(&atomic));
    frame[20] = 44;
    let (key, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(
        (
            key.get(Field::Fragment(Outer)),
            key.get(Field::L4Dst(Outer))
        ),
        (0, 2)
    );
    assert_eq!(layout.outer().l4, 62);
    let mut routed = vec![17u8, 2, 4, 1, 0, 0, 0, 0];
    routed.extend([0; 16]);
    routed.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut frame = frame_of(|f| f.ethernet(M, M).ipv6(1, 2).payload(&routed));
    frame[20] = 43;
    let (_, layout) = parsed(&frame, frame.len(), &ParseOptions::VXLAN).unwrap();
    assert_eq!(layout.outer().flags, LayerLayout::ROUTED);
    assert_eq!(layout.outer().l4, 78);
}

#[test]
fn malformed_names_are_distinct_and_indexed() {
    for (i, fault) in Malformed::ALL.iter().enumerate() {
        assert_eq!(fault.index(), i);
        assert!(
            Malformed::ALL[..i]
                .iter()
                .all(|f| f.as_str() != fault.as_str())
        );
    }
    assert_eq!(Malformed::COUNT, Malformed::ALL.len());
}

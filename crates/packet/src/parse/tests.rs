//! Golden frames, agreement of the two ways through the parser, and hostile input.

use super::*;
use crate::build::FrameBuilder;
use crate::field::{Field, Layer};
use crate::golden;
use crate::view::{Ipv4, Tcp};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;
use zerocopy::big_endian::{U16, U32};

use Layer::{Inner, Outer};

fn parsed(
    bytes: &[u8],
    frame_len: usize,
    options: ParseOptions,
) -> Result<(FlowKey, Layout), Malformed> {
    // Garbage where parse must write, to show that it does.
    let mut key = FlowKey::from_words([0xdead_beef_dead_beef; 24]);
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
    parse(bytes, frame_len, &mut key, &mut layout, options).map(|()| (key, layout))
}

fn general(
    bytes: &[u8],
    frame_len: usize,
    options: ParseOptions,
) -> Result<(FlowKey, Layout), Malformed> {
    let mut key = FlowKey::from_words([0xdead_beef_dead_beef; 24]);
    key.set_metadata(7, 8, 9);
    let mut layout = Layout::EMPTY;
    general::parse(bytes, frame_len, &mut key, &mut layout, options).map(|()| (key, layout))
}

/// Parses a golden frame and compares every field: those listed, and zero for the others.
fn expect(frame: &golden::Golden, fields: &[(Field, u128)]) -> Layout {
    let (key, layout) = parsed(&frame.bytes(), frame.frame_len, ParseOptions::VXLAN).unwrap();
    let metadata = [(Field::InPort, 7), (Field::Mark, 8), (Field::Network, 9)];
    for field in Field::ALL {
        let listed = fields.iter().chain(&metadata).find(|(f, _)| *f == field);
        assert_eq!(key.get(field), listed.map_or(0, |(_, v)| *v), "{field:?}");
    }
    assert!(key.words()[18..].iter().all(|w| *w == 0));
    layout
}

const MAC_A: u128 = 0x0200_0000_0001;
const MAC_B: u128 = 0x0200_0000_0002;
const V6_A: u128 = 0xfd00_0000_0000_0000_0000_0000_0000_0001;
const V6_B: u128 = 0xfd00_0000_0000_0000_0000_0000_0000_0002;

fn eth(l: Layer, dst: u128, src: u128, kind: u128) -> [(Field, u128); 3] {
    [
        (Field::EthDst(l), dst),
        (Field::EthSrc(l), src),
        (Field::EthType(l), kind),
    ]
}

fn ip(l: Layer, src: u128, dst: u128, proto: u128, ttl: u128) -> [(Field, u128); 4] {
    [
        (Field::IpSrc(l), src),
        (Field::IpDst(l), dst),
        (Field::IpProto(l), proto),
        (Field::IpTtl(l), ttl),
    ]
}

fn ports(l: Layer, src: u128, dst: u128) -> [(Field, u128); 2] {
    [(Field::L4Src(l), src), (Field::L4Dst(l), dst)]
}

fn one_layer(parts: &[&[(Field, u128)]]) -> Vec<(Field, u128)> {
    let mut all = parts.concat();
    all.push((Field::Layers, 1));
    all
}

fn offsets(l: &LayerLayout) -> [u16; 5] {
    [l.eth, l.l3, l.l3_len, l.l4, l.payload]
}

#[test]
fn golden_udp_v4() {
    let e = eth(Outer, MAC_B, MAC_A, 0x0800);
    let layout = expect(
        &golden::UDP_V4,
        &one_layer(&[
            &e,
            &ip(Outer, 0x0a01_0001, 0x0a01_0002, 17, 64),
            &ports(Outer, 39340, 9),
        ]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 42]);
    assert!(!layout.has_inner());
}

#[test]
fn golden_tcp() {
    let flags = [(Field::TcpFlags(Outer), u128::from(Tcp::PSH | Tcp::ACK))];
    let e = eth(Outer, MAC_B, MAC_A, 0x0800);
    let fields = one_layer(&[
        &e,
        &ip(Outer, 0x0a01_0001, 0x0a01_0002, 6, 64),
        &ports(Outer, 39174, 5001),
        &flags,
    ]);
    let layout = expect(&golden::TCP_V4, &fields);
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 66]);
    let e = eth(Outer, MAC_B, MAC_A, 0x86dd);
    let layout = expect(
        &golden::TCP_V6,
        &one_layer(&[
            &e,
            &ip(Outer, V6_A, V6_B, 6, 64),
            &ports(Outer, 36070, 5002),
            &flags,
        ]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 40, 54, 86]);
    assert_eq!(layout.outer().l3_kind, L3Kind::Ipv6);
}

#[test]
fn golden_echo() {
    let e = eth(Outer, MAC_B, MAC_A, 0x0800);
    let layout = expect(
        &golden::ECHO_V4,
        &one_layer(&[
            &e,
            &ip(Outer, 0x0a01_0001, 0x0a01_0002, 1, 64),
            &ports(Outer, 8, 0),
        ]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 42]);
    let e = eth(Outer, MAC_B, MAC_A, 0x86dd);
    let layout = expect(
        &golden::ECHO_V6,
        &one_layer(&[&e, &ip(Outer, V6_A, V6_B, 58, 64), &ports(Outer, 128, 0)]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 40, 54, 58]);
}

#[test]
fn golden_fragments() {
    let e = eth(Outer, MAC_B, MAC_A, 0x0800);
    let i = ip(Outer, 0x0a01_0001, 0x0a01_0002, 17, 64);
    let first = one_layer(&[
        &e,
        &i,
        &ports(Outer, 53462, 9),
        &[(Field::Fragment(Outer), 1)],
    ]);
    let layout = expect(&golden::FRAGMENT_FIRST_V4, &first);
    assert!(layout.outer().is_fragment() && layout.outer().has_l4());
    let later = one_layer(&[&e, &i, &[(Field::Fragment(Outer), 3)]]);
    let layout = expect(&golden::FRAGMENT_LATER_V4, &later);
    assert!(layout.outer().is_fragment() && !layout.outer().has_l4());
    assert_eq!(layout.outer().payload, 34);

    let e = eth(Outer, MAC_B, MAC_A, 0x86dd);
    let i = ip(Outer, V6_A, V6_B, 17, 64);
    let first = one_layer(&[
        &e,
        &i,
        &ports(Outer, 33283, 9),
        &[(Field::Fragment(Outer), 1)],
    ]);
    let layout = expect(&golden::FRAGMENT_FIRST_V6, &first);
    assert_eq!(offsets(layout.outer()), [0, 14, 48, 62, 70]);
    let later = one_layer(&[&e, &i, &[(Field::Fragment(Outer), 3)]]);
    let layout = expect(&golden::FRAGMENT_LATER_V6, &later);
    assert_eq!(offsets(layout.outer()), [0, 14, 48, 0, 62]);
}

#[test]
fn golden_options_and_extensions() {
    let e = eth(Outer, MAC_B, MAC_A, 0x0800);
    let i = ip(Outer, 0x0a01_0001, 0x0a01_0002, 17, 64);
    let layout = expect(
        &golden::OPTIONS_V4,
        &one_layer(&[&e, &i, &ports(Outer, 55678, 9)]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 24, 38, 46]);
    let e = eth(Outer, MAC_B, MAC_A, 0x86dd);
    let i = ip(Outer, V6_A, V6_B, 17, 64);
    let layout = expect(
        &golden::EXTENSIONS_V6,
        &one_layer(&[&e, &i, &ports(Outer, 42996, 9)]),
    );
    assert_eq!(offsets(layout.outer()), [0, 14, 56, 70, 78]);
}

fn tunnel(vni: u128) -> [(Field, u128); 3] {
    [
        (Field::Vni(Outer), vni),
        (Field::Vxlan(Outer), 1),
        (Field::Layers, 3),
    ]
}

#[test]
fn golden_vxlan() {
    let arp = [
        &eth(Outer, MAC_A, MAC_B, 0x0800)[..],
        &ip(Outer, 0x0a01_0002, 0x0a01_0001, 17, 64),
        &ports(Outer, 48881, 4789),
        &tunnel(4242),
        &eth(Inner, 0x0200_0000_1101, 0x0200_0000_1102, 0x0806),
        &[
            (Field::L4Dst(Inner), 2),
            (Field::IpSrc(Inner), 0x0a2a_0002),
            (Field::IpDst(Inner), 0x0a2a_0001),
        ],
    ];
    let layout = expect(&golden::VXLAN_ARP, &arp.concat());
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 42]);
    assert_eq!(offsets(&layout.layers[1]), [50, 64, 28, 0, 92]);

    let flags = [(Field::TcpFlags(Inner), u128::from(Tcp::PSH | Tcp::ACK))];
    let tcp = [
        &eth(Outer, MAC_B, MAC_A, 0x0800)[..],
        &ip(Outer, 0x0a01_0001, 0x0a01_0002, 17, 64),
        &ports(Outer, 53241, 4789),
        &tunnel(4242),
        &eth(Inner, 0x0200_0000_1102, 0x0200_0000_1101, 0x0800),
        &ip(Inner, 0x0a2a_0001, 0x0a2a_0002, 6, 64),
        &ports(Inner, 48374, 5005),
        &flags,
    ];
    let layout = expect(&golden::VXLAN_TCP_V4, &tcp.concat());
    assert_eq!(offsets(layout.innermost()), [50, 64, 20, 84, 116]);

    let over_v6 = [
        &eth(Outer, MAC_B, MAC_A, 0x86dd)[..],
        &ip(Outer, V6_A, V6_B, 17, 64),
        &ports(Outer, 44766, 4789),
        &tunnel(77),
        &eth(Inner, 0x0200_0000_1202, 0x0200_0000_1201, 0x0800),
        &ip(Inner, 0x0a4d_0001, 0x0a4d_0002, 6, 64),
        &ports(Inner, 40418, 5007),
        &flags,
    ];
    let layout = expect(&golden::VXLAN_OVER_V6, &over_v6.concat());
    assert_eq!(offsets(layout.innermost()), [70, 84, 20, 104, 136]);
}

#[test]
fn vxlan_options() {
    let frame = golden::VXLAN_TCP_V4.bytes();
    let outer_only = ParseOptions {
        inner: false,
        ..ParseOptions::VXLAN
    };
    let (key, layout) = parsed(&frame, frame.len(), outer_only).unwrap();
    assert_eq!(
        (key.get(Field::Vni(Outer)), key.get(Field::Layers)),
        (4242, 1)
    );
    assert!(!layout.has_inner());
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::PLAIN).unwrap();
    assert_eq!(
        (key.get(Field::Vxlan(Outer)), key.get(Field::L4Dst(Outer))),
        (0, 4789)
    );
    assert_eq!(layout.outer().payload, 42);
    let (key, _) = parsed(
        &frame,
        frame.len(),
        ParseOptions {
            vxlan_port: 8472,
            inner: true,
        },
    )
    .unwrap();
    assert_eq!(key.get(Field::Vxlan(Outer)), 0);
    // Without the I flag there is no VNI, so it is a datagram like any other.
    let mut flagless = frame.clone();
    flagless[42] = 0;
    let (key, layout) = parsed(&flagless, frame.len(), ParseOptions::VXLAN).unwrap();
    assert_eq!(key.get(Field::Vxlan(Outer)), 0);
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 42]);
}

/// Shortens an untagged IPv4 or IPv6 frame's UDP or TCP packet to end `cut` bytes earlier, lengths agreeing.
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
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
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
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
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
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
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
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
    assert_eq!(
        (key.get(Field::L4Src(Outer)), key.get(Field::L4Dst(Outer))),
        (5, 6)
    );
    assert_eq!(key.get(Field::IpTos(Outer)), 0xb8);
    assert_eq!(offsets(layout.outer()), [0, 14, 20, 34, 46]);
    // An IEEE 802.3 length is not an EtherType.
    let mut llc = vec![0u8; 60];
    llc[13] = 46;
    let (key, layout) = parsed(&llc, 60, ParseOptions::VXLAN).unwrap();
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
    let (key, layout) = parsed(&other, other.len(), ParseOptions::VXLAN).unwrap();
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
            parsed(&bytes, bytes.len(), ParseOptions::VXLAN),
            Err(fault),
            "{name}"
        );
    }
    // The frame goes on, but the captured bytes do not.
    assert_eq!(
        parsed(&tcp[..53], tcp.len(), ParseOptions::VXLAN),
        Err(Malformed::HeaderTooLong)
    );
    let mut long_chain = vec![60u8, 31];
    long_chain.resize(256, 0);
    let long = v6_only(60, &long_chain);
    assert_eq!(
        parsed(&long, long.len(), ParseOptions::VXLAN),
        Err(Malformed::HeaderTooLong)
    );
    // The payload after the captured header is nobody's concern.
    let big = frame_of(|f| f.ethernet(M, M).ipv4(1, 2).udp(3, 4).payload(&[0; 1400]));
    assert!(parsed(&big[..42], big.len(), ParseOptions::VXLAN).is_ok());
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
        parsed(&padded, 100, ParseOptions::VXLAN),
        Err(Malformed::Ethernet)
    );
}

#[test]
fn atomic_fragments_and_routing_headers() {
    let mut atomic = vec![17u8, 0, 0, 0, 0, 0, 0, 1];
    atomic.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut frame = frame_of(|f| f.ethernet(M, M).ipv6(1, 2).payload(&atomic));
    frame[20] = 44;
    let (key, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
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
    let (_, layout) = parsed(&frame, frame.len(), ParseOptions::VXLAN).unwrap();
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

fn options() -> impl Strategy<Value = ParseOptions> {
    (prop_oneof![Just(0u16), Just(4789), Just(9)], any::<bool>())
        .prop_map(|(vxlan_port, inner)| ParseOptions { vxlan_port, inner })
}

/// What a layout promises: headers in order, all inside the captured bytes.
fn check_layout(layout: &Layout, captured: usize) {
    for l in layout.layers.iter().filter(|l| l.payload != 0) {
        let present: Vec<u16> = [l.eth, l.vlan, l.l3, l.l4, l.payload]
            .into_iter()
            .filter(|o| *o != 0)
            .collect();
        assert!(present.is_sorted(), "{l:?}");
        assert!(
            usize::from(l.payload) <= captured,
            "{l:?} beyond {captured}"
        );
        if l.l4 != 0 {
            assert_eq!(l.l3 + l.l3_len, l.l4);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), extra in 0usize..2000, options in options()) {
        for frame_len in [bytes.len(), bytes.len() + extra, bytes.len() / 2] {
            let fast = parsed(&bytes, frame_len, options);
            prop_assert_eq!(fast, general(&bytes, frame_len, options));
            if let Ok((_, layout)) = fast {
                check_layout(&layout, bytes.len().min(frame_len).min(crate::HEADER_MAX));
            }
        }
    }

    #[test]
    fn mutated_frames_do_no_harm(
        which in 0..golden::ALL.len(),
        changes in proptest::collection::vec((0usize..150, any::<u8>()), 0..4),
        cut in prop_oneof![3 => Just(400usize), 1 => 0usize..160],
        options in options(),
    ) {
        let (name, golden) = golden::ALL[which];
        let mut bytes = golden.bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        for frame_len in [golden.frame_len, bytes.len()] {
            let fast = parsed(&bytes, frame_len, options);
            prop_assert_eq!(fast, general(&bytes, frame_len, options), "{}", name);
            if let Ok((_, layout)) = fast {
                check_layout(&layout, bytes.len().min(frame_len));
            }
        }
    }

    /// Build, then parse: every field comes back.
    #[test]
    fn built_frames_come_back(
        macs: ([u8; 6], [u8; 6]), tci in proptest::option::of(any::<u16>()), v6: bool,
        addresses: (u128, u128), kind in 0u8..3, l4: (u16, u16), payload in proptest::collection::vec(any::<u8>(), 0..100),
        vni in proptest::option::of(0u32..1 << 24),
    ) {
        let stack = |mut f: FrameBuilder<'_>| -> usize {
            if let Some(vni) = vni {
                f = f.ethernet(M, M).ipv4(5, 6).udp(50000, 4789).vxlan(vni);
            }
            f = f.ethernet(macs.0, macs.1);
            if let Some(tci) = tci {
                f = f.vlan(tci);
            }
            f = if v6 { f.ipv6(addresses.0, addresses.1) } else { f.ipv4(addresses.0 as u32, addresses.1 as u32) };
            f = match kind {
                0 => f.udp(l4.0, l4.1),
                1 => f.tcp(l4.0, l4.1),
                _ => f.icmp(l4.0 as u8, l4.1 as u8, 0),
            };
            f.payload(&payload).finish().unwrap()
        };
        let mut buffer = [0u8; 400];
        let len = stack(FrameBuilder::new(&mut buffer));
        prop_assume!(!(vni.is_none() && kind == 0 && l4.1 == 4789));
        let (key, layout) = parsed(&buffer[..len], len, ParseOptions::VXLAN).unwrap();
        let l = if vni.is_some() { Inner } else { Outer };
        let mac = |m: [u8; 6]| m.iter().fold(0u128, |a, b| a << 8 | u128::from(*b));
        prop_assert_eq!(key.get(Field::EthDst(l)), mac(macs.0));
        prop_assert_eq!(key.get(Field::EthSrc(l)), mac(macs.1));
        prop_assert_eq!(key.get(Field::VlanTci(l)), tci.map_or(0, |t| u128::from(t | 0x1000)));
        let low = if v6 { u128::MAX } else { u128::from(u32::MAX) };
        prop_assert_eq!(key.get(Field::IpSrc(l)), addresses.0 & low);
        prop_assert_eq!(key.get(Field::IpDst(l)), addresses.1 & low);
        let port_mask = if kind == 2 { 0xff } else { 0xffff };
        prop_assert_eq!(key.get(Field::L4Src(l)), u128::from(l4.0 & port_mask));
        prop_assert_eq!(key.get(Field::L4Dst(l)), u128::from(l4.1 & port_mask));
        prop_assert_eq!(key.get(Field::Vni(Outer)), vni.map_or(0, u128::from));
        let short_of_icmpv6 = if v6 && kind == 2 { 4 } else { 0 };
        prop_assert_eq!(usize::from(layout.innermost().payload) + short_of_icmpv6 + payload.len(), len);
        prop_assert_eq!(layout.has_inner(), vni.is_some());
    }
}

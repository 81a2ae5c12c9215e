//! Tunnels and extra fields, on frames made with scapy: every field that is told, and what faults do.

use super::*;
use crate::field::{
    IPV6_EXT_AUTH, IPV6_EXT_DESTINATION, IPV6_EXT_FRAGMENT, IPV6_EXT_HOP_BY_HOP, IPV6_EXT_ROUTING,
    TunnelKind,
};
use crate::golden::{Golden, scapy};
use Layer::Inner;

/// What the Geneve frame has, the second option by more bytes than it has.
const OPTIONS: ParseOptions = ParseOptions {
    geneve_options: [
        Some(GeneveExtract {
            class: 0x0102,
            kind: 0x80,
            len: 6,
        }),
        Some(GeneveExtract {
            class: 0x0103,
            kind: 5,
            len: 16,
        }),
    ],
    raw: Some(RawExtract {
        base: RawBase::L3,
        offset: 2,
        len: 3,
    }),
    ..ParseOptions::ALL
};

fn check(frame: &Golden, fields: &[(Field, u128)]) -> Layout {
    let bytes = frame.bytes();
    let (key, layout) = parsed(&bytes, frame.frame_len, &OPTIONS).unwrap();
    for (field, value) in fields {
        assert_eq!(key.get(*field), *value, "{field:?}");
    }
    // Without extras the rest of the key is the same.
    let plain = ParseOptions {
        extras: false,
        ..OPTIONS
    };
    let (mut same, _) = parsed(&bytes, frame.frame_len, &plain).unwrap();
    assert_eq!(same.words()[..18], key.words()[..18]);
    same.clear_extras();
    // Captured in part, the frame is whole or asks for more.
    for cut in 0..bytes.len() {
        match parsed(&bytes[..cut], frame.frame_len, &OPTIONS) {
            Ok((part, _)) => assert_eq!(part, key, "cut at {cut}"),
            Err(Malformed::HeaderTooLong) => {}
            Err(fault) => panic!("{fault} when captured up to {cut}"),
        }
    }
    layout
}

fn tunnel(kind: TunnelKind, id: u128) -> [(Field, u128); 2] {
    [
        (Field::TunnelKind(Outer), kind as u128),
        (Field::TunnelId(Outer), id),
    ]
}

/// The inner IPv4 packet of the frames.
const INNER_V4: [(Field, u128); 4] = [
    (Field::EthType(Inner), 0x0800),
    (Field::IpSrc(Inner), 0x0a00_0001),
    (Field::IpDst(Inner), 0x0a00_0002),
    (Field::L4Src(Inner), 1000),
];

fn bare() -> Vec<(Field, u128)> {
    [
        &INNER_V4[..],
        &[
            (Field::Layers, 3),
            (Field::EthDst(Inner), 0),
            (Field::EthSrc(Inner), 0),
        ],
    ]
    .concat()
}

#[test]
fn geneve() {
    let fields = [
        &tunnel(TunnelKind::Geneve, 0x12_3456)[..],
        &[
            (Field::Layers, 7),
            (Field::EthDst(Inner), 0x0200_0000_1102),
            (Field::EthType(Inner), 0x86dd),
            (Field::L4Dst(Inner), 80),
            (Field::TunnelHead, 0x0540),
            (Field::TunnelProtocol, 0x6558),
            (Field::GenevePresent, 3),
            (
                Field::GeneveData0,
                u128::from_be_bytes(*b"ABCDEF\0\0\0\0\0\0\0\0\0\0"),
            ),
            (
                Field::GeneveData1,
                u128::from_be_bytes(*b"wxyz\0\0\0\0\0\0\0\0\0\0\0\0"),
            ),
            (Field::L4Extra(Inner), 0x0102_0304_0506_0708),
            (Field::RawPresent, 1),
        ],
    ]
    .concat();
    let layout = check(&scapy::GENEVE_OPTIONS, &fields);
    assert_eq!(layout.tunnel(), Some((42, 28)));
    assert_eq!(layout.outer().tunnel_kind(), TunnelKind::Geneve);
    assert!(layout.innermost().has_ethernet());
    let fields = [&tunnel(TunnelKind::Geneve, 7)[..], &bare()].concat();
    let layout = check(&scapy::GENEVE_IPV4_OVER_V6, &fields);
    assert_eq!(layout.tunnel(), Some((62, 8)));
    assert!(!layout.innermost().has_ethernet());
    assert_eq!(offsets(layout.innermost()), [70, 70, 20, 90, 98]);
}

#[test]
fn gre() {
    let fields = [
        &tunnel(TunnelKind::Gre, 0xdead_beef)[..],
        &[
            (Field::GreKeyPresent(Outer), 1),
            (Field::TunnelHead, 0x2000),
            (Field::TunnelProtocol, 0x6558),
            (Field::Layers, 7),
            (Field::L4Src(Inner), 8),
            (Field::L4Extra(Inner), 0x1234_0005 << 32),
        ],
    ]
    .concat();
    let layout = check(&scapy::GRE_KEY_BRIDGED, &fields);
    assert_eq!((layout.outer().l4, layout.tunnel()), (0, Some((34, 8))));
    let fields = [
        &tunnel(TunnelKind::Gre, 77)[..],
        &bare(),
        &[
            (Field::GreKeyPresent(Outer), 1),
            (Field::TunnelHead, 0xb000),
        ],
    ]
    .concat();
    assert_eq!(
        check(&scapy::GRE_ALL_FIELDS, &fields).tunnel(),
        Some((34, 16))
    );
    let fields = [
        &tunnel(TunnelKind::Gre, 0)[..],
        &[
            (Field::GreKeyPresent(Outer), 0),
            (Field::IpSrc(Inner), 0xfd00 << 112 | 1),
        ],
    ]
    .concat();
    assert_eq!(check(&scapy::GRE_V6_IN_V6, &fields).tunnel(), Some((54, 4)));
    let fields = [
        &tunnel(TunnelKind::Gre, 0)[..],
        &[(Field::Layers, 1), (Field::TunnelProtocol, 0x88be)],
    ]
    .concat();
    assert_eq!(check(&scapy::ERSPAN, &fields).tunnel(), None);
}

#[test]
fn vxlan_gpe() {
    let own = tunnel(TunnelKind::VxlanGpe, 0xab_cdef);
    let fields = [
        &own[..],
        &bare(),
        &[(Field::TunnelHead, 0x0c00), (Field::TunnelProtocol, 1)],
    ]
    .concat();
    check(&scapy::GPE_IPV4, &fields);
    let fields = [
        &own[..],
        &INNER_V4,
        &[(Field::Layers, 7), (Field::TunnelProtocol, 3)],
    ]
    .concat();
    check(&scapy::GPE_ETHERNET, &fields);
}

#[test]
fn gtpu() {
    let fields = [
        &tunnel(TunnelKind::Gtpu, 0x0102_0304)[..],
        &bare(),
        &[
            (Field::TunnelHead, 0x36ff),
            (Field::GtpuSession, 0x8109),
            (Field::IpProto(Inner), 6),
        ],
    ]
    .concat();
    assert_eq!(
        check(&scapy::GTPU_SESSION, &fields).tunnel(),
        Some((42, 16))
    );
    let fields = [
        &tunnel(TunnelKind::Gtpu, 5)[..],
        &[(Field::EthType(Inner), 0x86dd), (Field::GtpuSession, 0)],
    ]
    .concat();
    assert_eq!(
        check(&scapy::GTPU_PLAIN_V6, &fields).tunnel(),
        Some((42, 8))
    );
}

#[test]
fn mpls() {
    let fields = [
        &tunnel(TunnelKind::Mpls, 16001)[..],
        &bare(),
        &[
            (Field::EthType(Outer), 0x8847),
            (Field::MplsOuter, 16001 << 12 | 5 << 9 | 63),
            (Field::MplsSecond, 42 << 12 | 0x100 | 62),
        ],
    ]
    .concat();
    let layout = check(&scapy::MPLS_TWO_LABELS, &fields);
    assert_eq!((layout.outer().l3, layout.tunnel()), (0, Some((14, 8))));
    let fields = [
        &tunnel(TunnelKind::Mpls, 100)[..],
        &[
            (Field::VlanTci(Outer), 0x1005),
            (Field::MplsSecond, 0),
            (Field::EthType(Inner), 0x86dd),
        ],
    ]
    .concat();
    check(&scapy::MPLS_V6, &fields);
}

#[test]
fn l4_and_ip_extras() {
    let esp = [
        &tunnel(TunnelKind::Esp, 0xc0ff_ee01)[..],
        &[
            (Field::IpProto(Outer), 50),
            (Field::L4Extra(Outer), 77 << 32),
            (Field::Layers, 1),
        ],
    ]
    .concat();
    assert_eq!(check(&scapy::ESP_V4, &esp).outer().payload, 42);
    let bytes = scapy::SCTP_V4.bytes();
    let sum = u32::from_be_bytes(bytes[42..46].try_into().unwrap());
    check(
        &scapy::SCTP_V4,
        &[(Field::L4Extra(Outer), 0x1122_3344 << 32 | u128::from(sum))],
    );
    check(
        &scapy::ICMP_ECHO,
        &[
            (Field::L4Extra(Outer), 0x1234_0005 << 32),
            (Field::IpExtra(Outer), 0x45be_ef40 << 32),
        ],
    );
    check(
        &scapy::TCP_SYN,
        &[
            (Field::L4Extra(Outer), 0x0102_0304_0506_0708),
            (Field::IpExtra(Outer), 0x45be_ef00 << 32),
            (Field::TcpFlags(Outer), 2),
            (
                Field::Raw,
                u128::from_be_bytes([0, 40, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ),
        ],
    );
    let all = IPV6_EXT_HOP_BY_HOP
        | IPV6_EXT_ROUTING
        | IPV6_EXT_FRAGMENT
        | IPV6_EXT_AUTH
        | IPV6_EXT_DESTINATION;
    let layout = check(
        &scapy::EXTENSIONS_ALL,
        &[
            (
                Field::IpExtra(Outer),
                0xabcde << 44 | u128::from(all) << 32 | 0x0bad_cafe,
            ),
            (Field::IpProto(Outer), 17),
            (Field::L4Dst(Outer), 53),
            (Field::Fragment(Outer), 0),
        ],
    );
    assert_ne!(layout.outer().l4, 0);
}

const V6_2: u128 = 0xfd00 << 112 | 2;

#[test]
fn neighbours() {
    let source = [
        (Field::NdSourceLink, 0x0200_0000_0001),
        (Field::NdSourceLinkPresent, 1),
    ];
    let none = [(Field::NdTargetLink, 0), (Field::NdTargetLinkPresent, 0)];
    let target = [(Field::NdTarget, V6_2)];
    check(
        &scapy::ND_SOLICITATION,
        &[&target[..], &source, &none].concat(),
    );
    check(
        &scapy::ND_ROUTER_SOLICITATION,
        &[&source[..], &none].concat(),
    );
    check(
        &scapy::ND_ROUTER_ADVERTISEMENT,
        &[&source[..], &none].concat(),
    );
    let link = |mac| {
        [
            (Field::NdTargetLink, mac),
            (Field::NdTargetLinkPresent, 1),
            (Field::NdSourceLinkPresent, 0),
        ]
    };
    check(
        &scapy::ND_ADVERTISEMENT,
        &[&target[..], &link(0x0200_0000_0002)].concat(),
    );
    check(
        &scapy::ND_REDIRECT,
        &[
            &[(Field::NdTarget, 0xfe80 << 112 | 9)],
            &link(0x0200_0000_0009)[..],
        ]
        .concat(),
    );
    check(
        &scapy::ARP_REQUEST,
        &[
            (Field::ArpSha, 0x0200_0000_0001),
            (Field::ArpTha, 0x77),
            (Field::L4Dst(Outer), 1),
        ],
    );
}

/// The golden frame with bytes changed.
fn with(frame: &Golden, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    for (at, byte) in changes {
        bytes[*at] = *byte;
    }
    bytes
}

#[test]
fn faults() {
    let cases: [(&str, Vec<u8>, Malformed); 11] = [
        (
            "geneve options beyond the datagram",
            with(&scapy::GENEVE_OPTIONS, &[(42, 0x3f)]),
            Malformed::Geneve,
        ),
        (
            "geneve option beyond the options",
            with(&scapy::GENEVE_OPTIONS, &[(53, 9)]),
            Malformed::Geneve,
        ),
        (
            "gtp-u length beyond the datagram",
            with(&scapy::GTPU_PLAIN_V6, &[(44, 1)]),
            Malformed::Gtpu,
        ),
        (
            "gtp-u empty extension header",
            with(&scapy::GTPU_SESSION, &[(54, 0)]),
            Malformed::Gtpu,
        ),
        (
            "gtp-u extension header beyond the end",
            with(&scapy::GTPU_SESSION, &[(54, 60)]),
            Malformed::Gtpu,
        ),
        (
            "nd option of no length",
            with(&scapy::ND_SOLICITATION, &[(79, 0)]),
            Malformed::NeighbourDiscovery,
        ),
        (
            "nd option beyond the message",
            with(&scapy::ND_SOLICITATION, &[(79, 9)]),
            Malformed::NeighbourDiscovery,
        ),
        (
            "esp cut short",
            with(&scapy::ESP_V4, &[(17, 27)]),
            Malformed::Esp,
        ),
        (
            "gre cut short",
            with(&scapy::GRE_KEY_BRIDGED, &[(17, 27)]),
            Malformed::Gre,
        ),
        (
            "mpls stack without an end",
            with(&scapy::MPLS_TWO_LABELS, &[(20, 0)])[..22].to_vec(),
            Malformed::Mpls,
        ),
        (
            "inner packet of stated type",
            with(&scapy::GRE_ALL_FIELDS, &[(50, 0x55)]),
            Malformed::Ipv4Header,
        ),
    ];
    for (name, bytes, fault) in cases {
        assert_eq!(parsed(&bytes, bytes.len(), &OPTIONS), Err(fault), "{name}");
    }
}

#[test]
fn neighbour_discovery_cut_short_is_a_fault() {
    for (kind, least) in [
        (133, 8),
        (134, 16),
        (135, 24),
        (136, 24),
        (137, 40),
        (128, 4),
    ] {
        for len in 4..44 {
            let mut message = std::vec![0u8; len];
            message[0] = kind;
            let mut frame = frame_of(|f| f.ethernet(M, M).ipv6(1, 2).payload(&message));
            frame[20] = 58;
            let expected = match len {
                _ if len < least => Err(Malformed::NeighbourDiscovery),
                // What follows is an option of no length.
                _ if len > least && kind != 128 => Err(Malformed::NeighbourDiscovery),
                _ => Ok(()),
            };
            let found = parsed(&frame, frame.len(), &OPTIONS).map(|_| ());
            assert_eq!(found, expected, "type {kind}, {len} bytes");
        }
    }
}

#[test]
fn opaque_payloads() {
    // What only looks like IP (here a length that cannot be) is opaque, and so is what nothing says the type of.
    for (frame, change) in [
        (&scapy::MPLS_TWO_LABELS, (24, 0xff)),
        (&scapy::MPLS_TWO_LABELS, (22, 0x15)),
        (&scapy::GTPU_SESSION, (60, 0xff)),
        (&scapy::GTPU_SESSION, (43, 1)),
        (&scapy::GRE_ALL_FIELDS, (34, 0xf0)),
        (&scapy::GPE_IPV4, (45, 4)),
        (&scapy::GENEVE_OPTIONS, (44, 0x88)),
    ] {
        let bytes = with(frame, &[change]);
        let (key, layout) = parsed(&bytes, bytes.len(), &OPTIONS).unwrap();
        assert_eq!(key.get(Field::Layers), 1, "{change:?}");
        assert_ne!(key.get(Field::TunnelKind(Outer)), 0);
        assert!(key.words()[10..18].iter().all(|w| *w == 0));
        assert_eq!(layout.layers[1], LayerLayout::EMPTY);
    }
    // Another version is another protocol.
    for (frame, change) in [
        (&scapy::GRE_ALL_FIELDS, (35, 1)),
        (&scapy::GENEVE_OPTIONS, (42, 0x45)),
        (&scapy::GTPU_SESSION, (42, 0x56)),
        (&scapy::GPE_IPV4, (42, 0x1c)),
        (&scapy::GPE_IPV4, (42, 0x04)),
    ] {
        let bytes = with(frame, &[change]);
        let (key, _) = parsed(&bytes, bytes.len(), &OPTIONS).unwrap();
        assert_eq!(key.get(Field::TunnelKind(Outer)), 0, "{change:?}");
    }
    // Who does not look for tunnels sees none, and no fault in them either.
    for (name, frame) in scapy::ALL {
        let (key, layout) = parsed(&frame.bytes(), frame.frame_len, &ParseOptions::PLAIN).unwrap();
        assert!(!key.has_inner() && !layout.has_inner(), "{name}");
    }
}

#[test]
fn deep_label_stacks_are_opaque() {
    let stack: Vec<u8> = (0..9).flat_map(|i| [0, i, 0, 64]).collect();
    let frame = frame_of(|f| f.ethernet(M, M).ethertype(0x8847, &stack));
    let (key, layout) = parsed(&frame, frame.len(), &OPTIONS).unwrap();
    assert_eq!(key.get(Field::TunnelKind(Outer)), 7);
    assert!(!layout.has_inner());
}

#[test]
fn neighbour_options_do_not_hide_behind_the_capture() {
    let options: Vec<u8> = (0..40).flat_map(|_| [14, 1, 0, 0, 0, 0, 0, 0]).collect();
    for (kind, fields, expected) in [
        (135, 16, Err(Malformed::HeaderTooLong)),
        (136, 16, Err(Malformed::HeaderTooLong)),
        (133, 0, Err(Malformed::HeaderTooLong)),
        (134, 8, Ok(())),
        (137, 32, Ok(())),
    ] {
        let frame = frame_of(|f| {
            let f = f.ethernet(M, M).ipv6(1, 2).icmp(kind, 0, 0);
            f.payload(&[0; 32][..fields]).payload(&options)
        });
        let full = parsed(&frame, frame.len(), &OPTIONS).map(|_| ());
        assert_eq!(full, expected, "type {kind}");
        let part = parsed(&frame[..128], frame.len(), &OPTIONS).map(|_| ());
        assert_eq!(part, Err(Malformed::HeaderTooLong));
    }
}

#[test]
fn raw_bytes_from_every_base() {
    let bytes = scapy::GTPU_SESSION.bytes();
    for (base, at) in [
        (RawBase::L2, 0),
        (RawBase::L3, 14),
        (RawBase::L4, 34),
        (RawBase::TunnelPayload, 58),
    ] {
        let raw = |offset, len| ParseOptions {
            raw: Some(RawExtract { base, offset, len }),
            ..ParseOptions::ALL
        };
        let (key, _) = parsed(&bytes, bytes.len(), &raw(3, 16)).unwrap();
        let expected = u128::from_be_bytes(bytes[at + 3..at + 19].try_into().unwrap());
        assert_eq!(
            (key.get(Field::Raw), key.get(Field::RawPresent)),
            (expected, 1)
        );
        let (key, _) = parsed(&bytes, bytes.len(), &raw(98 - at as u8, 1)).unwrap();
        assert_eq!((key.get(Field::Raw), key.get(Field::RawPresent)), (0, 0));
    }
    // A frame without the base has no such bytes.
    let arp = scapy::ARP_REQUEST.bytes();
    for base in [RawBase::L4, RawBase::TunnelPayload] {
        let options = ParseOptions {
            raw: Some(RawExtract {
                base,
                offset: 0,
                len: 1,
            }),
            ..ParseOptions::ALL
        };
        let (key, _) = parsed(&arp, arp.len(), &options).unwrap();
        assert_eq!(key.get(Field::RawPresent), 0);
    }
}

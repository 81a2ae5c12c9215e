//! Every field of the frames captured from a kernel.

use super::*;
use Layer::Inner;

/// Parses a golden frame and compares every field: those listed, and zero for the others.
fn expect(frame: &golden::Golden, fields: &[(Field, u128)]) -> Layout {
    let (key, layout) = parsed(&frame.bytes(), frame.frame_len, &ParseOptions::VXLAN).unwrap();
    let metadata = [(Field::InPort, 7), (Field::Mark, 8), (Field::Network, 9)];
    for field in Field::ALL {
        let listed = fields.iter().chain(&metadata).find(|(f, _)| *f == field);
        assert_eq!(key.get(field), listed.map_or(0, |(_, v)| *v), "{field:?}");
    }
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
        (Field::TunnelId(Outer), vni),
        (Field::TunnelKind(Outer), 1),
        (Field::Layers, 7),
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

//! Packets described in text against the bytes that Scapy 2.8.0 builds for the same packets.

use proptest::prelude::*;
use sumeru_flow::PacketDescription;
use sumeru_flow::describe::{DescribeError, Layer, MAX_FRAME, MAX_LAYERS};
use sumeru_flow::syntax::SyntaxErrorKind;

const GOLDEN: &[(&str, &str)] = &[
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / gre / eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / \
         udp src 1 dst 2 / payload 3",
        "02000000000202000000000108004500004500000000402f66880a0000010a00000200006558020000000002\
         02000000000108004500001f00000000401166cc0a0000010a00000200010002000be9d1000102",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / gre key 7 / ipv4 src 10.0.0.1 dst 10.0.0.2 / \
         udp src 1 dst 2 / payload 3",
        "02000000000202000000000108004500003b00000000402f66920a0000010a0000022000080000000007450000\
         1f00000000401166cc0a0000010a00000200010002000be9d1000102",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / udp / geneve vni 5 / eth / \
         ipv4 src 10.0.0.1 dst 10.0.0.2 / udp src 1 dst 2 / payload 3",
        "020000000002020000000001080045000051000000004011669a0a0000010a000002c00017c1003db17300006558\
         0000050002000000000202000000000108004500001f00000000401166cc0a0000010a00000200010002000be9d1\
         000102",
    ),
    (
        "eth / mpls tc 1 / mpls label 17 / ipv4 src 10.0.0.1 dst 10.0.0.2 / udp src 1 dst 2",
        "020000000002020000000001884700010240000111404500001c00000000401166cf0a0000010a0000020001\
         00020008ebd8",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / sctp src 1 dst 2 tag 3 / payload 5",
        "02000000000202000000000108004500002500000000408466530a0000010a0000020001000200000003b639aeb9\
         0001020304",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / udp / gtpu teid 5 / ipv4 src 10.0.0.1 dst 10.0.0.2 / \
         udp src 1 dst 2 / payload 2",
        "02000000000202000000000108004500004200000000401166a90a0000010a000002c0000868002e062330ff001e\
         000000054500001e00000000401166cd0a0000010a00000200010002000aebd30001",
    ),
    (
        "eth src 02:00:00:00:00:01 dst 02:00:00:00:00:02 / vlan vid 5 / \
         ipv4 src 10.0.0.1 dst 10.0.0.2 ttl 64 / udp src 1000 dst 53 / payload 32",
        "0200000000020200000000018100000508004500003c00000000401166af0a0000010a00000203e80035\
         0028f67d000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 packet_id 7 fragment_offset 0x4000 tos 16 / \
         tcp src 1000 dst 80 seq 1 ack 2 flags syn|ack window 1024 / payload 3",
        "02000000000202000000000108004510002b00074000400626b40a0000010a00000203e8005000000001\
         000000025012040091910000000102",
    ),
    (
        "eth / ipv6 tc 3 flow 0xabcde / tcp src 1000 dst 443 flags 2",
        "02000000000202000000000186dd603abcde0014064020010db800000000000000000000000120010db8\
         00000000000000000000000203e801bb00000000000000005002ffff4ecb0000",
    ),
    (
        "eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / icmp ident 9 seq 1 / payload 5",
        "02000000000202000000000108004500002100000000400166da0a0000010a0000020800f1f100090001\
         0001020304",
    ),
    (
        "eth / ipv6 src fe80::1 dst fe80::2 hop 255 / icmp6 ident 9 seq 1 / payload hex 0001020304",
        "02000000000202000000000186dd60000000000d3afffe800000000000000000000000000001fe800000\
         00000000000000000000000280007ca5000900010001020304",
    ),
    (
        "eth / arp op 1 sha 02:00:00:00:00:01 spa 10.0.0.1 tpa 10.0.0.2",
        "020000000002020000000001080600010800060400010200000000010a0000010000000000000a000002",
    ),
    (
        "eth / ipv4 / udp / vxlan vni 5 / eth / ipv4 src 10.0.0.1 dst 10.0.0.2 / \
         udp src 1 dst 2 / payload hex C0ffee",
        "020000000002020000000001080045000051000000004011f698c0000201c0000202c00012b5003da3d6\
         080000000000050002000000000202000000000108004500001f00000000401166cc0a0000010a000002\
         00010002000b3cd2c0ffee",
    ),
    (
        "eth / vlan vid 100 pcp 3 / vlan vid 200 dei 1 / ipv6 / udp / payload 1",
        "02000000000202000000000188a86064810010c886dd600000000009114020010db80000000000000000\
         0000000120010db8000000000000000000000002c00000090009e45d00",
    ),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> PacketDescription {
    PacketDescription::parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

#[test]
fn bytes_are_those_of_scapy() {
    for (text, expected) in GOLDEN {
        let packet = parse(text);
        assert_eq!(hex(&packet.to_bytes()), *expected, "{text}");
        assert_eq!(parse(&packet.to_string()), packet, "{text}");
    }
}

#[test]
fn a_bare_ethernet_header_has_an_experimental_type() {
    assert_eq!(
        hex(&parse("eth").to_bytes()),
        "02000000000202000000000188b5"
    );
    assert_eq!(parse("eth").layers().len(), 1);
}

#[test]
fn what_is_given_is_kept() {
    let packet = parse("eth type 0x1234 / ipv4 proto 99 / udp dst 1 / vxlan / eth");
    assert!(matches!(packet.layers()[0], Layer::Eth { ether_type, .. } if ether_type.0 == 0x1234));
    assert!(matches!(packet.layers()[1], Layer::Ipv4 { proto: 99, .. }));
    assert!(matches!(packet.layers()[2], Layer::Udp { dst: 1, .. }));
}

#[test]
fn errors_say_where_and_what() {
    for (text, expected) in [
        ("", "at byte 0: the text ends too early; expected `eth`"),
        ("ipv4", "at byte 0: unexpected `ipv4`; expected `eth`"),
        (
            "eth / tcp",
            "at byte 6: unexpected `tcp`; expected one of: `vlan`, `arp`, `ipv4`, `ipv6`, `mpls`, `payload`",
        ),
        (
            "eth / payload 1 / payload 1",
            "at byte 16: unexpected `/`; expected the end of the line",
        ),
        (
            "eth / vlan vid 4096",
            "at byte 15: unexpected `4096`; expected a number 0 to 4095",
        ),
        (
            "eth / ipv4 / tcp flags syn|no",
            "at byte 23: unexpected `syn|no`; expected TCP flags as `syn|ack` or a number 0 to 0xff",
        ),
        (
            "eth / payload hex abc",
            "at byte 18: unexpected `abc`; expected an even number of hexadecimal digits",
        ),
        (
            "eth / ",
            "at byte 5: the text ends too early; expected one of: `vlan`, `arp`, `ipv4`, `ipv6`, `mpls`, `payload`",
        ),
        (
            "eth / payload 65536",
            "at byte 14: unexpected `65536`; expected one of: `hex`, a number 0 to 65535",
        ),
    ] {
        let error = PacketDescription::parse(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn size_is_limited() {
    let fits = format!("eth / ipv4 / udp / payload {}", MAX_FRAME - 14 - 20 - 8);
    let bytes = parse(&fits).to_bytes();
    assert_eq!(bytes.len(), MAX_FRAME);
    assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]), 65_521);
    let long = format!("eth / ipv4 / udp / payload {}", MAX_FRAME - 14 - 20 - 8 + 1);
    let error = PacketDescription::parse(&long).expect_err("too long");
    assert_eq!(
        error.kind,
        SyntaxErrorKind::Describe(DescribeError::TooLong { found: 65_536 })
    );

    let deep = format!("eth{}", " / vlan".repeat(MAX_LAYERS - 1));
    assert_eq!(parse(&deep).layers().len(), MAX_LAYERS);
    let error = PacketDescription::parse(&format!("{deep} / vlan")).expect_err("too deep");
    assert_eq!(
        error.kind,
        SyntaxErrorKind::Describe(DescribeError::TooManyLayers)
    );
}

/// Sum of all 16-bit words without the final complement; a right checksum makes it 0xffff.
fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut bytes = parts.concat();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes.chunks(2).fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    })
}

proptest! {
    #[test]
    fn checksums_are_right(src: [u8; 4], dst: [u8; 4], port: u16, size in 0usize..200) {
        let dotted = |a: [u8; 4]| std::net::Ipv4Addr::from(a).to_string();
        let (from, to) = (dotted(src), dotted(dst));
        for (name, protocol) in [("tcp", 6), ("udp", 17)] {
            let text = format!("eth / ipv4 src {from} dst {to} / {name} src {port} / payload {size}");
            let bytes = parse(&text).to_bytes();
            prop_assert_eq!(ones_sum(&[&bytes[14..34]]), 0xffff);
            let length = (bytes.len() - 34) as u16;
            let pseudo = [&src[..], &dst, &[0, protocol], &length.to_be_bytes()].concat();
            prop_assert_eq!(ones_sum(&[&pseudo, &bytes[34..]]), 0xffff, "{}", text);
        }
    }
}

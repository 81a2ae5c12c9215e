//! Checks of whole frames for tests: every checksum and length, computed the slow and obvious way.

use crate::checksum::{Checksum, checksum, pseudo_ipv4, pseudo_ipv6};
use crate::crc32c::crc32c;
use crate::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use crate::{FlowKey, L3Kind, LayerLayout, Layout, ParseOptions, parse};

/// Parses with every tunnel; the frame must be valid.
pub fn describe(frame: &[u8]) -> (FlowKey, Layout) {
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    parse(
        frame,
        frame.len(),
        &mut key,
        &mut layout,
        &ParseOptions::TUNNELS,
    )
    .unwrap();
    (key, layout)
}

/// The pseudo-header of a layer whose IP packet ends where its length says.
pub fn pseudo(frame: &[u8], layer: &LayerLayout) -> (Checksum, usize) {
    let ip = &frame[usize::from(layer.l3)..];
    let word = |at: usize| u32::from_be_bytes(ip[at..at + 4].try_into().unwrap());
    let wide = |at: usize| u128::from_be_bytes(ip[at..at + 16].try_into().unwrap());
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            let end = usize::from(layer.l3) + usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let len = end - usize::from(layer.l4);
            (
                pseudo_ipv4(word(12), word(16), layer.l4_proto, len as u32),
                end,
            )
        }
        L3Kind::Ipv6 => {
            let end = usize::from(layer.l3) + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let len = end - usize::from(layer.l4);
            (
                pseudo_ipv6(wide(8), wide(24), layer.l4_proto, len as u32),
                end,
            )
        }
        _ => panic!("not IP"),
    }
}

/// Asserts that every IPv4, TCP, UDP (zero allowed), ICMP and ICMPv6 checksum of the frame holds.
pub fn assert_checksums(frame: &[u8]) {
    let (_, layout) = describe(frame);
    for layer in layout.layers.iter().filter(|l| l.payload != 0) {
        if layer.l3_kind == L3Kind::Ipv4 {
            let header = &frame[usize::from(layer.l3)..usize::from(layer.l3 + layer.l3_len)];
            assert_eq!(checksum(header), 0, "IPv4 header checksum");
        }
        if layer.l4 == 0 || layer.is_fragment() {
            continue;
        }
        let l4 = usize::from(layer.l4);
        let (mut sum, end) = pseudo(frame, layer);
        match layer.l4_proto {
            PROTO_UDP if frame[l4 + 6..l4 + 8] == [0, 0] => continue,
            PROTO_TCP | PROTO_UDP | PROTO_ICMPV6 => {}
            PROTO_ICMP => sum = Checksum::new(),
            PROTO_SCTP => {
                let mut packet = frame[l4..end].to_vec();
                packet[8..12].fill(0);
                assert_eq!(frame[l4 + 8..l4 + 12], crc32c(&packet).to_le_bytes());
                continue;
            }
            _ => continue,
        }
        sum.add(&frame[l4..end]);
        assert_eq!(sum.value(), 0, "checksum of protocol {}", layer.l4_proto);
    }
}

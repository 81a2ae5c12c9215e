//! Address translation of a frame as its connection says: addresses, ports of TCP, UDP and SCTP, identifiers of ICMP queries, and the packet that
//! an ICMP error quotes (RFC 5508, section 4).

use sumeru_packet::edit::{self, Bits, Change, EditError, Ends, Header};
use sumeru_packet::{L3Kind, LayerLayout};

use super::reason;
use crate::conntrack::{Direction, NatBinding, Rewrite, protocol};
use crate::frame::Frame;
use crate::stats::DropReason;

/// Identifier of an ICMP query.
const IDENTIFIER: Bits = Bits {
    header: Header::Icmp,
    offset: 32,
    width: 16,
};

/// Rewrites a frame as a connection says.
///
/// # Errors
/// Why the frame is to be dropped.
pub fn translate(
    frame: &mut Frame,
    binding: &NatBinding,
    direction: Direction,
) -> Result<(), DropReason> {
    let layer = *frame.layout.outer();
    let partial = frame.offload.partial_csum && frame.offload.csum_start == layer.l4;
    let header = frame.header.header_mut();
    let rewrite = binding.rewrite(direction);
    let mut done = || -> Result<(), EditError> {
        addresses(header, &layer, rewrite, partial)?;
        // Later fragments have no ports, and their first takes the checksum of all.
        if !layer.has_l4() {
            return Ok(());
        }
        if !matches!(layer.l4_proto, protocol::ICMP | protocol::ICMPV6) {
            return ports(header, &layer, rewrite, partial);
        }
        match edit::embedded(header, &layer) {
            Some(quote) => {
                let back = match direction {
                    Direction::Original => &binding.embedded_original,
                    Direction::Reply => &binding.embedded_reply,
                };
                let ends = Ends {
                    src: back.src,
                    dst: back.dst,
                    src_port: back.sport,
                    dst_port: back.dport,
                };
                edit::rewrite_embedded(header, &layer, &quote, &ends, partial)
            }
            // An error that quotes too little to be translated.
            None if is_error(header, &layer) => Err(EditError::OutOfRange),
            None => match rewrite.sport {
                Some(id) => {
                    edit::modify(header, &layer, IDENTIFIER, Change::Set, id.into(), partial)
                }
                None => Ok(()),
            },
        }
    };
    done().map_err(reason)
}

fn is_error(header: &[u8], layer: &LayerLayout) -> bool {
    match (layer.l4_proto, header.get(usize::from(layer.l4))) {
        (protocol::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (_, Some(kind)) => *kind < 128,
        _ => true,
    }
}

fn addresses(
    header: &mut [u8],
    layer: &LayerLayout,
    rewrite: &Rewrite,
    partial: bool,
) -> Result<(), EditError> {
    let v4 = layer.l3_kind == L3Kind::Ipv4;
    match rewrite.src {
        Some(address) if v4 => edit::set_ipv4_src(header, layer, address as u32, partial)?,
        Some(address) => edit::set_ipv6_src(header, layer, address, partial)?,
        None => {}
    }
    match rewrite.dst {
        Some(address) if v4 => edit::set_ipv4_dst(header, layer, address as u32, partial),
        Some(address) => edit::set_ipv6_dst(header, layer, address, partial),
        None => Ok(()),
    }
}

fn ports(
    header: &mut [u8],
    layer: &LayerLayout,
    rewrite: &Rewrite,
    partial: bool,
) -> Result<(), EditError> {
    if let Some(port) = rewrite.sport {
        edit::set_l4_src(header, layer, port, partial)?;
    }
    if let Some(port) = rewrite.dport {
        edit::set_l4_dst(header, layer, port, partial)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumeru_packet::build::FrameBuilder;
    use sumeru_packet::{FlowKey, Layout, ParseOptions, parse};

    type Built = Vec<u8>;

    fn build(headers: impl for<'a> FnOnce(FrameBuilder<'a>) -> FrameBuilder<'a>) -> Built {
        let mut bytes = vec![0; 512];
        let len = headers(FrameBuilder::new(&mut bytes)).finish().unwrap();
        bytes.truncate(len);
        bytes
    }

    fn frame(bytes: &[u8]) -> Frame {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        parse(
            bytes,
            bytes.len(),
            &mut key,
            &mut layout,
            &ParseOptions::PLAIN,
        )
        .unwrap();
        let mut frame = Frame {
            key,
            layout,
            len: bytes.len() as u32,
            ..Frame::new()
        };
        frame.header.load(bytes);
        frame
    }

    /// IPv4 for a small number, IPv6 for a large one.
    fn packet(
        (src, dst): (u128, u128),
        rest: impl for<'a> FnOnce(FrameBuilder<'a>) -> FrameBuilder<'a>,
    ) -> Built {
        build(|f| {
            let f = f.ethernet([2; 6], [4; 6]);
            rest(match u32::try_from(src) {
                Ok(src) => f.ipv4(src, dst as u32),
                Err(_) => f.ipv6(src, dst),
            })
        })
    }

    const V4: [u128; 4] = [0x0a00_0001, 0x0a00_0002, 0xc000_0201, 0xc000_02fe];
    const V6: [u128; 4] = [
        (0xfd << 120) + 1,
        (0xfd << 120) + 2,
        (0x2001 << 112) + 1,
        (0x2001 << 112) + 9,
    ];

    /// The opener's address and source port become others.
    fn source_nat(opener: u128, port: u16, outside: u128, outside_port: u16) -> NatBinding {
        let out = Rewrite {
            src: Some(outside),
            sport: Some(outside_port),
            ..Rewrite::default()
        };
        let back = Rewrite {
            dst: Some(opener),
            dport: Some(port),
            ..Rewrite::default()
        };
        // The packet in an error towards the opener is the opener's, and in one from the opener the answer to him.
        let quoted_own = Rewrite {
            src: Some(opener),
            sport: Some(port),
            ..Rewrite::default()
        };
        let quoted_answer = Rewrite {
            dst: Some(outside),
            dport: Some(outside_port),
            ..Rewrite::default()
        };
        NatBinding {
            original: out,
            reply: back,
            embedded_original: quoted_answer,
            embedded_reply: quoted_own,
        }
    }

    fn translated(bytes: &[u8], binding: &NatBinding, direction: Direction) -> Built {
        let mut frame = frame(bytes);
        translate(&mut frame, binding, direction).unwrap();
        frame.header.header().to_vec()
    }

    #[test]
    fn identifiers_of_queries_are_translated() {
        for [a, b, outside, _] in [V4, V6] {
            let query = |src, id| packet((src, b), |f| f.echo_request(id, 7).payload(b"ping pong"));
            let mut binding = source_nat(a, 500, outside, 777);
            assert_eq!(
                translated(&query(a, 500), &binding, Direction::Original),
                query(outside, 777)
            );
            // Of answers the identifier is the source port too.
            binding.reply.sport = Some(500);
            binding.reply.dport = None;
            let kind = if a == V4[0] { 0 } else { 129 };
            let answer = |dst, id: u32| {
                packet((b, dst), |f| {
                    f.icmp(kind, 0, id << 16 | 7).payload(b"ping pong")
                })
            };
            assert_eq!(
                translated(&answer(outside, 777), &binding, Direction::Reply),
                answer(a, 500)
            );
        }
    }

    #[test]
    fn the_packet_in_an_error_is_translated_back() {
        for [a, b, outside, router] in [V4, V6] {
            let (unreachable, exceeded) = if a == V4[0] { (3, 11) } else { (1, 3) };
            let binding = source_nat(a, 500, outside, 777);
            let quoted = |src, port| {
                let whole = packet((src, b), |f| {
                    f.udp(port, 53).payload(b"what is the address")
                });
                whole[14..].to_vec()
            };
            // From a router on the way, to the opener.
            let error = |dst, quote: Built| {
                packet((router, dst), |f| f.icmp(exceeded, 0, 0).payload(&quote))
            };
            let came = error(outside, quoted(outside, 777));
            assert_eq!(
                translated(&came, &binding, Direction::Reply),
                error(a, quoted(a, 500))
            );
            // From the opener, about an answer.
            let answer = |dst, port| {
                let whole = packet((b, dst), |f| f.udp(53, port).payload(b"this is"));
                whole[14..].to_vec()
            };
            let refusal =
                |src, quote: Built| packet((src, b), |f| f.icmp(unreachable, 3, 0).payload(&quote));
            let went = refusal(a, answer(a, 500));
            assert_eq!(
                translated(&went, &binding, Direction::Original),
                refusal(outside, answer(outside, 777))
            );
            // Too little of it is quoted to tell.
            let short = error(outside, quoted(outside, 777)[..22].to_vec());
            assert!(translate(&mut frame(&short), &binding, Direction::Reply).is_err());
        }
    }

    /// RFC 9260 appendix A, bit by bit.
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    #[test]
    fn sctp_is_translated_with_its_checksum() {
        let association = |src: u32, port: u16| {
            let mut sctp = [
                &port.to_be_bytes()[..],
                &[0x0b, 0x59, 1, 2, 3, 4, 0, 0, 0, 0, 11, 0, 0, 4],
            ]
            .concat();
            let sum = crc32c(&sctp).to_le_bytes();
            sctp[8..12].copy_from_slice(&sum);
            let mut packet = packet((src.into(), V4[1]), |f| f.payload(&sctp));
            // The builder names no protocol for bare bytes.
            packet[23] = 132;
            packet[24..26].fill(0);
            let sum = sumeru_packet::checksum::checksum(&packet[14..34]).to_be_bytes();
            packet[24..26].copy_from_slice(&sum);
            packet
        };
        let binding = source_nat(V4[0], 500, V4[2], 777);
        let out = translated(
            &association(V4[0] as u32, 500),
            &binding,
            Direction::Original,
        );
        assert_eq!(out, association(V4[2] as u32, 777));
    }
}

//! From layers to bytes: headers are put in front of what follows them, innermost first, so that
//! every length and checksum covers what is already there. Simple rather than fast.

use super::layer::Layer;
use crate::model::FieldValue;

/// The frame of these layers. The caller has checked that no length field overflows.
pub(super) fn build(layers: &[Layer]) -> Vec<u8> {
    let mut frame = Vec::new();
    for (index, layer) in layers.iter().enumerate().rev() {
        let below = index.checked_sub(1).map(|below| &layers[below]);
        let mut header = header(layer, below, &frame);
        header.append(&mut frame);
        frame = header;
    }
    frame
}

/// The bytes of one layer in front of `rest`.
fn header(layer: &Layer, below: Option<&Layer>, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(layer.length() + rest.len());
    match layer {
        Layer::Eth {
            dst,
            src,
            ether_type,
        } => {
            out.extend(dst.0);
            out.extend(src.0);
            out.extend(ether_type.0.to_be_bytes());
        }
        Layer::Vlan {
            vid,
            pcp,
            dei,
            inner_type,
        } => {
            let tci = u16::from(pcp.get()) << 13 | u16::from(*dei) << 12 | vid.get();
            out.extend(tci.to_be_bytes());
            out.extend(inner_type.0.to_be_bytes());
        }
        Layer::Arp {
            op,
            sha,
            spa,
            tha,
            tpa,
        } => {
            // Hardware type Ethernet, protocol type IPv4, their address lengths.
            out.extend([0, 1, 8, 0, 6, 4]);
            out.extend(op.to_be_bytes());
            out.extend(sha.0);
            out.extend(spa.octets());
            out.extend(tha.0);
            out.extend(tpa.octets());
        }
        Layer::Ipv4 {
            src,
            dst,
            ttl,
            tos,
            packet_id,
            fragment_offset,
            proto,
        } => {
            out.extend([0x45, *tos]);
            out.extend(length16(20 + rest.len()));
            out.extend(packet_id.to_be_bytes());
            out.extend(fragment_offset.to_be_bytes());
            out.extend([*ttl, *proto, 0, 0]);
            out.extend(src.octets());
            out.extend(dst.octets());
            let sum = checksum(&[&out]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Layer::Ipv6 {
            src,
            dst,
            hop,
            tc,
            flow,
            proto,
        } => {
            let first = 6 << 28 | u32::from(*tc) << 20 | flow.get();
            out.extend(first.to_be_bytes());
            out.extend(length16(rest.len()));
            out.extend([*proto, *hop]);
            out.extend(src.octets());
            out.extend(dst.octets());
        }
        Layer::Tcp {
            src,
            dst,
            seq,
            ack,
            flags,
            window,
        } => {
            out.extend(src.to_be_bytes());
            out.extend(dst.to_be_bytes());
            out.extend(seq.to_be_bytes());
            out.extend(ack.to_be_bytes());
            // Data offset of five words.
            out.extend([0x50, flags.0]);
            out.extend(window.to_be_bytes());
            out.extend([0; 4]);
            let sum = checksum(&[&pseudo_header(below, 6, 20 + rest.len()), &out, rest]);
            out[16..18].copy_from_slice(&sum.to_be_bytes());
        }
        Layer::Udp { src, dst } => {
            out.extend(src.to_be_bytes());
            out.extend(dst.to_be_bytes());
            out.extend(length16(8 + rest.len()));
            out.extend([0; 2]);
            let sum = match checksum(&[&pseudo_header(below, 17, 8 + rest.len()), &out, rest]) {
                // RFC 768: zero means that there is none, so zero is sent as all ones.
                0 => 0xffff,
                sum => sum,
            };
            out[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        Layer::Icmp {
            icmp_type,
            code,
            ident,
            seq,
        } => {
            echo(&mut out, *icmp_type, *code, *ident, *seq);
            let sum = checksum(&[&out, rest]);
            out[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        Layer::Icmp6 {
            icmp_type,
            code,
            ident,
            seq,
        } => {
            echo(&mut out, *icmp_type, *code, *ident, *seq);
            let sum = checksum(&[&pseudo_header(below, 58, 8 + rest.len()), &out, rest]);
            out[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        Layer::Vxlan { vni, flags } => {
            out.extend([*flags, 0, 0, 0]);
            let word = (vni.to_bits() as u32) << 8;
            out.extend(word.to_be_bytes());
        }
        Layer::Sctp { src, dst, tag } => {
            out.extend(src.to_be_bytes());
            out.extend(dst.to_be_bytes());
            out.extend(tag.to_be_bytes());
            let sum = crc32c(&[&out, &[0; 4], rest]);
            // The checksum stands with its least significant byte first (RFC 9260, appendix A).
            out.extend(sum.to_le_bytes());
        }
        Layer::Gre { protocol, key } => {
            let flags: u16 = if *key == 0 { 0 } else { 0x2000 };
            out.extend(flags.to_be_bytes());
            out.extend(protocol.0.to_be_bytes());
            if *key != 0 {
                out.extend(key.to_be_bytes());
            }
        }
        Layer::Mpls { label, tc, s, ttl } => {
            let word =
                label.get() << 12 | u32::from(tc.get()) << 9 | u32::from(*s) << 8 | u32::from(*ttl);
            out.extend(word.to_be_bytes());
        }
        Layer::Geneve { vni, protocol } => {
            out.extend([0, 0]);
            out.extend(protocol.0.to_be_bytes());
            out.extend((vni.get() << 8).to_be_bytes());
        }
        Layer::Gtpu { teid } => {
            // Version 1, GTP, no options; a G-PDU.
            out.extend([0x30, 0xff]);
            out.extend(length16(rest.len()));
            out.extend(teid.to_be_bytes());
        }
        Layer::Payload(bytes) => out.extend(bytes),
    }
    out
}

fn echo(out: &mut Vec<u8>, icmp_type: u8, code: u8, ident: u16, seq: u16) {
    out.extend([icmp_type, code, 0, 0]);
    out.extend(ident.to_be_bytes());
    out.extend(seq.to_be_bytes());
}

/// A length field. Frames are at most 65,535 bytes long, so the value is exact.
fn length16(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

/// Pseudo header of RFC 9293, section 3.1 (IPv4) and RFC 8200, section 8.1 (IPv6).
fn pseudo_header(below: Option<&Layer>, protocol: u8, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    match below {
        Some(Layer::Ipv4 { src, dst, .. }) => {
            out.extend(src.octets());
            out.extend(dst.octets());
            out.extend([0, protocol]);
            out.extend(length16(length));
        }
        Some(Layer::Ipv6 { src, dst, .. }) => {
            out.extend(src.octets());
            out.extend(dst.octets());
            out.extend((length as u32).to_be_bytes());
            out.extend([0, 0, 0, protocol]);
        }
        _ => {}
    }
    out
}

/// CRC32c (RFC 9260, appendix A) of the parts one after the other.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// Internet checksum (RFC 1071) of the parts one after the other. Only the last part may have an odd
/// length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words
        .map(|word| match word {
            [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            _ => u64::from(word[0]) << 8,
        })
        .sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}

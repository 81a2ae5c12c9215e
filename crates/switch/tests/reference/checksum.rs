//! Internet checksums (RFC 1071) from scratch, over all bytes that are there.
//!
//! What was wrong stays as wrong as it was: a switch does not repair what it forwards, and the checksum of a first fragment is over bytes that are
//! not here. So a sum is taken before a change and after it, and the field is set so that both are the same.

use super::headers::{Headers, Network, u16_at};

/// One's complement sum of 16-bit words, the last one padded, as a number of 0 to 65534 (0xffff is 0).
fn residue(parts: &[&[u8]]) -> u32 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
    }
    (sum % 0xffff) as u32
}

/// A checksum's field, and whether zero means that there is none.
fn transport_field(bytes: &[u8], headers: &Headers) -> Option<usize> {
    let offset = match (headers.proto, headers.network) {
        _ if !headers.has_l4 => return None,
        (6, _) => 16,
        (17, _) => 6,
        (58, Network::Ipv6) => 2,
        _ => return None,
    };
    let at = headers.l4 + offset;
    (headers.proto != 17 || u16_at(bytes, at) != 0).then_some(at)
}

fn network_sum(bytes: &[u8], headers: &Headers) -> u32 {
    match headers.network {
        Network::Ipv4 => {
            let len = usize::from(bytes[headers.l3] & 15) * 4;
            residue(&[&bytes[headers.l3..headers.l3 + len]])
        }
        _ => 0,
    }
}

/// The sum over pseudo-header and packet (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn transport_sum(bytes: &[u8], headers: &Headers) -> u32 {
    let l3 = headers.l3;
    let addresses = match headers.network {
        Network::Ipv4 => &bytes[l3 + 12..l3 + 20],
        // The final destination of a packet that is on its way is in the routing header.
        _ if headers.routed => &bytes[l3 + 8..l3 + 24],
        _ => &bytes[l3 + 8..l3 + 40],
    };
    residue(&[addresses, &bytes[headers.l4..headers.end]])
}

/// The sums of a frame's headers.
#[derive(Clone, Copy)]
pub struct Sums {
    network: u32,
    transport: u32,
}

/// The sums as they are. Of a sound packet the first is 0 and the second what protocol number and length leave, for they are not in it.
pub fn sums(bytes: &[u8], headers: &Headers) -> Sums {
    Sums {
        network: network_sum(bytes, headers),
        transport: match transport_field(bytes, headers) {
            Some(_) => transport_sum(bytes, headers),
            None => 0,
        },
    }
}

/// Sets the checksums so that the sums are these.
pub fn restore(bytes: &mut [u8], headers: &Headers, wanted: Sums) {
    if headers.network == Network::Ipv4 {
        set(bytes, headers.l3 + 10, wanted.network, false, |bytes| {
            network_sum(bytes, headers)
        });
    }
    if let Some(at) = transport_field(bytes, headers) {
        let udp = headers.proto == 17;
        set(bytes, at, wanted.transport, udp, |bytes| {
            transport_sum(bytes, headers)
        });
    }
}

/// Sets the checksums as a sender does.
pub fn fill(bytes: &mut [u8], headers: &Headers) {
    let len = match headers.proto {
        _ if headers.end < headers.l4 => 0,
        _ => (headers.end - headers.l4) as u32,
    };
    let transport = (2 * 0xffff - (u32::from(headers.proto) + len) % 0xffff) % 0xffff;
    let wanted = Sums {
        network: 0,
        transport,
    };
    restore(bytes, headers, wanted);
}

fn set(bytes: &mut [u8], at: usize, wanted: u32, udp: bool, sum: impl Fn(&[u8]) -> u32) {
    bytes[at..at + 2].fill(0);
    let value = ((wanted + 0xffff - sum(bytes)) % 0xffff) as u16;
    // Of the two zeros of one's complement, UDP has the one that does not say "none".
    let value = if udp && value == 0 { 0xffff } else { value };
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

//! The frames that the generator sends: Ethernet (IEEE 802.3), IPv4 (RFC 791), UDP (RFC 768), and the same inside of VXLAN (RFC 7348).
//!
//! Written from the standards, on its own: it uses nothing of the packet room. UDP checksums over IPv4 are left out (0, RFC 768), so that
//! varying a field costs one header sum. It parses nothing but what [`super::port`] has to answer: ARP requests (RFC 826).

use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of a VXLAN header.
pub const VXLAN_LEN: usize = 8;
/// Bytes that VXLAN over IPv4 puts before the inner frame.
pub const OUTER_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN;
/// VXLAN's UDP port (RFC 7348, section 8).
pub const VXLAN_PORT: u16 = 4789;
const TTL: u8 = 64;
const PROTOCOL_UDP: u8 = 17;

/// Who sends what to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Destination and source on the link.
    pub mac: [Mac; 2],
    /// Source and destination.
    pub ipv4: [Ipv4Addr; 2],
    /// Source and destination.
    pub udp: [u16; 2],
}

/// A UDP frame of `len` bytes without frame check sequence, payload zero; at least the headers' 42 bytes.
pub fn udp(addresses: &Addresses, len: usize) -> Vec<u8> {
    let len = len.max(ETHERNET_LEN + IPV4_LEN + UDP_LEN);
    let mut frame = vec![0; len];
    write_headers(&mut frame, addresses);
    frame
}

/// `inner` in VXLAN over IPv4. The outer UDP ports are those of `outer`.
pub fn vxlan(outer: &Addresses, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; OUTER_LEN + inner.len()];
    write_headers(&mut frame, outer);
    let header = OUTER_LEN - VXLAN_LEN;
    // Flags: the VNI is valid; the VNI is the upper 24 bits of the second word.
    frame[header] = 0x08;
    frame[header + 4..header + 8].copy_from_slice(&(vni << 8).to_be_bytes());
    frame[OUTER_LEN..].copy_from_slice(inner);
    frame
}

fn write_headers(frame: &mut [u8], addresses: &Addresses) {
    let ip_len = (frame.len() - ETHERNET_LEN) as u16;
    frame[..6].copy_from_slice(&addresses.mac[0]);
    frame[6..12].copy_from_slice(&addresses.mac[1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[ETHERNET_LEN..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    // Don't fragment, as tunnels and most hosts send.
    ip[6] = 0x40;
    ip[8] = TTL;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&addresses.ipv4[0].octets());
    ip[16..20].copy_from_slice(&addresses.ipv4[1].octets());
    let udp = &mut ip[IPV4_LEN..];
    udp[..2].copy_from_slice(&addresses.udp[0].to_be_bytes());
    udp[2..4].copy_from_slice(&addresses.udp[1].to_be_bytes());
    udp[4..6].copy_from_slice(&(ip_len - IPV4_LEN as u16).to_be_bytes());
    set_ipv4_checksum(frame, ETHERNET_LEN);
}

/// Sums the IPv4 header of 20 bytes at `at` anew.
#[inline]
pub fn set_ipv4_checksum(frame: &mut [u8], at: usize) {
    frame[at + 10..at + 12].fill(0);
    let sum = !ones_sum(&frame[at..at + IPV4_LEN]);
    frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Whether the sum of the IPv4 header of 20 bytes at `at` is right; not if there are fewer.
pub fn ipv4_checksum_is_right(frame: &[u8], at: usize) -> bool {
    frame
        .get(at..at + IPV4_LEN)
        .is_some_and(|header| ones_sum(header) == 0xffff)
}

/// The ones' complement sum of RFC 1071 over an IPv4 header.
#[inline]
fn ones_sum(header: &[u8]) -> u16 {
    let sum: u64 = header
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// The answer to an ARP request for `address`, from `mac`; none for anything else.
pub fn arp_answer(frame: &[u8], address: Ipv4Addr, mac: Mac) -> Option<Vec<u8>> {
    let body = frame.get(ETHERNET_LEN..ETHERNET_LEN + 28)?;
    // Ethernet, IPv4, request.
    if frame[12..14] != [0x08, 0x06]
        || body[..8] != [0, 1, 8, 0, 6, 4, 0, 1]
        || body[24..28] != address.octets()
    {
        return None;
    }
    let mut answer = vec![0; 60];
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&mac);
    answer[12..14].copy_from_slice(&[0x08, 0x06]);
    answer[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    answer[22..28].copy_from_slice(&mac);
    answer[28..32].copy_from_slice(&address.octets());
    answer[32..42].copy_from_slice(&body[8..18]);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: Addresses = Addresses {
        mac: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
        ipv4: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)],
        udp: [4660, 53],
    };

    /// From scapy: `Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2", id=0, flags="DF")
    /// / UDP(sport=4660, dport=53, chksum=0)`, with four bytes of payload.
    const UDP: &str = "02000000000202000000000108004500002000004000401126cb0a0000010a00000212340035000c000000000000";
    /// From scapy: the same without payload inside of `... / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=0x10203, flags=8)`.
    const VXLAN: &str = "02000000000202000000000108004500004e000040004011269d0a0000010a000002c35012b5003a0000\
                         0800000001020300\
                         02000000000202000000000108004500001c00004000401126cf0a0000010a0000021234003500080000";

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] << 4 | pair[1]) as u8)
            .collect()
    }

    #[test]
    fn bytes_are_those_of_scapy() {
        assert_eq!(udp(&ADDRESSES, 46), hex(UDP));
        let outer = Addresses {
            udp: [50000, VXLAN_PORT],
            ..ADDRESSES
        };
        assert_eq!(vxlan(&outer, 0x0001_0203, &udp(&ADDRESSES, 0)), hex(VXLAN));
        let mut varied = udp(&ADDRESSES, 46);
        varied[33] = 9;
        set_ipv4_checksum(&mut varied, ETHERNET_LEN);
        assert_eq!(
            varied[24..26],
            [0x26, 0xc4],
            "7 more in the address is 7 less in the sum"
        );
    }

    #[test]
    fn only_a_request_for_the_address_is_answered() {
        let mut request = hex(
            "ffffffffffff020000000001080600010800060400010200000000010a0000010000000000000a000002",
        );
        let mac = [2, 0, 0, 0, 0, 9];
        let answer = arp_answer(&request, ADDRESSES.ipv4[1], mac).unwrap();
        assert_eq!(
            answer[..42],
            hex(
                "020000000001020000000009080600010800060400020200000000090a0000020200000000010a000001"
            )
        );
        assert!(arp_answer(&request, ADDRESSES.ipv4[0], mac).is_none());
        assert!(arp_answer(&request[..41], ADDRESSES.ipv4[1], mac).is_none());
        request[21] = 2;
        assert!(arp_answer(&request, ADDRESSES.ipv4[1], mac).is_none());
    }
}

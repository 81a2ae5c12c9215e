//! Router advertisements (RFC 4861 section 4.2) with link-layer address, MTU, prefixes (section 4.6) and recursive DNS servers
//! (RFC 8106 section 5.1).

use core::net::Ipv6Addr;

use zerocopy::big_endian::{U16, U32};

use super::{BuildError, FrameBuilder};
use crate::view::Ipv6;

/// Most prefixes of an advertisement.
pub const PREFIXES_MAX: usize = 6;
/// Most DNS servers of an advertisement.
pub const DNS_SERVERS_MAX: usize = 4;

/// A prefix of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The prefix; bits beyond its length are sent as zero.
    pub address: Ipv6Addr,
    /// Its length, 0..=128.
    pub len: u8,
    /// Hosts in it are reached without a router.
    pub on_link: bool,
    /// Hosts may make themselves an address in it.
    pub autonomous: bool,
    /// Seconds that it is valid.
    pub valid: u32,
    /// Seconds that its addresses are preferred.
    pub preferred: u32,
}

/// What a router tells the hosts of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement<'a> {
    /// Hop limit for hosts to send with; 0 for none.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// Seconds to use it as the default router; 0 for not.
    pub lifetime: u16,
    /// The link's MTU.
    pub mtu: Option<u32>,
    /// Prefixes, at most [`PREFIXES_MAX`].
    pub prefixes: &'a [Prefix],
    /// Recursive DNS servers, at most [`DNS_SERVERS_MAX`].
    pub dns_servers: &'a [Ipv6Addr],
    /// Seconds that the DNS servers may be used.
    pub dns_lifetime: u32,
}

/// Builds an advertisement from the router at `source` (a link-local address) and `source_mac`, to a host or to all nodes
/// (`ff02::1`, 33:33:00:00:00:01).
///
/// # Errors
/// [`BuildError::NoSpace`], also for too many prefixes or servers.
pub fn router_advertisement(
    out: &mut [u8],
    source_mac: [u8; 6],
    source: Ipv6Addr,
    receiver_mac: [u8; 6],
    receiver: Ipv6Addr,
    what: &RouterAdvertisement<'_>,
) -> Result<usize, BuildError> {
    if what.prefixes.len() > PREFIXES_MAX || what.dns_servers.len() > DNS_SERVERS_MAX {
        return Err(BuildError::NoSpace);
    }
    let rest = u32::from(what.hop_limit) << 24
        | u32::from(what.managed) << 23
        | u32::from(what.other) << 22
        | u32::from(what.lifetime);
    let [a, b, c, d, e, f] = source_mac;
    let mut frame = FrameBuilder::new(out)
        .ethernet(receiver_mac, source_mac)
        .ipv6_header(Ipv6 {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(0),
            next: 0,
            // Receivers drop advertisements that were forwarded (RFC 4861 section 6.1.2).
            hop_limit: 255,
            src: source.octets(),
            dst: receiver.octets(),
        })
        .icmp(134, 0, rest)
        // Reachable time and retransmission timer: unspecified. Then the source link-layer address.
        .payload(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, a, b, c, d, e, f]);
    if let Some(mtu) = what.mtu {
        let [a, b, c, d] = mtu.to_be_bytes();
        frame = frame.payload(&[5, 1, 0, 0, a, b, c, d]);
    }
    for prefix in what.prefixes {
        frame = frame.payload(&prefix_option(prefix));
    }
    if !what.dns_servers.is_empty() {
        let mut option = [0u8; 8 + 16 * DNS_SERVERS_MAX];
        option[0] = 25;
        option[1] = 1 + 2 * what.dns_servers.len() as u8;
        option[4..8].copy_from_slice(&what.dns_lifetime.to_be_bytes());
        for (place, server) in option[8..].chunks_mut(16).zip(what.dns_servers) {
            place.copy_from_slice(&server.octets());
        }
        frame = frame.payload(&option[..8 + 16 * what.dns_servers.len()]);
    }
    frame.finish()
}

fn prefix_option(prefix: &Prefix) -> [u8; 32] {
    let mut option = [0u8; 32];
    let len = prefix.len.min(128);
    option[..4].copy_from_slice(&[
        3,
        4,
        len,
        u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6,
    ]);
    option[4..8].copy_from_slice(&prefix.valid.to_be_bytes());
    option[8..12].copy_from_slice(&prefix.preferred.to_be_bytes());
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    option[16..].copy_from_slice(&(prefix.address.to_bits() & mask).to_be_bytes());
    option
}

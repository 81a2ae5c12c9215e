//! What routers say of the path to a remote: "fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC 4443 section 3.2, RFC 8201)
//! about tunnel packets of this node.
//!
//! Anybody can send such messages. One counts only if it quotes a packet that this node could have sent to a remote that it tunnels to, it
//! only ever lowers what is known, and what it said is forgotten after ten minutes (RFC 1191 section 6.3, RFC 8201 section 4); how many count per
//! second is limited too. One is not believed that leaves less than IPv6's least MTU inside the tunnel: the underlay has to carry that. So the worst
//! that a forged one does is to make the packets of one remote smaller for a while, down to those 1280 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes;
use crate::edit::IPV6_LEAST_MTU;
use crate::snapshot::Underlay;
use crate::translate::GENEVE_PORT;

/// Seconds that a path MTU is remembered.
pub const LIFETIME: u32 = 600;
/// Messages per second and lcore that count.
pub const PER_SECOND: u8 = 16;
/// First source port of our tunnels.
const PORT_FIRST: u16 = 49152;
/// MTUs to try after a router that names none (RFC 1191 section 7.1).
const PLATEAUS: [u16; 6] = [32000, 17914, 8166, 4352, 2002, 1492];

const UDP: u8 = 17;
const GRE: u8 = 47;

/// The remote and the MTU of an ICMP message, from its type on, checksum verified.
pub(super) fn reported4(message: &[u8], underlay: &Underlay) -> Option<(IpAddr, u16)> {
    if message.get(..2)? != [3, 4] {
        return None;
    }
    let quote = message.get(8..)?;
    let first = *quote.first()?;
    let ihl = usize::from(first & 0xf) * 4;
    let total = u16::from_be_bytes(bytes(quote, 2)?);
    let source = Ipv4Addr::from(bytes::<4>(quote, 12)?);
    let remote = Ipv4Addr::from(bytes::<4>(quote, 16)?);
    let ours = first >> 4 == 4 && ihl >= 20 && underlay.owns(source.into());
    let least = 20 + carrying_least(*quote.get(9)?, quote.get(ihl..)?, underlay)?;
    let mtu = match u16::from_be_bytes(bytes(message, 6)?) {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < total)?,
        mtu => mtu,
    };
    (ours && (least..total).contains(&mtu)).then(|| (remote.into(), mtu))
}

/// The same of an ICMPv6 message.
pub(super) fn reported6(message: &[u8], underlay: &Underlay) -> Option<(IpAddr, u16)> {
    if message.get(..2)? != [2, 0] {
        return None;
    }
    let quote = message.get(8..)?;
    let total = u32::from(u16::from_be_bytes(bytes(quote, 4)?)) + 40;
    let source = Ipv6Addr::from(bytes::<16>(quote, 8)?);
    let remote = Ipv6Addr::from(bytes::<16>(quote, 24)?);
    let ours = quote.first()? >> 4 == 6 && underlay.owns(source.into());
    let least = 40 + carrying_least(*quote.get(6)?, quote.get(40..)?, underlay)?;
    let mtu = u16::try_from(u32::from_be_bytes(bytes(message, 4)?)).ok()?;
    (ours && mtu >= least && u32::from(mtu) < total).then(|| (remote.into(), mtu))
}

/// If this is the start of what a tunnel of this node carries: bytes behind the IP header with which an IPv6 packet of the least MTU is in it.
fn carrying_least(proto: u8, l4: &[u8], underlay: &Underlay) -> Option<u16> {
    let word = |at| bytes(l4, at).map(u16::from_be_bytes);
    let headers = match proto {
        UDP => {
            let ours = word(0)? >= PORT_FIRST;
            let port = word(2)?;
            (ours && (port == underlay.vxlan_port || port == GENEVE_PORT)).then_some(16)
        }
        // With a key around Ethernet.
        GRE => ((word(0)?, word(2)?) == (0x2000, 0x6558)).then_some(8),
        _ => None,
    };
    headers.map(|headers: u16| headers + 14 + IPV6_LEAST_MTU as u16)
}

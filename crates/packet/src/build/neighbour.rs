//! Address resolution: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861 sections 4.3, 4.4, 4.6.1). Frames are
//! built, never interpreted.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::{BuildError, FrameBuilder};
use crate::view::{Arp, Ipv6};

/// Length of an ARP frame in bytes, without padding.
pub const ARP_LEN: usize = 42;
/// Length of a neighbour solicitation or advertisement frame in bytes.
pub const NEIGHBOUR_LEN: usize = 86;

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;
const BROADCAST: [u8; 6] = [0xff; 6];

fn arp(
    opcode: u16,
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
) -> Arp {
    Arp {
        hardware: U16::new(1),
        protocol: U16::new(0x0800),
        hardware_len: 6,
        protocol_len: 4,
        opcode: U16::new(opcode),
        sender_mac,
        sender_ip: U32::new(sender.to_bits()),
        target_mac,
        target_ip: U32::new(target.to_bits()),
    }
}

/// A broadcast question for the MAC address of `target`. Returns [`ARP_LEN`].
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn arp_request(
    frame: &mut [u8],
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Result<usize, BuildError> {
    let packet = arp(ARP_REQUEST, sender_mac, sender, [0; 6], target);
    FrameBuilder::new(frame)
        .ethernet(BROADCAST, sender_mac)
        .arp(&packet)
        .finish()
}

/// The answer to the one who asked. Returns [`ARP_LEN`].
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn arp_reply(
    frame: &mut [u8],
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
) -> Result<usize, BuildError> {
    let packet = arp(ARP_REPLY, sender_mac, sender, target_mac, target);
    FrameBuilder::new(frame)
        .ethernet(target_mac, sender_mac)
        .arp(&packet)
        .finish()
}

/// Flags of a neighbour advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NeighbourFlags {
    /// The sender is a router.
    pub router: bool,
    /// The advertisement answers a solicitation.
    pub solicited: bool,
    /// The receiver should replace what it knows.
    pub override_known: bool,
}

fn neighbour(
    frame: &mut [u8],
    macs: ([u8; 6], [u8; 6]),
    addresses: (Ipv6Addr, Ipv6Addr),
    message: (u8, u32),
    target: Ipv6Addr,
    option: (u8, [u8; 6]),
) -> Result<usize, BuildError> {
    let header = Ipv6 {
        version_class_flow: U32::new(6 << 28),
        payload_len: U16::new(0),
        next: 0,
        // Receivers drop neighbour discovery that was forwarded (RFC 4861 section 7.1).
        hop_limit: 255,
        src: addresses.0.octets(),
        dst: addresses.1.octets(),
    };
    let mut link_address = [option.0, 1, 0, 0, 0, 0, 0, 0];
    link_address[2..].copy_from_slice(&option.1);
    FrameBuilder::new(frame)
        .ethernet(macs.0, macs.1)
        .ipv6_header(header)
        .icmp(message.0, 0, message.1)
        .payload(target.octets().as_bytes())
        .payload(&link_address)
        .finish()
}

/// A question for the MAC address of `target`, to its solicited-node multicast group. Returns [`NEIGHBOUR_LEN`].
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn neighbour_solicitation(
    frame: &mut [u8],
    sender_mac: [u8; 6],
    sender: Ipv6Addr,
    target: Ipv6Addr,
) -> Result<usize, BuildError> {
    let t = target.octets();
    // RFC 4291 section 2.7.1 and RFC 2464 section 7: ff02::1:ffXX:XXXX and 33:33:ff:XX:XX:XX.
    let group = Ipv6Addr::from([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15],
    ]);
    let group_mac = [0x33, 0x33, 0xff, t[13], t[14], t[15]];
    neighbour(
        frame,
        (group_mac, sender_mac),
        (sender, group),
        (SOLICITATION, 0),
        target,
        (OPTION_SOURCE_LINK, sender_mac),
    )
}

/// The answer: `target` is at `target_mac`. Sent to `receiver`, the solicitation's sender. Returns
/// [`NEIGHBOUR_LEN`].
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn neighbour_advertisement(
    frame: &mut [u8],
    target_mac: [u8; 6],
    target: Ipv6Addr,
    receiver_mac: [u8; 6],
    receiver: Ipv6Addr,
    flags: NeighbourFlags,
) -> Result<usize, BuildError> {
    let bits = u32::from(flags.router) << 31
        | u32::from(flags.solicited) << 30
        | u32::from(flags.override_known) << 29;
    neighbour(
        frame,
        (receiver_mac, target_mac),
        (target, receiver),
        (ADVERTISEMENT, bits),
        target,
        (OPTION_TARGET_LINK, target_mac),
    )
}

//! The frames that tell neighbours and switches where an address is now: gratuitous ARP (RFC 5227, 3), unsolicited neighbour
//! advertisements (RFC 4861, 7.2.6), and for addresses without IP a reverse ARP request, as hypervisors send after a migration.

use std::net::{IpAddr, Ipv6Addr};

use sumeru_packet::build::{
    ARP_LEN, FrameBuilder, NEIGHBOUR_LEN, NeighbourFlags, arp_request, neighbour_advertisement,
};

use super::Mac;

/// Longest announcement, in bytes.
pub const ANNOUNCEMENT_MAX: usize = NEIGHBOUR_LEN;

const ETHERTYPE_RARP: u16 = 0x8035;
const RARP_REQUEST: u8 = 3;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// An address that lives behind the bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The MAC address.
    pub mac: Mac,
    /// The IP address that it answers for, if one is known.
    pub ip: Option<IpAddr>,
}

impl Address {
    /// Writes the announcement and returns its length; zero if `frame` is shorter than [`ANNOUNCEMENT_MAX`].
    pub fn announcement(&self, frame: &mut [u8]) -> usize {
        let written = match self.ip {
            Some(IpAddr::V4(ip)) => arp_request(frame, self.mac, ip, ip),
            Some(IpAddr::V6(ip)) => {
                let flags = NeighbourFlags {
                    override_known: true,
                    ..NeighbourFlags::default()
                };
                neighbour_advertisement(frame, self.mac, ip, ALL_NODES_MAC, ALL_NODES, flags)
            }
            None => {
                let mut packet = [0; ARP_LEN - 14];
                packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, RARP_REQUEST]);
                packet[8..14].copy_from_slice(&self.mac);
                packet[18..24].copy_from_slice(&self.mac);
                FrameBuilder::new(frame)
                    .ethernet([0xff; 6], self.mac)
                    .ethertype(ETHERTYPE_RARP, &packet)
                    .finish()
            }
        };
        written.unwrap_or(0)
    }
}

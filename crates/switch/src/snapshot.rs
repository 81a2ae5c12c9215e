//! The switch's configuration as an lcore sees it: immutable, replaced whole.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use sumeru_packet::TunnelKind;
pub use sumeru_packet::build::Policy;

use crate::frame::PortIndex;
use crate::mirror::{MirrorView, Target};
use crate::services::Services;
use crate::shield::ShieldView;

/// A tenant network's identifier on the wire and everywhere here: its VNI, 24 bits.
pub type NetworkId = u32;

/// A port, as far as forwarding needs to know it.
#[derive(Clone, Debug)]
pub struct PortView {
    /// Its number.
    pub index: PortIndex,
    /// Its name, for traces and captures.
    pub name: Arc<str>,
    /// The network whose bridge it is on.
    pub network: Option<NetworkId>,
    /// Longest frame sent to it, in bytes without the Ethernet header and VLAN tags.
    pub mtu: u16,
    /// Whether tunnels run over it.
    pub uplink: bool,
    /// Whether LLDP frames that come in by it are for this node.
    pub lldp: bool,
    /// How its guest is protected from floods of SYNs, if it is.
    pub shield: Option<ShieldView>,
}

/// How the frames of a network travel between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overlay {
    /// VXLAN (RFC 7348).
    #[default]
    Vxlan,
    /// Geneve (RFC 8926).
    Geneve,
    /// Ethernet in GRE (RFC 2784) with the network's identifier as key (RFC 2890).
    Gre,
}

impl Overlay {
    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::Gre => "GRE",
        }
    }

    /// What the parser calls it.
    pub const fn kind(self) -> TunnelKind {
        match self {
            Self::Vxlan => TunnelKind::Vxlan,
            Self::Geneve => TunnelKind::Geneve,
            Self::Gre => TunnelKind::Gre,
        }
    }
}

/// What a network says of its tunnels' headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterHeaders {
    /// Whether outer UDP headers carry a checksum; without a word, those over IPv6 do: RFC 8200 section 8.1 asks for it, and RFC 6936 section 5
    /// leaves doing without to those who configured both ends.
    pub udp_checksum: Option<bool>,
    /// Time to live or hop limit.
    pub ttl: Policy,
    /// DSCP, 0 to 63.
    pub dscp: Policy,
    /// Whether congestion marks are copied (RFC 6040 normal mode).
    pub ecn: bool,
    /// Geneve options as they are on the wire.
    pub geneve_options: Arc<[u8]>,
}

impl Default for OuterHeaders {
    fn default() -> Self {
        Self {
            udp_checksum: None,
            ttl: Policy::Fixed(64),
            dscp: Policy::Fixed(0),
            ecn: true,
            geneve_options: Arc::default(),
        }
    }
}

/// A tenant network.
#[derive(Clone, Debug)]
pub struct NetworkView {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: Arc<str>,
    /// How its frames travel between nodes.
    pub overlay: Overlay,
    /// Tunnel end points of the other nodes on it.
    pub remotes: Vec<IpAddr>,
    /// Ports of this node on it, by index.
    pub ports: Vec<PortIndex>,
    /// Frames per second and lcore that may go to more than one receiver; 0: no limit.
    pub flood_limit: u32,
    /// Seconds after which an address that was not seen is forgotten; 0: never.
    pub ageing_s: u32,
    /// Addresses that are known without being learned.
    pub static_macs: Vec<([u8; 6], IpAddr)>,
    /// Headers of its tunnels.
    pub outer: OuterHeaders,
}

/// Where tunnels start and end.
#[derive(Clone, Debug)]
pub struct Underlay {
    /// The port to the wire.
    pub port: PortIndex,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// This node's addresses, with the length of their prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
}

impl Underlay {
    /// The address to tunnel from towards `remote`: on its subnet if there is one, else the first of its family.
    pub fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let same_family = || {
            self.addresses
                .iter()
                .filter(|(address, _)| address.is_ipv4() == remote.is_ipv4())
        };
        let on_link =
            same_family().find(|(address, prefix)| shares_prefix(*address, remote, *prefix));
        on_link
            .or_else(|| same_family().next())
            .map(|(address, _)| *address)
    }

    /// Whether `address` is this node's.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

/// Whether two addresses agree in their first `prefix` bits.
fn shares_prefix(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    (a ^ b)
        .checked_shr(width - u32::from(prefix).min(width))
        .unwrap_or(0)
        == 0
}

/// Everything that forwarding needs to know and that only control changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Ports by index.
    pub ports: Vec<Option<PortView>>,
    /// Networks by identifier.
    pub networks: HashMap<NetworkId, NetworkView>,
    /// Tunnel end point of this node.
    pub underlay: Option<Underlay>,
    /// Ports whose frames go nowhere unless a rule takes them.
    pub isolated: BTreeSet<PortIndex>,
    /// Mirrors.
    pub mirrors: Vec<MirrorView>,
    /// Whether it is measured how long frames stay.
    pub residence: bool,
    /// What the switch itself does for the hosts of a network, where it does anything.
    pub services: HashMap<NetworkId, Arc<Services>>,
}

impl Snapshot {
    /// Addresses on the underlay that frames are sent to: remotes of networks, collectors of mirrors.
    pub fn correspondents(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let remotes = self.networks.values().flat_map(|network| &network.remotes);
        let collectors = self
            .mirrors
            .iter()
            .filter_map(|mirror| match mirror.target {
                Target::Collector { address, .. } => Some(address),
                Target::Port(_) => None,
            });
        remotes.copied().chain(collectors)
    }

    /// The port with this number.
    pub fn port(&self, index: PortIndex) -> Option<&PortView> {
        self.ports.get(usize::from(index))?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_start_on_the_remotes_subnet() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let underlay = Underlay {
            port: 0,
            mac: [0; 6],
            addresses: vec![
                (address("192.0.2.1"), 24),
                (address("198.51.100.1"), 24),
                (address("2001:db8::1"), 64),
            ],
            vxlan_port: 4789,
        };
        assert_eq!(
            underlay.source_for(address("198.51.100.7")),
            Some(address("198.51.100.1"))
        );
        assert_eq!(
            underlay.source_for(address("203.0.113.1")),
            Some(address("192.0.2.1"))
        );
        assert_eq!(
            underlay.source_for(address("2001:db8:1::1")),
            Some(address("2001:db8::1"))
        );
        assert!(shares_prefix(address("10.0.0.1"), address("11.0.0.1"), 0));
        assert!(!shares_prefix(address("10.0.0.1"), address("10.0.0.0"), 32));
    }
}

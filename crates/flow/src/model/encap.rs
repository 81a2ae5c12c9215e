//! Outer headers of encapsulations: VXLAN (`struct rte_flow_action_vxlan_encap`, RFC 7348), NVGRE
//! (`struct rte_flow_action_nvgre_encap`, RFC 7637) and a bare Ethernet header (testpmd's `l2_encap`).
//!
//! testpmd takes these from separate `set` commands; here they are arguments of the action.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::action::{ArgumentError, form};
use super::field::{EtherType, MacAddr, Vni};

/// UDP port of VXLAN (RFC 7348, section 5), used where a definition names none.
pub const VXLAN_UDP_PORT: u16 = 4789;

/// Time to live or hop limit of an outer header whose definition names none.
pub const DEFAULT_ENCAP_TTL: u8 = 64;

/// The value of an argument, or an error naming it.
fn needed<T>(
    action: &'static str,
    argument: &'static str,
    value: Option<T>,
) -> Result<T, ArgumentError> {
    value.ok_or(ArgumentError::Missing { action, argument })
}

/// Outer addresses; both are of one IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelAddresses {
    /// IPv4 underlay.
    V4 {
        /// Source address.
        src: Ipv4Addr,
        /// Destination address.
        dst: Ipv4Addr,
    },
    /// IPv6 underlay.
    V6 {
        /// Source address.
        src: Ipv6Addr,
        /// Destination address.
        dst: Ipv6Addr,
    },
}

impl TunnelAddresses {
    /// The pair, or `None` if the addresses are of different IP versions.
    pub fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6 { src, dst }),
            _ => None,
        }
    }

    /// The pair that the arguments `ip_src` and `ip_dst` of an action give.
    fn of(
        action: &'static str,
        src: Option<IpAddr>,
        dst: Option<IpAddr>,
    ) -> Result<Self, ArgumentError> {
        let src = needed(action, "ip_src", src)?;
        let dst = needed(action, "ip_dst", dst)?;
        Self::new(src, dst).ok_or(ArgumentError::MixedAddresses { action, src, dst })
    }

    /// Source address.
    pub fn src(&self) -> IpAddr {
        match *self {
            Self::V4 { src, .. } => src.into(),
            Self::V6 { src, .. } => src.into(),
        }
    }

    /// Destination address.
    pub fn dst(&self) -> IpAddr {
        match *self {
            Self::V4 { dst, .. } => dst.into(),
            Self::V6 { dst, .. } => dst.into(),
        }
    }
}

/// What `vxlan_encap` puts in front of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "vxlan::Form", into = "vxlan::Form")]
pub struct VxlanDefinition {
    /// Network identifier.
    pub vni: Vni,
    /// Outer IP addresses.
    pub addresses: TunnelAddresses,
    /// Outer UDP source port; if absent, one computed from a hash of the inner headers.
    pub udp_src: Option<u16>,
    /// Outer UDP destination port.
    pub udp_dst: u16,
    /// Outer type of service or traffic class.
    pub ip_tos: u8,
    /// Outer time to live or hop limit.
    pub ip_ttl: u8,
    /// Outer source MAC address; if absent, that of the underlay's port.
    pub eth_src: Option<MacAddr>,
    /// Outer destination MAC address; if absent, resolved in the underlay.
    pub eth_dst: Option<MacAddr>,
}

impl VxlanDefinition {
    /// A definition with defaults for all but the network and the addresses.
    pub fn new(vni: Vni, addresses: TunnelAddresses) -> Self {
        Self {
            vni,
            addresses,
            udp_src: None,
            udp_dst: VXLAN_UDP_PORT,
            ip_tos: 0,
            ip_ttl: DEFAULT_ENCAP_TTL,
            eth_src: None,
            eth_dst: None,
        }
    }
}

mod vxlan {
    use super::*;

    form! {
        VxlanEncap = "vxlan_encap" for VxlanDefinition {
            vni: Vni = "vni";
            ip_src: IpAddr = "ip_src";
            ip_dst: IpAddr = "ip_dst";
            udp_src: u16 = "udp_src";
            udp_dst: u16 = "udp_dst";
            ip_tos: u8 = "ip_tos";
            ip_ttl: u8 = "ip_ttl";
            eth_src: MacAddr = "eth_src";
            eth_dst: MacAddr = "eth_dst";
        }
    }

    impl TryFrom<Form> for VxlanDefinition {
        type Error = ArgumentError;
        fn try_from(form: Form) -> Result<Self, ArgumentError> {
            let vni = needed(NAME, "vni", form.vni)?;
            Ok(Self {
                udp_src: form.udp_src,
                udp_dst: form.udp_dst.unwrap_or(VXLAN_UDP_PORT),
                ip_tos: form.ip_tos.unwrap_or(0),
                ip_ttl: form.ip_ttl.unwrap_or(DEFAULT_ENCAP_TTL),
                eth_src: form.eth_src,
                eth_dst: form.eth_dst,
                ..Self::new(vni, TunnelAddresses::of(NAME, form.ip_src, form.ip_dst)?)
            })
        }
    }

    impl From<VxlanDefinition> for Form {
        fn from(definition: VxlanDefinition) -> Self {
            Self {
                vni: Some(definition.vni),
                ip_src: Some(definition.addresses.src()),
                ip_dst: Some(definition.addresses.dst()),
                udp_src: definition.udp_src,
                udp_dst: (definition.udp_dst != VXLAN_UDP_PORT).then_some(definition.udp_dst),
                ip_tos: (definition.ip_tos != 0).then_some(definition.ip_tos),
                ip_ttl: (definition.ip_ttl != DEFAULT_ENCAP_TTL).then_some(definition.ip_ttl),
                eth_src: definition.eth_src,
                eth_dst: definition.eth_dst,
            }
        }
    }
}

/// What `nvgre_encap` puts in front of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "nvgre::Form", into = "nvgre::Form")]
pub struct NvgreDefinition {
    /// Virtual subnet identifier.
    pub tni: Vni,
    /// Flow identifier, the byte behind it.
    pub flow_id: u8,
    /// Outer IP addresses.
    pub addresses: TunnelAddresses,
    /// Outer type of service or traffic class.
    pub ip_tos: u8,
    /// Outer time to live or hop limit.
    pub ip_ttl: u8,
    /// Outer source MAC address; if absent, that of the underlay's port.
    pub eth_src: Option<MacAddr>,
    /// Outer destination MAC address; if absent, resolved in the underlay.
    pub eth_dst: Option<MacAddr>,
}

mod nvgre {
    use super::*;

    form! {
        NvgreEncap = "nvgre_encap" for NvgreDefinition {
            tni: Vni = "tni";
            ip_src: IpAddr = "ip_src";
            ip_dst: IpAddr = "ip_dst";
            flow_id: u8 = "flow_id";
            ip_tos: u8 = "ip_tos";
            ip_ttl: u8 = "ip_ttl";
            eth_src: MacAddr = "eth_src";
            eth_dst: MacAddr = "eth_dst";
        }
    }

    impl TryFrom<Form> for NvgreDefinition {
        type Error = ArgumentError;
        fn try_from(form: Form) -> Result<Self, ArgumentError> {
            Ok(Self {
                tni: needed(NAME, "tni", form.tni)?,
                flow_id: form.flow_id.unwrap_or(0),
                addresses: TunnelAddresses::of(NAME, form.ip_src, form.ip_dst)?,
                ip_tos: form.ip_tos.unwrap_or(0),
                ip_ttl: form.ip_ttl.unwrap_or(DEFAULT_ENCAP_TTL),
                eth_src: form.eth_src,
                eth_dst: form.eth_dst,
            })
        }
    }

    impl From<NvgreDefinition> for Form {
        fn from(definition: NvgreDefinition) -> Self {
            Self {
                tni: Some(definition.tni),
                ip_src: Some(definition.addresses.src()),
                ip_dst: Some(definition.addresses.dst()),
                flow_id: (definition.flow_id != 0).then_some(definition.flow_id),
                ip_tos: (definition.ip_tos != 0).then_some(definition.ip_tos),
                ip_ttl: (definition.ip_ttl != DEFAULT_ENCAP_TTL).then_some(definition.ip_ttl),
                eth_src: definition.eth_src,
                eth_dst: definition.eth_dst,
            }
        }
    }
}

/// The header that `l2_encap` puts in front of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "l2_encap::Form", into = "l2_encap::Form")]
pub struct L2Encap {
    /// Source MAC address.
    pub eth_src: MacAddr,
    /// Destination MAC address.
    pub eth_dst: MacAddr,
    /// EtherType of the packet behind the header.
    pub ethertype: EtherType,
    /// Tag control information of a VLAN tag, if there is to be one.
    pub vlan_tci: Option<u16>,
}

mod l2_encap {
    use super::*;

    form! {
        L2Encap = "l2_encap" for L2Encap {
            eth_src: MacAddr = "eth_src";
            eth_dst: MacAddr = "eth_dst";
            ethertype: EtherType = "ethertype";
            vlan_tci: u16 = "vlan_tci";
        }
    }

    impl TryFrom<Form> for L2Encap {
        type Error = ArgumentError;
        fn try_from(form: Form) -> Result<Self, ArgumentError> {
            Ok(Self {
                eth_src: needed(NAME, "eth_src", form.eth_src)?,
                eth_dst: needed(NAME, "eth_dst", form.eth_dst)?,
                ethertype: needed(NAME, "ethertype", form.ethertype)?,
                vlan_tci: form.vlan_tci,
            })
        }
    }

    impl From<L2Encap> for Form {
        fn from(definition: L2Encap) -> Self {
            Self {
                eth_src: Some(definition.eth_src),
                eth_dst: Some(definition.eth_dst),
                ethertype: Some(definition.ethertype),
                vlan_tci: definition.vlan_tci,
            }
        }
    }
}

//! Outer headers of a VXLAN encapsulation (`struct rte_flow_action_vxlan_encap`, RFC 7348).
//!
//! testpmd takes these from a separate `set vxlan` command; here they are arguments of the action.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::action::{
    Action, Argument, ArgumentError, ArgumentRow, ArgumentValue, optional, required,
};
use super::field::{FieldKind, MacAddr, Vni};

/// UDP port of VXLAN (RFC 7348, section 5), used where a definition names none.
pub const VXLAN_UDP_PORT: u16 = 4789;

/// Time to live or hop limit of an outer header whose definition names none.
pub const DEFAULT_ENCAP_TTL: u8 = 64;

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
    /// The pair, or an error if the addresses are of different IP versions.
    pub fn new(src: IpAddr, dst: IpAddr) -> Result<Self, ArgumentError> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ok(Self::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ok(Self::V6 { src, dst }),
            (src, dst) => Err(ArgumentError::MixedAddresses { src, dst }),
        }
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
#[serde(try_from = "Form", into = "Form")]
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

/// The JSON form: testpmd's names, the IP version given by the addresses.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    vni: Vni,
    ip_src: IpAddr,
    ip_dst: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    udp_src: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    udp_dst: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_tos: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_ttl: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eth_src: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eth_dst: Option<MacAddr>,
}

impl TryFrom<Form> for VxlanDefinition {
    type Error = ArgumentError;
    fn try_from(form: Form) -> Result<Self, ArgumentError> {
        Ok(Self {
            vni: form.vni,
            addresses: TunnelAddresses::new(form.ip_src, form.ip_dst)?,
            udp_src: form.udp_src,
            udp_dst: form.udp_dst.unwrap_or(VXLAN_UDP_PORT),
            ip_tos: form.ip_tos.unwrap_or(0),
            ip_ttl: form.ip_ttl.unwrap_or(DEFAULT_ENCAP_TTL),
            eth_src: form.eth_src,
            eth_dst: form.eth_dst,
        })
    }
}

impl From<VxlanDefinition> for Form {
    fn from(definition: VxlanDefinition) -> Self {
        Self {
            vni: definition.vni,
            ip_src: definition.addresses.src(),
            ip_dst: definition.addresses.dst(),
            udp_src: definition.udp_src,
            udp_dst: (definition.udp_dst != VXLAN_UDP_PORT).then_some(definition.udp_dst),
            ip_tos: (definition.ip_tos != 0).then_some(definition.ip_tos),
            ip_ttl: (definition.ip_ttl != DEFAULT_ENCAP_TTL).then_some(definition.ip_ttl),
            eth_src: definition.eth_src,
            eth_dst: definition.eth_dst,
        }
    }
}

macro_rules! rows {
    ($($field:ident: $kind:ident $bits:literal, $variant:ident;)*) => {
        &[$(ArgumentRow {
            name: stringify!($field),
            kind: FieldKind::$kind,
            bits: $bits,
            get: |action| match action {
                Action::VxlanEncap(definition) => {
                    rows!(@value $variant Form::from(*definition).$field)
                }
                _ => None,
            },
        }),*]
    };
    (@value Required $value:expr) => { Some(ArgumentValue::to_argument(&$value)) };
    (@value Optional $value:expr) => { $value.as_ref().map(ArgumentValue::to_argument) };
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

    /// Arguments of `vxlan_encap`; [`Self::build`] takes them in this order.
    pub(super) const ARGUMENTS: &'static [ArgumentRow] = rows! {
        vni: Unsigned 24, Required;
        ip_src: Ip 0, Required;
        ip_dst: Ip 0, Required;
        udp_src: Unsigned 16, Optional;
        udp_dst: Unsigned 16, Optional;
        ip_tos: Unsigned 8, Optional;
        ip_ttl: Unsigned 8, Optional;
        eth_src: Mac 48, Optional;
        eth_dst: Mac 48, Optional;
    };

    pub(super) fn build(arguments: &[Option<Argument>]) -> Result<Self, ArgumentError> {
        const NAME: &str = "vxlan_encap";
        Form {
            vni: required(arguments, 0, NAME, "vni")?,
            ip_src: required(arguments, 1, NAME, "ip_src")?,
            ip_dst: required(arguments, 2, NAME, "ip_dst")?,
            udp_src: optional(arguments, 3),
            udp_dst: optional(arguments, 4),
            ip_tos: optional(arguments, 5),
            ip_ttl: optional(arguments, 6),
            eth_src: optional(arguments, 7),
            eth_dst: optional(arguments, 8),
        }
        .try_into()
    }
}

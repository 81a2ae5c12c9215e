//! What a decision comes to: the operations that are run on each frame of a flow.

use sumeru_packet::build::Encapsulation;

use crate::frame::PortIndex;
use crate::stats::DropReason;
use crate::track::Track;

/// A tunnel that frames are put into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The outer headers.
    pub headers: Encapsulation,
    /// UDP source port; `None`: from the hash of the inner headers.
    pub udp_src: Option<u16>,
    /// Type of service or traffic class of the outer header.
    pub tos: u8,
}

/// One operation on a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Take this for granted; in front of everything else, for the second and later connections of a decision.
    Track(Track),
    /// Translate as the connection says that was looked up as number so many.
    Nat(u8),
    /// Count for a rule, under this number.
    Count(u32),
    /// Set the source MAC address.
    SetEthSrc([u8; 6]),
    /// Set the destination MAC address.
    SetEthDst([u8; 6]),
    /// Set the IPv4 source address.
    SetIpv4Src(u32),
    /// Set the IPv4 destination address.
    SetIpv4Dst(u32),
    /// Set the IPv6 source address.
    SetIpv6Src(Box<u128>),
    /// Set the IPv6 destination address.
    SetIpv6Dst(Box<u128>),
    /// Set the TCP or UDP source port.
    SetL4Src(u16),
    /// Set the TCP or UDP destination port.
    SetL4Dst(u16),
    /// Decrement the time to live or hop limit; drop what reaches zero.
    DecTtl,
    /// Set the time to live or hop limit.
    SetTtl(u8),
    /// Put an empty VLAN tag with this tag protocol identifier in front.
    PushVlan(u16),
    /// Remove the outermost VLAN tag.
    PopVlan,
    /// Set the identifier of the outermost VLAN tag.
    SetVlanVid(u16),
    /// Set the priority of the outermost VLAN tag.
    SetVlanPcp(u8),
    /// Remove the tunnel's headers.
    Decapsulate,
    /// Put a tunnel's headers in front.
    Encapsulate(Box<Tunnel>),
    /// Undo the last encapsulation: the frame goes to another receiver as well.
    Unwrap,
    /// Take from the flooding allowance of this network, or drop.
    Flood(u32),
    /// Send it to a port. Last, unless the frame goes to several.
    Output(PortIndex),
    /// For the engine itself: ARP, neighbour discovery, echo on the underlay.
    Consume,
    /// Drop it.
    Drop(DropReason),
}

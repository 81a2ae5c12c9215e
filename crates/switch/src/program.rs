//! What a decision comes to: the operations that are run on each frame of a flow.

use std::sync::Arc;

use sumeru_engine::Counter;
use sumeru_packet::build::Encapsulation;

use crate::frame::PortIndex;
use crate::stats::DropReason;

/// What a rule with a count action counted, one cell per lcore.
#[derive(Debug)]
pub struct RuleCounts(Box<[RuleCount]>);

/// One lcore's cell.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RuleCount {
    /// Frames.
    pub packets: Counter,
    /// Bytes, from the Ethernet header on.
    pub bytes: Counter,
}

impl RuleCounts {
    /// Cells for `workers` lcores, all zero.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| RuleCount::default()).collect()))
    }

    /// Counts one frame. Only the lcore whose number `worker` is may call this.
    #[inline]
    pub fn count(&self, worker: usize, bytes: u32) {
        if let Some(cell) = self.0.get(worker) {
            cell.packets.add(1);
            cell.bytes.add(bytes.into());
        }
    }

    /// Packets and bytes over all lcores.
    pub fn sum(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(p, b), cell| {
            (p + cell.packets.get(), b + cell.bytes.get())
        })
    }
}

/// A tunnel that frames are put into.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The outer headers.
    pub headers: Encapsulation,
    /// UDP source port; `None`: from the hash of the inner headers.
    pub udp_src: Option<u16>,
    /// Type of service or traffic class of the outer header.
    pub tos: u8,
}

/// One operation on a frame.
#[derive(Clone, Debug)]
pub enum Op {
    /// Count for a rule.
    Count(Arc<RuleCounts>),
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

/// How long a decision stays good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Until the configuration or a known address changes.
    Stable = 0,
    /// Until any address is learned too: it depends on an address being unknown.
    Unknown = 1,
    /// For this frame only.
    Once = 2,
}

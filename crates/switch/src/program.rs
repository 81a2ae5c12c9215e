//! What a decision comes to: the operations that are run on each frame of a flow.

use std::net::IpAddr;

use sumeru_packet::Layer;
use sumeru_packet::build::Encapsulation;
use sumeru_packet::edit::{Bits, Change};
use sumeru_packet::tcp::Shift;

use crate::balance::{MemberState, Shared};
use crate::conntrack::{Direction, NatBinding};
use crate::frame::PortIndex;
use crate::qos::meter::Colour;
use crate::qos::meter_table::MeterId;
use crate::rules::CtChange;
use crate::rules::action::Spread;
use crate::services::Answer;
use crate::shield::{Greeting, Guard, Redeem};
use crate::stats::DropReason;
use crate::track::Track;

/// A tunnel that frames are put into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The outer headers.
    pub headers: Encapsulation,
    /// Type of service or traffic class of the outer header, where that of the headers is not meant.
    pub tos: Option<u8>,
    /// Longest outer IP packet that gets through, in bytes.
    pub mtu: u16,
    /// Longest one that the uplink takes, whatever routers say of the path.
    pub own_mtu: u16,
}

impl Tunnel {
    /// Whether its headers ask nothing of a frame but its first bytes, and change nothing of it.
    pub fn is_front_alone(&self) -> bool {
        self.tos.is_none() && self.headers.is_front_alone()
    }
}

/// What is taken from the front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remove {
    /// So many bytes.
    Bytes(u16),
    /// The Ethernet header of a frame without VLAN tag, or with one and that too.
    Link {
        /// With one tag.
        tagged: bool,
    },
}

/// Other bytes at the front of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replace {
    /// What is taken.
    pub remove: Remove,
    /// What is put in its place.
    pub header: Box<[u8]>,
}

/// A hop of a router: what has time to live left goes on with other link-layer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The router's link-layer address on the next network.
    pub src: [u8; 6],
    /// That of the next host.
    pub dst: [u8; 6],
    /// Who tells the sender that its packet cannot go on, if anybody does.
    pub source: Option<IpAddr>,
    /// Largest packet of the next network.
    pub mtu: u16,
}

/// A change of bits of a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Modify {
    /// Whose.
    pub layer: Layer,
    /// Which.
    pub bits: Bits,
    /// What is done.
    pub change: Change,
    /// By this.
    pub by: Source,
}

/// Where the other operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A number.
    Value(u128),
    /// Bits of a header.
    Bits(Layer, Bits),
}

/// What is done with a copy of one frame in so many: a sample, or one of several receivers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// One in this many; never 0.
    pub ratio: u32,
    /// What is done; with an output at the end, or a drop of the copy alone.
    pub ops: Box<[Op]>,
    /// More becomes of the copy's headers than that others are put in front.
    pub edits: bool,
}

impl Sample {
    /// A copy of one frame in `ratio`.
    pub fn new(ratio: u32, ops: Vec<Op>) -> Self {
        let edits = !ops.iter().all(Op::keeps_headers);
        Self {
            ratio: ratio.max(1),
            ops: ops.into(),
            edits,
        }
    }
}

/// Whether these operations begin with a copy that goes into a tunnel while the frame goes on behind it.
pub fn one_of_several(ops: &[Op]) -> bool {
    matches!(ops, [Op::Encapsulate(_), Op::Output(_), Op::Unwrap, ..])
}

/// Which of a guest's receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Queue(u16),
    /// That of those which are open to which a hash leads.
    Hash(u32),
}

impl Op {
    /// Whether the headers are what they were once those that were put in front are taken off.
    fn keeps_headers(&self) -> bool {
        matches!(
            self,
            Op::Count(_)
                | Op::Commit(..)
                | Op::Colour(_)
                | Op::Queue(_)
                | Op::Spread(_)
                | Op::Encapsulate(_)
                | Op::Output(_)
                | Op::Drop(_)
        )
    }
}

/// One operation on a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Take this for granted; in front of everything else, for the second and later connections of a decision.
    Track(Track),
    /// Translate always in one way.
    Translate(Box<(NatBinding, Direction)>),
    /// Translate as the connection says that was looked up as number so many.
    Nat(u8),
    /// Count for a member of a load balancer, to it or from it.
    Member(Shared<MemberState>, Direction),
    /// Make a connection of the frame that was found to have none when it was looked up as number so many.
    Commit(u8, Box<CtChange>),
    /// Keep the connection of a protected port, likewise, if there is room for it.
    Keep(u8),
    /// Answer a SYN to a protected port with a cookie if too many come.
    Guard(Box<Guard>),
    /// Look whether an ACK proves a cookie.
    Redeem(Box<Redeem>),
    /// Move the numbers of a segment of a spliced connection; `true`: of what its guest sends, before anything else, tracking included.
    Splice(Box<Shift>, bool),
    /// Make the SYN-ACK of a guest an ACK for a client that has had one.
    Greet(Box<Greeting>),
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
    /// Swap the MAC addresses.
    SwapEth,
    /// Change bits of a header.
    Modify(Box<Modify>),
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
    /// Replace the front of the frame, and look at it again.
    Replace(Box<Replace>),
    /// Let a meter colour the frame and say whether it goes on.
    Meter(MeterId),
    /// The frame's colour for the meters that follow.
    Colour(Colour),
    /// Receive queue of the guests that the frame goes to from here on.
    Queue(u16),
    /// Receive queue by a hash, likewise.
    Spread(Box<Spread>),
    /// A copy of some frames.
    Sample(Box<Sample>),
    /// Undo the last encapsulation: the frame goes to another receiver as well.
    Unwrap,
    /// Take from the flooding allowance of this network, or drop.
    Flood(u32),
    /// Send it to a port. Last, unless the frame goes to several.
    Output(PortIndex),
    /// One hop of a router.
    Hop(Box<Hop>),
    /// The switch answers the port that it came from, and it goes no further.
    Answer(Box<Answer>),
    /// For the engine itself: ARP, neighbour discovery, echo on the underlay.
    Consume,
    /// Drop it.
    Drop(DropReason),
}

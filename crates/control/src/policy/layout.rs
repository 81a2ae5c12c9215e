//! Where policy rules stand: groups, priorities, tags. The one place that has the numbers; [`super`] has the table that explains them.

use std::ops::RangeInclusive;

/// Owner of rules that belong to no port, in the place of a port's index. No port has it.
pub const SHARED: u16 = u16::MAX;
/// Numbers of rules from here on are the control plane's own; those of rules made by hand are below.
pub const FIRST_RULE_ID: u32 = 1 << 31;

/// Groups that policy rules stand in, besides group 0.
pub const GROUPS: RangeInclusive<u32> = 9000..=9039;

/// Where every frame begins: marks what a port's frame is checked against.
pub const START: u32 = 0;
/// Source addresses: what no rule of the port allows is dropped.
pub const SPOOF: u32 = 9001;
/// Targets of neighbour discovery.
pub const NEIGHBOUR: u32 = 9002;
/// Class of the destination by address sets.
pub const SEND_SETS: u32 = 9003;
/// Class of the destination by members of groups.
pub const SEND_MEMBERS: u32 = 9004;
/// Blocklists of what is sent.
pub const SEND_BLOCK: u32 = 9005;
/// Connection tracking of the sender's port.
pub const SEND_TRACK: u32 = 9006;
/// Egress rules of the sender's groups.
pub const SEND_GROUPS: u32 = 9007;
/// The sender's connection is kept.
pub const SEND_COMMIT: u32 = 9008;
/// Left empty: what gets here is forwarded. Rules made by hand that shall act behind policy stand here.
pub const FORWARD: u32 = 9009;

/// Where a frame begins that is about to leave by a port: rules with the attribute `egress` of this group; see the module's page on the egress pass.
pub const RECEIVE: u32 = 0;
/// Class of the source by address sets.
pub const RECEIVE_SETS: u32 = 9021;
/// Class of the source by members of groups.
pub const RECEIVE_MEMBERS: u32 = 9022;
/// Blocklists of what is received, and isolation.
pub const RECEIVE_BLOCK: u32 = 9023;
/// Connection tracking of the receiver's port.
pub const RECEIVE_TRACK: u32 = 9024;
/// Ingress rules of the receiver's groups.
pub const RECEIVE_GROUPS: u32 = 9025;
/// The receiver's connection is kept.
pub const RECEIVE_COMMIT: u32 = 9026;
/// Rate limits towards the port.
pub const RECEIVE_RATE: u32 = 9027;
/// Left empty: what gets here leaves.
pub const DELIVER: u32 = 9028;

/// Whether rules made by hand may stand in a group.
pub fn is_open(group: u32) -> bool {
    group == FORWARD || group == DELIVER || !GROUPS.contains(&group)
}

/// Bits of a tag.
#[derive(Debug, Clone, Copy)]
pub struct TagBits {
    /// Which tag.
    pub index: u8,
    /// How far the number is shifted.
    pub shift: u32,
    /// The bits, in their place.
    pub mask: u32,
}

impl TagBits {
    const fn new(index: u8, shift: u32, mask: u32) -> Self {
        Self { index, shift, mask }
    }

    /// A number in its place.
    pub fn of(self, number: u32) -> u32 {
        number << self.shift & self.mask
    }
}

/// VXLAN network identifier of the port's network, 0 without one.
pub const NETWORK: TagBits = TagBits::new(0, 0, 0x00ff_ffff);
/// Number of the port's list of groups, 0 without groups; see [`STATEFUL`].
pub const PROFILE: TagBits = TagBits::new(1, 0, 0xffff);
/// Set if a group of the port's list is stateful.
pub const STATEFUL: TagBits = TagBits::new(1, 15, 0x8000);
/// Number of the port's list of blocklists in this direction.
pub const SCOPE: TagBits = TagBits::new(1, 16, 0xffff_0000);
/// Class of the other side's address by address sets.
pub const SET_CLASS: TagBits = TagBits::new(2, 0, 0xffff);
/// Class of the other side's address by members of groups.
pub const MEMBER_CLASS: TagBits = TagBits::new(2, 16, 0xffff_0000);
/// Isolation class of the sender's port; 0: the frame came out of a tunnel.
pub const SENDER: TagBits = TagBits::new(3, 0, 0xffff);
/// Isolation class of the receiver's port.
pub const RECEIVER: TagBits = TagBits::new(3, 16, 0xffff_0000);

/// Priority of what happens to frames that no other rule of a group wants.
pub const LAST: u32 = 200;
/// Meters of a port have this many numbers from `index * METERS_PER_PORT + FIRST_METER` on.
pub const METERS_PER_PORT: u32 = 8;
/// Meters from here on are the control plane's own.
pub const FIRST_METER: u32 = 1 << 24;

/// Index of the port whose meter has a number.
pub fn port_of_meter(number: u32) -> u16 {
    ((number - FIRST_METER) / METERS_PER_PORT) as u16
}

/// The connection tracking zone of a port.
pub fn zone(index: u16) -> u16 {
    // Ports have indexes below 4096, so the zones below are free for rules made by hand; those from 0x9000 on are of protected ports.
    0x8000 | index
}

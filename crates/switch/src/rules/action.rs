//! What a rule does, with everything it names resolved: ports, meters, indirect objects, fields as bits of headers and of the key.
//!
//! From the flow model to these in `build`; nothing here touches a packet.

mod build;
mod modify;
mod spread;

use std::fmt;

use sumeru_flow::model::{NvgreDefinition, VxlanDefinition};
use sumeru_packet::Field;

use crate::conntrack::{Commit, ConnRef, Conntrack, CtPacket, Nat, Refusal, Tags, Tuple};
use crate::frame::PortIndex;
use crate::program::{Remove, Replace};
use crate::qos::meter::Colour;
use crate::qos::meter_table::MeterId;

pub use build::{Compiled, compile};
pub use modify::{Modification, Operand, Place};
pub use spread::Spread;

/// What a rule does, in order.
pub type ActionList = Box<[RuleAction]>;

/// An action with its ports resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Count packets and bytes of the rule.
    Count,
    /// Count packets and bytes under a number that several rules share.
    Tally(u32),
    /// Drop.
    Drop,
    /// Go on behind the rules, as if none had matched.
    Passthru,
    /// Go on in another group.
    Jump(u32),
    /// Send to a port.
    Output(PortIndex),
    /// Choose the receive queue of the guest that the frame goes to, and go on as with [`Self::Passthru`].
    Queue(u16),
    /// Spread over receive queues, likewise.
    Spread(Box<Spread>),
    /// Set bits of the mark, a tag or the metadata: where, to what, which bits.
    Register(Field, u32, u32),
    /// Set a field.
    Set(Field, u128),
    /// Change bits of headers or registers.
    Modify(Box<Modification>),
    /// Swap the MAC addresses.
    MacSwap,
    /// Decrement the time to live.
    DecTtl,
    /// Push an empty VLAN tag.
    PushVlan(u16),
    /// Pop the outermost VLAN tag.
    PopVlan,
    /// Set the identifier of the outermost tag.
    SetVlanVid(u16),
    /// Set the priority of the outermost tag.
    SetVlanPcp(u8),
    /// Take the frame out of its tunnel.
    Decapsulate,
    /// Put the frame into VXLAN.
    Encapsulate(VxlanDefinition),
    /// Put the frame into NVGRE.
    EncapsulateNvgre(NvgreDefinition),
    /// Replace the front of the frame.
    Replace(Box<Replace>),
    /// Track the frame's connection.
    Ct(Box<CtRule>),
    /// Let a meter decide.
    Meter(MeterId),
    /// Give the frame the colour that meters behind this one begin with.
    Colour(Colour),
    /// Do further actions on a copy of one frame in so many.
    Sample(u32, ActionList),
    /// Do what an indirect object says, by its number.
    Indirect(u32),
}

/// When a rule is old: seconds without a packet, and what the list of aged rules names it by (0: by itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Age {
    /// Seconds without a packet.
    pub timeout: u32,
    /// What the list names the rule by.
    pub context: u64,
}

/// What tracking does beside looking the connection up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CtRule {
    /// The zone.
    pub zone: u16,
    /// Makes the connection if there is none; changes of its mark and label, as value and mask.
    pub commit: Option<CtChange>,
    /// Whether the packet is translated as its connection says.
    pub nat: bool,
    /// Where to go on.
    pub group: Option<u32>,
}

/// How a connection is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtChange {
    /// Ends a connection of the other direction first.
    pub force: bool,
    /// Mark, as value and mask.
    pub mark: Option<(u32, u32)>,
    /// Label, as value and mask.
    pub label: Option<(u128, u128)>,
    /// Timeout policy.
    pub policy: u8,
    /// Translation of new connections.
    pub nat: Option<Nat>,
}

impl CtChange {
    /// Makes a connection, without translation, or changes the mark and the label of the one that is there.
    ///
    /// # Errors
    /// Why there is no connection.
    pub fn make(
        &self,
        table: &mut Conntrack,
        tuple: &Tuple,
        tags: Tags,
        packet: CtPacket,
        owner: PortIndex,
    ) -> Result<ConnRef, Refusal> {
        let commit = Commit {
            tuple: *tuple,
            packet,
            mark: self.mark.map_or(0, |(value, mask)| value & mask),
            label: self.label.map_or(0, |(value, mask)| value & mask),
            owner,
            policy: self.policy,
            nat: None,
        };
        let conn = table.commit_tagged(&commit, tags)?;
        self.write(table, conn);
        Ok(conn)
    }

    /// Changes the mark and the label of a connection.
    pub fn write(&self, table: &mut Conntrack, conn: ConnRef) {
        if let Some((value, mask)) = self.mark
            && let Some(old) = table.mark(conn)
            && old & mask != value & mask
        {
            table.set_mark(conn, old & !mask | value & mask);
        }
        if let Some((value, mask)) = self.label
            && let Some(old) = table.label(conn)
            && old & mask != value & mask
        {
            table.set_label(conn, old & !mask | value & mask);
        }
    }
}

impl RuleAction {
    /// Whether it says where the frame goes on.
    pub fn is_fate(&self) -> bool {
        match self {
            Self::Drop
            | Self::Passthru
            | Self::Jump(_)
            | Self::Output(_)
            | Self::Queue(_)
            | Self::Spread(_) => true,
            Self::Ct(ct) => ct.group.is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => write!(f, "count"),
            Self::Tally(counter) => write!(f, "count under number {counter}"),
            Self::Drop => write!(f, "drop"),
            Self::Passthru => write!(f, "go on behind the rules"),
            Self::Jump(group) => write!(f, "jump to group {group}"),
            Self::Output(port) => write!(f, "send to port {port}"),
            Self::Queue(queue) => write!(f, "to receive queue {queue}"),
            Self::Spread(spread) => write!(f, "{spread}"),
            Self::Register(Field::Mark, value, u32::MAX) => write!(f, "mark {value}"),
            Self::Register(field, value, mask) => {
                write!(f, "set {} to {value:#x}/{mask:#x}", field.name())
            }
            Self::Set(field, value) => write!(f, "set {} to {value:#x}", field.name()),
            Self::Modify(modification) => write!(f, "{modification}"),
            Self::MacSwap => write!(f, "swap the MAC addresses"),
            Self::DecTtl => write!(f, "decrement the time to live"),
            Self::PushVlan(tpid) => write!(f, "push a VLAN tag {tpid:#06x}"),
            Self::PopVlan => write!(f, "pop the VLAN tag"),
            Self::SetVlanVid(vid) => write!(f, "set the VLAN identifier to {vid}"),
            Self::SetVlanPcp(pcp) => write!(f, "set the VLAN priority to {pcp}"),
            Self::Decapsulate => write!(f, "take out of the tunnel"),
            Self::Ct(ct) => write!(f, "{ct}"),
            Self::Encapsulate(to) => {
                let (vni, dst) = (bits(to.vni), to.addresses.dst());
                write!(f, "put into VXLAN {vni} towards {dst}")
            }
            Self::EncapsulateNvgre(to) => {
                let (tni, dst) = (bits(to.tni), to.addresses.dst());
                write!(f, "put into NVGRE {tni} towards {dst}")
            }
            Self::Replace(replace) => {
                match replace.remove {
                    Remove::Bytes(0) => {}
                    Remove::Bytes(bytes) => write!(f, "remove {bytes} bytes, ")?,
                    Remove::Link { tagged: false } => write!(f, "remove the Ethernet header, ")?,
                    Remove::Link { tagged: true } => {
                        write!(f, "remove the Ethernet header with its VLAN tag, ")?;
                    }
                }
                write!(f, "put {} bytes in front", replace.header.len())
            }
            Self::Meter(_) => write!(f, "meter"),
            Self::Colour(colour) => write!(f, "colour it {colour:?}"),
            Self::Sample(ratio, actions) => {
                write!(f, "a copy of one in {ratio}:")?;
                let mut lead = " ";
                for action in actions {
                    write!(f, "{lead}{action}")?;
                    lead = ", ";
                }
                Ok(())
            }
            Self::Indirect(number) => write!(f, "indirect object {number}"),
        }
    }
}

impl fmt::Display for CtRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "track in zone {}", self.zone)?;
        if self.commit.is_some() {
            write!(f, ", keep the connection")?;
        }
        if self.nat {
            write!(f, ", translate")?;
        }
        match self.group {
            Some(group) => write!(f, ", go on in group {group}"),
            None => Ok(()),
        }
    }
}

fn bits(value: impl sumeru_flow::model::FieldValue) -> u128 {
    value.to_bits()
}

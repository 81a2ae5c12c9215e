//! From a rule of the flow model to bits of the flow key and actions with their ports resolved.
//!
//! A pattern becomes a value under a mask (see [`pattern`](super::pattern)). A range becomes as many prefixes as it takes, so a rule may
//! stand at several places.

use std::net::IpAddr;

use sumeru_flow::Rule;
use sumeru_flow::model::{Action, CtAction, CtNat, FieldValue, Item, PortRef, VxlanDefinition};
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};

use super::RuleError;
use super::extract::Extracts;
use super::pattern::{Compiled, Pattern};
use crate::conntrack::{Nat, NatRange, POLICIES};
use crate::frame::PortIndex;

/// Most places of a rule.
pub const MAX_PLACES: usize = 1024;

/// A compiled rule.
#[derive(Debug)]
pub struct CompiledRule {
    /// The port it was created on, and its number there.
    pub name: (PortIndex, u32),
    /// Lower is looked at first.
    pub priority: u32,
    /// Its group.
    pub group: u32,
    /// Where it stands: bits that matter and their values. A packet meets at most one of them.
    pub places: Vec<(FlowMask, FlowKey)>,
    /// Bytes that the parser must fetch for it.
    pub extracts: Extracts,
    /// What to do, in order.
    pub actions: ActionList,
}

/// What a rule does, in order.
pub type ActionList = Box<[RuleAction]>;

/// An action with its ports resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Count packets and bytes.
    Count,
    /// Drop.
    Drop,
    /// Go on in another group.
    Jump(u32),
    /// Send to a port.
    Output(PortIndex),
    /// Set the mark.
    Mark(u32),
    /// Set a field.
    Set(Field, u128),
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
    /// Take the frame out of VXLAN.
    Decapsulate,
    /// Put the frame into VXLAN.
    Encapsulate(VxlanDefinition),
    /// Track the frame's connection.
    Ct(Box<CtRule>),
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// Where the rule comes from and how ports are found.
pub struct Context<'a> {
    /// The port that the rule is created on.
    pub port: PortIndex,
    /// Its number.
    pub id: u32,
    /// The index of a port.
    pub resolve: &'a dyn Fn(&PortRef) -> Option<PortIndex>,
}

impl std::fmt::Display for RuleAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count => write!(f, "count"),
            Self::Drop => write!(f, "drop"),
            Self::Jump(group) => write!(f, "jump to group {group}"),
            Self::Output(port) => write!(f, "send to port {port}"),
            Self::Mark(mark) => write!(f, "mark {mark}"),
            Self::Set(field, value) => write!(f, "set {} to {value:#x}", field.name()),
            Self::DecTtl => write!(f, "decrement the time to live"),
            Self::PushVlan(tpid) => write!(f, "push a VLAN tag {tpid:#06x}"),
            Self::PopVlan => write!(f, "pop the VLAN tag"),
            Self::SetVlanVid(vid) => write!(f, "set the VLAN identifier to {vid}"),
            Self::SetVlanPcp(pcp) => write!(f, "set the VLAN priority to {pcp}"),
            Self::Decapsulate => write!(f, "take out of VXLAN"),
            Self::Ct(ct) => {
                write!(f, "track in zone {}", ct.zone)?;
                if ct.commit.is_some() {
                    write!(f, ", keep the connection")?;
                }
                if ct.nat {
                    write!(f, ", translate")?;
                }
                ct.group
                    .map_or(Ok(()), |group| write!(f, ", go on in group {group}"))
            }
            Self::Encapsulate(to) => write!(
                f,
                "put into VXLAN {} towards {}",
                to.vni.to_bits(),
                to.addresses.dst()
            ),
        }
    }
}

/// Checks and compiles a rule.
///
/// # Errors
/// See [`RuleError`].
pub fn compile(rule: &Rule, context: &Context) -> Result<CompiledRule, RuleError> {
    rule.validate()?;
    let attributes = &rule.attributes;
    if attributes.egress {
        return Err(RuleError::Unsupported {
            what: "attribute egress",
            expected: "write the rule on the port where packets come in (ingress), or as transfer",
        });
    }
    let mut pattern = Pattern::default();
    let mut in_port = (!attributes.transfer).then_some(context.port);
    for (position, item) in rule.pattern.iter().enumerate() {
        match item {
            Item::PortId { port } | Item::RepresentedPort { port } => {
                if let Some(port) = port {
                    in_port = Some(resolve(context, item.name(), port)?);
                }
            }
            Item::PortRepresentor { .. } => {
                return Err(RuleError::Unsupported {
                    what: "item port_representor",
                    expected: "match what comes in from a guest or the wire with represented_port",
                });
            }
            _ => {
                let mut behind = rule.pattern.iter().skip(position + 1);
                let next = behind.find(|item| !matches!(item, Item::Void));
                pattern.add(item, next)?;
            }
        }
    }
    if let Some(port) = in_port {
        pattern.require("represented_port", Field::InPort, u128::MAX, port.into())?;
    }
    let mut actions = Vec::with_capacity(rule.actions.len());
    for action in &rule.actions {
        actions.extend(compile_action(action, context)?);
    }
    let Compiled { places, extracts } = pattern.finish()?;
    Ok(CompiledRule {
        name: (context.port, context.id),
        priority: attributes.priority,
        group: attributes.group,
        places,
        extracts,
        actions: actions.into(),
    })
}

fn resolve(context: &Context, place: &'static str, port: &PortRef) -> Result<PortIndex, RuleError> {
    (context.resolve)(port).ok_or_else(|| RuleError::UnknownPort {
        place,
        port: port.to_string(),
    })
}

fn mac(address: sumeru_flow::model::MacAddr) -> u128 {
    address.to_bits()
}

fn compile_ct(ct: &CtAction) -> Result<CtRule, RuleError> {
    let range = |range: sumeru_flow::model::NatRange| {
        let (min, max) = match range.addresses.map(|a| (a.first(), a.last())) {
            Some((IpAddr::V4(first), IpAddr::V4(last))) => {
                (first.to_bits().into(), last.to_bits().into())
            }
            Some((IpAddr::V6(first), IpAddr::V6(last))) => (first.to_bits(), last.to_bits()),
            _ => {
                return Err(RuleError::Unsupported {
                    what: "nat without addresses",
                    expected: "addr FIRST-LAST",
                });
            }
        };
        let ports = range.ports.map(|ports| (ports.first(), ports.last()));
        Ok(NatRange {
            min,
            max,
            ports,
            random: false,
        })
    };
    let nat = match ct.nat {
        Some(CtNat::Src(wanted)) => Some(Nat {
            source: Some(range(wanted)?),
            destination: None,
        }),
        Some(CtNat::Dst(wanted)) => Some(Nat {
            source: None,
            destination: Some(range(wanted)?),
        }),
        Some(CtNat::Restore) | None => None,
    };
    let commit = match &ct.commit {
        None => None,
        Some(commit) => Some(CtChange {
            force: commit.force,
            mark: commit.mark.map(|mark| (mark.value, mark.mask)),
            label: commit.label.map(|label| (label.value.0, label.mask.0)),
            policy: commit.timeout.map_or(Ok(0), |policy| {
                let small = u8::try_from(policy)
                    .ok()
                    .filter(|p| usize::from(*p) < POLICIES);
                small.ok_or(RuleError::Unsupported {
                    what: "timeout policy",
                    expected: "a number of 0 to 15",
                })
            })?,
            nat,
        }),
    };
    Ok(CtRule {
        zone: ct.zone,
        commit,
        nat: ct.nat.is_some(),
        group: ct.group,
    })
}

fn compile_action(action: &Action, context: &Context) -> Result<Option<RuleAction>, RuleError> {
    let outer = Layer::Outer;
    Ok(Some(match action {
        Action::Void => return Ok(None),
        Action::Count { .. } => RuleAction::Count,
        Action::Drop => RuleAction::Drop,
        Action::Jump { group } => RuleAction::Jump(*group),
        Action::Mark { id } => RuleAction::Mark(*id),
        Action::PortId { port } | Action::RepresentedPort { port } => {
            RuleAction::Output(resolve(context, action.name(), port)?)
        }
        Action::PortRepresentor { .. } => {
            return Err(RuleError::Unsupported {
                what: "action port_representor",
                expected: "send to a guest or the wire with represented_port",
            });
        }
        Action::OfPopVlan => RuleAction::PopVlan,
        Action::OfPushVlan { ethertype } => RuleAction::PushVlan(ethertype.to_bits() as u16),
        Action::OfSetVlanVid { vlan_vid } => RuleAction::SetVlanVid(vlan_vid.to_bits() as u16),
        Action::OfSetVlanPcp { vlan_pcp } => RuleAction::SetVlanPcp(vlan_pcp.to_bits() as u8),
        Action::SetMacSrc { mac_addr } => RuleAction::Set(Field::EthSrc(outer), mac(*mac_addr)),
        Action::SetMacDst { mac_addr } => RuleAction::Set(Field::EthDst(outer), mac(*mac_addr)),
        Action::SetIpv4Src { ipv4_addr } => {
            RuleAction::Set(Field::IpSrc(outer), u32::from(*ipv4_addr).into())
        }
        Action::SetIpv4Dst { ipv4_addr } => {
            RuleAction::Set(Field::IpDst(outer), u32::from(*ipv4_addr).into())
        }
        Action::SetIpv6Src { ipv6_addr } => {
            RuleAction::Set(Field::IpSrc(outer), (*ipv6_addr).into())
        }
        Action::SetIpv6Dst { ipv6_addr } => {
            RuleAction::Set(Field::IpDst(outer), (*ipv6_addr).into())
        }
        Action::SetTpSrc { port } => RuleAction::Set(Field::L4Src(outer), (*port).into()),
        Action::SetTpDst { port } => RuleAction::Set(Field::L4Dst(outer), (*port).into()),
        Action::DecTtl => RuleAction::DecTtl,
        Action::SetTtl { ttl_value } => RuleAction::Set(Field::IpTtl(outer), (*ttl_value).into()),
        Action::VxlanDecap => RuleAction::Decapsulate,
        Action::VxlanEncap(definition) => RuleAction::Encapsulate(*definition),
        Action::Ct(ct) => RuleAction::Ct(Box::new(compile_ct(ct)?)),
        other => {
            return Err(RuleError::Unsupported {
                what: other.name(),
                expected: "the engine does not carry out this action",
            });
        }
    }))
}

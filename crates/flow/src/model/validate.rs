//! Whether a rule makes sense (Programmer's Guide, "Matching pattern", "Attributes", "Actions").
//!
//! Checks the order of items, contradictions between them, ranges, directions and actions. Never
//! asks whether a back end supports the rule, or whether its ports and groups exist.

use super::Rule;
use super::action::Action;
use super::field::EtherType;
use super::item::{Access, Item};
use super::matched::Matched;

/// Most items a pattern can have.
pub const MAX_ITEMS: usize = 64;

/// Most actions a rule can have.
pub const MAX_ACTIONS: usize = 64;

/// Why a rule makes no sense. Items and actions are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The pattern is too long.
    #[error("the pattern has {found} items, the limit is {MAX_ITEMS}")]
    TooManyItems {
        /// Number of items.
        found: usize,
    },
    /// The list of actions is too long.
    #[error("the rule has {found} actions, the limit is {MAX_ACTIONS}")]
    TooManyActions {
        /// Number of actions.
        found: usize,
    },
    /// Neither `ingress`, `egress` nor `transfer`.
    #[error("the rule has no direction; expected `ingress`, `egress` or `transfer`")]
    NoDirection,
    /// `transfer` together with a direction.
    #[error("`transfer` cannot be combined with `ingress` or `egress`; match the port by an item")]
    TransferWithDirection,
    /// A header that cannot stand behind the one before.
    #[error("item {index}: `{item}` cannot follow `{after}`; expected {expected}")]
    ItemOrder {
        /// Place of the item in the pattern.
        index: usize,
        /// The item.
        item: &'static str,
        /// The header item before it.
        after: &'static str,
        /// What may follow that one.
        expected: &'static str,
    },
    /// An item that matches metadata stands in the pattern twice.
    #[error("item {index}: `{item}` is there twice")]
    DuplicateItem {
        /// Place of the second one.
        index: usize,
        /// The item.
        item: &'static str,
    },
    /// A field excludes every packet that the next item matches, or every packet at all.
    #[error("item {index}: field `{field}` of `{item}` excludes {excluded}")]
    Contradiction {
        /// Place of the item with the field.
        index: usize,
        /// That item.
        item: &'static str,
        /// The field.
        field: &'static str,
        /// What it excludes.
        excluded: &'static str,
    },
    /// The upper bound of a range is below the lower one.
    #[error("item {index}: `last` of field `{field}` of `{item}` is below its `spec`")]
    ReversedRange {
        /// Place of the item.
        index: usize,
        /// The item.
        item: &'static str,
        /// The field.
        field: &'static str,
    },
    /// No action says where the packet goes.
    #[error(
        "the rule has no fate; expected one of `drop`, `jump`, `port_id`, `port_representor`, \
         `represented_port`"
    )]
    NoFate,
    /// Two actions say where the packet goes.
    #[error("action {index}: `{action}` decides the packet's fate, which `{first}` already does")]
    SeveralFates {
        /// Place of the second one.
        index: usize,
        /// The second action.
        action: &'static str,
        /// The first action.
        first: &'static str,
    },
    /// A change of the packet behind the action that sends it away.
    #[error("action {index}: `{action}` comes after `{fate}`; only `count` and `void` may")]
    ActionAfterFate {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The action that decided the packet's fate.
        fate: &'static str,
    },
    /// An action on a header that the packet is not known to have at that point.
    #[error("action {index}: `{action}` needs {needs} in the pattern or from an action before it")]
    MissingHeader {
        /// Place of the action.
        index: usize,
        /// The action.
        action: &'static str,
        /// The header.
        needs: &'static str,
    },
    /// A jump to the group that the rule is in.
    #[error("action {index}: `jump` to group {group}, the rule's own")]
    JumpToOwnGroup {
        /// Place of the action.
        index: usize,
        /// The group.
        group: u32,
    },
    /// A tag protocol identifier that is none.
    #[error("action {index}: `of_push_vlan` with ethertype {ethertype}; expected 0x8100 or 0x88a8")]
    TagProtocol {
        /// Place of the action.
        index: usize,
        /// The value given.
        ethertype: EtherType,
    },
}

impl Rule {
    /// Whether the rule makes sense by itself.
    ///
    /// Header items must be stacked as headers are, lowest first; lower ones may be left out only
    /// at the bottom. Fields must leave room for the headers that follow, ranges for a value. There
    /// must be a direction and exactly one action that decides the packet's fate, with nothing but
    /// `count` and `void` behind it, and every change must be to a header that the pattern or an
    /// action before provides.
    pub fn validate(&self) -> Result<(), FlowError> {
        if self.pattern.len() > MAX_ITEMS {
            return Err(FlowError::TooManyItems {
                found: self.pattern.len(),
            });
        }
        if self.actions.len() > MAX_ACTIONS {
            return Err(FlowError::TooManyActions {
                found: self.actions.len(),
            });
        }
        let attributes = &self.attributes;
        match (attributes.transfer, attributes.ingress || attributes.egress) {
            (false, false) => return Err(FlowError::NoDirection),
            (true, true) => return Err(FlowError::TransferWithDirection),
            _ => {}
        }
        check_pattern(&self.pattern)?;
        check_actions(self)
    }
}

fn check_pattern(pattern: &[Item]) -> Result<(), FlowError> {
    let mut below: Option<(usize, &Item)> = None;
    for (index, item) in pattern.iter().enumerate() {
        check_ranges(index, item)?;
        match item {
            Item::Void => {}
            Item::Mark(_)
            | Item::PortId { .. }
            | Item::PortRepresentor { .. }
            | Item::RepresentedPort { .. } => {
                if pattern[..index]
                    .iter()
                    .any(|other| other.name() == item.name())
                {
                    return Err(FlowError::DuplicateItem {
                        index,
                        item: item.name(),
                    });
                }
            }
            header => {
                if let Some((below_index, below)) = below {
                    let (allowed, expected) = may_follow(below, header);
                    if !allowed {
                        return Err(FlowError::ItemOrder {
                            index,
                            item: header.name(),
                            after: below.name(),
                            expected,
                        });
                    }
                    check_next_header(below_index, below, header)?;
                }
                below = Some((index, header));
            }
        }
    }
    Ok(())
}

fn check_ranges(index: usize, item: &Item) -> Result<(), FlowError> {
    for row in item.row().fields {
        if let Access::Field { get, .. } = row.access
            && let Some((low, high)) = get(item).and_then(|value| value.range())
            && high < low
        {
            return Err(FlowError::ReversedRange {
                index,
                item: item.name(),
                field: row.name,
            });
        }
    }
    if let Item::Ipv4(header) = item
        && !(0x45..=0x4f).any(|byte| header.version_ihl.matches(byte))
    {
        return Err(FlowError::Contradiction {
            index,
            item: item.name(),
            field: "version_ihl",
            excluded: "every valid header (0x45 to 0x4f)",
        });
    }
    Ok(())
}

/// Whether `next` may stand on `below`, and what may.
fn may_follow(below: &Item, next: &Item) -> (bool, &'static str) {
    match below {
        Item::Eth(_) | Item::Vlan(_) => (
            matches!(next, Item::Vlan(_) | Item::Ipv4(_) | Item::Ipv6(_)),
            "`vlan`, `ipv4`, `ipv6` or the end of the pattern",
        ),
        Item::Ipv4(_) => (
            matches!(next, Item::Tcp(_) | Item::Udp(_) | Item::Icmp(_)),
            "`tcp`, `udp`, `icmp` or the end of the pattern",
        ),
        Item::Ipv6(_) => (
            matches!(next, Item::Tcp(_) | Item::Udp(_) | Item::Icmp6(_)),
            "`tcp`, `udp`, `icmp6` or the end of the pattern",
        ),
        Item::Udp(_) => (
            matches!(next, Item::Vxlan(_)),
            "`vxlan` or the end of the pattern",
        ),
        Item::Vxlan(_) => (
            matches!(next, Item::Eth(_)),
            "`eth` or the end of the pattern",
        ),
        _ => (false, "the end of the pattern"),
    }
}

/// Whether the field of `below` that names the next header can have the value that `next` needs.
fn check_next_header(index: usize, below: &Item, next: &Item) -> Result<(), FlowError> {
    let contradiction = |field| {
        Err(FlowError::Contradiction {
            index,
            item: below.name(),
            field,
            excluded: next.name(),
        })
    };
    // IANA "Assigned Internet Protocol Numbers".
    let protocol = match next {
        Item::Icmp(_) => 1,
        Item::Tcp(_) => 6,
        Item::Udp(_) => 17,
        _ => 58,
    };
    match below {
        Item::Eth(header) => {
            if !leaves(&header.ether_type, next) {
                return contradiction("type");
            }
            if matches!(next, Item::Vlan(_)) && !header.has_vlan.matches(true) {
                return contradiction("has_vlan");
            }
        }
        Item::Vlan(header) => {
            if !leaves(&header.inner_type, next) {
                return contradiction("inner_type");
            }
            if matches!(next, Item::Vlan(_)) && !header.has_more_vlan.matches(true) {
                return contradiction("has_more_vlan");
            }
        }
        Item::Ipv4(header) if !header.proto.matches(protocol) => return contradiction("proto"),
        Item::Ipv6(header) => {
            // Extension headers may stand between (RFC 8200, section 4).
            let extensions = [0, 43, 44, 51, 60];
            if !header.proto.matches(protocol)
                && !extensions
                    .iter()
                    .any(|number| header.proto.matches(*number))
            {
                return contradiction("proto");
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether an EtherType field leaves room for `next`. A tag protocol identifier always does: it says
/// that the packet is tagged, and the tags need no item of their own.
fn leaves(ether_type: &Matched<EtherType>, next: &Item) -> bool {
    let tags = [EtherType::VLAN, EtherType::QINQ, EtherType(0x9100)];
    let layer3 = match next {
        Item::Ipv4(_) => Some(EtherType::IPV4),
        Item::Ipv6(_) => Some(EtherType::IPV6),
        _ => None,
    };
    layer3
        .iter()
        .chain(&tags)
        .any(|value| ether_type.matches(*value))
}

/// Headers that the packet is known to have, of one tunnel level.
#[derive(Clone, Copy, Default)]
struct Headers {
    eth: bool,
    vlans: usize,
    ipv4: bool,
    ipv6: bool,
    ports: bool,
    vxlan: bool,
}

/// The levels of the pattern, innermost first.
fn levels(pattern: &[Item]) -> Vec<Headers> {
    let mut levels = vec![Headers::default()];
    for item in pattern {
        let level = levels.len() - 1;
        let headers = &mut levels[level];
        match item {
            Item::Eth(_) => headers.eth = true,
            Item::Vlan(_) => headers.vlans += 1,
            Item::Ipv4(_) => headers.ipv4 = true,
            Item::Ipv6(_) => headers.ipv6 = true,
            Item::Tcp(_) | Item::Udp(_) => headers.ports = true,
            Item::Vxlan(_) => {
                headers.vxlan = true;
                // RFC 7348: the payload is an Ethernet frame, whether or not an item says so.
                levels.push(Headers {
                    eth: true,
                    ..Headers::default()
                });
            }
            _ => {}
        }
    }
    levels.reverse();
    levels
}

fn check_actions(rule: &Rule) -> Result<(), FlowError> {
    let mut levels = levels(&rule.pattern);
    let mut fate: Option<&'static str> = None;
    for (index, action) in rule.actions.iter().enumerate() {
        let name = action.name();
        match (fate, action.is_fate()) {
            (Some(first), true) => {
                return Err(FlowError::SeveralFates {
                    index,
                    action: name,
                    first,
                });
            }
            (Some(fate), false) if !matches!(action, Action::Count { .. } | Action::Void) => {
                return Err(FlowError::ActionAfterFate {
                    index,
                    action: name,
                    fate,
                });
            }
            (None, true) => fate = Some(name),
            _ => {}
        }
        match action {
            Action::Jump { group } if *group == rule.attributes.group => {
                return Err(FlowError::JumpToOwnGroup {
                    index,
                    group: *group,
                });
            }
            Action::OfPushVlan { ethertype }
                if ![EtherType::VLAN, EtherType::QINQ].contains(ethertype) =>
            {
                return Err(FlowError::TagProtocol {
                    index,
                    ethertype: *ethertype,
                });
            }
            _ => {}
        }
        apply(action, &mut levels).map_err(|needs| FlowError::MissingHeader {
            index,
            action: name,
            needs,
        })?;
    }
    fate.map(|_| ()).ok_or(FlowError::NoFate)
}

/// Follows what an action does to the headers; an error names the header it lacks.
fn apply(action: &Action, levels: &mut Vec<Headers>) -> Result<(), &'static str> {
    let mut headers = levels.pop().unwrap_or_default();
    let need = |present: bool, what| if present { Ok(()) } else { Err(what) };
    match action {
        Action::SetMacSrc { .. } | Action::SetMacDst { .. } => need(headers.eth, "`eth`")?,
        Action::SetIpv4Src { .. } | Action::SetIpv4Dst { .. } => need(headers.ipv4, "`ipv4`")?,
        Action::SetIpv6Src { .. } | Action::SetIpv6Dst { .. } => need(headers.ipv6, "`ipv6`")?,
        Action::SetTpSrc { .. } | Action::SetTpDst { .. } => {
            need(headers.ports, "`tcp` or `udp`")?;
        }
        Action::DecTtl | Action::SetTtl { .. } => {
            need(headers.ipv4 || headers.ipv6, "`ipv4` or `ipv6`")?;
        }
        Action::OfSetVlanVid { .. } | Action::OfSetVlanPcp { .. } => {
            need(headers.vlans > 0, "`vlan`")?;
        }
        Action::OfPopVlan => {
            need(headers.vlans > 0, "`vlan`")?;
            headers.vlans -= 1;
        }
        Action::OfPushVlan { .. } => headers.vlans += 1,
        Action::VxlanDecap => {
            need(headers.vxlan, "`vxlan`")?;
            headers = levels.pop().unwrap_or_default();
        }
        Action::VxlanEncap(definition) => {
            levels.push(headers);
            let ipv4 = definition.addresses.src().is_ipv4();
            headers = Headers {
                eth: true,
                vlans: 0,
                ipv4,
                ipv6: !ipv4,
                ports: true,
                vxlan: true,
            };
        }
        Action::Void
        | Action::Count { .. }
        | Action::Mark { .. }
        | Action::Drop
        | Action::Jump { .. }
        | Action::PortId { .. }
        | Action::PortRepresentor { .. }
        | Action::RepresentedPort { .. } => {}
    }
    levels.push(headers);
    Ok(())
}

//! Whether the actions of a rule make sense: what each does to the headers is followed, level by level
//! of encapsulation, so that an action on a header that the packet is not known to have is found.

use super::Rule;
use super::action::Action;
use super::field::EtherType;
use super::item::Item;
use super::modify::{FieldId, FieldPlace, ModifyField, ModifySource};
use super::validate::FlowError;

/// Headers that the packet is known to have, of one tunnel level.
#[derive(Clone, Copy, Default)]
struct Headers {
    eth: bool,
    vlans: usize,
    mpls: usize,
    ipv4: bool,
    ipv6: bool,
    tcp: bool,
    udp: bool,
    tunnel: Option<Tunnel>,
    psc: bool,
    /// Nothing is known, so any header may be there.
    unknown: bool,
}

/// What separates a level from the one inside it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    Vxlan,
    Nvgre,
    Geneve,
    Gtp,
    Other,
}

impl Headers {
    /// An Ethernet frame of which no more is known.
    fn frame() -> Self {
        Self {
            eth: true,
            ..Self::default()
        }
    }

    /// The outer headers of an encapsulation.
    fn outer(ipv4: bool, udp: bool, tunnel: Tunnel) -> Self {
        Self {
            eth: true,
            ipv4,
            ipv6: !ipv4,
            udp,
            tunnel: Some(tunnel),
            ..Self::default()
        }
    }
}

/// The levels of the pattern, innermost first.
fn levels(pattern: &[Item]) -> Vec<Headers> {
    let mut levels = vec![];
    let mut headers = Headers::default();
    for item in pattern {
        let tunnel = match item {
            Item::Eth(_) => {
                headers.eth = true;
                continue;
            }
            Item::Vlan(_) => {
                headers.vlans += 1;
                continue;
            }
            Item::Mpls(_) => {
                headers.mpls += 1;
                continue;
            }
            Item::Ipv4(_) => {
                headers.ipv4 = true;
                continue;
            }
            Item::Ipv6(_) => {
                headers.ipv6 = true;
                continue;
            }
            Item::Tcp(_) => {
                headers.tcp = true;
                continue;
            }
            Item::Udp(_) => {
                headers.udp = true;
                continue;
            }
            Item::Any(_) | Item::Raw(_) => {
                headers.unknown = true;
                continue;
            }
            Item::GtpPsc(_) => {
                if let Some(outer) = levels.last_mut() {
                    let outer: &mut Headers = outer;
                    outer.psc = true;
                }
                continue;
            }
            Item::Vxlan(_) => Tunnel::Vxlan,
            Item::Nvgre(_) => Tunnel::Nvgre,
            Item::Geneve(_) => Tunnel::Geneve,
            Item::Gtp(_) | Item::Gtpu(_) | Item::Gtpc(_) => Tunnel::Gtp,
            Item::VxlanGpe(_) | Item::Gre(_) => Tunnel::Other,
            _ => continue,
        };
        headers.tunnel = Some(tunnel);
        levels.push(headers);
        // RFC 7348 and RFC 7637: the payload is an Ethernet frame, whether or not an item says so.
        headers = match tunnel {
            Tunnel::Vxlan | Tunnel::Nvgre => Headers::frame(),
            _ => Headers::default(),
        };
    }
    levels.push(headers);
    levels.reverse();
    levels
}

/// Checks the actions of a rule.
pub(super) fn check(rule: &Rule) -> Result<(), FlowError> {
    let mut levels = levels(&rule.pattern);
    let group = Some(rule.attributes.group);
    let fate = check_list(&rule.actions, group, &mut levels)?;
    fate.map(|_| ()).ok_or(FlowError::NoFate)
}

/// Checks actions without a pattern: any header may be there, and a fate may be missing.
pub(super) fn check_alone(actions: &[Action]) -> Result<(), FlowError> {
    let unknown = Headers {
        unknown: true,
        ..Headers::default()
    };
    // No group is the own one of something that is in none.
    check_list(actions, None, &mut vec![unknown]).map(|_| ())
}

/// Checks actions and answers the one that decides where the packet goes.
fn check_list(
    actions: &[Action],
    group: Option<u32>,
    levels: &mut Vec<Headers>,
) -> Result<Option<&'static str>, FlowError> {
    let mut fate: Option<&'static str> = None;
    for (index, action) in actions.iter().enumerate() {
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
        check_one(actions, index, action, group)?;
        if let Action::Sample(sample) = action {
            check_list(sample.actions(), group, &mut levels.clone()).map_err(|error| {
                FlowError::Sample {
                    index,
                    error: Box::new(error),
                }
            })?;
        }
        apply(index, action, levels)?;
    }
    Ok(fate)
}

/// Checks what an action says by itself.
fn check_one(
    actions: &[Action],
    index: usize,
    action: &Action,
    own_group: Option<u32>,
) -> Result<(), FlowError> {
    let name = action.name();
    let target = match action {
        Action::Jump { group } => Some(*group),
        Action::Ct(ct) => ct.group,
        _ => None,
    };
    if let Some(group) = target
        && target == own_group
    {
        return Err(FlowError::JumpToOwnGroup {
            index,
            action: name,
            group,
        });
    }
    match action {
        Action::OfPushVlan { ethertype }
            if ![EtherType::VLAN, EtherType::QINQ].contains(ethertype) =>
        {
            Err(FlowError::TagProtocol {
                index,
                ethertype: *ethertype,
            })
        }
        Action::OfPushMpls { ethertype }
            if ![EtherType::MPLS, EtherType::MPLS_MULTICAST].contains(ethertype) =>
        {
            Err(FlowError::MplsProtocol {
                index,
                ethertype: *ethertype,
            })
        }
        Action::Conntrack => Err(FlowError::OnlyIndirect {
            index,
            action: name,
        }),
        Action::Age { .. } if actions.iter().take(index).any(|other| other.name() == name) => {
            Err(FlowError::DuplicateAction {
                index,
                action: name,
            })
        }
        _ => Ok(()),
    }
}

/// Follows what an action does to the headers.
fn apply(index: usize, action: &Action, levels: &mut Vec<Headers>) -> Result<(), FlowError> {
    let missing = |needs| FlowError::MissingHeader {
        index,
        action: action.name(),
        needs,
    };
    if let Action::ModifyField(modify) = action {
        return check_modify(index, modify, levels);
    }
    let mut headers = levels.pop().unwrap_or_default();
    if let Some((present, needs)) = header_needed(action, &headers)
        && !present
        && !headers.unknown
    {
        return Err(missing(needs));
    }
    match action {
        Action::OfPopVlan => headers.vlans = headers.vlans.saturating_sub(1),
        Action::OfPushVlan { .. } => headers.vlans += 1,
        Action::OfPopMpls { .. } => headers.mpls = headers.mpls.saturating_sub(1),
        Action::OfPushMpls { .. } => headers.mpls += 1,
        Action::L2Encap(definition) => {
            headers.eth = true;
            headers.vlans += usize::from(definition.vlan_tci.is_some());
        }
        Action::L2Decap { vlan } => {
            headers.eth = false;
            headers.vlans = headers.vlans.saturating_sub(usize::from(*vlan));
        }
        Action::VxlanDecap | Action::NvgreDecap => {
            let unknown = Headers {
                unknown: headers.unknown,
                ..Headers::default()
            };
            headers = levels.pop().unwrap_or(unknown);
        }
        Action::VxlanEncap(definition) => {
            levels.push(headers);
            let ipv4 = definition.addresses.src().is_ipv4();
            headers = Headers::outer(ipv4, true, Tunnel::Vxlan);
        }
        Action::NvgreEncap(definition) => {
            levels.push(headers);
            let ipv4 = definition.addresses.src().is_ipv4();
            headers = Headers::outer(ipv4, false, Tunnel::Nvgre);
        }
        // Bytes may be any headers.
        Action::RawEncap(_) | Action::RawDecap(_) => {
            levels.clear();
            headers = Headers {
                unknown: true,
                ..Headers::default()
            };
        }
        _ => {}
    }
    levels.push(headers);
    Ok(())
}

/// Whether the header that an action works on is there, and its name.
fn header_needed(action: &Action, headers: &Headers) -> Option<(bool, &'static str)> {
    let ip = headers.ipv4 || headers.ipv6;
    Some(match action {
        Action::SetMacSrc { .. }
        | Action::SetMacDst { .. }
        | Action::MacSwap
        | Action::L2Decap { .. } => (headers.eth, "`eth`"),
        Action::SetIpv4Src { .. } | Action::SetIpv4Dst { .. } | Action::SetIpv4Dscp { .. } => {
            (headers.ipv4, "`ipv4`")
        }
        Action::SetIpv6Src { .. } | Action::SetIpv6Dst { .. } | Action::SetIpv6Dscp { .. } => {
            (headers.ipv6, "`ipv6`")
        }
        Action::SetTpSrc { .. } | Action::SetTpDst { .. } => {
            (headers.tcp || headers.udp, "`tcp` or `udp`")
        }
        Action::IncTcpSeq { .. }
        | Action::DecTcpSeq { .. }
        | Action::IncTcpAck { .. }
        | Action::DecTcpAck { .. } => (headers.tcp, "`tcp`"),
        Action::DecTtl | Action::OfDecNwTtl | Action::SetTtl { .. } => (ip, "`ipv4` or `ipv6`"),
        Action::OfSetVlanVid { .. } | Action::OfSetVlanPcp { .. } | Action::OfPopVlan => {
            (headers.vlans > 0, "`vlan`")
        }
        Action::OfPopMpls { .. } => (headers.mpls > 0, "`mpls`"),
        Action::VxlanDecap => (headers.tunnel == Some(Tunnel::Vxlan), "`vxlan`"),
        Action::NvgreDecap => (headers.tunnel == Some(Tunnel::Nvgre), "`nvgre`"),
        _ => return None,
    })
}

/// Whether the fields that `modify_field` names are there.
fn check_modify(index: usize, modify: &ModifyField, levels: &[Headers]) -> Result<(), FlowError> {
    check_place(index, &modify.destination, levels)?;
    match &modify.source {
        ModifySource::Field(place) => check_place(index, place, levels),
        ModifySource::Value { .. } => Ok(()),
    }
}

fn check_place(index: usize, place: &FieldPlace, levels: &[Headers]) -> Result<(), FlowError> {
    const ACTION: &str = "modify_field";
    let depth = match place.field {
        // The level of a tag is its index.
        FieldId::Tag => 0,
        // 0 is the driver's default, here the outermost.
        _ => place.level.saturating_sub(1),
    };
    let level = usize::try_from(depth)
        .ok()
        .and_then(|depth| levels.len().checked_sub(depth + 1))
        .and_then(|from_end| levels.get(from_end));
    let unknown = levels.iter().any(|headers| headers.unknown);
    let Some(headers) = level else {
        return match unknown {
            true => Ok(()),
            false => Err(FlowError::MissingLevel {
                index,
                action: ACTION,
                level: place.level,
                found: levels.len(),
            }),
        };
    };
    match field_needs(place.field, headers) {
        Some((false, needs)) if !headers.unknown => Err(FlowError::MissingHeader {
            index,
            action: ACTION,
            needs,
        }),
        _ => Ok(()),
    }
}

/// Whether the header that a field is in is there, and its name.
fn field_needs(field: FieldId, headers: &Headers) -> Option<(bool, &'static str)> {
    Some(match field {
        FieldId::MacDst | FieldId::MacSrc | FieldId::MacType => (headers.eth, "`eth`"),
        FieldId::VlanType | FieldId::VlanId => (headers.vlans > 0, "`vlan`"),
        FieldId::Ipv4Dscp
        | FieldId::Ipv4Ttl
        | FieldId::Ipv4Src
        | FieldId::Ipv4Dst
        | FieldId::Ipv4Ecn => (headers.ipv4, "`ipv4`"),
        FieldId::Ipv6Dscp
        | FieldId::Ipv6HopLimit
        | FieldId::Ipv6Src
        | FieldId::Ipv6Dst
        | FieldId::Ipv6Ecn => (headers.ipv6, "`ipv6`"),
        FieldId::TcpPortSrc
        | FieldId::TcpPortDst
        | FieldId::TcpSeqNum
        | FieldId::TcpAckNum
        | FieldId::TcpFlags => (headers.tcp, "`tcp`"),
        FieldId::UdpPortSrc | FieldId::UdpPortDst => (headers.udp, "`udp`"),
        FieldId::VxlanVni => (headers.tunnel == Some(Tunnel::Vxlan), "`vxlan`"),
        FieldId::GeneveVni => (headers.tunnel == Some(Tunnel::Geneve), "`geneve`"),
        FieldId::GtpTeid => (headers.tunnel == Some(Tunnel::Gtp), "`gtpu`"),
        FieldId::GtpPscQfi => (headers.psc, "`gtp_psc`"),
        FieldId::Start
        | FieldId::Tag
        | FieldId::Mark
        | FieldId::Meta
        | FieldId::Pointer
        | FieldId::Value
        | FieldId::MeterColor => return None,
    })
}

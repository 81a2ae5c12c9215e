//! From the flow model's actions to those of the engine.
//!
//! Every action of `Action::TABLE` is carried out or refused here by name.

use std::net::IpAddr;

use sumeru_flow::model::{
    Action, CtAction, CtNat, FieldId, FieldValue, L2Encap, MAX_SAMPLE_ACTIONS, MacAddr, MeterColor,
};
use sumeru_packet::edit::Change;
use sumeru_packet::headroom::ROOM;
use sumeru_packet::{Field, Layer};

use super::modify::{self, Modification};
use super::{ActionList, Age, CtChange, CtRule, RuleAction, Spread};
use crate::conntrack::{Nat, NatRange, POLICIES};
use crate::program::{Remove, Replace};
use crate::qos::meter::Colour;
use crate::rules::RuleError;
use crate::rules::compile::{Context, resolve};
use crate::rules::objects::{Objects, Use};

/// What a rule does, beside the list also what control keeps of it.
#[derive(Debug, Default)]
pub struct Compiled {
    /// What is done with packets.
    pub list: ActionList,
    /// When the rule is old.
    pub age: Option<Age>,
    /// The objects it names.
    pub uses: Vec<Use>,
}

/// The action that a list is being made from.
struct List<'a> {
    context: &'a Context<'a>,
    objects: &'a Objects,
    actions: Vec<RuleAction>,
    /// What the next encapsulation replaces.
    removed: Option<Remove>,
    fate: Option<RuleAction>,
    count: Option<u32>,
    age: Option<Age>,
    uses: Vec<Use>,
}

fn unsupported(what: &'static str, expected: &'static str) -> RuleError {
    RuleError::Unsupported { what, expected }
}

/// Compiles the actions of a rule.
///
/// # Errors
/// See [`RuleError`].
pub fn compile(
    actions: &[Action],
    context: &Context,
    objects: &Objects,
) -> Result<Compiled, RuleError> {
    let mut list = List {
        context,
        objects,
        actions: Vec::with_capacity(actions.len()),
        removed: None,
        fate: None,
        count: None,
        age: None,
        uses: Vec::new(),
    };
    for action in actions {
        list.add(action)?;
    }
    list.end_removal()?;
    if list.age.is_some() && !list.actions.contains(&RuleAction::Count) {
        // What was counted last tells whether packets still come.
        list.actions.insert(0, RuleAction::Count);
    }
    // What stands behind the fate only counts; nothing is done after a fate.
    list.actions.extend(list.fate);
    Ok(Compiled {
        list: list.actions.into(),
        age: list.age,
        uses: list.uses,
    })
}

impl List<'_> {
    fn add(&mut self, action: &Action) -> Result<(), RuleError> {
        match action {
            Action::Void => return Ok(()),
            Action::RawDecap(raw) => {
                let bytes = raw.data.as_bytes().len() as u16;
                return self.remove(Remove::Bytes(bytes));
            }
            Action::L2Decap { vlan } => return self.remove(Remove::Link { tagged: *vlan }),
            Action::RawEncap(raw) => return self.put(raw.data.as_bytes(), "raw_encap"),
            Action::L2Encap(header) => {
                if self.removed.is_none() {
                    return Err(unsupported(
                        "l2_encap of a frame that has an Ethernet header",
                        "l2_decap or raw_decap right in front of it, or raw_encap of a whole frame",
                    ));
                }
                return self.put(&link_header(header), "l2_encap");
            }
            Action::Age { timeout, context } => {
                self.age = Some(Age {
                    timeout: timeout.to_bits() as u32,
                    context: *context,
                });
                return Ok(());
            }
            _ => self.end_removal()?,
        }
        let done = self.compile(action)?;
        let shared_fate = match action {
            Action::Indirect { id } => self.objects.get(self.context.port, *id)?.action.is_fate(),
            _ => false,
        };
        if done.is_fate() || shared_fate {
            self.fate = Some(done);
        } else {
            self.actions.push(done);
        }
        Ok(())
    }

    fn remove(&mut self, remove: Remove) -> Result<(), RuleError> {
        self.end_removal()?;
        self.removed = Some(remove);
        Ok(())
    }

    /// A removal that nothing was put in place of.
    fn end_removal(&mut self) -> Result<(), RuleError> {
        match self.removed.take() {
            None => Ok(()),
            Some(Remove::Link { .. }) => Err(unsupported(
                "l2_decap alone",
                "l2_encap or raw_encap of a new Ethernet header right behind it",
            )),
            Some(remove) => {
                self.replace(remove, &[]);
                Ok(())
            }
        }
    }

    fn put(&mut self, header: &[u8], what: &'static str) -> Result<(), RuleError> {
        if header.len() > ROOM {
            return Err(unsupported(what, "a header of at most 128 bytes"));
        }
        let remove = self.removed.take().unwrap_or(Remove::Bytes(0));
        self.replace(remove, header);
        Ok(())
    }

    fn replace(&mut self, remove: Remove, header: &[u8]) {
        let header = header.into();
        self.actions
            .push(RuleAction::Replace(Box::new(Replace { remove, header })));
    }

    fn compile(&mut self, action: &Action) -> Result<RuleAction, RuleError> {
        let outer = Layer::Outer;
        let port = self.context.port;
        Ok(match action {
            Action::Count { id } => {
                if self.count.is_some_and(|first| first != *id) {
                    return Err(unsupported(
                        "count of several identifiers",
                        "one counter per rule; others as indirect actions",
                    ));
                }
                self.count = Some(*id);
                RuleAction::Count
            }
            Action::Drop => RuleAction::Drop,
            Action::Passthru => RuleAction::Passthru,
            Action::Jump { group } => RuleAction::Jump(*group),
            Action::Flag => RuleAction::Register(Field::Mark, 0, u32::MAX),
            Action::Mark { id } => RuleAction::Register(Field::Mark, *id, u32::MAX),
            Action::SetTag { data, index, mask } => {
                RuleAction::Register(modify::tag((*index).into())?, *data & *mask, *mask)
            }
            Action::SetMeta { data, mask } => {
                RuleAction::Register(Field::Meta, *data & *mask, *mask)
            }
            Action::PortId { port } | Action::RepresentedPort { port } => {
                RuleAction::Output(resolve(self.context, action.name(), port)?)
            }
            Action::Queue { index } => RuleAction::Queue(*index),
            Action::Rss(rss) => RuleAction::Spread(Box::new(Spread::new(rss)?)),
            Action::Sample(sample) => self.sample(sample)?,
            Action::Indirect { id } => {
                let number = self.objects.number(port, *id)?;
                self.uses.push(Use::Indirect(port, *id));
                RuleAction::Indirect(number)
            }
            Action::Meter { mtr_id } => {
                let meter = self.objects.meter(port, *mtr_id)?;
                self.uses.push(Use::Meter(port, *mtr_id));
                RuleAction::Meter(meter)
            }
            Action::MeterColor { color } => RuleAction::Colour(match color {
                MeterColor::Green => Colour::Green,
                MeterColor::Yellow => Colour::Yellow,
                MeterColor::Red => Colour::Red,
                MeterColor::All => return Err(unsupported("color all", "green, yellow or red")),
            }),
            Action::OfPopVlan => RuleAction::PopVlan,
            Action::OfPushVlan { ethertype } => RuleAction::PushVlan(ethertype.to_bits() as u16),
            Action::OfSetVlanVid { vlan_vid } => RuleAction::SetVlanVid(vlan_vid.to_bits() as u16),
            Action::OfSetVlanPcp { vlan_pcp } => RuleAction::SetVlanPcp(vlan_pcp.to_bits() as u8),
            Action::MacSwap => RuleAction::MacSwap,
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
            Action::SetIpv4Dscp { dscp } => {
                change(action, FieldId::Ipv4Dscp, Change::Set, dscp.to_bits())?
            }
            Action::SetIpv6Dscp { dscp } => {
                change(action, FieldId::Ipv6Dscp, Change::Set, dscp.to_bits())?
            }
            Action::SetTpSrc { port } => RuleAction::Set(Field::L4Src(outer), (*port).into()),
            Action::SetTpDst { port } => RuleAction::Set(Field::L4Dst(outer), (*port).into()),
            Action::IncTcpSeq { value } => {
                change(action, FieldId::TcpSeqNum, Change::Add, (*value).into())?
            }
            Action::DecTcpSeq { value } => {
                change(action, FieldId::TcpSeqNum, Change::Sub, (*value).into())?
            }
            Action::IncTcpAck { value } => {
                change(action, FieldId::TcpAckNum, Change::Add, (*value).into())?
            }
            Action::DecTcpAck { value } => {
                change(action, FieldId::TcpAckNum, Change::Sub, (*value).into())?
            }
            Action::DecTtl | Action::OfDecNwTtl => RuleAction::DecTtl,
            Action::SetTtl { ttl_value } => {
                RuleAction::Set(Field::IpTtl(outer), (*ttl_value).into())
            }
            Action::ModifyField(modify) => {
                RuleAction::Modify(Box::new(modify::modification(modify)?))
            }
            Action::VxlanDecap | Action::NvgreDecap => RuleAction::Decapsulate,
            Action::VxlanEncap(definition) => RuleAction::Encapsulate(*definition),
            Action::NvgreEncap(definition) => RuleAction::EncapsulateNvgre(*definition),
            Action::Ct(ct) => RuleAction::Ct(Box::new(compile_ct(ct)?)),
            refused => return Err(refusal(refused)),
        })
    }

    fn sample(&mut self, sample: &sumeru_flow::model::Sample) -> Result<RuleAction, RuleError> {
        debug_assert!(sample.actions().len() <= MAX_SAMPLE_ACTIONS);
        let refused = sample.actions().iter().any(|action| {
            matches!(
                action,
                Action::Count { .. } | Action::Queue { .. } | Action::Rss(_)
            )
        });
        if refused {
            return Err(unsupported(
                "count, queue and rss inside of sample",
                "encapsulations and one port; count on the rule itself",
            ));
        }
        let inside = compile(sample.actions(), self.context, self.objects)?;
        if !matches!(inside.list.last(), Some(RuleAction::Output(_))) {
            return Err(unsupported(
                "sample without a port",
                "represented_port for the copies to go to",
            ));
        }
        self.uses.extend(inside.uses);
        Ok(RuleAction::Sample(sample.ratio(), inside.list))
    }
}

/// Why an action is not carried out.
fn refusal(action: &Action) -> RuleError {
    let (what, expected) = match action {
        Action::PortRepresentor { .. } => (
            "action port_representor",
            "send to a guest or the wire with represented_port",
        ),
        Action::OfPopMpls { .. } => (
            "of_pop_mpls",
            "raw_decap of the headers with the label and raw_encap of those without",
        ),
        Action::OfPushMpls { .. } => (
            "of_push_mpls",
            "raw_decap of the Ethernet header and raw_encap of one with the label",
        ),
        Action::Conntrack => ("conntrack", "the action ct, which tracks by itself"),
        Action::MeterMark { .. } => (
            "meter_mark",
            "a meter of its own, named by the action meter",
        ),
        other => (other.name(), "the engine does not carry out this action"),
    };
    unsupported(what, expected)
}

fn change(
    action: &Action,
    field: FieldId,
    change: Change,
    value: u128,
) -> Result<RuleAction, RuleError> {
    let modification = Modification::of(action.name(), field, change, value)?;
    Ok(RuleAction::Modify(Box::new(modification)))
}

/// The bytes of an Ethernet header.
fn link_header(header: &L2Encap) -> Vec<u8> {
    let address = |mac: MacAddr| crate::translate::mac_of(mac.to_bits());
    let mut bytes = [address(header.eth_dst), address(header.eth_src)].concat();
    if let Some(tci) = header.vlan_tci {
        bytes.extend([0x81, 0]);
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend((header.ethertype.to_bits() as u16).to_be_bytes());
    bytes
}

fn mac(address: MacAddr) -> u128 {
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

//! A rule's actions in the slow path: operations for the frame, and what the key says of it afterwards.

use sumeru_packet::field::{EXTRA_BASE, LAYERS_END, OUTER_BASE, VLAN_PRESENT};
use sumeru_packet::{Field, FlowMask, Layer};

use super::key::bits_of;
use super::{Walk, mac_of};
use crate::classifier::Found;
use crate::program::{Modify, Op, Replace, Sample, Source};
use crate::rules::RuleAction;
use crate::rules::action::{Modification, Operand};
use crate::stats::Drop;

const OUTER: Layer = Layer::Outer;

/// Where a frame goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With the rules of a group.
    Group(u32),
    /// Behind the rules.
    Pass,
    /// Nowhere: its fate is decided.
    Over,
}

impl Walk<'_> {
    /// Runs a rule's actions.
    pub(super) fn apply(&mut self, rule: &Found) -> Next {
        let actions = self.tables.rules.actions(rule.program);
        let actions = actions.iter().flat_map(|actions| actions.iter());
        // Validation demands a fate, so the end is not reached; dropping is the safe answer.
        self.run_all(actions, rule.counter).unwrap_or_else(|| {
            self.drop(Drop::Rule);
            Next::Over
        })
    }

    /// Runs actions up to the one that decides.
    fn run_all<'r>(
        &mut self,
        actions: impl Iterator<Item = &'r RuleAction>,
        counter: Option<u32>,
    ) -> Option<Next> {
        for action in actions {
            self.note("action", format_args!("{action}"));
            let next = match action {
                RuleAction::Indirect(number) => {
                    // What it says may change; whoever decided by it is told by the generation of the rules.
                    let list = self.tables.rules.object(*number);
                    self.run_all(list.into_iter().flatten(), counter)
                }
                action => self.act(action, counter),
            };
            if next.is_some() {
                return next;
            }
            if self.over {
                return Some(Next::Over);
            }
        }
        None
    }

    /// Carries out one action; answers where the frame goes on if that is decided by it.
    fn act(&mut self, action: &RuleAction, counter: Option<u32>) -> Option<Next> {
        let ops = &mut self.out.ops;
        match action {
            RuleAction::Count => ops.extend(counter.map(Op::Count)),
            RuleAction::Tally(counter) => ops.push(Op::Count(*counter)),
            RuleAction::Meter(meter) => ops.push(Op::Meter(*meter)),
            RuleAction::Colour(colour) => ops.push(Op::Colour(*colour)),
            RuleAction::Drop => {
                self.drop(Drop::Rule);
                return Some(Next::Over);
            }
            RuleAction::Passthru => return Some(Next::Pass),
            RuleAction::Queue(queue) => {
                ops.push(Op::Queue(*queue));
                return Some(Next::Pass);
            }
            RuleAction::Spread(spread) => {
                ops.push(Op::Spread(spread.clone()));
                return Some(Next::Pass);
            }
            RuleAction::Jump(group) => return Some(Next::Group(*group)),
            RuleAction::Output(port) => {
                self.output(*port);
                return Some(Next::Over);
            }
            RuleAction::Register(field, value, mask) => {
                self.write_bits(*field, (*mask).into(), (*value).into());
            }
            RuleAction::Set(field, value) => {
                self.set_op(*field, *value);
                self.write(*field, *value);
            }
            RuleAction::Modify(modification) => self.modify(modification),
            RuleAction::Ct(ct) => {
                if !self.track(ct) {
                    return Some(Next::Over);
                }
                return ct.group.map(Next::Group);
            }
            RuleAction::Decapsulate => self.decapsulate(),
            RuleAction::Encapsulate(definition) => {
                if !self.encapsulate_vxlan(definition) {
                    return Some(Next::Over);
                }
            }
            RuleAction::EncapsulateNvgre(definition) => {
                if !self.encapsulate_nvgre(definition) {
                    return Some(Next::Over);
                }
            }
            RuleAction::Replace(replace) => self.put_front(replace),
            RuleAction::Sample(ratio, actions) => self.sample(*ratio, actions),
            // Objects name no objects.
            RuleAction::Indirect(_) => {}
            RuleAction::MacSwap
            | RuleAction::DecTtl
            | RuleAction::PushVlan(_)
            | RuleAction::PopVlan
            | RuleAction::SetVlanVid(_)
            | RuleAction::SetVlanPcp(_) => self.edit(action),
        }
        None
    }

    /// Edits whose result follows from what was there.
    fn edit(&mut self, action: &RuleAction) {
        let (tag, second) = (Field::VlanTci(OUTER), Field::InnerVlanTci(OUTER));
        match action {
            RuleAction::MacSwap => {
                let (src, dst) = (Field::EthSrc(OUTER), Field::EthDst(OUTER));
                // Looking may read the frame as the operations so far leave it.
                let from = (self.origin(src, u128::MAX), self.origin(dst, u128::MAX));
                let values = (self.key.get(src), self.key.get(dst));
                self.out.ops.push(Op::SwapEth);
                self.derive(src, u128::MAX, values.1, from.1);
                self.derive(dst, u128::MAX, values.0, from.0);
            }
            RuleAction::DecTtl => {
                let ttl = Field::IpTtl(OUTER);
                let from = self.origin(ttl, u128::MAX);
                self.out.ops.push(Op::DecTtl);
                let value = self.key.get(ttl).saturating_sub(1);
                self.derive(ttl, u128::MAX, value, from);
            }
            RuleAction::PushVlan(tpid) => {
                let from = self.origin(tag, u128::MAX);
                let behind = self.origin(second, u128::MAX);
                self.buried.push((self.key.get(second), behind));
                self.out.ops.push(Op::PushVlan(*tpid));
                let outermost = self.key.get(tag);
                self.derive(second, u128::MAX, outermost, from);
                self.write(tag, VLAN_PRESENT.into());
            }
            RuleAction::PopVlan => {
                let from = self.origin(second, u128::MAX);
                self.out.ops.push(Op::PopVlan);
                let inner = self.key.get(second);
                self.derive(tag, u128::MAX, inner, from);
                let (behind, from) = self.buried.pop().unwrap_or((0, FlowMask::ZERO));
                self.derive(second, u128::MAX, behind, from);
            }
            RuleAction::SetVlanVid(vid) => {
                self.out.ops.push(Op::SetVlanVid(*vid));
                self.write_bits(tag, 0xfff, (*vid).into());
            }
            RuleAction::SetVlanPcp(pcp) => {
                self.out.ops.push(Op::SetVlanPcp(*pcp));
                self.write_bits(tag, 0xe000, u128::from(*pcp) << 13);
            }
            _ => {}
        }
    }

    fn set_op(&mut self, field: Field, value: u128) {
        // Which header the operation edits depends on the frame's type.
        let is_v6 = matches!(field, Field::IpSrc(_) | Field::IpDst(_))
            && self.get(Field::EthType(OUTER)) == 0x86dd;
        let op = match field {
            Field::EthSrc(_) => Op::SetEthSrc(mac_of(value)),
            Field::EthDst(_) => Op::SetEthDst(mac_of(value)),
            Field::IpSrc(_) if is_v6 => Op::SetIpv6Src(Box::new(value)),
            Field::IpDst(_) if is_v6 => Op::SetIpv6Dst(Box::new(value)),
            Field::IpSrc(_) => Op::SetIpv4Src(value as u32),
            Field::IpDst(_) => Op::SetIpv4Dst(value as u32),
            Field::L4Src(_) => Op::SetL4Src(value as u16),
            Field::L4Dst(_) => Op::SetL4Dst(value as u16),
            Field::IpTtl(_) => Op::SetTtl(value as u8),
            _ => Op::Drop(Drop::Action.into()),
        };
        self.out.ops.push(op);
    }

    fn modify(&mut self, modification: &Modification) {
        let to = modification.to;
        let (field, mask) = (to.field, to.mask());
        let (value, mut from) = match modification.by {
            Operand::Value(value) => (value, FlowMask::ZERO),
            Operand::Place(place) if to.header.is_some() && place.header.is_none() => {
                // A register is not in the frame: its value becomes part of the operation.
                (
                    self.get_bits(place.field, place.mask()) >> place.shift,
                    FlowMask::ZERO,
                )
            }
            Operand::Place(place) => {
                let from = self.origin(place.field, place.mask());
                (
                    (self.key.get(place.field) & place.mask()) >> place.shift,
                    from,
                )
            }
        };
        if modification.change != sumeru_packet::edit::Change::Set {
            from.merge(&self.origin(field, mask));
        }
        if self.over {
            return;
        }
        let old = self.key.get(field);
        if let Some((layer, bits)) = to.header {
            let by = match modification.by {
                Operand::Place(place) => match place.header {
                    Some((layer, bits)) => Source::Bits(layer, bits),
                    None => Source::Value(value),
                },
                Operand::Value(value) => Source::Value(value),
            };
            let change = modification.change;
            let modify = Modify {
                layer,
                bits,
                change,
                by,
            };
            self.out.ops.push(Op::Modify(Box::new(modify)));
        }
        let result = modification.result((old & mask) >> to.shift, value);
        match modification.by {
            // The key may lack what the frame has.
            Operand::Place(place) if !place.is_kept() && to.is_kept() => {
                self.seen.forget(&bits_of(field, mask));
            }
            _ => self.derive(field, mask, result << to.shift, from),
        }
    }

    /// Nothing of the frame is known behind other headers in front of it, until somebody looks.
    fn put_front(&mut self, replace: &Replace) {
        self.out.ops.push(Op::Replace(Box::new(replace.clone())));
        let mut all = bits_of(Field::Layers, u128::MAX);
        for word in (OUTER_BASE..LAYERS_END).chain(EXTRA_BASE..sumeru_packet::key::WORDS) {
            all.set_word(word, u64::MAX);
        }
        self.seen.forget(&all);
    }

    /// What is done with copies changes nothing for the frame itself.
    fn sample(&mut self, ratio: u32, actions: &[RuleAction]) {
        let ops = self.apart(|walk| {
            walk.run_all(actions.iter(), None);
        });
        // A remote that is not resolved yet gets no copies until it is, and nobody without an underlay.
        let nowhere = [Drop::NeighbourUnresolved, Drop::NoUnderlay];
        let lost = |op: &Op| matches!(op, Op::Drop(reason) if nowhere.iter().any(|no| *reason == (*no).into()));
        if ops.last().is_some_and(|last| !lost(last)) {
            let sample = Sample::new(ratio, ops);
            self.out.ops.push(Op::Sample(Box::new(sample)));
        }
    }
}

//! The key of a walk: looked at, written, and read off the frame anew where nothing else tells.

use sumeru_packet::field::{EXTRA_BASE, LAYERS_END};
use sumeru_packet::{Field, FlowKey, FlowMask, Layout, ParseOptions, parse};

use super::Walk;
use crate::edit;
use crate::frame::Frame;
use crate::program::Op;
use crate::stats::{Drop, DropReason};
use crate::track::{Facts, translation};

/// A mask with these bits of a field.
pub(super) fn bits_of(field: Field, bits: u128) -> FlowMask {
    let mut mask = FlowMask::ZERO;
    mask.set(field, bits);
    mask
}

impl Walk<'_> {
    /// Looks at all bits of a field.
    pub(super) fn get(&mut self, field: Field) -> u128 {
        self.get_bits(field, u128::MAX)
    }

    /// Looks at some bits of a field.
    pub(super) fn get_bits(&mut self, field: Field, bits: u128) -> u128 {
        let looked = bits_of(field, bits);
        if self.seen.is_unknown(&looked) {
            self.reveal();
        }
        self.seen.examine(&mut self.out.mask, &looked);
        self.key.get(field) & bits
    }

    /// What of the frame as it came some bits follow from. Knowing that is not looking at them.
    pub(super) fn origin(&mut self, field: Field, bits: u128) -> FlowMask {
        let looked = bits_of(field, bits);
        if self.seen.is_unknown(&looked) {
            self.reveal();
        }
        let mut from = FlowMask::ZERO;
        self.seen.examine(&mut from, &looked);
        from
    }

    /// Sets a field.
    pub(super) fn write(&mut self, field: Field, value: u128) {
        self.write_bits(field, u128::MAX, value);
    }

    /// Sets some bits of a field.
    pub(super) fn write_bits(&mut self, field: Field, bits: u128, value: u128) {
        self.put(field, bits, value);
        self.seen.write(&bits_of(field, bits));
    }

    /// Sets some bits of a field to what follows from others.
    pub(super) fn derive(&mut self, field: Field, bits: u128, value: u128, from: FlowMask) {
        self.put(field, bits, value);
        self.seen.derive(&bits_of(field, bits), from);
    }

    fn put(&mut self, field: Field, bits: u128, value: u128) {
        let old = self.key.get(field);
        self.key.set(field, old & !bits | value & bits);
    }

    /// Reads the key off the frame as the operations so far leave it. What is decided from then on is good for this frame only. False when that cannot
    /// be done, which ends the walk.
    #[cold]
    pub(super) fn reveal(&mut self) -> bool {
        self.out.once = true;
        // Whatever becomes of it, it is not asked for again.
        self.seen.reset();
        match self.changed() {
            Ok((key, facts)) => {
                self.note("parse", format_args!("the frame as it is now"));
                for word in (0..LAYERS_END).chain(EXTRA_BASE..sumeru_packet::key::WORDS) {
                    // Port, mark and network are not in the frame.
                    let own = if word == 0 {
                        u64::MAX
                    } else {
                        u64::from(u32::MAX)
                    };
                    let kept = if word < 2 { own } else { 0 };
                    let value = self.key.word(word) & kept | key.word(word) & !kept;
                    self.key.set_word(word, value);
                }
                self.tracking.facts = facts;
                true
            }
            Err(reason) => {
                self.note("drop", format_args!("{}", reason.as_str()));
                self.out.ops.push(Op::Drop(reason));
                self.over = true;
                false
            }
        }
    }

    /// The frame's key after the operations so far.
    fn changed(&mut self) -> Result<(FlowKey, [Facts; 2]), DropReason> {
        let mut frame = self.tracking.frame.ok_or(Drop::Action)?.clone();
        for op in &self.out.ops {
            self.apply_op(&mut frame, op)?;
        }
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        let header = frame.header.header();
        let extracts = self.tables.rules.extracts;
        let underlay = self.tables.snapshot.underlay.as_ref();
        let options = ParseOptions {
            vxlan_port: underlay.map_or(edit::PARSE.vxlan_port, |underlay| underlay.vxlan_port),
            geneve_options: extracts.geneve,
            raw: extracts.raw,
            ..edit::PARSE
        };
        let parsed = parse(header, frame.len as usize, &mut key, &mut layout, &options);
        parsed.map_err(DropReason::Malformed)?;
        frame.layout = layout;
        let now = self.tracking.facts[0].packet.now;
        Ok((
            key,
            [Facts::of(&frame, false, now), Facts::of(&frame, true, now)],
        ))
    }

    fn apply_op(&self, frame: &mut Frame, op: &Op) -> Result<(), DropReason> {
        let Op::Nat(number) = op else {
            return edit::apply(frame, op);
        };
        let table = self.tracking.table.connections();
        if let Some((binding, direction)) = translation(&self.out.tracks, *number, table) {
            return edit::translate(frame, &binding, direction);
        }
        Err(Drop::Action.into())
    }
}

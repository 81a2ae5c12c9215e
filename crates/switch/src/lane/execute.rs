//! Running the operations of a program on a frame of the burst.
#![allow(unsafe_code)]

use std::ops::ControlFlow;

use sumeru_packet::HEADER_MAX;

use super::{Lane, Outcome, tunnel};
use crate::edit;
use crate::egress;
use crate::frame::{Frame, PortIndex};
use crate::program::{Choice, Op, Sample, one_of_several};
use crate::qos::meter::Colour;
use crate::qos::meter_table::{MeterAction, MeterId};
use crate::rules::CtChange;
use crate::stats::{Drop, DropReason, Stage};
use crate::track::{Track, translation};

/// What one operation leaves for those behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    colour: Colour,
    queue: Option<Choice>,
}

impl Lane {
    pub(super) fn execute_any(&mut self, index: usize, tracks: &[Track], ops: &[Op]) -> Outcome {
        let mut outcome = Outcome::Forwarded;
        let mut marks = Marks::default();
        let mut rest = ops.iter().enumerate();
        while let Some((position, op)) = rest.next() {
            match op {
                Op::Output(port) => {
                    outcome = self.output(index, *port, marks.queue, position + 1 == ops.len());
                }
                op => {
                    if let ControlFlow::Break(end) = self.step(index, tracks, op, &mut marks) {
                        if is_copy_alone(end, &ops[position..]) {
                            rest.next();
                            continue;
                        }
                        self.broke_at = position;
                        return end;
                    }
                }
            }
        }
        outcome
    }

    /// Queues a frame for a port. If others get it too, perhaps changed, it leaves now, behind those that wait already.
    fn output(
        &mut self,
        index: usize,
        port: PortIndex,
        queue: Option<Choice>,
        last: bool,
    ) -> Outcome {
        let outcome = self.enqueue(index, port);
        if let (Some(queue), Some(Some(local))) = (queue, self.ports.get_mut(usize::from(port))) {
            let _ = local.steered.try_push((index as u8, queue));
        }
        if !last {
            self.flush_port(port);
            self.dirty.retain(|dirty| *dirty != port);
        }
        outcome
    }

    /// Carries out an operation that sends nothing.
    #[inline]
    fn step(
        &mut self,
        index: usize,
        tracks: &[Track],
        op: &Op,
        marks: &mut Marks,
    ) -> ControlFlow<Outcome> {
        let done = match op {
            Op::Nat(number) => self.translate(index, tracks, *number),
            Op::Commit(number, change) => self.commit(index, *number, change),
            Op::Keep(number) => {
                // Without room for it the frame goes on: it may be of no guest's making. What comes after it is met with cookies.
                if self.commit(index, *number, &CtChange::default()).is_err() {
                    self.overflowed(tracks, *number);
                }
                Ok(())
            }
            Op::Guard(guard) => return self.guard(index, guard),
            Op::Redeem(redeem) => return self.redeem(index, redeem),
            Op::Greet(greeting) => self.greet(index, op, greeting.conn),
            Op::Member(member, direction) => {
                member.count(*direction, self.frames[index].len);
                Ok(())
            }
            Op::Count(counter) => {
                self.rule_counters.count(*counter, self.frames[index].len);
                Ok(())
            }
            Op::Hop(hop) => return self.hop(index, op, hop),
            Op::Answer(answer) => return ControlFlow::Break(self.answer(index, answer)),
            Op::Consume => return ControlFlow::Break(Outcome::Consume),
            Op::Drop(reason) => Err(*reason),
            Op::Flood(network) => {
                self.copied |= 1 << index;
                self.flood(*network)
            }
            Op::Meter(meter) => self.meter(index, *meter, &mut marks.colour),
            Op::Colour(colour) => {
                marks.colour = *colour;
                Ok(())
            }
            Op::Queue(queue) => {
                marks.queue = Some(Choice::Queue(*queue));
                Ok(())
            }
            Op::Spread(spread) => {
                marks.queue = Some(spread.choose(&self.frames[index].key));
                Ok(())
            }
            Op::Sample(sample) => {
                self.sample(index, tracks, sample, *marks);
                Ok(())
            }
            op => self.edit(index, op),
        };
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => ControlFlow::Break(self.dropped(index, reason)),
        }
    }

    /// Changes the frame.
    pub(super) fn edit(&mut self, index: usize, op: &Op) -> Result<(), DropReason> {
        match op {
            Op::Decapsulate => {
                self.counters.passed(Stage::Decapsulate, 1);
                tunnel::check(&self.frames[index], &self.list, &self.geneve_options)?;
            }
            Op::Encapsulate(_) => self.counters.passed(Stage::Encapsulate, 1),
            _ => {}
        }
        let frame = &mut self.frames[index];
        match edit::apply(frame, op) {
            Err(DropReason::Other(Drop::ExceedsMtu)) => {
                self.answer_too_long_for(index, op);
                Err(Drop::ExceedsMtu.into())
            }
            Err(reason) if edit::is_short(reason, frame) => {
                // SAFETY: the frame is of the burst in hand, whose memory is mapped.
                let longer = unsafe { egress::load_behind(frame, &self.list, HEADER_MAX) };
                if longer {
                    edit::reparse(frame)
                } else {
                    Err(reason)
                }
            }
            done => done,
        }
    }

    fn flood(&mut self, network: u32) -> Result<(), DropReason> {
        self.counters.passed(Stage::Flood, 1);
        match self.floods.get_mut(&network) {
            Some(0) => Err(Drop::FloodLimit.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn meter(
        &mut self,
        index: usize,
        meter: MeterId,
        colour: &mut Colour,
    ) -> Result<(), DropReason> {
        let frame = &mut self.frames[index];
        let verdict = self.meters.apply(meter, frame.len, *colour, self.now);
        // No rule names a meter that is gone.
        let verdict = verdict.ok_or(Drop::Action)?;
        *colour = verdict.colour;
        match verdict.action {
            MeterAction::Pass => Ok(()),
            MeterAction::Drop => Err(Drop::Meter.into()),
            MeterAction::MarkDscp(dscp) => edit::mark(frame, dscp),
        }
    }

    /// Does something with a copy of the frame if its turn has come; the frame is as before then.
    fn sample(&mut self, index: usize, tracks: &[Track], sample: &Sample, mut marks: Marks) {
        if sample.ratio > 1 && !self.chance(sample.ratio) {
            return;
        }
        let frame = &self.frames[index];
        let whole = sample.edits.then(|| frame.clone());
        let before = (frame.layout, frame.offload, frame.len, frame.header.len());
        let copied = self.copied;
        self.copied |= 1 << index;
        for op in &sample.ops {
            match op {
                Op::Output(port) => {
                    self.output(index, *port, marks.queue, false);
                }
                // What cannot be done to the copy is counted like any other frame's drop.
                op => {
                    if self.step(index, tracks, op, &mut marks).is_break() {
                        break;
                    }
                }
            }
        }
        self.copied = copied;
        match whole {
            Some(whole) => self.frames[index] = whole,
            None => restore(&mut self.frames[index], before),
        }
    }

    /// True once in so many times, by chance (xorshift, Marsaglia 2003), so that nothing that repeats is always or never met.
    fn chance(&mut self, ratio: u32) -> bool {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        ((x >> 32) * u64::from(ratio)) >> 32 == 0
    }

    /// Makes a connection of a frame that had none.
    fn commit(&mut self, index: usize, number: u8, change: &CtChange) -> Result<(), DropReason> {
        let (Some(connections), Some(Some((tuple, tags, packet)))) = (
            &mut self.connections,
            self.fresh.get(usize::from(number)).copied(),
        ) else {
            return Err(Drop::Action.into());
        };
        let owner = self.frames[index].in_port;
        let made = change.make(&mut connections.table, &tuple, tags, packet, owner);
        made.map(drop).map_err(|refusal| Drop::from(refusal).into())
    }

    /// Rewrites a frame as its connection says.
    fn translate(&mut self, index: usize, tracks: &[Track], number: u8) -> Result<(), DropReason> {
        let table = self
            .connections
            .as_deref()
            .map(|connections| &connections.table);
        let rewrite = translation(tracks, number, table);
        let frame = &mut self.frames[index];
        match rewrite {
            Some((binding, direction)) => edit::translate(frame, &binding, direction),
            None => Err(Drop::Action.into()),
        }
    }
}

/// Whether the drop of `ops[0]` is that of one copy of several: it is in its tunnel already, and [`Op::Unwrap`] takes it out again for the others.
#[cold]
fn is_copy_alone(end: Outcome, ops: &[Op]) -> bool {
    end == Outcome::Dropped(Drop::ExceedsMtu.into()) && one_of_several(ops)
}

type Before = (
    sumeru_packet::Layout,
    crate::net_header::Offload,
    u32,
    usize,
);

/// Takes off what encapsulations put in front; they change nothing else.
fn restore(frame: &mut Frame, (layout, offload, len, header): Before) {
    let pushed = frame.header.len().saturating_sub(header);
    // It was pushed, so it can be pulled.
    let _ = frame.header.pull_front(pushed);
    (frame.layout, frame.offload, frame.len) = (layout, offload, len);
}

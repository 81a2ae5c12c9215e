//! `trace`: the slow path and the edits run on a frame that nobody sent, with every decision written down.

use sumeru_packet::{FlowKey, Layout, ParseOptions, parse};
use sumeru_virtio::GuestSlice;

use crate::conntrack::Conntrack;
use crate::edit;
use crate::egress::Outgoing;
use crate::frame::{Frame, PortIndex};
use crate::lane::tunnel;
use crate::net_header::Accepts;
use crate::program::{Op, one_of_several};
use crate::rules::Parsing;
use crate::stats::{Drop, DropReason};
use crate::track::{Table, Track, Tracking, translation};
use crate::translate::{Note, Tables, translate};
use crate::worker::Traced;

mod written;

/// Traces `bytes` as if they had come in on `port`.
pub fn run(
    tables: Tables,
    connections: Option<(&Conntrack, u64)>,
    port: PortIndex,
    bytes: &mut [u8],
) -> Traced {
    let mut traced = Traced::default();
    let mut key = FlowKey::with_metadata(port.into(), 0);
    let mut layout = Layout::EMPTY;
    let vxlan_port = tables
        .snapshot
        .underlay
        .as_ref()
        .map_or(4789, |underlay| underlay.vxlan_port);
    let uplink = tables.snapshot.port(port).is_some_and(|port| port.uplink);
    let parsing = Parsing::of(tables.rules);
    let options = parsing.options(vxlan_port, uplink);
    let captured = bytes.len().min(sumeru_packet::HEADER_MAX);
    if let Err(malformed) = parse(
        &bytes[..captured],
        bytes.len(),
        &mut key,
        &mut layout,
        &options,
    ) {
        traced.dropped = Some(DropReason::Malformed(malformed));
        return traced;
    }
    // Decided is by what a frame on this port would be asked for; shown is all there is to see.
    let mut seen = key;
    let everything = ParseOptions {
        vxlan_port,
        geneve_options: options.geneve_options,
        raw: options.raw,
        ..ParseOptions::ALL
    };
    let shown = parse(
        &bytes[..captured],
        bytes.len(),
        &mut seen,
        &mut { layout },
        &everything,
    );
    traced.notes.push(Note {
        stage: "parse",
        text: match shown {
            Ok(()) => written::describe(&seen),
            Err(_) => written::describe(&key),
        },
    });
    let mut frame = Frame {
        key,
        layout,
        len: bytes.len() as u32,
        in_port: port,
        segments: 1,
        ..Frame::new()
    };
    frame.header.load(bytes);
    frame.skip = frame.header.len() as u16;
    let list = [GuestSlice::from_own(bytes)];
    let tracking = match connections {
        Some((table, now)) => Tracking::of(Table::Dry(table), &frame, now, None),
        None => Tracking::of(Table::Off, &frame, 0, None),
    };
    let decision = translate(tables, &key, tracking, Some(&mut traced.notes));
    let mut run = Run {
        list: &list,
        tracks: &decision.tracks,
        connections: connections.map(|(table, _)| table),
        geneve_options: tunnel::known_geneve_options(tables.snapshot, &parsing),
        traced,
    };
    if let Err(reason) = run.all(&mut frame, &decision.ops) {
        let text = reason.as_str().into();
        if decision.ops.last() != Some(&Op::Drop(reason)) {
            run.traced.notes.push(Note {
                stage: "drop",
                text,
            });
        }
        run.traced.dropped = Some(reason);
    }
    let mut traced = run.traced;
    if !traced.outputs.is_empty() {
        traced.dropped = None;
    }
    traced
}

/// Operations carried out on a frame that nobody gets.
struct Run<'a> {
    list: &'a [GuestSlice],
    tracks: &'a [Track],
    connections: Option<&'a Conntrack>,
    geneve_options: Vec<(u16, u8)>,
    traced: Traced,
}

impl Run<'_> {
    fn all(&mut self, frame: &mut Frame, ops: &[Op]) -> Result<(), DropReason> {
        let mut rest = ops.iter().enumerate();
        while let Some((position, op)) = rest.next() {
            match self.one(frame, op) {
                Err(DropReason::Other(Drop::ExceedsMtu)) if one_of_several(&ops[position..]) => {
                    let text = format!("the copy: {}", Drop::ExceedsMtu.as_str());
                    self.traced.notes.push(Note {
                        stage: "drop",
                        text,
                    });
                    rest.next();
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn one(&mut self, frame: &mut Frame, op: &Op) -> Result<(), DropReason> {
        match op {
            Op::Output(port) => {
                let bytes = whole(frame, self.list);
                self.traced.outputs.push((*port, bytes));
                Ok(())
            }
            Op::Drop(reason) => Err(*reason),
            Op::Consume => Err(Drop::Consumed.into()),
            Op::Answer(answer) => {
                let mut reply = [0; 2048];
                let question = whole(frame, self.list);
                let written = answer.write(&mut reply, &question, &frame.layout);
                let reply = written.and_then(|len| reply.get(..len));
                let reply = reply.ok_or(Drop::Unanswered)?;
                self.traced.outputs.push((frame.in_port, reply.to_vec()));
                Err(Drop::Consumed.into())
            }
            Op::Nat(number) => match translation(self.tracks, *number, self.connections) {
                Some((binding, direction)) => edit::translate(frame, &binding, direction),
                None => Ok(()),
            },
            Op::Sample(sample) => {
                if let Err(reason) = self.all(&mut frame.clone(), &sample.ops) {
                    let text = format!("the copy: {}", reason.as_str());
                    self.traced.notes.push(Note {
                        stage: "sample",
                        text,
                    });
                }
                Ok(())
            }
            Op::Spread(spread) => {
                let text = format!("{spread}: {:?}", spread.choose(&frame.key));
                self.traced.notes.push(Note {
                    stage: "queue",
                    text,
                });
                Ok(())
            }
            Op::Decapsulate => tunnel::check(frame, self.list, &self.geneve_options)
                .and_then(|()| edit::apply(frame, op)),
            op => edit::apply(frame, op),
        }
    }
}

/// The frame as it would leave by a port that completes nothing itself.
#[allow(unsafe_code)]
fn whole(frame: &Frame, list: &[GuestSlice]) -> Vec<u8> {
    let mut bytes = vec![0; frame.len as usize];
    let outgoing = Outgoing::new(frame, list, Accepts::default()).ok();
    let piece = outgoing.and_then(|mut outgoing| Some((outgoing.next()?, outgoing)));
    if let Some((piece, outgoing)) = piece {
        let to = [GuestSlice::from_own(&mut bytes)];
        // SAFETY: `list` lies over the caller's own bytes, which are borrowed for the whole trace, and `to` over ours.
        unsafe { outgoing.write(&piece, &[], &to) };
    }
    bytes
}

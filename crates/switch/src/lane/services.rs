//! The switch's own answers, and the hops of its routers.
#![allow(unsafe_code)]

use std::ops::ControlFlow;

use sumeru_packet::build::IcmpError;
use sumeru_packet::{HEADER_MAX, L3Kind};

use super::{Lane, Outcome};
use crate::egress;
use crate::frame::{Frame, PortIndex};
use crate::program::{Hop, Op};
use crate::services::Answer;
use crate::stats::{Drop, Stage};

/// Longest question, and longest answer.
const LONGEST: usize = 2048;

impl Lane {
    /// Answers a frame to the port that it came from.
    #[cold]
    pub(super) fn answer(&mut self, index: usize, answer: &Answer) -> Outcome {
        let in_port = self.frames[index].in_port;
        let may = self.port(in_port).is_some_and(|port| port.answered.take());
        if !may {
            return self.dropped(index, Drop::AnswerLimit.into());
        }
        let frame = &self.frames[index];
        let (mut question, mut reply) = ([0; LONGEST], [0; LONGEST]);
        // SAFETY: the frame is of the burst in hand.
        let len = unsafe { egress::linear(frame, &self.list, &mut question) };
        let question = question.get(..len).unwrap_or_default();
        // Of what an error is about its first bytes do.
        let whole = len == frame.len as usize || matches!(answer, Answer::Error(..));
        let layout = frame.layout;
        let written = if whole {
            answer.write(&mut reply, question, &layout)
        } else {
            None
        };
        let Some(reply) = written.and_then(|len| reply.get_mut(..len)) else {
            return self.dropped(index, Drop::Unanswered.into());
        };
        self.counters.passed(Stage::Answer, 1);
        self.send_own(in_port, reply);
        Outcome::Forwarded
    }

    /// A hop of a router, or what its sender is told instead.
    pub(super) fn hop(&mut self, index: usize, op: &Op, hop: &Hop) -> ControlFlow<Outcome> {
        let frame = &self.frames[index];
        if let Some(error) = refused(frame, hop) {
            let told = hop
                .source
                .map(|source| self.answer(index, &Answer::Error(error, source)));
            return ControlFlow::Break(told.unwrap_or_else(|| {
                let reason = match error {
                    IcmpError::TimeExceeded => Drop::TtlExpired,
                    _ => Drop::ExceedsMtu,
                };
                self.dropped(index, reason.into())
            }));
        }
        self.counters.passed(Stage::Route, 1);
        match self.edit(index, op) {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => ControlFlow::Break(self.dropped(index, reason)),
        }
    }

    /// Sends a frame of our own making by several ports.
    pub fn send_own_to(&mut self, ports: &[PortIndex], frame: &[u8]) {
        for port in ports {
            let mut copy = [0; HEADER_MAX * 2];
            if let Some(copy) = copy.get_mut(..frame.len()) {
                copy.copy_from_slice(frame);
                self.send_own(*port, copy);
            }
        }
    }
}

/// Why a packet cannot take a hop.
fn refused(frame: &Frame, hop: &Hop) -> Option<IcmpError> {
    let layer = frame.layout.outer();
    let header = frame.header.header();
    let l3 = usize::from(layer.l3);
    let (ttl, may_be_cut) = match layer.l3_kind {
        L3Kind::Ipv4 => (
            header.get(l3 + 8),
            header.get(l3 + 6).is_some_and(|flags| flags & 0x40 == 0),
        ),
        L3Kind::Ipv6 => (header.get(l3 + 7), false),
        _ => (None, false),
    };
    if *ttl? <= 1 {
        return Some(IcmpError::TimeExceeded);
    }
    let longest = frame.longest_piece().saturating_sub(l3 as u32);
    let mtu = hop.mtu;
    (longest > mtu.into() && !may_be_cut).then_some(IcmpError::TooBig { mtu })
}

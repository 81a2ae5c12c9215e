//! Protected ports: cookies for SYNs, and clients that prove them.
#![allow(unsafe_code)]

use std::ops::ControlFlow;

use arrayvec::ArrayVec;
use sumeru_packet::tcp::Options;
use sumeru_packet::{Field, FlowKey, L3Kind, Layer, Layout, ParseOptions, parse};
use sumeru_virtio::GuestSlice;

use super::{Lane, Outcome, send};
use crate::conntrack::{ConnRef, Opening, tcp_flag};
use crate::edit;
use crate::egress;
use crate::frame::{Frame, PortIndex};
use crate::program::Op;
use crate::shield::segment::{self, LONGEST_OWN, Own};
use crate::shield::{Back, Client, Guard, LONGEST, Redeem, ShieldView, Waiting, port_of, zone};
use crate::stats::{Drop, DropReason, Stage};
use crate::track::{self, Track};

/// What clients are taken to offer who do not say (RFC 9293 section 3.7.1).
const USUAL_MSS: u16 = 536;

impl Lane {
    /// A SYN of no connection: answered with a cookie if too many come, else it goes on.
    pub(super) fn guard(&mut self, index: usize, guard: &Guard) -> ControlFlow<Outcome> {
        let (Some(shields), Some(connections)) =
            (self.shields.as_deref_mut(), self.connections.as_deref())
        else {
            return ControlFlow::Continue(());
        };
        let half_open = connections.table.half_open_in(zone(guard.port));
        let now = connections.now;
        let Some((view, mtu)) = shields.meet(guard.port, half_open, now) else {
            return ControlFlow::Continue(());
        };
        let mut reply = [0; LONGEST_OWN];
        let len = self.cookie(index, guard.inner, &view, mtu, now, &mut reply);
        let Some(reply) = len.and_then(|len| reply.get_mut(..len)) else {
            return ControlFlow::Break(self.dropped(index, Drop::SynProtection.into()));
        };
        self.counters.passed(Stage::Answer, 1);
        let port = self.frames[index].in_port;
        if let Err(reason) = self.send_back(port, reply, &guard.back) {
            return ControlFlow::Break(self.dropped(index, reason));
        }
        ControlFlow::Break(Outcome::Forwarded)
    }

    /// The connection that was looked up as number so many could not be kept for a protected port.
    #[cold]
    pub(super) fn overflowed(&mut self, tracks: &[Track], number: u8) {
        if let Some(Track::None { zone, .. }) = tracks.get(usize::from(number))
            && let Some(port) = port_of(*zone)
            && let Some(shields) = self.shields.as_deref_mut()
        {
            shields.overflowed(port);
        }
    }

    /// The headers of a frame, as far as segments are made of them.
    fn headers(&self, index: usize) -> ([u8; LONGEST], usize) {
        let mut bytes = [0; LONGEST];
        // SAFETY: the frame is of the burst in hand.
        let len = unsafe { egress::linear(&self.frames[index], &self.list, &mut bytes) };
        (bytes, len)
    }

    /// Writes the SYN-ACK with a cookie for a SYN.
    fn cookie(
        &self,
        index: usize,
        inner: bool,
        view: &ShieldView,
        mtu: u16,
        now: u64,
        to: &mut [u8],
    ) -> Option<usize> {
        let frame = &self.frames[index];
        let tuple = track::tuple(&frame.key, layer(inner), 0)?;
        let (bytes, len) = self.headers(index);
        let bytes = bytes.get(..len)?;
        let came = segment::read(bytes, &frame.layout, inner)?;
        let headers = match frame.layout.layers[usize::from(inner)].l3_kind {
            L3Kind::Ipv4 => 40,
            _ => 60,
        };
        let offered = came.options;
        let mss = offered.mss.unwrap_or(USUAL_MSS);
        let secret = self.shields.as_deref()?.secret().of(place(frame, inner));
        let stamped = offered.timestamps.filter(|_| view.timestamps);
        // Without a timestamp nothing remembers these.
        let remembered = Options {
            mss: None,
            window_scale: offered.window_scale.filter(|_| stamped.is_some()),
            sack_permitted: offered.sack_permitted && view.sack && stamped.is_some(),
            timestamps: None,
        };
        let own = Own {
            flags: tcp_flag::SYN | tcp_flag::ACK,
            seq: secret.make(&tuple, came.seq, mss, now),
            ack: came.seq.wrapping_add(1),
            // Nothing is taken before the guest has answered.
            window: 0,
            options: Options {
                mss: Some(view.mss.min(mtu.saturating_sub(headers))),
                window_scale: remembered.window_scale.map(|_| view.window_scale),
                timestamps: stamped.map(|(value, _)| (segment::stamp(&remembered, now), value)),
                ..remembered
            },
        };
        segment::back(bytes, &frame.layout, inner, &own, to)
    }

    /// An ACK of no connection: if it proves a cookie its client's connection is opened, else it goes on, or no further if cookies are expected.
    pub(super) fn redeem(&mut self, index: usize, redeem: &Redeem) -> ControlFlow<Outcome> {
        let (Some(shields), Some(connections)) =
            (self.shields.as_deref(), self.connections.as_deref())
        else {
            return ControlFlow::Continue(());
        };
        let client = if shields.may_be_good(connections.now) {
            self.client(index, redeem, connections.now)
        } else {
            None
        };
        let Some(shields) = self.shields.as_deref_mut() else {
            return ControlFlow::Continue(());
        };
        let reason = if let Some(client) = client {
            if shields.wait(Waiting::Syn(client)) {
                return ControlFlow::Break(Outcome::Forwarded);
            }
            Drop::ConnectionLimit
        } else if shields.refuse(redeem.port) {
            Drop::SynProtection
        } else {
            return ControlFlow::Continue(());
        };
        ControlFlow::Break(self.dropped(index, reason.into()))
    }

    /// The client whose ACK proves a cookie.
    fn client(&self, index: usize, redeem: &Redeem, now: u64) -> Option<Client> {
        let frame = &self.frames[index];
        let inner = redeem.inner;
        let tuple = track::tuple(&frame.key, layer(inner), 0)?;
        let (bytes, len) = self.headers(index);
        let bytes = bytes.get(..len)?;
        let came = segment::read(bytes, &frame.layout, inner)?;
        let cookie = self
            .shields
            .as_deref()?
            .secret()
            .of(place(frame, inner))
            .check(&tuple, came.seq, came.ack, now)?;
        let stamps = came.options.timestamps;
        let (scale, sack) = stamps.map_or((None, false), |(_, echo)| segment::remembered(echo));
        let end = usize::from(frame.layout.layers[usize::from(inner)].payload);
        Some(Client {
            from: frame.in_port,
            ack: ArrayVec::try_from(bytes.get(..end)?).ok()?,
            layout: frame.layout,
            inner,
            back: redeem.back.clone(),
            opening: Opening {
                cookie: came.ack.wrapping_sub(1),
                stamp: stamps.map(|(_, echo)| echo),
                scale,
            },
            options: Options {
                mss: Some(cookie.mss),
                window_scale: scale,
                sack_permitted: sack,
                timestamps: stamps.map(|(value, _)| (value, 0)),
            },
        })
    }

    /// The guest's SYN-ACK: an ACK for its client, whose own is for the guest now.
    pub(super) fn greet(&mut self, index: usize, op: &Op, conn: ConnRef) -> Result<(), DropReason> {
        self.edit(index, op)?;
        if let Some(shields) = self.shields.as_deref_mut() {
            shields.answered(conn);
        }
        Ok(())
    }

    /// Tells a client that its connection is over: nobody has answered.
    pub fn reset(&mut self, client: &Client) {
        let Some(came) = segment::read(&client.ack, &client.layout, client.inner) else {
            return;
        };
        let own = Own {
            flags: tcp_flag::RST,
            seq: came.ack,
            ..Own::default()
        };
        let mut bytes = [0; LONGEST_OWN];
        let len = segment::back(&client.ack, &client.layout, client.inner, &own, &mut bytes);
        if let Some(bytes) = len.and_then(|len| bytes.get_mut(..len))
            && let Err(reason) = self.send_back(client.from, bytes, &client.back)
        {
            self.counters.dropped(reason);
        }
    }

    /// Sends a frame of our own making to where another came from.
    fn send_back(
        &mut self,
        port: PortIndex,
        bytes: &mut [u8],
        back: &Back,
    ) -> Result<(), DropReason> {
        let Some((tunnel, uplink)) = back else {
            self.send_own(port, bytes);
            return Ok(());
        };
        let mut frame = Frame::new();
        frame.len = bytes.len() as u32;
        frame.header.load(bytes);
        frame.skip = frame.header.len() as u16;
        frame.segments = 1;
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        parse(
            bytes,
            bytes.len(),
            &mut key,
            &mut layout,
            &ParseOptions::PLAIN,
        )
        .map_err(DropReason::Malformed)?;
        (frame.key, frame.layout) = (key, layout);
        edit::apply(&mut frame, &Op::Encapsulate(tunnel.clone()))?;
        self.counters.passed(Stage::Encapsulate, 1);
        let list = [GuestSlice::from_own(bytes)];
        let Some(Some(port)) = self.ports.get_mut(usize::from(*uplink)) else {
            return Err(Drop::PortDown.into());
        };
        let frames = std::slice::from_ref(&frame);
        send(port, frames, &[0], &[], &list, &self.counters);
        self.unsettled(*uplink);
        Ok(())
    }
}

fn layer(inner: bool) -> Layer {
    if inner { Layer::Inner } else { Layer::Outer }
}

/// Where a frame came in: by which port, and in which tunnel. Who can ask for cookies in one place is not to prove by them anything in another, where the same addresses are somebody
/// else's.
fn place(frame: &Frame, inner: bool) -> u64 {
    let tunnel = match inner {
        true => frame.key.get(Field::TunnelId(Layer::Outer)) as u64,
        false => 0,
    };
    u64::from(frame.in_port) << 32 | tunnel
}

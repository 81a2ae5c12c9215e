//! Frames leave: by which of a guest's queues, by a wire, by a bond; and what is counted of it.
#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use sumeru_packet::Layer;
use sumeru_virtio::GuestSlice;

use super::{Attachment, Lane, LocalPort, RingPair};
use crate::egress::Outgoing;
use crate::frame::{BURST, Frame, PortIndex};
use crate::program::Choice;
use crate::ring::{Receiver, Sent, check_mtu};
use crate::stats::{Drop, PairCounters, PipelineCounters, PortCounters, Stage};
use crate::wire::Wire;

impl Lane {
    /// Sends a frame of our own making by a port.
    pub fn send_own(&mut self, index: PortIndex, bytes: &mut [u8]) {
        let Some(Some(port)) = self.ports.get_mut(usize::from(index)) else {
            return;
        };
        let mut frame = Frame::new();
        frame.load_own(bytes);
        let list = [GuestSlice::from_own(bytes)];
        send(
            port,
            std::slice::from_ref(&frame),
            &[0],
            &[],
            &list,
            &self.counters,
        );
        self.unsettled(index);
    }
}

/// The queue that every frame sent by a port leaves by, if there is only one, it is open, none waits in front of it and nobody else looks at what is sent; with the port's counts,
/// and its longest frame in bytes.
#[inline(always)]
pub fn open_receiver(
    ports: &mut [Option<LocalPort>],
    port: PortIndex,
) -> Option<(&mut Receiver, &PortCounters, u32)> {
    let local = ports.get_mut(usize::from(port))?.as_mut()?;
    if local.watched.sent || local.queue.is_some() {
        return None;
    }
    let Attachment::Rings(pairs) = &mut local.attachment else {
        return None;
    };
    let [pair] = &mut pairs[..] else {
        return None;
    };
    let receiver = pair.receiver.as_mut().filter(|queue| queue.is_open())?;
    Some((receiver, &local.counters, local.max_frame))
}

/// Sends the frames `order` of `frames` by a port, and counts. Answers whether some were too long for it.
#[inline(always)]
pub(super) fn send(
    port: &mut LocalPort,
    frames: &[Frame],
    order: &[u8],
    steered: &[(u8, Choice)],
    list: &[GuestSlice],
    counters: &PipelineCounters,
) -> bool {
    let port_counters = &*port.counters;
    let mut too_long = false;
    let lost = |reason: Drop| {
        too_long |= reason == Drop::ExceedsMtu;
        counters.dropped(reason.into());
        port_counters.tx_drops.add(1);
        port_counters
            .tx_full
            .add(u64::from(reason == Drop::NoBuffers));
    };
    let mut sent = Sent::default();
    match &mut port.attachment {
        Attachment::Rings(pairs) => {
            let (order, pairs) = ((order, steered), (&mut pairs[..], &port_counters.pairs[..]));
            send_rings(pairs, frames, order, list, port.max_frame, &mut sent, lost);
        }
        Attachment::Wire(wire) => {
            send_wire(
                &mut **wire,
                frames,
                order,
                list,
                port.max_frame,
                &mut sent,
                lost,
            );
        }
        Attachment::Bond(bond) => bond.send(frames, order, list, port.max_frame, &mut sent, lost),
    }
    port_counters.tx_packets.add(sent.packets);
    port_counters.tx_bytes.add(sent.bytes);
    counters.passed(Stage::Transmit, sent.packets);
    if sent.segmented != 0 {
        counters.passed(Stage::Segment, sent.segmented);
    }
    if sent.checksums != 0 {
        counters.passed(Stage::Checksum, sent.checksums);
    }
    too_long
}

#[inline(always)]
fn send_rings(
    (pairs, counters): (&mut [RingPair], &[PairCounters]),
    frames: &[Frame],
    (order, steered): (&[u8], &[(u8, Choice)]),
    list: &[GuestSlice],
    max_frame: u32,
    sent: &mut Sent,
    mut lost: impl FnMut(Drop),
) {
    if let [
        RingPair {
            receiver: Some(receiver),
            ..
        },
    ] = pairs
    {
        // SAFETY: `list` holds segments of the burst in hand, whose queue (or wire port) is on this lcore and alive, or of
        // our own memory.
        unsafe { receiver.send(frames, order, list, max_frame, sent, lost) };
        return;
    }
    let receivers = pairs.iter().filter_map(RingPair::open_receiver).count() as u64;
    if receivers == 0 {
        order.iter().for_each(|_| lost(Drop::PortDown));
        return;
    }
    // By the flow and not by what decided it, so that flows between two stations spread too.
    let queue_of = |index: &u8| {
        // A rule's choice counts if the guest has that queue open.
        let chosen = steered.iter().find(|(steered, _)| steered == index);
        match chosen.map(|(_, choice)| *choice) {
            Some(Choice::Queue(queue)) => {
                if let Some(place) = place_of(pairs, queue) {
                    return place;
                }
            }
            Some(Choice::Hash(hash)) => return ((u64::from(hash) * receivers) >> 32) as u8,
            None => {}
        }
        let frame = frames.get(usize::from(*index));
        let entropy = frame.map_or(0, |frame| frame.key.entropy(Layer::Outer));
        ((u64::from(entropy) * receivers) >> 32) as u8
    };
    let queues: ArrayVec<u8, BURST> = order.iter().map(queue_of).collect();
    let open = pairs
        .iter_mut()
        .enumerate()
        .filter(|(_, pair)| pair.open_receiver().is_some())
        .filter_map(|(place, pair)| Some((place, pair.receiver.as_mut()?)));
    for (number, (place, receiver)) in open.enumerate() {
        let of_this = order
            .iter()
            .zip(&queues)
            .filter(|(_, queue)| usize::from(**queue) == number);
        let share: ArrayVec<u8, BURST> = of_this.map(|(index, _)| *index).collect();
        if share.is_empty() {
            continue;
        }
        let counters = counters.get(place);
        let mut by_this = Sent::default();
        let lost = |reason| {
            if let Some(counters) = counters {
                counters.lost(reason);
            }
            lost(reason);
        };
        // SAFETY: as above.
        unsafe { receiver.send(frames, &share, list, max_frame, &mut by_this, lost) };
        if let Some(counters) = counters {
            counters.tx_packets.add(by_this.packets);
            counters.tx_bytes.add(by_this.bytes);
        }
        sent.add(&by_this);
    }
}

/// The place of a queue among those that are open.
fn place_of(pairs: &[RingPair], queue: u16) -> Option<u8> {
    let (before, from) = pairs.split_at_checked(queue.into())?;
    from.first()?.open_receiver()?;
    let open = before.iter().filter_map(RingPair::open_receiver).count();
    u8::try_from(open).ok()
}

pub(super) fn send_wire(
    wire: &mut dyn Wire,
    frames: &[Frame],
    order: &[u8],
    list: &[GuestSlice],
    max_frame: u32,
    sent: &mut Sent,
    mut lost: impl FnMut(Drop),
) {
    let accepts = wire.accepts();
    for index in order {
        let Some(frame) = frames.get(usize::from(*index)) else {
            continue;
        };
        let mut send_one = || {
            check_mtu(frame, max_frame)?;
            let mut outgoing = Outgoing::new(frame, list, accepts).map_err(|_| Drop::BadOffload)?;
            sent.segmented += u64::from(outgoing.is_segmented());
            let header_len = frame.layout.innermost().payload;
            while let Some(piece) = outgoing.next() {
                let buffer = wire.send_buffer().ok_or(Drop::WireFull)?;
                if buffer.len() < piece.len {
                    return Err(Drop::TooLarge);
                }
                // SAFETY: the frame's segments as in `send_rings`; the buffer is the wire port's, which is alive.
                let summed = unsafe { outgoing.write(&piece, &[], &[buffer]) };
                sent.checksums += u64::from(summed);
                wire.send(piece.len, &piece.offload, header_len);
                sent.packets += 1;
                sent.bytes += u64::from(piece.len);
            }
            Ok(())
        };
        if let Err(reason) = send_one() {
            lost(reason);
        }
    }
    let taken = wire.flush() as u64;
    for _ in taken..sent.packets {
        lost(Drop::WireFull);
    }
    sent.packets = taken.min(sent.packets);
}

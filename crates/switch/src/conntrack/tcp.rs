//! The TCP state machine (RFC 9293) as seen from the middle, with the window bounds of "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij 2000).
//!
//! SYN and RST of an open connection follow RFC 5961: a reset closes only when its number is one that the receiver may be waiting for; what the ends answer
//! with a challenge passes without any effect here. Selective acknowledgements need no care: the bounds look at cumulative ones only.

use super::packet::{CtPacket, tcp_flag::*};
use super::state::State;
use super::store::{Hot, Peer, flag, tcp_bit};
use super::tuple::Direction;

/// Acknowledgements may be this old even when no window was that large.
const OLDEST_ACK: u32 = 66_000;
const LARGEST_SCALE: u8 = 14;
const NOT_OFFERED: u8 = 15;

/// What a packet did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Valid; the state is as before.
    Pass,
    /// Valid, but no sign of life: the ends will settle it.
    Ignore,
    /// Valid, and the state is another.
    Changed,
    /// Not part of the connection.
    Invalid,
    /// Flags that exclude each other.
    Bad,
    /// The opener starts again in the closed connection's place.
    Reopened,
    /// The other side opens in the opposite direction: this connection is over.
    Over,
}

#[inline(always)]
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[inline(always)]
fn latest(a: u32, b: u32) -> u32 {
    if after(a, b) { a } else { b }
}

/// Sequence number after the packet.
fn end(packet: &CtPacket) -> u32 {
    let flags = u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
    packet
        .seq
        .wrapping_add(u32::from(packet.payload))
        .wrapping_add(flags)
}

fn offered(packet: &CtPacket) -> u8 {
    packet
        .scale
        .map_or(NOT_OFFERED, |scale| scale.min(LARGEST_SCALE))
}

/// The state that a first packet makes, if it may be one.
pub(super) fn opening(packet: &CtPacket, pickup: bool) -> Option<State> {
    match packet.flags & (SYN | ACK | RST | FIN) {
        SYN => Some(State::SynSent),
        ACK if pickup => Some(State::Pickup),
        _ => None,
    }
}

/// Starts a connection in `state` with its first packet.
pub(super) fn start(hot: &mut Hot, state: State, packet: &CtPacket) {
    let (end, window) = (end(packet), u32::from(packet.window).max(1));
    hot.state = state;
    hot.tcp = 0;
    if state == State::Pickup {
        // Scales are unknown: no bound would be right.
        hot.flags |= flag::LIBERAL;
        hot.scales = 0;
        hot.peers[0] = Peer {
            end,
            max_end: end,
            max_window: window,
            max_ack: packet.ack,
        };
        hot.peers[1] = Peer {
            end: packet.ack,
            max_end: packet.ack.wrapping_add(window),
            max_window: 1,
            max_ack: packet.seq,
        };
        return;
    }
    hot.scales = NOT_OFFERED << 4 | offered(packet);
    hot.peers[0] = Peer {
        end,
        max_end: end,
        max_window: window,
        max_ack: 0,
    };
    hot.peers[1] = Peer {
        max_ack: packet.seq,
        ..Peer::default()
    };
}

/// Checks a packet that is neither SYN nor RST against the bounds and moves them. `false`: out of window, nothing changed.
#[inline(always)]
pub(super) fn window(hot: &mut Hot, direction: Direction, packet: &CtPacket, fin: u32) -> bool {
    let scale = hot.scale(direction);
    let liberal = hot.flags & flag::LIBERAL != 0;
    let [original, reply] = &mut hot.peers;
    let (sender, receiver) = match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    };
    let (seq, ack) = (packet.seq, packet.ack);
    let end = seq
        .wrapping_add(u32::from(packet.payload))
        .wrapping_add(fin);
    let oldest = sender.max_window.max(OLDEST_ACK);
    let good = !after(seq, sender.max_end)
        & !after(sender.end.wrapping_sub(receiver.max_window), end)
        & !after(ack, receiver.end)
        & !after(receiver.end.wrapping_sub(oldest), ack);
    if !(good | liberal) {
        return false;
    }
    let size = u32::from(packet.window) << scale;
    sender.end = latest(end, sender.end);
    sender.max_window = sender.max_window.max(size);
    sender.max_ack = latest(ack, sender.max_ack);
    // A closed window is probed with one byte.
    receiver.max_end = latest(ack.wrapping_add(size.max(1)), receiver.max_end);
    if liberal {
        receiver.end = latest(ack, receiver.end);
    }
    true
}

/// Any packet of a connection, except data of an open one, which needs [`window`] only.
pub(super) fn step(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    match packet.flags & (SYN | ACK | RST | FIN) {
        SYN => syn(hot, direction, packet),
        flags if flags == SYN | ACK => syn_ack(hot, direction, packet),
        flags if flags & !ACK == RST => reset(hot, direction, packet),
        flags if flags & !FIN == ACK => data(hot, direction, packet),
        _ => Step::Bad,
    }
}

fn syn(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    let d = direction as usize;
    match (hot.state, direction) {
        (State::SynSent, Direction::Original) => {
            // Again, or a new attempt after an unanswered one.
            start(hot, State::SynSent, packet);
            Step::Pass
        }
        (State::SynSent, Direction::Reply) => {
            let (end, window) = (end(packet), u32::from(packet.window).max(1));
            let isn = hot.peers[1].max_ack;
            hot.peers[1] = Peer {
                end,
                max_end: end,
                max_window: window,
                max_ack: isn,
            };
            hot.peers[0].max_ack = packet.seq;
            agree_on_scale(hot, packet);
            hot.state = State::SynSent2;
            hot.flags |= flag::REPLIED;
            Step::Changed
        }
        (State::TimeWait | State::Close, _) => {
            // RFC 9293, section 3.6.1: only with a number above the old connection's.
            if hot.state == State::TimeWait && !after(packet.seq, hot.peers[d].end) {
                return Step::Ignore;
            }
            if direction == Direction::Reply {
                return Step::Over;
            }
            hot.flags &= !(flag::REPLIED | flag::SPLICED | flag::OPENING);
            start(hot, State::SynSent, packet);
            Step::Reopened
        }
        _ => Step::Ignore,
    }
}

fn agree_on_scale(hot: &mut Hot, packet: &CtPacket) {
    hot.set_scale(Direction::Reply, offered(packet));
    if hot.scale(Direction::Original) == u32::from(NOT_OFFERED) || packet.scale.is_none() {
        hot.scales = 0;
    }
}

fn syn_ack(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    match (hot.state, direction) {
        (State::SynSent, Direction::Reply) => {
            let isn = hot.peers[1].max_ack;
            if !after(packet.ack, isn) || after(packet.ack, hot.peers[0].end) {
                return Step::Invalid;
            }
            let end = end(packet);
            hot.peers[1] = Peer {
                end,
                max_end: end.wrapping_add(hot.peers[0].max_window),
                max_window: u32::from(packet.window).max(1),
                max_ack: packet.ack,
            };
            hot.peers[0].max_ack = packet.seq;
            announce(hot, direction, packet);
            agree_on_scale(hot, packet);
            hot.set(tcp_bit::ACKED_SYN, Direction::Reply);
            hot.state = State::SynRecv;
            hot.flags |= flag::REPLIED;
            Step::Changed
        }
        (State::SynSent, Direction::Original) => Step::Invalid,
        (State::SynSent2 | State::SynRecv, _) if !hot.has(tcp_bit::ACKED_SYN, direction) => {
            let sender = &hot.peers[direction as usize];
            let receiver = &hot.peers[direction.other() as usize];
            let of_syn = after(packet.ack, sender.max_ack) && !after(packet.ack, receiver.end);
            if end(packet) != sender.end || !of_syn {
                return Step::Invalid;
            }
            announce(hot, direction, packet);
            hot.peers[direction as usize].max_ack = packet.ack;
            acknowledged(hot, direction)
        }
        // Again, or what the ends answer with a challenge.
        (state, _) => {
            let sender = &hot.peers[direction as usize];
            let receiver = &hot.peers[direction.other() as usize];
            let oldest = sender.end.wrapping_sub(receiver.max_window);
            let end = end(packet);
            let again =
                !after(end, sender.end) && !after(oldest, end) && !after(packet.ack, receiver.end);
            if again {
                announce(hot, direction, packet);
            }
            match state {
                State::SynSent2 | State::SynRecv if again => Step::Pass,
                State::SynSent2 | State::SynRecv => Step::Invalid,
                _ => Step::Ignore,
            }
        }
    }
}

/// Lets the other side send what a SYN's window, never scaled, allows.
fn announce(hot: &mut Hot, direction: Direction, packet: &CtPacket) {
    let receiver = &mut hot.peers[direction.other() as usize];
    let window = u32::from(packet.window).max(1);
    receiver.max_end = latest(packet.ack.wrapping_add(window), receiver.max_end);
    let sender = &mut hot.peers[direction as usize];
    sender.max_window = sender.max_window.max(window);
}

/// `direction` has acknowledged the other's SYN.
fn acknowledged(hot: &mut Hot, direction: Direction) -> Step {
    let before = hot.state;
    hot.set(tcp_bit::ACKED_SYN, direction);
    let both = hot.has(tcp_bit::ACKED_SYN, Direction::Original)
        && hot.has(tcp_bit::ACKED_SYN, Direction::Reply);
    hot.state = if both {
        State::Established
    } else {
        State::SynRecv
    };
    if hot.state == before {
        Step::Pass
    } else {
        Step::Changed
    }
}

fn reset(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    let (sender, receiver) = (
        &hot.peers[direction as usize],
        &hot.peers[direction.other() as usize],
    );
    let exact = match (hot.state, direction) {
        // RFC 9293, section 3.10.7.3: the acknowledgement must be of the SYN.
        (State::SynSent, Direction::Reply) => {
            let of_syn = after(packet.ack, sender.max_ack) && !after(packet.ack, receiver.end);
            if packet.flags & ACK == 0 || !of_syn {
                return Step::Invalid;
            }
            true
        }
        (State::SynSent, Direction::Original) => packet.seq == sender.end,
        (State::Close, _) => return Step::Ignore,
        // What the receiver waits for lies between what it acknowledged and what was sent.
        _ => !after(receiver.max_ack, packet.seq) && !after(packet.seq, sender.end),
    };
    if exact {
        hot.state = State::Close;
        return Step::Changed;
    }
    let inside = !after(packet.seq, sender.max_end)
        && !after(sender.end.wrapping_sub(receiver.max_window), packet.seq);
    if hot.state != State::SynSent && (inside || hot.flags & flag::LIBERAL != 0) {
        Step::Ignore
    } else {
        Step::Invalid
    }
}

/// ACK with or without data or FIN.
fn data(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    let d = direction as usize;
    match (hot.state, direction) {
        // Half open: the other end answers with what it takes for the old connection (RFC 9293, section 3.5.1).
        (State::SynSent, Direction::Reply) if packet.flags & FIN == 0 => return Step::Ignore,
        (State::SynSent, _) => return Step::Invalid,
        (State::Close, _) => return Step::Ignore,
        _ => {}
    }
    let before = hot.state;
    let fin = u32::from(packet.flags & FIN != 0);
    // Nothing follows a FIN.
    if hot.has(tcp_bit::FIN, direction) && after(end(packet), hot.peers[d].end) {
        return Step::Invalid;
    }
    let last_ack = hot.peers[d].max_ack;
    if matches!(before, State::SynSent2 | State::SynRecv)
        && !hot.has(tcp_bit::ACKED_SYN, direction)
        && !after(packet.ack, last_ack)
    {
        return Step::Invalid;
    }
    if !window(hot, direction, packet, fin) {
        return Step::Invalid;
    }
    if before.half_open() {
        acknowledged(hot, direction);
    }
    if fin != 0 && end(packet) == hot.peers[d].end && hot.state != State::SynSent2 {
        hot.set(tcp_bit::FIN, direction);
    }
    if before == State::Pickup && direction == Direction::Reply {
        hot.state = State::Established;
        hot.flags |= flag::REPLIED;
    }
    close(hot);
    if hot.state == before {
        Step::Pass
    } else {
        Step::Changed
    }
}

/// The state that FINs and their acknowledgements make.
fn close(hot: &mut Hot) {
    let sent = [Direction::Original, Direction::Reply].map(|d| hot.has(tcp_bit::FIN, d));
    let done = [0, 1].map(|d| sent[d] && hot.peers[1 - d].max_ack == hot.peers[d].end);
    hot.state = match (sent, done) {
        ([false, false], _) => return,
        ([true, true], [true, true]) => State::TimeWait,
        ([true, true], _) => State::LastAck,
        (_, [false, false]) => State::FinWait,
        _ => State::CloseWait,
    };
}

/// Whether an ICMP error's embedded packet, sent by `direction`, can have been one of the connection's (RFC 5927, section 4.1).
pub(super) fn was_sent(hot: &Hot, direction: Direction, seq: u32) -> bool {
    let (sender, receiver) = (
        &hot.peers[direction as usize],
        &hot.peers[direction.other() as usize],
    );
    if hot.flags & flag::LIBERAL != 0 {
        return true;
    }
    let oldest = sender.end.wrapping_sub(receiver.max_window.max(OLDEST_ACK));
    !after(seq, sender.end) && !after(oldest, seq)
}

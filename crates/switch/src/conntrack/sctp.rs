//! SCTP associations (RFC 9260), simply: the four-way opening, verification tags, shutdown and abort. Multi-homing is not followed: each pair of addresses
//! is a connection of its own.

use super::packet::{CtPacket, sctp_chunk::*};
use super::state::State;
use super::store::{Hot, flag, tcp_bit};
use super::tcp::Step;
use super::tuple::Direction;

const TAG: u8 = tcp_bit::TAG;

/// The state that a first packet makes: INIT alone, with tag zero (section 8.5.1).
pub(super) fn opening(packet: &CtPacket) -> Option<State> {
    (packet.flags == INIT && packet.seq == 0).then_some(State::SctpCookieWait)
}

/// Starts an association. A packet to the opener carries the tag that the opener's INIT names.
pub(super) fn start(hot: &mut Hot, packet: &CtPacket) {
    (hot.state, hot.tcp) = (State::SctpCookieWait, 0);
    hot.peers[Direction::Reply as usize].end = packet.ack;
    hot.set(TAG, Direction::Reply);
}

pub(super) fn step(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> Step {
    let d = direction as usize;
    let flags = packet.flags;
    if flags & (INIT | SHUTDOWN_COMPLETE) != 0 && flags.count_ones() > 1 {
        return Step::Bad;
    }
    if flags == INIT {
        return match (hot.state, direction) {
            _ if packet.seq != 0 => Step::Invalid,
            (State::SctpCookieWait, Direction::Original) => {
                start(hot, packet);
                Step::Pass
            }
            (State::SctpClosed, Direction::Original) => {
                hot.flags &= !flag::REPLIED;
                start(hot, packet);
                Step::Reopened
            }
            (State::SctpClosed, Direction::Reply) => Step::Over,
            // A restart or a collision: the ends settle it (section 5.2).
            _ => Step::Ignore,
        };
    }
    let known = hot.has(TAG, direction);
    // ABORT and SHUTDOWN COMPLETE may reflect the sender's own tag (section 8.5.1).
    let reflected = flags & (ABORT | SHUTDOWN_COMPLETE) != 0
        && hot.has(TAG, direction.other())
        && packet.seq == hot.peers[direction.other() as usize].end;
    let direct = known && packet.seq == hot.peers[d].end;
    if !reflected && !direct {
        return Step::Invalid;
    }
    let before = hot.state;
    if flags & INIT_ACK != 0 {
        if direction == Direction::Original || before != State::SctpCookieWait {
            return Step::Ignore;
        }
        hot.peers[Direction::Original as usize].end = packet.ack;
        hot.set(TAG, Direction::Original);
    }
    let fresh = direction == Direction::Reply && hot.flags & flag::REPLIED == 0;
    if fresh {
        hot.flags |= flag::REPLIED;
    }
    hot.state = match before {
        _ if flags & (ABORT | SHUTDOWN_COMPLETE) != 0 => State::SctpClosed,
        State::SctpCookieWait if flags & COOKIE_ECHO != 0 && direction == Direction::Original => {
            State::SctpCookieEchoed
        }
        State::SctpCookieEchoed if flags & COOKIE_ACK != 0 && direction == Direction::Reply => {
            State::SctpEstablished
        }
        State::SctpEstablished if flags & SHUTDOWN != 0 => State::SctpShutdown,
        state => state,
    };
    if hot.state == before && !fresh {
        Step::Pass
    } else {
        Step::Changed
    }
}

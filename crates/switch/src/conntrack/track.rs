//! A packet meets its connection: the quick path for what changes nothing, and the state machines.

use super::packet::{CtPacket, tcp_flag};
use super::sctp;
use super::state::{POLICIES, STEADY, State, Verdict, ct_state, packet_state};
use super::store::{ConnRef, Hot, flag};
use super::table::Conntrack;
use super::tcp::{self, Step};
use super::tuple::{Direction, Tuple, protocol};

// The verdict takes these bits over as they are.
const _: () = assert!(flag::LIBERAL == packet_state::DISABLED);
const _: () = assert!(flag::NAT == ct_state::SNAT | ct_state::DNAT);

impl Conntrack {
    /// The state that the first packet of a tuple makes; nothing: it is no beginning.
    pub(super) fn opening(&self, tuple: &Tuple, packet: &CtPacket) -> Option<State> {
        if packet.related || !tuple.may_open() || tuple.is_its_reverse() {
            return None;
        }
        match tuple.proto {
            protocol::TCP => tcp::opening(packet, self.zone_picks_up(tuple.zone)),
            protocol::SCTP => sctp::opening(packet),
            protocol::UDP | protocol::UDP_LITE => Some(State::UdpUnreplied),
            protocol::ICMP => Some(State::Icmp),
            protocol::ICMPV6 => Some(State::Icmpv6),
            _ => Some(State::GenericUnreplied),
        }
    }

    /// What to say of a packet whose tuple is not found: new, or invalid.
    pub fn classify(&self, tuple: &Tuple, packet: &CtPacket) -> Verdict {
        match self.opening(tuple, packet) {
            Some(_) => Verdict::new(ct_state::TRK | ct_state::NEW, packet_state::VALID, 0),
            None => Verdict::new(ct_state::TRK | ct_state::INV, packet_state::INVALID, 0),
        }
    }

    /// What [`Self::track`] says of a packet that is in order and changes nothing. A connection that is gone: [`Verdict::STALE`].
    pub fn verdict(&self, conn: ConnRef, direction: Direction) -> Verdict {
        self.live(conn).map_or(Verdict::STALE, |index| {
            let hot = &self.hot[index];
            Verdict::new(bits(hot.flags, direction), packet_state::VALID, hot.epoch)
        })
    }

    /// Runs a packet through its connection's state machine, counts it and keeps the connection alive. A stale or expired reference changes nothing and
    /// answers [`Verdict::STALE`].
    #[inline(always)]
    pub fn track(&mut self, conn: ConnRef, direction: Direction, packet: &CtPacket) -> Verdict {
        let Some(hot) = self.hot.get_mut(conn.index as usize) else {
            return Verdict::STALE;
        };
        let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32;
        if hot.generation != conn.generation || hot.silence(packet.now) > timeout {
            return Verdict::STALE;
        }
        if !in_order(hot, direction, packet) {
            return self.track_slowly(conn.index, direction, packet);
        }
        hot.last_seen = packet.now as u32;
        let verdict = usual(hot, direction);
        self.count(conn.index, direction, packet.bytes);
        verdict
    }

    /// [`Self::track`] for a packet that is in order, if the connection is as a decision takes it for granted ([`Verdict::decision`]). Else false, and nothing has changed.
    #[inline(always)]
    pub fn follow(
        &mut self,
        conn: ConnRef,
        direction: Direction,
        decision: u32,
        packet: &CtPacket,
    ) -> bool {
        let Some(hot) = self.hot.get_mut(conn.index as usize) else {
            return false;
        };
        let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32;
        if hot.generation != conn.generation
            || hot.silence(packet.now) > timeout
            || usual(hot, direction).decision() != decision
            || !in_order(hot, direction, packet)
        {
            return false;
        }
        hot.last_seen = packet.now as u32;
        self.count(conn.index, direction, packet.bytes);
        true
    }

    #[cold]
    fn carry(&mut self, index: u32, direction: Direction, packets: bool, bytes: bool) {
        let cold = &mut self.cold[index as usize];
        let d = direction as usize;
        cold.packet_carries[d] = cold.packet_carries[d].wrapping_add(u16::from(packets));
        cold.byte_carries[d] = cold.byte_carries[d].wrapping_add(u32::from(bytes));
    }

    /// Adds a packet to a connection's sums.
    #[inline(always)]
    fn count(&mut self, index: u32, direction: Direction, bytes: u32) {
        let (hot, d) = (&mut self.hot[index as usize], direction as usize);
        let (packets, packet_carry) = hot.packets[d].overflowing_add(1);
        let (bytes, byte_carry) = hot.bytes[d].overflowing_add(bytes);
        (hot.packets[d], hot.bytes[d]) = (packets, bytes);
        if packet_carry | byte_carry {
            self.carry(index, direction, packet_carry, byte_carry);
        }
    }

    #[inline(never)]
    fn track_slowly(&mut self, index: u32, direction: Direction, packet: &CtPacket) -> Verdict {
        let hot = &mut self.hot[index as usize];
        if packet.related {
            return self.track_related(index, direction, packet);
        }
        let (before, replied) = (hot.state, hot.flags & flag::REPLIED);
        let step = match before {
            State::Free => return Verdict::STALE,
            state if state.is_tcp() => tcp::step(hot, direction, packet),
            State::SctpCookieWait
            | State::SctpCookieEchoed
            | State::SctpEstablished
            | State::SctpShutdown
            | State::SctpClosed => sctp::step(hot, direction, packet),
            _ => answered(hot, direction),
        };
        match step {
            Step::Invalid | Step::Bad => {
                self.stats.invalid += 1;
                let bad = if step == Step::Bad {
                    packet_state::BAD
                } else {
                    0
                };
                return Verdict::new(
                    ct_state::TRK | ct_state::INV,
                    packet_state::INVALID | bad,
                    hot.epoch,
                );
            }
            Step::Over => {
                self.remove(index);
                return Verdict::STALE;
            }
            Step::Pass | Step::Ignore | Step::Changed | Step::Reopened => {}
        }
        if step != Step::Ignore {
            hot.last_seen = packet.now as u32;
        }
        let (state, flags) = (hot.state, hot.flags);
        if step == Step::Reopened {
            self.reopen(index, packet.now);
        }
        if state.phase() != before.phase()
            || flags & flag::REPLIED != replied
            || step == Step::Reopened
        {
            self.advance(index);
        }
        if state != before {
            self.changed(index, before, packet.now);
        }
        self.count(index, direction, packet.bytes);
        let changed = if matches!(step, Step::Changed | Step::Reopened) {
            packet_state::CHANGED
        } else {
            0
        };
        let packet = packet_state::VALID | flags & flag::LIBERAL | changed;
        Verdict::new(
            bits(flags, direction),
            packet,
            self.hot[index as usize].epoch,
        )
    }

    /// An ICMP error: said to be related, and nothing else.
    fn track_related(&mut self, index: u32, direction: Direction, packet: &CtPacket) -> Verdict {
        let hot = &self.hot[index as usize];
        if hot.state.is_tcp() && !tcp::was_sent(hot, direction.other(), packet.seq) {
            self.stats.invalid += 1;
            return Verdict::new(
                ct_state::TRK | ct_state::INV,
                packet_state::INVALID,
                hot.epoch,
            );
        }
        let state = bits(hot.flags, direction) & !(ct_state::NEW | ct_state::EST) | ct_state::REL;
        Verdict::new(state, packet_state::VALID, hot.epoch)
    }

    /// A connection starts again: its sums, mark and label are those of a new one; its translation stays.
    fn reopen(&mut self, index: u32, now: u64) {
        let (hot, cold) = (
            &mut self.hot[index as usize],
            &mut self.cold[index as usize],
        );
        (hot.packets, hot.bytes) = ([0; 2], [0; 2]);
        (cold.packet_carries, cold.byte_carries) = ([0; 2], [0; 2]);
        (cold.mark, cold.label, cold.splice, cold.created) = (0, [0; 2], 0, now);
        self.stats.reopened += 1;
    }

    /// Makes cached decisions about a connection void. After 65,535 times all references to it become stale instead, so that no epoch is met twice.
    pub(super) fn advance(&mut self, index: u32) {
        let hot = &mut self.hot[index as usize];
        hot.epoch = hot.epoch.wrapping_add(1);
        if hot.epoch == 0 {
            hot.generation = hot.generation.wrapping_add(1);
        }
    }

    fn changed(&mut self, index: u32, before: State, now: u64) {
        let hot = &mut self.hot[index as usize];
        let timeouts = &self.timeouts[usize::from(hot.policy) % POLICIES];
        let (old, new) = (timeouts.get(before), timeouts.get(hot.state));
        let state = hot.state;
        if new < old {
            self.wheel.unlink(index);
            self.wheel.link(index, now + u64::from(new));
        }
        match (before.half_open(), state.half_open()) {
            (true, false) => self.settle(index),
            (false, true) => self.begin_half_open(index),
            _ => {}
        }
    }
}

/// Whether a packet changes nothing but sums and bounds, which it moves.
#[inline(always)]
fn in_order(hot: &mut Hot, direction: Direction, packet: &CtPacket) -> bool {
    const FLAGS: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;
    if hot.state == State::Established {
        packet.flags & FLAGS == tcp_flag::ACK
            && !packet.related
            && tcp::window(hot, direction, packet, 0)
    } else {
        STEADY[direction as usize] >> (hot.state as u32) & 1 != 0 && !packet.related
    }
}

/// What is said of a packet that is in order.
#[inline(always)]
fn usual(hot: &Hot, direction: Direction) -> Verdict {
    Verdict::new(
        bits(hot.flags, direction),
        packet_state::VALID | hot.flags & flag::LIBERAL,
        hot.epoch,
    )
}

/// The first answer, and what follows it, of protocols without a state machine.
fn answered(hot: &mut Hot, direction: Direction) -> Step {
    let next = match (hot.state, direction) {
        (State::UdpUnreplied, Direction::Reply) => State::UdpReplied,
        (State::UdpReplied, Direction::Original) => State::UdpStream,
        (State::GenericUnreplied, Direction::Reply) => State::Generic,
        (state, _) => state,
    };
    let fresh = direction == Direction::Reply && hot.flags & flag::REPLIED == 0;
    if fresh {
        hot.flags |= flag::REPLIED;
    }
    let same = hot.state == next && !fresh;
    hot.state = next;
    if same { Step::Pass } else { Step::Changed }
}

/// `ct_state` of a valid packet.
#[inline(always)]
pub(super) fn bits(flags: u8, direction: Direction) -> u8 {
    let known = if flags & flag::REPLIED != 0 {
        ct_state::EST
    } else {
        ct_state::NEW
    };
    let nat = flags & flag::NAT;
    match direction {
        Direction::Original => ct_state::TRK | known | nat,
        // Answers are translated back: the other address.
        Direction::Reply => {
            ct_state::TRK | ct_state::RPL | known | (nat << 1 | nat >> 1) & flag::NAT
        }
    }
}

//! Traces of TCP connections, as the ends would send them.

use super::*;
use Direction::{Original, Reply};
use tcp_flag::{ACK, FIN, RST, SYN};

const C: u32 = 1_000;
const S: u32 = 0xffff_ff00;

struct Trace {
    table: Conntrack,
    conn: ConnRef,
    now: u64,
}

fn tuple() -> Tuple {
    Tuple {
        src: 0x0a00_0001,
        dst: 0x0a00_0002,
        sport: 40_000,
        dport: 80,
        proto: 6,
        family: Family::V4,
        zone: 0,
    }
}

fn segment(flags: u8, seq: u32, ack: u32, payload: u16) -> CtPacket {
    CtPacket {
        flags,
        seq,
        ack,
        payload,
        window: 1000,
        bytes: 100,
        ..CtPacket::default()
    }
}

impl Trace {
    fn begin(first: CtPacket) -> Self {
        let mut table = Conntrack::new(
            Config {
                capacity: 100,
                ..Config::default()
            },
            0,
        )
        .unwrap();
        table.set_zone(
            0,
            ZonePolicy {
                pickup: first.flags & SYN == 0,
                ..ZonePolicy::default()
            },
        );
        let commit = Commit {
            tuple: tuple(),
            packet: first,
            mark: 0,
            label: 0,
            owner: 0,
            policy: 0,
            nat: None,
        };
        let conn = table.commit(&commit).unwrap();
        Self {
            table,
            conn,
            now: 0,
        }
    }

    /// A connection whose opening is complete.
    fn open() -> Self {
        let mut trace = Self::begin(segment(SYN, C, 0, 0));
        trace.valid(Reply, segment(SYN | ACK, S, C + 1, 0), State::SynRecv);
        trace.valid(Original, segment(ACK, C + 1, S + 1, 0), State::Established);
        trace
    }

    fn send(&mut self, direction: Direction, packet: CtPacket) -> Verdict {
        self.now += 10;
        self.table.track(
            self.conn,
            direction,
            &CtPacket {
                now: self.now,
                ..packet
            },
        )
    }

    fn state(&self) -> State {
        self.table
            .connection(self.conn, self.now)
            .map_or(State::Free, |connection| connection.state)
    }

    #[track_caller]
    fn valid(&mut self, direction: Direction, packet: CtPacket, state: State) {
        let before = self.state();
        let verdict = self.send(direction, packet);
        assert_eq!(self.state(), state);
        assert_eq!(
            verdict.state() & (ct_state::INV | ct_state::TRK),
            ct_state::TRK
        );
        assert_eq!(verdict.state() & ct_state::RPL != 0, direction == Reply);
        assert_eq!(
            verdict.packet() & packet_state::CHANGED != 0,
            before != state
        );
        assert_eq!(Some(verdict.epoch()), self.table.epoch(self.conn));
    }

    #[track_caller]
    fn invalid(&mut self, direction: Direction, packet: CtPacket) {
        let (before, epoch) = (
            self.table.connection(self.conn, self.now).unwrap(),
            self.table.epoch(self.conn),
        );
        let verdict = self.send(direction, packet);
        assert_eq!(verdict.state(), ct_state::TRK | ct_state::INV);
        let after = self.table.connection(self.conn, self.now).unwrap();
        assert_eq!(
            (before.state, before.traffic, epoch),
            (after.state, after.traffic, self.table.epoch(self.conn))
        );
        assert!(after.remaining < before.remaining, "no sign of life");
    }
}

#[test]
fn opens_talks_and_closes() {
    let mut trace = Trace::begin(segment(SYN, C, 0, 0));
    assert_eq!(
        trace.send(Original, segment(SYN, C, 0, 0)).state(),
        ct_state::TRK | ct_state::NEW
    );
    assert_eq!(
        trace.send(Reply, segment(SYN | ACK, S, C + 1, 0)).state(),
        ct_state::TRK | ct_state::EST | ct_state::RPL
    );
    trace.valid(Reply, segment(SYN | ACK, S, C + 1, 0), State::SynRecv);
    trace.valid(Original, segment(ACK, C + 1, S + 1, 0), State::Established);
    let epoch = trace.table.epoch(trace.conn);
    trace.valid(
        Original,
        segment(ACK, C + 1, S + 1, 500),
        State::Established,
    );
    trace.valid(Reply, segment(ACK, S + 1, C + 501, 900), State::Established);
    trace.valid(
        Original,
        segment(ACK, C + 501, S.wrapping_add(901), 0),
        State::Established,
    );
    assert_eq!(
        trace.table.epoch(trace.conn),
        epoch,
        "nothing to decide again"
    );
    trace.valid(
        Original,
        segment(FIN | ACK, C + 501, S.wrapping_add(901), 0),
        State::FinWait,
    );
    assert_ne!(trace.table.epoch(trace.conn), epoch);
    trace.valid(
        Original,
        segment(FIN | ACK, C + 501, S.wrapping_add(901), 0),
        State::FinWait,
    );
    trace.valid(
        Reply,
        segment(ACK, S.wrapping_add(901), C + 502, 100),
        State::CloseWait,
    );
    trace.valid(
        Original,
        segment(ACK, C + 502, S.wrapping_add(1001), 0),
        State::CloseWait,
    );
    trace.invalid(Original, segment(ACK, C + 502, S.wrapping_add(1001), 10));
    trace.valid(
        Reply,
        segment(FIN | ACK, S.wrapping_add(1001), C + 502, 0),
        State::LastAck,
    );
    trace.valid(
        Original,
        segment(ACK, C + 502, S.wrapping_add(1002), 0),
        State::TimeWait,
    );
    trace.valid(
        Reply,
        segment(FIN | ACK, S.wrapping_add(1001), C + 502, 0),
        State::TimeWait,
    );
    let connection = trace.table.connection(trace.conn, trace.now).unwrap();
    assert_eq!(connection.remaining, 120_000);
    assert_eq!(
        connection
            .traffic
            .map(|traffic| (traffic.packets, traffic.bytes)),
        [(9, 900), (6, 600)]
    );
    assert_eq!(trace.table.stats().half_open, 0);
    assert_eq!(trace.table.expire(trace.now + 119_000, 100), 0);
    assert_eq!(trace.table.expire(trace.now + 122_100, 100), 1);
    assert_eq!(trace.send(Original, segment(ACK, C, S, 0)), Verdict::STALE);
}

#[test]
fn simultaneous_open_and_close() {
    for late in [SYN | ACK, ACK] {
        let mut trace = Trace::begin(segment(SYN, C, 0, 0));
        trace.valid(Reply, segment(SYN, S, 0, 0), State::SynSent2);
        trace.valid(Reply, segment(SYN, S, 0, 0), State::SynSent2);
        trace.invalid(Original, segment(SYN | ACK, C, S, 0));
        trace.valid(Original, segment(SYN | ACK, C, S + 1, 0), State::SynRecv);
        let seq = if late & SYN != 0 { S } else { S + 1 };
        trace.valid(Reply, segment(late, seq, C + 1, 0), State::Established);
        trace.valid(Reply, segment(FIN | ACK, S + 1, C + 1, 0), State::FinWait);
        trace.valid(
            Original,
            segment(FIN | ACK, C + 1, S + 1, 0),
            State::LastAck,
        );
        trace.valid(Original, segment(ACK, C + 2, S + 2, 0), State::LastAck);
        trace.valid(Reply, segment(ACK, S + 2, C + 2, 0), State::TimeWait);
    }
}

#[test]
fn out_of_window_is_invalid() {
    let mut trace = Trace::open();
    trace.invalid(Original, segment(ACK, C + 1 + 1001, S + 1, 100));
    trace.invalid(Reply, segment(ACK, S.wrapping_add(1 + 1001), C + 1, 100));
    trace.invalid(Original, segment(ACK, C + 1, S.wrapping_add(2), 100));
    trace.invalid(Original, segment(ACK, C + 1, S.wrapping_sub(67_000), 100));
    trace.invalid(Original, segment(ACK, C.wrapping_sub(1200), S + 1, 100));
    trace.invalid(Original, segment(FIN | ACK, C + 1 + 1001, S + 1, 0));
    trace.valid(
        Original,
        segment(ACK, C + 1 + 999, S + 1, 1),
        State::Established,
    );
    trace.valid(
        Original,
        segment(ACK, C + 1000, S + 1, 0),
        State::Established,
    );
    trace.valid(
        Original,
        segment(ACK, C + 101, S + 1, 100),
        State::Established,
    );
    trace.invalid(Original, segment(ACK, C, S + 1, 0));
    for flags in [
        0,
        FIN,
        SYN | FIN,
        SYN | RST,
        FIN | RST | ACK,
        SYN | FIN | RST | ACK,
    ] {
        assert_eq!(
            trace
                .send(Original, segment(flags, C + 1, S + 1, 0))
                .packet(),
            packet_state::INVALID | packet_state::BAD
        );
    }
    assert_eq!(trace.table.stats().invalid, 13);
}

#[test]
fn windows_are_scaled_when_both_offer_it() {
    for (scale, room) in [(Some(7), 128_000), (None, 1000)] {
        let mut trace = Trace::begin(CtPacket {
            scale: Some(3),
            ..segment(SYN, C, 0, 0)
        });
        trace.valid(
            Reply,
            CtPacket {
                scale,
                ..segment(SYN | ACK, S, C + 1, 0)
            },
            State::SynRecv,
        );
        trace.valid(Original, segment(ACK, C + 1, S + 1, 0), State::Established);
        trace.valid(Reply, segment(ACK, S + 1, C + 1, 10), State::Established);
        trace.invalid(Original, segment(ACK, C + 1 + room + 1, S + 1, 100));
        trace.valid(
            Original,
            segment(ACK, C + 1 + room, S + 1, 100),
            State::Established,
        );
    }
}

#[test]
fn blind_resets_and_syns_do_nothing() {
    let mut trace = Trace::open();
    trace.invalid(Reply, segment(RST, S.wrapping_add(50_000), 0, 0));
    trace.valid(
        Reply,
        segment(RST, S.wrapping_add(500), 0, 0),
        State::Established,
    );
    trace.valid(Original, segment(RST | ACK, C, S, 0), State::Established);
    trace.valid(Original, segment(SYN, 77_777, 0, 0), State::Established);
    trace.valid(
        Reply,
        segment(SYN | ACK, 77_777, C + 1, 0),
        State::Established,
    );
    trace.valid(
        Original,
        segment(ACK, C + 1, S + 1, 300),
        State::Established,
    );
    trace.valid(Original, segment(RST, C + 301, 0, 0), State::Close);
    assert_eq!(
        trace
            .table
            .connection(trace.conn, trace.now)
            .unwrap()
            .remaining,
        10_000
    );

    let mut trace = Trace::begin(segment(SYN, C, 0, 0));
    trace.invalid(Reply, segment(RST, 0, 0, 0));
    trace.invalid(Reply, segment(RST | ACK, 0, C, 0));
    trace.invalid(Reply, segment(RST | ACK, 0, C + 2, 0));
    trace.invalid(Reply, segment(SYN | ACK, S, C, 0));
    trace.invalid(Reply, segment(SYN | ACK, S, C + 2, 0));
    trace.invalid(Original, segment(ACK, C + 1, 5, 0));
    trace.valid(Reply, segment(RST | ACK, 0, C + 1, 0), State::Close);
    assert_eq!(trace.table.stats().half_open, 0);
}

#[test]
fn the_handshake_cannot_be_guessed() {
    let mut trace = Trace::begin(segment(SYN, C, 0, 0));
    trace.valid(Reply, segment(SYN | ACK, S, C + 1, 0), State::SynRecv);
    trace.invalid(Original, segment(ACK, C + 1, S, 0));
    trace.invalid(Original, segment(ACK, C + 1, S - 30_000, 0));
    trace.valid(Original, segment(ACK, C + 1, S + 1, 0), State::Established);
}

#[test]
fn a_new_syn_reopens_what_is_closed() {
    let mut trace = Trace::open();
    trace.table.set_mark(trace.conn, 9);
    trace.valid(
        Original,
        segment(FIN | ACK, C + 1, S + 1, 0),
        State::FinWait,
    );
    trace.valid(Reply, segment(FIN | ACK, S + 1, C + 2, 0), State::LastAck);
    trace.valid(Original, segment(ACK, C + 2, S + 2, 0), State::TimeWait);
    trace.valid(Original, segment(SYN, C + 1, 0, 0), State::TimeWait);
    let epoch = trace.table.epoch(trace.conn);
    let verdict = trace.send(Original, segment(SYN, C + 5000, 0, 0));
    assert_eq!(verdict.state(), ct_state::TRK | ct_state::NEW);
    assert!(epoch != trace.table.epoch(trace.conn) && trace.state() == State::SynSent);
    assert_eq!(
        (trace.table.mark(trace.conn), trace.table.stats().half_open),
        (Some(0), 1)
    );
    trace.valid(
        Reply,
        segment(SYN | ACK, S.wrapping_add(90_000), C + 5001, 0),
        State::SynRecv,
    );
    trace.valid(
        Original,
        segment(ACK, C + 5001, S.wrapping_add(90_001), 0),
        State::Established,
    );
    trace.valid(Original, segment(RST, C + 5001, 0, 0), State::Close);
    assert_eq!(
        trace.send(Reply, segment(SYN, 5, 0, 0)),
        Verdict::STALE,
        "the other way round"
    );
    assert_eq!(trace.table.lookup(&tuple(), trace.now), None);
    assert_eq!(trace.table.stats().reopened, 1);
}

#[test]
fn picked_up_in_the_middle_when_the_zone_allows() {
    let mut trace = Trace::begin(segment(ACK, C, S, 100));
    assert_eq!(trace.state(), State::Pickup);
    assert_eq!(
        trace.table.connection(trace.conn, 0).unwrap().remaining,
        300_000
    );
    let verdict = trace.send(Reply, segment(ACK, S, C + 100, 60_000));
    assert_eq!(
        verdict.state(),
        ct_state::TRK | ct_state::EST | ct_state::RPL
    );
    assert_eq!(
        verdict.packet(),
        packet_state::VALID | packet_state::CHANGED | packet_state::DISABLED
    );
    trace.valid(
        Original,
        segment(ACK, C + 50_000, S, 100),
        State::Established,
    );
    trace.valid(
        Original,
        segment(FIN | ACK, C + 50_100, S, 0),
        State::FinWait,
    );
    trace.valid(Reply, segment(ACK, S, C + 50_101, 0), State::CloseWait);

    let table = Conntrack::new(Config::default(), 0).unwrap();
    assert_eq!(
        table.classify(&tuple(), &segment(ACK, C, S, 100)).state(),
        ct_state::TRK | ct_state::INV
    );
    assert_eq!(
        table
            .classify(&tuple(), &segment(SYN | ACK, C, S, 0))
            .state(),
        ct_state::TRK | ct_state::INV
    );
    assert_eq!(
        table.classify(&tuple(), &segment(SYN, C, S, 0)).state(),
        ct_state::TRK | ct_state::NEW
    );
}

#[test]
fn errors_are_related_when_they_show_what_was_sent() {
    let mut trace = Trace::open();
    let (conn, direction) = trace.table.lookup_related(&tuple(), 20).unwrap();
    assert_eq!(
        (conn, direction),
        (trace.conn, Reply),
        "the error goes back to the opener"
    );
    let error = |seq| CtPacket {
        related: true,
        seq,
        ..CtPacket::default()
    };
    let before = trace.table.connection(trace.conn, 100).unwrap();
    assert_eq!(
        trace.send(Reply, error(C + 1)).state(),
        ct_state::TRK | ct_state::REL | ct_state::RPL
    );
    assert_eq!(
        trace.send(Reply, error(C + 500_000)).state(),
        ct_state::TRK | ct_state::INV
    );
    assert_eq!(trace.table.connection(trace.conn, 100).unwrap(), before);
    assert_eq!(
        trace.table.classify(&tuple(), &error(1)).state(),
        ct_state::TRK | ct_state::INV
    );
}

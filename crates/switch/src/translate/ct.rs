//! Connections in the slow path: the state that rules match, new connections, translation.

use sumeru_flow::model::CtState;
use sumeru_packet::{Field, FlowKey, Layer, Part};

use super::Walk;
use super::key::bits_of;
use crate::conntrack::{Commit, ConnRef, Direction, Rewrite, Tuple, Verdict, ct_state, protocol};
use crate::program::Op;
use crate::rules::{CtChange, CtRule};
use crate::stats::Drop;
use crate::track::{self, Table, Track};

const OUTER: Layer = Layer::Outer;
/// What decides how a frame is tracked.
const KIND: [Field; 3] = [
    Field::EthType(OUTER),
    Field::IpProto(OUTER),
    Field::Fragment(OUTER),
];

/// What tells connections apart.
const fn tuple_of(layer: Layer) -> [Field; 7] {
    [
        Field::EthType(layer),
        Field::IpProto(layer),
        Field::Fragment(layer),
        Field::IpSrc(layer),
        Field::IpDst(layer),
        Field::L4Src(layer),
        Field::L4Dst(layer),
    ]
}

pub(super) const TUPLE: [Field; 7] = tuple_of(OUTER);

/// What tracking a frame in a zone came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    /// The frame as the zone sees it, by what its key had of the tuple at first, and by what it has since.
    bare: [Option<Tuple>; 2],
    /// Its place among the decision's tracks.
    pub number: usize,
    pub tuple: Option<Tuple>,
    pub found: Option<(ConnRef, Direction)>,
    pub verdict: Verdict,
    /// It has no connection, and what it is is read off the frame as it came: a connection is made when the decision is carried out.
    later: bool,
    /// Mark and label of the connection that is made then.
    pub coming: Option<(u32, u128)>,
}

impl Tracked {
    /// The connection that it belongs to, and which way it goes.
    pub fn found(&self) -> Option<(ConnRef, Direction)> {
        self.found
    }

    /// Its tuple, if it has one.
    pub fn tuple(&self) -> Option<Tuple> {
        self.tuple
    }

    /// Its place among the decision's tracks.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether a connection of it is made when the decision is carried out.
    pub fn is_later(&self) -> bool {
        self.later
    }
}

impl Walk<'_> {
    /// Carries out a `ct` action; false when the frame's fate is decided by it.
    pub(super) fn track(&mut self, ct: &CtRule) -> bool {
        if !self.read_tuple() {
            return false;
        }
        let place = self.tracked_in(ct.zone);
        self.track_at(place, ct)
    }

    /// Looks at what tells connections apart; false when the frame's fate is decided by it.
    fn read_tuple(&mut self) -> bool {
        // Of headers that were put in front only the frame itself tells what the table wants to know.
        if !self.seen.is_own() && !self.reveal() {
            return false;
        }
        // What is behind other headers is read off the frame before anything else.
        for field in TUPLE {
            self.origin(field, u128::MAX);
        }
        for field in KIND {
            self.get(field);
        }
        !self.over
    }

    fn track_at(&mut self, place: usize, ct: &CtRule) -> bool {
        let Some(mut tracked) = self.tracked.get(place).copied() else {
            return true;
        };
        let kept = ct.commit.as_ref();
        if let Some(change) = kept.filter(|_| tracked.verdict.state() & ct_state::INV == 0) {
            // The connection that is coming is not translated later on.
            if tracked.later && (change.nat.is_none() || tracked.coming.is_some()) {
                self.commit_later(ct.zone, change, &mut tracked);
            } else if let Err(reason) = self.commit_now(ct, change, &mut tracked) {
                self.drop(reason);
                return false;
            }
            if let Some(place) = self.tracked.get_mut(place) {
                *place = tracked;
            }
        }
        self.show(ct.zone, &tracked);
        if ct.nat
            && let Some((conn, direction)) = tracked.found
        {
            self.translate(conn, direction, tracked.number);
        }
        true
    }

    /// What a zone says of the frame, of which rules learn nothing; `None` when the frame's fate is decided by it.
    pub(super) fn look_in(&mut self, zone: u16) -> Option<Tracked> {
        if !self.read_tuple() {
            return None;
        }
        let place = self.tracked_in(zone);
        self.tracked.get(place).copied()
    }

    /// Makes the connection of a frame that was looked at in a zone, about which the decision is from now on; nothing in a trace.
    pub(super) fn open_in(
        &mut self,
        zone: u16,
        change: &CtChange,
        tracked: &mut Tracked,
    ) -> Result<Option<ConnRef>, Drop> {
        let ct = CtRule {
            zone,
            commit: None,
            nat: true,
            group: None,
        };
        self.commit_now(&ct, change, tracked)?;
        if let Some(place) = self
            .tracked
            .iter_mut()
            .find(|at| at.number == tracked.number)
        {
            *place = *tracked;
        }
        Ok(tracked.found.map(|(conn, _)| conn))
    }

    /// What tracking the frame in a zone comes to, by its place. A frame is tracked once in a zone, however many actions ask.
    pub(super) fn tracked_in(&mut self, zone: u16) -> usize {
        let bare = track::tuple(&self.key, OUTER, zone);
        let same = |tracked: &Tracked| tracked.bare.contains(&bare);
        if let Some(place) = self.tracked.iter().position(same) {
            let facts = &self.tracking.facts[usize::from(self.seen.is_decapsulated())];
            let tuple = self.tracked.get(place).and_then(|tracked| tracked.tuple);
            if let Some(tuple) = tuple.filter(|_| facts.fragment.is_some()) {
                self.write_ports(&tuple);
            }
            return place;
        }
        let untouched = |field| self.seen.is_untouched(&bits_of(field, u128::MAX));
        let own = TUPLE.into_iter().all(untouched);
        let mut tracked = self.look_up(zone, bare);
        // What else makes a difference is told again for each frame.
        let same = !tracked.tuple.is_some_and(|tuple| tuple.is_its_reverse());
        tracked.later =
            own && same && tracked.found.is_none() && !self.out.once && !self.out.tracks.is_full();
        if !tracked.later {
            for field in TUPLE {
                self.get(field);
            }
        }
        tracked.bare = [bare, track::tuple(&self.key, OUTER, zone)];
        self.remember(zone, own, &tracked);
        self.tracked.push(tracked);
        self.tracked.len() - 1
    }

    /// Has the connection made when the decision is carried out, for this frame and all that are like it.
    fn commit_later(&mut self, zone: u16, change: &CtChange, tracked: &mut Tracked) {
        self.note(
            "conntrack",
            format_args!("the connection is kept in zone {zone}"),
        );
        let op = Op::Commit(tracked.number as u8, Box::new(change.clone()));
        self.out.ops.push(op);
        let (mark, label) = tracked.coming.unwrap_or_default();
        let mark = change
            .mark
            .map_or(mark, |(value, mask)| mark & !mask | value & mask);
        let label = change
            .label
            .map_or(label, |(value, mask)| label & !mask | value & mask);
        tracked.coming = Some((mark, label));
    }

    /// Makes the connection, about which the decision is from now on.
    fn commit_now(
        &mut self,
        ct: &CtRule,
        change: &CtChange,
        tracked: &mut Tracked,
    ) -> Result<(), Drop> {
        let Some(tuple) = tracked.tuple else {
            return Ok(());
        };
        if tracked.later {
            let track = self.out.tracks.get(tracked.number);
            let inner = matches!(track, Some(Track::None { inner: true, .. }));
            let layer = if inner { Layer::Inner } else { OUTER };
            for field in tuple_of(layer) {
                self.out.mask.merge_field(field);
            }
        }
        tracked.later = false;
        if let Some(now) = self.commit(ct, change, &tuple, tracked.found)? {
            (tracked.found, tracked.verdict) = (Some(now), self.verdict(now));
            self.replace(tracked.number, now, tracked.verdict);
        }
        Ok(())
    }

    /// The frame's connection, after the frame was run through its states.
    fn look_up(&mut self, zone: u16, bare: Option<Tuple>) -> Tracked {
        let bits = self.get(Field::Fragment(OUTER));
        let facts = self.tracking.facts[usize::from(self.seen.is_decapsulated())];
        let icmp = matches!(
            self.key.get(Field::IpProto(OUTER)) as u8,
            protocol::ICMP | protocol::ICMPV6
        );
        // What is not in the key decides about these.
        self.out.once |= bits != 0 || icmp;
        let known = self.tracking.known.take();
        let kind = (
            self.key.get(Field::L4Src(OUTER)) as u8,
            self.key.get(Field::L4Dst(OUTER)) as u8,
        );
        let invalid = Tracked {
            bare: [bare; 2],
            number: self.out.tracks.len(),
            tuple: None,
            found: None,
            verdict: Verdict::INVALID,
            later: false,
            coming: None,
        };
        let Some(bare) = bare else {
            return invalid;
        };
        if icmp && let Some(embedded) = facts.embedded {
            let embedded = Tuple { zone, ..embedded };
            return match &mut self.tracking.table {
                Table::Live(table, _) => match table.lookup_related(&embedded, facts.packet.now) {
                    Some((conn, direction)) => {
                        let verdict = table.track(conn, direction, &facts.packet);
                        Tracked {
                            found: Some((conn, direction)),
                            verdict,
                            ..invalid
                        }
                    }
                    None => invalid,
                },
                _ => invalid,
            };
        }
        let Some(tuple) = track::complete(bare, kind, &facts, &mut self.tracking.table) else {
            return invalid;
        };
        if facts.fragment.is_some() {
            self.write_ports(&tuple);
        }
        let now = facts.packet.now;
        let (found, verdict) = match &mut self.tracking.table {
            Table::Off => return invalid,
            Table::Live(table, _) => match table.lookup(&tuple, now) {
                Some((conn, direction)) => {
                    let verdict = match known {
                        Some((tracked, _, verdict)) if tracked == conn => verdict,
                        _ => table.track(conn, direction, &facts.packet),
                    };
                    (Some((conn, direction)), verdict)
                }
                None => (None, table.classify(&tuple, &facts.packet)),
            },
            Table::Dry(table) => match table.lookup(&tuple, now) {
                Some((conn, direction)) => {
                    (Some((conn, direction)), table.verdict(conn, direction))
                }
                None => (None, table.classify(&tuple, &facts.packet)),
            },
        };
        match tuple.proto {
            protocol::TCP if found.is_none() => {
                self.get(Field::TcpFlags(OUTER));
                if verdict.state() & ct_state::INV != 0 {
                    self.doubted(facts.packet.flags);
                }
            }
            // Whether its chunks open an association is not in the key.
            protocol::SCTP if found.is_none() => self.out.once = true,
            _ => {}
        }
        Tracked {
            tuple: Some(tuple),
            found,
            verdict,
            ..invalid
        }
    }

    /// To rules, a fragment that was tracked is as the datagram that it is of: its ports are known, whether they are in it or not.
    fn write_ports(&mut self, tuple: &Tuple) {
        let (src, dst) = match tuple.is_query() {
            true => (tuple.dport >> 8, tuple.dport & 0xff),
            false => (tuple.sport, tuple.dport),
        };
        for (field, value) in [
            (Field::L4Src(OUTER), src),
            (Field::L4Dst(OUTER), dst),
            (Field::Fragment(OUTER), 0),
        ] {
            self.write(field, value.into());
        }
    }

    /// Notes what the decision takes for granted.
    fn remember(&mut self, zone: u16, own: bool, tracked: &Tracked) {
        let inner = self.seen.is_decapsulated();
        let track = match tracked.found {
            Some((conn, direction)) => Track::Connection {
                conn,
                direction,
                inner,
                decision: tracked.verdict.decision(),
            },
            // It is looked up again by the frame as it came.
            None => {
                self.out.once |= !own;
                Track::None {
                    zone,
                    inner,
                    decision: tracked.verdict.decision(),
                }
            }
        };
        if self.out.tracks.try_push(track).is_err() {
            self.out.once = true;
        }
    }

    fn replace(
        &mut self,
        number: usize,
        (conn, direction): (ConnRef, Direction),
        verdict: Verdict,
    ) {
        let inner = self.seen.is_decapsulated();
        if let Some(track) = self.out.tracks.get_mut(number) {
            *track = Track::Connection {
                conn,
                direction,
                inner,
                decision: verdict.decision(),
            };
        }
    }

    fn verdict(&self, (conn, direction): (ConnRef, Direction)) -> Verdict {
        let table = self.tracking.table.connections();
        table.map_or(Verdict::STALE, |table| table.verdict(conn, direction))
    }

    /// Makes the connection if there is none, and changes its mark and label.
    fn commit(
        &mut self,
        ct: &CtRule,
        change: &CtChange,
        tuple: &Tuple,
        found: Option<(ConnRef, Direction)>,
    ) -> Result<Option<(ConnRef, Direction)>, Drop> {
        let packet = self.tracking.facts[usize::from(self.seen.is_decapsulated())].packet;
        let owner = self.key.get(Field::InPort) as u16;
        let Table::Live(table, _) = &mut self.tracking.table else {
            return Ok(None);
        };
        let kept = match found {
            Some((conn, Direction::Reply)) if change.force => {
                table.end_connection(conn);
                None
            }
            kept => kept,
        };
        let (conn, direction) = match kept {
            Some(kept) => kept,
            None => {
                let commit = Commit {
                    tuple: *tuple,
                    packet,
                    mark: change.mark.map_or(0, |(value, mask)| value & mask),
                    label: change.label.map_or(0, |(value, mask)| value & mask),
                    owner,
                    policy: change.policy,
                    nat: change.nat.as_ref(),
                };
                let made = table.commit(&commit).map_err(Drop::from)?;
                self.out.made.push(made);
                self.note(
                    "conntrack",
                    format_args!("new connection in zone {}", ct.zone),
                );
                return Ok(Some((made, Direction::Original)));
            }
        };
        change.write(table, conn);
        Ok(Some((conn, direction)))
    }

    /// Sets what rules match from now on.
    fn show(&mut self, zone: u16, tracked: &Tracked) {
        let verdict = tracked.verdict;
        let (mut mark, mut label) = tracked.coming.unwrap_or_default();
        if let Some((conn, _)) = tracked.found {
            let table = self.tracking.table.connections();
            mark = table.and_then(|table| table.mark(conn)).unwrap_or(0);
            label = table.and_then(|table| table.label(conn)).unwrap_or(0);
        }
        self.note(
            "conntrack",
            format_args!("zone {zone}: {}", set_bits(verdict.state())),
        );
        for (field, value) in [
            (Field::CtState, verdict.state().into()),
            (Field::CtZone, zone.into()),
            (Field::CtMark, mark.into()),
            (Field::CtLabel, label),
            (Field::ConntrackItem, verdict.packet().into()),
        ] {
            self.write(field, value);
        }
    }

    /// Rewrites the frame as its connection says.
    pub(super) fn translate(&mut self, conn: ConnRef, direction: Direction, number: usize) {
        let table = self.tracking.table.connections();
        let Some(binding) = table.and_then(|table| table.binding(conn)) else {
            return;
        };
        let rewrite = *binding.rewrite(direction);
        if rewrite.is_empty() {
            return;
        }
        self.note("conntrack", format_args!("translate"));
        self.out.ops.push(Op::Nat(number as u8));
        for (field, value) in written(&rewrite, &self.key) {
            self.write(field, value);
        }
        // An identifier is kept with the extra fields. An error has none.
        let facts = self.tracking.facts[usize::from(self.seen.is_decapsulated())];
        let error = facts.embedded.is_some();
        let ident = Part::ICMP_IDENT;
        if let Some(id) = rewrite.sport.filter(|_| is_icmp(&self.key) && !error) {
            let bits = ((1 << ident.width) - 1) << ident.shift;
            self.write_bits(Field::L4Extra(OUTER), bits, u128::from(id) << ident.shift);
        }
    }
}

/// The bits of a state that are set, by the names that the `ct` item has for them.
fn set_bits(state: u8) -> String {
    let names = CtState::NAMES.iter().enumerate();
    let set = names.filter(|(bit, _)| state >> bit & 1 == 1);
    set.map(|(_, name)| format!("+{name}")).collect()
}

fn is_icmp(key: &FlowKey) -> bool {
    let proto = key.get(Field::IpProto(OUTER)) as u8;
    matches!(proto, protocol::ICMP | protocol::ICMPV6)
}

/// The fields of a key that a translation writes. The identifier of an ICMP query is none.
fn written(rewrite: &Rewrite, key: &FlowKey) -> impl Iterator<Item = (Field, u128)> + use<> {
    let query = is_icmp(key);
    let port = |port: Option<u16>| port.filter(|_| !query).map(u128::from);
    let all = [
        (Field::IpSrc(OUTER), rewrite.src),
        (Field::IpDst(OUTER), rewrite.dst),
        (Field::L4Src(OUTER), port(rewrite.sport)),
        (Field::L4Dst(OUTER), port(rewrite.dport)),
    ];
    all.into_iter()
        .filter_map(|(field, value)| Some((field, value?)))
}

//! Plain frames that are known by their bytes: what the parser, the hash and the compare would come to is looked up by the first 48 bytes of the frame, as far as any decision
//! of its port looks at them ([`PlainMask`]). It stands in front of the two levels and holds none of their decisions: only which entry they answered.
//!
//! Only entries whose frames need nothing but to be sent, perhaps into a tunnel or out of one, or as part of a connection, are found here. Frames in tunnels are known by what is in front of them
//! ([`super::fronts`]) and their own bytes.

use sumeru_packet::ParseOptions;
use sumeru_packet::plain::wrapped::{FrontKey, WrappedMask, is_wrapped};
use sumeru_packet::plain::{PlainKey, PlainMask, is_plain};
use sumeru_virtio::slice::prefetch_read;

use super::fronts::{Realm, realm_of};
use super::sets::{Newcomers, Salt};
use super::table::Entry;
use super::{Cache, Quick};
use crate::classifier::Stamps;
use crate::conntrack::{ConnRef, Direction};
use crate::frame::{Frame, PortIndex};
use crate::program::{Op, Tunnel};
use crate::track::Track;

/// Frames that are told apart at first, and at most; powers of two. 64 bytes each.
const SLOTS: [usize; 2] = [1 << 11, 1 << 19];
/// Ways of a set. What finds no place in its set may have one in the next, its neighbour: few frames are to be strange only for want of a place, as one keeps those behind it in its burst
/// from being known too.
const WAYS: usize = 2;
/// The place of no connection.
const NOWHERE: u32 = u32::MAX;

/// How a known frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it is; one in a tunnel without what is in front of it.
    Direct,
    /// Into the tunnel of this program.
    Into(u32),
    /// As part of a connection, if that is as the decision takes it for granted.
    Follow(ConnRef, Direction, u32),
}

/// What is done with a known frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// Its entry.
    pub entry: u32,
    /// Where to.
    pub quick: Quick,
    /// How.
    pub way: Way,
}

/// Which entry frames with these bytes met.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: PlainKey,
    known: Known,
    realm: Realm,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// An entry, by its place and what tells it apart from others in that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    entry: u32,
    serial: u32,
    /// The place of the connection that it is about, if it is.
    pub connection: u32,
}

impl Known {
    /// No entry: none has this serial.
    pub const NONE: Known = Known {
        entry: 0,
        serial: 0,
        connection: NOWHERE,
    };
}

/// Where the frames of a realm are looked up.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    salt: Salt,
    /// The last set.
    last: usize,
}

impl Spread {
    /// The set of frames with these bytes.
    #[inline(always)]
    fn place(&self, key: &PlainKey) -> usize {
        self.salt.place(key.hash(), self.last)
    }
}

/// The slots.
#[derive(Debug)]
pub(super) struct PlainSlots {
    /// Empty until the first is kept.
    sets: Vec<[Slot; WAYS]>,
    /// Slots that were ever used.
    used: usize,
    /// Counts how often what was kept was given up.
    arrangement: u32,
    newcomers: Newcomers,
    salt: Salt,
}

impl PlainSlots {
    pub(super) fn new() -> Self {
        Self {
            sets: Vec::new(),
            used: 0,
            arrangement: 1,
            newcomers: Newcomers::default(),
            salt: Salt::new(),
        }
    }

    /// Makes room for more when a quarter of it is used. What was there comes back as frames are met.
    pub(super) fn widen(&mut self) {
        let [least, most] = SLOTS;
        let slots = self.sets.len() * WAYS;
        if slots != 0 && (slots == most || self.used < slots / 4) {
            return;
        }
        let sets = (slots * 4).clamp(least, most) / WAYS;
        let mut wider = Vec::with_capacity(sets);
        sumeru_engine::huge::advise(&wider);
        wider.resize(
            sets,
            [Slot {
                key: PlainKey::NONE,
                known: Known::NONE,
                realm: 0,
            }; WAYS],
        );
        (self.sets, self.used) = (wider, 0);
        self.arrangement = self.arrangement.wrapping_add(1);
    }

    /// Where frames of a realm are looked up.
    #[inline(always)]
    fn spread(&self, realm: Realm) -> Spread {
        Spread {
            salt: self.salt.of(realm),
            last: self.sets.len().wrapping_sub(1),
        }
    }

    #[inline(always)]
    fn get(&self, place: usize, key: &PlainKey, realm: Realm) -> Option<Known> {
        let known = |slot: &Slot| slot.realm == realm && slot.key == *key;
        match self.sets.get(place)? {
            [first, _] if known(first) => Some(first.known),
            [_, second] if known(second) => Some(second.known),
            _ => {
                let mut slots = self.sets.get(neighbour(place))?.iter();
                slots.find(|slot| known(slot)).map(|slot| slot.known)
            }
        }
    }

    /// Bytes reserved.
    pub(super) fn bytes(&self) -> usize {
        self.sets.len() * size_of::<[Slot; WAYS]>()
    }

    /// Keeps a slot; `is_dead` says of others that what they lead to is no more.
    fn put(&mut self, slot: Slot, is_dead: impl Fn(&Known) -> bool) {
        let place = self.spread(slot.realm).place(&slot.key);
        let places = [place, neighbour(place)];
        let same = |other: &Slot| (other.key, other.realm) == (slot.key, slot.realm);
        let dead = |other: &Slot| is_dead(&other.known);
        let find = |which: &dyn Fn(&Slot) -> bool| {
            places.iter().find_map(|place| {
                let way = self.sets.get(*place)?.iter().position(which)?;
                Some((*place, way))
            })
        };
        let own = || Some((place, self.newcomers.way(WAYS)?));
        let Some((place, way)) = find(&same).or_else(|| find(&dead)).or_else(own) else {
            return;
        };
        if let Some(old) = self.sets.get_mut(place).and_then(|set| set.get_mut(way)) {
            self.used += usize::from(old.known == Known::NONE);
            *old = slot;
        }
    }
}

/// The set next to another.
#[inline(always)]
fn neighbour(place: usize) -> usize {
    place ^ 1
}

/// What of the frames of a port matters.
#[derive(Debug)]
pub struct PlainMasks {
    /// Of plain ones.
    pub plain: PlainMask,
    /// Of those in tunnels, if tunnels are looked into.
    pub wrapped: Option<WrappedMask>,
}

/// What is known of the plain frames of one port.
#[derive(Debug)]
pub(super) struct PlainPort {
    masks: PlainMasks,
    /// What the masks were made for.
    options: ParseOptions,
    /// Frames that were known less frames that were not, between bounds.
    credit: i32,
    /// Bursts left in which nobody looks, as too few frames were known.
    rest: u32,
}

/// Frames not known, beyond those that were, after which nobody looks for a while.
const PATIENCE: i32 = 4096;
/// For so many bursts.
const REST: u32 = 2048;
/// Frames of an entry after which its place is looked after again: it may have been taken.
const TOLD_AGAIN: u32 = 64;

impl Cache {
    /// Whether frames of a port are worth asking for by [`Self::look_up`] in this burst.
    #[inline(always)]
    pub fn asks_plain(&mut self, port: PortIndex, options: &ParseOptions) -> bool {
        let masks = self.ports.get_mut(usize::from(port));
        let Some(plain) = masks.and_then(|masks| masks.plain.as_mut()) else {
            return false;
        };
        if plain.rest != 0 {
            plain.rest -= 1;
            return false;
        }
        plain.options == *options
    }

    /// What of the frames of a port matters; nothing when none of them would be known.
    #[inline(always)]
    pub fn plain_masks(&self, port: PortIndex) -> Option<&PlainMasks> {
        let plain = self.ports.get(usize::from(port))?.plain.as_ref()?;
        Some(&plain.masks)
    }

    /// Under what frames of a port with these bytes in front are looked up.
    #[inline(always)]
    pub fn realm(&self, front: &FrontKey, port: PortIndex) -> Option<Realm> {
        self.fronts.get(front, port)
    }

    /// Where frames are looked up that are kept under `realm`.
    #[inline(always)]
    pub fn plain_spread(&self, realm: Realm) -> Spread {
        self.plain.spread(realm)
    }

    /// The place of frames with these bytes; what is there is fetched.
    #[inline(always)]
    pub fn plain_place(&self, key: &PlainKey, spread: &Spread) -> usize {
        let place = spread.place(key);
        for slot in self.plain.sets.get(place).into_iter().flatten() {
            prefetch_read(std::ptr::from_ref(slot).cast());
        }
        place
    }

    /// What frames with these bytes met before under this realm.
    #[inline(always)]
    pub fn look_up(&self, key: &PlainKey, place: usize, realm: Realm) -> Option<Known> {
        self.plain.get(place, key, realm)
    }

    /// Asks for the entry that [`Self::meet`] will look at.
    #[inline(always)]
    pub fn prefetch_known(&self, known: &Known) {
        if let Some(entry) = self.table.get(known.entry) {
            prefetch_read(std::ptr::from_ref(entry).cast());
        }
    }

    /// What to do with frames that met this before, if it is still right. See [`Self::met`].
    #[inline(always)]
    pub fn meet(&mut self, known: &Known, stamps: &Stamps) -> Option<Met> {
        let entry = self.table.get(known.entry)?;
        if entry.serial != known.serial
            || entry.epoch != self.epoch && !self.check(known.entry, stamps)
        {
            return None;
        }
        let entry = self.table.get(known.entry)?;
        // The port of any other is in its program.
        let (mut quick, mut way) = (entry.quick(), Way::Direct);
        if !entry.is_quick() {
            (quick.port, way) = self.way(entry)?;
        }
        Some(Met {
            entry: known.entry,
            quick,
            way,
        })
    }

    #[inline(always)]
    fn way(&self, entry: &Entry) -> Option<(PortIndex, Way)> {
        let number = entry.number();
        match (self.programs.get(number)?, entry.track) {
            ([Op::Encapsulate(_), Op::Output(port)], None) => Some((*port, Way::Into(number))),
            ([Op::Decapsulate, Op::Output(port)], None) => Some((*port, Way::Direct)),
            (
                [Op::Output(port)],
                Some(Track::Connection {
                    conn,
                    direction,
                    inner: false,
                    decision,
                }),
            ) => Some((*port, Way::Follow(conn, direction, decision))),
            _ => None,
        }
    }

    /// Counts so many frames that met an entry.
    #[inline(always)]
    pub fn met(&mut self, entry: u32, frames: usize) {
        if let Some(entry) = self.table.get_mut(entry) {
            entry.hits = entry.hits.wrapping_add(frames as u32);
        }
    }

    /// The tunnel of a program that does nothing but put frames into it.
    #[inline(always)]
    pub fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        match self.programs.get(number)? {
            [Op::Encapsulate(tunnel), _] => Some(tunnel),
            _ => None,
        }
    }

    /// Of a burst of a port, so many frames were known and so many not. Asking is given up for a while if it is for nothing.
    #[inline(always)]
    pub fn asked_plain(&mut self, port: PortIndex, known: usize, strange: usize) {
        let masks = self.ports.get_mut(usize::from(port));
        if let Some(plain) = masks.and_then(|masks| masks.plain.as_mut()) {
            plain.credit = (plain.credit + known as i32 - strange as i32).min(PATIENCE);
            if plain.credit < -PATIENCE {
                (plain.credit, plain.rest) = (0, REST);
            }
        }
    }

    /// A parsed frame met an entry: frames with its bytes will be known, if it is plain and the entry of those that need nothing but to be sent.
    #[inline(always)]
    pub fn acquaint(&mut self, frame: &Frame, entry: u32, options: &ParseOptions) {
        let Some(kept) = self.table.get_mut(entry) else {
            return;
        };
        let again = kept.hits.is_multiple_of(TOLD_AGAIN);
        if !kept.is_express() || kept.told == self.plain.arrangement && !again {
            return;
        }
        let port = self.ports.get(usize::from(frame.in_port));
        let plain = port.and_then(|port| port.plain.as_ref());
        if plain.is_some_and(|plain| plain.rest != 0) {
            // Telling costs more than it brings while nobody asks.
            return;
        }
        kept.told = self.plain.arrangement;
        if kept.is_unwrap() {
            self.acquaint_wrapped(frame, entry, options);
        } else if is_plain(&frame.key, &frame.layout, options)
            && frame.offload.is_own_sum_at_most(&frame.layout)
        {
            self.acquaint_plain(frame, entry, options);
        }
    }

    #[inline(never)]
    fn acquaint_plain(&mut self, frame: &Frame, entry: u32, options: &ParseOptions) {
        let first = frame.header.header().first_chunk();
        if let Some(masks) = self.masks_of(frame.in_port, options)
            && let Some(key) = first.and_then(|first| masks.plain.read(first, frame.len as usize))
        {
            self.keep(key, realm_of(frame.in_port), entry);
        }
    }

    #[inline(never)]
    fn acquaint_wrapped(&mut self, frame: &Frame, entry: u32, options: &ParseOptions) {
        if let Some(first) = frame.header.header().first_chunk()
            && frame.offload.is_none()
            && is_wrapped(&frame.key, &frame.layout, first)
            && let Some(masks) = self.masks_of(frame.in_port, options)
            && let Some(mask) = &masks.wrapped
            && let Some((front, key)) = mask.read(first, frame.len as usize)
            && let Some(realm) = self.fronts.number(&front, frame.in_port)
        {
            self.keep(key, realm, entry);
        }
    }

    /// What of the frames of a port matters, if anybody asks; as of now when its frames begin to be parsed in another way.
    fn masks_of(&mut self, port: PortIndex, options: &ParseOptions) -> Option<&PlainMasks> {
        let masks = self.ports.get_mut(usize::from(port))?;
        let of_now = masks.plain.as_ref();
        if of_now.is_none_or(|plain| plain.options != *options) {
            self.plain.arrangement = self.plain.arrangement.wrapping_add(1);
            masks.plain = PlainMask::of(&masks.relevant, options).map(|plain| PlainPort {
                masks: PlainMasks {
                    plain,
                    wrapped: WrappedMask::of(&masks.relevant, options),
                },
                options: *options,
                credit: 0,
                rest: 0,
            });
        }
        Some(&masks.plain.as_ref()?.masks)
    }

    /// Keeps which entry frames with these bytes met.
    fn keep(&mut self, key: PlainKey, realm: Realm, entry: u32) {
        let Some(kept) = self.table.get(entry) else {
            return;
        };
        let connection = match kept.track {
            Some(Track::Connection { conn, .. }) => conn.place(),
            _ => NOWHERE,
        };
        let known = Known {
            entry,
            serial: kept.serial,
            connection,
        };
        let table = &self.table;
        let is_dead = |known: &Known| {
            let entry = table.get(known.entry);
            known.serial == 0 || entry.is_none_or(|entry| entry.serial != known.serial)
        };
        self.plain.put(Slot { key, known, realm }, is_dead);
    }

    /// The serial of a decision that is put in.
    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        if self.serial == 0 {
            // A slot may be older than all serials.
            (self.plain, self.serial) = (PlainSlots::new(), 1);
        }
        self.serial
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decision, mask};
    use super::*;
    use crate::program::Op;
    use sumeru_packet::{FlowMask, parse};

    const OPTIONS: ParseOptions = ParseOptions::PLAIN;

    /// A datagram from 10.0.0.1 to `dst`.
    fn frame(port: PortIndex, dst: [u8; 4], ttl: u8) -> Frame {
        let mut bytes = vec![
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0,
        ];
        bytes.extend([ttl, 17, 0, 0, 10, 0, 0, 1]);
        bytes.extend(dst);
        bytes.extend([0, 7, 0, 9, 0, 20, 0, 0]);
        bytes.resize(60, 0);
        let mut frame = Frame::new();
        (frame.in_port, frame.len) = (port, bytes.len() as u32);
        frame.header.load(&bytes);
        frame.key.set_metadata(port.into(), 0, 0);
        parse(
            &bytes,
            bytes.len(),
            &mut frame.key,
            &mut frame.layout,
            &OPTIONS,
        )
        .unwrap();
        frame
    }

    /// What is done with a frame that is known.
    fn known(cache: &mut Cache, frame: &Frame) -> Option<Met> {
        if !cache.asks_plain(frame.in_port, &OPTIONS) {
            return None;
        }
        let first = frame.header.header().first_chunk()?;
        let masks = cache.plain_masks(frame.in_port)?;
        let key = masks.plain.read(first, frame.len as usize)?;
        let realm = realm_of(frame.in_port);
        let place = cache.plain_place(&key, &cache.plain_spread(realm));
        let known = cache.look_up(&key, place, realm)?;
        let met = cache.meet(&known, &Stamps::default())?;
        cache.met(met.entry, 1);
        Some(met)
    }

    fn keep(cache: &mut Cache, frame: &Frame, mask: FlowMask, ops: Vec<Op>) -> u32 {
        let entry = cache.insert(&frame.key, decision(mask, ops));
        cache.acquaint(frame, entry, &OPTIONS);
        entry
    }

    fn port_of(met: Option<Met>) -> Option<PortIndex> {
        met.map(|met| met.quick.port)
    }

    #[test]
    fn frames_are_known_by_the_bits_that_matter() {
        let mut cache = Cache::new();
        let first = frame(1, [10, 1, 2, 3], 64);
        assert_eq!(known(&mut cache, &first), None);
        keep(
            &mut cache,
            &first,
            mask(16),
            vec![Op::Count(4), Op::Output(7)],
        );
        let quick = known(&mut cache, &first).unwrap().quick;
        assert_eq!((quick.port, quick.counter()), (7, Some(4)));
        assert_eq!(
            port_of(known(&mut cache, &frame(1, [10, 1, 9, 9], 1))),
            Some(7)
        );
        assert_eq!(known(&mut cache, &frame(1, [10, 2, 2, 3], 64)), None);
        assert_eq!(
            known(&mut cache, &frame(2, [10, 1, 2, 3], 64)),
            None,
            "another port"
        );
    }

    #[test]
    fn what_is_no_longer_right_is_not_known() {
        let mut cache = Cache::new();
        let first = frame(1, [10, 1, 2, 3], 64);
        keep(&mut cache, &first, mask(16), vec![Op::Output(7)]);
        // A newer decision in the same place, and one that is not quick.
        let entry = cache.insert(&first.key, decision(mask(16), vec![Op::Output(8)]));
        assert_eq!(known(&mut cache, &first), None);
        cache.acquaint(&first, entry, &OPTIONS);
        assert_eq!(port_of(known(&mut cache, &first)), Some(8));
        keep(
            &mut cache,
            &first,
            mask(16),
            vec![Op::Output(8), Op::Output(9)],
        );
        assert_eq!(known(&mut cache, &first), None);
        // One that went.
        keep(&mut cache, &first, mask(16), vec![Op::Output(8)]);
        cache.invalidate();
        assert_eq!(known(&mut cache, &first), None);
        // More bits matter than when the frame was acquainted.
        let entry = keep(&mut cache, &first, mask(16), vec![Op::Output(8)]);
        keep(
            &mut cache,
            &frame(1, [10, 1, 9, 9], 64),
            mask(32),
            vec![Op::Output(9)],
        );
        assert_eq!(known(&mut cache, &first), None);
        cache.acquaint(&first, entry, &OPTIONS);
        assert_eq!(port_of(known(&mut cache, &first)), Some(8));
        assert_eq!(
            port_of(known(&mut cache, &frame(1, [10, 1, 9, 9], 64))),
            Some(9)
        );
        // Frames are parsed otherwise.
        assert!(!cache.asks_plain(1, &ParseOptions::VXLAN));
    }

    #[test]
    fn serials_that_begin_anew_meet_no_slot_of_before() {
        let mut cache = Cache::new();
        let first = frame(1, [10, 1, 2, 3], 64);
        cache.serial = u32::MAX - 1;
        keep(&mut cache, &first, mask(16), vec![Op::Output(7)]);
        assert!(known(&mut cache, &first).is_some());
        cache.insert(&frame(1, [10, 2, 2, 3], 64).key, decision(mask(16), vec![]));
        assert_eq!((known(&mut cache, &first), cache.serial), (None, 1));
    }

    #[test]
    fn nobody_asks_in_vain_for_long() {
        let mut cache = Cache::new();
        let first = frame(1, [10, 1, 2, 3], 64);
        keep(&mut cache, &first, mask(16), vec![Op::Output(7)]);
        while cache.asks_plain(1, &OPTIONS) {
            cache.asked_plain(1, 1, 31);
        }
        // Meanwhile nobody is told.
        let second = frame(1, [10, 2, 2, 3], 64);
        let entry = keep(&mut cache, &second, mask(16), vec![Op::Output(8)]);
        let rest = (1..).find(|_| known(&mut cache, &first).is_some());
        assert_eq!(rest, Some(REST as usize));
        assert_eq!(known(&mut cache, &second), None);
        cache.acquaint(&second, entry, &OPTIONS);
        assert_eq!(port_of(known(&mut cache, &second)), Some(8));
    }

    #[test]
    fn flows_that_take_turns_in_a_set_do_not_push_each_other_out_every_time() {
        let mut slots = PlainSlots::new();
        slots.widen();
        let mask = PlainMask::of(&FlowMask::EXACT, &OPTIONS).unwrap();
        let mut same_set = (0..=u16::MAX).flat_map(|n| {
            let [a, b] = n.to_be_bytes();
            (0..=31).filter_map(move |c| {
                let frame = frame(1, [10, a, b, c], 64);
                mask.read(frame.header.header().first_chunk()?, 60)
            })
        });
        let first = same_set.next().unwrap();
        let place = slots.spread(1).place(&first);
        let keys: Vec<_> = [first]
            .into_iter()
            .chain(
                same_set
                    .filter(|key| slots.spread(1).place(key) == place)
                    .take(5),
            )
            .collect();
        let mut found = 0;
        for turn in 0..600_u32 {
            let key = keys[turn as usize % 6];
            found += u32::from(slots.get(place, &key, 1).is_some());
            slots.put(
                Slot {
                    key,
                    known: Known {
                        entry: 1,
                        serial: 1,
                        connection: NOWHERE,
                    },
                    realm: 1,
                },
                |known| known.serial == 0,
            );
        }
        assert!(found > 300, "{found}");
    }
}

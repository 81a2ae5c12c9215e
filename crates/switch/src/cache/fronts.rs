//! What stands in front of plain frames in tunnels: which masked headers were met on which port, each by a number that nothing else gets while the cache lives. Frames inside are looked
//! up under it ([`super::plain`]), so that a place holds but one of the two.

use sumeru_packet::plain::wrapped::FrontKey;

use super::sets::{Newcomers, Salt};
use crate::frame::PortIndex;

/// Fronts that are told apart, a power of two; 64 bytes each.
const FRONTS: usize = 1 << 12;
/// Ways of a set.
const WAYS: usize = 4;

/// Under what a frame's bytes are looked up: its port's number plus one, or that of what is in front of it.
pub type Realm = u32;
/// The first one that is not a port's.
const FIRST: Realm = PortIndex::MAX as Realm + 2;

/// What frames of a port that are in no tunnel are looked up under.
#[inline(always)]
pub fn realm_of(port: PortIndex) -> Realm {
    Realm::from(port) + 1
}

#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Front {
    key: FrontKey,
    port: PortIndex,
    realm: Realm,
}

/// The fronts that were met.
#[derive(Debug)]
pub(super) struct Fronts {
    /// Empty until the first is.
    sets: Vec<[Front; WAYS]>,
    salt: Salt,
    next: Realm,
    newcomers: Newcomers,
}

impl Fronts {
    pub(super) fn new() -> Self {
        Self {
            sets: Vec::new(),
            salt: Salt::new(),
            next: FIRST,
            newcomers: Newcomers::default(),
        }
    }

    /// Makes room for them.
    pub(super) fn widen(&mut self) {
        if self.sets.is_empty() {
            let free = Front {
                key: FrontKey::NONE,
                port: 0,
                realm: 0,
            };
            self.sets = vec![[free; WAYS]; FRONTS / WAYS];
        }
    }

    #[inline(always)]
    fn place(&self, key: &FrontKey, port: PortIndex) -> usize {
        self.salt
            .of(port.into())
            .place(key.hash(), FRONTS / WAYS - 1)
    }

    /// The number of a front, if it was met.
    #[inline(always)]
    pub(super) fn get(&self, key: &FrontKey, port: PortIndex) -> Option<Realm> {
        let set = self.sets.get(self.place(key, port))?;
        let front = set
            .iter()
            .find(|front| front.port == port && front.key == *key)?;
        Some(front.realm)
    }

    /// The number of a front, a new one if it was not met; `None` if there is no room for it now.
    pub(super) fn number(&mut self, key: &FrontKey, port: PortIndex) -> Option<Realm> {
        if let Some(realm) = self.get(key, port) {
            return Some(realm);
        }
        // Numbers do not come again: what was kept under one of an earlier front would be taken for the new one's.
        let next = self.next.checked_add(1)?;
        let place = self.place(key, port);
        let set = self.sets.get_mut(place)?;
        let free = set.iter().position(|front| front.realm == 0);
        let way = free.or_else(|| self.newcomers.way(WAYS))?;
        let realm = std::mem::replace(&mut self.next, next);
        set[way] = Front {
            key: *key,
            port,
            realm,
        };
        Some(realm)
    }

    /// Bytes reserved.
    pub(super) fn bytes(&self) -> usize {
        self.sets.len() * size_of::<[Front; WAYS]>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumeru_packet::FlowMask;
    use sumeru_packet::ParseOptions;
    use sumeru_packet::plain::wrapped::{LEN, WrappedMask};

    fn front(last: [u8; 2]) -> FrontKey {
        let mask = WrappedMask::of(&FlowMask::EXACT, &ParseOptions::TUNNELS).unwrap();
        let mut frame = [0; LEN];
        frame[16..18].copy_from_slice(&90_u16.to_be_bytes());
        frame[38..40].copy_from_slice(&70_u16.to_be_bytes());
        frame[26..28].copy_from_slice(&last);
        let inside = &mut frame[50..];
        inside[16..18].copy_from_slice(&30_u16.to_be_bytes());
        inside[38..40].copy_from_slice(&10_u16.to_be_bytes());
        mask.read(&frame, 110).expect("sound lengths").0
    }

    #[test]
    fn a_front_has_one_number_and_a_number_one_front() {
        let mut fronts = Fronts::new();
        fronts.widen();
        assert_eq!(fronts.get(&front([0; 2]), 1), None);
        let mut numbers = std::collections::HashMap::new();
        for round in 0..3 {
            for n in 0..=u16::MAX {
                let (key, port) = (front(n.to_be_bytes()), 1 + n % 2);
                let Some(number) = fronts.number(&key, port) else {
                    continue;
                };
                assert!(number >= FIRST, "{number} in round {round}");
                assert_eq!(*numbers.entry(number).or_insert(n), n);
                assert_eq!(fronts.get(&key, port), Some(number));
                assert_eq!(fronts.get(&key, port + 2), None, "another port's");
            }
        }
        assert!(numbers.len() >= FRONTS, "{}", numbers.len());
        let room = FRONTS * size_of::<Front>();
        assert_eq!(fronts.bytes(), room, "whatever comes");
    }
}

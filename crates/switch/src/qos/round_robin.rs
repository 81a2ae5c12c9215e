//! Strict levels with deficit round robin in each (Shreedhar and Varghese, 1996): who of several members with a backlog is next.
//!
//! A member that is visited may send while its deficit covers its next frame; when it does not, the member goes to the back with
//! another quantum. Where frames are far longer than quanta a visit may come to nothing for many rounds; those rounds are counted at
//! once instead of walked, so that a choice costs at most three passes over the level.

/// Strict levels; level 0 is served first.
pub const LEVELS: u8 = 8;
/// Greatest weight.
pub const WEIGHT_MAX: u16 = 1024;
/// Bytes of a round for weight 1.
const QUANTUM: u64 = 1_536;
const NONE: u32 = u32::MAX;

/// The place of one tenant or class in a round.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    next: u32,
    level: u8,
    linked: bool,
    quantum: u64,
    deficit: u64,
}

impl Member {
    /// A member of `level` (below [`LEVELS`]) with `weight` (at least 1) that has no backlog.
    pub fn new(level: u8, weight: u16) -> Member {
        Member {
            next: NONE,
            level: level.min(LEVELS - 1),
            linked: false,
            quantum: u64::from(weight.max(1)) * QUANTUM,
            deficit: 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    count: u32,
}

/// What [`Levels::select`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// This member's next frame goes next.
    Member(u32),
    /// This member may not send now and was taken out of its round; ask again.
    Held(u32),
    /// Nobody is left.
    Nobody,
}

/// The rounds of all levels. Members live in a slice of the caller's and are named by their index there.
#[derive(Debug)]
pub struct Levels {
    lists: [List; LEVELS as usize],
}

impl Default for Levels {
    fn default() -> Levels {
        let list = List {
            head: NONE,
            tail: NONE,
            count: 0,
        };
        Levels {
            lists: [list; LEVELS as usize],
        }
    }
}

impl Levels {
    fn append(list: &mut List, members: &mut [Member], index: u32) {
        match members.get_mut(list.tail as usize) {
            Some(tail) => tail.next = index,
            None => list.head = index,
        }
        list.tail = index;
        list.count += 1;
        if let Some(member) = members.get_mut(index as usize) {
            member.next = NONE;
            member.linked = true;
        }
    }

    fn take_head(list: &mut List, members: &mut [Member]) -> Option<u32> {
        let index = list.head;
        let member = members.get_mut(index as usize)?;
        list.head = member.next;
        if list.head == NONE {
            list.tail = NONE;
        }
        list.count -= 1;
        member.linked = false;
        Some(index)
    }

    /// Puts a member that has a backlog at the back of its round, if it is in none.
    #[inline]
    pub fn join(&mut self, members: &mut [Member], index: u32) {
        let Some(member) = members.get_mut(index as usize) else {
            return;
        };
        if member.linked {
            return;
        }
        member.deficit = member.deficit.max(member.quantum);
        if let Some(list) = self.lists.get_mut(usize::from(member.level)) {
            Self::append(list, members, index);
        }
    }

    /// Takes a member out, wherever it is, and forgets its deficit. Walks its level unless the member is first.
    pub fn leave(&mut self, members: &mut [Member], index: u32) {
        let Some(member) = members.get_mut(index as usize) else {
            return;
        };
        member.deficit = 0;
        if !member.linked {
            return;
        }
        let Some(list) = self.lists.get_mut(usize::from(member.level)) else {
            return;
        };
        if list.head == index {
            Self::take_head(list, members);
            return;
        }
        for _ in 0..list.count {
            let Some(other) = Self::take_head(list, members) else {
                return;
            };
            if other != index {
                Self::append(list, members, other);
            }
        }
    }

    /// Who is next. `need` says how many bytes the next frame of a member has, or None if the member may not send now.
    pub fn select(
        &mut self,
        members: &mut [Member],
        mut need: impl FnMut(u32) -> Option<u32>,
    ) -> Selected {
        let Some(list) = self.lists.iter_mut().find(|list| list.head != NONE) else {
            return Selected::Nobody;
        };
        let mut visits = list.count;
        loop {
            let index = list.head;
            let Some(member) = members.get_mut(index as usize) else {
                return Selected::Nobody;
            };
            let Some(len) = need(index) else {
                Self::take_head(list, members);
                return Selected::Held(index);
            };
            if member.deficit >= u64::from(len) {
                return Selected::Member(index);
            }
            if visits == 0 {
                Self::advance(list, members, &mut need);
                visits = list.count;
            } else {
                visits -= 1;
                member.deficit += member.quantum;
                Self::take_head(list, members);
                Self::append(list, members, index);
            }
        }
    }

    /// Gives everybody as many quanta as it takes until the first one can send.
    fn advance(list: &List, members: &mut [Member], need: &mut impl FnMut(u32) -> Option<u32>) {
        let mut rounds = u64::MAX;
        let mut index = list.head;
        while let Some(member) = members.get(index as usize) {
            if let Some(len) = need(index) {
                let missing = u64::from(len).saturating_sub(member.deficit);
                rounds = rounds.min(missing.div_ceil(member.quantum));
            }
            index = member.next;
        }
        index = list.head;
        while let Some(member) = members.get_mut(index as usize) {
            member.deficit = member
                .deficit
                .saturating_add(rounds.saturating_mul(member.quantum));
            index = member.next;
        }
    }

    /// Charges a member that was selected for a frame that was sent.
    #[inline]
    pub fn charge(&mut self, members: &mut [Member], index: u32, len: u32) {
        if let Some(member) = members.get_mut(index as usize) {
            member.deficit = member.deficit.saturating_sub(len.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However long frames are beside quanta, a choice costs few passes, and in the long run bytes are shared by weight.
        #[test]
        fn choices_are_cheap_and_fair(
            weights in prop::collection::vec(prop_oneof![1u16..4, 1u16..=WEIGHT_MAX], 1..20), lens in prop::collection::vec(1u32..1_000_000, 20..21),
        ) {
            let mut members: Vec<Member> = weights.iter().map(|w| Member::new(3, *w)).collect();
            let mut levels = Levels::default();
            for index in 0..members.len() as u32 {
                levels.join(&mut members, index);
                levels.join(&mut members, index);
            }
            let mut sent = vec![0u64; members.len()];
            for _ in 0..2_000 {
                let mut calls = 0;
                let selected = levels.select(&mut members, |index| {
                    calls += 1;
                    Some(lens[index as usize])
                });
                let Selected::Member(index) = selected else {
                    return Err(TestCaseError::fail("somebody can send"));
                };
                prop_assert!(calls <= members.len() * 3 + 2, "{calls} looks at {} members", members.len());
                levels.charge(&mut members, index, lens[index as usize]);
                sent[index as usize] += u64::from(lens[index as usize]);
            }
            // At any time two members are at most a round and a frame apart (Shreedhar and Varghese, theorem 4.2).
            let most = u64::from(*lens.iter().max().unwrap());
            let rounds = |i: usize| sent[i] as f64 / f64::from(weights[i]);
            for i in 0..sent.len() {
                for j in 0..sent.len() {
                    let slack = 2.0 * (QUANTUM as f64 + most as f64);
                    prop_assert!((rounds(i) - rounds(j)).abs() <= slack, "{sent:?} {weights:?}");
                }
            }
        }
    }

    #[test]
    fn levels_are_strict_and_members_come_and_go() {
        let mut members = [0, 2, 2, 7].map(|level| Member::new(level, 1));
        let mut levels = Levels::default();
        (0..4).for_each(|index| levels.join(&mut members, index));
        let mut next = |members: &mut [Member], held: u32| {
            levels.select(members, |index| (index != held).then_some(100))
        };
        assert_eq!(next(&mut members, 9), Selected::Member(0));
        assert_eq!(next(&mut members, 0), Selected::Held(0));
        assert_eq!(next(&mut members, 0), Selected::Member(1));
        levels.leave(&mut members, 2);
        levels.leave(&mut members, 1);
        levels.leave(&mut members, 1);
        assert_eq!(
            levels.select(&mut members, |_| Some(1)),
            Selected::Member(3)
        );
        levels.join(&mut members, 0);
        assert_eq!(
            levels.select(&mut members, |_| Some(1)),
            Selected::Member(0)
        );
        // What was saved up for a long frame is not kept by who leaves.
        assert_eq!(
            levels.select(&mut members, |_| Some(100_000)),
            Selected::Member(0)
        );
        levels.leave(&mut members, 0);
        levels.join(&mut members, 0);
        assert_eq!(members[0].deficit, QUANTUM);
        levels.leave(&mut members, 0);
        levels.leave(&mut members, 3);
        assert_eq!(levels.select(&mut members, |_| Some(1)), Selected::Nobody);
    }
}

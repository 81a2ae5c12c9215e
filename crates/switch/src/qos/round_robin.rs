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

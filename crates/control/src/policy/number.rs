//! Numbers that stand for lists of objects in tags. A list keeps its number as long as it is used, so that a change of one object
//! changes only the rules that are about it.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::model::Direction;

/// What is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Lists of groups of a port.
    Profile,
    /// Lists of blocklists that apply to a port.
    Scope(Direction),
    /// Lists of sets that an address is in.
    SetClass(Direction),
    /// Lists of groups that an address is a member of.
    MemberClass(Direction),
    /// Lists of isolation policies that a port is in.
    Isolation,
}

impl Role {
    fn limit(self) -> (u16, &'static str) {
        match self {
            // The bit above says whether a group of the list is stateful.
            Self::Profile => (0x7fff, "lists of security groups that ports have"),
            Self::Scope(_) => (u16::MAX, "lists of blocklists that ports have"),
            Self::SetClass(_) => (
                u16::MAX,
                "combinations of address sets that share addresses",
            ),
            Self::MemberClass(_) => (u16::MAX, "combinations of groups that share members"),
            // Rules are about pairs of them.
            Self::Isolation => (512, "combinations of isolation policies that ports have"),
        }
    }
}

type Key = (Role, Vec<String>);

/// Numbers from 1 on, by what they stand for.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    numbers: BTreeMap<Key, u16>,
}

/// Numbers while rules are compiled: those that are asked for are kept, the others are free afterwards.
pub struct Numbering<'a> {
    before: &'a Numbers,
    now: Numbers,
    /// Per role the numbers that are not free, and the lowest that may be.
    taken: BTreeMap<Role, (BTreeSet<u16>, u32)>,
}

impl<'a> Numbering<'a> {
    /// Starts with the numbers of the rules that are in place.
    pub fn new(before: &'a Numbers) -> Self {
        let mut taken: BTreeMap<Role, (BTreeSet<u16>, u32)> = BTreeMap::new();
        for ((role, _), number) in &before.numbers {
            taken
                .entry(*role)
                .or_insert_with(|| (BTreeSet::new(), 1))
                .0
                .insert(*number);
        }
        Self {
            before,
            now: Numbers::default(),
            taken,
        }
    }

    /// The number of a list; a new one if it has none.
    pub fn number(&mut self, role: Role, list: Vec<String>) -> Result<u16, Error> {
        let key = (role, list);
        if let Some(number) = self.now.numbers.get(&key) {
            return Ok(*number);
        }
        let number = match self.before.numbers.get(&key) {
            Some(number) => *number,
            None => self.free(role)?,
        };
        self.now.numbers.insert(key, number);
        Ok(number)
    }

    fn free(&mut self, role: Role) -> Result<u16, Error> {
        let (limit, what) = role.limit();
        let (taken, next) = self
            .taken
            .entry(role)
            .or_insert_with(|| (BTreeSet::new(), 1));
        while taken.contains(&u16::try_from(*next).unwrap_or(0)) {
            *next += 1;
        }
        let number = u16::try_from(*next).ok().filter(|number| *number <= limit);
        let number = number.ok_or_else(|| {
            Error::fault(
                "policy",
                "",
                format!("too large: too many {what}"),
                format!("at most {limit}"),
            )
        })?;
        taken.insert(number);
        Ok(number)
    }

    /// What was asked for.
    pub fn finish(self) -> Numbers {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_are_used_again() {
        let list = |name: &str| vec![name.to_owned()];
        let none = Numbers::default();
        let mut first = Numbering::new(&none);
        for (name, number) in [("a", 1), ("b", 2), ("c", 3), ("a", 1)] {
            assert_eq!(first.number(Role::Profile, list(name)).unwrap(), number);
        }
        assert_eq!(first.number(Role::Isolation, list("a")).unwrap(), 1);
        let first = first.finish();
        let mut second = Numbering::new(&first);
        assert_eq!(
            second.number(Role::Profile, list("d")).unwrap(),
            4,
            "b may still be in rules"
        );
        assert_eq!(second.number(Role::Profile, list("c")).unwrap(), 3);
        let second = second.finish();
        let mut third = Numbering::new(&second);
        assert_eq!(third.number(Role::Profile, list("e")).unwrap(), 1);
        assert_eq!(third.number(Role::Profile, list("f")).unwrap(), 2);
        assert_eq!(third.number(Role::Profile, list("g")).unwrap(), 5);
        let mut many = Numbering::new(&none);
        for i in 0..512 {
            many.number(Role::Isolation, list(&i.to_string())).unwrap();
        }
        assert!(
            many.number(Role::Isolation, list("more"))
                .unwrap_err()
                .to_string()
                .contains("at most 512")
        );
    }
}

//! Connections that belong to members of load balancers: how many each has.

use super::state::State;
use super::store::ConnRef;
use super::table::Conntrack;
use super::tuple::Tuple;

impl Conntrack {
    /// Says which member a connection was given to; `false`: it is gone. Not to be said of a member twice, and 0 is none.
    pub fn set_member(&mut self, conn: ConnRef, member: u16) -> bool {
        let Some(index) = self.live(conn) else {
            return false;
        };
        self.give(index, member);
        true
    }

    fn give(&mut self, index: usize, member: u16) {
        let cold = &mut self.cold[index];
        let before = std::mem::replace(&mut cold.member, member);
        for (member, change) in [(before, u32::MAX), (member, 1)] {
            if member != 0 {
                let count = &mut self.member_counts[usize::from(member)];
                *count = count.wrapping_add(change);
            }
        }
    }

    /// Live connections of a member.
    pub fn member_count(&self, member: u16) -> u32 {
        self.member_counts[usize::from(member)]
    }

    /// Looks again whose the connections without a member are, by their tuples: the opener's, and that of the answers.
    pub fn claim(&mut self, mut whose: impl FnMut(&Tuple, &Tuple) -> Option<u16>) {
        for index in 0..self.hot.len() {
            let cold = &self.cold[index];
            if self.hot[index].state == State::Free || cold.member != 0 {
                continue;
            }
            let (original, reply) = (cold.original.tuple(), cold.reply.tuple());
            if let Some(member) = whose(&original, &reply) {
                self.give(index, member);
            }
        }
    }
}

//! The timing wheel: when to look at which connection again.
//!
//! Each connection is in exactly one slot. The fast path never touches the wheel: it only writes when a connection was last seen, and whoever finds the
//! connection due puts it where its time now lies. A deadline beyond the horizon is visited once per turn.

/// Milliseconds per slot, as a shift.
const TICK: u32 = 10;
const SLOTS: usize = 1024;
const HEAD: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// Connection plus one; 0: the last.
    next: u32,
    /// Connection plus one, or `HEAD` and the slot.
    previous: u32,
}

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32; SLOTS]>,
    links: Vec<Link>,
    /// The tick whose slot is next to be emptied.
    cursor: u64,
    /// Free connections, linked by `next`.
    free: u32,
}

impl Wheel {
    pub fn reserve(connections: usize) -> Result<Self, std::collections::TryReserveError> {
        let mut links = Vec::new();
        links.try_reserve_exact(connections)?;
        Ok(Self {
            heads: Box::new([0; SLOTS]),
            links,
            cursor: 0,
            free: 0,
        })
    }

    /// A free connection number, below the number of connections reserved for.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.free != 0 {
            let index = self.free - 1;
            self.free = self.links[index as usize].next;
            return Some(index);
        }
        if self.links.len() == self.links.capacity() {
            return None;
        }
        self.links.push(Link::default());
        Some(self.links.len() as u32 - 1)
    }

    /// The connection that [`Self::allocate`] gives next.
    pub fn next_free(&self) -> usize {
        self.free
            .checked_sub(1)
            .map_or(self.links.len(), |index| index as usize)
    }

    /// Gives back a connection that is in no slot.
    pub fn release(&mut self, index: u32) {
        self.links[index as usize] = Link {
            next: self.free,
            previous: 0,
        };
        self.free = index + 1;
    }

    /// Puts a connection into the slot for `deadline` (milliseconds), never into one that was passed.
    pub fn link(&mut self, index: u32, deadline: u64) {
        let tick = ((deadline >> TICK) + 1).clamp(self.cursor + 1, self.cursor + SLOTS as u64 - 1);
        let slot = tick as usize % SLOTS;
        let next = self.heads[slot];
        if next != 0 {
            self.links[next as usize - 1].previous = index + 1;
        }
        self.links[index as usize] = Link {
            next,
            previous: HEAD | slot as u32,
        };
        self.heads[slot] = index + 1;
    }

    pub fn unlink(&mut self, index: u32) {
        let Link { next, previous } = self.links[index as usize];
        if next != 0 {
            self.links[next as usize - 1].previous = previous;
        }
        if previous & HEAD != 0 {
            self.heads[(previous & !HEAD) as usize] = next;
        } else {
            self.links[previous as usize - 1].next = next;
        }
    }

    /// The next connection whose time may have come by `now`, taken out of its slot; nothing when all slots up to `now` are empty. Passes at most one turn
    /// of slots.
    pub fn due(&mut self, now: u64) -> Option<u32> {
        let tick = now >> TICK;
        if tick > self.cursor + SLOTS as u64 {
            // Everything is due: one turn from here visits all slots.
            self.cursor = tick - SLOTS as u64;
        }
        while self.cursor <= tick {
            let head = self.heads[self.cursor as usize % SLOTS];
            if head != 0 {
                self.unlink(head - 1);
                return Some(head - 1);
            }
            if self.cursor == tick {
                return None;
            }
            self.cursor += 1;
        }
        None
    }

    /// Whether [`Self::due`] has more to look at.
    pub fn is_behind(&self, now: u64) -> bool {
        self.cursor < now >> TICK || self.upcoming().is_some()
    }

    /// The connection that [`Self::due`] gives next, if it is in the same slot.
    pub fn upcoming(&self) -> Option<u32> {
        self.heads[self.cursor as usize % SLOTS].checked_sub(1)
    }

    /// Touches the memory of connections `from..to` that were never used.
    pub fn prepare(&mut self, from: usize, to: usize) {
        super::index::touch(&mut self.links, from, to, Link::default());
    }

    /// Starts the clock of an empty wheel.
    pub fn start(&mut self, now: u64) {
        self.cursor = now >> TICK;
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.heads) + self.links.len() * size_of::<Link>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_each_once_and_not_early() {
        let mut wheel = Wheel::reserve(1000).unwrap();
        wheel.start(5_000_000);
        let deadline = |n: u32| 5_000_000 + u64::from(n) * 977;
        for n in 0..1000 {
            assert_eq!(wheel.allocate(), Some(n));
            wheel.link(n, deadline(n));
        }
        assert_eq!(wheel.allocate(), None);
        for n in (0..1000).step_by(3) {
            wheel.unlink(n);
            wheel.release(n);
        }
        let mut seen = 0;
        for now in (5_000_000..6_200_000).step_by(500) {
            while let Some(n) = wheel.due(now) {
                assert!(
                    n % 3 != 0 && deadline(n) <= now && now - deadline(n) < 3000,
                    "{n} at {now}"
                );
                seen += 1;
                wheel.release(n);
            }
            assert!(!wheel.is_behind(now) && wheel.is_behind(now + (1 << TICK)));
        }
        assert_eq!(seen, 666);
        assert_eq!(
            (0..1000).filter(|_| wheel.allocate().is_some()).count(),
            1000
        );
    }

    #[test]
    fn a_long_sleep_misses_nothing() {
        let mut wheel = Wheel::reserve(10).unwrap();
        for n in 0..10 {
            wheel.allocate();
            wheel.link(n, u64::from(n) * 100_000);
        }
        let mut seen: Vec<u32> = std::iter::from_fn(|| wheel.due(u64::MAX / 2)).collect();
        seen.sort_unstable();
        assert_eq!(seen, Vec::from_iter(0..10));
    }
}

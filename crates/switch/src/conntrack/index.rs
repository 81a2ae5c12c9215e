//! The hash table from tuples to halves of connections: linear hashing over cache lines.
//!
//! A bucket is one line with seven entries and a link to overflow buckets. The table grows by splitting one bucket after the other (Litwin 1980), two per
//! insertion while it grows, so that no insertion ever waits for the whole table; the memory is reserved at the start and committed by first use.
//! Knows tags and references only; the caller compares tuples.

const ENTRIES: usize = 7;
/// Buckets at the start, a power of two.
const FIRST: usize = 64;
/// Splits per insertion while the table grows.
const SPLITS: usize = 2;
/// Mean entries per bucket at which a doubling begins.
const LOAD: usize = 3;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; ENTRIES],
    /// Reference plus one; 0: free.
    refs: [u32; ENTRIES],
    /// Overflow bucket plus one; 0: none.
    next: u32,
    spare: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self {
        tags: [0; ENTRIES],
        refs: [0; ENTRIES],
        next: 0,
        spare: 0,
    };

    fn put(&mut self, tag: u32, entry: u32) -> bool {
        let Some(place) = self.refs.iter().position(|&r| r == 0) else {
            return false;
        };
        self.tags[place] = tag;
        self.refs[place] = entry;
        true
    }

    fn take(&mut self, entry: u32) -> bool {
        let Some(place) = self.refs.iter().position(|&r| r == entry) else {
            return false;
        };
        self.refs[place] = 0;
        true
    }
}

/// The table is reserved for fewer connections than are put into it, or hashes fall together beyond all likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug)]
pub(super) struct Index {
    main: Vec<Bucket>,
    overflow: Vec<Bucket>,
    /// First free overflow bucket plus one.
    free: u32,
    /// Buckets when the doubling began, less one.
    mask: u32,
    /// Buckets split since.
    split: u32,
    entries: usize,
    limit: usize,
    growing: bool,
    /// Buckets touched ahead of use.
    prepared: usize,
}

impl Index {
    /// A table for up to `entries` entries. Nothing but address space is taken yet.
    pub fn reserve(entries: usize) -> Result<Self, std::collections::TryReserveError> {
        let limit = (entries / 4).next_power_of_two().max(FIRST);
        let (mut main, mut overflow) = (Vec::new(), Vec::new());
        main.try_reserve_exact(limit)?;
        overflow.try_reserve_exact(limit / 8 + FIRST)?;
        sumeru_engine::huge::advise(&main);
        main.resize(FIRST, Bucket::EMPTY);
        Ok(Self {
            main,
            overflow,
            free: 0,
            mask: FIRST as u32 - 1,
            split: 0,
            entries: 0,
            limit,
            growing: false,
            prepared: 0,
        })
    }

    #[inline(always)]
    fn bucket(&self, tag: u32) -> usize {
        let bucket = tag & self.mask;
        (if bucket < self.split {
            tag & (self.mask << 1 | 1)
        } else {
            bucket
        }) as usize
    }

    #[inline(always)]
    pub fn prefetch(&self, tag: u32) {
        sumeru_virtio::slice::prefetch_read(
            std::ptr::from_ref(&self.main[self.bucket(tag)]).cast(),
        );
    }

    /// The first entry with this tag that `matches`.
    #[inline(always)]
    pub fn find(&self, tag: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut bucket = &self.main[self.bucket(tag)];
        loop {
            for place in 0..ENTRIES {
                if bucket.tags[place] == tag
                    && bucket.refs[place] != 0
                    && matches(bucket.refs[place] - 1)
                {
                    return Some(bucket.refs[place] - 1);
                }
            }
            if bucket.next == 0 {
                return None;
            }
            bucket = &self.overflow[bucket.next as usize - 1];
        }
    }

    /// Adds an entry; the caller has made sure that it is not there.
    pub fn insert(&mut self, tag: u32, entry: u32) -> Result<(), NoRoom> {
        if self.growing || self.entries > LOAD * self.main.len() {
            self.grow();
        }
        self.place(self.bucket(tag), tag, entry + 1)?;
        self.entries += 1;
        Ok(())
    }

    fn place(&mut self, bucket: usize, tag: u32, entry: u32) -> Result<(), NoRoom> {
        let head = &mut self.main[bucket];
        if head.put(tag, entry) {
            return Ok(());
        }
        let mut next = head.next;
        while next != 0 {
            let bucket = &mut self.overflow[next as usize - 1];
            if bucket.put(tag, entry) {
                return Ok(());
            }
            next = bucket.next;
        }
        let mut new = Bucket {
            next: self.main[bucket].next,
            ..Bucket::EMPTY
        };
        new.put(tag, entry);
        let number = match self.free {
            0 if self.overflow.len() == self.overflow.capacity() => return Err(NoRoom),
            0 => {
                self.overflow.push(new);
                self.overflow.len() as u32
            }
            free => {
                self.free = self.overflow[free as usize - 1].next;
                self.overflow[free as usize - 1] = new;
                free
            }
        };
        self.main[bucket].next = number;
        Ok(())
    }

    fn release(&mut self, number: u32) {
        self.overflow[number as usize - 1] = Bucket {
            next: self.free,
            ..Bucket::EMPTY
        };
        self.free = number;
    }

    #[inline(never)]
    fn grow(&mut self) {
        for _ in 0..SPLITS {
            self.growing = self.main.len() < self.limit;
            if !self.growing {
                return;
            }
            self.split_one();
            if self.split == self.mask + 1 {
                (self.mask, self.split, self.growing) = (self.mask << 1 | 1, 0, false);
                return;
            }
        }
    }

    /// Splits the next bucket in two. What its chain gives back is enough for what the two chains need.
    fn split_one(&mut self) {
        let from = self.split as usize;
        let old = self.main[from];
        let (mut halves, mut counts) = ([Bucket::EMPTY; 2], [0; 2]);
        for place in 0..ENTRIES {
            let half = usize::from(old.tags[place] & (self.mask + 1) != 0);
            halves[half].tags[counts[half]] = old.tags[place];
            halves[half].refs[counts[half]] = old.refs[place];
            counts[half] += usize::from(old.refs[place] != 0);
        }
        self.main[from] = halves[0];
        self.main.push(halves[1]);
        self.split += 1;
        let mut next = old.next;
        while next != 0 {
            let bucket = self.overflow[next as usize - 1];
            self.release(next);
            for (tag, entry) in bucket
                .tags
                .into_iter()
                .zip(bucket.refs)
                .filter(|&(_, entry)| entry != 0)
            {
                let placed = self.place(self.bucket(tag), tag, entry);
                debug_assert_eq!(placed, Ok(()));
            }
            next = bucket.next;
        }
    }

    /// Takes an entry out. Does nothing when it is not there.
    pub fn remove(&mut self, tag: u32, entry: u32) {
        let bucket = self.bucket(tag);
        if self.main[bucket].take(entry + 1) {
            self.entries -= 1;
            return;
        }
        let (mut previous, mut number) = (0, self.main[bucket].next);
        while number != 0 {
            let here = &mut self.overflow[number as usize - 1];
            let next = here.next;
            if here.take(entry + 1) {
                self.entries -= 1;
                if here.refs == [0; ENTRIES] {
                    match previous {
                        0 => self.main[bucket].next = next,
                        previous => self.overflow[previous as usize - 1].next = next,
                    }
                    self.release(number);
                }
                return;
            }
            (previous, number) = (number, next);
        }
    }

    /// Touches the memory for up to `entries` entries, beginning behind what is used.
    pub fn prepare(&mut self, entries: usize) {
        // At most two buckets for three entries, right after a doubling.
        let buckets = (entries * 2 / LOAD).min(self.limit);
        touch(&mut self.main, self.prepared, buckets, Bucket::EMPTY);
        self.prepared = self.prepared.max(buckets);
    }

    /// Bytes committed.
    pub fn bytes(&self) -> usize {
        (self.main.len() + self.overflow.len()) * size_of::<Bucket>()
    }
}

/// Writes to each page of the places `from..to` of a vector that are reserved and not in use.
pub(super) fn touch<T: Copy>(vec: &mut Vec<T>, from: usize, to: usize, value: T) {
    const PAGE: usize = 4096;
    let used = vec.len();
    let spare = vec.spare_capacity_mut();
    let (from, to) = (
        from.max(used) - used,
        to.saturating_sub(used).min(spare.len()),
    );
    for place in (from..to).step_by(PAGE / size_of::<T>()) {
        spare[place].write(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(n: u32) -> u32 {
        n.wrapping_mul(0x9e37_79b9) ^ n >> 7
    }

    #[test]
    fn finds_everything_while_it_grows_to_its_limit() {
        let mut index = Index::reserve(40_000).unwrap();
        for n in 0..40_000 {
            index.insert(tag(n), n).unwrap();
            for probe in [0, n / 2, n] {
                assert_eq!(index.find(tag(probe), |entry| entry == probe), Some(probe));
            }
        }
        assert_eq!((index.main.len(), index.entries), (16384, 40_000));
        for n in 0..40_000 {
            index.remove(tag(n), n);
            assert_eq!(index.find(tag(n), |entry| entry == n), None);
        }
        assert_eq!(index.entries, 0);
        assert!(
            index.main.iter().all(|bucket| bucket.next == 0),
            "overflow buckets are given back"
        );
    }

    #[test]
    fn equal_tags_chain_until_the_reserve_is_used_up() {
        let mut index = Index::reserve(256).unwrap();
        let room = index.overflow.capacity() * ENTRIES + ENTRIES;
        for n in 0..room as u32 {
            index.insert(5, n).unwrap();
        }
        assert_eq!(index.insert(5, 1 << 20), Err(NoRoom));
        assert_eq!(
            index.find(5, |entry| entry == room as u32 - 1),
            Some(room as u32 - 1)
        );
        index.remove(5, 3);
        index.insert(5, 1 << 20).unwrap();
        assert_eq!(index.insert(5, 1 << 21), Err(NoRoom));
    }

    proptest! {
        #[test]
        fn is_a_multimap(ops in proptest::collection::vec((any::<bool>(), 0_u32..600), 1..3000)) {
            let mut index = Index::reserve(1200).unwrap();
            let mut model = std::collections::HashSet::new();
            for (add, n) in ops {
                let short = tag(n) & 0x3f3;
                if add && model.insert(n) {
                    index.insert(short, n).unwrap();
                } else if !add {
                    model.remove(&n);
                    index.remove(short, n);
                }
                prop_assert_eq!(index.find(short, |entry| entry == n).is_some(), model.contains(&n));
            }
            prop_assert_eq!(index.entries, model.len());
            for n in 0..600 {
                prop_assert_eq!(index.find(tag(n) & 0x3f3, |entry| entry == n).is_some(), model.contains(&n));
            }
        }
    }
}

//! What rules do, by number, where lcores can read it while control adds and removes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use super::{ActionList, RuleAction};
use crate::classifier::arena::{CHUNKS, chunk_len, locate};

type Cell = ArcSwapOption<ActionList>;

/// The lists, for readers. A list that a rule of a reader's version names is there until the reader has moved on.
#[derive(Debug)]
pub struct ActionTable {
    chunks: [OnceLock<Box<[Cell]>>; CHUNKS],
}

impl Default for ActionTable {
    fn default() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }
}

impl ActionTable {
    /// The list with this number.
    pub fn get(&self, number: u32) -> Option<Arc<ActionList>> {
        let (chunk, place) = locate(number);
        self.chunks.get(chunk)?.get()?.get(place)?.load_full()
    }

    fn set(&self, number: u32, list: Option<Arc<ActionList>>) {
        let (chunk, place) = locate(number);
        let Some(chunk_cell) = self.chunks.get(chunk) else {
            return;
        };
        let cells =
            chunk_cell.get_or_init(|| (0..chunk_len(chunk)).map(|_| Cell::empty()).collect());
        if let Some(cell) = cells.get(place) {
            cell.store(list);
        }
    }
}

/// The lists, for the one who adds and removes them. Rules that do the same share one.
#[derive(Debug, Default)]
pub struct Actions {
    shared: Arc<ActionTable>,
    numbers: HashMap<Arc<ActionList>, u32>,
    lists: Vec<Option<(Arc<ActionList>, u32)>>,
    free: Vec<u32>,
}

impl Actions {
    /// What readers look the numbers up in.
    pub fn shared(&self) -> Arc<ActionTable> {
        self.shared.clone()
    }

    /// The number of a list, for one more rule.
    pub fn take(&mut self, list: &ActionList) -> u32 {
        if let Some(number) = self.numbers.get(list).copied() {
            self.again(number);
            return number;
        }
        let list = Arc::new(list.clone());
        let number = self.free.pop().unwrap_or(self.lists.len() as u32);
        let entry = Some((list.clone(), 1));
        match self.lists.get_mut(number as usize) {
            Some(free) => *free = entry,
            None => self.lists.push(entry),
        }
        self.shared.set(number, Some(list.clone()));
        self.numbers.insert(list, number);
        number
    }

    /// One more rule with this number.
    pub fn again(&mut self, number: u32) {
        if let Some(Some((_, rules))) = self.lists.get_mut(number as usize) {
            *rules += 1;
        }
    }

    /// A rule with this number is gone, for readers too.
    pub fn give(&mut self, number: u32) {
        let Some(slot) = self.lists.get_mut(number as usize) else {
            return;
        };
        if let Some((list, rules)) = slot {
            *rules -= 1;
            if *rules == 0 {
                self.numbers.remove(list);
                *slot = None;
                self.shared.set(number, None);
                self.free.push(number);
            }
        }
    }

    /// What is done under a number.
    pub fn list(&self, number: u32) -> &[RuleAction] {
        match self.lists.get(number as usize) {
            Some(Some((list, _))) => list,
            _ => &[],
        }
    }
}

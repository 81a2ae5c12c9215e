//! What rules do, by number, where lcores can read it while control adds and removes.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use super::{ActionList, RuleAction};
use crate::classifier::arena::{CHUNKS, chunk_len, locate};
use crate::interned::Interned;

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
    lists: Interned<ActionList>,
}

impl Actions {
    /// What readers look the numbers up in.
    pub fn shared(&self) -> Arc<ActionTable> {
        self.shared.clone()
    }

    /// The number of a list, for one more rule.
    pub fn take(&mut self, list: &ActionList) -> u32 {
        self.lists.take(list).unwrap_or_else(|| {
            let list = Arc::new(list.clone());
            let number = self.lists.add(list.clone());
            self.shared.set(number, Some(list));
            number
        })
    }

    /// One more rule with this number.
    pub fn again(&mut self, number: u32) {
        self.lists.again(number);
    }

    /// A rule with this number is gone, for readers too.
    pub fn give(&mut self, number: u32) {
        if self.lists.give(number) {
            self.shared.set(number, None);
        }
    }

    /// What is done under a number.
    pub fn list(&self, number: u32) -> &[RuleAction] {
        self.lists.get(number).map_or(&[], |list| list)
    }
}

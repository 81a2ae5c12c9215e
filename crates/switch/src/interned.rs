//! Values that many holders share, by number: each is kept once, as long as someone holds it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// The values.
#[derive(Debug)]
pub struct Interned<T: ?Sized> {
    numbers: HashMap<Arc<T>, u32>,
    /// By number: the value and how many hold it.
    slots: Vec<Option<(Arc<T>, u32)>>,
    free: Vec<u32>,
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T: ?Sized + Hash + Eq> Interned<T> {
    /// The number of a value that is there already, for one more holder.
    pub fn take(&mut self, value: &T) -> Option<u32> {
        let number = *self.numbers.get(value)?;
        self.again(number);
        Some(number)
    }

    /// Keeps a value that is not there yet, for its first holder.
    pub fn add(&mut self, value: Arc<T>) -> u32 {
        let number = self.free.pop().unwrap_or(self.slots.len() as u32);
        let slot = Some((value.clone(), 1));
        match self.slots.get_mut(number as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        self.numbers.insert(value, number);
        number
    }

    /// One more holder of a number.
    pub fn again(&mut self, number: u32) {
        if let Some(Some((_, holders))) = self.slots.get_mut(number as usize) {
            *holders += 1;
        }
    }

    /// One holder less; true when it was the last, and the number stands for nothing any more.
    pub fn give(&mut self, number: u32) -> bool {
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return false;
        };
        let Some((value, holders)) = slot else {
            return false;
        };
        *holders -= 1;
        if *holders > 0 {
            return false;
        }
        self.numbers.remove(value);
        *slot = None;
        self.free.push(number);
        true
    }

    /// The value with this number.
    #[inline(always)]
    pub fn get(&self, number: u32) -> Option<&T> {
        match self.slots.get(number as usize) {
            Some(Some((value, _))) => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
impl<T: ?Sized> Interned<T> {
    /// How many values are kept.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }
}

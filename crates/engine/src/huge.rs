//! Huge pages for large tables: fewer misses of the translation caches where a table is touched at random.
//!
//! Only a wish: where the kernel does not grant it (`/sys/kernel/mm/transparent_hugepage/enabled` is `never`), pages stay small.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

/// A huge page of x86-64, and of Arm with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Wishes for huge pages under all that a vector has reserved.
pub fn advise<T>(reserved: &Vec<T>) {
    advise_range(
        reserved.as_ptr().cast(),
        reserved.capacity() * size_of::<T>(),
    );
}

/// Wishes for huge pages under a slice.
pub fn advise_slice<T>(slice: &[T]) {
    advise_range(slice.as_ptr().cast(), size_of_val(slice));
}

fn advise_range(start: *const u8, len: usize) {
    let first = (start as usize).next_multiple_of(HUGE);
    let end = (start as usize + len) / HUGE * HUGE;
    if first >= end {
        return;
    }
    let start = start.wrapping_add(first - start as usize);
    // SAFETY: the whole pages of an allocation that the caller holds; the advice changes no byte of them.
    let advised = unsafe { madvise(start.cast_mut().cast(), end - first, Advice::LinuxHugepage) };
    if let Err(error) = advised {
        tracing::debug!(%error, "no huge pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_nothing_that_is_written() {
        let mut table: Vec<u64> = Vec::with_capacity(1 << 20);
        advise(&table);
        table.extend(0..1 << 20);
        advise_slice(&table);
        assert!(table.iter().enumerate().all(|(i, word)| *word == i as u64));
        advise::<u8>(&Vec::new());
        advise_slice::<u64>(&[1, 2, 3]);
    }
}

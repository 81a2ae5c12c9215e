//! What this process takes up (proc(5)): pages in memory now, and the most there ever were.

use anyhow::{Context, Result};
use std::fs;
use std::mem::MaybeUninit;

/// Bytes of this process that are in memory now.
///
/// # Errors
/// If the kernel does not tell.
pub fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .context("second number of /proc/self/statm")?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The most bytes since [`forget_peak`].
///
/// # Errors
/// If the kernel does not tell.
pub fn peak() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let kibibytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("VmHWM of /proc/self/status")?;
    Ok(kibibytes * 1024)
}

/// The peak is what is in memory now.
///
/// # Errors
/// The system's.
pub fn forget_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("reset the peak of this process")
}

/// An empty list with room for `count` items whose memory is there already.
pub fn touched<T>(count: usize) -> Vec<T> {
    let mut list = Vec::with_capacity(count);
    list.spare_capacity_mut().fill_with(MaybeUninit::zeroed);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a buffer showed, in the size and in the peak. Other tests of this process come and go meanwhile.
    fn shows(size: usize) -> bool {
        forget_peak().unwrap();
        let before = resident().unwrap() as i64;
        let buffer = vec![1u8; size];
        let grown = resident().unwrap() as i64 - before;
        assert_eq!(
            buffer.iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            size
        );
        drop(buffer);
        let most = peak().unwrap() as i64 - before;
        let around = |value: i64| (value - size as i64).abs() < size as i64 / 8;
        around(grown) && around(most)
    }

    #[test]
    fn a_large_buffer_shows() {
        assert!((0..100).any(|_| shows(256 << 20)));
    }

    #[test]
    fn a_touched_list_takes_up_its_memory_before_it_has_items() {
        let grows = || {
            let before = resident().unwrap() as i64;
            let list: Vec<[u64; 4]> = touched(8 << 20);
            let grown = resident().unwrap() as i64 - before;
            assert!(list.is_empty() && list.capacity() >= 8 << 20);
            (grown - (256 << 20)).abs() < 32 << 20
        };
        assert!((0..100).any(|_| grows()));
    }
}

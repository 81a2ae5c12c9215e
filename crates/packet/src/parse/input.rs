//! Bounded reads of header bytes.

use super::Malformed;

/// The captured bytes and how far the innermost enclosing length says that data goes.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub bytes: &'a [u8],
    pub end: usize,
}

impl<'a> Input<'a> {
    /// `N` bytes at `at`: `fault` if the enclosing header ends before them, too long if only the capture does.
    #[inline(always)]
    pub fn take<const N: usize>(
        self,
        at: usize,
        fault: Malformed,
    ) -> Result<&'a [u8; N], Malformed> {
        if at + N > self.end {
            return Err(fault);
        }
        self.bytes
            .get(at..)
            .and_then(|b| b.first_chunk())
            .ok_or(Malformed::HeaderTooLong)
    }

    /// The same for a length known only at run time.
    #[inline(always)]
    pub fn require(self, at: usize, len: usize, fault: Malformed) -> Result<(), Malformed> {
        if at + len > self.end {
            Err(fault)
        } else if at + len > self.bytes.len() {
            Err(Malformed::HeaderTooLong)
        } else {
            Ok(())
        }
    }
}

#[inline(always)]
pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u16::from_be_bytes(*b),
        None => 0,
    }
}

#[inline(always)]
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u32::from_be_bytes(*b),
        None => 0,
    }
}

#[inline(always)]
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u64::from_be_bytes(*b),
        None => 0,
    }
}

//! How an idle socket stays cheap: after a look that found nothing, the next looks are skipped.
//!
//! A look costs a system call, some hundred nanoseconds, on every turn of an lcore that may be busy with other ports.

/// Most looks skipped in a row. A turn of a spinning lcore takes well below a microsecond, of a busy one a few, so that a frame
/// waits at most some ten microseconds longer, and only the first after a pause.
const MOST: u16 = 31;

/// How many looks to skip: 1, 3, 7, 15, then 31 after each look in vain, none after a frame.
#[derive(Debug, Default)]
pub(super) struct IdleSkip {
    left: u16,
    step: u16,
}

impl IdleSkip {
    /// Whether to skip this look.
    #[inline(always)]
    pub(super) fn skips(&mut self) -> bool {
        // Written as a branch: as `left -= u16::from(left != 0)`, rustc 1.95 loses the subtraction when it inlines this.
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// A look found nothing.
    pub(super) fn found_nothing(&mut self) {
        self.step = (self.step * 2 + 1).min(MOST);
        self.left = self.step;
    }

    /// A look found frames, or something says that there are some.
    #[inline(always)]
    pub(super) fn look_again(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(idle: &mut IdleSkip) -> usize {
        std::iter::from_fn(|| idle.skips().then_some(())).count()
    }

    #[test]
    fn skips_grow_to_a_bound_and_end_with_traffic() {
        let mut idle = IdleSkip::default();
        assert_eq!(skipped(&mut idle), 0);
        let mut seen = Vec::new();
        for _ in 0..7 {
            idle.found_nothing();
            seen.push(skipped(&mut idle));
        }
        assert_eq!(seen, [1, 3, 7, 15, 31, 31, 31]);
        idle.found_nothing();
        idle.look_again();
        assert_eq!(skipped(&mut idle), 0);
        idle.found_nothing();
        assert_eq!(skipped(&mut idle), 1);
    }
}

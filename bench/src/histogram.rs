//! A latency histogram with fixed buckets: 32 linear steps in every power of two, so any value is kept to within
//! 1/32 (3.2 %). Recording is two shifts and an add; it never allocates after construction.

const STEPS_LOG2: u32 = 5;
const STEPS: usize = 1 << STEPS_LOG2;
const BUCKETS: usize = (64 - STEPS_LOG2 as usize + 1) * STEPS;

/// Counts of values (any unit, usually TSC cycles).
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Adds one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Values recorded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value recorded, exact.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value below or at which `fraction` (0..=1) of the recorded values lie: the upper edge of its bucket,
    /// never above the exact maximum. 0 if nothing was recorded.
    pub fn quantile(&self, fraction: f64) -> u64 {
        let rank = ((self.total as f64 * fraction).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count != 0 && seen >= rank {
                return upper_edge(index).min(self.max);
            }
        }
        self.max
    }
}

/// Values under `STEPS` have a bucket of their own; above, the leading bit chooses the row and the next five the column.
fn bucket(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - STEPS_LOG2;
    let column = (value >> shift) as usize - STEPS;
    (shift as usize + 1) * STEPS + column
}

fn upper_edge(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let shift = (index / STEPS - 1) as u32;
    let column = (index % STEPS + STEPS) as u64;
    (column << shift) + ((1u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..4096u64)
            .chain((12..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
            .chain([u64::MAX])
        {
            let index = bucket(value);
            assert!(index < BUCKETS, "{value}");
            assert!(upper_edge(index) >= value, "{value}");
            assert!(index == 0 || upper_edge(index - 1) < value, "{value}");
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|value| histogram.record(value));
        for (fraction, exact) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0)] {
            let got = histogram.quantile(fraction) as f64;
            assert!(got >= exact && got <= exact * 1.033, "{fraction}: {got}");
        }
        assert_eq!(histogram.quantile(1.0), 10_000);
        assert_eq!(histogram.max(), 10_000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}

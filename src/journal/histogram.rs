//! Latencies, counted in buckets: constant memory, and percentiles that are at most an eighth too large.

use std::time::Duration;

/// Each power of two of nanoseconds is split into this many buckets.
const STEPS: usize = 8;
const BUCKETS: usize = 64 * STEPS;

/// Counts of durations by size.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one more.
    pub(super) fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(duration);
    }

    /// How many were counted.
    pub(super) fn count(&self) -> u64 {
        self.total
    }

    /// The largest one, or zero.
    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that `percent` of all do not exceed, up to an eighth too large, or zero.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return Duration::from_nanos(upper_end(index)).min(self.max);
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanos: u64) -> usize {
    let power = (nanos | 1).ilog2() as usize;
    // The three bits after the highest one.
    let step = if power >= 3 { (nanos >> (power - 3)) as usize & (STEPS - 1) } else { 0 };
    power * STEPS + step
}

fn upper_end(bucket: usize) -> u64 {
    let (power, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    if power < 3 {
        return (1 << (power + 1)) - 1;
    }
    let width = 1_u64 << (power - 3);
    (1_u64 << power) - 1 + (step + 1) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_an_eighth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (percent, exact) in [(50, 500), (99, 990), (100, 1000)] {
            let found = histogram.percentile(percent).as_nanos() as f64 / 1000.0;
            assert!(
                (f64::from(exact)..=f64::from(exact) * 1.125).contains(&found),
                "p{percent} is {found} us"
            );
        }
        assert_eq!(histogram.max(), Duration::from_micros(1000));
        assert_eq!(histogram.count(), 1000);
    }

    #[test]
    fn every_duration_lies_in_its_bucket() {
        for nanos in (0..64).flat_map(|power| [0, 1, 5].map(|more| (1_u64 << power).saturating_add(more))) {
            assert!(upper_end(bucket(nanos)) >= nanos, "{nanos}");
            assert!(bucket(nanos) == 0 || bucket(upper_end(bucket(nanos))) == bucket(nanos), "{nanos}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }
}

//! A histogram of times with a fixed relative error, after the idea of HDR histograms: values below
//! 256 have a bucket each, above that every power of two has 128 buckets. So a value is known
//! within 1 part in 128, whatever its size, and recording costs an index and an addition.
//!
//! Own code rather than the `hdrhistogram` crate: that is one more dependency in the server's
//! binary, for merging and reading percentiles, which take a page.

use super::number::{float, ratio};
use serde_json::{Value, json};

/// Bits of a value that its bucket keeps, the leading one apart.
const MANTISSA_BITS: u32 = 7;
/// Buckets in a power of two.
const SUB_BUCKETS: usize = 1 << MANTISSA_BITS;
/// Greatest value that can be told apart, about 12 days in microseconds; greater ones count as it.
const VALUE_MAX: u64 = (1 << 40) - 1;
const BUCKETS: usize = index_of(VALUE_MAX) + 1;

/// Counts of values, in the unit that the caller chose (here microseconds).
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    sum: u64,
    min: u64,
    max: u64,
}

/// The bucket of `value`, which is at most [`VALUE_MAX`].
#[inline]
const fn index_of(value: u64) -> usize {
    if value < 2 * SUB_BUCKETS as u64 {
        return value as usize;
    }
    let exponent = value.ilog2() - MANTISSA_BITS;
    (exponent as usize) * SUB_BUCKETS + (value >> exponent) as usize
}

/// The greatest value of a bucket.
const fn value_max_of(index: usize) -> u64 {
    if index < 2 * SUB_BUCKETS {
        return index as u64;
    }
    let exponent = index / SUB_BUCKETS - 1;
    let mantissa = (index % SUB_BUCKETS + SUB_BUCKETS) as u64;
    ((mantissa + 1) << exponent) - 1
}

impl Histogram {
    /// One without values.
    pub(super) fn new() -> Self {
        Histogram {
            counts: vec![0; BUCKETS].into(),
            total: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// Counts `value` once.
    #[inline]
    pub(super) fn record(&mut self, value: u64) {
        self.record_times(value, 1);
    }

    /// Counts `value` as if it had come `times` times.
    #[inline]
    pub(super) fn record_times(&mut self, value: u64, times: u64) {
        let value = value.min(VALUE_MAX);
        self.counts[index_of(value)] += times;
        self.total += times;
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds all values of `other`.
    pub(super) fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Number of values.
    pub(super) fn count(&self) -> u64 {
        self.total
    }

    /// The least value that at least `percent` of a hundred of the values do not exceed, rounded up
    /// to the end of its bucket but never beyond the maximum; 0 without values.
    pub(super) fn percentile(&self, percent: f64) -> u64 {
        let wanted = (percent / 100.0 * float(self.total)).ceil().max(1.0);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if float(seen) >= wanted {
                return value_max_of(index).min(self.max);
            }
        }
        self.max
    }

    /// The mean, exact.
    pub(super) fn mean(&self) -> f64 {
        ratio(float(self.sum), float(self.total))
    }

    /// The usual percentiles, in the unit of the values; `null` without values.
    pub(super) fn to_json(&self) -> Value {
        if self.total == 0 {
            return Value::Null;
        }
        json!({
            "count": self.total,
            "min": self.min,
            "mean": super::number::rounded(self.mean(), 1),
            "p50": self.percentile(50.0),
            "p90": self.percentile(90.0),
            "p99": self.percentile(99.0),
            "p99.9": self.percentile(99.9),
            "p99.99": self.percentile(99.99),
            "max": self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut next = 0;
        for index in 0..BUCKETS {
            assert_eq!(index_of(next), index, "first value of bucket {index}");
            let last = value_max_of(index);
            assert_eq!(index_of(last), index, "last value of bucket {index}");
            next = last + 1;
        }
        assert_eq!(next, VALUE_MAX + 1);
    }

    #[test]
    fn a_value_is_known_within_one_part_in_128() {
        for exponent in 0..40 {
            for value in [1_u64 << exponent, (1 << exponent) + 1, (2 << exponent) - 1] {
                let shown = value_max_of(index_of(value.min(VALUE_MAX)));
                assert!(
                    shown >= value && (shown - value) * 128 <= value,
                    "{value}: {shown}"
                );
            }
        }
    }

    #[test]
    fn percentiles_of_a_thousand_even_values() {
        let mut histogram = Histogram::new();
        for value in 1..=1_000 {
            histogram.record(value);
        }
        for (percent, exact) in [
            (0.0, 1),
            (50.0, 500),
            (99.0, 990),
            (99.9, 999),
            (100.0, 1_000),
        ] {
            let found = histogram.percentile(percent);
            assert!(
                found >= exact && found <= exact + exact / 128,
                "p{percent}: {found}"
            );
        }
        assert_eq!(histogram.percentile(100.0), 1_000);
        assert!((histogram.mean() - 500.5).abs() < 1e-9);
    }

    #[test]
    fn merging_is_recording_into_one() {
        let (mut all, mut odd, mut even) = (Histogram::new(), Histogram::new(), Histogram::new());
        for value in 0..10_000_u64 {
            let value = value * value;
            all.record(value);
            if value % 2 == 1 { &mut odd } else { &mut even }.record(value);
        }
        odd.merge(&even);
        assert_eq!(odd.to_json(), all.to_json());
        assert_eq!(odd.counts, all.counts);
    }

    #[test]
    fn nothing_recorded_is_null_and_what_is_too_great_counts_as_the_greatest() {
        let mut histogram = Histogram::new();
        assert_eq!(
            (histogram.to_json(), histogram.percentile(99.0)),
            (Value::Null, 0)
        );
        histogram.record_times(u64::MAX, 3);
        assert_eq!(
            (histogram.count(), histogram.percentile(1.0)),
            (3, VALUE_MAX)
        );
    }
}

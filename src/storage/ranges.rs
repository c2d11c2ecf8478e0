//! A set of sequences that fills up from below: everything under a low-water mark, and ranges
//! above it.

use std::collections::BTreeMap;

/// A set of `u64` that is mostly one run from zero. Settling in order moves the mark and touches
/// nothing else; what is out of order costs one node a range.
///
/// Invariant: ranges above the mark are disjoint, not adjacent, and start above the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    low: u64,
    /// A set without ranges above the mark takes two words.
    above: Option<Box<Above>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Above {
    /// Last number of each range by its first.
    ranges: BTreeMap<u64, u64>,
    /// Numbers in all of them.
    count: u64,
}

impl Above {
    fn forget(&mut self, from: u64, end: u64) {
        self.ranges.remove(&from);
        self.count -= end - from + 1;
    }
}

impl RangeSet {
    /// Everything below this is in the set; this is not.
    #[inline]
    pub fn low(&self) -> u64 {
        self.low
    }

    /// How many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.low + self.above.as_ref().map_or(0, |above| above.count)
    }

    /// Whether the set has no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many ranges lie above the mark.
    pub fn ranges(&self) -> usize {
        self.above.as_ref().map_or(0, |above| above.ranges.len())
    }

    /// The ranges above the mark as (first, last), ascending.
    pub fn iter_above(&self) -> impl Iterator<Item = (u64, u64)> {
        let ranges = self.above.iter().flat_map(|above| &above.ranges);
        ranges.map(|(&first, &last)| (first, last))
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let holds = |above: &Above| {
            let at = above.ranges.range(..=number).next_back();
            at.is_some_and(|(_, &last)| number <= last)
        };
        number < self.low || self.above.as_deref().is_some_and(holds)
    }

    /// How many numbers of `first..=last` are in the set.
    pub fn count_in(&self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        let below = self.low.min(last.saturating_add(1)).saturating_sub(first);
        let start = first.max(self.low);
        let Some(above) = self.above.as_ref().filter(|_| start <= last) else {
            return below;
        };
        let before = above.ranges.range(..start).next_back();
        let before = before.map_or(0, |(_, &end)| (end.min(last) + 1).saturating_sub(start));
        let inside: u64 = above
            .ranges
            .range(start..=last)
            .map(|(&from, &end)| end.min(last) - from + 1)
            .sum();
        below + before + inside
    }

    /// The parts of `first..=last` that are in the set, ascending, as (first, last).
    pub fn ranges_in(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        if first > last {
            return found;
        }
        if first < self.low {
            found.push((first, last.min(self.low - 1)));
        }
        let Some(above) = &self.above else {
            return found;
        };
        if let Some((_, &end)) = above.ranges.range(..first).next_back()
            && end >= first
        {
            found.push((first, end.min(last)));
        }
        for (&from, &end) in above.ranges.range(first..=last) {
            found.push((from, end.min(last)));
        }
        found
    }

    /// Adds `first..=last`; how many of them are new.
    #[inline]
    pub fn insert(&mut self, first: u64, last: u64) -> u64 {
        if first == self.low && first == last && self.above.is_none() {
            self.low += 1;
            return 1;
        }
        self.insert_slowly(first, last)
    }

    fn insert_slowly(&mut self, first: u64, last: u64) -> u64 {
        if first > last || last < self.low {
            return 0;
        }
        let before = self.len();
        if first <= self.low {
            self.low = last + 1;
            self.absorb();
        } else {
            let (mut first, mut last) = (first, last);
            let above = self.above.get_or_insert_default();
            if let Some((&from, &end)) = above.ranges.range(..=first).next_back()
                && end + 1 >= first
            {
                if end >= last {
                    return 0;
                }
                first = from;
                above.forget(from, end);
            }
            while let Some((&from, &end)) = above.ranges.range(first..=last + 1).next() {
                last = last.max(end);
                above.forget(from, end);
            }
            above.ranges.insert(first, last);
            above.count += last - first + 1;
        }
        self.len() - before
    }

    /// Takes the ranges that the mark has reached.
    fn absorb(&mut self) {
        let Some(above) = &mut self.above else { return };
        while let Some((&from, &end)) = above.ranges.first_key_value() {
            if from > self.low {
                return;
            }
            self.low = self.low.max(end + 1);
            above.forget(from, end);
        }
        self.above = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The set as everybody would write it.
    fn check(set: &RangeSet, model: &[bool]) {
        let count = |range: std::ops::Range<usize>| {
            model[range].iter().filter(|&&member| member).count() as u64
        };
        assert_eq!(set.len(), count(0..model.len()), "{set:?}");
        for (number, &member) in model.iter().enumerate() {
            assert_eq!(set.contains(number as u64), member, "{number} in {set:?}");
        }
        for first in 0..model.len() {
            for last in first..model.len() {
                let (a, b) = (first as u64, last as u64);
                assert_eq!(
                    set.count_in(a, b),
                    count(first..last + 1),
                    "{a}..={b} {set:?}"
                );
                let ranges = set.ranges_in(a, b);
                let sum: u64 = ranges.iter().map(|(from, end)| end - from + 1).sum();
                assert_eq!(sum, set.count_in(a, b), "{ranges:?} of {set:?}");
                assert!(ranges.iter().all(|&(from, end)| a <= from && end <= b));
            }
        }
        let ranges: Vec<_> = set.iter_above().collect();
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        assert!(ranges.iter().all(|range| range.0 > set.low()));
    }

    #[test]
    fn agrees_with_a_set_of_flags_whatever_the_order() {
        let mut state = 1_u64;
        for _ in 0..200 {
            let (mut set, mut model) = (RangeSet::default(), vec![false; 24]);
            for _ in 0..8 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let first = (state >> 40) as usize % 24;
                let last = (first + (state >> 50) as usize % 5).min(23);
                let new = model[first..=last].iter().filter(|&&m| !m).count() as u64;
                assert_eq!(set.insert(first as u64, last as u64), new);
                model[first..=last].fill(true);
                check(&set, &model);
            }
        }
    }
}

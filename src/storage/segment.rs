//! Segments as the loop knows them: what of each is still needed, and where to read it.

use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

use super::files::Storage;
use super::record_codec::Seed;

/// Octets that are populated and forgotten together.
pub(super) const GRANULE_OCTETS: u64 = 1 << 20;
/// How long a granule counts as warm after it was written, populated or read, in seconds.
pub(super) const WARM_S: u32 = 10;

/// See [`Segment::is_passing`].
const PASSING_LOOKS: u64 = 20;

/// Name of the file of a segment.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// Name of the file with the index of a segment.
pub(super) fn index_name(number: u32) -> String {
    format!("{number:010}.idx")
}

/// The number in the name of a segment or index, if it is one.
pub(super) fn number_in(name: &str, extension: &str) -> Option<u32> {
    let digits = name.strip_suffix(extension)?;
    let well_formed = digits.len() == 10 && digits.bytes().all(|octet| octet.is_ascii_digit());
    well_formed.then(|| digits.parse().ok())?
}

/// Which granules of a file were lately in memory.
#[derive(Debug, Default)]
pub(super) struct Warmth {
    /// Per granule the second until which it counts as warm; [`ASKED`] while the keeper is at it.
    until_s: Vec<u32>,
}

const ASKED: u32 = u32::MAX;

impl Warmth {
    /// Whether all of `start..end` is warm; notes the reading.
    #[inline]
    pub(super) fn touch(&mut self, start: u64, end: u64, now_s: u32) -> bool {
        let first = (start / GRANULE_OCTETS) as usize;
        let last = (end.saturating_sub(1) / GRANULE_OCTETS) as usize;
        let Some(granules) = self.until_s.get_mut(first..=last) else {
            return false;
        };
        for until_s in granules {
            if *until_s == ASKED || *until_s < now_s {
                return false;
            }
            *until_s = now_s + WARM_S;
        }
        true
    }

    /// Notes that `start..end` was just written or populated.
    pub(super) fn warm(&mut self, start: u64, end: u64, now_s: u32) {
        self.set(start, end, now_s + WARM_S);
    }

    /// Notes that `start..end` could not be populated or was lost from sight.
    pub(super) fn cool(&mut self, start: u64, end: u64) {
        self.set(start, end, 0);
    }

    fn set(&mut self, start: u64, end: u64, until_s: u32) {
        let first = (start / GRANULE_OCTETS) as usize;
        let last = (end.saturating_sub(1) / GRANULE_OCTETS) as usize;
        if self.until_s.len() <= last {
            self.until_s.resize(last + 1, 0);
        }
        self.until_s[first..=last].fill(until_s);
    }

    /// The granules from `start` on, at most `granules_max` and not beyond `end`, that are neither
    /// warm nor asked for; they count as asked for now. `None` when there is nothing to ask.
    pub(super) fn ask(
        &mut self,
        start: u64,
        end: u64,
        granules_max: u64,
        now_s: u32,
    ) -> Option<std::ops::Range<u64>> {
        let first = start / GRANULE_OCTETS;
        let last = (end.saturating_sub(1) / GRANULE_OCTETS).min(first + granules_max - 1);
        if self.until_s.len() <= last as usize {
            self.until_s.resize(last as usize + 1, 0);
        }
        let cold = |until_s: u32| until_s != ASKED && until_s < now_s;
        let from = (first..=last).find(|&granule| cold(self.until_s[granule as usize]))?;
        let to = (from..=last)
            .take_while(|&granule| cold(self.until_s[granule as usize]))
            .last()?;
        self.until_s[from as usize..=to as usize].fill(ASKED);
        Some(from * GRANULE_OCTETS..end.min((to + 1) * GRANULE_OCTETS))
    }
}

/// How far a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Records are appended to it.
    Filling,
    /// Full; its last records are on their way to the disk.
    Sealed,
    /// On disk; the keeper writes its index.
    Written,
    /// On disk with an index.
    Indexed,
}

/// One segment of the durable log.
#[derive(Debug)]
pub(super) struct Segment<S: Storage> {
    pub(super) number: u32,
    pub(super) seed: Seed,
    pub(super) stage: Stage,
    /// Octets of its file.
    pub(super) octets: u64,
    /// Where its records end.
    pub(super) used: u64,
    pub(super) first_lsn: u64,
    pub(super) last_lsn: u64,
    /// Entries of queues that still need a record here.
    pub(super) live_entries: u64,
    /// Octets that the live entries answer for; an estimate after a restart.
    pub(super) live_share: u64,
    /// Compaction is considered again when `live_share` is no more than this.
    pub(super) next_look_share: u64,
    /// `live_entries` at the last look: shares are estimates, and looking again before an entry was
    /// released would never end.
    looked_at_entries: u64,
    /// Records that are also held by entries which the log does not know, as (place, entries),
    /// ascending by place.
    pub(super) unlogged: Vec<(u32, u32)>,
    /// How many of its records name a large body that is still there.
    pub(super) large: u32,
    /// The open file, as long as the segment is written.
    pub(super) file: Option<Arc<S::File>>,
    pub(super) map: Option<Arc<S::Map>>,
    /// Of a compacted segment: (place as first written, place now), ascending.
    pub(super) table: Option<Arc<Vec<(u32, u32)>>>,
    pub(super) warmth: Warmth,
    /// How often it was rewritten.
    pub(super) rewritten: u64,
    /// Live entries at the last look for segments to rewrite, and when that was, in microseconds.
    seen: Option<(u64, u64)>,
    /// At the last look it was being emptied so fast that it is not worth rewriting.
    is_passing: bool,
    /// The keeper is looking at it or rewriting it.
    pub(super) compacting: bool,
    /// It is on the list of those that may be worth rewriting.
    pub(super) candidate: bool,
    /// It was counted among those that may be given back.
    pub(super) is_dead: bool,
}

impl<S: Storage> Segment<S> {
    /// A segment that is about to be filled.
    pub(super) fn new(number: u32, seed: Seed, octets: u64, first_lsn: u64) -> Self {
        Segment {
            number,
            seed,
            stage: Stage::Filling,
            octets,
            used: 0,
            first_lsn,
            last_lsn: first_lsn,
            live_entries: 0,
            live_share: 0,
            next_look_share: u64::MAX,
            looked_at_entries: u64::MAX,
            unlogged: Vec::new(),
            large: 0,
            file: None,
            map: None,
            table: None,
            warmth: Warmth::default(),
            rewritten: 0,
            seen: None,
            is_passing: false,
            compacting: false,
            candidate: false,
            is_dead: false,
        }
    }

    /// Where the record that was written at `place` lies now, in octets; `None` when compaction
    /// dropped it.
    #[inline]
    pub(super) fn offset_of(&self, place: u32) -> Option<u64> {
        let place = match &self.table {
            None => place,
            Some(table) => {
                let index = table.binary_search_by_key(&place, |pair| pair.0).ok()?;
                table[index].1
            }
        };
        Some(u64::from(place) * 8)
    }

    /// Whether rewriting may free three sevenths of the file, as far as the shares tell. A record
    /// with several holders lives longer than its shares say; so a look that finds too much alive
    /// is repeated only after an eighth of the rest is released.
    #[inline]
    pub(super) fn worth_a_look(&self) -> bool {
        self.live_share * 7 < self.octets * 4
            && self.live_share <= self.next_look_share
            && self.live_entries < self.looked_at_entries
    }

    /// Whether it will be empty within `PASSING_LOOKS` looks if it goes on like that: a queue is
    /// being drained through it, and rewriting what will be gone soon would write the whole log a
    /// second time. A segment that was never looked at is given one more look.
    ///
    /// * `look_us`: time from look to look; 0 when every look counts by itself.
    pub(super) fn is_passing(&mut self, now_us: u64, look_us: u64) -> bool {
        if look_us == 0 {
            return false;
        }
        let Some((entries, since_us)) = self.seen else {
            self.seen = Some((self.live_entries, now_us));
            self.is_passing = true;
            return true;
        };
        let elapsed_us = now_us.saturating_sub(since_us);
        if elapsed_us >= look_us {
            let released = entries.saturating_sub(self.live_entries);
            let at_this_rate = released.saturating_mul(PASSING_LOOKS * look_us);
            self.is_passing = at_this_rate >= self.live_entries.saturating_mul(elapsed_us);
            self.seen = Some((self.live_entries, now_us));
        }
        self.is_passing
    }

    /// Notes that the keeper is about to look.
    pub(super) fn looked_at(&mut self) {
        self.looked_at_entries = self.live_entries;
        self.next_look_share = self.live_share - self.live_share / 8;
        if self.live_share < 8 {
            self.next_look_share = self.live_share.saturating_sub(1);
        }
    }
}

/// All segments by number.
#[derive(Debug)]
pub(super) struct Segments<S: Storage> {
    slab: Slab<Segment<S>>,
    slots: HashMap<u32, usize>,
    last: (u32, usize),
    /// Octets of all files.
    file_octets: u64,
    /// Sum of what the live entries answer for.
    live_share: u64,
}

impl<S: Storage> Segments<S> {
    pub(super) fn new() -> Self {
        Segments {
            slab: Slab::new(),
            slots: HashMap::new(),
            last: (u32::MAX, 0),
            file_octets: 0,
            live_share: 0,
        }
    }

    pub(super) fn insert(&mut self, segment: Segment<S>) {
        let number = segment.number;
        self.file_octets += segment.octets;
        self.live_share += segment.live_share;
        let slot = self.slab.insert(segment);
        self.slots.insert(number, slot);
        self.last = (number, slot);
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Segment<S>> {
        self.last = (u32::MAX, 0);
        let slot = self.slots.remove(&number)?;
        let segment = self.slab.remove(slot);
        self.file_octets -= segment.octets;
        self.live_share -= segment.live_share;
        Some(segment)
    }

    /// Octets of all files.
    pub(super) fn file_octets(&self) -> u64 {
        self.file_octets
    }

    /// Octets that the live entries of all segments answer for; an estimate after a restart.
    pub(super) fn live_share(&self) -> u64 {
        self.live_share
    }

    /// Notes how long the file of a segment is.
    pub(super) fn set_octets(&mut self, number: u32, octets: u64) {
        if let Some(segment) = self.get_mut(number) {
            let before = std::mem::replace(&mut segment.octets, octets);
            self.file_octets = self.file_octets - before + octets;
        }
    }

    /// Notes what the live entries of a segment answer for.
    pub(super) fn set_live_share(&mut self, number: u32, octets: u64) {
        if let Some(segment) = self.get_mut(number) {
            let before = std::mem::replace(&mut segment.live_share, octets);
            self.live_share = self.live_share - before + octets;
        }
    }

    /// Adds entries that answer for `share` octets together to a segment.
    #[inline]
    pub(super) fn hold(
        &mut self,
        number: u32,
        entries: u64,
        share: u64,
    ) -> Option<&mut Segment<S>> {
        let segment = self.get_mut(number)?;
        segment.live_entries += entries;
        segment.live_share += share;
        self.live_share += share;
        self.get_mut(number)
    }

    /// Takes entries that answered for `share` octets together away from a segment.
    #[inline]
    pub(super) fn release(
        &mut self,
        number: u32,
        entries: u64,
        share: u64,
    ) -> Option<&mut Segment<S>> {
        let segment = self.get_mut(number)?;
        debug_assert!(segment.live_entries >= entries, "segment {number}");
        let share = share.min(segment.live_share);
        segment.live_entries = segment.live_entries.saturating_sub(entries);
        segment.live_share -= share;
        self.live_share -= share;
        self.get_mut(number)
    }

    /// The segment with this number. Asking again for the same one costs a comparison.
    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Segment<S>> {
        if self.last.0 != number {
            self.last = (number, *self.slots.get(&number)?);
        }
        self.slab.get_mut(self.last.1)
    }

    pub(super) fn get(&self, number: u32) -> Option<&Segment<S>> {
        self.slab.get(*self.slots.get(&number)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Segment<S>> {
        self.slab.iter().map(|(_, segment)| segment)
    }

    /// All numbers, ascending.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.slots.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_are_read_back_and_others_refused() {
        assert_eq!(number_in(&segment_name(7), ".seg"), Some(7));
        assert_eq!(number_in(&index_name(u32::MAX), ".idx"), Some(u32::MAX));
        for name in [
            "7.seg",
            "0000000007.idx",
            "00000000x7.seg",
            "9999999999.seg",
        ] {
            assert_eq!(number_in(name, ".seg"), None, "{name}");
        }
    }

    #[test]
    fn a_granule_is_asked_for_once_and_cools_down() {
        let mut warmth = Warmth::default();
        let end = 5 * GRANULE_OCTETS / 2;
        assert!(!warmth.touch(10, 20, 1));
        assert_eq!(warmth.ask(10, end, 4, 1), Some(0..end));
        assert_eq!(warmth.ask(10, end, 4, 1), None);
        assert!(!warmth.touch(10, 20, 1));
        warmth.warm(0, end, 1);
        assert!(warmth.touch(10, end, 1 + WARM_S));
        assert!(!warmth.touch(10, end, 2 + 2 * WARM_S));
        assert_eq!(
            warmth.ask(GRANULE_OCTETS, end, 1, 2 + 2 * WARM_S),
            Some(GRANULE_OCTETS..2 * GRANULE_OCTETS)
        );
    }
}

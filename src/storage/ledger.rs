//! What the log knows of each durable queue.

use std::collections::VecDeque;

use hashbrown::HashMap;
use slab::Slab;

use super::ranges::RangeSet;
use crate::broker::record::QueueId;

/// The account of one durable queue: which of its sequences are done with, and where the others
/// lie.
///
/// Sequences that the log never saw (transient messages take numbers too) count as settled, so
/// `settled` grows with what is out of order among logged messages only.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// One more than the greatest sequence that was logged.
    pub(super) next_sequence: u64,
    pub(super) settled: RangeSet,
    /// Greatest sequence that the queue was allowed to deliver; 0 when it never was.
    pub(super) permission: u64,
    /// Up to here a message that comes back may have been seen before; from the last restart.
    pub(super) redelivered_up_to: Option<u64>,
    /// Which segment holds the sequences from `first` on, ascending in both.
    pub(super) slices: VecDeque<Slice>,
}

/// From `first` on (to the next slice) the sequences of a queue lie in `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) segment: u32,
    pub(super) first: u64,
}

impl Ledger {
    /// Notes that `sequence` was logged into `segment`. Sequences ascend.
    #[inline]
    pub(super) fn append(&mut self, sequence: u64, segment: u32) {
        debug_assert!(sequence >= self.next_sequence, "sequences ascend");
        if sequence > self.next_sequence {
            self.settled.insert(self.next_sequence, sequence - 1);
        }
        self.next_sequence = sequence + 1;
        if self
            .slices
            .back()
            .is_none_or(|back| back.segment != segment)
        {
            self.forget_settled_slices();
            self.slices.push_back(Slice {
                segment,
                first: sequence,
            });
        }
    }

    /// Notes, while the store is opened, that sequences from `first` to `last` lie in `segment`.
    pub(super) fn found(&mut self, segment: u32, first: u64, last: u64) {
        self.slices.push_back(Slice { segment, first });
        self.next_sequence = self.next_sequence.max(last + 1);
    }

    /// Settles every sequence that lies in no segment. `last_of` tells the last sequence that the
    /// queue has in a segment.
    pub(super) fn forget_unplaced(&mut self, last_of: impl Fn(u32) -> Option<u64>) {
        let mut next = 0;
        for slice in &self.slices {
            if slice.first > next {
                self.settled.insert(next, slice.first - 1);
            }
            next = last_of(slice.segment).unwrap_or(slice.first) + 1;
        }
        if self.next_sequence > next {
            self.settled.insert(next, self.next_sequence - 1);
        }
    }

    /// First and last sequence that may lie in `segment`.
    pub(super) fn part_in(&self, segment: u32) -> Option<(u64, u64)> {
        let at = self
            .slices
            .binary_search_by_key(&segment, |slice| slice.segment)
            .ok()?;
        let next = self.slices.get(at + 1);
        let end = next.map_or(self.next_sequence, |next| next.first);
        Some((self.slices[at].first, end - 1))
    }

    /// Sequences that are logged and not settled.
    #[cfg(test)]
    pub(super) fn live(&self) -> u64 {
        self.next_sequence - self.settled.len().min(self.next_sequence)
    }

    /// The parts of `first..=last` by segment, as (segment, first, last).
    pub(super) fn slices_in(
        &self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        let last = last.min(self.next_sequence.saturating_sub(1));
        let from = self.slices.partition_point(|slice| slice.first <= first);
        let from = from.saturating_sub(1);
        (from..self.slices.len())
            .map(move |index| {
                let slice = self.slices[index];
                let next = self.slices.get(index + 1);
                let end = next.map_or(self.next_sequence, |next| next.first) - 1;
                (slice.segment, slice.first.max(first), end.min(last))
            })
            .take_while(move |&(_, from, _)| from <= last)
            .filter(|&(_, from, end)| from <= end)
    }

    /// How many of `first..=last` are not settled, by segment; segments without any are left out.
    pub(super) fn live_in(&self, first: u64, last: u64) -> Vec<(u32, u64)> {
        let live = |(segment, from, end)| {
            let live = end - from + 1 - self.settled.count_in(from, end);
            (live > 0).then_some((segment, live))
        };
        self.slices_in(first, last).filter_map(live).collect()
    }

    /// Slices below the low-water mark hold nothing that is needed.
    fn forget_settled_slices(&mut self) {
        while self.slices.len() > 1 && self.slices[1].first <= self.settled.low() {
            self.slices.pop_front();
        }
    }
}

/// The ledgers of all durable queues.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    slab: Slab<(QueueId, Ledger)>,
    slots: HashMap<QueueId, u32>,
    last: Option<(QueueId, usize)>,
    /// One more than the greatest id that there ever was.
    pub(super) id_next: u32,
}

impl Ledgers {
    /// The ledger of `queue`. Asking again for the same queue costs a comparison.
    #[inline]
    pub(super) fn get_mut(&mut self, queue: QueueId) -> Option<&mut Ledger> {
        let slot = match self.last {
            Some((last, slot)) if last == queue => slot,
            _ => {
                let slot = *self.slots.get(&queue)? as usize;
                self.last = Some((queue, slot));
                slot
            }
        };
        self.slab.get_mut(slot).map(|(_, ledger)| ledger)
    }

    /// The ledger of `queue`, a new one if there is none.
    #[inline]
    pub(super) fn entry(&mut self, queue: QueueId) -> &mut Ledger {
        let slot = match self.last {
            Some((last, slot)) if last == queue => slot,
            _ => {
                let slab = &mut self.slab;
                self.id_next = self.id_next.max(queue.0.saturating_add(1));
                let slot = self.slots.entry(queue);
                *slot.or_insert_with(|| slab.insert((queue, Ledger::default())) as u32) as usize
            }
        };
        self.last = Some((queue, slot));
        &mut self.slab[slot].1
    }

    pub(super) fn get(&self, queue: QueueId) -> Option<&Ledger> {
        self.slots
            .get(&queue)
            .map(|&slot| &self.slab[slot as usize].1)
    }

    pub(super) fn remove(&mut self, queue: QueueId) -> Option<Ledger> {
        self.last = None;
        let slot = self.slots.remove(&queue)?;
        Some(self.slab.remove(slot as usize).1)
    }

    /// The ledgers in slots `from..`, for walking them in slices: (slot, queue, ledger).
    pub(super) fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, QueueId, &Ledger)> {
        (from..self.slab.capacity().max(from)).filter_map(|slot| {
            let (queue, ledger) = self.slab.get(slot)?;
            Some((slot, *queue, ledger))
        })
    }

    /// All ledgers, ascending by queue.
    pub(super) fn sorted(&self) -> Vec<(QueueId, &Ledger)> {
        let mut all: Vec<_> = self
            .iter_from(0)
            .map(|(_, id, ledger)| (id, ledger))
            .collect();
        all.sort_unstable_by_key(|(queue, _)| *queue);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_say_which_segment_holds_a_sequence() {
        let mut ledger = Ledger::default();
        for (sequence, segment) in [(1, 1), (2, 1), (5, 2), (6, 2), (7, 4)] {
            ledger.append(sequence, segment);
        }
        assert_eq!(ledger.live(), 5);
        let check = |first, last, expected: &[(u32, u64, u64)]| {
            assert_eq!(ledger.slices_in(first, last).collect::<Vec<_>>(), expected);
        };
        check(0, u64::MAX, &[(1, 1, 4), (2, 5, 6), (4, 7, 7)]);
        check(2, 2, &[(1, 2, 2)]);
        check(6, 7, &[(2, 6, 6), (4, 7, 7)]);
        check(8, 9, &[]);
        ledger.settled.insert(0, 5);
        ledger.append(8, 5);
        assert_eq!(
            ledger.slices.front(),
            Some(&Slice {
                segment: 2,
                first: 5
            })
        );
        assert_eq!(ledger.live(), 3);
    }
}

//! What the router is done with: entries are settled, or given back without a word to the log.

use super::files::Storage;
use super::record_codec::{self as codec, RecordKind};
use super::store::Store;
use crate::broker::record::QueueId;
use crate::message::Entry;

/// Ranges of settlements that are gathered before they are written within a turn.
const SETTLEMENTS_MAX: usize = 4096;

impl<S: Storage> Store<S> {
    /// A logged entry of a durable queue is done with: acknowledged, dropped, expired, moved. The
    /// log says so from this turn's batch on.
    #[inline]
    pub fn settle(&mut self, queue: QueueId, entry: Entry) {
        debug_assert!(entry.has(Entry::LOGGED));
        let sequence = entry.sequence();
        let Some(ledger) = self.ledgers.get_mut(queue) else {
            return;
        };
        if ledger.settled.insert(sequence, sequence) == 0 {
            return;
        }
        match self.settlements.last_mut() {
            Some((last_queue, _, last)) if *last_queue == queue && *last + 1 == sequence => {
                *last = sequence;
            }
            _ => self.note_settlement(queue, sequence, sequence),
        }
        if self.larges.any() {
            self.large_released(entry.at, Some((queue, sequence)));
        }
        self.release_logged(entry.at.segment, 1, u64::from(entry.share_octets()));
    }

    /// Settles every logged entry of `queue` from `first` to `last`, without being shown the
    /// entries: for purging what is paged out.
    pub fn settle_range(&mut self, queue: QueueId, first: u64, last: u64) {
        let Some(ledger) = self.ledgers.get_mut(queue) else {
            return;
        };
        let last = last.min(ledger.next_sequence.saturating_sub(1));
        if first > last || ledger.next_sequence == 0 {
            return;
        }
        let released = ledger.live_in(first, last);
        if ledger.settled.insert(first, last) == 0 {
            return;
        }
        self.note_settlement(queue, first, last);
        if self.larges.any() {
            for &(segment, _) in &released {
                self.large_released_in(segment, queue, first, last);
            }
        }
        self.release_many(&released);
    }

    /// An entry is done with that the log need not hear of: of a transient message, or of a logged
    /// one in a queue that is not durable. Logged entries of durable queues are [settled](Store::settle);
    /// those of a deleted queue are given back by [`Store::queue_deleted`] and ignored here.
    #[inline]
    pub fn release(&mut self, entry: Entry) {
        if self.larges.any() && !entry.has(Entry::LOGGED) {
            self.large_released(entry.at, None);
        }
        if entry.at.is_transient() {
            self.arena.release(entry.at);
        } else if !entry.has(Entry::LOGGED) {
            if let Some(segment) = self.segments.get_mut(entry.at.segment)
                && let Ok(index) = segment
                    .unlogged
                    .binary_search_by_key(&entry.at.place, |pair| pair.0)
            {
                segment.unlogged[index].1 -= 1;
                if segment.unlogged[index].1 == 0 {
                    segment.unlogged.remove(index);
                }
            }
            self.release_logged(entry.at.segment, 1, u64::from(entry.share_octets()));
        }
    }

    /// A durable queue is gone: all its logged entries are given back. They must not be settled any
    /// more; [`Store::release`] ignores them. The definitions must say so too, or the queue comes
    /// back empty.
    pub fn queue_deleted(&mut self, queue: QueueId) {
        let Some(ledger) = self.ledgers.remove(queue) else {
            return;
        };
        let released = ledger.live_in(0, u64::MAX);
        if self.larges.any() {
            for &(segment, _) in &released {
                self.large_released_in(segment, queue, 0, u64::MAX);
            }
        }
        self.release_many(&released);
    }

    #[inline]
    pub(super) fn note_settlement(&mut self, queue: QueueId, first: u64, last: u64) {
        self.settlements.push((queue, first, last));
        if self.settlements.len() >= SETTLEMENTS_MAX {
            self.append_settlements();
        }
    }

    pub(super) fn write_settlements(&mut self) {
        if !self.settlements.is_empty() {
            self.append_settlements();
        }
    }

    /// Writes what was settled so far as one record.
    pub(super) fn append_settlements(&mut self) {
        let mut settlements = std::mem::take(&mut self.settlements);
        merge(&mut settlements);
        self.append_record(RecordKind::Settlement, |octets| {
            codec::encode_settlements(octets, &settlements);
        });
        settlements.clear();
        self.settlements = settlements;
    }

    #[inline]
    pub(super) fn release_logged(&mut self, number: u32, entries: u64, share: u64) {
        if let Some(segment) = self.segments.release(number, entries, share)
            && (segment.live_entries == 0 || segment.worth_a_look())
        {
            self.consider(number);
        }
    }

    /// Releases entries whose sizes are not known: (segment, entries).
    pub(super) fn release_many(&mut self, released: &[(u32, u64)]) {
        for &(number, entries) in released {
            if let Some(segment) = self.segments.get_mut(number) {
                let share = segment.live_share / segment.live_entries.max(1) * entries;
                self.segments.release(number, entries, share);
                self.consider(number);
            }
        }
    }
}

/// Sorts ranges by queue and sequence and joins those that touch.
pub(super) fn merge(ranges: &mut Vec<(QueueId, u64, u64)>) {
    if ranges.len() < 2 {
        return;
    }
    ranges.sort_unstable();
    let mut kept = 0;
    for index in 1..ranges.len() {
        let (queue, first, last) = ranges[index];
        let (kept_queue, _, kept_last) = &mut ranges[kept];
        if *kept_queue == queue && first <= *kept_last + 1 {
            *kept_last = last.max(*kept_last);
        } else {
            kept += 1;
            ranges[kept] = ranges[index];
        }
    }
    ranges.truncate(kept + 1);
}

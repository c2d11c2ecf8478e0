//! The end of a turn: what was appended goes to the flusher, and jobs to the keeper.

use std::sync::Arc;

use super::answers::RETRY_US;
use super::event::Event;
use super::files::Storage;
use super::jobs::{BlockWrite, FlushJob, Helpers, Job, KeeperJob};
use super::record_codec::RecordKind;
use super::store::Store;
use crate::broker::Batch;
use crate::clock::{Deadline, Now};
use crate::planted::{Fault, planted};

/// A batch is handed over at once when the one before was smaller than this; otherwise it waits for
/// [`BATCH_OCTETS`] or [`BATCH_US`], since larger batches halve what syncing costs.
const BUSY_BATCH_OCTETS: usize = 64 << 10;
/// See [`BUSY_BATCH_OCTETS`].
const BATCH_OCTETS: usize = 512 << 10;
/// See [`BUSY_BATCH_OCTETS`].
const BATCH_US: u64 = 500;
/// So long what was settled may wait for a batch that somebody needs, with nothing else to write:
/// a message that is published and acknowledged then costs one flush, not two.
const SETTLEMENT_US: u64 = 5_000;
/// After so long without records the last flush is marked as stable and memory is given back.
const IDLE_US: u64 = 250_000;
/// How often free space is looked at.
const FREE_SPACE_US: u64 = 5_000_000;
/// Octets of the record of a mark.
const MARK_OCTETS: u64 = 32;

#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) batch: u64,
    pub(super) last_lsn: u64,
    pub(super) octets: usize,
    pub(super) definitions_lsn: u64,
}

impl<S: Storage> Store<S> {
    /// When [`Store::commit`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Deadline> {
        if self.failed.is_some() {
            return None;
        }
        // While a file is missing, the keeper's answer is the next thing to happen.
        let may_flush = self.in_flight.is_none() && self.files_are_ready();
        if self.background_waits() {
            return Some(Deadline(self.now.monotonic_us));
        }
        let waiting = self.batch_since.filter(|_| may_flush);
        let patience = if self.may_be_put_off() {
            SETTLEMENT_US
        } else {
            BATCH_US
        };
        let waiting = waiting.map(|since| Deadline(since.0 + patience));
        [
            waiting,
            self.background_deadline(),
            self.scrub_deadline(),
            self.idle_at,
            self.retry_at,
            Some(self.free_space_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends a turn: hands jobs out, and what was appended to the flusher when its time has come.
    pub fn commit(&mut self, now: Now, helpers: &mut impl Helpers<S>) {
        debug_assert!(self.group.is_none(), "a group ends in its turn");
        self.now = now;
        if self.failed.is_some() {
            return;
        }
        if self.batch_since.is_none() && !self.settlements.is_empty() {
            self.batch_since = Some(Deadline(now.monotonic_us));
        }
        if self.idle_at.is_some_and(|idle| idle.is_due(now)) {
            self.become_idle();
        }
        if self.retry_at.is_some_and(|retry| retry.is_due(now)) {
            self.retry_at = None;
            self.retry();
            if let Some(job) = self.refused_flush.take() {
                helpers.flush(job);
            }
        }
        if self.free_space_at.is_due(now) {
            let every_us = if self.alarm { RETRY_US } else { FREE_SPACE_US };
            self.free_space_at = now.after_us(every_us);
            self.jobs.push_back(Job::FreeSpace);
            self.jobs.extend(self.pages.give_back());
        }
        self.jobs.extend(self.arena.take_emptied());
        self.background(now);
        self.next_scrub(now);
        self.remove_large();
        if self.in_flight.is_none() && self.batch_is_due(now) {
            self.write_settlements();
            let complete = self.files_are_ready()
                && self.larges.records_are_complete()
                && !self.definitions.is_rewriting();
            if complete {
                self.hand_over(helpers);
            }
        }
        while let Some(job) = self.jobs.pop_front() {
            helpers.keep(KeeperJob(job));
        }
    }

    /// Whether the open batch only says what was settled, and nobody waits for it.
    fn may_be_put_off(&self) -> bool {
        !self.awaited.get() && !self.tail.has_new() && !self.definitions.has_new()
    }

    pub(super) fn batch_is_due(&self, now: Now) -> bool {
        if self.may_be_put_off() && !self.hurry {
            return self
                .batch_since
                .is_some_and(|since| Deadline(since.0 + SETTLEMENT_US).is_due(now));
        }
        self.has_new()
            && (self.hurry
                || self.last_batch_octets < BUSY_BATCH_OCTETS
                || self.tail.unflushed_octets() >= BATCH_OCTETS
                || self
                    .batch_since
                    .is_none_or(|since| Deadline(since.0 + BATCH_US).is_due(now)))
    }

    pub(super) fn has_new(&self) -> bool {
        self.tail.has_new() || !self.settlements.is_empty() || self.definitions.has_new()
    }

    /// Whether the file of each segment in the batch is there.
    pub(super) fn files_are_ready(&self) -> bool {
        self.tail.waiting_segments().all(|number| {
            self.segments
                .get(number)
                .is_none_or(|segment| segment.file.is_some() && segment.octets >= segment.used)
        })
    }

    pub(super) fn hand_over(&mut self, helpers: &mut impl Helpers<S>) {
        // A mark must not begin a segment here: the file of that may not be there yet.
        let room = self
            .filling
            .is_some_and(|filling| filling.used + MARK_OCTETS <= filling.octets);
        if self.tail.has_new() && self.flushed_lsn > self.marked_lsn && room {
            self.append_mark();
        }
        let octets = self.tail.unflushed_octets();
        let blocks = self.tail.hand_over();
        let writes: Vec<_> = blocks
            .iter()
            .filter_map(|block| {
                let segment = self.segments.get(block.segment)?;
                Some(BlockWrite {
                    file: Arc::clone(segment.file.as_ref()?),
                    block: Arc::clone(block),
                    file_octets: segment.octets,
                })
            })
            .collect();
        assert_eq!(writes.len(), blocks.len(), "each block has its file");
        let definitions = self.definitions.hand_over();
        let batch = self.open_batch;
        self.in_flight = Some(InFlight {
            batch,
            last_lsn: self.next_lsn - 1,
            octets,
            definitions_lsn: self.definitions.last_lsn(),
        });
        self.open_batch += 1;
        self.batch_since = None;
        self.awaited.set(false);
        self.last_batch_octets = octets;
        self.idle_at = Some(self.now.after_us(IDLE_US));
        if planted(Fault::ConfirmBeforeFlush) {
            self.flushed_batch = batch;
            self.events.push_back(Event::Flushed(Batch(batch)));
        }
        helpers.flush(FlushJob {
            batch,
            sync: self.config.sync,
            definitions,
            writes,
        });
    }

    pub(super) fn append_mark(&mut self) {
        let stable = self.flushed_lsn;
        self.marked_lsn = stable;
        self.append_record(RecordKind::Mark, |octets| {
            octets.extend_from_slice(&stable.to_be_bytes());
        });
    }

    /// Nothing was appended for a while: says that the last batch is stable and gives memory back.
    pub(super) fn become_idle(&mut self) {
        self.idle_at = None;
        if self.has_new() || self.in_flight.is_some() {
            self.idle_at = Some(self.now.after_us(IDLE_US));
        } else if self.filling.is_some() && self.flushed_lsn > self.marked_lsn {
            self.append_mark();
            // The mark itself needs no mark.
            self.marked_lsn = self.next_lsn - 1;
        } else {
            self.tail.trim();
        }
    }

    /// Tries again what failed for lack of space.
    pub(super) fn retry(&mut self) {
        for number in self.refused.clone() {
            if let Some(octets) = self.preparing.remove(&number) {
                self.prepare(number, octets);
            }
        }
        while let Some(spill) = self.arena.retry_spill() {
            self.spill(spill);
        }
        while let Some(job) = self.pages.retry_write() {
            self.jobs.push_back(job);
        }
        self.retry_large();
    }
}

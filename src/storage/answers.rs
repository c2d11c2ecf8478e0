//! What the helpers have to say: batches that are on the disk, files that are there, entries that
//! were read, and what went wrong.

use std::io;

use super::StorageError;
use super::definitions::RewrittenDefinitions;
use super::files::Storage;
use super::jobs::{Answer, PreparedFile};
use super::pages::{Arrived, IndexPart};
use super::record_codec::Seed;
use super::segment::segment_name;
use super::store::{Event, RETRY_US, Store, is_full};
use crate::broker::Batch;
use crate::broker::ready::PageId;
use crate::broker::record::QueueId;
use crate::clock::Now;
use crate::message::Entry;

impl<S: Storage> Store<S> {
    /// Has the definitions file written anew when most of it is outdated.
    pub(super) fn rewrite_definitions(&mut self) {
        if self.definitions.wants_rewriting() && self.retry_at.is_none() {
            let seed = Seed(self.next_random());
            let job = self.definitions.begin_rewriting(seed);
            self.jobs.push_back(job);
        }
    }

    pub(super) fn definitions_rewritten(
        &mut self,
        result: io::Result<(RewrittenDefinitions<S>, io::Result<()>)>,
    ) {
        let rewritten = match result {
            Ok((rewritten, Ok(()))) => Some(rewritten),
            Ok((_, Err(error))) => {
                // What is appended to the new file is lost if a crash brings the old one back.
                self.fail(StorageError::new(
                    "cannot sync",
                    "the data directory",
                    &error,
                ));
                return;
            }
            Err(error) => {
                // The old file is in its place and goes on.
                self.retry_at = Some(self.now.after_us(RETRY_US));
                if !is_full(&error) {
                    let line = format!("cannot write the definitions anew: {error}");
                    self.events.push_back(Event::Damage(line));
                }
                None
            }
        };
        self.definitions.end_rewriting(rewritten);
    }

    /// Takes the answer of a helper.
    pub fn answer(&mut self, now: Now, answer: Answer<S>) {
        self.now = now;
        self.take_answer(answer.0);
        if self.disk_full && !self.waits_for_space() {
            self.disk_full = false;
            self.tell_alarm();
        }
    }

    pub(super) fn batch_flushed(&mut self, batch: u64, result: Result<(), StorageError>) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        debug_assert_eq!(in_flight.batch, batch);
        self.is_flush_refused = false;
        if let Err(error) = result {
            self.fail(error);
            return;
        }
        let now_s = self.now_s();
        self.tail.flushed(|segment, start, end| {
            if let Some(segment) = self.segments.get_mut(segment) {
                segment.warmth.warm(start, end, now_s);
            }
        });
        self.flushed_lsn = in_flight.last_lsn;
        self.definitions.flushed(in_flight.definitions_lsn);
        self.rewrite_definitions();
        self.counters.flushes += 1;
        self.counters.flushed_octets += in_flight.octets as u64;
        self.flushed_batch = batch;
        self.events.push_back(Event::Flushed(Batch(batch)));
        self.after_flush();
    }

    /// What waited for the log to be flushed so far.
    pub(super) fn after_flush(&mut self) {
        let flushed_lsn = self.flushed_lsn;
        while let Some(&number) = self.sealed.front() {
            let Some(segment) = self.segments.get_mut(number) else {
                self.sealed.pop_front();
                continue;
            };
            if segment.last_lsn > flushed_lsn {
                break;
            }
            self.sealed.pop_front();
            self.segment_written(number);
        }
    }

    pub(super) fn segment_prepared(&mut self, number: u32, result: io::Result<PreparedFile<S>>) {
        match result {
            Ok(prepared) => {
                self.refused.remove(&number);
                let wanted = self.preparing.remove(&number);
                self.segments.set_octets(number, prepared.octets);
                if let Some(segment) = self.segments.get_mut(number) {
                    segment.file = Some(prepared.file);
                    segment.map = Some(prepared.map);
                    let used = segment.used;
                    if let Some(wanted) = wanted
                        && prepared.octets < wanted.max(used)
                    {
                        self.prepare(number, wanted.max(used));
                    }
                    if let Some(filling) = &mut self.filling
                        && filling.number == number
                    {
                        filling.octets = filling.octets.max(prepared.octets);
                    }
                } else {
                    self.prepared.insert(number, prepared);
                }
            }
            Err(error) if is_full(&error) => {
                self.refused.insert(number);
                self.no_room();
            }
            // The zeros of new space could not be written or synced. Nothing that counts is lost,
            // but the disk fails, and the next segment would lie on it.
            Err(error) => {
                self.fail(StorageError::new(
                    "cannot prepare",
                    &segment_name(number),
                    &error,
                ));
            }
        }
    }

    pub(super) fn page_read(&mut self, page: u64, result: io::Result<Vec<Entry>>) {
        let part = self.pages.part_of(page);
        let result = match (part, result) {
            (Some(part), Ok(entries)) => {
                let entries = self.revive(part.queue, entries);
                self.settle_missing(part, &entries);
                Ok(entries)
            }
            (Some(part), Err(error)) => {
                let name = segment_name(part.segment);
                let line = format!("{name}: entries of a queue cannot be read: {error}");
                self.events.push_back(Event::Damage(line));
                Ok(Vec::new())
            }
            (None, result) => result,
        };
        match result {
            Ok(entries) => match self.pages.arrived(page, entries) {
                Arrived::Loaded => self.events.push_back(Event::PageLoaded(PageId(page))),
                Arrived::Release(entries) => {
                    for entry in entries {
                        self.release(entry);
                    }
                }
                Arrived::Nothing => {}
            },
            // The log still has what the page held: a restart brings it back.
            Err(error) => self.fail(StorageError::new("cannot read", "the page file", &error)),
        }
    }

    /// Entries of a recovered queue as the queue wants them: without those that are settled.
    pub(super) fn revive(&mut self, queue: QueueId, mut entries: Vec<Entry>) -> Vec<Entry> {
        let Some(ledger) = self.ledgers.get_mut(queue) else {
            return Vec::new();
        };
        entries.retain(|entry| !ledger.settled.contains(entry.sequence()));
        for entry in &mut entries {
            if ledger
                .redelivered_up_to
                .is_some_and(|up_to| entry.sequence() <= up_to)
            {
                *entry = entry.with(Entry::REDELIVERED);
            }
        }
        entries
    }

    /// Settles what should be among the live `entries` of a part of an index and is not: an index
    /// that is made anew leaves out what does not check, and nobody else would ever let go of it.
    fn settle_missing(&mut self, part: IndexPart, entries: &[Entry]) {
        let IndexPart {
            queue, first, last, ..
        } = part;
        let Some(ledger) = self.ledgers.get_mut(queue) else {
            return;
        };
        let live = last + 1 - first - ledger.settled.count_in(first, last);
        let missing = live.saturating_sub(entries.len() as u64);
        if missing == 0 {
            return;
        }
        self.counters.lost += missing;
        let name = segment_name(part.segment);
        let line = format!("{name}: {missing} messages of a queue are lost: they are damaged");
        self.events.push_back(Event::Damage(line));
        let mut next = first;
        let ends = entries.iter().map(|entry| entry.sequence());
        for sequence in ends.chain([last + 1]) {
            if sequence > next {
                self.settle_range(queue, next, sequence - 1);
            }
            next = sequence + 1;
        }
    }

    /// Says what a job has seen of damage.
    pub(super) fn tell_damage(&mut self, lines: Vec<String>) {
        self.counters.damaged += lines.len() as u64;
        self.events.extend(lines.into_iter().map(Event::Damage));
    }

    /// Notes whether new space could be had.
    pub(super) fn space_result(&mut self, result: &io::Result<()>) {
        if let Err(error) = result {
            if is_full(error) {
                self.no_room();
            } else {
                let line = format!("cannot write a spill file: {error}");
                self.events.push_back(Event::Damage(line));
                self.retry_at = Some(self.now.after_us(RETRY_US));
            }
        }
    }

    pub(super) fn tell_alarm(&mut self) {
        let alarm = self.disk_full || self.disk_low;
        if alarm != self.alarm {
            self.alarm = alarm;
            self.events.push_back(Event::DiskAlarm(alarm));
        }
    }

    /// Nothing is promised from here on.
    pub(super) fn fail(&mut self, error: StorageError) {
        if self.failed.is_none() {
            self.failed = Some(error.clone());
            self.events.push_back(Event::Fatal(error));
        }
    }
}

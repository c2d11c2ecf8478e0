//! What the helpers have to say: batches that are on the disk, files that are there, entries that
//! were read, and what went wrong.

use std::io;

use super::StorageError;
use super::definitions::RewrittenDefinitions;
use super::event::Event;
use super::files::{Storage, is_shortage};
use super::jobs::{Answer, AnswerKind, Job, PreparedFile};
use super::record_codec::Seed;
use super::segment::segment_name;
use super::store::Store;
use crate::broker::Batch;
use crate::clock::Now;

/// How often what failed for lack of space is tried again.
pub(super) const RETRY_US: u64 = 1_000_000;

impl<S: Storage> Store<S> {
    /// Has the definitions file written anew when most of it is outdated.
    pub(super) fn rewrite_definitions(&mut self) {
        if self.definitions.wants_rewriting() && self.retry_at.is_none() {
            let seed = Seed(self.random.draw());
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
                if !is_shortage(&error) {
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

    /// Passes an answer on to whom it concerns.
    pub(super) fn take_answer(&mut self, answer: AnswerKind<S>) {
        match answer {
            AnswerKind::Flushed { batch, result } => self.batch_flushed(batch, result),
            AnswerKind::NoRoom { job } => {
                self.is_flush_refused = true;
                self.refused_flush = Some(job);
                self.no_room();
            }
            AnswerKind::Prepared { number, result } => self.segment_prepared(number, result),
            AnswerKind::Populated {
                target,
                range,
                map,
                result,
            } => self.populated(target, range, map, result),
            AnswerKind::Spilled { block, result } => {
                self.space_result(&result);
                let now_s = self.now_s();
                self.arena.spilled(block, result.is_ok(), now_s);
            }
            AnswerKind::PageWritten { page, crc, result } => {
                self.space_result(&result);
                self.pages.written(page, crc, result.is_ok());
            }
            AnswerKind::PagesRead(pages) => {
                for (page, result) in pages {
                    self.page_read(page, result);
                }
            }
            AnswerKind::PartRead {
                page,
                result,
                damage,
            } => {
                self.tell_damage(damage);
                self.page_read(page, result);
            }
            AnswerKind::Indexed { number, result } => self.segment_indexed(number, result),
            AnswerKind::Scrubbed { number, result } => self.scrubbed(number, result),
            AnswerKind::KeptAside { number, result } => self.kept_aside(number, result),
            AnswerKind::CheckpointWritten(result) => self.checkpoint_written(result),
            AnswerKind::Compacted {
                number,
                result,
                damage,
            } => self.compacted(number, result, damage),
            AnswerKind::Removed(result) => {
                if let Err(error) = result {
                    let line = format!("cannot remove a file that is not needed: {error}");
                    self.events.push_back(Event::Damage(line));
                }
            }
            AnswerKind::DefinitionsRewritten(result) => self.definitions_rewritten(result),
            AnswerKind::LargeWritten { write, result } => self.large_written(write, result),
            AnswerKind::LargeRead {
                handle,
                offset,
                octets,
                result,
            } => self.stretch_read(&handle, offset, octets, result),
            AnswerKind::FreeSpace(result) => {
                if let Err(error) = &result
                    && error.kind() == io::ErrorKind::NotFound
                {
                    self.fail(StorageError::new("cannot use", "the data directory", error));
                    return;
                }
                self.free_octets = result.ok();
                let low = |octets| octets < self.config.disk_free_octets_min;
                self.disk_low = self.free_octets.is_some_and(low);
                if self.disk_low {
                    self.give_up_spares();
                }
                self.tell_alarm();
            }
        }
    }

    /// New space could not be had: publishers pause, and it is tried again.
    pub(super) fn no_room(&mut self) {
        self.disk_full = true;
        self.give_up_spares();
        self.retry_at = Some(self.now.after_us(RETRY_US));
        self.tell_alarm();
    }

    pub(super) fn now_s(&self) -> u32 {
        // One ahead, so that zero is always in the past.
        (self.now.monotonic_us / 1_000_000) as u32 + 1
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
                // What is left decides how large the next ones may be, and when publishers pause.
                self.jobs.push_back(Job::FreeSpace);
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
            Err(error) if is_shortage(&error) => {
                if !self.prepare_less(number) {
                    if !self.disk_full {
                        let name = segment_name(number);
                        log::warn!("no room for {name}: {error}; it is tried again every second");
                    }
                    self.refused.insert(number);
                    self.no_room();
                }
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

    /// Says what a job has seen of damage.
    pub(super) fn tell_damage(&mut self, lines: Vec<String>) {
        self.counters.damaged += lines.len() as u64;
        self.events.extend(lines.into_iter().map(Event::Damage));
    }

    /// Notes whether new space could be had.
    pub(super) fn space_result(&mut self, result: &io::Result<()>) {
        if let Err(error) = result {
            if is_shortage(error) {
                self.no_room();
            } else {
                // Many may fail until it is tried again.
                if self.retry_at.is_none() {
                    let line = format!("cannot write a spill file: {error}");
                    self.events.push_back(Event::Damage(line));
                }
                self.retry_at = Some(self.now.after_us(RETRY_US));
            }
        }
    }

    pub(super) fn tell_alarm(&mut self) {
        let alarm = self.disk_full || self.disk_low;
        if alarm != self.alarm {
            self.alarm = alarm;
            // Publishers wait: it is looked at often now.
            self.free_space_at = self.free_space_at.min(self.now.after_us(RETRY_US));
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

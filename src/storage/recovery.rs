//! Opening a store: what the files say.
//!
//! Start is O(queues + segments + octets that have no index): the checkpoint gives the state of the
//! queues up to some record, the indexes of sealed segments give what lies in them, and only what
//! has no index is read record by record: the last segment, as a rule.
//!
//! | what is found | decision |
//! |---|---|
//! | records without a gap to the end | replayed |
//! | a gap above the stable mark | torn tail: the log ends there; what lies behind is made void |
//! | a gap below the mark | damage: what can be read behind it counts; lost records are counted, named, kept aside |
//! | an unfinished group at the end | the log ends before it |
//! | a segment that the checkpoint names and that is missing | damage, as above |
//! | a segment that the checkpoint covers and leaves out | was given back: used again |
//! | a segment file without a header of its own | made ahead or recycled and never written: used again |
//! | a rewritten segment whose table does not check | its index is passed over, its records are read |
//! | a header that cannot be read over octets that are not zero | damage: set aside under another name |
//! | a record of an older life of the file | never seen: the checksums start from another seed |
//! | a format newer than this program | refused |
//!
//! The state after replay is that of a prefix of the records that contains everything up to the
//! mark.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::StorageError;
use super::checkpoint::{self, Checkpoint, Found};
use super::compaction::{self, Table};
use super::definitions::{self, NAME as DEFINITIONS_NAME};
use super::files::{Map, Storage, read_exact_at, read_up_to_at, write_all_at};
use super::index::{self, Index};
use super::jobs::Job;
use super::large::number_in_body_name;
use super::pages::IndexPart;
use super::ranges::RangeSet;
use super::record_codec::{
    FORMAT_VERSION, HEADER_OCTETS, MessagePayload, RecordHeader, SEGMENT_START, Seed,
    SegmentHeader, decode_record,
};
use super::scan::{Problem, Scope, Summary};
use super::scrub::Scrub;
use super::segment::{Segment, Stage, number_in, segment_name};
use super::store::{Store, StoreConfig, is_full};
use crate::broker::queue::Weight;
use crate::broker::ready::ParkedPage;
use crate::broker::record::QueueId;
use crate::clock::Now;
use crate::message::{LargeBody, MessageRef};
use crate::planted::{Fault, planted};

/// What was found in the files when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The definitions that hold, as (key, value), in the order in which they were last written.
    pub definitions: Vec<(Vec<u8>, Vec<u8>)>,
    /// Some or all definitions could not be read. Queues that are unknown to the definitions may
    /// be missing there for this reason and must not be deleted.
    pub definitions_damaged: bool,
    /// Every queue that the log knows, ascending. Those that the definitions do not know were
    /// deleted: say so by [`Store::queue_deleted`].
    pub queues: Vec<RecoveredQueue>,
    /// No queue with this id or a greater one was ever logged.
    pub queue_id_next: u32,
    /// What is worth a line in the log: damage, what was cut off the end.
    pub report: Vec<String>,
    /// Records that were on stable storage and could not be read.
    pub lost_records: u64,
    /// Octets of segments that were read record by record.
    pub scanned_octets: u64,
}

/// One durable queue as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredQueue {
    /// Its id.
    pub id: QueueId,
    /// Its messages, in order of their sequences.
    pub pages: Vec<ParkedPage>,
    /// How many messages that is.
    pub messages: u64,
    /// The sequence that the next message must have, or a greater one.
    pub next_sequence: u64,
    /// Up to here (inclusive) messages may have been delivered before; their entries bear
    /// [`crate::message::Entry::REDELIVERED`]. `None`: the queue never delivered.
    pub redelivered_up_to: Option<u64>,
}

/// One segment while the store is opened.
struct FoundSegment<S: Storage> {
    header: SegmentHeader,
    file_octets: u64,
    /// Of a rewritten segment, unless it is damaged. Read once: all that looks at places must
    /// agree on whether there is one.
    table: Option<Table>,
    content: Content<S>,
}

enum Content<S: Storage> {
    Indexed(Index),
    Scanned(Summary, S::Map),
}

impl<S: Storage> FoundSegment<S> {
    fn last_lsn(&self) -> u64 {
        match &self.content {
            Content::Indexed(index) => index.last_lsn,
            Content::Scanned(summary, _) => summary.last_lsn,
        }
    }

    fn stable_lsn(&self) -> u64 {
        match &self.content {
            Content::Indexed(index) => index.stable_lsn,
            Content::Scanned(summary, _) => summary.stable_lsn,
        }
    }

    fn carry_group(&self, before: Option<u64>) -> Option<u64> {
        match &self.content {
            Content::Indexed(index) if index.closes_group => index.group_from,
            Content::Indexed(index) => before.or(index.group_from),
            Content::Scanned(summary, _) => summary.carry_group(before),
        }
    }
}

/// What opening gathers before there is a store.
struct Opening<'a, S: Storage> {
    storage: &'a S,
    segments: BTreeMap<u32, FoundSegment<S>>,
    /// Names of files that may be used for new segments.
    unused: Vec<String>,
    names: Vec<String>,
    /// Records before the end of the log are lost.
    has_gap: bool,
    recovery: Recovery,
}

fn unreadable(name: &str) -> impl Fn(io::Error) -> StorageError + use<'_> {
    move |error| StorageError::new("cannot read", name, &error)
}

impl<S: Storage> Store<S> {
    /// Opens the store in a directory. Reads files, so it blocks.
    ///
    /// * `seed`: for the store's own random numbers; unpredictable in production.
    ///
    /// # Errors
    /// One line that names the file: it cannot be read, or its format is newer than this program.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the directory is the store's from here on; the helpers have their clones"
    )]
    pub fn open(
        storage: S,
        config: StoreConfig,
        now: Now,
        seed: u64,
    ) -> Result<(Self, Recovery), StorageError> {
        let mut store = Store::empty(config, now, seed);
        let mut opening = Opening {
            storage: &storage,
            segments: BTreeMap::new(),
            unused: Vec::new(),
            names: Vec::new(),
            has_gap: false,
            recovery: Recovery::default(),
        };
        opening.definitions(&mut store)?;
        let checkpoint = opening.checkpoint()?;
        opening.segments(checkpoint.as_ref())?;
        let end_lsn = opening.end(checkpoint.as_ref())?;
        let recovery = opening.fill(&mut store, checkpoint, end_lsn)?;
        Ok((store, recovery))
    }
}

impl<S: Storage> Opening<'_, S> {
    fn report(&mut self, line: String) {
        self.recovery.report.push(line);
    }

    fn definitions(&mut self, store: &mut Store<S>) -> Result<(), StorageError> {
        let mut found = definitions::read(self.storage)?;
        if found.unreadable {
            self.recovery.definitions_damaged = true;
            self.report(format!(
                "{DEFINITIONS_NAME}: cannot be read; it is kept aside"
            ));
        }
        if found.lost > 0 {
            self.recovery.definitions_damaged = true;
            self.recovery.lost_records += found.lost;
            let lost = found.lost;
            self.report(format!(
                "{DEFINITIONS_NAME}: {lost} records are damaged; it is kept aside"
            ));
        } else if found.torn_octets > 0 && !found.unreadable {
            let octets = found.torn_octets;
            self.report(format!(
                "{DEFINITIONS_NAME}: a torn end of {octets} octets was cut off"
            ));
        }
        if found.unreadable || found.lost > 0 {
            let aside = format!("{DEFINITIONS_NAME}.damaged-{}", found.next_lsn);
            self.keep_aside(DEFINITIONS_NAME, 0, u64::MAX, &aside);
        }
        if found.end > 0 && found.wants_rewriting() || found.unreadable {
            let seed = Seed(store.next_random());
            let failed =
                |error: io::Error| StorageError::new("cannot write", DEFINITIONS_NAME, &error);
            match definitions::rewrite(self.storage, seed, found.next_lsn, &found.pairs) {
                Ok((rewritten, synced)) => {
                    synced.map_err(failed)?;
                    (found.seed, found.end) = (rewritten.seed, rewritten.end);
                    found.next_lsn = rewritten.next_lsn;
                }
                // A full disk is no reason not to start. What was cut off must not be read again
                // when new records lie before it.
                Err(error) if is_full(&error) && !found.unreadable => {
                    definitions::clear_end(self.storage, found.end).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        if found.end > 0 {
            let file = self
                .storage
                .open(DEFINITIONS_NAME)
                .map_err(unreadable(DEFINITIONS_NAME))?;
            // As with segments: after a kill it may be in the page cache only.
            let failed = |error| StorageError::new("cannot sync", DEFINITIONS_NAME, &error);
            self.storage.sync(&file).map_err(failed)?;
            store.definitions.found(file, &found);
        }
        self.recovery.definitions = found.pairs;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Option<Checkpoint>, StorageError> {
        let read = checkpoint::read(self.storage).map_err(unreadable(checkpoint::NAME));
        let (found, is_copy) = read?;
        if is_copy {
            self.report(format!(
                "{}: missing or damaged; its copy is used",
                checkpoint::NAME
            ));
        }
        match found {
            Found::None => Ok(Some(Checkpoint::default())),
            Found::Checkpoint(checkpoint) => {
                if checkpoint.damaged {
                    self.report(format!(
                        "{}: damaged; some messages that were settled may come back",
                        checkpoint::NAME
                    ));
                }
                Ok(Some(checkpoint))
            }
            Found::Unreadable => {
                self.report(format!(
                    "{}: cannot be read; messages that were settled may come back",
                    checkpoint::NAME
                ));
                Ok(None)
            }
            Found::Newer(version) => Err(StorageError::refused(format!(
                "{} has format {version}, this program reads up to {FORMAT_VERSION}",
                checkpoint::NAME
            ))),
        }
    }

    /// Finds the segments and what they hold.
    fn segments(&mut self, checkpoint: Option<&Checkpoint>) -> Result<(), StorageError> {
        let names = self
            .storage
            .list()
            .map_err(unreadable("the data directory"))?;
        self.names = names.iter().map(|(name, _)| name.clone()).collect();
        let mut numbers: Vec<_> = names
            .iter()
            .filter_map(|(name, octets)| Some((number_in(name, ".seg")?, *octets)))
            .collect();
        numbers.sort_unstable();
        for (number, file_octets) in numbers {
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            let mut start = vec![0; SEGMENT_START as usize];
            let read = read_up_to_at(self.storage, &file, 0, &mut start);
            let read = read.map_err(unreadable(&name))?;
            let Some(header) = SegmentHeader::decode(&start[..read], number) else {
                self.without_header(number, &start[..read]);
                continue;
            };
            if header.version > FORMAT_VERSION {
                return Err(StorageError::refused(format!(
                    "{name} has format {}, this program reads up to {FORMAT_VERSION}",
                    header.version
                )));
            }
            if checkpoint.is_some_and(|checkpoint| checkpoint.left_out(&header)) {
                self.unused.push(name);
                continue;
            }
            // Without its table nobody can tell where the places of an index lie now. What is read
            // record by record gets the places of today, and so does the index that is made of it.
            let table = compaction::read_table(self.storage, &file, &header);
            let table = table.map_err(unreadable(&name))?;
            let table_is_lost = header.rewritten > 0 && table.is_none();
            if table_is_lost {
                self.report(format!(
                    "{name}: its table is damaged; its records were read one by one"
                ));
            }
            let index = Index::read(self.storage, &header).filter(|_| !table_is_lost);
            let content = match index {
                Some(index) => Content::Indexed(index),
                None => self.scan(&file, &header, table.as_ref(), u64::MAX)?,
            };
            let found = FoundSegment {
                header,
                file_octets,
                table,
                content,
            };
            self.segments.insert(number, found);
        }
        Ok(())
    }

    /// A file that has no header for its number: never written, unless it is full of something.
    fn without_header(&mut self, number: u32, start: &[u8]) {
        let name = segment_name(number);
        let never_written = start.iter().all(|&octet| octet == 0)
            || start.get(12..16).is_some_and(|octets| {
                let older = [octets[0], octets[1], octets[2], octets[3]];
                let older = u32::from_be_bytes(older);
                older != number && SegmentHeader::decode(start, older).is_some()
            });
        if never_written {
            self.unused.push(name);
            return;
        }
        let aside = format!("{name}.damaged");
        let line = match self.storage.rename(&name, &aside) {
            Ok(()) => format!("{name}: its header is damaged; the file is kept as {aside}"),
            Err(error) => format!("{name}: its header is damaged: {error}"),
        };
        self.report(line);
    }

    fn scan(
        &mut self,
        file: &S::File,
        header: &SegmentHeader,
        table: Option<&Table>,
        limit_lsn: u64,
    ) -> Result<Content<S>, StorageError> {
        let name = segment_name(header.number);
        let map = self.storage.map(file, &name).map_err(unreadable(&name))?;
        let octets = self.storage.octets(file).map_err(unreadable(&name))?;
        let end = if header.records_end > 0 {
            header.records_end.min(octets)
        } else {
            octets
        };
        map.populate(0..end).map_err(unreadable(&name))?;
        let mut scratch = Vec::new();
        let octets = map
            .octets(0..end, &mut scratch)
            .map_err(unreadable(&name))?;
        self.recovery.scanned_octets += end;
        let mut summary = Summary::of(
            octets,
            Scope {
                number: header.number,
                seed: header.seed,
                first_lsn: header.first_lsn,
                limit_lsn,
                check_messages: true,
                dense: header.rewritten == 0,
            },
        );
        if let Some(table) = table {
            compaction::to_first_places(&mut summary, table);
        }
        Ok(Content::Scanned(summary, map))
    }

    /// Decides where the log ends: the first number that is not part of it.
    fn end(&mut self, checkpoint: Option<&Checkpoint>) -> Result<u64, StorageError> {
        let head = checkpoint
            .map(|checkpoint| checkpoint.head)
            .unwrap_or_default();
        let marks = self.segments.values().map(FoundSegment::stable_lsn).max();
        let stable_lsn = marks.unwrap_or(0).max(head.stable_lsn).max(head.covers_lsn);
        let problems = self.problems(checkpoint);
        let torn = problems
            .iter()
            .find(|problem| problem.last_lsn > stable_lsn);
        let last = self.segments.values().map(FoundSegment::last_lsn).max();
        let mut end_lsn = match torn {
            Some(problem) => problem.first_lsn.max(stable_lsn + 1),
            None => last.unwrap_or(0).max(head.covers_lsn).max(stable_lsn) + 1,
        };
        for problem in problems {
            if problem.first_lsn < end_lsn {
                self.has_gap = true;
                self.tell_damage(&problem, end_lsn);
            }
        }
        if let Some(last) = last
            && last >= end_lsn
        {
            let void = last + 1 - end_lsn;
            self.report(format!(
                "a torn end: up to {void} records from number {end_lsn} on were cut off"
            ));
        }
        loop {
            self.cut(end_lsn)?;
            let group = self
                .segments
                .values()
                .fold(None, |before, found| found.carry_group(before));
            match group {
                // One that the checkpoint covers was whole when that was written: the segment
                // with its end may have been given back since.
                Some(group_from)
                    if (head.covers_lsn + 1..end_lsn).contains(&group_from)
                        && !planted(Fault::HalfGroup) =>
                {
                    self.report(format!(
                        "an unfinished group of {} records was cut off the end",
                        end_lsn - group_from
                    ));
                    end_lsn = group_from;
                }
                _ => break,
            }
        }
        self.make_void(end_lsn)?;
        Ok(end_lsn)
    }

    /// Stretches of numbers that cannot be read, ascending.
    fn problems(&self, checkpoint: Option<&Checkpoint>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut expected = checkpoint.map(|checkpoint| checkpoint.head.covers_lsn + 1);
        for (&segment, found) in &self.segments {
            if let Content::Scanned(summary, _) = &found.content {
                problems.extend(summary.problems.iter().cloned());
            }
            let first_lsn = found.header.first_lsn;
            let replayed = expected.is_none_or(|expected| found.last_lsn() >= expected);
            if !replayed {
                continue;
            }
            if let Some(expected) = expected
                && first_lsn > expected
            {
                problems.push(Problem {
                    first_lsn: expected,
                    last_lsn: first_lsn - 1,
                    segment,
                    offset: 0,
                    end: 0,
                });
            }
            if expected.is_some() {
                expected = Some(found.last_lsn() + 1);
            }
        }
        problems.sort_by_key(|problem| problem.first_lsn);
        problems
    }

    fn tell_damage(&mut self, problem: &Problem, end_lsn: u64) {
        let Problem {
            first_lsn,
            last_lsn,
            segment,
            offset,
            end,
        } = *problem;
        let last_lsn = last_lsn.min(end_lsn - 1);
        let records = last_lsn + 1 - first_lsn;
        self.recovery.lost_records += records;
        let name = segment_name(segment);
        if end == 0 {
            self.report(format!(
                "{records} records before {name} are missing (numbers {first_lsn} to {last_lsn})"
            ));
            return;
        }
        let aside = format!("{name}.damaged-{offset}");
        self.keep_aside(&name, offset, end, &aside);
        self.report(format!(
            "{name}: octets {offset} to {end} are damaged: {records} records lost (numbers \
             {first_lsn} to {last_lsn}); kept as {aside}"
        ));
    }

    /// Copies octets of a damaged file into a file of their own, for a person to look at. What
    /// cannot be copied is still in its place.
    fn keep_aside(&mut self, name: &str, offset: u64, end: u64, aside: &str) {
        let copied = self.storage.open(name).and_then(|from| {
            if self.storage.open(aside).is_ok() {
                return Ok(());
            }
            let octets = end.min(self.storage.octets(&from)?).saturating_sub(offset);
            let mut copy = vec![0; octets as usize];
            let read = read_up_to_at(self.storage, &from, offset, &mut copy)?;
            let to = self.storage.create(aside, 0)?;
            write_all_at(self.storage, &to, 0, &copy[..read])
        });
        if let Err(error) = copied {
            self.report(format!("{aside}: cannot be written: {error}"));
        }
    }

    /// Takes what lies at or beyond `end_lsn` out of the summaries.
    fn cut(&mut self, end_lsn: u64) -> Result<(), StorageError> {
        let beyond: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, found)| found.last_lsn() >= end_lsn)
            .map(|(&number, _)| number)
            .collect();
        for number in beyond {
            let Some(mut found) = self.segments.remove(&number) else {
                continue;
            };
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            found.content = self.scan(&file, &found.header, found.table.as_ref(), end_lsn)?;
            self.segments.insert(number, found);
        }
        Ok(())
    }

    /// Overwrites the headers of what was cut off, so that no later start reads it: by then the
    /// mark will have passed their numbers. And syncs what was read: after a kill it may be in the
    /// page cache only, and what comes next counts on it.
    fn make_void(&mut self, end_lsn: u64) -> Result<(), StorageError> {
        let mut emptied = Vec::new();
        for (&number, found) in &self.segments {
            let Content::Scanned(summary, _) = &found.content else {
                continue;
            };
            let name = segment_name(number);
            let failed = |error: io::Error| StorageError::new("cannot write", &name, &error);
            let file = self.storage.open(&name).map_err(failed)?;
            for &offset in &summary.void {
                write_all_at(self.storage, &file, offset, &[0; HEADER_OCTETS]).map_err(failed)?;
            }
            if found.header.first_lsn >= end_lsn {
                // Nothing in it counts: without a header it is a file that was never written.
                write_all_at(self.storage, &file, 0, &vec![0; SEGMENT_START as usize])
                    .map_err(failed)?;
                emptied.push(number);
            }
            self.storage.sync(&file).map_err(failed)?;
        }
        for number in emptied {
            self.segments.remove(&number);
            self.unused.push(segment_name(number));
        }
        if !self.names.is_empty() {
            let failed = |error| StorageError::new("cannot sync", "the data directory", &error);
            self.storage.sync_dir().map_err(failed)?;
        }
        Ok(())
    }

    /// Fills the store with what was found.
    fn fill(
        mut self,
        store: &mut Store<S>,
        checkpoint: Option<Checkpoint>,
        end_lsn: u64,
    ) -> Result<Recovery, StorageError> {
        let checkpoint = checkpoint.unwrap_or_default();
        let head = checkpoint.head;
        self.tell_missing(&checkpoint);
        store.next_lsn = end_lsn;
        store.flushed_lsn = end_lsn - 1;
        // The mark that made a gap damage and not a torn end may have been cut off with the end:
        // the first flush has to say again that what lies before it counts.
        store.marked_lsn = if self.has_gap { 0 } else { end_lsn - 1 };
        store.covered_lsn = head.covers_lsn;
        let last = self.segments.keys().next_back().copied().unwrap_or(0);
        let unused = self
            .unused
            .iter()
            .filter_map(|name| number_in(name, ".seg"));
        let beyond = unused
            .max()
            .unwrap_or(0)
            .max(last)
            .max(head.next_number.saturating_sub(1));
        store.next_number = beyond + 1;
        store.recyclable = std::mem::take(&mut self.unused);
        store.ledgers.id_next = head.queue_id_next;
        for (queue, ledger) in checkpoint.queues {
            *store.ledgers.entry(queue) = ledger;
        }
        let (mut indexes, mut unread) = (BTreeMap::new(), VecDeque::new());
        for (number, found) in std::mem::take(&mut self.segments) {
            let (index, map) = match found.content {
                Content::Indexed(index) => {
                    unread.push_back(number);
                    (index, None)
                }
                Content::Scanned(summary, map) => {
                    let (index, written) = index::write(self.storage, &found.header, summary);
                    match written {
                        Ok(()) => {}
                        // It can be made again from its segment whenever it is wanted.
                        Err(error) if is_full(&error) => {
                            log::debug!("no index for {}: {error}", segment_name(number));
                        }
                        Err(error) => {
                            let name = segment_name(number);
                            return Err(StorageError::new(
                                "cannot write the index of",
                                &name,
                                &error,
                            ));
                        }
                    }
                    (index, Some(map))
                }
            };
            let mut segment = Segment::new(
                number,
                found.header.seed,
                found.file_octets,
                index.first_lsn,
            );
            segment.stage = Stage::Indexed;
            segment.used = index.records_end;
            segment.last_lsn = index.last_lsn;
            segment.rewritten = found.header.rewritten;
            segment.table = found.table.map(Arc::new);
            if let Some(map) = map {
                segment.warmth.warm(0, segment.used.max(1), store.now_s());
                segment.map = Some(Arc::new(map));
            }
            store.segments.insert(segment);
            indexes.insert(number, index);
        }
        replay(store, &indexes);
        self.large_bodies(store, &indexes)?;
        self.recovery.queue_id_next = store.ledgers.id_next;
        self.recovery.queues = pages(store, &indexes);
        store.scrub = Some(Scrub::new(unread, store.now));
        store.after_recovery();
        Ok(self.recovery)
    }

    /// Finds the bodies that lie in files of their own; removes those that nobody needs. One whose
    /// record is damaged stays, since it may be needed.
    fn large_bodies(
        &mut self,
        store: &mut Store<S>,
        indexes: &BTreeMap<u32, Index>,
    ) -> Result<(), StorageError> {
        let mut greatest = 0;
        let mut doubtful = Vec::new();
        for (&number, index) in indexes {
            if index.large.is_empty() {
                continue;
            }
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            for &(place, body_file) in &index.large {
                greatest = greatest.max(body_file);
                let offset = store.segments.get(number).and_then(|s| s.offset_of(place));
                let seed = store.segments.get(number).map(|segment| segment.seed);
                let record = match offset.zip(seed) {
                    Some((offset, seed)) => read_large_record(self.storage, &file, offset, seed)
                        .map_err(unreadable(&name))?,
                    None => None,
                };
                let Some((body, queues)) = record else {
                    doubtful.push(body_file);
                    self.report(format!(
                        "{name}: the record of the large body {body_file:016x} is damaged"
                    ));
                    continue;
                };
                let live: Vec<_> = queues
                    .into_iter()
                    .filter(|&(queue, sequence)| {
                        let ledger = store.ledgers.get(queue);
                        ledger.is_some_and(|ledger| !ledger.settled.contains(sequence))
                    })
                    .collect();
                if !live.is_empty() {
                    let at = MessageRef {
                        segment: number,
                        place,
                    };
                    store.larges.found(body, at, live);
                    if let Some(segment) = store.segments.get_mut(number) {
                        segment.large += 1;
                    }
                }
            }
        }
        let mut superfluous = Vec::new();
        for name in &self.names {
            if let Some(file) = number_in_body_name(name) {
                greatest = greatest.max(file);
                if !store.larges.knows(file) && !doubtful.contains(&file) {
                    superfluous.push(name.clone());
                }
            }
        }
        store.larges.next = greatest + 1;
        superfluous.extend(
            self.names
                .iter()
                .filter(|name| name.ends_with(compaction::NEW_SUFFIX))
                .cloned(),
        );
        if !superfluous.is_empty() {
            store.jobs.push_back(Job::Remove {
                names: superfluous,
                map: None,
            });
        }
        Ok(())
    }

    /// Names the segments that the checkpoint knew and that are not there.
    fn tell_missing(&mut self, checkpoint: &Checkpoint) {
        for (number, _) in &checkpoint.segments {
            if !self.segments.contains_key(number) {
                let name = segment_name(*number);
                self.report(format!("{name}: missing; its messages are lost"));
            }
        }
    }
}

/// Brings the ledgers from the checkpoint's state to the end of the log.
fn replay<S: Storage>(store: &mut Store<S>, indexes: &BTreeMap<u32, Index>) {
    for (&number, index) in indexes {
        for indexed in &index.queues {
            let ledger = store.ledgers.entry(indexed.queue);
            ledger.found(number, indexed.first, indexed.last);
        }
        for &(queue, up_to) in &index.permissions {
            let ledger = store.ledgers.entry(queue);
            ledger.permission = ledger.permission.max(up_to);
        }
    }
    // Settlements after all places are known: whatever they name exists or is lost.
    for index in indexes.values() {
        for &(queue, first, last) in &index.settlements {
            let ledger = store.ledgers.entry(queue);
            ledger.settled.insert(first, last);
            ledger.next_sequence = ledger.next_sequence.max(last + 1);
        }
    }
    let queues: Vec<QueueId> = store.ledgers.sorted().iter().map(|(id, _)| *id).collect();
    for queue in queues {
        let ledger = store.ledgers.entry(queue);
        if ledger.permission > 0 {
            ledger.redelivered_up_to = Some(ledger.permission);
        }
        ledger.forget_unplaced(|segment| {
            let queues = &indexes.get(&segment)?.queues;
            let at = queues
                .binary_search_by_key(&queue, |indexed| indexed.queue)
                .ok()?;
            Some(queues[at].last)
        });
        let live: Vec<(u32, u64)> = ledger
            .slices_in(0, u64::MAX)
            .map(|(segment, first, last)| {
                (
                    segment,
                    last + 1 - first - ledger.settled.count_in(first, last),
                )
            })
            .collect();
        for (number, entries) in live {
            if let Some(segment) = store.segments.get_mut(number) {
                segment.live_entries += entries;
            }
        }
    }
    for (&number, index) in indexes {
        let entries: u64 = index
            .queues
            .iter()
            .map(|queue| u64::from(queue.entries))
            .sum();
        if let Some(segment) = store.segments.get_mut(number) {
            let octets = segment.used.saturating_sub(SEGMENT_START);
            let share = octets * segment.live_entries / entries.max(1);
            store.segments.set_live_share(number, share);
        }
    }
}

/// The pages of the recovered queues.
fn pages<S: Storage>(store: &mut Store<S>, indexes: &BTreeMap<u32, Index>) -> Vec<RecoveredQueue> {
    let mut parts: BTreeMap<QueueId, Vec<(IndexPart, u32)>> = BTreeMap::new();
    for (&segment, index) in indexes {
        for indexed in &index.queues {
            let queue = indexed.queue;
            let Some(ledger) = store.ledgers.get(queue) else {
                continue;
            };
            for (run, fence) in indexed.fences.iter().enumerate() {
                let first = fence.0;
                let next = indexed.fences.get(run + 1);
                let last = next.map_or(indexed.last, |next| next.0 - 1);
                let count = live_in(&ledger.settled, first, last);
                if count > 0 {
                    let part = IndexPart {
                        queue,
                        segment,
                        first,
                        last,
                        run: index.run(indexed, run),
                    };
                    parts.entry(queue).or_default().push((part, count));
                }
            }
        }
    }
    let ledgers: Vec<_> = store
        .ledgers
        .sorted()
        .iter()
        .map(|(queue, ledger)| (*queue, ledger.next_sequence, ledger.redelivered_up_to))
        .collect();
    let queues = ledgers
        .into_iter()
        .map(|(id, next_sequence, redelivered_up_to)| {
            let parts = parts.remove(&id).unwrap_or_default();
            let pages: Vec<_> = parts
                .into_iter()
                .map(|(part, count)| ParkedPage {
                    page: store.pages.park_indexed(part),
                    count,
                    first_sequence: part.first,
                    weight: Weight::default(),
                })
                .collect();
            let next_sequence = next_sequence.max(redelivered_up_to.map_or(0, |up_to| up_to + 1));
            RecoveredQueue {
                id,
                messages: pages.iter().map(|page| u64::from(page.count)).sum(),
                pages,
                next_sequence: if planted(Fault::ReuseSequence) {
                    1
                } else {
                    next_sequence
                },
                redelivered_up_to,
            }
        });
    queues.collect()
}

fn live_in(settled: &RangeSet, first: u64, last: u64) -> u32 {
    (last + 1 - first - settled.count_in(first, last)) as u32
}

/// A body, and the entries that its record was written for.
type LargeRecord = (LargeBody, Vec<(QueueId, u64)>);

/// The body that the record at `offset` names, and the queues that got it; `None` when the record
/// is damaged.
fn read_large_record<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    seed: Seed,
) -> io::Result<Option<LargeRecord>> {
    let mut head = vec![0; HEADER_OCTETS];
    read_exact_at(storage, file, offset, &mut head)?;
    let Some(header) = RecordHeader::decode(&head, seed) else {
        return Ok(None);
    };
    let mut record = vec![0; HEADER_OCTETS + header.length as usize];
    read_exact_at(storage, file, offset, &mut record)?;
    let Ok((header, payload)) = decode_record(&record, seed) else {
        return Ok(None);
    };
    let message = MessagePayload::new(header.kind, payload);
    Ok(message.and_then(|message| Some((message.large()?.0, message.queues().collect()))))
}

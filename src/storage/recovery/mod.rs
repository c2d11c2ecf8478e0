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

mod account;
mod end;
mod larges;
mod replay;
mod segments;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

pub use account::Account;

use super::StorageError;
use super::checkpoint::{self, Checkpoint, Found};
use super::compaction::Table;
use super::config::StoreConfig;
use super::definitions::{self, NAME as DEFINITIONS_NAME};
use super::files::{Storage, is_full};
use super::index::{self, Index};
use super::record_codec::{FORMAT_VERSION, Seed, SegmentHeader};
use super::scan::Summary;
use super::scrub::Scrub;
use super::segment::{Segment, Stage, number_in, segment_name};
use super::store::Store;
use crate::broker::ready::ParkedPage;
use crate::broker::record::QueueId;
use crate::clock::Now;

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
    /// The same in numbers, and what needs no line.
    pub account: Account,
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
    /// All names, ascending.
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
        let opened = opening.open(&mut store);
        let recovery = opening.recovery;
        if opened.is_err() {
            // The next start finds an index where this one found damage, and says nothing of it.
            for line in &recovery.report {
                log::warn!("{line}");
            }
        }
        opened.map(|()| (store, recovery))
    }
}

impl<S: Storage> Opening<'_, S> {
    fn report(&mut self, line: String) {
        self.recovery.report.push(line);
    }

    fn open(&mut self, store: &mut Store<S>) -> Result<(), StorageError> {
        self.definitions(store)?;
        let checkpoint = self.checkpoint()?;
        self.segments(checkpoint.as_ref())?;
        let end_lsn = self.end(checkpoint.as_ref())?;
        self.fill(store, checkpoint, end_lsn)
    }

    fn definitions(&mut self, store: &mut Store<S>) -> Result<(), StorageError> {
        let mut found = definitions::read(self.storage)?;
        if found.unreadable || found.lost > 0 {
            self.recovery.definitions_damaged = true;
            self.recovery.lost_records += found.lost;
            let aside = format!("{DEFINITIONS_NAME}.damaged-{}", found.next_lsn);
            let kept = self.keep_aside(DEFINITIONS_NAME, 0, u64::MAX, &aside);
            let what = if found.unreadable {
                "cannot be read".to_owned()
            } else {
                format!("{} records are damaged", found.lost)
            };
            self.report(format!("{DEFINITIONS_NAME}: {what}; {kept}"));
        } else if found.torn_octets > 0 {
            let octets = found.torn_octets;
            self.recovery.account.definitions_octets_cut = octets;
            self.report(format!(
                "{DEFINITIONS_NAME}: a torn end of {octets} octets was cut off"
            ));
        }
        if found.end > 0 && found.wants_rewriting() || found.unreadable {
            let seed = Seed(store.random.draw());
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
        self.recovery.account.is_checkpoint_copy = is_copy;
        if is_copy {
            self.report(format!(
                "{}: missing or damaged; its copy is used",
                checkpoint::NAME
            ));
        }
        match found {
            Found::None => Ok(Some(Checkpoint::default())),
            Found::Checkpoint(checkpoint) => {
                self.recovery.account.checkpoint_lsn = Some(checkpoint.head.covers_lsn);
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

    /// Fills the store with what was found.
    fn fill(
        &mut self,
        store: &mut Store<S>,
        checkpoint: Option<Checkpoint>,
        end_lsn: u64,
    ) -> Result<(), StorageError> {
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
        self.recovery.account.segments_free = self.unused.len() as u32;
        let unused = std::mem::take(&mut self.unused).into_iter();
        store.recyclable = unused.map(|name| (0, name)).collect();
        store.ledgers.id_next = head.queue_id_next;
        for (queue, ledger) in checkpoint.queues {
            *store.ledgers.entry(queue) = ledger;
        }
        let (mut indexes, mut unread) = (BTreeMap::new(), VecDeque::new());
        for (number, found) in std::mem::take(&mut self.segments) {
            self.recovery.account.segments_rewritten += u32::from(found.header.rewritten > 0);
            let (index, map) = match found.content {
                Content::Indexed(index) => {
                    self.recovery.account.indexes_used += 1;
                    unread.push_back(number);
                    (index, None)
                }
                Content::Scanned(summary, map) => {
                    self.recovery.account.segments_read += 1;
                    let (index, written) = index::write(self.storage, &found.header, summary);
                    match written {
                        Ok(()) => self.recovery.account.indexes_made += 1,
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
        replay::replay(store, &indexes);
        self.large_bodies(store, &indexes)?;
        self.recovery.queue_id_next = store.ledgers.id_next;
        self.recovery.queues = replay::pages(store, &indexes);
        store.scrub = Some(Scrub::new(unread, store.now));
        store.after_recovery();
        Ok(())
    }
}

//! The store as the loop drives it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use hashbrown::HashMap;

use super::StorageError;
use super::arena::{Arena, Spill};
use super::background::{Checkpointing, Compacting};
use super::batches::InFlight;
use super::definitions::DefinitionsLog;
use super::files::Storage;
use super::filling::Filling;
use super::jobs::{AnswerKind, FlushJob, Job, PreparedFile};
use super::large::Larges;
use super::ledger::Ledgers;
use super::pages::Pages;
use super::record_codec::{self as codec, RecordKind, Seed};
use super::scrub::Scrub;
use super::segment::Segments;
use super::tail::Tail;
use crate::broker::Batch;
use crate::broker::ready::PageId;
use crate::broker::record::QueueId;
use crate::broker::sink::Stored;
use crate::clock::{Deadline, Now};
use crate::message::{Body, Entry, Message, MessageRef};

/// What may be set about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Whether batches are synced; without, a confirm survives the process but not the machine.
    pub sync: bool,
    /// Octets that may wait for the disk before publishers pause.
    pub tail_octets_max: usize,
    /// Octets of the first segment; a power of two multiple of it follows under load.
    pub segment_octets_min: u64,
    /// Octets of the largest segment.
    pub segment_octets_max: u64,
    /// Segments' worth of files beyond twice what lives in them from which on segments are
    /// rewritten.
    pub segment_slack: u64,
    /// Octets of full transient blocks that stay in memory.
    pub arena_octets_max: usize,
    /// Octets of one spill file.
    pub spill_file_octets: u64,
    /// The disk alarm is raised when fewer octets are free.
    pub disk_free_octets_min: u64,
    /// How often segments are looked for that are worth rewriting, in milliseconds; a full segment
    /// waits four times as long for its index, since most are empty by then. 0: nothing waits.
    pub look_ms: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            sync: true,
            tail_octets_max: 16 << 20,
            segment_octets_min: 1 << 20,
            segment_octets_max: 64 << 20,
            segment_slack: 4,
            arena_octets_max: 4 << 20,
            spill_file_octets: 16 << 20,
            disk_free_octets_min: 50_000_000,
            look_ms: 250,
        }
    }
}

/// What happened, for the engine; see [`Store::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything up to this batch is on stable storage.
    Flushed(Batch),
    /// Octets of this segment ([`MessageRef::segment`]) that were cold are not any more: whoever got
    /// [`super::Read::Cold`] from it may read again.
    Warm {
        /// The segment.
        segment: u32,
    },
    /// The page may be loaded now.
    PageLoaded(PageId),
    /// A large body can be read further, or takes more octets: whoever got
    /// [`super::LargeRead::Cold`] or `false` from [`Store::large_append`] may go on.
    LargeReady {
        /// [`crate::message::LargeBody::file`].
        file: u64,
    },
    /// The disk is (nearly) full, or no longer.
    DiskAlarm(bool),
    /// Something on disk could not be read; the line names it. It was counted and the broker goes
    /// on.
    Damage(String),
    /// The log can promise nothing any more: the process must end with this line. Nothing is
    /// confirmed from here on.
    Fatal(StorageError),
}

/// How often what failed for lack of space is tried again.
pub(super) const RETRY_US: u64 = 1_000_000;
/// Pages of entries that may wait for the keeper before publishers pause: 4 MiB.
const UNWRITTEN_PAGES_MAX: usize = 512;
/// Ranges of settlements that are gathered before they are written within a turn.
const SETTLEMENTS_MAX: usize = 4096;

/// The message log, the transient arena, the definitions and the paged-out entries of one server.
///
/// How to drive it, once a turn: [`Store::answer`] for each answer of a helper, then any number of
/// calls that append, settle, read …, then [`Store::commit`]; drain [`Store::next_event`] after
/// answers and after the commit; call [`Store::commit`] again at [`Store::next_deadline`] at the
/// latest.
#[derive(Debug)]
pub struct Store<S: Storage> {
    pub(super) config: StoreConfig,
    pub(super) random: u64,
    pub(super) now: Now,

    pub(super) next_lsn: u64,
    /// Everything up to here is on stable storage.
    pub(super) flushed_lsn: u64,
    /// The last mark says that everything up to here is stable.
    pub(super) marked_lsn: u64,
    pub(super) tail: Tail,
    pub(super) segments: Segments<S>,
    pub(super) ledgers: Ledgers,
    pub(super) arena: Arena<S>,
    pub(super) pages: Pages<S>,
    pub(super) larges: Larges<S>,

    /// The segment that is being filled, if one was begun.
    pub(super) filling: Option<Filling>,
    pub(super) next_number: u32,
    pub(super) segment_octets: u64,
    /// Files made ahead, by segment.
    pub(super) prepared: HashMap<u32, PreparedFile<S>>,
    /// What was asked for and is not there yet, by segment: octets.
    pub(super) preparing: BTreeMap<u32, u64>,
    /// Of these those for which there was no room when they were last asked for.
    pub(super) refused: BTreeSet<u32>,
    /// A batch for whose definitions there was no room.
    pub(super) refused_flush: Option<FlushJob<S>>,
    /// The batch that is in flight is such a one, be it with the flusher again.
    pub(super) is_flush_refused: bool,
    /// No file was asked for from this number on.
    pub(super) next_unprepared: u32,
    /// Files of dead segments that may be used again: octets (0: not known) and name, ascending.
    pub(super) recyclable: Vec<(u64, String)>,
    /// Preparing failed for lack of space; it is tried again at this moment.
    pub(super) retry_at: Option<Deadline>,
    pub(super) free_space_at: Deadline,
    pub(super) free_octets: Option<u64>,
    pub(super) disk_full: bool,
    pub(super) disk_low: bool,
    pub(super) alarm: bool,

    /// Settlements of the open batch that are not yet a record.
    pub(super) settlements: Vec<(QueueId, u64, u64)>,
    /// In a group: the first log sequence number that belongs to it.
    pub(super) group: Option<u64>,

    pub(super) definitions: DefinitionsLog<S>,

    pub(super) open_batch: u64,
    pub(super) flushed_batch: u64,
    pub(super) in_flight: Option<InFlight>,
    /// Segments that are full and not yet all on disk, ascending.
    pub(super) sealed: VecDeque<u32>,
    pub(super) spill_seed: Seed,
    pub(super) scratch: Vec<u8>,
    /// When the first record of the open batch was appended.
    pub(super) batch_since: Option<Deadline>,
    /// Somebody has asked which batch to wait for since the last one was handed over.
    pub(super) awaited: Cell<bool>,
    pub(super) last_batch_octets: usize,
    pub(super) idle_at: Option<Deadline>,

    /// Records up to this number are covered by the checkpoint.
    pub(super) covered_lsn: u64,
    pub(super) checkpoint_wanted: bool,
    pub(super) checkpointing: Option<Checkpointing>,
    /// Octets of the checkpoint that was written last.
    pub(super) checkpoint_octets: u64,
    /// Octets of segments that were filled since then.
    pub(super) sealed_octets: u64,
    /// Segments that became dead since the last checkpoint began.
    pub(super) dead_segments: u32,
    /// Segments that are on disk and wait for their index, and until when; ascending.
    pub(super) unindexed: VecDeque<(u32, Deadline)>,
    /// Segments that may be worth rewriting.
    pub(super) candidates: VecDeque<u32>,
    /// When they are looked at next.
    pub(super) look_at: Option<Deadline>,
    pub(super) compacting: Option<Compacting>,
    /// What is still to be checked of what the start did not read.
    pub(super) scrub: Option<Scrub>,
    /// Up to where damage was asked to be kept aside last: segment, end.
    pub(super) asked_aside: Option<(u32, u64)>,
    /// Batches are handed over without regard to load.
    pub(super) hurry: bool,

    pub(super) jobs: VecDeque<Job<S>>,
    pub(super) events: VecDeque<Event>,
    pub(super) failed: Option<StorageError>,
    pub(super) counters: Counters,
}

/// What the store counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches that were flushed.
    pub flushes: u64,
    /// Octets of records that were flushed.
    pub flushed_octets: u64,
    /// Messages that were appended to the log.
    pub appended: u64,
    /// Messages that were kept in the arena.
    pub kept: u64,
    /// Reads that had to wait for the keeper.
    pub cold_reads: u64,
    /// Messages that could not be read.
    pub lost: u64,
    /// Records that the check after a start found damaged.
    pub damaged: u64,
    /// Checkpoints that took their place.
    pub checkpoints: u64,
    /// Segments that were rewritten.
    pub compacted: u64,
    /// Segments that were dead and given back.
    pub retired: u64,
}

impl<S: Storage> Store<S> {
    /// A store without anything in it.
    pub(super) fn empty(config: StoreConfig, now: Now, random: u64) -> Self {
        let arena = Arena::new(config.arena_octets_max, config.spill_file_octets);
        let mut store = Store {
            random,
            now,
            next_lsn: 1,
            flushed_lsn: 0,
            marked_lsn: 0,
            tail: Tail::new(),
            segments: Segments::new(),
            ledgers: Ledgers::default(),
            arena,
            pages: Pages::new(),
            larges: Larges::new(),
            filling: None,
            next_number: 1,
            segment_octets: config.segment_octets_min,
            prepared: HashMap::new(),
            preparing: BTreeMap::new(),
            refused: BTreeSet::new(),
            refused_flush: None,
            is_flush_refused: false,
            next_unprepared: 0,
            recyclable: Vec::new(),
            retry_at: None,
            free_space_at: Deadline(now.monotonic_us),
            free_octets: None,
            disk_full: false,
            disk_low: false,
            alarm: false,
            settlements: Vec::new(),
            group: None,
            definitions: DefinitionsLog::new(),
            open_batch: 1,
            flushed_batch: 0,
            in_flight: None,
            sealed: VecDeque::new(),
            spill_seed: Seed(0),
            scratch: Vec::new(),
            batch_since: None,
            awaited: Cell::new(false),
            last_batch_octets: 0,
            idle_at: None,
            covered_lsn: 0,
            checkpoint_wanted: false,
            checkpointing: None,
            checkpoint_octets: 0,
            sealed_octets: 0,
            dead_segments: 0,
            unindexed: VecDeque::new(),
            candidates: VecDeque::new(),
            look_at: None,
            compacting: None,
            scrub: None,
            asked_aside: None,
            hurry: false,
            jobs: VecDeque::new(),
            events: VecDeque::new(),
            failed: None,
            counters: Counters::default(),
            config,
        };
        store.definitions.seed = Seed(store.next_random());
        store.spill_seed = Seed(store.next_random());
        store
    }

    /// The next number of the store's own sequence of random numbers (splitmix64).
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    // ---- what the broker does -------------------------------------------------------------

    /// Appends a durable message.
    ///
    /// * `to`: the durable queues that get it, each with the sequence it has there. The sequences of
    ///   a queue ascend from call to call; those left out were never logged.
    /// * `holders`: how many entries will name the record, at least one for each of `to`; entries
    ///   of other queues are later given back by [`Store::release`].
    #[inline]
    pub fn append(
        &mut self,
        now: Now,
        message: &Message<'_>,
        to: &[(QueueId, u64)],
        holders: u32,
    ) -> Stored {
        debug_assert!(!to.is_empty() && holders as usize >= to.len());
        let record_octets = codec::record_octets(codec::message_octets(message, to.len()));
        let (number, seed, offset) = self.make_room(now, record_octets);
        let large_crc = self.large_crc(message);
        let lsn = self.take_lsn();
        let more = self.group.is_some();
        let octets = &mut self.tail.current.octets;
        let start = codec::begin(octets);
        let kind = codec::encode_message(octets, now.wall_ms, message, to, large_crc);
        codec::finish(octets, start, lsn, kind, more, seed);
        for &(queue, sequence) in to {
            self.ledgers.entry(queue).append(sequence, number);
        }
        let at = MessageRef {
            segment: number,
            place: (offset / 8) as u32,
        };
        let share_octets = record_octets as u32 / holders;
        // What the entries will give back, after the rounding of their size class.
        let share = u64::from(Entry::new(at, 0, share_octets, 0).share_octets());
        let entries = u64::from(holders);
        if let Some(segment) = self.segments.hold(number, entries, share * entries) {
            segment.last_lsn = lsn;
            segment.used = offset + record_octets as u64;
            if holders as usize > to.len() {
                segment.unlogged.push((at.place, holders - to.len() as u32));
            }
        }
        if let Body::Large(body) = message.body {
            self.large_stored(body, at, holders, to);
        }
        self.counters.appended += 1;
        Stored { at, share_octets }
    }

    /// Keeps a transient message for `holders` entries, each given back by [`Store::release`].
    #[inline]
    pub fn keep(&mut self, now: Now, message: &Message<'_>, holders: u32) -> Stored {
        debug_assert!(holders > 0);
        let (at, record_octets, spill) = self.arena.keep(now.wall_ms, message, holders);
        if let Some(spill) = spill {
            self.spill(spill);
        }
        if let Body::Large(body) = message.body {
            self.large_stored(body, at, holders, &[]);
        }
        self.counters.kept += 1;
        Stored {
            at,
            share_octets: record_octets / holders,
        }
    }

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
        let mut released = Vec::new();
        for (segment, from, end) in ledger.slices_in(first, last) {
            let live = end - from + 1 - ledger.settled.count_in(from, end);
            if live > 0 {
                released.push((segment, live));
            }
        }
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

    /// What follows until [`Store::group_end`] is remembered whole or not at all: messages and
    /// settlements of a transaction, or of a dead-letter move.
    pub fn group_begin(&mut self) {
        debug_assert!(self.group.is_none(), "groups do not nest");
        self.write_settlements();
        self.group = Some(self.next_lsn);
    }

    /// See [`Store::group_begin`].
    pub fn group_end(&mut self) {
        if let Some(first_lsn) = self.group.take()
            && (self.next_lsn > first_lsn || !self.settlements.is_empty())
        {
            // The record that ends the group is a settlement, of nothing if need be.
            self.append_settlements();
        }
    }

    /// Allows `queue` to deliver up to and including `up_to`. Deliveries beyond wait until the batch
    /// of this call is flushed; after a crash everything up to here comes back `redelivered`.
    pub fn permit(&mut self, queue: QueueId, up_to: u64) {
        let ledger = self.ledgers.entry(queue);
        if ledger.permission >= up_to {
            return;
        }
        ledger.permission = up_to;
        self.append_record(RecordKind::Permission, |octets| {
            codec::encode_permission(octets, queue, up_to);
        });
    }

    /// Opens the account of a new durable queue.
    pub fn queue_created(&mut self, queue: QueueId) {
        self.ledgers.entry(queue);
    }

    /// A durable queue is gone: all its logged entries are given back. They must not be settled any
    /// more; [`Store::release`] ignores them. The definitions must say so too, or the queue comes
    /// back empty.
    pub fn queue_deleted(&mut self, queue: QueueId) {
        let Some(ledger) = self.ledgers.remove(queue) else {
            return;
        };
        let mut released = Vec::new();
        for (segment, from, end) in ledger.slices_in(0, u64::MAX) {
            let live = end - from + 1 - ledger.settled.count_in(from, end);
            if live > 0 {
                released.push((segment, live));
            }
        }
        if self.larges.any() {
            for &(segment, _) in &released {
                self.large_released_in(segment, queue, 0, u64::MAX);
            }
        }
        self.release_many(&released);
    }

    /// Remembers a group of definitions, whole or not at all: pairs of a key and its value, `None`
    /// to forget the key. On stable storage before any record of the same batch.
    pub fn define(&mut self, pairs: &[(&[u8], Option<&[u8]>)]) {
        self.definitions.append(pairs);
        self.note_batch();
    }

    // ---- paging out -----------------------------------------------------------------------

    /// Takes entries out of memory: at most [`super::PAGE_ENTRIES_MAX`].
    pub fn park(&mut self, entries: Vec<Entry>) -> PageId {
        let (page, job) = self.pages.park(entries);
        self.jobs.push_back(job);
        page
    }

    /// Gives the entries of a page back; the page is gone then. `None`: the keeper was asked,
    /// [`Event::PageLoaded`] follows, load again. Entries that are settled are left out.
    pub fn load(&mut self, page: PageId) -> Option<Vec<Entry>> {
        let (entries, job) = self.pages.load(page);
        self.jobs.extend(job);
        entries
    }

    /// Has pages brought that [`Store::load`] will be asked for next, in the order of `pages`, as far
    /// as few enough are on their way or there: a hint.
    pub fn load_soon(&mut self, pages: &[PageId]) {
        self.pages.load_soon(pages, &mut self.jobs);
    }

    /// Releases the entries of a page, of a queue whose entries are all transient or not logged
    /// (see [`Store::release`]); the page is gone.
    pub fn release_page(&mut self, page: PageId) {
        let (entries, job) = self.pages.release(page);
        self.jobs.extend(job);
        for entry in entries.into_iter().flatten() {
            self.release(entry);
        }
    }

    /// Forgets a page whose entries are settled, or given back with their queue.
    pub fn drop_page(&mut self, page: PageId) {
        self.pages.drop_page(page);
    }

    /// How many pages are parked.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    // ---- what it says of itself -----------------------------------------------------------

    /// The batch that what was appended last belongs to, for somebody who waits for it: it is not
    /// put off then. Flushed already if nothing is waiting.
    #[inline]
    pub fn batch(&self) -> Batch {
        let batch = self.newest_batch();
        if batch.0 == self.open_batch {
            self.awaited.set(true);
        }
        batch
    }

    /// As [`Store::batch`], without hurry.
    #[inline]
    pub(super) fn newest_batch(&self) -> Batch {
        if self.has_new() {
            Batch(self.open_batch)
        } else {
            Batch(self.open_batch - 1)
        }
    }

    /// Everything up to this batch is on stable storage.
    #[inline]
    pub fn flushed(&self) -> Batch {
        Batch(self.flushed_batch)
    }

    /// Whether publishers should pause: the tail is full, or the keeper is behind with what does
    /// not go to the log.
    #[inline]
    pub fn tail_full(&self) -> bool {
        self.tail.unflushed_octets() >= self.config.tail_octets_max
            || self.arena.is_behind()
            || self.pages.unwritten_pages() >= UNWRITTEN_PAGES_MAX
    }

    /// Free octets of the disk at the last look, every few seconds; `None` before, and where it
    /// cannot be told.
    pub fn free_octets(&self) -> Option<u64> {
        self.free_octets
    }

    /// Whether the disk alarm is on.
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// What was counted since the store was opened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Octets of memory in the tail and in full blocks of the arena.
    pub fn memory_octets(&self) -> usize {
        self.tail.unflushed_octets() + self.arena.sealed_octets()
    }

    /// Octets of all segments of the log.
    pub fn disk_octets(&self) -> u64 {
        self.segments.iter().map(|segment| segment.octets).sum()
    }

    /// What happened since the last call; `None` when all was told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether a helper is wanted for something that came up since the last [`Store::commit`]: it
    /// is to be called soon.
    pub fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether something is not written yet for which there was no room.
    pub(super) fn waits_for_space(&self) -> bool {
        !self.refused.is_empty()
            || self.is_flush_refused
            || self.arena.waits()
            || self.pages.unwritten_pages() > 0
            || self.larges.waits_for_space()
    }

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
                self.free_octets = result.ok();
                let low = |octets| octets < self.config.disk_free_octets_min;
                self.disk_low = self.free_octets.is_some_and(low);
                self.tell_alarm();
            }
        }
    }

    /// New space could not be had: publishers pause, and it is tried again.
    pub(super) fn no_room(&mut self) {
        self.disk_full = true;
        self.retry_at = Some(self.now.after_us(RETRY_US));
        self.tell_alarm();
    }

    pub(super) fn now_s(&self) -> u32 {
        // One ahead, so that zero is always in the past.
        (self.now.monotonic_us / 1_000_000) as u32 + 1
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

    pub(super) fn note_batch(&mut self) {
        if self.batch_since.is_none() {
            self.batch_since = Some(Deadline(self.now.monotonic_us));
        }
    }

    pub(super) fn spill(&mut self, spill: Spill<S>) {
        self.jobs.push_back(Job::Spill {
            block: spill.block,
            octets: spill.octets,
            slot: spill.slot,
            seed: self.spill_seed,
        });
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

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

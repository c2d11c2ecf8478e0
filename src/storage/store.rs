//! The store as the loop drives it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use hashbrown::HashMap;

use super::StorageError;
use super::arena::{Arena, Spill};
use super::background::{Checkpointing, Compacting};
use super::definitions::{DefinitionsLog, RewrittenDefinitions};
use super::files::Storage;
use super::jobs::{Answer, AnswerKind, FlushJob, Helpers, Job, KeeperJob, PreparedFile};
use super::large::Larges;
use super::ledger::Ledgers;
use super::pages::{Arrived, Pages};
use super::planted::{Fault, planted};
use super::record_codec::{self as codec, RecordKind, SEGMENT_START, Seed, SegmentHeader};
use super::scrub::Scrub;
use super::segment::{Segment, Segments, Stage, segment_name};
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

/// A batch is handed over at once when the one before was smaller than this; otherwise it waits for
/// [`BATCH_OCTETS`] or [`BATCH_US`], since larger batches halve what syncing costs.
const BUSY_BATCH_OCTETS: usize = 64 << 10;
/// See [`BUSY_BATCH_OCTETS`].
const BATCH_OCTETS: usize = 512 << 10;
/// See [`BUSY_BATCH_OCTETS`].
const BATCH_US: u64 = 500;
/// After so long without records the last flush is marked as stable and memory is given back.
const IDLE_US: u64 = 250_000;
/// How often what failed for lack of space is tried again.
pub(super) const RETRY_US: u64 = 1_000_000;
/// How often free space is looked at.
const FREE_SPACE_US: u64 = 5_000_000;
/// A segment that was full sooner than this is followed by a larger one.
const FULL_SOON_US: u64 = 2_000_000;
/// A segment that was full later than this is followed by a smaller one.
const FULL_LATE_US: u64 = 60_000_000;
/// Pages of entries that may wait for the keeper before publishers pause: 4 MiB.
const UNWRITTEN_PAGES_MAX: usize = 512;
/// Octets of the record of a mark.
const MARK_OCTETS: u64 = 32;
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
    preparing: BTreeMap<u32, u64>,
    /// Of these those for which there was no room when they were last asked for.
    refused: BTreeSet<u32>,
    /// A batch for whose definitions there was no room.
    refused_flush: Option<FlushJob<S>>,
    /// The batch that is in flight is such a one, be it with the flusher again.
    is_flush_refused: bool,
    /// No file was asked for from this number on.
    next_unprepared: u32,
    /// Names of dead segments that may be used again.
    pub(super) recyclable: Vec<String>,
    /// Preparing failed for lack of space; it is tried again at this moment.
    pub(super) retry_at: Option<Deadline>,
    free_space_at: Deadline,
    free_octets: Option<u64>,
    pub(super) disk_full: bool,
    pub(super) disk_low: bool,
    alarm: bool,

    /// This turn's settlements that are not yet a record.
    settlements: Vec<(QueueId, u64, u64)>,
    /// In a group: the first log sequence number that belongs to it.
    group: Option<u64>,

    pub(super) definitions: DefinitionsLog<S>,

    open_batch: u64,
    pub(super) flushed_batch: u64,
    in_flight: Option<InFlight>,
    /// Segments that are full and not yet all on disk, ascending.
    sealed: VecDeque<u32>,
    pub(super) spill_seed: Seed,
    scratch: Vec<u8>,
    /// When the first record of the open batch was appended.
    batch_since: Option<Deadline>,
    last_batch_octets: usize,
    idle_at: Option<Deadline>,

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

/// The segment that is being filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) number: u32,
    pub(super) seed: Seed,
    /// Where the next record goes.
    pub(super) used: u64,
    /// Octets that may be used.
    pub(super) octets: u64,
    since: Now,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    batch: u64,
    last_lsn: u64,
    octets: usize,
    definitions_lsn: u64,
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

    // ---- batches --------------------------------------------------------------------------

    /// The batch that what was appended last belongs to; flushed already if nothing is waiting.
    #[inline]
    pub fn batch(&self) -> Batch {
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
        let waiting = waiting.map(|since| Deadline(since.0 + BATCH_US));
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
        self.write_settlements();
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
            self.free_space_at = now.after_us(FREE_SPACE_US);
            self.jobs.push_back(Job::FreeSpace);
            self.jobs.extend(self.pages.give_back());
        }
        self.background(now);
        self.next_scrub(now);
        self.remove_large();
        let complete = self.files_are_ready()
            && self.larges.records_are_complete()
            && !self.definitions.is_rewriting();
        if self.in_flight.is_none() && self.batch_is_due(now) && complete {
            self.hand_over(helpers);
        }
        while let Some(job) = self.jobs.pop_front() {
            helpers.keep(KeeperJob(job));
        }
    }

    fn batch_is_due(&self, now: Now) -> bool {
        self.has_new()
            && (self.hurry
                || self.last_batch_octets < BUSY_BATCH_OCTETS
                || self.tail.unflushed_octets() >= BATCH_OCTETS
                || self
                    .batch_since
                    .is_none_or(|since| Deadline(since.0 + BATCH_US).is_due(now)))
    }

    fn has_new(&self) -> bool {
        self.tail.has_new() || !self.settlements.is_empty() || self.definitions.has_new()
    }

    /// Whether the file of each segment in the batch is there.
    fn files_are_ready(&self) -> bool {
        self.tail.waiting_segments().all(|number| {
            self.segments
                .get(number)
                .is_none_or(|segment| segment.file.is_some() && segment.octets >= segment.used)
        })
    }

    fn hand_over(&mut self, helpers: &mut impl Helpers<S>) {
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
                let file = self.segments.get(block.segment)?.file.as_ref()?;
                Some((Arc::clone(file), Arc::clone(block)))
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

    /// Nothing was appended for a while: says that the last batch is stable and gives memory back.
    fn become_idle(&mut self) {
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
    fn retry(&mut self) {
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

    // ---- answers --------------------------------------------------------------------------

    /// Has the definitions file written anew when most of it is outdated.
    fn rewrite_definitions(&mut self) {
        if self.definitions.wants_rewriting() && self.retry_at.is_none() {
            let seed = Seed(self.next_random());
            let job = self.definitions.begin_rewriting(seed);
            self.jobs.push_back(job);
        }
    }

    fn definitions_rewritten(
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

    /// Whether something is not written yet for which there was no room.
    fn waits_for_space(&self) -> bool {
        !self.refused.is_empty()
            || self.is_flush_refused
            || self.arena.waits()
            || self.pages.unwritten_pages() > 0
            || self.larges.waits_for_space()
    }

    fn take_answer(&mut self, answer: AnswerKind<S>) {
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
            AnswerKind::PageRead { page, result } => self.page_read(page, result),
            AnswerKind::Indexed { number, result } => self.segment_indexed(number, result),
            AnswerKind::Scrubbed { number, result } => self.scrubbed(number, result),
            AnswerKind::CheckpointWritten(result) => self.checkpoint_written(result),
            AnswerKind::Compacted { number, result } => self.compacted(number, result),
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

    fn batch_flushed(&mut self, batch: u64, result: Result<(), StorageError>) {
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
    fn after_flush(&mut self) {
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

    fn segment_prepared(&mut self, number: u32, result: io::Result<PreparedFile<S>>) {
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

    fn page_read(&mut self, page: u64, result: io::Result<Vec<Entry>>) {
        let part = self.pages.part_of(page);
        let result = match (part, result) {
            (Some(part), Ok(entries)) => Ok(self.revive(part.queue, entries)),
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
    fn revive(&mut self, queue: QueueId, mut entries: Vec<Entry>) -> Vec<Entry> {
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

    /// New space could not be had: publishers pause, and it is tried again.
    fn no_room(&mut self) {
        self.disk_full = true;
        self.retry_at = Some(self.now.after_us(RETRY_US));
        self.tell_alarm();
    }

    fn tell_alarm(&mut self) {
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

    // ---- inside ---------------------------------------------------------------------------

    pub(super) fn now_s(&self) -> u32 {
        // One ahead, so that zero is always in the past.
        (self.now.monotonic_us / 1_000_000) as u32 + 1
    }

    #[inline]
    fn take_lsn(&mut self) -> u64 {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        lsn
    }

    /// Finds room for a record: (segment, its seed, offset in it). Afterwards the record must be
    /// appended to the current block.
    #[inline]
    fn make_room(&mut self, now: Now, record_octets: usize) -> (u32, Seed, u64) {
        if let Some(filling) = &mut self.filling
            && filling.used + record_octets as u64 <= filling.octets
            && self.tail.fits(record_octets)
        {
            let offset = filling.used;
            filling.used += record_octets as u64;
            if self.batch_since.is_none() {
                self.batch_since = Some(Deadline(now.monotonic_us));
            }
            return (filling.number, filling.seed, offset);
        }
        self.now = now;
        self.make_room_slowly(record_octets);
        self.make_room(now, record_octets)
    }

    /// Starts a segment or a block.
    fn make_room_slowly(&mut self, record_octets: usize) {
        let octets = record_octets as u64;
        match self.filling {
            Some(filling) if filling.used + octets <= filling.octets => {
                self.tail
                    .turn_over(filling.number, filling.used, record_octets);
            }
            Some(filling) => {
                self.seal(filling);
                self.start_segment(octets);
            }
            None => self.start_segment(octets),
        }
    }

    fn seal(&mut self, filling: Filling) {
        self.filling = None;
        if let Some(segment) = self.segments.get_mut(filling.number) {
            segment.stage = Stage::Sealed;
            segment.used = filling.used;
        }
        self.sealed.push_back(filling.number);
        let took_us = self
            .now
            .monotonic_us
            .saturating_sub(filling.since.monotonic_us);
        let octets = self.segment_octets;
        if took_us < FULL_SOON_US {
            self.segment_octets = (octets * 4).min(self.config.segment_octets_max);
        } else if took_us > FULL_LATE_US {
            self.segment_octets = (octets / 2).max(self.config.segment_octets_min);
        }
    }

    fn start_segment(&mut self, record_octets: u64) {
        let number = self.next_number;
        self.next_number += 1;
        let needed = SEGMENT_START + record_octets;
        // The number is mixed in so that even a caller who repeats the random numbers of an earlier
        // run gives a recycled file another seed.
        let mixed = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let seed = Seed(self.next_random() ^ mixed);
        let mut segment = Segment::new(number, seed, 0, self.next_lsn);
        segment.used = SEGMENT_START;
        // What was asked for is what will be there.
        let mut octets = self.preparing.get(&number).copied().unwrap_or(0);
        if let Some(prepared) = self.prepared.remove(&number) {
            octets = prepared.octets;
            segment.octets = prepared.octets;
            segment.file = Some(prepared.file);
            segment.map = Some(prepared.map);
        }
        self.segments.insert(segment);
        if octets < needed {
            octets = needed.max(self.segment_octets);
            self.prepare(number, octets);
        }
        self.filling = Some(Filling {
            number,
            seed,
            used: SEGMENT_START,
            octets,
            since: self.now,
        });
        let room = (needed as usize).max(SEGMENT_START as usize);
        self.tail.turn_over(number, 0, room);
        SegmentHeader::new(number, seed, self.next_lsn).encode(&mut self.tail.current.octets);
        self.prepare_next();
    }

    /// Has the file of the next segment made ahead.
    pub(super) fn prepare_next(&mut self) {
        let number = self.next_number;
        if !self.prepared.contains_key(&number) && !self.preparing.contains_key(&number) {
            self.prepare(number, self.segment_octets);
        }
    }

    fn prepare(&mut self, number: u32, octets: u64) {
        let repeated = self.preparing.insert(number, octets);
        if repeated.is_some_and(|before| before >= octets) {
            return;
        }
        // A file that is there under this name, or will be, is made longer and never replaced.
        let fresh = number >= self.next_unprepared;
        self.next_unprepared = self.next_unprepared.max(number + 1);
        let recycle = if fresh { self.recyclable.pop() } else { None };
        self.jobs.push_back(Job::Prepare {
            number,
            octets,
            recycle,
        });
    }

    #[inline]
    fn note_settlement(&mut self, queue: QueueId, first: u64, last: u64) {
        self.settlements.push((queue, first, last));
        if self.settlements.len() >= SETTLEMENTS_MAX {
            self.append_settlements();
        }
    }

    fn write_settlements(&mut self) {
        if !self.settlements.is_empty() {
            self.append_settlements();
        }
    }

    /// Writes what was settled so far as one record.
    fn append_settlements(&mut self) {
        let mut settlements = std::mem::take(&mut self.settlements);
        merge(&mut settlements);
        self.append_record(RecordKind::Settlement, |octets| {
            codec::encode_settlements(octets, &settlements);
        });
        settlements.clear();
        self.settlements = settlements;
    }

    fn append_mark(&mut self) {
        let stable = self.flushed_lsn;
        self.marked_lsn = stable;
        self.append_record(RecordKind::Mark, |octets| {
            octets.extend_from_slice(&stable.to_be_bytes());
        });
    }

    /// Appends a record that is not a message.
    fn append_record(&mut self, kind: RecordKind, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        encode(&mut scratch);
        let record_octets = codec::record_octets(scratch.len());
        let now = self.now;
        let (number, seed, offset) = self.make_room(now, record_octets);
        let lsn = self.take_lsn();
        let more = self.group.is_some();
        let octets = &mut self.tail.current.octets;
        let start = codec::begin(octets);
        octets.extend_from_slice(&scratch);
        codec::finish(octets, start, lsn, kind, more, seed);
        if let Some(segment) = self.segments.get_mut(number) {
            segment.last_lsn = lsn;
            segment.used = offset + record_octets as u64;
        }
        self.scratch = scratch;
    }

    #[inline]
    fn release_logged(&mut self, number: u32, entries: u64, share: u64) {
        if let Some(segment) = self.segments.release(number, entries, share)
            && (segment.live_entries == 0 || segment.worth_a_look())
        {
            self.consider(number);
        }
    }

    /// Releases entries whose sizes are not known: (segment, entries).
    fn release_many(&mut self, released: &[(u32, u64)]) {
        for &(number, entries) in released {
            if let Some(segment) = self.segments.get_mut(number) {
                let share = segment.live_share / segment.live_entries.max(1) * entries;
                self.segments.release(number, entries, share);
                self.consider(number);
            }
        }
    }

    fn note_batch(&mut self) {
        if self.batch_since.is_none() {
            self.batch_since = Some(Deadline(self.now.monotonic_us));
        }
    }

    fn spill(&mut self, spill: Spill<S>) {
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

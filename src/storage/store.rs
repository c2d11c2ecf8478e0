//! The store as the loop drives it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::StorageError;
use super::arena::Arena;
use super::background::{Checkpointing, Compacting};
use super::batches::InFlight;
use super::config::StoreConfig;
use super::definitions::DefinitionsLog;
use super::event::Event;
use super::files::Storage;
use super::filling::Filling;
use super::jobs::{FlushJob, Job, PreparedFile};
use super::large::Larges;
use super::ledger::Ledgers;
use super::pages::Pages;
use super::record_codec::Seed;
use super::scrub::Scrub;
use super::segment::Segments;
use super::tail::Tail;
use crate::broker::Batch;
use crate::broker::record::QueueId;
use crate::clock::{Deadline, Now};
use crate::random::Random;

/// Pages of entries that may wait for the keeper before publishers pause: 4 MiB.
const UNWRITTEN_PAGES_MAX: usize = 512;

/// The message log, the transient arena, the definitions and the paged-out entries of one server.
///
/// How to drive it, once a turn: [`Store::answer`] for each answer of a helper, then any number of
/// calls that append, settle, read …, then [`Store::commit`]; drain [`Store::next_event`] after
/// answers and after the commit; call [`Store::commit`] again at [`Store::next_deadline`] at the
/// latest.
#[derive(Debug)]
pub struct Store<S: Storage> {
    pub(super) config: StoreConfig,
    pub(super) random: Random,
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
    pub(super) fn empty(config: StoreConfig, now: Now, seed: u64) -> Self {
        let arena = Arena::new(config.arena_octets_max, config.spill_file_octets);
        let mut store = Store {
            random: Random::new(seed),
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
        store.definitions.seed = Seed(store.random.draw());
        store.spill_seed = Seed(store.random.draw());
        store
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

    pub(super) fn note_batch(&mut self) {
        if self.batch_since.is_none() {
            self.batch_since = Some(Deadline(self.now.monotonic_us));
        }
    }
}

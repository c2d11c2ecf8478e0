//! What may block, as values: the loop hands jobs out, a helper runs them, the answer comes back.
//!
//! A job owns or shares all that it needs and knows no broker state, so it runs on a thread in
//! production and at any later step in the simulation.

mod answer;
mod flush;
mod page;
mod run;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use self::answer::Answer;
pub(super) use self::answer::{AnswerKind, PreparedFile};
pub(super) use self::flush::BlockWrite;
pub use self::flush::FlushJob;
pub(super) use self::page::entries_in;
use super::arena::{SpillFile, SpillSlot};
use super::compaction::Liveness;
use super::files::Storage;
use super::large::{Gone, LargeHandle, LargeWrite};
use super::pages::{IndexPart, PageOut};
use super::record_codec::Seed;
use super::scrub::Stretch;
use crate::message::Entry;

/// Takes jobs to where they run. Flush jobs run one after the other in the order given, so do
/// keeper jobs; the two kinds do not wait for each other.
pub trait Helpers<S: Storage> {
    /// Runs `job` and brings its answer to [`super::Store::answer`].
    fn flush(&mut self, job: FlushJob<S>);
    /// Runs `job` and brings its answer to [`super::Store::answer`].
    fn keep(&mut self, job: KeeperJob<S>);
}

/// One job for the keeper.
#[derive(Debug)]
pub struct KeeperJob<S: Storage>(pub(super) Job<S>);

/// What a range of octets belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Segment(u32),
    SpillBlock(u32),
}

/// A map that may have to be made first, of the file with this name.
#[derive(Debug)]
pub(super) enum MapSource<S: Storage> {
    Map(Arc<S::Map>),
    Name(String),
    Spill(Arc<SpillFile<S>>),
}

#[derive(Debug)]
pub(super) enum Job<S: Storage> {
    /// Makes the file of segment `number` at least `octets` long, from a dead one if there is one.
    Prepare {
        number: u32,
        octets: u64,
        recycle: Option<String>,
    },
    Populate {
        target: Target,
        source: MapSource<S>,
        range: Range<u64>,
    },
    Spill {
        block: u32,
        octets: Arc<Vec<u8>>,
        slot: SpillSlot<S>,
        seed: Seed,
    },
    WritePage {
        page: u64,
        slot: u32,
        entries: Arc<Vec<Entry>>,
        file: Arc<OnceLock<S::File>>,
    },
    ReadPages {
        pages: Vec<PageOut>,
        file: Arc<OnceLock<S::File>>,
    },
    /// Closes a file of pages that nobody needs.
    ClosePages {
        file: Arc<OnceLock<S::File>>,
    },
    /// Closes files of transient blocks that nobody needs.
    CloseSpills {
        files: Vec<Arc<SpillFile<S>>>,
    },
    /// Reads entries of a recovered queue from the index of their segment.
    ReadIndexPart {
        page: u64,
        part: IndexPart,
    },
    /// Writes the index of a segment that is full and on disk.
    Index {
        number: u32,
        used: u64,
    },
    /// Checks a stretch of a segment that no start has read.
    Scrub {
        number: u32,
        used: u64,
        at: Stretch,
    },
    /// Keeps aside what does not check from a record on that could not be read.
    KeepAside {
        number: u32,
        used: u64,
        at: Stretch,
    },
    Checkpoint {
        octets: Vec<u8>,
    },
    Compact {
        number: u32,
        used: u64,
        liveness: Liveness,
    },
    /// Removes files that nobody needs and drops the map of one.
    Remove {
        names: Vec<String>,
        map: Option<Arc<S::Map>>,
    },
    /// Removes the files of large bodies that nobody needs.
    RemoveBodies {
        bodies: Vec<Gone<S>>,
    },
    /// Writes the definitions anew under another seed.
    RewriteDefinitions {
        seed: Seed,
    },
    LargeWrite(LargeWrite<S>),
    LargeRead {
        handle: LargeHandle<S>,
        offset: u64,
        octets: u64,
    },
    FreeSpace,
}

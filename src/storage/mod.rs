//! The storage: records ↔ segments.
//!
//! [`Store`] is a state machine that the loop owns. It never blocks, reads no clock and touches no
//! file: what may block leaves it as jobs ([`Helpers`]) and comes back as [`Answer`]s. Files lie
//! behind the trait [`Storage`], so the same code runs over real files and over the faulty disk of
//! the simulation.
//!
//! ```text
//! append, settle … ─► tail ─► FlushJob ─► segment files ─► index, compaction, recycling
//! keep             ─► arena ─► spill files (unlinked)
//! define           ─► definitions (a file of its own, synced before records)
//! park             ─► page file (unlinked)
//! ```
//!
//! `docs/storage-format.md` draws what is on disk.

mod answers;
mod appending;
mod arena;
mod aside;
mod background;
mod batches;
mod checkpoint;
mod compaction;
mod config;
mod definitions;
mod entries;
mod event;
mod file_storage;
mod files;
mod filling;
mod helpers;
mod index;
mod jobs;
mod large;
mod ledger;
mod map;
mod memory;
mod pages;
mod paging;
mod ranges;
mod reading;
pub mod record_codec;
mod recovery;
mod scan;
mod scrub;
mod segment;
mod settling;
mod store;
mod survey;
mod tail;

pub use config::StoreConfig;
pub use event::Event;
pub use file_storage::FileStorage;
pub use files::{Map, Storage};
pub use helpers::HelperThreads;
pub use jobs::{Answer, FlushJob, Helpers, KeeperJob};
pub use large::{LargeHandle, LargeRead};
pub use map::FileMap;
pub use memory::{DiskFault, Hit, MemoryFile, MemoryMap, MemoryStorage};
pub use pages::PAGE_ENTRIES_MAX;
pub use ranges::RangeSet;
pub use reading::Read;
pub use record_codec::StoredMessage;
pub use recovery::{Account, RecoveredQueue, Recovery};
pub use store::{Counters, Store};

pub use survey::{Survey, survey};

use std::fmt;
use std::io;

/// What went wrong with a file, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageError {
    line: String,
    kind: io::ErrorKind,
}

impl StorageError {
    /// "`what` `name`: `error`".
    pub(crate) fn new(what: &str, name: &str, error: &io::Error) -> Self {
        StorageError {
            line: format!("{what} {name}: {error}"),
            kind: error.kind(),
        }
    }

    /// A refusal that no file operation stands behind.
    pub(crate) fn refused(line: String) -> Self {
        StorageError {
            line,
            kind: io::ErrorKind::Other,
        }
    }

    /// Kind of the error of the operating system; [`io::ErrorKind::Other`] when it is none.
    pub fn kind(&self) -> io::ErrorKind {
        self.kind
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for StorageError {}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

//! Opening a store: what the files say.

use super::StorageError;
use super::files::Storage;
use super::pages::PageId;
use super::store::{Store, StoreConfig};
use crate::broker::record::QueueId;
use crate::clock::Now;

/// What was found in the files when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The definitions that hold, as (key, value), in the order in which they were last written.
    pub definitions: Vec<(Vec<u8>, Vec<u8>)>,
    /// Every queue that the log knows, ascending. Those that the definitions do not know were
    /// deleted: say so by [`Store::queue_deleted`].
    pub queues: Vec<RecoveredQueue>,
    /// No queue with this id or a greater one was ever logged.
    pub queue_id_next: u32,
    /// What is worth a line in the log: damage, what was cut off the end.
    pub report: Vec<String>,
    /// Messages that were on stable storage and could not be read.
    pub lost_messages: u64,
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

/// A page of a recovered queue, see [`Store::load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedPage {
    /// The page.
    pub page: PageId,
    /// Messages in it.
    pub count: u32,
    /// No message in it has a smaller sequence.
    pub first_sequence: u64,
    /// No message in it has a greater sequence.
    pub last_sequence: u64,
}

impl<S: Storage> Store<S> {
    /// Opens the store in a directory. Reads files, so it blocks.
    ///
    /// * `seed`: for the store's own random numbers; unpredictable in production.
    ///
    /// # Errors
    /// One line that names the file: it cannot be read, or its format is newer than this program.
    pub fn open(
        storage: S,
        config: StoreConfig,
        now: Now,
        seed: u64,
    ) -> Result<(Self, Recovery), StorageError> {
        let names = storage
            .list()
            .map_err(|error| StorageError::new("cannot read", "the data directory", &error))?;
        if names.iter().any(|(name, _)| name.ends_with(".seg")) {
            let line = "the data directory holds segments, which this build does not replay";
            return Err(StorageError::refused(line.to_owned()));
        }
        let mut store = Store::empty(storage, config, now, seed);
        store.prepare_next();
        Ok((store, Recovery::default()))
    }
}

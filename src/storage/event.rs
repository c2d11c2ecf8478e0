//! What the store tells the engine of.

use super::StorageError;
use crate::broker::Batch;
use crate::broker::ready::PageId;

/// What happened, for the engine; see [`super::Store::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything up to this batch is on stable storage.
    Flushed(Batch),
    /// Octets of this segment ([`crate::message::MessageRef::segment`]) that were cold are not any more: whoever got
    /// [`super::Read::Cold`] from it may read again.
    Warm {
        /// The segment.
        segment: u32,
    },
    /// The page may be loaded now.
    PageLoaded(PageId),
    /// A large body can be read further, or takes more octets: whoever got
    /// [`super::LargeRead::Cold`] or `false` from [`super::Store::large_append`] may go on.
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

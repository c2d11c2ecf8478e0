//! What the broker asks the storage to remember besides messages: definitions.
//!
//! Definitions are pairs of a key and a value; the last write of a key wins and a key without a
//! value is gone. The storage keeps them without knowing what they mean, the broker encodes and
//! decodes them here. A group of pairs is remembered whole or not at all.

/// Names a durable queue in the log. Never reused, not even after the queue was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

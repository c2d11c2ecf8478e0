//! Messages that came back to their queue, by sequence.

use std::collections::BTreeMap;

use super::queue::Weight;
use crate::message::Entry;

/// The returned messages of one queue. One that never got any back takes a word.
#[derive(Debug, Default)]
pub struct Returned(Option<Box<Tree>>);

#[derive(Debug, Default)]
struct Tree {
    entries: BTreeMap<u64, Entry>,
    weight: Weight,
}

impl Returned {
    /// Octets of memory that one entry takes, about: its share of a node of the tree.
    pub const ENTRY_OCTETS: usize = 32;

    /// Messages in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |tree| tree.entries.len())
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The oldest message.
    #[inline]
    pub fn first(&self) -> Option<Entry> {
        let (_, &entry) = self.0.as_ref()?.entries.first_key_value()?;
        Some(entry)
    }

    /// The youngest message.
    pub fn last(&self) -> Option<Entry> {
        let (_, &entry) = self.0.as_ref()?.entries.last_key_value()?;
        Some(entry)
    }

    /// Removes the oldest message.
    #[inline]
    pub fn pop_first(&mut self) -> Option<Entry> {
        let tree = self.0.as_mut()?;
        let (_, entry) = tree.entries.pop_first()?;
        tree.weight.take(entry);
        Some(entry)
    }

    /// Puts a message to its place.
    pub fn insert(&mut self, entry: Entry) {
        let tree = self.0.get_or_insert_default();
        tree.weight.put(entry);
        tree.entries.insert(entry.sequence(), entry);
    }

    /// What the messages weigh together.
    pub fn weight(&self) -> Weight {
        self.0
            .as_ref()
            .map_or(Weight::default(), |tree| tree.weight)
    }

    /// All messages, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        let tree = self.0.iter();
        tree.flat_map(|tree| tree.entries.values().copied())
    }

    /// Takes everything, oldest first.
    pub fn take(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let tree = self.0.take().unwrap_or_default();
        tree.entries.into_values()
    }
}

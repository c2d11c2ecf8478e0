//! Entries of one queue in one segment, while the segment is read.

use super::pages::PAGE_ENTRIES_MAX;
use crate::message::Entry;

/// Entries in the order of their sequences, in pieces of a page each: a segment may hold a million,
/// and one list of them would be grown by copying it and leave its room behind in the allocator.
///
/// Invariant: every piece but the last has [`PAGE_ENTRIES_MAX`] entries, and none is empty.
#[derive(Debug, Default)]
pub(super) struct EntryList {
    pieces: Vec<Vec<Entry>>,
}

impl EntryList {
    #[inline]
    pub(super) fn push(&mut self, entry: Entry) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PAGE_ENTRIES_MAX => piece.push(entry),
            _ => self.pieces.push(vec![entry]),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        let full = self.pieces.len().saturating_sub(1) * PAGE_ENTRIES_MAX;
        full + self.pieces.last().map_or(0, Vec::len)
    }

    pub(super) fn first(&self) -> Option<Entry> {
        self.pieces.first()?.first().copied()
    }

    pub(super) fn last(&self) -> Option<Entry> {
        self.pieces.last()?.last().copied()
    }

    pub(super) fn pieces(&self) -> &[Vec<Entry>] {
        &self.pieces
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.pieces.iter().flatten().copied()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.pieces.iter_mut().flatten()
    }

    /// Keeps the entries that `wanted` says yes to.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Entry) -> bool) {
        let pieces = std::mem::take(&mut self.pieces);
        self.extend(pieces.into_iter().flatten().filter(wanted));
    }

    /// Sorts by sequence what is not in order; records of one queue are, unless somebody made them.
    pub(super) fn sort(&mut self) {
        if !self
            .iter()
            .is_sorted_by_key(super::super::message::Entry::sequence)
        {
            let mut all: Vec<Entry> = self.iter().collect();
            all.sort_by_key(|entry| entry.sequence());
            *self = all.into_iter().collect();
        }
    }
}

impl Extend<Entry> for EntryList {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        for entry in entries {
            self.push(entry);
        }
    }
}

impl FromIterator<Entry> for EntryList {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut list = EntryList::default();
        list.extend(entries);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;

    fn entry(sequence: u64) -> Entry {
        let at = MessageRef {
            segment: 1,
            place: sequence as u32,
        };
        Entry::new(at, sequence, 100, Entry::LOGGED)
    }

    #[test]
    fn a_list_in_pieces_is_a_list() {
        for length in [0, 1, 511, 512, 513, 1024, 1500] {
            let mut list: EntryList = (0..length).map(entry).collect();
            let sequences = |list: &EntryList| {
                list.iter()
                    .map(crate::message::Entry::sequence)
                    .collect::<Vec<_>>()
            };
            assert_eq!(sequences(&list), (0..length).collect::<Vec<_>>());
            assert_eq!((list.len() as u64, list.is_empty()), (length, length == 0));
            assert_eq!(
                list.last().map(crate::message::Entry::sequence),
                length.checked_sub(1)
            );
            list.retain(|entry| entry.sequence() % 3 == 1);
            let thirds: Vec<_> = (0..length).filter(|n| n % 3 == 1).collect();
            assert_eq!(sequences(&list), thirds);
            assert_eq!(
                list.first().map(crate::message::Entry::sequence),
                thirds.first().copied()
            );
            let full = list.pieces().iter().rev().skip(1);
            assert!(
                full.into_iter()
                    .all(|piece| piece.len() == PAGE_ENTRIES_MAX)
            );
            let mut backwards: EntryList = (0..length).rev().map(entry).collect();
            backwards.sort();
            assert_eq!(sequences(&backwards), (0..length).collect::<Vec<_>>());
        }
    }
}

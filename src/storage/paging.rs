//! Entries that leave memory and come back, as the router asks for them; see [`super::pages`].

use std::io;

use super::StorageError;
use super::event::Event;
use super::files::Storage;
use super::pages::{Arrived, IndexPart};
use super::segment::segment_name;
use super::store::Store;
use crate::broker::ready::PageId;
use crate::broker::record::QueueId;
use crate::message::Entry;

impl<S: Storage> Store<S> {
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

    pub(super) fn page_read(&mut self, page: u64, result: io::Result<Vec<Entry>>) {
        let part = self.pages.part_of(page);
        let result = match (part, result) {
            (Some(part), Ok(entries)) => {
                let entries = self.revive(part.queue, entries);
                self.settle_missing(part, &entries);
                Ok(entries)
            }
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
    pub(super) fn revive(&mut self, queue: QueueId, mut entries: Vec<Entry>) -> Vec<Entry> {
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

    /// Settles what should be among the live `entries` of a part of an index and is not: an index
    /// that is made anew leaves out what does not check, and nobody else would ever let go of it.
    fn settle_missing(&mut self, part: IndexPart, entries: &[Entry]) {
        let IndexPart {
            queue, first, last, ..
        } = part;
        let Some(ledger) = self.ledgers.get_mut(queue) else {
            return;
        };
        let live = last + 1 - first - ledger.settled.count_in(first, last);
        let missing = live.saturating_sub(entries.len() as u64);
        if missing == 0 {
            return;
        }
        self.counters.lost += missing;
        let name = segment_name(part.segment);
        let line = format!("{name}: {missing} messages of a queue are lost: they are damaged");
        self.events.push_back(Event::Damage(line));
        let mut next = first;
        let ends = entries.iter().map(|entry| entry.sequence());
        for sequence in ends.chain([last + 1]) {
            if sequence > next {
                self.settle_range(queue, next, sequence - 1);
            }
            next = sequence + 1;
        }
    }
}

//! Paging out: entries of long queues, in pages of an unlinked file.
//!
//! A page is parked, loaded and gone: loading gives the entries back to the queue. Pages of
//! recovered queues are not in the file, they name a part of a segment's index.
//!
//! Pages that a queue says it wants soon are read ahead of it, several in one job.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;

use super::files::Storage;
use super::index::Run;
use super::jobs::Job;
use crate::broker::ready::PageId;
use crate::broker::record::QueueId;
use crate::message::Entry;

/// Most entries of one page.
pub const PAGE_ENTRIES_MAX: usize = 512;

/// Pages that are on their way or there and not taken yet, of all queues, from which on nothing is
/// read ahead: 2 MiB.
const AHEAD_MAX: usize = 256;

/// Where a page lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageOut {
    pub(super) page: u64,
    pub(super) slot: u32,
    pub(super) count: u32,
    pub(super) crc: u32,
}

/// Entries of `queue` in `segment` with these sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexPart {
    pub(super) queue: QueueId,
    pub(super) segment: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Where the records of the segment ended then.
    pub(super) used: u64,
    /// Where the entries lie, unless the segment was rewritten since.
    pub(super) run: Run,
}

#[derive(Debug)]
enum State {
    /// In memory; `unwritten` when the file had no room for it.
    Memory {
        entries: Arc<Vec<Entry>>,
        slot: u32,
        unwritten: bool,
    },
    Out {
        slot: u32,
        crc: u32,
        count: u32,
    },
    Indexed(IndexPart),
    Reading {
        slot: Option<u32>,
        part: Option<IndexPart>,
        /// What to do when the entries are there.
        then: Then,
    },
    Loaded(Vec<Entry>),
}

/// What becomes of a page when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Keep,
    Release,
    Drop,
}

/// What the arrival of a page asks for.
#[derive(Debug)]
pub(super) enum Arrived {
    /// The queue may load it now.
    Loaded,
    /// Its entries are to be released.
    Release(Vec<Entry>),
    /// Nobody wants it any more.
    Nothing,
}

/// All parked pages.
#[derive(Debug)]
pub(super) struct Pages<S: Storage> {
    parked: HashMap<u64, State>,
    next: u64,
    free_slots: Vec<u32>,
    slots: u32,
    file: Arc<OnceLock<S::File>>,
    unwritten: Vec<u64>,
    /// Pages in memory that are on their way to the file.
    writing: usize,
    /// Pages that are being read or are loaded.
    coming: usize,
}

impl<S: Storage> Pages<S> {
    pub(super) fn new() -> Self {
        Pages {
            parked: HashMap::new(),
            next: 0,
            free_slots: Vec::new(),
            slots: 0,
            file: Arc::new(OnceLock::new()),
            unwritten: Vec::new(),
            writing: 0,
            coming: 0,
        }
    }

    fn insert(&mut self, state: State) -> PageId {
        let page = self.next;
        self.next += 1;
        self.parked.insert(page, state);
        PageId(page)
    }

    /// Takes entries in; the job that writes them.
    pub(super) fn park(&mut self, entries: Vec<Entry>) -> (PageId, Job<S>) {
        debug_assert!(entries.len() <= PAGE_ENTRIES_MAX);
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        let entries = Arc::new(entries);
        let page = self.insert(State::Memory {
            entries: Arc::clone(&entries),
            slot,
            unwritten: false,
        });
        self.writing += 1;
        let job = Job::WritePage {
            page: page.0,
            slot,
            entries,
            file: Arc::clone(&self.file),
        };
        (page, job)
    }

    /// Takes in a page that lies in the index of a segment.
    pub(super) fn park_indexed(&mut self, part: IndexPart) -> PageId {
        self.insert(State::Indexed(part))
    }

    /// The file took the page, or had no room.
    pub(super) fn written(&mut self, page: u64, crc: u32, written: bool) {
        self.writing -= 1;
        if let Some(state) = self.parked.get_mut(&page)
            && let State::Memory {
                entries,
                slot,
                unwritten,
            } = state
        {
            if written {
                *state = State::Out {
                    slot: *slot,
                    crc,
                    count: entries.len() as u32,
                };
            } else if !*unwritten {
                *unwritten = true;
                self.unwritten.push(page);
            }
        }
    }

    /// A page that could not be written, to be tried again.
    pub(super) fn retry_write(&mut self) -> Option<Job<S>> {
        while let Some(page) = self.unwritten.pop() {
            if let Some(State::Memory {
                entries,
                slot,
                unwritten,
            }) = self.parked.get_mut(&page)
            {
                *unwritten = false;
                self.writing += 1;
                return Some(Job::WritePage {
                    page,
                    slot: *slot,
                    entries: Arc::clone(entries),
                    file: Arc::clone(&self.file),
                });
            }
        }
        None
    }

    /// Gives the entries back if they are in memory; the page is gone then. Otherwise perhaps a job
    /// that brings them.
    pub(super) fn load(&mut self, page: PageId) -> (Option<Vec<Entry>>, Option<Job<S>>) {
        self.take(page, Then::Keep)
    }

    /// Gives the entries back if they are in memory, to be released. Otherwise perhaps a job.
    pub(super) fn release(&mut self, page: PageId) -> (Option<Vec<Entry>>, Option<Job<S>>) {
        self.take(page, Then::Release)
    }

    fn take(&mut self, page: PageId, wish: Then) -> (Option<Vec<Entry>>, Option<Job<S>>) {
        match self.parked.remove(&page.0) {
            Some(State::Memory { entries, slot, .. }) => {
                self.free_slots.push(slot);
                let entries = Arc::try_unwrap(entries).unwrap_or_else(|entries| (*entries).clone());
                (Some(entries), None)
            }
            Some(State::Loaded(entries)) => {
                self.coming -= 1;
                (Some(entries), None)
            }
            Some(State::Out { slot, crc, count }) => {
                self.await_page(page, Some(slot), None, wish);
                let page = page.0;
                let pages = vec![PageOut {
                    page,
                    slot,
                    count,
                    crc,
                }];
                (None, Some(self.read_job(pages)))
            }
            Some(State::Indexed(part)) => {
                self.await_page(page, None, Some(part), wish);
                (None, Some(Job::ReadIndexPart { page: page.0, part }))
            }
            Some(State::Reading { slot, part, .. }) => {
                let state = State::Reading {
                    slot,
                    part,
                    then: wish,
                };
                self.parked.insert(page.0, state);
                (None, None)
            }
            None => (Some(Vec::new()), None),
        }
    }

    /// Notes that a page is being read.
    fn await_page(&mut self, page: PageId, slot: Option<u32>, part: Option<IndexPart>, then: Then) {
        self.coming += 1;
        self.parked
            .insert(page.0, State::Reading { slot, part, then });
    }

    fn read_job(&self, pages: Vec<PageOut>) -> Job<S> {
        Job::ReadPages {
            pages,
            file: Arc::clone(&self.file),
        }
    }

    /// Asks for pages of one queue that will be loaded next, in this order, unless most of them are
    /// on their way already: then it is asked again when more of them are wanted in one go.
    pub(super) fn load_soon(&mut self, pages: &[PageId], jobs: &mut VecDeque<Job<S>>) {
        let is_at_rest = |page: &PageId| {
            let state = self.parked.get(&page.0);
            matches!(state, Some(State::Out { .. } | State::Indexed(_)))
        };
        let at_rest = pages.iter().filter(|page| is_at_rest(page)).count();
        if at_rest * 2 < pages.len().max(1) || self.coming + at_rest > AHEAD_MAX {
            return;
        }
        let mut out = Vec::new();
        for &page in pages {
            match self.parked.get(&page.0) {
                Some(&State::Out { slot, crc, count }) => {
                    self.await_page(page, Some(slot), None, Then::Keep);
                    out.push(PageOut {
                        page: page.0,
                        slot,
                        count,
                        crc,
                    });
                }
                Some(&State::Indexed(part)) => {
                    self.await_page(page, None, Some(part), Then::Keep);
                    jobs.push_back(Job::ReadIndexPart { page: page.0, part });
                }
                _ => {}
            }
        }
        if !out.is_empty() {
            jobs.push_back(self.read_job(out));
        }
    }

    /// Forgets a page.
    pub(super) fn drop_page(&mut self, page: PageId) {
        match self.parked.remove(&page.0) {
            Some(State::Memory { slot, .. } | State::Out { slot, .. }) => {
                self.free_slots.push(slot);
            }
            Some(State::Reading { slot, part, .. }) => {
                let state = State::Reading {
                    slot,
                    part,
                    then: Then::Drop,
                };
                self.parked.insert(page.0, state);
            }
            Some(State::Loaded(_)) => self.coming -= 1,
            Some(State::Indexed(_)) | None => {}
        }
    }

    /// The part of an index that page `page` stands for, while it is being read.
    pub(super) fn part_of(&self, page: u64) -> Option<IndexPart> {
        match self.parked.get(&page)? {
            State::Reading { part, .. } => *part,
            _ => None,
        }
    }

    /// The keeper has read a page.
    pub(super) fn arrived(&mut self, page: u64, entries: Vec<Entry>) -> Arrived {
        let Some(State::Reading { slot, then, .. }) = self.parked.remove(&page) else {
            return Arrived::Nothing;
        };
        self.free_slots.extend(slot);
        if then == Then::Keep {
            self.parked.insert(page, State::Loaded(entries));
            return Arrived::Loaded;
        }
        self.coming -= 1;
        if then == Then::Release {
            Arrived::Release(entries)
        } else {
            Arrived::Nothing
        }
    }

    /// How many pages are in memory since the file has not yet taken them.
    pub(super) fn unwritten_pages(&self) -> usize {
        self.writing
    }

    /// Forgets, when no page is parked, what many of them left behind; their file, to be closed by
    /// the keeper, since that frees its space on the disk.
    pub(super) fn give_back(&mut self) -> Option<Job<S>> {
        if self.slots == 0 || !self.parked.is_empty() || self.writing > 0 {
            return None;
        }
        let next = self.next;
        let before = std::mem::replace(self, Pages::new());
        self.next = next;
        Some(Job::ClosePages { file: before.file })
    }

    /// How many pages are parked.
    pub(super) fn len(&self) -> usize {
        self.parked.len()
    }
}

//! The ready messages of a queue, oldest first.
//!
//! ```text
//!   pop ← [ front ] ← [ page | page | page ] ← [ back ] ← push
//!           memory      parked with the storage    memory
//! ```
//!
//! A short queue lives in `front` alone. What outgrows it is collected in `back` and, a page at a
//! time, parked with the storage, so that a backlog's memory does not grow with its length.
//! Invariant: sequences rise strictly from front to back.

use std::collections::VecDeque;

use super::queue::Weight;
use crate::message::Entry;

/// Names a page of entries that the storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u64);

/// A page of entries that lies with the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedPage {
    /// What the storage calls it.
    pub page: PageId,
    /// Entries in it.
    pub count: u32,
    /// Sequence of its first entry.
    pub first_sequence: u64,
    /// What its entries weigh; nothing where that is not known.
    pub weight: Weight,
}

/// What is at the head of the ready messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing is ready.
    Empty,
    /// The oldest entry.
    Entry(Entry),
    /// The oldest entries lie in this page; hand them in by [`Ready::arrive`].
    Parked(PageId),
}

/// Ready messages of one queue. See the module.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Ready {
    length: u64,
    front: VecDeque<Entry>,
    /// What a short queue has no need of.
    rest: Option<Box<Rest>>,
    weight: Weight,
}

/// What lies behind the front.
#[derive(Debug, Default)]
struct Rest {
    middle: VecDeque<ParkedPage>,
    back: Vec<Entry>,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.middle.is_empty() && self.back.is_empty()
    }
}

impl Ready {
    /// Entries that `front` takes before `back` begins: one page and a bit.
    const FRONT_MAX: usize = 1024;

    /// Takes over what recovery found.
    pub fn restored(pages: VecDeque<ParkedPage>) -> Self {
        let length = pages.iter().map(|page| u64::from(page.count)).sum();
        let mut weight = Weight::default();
        for page in &pages {
            weight.octets += page.weight.octets;
            weight.logged += page.weight.logged;
        }
        Ready {
            front: VecDeque::new(),
            rest: (!pages.is_empty()).then(|| {
                Box::new(Rest {
                    middle: pages,
                    back: Vec::new(),
                })
            }),
            length,
            weight,
        }
    }

    /// Messages that are ready, parked ones included.
    #[inline]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing is ready.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What the messages weigh together.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Entries that lie in memory.
    pub fn in_memory(&self) -> usize {
        self.front.len() + self.rest.as_ref().map_or(0, |rest| rest.back.len())
    }

    /// Appends the youngest message.
    #[inline]
    pub fn push(&mut self, entry: Entry) {
        self.length += 1;
        self.weight.put(entry);
        match &mut self.rest {
            Some(rest) => rest.back.push(entry),
            None if self.front.len() < Self::FRONT_MAX => self.front.push_back(entry),
            None => self.rest.get_or_insert_default().back.push(entry),
        }
    }

    /// The oldest message, or the page in which it lies.
    #[inline]
    pub fn head(&mut self) -> Head {
        if let Some(&entry) = self.front.front() {
            return Head::Entry(entry);
        }
        if let Some(page) = self.rest.as_ref().and_then(|rest| rest.middle.front()) {
            return Head::Parked(page.page);
        }
        let back = self.rest.take().map(|rest| rest.back).unwrap_or_default();
        if back.is_empty() {
            // A queue that ran empty gives the memory of its peak back.
            if self.front.capacity() > Self::FRONT_MAX / 8 {
                self.front = VecDeque::new();
            }
            return Head::Empty;
        }
        self.front = VecDeque::from(back);
        Head::Entry(self.front[0])
    }

    /// Sequence of the oldest message.
    pub fn first_sequence(&self) -> Option<u64> {
        if let Some(entry) = self.front.front() {
            return Some(entry.sequence());
        }
        let rest = self.rest.as_ref()?;
        let in_page = rest.middle.front().map(|page| page.first_sequence);
        in_page.or_else(|| rest.back.first().map(|entry| entry.sequence()))
    }

    /// Removes the entry that [`Ready::head`] gave.
    #[inline]
    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.front.pop_front()?;
        self.length -= 1;
        self.weight.take(entry);
        Some(entry)
    }

    /// The pages at the head, as many as there is room for in `into`; those that are there.
    pub fn next_pages<'a>(&self, into: &'a mut [PageId]) -> &'a [PageId] {
        let middle = self.rest.iter().flat_map(|rest| &rest.middle);
        let mut count = 0;
        for (page, parked) in into.iter_mut().zip(middle) {
            *page = parked.page;
            count += 1;
        }
        &into[..count]
    }

    /// Hands in the entries of the page at the head. A page may come back shorter than it was
    /// parked, where damage took some; the length follows.
    pub fn arrive(&mut self, page: PageId, entries: Vec<Entry>) {
        let Some(rest) = &mut self.rest else { return };
        if rest.middle.front().is_none_or(|front| front.page != page) {
            return;
        }
        debug_assert!(
            self.front.is_empty(),
            "a page is asked for when the front has run out"
        );
        if let Some(parked) = rest.middle.pop_front() {
            self.length = self.length + entries.len() as u64 - u64::from(parked.count);
            let arrived = Weight::of(&entries);
            self.weight.octets = self.weight.octets + arrived.octets - parked.weight.octets;
            self.weight.logged = self.weight.logged + arrived.logged - parked.weight.logged;
        }
        if rest.is_empty() {
            self.rest = None;
        }
        self.front = VecDeque::from(entries);
    }

    /// Takes up to `count` of the entries that wait to be parked, when there are that many.
    pub fn take_page(&mut self, count: usize) -> Option<Vec<Entry>> {
        let back = &mut self.rest.as_mut()?.back;
        if back.len() < count * 2 {
            return None;
        }
        let rest = back.split_off(count);
        Some(std::mem::replace(back, rest))
    }

    /// Notes that the entries of [`Ready::take_page`] now lie with the storage.
    pub fn parked(&mut self, page: ParkedPage) {
        self.rest.get_or_insert_default().middle.push_back(page);
    }

    /// Holds the length against a recount and the order against the sequences.
    ///
    /// # Errors
    /// What does not agree, in words.
    pub fn audit(&self) -> Result<(), String> {
        let empty = Rest::default();
        let rest = self.rest.as_deref().unwrap_or(&empty);
        let parked: u64 = rest.middle.iter().map(|page| u64::from(page.count)).sum();
        let counted = self.in_memory() as u64 + parked;
        if counted != self.length {
            return Err(format!("{} ready by count, {counted} there", self.length));
        }
        let sequences = (self.front.iter().map(|entry| entry.sequence()))
            .chain(rest.middle.iter().map(|page| page.first_sequence))
            .chain(rest.back.iter().map(|entry| entry.sequence()));
        if sequences.is_sorted_by(|a, b| a < b) {
            Ok(())
        } else {
            Err("sequences do not rise".to_owned())
        }
    }

    /// Takes everything: the entries in memory in order around the parked pages.
    pub fn take(&mut self) -> (VecDeque<Entry>, VecDeque<ParkedPage>, Vec<Entry>) {
        (self.length, self.weight) = (0, Weight::default());
        let rest = self.rest.take().unwrap_or_default();
        (std::mem::take(&mut self.front), rest.middle, rest.back)
    }
}

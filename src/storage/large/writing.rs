//! Bodies as they come: to the keeper in pieces, each piece again while there is no room for it.

use std::collections::VecDeque;
use std::io;

use hashbrown::HashMap;

use super::Large;
use super::file::{CHUNK_OCTETS, LargeHandle, body_name};
use crate::message::LargeBody;
use crate::storage::StorageError;
use crate::storage::event::Event;
use crate::storage::files::{Storage, is_shortage};
use crate::storage::jobs::Job;
use crate::storage::store::Store;

/// Octets that are handed to the keeper at a time.
const WRITE_OCTETS: usize = 4 * CHUNK_OCTETS;
/// The publisher pauses when so many octets of a body wait for the keeper.
const BEHIND_OCTETS: usize = 2 << 20;
/// A durable body is synced every so many octets, so that the last sync is short.
const SYNC_EVERY_OCTETS: u64 = 8 << 20;

/// A write that found no room.
#[derive(Debug)]
pub(in crate::storage) struct LargeWrite<S: Storage> {
    pub(in crate::storage) handle: LargeHandle<S>,
    pub(in crate::storage) offset: u64,
    pub(in crate::storage) octets: Vec<u8>,
    pub(in crate::storage) sync: bool,
    /// There was no room for it before.
    pub(in crate::storage) is_retried: bool,
}

impl<S: Storage> Large<S> {
    /// Hands what waits to the keeper, whole chunks only unless it is the end.
    fn hand_over(&mut self, jobs: &mut VecDeque<Job<S>>) {
        let end = self.received == self.handle.body().octets;
        let whole = self.waiting.len() - self.waiting.len() % CHUNK_OCTETS;
        let rest = self
            .waiting
            .split_off(if end { self.waiting.len() } else { whole });
        let mut octets = std::mem::replace(&mut self.waiting, rest);
        for chunk in octets.chunks(CHUNK_OCTETS) {
            let crc = crc32fast::hash(chunk);
            self.table.extend_from_slice(&crc.to_be_bytes());
        }
        let offset = self.handed_over;
        self.handed_over += octets.len() as u64;
        self.unsynced += octets.len() as u64;
        if end {
            octets.extend_from_slice(&self.table);
        }
        self.outstanding += octets.len();
        let sync = self.handle.is_named() && (end || self.unsynced >= SYNC_EVERY_OCTETS);
        if sync {
            self.unsynced = 0;
        }
        jobs.push_back(Job::LargeWrite(LargeWrite {
            handle: self.handle.clone(),
            offset,
            octets,
            sync,
            is_retried: false,
        }));
    }
}

impl<S: Storage> Store<S> {
    /// Begins a body of `octets` octets: many, as a rule, but any number will do.
    ///
    /// * `durable`: the message may be [appended](Store::append) to the log; otherwise it can only
    ///   be [kept](Store::keep).
    pub fn large_begin(&mut self, octets: u64, durable: bool) -> LargeBody {
        let body = LargeBody {
            file: self.larges.next,
            octets,
        };
        self.larges.next += 1;
        let large = Large::new(LargeHandle::new(body, durable));
        self.larges.bodies.insert(body.file, large);
        body
    }

    /// Takes the next octets of a body that was begun; never more than its length in all. `false`:
    /// the disk is behind, the publisher should pause until [`Event::LargeReady`].
    pub fn large_append(&mut self, body: LargeBody, octets: &[u8]) -> bool {
        let Some(large) = self.larges.bodies.get_mut(&body.file) else {
            return true;
        };
        debug_assert!(large.received + octets.len() as u64 <= body.octets);
        large.received += octets.len() as u64;
        large.waiting.extend_from_slice(octets);
        if large.waiting.len() >= WRITE_OCTETS || large.received == body.octets {
            large.hand_over(&mut self.jobs);
        }
        large.behind = large.outstanding >= BEHIND_OCTETS;
        !large.behind
    }

    /// Forgets a body whose message will not come, or that no queue got.
    pub fn large_abandon(&mut self, body: LargeBody) {
        let unused = |large: &Large<S>| large.record.is_none();
        if self.larges.bodies.get(&body.file).is_some_and(unused) {
            self.forget_large(body.file);
        }
    }

    /// The keeper has written a part of a body, or could not.
    pub(in crate::storage) fn large_written(
        &mut self,
        write: LargeWrite<S>,
        result: io::Result<()>,
    ) {
        let file = write.handle.body().file;
        self.larges.retried -= u32::from(write.is_retried);
        match result {
            Ok(()) => {}
            Err(error) if is_shortage(&error) => {
                self.larges.retry.push(write);
                self.space_result(&Err(error));
                return;
            }
            Err(error) => {
                // Not even a transient body may be served with a hole in it.
                self.fail(StorageError::new("cannot write", &body_name(file), &error));
                return;
            }
        }
        let Some(large) = self.larges.bodies.get_mut(&file) else {
            if let Some(octets) = self.larges.unfinished.get_mut(&file) {
                *octets = octets.saturating_sub(write.octets.len());
                if *octets == 0 {
                    self.larges.unfinished.remove(&file);
                    self.events.push_back(Event::LargeReady { file });
                }
            }
            return;
        };
        large.outstanding -= write.octets.len();
        // An earlier part for which there was no room may come after the last.
        if large.outstanding == 0 && large.handed_over == write.handle.body().octets {
            large.complete = true;
            if large.record.is_some_and(|at| !at.is_transient()) {
                self.larges.incomplete_records -= 1;
            }
            self.events.push_back(Event::LargeReady { file });
        } else if large.behind && large.outstanding < BEHIND_OCTETS / 2 {
            large.behind = false;
            self.events.push_back(Event::LargeReady { file });
        }
    }

    /// Drops writes of forgotten bodies that nobody reads any more.
    fn drop_unread_retries(&mut self) {
        let larges = &mut self.larges;
        let mut holders: HashMap<u64, usize> = HashMap::new();
        for write in &larges.retry {
            *holders.entry(write.handle.body().file).or_default() += 1;
        }
        let (bodies, unfinished) = (&larges.bodies, &mut larges.unfinished);
        larges.retry.retain(|write| {
            let file = write.handle.body().file;
            // Counted before any is dropped: the first that goes takes the others along.
            let is_read = write.handle.holders() > holders[&file];
            if !is_read && !bodies.contains_key(&file) {
                unfinished.remove(&file);
                holders.insert(file, usize::MAX);
                return false;
            }
            true
        });
    }

    /// Tries writes again that found no room.
    pub(in crate::storage) fn retry_large(&mut self) {
        self.drop_unread_retries();
        for mut write in self.larges.retry.drain(..) {
            write.is_retried = true;
            // The part that was to sync all may be on the disk before this one.
            write.sync |= write.handle.is_named();
            self.larges.retried += 1;
            self.jobs.push_back(Job::LargeWrite(write));
        }
    }
}

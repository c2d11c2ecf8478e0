//! A store over the disk in memory, with helpers that run when they are told to.

use std::collections::VecDeque;

use super::*;
use crate::message::Message;

/// Helpers that run jobs when they are told to.
#[derive(Debug)]
pub(in crate::storage) struct LaterHelpers<S: Storage> {
    pub(in crate::storage) flush: VecDeque<FlushJob<S>>,
    pub(in crate::storage) keep: VecDeque<KeeperJob<S>>,
}

impl<S: Storage> Helpers<S> for LaterHelpers<S> {
    fn flush(&mut self, job: FlushJob<S>) {
        self.flush.push_back(job);
    }
    fn keep(&mut self, job: KeeperJob<S>) {
        self.keep.push_back(job);
    }
}

/// A store with helpers and a clock.
#[derive(Debug)]
pub(in crate::storage) struct Bench {
    pub(in crate::storage) disk: MemoryStorage,
    pub(in crate::storage) store: Store<MemoryStorage>,
    pub(in crate::storage) helpers: LaterHelpers<MemoryStorage>,
    pub(in crate::storage) now: Now,
    pub(in crate::storage) events: Vec<Event>,
    pub(in crate::storage) recovery: Recovery,
}

pub(in crate::storage) fn small_config() -> StoreConfig {
    StoreConfig {
        segment_octets_min: 8 << 10,
        segment_octets_max: 64 << 10,
        segment_slack: 0,
        tail_octets_max: 1 << 20,
        arena_octets_max: 512 << 10,
        spill_file_octets: 1 << 20,
        look_ms: 0,
        ..StoreConfig::default()
    }
}

pub(in crate::storage) fn body_message(body: &[u8]) -> Message<'_> {
    Message {
        names: b"\x00\x01q",
        properties: &[0x10, 0, 2],
        body: Body::Octets(body),
    }
}

/// Names of all files, ascending.
pub(in crate::storage) fn names(disk: &MemoryStorage) -> Vec<String> {
    let names = disk.list().expect("lists");
    names.into_iter().map(|(name, _)| name).collect()
}

impl Bench {
    pub(in crate::storage) fn open(disk: MemoryStorage) -> Self {
        Self::open_seeded(disk, small_config(), 7).expect("opens")
    }

    pub(in crate::storage) fn open_seeded(
        disk: MemoryStorage,
        config: StoreConfig,
        seed: u64,
    ) -> Result<Self, StorageError> {
        let now = Now {
            monotonic_us: 1_000_000,
            wall_ms: 1_700_000_000_000,
        };
        let (store, recovery) = Store::open(disk.clone(), config, now, seed)?;
        Ok(Bench {
            disk,
            store,
            helpers: LaterHelpers {
                flush: VecDeque::new(),
                keep: VecDeque::new(),
            },
            now,
            events: Vec::new(),
            recovery,
        })
    }

    pub(in crate::storage) fn commit(&mut self) {
        self.store.commit(self.now, &mut self.helpers);
        while let Some(event) = self.store.next_event() {
            self.events.push(event);
        }
    }

    /// Runs one keeper job; whether there was one.
    pub(in crate::storage) fn keep_one(&mut self) -> bool {
        let Some(job) = self.helpers.keep.pop_front() else {
            return false;
        };
        let answer = job.run(&self.disk);
        self.store.answer(self.now, answer);
        true
    }

    /// Runs one flush job; whether there was one.
    pub(in crate::storage) fn flush_one(&mut self) -> bool {
        let Some(job) = self.helpers.flush.pop_front() else {
            return false;
        };
        let answer = job.run(&self.disk);
        self.store.answer(self.now, answer);
        true
    }

    /// Runs everything until nothing is left to do, but not the clock.
    pub(in crate::storage) fn settle_down(&mut self) {
        for _ in 0..10_000 {
            self.now.monotonic_us += 501;
            self.commit();
            let kept = self.keep_one();
            if !self.flush_one() && !kept && self.store.flushed() >= self.store.batch() {
                self.commit();
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.store.counters());
    }

    pub(in crate::storage) fn append(&mut self, queue: u32, sequence: u64, body: &[u8]) -> Entry {
        let to = [(QueueId(queue), sequence)];
        let stored = self.store.append(self.now, &body_message(body), &to, 1);
        Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED)
    }

    /// The body of the message of `entry`, read again when it was cold.
    pub(in crate::storage) fn body(&mut self, entry: Entry) -> Option<Vec<u8>> {
        let mut scratch = Vec::new();
        for _ in 0..4 {
            match self.store.read(entry, &mut scratch) {
                Read::Here(stored) => match stored.message.body {
                    Body::Octets(octets) => return Some(octets.to_vec()),
                    Body::Large(_) => panic!("not large"),
                },
                Read::Lost => return None,
                Read::Cold => self.settle_down(),
            }
        }
        panic!("stays cold");
    }
}

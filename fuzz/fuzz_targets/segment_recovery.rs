//! A data directory is damaged in any way that the input says, and opened: no panic, no message with
//! octets that it never had, and what is written afterwards is found by the next start.
//!
//! The input is a list of six octets each: a file, what to do with it, an offset (two octets), a
//! value (two octets).
#![no_main]

use std::collections::VecDeque;
use std::sync::OnceLock;

use leveret::broker::record::QueueId;
use leveret::clock::Now;
use leveret::message::{Body, Entry, Message};
use leveret::storage::{
    FlushJob, Helpers, KeeperJob, MemoryStorage, Read, Storage, Store, StoreConfig, survey,
};
use libfuzzer_sys::fuzz_target;

const MESSAGES: u64 = 200;

fuzz_target!(|input: &[u8]| {
    static DIRECTORY: OnceLock<MemoryStorage> = OnceLock::new();
    let disk = DIRECTORY.get_or_init(directory).killed();
    damage(&disk, input);
    let _ = survey(&disk, &mut Vec::new());
    let Some(mut bench) = Bench::open(disk, 12) else {
        return;
    };
    bench.read_all();
    let next = bench.next_sequence;
    bench.append(next);
    bench.rest();
    let after = bench.disk.killed();
    let mut again = Bench::open(after, 13).expect("a directory that opened once opens again");
    let found = again.read_all();
    assert!(found.contains(&next), "what was confirmed is there");
});

fn damage(disk: &MemoryStorage, input: &[u8]) {
    let mut names: Vec<String> = disk.list().expect("lists").into_iter().map(|f| f.0).collect();
    names.sort();
    for step in input.chunks_exact(6).take(32) {
        let name = &names[usize::from(step[0]) % names.len()];
        let Some(mut octets) = disk.contents(name) else {
            continue;
        };
        let offset = usize::from(u16::from_be_bytes([step[2], step[3]]));
        let value = u16::from_be_bytes([step[4], step[5]]);
        match step[1] % 7 {
            0 => {
                disk.flip(name, offset % octets.len().max(1), step[4]);
                continue;
            }
            1 => octets.truncate(offset),
            2 => {
                let end = (offset + usize::from(value)).min(octets.len());
                octets[offset.min(end)..end].fill(step[1]);
            }
            3 => {
                let from = usize::from(value).min(octets.len());
                let to = offset.min(octets.len());
                let length = (octets.len() - from.max(to)).min(512);
                octets.copy_within(from..from + length, to);
            }
            4 => {
                let _ = disk.remove(name);
                continue;
            }
            5 => {
                let other = &names[usize::from(step[4]) % names.len()];
                octets = disk.contents(other).unwrap_or_default();
            }
            _ => {
                for (at, octet) in value.to_be_bytes().into_iter().enumerate() {
                    if let Some(there) = octets.get_mut(offset + at) {
                        *there = octet;
                    }
                }
            }
        }
        disk.put(name, &octets);
    }
}

/// A directory with some segments, with and without index, rewritten and not.
fn directory() -> MemoryStorage {
    let mut bench = Bench::open(MemoryStorage::new(), 11).expect("an empty directory");
    bench.store.define(&[(b"queue/1", Some(b"x")), (b"queue/2", Some(b"y"))]);
    for sequence in 1..=MESSAGES {
        let entry = bench.append(sequence);
        if sequence % 4 != 0 && sequence < MESSAGES / 2 {
            bench.store.settle(QueueId(1), entry);
        }
        if sequence % 10 == 0 {
            bench.store.permit(QueueId(1), sequence);
            bench.rest();
        }
        if sequence == MESSAGES / 2 {
            bench.store.checkpoint();
        }
    }
    bench.rest();
    bench.disk.killed()
}

fn body_of(sequence: u64) -> [u8; 40] {
    let mut body = [0; 40];
    for (at, octet) in body.iter_mut().enumerate() {
        *octet = sequence.to_be_bytes()[at % 8];
    }
    body
}

struct Later {
    flush: VecDeque<FlushJob<MemoryStorage>>,
    keep: VecDeque<KeeperJob<MemoryStorage>>,
}

impl Helpers<MemoryStorage> for Later {
    fn flush(&mut self, job: FlushJob<MemoryStorage>) {
        self.flush.push_back(job);
    }
    fn keep(&mut self, job: KeeperJob<MemoryStorage>) {
        self.keep.push_back(job);
    }
}

struct Bench {
    disk: MemoryStorage,
    store: Store<MemoryStorage>,
    helpers: Later,
    now: Now,
    pages: Vec<leveret::broker::ready::ParkedPage>,
    next_sequence: u64,
}

impl Bench {
    /// * `seed`: another one each time; by its seed a segment is told from an older of its number.
    fn open(disk: MemoryStorage, seed: u64) -> Option<Self> {
        let config = StoreConfig {
            segment_octets_min: 8 << 10,
            segment_octets_max: 8 << 10,
            segment_slack: 0,
            ..StoreConfig::default()
        };
        let now = Now {
            monotonic_us: 1_000_000,
            wall_ms: 1,
        };
        let (store, recovery) = Store::open(disk.clone(), config, now, seed).ok()?;
        let queue = recovery.queues.iter().find(|queue| queue.id == QueueId(1));
        Some(Bench {
            disk,
            store,
            helpers: Later {
                flush: VecDeque::new(),
                keep: VecDeque::new(),
            },
            now,
            pages: queue.map(|queue| queue.pages.clone()).unwrap_or_default(),
            next_sequence: queue.map_or(1, |queue| queue.next_sequence),
        })
    }

    fn append(&mut self, sequence: u64) -> Entry {
        let body = body_of(sequence);
        let message = Message {
            names: b"\x00\x01q",
            properties: &[0, 0],
            body: Body::Octets(&body),
        };
        let to = [(QueueId(1), sequence)];
        let stored = self.store.append(self.now, &message, &to, 1);
        Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED)
    }

    /// Runs what there is to run until all is flushed.
    fn rest(&mut self) {
        for _ in 0..1000 {
            self.now.monotonic_us += 501;
            self.store.commit(self.now, &mut self.helpers);
            while self.store.next_event().is_some() {}
            if let Some(job) = self.helpers.keep.pop_front() {
                self.store.answer(self.now, job.run(&self.disk));
            } else if let Some(job) = self.helpers.flush.pop_front() {
                self.store.answer(self.now, job.run(&self.disk));
            } else if self.store.flushed() >= self.store.batch() {
                return;
            }
        }
        panic!("does not come to rest");
    }

    /// Sequences whose messages can be read; each has the octets it was given.
    fn read_all(&mut self) -> Vec<u64> {
        let mut found = Vec::new();
        for page in std::mem::take(&mut self.pages) {
            let mut entries = None;
            for _ in 0..4 {
                entries = self.store.load(page.page);
                if entries.is_some() {
                    break;
                }
                self.rest();
            }
            for entry in entries.expect("a page arrives") {
                let mut scratch = Vec::new();
                for _ in 0..4 {
                    match self.store.read(entry, &mut scratch) {
                        Read::Here(stored) => {
                            let expected = body_of(entry.sequence());
                            assert_eq!(stored.message.body, Body::Octets(&expected));
                            found.push(entry.sequence());
                            break;
                        }
                        Read::Cold => self.rest(),
                        Read::Lost => break,
                    }
                }
            }
        }
        found
    }
}

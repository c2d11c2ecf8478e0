//! The store as a whole, over the disk in memory.

use std::collections::VecDeque;

use super::*;
use crate::broker::record::QueueId;
use crate::clock::Now;
use crate::message::{Body, Entry, Message, MessageRef};

/// Helpers that run jobs when they are told to.
#[derive(Debug)]
pub(super) struct LaterHelpers<S: Storage> {
    flush: VecDeque<FlushJob<S>>,
    keep: VecDeque<KeeperJob<S>>,
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
pub(super) struct Bench {
    pub(super) disk: MemoryStorage,
    pub(super) store: Store<MemoryStorage>,
    pub(super) helpers: LaterHelpers<MemoryStorage>,
    pub(super) now: Now,
    pub(super) events: Vec<Event>,
    pub(super) recovery: Recovery,
}

pub(super) fn small_config() -> StoreConfig {
    StoreConfig {
        segment_octets_min: 8 << 10,
        segment_octets_max: 64 << 10,
        tail_octets_max: 1 << 20,
        arena_octets_max: 512 << 10,
        spill_file_octets: 1 << 20,
        ..StoreConfig::default()
    }
}

pub(super) fn body_message(body: &[u8]) -> Message<'_> {
    Message {
        names: b"\x00\x01q",
        properties: &[0x10, 0, 2],
        body: Body::Octets(body),
    }
}

impl Bench {
    pub(super) fn open(disk: MemoryStorage) -> Self {
        Self::open_seeded(disk, small_config(), 7).expect("opens")
    }

    pub(super) fn open_seeded(
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

    pub(super) fn commit(&mut self) {
        self.store.commit(self.now, &mut self.helpers);
        while let Some(event) = self.store.next_event() {
            self.events.push(event);
        }
    }

    /// Runs one keeper job; whether there was one.
    pub(super) fn keep_one(&mut self) -> bool {
        let Some(job) = self.helpers.keep.pop_front() else {
            return false;
        };
        let answer = job.run(&self.disk);
        self.store.answer(self.now, answer);
        true
    }

    /// Runs one flush job; whether there was one.
    pub(super) fn flush_one(&mut self) -> bool {
        let Some(job) = self.helpers.flush.pop_front() else {
            return false;
        };
        let answer = job.run(&self.disk);
        self.store.answer(self.now, answer);
        true
    }

    /// Runs everything until nothing is left to do, but not the clock.
    pub(super) fn settle_down(&mut self) {
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

    pub(super) fn append(&mut self, queue: u32, sequence: u64, body: &[u8]) -> Entry {
        let to = [(QueueId(queue), sequence)];
        let stored = self.store.append(self.now, &body_message(body), &to, 1);
        Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED)
    }

    /// The body at `at`, read again when it was cold.
    pub(super) fn body(&mut self, at: MessageRef) -> Option<Vec<u8>> {
        let mut scratch = Vec::new();
        for _ in 0..4 {
            match self.store.read(at, &mut scratch) {
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

#[test]
fn a_message_is_readable_at_every_stage_of_its_way_to_the_disk() {
    let mut bench = Bench::open(MemoryStorage::new());
    let entry = bench.append(1, 1, b"hello");
    assert_eq!(bench.body(entry.at).as_deref(), Some(&b"hello"[..]));
    let batch = bench.store.batch();
    assert!(bench.store.flushed() < batch);
    bench.settle_down();
    assert!(bench.store.flushed() >= batch);
    assert!(bench.events.contains(&Event::Flushed(batch)));
    assert_eq!(bench.body(entry.at).as_deref(), Some(&b"hello"[..]));
    // After a pause the tail gives its memory back, and the map is cold.
    for _ in 0..4 {
        bench.now.monotonic_us += 60_000_000;
        bench.settle_down();
    }
    let mut scratch = Vec::new();
    assert_eq!(bench.store.read(entry.at, &mut scratch), Read::Cold);
    bench.settle_down();
    assert!(bench.events.contains(&Event::Warm {
        segment: entry.at.segment
    }));
    assert_eq!(bench.body(entry.at).as_deref(), Some(&b"hello"[..]));
}

#[test]
fn segments_are_filled_and_sealed_in_order_and_all_stays_readable() {
    let mut bench = Bench::open(MemoryStorage::new());
    let mut entries = Vec::new();
    for sequence in 1..=2000_u64 {
        let body = vec![sequence as u8; (sequence % 97) as usize];
        entries.push((bench.append(1, sequence, &body), body));
        if sequence % 7 == 0 {
            bench.commit();
            bench.flush_one();
            bench.keep_one();
        }
    }
    bench.settle_down();
    assert!(entries.last().expect("some").0.at.segment > 3);
    for (entry, body) in entries {
        assert_eq!(bench.body(entry.at), Some(body));
    }
}

#[test]
fn transient_messages_spill_and_come_back() {
    let mut bench = Bench::open(MemoryStorage::new());
    let mut entries = Vec::new();
    for sequence in 0..3000_u64 {
        let body = sequence.to_be_bytes().repeat(128);
        let stored = bench.store.keep(bench.now, &body_message(&body), 1);
        entries.push((
            Entry::new(stored.at, sequence, stored.share_octets, 0),
            body,
        ));
    }
    bench.settle_down();
    assert!(
        bench.store.memory_octets() < 1 << 20,
        "{}",
        bench.store.memory_octets()
    );
    bench.now.monotonic_us += 60_000_000;
    bench.commit();
    for (entry, body) in &entries {
        assert_eq!(bench.body(entry.at).as_deref(), Some(&body[..]));
    }
    assert!(bench.store.counters().cold_reads > 0);
    for (entry, _) in entries {
        bench.store.release(entry);
    }
    assert_eq!(bench.store.memory_octets(), 0);
}

#[test]
fn a_failed_write_is_final() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    bench.append(1, 1, b"x");
    let batch = bench.store.batch();
    bench.commit();
    bench.disk.fail(2, DiskFault::Eio);
    while bench.flush_one() {}
    bench.commit();
    assert!(matches!(bench.events.last(), Some(Event::Fatal(_))));
    bench.append(1, 2, b"y");
    for _ in 0..3 {
        bench.now.monotonic_us += 1_000_000;
        bench.commit();
        assert!(!bench.flush_one());
    }
    assert!(bench.store.flushed() < batch);
}

#[test]
fn pages_come_back_as_they_were_parked() {
    let mut bench = Bench::open(MemoryStorage::new());
    let at = MessageRef {
        segment: 1,
        place: 2,
    };
    let entries: Vec<_> = (0..512).map(|s| Entry::new(at, s, 1, 0)).collect();
    let early = bench.store.park(entries.clone());
    assert_eq!(bench.store.load(early), Some(entries.clone()));
    let late = bench.store.park(entries.clone());
    bench.settle_down();
    assert_eq!(bench.store.load(late), None);
    bench.settle_down();
    assert!(bench.events.contains(&Event::PageLoaded(late)));
    assert_eq!(bench.store.load(late), Some(entries));
    assert_eq!(bench.store.pages(), 0);
}

#[test]
fn a_full_disk_raises_the_alarm_and_recovers() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.disk.set_free_octets(Some(100_000_000));
    bench.settle_down();
    bench.append(1, 1, &[0; 5000]);
    bench.settle_down();
    bench.disk.set_free_octets(Some(0));
    bench.append(1, 2, &[0; 5000]);
    let batch = bench.store.batch();
    bench.settle_down();
    assert!(bench.store.alarm());
    bench.append(1, 3, &[0; 5000]);
    let blocked = bench.store.batch();
    for _ in 0..20 {
        bench.now.monotonic_us += 400_000;
        bench.commit();
        while bench.keep_one() || bench.flush_one() {}
    }
    assert!(bench.store.flushed() >= batch);
    assert!(bench.store.flushed() < blocked);
    bench.disk.set_free_octets(Some(200_000_000));
    for _ in 0..20 {
        bench.now.monotonic_us += 400_000;
        bench.commit();
        while bench.keep_one() || bench.flush_one() {}
    }
    assert!(bench.store.flushed() >= blocked && !bench.store.alarm());
    bench.commit();
    assert!(bench.events.contains(&Event::DiskAlarm(true)));
    assert!(bench.events.contains(&Event::DiskAlarm(false)));
}

#[test]
fn threads_run_the_jobs_of_a_real_directory() {
    let path = std::env::temp_dir().join(format!("leveret-store-{}", std::process::id()));
    let files = FileStorage::open(&path).expect("opens");
    let refused = FileStorage::open(&path).expect_err("locked");
    let pid = std::process::id().to_string();
    assert!(refused.to_string().contains(&pid), "{refused}");
    let now = Now::default();
    let (mut store, _) = Store::open(files.clone(), small_config(), now, 5).expect("opens");
    let mut helpers = HelperThreads::start(&files, || {}).expect("threads");
    let to = [(QueueId(1), 1)];
    let stored = store.append(now, &body_message(b"on disk"), &to, 1);
    let batch = store.batch();
    for _ in 0..1000 {
        store.commit(now, &mut helpers);
        if let Some(answer) = helpers.wait_answer(std::time::Duration::from_millis(10)) {
            store.answer(now, answer);
        }
        if store.flushed() >= batch {
            break;
        }
    }
    assert!(store.flushed() >= batch);
    let name = path.join(format!("{:010}.seg", stored.at.segment));
    let octets = std::fs::read(&name).expect("written");
    assert!(octets.windows(7).any(|octets| octets == b"on disk"));
    drop(helpers);
    std::fs::remove_dir_all(&path).expect("removed");
}

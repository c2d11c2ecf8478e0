//! The store as a whole, over the disk in memory.

use std::collections::VecDeque;

use super::*;
use crate::broker::record::QueueId;
use crate::clock::Now;
use crate::message::{Body, Entry, LargeBody, Message, MessageRef};

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
        segment_slack: 0,
        tail_octets_max: 1 << 20,
        arena_octets_max: 512 << 10,
        spill_file_octets: 1 << 20,
        look_ms: 0,
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
    assert_eq!(bench.store.load(late), Some(entries.clone()));
    assert_eq!(bench.store.pages(), 0);
    // The file of the pages goes when it is empty, and comes back when it is needed.
    bench.now.monotonic_us += 60_000_000;
    bench.settle_down();
    let again = bench.store.park(entries.clone());
    assert!(again > late);
    bench.settle_down();
    assert_eq!(bench.store.load(again), None);
    bench.settle_down();
    assert_eq!(bench.store.load(again), Some(entries));
}

#[test]
fn pages_that_are_wanted_soon_come_together_and_not_without_a_bound() {
    let mut bench = Bench::open(MemoryStorage::new());
    let at = MessageRef {
        segment: 1,
        place: 2,
    };
    let entries = |first: u64| -> Vec<Entry> {
        (first..first + 4)
            .map(|s| Entry::new(at, s, 1, 0))
            .collect()
    };
    let pages: Vec<_> = (0..400).map(|n| bench.store.park(entries(4 * n))).collect();
    bench.settle_down();
    bench.store.load_soon(&pages[..4]);
    bench.commit();
    assert_eq!(bench.helpers.keep.len(), 1, "one job for all of them");
    bench.store.load_soon(&pages[1..5]);
    bench.commit();
    assert_eq!(bench.helpers.keep.len(), 1, "most are on their way");
    bench.settle_down();
    bench.store.drop_page(pages[0]);
    for (page, n) in pages[1..4].iter().zip(1..) {
        assert_eq!(bench.store.load(*page), Some(entries(4 * n)));
    }
    // What nobody takes is not read without end, and what is wanted now comes all the same.
    for four in pages[4..].chunks(4) {
        bench.store.load_soon(four);
    }
    bench.settle_down();
    let there = pages[4..]
        .iter()
        .filter(|page| bench.store.load(**page).is_some());
    assert_eq!(there.count(), 256);
    bench.settle_down();
    let rest = pages[4..].iter().filter_map(|page| bench.store.load(*page));
    let rest = rest.filter(|entries| !entries.is_empty());
    assert_eq!(rest.count(), 396 - 256);
    assert_eq!(bench.store.pages(), 0);
    bench.store.load_soon(&pages[..4]);
    bench.commit();
    assert!(
        bench.helpers.keep.is_empty(),
        "pages that are gone are no pages"
    );
}

#[test]
fn the_largest_files_of_a_drained_backlog_are_kept_for_reuse() {
    let mut bench = Bench::open(MemoryStorage::new());
    let entries: Vec<_> = (1..=400)
        .map(|sequence| {
            let entry = bench.append(1, sequence, &[7; 1024]);
            bench.settle_down();
            entry
        })
        .collect();
    let octets = |bench: &Bench| -> Vec<u64> {
        let kept = bench.store.recyclable.iter();
        kept.map(|(octets, _)| *octets).collect()
    };
    assert!(octets(&bench).is_empty());
    for entry in entries {
        bench.store.settle(QueueId(1), entry);
    }
    bench.settle_down();
    assert!(bench.store.counters().retired > 3);
    assert_eq!(octets(&bench), [64 << 10, 64 << 10]);
}

/// Definitions are appended to a file that has to grow: that there is no room is no reason to end.
#[test]
fn definitions_wait_for_room_on_a_full_disk() {
    for free in [0, 100, 1024, 1100] {
        let mut bench = Bench::open(MemoryStorage::new());
        bench.append(1, 1, b"before");
        bench.settle_down();
        bench.events.clear();
        bench.disk.set_free_octets(Some(free));
        bench.store.define(&[(b"key", Some(&[7; 200][..]))]);
        bench.append(1, 2, b"after");
        let batch = bench.store.batch();
        for _ in 0..4 {
            bench.now.monotonic_us += 600_000;
            bench.commit();
            while bench.flush_one() || bench.keep_one() {}
        }
        bench.commit();
        assert!(bench.events.contains(&Event::DiskAlarm(true)), "{free}");
        assert!(
            bench.store.flushed() < batch,
            "{free}: nothing was promised"
        );
        bench.disk.set_free_octets(None);
        bench.now.monotonic_us += 6_000_000;
        bench.settle_down();
        assert_eq!(bench.events.last(), Some(&Event::DiskAlarm(false)));
        let fatal = |event: &Event| matches!(event, Event::Fatal(_));
        assert!(!bench.events.iter().any(fatal), "{:?}", bench.events);
        let again = Bench::open(bench.disk.killed());
        let value = (b"key".to_vec(), vec![7; 200]);
        assert_eq!(again.recovery.definitions, [value]);
        assert_eq!(again.recovery.queues[0].messages, 2);
    }
}

/// A crash left the last record whole and a part of its padding out: what came next was written at
/// no multiple of eight, confirmed, and never found again.
#[test]
fn definitions_go_on_behind_a_last_record_without_its_padding() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.store.define(&[(b"first", Some(b"1"))]);
    bench.settle_down();
    let whole = bench.disk.contents("definitions").expect("there");
    let padding = whole.iter().rev().take_while(|&&octet| octet == 0).count();
    assert!(padding > 0, "a record that ends in padding");
    for cut in 1..=padding {
        let disk = bench.disk.killed();
        disk.put("definitions", &whole[..whole.len() - cut]);
        let mut again = Bench::open(disk);
        again.store.define(&[(b"second", Some(b"2"))]);
        again.settle_down();
        let found = Bench::open(again.disk.crash(1)).recovery.definitions;
        assert_eq!(found.len(), 2, "{cut} octets of padding are missing");
    }
}

/// A queue that is gone is gone when its definition says so on the disk: until then its messages
/// stay, since a crash brings it back.
#[test]
fn a_checkpoint_waits_for_the_definition_that_a_queue_is_gone() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.store.define(&[(b"q1", Some(b"1"))]);
    for sequence in 1..100 {
        bench.append(1, sequence, &[1; 300]);
        bench.settle_down();
    }
    bench.store.queue_deleted(QueueId(1));
    bench.store.define(&[(b"q1", None)]);
    bench.store.checkpoint();
    // The keeper runs, the flusher does not.
    for _ in 0..200 {
        bench.now.monotonic_us += 501;
        bench.commit();
        bench.keep_one();
    }
    let again = Bench::open(bench.disk.crash(1));
    assert_eq!(again.recovery.definitions.len(), 1);
    assert_eq!(again.recovery.queues[0].messages, 99);
    bench.settle_down();
    let again = Bench::open(bench.disk.crash(1));
    assert!(again.recovery.definitions.is_empty());
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

/// A body in its own file, as [`Bench`] hands it in: `body_octets` octets of a pattern.
fn large(bench: &mut Bench, octets: u64, durable: bool) -> (LargeBody, Vec<u8>) {
    let whole: Vec<u8> = (0..octets).map(|index| (index * 7 % 251) as u8).collect();
    let body = bench.store.large_begin(octets, durable);
    for part in whole.chunks(100_000) {
        if !bench.store.large_append(body, part) {
            bench.settle_down();
        }
    }
    (body, whole)
}

fn read_large(bench: &mut Bench, body: LargeBody) -> Option<Vec<u8>> {
    let handle = bench.store.large_handle(body)?;
    let mut read = Vec::new();
    while (read.len() as u64) < body.octets {
        let stretch = 130_000.min(body.octets - read.len() as u64);
        match bench
            .store
            .read_large(&handle, read.len() as u64, stretch, &mut read)
        {
            LargeRead::Here => {}
            LargeRead::Cold => bench.settle_down(),
            LargeRead::Lost => return None,
        }
    }
    Some(read)
}

fn large_message(body: LargeBody) -> Message<'static> {
    Message {
        names: b"\x00\x01q",
        properties: &[0x10, 0, 2],
        body: Body::Large(body),
    }
}

#[test]
fn a_large_body_is_on_disk_before_its_batch_and_goes_with_its_last_entry() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, whole) = large(&mut bench, 3_000_001, true);
    let to = [(QueueId(1), 1), (QueueId(2), 1)];
    let stored = bench.store.append(bench.now, &large_message(body), &to, 2);
    let batch = bench.store.batch();
    // Not a single octet of the batch is handed out before the body is synced.
    bench.commit();
    assert!(!bench.flush_one());
    bench.settle_down();
    assert!(bench.store.flushed() >= batch);
    assert_eq!(read_large(&mut bench, body), Some(whole.clone()));
    for seed in 0..10 {
        let mut after = Bench::open(bench.disk.crash(seed));
        after.settle_down();
        assert_eq!(after.recovery.queues.len(), 2);
        assert_eq!(read_large(&mut after, body), Some(whole.clone()));
        assert_ne!(after.store.large_begin(1, true).file, body.file);
    }
    let entry = |sequence| Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED);
    let name = format!("{:016x}.body", body.file);
    bench.store.settle(QueueId(1), entry(1));
    bench.settle_down();
    assert!(bench.disk.contents(&name).is_some());
    let handle = bench.store.large_handle(body).expect("still there");
    bench.store.settle_range(QueueId(2), 1, 1);
    // Until the settlement is flushed the message could come back.
    bench.commit();
    assert!(bench.disk.contents(&name).is_some());
    bench.settle_down();
    bench.settle_down();
    assert!(bench.disk.contents(&name).is_none());
    // Who is in the middle of reading it reads on.
    let mut read = Vec::new();
    while bench.store.read_large(&handle, 0, 1000, &mut read) == LargeRead::Cold {
        bench.settle_down();
    }
    assert_eq!(read, &whole[..1000]);
}

#[test]
fn a_large_body_of_a_transaction_outlives_its_commit() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, whole) = large(&mut bench, 300_000, true);
    // As the router does it: kept until the commit, then logged, then no longer kept.
    let kept = bench.store.keep(bench.now, &large_message(body), 1);
    let to = [(QueueId(1), 1)];
    let stored = bench.store.append(bench.now, &large_message(body), &to, 1);
    (bench.store).release(Entry::new(kept.at, 1, kept.share_octets, 0));
    bench.settle_down();
    bench.settle_down();
    assert_eq!(read_large(&mut bench, body), Some(whole.clone()));
    let mut after = Bench::open(bench.disk.crash(1));
    after.settle_down();
    assert_eq!(read_large(&mut after, body), Some(whole));
    let entry = Entry::new(stored.at, 1, stored.share_octets, Entry::LOGGED);
    bench.store.settle(QueueId(1), entry);
    bench.settle_down();
    bench.settle_down();
    let name = format!("{:016x}.body", body.file);
    assert!(bench.disk.contents(&name).is_none());
}

#[test]
fn a_large_body_that_was_settled_before_it_was_read_can_still_be_read() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, whole) = large(&mut bench, 300_000, true);
    let to = [(QueueId(1), 1)];
    bench.store.append(bench.now, &large_message(body), &to, 1);
    bench.settle_down();
    // After a start its file is not open.
    let mut after = Bench::open(bench.disk.crash(1));
    let handle = after.store.large_handle(body).expect("it is there");
    after.store.settle_range(QueueId(1), 1, 1);
    after.settle_down();
    after.settle_down();
    let name = format!("{:016x}.body", body.file);
    assert!(after.disk.contents(&name).is_none());
    let mut read = Vec::new();
    while after.store.read_large(&handle, 0, 1000, &mut read) == LargeRead::Cold {
        after.settle_down();
    }
    assert_eq!(read, &whole[..1000]);
}

#[test]
fn a_large_body_with_a_part_that_found_no_room_is_not_whole() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    let whole: Vec<u8> = (0..600_000_u32).map(|index| (index % 251) as u8).collect();
    let body = bench.store.large_begin(whole.len() as u64, true);
    bench.store.large_append(body, &whole[..300_000]);
    bench.disk.set_free_octets(Some(0));
    bench.commit();
    while bench.keep_one() {}
    // Room for the rest, which is written before the first part is tried again.
    bench.disk.set_free_octets(None);
    bench.store.large_append(body, &whole[300_000..]);
    let to = [(QueueId(1), 1)];
    bench.store.append(bench.now, &large_message(body), &to, 1);
    let batch = bench.store.batch();
    bench.commit();
    while bench.keep_one() {}
    bench.commit();
    assert!(!bench.flush_one() && bench.store.flushed() < batch);
    bench.settle_down();
    assert!(bench.store.flushed() >= batch);
    for seed in 0..10 {
        let mut after = Bench::open(bench.disk.crash(seed));
        assert_eq!(read_large(&mut after, body), Some(whole.clone()));
    }
}

#[test]
fn a_large_body_that_is_settled_while_it_is_written_can_be_read() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    let whole = vec![7; 100_000];
    let body = bench.store.large_begin(whole.len() as u64, true);
    bench.store.large_append(body, &whole);
    bench.disk.set_free_octets(Some(0));
    bench.commit();
    while bench.keep_one() {}
    let handle = bench.store.large_handle(body).expect("it was begun");
    bench.store.large_abandon(body);
    bench.disk.set_free_octets(None);
    let mut read = Vec::new();
    while bench.store.read_large(&handle, 0, 100_000, &mut read) == LargeRead::Cold {
        bench.settle_down();
        bench.now.monotonic_us += 300_000;
    }
    assert_eq!(read, whole);
    let names = bench_names(&bench.disk);
    assert!(names.iter().all(|name| !name.contains(".body")));
}

/// It broke every connection that it was delivered to, since its message came back each time.
#[test]
fn a_large_body_that_is_damaged_or_missing_is_lost_once_and_kept_aside() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, _) = large(&mut bench, 300_000, true);
    let (to, message) = ([(QueueId(1), 1)], large_message(body));
    let stored = bench.store.append(bench.now, &message, &to, 1);
    bench.settle_down();
    let entry = Entry::new(stored.at, 1, stored.share_octets, Entry::LOGGED);
    let name = format!("{:016x}.body", body.file);
    for is_missing in [false, true] {
        let disk = bench.disk.killed();
        if is_missing {
            disk.remove(&name).expect("it is there");
        } else {
            assert!(disk.flip(&name, 200_000, 3));
        }
        let mut after = Bench::open(disk);
        assert_eq!(
            after.recovery.account.large_bodies_missing,
            u32::from(is_missing)
        );
        assert_eq!(read_large(&mut after, body), None);
        assert_eq!(after.store.large_handle(body).map(|_| ()), None);
        after.settle_down();
        let is_damage = |event: &&Event| matches!(event, Event::Damage(_));
        assert_eq!(after.events.iter().filter(is_damage).count(), 1);
        assert_eq!(after.store.counters().lost, 1);
        after.store.settle(QueueId(1), entry);
        after.settle_down();
        let names = bench_names(&after.disk);
        assert!(!names.contains(&name));
        let aside = names.contains(&format!("{name}.damaged"));
        assert_eq!(aside, !is_missing, "{names:?}");
    }
}

#[test]
fn a_segment_that_cannot_be_read_at_the_start_costs_no_large_body() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, whole) = large(&mut bench, 300_000, true);
    let to = [(QueueId(1), 1)];
    bench.store.append(bench.now, &large_message(body), &to, 1);
    bench.settle_down();
    let mut refused = 0;
    for call in 1..60 {
        let disk = bench.disk.crash(1);
        disk.fail(call, DiskFault::Eio);
        match Store::open(disk.clone(), bench.store.config.clone(), bench.now, 1) {
            Ok((mut store, _)) => assert!(store.large_handle(body).is_some(), "call {call}"),
            Err(_) => refused += 1,
        }
        let mut after = Bench::open(disk.killed());
        after.settle_down();
        assert_eq!(read_large(&mut after, body), Some(whole.clone()));
    }
    assert!(refused > 0);
}

#[test]
fn a_large_body_that_is_damaged_is_not_served() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, _) = large(&mut bench, 300_000, true);
    bench
        .store
        .append(bench.now, &large_message(body), &[(QueueId(1), 1)], 1);
    bench.settle_down();
    bench
        .disk
        .flip(&format!("{:016x}.body", body.file), 200_000, 3);
    assert_eq!(read_large(&mut bench, body), None);
    bench.commit();
    assert!(matches!(bench.events.last(), Some(Event::Damage(_))));
}

#[test]
fn transient_and_abandoned_large_bodies_leave_nothing() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    let before = bench_names(&bench.disk);
    let (kept, whole) = large(&mut bench, 2_000_000, false);
    let stored = bench.store.keep(bench.now, &large_message(kept), 1);
    assert_eq!(read_large(&mut bench, kept), Some(whole));
    bench
        .store
        .release(Entry::new(stored.at, 1, stored.share_octets, 0));
    assert!(bench.store.large_handle(kept).is_none());
    let (abandoned, _) = large(&mut bench, 2_000_000, true);
    bench.settle_down();
    assert_ne!(bench_names(&bench.disk), before);
    bench.store.large_abandon(abandoned);
    bench.settle_down();
    bench.settle_down();
    assert_eq!(bench_names(&bench.disk), before);
    // One that a crash left behind goes at the next start.
    large(&mut bench, 2_000_000, true);
    bench.settle_down();
    let mut after = Bench::open(bench.disk.killed());
    after.settle_down();
    assert!(
        bench_names(&after.disk)
            .iter()
            .all(|name| !name.contains(".body"))
    );
}

fn bench_names(disk: &MemoryStorage) -> Vec<String> {
    let names = disk.list().expect("lists");
    names.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_publisher_of_a_large_body_waits_for_a_slow_disk() {
    let mut bench = Bench::open(MemoryStorage::new());
    let body = bench.store.large_begin(100 << 20, false);
    let part = vec![0; 1 << 17];
    let mut taken = 0;
    while bench.store.large_append(body, &part) {
        taken += part.len();
        assert!(taken < 8 << 20, "bounded");
    }
    bench.settle_down();
    assert!(
        bench
            .events
            .contains(&Event::LargeReady { file: body.file })
    );
    assert!(bench.store.large_append(body, &part));
}

#[test]
fn disk_use_is_bounded_whatever_the_order_of_acks() {
    for (seed, keep_every) in [(1, 100), (2, 10), (3, 1000)] {
        let mut bench =
            Bench::open_seeded(MemoryStorage::new(), small_config(), seed).expect("opens");
        let mut entries = Vec::new();
        for sequence in 1..=20_000_u64 {
            entries.push(bench.append(1, sequence, &[7; 100]));
            if sequence % 50 == 0 {
                bench.commit();
                bench.flush_one();
                bench.keep_one();
            }
        }
        bench.settle_down();
        // Every order: forwards, backwards, and by a stride.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        match seed {
            1 => {}
            2 => order.reverse(),
            _ => order.sort_by_key(|index| index * 7919 % entries.len()),
        }
        let mut live = entries.len() as u64;
        let record = 168;
        for (turn, index) in order.into_iter().enumerate() {
            if index % keep_every != 0 {
                bench.store.settle(QueueId(1), entries[index]);
                live -= 1;
            }
            if turn % 40 == 0 {
                bench.commit();
                bench.flush_one();
                bench.keep_one();
            }
            if turn % 2000 == 1999 {
                bench.settle_down();
                bench.settle_down();
                let disk = bench.store.disk_octets();
                let bound = 2 * live * record + 4 * (64 << 10) + 30 * 1024;
                assert!(
                    disk <= bound,
                    "{disk} of {bound} with {live} live, turn {turn}"
                );
            }
        }
        for (index, entry) in entries.iter().enumerate().step_by(keep_every) {
            assert!(bench.body(entry.at).is_some(), "{index}");
        }
    }
}

#[test]
fn a_backlog_that_is_drained_in_order_is_given_back_and_never_written_again() {
    let config = StoreConfig {
        look_ms: 250,
        ..small_config()
    };
    let mut bench = Bench::open_seeded(MemoryStorage::new(), config, 5).expect("opens");
    let mut entries = Vec::new();
    for sequence in 1..=20_000_u64 {
        entries.push(bench.append(1, sequence, &[7; 100]));
        if sequence % 50 == 0 {
            bench.commit();
            bench.flush_one();
            bench.keep_one();
        }
    }
    bench.settle_down();
    let full = bench.store.disk_octets();
    for (turn, entry) in entries.into_iter().enumerate() {
        bench.store.settle(QueueId(1), entry);
        if turn % 40 == 0 {
            // All of it takes 25 s, so that each segment is looked at on its way.
            bench.now.monotonic_us += 50_000;
            bench.commit();
            bench.flush_one();
            bench.keep_one();
        }
    }
    bench.settle_down();
    bench.settle_down();
    assert!(full > 3_000_000);
    assert!(bench.store.disk_octets() <= 4 * (64 << 10));
    assert_eq!(bench.store.counters().compacted, 0);
}

#[test]
fn what_is_consumed_at_once_needs_no_index() {
    let config = StoreConfig {
        look_ms: 250,
        ..small_config()
    };
    let mut bench = Bench::open_seeded(MemoryStorage::new(), config, 6).expect("opens");
    let mut young = VecDeque::new();
    for sequence in 1..=20_000_u64 {
        young.push_back(bench.append(1, sequence, &[7; 100]));
        if young.len() > 100 {
            let oldest = young.pop_front().expect("some");
            bench.store.settle(QueueId(1), oldest);
        }
        if sequence % 50 == 0 {
            bench.now.monotonic_us += 1000;
            bench.commit();
            while bench.flush_one() || bench.keep_one() {}
        }
        let names = bench_names(&bench.disk);
        assert!(names.iter().all(|name| !name.contains(".idx")));
    }
    // What stays gets one when it has rested.
    bench.now.monotonic_us += 1_000_000;
    for sequence in 20_001..=21_000 {
        bench.append(1, sequence, &[7; 100]);
    }
    bench.settle_down();
    bench.now.monotonic_us += 1_000_000;
    bench.settle_down();
    let names = bench_names(&bench.disk);
    assert!(names.iter().any(|name| name.contains(".idx")));
}

#[test]
fn outdated_definitions_do_not_pile_up_and_none_is_lost_meanwhile() {
    let mut bench = Bench::open(MemoryStorage::new());
    let mut sure = 0;
    for round in 0..6000_u32 {
        let value = round.to_be_bytes();
        let key = (round % 5).to_be_bytes();
        bench
            .store
            .define(&[(b"last", Some(&value)), (&key, Some(&value.repeat(9)))]);
        let batch = bench.store.batch();
        bench.now.monotonic_us += 501;
        bench.commit();
        bench.flush_one();
        if round % 3 == 0 {
            bench.keep_one();
        }
        bench.commit();
        if bench.store.flushed() >= batch {
            sure = round;
        }
        if round % 97 == 0 {
            let after = Bench::open(bench.disk.crash(u64::from(round)));
            let pairs = &after.recovery.definitions;
            let last = pairs.iter().find(|pair| pair.0 == b"last");
            let last = last.map_or(0, |pair| {
                pair.1
                    .iter()
                    .fold(0, |sum, &octet| sum << 8 | u32::from(octet))
            });
            assert!((sure..=round).contains(&last), "{sure} {last} {round}");
            assert!(pairs.len() as u32 > 5.min(sure) && after.recovery.report.is_empty());
        }
    }
    bench.settle_down();
    let octets = bench.disk.contents("definitions").expect("there").len();
    assert!(octets < 150_000, "{octets}");
    bench.settle_down();
    let after = Bench::open(bench.disk.killed());
    assert_eq!(after.recovery.definitions.len(), 6);
}

#[test]
fn what_was_settled_waits_for_company_unless_somebody_waits_for_it() {
    let mut bench = Bench::open(MemoryStorage::new());
    let entries: Vec<Entry> = (1..=4)
        .map(|sequence| bench.append(1, sequence, b"x"))
        .collect();
    bench.settle_down();
    let turn = |bench: &mut Bench, us: u64| {
        bench.now.monotonic_us += us;
        bench.commit();
        bench.flush_one()
    };
    // Alone it is put off, as a deadline and no longer.
    bench.store.settle(QueueId(1), entries[0]);
    assert!(!turn(&mut bench, 1_000));
    let due = bench.store.next_deadline().expect("it is not forgotten");
    assert_eq!(due.0, bench.now.monotonic_us + 5_000);
    assert!(!turn(&mut bench, 4_999));
    assert!(turn(&mut bench, 1));
    // A message takes it along at once.
    bench.store.settle(QueueId(1), entries[1]);
    assert!(!turn(&mut bench, 1_000));
    bench.append(1, 5, b"y");
    assert!(turn(&mut bench, 1));
    assert!(bench.store.settlements.is_empty());
    // So does whoever asks for its batch: a transaction of acknowledgements, a purge.
    bench.store.settle(QueueId(1), entries[2]);
    let batch = bench.store.batch();
    assert!(bench.store.flushed() < batch);
    assert!(turn(&mut bench, 1));
    assert!(bench.store.flushed() >= batch);
    // A stop does not wait either.
    bench.store.settle(QueueId(1), entries[3]);
    bench.commit();
    bench.store.commit_all(bench.now, &mut bench.helpers);
    assert!(bench.flush_one());
    let again = Bench::open(bench.disk.killed());
    assert_eq!(
        again.recovery.queues[0].messages, 1,
        "only the fifth is left"
    );
}

//! Messages and pages on their way to the disk and back.

use super::*;
use crate::storage::segment::GRANULE_OCTETS;

#[test]
fn a_message_is_readable_at_every_stage_of_its_way_to_the_disk() {
    let mut bench = Bench::open(MemoryStorage::new());
    let entry = bench.append(1, 1, b"hello");
    assert_eq!(bench.body(entry).as_deref(), Some(&b"hello"[..]));
    let batch = bench.store.batch();
    assert!(bench.store.flushed() < batch);
    bench.settle_down();
    assert!(bench.store.flushed() >= batch);
    assert!(bench.events.contains(&Event::Flushed(batch)));
    assert_eq!(bench.body(entry).as_deref(), Some(&b"hello"[..]));
    // After a pause the tail gives its memory back, and the map is cold.
    for _ in 0..4 {
        bench.now.monotonic_us += 60_000_000;
        bench.settle_down();
    }
    let mut scratch = Vec::new();
    assert_eq!(bench.store.read(entry, &mut scratch), Read::Cold);
    bench.settle_down();
    assert!(bench.events.contains(&Event::Warm {
        segment: entry.at.segment
    }));
    assert_eq!(bench.body(entry).as_deref(), Some(&b"hello"[..]));
}

#[test]
fn a_record_that_reaches_far_beyond_what_is_warm_is_read() {
    // Longer than half a granule, and longer than what is populated at a time.
    for (octets, gap) in [(600_000, 500_000), (900_000, 300_000), (6_000_000, 1)] {
        let config = StoreConfig {
            segment_octets_min: 16 << 20,
            segment_octets_max: 16 << 20,
            ..small_config()
        };
        let mut bench = Bench::open_seeded(MemoryStorage::new(), config, 7).expect("opens");
        let before = bench.append(1, 1, &vec![1; gap]);
        let body = vec![2; octets];
        let entry = bench.append(1, 2, &body);
        bench.settle_down();
        for _ in 0..4 {
            bench.now.monotonic_us += 60_000_000;
            bench.settle_down();
        }
        // Only where the record begins is warm, as when its neighbour was read alone.
        let segment = bench.store.segments.get_mut(entry.at.segment);
        let segment = segment.expect("its segment");
        segment.warmth.cool(0, segment.used);
        assert!(bench.body(before).is_some(), "{octets}");
        let segment = bench.store.segments.get_mut(entry.at.segment);
        let segment = segment.expect("its segment");
        segment.warmth.cool(GRANULE_OCTETS, segment.used);
        assert_eq!(bench.body(entry).as_ref(), Some(&body), "{octets}");
    }
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
        assert_eq!(bench.body(entry), Some(body));
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
        assert_eq!(bench.body(*entry).as_deref(), Some(&body[..]));
    }
    assert!(bench.store.counters().cold_reads > 0);
    for (entry, _) in entries {
        bench.store.release(entry);
    }
    assert_eq!(bench.store.memory_octets(), 0);
}

#[test]
fn the_loop_does_not_close_the_files_of_transient_messages() {
    let mut bench = Bench::open(MemoryStorage::new());
    // Small ones share a file, a large one has its own.
    let mut keep = |octets: usize| {
        let stored = bench
            .store
            .keep(bench.now, &body_message(&vec![7; octets]), 1);
        Entry::new(stored.at, 0, stored.share_octets, 0)
    };
    let mut entries: Vec<Entry> = (0..3000).map(|_| keep(1024)).collect();
    entries.extend((0..8).map(|_| keep(600_000)));
    bench.settle_down();
    let files = bench.store.arena.open_files();
    assert!(files.len() > 3, "{}", files.len());
    let open = || files.iter().filter(|file| file.strong_count() > 0).count();
    for entry in entries {
        bench.store.release(entry);
    }
    bench.commit();
    assert_eq!(open(), files.len(), "closed where everybody waits for it");
    bench.settle_down();
    assert_eq!(open(), 0);
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

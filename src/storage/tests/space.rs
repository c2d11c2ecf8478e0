//! What is given back of the disk, and what happens when it is full.

use std::collections::VecDeque;

use super::*;

/// Twenty thousand messages, while the helpers do one job for each fifty.
fn backlog(bench: &mut Bench) -> Vec<Entry> {
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
    entries
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

/// Appends messages to a queue until publishers are to pause.
fn fill(bench: &mut Bench, queue: u32) -> Vec<Entry> {
    bench.settle_down();
    let mut entries = Vec::new();
    for sequence in 1.. {
        if bench.store.alarm() || bench.store.tail_full() {
            break;
        }
        entries.push(bench.append(queue, sequence, &[7; 1000]));
        bench.now.monotonic_us += 10;
        bench.commit();
        bench.flush_one();
        bench.keep_one();
    }
    entries
}

#[test]
fn a_small_disk_that_was_full_is_of_use_again_when_its_messages_are_consumed() {
    let least = 16 << 10;
    for disk_octets in [100 << 10, 150 << 10, 300 << 10, 700 << 10, 2 << 20] {
        let config = StoreConfig {
            disk_free_octets_min: least,
            ..small_config()
        };
        let disk = MemoryStorage::new();
        disk.set_free_octets(Some(disk_octets));
        let mut bench = Bench::open_seeded(disk, config, 9).expect("opens");
        for round in 1..=3 {
            let entries = fill(&mut bench, round);
            assert!(bench.store.alarm(), "{disk_octets}, round {round}");
            let kept = entries.len() as u64 * 1100;
            assert!(
                kept > disk_octets / 4,
                "{kept} of {disk_octets}, round {round}"
            );
            // What was taken in is on the disk, and what is consumed is noted there.
            for entry in entries {
                bench.store.settle(QueueId(round), entry);
            }
            for _ in 0..40 {
                bench.now.monotonic_us += 400_000;
                bench.commit();
                while bench.keep_one() || bench.flush_one() {}
            }
            assert!(
                bench.store.flushed() >= bench.store.batch() && !bench.store.alarm(),
                "{disk_octets}, round {round}: {:?}",
                names(&bench.disk)
            );
        }
    }
}

#[test]
fn a_shortage_of_descriptors_is_waited_for() {
    let mut met = 0;
    for call in 1.. {
        let disk = MemoryStorage::new();
        let mut bench = Bench::open(disk.clone());
        disk.take_hits();
        disk.fail(call, DiskFault::Emfile);
        let mut entries = Vec::new();
        for sequence in 1..=60 {
            entries.push(bench.append(1, sequence, &[7; 1000]));
            bench.now.monotonic_us += 400_000;
            bench.commit();
            while bench.keep_one() || bench.flush_one() {}
        }
        let hits = disk.take_hits();
        let Some(hit) = hits.first() else {
            break;
        };
        // Files that are open already cannot meet it.
        if !matches!(hit.call, "create" | "open" | "map" | "create_unlinked") {
            continue;
        }
        met += 1;
        bench.now.monotonic_us += 2_000_000;
        bench.settle_down();
        let failed = bench.events.iter().find(|it| matches!(it, Event::Fatal(_)));
        assert!(failed.is_none(), "{hit:?}: {failed:?}");
        assert!(!bench.store.alarm(), "{hit:?}");
        for entry in entries {
            assert!(bench.body(entry).is_some(), "{hit:?}");
        }
    }
    assert!(met > 10, "{met}");
}

#[test]
fn disk_use_is_bounded_whatever_the_order_of_acks() {
    for (seed, keep_every) in [(1, 100), (2, 10), (3, 1000)] {
        let mut bench =
            Bench::open_seeded(MemoryStorage::new(), small_config(), seed).expect("opens");
        let entries = backlog(&mut bench);
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
            assert!(bench.body(*entry).is_some(), "{index}");
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
    let entries = backlog(&mut bench);
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
        let names = names(&bench.disk);
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
    let names = names(&bench.disk);
    assert!(names.iter().any(|name| name.contains(".idx")));
}

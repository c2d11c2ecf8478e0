//! Definitions beside the log.

use super::*;

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

//! Large bodies.

use super::*;
use crate::storage::large::{aside_name, body_name};
use crate::storage::segment::segment_name;

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

/// Whoever has the handle of a body can read it, whatever became of its message.
fn check_reads_on(bench: &mut Bench, handle: &LargeHandle<MemoryStorage>, whole: &[u8]) {
    let mut read = Vec::new();
    while bench.store.read_large(handle, 0, 1000, &mut read) == LargeRead::Cold {
        bench.settle_down();
    }
    assert_eq!(read, &whole[..1000]);
}

fn large_message(body: LargeBody) -> Message<'static> {
    Message {
        names: b"\x00\x01q",
        properties: &[0x10, 0, 2],
        body: Body::Large(body),
    }
}

#[test]
fn a_body_that_lies_there_takes_no_descriptor() {
    let mut bench = Bench::open(MemoryStorage::new());
    let (body, whole) = large(&mut bench, 3_000_001, true);
    let handle = bench.store.large_handle(body).expect("it is known");
    assert!(handle.is_open(), "while it is written");
    let stored = bench
        .store
        .append(bench.now, &large_message(body), &[(QueueId(1), 1)], 1);
    bench.settle_down();
    assert!(!handle.is_open());
    assert_eq!(read_large(&mut bench, body).as_ref(), Some(&whole));
    assert!(!handle.is_open());
    // Whoever reads on when the message is gone needs it open.
    let entry = Entry::new(stored.at, 1, stored.share_octets, Entry::LOGGED);
    bench.store.settle(QueueId(1), entry);
    bench.settle_down();
    assert!(handle.is_open());
    assert!(!names(&bench.disk).contains(&body_name(body.file)));
    check_reads_on(&mut bench, &handle, &whole);
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
    let name = body_name(body.file);
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
    check_reads_on(&mut bench, &handle, &whole);
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
    let name = body_name(body.file);
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
    let name = body_name(body.file);
    assert!(after.disk.contents(&name).is_none());
    check_reads_on(&mut after, &handle, &whole);
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
    let names = names(&bench.disk);
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
    let name = body_name(body.file);
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
        let names = names(&after.disk);
        assert!(!names.contains(&name));
        let aside = names.contains(&format!("{name}.damaged"));
        assert_eq!(aside, !is_missing, "{names:?}");
    }
}

/// Each file has checksums of its own, so another body in its place was given out as the message's.
#[test]
fn a_large_body_in_the_place_of_another_is_not_given_out() {
    let mut bench = Bench::open(MemoryStorage::new());
    let mut bodies = Vec::new();
    for sequence in [1, 2] {
        let body = bench.store.large_begin(300_000, true);
        for _ in 0..3 {
            bench
                .store
                .large_append(body, &vec![sequence as u8; 100_000]);
        }
        let to = [(QueueId(1), sequence)];
        bench.store.append(bench.now, &large_message(body), &to, 1);
        bench.settle_down();
        bodies.push(body);
    }
    let disk = bench.disk.killed();
    let [first, second] = [0, 1].map(|at: usize| body_name(bodies[at].file));
    let contents = disk.contents(&second).expect("it is there");
    disk.put(&first, &contents);
    let mut after = Bench::open(disk);
    assert_eq!(read_large(&mut after, bodies[0]), None);
    after.settle_down();
    let is_damage = |event: &&Event| matches!(event, Event::Damage(_));
    assert_eq!(after.events.iter().filter(is_damage).count(), 1);
    let whole = read_large(&mut after, bodies[1]);
    assert_eq!(whole, Some(vec![2; 300_000]));
}

/// A segment that was cut off kept the server from starting when the rest had named a large body.
#[test]
fn a_large_body_of_which_the_record_was_cut_off_keeps_nobody_from_starting() {
    let mut bench = Bench::open(MemoryStorage::new());
    let before = bench.append(1, 1, b"before");
    let (body, _) = large(&mut bench, 300_000, true);
    let to = [(QueueId(1), 2)];
    let stored = bench.store.append(bench.now, &large_message(body), &to, 1);
    for sequence in 3..=200 {
        bench.append(1, sequence, &[7; 500]);
        bench.settle_down();
    }
    let segment = segment_name(stored.at.segment);
    let index = segment.replace(".seg", ".idx");
    assert!(names(&bench.disk).contains(&index));
    let record = stored.at.place as usize * 8;
    for end in [record, record + 10, record + 30] {
        let disk = bench.disk.killed();
        let contents = disk.contents(&segment).expect("it is there");
        disk.put(&segment, &contents[..end]);
        let mut after = Bench::open(disk);
        after.settle_down();
        let told = after.recovery.report.iter().any(|it| it.contains(&segment));
        assert!(told, "{end}");
        assert!(names(&after.disk).contains(&body_name(body.file)), "{end}");
        assert!(after.body(before).is_some(), "{end}");
    }
}

/// The body of a message whose record is damaged, the one thing that is left of it, was removed.
#[test]
fn a_large_body_of_which_the_record_is_lost_is_kept_aside() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    let (body, whole) = large(&mut bench, 300_000, true);
    let (to, message) = ([(QueueId(1), 1)], large_message(body));
    let stored = bench.store.append(bench.now, &message, &to, 1);
    bench.append(1, 2, b"behind it");
    // A body that was not published yet.
    let (begun, _) = large(&mut bench, 300_000, true);
    for _ in 0..3 {
        bench.now.monotonic_us += 300_000;
        bench.settle_down();
    }
    let (name, begun) = (body_name(body.file), body_name(begun.file));
    let disk = bench.disk.killed();
    assert!(disk.contents(&begun).is_some());
    let mut after = Bench::open(disk);
    after.settle_down();
    assert_eq!(after.disk.contents(&begun), None);
    assert!(!names(&after.disk).iter().any(|name| aside::is_aside(name)));

    let disk = bench.disk.killed();
    let octets = disk.contents(&name);
    let at = stored.at.place as usize * 8 + 40;
    assert!(disk.flip(&segment_name(stored.at.segment), at, 1));
    let mut after = Bench::open(disk);
    let told = &after.recovery.report;
    let line = format!("{name}: no record is left");
    assert!(told.iter().any(|told| told.starts_with(&line)), "{told:?}");
    assert_eq!(after.recovery.account.kept_aside, 3);
    after.settle_down();
    let mut after = Bench::open(after.disk.killed());
    after.settle_down();
    assert_eq!(after.disk.contents(&name), None);
    let kept = after.disk.contents(&aside_name(&name));
    assert_eq!(kept, octets);
    assert!(kept.is_some_and(|kept| kept.starts_with(&whole)));
    let (next, _) = large(&mut after, 300_000, true);
    assert!(next.file > body.file);
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
    bench.disk.flip(&body_name(body.file), 200_000, 3);
    assert_eq!(read_large(&mut bench, body), None);
    bench.commit();
    assert!(matches!(bench.events.last(), Some(Event::Damage(_))));
}

#[test]
fn transient_and_abandoned_large_bodies_leave_nothing() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.settle_down();
    let before = names(&bench.disk);
    let (kept, whole) = large(&mut bench, 2_000_000, false);
    let stored = bench.store.keep(bench.now, &large_message(kept), 1);
    assert_eq!(read_large(&mut bench, kept), Some(whole));
    bench
        .store
        .release(Entry::new(stored.at, 1, stored.share_octets, 0));
    assert!(bench.store.large_handle(kept).is_none());
    let (abandoned, _) = large(&mut bench, 2_000_000, true);
    bench.settle_down();
    assert_ne!(names(&bench.disk), before);
    bench.store.large_abandon(abandoned);
    bench.settle_down();
    bench.settle_down();
    assert_eq!(names(&bench.disk), before);
    // One that a crash left behind goes at the next start.
    large(&mut bench, 2_000_000, true);
    bench.settle_down();
    let mut after = Bench::open(bench.disk.killed());
    after.settle_down();
    assert!(
        names(&after.disk)
            .iter()
            .all(|name| !name.contains(".body"))
    );
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

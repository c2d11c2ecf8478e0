//! Damage in segments that have an index, which a start does not read.

use super::*;

#[test]
fn damage_in_an_indexed_segment_is_told_when_the_message_is_read() {
    let bench = filled();
    let disk = bench.disk.killed();
    let name = &files(&disk, ".idx")[1].replace(".idx", ".seg");
    assert!(disk.flip(name, 3000, 5));
    let mut after = Bench::open(disk);
    let found = readable(&mut after);
    assert_eq!(found.len(), live().len() - 1);
    after.commit();
    assert!(
        after
            .events
            .iter()
            .any(|event| matches!(event, Event::Damage(_)))
    );
    assert_eq!(after.store.counters().lost, 1);
    // At once: with its last message settled the segment may be gone before it is checked.
    after.settle_down();
    let aside = format!("{name}.damaged-");
    assert_eq!(
        files(&after.disk, "")
            .iter()
            .filter(|name| name.starts_with(&aside))
            .count(),
        1
    );
}

#[test]
fn damage_that_no_start_reads_is_told_soon_after_it_and_once() {
    let mut bench = filled();
    // A record that is longer than what is checked at a time, and one behind it.
    bench.append(1, 301, &vec![7; 1_200_000]);
    bench.append(1, 302, b"behind");
    for sequence in 303..=500 {
        bench.append(1, sequence, &body_of(sequence));
    }
    bench.settle_down();
    // Whatever is read as one of the segments without an index has one after the next start.
    let mut whole = Bench::open(bench.disk.killed());
    whole.settle_down();
    let disk = whole.disk.killed();
    let mut told = 0;
    for name in files(&disk, ".idx") {
        let name = name.replace(".idx", ".seg");
        let number = name[..10].parse().expect("a number");
        let octets = disk.contents(&name).expect("there");
        let header = record_codec::SegmentHeader::decode(&octets, number).expect("a header");
        let mut records = Vec::new();
        scan::scan(&octets, header.seed, true, |item| {
            if let scan::Item::Record { offset, header, .. } = item {
                records.push((offset, header.record_octets()));
            }
        });
        for (at, (offset, octets)) in records.into_iter().enumerate() {
            if at % 40 != 3 && octets < 1_000_000 {
                continue;
            }
            // By turns in the header and in the payload.
            for within in [3, 21] {
                let hit = disk.killed();
                hit.flip(&name, (offset + within) as usize, 2);
                let mut after = Bench::open(hit);
                assert_eq!(after.recovery.report, [""; 0]);
                after.settle_down();
                let aside = format!("{name}.damaged-{offset}");
                let kept = after.disk.contents(&aside).expect("kept aside");
                assert_eq!(kept.len() as u64, octets);
                let line = format!(
                    "{name}: octets {offset} to {} are damaged; kept as {aside}",
                    offset + octets
                );
                assert!(
                    after.events.contains(&Event::Damage(line)),
                    "{:?}",
                    after.events
                );
                assert_eq!(after.store.counters().damaged, 1);
                let mut again = Bench::open(after.disk.killed());
                again.settle_down();
                assert_eq!(again.store.counters().damaged, 0);
                told += 1;
            }
        }
    }
    assert!(told > 10, "{told}");
    let mut after = Bench::open(disk);
    after.settle_down();
    assert_eq!(after.store.counters().damaged, 0);
}

/// Each record of the segments that have an index and hold more than a few: segment, sequence,
/// offset, octets, whether it is the last.
fn indexed_records(disk: &MemoryStorage) -> Vec<(u32, u64, u64, u64, bool)> {
    let mut found = Vec::new();
    for name in files(disk, ".idx") {
        let name = name.replace(".idx", ".seg");
        let number = name[..10].parse().expect("a number");
        let records = records_of(disk, &name);
        let last = records.last().map(|it| it.1);
        for (sequence, start, end) in records {
            if let Some(sequence) = sequence.filter(|it| it % 10 != 0) {
                let (offset, octets) = (start as u64, (end - start) as u64);
                found.push((number, sequence, offset, octets, Some(start) == last));
            }
        }
    }
    found
}

/// As [`filled`], every segment that is full with its index, and the last record of some a message.
fn filled_and_indexed() -> MemoryStorage {
    let mut bench = filled();
    for sequence in 301..=600_u64 {
        let entry = bench.append(1, sequence, &body_of(sequence));
        if sequence % 10 == 0 {
            bench.store.settle(QueueId(1), entry);
        }
    }
    bench.settle_down();
    let mut whole = Bench::open(bench.disk.killed());
    whole.settle_down();
    whole.disk.killed()
}

/// A start on `disk` with a record of `segment` damaged, by turns in its header and its payload,
/// and the index of the segment lost after that start has read it. Nothing is checked by itself.
fn index_lost(disk: &MemoryStorage, segment: u32, offset: u64, within: u64) -> Bench {
    let disk = disk.killed();
    let name = segment::segment_name(segment);
    disk.flip(&name, (offset + within) as usize, 2);
    let mut after = Bench::open(disk);
    assert_eq!(after.recovery.report, [""; 0]);
    after.store.scrub = None;
    let index = segment::index_name(segment);
    after.disk.remove(&index).expect("it is there");
    after
}

#[test]
fn what_an_index_made_anew_leaves_out_is_told_and_kept_and_pins_nothing() {
    let disk = filled_and_indexed();
    let records = indexed_records(&disk);
    let (mut told, mut last) = (0, 0);
    for (at, (segment, sequence, offset, octets, is_last)) in records.into_iter().enumerate() {
        if at % 29 != 3 && !is_last {
            continue;
        }
        let name = segment::segment_name(segment);
        let aside = format!("{name}.damaged-{offset}");
        for within in [3, 25] {
            let mut after = index_lost(&disk, segment, offset, within);
            let found = readable(&mut after);
            assert!(!found.contains(&sequence));
            assert_eq!(found.len(), 539, "one is lost");
            let kept = after.disk.contents(&aside).expect("kept aside");
            assert_eq!(kept.len() as u64, octets);
            let line = format!(
                "{name}: octets {offset} to {} are damaged; kept as {aside}",
                offset + octets
            );
            let lines = after.events.iter();
            let lines = lines.filter(|it| **it == Event::Damage(line.clone()));
            assert_eq!(lines.count(), 1, "{:?}", after.events);
            let counters = after.store.counters();
            assert_eq!((counters.damaged, counters.lost), (1, 1));
            // When all others are settled, nothing holds the segment.
            for sequence in found {
                after.store.settle_range(QueueId(1), sequence, sequence);
            }
            for _ in 0..3 {
                after.settle_down();
            }
            assert!(after.store.segments.get(segment).is_none());
            told += 1;
            last += u64::from(is_last);
        }
    }
    assert!(told > 10 && last > 0, "{told}, {last} at the end");
}

#[test]
fn what_compaction_finds_damaged_without_an_index_is_told_and_kept() {
    let disk = filled_and_indexed();
    let records = indexed_records(&disk);
    let mut told = 0;
    for (at, (segment, sequence, offset, octets, is_last)) in records.into_iter().enumerate() {
        if at % 29 != 3 && !is_last {
            continue;
        }
        let name = segment::segment_name(segment);
        let aside = format!("{name}.damaged-{offset}");
        for within in [3, 25] {
            let mut after = index_lost(&disk, segment, offset, within);
            let is_kept = |it: &u64| it % 10 == 1 || *it == sequence;
            for settled in (1..=600).filter(|it| !is_kept(it)) {
                after.store.settle_range(QueueId(1), settled, settled);
            }
            after.store.checkpoint();
            for _ in 0..4 {
                after.settle_down();
            }
            assert!(after.store.counters().compacted > 0);
            let kept = after.disk.contents(&aside).expect("kept aside");
            assert_eq!(kept.len() as u64, octets);
            let is_told = |it: &Event| matches!(it, Event::Damage(line) if line.contains(&aside));
            assert_eq!(after.events.iter().filter(|it| is_told(it)).count(), 1);
            let mut expected: Vec<u64> = (1..=600).filter(is_kept).collect();
            expected.retain(|it| *it != sequence);
            assert_eq!(readable(&mut after), expected);
            told += 1;
        }
    }
    assert!(told > 10, "{told}");
}

/// No header follows it by which it would be missed, nor one in the segment behind it.
#[test]
fn a_damaged_last_record_is_missed_when_the_segment_behind_it_was_given_back() {
    let disk = filled_and_indexed();
    let records = indexed_records(&disk);
    let mut told = 0;
    for &(segment, sequence, offset, octets, _) in records.iter().filter(|it| it.4) {
        let behind: Vec<u64> = records
            .iter()
            .filter(|it| it.0 == segment + 1)
            .map(|it| it.1)
            .collect();
        if behind.is_empty() {
            continue;
        }
        let mut bench = Bench::open(disk.killed());
        for &settled in &behind {
            bench.store.settle_range(QueueId(1), settled, settled);
        }
        bench.store.checkpoint();
        for _ in 0..4 {
            bench.settle_down();
        }
        assert!(bench.store.segments.get(segment + 1).is_none());
        let hit = bench.disk.killed();
        hit.remove(&segment::index_name(segment))
            .expect("it is there");
        let name = segment::segment_name(segment);
        assert!(hit.flip(&name, offset as usize + 6, 2));
        let mut after = Bench::open(hit);
        let report = after.recovery.report.clone();
        assert_eq!(after.recovery.lost_records, 1, "{name}: {report:?}");
        let kept = after.disk.contents(&format!("{name}.damaged-{offset}"));
        assert_eq!(kept.expect("kept aside").len() as u64, octets);
        let found = readable(&mut after);
        assert!(!found.contains(&sequence));
        assert_eq!(found.len(), 540 - behind.len() - 1);
        told += 1;
    }
    assert!(told > 1, "{told}");
}

/// A disk may write what it is given at another place. Both records check; only what the entry
/// knows of its message tells them apart.
#[test]
fn a_record_that_lies_where_another_belongs_is_not_given_out_for_it() {
    let bench = filled_and_indexed();
    let mut told = 0;
    for name in files(&bench, ".idx") {
        let name = name.replace(".idx", ".seg");
        let octets = bench.contents(&name).expect("there");
        let messages: Vec<_> = records_of(&bench, &name)
            .into_iter()
            .filter_map(|(sequence, start, end)| Some((sequence?, start, end)))
            .filter(|(sequence, ..)| sequence % 10 != 0)
            .collect();
        let Some(&[(_, from, from_end), .., (hit, to, to_end)]) = messages.get(..3) else {
            continue;
        };
        assert_eq!(from_end - from, to_end - to);
        let disk = bench.killed();
        let mut moved = octets.clone();
        moved.copy_within(from..from_end, to);
        disk.put(&name, &moved);
        let mut after = Bench::open(disk);
        let found = readable(&mut after);
        assert!(!found.contains(&hit), "{name}");
        assert_eq!(found.len(), 539);
        after.settle_down();
        assert_eq!(after.store.counters().lost, 1);
        let why = "another message lies in its place";
        let is_told = |it: &Event| matches!(it, Event::Damage(line) if line.ends_with(why));
        assert_eq!(after.events.iter().filter(|it| is_told(it)).count(), 1);
        told += 1;
    }
    assert!(told > 2, "{told}");
}

//! Recovery as a table of cases, failures of single calls, and the format as it was.

use super::tests::{Bench, body_message, small_config};
use super::*;
use crate::broker::record::QueueId;
use crate::message::{Body, Entry, Message};

/// A directory with 300 messages in queue 1, every tenth settled, all of it flushed and marked; the
/// last segment has no index.
fn filled() -> Bench {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.store.define(&[(b"queue/1", Some(b"durable"))]);
    for sequence in 1..=300_u64 {
        let entry = bench.append(1, sequence, &body_of(sequence));
        if sequence % 10 == 0 {
            bench.store.settle(QueueId(1), entry);
        }
        if sequence % 20 == 0 {
            bench.settle_down();
        }
    }
    // The pause after which the last flush is marked, and the flush of that mark.
    for _ in 0..3 {
        bench.now.monotonic_us += 300_000;
        bench.settle_down();
    }
    bench
}

fn body_of(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().repeat(5)
}

/// Sequences that queue 1 has and whose octets are what they were.
fn readable(bench: &mut Bench) -> Vec<u64> {
    let mut found = Vec::new();
    for queue in bench.recovery.queues.clone() {
        assert_eq!(queue.id, QueueId(1));
        for page in queue.pages {
            let entries = loop {
                if let Some(entries) = bench.store.load(page.page) {
                    break entries;
                }
                bench.settle_down();
            };
            for entry in entries {
                if let Some(body) = bench.body(entry.at) {
                    assert_eq!(body, body_of(entry.sequence()));
                    found.push(entry.sequence());
                }
            }
        }
    }
    found
}

fn live() -> Vec<u64> {
    (1..=300).filter(|sequence| sequence % 10 != 0).collect()
}

/// Files of the directory that end so, ascending.
fn files(disk: &MemoryStorage, ending: &str) -> Vec<String> {
    let names = disk
        .list()
        .expect("lists")
        .into_iter()
        .map(|(name, _)| name);
    names.filter(|name| name.ends_with(ending)).collect()
}

/// Offset of the record of `sequence` in the last segment that is in use, and that segment.
fn in_last_segment(disk: &MemoryStorage) -> (String, Vec<(u64, usize, usize)>) {
    let used = |name: &&String| disk.contents(name).is_some_and(|octets| octets[0] != 0);
    let names = files(disk, ".seg");
    let name = names.iter().rfind(used).expect("one").clone();
    let octets = disk.contents(&name).expect("there");
    let number = name[..10].parse().expect("a number");
    let header = record_codec::SegmentHeader::decode(&octets, number).expect("a header");
    let mut records = Vec::new();
    scan::scan(&octets, header.seed, true, |item| {
        if let scan::Item::Record {
            offset,
            header,
            payload,
        } = item
            && let Some(message) = record_codec::MessagePayload::new(header.kind, payload)
        {
            let (_, sequence) = message.queues().next().expect("one");
            let start = offset as usize;
            records.push((sequence, start, start + header.record_octets() as usize));
        }
    });
    (name, records)
}

#[test]
fn undamaged_directories_come_back_whole_with_and_without_what_can_be_made_again() {
    let bench = filled();
    let check = |disk: MemoryStorage| {
        let mut after = Bench::open(disk);
        assert_eq!(readable(&mut after), live());
        assert_eq!(after.recovery.report, [""; 0]);
        let pairs = vec![(b"queue/1".to_vec(), b"durable".to_vec())];
        assert_eq!(after.recovery.definitions, pairs);
        assert_eq!(after.recovery.queue_id_next, 2);
    };
    check(bench.disk.killed());
    let disk = bench.disk.killed();
    for name in files(&disk, ".idx") {
        disk.remove(&name).expect("removed");
    }
    check(disk);
    let disk = bench.disk.killed();
    for name in files(&disk, ".idx") {
        for octet in (0..disk.contents(&name).expect("there").len()).step_by(61) {
            disk.flip(&name, octet, 1);
        }
    }
    check(disk);
    let disk = bench.disk.killed();
    disk.remove("checkpoint.spare").expect("removed");
    check(disk);
}

#[test]
fn a_flipped_bit_below_the_mark_costs_the_record_it_hits() {
    let bench = filled();
    let (name, records) = in_last_segment(&bench.disk);
    let (hits, last) = records.split_at(records.len() - 1);
    for &(sequence, start, end) in hits.iter().chain(last).step_by(3) {
        for octet in [
            start,
            start + 5,
            start + 12,
            start + 17,
            start + 24,
            end - 9,
        ] {
            let disk = bench.disk.killed();
            assert!(disk.flip(&name, octet, 2));
            let mut after = Bench::open(disk);
            let mut expected = live();
            expected.retain(|&other| other != sequence);
            let found = readable(&mut after);
            if found == live() {
                // The bit was padding.
                continue;
            }
            assert_eq!(found, expected, "octet {octet} of message {sequence}");
            assert_eq!(after.recovery.lost_records, 1);
            assert!(
                after
                    .recovery
                    .report
                    .iter()
                    .any(|line| line.contains(&name))
            );
            assert_eq!(
                files(&after.disk, "")
                    .iter()
                    .filter(|n| n.contains(".damaged"))
                    .count(),
                1
            );
            // It is told once more at the next start, from the index, by nobody: what was lost is
            // not lost again.
            let mut again = Bench::open(after.disk.killed());
            assert_eq!(readable(&mut again), expected);
        }
    }
}

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

/// Start of the last record of a segment in use, as far as headers tell.
fn last_record(octets: &[u8], number: u32) -> usize {
    let header = record_codec::SegmentHeader::decode(octets, number).expect("a header");
    let limit = match header.records_end {
        0 => octets.len(),
        end => end as usize,
    };
    let mut last = 0;
    scan::scan(&octets[..limit], header.seed, true, |item| {
        if let scan::Item::Record { offset, .. } = item {
            last = offset as usize;
        }
    });
    last
}

/// No header follows it in its segment by which it would be missed.
#[test]
fn damage_to_the_head_of_the_last_record_of_a_segment_is_told_and_kept() {
    let mut bench = filled();
    for sequence in 1..=100 {
        if sequence % 7 != 0 {
            bench.store.settle_range(QueueId(1), sequence, sequence);
        }
    }
    bench.store.checkpoint();
    for _ in 0..4 {
        bench.settle_down();
    }
    assert!(bench.store.counters().compacted > 0);
    let (mut rewritten, mut as_written) = (0, 0);
    for index in files(&bench.disk, ".idx") {
        let name = index.replace(".idx", ".seg");
        let octets = bench.disk.contents(&name).expect("there");
        let number: u32 = name[..10].parse().expect("a number");
        let next = segment::segment_name(number + 1);
        let header = record_codec::SegmentHeader::decode(&octets, number).expect("a header");
        let next = bench
            .disk
            .contents(&next)
            .is_some_and(|octets| octets[0] != 0);
        if header.rewritten == 0 && !next {
            continue;
        }
        *(if header.rewritten > 0 {
            &mut rewritten
        } else {
            &mut as_written
        }) += 1;
        let disk = bench.disk.killed();
        disk.remove(&index).expect("removed");
        let at = last_record(&octets, number);
        assert!(disk.flip(&name, at + 6, 1));
        let after = Bench::open(disk);
        let report = &after.recovery.report;
        assert_eq!(after.recovery.lost_records, 1, "{name}: {report:?}");
        assert!(report[0].contains(&name), "{report:?}");
        let aside = format!("{name}.damaged-{at}");
        let kept = after.disk.contents(&aside).expect("kept aside");
        assert_eq!(kept[..4], octets[at..at + 4]);
        assert!(kept.len() > 20);
    }
    assert!(rewritten > 0 && as_written > 0, "{rewritten} {as_written}");
}

/// Only the checkpoint knows that there was one.
#[test]
fn damage_to_the_head_of_the_last_record_of_the_log_is_told_and_kept() {
    let mut bench = filled();
    bench.append(1, 301, &body_of(301));
    bench.store.checkpoint();
    for _ in 0..4 {
        bench.settle_down();
    }
    let (name, records) = in_last_segment(&bench.disk);
    let (sequence, start, end) = *records.last().expect("many");
    assert_eq!(sequence, 301);
    let octets = bench.disk.contents(&name).expect("there");
    assert!(octets[end..].iter().all(|&octet| octet == 0));
    for octet in [start, start + 6, start + 15, start + 17] {
        let disk = bench.disk.killed();
        assert!(disk.flip(&name, octet, 1));
        let mut after = Bench::open(disk);
        let report = after.recovery.report.clone();
        assert_eq!(after.recovery.lost_records, 1, "{octet}: {report:?}");
        assert!(report[0].contains(&name), "{report:?}");
        assert_eq!(readable(&mut after), live());
        let aside = format!("{name}.damaged-{start}");
        let kept = after.disk.contents(&aside).expect("kept aside");
        assert_eq!(kept.len(), end - start);
        // What comes next is found again behind it.
        after.append(1, 302, &body_of(302));
        after.settle_down();
        let mut again = Bench::open(after.disk.killed());
        assert_eq!(readable(&mut again).last(), Some(&302));
        assert_eq!(
            again.recovery.lost_records, 0,
            "{:?}",
            again.recovery.report
        );
    }
    // What was written and is zeros: nothing is there to be kept.
    let disk = bench.disk.killed();
    disk.put(
        &name,
        &[&octets[..start], &vec![0; octets.len() - start]].concat(),
    );
    let after = Bench::open(disk);
    assert_eq!(
        after.recovery.lost_records, 1,
        "{:?}",
        after.recovery.report
    );
}

/// What is left of it was flushed, and confirmed.
#[test]
fn a_group_whose_last_record_is_damaged_takes_nothing_along() {
    let mut bench = Bench::open(MemoryStorage::new());
    bench.store.define(&[(b"queue/1", Some(b"durable"))]);
    bench.append(1, 1, &body_of(1));
    bench.settle_down();
    bench.store.group_begin();
    for sequence in 2..=5 {
        bench.append(1, sequence, &body_of(sequence));
    }
    bench.store.group_end();
    bench.settle_down();
    // The pause after which the last flush is marked, and the flush of that mark.
    for _ in 0..3 {
        bench.now.monotonic_us += 300_000;
        bench.settle_down();
    }
    let (name, records) = in_last_segment(&bench.disk);
    let (sequence, start, _) = *records.last().expect("five");
    assert_eq!(sequence, 5);
    for octet in [start + 1, start + 30] {
        let disk = bench.disk.killed();
        assert!(disk.flip(&name, octet, 4));
        let mut after = Bench::open(disk);
        assert_eq!(readable(&mut after), [1, 2, 3, 4]);
        assert_eq!(after.recovery.lost_records, 1);
    }
}

#[test]
fn zeroed_and_overwritten_pages_cost_what_lies_in_them() {
    let bench = filled();
    let (name, records) = in_last_segment(&bench.disk);
    for fill in [0_u8, 0xFF] {
        let disk = bench.disk.killed();
        let mut octets = disk.contents(&name).expect("there");
        let (from, to) = (records[5].1, records[8].1);
        octets[from..to].fill(fill);
        disk.put(&name, &octets);
        let mut after = Bench::open(disk);
        let mut expected = live();
        expected.retain(|other| !records[5..8].iter().any(|record| record.0 == *other));
        assert_eq!(readable(&mut after), expected);
        assert!(after.recovery.lost_records >= 3);
    }
}

#[test]
fn a_segment_cut_anywhere_keeps_what_lies_before_the_cut() {
    let bench = filled();
    let (name, records) = in_last_segment(&bench.disk);
    let whole = bench.disk.contents(&name).expect("there");
    for cut in (0..whole.len()).step_by(97) {
        let disk = bench.disk.killed();
        disk.put(&name, &whole[..cut]);
        let mut after = Bench::open(disk);
        let found = readable(&mut after);
        let kept = |&(_, start, end): &&(u64, usize, usize)| *end <= cut + 8 && *start < cut;
        let at_least = records.iter().filter(kept).count().saturating_sub(1);
        let first = records[0].0;
        let here = found.iter().filter(|&&sequence| sequence >= first).count();
        let settled = records.iter().filter(|record| record.0 % 10 == 0).count();
        assert!(
            here + settled >= at_least,
            "cut at {cut}: {here} of {at_least}"
        );
        assert!(
            live()
                .iter()
                .filter(|&&s| s < first)
                .all(|s| found.contains(s))
        );
    }
}

/// Damage beyond the last mark, which lies in the next segment and goes with the torn end: what is
/// confirmed after such a start must not be taken for a torn end by the one after it.
#[test]
fn what_is_confirmed_after_damage_survives_the_next_start() {
    let config = || StoreConfig {
        segment_octets_max: 8 << 10,
        ..small_config()
    };
    let open = |disk| Bench::open_seeded(disk, config(), 11).expect("it opens");
    let mut cut_off = 0;
    for count in 180..220 {
        let mut bench = open(MemoryStorage::new());
        bench.store.define(&[(b"queue/1", Some(b"durable"))]);
        for sequence in 1..=count {
            let entry = bench.append(1, sequence, &body_of(sequence));
            if sequence % 4 != 0 && sequence < 100 {
                bench.store.settle(QueueId(1), entry);
            }
            if sequence % 10 == 0 {
                bench.settle_down();
            }
            if sequence == 100 {
                bench.store.checkpoint();
            }
        }
        bench.settle_down();
        for name in files(&bench.disk, ".seg") {
            let disk = bench.disk.killed();
            let mut octets = disk.contents(&name).expect("it is there");
            let end = octets.len().min(7017);
            octets[end.min(1121)..end].fill(0x79);
            disk.put(&name, &octets);
            let mut damaged = open(disk);
            let report = damaged.recovery.report.concat();
            cut_off += u32::from(report.contains("lost") && report.contains("torn end"));
            let Some(queue) = damaged.recovery.queues.first() else {
                continue;
            };
            let next = queue.next_sequence;
            damaged.append(1, next, &body_of(next));
            damaged.settle_down();
            let mut again = open(damaged.disk.killed());
            let found = readable(&mut again);
            assert!(
                found.contains(&next),
                "{count} messages, {name}: {report}; {:?}",
                again.recovery.report
            );
        }
    }
    assert!(cut_off > 0, "the case is met");
}

#[test]
fn a_missing_segment_is_named_and_the_rest_is_there() {
    let bench = filled();
    for name in files(&bench.disk, ".idx") {
        let disk = bench.disk.killed();
        let name = name.replace(".idx", ".seg");
        disk.remove(&name).expect("removed");
        let mut after = Bench::open(disk);
        let found = readable(&mut after);
        assert!(found.len() < live().len() && found.len() > live().len() / 3);
        assert!(!after.recovery.report.is_empty());
        // What is new does not take the place of what was lost.
        let next = after.recovery.queues[0].next_sequence;
        assert!(next > 300, "{next}");
    }
}

#[test]
fn a_rewritten_segment_without_its_table_gives_each_entry_its_own_message() {
    let mut bench = filled();
    for sequence in 1..=100 {
        if sequence % 7 != 0 {
            bench.store.settle_range(QueueId(1), sequence, sequence);
        }
    }
    bench.store.checkpoint();
    for _ in 0..4 {
        bench.settle_down();
    }
    assert!(bench.store.counters().compacted > 0);
    let kept = |sequence: &u64| *sequence > 100 || sequence.is_multiple_of(7);
    let mut expected = live();
    expected.retain(kept);
    let mut damaged = 0;
    for name in files(&bench.disk, ".seg") {
        let whole = bench.disk.contents(&name).expect("there");
        let number = name[..10].parse().expect("a number");
        let header = record_codec::SegmentHeader::decode(&whole, number);
        let Some(header) = header.filter(|header| header.rewritten > 0) else {
            continue;
        };
        damaged += 1;
        let disk = bench.disk.killed();
        disk.put(&name, &whole[..header.records_end as usize]);
        let mut after = Bench::open(disk);
        assert_eq!(readable(&mut after), expected);
        assert!(
            after
                .recovery
                .report
                .iter()
                .any(|line| line.contains("table"))
        );
        let mut again = Bench::open(after.disk.killed());
        assert_eq!(readable(&mut again), expected);
    }
    assert!(damaged > 0);
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
        let octets = disk.contents(&name).expect("there");
        let header = record_codec::SegmentHeader::decode(&octets, number).expect("a header");
        let mut records = Vec::new();
        scan::scan(&octets, header.seed, true, |item| {
            if let scan::Item::Record {
                offset,
                header,
                payload,
            } = item
            {
                let message = record_codec::MessagePayload::new(header.kind, payload);
                let sequence = message.and_then(|it| it.queues().next()).map(|it| it.1);
                records.push((number, sequence, offset, header.record_octets()));
            }
        });
        let last = records.last().map(|it| it.2);
        for (number, sequence, offset, octets) in records {
            if let Some(sequence) = sequence.filter(|it| it % 10 != 0) {
                found.push((number, sequence, offset, octets, Some(offset) == last));
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

#[test]
fn a_checkpoint_lost_with_its_copy_brings_settled_messages_back_but_loses_none() {
    let mut bench = filled();
    bench.store.checkpoint();
    bench.settle_down();
    let original = bench.disk.contents("checkpoint").expect("there");
    for cut in [0, 1, 700, 1100] {
        let disk = bench.disk.killed();
        disk.put("checkpoint", &original[..cut]);
        // The copy in the spare space is as good.
        let mut after = Bench::open(disk.killed());
        assert_eq!(readable(&mut after), live(), "{cut}");
        assert_eq!(after.recovery.report.len(), 1);
        disk.put("checkpoint.spare", &original[..cut]);
        let mut after = Bench::open(disk);
        let found = readable(&mut after);
        assert!(
            live().iter().all(|sequence| found.contains(sequence)),
            "{cut}"
        );
        assert!(!after.recovery.report.is_empty());
    }
}

#[test]
fn files_that_are_not_segments_yet_are_used_and_strange_ones_kept() {
    let bench = filled();
    let disk = bench.disk.killed();
    disk.put("0000000900.seg", &[]);
    disk.put("0000000901.seg", &[0; 8192]);
    disk.put("0000000902.seg", &[0xAB; 8192]);
    disk.put("notes.txt", b"mine");
    let mut after = Bench::open(disk);
    assert_eq!(readable(&mut after), live());
    after.append(1, 301, b"more");
    after.settle_down();
    assert_eq!(
        after.disk.contents("0000000902.seg.damaged"),
        Some(vec![0xAB; 8192])
    );
    assert_eq!(
        after.disk.contents("notes.txt").as_deref(),
        Some(&b"mine"[..])
    );
}

#[test]
fn a_newer_format_is_refused_and_both_versions_named() {
    for name in ["0000000001.seg", "checkpoint", "definitions"] {
        let mut bench = filled();
        bench.store.checkpoint();
        bench.settle_down();
        let disk = bench.disk.killed();
        let mut octets = disk.contents(name).expect("there");
        for copy in [0, 512] {
            octets[copy + 8..copy + 12].copy_from_slice(&7_u32.to_be_bytes());
            let crc = crc32fast::hash(&octets[copy..copy + 60]);
            octets[copy + 60..copy + 64].copy_from_slice(&crc.to_be_bytes());
        }
        disk.put(name, &octets);
        let before = disk.list().expect("lists");
        let refused = Bench::open_seeded(disk.clone(), small_config(), 3).expect_err("refused");
        let line = refused.to_string();
        assert!(
            line.contains("format 7") && line.contains("up to 1"),
            "{line}"
        );
        assert_eq!(disk.list().expect("lists"), before);
    }
}

#[test]
fn definitions_survive_torn_ends_and_tell_damage() {
    let mut bench = Bench::open(MemoryStorage::new());
    for key in 0..20_u8 {
        bench.store.define(&[(&[key], Some(&[key; 100]))]);
        bench
            .store
            .define(&[(&[key], Some(&[key; 50])), (b"last", Some(&[key]))]);
        bench.store.define(&[(&[key / 2], None)]);
        bench.settle_down();
    }
    let expected: Vec<_> = (10..20_u8).map(|key| (vec![key], vec![key; 50])).collect();
    let check = |recovery: &Recovery| {
        let mut pairs = recovery.definitions.clone();
        pairs.retain(|pair| pair.0 != b"last");
        assert_eq!(pairs, expected);
    };
    let whole = bench.disk.contents("definitions").expect("there");
    let disk = bench.disk.killed();
    let mut torn = whole.clone();
    torn.extend_from_slice(&[9; 300]);
    disk.put("definitions", &torn);
    let mut after = Bench::open(disk);
    check(&after.recovery);
    assert!(!after.recovery.definitions_damaged && after.recovery.report.len() == 1);
    after.store.define(&[(b"more", Some(b"x"))]);
    after.settle_down();
    let again = Bench::open(after.disk.killed());
    assert!(
        again.recovery.report.is_empty(),
        "{:?}",
        again.recovery.report
    );
    assert_eq!(
        again.recovery.definitions.last(),
        Some(&(b"more".to_vec(), b"x".to_vec()))
    );
    // Damage in the middle is told, costs its record, and the file is kept.
    let disk = bench.disk.killed();
    disk.flip("definitions", 1100, 0);
    let after = Bench::open(disk);
    check(&after.recovery);
    assert!(after.recovery.definitions_damaged && after.recovery.lost_records == 1);
    // Without its header nothing can be read; it is kept and the engine told.
    let disk = bench.disk.killed();
    disk.put("definitions", &[5; 3000]);
    let after = Bench::open(disk);
    assert!(after.recovery.definitions_damaged && after.recovery.definitions.is_empty());
    assert!(
        files(&after.disk, "")
            .iter()
            .any(|name| name.starts_with("definitions.damaged"))
    );
}

/// A little of everything; the sequences whose batch was flushed and that were not settled.
fn scenario(bench: &mut Bench) -> Vec<u64> {
    let mut sure = Vec::new();
    let mut waiting = Vec::new();
    for sequence in 1..=120_u64 {
        let entry = bench.append(1, sequence, &body_of(sequence));
        waiting.push((bench.store.batch(), sequence));
        if sequence % 3 == 0 {
            bench.store.settle(QueueId(1), entry);
            waiting.pop();
            sure.retain(|&other| other != sequence);
        }
        if sequence == 60 {
            bench.store.checkpoint();
        }
        if sequence % 8 == 0 {
            bench.store.permit(QueueId(1), sequence + 100);
            bench
                .store
                .define(&[(b"key", Some(&sequence.to_be_bytes()))]);
        }
        let kept = bench.store.keep(bench.now, &body_message(&[1; 400]), 1);
        let page = bench
            .store
            .park(vec![Entry::new(kept.at, sequence, kept.share_octets, 0)]);
        bench.now.monotonic_us += 300_000;
        bench.commit();
        while bench.flush_one() || bench.keep_one() {}
        bench.store.release_page(page);
        let flushed = bench.store.flushed();
        waiting.retain(|&(batch, sequence)| {
            if batch <= flushed {
                sure.push(sequence);
            }
            batch > flushed
        });
    }
    sure
}

#[test]
fn each_call_may_fail_once_at_every_position() {
    for fault in [
        DiskFault::Eio,
        DiskFault::Enospc,
        DiskFault::Short,
        DiskFault::Eintr,
    ] {
        let mut met = 0;
        for n in 1.. {
            let disk = MemoryStorage::new();
            disk.fail(n, fault);
            let Ok(mut bench) = Bench::open_seeded(disk.clone(), small_config(), n) else {
                continue;
            };
            let sure = scenario(&mut bench);
            if disk.faults_hit() == 0 {
                break;
            }
            met += 1;
            if matches!(fault, DiskFault::Short | DiskFault::Eintr) {
                assert_eq!(sure.len(), 80, "call {n}: {fault:?} is no failure");
            }
            // What was confirmed is there, whatever failed.
            let mut after = Bench::open(disk.crash(n));
            let found = readable(&mut after);
            assert!(
                sure.iter().all(|sequence| found.contains(sequence)),
                "call {n} {fault:?}: {sure:?} in {found:?}"
            );
        }
        assert!(met > 200, "{met} calls");
    }
}

#[test]
fn each_call_of_a_start_may_fail_and_the_next_start_finds_all() {
    let bench = filled();
    // A torn end, so that the start has something to write.
    let image = bench.disk.killed();
    let (name, records) = in_last_segment(&image);
    image.flip(&name, records[records.len() - 1].1 + 30, 1);
    for fault in [
        DiskFault::Eio,
        DiskFault::Enospc,
        DiskFault::Short,
        DiskFault::Eintr,
    ] {
        for n in 1.. {
            let disk = image.killed();
            disk.fail(n, fault);
            let opened = Bench::open_seeded(disk.clone(), small_config(), n);
            let hit = disk.faults_hit() > 0;
            drop(opened);
            let mut after = Bench::open(disk.crash(n));
            assert!(
                readable(&mut after).len() + 1 >= live().len(),
                "call {n} {fault:?}"
            );
            if !hit {
                break;
            }
        }
    }
}

/// A small directory whose every octet is determined.
fn golden() -> MemoryStorage {
    let mut bench = Bench::open_seeded(MemoryStorage::new(), small_config(), 42).expect("opens");
    bench
        .store
        .define(&[(b"queue/1", Some(b"first")), (b"queue/2", Some(b"second"))]);
    bench.store.define(&[(b"queue/2", None)]);
    for sequence in 1..=60_u64 {
        let to = [(QueueId(1), sequence), (QueueId(3), sequence * 2)];
        let to = if sequence % 4 == 0 { &to[..] } else { &to[..1] };
        let body = body_of(sequence);
        let message = body_message(&body);
        let stored = bench.store.append(bench.now, &message, to, to.len() as u32);
        if sequence % 3 == 0 {
            let entry = Entry::new(stored.at, sequence, stored.share_octets, Entry::LOGGED);
            bench.store.settle(QueueId(1), entry);
        }
        if sequence % 10 == 0 {
            bench.store.permit(QueueId(1), sequence + 5);
            bench.settle_down();
        }
    }
    bench.store.checkpoint();
    bench.settle_down();
    bench.store.group_begin();
    bench.append(1, 61, b"moved");
    bench.store.settle_range(QueueId(1), 1, 1);
    bench.store.group_end();
    bench.settle_down();
    bench.disk.killed()
}

/// A directory with what the other has not: indexes, a rewritten segment, a large body and a copy of
/// the checkpoint.
fn golden_in_use() -> MemoryStorage {
    let mut bench = Bench::open_seeded(MemoryStorage::new(), small_config(), 43).expect("opens");
    bench.store.define(&[(b"queue/1", Some(b"in use"))]);
    let octets = large_octets();
    let large = bench.store.large_begin(octets.len() as u64, true);
    assert!(bench.store.large_append(large, &octets));
    let message = Message {
        body: Body::Large(large),
        ..body_message(b"")
    };
    let to = [(QueueId(1), 1)];
    bench.store.append(bench.now, &message, &to, 1);
    bench.settle_down();
    let mut entries = Vec::new();
    for sequence in 2..=400_u64 {
        entries.push(bench.append(1, sequence, &body_of(sequence)));
        if sequence % 20 == 0 {
            bench.settle_down();
        }
    }
    for entry in entries {
        if entry.sequence() % 8 != 0 && entry.sequence() <= 300 {
            bench.store.settle(QueueId(1), entry);
        }
        if entry.sequence() % 50 == 0 {
            bench.settle_down();
        }
    }
    bench.store.checkpoint();
    bench.settle_down();
    bench.settle_down();
    assert!(bench.store.counters().compacted > 0);
    bench.disk.killed()
}

/// A body of more than one of the stretches that have a checksum each.
fn large_octets() -> Vec<u8> {
    (0..70_000_u32).map(|at| (at / 100) as u8).collect()
}

/// The directory `name` of those that are kept, held against what is written `now`. With
/// `LEVERET_WRITE_GOLDEN` it is written first.
fn golden_files(name: &str, now: &MemoryStorage) -> MemoryStorage {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("LEVERET_WRITE_GOLDEN").is_some_and(|wanted| wanted == *name) {
        std::fs::create_dir_all(&directory).expect("a directory");
        for (name, _) in now.list().expect("lists") {
            // Zeros at the end say nothing; a shorter file means the same.
            let mut octets = now.contents(&name).expect("there");
            octets.truncate(
                octets
                    .iter()
                    .rposition(|&octet| octet != 0)
                    .map_or(0, |at| at + 1),
            );
            std::fs::write(directory.join(name), octets).expect("written");
        }
    }
    let then = MemoryStorage::new();
    for entry in std::fs::read_dir(&directory).expect("golden files") {
        let entry = entry.expect("a file");
        let mut octets = std::fs::read(entry.path()).expect("reads");
        let name = entry.file_name().into_string().expect("a name");
        let here = now.contents(&name).unwrap_or_default();
        // A spare space without a copy in it is one that was never written to.
        if !octets.is_empty() {
            octets.resize(here.len().max(octets.len()), 0);
            assert!(octets == here, "{name} is written differently than it was");
        }
        then.put(&name, &octets);
    }
    then
}

#[test]
fn the_format_of_a_directory_in_use_is_what_it_was() {
    let then = golden_files("format-1-in-use", &golden_in_use());
    assert!(files(&then, ".idx").len() > 1 && files(&then, ".body").len() == 1);
    let rewritten = files(&then, ".seg").into_iter().filter(|name| {
        let octets = then.contents(name).expect("there");
        let number = name[..10].parse().expect("a number");
        record_codec::SegmentHeader::decode(&octets, number).is_some_and(|h| h.rewritten > 0)
    });
    assert!(rewritten.count() > 0);
    let check = |disk: MemoryStorage| {
        let mut bench = Bench::open(disk);
        let mut found = Vec::new();
        for page in bench.recovery.queues[0].pages.clone() {
            let entries = loop {
                if let Some(entries) = bench.store.load(page.page) {
                    break entries;
                }
                bench.settle_down();
            };
            for entry in entries {
                found.push(entry.sequence());
                if entry.sequence() > 1 {
                    assert_eq!(bench.body(entry.at), Some(body_of(entry.sequence())));
                    continue;
                }
                let mut scratch = Vec::new();
                while bench.store.read(entry.at, &mut scratch) == Read::Cold {
                    bench.settle_down();
                }
                let Read::Here(stored) = bench.store.read(entry.at, &mut scratch) else {
                    panic!("it is warm");
                };
                let Body::Large(large) = stored.message.body else {
                    panic!("the first body is large");
                };
                let handle = bench.store.large_handle(large).expect("its file is there");
                let mut octets = Vec::new();
                for offset in [0, 35_000] {
                    while bench.store.read_large(&handle, offset, 35_000, &mut octets)
                        == LargeRead::Cold
                    {
                        bench.settle_down();
                    }
                }
                assert_eq!(octets, large_octets());
            }
        }
        let live = |sequence: &u64| *sequence == 1 || *sequence > 300 || sequence.is_multiple_of(8);
        assert_eq!(found, (1..=400).filter(live).collect::<Vec<_>>());
        bench.recovery.report
    };
    assert_eq!(check(then.killed()), [""; 0]);
    // What stands for something else does so.
    let disk = then.killed();
    for name in files(&disk, ".idx") {
        disk.remove(&name).expect("removed");
    }
    assert_eq!(check(disk), [""; 0]);
    let disk = then.killed();
    disk.remove("checkpoint").expect("removed");
    assert_eq!(check(disk).len(), 1);
}

#[test]
fn the_format_is_what_it_was() {
    let then = golden_files("format-1", &golden());
    let mut bench = Bench::open(then);
    assert_eq!(bench.recovery.report, [""; 0]);
    let pairs = vec![(b"queue/1".to_vec(), b"first".to_vec())];
    assert_eq!(bench.recovery.definitions, pairs);
    let queues = bench.recovery.queues.clone();
    let told: Vec<_> = queues
        .iter()
        .map(|q| (q.id.0, q.messages, q.next_sequence))
        .collect();
    assert_eq!(told, [(1, 40, 66), (3, 15, 121)]);
    assert_eq!(queues[0].redelivered_up_to, Some(65));
    let page = queues[1].pages[0].page;
    let entries = loop {
        if let Some(entries) = bench.store.load(page) {
            break entries;
        }
        bench.settle_down();
    };
    let mut scratch = Vec::new();
    let Read::Here(stored) = bench.store.read(entries[0].at, &mut scratch) else {
        panic!("it was just mapped");
    };
    assert_eq!(stored.arrived_ms, 1_700_000_000_000);
    assert_eq!(
        stored.message.body,
        Body::Octets(&body_of(entries[0].sequence() / 2))
    );
}

#[test]
fn a_survey_counts_what_is_there() {
    let bench = filled();
    let mut lines = Vec::new();
    let counted = survey(&bench.disk, &mut lines).expect("lists");
    let text = String::from_utf8(lines).expect("text");
    assert!(
        counted.segments > 2 && counted.records > 300 && counted.damaged == 0,
        "{text}"
    );
    assert!(text.contains("queue/1 (7 octets)"), "{text}");
    bench.disk.flip("0000000001.seg", 2000, 1);
    let mut lines = Vec::new();
    let damaged = survey(&bench.disk, &mut lines).expect("lists");
    assert_eq!((damaged.damaged, damaged.records), (1, counted.records - 1));
}

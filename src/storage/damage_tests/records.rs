//! Damage to records of segments that a start reads.

use super::*;

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

/// No header follows it in its segment by which it would be missed.
#[test]
fn damage_to_the_head_of_the_last_record_of_a_segment_is_told_and_kept() {
    let (bench, _) = compacted();
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

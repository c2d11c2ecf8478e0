//! Whole files that are missing, cut, strange or of another version.

use super::*;

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
    let (bench, expected) = compacted();
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
    // A crash came before it was removed with its segment.
    let index = files(&disk, ".idx")[0].clone();
    let octets = disk.contents(&index).expect("there");
    disk.put("0000000800.idx", &octets);
    let mut after = Bench::open(disk);
    assert_eq!(readable(&mut after), live());
    after.append(1, 301, b"more");
    after.settle_down();
    assert_eq!(after.disk.contents("0000000800.idx"), None);
    assert_eq!(after.disk.contents(&index), Some(octets));
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

//! Failures of single calls to the disk.

use super::*;

const FAULTS: [DiskFault; 4] = [
    DiskFault::Eio,
    DiskFault::Enospc,
    DiskFault::Short,
    DiskFault::Eintr,
];

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
    for fault in FAULTS {
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
    for fault in FAULTS {
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

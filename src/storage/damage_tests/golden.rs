//! The format as it was: directories that are kept and must be what is written now.

use super::*;

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
                    assert_eq!(bench.body(entry), Some(body_of(entry.sequence())));
                    continue;
                }
                let mut scratch = Vec::new();
                while bench.store.read(entry, &mut scratch) == Read::Cold {
                    bench.settle_down();
                }
                let Read::Here(stored) = bench.store.read(entry, &mut scratch) else {
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
    let Read::Here(stored) = bench.store.read(entries[0], &mut scratch) else {
        panic!("it was just mapped");
    };
    assert_eq!(stored.arrived_ms, 1_700_000_000_000);
    assert_eq!(
        stored.message.body,
        Body::Octets(&body_of(entries[0].sequence() / 2))
    );
}

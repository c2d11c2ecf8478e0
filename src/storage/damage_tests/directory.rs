//! A directory to be damaged, and what is found in it again.

use super::*;

/// A directory with 300 messages in queue 1, every tenth settled, all of it flushed and marked; the
/// last segment has no index.
pub(super) fn filled() -> Bench {
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

/// As [`filled`], with so few of the first messages left that their segments were rewritten; the
/// sequences that are live.
pub(super) fn compacted() -> (Bench, Vec<u64>) {
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
    let mut expected = live();
    expected.retain(|sequence| *sequence > 100 || sequence.is_multiple_of(7));
    (bench, expected)
}

pub(super) fn body_of(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().repeat(5)
}

/// Sequences that queue 1 has and whose octets are what they were.
pub(super) fn readable(bench: &mut Bench) -> Vec<u64> {
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
                if let Some(body) = bench.body(entry) {
                    assert_eq!(body, body_of(entry.sequence()));
                    found.push(entry.sequence());
                }
            }
        }
    }
    found
}

pub(super) fn live() -> Vec<u64> {
    (1..=300).filter(|sequence| sequence % 10 != 0).collect()
}

/// Files of the directory that end so, ascending.
pub(super) fn files(disk: &MemoryStorage, ending: &str) -> Vec<String> {
    let mut names = names(disk);
    names.retain(|name| name.ends_with(ending));
    names
}

/// Offset of the record of `sequence` in the last segment that is in use, and that segment.
pub(super) fn in_last_segment(disk: &MemoryStorage) -> (String, Vec<(u64, usize, usize)>) {
    let used = |name: &&String| disk.contents(name).is_some_and(|octets| octets[0] != 0);
    let names = files(disk, ".seg");
    let name = names.iter().rfind(used).expect("one").clone();
    let records = records_of(disk, &name).into_iter();
    let messages = records.filter_map(|(sequence, start, end)| Some((sequence?, start, end)));
    let messages = messages.collect();
    (name, messages)
}

/// The records of a segment: of a message the sequence, start, end.
pub(super) fn records_of(disk: &MemoryStorage, name: &str) -> Vec<(Option<u64>, usize, usize)> {
    let octets = disk.contents(name).expect("there");
    let number = name[..10].parse().expect("a number");
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
            let sequence = message.map(|it| it.queues().next().expect("one").1);
            let start = offset as usize;
            records.push((sequence, start, start + header.record_octets() as usize));
        }
    });
    records
}

/// Start of the last record of a segment in use, as far as headers tell.
pub(super) fn last_record(octets: &[u8], number: u32) -> usize {
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

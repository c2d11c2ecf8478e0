//! Checkpoints: the state of all queues at some point of the log, so that a start need not read
//! what came before, and so that segments may go.
//!
//! A checkpoint is taken while the broker works on, a few queues a turn. It covers every record up
//! to the one that was last when it began; later ones may or may not be in it, and replaying them
//! again changes nothing. It takes its place only after everything that it may have seen is on
//! stable storage.
//!
//! The file is a segment header (number 0) and records: a head, the segments, chunks of queues, an
//! end; numbered from 1. A damaged chunk costs the settlements of its queues and no more.

use std::io;

use super::files::{Storage, read_whole, write_all_at};
use super::ledger::Ledger;
use super::ranges::RangeSet;
use super::record_codec::{
    self as codec, FORMAT_VERSION, RecordHeader, RecordKind, Seed, SegmentHeader, u32_at, u64_at,
};
use crate::broker::record::QueueId;
use crate::planted::{Fault, planted};

/// Name of the checkpoint.
pub(super) const NAME: &str = "checkpoint";
/// Name of the space that the next checkpoint is written into.
pub(super) const SPARE_NAME: &str = "checkpoint.spare";
/// Name of a checkpoint that found no room in the spare one.
pub(super) const NEW_NAME: &str = "checkpoint.new";

/// Zeros that are written at a time.
const ZEROS_OCTETS: usize = 256 << 10;

/// What the head of a checkpoint says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Records up to this number are in it.
    pub(super) covers_lsn: u64,
    /// Records up to this number were on stable storage when it took its place.
    pub(super) stable_lsn: u64,
    /// No segment from this number on existed.
    pub(super) next_number: u32,
    /// No queue with this id or a greater one was ever logged.
    pub(super) queue_id_next: u32,
}

/// Writes a checkpoint piece by piece.
#[derive(Debug)]
pub(super) struct Encoder {
    octets: Vec<u8>,
    seed: Seed,
    next_record: u64,
}

impl Encoder {
    /// * `segments`: number, and number of its last record that is covered.
    pub(super) fn new(seed: Seed, head: Head, segments: &[(u32, u64)]) -> Self {
        let mut octets = Vec::new();
        SegmentHeader::new(0, seed, 1).encode(&mut octets);
        let mut encoder = Encoder {
            octets,
            seed,
            next_record: 1,
        };
        encoder.record(RecordKind::CheckpointHead, |octets| {
            octets.extend_from_slice(&head.covers_lsn.to_be_bytes());
            octets.extend_from_slice(&head.stable_lsn.to_be_bytes());
            octets.extend_from_slice(&head.next_number.to_be_bytes());
            octets.extend_from_slice(&head.queue_id_next.to_be_bytes());
        });
        encoder.record(RecordKind::CheckpointSegments, |octets| {
            octets.extend_from_slice(&(segments.len() as u32).to_be_bytes());
            for (number, last_lsn) in segments {
                octets.extend_from_slice(&number.to_be_bytes());
                octets.extend_from_slice(&last_lsn.to_be_bytes());
            }
        });
        encoder
    }

    fn record(&mut self, kind: RecordKind, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = codec::begin(&mut self.octets);
        encode(&mut self.octets);
        let number = self.next_record;
        self.next_record += 1;
        codec::finish(&mut self.octets, start, number, kind, false, self.seed);
    }

    /// Adds a chunk of queues.
    pub(super) fn queues(&mut self, queues: &[(QueueId, &Ledger)]) {
        self.record(RecordKind::CheckpointQueues, |octets| {
            octets.extend_from_slice(&(queues.len() as u32).to_be_bytes());
            for (queue, ledger) in queues {
                let ranges = if planted(Fault::DropOutOfOrderSettlements) {
                    0
                } else {
                    ledger.settled.ranges()
                };
                octets.extend_from_slice(&queue.0.to_be_bytes());
                octets.extend_from_slice(&(ranges as u32).to_be_bytes());
                octets.extend_from_slice(&ledger.next_sequence.to_be_bytes());
                octets.extend_from_slice(&ledger.permission.to_be_bytes());
                octets.extend_from_slice(&ledger.settled.low().to_be_bytes());
                for (first, last) in ledger.settled.iter_above().take(ranges) {
                    octets.extend_from_slice(&first.to_be_bytes());
                    octets.extend_from_slice(&last.to_be_bytes());
                }
            }
        });
    }

    /// The octets of the file.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let records = self.next_record;
        self.record(RecordKind::CheckpointEnd, |octets| {
            octets.extend_from_slice(&records.to_be_bytes());
        });
        self.octets
    }
}

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    pub(super) head: Head,
    /// Segments that existed: number, and number of its last record that is covered.
    pub(super) segments: Vec<(u32, u64)>,
    pub(super) queues: Vec<(QueueId, Ledger)>,
    /// Whether some of it could not be read.
    pub(super) damaged: bool,
}

impl Checkpoint {
    /// Whether the segment was given back: it existed when the checkpoint was taken, which does not
    /// name it.
    pub(super) fn left_out(&self, header: &SegmentHeader) -> bool {
        let named = |(number, _): &(u32, u64)| *number == header.number;
        header.first_lsn <= self.head.covers_lsn && !self.segments.iter().any(named)
    }

    /// The last record that a segment had when the checkpoint was taken, if it existed then.
    pub(super) fn last_lsn(&self, segment: u32) -> Option<u64> {
        let mut segments = self.segments.iter();
        segments.find_map(|&(number, last_lsn)| (number == segment).then_some(last_lsn))
    }
}

/// What reading the checkpoint came to.
#[derive(Debug)]
pub(super) enum Found {
    None,
    Checkpoint(Checkpoint),
    /// There is one, and nothing of it can be relied on.
    Unreadable,
    /// It was written by a newer program, in this version.
    Newer(u32),
}

impl Found {
    fn is_whole(&self) -> bool {
        matches!(self, Found::Checkpoint(checkpoint) if !checkpoint.damaged)
    }
}

/// Reads the checkpoint of the directory; its copy in the spare space when it is missing or
/// damaged and the copy is whole. That copy is of the same checkpoint, or of the next one, which is
/// as good: it was written when everything it may reflect was on stable storage, and nothing was
/// given back since.
pub(super) fn read<S: Storage>(storage: &S) -> io::Result<(Found, bool)> {
    let found = read_file(storage, NAME)?;
    if found.is_whole() || matches!(found, Found::Newer(_)) {
        return Ok((found, false));
    }
    // That it cannot be read now says nothing about what it holds: to start without it would bring
    // back what was settled.
    let copy = read_file(storage, SPARE_NAME)?;
    if copy.is_whole() {
        return Ok((copy, true));
    }
    Ok((found, false))
}

fn read_file<S: Storage>(storage: &S, name: &str) -> io::Result<Found> {
    let file = match storage.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
        Err(error) => return Err(error),
    };
    Ok(decode(&read_whole(storage, &file)?))
}

fn decode(octets: &[u8]) -> Found {
    let Some(header) = SegmentHeader::decode(octets, 0) else {
        return Found::Unreadable;
    };
    if header.version > FORMAT_VERSION {
        return Found::Newer(header.version);
    }
    let mut checkpoint = Checkpoint::default();
    let mut have_head = false;
    let mut have_segments = false;
    let mut next_record = 1;
    let mut ended = false;
    super::scan::scan(octets, header.seed, true, |item| {
        let super::scan::Item::Record {
            header, payload, ..
        } = item
        else {
            checkpoint.damaged = true;
            return;
        };
        checkpoint.damaged |= header.lsn != next_record;
        next_record = header.lsn + 1;
        let RecordHeader { kind, .. } = header;
        let understood = match kind {
            RecordKind::CheckpointHead => decode_head(payload).map(|head| {
                checkpoint.head = head;
                have_head = true;
            }),
            RecordKind::CheckpointSegments => decode_segments(payload).map(|segments| {
                checkpoint.segments = segments;
                have_segments = true;
            }),
            RecordKind::CheckpointQueues => {
                decode_queues(payload).map(|queues| checkpoint.queues.extend(queues))
            }
            RecordKind::CheckpointEnd => {
                ended = true;
                Some(())
            }
            _ => None,
        };
        checkpoint.damaged |= understood.is_none();
    });
    checkpoint.damaged |= !ended;
    if have_head && have_segments {
        Found::Checkpoint(checkpoint)
    } else {
        Found::Unreadable
    }
}

fn decode_head(payload: &[u8]) -> Option<Head> {
    Some(Head {
        covers_lsn: u64_at(payload, 0)?,
        stable_lsn: u64_at(payload, 8)?,
        next_number: u32_at(payload, 16)?,
        queue_id_next: u32_at(payload, 20)?,
    })
}

fn decode_segments(payload: &[u8]) -> Option<Vec<(u32, u64)>> {
    let count = u32_at(payload, 0)? as usize;
    let rest = payload.get(4..)?;
    (rest.len() == count.checked_mul(12)?).then_some(())?;
    rest.chunks_exact(12)
        .map(|octets| Some((u32_at(octets, 0)?, u64_at(octets, 4)?)))
        .collect()
}

fn decode_queues(payload: &[u8]) -> Option<Vec<(QueueId, Ledger)>> {
    let count = u32_at(payload, 0)?;
    let mut rest = payload.get(4..)?;
    let mut queues = Vec::new();
    for _ in 0..count {
        let (fixed, after) = rest.split_at_checked(32)?;
        let ranges = u32_at(fixed, 4)? as usize;
        let (ranges, after) = after.split_at_checked(ranges.checked_mul(16)?)?;
        rest = after;
        let mut settled = RangeSet::default();
        let low = u64_at(fixed, 24)?;
        if low > 0 {
            settled.insert(0, low - 1);
        }
        for range in ranges.chunks_exact(16) {
            settled.insert(u64_at(range, 0)?, u64_at(range, 8)?);
        }
        let ledger = Ledger {
            next_sequence: u64_at(fixed, 8)?,
            permission: u64_at(fixed, 16)?,
            settled,
            ..Ledger::default()
        };
        queues.push((QueueId(u32_at(fixed, 0)?), ledger));
    }
    Some(queues)
}

/// Writes a checkpoint into its place: into the spare space if that is large enough, so that it can
/// be written on a full disk, synced, then renamed.
pub(super) fn write<S: Storage>(storage: &S, octets: &[u8]) -> io::Result<()> {
    let spare = storage.open(SPARE_NAME).ok();
    let spare = spare.filter(|file| {
        storage
            .octets(file)
            .is_ok_and(|room| room >= octets.len() as u64)
    });
    let (file, name) = match spare {
        Some(file) => (file, SPARE_NAME),
        None => (storage.create(NEW_NAME, 0)?, NEW_NAME),
    };
    write_all_at(storage, &file, 0, octets)?;
    storage.sync(&file)?;
    if name == NEW_NAME {
        // What is in a spare space that is too small would be older than the checkpoint from here
        // on, and no copy of it any more.
        match storage.remove(SPARE_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    storage.rename(name, NAME)?;
    storage.sync_dir()?;
    // Space for the next one, without which that needs a disk that is not full. Until then it holds
    // a copy of this one.
    let room = (octets.len() * 2).max(16 << 10);
    if let Err(error) = write_spare(storage, octets, room) {
        log::debug!("no spare space for the next checkpoint: {error}");
    }
    Ok(())
}

/// Writes a copy of a checkpoint, with zeros behind it to the length of `room`.
fn write_spare<S: Storage>(storage: &S, octets: &[u8], room: usize) -> io::Result<()> {
    let file = storage.create(SPARE_NAME, 0)?;
    write_all_at(storage, &file, 0, octets)?;
    let zeros = vec![0; ZEROS_OCTETS.min(room)];
    let mut end = octets.len();
    while end < room {
        let length = zeros.len().min(room - end);
        write_all_at(storage, &file, end as u64, &zeros[..length])?;
        end += length;
    }
    storage.sync(&file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::record_codec::SEGMENT_START;

    fn encoded() -> (Vec<u8>, Head) {
        let head = Head {
            covers_lsn: 9,
            stable_lsn: 8,
            next_number: 4,
            queue_id_next: 3,
        };
        let mut encoder = Encoder::new(Seed(99), head, &[(1, 1), (3, 7)]);
        let mut ledger = Ledger {
            next_sequence: 100,
            permission: 65_536,
            ..Ledger::default()
        };
        ledger.settled.insert(0, 10);
        ledger.settled.insert(50, 60);
        ledger.settled.insert(99, 99);
        encoder.queues(&[(QueueId(1), &ledger)]);
        encoder.queues(&[(QueueId(2), &Ledger::default())]);
        (encoder.finish(), head)
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_into_the_spare_space() {
        let disk = crate::storage::MemoryStorage::new();
        let (octets, head) = encoded();
        for round in 0..3 {
            write(&disk, &octets).expect("written");
            let (Found::Checkpoint(read), false) = read(&disk).expect("reads") else {
                panic!("there is one");
            };
            assert!(!read.damaged);
            assert_eq!((read.head, read.segments), (head, vec![(1, 1), (3, 7)]));
            let ledger = &read.queues[0].1;
            assert_eq!((ledger.next_sequence, ledger.permission), (100, 65_536));
            let ranges: Vec<_> = ledger.settled.iter_above().collect();
            assert_eq!(
                (ledger.settled.low(), ranges),
                (11, vec![(50, 60), (99, 99)])
            );
            assert_eq!(read.queues[1].0, QueueId(2));
            if round == 0 {
                disk.set_free_octets(Some(0));
            }
        }
    }

    #[test]
    fn the_copy_stands_in_for_a_checkpoint_that_is_lost_or_damaged() {
        let disk = crate::storage::MemoryStorage::new();
        let (octets, head) = encoded();
        write(&disk, &octets).expect("written");
        let check = |disk: &crate::storage::MemoryStorage, expected: bool| {
            let (found, is_copy) = read(disk).expect("reads");
            assert_eq!(is_copy, expected);
            assert!(matches!(found, Found::Checkpoint(read) if !read.damaged && read.head == head));
        };
        check(&disk, false);
        for octet in [0, SEGMENT_START as usize + 40, octets.len() - 9] {
            // A header lies twice.
            disk.flip(NAME, octet, 0);
            disk.flip(NAME, octet + 512, 0);
            check(&disk, true);
            disk.flip(NAME, octet, 0);
            disk.flip(NAME, octet + 512, 0);
        }
        disk.remove(NAME).expect("removed");
        check(&disk, true);
        // A start without either would bring back what was settled.
        for call in 1..=2 {
            disk.fail(call, crate::storage::DiskFault::Eio);
            assert!(read(&disk).is_err(), "call {call}");
        }
        // Both are damaged: the one that is in its place counts.
        disk.put(NAME, &octets[..octets.len() - 9]);
        disk.flip(SPARE_NAME, SEGMENT_START as usize + 40, 0);
        let (found, is_copy) = read(&disk).expect("reads");
        assert!(!is_copy && matches!(found, Found::Checkpoint(read) if read.damaged));
    }

    #[test]
    fn damage_anywhere_is_noticed_and_costs_at_most_a_chunk() {
        let (octets, _) = encoded();
        for octet in SEGMENT_START as usize..octets.len() {
            let mut flipped = octets.clone();
            flipped[octet] ^= 4;
            match decode(&flipped) {
                Found::Checkpoint(read) if read.damaged => assert!(!read.queues.is_empty()),
                Found::Checkpoint(read) => assert_eq!(read.queues.len(), 2, "padding"),
                Found::Unreadable => {}
                other => panic!("{other:?}"),
            }
        }
        for length in 0..octets.len() - 8 {
            let whole =
                matches!(decode(&octets[..length]), Found::Checkpoint(read) if !read.damaged);
            assert!(!whole, "{length}");
        }
    }
}

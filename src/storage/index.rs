//! The index of a sealed segment: which entries of which queues lie in it, and what it says of
//! settlements and permissions. It makes a start O(segments) and lets recovered queues stay on
//! disk. It can always be made again from the segment, so it is never synced.
//!
//! ```text
//! offset  octets  field
//!      0       8  magic          "leveridx"
//!      8       4  version        of the format
//!     12       4  number         of the segment
//!     16       8  seed           of the segment; with `rewritten` it ties the index to its file
//!     24       8  rewritten      how often the segment was compacted
//!     32       8  first_lsn
//!     40       8  last_lsn
//!     48       8  records_end    offset in the segment
//!     56       8  stable_lsn     greatest mark in the segment
//!     64       8  group_from     first number of an unfinished group, 0 if none
//!     72       4  flags          1: a group ends in the segment
//!     76       4  queues         n, 40 octets each
//!     80       4  settlements    n, 16 octets each
//!     84       4  permissions    n, 12 octets each
//!     88       4  large          n, 12 octets each
//!     92       4  fences         n, 12 octets each
//!     96       4  crc            over the 96 octets before and everything up to the entries
//!    100          queues: id (4), entries (4), first (8), last (8), first entry (8), first fence (4), zero (4)
//!                 settlements: queue (4), first (6), last (6); sequences that are not there are among them
//!                 permissions: queue (4), up to (8)
//!                 large: place (4), file (8)
//!                 fences: first sequence (8), crc (4) of up to 512 entries
//!                 entries: 16 octets each, see [`crate::message::Entry::to_words`]
//! ```

use std::io;

use super::entries::EntryList;
use super::files::{Storage, read_exact_at, write_all_at};
use super::jobs::entries_in;
use super::pages::PAGE_ENTRIES_MAX;
use super::record_codec::{FORMAT_VERSION, SegmentHeader, u32_at, u64_at};
use super::scan::Summary;
use super::segment::index_name;
use crate::broker::record::QueueId;
use crate::message::Entry;

const MAGIC: [u8; 8] = *b"leveridx";
const HEAD_OCTETS: usize = 100;
const QUEUE_OCTETS: usize = 40;
const SETTLEMENT_OCTETS: usize = 16;
const PERMISSION_OCTETS: usize = 12;
const LARGE_OCTETS: usize = 12;
const FENCE_OCTETS: usize = 12;
const ENTRY_OCTETS: u64 = 16;
/// Octets that are written at a time.
const CHUNK_OCTETS: usize = 256 << 10;

/// One queue of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexedQueue {
    pub(super) queue: QueueId,
    pub(super) entries: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    first_entry: u64,
    /// First sequence and checksum of each run of [`PAGE_ENTRIES_MAX`] entries.
    pub(super) fences: Vec<(u64, u32)>,
}

/// An index without its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) first_lsn: u64,
    pub(super) last_lsn: u64,
    pub(super) records_end: u64,
    pub(super) stable_lsn: u64,
    pub(super) group_from: Option<u64>,
    pub(super) closes_group: bool,
    pub(super) queues: Vec<IndexedQueue>,
    pub(super) settlements: Vec<(QueueId, u64, u64)>,
    pub(super) permissions: Vec<(QueueId, u64)>,
    pub(super) large: Vec<(u32, u64)>,
    entries_start: u64,
}

fn put_settlement(into: &mut Vec<u8>, (queue, first, last): (QueueId, u64, u64)) {
    into.extend_from_slice(&queue.0.to_be_bytes());
    into.extend_from_slice(&first.to_be_bytes()[2..]);
    into.extend_from_slice(&last.to_be_bytes()[2..]);
}

/// Turns a summary into an index and writes it. The index is returned even when there was no room
/// to write it.
pub(super) fn write<S: Storage>(
    storage: &S,
    header: &SegmentHeader,
    mut summary: Summary,
) -> (Index, io::Result<()>) {
    let mut lists: Vec<(QueueId, EntryList)> = summary.queues.drain().collect();
    lists.sort_unstable_by_key(|(queue, _)| *queue);
    let mut settlements = std::mem::take(&mut summary.settlements);
    let mut queues = Vec::with_capacity(lists.len());
    let mut first_entry = 0;
    for (queue, entries) in &mut lists {
        entries.sort();
        let mut expected = None;
        for sequence in entries.iter().map(super::super::message::Entry::sequence) {
            if let Some(expected) = expected
                && sequence > expected
            {
                settlements.push((*queue, expected, sequence - 1));
            }
            expected = Some(sequence + 1);
        }
        queues.push(IndexedQueue {
            queue: *queue,
            entries: entries.len() as u32,
            first: entries
                .first()
                .map_or(0, super::super::message::Entry::sequence),
            last: entries
                .last()
                .map_or(0, super::super::message::Entry::sequence),
            first_entry,
            fences: vec![(0, 0); entries.len().div_ceil(PAGE_ENTRIES_MAX)],
        });
        first_entry += entries.len() as u64;
    }
    super::settling::merge(&mut settlements);
    let mut index = Index {
        first_lsn: summary.first_lsn,
        last_lsn: summary.last_lsn,
        records_end: summary.end,
        stable_lsn: summary.stable_lsn,
        group_from: summary.group_from,
        closes_group: summary.closes_group,
        queues,
        settlements,
        permissions: summary.permissions,
        large: summary.large,
        entries_start: 0,
    };
    index.entries_start = index.head_octets();
    let result = write_file(storage, header, &mut index, &lists);
    (index, result)
}

/// Writes the entries, then the head with the checksums that were found on the way. Those are in the
/// index afterwards, whether the file was written or not.
fn write_file<S: Storage>(
    storage: &S,
    header: &SegmentHeader,
    index: &mut Index,
    lists: &[(QueueId, EntryList)],
) -> io::Result<()> {
    let mut file = storage.create(&index_name(header.number), 0);
    let (mut chunk, mut offset) = (Vec::with_capacity(CHUNK_OCTETS), index.entries_start);
    let mut flush = |chunk: &mut Vec<u8>| {
        if let Ok(open) = &file {
            if let Err(error) = write_all_at(storage, open, offset, chunk) {
                file = Err(error);
            }
            offset += chunk.len() as u64;
        }
        chunk.clear();
    };
    for ((_, entries), queue) in lists.iter().zip(&mut index.queues) {
        for (run, fence) in entries.pieces().iter().zip(&mut queue.fences) {
            let start = chunk.len();
            for entry in run {
                let [place, rest] = entry.to_words();
                chunk.extend_from_slice(&place.to_be_bytes());
                chunk.extend_from_slice(&rest.to_be_bytes());
            }
            *fence = (run[0].sequence(), crc32fast::hash(&chunk[start..]));
            if chunk.len() + PAGE_ENTRIES_MAX * 16 > CHUNK_OCTETS {
                flush(&mut chunk);
            }
        }
    }
    flush(&mut chunk);
    write_all_at(storage, &file?, 0, &index.encode(header))
}

impl Index {
    /// Octets before the entries.
    fn head_octets(&self) -> u64 {
        let fences: usize = self.queues.iter().map(|queue| queue.fences.len()).sum();
        let octets = HEAD_OCTETS
            + self.queues.len() * QUEUE_OCTETS
            + self.settlements.len() * SETTLEMENT_OCTETS
            + self.permissions.len() * PERMISSION_OCTETS
            + self.large.len() * LARGE_OCTETS
            + fences * FENCE_OCTETS;
        octets as u64
    }

    fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let fences: usize = self.queues.iter().map(|queue| queue.fences.len()).sum();
        let mut head = Vec::new();
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        head.extend_from_slice(&header.number.to_be_bytes());
        for number in [
            header.seed.0,
            header.rewritten,
            self.first_lsn,
            self.last_lsn,
            self.records_end,
            self.stable_lsn,
            self.group_from.unwrap_or(0),
        ] {
            head.extend_from_slice(&number.to_be_bytes());
        }
        head.extend_from_slice(&u32::from(self.closes_group).to_be_bytes());
        for count in [
            self.queues.len(),
            self.settlements.len(),
            self.permissions.len(),
            self.large.len(),
            fences,
        ] {
            head.extend_from_slice(&(count as u32).to_be_bytes());
        }
        head.extend_from_slice(&[0; 4]);
        let mut fence = 0_u32;
        for queue in &self.queues {
            head.extend_from_slice(&queue.queue.0.to_be_bytes());
            head.extend_from_slice(&queue.entries.to_be_bytes());
            head.extend_from_slice(&queue.first.to_be_bytes());
            head.extend_from_slice(&queue.last.to_be_bytes());
            head.extend_from_slice(&queue.first_entry.to_be_bytes());
            head.extend_from_slice(&fence.to_be_bytes());
            head.extend_from_slice(&[0; 4]);
            fence += queue.fences.len() as u32;
        }
        for &settlement in &self.settlements {
            put_settlement(&mut head, settlement);
        }
        for &(queue, up_to) in &self.permissions {
            head.extend_from_slice(&queue.0.to_be_bytes());
            head.extend_from_slice(&up_to.to_be_bytes());
        }
        for &(place, file) in &self.large {
            head.extend_from_slice(&place.to_be_bytes());
            head.extend_from_slice(&file.to_be_bytes());
        }
        for &(first, crc) in self.queues.iter().flat_map(|queue| &queue.fences) {
            head.extend_from_slice(&first.to_be_bytes());
            head.extend_from_slice(&crc.to_be_bytes());
        }
        let crc = crc_of(&head);
        head[96..100].copy_from_slice(&crc.to_be_bytes());
        head
    }

    /// Reads the index of a segment; `None` when there is none that fits the segment.
    pub(super) fn read<S: Storage>(storage: &S, header: &SegmentHeader) -> Option<Self> {
        let file = storage.open(&index_name(header.number)).ok()?;
        let mut fixed = vec![0; HEAD_OCTETS];
        read_exact_at(storage, &file, 0, &mut fixed).ok()?;
        let count = |at| u32_at(&fixed, at).map(|count| count as usize);
        let octets = HEAD_OCTETS
            + count(76)? * QUEUE_OCTETS
            + count(80)? * SETTLEMENT_OCTETS
            + count(84)? * PERMISSION_OCTETS
            + count(88)? * LARGE_OCTETS
            + count(92)? * FENCE_OCTETS;
        if octets as u64 > storage.octets(&file).ok()? {
            return None;
        }
        let mut head = vec![0; octets];
        read_exact_at(storage, &file, 0, &mut head).ok()?;
        let index = Self::decode(&head, header)?;
        // The file is never synced: a crash may have left its start and not its end.
        let entries: u64 = index
            .queues
            .iter()
            .map(|queue| u64::from(queue.entries))
            .sum();
        let end = index.entries_start + entries * ENTRY_OCTETS;
        (storage.octets(&file).ok()? >= end).then_some(index)
    }

    fn decode(head: &[u8], header: &SegmentHeader) -> Option<Self> {
        let fits = head.get(..8)? == MAGIC
            && u32_at(head, 8)? == FORMAT_VERSION
            && u32_at(head, 12)? == header.number
            && u64_at(head, 16)? == header.seed.0
            && u64_at(head, 24)? == header.rewritten
            && u32_at(head, 96)? == crc_of(head);
        if !fits {
            return None;
        }
        let mut rest = &head[HEAD_OCTETS..];
        let mut take = |at: usize, octets: usize| {
            let count = u32_at(head, at)? as usize;
            let (taken, after) = rest.split_at_checked(count.checked_mul(octets)?)?;
            rest = after;
            Some(taken.chunks_exact(octets))
        };
        let queues = take(76, QUEUE_OCTETS)?;
        let settlements = take(80, SETTLEMENT_OCTETS)?;
        let permissions = take(84, PERMISSION_OCTETS)?;
        let large = take(88, LARGE_OCTETS)?;
        let fences: Vec<_> = take(92, FENCE_OCTETS)?
            .map(|octets| Some((u64_at(octets, 0)?, u32_at(octets, 8)?)))
            .collect::<Option<_>>()?;
        let queue = |octets: &[u8]| {
            let entries = u32_at(octets, 4)?;
            let from = u32_at(octets, 32)? as usize;
            let to = from.checked_add((entries as usize).div_ceil(PAGE_ENTRIES_MAX))?;
            Some(IndexedQueue {
                queue: QueueId(u32_at(octets, 0)?),
                entries,
                first: u64_at(octets, 8)?,
                last: u64_at(octets, 16)?,
                first_entry: u64_at(octets, 24)?,
                fences: fences.get(from..to)?.to_vec(),
            })
        };
        let six = |octets: &[u8]| octets.iter().fold(0, |sum, &o| sum << 8 | u64::from(o));
        Some(Index {
            first_lsn: u64_at(head, 32)?,
            last_lsn: u64_at(head, 40)?,
            records_end: u64_at(head, 48)?,
            stable_lsn: u64_at(head, 56)?,
            group_from: Some(u64_at(head, 64)?).filter(|&lsn| lsn > 0),
            closes_group: u32_at(head, 72)? & 1 != 0,
            queues: queues.map(queue).collect::<Option<_>>()?,
            settlements: settlements
                .map(|octets| {
                    let queue = QueueId(u32_at(octets, 0)?);
                    Some((queue, six(&octets[4..10]), six(&octets[10..])))
                })
                .collect::<Option<_>>()?,
            permissions: permissions
                .map(|octets| Some((QueueId(u32_at(octets, 0)?), u64_at(octets, 4)?)))
                .collect::<Option<_>>()?,
            large: large
                .map(|octets| Some((u32_at(octets, 0)?, u64_at(octets, 4)?)))
                .collect::<Option<_>>()?,
            entries_start: head.len() as u64,
        })
    }

    /// Where the entries of one run lie.
    pub(super) fn run(&self, queue: &IndexedQueue, run: usize) -> Run {
        let start = run * PAGE_ENTRIES_MAX;
        Run {
            offset: self.entries_start + (queue.first_entry + start as u64) * ENTRY_OCTETS,
            count: (queue.entries as usize - start).min(PAGE_ENTRIES_MAX) as u32,
            crc: queue.fences[run].1,
        }
    }

    /// Entries of `queue` from sequence `first` to `last`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the entries do not check.
    pub(super) fn entries<S: Storage, E: Default + Extend<Entry>>(
        &self,
        storage: &S,
        number: u32,
        queue: QueueId,
        first: u64,
        last: u64,
    ) -> io::Result<E> {
        let Ok(at) = self
            .queues
            .binary_search_by_key(&queue, |queue| queue.queue)
        else {
            return Ok(E::default());
        };
        let queue = &self.queues[at];
        let file = storage.open(&index_name(number))?;
        let from = queue.fences.partition_point(|fence| fence.0 <= first);
        let mut found = E::default();
        for (run, fence) in queue.fences.iter().enumerate().skip(from.saturating_sub(1)) {
            if fence.0 > last {
                break;
            }
            let entries = self.run(queue, run).read(storage, &file)?;
            let wanted = |entry: &Entry| (first..=last).contains(&entry.sequence());
            found.extend(entries.into_iter().filter(wanted));
        }
        Ok(found)
    }
}

/// Where some entries lie in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    offset: u64,
    count: u32,
    crc: u32,
}

impl Run {
    /// Reads the entries.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when they do not check.
    pub(super) fn read<S: Storage>(self, storage: &S, file: &S::File) -> io::Result<Vec<Entry>> {
        let mut octets = vec![0; self.count as usize * ENTRY_OCTETS as usize];
        read_exact_at(storage, file, self.offset, &mut octets)?;
        if crc32fast::hash(&octets) != self.crc {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(entries_in(&octets).collect())
    }
}

fn crc_of(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..96]);
    hasher.update(&head[HEAD_OCTETS..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;
    use crate::storage::MemoryStorage;
    use crate::storage::record_codec::Seed;

    fn written(disk: &MemoryStorage) -> (SegmentHeader, Index) {
        let header = SegmentHeader::new(3, Seed(77), 10);
        let mut summary = Summary {
            number: 3,
            end: 5000,
            first_lsn: 10,
            last_lsn: 2000,
            settlements: vec![(QueueId(1), 3, 4)],
            permissions: vec![(QueueId(1), 65_536)],
            large: vec![(9, 12)],
            closes_group: true,
            ..Summary::default()
        };
        for (queue, count, step) in [(1, 1300, 1), (2, 1, 1), (9, 600, 2)] {
            let entries = (0..count).map(|n| {
                let at = MessageRef {
                    segment: 3,
                    place: n,
                };
                Entry::new(at, u64::from(n * step), 100, Entry::LOGGED)
            });
            summary.queues.insert(QueueId(queue), entries.collect());
        }
        let (index, result) = write(disk, &header, summary);
        result.expect("written");
        (header, index)
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let disk = MemoryStorage::new();
        let (header, index) = written(&disk);
        assert_eq!(Index::read(&disk, &header), Some(index.clone()));
        // What is not there counts as settled.
        assert_eq!(index.settlements.len(), 1 + 599);
        for (queue, first, last, expected) in [
            (1, 0, 1299, 1300),
            (1, 511, 512, 2),
            (1, 1024, 5000, 276),
            (2, 0, 0, 1),
            (9, 1, 4, 2),
            (7, 0, 100, 0),
        ] {
            let entries = index.entries(&disk, 3, QueueId(queue), first, last);
            let entries: Vec<Entry> = entries.expect("reads");
            assert_eq!(entries.len(), expected, "{queue} {first} {last}");
            assert!(
                entries
                    .iter()
                    .all(|e| (first..=last).contains(&e.sequence()))
            );
        }
    }

    #[test]
    fn an_index_that_does_not_fit_or_is_damaged_is_none() {
        let disk = MemoryStorage::new();
        let (header, index) = written(&disk);
        let other = SegmentHeader {
            rewritten: 1,
            ..header
        };
        assert_eq!(Index::read(&disk, &other), None);
        let name = index_name(3);
        for octet in 0..index.entries_start as usize {
            disk.flip(&name, octet, 3);
            assert_eq!(Index::read(&disk, &header), None, "octet {octet}");
            disk.flip(&name, octet, 3);
        }
        disk.flip(&name, index.entries_start as usize + 5, 0);
        let entries: io::Result<Vec<_>> = index.entries(&disk, 3, QueueId(1), 0, 0);
        assert!(entries.is_err());
        let whole = disk.contents(&name).expect("there");
        for length in 0..index.entries_start as usize {
            disk.put(&name, &whole[..length]);
            assert_eq!(Index::read(&disk, &header), None, "length {length}");
        }
    }
}

//! Rewriting a segment of which little more than half is needed, or less, to the same number and order.
//!
//! The live records are copied as they are into a new file; a table behind them tells for each
//! place as first written where the record lies now, so no entry of a queue changes. The file is
//! synced and renamed over the old one. Only segments that a checkpoint covers are rewritten, so
//! what they say of settlements and permissions need not be kept, and only settlements that are on
//! stable storage count, so that no crash finds a message gone and its settlement lost.

use std::io;
use std::sync::Arc;

use super::aside;
use super::entries::EntryList;
use super::files::{Map, Storage, read_exact_at, write_all_at};
use super::index::{self, Index};
use super::record_codec::{HEADER_OCTETS, RecordHeader, SEGMENT_START, SegmentHeader, u32_at};
use super::scan::{Scope, Summary};
use super::scrub::{self, Stretch};
use super::segment::{index_name, segment_name};
use crate::broker::record::QueueId;
use crate::message::Entry;
use crate::planted::{Fault, planted};

/// Octets of one entry of the table: place as first written (4), place now (4).
const TABLE_OCTETS: usize = 8;
/// Octets that are written at a time.
const CHUNK_OCTETS: usize = 256 << 10;
/// Octets that are populated at a time: a segment of which little lives is not read whole.
const STRETCH_OCTETS: u64 = 16 << 10;
/// Behind the name of a segment: the file that will take its place.
pub(super) const NEW_SUFFIX: &str = ".new";

/// (place as first written, place now), ascending in both.
pub(super) type Table = Vec<(u32, u32)>;

/// What is known of the entries of a segment when it is looked at.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Per queue the sequences that are settled, as far as they may lie in the segment; ascending by
    /// queue. A queue that is not here is gone.
    pub(super) settled: Vec<(QueueId, Vec<(u64, u64)>)>,
    /// Places that entries need which the log does not know; ascending.
    pub(super) unlogged: Vec<u32>,
}

impl Liveness {
    fn is_settled(&self, queue: QueueId, sequence: u64) -> bool {
        let Ok(at) = self.settled.binary_search_by_key(&queue, |pair| pair.0) else {
            return true;
        };
        let ranges = &self.settled[at].1;
        let after = ranges.partition_point(|range| range.0 <= sequence);
        after > 0 && sequence <= ranges[after - 1].1
    }
}

/// A segment as it was rewritten.
pub(super) struct Rewritten<S: Storage> {
    pub(super) table: Arc<Table>,
    pub(super) map: Arc<S::Map>,
    pub(super) octets: u64,
    pub(super) records_end: u64,
    /// How often it was rewritten by now.
    pub(super) times: u64,
}

/// Reads the header of a segment.
pub(super) fn read_header<S: Storage>(
    storage: &S,
    file: &S::File,
    number: u32,
) -> io::Result<SegmentHeader> {
    let mut start = vec![0; SEGMENT_START as usize];
    read_exact_at(storage, file, 0, &mut start)?;
    SegmentHeader::decode(&start, number).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads the table of a compacted segment; `None` when it has none or it does not check.
///
/// # Errors
/// It cannot be read, which says nothing about what it holds: places must not be taken for those
/// of a segment without a table then.
pub(super) fn read_table<S: Storage>(
    storage: &S,
    file: &S::File,
    header: &SegmentHeader,
) -> io::Result<Option<Table>> {
    if header.rewritten == 0 {
        return Ok(None);
    }
    let octets = header.table_entries as usize * TABLE_OCTETS;
    let room = storage.octets(file)?.checked_sub(header.records_end);
    if room.is_none_or(|room| octets as u64 > room) {
        return Ok(None);
    }
    let mut table = vec![0; octets];
    read_exact_at(storage, file, header.records_end, &mut table)?;
    if crc32fast::hash(&table) != header.table_crc {
        return Ok(None);
    }
    Ok(table
        .chunks_exact(TABLE_OCTETS)
        .map(|octets| Some((u32_at(octets, 0)?, u32_at(octets, 4)?)))
        .collect())
}

/// Turns places as they are now into places as first written.
pub(super) fn to_first_places(summary: &mut Summary, table: &Table) {
    let first = |now: u32| {
        let at = table.binary_search_by_key(&now, |pair| pair.1);
        at.map_or(now, |at| table[at].0)
    };
    for entries in summary.queues.values_mut() {
        for entry in entries.iter_mut() {
            entry.at.place = first(entry.at.place);
        }
    }
    for (place, _) in &mut summary.large {
        *place = first(*place);
    }
}

/// A segment that is looked at, and what was seen of damage on the way.
pub(super) struct Sealed<'a, S: Storage> {
    pub(super) storage: &'a S,
    pub(super) file: &'a S::File,
    pub(super) header: &'a SegmentHeader,
    /// Where its records ended before it was rewritten.
    pub(super) used: u64,
    /// A line for each place that does not check and was not told of before. What lies there is in
    /// no index from then on, so these must reach somebody even when the job itself fails.
    pub(super) damage: &'a mut Vec<String>,
}

/// The index of a segment, read or made anew.
fn index_of<S: Storage>(sealed: &mut Sealed<'_, S>) -> io::Result<Index> {
    if let Some(index) = Index::read(sealed.storage, sealed.header) {
        return Ok(index);
    }
    let summary = sum_up(sealed)?;
    let (index, written) = index::write(sealed.storage, sealed.header, summary);
    written.map(|()| index)
}

/// Reads the records of a segment one by one; places are those as first written. What does not
/// check is kept aside, since its entry is left out and the segment may go without it.
fn sum_up<S: Storage>(sealed: &mut Sealed<'_, S>) -> io::Result<Summary> {
    let Sealed {
        storage,
        file,
        header,
        used,
        damage,
    } = sealed;
    let name = segment_name(header.number);
    let map = storage.map(file, &name)?;
    let used = if header.records_end > 0 {
        header.records_end
    } else {
        *used
    };
    let end = used.min(storage.octets(file)?);
    map.populate(0..end)?;
    let mut scratch = Vec::new();
    let octets = map.octets(0..end, &mut scratch)?;
    let scope = Scope {
        number: header.number,
        seed: header.seed,
        first_lsn: header.first_lsn,
        limit_lsn: u64::MAX,
        // Where damage hit a list of queues, a wrong sequence would settle all that lie before it.
        check_messages: true,
        dense: header.rewritten == 0,
    };
    let mut summary = Summary::of(octets, scope);
    summary.miss_end(used);
    for problem in &summary.problems {
        let offset = problem.offset.min(end);
        let hit = &octets[offset as usize..problem.end.clamp(offset, end) as usize];
        damage.extend(aside::keep_damaged(*storage, &name, offset, hit));
    }
    if let Some(table) = read_table(*storage, file, header)? {
        to_first_places(&mut summary, &table);
    }
    Ok(summary)
}

/// Entries of a queue from the records of a segment, without an index: there may be no room for
/// one.
pub(super) fn entries_by_scan<S: Storage>(
    sealed: &mut Sealed<'_, S>,
    queue: QueueId,
) -> io::Result<Vec<Entry>> {
    let summary = sum_up(sealed)?;
    let entries = summary.queues.get(&queue);
    Ok(entries.into_iter().flat_map(EntryList::iter).collect())
}

/// Does `work` with the index of a segment, with one made anew when its entries do not check.
pub(super) fn with_index<S: Storage, T>(
    sealed: &mut Sealed<'_, S>,
    mut work: impl FnMut(&Index) -> io::Result<T>,
) -> io::Result<T> {
    let index = index_of(sealed)?;
    match work(&index) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            let name = index_name(sealed.header.number);
            sealed.storage.remove(&name)?;
            work(&index_of(sealed)?)
        }
        other => other,
    }
}

/// Looks at segment `number` and rewrites it if that frees three sevenths of its file. `None`
/// when it does not.
///
/// * `used`: where its records ended before it was ever rewritten.
/// * `damage`: gets lines about live records that are damaged; see [`Sealed::damage`].
pub(super) fn compact<S: Storage>(
    storage: &S,
    number: u32,
    used: u64,
    liveness: &Liveness,
    damage: &mut Vec<String>,
) -> io::Result<Option<Rewritten<S>>> {
    let name = segment_name(number);
    let file = storage.open(&name)?;
    let header = read_header(storage, &file, number)?;
    let mut sealed = Sealed {
        storage,
        file: &file,
        header: &header,
        used,
        damage,
    };
    let (index, entries) = with_index(&mut sealed, |index| {
        let entries = index.queues.iter().map(|queue| {
            let entries: EntryList =
                index.entries(storage, number, queue.queue, queue.first, queue.last)?;
            Ok((queue.queue, entries))
        });
        let entries: io::Result<Vec<_>> = entries.collect();
        Ok((index.clone(), entries?))
    })?;
    let before = read_table(storage, &file, &header)?;
    let mut summary = Summary {
        number,
        first_lsn: index.first_lsn,
        last_lsn: index.last_lsn,
        stable_lsn: index.stable_lsn,
        closes_group: true,
        ..Summary::default()
    };
    let mut places = liveness.unlogged.clone();
    for (queue, entries) in entries {
        let live = entries
            .iter()
            .filter(|entry| !liveness.is_settled(queue, entry.sequence()));
        places.extend(live.map(|entry| entry.at.place));
        summary.queues.insert(queue, entries);
    }
    places.sort_unstable();
    places.dedup();
    if planted(Fault::CompactionDropsRecord) {
        places.pop();
    }

    let file_octets = storage.octets(&file)?;
    let map = storage.map(&file, &name)?;
    let end = index.records_end.min(file_octets);
    let mut populated = 0;
    let mut populate = |from: u64, to: u64| {
        // Places ascend, and so do the ranges that are asked for.
        let from = from.max(populated);
        if from >= to.min(end) {
            return Ok(());
        }
        populated = to.max(from + STRETCH_OCTETS).min(end);
        map.populate(from..populated)
    };
    let mut scratch = Vec::new();
    // (place as first written, place before, octets), twelve octets each.
    let mut copies: Vec<(u32, u32, u32)> = Vec::new();
    let mut next = SEGMENT_START;
    let rewritten = header.rewritten;
    for place in places {
        let offset = match &before {
            None => u64::from(place) * 8,
            Some(table) => match table.binary_search_by_key(&place, |pair| pair.0) {
                Ok(at) => u64::from(table[at].1) * 8,
                Err(_) => continue,
            },
        };
        populate(offset, offset + HEADER_OCTETS as u64)?;
        let head = map.octets(offset..offset + HEADER_OCTETS as u64, &mut scratch);
        let header = head
            .ok()
            .and_then(|octets| RecordHeader::decode(octets, header.seed))
            .filter(|header| offset + header.record_octets() <= end);
        let Some(record) = header else {
            // Without its header nobody can read it; the entry will be told that it is lost. Its
            // octets are kept, since the file they lie in goes.
            let at = Stretch::from_record(offset, rewritten);
            damage.extend(scrub::check(storage, number, end, at)?.lines);
            continue;
        };
        populate(offset, offset + record.record_octets())?;
        copies.push((place, (offset / 8) as u32, record.record_octets() as u32));
        next += record.record_octets();
    }
    let octets = next + (copies.len() * TABLE_OCTETS) as u64;
    // Looks come in steps, so this is more than half: at any time a file is at most twice what
    // lives in it.
    if octets * 7 > file_octets * 4 {
        return Ok(None);
    }
    let mut now = SEGMENT_START;
    let table = copies.iter().map(|&(place, _, record_octets)| {
        let before = now;
        now += u64::from(record_octets);
        (place, (before / 8) as u32)
    });
    let table: Table = table.collect();
    let table_octets: Vec<u8> = table
        .iter()
        .flat_map(|(place, now)| [place.to_be_bytes(), now.to_be_bytes()])
        .flatten()
        .collect();
    let header = SegmentHeader {
        records_end: next,
        table_entries: table.len() as u32,
        table_crc: crc32fast::hash(&table_octets),
        rewritten: header.rewritten + 1,
        ..header
    };
    let new_name = format!("{name}{NEW_SUFFIX}");
    let new = storage.create(&new_name, 0)?;
    let mut chunk = Vec::new();
    header.encode(&mut chunk);
    let mut written = 0;
    for &(_, place, record_octets) in &copies {
        let offset = u64::from(place) * 8;
        let record = offset..offset + u64::from(record_octets);
        chunk.extend_from_slice(map.octets(record, &mut scratch)?);
        if chunk.len() >= CHUNK_OCTETS {
            write_all_at(storage, &new, written, &chunk)?;
            written += chunk.len() as u64;
            chunk.clear();
        }
    }
    chunk.extend_from_slice(&table_octets);
    write_all_at(storage, &new, written, &chunk)?;
    storage.sync(&new)?;
    // Whatever can fail comes before the new file takes its place: from then on it is what the
    // table belongs to.
    let map = Arc::new(storage.map(&new, &name)?);
    storage.rename(&new_name, &name)?;
    // Should the old name come back after a crash: both files hold all that is alive.
    if let Err(error) = storage.sync_dir() {
        log::error!("{name}: the directory cannot be synced: {error}");
    }

    for entries in summary.queues.values_mut() {
        entries.retain(|entry| {
            let place = table.binary_search_by_key(&entry.at.place, |pair| pair.0);
            place.is_ok()
        });
    }
    summary.queues.retain(|_, entries| !entries.is_empty());
    summary.large = index.large;
    summary
        .large
        .retain(|(place, _)| table.binary_search_by_key(place, |pair| pair.0).is_ok());
    summary.end = next;
    // Without an index the next start reads the segment itself.
    if let (_, Err(error)) = index::write(storage, &header, summary) {
        log::debug!("no index for {name}: {error}");
    }
    Ok(Some(Rewritten {
        table: Arc::new(table),
        map,
        octets,
        records_end: next,
        times: header.rewritten,
    }))
}

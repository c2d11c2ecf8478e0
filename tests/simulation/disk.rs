//! Files of the server as `docs/storage-format.md` draws them, read by code of our own.

use std::ops::Range;

use leveret::wire::content::Properties;

/// One record whose checksums hold.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) payload: Range<usize>,
    /// Where the next one may begin.
    pub(crate) end: usize,
    pub(crate) lsn: u64,
    pub(crate) kind: u8,
    /// Its group goes on behind it.
    pub(crate) more: bool,
}

/// Where the records of a file begin.
const START: usize = 1024;
const HEADER: usize = 20;

/// Whether the name of a file ends so, as those of the server do.
pub(crate) fn is_of_kind(name: &str, ending: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, it)| it == ending)
}

fn number(octets: &[u8], at: usize, length: usize) -> Option<u64> {
    let octets = octets.get(at..at + length)?;
    Some(
        octets
            .iter()
            .fold(0, |sum, &octet| sum << 8 | u64::from(octet)),
    )
}

fn crc(initial: u32, octets: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    hasher.update(octets);
    u64::from(hasher.finalize())
}

/// The header of a segment, of a checkpoint or of the definitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) number: u32,
    pub(crate) first_lsn: u64,
    seed: u64,
    /// Where its table begins; 0 when it was never rewritten.
    records_end: usize,
    table_entries: usize,
}

impl Header {
    /// The table of a rewritten segment.
    pub(crate) fn table(&self) -> Range<usize> {
        self.records_end..self.records_end + self.table_entries * 8
    }
}

/// The header, from whichever of its copies checks.
pub(crate) fn header(octets: &[u8]) -> Option<Header> {
    [0, 512].into_iter().find_map(|at| {
        let copy = octets.get(at..at + 64)?;
        let holds = copy.starts_with(b"leveret\n") && number(copy, 60, 4)? == crc(0, &copy[..60]);
        holds.then_some(Header {
            number: number(copy, 12, 4)? as u32,
            first_lsn: number(copy, 24, 8)?,
            table_entries: number(copy, 40, 4)? as usize,
            seed: number(copy, 16, 8)?,
            records_end: number(copy, 32, 8)? as usize,
        })
    })
}

/// All records that check, in the order of their places.
pub(crate) fn records(octets: &[u8]) -> Vec<Record> {
    let Some(header) = header(octets) else {
        return Vec::new();
    };
    let limit = match header.records_end {
        0 => octets.len(),
        end => end.min(octets.len()),
    };
    let (mut found, mut at) = (Vec::new(), START);
    while at + HEADER < limit {
        match record(&octets[..limit], at, header.seed) {
            Some(record) => {
                at = record.end;
                found.push(record);
            }
            None => at += 8,
        }
    }
    found
}

fn record(octets: &[u8], offset: usize, seed: u64) -> Option<Record> {
    let head = octets.get(offset..offset + HEADER)?;
    if head[15] == 0 || number(head, 0, 4)? != crc(seed as u32, &head[4..]) {
        return None;
    }
    let length = number(head, 4, 4)? as usize;
    let payload = octets.get(offset + HEADER..offset + HEADER + length)?;
    if number(head, 16, 4)? != crc((seed >> 32) as u32, payload) {
        return None;
    }
    Some(Record {
        start: offset,
        payload: offset + HEADER..offset + HEADER + length,
        end: offset + (HEADER + length).next_multiple_of(8),
        lsn: number(head, 8, 7)?,
        kind: head[15] & 0x7F,
        more: head[15] & 0x80 != 0,
    })
}

/// What lies before the zeros that a file ends with.
pub(crate) fn until_zeros(octets: &[u8]) -> &[u8] {
    let end = octets.iter().rposition(|&octet| octet != 0);
    &octets[..end.map_or(0, |at| at + 1)]
}

/// A message as its record has it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The queues that got it, as the log calls them, each with its sequence there.
    pub(crate) entries: Vec<(u32, u64)>,
    /// The number that its body begins with, or that its properties name.
    pub(crate) message: u64,
    /// The file that its body lies in.
    pub(crate) file: Option<u64>,
}

/// The message of a record of kind 1 or 2.
pub(crate) fn message(octets: &[u8], record: &Record) -> Option<Stored> {
    let payload = octets.get(record.payload.clone())?;
    let properties_octets = number(payload, 8, 4)? as usize;
    let count = number(payload, 12, 4)? as usize;
    let mut at = 16;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push((number(payload, at, 4)? as u32, number(payload, at + 4, 6)?));
        at += 10;
    }
    for _ in 0..2 {
        at += 1 + number(payload, at, 1)? as usize;
    }
    let properties = payload.get(at..at + properties_octets)?;
    at += properties_octets;
    let first = number(payload, at, 8)?;
    let (message, file) = match record.kind {
        1 => (first, None),
        2 => {
            let properties = Properties::check(properties).ok()?;
            let name = properties.message_id()?.to_string();
            (name.parse().ok()?, Some(first))
        }
        _ => return None,
    };
    Some(Stored {
        entries,
        message,
        file,
    })
}

/// What a record of kind 3 settles: queue, first and last sequence.
pub(crate) fn settlements(octets: &[u8], record: &Record) -> Vec<(u32, u64, u64)> {
    let payload = &octets[record.payload.clone()];
    let count = number(payload, 0, 4).unwrap_or(0) as usize;
    let ranges = (0..count).filter_map(|index| {
        let at = 4 + index * 16;
        let queue = number(payload, at, 4)? as u32;
        Some((
            queue,
            number(payload, at + 4, 6)?,
            number(payload, at + 10, 6)?,
        ))
    });
    ranges.collect()
}

/// The queue of a record of kind 4.
pub(crate) fn permission(octets: &[u8], record: &Record) -> Option<u32> {
    number(&octets[record.payload.clone()], 0, 4).map(|queue| queue as u32)
}

/// Up to which number a record of kind 5 says that all is on the disk.
pub(crate) fn mark(octets: &[u8], record: &Record) -> Option<u64> {
    number(&octets[record.payload.clone()], 0, 8)
}

/// A checkpoint: up to which number it covers everything, which it says is on the disk, and the
/// segments that it knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) covers_lsn: u64,
    pub(crate) stable_lsn: u64,
    pub(crate) segments: Vec<u32>,
}

/// The checkpoint in a file, when all of it checks.
pub(crate) fn checkpoint(octets: &[u8]) -> Option<Checkpoint> {
    let mut checkpoint = Checkpoint::default();
    let records = records(octets);
    for (index, record) in records.iter().enumerate() {
        let payload = &octets[record.payload.clone()];
        if record.lsn != index as u64 + 1 {
            return None;
        }
        match record.kind {
            7 => {
                checkpoint.covers_lsn = number(payload, 0, 8)?;
                checkpoint.stable_lsn = number(payload, 8, 8)?;
            }
            8 => {
                for index in 0..number(payload, 0, 4)? as usize {
                    let found = number(payload, 4 + index * 12, 4)?;
                    checkpoint.segments.push(found as u32);
                }
            }
            _ => {}
        }
    }
    (records.last()?.kind == 10).then_some(checkpoint)
}

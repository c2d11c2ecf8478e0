//! Files of the server as `docs/storage-format.md` draws them, read by code of our own.

/// One record whose checksums hold.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Where the next one may begin.
    pub(crate) end: usize,
    pub(crate) lsn: u64,
    pub(crate) kind: u8,
}

/// Where the records of a file begin.
const START: usize = 1024;
const HEADER: usize = 20;

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
    seed: u64,
    /// Where its table begins; 0 when it was never rewritten.
    records_end: usize,
}

/// The header, from whichever of its copies checks.
pub(crate) fn header(octets: &[u8]) -> Option<Header> {
    [0, 512].into_iter().find_map(|at| {
        let copy = octets.get(at..at + 64)?;
        let holds = copy.starts_with(b"leveret\n") && number(copy, 60, 4)? == crc(0, &copy[..60]);
        holds.then_some(Header {
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
        end: offset + (HEADER + length).next_multiple_of(8),
        lsn: number(head, 8, 7)?,
        kind: head[15] & 0x7F,
    })
}

/// What lies before the zeros that a file ends with.
pub(crate) fn until_zeros(octets: &[u8]) -> &[u8] {
    let end = octets.iter().rposition(|&octet| octet != 0);
    &octets[..end.map_or(0, |at| at + 1)]
}

//! The header of a segment.

use super::{Seed, u32_at, u64_at};

/// Version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// First octets of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"leveret\n";
/// Octets of a segment before its first record: two copies of [`SegmentHeader`].
pub const SEGMENT_START: u64 = 1024;
/// Where the second copy lies.
pub(super) const SEGMENT_HEADER_COPY: usize = 512;
/// Octets of one copy.
pub(super) const SEGMENT_HEADER_OCTETS: usize = 64;

/// What a segment says about itself. It lies twice at the start of the file (offsets 0 and 512, two
/// sectors), since without its seed no record of the segment can be read.
///
/// ```text
/// offset  octets  field
///      0       8  magic         "leveret\n"
///      8       4  version       of the format
///     12       4  number        of the segment
///     16       8  seed          of the checksums of its records
///     24       8  first_lsn     log sequence number of its first record
///     32       8  records_end   compacted: where the records end and the table begins; else 0
///     40       4  table_entries compacted: entries of the table; else 0
///     44       4  table_crc     compacted: checksum of the table; else 0
///     48       8  rewritten     how often it was compacted
///     56       4  reserved      zero
///     60       4  crc           over the 60 octets before
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Version of the format.
    pub version: u32,
    /// Number of the segment.
    pub number: u32,
    /// Seed of the checksums.
    pub seed: Seed,
    /// Log sequence number of the first record.
    pub first_lsn: u64,
    /// In a compacted segment the offset at which the records end and the table begins; else 0.
    pub records_end: u64,
    /// Entries of the table of a compacted segment.
    pub table_entries: u32,
    /// Checksum of the table.
    pub table_crc: u32,
    /// How often the segment was compacted; 0 means never.
    pub rewritten: u64,
}

impl SegmentHeader {
    /// The header of a fresh segment.
    pub fn new(number: u32, seed: Seed, first_lsn: u64) -> Self {
        SegmentHeader {
            version: FORMAT_VERSION,
            number,
            seed,
            first_lsn,
            records_end: 0,
            table_entries: 0,
            table_crc: 0,
            rewritten: 0,
        }
    }

    /// Appends both copies and the padding up to the first record.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut copy = [0; SEGMENT_HEADER_OCTETS];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&self.version.to_be_bytes());
        copy[12..16].copy_from_slice(&self.number.to_be_bytes());
        copy[16..24].copy_from_slice(&self.seed.0.to_be_bytes());
        copy[24..32].copy_from_slice(&self.first_lsn.to_be_bytes());
        copy[32..40].copy_from_slice(&self.records_end.to_be_bytes());
        copy[40..44].copy_from_slice(&self.table_entries.to_be_bytes());
        copy[44..48].copy_from_slice(&self.table_crc.to_be_bytes());
        copy[48..56].copy_from_slice(&self.rewritten.to_be_bytes());
        let crc = crc32fast::hash(&copy[..60]);
        copy[60..].copy_from_slice(&crc.to_be_bytes());
        let start = into.len();
        into.resize(start + SEGMENT_START as usize, 0);
        into[start..start + SEGMENT_HEADER_OCTETS].copy_from_slice(&copy);
        let second = start + SEGMENT_HEADER_COPY;
        into[second..second + SEGMENT_HEADER_OCTETS].copy_from_slice(&copy);
    }

    /// Reads the header of segment `number` from the start of its file, from the first copy that
    /// checks and names it. A recycled file whose new header was torn may hold an old one beside it.
    pub fn decode(octets: &[u8], number: u32) -> Option<Self> {
        [0, SEGMENT_HEADER_COPY].iter().find_map(|&at| {
            let copy = octets.get(at..at + SEGMENT_HEADER_OCTETS)?;
            let named = copy[..8] == SEGMENT_MAGIC && u32_at(copy, 12)? == number;
            if !named || u32_at(copy, 60)? != crc32fast::hash(&copy[..60]) {
                return None;
            }
            Some(SegmentHeader {
                version: u32_at(copy, 8)?,
                number: u32_at(copy, 12)?,
                seed: Seed(u64_at(copy, 16)?),
                first_lsn: u64_at(copy, 24)?,
                records_end: u64_at(copy, 32)?,
                table_entries: u32_at(copy, 40)?,
                table_crc: u32_at(copy, 44)?,
                rewritten: u64_at(copy, 48)?,
            })
        })
    }
}

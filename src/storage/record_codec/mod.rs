//! One log record as it lies in a segment, and the payload of each kind. All integers big-endian.
//!
//! ```text
//! offset  octets  field
//!      0       4  header_crc   over the next 16 octets, seeded with the segment's random seed
//!      4       4  length       octets of payload, at least 1
//!      8       8  lsn_kind     log sequence number (56 bits), kind (8 bits, see [`RecordKind`])
//!     16       4  payload_crc  same seed, other half
//!     20       n  payload      padded with zeros to a multiple of 8
//! ```
//!
//! The seed is in both checksums so that an old record of a recycled file never replays, zeros are
//! never a record, and a message body cannot forge one. The header has a checksum of its own so
//! that a damaged length costs its record and not the rest: the next header is found by trying
//! every multiple of 8.
//!
//! The upper bit of the kind says that more records of the same group follow: a group is replayed
//! whole or not at all.
//!
//! The same layout holds messages in the transient arena, with both checksums zero until a block
//! is written to its spill file. `docs/storage-format.md` draws every payload.

mod message;
mod payload;
mod segment_header;

pub use self::message::{MessagePayload, StoredMessage, encode_message, message_octets};
pub use self::payload::{
    Pair, decode_definitions, decode_mark, decode_permission, decode_settlements,
    encode_definitions, encode_permission, encode_settlements,
};
pub use self::segment_header::{FORMAT_VERSION, SEGMENT_MAGIC, SEGMENT_START, SegmentHeader};

/// Octets of a record before its payload.
pub const HEADER_OCTETS: usize = 20;
/// Records begin at multiples of this.
pub const ALIGNMENT: usize = 8;
/// The bit of the kind that says that the group goes on with the next record.
pub const MORE: u8 = 0x80;
/// Greatest log sequence number.
pub const LSN_MAX: u64 = (1 << 56) - 1;

/// What a record says. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A message with its body and the queues that got it.
    Message = 1,
    /// A message whose body lies in a file of its own.
    LargeMessage = 2,
    /// Sequences of queues that are done with: acknowledged, dropped, expired, moved.
    Settlement = 3,
    /// Up to which sequence a queue may deliver; see design.md §4.
    Permission = 4,
    /// Everything up to a log sequence number was on stable storage when this was written.
    Mark = 5,
    /// A group of definitions (in the definitions file only).
    Definitions = 6,
    /// First record of a checkpoint.
    CheckpointHead = 7,
    /// The segments that a checkpoint knows.
    CheckpointSegments = 8,
    /// The state of some queues in a checkpoint.
    CheckpointQueues = 9,
    /// Last record of a checkpoint.
    CheckpointEnd = 10,
}

impl RecordKind {
    /// The kind with this number; the upper bit is not part of it.
    pub fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet & !MORE {
            1 => RecordKind::Message,
            2 => RecordKind::LargeMessage,
            3 => RecordKind::Settlement,
            4 => RecordKind::Permission,
            5 => RecordKind::Mark,
            6 => RecordKind::Definitions,
            7 => RecordKind::CheckpointHead,
            8 => RecordKind::CheckpointSegments,
            9 => RecordKind::CheckpointQueues,
            10 => RecordKind::CheckpointEnd,
            _ => return None,
        })
    }
}

/// The random number of a segment that both checksums of its records start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// Checksum of the 16 octets after `header_crc`.
    #[inline]
    pub fn header_crc(self, octets: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0 as u32);
        hasher.update(octets);
        hasher.finalize()
    }

    /// Checksum of a payload.
    #[inline]
    pub fn payload_crc(self, octets: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial((self.0 >> 32) as u32);
        hasher.update(octets);
        hasher.finalize()
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Octets of payload.
    pub length: u32,
    /// Log sequence number.
    pub lsn: u64,
    /// What the payload is.
    pub kind: RecordKind,
    /// Whether the next record belongs to the same group.
    pub more: bool,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl RecordHeader {
    /// Reads a header whose checksum must fit; `None` for anything else, zeros included.
    #[inline]
    pub fn decode(octets: &[u8], seed: Seed) -> Option<Self> {
        let header = Self::decode_unchecked(octets)?;
        (u32_at(octets, 0)? == seed.header_crc(&octets[4..HEADER_OCTETS])).then_some(header)
    }

    /// Reads a header without looking at its checksum, for records that never left memory.
    #[inline]
    pub fn decode_unchecked(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; HEADER_OCTETS] = octets.first_chunk()?;
        let length = u32_at(octets, 4)?;
        let lsn_kind = u64_at(octets, 8)?;
        let kind = RecordKind::from_octet(lsn_kind as u8)?;
        if length == 0 {
            return None;
        }
        Some(RecordHeader {
            length,
            lsn: lsn_kind >> 8,
            kind,
            more: lsn_kind as u8 & MORE != 0,
            payload_crc: u32_at(octets, 16)?,
        })
    }

    /// Octets from the start of this record to the start of the next.
    #[inline]
    pub fn record_octets(&self) -> u64 {
        record_octets(self.length as usize) as u64
    }
}

/// Octets of a record with so much payload, padding included.
#[inline]
pub fn record_octets(payload_octets: usize) -> usize {
    (HEADER_OCTETS + payload_octets).next_multiple_of(ALIGNMENT)
}

/// Splits the record at the start of `octets` into header and payload, both checked.
///
/// * `Err(Some(header))`: the header fits but the payload is short or damaged.
/// * `Err(None)`: there is no header.
pub fn decode_record(
    octets: &[u8],
    seed: Seed,
) -> Result<(RecordHeader, &[u8]), Option<RecordHeader>> {
    let header = RecordHeader::decode(octets, seed).ok_or(None)?;
    let end = HEADER_OCTETS + header.length as usize;
    let payload = octets.get(HEADER_OCTETS..end).ok_or(Some(header))?;
    if seed.payload_crc(payload) != header.payload_crc {
        return Err(Some(header));
    }
    Ok((header, payload))
}

/// Reserves the header of a record at the end of `into`; the payload is written behind it, then
/// [`finish`] completes both. Returns where the record starts.
#[inline]
pub fn begin(into: &mut Vec<u8>) -> usize {
    let start = into.len();
    into.extend_from_slice(&[0; HEADER_OCTETS]);
    start
}

/// Completes the record that starts at `start` and goes to the end of `into`: padding, lengths,
/// checksums. Returns its octets.
#[inline]
pub fn finish(
    into: &mut Vec<u8>,
    start: usize,
    lsn: u64,
    kind: RecordKind,
    more: bool,
    seed: Seed,
) -> u32 {
    let crc = seed.payload_crc(&into[start + HEADER_OCTETS..]);
    let octets = finish_unchecked(into, start, lsn, kind, more);
    into[start + 16..start + 20].copy_from_slice(&crc.to_be_bytes());
    let header_crc = seed.header_crc(&into[start + 4..start + HEADER_OCTETS]);
    into[start..start + 4].copy_from_slice(&header_crc.to_be_bytes());
    octets
}

/// As [`finish`] with both checksums left zero, for records that never leave memory.
#[inline]
pub fn finish_unchecked(
    into: &mut Vec<u8>,
    start: usize,
    lsn: u64,
    kind: RecordKind,
    more: bool,
) -> u32 {
    let length = into.len() - start - HEADER_OCTETS;
    debug_assert!(length > 0 && lsn <= LSN_MAX);
    let octets = record_octets(length);
    into.extend_from_slice(&[0; ALIGNMENT][..octets - HEADER_OCTETS - length]);
    let kind = kind as u8 | if more { MORE } else { 0 };
    let header = &mut into[start..start + HEADER_OCTETS];
    header[4..8].copy_from_slice(&(length as u32).to_be_bytes());
    header[8..16].copy_from_slice(&(lsn << 8 | u64::from(kind)).to_be_bytes());
    octets as u32
}

/// Writes the checksums into a record that was finished without.
pub fn seal(record: &mut [u8], payload_octets: usize, seed: Seed) {
    let crc = seed.payload_crc(&record[HEADER_OCTETS..HEADER_OCTETS + payload_octets]);
    record[16..20].copy_from_slice(&crc.to_be_bytes());
    let header_crc = seed.header_crc(&record[4..HEADER_OCTETS]);
    record[..4].copy_from_slice(&header_crc.to_be_bytes());
}

/// The big-endian number at `at`, if the octets are there.
#[inline]
pub(super) fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    octets
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_be_bytes)
}

/// The big-endian number at `at`, if the octets are there.
#[inline]
pub(super) fn u64_at(octets: &[u8], at: usize) -> Option<u64> {
    octets
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests;

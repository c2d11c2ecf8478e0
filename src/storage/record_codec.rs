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

use crate::broker::record::QueueId;
use crate::message::{Body, LargeBody, Message};

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

/// Octets of a message payload before its list of queues.
const MESSAGE_FIXED_OCTETS: usize = 16;
/// Octets of one queue in a message's list: id (4), sequence (6).
const MESSAGE_QUEUE_OCTETS: usize = 10;
/// Octets that stand for a large body: file (8), length (8), checksum (4).
const LARGE_BODY_OCTETS: usize = 20;

/// Octets of the payload of `message` for `queues` queues.
#[inline]
pub fn message_octets(message: &Message<'_>, queues: usize) -> usize {
    let body = match message.body {
        Body::Octets(octets) => octets.len(),
        Body::Large(_) => LARGE_BODY_OCTETS,
    };
    MESSAGE_FIXED_OCTETS
        + queues * MESSAGE_QUEUE_OCTETS
        + message.names.len()
        + message.properties.len()
        + body
}

/// Writes the payload of a message; the kind of its record.
#[inline]
pub fn encode_message(
    into: &mut Vec<u8>,
    arrived_ms: u64,
    message: &Message<'_>,
    to: &[(QueueId, u64)],
    large_crc: u32,
) -> RecordKind {
    let mut fixed = [0; MESSAGE_FIXED_OCTETS];
    fixed[..8].copy_from_slice(&arrived_ms.to_be_bytes());
    fixed[8..12].copy_from_slice(&(message.properties.len() as u32).to_be_bytes());
    fixed[12..].copy_from_slice(&(to.len() as u32).to_be_bytes());
    into.extend_from_slice(&fixed);
    for &(queue, sequence) in to {
        let mut octets = [0; MESSAGE_QUEUE_OCTETS];
        octets[..4].copy_from_slice(&queue.0.to_be_bytes());
        octets[4..].copy_from_slice(&sequence.to_be_bytes()[2..]);
        into.extend_from_slice(&octets);
    }
    into.extend_from_slice(message.names);
    into.extend_from_slice(message.properties);
    match message.body {
        Body::Octets(octets) => {
            into.extend_from_slice(octets);
            RecordKind::Message
        }
        Body::Large(large) => {
            into.extend_from_slice(&large.file.to_be_bytes());
            into.extend_from_slice(&large.octets.to_be_bytes());
            into.extend_from_slice(&large_crc.to_be_bytes());
            RecordKind::LargeMessage
        }
    }
}

/// A message at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Milliseconds since 1970-01-01 UTC when the broker took it.
    pub arrived_ms: u64,
    /// The message itself, as it came.
    pub message: Message<'a>,
}

/// The payload of a message record, not yet taken apart.
#[derive(Clone, Copy, Debug)]
pub struct MessagePayload<'a> {
    payload: &'a [u8],
    queues: usize,
    names_start: usize,
    large: bool,
}

impl<'a> MessagePayload<'a> {
    /// Takes a payload; `None` when it is not that of a message.
    #[inline]
    pub fn new(kind: RecordKind, payload: &'a [u8]) -> Option<Self> {
        let large = match kind {
            RecordKind::Message => false,
            RecordKind::LargeMessage => true,
            _ => return None,
        };
        let queues = u32_at(payload, 12)? as usize;
        let names_start = queues
            .checked_mul(MESSAGE_QUEUE_OCTETS)?
            .checked_add(MESSAGE_FIXED_OCTETS)?;
        (names_start <= payload.len()).then_some(MessagePayload {
            payload,
            queues,
            names_start,
            large,
        })
    }

    /// How many queues got it durably.
    pub fn queue_count(&self) -> usize {
        self.queues
    }

    /// The queues that got it durably, each with its sequence.
    #[inline]
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, u64)> + use<'a> {
        self.payload[MESSAGE_FIXED_OCTETS..self.names_start]
            .chunks_exact(MESSAGE_QUEUE_OCTETS)
            .map(|octets| {
                let mut sequence = [0; 8];
                sequence[2..].copy_from_slice(&octets[4..]);
                let id = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
                (QueueId(id), u64::from_be_bytes(sequence))
            })
    }

    /// The message.
    #[inline]
    pub fn message(&self) -> Option<StoredMessage<'a>> {
        let rest = &self.payload[self.names_start..];
        let exchange_octets = usize::from(*rest.first()?);
        let key_octets = usize::from(*rest.get(1 + exchange_octets)?);
        let names_octets = 2 + exchange_octets + key_octets;
        let properties_end = names_octets.checked_add(u32_at(self.payload, 8)? as usize)?;
        let tail = rest.get(properties_end..)?;
        let body = if self.large {
            Body::Large(large_body(tail)?.0)
        } else {
            Body::Octets(tail)
        };
        Some(StoredMessage {
            arrived_ms: u64_at(self.payload, 0)?,
            message: Message {
                names: rest.get(..names_octets)?,
                properties: rest.get(names_octets..properties_end)?,
                body,
            },
        })
    }

    /// The large body that it names, with its checksum.
    pub fn large(&self) -> Option<(LargeBody, u32)> {
        if !self.large {
            return None;
        }
        let start = self.payload.len().checked_sub(LARGE_BODY_OCTETS)?;
        large_body(&self.payload[start..])
    }
}

fn large_body(octets: &[u8]) -> Option<(LargeBody, u32)> {
    if octets.len() != LARGE_BODY_OCTETS {
        return None;
    }
    let large = LargeBody {
        file: u64_at(octets, 0)?,
        octets: u64_at(octets, 8)?,
    };
    Some((large, u32_at(octets, 16)?))
}

/// Octets of one range in a settlement: queue (4), first (6), last (6).
const SETTLEMENT_OCTETS: usize = 16;

/// Writes the payload of a settlement.
pub fn encode_settlements(into: &mut Vec<u8>, ranges: &[(QueueId, u64, u64)]) {
    into.extend_from_slice(&(ranges.len() as u32).to_be_bytes());
    for &(queue, first, last) in ranges {
        let mut octets = [0; SETTLEMENT_OCTETS];
        octets[..4].copy_from_slice(&queue.0.to_be_bytes());
        octets[4..10].copy_from_slice(&first.to_be_bytes()[2..]);
        octets[10..].copy_from_slice(&last.to_be_bytes()[2..]);
        into.extend_from_slice(&octets);
    }
}

/// The ranges of a settlement as (queue, first, last); `None` when the lengths do not agree.
pub fn decode_settlements(
    payload: &[u8],
) -> Option<impl Iterator<Item = (QueueId, u64, u64)> + use<'_>> {
    let count = u32_at(payload, 0)? as usize;
    let rest = &payload[4..];
    if count.checked_mul(SETTLEMENT_OCTETS)? != rest.len() {
        return None;
    }
    Some(rest.chunks_exact(SETTLEMENT_OCTETS).map(|octets| {
        let number = |octets: &[u8]| octets.iter().fold(0, |sum, &o| sum << 8 | u64::from(o));
        (
            QueueId(number(&octets[..4]) as u32),
            number(&octets[4..10]),
            number(&octets[10..]),
        )
    }))
}

/// Writes the payload of a permission record.
pub fn encode_permission(into: &mut Vec<u8>, queue: QueueId, up_to: u64) {
    into.extend_from_slice(&queue.0.to_be_bytes());
    into.extend_from_slice(&up_to.to_be_bytes());
}

/// The reverse of [`encode_permission`].
pub fn decode_permission(payload: &[u8]) -> Option<(QueueId, u64)> {
    (payload.len() == 12).then_some(())?;
    Some((QueueId(u32_at(payload, 0)?), u64_at(payload, 4)?))
}

/// The payload of a mark: everything up to this log sequence number is stable.
pub fn decode_mark(payload: &[u8]) -> Option<u64> {
    (payload.len() == 8).then(|| u64_at(payload, 0))?
}

/// Writes the payload of a group of definitions.
///
/// * `stable_lsn`: up to which record the definitions were on stable storage when this was written.
pub fn encode_definitions(into: &mut Vec<u8>, stable_lsn: u64, pairs: &[(&[u8], Option<&[u8]>)]) {
    into.extend_from_slice(&stable_lsn.to_be_bytes());
    for (key, value) in pairs {
        into.extend_from_slice(&(key.len() as u32).to_be_bytes());
        into.extend_from_slice(key);
        let length = value.map_or(FORGOTTEN, |value| value.len() as u32);
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(value.unwrap_or_default());
    }
}

/// Length of the value of a key that is forgotten.
const FORGOTTEN: u32 = u32::MAX;

/// A key and its value, `None` when the key is forgotten.
pub type Pair<'a> = (&'a [u8], Option<&'a [u8]>);

/// The reverse of [`encode_definitions`]; `None` when the lengths do not agree.
pub fn decode_definitions(payload: &[u8]) -> Option<(u64, Vec<Pair<'_>>)> {
    let stable_lsn = u64_at(payload, 0)?;
    let mut rest = &payload[8..];
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.get(4..)?.split_at_checked(u32_at(rest, 0)? as usize)?;
        let length = u32_at(after, 0)?;
        let after = &after[4..];
        if length == FORGOTTEN {
            pairs.push((key, None));
            rest = after;
        } else {
            let (value, after) = after.split_at_checked(length as usize)?;
            pairs.push((key, Some(value)));
            rest = after;
        }
    }
    Some((stable_lsn, pairs))
}

/// Version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// First octets of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"leveret\n";
/// Octets of a segment before its first record: two copies of [`SegmentHeader`].
pub const SEGMENT_START: u64 = 1024;
/// Where the second copy lies.
const SEGMENT_HEADER_COPY: usize = 512;
/// Octets of one copy.
const SEGMENT_HEADER_OCTETS: usize = 64;

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
mod tests {
    use super::*;

    const SEED: Seed = Seed(0x0123_4567_89AB_CDEF);

    fn message(body: Body<'_>) -> Message<'_> {
        Message {
            names: b"\x02ex\x03key",
            properties: &[0x80, 0, 4, b't', b'e', b'x', b't'],
            body,
        }
    }

    /// Encodes `message` as a record and takes it apart again.
    fn check(body: Body<'_>, to: &[(QueueId, u64)], lsn: u64, more: bool) -> Vec<u8> {
        let message = message(body);
        let mut octets = Vec::new();
        let start = begin(&mut octets);
        let kind = encode_message(&mut octets, 77, &message, to, 5);
        assert_eq!(
            octets.len(),
            HEADER_OCTETS + message_octets(&message, to.len())
        );
        let length = finish(&mut octets, start, lsn, kind, more, SEED);
        assert_eq!(
            (length as usize, octets.len() % ALIGNMENT),
            (octets.len(), 0)
        );
        let (header, payload) = decode_record(&octets, SEED).expect("fits");
        assert_eq!((header.lsn, header.kind, header.more), (lsn, kind, more));
        let parts = MessagePayload::new(kind, payload).expect("a message");
        assert_eq!(parts.queues().collect::<Vec<_>>(), to);
        let stored = parts.message().expect("a message");
        assert_eq!((stored.arrived_ms, stored.message), (77, message));
        octets
    }

    #[test]
    fn a_message_comes_back_as_it_was_written() {
        let two = [(QueueId(1), 0), (QueueId(u32::MAX), (1 << 48) - 1)];
        check(Body::Octets(b""), &[], 0, false);
        check(Body::Octets(b"x"), &two[..1], 1, true);
        check(Body::Octets(&[7; 1000]), &two, LSN_MAX, false);
        let large = LargeBody {
            file: 9,
            octets: u64::MAX,
        };
        check(Body::Large(large), &two, 3, false);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let octets = check(Body::Octets(b"body"), &[(QueueId(3), 4)], 9, false);
        let payload_end = HEADER_OCTETS + u32_at(&octets, 4).expect("there") as usize;
        for length in 0..payload_end {
            assert!(decode_record(&octets[..length], SEED).is_err(), "{length}");
        }
        for bit in 0..payload_end * 8 {
            let mut flipped = octets.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = decode_record(&flipped, SEED);
            assert!(read.is_err(), "bit {bit}");
            // Damage in the payload leaves the header and so the way to the next record.
            let header = read.err().flatten();
            assert_eq!(header.is_some(), bit / 8 >= HEADER_OCTETS);
        }
    }

    #[test]
    fn zeros_ones_and_records_of_another_seed_are_no_records() {
        let octets = check(Body::Octets(b"body"), &[], 9, false);
        for seed in [Seed(0), Seed(1), SEED, Seed(u64::MAX)] {
            assert!(RecordHeader::decode(&[0; 4096], seed).is_none());
            assert!(RecordHeader::decode(&[0xFF; 4096], seed).is_none());
            assert_eq!(RecordHeader::decode(&octets, seed).is_some(), seed == SEED);
        }
    }

    #[test]
    fn payloads_that_are_cut_are_refused_and_never_panic() {
        let octets = check(Body::Octets(b"body"), &[(QueueId(3), 4)], 9, false);
        for end in HEADER_OCTETS..octets.len() {
            let payload = &octets[HEADER_OCTETS..end];
            for kind in [RecordKind::Message, RecordKind::LargeMessage] {
                if let Some(parts) = MessagePayload::new(kind, payload) {
                    let _ = (parts.queues().count(), parts.message(), parts.large());
                }
            }
            let _ = (decode_permission(payload), decode_mark(payload));
            let _ = decode_settlements(payload).map(Iterator::count);
        }
    }

    #[test]
    fn settlements_and_permissions_come_back() {
        let ranges = [(QueueId(1), 0, 0), (QueueId(2), 5, (1 << 48) - 1)];
        let mut octets = Vec::new();
        encode_settlements(&mut octets, &ranges);
        let back = decode_settlements(&octets).expect("fits");
        assert_eq!(back.collect::<Vec<_>>(), ranges);
        octets.push(0);
        assert!(decode_settlements(&octets).is_none());
        let mut octets = Vec::new();
        encode_permission(&mut octets, QueueId(8), 65_536);
        assert_eq!(decode_permission(&octets), Some((QueueId(8), 65_536)));
    }

    #[test]
    fn a_segment_header_survives_the_loss_of_either_copy() {
        let header = SegmentHeader {
            rewritten: 3,
            table_entries: 8,
            ..SegmentHeader::new(7, SEED, 99)
        };
        let mut octets = Vec::new();
        header.encode(&mut octets);
        assert_eq!(octets.len() as u64, SEGMENT_START);
        for lost in [0, SEGMENT_HEADER_COPY] {
            for bit in 0..SEGMENT_HEADER_OCTETS * 8 {
                let mut damaged = octets.clone();
                damaged[lost + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(SegmentHeader::decode(&damaged, 7), Some(header));
            }
        }
        assert_eq!(SegmentHeader::decode(&[0; 1024], 0), None);
        assert_eq!(SegmentHeader::decode(&octets, 8), None);
    }
}

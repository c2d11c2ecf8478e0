//! Walking the records of a segment, past damage, and gathering what the rest of the storage wants
//! to know of them.

use hashbrown::HashMap;

use super::entries::EntryList;
use super::record_codec::{
    self as codec, ALIGNMENT, HEADER_OCTETS, MessagePayload, RecordHeader, RecordKind,
    SEGMENT_START, Seed,
};
use crate::broker::record::QueueId;
use crate::message::{Entry, MessageRef};

/// What lies at an offset.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// A record that checks.
    Record {
        offset: u64,
        header: RecordHeader,
        payload: &'a [u8],
    },
    /// Octets that do not. With a header when that much can be trusted.
    Damage {
        offset: u64,
        end: u64,
        header: Option<RecordHeader>,
    },
}

/// Walks the records from [`SEGMENT_START`] to the end of `octets`; where they end.
///
/// * `check_messages`: whether the payloads of messages are checked; everything else always is.
///
/// After damage the walk goes on at the next offset whose header checks. Octets behind the last
/// header that checks are the end and no damage.
pub(super) fn scan<'a>(
    octets: &'a [u8],
    seed: Seed,
    check_messages: bool,
    mut visit: impl FnMut(Item<'a>),
) -> u64 {
    let mut offset = SEGMENT_START as usize;
    let mut lsn_before = 0;
    while let Some(rest) = octets.get(offset..)
        && rest.len() > HEADER_OCTETS
    {
        let Some(header) = RecordHeader::decode(rest, seed) else {
            let Some(next) = next_header(octets, offset + ALIGNMENT, seed, lsn_before) else {
                break;
            };
            visit(Item::Damage {
                offset: offset as u64,
                end: next as u64,
                header: None,
            });
            offset = next;
            continue;
        };
        lsn_before = header.lsn;
        let start = offset as u64;
        let payload = rest.get(HEADER_OCTETS..HEADER_OCTETS + header.length as usize);
        let is_message = matches!(header.kind, RecordKind::Message | RecordKind::LargeMessage);
        let whole = payload.filter(|payload| {
            (is_message && !check_messages) || seed.payload_crc(payload) == header.payload_crc
        });
        offset += header.record_octets() as usize;
        if let Some(payload) = whole {
            visit(Item::Record {
                offset: start,
                header,
                payload,
            });
        } else {
            offset = offset.min(octets.len());
            visit(Item::Damage {
                offset: start,
                end: offset as u64,
                header: Some(header),
            });
        }
    }
    offset as u64
}

/// Zeros are passed over in stretches of so many octets.
const ZEROS_OCTETS: usize = 1024;

/// The first offset from `from` on at which a header checks whose number is plausible.
pub(super) fn next_header(
    octets: &[u8],
    from: usize,
    seed: Seed,
    lsn_before: u64,
) -> Option<usize> {
    let mut offset = from;
    while let Some(head) = octets.get(offset..offset + HEADER_OCTETS) {
        if let Some(stretch) = octets.get(offset..offset + ZEROS_OCTETS)
            && *stretch == [0; ZEROS_OCTETS]
        {
            // The last places may hold the start of a header that goes on behind the zeros.
            offset += ZEROS_OCTETS - 2 * ALIGNMENT;
            continue;
        }
        // Most of what is searched is zeros: a look at the kind spares the checksum.
        if let Some(kind) = head.get(15)
            && *kind != 0
            && let Some(header) = RecordHeader::decode(head, seed)
            && header.lsn > lsn_before
        {
            return Some(offset);
        }
        offset += ALIGNMENT;
    }
    None
}

/// A stretch of log sequence numbers of which nothing can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// First and last number that is missing.
    pub(super) first_lsn: u64,
    pub(super) last_lsn: u64,
    pub(super) segment: u32,
    /// The octets, if there are any.
    pub(super) offset: u64,
    pub(super) end: u64,
}

/// What the records of one segment say.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) number: u32,
    /// Where its records end.
    pub(super) end: u64,
    pub(super) first_lsn: u64,
    /// Number of its last record; `first_lsn - 1` when there is none.
    pub(super) last_lsn: u64,
    pub(super) queues: HashMap<QueueId, EntryList>,
    /// While records are taken in, the list of the queue that was last.
    pub(super) list: (Option<QueueId>, EntryList),
    pub(super) settlements: Vec<(QueueId, u64, u64)>,
    pub(super) permissions: Vec<(QueueId, u64)>,
    /// Places of records that name a large body, and its file.
    pub(super) large: Vec<(u32, u64)>,
    /// The greatest number that a mark says is stable.
    pub(super) stable_lsn: u64,
    /// Whether a group ends in it, be it a group of one.
    pub(super) closes_group: bool,
    /// First number of the group that is unfinished at its end, if that began in it.
    pub(super) group_from: Option<u64>,
    pub(super) problems: Vec<Problem>,
    /// Offsets of headers that check and lie at or beyond the limit.
    pub(super) void: Vec<u64>,
}

/// How a segment is summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    pub(super) number: u32,
    pub(super) seed: Seed,
    pub(super) first_lsn: u64,
    /// Records from this number on are void.
    pub(super) limit_lsn: u64,
    pub(super) check_messages: bool,
    /// Whether numbers follow each other; not so in a compacted segment.
    pub(super) dense: bool,
}

impl Summary {
    /// Sums up the segment in `octets`.
    pub(super) fn of(octets: &[u8], scope: Scope) -> Self {
        let mut summary = Summary {
            number: scope.number,
            end: SEGMENT_START,
            first_lsn: scope.first_lsn,
            last_lsn: scope.first_lsn.saturating_sub(1),
            ..Summary::default()
        };
        let mut damaged: Option<(u64, u64)> = None;
        scan(
            octets,
            scope.seed,
            scope.check_messages,
            |item| match item {
                Item::Record {
                    offset,
                    header,
                    payload,
                } => {
                    if header.lsn >= scope.limit_lsn {
                        summary.void.push(offset);
                        return;
                    }
                    summary.gap(&scope, header.lsn, &mut damaged, offset);
                    summary.end = offset + header.record_octets();
                    summary.last_lsn = header.lsn;
                    if header.more {
                        summary.group_from.get_or_insert(header.lsn);
                    } else {
                        summary.group_from = None;
                        summary.closes_group = true;
                    }
                    if !summary.record(offset, header, payload) {
                        // It checks and yet says nothing: written by a program that is not this one.
                        summary.problem(header.lsn, header.lsn, offset, summary.end);
                    }
                }
                Item::Damage {
                    offset,
                    end,
                    header,
                } => match header {
                    Some(header) if header.lsn >= scope.limit_lsn => summary.void.push(offset),
                    _ => {
                        let from = damaged.map_or(offset, |(from, _)| from);
                        damaged = Some((from, end));
                        if let Some(header) = header {
                            // Lost, and known to be one record.
                            summary.gap(&scope, header.lsn + 1, &mut damaged, end);
                            summary.last_lsn = header.lsn;
                            summary.end = end;
                        }
                    }
                },
            },
        );
        summary.put_list_back();
        if !scope.dense {
            // Here it is known where the records end: one whose header is damaged and that no other
            // follows is missed all the same.
            let from = damaged.map_or(summary.end, |(from, _)| from);
            if from < octets.len() as u64 {
                let lsn = summary.last_lsn + 1;
                summary.problem(lsn, lsn, from, octets.len() as u64);
            }
            // Compaction keeps messages only, and what it rewrites was whole: the record that ended
            // a group may be gone.
            summary.group_from = None;
            summary.closes_group = true;
        }
        summary
    }

    /// Notes what is missing before number `lsn`.
    fn gap(&mut self, scope: &Scope, lsn: u64, damaged: &mut Option<(u64, u64)>, offset: u64) {
        let expected = self.last_lsn + 1;
        let range = damaged.take();
        if scope.dense && lsn > expected {
            let (from, end) = range.unwrap_or((offset, offset));
            self.problem(expected, lsn - 1, from, end);
        } else if let Some((from, end)) = range
            && !scope.dense
        {
            self.problem(expected, expected, from, end);
        }
    }

    fn problem(&mut self, first_lsn: u64, last_lsn: u64, offset: u64, end: u64) {
        self.problems.push(Problem {
            first_lsn,
            last_lsn,
            segment: self.number,
            offset,
            end,
        });
    }

    /// Misses what lies behind the last record that was found and before `used`, where records
    /// end: no header follows there by which the walk could tell.
    pub(super) fn miss_end(&mut self, used: u64) {
        let ends = self.problems.iter().map(|problem| problem.end);
        let end = ends.fold(self.end, u64::max);
        if end < used {
            self.last_lsn += 1;
            self.problem(self.last_lsn, self.last_lsn, end, used);
            self.end = used;
        }
    }

    /// Puts the list in hand among the others.
    fn put_list_back(&mut self) {
        if let (Some(queue), list) = std::mem::take(&mut self.list) {
            self.queues.insert(queue, list);
        }
    }

    /// Takes in what a record says; `false` when its payload makes no sense.
    fn record(&mut self, offset: u64, header: RecordHeader, payload: &[u8]) -> bool {
        match header.kind {
            RecordKind::Message | RecordKind::LargeMessage => {
                let Some(message) = MessagePayload::new(header.kind, payload) else {
                    return false;
                };
                let at = MessageRef {
                    segment: self.number,
                    place: (offset / ALIGNMENT as u64) as u32,
                };
                let holders = message.queue_count().max(1) as u64;
                let share = (header.record_octets() / holders) as u32;
                for (queue, sequence) in message.queues() {
                    let entry = Entry::new(at, sequence, share, Entry::LOGGED);
                    // Messages of one queue mostly follow each other.
                    if self.list.0 != Some(queue) {
                        self.put_list_back();
                        self.list = (Some(queue), self.queues.remove(&queue).unwrap_or_default());
                    }
                    self.list.1.push(entry);
                }
                if let Some((large, _)) = message.large() {
                    self.large.push((at.place, large.file));
                }
                true
            }
            RecordKind::Settlement => match codec::decode_settlements(payload) {
                Some(ranges) => {
                    self.settlements.extend(ranges);
                    true
                }
                None => false,
            },
            RecordKind::Permission => match codec::decode_permission(payload) {
                Some(permission) => {
                    self.permissions.push(permission);
                    true
                }
                None => false,
            },
            RecordKind::Mark => match codec::decode_mark(payload) {
                Some(stable) => {
                    self.stable_lsn = self.stable_lsn.max(stable);
                    true
                }
                None => false,
            },
            _ => false,
        }
    }

    /// The group that is unfinished after this segment when `before` was before it.
    pub(super) fn carry_group(&self, before: Option<u64>) -> Option<u64> {
        if self.closes_group {
            self.group_from
        } else {
            before.or(self.group_from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Body, Message};

    const SEED: Seed = Seed(0xFEED_F00D_1234_5678);

    /// Three messages of different length, and where each starts.
    fn segment() -> (Vec<u8>, Vec<u64>) {
        let mut octets = vec![0; SEGMENT_START as usize];
        let mut starts = Vec::new();
        for (lsn, body) in [(1, &b"first"[..]), (2, &[7; 100]), (3, b"")] {
            starts.push(octets.len() as u64);
            let message = Message {
                names: b"\x00\x01q",
                properties: &[0, 0],
                body: Body::Octets(body),
            };
            let start = codec::begin(&mut octets);
            let to = [(QueueId(1), lsn)];
            let kind = codec::encode_message(&mut octets, 0, &message, &to, 0);
            codec::finish(&mut octets, start, lsn, kind, false, SEED);
        }
        starts.push(octets.len() as u64);
        octets.resize(octets.len() + 4096, 0);
        (octets, starts)
    }

    fn sum_up(octets: &[u8], limit_lsn: u64) -> Summary {
        Summary::of(
            octets,
            Scope {
                number: 1,
                seed: SEED,
                first_lsn: 1,
                limit_lsn,
                check_messages: true,
                dense: true,
            },
        )
    }

    fn sequences(summary: &Summary) -> Vec<u64> {
        let entries = summary.queues.get(&QueueId(1));
        entries
            .into_iter()
            .flat_map(EntryList::iter)
            .map(crate::message::Entry::sequence)
            .collect()
    }

    #[test]
    fn whole_records_are_found_and_their_end() {
        let (octets, starts) = segment();
        let summary = sum_up(&octets, u64::MAX);
        assert_eq!(sequences(&summary), [1, 2, 3]);
        assert_eq!((summary.end, summary.last_lsn), (starts[3], 3));
        assert!(summary.problems.is_empty() && summary.void.is_empty());
        let cut = sum_up(&octets, 3);
        assert_eq!((sequences(&cut), cut.void), (vec![1, 2], vec![starts[2]]));
    }

    #[test]
    fn a_cut_at_any_octet_ends_the_records_before_it() {
        let (octets, starts) = segment();
        for length in SEGMENT_START..starts[3] {
            let summary = sum_up(&octets[..length as usize], u64::MAX);
            let whole = starts[1..].iter().zip(&starts).filter(|&(&end, &start)| {
                // The padding of a record may be missing.
                let header = RecordHeader::decode(&octets[start as usize..], SEED);
                let payload = header.map_or(0, |header| u64::from(header.length));
                let _ = end;
                length >= start + HEADER_OCTETS as u64 + payload
            });
            assert_eq!(sequences(&summary).len(), whole.count(), "{length}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_the_record_it_hits_and_no_other() {
        let (octets, starts) = segment();
        for bit in SEGMENT_START * 8..starts[3] * 8 {
            let mut flipped = octets.clone();
            flipped[(bit / 8) as usize] ^= 1 << (bit % 8);
            let hit = starts.iter().filter(|&&start| start <= bit / 8).count() as u64;
            let summary = sum_up(&flipped, u64::MAX);
            let expected: Vec<_> = (1..=3).filter(|&lsn| lsn != hit).collect();
            let found = sequences(&summary);
            // A bit of the padding hurts nobody.
            assert!(
                found == expected || found == [1, 2, 3],
                "bit {bit}: {found:?}"
            );
            if found.len() == 2 && hit < 3 {
                let lost: Vec<_> = summary
                    .problems
                    .iter()
                    .map(|p| (p.first_lsn, p.last_lsn))
                    .collect();
                assert_eq!(lost, [(hit, hit)], "bit {bit}");
            }
        }
    }

    #[test]
    fn pages_of_zeros_or_ones_in_the_middle_are_passed() {
        let (octets, starts) = segment();
        for fill in [0, 0xFF] {
            let mut damaged = octets.clone();
            damaged[starts[1] as usize..starts[2] as usize].fill(fill);
            let summary = sum_up(&damaged, u64::MAX);
            assert_eq!(sequences(&summary), [1, 3]);
            let problem = &summary.problems[0];
            assert_eq!((problem.first_lsn, problem.last_lsn), (2, 2));
            assert_eq!((problem.offset, problem.end), (starts[1], starts[2]));
        }
    }
}

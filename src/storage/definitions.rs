//! The definitions file: pairs of key and value, the last write of a key wins.
//!
//! The file is a segment header (number 0) and records of groups of pairs, appended and synced
//! before the message records of their batch. When more than half of it is outdated it is written
//! anew under another seed and renamed into place.

use std::io;

use hashbrown::HashMap;

use super::StorageError;
use super::files::{Storage, read_whole, write_all_at};
use super::jobs::DEFINITIONS_NAME;
use super::record_codec::{self as codec, FORMAT_VERSION, RecordKind, Seed, SegmentHeader};
use super::scan::{Item, scan};

/// Name under which the file is written anew.
const NEW_NAME: &str = "definitions.new";
/// Most octets of pairs in one record when the file is written anew.
const GROUP_OCTETS: usize = 64 << 10;

/// What a definitions file says.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// Pairs that hold, in the order in which they were last written.
    pub(super) pairs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) seed: Seed,
    pub(super) next_lsn: u64,
    /// Octets of the file as far as it can be appended to; 0 when there is no file.
    pub(super) end: u64,
    /// Octets of it that still count.
    pub(super) live_octets: u64,
    /// Records that were on stable storage and could not be read.
    pub(super) lost: u64,
    /// Octets after the end that were cut off.
    pub(super) torn_octets: u64,
    /// The file is there and nothing of it can be read.
    pub(super) unreadable: bool,
}

/// Octets that a pair takes.
pub(super) fn pair_octets(key: &[u8], value: Option<&[u8]>) -> u64 {
    (8 + key.len() + value.map_or(0, <[u8]>::len)) as u64
}

/// Reads the definitions of the directory.
pub(super) fn read<S: Storage>(storage: &S) -> Result<Definitions, StorageError> {
    let failed = |error: io::Error| StorageError::new("cannot read", DEFINITIONS_NAME, &error);
    let file = match storage.open(DEFINITIONS_NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Definitions {
                next_lsn: 1,
                ..Definitions::default()
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let octets = read_whole(storage, &file).map_err(failed)?;
    let mut found = Definitions {
        next_lsn: 1,
        ..Definitions::default()
    };
    let Some(header) = SegmentHeader::decode(&octets, 0) else {
        // A file that was made and not yet written, or whose first write was torn.
        let nothing = octets.iter().all(|&octet| octet == 0);
        found.unreadable = !nothing;
        found.torn_octets = octets.len() as u64;
        return Ok(found);
    };
    if header.version > FORMAT_VERSION {
        return Err(StorageError::refused(format!(
            "{DEFINITIONS_NAME} has format {}, this program reads up to {FORMAT_VERSION}",
            header.version
        )));
    }
    found.seed = header.seed;
    found.next_lsn = header.first_lsn;
    found.replay(&octets, header.seed);
    Ok(found)
}

impl Definitions {
    fn replay(&mut self, octets: &[u8], seed: Seed) {
        // First how far the file was stable, as its own records say: what is missing below is
        // damage, above it is a torn end.
        let mut stable_lsn = 0;
        let mut gaps = Vec::new();
        let mut expected = self.next_lsn;
        scan(octets, seed, true, |item| {
            if let Item::Record {
                offset,
                header,
                payload,
            } = item
                && let Some((stable, _)) = codec::decode_definitions(payload)
            {
                stable_lsn = stable_lsn.max(stable);
                if header.lsn > expected {
                    gaps.push((expected, header.lsn, offset));
                }
                expected = header.lsn + 1;
            }
        });
        let torn = gaps.iter().find(|gap| gap.1 > stable_lsn + 1);
        let limit_lsn = torn.map_or(u64::MAX, |gap| gap.0);
        self.lost = gaps
            .iter()
            .filter(|gap| gap.0 < limit_lsn)
            .map(|gap| gap.1 - gap.0)
            .sum();
        let mut pairs: HashMap<Vec<u8>, (u64, Vec<u8>)> = HashMap::new();
        let (mut order, mut end) = (0, codec::SEGMENT_START);
        scan(octets, seed, true, |item| {
            let Item::Record {
                offset,
                header,
                payload,
            } = item
            else {
                return;
            };
            if header.lsn >= limit_lsn {
                return;
            }
            let Some((_, written)) = codec::decode_definitions(payload) else {
                return;
            };
            end = offset + header.record_octets();
            self.next_lsn = header.lsn + 1;
            for (key, value) in written {
                order += 1;
                match value {
                    Some(value) => pairs.insert(key.to_vec(), (order, value.to_vec())),
                    None => pairs.remove(key),
                };
            }
        });
        self.end = end.min(octets.len() as u64);
        let rest = octets.get(self.end as usize..).unwrap_or_default();
        self.torn_octets = if rest.iter().all(|&octet| octet == 0) {
            0
        } else {
            rest.len() as u64
        };
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable_by_key(|(_, (order, _))| *order);
        self.pairs = pairs
            .into_iter()
            .map(|(key, (_, value))| (key, value))
            .collect();
        let live = self
            .pairs
            .iter()
            .map(|(key, value)| pair_octets(key, Some(value)));
        self.live_octets = live.sum();
    }

    /// Whether the file should be written anew before it is appended to.
    pub(super) fn wants_rewriting(&self) -> bool {
        self.torn_octets > 0 || self.lost > 0 || outdated(self.end, self.live_octets)
    }
}

/// Whether more than half of a file of `end` octets is outdated, and it is worth the while.
pub(super) fn outdated(end: u64, live_octets: u64) -> bool {
    end > (64 << 10) + codec::SEGMENT_START && end > 3 * live_octets
}

/// Writes the pairs as a new file in the place of the old one; its octets, and the number of the
/// next record.
pub(super) fn rewrite<S: Storage>(
    storage: &S,
    seed: Seed,
    next_lsn: u64,
    pairs: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<(u64, u64)> {
    let mut octets = Vec::new();
    SegmentHeader::new(0, seed, next_lsn).encode(&mut octets);
    let mut lsn = next_lsn;
    let mut from = 0;
    while from < pairs.len() {
        let (mut to, mut size) = (from, 0);
        while to < pairs.len() && size < GROUP_OCTETS {
            size += pair_octets(&pairs[to].0, Some(&pairs[to].1)) as usize;
            to += 1;
        }
        let group: Vec<codec::Pair<'_>> = pairs[from..to]
            .iter()
            .map(|(key, value)| (&key[..], Some(&value[..])))
            .collect();
        let start = codec::begin(&mut octets);
        codec::encode_definitions(&mut octets, lsn - 1, &group);
        codec::finish(
            &mut octets,
            start,
            lsn,
            RecordKind::Definitions,
            false,
            seed,
        );
        lsn += 1;
        from = to;
    }
    let file = storage.create(NEW_NAME, 0)?;
    write_all_at(storage, &file, 0, &octets)?;
    storage.sync(&file)?;
    storage.rename(NEW_NAME, DEFINITIONS_NAME)?;
    storage.sync_dir()?;
    Ok((octets.len() as u64, lsn))
}

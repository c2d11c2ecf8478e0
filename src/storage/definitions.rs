//! The definitions file: pairs of key and value, the last write of a key wins.
//!
//! The file is a segment header (number 0) and records of groups of pairs, appended and synced
//! before the message records of their batch. When more than half of it is outdated it is written
//! anew under another seed and renamed into place.

use std::io;
use std::sync::{Arc, OnceLock};

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashMap;

use super::StorageError;
use super::files::{Storage, read_whole, write_all_at};
use super::jobs::Job;
use super::record_codec::{self as codec, FORMAT_VERSION, RecordKind, Seed, SegmentHeader};
use super::scan::{Item, scan};

/// Name of the file.
pub(super) const NAME: &str = "definitions";
/// Name under which the file is written anew.
const NEW_NAME: &str = "definitions.new";
/// Most octets of pairs in one record when the file is written anew.
const GROUP_OCTETS: usize = 64 << 10;

/// Definitions to be appended to their file.
#[derive(Debug)]
pub(super) struct DefinitionsWrite<S: Storage> {
    pub(super) file: Arc<OnceLock<S::File>>,
    pub(super) offset: u64,
    pub(super) octets: Vec<u8>,
}

/// The file as it was written anew.
pub(super) struct RewrittenDefinitions<S: Storage> {
    pub(super) file: S::File,
    pub(super) seed: Seed,
    pub(super) end: u64,
    pub(super) next_lsn: u64,
}

/// The definitions file as the loop sees it.
#[derive(Debug)]
pub(super) struct DefinitionsLog<S: Storage> {
    file: Arc<OnceLock<S::File>>,
    pub(super) seed: Seed,
    next_lsn: u64,
    /// Everything up to here is on stable storage.
    flushed_lsn: u64,
    /// Octets that were handed to the flusher so far.
    end: u64,
    pending: Vec<u8>,
    /// Octets of each key's last pair, by a hash of the key: what of the file still counts.
    live: HashMap<u64, u32>,
    live_octets: u64,
    /// While the keeper writes the file anew: the payloads that wait for it.
    held: Option<Vec<Vec<u8>>>,
}

impl<S: Storage> DefinitionsLog<S> {
    pub(super) fn new() -> Self {
        DefinitionsLog {
            file: Arc::new(OnceLock::new()),
            seed: Seed(0),
            next_lsn: 1,
            flushed_lsn: 0,
            end: 0,
            pending: Vec::new(),
            live: HashMap::new(),
            live_octets: 0,
            held: None,
        }
    }

    /// Takes over what the file says when the store is opened.
    pub(super) fn found(&mut self, file: S::File, found: &Definitions) {
        // A store that is being opened has set nothing yet.
        let _ = self.file.set(file);
        self.seed = found.seed;
        self.next_lsn = found.next_lsn;
        self.flushed_lsn = found.next_lsn - 1;
        self.end = found.end;
        for (key, value) in &found.pairs {
            self.account(key, Some(value));
        }
    }

    /// Notes that records up to `lsn` are on stable storage. When the file was written anew
    /// meanwhile, that holds for more already.
    pub(super) fn flushed(&mut self, lsn: u64) {
        self.flushed_lsn = self.flushed_lsn.max(lsn);
    }

    /// Number of the last record.
    pub(super) fn last_lsn(&self) -> u64 {
        self.next_lsn - 1
    }

    /// Whether something waits to be handed over.
    pub(super) fn has_new(&self) -> bool {
        !self.pending.is_empty() || self.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Whether what waits must wait for the keeper.
    pub(super) fn is_rewriting(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Appends a group of pairs.
    pub(super) fn append(&mut self, pairs: &[codec::Pair<'_>]) {
        for (key, value) in pairs {
            self.account(key, *value);
        }
        let mut payload = Vec::new();
        codec::encode_definitions(&mut payload, self.flushed_lsn, pairs);
        match &mut self.held {
            Some(held) => held.push(payload),
            None => self.write(&payload),
        }
    }

    fn account(&mut self, key: &[u8], value: Option<&[u8]>) {
        // A collision of hashes makes the estimate wrong by one pair and nothing else.
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        let before = match value {
            Some(_) => {
                let octets = pair_octets(key, value) as u32;
                self.live_octets += u64::from(octets);
                self.live.insert(hash, octets)
            }
            None => self.live.remove(&hash),
        };
        self.live_octets -= u64::from(before.unwrap_or(0));
    }

    fn write(&mut self, payload: &[u8]) {
        if self.end == 0 && self.pending.is_empty() {
            SegmentHeader::new(0, self.seed, self.next_lsn).encode(&mut self.pending);
        }
        let start = codec::begin(&mut self.pending);
        self.pending.extend_from_slice(payload);
        let (lsn, seed) = (self.next_lsn, self.seed);
        codec::finish(
            &mut self.pending,
            start,
            lsn,
            RecordKind::Definitions,
            false,
            seed,
        );
        self.next_lsn += 1;
    }

    /// What waits, for the flusher.
    pub(super) fn hand_over(&mut self) -> Option<DefinitionsWrite<S>> {
        if self.pending.is_empty() {
            return None;
        }
        let octets = std::mem::take(&mut self.pending);
        let offset = self.end;
        self.end += octets.len() as u64;
        Some(DefinitionsWrite {
            file: Arc::clone(&self.file),
            offset,
            octets,
        })
    }

    /// Whether most of the file is outdated and it is all on disk.
    pub(super) fn wants_rewriting(&self) -> bool {
        self.held.is_none()
            && self.flushed_lsn == self.last_lsn()
            && outdated(self.end, self.live_octets)
    }

    /// The job that writes the file anew; what is appended meanwhile waits.
    pub(super) fn begin_rewriting(&mut self, seed: Seed) -> Job<S> {
        self.held = Some(Vec::new());
        Job::RewriteDefinitions { seed }
    }

    /// Goes on with the new file, or with the old one.
    pub(super) fn end_rewriting(&mut self, rewritten: Option<RewrittenDefinitions<S>>) {
        if let Some(rewritten) = rewritten {
            self.file = Arc::new(OnceLock::from(rewritten.file));
            self.seed = rewritten.seed;
            self.end = rewritten.end;
            self.next_lsn = rewritten.next_lsn;
            self.flushed_lsn = rewritten.next_lsn - 1;
        }
        for payload in self.held.take().into_iter().flatten() {
            self.write(&payload);
        }
    }
}

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
    let failed = |error: io::Error| StorageError::new("cannot read", NAME, &error);
    let file = match storage.open(NAME) {
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
            "{NAME} has format {}, this program reads up to {FORMAT_VERSION}",
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
        // The file may end in the padding of its last record: what is appended is aligned all the
        // same.
        self.end = end;
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

/// Writes the pairs as a new file in the place of the old one. What cannot be undone when the
/// second result is an error: the new file has the name, and a crash may bring the old one back.
///
/// # Errors
/// The old file is still in its place.
pub(super) fn rewrite<S: Storage>(
    storage: &S,
    seed: Seed,
    next_lsn: u64,
    pairs: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<(RewrittenDefinitions<S>, io::Result<()>)> {
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
    storage.rename(NEW_NAME, NAME)?;
    let rewritten = RewrittenDefinitions {
        file,
        seed,
        end: octets.len() as u64,
        next_lsn: lsn,
    };
    Ok((rewritten, storage.sync_dir()))
}

/// Overwrites what lies behind `end` with zeros, which needs no new space. Blocks.
pub(super) fn clear_end<S: Storage>(storage: &S, end: u64) -> io::Result<()> {
    let file = storage.open(NAME)?;
    let octets = storage.octets(&file)?.saturating_sub(end);
    write_all_at(storage, &file, end, &vec![0; octets as usize])?;
    storage.sync(&file)
}

/// Reads the file and writes it anew. Blocks.
pub(super) fn rewrite_file<S: Storage>(
    storage: &S,
    seed: Seed,
) -> io::Result<(RewrittenDefinitions<S>, io::Result<()>)> {
    let found = read(storage).map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    if found.lost > 0 || found.unreadable {
        // Damage is dealt with at the next start, with the old file at hand.
        return Err(io::ErrorKind::InvalidData.into());
    }
    rewrite(storage, seed, found.next_lsn, &found.pairs)
}

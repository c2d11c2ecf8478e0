//! What may block, as values: the loop hands jobs out, a helper runs them, the answer comes back.
//!
//! A job owns or shares all that it needs and knows no broker state, so it runs on a thread in
//! production and at any later step in the simulation.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::StorageError;
use super::arena::{SpillFile, SpillSlot};
use super::checkpoint;
use super::compaction::{self, Liveness, Rewritten, Sealed};
use super::definitions::{self, DefinitionsWrite, RewrittenDefinitions};
use super::files::{
    CACHE_PAGE_OCTETS, Map, Storage, is_full, read_exact_at, write_all_at, write_all_padded_at,
};
use super::index;
use super::large::{Gone, LargeHandle, LargeWrite};
use super::pages::{IndexPart, PageOut};
use super::record_codec::{self as codec, RecordHeader, Seed};
use super::scan::{Scope, Summary};
use super::scrub::{self, Scrubbed, Stretch};
use super::segment::{index_name, segment_name};
use super::tail::Block;
use crate::message::Entry;
use crate::planted::{Fault, planted};

/// Takes jobs to where they run. Flush jobs run one after the other in the order given, so do
/// keeper jobs; the two kinds do not wait for each other.
pub trait Helpers<S: Storage> {
    /// Runs `job` and brings its answer to [`super::Store::answer`].
    fn flush(&mut self, job: FlushJob<S>);
    /// Runs `job` and brings its answer to [`super::Store::answer`].
    fn keep(&mut self, job: KeeperJob<S>);
}

/// One batch for the flusher: definitions, then records, each synced.
#[derive(Debug)]
pub struct FlushJob<S: Storage> {
    pub(super) batch: u64,
    pub(super) sync: bool,
    pub(super) definitions: Option<DefinitionsWrite<S>>,
    pub(super) writes: Vec<BlockWrite<S>>,
}

/// A block for the flusher to write.
#[derive(Debug)]
pub(super) struct BlockWrite<S: Storage> {
    pub(super) file: Arc<S::File>,
    pub(super) block: Arc<Block>,
    /// Octets of the file, of which those behind the block hold nothing yet.
    pub(super) file_octets: u64,
}

impl<S: Storage> BlockWrite<S> {
    /// Octets from the end of the block to the end of its last page or of the file.
    fn zeros(&self) -> usize {
        let page = CACHE_PAGE_OCTETS as u64;
        let end = self.block.end();
        (end.next_multiple_of(page).min(self.file_octets)).saturating_sub(end) as usize
    }
}

impl<S: Storage> FlushJob<S> {
    /// Writes and syncs the batch. Blocks.
    pub fn run(self, storage: &S) -> Answer<S> {
        // Definitions first: no record may be on disk whose queue is not.
        let result = match self.write_definitions(storage) {
            Ok(()) => self.write_records(storage),
            // Their file grows, so this is new space: nothing of the batch counts yet, and all
            // of it can be written again, over what there was room for.
            Err(error) if is_full(&error) => return Answer(AnswerKind::NoRoom { job: self }),
            Err(error) => Err(StorageError::new("cannot write", definitions::NAME, &error)),
        };
        self.answer(result)
    }

    fn answer(self, result: Result<(), StorageError>) -> Answer<S> {
        let batch = self.batch;
        // Blocks go back into use when the answer arrives: nobody else may hold them then.
        drop(self);
        Answer(AnswerKind::Flushed { batch, result })
    }

    fn write_definitions(&self, storage: &S) -> io::Result<()> {
        let Some(write) = &self.definitions else {
            return Ok(());
        };
        let is_synced = self.sync && !planted(Fault::SkipSync);
        if let Some(file) = write.file.get() {
            write_all_at(storage, file, write.offset, &write.octets)?;
            return if is_synced {
                storage.sync(file)
            } else {
                Ok(())
            };
        }
        let file = storage.create(definitions::NAME, 0)?;
        write_all_at(storage, &file, write.offset, &write.octets)?;
        if is_synced {
            storage.sync(&file)?;
            storage.sync_dir()?;
        }
        // Only the flusher sets it, and it runs one job at a time. Before this moment another try
        // makes the file anew.
        let _ = write.file.set(file);
        Ok(())
    }

    fn write_records(&self, storage: &S) -> Result<(), StorageError> {
        for (index, write) in self.writes.iter().enumerate() {
            let BlockWrite { file, block, .. } = write;
            let failed = |error: io::Error| {
                StorageError::new("cannot write", &segment_name(block.segment), &error)
            };
            let zeros = write.zeros();
            write_all_padded_at(storage, file, block.offset, &block.octets, zeros)
                .map_err(failed)?;
            let next = self.writes.get(index + 1);
            let last_of_file = next.is_none_or(|next| next.block.segment != block.segment);
            if self.sync && last_of_file && !planted(Fault::SkipSync) {
                storage.sync(file).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// One job for the keeper.
#[derive(Debug)]
pub struct KeeperJob<S: Storage>(pub(super) Job<S>);

/// What a range of octets belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Segment(u32),
    SpillBlock(u32),
}

/// A map that may have to be made first, of the file with this name.
#[derive(Debug)]
pub(super) enum MapSource<S: Storage> {
    Map(Arc<S::Map>),
    Name(String),
    Spill(Arc<SpillFile<S>>),
}

#[derive(Debug)]
pub(super) enum Job<S: Storage> {
    /// Makes the file of segment `number` at least `octets` long, from a dead one if there is one.
    Prepare {
        number: u32,
        octets: u64,
        recycle: Option<String>,
    },
    Populate {
        target: Target,
        source: MapSource<S>,
        range: Range<u64>,
    },
    Spill {
        block: u32,
        octets: Arc<Vec<u8>>,
        slot: SpillSlot<S>,
        seed: Seed,
    },
    WritePage {
        page: u64,
        slot: u32,
        entries: Arc<Vec<Entry>>,
        file: Arc<OnceLock<S::File>>,
    },
    ReadPages {
        pages: Vec<PageOut>,
        file: Arc<OnceLock<S::File>>,
    },
    /// Closes a file of pages that nobody needs.
    ClosePages {
        file: Arc<OnceLock<S::File>>,
    },
    /// Reads entries of a recovered queue from the index of their segment.
    ReadIndexPart {
        page: u64,
        part: IndexPart,
    },
    /// Writes the index of a segment that is full and on disk.
    Index {
        number: u32,
        used: u64,
    },
    /// Checks a stretch of a segment that no start has read.
    Scrub {
        number: u32,
        used: u64,
        at: Stretch,
    },
    /// Keeps aside what does not check from a record on that could not be read.
    KeepAside {
        number: u32,
        used: u64,
        at: Stretch,
    },
    Checkpoint {
        octets: Vec<u8>,
    },
    Compact {
        number: u32,
        used: u64,
        liveness: Liveness,
    },
    /// Removes files that nobody needs and drops the map of one.
    Remove {
        names: Vec<String>,
        map: Option<Arc<S::Map>>,
    },
    /// Removes the files of large bodies that nobody needs.
    RemoveBodies {
        bodies: Vec<Gone<S>>,
    },
    /// Writes the definitions anew under another seed.
    RewriteDefinitions {
        seed: Seed,
    },
    LargeWrite(LargeWrite<S>),
    LargeRead {
        handle: LargeHandle<S>,
        offset: u64,
        octets: u64,
    },
    FreeSpace,
}

/// What a helper has to say.
#[derive(Debug)]
pub struct Answer<S: Storage>(pub(super) AnswerKind<S>);

/// A segment file that is ready to be written.
pub(super) struct PreparedFile<S: Storage> {
    pub(super) file: Arc<S::File>,
    pub(super) map: Arc<S::Map>,
    pub(super) octets: u64,
}

impl<S: Storage> std::fmt::Debug for PreparedFile<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.octets)
    }
}

pub(super) enum AnswerKind<S: Storage> {
    Flushed {
        batch: u64,
        result: Result<(), StorageError>,
    },
    /// There was no room for the definitions of a batch, of which nothing counts yet.
    NoRoom {
        job: FlushJob<S>,
    },
    Prepared {
        number: u32,
        result: io::Result<PreparedFile<S>>,
    },
    Populated {
        target: Target,
        range: Range<u64>,
        map: Option<Arc<S::Map>>,
        result: io::Result<()>,
    },
    Spilled {
        block: u32,
        result: io::Result<()>,
    },
    PageWritten {
        page: u64,
        crc: u32,
        result: io::Result<()>,
    },
    PagesRead(Vec<(u64, io::Result<Vec<Entry>>)>),
    /// A part of an index; lines about damage that was seen.
    PartRead {
        page: u64,
        result: io::Result<Vec<Entry>>,
        damage: Vec<String>,
    },
    FreeSpace(io::Result<u64>),
    /// The index is written; lines about damage that was seen.
    Indexed {
        number: u32,
        result: io::Result<Vec<String>>,
    },
    /// The second result is that of syncing the name.
    DefinitionsRewritten(io::Result<(RewrittenDefinitions<S>, io::Result<()>)>),
    LargeWritten {
        write: LargeWrite<S>,
        result: io::Result<()>,
    },
    LargeRead {
        handle: LargeHandle<S>,
        offset: u64,
        octets: u64,
        result: io::Result<Vec<u8>>,
    },
    Scrubbed {
        number: u32,
        result: io::Result<Scrubbed>,
    },
    KeptAside {
        number: u32,
        result: io::Result<Scrubbed>,
    },
    CheckpointWritten(io::Result<()>),
    /// Lines about damage that was seen, whatever came of the rest.
    Compacted {
        number: u32,
        result: io::Result<Option<Rewritten<S>>>,
        damage: Vec<String>,
    },
    Removed(io::Result<()>),
}

impl<S: Storage> std::fmt::Debug for AnswerKind<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AnswerKind::Flushed { batch, result } => write!(f, "Flushed({batch}, {result:?})"),
            AnswerKind::NoRoom { job } => write!(f, "NoRoom({})", job.batch),
            AnswerKind::Prepared { number, result } => {
                write!(f, "Prepared({number}, {result:?})")
            }
            AnswerKind::Populated { target, range, .. } => {
                write!(f, "Populated({target:?}, {range:?})")
            }
            AnswerKind::Spilled { block, result } => write!(f, "Spilled({block}, {result:?})"),
            AnswerKind::PageWritten { page, .. } => write!(f, "PageWritten({page})"),
            AnswerKind::PagesRead(pages) => {
                let pages: Vec<u64> = pages.iter().map(|(page, _)| *page).collect();
                write!(f, "PagesRead({pages:?})")
            }
            AnswerKind::PartRead { page, .. } => write!(f, "PartRead({page})"),
            AnswerKind::FreeSpace(octets) => write!(f, "FreeSpace({octets:?})"),
            AnswerKind::Indexed { number, result } => write!(f, "Indexed({number}, {result:?})"),
            AnswerKind::DefinitionsRewritten(result) => {
                write!(f, "DefinitionsRewritten({:?})", result.as_ref().map(|_| ()))
            }
            AnswerKind::LargeWritten { write, result } => {
                write!(f, "LargeWritten({}, {result:?})", write.offset)
            }
            AnswerKind::LargeRead { offset, octets, .. } => {
                write!(f, "LargeRead({offset}, {octets})")
            }
            AnswerKind::Scrubbed { number, result } => write!(f, "Scrubbed({number}, {result:?})"),
            AnswerKind::KeptAside { number, result } => {
                write!(f, "KeptAside({number}, {result:?})")
            }
            AnswerKind::CheckpointWritten(result) => write!(f, "CheckpointWritten({result:?})"),
            AnswerKind::Compacted { number, result, .. } => {
                write!(
                    f,
                    "Compacted({number}, {:?})",
                    result.as_ref().map(Option::is_some)
                )
            }
            AnswerKind::Removed(result) => write!(f, "Removed({result:?})"),
        }
    }
}

impl<S: Storage> KeeperJob<S> {
    /// Does the job. Blocks.
    pub fn run(self, storage: &S) -> Answer<S> {
        Answer(match self.0 {
            Job::Prepare {
                number,
                octets,
                recycle,
            } => AnswerKind::Prepared {
                number,
                result: prepare(storage, number, octets, recycle.as_deref()),
            },
            Job::Populate {
                target,
                source,
                range,
            } => populate(storage, target, source, range),
            Job::Spill {
                block,
                octets,
                slot,
                seed,
            } => {
                let result = spill(storage, &octets, &slot, seed);
                drop(octets);
                AnswerKind::Spilled { block, result }
            }
            Job::WritePage {
                page,
                slot,
                entries,
                file,
            } => {
                let octets = page_octets(&entries);
                drop(entries);
                AnswerKind::PageWritten {
                    page,
                    crc: crc32fast::hash(&octets),
                    result: write_page(storage, &file, slot, &octets),
                }
            }
            Job::ReadPages { pages, file } => {
                let read = |page: PageOut| (page.page, read_page(storage, &file, page));
                AnswerKind::PagesRead(pages.into_iter().map(read).collect())
            }
            Job::ClosePages { file } => {
                drop(file);
                AnswerKind::Removed(Ok(()))
            }
            Job::FreeSpace => AnswerKind::FreeSpace(storage.free_octets()),
            Job::ReadIndexPart { page, part } => {
                let mut damage = Vec::new();
                AnswerKind::PartRead {
                    page,
                    result: read_part(storage, part, &mut damage),
                    damage,
                }
            }
            Job::RewriteDefinitions { seed } => {
                AnswerKind::DefinitionsRewritten(definitions::rewrite_file(storage, seed))
            }
            Job::LargeWrite(write) => {
                let result = write
                    .handle
                    .write(storage, write.offset, &write.octets, write.sync);
                AnswerKind::LargeWritten { write, result }
            }
            Job::LargeRead {
                handle,
                offset,
                octets,
            } => AnswerKind::LargeRead {
                result: handle.read(storage, offset, octets),
                handle,
                offset,
                octets,
            },
            Job::Index { number, used } => AnswerKind::Indexed {
                number,
                result: make_index(storage, number, used),
            },
            Job::Scrub { number, used, at } => AnswerKind::Scrubbed {
                number,
                result: scrub::check(storage, number, used, at),
            },
            Job::KeepAside { number, used, at } => AnswerKind::KeptAside {
                number,
                result: scrub::check(storage, number, used, at),
            },
            Job::Checkpoint { octets } => {
                AnswerKind::CheckpointWritten(checkpoint::write(storage, &octets))
            }
            Job::Compact {
                number,
                used,
                liveness,
            } => {
                let mut damage = Vec::new();
                AnswerKind::Compacted {
                    number,
                    result: compaction::compact(storage, number, used, &liveness, &mut damage),
                    damage,
                }
            }
            Job::Remove { names, map } => {
                drop(map);
                AnswerKind::Removed(remove(storage, &names))
            }
            Job::RemoveBodies { bodies } => {
                let removed = bodies.iter().map(|body| body.remove(storage));
                AnswerKind::Removed(removed.fold(Ok(()), io::Result::and))
            }
        })
    }
}

/// Makes the file of a segment: fresh and full of zeros, or a dead one under a new name, or the
/// one that is there made longer.
fn prepare<S: Storage>(
    storage: &S,
    number: u32,
    octets: u64,
    recycle: Option<&str>,
) -> io::Result<PreparedFile<S>> {
    let name = segment_name(number);
    let mut file = None;
    if let Some(dead) = recycle
        && storage.rename(dead, &name).is_ok()
    {
        file = storage.open(&name).ok();
    }
    let file = match file {
        Some(file) => {
            lengthen(storage, &file, octets)?;
            file
        }
        None => match storage.open(&name) {
            Ok(file) => {
                lengthen(storage, &file, octets)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                storage.create(&name, octets)?
            }
            Err(error) => return Err(error),
        },
    };
    storage.sync_dir()?;
    let octets = storage.octets(&file)?;
    let map = storage.map(&file, &name)?;
    Ok(PreparedFile {
        file: Arc::new(file),
        map: Arc::new(map),
        octets,
    })
}

/// Writes zeros behind the end of `file` until it has so many octets.
fn lengthen<S: Storage>(storage: &S, file: &S::File, octets: u64) -> io::Result<()> {
    let mut end = storage.octets(file)?;
    if end >= octets {
        return Ok(());
    }
    let zeros = vec![0; (octets - end).min(1 << 18) as usize];
    while end < octets {
        let length = (octets - end).min(zeros.len() as u64);
        write_all_at(storage, file, end, &zeros[..length as usize])?;
        end += length;
    }
    storage.sync(file)
}

fn populate<S: Storage>(
    storage: &S,
    target: Target,
    source: MapSource<S>,
    range: Range<u64>,
) -> AnswerKind<S> {
    let mut made = None;
    let result = match source {
        MapSource::Map(map) => map.populate(range.clone()),
        MapSource::Spill(file) => match file.file.get() {
            Some((_, map)) => map.populate(range.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        },
        MapSource::Name(name) => storage
            .open(&name)
            .and_then(|file| storage.map(&file, &name))
            .and_then(|map| {
                let populated = map.populate(range.clone());
                made = Some(Arc::new(map));
                populated
            }),
    };
    AnswerKind::Populated {
        target,
        range,
        map: made,
        result,
    }
}

/// Writes a block of the arena with the checksums that its records went without in memory.
fn spill<S: Storage>(
    storage: &S,
    octets: &[u8],
    slot: &SpillSlot<S>,
    seed: Seed,
) -> io::Result<()> {
    let mut sealed = octets.to_vec();
    let mut offset = 0;
    while let Some(header) = sealed
        .get(offset..)
        .and_then(RecordHeader::decode_unchecked)
    {
        let end = offset + header.record_octets() as usize;
        let Some(record) = sealed.get_mut(offset..end) else {
            break;
        };
        codec::seal(record, header.length as usize, seed);
        offset = end;
    }
    if slot.file.file.get().is_none() {
        let file = storage.create_unlinked()?;
        // Its full length before it is mapped; what is never written takes no space.
        write_all_at(storage, &file, slot.file.octets - 1, &[0])?;
        let map = storage.map(&file, "(spill file)")?;
        let _ = slot.file.file.set((file, map));
    }
    match slot.file.file.get() {
        Some((file, _)) => write_all_at(storage, file, slot.offset, &sealed),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Octets of one slot of the page file.
pub(super) const PAGE_OCTETS: u64 = super::pages::PAGE_ENTRIES_MAX as u64 * 16;

fn page_octets(entries: &[Entry]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(entries.len() * 16);
    for entry in entries {
        for word in entry.to_words() {
            octets.extend_from_slice(&word.to_be_bytes());
        }
    }
    octets
}

/// The entries that `octets` hold, sixteen octets each.
pub(super) fn entries_in(octets: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    octets.chunks_exact(16).map(|octets| {
        let word = |at| codec::u64_at(octets, at).unwrap_or_default();
        Entry::from_words([word(0), word(8)])
    })
}

fn write_page<S: Storage>(
    storage: &S,
    shared: &OnceLock<S::File>,
    slot: u32,
    octets: &[u8],
) -> io::Result<()> {
    if shared.get().is_none() {
        let _ = shared.set(storage.create_unlinked()?);
    }
    match shared.get() {
        Some(file) => write_all_at(storage, file, u64::from(slot) * PAGE_OCTETS, octets),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read_page<S: Storage>(
    storage: &S,
    shared: &OnceLock<S::File>,
    page: PageOut,
) -> io::Result<Vec<Entry>> {
    let file = shared.get().ok_or(io::ErrorKind::NotFound)?;
    let mut octets = vec![0; page.count as usize * 16];
    let offset = u64::from(page.slot) * PAGE_OCTETS;
    read_exact_at(storage, file, offset, &mut octets)?;
    if crc32fast::hash(&octets) != page.crc {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a page of queue entries is damaged",
        ));
    }
    Ok(entries_in(&octets).collect())
}

/// Entries of a recovered queue, from the index if it is as it was, else from one made anew.
fn read_part<S: Storage>(
    storage: &S,
    part: IndexPart,
    damage: &mut Vec<String>,
) -> io::Result<Vec<Entry>> {
    let wanted = |entry: &Entry| (part.first..=part.last).contains(&entry.sequence());
    let index_file = storage.open(&index_name(part.segment));
    // A run that checks and holds these sequences is the one that was meant, or as good.
    if let Ok(file) = index_file
        && let Ok(entries) = part.run.read(storage, &file)
    {
        return Ok(entries.into_iter().filter(wanted).collect());
    }
    let file = storage.open(&segment_name(part.segment))?;
    let header = compaction::read_header(storage, &file, part.segment)?;
    let IndexPart {
        queue,
        segment,
        first,
        last,
        used,
        ..
    } = part;
    let mut sealed = Sealed {
        storage,
        file: &file,
        header: &header,
        used,
        damage,
    };
    let found = compaction::with_index(&mut sealed, |index| {
        index.entries(storage, segment, queue, first, last)
    });
    match found {
        Err(error) if is_full(&error) => {
            let mut entries = compaction::entries_by_scan(&mut sealed, queue)?;
            entries.retain(wanted);
            entries.sort_unstable_by_key(|entry| entry.sequence());
            Ok(entries)
        }
        other => other,
    }
}

/// Writes the index of a segment; lines about damage that was seen.
fn make_index<S: Storage>(storage: &S, number: u32, used: u64) -> io::Result<Vec<String>> {
    let name = segment_name(number);
    let file = storage.open(&name)?;
    let header = compaction::read_header(storage, &file, number)?;
    let map = storage.map(&file, &name)?;
    let mut scratch = Vec::new();
    let octets = map.octets(0..used, &mut scratch)?;
    let summary = Summary::of(
        octets,
        Scope {
            number,
            seed: header.seed,
            first_lsn: header.first_lsn,
            limit_lsn: u64::MAX,
            check_messages: false,
            dense: true,
        },
    );
    let damage = summary.problems.iter().map(|problem| {
        let (from, end) = (problem.offset, problem.end);
        format!("{name}: octets {from} to {end} are damaged")
    });
    let damage = damage.collect();
    let (_, written) = index::write(storage, &header, summary);
    written.map(|()| damage)
}

/// Removes files; one that is not there is removed.
fn remove<S: Storage>(storage: &S, names: &[String]) -> io::Result<()> {
    let mut result = Ok(());
    for name in names {
        match storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
            _ => {}
        }
    }
    result
}

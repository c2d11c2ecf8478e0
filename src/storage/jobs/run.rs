//! How the keeper does its jobs.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::answer::{Answer, AnswerKind, PreparedFile};
use super::page::{page_octets, read_page, read_part, write_page};
use super::{Job, KeeperJob, MapSource, Target};
use crate::storage::arena::SpillSlot;
use crate::storage::files::{Map, Storage, is_shortage, write_all_at};
use crate::storage::pages::PageOut;
use crate::storage::record_codec::{self as codec, RecordHeader, Seed};
use crate::storage::scan::{Scope, Summary};
use crate::storage::segment::segment_name;
use crate::storage::{checkpoint, compaction, definitions, index, scrub};

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
            Job::CloseSpills { files } => {
                drop(files);
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
/// one that is there made longer. What there is no room for takes none: the rest of the disk may be
/// needed for less.
fn prepare<S: Storage>(
    storage: &S,
    number: u32,
    octets: u64,
    recycle: Option<&str>,
) -> io::Result<PreparedFile<S>> {
    let name = segment_name(number);
    let (mut file, mut is_fresh) = (None, false);
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
                room_for(storage, octets)?;
                is_fresh = true;
                storage.create(&name, octets).inspect_err(|error| {
                    if is_shortage(error) {
                        // A part of it, with nothing in it; a start would find it of use.
                        let _ = storage.remove(&name);
                    }
                })?
            }
            Err(error) => return Err(error),
        },
    };
    storage.sync_dir()?;
    let octets = storage.octets(&file)?;
    let map = storage.map(&file, &name).inspect_err(|error| {
        if is_fresh && is_shortage(error) {
            // A smaller one may fit.
            let _ = storage.remove(&name);
        }
    })?;
    Ok(PreparedFile {
        file: Arc::new(file),
        map: Arc::new(map),
        octets,
    })
}

/// Whether there is room for `octets` more, where that can be told.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] when there is not.
fn room_for<S: Storage>(storage: &S, octets: u64) -> io::Result<()> {
    match storage.free_octets() {
        Ok(free) if free < octets => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Writes zeros behind the end of `file` until it has so many octets.
fn lengthen<S: Storage>(storage: &S, file: &S::File, octets: u64) -> io::Result<()> {
    let mut end = storage.octets(file)?;
    if end >= octets {
        return Ok(());
    }
    room_for(storage, octets - end)?;
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

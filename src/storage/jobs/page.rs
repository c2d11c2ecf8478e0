//! Pages of queue entries, as they lie in the page file or in the index of a segment.

use std::io;
use std::sync::OnceLock;

use crate::message::Entry;
use crate::storage::compaction::{self, Sealed};
use crate::storage::files::{Storage, is_full, read_exact_at, write_all_at};
use crate::storage::pages::{IndexPart, PAGE_ENTRIES_MAX, PageOut};
use crate::storage::record_codec as codec;
use crate::storage::segment::{index_name, segment_name};

/// Octets of one slot of the page file.
const PAGE_OCTETS: u64 = PAGE_ENTRIES_MAX as u64 * 16;

pub(super) fn page_octets(entries: &[Entry]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(entries.len() * 16);
    for entry in entries {
        for word in entry.to_words() {
            octets.extend_from_slice(&word.to_be_bytes());
        }
    }
    octets
}

/// The entries that `octets` hold, sixteen octets each.
pub(in crate::storage) fn entries_in(octets: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    octets.chunks_exact(16).map(|octets| {
        let word = |at| codec::u64_at(octets, at).unwrap_or_default();
        Entry::from_words([word(0), word(8)])
    })
}

pub(super) fn write_page<S: Storage>(
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

pub(super) fn read_page<S: Storage>(
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
pub(super) fn read_part<S: Storage>(
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

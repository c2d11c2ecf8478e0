//! Bodies in files of their own: whose record is found, and which nobody needs.

use std::collections::BTreeMap;
use std::io;

use super::{Opening, unreadable};
use crate::broker::record::QueueId;
use crate::message::{LargeBody, MessageRef};
use crate::storage::StorageError;
use crate::storage::compaction;
use crate::storage::files::{Storage, read_exact_at};
use crate::storage::index::Index;
use crate::storage::jobs::Job;
use crate::storage::large::{ASIDE, aside_name, body_name, number_in_body_name};
use crate::storage::record_codec::{
    HEADER_OCTETS, MessagePayload, RecordHeader, Seed, decode_record,
};
use crate::storage::segment::{number_in, segment_name};
use crate::storage::store::Store;

impl<S: Storage> Opening<'_, S> {
    /// Finds the bodies that lie in files of their own; removes those that nobody needs. One whose
    /// record is damaged stays, since it may be needed; where records are missing, one that no
    /// record names is kept aside.
    pub(super) fn large_bodies(
        &mut self,
        store: &mut Store<S>,
        indexes: &BTreeMap<u32, Index>,
    ) -> Result<(), StorageError> {
        let mut greatest = 0;
        let mut doubtful = Vec::new();
        for (&number, index) in indexes {
            if index.large.is_empty() {
                continue;
            }
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            for &(place, body_file) in &index.large {
                greatest = greatest.max(body_file);
                let offset = store.segments.get(number).and_then(|s| s.offset_of(place));
                let seed = store.segments.get(number).map(|segment| segment.seed);
                let record = match offset.zip(seed) {
                    Some((offset, seed)) => read_large_record(self.storage, &file, offset, seed)
                        .map_err(unreadable(&name))?,
                    None => None,
                };
                let Some((body, table_crc, queues)) = record else {
                    doubtful.push(body_file);
                    self.report(format!(
                        "{name}: the record of the large body {body_file:016x} is damaged"
                    ));
                    continue;
                };
                let live: Vec<_> = queues
                    .into_iter()
                    .filter(|&(queue, sequence)| {
                        let ledger = store.ledgers.get(queue);
                        ledger.is_some_and(|ledger| !ledger.settled.contains(sequence))
                    })
                    .collect();
                if !live.is_empty() {
                    let body_name = body_name(body.file);
                    let is_missing = self.names.binary_search(&body_name).is_err();
                    self.recovery.account.large_bodies += u32::from(!is_missing);
                    // Told when somebody wants it: its queue may be gone, which only the definitions
                    // know.
                    self.recovery.account.large_bodies_missing += u32::from(is_missing);
                    let at = MessageRef {
                        segment: number,
                        place,
                    };
                    store.larges.found(body, table_crc, at, live, is_missing);
                    if let Some(segment) = store.segments.get_mut(number) {
                        segment.large += 1;
                    }
                }
            }
        }
        let mut superfluous = Vec::new();
        for name in &self.names {
            // What is kept aside keeps its number, or another body might take its place there.
            let aside = name.strip_suffix(ASIDE);
            if let Some(file) = number_in_body_name(aside.unwrap_or(name)) {
                greatest = greatest.max(file);
                let is_known = store.larges.knows(file) || doubtful.contains(&file);
                if aside.is_none() && !is_known {
                    superfluous.push(name.clone());
                }
            }
        }
        store.larges.next = greatest + 1;
        if self.recovery.account.misses_records() {
            self.keep_bodies_aside(&superfluous)?;
            superfluous.clear();
        }
        self.recovery.account.large_bodies_superfluous = superfluous.len() as u32;
        // An index may outlive its segment: a crash came before it was removed.
        let is_left_over = |name: &&String| {
            let index = number_in(name, ".idx");
            name.ends_with(compaction::NEW_SUFFIX)
                || index.is_some_and(|number| store.segments.get(number).is_none())
        };
        superfluous.extend(self.names.iter().filter(is_left_over).cloned());
        if !superfluous.is_empty() {
            store.jobs.push_back(Job::Remove {
                names: superfluous,
                map: None,
            });
        }
        Ok(())
    }

    /// Gives bodies another name, under which a person finds them.
    fn keep_bodies_aside(&mut self, names: &[String]) -> Result<(), StorageError> {
        for name in names {
            let aside = aside_name(name);
            let failed = |error| StorageError::new("cannot rename", name, &error);
            self.storage.rename(name, &aside).map_err(failed)?;
            self.recovery.account.kept_aside += 1;
            self.report(format!(
                "{name}: no record is left that names this large body; kept as {aside}"
            ));
        }
        if !names.is_empty() {
            let failed = |error| StorageError::new("cannot sync", "the data directory", &error);
            self.storage.sync_dir().map_err(failed)?;
        }
        Ok(())
    }
}

/// A body, the checksum of its table, and the entries that its record was written for.
type LargeRecord = (LargeBody, u32, Vec<(QueueId, u64)>);

/// The body that the record at `offset` names, and the queues that got it; `None` when the record
/// is damaged.
fn read_large_record<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    seed: Seed,
) -> io::Result<Option<LargeRecord>> {
    // A file that was cut off ends before its index says so.
    let rest = storage.octets(file)?.saturating_sub(offset);
    if rest < HEADER_OCTETS as u64 {
        return Ok(None);
    }
    let mut head = vec![0; HEADER_OCTETS];
    read_exact_at(storage, file, offset, &mut head)?;
    let Some(header) = RecordHeader::decode(&head, seed) else {
        return Ok(None);
    };
    if rest < header.record_octets() {
        return Ok(None);
    }
    let mut record = vec![0; HEADER_OCTETS + header.length as usize];
    read_exact_at(storage, file, offset, &mut record)?;
    let Ok((header, payload)) = decode_record(&record, seed) else {
        return Ok(None);
    };
    let message = MessagePayload::new(header.kind, payload);
    Ok(message.and_then(|message| {
        let (body, table_crc) = message.large()?;
        Some((body, table_crc, message.queues().collect()))
    }))
}

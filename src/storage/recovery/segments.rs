//! Which segments there are, and what each holds: by its index, or record by record.

use super::{Content, FoundSegment, Opening, unreadable};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::compaction::{self, Table};
use crate::storage::files::{Map, Storage, read_up_to_at};
use crate::storage::index::Index;
use crate::storage::record_codec::{FORMAT_VERSION, SEGMENT_START, SegmentHeader};
use crate::storage::scan::{Scope, Summary};
use crate::storage::segment::{number_in, segment_name};
use crate::storage::{StorageError, aside};

impl<S: Storage> Opening<'_, S> {
    /// Finds the segments and what they hold.
    pub(super) fn segments(&mut self, checkpoint: Option<&Checkpoint>) -> Result<(), StorageError> {
        let names = self
            .storage
            .list()
            .map_err(unreadable("the data directory"))?;
        self.names = names.iter().map(|(name, _)| name.clone()).collect();
        self.names.sort_unstable();
        let aside = self.names.iter().filter(|name| aside::is_aside(name));
        let aside = aside.count() as u32;
        let account = &mut self.recovery.account;
        account.lie_aside = aside.saturating_sub(account.kept_aside);
        let mut numbers: Vec<_> = names
            .iter()
            .filter_map(|(name, octets)| Some((number_in(name, ".seg")?, *octets)))
            .collect();
        numbers.sort_unstable();
        for (number, file_octets) in numbers {
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(unreadable(&name))?;
            let mut start = vec![0; SEGMENT_START as usize];
            let read = read_up_to_at(self.storage, &file, 0, &mut start);
            let read = read.map_err(unreadable(&name))?;
            let Some(header) = SegmentHeader::decode(&start[..read], number) else {
                self.without_header(number, &start[..read]);
                continue;
            };
            if header.version > FORMAT_VERSION {
                return Err(StorageError::refused(format!(
                    "{name} has format {}, this program reads up to {FORMAT_VERSION}",
                    header.version
                )));
            }
            if checkpoint.is_some_and(|checkpoint| checkpoint.left_out(&header)) {
                self.unused.push(name);
                continue;
            }
            // Without its table nobody can tell where the places of an index lie now. What is read
            // record by record gets the places of today, and so does the index that is made of it.
            let table = compaction::read_table(self.storage, &file, &header);
            let table = table.map_err(unreadable(&name))?;
            let table_is_lost = header.rewritten > 0 && table.is_none();
            if table_is_lost {
                self.recovery.account.tables_damaged += 1;
                self.report(format!(
                    "{name}: its table is damaged; its records were read one by one"
                ));
            }
            let index = Index::read(self.storage, &header).filter(|_| !table_is_lost);
            let content = match index {
                Some(index) => Content::Indexed(index),
                None => self.scan(&file, &header, table.as_ref(), u64::MAX)?,
            };
            let found = FoundSegment {
                header,
                file_octets,
                table,
                content,
            };
            self.segments.insert(number, found);
        }
        Ok(())
    }

    /// A file that has no header for its number: never written, unless it is full of something.
    fn without_header(&mut self, number: u32, start: &[u8]) {
        let name = segment_name(number);
        let never_written = start.iter().all(|&octet| octet == 0)
            || start.get(12..16).is_some_and(|octets| {
                let older = [octets[0], octets[1], octets[2], octets[3]];
                let older = u32::from_be_bytes(older);
                older != number && SegmentHeader::decode(start, older).is_some()
            });
        if never_written {
            self.unused.push(name);
            return;
        }
        let aside = format!("{name}.damaged");
        self.recovery.account.segments_unreadable += 1;
        let line = match self.storage.rename(&name, &aside) {
            Ok(()) => format!("{name}: its header is damaged; the file is kept as {aside}"),
            Err(error) => format!("{name}: its header is damaged: {error}"),
        };
        self.report(line);
    }

    pub(super) fn scan(
        &mut self,
        file: &S::File,
        header: &SegmentHeader,
        table: Option<&Table>,
        limit_lsn: u64,
    ) -> Result<Content<S>, StorageError> {
        let name = segment_name(header.number);
        let map = self.storage.map(file, &name).map_err(unreadable(&name))?;
        let octets = self.storage.octets(file).map_err(unreadable(&name))?;
        let end = if header.records_end > 0 {
            header.records_end.min(octets)
        } else {
            octets
        };
        map.populate(0..end).map_err(unreadable(&name))?;
        let mut scratch = Vec::new();
        let octets = map
            .octets(0..end, &mut scratch)
            .map_err(unreadable(&name))?;
        self.recovery.scanned_octets += end;
        let mut summary = Summary::of(
            octets,
            Scope {
                number: header.number,
                seed: header.seed,
                first_lsn: header.first_lsn,
                limit_lsn,
                check_messages: true,
                dense: header.rewritten == 0,
            },
        );
        if let Some(table) = table {
            compaction::to_first_places(&mut summary, table);
        }
        Ok(Content::Scanned(summary, map))
    }

    /// Names the segments that the checkpoint knew and that are not there.
    pub(super) fn tell_missing(&mut self, checkpoint: &Checkpoint) {
        for (number, _) in &checkpoint.segments {
            if !self.segments.contains_key(number) {
                let name = segment_name(*number);
                self.recovery.account.segments_missing += 1;
                self.report(format!("{name}: missing; its messages are lost"));
            }
        }
    }
}

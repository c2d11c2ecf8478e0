//! The flusher's job: one batch.

use std::io;
use std::sync::Arc;

use super::answer::{Answer, AnswerKind};
use crate::planted::{Fault, planted};
use crate::storage::StorageError;
use crate::storage::definitions::{self, DefinitionsWrite};
use crate::storage::files::{
    CACHE_PAGE_OCTETS, Storage, is_shortage, write_all_at, write_all_padded_at,
};
use crate::storage::segment::segment_name;
use crate::storage::tail::Block;

/// One batch for the flusher: definitions, then records, each synced.
#[derive(Debug)]
pub struct FlushJob<S: Storage> {
    pub(in crate::storage) batch: u64,
    pub(in crate::storage) sync: bool,
    pub(in crate::storage) definitions: Option<DefinitionsWrite<S>>,
    pub(in crate::storage) writes: Vec<BlockWrite<S>>,
}

/// A block for the flusher to write.
#[derive(Debug)]
pub(in crate::storage) struct BlockWrite<S: Storage> {
    pub(in crate::storage) file: Arc<S::File>,
    pub(in crate::storage) block: Arc<Block>,
    /// Octets of the file, of which those behind the block hold nothing yet.
    pub(in crate::storage) file_octets: u64,
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
            Err(error) if is_shortage(&error) => return Answer(AnswerKind::NoRoom { job: self }),
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

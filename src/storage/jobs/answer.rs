//! What a helper has to say of a job.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{FlushJob, Target};
use crate::message::Entry;
use crate::storage::StorageError;
use crate::storage::compaction::Rewritten;
use crate::storage::definitions::RewrittenDefinitions;
use crate::storage::files::Storage;
use crate::storage::large::{LargeHandle, LargeWrite};
use crate::storage::scrub::Scrubbed;

/// What a helper has to say.
#[derive(Debug)]
pub struct Answer<S: Storage>(pub(in crate::storage) AnswerKind<S>);

/// A segment file that is ready to be written.
pub(in crate::storage) struct PreparedFile<S: Storage> {
    pub(in crate::storage) file: Arc<S::File>,
    pub(in crate::storage) map: Arc<S::Map>,
    pub(in crate::storage) octets: u64,
}

impl<S: Storage> std::fmt::Debug for PreparedFile<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.octets)
    }
}

pub(in crate::storage) enum AnswerKind<S: Storage> {
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

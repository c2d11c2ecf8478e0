//! Bodies that lie in files of their own, so that no turn of the loop copies a hundred megabytes.
//!
//! A body is written in chunks while its frames come, each with a checksum; behind the body lies
//! the table of these checksums. A file is synced before the batch with the record that names it is
//! handed to the flusher. It is read a stretch at a time by the keeper, checked, and removed when
//! the last entry of its record is done with and the log says so.

mod file;
mod holders;
mod reading;
mod writing;

use std::collections::VecDeque;

use hashbrown::HashMap;

pub use self::file::LargeHandle;
pub(super) use self::file::{ASIDE, Gone, aside_name, body_name, number_in_body_name};
pub use self::reading::LargeRead;
use self::reading::Stretch;
pub(super) use self::writing::LargeWrite;
use super::files::Storage;
use crate::broker::Batch;
use crate::broker::record::QueueId;
use crate::message::{LargeBody, MessageRef};

/// One large body.
#[derive(Debug)]
struct Large<S: Storage> {
    handle: LargeHandle<S>,
    received: u64,
    /// What came and was not yet handed to the keeper.
    waiting: Vec<u8>,
    handed_over: u64,
    /// Octets with the keeper.
    outstanding: usize,
    unsynced: u64,
    /// Checksums of the chunks so far.
    table: Vec<u8>,
    /// The body and its table are written, and synced if it is durable.
    complete: bool,
    /// The publisher was told to wait.
    behind: bool,
    /// The log has its record, which must wait until the body is complete.
    record: Option<MessageRef>,
    /// The transient record under which a transaction keeps its message until it is committed.
    kept: Option<MessageRef>,
    /// Its file is missing or does not check: its message is lost.
    loss: Option<Loss>,
    /// Entries that need it, of both records.
    holders: u32,
    /// The logged entries that need it.
    entries: Vec<(QueueId, u64)>,
}

impl<S: Storage> Large<S> {
    /// A body of which nothing has come.
    fn new(handle: LargeHandle<S>) -> Self {
        Large {
            handle,
            received: 0,
            waiting: Vec::new(),
            handed_over: 0,
            outstanding: 0,
            unsynced: 0,
            table: Vec::new(),
            complete: false,
            behind: false,
            record: None,
            kept: None,
            loss: None,
            holders: 0,
            entries: Vec::new(),
        }
    }
}

/// That a body cannot be had any more, and whether [`super::Event::Damage`] has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Untold,
    Told,
}

/// All large bodies.
#[derive(Debug)]
pub(super) struct Larges<S: Storage> {
    bodies: HashMap<u64, Large<S>>,
    by_record: HashMap<MessageRef, u64>,
    pub(super) next: u64,
    /// Bodies whose record is in the log and that are not complete: the flusher waits for them.
    incomplete_records: u32,
    /// Bodies whose files go once a batch is flushed, the one that says that they are not needed.
    gone: VecDeque<(Batch, Gone<S>)>,
    retry: Vec<LargeWrite<S>>,
    /// Bodies that are forgotten and still being written, since someone reads them: octets that are
    /// not written.
    unfinished: HashMap<u64, usize>,
    /// Of these those that were handed to the keeper again and not answered for.
    retried: u32,
    /// Stretches that were read, oldest first: file, offset, octets asked for.
    stretches: VecDeque<Stretch>,
    stretches_octets: usize,
}

impl<S: Storage> Larges<S> {
    pub(super) fn new() -> Self {
        Larges {
            bodies: HashMap::new(),
            by_record: HashMap::new(),
            next: 1,
            incomplete_records: 0,
            gone: VecDeque::new(),
            retry: Vec::new(),
            unfinished: HashMap::new(),
            retried: 0,
            stretches: VecDeque::new(),
            stretches_octets: 0,
        }
    }

    /// Whether a batch may go to the flusher.
    pub(super) fn records_are_complete(&self) -> bool {
        self.incomplete_records == 0
    }

    /// Whether something is not written yet for which there was no room.
    pub(super) fn waits_for_space(&self) -> bool {
        self.retried > 0 || !self.retry.is_empty()
    }

    /// Whether any record names a large body.
    #[inline]
    pub(super) fn any(&self) -> bool {
        !self.by_record.is_empty()
    }

    /// Takes in a body that was found at start with the entries that need it.
    ///
    /// * `table_crc`: of its table of checksums, as its record has it.
    /// * `is_missing`: it has no file.
    pub(super) fn found(
        &mut self,
        body: LargeBody,
        table_crc: u32,
        at: MessageRef,
        entries: Vec<(QueueId, u64)>,
        is_missing: bool,
    ) {
        let large = Large {
            received: body.octets,
            handed_over: body.octets,
            complete: true,
            record: Some(at),
            loss: is_missing.then_some(Loss::Untold),
            holders: entries.len() as u32,
            entries,
            ..Large::new(LargeHandle::found(body, table_crc))
        };
        self.bodies.insert(body.file, large);
        self.by_record.insert(at, body.file);
    }

    /// A body does not check.
    fn note_damage(&mut self, file: u64) {
        if let Some(large) = self.bodies.get_mut(&file) {
            large.loss = Some(Loss::Told);
        }
        let gone = self.gone.iter_mut().map(|(_, gone)| gone);
        for gone in gone.filter(|gone| gone.handle.body().file == file) {
            gone.is_damaged = true;
        }
    }

    pub(super) fn knows(&self, file: u64) -> bool {
        self.bodies.contains_key(&file)
    }
}

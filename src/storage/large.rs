//! Bodies that lie in files of their own, so that no turn of the loop copies a hundred megabytes.
//!
//! A body is written in chunks while its frames come, each with a checksum; behind the body lies
//! the table of these checksums. A file is synced before the batch with the record that names it is
//! handed to the flusher. It is read a stretch at a time by the keeper, checked, and removed when
//! the last entry of its record is done with and the log says so.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;

use super::StorageError;
use super::event::Event;
use super::files::{Storage, is_full, read_exact_at, write_all_at};
use super::jobs::Job;
use super::store::Store;
use crate::broker::Batch;
use crate::broker::record::QueueId;
use crate::message::{Body, LargeBody, Message, MessageRef};

/// Octets that have a checksum of their own.
const CHUNK_OCTETS: usize = 64 << 10;
/// Octets that are handed to the keeper at a time.
const WRITE_OCTETS: usize = 4 * CHUNK_OCTETS;
/// The publisher pauses when so many octets of a body wait for the keeper.
const BEHIND_OCTETS: usize = 2 << 20;
/// A durable body is synced every so many octets, so that the last sync is short.
const SYNC_EVERY_OCTETS: u64 = 8 << 20;
/// A batch that is not known yet.
const LATER: Batch = Batch(u64::MAX);
/// Octets of stretches that were read and not yet taken.
const STRETCHES_OCTETS_MAX: usize = 32 << 20;

/// Name of the file of body `file`.
pub(super) fn body_name(file: u64) -> String {
    format!("{file:016x}.body")
}

/// The number in the name of a body's file, if it is one.
pub(super) fn number_in_body_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".body")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())?
        .filter(|&file| body_name(file) == name)
}

/// The file of a large body. As long as a clone lives the body can be read, even if its message was
/// settled meanwhile.
#[derive(Clone, Debug)]
pub struct LargeHandle<S: Storage>(Arc<LargeFile<S>>);

#[derive(Debug)]
struct LargeFile<S: Storage> {
    body: LargeBody,
    /// Whether it has a name: durable bodies do.
    named: bool,
    file: OnceLock<S::File>,
}

impl<S: Storage> LargeHandle<S> {
    fn new(body: LargeBody, named: bool) -> Self {
        LargeHandle(Arc::new(LargeFile {
            body,
            named,
            file: OnceLock::new(),
        }))
    }

    fn file(&self, storage: &S, create: bool) -> io::Result<&S::File> {
        if self.0.file.get().is_none() {
            let name = body_name(self.0.body.file);
            let file = match (self.0.named, create) {
                (true, true) => storage.create(&name, 0)?,
                (true, false) => storage.open(&name)?,
                (false, _) => storage.create_unlinked()?,
            };
            // Only the keeper sets it, one job at a time.
            let _ = self.0.file.set(file);
        }
        self.0
            .file
            .get()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes the name of the file. Who still has the handle can read on: a file that was not
    /// opened since the start is opened before its name goes.
    pub(super) fn remove(&self, storage: &S) -> io::Result<()> {
        if Arc::strong_count(&self.0) > 1 {
            match self.file(storage, false) {
                // What is still to be written must not make the name again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.file(storage, true)?;
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        match storage.remove(&body_name(self.0.body.file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes part of the body; syncs file and name if that is wanted. Blocks.
    pub(super) fn write(
        &self,
        storage: &S,
        offset: u64,
        octets: &[u8],
        sync: bool,
    ) -> io::Result<()> {
        let file = self.file(storage, true)?;
        write_all_at(storage, file, offset, octets)?;
        if sync {
            storage.sync(file)?;
            storage.sync_dir()?;
        }
        Ok(())
    }

    /// Reads and checks `octets` octets at `offset`. Blocks.
    pub(super) fn read(&self, storage: &S, offset: u64, octets: u64) -> io::Result<Vec<u8>> {
        let file = self.file(storage, false)?;
        let body_octets = self.0.body.octets;
        let chunk = CHUNK_OCTETS as u64;
        let first = offset / chunk;
        let end = (offset + octets).min(body_octets);
        let last = end.div_ceil(chunk);
        let start = first * chunk;
        let mut whole = vec![0; ((last * chunk).min(body_octets) - start) as usize];
        read_exact_at(storage, file, start, &mut whole)?;
        let mut table = vec![0; (last - first) as usize * 4];
        read_exact_at(storage, file, body_octets + first * 4, &mut table)?;
        for (chunk, crc) in whole.chunks(CHUNK_OCTETS).zip(table.chunks_exact(4)) {
            if crc32fast::hash(chunk).to_be_bytes() != crc {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a large body is damaged",
                ));
            }
        }
        whole.truncate((end - start) as usize);
        whole.drain(..(offset - start) as usize);
        Ok(whole)
    }
}

/// What [`Store::read_large`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeRead {
    /// The octets were appended.
    Here,
    /// The keeper was asked; [`Event::LargeReady`] follows.
    Cold,
    /// They are damaged or gone; told by [`Event::Damage`].
    Lost,
}

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

/// That a body cannot be had any more, and whether [`Event::Damage`] has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Untold,
    Told,
}

/// A body that nobody needs any more.
#[derive(Debug)]
pub(super) struct Gone<S: Storage> {
    handle: LargeHandle<S>,
    is_damaged: bool,
}

impl<S: Storage> Gone<S> {
    /// Removes its file; one that is damaged is kept aside under another name. Blocks.
    pub(super) fn remove(&self, storage: &S) -> io::Result<()> {
        if !self.is_damaged {
            return self.handle.remove(storage);
        }
        let name = body_name(self.handle.0.body.file);
        match storage.rename(&name, &format!("{name}.damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => storage.sync_dir(),
        }
    }
}

/// Whether what was read is not what was written.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

/// A write that found no room.
#[derive(Debug)]
pub(super) struct LargeWrite<S: Storage> {
    pub(super) handle: LargeHandle<S>,
    pub(super) offset: u64,
    pub(super) octets: Vec<u8>,
    pub(super) sync: bool,
    /// There was no room for it before.
    pub(super) is_retried: bool,
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

#[derive(Debug)]
struct Stretch {
    file: u64,
    offset: u64,
    octets: u64,
    /// `None` while the keeper reads.
    read: Option<io::Result<Vec<u8>>>,
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
    /// * `is_missing`: it has no file.
    pub(super) fn found(
        &mut self,
        body: LargeBody,
        at: MessageRef,
        entries: Vec<(QueueId, u64)>,
        is_missing: bool,
    ) {
        let large = Large {
            handle: LargeHandle::new(body, true),
            received: body.octets,
            waiting: Vec::new(),
            handed_over: body.octets,
            outstanding: 0,
            unsynced: 0,
            table: Vec::new(),
            complete: true,
            behind: false,
            record: Some(at),
            kept: None,
            loss: is_missing.then_some(Loss::Untold),
            holders: entries.len() as u32,
            entries,
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
        for gone in gone.filter(|gone| gone.handle.0.body.file == file) {
            gone.is_damaged = true;
        }
    }

    pub(super) fn knows(&self, file: u64) -> bool {
        self.bodies.contains_key(&file)
    }
}

impl<S: Storage> Large<S> {
    /// Hands what waits to the keeper, whole chunks only unless it is the end.
    fn hand_over(&mut self, jobs: &mut VecDeque<Job<S>>) {
        let end = self.received == self.handle.0.body.octets;
        let whole = self.waiting.len() - self.waiting.len() % CHUNK_OCTETS;
        let rest = self
            .waiting
            .split_off(if end { self.waiting.len() } else { whole });
        let mut octets = std::mem::replace(&mut self.waiting, rest);
        for chunk in octets.chunks(CHUNK_OCTETS) {
            let crc = crc32fast::hash(chunk);
            self.table.extend_from_slice(&crc.to_be_bytes());
        }
        let offset = self.handed_over;
        self.handed_over += octets.len() as u64;
        self.unsynced += octets.len() as u64;
        if end {
            octets.extend_from_slice(&self.table);
        }
        self.outstanding += octets.len();
        let sync = self.handle.0.named && (end || self.unsynced >= SYNC_EVERY_OCTETS);
        if sync {
            self.unsynced = 0;
        }
        jobs.push_back(Job::LargeWrite(LargeWrite {
            handle: self.handle.clone(),
            offset,
            octets,
            sync,
            is_retried: false,
        }));
    }
}

impl<S: Storage> Store<S> {
    /// Begins a body of `octets` octets: many, as a rule, but any number will do.
    ///
    /// * `durable`: the message may be [appended](Store::append) to the log; otherwise it can only
    ///   be [kept](Store::keep).
    pub fn large_begin(&mut self, octets: u64, durable: bool) -> LargeBody {
        let body = LargeBody {
            file: self.larges.next,
            octets,
        };
        self.larges.next += 1;
        let large = Large {
            handle: LargeHandle::new(body, durable),
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
        };
        self.larges.bodies.insert(body.file, large);
        body
    }

    /// Takes the next octets of a body that was begun; never more than its length in all. `false`:
    /// the disk is behind, the publisher should pause until [`Event::LargeReady`].
    pub fn large_append(&mut self, body: LargeBody, octets: &[u8]) -> bool {
        let Some(large) = self.larges.bodies.get_mut(&body.file) else {
            return true;
        };
        debug_assert!(large.received + octets.len() as u64 <= body.octets);
        large.received += octets.len() as u64;
        large.waiting.extend_from_slice(octets);
        if large.waiting.len() >= WRITE_OCTETS || large.received == body.octets {
            large.hand_over(&mut self.jobs);
        }
        large.behind = large.outstanding >= BEHIND_OCTETS;
        !large.behind
    }

    /// Forgets a body whose message will not come, or that no queue got.
    pub fn large_abandon(&mut self, body: LargeBody) {
        let unused = |large: &Large<S>| large.record.is_none();
        if self.larges.bodies.get(&body.file).is_some_and(unused) {
            self.forget_large(body.file);
        }
    }

    /// What the octets of a body are read from; none when it is known to be lost.
    pub fn large_handle(&mut self, body: LargeBody) -> Option<LargeHandle<S>> {
        let large = self.larges.bodies.get_mut(&body.file)?;
        if let Some(loss) = &mut large.loss {
            if *loss == Loss::Untold {
                *loss = Loss::Told;
                self.counters.lost += 1;
                let line = format!("{}: missing; its message is lost", body_name(body.file));
                self.events.push_back(Event::Damage(line));
            }
            return None;
        }
        Some(large.handle.clone())
    }

    /// Appends `octets` octets of a body from `offset` on to `into`, if the keeper has read them.
    /// The stretch behind is asked for in advance, since bodies are read in order.
    pub fn read_large(
        &mut self,
        handle: &LargeHandle<S>,
        offset: u64,
        octets: u64,
        into: &mut Vec<u8>,
    ) -> LargeRead {
        let body = handle.0.body;
        let at = self.larges.stretches.iter().position(|stretch| {
            (stretch.file, stretch.offset, stretch.octets) == (body.file, offset, octets)
        });
        let Some(at) = at else {
            self.ask_stretch(handle, offset, octets);
            return LargeRead::Cold;
        };
        if self.larges.stretches[at].read.is_none() {
            return LargeRead::Cold;
        }
        let stretch = self.larges.stretches.remove(at);
        match stretch.and_then(|stretch| stretch.read) {
            Some(Ok(read)) => {
                self.larges.stretches_octets -= read.len();
                into.extend_from_slice(&read);
                let next = offset + octets;
                if next < body.octets {
                    self.ask_stretch(handle, next, octets.min(body.octets - next));
                }
                LargeRead::Here
            }
            Some(Err(error)) => {
                let name = body_name(body.file);
                self.counters.lost += 1;
                // Asked again it is damaged still; what could not be read now may be read then.
                if is_damage(&error) {
                    self.larges.note_damage(body.file);
                }
                let line = format!("{name}: cannot be read: {error}");
                self.events.push_back(Event::Damage(line));
                LargeRead::Lost
            }
            None => LargeRead::Cold,
        }
    }

    fn ask_stretch(&mut self, handle: &LargeHandle<S>, offset: u64, octets: u64) {
        let larges = &mut self.larges;
        let file = handle.0.body.file;
        let asked = |s: &Stretch| (s.file, s.offset, s.octets) == (file, offset, octets);
        if larges.stretches.iter().any(asked) {
            return;
        }
        larges.stretches.push_back(Stretch {
            file,
            offset,
            octets,
            read: None,
        });
        self.jobs.push_back(Job::LargeRead {
            handle: handle.clone(),
            offset,
            octets,
        });
    }

    /// The keeper has read a stretch, or could not.
    pub(super) fn stretch_read(
        &mut self,
        handle: &LargeHandle<S>,
        offset: u64,
        octets: u64,
        read: io::Result<Vec<u8>>,
    ) {
        let larges = &mut self.larges;
        let file = handle.0.body.file;
        // A body that is still being written cannot be read to its end yet: ask again.
        let incomplete = match larges.bodies.get(&file) {
            Some(large) => !large.complete,
            None => larges.unfinished.contains_key(&file),
        };
        let asked = |s: &Stretch| (s.file, s.offset, s.octets) == (file, offset, octets);
        let Some(at) = larges.stretches.iter().position(asked) else {
            return;
        };
        if incomplete && read.is_err() {
            larges.stretches.remove(at);
        } else {
            larges.stretches_octets += read.as_ref().map_or(0, Vec::len);
            larges.stretches[at].read = Some(read);
            self.events.push_back(Event::LargeReady { file });
        }
        // What nobody takes any more goes, the oldest first.
        while self.larges.stretches_octets > STRETCHES_OCTETS_MAX {
            let Some(stretch) = self.larges.stretches.pop_front() else {
                break;
            };
            if let Some(Ok(octets)) = stretch.read {
                self.larges.stretches_octets -= octets.len();
            }
            self.events
                .push_back(Event::LargeReady { file: stretch.file });
        }
    }

    /// The keeper has written a part of a body, or could not.
    pub(super) fn large_written(&mut self, write: LargeWrite<S>, result: io::Result<()>) {
        let file = write.handle.0.body.file;
        self.larges.retried -= u32::from(write.is_retried);
        match result {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                self.larges.retry.push(write);
                self.space_result(&Err(error));
                return;
            }
            Err(error) => {
                // Not even a transient body may be served with a hole in it.
                self.fail(StorageError::new("cannot write", &body_name(file), &error));
                return;
            }
        }
        let Some(large) = self.larges.bodies.get_mut(&file) else {
            if let Some(octets) = self.larges.unfinished.get_mut(&file) {
                *octets = octets.saturating_sub(write.octets.len());
                if *octets == 0 {
                    self.larges.unfinished.remove(&file);
                    self.events.push_back(Event::LargeReady { file });
                }
            }
            return;
        };
        large.outstanding -= write.octets.len();
        // An earlier part for which there was no room may come after the last.
        if large.outstanding == 0 && large.handed_over == write.handle.0.body.octets {
            large.complete = true;
            if large.record.is_some_and(|at| !at.is_transient()) {
                self.larges.incomplete_records -= 1;
            }
            self.events.push_back(Event::LargeReady { file });
        } else if large.behind && large.outstanding < BEHIND_OCTETS / 2 {
            large.behind = false;
            self.events.push_back(Event::LargeReady { file });
        }
    }

    /// Drops writes of forgotten bodies that nobody reads any more.
    fn drop_unread_retries(&mut self) {
        let larges = &mut self.larges;
        let mut holders: HashMap<u64, usize> = HashMap::new();
        for write in &larges.retry {
            *holders.entry(write.handle.0.body.file).or_default() += 1;
        }
        let (bodies, unfinished) = (&larges.bodies, &mut larges.unfinished);
        larges.retry.retain(|write| {
            let file = write.handle.0.body.file;
            // Counted before any is dropped: the first that goes takes the others along.
            let is_read = Arc::strong_count(&write.handle.0) > holders[&file];
            if !is_read && !bodies.contains_key(&file) {
                unfinished.remove(&file);
                holders.insert(file, usize::MAX);
                return false;
            }
            true
        });
    }

    /// Tries writes again that found no room.
    pub(super) fn retry_large(&mut self) {
        self.drop_unread_retries();
        for mut write in self.larges.retry.drain(..) {
            write.is_retried = true;
            // The part that was to sync all may be on the disk before this one.
            write.sync |= write.handle.0.named;
            self.larges.retried += 1;
            self.jobs.push_back(Job::LargeWrite(write));
        }
    }

    /// The checksum that stands in the record of a message: that of its body's table.
    pub(super) fn large_crc(&self, message: &Message<'_>) -> u32 {
        let Body::Large(body) = message.body else {
            return 0;
        };
        let large = self.larges.bodies.get(&body.file);
        large.map_or(0, |large| crc32fast::hash(&large.table))
    }

    /// Notes which record names a body and who needs it.
    pub(super) fn large_stored(
        &mut self,
        body: LargeBody,
        at: MessageRef,
        holders: u32,
        entries: &[(QueueId, u64)],
    ) {
        let larges = &mut self.larges;
        let Some(large) = larges.bodies.get_mut(&body.file) else {
            debug_assert!(false, "a body is begun before its message is stored");
            return;
        };
        debug_assert_eq!(large.received, body.octets);
        debug_assert!(at.is_transient() || large.handle.0.named);
        if let Some(before) = large.record.replace(at) {
            debug_assert!(before.is_transient() && large.kept.is_none());
            large.kept = Some(before);
        }
        large.holders += holders;
        large.entries = entries.to_vec();
        larges.by_record.insert(at, body.file);
        if !at.is_transient() {
            larges.incomplete_records += u32::from(!large.complete);
            if let Some(segment) = self.segments.get_mut(at.segment) {
                segment.large += 1;
            }
        }
    }

    /// One entry of the record at `at` is done with; `settled` names it if the log knows it.
    pub(super) fn large_released(&mut self, at: MessageRef, settled: Option<(QueueId, u64)>) {
        let Some(&file) = self.larges.by_record.get(&at) else {
            return;
        };
        let Some(large) = self.larges.bodies.get_mut(&file) else {
            return;
        };
        if large.kept == Some(at) {
            // The place will be another message's.
            large.kept = None;
            self.larges.by_record.remove(&at);
        }
        if let Some(settled) = settled {
            large.entries.retain(|&entry| entry != settled);
        }
        large.holders = large.holders.saturating_sub(1);
        if large.holders == 0 {
            self.forget_large(file);
        }
    }

    /// Entries of `queue` from `first` to `last` in `segment` are done with.
    pub(super) fn large_released_in(&mut self, number: u32, queue: QueueId, first: u64, last: u64) {
        if self
            .segments
            .get(number)
            .is_none_or(|segment| segment.large == 0)
        {
            return;
        }
        let mut released = Vec::new();
        for large in self.larges.bodies.values() {
            if let Some(at) = large.record
                && at.segment == number
            {
                let gone = |&&(id, sequence): &&(QueueId, u64)| {
                    id == queue && (first..=last).contains(&sequence)
                };
                released.extend(large.entries.iter().filter(gone).map(|&entry| (at, entry)));
            }
        }
        released.sort_unstable();
        for (at, entry) in released {
            self.large_released(at, Some(entry));
        }
    }

    fn forget_large(&mut self, file: u64) {
        let Some(large) = self.larges.bodies.remove(&file) else {
            return;
        };
        let is_of_it = |write: &LargeWrite<S>| write.handle.0.body.file == file;
        let retries = self.larges.retry.iter().filter(|it| is_of_it(it)).count();
        if Arc::strong_count(&large.handle.0) == 1 + retries {
            self.larges.retry.retain(|it| !is_of_it(it));
        } else if large.outstanding > 0 {
            self.larges.unfinished.insert(file, large.outstanding);
        }
        if let Some(kept) = large.kept {
            self.larges.by_record.remove(&kept);
        }
        if let Some(at) = large.record {
            self.larges.by_record.remove(&at);
            if !at.is_transient() {
                if !large.complete {
                    self.larges.incomplete_records -= 1;
                }
                if let Some(segment) = self.segments.get_mut(at.segment) {
                    segment.large -= 1;
                }
            }
        }
        if large.handle.0.named {
            // The record may come back as long as its settlement, or that its queue is gone, is
            // not on stable storage; the commit of this turn tells which batch that is.
            let gone = Gone {
                handle: large.handle,
                is_damaged: large.loss.is_some(),
            };
            self.larges.gone.push_back((LATER, gone));
        }
    }

    /// Removes the files of bodies whose settlement is on stable storage.
    pub(super) fn remove_large(&mut self) {
        let mut bodies = Vec::new();
        let open = self.newest_batch();
        for (batch, _) in self.larges.gone.iter_mut().rev() {
            if *batch != LATER {
                break;
            }
            *batch = open;
        }
        while let Some((batch, _)) = self.larges.gone.front()
            && *batch <= self.flushed()
            && let Some((_, body)) = self.larges.gone.pop_front()
        {
            bodies.push(body);
        }
        if !bodies.is_empty() {
            self.jobs.push_back(Job::RemoveBodies { bodies });
        }
    }
}

//! Who needs a body: the records that name it and their entries. Its file goes with the last of them.

use super::file::Gone;
use super::writing::LargeWrite;
use crate::broker::Batch;
use crate::broker::record::QueueId;
use crate::message::{Body, LargeBody, Message, MessageRef};
use crate::storage::files::Storage;
use crate::storage::jobs::Job;
use crate::storage::store::Store;

/// A batch that is not known yet.
const LATER: Batch = Batch(u64::MAX);

impl<S: Storage> Store<S> {
    /// The checksum that stands in the record of a message: that of its body's table.
    pub(in crate::storage) fn large_crc(&self, message: &Message<'_>) -> u32 {
        let Body::Large(body) = message.body else {
            return 0;
        };
        let large = self.larges.bodies.get(&body.file);
        large.map_or(0, |large| crc32fast::hash(&large.table))
    }

    /// Notes which record names a body and who needs it.
    pub(in crate::storage) fn large_stored(
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
        debug_assert!(at.is_transient() || large.handle.is_named());
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
    pub(in crate::storage) fn large_released(
        &mut self,
        at: MessageRef,
        settled: Option<(QueueId, u64)>,
    ) {
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
    pub(in crate::storage) fn large_released_in(
        &mut self,
        number: u32,
        queue: QueueId,
        first: u64,
        last: u64,
    ) {
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

    /// Nobody needs the body any more.
    pub(super) fn forget_large(&mut self, file: u64) {
        let Some(large) = self.larges.bodies.remove(&file) else {
            return;
        };
        let is_of_it = |write: &LargeWrite<S>| write.handle.body().file == file;
        let retries = self.larges.retry.iter().filter(|it| is_of_it(it)).count();
        if large.handle.holders() == 1 + retries {
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
        if large.handle.is_named() {
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
    pub(in crate::storage) fn remove_large(&mut self) {
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

//! What the router has remembered: messages, groups, permissions and definitions.

use super::arena::Spill;
use super::files::Storage;
use super::jobs::Job;
use super::record_codec::{self as codec, RecordKind};
use super::store::Store;
use crate::broker::record::QueueId;
use crate::broker::sink::Stored;
use crate::clock::Now;
use crate::message::{Body, Entry, Message, MessageRef};

impl<S: Storage> Store<S> {
    /// Appends a durable message.
    ///
    /// * `to`: the durable queues that get it, each with the sequence it has there. The sequences of
    ///   a queue ascend from call to call; those left out were never logged.
    /// * `holders`: how many entries will name the record, at least one for each of `to`; entries
    ///   of other queues are later given back by [`Store::release`].
    #[inline]
    pub fn append(
        &mut self,
        now: Now,
        message: &Message<'_>,
        to: &[(QueueId, u64)],
        holders: u32,
    ) -> Stored {
        debug_assert!(!to.is_empty() && holders as usize >= to.len());
        let record_octets = codec::record_octets(codec::message_octets(message, to.len()));
        let (number, seed, offset) = self.make_room(now, record_octets);
        let large_crc = self.large_crc(message);
        let lsn = self.take_lsn();
        let more = self.group.is_some();
        let octets = &mut self.tail.current.octets;
        let start = codec::begin(octets);
        let kind = codec::encode_message(octets, now.wall_ms, message, to, large_crc);
        codec::finish(octets, start, lsn, kind, more, seed);
        for &(queue, sequence) in to {
            self.ledgers.entry(queue).append(sequence, number);
        }
        let at = MessageRef {
            segment: number,
            place: (offset / 8) as u32,
        };
        let share_octets = record_octets as u32 / holders;
        // What the entries will give back, after the rounding of their size class.
        let share = u64::from(Entry::new(at, 0, share_octets, 0).share_octets());
        let entries = u64::from(holders);
        if let Some(segment) = self.segments.hold(number, entries, share * entries) {
            segment.last_lsn = lsn;
            segment.used = offset + record_octets as u64;
            if holders as usize > to.len() {
                segment.unlogged.push((at.place, holders - to.len() as u32));
            }
        }
        if let Body::Large(body) = message.body {
            self.large_stored(body, at, holders, to);
        }
        self.counters.appended += 1;
        Stored { at, share_octets }
    }

    /// Keeps a transient message for `holders` entries, each given back by [`Store::release`].
    #[inline]
    pub fn keep(&mut self, now: Now, message: &Message<'_>, holders: u32) -> Stored {
        debug_assert!(holders > 0);
        let (at, record_octets, spill) = self.arena.keep(now.wall_ms, message, holders);
        if let Some(spill) = spill {
            self.spill(spill);
        }
        if let Body::Large(body) = message.body {
            self.large_stored(body, at, holders, &[]);
        }
        self.counters.kept += 1;
        Stored {
            at,
            share_octets: record_octets / holders,
        }
    }

    /// What follows until [`Store::group_end`] is remembered whole or not at all: messages and
    /// settlements of a transaction, or of a dead-letter move.
    pub fn group_begin(&mut self) {
        debug_assert!(self.group.is_none(), "groups do not nest");
        self.write_settlements();
        self.group = Some(self.next_lsn);
    }

    /// See [`Store::group_begin`].
    pub fn group_end(&mut self) {
        if let Some(first_lsn) = self.group.take()
            && (self.next_lsn > first_lsn || !self.settlements.is_empty())
        {
            // The record that ends the group is a settlement, of nothing if need be.
            self.append_settlements();
        }
    }

    /// Allows `queue` to deliver up to and including `up_to`. Deliveries beyond wait until the batch
    /// of this call is flushed; after a crash everything up to here comes back `redelivered`.
    pub fn permit(&mut self, queue: QueueId, up_to: u64) {
        let ledger = self.ledgers.entry(queue);
        if ledger.permission >= up_to {
            return;
        }
        ledger.permission = up_to;
        self.append_record(RecordKind::Permission, |octets| {
            codec::encode_permission(octets, queue, up_to);
        });
    }

    /// Opens the account of a new durable queue.
    pub fn queue_created(&mut self, queue: QueueId) {
        self.ledgers.entry(queue);
    }

    /// Remembers a group of definitions, whole or not at all: pairs of a key and its value, `None`
    /// to forget the key. On stable storage before any record of the same batch.
    pub fn define(&mut self, pairs: &[(&[u8], Option<&[u8]>)]) {
        self.definitions.append(pairs);
        self.note_batch();
    }

    pub(super) fn spill(&mut self, spill: Spill<S>) {
        self.jobs.push_back(Job::Spill {
            block: spill.block,
            octets: spill.octets,
            slot: spill.slot,
            seed: self.spill_seed,
        });
    }
}

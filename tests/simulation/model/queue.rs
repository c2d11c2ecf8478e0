//! Queues of the model, their messages, and what is known of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{ConnectionKey, Mode, Model, Outstanding};
use crate::topology::Uid;

/// Where a message of a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    /// With a client: connection, channel, delivery tag.
    Unacked(ConnectionKey, u16, u64),
}

/// One message in one queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: u64,
    /// It goes to the log: persistent, in a durable queue.
    pub(crate) logged: bool,
    pub(crate) place: Place,
    /// Whether it survived the last restart is not known.
    pub(crate) maybe: bool,
    /// It was promised to be on the disk and was not settled.
    pub(crate) required: bool,
    /// Octets of it were hit on the disk.
    pub(super) hit: Option<Hit>,
    /// What said that it may have been delivered was hit on the disk.
    pub(super) is_flag_lost: bool,
    /// Some client may have seen it.
    pub(crate) seen: bool,
    /// It was delivered since the last restart and came back.
    pub(crate) returned: bool,
    /// The call of the engine in which it came back last.
    pub(super) returned_in: u64,
    /// It lies in the queue since before the last restart.
    pub(super) is_old: bool,
    /// No consumer could have seen it before the last restart.
    pub(crate) was_hidden: bool,
    /// It was settled before the last restart, perhaps not on the disk.
    pub(super) was_settled: bool,
    /// The turn in which it came.
    pub(crate) turn: u64,
}

impl Entry {
    /// It must be there.
    fn is_sure(&self) -> bool {
        self.hit.is_none() && self.required || !self.maybe
    }

    /// The message, which was settled, as it lies in its queue when that was not kept.
    pub(super) fn come_back(self) -> Entry {
        Entry {
            maybe: true,
            required: false,
            was_settled: true,
            place: Place::Ready,
            returned: false,
            is_old: true,
            ..self
        }
    }
}

/// What of a message was hit on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Its record: nobody can read any of it.
    Record,
    /// Its body in a file of its own, which shows when it is read.
    Body,
}

/// A message that was settled, but perhaps not on the disk.
#[derive(Clone, Debug)]
pub(super) struct Ghost {
    pub(super) entry: Entry,
    pub(super) turn: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(super) exclusive_to: Option<ConnectionKey>,
    pub(super) auto_delete: bool,
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// Sequence by message.
    pub(super) by_message: HashMap<u64, u64>,
    pub(super) next_sequence: u64,
    /// A consumer or a get was there once.
    pub(super) ever_read: bool,
    pub(crate) consumers: BTreeSet<(ConnectionKey, u16, String)>,
    pub(super) has_exclusive_consumer: bool,
    pub(super) ghosts: BTreeMap<u64, Ghost>,
    /// Messages that were settled, and surely on the disk, with their sequence.
    pub(super) gone: BTreeMap<u64, (u64, Entry)>,
    /// Of these the ones whose settlement was hit on the disk: they may come back.
    pub(super) unsettled: BTreeSet<u64>,
    /// Its name in the log, as the engine has it.
    pub(crate) log_id: Option<u32>,
    /// Deleted, but perhaps not on the disk.
    pub(crate) dead: bool,
    /// Greatest sequence delivered in this call.
    pub(super) delivered_in_call: Option<u64>,
}

impl Model {
    pub(super) fn give_back(&mut self, outstanding: &Outstanding) {
        let call = self.call;
        if let Some(queue) = self.queues.get_mut(&outstanding.queue)
            && !queue.dead
            && let Some(entry) = queue.entries.get_mut(&outstanding.sequence)
        {
            entry.place = Place::Ready;
            entry.returned = true;
            entry.returned_in = call;
        }
    }

    /// A message is done with.
    pub(super) fn settle(&mut self, uid: Uid, sequence: u64) {
        let turn = self.turn;
        let Some(queue) = self.queues.get_mut(&uid) else {
            return;
        };
        if queue.dead {
            return;
        }
        let Some(entry) = queue.entries.remove(&sequence) else {
            return;
        };
        queue.by_message.remove(&entry.message);
        if entry.logged {
            queue.ghosts.insert(sequence, Ghost { entry, turn });
        } else {
            queue.gone.insert(entry.message, (sequence, entry));
        }
    }

    pub(super) fn remove_queue(&mut self, uid: Uid) {
        let Some(queue) = self.queues.get_mut(&uid) else {
            return;
        };
        let name = queue.name.clone();
        queue.dead = true;
        let consumers = std::mem::take(&mut queue.consumers);
        let is_durable = queue.durable;
        self.topology.remove_queue(&name);
        for (key, number, tag) in consumers {
            let channel = self.channel(key, number);
            channel.consumers.remove(&tag);
            channel.cancelled.insert(tag.clone());
            for outstanding in channel.outstanding.values_mut() {
                if outstanding.consumer.as_ref() == Some(&tag) {
                    outstanding.consumer = None;
                }
            }
        }
        if !is_durable {
            self.queues.remove(&uid);
        }
    }

    /// Ready messages of a queue: those that are surely there, and all.
    pub(crate) fn ready(&self, uid: Uid) -> (u64, u64) {
        let ready = || {
            self.queues[&uid]
                .entries
                .values()
                .filter(|it| it.place == Place::Ready)
        };
        let all = ready().count() as u64;
        (ready().filter(|it| !it.maybe).count() as u64, all)
    }

    /// Messages of a queue with clients.
    pub(crate) fn unacked(&self, uid: Uid) -> u64 {
        self.queues[&uid]
            .entries
            .values()
            .filter(|it| it.place != Place::Ready)
            .count() as u64
    }

    /// Messages that a queue must hold at least, and can hold at most.
    pub(crate) fn bounds(&self, uid: Uid) -> (u64, u64) {
        let entries = &self.queues[&uid].entries;
        let sure = entries.values().filter(|it| it.is_sure()).count();
        (sure as u64, entries.len() as u64)
    }

    /// Numbers of the messages that a queue must hold.
    pub(crate) fn sure(&self, uid: Uid) -> Vec<u64> {
        let entries = self.queues[&uid].entries.values();
        let sure = entries.filter(|it| it.is_sure());
        sure.map(|it| it.message).collect()
    }

    /// Messages with bodies of so many octets or more that some queue or transaction may hold.
    pub(crate) fn large_bodies(&self, octets_min: u64) -> usize {
        let held = self.queues.values().flat_map(|it| it.entries.values());
        let messages: BTreeSet<u64> = held.map(|it| it.message).collect();
        let channels = self.connections.values().flat_map(|it| &it.channels);
        let waiting = channels.filter_map(|(_, it)| match &it.mode {
            Mode::Tx(transaction) => Some(transaction.publishes.iter().map(|it| it.id)),
            _ => None,
        });
        let all: BTreeSet<u64> = messages.into_iter().chain(waiting.flatten()).collect();
        let is_large = |id: &&u64| self.publications[*id].body_octets as u64 >= octets_min;
        all.iter().filter(is_large).count()
    }

    /// Whether it is not known of some message of the queue whether it is there.
    pub(crate) fn is_vague(&self, uid: Uid) -> bool {
        self.queues[&uid].entries.values().any(|it| it.maybe)
    }
}

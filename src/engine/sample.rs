//! Rates: every few seconds the totals of all objects are looked at, some a turn, and what grew is
//! put beside them. Messages cost nothing here; a server without clients is left asleep.

use super::Engine;
use crate::broker::meter::Meter;
use crate::broker::queue::QueueCounters;
use crate::clock::{Deadline, Now};
use crate::storage::Storage;

/// From one look to the next, in microseconds; RabbitMQ's own interval.
const INTERVAL_US: u64 = 5_000_000;

/// Objects that are looked at in one turn.
const OBJECTS_PER_TURN: usize = 1024;

/// With as many queues or fewer, sums over all of them are taken when they are asked for.
pub(super) const LIVE_QUEUES_MAX: usize = 1024;

/// Messages of a number of queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) ready: u64,
    pub(super) unacknowledged: u64,
}

/// What the last look at all objects found, and when the next is due.
#[derive(Debug)]
pub(super) struct Sampler {
    due: Option<Deadline>,
    /// When the last look began.
    since: Now,
    walk: Option<Walk>,
    /// Sums over all queues there were at the last look.
    pub(super) counters: QueueCounters,
    /// The same of their messages, by index of the virtual host.
    pub(super) depths: Vec<Depth>,
    /// See [`Engine::message_totals`].
    pub(super) messages: Meter<11>,
    /// See [`Engine::churn_totals`].
    pub(super) churn: Meter<7>,
}

/// A look at all objects that is under way.
#[derive(Debug)]
struct Walk {
    began: Now,
    table: Table,
    slot: usize,
    has_moved: bool,
    counters: QueueCounters,
    depths: Vec<Depth>,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Peers,
    Channels,
    Exchanges,
    Queues,
}

impl Sampler {
    pub(super) fn new(now: Now) -> Self {
        Sampler {
            due: None,
            since: now,
            walk: None,
            counters: QueueCounters::default(),
            depths: Vec::new(),
            messages: Meter::start(now, [0; 11]),
            churn: Meter::start(now, [0; 7]),
        }
    }

    /// Something is about to happen: the next look is planned unless it is already.
    pub(super) fn arm(&mut self, now: Now) {
        if self.due.is_none() && self.walk.is_none() {
            self.since = now;
            self.due = Some(now.after_us(INTERVAL_US));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Deadline> {
        self.due
    }
}

impl<S: Storage> Engine<S> {
    /// Looks at some of the objects when that is due; says whether there are more to look at.
    pub(super) fn sample(&mut self, now: Now) -> bool {
        if self.sampler.due.is_some_and(|due| due.is_due(now)) {
            self.sampler.due = None;
            self.sampler.walk = Some(Walk {
                began: now,
                table: Table::Peers,
                slot: 0,
                has_moved: false,
                counters: QueueCounters::default(),
                depths: Vec::new(),
            });
        }
        let Some(mut walk) = self.sampler.walk.take() else {
            return false;
        };
        for _ in 0..OBJECTS_PER_TURN {
            if !self.sample_next(now, &mut walk) {
                self.end_walk(now, walk);
                return false;
            }
        }
        self.sampler.walk = Some(walk);
        true
    }

    /// Looks at the next object; `false` when there is none.
    fn sample_next(&mut self, now: Now, walk: &mut Walk) -> bool {
        let slots = match walk.table {
            Table::Peers => self.peers.capacity(),
            Table::Channels => self.broker.channels().capacity(),
            Table::Exchanges => self.broker.exchanges().capacity(),
            Table::Queues => self.broker.queues().capacity(),
        };
        let slot = walk.slot;
        if slot >= slots {
            walk.slot = 0;
            walk.table = match walk.table {
                Table::Peers => Table::Channels,
                Table::Channels => Table::Exchanges,
                Table::Exchanges => Table::Queues,
                Table::Queues => return false,
            };
            return true;
        }
        walk.slot += 1;
        let since = self.sampler.since;
        walk.has_moved |= match walk.table {
            Table::Peers => self.sample_peer(now, since, slot),
            Table::Channels => {
                self.broker.sample_channel(slot);
                false
            }
            Table::Exchanges => self.broker.sample_exchange(now, since, slot),
            Table::Queues => {
                if let Some(queue) = self.broker.queues().get(slot) {
                    walk.counters.add(&queue.counters);
                    gather(&mut walk.depths, queue);
                }
                self.broker.sample_queue(now, since, slot)
            }
        };
        true
    }

    fn sample_peer(&mut self, now: Now, since: Now, slot: usize) -> bool {
        match (self.peers.get_mut(slot), self.plant.outboxes.get(slot)) {
            (Some(peer), Some(outbox)) => {
                let totals = [peer.octets_in, outbox.octets_out];
                peer.meter.sample(now, since, totals)
            }
            _ => false,
        }
    }

    fn end_walk(&mut self, now: Now, mut walk: Walk) {
        walk.counters.add(&self.broker.counters.gone);
        (self.sampler.counters, self.sampler.depths) = (walk.counters, walk.depths);
        let (messages, churn) = (self.message_totals(), self.churn_totals());
        let since = self.sampler.since;
        walk.has_moved |= self.sampler.messages.sample(now, since, messages);
        walk.has_moved |= self.sampler.churn.sample(now, since, churn);
        self.sampler.since = walk.began;
        if walk.has_moved || !self.peers.is_empty() {
            self.sampler.due = Some(walk.began.after_us(INTERVAL_US));
        }
    }

    // ---- sums ----

    /// What happened to messages since the start: publish, confirm, return, drop, deliver,
    /// deliver without ack, get, get without ack, get empty, redeliver, ack.
    pub(super) fn message_totals(&self) -> [u64; 11] {
        let own = &self.broker.counters;
        let queues = if self.has_few_queues() {
            let mut sum = own.gone;
            for (_, queue) in self.broker.queues() {
                sum.add(&queue.counters);
            }
            sum
        } else {
            self.sampler.counters
        };
        [
            own.published,
            own.confirmed,
            own.returned,
            own.dropped_unroutable,
            queues.delivered,
            queues.delivered_no_ack,
            queues.got,
            queues.got_no_ack,
            queues.get_empty,
            queues.redelivered,
            queues.acknowledged,
        ]
    }

    /// What came and went since the start: connections created, closed; channels created, closed;
    /// queues declared, created, deleted.
    pub(super) fn churn_totals(&self) -> [u64; 7] {
        let own = &self.broker.counters;
        [
            self.peers_accepted,
            self.peers_dropped,
            own.channels_opened,
            own.channels_closed,
            own.queues_declared,
            own.queues_created,
            own.queues_deleted,
        ]
    }

    /// Messages of all queues, by index of the virtual host.
    pub(super) fn depths(&self) -> Vec<Depth> {
        if !self.has_few_queues() {
            return self.sampler.depths.clone();
        }
        let mut depths = Vec::new();
        for (_, queue) in self.broker.queues() {
            gather(&mut depths, queue);
        }
        depths
    }

    fn has_few_queues(&self) -> bool {
        self.broker.queues().len() <= LIVE_QUEUES_MAX
    }
}

fn gather(depths: &mut Vec<Depth>, queue: &crate::broker::queue::Queue) {
    let vhost = queue.vhost as usize;
    if depths.len() <= vhost {
        depths.resize(vhost + 1, Depth::default());
    }
    depths[vhost].ready += queue.message_count();
    depths[vhost].unacknowledged += queue.unacked;
}

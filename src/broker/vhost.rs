//! Virtual hosts: separate name spaces of exchanges and queues.

use std::hash::BuildHasher as _;

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::exchange::{ExchangeKey, ExchangeProperties, ExchangeType};
use super::queue::Queue;
use super::record::Pairs;
use super::sink::Sink;
use super::slices::Slice;
use super::topology::remember;
use super::{Batch, Broker};

type Names<K> = HashMap<Box<[u8]>, K, foldhash::fast::FixedState>;

/// Slots of queues, by a hash of their names.
#[derive(Debug, Default)]
pub(super) struct QueueNames {
    slots: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
}

impl QueueNames {
    /// The slot of the queue `name`.
    #[inline]
    pub(super) fn find(&self, name: &[u8], queues: &Slab<Queue>) -> Option<u32> {
        let same = |&slot: &u32| *queues[slot as usize].name == *name;
        self.slots.find(self.hasher.hash_one(name), same).copied()
    }

    /// Adds a queue that is among `queues` already.
    pub(super) fn insert(&mut self, slot: u32, queues: &Slab<Queue>) {
        let hasher = &self.hasher;
        let hash = |&slot: &u32| hasher.hash_one(&*queues[slot as usize].name);
        self.slots.insert_unique(hash(&slot), slot, hash);
    }

    /// Takes out the queue `name`, which had `slot`.
    pub(super) fn remove(&mut self, name: &[u8], slot: u32) {
        let hash = self.hasher.hash_one(name);
        if let Ok(found) = self.slots.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
    }
}

/// A virtual host.
#[derive(Debug)]
pub struct Vhost {
    /// Its name.
    pub name: Box<str>,
    /// What it is for.
    pub about: About,
    /// Its exchanges by name; the default exchange has the empty one.
    pub exchanges: Names<ExchangeKey>,
    /// Its queues, found by the names that they have themselves.
    pub(super) queues: QueueNames,
}

/// What people and clients are told of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Type of queues that are declared without one.
    pub default_queue_type: Option<String>,
}

/// How far the removal of a virtual host has come.
#[derive(Debug)]
pub(super) struct VhostRemoval {
    index: u32,
    next_queue: usize,
    next_exchange: usize,
    /// What is remembered at the end; taken then.
    pairs: Option<Pairs>,
}

impl VhostRemoval {
    pub(super) fn is_done(&self) -> bool {
        self.pairs.is_none()
    }
}

/// The exchanges that every virtual host has (spec 3.1.3, RabbitMQ's `amq.match` and
/// `amq.rabbitmq.trace`): name, type, internal.
const PREDECLARED: [(&[u8], ExchangeType, bool); 7] = [
    (b"", ExchangeType::Direct, false),
    (b"amq.direct", ExchangeType::Direct, false),
    (b"amq.fanout", ExchangeType::Fanout, false),
    (b"amq.headers", ExchangeType::Headers, false),
    (b"amq.match", ExchangeType::Headers, false),
    (b"amq.rabbitmq.trace", ExchangeType::Topic, true),
    (b"amq.topic", ExchangeType::Topic, false),
];

impl Broker {
    /// Index of the virtual host of that name; of none that is being removed.
    pub fn vhost_named(&self, name: &str) -> Option<u32> {
        self.vhosts_by_name.get(name).copied()
    }

    /// A virtual host with its predeclared exchanges; the one that is there already, if any.
    pub fn add_vhost(&mut self, name: &str) -> u32 {
        if let Some(index) = self.vhost_named(name) {
            return index;
        }
        let (exchanges, queues) = (Names::default(), QueueNames::default());
        let index = self.vhosts.insert(Vhost {
            name: name.into(),
            about: About::default(),
            exchanges,
            queues,
        }) as u32;
        self.vhosts_by_name.insert(name.into(), index);
        for (name, exchange_type, internal) in PREDECLARED {
            let properties = ExchangeProperties {
                exchange_type,
                durable: true,
                auto_delete: false,
                internal,
                arguments: Box::default(),
            };
            self.add_exchange(index, name, properties);
        }
        index
    }

    /// Says what a virtual host is for.
    pub fn describe_vhost(&mut self, index: u32, about: About) {
        self.vhosts[index as usize].about = about;
    }

    /// Begins to remove a virtual host with all that is in it; [`Broker::work`] goes on with it,
    /// and [`Broker::take_vhosts_removed`] tells the end. It cannot be found by its name from now
    /// on. The caller has closed its connections.
    ///
    /// * `pairs`: what else is to be remembered or forgotten together with it, at the end: a crash
    ///   in between leaves an emptier virtual host, but a whole one.
    pub fn remove_vhost(&mut self, index: u32, pairs: Pairs) {
        let name = &self.vhosts[index as usize].name;
        self.vhosts_by_name.remove(name);
        self.vhosts_going.push(name.clone());
        self.topology_changed();
        self.slices
            .push_back(Slice::RemoveVhost(Box::new(VhostRemoval {
                index,
                next_queue: 0,
                next_exchange: 0,
                pairs: Some(pairs),
            })));
    }

    /// Whether a virtual host of that name is being removed; none can be made meanwhile.
    pub fn is_vhost_going(&self, name: &str) -> bool {
        self.vhosts_going.iter().any(|going| &**going == name)
    }

    /// Virtual hosts that are gone now, by what their index was, and the batch that says so.
    pub fn take_vhosts_removed(&mut self) -> Vec<(u32, Batch)> {
        std::mem::take(&mut self.vhosts_removed)
    }

    /// Removes some of what is in a virtual host; says how much of the budget that took.
    pub(super) fn remove_some<S: Sink>(
        &mut self,
        removal: &mut VhostRemoval,
        sink: &mut S,
        budget: usize,
    ) -> usize {
        /// What removing a thing costs beside looking at a slot.
        const REMOVAL_COST: usize = 16;
        let index = removal.index;
        let mut pairs = Pairs::default();
        let mut spent = 0;
        while spent < budget && removal.next_queue < self.queues.capacity() {
            let slot = removal.next_queue;
            removal.next_queue += 1;
            spent += 1;
            if self.queues.get(slot).is_some_and(|it| it.vhost == index) {
                self.remove_queue(self.queue_key_at(slot as u32), &mut pairs, sink);
                spent += REMOVAL_COST;
            }
        }
        while spent < budget && removal.next_exchange < self.exchanges.capacity() {
            let slot = removal.next_exchange;
            removal.next_exchange += 1;
            spent += 1;
            if let Some(exchange) = self.exchanges.get(slot).filter(|it| it.vhost == index) {
                let generation = exchange.generation;
                let slot = slot as u32;
                self.remove_exchange(ExchangeKey { slot, generation }, &mut pairs);
                spent += REMOVAL_COST;
            }
        }
        remember(&pairs, sink);
        if spent < budget
            && !self.has_going(index)
            && let Some(last) = removal.pairs.take()
        {
            let vhost = self.vhosts.remove(index as usize);
            self.vhosts_going.retain(|going| *going != vhost.name);
            remember(&last, sink);
            self.vhosts_removed.push((index, sink.batch()));
        }
        spent.min(budget)
    }

    /// All virtual hosts with their indices.
    pub fn vhosts(&self) -> impl Iterator<Item = (u32, &Vhost)> {
        self.vhosts
            .iter()
            .map(|(index, vhost)| (index as u32, vhost))
    }
}
